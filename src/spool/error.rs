//! Errors of the spool, and the SMTP replies that they lead to.

use std::path::PathBuf;
use std::sync::Arc;

use crate::journal::ItemId;
use crate::mail::{Enhanced, Reply};

/// Error that keeps the spool from being opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory cannot be created, opened or locked.
    #[error("cannot open the spool: {path}: {cause}")]
    Io {
        /// Path of the file or directory.
        path: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// Another process uses the state directory.
    #[error("another copyist{} uses {state_dir}; give each instance its own state_dir", holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The state directory.
        state_dir: PathBuf,
        /// The process that holds the lock, if it is known.
        holder: Option<u32>,
    },
    /// The service has never run with this state directory.
    #[error("no spool in {state_dir}; the service creates it when it first starts")]
    Absent {
        /// The state directory.
        state_dir: PathBuf,
    },
    /// This version cannot read the format of the spool.
    #[error("{path} has format {found}, this version uses format {current}; {remedy}")]
    Format {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The format of this version.
        current: i64,
        /// Advice for the operator.
        remedy: &'static str,
    },
    /// The database is damaged.
    #[error(
        "the spool {path} is damaged: {cause}; copy its directory before anything else, then recover what is readable \
         (sqlite3 spool.db .recover | sqlite3 recovered.db), see \"A damaged database\" in docs/operation.md"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// The engine's error.
        cause: String,
    },
    /// The database cannot be opened.
    #[error("cannot open the spool {path}: {cause}")]
    Database {
        /// The database.
        path: PathBuf,
        /// The engine's error.
        cause: String,
    },
}

/// Error that kept a job from becoming durable. Cloned to everyone whose job was in the same group.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// The disk has less free space than the settings keep free, or would have with this message.
    #[error("the disk is nearly full: {} MiB are free{}", free >> 20, inodes.map(|free| format!(", and {free} inodes")).unwrap_or_default())]
    Low {
        /// Free bytes.
        free: u64,
        /// Free inodes, if those are too few.
        inodes: Option<u64>,
    },
    /// The database cannot be reached or is locked. Nothing was stored; a later attempt may
    /// succeed.
    #[error("the spool is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The answer to the commit was lost. It may be stored.
    #[error("the outcome of the commit is unknown: {0}")]
    InDoubt(Arc<str>),
    /// An I/O error now or earlier. A sync that failed once may have lost data, and the next sync
    /// succeeds all the same; so this process commits nothing more. It may be stored.
    #[error("the spool has failed: {0}")]
    Failed(Arc<str>),
    /// Any other error, of this job alone.
    #[error("the spool rejected it: {0}")]
    Refused(Arc<str>),
}

impl CommitError {
    /// The reply to the client. Never a 5xx: the error is local, so the client must keep the
    /// message (RFC 5321 section 4.2.1).
    pub fn reply(&self) -> Reply {
        match self {
            CommitError::Full | CommitError::Low { .. } => Reply::new(
                452,
                Enhanced(4, 3, 1),
                "Insufficient storage for the journal, try again",
            ),
            CommitError::Unavailable(_)
            | CommitError::InDoubt(_)
            | CommitError::Failed(_)
            | CommitError::Refused(_) => Reply::new(
                451,
                Enhanced(4, 3, 0),
                "Journal report cannot be stored, try again",
            ),
        }
    }

    /// Whether it is certain that nothing of the job is stored, now or after a restart.
    pub(super) fn is_definite(&self) -> bool {
        match self {
            CommitError::Full
            | CommitError::Low { .. }
            | CommitError::Unavailable(_)
            | CommitError::Refused(_) => true,
            CommitError::InDoubt(_) | CommitError::Failed(_) => false,
        }
    }
}

/// Error of a request to the spool.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpoolError {
    /// A change could not be made.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// No item has this ID.
    #[error("no item {0} in the queue")]
    Unknown(ItemId),
    /// The item is damaged, and was set aside.
    #[error("item {id} is set aside: {reason}")]
    SetAside {
        /// The item.
        id: ItemId,
        /// The damage.
        reason: Arc<str>,
    },
    /// The queue cannot be read.
    #[error("cannot read the spool: {0}")]
    Read(Arc<str>),
}
