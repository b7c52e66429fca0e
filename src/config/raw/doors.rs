//! The sections about what comes in and how much of it: `[hook.milter]`, `[limits]`, `[spool]` and
//! `[admin]`.

use std::num::{NonZeroU16, NonZeroU32};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Words;
use super::smtp::Smtp;

/// This machine.
pub(super) const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// How MTAs hand mail over.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Hook {
    /// The milter, for Postfix and Sendmail.
    pub(in crate::config) milter: Milter,
    /// SMTP listeners, for any MTA: each takes messages and hands them on to the next server.
    /// Default: none.
    pub(in crate::config) smtp: Vec<Smtp>,
}

/// The milter, for Postfix and Sendmail.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Milter {
    /// Where it listens: inet:ADDRESS:PORT, inet6:[ADDRESS]:PORT or unix:/PATH. May be empty where
    /// there is an SMTP listener. Set it: the default is OpenDKIM's port as well, and a later
    /// version will have another.
    pub(in crate::config) listen: Words,
    /// Where it listens as well, for mail from outside alone, whatever network its clients are in.
    /// Default: nowhere.
    #[schemars(example = ["inet:127.0.0.1:8892"])]
    pub(in crate::config) inbound: Words,
    /// Where it listens as well, for mail of the organization alone (of a submission service).
    /// Default: nowhere.
    #[schemars(example = ["inet:127.0.0.1:8893"])]
    pub(in crate::config) outbound: Words,
    /// Networks whose MTAs may connect to the inet: and inet6: addresses. Needed where one of these
    /// is not of this machine alone.
    #[schemars(example = ["127.0.0.0/8", "192.0.2.0/24"])]
    pub(in crate::config) allow_clients: Words,
    /// Users of this machine, by name or number, whose processes may connect to the unix: sockets.
    /// Default: everybody whom the mode of the socket lets in.
    #[schemars(example = ["postfix"])]
    pub(in crate::config) allow_users: Words,
    /// The permissions of the unix: sockets, in octal digits. Who may write may connect.
    pub(in crate::config) socket_mode: String,
    /// The group of the unix: sockets, by name or number; the service's user must be in it.
    /// Default: the service's own.
    #[schemars(example = &"postfix")]
    pub(in crate::config) socket_group: Option<String>,
}

/// How much is taken in, and how long it may take.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Limits {
    /// Connections at a time: of the milter, and of each SMTP listener. One more is closed at once.
    pub(in crate::config) connections: NonZeroU32,
    /// The largest message. A larger one is refused (552 5.3.4).
    pub(in crate::config) message_size: String,
    /// The largest header, all fields together. A message with a larger one is refused (552 5.3.4).
    pub(in crate::config) header_size: String,
    /// What all messages under way may hold in memory together, beside 32 KiB each. A message that
    /// gets no room within 30 seconds is deferred (452 4.3.1).
    pub(in crate::config) memory: String,
    /// Recipients of one message. One more is deferred (452 4.5.3).
    pub(in crate::config) recipients: NonZeroU32,
    /// Received fields of one message. One with more is journaled, then refused (554 5.4.6).
    pub(in crate::config) hops: NonZeroU16,
    /// How long a connection may take to begin as an MTA does.
    pub(in crate::config) negotiation_time: String,
    /// The longest silence of an MTA.
    pub(in crate::config) idle: String,
    /// How long one message may take, from MAIL to its end.
    pub(in crate::config) message_time: String,
    /// How long a connection is used; it is closed between two messages then.
    pub(in crate::config) connection_time: String,
}

/// Where journal copies wait.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Spool {
    /// Room on the file system of state_dir that mail leaves free. With less, mail that must be
    /// journaled is deferred (452 4.3.1).
    pub(in crate::config) min_free: String,
    /// The same for inodes, where the file system has a number of them.
    pub(in crate::config) min_free_inodes: u64,
    /// Whether state_dir may be on a network file system.
    pub(in crate::config) allow_remote_fs: bool,
}

/// Health, metrics and pages.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Admin {
    /// The IP address and port of the pages, and of /healthz, /readyz and /metrics; "off" for none.
    pub(in crate::config) listen: String,
    /// Networks whose machines may connect. Needed where the address is not of this machine alone.
    #[schemars(example = ["127.0.0.0/8", "192.0.2.0/24"])]
    pub(in crate::config) allow_clients: Words,
    /// The file that holds the token that the pages ask for, and nothing else. Default: no token;
    /// then there are pages only where the address is of this machine alone, and they give no
    /// subject and no message.
    #[schemars(example = "/etc/copyist/admin.token")]
    pub(in crate::config) token_file: Option<String>,
}

impl Default for Milter {
    fn default() -> Milter {
        Milter {
            listen: Words::from(["inet:127.0.0.1:8891"]),
            inbound: Words::default(),
            outbound: Words::default(),
            allow_clients: Words::from(LOOPBACK),
            allow_users: Words::default(),
            socket_mode: "0660".into(),
            socket_group: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: const { NonZeroU32::new(1000).expect("not zero") },
            message_size: "1GiB".into(),
            header_size: "1MiB".into(),
            memory: "256MiB".into(),
            recipients: const { NonZeroU32::new(10_000).expect("not zero") },
            hops: const { NonZeroU16::new(50).expect("not zero") },
            negotiation_time: "30s".into(),
            // libmilter's.
            idle: "7210s".into(),
            message_time: "4h".into(),
            connection_time: "24h".into(),
        }
    }
}

impl Default for Spool {
    fn default() -> Spool {
        Spool {
            min_free: "200MiB".into(),
            min_free_inodes: 1000,
            allow_remote_fs: false,
        }
    }
}

impl Default for Admin {
    fn default() -> Admin {
        Admin {
            listen: "127.0.0.1:8025".into(),
            allow_clients: Words::from(LOOPBACK),
            token_file: None,
        }
    }
}
