//! Settings of the hooks; built by `config`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::client_networks::ClientNetworks;
use super::{ListenAddress, UnixSocketSettings};
use crate::deliver::Tls;
use crate::mail;
use crate::mail::Side;
use crate::pipeline::MemoryBudget;
use crate::smtp::BareLineBreaks;

/// Settings of the hooks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Addresses of the milter listeners.
    pub milter: Vec<ListenAddress>,
    /// The senders' side at listeners that fix it; at the others, each message decides.
    pub milter_sides: Vec<(ListenAddress, Side)>,
    /// Permissions of the milter's Unix sockets.
    pub socket: UnixSocketSettings,
    /// Peers that may connect to the milter listeners.
    pub access: AccessList,
    /// Limits on connections and messages.
    pub limits: Limits,
    /// The SMTP listeners.
    pub smtp: Vec<SmtpListener>,
}

/// One SMTP listener and its next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpListener {
    /// Address it listens on.
    pub listen: SocketAddr,
    /// The server it passes messages to.
    pub next_hop: NextHop,
    /// Its position relative to the MTA's queue.
    pub mode: Mode,
    /// The senders' side, if the listener fixes it.
    pub side: Option<Side>,
    /// Networks that may connect.
    pub clients: ClientNetworks,
    /// Networks that may declare on whose behalf they connect, by XCLIENT, XFORWARD or the PROXY
    /// protocol.
    pub identity_forwarders: ClientNetworks,
    /// Whether connections from these networks begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Handling of messages with bare CR or LF.
    pub bare_line_breaks: BareLineBreaks,
    /// Certificate for TLS with clients; without one, TLS is not offered.
    pub tls: Option<ListenerTls>,
}

/// Connection settings of the next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS mode of the connection.
    pub tls: Tls,
    /// Trusted CA certificates (PEM); the system's if `None`.
    pub ca_file: Option<PathBuf>,
    /// Timeout of one reply.
    pub timeout: Duration,
    /// Timeout of the reply after the end of a message.
    pub data_done_timeout: Duration,
}

/// Position of an SMTP listener relative to the MTA's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Before the queue: the sending client is still connected, so a message may be rejected for
    /// good.
    #[default]
    BeforeQueue,
    /// Behind the queue: a permanent rejection would make the MTA bounce to a possibly forged
    /// sender, so it becomes a temporary one.
    AfterQueue,
}

/// TLS with clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// From the first byte on (RFC 8314), not by STARTTLS.
    pub implicit: bool,
    /// The certificate and what it was signed by (PEM).
    pub cert_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
}

/// Peers that may connect to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessList {
    /// Networks that may connect by TCP.
    pub clients: ClientNetworks,
    /// Networks exempt from the per-client limit, because they forward the mail of many clients.
    pub identity_forwarders: ClientNetworks,
    /// User IDs that may connect by a Unix socket; if empty, every user the socket's mode admits.
    pub users: Vec<u32>,
}

impl Default for AccessList {
    fn default() -> AccessList {
        AccessList {
            clients: ClientNetworks::default(),
            identity_forwarders: ClientNetworks::new([]),
            users: Vec::new(),
        }
    }
}

/// Limits on connections and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, over all listeners.
    pub connections: usize,
    /// Bytes that all messages in progress may hold in memory together
    /// ([`crate::pipeline::MemoryBudget`]).
    pub memory: usize,
    /// Limits of one connection.
    pub connection: mail::Limits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1000,
            memory: MemoryBudget::DEFAULT,
            connection: mail::Limits::DEFAULT,
        }
    }
}

impl Settings {
    /// Returns the senders' side at a milter listener, if the listener fixes it.
    pub fn side_of(&self, listen: &ListenAddress) -> Option<Side> {
        let mut all = self.milter_sides.iter();
        all.find(|(of, _)| of == listen).map(|(_, side)| *side)
    }
}

impl AccessList {
    pub(super) fn includes_user(&self, id: u32) -> bool {
        self.users.is_empty() || self.users.contains(&id)
    }
}
