//! Which reports were delivered long after they were made, and when this spool was first used by a
//! version that gives seals of format 3. By these two the pipeline tells a report on its way from a
//! replay, where the time in its seal does not.
//!
//! A report that is delivered at once needs no row: its seal says when it was made.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};

use super::database::{millis, time};
use crate::journal::ItemId;

/// Not part of the format: an older version leaves them alone.
pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS late (item TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seals_since (at INTEGER NOT NULL);
";

/// How long after its delivery a report may come by again: a relay tries for so long.
pub(super) const UNDER_WAY: Duration = Duration::from_secs(5 * 24 * 3600);

/// A report that is delivered within this time is not late.
pub(super) const PROMPT: Duration = Duration::from_secs(60);

/// How far the clocks of two machines with one seal key may be apart.
pub(super) const SKEW: Duration = Duration::from_secs(3600);

/// Notes when this spool was first used, once. What was noted by a clock that was ahead counts from
/// now.
pub(super) fn begin(connection: &Connection, now: SystemTime) -> rusqlite::Result<()> {
    let now = millis(now);
    connection.execute("UPDATE seals_since SET at = ?1 WHERE at > ?1", [now])?;
    connection
        .execute(
            "INSERT INTO seals_since (at) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM seals_since)",
            [now],
        )
        .map(|_| ())
}

/// Notes that an item of this message is done, if it took long, and forgets those that are too old
/// to matter.
pub(super) fn done(
    connection: &Connection,
    id: &ItemId,
    message: i64,
    now: SystemTime,
) -> rusqlite::Result<()> {
    let noted = connection
        .prepare_cached(
            "INSERT OR REPLACE INTO late (item, at) \
             SELECT ?1, ?3 FROM message WHERE id = ?2 AND abs(?3 - received) > ?4",
        )?
        .execute(params![
            id.as_str(),
            message,
            millis(now),
            PROMPT.as_millis() as i64
        ])?;
    if noted > 0 {
        connection
            .prepare_cached("DELETE FROM late WHERE at <= ?1 OR at > ?2")?
            .execute([millis(now - UNDER_WAY), millis(now)])?;
    }
    Ok(())
}

/// Whether a report that was made at this time, in format 2 before this spool was used, may still
/// be on its way.
pub(super) fn is_under_way(
    connection: &Connection,
    id: &ItemId,
    made: Option<SystemTime>,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    let made = match made {
        Some(made) => Some(made),
        None => since(connection)?,
    };
    let is_young = made.is_some_and(|made| made <= now + SKEW && now <= made + UNDER_WAY + PROMPT);
    if is_young {
        return Ok(true);
    }
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM item WHERE id = ?1) \
             OR EXISTS (SELECT 1 FROM late WHERE item = ?1 AND at BETWEEN ?2 AND ?3)",
        )?
        .query_row(
            params![id.as_str(), millis(now - UNDER_WAY), millis(now + SKEW)],
            |row| row.get(0),
        )
}

fn since(connection: &Connection) -> rusqlite::Result<Option<SystemTime>> {
    let at: Option<i64> = connection
        .prepare_cached("SELECT at FROM seals_since LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(at.map(time))
}
