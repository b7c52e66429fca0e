//! What the spool needs to know; built by `config`.

use std::path::PathBuf;

/// Settings of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory of the database and the larger bodies.
    pub state_dir: PathBuf,
    /// The longest body, in bytes, that is kept in the database itself; SQLite writes everything
    /// twice, files are written once.
    pub inline_limit: usize,
    /// Bytes of the file system that new mail leaves free.
    pub min_free: u64,
    /// Inodes of it likewise.
    pub min_free_inodes: u64,
}

impl Settings {
    /// A spool in this directory, which keeps nothing of the disk free.
    pub fn new(state_dir: impl Into<PathBuf>) -> Settings {
        Settings {
            state_dir: state_dir.into(),
            inline_limit: 128 * 1024,
            min_free: 0,
            min_free_inodes: 0,
        }
    }
}
