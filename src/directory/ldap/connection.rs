//! A connection to an LDAP server.
//!
//! Promises: every step has a deadline; an invalid answer closes this connection and affects
//! nothing else. Never reconnects; see [`super::servers`].

mod entry_reader;
mod long_searches;
mod verification;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime};

use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions,
    SearchStream, StdStream,
};
use metrics::counter;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::entry_reader::EntryReader;
pub(super) use self::long_searches::FeedItem;
use super::MAX_ENTRIES;
use super::error::{SearchError, check_search_result, describe_bind_error};
use super::latency::{Latency, SLOW};
use super::url::ServerUrl;
use crate::directory::entry::Entry;
use crate::directory::presence::Presence;
use crate::directory::schema::Schema;
use crate::directory::settings::{ANSWERS_PER_LOOKUP, Bind};
use crate::net::{self, Server};
use crate::tls::{ExpiryMonitor, explain_certificate_error, not_after};

/// Maximum number of concurrent operations. OpenLDAP closes a connection with 1,000 pending (100 if
/// anonymous).
const IN_FLIGHT: usize = 64;
/// Maximum number of concurrent verifications: one at a time, a slow server would delay callers
/// that came just after one began.
const MAX_VERIFICATIONS: usize = 4;
/// Time limit for closing the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Connection settings, the same for all servers.
#[derive(Debug, Clone)]
pub(super) struct ConnectionSettings {
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The expiry of the servers' certificates.
    pub(super) expiry: Arc<ExpiryMonitor>,
    pub(super) starttls: bool,
    pub(super) bind: Option<Bind>,
    pub(super) gssapi: bool,
    pub(super) base: String,
    /// Time limit for one answer of the server.
    pub(super) timeout: Duration,
    /// An object that always exists.
    pub(super) canary: Option<Canary>,
    /// A filter that matches no object, to measure lookups.
    pub(super) absent_filter: String,
    /// The attributes that the servers have shown.
    pub(super) presence: Arc<Presence>,
}

impl ConnectionSettings {
    /// Returns the time limit for a lookup, which may need several answers in sequence.
    pub(super) fn max_wait(&self) -> Duration {
        self.timeout * ANSWERS_PER_LOOKUP
    }

    /// Returns the deadline of a lookup that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.max_wait()
    }
}

/// An object that always exists. If it is not found, no negative answer is believed: an account
/// whose rights were revoked gets no error, it finds nothing.
#[derive(Debug, Clone)]
pub(super) struct Canary {
    /// Its address.
    pub(super) address: String,
    /// The filter that finds it.
    pub(super) filter: String,
}

/// Features of a server beyond RFC 4511, from its root DSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ServerFeatures {
    /// Whether it is Active Directory, which returns long lists in ranges.
    pub(super) ranges: bool,
    /// Content synchronization (RFC 4533).
    pub(super) sync: bool,
    /// Change notification ([MS-ADTS] section 3.1.1.3.4.1.9).
    pub(super) notification: bool,
}

impl ServerFeatures {
    const ACTIVE_DIRECTORY: &str = "1.2.840.113556.1.4.800";
    const SYNC: &str = "1.3.6.1.4.1.4203.1.9.1.1";
    pub(super) const NOTIFICATION: &str = "1.2.840.113556.1.4.528";

    fn of(root: &Entry) -> ServerFeatures {
        let has = |name: &str, oid: &str| root.values(name).any(|value| value == oid);
        ServerFeatures {
            ranges: has("supportedCapabilities", ServerFeatures::ACTIVE_DIRECTORY),
            sync: has("supportedControl", ServerFeatures::SYNC),
            notification: has("supportedControl", ServerFeatures::NOTIFICATION),
        }
    }
}

/// Members of a group in one answer, if the server supports ranges: the maximum of Active
/// Directory. The LDAP library does not limit the size of an answer.
const RANGE_SIZE: usize = 1500;

/// The attribute with the DN of the schema.
const SUBSCHEMA: &str = "subschemaSubentry";

/// A search request.
#[derive(Debug, Clone)]
pub(super) struct SearchRequest {
    pub(super) base: String,
    pub(super) scope: Scope,
    pub(super) filter: String,
    pub(super) attributes: Vec<String>,
    /// Maximum number of entries.
    pub(super) limit: usize,
    /// Whether a truncated result is an answer, as when only existence matters.
    pub(super) allows_truncation: bool,
    /// Whether a missing base is an answer, as for a base from a directory value.
    pub(super) allows_missing_base: bool,
}

/// Error of connecting to a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConnectError {
    /// Invalid credentials (LDAP result 49): an early retry could lock the account.
    #[error("{0}")]
    Credentials(String),
    /// The server shows no value of an attribute that had some; checking that is expensive.
    #[error("{0}")]
    AttributeMissing(String),
    /// Any other error.
    #[error("{0}")]
    Other(String),
}

/// The end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// Closed by the server, as with idle connections.
    Closed,
    /// The server misbehaved, and should be avoided for a while.
    Failed(String),
    /// The server shows no value of an attribute that had some.
    AttributeMissing(String),
}

/// An open and bound connection.
#[derive(Debug)]
pub(super) struct Connection {
    url: String,
    ldap: Ldap,
    access: Arc<ConnectionSettings>,
    /// Expiry of the server's certificate.
    certificate_expiry: Option<SystemTime>,
    in_flight: Arc<Semaphore>,
    /// OpenLDAP supports one paged search at a time on a connection.
    list_lock: Mutex<()>,
    closed: CancellationToken,
    failure: OnceLock<String>,
    /// Whether the connection failed because an attribute is missing.
    is_attribute_missing: AtomicBool,
    features: OnceLock<ServerFeatures>,
    /// The server's schema; unset if it is hidden.
    schema: OnceLock<Schema>,
    /// Tracked attributes that the settings name by OID, and the server's names for them: Samba
    /// finds nothing by OID.
    names_by_oid: OnceLock<Vec<(String, String)>>,
    /// The server's own name; by default its URL.
    server: OnceLock<String>,
    /// Start of the last successful verification.
    verified_at: std::sync::Mutex<Option<Instant>>,
    verification_slots: Semaphore,
    /// Time of the last search for attributes without values.
    unseen_checked: std::sync::Mutex<Option<Instant>>,
    driver: AbortOnDropHandle<()>,
    opened: Instant,
    /// Time of the server's last message, in milliseconds since `opened`.
    last_heard: AtomicU64,
    latency: Latency,
    /// Whether a lookup was answered; an open connection alone proves little.
    answered: AtomicBool,
}

impl Connection {
    /// Connects, switches to TLS, binds, and checks that the base can be searched. `max_wait`
    /// applies to each step, so that a slow server is usable.
    pub(super) async fn connect(
        url: &ServerUrl,
        access: &Arc<ConnectionSettings>,
        max_wait: Duration,
    ) -> Result<Arc<Connection>, ConnectError> {
        // A task of its own, since the library panics on invalid answers.
        let begin = |tcp| async move {
            let opening = Connection::open(url.clone(), Arc::clone(access), tcp, max_wait);
            let opening = AbortOnDropHandle::new(tokio::spawn(opening));
            opening.await.unwrap_or_else(|_| {
                Err(ConnectError::Other(format!(
                    "{url} sent an invalid LDAP answer"
                )))
            })
        };
        let opened = match Server::from_ldap_url(url.as_str()) {
            // Each failed bind counts towards locking the account.
            Some(server) => {
                let is_final = |error: &ConnectError| matches!(error, ConnectError::Credentials(_));
                let reached = server.open_session(max_wait, is_final, |tcp| begin(Some(tcp)));
                reached.await.map_err(|error| match error {
                    net::ConnectError::Session(error) => error,
                    error => ConnectError::Other(format!("{url}: {error}")),
                })
            }
            None => begin(None).await,
        };
        let connection = Arc::new(opened?);
        let soon = || Instant::now() + max_wait;
        let base = connection.access.base.as_str();
        let entered = async {
            // Independent queries run concurrently.
            let ((), of_root, of_base) = tokio::try_join!(
                connection.check_base(soon()),
                connection.read_features(soon()),
                connection.read_entry(base, &[SUBSCHEMA], soon()),
            )?;
            let of_base =
                of_base.and_then(|base| base.values(SUBSCHEMA).first().map(str::to_owned));
            if let Some(subschema) = of_base.or(of_root) {
                connection.read_schema(&subschema, soon()).await?;
            }
            connection.verify(soon() + max_wait).await
        };
        match entered.await {
            Ok(()) => Ok(connection),
            Err(error) if connection.is_attribute_missing.load(Ordering::Relaxed) => {
                Err(ConnectError::AttributeMissing(error.to_string()))
            }
            Err(error) => Err(ConnectError::Other(error.to_string())),
        }
    }

    /// Reads the root DSE, and returns the DN of the schema. A server that hides the root DSE is
    /// assumed to have no further features.
    async fn read_features(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<Option<String>, SearchError> {
        let wanted = [
            "supportedControl",
            "supportedCapabilities",
            "dsServiceName",
            SUBSCHEMA,
        ];
        let Some(root) = self.read_entry("", &wanted, deadline).await? else {
            return Ok(None);
        };
        let _ = self.features.set(ServerFeatures::of(&root));
        if let Some(name) = root.values("dsServiceName").first() {
            let _ = self.server.set(name.to_owned());
        }
        Ok(root.values(SUBSCHEMA).first().map(str::to_owned))
    }

    /// Reads the schema (RFC 4512 section 4.2). The standard names are used if it is hidden or
    /// takes too long.
    async fn read_schema(
        self: &Arc<Self>,
        subschema: &str,
        deadline: Instant,
    ) -> Result<(), SearchError> {
        // The schema is long.
        let soon = deadline.min(Instant::now() + self.long_answer_timeout());
        let found = match self.read_entry(subschema, &["attributeTypes"], soon).await {
            Err(SearchError::TimedOut(_)) => None,
            found => found?,
        };
        if let Some(found) = found {
            let schema = Schema::of(found.values("attributeTypes"));
            if !schema.is_empty() {
                let watched = self.access.presence.attributes().iter();
                let identified =
                    watched.filter(|one| one.name.starts_with(|c: char| c.is_ascii_digit()));
                let named = identified.filter_map(|one| {
                    let known = schema.name_of(&one.name)?;
                    Some((one.name.clone(), known.to_owned()))
                });
                let _ = self.names_by_oid.set(named.collect());
                let _ = self.schema.set(schema);
            }
        }
        Ok(())
    }

    /// Returns the time limit for an answer that may be long, below
    /// [`ConnectionSettings::timeout`], after which a silent server fails.
    fn long_answer_timeout(&self) -> Duration {
        self.access.timeout * 9 / 10
    }

    /// Reads an entry; `None` if it is missing or hidden.
    async fn read_entry(
        self: &Arc<Self>,
        dn: &str,
        attributes: &[&str],
        deadline: Instant,
    ) -> Result<Option<Entry>, SearchError> {
        let search = SearchRequest {
            base: dn.to_owned(),
            scope: Scope::Base,
            filter: "(objectClass=*)".into(),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            limit: 1,
            allows_truncation: true,
            allows_missing_base: true,
        };
        match self.search(search, deadline).await {
            Ok(entries) => Ok(entries.into_iter().next()),
            Err(SearchError::QueryFailed(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the server's schema has an attribute; `None` if the schema is hidden.
    pub(super) fn has_attribute_type(&self, attribute: &str) -> Option<bool> {
        Some(self.schema.get()?.knows(attribute))
    }

    fn schema(&self) -> &Schema {
        static STANDARD: LazyLock<Schema> = LazyLock::new(Schema::standard);
        self.schema.get().unwrap_or(&STANDARD)
    }

    /// Returns the server's own name.
    fn server_name(&self) -> &str {
        self.server.get().unwrap_or(&self.url)
    }

    /// Returns the expiry of the server's certificate.
    pub(super) fn certificate_expiry(&self) -> Option<SystemTime> {
        self.certificate_expiry
    }

    /// Returns the server's features beyond RFC 4511.
    pub(super) fn features(&self) -> ServerFeatures {
        self.features.get().copied().unwrap_or_default()
    }

    /// Checks that the base can be searched. A missing or hidden base would look like an empty
    /// directory.
    async fn check_base(self: &Arc<Self>, deadline: Instant) -> Result<(), SearchError> {
        let base = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Base,
            filter: "(objectClass=*)".into(),
            attributes: vec!["1.1".into()],
            limit: 1,
            allows_truncation: true,
            allows_missing_base: false,
        };
        self.search(base, deadline).await?;
        if let Some(certificate_expiry) = self.certificate_expiry {
            self.access.expiry.record(&self.url, certificate_expiry);
        }
        Ok(())
    }

    async fn open(
        url: ServerUrl,
        access: Arc<ConnectionSettings>,
        tcp: Option<TcpStream>,
        max_wait: Duration,
    ) -> Result<Connection, ConnectError> {
        let late = |_| {
            ConnectError::Other(format!(
                "{url} did not complete a step of connecting within {max_wait:?}"
            ))
        };
        let failed =
            |reason: String| ConnectError::Other(format!("cannot connect to {url}: {reason}"));
        let mut settings = LdapConnSettings::new().set_starttls(access.starttls);
        if let Some(tcp) = tcp {
            let tcp = tcp.into_std().map_err(|error| failed(error.to_string()))?;
            settings = settings.set_std_stream(StdStream::Tcp(tcp));
        }
        if let Some(tls) = &access.tls {
            settings = settings.set_config(Arc::clone(tls));
        }
        let connecting = LdapConnAsync::with_settings(settings, url.as_str());
        let connected = timeout(max_wait, connecting).await.map_err(late)?;
        let (connection, mut ldap) =
            connected.map_err(|error| failed(explain_certificate_error(&error.to_string())))?;
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        // Ends with the connection, at the latest when its handle is dropped; the guard reports
        // that in every case, including a panic.
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            let _guard = guard;
            let _ = connection.drive().await;
        }));
        if let Some(bind) = &access.bind {
            let binding = ldap.simple_bind(&bind.dn, bind.password.reveal());
            let bound = timeout(max_wait, binding).await.map_err(late)?;
            let result = bound.map_err(|error| {
                ConnectError::Other(format!("the bind to {url} was interrupted: {error}"))
            })?;
            let refusal = || describe_bind_error(url.as_str(), &bind.dn, &result);
            match result.rc {
                0 => {}
                49 => return Err(ConnectError::Credentials(refusal())),
                _ => return Err(ConnectError::Other(refusal())),
            }
        }
        if access.gssapi {
            let binding = gssapi_bind(&url, ldap);
            ldap = timeout(max_wait, binding).await.map_err(late)??;
        }
        // A certificate that cannot be read is ignored here: TLS has checked it already.
        let certificate = match access.tls {
            Some(_) => ldap.get_peer_certificate().await.ok().flatten(),
            None => None,
        };
        Ok(Connection {
            url: url.as_str().to_owned(),
            ldap,
            access,
            certificate_expiry: certificate.and_then(|der| not_after(&der)),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            list_lock: Mutex::new(()),
            closed,
            failure: OnceLock::new(),
            is_attribute_missing: AtomicBool::new(false),
            features: OnceLock::new(),
            schema: OnceLock::new(),
            names_by_oid: OnceLock::new(),
            server: OnceLock::new(),
            verified_at: std::sync::Mutex::default(),
            verification_slots: Semaphore::new(MAX_VERIFICATIONS),
            unseen_checked: std::sync::Mutex::default(),
            driver,
            opened: Instant::now(),
            last_heard: AtomicU64::new(0),
            latency: Latency::default(),
            answered: AtomicBool::new(false),
        })
    }

    /// Returns the server's URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether the connection is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Returns the latency of answers.
    pub(super) fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Measures a lookup without a result, which is quick with an index.
    pub(super) async fn measure_lookup(self: &Arc<Self>) -> Result<Duration, SearchError> {
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: self.access.absent_filter.clone(),
            attributes: vec!["1.1".into()],
            limit: 1,
            allows_truncation: true,
            allows_missing_base: false,
        };
        let begun = Instant::now();
        self.search(search, self.access.deadline()).await?;
        Ok(begun.elapsed())
    }

    /// Waits for the end of the connection.
    pub(super) async fn wait_for_end(&self) -> ConnectionEnd {
        self.closed.cancelled().await;
        match self.failure.get() {
            Some(reason) if self.is_attribute_missing.load(Ordering::Relaxed) => {
                ConnectionEnd::AttributeMissing(reason.clone())
            }
            Some(reason) => ConnectionEnd::Failed(reason.clone()),
            None => ConnectionEnd::Closed,
        }
    }

    /// Whether a lookup was answered.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Records that a lookup was answered.
    pub(super) fn mark_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Closes the connection because the server misbehaves.
    pub(super) fn fail(&self, reason: &str) {
        let _ = self.failure.set(reason.to_owned());
        self.closed.cancel();
        self.driver.abort();
    }

    /// Closes the connection after all operations in flight.
    pub(super) async fn drain_and_close(&self) {
        let all = u32::try_from(IN_FLIGHT).unwrap_or(u32::MAX);
        let _ = timeout(self.access.timeout, self.in_flight.acquire_many(all)).await;
        self.close().await;
    }

    /// Closes the connection.
    pub(super) async fn close(&self) {
        let _ = timeout(CLOSE_TIMEOUT, self.ldap.clone().unbind()).await;
        self.closed.cancel();
        self.driver.abort();
    }

    /// Runs a search, and returns all entries. The time limit is [`ConnectionSettings::timeout`],
    /// and never later than `deadline`.
    pub(super) async fn search(
        self: &Arc<Self>,
        search: SearchRequest,
        deadline: Instant,
    ) -> Result<Vec<Entry>, SearchError> {
        let permit = Arc::clone(&self.in_flight).acquire_owned();
        let Ok(Ok(permit)) = timeout_at(deadline, permit).await else {
            return Err(SearchError::TimedOut(format!(
                "{} is too busy: {IN_FLIGHT} searches were still in flight at the deadline",
                self.url
            )));
        };
        let connection = Arc::clone(self);
        let begun = Instant::now();
        let deadline = deadline.min(begun + self.access.timeout);
        // Many entries take long on any server.
        let is_long = search.limit > MAX_ENTRIES;
        // A task of its own, since the library panics on invalid entries. It ends by the deadline,
        // whether or not a caller still waits.
        let task = tokio::spawn(async move {
            let _permit = permit;
            connection.run_search(search, deadline).await
        });
        let found = task.await;
        let took = begun.elapsed();
        // A search with little time left says little about the server.
        let is_slow = matches!(found, Ok(Err(SearchError::TimedOut(_)))) && took >= SLOW;
        if !is_long && (is_slow || matches!(found, Ok(Ok(_)))) {
            self.latency.record(took);
        }
        match found {
            Ok(Err(error)) => {
                if let SearchError::ServerFailed(reason) = &error {
                    self.fail(reason);
                }
                Err(error)
            }
            Ok(found) => found,
            Err(_) => {
                let reason = format!("{} sent an invalid answer", self.url);
                self.fail(&reason);
                Err(SearchError::ConnectionLost(reason))
            }
        }
    }

    async fn run_search(
        &self,
        search: SearchRequest,
        deadline: Instant,
    ) -> Result<Vec<Entry>, SearchError> {
        let begun = Instant::now();
        let seconds = deadline.saturating_duration_since(begun).as_secs() + 1;
        let options = SearchOptions::new()
            .sizelimit(i32::try_from(search.limit).unwrap_or(i32::MAX))
            .timelimit(i32::try_from(seconds).unwrap_or(i32::MAX));
        let mut ldap = self.ldap.clone();
        ldap.with_search_options(options);
        let asked = search.attributes.clone();
        let reading = EntryReader::of(self, &asked);
        let filter = self.with_server_names(&search.filter);
        let starting = ldap.streaming_search(
            &search.base,
            search.scope,
            &filter,
            self.with_ranges(search.attributes),
        );
        let mut stream = match timeout_at(deadline, starting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.search_failed(&error)),
            Err(_) => return Err(self.search_timed_out(begun)),
        };
        let read = timeout_at(
            deadline,
            self.read_entries(&mut stream, search.limit, &reading),
        )
        .await;
        let message = stream.ldap_handle().last_id();
        // Frees the message ID, which would otherwise stay in use for the life of the connection.
        let result = stream.finish().await;
        match read {
            Ok(Ok(ReadEntries::Complete(entries))) => {
                let enough = search.allows_truncation && result.rc == 4 && !entries.is_empty();
                // noSuchObject, invalidDNSyntax, or a referral to a domain that is not ours.
                let missing = search.allows_missing_base && matches!(result.rc, 10 | 32 | 34);
                match check_search_result(&self.url, &search.base, &result) {
                    // The base is a directory value: an error with it is not the server's.
                    Some(SearchError::ServerFailed(reason))
                        if search.allows_missing_base && !missing =>
                    {
                        Err(SearchError::QueryFailed(reason))
                    }
                    Some(error) if !enough && !missing => Err(error),
                    _ => Ok(entries),
                }
            }
            Ok(Ok(ReadEntries::Truncated(entries))) => {
                self.abandon(message).await;
                match search.allows_truncation {
                    true => Ok(entries),
                    false => Err(SearchError::QueryFailed(format!(
                        "{} returned more than {} entries",
                        self.url, search.limit
                    ))),
                }
            }
            Ok(Err(error)) => Err(self.search_failed(&error)),
            Err(_) => {
                self.abandon(message).await;
                Err(self.search_timed_out(begun))
            }
        }
    }

    /// Replaces OIDs in a filter by the server's names. All brackets in values are escaped.
    fn with_server_names<'f>(&self, filter: &'f str) -> Cow<'f, str> {
        let mut named = Cow::Borrowed(filter);
        for (oid, name) in self.names_by_oid.get().into_iter().flatten() {
            named = Cow::Owned(named.replace(&format!("({oid}="), &format!("({name}=")));
        }
        named
    }

    /// Requests long lists in ranges if the server supports them.
    fn with_ranges(&self, attributes: Vec<String>) -> Vec<String> {
        if !self.features().ranges {
            return attributes;
        }
        let attributes = attributes.into_iter();
        attributes
            .map(|name| match name.as_str() {
                "member" => format!("member;range=0-{}", RANGE_SIZE - 1),
                _ => name,
            })
            .collect()
    }

    async fn read_entries(
        &self,
        stream: &mut SearchStream<'_, String, Vec<String>>,
        limit: usize,
        reading: &EntryReader<'_>,
    ) -> Result<ReadEntries, LdapError> {
        let mut entries = Vec::new();
        while let Some(item) = stream.next().await? {
            self.note_activity();
            if item.is_ref() {
                // Active Directory ends every search from the root with referrals; following them
                // would send our password to servers that are not configured.
                counter!("copyist_directory_referrals_total").increment(1);
                continue;
            }
            if item.is_intermediate() {
                continue;
            }
            if entries.len() == limit {
                return Ok(ReadEntries::Truncated(entries));
            }
            entries.push(reading.entry(SearchEntry::construct(item)));
        }
        self.note_activity();
        Ok(ReadEntries::Complete(entries))
    }

    fn note_activity(&self) {
        let now = self.opened.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.last_heard.fetch_max(now, Ordering::Relaxed);
    }

    fn search_failed(&self, error: &LdapError) -> SearchError {
        match error {
            LdapError::FilterParsing => {
                SearchError::QueryFailed(format!("invalid filter in a search to {}", self.url))
            }
            // The library only reports the end of the connection.
            _ => SearchError::ConnectionLost(match self.failure.get() {
                Some(reason) => reason.clone(),
                None => format!("the search on {} was interrupted: {error}", self.url),
            }),
        }
    }

    /// Returns the error of a search that timed out. If the server sent nothing at all for
    /// [`ConnectionSettings::timeout`], the connection fails; otherwise only this search was slow.
    fn search_timed_out(&self, begun: Instant) -> SearchError {
        let waited = begun.elapsed();
        let last_heard =
            self.opened + Duration::from_millis(self.last_heard.load(Ordering::Relaxed));
        // The timer may be late but never early; a search with less time learns nothing about the
        // server.
        if last_heard < begun && waited >= self.access.timeout * 19 / 20 {
            let reason = format!("no answer from {} for {waited:.1?}", self.url);
            self.fail(&reason);
            return SearchError::ConnectionLost(reason);
        }
        SearchError::TimedOut(format!(
            "{} did not finish a search within {waited:.1?}",
            self.url
        ))
    }

    /// Abandons an operation. A hung server does not notice.
    async fn abandon(&self, message: i32) {
        let _ = timeout(CLOSE_TIMEOUT, self.ldap.clone().abandon(message)).await;
    }
}

/// Binds by Kerberos, with the ticket cache or client keytab named in the environment.
#[cfg(feature = "gssapi")]
async fn gssapi_bind(url: &ServerUrl, mut ldap: Ldap) -> Result<Ldap, ConnectError> {
    let host = url.host().to_owned();
    let runtime = tokio::runtime::Handle::current();
    // The Kerberos library blocks the thread while it contacts its servers.
    let bound = tokio::task::spawn_blocking(move || {
        let result = runtime.block_on(ldap.sasl_gssapi_bind(&host));
        (ldap, result)
    });
    match bound.await {
        Ok((ldap, Ok(result))) if result.rc == 0 => Ok(ldap),
        Ok((_, Ok(result))) => {
            let refusal = describe_bind_error(url.as_str(), "Kerberos principal", &result);
            Err(match result.rc {
                49 => ConnectError::Credentials(refusal),
                _ => ConnectError::Other(refusal),
            })
        }
        Ok((_, Err(error))) => Err(ConnectError::Other(format!(
            "cannot bind to {url} by Kerberos: {error}"
        ))),
        Err(_) => Err(ConnectError::Other(format!(
            "{url} sent an invalid answer to the Kerberos bind"
        ))),
    }
}

#[cfg(not(feature = "gssapi"))]
async fn gssapi_bind(url: &ServerUrl, _: Ldap) -> Result<Ldap, ConnectError> {
    Err(ConnectError::Other(format!(
        "cannot bind to {url} by Kerberos: this program was built without the feature gssapi"
    )))
}

enum ReadEntries {
    Complete(Vec<Entry>),
    Truncated(Vec<Entry>),
}
