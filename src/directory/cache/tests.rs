//! Tests of the cache, on a fake source.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

use super::*;
use crate::directory::entry::Entry;
use crate::directory::source::ObjectName;

const HOUR: Duration = Duration::from_secs(3600);

/// A source whose answers a test sets, and which counts the questions.
#[derive(Default)]
struct FakeSource {
    people: Mutex<HashMap<String, Objects>>,
    down: Mutex<Option<Outage>>,
    asked: AtomicUsize,
    hold: Option<Notify>,
}

impl FakeSource {
    fn with(people: &[(&str, &str)]) -> FakeSource {
        let source = FakeSource::default();
        people
            .iter()
            .for_each(|(address, dn)| source.put(address, dn));
        source
    }

    fn put(&self, address: &str, dn: &str) {
        let objects: Objects = vec![Arc::new(Entry::new(dn, []))].into();
        let mut people = self.people.lock().expect("not poisoned");
        people.insert(address.to_owned(), objects);
    }

    fn remove(&self, address: &str) {
        self.people.lock().expect("not poisoned").remove(address);
    }

    fn set_down(&self, down: bool) {
        *self.down.lock().expect("not poisoned") = down.then(|| Outage::new("dc1 is down"));
    }

    async fn answer<T>(
        &self,
        answer: impl FnOnce(&HashMap<String, Objects>) -> T,
    ) -> Result<T, Outage> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(hold) = &self.hold {
            hold.notified().await;
        }
        match &*self.down.lock().expect("not poisoned") {
            Some(outage) => Err(outage.clone()),
            None => Ok(answer(&self.people.lock().expect("not poisoned"))),
        }
    }
}

impl Source for FakeSource {
    async fn find(&self, address: &Address) -> Result<Option<Objects>, Outage> {
        self.answer(|people| people.get(address.key()).cloned())
            .await
    }

    async fn is_named_in_journal(
        &self,
        address: &Address,
        _: &[Arc<Entry>],
    ) -> Result<bool, Outage> {
        self.answer(|people| people.contains_key(address.key()))
            .await
    }

    async fn find_login(&self, login: &str) -> Result<Option<Objects>, Outage> {
        self.answer(|people| people.get(login).cloned()).await
    }

    async fn list_groups(&self) -> Result<Vec<String>, Outage> {
        Ok(Vec::new())
    }

    async fn list_journaled(&self) -> Result<Vec<Arc<Entry>>, Outage> {
        Ok(Vec::new())
    }

    async fn list_mail_relevant(
        &self,
        _: &mpsc::Sender<Result<Arc<Entry>, Outage>>,
    ) -> Result<(), Outage> {
        Ok(())
    }

    async fn find_named(&self, name: &ObjectName) -> Result<Vec<Arc<Entry>>, Outage> {
        let text = name.to_string();
        self.answer(|people| people.get(&text).map(|found| found.to_vec()))
            .await
            .map(Option::unwrap_or_default)
    }

    async fn groups_of(&self, _: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        Ok(Vec::new())
    }

    async fn containers_of(&self, _: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        Ok(Vec::new())
    }
}

fn cached(source: FakeSource, ttl: Duration, max_stale: Duration) -> CachedSource<FakeSource> {
    cached_of(source, ttl, max_stale, 1000)
}

fn cached_of(
    source: FakeSource,
    ttl: Duration,
    max_stale: Duration,
    capacity: u64,
) -> CachedSource<FakeSource> {
    let settings = CacheSettings {
        ttl,
        negative_ttl: ttl,
        max_stale,
        capacity,
    };
    let attributes = Attributes::new(&["mail".into()], &["journal".into()]);
    CachedSource::new(
        source,
        attributes.expect("valid names"),
        &settings,
        Inheritance::default(),
        TargetSettings::default(),
        Duration::from_secs(5),
    )
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

/// The address, and what it is without its extension.
fn readings(text: &str) -> Vec<Address> {
    let written = address(text);
    let base = written.without_extension("+");
    [written].into_iter().chain(base).collect()
}

/// The DN found, "absent" or "unavailable".
async fn ask(cached: &CachedSource<FakeSource>, text: &str) -> String {
    match cached.find(&readings(text)).await {
        Lookup::Found((_, objects)) => objects[0].dn.clone(),
        Lookup::Absent => "absent".into(),
        Lookup::Unavailable(_) => "unavailable".into(),
    }
}

fn asked(cached: &CachedSource<FakeSource>) -> usize {
    cached.source().asked.load(Ordering::SeqCst)
}

#[tokio::test]
async fn positive_and_negative_answers_are_cached_for_their_ttl() {
    let people = cached(FakeSource::with(&[("ana@b.test", "cn=ana")]), HOUR, HOUR);
    for _ in 0..3 {
        assert_eq!(ask(&people, "Ana@B.test").await, "cn=ana");
        assert_eq!(ask(&people, "eve@b.test").await, "absent");
    }
    assert_eq!(asked(&people), 2);
}

#[tokio::test]
async fn without_a_time_to_live_every_change_counts_at_once() {
    let people = cached(
        FakeSource::with(&[("ana@b.test", "cn=ana")]),
        Duration::ZERO,
        HOUR,
    );
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    people.source().put("ana@b.test", "cn=new");
    assert_eq!(ask(&people, "ana@b.test").await, "cn=new");
    people.source().remove("ana@b.test");
    assert_eq!(ask(&people, "ana@b.test").await, "absent");
}

#[tokio::test]
async fn an_outage_is_not_a_negative_answer_and_is_not_cached() {
    let people = cached(FakeSource::default(), HOUR, HOUR);
    people.source().set_down(true);
    assert_eq!(ask(&people, "ana@b.test").await, "unavailable");
    people.source().set_down(false);
    people.source().put("ana@b.test", "cn=ana");
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
}

#[tokio::test]
async fn an_old_found_serves_an_outage_and_an_old_absent_does_not() {
    let people = cached(
        FakeSource::with(&[("ana@b.test", "cn=ana")]),
        Duration::ZERO,
        HOUR,
    );
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    assert_eq!(ask(&people, "eve@b.test").await, "absent");
    people.source().set_down(true);
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    assert_eq!(ask(&people, "eve@b.test").await, "unavailable");
}

#[tokio::test]
async fn a_removed_person_is_not_served_from_the_cache() {
    let people = cached(
        FakeSource::with(&[("ana@b.test", "cn=ana")]),
        Duration::ZERO,
        HOUR,
    );
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    people.source().remove("ana@b.test");
    assert_eq!(ask(&people, "ana@b.test").await, "absent");
    people.source().set_down(true);
    assert_eq!(ask(&people, "ana@b.test").await, "unavailable");
}

#[tokio::test(start_paused = true)]
async fn a_found_is_not_served_beyond_max_stale() {
    let people = cached(
        FakeSource::with(&[("ana@b.test", "cn=ana")]),
        Duration::ZERO,
        HOUR,
    );
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    people.source().set_down(true);
    tokio::time::advance(HOUR).await;
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(ask(&people, "ana@b.test").await, "unavailable");
}

#[tokio::test]
async fn nothing_stale_is_served_where_that_is_turned_off() {
    let source = FakeSource::with(&[("ana@b.test", "cn=ana")]);
    let people = cached(source, Duration::ZERO, Duration::ZERO);
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    people.source().set_down(true);
    assert_eq!(ask(&people, "ana@b.test").await, "unavailable");
}

#[tokio::test]
async fn concurrent_lookups_share_one_query() {
    let source = FakeSource {
        hold: Some(Notify::new()),
        ..FakeSource::with(&[("ana@b.test", "cn=ana")])
    };
    let people = cached(source, HOUR, HOUR);
    let asking = join_all((0..50).map(|_| ask(&people, "ana@b.test")));
    let release = async {
        tokio::task::yield_now().await;
        people.source().hold.as_ref().expect("held").notify_one();
    };
    let (answers, ()) = futures_util::future::join(asking, release).await;
    assert!(answers.iter().all(|answer| answer == "cn=ana"));
    assert_eq!(asked(&people), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_an_outage_in_time() {
    let source = FakeSource {
        hold: Some(Notify::new()),
        ..FakeSource::default()
    };
    let people = cached(source, HOUR, HOUR);
    let begun = Instant::now();
    assert_eq!(ask(&people, "ana@b.test").await, "unavailable");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[tokio::test]
async fn the_exact_address_wins_over_the_one_without_extension() {
    let source = FakeSource::with(&[("ana@b.test", "cn=ana"), ("ana+x@b.test", "cn=list")]);
    let people = cached(source, HOUR, HOUR);
    assert_eq!(ask(&people, "ana+x@b.test").await, "cn=list");
    assert_eq!(ask(&people, "ana+y@b.test").await, "cn=ana");
    assert_eq!(ask(&people, "eve+y@b.test").await, "absent");
}

#[tokio::test]
async fn an_extension_that_cannot_be_ruled_out_is_an_outage() {
    let people = cached(
        FakeSource::with(&[("ana@b.test", "cn=ana")]),
        Duration::ZERO,
        HOUR,
    );
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    assert_eq!(ask(&people, "ana+y@b.test").await, "cn=ana");
    people.source().set_down(true);
    assert_eq!(ask(&people, "ana+y@b.test").await, "cn=ana", "asked before");
    assert_eq!(
        ask(&people, "ana+z@b.test").await,
        "unavailable",
        "never asked"
    );
}

#[tokio::test]
async fn journal_addresses_are_known_through_an_outage_both_ways() {
    let people = cached(
        FakeSource::with(&[("j@b.test", "cn=ana")]),
        Duration::ZERO,
        HOUR,
    );
    let yes = address("j@b.test");
    let no = address("ana@b.test");
    assert_eq!(people.is_named_in_journal(&yes).await, Lookup::Found(()));
    assert_eq!(people.is_named_in_journal(&no).await, Lookup::Absent);
    people.source().set_down(true);
    assert_eq!(people.is_named_in_journal(&yes).await, Lookup::Found(()));
    assert_eq!(people.is_named_in_journal(&no).await, Lookup::Absent);
    let unknown = people.is_named_in_journal(&address("k@b.test")).await;
    assert!(matches!(unknown, Lookup::Unavailable(_)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_valid_for_its_ttl_and_longer_in_an_outage() {
    let people = cached(
        FakeSource::with(&[("ana@b.test", "cn=ana")]),
        Duration::from_secs(60),
        HOUR,
    );
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    assert_eq!(ask(&people, "eve@b.test").await, "absent");
    people.source().put("ana@b.test", "cn=new");
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    assert_eq!(ask(&people, "eve@b.test").await, "absent");
    assert_eq!(asked(&people), 2);
    tokio::time::advance(Duration::from_secs(1)).await;
    people.source().set_down(true);
    assert_eq!(ask(&people, "ana@b.test").await, "cn=ana");
    assert_eq!(ask(&people, "eve@b.test").await, "unavailable");
    people.source().set_down(false);
    assert_eq!(ask(&people, "ana@b.test").await, "cn=new");
}

#[tokio::test]
async fn a_newly_assigned_address_replaces_its_cached_extension() {
    let people = cached(
        FakeSource::with(&[("ana@b.test", "cn=ana")]),
        Duration::ZERO,
        HOUR,
    );
    assert_eq!(ask(&people, "ana+y@b.test").await, "cn=ana");
    people.source().put("ana+y@b.test", "cn=list");
    assert_eq!(ask(&people, "ana+y@b.test").await, "cn=list");
    people.source().set_down(true);
    assert_eq!(ask(&people, "ana+y@b.test").await, "cn=list");
    people.changes().record(["cn=list".to_owned()]);
    assert_eq!(ask(&people, "ana+y@b.test").await, "unavailable");
}

#[tokio::test]
async fn only_changed_answers_are_queried_again() {
    let people = cached(
        FakeSource::with(&[("ana@b.test", "cn=ana"), ("eve@b.test", "cn=eve")]),
        HOUR,
        HOUR,
    );
    for text in ["ana@b.test", "eve@b.test", "new@b.test"] {
        ask(&people, text).await;
    }
    let before = asked(&people);
    people.source().put("ana@b.test", "cn=other");
    people.changes().record(["CN=Ana".to_owned()]);
    assert_eq!(ask(&people, "ana@b.test").await, "cn=other");
    assert_eq!(ask(&people, "eve@b.test").await, "cn=eve");
    assert_eq!(asked(&people), before + 1);
    // An absence ends with the address, not with the object, which nobody could have named.
    people.source().put("new@b.test", "cn=new");
    people.changes().record(["new@b.test".to_owned()]);
    assert_eq!(ask(&people, "new@b.test").await, "cn=new");
}

#[tokio::test]
async fn a_changed_answer_is_not_served_during_an_outage() {
    let people = cached(
        FakeSource::with(&[("ana@b.test", "cn=ana"), ("eve@b.test", "cn=eve")]),
        HOUR,
        HOUR,
    );
    for text in ["ana@b.test", "ana+x@b.test", "eve@b.test"] {
        ask(&people, text).await;
    }
    people.changes().record(["cn=ana".to_owned()]);
    people.source().set_down(true);
    assert_eq!(ask(&people, "ana@b.test").await, "unavailable");
    assert_eq!(ask(&people, "ana+x@b.test").await, "unavailable");
    assert_eq!(ask(&people, "eve@b.test").await, "cn=eve");
}

#[tokio::test]
async fn a_query_from_before_a_change_does_not_answer_a_later_one() {
    let source = FakeSource {
        hold: Some(Notify::new()),
        ..FakeSource::with(&[("ana@b.test", "cn=old")])
    };
    let people = Arc::new(cached(source, HOUR, HOUR));
    let early = tokio::spawn({
        let people = Arc::clone(&people);
        async move { ask(&people, "ana@b.test").await }
    });
    while asked(&people) == 0 {
        tokio::task::yield_now().await;
    }
    people.changes().record(["ana@b.test".to_owned()]);
    let late = tokio::spawn({
        let people = Arc::clone(&people);
        async move { ask(&people, "ana@b.test").await }
    });
    // The late one waits behind the early one; only then does the directory answer.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let hold = || people.source().hold.as_ref().expect("held").notify_one();
    hold();
    early.await.expect("no panic");
    while asked(&people) == 1 {
        tokio::task::yield_now().await;
    }
    hold();
    late.await.expect("no panic");
    assert_eq!(asked(&people), 2, "it was asked again");
}

/// Returns the resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    number.expect("a number")
}

/// A long flood is asked for by `COPYIST_PROOF_FLOOD`, another capacity by
/// `COPYIST_PROOF_CAPACITY`.
#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_addresses_leaves_memory_bounded() {
    let setting = |name: &str, default: u64| {
        let set = std::env::var(name).ok();
        set.map_or(default, |n| n.parse().expect("a number"))
    };
    let flood = setting("COPYIST_PROOF_FLOOD", 20_000);
    let capacity = setting("COPYIST_PROOF_CAPACITY", 1000);
    let cached = FakeSource::with(&[("ana@b.test", "cn=ana")]);
    let cached = cached_of(cached, HOUR, HOUR, capacity);
    // Once, as people who get little mail.
    assert_eq!(ask(&cached, "ana@b.test").await, "cn=ana");
    let (begun, before) = (std::time::Instant::now(), resident());
    let mut most = before;
    for n in 0..flood {
        let stranger = [address(&format!("x{n:08}@b.test"))];
        assert_eq!(cached.find(&stranger).await, Lookup::Absent);
        if n % (flood / 10).max(1) == 0 {
            most = most.max(resident());
            println!("{n} addresses: {} KiB resident", resident());
        }
    }
    most = most.max(resident());
    let took = begun.elapsed();
    assert!(cached.owner_answers.len().await <= capacity);
    assert_eq!(cached.owners_by_reading.entry_count(), 0);
    cached.source().set_down(true);
    assert_eq!(
        ask(&cached, "ana@b.test").await,
        "cn=ana",
        "absences push out nobody who is known"
    );
    println!(
        "{flood} addresses with a capacity of {capacity} in {took:.1?}: {} KiB more resident at most",
        most - before
    );
    // Three caches remember something of each. Other tests of this program may run beside it and
    // take memory as well.
    let bound = 64 * 1024 + 2 * capacity;
    assert!(most - before < bound, "{} KiB", most - before);
}
