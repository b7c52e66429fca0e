//! Damage in the database: what is noticed, and by what.
//!
//! SQLite has no checksums in its pages: a flipped bit in a row reads as another address or another
//! text. So each item has a digest over everything that a delivery of it depends on and that never
//! changes, in a table of its own; it is made in the item's own transaction and compared at each
//! load. (Originals have theirs in their row.)

use std::path::Path;

use ring::digest::{Context, SHA256};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row};

use super::error::OpenError;

/// Items of spools that are older than this table have no digest and are not compared.
pub(super) const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS item_digest (item INTEGER PRIMARY KEY, digest BLOB NOT NULL);";

/// The largest database that is checked whole at the start: that takes less than a second.
const CHECKED: u64 = 64 << 20;

/// Gives an item that was just written its digest.
pub(super) fn seal(connection: &Connection, number: i64) -> rusqlite::Result<()> {
    let digest = digest(connection, number)?;
    connection
        .prepare_cached("INSERT INTO item_digest (item, digest) VALUES (?1, ?2)")?
        .execute((number, digest))
        .map(|_| ())
}

/// Whether an item is what was written.
pub(super) fn is_whole(connection: &Connection, number: i64) -> rusqlite::Result<bool> {
    let sealed: Option<Vec<u8>> = connection
        .prepare_cached("SELECT digest FROM item_digest WHERE item = ?1")?
        .query_row([number], |row| row.get(0))
        .optional()?;
    match sealed {
        Some(sealed) => Ok(digest(connection, number)? == sealed),
        None => Ok(true),
    }
}

pub(super) fn forget(connection: &Connection, number: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM item_digest WHERE item = ?1")?
        .execute([number])
        .map(|_| ())
}

/// Over the values as they are stored, so that writing and reading cannot differ. What changes
/// while an item waits (when it is due, what its targets said) is left out.
fn digest(connection: &Connection, number: i64) -> rusqlite::Result<Vec<u8>> {
    let mut context = Context::new(&SHA256);
    let mut add = |row: &Row<'_>, columns: usize| -> rusqlite::Result<()> {
        for column in 0..columns {
            let value = row.get_ref(column)?;
            let bytes = match value {
                ValueRef::Null => Vec::new(),
                ValueRef::Integer(number) => number.to_be_bytes().to_vec(),
                ValueRef::Real(number) => number.to_be_bytes().to_vec(),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
            };
            // Kind and length in front: no two rows run together into the same bytes.
            context.update(value.data_type().to_string().as_bytes());
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(&bytes);
        }
        Ok(())
    };
    connection
        .prepare_cached(
            "SELECT item.id, kind, direction, sender, ndr, message_id, envelope_id, subject, reasons, body, smtputf8, \
             prefix, suffix, params, received, size, message.digest \
             FROM item JOIN message ON message.id = item.message WHERE item.seq = ?1",
        )?
        .query_row([number], |row| add(row, 17))?;
    let mut targets = connection
        .prepare_cached("SELECT address, params FROM target WHERE item = ?1 ORDER BY address")?;
    let mut rows = targets.query([number])?;
    while let Some(row) = rows.next()? {
        add(row, 2)?;
    }
    Ok(context.finish().as_ref().to_vec())
}

/// Whether an item reads as nothing that was ever written: a fault of its row, not of the moment.
pub(super) fn is_damage(cause: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        cause,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
    )
}

/// Whether SQLite found the database itself damaged. No restart mends that.
pub(super) fn is_corrupt(cause: &rusqlite::Error) -> bool {
    matches!(
        cause.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// What SQLite said about this database; if it is damaged, with what can be done.
pub(super) fn open_error(path: &Path, cause: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    if is_corrupt(&cause) {
        let what = cause.to_string();
        OpenError::Damaged { path, what }
    } else {
        OpenError::Database { path, cause }
    }
}

/// Looks through a database that is small enough: rows, indexes and the free list. A damaged index
/// would hide an item from everyone who asks what is due.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let length = path.metadata().map_or(0, |metadata| metadata.len());
    if length > CHECKED {
        return Ok(());
    }
    let found: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|cause| open_error(path, cause))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(OpenError::Damaged {
            path: path.to_owned(),
            what: found,
        }),
    }
}
