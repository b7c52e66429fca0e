//! How many connections there are, in all and of each client, so that one client leaves room for others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections that are open at one time.
#[derive(Debug, Default)]
pub struct Crowd(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One of them; not counted any more when this is dropped.
#[derive(Debug)]
pub struct Seat {
    crowd: Arc<Crowd>,
    /// Whom it is counted for.
    client: Option<IpAddr>,
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
    /// Counts one more connection among at most `most`, of which one client may hold `share`.
    pub fn enter(
        self: &Arc<Crowd>,
        client: Option<IpAddr>,
        most: usize,
        share: usize,
    ) -> Result<Seat, Crowded> {
        let mut counts = self.counts();
        if counts.all >= most {
            return Err(Crowded::Full);
        }
        let client = client.map(known_as);
        if let Some(client) = client {
            counts.add(client, share)?;
        }
        counts.all += 1;
        Ok(Seat {
            crowd: self.clone(),
            client,
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn add(&mut self, client: IpAddr, share: usize) -> Result<(), Crowded> {
        let held = self.of.entry(client).or_default();
        // At least one, whatever the share is of.
        if *held >= share.max(1) {
            return Err(Crowded::Share);
        }
        *held += 1;
        Ok(())
    }

    fn remove(&mut self, client: IpAddr) {
        if let Some(held) = self.of.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                self.of.remove(&client);
            }
        }
    }
}

impl Seat {
    /// Counts it for another client from now on: on whose behalf it was opened.
    pub fn count_for(&mut self, client: IpAddr, share: usize) -> Result<(), Crowded> {
        let client = known_as(client);
        if self.client == Some(client) {
            return Ok(());
        }
        let mut counts = self.crowd.counts();
        counts.add(client, share)?;
        if let Some(before) = self.client.replace(client) {
            counts.remove(before);
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts();
        counts.all -= 1;
        if let Some(client) = self.client {
            counts.remove(client);
        }
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
        let enter = |from: &str| crowd.enter(Some(ip(from)), 4, 2);
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
        let (mut first, mut second) = (enter(), enter());
        assert!(first.count_for(ip("192.0.2.1"), 1).is_ok());
        assert!(first.count_for(ip("192.0.2.1"), 1).is_ok(), "the same");
        assert_eq!(second.count_for(ip("192.0.2.1"), 1), Err(Crowded::Share));
        assert!(first.count_for(ip("192.0.2.2"), 1).is_ok());
        assert!(second.count_for(ip("192.0.2.1"), 1).is_ok());
        drop((first, second));
        assert!(crowd.counts().of.is_empty() && crowd.counts().all == 0);
    }
}
