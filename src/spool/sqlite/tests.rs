//! Claims about files, formats and damage, and the suite of all engines.

use std::fs;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::spool::conformance::{
    Fixture, INLINE_LIMIT, address, at, commit, enqueue, id, item, large, operator, record, result,
    submission, suite,
};
use crate::spool::{
    Action, BrowseRequest, DeliveryOutcome, RetryCursor, Spool, StateFilter, TargetState,
};

/// State directories; the second is a copy that a killed process left.
struct Place(TempDir, TempDir);

impl Fixture for Place {
    fn new() -> Place {
        let dir = || tempfile::tempdir().expect("a directory");
        Place(dir(), dir())
    }

    fn open(&self) -> Spool {
        Spool::open(&settings(self.0.path())).expect("opened")
    }

    fn open_after_kill(&self) -> Spool {
        let (from, to) = (self.0.path().join("spool"), self.1.path().join("spool"));
        fs::create_dir_all(to.join("bodies")).expect("created");
        for file in ["spool.db", "spool.db-wal"] {
            fs::copy(from.join(file), to.join(file)).expect("copied");
        }
        for name in self.bodies() {
            let file = Path::new("bodies").join(name);
            fs::copy(from.join(&file), to.join(&file)).expect("copied");
        }
        Spool::open(&settings(self.1.path())).expect("opened")
    }
}

impl Place {
    fn bodies_dir(&self) -> PathBuf {
        self.0.path().join("spool/bodies")
    }

    /// Names of the body files.
    fn bodies(&self) -> Vec<String> {
        let entries = fs::read_dir(self.bodies_dir()).expect("readable");
        entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// Another connection to the database.
    fn connect(&self) -> Connection {
        Connection::open(self.0.path().join("spool/spool.db")).expect("opened")
    }

    /// Creates a database from SQL, as an older version left it.
    fn create(&self, sql: &str) {
        fs::create_dir_all(self.0.path().join("spool")).expect("created");
        self.connect().execute_batch(sql).expect("created");
    }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        inline_limit: INLINE_LIMIT,
        ..Settings::new(dir)
    }
}

suite!(Place);

#[tokio::test]
async fn format_5_is_upgraded() {
    let place = Place::new();
    place.create(include_str!("format_5.sql"));
    let spool = place.open();
    // The reserved item is kept as unknown, the one on hold is held.
    assert_eq!(spool.claim(at(0), 10).await.expect("read"), [id(1), id(2)]);
    let first = spool.load(&id(1)).await.expect("loaded");
    assert_eq!(first.original.read().expect("readable"), "x");
    assert_eq!(first.waiting, [address("a@c.test")]);
    let second = spool.load(&id(2)).await.expect("loaded").item;
    assert!(second.prefix.starts_with(b"X-Copyist-Fate: "));
    let released = spool.release(&operator(), &id(3), at(0)).await;
    assert!(released.expect("written"));
    let shown = spool.show(&id(4)).await.expect("read").expect("present");
    assert_eq!(shown.listed.targets[0].state, TargetState::Dead);
    let digests = spool.digests(at(3600)).await.expect("read");
    assert_eq!(digests[0].listed[0].said, "550 no");
    assert_eq!(spool.bounces(None, 10).await.expect("read").len(), 1);
    let records = spool.operator_records(None, 10).await.expect("read");
    assert_eq!(records.len(), 2);
    // The rows of an item are removed with it.
    for n in 1..=4 {
        let dropped = spool
            .operate(&operator(), Action::Drop, &id(n), at(1))
            .await;
        assert!(dropped.expect("written"), "{n}");
    }
    let left = "SELECT (SELECT count(*) FROM target) + (SELECT count(*) FROM ndr_pending) \
                + (SELECT count(*) FROM message)";
    let left: i64 = place
        .connect()
        .query_row(left, [], |row| row.get(0))
        .expect("read");
    assert_eq!(left, 0);
}

#[test]
fn an_upgraded_database_has_the_tables_of_a_new_one() {
    let tables = |place: &Place| -> Vec<String> {
        let connection = place.connect();
        let mut select = connection
            .prepare("SELECT name FROM sqlite_schema ORDER BY name")
            .expect("prepared");
        let names = select.query_map([], |row| row.get(0)).expect("read");
        names.map(|name| name.expect("a name")).collect()
    };
    let (new, old) = (Place::new(), Place::new());
    old.create(include_str!("format_5.sql"));
    drop((new.open(), old.open()));
    assert_eq!(tables(&new), tables(&old));
}

#[test]
fn other_formats_are_rejected_with_the_fix() {
    for (format, expected) in [(4, "copyist queue retry --all"), (7, "use the version")] {
        let place = Place::new();
        place.create(&format!("PRAGMA user_version = {format}"));
        let error = Spool::open(&settings(place.0.path())).err();
        let text = error.expect("refused").to_string();
        assert!(text.contains(expected), "{text}");
    }
    let place = Place::new();
    place.create(include_str!("format_5.sql"));
    let error = Spool::inspect(&settings(place.0.path())).err();
    let text = error.expect("refused").to_string();
    assert!(text.contains("start the service"), "{text}");
}

#[tokio::test]
async fn body_files_are_removed_with_their_last_item() {
    let place = Place::new();
    let spool = place.open();
    let items = vec![item(1, &["a@c.test"]), item(2, &["a@c.test"])];
    commit(&spool, at(0), vec![submission(large(), items)]).await;
    let delivered = [("a@c.test", DeliveryOutcome::Delivered)];
    for (n, left) in [(1, 1), (2, 0)] {
        record(&spool, n, &delivered, None).await.expect("recorded");
        assert_eq!(place.bodies().len(), left);
    }
    let one = vec![submission(large(), vec![item(3, &["a@c.test"])])];
    let reserved = spool.reserve("Q", at(0), one).await.expect("reserved");
    assert_eq!(place.bodies().len(), 1);
    reserved.cancel().await.expect("cancelled");
    assert_eq!(place.bodies(), [""; 0]);
    // A refused commit leaves none either.
    enqueue(&spool, 4, &["a@c.test"]).await;
    let taken = vec![submission(large(), vec![item(4, &["a@c.test"])])];
    assert!(spool.commit("Q", at(0), taken).await.is_err());
    assert_eq!(place.bodies(), [""; 0]);
}

#[tokio::test]
async fn damaged_originals_are_set_aside_and_never_sent() {
    let place = Place::new();
    let spool = place.open();
    for n in [1, 2] {
        commit(
            &spool,
            at(0),
            vec![submission(large(), vec![item(n, &["a@c.test"])])],
        )
        .await;
    }
    let files = place.bodies();
    fs::write(place.bodies_dir().join(&files[0]), "damaged").expect("written");
    fs::remove_file(place.bodies_dir().join(&files[1])).expect("removed");
    for n in [1, 2] {
        let error = spool.load(&id(n)).await.expect_err("damaged");
        assert!(matches!(error, SpoolError::SetAside { .. }), "{error}");
    }
    assert!(spool.claim(at(999_999), 10).await.expect("read").is_empty());
    let dead = BrowseRequest {
        state: StateFilter::Dead,
        limit: 10,
        ..BrowseRequest::default()
    };
    let page = spool.browse(dead).await.expect("read");
    assert!(page.items.iter().all(|item| item.set_aside.is_some()));
    assert_eq!((page.items.len(), page.counts.dead), (2, 2));
    let filter = ListFilter {
        dead_only: true,
        limit: 10,
    };
    assert_eq!(spool.list(filter).await.expect("read").len(), 2);
}

#[tokio::test]
async fn a_changed_row_is_set_aside() {
    let columns = [
        "subject = 'other'",
        "sender = NULL",
        "prefix = x'00'",
        "smtputf8 = 0",
        "kind = 'copy'",
        "kind = 'nothing'",
        "dsn = 'RET=HDRS'",
    ];
    for column in columns {
        let place = Place::new();
        let spool = place.open();
        commit(
            &spool,
            at(0),
            vec![submission(large(), vec![item(1, &["a@c.test"])])],
        )
        .await;
        let update = format!("UPDATE item SET {column}");
        place.connect().execute_batch(&update).expect("changed");
        let error = spool.load(&id(1)).await.expect_err(column);
        assert!(matches!(error, SpoolError::SetAside { .. }), "{error}");
    }
}

#[tokio::test]
async fn files_without_a_row_are_removed_at_the_start() {
    let place = Place::new();
    let spool = place.open();
    commit(
        &spool,
        at(0),
        vec![submission(large(), vec![item(1, &["a@c.test"])])],
    )
    .await;
    for orphan in ["0123456789ab", "0123456789ab.new"] {
        fs::write(place.bodies_dir().join(orphan), "x").expect("written");
    }
    drop(spool);
    let spool = place.open();
    assert_eq!(place.bodies().len(), 1);
    spool.load(&id(1)).await.expect("a file with a row stays");
}

#[tokio::test]
async fn one_service_at_a_time_opens_a_spool() {
    let place = Place::new();
    let _spool = place.open();
    match Spool::open(&settings(place.0.path())) {
        Err(OpenError::Locked { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{:?}", other.err()),
    }
    Spool::inspect(&settings(place.0.path())).expect("commands may");
    let empty = tempfile::tempdir().expect("a directory");
    assert!(matches!(
        Spool::inspect(&settings(empty.path())),
        Err(OpenError::Absent { .. })
    ));
}

#[tokio::test]
async fn the_service_sees_changes_by_commands() {
    let place = Place::new();
    let spool = place.open();
    enqueue(&spool, 1, &["a@c.test"]).await;
    let later = DeliveryOutcome::Deferred("no route".into());
    let later = result(&[("a@c.test", later)], None);
    spool.record(&id(1), later, at(0)).await.expect("recorded");
    let command = Spool::inspect(&settings(place.0.path())).expect("opened");
    let retried = command
        .retry_after(&operator(), RetryCursor::default(), 10, at(1))
        .await;
    assert_eq!(retried.expect("written").0, 1);
    assert_eq!(spool.claim(at(1), 10).await.expect("read"), [id(1)]);
}

/// A message that was written to a file while it was received.
async fn receive(spool: &Spool, chunks: &[&[u8]]) -> Content {
    let mut body = spool.new_body().await.expect("a file");
    for chunk in chunks {
        body.append(chunk).expect("written");
    }
    Content::stored(body.finish()).expect("readable")
}

#[tokio::test]
async fn an_incoming_body_keeps_its_file() {
    let place = Place::new();
    let spool = place.open();
    let half = vec![b'x'; 300_000];
    let original = receive(&spool, &[&half, &half]).await;
    let before = place.bodies();
    assert!(
        matches!(&before[..], [one] if one.ends_with(".new")),
        "{before:?}"
    );
    let one = submission(original.clone(), vec![item(1, &["a@c.test"])]);
    commit(&spool, at(0), vec![one]).await;
    let after = place.bodies();
    assert_eq!(after, [before[0].trim_end_matches(".new")]);
    drop(original);
    assert_eq!(place.bodies(), after, "it outlives its writer");
    drop(spool);
    let loaded = place.open().load(&id(1)).await.expect("loaded");
    let whole = loaded.original.read().expect("readable");
    assert_eq!(whole, [half.clone(), half].concat());
}

#[tokio::test]
async fn a_body_that_is_not_committed_leaves_no_file() {
    let place = Place::new();
    let spool = place.open();
    let abandoned = spool.new_body().await.expect("a file");
    let unwanted = receive(&spool, &[b"x"]).await;
    assert_eq!(place.bodies().len(), 2);
    drop((abandoned, unwanted));
    assert_eq!(place.bodies(), [""; 0]);
}

#[tokio::test]
async fn a_short_body_is_stored_inline() {
    let place = Place::new();
    let spool = place.open();
    let original = receive(&spool, &[b"short"]).await;
    commit(
        &spool,
        at(0),
        vec![submission(original, vec![item(1, &["a@c.test"])])],
    )
    .await;
    assert_eq!(place.bodies(), [""; 0]);
    let loaded = spool.load(&id(1)).await.expect("loaded");
    assert_eq!(loaded.original.read().expect("readable"), "short");
}
