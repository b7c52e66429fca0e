//! Operators' actions, and their audit records.
//!
//! An action and its record are one transaction: no action goes unrecorded. The service logs the
//! records when it finds them, so that its log has every action, including those of commands that
//! ran while it did not.

use std::time::{Duration, SystemTime};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::rows::{item_id, millis, parsed, readable, sql_limit, time};
use super::{ndr, write};
use crate::journal::ItemId;
use crate::spool::operator::{Action, Operator, OperatorRecord, RetryCursor};

/// Period for which a record is kept: a year, and a month to look at it.
const RECORD_LIFETIME: Duration = Duration::from_secs(396 * 24 * 3600);

/// Number of records logged at a time.
const LOG_BATCH: i64 = 1000;

const COLUMNS: &str = "at, user, uid, address, action, item, items, queue_id FROM operator_record";

/// Performs an action on an item and records it. Returns whether there is such an item (for
/// [`Action::Release`]: whether it was on hold), and the body files that no row names any more.
pub(super) fn operate(
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
    let (Some(queue_id), Some(row)) = (queue_id, write::find(connection, id)?) else {
        return Ok((false, Vec::new()));
    };
    let mut files = Vec::new();
    let is_done = match action {
        Action::Retry => retry(connection, row.seq, now).map(|()| true)?,
        Action::Hold => hold(connection, row.seq).map(|()| true)?,
        Action::Release => release(connection, row.seq, now)?,
        Action::Drop => {
            files = write::remove(connection, row)?;
            true
        }
        Action::Export => true,
    };
    if is_done {
        let record = OperatorRecord {
            at: now,
            operator: operator.clone(),
            action,
            item: Some(id.clone()),
            items: 1,
            queue_id,
        };
        add_record(connection, &record)?;
    }
    Ok((is_done, files))
}

/// Schedules an item for now, whatever stopped it.
fn retry(connection: &Connection, seq: i64, now: SystemTime) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE target SET state = 'waiting' WHERE item = ?1 AND state = 'dead'")?
        .execute([seq])?;
    ndr::remove_pending(connection, seq)?;
    connection
        .prepare_cached(
            "UPDATE item SET due = ?2, set_aside = NULL, reserved = 0, on_hold = 0 WHERE seq = ?1",
        )?
        .execute(params![seq, millis(now)])
        .map(|_| ())
}

/// Puts an item on hold. If its delivery has begun, this applies to the targets it does not reach.
fn hold(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE item SET on_hold = 1, due = NULL WHERE seq = ?1")?
        .execute([seq])
        .map(|_| ())
}

/// Releases an item and schedules it for now, unless it is reserved, set aside, or has only dead
/// targets left. Returns whether it was on hold.
fn release(connection: &Connection, seq: i64, now: SystemTime) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "UPDATE item SET on_hold = 0, due = CASE WHEN NOT reserved AND set_aside IS NULL \
             AND EXISTS (SELECT 1 FROM target WHERE item = ?1 AND state = 'waiting') THEN ?2 END \
             WHERE seq = ?1 AND on_hold",
        )?
        .execute(params![seq, millis(now)])
        .map(|count| count > 0)
}

/// Schedules up to `limit` items after the cursor for now, and records that. Items on hold were
/// stopped one by one and stay so, and so do reserved ones, whose message may yet be rejected.
/// Returns the number of items and the next cursor.
pub(super) fn retry_after(
    connection: &Connection,
    operator: &Operator,
    cursor: RetryCursor,
    limit: usize,
    now: SystemTime,
) -> rusqlite::Result<(u64, RetryCursor)> {
    let mut select = connection.prepare_cached(
        "SELECT seq FROM item WHERE seq > ?1 AND NOT on_hold AND NOT reserved ORDER BY seq LIMIT ?2",
    )?;
    let found = select.query_map(params![cursor.0, sql_limit(limit)], |row| row.get(0))?;
    let items: Vec<i64> = found.collect::<rusqlite::Result<_>>()?;
    for seq in &items {
        retry(connection, *seq, now)?;
    }
    let Some(last) = items.last() else {
        return Ok((0, cursor));
    };
    let record = OperatorRecord {
        at: now,
        operator: operator.clone(),
        action: Action::Retry,
        item: None,
        items: u32::try_from(items.len()).unwrap_or(u32::MAX),
        queue_id: String::new(),
    };
    add_record(connection, &record)?;
    Ok((items.len() as u64, RetryCursor(*last)))
}

fn add_record(connection: &Connection, record: &OperatorRecord) -> rusqlite::Result<()> {
    let Operator { user, uid, address } = &record.operator;
    connection
        .prepare_cached("DELETE FROM operator_record WHERE at <= ?1 AND logged")?
        .execute([millis(record.at - RECORD_LIFETIME)])?;
    connection
        .prepare_cached(
            "INSERT INTO operator_record (at, user, uid, address, action, item, items, queue_id, logged) \
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

/// Returns records, newest first: of one item, or of all.
pub(super) fn records(
    connection: &Connection,
    item: Option<&ItemId>,
    limit: usize,
) -> rusqlite::Result<Vec<OperatorRecord>> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} WHERE ?1 IS NULL OR item = ?1 ORDER BY seq DESC LIMIT ?2"
    ))?;
    let values = params![item.map(ItemId::as_str), sql_limit(limit)];
    readable(select.query_map(values, record)?)
}

/// Whether there are records that were not logged.
pub(super) fn has_unlogged(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM operator_record WHERE NOT logged)")?
        .query_row([], |row| row.get(0))
}

/// Returns the oldest records that were not logged, and marks them as logged.
pub(super) fn take_unlogged(connection: &Connection) -> rusqlite::Result<Vec<OperatorRecord>> {
    let last: Option<i64> = connection
        .prepare_cached(
            "SELECT max(seq) FROM (SELECT seq FROM operator_record WHERE NOT logged ORDER BY seq LIMIT ?1)",
        )?
        .query_row([LOG_BATCH], |row| row.get(0))?;
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} WHERE NOT logged AND seq <= ?1 ORDER BY seq"
    ))?;
    let found = readable(select.query_map([last], record)?)?;
    connection
        .prepare_cached("UPDATE operator_record SET logged = 1 WHERE NOT logged AND seq <= ?1")?
        .execute([last])?;
    Ok(found)
}

fn record(row: &Row<'_>) -> rusqlite::Result<OperatorRecord> {
    let address: Option<String> = row.get(3)?;
    let item = match row.get_ref(5)?.data_type() {
        Type::Null => None,
        _ => Some(item_id(row, 5)?),
    };
    Ok(OperatorRecord {
        at: time(row, 0)?,
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
