//! What operators see of the spool.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, params};

use super::database::{address, item_id, optional_address, readable, time};
use crate::journal::ItemId;
use crate::mail::Address;

/// Which items are listed.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only those with a dead target, or set aside.
    pub dead_only: bool,
    /// At most this many; the oldest.
    pub limit: usize,
}

/// An item in a list.
#[derive(Debug, Clone)]
pub struct QueueEntry {
    /// Its name.
    pub id: ItemId,
    /// "report", "copy" or "ndr".
    pub kind: String,
    /// "inbound", "outbound" or "internal".
    pub direction: String,
    /// The MTA's name of the message it is about.
    pub queue_id: String,
    /// When the message came.
    pub received: SystemTime,
    /// Bytes of the original.
    pub size: u64,
    /// The original's subject.
    pub subject: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next; `None`: not by itself.
    pub next_attempt: Option<SystemTime>,
    /// Why it was set aside.
    pub set_aside: Option<String>,
    /// Whether it waits for the fate of its message ([`super::Reservation`]).
    pub is_reserved: bool,
    /// Whether an operator holds it ([`super::Action::Hold`]).
    pub on_hold: bool,
    /// Its targets.
    pub targets: Vec<TargetEntry>,
}

/// One target of a listed item.
#[derive(Debug, Clone)]
pub struct TargetEntry {
    /// The journal or NDR address.
    pub address: Address,
    /// "waiting", "delivered", "refused" or "dead".
    pub state: String,
    /// What was said at the last attempt.
    pub last_reply: Option<String>,
}

/// Everything about one item but its bytes.
#[derive(Debug, Clone)]
pub struct ItemDetails {
    /// What a list has.
    pub listed: QueueEntry,
    /// The envelope sender; `None` is the null one.
    pub sender: Option<Address>,
    /// Where an NDR about it would go.
    pub ndr: Option<Address>,
    /// Its Message-ID.
    pub message_id: String,
    /// Why each target gets it.
    pub reasons: Vec<String>,
}

/// How much is owed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Items.
    pub items: u64,
    /// Items with a dead target, or set aside.
    pub dead: u64,
    /// Items that an operator holds.
    pub on_hold: u64,
    /// When the oldest message with an item came.
    pub oldest: Option<SystemTime>,
}

const COLUMNS: &str = "item.seq, item.id, kind, direction, queue_id, received, size, subject, attempts, due, aside, \
                       sender, ndr, message_id, reasons, EXISTS (SELECT 1 FROM held WHERE held.item = item.seq), \
                       EXISTS (SELECT 1 FROM paused WHERE paused.item = item.seq) FROM item JOIN message ON message.id = item.message";
const IS_DEAD: &str =
    "(item.aside IS NOT NULL OR item.seq IN (SELECT item FROM target WHERE state = 'dead'))";

pub(super) fn list(
    connection: &Connection,
    filter: &ListFilter,
) -> rusqlite::Result<Vec<QueueEntry>> {
    let only = if filter.dead_only {
        format!("WHERE {IS_DEAD}")
    } else {
        String::new()
    };
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} {only} ORDER BY item.seq LIMIT ?1"
    ))?;
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let found = select.query_map([limit], |row| shown(connection, row))?;
    readable(found.map(|shown| shown.map(|shown| shown.listed)))
}

/// The item of this number; `None` where it has been delivered meanwhile.
pub(super) fn by_number(connection: &Connection, seq: i64) -> rusqlite::Result<Option<QueueEntry>> {
    let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} WHERE item.seq = ?1"))?;
    let found = select.query_row([seq], |row| shown(connection, row));
    Ok(found.optional()?.map(|shown| shown.listed))
}

pub(super) fn show(connection: &Connection, id: &ItemId) -> rusqlite::Result<Option<ItemDetails>> {
    let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} WHERE item.id = ?1"))?;
    select
        .query_row(params![id.as_str()], |row| shown(connection, row))
        .optional()
}

fn shown(connection: &Connection, row: &rusqlite::Row<'_>) -> rusqlite::Result<ItemDetails> {
    let number: i64 = row.get(0)?;
    let mut select = connection.prepare_cached(
        "SELECT address, state, reply FROM target WHERE item = ?1 ORDER BY address",
    )?;
    let targets = select.query_map([number], |row| {
        Ok(TargetEntry {
            address: address(row, 0)?,
            state: row.get(1)?,
            last_reply: row.get(2)?,
        })
    })?;
    let reasons: String = row.get(14)?;
    Ok(ItemDetails {
        listed: QueueEntry {
            id: item_id(row, 1)?,
            kind: row.get(2)?,
            direction: row.get(3)?,
            queue_id: row.get(4)?,
            received: time(row.get(5)?),
            size: unsigned(row, 6)?,
            subject: row.get(7)?,
            attempts: row.get(8)?,
            next_attempt: row.get::<_, Option<i64>>(9)?.map(time),
            set_aside: row.get(10)?,
            is_reserved: row.get(15)?,
            on_hold: row.get(16)?,
            targets: targets.collect::<rusqlite::Result<_>>()?,
        },
        sender: optional_address(row, 11)?,
        ndr: optional_address(row, 12)?,
        message_id: row.get(13)?,
        reasons: reasons.lines().map(str::to_owned).collect(),
    })
}

/// SQLite's integers have a sign, counts have none.
fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

pub(super) fn depth(connection: &Connection) -> rusqlite::Result<QueueDepth> {
    let items = connection
        .prepare_cached("SELECT count(*) FROM item")?
        .query_row([], |row| unsigned(row, 0))?;
    let dead = connection
        .prepare_cached(&format!(
            "SELECT count(*) FROM item WHERE due IS NULL AND {IS_DEAD}"
        ))?
        .query_row([], |row| unsigned(row, 0))?;
    let on_hold = connection
        .prepare_cached("SELECT count(*) FROM paused")?
        .query_row([], |row| unsigned(row, 0))?;
    let oldest: Option<i64> = connection
        .prepare_cached(
            "SELECT received FROM message WHERE id = (SELECT message FROM item ORDER BY seq LIMIT 1)",
        )?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(QueueDepth {
        items,
        dead,
        on_hold,
        oldest: oldest.map(time),
    })
}
