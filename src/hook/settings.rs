//! What the hooks need to know; built by `config`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::clients::Clients;
use super::{Listen, Socket};
use crate::deliver::Tls;
use crate::mail;
use crate::mail::Side;
use crate::pipeline::Memory;
use crate::smtp::BareLineBreaks;

/// Settings of the hooks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where the milter listens.
    pub milter: Vec<Listen>,
    /// The side that senders are on at some of these listeners; elsewhere it is told for each
    /// message.
    pub milter_sides: Vec<(Listen, Side)>,
    /// What its Unix sockets are like.
    pub socket: Socket,
    /// Who may connect to it.
    pub access: Access,
    /// How much is taken in.
    pub limits: Limits,
    /// The SMTP listeners.
    pub smtp: Vec<SmtpDoor>,
}

/// One SMTP listener, and whom it hands messages on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpDoor {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who gets the messages.
    pub next_hop: NextHop,
    /// Where it stands.
    pub mode: Mode,
    /// Which side senders are on, where the listener is for one alone.
    pub side: Option<Side>,
    /// Who may connect.
    pub clients: Clients,
    /// Who of them may say on whose behalf it connects: by XCLIENT, XFORWARD or the PROXY protocol.
    pub speakers: Clients,
    /// Whether a connection of theirs begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// What becomes of messages with bare CR or LF.
    pub bare_line_breaks: BareLineBreaks,
    /// The certificate for clients; no TLS with them without one.
    pub tls: Option<DoorTls>,
}

/// How the next server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Its name or IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: Tls,
    /// Certificates (PEM) that it is checked against; the system's where `None`.
    pub ca_file: Option<PathBuf>,
    /// The longest wait for one reply.
    pub timeout: Duration,
    /// The longest wait for the reply after a message.
    pub data_done_timeout: Duration,
}

/// Where an SMTP listener stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Before the queue: who sends is still connected, and may be told a final no.
    #[default]
    BeforeQueue,
    /// Behind a queue: a final no of ours would become a bounce to whoever the sender claims to be,
    /// so there is none.
    AfterQueue,
}

/// TLS with clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorTls {
    /// From the first byte on (RFC 8314), not by STARTTLS.
    pub implicit: bool,
    /// The certificate and what it was signed by (PEM).
    pub cert_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// By TCP.
    pub clients: Clients,
    /// Those that may bring as many connections as there are, being the way of everybody's mail; of
    /// the others each has a share.
    pub speakers: Clients,
    /// By Unix sockets: the ids of users; everybody whom the socket's mode lets in where there are
    /// none.
    pub users: Vec<u32>,
}

impl Default for Access {
    fn default() -> Access {
        Access {
            clients: Clients::default(),
            speakers: Clients::new([]),
            users: Vec::new(),
        }
    }
}

/// How much is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at a time, of all listeners together.
    pub connections: usize,
    /// Bytes that the messages under way may hold in memory together
    /// ([`crate::pipeline::Memory`]).
    pub memory: usize,
    /// Those of one connection.
    pub connection: mail::Limits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1000,
            memory: Memory::DEFAULT,
            connection: mail::Limits::DEFAULT,
        }
    }
}

impl Settings {
    /// The side that senders are on at a milter listener, if all are on one.
    pub fn side_of(&self, listen: &Listen) -> Option<Side> {
        let mut all = self.milter_sides.iter();
        all.find(|(of, _)| of == listen).map(|(_, side)| *side)
    }
}

impl Access {
    pub(super) fn includes_user(&self, id: u32) -> bool {
        self.users.is_empty() || self.users.contains(&id)
    }
}
