//! The changes of the tables. Runs inside the writer's transactions.

use std::time::SystemTime;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::read::{self, BodyLocation, StoredBody};
use super::rows::{address, item_id, millis};
use super::{damage, ndr, operator, outage, transit};
use crate::journal::{Item, ItemId, Kind, Undelivered};
use crate::mail::Address;
use crate::spool::digest::{MessageFacts, item_digest};
use crate::spool::job::{Enqueue, Job, JobResult};
use crate::spool::reservation::UNKNOWN_NOTE;
use crate::spool::types::{DeliveryOutcome, DeliveryResult, NdrStatus, TargetState};

/// Result of an applied job, and the body files that no row names any more.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) result: JobResult,
    pub(super) files: Vec<String>,
}

impl Applied {
    fn count(count: u64) -> Applied {
        Applied {
            result: JobResult {
                count,
                ..JobResult::default()
            },
            files: Vec::new(),
        }
    }

    fn files(files: Vec<String>) -> Applied {
        Applied {
            result: JobResult::default(),
            files,
        }
    }
}

/// A message and its number in the tables.
struct MessageRow<'a> {
    id: i64,
    facts: MessageFacts<'a>,
}

/// The numbers of an item and of its message.
#[derive(Debug, Clone, Copy)]
pub(super) struct ItemRow {
    pub(super) seq: i64,
    message: i64,
}

/// Applies a job. `bodies` are the stored originals of [`Job::Enqueue`], one for each submission.
pub(super) fn apply(
    connection: &Connection,
    job: &Job,
    bodies: &[StoredBody],
) -> rusqlite::Result<Applied> {
    match job {
        Job::Enqueue(job) => enqueue(connection, job, bodies).map(Applied::count),
        Job::Confirm { items, delivered } => confirm(connection, items, delivered),
        Job::Cancel { items } => confirm(connection, items, items),
        Job::KeepUnknown { items } => {
            for id in items {
                keep_unknown(connection, id)?;
            }
            Ok(Applied::default())
        }
        Job::Record { id, result, now } => record(connection, id, result, *now),
        Job::SetAside { id, reason } => {
            set_aside(connection, id, reason).map(|()| Applied::default())
        }
        Job::EnqueueDigest { digest, item, now } => {
            match digest.kind {
                Undelivered::Dead => ndr::set_reported(connection, digest)?,
                Undelivered::Waiting => {
                    outage::set_reported(connection, &digest.ndr, &item.id, *now)?;
                }
            }
            enqueue_ndr(connection, item, *now).map(|()| Applied::default())
        }
        Job::RecordBounce(bounce) => {
            let is_stored = ndr::record_bounce(connection, bounce)?;
            Ok(Applied::count(u64::from(is_stored)))
        }
        Job::SetRelayRefusing(Some(now)) => {
            outage::begin(connection, *now).map(|()| Applied::default())
        }
        Job::SetRelayRefusing(None) => outage::end(connection).map(|()| Applied::default()),
        Job::Operate {
            operator,
            action,
            id,
            now,
        } => {
            let (is_done, files) = operator::operate(connection, operator, *action, id, *now)?;
            Ok(Applied {
                files,
                ..Applied::count(u64::from(is_done))
            })
        }
        Job::RetryAfter {
            operator,
            cursor,
            limit,
            now,
        } => {
            let (count, cursor) =
                operator::retry_after(connection, operator, *cursor, *limit, *now)?;
            let mut applied = Applied::count(count);
            applied.result.cursor = cursor;
            Ok(applied)
        }
        Job::TakeUnlogged => {
            let mut applied = Applied::default();
            applied.result.operator_records = operator::take_unlogged(connection)?;
            Ok(applied)
        }
    }
}

/// Adds the items of a message. Returns the number of targets over the report limit.
fn enqueue(connection: &Connection, job: &Enqueue, bodies: &[StoredBody]) -> rusqlite::Result<u64> {
    let mut over_limit = 0;
    for (submission, body) in job.submissions.iter().zip(bodies) {
        let facts = MessageFacts {
            received: millis(job.received),
            size: body.size,
            sha256: &body.sha256,
        };
        let message = add_message(connection, &job.queue_id, facts, &body.location)?;
        for item in &submission.items {
            let due = (!job.is_reserved).then_some(message.facts.received);
            let seq = add_item(connection, &message, item, due)?;
            if let Some(limit) = job.report_limit {
                over_limit += ndr::limit_reports(connection, seq, item, limit, job.received)?;
            }
        }
    }
    Ok(over_limit)
}

/// Adds an NDR that carries nothing but its own text.
fn enqueue_ndr(connection: &Connection, item: &Item, now: SystemTime) -> rusqlite::Result<()> {
    let sha256 = digest(&SHA256, b"");
    let facts = MessageFacts {
        received: millis(now),
        size: 0,
        sha256: sha256.as_ref(),
    };
    let message = add_message(connection, "", facts, &BodyLocation::Inline(Bytes::new()))?;
    add_item(connection, &message, item, Some(millis(now))).map(|_| ())
}

fn add_message<'a>(
    connection: &Connection,
    queue_id: &str,
    facts: MessageFacts<'a>,
    body: &BodyLocation,
) -> rusqlite::Result<MessageRow<'a>> {
    let (content, file) = match body {
        BodyLocation::Inline(content) => (Some(&content[..]), None),
        BodyLocation::File(file) => (None, Some(file)),
    };
    connection
        .prepare_cached(
            "INSERT INTO message (queue_id, received, size, digest, content, file) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            queue_id,
            facts.received,
            facts.size as i64,
            facts.sha256,
            content,
            file
        ])?;
    Ok(MessageRow {
        id: connection.last_insert_rowid(),
        facts,
    })
}

/// Adds an item, reserved if no due time is given. Returns its number.
fn add_item(
    connection: &Connection,
    message: &MessageRow<'_>,
    item: &Item,
    due: Option<i64>,
) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO item (id, message, due, reserved, kind, direction, sender, ndr, message_id, envelope_id, \
             subject, reasons, body, smtputf8, digest, prefix, suffix, dsn) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        )?
        .execute(params![
            item.id.as_str(),
            message.id,
            due,
            due.is_none(),
            item.kind.name(),
            item.direction.name(),
            item.sender.as_ref().map(ToString::to_string),
            item.ndr.as_ref().map(ToString::to_string),
            item.message_id,
            item.envelope_id,
            item.subject,
            item.reasons.join("\n"),
            item.body.encoding(),
            item.smtputf8,
            item_digest(item, &message.facts),
            item.prefix.as_ref(),
            item.suffix.as_ref(),
            item.dsn.sender.join(" "),
        ])?;
    let seq = connection.last_insert_rowid();
    let mut insert =
        connection.prepare_cached("INSERT INTO target (item, address, dsn) VALUES (?1, ?2, ?3)")?;
    for target in &item.targets {
        let dsn = item.dsn.of(target).join(" ");
        insert.execute(params![seq, target.to_string(), dsn])?;
    }
    Ok(seq)
}

/// Schedules reserved items from the time when their message was received, and removes those in
/// `finished`.
fn confirm(
    connection: &Connection,
    items: &[ItemId],
    finished: &[ItemId],
) -> rusqlite::Result<Applied> {
    let mut files = Vec::new();
    for id in items {
        // An operator may have dropped it.
        if let Some(row) = find(connection, id)? {
            match finished.contains(id) {
                true => files.extend(remove(connection, row)?),
                false => schedule_reserved(connection, row.seq)?,
            }
        }
    }
    Ok(Applied::files(files))
}

fn schedule_reserved(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE item SET reserved = 0, due = CASE WHEN NOT on_hold AND set_aside IS NULL \
             AND EXISTS (SELECT 1 FROM target WHERE item = ?1 AND state = 'waiting') \
             THEN (SELECT received FROM message WHERE id = item.message) END WHERE seq = ?1 AND reserved",
        )?
        .execute([seq])
        .map(|_| ())
}

/// Schedules a reserved item, with a note that the next hop's answer is unknown. A version is a
/// recipient's mail and gets no note; a damaged item is set aside when it is loaded.
fn keep_unknown(connection: &Connection, id: &ItemId) -> rusqlite::Result<()> {
    let Some(row) = find(connection, id)? else {
        return Ok(());
    };
    match read::load(connection, id) {
        Ok(Some(mut stored)) if stored.item.kind != Kind::Version => {
            let prefix = [UNKNOWN_NOTE.as_bytes(), &stored.item.prefix].concat();
            stored.item.prefix = prefix.into();
            connection
                .prepare_cached("UPDATE item SET prefix = ?2, digest = ?3 WHERE seq = ?1")?
                .execute(params![row.seq, &stored.item.prefix[..], stored.digest()])?;
        }
        Ok(_) => {}
        Err(cause) if damage::is_damaged_row(&cause) => {}
        Err(cause) => return Err(cause),
    }
    schedule_reserved(connection, row.seq)
}

/// Keeps the items that an earlier process left reserved. Returns how many.
pub(super) fn keep_all_reserved(connection: &Connection) -> rusqlite::Result<usize> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let reserved: Vec<(i64, rusqlite::Result<ItemId>)> = connection
        .prepare("SELECT seq, id FROM item WHERE reserved")?
        .query_map([], |row| Ok((row.get(0)?, item_id(row, 1))))?
        .collect::<rusqlite::Result<_>>()?;
    for (seq, id) in &reserved {
        match id {
            Ok(id) => keep_unknown(connection, id)?,
            Err(_) => schedule_reserved(connection, *seq)?,
        }
    }
    transaction.commit()?;
    Ok(reserved.len())
}

/// Records the result of a delivery attempt, and removes the item if it is finished.
fn record(
    connection: &Connection,
    id: &ItemId,
    result: &DeliveryResult,
    now: SystemTime,
) -> rusqlite::Result<Applied> {
    let Some(row) = find(connection, id)? else {
        // An operator dropped it.
        return Ok(Applied::default());
    };
    if is_delivered_to_all(connection, row.seq, result)? {
        transit::record_delivery(connection, id, row.message, now)?;
        // The states would be deleted with the item.
        return remove(connection, row).map(Applied::files);
    }
    let status = ndr_status(connection, result, now)?;
    record_states(connection, row.seq, result, status, now)?;
    // In the same transaction as the states: at no time is a recipient refused without an NDR.
    if let (NdrStatus::Queued, Some(ndr)) = (status, &result.ndr) {
        add_ndr(connection, row.message, ndr, now)?;
    }
    connection
        .prepare_cached(
            "UPDATE item SET attempts = attempts + ?3, due = CASE WHEN NOT on_hold AND EXISTS \
             (SELECT 1 FROM target WHERE item = ?1 AND state = 'waiting') THEN ?2 END WHERE seq = ?1",
        )?
        .execute(params![
            row.seq,
            millis(result.next_attempt),
            result.relay_reached
        ])?;
    let is_open: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM target WHERE item = ?1 AND state IN ('waiting', 'dead'))",
        )?
        .query_row([row.seq], |row| row.get(0))?;
    let mut applied = Applied::default();
    applied.result.ndr = status;
    if !is_open {
        transit::record_delivery(connection, id, row.message, now)?;
        applied.files = remove(connection, row)?;
    }
    Ok(applied)
}

/// Whether an attempt delivered the item to all targets that were left, as most attempts do.
fn is_delivered_to_all(
    connection: &Connection,
    seq: i64,
    result: &DeliveryResult,
) -> rusqlite::Result<bool> {
    let is_delivered =
        |(_, outcome): &(Address, DeliveryOutcome)| *outcome == DeliveryOutcome::Delivered;
    if result.ndr.is_some() || !result.outcomes.iter().all(is_delivered) {
        return Ok(false);
    }
    let mut left = connection.prepare_cached(
        "SELECT address FROM target WHERE item = ?1 AND state IN ('waiting', 'dead')",
    )?;
    let left = left.query_map([seq], |row| address(row, 0))?;
    for address in left {
        let address = address?;
        if !result.outcomes.iter().any(|(to, _)| *to == address) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Decides about the NDR of a result: a digest replaces it if its address got too many.
fn ndr_status(
    connection: &Connection,
    result: &DeliveryResult,
    now: SystemTime,
) -> rusqlite::Result<NdrStatus> {
    let Some(ndr) = &result.ndr else {
        return Ok(NdrStatus::NotNeeded);
    };
    match (ndr.targets.first(), result.ndr_limit) {
        (Some(to), Some(limit)) if !ndr::count_ndr(connection, to.key(), limit, now)? => {
            Ok(NdrStatus::Pending)
        }
        _ => Ok(NdrStatus::Queued),
    }
}

fn record_states(
    connection: &Connection,
    seq: i64,
    result: &DeliveryResult,
    status: NdrStatus,
    now: SystemTime,
) -> rusqlite::Result<()> {
    let ndr_address = (result.ndr.as_ref())
        .and_then(|ndr| ndr.targets.first())
        .filter(|_| status == NdrStatus::Pending);
    let mut update = connection.prepare_cached(
        "UPDATE target SET state = ?3, reply = ?4 WHERE item = ?1 AND address = ?2",
    )?;
    for (address, outcome) in &result.outcomes {
        let (state, reply) = match outcome {
            DeliveryOutcome::Delivered => (TargetState::Delivered, None),
            DeliveryOutcome::Deferred(reply) => (TargetState::Waiting, Some(reply.clone())),
            // Kept, since no NDR of its own reports it.
            DeliveryOutcome::Refused(reply) if status == NdrStatus::Pending => {
                (TargetState::Dead, Some(ndr::mark_pending(reply)))
            }
            DeliveryOutcome::Refused(reply) => (TargetState::Refused, Some(reply.clone())),
            DeliveryOutcome::Dead(reply) => (TargetState::Dead, Some(reply.clone())),
        };
        update.execute(params![seq, address.to_string(), state.name(), reply])?;
        if let (DeliveryOutcome::Refused(_), Some(to)) = (outcome, ndr_address) {
            ndr::add_pending(connection, seq, address, to, now)?;
        }
    }
    Ok(())
}

/// Adds an NDR that carries a message of the queue.
fn add_ndr(
    connection: &Connection,
    message: i64,
    ndr: &Item,
    now: SystemTime,
) -> rusqlite::Result<()> {
    let (received, size, sha256): (i64, i64, Vec<u8>) = connection
        .prepare_cached("SELECT received, size, digest FROM message WHERE id = ?1")?
        .query_row([message], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let message = MessageRow {
        id: message,
        facts: MessageFacts {
            received,
            size: size.unsigned_abs(),
            sha256: &sha256,
        },
    };
    add_item(connection, &message, ndr, Some(millis(now))).map(|_| ())
}

/// The one place where an item is removed: it was delivered, an NDR replaces it, its message was
/// rejected, or an operator dropped it. The original is removed with its last item. Returns the
/// body file to remove after the commit.
pub(super) fn remove(connection: &Connection, row: ItemRow) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached("DELETE FROM item WHERE seq = ?1")?
        .execute([row.seq])?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM message WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM item WHERE message = ?1) RETURNING file",
    )?;
    let files = delete.query_map([row.message], |row| row.get::<_, Option<String>>(0))?;
    files.filter_map(Result::transpose).collect()
}

/// Finds the numbers of an item and of its message.
pub(super) fn find(connection: &Connection, id: &ItemId) -> rusqlite::Result<Option<ItemRow>> {
    connection
        .prepare_cached("SELECT seq, message FROM item WHERE id = ?1")?
        .query_row([id.as_str()], |row| {
            Ok(ItemRow {
                seq: row.get(0)?,
                message: row.get(1)?,
            })
        })
        .optional()
}

/// Sets an item aside: it stays, but is not tried.
fn set_aside(connection: &Connection, id: &ItemId, reason: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE item SET due = NULL, set_aside = ?2 WHERE id = ?1")?
        .execute(params![id.as_str(), reason])
        .map(|_| ())
}

/// Sets items aside whose very ID is damaged, so that nobody could ask for them. Returns how many.
/// IDs are read from their index alone: with a long queue, a start would take minutes otherwise.
pub(super) fn set_invalid_ids_aside(connection: &Connection) -> rusqlite::Result<usize> {
    let mut select = connection.prepare("SELECT seq, id FROM item ORDER BY id")?;
    let mut rows = select.query([])?;
    let mut invalid = Vec::new();
    while let Some(row) = rows.next()? {
        if item_id(row, 1).is_err() {
            invalid.push(row.get::<_, i64>(0)?);
        }
    }
    for seq in &invalid {
        connection.execute(
            "UPDATE item SET due = NULL, set_aside = 'invalid item ID' WHERE seq = ?1",
            [seq],
        )?;
    }
    Ok(invalid.len())
}
