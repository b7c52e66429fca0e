//! Settings of the spool; `config` builds them.

use std::path::PathBuf;

/// Settings of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the spool.
    pub state_dir: PathBuf,
    /// Size in bytes up to which an original is stored in the database; SQLite writes everything
    /// twice, files are written once.
    pub inline_limit: usize,
    /// Bytes of the file system that new mail leaves free.
    pub min_free: u64,
    /// Inodes of the file system that new mail leaves free.
    pub min_free_inodes: u64,
}

impl Settings {
    /// Settings for a directory, with nothing of the disk kept free.
    pub fn new(state_dir: impl Into<PathBuf>) -> Settings {
        Settings {
            state_dir: state_dir.into(),
            inline_limit: 128 * 1024,
            min_free: 0,
            min_free_inodes: 0,
        }
    }
}
