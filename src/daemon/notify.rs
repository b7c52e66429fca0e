//! Tells the supervisor how the service fares (sd_notify(3)): a datagram to the socket that
//! `NOTIFY_SOCKET` names.
//!
//! So `systemctl start` comes back when mail is taken, and with an error when the configuration is
//! wrong.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// What there is to tell.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// Mail is taken.
    Ready,
    /// What is under way is finished, and nothing new begun.
    Stopping,
}

/// Tells it, where somebody wants to know.
pub(super) fn tell(state: State) {
    let Ok(socket) = std::env::var("NOTIFY_SOCKET") else {
        return;
    };
    // Nothing of ours hangs on it; a supervisor that waits gives up by itself.
    if let Err(cause) = send(&socket, state) {
        warn!("the supervisor cannot be told by {socket} that the service is {state:?}: {cause}");
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
