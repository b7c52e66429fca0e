//! Reports that may still be on their way to a mailbox of the organization, by which the pipeline
//! tells a report from a replay: those delivered long after they were composed, and the time when
//! this spool was first used by a version whose seals have a time.
//!
//! A report that is delivered at once needs no row: its seal has the time.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{millis, time};
use crate::journal::ItemId;

/// Time after its delivery during which a report may pass again: relays try for so long.
const TRANSIT: Duration = Duration::from_secs(5 * 24 * 3600);

/// Delay up to which a delivery is not late.
const PROMPT: Duration = Duration::from_secs(60);

/// Difference allowed between the clocks of two machines with the same seal key.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Stores the time of the first use, once. A time ahead of now was stored by a wrong clock and is
/// replaced.
pub(super) fn begin(connection: &Connection, now: SystemTime) -> rusqlite::Result<()> {
    let now = millis(now);
    connection.execute("UPDATE first_use SET at = ?1 WHERE at > ?1", [now])?;
    connection
        .execute(
            "INSERT INTO first_use (at) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM first_use)",
            [now],
        )
        .map(|_| ())
}

/// Stores the delivery of an item of this message if it is late, and removes those that are too old
/// to matter.
pub(super) fn record_delivery(
    connection: &Connection,
    id: &ItemId,
    message: i64,
    now: SystemTime,
) -> rusqlite::Result<()> {
    let stored = connection
        .prepare_cached(
            "INSERT OR REPLACE INTO late_delivery (item, at) \
             SELECT ?1, ?3 FROM message WHERE id = ?2 AND abs(?3 - received) > ?4",
        )?
        .execute(params![
            id.as_str(),
            message,
            millis(now),
            PROMPT.as_millis() as i64
        ])?;
    if stored > 0 {
        connection
            .prepare_cached("DELETE FROM late_delivery WHERE at <= ?1 OR at > ?2")?
            .execute([millis(now - TRANSIT), millis(now)])?;
    }
    Ok(())
}

/// Whether a report that was sealed at this time may still be on its way; without a time, it was
/// sealed before the first use.
pub(super) fn is_in_transit(
    connection: &Connection,
    id: &ItemId,
    sealed: Option<SystemTime>,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    let sealed = match sealed {
        Some(sealed) => Some(sealed),
        None => first_use(connection)?,
    };
    let is_recent =
        sealed.is_some_and(|sealed| sealed <= now + CLOCK_SKEW && now <= sealed + TRANSIT + PROMPT);
    if is_recent {
        return Ok(true);
    }
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM item WHERE id = ?1) \
             OR EXISTS (SELECT 1 FROM late_delivery WHERE item = ?1 AND at BETWEEN ?2 AND ?3)",
        )?
        .query_row(
            params![id.as_str(), millis(now - TRANSIT), millis(now + CLOCK_SKEW)],
            |row| row.get(0),
        )
}

fn first_use(connection: &Connection) -> rusqlite::Result<Option<SystemTime>> {
    connection
        .prepare_cached("SELECT at FROM first_use LIMIT 1")?
        .query_row([], |row| time(row, 0))
        .optional()
}
