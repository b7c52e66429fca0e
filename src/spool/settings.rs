//! What the spool needs to know; built by `config`.

use std::path::PathBuf;

/// Settings of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory of the database and the larger bodies.
    pub state_dir: PathBuf,
    /// The longest body, in octets, that is kept in the database itself.
    pub inline_limit: usize,
}

impl Settings {
    /// A spool in this directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Settings {
        Settings {
            state_dir: state_dir.into(),
            inline_limit: 128 * 1024,
        }
    }
}
