//! Sockets that are open already when the service starts: systemd hands them over
//! (sd_listen_fds(3)).
//!
//! They stay open while the service is away, so that an MTA which connects meanwhile waits instead
//! of deferring. Each is the one that a `listen` setting names; one that no setting names is a
//! mistake, for mail sent there would wait for ever.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;

use crate::hook::{ListenAddress, Listener};

/// What was handed over and not taken yet.
#[derive(Debug, Default)]
pub(super) struct Handed {
    tcp: Vec<(SocketAddr, TcpListener)>,
    unix: Vec<(PathBuf, UnixListener)>,
}

/// What cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum HandedError {
    /// Neither a TCP nor a Unix socket that somebody can connect to.
    #[error(
        "descriptor {number} that systemd hands over is no socket to listen on ({cause}); copyist.socket takes lines like \
         ListenStream=127.0.0.1:8725, with Accept=no"
    )]
    Kind {
        /// Its number, from 3 on.
        number: usize,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It was not asked for.
    #[error(
        "systemd hands over a socket on {address}, which no listen setting names: take it out of copyist.socket, or set \
         hook.milter.listen (or listen of [[hook.smtp]], or admin.listen) to it"
    )]
    Unasked {
        /// Its address, or its path.
        address: String,
    },
}

impl Handed {
    /// What this process was started with. A second call finds nothing.
    pub(super) fn take() -> Result<Handed, HandedError> {
        let mut given = ListenFd::from_env();
        let mut handed = Handed::default();
        for place in 0..given.len() {
            let number = place + 3;
            // Which kind it is, is known by which of these succeeds.
            if let Ok(Some(tcp)) = given.take_tcp_listener(place) {
                let address = tcp.local_addr();
                let address = address.map_err(|cause| HandedError::Kind { number, cause })?;
                handed.tcp.push((address, tcp));
                continue;
            }
            let unix = given.take_unix_listener(place);
            if let Some(unix) = unix.map_err(|cause| HandedError::Kind { number, cause })? {
                let address = unix.local_addr();
                let address = address.map_err(|cause| HandedError::Kind { number, cause })?;
                let path = address.as_pathname().map(Path::to_owned);
                handed.unix.push((path.unwrap_or_default(), unix));
            }
        }
        Ok(handed)
    }

    /// The one on this address, if it is among them.
    pub(super) fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let place = self.tcp.iter().position(|(its, _)| *its == address)?;
        Some(self.tcp.swap_remove(place).1)
    }

    /// The one that a milter listener is for, if it is among them.
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

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), HandedError> {
        let tcp = self.tcp.iter().map(|(address, _)| address.to_string());
        let unix = self.unix.iter().map(|(path, _)| path.display().to_string());
        match tcp.chain(unix).next() {
            Some(address) => Err(HandedError::Unasked { address }),
            None => Ok(()),
        }
    }
}
