//! Reads for deliveries: due items, and items with everything that is needed to send them.

use std::collections::HashSet;
use std::time::SystemTime;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{
    ITEM_COLUMNS, address, damaged, item, item_id, millis, optional_time, parsed, readable,
    sql_limit, time, unsigned, words,
};
use crate::journal::{Item, ItemId};
use crate::mail::Address;
use crate::spool::digest::{MessageFacts, item_digest};
use crate::spool::engine::Due;
use crate::spool::types::TargetState;

/// An original as it is stored: its bytes in a row, or the name of its file.
#[derive(Debug)]
pub(super) struct StoredBody {
    pub(super) location: BodyLocation,
    /// Size of the original in bytes.
    pub(super) size: u64,
    /// SHA-256 of the original.
    pub(super) sha256: Vec<u8>,
}

#[derive(Debug)]
pub(super) enum BodyLocation {
    Inline(Bytes),
    File(String),
}

/// An item as the tables store it.
pub(super) struct StoredItem {
    pub(super) item: Item,
    pub(super) waiting: Vec<Address>,
    pub(super) attempts: u32,
    pub(super) received: SystemTime,
    pub(super) body: StoredBody,
}

impl StoredItem {
    pub(super) fn digest(&self) -> [u8; 32] {
        item_digest(
            &self.item,
            &MessageFacts {
                received: millis(self.received),
                size: self.body.size,
                sha256: &self.body.sha256,
            },
        )
    }
}

/// Returns the IDs of due items.
pub(super) fn due(
    connection: &Connection,
    due: Due,
    limit: usize,
) -> rusqlite::Result<Vec<ItemId>> {
    let (select, at) = match due {
        Due::By(now) => (
            "SELECT id FROM item WHERE due <= ?1 ORDER BY due LIMIT ?2",
            now,
        ),
        Due::After(latest) => (
            "SELECT id FROM item WHERE due > ?1 ORDER BY due DESC LIMIT ?2",
            latest,
        ),
    };
    let mut select = connection.prepare_cached(select)?;
    let found = select.query_map(params![millis(at), sql_limit(limit)], |row| item_id(row, 0))?;
    readable(found)
}

/// Returns the time when the next item is due.
pub(super) fn next_due(connection: &Connection) -> rusqlite::Result<Option<SystemTime>> {
    connection
        .prepare_cached("SELECT min(due) FROM item WHERE due IS NOT NULL")?
        .query_row([], |row| optional_time(row, 0))
}

/// Loads an item. A row that is not the one that was written is an error that
/// [`is_damaged_row`](super::damage::is_damaged_row).
pub(super) fn load(connection: &Connection, id: &ItemId) -> rusqlite::Result<Option<StoredItem>> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT {ITEM_COLUMNS}, item.seq, attempts, item.digest, received, size, content, file, message.digest \
         FROM item JOIN message ON message.id = item.message WHERE item.id = ?1"
    ))?;
    let found = select
        .query_row([id.as_str()], |row| {
            let location = match (row.get::<_, Option<Vec<u8>>>(19)?, row.get(20)?) {
                (Some(content), _) => BodyLocation::Inline(Bytes::from(content)),
                (None, Some(file)) => BodyLocation::File(file),
                (None, None) => return Err(damaged(20, "message without content and file")),
            };
            let stored = StoredItem {
                item: item(row)?,
                waiting: Vec::new(),
                attempts: row.get(15)?,
                received: time(row, 17)?,
                body: StoredBody {
                    location,
                    size: unsigned(row, 18)?,
                    sha256: row.get(21)?,
                },
            };
            Ok((stored, row.get(14)?, row.get(16)?))
        })
        .optional()?;
    let Some((mut stored, seq, digest)) = found else {
        return Ok(None);
    };
    load_targets(connection, seq, &mut stored)?;
    let digest: Option<Vec<u8>> = digest;
    if digest.is_some_and(|digest| digest != stored.digest()) {
        return Err(damaged(16, "item differs from what was written (SHA-256)"));
    }
    Ok(Some(stored))
}

fn load_targets(
    connection: &Connection,
    seq: i64,
    stored: &mut StoredItem,
) -> rusqlite::Result<()> {
    let mut select =
        connection.prepare_cached("SELECT address, state, dsn FROM target WHERE item = ?1")?;
    let mut rows = select.query([seq])?;
    while let Some(row) = rows.next()? {
        let address = address(row, 0)?;
        if parsed(row, 1, TargetState::parse)? == TargetState::Waiting {
            stored.waiting.push(address.clone());
        }
        let params = words(row, 2)?;
        if !params.is_empty() {
            let recipients = &mut stored.item.dsn.recipients;
            recipients.push((address.clone(), params));
        }
        stored.item.targets.push(address);
    }
    Ok(())
}

/// Returns the waiting targets of an item; none if there is no such item.
pub(super) fn waiting(connection: &Connection, id: &ItemId) -> rusqlite::Result<Vec<Address>> {
    let mut select = connection.prepare_cached(
        "SELECT address FROM target JOIN item ON item.seq = target.item WHERE item.id = ?1 AND state = 'waiting'",
    )?;
    let found = select.query_map([id.as_str()], |row| address(row, 0))?;
    found.collect()
}

/// Whether a row names this body file.
pub(super) fn is_body_file(connection: &Connection, file: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM message WHERE file = ?1)")?
        .query_row([file], |row| row.get(0))
}

/// Returns all body files that rows name, read from the table itself: a damaged index might not
/// name some of them.
pub(super) fn body_files(connection: &Connection) -> rusqlite::Result<HashSet<String>> {
    let mut select =
        connection.prepare("SELECT file FROM message NOT INDEXED WHERE content IS NULL")?;
    let files = select.query_map([], |row| row.get(0))?;
    files.collect()
}
