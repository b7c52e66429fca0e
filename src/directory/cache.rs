//! What the directory said lately.
//!
//! Promises: an outage is never kept as an answer, and never ends in "absent". While the source
//! does not answer, a *found* of the last `max_stale` is served: its journal addresses were right
//! then. An *absent* is not: since then the person may have got a journal address, and that mail
//! would go uncopied. One question per address is under way at a time, however many ask. What
//! [`Changes`] says has changed is never served again, not even while the source is down.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use metrics::counter;
use moka::future::Cache;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::changes::{Changes, Names};
use super::dn;
use super::entry::{Entry, Lookup, Outage};
use super::members::{self, Members, Rewriting};
use super::memory::{Got, Known, Life, Memory};
use super::places;
use super::question::{Attributes, value_key};
use super::resolve::{self, Resolution};
use super::settings::{CacheSettings, Places, TargetSettings};
use super::source::{Name, Objects, Source};
use super::target::Target;
use crate::mail::Address;

/// Addresses remembered as owned by several objects, so as not to log each mail.
const WARNED: u64 = 10_000;

/// Targets remembered; there are as many as mailboxes that journal copies go to.
const TARGETS: u64 = 100_000;
/// The longest that the resolution of one target may take: a group may have thousands of members.
const GROUP_PATIENCE: Duration = Duration::from_secs(30);

/// The longest that reading the members of a recipient group may take. No message waits that long,
/// see [`super::Directory::members`].
const MEMBERS_PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Objects of a large group's directory read before somebody compares them.
const EVERYBODY_WAITING: usize = 256;

/// Groups whose members are remembered.
const GROUPS: u64 = 10_000;

/// A source with a memory.
#[derive(Debug)]
pub(super) struct Cached<S> {
    source: S,
    attributes: Attributes,
    patience: Duration,
    life: Life,
    owners: Memory<Option<Objects>>,
    /// Owners of login names.
    logins: Memory<Option<Objects>>,
    /// For outages: who had an address that was known by another reading only.
    by_reading: Cache<String, Known<Objects>>,
    members: Memory<Arc<Members>>,
    /// The attribute that exempts a person.
    exempt: Option<String>,
    places: Places,
    inherited: Memory<Objects>,
    targets: TargetSettings,
    resolved: Memory<Resolution>,
    journal: Memory<bool>,
    warned: Cache<String, ()>,
    changes: Arc<Changes>,
}

impl<S: Source> Cached<S> {
    /// Puts a memory in front of a source that may take up to `patience` for an answer.
    pub(super) fn new(
        source: S,
        attributes: Attributes,
        settings: &CacheSettings,
        places: Places,
        targets: TargetSettings,
        patience: Duration,
    ) -> Cached<S> {
        let life = Life::of(settings);
        let changes = Arc::new(Changes::new(life.longest()));
        Cached {
            source,
            attributes,
            patience,
            life,
            owners: Memory::new(settings.capacity, life, &changes),
            logins: Memory::new(settings.capacity, life, &changes),
            by_reading: kept(settings.capacity, life.longest()),
            members: Memory::new(GROUPS, life, &changes),
            exempt: None,
            places,
            inherited: Memory::new(settings.capacity, life, &changes),
            targets,
            resolved: Memory::new(TARGETS, life, &changes),
            journal: Memory::new(settings.capacity, life, &changes),
            warned: kept(WARNED, Duration::from_secs(24 * 3600)),
            changes,
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

    /// The same, where an attribute exempts people.
    pub(super) fn with_exemption(mut self, attribute: Option<String>) -> Cached<S> {
        self.exempt = attribute;
        self
    }

    /// The objects that own the first of these readings of an address that anybody owns, and its
    /// position; behind them the groups and containers whose journal attributes count for them. The
    /// first reading is the address as it was written.
    pub(super) async fn find(&self, readings: &[Address]) -> Lookup<(usize, Objects)> {
        match self.find_owners(readings).await {
            Lookup::Found((at, objects)) => match self.with_inherited(objects).await {
                Ok(all) => Lookup::Found((at, all)),
                Err(outage) => Lookup::Unavailable(outage),
            },
            answer => answer,
        }
    }

    /// What [`Cached::find`] gave lately, where that may be given while the source takes its time:
    /// see [`Memory::overdue`].
    pub(super) async fn find_overdue(&self, readings: &[Address]) -> Option<(usize, Objects)> {
        if self.places != Places::default() {
            return None;
        }
        for (at, reading) in readings.iter().enumerate() {
            let known = match self.owners.believed(reading.key()).await {
                Some(known) => known,
                None => self.owners.overdue(reading.key()).await?,
            };
            if let Some(objects) = known.what {
                return Some((at, objects));
            }
        }
        None
    }

    /// What [`Cached::find_login`] gave lately, likewise.
    pub(super) async fn find_login_overdue(&self, login: &str) -> Option<Objects> {
        if self.places != Places::default() {
            return None;
        }
        self.logins.overdue(&login_key(login)).await?.what
    }

    /// What [`Cached::resolve`] gave lately, likewise.
    pub(super) async fn resolve_overdue(&self, target: &Target) -> Option<Resolution> {
        let known = self.resolved.overdue(&target.key()).await?;
        Some(known.what)
    }

    /// Whether somebody is known so long that the source should be asked again.
    pub(super) async fn is_aging(&self, address: &Address) -> bool {
        let known = self.owners.believed(address.key()).await;
        known.is_some_and(|known| self.owners.is_aging(&known))
    }

    /// Asks the source for the owners of an address, believed or not.
    pub(super) async fn refresh(&self, address: &Address) {
        // What comes of it is remembered; an outage changes nothing.
        let ask = || self.ask_owners(address);
        self.owners.ask(address.key(), ask, self.patience).await;
    }

    /// The objects that have a login name, and behind them those that they inherit from.
    pub(super) async fn find_login(&self, login: &str) -> Lookup<Objects> {
        let key = login_key(login);
        let ask = || async { Ok((self.source.find_login(login).await?, None)) };
        let got = self.logins.believed_or(&key, ask, self.patience).await;
        let found = match got.answer {
            Ok(known) => known.what,
            Err(outage) => match self.logins.stale(&key).await {
                Some(known) if !known.is_outdated(&key, &self.changes) => known.what,
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

    /// The members of a group, as far as they matter for mail to it.
    pub(super) async fn members(
        &self,
        group: &Entry,
        rewriting: &dyn Rewriting,
    ) -> Result<Arc<Members>, Outage> {
        let own = dn::key(&group.dn);
        // What the MTA makes of the members' addresses is part of the answer.
        let key = format!("{} {own}", rewriting.version());
        let ask = || async {
            let (members, names) = self.read_members(group, rewriting).await?;
            Ok((Arc::new(members), Some(names)))
        };
        let got = self.members.believed_or(&key, ask, MEMBERS_PATIENCE).await;
        match got.answer {
            Ok(known) => Ok(known.what),
            Err(outage) => match self.members.stale(&key).await {
                Some(known) if !known.is_outdated(&key, &self.changes) => Ok(known.what),
                _ => Err(outage),
            },
        }
    }

    async fn read_members(
        &self,
        group: &Entry,
        rewriting: &dyn Rewriting,
    ) -> Result<(Members, Names), Outage> {
        let limit = self.targets.group_limit;
        let found = members::members(&self.source, group, limit, self.places).await?;
        let mut members = Members {
            all_exempt: found.addresses.is_empty(),
            addresses: found.addresses,
            ..Members::default()
        };
        let mut count = found.members.len();
        for member in found.members {
            self.sift(member, true, rewriting, &mut members).await?;
        }
        if let Some(unread) = found.unread {
            let covered = members::covered(&self.source, self.places).await?;
            let (tell, mut everybody) = mpsc::channel(EVERYBODY_WAITING);
            let listing = async move { self.source.concerned(&tell).await };
            let (mut matched, sifted) = (0_usize, &mut members);
            let sifting = async {
                while let Some(entry) = everybody.recv().await {
                    let entry = entry?;
                    if unread.has(&entry) {
                        matched += 1;
                        let may_inherit = covered.has(&entry);
                        self.sift(entry, may_inherit, rewriting, sifted).await?;
                    }
                }
                Ok(())
            };
            tokio::try_join!(listing, sifting)?;
            count += matched;
            // Somebody without an address, or of another directory, is not known to be exempt.
            members.all_exempt &= matched >= unread.count();
        }
        members.all_exempt &= count > 0;
        Ok((members, found.names))
    }

    /// Takes of a member what matters for mail to its group.
    async fn sift(
        &self,
        member: Arc<Entry>,
        may_inherit: bool,
        rewriting: &dyn Rewriting,
        members: &mut Members,
    ) -> Result<(), Outage> {
        let exempts = |name: &str| {
            let mut values = member.values(name);
            values.any(|value| value.trim().eq_ignore_ascii_case("TRUE"))
        };
        members.all_exempt &= self.exempt.as_deref().is_some_and(exempts);
        let own = resolve::own_address(&member, &self.targets);
        if let Some(address) = &own {
            let domain = address.domain();
            if !members.domains.iter().any(|known| known.domain() == domain) {
                members.domains.push(address.clone());
            }
            let is_rewritten = rewriting.rewrites(address).await?;
            // What a group leads to, its members tell.
            let forwards = !resolve::is_group(&member) && member.leads_on();
            if is_rewritten || forwards {
                members.addresses.push(address.clone());
            }
            // Whether the member is among those whom the address leads to, whoever follows it finds
            // out.
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

    /// What [`Cached::find`] gives, where it is in memory that this very address belongs to
    /// somebody and the source need not be asked. Nearly any question is of that kind, and this is
    /// short: the way through the source makes large futures.
    pub(super) async fn known(&self, asked: &Address) -> Option<Objects> {
        if self.places != Places::default() {
            return None;
        }
        let objects = self.owners.believed(asked.key()).await?.what?;
        count("hit");
        self.warn_of_several(asked, &objects).await;
        Some(objects)
    }

    /// The objects of one person, and behind them those that they inherit from.
    pub(super) async fn with_inherited(&self, objects: Objects) -> Result<Objects, Outage> {
        if self.places == Places::default() {
            return Ok(objects);
        }
        let mut all: Vec<Arc<Entry>> = objects.to_vec();
        let places = try_join_all(objects.iter().map(|object| self.places_of(object))).await?;
        for places in places {
            for place in places.iter() {
                if !all.iter().any(|known| known.dn == place.dn) {
                    all.push(Arc::clone(place));
                }
            }
        }
        Ok(all.into())
    }

    async fn places_of(&self, object: &Entry) -> Result<Objects, Outage> {
        let key = dn::key(&object.dn);
        let ask = || async {
            let found = self.ask_places(object).await?;
            let here = [places::ANYWHERE.to_owned(), key.clone()];
            let names = Names::of(found.iter().map(|one| dn::key(&one.dn)).chain(here));
            Ok((Objects::from(found), Some(names)))
        };
        let got = self.inherited.believed_or(&key, ask, self.patience).await;
        match got.answer {
            Ok(known) => Ok(known.what),
            Err(outage) => match self.inherited.stale(&key).await {
                Some(known) if !known.is_outdated(&key, &self.changes) => Ok(known.what),
                _ => Err(outage),
            },
        }
    }

    async fn ask_places(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        let groups = async {
            match self.places.groups {
                true => self.source.groups_of(object).await,
                false => Ok(Vec::new()),
            }
        };
        let containers = async {
            match self.places.containers {
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
        let all = join_all(readings.iter().map(|reading| self.owners(reading))).await;
        let remembered = all.iter().all(|got| got.remembered);
        for (at, (reading, got)) in readings.iter().zip(all).enumerate() {
            match got.answer {
                Ok(Known { what: None, .. }) => {}
                Ok(Known {
                    what: Some(objects),
                    since,
                    ..
                }) => {
                    count(if remembered { "hit" } else { "miss" });
                    self.warn_of_several(reading, &objects).await;
                    if at > 0 {
                        self.keep_by_reading(asked, &objects, since).await;
                    }
                    return Lookup::Found((at, objects));
                }
                Err(outage) => {
                    return match self.owned_lately(reading, asked, &readings[at..]).await {
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
        count(if remembered { "hit" } else { "miss" });
        self.by_reading.invalidate(asked.key()).await;
        Lookup::Absent
    }

    /// Who had an address when the source was last heard of, and is not known to have changed.
    async fn owned_lately(
        &self,
        reading: &Address,
        asked: &Address,
        others: &[Address],
    ) -> Option<Objects> {
        let key = reading.key();
        if let Some(known) = self.owners.stale(key).await {
            return known
                .what
                .clone()
                .filter(|_| !known.is_outdated(key, &self.changes));
        }
        let known = self.by_reading.get(asked.key()).await?;
        let mut keys = others.iter().map(Address::key).chain([asked.key()]);
        let is_outdated = keys.any(|key| known.is_outdated(key, &self.changes));
        (self.life.is_recent(known.since) && !is_outdated).then_some(known.what)
    }

    /// Whether anybody's journal attribute names this address: asked only where the values could
    /// not all be listed.
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
            names.extend(values.filter(|text| text.contains('@')).map(value_key));
            Ok((false, Some(Names::of(names))))
        };
        let got = self
            .journal
            .believed_or(asked.key(), ask, self.patience)
            .await;
        let known = match got.answer {
            Ok(known) => known,
            // Nor is what changed since of any matter: the guard may err for the time of an outage.
            Err(outage) => match self.journal.stale(asked.key()).await {
                Some(known) => known,
                None => return Lookup::Unavailable(outage),
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
        let key = target.key();
        let ask = || async {
            let (resolution, names) = resolve::resolve(&self.source, target, &self.targets).await?;
            Ok((resolution, Some(names)))
        };
        let got = self.resolved.believed_or(&key, ask, GROUP_PATIENCE).await;
        match got.answer {
            Ok(known) => Ok(known.what),
            Err(outage) => match self.resolved.stale(&key).await {
                Some(known) if !known.is_outdated(&key, &self.changes) => Ok(known.what),
                _ => Err(outage),
            },
        }
    }

    /// What the source says; of an encapsulated X.500 address, which Exchange delivers to the
    /// object that has it, what it says of that object's own address.
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
        let ask = || self.ask_owners(address);
        self.owners
            .believed_or(address.key(), ask, self.patience)
            .await
    }

    async fn ask_owners(
        &self,
        address: &Address,
    ) -> Result<(Option<Objects>, Option<Names>), Outage> {
        let found = self.find_at_source(address).await?;
        // There may be a million of them.
        let brief = |all: Objects| all.iter().cloned().map(Entry::in_brief).collect();
        let found: Option<Objects> = found.map(brief);
        if found.is_some() {
            // It has an owner of its own now.
            self.by_reading.invalidate(address.key()).await;
        }
        Ok((found, None))
    }

    async fn keep_by_reading(&self, asked: &Address, objects: &Objects, since: Instant) {
        let known = self.by_reading.get(asked.key()).await;
        if known.is_some_and(|known| Arc::ptr_eq(&known.what, objects) && known.since == since) {
            return;
        }
        let known = Known {
            what: Arc::clone(objects),
            since,
            names: None,
        };
        self.by_reading.insert(asked.key().to_owned(), known).await;
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

fn login_key(login: &str) -> String {
    format!("login={}", login.to_lowercase())
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
