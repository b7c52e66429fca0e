//! Which of the LDAP servers is used.
//!
//! One task owns the choice: it tries the servers in their order, keeps the first that lets us in
//! for as long as it works and none before it does, and goes on trying while none does. A slow one
//! is left for one that answers in half the time, until it is quick again; without such a one it
//! stays in use. Everybody else watches.
//!
//! Promises: while no server can be used, whoever asks hears so at once; a server that is back is
//! used within about two seconds, without anybody asking.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Access, Connection, End, EnterError};
use super::discovery::{self, Given};
use super::latency::{SLOW, is_faster};
use super::url::ServerUrl;
use crate::directory::entry::Outage;

/// The first and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// The same after refused credentials: every attempt counts towards locking the account.
const PAUSE_CREDENTIALS: (Duration, Duration) =
    (Duration::from_secs(30), Duration::from_secs(5 * 60));

/// The same where an attribute is missing: to look for it may cost the server much.
const PAUSE_EMPTY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// How often a connection in use is tried, needed or not; shorter than servers' and firewalls'
/// patience with idle connections.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// How soon a server in use is asked for attributes that nobody was found to have: whoever asks for
/// people comes first.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How often is looked for a faster server than a slow one.
const MEASURE_EVERY: Duration = Duration::from_secs(60);

/// How often is warned that there is none.
const WARN_EVERY: Duration = Duration::from_secs(10 * 60);

/// How often the DNS is asked for the servers, where it is to name them and none is in use.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);

/// A view on the choice.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    state: watch::Receiver<State>,
}

#[derive(Debug, Clone)]
enum State {
    /// On the way to a server, for the first time ever or after losing one: worth waiting for.
    Connecting { first: bool },
    /// One is in use.
    Up(Arc<Connection>),
    /// None can be used; trying goes on.
    Down(Outage),
}

impl Servers {
    /// Starts to connect; the task ends when `stop` is cancelled.
    pub(super) fn start(
        given: Vec<Given>,
        access: Arc<Access>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Servers {
        let (publish, state) = watch::channel(State::Connecting { first: true });
        let chooser = Chooser {
            given,
            looked: None,
            unnamed: Vec::new(),
            servers: Vec::new(),
            warned: None,
            access,
            publish,
        };
        tasks.spawn(chooser.run(stop));
        Servers { state }
    }

    /// A connection that works as far as is known.
    pub(super) async fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, Outage> {
        let mut state = self.state.clone();
        let usable = state.wait_for(|state| match state {
            State::Connecting { .. } => false,
            State::Up(connection) => !connection.is_lost(),
            State::Down(_) => true,
        });
        let state = match timeout_at(deadline, usable).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => return Err(Outage::new("the directory was closed")),
            Err(_) => return Err(Outage::new("no LDAP server let us in so far")),
        };
        match state {
            State::Up(connection) => Ok(connection),
            State::Down(outage) => Err(outage),
            State::Connecting { .. } => Err(Outage::new("no LDAP server let us in so far")),
        }
    }

    /// Why no server is in use.
    pub(super) fn outage(&self) -> Option<Outage> {
        match &*self.state.borrow() {
            State::Up(_) | State::Connecting { first: false } => None,
            State::Connecting { first: true } => {
                Some(Outage::new("no LDAP server let us in so far"))
            }
            State::Down(outage) => Some(outage.clone()),
        }
    }
}

struct Chooser {
    given: Vec<Given>,
    /// When the DNS was asked last for all servers and answered.
    looked: Option<Instant>,
    /// Why some servers could not be named.
    unnamed: Vec<String>,
    servers: Vec<Server>,
    /// When it was warned last that the server in use is slow and no other is faster.
    warned: Option<Instant>,
    access: Arc<Access>,
    publish: watch::Sender<State>,
}

impl Chooser {
    async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.choose()).await;
        let last = self
            .publish
            .send_replace(State::Down(Outage::new("the directory was closed")));
        if let State::Up(connection) = last {
            connection.leave().await;
        }
    }

    async fn choose(&mut self) {
        let mut logged = None;
        let mut acceptances = self.access.presence.acceptances();
        loop {
            self.discover().await;
            match self.enter_best().await {
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
                    let next = self.servers.iter().filter_map(Server::paused_until).min();
                    let next = next.unwrap_or_else(|| Instant::now() + PAUSE.1);
                    // What is missing may be accepted meanwhile.
                    if timeout_at(next, acceptances.changed()).await.is_ok() {
                        self.servers.iter_mut().for_each(Server::forgive_empty);
                    }
                }
            }
        }
    }

    /// Enters the first server that can be used. Where nobody was found to have some attribute
    /// there, the others are looked at before that is believed.
    async fn enter_best(&mut self) -> Result<(usize, Arc<Connection>), Outage> {
        let (index, connection) = self.enter_one().await?;
        let deadline = self.access.deadline();
        if self.servers.len() == 1 || !self.access.presence.is_unsure() {
            return Ok((index, connection));
        }
        if connection.look_for_others(deadline).await.is_ok() {
            self.look_at_others(index).await;
        }
        if connection.verify(deadline).await.is_ok() {
            return Ok((index, connection));
        }
        let End::Empty(why) = connection.end().await else {
            return self.enter_one().await;
        };
        self.servers[index].failed(EnterError::Empty(why));
        self.enter_one().await
    }

    /// Sees what the other servers show of attributes that nobody was found to have.
    async fn look_at_others(&mut self, index: usize) {
        let share = self.share();
        if !self.access.presence.is_unsure() {
            return;
        }
        for (other, server) in self.servers.iter_mut().enumerate() {
            if other == index || server.paused_until().is_some() {
                continue;
            }
            match Connection::enter(&server.url, &self.access, share).await {
                Ok(connection) => {
                    // What comes of it is noted.
                    let _ = connection.look_for_others(Instant::now() + share).await;
                    connection.leave().await;
                }
                Err(error) => server.failed(error),
            }
            if !self.access.presence.is_unsure() {
                return;
            }
        }
    }

    /// Learns which servers there are, from the DNS now and then. A server that is known keeps its
    /// history.
    async fn discover(&mut self) {
        let again = match self.given.iter().any(|one| matches!(one, Given::Domain(_))) {
            true => LOOK_EVERY,
            false => Duration::MAX,
        };
        if self.looked.is_some_and(|when| when.elapsed() < again) {
            return;
        }
        let (urls, unnamed) = discovery::servers(&self.given, self.access.starttls).await;
        if unnamed.is_empty() {
            self.looked = Some(Instant::now());
        } else if !self.servers.is_empty() {
            tracing::warn!("the known servers stay: {}", unnamed.join("; "));
            return;
        }
        self.unnamed = unnamed;
        let mut known = std::mem::take(&mut self.servers);
        for url in urls {
            let old = known.iter().position(|server| server.url == url);
            let server = old.map(|at| known.swap_remove(at));
            self.servers
                .push(server.unwrap_or_else(|| Server::new(url)));
        }
    }

    /// Uses a connection until its end, and goes back to a server that stands before it as soon as
    /// that one is there again.
    async fn serve(&mut self, mut index: usize, mut connection: Arc<Connection>) {
        let mut acceptances = self.access.presence.acceptances();
        let (mut looked, mut is_first, mut measured) = (Instant::now(), true, None);
        loop {
            let next = async {
                tokio::select! {
                    end = connection.end() => News::End(end),
                    Ok(()) = acceptances.changed() => News::Accepted,
                    () = becomes_slow(&connection, measured) => News::Slow,
                }
            };
            let is_look_due = self.access.presence.is_unsure() && connection.is_look_due();
            let patience = match is_first && is_look_due {
                true => LOOK_AFTER,
                false => CHECK_EVERY,
            };
            let was_first = std::mem::replace(&mut is_first, false);
            match timeout(patience, next).await {
                Ok(News::End(end)) => {
                    return self.servers[index].ended(&end, connection.is_proven());
                }
                Ok(News::Slow) => {
                    (measured, is_first) = (Some(Instant::now()), was_first);
                    let faster = tokio::select! {
                        faster = self.enter_faster(index, &connection) => faster,
                        // Whoever asks waits for another one meanwhile.
                        _ = connection.end() => None,
                    };
                    if let Some(faster) = faster {
                        self.change(&mut index, &mut connection, faster);
                    }
                    continue;
                }
                Ok(News::Accepted) => {
                    // What is still there is noted again, so that it is missed again.
                    let deadline = self.access.deadline();
                    if connection.look_for_others(deadline).await.is_ok() {
                        connection.prove();
                    }
                    continue;
                }
                Err(_) => {
                    // Sees whether the end has come unnoticed: a server that hangs, or a firewall
                    // that forgot us, says nothing. A fault that matters ends the connection by
                    // itself.
                    let deadline = self.access.deadline();
                    if connection.check(deadline).await.is_ok() {
                        connection.prove();
                    }
                }
            }
            if self.access.presence.is_unsure() && looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                self.look_at_others(index).await;
            }
            if connection.is_lost() {
                continue;
            }
            let preferred = tokio::select! {
                preferred = self.enter_preferred(index, &connection) => preferred,
                _ = connection.end() => None,
            };
            if let Some(preferred) = preferred {
                let server = preferred.1.url();
                tracing::info!(server, "back to a preferred directory server");
                self.change(&mut index, &mut connection, preferred);
            }
        }
    }

    /// Goes on with another connection; what is under way on the old one comes to its end.
    fn change(
        &self,
        index: &mut usize,
        connection: &mut Arc<Connection>,
        other: (usize, Arc<Connection>),
    ) {
        self.publish(State::Up(Arc::clone(&other.1)));
        let old = std::mem::replace(connection, other.1);
        tokio::spawn(async move { old.retire().await });
        *index = other.0;
    }

    /// Enters a server that stands before the one in use, unless it is slow and the one in use is
    /// faster.
    async fn enter_preferred(
        &mut self,
        index: usize,
        connection: &Arc<Connection>,
    ) -> Option<(usize, Arc<Connection>)> {
        for before in 0..index {
            let Some(preferred) = self.enter(before).await else {
                continue;
            };
            let is_good = match preferred.measure().await {
                Ok(took) if took < SLOW => true,
                Ok(took) => match connection.measure().await {
                    Ok(own) => !is_faster(own, took),
                    Err(_) => true,
                },
                Err(_) => false,
            };
            if is_good {
                return Some((before, preferred));
            }
            preferred.leave().await;
        }
        None
    }

    /// Enters a server that answers in half the time of the one in use, which is slow.
    async fn enter_faster(
        &mut self,
        index: usize,
        connection: &Arc<Connection>,
    ) -> Option<(usize, Arc<Connection>)> {
        // Not in time: it takes as long as one may.
        let own = connection.measure().await;
        let own = own.unwrap_or(self.access.timeout);
        if own < SLOW {
            return None;
        }
        let slow = connection.url();
        for other in (0..self.servers.len()).filter(|other| *other != index) {
            let Some(faster) = self.enter(other).await else {
                continue;
            };
            if let Ok(took) = faster.measure().await
                && is_faster(took, own)
            {
                let server = faster.url();
                tracing::warn!(
                    server,
                    "slow directory server left for a faster one: {slow} takes {own:.1?} for an answer, {server} {took:.1?}"
                );
                return Some((other, faster));
            }
            faster.leave().await;
        }
        if self.warned.is_none_or(|when| when.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                server = slow,
                "slow directory server: {own:.1?} for an answer; mail to people who are not in the cache waits for it"
            );
        }
        None
    }

    /// Enters one server, unless it is being left alone.
    async fn enter(&mut self, index: usize) -> Option<Arc<Connection>> {
        let share = self.share();
        let server = self.servers.get_mut(index)?;
        if server.paused_until().is_some() {
            return None;
        }
        // One that was not entered in its share is given all the time that an answer has: it may be
        // slow, and nobody waits now.
        let patience = match server.trouble {
            None => share,
            Some(_) => self.access.timeout,
        };
        match Connection::enter(&server.url, &self.access, patience).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                counter!("copyist_directory_connect_failures_total").increment(1);
                server.failed(error);
                None
            }
        }
    }

    fn publish(&self, state: State) {
        let up = matches!(state, State::Up(_));
        gauge!("copyist_directory_up").set(if up { 1.0 } else { 0.0 });
        self.publish.send_replace(state);
    }

    fn share(&self) -> Duration {
        self.access.timeout / u32::try_from(self.servers.len()).unwrap_or(1).max(1)
    }

    /// Tries the servers that are not being left alone, in order. Each has its share of the time: a
    /// first server that swallows packets must leave time for the second while the one who asked
    /// still waits.
    async fn enter_one(&mut self) -> Result<(usize, Arc<Connection>), Outage> {
        for index in 0..self.servers.len() {
            if let Some(connection) = self.enter(index).await {
                return Ok((index, connection));
            }
        }
        let faults = self.servers.iter().filter_map(Server::fault);
        let faults: Vec<&str> = faults
            .chain(self.unnamed.iter().map(String::as_str))
            .collect();
        Err(Outage::new(faults.join("; ")))
    }
}

/// What ends the wait on a connection in use.
enum News {
    End(End),
    /// An operator accepted that something is missing.
    Accepted,
    Slow,
}

/// Waits until the server in use is slow, some time after that was looked into last.
async fn becomes_slow(connection: &Connection, measured: Option<Instant>) {
    if let Some(measured) = measured {
        sleep_until(measured + MEASURE_EVERY).await;
    }
    connection.latency().becomes_slow().await;
}

/// A server and how it fared lately.
struct Server {
    url: ServerUrl,
    trouble: Option<Trouble>,
}

struct Trouble {
    fault: EnterError,
    until: Instant,
    pause: Duration,
}

impl Trouble {
    fn without_pause(fault: EnterError) -> Trouble {
        Trouble {
            fault,
            until: Instant::now(),
            pause: Duration::ZERO,
        }
    }
}

impl Server {
    fn new(url: ServerUrl) -> Server {
        Server { url, trouble: None }
    }

    fn failed(&mut self, fault: EnterError) {
        let (first, longest) = match fault {
            EnterError::Credentials(_) => PAUSE_CREDENTIALS,
            EnterError::Empty(_) => PAUSE_EMPTY,
            EnterError::Other(_) => PAUSE,
        };
        let before = self.trouble.as_ref().map(|trouble| trouble.pause * 2);
        let pause = before.unwrap_or(first).clamp(first, longest);
        self.trouble = Some(Trouble {
            fault,
            until: Instant::now() + pause,
            pause,
        });
    }

    /// What was missing there is meant to be.
    fn forgive_empty(&mut self) {
        if matches!(&self.trouble, Some(trouble) if matches!(trouble.fault, EnterError::Empty(_))) {
            self.trouble = None;
        }
    }

    /// Its connection ended. One that served us well and was merely closed is opened again at once.
    fn ended(&mut self, end: &End, proven: bool) {
        if proven {
            self.trouble = None;
        }
        match end {
            End::Condemned(why) => {
                tracing::warn!("directory connection given up: {why}");
                self.failed(EnterError::Other(why.clone()));
            }
            End::Empty(why) => {
                tracing::error!("directory server not used any more: {why}");
                self.failed(EnterError::Empty(why.clone()));
            }
            End::Closed => {
                let url = &self.url;
                tracing::info!(
                    server = url.as_str(),
                    "directory connection closed by the server"
                );
                let fault = EnterError::Other(format!("{url} closed the connection"));
                match &self.trouble {
                    None if proven => {}
                    // Once may be chance, and the question that broke with it is to be put again
                    // now.
                    None => self.trouble = Some(Trouble::without_pause(fault)),
                    Some(_) => self.failed(fault),
                }
            }
        }
    }

    fn paused_until(&self) -> Option<Instant> {
        let until = self.trouble.as_ref()?.until;
        (until > Instant::now()).then_some(until)
    }

    fn fault(&self) -> Option<&str> {
        match &self.trouble.as_ref()?.fault {
            EnterError::Credentials(why) | EnterError::Empty(why) | EnterError::Other(why) => {
                Some(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server::new(ServerUrl::parse("ldap://dc1", false).expect("a URL"))
    }

    fn pauses(mut server: Server, fault: EnterError, times: usize) -> Vec<u64> {
        let pause = |server: &mut Server| {
            server.failed(fault.clone());
            let until = server.paused_until().expect("a pause");
            u64::try_from((until - Instant::now()).as_millis()).expect("short")
        };
        (0..times).map(|_| pause(&mut server)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_is_tried_again_within_two_seconds() {
        let fault = EnterError::Other("refused".into());
        assert_eq!(pauses(server(), fault, 5), [250, 500, 1000, 2000, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_are_tried_so_seldom_that_no_account_is_locked() {
        let fault = EnterError::Credentials("refused".into());
        assert_eq!(
            pauses(server(), fault, 5),
            [30_000, 60_000, 120_000, 240_000, 300_000]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_that_was_closed_is_opened_again_at_once() {
        let mut server = server();
        server.ended(&End::Closed, true);
        assert_eq!(server.paused_until(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_lets_us_in_only_to_close_is_not_tried_in_a_tight_loop() {
        let mut server = server();
        server.ended(&End::Closed, false);
        assert_eq!(server.paused_until(), None, "once may be chance");
        server.ended(&End::Closed, false);
        assert!(server.paused_until().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_misbehaved_is_left_alone_even_if_it_worked_before() {
        let mut server = server();
        server.ended(&End::Condemned("silent".into()), true);
        assert!(server.paused_until().is_some());
        assert_eq!(server.fault(), Some("silent"));
    }
}
