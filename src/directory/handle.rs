//! The directory as the rest of Copyist uses it.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch as watch_channel};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attributes::{AttributeError, Attributes};
use super::cache::CachedSource;
use super::change_feed;
use super::entry::{Entry, Lookup, Outage};
use super::file::{LdifFile, LdifFileError};
use super::journal_history::RemovedJournalAttribute;
use super::ldap::{self, LdapError, LdapSource};
use super::members::{AddressRewriter, Members};
use super::presence::Presence;
use super::resolve::Resolution;
use super::scan::JournalValues;
use super::settings::{self, AttributeQuery, CacheSettings, Settings};
use super::source::{ObjectName, Objects, ServerProbe, Source};
use super::target::Target;
use crate::mail::Address;

/// Time limit for an answer from a file, which is in memory.
const FILE_MAX_WAIT: Duration = Duration::from_secs(5);

/// Time that a message waits for the members of a group that are not cached. Reading goes on
/// meanwhile, so that the next attempt finds them; an MTA waits thirty seconds for a milter's
/// answer.
const MEMBERS_MAX_WAIT: Duration = Duration::from_secs(10);

/// Time to wait for a new answer if a stale one may be served. A quick directory answers within it.
const REVALIDATE_WAIT: Duration = Duration::from_millis(200);

/// Maximum number of concurrent refreshes.
const MAX_REFRESHES: usize = 1000;

/// Maximum number of concurrent queries of messages with very many, since each takes memory and
/// server time.
const MAX_EXTRA_QUERIES: usize = 2048;

/// Objects read ahead of the receiver.
const OBJECT_BUFFER: usize = 1024;

/// The organization's directory. Clones share one directory, which stops when the last handle is
/// dropped or at [`Directory::close`].
#[derive(Debug, Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cached: CachedSource<Backend>,
    attributes: Attributes,
    presence: Arc<Presence>,
    /// Permits for the queries of messages with very many.
    extra_queries: Semaphore,
    /// Addresses being refreshed.
    refreshing: Mutex<HashSet<Address>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Inner {
    fn refreshing(&self) -> MutexGuard<'_, HashSet<Address>> {
        self.refreshing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum Backend {
    Ldap(LdapSource),
    Ldif(Arc<LdifFile>),
}

/// Error of opening a directory: it could never work with these settings.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Invalid attribute names.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    /// The LDIF file cannot be used.
    #[error(transparent)]
    Ldif(#[from] LdifFileError),
    /// The settings of the LDAP servers are wrong.
    #[error(transparent)]
    Ldap(#[from] LdapError),
}

/// Availability of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Available, as far as is known.
    Ok,
    /// Unavailable.
    Unavailable(Outage),
}

impl Directory {
    /// Checks the settings, reads LDIF file and certificates (which blocks), and starts to connect.
    /// No server needs to be up. Must be called within a Tokio runtime.
    pub fn open(settings: Settings) -> Result<Directory, OpenError> {
        Directory::open_with(settings, None)
    }

    /// Opens the directory with its history in `state_dir`: an attribute that has lost all its
    /// values is an outage after a restart, too.
    pub fn open_with_state(settings: Settings, state_dir: &Path) -> Result<Directory, OpenError> {
        Directory::open_with(settings, Some(state_dir))
    }

    fn open_with(settings: Settings, state_dir: Option<&Path>) -> Result<Directory, OpenError> {
        let attributes =
            Attributes::new(&settings.address_attributes, &settings.journal_attributes)?
                .with_further(&settings.further_attributes)?
                .with_logins(&settings.login_attributes)?;
        let attributes_ = attributes.clone();
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let mut cache_settings = settings.cache;
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
            Some(state_dir) => presence.with_state_dir(state_dir),
            None => presence,
        });
        if state_dir.is_some() {
            let (follow, until) = (Arc::clone(&presence).follow(), stop.clone());
            tasks.spawn(async move { until.run_until_cancelled(follow).await });
        }
        let (backend, max_wait) = match &settings.source {
            settings::Source::Ldap(servers) => {
                let ldap =
                    LdapSource::open(servers, attributes, Arc::clone(&presence), &tasks, &stop)?;
                let max_wait = ldap.max_wait() + ldap::DEADLINE_SLACK;
                (Backend::Ldap(ldap), max_wait)
            }
            settings::Source::Ldif(path) => {
                let file = Arc::new(LdifFile::open_with_presence(
                    path,
                    attributes,
                    Arc::clone(&presence),
                )?);
                let follow = Arc::clone(&file).follow();
                let until = stop.clone();
                tasks.spawn(async move { until.run_until_cancelled(follow).await });
                // The file is in memory already; a cache would only delay changes.
                cache_settings = CacheSettings {
                    ttl: Duration::ZERO,
                    negative_ttl: Duration::ZERO,
                    ..cache_settings
                };
                (Backend::Ldif(file), FILE_MAX_WAIT)
            }
        };
        let ttl = cache_settings.ttl;
        let cached = CachedSource::new(
            backend,
            attributes_.clone(),
            &cache_settings,
            settings.inheritance,
            settings.targets,
            max_wait,
        )
        .with_exempt_attribute(settings.exempt_attribute);
        if let Backend::Ldap(ldap) = cached.source() {
            let scan = ldap.scan(cached.changes(), ttl);
            let until = stop.clone();
            tasks.spawn(async move { until.run_until_cancelled(scan).await });
        }
        Ok(Directory {
            inner: Arc::new(Inner {
                cached,
                attributes: attributes_,
                presence,
                extra_queries: Semaphore::new(MAX_EXTRA_QUERIES),
                refreshing: Mutex::default(),
                tasks,
                stop,
            }),
        })
    }

    /// Returns the time limit for all lookups of one message together: enough for one lookup that
    /// needs several answers of a slow server, or for a large group.
    pub fn max_wait(&self) -> Duration {
        let one = match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.max_wait(),
            Backend::Ldif(_) => FILE_MAX_WAIT,
        };
        one.max(MEMBERS_MAX_WAIT)
    }

    /// Returns the outage of a lookup that missed [`Directory::max_wait`].
    pub fn deadline_outage(&self) -> Outage {
        let most = self.max_wait().as_secs_f64();
        Outage::new(format!(
            "no answer within {most} s, the time limit for one message"
        ))
    }

    /// Waits for a permit for one query of a message with very many.
    pub async fn acquire_query_slot(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.inner.extra_queries.acquire().await.ok()
    }

    /// Follows the changes of the directory from now on, if configured and offered, so that cached
    /// answers are dropped when they change. `file` stores the cursor.
    pub fn follow_changes(&self, file: &Path) {
        let Backend::Ldap(ldap) = self.inner.cached.source() else {
            return;
        };
        let Some(feed) = ldap.feed() else { return };
        let attributes = ldap.attributes().clone();
        let changes = self.inner.cached.changes();
        let (file, stop) = (file.to_owned(), self.inner.stop.clone());
        let presence = Arc::clone(&self.inner.presence);
        let following = change_feed::follow_feed(feed, attributes, changes, presence, file, stop);
        self.inner.tasks.spawn(following);
    }

    /// Returns the cached owners of an address as written. Nearly every lookup is of that kind, so
    /// this future is small.
    pub async fn find_cached(&self, address: &Address) -> Option<Objects> {
        let objects = self.inner.cached.find_cached(address).await?;
        if self.inner.cached.needs_refresh(address).await {
            self.refresh(address);
        }
        Some(objects)
    }

    /// Refreshes the owners of an address before they expire, so that no message waits for a slow
    /// directory.
    fn refresh(&self, address: &Address) {
        let mut refreshing = self.inner.refreshing();
        if refreshing.len() >= MAX_REFRESHES || !refreshing.insert(address.clone()) {
            return;
        }
        drop(refreshing);
        let (inner, address) = (Arc::clone(&self.inner), address.clone());
        self.inner.tasks.spawn(async move {
            let until = inner.stop.clone();
            let refreshed = inner.cached.refresh(&address);
            until.run_until_cancelled(refreshed).await;
            inner.refreshing().remove(&address);
        });
    }

    /// Returns the result of `asking`, or the `stale` answer if there is one and the new one takes
    /// long. The query goes on even if the caller gives up.
    async fn fetch_or_revalidate<T: Send + 'static>(
        &self,
        asking: impl Future<Output = T> + Send + 'static,
        stale: Option<T>,
    ) -> Result<T, Outage> {
        let until = self.inner.stop.clone();
        let asking = async move { until.run_until_cancelled(asking).await };
        let asked = self.inner.tasks.spawn(asking);
        let max_wait = stale.as_ref().map_or(Duration::MAX, |_| REVALIDATE_WAIT);
        match (tokio::time::timeout(max_wait, asked).await, stale) {
            (Ok(Ok(Some(answer))), _) => Ok(answer),
            (Err(_), Some(stale)) => Ok(stale),
            _ => Err(Outage::new("directory closed")),
        }
    }

    /// Returns the owners of the first of these readings that has any, and the position of that
    /// reading. Answers shortly after `LdapSettings::timeout` at the latest.
    pub async fn find_first(&self, readings: &[Address]) -> Lookup<(usize, Objects)> {
        if let Backend::Ldif(_) = self.inner.cached.source() {
            return self.inner.cached.find(readings).await;
        }
        if let Some(asked) = readings.first()
            && let Some(objects) = self.find_cached(asked).await
        {
            return Lookup::Found((0, objects));
        }
        let stale = self.inner.cached.find_while_revalidating(readings).await;
        let (inner, readings) = (Arc::clone(&self.inner), readings.to_vec());
        let asking = async move { inner.cached.find(&readings).await };
        let answer = self.fetch_or_revalidate(asking, stale.map(Lookup::Found));
        answer.await.unwrap_or_else(Lookup::Unavailable)
    }

    /// Returns the owners of each exact address. Every address has an answer.
    pub async fn find(&self, addresses: &[Address]) -> HashMap<Address, Lookup<Objects>> {
        let asked: HashSet<&Address> = addresses.iter().collect();
        let asked = asked.into_iter().map(|address| async {
            let answer = match self.find_first(std::slice::from_ref(address)).await {
                Lookup::Found((_, objects)) => Lookup::Found(objects),
                Lookup::Absent => Lookup::Absent,
                Lookup::Unavailable(outage) => Lookup::Unavailable(outage),
            };
            (address.clone(), answer)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Returns the owners of each exact address, bypassing the cache and without inherited objects.
    pub async fn fetch_owners(
        &self,
        addresses: &[Address],
    ) -> Result<HashMap<Address, Objects>, Outage> {
        let asked: HashSet<&Address> = addresses.iter().collect();
        let asked = asked.into_iter().map(|address| async {
            let found = self.inner.cached.source().find(address).await?;
            Ok((address.clone(), found.unwrap_or_else(|| [].into())))
        });
        try_join_all(asked)
            .await
            .map(|all| all.into_iter().collect())
    }

    /// Returns the objects with a login name in one of `Settings::login_attributes`.
    pub async fn find_login(&self, login: &str) -> Lookup<Objects> {
        let stale = self.inner.cached.find_login_while_revalidating(login).await;
        let (inner, login) = (Arc::clone(&self.inner), login.to_owned());
        let asking = async move { inner.cached.find_login(&login).await };
        let answer = self.fetch_or_revalidate(asking, stale.map(Lookup::Found));
        answer.await.unwrap_or_else(Lookup::Unavailable)
    }

    /// Returns the members of a group that matter for mail to it. An outage if they cannot be read
    /// in ten seconds; reading goes on, so that the next attempt has them.
    pub async fn members(
        &self,
        group: &Arc<Entry>,
        rewriting: Arc<dyn AddressRewriter>,
    ) -> Result<Arc<Members>, Outage> {
        let (inner, group) = (Arc::clone(&self.inner), Arc::clone(group));
        let dn = group.dn.clone();
        // A task of its own, so that it outlives a caller whose time is up.
        let reading = self.inner.tasks.spawn(async move {
            let until = inner.stop.clone();
            until
                .run_until_cancelled(inner.cached.members(&group, &*rewriting))
                .await
        });
        match tokio::time::timeout(MEMBERS_MAX_WAIT, reading).await {
            Ok(Ok(Some(members))) => members,
            Ok(_) => Err(Outage::new("directory closed")),
            Err(_) => Err(Outage::new(format!(
                "the members of {dn:?} are still being read after {} s",
                MEMBERS_MAX_WAIT.as_secs()
            ))),
        }
    }

    /// Lists every object with an address, bypassing the cache. The last item is an outage if the
    /// list is incomplete.
    pub fn list_all(&self) -> mpsc::Receiver<Result<Arc<Entry>, Outage>> {
        let (sender, objects) = mpsc::channel(OBJECT_BUFFER);
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            let listed = match inner.cached.source() {
                Backend::Ldap(ldap) => ldap.send_all(&sender).await,
                Backend::Ldif(file) => file.send_all(&sender).await,
            };
            if let Err(outage) = listed {
                // A receiver that is gone does not need it.
                let _ = sender.send(Err(outage)).await;
            }
        });
        objects
    }

    /// Subscribes to the values of the journal attributes of all objects; `None` until the first
    /// scan.
    pub fn journal_values(&self) -> watch_channel::Receiver<Option<Arc<JournalValues>>> {
        match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.journal_values(),
            Backend::Ldif(file) => file.journal_values(),
        }
    }

    /// Whether a journal attribute names this address or one of its owners. Needed only if not all
    /// values can be listed ([`JournalValues::incomplete`]).
    pub async fn is_named_in_journal(&self, address: &Address) -> Lookup<()> {
        let (inner, address) = (Arc::clone(&self.inner), address.clone());
        let asking = async move { inner.cached.is_named_in_journal(&address).await };
        let answer = self.fetch_or_revalidate(asking, None);
        answer.await.unwrap_or_else(Lookup::Unavailable)
    }

    /// Returns an object's own addresses as they are looked up, each once. Values that are not mail
    /// addresses are left out.
    pub fn addresses_of(&self, object: &Entry) -> Vec<Address> {
        self.inner.attributes.addresses_of(object)
    }

    /// Returns each of these objects, followed by those that it inherits from.
    pub async fn with_inherited(&self, people: Vec<Arc<Entry>>) -> Result<Vec<Objects>, Outage> {
        let all = people.into_iter().map(|one| {
            let own: Objects = [one].into();
            async move { self.inner.cached.with_inherited(own).await }
        });
        try_join_all(all).await
    }

    /// Resolves targets. Every target has an answer; a group of thousands may take up to thirty
    /// seconds the first time.
    pub async fn resolve(&self, targets: &[Target]) -> HashMap<Target, Result<Resolution, Outage>> {
        let answers = distinct(targets)
            .map(|target| async { (target.clone(), self.resolve_one(target).await) });
        join_all(answers).await.into_iter().collect()
    }

    /// Resolves targets by a deadline. A missing answer is an outage; the query goes on for the
    /// next caller.
    pub async fn resolve_before(
        &self,
        targets: &[Target],
        deadline: Instant,
    ) -> HashMap<Target, Result<Resolution, Outage>> {
        let answers = distinct(targets).map(|target| async {
            let resolved = timeout_at(deadline, self.resolve_one(target)).await;
            let resolved = resolved.unwrap_or_else(|_| Err(self.deadline_outage()));
            (target.clone(), resolved)
        });
        join_all(answers).await.into_iter().collect()
    }

    async fn resolve_one(&self, target: &Target) -> Result<Resolution, Outage> {
        if target.smtp().is_some() {
            return self.inner.cached.resolve(target).await;
        }
        let stale = self.inner.cached.resolve_while_revalidating(target).await;
        let (inner, target) = (Arc::clone(&self.inner), target.clone());
        let asking = async move { inner.cached.resolve(&target).await };
        self.fetch_or_revalidate(asking, stale.map(Ok)).await?
    }

    /// Returns the objects that a target names, bypassing the cache, with the attributes that show
    /// accounts; none for an address.
    pub async fn fetch_target_objects(&self, target: &Target) -> Result<Vec<Arc<Entry>>, Outage> {
        let name = match target {
            Target::Smtp(_) => return Ok(Vec::new()),
            Target::Dn(dn) => ObjectName::Dn(dn.clone()),
            Target::X500(text) => ObjectName::X500(text.clone()),
        };
        self.inner.cached.source().find_named(&name).await
    }

    /// Returns the keys of all names that mail may use for an object: its addresses and X.500
    /// addresses; and its login names.
    pub fn names_of(&self, object: &Entry) -> (Vec<String>, Vec<String>) {
        let attributes = &self.inner.attributes;
        let mut names = attributes.keys_of(object);
        names.extend(super::resolve::object_keys(object));
        (names, attributes.login_keys_of(object))
    }

    /// Waits for a change of the directory, if changes are followed.
    pub async fn wait_for_change(&self) {
        self.inner.cached.changes().wait_for_change().await;
    }

    /// Returns the first journal attribute that an object has.
    pub fn journal_attribute_of(&self, object: &Entry) -> Option<&str> {
        let mut all = self.inner.attributes.journal().iter();
        all.find(|name| !object.values(name).is_empty())
            .map(String::as_str)
    }

    /// Returns the values of an attribute of some objects, bypassing the cache.
    pub async fn fetch_values(&self, of: &AttributeQuery) -> Result<Vec<String>, Outage> {
        match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.values(of).await,
            Backend::Ldif(file) => Err(Outage::new(format!(
                "{of}: {} is a file; only an LDAP server can be searched",
                file.path().display()
            ))),
        }
    }

    /// Returns the journal attributes removed from people since the start, at most 1,000, the
    /// latest first.
    pub fn removed_journal_attributes(&self) -> Vec<RemovedJournalAttribute> {
        self.inner.presence.removed_journal_attributes()
    }

    /// Probes every server with a new connection and bind.
    pub async fn probe(&self) -> Vec<ServerProbe> {
        match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.probe().await,
            Backend::Ldif(file) => {
                let empty_journal_attributes = file.empty_journal_attributes();
                let remarks = empty_journal_attributes.iter();
                let remarks = remarks.map(|name| Err(format!("no object in this file has {name}")));
                vec![ServerProbe {
                    url: format!("ldif:{}", file.path().display()),
                    outcome: file.describe().map_err(|outage| outage.reason.to_string()),
                    remarks: remarks.collect(),
                    empty_journal_attributes,
                    expires: None,
                    unindexed: Vec::new(),
                }]
            }
        }
    }

    /// Returns whether the directory is available, without querying it.
    pub fn health(&self) -> Health {
        let outage = match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.outage(),
            Backend::Ldif(file) => file.describe().err(),
        };
        outage.map_or(Health::Ok, Health::Unavailable)
    }

    /// Closes the connection after waiting for all queries in flight. Later lookups are answered
    /// from the cache, or by an outage.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.presence.save();
    }
}

fn distinct(targets: &[Target]) -> impl Iterator<Item = &Target> {
    targets.iter().collect::<HashSet<_>>().into_iter()
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

    async fn is_named_in_journal(
        &self,
        address: &Address,
        owners: &[Arc<Entry>],
    ) -> Result<bool, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.is_named_in_journal(address, owners).await,
            Backend::Ldif(file) => file.is_named_in_journal(address, owners).await,
        }
    }

    async fn find_login(&self, login: &str) -> Result<Option<Objects>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.find_login(login).await,
            Backend::Ldif(file) => file.find_login(login).await,
        }
    }

    async fn list_groups(&self) -> Result<Vec<String>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.list_groups().await,
            Backend::Ldif(file) => file.list_groups().await,
        }
    }

    async fn list_journaled(&self) -> Result<Vec<Arc<Entry>>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.list_journaled().await,
            Backend::Ldif(file) => file.list_journaled().await,
        }
    }

    async fn list_mail_relevant(
        &self,
        to: &mpsc::Sender<Result<Arc<Entry>, Outage>>,
    ) -> Result<(), Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.list_mail_relevant(to).await,
            Backend::Ldif(file) => file.list_mail_relevant(to).await,
        }
    }

    async fn find_named(&self, name: &ObjectName) -> Result<Vec<Arc<Entry>>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.find_named(name).await,
            Backend::Ldif(file) => file.find_named(name).await,
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
