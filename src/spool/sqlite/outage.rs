//! Outages in which the relay refuses everything: the digest that each NDR address gets once a day,
//! and whether the outage lasts, for the next start.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use super::ndr::MAX_LISTED;
use super::rows::{address, item_id, millis, sql_limit, time, unsigned};
use crate::journal::{Collected, ItemId, Undelivered};
use crate::mail::Address;
use crate::spool::types::NdrDigest;

/// Interval of the digests to one NDR address.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Returns the digests that are due: for each address with reports and copies whose last reply
/// begins with `reply`, unless it got one within a day or its last one is still queued. Reads every
/// target.
pub(super) fn digests(
    connection: &Connection,
    reply: &str,
    now: SystemTime,
) -> rusqlite::Result<Vec<NdrDigest>> {
    let mut select = connection.prepare_cached(
        "SELECT item.ndr, count(*) FROM target JOIN item ON item.seq = target.item \
         WHERE target.state = 'waiting' AND substr(target.reply, 1, length(?1)) = ?1 \
         AND item.kind IN ('report', 'copy') AND item.ndr IS NOT NULL AND item.ndr NOT IN (SELECT ndr FROM relay_outage \
             WHERE at BETWEEN ?2 AND ?3 OR EXISTS (SELECT 1 FROM item WHERE id = relay_outage.digest)) \
         GROUP BY item.ndr",
    )?;
    let due = select.query_map(params![reply, millis(now - DAY), millis(now)], |row| {
        Ok(NdrDigest {
            kind: Undelivered::Waiting,
            ndr: address(row, 0)?,
            listed: Vec::new(),
            count: unsigned(row, 1)?,
            last: 0,
        })
    })?;
    let mut due: Vec<NdrDigest> = due.collect::<rusqlite::Result<_>>()?;
    let mut select = connection.prepare_cached(
        "SELECT item.id, target.address, target.reply, item.subject, message.received FROM target \
         JOIN item ON item.seq = target.item JOIN message ON message.id = item.message \
         WHERE target.state = 'waiting' AND substr(target.reply, 1, length(?1)) = ?1 \
         AND item.kind IN ('report', 'copy') AND item.ndr = ?2 \
         ORDER BY item.seq LIMIT ?3",
    )?;
    for digest in &mut due {
        let values = params![reply, digest.ndr.to_string(), sql_limit(MAX_LISTED)];
        let listed = select.query_map(values, |row| {
            Ok(Collected {
                item: item_id(row, 0)?,
                target: address(row, 1)?,
                said: row.get(2)?,
                subject: row.get(3)?,
                at: time(row, 4)?,
            })
        })?;
        digest.listed = listed.collect::<rusqlite::Result<_>>()?;
    }
    Ok(due)
}

/// Stores the digest that an NDR address gets.
pub(super) fn set_reported(
    connection: &Connection,
    ndr: &Address,
    digest: &ItemId,
    now: SystemTime,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO relay_outage (ndr, at, digest) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![ndr.to_string(), millis(now), digest.as_str()])
        .map(|_| ())
}

/// Stores that an outage began, in a row without an NDR address.
pub(super) fn begin(connection: &Connection, now: SystemTime) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO relay_outage (ndr, at, digest) VALUES ('', ?1, '')",
        )?
        .execute([millis(now)])
        .map(|_| ())
}

/// Stores that the outage is over.
pub(super) fn end(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE relay_outage SET is_over = 1")?
        .execute([])
        .map(|_| ())
}

/// Whether there is an outage, as last stored.
pub(super) fn is_relay_refusing(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM relay_outage WHERE is_over = 0)")?
        .query_row([], |row| row.get(0))
}
