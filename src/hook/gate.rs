//! Who comes in at the listeners, and how many.
//!
//! The milter protocol has no login: whoever connects can have mail journaled that never was. So a connection is looked at
//! before a word is read from it: its user on a Unix socket, its network on TCP; and no more than a number are open at
//! a time. One that is turned away is closed without a word; an MTA then does what it does without its filter.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use metrics::counter;
use tracing::warn;

use super::clients::Caller;
use super::settings::{Access, Limits, Settings};
use crate::milter;

/// One line of the log for each reason in this time: a port scan must not fill the disk.
const QUIET: Duration = Duration::from_secs(10);

/// The way in: for all listeners of the milter together, or for one of SMTP.
#[derive(Debug)]
pub struct Gate {
    protocol: Protocol,
    terms: ArcSwap<(Access, Limits)>,
    open: AtomicUsize,
    told: [Mutex<Told>; REASONS],
}

/// What is spoken behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Milter,
    Smtp,
}

/// A connection that came in; its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Gate>);

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its machine may not connect.
    Client,
    /// Its user may not connect.
    User,
    /// There are too many.
    Connections,
    /// It is no MTA.
    Stranger,
}

const REASONS: usize = 4;

/// When a reason was last told, and how often it was not since.
#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    left_out: u64,
}

impl Gate {
    /// The milter's way in on these terms.
    pub fn new(settings: &Settings) -> Gate {
        Gate::of(Protocol::Milter, settings.access.clone(), settings.limits)
    }

    /// The way in of an SMTP listener.
    pub(super) fn of_smtp(access: Access, limits: Limits) -> Gate {
        Gate::of(Protocol::Smtp, access, limits)
    }

    fn of(protocol: Protocol, access: Access, limits: Limits) -> Gate {
        Gate {
            protocol,
            terms: ArcSwap::from_pointee((access, limits)),
            open: AtomicUsize::new(0),
            told: Default::default(),
        }
    }

    /// New terms, for connections from now on.
    pub fn change(&self, settings: &Settings) {
        self.set(settings.access.clone(), settings.limits);
    }

    pub(super) fn set(&self, access: Access, limits: Limits) {
        self.terms.store(Arc::new((access, limits)));
    }

    /// Lets somebody in; the limits hold for that connection.
    pub(super) fn enter(self: &Arc<Gate>, who: Caller) -> Result<(Place, milter::Limits), Refusal> {
        let terms = self.terms.load();
        let (access, limits) = &**terms;
        match who {
            Caller::Machine(ip) if !access.clients.include(ip) => return Err(Refusal::Client),
            Caller::User(id) if !access.includes_user(id) => return Err(Refusal::User),
            Caller::Machine(_) | Caller::User(_) => {}
        }
        // Counted first, so that two at a time do not both see the last place.
        let place = Place(self.clone());
        if self.open.fetch_add(1, Ordering::AcqRel) >= limits.connections {
            return Err(Refusal::Connections);
        }
        Ok((place, limits.connection))
    }

    /// Counts and tells that somebody was not let in.
    pub(super) fn refused(&self, who: Caller, why: Refusal) {
        let hook = self.protocol.hook();
        match why {
            Refusal::Client => {
                let what = format!("its address is not in {hook}.allow_clients");
                self.turned_away(who, why, what);
            }
            Refusal::User => {
                self.turned_away(who, why, format!("its user is not in {hook}.allow_users"));
            }
            Refusal::Connections => {
                self.turned_away(who, why, "as many as limits.connections allows are open");
            }
            Refusal::Stranger => self.turned_away(who, why, "it is no MTA"),
        }
    }

    /// Counts and tells that somebody was turned away.
    pub(super) fn turned_away(&self, who: Caller, why: Refusal, what: impl fmt::Display) {
        let (name, metric) = match self.protocol {
            Protocol::Milter => ("a milter", "copyist_milter_connections_refused_total"),
            Protocol::Smtp => ("an SMTP", "copyist_smtp_connections_refused_total"),
        };
        counter!(metric, "why" => why.name()).increment(1);
        let mut told = self.told[why as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| last.elapsed() < QUIET) {
            told.left_out += 1;
            return;
        }
        let others = std::mem::take(&mut told.left_out);
        told.last = Some(Instant::now());
        drop(told);
        warn!(%who, others, "{name} connection was closed: {what}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Refusal {
    fn name(self) -> &'static str {
        match self {
            Refusal::Client => "client",
            Refusal::User => "user",
            Refusal::Connections => "connections",
            Refusal::Stranger => "stranger",
        }
    }
}

impl Protocol {
    /// The table of its settings.
    fn hook(self) -> &'static str {
        match self {
            Protocol::Milter => "hook.milter",
            Protocol::Smtp => "hook.smtp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let gate = Arc::new(Gate::new(&Settings {
            limits: Limits {
                connections: 2,
                ..Limits::default()
            },
            ..Settings::default()
        }));
        let here = Caller::Machine([127, 0, 0, 1].into());
        let first = gate.enter(here).expect("room");
        let _second = gate.enter(here).expect("room");
        assert!(matches!(gate.enter(here), Err(Refusal::Connections)));
        assert!(matches!(gate.enter(here), Err(Refusal::Connections)));
        drop(first);
        assert!(gate.enter(here).is_ok());
    }

    #[test]
    fn a_user_is_let_in_by_name_and_nobody_is_asked_where_none_is_named() {
        let anybody = Arc::new(Gate::new(&Settings::default()));
        assert!(anybody.enter(Caller::User(4711)).is_ok());
        let gate = Arc::new(Gate::new(&Settings {
            access: Access {
                users: vec![0, 102],
                ..Access::default()
            },
            ..Settings::default()
        }));
        assert!(gate.enter(Caller::User(102)).is_ok());
        assert!(matches!(gate.enter(Caller::User(1000)), Err(Refusal::User)));
    }
}
