//! The tables, and every statement on them. Runs inside the writer's transactions or on the reading
//! connection.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};

use super::damage;
use super::error::OpenError;
use super::{
    DeliveryOutcome, DeliveryResult, Recorded, held, late, news, operator, paused, refused,
};
use crate::journal::{Dsn, Item, ItemId, Kind};
use crate::mail::{Address, BodyKind};

/// The format of the tables (`PRAGMA user_version`).
const FORMAT: i64 = 5;

/// Items are found by due time and by name, messages by number: all by index, so that a queue of a
/// million costs no more to work on than a short one. `due` is null for what nobody tries: dead or
/// set aside.
const TABLES: &str = "
CREATE TABLE message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue_id TEXT NOT NULL,
    received INTEGER NOT NULL,
    size INTEGER NOT NULL,
    digest BLOB NOT NULL,
    content BLOB,
    file TEXT UNIQUE,
    CHECK ((content IS NULL) <> (file IS NULL))
);
CREATE TABLE item (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    message INTEGER NOT NULL REFERENCES message,
    due INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    aside TEXT,
    kind TEXT NOT NULL,
    direction TEXT NOT NULL,
    sender TEXT,
    ndr TEXT,
    message_id TEXT NOT NULL,
    envelope_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    reasons TEXT NOT NULL,
    body TEXT NOT NULL,
    smtputf8 INTEGER NOT NULL,
    prefix BLOB NOT NULL,
    suffix BLOB NOT NULL,
    params TEXT NOT NULL DEFAULT ''
);
CREATE INDEX item_due ON item (due) WHERE due IS NOT NULL;
CREATE INDEX item_message ON item (message);
CREATE TABLE target (
    item INTEGER NOT NULL REFERENCES item,
    address TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'refused', 'dead')),
    reply TEXT,
    params TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (item, address)
) WITHOUT ROWID;
CREATE INDEX target_dead ON target (item) WHERE state = 'dead';
";

/// From format 1, which knew of no DSN parameters.
const FROM_1: &str = "
ALTER TABLE item ADD COLUMN params TEXT NOT NULL DEFAULT '';
ALTER TABLE target ADD COLUMN params TEXT NOT NULL DEFAULT '';
";

/// What brings tables of this format to [`FORMAT`]; 0 is an empty database. Format 2 knew of no
/// [`news`], format 3 of nothing [`held`], format 4 of nothing [`paused`].
fn upgrade(from: i64) -> Option<String> {
    let (first, news, held) = match from {
        0 => (TABLES, news::TABLES, held::TABLE),
        1 => (FROM_1, news::TABLES, held::TABLE),
        2 => ("", news::TABLES, held::TABLE),
        3 => ("", "", held::TABLE),
        4 => ("", "", ""),
        _ => return None,
    };
    let paused = paused::TABLE;
    Some(format!(
        "BEGIN IMMEDIATE; {first} {news} {held} {paused} PRAGMA user_version = {FORMAT}; COMMIT;"
    ))
}

/// An original on its way into the tables.
pub(super) struct NewMessage {
    pub(super) queue_id: String,
    pub(super) received: SystemTime,
    pub(super) size: usize,
    pub(super) kept: Stored,
}

/// An item as the tables hold it.
pub(super) struct Loaded {
    pub(super) item: Item,
    pub(super) waiting: Vec<Address>,
    pub(super) attempts: u32,
    pub(super) received: SystemTime,
    pub(super) stored: Stored,
}

/// Where an original is: in its row or in a body file.
pub(super) struct Stored {
    pub(super) content: Option<Bytes>,
    pub(super) file: Option<String>,
    pub(super) digest: Vec<u8>,
}

/// Opens a connection with the settings that the promise stands on.
///
/// Pages are of 8 KiB (those of a database that is there already stay as they are): a message of
/// the usual size takes two of them, and each page of the log costs two writes. Measured with
/// `benches/spool.rs`.
pub(super) fn connect(path: &Path, create: bool) -> Result<Connection, OpenError> {
    let failed = |cause| damage::open_error(path, cause);
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    // A queue command may hold the write lock for a moment.
    connection
        .busy_timeout(Duration::from_secs(10))
        .map_err(failed)?;
    // Or every statement is prepared anew for the values that are bound to it, to see whether
    // another plan suited them.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(failed)?;
    let settings = "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
                    PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864;";
    connection.execute_batch(settings).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    let upgrade = upgrade(found).filter(|_| create);
    match upgrade {
        _ if found == FORMAT => {}
        Some(statements) => connection.execute_batch(&statements).map_err(failed)?,
        None => {
            return Err(OpenError::Format {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
    }
    connection.execute_batch(damage::TABLE).map_err(failed)?;
    connection.execute_batch(late::TABLES).map_err(failed)?;
    connection.execute_batch(operator::TABLE).map_err(failed)?;
    connection.execute_batch(refused::TABLE).map_err(failed)?;
    Ok(connection)
}

/// Copies into the database, and syncs there, what is in the log, so that the next commit begins
/// the log anew. A process whose sync failed leaves a log that reads well from the system's memory
/// while the disk lacks a part of it; what this process appended to it would be lost with that part
/// in the next power cut.
pub(super) fn begin_log_anew(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let copied = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0));
    match copied {
        Ok(false) => Ok(()),
        Ok(true) => {
            tracing::warn!("{} is being read; its log goes on as it is", path.display());
            Ok(())
        }
        // What waits in it must be delivered to make room.
        Err(cause) if cause.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            tracing::warn!(
                "the disk is full; the log of {} goes on as it is",
                path.display()
            );
            Ok(())
        }
        Err(cause) => Err(damage::open_error(path, cause)),
    }
}

/// Pages in the log from which on they are copied into the database: 4 MiB. What was delivered and
/// removed by then is never copied, and what many commits changed is copied once.
const LOG_PAGES: i64 = 512;

/// Copies the log into the database once it is long. SQLite would do it by itself at the end of a
/// commit, and keep to itself that a sync failed.
pub(super) fn shorten_log(connection: &Connection) -> rusqlite::Result<()> {
    let log = log_progress(connection)?;
    if log.pages < LOG_PAGES || log.copied == log.pages {
        return Ok(());
    }
    // Whom a reader holds up is tried again after the next commit.
    connection
        .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
        .query_row([], |_| Ok(()))
}

/// How far the log has been copied into the database.
pub(super) struct LogProgress {
    pages: i64,
    pub(super) copied: i64,
}

/// Looks, and copies nothing.
pub(super) fn log_progress(connection: &Connection) -> rusqlite::Result<LogProgress> {
    connection
        .prepare_cached("PRAGMA wal_checkpoint(NOOP)")?
        .query_row([], |row| {
            Ok(LogProgress {
                pages: row.get(1)?,
                copied: row.get(2)?,
            })
        })
}

/// Adds a message and what is owed for it, due at once.
pub(super) fn add(
    connection: &Connection,
    message: &NewMessage,
    items: &[Item],
) -> rusqlite::Result<()> {
    let kept = &message.kept;
    connection
        .prepare_cached(
            "INSERT INTO message (queue_id, received, size, digest, content, file) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            message.queue_id,
            millis(message.received),
            message.size as i64,
            kept.digest,
            kept.content.as_deref(),
            kept.file
        ])?;
    let number = connection.last_insert_rowid();
    items
        .iter()
        .try_for_each(|item| add_item(connection, number, item, millis(message.received)))
}

fn add_item(connection: &Connection, message: i64, item: &Item, due: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO item (id, message, due, kind, direction, sender, ndr, message_id, envelope_id, subject, \
             reasons, body, smtputf8, prefix, suffix, params) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(params![
            item.id.as_str(),
            message,
            due,
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
            item.prefix.as_ref(),
            item.suffix.as_ref(),
            item.dsn.sender.join(" "),
        ])?;
    let number = connection.last_insert_rowid();
    let mut insert = connection
        .prepare_cached("INSERT INTO target (item, address, params) VALUES (?1, ?2, ?3)")?;
    for target in &item.targets {
        let params = item.dsn.of(target).join(" ");
        insert.execute(params![number, target.to_string(), params])?;
    }
    damage::seal(connection, number)
}

/// The names of items that are due, oldest first.
pub(super) fn due(
    connection: &Connection,
    now: SystemTime,
    limit: usize,
) -> rusqlite::Result<Vec<ItemId>> {
    let mut select =
        connection.prepare_cached("SELECT id FROM item WHERE due <= ?1 ORDER BY due LIMIT ?2")?;
    let found = select.query_map(params![millis(now), limit as i64], |row| item_id(row, 0))?;
    readable(found)
}

/// The names of items that are due later than this, the latest first.
pub(super) fn due_after(
    connection: &Connection,
    latest: SystemTime,
    limit: usize,
) -> rusqlite::Result<Vec<ItemId>> {
    let mut select = connection
        .prepare_cached("SELECT id FROM item WHERE due > ?1 ORDER BY due DESC LIMIT ?2")?;
    let found = select.query_map(params![millis(latest), limit as i64], |row| item_id(row, 0))?;
    readable(found)
}

/// When the next item is due.
pub(super) fn next_due(connection: &Connection) -> rusqlite::Result<Option<SystemTime>> {
    let mut select =
        connection.prepare_cached("SELECT min(due) FROM item WHERE due IS NOT NULL")?;
    let due: Option<i64> = select.query_row([], |row| row.get(0))?;
    Ok(due.map(time))
}

/// An item with its waiting targets, its attempts, and where its original is.
pub(super) fn load(connection: &Connection, id: &ItemId) -> rusqlite::Result<Option<Loaded>> {
    let mut select = connection.prepare_cached(
        "SELECT item.seq, kind, direction, sender, ndr, message_id, envelope_id, subject, reasons, body, smtputf8, \
         prefix, suffix, attempts, content, file, digest, params, received \
         FROM item JOIN message ON message.id = item.message WHERE item.id = ?1",
    )?;
    let found = select
        .query_row([id.as_str()], |row| {
            let stored = Stored {
                content: row.get::<_, Option<Vec<u8>>>(14)?.map(Bytes::from),
                file: row.get(15)?,
                digest: row.get(16)?,
            };
            Ok((
                row.get::<_, i64>(0)?,
                item(row, id)?,
                (row.get::<_, u32>(13)?, time(row.get(18)?)),
                stored,
            ))
        })
        .optional()?;
    let Some((number, mut item, (attempts, received), stored)) = found else {
        return Ok(None);
    };
    if !damage::is_whole(connection, number)? {
        return Err(damaged(
            0,
            "its row is not what was written (SHA-256 differs)",
        ));
    }
    let mut waiting = Vec::new();
    let mut targets =
        connection.prepare_cached("SELECT address, state, params FROM target WHERE item = ?1")?;
    let mut rows = targets.query([number])?;
    while let Some(row) = rows.next()? {
        let address = address(row, 0)?;
        match row.get_ref(1)?.as_str()? {
            "waiting" => waiting.push(address.clone()),
            "delivered" | "refused" | "dead" => {}
            other => {
                return Err(damaged(
                    1,
                    &format!("a target is in no state but {other:?}"),
                ));
            }
        }
        let params = words(row.get_ref(2)?.as_str()?);
        if !params.is_empty() {
            item.dsn.recipients.push((address.clone(), params));
        }
        item.targets.push(address);
    }
    Ok(Some(Loaded {
        item,
        waiting,
        attempts,
        received,
        stored,
    }))
}

/// The targets of an item that still wait; none where there is no such item.
pub(super) fn waiting(connection: &Connection, id: &ItemId) -> rusqlite::Result<Vec<Address>> {
    let mut select = connection.prepare_cached(
        "SELECT address FROM target JOIN item ON item.seq = target.item WHERE item.id = ?1 AND state = 'waiting'",
    )?;
    let found = select.query_map([id.as_str()], |row| address(row, 0))?;
    found.collect()
}

fn item(row: &Row<'_>, id: &ItemId) -> rusqlite::Result<Item> {
    let reasons: String = row.get(8)?;
    Ok(Item {
        id: id.clone(),
        kind: parsed(row, 1, |text| {
            Kind::ALL.into_iter().find(|kind| kind.name() == text)
        })?,
        direction: parsed(row, 2, |text| text.parse().ok())?,
        sender: optional_address(row, 3)?,
        ndr: optional_address(row, 4)?,
        targets: Vec::new(),
        message_id: row.get(5)?,
        envelope_id: row.get(6)?,
        subject: row.get(7)?,
        reasons: reasons.lines().map(str::to_owned).collect(),
        body: parsed(row, 9, |text| {
            let kinds = [BodyKind::SevenBit, BodyKind::EightBit, BodyKind::Binary];
            kinds.into_iter().find(|kind| kind.encoding() == text)
        })?,
        smtputf8: row.get(10)?,
        prefix: Bytes::from(row.get::<_, Vec<u8>>(11)?),
        suffix: Bytes::from(row.get::<_, Vec<u8>>(12)?),
        dsn: Dsn {
            sender: words(row.get_ref(17)?.as_str()?),
            recipients: Vec::new(),
        },
    })
}

/// Writes down what an attempt came to, and removes what is finished. Gives the body files that no
/// row names any more.
pub(super) fn record(
    connection: &Connection,
    id: &ItemId,
    result: &DeliveryResult,
    now: SystemTime,
) -> rusqlite::Result<(Recorded, Vec<String>)> {
    let Some((number, message)) = numbers(connection, id)? else {
        // An operator dropped it meanwhile.
        return Ok((Recorded::default(), Vec::new()));
    };
    if everybody_has_it(connection, number, result)? {
        late::done(connection, id, message, now)?;
        // What would be written down goes with the item.
        return Ok((Recorded::default(), remove(connection, number, message)?));
    }
    let told_to = result.ndr.as_ref().and_then(|ndr| ndr.targets.first());
    let collects = match (told_to, result.ndr_limit) {
        (Some(to), Some(most)) => !news::may_tell(connection, to, most, now)?,
        _ => false,
    };
    let mut update = connection.prepare_cached(
        "UPDATE target SET state = ?3, reply = ?4 WHERE item = ?1 AND address = ?2",
    )?;
    for (address, outcome) in &result.outcomes {
        let (state, reply) = match outcome {
            DeliveryOutcome::Delivered => ("delivered", None),
            DeliveryOutcome::Deferred(reply) => ("waiting", Some(reply.clone())),
            // Without an NDR to stand for it, it has to stay.
            DeliveryOutcome::Refused(reply) if collects => ("dead", Some(news::collected(reply))),
            DeliveryOutcome::Refused(reply) => ("refused", Some(reply.clone())),
            DeliveryOutcome::Dead(reply) => ("dead", Some(reply.clone())),
        };
        update.execute(params![number, address.to_string(), state, reply])?;
        if let (DeliveryOutcome::Refused(_), Some(to), true) = (outcome, told_to, collects) {
            news::collect(connection, number, address, to, now)?;
        }
    }
    // In the same transaction as the marks above: there is no moment at which a recipient is
    // refused and nobody is owed the news.
    if let Some(ndr) = result.ndr.as_ref().filter(|_| !collects) {
        add_item(connection, message, ndr, millis(now))?;
    }
    connection
        .prepare_cached(
            "UPDATE item SET attempts = attempts + ?3, due = CASE WHEN EXISTS \
             (SELECT 1 FROM target WHERE item = ?1 AND state = 'waiting') \
             AND NOT EXISTS (SELECT 1 FROM paused WHERE item = ?1) THEN ?2 END WHERE seq = ?1",
        )?
        .execute(params![
            number,
            millis(result.next_attempt),
            result.relay_reached
        ])?;
    let open: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM target WHERE item = ?1 AND state IN ('waiting', 'dead'))",
        )?
        .query_row([number], |row| row.get(0))?;
    let files = match open {
        true => Vec::new(),
        false => {
            late::done(connection, id, message, now)?;
            remove(connection, number, message)?
        }
    };
    let recorded = Recorded {
        has_ndr: result.ndr.is_some() && !collects,
        collected: collects,
    };
    Ok((recorded, files))
}

/// Whether an attempt delivered an item to all who were left, as most do.
fn everybody_has_it(
    connection: &Connection,
    number: i64,
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
    let left = left.query_map([number], |row| address(row, 0))?;
    for address in left {
        let address = address?;
        if !result.outcomes.iter().any(|(to, _)| *to == address) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The one place where an item is removed: everyone has it, an NDR stands for it, its message was
/// refused, or an operator said so. The original goes with its last item. Gives the body file to
/// remove after the commit.
pub(super) fn remove(
    connection: &Connection,
    number: i64,
    message: i64,
) -> rusqlite::Result<Vec<String>> {
    news::forget(connection, number)?;
    held::forget(connection, number)?;
    paused::forget(connection, number)?;
    damage::forget(connection, number)?;
    connection
        .prepare_cached("DELETE FROM target WHERE item = ?1")?
        .execute([number])?;
    connection
        .prepare_cached("DELETE FROM item WHERE seq = ?1")?
        .execute([number])?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM message WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM item WHERE message = ?1) RETURNING file",
    )?;
    let files = delete.query_map([message], |row| row.get::<_, Option<String>>(0))?;
    files.filter_map(Result::transpose).collect()
}

/// An operator gives an item up.
pub(super) fn drop_item(
    connection: &Connection,
    id: &ItemId,
) -> rusqlite::Result<Option<Vec<String>>> {
    match numbers(connection, id)? {
        Some((number, message)) => remove(connection, number, message).map(Some),
        None => Ok(None),
    }
}

/// The numbers of an item and of its message.
pub(super) fn numbers(
    connection: &Connection,
    id: &ItemId,
) -> rusqlite::Result<Option<(i64, i64)>> {
    connection
        .prepare_cached("SELECT seq, message FROM item WHERE id = ?1")?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Makes an item due, dead letters, what was set aside and what is on hold included. Tells whether
/// it is there.
pub(super) fn retry(
    connection: &Connection,
    id: &ItemId,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    let Some((number, _)) = numbers(connection, id)? else {
        return Ok(false);
    };
    connection
        .prepare_cached("UPDATE target SET state = 'waiting' WHERE item = ?1 AND state = 'dead'")?
        .execute([number])?;
    news::forget(connection, number)?;
    held::forget(connection, number)?;
    paused::forget(connection, number)?;
    connection
        .prepare_cached("UPDATE item SET due = ?2, aside = NULL WHERE seq = ?1")?
        .execute(params![number, millis(now)])?;
    Ok(true)
}

/// Items to retry after the one with this number, with their names. What is on hold stays so, for
/// it was meant one by one, and what waits for the fate of its message, which may yet be refused.
pub(super) fn after(
    connection: &Connection,
    seq: i64,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, ItemId)>> {
    let mut select = connection
        .prepare_cached(
            "SELECT seq, id FROM item WHERE seq > ?1 AND seq NOT IN (SELECT item FROM paused UNION SELECT item FROM held) \
             ORDER BY seq LIMIT ?2",
        )?;
    let found = select.query_map(params![seq, limit as i64], |row| {
        Ok((row.get(0)?, item_id(row, 1)?))
    })?;
    readable(found)
}

/// Sets an item aside: it stays and is not tried again by itself.
pub(super) fn set_aside(connection: &Connection, id: &ItemId, why: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE item SET due = NULL, aside = ?2 WHERE id = ?1")?
        .execute(params![id.as_str(), why])
        .map(|_| ())
}

/// Sets items aside whose very name is damaged, so that nobody could ask for them. Gives how many.
/// Names are read from their index alone: with a long queue behind it, a start would take minutes
/// otherwise.
pub(super) fn set_nameless_aside(connection: &Connection) -> rusqlite::Result<usize> {
    let mut select = connection.prepare("SELECT seq, id FROM item ORDER BY id")?;
    let mut rows = select.query([])?;
    let mut nameless = Vec::new();
    while let Some(row) = rows.next()? {
        if item_id(row, 1).is_err() {
            nameless.push(row.get::<_, i64>(0)?);
        }
    }
    for number in &nameless {
        connection.execute(
            "UPDATE item SET due = NULL, aside = 'its name is damaged' WHERE seq = ?1",
            [number],
        )?;
    }
    Ok(nameless.len())
}

/// Whether a row names this body file.
pub(super) fn names_file(connection: &Connection, file: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM message WHERE file = ?1)")?
        .query_row([file], |row| row.get(0))
}

/// All body files that rows name, asked of the table itself: a damaged index would not name some of
/// them.
pub(super) fn files(connection: &Connection) -> rusqlite::Result<HashSet<String>> {
    let mut select =
        connection.prepare("SELECT file FROM message NOT INDEXED WHERE content IS NULL")?;
    let files = select.query_map([], |row| row.get(0))?;
    files.collect()
}

/// ESMTP parameters, which hold no spaces.
fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

pub(super) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

pub(super) fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<SystemTime>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(time))
}

pub(super) fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    parse(&text).ok_or_else(|| damaged(column, &format!("{text:?} has no meaning")))
}

fn damaged(column: usize, what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, what.into())
}

/// Rows without those that are damaged: one of them must not stand in the way of the others.
pub(super) fn readable<T>(
    rows: impl Iterator<Item = rusqlite::Result<T>>,
) -> rusqlite::Result<Vec<T>> {
    rows.filter(|row| match row {
        Err(cause) if damage::is_damage(cause) => {
            tracing::error!("an item in the spool cannot be read: {cause}");
            false
        }
        _ => true,
    })
    .collect()
}

pub(super) fn item_id(row: &Row<'_>, column: usize) -> rusqlite::Result<ItemId> {
    parsed(row, column, ItemId::parse)
}

pub(super) fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Address> {
    parsed(row, column, |text| Address::parse(text).ok())
}

pub(super) fn optional_address(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Address>> {
    match row.get_ref(column)?.data_type() {
        Type::Null => Ok(None),
        _ => address(row, column).map(Some),
    }
}
