//! LDAP servers as the directory's source.
//!
//! Promises: each answer may take `LdapSettings::timeout`, and each lookup
//! [`LdapSource::max_wait`]; a slow server is never mistaken for one that is down or hides
//! something, and neither an outage, a missing base nor a partial answer for "no such person". Does
//! not cache; see [`super::cache`].

mod batch;
mod connection;
mod error;
mod feed;
mod indexes;
mod latency;
mod logins;
mod scanner;
mod servers;
mod srv;
mod url;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use ldap3::{Scope, ldap_escape};
use metrics::histogram;
use tokio::sync::{mpsc, watch as followed};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::url::UrlError;

use self::batch::{BatchLookup, Batcher, LoginName, LookupResult};
use self::connection::{Canary, Connection, ConnectionSettings, SearchRequest};
use self::error::SearchError;
use self::feed::{FeedError, FeedSession};
use self::servers::Servers;
use self::srv::ServerSpec;
use self::url::ServerUrl;
use super::attributes::{Attributes, parse_range};
use super::change_feed::{self, FeedEnd};
use super::change_log::ChangeLog;
use super::dn;
use super::entry::{Entry, Outage};
use super::inheritance;
use super::presence::{Presence, has_value};
use super::resolve;
use super::scan::{JournalValues, Scan, ScanStage};
use super::settings::{AttributeQuery, LdapSettings, WatchMode};
use super::source::{Change, FeedCursor, ObjectName, Objects, ServerProbe, Source};
use super::stamp::with_stamp_attributes;
use crate::mail::Address;
use crate::tls::{self, ExpiryMonitor, TlsError};

/// Maximum number of entries of one search, the same as Active Directory's.
const MAX_ENTRIES: usize = 1000;

/// Maximum number of members of a dynamic group; more is an outage, never a shorter list.
const MAX_MEMBERS: usize = 100_000;

/// Maximum number of groups of one person.
const MAX_GROUPS: usize = 1000;

/// Maximum number of concurrent searches for addresses.
const ADDRESS_SEARCHES: usize = 64;
/// Maximum number of concurrent searches for login names: few, since they come last and often have
/// no index.
const LOGIN_SEARCHES: usize = 8;

/// Maximum age of a verification for the journal guard.
const RECENT_VERIFICATION: Duration = Duration::from_secs(1);

/// Objects read to check that an attribute is readable.
const PROBE_SIZE: usize = 20;

/// A lookup that takes longer probably has no index.
const SLOW_LOOKUP: Duration = Duration::from_millis(100);

/// Error in the settings of the LDAP servers.
#[derive(Debug, thiserror::Error)]
pub enum LdapError {
    /// No servers.
    #[error("no LDAP servers configured")]
    NoServers,
    /// An unusable URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// No usable trust anchors.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An empty password, which LDAP servers treat as an anonymous bind (RFC 4513 section 5.1.2).
    #[error("the password for {0:?} is empty, which LDAP servers treat as an anonymous bind")]
    EmptyPassword(String),
}

/// The servers, and the queues of lookups.
#[derive(Debug)]
pub(super) struct LdapSource {
    client: Arc<Client>,
    addresses: Batcher<Address>,
    logins: Batcher<LoginName>,
}

#[derive(Debug)]
struct Client {
    specs: Vec<ServerSpec>,
    access: Arc<ConnectionSettings>,
    attributes: Attributes,
    servers: Servers,
    watch: WatchMode,
    scan: Arc<Scan>,
}

impl LdapSource {
    /// Starts to connect; the tasks end when `stop` is cancelled. Reads certificates, which blocks.
    pub(super) fn open(
        settings: &LdapSettings,
        attributes: Attributes,
        presence: Arc<Presence>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<LdapSource, LdapError> {
        let urls = settings.urls.iter();
        let specs: Result<Vec<ServerSpec>, UrlError> = urls
            .map(|url| ServerSpec::parse(url, settings.starttls))
            .collect();
        let specs = specs?;
        if specs.is_empty() {
            return Err(LdapError::NoServers);
        }
        if let Some(bind) = &settings.bind
            && bind.password.reveal().is_empty()
        {
            return Err(LdapError::EmptyPassword(bind.dn.clone()));
        }
        let secured = specs.iter().any(|one| one.uses_tls(settings.starttls));
        let tls = match secured {
            true => Some(tls::client_config(settings.ca_file.as_deref())?),
            false => None,
        };
        let absent = Address::quoted("copyist-looks-for-an-index", "nobody.invalid");
        let absent: Vec<Address> = absent.into_iter().collect();
        let access = Arc::new(ConnectionSettings {
            tls,
            expiry: Arc::new(ExpiryMonitor::new("directory")),
            starttls: settings.starttls,
            bind: settings.bind.clone(),
            gssapi: settings.gssapi,
            base: settings.base.clone(),
            timeout: settings.timeout,
            canary: settings.canary.as_ref().map(|address| Canary {
                address: address.to_string(),
                filter: attributes.lookup_filter(std::slice::from_ref(address), &[]),
            }),
            absent_filter: attributes.lookup_filter(&absent, &[]),
            presence,
        });
        let servers = Servers::start(specs.clone(), Arc::clone(&access), tasks, stop.clone());
        let client = Arc::new(Client {
            specs,
            access,
            scan: Arc::new(Scan::new(attributes.clone())),
            attributes,
            servers,
            watch: settings.watch,
        });
        Ok(LdapSource {
            addresses: Batcher::start(Arc::clone(&client), ADDRESS_SEARCHES, tasks, stop.clone()),
            logins: Batcher::start(Arc::clone(&client), LOGIN_SEARCHES, tasks, stop.clone()),
            client,
        })
    }

    /// Returns the time limit for a lookup.
    pub(super) fn max_wait(&self) -> Duration {
        self.client.access.max_wait()
    }

    /// Returns the configured attributes.
    pub(super) fn attributes(&self) -> &Attributes {
        &self.client.attributes
    }

    /// Returns the change feed; `None` if changes are not followed.
    pub(super) fn feed(&self) -> Option<LdapChangeFeed> {
        (self.client.watch != WatchMode::Off).then(|| LdapChangeFeed(Arc::clone(&self.client)))
    }

    /// Scans the directory now and every `ttl`, for values in unusual forms and journal values,
    /// until the task is stopped.
    pub(super) fn scan(
        &self,
        changes: Arc<ChangeLog>,
        ttl: Duration,
    ) -> impl Future<Output = ()> + use<> {
        Arc::clone(&self.client).scan(changes, ttl)
    }

    /// Subscribes to the journal values; `None` until the first scan.
    pub(super) fn journal_values(&self) -> followed::Receiver<Option<Arc<JournalValues>>> {
        self.client.scan.journal_values()
    }

    /// Returns the outage, if no server can be used now.
    pub(super) fn outage(&self) -> Option<Outage> {
        self.client.servers.outage()
    }

    /// Sends every object with an address.
    pub(super) async fn send_all(
        &self,
        to: &mpsc::Sender<Result<Arc<Entry>, Outage>>,
    ) -> Result<(), Outage> {
        self.send_matching(self.client.attributes.all_people_filter(), to)
            .await
    }

    /// Sends every object that matches.
    async fn send_matching(
        &self,
        filter: String,
        to: &mpsc::Sender<Result<Arc<Entry>, Outage>>,
    ) -> Result<(), Outage> {
        let wanted = with_stamp_attributes(self.client.attributes.lookup_attributes());
        let mut listed = self.client.begin_list(filter, wanted).await?;
        while let Some(entry) = listed.recv().await {
            let entry = entry.map_err(list_outage)?;
            // A hidden value is logged; the list goes on.
            self.client.access.presence.journal_history().check(&entry);
            if to.send(Ok(Arc::new(entry))).await.is_err() {
                break;
            }
        }
        // The absence of journal addresses is believed only while others are visible.
        let deadline = self.client.access.deadline();
        let connection = self.client.servers.connection(deadline).await?;
        let proof = connection.verify(deadline).await;
        proof.map_err(|error| Outage::new(error.to_string()))
    }

    /// Returns the values of an attribute of some objects.
    pub(super) async fn values(&self, of: &AttributeQuery) -> Result<Vec<String>, Outage> {
        let search = SearchRequest {
            base: of.base.clone(),
            scope: Scope::Subtree,
            filter: of.filter.clone(),
            attributes: vec![of.attribute.clone()],
            limit: MAX_ENTRIES,
            allows_truncation: false,
            // The base is a setting of its own: an error with it is not the server's.
            allows_missing_base: true,
        };
        let deadline = Instant::now() + self.client.access.timeout;
        match self.client.search(search, deadline).await {
            Ok((entries, _)) => {
                let values = entries.iter().flat_map(|one| one.values(&of.attribute));
                Ok(values.map(str::to_owned).collect())
            }
            Err(error) => Err(Outage::new(format!("{of}: {error}"))),
        }
    }

    /// Probes every server with a new connection.
    pub(super) async fn probe(&self) -> Vec<ServerProbe> {
        let client = &self.client;
        let (urls, problems) = srv::resolve_servers(&client.specs, client.access.starttls).await;
        let mut probes = join_all(urls.iter().map(|url| client.probe(url))).await;
        if let Some(first) = probes.iter_mut().find(|probe| probe.outcome.is_ok()) {
            first.remarks.push(client.probe_scan().await);
        }
        probes.extend(problems.into_iter().map(|trouble| ServerProbe {
            url: "srv".to_owned(),
            outcome: Err(trouble),
            remarks: Vec::new(),
            empty_journal_attributes: Vec::new(),
            expires: None,
            unindexed: Vec::new(),
        }));
        probes
    }
}

impl Source for LdapSource {
    async fn find(&self, address: &Address) -> Result<Option<Objects>, Outage> {
        self.addresses.find(address.clone(), self.max_wait()).await
    }

    async fn is_named_in_journal(
        &self,
        address: &Address,
        owners: &[Arc<Entry>],
    ) -> Result<bool, Outage> {
        let client = &self.client;
        let keys = client.attributes.journal_keys(address, owners);
        loop {
            let is_final = !client.scan.is_pending();
            let unusual = client.scan.unusual_values(keys.iter().map(String::as_str));
            let Some(filter) = client.attributes.journal_filter(address, owners, &unusual) else {
                return Ok(false);
            };
            if client.exists(filter).await? {
                return Ok(true);
            }
            if is_final {
                return Ok(false);
            }
            client.end_of_first_scan(client.access.deadline()).await?;
        }
    }

    async fn find_login(&self, login: &str) -> Result<Option<Objects>, Outage> {
        let login = LoginName(login.to_owned());
        self.logins.find(login, self.max_wait()).await
    }

    async fn list_groups(&self) -> Result<Vec<String>, Outage> {
        let classes = resolve::GROUP_CLASSES.map(|class| format!("(objectClass={class})"));
        let filter = format!("(|{})", classes.concat());
        let all = self.client.list(filter, vec!["1.1".to_owned()]).await?;
        Ok(all.into_iter().map(|entry| entry.dn).collect())
    }

    async fn list_journaled(&self) -> Result<Vec<Arc<Entry>>, Outage> {
        let attributes = &self.client.attributes;
        let Some(filter) = attributes.journaled_filter() else {
            return Ok(Vec::new());
        };
        let all = self
            .client
            .list(filter, attributes.lookup_attributes())
            .await?;
        Ok(all.into_iter().map(Arc::new).collect())
    }

    async fn list_mail_relevant(
        &self,
        to: &mpsc::Sender<Result<Arc<Entry>, Outage>>,
    ) -> Result<(), Outage> {
        self.send_matching(self.client.attributes.mail_relevant_filter(), to)
            .await
    }

    async fn find_named(&self, name: &ObjectName) -> Result<Vec<Arc<Entry>>, Outage> {
        let entries = self.client.find_named(name).await;
        entries.map_err(|error| Outage::new(error.to_string()))
    }

    async fn groups_of(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        let groups = self.client.groups_of(object).await;
        groups.map_err(|error| Outage::new(error.to_string()))
    }

    async fn containers_of(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        let above = inheritance::containers_above(&object.dn, &self.client.access.base);
        let asked = above.iter().map(|dn| self.client.container(dn));
        let found = try_join_all(asked).await;
        let found = found.map_err(|error| Outage::new(error.to_string()))?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// The change feed of the servers.
#[derive(Debug)]
pub(super) struct LdapChangeFeed(Arc<Client>);

impl change_feed::ChangeFeed for LdapChangeFeed {
    async fn run(&self, from: Option<FeedCursor>, to: mpsc::Sender<Change>) -> FeedEnd {
        let client = &self.0;
        let deadline = Instant::now() + client.access.timeout;
        let connection = match client.servers.connection(deadline).await {
            Ok(connection) => connection,
            Err(outage) => {
                return FeedEnd {
                    reason: outage.reason.to_string(),
                    unsupported: false,
                    cursor_expired: false,
                };
            }
        };
        let feed = FeedSession {
            connection: &connection,
            base: &client.access.base,
            timeout: client.access.timeout,
            attributes: with_stamp_attributes(client.attributes.lookup_attributes()),
            scan: &client.scan,
            changes: &to,
        };
        let error = feed.run(client.watch, from).await;
        FeedEnd {
            reason: error.to_string(),
            unsupported: matches!(error, FeedError::Unsupported(_)),
            cursor_expired: matches!(error, FeedError::CursorExpired(_)),
        }
    }
}

impl BatchLookup<Address> for Client {
    async fn look_up(
        &self,
        asked: Vec<Address>,
        deadline: Instant,
    ) -> HashMap<Address, LookupResult> {
        let (together, alone): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(Attributes::can_share_search);
        let mut pending: Vec<Vec<Address>> = alone.into_iter().map(|one| vec![one]).collect();
        if !together.is_empty() {
            pending.push(together);
        }
        let mut answers = HashMap::new();
        while let Some(mut some) = pending.pop() {
            match self.owners(&some, deadline).await {
                Ok(Some(owners)) if some.iter().any(|one| self.is_uncertain(one, &owners)) => {
                    // The search began before the end of the first scan; unusual forms found by it
                    // are searched now.
                    let (absent, found): (Vec<_>, Vec<_>) =
                        some.into_iter().partition(|one| !owners.contains_key(one));
                    let found = found.into_iter().map(|one| {
                        let objects = owners.get(&one).cloned();
                        (one, Ok(objects))
                    });
                    answers.extend(found);
                    match self.end_of_first_scan(deadline).await {
                        Ok(()) => pending.push(absent),
                        Err(outage) => {
                            answers
                                .extend(absent.into_iter().map(|one| (one, Err(outage.clone()))));
                        }
                    }
                }
                Ok(Some(mut owners)) => {
                    let found = some.into_iter().map(|one| {
                        let objects = owners
                            .remove(&one)
                            .map(|objects| self.check_all_not_hidden(objects));
                        (one, objects.transpose())
                    });
                    answers.extend(found);
                }
                // One of the addresses causes the error: the others must not be affected.
                Ok(None) | Err(SearchError::QueryFailed(_))
                    if some.len() > 1 && Instant::now() < deadline =>
                {
                    pending.push(some.split_off(some.len() / 2));
                    pending.push(some);
                }
                Ok(None) => {
                    let why = "a combined lookup could not be separated in time";
                    answers.extend(some.into_iter().map(|one| (one, Err(Outage::new(why)))));
                }
                Err(error) => {
                    let outage = Outage::new(error.to_string());
                    answers.extend(some.into_iter().map(|one| (one, Err(outage.clone()))));
                }
            }
        }
        answers
    }
}

/// Returns the outage of an incomplete list.
fn list_outage(error: SearchError) -> Outage {
    let hint = match error {
        SearchError::QueryFailed(_) => {
            " (OpenLDAP: the account needs olcLimits with size.prtotal=unlimited)"
        }
        SearchError::ConnectionLost(_)
        | SearchError::ServerFailed(_)
        | SearchError::TimedOut(_) => "",
    };
    Outage::new(format!("{error}{hint}"))
}

impl Client {
    /// Begins a paged search on a connection of its own: the receiver may be slow, and look up
    /// addresses meanwhile.
    async fn begin_list(
        &self,
        filter: String,
        attributes: Vec<String>,
    ) -> Result<mpsc::Receiver<Result<Entry, SearchError>>, Outage> {
        let deadline = self.access.deadline();
        let used = self.servers.connection(deadline).await?;
        let url = ServerUrl::parse(used.url(), self.access.starttls);
        let url = url.map_err(|error| Outage::new(error.to_string()))?;
        let connection = Connection::connect(&url, &self.access, self.access.timeout).await;
        let connection = connection.map_err(|error| Outage::new(error.to_string()))?;
        Ok(connection.list_paged(SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter,
            attributes,
            limit: usize::MAX,
            allows_truncation: false,
            allows_missing_base: false,
        }))
    }

    /// Returns everything that matches, in any number.
    async fn list(&self, filter: String, attributes: Vec<String>) -> Result<Vec<Entry>, Outage> {
        let mut listed = self.begin_list(filter, attributes).await?;
        let mut all = Vec::new();
        while let Some(entry) = listed.recv().await {
            all.push(entry.map_err(list_outage)?);
        }
        Ok(all)
    }

    /// Whether an object may have this address in a form that only a scan finds.
    fn is_uncertain(&self, address: &Address, owners: &HashMap<Address, Objects>) -> bool {
        self.scan.is_pending() && !owners.contains_key(address)
    }

    /// Waits for the end of the first scan, successful or not.
    async fn end_of_first_scan(&self, deadline: Instant) -> Result<(), Outage> {
        match self.scan.wait_for_first(deadline).await {
            ScanStage::Pending => Err(Outage::new(
                "the first scan of the directory has not finished, and this address may exist in an unusual form",
            )),
            ScanStage::Done(_) | ScanStage::Failed(_) => Ok(()),
        }
    }

    /// Reports the result of the scan for values in unusual forms.
    async fn probe_scan(&self) -> Result<String, String> {
        match self
            .scan
            .wait_for_first(Instant::now() + self.access.timeout)
            .await
        {
            ScanStage::Done(None) => Ok(match self.scan.unusual_count() {
                0 => "all addresses are in usual forms".to_owned(),
                count => format!("{count} addresses and journal values are in unusual forms"),
            }),
            ScanStage::Done(Some(why)) | ScanStage::Failed(why) => Err(why),
            ScanStage::Pending => Ok(
                "the scan for addresses in unusual forms takes longer than directory.timeout"
                    .to_owned(),
            ),
        }
    }

    async fn probe(&self, url: &ServerUrl) -> ServerProbe {
        let access = &self.access;
        let begun = Instant::now();
        let connection = match Connection::connect(url, access, access.timeout).await {
            Ok(connection) => connection,
            Err(error) => {
                return ServerProbe {
                    url: url.to_string(),
                    outcome: Err(match access.bind.is_none() && !access.gssapi {
                        true => format!(
                            "{error}; directory.bind_dn is not set, so Copyist is anonymous here"
                        ),
                        false => error.to_string(),
                    }),
                    remarks: Vec::new(),
                    empty_journal_attributes: Vec::new(),
                    expires: None,
                    unindexed: Vec::new(),
                };
            }
        };
        let who = match &access.bind {
            Some(bind) => format!("bound as {:?}", bind.dn),
            None if access.gssapi => "bound by Kerberos".to_owned(),
            None => "bound anonymously".to_owned(),
        };
        let took = begun.elapsed().as_millis();
        let mut remarks = Vec::new();
        let mut used = Vec::new();
        let mut empty_journal_attributes = Vec::new();
        let mut stamped_object: Option<Entry> = None;
        for attribute in self.attributes.configured() {
            let holder = self.probe_attribute(&connection, &attribute).await;
            let is_journal = (self.attributes.journal().iter())
                .any(|name| name.eq_ignore_ascii_case(&attribute));
            remarks.push(match &holder {
                Ok(Some(_)) => Ok(format!("{attribute}: readable")),
                Ok(None) => {
                    let why = absence_hint(&connection, &attribute);
                    match is_journal {
                        true => Err(format!("no object has {attribute}: {why}")),
                        false => Ok(format!("{attribute}: no object has it; {why}")),
                    }
                }
                Err(error) => Err(format!("{attribute}: {error}")),
            });
            match holder {
                Ok(Some(entry)) => {
                    stamped_object = stamped_object.or(Some(entry));
                    if self.attributes.is_searched(&attribute) {
                        used.push(attribute);
                    }
                }
                Ok(None) if is_journal => empty_journal_attributes.push(attribute),
                Ok(None) | Err(_) => {}
            }
        }
        if let Some(entry) = stamped_object {
            remarks.push(Ok(match entry.stamp.is_known() {
                true => "change stamps: readable".to_owned(),
                false => "change stamps: not readable, so that a hidden value looks like a removed one (OpenLDAP: let the account read entryCSN and modifyTimestamp)".to_owned(),
            }));
        }
        let deadline = Instant::now() + access.timeout;
        let unindexed =
            indexes::unindexed_attributes(&connection, &access.base, &used, deadline).await;
        let expires = connection.certificate_expiry();
        remarks.push(self.probe_index(&connection).await);
        remarks.push(Ok(match (self.watch, connection.features()) {
            (WatchMode::Off, _) => "changes: not followed (directory.watch is off)".to_owned(),
            (_, features) if features.sync => "changes: content synchronization".to_owned(),
            (_, features) if features.notification => {
                "changes: notification and update sequence numbers".to_owned()
            }
            (_, features) if features.ranges => "changes: update sequence numbers".to_owned(),
            _ => {
                "changes: no feed available, they take effect after directory.cache.ttl".to_owned()
            }
        }));
        connection.close().await;
        ServerProbe {
            url: url.to_string(),
            outcome: Ok(format!("{who}, base {:?} readable, {took} ms", access.base)),
            remarks,
            empty_journal_attributes,
            expires,
            unindexed,
        }
    }

    /// Finds an object with this attribute that the account may read.
    async fn probe_attribute(
        &self,
        connection: &Arc<Connection>,
        attribute: &str,
    ) -> Result<Option<Entry>, SearchError> {
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: format!("({attribute}=*)"),
            attributes: with_stamp_attributes(vec![attribute.to_owned()]),
            limit: PROBE_SIZE,
            allows_truncation: true,
            allows_missing_base: false,
        };
        let deadline = self.access.deadline();
        let found = connection.search(search, deadline).await?;
        Ok(found.into_iter().find(|entry| has_value(entry, attribute)))
    }

    /// Measures a lookup without a result, which is quick with an index.
    async fn probe_index(&self, connection: &Arc<Connection>) -> Result<String, String> {
        match connection.measure_lookup().await {
            Ok(took) if took < SLOW_LOOKUP => Ok(format!("a lookup takes {} ms", took.as_millis())),
            Ok(took) => Err(format!(
                "a lookup takes {} ms: index the address attributes for equality",
                took.as_millis()
            )),
            Err(error) => Err(format!("a lookup fails: {error}")),
        }
    }

    /// Whether anything matches.
    async fn exists(&self, filter: String) -> Result<bool, Outage> {
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter,
            attributes: vec!["1.1".into()],
            limit: 1,
            allows_truncation: true,
            allows_missing_base: false,
        };
        let deadline = self.access.deadline();
        let found = async {
            let (entries, connection) = self.search(search, deadline).await?;
            if entries.is_empty() {
                // The owner of the address was looked up just before.
                let lately = Instant::now().checked_sub(RECENT_VERIFICATION);
                let lately = lately.unwrap_or_else(Instant::now);
                connection.verify_since(lately, deadline).await?;
            }
            Ok(!entries.is_empty())
        };
        found
            .await
            .map_err(|error: SearchError| Outage::new(error.to_string()))
    }

    /// Returns the objects with this name, with all their members.
    async fn find_named(&self, name: &ObjectName) -> Result<Vec<Arc<Entry>>, SearchError> {
        let below_base = || (self.access.base.clone(), Scope::Subtree);
        let ((base, scope), filter) = match name {
            ObjectName::Dn(dn) => (
                (dn::to_portable(dn), Scope::Base),
                "(objectClass=*)".to_owned(),
            ),
            ObjectName::X500(text) => {
                let unusual = self.scan.unusual_values([name.key().as_str()]);
                (below_base(), Attributes::x500_filter(text, &unusual))
            }
            ObjectName::Uid(uid) => (below_base(), format!("(uid={})", ldap_escape(uid))),
            ObjectName::PrimaryGroup(token) => {
                let filter = format!("(primaryGroupID={})", ldap_escape(token));
                (below_base(), filter)
            }
            ObjectName::Url(url) => {
                let (base, scope, filter) = url::parse_search_url(url).ok_or_else(|| {
                    SearchError::QueryFailed(format!(
                        "invalid search URL {url:?}; use one like ldap:///ou=people,dc=example,dc=com??sub?(title=manager)"
                    ))
                })?;
                ((base, scope), filter)
            }
        };
        let mut attributes = self.attributes.named_object_attributes();
        if let ObjectName::Url(_) | ObjectName::PrimaryGroup(_) = name {
            // The matches of a dynamic group are its members; their own members do not matter.
            attributes.retain(|name| !name.starts_with("member"));
        }
        let search = SearchRequest {
            base,
            scope,
            filter,
            attributes,
            limit: MAX_MEMBERS,
            allows_truncation: false,
            allows_missing_base: true,
        };
        let deadline = self.access.deadline();
        let mut whole = Vec::new();
        for entry in self.search(search, deadline).await?.0 {
            whole.push(Arc::new(self.complete_ranges(entry).await?));
        }
        Ok(whole)
    }

    /// Returns the groups with a journal attribute that an object is a direct or indirect member
    /// of.
    async fn groups_of(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, SearchError> {
        let Some(journaled) = self.attributes.journaled_filter() else {
            return Ok(Vec::new());
        };
        let deadline = self.access.deadline();
        let features = match self.servers.connection(deadline).await {
            Ok(connection) => connection.features(),
            Err(outage) => return Err(SearchError::ServerFailed(outage.reason.to_string())),
        };
        let search = |filter: String| SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter,
            attributes: with_stamp_attributes(self.attributes.journal().to_vec()),
            limit: MAX_GROUPS,
            allows_truncation: false,
            allows_missing_base: false,
        };
        if features.ranges {
            // LDAP_MATCHING_RULE_IN_CHAIN ([MS-ADTS] section 3.1.1.3.4.4.3): the server follows
            // groups of groups.
            let dn = ldap_escape(object.dn.as_str());
            let filter = format!("(&{journaled}(member:1.2.840.113556.1.4.1941:={dn}))");
            let (found, _) = self.search(search(filter), deadline).await?;
            found
                .iter()
                .try_for_each(|group| self.check_not_hidden(group))?;
            return Ok(found.into_iter().map(Arc::new).collect());
        }
        let mut seen: HashSet<String> = HashSet::new();
        let mut groups = Vec::new();
        let uids = object.values("uid");
        let mut terms: Vec<String> = uids
            .map(|uid| format!("(memberUid={})", ldap_escape(uid)))
            .chain(member_terms(&object.dn))
            .collect();
        while !terms.is_empty() {
            let filter = format!("(|{})", terms.concat());
            let (found, _) = self.search(search(filter), deadline).await?;
            terms.clear();
            for group in found {
                self.check_not_hidden(&group)?;
                if seen.insert(group.dn.to_lowercase()) {
                    terms.extend(member_terms(&group.dn));
                    groups.push(Arc::new(group));
                }
            }
            if groups.len() > MAX_GROUPS {
                let dn = &object.dn;
                return Err(SearchError::QueryFailed(format!(
                    "{dn:?} is a member of more than {MAX_GROUPS} groups"
                )));
            }
        }
        groups.retain(|group| self.attributes.is_journaled(group));
        Ok(groups)
    }

    /// Returns the object with this DN, if it has a journal attribute.
    async fn container(&self, dn: &str) -> Result<Option<Arc<Entry>>, SearchError> {
        let search = SearchRequest {
            base: dn.to_owned(),
            scope: Scope::Base,
            filter: "(objectClass=*)".to_owned(),
            attributes: with_stamp_attributes(self.attributes.journal().to_vec()),
            limit: 1,
            allows_truncation: false,
            allows_missing_base: true,
        };
        let deadline = self.access.deadline();
        let (found, _) = self.search(search, deadline).await?;
        found
            .iter()
            .try_for_each(|container| self.check_not_hidden(container))?;
        let journaled = |entry: &Entry| self.attributes.is_journaled(entry);
        Ok(found.into_iter().find(journaled).map(Arc::new))
    }

    /// Checks that no journal attribute of a group or container is hidden.
    fn check_not_hidden(&self, entry: &Entry) -> Result<(), SearchError> {
        match self.access.presence.journal_history().check(entry) {
            Some(outage) => Err(SearchError::QueryFailed(outage.reason.to_string())),
            None => Ok(()),
        }
    }

    /// Completes attributes of which the server sent only the first values (`member;range=0-1499`,
    /// [MS-ADTS] section 3.1.1.3.1.3.3).
    async fn complete_ranges(&self, entry: Entry) -> Result<Entry, SearchError> {
        if !entry
            .attributes()
            .any(|(name, _)| parse_range(name).is_some())
        {
            return Ok(entry);
        }
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for (name, values) in entry.attributes() {
            let Some((base, mut last)) = parse_range(name) else {
                all.push((name.to_owned(), values.to_vec()));
                continue;
            };
            all.push((base.to_owned(), values.to_vec()));
            while let Some(end) = last {
                let search = SearchRequest {
                    base: entry.dn.clone(),
                    scope: Scope::Base,
                    filter: "(objectClass=*)".to_owned(),
                    attributes: vec![format!("{base};range={}-*", end + 1)],
                    limit: 1,
                    allows_truncation: false,
                    allows_missing_base: false,
                };
                let deadline = self.access.deadline();
                let (rest, _) = self.search(search, deadline).await?;
                let part = rest
                    .iter()
                    .flat_map(Entry::attributes)
                    .find_map(|(name, values)| {
                        let (_, next) = parse_range(name)
                            .filter(|(named, _)| named.eq_ignore_ascii_case(base))?;
                        Some((next, values.to_vec()))
                    });
                match part {
                    Some((next, values)) if next.is_none_or(|next| next > end) => {
                        last = next;
                        all.push((base.to_owned(), values));
                    }
                    _ => {
                        return Err(SearchError::QueryFailed(format!(
                            "the server returned the values of {base} of {:?} only up to number {end}",
                            entry.dn
                        )));
                    }
                }
            }
        }
        Ok(Entry::new(entry.dn.clone(), all))
    }

    /// Returns the objects, unless a journal attribute of one is hidden.
    fn check_all_not_hidden(&self, objects: Objects) -> Result<Objects, Outage> {
        let history = self.access.presence.journal_history();
        // All of them are compared, also after a first outage.
        let outages: Vec<Outage> = objects
            .iter()
            .filter_map(|one| history.check(one))
            .collect();
        match outages.into_iter().next() {
            Some(outage) => Err(outage),
            None => Ok(objects),
        }
    }

    /// Returns the owners of these addresses; `None` if they must be looked up one by one.
    async fn owners(
        &self,
        asked: &[Address],
        deadline: Instant,
    ) -> Result<Option<HashMap<Address, Objects>>, SearchError> {
        let unusual = self.scan.unusual_values(asked.iter().map(Address::key));
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: self.attributes.lookup_filter(asked, &unusual),
            attributes: with_stamp_attributes(self.attributes.lookup_attributes()),
            limit: MAX_ENTRIES,
            allows_truncation: false,
            allows_missing_base: false,
        };
        let mut is_first = true;
        loop {
            let (entries, connection) = self.search(search.clone(), deadline).await?;
            for entry in &entries {
                if let Some(name) = self.attributes.truncated_attribute(entry) {
                    return Err(SearchError::QueryFailed(format!(
                        "{:?} has more values of {name} than the server returns at once",
                        entry.dn
                    )));
                }
                self.access.presence.record_entry(connection.url(), entry);
            }
            let is_lacking = entries
                .iter()
                .any(|entry| self.access.presence.lacks_journal_attribute(entry));
            let owners = self.attributes.assign(asked, entries);
            let absent = |owners: &HashMap<_, _>| asked.iter().any(|one| !owners.contains_key(one));
            if !is_lacking && !owners.as_ref().is_some_and(absent) {
                return Ok(owners);
            }
            // A negative answer is believed only while all attributes are visible.
            match connection.verify(deadline).await {
                Ok(()) => return Ok(owners),
                Err(SearchError::ConnectionLost(_) | SearchError::ServerFailed(_)) if is_first => {
                    is_first = false
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs a search, and once more if the connection was lost or the server failed. A server that
    /// is silent for the time of an answer leaves no time for another.
    async fn search(
        &self,
        search: SearchRequest,
        deadline: Instant,
    ) -> Result<(Vec<Entry>, Arc<Connection>), SearchError> {
        let begun = Instant::now();
        let (mut before, mut reached_by) = (None, deadline);
        let found = loop {
            let connection = match self.servers.connection(reached_by).await {
                Ok(connection) => connection,
                Err(outage) => {
                    break Err(before
                        .unwrap_or_else(|| SearchError::ServerFailed(outage.reason.to_string())));
                }
            };
            let step = Instant::now() + self.access.timeout;
            match connection.search(search.clone(), deadline).await {
                Err(error @ (SearchError::ConnectionLost(_) | SearchError::ServerFailed(_)))
                    if before.is_none() =>
                {
                    (before, reached_by) = (Some(error), step.min(deadline));
                }
                outcome => {
                    if outcome.is_ok() {
                        connection.mark_answered();
                    }
                    break outcome.map(|entries| (entries, connection));
                }
            }
        };
        histogram!("copyist_directory_search_seconds").record(begun.elapsed());
        found
    }
}

/// Returns a hint why no object has an attribute.
fn absence_hint(connection: &Connection, attribute: &str) -> &'static str {
    match connection.has_attribute_type(attribute) {
        Some(false) => "the server's schema has no such attribute; check its name",
        _ => "check its name and the rights of the account",
    }
}

/// Returns the filter terms by which a group may name a member.
fn member_terms(dn: &str) -> [String; 2] {
    let dn = ldap_escape(dn);
    [format!("(member={dn})"), format!("(uniqueMember={dn})")]
}

/// Extra time for a caller beyond the time limit of the servers.
pub(super) const DEADLINE_SLACK: Duration = Duration::from_millis(250);
