//! Change feeds of LDAP servers: content synchronization (RFC 4533) of OpenLDAP, change
//! notification and update sequence numbers of Active Directory ([MS-ADTS] sections 3.1.1.3.4.1.9
//! and 3.1.1.1.9).
//!
//! Promises: every change after [`Change::UpToDate`] is reported, or the feed ends; changes that
//! cannot be reported one by one become [`Change::Everything`]. The feed uses the same connection
//! as lookups: a change is never reported before that server answers with it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ldap3::Scope;
use ldap3::controls::{EntryState, RawControl, RefreshMode, SyncInfo, SyncRequest};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::connection::{Connection, FeedItem, SearchRequest, ServerFeatures};
use super::error::SearchError;
use crate::directory::entry::Entry;
use crate::directory::scan::Scan;
use crate::directory::settings::WatchMode;
use crate::directory::source::{Change, FeedCursor};

/// Maximum number of changes since the last poll that are reported one by one.
const MAX_CHANGES: usize = 5000;

/// Poll interval of update sequence numbers without change notification.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Poll interval of update sequence numbers in addition to change notification.
const FALLBACK_POLL_INTERVAL: Duration = Duration::from_secs(30);

/// The reason for the end of a feed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FeedError {
    /// The server offers no feed, or not to this account.
    #[error("{0}")]
    Unsupported(String),
    /// The server no longer knows the cursor.
    #[error("{0}")]
    CursorExpired(String),
    /// The connection or the server failed.
    #[error("{0}")]
    Interrupted(String),
}

/// A change feed on a connection.
pub(super) struct FeedSession<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) base: &'a str,
    pub(super) timeout: Duration,
    /// The attributes to read of changed objects.
    pub(super) attributes: Vec<String>,
    /// Updated with changed objects before they are reported.
    pub(super) scan: &'a Scan,
    pub(super) changes: &'a mpsc::Sender<Change>,
}

impl FeedSession<'_> {
    /// Sends changes until the feed ends, starting at the cursor `from`, or now.
    pub(super) async fn run(&self, mode: WatchMode, from: Option<FeedCursor>) -> FeedError {
        let features = self.connection.features();
        let url = self.connection.url();
        let ended = match mode {
            WatchMode::Off => Err(FeedError::Unsupported("directory.watch is off".into())),
            WatchMode::Auto | WatchMode::Syncrepl if features.sync => self.run_syncrepl(from).await,
            WatchMode::Auto if features.ranges => {
                self.run_active_directory(from, features.notification, POLL_INTERVAL)
                    .await
            }
            WatchMode::Notify if features.notification => {
                self.run_active_directory(from, true, FALLBACK_POLL_INTERVAL)
                    .await
            }
            WatchMode::Usn if features.ranges => {
                self.run_active_directory(from, false, POLL_INTERVAL).await
            }
            WatchMode::Auto | WatchMode::Syncrepl | WatchMode::Notify | WatchMode::Usn => {
                Err(FeedError::Unsupported(format!(
                    "{url} does not support directory.watch = {mode} (OpenLDAP: load the overlay syncprov; Active Directory: notify or usn)"
                )))
            }
        };
        match ended {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn send(&self, change: Change) -> Result<(), FeedError> {
        match &change {
            Change::Object(entry) => self.scan.update_entry(entry),
            Change::Everything => self.scan.request_rescan(),
            Change::Removed(_) | Change::UpToDate | Change::FeedCursor(_) => {}
        }
        let items = self.changes.send(change).await;
        items.map_err(|_| FeedError::Interrupted("receiver closed".into()))
    }

    // ----- OpenLDAP

    async fn run_syncrepl(&self, from: Option<FeedCursor>) -> Result<Infallible, FeedError> {
        let known = match from {
            Some(FeedCursor::Sync { base, cookie }) if base == self.base => Some(cookie),
            _ => None,
        };
        let resumes = known.is_some();
        // With the CSN of the last change as a cookie, the server need not send the whole content.
        let cookie = match known {
            Some(cookie) => Some(cookie),
            None => self.read_context_csn().await?,
        };
        if !resumes && cookie.is_some() {
            self.send(Change::Everything).await?;
        }
        let is_full = cookie.is_none();
        let request = SyncRequest {
            mode: RefreshMode::RefreshAndPersist,
            cookie: cookie.clone().map(String::into_bytes),
            reload_hint: false,
        };
        let mut request = RawControl::from(request);
        request.crit = true;
        let search = self.search(self.base, "(objectClass=*)".to_owned(), i32::MAX as usize);
        let mut items = self.connection.search_persistent(search, request);
        let mut refresh = RefreshStage {
            done: false,
            everything: is_full,
        };
        if let Some(cookie) = cookie {
            self.send_cursor(cookie.into_bytes()).await?;
        }
        while let Some(item) = items.recv().await {
            match item {
                FeedItem::Entry(entry, state) => {
                    let Some(state) = state else { continue };
                    let change = match state.state {
                        // The content of these is unchanged; only their presence is reported.
                        EntryState::Present => None,
                        EntryState::Add | EntryState::Modify if refresh.done || !is_full => {
                            Some(Change::Object(entry))
                        }
                        EntryState::Add | EntryState::Modify => None,
                        EntryState::Delete => Some(Change::Removed(entry.dn)),
                    };
                    if let Some(change) = change {
                        self.send(change).await?;
                    }
                    if let Some(cookie) = state.cookie {
                        self.send_cursor(cookie).await?;
                    }
                }
                FeedItem::SyncInfo(info) => self.handle_sync_info(info, &mut refresh).await?,
                FeedItem::ConnectionEnd(error) => {
                    return Err(sync_error(error, resumes && !refresh.done));
                }
            }
        }
        Err(self.unreadable())
    }

    async fn handle_sync_info(
        &self,
        info: SyncInfo,
        refresh: &mut RefreshStage,
    ) -> Result<(), FeedError> {
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
                // The server reports all present objects; the removed ones would have to be found
                // by comparison.
                refresh.everything = true;
                (cookie, refresh_done)
            }
            // Objects by UUIDs that we do not know.
            SyncInfo::SyncIdSet { cookie, .. } => {
                refresh.everything = true;
                (cookie, false)
            }
        };
        if refresh.everything && (done || refresh.done) {
            refresh.everything = false;
            self.send(Change::Everything).await?;
        }
        if let Some(cookie) = cookie {
            self.send_cursor(cookie).await?;
        }
        if done && !refresh.done {
            refresh.done = true;
            self.send(Change::UpToDate).await?;
        }
        Ok(())
    }

    async fn send_cursor(&self, cookie: Vec<u8>) -> Result<(), FeedError> {
        // OpenLDAP's cookies are text; any other is only not stored for a restart.
        let Ok(cookie) = String::from_utf8(cookie) else {
            return Ok(());
        };
        let base = self.base.to_owned();
        self.send(Change::FeedCursor(FeedCursor::Sync { base, cookie }))
            .await
    }

    /// Returns a cookie with the CSNs of the last changes, in the form of OpenLDAP's consumers;
    /// `None` if they are hidden.
    async fn read_context_csn(&self) -> Result<Option<String>, FeedError> {
        let root = self.read_entry("", &["namingContexts"]).await?;
        let base = self.base.to_lowercase();
        let suffixes = root.iter().flat_map(|root| root.values("namingContexts"));
        let mut suffixes: Vec<&str> = suffixes
            .filter(|suffix| base.ends_with(&suffix.to_lowercase()))
            .collect();
        suffixes.sort_by_key(|suffix| suffix.len());
        let Some(suffix) = suffixes.last() else {
            return Ok(None);
        };
        let top = self.read_entry(suffix, &["contextCSN"]).await?;
        let numbers: Vec<&str> = top
            .iter()
            .flat_map(|top| top.values("contextCSN"))
            .collect();
        Ok((!numbers.is_empty()).then(|| format!("rid=000,csn={}", numbers.join(";"))))
    }

    // ----- Active Directory

    async fn run_active_directory(
        &self,
        from: Option<FeedCursor>,
        notification: bool,
        every: Duration,
    ) -> Result<Infallible, FeedError> {
        let mut state = self.read_usn().await?;
        match from {
            // A lower number means that the domain controller was restored from a backup.
            Some(FeedCursor::Usn { server, number })
                if server == state.server && number <= state.number =>
            {
                state.number = number;
            }
            _ => self.send(Change::Everything).await?,
        }
        let mut items = notification.then(|| self.subscribe_notifications(&state.top));
        self.catch_up(&mut state, true).await?;
        self.send(Change::UpToDate).await?;
        let mut polls = interval(every);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let item = async {
                match &mut items {
                    Some(items) => items.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = polls.tick() => self.catch_up(&mut state, false).await?,
                item = item => match item {
                    Some(FeedItem::Entry(entry, _)) => self.send(Change::Object(entry)).await?,
                    Some(FeedItem::SyncInfo(_)) => {}
                    Some(FeedItem::ConnectionEnd(SearchError::ConnectionLost(reason))) => return Err(FeedError::Interrupted(reason)),
                    Some(FeedItem::ConnectionEnd(error)) if every == POLL_INTERVAL => {
                        tracing::info!("no change notification, falling back to polling: {error}");
                        items = None;
                    }
                    Some(FeedItem::ConnectionEnd(error)) => return Err(FeedError::Unsupported(error.to_string())),
                    None => return Err(self.unreadable()),
                },
            }
        }
    }

    fn subscribe_notifications(&self, top: &str) -> mpsc::Receiver<FeedItem> {
        let request = RawControl {
            ctype: ServerFeatures::NOTIFICATION.to_owned(),
            crit: true,
            val: None,
        };
        // Only the top of a domain supports notification for the whole subtree.
        let search = self.search(top, "(objectClass=*)".to_owned(), i32::MAX as usize);
        self.connection.search_persistent(search, request)
    }

    /// Sends the objects with higher numbers than the last one.
    async fn catch_up(&self, state: &mut UsnState, first: bool) -> Result<(), FeedError> {
        let now = self.read_usn().await?;
        if now.server != state.server || now.number < state.number {
            return Err(FeedError::CursorExpired(format!(
                "{} is now a different server",
                self.connection.url()
            )));
        }
        if now.number > state.number {
            let filter = format!("(uSNChanged>={})", state.number + 1);
            let search = self.search(self.base, filter, MAX_CHANGES);
            match self.connection.search(search, self.deadline()).await {
                Ok(entries) => {
                    for entry in entries {
                        self.send(Change::Object(entry)).await?;
                    }
                }
                Err(SearchError::QueryFailed(_) | SearchError::TimedOut(_)) => {
                    self.send(Change::Everything).await?;
                }
                Err(error) => return Err(FeedError::Interrupted(error.to_string())),
            }
        }
        if first || now.number > state.number {
            state.number = now.number;
            let server = now.server;
            let number = now.number;
            self.send(Change::FeedCursor(FeedCursor::Usn { server, number }))
                .await?;
        }
        Ok(())
    }

    async fn read_usn(&self) -> Result<UsnState, FeedError> {
        let wanted = [
            "highestCommittedUSN",
            "dsServiceName",
            "defaultNamingContext",
        ];
        let root = self.read_entry("", &wanted).await?;
        let value = |name: &str| Some(root.as_ref()?.values(name).first()?.to_owned());
        let number = value("highestCommittedUSN").and_then(|text| text.parse().ok());
        match (number, value("dsServiceName")) {
            (Some(number), Some(server)) => Ok(UsnState {
                server,
                number,
                top: value("defaultNamingContext").unwrap_or_else(|| self.base.to_owned()),
            }),
            _ => Err(FeedError::Unsupported(format!(
                "{} does not show its update sequence number",
                self.connection.url()
            ))),
        }
    }

    // ----- both

    fn search(&self, base: &str, filter: String, limit: usize) -> SearchRequest {
        SearchRequest {
            base: base.to_owned(),
            scope: Scope::Subtree,
            filter,
            attributes: self.attributes.clone(),
            limit,
            allows_truncation: false,
            allows_missing_base: false,
        }
    }

    async fn read_entry(&self, dn: &str, attributes: &[&str]) -> Result<Option<Entry>, FeedError> {
        let search = SearchRequest {
            base: dn.to_owned(),
            scope: Scope::Base,
            filter: "(objectClass=*)".to_owned(),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            limit: 1,
            allows_truncation: true,
            allows_missing_base: true,
        };
        match self.connection.search(search, self.deadline()).await {
            Ok(entries) => Ok(entries.into_iter().next()),
            Err(error) => Err(FeedError::Interrupted(error.to_string())),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn unreadable(&self) -> FeedError {
        let url = self.connection.url();
        FeedError::Interrupted(format!("{url} sent an invalid change"))
    }
}

/// Progress of the refresh stage of content synchronization (RFC 4533 section 3.3.1).
struct RefreshStage {
    done: bool,
    /// Whether more changed than was reported one by one.
    everything: bool,
}

/// The update sequence number of a domain controller.
struct UsnState {
    server: String,
    number: u64,
    top: String,
}

/// Classifies an error. `resumes`: whether the feed was resumed from a stored cursor, which the
/// server may not know any more (e-syncRefreshRequired, RFC 4533 section 3.9), or not yet.
fn sync_error(error: SearchError, resumes: bool) -> FeedError {
    match error {
        SearchError::ConnectionLost(reason) | SearchError::TimedOut(reason) => {
            FeedError::Interrupted(reason)
        }
        SearchError::ServerFailed(reason) | SearchError::QueryFailed(reason)
            if resumes || reason.contains("(4096)") =>
        {
            FeedError::CursorExpired(reason)
        }
        SearchError::ServerFailed(reason) | SearchError::QueryFailed(reason) => {
            FeedError::Unsupported(format!(
                "{reason} (the account must be allowed to read contextCSN of the database, or more entries at once)"
            ))
        }
    }
}
