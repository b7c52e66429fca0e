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
mod groups;
mod indexes;
mod latency;
mod lookup;
mod probe;
mod scanner;
mod servers;
mod srv;
mod url;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use ldap3::Scope;
use metrics::histogram;
use tokio::sync::{mpsc, watch as followed};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::url::UrlError;

use self::batch::{Batcher, LoginName};
use self::connection::{Canary, Connection, ConnectionSettings, SearchRequest};
use self::error::SearchError;
use self::feed::{FeedError, FeedSession};
use self::servers::Servers;
use self::srv::ServerSpec;
use self::url::ServerUrl;
use super::attributes::Attributes;
use super::change_feed::{self, FeedEnd};
use super::change_log::ChangeLog;
use super::entry::{Entry, Outage};
use super::inheritance;
use super::presence::Presence;
use super::resolve;
use super::scan::{JournalValues, Scan, ScanStage};
use super::settings::{AttributeQuery, LdapSettings, WatchMode};
use super::source::{Change, FeedCursor, ObjectName, Objects, ServerProbe, Source};
use super::stamp::with_stamp_attributes;
use crate::mail::Address;
use crate::tls::{self, ExpiryMonitor, TlsError};

/// Maximum number of entries of one search, the same as Active Directory's.
const MAX_ENTRIES: usize = 1000;

/// Maximum number of concurrent searches for addresses.
const ADDRESS_SEARCHES: usize = 64;
/// Maximum number of concurrent searches for login names: few, since they come last and often have
/// no index.
const LOGIN_SEARCHES: usize = 8;

/// Maximum age of a verification for the journal guard.
const RECENT_VERIFICATION: Duration = Duration::from_secs(1);

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

    /// Waits for the end of the first scan, successful or not.
    async fn end_of_first_scan(&self, deadline: Instant) -> Result<(), Outage> {
        match self.scan.wait_for_first(deadline).await {
            ScanStage::Pending => Err(Outage::new(
                "the first scan of the directory has not finished, and this address may exist in an unusual form",
            )),
            ScanStage::Done(_) | ScanStage::Failed(_) => Ok(()),
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

/// Extra time for a caller beyond the time limit of the servers.
pub(super) const DEADLINE_SLACK: Duration = Duration::from_millis(250);
