//! One connection to one LDAP server.
//!
//! Promises: every step has a deadline; an answer that cannot be read takes down this connection
//! and nothing else. Never reconnects; see [`super::servers`].

mod listing;
mod proof;
mod reading;

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

pub(super) use self::listing::Told;
use self::reading::Reading;
use super::MOST_ENTRIES;
use super::fault::{Fault, bind_refusal, search_fault};
use super::latency::{Latency, SLOW};
use super::url::ServerUrl;
use crate::directory::entry::Entry;
use crate::directory::presence::Presence;
use crate::directory::schema::Schema;
use crate::directory::settings::{ANSWERS, Bind};
use crate::net::{ConnectError, Server};
use crate::tls::{ExpiryMonitor, explain_certificate_error, not_after};

/// Operations at once on one connection. OpenLDAP closes it at 1,000 pending (100 if anonymous).
const IN_FLIGHT: usize = 64;
/// Proofs at once: by one after another, a slow server would keep those waiting who came just after
/// one began.
const PROOFS: usize = 4;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// How a server is entered, the same for all.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// What is known of the servers' certificates.
    pub(super) expiry: Arc<ExpiryMonitor>,
    pub(super) starttls: bool,
    pub(super) bind: Option<Bind>,
    pub(super) gssapi: bool,
    pub(super) base: String,
    /// The longest that the server may take for one answer.
    pub(super) timeout: Duration,
    /// Somebody who is always there.
    pub(super) canary: Option<Canary>,
    /// The filter for an address that nobody has.
    pub(super) nobody: String,
    /// What the servers showed.
    pub(super) presence: Arc<Presence>,
}

impl Access {
    /// The longest that a question may take which begins now: it may need several answers, one
    /// after the other.
    pub(super) fn patience(&self) -> Duration {
        self.timeout * ANSWERS
    }

    /// When a question ends at the latest that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.patience()
    }
}

/// Somebody who is always there. If he is not, nobody's absence is to be believed: an account whose
/// rights were taken away is not refused, it finds nobody.
#[derive(Debug, Clone)]
pub(super) struct Canary {
    /// His address.
    pub(super) address: String,
    /// The filter that finds him.
    pub(super) filter: String,
}

/// What a server says that it can do beyond RFC 4511, in its root entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Features {
    /// It is Active Directory: of long lists it may be asked for a part.
    pub(super) ranges: bool,
    /// Content synchronization (RFC 4533).
    pub(super) sync: bool,
    /// Change notification ([MS-ADTS] section 3.1.1.3.4.1.9).
    pub(super) notification: bool,
}

impl Features {
    const ACTIVE_DIRECTORY: &str = "1.2.840.113556.1.4.800";
    const SYNC: &str = "1.3.6.1.4.1.4203.1.9.1.1";
    pub(super) const NOTIFICATION: &str = "1.2.840.113556.1.4.528";

    fn of(root: &Entry) -> Features {
        let has = |name: &str, oid: &str| root.values(name).any(|value| value == oid);
        Features {
            ranges: has("supportedCapabilities", Features::ACTIVE_DIRECTORY),
            sync: has("supportedControl", Features::SYNC),
            notification: has("supportedControl", Features::NOTIFICATION),
        }
    }
}

/// Members of a group in one answer, where the server can be asked for a part: as many as Active
/// Directory sends at most. The LDAP library has no limit of its own for the size of an answer.
const MEMBERS: usize = 1500;

/// Names the entry that holds the names of attributes.
const SUBSCHEMA: &str = "subschemaSubentry";

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) base: String,
    pub(super) scope: Scope,
    pub(super) filter: String,
    pub(super) attributes: Vec<String>,
    /// The most entries that are read.
    pub(super) limit: usize,
    /// Whether reaching the limit is an answer, as when only existence is asked.
    pub(super) enough_at_limit: bool,
    /// Whether a base that is not there is an answer, as where an administrator's value names it.
    pub(super) may_be_missing: bool,
}

/// Why a server could not be entered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EnterError {
    /// The account was refused (LDAP result 49): trying again soon could lock it.
    #[error("{0}")]
    Credentials(String),
    /// The server shows no value of an attribute that somebody had: asking whether anybody has it
    /// is costly.
    #[error("{0}")]
    Empty(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// How a connection came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It was closed, as servers do with idle connections.
    Closed,
    /// The server misbehaved: it should be left alone for a while.
    Condemned(String),
    /// The server shows no value of an attribute that somebody had.
    Empty(String),
}

/// An open, bound connection.
#[derive(Debug)]
pub(super) struct Connection {
    url: String,
    ldap: Ldap,
    access: Arc<Access>,
    /// When the server's certificate does.
    expires: Option<SystemTime>,
    in_flight: Arc<Semaphore>,
    /// OpenLDAP reads one list in pages at a time on a connection.
    listing: Mutex<()>,
    lost: CancellationToken,
    condemned: OnceLock<String>,
    /// Whether it was given up because an attribute is missing.
    is_empty: AtomicBool,
    features: OnceLock<Features>,
    /// The names of attributes; the standard ones where the server hides its schema.
    schema: OnceLock<Schema>,
    /// Watched attributes that the settings name by identifiers, and what the server calls them:
    /// Samba finds nothing by identifiers.
    identifiers: OnceLock<Vec<(String, String)>>,
    /// What the server calls itself; by default its URL.
    server: OnceLock<String>,
    /// When the last proof began that we can see what is there.
    verified: std::sync::Mutex<Option<Instant>>,
    proofs: Semaphore,
    /// When it was looked last for attributes that nobody was found to have.
    looked: std::sync::Mutex<Option<Instant>>,
    drive: AbortOnDropHandle<()>,
    opened: Instant,
    /// When the server was last heard, in milliseconds since `opened`.
    heard: AtomicU64,
    latency: Latency,
    /// Whether a question was answered: an open connection alone proves little.
    proven: AtomicBool,
}

impl Connection {
    /// Connects, switches to TLS, binds and sees that the base can be searched. Each step has this
    /// time of its own: a slow server is one all the same.
    pub(super) async fn enter(
        url: &ServerUrl,
        access: &Arc<Access>,
        patience: Duration,
    ) -> Result<Arc<Connection>, EnterError> {
        // A task of its own: the library panics on answers that it cannot make sense of.
        let begin = |tcp| async move {
            let opening = Connection::open(url.clone(), Arc::clone(access), tcp, patience);
            let opening = AbortOnDropHandle::new(tokio::spawn(opening));
            opening.await.unwrap_or_else(|_| {
                Err(EnterError::Other(format!(
                    "{url} answered with something that is not LDAP"
                )))
            })
        };
        let opened = match Server::from_ldap_url(url.as_str()) {
            // Each refused bind counts towards locking the account.
            Some(server) => {
                let is_final = |error: &EnterError| matches!(error, EnterError::Credentials(_));
                let reached = server.open_session(patience, is_final, |tcp| begin(Some(tcp)));
                reached.await.map_err(|error| match error {
                    ConnectError::Session(error) => error,
                    error => EnterError::Other(format!("{url}: {error}")),
                })
            }
            None => begin(None).await,
        };
        let connection = Arc::new(opened?);
        let soon = || Instant::now() + patience;
        let base = connection.access.base.as_str();
        let entered = async {
            // What does not follow from another answer is asked at once.
            let ((), of_root, of_base) = tokio::try_join!(
                connection.check_base(soon()),
                connection.ask_features(soon()),
                connection.ask_one(base, &[SUBSCHEMA], soon()),
            )?;
            let of_base =
                of_base.and_then(|base| base.values(SUBSCHEMA).first().map(str::to_owned));
            if let Some(subschema) = of_base.or(of_root) {
                connection.ask_schema(&subschema, soon()).await?;
            }
            connection.verify(soon() + patience).await
        };
        match entered.await {
            Ok(()) => Ok(connection),
            Err(fault) if connection.is_empty.load(Ordering::Relaxed) => {
                Err(EnterError::Empty(fault.to_string()))
            }
            Err(fault) => Err(EnterError::Other(fault.to_string())),
        }
    }

    /// Reads the root entry, and gives where the schema is. A server that hides it is taken for one
    /// that can nothing more than LDAP.
    async fn ask_features(self: &Arc<Self>, deadline: Instant) -> Result<Option<String>, Fault> {
        let wanted = [
            "supportedControl",
            "supportedCapabilities",
            "dsServiceName",
            SUBSCHEMA,
        ];
        let Some(root) = self.ask_one("", &wanted, deadline).await? else {
            return Ok(None);
        };
        let _ = self.features.set(Features::of(&root));
        if let Some(name) = root.values("dsServiceName").first() {
            let _ = self.server.set(name.to_owned());
        }
        Ok(root.values(SUBSCHEMA).first().map(str::to_owned))
    }

    /// Reads the names of attributes (RFC 4512 section 4.2). Those of a server that hides them, or
    /// takes too long for them, are the standard ones.
    async fn ask_schema(self: &Arc<Self>, subschema: &str, deadline: Instant) -> Result<(), Fault> {
        // It is long.
        let soon = deadline.min(Instant::now() + self.unhurried());
        let found = match self.ask_one(subschema, &["attributeTypes"], soon).await {
            Err(Fault::Slow(_)) => None,
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
                let _ = self.identifiers.set(named.collect());
                let _ = self.schema.set(schema);
            }
        }
        Ok(())
    }

    /// The time for an answer that may be long: a server that says nothing for [`Access::timeout`]
    /// is given up.
    fn unhurried(&self) -> Duration {
        self.access.timeout * 9 / 10
    }

    /// An entry, where the server shows it.
    async fn ask_one(
        self: &Arc<Self>,
        dn: &str,
        attributes: &[&str],
        deadline: Instant,
    ) -> Result<Option<Entry>, Fault> {
        let search = Search {
            base: dn.to_owned(),
            scope: Scope::Base,
            filter: "(objectClass=*)".into(),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            limit: 1,
            enough_at_limit: true,
            may_be_missing: true,
        };
        match self.search(search, deadline).await {
            Ok(entries) => Ok(entries.into_iter().next()),
            Err(Fault::Question(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Whether the server's schema has an attribute; `None` where it hides its schema.
    pub(super) fn knows(&self, attribute: &str) -> Option<bool> {
        Some(self.schema.get()?.knows(attribute))
    }

    fn schema(&self) -> &Schema {
        static STANDARD: LazyLock<Schema> = LazyLock::new(Schema::standard);
        self.schema.get().unwrap_or(&STANDARD)
    }

    /// What the server calls itself.
    fn server(&self) -> &str {
        self.server.get().unwrap_or(&self.url)
    }

    /// When the certificate that the server showed ends.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// What the server can do beyond RFC 4511.
    pub(super) fn features(&self) -> Features {
        self.features.get().copied().unwrap_or_default()
    }

    /// Sees that the base can be searched. A base that is gone or hidden would look like a
    /// directory without people.
    async fn check_base(self: &Arc<Self>, deadline: Instant) -> Result<(), Fault> {
        let base = Search {
            base: self.access.base.clone(),
            scope: Scope::Base,
            filter: "(objectClass=*)".into(),
            attributes: vec!["1.1".into()],
            limit: 1,
            enough_at_limit: true,
            may_be_missing: false,
        };
        self.search(base, deadline).await?;
        if let Some(expires) = self.expires {
            self.access.expiry.record(&self.url, expires);
        }
        Ok(())
    }

    async fn open(
        url: ServerUrl,
        access: Arc<Access>,
        tcp: Option<TcpStream>,
        patience: Duration,
    ) -> Result<Connection, EnterError> {
        let late = |_| {
            EnterError::Other(format!(
                "{url} did not let us in, {patience:?} for each step"
            ))
        };
        let failed = |why: String| EnterError::Other(format!("cannot connect to {url}: {why}"));
        let mut settings = LdapConnSettings::new().set_starttls(access.starttls);
        if let Some(tcp) = tcp {
            let tcp = tcp.into_std().map_err(|error| failed(error.to_string()))?;
            settings = settings.set_std_stream(StdStream::Tcp(tcp));
        }
        if let Some(tls) = &access.tls {
            settings = settings.set_config(Arc::clone(tls));
        }
        let connecting = LdapConnAsync::with_settings(settings, url.as_str());
        let connected = timeout(patience, connecting).await.map_err(late)?;
        let (connection, mut ldap) =
            connected.map_err(|error| failed(explain_certificate_error(&error.to_string())))?;
        let lost = CancellationToken::new();
        let guard = lost.clone().drop_guard();
        // Ends with the connection, at the latest when its handle is dropped; the guard reports
        // that on every way out, a panic included.
        let drive = AbortOnDropHandle::new(tokio::spawn(async move {
            let _guard = guard;
            let _ = connection.drive().await;
        }));
        if let Some(bind) = &access.bind {
            let binding = ldap.simple_bind(&bind.dn, bind.password.reveal());
            let bound = timeout(patience, binding).await.map_err(late)?;
            let result = bound
                .map_err(|error| EnterError::Other(format!("{url} broke off the bind: {error}")))?;
            let refusal = || bind_refusal(url.as_str(), &bind.dn, &result);
            match result.rc {
                0 => {}
                49 => return Err(EnterError::Credentials(refusal())),
                _ => return Err(EnterError::Other(refusal())),
            }
        }
        if access.gssapi {
            let binding = gssapi_bind(&url, ldap);
            ldap = timeout(patience, binding).await.map_err(late)??;
        }
        // Of one that cannot be seen nothing is told: TLS has judged it already.
        let certificate = match access.tls {
            Some(_) => ldap.get_peer_certificate().await.ok().flatten(),
            None => None,
        };
        Ok(Connection {
            url: url.as_str().to_owned(),
            ldap,
            access,
            expires: certificate.and_then(|der| not_after(&der)),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            listing: Mutex::new(()),
            lost,
            condemned: OnceLock::new(),
            is_empty: AtomicBool::new(false),
            features: OnceLock::new(),
            schema: OnceLock::new(),
            identifiers: OnceLock::new(),
            server: OnceLock::new(),
            verified: std::sync::Mutex::default(),
            proofs: Semaphore::new(PROOFS),
            looked: std::sync::Mutex::default(),
            drive,
            opened: Instant::now(),
            heard: AtomicU64::new(0),
            latency: Latency::default(),
            proven: AtomicBool::new(false),
        })
    }

    /// The server's URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether nothing more can be asked here.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// How long answers take here.
    pub(super) fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Returns how long a lookup takes that finds nobody, which an index makes short.
    pub(super) async fn measure(self: &Arc<Self>) -> Result<Duration, Fault> {
        let search = Search {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: self.access.nobody.clone(),
            attributes: vec!["1.1".into()],
            limit: 1,
            enough_at_limit: true,
            may_be_missing: false,
        };
        let begun = Instant::now();
        self.search(search, self.access.deadline()).await?;
        Ok(begun.elapsed())
    }

    /// Waits for the end.
    pub(super) async fn end(&self) -> End {
        self.lost.cancelled().await;
        match self.condemned.get() {
            Some(why) if self.is_empty.load(Ordering::Relaxed) => End::Empty(why.clone()),
            Some(why) => End::Condemned(why.clone()),
            None => End::Closed,
        }
    }

    /// Whether a question was answered here.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Notes that a question was answered.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Gives the connection up because the server misbehaves.
    pub(super) fn condemn(&self, why: &str) {
        let _ = self.condemned.set(why.to_owned());
        self.lost.cancel();
        self.drive.abort();
    }

    /// Says goodbye when all that is under way is answered.
    pub(super) async fn retire(&self) {
        let all = u32::try_from(IN_FLIGHT).unwrap_or(u32::MAX);
        let _ = timeout(self.access.timeout, self.in_flight.acquire_many(all)).await;
        self.leave().await;
    }

    /// Says goodbye.
    pub(super) async fn leave(&self) {
        let _ = timeout(GOODBYE, self.ldap.clone().unbind()).await;
        self.lost.cancel();
        self.drive.abort();
    }

    /// The entries found, all of them. The server is given [`Access::timeout`] for them, and never
    /// more than until `deadline`.
    pub(super) async fn search(
        self: &Arc<Self>,
        search: Search,
        deadline: Instant,
    ) -> Result<Vec<Entry>, Fault> {
        let permit = Arc::clone(&self.in_flight).acquire_owned();
        let Ok(Ok(permit)) = timeout_at(deadline, permit).await else {
            return Err(Fault::Slow(format!(
                "{} is too busy: {IN_FLIGHT} searches were still under way when our time was up",
                self.url
            )));
        };
        let connection = Arc::clone(self);
        let begun = Instant::now();
        let deadline = deadline.min(begun + self.access.timeout);
        // Many entries take long on any server.
        let is_long = search.limit > MOST_ENTRIES;
        // A task of its own, since unreadable entries make the library panic. It ends by the
        // deadline, whether or not somebody still waits.
        let task = tokio::spawn(async move {
            let _permit = permit;
            connection.run(search, deadline).await
        });
        let found = task.await;
        let took = begun.elapsed();
        // One that began with little time left says little about the server.
        let is_slow = matches!(found, Ok(Err(Fault::Slow(_)))) && took >= SLOW;
        if !is_long && (is_slow || matches!(found, Ok(Ok(_)))) {
            self.latency.note(took);
        }
        match found {
            Ok(Err(fault)) => {
                if let Fault::Server(why) = &fault {
                    self.condemn(why);
                }
                Err(fault)
            }
            Ok(found) => found,
            Err(_) => {
                let why = format!("{} sent an answer that cannot be read", self.url);
                self.condemn(&why);
                Err(Fault::Lost(why))
            }
        }
    }

    async fn run(&self, search: Search, deadline: Instant) -> Result<Vec<Entry>, Fault> {
        let begun = Instant::now();
        let seconds = deadline.saturating_duration_since(begun).as_secs() + 1;
        let options = SearchOptions::new()
            .sizelimit(i32::try_from(search.limit).unwrap_or(i32::MAX))
            .timelimit(i32::try_from(seconds).unwrap_or(i32::MAX));
        let mut ldap = self.ldap.clone();
        ldap.with_search_options(options);
        let asked = search.attributes.clone();
        let reading = Reading::of(self, &asked);
        let filter = self.in_names(&search.filter);
        let starting = ldap.streaming_search(
            &search.base,
            search.scope,
            &filter,
            self.in_ranges(search.attributes),
        );
        let mut stream = match timeout_at(deadline, starting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.broken(&error)),
            Err(_) => return Err(self.too_slow(begun)),
        };
        let read = timeout_at(deadline, self.read(&mut stream, search.limit, &reading)).await;
        let message = stream.ldap_handle().last_id();
        // Frees the message id, which would otherwise stay taken for the life of the connection.
        let result = stream.finish().await;
        match read {
            Ok(Ok(Read::ToTheEnd(entries))) => {
                let enough = search.enough_at_limit && result.rc == 4 && !entries.is_empty();
                // noSuchObject, invalidDNSyntax, or a referral to a domain that is not ours.
                let missing = search.may_be_missing && matches!(result.rc, 10 | 32 | 34);
                match search_fault(&self.url, &search.base, &result) {
                    // The base is somebody's value: what is wrong with it is not wrong with the
                    // server.
                    Some(Fault::Server(why)) if search.may_be_missing && !missing => {
                        Err(Fault::Question(why))
                    }
                    Some(fault) if !enough && !missing => Err(fault),
                    _ => Ok(entries),
                }
            }
            Ok(Ok(Read::TooMuch(entries))) => {
                self.abandon(message).await;
                match search.enough_at_limit {
                    true => Ok(entries),
                    false => Err(Fault::Question(format!(
                        "{} found more than {} entries",
                        self.url, search.limit
                    ))),
                }
            }
            Ok(Err(error)) => Err(self.broken(&error)),
            Err(_) => {
                self.abandon(message).await;
                Err(self.too_slow(begun))
            }
        }
    }

    /// A filter with the server's names in the place of identifiers. No value holds a bracket that
    /// is not escaped.
    fn in_names<'f>(&self, filter: &'f str) -> Cow<'f, str> {
        let mut named = Cow::Borrowed(filter);
        for (identifier, name) in self.identifiers.get().into_iter().flatten() {
            named = Cow::Owned(named.replace(&format!("({identifier}="), &format!("({name}=")));
        }
        named
    }

    /// Asks for long lists part by part where the server knows how; the parts tell that there is
    /// more.
    fn in_ranges(&self, attributes: Vec<String>) -> Vec<String> {
        if !self.features().ranges {
            return attributes;
        }
        let attributes = attributes.into_iter();
        attributes
            .map(|name| match name.as_str() {
                "member" => format!("member;range=0-{}", MEMBERS - 1),
                _ => name,
            })
            .collect()
    }

    async fn read(
        &self,
        stream: &mut SearchStream<'_, String, Vec<String>>,
        limit: usize,
        reading: &Reading<'_>,
    ) -> Result<Read, LdapError> {
        let mut entries = Vec::new();
        while let Some(item) = stream.next().await? {
            self.hear();
            if item.is_ref() {
                // Active Directory ends every search from the root with some; following them would
                // take our password to servers that nobody configured.
                counter!("copyist_directory_referrals_total").increment(1);
                continue;
            }
            if item.is_intermediate() {
                continue;
            }
            if entries.len() == limit {
                return Ok(Read::TooMuch(entries));
            }
            entries.push(reading.entry(SearchEntry::construct(item)));
        }
        self.hear();
        Ok(Read::ToTheEnd(entries))
    }

    fn hear(&self) {
        let now = self.opened.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.heard.fetch_max(now, Ordering::Relaxed);
    }

    fn broken(&self, error: &LdapError) -> Fault {
        match error {
            LdapError::FilterParsing => {
                Fault::Question(format!("{} was asked with a broken filter", self.url))
            }
            // The library knows only that no more comes.
            _ => Fault::Lost(match self.condemned.get() {
                Some(why) => why.clone(),
                None => format!("{} broke off the search: {error}", self.url),
            }),
        }
    }

    /// Nothing at all from the server for [`Access::timeout`] means that it is gone; otherwise only
    /// this search was slow.
    fn too_slow(&self, begun: Instant) -> Fault {
        let waited = begun.elapsed();
        let heard = self.opened + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        // The clock may be late and never early; whoever had less time learns nothing of the
        // server.
        if heard < begun && waited >= self.access.timeout * 19 / 20 {
            let why = format!("{} did not answer for {waited:.1?}", self.url);
            self.condemn(&why);
            return Fault::Lost(why);
        }
        Fault::Slow(format!(
            "{} did not finish a search within {waited:.1?}",
            self.url
        ))
    }

    /// Tells the server that nobody waits any more. A hung server cannot be told anything.
    async fn abandon(&self, message: i32) {
        let _ = timeout(GOODBYE, self.ldap.clone().abandon(message)).await;
    }
}

/// Binds by Kerberos, with what the environment of the process names: a ticket cache, or a client
/// keytab.
#[cfg(feature = "gssapi")]
async fn gssapi_bind(url: &ServerUrl, mut ldap: Ldap) -> Result<Ldap, EnterError> {
    let host = url.host().to_owned();
    let runtime = tokio::runtime::Handle::current();
    // The Kerberos library asks its servers while everything else on the thread waits.
    let bound = tokio::task::spawn_blocking(move || {
        let result = runtime.block_on(ldap.sasl_gssapi_bind(&host));
        (ldap, result)
    });
    match bound.await {
        Ok((ldap, Ok(result))) if result.rc == 0 => Ok(ldap),
        Ok((_, Ok(result))) => {
            let refusal = bind_refusal(url.as_str(), "Kerberos principal", &result);
            Err(match result.rc {
                49 => EnterError::Credentials(refusal),
                _ => EnterError::Other(refusal),
            })
        }
        Ok((_, Err(error))) => Err(EnterError::Other(format!(
            "no Kerberos bind at {url}: {error}"
        ))),
        Err(_) => Err(EnterError::Other(format!(
            "{url} answered the Kerberos bind with something that cannot be read"
        ))),
    }
}

#[cfg(not(feature = "gssapi"))]
async fn gssapi_bind(url: &ServerUrl, _: Ldap) -> Result<Ldap, EnterError> {
    Err(EnterError::Other(format!(
        "no Kerberos bind at {url}: this program was built without the feature gssapi"
    )))
}

enum Read {
    ToTheEnd(Vec<Entry>),
    TooMuch(Vec<Entry>),
}
