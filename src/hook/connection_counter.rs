//! Open connections, counted in total and per client, so that one client cannot use up all of them.
//! A connection that has not begun its protocol is *idle*. Opening one costs an attacker nothing,
//! so idle connections must not keep others out: at the limit, the oldest idle connection is closed
//! to make room.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Time a connection has to begin its protocol before it may be closed for another. A real peer
/// takes milliseconds; without this minimum, a flood would close connections that have only just
/// been accepted.
const IDLE: Duration = Duration::from_millis(250);

/// The open connections of one or several listeners.
#[derive(Debug, Default)]
pub struct ConnectionCounter(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    next: u64,
    /// The client each open connection is counted for.
    open: HashMap<u64, Option<IpAddr>>,
    of: HashMap<IpAddr, usize>,
    /// Idle connections, oldest first.
    idle: BTreeMap<u64, Idle>,
}

/// A connection that has not begun its protocol.
#[derive(Debug)]
struct Idle {
    since: Instant,
    close: CancellationToken,
}

/// One counted connection; uncounted when dropped.
#[derive(Debug)]
pub struct CountedConnection {
    counter: Arc<ConnectionCounter>,
    number: u64,
    close: CancellationToken,
}

/// The connection limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// The limit on all connections.
    Total,
    /// The limit on connections of one client.
    PerClient,
}

impl ConnectionCounter {
    /// Counts a new connection, at first idle, within a limit of `most` in total and `share` per
    /// client.
    pub fn enter(
        self: &Arc<ConnectionCounter>,
        client: Option<IpAddr>,
        most: usize,
        share: usize,
    ) -> Result<CountedConnection, ConnectionLimit> {
        let mut counts = self.counts();
        let client = client.map(counting_key);
        // Every client may have at least one.
        let has_share =
            |counts: &Counts| client.is_some_and(|client| counts.held(client) >= share.max(1));
        if has_share(&counts) && !counts.close_idle(|of| of == client) {
            return Err(ConnectionLimit::PerClient);
        }
        if counts.open.len() >= most && !counts.close_idle(|_| true) {
            return Err(ConnectionLimit::Total);
        }
        let number = counts.next;
        counts.next += 1;
        counts.open.insert(number, client);
        if let Some(client) = client {
            *counts.of.entry(client).or_default() += 1;
        }
        let close = CancellationToken::new();
        let idle = Idle {
            since: Instant::now(),
            close: close.clone(),
        };
        counts.idle.insert(number, idle);
        drop(counts);
        Ok(CountedConnection {
            counter: self.clone(),
            number,
            close,
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn held(&self, client: IpAddr) -> usize {
        self.of.get(&client).copied().unwrap_or_default()
    }

    /// Closes the oldest idle connection of a matching client; returns whether there was one.
    fn close_idle(&mut self, is_of: impl Fn(Option<IpAddr>) -> bool) -> bool {
        let mut idle = self.idle.iter();
        let is_old = |idle: &Idle| idle.since.elapsed() >= IDLE;
        let oldest = idle.find(|(number, _)| self.open.get(number).is_some_and(|of| is_of(*of)));
        let Some((&number, _)) = oldest.filter(|(_, idle)| is_old(idle)) else {
            return false;
        };
        if let Some(idle) = self.idle.remove(&number) {
            idle.close.cancel();
        }
        self.remove(number);
        true
    }

    fn remove(&mut self, number: u64) {
        self.idle.remove(&number);
        if let Some(Some(client)) = self.open.remove(&number) {
            self.leave(client);
        }
    }

    fn leave(&mut self, client: IpAddr) {
        if let Some(held) = self.of.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                self.of.remove(&client);
            }
        }
    }
}

impl CountedConnection {
    /// Marks the connection as begun: it is no longer closed to make room for others.
    pub fn begin(&self) {
        self.counter.counts().idle.remove(&self.number);
    }

    /// Returns the token that is cancelled when this connection must make room for another.
    pub fn close(&self) -> CancellationToken {
        self.close.clone()
    }

    /// Counts the connection for another client from now on: the one on whose behalf it was opened.
    pub fn count_for(&self, client: IpAddr, share: usize) -> Result<(), ConnectionLimit> {
        let client = counting_key(client);
        let mut counts = self.counter.counts();
        let before = match counts.open.get(&self.number) {
            Some(before) if *before != Some(client) => *before,
            // Already counted for this client, or closed for another connection.
            _ => return Ok(()),
        };
        if counts.held(client) >= share.max(1) {
            return Err(ConnectionLimit::PerClient);
        }
        *counts.of.entry(client).or_default() += 1;
        counts.open.insert(self.number, Some(client));
        if let Some(before) = before {
            counts.leave(before);
        }
        Ok(())
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.counter.counts().remove(self.number);
    }
}

/// Returns the address a client is counted by: an IPv6 client has a whole /64 network to choose
/// addresses from.
fn counting_key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let network = u128::from(ip) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn one_client_has_its_share_and_others_find_room() {
        let counter = Arc::new(ConnectionCounter::default());
        let enter = |from: &str| {
            let counted = counter.enter(Some(ip(from)), 4, 2);
            counted.inspect(CountedConnection::begin)
        };
        let first = enter("192.0.2.1").expect("room");
        let _second = enter("::ffff:192.0.2.1").expect("room");
        assert_eq!(
            enter("192.0.2.1").expect_err("two"),
            ConnectionLimit::PerClient
        );
        let _other = enter("2001:db8::1").expect("room");
        drop(first);
        let _again = enter("192.0.2.1").expect("room");
        let _same = enter("2001:db8::2").expect("room");
        assert_eq!(
            enter("192.0.2.9").expect_err("four"),
            ConnectionLimit::Total
        );
    }

    #[test]
    fn a_connection_counts_for_the_client_behind_it() {
        let counter = Arc::new(ConnectionCounter::default());
        let enter = || counter.enter(None, 100, 1).expect("room");
        let (first, second) = (enter(), enter());
        assert!(first.count_for(ip("192.0.2.1"), 1).is_ok());
        assert!(first.count_for(ip("192.0.2.1"), 1).is_ok(), "the same");
        assert_eq!(
            second.count_for(ip("192.0.2.1"), 1),
            Err(ConnectionLimit::PerClient)
        );
        assert!(first.count_for(ip("192.0.2.2"), 1).is_ok());
        assert!(second.count_for(ip("192.0.2.1"), 1).is_ok());
        drop((first, second));
        assert!(counter.counts().of.is_empty() && counter.counts().open.is_empty());
    }

    #[test]
    fn the_oldest_idle_connection_makes_room() {
        let counter = Arc::new(ConnectionCounter::default());
        let enter = |from: &str| counter.enter(Some(ip(from)), 3, 2);
        let begun = enter("192.0.2.1").expect("room");
        begun.begin();
        let idle = enter("192.0.2.1").expect("room");
        let other = enter("192.0.2.2").expect("room");
        // They have only just come.
        assert_eq!(
            enter("192.0.2.1").expect_err("two"),
            ConnectionLimit::PerClient
        );
        assert_eq!(
            enter("192.0.2.3").expect_err("three"),
            ConnectionLimit::Total
        );
        std::thread::sleep(IDLE);
        let second = enter("192.0.2.1").expect("its idle one gives way");
        assert!(idle.close().is_cancelled() && !begun.close().is_cancelled());
        let third = enter("192.0.2.3").expect("the oldest of all gives way");
        assert!(other.close().is_cancelled());
        drop((idle, other));
        assert_eq!(counter.counts().open.len(), 3, "each is counted once");
        drop((begun, second, third));
        assert!(counter.counts().of.is_empty() && counter.counts().idle.is_empty());
    }
}
