//! What a server tells of changes: content synchronization (RFC 4533) of OpenLDAP, change
//! notification and update sequence numbers of Active Directory ([MS-ADTS] sections 3.1.1.3.4.1.9
//! and 3.1.1.1.9).
//!
//! Promises: whatever changed after [`Change::UpToDate`] is told, or the feed ends; what cannot be
//! told one by one is told as [`Change::Everything`]. A server's feed goes over the connection that
//! questions go over: a change is never told before that server answers with it.

use std::sync::Arc;
use std::time::Duration;

use ldap3::Scope;
use ldap3::controls::{EntryState, RawControl, RefreshMode, SyncInfo, SyncRequest};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::connection::{Connection, Features, Search, Told};
use super::fault::Fault;
use crate::directory::entry::Entry;
use crate::directory::scan::Scan;
use crate::directory::settings::Watch;
use crate::directory::source::{Change, Place};

/// Objects changed since the last look that are told one by one.
const MOST_CHANGED: usize = 5000;

/// How often update sequence numbers are looked at where nothing else tells of changes.
const POLL: Duration = Duration::from_secs(1);
/// The same as a second line behind change notification.
const POLL_BESIDE: Duration = Duration::from_secs(30);

/// Why a feed ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FeedError {
    /// This server tells of no changes, or not to us.
    #[error("{0}")]
    Unsupported(String),
    /// The place to go on from is not known to the server any more.
    #[error("{0}")]
    Forgotten(String),
    /// The connection or the server.
    #[error("{0}")]
    Lost(String),
}

/// A feed on a connection.
pub(super) struct Feed<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) base: &'a str,
    pub(super) timeout: Duration,
    /// What to read of an object that changed.
    pub(super) attributes: Vec<String>,
    /// Learns of objects before whoever is told can ask for them.
    pub(super) scan: &'a Scan,
    pub(super) tell: &'a mpsc::Sender<Change>,
}

impl Feed<'_> {
    /// Tells changes until the feed ends, beginning where `from` says, or now.
    pub(super) async fn run(&self, how: Watch, from: Option<Place>) -> FeedError {
        let features = self.connection.features();
        let url = self.connection.url();
        let ended = match how {
            Watch::Off => Err(FeedError::Unsupported("directory.watch is off".into())),
            Watch::Auto | Watch::Syncrepl if features.sync => self.sync(from).await,
            Watch::Auto if features.ranges => {
                self.active_directory(from, features.notification, POLL)
                    .await
            }
            Watch::Notify if features.notification => {
                self.active_directory(from, true, POLL_BESIDE).await
            }
            Watch::Usn if features.ranges => self.active_directory(from, false, POLL).await,
            Watch::Auto | Watch::Syncrepl | Watch::Notify | Watch::Usn => {
                Err(FeedError::Unsupported(format!(
                    "{url} does not offer what directory.watch = {how} needs (OpenLDAP: load the overlay syncprov; Active Directory: notify or usn)"
                )))
            }
        };
        match ended {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn tell(&self, change: Change) -> Result<(), FeedError> {
        match &change {
            Change::Object(entry) => self.scan.learn(entry),
            Change::Everything => self.scan.ask_again(),
            Change::Gone(_) | Change::UpToDate | Change::Place(_) => {}
        }
        let told = self.tell.send(change).await;
        told.map_err(|_| FeedError::Lost("nobody listens any more".into()))
    }

    // ----- OpenLDAP

    async fn sync(&self, from: Option<Place>) -> Result<Never, FeedError> {
        let known = match from {
            Some(Place::Sync { base, cookie }) if base == self.base => Some(cookie),
            _ => None,
        };
        let goes_on = known.is_some();
        // With the number of the last change as a cookie the server need not send all there is.
        let cookie = match known {
            Some(cookie) => Some(cookie),
            None => self.newest_cookie().await?,
        };
        if !goes_on && cookie.is_some() {
            self.tell(Change::Everything).await?;
        }
        let whole = cookie.is_none();
        let request = SyncRequest {
            mode: RefreshMode::RefreshAndPersist,
            cookie: cookie.clone().map(String::into_bytes),
            reload_hint: false,
        };
        let mut request = RawControl::from(request);
        request.crit = true;
        let search = self.search(self.base, "(objectClass=*)".to_owned(), i32::MAX as usize);
        let mut told = self.connection.follow(search, request);
        let mut refresh = Refresh {
            done: false,
            everything: whole,
        };
        if let Some(cookie) = cookie {
            self.place(cookie.into_bytes()).await?;
        }
        while let Some(item) = told.recv().await {
            match item {
                Told::Entry(entry, state) => {
                    let Some(state) = state else { continue };
                    let change = match state.state {
                        // Of these the content is as it was; only that they are there is told.
                        EntryState::Present => None,
                        EntryState::Add | EntryState::Modify if refresh.done || !whole => {
                            Some(Change::Object(entry))
                        }
                        EntryState::Add | EntryState::Modify => None,
                        EntryState::Delete => Some(Change::Gone(entry.dn)),
                    };
                    if let Some(change) = change {
                        self.tell(change).await?;
                    }
                    if let Some(cookie) = state.cookie {
                        self.place(cookie).await?;
                    }
                }
                Told::Info(info) => self.info(info, &mut refresh).await?,
                Told::End(fault) => return Err(sync_error(fault, goes_on && !refresh.done)),
            }
        }
        Err(self.unreadable())
    }

    async fn info(&self, info: SyncInfo, refresh: &mut Refresh) -> Result<(), FeedError> {
        let (cookie, done) = match info {
            SyncInfo::NewCookie(cookie) => (Some(cookie), false),
            SyncInfo::RefreshDelete {
                cookie,
                refresh_done,
            } => (cookie, refresh_done),
            SyncInfo::RefreshPresent {
                cookie,
                refresh_done,
            } => {
                // What is there was told, and what is not told is gone: more than we keep count of.
                refresh.everything = true;
                (cookie, refresh_done)
            }
            // Objects by numbers that we do not know.
            SyncInfo::SyncIdSet { cookie, .. } => {
                refresh.everything = true;
                (cookie, false)
            }
        };
        if refresh.everything && (done || refresh.done) {
            refresh.everything = false;
            self.tell(Change::Everything).await?;
        }
        if let Some(cookie) = cookie {
            self.place(cookie).await?;
        }
        if done && !refresh.done {
            refresh.done = true;
            self.tell(Change::UpToDate).await?;
        }
        Ok(())
    }

    async fn place(&self, cookie: Vec<u8>) -> Result<(), FeedError> {
        // OpenLDAP's are text; any other is only not kept over a restart.
        let Ok(cookie) = String::from_utf8(cookie) else {
            return Ok(());
        };
        let base = self.base.to_owned();
        self.tell(Change::Place(Place::Sync { base, cookie })).await
    }

    /// The numbers of the last changes, written as OpenLDAP's consumers do; `None` where they are
    /// hidden from us.
    async fn newest_cookie(&self) -> Result<Option<String>, FeedError> {
        let root = self.one("", &["namingContexts"]).await?;
        let base = self.base.to_lowercase();
        let suffixes = root.iter().flat_map(|root| root.values("namingContexts"));
        let mut suffixes: Vec<&str> = suffixes
            .filter(|suffix| base.ends_with(&suffix.to_lowercase()))
            .collect();
        suffixes.sort_by_key(|suffix| suffix.len());
        let Some(suffix) = suffixes.last() else {
            return Ok(None);
        };
        let top = self.one(suffix, &["contextCSN"]).await?;
        let numbers: Vec<&str> = top
            .iter()
            .flat_map(|top| top.values("contextCSN"))
            .collect();
        Ok((!numbers.is_empty()).then(|| format!("rid=000,csn={}", numbers.join(";"))))
    }

    // ----- Active Directory

    async fn active_directory(
        &self,
        from: Option<Place>,
        notification: bool,
        every: Duration,
    ) -> Result<Never, FeedError> {
        let mut state = self.update_number().await?;
        match from {
            // Numbers that went back mean a controller that was restored from a backup.
            Some(Place::Usn { server, number })
                if server == state.server && number <= state.number =>
            {
                state.number = number;
            }
            _ => self.tell(Change::Everything).await?,
        }
        let mut told = notification.then(|| self.notifications(&state.top));
        self.catch_up(&mut state, true).await?;
        self.tell(Change::UpToDate).await?;
        let mut polls = interval(every);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let item = async {
                match &mut told {
                    Some(told) => told.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = polls.tick() => self.catch_up(&mut state, false).await?,
                item = item => match item {
                    Some(Told::Entry(entry, _)) => self.tell(Change::Object(entry)).await?,
                    Some(Told::Info(_)) => {}
                    Some(Told::End(Fault::Lost(why))) => return Err(FeedError::Lost(why)),
                    Some(Told::End(fault)) if every == POLL => {
                        tracing::info!("no change notifications, only polling: {fault}");
                        told = None;
                    }
                    Some(Told::End(fault)) => return Err(FeedError::Unsupported(fault.to_string())),
                    None => return Err(self.unreadable()),
                },
            }
        }
    }

    fn notifications(&self, top: &str) -> mpsc::Receiver<Told> {
        let request = RawControl {
            ctype: Features::NOTIFICATION.to_owned(),
            crit: true,
            val: None,
        };
        // A whole subtree is only told of from the top of a domain.
        let search = self.search(top, "(objectClass=*)".to_owned(), i32::MAX as usize);
        self.connection.follow(search, request)
    }

    /// Tells what has a higher number than the last that was told.
    async fn catch_up(&self, state: &mut Numbers, first: bool) -> Result<(), FeedError> {
        let now = self.update_number().await?;
        if now.server != state.server || now.number < state.number {
            return Err(FeedError::Forgotten(format!(
                "{} is another server than a moment ago",
                self.connection.url()
            )));
        }
        if now.number > state.number {
            let filter = format!("(uSNChanged>={})", state.number + 1);
            let search = self.search(self.base, filter, MOST_CHANGED);
            match self.connection.search(search, self.deadline()).await {
                Ok(entries) => {
                    for entry in entries {
                        self.tell(Change::Object(entry)).await?;
                    }
                }
                Err(Fault::Question(_) | Fault::Slow(_)) => self.tell(Change::Everything).await?,
                Err(fault) => return Err(FeedError::Lost(fault.to_string())),
            }
        }
        if first || now.number > state.number {
            state.number = now.number;
            let server = now.server;
            let number = now.number;
            self.tell(Change::Place(Place::Usn { server, number }))
                .await?;
        }
        Ok(())
    }

    async fn update_number(&self) -> Result<Numbers, FeedError> {
        let wanted = [
            "highestCommittedUSN",
            "dsServiceName",
            "defaultNamingContext",
        ];
        let root = self.one("", &wanted).await?;
        let value = |name: &str| Some(root.as_ref()?.values(name).first()?.to_owned());
        let number = value("highestCommittedUSN").and_then(|text| text.parse().ok());
        match (number, value("dsServiceName")) {
            (Some(number), Some(server)) => Ok(Numbers {
                server,
                number,
                top: value("defaultNamingContext").unwrap_or_else(|| self.base.to_owned()),
            }),
            _ => Err(FeedError::Unsupported(format!(
                "{} does not tell its update sequence number",
                self.connection.url()
            ))),
        }
    }

    // ----- both

    fn search(&self, base: &str, filter: String, limit: usize) -> Search {
        Search {
            base: base.to_owned(),
            scope: Scope::Subtree,
            filter,
            attributes: self.attributes.clone(),
            limit,
            enough_at_limit: false,
            may_be_missing: false,
        }
    }

    async fn one(&self, dn: &str, attributes: &[&str]) -> Result<Option<Entry>, FeedError> {
        let search = Search {
            base: dn.to_owned(),
            scope: Scope::Base,
            filter: "(objectClass=*)".to_owned(),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            limit: 1,
            enough_at_limit: true,
            may_be_missing: true,
        };
        match self.connection.search(search, self.deadline()).await {
            Ok(entries) => Ok(entries.into_iter().next()),
            Err(fault) => Err(FeedError::Lost(fault.to_string())),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn unreadable(&self) -> FeedError {
        let url = self.connection.url();
        FeedError::Lost(format!(
            "{url} told of a change in a way that cannot be read"
        ))
    }
}

enum Never {}

/// How far the first stage of content synchronization is (RFC 4533 section 3.3.1).
struct Refresh {
    done: bool,
    /// Whether more changed than was told one by one.
    everything: bool,
}

/// How far a domain controller is.
struct Numbers {
    server: String,
    number: u64,
    top: String,
}

/// `going_on`: whether the server was asked to go on from a place that another of its kind, or it
/// before a restart, had named. It may not know it any more (e-syncRefreshRequired, RFC 4533
/// section 3.9), or not yet.
fn sync_error(fault: Fault, going_on: bool) -> FeedError {
    match fault {
        Fault::Lost(why) | Fault::Slow(why) => FeedError::Lost(why),
        Fault::Server(why) | Fault::Question(why) if going_on || why.contains("(4096)") => {
            FeedError::Forgotten(why)
        }
        Fault::Server(why) | Fault::Question(why) => FeedError::Unsupported(format!(
            "{why} (the account must be allowed to read contextCSN of the database, or more entries at once)"
        )),
    }
}
