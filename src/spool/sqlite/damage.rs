//! Damage of the database, and how it is detected.
//!
//! SQLite's pages have no checksums: a flipped bit reads as another address or another text. So each
//! item has a digest of its own, which is compared at each load ([`crate::spool::digest`]), and so
//! has each original. This module detects the rest: values that no version ever wrote, and damage
//! that SQLite itself finds.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use crate::spool::error::OpenError;

/// Size in bytes up to which a database is checked whole at the start: this takes less than a
/// second.
const MAX_CHECKED: u64 = 64 << 20;

/// Whether an error means that a row has a value that was never written. The row is damaged then,
/// and no later attempt will read it.
pub(super) fn is_damaged_row(cause: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        cause,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
    )
}

/// Whether SQLite found the database itself damaged. A restart does not repair that.
pub(super) fn is_corrupt(cause: &rusqlite::Error) -> bool {
    matches!(
        cause.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Converts an error at the start; damage comes with what to do about it.
pub(super) fn open_error(path: &Path, cause: &rusqlite::Error) -> OpenError {
    let (path, text) = (path.to_owned(), cause.to_string());
    match is_corrupt(cause) {
        true => OpenError::Damaged { path, cause: text },
        false => OpenError::Database { path, cause: text },
    }
}

/// Checks rows, indexes and the free list of a database that is small enough. A damaged index would
/// hide a due item.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let length = path.metadata().map_or(0, |metadata| metadata.len());
    if length > MAX_CHECKED {
        return Ok(());
    }
    let found: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|cause| open_error(path, &cause))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(OpenError::Damaged {
            path: path.to_owned(),
            cause: found,
        }),
    }
}
