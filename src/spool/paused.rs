//! Items that an operator holds back: nobody tries them until he releases them.

use std::time::SystemTime;

use rusqlite::{Connection, params};

use super::database::{millis, numbers};
use crate::journal::ItemId;

/// Items on hold; part of the format, see [`super::database`]. `due` is null for them, so that a
/// look for what is due costs nothing for them.
pub(super) const TABLE: &str = "CREATE TABLE paused (item INTEGER PRIMARY KEY REFERENCES item);";

/// Holds an item. One that is under way at this moment may still be delivered; what is left of it
/// then is held. Tells whether it is there.
pub(super) fn pause(connection: &Connection, id: &ItemId) -> rusqlite::Result<bool> {
    let Some((number, _)) = numbers(connection, id)? else {
        return Ok(false);
    };
    connection
        .prepare_cached("INSERT OR IGNORE INTO paused (item) VALUES (?1)")?
        .execute([number])?;
    connection
        .prepare_cached("UPDATE item SET due = NULL WHERE seq = ?1")?
        .execute([number])?;
    Ok(true)
}

/// Releases an item: it is due, unless it waits for something else (the fate of its message, or an
/// operator's decision on a dead letter). Tells whether it was on hold.
pub(super) fn resume(
    connection: &Connection,
    id: &ItemId,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    let Some((number, _)) = numbers(connection, id)? else {
        return Ok(false);
    };
    if !forget(connection, number)? {
        return Ok(false);
    }
    connection
        .prepare_cached(
            "UPDATE item SET due = ?2 WHERE seq = ?1 AND aside IS NULL \
             AND NOT EXISTS (SELECT 1 FROM held WHERE item = ?1) \
             AND EXISTS (SELECT 1 FROM target WHERE item = ?1 AND state = 'waiting')",
        )?
        .execute(params![number, millis(now)])?;
    Ok(true)
}

/// It is on hold no more. Tells whether it was.
pub(super) fn forget(connection: &Connection, number: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("DELETE FROM paused WHERE item = ?1")?
        .execute([number])
        .map(|count| count > 0)
}
