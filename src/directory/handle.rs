//! The directory as the rest of Copyist sees it.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch as watch_channel};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cache::Cached;
use super::entry::{Entry, Lookup, Outage};
use super::file::{LdifFile, LdifFileError};
use super::ldap::{self, Ldap, LdapError};
use super::members::{Members, Rewriting};
use super::people::NoLongerJournaled;
use super::presence::Presence;
use super::question::{AttributeError, Attributes};
use super::resolve::Resolution;
use super::scan::JournalValues;
use super::settings::{self, CacheSettings, Settings, ValuesOf};
use super::source::{Name, Objects, Probe, Source};
use super::target::Target;
use super::watch;
use crate::mail::Address;

/// The longest that an answer from a file may take; it is in memory.
const FILE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a message waits for the members of a group that nobody asked for before. Reading them
/// goes on meanwhile, so that the next attempt finds them; an MTA waits thirty seconds for a
/// milter's answer.
const MEMBERS_WAIT: Duration = Duration::from_secs(10);

/// How long whoever asks waits for a new answer where there is an old one that may be given: so
/// long, a quick directory answers.
const OVERDUE_WAIT: Duration = Duration::from_millis(200);

/// Answers asked for again at once before they are not believed any more.
const REFRESHING: usize = 1000;

/// Questions under way at once of messages that put very many: what they take of memory, and of the
/// servers.
const TURNS: usize = 2048;

/// Objects read before somebody takes them.
const EVERYBODY_WAITING: usize = 1024;

/// The organization's directory. Cloning gives another handle on the same one; it stops when the
/// last handle is dropped, or at [`Directory::close`].
#[derive(Debug, Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cached: Cached<Backend>,
    attributes: Attributes,
    presence: Arc<Presence>,
    /// For the questions of messages that have very many.
    turns: Semaphore,
    /// Whose answers are being asked for again.
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
    /// Checks the settings, reads LDIF file and certificates (which blocks), and starts to connect.
    /// No server needs to be up. Must be called within a tokio runtime.
    pub fn open(settings: Settings) -> Result<Directory, OpenError> {
        Directory::open_as(settings, None)
    }

    /// The same, and keeps in `state_dir` what was seen of the directory: an attribute of which
    /// nobody has a value any more is an outage after a restart, too.
    pub fn open_remembering(settings: Settings, state_dir: &Path) -> Result<Directory, OpenError> {
        Directory::open_as(settings, Some(state_dir))
    }

    fn open_as(settings: Settings, state_dir: Option<&Path>) -> Result<Directory, OpenError> {
        let attributes =
            Attributes::new(&settings.address_attributes, &settings.journal_attributes)?
                .with(&settings.further_attributes)?
                .with_logins(&settings.login_attributes)?;
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
                let patience = ldap.patience() + ldap::SLACK;
                (Backend::Ldap(ldap), patience)
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
        let ttl = memory.ttl;
        let cached = Cached::new(
            backend,
            known.clone(),
            &memory,
            settings.places,
            settings.targets,
            patience,
        )
        .with_exemption(settings.exempt_attribute);
        if let Backend::Ldap(ldap) = cached.source() {
            let scan = ldap.scan(cached.changes(), ttl);
            let until = stop.clone();
            tasks.spawn(async move { until.run_until_cancelled(scan).await });
        }
        Ok(Directory {
            inner: Arc::new(Inner {
                cached,
                attributes: known,
                presence,
                turns: Semaphore::new(TURNS),
                refreshing: Mutex::default(),
                tasks,
                stop,
            }),
        })
    }

    /// The longest that all questions of one message may take together: as long as one question
    /// that needs several answers of a slow server, or a large group.
    pub fn patience(&self) -> Duration {
        let one = match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.patience(),
            Backend::Ldif(_) => FILE_PATIENCE,
        };
        one.max(MEMBERS_WAIT)
    }

    /// Why there is no answer when [`Directory::patience`] is over.
    pub fn too_late(&self) -> Outage {
        let most = self.patience().as_secs_f64();
        Outage::new(format!(
            "no answer within {most} s, the longest that a message waits for the directory"
        ))
    }

    /// Waits until one more of the questions may be put that messages with very many of them put at
    /// once.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.inner.turns.acquire().await.ok()
    }

    /// Follows the changes of the directory from now on, where that is wanted and the directory
    /// offers it, so that answers are forgotten when they change. `file` is where it keeps how far
    /// it got.
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

    /// What [`Directory::find_first`] gives for an address as it was written, if that is in memory;
    /// short, for nearly every question is of that kind.
    pub async fn known(&self, address: &Address) -> Option<Objects> {
        let objects = self.inner.cached.known(address).await?;
        if self.inner.cached.is_aging(address).await {
            self.refresh(address);
        }
        Some(objects)
    }

    /// Asks for somebody again whose answer ages, while it is still believed: nobody waits for a
    /// slow directory then.
    fn refresh(&self, address: &Address) {
        let mut refreshing = self.inner.refreshing();
        if refreshing.len() >= REFRESHING || !refreshing.insert(address.clone()) {
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

    /// What `asking` gives, which goes on whatever becomes of this question; or else the `overdue`
    /// answer, if there is one and the new one takes long.
    async fn soon_or_overdue<T: Send + 'static>(
        &self,
        asking: impl Future<Output = T> + Send + 'static,
        overdue: Option<T>,
    ) -> Result<T, Outage> {
        let until = self.inner.stop.clone();
        let asking = async move { until.run_until_cancelled(asking).await };
        let asked = self.inner.tasks.spawn(asking);
        let patience = overdue.as_ref().map_or(Duration::MAX, |_| OVERDUE_WAIT);
        match (tokio::time::timeout(patience, asked).await, overdue) {
            (Ok(Ok(Some(answer))), _) => Ok(answer),
            (Err(_), Some(overdue)) => Ok(overdue),
            _ => Err(Outage::new("the directory was closed")),
        }
    }

    /// The objects that own the first of these readings of an address that anybody owns, and its
    /// position. Answers within `LdapSettings::timeout` and a little.
    pub async fn find_first(&self, readings: &[Address]) -> Lookup<(usize, Objects)> {
        if let Backend::Ldif(_) = self.inner.cached.source() {
            return self.inner.cached.find(readings).await;
        }
        if let Some(asked) = readings.first()
            && let Some(objects) = self.known(asked).await
        {
            return Lookup::Found((0, objects));
        }
        let overdue = self.inner.cached.find_overdue(readings).await;
        let (inner, readings) = (Arc::clone(&self.inner), readings.to_vec());
        let asking = async move { inner.cached.find(&readings).await };
        let answer = self.soon_or_overdue(asking, overdue.map(Lookup::Found));
        answer.await.unwrap_or_else(Lookup::Unavailable)
    }

    /// The objects that own each of these addresses exactly. Every address has an answer.
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

    /// The objects that own each of these addresses exactly, as the source has them now, past all
    /// memory and without what they inherit.
    pub async fn owners_now(
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

    /// The objects that have a login name, in one of `Settings::login_attributes`.
    pub async fn find_login(&self, login: &str) -> Lookup<Objects> {
        let overdue = self.inner.cached.find_login_overdue(login).await;
        let (inner, login) = (Arc::clone(&self.inner), login.to_owned());
        let asking = async move { inner.cached.find_login(&login).await };
        let answer = self.soon_or_overdue(asking, overdue.map(Lookup::Found));
        answer.await.unwrap_or_else(Lookup::Unavailable)
    }

    /// The members of a group, as far as they matter for mail to it. An outage if they cannot be
    /// read in ten seconds: the reading goes on, so that the next attempt has them.
    pub async fn members(
        &self,
        group: &Arc<Entry>,
        rewriting: Arc<dyn Rewriting>,
    ) -> Result<Arc<Members>, Outage> {
        let (inner, group) = (Arc::clone(&self.inner), Arc::clone(group));
        let dn = group.dn.clone();
        // A task of its own, so that it outlives a question whose time is up.
        let reading = self.inner.tasks.spawn(async move {
            let until = inner.stop.clone();
            until
                .run_until_cancelled(inner.cached.members(&group, &*rewriting))
                .await
        });
        match tokio::time::timeout(MEMBERS_WAIT, reading).await {
            Ok(Ok(Some(members))) => members,
            Ok(_) => Err(Outage::new("the directory was closed")),
            Err(_) => Err(Outage::new(format!(
                "the members of {dn:?} are still being read after {} s",
                MEMBERS_WAIT.as_secs()
            ))),
        }
    }

    /// Every object with an address, as the source has it now. The last item is an outage where the
    /// list is not whole.
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

    /// Follows the values of the journal attributes, everybody's. `None` until they were read once
    /// since the start.
    pub fn journal_values(&self) -> watch_channel::Receiver<Option<Arc<JournalValues>>> {
        match self.inner.cached.source() {
            Backend::Ldap(ldap) => ldap.journal_values(),
            Backend::Ldif(file) => file.journal_values(),
        }
    }

    /// Whether anybody's journal attribute names this address, or an object that owns it: for where
    /// not all values can be listed ([`JournalValues::incomplete`]).
    pub async fn names_in_journal(&self, address: &Address) -> Lookup<()> {
        let (inner, address) = (Arc::clone(&self.inner), address.clone());
        let asking = async move { inner.cached.names_in_journal(&address).await };
        let answer = self.soon_or_overdue(asking, None);
        answer.await.unwrap_or_else(Lookup::Unavailable)
    }

    /// Returns an object's own addresses as mail to them is looked up, each once. Values that are
    /// no mail address are left out.
    pub fn addresses_of(&self, object: &Entry) -> Vec<Address> {
        self.inner.attributes.addresses_of(object)
    }

    /// Each of these objects of people, and behind it what it inherits from.
    pub async fn with_inherited(&self, people: Vec<Arc<Entry>>) -> Result<Vec<Objects>, Outage> {
        let all = people.into_iter().map(|one| {
            let own: Objects = [one].into();
            async move { self.inner.cached.with_inherited(own).await }
        });
        try_join_all(all).await
    }

    /// What each of these targets comes to. Every asked target has an answer; a group of thousands
    /// may take up to thirty seconds the first time.
    pub async fn resolve(&self, targets: &[Target]) -> HashMap<Target, Result<Resolution, Outage>> {
        let answers = distinct(targets)
            .map(|target| async { (target.clone(), self.resolve_one(target).await) });
        join_all(answers).await.into_iter().collect()
    }

    /// The same; what is not there by the deadline is an outage, and its answer is there for
    /// whoever asks next.
    pub async fn resolve_by(
        &self,
        targets: &[Target],
        deadline: Instant,
    ) -> HashMap<Target, Result<Resolution, Outage>> {
        let answers = distinct(targets).map(|target| async {
            let resolved = timeout_at(deadline, self.resolve_one(target)).await;
            let resolved = resolved.unwrap_or_else(|_| Err(self.too_late()));
            (target.clone(), resolved)
        });
        join_all(answers).await.into_iter().collect()
    }

    async fn resolve_one(&self, target: &Target) -> Result<Resolution, Outage> {
        if target.smtp().is_some() {
            return self.inner.cached.resolve(target).await;
        }
        let overdue = self.inner.cached.resolve_overdue(target).await;
        let (inner, target) = (Arc::clone(&self.inner), target.clone());
        let asking = async move { inner.cached.resolve(&target).await };
        self.soon_or_overdue(asking, overdue.map(Ok)).await?
    }

    /// The objects that a target names, as the source has them now, with what accounts are told by;
    /// none for an address.
    pub async fn objects(&self, target: &Target) -> Result<Vec<Arc<Entry>>, Outage> {
        let name = match target {
            Target::Smtp(_) => return Ok(Vec::new()),
            Target::Dn(dn) => Name::Dn(dn.clone()),
            Target::X500(text) => Name::X500(text.clone()),
        };
        self.inner.cached.source().named(&name).await
    }

    /// Everything that mail to an object may name it by, as it is compared: addresses and X.500
    /// addresses; and its login names.
    pub fn names_of(&self, object: &Entry) -> (Vec<String>, Vec<String>) {
        let attributes = &self.inner.attributes;
        let mut names = attributes.keys_of(object);
        names.extend(super::resolve::names_of(object));
        (names, attributes.login_keys_of(object))
    }

    /// Waits for a change of the directory, where changes are followed.
    pub async fn changed(&self) {
        self.inner.cached.changes().next().await;
    }

    /// The first journal attribute that an object has values of.
    pub fn journal_attribute_of(&self, object: &Entry) -> Option<&str> {
        let mut all = self.inner.attributes.journal().iter();
        all.find(|name| !object.values(name).is_empty())
            .map(String::as_str)
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

    /// Those whose journal attributes lost their values since the start, at most 1,000 of them, the
    /// last one first.
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

    /// Says goodbye to the server and waits for all that is under way. Questions asked afterwards
    /// are answered by memory or by an outage.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.presence.write();
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

    async fn find_login(&self, login: &str) -> Result<Option<Objects>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.find_login(login).await,
            Backend::Ldif(file) => file.find_login(login).await,
        }
    }

    async fn groups(&self) -> Result<Vec<String>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.groups().await,
            Backend::Ldif(file) => file.groups().await,
        }
    }

    async fn journaled(&self) -> Result<Vec<Arc<Entry>>, Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.journaled().await,
            Backend::Ldif(file) => file.journaled().await,
        }
    }

    async fn concerned(&self, to: &mpsc::Sender<Result<Arc<Entry>, Outage>>) -> Result<(), Outage> {
        match self {
            Backend::Ldap(ldap) => ldap.concerned(to).await,
            Backend::Ldif(file) => file.concerned(to).await,
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
