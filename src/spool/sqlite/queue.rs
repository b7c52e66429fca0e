//! Lists for operators.

use rusqlite::{Connection, OptionalExtension, Row};

use super::rows::{
    address, item_id, kind, lines, optional_address, optional_time, parsed, readable, sql_limit,
    time, unsigned,
};
use crate::journal::ItemId;
use crate::spool::types::TargetState;
use crate::spool::view::{ItemDetails, ListFilter, QueueDepth, QueueEntry, TargetEntry};

const COLUMNS: &str = "item.seq, item.id, kind, direction, queue_id, received, size, subject, attempts, due, set_aside, \
                       sender, ndr, message_id, reasons, reserved, on_hold \
                       FROM item JOIN message ON message.id = item.message";
const IS_DEAD: &str =
    "(item.set_aside IS NOT NULL OR item.seq IN (SELECT item FROM target WHERE state = 'dead'))";

/// Lists items, oldest first.
pub(super) fn list(
    connection: &Connection,
    filter: &ListFilter,
) -> rusqlite::Result<Vec<QueueEntry>> {
    let only = match filter.dead_only {
        true => format!("WHERE {IS_DEAD}"),
        false => String::new(),
    };
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} {only} ORDER BY item.seq LIMIT ?1"
    ))?;
    let found = select.query_map([sql_limit(filter.limit)], |row| details(connection, row))?;
    readable(found.map(|details| details.map(|details| details.listed)))
}

/// Returns the item of this number; `None` if it was removed meanwhile.
pub(super) fn entry(connection: &Connection, seq: i64) -> rusqlite::Result<Option<QueueEntry>> {
    let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} WHERE item.seq = ?1"))?;
    let found = select.query_row([seq], |row| details(connection, row));
    Ok(found.optional()?.map(|details| details.listed))
}

/// Returns everything about one item.
pub(super) fn show(connection: &Connection, id: &ItemId) -> rusqlite::Result<Option<ItemDetails>> {
    let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} WHERE item.id = ?1"))?;
    select
        .query_row([id.as_str()], |row| details(connection, row))
        .optional()
}

fn details(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<ItemDetails> {
    let seq: i64 = row.get(0)?;
    let mut select = connection.prepare_cached(
        "SELECT address, state, reply FROM target WHERE item = ?1 ORDER BY address",
    )?;
    let targets = select.query_map([seq], |row| {
        Ok(TargetEntry {
            address: address(row, 0)?,
            state: parsed(row, 1, TargetState::parse)?,
            last_reply: row.get(2)?,
        })
    })?;
    Ok(ItemDetails {
        listed: QueueEntry {
            id: item_id(row, 1)?,
            kind: kind(row, 2)?,
            direction: parsed(row, 3, |text| text.parse().ok())?,
            queue_id: row.get(4)?,
            received: time(row, 5)?,
            size: unsigned(row, 6)?,
            subject: row.get(7)?,
            attempts: row.get(8)?,
            next_attempt: optional_time(row, 9)?,
            set_aside: row.get(10)?,
            is_reserved: row.get(15)?,
            on_hold: row.get(16)?,
            targets: targets.collect::<rusqlite::Result<_>>()?,
        },
        sender: optional_address(row, 11)?,
        ndr: optional_address(row, 12)?,
        message_id: row.get(13)?,
        reasons: lines(row, 14)?,
    })
}

/// Counts the items.
pub(super) fn depth(connection: &Connection) -> rusqlite::Result<QueueDepth> {
    let count = |select: &str| -> rusqlite::Result<u64> {
        let mut select = connection.prepare_cached(select)?;
        select.query_row([], |row| unsigned(row, 0))
    };
    let oldest = connection
        .prepare_cached(
            "SELECT received FROM message WHERE id = (SELECT message FROM item ORDER BY seq LIMIT 1)",
        )?
        .query_row([], |row| time(row, 0))
        .optional()?;
    Ok(QueueDepth {
        items: count("SELECT count(*) FROM item")?,
        dead: count(&format!(
            "SELECT count(*) FROM item WHERE due IS NULL AND {IS_DEAD}"
        ))?,
        on_hold: count("SELECT count(*) FROM item WHERE on_hold")?,
        oldest,
    })
}
