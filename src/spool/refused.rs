//! Items that wait since the relay refuses everything: what their NDR addresses were told of it,
//! once a day, and whether it still does so, for the next start.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use super::database::{address, item_id, millis, time};
use super::news::{MOST_LISTED, NdrDigest};
use crate::journal::{Collected, ItemId, Undelivered};
use crate::mail::Address;

/// Not part of the format: an older version leaves it alone.
pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS told_waiting (
    ndr TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    digest TEXT NOT NULL,
    is_over INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
";

/// How often an NDR address gets a digest.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The digests that are due: of each address with reports and copies whose last reply begins so,
/// unless it was told within a day or its last digest is still queued. Looks at every target.
pub(super) fn digests(
    connection: &Connection,
    reply: &str,
    now: SystemTime,
) -> rusqlite::Result<Vec<NdrDigest>> {
    let mut due = connection.prepare_cached(
        "SELECT item.ndr, count(*) FROM target JOIN item ON item.seq = target.item \
         WHERE target.state = 'waiting' AND substr(target.reply, 1, length(?1)) = ?1 \
         AND item.kind IN ('report', 'copy') AND item.ndr IS NOT NULL AND item.ndr NOT IN (SELECT ndr FROM told_waiting \
             WHERE at BETWEEN ?2 AND ?3 OR EXISTS (SELECT 1 FROM item WHERE id = digest)) \
         GROUP BY item.ndr",
    )?;
    let due = due.query_map(params![reply, millis(now - DAY), millis(now)], |row| {
        Ok(NdrDigest {
            what: Undelivered::Waiting,
            ndr: address(row, 0)?,
            listed: Vec::new(),
            count: row.get::<_, i64>(1)?.unsigned_abs(),
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
        let limit = i64::try_from(MOST_LISTED).unwrap_or(i64::MAX);
        let listed = select.query_map(params![reply, digest.ndr.to_string(), limit], |row| {
            Ok(Collected {
                item: item_id(row, 0)?,
                target: address(row, 1)?,
                said: row.get(2)?,
                subject: row.get(3)?,
                at: time(row.get(4)?),
            })
        })?;
        digest.listed = listed.collect::<rusqlite::Result<_>>()?;
    }
    Ok(due)
}

/// Records the digest that an NDR address gets.
pub(super) fn told(
    connection: &Connection,
    ndr: &Address,
    digest: &ItemId,
    now: SystemTime,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO told_waiting (ndr, at, digest) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![ndr.to_string(), millis(now), digest.as_str()])
        .map(|_| ())
}

/// Records that the relay refuses everything, apart from all digests: the row without an address.
pub(super) fn begun(connection: &Connection, now: SystemTime) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO told_waiting (ndr, at, digest) VALUES ('', ?1, '')",
        )?
        .execute([millis(now)])
        .map(|_| ())
}

/// Notes that the relay takes items again.
pub(super) fn over(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE told_waiting SET is_over = 1")?
        .execute([])
        .map(|_| ())
}

/// Whether the relay refused everything when that was last noted.
pub(super) fn is_refusing(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM told_waiting WHERE is_over = 0)")?
        .query_row([], |row| row.get(0))
}
