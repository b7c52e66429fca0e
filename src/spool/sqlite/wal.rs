//! The write-ahead log of the database: `spool.db-wal`.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};
use tracing::warn;

use super::damage;
use crate::spool::error::OpenError;

/// Length of the WAL in pages from which on it is copied into the database: 4 MiB. What is
/// delivered and removed before that is never copied, and what many commits change is copied once.
const CHECKPOINT_PAGES: i64 = 512;

/// Progress of the WAL's copy into the database.
pub(super) struct WalProgress {
    pages: i64,
    pub(super) copied: i64,
}

/// Copies the WAL into the database and syncs it there, so that the next commit begins a new WAL.
///
/// A process whose sync failed leaves a WAL that reads well from the system's memory while the disk
/// lacks a part of it. What this process appended to it would be lost with that part in the next
/// power cut.
pub(super) fn restart(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let path = path.to_owned();
    match connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0)) {
        Ok(false) => Ok(()),
        Ok(true) => {
            warn!(
                "{} is being read by another process; continuing with its WAL",
                path.display()
            );
            Ok(())
        }
        // The items in it must be delivered to make room.
        Err(cause) if cause.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            warn!(
                "the disk is full; continuing with the WAL of {}",
                path.display()
            );
            Ok(())
        }
        Err(cause) => Err(damage::open_error(&path, &cause)),
    }
}

/// Copies the WAL into the database if it is long. SQLite would do so itself at the end of a
/// commit, but would not report a failed sync.
pub(super) fn shorten(connection: &Connection) -> rusqlite::Result<()> {
    let wal = progress(connection)?;
    if wal.pages < CHECKPOINT_PAGES || wal.copied == wal.pages {
        return Ok(());
    }
    // If a reader prevents it, it is tried again after the next commit.
    connection
        .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
        .query_row([], |_| Ok(()))
}

/// Reads the progress and copies nothing.
pub(super) fn progress(connection: &Connection) -> rusqlite::Result<WalProgress> {
    connection
        .prepare_cached("PRAGMA wal_checkpoint(NOOP)")?
        .query_row([], |row| {
            Ok(WalProgress {
                pages: row.get(1)?,
                copied: row.get(2)?,
            })
        })
}
