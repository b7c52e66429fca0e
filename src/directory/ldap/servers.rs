//! Selection of the LDAP server in use.
//!
//! One task selects the server: it tries the servers in order, keeps the first usable one while it
//! works and no preferred one is back, and keeps trying while none is usable. A slow server is
//! replaced by one with half its latency until it is quick again; without such a server it stays in
//! use. All others watch the selection.
//!
//! Promises: while no server is usable, lookups fail at once; a server that is back is used within
//! about two seconds, without any lookup.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{ConnectError, Connection, ConnectionEnd, ConnectionSettings};
use super::latency::{SLOW, is_faster};
use super::srv::{self, ServerSpec};
use super::url::ServerUrl;
use crate::directory::entry::Outage;

/// The first and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// The same after invalid credentials: every attempt counts towards locking the account.
const CREDENTIALS_BACKOFF: (Duration, Duration) =
    (Duration::from_secs(30), Duration::from_secs(5 * 60));

/// The same if an attribute is missing: searching for it may be expensive.
const ATTRIBUTE_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Interval between checks of the connection in use; shorter than the idle timeouts of servers and
/// firewalls.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Delay of the first search for attributes without values: lookups come first.
const FIRST_CHECK_DELAY: Duration = Duration::from_secs(1);

/// Interval between searches for a faster server.
const MEASURE_INTERVAL: Duration = Duration::from_secs(60);

/// Interval between warnings of a slow server.
const WARN_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// Interval between DNS queries for the servers.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// A view of the selection.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    state: watch::Receiver<State>,
}

#[derive(Debug, Clone)]
enum State {
    /// Connecting, for the first time or after losing a server: worth waiting for.
    Connecting { first: bool },
    /// A server is in use.
    Up(Arc<Connection>),
    /// No server is usable; attempts go on.
    Down(Outage),
}

impl Servers {
    /// Starts to connect; the task ends when `stop` is cancelled.
    pub(super) fn start(
        specs: Vec<ServerSpec>,
        access: Arc<ConnectionSettings>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Servers {
        let (publish, state) = watch::channel(State::Connecting { first: true });
        let chooser = ServerSelector {
            specs,
            discovered_at: None,
            srv_problems: Vec::new(),
            servers: Vec::new(),
            warned_at: None,
            access,
            publish,
        };
        tasks.spawn(chooser.run(stop));
        Servers { state }
    }

    /// Returns a connection that works as far as is known.
    pub(super) async fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, Outage> {
        let mut state = self.state.clone();
        let usable = state.wait_for(|state| match state {
            State::Connecting { .. } => false,
            State::Up(connection) => !connection.is_closed(),
            State::Down(_) => true,
        });
        let state = match timeout_at(deadline, usable).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => return Err(Outage::new("directory closed")),
            Err(_) => return Err(Outage::new("not connected to any LDAP server yet")),
        };
        match state {
            State::Up(connection) => Ok(connection),
            State::Down(outage) => Err(outage),
            State::Connecting { .. } => Err(Outage::new("not connected to any LDAP server yet")),
        }
    }

    /// Returns the outage, if no server is in use.
    pub(super) fn outage(&self) -> Option<Outage> {
        match &*self.state.borrow() {
            State::Up(_) | State::Connecting { first: false } => None,
            State::Connecting { first: true } => {
                Some(Outage::new("not connected to any LDAP server yet"))
            }
            State::Down(outage) => Some(outage.clone()),
        }
    }
}

struct ServerSelector {
    specs: Vec<ServerSpec>,
    /// Time of the last successful DNS queries for all servers.
    discovered_at: Option<Instant>,
    /// Problems of finding servers by DNS.
    srv_problems: Vec<String>,
    servers: Vec<Candidate>,
    /// Time of the last warning that the server in use is slow and none is faster.
    warned_at: Option<Instant>,
    access: Arc<ConnectionSettings>,
    publish: watch::Sender<State>,
}

impl ServerSelector {
    async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.choose()).await;
        let last = self
            .publish
            .send_replace(State::Down(Outage::new("directory closed")));
        if let State::Up(connection) = last {
            connection.close().await;
        }
    }

    async fn choose(&mut self) {
        let mut logged = None;
        let mut acceptances = self.access.presence.acceptances();
        loop {
            self.discover().await;
            match self.connect_verified().await {
                Ok((index, connection)) => {
                    tracing::info!(server = connection.url(), "directory connected");
                    logged = None;
                    self.publish(State::Up(Arc::clone(&connection)));
                    self.serve(index, connection).await;
                    self.publish(State::Connecting { first: false });
                }
                Err(outage) => {
                    if logged.as_ref() != Some(&outage) {
                        tracing::error!("{outage}");
                        logged = Some(outage.clone());
                    }
                    self.publish(State::Down(outage));
                    let next = self.servers.iter().filter_map(Candidate::retry_at).min();
                    let next = next.unwrap_or_else(|| Instant::now() + BACKOFF.1);
                    // An operator may accept the missing attribute in the meantime.
                    if timeout_at(next, acceptances.changed()).await.is_ok() {
                        self.servers
                            .iter_mut()
                            .for_each(Candidate::clear_attribute_backoff);
                    }
                }
            }
        }
    }

    /// Connects to the first usable server. If an attribute has no values there, the other servers
    /// are checked before that is believed.
    async fn connect_verified(&mut self) -> Result<(usize, Arc<Connection>), Outage> {
        let (index, connection) = self.connect_first().await?;
        let deadline = self.access.deadline();
        if self.servers.len() == 1 || !self.access.presence.has_unseen_attributes() {
            return Ok((index, connection));
        }
        if connection
            .look_for_unseen_attributes(deadline)
            .await
            .is_ok()
        {
            self.check_other_servers(index).await;
        }
        if connection.verify(deadline).await.is_ok() {
            return Ok((index, connection));
        }
        let ConnectionEnd::AttributeMissing(reason) = connection.wait_for_end().await else {
            return self.connect_first().await;
        };
        self.servers[index].record_failure(ConnectError::AttributeMissing(reason));
        self.connect_first().await
    }

    /// Checks the other servers for attributes without values.
    async fn check_other_servers(&mut self, index: usize) {
        let server_timeout = self.server_timeout();
        if !self.access.presence.has_unseen_attributes() {
            return;
        }
        for (other, server) in self.servers.iter_mut().enumerate() {
            if other == index || server.retry_at().is_some() {
                continue;
            }
            match Connection::connect(&server.url, &self.access, server_timeout).await {
                Ok(connection) => {
                    // The result is recorded.
                    let _ = connection
                        .look_for_unseen_attributes(Instant::now() + server_timeout)
                        .await;
                    connection.close().await;
                }
                Err(error) => server.record_failure(error),
            }
            if !self.access.presence.has_unseen_attributes() {
                return;
            }
        }
    }

    /// Finds the servers, from time to time by DNS. A known server keeps its state.
    async fn discover(&mut self) {
        let again = match self
            .specs
            .iter()
            .any(|one| matches!(one, ServerSpec::Domain(_)))
        {
            true => DISCOVERY_INTERVAL,
            false => Duration::MAX,
        };
        if self
            .discovered_at
            .is_some_and(|when| when.elapsed() < again)
        {
            return;
        }
        let (urls, srv_problems) = srv::resolve_servers(&self.specs, self.access.starttls).await;
        if srv_problems.is_empty() {
            self.discovered_at = Some(Instant::now());
        } else if !self.servers.is_empty() {
            tracing::warn!(
                "cannot resolve directory.urls, keeping the known servers: {}",
                srv_problems.join("; ")
            );
            return;
        }
        self.srv_problems = srv_problems;
        let mut known = std::mem::take(&mut self.servers);
        for url in urls {
            let old = known.iter().position(|server| server.url == url);
            let server = old.map(|at| known.swap_remove(at));
            self.servers
                .push(server.unwrap_or_else(|| Candidate::new(url)));
        }
    }

    /// Uses a connection until its end, and returns to a preferred server as soon as it is
    /// available again.
    async fn serve(&mut self, mut index: usize, mut connection: Arc<Connection>) {
        let mut acceptances = self.access.presence.acceptances();
        let (mut discovered_at, mut is_first, mut measured) = (Instant::now(), true, None);
        loop {
            let next = async {
                tokio::select! {
                    end = connection.wait_for_end() => ServerEvent::ConnectionEnd(end),
                    Ok(()) = acceptances.changed() => ServerEvent::Acceptance,
                    () = wait_until_slow(&connection, measured) => ServerEvent::Slow,
                }
            };
            let is_unseen_check_due =
                self.access.presence.has_unseen_attributes() && connection.is_unseen_check_due();
            let max_wait = match is_first && is_unseen_check_due {
                true => FIRST_CHECK_DELAY,
                false => CHECK_INTERVAL,
            };
            let was_first = std::mem::replace(&mut is_first, false);
            match timeout(max_wait, next).await {
                Ok(ServerEvent::ConnectionEnd(end)) => {
                    return self.servers[index].record_end(&end, connection.has_answered());
                }
                Ok(ServerEvent::Slow) => {
                    (measured, is_first) = (Some(Instant::now()), was_first);
                    let faster = tokio::select! {
                        faster = self.connect_faster(index, &connection) => faster,
                        // Lookups wait for another server meanwhile.
                        _ = connection.wait_for_end() => None,
                    };
                    if let Some(faster) = faster {
                        self.switch_to(&mut index, &mut connection, faster);
                    }
                    continue;
                }
                Ok(ServerEvent::Acceptance) => {
                    // What is still present is recorded again.
                    let deadline = self.access.deadline();
                    if connection
                        .look_for_unseen_attributes(deadline)
                        .await
                        .is_ok()
                    {
                        connection.mark_answered();
                    }
                    continue;
                }
                Err(_) => {
                    // Detects an unnoticed end: a hung server, or a firewall that dropped the
                    // connection. An error that matters closes the connection.
                    let deadline = self.access.deadline();
                    if connection.check(deadline).await.is_ok() {
                        connection.mark_answered();
                    }
                }
            }
            if self.access.presence.has_unseen_attributes()
                && discovered_at.elapsed() >= DISCOVERY_INTERVAL
            {
                discovered_at = Instant::now();
                self.check_other_servers(index).await;
            }
            if connection.is_closed() {
                continue;
            }
            let preferred = tokio::select! {
                preferred = self.connect_preferred(index, &connection) => preferred,
                _ = connection.wait_for_end() => None,
            };
            if let Some(preferred) = preferred {
                let server = preferred.1.url();
                tracing::info!(server, "back to a preferred directory server");
                self.switch_to(&mut index, &mut connection, preferred);
            }
        }
    }

    /// Switches to another connection; operations in flight on the old one are completed.
    fn switch_to(
        &self,
        index: &mut usize,
        connection: &mut Arc<Connection>,
        other: (usize, Arc<Connection>),
    ) {
        self.publish(State::Up(Arc::clone(&other.1)));
        let old = std::mem::replace(connection, other.1);
        tokio::spawn(async move { old.drain_and_close().await });
        *index = other.0;
    }

    /// Connects to a server preferred to the one in use, unless it is slow and the one in use is
    /// faster.
    async fn connect_preferred(
        &mut self,
        index: usize,
        connection: &Arc<Connection>,
    ) -> Option<(usize, Arc<Connection>)> {
        for before in 0..index {
            let Some(preferred) = self.connect(before).await else {
                continue;
            };
            let is_good = match preferred.measure_lookup().await {
                Ok(took) if took < SLOW => true,
                Ok(took) => match connection.measure_lookup().await {
                    Ok(own) => !is_faster(own, took),
                    Err(_) => true,
                },
                Err(_) => false,
            };
            if is_good {
                return Some((before, preferred));
            }
            preferred.close().await;
        }
        None
    }

    /// Connects to a server with half the latency of the one in use, which is slow.
    async fn connect_faster(
        &mut self,
        index: usize,
        connection: &Arc<Connection>,
    ) -> Option<(usize, Arc<Connection>)> {
        // On a timeout, the latency is the time limit.
        let own = connection.measure_lookup().await;
        let own = own.unwrap_or(self.access.timeout);
        if own < SLOW {
            return None;
        }
        let slow = connection.url();
        for other in (0..self.servers.len()).filter(|other| *other != index) {
            let Some(faster) = self.connect(other).await else {
                continue;
            };
            if let Ok(took) = faster.measure_lookup().await
                && is_faster(took, own)
            {
                let server = faster.url();
                tracing::warn!(
                    server,
                    "switched from a slow directory server to a faster one: {slow} answers in {own:.1?}, {server} in {took:.1?}"
                );
                return Some((other, faster));
            }
            faster.close().await;
        }
        if self
            .warned_at
            .is_none_or(|when| when.elapsed() >= WARN_INTERVAL)
        {
            self.warned_at = Some(Instant::now());
            tracing::warn!(
                server = slow,
                "slow directory server: answers take {own:.1?}; mail to people who are not cached is delayed"
            );
        }
        None
    }

    /// Connects to one server, unless its backoff is in effect.
    async fn connect(&mut self, index: usize) -> Option<Arc<Connection>> {
        let server_timeout = self.server_timeout();
        let server = self.servers.get_mut(index)?;
        if server.retry_at().is_some() {
            return None;
        }
        // After a failure a server gets the whole time limit: it may be slow, and no lookup waits
        // now.
        let max_wait = match server.backoff {
            None => server_timeout,
            Some(_) => self.access.timeout,
        };
        match Connection::connect(&server.url, &self.access, max_wait).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                counter!("copyist_directory_connect_failures_total").increment(1);
                server.record_failure(error);
                None
            }
        }
    }

    fn publish(&self, state: State) {
        let up = matches!(state, State::Up(_));
        gauge!("copyist_directory_up").set(if up { 1.0 } else { 0.0 });
        self.publish.send_replace(state);
    }

    fn server_timeout(&self) -> Duration {
        self.access.timeout / u32::try_from(self.servers.len()).unwrap_or(1).max(1)
    }

    /// Tries the servers in order, except those in backoff. Each has its share of the time: a first
    /// server that drops packets must leave time for the second while the lookup still waits.
    async fn connect_first(&mut self) -> Result<(usize, Arc<Connection>), Outage> {
        for index in 0..self.servers.len() {
            if let Some(connection) = self.connect(index).await {
                return Ok((index, connection));
            }
        }
        let errors = self.servers.iter().filter_map(Candidate::last_error);
        let errors: Vec<&str> = errors
            .chain(self.srv_problems.iter().map(String::as_str))
            .collect();
        Err(Outage::new(errors.join("; ")))
    }
}

/// An event on the connection in use.
enum ServerEvent {
    ConnectionEnd(ConnectionEnd),
    /// An operator accepted missing values.
    Acceptance,
    Slow,
}

/// Waits until the server in use is slow, with a pause after the last measurement.
async fn wait_until_slow(connection: &Connection, measured: Option<Instant>) {
    if let Some(measured) = measured {
        sleep_until(measured + MEASURE_INTERVAL).await;
    }
    connection.latency().wait_until_slow().await;
}

/// A server and its backoff.
struct Candidate {
    url: ServerUrl,
    backoff: Option<Backoff>,
}

struct Backoff {
    error: ConnectError,
    until: Instant,
    pause: Duration,
}

impl Backoff {
    fn without_pause(error: ConnectError) -> Backoff {
        Backoff {
            error,
            until: Instant::now(),
            pause: Duration::ZERO,
        }
    }
}

impl Candidate {
    fn new(url: ServerUrl) -> Candidate {
        Candidate { url, backoff: None }
    }

    fn record_failure(&mut self, error: ConnectError) {
        let (first, longest) = match error {
            ConnectError::Credentials(_) => CREDENTIALS_BACKOFF,
            ConnectError::AttributeMissing(_) => ATTRIBUTE_BACKOFF,
            ConnectError::Other(_) => BACKOFF,
        };
        let before = self.backoff.as_ref().map(|backoff| backoff.pause * 2);
        let pause = before.unwrap_or(first).clamp(first, longest);
        self.backoff = Some(Backoff {
            error,
            until: Instant::now() + pause,
            pause,
        });
    }

    /// Ends the backoff for a missing attribute, which was accepted.
    fn clear_attribute_backoff(&mut self) {
        if matches!(&self.backoff, Some(backoff) if matches!(backoff.error, ConnectError::AttributeMissing(_)))
        {
            self.backoff = None;
        }
    }

    /// Records the end of the connection. One that worked and was merely closed is opened again at
    /// once.
    fn record_end(&mut self, end: &ConnectionEnd, has_answered: bool) {
        if has_answered {
            self.backoff = None;
        }
        match end {
            ConnectionEnd::Failed(reason) => {
                tracing::warn!("directory connection failed: {reason}");
                self.record_failure(ConnectError::Other(reason.clone()));
            }
            ConnectionEnd::AttributeMissing(reason) => {
                tracing::error!("directory server rejected: {reason}");
                self.record_failure(ConnectError::AttributeMissing(reason.clone()));
            }
            ConnectionEnd::Closed => {
                let url = &self.url;
                tracing::info!(
                    server = url.as_str(),
                    "directory connection closed by the server"
                );
                let error = ConnectError::Other(format!("{url} closed the connection"));
                match &self.backoff {
                    None if has_answered => {}
                    // Once may be chance, and the interrupted lookup is to be repeated now.
                    None => self.backoff = Some(Backoff::without_pause(error)),
                    Some(_) => self.record_failure(error),
                }
            }
        }
    }

    fn retry_at(&self) -> Option<Instant> {
        let until = self.backoff.as_ref()?.until;
        (until > Instant::now()).then_some(until)
    }

    fn last_error(&self) -> Option<&str> {
        match &self.backoff.as_ref()?.error {
            ConnectError::Credentials(reason)
            | ConnectError::AttributeMissing(reason)
            | ConnectError::Other(reason) => Some(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Candidate {
        Candidate::new(ServerUrl::parse("ldap://dc1", false).expect("a URL"))
    }

    fn pauses(mut server: Candidate, error: ConnectError, times: usize) -> Vec<u64> {
        let pause = |server: &mut Candidate| {
            server.record_failure(error.clone());
            let until = server.retry_at().expect("a pause");
            u64::try_from((until - Instant::now()).as_millis()).expect("short")
        };
        (0..times).map(|_| pause(&mut server)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_is_tried_again_within_two_seconds() {
        let error = ConnectError::Other("refused".into());
        assert_eq!(pauses(server(), error, 5), [250, 500, 1000, 2000, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn rejected_credentials_are_retried_too_rarely_to_lock_accounts() {
        let error = ConnectError::Credentials("refused".into());
        assert_eq!(
            pauses(server(), error, 5),
            [30_000, 60_000, 120_000, 240_000, 300_000]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_that_was_closed_is_opened_again_at_once() {
        let mut server = server();
        server.record_end(&ConnectionEnd::Closed, true);
        assert_eq!(server.retry_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_closes_after_bind_is_not_retried_in_a_loop() {
        let mut server = server();
        server.record_end(&ConnectionEnd::Closed, false);
        assert_eq!(server.retry_at(), None, "once may be chance");
        server.record_end(&ConnectionEnd::Closed, false);
        assert!(server.retry_at().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_misbehaving_server_is_avoided_even_if_it_worked_before() {
        let mut server = server();
        server.record_end(&ConnectionEnd::Failed("silent".into()), true);
        assert!(server.retry_at().is_some());
        assert_eq!(server.last_error(), Some("silent"));
    }
}
