//! The directory as the rest of Copyist sees it.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cache::Cached;
use super::entry::{Entry, Lookup, Outage};
use super::file::{LdifFile, LdifFileError};
use super::ldap::{self, Ldap, LdapError};
use super::people::NoLongerJournaled;
use super::presence::Presence;
use super::question::{AttributeError, Attributes};
use super::resolve::{Reached, Resolution};
use super::settings::{self, CacheSettings, Settings, ValuesOf};
use super::source::{Name, Objects, Probe, Source};
use super::target::Target;
use super::watch;
use crate::mail::Address;

/// The longest that an answer from a file may take; it is in memory.
const FILE_PATIENCE: Duration = Duration::from_secs(5);

/// Objects read before somebody takes them.
const EVERYBODY_WAITING: usize = 1024;

/// The organization's directory. Cloning gives another handle on the same one; it stops when the last
/// handle is dropped, or at [`Directory::close`].
#[derive(Debug, Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cached: Cached<Backend>,
    attributes: Attributes,
    presence: Arc<Presence>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
enum Backend {
    Ldap(Ldap),
    Ldif(Arc<LdifFile>),
}

/// Why a directory could never be used with these settings.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The attribute names.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    /// The LDIF file.
    #[error(transparent)]
    Ldif(#[from] LdifFileError),
    /// The LDAP servers.
    #[error(transparent)]
    Ldap(#[from] LdapError),
}

/// Whether the directory answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// As far as is known it does.
    Ok,
    /// It does not.
    Unavailable(Outage),
}

impl Directory {
    /// Checks the settings, reads LDIF file and certificates (which blocks), and starts to connect. No
    /// server needs to be up. Must be called within a tokio runtime.
    pub fn open(settings: Settings) -> Result<Directory, OpenError> {
        Directory::open_as(settings, None)
    }

    /// The same, and keeps in `state_dir` what was seen of the directory: an attribute of which nobody has a value any
    /// more is an outage after a restart, too.
    pub fn open_remembering(settings: Settings, state_dir: &Path) -> Result<Directory, OpenError> {
        Directory::open_as(settings, Some(state_dir))
    }

    fn open_as(settings: Settings, state_dir: Option<&Path>) -> Result<Directory, OpenError> {
        let attributes =
            Attributes::new(&settings.address_attributes, &settings.journal_attributes)?
                .with(&settings.further_attributes)?;
        let known = attributes.clone();
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let mut memory = settings.cache;
        let (base, canary) = match &settings.source {
            settings::Source::Ldap(servers) => {
                let canary = servers
                    .canary
                    .as_ref()
                    .map(|address| address.key().to_owned());
                (servers.base.clone(), canary)
            }
            settings::Source::Ldif(_) => (String::new(), None),
        };
        let presence = Presence::new(&attributes, &base, canary);
        let presence = Arc::new(match state_dir {
            Some(state_dir) => presence.kept_in(state_dir),
            None => presence,
        });
        if state_dir.is_some() {
            let (follow, until) = (Arc::clone(&presence).follow(), stop.clone());
            tasks.spawn(async move { until.run_until_cancelled(follow).await });
        }
        let (backend, patience) = match &settings.source {
            settings::Source::Ldap(servers) => {
                let ldap = Ldap::open(servers, attributes, Arc::clone(&presence), &tasks, &stop)?;
                (Backend::Ldap(ldap), servers.timeout + ldap::SLACK)
            }
            settings::Source::Ldif(path) => {
                let file = Arc::new(LdifFile::open_watched(
                    path,
                    attributes,
                    Arc::clone(&presence),
                )?);
                let follow = Arc::clone(&file).follow();
                let until = stop.clone();
                tasks.spawn(async move { until.run_until_cancelled(follow).await });
                // The file is in memory already; a second memory would only hide changes.
                memory = CacheSettings {
                    ttl: Duration::ZERO,
                    negative_ttl: Duration::ZERO,
                    ..memory
                };
                (Backend::Ldif(file), FILE_PATIENCE)
            }
        };
        let cached = Cached::new(
            backend,
            &settings.recipient_delimiter,
            &memory,
            settings.places,
            settings.targets,
            patience,
        );
        Ok(Directory {
            inner: Arc::new(Inner {
                cached,
                attributes: known,
                presence,
                tasks,
                stop,
            }),
        })
    }

    /// Follows the changes of the directory from now on, where that is wanted and the directory offers it, so that
    /// answers are forgotten when they change. `file` is where it keeps how far it got.
    pub fn follow_changes(&self, file: &Path) {
        let Backend::Ldap(ldap) = self.inner.cached.source() else {
            return;
        };
        let Some(feed) = ldap.feed() else { return };
        let attributes = ldap.attributes().clone();
        let changes = self.inner.cached.changes();
        let (file, stop) = (file.to_owned(), self.inner.stop.clone());
        let presence = Arc::clone(&self.inner.presence);
        let watching = watch::watch(feed, attributes, changes, presence, file, stop);
        self.inner.tasks.spawn(watching);
    }

    /// The objects that own each of these addresses. Every asked address has an answer, within
    /// `LdapSettings::timeout` and a little.
    pub async fn find(&self, addresses: &[Address]) -> HashMap<Address, Lookup<Objects>> {
        let mut answers = HashMap::with_capacity(addresses.len());
        let mut unknown = Vec::new();
        for address in addresses {
            match self.inner.cached.known(address).await {
                Some(answer) => {
                    answers.insert(address.clone(), answer);
                }
                None => unknown.push(address),
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        // Those who are not known are asked for together.
        let asked = unknown
            .into_iter()
            .map(|address| async { (address.clone(), self.inner.cached.find(address).await) });
        answers.extend(join_all(asked).await);
        answers
    }

    /// Every object with an address, as the source has it now. The last item is an outage where the list is not
    /// whole.
    pub fn everybody(&self) -> mpsc::Receiver<Result<Arc<Entry>, Outage>> {
        let (tell, everybody) = mpsc::channel(EVERYBODY_WAITING);
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            let listed = match inner.cached.source() {
                Backend::Ldap(ldap) => ldap.everybody(&tell).await,
                Backend::Ldif(file) => file.everybody(&tell).await,
            };
            if let Err(outage) = listed {
                // Where nobody listens any more, nobody misses it.
                let _ = tell.send(Err(outage)).await;
            }
        });
        everybody
    }

    /// Each of these objects of people, and behind it what it inherits from.
    pub async fn with_inherited(&self, people: Vec<Arc<Entry>>) -> Result<Vec<Objects>, Outage> {
        let all = people.into_iter().map(|one| {
            let own: Objects = [one].into();
            async move { self.inner.cached.with_inherited(own).await }
        });
        try_join_all(all).await
    }

    /// As [`Directory::find`] for one address, but past all memory: what the source says now.
    pub async fn find_fresh(&self, address: &Address) -> Lookup<Objects> {
        self.inner.cached.find_fresh(address).await
    }

    /// The address without its extension, where it has one.
    pub fn without_extension(&self, address: &Address) -> Option<Address> {
        self.inner.cached.without_extension(address)
    }

    /// Whether this address stands in anybody's journal attribute, or its object does by another of its addresses, by
    /// DN or X.500 address, or one of the `configured` targets names that object or one of its addresses.
    pub async fn is_journal_address(&self, address: &Address, configured: &[Target]) -> Lookup<()> {
        let mut answer = self.inner.cached.names_in_journal(address).await;
        if let (Lookup::Absent, Some(base)) = (&answer, self.without_extension(address)) {
            answer = self.inner.cached.names_in_journal(&base).await;
        }
        if configured.is_empty() || answer != Lookup::Absent {
            return answer;
        }
        let own = match self.inner.cached.find(address).await {
            Lookup::Found(objects) => objects,
            Lookup::Absent => Objects::default(),
            Lookup::Unavailable(outage) => return Lookup::Unavailable(outage),
        };
        let objects = own.iter().filter(|object| !object.inherited);
        let aliases: Vec<String> = objects
            .flat_map(|object| self.inner.attributes.keys_of(object))
            .collect();
        let named = |target: &Target| {
            let address = target.smtp().map(Address::key);
            address.is_some_and(|key| aliases.iter().any(|alias| alias == key))
        };
        if configured.iter().any(named) {
            return Lookup::Found(());
        }
        for answer in self.resolve(configured).await.into_values() {
            let reached = match answer {
                Ok(Ok(reached)) => reached,
                Ok(Err(_)) => continue,
                Err(outage) => return Lookup::Unavailable(outage),
            };
            let named = |one: &Reached| {
                let first = one.through.first().map_or("", String::as_str);
                let is_own = own
                    .iter()
                    .any(|object| object.dn.eq_ignore_ascii_case(first));
                is_own || (one.through.len() == 1 && one.address == *address)
            };
            if reached.iter().any(named) {
                return Lookup::Found(());
            }
        }
        Lookup::Absent
    }

    /// What each of these targets comes to. Every asked target has an answer; a group of thousands may
    /// take up to thirty seconds the first time.
    pub async fn resolve(&self, targets: &[Target]) -> HashMap<Target, Result<Resolution, Outage>> {
        let distinct: HashSet<&Target> = targets.iter().collect();
        let answers = distinct
            .into_iter()
            .map(|target| async { (target.clone(), self.inner.cached.resolve(target).await) });
        join_all(answers).await.into_iter().collect()
    }

    /// The values of an attribute of some objects, as the servers have them now.
    pub async fn values(&self, of: &ValuesOf) -> Result<Vec<String>, Outage> {
        match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.values(of).await,
            Backend::Ldif(file) => Err(Outage::new(format!(
                "{of}: {} is a file, and only a server can be searched",
                file.path().display()
            ))),
        }
    }

    /// Those whose journal attributes lost their values since the start, at most 1,000 of them, the last one first.
    pub fn no_longer_journaled(&self) -> Vec<NoLongerJournaled> {
        self.inner.presence.no_longer_journaled()
    }

    /// Tries every server anew, connection and bind included.
    pub async fn probe(&self) -> Vec<Probe> {
        match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.probe().await,
            Backend::Ldif(file) => {
                let nobody_has = file.nobody_has();
                let remarks = nobody_has.iter();
                let remarks = remarks.map(|name| Err(format!("nobody has {name} in this file")));
                vec![Probe {
                    url: format!("ldif:{}", file.path().display()),
                    outcome: file.describe().map_err(|outage| outage.reason.to_string()),
                    remarks: remarks.collect(),
                    nobody_has,
                    expires: None,
                    unindexed: Vec::new(),
                }]
            }
        }
    }

    /// Whether it can be asked now, as far as is known without asking.
    pub fn health(&self) -> Health {
        let outage = match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.outage(),
            Backend::Ldif(file) => file.describe().err(),
        };
        outage.map_or(Health::Ok, Health::Unavailable)
    }

    /// Says goodbye to the server and waits for all that is under way. Questions asked afterwards are
    /// answered by memory or by an outage.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.presence.write();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Source for Backend {
    async fn find(&self, address: &Address) -> Result<Option<Objects>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.find(address).await,
            Backend::Ldif(file) => file.find(address).await,
        }
    }

    async fn names_in_journal(
        &self,
        address: &Address,
        owners: &[Arc<Entry>],
    ) -> Result<bool, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.names_in_journal(address, owners).await,
            Backend::Ldif(file) => file.names_in_journal(address, owners).await,
        }
    }

    async fn named(&self, name: &Name) -> Result<Vec<Arc<Entry>>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.named(name).await,
            Backend::Ldif(file) => file.named(name).await,
        }
    }

    async fn groups_of(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.groups_of(object).await,
            Backend::Ldif(file) => file.groups_of(object).await,
        }
    }

    async fn containers_of(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.containers_of(object).await,
            Backend::Ldif(file) => file.containers_of(object).await,
        }
    }
}
