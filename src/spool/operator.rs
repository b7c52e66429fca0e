//! What operators do to items, and the record of it.
//!
//! An action and its record are one transaction: none is done that is not recorded. Actions of
//! commands are logged by the service when it finds their records, so that the log has all of them,
//! also those from a time when it was not running.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::database::{self, item_id, millis, parsed, readable, time};
use super::paused;
use crate::journal::ItemId;

/// Not part of the format: an older version leaves it alone.
pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS operator (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    user TEXT NOT NULL,
    uid INTEGER,
    address TEXT,
    action TEXT NOT NULL,
    item TEXT,
    items INTEGER NOT NULL,
    queue_id TEXT NOT NULL,
    logged INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS operator_item ON operator (item) WHERE item IS NOT NULL;
CREATE INDEX IF NOT EXISTS operator_unlogged ON operator (seq) WHERE NOT logged;
";

/// How long a record is kept: a year, and a month to look at it.
const KEPT: Duration = Duration::from_secs(396 * 24 * 3600);

/// Records logged at a time.
const LOGGED: i64 = 1000;

/// Somebody who acts on the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The name of the user who ran a command; how a visitor of the admin pages was let in.
    pub user: String,
    /// The user's number; `None` for a visitor.
    pub uid: Option<u32>,
    /// Where a visitor came from; `None` for a command.
    pub address: Option<IpAddr>,
}

/// What an operator does to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Makes it due now, also if it is a dead letter, set aside or on hold.
    Retry,
    /// Puts it on hold: it is not tried until it is released or retried. One that is under way may
    /// still be delivered.
    Hold,
    /// Releases it from hold: it is due now.
    Release,
    /// Removes it undelivered, for ever.
    Drop,
    /// Takes a copy of it, with its message.
    Export,
}

/// The record of one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRecord {
    /// When it was done.
    pub at: SystemTime,
    /// The operator.
    pub operator: Operator,
    /// What was done.
    pub action: Action,
    /// The item; `None` if it was done to several at once.
    pub item: Option<ItemId>,
    /// The number of items.
    pub items: u32,
    /// The MTA's queue ID of the item's message; empty if it is not known.
    pub queue_id: String,
}

impl Action {
    /// Every action.
    const ALL: [Action; 5] = [
        Action::Retry,
        Action::Hold,
        Action::Release,
        Action::Drop,
        Action::Export,
    ];

    fn parse(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.name() == name)
    }

    /// The name of the command.
    pub fn name(self) -> &'static str {
        match self {
            Action::Retry => "retry",
            Action::Hold => "hold",
            Action::Release => "release",
            Action::Drop => "drop",
            Action::Export => "export",
        }
    }
}

impl OperatorRecord {
    /// Returns the operator in words: `anna (uid 1000)`, `admin page with token, from 192.0.2.1`.
    pub fn who(&self) -> String {
        let Operator { user, uid, address } = &self.operator;
        match (uid, address) {
            (Some(uid), _) => format!("{user} (uid {uid})"),
            (None, Some(address)) => format!("{user}, from {address}"),
            (None, None) => user.clone(),
        }
    }

    /// Returns what was done to what: `drop abcdefghijklmnop (message 4Zk1Qw2Xz7)`, `retry 500
    /// items`.
    pub fn what(&self) -> String {
        let action = self.action.name();
        match (&self.item, self.queue_id.as_str()) {
            (Some(item), "") => format!("{action} {item}"),
            (Some(item), queue_id) => format!("{action} {item} (message {queue_id})"),
            (None, _) => format!("{action} {} items", self.items),
        }
    }
}

/// Does something to one item and records it. Tells whether the item was there (for
/// [`Action::Release`]: was on hold), with the body files that no row names any more.
pub(super) fn act(
    connection: &Connection,
    operator: &Operator,
    action: Action,
    id: &ItemId,
    now: SystemTime,
) -> rusqlite::Result<(bool, Vec<String>)> {
    let queue_id: Option<String> = connection
        .prepare_cached("SELECT queue_id FROM item JOIN message ON message.id = item.message WHERE item.id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    let Some(queue_id) = queue_id else {
        return Ok((false, Vec::new()));
    };
    let mut files = Vec::new();
    let is_done = match action {
        Action::Retry => database::retry(connection, id, now)?,
        Action::Hold => paused::pause(connection, id)?,
        Action::Release => paused::resume(connection, id, now)?,
        Action::Drop => {
            files = database::drop_item(connection, id)?.unwrap_or_default();
            true
        }
        Action::Export => true,
    };
    if is_done {
        record(
            connection,
            &OperatorRecord {
                at: now,
                operator: operator.clone(),
                action,
                item: Some(id.clone()),
                items: 1,
                queue_id,
            },
        )?;
    }
    Ok((is_done, files))
}

/// Makes up to `limit` items due that come after the one numbered `seq`, and records that. Gives
/// how many they were, and the last one's number.
pub(super) fn retry_after(
    connection: &Connection,
    operator: &Operator,
    seq: i64,
    limit: usize,
    now: SystemTime,
) -> rusqlite::Result<(usize, i64)> {
    let items = database::after(connection, seq, limit)?;
    for (_, id) in &items {
        database::retry(connection, id, now)?;
    }
    let Some((last, _)) = items.last() else {
        return Ok((0, seq));
    };
    record(
        connection,
        &OperatorRecord {
            at: now,
            operator: operator.clone(),
            action: Action::Retry,
            item: None,
            items: u32::try_from(items.len()).unwrap_or(u32::MAX),
            queue_id: String::new(),
        },
    )?;
    Ok((items.len(), *last))
}

fn record(connection: &Connection, record: &OperatorRecord) -> rusqlite::Result<()> {
    let Operator { user, uid, address } = &record.operator;
    connection
        .prepare_cached("DELETE FROM operator WHERE at <= ?1 AND logged")?
        .execute([millis(record.at - KEPT)])?;
    connection
        .prepare_cached(
            "INSERT INTO operator (at, user, uid, address, action, item, items, queue_id, logged) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
        )?
        .execute(params![
            millis(record.at),
            user,
            uid,
            address.map(|address| address.to_string()),
            record.action.name(),
            record.item.as_ref().map(ItemId::as_str),
            record.items,
            record.queue_id,
        ])
        .map(|_| ())
}

const COLUMNS: &str = "at, user, uid, address, action, item, items, queue_id FROM operator";

/// Returns records, newest first: those of one item, or all of them, at most `limit`.
pub(super) fn records(
    connection: &Connection,
    item: Option<&ItemId>,
    limit: usize,
) -> rusqlite::Result<Vec<OperatorRecord>> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} WHERE ?1 IS NULL OR item = ?1 ORDER BY seq DESC LIMIT ?2"
    ))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = select.query_map(params![item.map(ItemId::as_str), limit], from_row)?;
    readable(found)
}

/// Whether there are records that were not logged.
pub(super) fn has_unlogged(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM operator WHERE NOT logged)")?
        .query_row([], |row| row.get(0))
}

/// Takes the oldest records that were not logged: the next call does not return them again.
pub(super) fn take_unlogged(connection: &Connection) -> rusqlite::Result<Vec<OperatorRecord>> {
    let last: Option<i64> = connection
        .prepare_cached(
            "SELECT max(seq) FROM (SELECT seq FROM operator WHERE NOT logged ORDER BY seq LIMIT ?1)",
        )?
        .query_row([LOGGED], |row| row.get(0))?;
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} WHERE NOT logged AND seq <= ?1 ORDER BY seq"
    ))?;
    let found = readable(select.query_map([last], from_row)?)?;
    connection
        .prepare_cached("UPDATE operator SET logged = 1 WHERE NOT logged AND seq <= ?1")?
        .execute([last])?;
    Ok(found)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<OperatorRecord> {
    let address: Option<String> = row.get(3)?;
    let item = match row.get_ref(5)?.data_type() {
        Type::Null => None,
        _ => Some(item_id(row, 5)?),
    };
    Ok(OperatorRecord {
        at: time(row.get(0)?),
        operator: Operator {
            user: row.get(1)?,
            uid: row.get(2)?,
            address: address.and_then(|address| address.parse().ok()),
        },
        action: parsed(row, 4, Action::parse)?,
        item,
        items: row.get(6)?,
        queue_id: row.get(7)?,
    })
}
