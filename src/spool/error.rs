//! What can go wrong, and what becomes of the mail then.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::journal::ItemId;
use crate::mail::{Enhanced, Reply};

/// Why the spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory.
    #[error("cannot open the spool: {path}: {cause}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Another process works on it.
    #[error("another copyist{} works on {state_dir}; give each instance its own state_dir", holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The state directory.
        state_dir: PathBuf,
        /// The process that holds the lock, where it is known.
        holder: Option<u32>,
    },
    /// There is none.
    #[error("there is no spool in {state_dir}; it is made when the service first starts")]
    Absent {
        /// The state directory.
        state_dir: PathBuf,
    },
    /// A later version made it; or an earlier one, and only the service makes it over.
    #[error("{path} has format {found}, and this version knows format {known}; {}", remedy(*found, *known))]
    Format {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The database is damaged.
    #[error(
        "the spool {path} is damaged: {what}; copy its directory before anything else, then recover what can be read \
         (sqlite3 spool.db .recover | sqlite3 recovered.db), see \"A damaged database\" in docs/operation.md"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        what: String,
    },
    /// SQLite.
    #[error("cannot open the spool {path}: {cause}")]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        cause: rusqlite::Error,
    },
}

/// Why something was not made durable. Cloned to everyone whose commit was in the same group.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// The disk is full. Room may come back.
    #[error("the disk is full")]
    Full,
    /// The disk has less room than the settings keep free, or would have with this message.
    #[error("the disk is nearly full: {} MiB are free{}", free >> 20, inodes.map(|free| format!(", and {free} inodes")).unwrap_or_default())]
    Low {
        /// Bytes that are free.
        free: u64,
        /// Inodes that are free, where those are too few.
        inodes: Option<u64>,
    },
    /// An I/O error now or earlier. A sync that failed once may have lost what it was asked to
    /// keep, and the next one succeeds all the same; so nothing is trusted any more until the files
    /// are opened anew.
    #[error("the spool has failed: {0}")]
    Failed(Arc<str>),
    /// Anything else, concerning this commit alone.
    #[error("the spool refused: {0}")]
    Refused(Arc<str>),
}

impl CommitError {
    /// What the sending side is told. Never a 5xx: the fault is ours, so it must keep the message
    /// (RFC 5321 section 4.2.1).
    pub fn reply(&self) -> Reply {
        match self {
            CommitError::Full | CommitError::Low { .. } => Reply::new(
                452,
                Enhanced(4, 3, 1),
                "Insufficient storage for the journal, try again",
            ),
            CommitError::Failed(_) | CommitError::Refused(_) => Reply::new(
                451,
                Enhanced(4, 3, 0),
                "Journal report cannot be stored, try again",
            ),
        }
    }
}

/// Why the spool did not answer or do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpoolError {
    /// A change could not be made.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Nothing has this name.
    #[error("there is no item {0}")]
    Unknown(ItemId),
    /// The original cannot be read, or is not what it was. The item is set aside.
    #[error("item {id} is set aside: {why}")]
    SetAside {
        /// The item.
        id: ItemId,
        /// What is wrong with it.
        why: Arc<str>,
    },
    /// SQLite could not read.
    #[error("the spool cannot be read: {0}")]
    Read(Arc<str>),
}

fn remedy(found: i64, known: i64) -> &'static str {
    match found < known {
        true => "start the service of this version once, which makes it over",
        false => "use the version that made it",
    }
}
