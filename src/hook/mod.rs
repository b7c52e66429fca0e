//! The door: turns the MTA's protocol into an envelope and a message, and a verdict back into protocol.

mod arriving;
mod edits;
mod listen;
mod listener;
mod milter;
mod settings;

pub use listen::{Listen, ListenError};
pub use listener::{BindError, Listener};
pub use milter::serve as serve_milter;
pub use settings::Settings;
