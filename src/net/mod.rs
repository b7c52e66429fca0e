//! Connecting to a server by name: all its addresses, and TCP.

mod addresses;
mod prompt;

pub use addresses::{ConnectError, Server};
pub use prompt::PromptTcp;
