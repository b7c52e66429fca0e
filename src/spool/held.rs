//! What is owed for a message whose fate is not known yet: durable, and not delivered before it is.
//!
//! A hook that hands messages on by itself learns from the next server whether a message was taken.
//! What is owed for it is held until then: released where it was taken, withdrawn where it was
//! refused. Where nobody can tell it is released and says so, since a report too many is better
//! than one too few. A process that ends in between leaves it held, and the next start releases it.

use bytes::{BufMut, BytesMut};
use rusqlite::{Connection, params};
use tracing::{error, warn};

use super::error::CommitError;
use super::store::Spool;
use super::{damage, database};
use crate::journal::{ItemId, Kind};

/// Items that are held. `due` is null for them, so that nobody tries them.
pub(super) const TABLE: &str = "CREATE TABLE held (item INTEGER PRIMARY KEY REFERENCES item);";

/// What stands in front of a report whose message may not have been delivered.
const NOTE: &str =
    "X-Copyist-Fate: unknown; whether the next server took the message is not known\r\n";

/// Items on hold, of one message. Dropped without a decision, they are released as of unknown fate.
#[must_use = "what is held is owed"]
pub struct Reservation {
    spool: Spool,
    items: Vec<ItemId>,
}

/// What became of the message.
#[derive(Debug, Clone)]
enum Fate {
    /// It was taken; these items with it, which are done.
    Taken(Vec<ItemId>),
    /// It was refused.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Reservation {
    pub(super) fn new(spool: Spool, items: Vec<ItemId>) -> Reservation {
        Reservation { spool, items }
    }

    /// The message was taken: what is owed is due, but for these items, which have reached
    /// everybody as well.
    pub async fn confirm(mut self, done: Vec<ItemId>) -> Result<(), CommitError> {
        self.decide(Fate::Taken(done)).await
    }

    /// The message was refused: nothing is owed for it.
    pub async fn cancel(mut self) -> Result<(), CommitError> {
        self.decide(Fate::Refused).await
    }

    /// Nobody knows: what is owed is due, and says so.
    pub async fn keep_unknown(mut self) -> Result<(), CommitError> {
        self.decide(Fate::Unknown).await
    }

    async fn decide(&mut self, fate: Fate) -> Result<(), CommitError> {
        let items = std::mem::take(&mut self.items);
        settle(&self.spool, items, fate).await
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let items = std::mem::take(&mut self.items);
        if items.is_empty() {
            return;
        }
        // Without a runtime the process ends, and the next start does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let spool = self.spool.clone();
            runtime.spawn(async move {
                if let Err(cause) = settle(&spool, items, Fate::Unknown).await {
                    error!("what is held stays so until the next start: {cause}");
                }
            });
        }
    }
}

async fn settle(spool: &Spool, items: Vec<ItemId>, fate: Fate) -> Result<(), CommitError> {
    if items.is_empty() {
        return Ok(());
    }
    spool
        .settle(move |connection| decide(connection, &items, &fate))
        .await
}

/// Gives the body files that no row names any more.
fn decide(connection: &Connection, items: &[ItemId], fate: &Fate) -> rusqlite::Result<Vec<String>> {
    let mut files = Vec::new();
    for id in items {
        let Some((number, message)) = database::numbers(connection, id)? else {
            // An operator dropped it meanwhile.
            continue;
        };
        match fate {
            Fate::Refused => files.extend(database::remove(connection, number, message)?),
            Fate::Taken(done) if done.contains(id) => {
                files.extend(database::remove(connection, number, message)?);
            }
            Fate::Taken(_) => release(connection, number)?,
            Fate::Unknown => {
                note(connection, number)?;
                release(connection, number)?;
            }
        }
    }
    Ok(files)
}

/// Marks an item that was just written as held.
pub(super) fn hold(connection: &Connection, id: &ItemId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE item SET due = NULL WHERE id = ?1")?
        .execute([id.as_str()])?;
    connection
        .prepare_cached("INSERT INTO held (item) SELECT seq FROM item WHERE id = ?1")?
        .execute([id.as_str()])
        .map(|_| ())
}

/// It is held no more.
pub(super) fn forget(connection: &Connection, number: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM held WHERE item = ?1")?
        .execute([number])
        .map(|_| ())
}

/// Makes an item due, from when its message came.
fn release(connection: &Connection, number: i64) -> rusqlite::Result<()> {
    forget(connection, number)?;
    connection
        .prepare_cached(
            "UPDATE item SET due = (SELECT received FROM message WHERE id = item.message) WHERE seq = ?1 AND due IS NULL \
             AND NOT EXISTS (SELECT 1 FROM paused WHERE item = ?1) \
             AND EXISTS (SELECT 1 FROM target WHERE item = ?1 AND state = 'waiting')",
        )?
        .execute([number])
        .map(|_| ())
}

/// Says in an item that nobody knows its message's fate. A version is a recipient's mail and says
/// nothing.
fn note(connection: &Connection, number: i64) -> rusqlite::Result<()> {
    if !damage::is_whole(connection, number)? {
        // It is set aside when it is loaded, as it is.
        return Ok(());
    }
    let (kind, prefix): (String, Vec<u8>) = connection
        .prepare_cached("SELECT kind, prefix FROM item WHERE seq = ?1")?
        .query_row([number], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if kind == Kind::Version.name() {
        return Ok(());
    }
    let mut noted = BytesMut::with_capacity(NOTE.len() + prefix.len());
    noted.put(NOTE.as_bytes());
    noted.put(&prefix[..]);
    connection
        .prepare_cached("UPDATE item SET prefix = ?2 WHERE seq = ?1")?
        .execute(params![number, &noted[..]])?;
    damage::forget(connection, number)?;
    damage::seal(connection, number)
}

/// Releases what an earlier process left held. Gives how many items.
pub(super) fn release_all(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let released = (|| {
        let mut select = connection.prepare("SELECT item FROM held")?;
        let numbers: Vec<i64> = select
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for number in &numbers {
            note(connection, *number)?;
            release(connection, *number)?;
        }
        Ok(numbers.len())
    })();
    match released {
        Ok(count) => connection.execute_batch("COMMIT").map(|()| count),
        Err(cause) => {
            if let Err(other) = connection.execute_batch("ROLLBACK") {
                warn!("what was begun is not undone: {other}");
            }
            Err(cause)
        }
    }
}
