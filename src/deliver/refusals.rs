//! A relay that takes nothing: refusals by it that say nothing about any recipient, and the run of
//! failed attempts.

use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;
use tracing::{error, info};

use super::connection::Fate;
use crate::journal::{ItemId, Kind};
use crate::mail::{Address, Enhanced};

/// Items in a row that the relay must have refused.
const ITEMS: u32 = 20;
/// Attempts in a row that must have failed, and of how many items, for the relay to count as one
/// that takes nothing.
const FAILURES: u32 = 5;
const FAILED_ITEMS: usize = 3;
/// How often it is said.
const SAID_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The items that the relay refused since it took one: by 5.7.1 (RFC 3463 section 3.8: delivery not
/// authorized), which is what a relay says to a client that it does not know.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    items: u32,
    /// Two of the addresses that were refused.
    addresses: Vec<Address>,
    /// It was so already when the process before this one ended.
    is_known: bool,
    said: Option<Instant>,
    /// It was so, and is over.
    is_over: bool,
    failures: Failures,
}

/// Attempts since the relay took a recipient, none of which it took.
#[derive(Debug, Default)]
struct Failures {
    attempts: u32,
    /// Some of the items.
    items: Vec<ItemId>,
}

impl Failures {
    /// Returns whether the relay takes nothing, as far as this attempt and those before it tell.
    fn note(&mut self, item: &ItemId, is_accepted: bool) -> bool {
        if is_accepted {
            *self = Failures::default();
            return false;
        }
        self.attempts = self.attempts.saturating_add(1);
        if self.items.len() < FAILED_ITEMS && !self.items.contains(item) {
            self.items.push(item.clone());
        }
        self.attempts >= FAILURES && self.items.len() == FAILED_ITEMS
    }
}

/// What is said of each item that waits for it.
pub(super) const EVERYTHING: &str = "the relay refuses everything: ";

impl Refusals {
    /// Goes on where the process before this one ended: the next refusal is one too many.
    pub(super) fn known() -> Refusals {
        Refusals {
            items: ITEMS,
            is_known: true,
            ..Refusals::default()
        }
    }

    /// Whether refusals by 5.7.1 are a fault of the relay's settings.
    pub(super) fn is_fault(&self) -> bool {
        self.items > ITEMS && (self.is_known || self.addresses.len() > 1)
    }

    /// Whether that ended since this was last asked.
    pub(super) fn take_over(&mut self) -> bool {
        std::mem::take(&mut self.is_over)
    }

    /// Notes what the relay said of one item. Gives whether refusals by it are a fault of the
    /// relay's settings: it refused the last 20 items, to at least two addresses, and took none
    /// since. That it took an NDR says nothing: many relays take mail for their own domains from
    /// everybody, and archives are elsewhere.
    pub(super) fn note<'a>(
        &mut self,
        (item, kind): (&ItemId, Kind),
        answers: impl Iterator<Item = (&'a Address, &'a Fate)>,
        now: Instant,
        relay: &str,
    ) -> bool {
        let (mut is_accepted, mut refused) = (false, None);
        for (address, fate) in answers {
            match fate {
                Fate::Delivered => is_accepted = true,
                Fate::Refused(reply) if reply.enhanced == Enhanced(5, 7, 1) => {
                    refused = Some(reply);
                    if self.addresses.len() < 2 && !self.addresses.contains(address) {
                        self.addresses.push(address.clone());
                    }
                }
                _ => {}
            }
        }
        let takes_nothing = self.failures.note(item, is_accepted);
        gauge!("copyist_relay_takes_nothing").set(f64::from(u8::from(takes_nothing)));
        if is_accepted && kind != Kind::Ndr {
            self.forget(relay);
            return false;
        }
        let Some(reply) = refused else { return false };
        self.items = self.items.saturating_add(1);
        let is_fault = self.is_fault();
        if is_fault && self.said.is_none_or(|at| at + SAID_EVERY <= now) {
            self.said = Some(now);
            gauge!("copyist_relay_refuses_all").set(1.0);
            error!(
                "relay {relay} refused the last {} items, to several addresses, and took none: {reply}; reports \
                 wait until it takes one. Let it relay for this machine, or set relay.username",
                self.items
            );
        }
        is_fault
    }

    fn forget(&mut self, relay: &str) {
        let before = std::mem::take(self);
        self.is_over = before.is_over;
        self.failures = before.failures;
        if before.is_known || before.said.is_some() {
            self.is_over = true;
            gauge!("copyist_relay_refuses_all").set(0.0);
            info!("relay {relay} takes items again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Reply;

    const REPORT: Kind = Kind::Report;

    fn item(number: u32) -> ItemId {
        let letter = char::from(b'a' + u8::try_from(number % 26).expect("less than 26"));
        ItemId::parse(&letter.to_string().repeat(16)).expect("an item ID")
    }

    #[test]
    fn a_relay_takes_nothing_after_five_failures_of_three_items() {
        let mut failures = Failures::default();
        assert!(
            (0..100).all(|_| !failures.note(&item(1), false)),
            "one item"
        );
        assert!(!failures.note(&item(2), false));
        assert!(failures.note(&item(3), false));
        assert!(!failures.note(&item(4), true));
        assert!(
            (5..9).all(|n| !failures.note(&item(n), false)),
            "four attempts"
        );
        assert!(failures.note(&item(9), false));
    }

    fn refused(refusals: &mut Refusals, to: &str, status: Enhanced, times: u32) -> u32 {
        let address = Address::parse(to).expect("an address");
        let fate = Fate::Refused(Reply::new(554, status, "no"));
        let note = |n: &u32| {
            let answers = [(&address, &fate)].into_iter();
            refusals.note((&item(*n), REPORT), answers, Instant::now(), "r")
        };
        (0..times).filter(note).count() as u32
    }

    #[test]
    fn a_relay_that_refuses_twenty_items_to_two_addresses_is_misconfigured() {
        let denied = Enhanced(5, 7, 1);
        let mut refusals = Refusals::default();
        assert_eq!(refused(&mut refusals, "a@c.test", denied, 100), 0);
        assert_eq!(refused(&mut refusals, "b@c.test", denied, 5), 5);
        let address = Address::parse("b@c.test").expect("an address");
        let mut accept = |kind| {
            let accepted = [(&address, &Fate::Delivered)].into_iter();
            assert!(!refusals.note((&item(0), kind), accepted, Instant::now(), "r"));
            (refusals.is_fault(), refusals.take_over())
        };
        assert_eq!(accept(Kind::Ndr), (true, false));
        assert_eq!(accept(REPORT), (false, true));
        assert_eq!(refused(&mut refusals, "a@c.test", denied, 10), 0);
        assert_eq!(refused(&mut refusals, "b@c.test", denied, 15), 5);
    }

    #[test]
    fn what_was_known_before_a_restart_is_known() {
        let denied = Enhanced(5, 7, 1);
        let mut refusals = Refusals::known();
        assert_eq!(refused(&mut refusals, "a@c.test", denied, 3), 3);
    }

    #[test]
    fn other_refusals_are_about_their_recipients() {
        let mut refusals = Refusals::default();
        for to in ["a@c.test", "b@c.test"] {
            assert_eq!(refused(&mut refusals, to, Enhanced(5, 1, 1), 30), 0);
        }
    }
}
