//! Notification of the supervisor (sd_notify(3)): a datagram to the socket `NOTIFY_SOCKET`. With
//! it, `systemctl start` returns when the service accepts mail, or fails if the configuration is
//! invalid.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// The state of the service.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// Accepting mail.
    Ready,
    /// Finishing sessions and deliveries; accepting nothing new.
    Stopping,
}

/// Notifies the supervisor, if there is one.
pub(super) fn notify(state: State) {
    let Ok(socket) = std::env::var("NOTIFY_SOCKET") else {
        return;
    };
    // Not fatal: a waiting supervisor times out by itself.
    if let Err(cause) = send(&socket, state) {
        warn!("cannot notify the supervisor at {socket}: {cause}");
    }
}

fn send(socket: &str, state: State) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let words: &[u8] = match state {
        State::Ready => b"READY=1",
        State::Stopping => b"STOPPING=1",
    };
    UnixDatagram::unbound()?.send_to_addr(words, &address)?;
    Ok(())
}
