//! Claims that every engine must fulfil.
//!
//! An engine runs the suite by [`suite!`] with its [`Fixture`]. The claims use the public methods of
//! [`Spool`] alone; those about files, rows and damage are an engine's own tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::*;
use crate::journal::{Bounce, Dsn, Item, ItemId, Kind};
use crate::mail::{Address, BodyKind, Content};
use crate::policy::Direction;

/// Size of the longest original that is stored inline.
pub(super) const INLINE_LIMIT: usize = 1000;

/// A place where an engine stores a spool during a test.
pub(super) trait Fixture {
    /// A new, empty place.
    fn new() -> Self;

    /// Opens the spool there. The previous handle must be dropped.
    fn open(&self) -> Spool;

    /// Opens the spool as a process finds it after this one was killed.
    fn open_after_kill(&self) -> Spool;
}

/// Runs every claim of the suite on an engine.
macro_rules! suite {
    ($fixture:ty) => {
        $crate::spool::conformance::suite!($fixture:
            committed_items_survive_a_restart
            a_message_and_its_versions_are_stored_together
            unusual_items_come_back_as_they_were
            a_commit_is_all_or_nothing
            items_dated_far_ahead_are_claimed
            a_claimed_item_is_claimed_once
            an_item_on_hold_waits_for_its_release
            a_hold_during_delivery_stops_the_remaining_targets
            a_confirmation_does_not_release_a_hold
            a_reserved_item_waits_for_its_confirmation
            a_cancelled_reservation_leaves_nothing
            an_unknown_answer_is_noted_in_the_report
            a_dropped_reservation_is_kept_as_unknown
            abandoned_reservations_are_kept_as_unknown
            an_operator_may_retry_a_reserved_item
            items_end_with_their_last_target
            a_refusal_and_its_ndr_are_one_transaction
            refusals_over_the_limit_are_reported_by_a_digest
            pending_refusals_survive_a_clock_set_back
            bounces_are_limited_in_number_and_age
            dead_letters_wait_for_an_operator
            operator_records_are_stored_and_logged_once
            reports_over_the_limit_are_dead_letters
            dead_letters_are_not_scheduled_by_a_confirmation
            browsing_finds_items_by_state
            one_failing_commit_does_not_fail_the_others
        );
    };
    ($fixture:ty: $($claim:ident)*) => {
        $(#[tokio::test]
        async fn $claim() {
            $crate::spool::conformance::$claim(<$fixture as $crate::spool::conformance::Fixture>::new()).await;
        })*
    };
}
pub(super) use suite;

pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

pub(super) fn operator() -> Operator {
    Operator {
        user: "postmaster".into(),
        uid: Some(1000),
        address: None,
    }
}

pub(super) fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

pub(super) fn id(n: usize) -> ItemId {
    let text: String = (0..16)
        .rev()
        .map(|digit| char::from(b'a' + (n >> (digit * 4) & 15) as u8))
        .collect();
    ItemId::parse(&text).expect("a valid ID")
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

pub(super) fn ndr(n: usize) -> Item {
    Item {
        kind: Kind::Ndr,
        sender: None,
        ndr: None,
        ..item(n, &["ndr@c.test"])
    }
}

pub(super) fn submission(original: impl Into<Content>, items: Vec<Item>) -> Submission {
    Submission {
        original: original.into(),
        items,
    }
}

/// An original that is not stored inline.
pub(super) fn large() -> Bytes {
    Bytes::from(vec![b'x'; INLINE_LIMIT + 1])
}

pub(super) async fn commit(spool: &Spool, now: SystemTime, submissions: Vec<Submission>) {
    let committed = spool.commit("Q", now, submissions).await;
    committed.expect("committed");
}

/// Queues an item with a short original.
pub(super) async fn enqueue(spool: &Spool, n: usize, targets: &[&str]) {
    commit(
        spool,
        at(0),
        vec![submission("x".as_bytes().to_vec(), vec![item(n, targets)])],
    )
    .await;
}

async fn reserve(spool: &Spool, items: &[usize]) -> Reservation {
    let items = items.iter().map(|n| item(*n, &["a@c.test"])).collect();
    let reserved = spool.reserve("Q", at(0), vec![submission(large(), items)]);
    reserved.await.expect("reserved")
}

async fn act(spool: &Spool, action: Action, n: usize, now: SystemTime) -> bool {
    let done = spool.operate(&operator(), action, &id(n), now).await;
    done.expect("written")
}

async fn claim(spool: &Spool, now: SystemTime) -> Vec<ItemId> {
    spool.claim(now, 100).await.expect("read")
}

async fn depth(spool: &Spool) -> (u64, u64, u64) {
    let depth = spool.depth().await.expect("read");
    (depth.items, depth.dead, depth.on_hold)
}

async fn load(spool: &Spool, n: usize) -> QueuedItem {
    spool.load(&id(n)).await.expect("loaded")
}

fn read(item: &QueuedItem) -> Bytes {
    item.original.read().expect("readable")
}

pub(super) fn result(outcomes: &[(&str, DeliveryOutcome)], ndr: Option<Item>) -> DeliveryResult {
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

pub(super) async fn record(
    spool: &Spool,
    n: usize,
    outcomes: &[(&str, DeliveryOutcome)],
    ndr: Option<Item>,
) -> Result<NdrStatus, CommitError> {
    spool.record(&id(n), result(outcomes, ndr), at(0)).await
}

fn refused() -> DeliveryOutcome {
    DeliveryOutcome::Refused("550 no".into())
}

fn deferred() -> DeliveryOutcome {
    DeliveryOutcome::Deferred("451 later".into())
}

fn dead() -> DeliveryOutcome {
    DeliveryOutcome::Dead("550 no".into())
}

fn is_noted(prefix: &[u8]) -> bool {
    prefix.starts_with(b"X-Copyist-Fate: unknown;") && prefix.ends_with(b"\r\nbefore\r\n")
}

pub(super) async fn committed_items_survive_a_restart(place: impl Fixture) {
    let spool = place.open();
    let small = Bytes::from_static(b"small \0 \xff\r\n");
    let targets = ["a@c.test", "b@c.test"];
    let first = submission(small.clone(), vec![item(1, &targets)]);
    commit(&spool, at(0), vec![first]).await;
    commit(
        &spool,
        at(1),
        vec![submission(large(), vec![item(2, &["a@c.test"])])],
    )
    .await;
    drop(spool);
    let spool = place.open();
    assert_eq!(claim(&spool, at(1)).await, [id(1), id(2)]);
    let loaded = load(&spool, 1).await;
    assert_eq!(read(&loaded), small);
    assert_eq!(loaded.waiting, targets.map(address));
    assert_eq!(
        format!("{:?}", loaded.item),
        format!("{:?}", item(1, &targets))
    );
    assert_eq!(read(&load(&spool, 2).await), large());
}

pub(super) async fn a_message_and_its_versions_are_stored_together(place: impl Fixture) {
    let spool = place.open();
    let version = Item {
        kind: Kind::Version,
        dsn: Dsn {
            sender: vec!["RET=HDRS".into(), "ENVID=q".into()],
            recipients: vec![(address("b@c.test"), vec!["NOTIFY=NEVER".into()])],
        },
        ..item(2, &["a@c.test", "b@c.test"])
    };
    let received = submission(
        Bytes::from_static(b"received"),
        vec![item(1, &["a@c.test"])],
    );
    let edited = submission(large(), vec![version.clone()]);
    commit(&spool, at(0), vec![received, edited]).await;
    drop(spool);
    let spool = place.open();
    let loaded = load(&spool, 2).await;
    assert_eq!(read(&loaded), large());
    assert_eq!(format!("{:?}", loaded.item), format!("{version:?}"));
    assert_eq!(read(&load(&spool, 1).await), "received");
}

/// An item must pass the check of its digest whatever its texts contain.
pub(super) async fn unusual_items_come_back_as_they_were(place: impl Fixture) {
    let spool = place.open();
    let odd = Item {
        sender: Some(address("\"a b\"@C.Test")),
        subject: "one\r\ntwo\0".into(),
        reasons: vec!["a\r".into(), String::new(), "b".into(), String::new()],
        ..item(1, &["Z@c.test", "a@c.test", "\"x y\"@c.test"])
    };
    let empty = Item {
        sender: None,
        ndr: None,
        subject: String::new(),
        reasons: Vec::new(),
        prefix: Bytes::new(),
        suffix: Bytes::new(),
        ..item(2, &["a@c.test"])
    };
    commit(
        &spool,
        at(0),
        vec![submission(Bytes::new(), vec![odd, empty])],
    )
    .await;
    drop(spool);
    let spool = place.open();
    let loaded = load(&spool, 1).await;
    assert_eq!(loaded.item.subject, "one\r\ntwo\0");
    assert_eq!(loaded.item.targets.len(), 3);
    assert_eq!(load(&spool, 2).await.item.reasons, Vec::<String>::new());
}

pub(super) async fn a_commit_is_all_or_nothing(place: impl Fixture) {
    let spool = place.open();
    enqueue(&spool, 1, &["a@c.test"]).await;
    // The second item's ID is taken.
    let again = vec![
        submission(large(), vec![item(2, &["a@c.test"])]),
        submission(Bytes::new(), vec![item(1, &["a@c.test"])]),
    ];
    let error = spool.commit("Q", at(0), again).await.expect_err("refused");
    assert!(matches!(error, CommitError::Refused(_)), "{error}");
    assert_eq!(depth(&spool).await, (1, 0, 0));
}

pub(super) async fn items_dated_far_ahead_are_claimed(place: impl Fixture) {
    let spool = place.open();
    for (n, due) in [(1, 0), (2, 3600), (3, 10 * 365 * 86400)] {
        let one = submission(Bytes::new(), vec![item(n, &["a@c.test"])]);
        commit(&spool, at(due), vec![one]).await;
    }
    let misdated = || async { spool.claim_misdated(at(86400), 10).await.expect("read") };
    assert_eq!(misdated().await, [id(3)]);
    assert!(misdated().await.is_empty());
    spool.unclaim(&id(3));
    assert_eq!(misdated().await, [id(3)]);
}

pub(super) async fn a_claimed_item_is_claimed_once(place: impl Fixture) {
    let spool = place.open();
    enqueue(&spool, 1, &["a@c.test"]).await;
    assert!(
        claim(&spool, at(0) - Duration::from_secs(1))
            .await
            .is_empty()
    );
    assert_eq!(claim(&spool, at(0)).await, [id(1)]);
    assert!(claim(&spool, at(0)).await.is_empty());
    spool.unclaim(&id(1));
    assert_eq!(claim(&spool, at(0)).await, [id(1)]);
}

pub(super) async fn an_item_on_hold_waits_for_its_release(place: impl Fixture) {
    let spool = place.open();
    enqueue(&spool, 1, &["a@c.test"]).await;
    enqueue(&spool, 2, &["a@c.test"]).await;
    for (n, expected) in [(1, true), (1, true), (3, false)] {
        let held = spool.hold(&operator(), &id(n), at(0)).await;
        assert_eq!(held.expect("written"), expected, "{n}");
    }
    assert_eq!(claim(&spool, at(9)).await, [id(2)]);
    // A retry of the whole queue leaves it.
    let all = spool
        .retry_after(&operator(), RetryCursor::default(), 10, at(1))
        .await;
    assert_eq!(all.expect("written").0, 1);
    drop(spool);
    let spool = place.open();
    assert_eq!(claim(&spool, at(9)).await, [id(2)], "it lasts");
    assert_eq!(depth(&spool).await, (2, 0, 1));
    let shown = spool.show(&id(1)).await.expect("read").expect("present");
    assert!(shown.listed.on_hold && shown.listed.next_attempt.is_none());

    for is_on_hold in [true, false] {
        let released = spool.release(&operator(), &id(1), at(2)).await;
        assert_eq!(released.expect("written"), is_on_hold);
    }
    assert_eq!(claim(&spool, at(9)).await, [id(1)]);
    // A retry of this item releases it.
    assert!(act(&spool, Action::Hold, 1, at(0)).await);
    assert!(act(&spool, Action::Retry, 1, at(2)).await);
    assert_eq!(depth(&spool).await, (2, 0, 0));
}

pub(super) async fn a_hold_during_delivery_stops_the_remaining_targets(place: impl Fixture) {
    let spool = place.open();
    enqueue(&spool, 1, &["a@c.test", "b@c.test"]).await;
    assert_eq!(claim(&spool, at(1)).await, [id(1)]);
    assert!(act(&spool, Action::Hold, 1, at(0)).await);
    let outcomes = [
        ("a@c.test", DeliveryOutcome::Delivered),
        ("b@c.test", deferred()),
    ];
    record(&spool, 1, &outcomes, None).await.expect("recorded");
    assert!(claim(&spool, at(1_000_000)).await.is_empty());
    assert!(act(&spool, Action::Release, 1, at(2)).await);
    assert_eq!(claim(&spool, at(2)).await, [id(1)]);
    assert_eq!(load(&spool, 1).await.waiting, [address("b@c.test")]);
}

pub(super) async fn a_confirmation_does_not_release_a_hold(place: impl Fixture) {
    let spool = place.open();
    let reservation = reserve(&spool, &[1]).await;
    assert!(act(&spool, Action::Hold, 1, at(0)).await);
    // Nor does a release confirm the reservation.
    assert!(act(&spool, Action::Release, 1, at(1)).await);
    assert!(claim(&spool, at(9)).await.is_empty());
    assert!(act(&spool, Action::Hold, 1, at(0)).await);
    reservation.confirm(Vec::new()).await.expect("confirmed");
    assert!(claim(&spool, at(9)).await.is_empty());
    assert!(act(&spool, Action::Release, 1, at(9)).await);
    assert_eq!(claim(&spool, at(9)).await, [id(1)]);
}

pub(super) async fn a_reserved_item_waits_for_its_confirmation(place: impl Fixture) {
    let spool = place.open();
    let reservation = reserve(&spool, &[1, 2]).await;
    assert!(claim(&spool, at(1)).await.is_empty());
    assert_eq!(spool.next_due().await.expect("read"), None);
    assert_eq!(depth(&spool).await, (2, 0, 0));
    reservation.confirm(vec![id(2)]).await.expect("confirmed");
    assert_eq!(claim(&spool, at(1)).await, [id(1)]);
    assert_eq!(load(&spool, 1).await.item.prefix, "before\r\n", "no note");
    assert!(spool.show(&id(2)).await.expect("read").is_none());
}

pub(super) async fn a_cancelled_reservation_leaves_nothing(place: impl Fixture) {
    let spool = place.open();
    let reservation = reserve(&spool, &[1, 2]).await;
    reservation.cancel().await.expect("cancelled");
    assert_eq!(spool.depth().await.expect("read"), QueueDepth::default());
}

pub(super) async fn an_unknown_answer_is_noted_in_the_report(place: impl Fixture) {
    let spool = place.open();
    let reservation = reserve(&spool, &[1]).await;
    reservation.keep_unknown().await.expect("kept");
    assert_eq!(claim(&spool, at(1)).await, [id(1)]);
    assert!(is_noted(&load(&spool, 1).await.item.prefix));
}

pub(super) async fn a_dropped_reservation_is_kept_as_unknown(place: impl Fixture) {
    let spool = place.open();
    drop(reserve(&spool, &[1]).await);
    spool.changed().await;
    assert_eq!(claim(&spool, at(1)).await, [id(1)]);
    assert!(is_noted(&load(&spool, 1).await.item.prefix));
}

pub(super) async fn abandoned_reservations_are_kept_as_unknown(place: impl Fixture) {
    let spool = place.open();
    let reservation = reserve(&spool, &[1]).await;
    let version = Item {
        kind: Kind::Version,
        ..item(2, &["b@c.test"])
    };
    let version = vec![submission(Bytes::from_static(b"x"), vec![version])];
    let other = spool.reserve("Q", at(0), version).await.expect("reserved");
    // As a killed process leaves them.
    std::mem::forget((reservation, other));
    let spool = place.open_after_kill();
    assert_eq!(claim(&spool, at(1)).await, [id(1), id(2)]);
    assert!(is_noted(&load(&spool, 1).await.item.prefix));
    let version = load(&spool, 2).await.item;
    assert_eq!(version.prefix, "before\r\n", "it is mail, not a report");
}

pub(super) async fn an_operator_may_retry_a_reserved_item(place: impl Fixture) {
    let spool = place.open();
    let reservation = reserve(&spool, &[1]).await;
    let shown = spool.show(&id(1)).await.expect("read").expect("present");
    assert!(shown.listed.is_reserved);
    assert!(act(&spool, Action::Retry, 1, at(5)).await);
    assert_eq!(claim(&spool, at(5)).await, [id(1)]);
    reservation.keep_unknown().await.expect("kept");
    assert_eq!(depth(&spool).await, (1, 0, 0));
}

pub(super) async fn items_end_with_their_last_target(place: impl Fixture) {
    let spool = place.open();
    let items = vec![item(1, &["a@c.test", "b@c.test"]), item(2, &["d@c.test"])];
    commit(&spool, at(0), vec![submission(large(), items)]).await;
    let delivered = DeliveryOutcome::Delivered;
    let some = [("a@c.test", delivered.clone()), ("b@c.test", deferred())];
    record(&spool, 1, &some, None).await.expect("recorded");
    let loaded = load(&spool, 1).await;
    assert_eq!(
        (loaded.waiting, loaded.attempts),
        (vec![address("b@c.test")], 1)
    );
    assert_eq!(
        spool.next_due().await.expect("read"),
        Some(at(0)),
        "the other"
    );
    let unreached = DeliveryResult {
        relay_reached: false,
        ..result(&[("b@c.test", deferred())], None)
    };
    spool
        .record(&id(1), unreached, at(0))
        .await
        .expect("recorded");
    assert_eq!(load(&spool, 1).await.attempts, 1, "it did not count");
    let rest = [("b@c.test", delivered.clone())];
    record(&spool, 1, &rest, None).await.expect("recorded");
    assert!(matches!(
        spool.load(&id(1)).await,
        Err(SpoolError::Unknown(_))
    ));
    assert_eq!(read(&load(&spool, 2).await), large(), "the other needs it");
    let last = [("d@c.test", delivered)];
    record(&spool, 2, &last, None).await.expect("recorded");
    assert_eq!(spool.depth().await.expect("read"), QueueDepth::default());
}

pub(super) async fn a_refusal_and_its_ndr_are_one_transaction(place: impl Fixture) {
    let spool = place.open();
    let original = Bytes::from_static(b"the original");
    commit(
        &spool,
        at(0),
        vec![submission(original.clone(), vec![item(1, &["a@c.test"])])],
    )
    .await;
    // An NDR that cannot be stored (its ID is taken) takes the states with it.
    let outcomes = [("a@c.test", refused())];
    let error = record(&spool, 1, &outcomes, Some(ndr(1))).await;
    assert!(matches!(error, Err(CommitError::Refused(_))));
    assert_eq!(load(&spool, 1).await.waiting, [address("a@c.test")]);
    let status = record(&spool, 1, &outcomes, Some(ndr(2))).await;
    assert_eq!(status.expect("recorded"), NdrStatus::Queued);
    assert!(matches!(
        spool.load(&id(1)).await,
        Err(SpoolError::Unknown(_))
    ));
    assert_eq!(read(&load(&spool, 2).await), original);
}

/// A refusal whose NDR is one of at most three in an hour.
async fn refuse(spool: &Spool, n: usize, now: SystemTime) -> NdrStatus {
    let refused = DeliveryOutcome::Refused(format!("550 {n}"));
    let result = DeliveryResult {
        ndr_limit: Some(3),
        ..result(&[("a@c.test", refused)], Some(ndr(n + 5000)))
    };
    spool.record(&id(n), result, now).await.expect("recorded")
}

pub(super) async fn refusals_over_the_limit_are_reported_by_a_digest(place: impl Fixture) {
    let spool = place.open();
    for n in 1..=1500 {
        enqueue(&spool, n, &["a@c.test"]).await;
        let status = refuse(&spool, n, at(n as u64 / 100)).await;
        let expected = if n <= 3 {
            NdrStatus::Queued
        } else {
            NdrStatus::Pending
        };
        assert_eq!(status, expected, "{n}");
    }
    assert_eq!(depth(&spool).await, (3 + 1497, 1497, 0));
    let digests = |now: SystemTime| {
        let spool = spool.clone();
        async move { spool.digests(now).await.expect("read") }
    };
    assert!(digests(at(3599)).await.is_empty(), "it is not an hour yet");
    let due = digests(at(3601)).await;
    let [digest] = &due[..] else {
        panic!("one address, one digest");
    };
    assert_eq!((digest.count, digest.listed.len()), (1497, 1000));
    assert_eq!(digest.listed[0].item, id(4));
    assert_eq!(digest.listed[0].said, "550 4");
    // A digest does not report what an operator decided.
    assert!(act(&spool, Action::Retry, 4, at(3601)).await);
    assert!(act(&spool, Action::Drop, 5, at(0)).await);
    let due = digests(at(3601)).await;
    assert_eq!(due[0].count, 1495);
    let queued = spool.enqueue_digest(&due[0], ndr(9000), at(3601)).await;
    queued.expect("queued");
    assert!(digests(at(99_999)).await.is_empty());
    assert_eq!(load(&spool, 9000).await.original.len(), 0);
    // The dead letters that it reported stay.
    assert_eq!(spool.depth().await.expect("read").dead, 1495);
    // The hour is over: the next refusal has its own NDR.
    assert_eq!(refuse(&spool, 4, at(3700)).await, NdrStatus::Queued);
}

pub(super) async fn pending_refusals_survive_a_clock_set_back(place: impl Fixture) {
    let spool = place.open();
    for n in 1..=5 {
        enqueue(&spool, n, &["a@c.test"]).await;
        refuse(&spool, n, at(1_000_000)).await;
    }
    assert_eq!(spool.digests(at(10)).await.expect("read")[0].count, 2);
    enqueue(&spool, 6, &["a@c.test"]).await;
    assert_eq!(refuse(&spool, 6, at(10)).await, NdrStatus::Queued);
}

pub(super) async fn bounces_are_limited_in_number_and_age(place: impl Fixture) {
    let spool = place.open();
    let bounce = |n: usize, seconds: u64| BounceRecord {
        item: id(n),
        at: at(seconds),
        bounce: Bounce {
            status: "5.1.1".into(),
            ..Bounce::default()
        },
    };
    for n in 0..25 {
        let stored = spool.record_bounce(bounce(1, n)).await;
        assert_eq!(stored.expect("written"), n < 20, "{n}");
    }
    assert!(spool.record_bounce(bounce(2, 30)).await.expect("written"));
    drop(spool);
    let spool = place.open();
    let all = spool.bounces(None, 100).await.expect("read");
    assert_eq!((all.len(), &all[0]), (21, &bounce(2, 30)));
    let of_one = spool.bounces(Some(&id(1)), 100).await.expect("read");
    assert_eq!(of_one.len(), 20);
    let later = bounce(3, 30 * 24 * 3600 + 25);
    assert!(spool.record_bounce(later).await.expect("written"));
    assert_eq!(spool.bounces(None, 100).await.expect("read").len(), 2);
}

pub(super) async fn dead_letters_wait_for_an_operator(place: impl Fixture) {
    let spool = place.open();
    commit(
        &spool,
        at(0),
        vec![submission(Bytes::new(), vec![ndr(1), ndr(2)])],
    )
    .await;
    for n in [1, 2] {
        let outcomes = [("ndr@c.test", dead())];
        record(&spool, n, &outcomes, None).await.expect("recorded");
    }
    drop(spool);
    let spool = place.open();
    assert!(claim(&spool, at(999_999)).await.is_empty());
    let filter = ListFilter {
        dead_only: true,
        limit: 10,
    };
    let dead = spool.list(filter).await.expect("read");
    assert_eq!(dead.len(), 2);
    assert_eq!(dead[0].targets[0].state, TargetState::Dead);
    assert_eq!(dead[0].targets[0].last_reply.as_deref(), Some("550 no"));
    assert!(act(&spool, Action::Retry, 1, at(5)).await);
    assert_eq!(claim(&spool, at(5)).await, [id(1)]);
    assert!(act(&spool, Action::Drop, 2, at(0)).await);
    assert_eq!(depth(&spool).await, (1, 0, 0));
}

pub(super) async fn operator_records_are_stored_and_logged_once(place: impl Fixture) {
    let spool = place.open();
    for n in 1..4 {
        enqueue(&spool, n, &["a@b.test"]).await;
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
        assert_eq!(done.expect("written"), expected, "{} {n}", action.name());
    }
    let retried = spool
        .retry_after(&page, RetryCursor::default(), 10, at(5))
        .await;
    assert_eq!(retried.expect("written").0, 2, "but for the one on hold");
    let all = spool.operator_records(None, 10).await.expect("read");
    let texts: Vec<String> = (all.iter())
        .map(|record| {
            format!(
                "{} by {}",
                record.describe_action(),
                record.describe_operator()
            )
        })
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
        "actions without an effect are not recorded"
    );
    let of_one = spool.operator_records(Some(&id(2)), 10).await;
    assert_eq!(of_one.expect("read"), all[1..2]);
    for left in [3, 0] {
        assert_eq!(spool.take_unlogged().await.expect("taken").len(), left);
    }
}

pub(super) async fn reports_over_the_limit_are_dead_letters(place: impl Fixture) {
    let spool = place.open();
    let limited = spool.with_report_limit(3);
    let report = |n: usize, targets: &[&str]| {
        vec![submission(Bytes::from_static(b"x"), vec![item(n, targets)])]
    };
    for n in 1..=10 {
        commit(&limited, at(n as u64), report(n, &["a@c.test"])).await;
    }
    assert_eq!(claim(&spool, at(99)).await, [id(1), id(2), id(3)]);
    // Each target has its own limit, and other mail has none.
    commit(&limited, at(11), report(11, &["a@c.test", "b@c.test"])).await;
    enqueue(&spool, 12, &["a@c.test"]).await;
    assert_eq!(claim(&spool, at(99)).await, [id(12), id(11)]);
    assert_eq!(load(&spool, 11).await.waiting, [address("b@c.test")]);
    assert_eq!(depth(&spool).await, (12, 7, 0));

    assert!(spool.digests(at(3600)).await.expect("read").is_empty());
    let due = spool.digests(at(3605)).await.expect("read");
    let [digest] = &due[..] else {
        panic!("one address, one digest");
    };
    assert_eq!((digest.count, &digest.listed[0].item), (8, &id(4)));
    assert!(digest.listed[0].said.contains("mail loop"));
    // An operator may have one sent, and an hour later reports are sent again.
    assert!(act(&spool, Action::Retry, 4, at(99)).await);
    assert_eq!(load(&spool, 4).await.waiting, [address("a@c.test")]);
    commit(&limited, at(4000), report(13, &["a@c.test"])).await;
    assert!(claim(&spool, at(4000)).await.contains(&id(13)));
}

pub(super) async fn dead_letters_are_not_scheduled_by_a_confirmation(place: impl Fixture) {
    let spool = place.open();
    let limited = spool.with_report_limit(1);
    for n in 1..=2 {
        let reservation = reserve(&limited, &[n]).await;
        reservation.confirm(Vec::new()).await.expect("confirmed");
    }
    assert_eq!(claim(&spool, at(99)).await, [id(1)]);
    assert_eq!(depth(&spool).await, (2, 1, 0));
    let reservation = reserve(&limited, &[3]).await;
    reservation.cancel().await.expect("cancelled");
    assert_eq!(depth(&spool).await, (2, 1, 0));
}

async fn in_state(spool: &Spool, state: StateFilter) -> Vec<ItemId> {
    let request = BrowseRequest {
        state,
        limit: 100,
        ..BrowseRequest::default()
    };
    let page = spool.browse(request).await.expect("read");
    page.items.into_iter().map(|item| item.id).collect()
}

pub(super) async fn browsing_finds_items_by_state(place: impl Fixture) {
    let spool = place.open();
    for n in 0..5 {
        enqueue(&spool, n, &["a@c.test", "b@c.test"]).await;
    }
    let reservation = reserve(&spool, &[6]).await;
    // 1 is dead, 2 is dead for one target and waits for the other, 3 is dead and on hold, 4 is on
    // hold.
    for (n, second) in [(1, dead()), (2, deferred()), (3, dead())] {
        let outcomes = [("a@c.test", dead()), ("b@c.test", second)];
        record(&spool, n, &outcomes, None).await.expect("recorded");
    }
    for n in [3, 4] {
        assert!(act(&spool, Action::Hold, n, at(0)).await);
    }
    let ids = |all: &[usize]| -> Vec<ItemId> { all.iter().map(|n| id(*n)).collect() };
    assert_eq!(in_state(&spool, StateFilter::Dead).await, ids(&[1, 2, 3]));
    assert_eq!(in_state(&spool, StateFilter::Waiting).await, ids(&[2, 0]));
    assert_eq!(
        in_state(&spool, StateFilter::Blocked).await,
        ids(&[3, 4, 6])
    );
    let all = in_state(&spool, StateFilter::Any).await;
    assert_eq!(all, ids(&[1, 2, 3, 0, 4, 6]));
    let counts = spool
        .browse(BrowseRequest::default())
        .await
        .expect("read")
        .counts;
    let expected = QueueCounts {
        items: 6,
        dead: 3,
        waiting: 2,
        blocked: 3,
        on_hold: 2,
        oldest: Some(at(0)),
    };
    assert_eq!(counts, expected);
    reservation.cancel().await.expect("cancelled");
    assert_eq!(in_state(&spool, StateFilter::Blocked).await, ids(&[3, 4]));
}

pub(super) async fn one_failing_commit_does_not_fail_the_others(place: impl Fixture) {
    let spool = place.open();
    let commits = (0..64).map(|n| {
        let spool = spool.clone();
        // The ID of every eighth is taken.
        let n = if n % 8 == 7 { 0 } else { n };
        let one = submission(Bytes::from_static(b"x"), vec![item(n, &["a@c.test"])]);
        async move { spool.commit("Q", at(0), vec![one]).await }
    });
    let outcomes = futures_util::future::join_all(commits).await;
    let committed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(committed, 56);
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Ok(()) | Err(CommitError::Refused(_))))
    );
    assert_eq!(depth(&spool).await, (56, 0, 0));
    assert!(!spool.is_failed());
}

#[test]
fn every_commit_error_is_temporary_for_the_client() {
    for error in [
        CommitError::Full,
        CommitError::Unavailable("x".into()),
        CommitError::InDoubt("x".into()),
        CommitError::Failed("x".into()),
        CommitError::Refused("x".into()),
    ] {
        assert!(error.reply().is_transient(), "{error}");
    }
}
