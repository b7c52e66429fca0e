//! The door: turns the MTA's protocol into an envelope and a message, and a verdict back into protocol.

mod listen;
mod listener;
mod milter;

pub use listen::{Listen, ListenError};
pub use listener::{BindError, Listener};
pub use milter::serve as serve_milter;

/// Where the hooks listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Milter listeners.
    pub milter: Vec<Listen>,
}
