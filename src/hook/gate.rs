//! Who comes in at the listeners, and how many.
//!
//! The milter protocol has no login: whoever connects can have mail journaled that never was. So a
//! connection is looked at before a word is read from it: its user on a Unix socket, its network on
//! TCP; and no more than a number are open at a time. One that is turned away is closed without a
//! word; an MTA then does what it does without its filter.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use metrics::counter;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::clients::Caller;
use super::crowd::{Crowd, Crowded, Seat};
use super::settings::{Access, Limits, Settings};
use crate::mail;

/// One line of the log for each reason in this time: a port scan must not fill the disk.
const QUIET: Duration = Duration::from_secs(10);

/// The way in: for all listeners of the milter together, or for one of SMTP.
#[derive(Debug)]
pub struct Gate {
    protocol: Protocol,
    terms: ArcSwap<(Access, Limits)>,
    open: Arc<Crowd>,
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
pub(super) struct Place {
    gate: Arc<Gate>,
    seat: Seat,
    /// How many one client may have.
    share: usize,
}

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its machine may not connect.
    Client,
    /// Its user may not connect.
    User,
    /// There are too many.
    Connections,
    /// There are too many of its client.
    Share,
    /// It is no MTA.
    Stranger,
    /// It said nothing, and another needed its place.
    Idle,
}

const REASONS: usize = 6;

/// One client of an SMTP listener may hold this part of its connections.
const SHARE: usize = 4;

/// The gates of this process, which share the descriptors.
static GATES: AtomicUsize = AtomicUsize::new(0);

/// Descriptors that this process may have open, once it has asked for as many as it may have.
static DESCRIPTORS: LazyLock<u64> = LazyLock::new(|| {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
});

/// Connections of all listeners together for which there are descriptors. An SMTP connection takes
/// two, its own and that to the next server, and one of a milter a second for a large message; half
/// of all stay for the spool, the directory and the relay.
fn affordable() -> usize {
    usize::try_from(*DESCRIPTORS / 4).unwrap_or(usize::MAX)
}

/// How many connections there may be.
struct Room {
    /// At a time.
    most: usize,
    /// Of one client.
    share: usize,
}

impl Room {
    fn of(protocol: Protocol, limits: &Limits) -> Room {
        let affordable = affordable() / GATES.load(Ordering::Relaxed).max(1);
        match protocol {
            Protocol::Smtp => {
                let most = limits.connections.min(affordable);
                let share = most / SHARE;
                Room { most, share }
            }
            // An MTA brings everybody's mail, so it may have them all; others that may connect find
            // room beside it.
            Protocol::Milter => {
                let most = (limits.connections + limits.connections / 3).min(affordable);
                let share = limits.connections.min(most - most / SHARE);
                Room { most, share }
            }
        }
    }
}

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
        let most = affordable();
        if most < limits.connections {
            warn!(
                "limits.connections is {}, and the system gives {} descriptors: at most {most} connections are served by all \
                 listeners together; raise LimitNOFILE= of the unit",
                limits.connections, *DESCRIPTORS
            );
        }
        GATES.fetch_add(1, Ordering::Relaxed);
        Gate {
            protocol,
            terms: ArcSwap::from_pointee((access, limits)),
            open: Arc::default(),
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
    pub(super) fn enter(self: &Arc<Gate>, who: Caller) -> Result<(Place, mail::Limits), Refusal> {
        let terms = self.terms.load();
        let (access, limits) = &**terms;
        match who {
            Caller::Machine(ip) if !access.clients.include(ip) => return Err(Refusal::Client),
            Caller::User(id) if !access.includes_user(id) => return Err(Refusal::User),
            Caller::Machine(_) | Caller::User(_) => {}
        }
        let Room { most, share } = Room::of(self.protocol, limits);
        let client = self.counted(who, access);
        let entered = self.open.enter(client, most, share);
        let seat = entered.map_err(|why| match (why, self.protocol) {
            (Crowded::Share, Protocol::Smtp) => Refusal::Share,
            (Crowded::Share, Protocol::Milter) | (Crowded::Full, _) => Refusal::Connections,
        })?;
        let gate = self.clone();
        Ok((Place { gate, seat, share }, limits.connection))
    }

    /// The client that a connection is counted for.
    fn counted(&self, who: Caller, access: &Access) -> Option<IpAddr> {
        match (who, self.protocol) {
            (Caller::Machine(ip), Protocol::Milter) => Some(ip),
            (Caller::Machine(ip), Protocol::Smtp) => {
                Some(ip).filter(|ip| !access.speakers.include(*ip))
            }
            (Caller::User(_), _) => None,
        }
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
            Refusal::Share => self.turned_away(
                who,
                why,
                "its client has a quarter of limits.connections open",
            ),
            // These are told where they are noticed.
            Refusal::Stranger | Refusal::Idle => {}
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

impl Drop for Gate {
    fn drop(&mut self) {
        GATES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// The connection has begun as an MTA or a client does.
    pub(super) fn begin(&self) {
        self.seat.begin();
    }

    /// Cancelled when this connection is closed for another: it has not begun.
    pub(super) fn close(&self) -> CancellationToken {
        self.seat.close()
    }

    /// Counts that this connection was closed for another.
    pub(super) fn closed(&self, who: Caller) {
        let what = "it said nothing, and another needed its place";
        self.gate.turned_away(who, Refusal::Idle, what);
    }

    /// Counts the connection for the client that it was opened for.
    pub(super) fn count_for(&self, client: IpAddr) -> Result<(), Refusal> {
        self.seat.count_for(client, self.share).map_err(|_| {
            self.gate.refused(Caller::Machine(client), Refusal::Share);
            Refusal::Share
        })
    }
}

impl Refusal {
    fn name(self) -> &'static str {
        match self {
            Refusal::Client => "client",
            Refusal::User => "user",
            Refusal::Connections => "connections",
            Refusal::Share => "share",
            Refusal::Stranger => "stranger",
            Refusal::Idle => "idle",
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
    use crate::hook::Clients;

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
    fn one_client_leaves_room_for_others_unless_it_brings_their_mail() {
        let access = Access {
            clients: Clients::new(["0.0.0.0/0".parse().expect("a network")]),
            speakers: Clients::new(["192.0.2.7/32".parse().expect("a network")]),
            ..Access::default()
        };
        let limits = Limits {
            connections: 8,
            ..Limits::default()
        };
        let gate = Arc::new(Gate::of_smtp(access, limits));
        let enter = |last: u8| gate.enter(Caller::Machine([192, 0, 2, last].into()));
        let _one = [enter(1).expect("room"), enter(1).expect("room")];
        assert!(matches!(enter(1), Err(Refusal::Share)));
        let speakers: Vec<_> = (0..6).map(|_| enter(7).expect("room")).collect();
        assert!(matches!(enter(7), Err(Refusal::Connections)));
        for (number, (place, _)) in speakers.into_iter().enumerate() {
            let announced = place.count_for([198, 51, 100, 1].into());
            assert!(announced.is_ok() || number > 0);
        }
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
