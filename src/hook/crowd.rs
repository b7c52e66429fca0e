//! How many connections are open, in all and of each client, so that one client leaves room for
//! others.
//!
//! A connection that has not begun as its protocol does is *idle*: it costs an attacker nothing, so
//! it keeps nobody out. Where there is no room for one more, the oldest idle connection is closed
//! instead.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How long a connection has to begin before it may be closed for another. A peer that is about to
/// begin takes milliseconds; without this a flood of connections would close those that have just
/// come.
const IDLE: Duration = Duration::from_millis(250);

/// The connections that are open at one time.
#[derive(Debug, Default)]
pub struct Crowd(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    next: u64,
    /// The client that each open connection counts for.
    open: HashMap<u64, Option<IpAddr>>,
    of: HashMap<IpAddr, usize>,
    /// Those that have not begun, the oldest first.
    idle: BTreeMap<u64, Idle>,
}

/// A connection that has not begun.
#[derive(Debug)]
struct Idle {
    since: Instant,
    close: CancellationToken,
}

/// One of the connections; not counted any more when this is dropped.
#[derive(Debug)]
pub struct Seat {
    crowd: Arc<Crowd>,
    number: u64,
    close: CancellationToken,
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowded {
    /// There are as many as there may be.
    Full,
    /// This client has its share.
    Share,
}

impl Crowd {
    /// Counts one more connection among at most `most`, of which one client may hold `share`. It is
    /// idle.
    pub fn enter(
        self: &Arc<Crowd>,
        client: Option<IpAddr>,
        most: usize,
        share: usize,
    ) -> Result<Seat, Crowded> {
        let mut counts = self.counts();
        let client = client.map(known_as);
        // At least one, whatever the share is of.
        let has_share =
            |counts: &Counts| client.is_some_and(|client| counts.held(client) >= share.max(1));
        if has_share(&counts) && !counts.close_idle(|of| of == client) {
            return Err(Crowded::Share);
        }
        if counts.open.len() >= most && !counts.close_idle(|_| true) {
            return Err(Crowded::Full);
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
        Ok(Seat {
            crowd: self.clone(),
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

    /// Closes the oldest idle connection of such a client, and says whether there was one.
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

impl Seat {
    /// The connection has begun as its protocol does: it is not closed for another from now on.
    pub fn begin(&self) {
        self.crowd.counts().idle.remove(&self.number);
    }

    /// Cancelled when this connection is closed for another.
    pub fn close(&self) -> CancellationToken {
        self.close.clone()
    }

    /// Counts it for another client from now on: on whose behalf it was opened.
    pub fn count_for(&self, client: IpAddr, share: usize) -> Result<(), Crowded> {
        let client = known_as(client);
        let mut counts = self.crowd.counts();
        let before = match counts.open.get(&self.number) {
            Some(before) if *before != Some(client) => *before,
            // It is counted so, or was closed for another.
            _ => return Ok(()),
        };
        if counts.held(client) >= share.max(1) {
            return Err(Crowded::Share);
        }
        *counts.of.entry(client).or_default() += 1;
        counts.open.insert(self.number, Some(client));
        if let Some(before) = before {
            counts.leave(before);
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.counts().remove(self.number);
    }
}

/// One IPv6 client has a whole network of 64 bits to choose addresses from.
fn known_as(ip: IpAddr) -> IpAddr {
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
        let crowd = Arc::new(Crowd::default());
        let enter = |from: &str| {
            let seat = crowd.enter(Some(ip(from)), 4, 2);
            seat.inspect(Seat::begin)
        };
        let first = enter("192.0.2.1").expect("room");
        let _second = enter("::ffff:192.0.2.1").expect("room");
        assert_eq!(enter("192.0.2.1").expect_err("two"), Crowded::Share);
        let _other = enter("2001:db8::1").expect("room");
        drop(first);
        let _again = enter("192.0.2.1").expect("room");
        let _same = enter("2001:db8::2").expect("room");
        assert_eq!(enter("192.0.2.9").expect_err("four"), Crowded::Full);
    }

    #[test]
    fn a_connection_is_counted_for_whom_it_was_opened() {
        let crowd = Arc::new(Crowd::default());
        let enter = || crowd.enter(None, 100, 1).expect("room");
        let (first, second) = (enter(), enter());
        assert!(first.count_for(ip("192.0.2.1"), 1).is_ok());
        assert!(first.count_for(ip("192.0.2.1"), 1).is_ok(), "the same");
        assert_eq!(second.count_for(ip("192.0.2.1"), 1), Err(Crowded::Share));
        assert!(first.count_for(ip("192.0.2.2"), 1).is_ok());
        assert!(second.count_for(ip("192.0.2.1"), 1).is_ok());
        drop((first, second));
        assert!(crowd.counts().of.is_empty() && crowd.counts().open.is_empty());
    }

    #[test]
    fn the_oldest_idle_connection_makes_room() {
        let crowd = Arc::new(Crowd::default());
        let enter = |from: &str| crowd.enter(Some(ip(from)), 3, 2);
        let begun = enter("192.0.2.1").expect("room");
        begun.begin();
        let idle = enter("192.0.2.1").expect("room");
        let other = enter("192.0.2.2").expect("room");
        // They have only just come.
        assert_eq!(enter("192.0.2.1").expect_err("two"), Crowded::Share);
        assert_eq!(enter("192.0.2.3").expect_err("three"), Crowded::Full);
        std::thread::sleep(IDLE);
        let second = enter("192.0.2.1").expect("its idle one gives way");
        assert!(idle.close().is_cancelled() && !begun.close().is_cancelled());
        let third = enter("192.0.2.3").expect("the oldest of all gives way");
        assert!(other.close().is_cancelled());
        drop((idle, other));
        assert_eq!(crowd.counts().open.len(), 3, "each is counted once");
        drop((begun, second, third));
        assert!(crowd.counts().of.is_empty() && crowd.counts().idle.is_empty());
    }
}
