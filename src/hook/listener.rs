//! Sockets that hooks accept connections on: TCP and Unix.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::Listen;
use super::clients::Caller;

/// What a Unix socket is like. Who may write it may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its permission bits.
    pub mode: u32,
    /// Its group, where not that of the service.
    pub group: Option<u32>,
}

impl Default for Socket {
    /// The MTA must be in the socket's group.
    fn default() -> Socket {
        Socket {
            mode: 0o660,
            group: None,
        }
    }
}

/// A bound listener. A Unix socket's file is removed when it is dropped, if it is ours.
#[derive(Debug)]
pub enum Listener {
    /// On a TCP port.
    Tcp(TcpListener),
    /// On a socket file.
    Unix(UnixListener, Option<SocketFile>),
}

/// The file of a Unix socket that we made.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

/// A connection on either.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}: {cause}{}", bind_remedy(&.listen.to_string(), cause))]
pub struct BindError {
    /// Where.
    pub listen: Listen,
    /// What the system said.
    #[source]
    pub cause: io::Error,
}

/// Returns what helps against an error of bind(2), as the end of a sentence about this address;
/// empty if nothing does that can be told.
pub fn bind_remedy(address: &str, cause: &io::Error) -> String {
    if cause.get_ref().is_some() {
        // It is one of ours, and says what helps.
        return String::new();
    }
    let port = address.rsplit_once(':').map_or("", |(_, port)| port);
    let place = Path::new(address.trim_start_matches("unix:"));
    let dir = place.parent().unwrap_or(place).display();
    match cause.kind() {
        // Only the superuser sees the processes of others.
        io::ErrorKind::AddrInUse if !port.starts_with('/') => {
            format!("; who listens there, as root: ss -ltnp 'sport = :{port}'")
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address".into(),
        io::ErrorKind::PermissionDenied if port.parse().is_ok_and(|port: u16| port < 1024) => {
            "; for a port below 1024, set AmbientCapabilities=CAP_NET_BIND_SERVICE and the same in CapabilityBoundingSet= of \
             the unit, without PrivateUsers=, or take a port above"
                .into()
        }
        io::ErrorKind::PermissionDenied if port.starts_with('/') => {
            format!("; the service's user must be able to write to {dir}")
        }
        io::ErrorKind::ReadOnlyFilesystem => format!("; set ReadWritePaths={dir} in the unit"),
        io::ErrorKind::NotFound => format!("; make the directory {dir}"),
        _ => String::new(),
    }
}

impl Listener {
    /// Binds.
    pub async fn bind(listen: &Listen, socket: Socket) -> Result<Listener, BindError> {
        let bound = match listen {
            Listen::Inet(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            Listen::Unix(path) => bind_unix(path, socket).await,
        };
        bound.map_err(|cause| BindError {
            listen: listen.clone(),
            cause,
        })
    }

    /// One that was open before this process was.
    pub fn handed_tcp(open: std::net::TcpListener) -> io::Result<Listener> {
        open.set_nonblocking(true)?;
        TcpListener::from_std(open).map(Listener::Tcp)
    }

    /// Likewise. Its file, mode and group are the affair of whoever made it.
    pub fn handed_unix(open: std::os::unix::net::UnixListener) -> io::Result<Listener> {
        open.set_nonblocking(true)?;
        let listener = UnixListener::from_std(open)?;
        Ok(Listener::Unix(listener, None))
    }

    /// The TCP address it really listens on (port 0 asks the system for one).
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, Caller)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                // Replies are small and waited for.
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), Caller::Machine(from.ip())))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // What the kernel says of the process that connected (SO_PEERCRED); nobody can
                // pretend.
                let user = stream.peer_cred()?.uid();
                Ok((Stream::Unix(stream), Caller::User(user)))
            }
        }
    }
}

async fn bind_unix(path: &Path, socket: Socket) -> io::Result<Listener> {
    // A socket file that nobody answers on is left over from a crash. Anything else is not ours to
    // remove.
    let left_over = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if left_over {
        match UnixStream::connect(path).await {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process answers there",
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
        // Before the mode: a group that it is not for must not be let in for a moment.
        std::os::unix::fs::lchown(path, None, socket.group).map_err(|cause| {
            let why = format!(
                "{cause}; hook.milter.socket_group must be a group that the service's user is in"
            );
            io::Error::new(cause.kind(), why)
        })?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(socket.mode))?;
    Ok(Listener::Unix(listener, Some(file)))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nothing is lost if it stays: the next start finds that nobody answers there.
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

/// Acknowledges at once what was read. Postfix writes a message in several small pieces, and its
/// system holds each back until the one before is acknowledged (RFC 896), which ours would do only
/// after 40 ms. Linux forgets this setting whenever it likes, so it is made after each read.
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
