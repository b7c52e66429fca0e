//! The door: translates the MTA's protocol and nothing else.

mod listen;
mod settings;

pub use listen::{Listen, ListenError};
pub use settings::Settings;
