//! Access control for listeners: allow lists and connection limits. The milter protocol has no
//! authentication: any client that connects can trigger journal copies of mail that never existed.
//! So each connection is checked before a byte is read from it, by user on a Unix socket and by
//! network on TCP, and the number of open connections is limited. A rejected connection is closed
//! without a reply; the MTA then does what it is configured to do without its filter.

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

use super::client_networks::ConnectedPeer;
use super::connection_counter::{ConnectionCounter, ConnectionLimit, CountedConnection};
use super::settings::{AccessList, Limits, Settings};
use crate::mail;

/// Interval in which each reason is logged at most once: a port scan must not fill the disk.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Access control of all milter listeners together, or of one SMTP listener.
#[derive(Debug)]
pub struct AccessControl {
    protocol: Protocol,
    settings: ArcSwap<(AccessList, Limits)>,
    open: Arc<ConnectionCounter>,
    log_throttles: [Mutex<LogThrottle>; REASONS],
}

/// The protocol of the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Milter,
    Smtp,
}

/// An accepted connection, counted until this is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    access_control: Arc<AccessControl>,
    counted: CountedConnection,
    /// Connection limit of one client.
    share: usize,
}

/// Reason a connection is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionRejection {
    /// Its address is not in `allow_clients`.
    Client,
    /// Its user is not in `allow_users`.
    User,
    /// `limits.connections` is reached.
    Connections,
    /// Its client has too many connections.
    Share,
    /// Its first bytes are not milter protocol.
    NotMilter,
    /// It was idle while another connection needed its slot.
    Idle,
}

const REASONS: usize = 6;

/// One client may hold one in so many connections of an SMTP listener.
const SHARE: usize = 4;

/// Number of instances in this process; they share its file descriptors.
static INSTANCES: AtomicUsize = AtomicUsize::new(0);

/// File descriptors this process may have open, after raising the soft limit to the hard one.
static DESCRIPTORS: LazyLock<u64> = LazyLock::new(|| {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
});

/// Returns the number of connections, over all listeners, that the file descriptors allow. An SMTP
/// connection takes two, its own and the one to the next hop; a milter connection takes a second
/// one for a large message. Half of all descriptors stay for the spool, the directory and the
/// relay.
fn affordable() -> usize {
    usize::try_from(*DESCRIPTORS / 4).unwrap_or(usize::MAX)
}

/// Connection limits of one listener.
struct ConnectionLimits {
    /// Connections in total.
    most: usize,
    /// Connections of one client.
    share: usize,
}

impl ConnectionLimits {
    fn new(protocol: Protocol, limits: &Limits) -> ConnectionLimits {
        let affordable = affordable() / INSTANCES.load(Ordering::Relaxed).max(1);
        match protocol {
            Protocol::Smtp => {
                let most = limits.connections.min(affordable);
                let share = most / SHARE;
                ConnectionLimits { most, share }
            }
            // An MTA brings the mail of all its clients, so it may have all connections; a reserve
            // stays for other peers.
            Protocol::Milter => {
                let most = (limits.connections + limits.connections / 3).min(affordable);
                let share = limits.connections.min(most - most / SHARE);
                ConnectionLimits { most, share }
            }
        }
    }
}

/// The last log line of one reason, and the number suppressed since.
#[derive(Debug, Default)]
struct LogThrottle {
    last: Option<Instant>,
    suppressed: u64,
}

impl AccessControl {
    /// Creates the access control of the milter listeners.
    pub fn new(settings: &Settings) -> AccessControl {
        AccessControl::with_protocol(Protocol::Milter, settings.access.clone(), settings.limits)
    }

    /// Creates the access control of an SMTP listener.
    pub(super) fn for_smtp(access: AccessList, limits: Limits) -> AccessControl {
        AccessControl::with_protocol(Protocol::Smtp, access, limits)
    }

    fn with_protocol(protocol: Protocol, access: AccessList, limits: Limits) -> AccessControl {
        let most = affordable();
        if most < limits.connections {
            warn!(
                "limits.connections is {}, but the system allows {} file descriptors: all listeners together serve at most {most} connections; raise LimitNOFILE= in the unit",
                limits.connections, *DESCRIPTORS
            );
        }
        INSTANCES.fetch_add(1, Ordering::Relaxed);
        AccessControl {
            protocol,
            settings: ArcSwap::from_pointee((access, limits)),
            open: Arc::default(),
            log_throttles: Default::default(),
        }
    }

    /// Applies new settings to future connections.
    pub fn update(&self, settings: &Settings) {
        self.set(settings.access.clone(), settings.limits);
    }

    pub(super) fn set(&self, access: AccessList, limits: Limits) {
        self.settings.store(Arc::new((access, limits)));
    }

    /// Admits a peer; returns its slot and the limits of its connection.
    pub(super) fn admit(
        self: &Arc<AccessControl>,
        peer: ConnectedPeer,
    ) -> Result<(ConnectionSlot, mail::Limits), ConnectionRejection> {
        let settings = self.settings.load();
        let (access, limits) = &**settings;
        match peer {
            ConnectedPeer::Ip(ip) if !access.clients.contains(ip) => {
                return Err(ConnectionRejection::Client);
            }
            ConnectedPeer::Uid(id) if !access.includes_user(id) => {
                return Err(ConnectionRejection::User);
            }
            ConnectedPeer::Ip(_) | ConnectedPeer::Uid(_) => {}
        }
        let ConnectionLimits { most, share } = ConnectionLimits::new(self.protocol, limits);
        let client = self.counted_client(peer, access);
        let counted = self.open.enter(client, most, share);
        let counted = counted.map_err(|why| match (why, self.protocol) {
            (ConnectionLimit::PerClient, Protocol::Smtp) => ConnectionRejection::Share,
            (ConnectionLimit::PerClient, Protocol::Milter) | (ConnectionLimit::Total, _) => {
                ConnectionRejection::Connections
            }
        })?;
        let access_control = self.clone();
        Ok((
            ConnectionSlot {
                access_control,
                counted,
                share,
            },
            limits.connection,
        ))
    }

    /// Returns the client a connection is counted for.
    fn counted_client(&self, peer: ConnectedPeer, access: &AccessList) -> Option<IpAddr> {
        match (peer, self.protocol) {
            (ConnectedPeer::Ip(ip), Protocol::Milter) => Some(ip),
            (ConnectedPeer::Ip(ip), Protocol::Smtp) => {
                Some(ip).filter(|ip| !access.identity_forwarders.contains(*ip))
            }
            (ConnectedPeer::Uid(_), _) => None,
        }
    }

    /// Counts and logs a connection that was not admitted.
    pub(super) fn record_rejection(&self, peer: ConnectedPeer, why: ConnectionRejection) {
        let hook = self.protocol.hook();
        match why {
            ConnectionRejection::Client => {
                let what = format!("address not in {hook}.allow_clients");
                self.log_rejection(peer, why, what);
            }
            ConnectionRejection::User => {
                self.log_rejection(peer, why, format!("user not in {hook}.allow_users"));
            }
            ConnectionRejection::Connections => {
                self.log_rejection(peer, why, "limits.connections reached");
            }
            ConnectionRejection::Share => self.log_rejection(
                peer,
                why,
                "client already has a quarter of limits.connections open",
            ),
            // Logged where they are noticed.
            ConnectionRejection::NotMilter | ConnectionRejection::Idle => {}
        }
    }

    /// Counts and logs a rejected connection.
    pub(super) fn log_rejection(
        &self,
        peer: ConnectedPeer,
        why: ConnectionRejection,
        what: impl fmt::Display,
    ) {
        let (name, metric) = match self.protocol {
            Protocol::Milter => ("milter", "copyist_milter_connections_refused_total"),
            Protocol::Smtp => ("SMTP", "copyist_smtp_connections_refused_total"),
        };
        counter!(metric, "why" => why.name()).increment(1);
        let mut throttle = self.log_throttles[why as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if throttle
            .last
            .is_some_and(|last| last.elapsed() < LOG_INTERVAL)
        {
            throttle.suppressed += 1;
            return;
        }
        let others = std::mem::take(&mut throttle.suppressed);
        throttle.last = Some(Instant::now());
        drop(throttle);
        warn!(who = %peer, others, "{name} connection rejected: {what}");
    }
}

impl Drop for AccessControl {
    fn drop(&mut self) {
        INSTANCES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionSlot {
    /// Marks the connection as begun: it speaks its protocol.
    pub(super) fn begin(&self) {
        self.counted.begin();
    }

    /// Returns the token that is cancelled when this idle connection must make room for another.
    pub(super) fn close(&self) -> CancellationToken {
        self.counted.close()
    }

    /// Counts and logs that this idle connection was closed for another.
    pub(super) fn record_idle_close(&self, peer: ConnectedPeer) {
        let what = "idle, and another connection needed its slot";
        self.access_control
            .log_rejection(peer, ConnectionRejection::Idle, what);
    }

    /// Counts the connection for the client on whose behalf it was opened.
    pub(super) fn count_for(&self, client: IpAddr) -> Result<(), ConnectionRejection> {
        self.counted.count_for(client, self.share).map_err(|_| {
            self.access_control
                .record_rejection(ConnectedPeer::Ip(client), ConnectionRejection::Share);
            ConnectionRejection::Share
        })
    }
}

impl ConnectionRejection {
    fn name(self) -> &'static str {
        match self {
            ConnectionRejection::Client => "client",
            ConnectionRejection::User => "user",
            ConnectionRejection::Connections => "connections",
            ConnectionRejection::Share => "share",
            ConnectionRejection::NotMilter => "stranger",
            ConnectionRejection::Idle => "idle",
        }
    }
}

impl Protocol {
    /// Returns the name of its settings table.
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
    use crate::hook::ClientNetworks;

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let access_control = Arc::new(AccessControl::new(&Settings {
            limits: Limits {
                connections: 2,
                ..Limits::default()
            },
            ..Settings::default()
        }));
        let here = ConnectedPeer::Ip([127, 0, 0, 1].into());
        let first = access_control.admit(here).expect("room");
        let _second = access_control.admit(here).expect("room");
        assert!(matches!(
            access_control.admit(here),
            Err(ConnectionRejection::Connections)
        ));
        assert!(matches!(
            access_control.admit(here),
            Err(ConnectionRejection::Connections)
        ));
        drop(first);
        assert!(access_control.admit(here).is_ok());
    }

    #[test]
    fn one_client_leaves_room_unless_it_forwards_for_others() {
        let access = AccessList {
            clients: ClientNetworks::new(["0.0.0.0/0".parse().expect("a network")]),
            identity_forwarders: ClientNetworks::new(["192.0.2.7/32".parse().expect("a network")]),
            ..AccessList::default()
        };
        let limits = Limits {
            connections: 8,
            ..Limits::default()
        };
        let access_control = Arc::new(AccessControl::for_smtp(access, limits));
        let enter = |last: u8| access_control.admit(ConnectedPeer::Ip([192, 0, 2, last].into()));
        let _one = [enter(1).expect("room"), enter(1).expect("room")];
        assert!(matches!(enter(1), Err(ConnectionRejection::Share)));
        let identity_forwarders: Vec<_> = (0..6).map(|_| enter(7).expect("room")).collect();
        assert!(matches!(enter(7), Err(ConnectionRejection::Connections)));
        for (number, (slot, _)) in identity_forwarders.into_iter().enumerate() {
            let announced = slot.count_for([198, 51, 100, 1].into());
            assert!(announced.is_ok() || number > 0);
        }
    }

    #[test]
    fn a_user_is_admitted_by_name_and_not_checked_without_a_list() {
        let anybody = Arc::new(AccessControl::new(&Settings::default()));
        assert!(anybody.admit(ConnectedPeer::Uid(4711)).is_ok());
        let access_control = Arc::new(AccessControl::new(&Settings {
            access: AccessList {
                users: vec![0, 102],
                ..AccessList::default()
            },
            ..Settings::default()
        }));
        assert!(access_control.admit(ConnectedPeer::Uid(102)).is_ok());
        assert!(matches!(
            access_control.admit(ConnectedPeer::Uid(1000)),
            Err(ConnectionRejection::User)
        ));
    }
}
