//! The cache in front of the directory's source.
//!
//! Promises: an outage is never cached, and never becomes "absent". While the source is
//! unavailable, a positive answer of the last `max_stale` is served: its journal addresses were
//! right then. A negative one is not: since then the person may have got a journal address, and
//! that mail would not be journaled. At most one query per address is in flight. An answer that
//! [`ChangeLog`] shows as outdated is never served again, not even while the source is down.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use metrics::counter;
use moka::future::Cache;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer_cache::{AnswerCache, CacheLookup, CachedAnswer, Lifetimes};
use super::attributes::{Attributes, value_key};
use super::change_log::{ChangeLog, Dependencies};
use super::dn;
use super::entry::{Entry, Lookup, Outage};
use super::inheritance;
use super::members::{self, AddressRewriter, Members};
use super::resolve::{self, Resolution};
use super::settings::{CacheSettings, Inheritance, TargetSettings};
use super::source::{ObjectName, Objects, Source};
use super::target::Target;
use crate::mail::Address;

/// Shared addresses that were logged, so that they are not logged for each message.
const WARNED_ADDRESSES: u64 = 10_000;

/// Cached targets: one for each mailbox that journal copies go to.
const MAX_TARGETS: u64 = 100_000;
/// Time limit for resolving one target: a group may have thousands of members.
const TARGET_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit for reading the members of a recipient group. No message waits that long, see
/// [`super::Directory::members`].
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Objects read ahead while the members of a large group are compared.
const OBJECT_BUFFER: usize = 256;

/// Groups with cached members.
const MAX_GROUPS: u64 = 10_000;

/// A source with a cache in front of it.
#[derive(Debug)]
pub(super) struct CachedSource<S> {
    source: S,
    attributes: Attributes,
    max_wait: Duration,
    lifetimes: Lifetimes,
    owner_answers: AnswerCache<Option<Objects>>,
    /// Owners of login names.
    login_answers: AnswerCache<Option<Objects>>,
    /// For outages: the owners of addresses that were found by another reading only.
    owners_by_reading: Cache<String, CachedAnswer<Objects>>,
    member_answers: AnswerCache<Arc<Members>>,
    /// The attribute that exempts a person from journaling.
    exempt_attribute: Option<String>,
    inheritance: Inheritance,
    inherited_answers: AnswerCache<Objects>,
    targets: TargetSettings,
    resolutions: AnswerCache<Resolution>,
    journal_answers: AnswerCache<bool>,
    warned_addresses: Cache<String, ()>,
    changes: Arc<ChangeLog>,
}

impl<S: Source> CachedSource<S> {
    /// Puts a cache in front of a source that may take up to `max_wait` for an answer.
    pub(super) fn new(
        source: S,
        attributes: Attributes,
        settings: &CacheSettings,
        inheritance: Inheritance,
        targets: TargetSettings,
        max_wait: Duration,
    ) -> CachedSource<S> {
        let lifetimes = Lifetimes::from_settings(settings);
        let changes = Arc::new(ChangeLog::new(lifetimes.longest()));
        CachedSource {
            source,
            attributes,
            max_wait,
            lifetimes,
            owner_answers: AnswerCache::new(settings.capacity, lifetimes, &changes),
            login_answers: AnswerCache::new(settings.capacity, lifetimes, &changes),
            owners_by_reading: new_cache(settings.capacity, lifetimes.longest()),
            member_answers: AnswerCache::new(MAX_GROUPS, lifetimes, &changes),
            exempt_attribute: None,
            inheritance,
            inherited_answers: AnswerCache::new(settings.capacity, lifetimes, &changes),
            targets,
            resolutions: AnswerCache::new(MAX_TARGETS, lifetimes, &changes),
            journal_answers: AnswerCache::new(settings.capacity, lifetimes, &changes),
            warned_addresses: new_cache(WARNED_ADDRESSES, Duration::from_secs(24 * 3600)),
            changes,
        }
    }

    /// Returns the log that the change feed writes to.
    pub(super) fn changes(&self) -> Arc<ChangeLog> {
        Arc::clone(&self.changes)
    }

    /// Returns the source behind the cache.
    pub(super) fn source(&self) -> &S {
        &self.source
    }

    /// Sets the attribute that exempts people from journaling.
    pub(super) fn with_exempt_attribute(mut self, attribute: Option<String>) -> CachedSource<S> {
        self.exempt_attribute = attribute;
        self
    }

    /// Returns the owners of the first of these readings that has any, and the position of that
    /// reading. Groups and containers that they inherit from follow them. The first reading is the
    /// address as written.
    pub(super) async fn find(&self, readings: &[Address]) -> Lookup<(usize, Objects)> {
        match self.find_owners(readings).await {
            Lookup::Found((at, objects)) => match self.with_inherited(objects).await {
                Ok(all) => Lookup::Found((at, all)),
                Err(outage) => Lookup::Unavailable(outage),
            },
            answer => answer,
        }
    }

    /// Returns a recent answer of [`CachedSource::find`] that may be served while the source is
    /// queried again, see [`AnswerCache::get_while_revalidating`].
    pub(super) async fn find_while_revalidating(
        &self,
        readings: &[Address],
    ) -> Option<(usize, Objects)> {
        if self.inheritance != Inheritance::default() {
            return None;
        }
        for (at, reading) in readings.iter().enumerate() {
            let cached = match self.owner_answers.get_fresh(reading.key()).await {
                Some(cached) => cached,
                None => {
                    self.owner_answers
                        .get_while_revalidating(reading.key())
                        .await?
                }
            };
            if let Some(objects) = cached.answer {
                return Some((at, objects));
            }
        }
        None
    }

    /// Returns a recent answer of [`CachedSource::find_login`], likewise.
    pub(super) async fn find_login_while_revalidating(&self, login: &str) -> Option<Objects> {
        if self.inheritance != Inheritance::default() {
            return None;
        }
        self.login_answers
            .get_while_revalidating(&login_key(login))
            .await?
            .answer
    }

    /// Returns a recent answer of [`CachedSource::resolve`], likewise.
    pub(super) async fn resolve_while_revalidating(&self, target: &Target) -> Option<Resolution> {
        let cached = self
            .resolutions
            .get_while_revalidating(&target.key())
            .await?;
        Some(cached.answer)
    }

    /// Whether the cached owners of an address should be refreshed before they expire.
    pub(super) async fn needs_refresh(&self, address: &Address) -> bool {
        let cached = self.owner_answers.get_fresh(address.key()).await;
        cached.is_some_and(|cached| self.owner_answers.needs_refresh(&cached))
    }

    /// Queries the source for the owners of an address, whether or not they are cached.
    pub(super) async fn refresh(&self, address: &Address) {
        // The answer is cached; an outage changes nothing.
        let ask = || self.fetch_owners(address);
        self.owner_answers
            .fetch(address.key(), ask, self.max_wait)
            .await;
    }

    /// Returns the objects with a login name, followed by those that they inherit from.
    pub(super) async fn find_login(&self, login: &str) -> Lookup<Objects> {
        let key = login_key(login);
        let ask = || async { Ok((self.source.find_login(login).await?, None)) };
        let found = self
            .login_answers
            .get_or_fetch(&key, ask, self.max_wait)
            .await;
        let found = match found.result {
            Ok(cached) => cached.answer,
            Err(outage) => match self.login_answers.get_stale(&key).await {
                Some(cached) if !cached.is_outdated(&key, &self.changes) => cached.answer,
                _ => return Lookup::Unavailable(outage),
            },
        };
        match found {
            None => Lookup::Absent,
            Some(objects) => match self.with_inherited(objects).await {
                Ok(all) => Lookup::Found(all),
                Err(outage) => Lookup::Unavailable(outage),
            },
        }
    }

    /// Returns the members of a group that matter for mail to it.
    pub(super) async fn members(
        &self,
        group: &Entry,
        rewriting: &dyn AddressRewriter,
    ) -> Result<Arc<Members>, Outage> {
        let own = dn::key(&group.dn);
        // The answer depends on how the MTA rewrites the members' addresses.
        let key = format!("{} {own}", rewriting.version());
        let ask = || async {
            let (members, names) = self.read_members(group, rewriting).await?;
            Ok((Arc::new(members), Some(names)))
        };
        let found = self
            .member_answers
            .get_or_fetch(&key, ask, MEMBERS_TIMEOUT)
            .await;
        match found.result {
            Ok(cached) => Ok(cached.answer),
            Err(outage) => match self.member_answers.get_stale(&key).await {
                Some(cached) if !cached.is_outdated(&key, &self.changes) => Ok(cached.answer),
                _ => Err(outage),
            },
        }
    }

    async fn read_members(
        &self,
        group: &Entry,
        rewriting: &dyn AddressRewriter,
    ) -> Result<(Members, Dependencies), Outage> {
        let limit = self.targets.group_limit;
        let found = members::read_members(&self.source, group, limit, self.inheritance).await?;
        let mut members = Members {
            all_exempt: found.addresses.is_empty(),
            addresses: found.addresses,
            ..Members::default()
        };
        let mut count = found.members.len();
        for member in found.members {
            self.add_member(member, true, rewriting, &mut members)
                .await?;
        }
        if let Some(unread) = found.unread {
            let covered = members::read_coverage(&self.source, self.inheritance).await?;
            let (sender, mut objects) = mpsc::channel(OBJECT_BUFFER);
            let listing = async move { self.source.list_mail_relevant(&sender).await };
            let (mut matched, collected) = (0_usize, &mut members);
            let comparing = async {
                while let Some(entry) = objects.recv().await {
                    let entry = entry?;
                    if unread.has(&entry) {
                        matched += 1;
                        let may_inherit = covered.has(&entry);
                        self.add_member(entry, may_inherit, rewriting, collected)
                            .await?;
                    }
                }
                Ok(())
            };
            tokio::try_join!(listing, comparing)?;
            count += matched;
            // A member without an address, or of another directory, is not known to be exempt.
            members.all_exempt &= matched >= unread.count();
        }
        members.all_exempt &= count > 0;
        Ok((members, found.names))
    }

    /// Adds what matters of a member for mail to its group.
    async fn add_member(
        &self,
        member: Arc<Entry>,
        may_inherit: bool,
        rewriting: &dyn AddressRewriter,
        members: &mut Members,
    ) -> Result<(), Outage> {
        let exempts = |name: &str| {
            let mut values = member.values(name);
            values.any(|value| value.trim().eq_ignore_ascii_case("TRUE"))
        };
        members.all_exempt &= self.exempt_attribute.as_deref().is_some_and(exempts);
        let own = resolve::primary_address(&member, &self.targets);
        if let Some(address) = &own {
            let domain = address.domain();
            if !members
                .domains
                .iter()
                .any(|cached| cached.domain() == domain)
            {
                members.domains.push(address.clone());
            }
            let is_rewritten = rewriting.rewrites(address).await?;
            // A nested group is covered by its own members.
            let forwards = !resolve::is_group(&member) && member.has_further_recipients();
            if is_rewritten || forwards {
                members.addresses.push(address.clone());
            }
            // The lookup of the rewritten address finds out whether mail still reaches the member.
            if is_rewritten && !resolve::is_group(&member) {
                return Ok(());
            }
        }
        let objects: Objects = [member].into();
        let objects = match may_inherit {
            true => self.with_inherited(objects).await?,
            false => objects,
        };
        let is_journaled = |object: &Arc<Entry>| self.attributes.is_journaled(object);
        if objects.iter().any(is_journaled) {
            members.journaled.push(objects);
        }
        Ok(())
    }

    /// Returns the answer of [`CachedSource::find`] if the owners of this exact address are cached.
    /// Nearly all lookups are of that kind, and this future is small; the one that queries the
    /// source is large.
    pub(super) async fn find_cached(&self, asked: &Address) -> Option<Objects> {
        if self.inheritance != Inheritance::default() {
            return None;
        }
        let objects = self.owner_answers.get_fresh(asked.key()).await?.answer?;
        count("hit");
        self.warn_of_shared_address(asked, &objects).await;
        Some(objects)
    }

    /// Returns the objects of one person, followed by those that they inherit from.
    pub(super) async fn with_inherited(&self, objects: Objects) -> Result<Objects, Outage> {
        if self.inheritance == Inheritance::default() {
            return Ok(objects);
        }
        let mut all: Vec<Arc<Entry>> = objects.to_vec();
        let inheritance =
            try_join_all(objects.iter().map(|object| self.inherited_by(object))).await?;
        for inheritance in inheritance {
            for place in inheritance.iter() {
                if !all.iter().any(|cached| cached.dn == place.dn) {
                    all.push(Arc::clone(place));
                }
            }
        }
        Ok(all.into())
    }

    async fn inherited_by(&self, object: &Entry) -> Result<Objects, Outage> {
        let key = dn::key(&object.dn);
        let ask = || async {
            let found = self.fetch_inherited(object).await?;
            let here = [
                inheritance::ALL_GROUPS_AND_CONTAINERS.to_owned(),
                key.clone(),
            ];
            let names = Dependencies::new(found.iter().map(|one| dn::key(&one.dn)).chain(here));
            Ok((Objects::from(found), Some(names)))
        };
        let found = self
            .inherited_answers
            .get_or_fetch(&key, ask, self.max_wait)
            .await;
        match found.result {
            Ok(cached) => Ok(cached.answer),
            Err(outage) => match self.inherited_answers.get_stale(&key).await {
                Some(cached) if !cached.is_outdated(&key, &self.changes) => Ok(cached.answer),
                _ => Err(outage),
            },
        }
    }

    async fn fetch_inherited(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        let groups = async {
            match self.inheritance.groups {
                true => self.source.groups_of(object).await,
                false => Ok(Vec::new()),
            }
        };
        let containers = async {
            match self.inheritance.containers {
                true => self.source.containers_of(object).await,
                false => Ok(Vec::new()),
            }
        };
        let (groups, containers) = tokio::try_join!(groups, containers)?;
        let found = groups.iter().chain(&containers);
        Ok(found.map(|entry| Arc::new(entry.as_inherited())).collect())
    }

    async fn find_owners(&self, readings: &[Address]) -> Lookup<(usize, Objects)> {
        let Some(asked) = readings.first() else {
            return Lookup::Absent;
        };
        let all = join_all(readings.iter().map(|reading| self.find_exact(reading))).await;
        let is_cached = all.iter().all(|found| found.is_cached);
        for (at, (reading, found)) in readings.iter().zip(all).enumerate() {
            match found.result {
                Ok(CachedAnswer { answer: None, .. }) => {}
                Ok(CachedAnswer {
                    answer: Some(objects),
                    asked_at,
                    ..
                }) => {
                    count(if is_cached { "hit" } else { "miss" });
                    self.warn_of_shared_address(reading, &objects).await;
                    if at > 0 {
                        self.store_by_reading(asked, &objects, asked_at).await;
                    }
                    return Lookup::Found((at, objects));
                }
                Err(outage) => {
                    return match self.stale_owners(reading, asked, &readings[at..]).await {
                        Some(found) => {
                            count("stale");
                            Lookup::Found((at, found))
                        }
                        None => {
                            count("outage");
                            Lookup::Unavailable(outage)
                        }
                    };
                }
            }
        }
        count(if is_cached { "hit" } else { "miss" });
        self.owners_by_reading.invalidate(asked.key()).await;
        Lookup::Absent
    }

    /// Returns the owners of an address as of the last answer, unless they are known to have
    /// changed.
    async fn stale_owners(
        &self,
        reading: &Address,
        asked: &Address,
        others: &[Address],
    ) -> Option<Objects> {
        let key = reading.key();
        if let Some(cached) = self.owner_answers.get_stale(key).await {
            return cached
                .answer
                .clone()
                .filter(|_| !cached.is_outdated(key, &self.changes));
        }
        let cached = self.owners_by_reading.get(asked.key()).await?;
        let mut keys = others.iter().map(Address::key).chain([asked.key()]);
        let is_outdated = keys.any(|key| cached.is_outdated(key, &self.changes));
        (self.lifetimes.is_within_max_stale(cached.asked_at) && !is_outdated)
            .then_some(cached.answer)
    }

    /// Whether a journal attribute names this address. Queried only if not all values could be
    /// listed.
    pub(super) async fn is_named_in_journal(&self, asked: &Address) -> Lookup<()> {
        let ask = || async {
            // The message will need the same answer.
            let owners = self.find_exact(asked).await.result?.answer;
            let owners = owners.as_deref().unwrap_or_default();
            if self.source.is_named_in_journal(asked, owners).await? {
                // The object with the value is unknown, so any change may remove it.
                return Ok((true, Some(Dependencies::on_everything())));
            }
            let mut names = vec![asked.key().to_owned()];
            names.extend(
                owners
                    .iter()
                    .flat_map(|object| resolve::object_keys(object)),
            );
            // Any of their addresses may be named as well; they are among these values.
            let values = owners.iter().flat_map(|object| object.attributes());
            let values = values.flat_map(|(_, values)| values);
            names.extend(values.filter(|text| text.contains('@')).map(value_key));
            Ok((false, Some(Dependencies::new(names))))
        };
        let found = self
            .journal_answers
            .get_or_fetch(asked.key(), ask, self.max_wait)
            .await;
        let cached = match found.result {
            Ok(cached) => cached,
            // Changes since then do not matter: the guard may err during an outage.
            Err(outage) => match self.journal_answers.get_stale(asked.key()).await {
                Some(cached) => cached,
                None => return Lookup::Unavailable(outage),
            },
        };
        match cached.answer {
            true => Lookup::Found(()),
            false => Lookup::Absent,
        }
    }

    /// Resolves a target. While the source is down, returns the last resolution.
    pub(super) async fn resolve(&self, target: &Target) -> Result<Resolution, Outage> {
        if target.smtp().is_some() {
            let (resolution, _) = resolve::resolve(&self.source, target, &self.targets).await?;
            return Ok(resolution);
        }
        let key = target.key();
        let ask = || async {
            let (resolution, names) = resolve::resolve(&self.source, target, &self.targets).await?;
            Ok((resolution, Some(names)))
        };
        let found = self
            .resolutions
            .get_or_fetch(&key, ask, TARGET_TIMEOUT)
            .await;
        match found.result {
            Ok(cached) => Ok(cached.answer),
            Err(outage) => match self.resolutions.get_stale(&key).await {
                Some(cached) if !cached.is_outdated(&key, &self.changes) => Ok(cached.answer),
                _ => Err(outage),
            },
        }
    }

    /// Queries the source. An encapsulated X.500 address, which Exchange delivers to the object
    /// that has it, is looked up by that object's own address.
    async fn fetch_by_address(&self, address: &Address) -> Result<Option<Objects>, Outage> {
        let found = self.source.find(address).await?;
        let Some(name) = resolve::decode_imceaex(address).filter(|_| found.is_none()) else {
            return Ok(found);
        };
        let mut all: Vec<Arc<Entry>> = Vec::new();
        for object in self.source.find_named(&ObjectName::X500(name)).await? {
            let own = resolve::primary_address(&object, &self.targets);
            if let Some(own) = own.filter(|own| own != address) {
                let found = self.source.find(&own).await?;
                all.extend(found.iter().flat_map(|objects| objects.iter().cloned()));
            }
        }
        Ok((!all.is_empty()).then(|| all.into()))
    }

    async fn find_exact(&self, address: &Address) -> CacheLookup<Option<Objects>> {
        let ask = || self.fetch_owners(address);
        self.owner_answers
            .get_or_fetch(address.key(), ask, self.max_wait)
            .await
    }

    async fn fetch_owners(
        &self,
        address: &Address,
    ) -> Result<(Option<Objects>, Option<Dependencies>), Outage> {
        let found = self.fetch_by_address(address).await?;
        // There may be a million of them.
        let brief = |all: Objects| all.iter().cloned().map(Entry::compact).collect();
        let found: Option<Objects> = found.map(brief);
        if found.is_some() {
            // The address has an owner of its own now.
            self.owners_by_reading.invalidate(address.key()).await;
        }
        Ok((found, None))
    }

    async fn store_by_reading(&self, asked: &Address, objects: &Objects, asked_at: Instant) {
        let cached = self.owners_by_reading.get(asked.key()).await;
        if cached.is_some_and(|cached| {
            Arc::ptr_eq(&cached.answer, objects) && cached.asked_at == asked_at
        }) {
            return;
        }
        let cached = CachedAnswer {
            answer: Arc::clone(objects),
            asked_at,
            dependencies: None,
        };
        self.owners_by_reading
            .insert(asked.key().to_owned(), cached)
            .await;
    }

    async fn warn_of_shared_address(&self, asked: &Address, objects: &Objects) {
        if objects.len() < 2 || self.warned_addresses.contains_key(asked.key()) {
            return;
        }
        self.warned_addresses
            .insert(asked.key().to_owned(), ())
            .await;
        counter!("copyist_directory_shared_addresses_total").increment(1);
        let owners: Vec<&str> = objects.iter().take(5).map(|o| o.dn.as_str()).collect();
        tracing::warn!(
            address = %asked,
            objects = objects.len(),
            "address belongs to several objects, all of them are used: {}",
            owners.join("; ")
        );
    }
}

fn login_key(login: &str) -> String {
    format!("login={}", login.to_lowercase())
}

fn new_cache<V: Clone + Send + Sync + 'static>(
    capacity: u64,
    lifetimes: Duration,
) -> Cache<String, V> {
    Cache::builder()
        .max_capacity(capacity)
        .time_to_live(lifetimes)
        .build()
}

fn count(result: &'static str) {
    counter!("copyist_directory_lookups_total", "result" => result).increment(1);
}

#[cfg(test)]
mod tests;
