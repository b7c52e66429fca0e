//! Detection of a relay that rejects everything, and of a run of failed attempts.

use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;
use tracing::{error, info};

use super::connection::RecipientOutcome;
use crate::journal::{ItemId, Kind};
use crate::mail::{Address, Enhanced};

/// Consecutive items that the relay must have rejected.
const ITEMS: u32 = 20;
/// Consecutive failed attempts, and the number of different items among them, after which the relay
/// counts as accepting nothing.
const FAILURES: u32 = 5;
const FAILED_ITEMS: usize = 3;
/// Log interval.
const LOG_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The items rejected since the relay last accepted one, with 5.7.1 (RFC 3463 section 3.8: delivery
/// not authorized), the reply to a client that may not relay.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    items: u32,
    /// Two of the rejected addresses.
    addresses: Vec<Address>,
    /// Whether the outage was known before this process started.
    is_known: bool,
    said: Option<Instant>,
    /// Whether the outage has ended.
    is_over: bool,
    failures: Failures,
}

/// Failed attempts since the relay last accepted a recipient.
#[derive(Debug, Default)]
struct Failures {
    attempts: u32,
    /// Some of the items.
    items: Vec<ItemId>,
}

impl Failures {
    /// Records an attempt; returns whether the relay accepts nothing.
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

/// Prefix of the reason of each item that waits for the relay.
pub(super) const EVERYTHING: &str = "the relay rejects everything: ";

impl Refusals {
    /// Restores a known outage: the next rejection confirms it.
    pub(super) fn known() -> Refusals {
        Refusals {
            items: ITEMS,
            is_known: true,
            ..Refusals::default()
        }
    }

    /// Whether rejections with 5.7.1 are due to the relay's settings.
    pub(super) fn is_fault(&self) -> bool {
        self.items > ITEMS && (self.is_known || self.addresses.len() > 1)
    }

    /// Whether the outage ended since the last call.
    pub(super) fn take_over(&mut self) -> bool {
        std::mem::take(&mut self.is_over)
    }

    /// Records the relay's replies to one item. Returns whether its rejections are due to the
    /// relay's settings: it rejected the last 20 items, to at least two addresses, and accepted
    /// none since. An accepted NDR proves nothing: many relays accept mail for their own domains
    /// from any client, while archives are in other domains.
    pub(super) fn note<'a>(
        &mut self,
        (item, kind): (&ItemId, Kind),
        answers: impl Iterator<Item = (&'a Address, &'a RecipientOutcome)>,
        now: Instant,
        relay: &str,
    ) -> bool {
        let (mut is_accepted, mut refused) = (false, None);
        for (address, outcome) in answers {
            match outcome {
                RecipientOutcome::Delivered => is_accepted = true,
                RecipientOutcome::Rejected(reply) if reply.enhanced == Enhanced(5, 7, 1) => {
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
        if is_fault && self.said.is_none_or(|at| at + LOG_INTERVAL <= now) {
            self.said = Some(now);
            gauge!("copyist_relay_refuses_all").set(1.0);
            error!(
                "relay {relay} rejected the last {} items, to several addresses, and accepted none: {reply}; reports stay queued until it accepts one. Allow this host to relay, or set relay.username",
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
            info!("relay {relay} accepts items again");
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
        let outcome = RecipientOutcome::Rejected(Reply::new(554, status, "no"));
        let note = |n: &u32| {
            let answers = [(&address, &outcome)].into_iter();
            refusals.note((&item(*n), REPORT), answers, Instant::now(), "r")
        };
        (0..times).filter(note).count() as u32
    }

    #[test]
    fn twenty_rejected_items_to_two_addresses_mean_misconfiguration() {
        let denied = Enhanced(5, 7, 1);
        let mut refusals = Refusals::default();
        assert_eq!(refused(&mut refusals, "a@c.test", denied, 100), 0);
        assert_eq!(refused(&mut refusals, "b@c.test", denied, 5), 5);
        let address = Address::parse("b@c.test").expect("an address");
        let mut accept = |kind| {
            let accepted = [(&address, &RecipientOutcome::Delivered)].into_iter();
            assert!(!refusals.note((&item(0), kind), accepted, Instant::now(), "r"));
            (refusals.is_fault(), refusals.take_over())
        };
        assert_eq!(accept(Kind::Ndr), (true, false));
        assert_eq!(accept(REPORT), (false, true));
        assert_eq!(refused(&mut refusals, "a@c.test", denied, 10), 0);
        assert_eq!(refused(&mut refusals, "b@c.test", denied, 15), 5);
    }

    #[test]
    fn known_refusals_survive_a_restart() {
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
