//! The tables, and the connections to them.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::damage;
use crate::spool::error::OpenError;

/// The format of the tables (`PRAGMA user_version`).
const FORMAT: i64 = 6;

/// Format that [`UPGRADE`] reads.
const PREVIOUS: i64 = 5;

/// Items are found by due time and by ID, messages by number: all by index, so that a queue of a
/// million items costs no more to work on than a short one. `due` is null for items that are not
/// tried: finished but for dead targets, set aside, on hold or reserved. `digest` is null for items
/// of format 5, which are not verified.
const MESSAGE_AND_ITEM: &str = "
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
    reserved INTEGER NOT NULL DEFAULT 0,
    on_hold INTEGER NOT NULL DEFAULT 0,
    set_aside TEXT,
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
    digest BLOB,
    prefix BLOB NOT NULL,
    suffix BLOB NOT NULL,
    dsn TEXT NOT NULL DEFAULT ''
);
CREATE INDEX item_due ON item (due) WHERE due IS NOT NULL;
CREATE INDEX item_message ON item (message);
";

const TARGET: &str = "
CREATE TABLE target (
    item INTEGER NOT NULL REFERENCES item ON DELETE CASCADE,
    address TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'refused', 'dead')),
    reply TEXT,
    dsn TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (item, address)
) WITHOUT ROWID;
";

/// Refusals that a digest has yet to report.
const NDR_PENDING: &str = "
CREATE TABLE ndr_pending (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    item INTEGER NOT NULL REFERENCES item ON DELETE CASCADE,
    target TEXT NOT NULL,
    ndr TEXT NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (item, target)
);
";

const STATE_INDEXES: &str = "
CREATE INDEX item_reserved ON item (seq) WHERE reserved;
CREATE INDEX item_on_hold ON item (seq) WHERE on_hold;
CREATE INDEX item_set_aside ON item (seq) WHERE set_aside IS NOT NULL;
CREATE INDEX target_dead ON target (item) WHERE state = 'dead';
";

/// Bounces, newest last.
const BOUNCE: &str = "
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

/// NDRs of the last hour, late deliveries, relay outages and operators' actions.
const OTHER_TABLES: &str = "
CREATE TABLE ndr_sent (
    ndr TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX ndr_sent_at ON ndr_sent (ndr, at);
CREATE TABLE late_delivery (item TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE first_use (at INTEGER NOT NULL);
CREATE TABLE relay_outage (
    ndr TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    digest TEXT NOT NULL,
    is_over INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE operator_record (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    user TEXT NOT NULL,
    uid INTEGER,
    address TEXT,
    action TEXT NOT NULL,
    item TEXT,
    items INTEGER NOT NULL,
    queue_id TEXT NOT NULL,
    logged INTEGER NOT NULL
);
CREATE INDEX operator_record_item ON operator_record (item) WHERE item IS NOT NULL;
CREATE INDEX operator_record_unlogged ON operator_record (seq) WHERE NOT logged;
";

/// Format 5 had some tables only once a later version had opened it.
const OPTIONAL_TABLES: &str = "
CREATE TABLE IF NOT EXISTS late (item TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seals_since (at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS told_waiting (ndr TEXT PRIMARY KEY, at INTEGER NOT NULL, digest TEXT NOT NULL,
    is_over INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operator (seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, user TEXT NOT NULL,
    uid INTEGER, address TEXT, action TEXT NOT NULL, item TEXT, items INTEGER NOT NULL, queue_id TEXT NOT NULL,
    logged INTEGER NOT NULL);
DROP TABLE IF EXISTS item_digest;
";

/// From format 5: holds and reservations become columns of `item`, and the rows that belong to an
/// item are deleted with it. A damaged target is tried again: a report too many, never one too few.
const UPGRADE: &str = "
ALTER TABLE item RENAME COLUMN aside TO set_aside;
ALTER TABLE item RENAME COLUMN params TO dsn;
ALTER TABLE item ADD COLUMN reserved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE item ADD COLUMN on_hold INTEGER NOT NULL DEFAULT 0;
ALTER TABLE item ADD COLUMN digest BLOB;
UPDATE item SET reserved = 1 WHERE seq IN (SELECT item FROM held);
UPDATE item SET on_hold = 1 WHERE seq IN (SELECT item FROM paused);
DROP TABLE held;
DROP TABLE paused;
DROP INDEX target_dead;
ALTER TABLE target RENAME TO target_5;
";

const UPGRADE_ROWS: &str = "
INSERT INTO target SELECT item, address,
    CASE WHEN state IN ('delivered', 'refused', 'dead') THEN state ELSE 'waiting' END, reply, params FROM target_5;
DROP TABLE target_5;
INSERT INTO ndr_pending SELECT seq, item, target, ndr, at FROM untold;
DROP TABLE untold;
INSERT INTO ndr_sent SELECT ndr, at FROM told;
DROP TABLE told;
INSERT INTO late_delivery SELECT item, at FROM late;
DROP TABLE late;
INSERT INTO first_use SELECT at FROM seals_since;
DROP TABLE seals_since;
INSERT INTO relay_outage SELECT ndr, at, digest, is_over FROM told_waiting;
DROP TABLE told_waiting;
INSERT INTO operator_record SELECT seq, at, user, uid, address, action, item, items, queue_id, logged FROM operator;
DROP TABLE operator;
";

/// Opens a connection with the settings that durability depends on. With `create`, the tables are
/// created if there are none, and those of format 5 are upgraded.
///
/// Pages are 8 KiB (those of an existing database stay as they are): a message of the usual size
/// takes two of them, and each page of the WAL costs two writes. Measured with `benches/spool.rs`.
pub(super) fn connect(path: &Path, create: bool) -> Result<Connection, OpenError> {
    let failed = |cause| damage::open_error(path, &cause);
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    // A queue command may hold the write lock for a moment.
    connection
        .busy_timeout(Duration::from_secs(10))
        .map_err(failed)?;
    // Otherwise SQLite prepares a statement anew for each set of values, to find a better plan.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(failed)?;
    let settings = "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                    PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864;";
    connection.execute_batch(settings).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    if found != FORMAT {
        let statements = steps(found)
            .filter(|_| create)
            .ok_or_else(|| OpenError::Format {
                path: path.to_owned(),
                found,
                current: FORMAT,
                remedy: remedy(found),
            })?;
        let batch =
            format!("BEGIN IMMEDIATE; {statements} PRAGMA user_version = {FORMAT}; COMMIT;");
        // Foreign keys are off: tables are replaced.
        connection
            .execute_batch("PRAGMA foreign_keys = OFF")
            .map_err(failed)?;
        connection.execute_batch(&batch).map_err(failed)?;
    }
    connection
        .execute_batch("PRAGMA foreign_keys = ON")
        .map_err(failed)?;
    Ok(connection)
}

/// The statements that bring tables of this format to [`FORMAT`]; 0 is an empty database.
fn steps(found: i64) -> Option<String> {
    let (before, after) = match found {
        0 => (format!("{MESSAGE_AND_ITEM} {BOUNCE}"), ""),
        PREVIOUS => (format!("{OPTIONAL_TABLES} {UPGRADE}"), UPGRADE_ROWS),
        _ => return None,
    };
    Some(format!(
        "{before} {TARGET} {NDR_PENDING} {OTHER_TABLES} {after} {STATE_INDEXES}"
    ))
}

fn remedy(found: i64) -> &'static str {
    match found {
        PREVIOUS => "start the service of this version once, which upgrades it",
        ..PREVIOUS => {
            "deliver the queue with the version that wrote it (copyist queue retry --all, until copyist queue list is \
             empty), stop it, move the directory away and start this version"
        }
        _ => "use the version that wrote it",
    }
}
