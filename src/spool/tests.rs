//! Claims about what is kept.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::journal::{Bounce, Dsn, Kind};
use crate::mail::BodyKind;
use crate::policy::Direction;

mod limited;

const LIMIT: usize = 1000;

fn settings(dir: &Path) -> Settings {
    Settings {
        inline_limit: LIMIT,
        ..Settings::new(dir)
    }
}

fn fresh() -> (TempDir, Spool) {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(&settings(dir.path())).expect("opened");
    (dir, spool)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

pub(super) fn operator() -> Operator {
    Operator {
        user: "postmaster".into(),
        uid: Some(1000),
        address: None,
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

fn id(n: usize) -> ItemId {
    let text: String = (0..16)
        .rev()
        .map(|digit| char::from(b'a' + (n >> (digit * 4) & 15) as u8))
        .collect();
    ItemId::parse(&text).expect("an id")
}

/// All of an original.
fn bytes(owed: &QueuedItem) -> Bytes {
    owed.original.read().expect("readable")
}

pub(super) fn item(n: usize, targets: &[&str]) -> Item {
    Item {
        id: id(n),
        kind: Kind::Report,
        direction: Direction::Outbound,
        sender: Some(address("ndr@c.test")),
        targets: targets.iter().map(|text| address(text)).collect(),
        ndr: Some(address("ndr@c.test")),
        message_id: format!("<{n}@c.test>"),
        envelope_id: format!("e{n}"),
        subject: "Grüße".into(),
        reasons: vec!["one".into(), "two".into()],
        prefix: Bytes::from_static(b"before\r\n"),
        suffix: Bytes::from_static(b"\r\nafter"),
        body: BodyKind::EightBit,
        smtputf8: true,
        dsn: Dsn::default(),
    }
}

fn ndr(n: usize) -> Item {
    Item {
        kind: Kind::Ndr,
        sender: None,
        ndr: None,
        ..item(n, &["ndr@c.test"])
    }
}

fn result(outcomes: &[(&str, DeliveryOutcome)], ndr: Option<Item>) -> DeliveryResult {
    let outcomes = outcomes
        .iter()
        .map(|(text, outcome)| (address(text), outcome.clone()))
        .collect();
    DeliveryResult {
        outcomes,
        next_attempt: at(60),
        ndr,
        ndr_limit: None,
        relay_reached: true,
    }
}

/// What is in the directory of body files.
fn body_files(dir: &TempDir) -> Vec<String> {
    let listed = std::fs::read_dir(dir.path().join("spool/bodies")).expect("there");
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
    listed
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect()
}

#[tokio::test]
async fn what_a_wrong_clock_made_due_in_ten_years_is_found_today() {
    let (_dir, spool) = fresh();
    for (n, due) in [(1, 0), (2, 3600), (3, 10 * 365 * 86400)] {
        let submission = Submission {
            original: Bytes::from_static(b"x").into(),
            items: vec![item(n, &["a@c.test"])],
        };
        let committed = spool.commit("Q", at(due), vec![submission]).await;
        committed.expect("committed");
    }
    let day = at(86400);
    assert_eq!(spool.claim_misdated(day, 10).await.expect("read"), [id(3)]);
    assert!(
        spool
            .claim_misdated(day, 10)
            .await
            .expect("read")
            .is_empty()
    );
    spool.unclaim(&id(3));
    assert_eq!(spool.claim_misdated(day, 10).await.expect("read"), [id(3)]);
}

#[tokio::test]
async fn what_is_committed_comes_back_exactly_also_after_a_restart() {
    let (dir, spool) = fresh();
    let small = Bytes::from_static(b"small \0 \xff\r\n");
    let large = Bytes::from(vec![b'x'; LIMIT + 1]);
    spool
        .commit(
            "Q1",
            at(0),
            vec![Submission {
                original: small.clone().into(),
                items: vec![item(1, &["a@c.test", "b@c.test"])],
            }],
        )
        .await
        .expect("committed");
    spool
        .commit(
            "Q2",
            at(1),
            vec![Submission {
                original: large.clone().into(),
                items: vec![item(2, &["a@c.test"])],
            }],
        )
        .await
        .expect("committed");
    assert_eq!(body_files(&dir).len(), 1);
    drop(spool);
    let spool = Spool::open(&settings(dir.path())).expect("opened again");
    assert_eq!(spool.claim(at(1), 10).await.expect("read"), [id(1), id(2)]);
    let owed = spool.load(&id(1)).await.expect("loaded");
    assert_eq!(bytes(&owed), small);
    assert_eq!(owed.waiting, [address("a@c.test"), address("b@c.test")]);
    assert_eq!(
        format!("{:?}", owed.item),
        format!("{:?}", item(1, &["a@c.test", "b@c.test"]))
    );
    assert_eq!(bytes(&spool.load(&id(2)).await.expect("loaded")), large);
}

#[tokio::test]
async fn a_message_and_its_versions_are_kept_together_with_what_their_sender_asked_for() {
    let (dir, spool) = fresh();
    let version = Item {
        kind: Kind::Version,
        dsn: Dsn {
            sender: vec!["RET=HDRS".into(), "ENVID=q".into()],
            recipients: vec![(address("b@c.test"), vec!["NOTIFY=NEVER".into()])],
        },
        ..item(2, &["a@c.test", "b@c.test"])
    };
    let large = Bytes::from(vec![b'x'; LIMIT + 1]);
    let submissions = vec![
        Submission {
            original: Bytes::from_static(b"received").into(),
            items: vec![item(1, &["a@c.test"])],
        },
        Submission {
            original: large.clone().into(),
            items: vec![version.clone()],
        },
    ];
    spool
        .commit("Q", at(0), submissions.clone())
        .await
        .expect("committed");
    let owed = spool.load(&id(2)).await.expect("loaded");
    assert_eq!(bytes(&owed), large);
    assert_eq!(format!("{:?}", owed.item), format!("{version:?}"));
    assert_eq!(
        bytes(&spool.load(&id(1)).await.expect("loaded")),
        "received"
    );
    // The first of them is there already, so nothing of the rest is taken either, and no file of it
    // stays.
    let again = [&submissions[1..], &submissions[..1]].concat();
    assert!(matches!(
        spool.commit("Q", at(0), again).await,
        Err(CommitError::Refused(_))
    ));
    assert_eq!(body_files(&dir).len(), 1);
}

#[tokio::test]
async fn a_spool_of_the_first_format_is_read_on() {
    let (dir, spool) = fresh();
    let original = Bytes::from_static(b"x");
    let items = vec![item(1, &["a@c.test"])];
    spool
        .commit(
            "Q",
            at(0),
            vec![Submission {
                original: original.into(),
                items,
            }],
        )
        .await
        .expect("committed");
    drop(spool);
    let path = dir.path().join("spool/spool.db");
    let old = rusqlite::Connection::open(path).expect("opened");
    old.execute_batch(
        "DROP TABLE paused; DROP TABLE held; DROP TABLE told; DROP TABLE untold; DROP TABLE bounce; PRAGMA user_version = 2;
         ALTER TABLE item DROP COLUMN params; ALTER TABLE target DROP COLUMN params; PRAGMA user_version = 1;",
    )
    .expect("as it was");
    drop(old);
    let spool = Spool::open(&settings(dir.path())).expect("opened again");
    let owed = spool.load(&id(1)).await.expect("loaded");
    assert_eq!(owed.item.dsn, Dsn::default());
    assert_eq!(owed.waiting, [address("a@c.test")]);
    assert_eq!(spool.bounces(None, 10).await.expect("read"), []);
}

#[tokio::test]
async fn a_spool_of_the_second_format_is_read_on() {
    let (dir, spool) = fresh();
    owe(&spool, 1, &["a@c.test"]).await;
    drop(spool);
    let path = dir.path().join("spool/spool.db");
    let old = rusqlite::Connection::open(path).expect("opened");
    old.execute_batch(
        "DROP TABLE paused; DROP TABLE held; DROP TABLE told; DROP TABLE untold; DROP TABLE bounce; PRAGMA user_version = 2;",
    )
    .expect("as it was");
    drop(old);
    let spool = Spool::open(&settings(dir.path())).expect("opened again");
    let owed = spool.load(&id(1)).await.expect("loaded");
    assert_eq!(owed.waiting, [address("a@c.test")]);
    assert!(spool.digests(at(0)).await.expect("read").is_empty());
}

async fn owe(spool: &Spool, n: usize, targets: &[&str]) {
    let submission = Submission {
        original: Bytes::from_static(b"x").into(),
        items: vec![item(n, targets)],
    };
    let committed = spool.commit("Q", at(0), vec![submission]).await;
    committed.expect("committed");
}

#[tokio::test]
async fn a_spool_of_the_third_format_is_read_on() {
    let (dir, spool) = fresh();
    owe(&spool, 1, &["a@c.test"]).await;
    drop(spool);
    let path = dir.path().join("spool/spool.db");
    let old = rusqlite::Connection::open(path).expect("opened");
    old.execute_batch("DROP TABLE paused; DROP TABLE held; PRAGMA user_version = 3;")
        .expect("as it was");
    drop(old);
    let spool = Spool::open(&settings(dir.path())).expect("opened again");
    assert_eq!(spool.claim(at(0), 10).await.expect("read"), [id(1)]);
    hold(&spool, &[2]).await.cancel().await.expect("withdrawn");
}

#[tokio::test]
async fn a_spool_of_the_fourth_format_is_read_on() {
    let (dir, spool) = fresh();
    owe(&spool, 1, &["a@c.test"]).await;
    drop(spool);
    let path = dir.path().join("spool/spool.db");
    let old = rusqlite::Connection::open(path).expect("opened");
    old.execute_batch("DROP TABLE paused; PRAGMA user_version = 4;")
        .expect("as it was");
    drop(old);
    let spool = Spool::open(&settings(dir.path())).expect("opened again");
    assert!(
        spool
            .operate(&operator(), Action::Hold, &id(1), at(0))
            .await
            .expect("written")
    );
}

#[tokio::test]
async fn what_is_on_hold_is_tried_by_nobody_until_it_is_released() {
    let (dir, spool) = fresh();
    owe(&spool, 1, &["a@c.test"]).await;
    owe(&spool, 2, &["a@c.test"]).await;
    assert!(
        spool
            .operate(&operator(), Action::Hold, &id(1), at(0))
            .await
            .expect("written")
    );
    assert!(
        spool
            .operate(&operator(), Action::Hold, &id(1), at(0))
            .await
            .expect("written"),
        "twice is fine"
    );
    assert!(
        !spool
            .operate(&operator(), Action::Hold, &id(3), at(0))
            .await
            .expect("written"),
        "there is no such item"
    );
    let due = |spool: Spool| async move {
        let due = spool.claim(at(9), 10).await.expect("read");
        due.iter().for_each(|id| spool.unclaim(id));
        due
    };
    assert_eq!(due(spool.clone()).await, [id(2)]);
    // Whoever retries everything does not mean it.
    let (retried, _) = spool
        .retry_after(&operator(), 0, 10, at(1))
        .await
        .expect("written");
    assert_eq!(retried, 1);
    drop(spool);
    let spool = Spool::open(&settings(dir.path())).expect("opened again");
    assert_eq!(due(spool.clone()).await, [id(2)], "it lasts");
    let depth = spool.depth().await.expect("read");
    assert_eq!((depth.items, depth.on_hold, depth.dead), (2, 1, 0));
    let shown = spool
        .show(&id(1))
        .await
        .expect("read")
        .expect("it is there");
    assert!(shown.listed.on_hold && shown.listed.next_attempt.is_none());

    assert!(
        spool
            .operate(&operator(), Action::Release, &id(1), at(2))
            .await
            .expect("written")
    );
    assert!(
        !spool
            .operate(&operator(), Action::Release, &id(1), at(2))
            .await
            .expect("written"),
        "it is not on hold"
    );
    assert_eq!(due(spool.clone()).await, [id(2), id(1)]);
    // Who retries this one means it.
    assert!(
        spool
            .operate(&operator(), Action::Hold, &id(1), at(0))
            .await
            .expect("written")
    );
    assert!(
        spool
            .operate(&operator(), Action::Retry, &id(1), at(2))
            .await
            .expect("written")
    );
    assert_eq!(spool.depth().await.expect("read").on_hold, 0);
}

#[tokio::test]
async fn what_is_put_on_hold_under_way_stays_so_for_whom_it_did_not_reach() {
    let (_dir, spool) = fresh();
    owe(&spool, 1, &["a@c.test", "b@c.test"]).await;
    assert_eq!(spool.claim(at(1), 10).await.expect("read"), [id(1)]);
    assert!(
        spool
            .operate(&operator(), Action::Hold, &id(1), at(0))
            .await
            .expect("written")
    );
    let outcomes = [
        ("a@c.test", DeliveryOutcome::Delivered),
        ("b@c.test", DeliveryOutcome::Deferred("451 later".into())),
    ];
    let result = result(&outcomes, None);
    spool.record(&id(1), result, at(1)).await.expect("recorded");
    assert!(
        spool
            .claim(at(1_000_000), 10)
            .await
            .expect("read")
            .is_empty()
    );
    assert!(
        spool
            .operate(&operator(), Action::Release, &id(1), at(2))
            .await
            .expect("written")
    );
    assert_eq!(spool.claim(at(2), 10).await.expect("read"), [id(1)]);
    assert_eq!(
        spool.load(&id(1)).await.expect("loaded").waiting,
        [address("b@c.test")]
    );
}

#[tokio::test]
async fn a_message_that_is_taken_does_not_release_what_an_operator_holds() {
    let (_dir, spool) = fresh();
    let held = hold(&spool, &[1]).await;
    assert!(
        spool
            .operate(&operator(), Action::Hold, &id(1), at(0))
            .await
            .expect("written")
    );
    // Nor does the operator release what waits for its message.
    assert!(
        spool
            .operate(&operator(), Action::Release, &id(1), at(1))
            .await
            .expect("written")
    );
    assert!(spool.claim(at(9), 10).await.expect("read").is_empty());
    assert!(
        spool
            .operate(&operator(), Action::Hold, &id(1), at(0))
            .await
            .expect("written")
    );
    held.confirm(Vec::new()).await.expect("released");
    assert!(spool.claim(at(9), 10).await.expect("read").is_empty());
    assert!(
        spool
            .operate(&operator(), Action::Release, &id(1), at(9))
            .await
            .expect("written")
    );
    assert_eq!(spool.claim(at(9), 10).await.expect("read"), [id(1)]);
}

/// Holds items with one original that is in a file.
async fn hold(spool: &Spool, items: &[usize]) -> Reservation {
    let submission = Submission {
        original: Bytes::from(vec![b'x'; LIMIT + 1]).into(),
        items: items.iter().map(|n| item(*n, &["a@c.test"])).collect(),
    };
    let held = spool.reserve("Q", at(0), vec![submission]).await;
    held.expect("held")
}

async fn prefix(spool: &Spool, n: usize) -> Bytes {
    spool.load(&id(n)).await.expect("loaded").item.prefix
}

#[tokio::test]
async fn what_is_held_is_tried_by_nobody_until_its_message_is_taken() {
    let (_dir, spool) = fresh();
    let held = hold(&spool, &[1, 2]).await;
    assert!(spool.claim(at(1), 10).await.expect("read").is_empty());
    assert_eq!(spool.next_due().await.expect("read"), None);
    let depth = spool.depth().await.expect("read");
    assert_eq!((depth.items, depth.dead), (2, 0));
    held.confirm(vec![id(2)]).await.expect("released");
    assert_eq!(spool.claim(at(1), 10).await.expect("read"), [id(1)]);
    assert_eq!(prefix(&spool, 1).await, "before\r\n", "nothing is noted");
    assert!(spool.show(&id(2)).await.expect("read").is_none(), "done");
}

#[tokio::test]
async fn nothing_is_owed_for_a_message_that_was_refused() {
    let (dir, spool) = fresh();
    let held = hold(&spool, &[1, 2]).await;
    assert_eq!(body_files(&dir).len(), 1);
    held.cancel().await.expect("withdrawn");
    assert_eq!(spool.depth().await.expect("read"), QueueDepth::default());
    assert!(body_files(&dir).is_empty());
}

#[tokio::test]
async fn a_report_says_that_nobody_knows_what_became_of_its_message() {
    let (_dir, spool) = fresh();
    hold(&spool, &[1]).await.keep_unknown().await.expect("kept");
    assert_eq!(spool.claim(at(1), 10).await.expect("read"), [id(1)]);
    let noted = prefix(&spool, 1).await;
    assert!(noted.starts_with(b"X-Copyist-Fate: unknown;"), "{noted:?}");
    assert!(noted.ends_with(b"\r\nbefore\r\n"), "{noted:?}");
}

#[tokio::test]
async fn a_hook_that_forgets_to_decide_has_kept() {
    let (_dir, spool) = fresh();
    drop(hold(&spool, &[1]).await);
    spool.changed().await;
    assert_eq!(spool.claim(at(1), 10).await.expect("read"), [id(1)]);
    assert!(prefix(&spool, 1).await.starts_with(b"X-Copyist-Fate: "));
}

#[tokio::test]
async fn what_a_dead_process_held_is_released_by_the_next_and_says_so() {
    let (dir, spool) = fresh();
    let held = hold(&spool, &[1]).await;
    let version = Submission {
        original: Bytes::from_static(b"x").into(),
        items: vec![Item {
            kind: Kind::Version,
            ..item(2, &["b@c.test"])
        }],
    };
    let other = spool
        .reserve("Q", at(0), vec![version])
        .await
        .expect("held");
    // As a killed process leaves it.
    std::mem::forget((held, other));
    let left = dir.path().join("spool");
    let copy = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(copy.path().join("spool/bodies")).expect("made");
    for file in ["spool.db", "spool.db-wal"] {
        std::fs::copy(left.join(file), copy.path().join("spool").join(file)).expect("copied");
    }
    for name in body_files(&dir) {
        let of = |dir: &TempDir| dir.path().join("spool/bodies").join(&name);
        std::fs::copy(of(&dir), of(&copy)).expect("copied");
    }
    let spool = Spool::open(&settings(copy.path())).expect("opened");
    assert_eq!(spool.claim(at(1), 10).await.expect("read"), [id(1), id(2)]);
    assert!(prefix(&spool, 1).await.starts_with(b"X-Copyist-Fate: "));
    assert_eq!(
        prefix(&spool, 2).await,
        "before\r\n",
        "it is mail, not a report"
    );
}

#[tokio::test]
async fn an_operator_may_release_what_is_held() {
    let (_dir, spool) = fresh();
    let held = hold(&spool, &[1]).await;
    let listed = spool
        .list(ListFilter {
            dead_only: false,
            limit: 9,
        })
        .await
        .expect("read");
    assert!(listed[0].is_reserved);
    assert!(
        spool
            .operate(&operator(), Action::Retry, &id(1), at(5))
            .await
            .expect("written")
    );
    assert_eq!(spool.claim(at(5), 10).await.expect("read"), [id(1)]);
    // The hook's own decision changes nothing then, but a withdrawal.
    held.keep_unknown().await.expect("kept");
    assert_eq!(
        spool
            .list(ListFilter {
                dead_only: false,
                limit: 9
            })
            .await
            .expect("read")
            .len(),
        1
    );
}

/// A refusal whose NDR is one of at most three in an hour.
async fn refuse(spool: &Spool, n: usize, now: SystemTime) -> Recorded {
    let refused = DeliveryOutcome::Refused(format!("550 {n}"));
    let result = DeliveryResult {
        ndr_limit: Some(3),
        ..result(&[("a@c.test", refused)], Some(ndr(n + 5000)))
    };
    let recorded = spool.record(&id(n), result, now).await;
    recorded.expect("recorded")
}

#[tokio::test]
async fn refusals_beyond_the_limit_stay_as_dead_letters_and_one_digest_tells_of_them() {
    let (_dir, spool) = fresh();
    for n in 1..=1500 {
        owe(&spool, n, &["a@c.test"]).await;
        let told = refuse(&spool, n, at(n as u64 / 100)).await;
        assert_eq!((told.has_ndr, told.collected), (n <= 3, n > 3), "{n}");
    }
    let depth = spool.depth().await.expect("read");
    assert_eq!((depth.items, depth.dead), (3 + 1497, 1497));
    assert!(
        spool.digests(at(3599)).await.expect("read").is_empty(),
        "an hour is not over"
    );
    let [digest] = &spool.digests(at(3601)).await.expect("read")[..] else {
        panic!("one address, one digest");
    };
    assert_eq!((digest.count, digest.listed.len()), (1497, 1000));
    assert_eq!(digest.listed[0].item, id(4));
    assert_eq!(digest.listed[0].said, "550 4");
    // What an operator has decided on meanwhile is no news.
    assert!(
        spool
            .operate(&operator(), Action::Retry, &id(4), at(3601))
            .await
            .expect("retried")
    );
    assert!(
        spool
            .operate(&operator(), Action::Drop, &id(5), at(0))
            .await
            .expect("dropped")
    );
    let again = spool.digests(at(3601)).await.expect("read");
    assert_eq!(again[0].count, 1495);
    spool
        .enqueue_digest(&again[0], ndr(9000), at(3601))
        .await
        .expect("told");
    assert!(spool.digests(at(99_999)).await.expect("read").is_empty());
    let owed = spool.load(&id(9000)).await.expect("the digest is owed");
    assert_eq!(owed.original.len(), 0);
    // What it told of is kept all the same.
    assert_eq!(spool.depth().await.expect("read").dead, 1495);
    // The hour is over: the next refusal has an NDR of its own.
    let told = refuse(&spool, 4, at(3700)).await;
    assert!(told.has_ndr && !told.collected);
}

#[tokio::test]
async fn a_clock_that_is_set_back_ends_no_news() {
    let (_dir, spool) = fresh();
    for n in 1..=5 {
        owe(&spool, n, &["a@c.test"]).await;
        refuse(&spool, n, at(1_000_000)).await;
    }
    assert_eq!(spool.digests(at(10)).await.expect("read")[0].count, 2);
    owe(&spool, 6, &["a@c.test"]).await;
    assert!(refuse(&spool, 6, at(10)).await.has_ndr);
}

#[tokio::test]
async fn bounces_are_remembered_for_a_month_and_twenty_of_an_item() {
    let (dir, spool) = fresh();
    let bounced = |n: usize, seconds: u64| BounceRecord {
        item: id(n),
        at: at(seconds),
        bounce: Bounce {
            status: "5.1.1".into(),
            ..Bounce::default()
        },
    };
    for n in 0..25 {
        let news = spool
            .record_bounce(bounced(1, n))
            .await
            .expect("remembered");
        assert_eq!(news, n < 20, "{n}");
    }
    assert!(
        spool
            .record_bounce(bounced(2, 30))
            .await
            .expect("remembered")
    );
    drop(spool);
    let spool = Spool::open(&settings(dir.path())).expect("opened again");
    let all = spool.bounces(None, 100).await.expect("read");
    assert_eq!((all.len(), &all[0]), (21, &bounced(2, 30)));
    assert_eq!(
        spool.bounces(Some(&id(1)), 100).await.expect("read").len(),
        20
    );
    let month = 30 * 24 * 3600;
    assert!(
        spool
            .record_bounce(bounced(3, month + 25))
            .await
            .expect("remembered")
    );
    assert_eq!(spool.bounces(None, 100).await.expect("read").len(), 2);
}

#[tokio::test]
async fn a_claimed_item_is_nobody_elses() {
    let (_dir, spool) = fresh();
    spool
        .commit(
            "Q",
            at(0),
            vec![Submission {
                original: Bytes::new().into(),
                items: vec![item(1, &["a@c.test"])],
            }],
        )
        .await
        .expect("committed");
    assert!(
        spool
            .claim(at(0) - Duration::from_secs(1), 10)
            .await
            .expect("read")
            .is_empty(),
        "not due yet"
    );
    assert_eq!(spool.claim(at(0), 10).await.expect("read").len(), 1);
    assert!(spool.claim(at(0), 10).await.expect("read").is_empty());
    spool.unclaim(&id(1));
    assert_eq!(spool.claim(at(0), 10).await.expect("read").len(), 1);
}

#[tokio::test]
async fn an_item_goes_when_everyone_has_it_and_the_original_with_its_last_item() {
    let (dir, spool) = fresh();
    let items = vec![item(1, &["a@c.test", "b@c.test"]), item(2, &["d@c.test"])];
    spool
        .commit(
            "Q",
            at(0),
            vec![Submission {
                original: Bytes::from(vec![0; LIMIT + 1]).into(),
                items,
            }],
        )
        .await
        .expect("committed");
    let waiting = DeliveryOutcome::Deferred("451 later".into());
    let some = result(
        &[
            ("a@c.test", DeliveryOutcome::Delivered),
            ("b@c.test", waiting),
        ],
        None,
    );
    spool.record(&id(1), some, at(0)).await.expect("recorded");
    assert_eq!(
        spool.load(&id(1)).await.expect("loaded").waiting,
        [address("b@c.test")]
    );
    assert_eq!(
        spool.claim(at(59), 10).await.expect("read"),
        [id(2)],
        "the other one waits for its next attempt"
    );
    let rest = || result(&[("b@c.test", DeliveryOutcome::Delivered)], None);
    spool.record(&id(1), rest(), at(0)).await.expect("recorded");
    assert_eq!(body_files(&dir).len(), 1, "the other item needs it");
    let last = result(&[("d@c.test", DeliveryOutcome::Delivered)], None);
    spool.record(&id(2), last, at(0)).await.expect("recorded");
    assert_eq!(body_files(&dir).len(), 0);
    assert_eq!(spool.depth().await.expect("read"), QueueDepth::default());
    spool
        .record(&id(1), rest(), at(0))
        .await
        .expect("what is gone is no error");
}

#[tokio::test]
async fn a_refusal_counts_only_together_with_its_ndr() {
    let (_dir, spool) = fresh();
    let refused = || DeliveryOutcome::Refused("550 no".into());
    let original = Bytes::from_static(b"original");
    spool
        .commit(
            "Q",
            at(0),
            vec![Submission {
                original: original.clone().into(),
                items: vec![item(1, &["a@c.test"])],
            }],
        )
        .await
        .expect("committed");
    // An NDR that cannot be stored (its name is taken) takes the marks with it.
    let impossible = result(&[("a@c.test", refused())], Some(ndr(1)));
    assert!(matches!(
        spool.record(&id(1), impossible, at(0)).await,
        Err(CommitError::Refused(_))
    ));
    assert_eq!(
        spool.load(&id(1)).await.expect("loaded").waiting,
        [address("a@c.test")]
    );
    let told = result(&[("a@c.test", refused())], Some(ndr(2)));
    spool.record(&id(1), told, at(0)).await.expect("recorded");
    assert!(matches!(
        spool.load(&id(1)).await,
        Err(SpoolError::Unknown(_))
    ));
    assert_eq!(bytes(&spool.load(&id(2)).await.expect("the NDR")), original);
}

#[tokio::test]
async fn a_dead_letter_is_kept_until_an_operator_decides() {
    let (dir, spool) = fresh();
    spool
        .commit(
            "Q",
            at(0),
            vec![Submission {
                original: Bytes::new().into(),
                items: vec![ndr(1), ndr(2)],
            }],
        )
        .await
        .expect("committed");
    for n in [1, 2] {
        let dead = result(
            &[("ndr@c.test", DeliveryOutcome::Dead("550 no".into()))],
            None,
        );
        spool.record(&id(n), dead, at(0)).await.expect("recorded");
    }
    drop(spool);
    let spool = Spool::open(&settings(dir.path())).expect("opened again");
    assert!(spool.claim(at(999_999), 10).await.expect("read").is_empty());
    let dead = spool
        .list(ListFilter {
            dead_only: true,
            limit: 10,
        })
        .await
        .expect("read");
    assert_eq!(dead.len(), 2);
    assert_eq!(dead[0].targets[0].last_reply.as_deref(), Some("550 no"));
    assert!(
        spool
            .operate(&operator(), Action::Retry, &id(1), at(5))
            .await
            .expect("changed")
    );
    assert_eq!(spool.claim(at(5), 10).await.expect("read"), [id(1)]);
    assert!(
        spool
            .operate(&operator(), Action::Drop, &id(2), at(0))
            .await
            .expect("changed")
    );
    assert_eq!(spool.depth().await.expect("read").items, 1);
}

#[tokio::test]
async fn a_damaged_original_is_set_aside_and_never_sent() {
    let (dir, spool) = fresh();
    let large = Bytes::from(vec![b'x'; LIMIT + 1]);
    for n in [1, 2] {
        spool
            .commit(
                "Q",
                at(0),
                vec![Submission {
                    original: large.clone().into(),
                    items: vec![item(n, &["a@c.test"])],
                }],
            )
            .await
            .expect("committed");
    }
    let mut files = std::fs::read_dir(dir.path().join("spool/bodies")).expect("a directory");
    let mut file = || files.next().expect("a file").expect("an entry").path();
    std::fs::write(file(), "damaged").expect("written");
    std::fs::remove_file(file()).expect("removed");
    for n in [1, 2] {
        assert!(matches!(
            spool.load(&id(n)).await,
            Err(SpoolError::SetAside { .. })
        ));
    }
    assert!(spool.claim(at(999_999), 10).await.expect("read").is_empty());
    let aside = spool
        .list(ListFilter {
            dead_only: true,
            limit: 10,
        })
        .await
        .expect("read");
    assert_eq!(
        aside.iter().filter(|item| item.set_aside.is_some()).count(),
        2
    );
}

#[tokio::test]
async fn files_that_a_crash_left_without_a_row_are_removed_at_the_start() {
    let (dir, spool) = fresh();
    spool
        .commit(
            "Q",
            at(0),
            vec![Submission {
                original: vec![0; LIMIT + 1].into(),
                items: vec![item(1, &["a@c.test"])],
            }],
        )
        .await
        .expect("committed");
    for orphan in ["0123456789ab", "0123456789ab.new"] {
        std::fs::write(dir.path().join("spool/bodies").join(orphan), "x").expect("written");
    }
    drop(spool);
    let spool = Spool::open(&settings(dir.path())).expect("opened again");
    assert_eq!(body_files(&dir).len(), 1);
    spool.load(&id(1)).await.expect("what has a row stays");
}

#[tokio::test]
async fn one_service_at_a_time() {
    let (dir, _spool) = fresh();
    match Spool::open(&settings(dir.path())) {
        Err(OpenError::Locked { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{:?}", other.err()),
    }
    Spool::inspect(&settings(dir.path())).expect("commands work beside it");
    let empty = tempfile::tempdir().expect("a directory");
    assert!(matches!(
        Spool::inspect(&settings(empty.path())),
        Err(OpenError::Absent { .. })
    ));
}

#[tokio::test]
async fn what_a_command_does_the_service_sees() {
    let (dir, spool) = fresh();
    spool
        .commit(
            "Q",
            at(0),
            vec![Submission {
                original: Bytes::new().into(),
                items: vec![item(1, &["a@c.test"])],
            }],
        )
        .await
        .expect("committed");
    let later = result(
        &[("a@c.test", DeliveryOutcome::Deferred("no route".into()))],
        None,
    );
    spool.record(&id(1), later, at(0)).await.expect("recorded");
    let command = Spool::inspect(&settings(dir.path())).expect("opened");
    assert_eq!(
        command
            .retry_after(&operator(), 0, 10, at(1))
            .await
            .expect("changed")
            .0,
        1
    );
    assert_eq!(spool.claim(at(1), 10).await.expect("read"), [id(1)]);
}

#[tokio::test]
async fn one_bad_commit_of_a_group_does_not_take_the_others() {
    let (_dir, spool) = fresh();
    let commits = (0..64).map(|n| {
        let spool = spool.clone();
        // Every eighth takes a name that is taken.
        let n = if n % 8 == 7 { 0 } else { n };
        async move {
            spool
                .commit(
                    "Q",
                    at(0),
                    vec![Submission {
                        original: Bytes::from_static(b"x").into(),
                        items: vec![item(n, &["a@c.test"])],
                    }],
                )
                .await
        }
    });
    let outcomes = futures_util::future::join_all(commits).await;
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        56
    );
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Ok(()) | Err(CommitError::Refused(_))))
    );
    assert_eq!(spool.depth().await.expect("read").items, 56);
    assert!(!spool.is_failed());
}

#[test]
fn a_failure_is_never_the_senders_fault() {
    for error in [
        CommitError::Full,
        CommitError::Failed("x".into()),
        CommitError::Refused("x".into()),
    ] {
        assert!(error.reply().is_transient(), "{error}");
    }
}

/// A message that was written to a file while it arrived.
async fn arrived(spool: &Spool, pieces: &[&[u8]]) -> Content {
    let mut incoming = spool.new_body().await.expect("a file");
    for piece in pieces {
        incoming.append(piece).expect("written");
    }
    Content::stored(incoming.finish()).expect("readable")
}

#[tokio::test]
async fn a_message_written_while_it_arrives_is_kept_in_that_very_file() {
    let (dir, spool) = fresh();
    let half = vec![b'x'; 300_000];
    let original = arrived(&spool, &[&half, &half]).await;
    let before = body_files(&dir);
    assert!(
        matches!(&before[..], [one] if one.ends_with(".new")),
        "{before:?}"
    );
    let items = vec![item(1, &["a@c.test"])];
    let submission = Submission {
        original: original.clone(),
        items,
    };
    spool
        .commit("Q", at(0), vec![submission])
        .await
        .expect("committed");
    let after = body_files(&dir);
    assert_eq!(after, [before[0].trim_end_matches(".new")]);
    drop(original);
    assert_eq!(body_files(&dir), after, "it stays without its writer");
    drop(spool);
    let spool = Spool::open(&settings(dir.path())).expect("opened");
    let owed = spool.load(&id(1)).await.expect("loaded");
    assert_eq!(bytes(&owed), [half.clone(), half].concat());
}

#[tokio::test]
async fn a_message_that_is_not_kept_leaves_no_file() {
    let (dir, spool) = fresh();
    let abandoned = spool.new_body().await.expect("a file");
    let unwanted = arrived(&spool, &[b"x"]).await;
    assert_eq!(body_files(&dir).len(), 2);
    drop((abandoned, unwanted));
    assert_eq!(body_files(&dir), [""; 0]);
}

#[tokio::test]
async fn a_short_message_goes_into_its_row_wherever_it_was_written() {
    let (dir, spool) = fresh();
    let original = arrived(&spool, &[b"short"]).await;
    let submission = Submission {
        original,
        items: vec![item(1, &["a@c.test"])],
    };
    spool
        .commit("Q", at(0), vec![submission])
        .await
        .expect("committed");
    assert_eq!(body_files(&dir), [""; 0]);
    assert_eq!(bytes(&spool.load(&id(1)).await.expect("loaded")), "short");
}

#[tokio::test]
async fn operator_records_are_kept_and_taken_for_the_log_once() {
    let (_dir, spool) = fresh();
    for n in 1..4 {
        owe(&spool, n, &["a@b.test"]).await;
    }
    let page = Operator {
        user: "admin page without token".into(),
        uid: None,
        address: Some("192.0.2.1".parse().expect("an address")),
    };
    for (operator, action, n, expected) in [
        (&operator(), Action::Hold, 1, true),
        (&operator(), Action::Release, 2, false),
        (&page, Action::Export, 2, true),
        (&page, Action::Drop, 9, false),
    ] {
        let done = spool.operate(operator, action, &id(n), at(n as u64)).await;
        assert_eq!(done.expect("written"), expected, "{action:?} {n}");
    }
    let retried = spool.retry_after(&page, 0, 10, at(5)).await;
    assert_eq!(retried.expect("written").0, 2, "all that are not on hold");
    let all = spool.operator_records(None, 10).await.expect("read");
    let texts: Vec<String> = all
        .iter()
        .map(|record| format!("{} by {}", record.what(), record.who()))
        .collect();
    assert_eq!(
        texts,
        [
            "retry 2 items by admin page without token, from 192.0.2.1".to_owned(),
            format!(
                "export {} (message Q) by admin page without token, from 192.0.2.1",
                id(2)
            ),
            format!("hold {} (message Q) by postmaster (uid 1000)", id(1)),
        ],
        "what could not be done is not recorded"
    );
    let of_one = spool.operator_records(Some(&id(2)), 10).await;
    assert_eq!(of_one.expect("read"), all[1..2]);
    for left in [3, 0] {
        assert_eq!(spool.take_unlogged().await.expect("taken").len(), left);
    }
}
