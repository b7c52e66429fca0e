//! What the directory said lately.
//!
//! Promises: an outage is never kept as an answer, and never ends in "absent". While the source does not
//! answer, a *found* of the last `max_stale` is served: its journal addresses were right then. An
//! *absent* is not: since then the person may have got a journal address, and that mail would go
//! uncopied. One question per address is under way at a time, however many ask. What [`Changes`] says has
//! changed is never served again, not even while the source is down.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{OptionFuture, join};
use metrics::counter;
use moka::Expiry;
use moka::future::Cache;
use tokio::time::{Instant, timeout};

use super::changes::{Changes, Names, lower};
use super::entry::{Entry, Lookup, Outage};
use super::places;
use super::question::address_key;
use super::resolve::{self, Resolution};
use super::settings::{CacheSettings, Places, TargetSettings};
use super::source::{Name, Objects, Source};
use super::target::Target;
use crate::mail::Address;

/// The cache library refuses more than a thousand years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Addresses remembered as owned by several objects, so as not to log each mail.
const WARNED: u64 = 10_000;

/// How often a question is put whose answer changes meanwhile.
const TRIES: usize = 4;

/// Targets remembered; there are as many as mailboxes that journal copies go to.
const TARGETS: u64 = 100_000;
/// The longest that the resolution of one target may take: a group may have thousands of members.
const GROUP_PATIENCE: Duration = Duration::from_secs(30);

/// A source with a memory.
#[derive(Debug)]
pub(super) struct Cached<S> {
    source: S,
    delimiters: String,
    patience: Duration,
    max_stale: Duration,
    fresh: Cache<String, Known<Option<Objects>>>,
    stale: Cache<String, Known<Objects>>,
    places: Places,
    fresh_places: Cache<String, Known<Objects>>,
    stale_places: Cache<String, Known<Objects>>,
    targets: TargetSettings,
    fresh_targets: Cache<String, Known<Resolution>>,
    stale_targets: Cache<String, Known<Resolution>>,
    fresh_journal: Cache<String, Known<bool>>,
    stale_journal: Cache<String, Known<bool>>,
    warned: Cache<String, ()>,
    changes: Arc<Changes>,
}

/// What the source said, when it was asked, and what that depends on beside the key and what the answer shows.
#[derive(Debug, Clone)]
struct Known<T> {
    what: T,
    since: Instant,
    names: Option<Arc<Names>>,
}

/// An answer and whether it came from memory alone.
struct Got<T> {
    answer: Result<Known<T>, Outage>,
    remembered: bool,
}

impl<S: Source> Cached<S> {
    /// Puts a memory in front of a source that may take up to `patience` for an answer.
    pub(super) fn new(
        source: S,
        delimiters: &str,
        settings: &CacheSettings,
        places: Places,
        targets: TargetSettings,
        patience: Duration,
    ) -> Cached<S> {
        let life = Life {
            yes: settings.ttl.min(LONGEST),
            no: settings.negative_ttl.min(LONGEST),
        };
        let max_stale = settings.max_stale.min(LONGEST);
        Cached {
            source,
            delimiters: delimiters.to_owned(),
            patience,
            max_stale,
            fresh: Cache::builder()
                .max_capacity(settings.capacity)
                .expire_after(life)
                .build(),
            stale: kept(settings.capacity, max_stale),
            places,
            fresh_places: Cache::builder()
                .max_capacity(settings.capacity)
                .expire_after(life)
                .build(),
            stale_places: kept(settings.capacity, max_stale),
            targets,
            fresh_targets: Cache::builder()
                .max_capacity(TARGETS)
                .expire_after(life)
                .build(),
            stale_targets: kept(TARGETS, max_stale),
            fresh_journal: Cache::builder()
                .max_capacity(settings.capacity)
                .expire_after(life)
                .build(),
            stale_journal: kept(settings.capacity, max_stale),
            warned: kept(WARNED, Duration::from_secs(24 * 3600)),
            changes: Arc::new(Changes::new(life.yes.max(life.no).max(max_stale))),
        }
    }

    /// Where whoever watches the source says what changed.
    pub(super) fn changes(&self) -> Arc<Changes> {
        Arc::clone(&self.changes)
    }

    /// Where the answers come from.
    pub(super) fn source(&self) -> &S {
        &self.source
    }

    /// The objects that own an address, exactly as it is or else without its extension, and behind them the groups
    /// and containers whose journal attributes count for them.
    pub(super) async fn find(&self, asked: &Address) -> Lookup<Objects> {
        match self.find_owners(asked).await {
            Lookup::Found(objects) => match self.with_inherited(objects).await {
                Ok(all) => Lookup::Found(all),
                Err(outage) => Lookup::Unavailable(outage),
            },
            answer => answer,
        }
    }

    /// What [`Cached::find`] gives, where it is in memory that this very address belongs to somebody and the source need not be
    /// asked. Nearly any question is of that kind, and this is short: the way through the source makes large futures.
    pub(super) async fn known(&self, asked: &Address) -> Option<Lookup<Objects>> {
        if self.places != Places::default() {
            return None;
        }
        let known = self.fresh.get(asked.key()).await?;
        if self.is_outdated(asked.key(), &known) {
            return None;
        }
        let objects = known.what?;
        count("hit");
        self.warn_of_several(asked, &objects).await;
        Some(Lookup::Found(objects))
    }

    /// The objects of one person, and behind them those that they inherit from.
    pub(super) async fn with_inherited(&self, objects: Objects) -> Result<Objects, Outage> {
        if self.places == Places::default() {
            return Ok(objects);
        }
        let mut all: Vec<Arc<Entry>> = objects.to_vec();
        for object in objects.iter() {
            for place in self.places_of(object).await?.iter() {
                if !all.iter().any(|known| known.dn == place.dn) {
                    all.push(Arc::clone(place));
                }
            }
        }
        Ok(all.into())
    }

    async fn places_of(&self, object: &Entry) -> Result<Objects, Outage> {
        let key = lower(object.dn.clone());
        let ask = || async {
            let found = self.ask_places(object).await?;
            let here = [places::ANYWHERE.to_owned(), object.dn.clone()];
            let names = Names::of(found.iter().map(|one| one.dn.clone()).chain(here));
            Ok((Objects::from(found), Some(names)))
        };
        let got = self
            .remembered_or(&self.fresh_places, &key, ask, self.patience)
            .await;
        match got.answer {
            Ok(known) => {
                if !got.remembered && !self.max_stale.is_zero() {
                    self.stale_places.insert(key, known.clone()).await;
                }
                Ok(known.what)
            }
            Err(outage) => match self.stale_places.get(&key).await {
                Some(known) if self.is_recent(known.since) && !self.is_outdated(&key, &known) => {
                    Ok(known.what)
                }
                _ => Err(outage),
            },
        }
    }

    async fn ask_places(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        let mut found: Vec<Arc<Entry>> = Vec::new();
        if self.places.groups {
            found.extend(self.source.groups_of(object).await?);
        }
        if self.places.containers {
            found.extend(self.source.containers_of(object).await?);
        }
        let found = found.iter().map(|entry| Arc::new(entry.as_inherited()));
        Ok(found.collect())
    }

    async fn find_owners(&self, asked: &Address) -> Lookup<Objects> {
        let without = asked.without_extension(&self.delimiters);
        let base_key = without.as_ref().map(Address::key);
        let base = OptionFuture::from(without.as_ref().map(|base| self.owners(base)));
        let (exact, base) = join(self.owners(asked), base).await;
        // Under this very address it was kept when it came.
        let is_kept = matches!(exact.answer, Ok(Known { what: Some(_), .. }));
        let got = exact.or_else_absent(base);
        match got.answer {
            Ok(Known {
                what: Some(objects),
                since,
                ..
            }) => {
                count(if got.remembered { "hit" } else { "miss" });
                self.warn_of_several(asked, &objects).await;
                if !is_kept {
                    self.keep(asked, &objects, since).await;
                }
                Lookup::Found(objects)
            }
            Ok(Known { what: None, .. }) => {
                count(if got.remembered { "hit" } else { "miss" });
                self.stale.invalidate(asked.key()).await;
                Lookup::Absent
            }
            Err(outage) => match self.stale.get(asked.key()).await {
                Some(known)
                    if self.is_recent(known.since)
                        && !self.is_outdated(asked.key(), &known)
                        && !base_key.is_some_and(|key| self.is_outdated(key, &known)) =>
                {
                    count("stale");
                    Lookup::Found(known.what)
                }
                _ => {
                    count("outage");
                    Lookup::Unavailable(outage)
                }
            },
        }
    }

    /// As [`Cached::find`], but what the source says now, and nothing else.
    pub(super) async fn find_fresh(&self, asked: &Address) -> Lookup<Objects> {
        let mut answer = patiently(self.patience, self.find_at_source(asked)).await;
        if let (Ok(None), Some(base)) = (&answer, asked.without_extension(&self.delimiters)) {
            answer = patiently(self.patience, self.source.find(&base)).await;
        }
        match answer {
            Ok(Some(objects)) if self.places != Places::default() => {
                let mut all = objects.to_vec();
                for object in objects.iter() {
                    match self.ask_places(object).await {
                        Ok(found) => all.extend(found),
                        Err(outage) => return Lookup::Unavailable(outage),
                    }
                }
                Lookup::Found(all.into())
            }
            Ok(Some(objects)) => Lookup::Found(objects),
            Ok(None) => Lookup::Absent,
            Err(outage) => Lookup::Unavailable(outage),
        }
    }

    /// Whether anybody's journal attribute names this address. Here an old "no" is as good as an old
    /// "yes" while the source is down: no copy hangs on it, and without it all mail would wait.
    pub(super) async fn names_in_journal(&self, asked: &Address) -> Lookup<()> {
        let ask = || async {
            // The message is about to need the same answer.
            let owners = self.owners(asked).await.answer?.what;
            let owners = owners.as_deref().unwrap_or_default();
            if self.source.names_in_journal(asked, owners).await? {
                // Whose value it is, is not asked; any change may take it away.
                return Ok((true, Some(Names::any())));
            }
            let mut names = vec![asked.key().to_owned()];
            names.extend(owners.iter().flat_map(|object| resolve::names_of(object)));
            // And by any of their addresses, which are among these.
            let values = owners.iter().flat_map(|object| object.attributes());
            let values = values.flat_map(|(_, values)| values);
            names.extend(
                values
                    .filter(|text| text.contains('@'))
                    .map(|text| address_key(text)),
            );
            Ok((false, Some(Names::of(names))))
        };
        let got = self
            .remembered_or(&self.fresh_journal, asked.key(), ask, self.patience)
            .await;
        let known = match got.answer {
            Ok(known) => {
                if !got.remembered && !self.max_stale.is_zero() {
                    let key = asked.key().to_owned();
                    self.stale_journal.insert(key, known.clone()).await;
                }
                known
            }
            // Nor is what changed since of any matter: the guard may err for the time of an outage.
            Err(outage) => match self.stale_journal.get(asked.key()).await {
                Some(known) if self.is_recent(known.since) => known,
                _ => return Lookup::Unavailable(outage),
            },
        };
        match known.what {
            true => Lookup::Found(()),
            false => Lookup::Absent,
        }
    }

    /// What a target comes to. While the source is down, what it came to lately.
    pub(super) async fn resolve(&self, target: &Target) -> Result<Resolution, Outage> {
        if target.smtp().is_some() {
            let (resolution, _) = resolve::resolve(&self.source, target, &self.targets).await?;
            return Ok(resolution);
        }
        let key = target.to_string().to_lowercase();
        let ask = || async {
            let (resolution, names) = resolve::resolve(&self.source, target, &self.targets).await?;
            Ok((resolution, Some(names)))
        };
        let got = self
            .remembered_or(&self.fresh_targets, &key, ask, GROUP_PATIENCE)
            .await;
        match got.answer {
            Ok(known) => {
                if !got.remembered && !self.max_stale.is_zero() {
                    match known.what {
                        Ok(_) => self.stale_targets.insert(key, known.clone()).await,
                        Err(_) => self.stale_targets.invalidate(&key).await,
                    }
                }
                Ok(known.what)
            }
            Err(outage) => match self.stale_targets.get(&key).await {
                Some(known) if self.is_recent(known.since) && !self.is_outdated(&key, &known) => {
                    Ok(known.what)
                }
                _ => Err(outage),
            },
        }
    }

    /// The address without its extension, where it has one.
    pub(super) fn without_extension(&self, address: &Address) -> Option<Address> {
        address.without_extension(&self.delimiters)
    }

    /// What the source says; of an encapsulated X.500 address, which Exchange delivers to the object that has it, what
    /// it says of that object's own address.
    async fn find_at_source(&self, address: &Address) -> Result<Option<Objects>, Outage> {
        let found = self.source.find(address).await?;
        let Some(name) = resolve::encapsulated(address).filter(|_| found.is_none()) else {
            return Ok(found);
        };
        let mut all: Vec<Arc<Entry>> = Vec::new();
        for object in self.source.named(&Name::X500(name)).await? {
            let own = resolve::own_address(&object, &self.targets);
            if let Some(own) = own.filter(|own| own != address) {
                let found = self.source.find(&own).await?;
                all.extend(found.iter().flat_map(|objects| objects.iter().cloned()));
            }
        }
        Ok((!all.is_empty()).then(|| all.into()))
    }

    async fn owners(&self, address: &Address) -> Got<Option<Objects>> {
        let ask = || async { Ok((self.find_at_source(address).await?, None)) };
        let got = self
            .remembered_or(&self.fresh, address.key(), ask, self.patience)
            .await;
        if let Ok(Known {
            what: Some(objects),
            since,
            ..
        }) = &got.answer
            && !got.remembered
        {
            self.keep(address, objects, *since).await;
        }
        got
    }

    /// What is remembered, or what `ask` gives; whoever comes meanwhile waits for the same answer.
    async fn remembered_or<T, F>(
        &self,
        memory: &Cache<String, Known<T>>,
        key: &str,
        ask: impl Fn() -> F,
        patience: Duration,
    ) -> Got<T>
    where
        T: Answer + Clone + Send + Sync + 'static,
        F: Future<Output = Result<(T, Option<Names>), Outage>> + Send,
    {
        for _ in 0..TRIES {
            if let Some(known) = memory.get(key).await {
                if !self.is_outdated(key, &known) {
                    return Got {
                        answer: Ok(known),
                        remembered: true,
                    };
                }
                memory.invalidate(key).await;
            }
            let begun = Instant::now();
            // Boxed, for the cache library keeps several copies of it on the stack: a question within a question
            // once took more than the two megabytes that a thread has.
            let ask = Box::pin(async {
                let since = Instant::now();
                let (what, names) = ask().await?;
                Ok::<_, Outage>(Known {
                    what,
                    since,
                    names: names.map(Arc::new),
                })
            });
            let shared = memory.try_get_with_by_ref(key, ask);
            let shared = async { shared.await.map_err(|outage| Outage::clone(&outage)) };
            let answer = patiently(patience, shared).await;
            // The question may have been another's, put before we came and before a change.
            let old = |known: &Known<T>| known.since < begun && self.is_outdated(key, known);
            if !answer.as_ref().is_ok_and(old) {
                return Got {
                    answer,
                    remembered: false,
                };
            }
        }
        let why = format!("what {key} stands for changed {TRIES} times while it was asked for");
        Got {
            answer: Err(Outage::new(why)),
            remembered: false,
        }
    }

    /// Whether what an answer says was changed after it was asked for.
    fn is_outdated<T: Answer>(&self, key: &str, known: &Known<T>) -> bool {
        if self.changes.quiet_since(known.since) {
            return false;
        }
        match &known.names {
            Some(names) => self.changes.outdated(known.since, names),
            None => {
                let named = known.what.names();
                let names = named.iter().map(String::as_str).chain([key]);
                self.changes.touched(known.since, names)
            }
        }
    }

    async fn keep(&self, asked: &Address, objects: &Objects, since: Instant) {
        if self.max_stale.is_zero() {
            return;
        }
        let known = self.stale.get(asked.key()).await;
        if known.is_some_and(|known| Arc::ptr_eq(&known.what, objects) && known.since == since) {
            return;
        }
        let known = Known {
            what: Arc::clone(objects),
            since,
            names: None,
        };
        self.stale.insert(asked.key().to_owned(), known).await;
    }

    fn is_recent(&self, since: Instant) -> bool {
        since.elapsed() <= self.max_stale
    }

    async fn warn_of_several(&self, asked: &Address, objects: &Objects) {
        if objects.len() < 2 || self.warned.contains_key(asked.key()) {
            return;
        }
        self.warned.insert(asked.key().to_owned(), ()).await;
        counter!("copyist_directory_shared_addresses_total").increment(1);
        let owners: Vec<&str> = objects.iter().take(5).map(|o| o.dn.as_str()).collect();
        tracing::warn!(
            address = %asked,
            objects = objects.len(),
            "several objects own one address, all of them count: {}",
            owners.join("; ")
        );
    }
}

async fn patiently<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, Outage>>,
) -> Result<T, Outage> {
    timeout(patience, answer).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {patience:?}");
        Err(Outage::new(reason))
    })
}

impl Got<Option<Objects>> {
    /// The exact address wins; only where it surely has no owner does the one without extension count.
    fn or_else_absent(self, base: Option<Got<Option<Objects>>>) -> Got<Option<Objects>> {
        match (&self.answer, base) {
            (Ok(Known { what: None, .. }), Some(base)) => Got {
                remembered: self.remembered && base.remembered,
                answer: base.answer,
            },
            _ => self,
        }
    }
}

/// A cache whose entries live as long as the kind of answer is to be believed.
#[derive(Debug, Clone, Copy)]
struct Life {
    yes: Duration,
    no: Duration,
}

impl Life {
    fn of(self, yes: bool) -> Option<Duration> {
        Some(if yes { self.yes } else { self.no })
    }
}

/// What the source says, yes or no.
trait Answer {
    fn is_yes(&self) -> bool;

    /// The objects that it shows, by their DNs in lower case.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Answer for Objects {
    fn is_yes(&self) -> bool {
        true
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|object| lower(object.dn.clone())).collect()
    }
}

impl Answer for Option<Objects> {
    fn is_yes(&self) -> bool {
        self.is_some()
    }

    fn names(&self) -> Vec<String> {
        self.as_ref().map(Answer::names).unwrap_or_default()
    }
}

impl Answer for Resolution {
    fn is_yes(&self) -> bool {
        self.is_ok()
    }
}

impl Answer for bool {
    fn is_yes(&self) -> bool {
        *self
    }
}

impl<T: Answer> Expiry<String, Known<T>> for Life {
    fn expire_after_create(
        &self,
        _: &String,
        known: &Known<T>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        self.of(known.what.is_yes())
    }

    fn expire_after_update(
        &self,
        _: &String,
        known: &Known<T>,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.of(known.what.is_yes())
    }
}

fn kept<V: Clone + Send + Sync + 'static>(capacity: u64, life: Duration) -> Cache<String, V> {
    Cache::builder()
        .max_capacity(capacity)
        .time_to_live(life)
        .build()
}

fn count(result: &'static str) {
    counter!("copyist_directory_lookups_total", "result" => result).increment(1);
}

#[cfg(test)]
mod tests;
