//! The guarded mailboxes: the destinations of journal copies and their NDRs.
//!
//! The set is built from settings and from the values of journal attributes, each resolved in the
//! directory, and contains every name of each mailbox. So a recipient is checked without a
//! directory query, and the last known set is used during an outage.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use super::address_rules::ReadingStep;
use super::domains::DomainPattern;
use super::find::Identities;
use crate::directory::{self, Entry, JournalValues, Lookup, Outage, Target, is_within};
use crate::mail::Address;
use crate::maps::Expansion;

/// Maximum number of values resolved concurrently.
const CONCURRENCY: usize = 64;

/// Settings of the journal guard.
#[derive(Debug, Clone, Default)]
pub struct GuardSettings {
    /// Journal targets, fallback journal and NDR addresses of the settings: guarded under all their
    /// names.
    pub configured: Vec<Target>,
    /// Domains whose attribute values are guarded; empty: all.
    pub journal_domains: Vec<DomainPattern>,
    /// Mailboxes that are journal mailboxes even if they look like a person's.
    pub mailboxes: Vec<JournalMailboxRule>,
    /// Whether mailboxes of people named by attributes are guarded, too.
    pub guards_persons: bool,
    /// The attribute that exempts people: an object with it is a person.
    pub exempt_attribute: Option<String>,
}

/// A line of `organization.journal_mailboxes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalMailboxRule {
    /// One mailbox.
    Address(Address),
    /// Every mailbox of a domain.
    Domain(DomainPattern),
    /// Every object at or below a DN.
    Subtree(String),
}

impl JournalMailboxRule {
    /// Parses an address, a domain or a DN.
    pub fn parse(text: &str) -> Result<JournalMailboxRule, &'static str> {
        const WRONG: &str = "is not an address, a domain or a DN";
        match Target::parse(text) {
            Ok(Target::Smtp(address)) => Ok(JournalMailboxRule::Address(address)),
            Ok(Target::Dn(dn)) => Ok(JournalMailboxRule::Subtree(dn)),
            Ok(Target::X500(_)) => Err(WRONG),
            Err(_) => text
                .trim()
                .parse()
                .map(JournalMailboxRule::Domain)
                .map_err(|_| WRONG),
        }
    }

    fn covers(&self, address: &Address, dn: Option<&str>) -> bool {
        match self {
            JournalMailboxRule::Address(known) => known == address,
            JournalMailboxRule::Domain(domain) => domain.matches(address.domain()),
            JournalMailboxRule::Subtree(base) => dn.is_some_and(|dn| is_within(dn, base)),
        }
    }
}

/// All names of all guarded mailboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardedMailboxes {
    /// Addresses and X.500 addresses, normalized.
    names: HashSet<String>,
    /// Login names, for the MTA's own domains.
    logins: HashSet<String>,
    /// The reason if values of journal attributes may be missing; then the directory is queried for
    /// each recipient.
    #[serde(default)]
    pub incomplete: Option<String>,
    /// The settings that the set was built with, as text; it is not valid for others.
    #[serde(default)]
    settings: String,
    /// Mailboxes of people named by attribute values: not guarded.
    #[serde(default)]
    pub persons: Vec<UnguardedMailbox>,
    /// Mailboxes of people named in settings as journal or NDR addresses: guarded, so that external
    /// mail to these people is rejected.
    #[serde(default)]
    pub closed_persons: Vec<UnguardedMailbox>,
}

/// A person's mailbox that receives journal copies and is not guarded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnguardedMailbox {
    /// The destination of the copies.
    pub address: Address,
    /// The person's object.
    pub dn: String,
    /// An object whose attribute names the mailbox.
    pub named_by: String,
    /// The evidence that it is a person's.
    pub mark: String,
}

impl UnguardedMailbox {
    /// Explains why the mailbox is not guarded, and how to change that. Continues a sentence that
    /// begins with the address.
    pub fn remark(&self) -> String {
        let UnguardedMailbox {
            address,
            dn,
            named_by,
            mark,
        } = self;
        format!(
            "not guarded, since {dn} looks like a person's ({mark}); named by {named_by}: add \"{address}\" to organization.journal_mailboxes if it is a journal mailbox"
        )
    }
}

/// A handle to the current set, shared by all clones. Empty until the first set is built or read.
#[derive(Debug, Clone)]
pub struct SharedGuard(Arc<watch::Sender<Option<Arc<GuardedMailboxes>>>>);

impl Default for SharedGuard {
    fn default() -> SharedGuard {
        SharedGuard(Arc::new(watch::Sender::new(None)))
    }
}

/// The guard's result for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardStatus {
    /// A guarded mailbox, with the matching name.
    Guarded(String),
    /// Not a guarded mailbox.
    NotGuarded,
    /// Unknown because of an outage.
    Unknown(Outage),
}

impl SharedGuard {
    /// Returns the set, if it is known.
    pub fn get(&self) -> Option<Arc<GuardedMailboxes>> {
        self.0.borrow().clone()
    }

    /// Waits for the set; `None` if it is not known within this time.
    pub async fn wait(&self, patience: Duration) -> Option<Arc<GuardedMailboxes>> {
        let mut changes = self.0.subscribe();
        let known = timeout(patience, changes.wait_for(Option::is_some)).await;
        known.ok()?.ok()?.clone()
    }

    /// Replaces the set; returns whether it changed.
    pub fn set(&self, mailboxes: GuardedMailboxes) -> bool {
        let new = Some(Arc::new(mailboxes));
        self.0.send_if_modified(|known| {
            let is_new = *known != new;
            known.clone_from(&new);
            is_new
        })
    }
}

impl GuardedMailboxes {
    /// Reads a set stored by [`GuardedMailboxes::write`].
    pub fn read(file: &Path) -> io::Result<GuardedMailboxes> {
        let text = std::fs::read_to_string(file)?;
        serde_json::from_str(&text).map_err(io::Error::from)
    }

    /// Stores the set for a start during an outage.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let text = serde_json::to_string(self)?;
        let new = file.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, file)
    }

    /// Returns the set of SMTP addresses in the settings, known without a directory.
    pub fn of_settings(settings: &GuardSettings) -> GuardedMailboxes {
        let addresses = settings.configured.iter().filter_map(Target::smtp);
        GuardedMailboxes {
            settings: format!("{settings:?}"),
            names: addresses.map(|address| address.key().to_owned()).collect(),
            ..GuardedMailboxes::default()
        }
    }

    /// Whether the set was built with these settings.
    pub fn is_of(&self, settings: &GuardSettings) -> bool {
        self.settings == format!("{settings:?}")
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing is guarded.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether a guarded mailbox has this name.
    fn has(&self, address: &Address) -> bool {
        let x500 = || directory::encapsulated_x500_key(address);
        self.names.contains(address.key()) || x500().is_some_and(|name| self.names.contains(&name))
    }

    fn add(&mut self, address: &Address, objects: &[Arc<Entry>], directory: &directory::Directory) {
        self.names.insert(address.key().to_owned());
        for object in objects.iter().filter(|object| !object.inherited) {
            let (names, logins) = directory.names_of(object);
            self.names.extend(names);
            self.logins.extend(logins);
        }
    }
}

impl Identities {
    /// Checks whether a recipient is guarded, under every name that it may have. postmaster and
    /// abuse are never guarded (RFC 5321 section 4.5.1).
    pub async fn guard_status(
        &self,
        recipient: &Address,
        mta: Option<&Address>,
        guarded: &GuardedMailboxes,
    ) -> GuardStatus {
        let readings = self.names().readings(recipient, mta);
        let is_open = |address: &Address| {
            let mut open = ["postmaster", "abuse"].iter();
            open.any(|name| address.local().eq_ignore_ascii_case(name))
                && self.names().contains(address)
        };
        if readings.addresses.iter().any(|one| is_open(&one.address)) {
            return GuardStatus::NotGuarded;
        }
        let candidates: Vec<Address> = readings
            .addresses
            .iter()
            .map(|one| one.address.clone())
            .collect();
        let at = candidates.iter().position(|one| guarded.has(one));
        let login = readings
            .logins
            .iter()
            .find(|login| guarded.logins.contains(*login));
        let (earlier, name) = match (at, login) {
            (Some(at), _) => {
                let reading = &readings.addresses[at];
                let how = match reading.step {
                    ReadingStep::Written => String::new(),
                    step => format!(" ({})", step.name()),
                };
                (&candidates[..at], format!("{}{how}", reading.address))
            }
            (None, Some(login)) => (&candidates[..], format!("{login} (login name)")),
            (None, None) => {
                let mapped = self.status_by_maps(&candidates, guarded).await;
                if mapped == GuardStatus::NotGuarded && guarded.incomplete.is_some() {
                    return self.ask_directory(&candidates).await;
                }
                return mapped;
            }
        };
        // An exact address of an object belongs to that object alone. In doubt, the recipient is
        // guarded.
        match self.directory().find_first(earlier).await {
            Lookup::Found(_) => GuardStatus::NotGuarded,
            Lookup::Absent | Lookup::Unavailable(_) => GuardStatus::Guarded(name),
        }
    }

    /// Checks the results of the MTA's address maps. A recipient that leads to others as well is
    /// not guarded, since these must get their mail.
    async fn status_by_maps(
        &self,
        candidates: &[Address],
        guarded: &GuardedMailboxes,
    ) -> GuardStatus {
        if self.maps().is_empty() {
            return GuardStatus::NotGuarded;
        }
        for candidate in candidates {
            let addresses = match self.maps().recipients(candidate).await {
                Ok(Expansion::Changed { addresses, .. }) => addresses,
                Ok(Expansion::Unchanged) => continue,
                Err(error) => return GuardStatus::Unknown(Outage::new(error.to_string())),
            };
            let is_guarded = |address: &Address| {
                let readings = self.names().readings(address, None);
                readings
                    .addresses
                    .iter()
                    .any(|one| guarded.has(&one.address))
            };
            let mut all = addresses.iter().map(|mapped| &mapped.address);
            return match addresses.first() {
                Some(first) if all.all(is_guarded) => {
                    GuardStatus::Guarded(format!("{} (address maps)", first.address))
                }
                _ => GuardStatus::NotGuarded,
            };
        }
        GuardStatus::NotGuarded
    }

    /// Queries whether a journal attribute names a recipient, if not all values could be listed.
    async fn ask_directory(&self, candidates: &[Address]) -> GuardStatus {
        for candidate in candidates {
            match self.directory().is_named_in_journal(candidate).await {
                Lookup::Found(()) => return GuardStatus::Guarded(candidate.to_string()),
                Lookup::Absent => {}
                Lookup::Unavailable(outage) => return GuardStatus::Unknown(outage),
            }
        }
        GuardStatus::NotGuarded
    }

    /// Builds the set of guarded mailboxes. `values` are those of the journal attributes; `None`
    /// without such attributes.
    pub async fn guarded_mailboxes(
        &self,
        settings: &GuardSettings,
        values: Option<&JournalValues>,
    ) -> Result<GuardedMailboxes, Outage> {
        let mut all = GuardedMailboxes::of_settings(settings);
        all.incomplete = values.and_then(|values| values.incomplete().map(str::to_owned));
        for target in &settings.configured {
            for (address, objects) in self.mailboxes_with_members(target).await? {
                let is_new = !all.closed_persons.iter().any(|one| one.address == address);
                let person = self.person(settings, &address, &objects).await?;
                if let Some((dn, mark)) = person.filter(|_| is_new) {
                    all.closed_persons.push(UnguardedMailbox {
                        address: address.clone(),
                        dn,
                        named_by: target.to_string(),
                        mark,
                    });
                }
                all.add(&address, &objects, self.directory());
            }
        }
        let mut known = HashSet::new();
        let targets: Vec<(Target, String)> = values
            .into_iter()
            .flat_map(JournalValues::iter)
            .filter_map(|one| Some((Target::parse(&one.value).ok()?, one.holder.clone())))
            .filter(|(target, _)| known.insert(target.clone()))
            .collect();
        let mut persons = BTreeSet::new();
        let mut resolved = stream::iter(targets)
            .map(|(target, holder)| async move {
                let found = self.mailbox_of(&target).await?;
                Ok::<_, Outage>((found, holder))
            })
            .buffer_unordered(CONCURRENCY);
        while let Some((found, holder)) = resolved.try_next().await? {
            for (address, objects) in found {
                let mut domains = settings.journal_domains.iter();
                let is_elsewhere = !settings.journal_domains.is_empty()
                    && !domains.any(|domain| domain.matches(address.domain()));
                if is_elsewhere {
                    continue;
                }
                match self.person(settings, &address, &objects).await? {
                    Some((dn, mark)) => {
                        persons.insert(UnguardedMailbox {
                            address,
                            dn,
                            named_by: holder.clone(),
                            mark,
                        });
                    }
                    None => all.add(&address, &objects, self.directory()),
                }
            }
        }
        all.persons = persons.into_iter().collect();
        Ok(all)
    }

    /// Returns the mailboxes of a target of the settings, including members of groups.
    async fn mailboxes_with_members(
        &self,
        target: &Target,
    ) -> Result<Vec<(Address, Vec<Arc<Entry>>)>, Outage> {
        let mut all = self.mailbox_of(target).await?;
        for reached in self.resolve_addresses(target).await? {
            let objects = self.owners_of(&reached).await?;
            all.push((reached, objects));
        }
        Ok(all)
    }

    /// Returns the mailbox that a target names: the object itself, not its members.
    async fn mailbox_of(&self, target: &Target) -> Result<Vec<(Address, Vec<Arc<Entry>>)>, Outage> {
        if let Some(address) = target.smtp() {
            let objects = self.owners_of(address).await?;
            return Ok(vec![(address.clone(), objects)]);
        }
        let objects = self.directory().fetch_target_objects(target).await?;
        let addresses = self.resolve_addresses(target).await?;
        let own = objects.iter().any(|object| object.is_group());
        let mut all = Vec::new();
        for address in addresses {
            match own {
                // A group expanded to its members. Members of groups named by attributes are
                // people.
                true => {
                    let held = objects.iter().filter(|object| {
                        self.directory()
                            .names_of(object)
                            .0
                            .iter()
                            .any(|name| name == address.key())
                    });
                    let held: Vec<Arc<Entry>> = held.cloned().collect();
                    if !held.is_empty() {
                        all.push((address, held));
                    }
                }
                false => all.push((address, objects.clone())),
            }
        }
        Ok(all)
    }

    async fn resolve_addresses(&self, target: &Target) -> Result<Vec<Address>, Outage> {
        let answers = self.directory().resolve(std::slice::from_ref(target)).await;
        let mut all = Vec::new();
        for answer in answers.into_values() {
            // A target without a mailbox guards nothing.
            if let Ok(expansion) = answer? {
                all.extend(expansion.addresses.iter().map(|one| one.address.clone()));
            }
        }
        Ok(all)
    }

    async fn owners_of(&self, address: &Address) -> Result<Vec<Arc<Entry>>, Outage> {
        match self
            .directory()
            .find_first(std::slice::from_ref(address))
            .await
        {
            Lookup::Found((_, objects)) => Ok(objects.to_vec()),
            Lookup::Absent => Ok(Vec::new()),
            Lookup::Unavailable(outage) => Err(outage),
        }
    }

    /// Returns the object and the evidence that a mailbox is a person's, so that the values of
    /// others do not block it.
    async fn person(
        &self,
        settings: &GuardSettings,
        address: &Address,
        objects: &[Arc<Entry>],
    ) -> Result<Option<(String, String)>, Outage> {
        let named = |dn| settings.mailboxes.iter().any(|one| one.covers(address, dn));
        let dns = objects.iter().map(|object| Some(object.dn.as_str()));
        if settings.guards_persons || dns.chain([None]).any(named) {
            return Ok(None);
        }
        let own = objects.iter().find(|object| !object.inherited);
        if let (Some(own), Some(place)) = (own, objects.iter().find(|object| object.inherited)) {
            return Ok(Some((own.dn.clone(), format!("a member of {}", place.dn))));
        }
        for object in objects {
            for whole in self
                .directory()
                .fetch_target_objects(&Target::Dn(object.dn.clone()))
                .await?
            {
                let exempt = settings.exempt_attribute.as_deref();
                let exempt = exempt.filter(|name| !whole.values(name).is_empty());
                let mark = match (self.directory().journal_attribute_of(&whole), exempt) {
                    (Some(name), _) | (None, Some(name)) => Some(format!("has {name}")),
                    (None, None) => whole.account_evidence(),
                };
                if let Some(mark) = mark {
                    return Ok(Some((whole.dn.clone(), mark)));
                }
            }
        }
        Ok(None)
    }
}
