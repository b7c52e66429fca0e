//! A spool whose rows hold anything. Values are separated by 0xff; the first byte of each says
//! which column and of which type. Must hold: everything that reads the spool answers, be it with
//! an error.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use copyist::journal::{Item, ItemId};
use copyist::mail::Message;
use copyist::spool::{ListFilter, Submission, Settings, Spool};
use copyist_fuzz::{composer, now, report, run, scratch};
use libfuzzer_sys::fuzz_target;
use rusqlite::Connection;
use rusqlite::types::Value;

const ORIGINAL: &[u8] = b"Subject: x\r\n\r\nHello\r\n";

struct Store {
    spool: Spool,
    beside: std::sync::Mutex<Connection>,
    id: ItemId,
    base: Vec<Value>,
}

/// Tables and columns; an index in this list is what the first byte of a value says.
const COLUMNS: [(&str, &str); 23] = [
    ("item", "due"), ("item", "attempts"), ("item", "set_aside"), ("item", "kind"), ("item", "direction"),
    ("item", "sender"), ("item", "ndr"), ("item", "message_id"), ("item", "envelope_id"),
    ("item", "subject"), ("item", "reasons"), ("item", "body"), ("item", "smtputf8"),
    ("item", "prefix"), ("item", "suffix"), ("item", "dsn"), ("message", "queue_id"),
    ("message", "received"), ("message", "size"), ("message", "digest"), ("target", "state"),
    ("target", "reply"), ("target", "dsn"),
];

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let directory: PathBuf = scratch("spool");
    let spool = Spool::open(&Settings::new(&directory)).expect("opened");
    let original = Bytes::from_static(ORIGINAL);
    let item: Item = report(&composer(), &Message::new(original.clone()));
    let id = item.id.clone();
    let submission = Submission { original: original.into(), items: vec![item] };
    run(spool.commit("4XyZ", now(), vec![submission])).expect("committed");
    let beside = Connection::open(directory.join("spool/spool.db")).expect("opened");
    beside
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA ignore_check_constraints = ON;")
        .expect("set");
    let base = COLUMNS.iter().map(|(table, column)| {
        let select = format!("SELECT {column} FROM {table}");
        beside.query_row(&select, [], |row| row.get(0)).expect("a value")
    });
    let base = base.collect();
    Store { spool, beside: beside.into(), id, base }
});

fn value(kind: u8, bytes: &[u8]) -> Value {
    match kind % 4 {
        0 => Value::Integer(bytes.iter().fold(0i64, |sum, byte| sum << 8 | i64::from(*byte))),
        1 => Value::Text(String::from_utf8_lossy(bytes).into_owned()),
        2 => Value::Blob(bytes.to_vec()),
        _ => Value::Real(bytes.iter().fold(0.5, |sum, byte| sum * 256.0 + f64::from(*byte))),
    }
}

/// Writes the base values with some others in their place. What the tables refuse is not written.
fn write(store: &Store, bytes: &[u8]) {
    let mut values = store.base.clone();
    for piece in bytes.split(|byte| *byte == 0xff) {
        if let [first, kind, rest @ ..] = piece {
            values[usize::from(*first) % COLUMNS.len()] = value(*kind, rest);
        }
    }
    let beside = store.beside.lock().expect("alone");
    beside.execute_batch("BEGIN").expect("begun");
    for table in ["item", "message", "target"] {
        let of_it = COLUMNS.iter().zip(&values).filter(|((of, _), _)| *of == table);
        let (names, given): (Vec<&str>, Vec<&Value>) = of_it.map(|((_, name), value)| (*name, value)).unzip();
        let set: Vec<String> = names.iter().enumerate().map(|(n, name)| format!("{name} = ?{}", n + 1)).collect();
        let update = format!("UPDATE {table} SET {}", set.join(", "));
        let mut statement = beside.prepare_cached(&update).expect("a statement");
        let _ = statement.execute(rusqlite::params_from_iter(given));
    }
    beside.execute_batch("COMMIT").expect("committed");
}

fuzz_target!(|bytes: &[u8]| {
    let store = &*STORE;
    write(store, bytes);
    let spool = &store.spool;
    run(async {
        if let Ok(item) = spool.load(&store.id).await {
            assert_eq!(item.original.read().expect("in memory"), ORIGINAL);
        }
        let _ = spool.list(ListFilter { dead_only: false, limit: 10 }).await;
        let _ = spool.show(&store.id).await;
        let _ = spool.depth().await;
        let _ = spool.next_due().await;
        let later = now() + Duration::from_secs(1 << 40);
        for id in spool.claim(later, 10).await.unwrap_or_default() {
            spool.unclaim(&id);
        }
    });
    assert!(!spool.is_failed(), "a row made the spool fail");
});
