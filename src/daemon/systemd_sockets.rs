//! Socket activation: sockets that systemd passes at the start (sd_listen_fds(3)). They stay open
//! while the service is down, so that an MTA that connects meanwhile waits instead of deferring.
//! Each must match a `listen` setting: a client of any other socket would wait for ever.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;

use crate::hook::{ListenAddress, Listener};

/// Sockets from systemd that are not used yet.
#[derive(Debug, Default)]
pub(super) struct SystemdSockets {
    tcp: Vec<(SocketAddr, TcpListener)>,
    unix: Vec<(PathBuf, UnixListener)>,
}

/// Error in the sockets from systemd.
#[derive(Debug, thiserror::Error)]
pub enum SystemdSocketError {
    /// Not a listening TCP or Unix socket.
    #[error(
        "file descriptor {number} from systemd is not a listening socket ({cause}); use ListenStream=, for example ListenStream=127.0.0.1:8725, and Accept=no in copyist.socket"
    )]
    Kind {
        /// Its number, from 3 on.
        number: usize,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// No setting names it.
    #[error(
        "systemd passed a socket on {address}, which is in no listen setting; remove it from copyist.socket, or add it to hook.milter.listen, [[hook.smtp]] listen or admin.listen"
    )]
    Unasked {
        /// Its address, or its path.
        address: String,
    },
}

impl SystemdSockets {
    /// Takes the sockets this process was started with. A second call finds none.
    pub(super) fn take() -> Result<SystemdSockets, SystemdSocketError> {
        let mut given = ListenFd::from_env();
        let mut handed = SystemdSockets::default();
        for place in 0..given.len() {
            let number = place + 3;
            // Which kind it is, is known by which of these succeeds.
            if let Ok(Some(tcp)) = given.take_tcp_listener(place) {
                let address = tcp.local_addr();
                let address =
                    address.map_err(|cause| SystemdSocketError::Kind { number, cause })?;
                handed.tcp.push((address, tcp));
                continue;
            }
            let unix = given.take_unix_listener(place);
            if let Some(unix) = unix.map_err(|cause| SystemdSocketError::Kind { number, cause })? {
                let address = unix.local_addr();
                let address =
                    address.map_err(|cause| SystemdSocketError::Kind { number, cause })?;
                let path = address.as_pathname().map(Path::to_owned);
                handed.unix.push((path.unwrap_or_default(), unix));
            }
        }
        Ok(handed)
    }

    /// Takes the TCP socket with this address, if there is one.
    pub(super) fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let place = self.tcp.iter().position(|(its, _)| *its == address)?;
        Some(self.tcp.swap_remove(place).1)
    }

    /// Takes the socket of a milter listener, if there is one.
    pub(super) fn milter(&mut self, listen: &ListenAddress) -> io::Result<Option<Listener>> {
        match listen {
            ListenAddress::Inet(address) => self
                .tcp(*address)
                .map(Listener::from_systemd_tcp)
                .transpose(),
            ListenAddress::Unix(path) => {
                let place = self.unix.iter().position(|(its, _)| its == path);
                place
                    .map(|place| Listener::from_systemd_unix(self.unix.swap_remove(place).1))
                    .transpose()
            }
        }
    }

    /// Fails if a socket is left over.
    pub(super) fn finish(self) -> Result<(), SystemdSocketError> {
        let tcp = self.tcp.iter().map(|(address, _)| address.to_string());
        let unix = self.unix.iter().map(|(path, _)| path.display().to_string());
        match tcp.chain(unix).next() {
            Some(address) => Err(SystemdSocketError::Unasked { address }),
            None => Ok(()),
        }
    }
}
