//! Bookkeeping of NDRs and bounces: the NDRs of the last hour and the reports of a possible mail
//! loop, both within a limit; refusals over the limit, which a digest reports; and bounces that
//! came back for delivered items.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use super::rows::{address, item_id, millis, sql_limit, time, unsigned};
use crate::journal::{Bounce, Collected, Item, ItemId, Kind, Undelivered};
use crate::mail::Address;
use crate::spool::types::{BounceRecord, NdrDigest};

/// Period over which NDRs are counted, and after which a pending refusal is reported by a digest.
const HOUR: Duration = Duration::from_secs(3600);

/// Number of failures listed in one digest; the others are counted.
pub(super) const MAX_LISTED: usize = 1000;

/// Period for which a bounce is kept.
const BOUNCE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bounces kept for one item; whoever has a report could send any number.
const MAX_BOUNCES_PER_ITEM: i64 = 20;
/// Bounces kept in total; the oldest are removed.
const MAX_BOUNCES: i64 = 10_000;

/// Reply of a target that the report limit keeps a report from.
const OVER_LIMIT: &str = "not sent: too many reports to this address within an hour about mail to journal and NDR mailboxes, as in a mail loop";

/// Text after the reply of a target that a digest reports.
const PENDING: &str = " (no NDR of its own; a digest reports it)";

/// Text of format 5 in the same place.
const PENDING_5: &str = " (no NDR of its own; a digest tells of it)";

/// Counts an NDR to this address if it is within the limit of an hour. Returns whether it is.
pub(super) fn count_ndr(
    connection: &Connection,
    address: &str,
    limit: u32,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    let (from, now) = (millis(now - HOUR), millis(now));
    // Times ahead of now were stored before the clock was set back.
    connection
        .prepare_cached("DELETE FROM ndr_sent WHERE at <= ?1 OR at > ?2")?
        .execute([from, now])?;
    let sent: u32 = connection
        .prepare_cached("SELECT count(*) FROM ndr_sent WHERE ndr = ?1")?
        .query_row([address], |row| row.get(0))?;
    if sent >= limit {
        return Ok(false);
    }
    connection
        .prepare_cached("INSERT INTO ndr_sent (ndr, at) VALUES (?1, ?2)")?
        .execute(params![address, now])?;
    Ok(true)
}

/// Counts a report that was just added, for its NDR address and each of its targets. For a target
/// over the limit the report becomes a dead letter, which a digest reports. Returns the number of
/// these targets.
pub(super) fn limit_reports(
    connection: &Connection,
    seq: i64,
    item: &Item,
    limit: u32,
    now: SystemTime,
) -> rusqlite::Result<u64> {
    let is_report = matches!(item.kind, Kind::Report | Kind::Copy);
    let Some(ndr) = item.ndr.as_ref().filter(|_| is_report) else {
        return Ok(0);
    };
    let mut over_limit = 0;
    for target in &item.targets {
        let name = format!("{} {}", ndr.key(), target.key());
        if count_ndr(connection, &name, limit, now)? {
            continue;
        }
        over_limit += 1;
        connection
            .prepare_cached(
                "UPDATE target SET state = 'dead', reply = ?3 WHERE item = ?1 AND address = ?2",
            )?
            .execute(params![seq, target.to_string(), mark_pending(OVER_LIMIT)])?;
        add_pending(connection, seq, target, ndr, now)?;
    }
    connection
        .prepare_cached(
            "UPDATE item SET due = NULL WHERE seq = ?1 \
             AND NOT EXISTS (SELECT 1 FROM target WHERE item = ?1 AND state = 'waiting')",
        )?
        .execute([seq])?;
    Ok(over_limit)
}

/// Marks the reply of a refused target that a digest reports.
pub(super) fn mark_pending(reply: &str) -> String {
    format!("{reply}{PENDING}")
}

/// Adds a refusal that has to be reported to this NDR address.
pub(super) fn add_pending(
    connection: &Connection,
    seq: i64,
    target: &Address,
    ndr: &Address,
    now: SystemTime,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO ndr_pending (item, target, ndr, at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            seq,
            target.to_string(),
            ndr.to_string(),
            millis(now)
        ])
        .map(|_| ())
}

/// Removes the pending refusals of an item that is retried.
pub(super) fn remove_pending(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM ndr_pending WHERE item = ?1")?
        .execute([seq])
        .map(|_| ())
}

/// Returns the digests that are due: for each address whose oldest refusal is an hour old.
pub(super) fn digests(
    connection: &Connection,
    now: SystemTime,
) -> rusqlite::Result<Vec<NdrDigest>> {
    let mut select = connection.prepare_cached(
        "SELECT ndr, count(*), max(seq) FROM ndr_pending GROUP BY ndr HAVING min(at) <= ?1 OR max(at) > ?2",
    )?;
    let due = select.query_map([millis(now - HOUR), millis(now)], |row| {
        Ok(NdrDigest {
            kind: Undelivered::Dead,
            ndr: address(row, 0)?,
            listed: Vec::new(),
            count: unsigned(row, 1)?,
            last: row.get(2)?,
        })
    })?;
    let mut due: Vec<NdrDigest> = due.collect::<rusqlite::Result<_>>()?;
    let mut select = connection.prepare_cached(
        "SELECT item.id, ndr_pending.target, target.reply, item.subject, ndr_pending.at FROM ndr_pending \
         JOIN item ON item.seq = ndr_pending.item \
         LEFT JOIN target ON target.item = ndr_pending.item AND target.address = ndr_pending.target \
         WHERE ndr_pending.ndr = ?1 AND ndr_pending.seq <= ?2 ORDER BY ndr_pending.seq LIMIT ?3",
    )?;
    for digest in &mut due {
        let values = params![digest.ndr.to_string(), digest.last, sql_limit(MAX_LISTED)];
        let listed = select.query_map(values, |row| {
            let reply: Option<String> = row.get(2)?;
            Ok(Collected {
                item: item_id(row, 0)?,
                target: address(row, 1)?,
                said: reply
                    .unwrap_or_default()
                    .trim_end_matches(PENDING)
                    .trim_end_matches(PENDING_5)
                    .to_owned(),
                subject: row.get(3)?,
                at: time(row, 4)?,
            })
        })?;
        digest.listed = listed.collect::<rusqlite::Result<_>>()?;
    }
    Ok(due)
}

/// Removes the refusals that a digest covers.
pub(super) fn set_reported(connection: &Connection, digest: &NdrDigest) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM ndr_pending WHERE ndr = ?1 AND seq <= ?2")?
        .execute(params![digest.ndr.to_string(), digest.last])
        .map(|_| ())
}

/// Stores a bounce, and removes those that are old or too many. Returns false if the item has too
/// many already.
pub(super) fn record_bounce(
    connection: &Connection,
    record: &BounceRecord,
) -> rusqlite::Result<bool> {
    let BounceRecord { item, at, bounce } = record;
    connection
        .prepare_cached("DELETE FROM bounce WHERE at <= ?1")?
        .execute([millis(*at - BOUNCE_LIFETIME)])?;
    let stored: i64 = connection
        .prepare_cached("SELECT count(*) FROM bounce WHERE item = ?1")?
        .query_row([item.as_str()], |row| row.get(0))?;
    if stored >= MAX_BOUNCES_PER_ITEM {
        return Ok(false);
    }
    connection
        .prepare_cached(
            "INSERT INTO bounce (item, at, reporter, action, status, said) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            item.as_str(),
            millis(*at),
            bounce.reporter,
            bounce.action,
            bounce.status,
            bounce.said
        ])?;
    connection
        .prepare_cached(
            "DELETE FROM bounce WHERE seq <= (SELECT seq FROM bounce ORDER BY seq DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([MAX_BOUNCES])?;
    Ok(true)
}

/// Returns bounces, newest first: of one item, or of all.
pub(super) fn bounces(
    connection: &Connection,
    item: Option<&ItemId>,
    limit: usize,
) -> rusqlite::Result<Vec<BounceRecord>> {
    let mut select = connection.prepare_cached(
        "SELECT item, at, reporter, action, status, said FROM bounce WHERE ?1 IS NULL OR item = ?1 \
         ORDER BY seq DESC LIMIT ?2",
    )?;
    let values = params![item.map(ItemId::as_str), sql_limit(limit)];
    let found = select.query_map(values, |row| {
        Ok(BounceRecord {
            item: item_id(row, 0)?,
            at: time(row, 1)?,
            bounce: Bounce {
                reporter: row.get(2)?,
                action: row.get(3)?,
                status: row.get(4)?,
                said: row.get(5)?,
            },
        })
    })?;
    found.collect()
}
