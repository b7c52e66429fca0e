//! What is told about failures, and what was heard of them: NDRs of the last hour and reports of
//! what may be a mail loop, both within a limit; what waits for a digest beyond it; and notices
//! that came back for what was delivered.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use super::database::{address, item_id, millis, numbers, time};
use crate::journal::{Bounce, Collected, Item, ItemId, Kind, Undelivered};
use crate::mail::Address;

/// NDRs are counted over this long, and a refusal that waits for a digest waits this long.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Refusals listed in one digest; the rest is counted.
pub(super) const MOST_LISTED: usize = 1000;

/// How long a bounce is remembered.
const BOUNCE_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bounces remembered for one item; whoever has a report could send as many as he likes.
const MOST_OF_ONE: i64 = 20;
/// Bounces remembered at all; the oldest go.
const MOST_BOUNCES: i64 = 10_000;

/// These tables; part of the format, see [`super::database`].
pub(super) const TABLES: &str = "
CREATE TABLE told (
    ndr TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX told_at ON told (ndr, at);
CREATE TABLE untold (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    item INTEGER NOT NULL REFERENCES item,
    target TEXT NOT NULL,
    ndr TEXT NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (item, target)
);
CREATE TABLE bounce (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    item TEXT NOT NULL,
    at INTEGER NOT NULL,
    reporter TEXT NOT NULL,
    action TEXT NOT NULL,
    status TEXT NOT NULL,
    said TEXT NOT NULL
);
CREATE INDEX bounce_item ON bounce (item);
CREATE INDEX bounce_at ON bounce (at);
";

/// What one NDR address was not told of: refusals, or items that wait.
#[derive(Debug, Clone)]
pub struct NdrDigest {
    /// Which of the two.
    pub what: Undelivered,
    /// The address.
    pub ndr: Address,
    /// The oldest of them, as many as are listed.
    pub listed: Vec<Collected>,
    /// How many there are.
    pub count: u64,
    /// The last one that the digest stands for.
    pub(super) last: i64,
}

/// A bounce about something of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BounceRecord {
    /// What it was about. It is seldom still in the spool.
    pub item: ItemId,
    /// When the bounce came.
    pub at: SystemTime,
    /// What it said.
    pub bounce: Bounce,
}

/// Counts an NDR to this address, where it is not one too many within the hour. Whether it may go.
pub(super) fn may_tell(
    connection: &Connection,
    ndr: &Address,
    most: u32,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    may_send(connection, ndr.key(), most, now)
}

/// The same for anything that is counted under a name.
fn may_send(
    connection: &Connection,
    name: &str,
    most: u32,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    let (from, now) = (millis(now - HOUR), millis(now));
    // What lies ahead was noted before the clock was set back.
    connection
        .prepare_cached("DELETE FROM told WHERE at <= ?1 OR at > ?2")?
        .execute([from, now])?;
    let told: u32 = connection
        .prepare_cached("SELECT count(*) FROM told WHERE ndr = ?1")?
        .query_row([name], |row| row.get(0))?;
    if told >= most {
        return Ok(false);
    }
    connection
        .prepare_cached("INSERT INTO told (ndr, at) VALUES (?1, ?2)")?
        .execute(params![name, now])?;
    Ok(true)
}

/// What is shown beside a target that a report is kept from.
const KEPT: &str = "not sent: too many reports to this address within an hour about mail to journal and NDR mailboxes, as in a mail loop";

/// Counts a report that was just added, by its NDR address and each of its targets; for a target
/// that gets too many within the hour it is a dead letter, which a digest tells of. Gives how many
/// these are.
pub(super) fn limit(
    connection: &Connection,
    item: &Item,
    most: u32,
    now: SystemTime,
) -> rusqlite::Result<u64> {
    let is_report = matches!(item.kind, Kind::Report | Kind::Copy);
    let (Some(ndr), Some((number, _))) = (
        item.ndr.as_ref().filter(|_| is_report),
        numbers(connection, &item.id)?,
    ) else {
        return Ok(0);
    };
    let mut kept = 0;
    for target in &item.targets {
        if may_send(
            connection,
            &format!("{} {}", ndr.key(), target.key()),
            most,
            now,
        )? {
            continue;
        }
        kept += 1;
        connection
            .prepare_cached(
                "UPDATE target SET state = 'dead', reply = ?3 WHERE item = ?1 AND address = ?2",
            )?
            .execute(params![number, target.to_string(), collected(KEPT)])?;
        collect(connection, number, target, ndr, now)?;
    }
    connection
        .prepare_cached(
            "UPDATE item SET due = NULL WHERE seq = ?1 \
             AND NOT EXISTS (SELECT 1 FROM target WHERE item = ?1 AND state = 'waiting')",
        )?
        .execute([number])?;
    Ok(kept)
}

/// What is shown beside the reply to a target that a digest tells of.
const COLLECTED: &str = " (no NDR of its own; a digest tells of it)";

/// The last reply of such a target.
pub(super) fn collected(reply: &str) -> String {
    format!("{reply}{COLLECTED}")
}

/// Notes that this address has yet to hear that a target of an item was refused.
pub(super) fn collect(
    connection: &Connection,
    item: i64,
    target: &Address,
    ndr: &Address,
    now: SystemTime,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO untold (item, target, ndr, at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            item,
            target.to_string(),
            ndr.to_string(),
            millis(now)
        ])
        .map(|_| ())
}

/// What was to be told about an item is not news any more: it is tried again, or gone.
pub(super) fn forget(connection: &Connection, item: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM untold WHERE item = ?1")?
        .execute([item])
        .map(|_| ())
}

/// The digests that are due: of each address whose oldest refusal waits for an hour.
pub(super) fn digests(
    connection: &Connection,
    now: SystemTime,
) -> rusqlite::Result<Vec<NdrDigest>> {
    let mut due = connection.prepare_cached(
        "SELECT ndr, count(*), max(seq) FROM untold GROUP BY ndr HAVING min(at) <= ?1 OR max(at) > ?2",
    )?;
    let due = due.query_map([millis(now - HOUR), millis(now)], |row| {
        Ok(NdrDigest {
            what: Undelivered::Dead,
            ndr: address(row, 0)?,
            listed: Vec::new(),
            count: row.get::<_, i64>(1)?.unsigned_abs(),
            last: row.get(2)?,
        })
    })?;
    let mut due: Vec<NdrDigest> = due.collect::<rusqlite::Result<_>>()?;
    let mut select = connection.prepare_cached(
        "SELECT item.id, untold.target, target.reply, item.subject, untold.at FROM untold \
         JOIN item ON item.seq = untold.item \
         LEFT JOIN target ON target.item = untold.item AND target.address = untold.target \
         WHERE untold.ndr = ?1 AND untold.seq <= ?2 ORDER BY untold.seq LIMIT ?3",
    )?;
    for digest in &mut due {
        let limit = i64::try_from(MOST_LISTED).unwrap_or(i64::MAX);
        let listed =
            select.query_map(params![digest.ndr.to_string(), digest.last, limit], |row| {
                Ok(Collected {
                    item: item_id(row, 0)?,
                    target: address(row, 1)?,
                    said: row
                        .get::<_, Option<String>>(2)?
                        .unwrap_or_default()
                        .trim_end_matches(COLLECTED)
                        .to_owned(),
                    subject: row.get(3)?,
                    at: time(row.get(4)?),
                })
            })?;
        digest.listed = listed.collect::<rusqlite::Result<_>>()?;
    }
    Ok(due)
}

/// The digest is owed from now on; what it stands for is told.
pub(super) fn told(connection: &Connection, digest: &NdrDigest) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM untold WHERE ndr = ?1 AND seq <= ?2")?
        .execute(params![digest.ndr.to_string(), digest.last])
        .map(|_| ())
}

/// Remembers a bounce, and forgets those that are old or too many. Whether it is news.
pub(super) fn bounced(connection: &Connection, bounced: &BounceRecord) -> rusqlite::Result<bool> {
    let BounceRecord { item, at, bounce } = bounced;
    connection
        .prepare_cached("DELETE FROM bounce WHERE at <= ?1")?
        .execute([millis(*at - BOUNCE_KEPT)])?;
    let known: i64 = connection
        .prepare_cached("SELECT count(*) FROM bounce WHERE item = ?1")?
        .query_row([item.as_str()], |row| row.get(0))?;
    if known >= MOST_OF_ONE {
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
        .execute([MOST_BOUNCES])?;
    Ok(true)
}

/// The bounces, newest first: of one item, or of all.
pub(super) fn bounces(
    connection: &Connection,
    item: Option<&ItemId>,
    limit: usize,
) -> rusqlite::Result<Vec<BounceRecord>> {
    let mut select = connection.prepare_cached(
        "SELECT item, at, reporter, action, status, said FROM bounce WHERE ?1 IS NULL OR item = ?1 \
         ORDER BY seq DESC LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = select.query_map(params![item.map(ItemId::as_str), limit], |row| {
        Ok(BounceRecord {
            item: item_id(row, 0)?,
            at: time(row.get(1)?),
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
