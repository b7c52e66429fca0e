//! TCP and Unix sockets that hooks accept connections on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::ListenAddress;
use super::client_networks::ConnectedPeer;

/// Permissions of a Unix socket. A process that may write to it may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixSocketSettings {
    /// Permission bits.
    pub mode: u32,
    /// Group, if not that of the service.
    pub group: Option<u32>,
}

impl Default for UnixSocketSettings {
    /// Mode 0660: the MTA must be in the socket's group.
    fn default() -> UnixSocketSettings {
        UnixSocketSettings {
            mode: 0o660,
            group: None,
        }
    }
}

/// A bound listener. A Unix socket file that it created is removed when it is dropped.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener, Option<SocketFile>),
}

/// The file of a Unix socket that this process created.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Failure to bind a listener.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}: {cause}{}", bind_remedy(&.listen.to_string(), cause))]
pub struct BindError {
    /// The address.
    pub listen: ListenAddress,
    /// The system's error.
    #[source]
    pub cause: io::Error,
}

/// Returns advice on an error of bind(2), as the end of a sentence about this address; empty if
/// there is none.
pub fn bind_remedy(address: &str, cause: &io::Error) -> String {
    if cause.get_ref().is_some() {
        // An error of Copyist's own, which has its advice in it.
        return String::new();
    }
    let port = address.rsplit_once(':').map_or("", |(_, port)| port);
    let place = Path::new(address.trim_start_matches("unix:"));
    let dir = place.parent().unwrap_or(place).display();
    match cause.kind() {
        // Only root sees the processes of other users.
        io::ErrorKind::AddrInUse if !port.starts_with('/') => {
            format!("; find the process that listens there, as root: ss -ltnp 'sport = :{port}'")
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address".into(),
        io::ErrorKind::PermissionDenied if port.parse().is_ok_and(|port: u16| port < 1024) => {
            "; for a port below 1024, set AmbientCapabilities=CAP_NET_BIND_SERVICE and CapabilityBoundingSet=CAP_NET_BIND_SERVICE in the unit, without PrivateUsers=, or use a higher port"
                .into()
        }
        io::ErrorKind::PermissionDenied if port.starts_with('/') => {
            format!("; the service's user must be able to write to {dir}")
        }
        io::ErrorKind::ReadOnlyFilesystem => format!("; set ReadWritePaths={dir} in the unit"),
        io::ErrorKind::NotFound => format!("; create the directory {dir}"),
        _ => String::new(),
    }
}

impl Listener {
    /// Binds a listener.
    pub async fn bind(
        listen: &ListenAddress,
        socket: UnixSocketSettings,
    ) -> Result<Listener, BindError> {
        let bound = match listen {
            ListenAddress::Inet(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            ListenAddress::Unix(path) => bind_unix(path, socket).await,
        };
        bound.map_err(|cause| BindError {
            listen: listen.clone(),
            cause,
        })
    }

    /// Wraps a TCP socket that systemd opened.
    pub fn from_systemd_tcp(open: std::net::TcpListener) -> io::Result<Listener> {
        open.set_nonblocking(true)?;
        TcpListener::from_std(open).map(Listener::Tcp)
    }

    /// Wraps a Unix socket that systemd opened. Its file, mode and group are set by the socket
    /// unit.
    pub fn from_systemd_unix(open: std::os::unix::net::UnixListener) -> io::Result<Listener> {
        open.set_nonblocking(true)?;
        let listener = UnixListener::from_std(open)?;
        Ok(Listener::Unix(listener, None))
    }

    /// Returns the TCP address it listens on; differs from the setting if that has port 0.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, ConnectedPeer)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                // Replies are small, and the peer waits for each.
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), ConnectedPeer::Ip(from.ip())))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // The kernel reports the user (SO_PEERCRED), so it cannot be forged.
                let user = stream.peer_cred()?.uid();
                Ok((Stream::Unix(stream), ConnectedPeer::Uid(user)))
            }
        }
    }
}

async fn bind_unix(path: &Path, socket: UnixSocketSettings) -> io::Result<Listener> {
    // A socket file without a listener is left over from a crash. Anything else is not ours to
    // remove.
    let left_over = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if left_over {
        match UnixStream::connect(path).await {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process is listening there",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Err(error) => return Err(error),
        }
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    if socket.group.is_some() {
        // Before the mode, so that the wrong group never has access.
        std::os::unix::fs::lchown(path, None, socket.group).map_err(|cause| {
            let why =
                format!("{cause}; hook.milter.socket_group must be a group of the service's user");
            io::Error::new(cause.kind(), why)
        })?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(socket.mode))?;
    Ok(Listener::Unix(listener, Some(file)))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Harmless if it stays: the next start finds that no process listens on it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "inet:{address}"),
                Err(_) => f.write_str("inet:?"),
            },
            Listener::Unix(listener, _) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                match path {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => f.write_str("unix:?"),
                }
            }
        }
    }
}

/// Acknowledges received data at once. Postfix writes a message in several small pieces, and its
/// system holds each back until the previous one is acknowledged (RFC 896), which the local system
/// would do only after 40 ms. Linux may drop this setting at any time, so it is set after each
/// read.
fn acknowledge(stream: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_quickack(true);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = stream;
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => {
                let read = Pin::new(&mut *stream).poll_read(cx, buf);
                if read.is_ready() {
                    acknowledge(stream);
                }
                read
            }
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
