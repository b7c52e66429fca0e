//! The sections `[hook.milter]`, `[limits]`, `[spool]` and `[admin]`.

use std::num::{NonZeroU16, NonZeroU32};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StringList;
use super::smtp::Smtp;

/// Loopback networks.
pub(super) const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// Listeners for MTAs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Hook {
    /// The milter, for Postfix and Sendmail.
    pub(in crate::config) milter: Milter,
    /// SMTP listeners, for any MTA: each proxies messages to its next hop. Default: none.
    pub(in crate::config) smtp: Vec<Smtp>,
}

/// The milter, for Postfix and Sendmail.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Milter {
    /// Addresses to listen on: inet:ADDRESS:PORT, inet6:[ADDRESS]:PORT or unix:/PATH. May be empty
    /// if there is an SMTP listener. Set it: the default is also OpenDKIM's port, and a later
    /// version will change it.
    pub(in crate::config) listen: StringList,
    /// Further addresses to listen on, whose mail is always external, whatever network its clients
    /// are in. Default: none.
    #[schemars(example = ["inet:127.0.0.1:8892"])]
    pub(in crate::config) inbound: StringList,
    /// Further addresses to listen on, whose mail is always the organization's own (for a submission
    /// service). Default: none.
    #[schemars(example = ["inet:127.0.0.1:8893"])]
    pub(in crate::config) outbound: StringList,
    /// Networks whose MTAs may connect to the inet: and inet6: addresses. Required if one of these is
    /// not a loopback address.
    #[schemars(example = ["127.0.0.0/8", "192.0.2.0/24"])]
    pub(in crate::config) allow_clients: StringList,
    /// Local users, by name or number, whose processes may connect to the unix: sockets. Default:
    /// everybody whom the socket's mode admits.
    #[schemars(example = ["postfix"])]
    pub(in crate::config) allow_users: StringList,
    /// The mode of the unix: sockets, in octal. Write permission admits a client.
    pub(in crate::config) socket_mode: String,
    /// The group of the unix: sockets, by name or number; the service's user must be a member.
    /// Default: the service's own group.
    #[schemars(example = &"postfix")]
    pub(in crate::config) socket_group: Option<String>,
}

/// Limits on size, number and time.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Limits {
    /// Connections at a time, to the milter and to each SMTP listener. Any more are closed at once.
    pub(in crate::config) connections: NonZeroU32,
    /// The largest message. A larger one is rejected (552 5.3.4).
    pub(in crate::config) message_size: String,
    /// The largest header, all fields together. A message with a larger one is rejected (552 5.3.4).
    pub(in crate::config) header_size: String,
    /// Memory for all messages in transit together, in addition to 32 KiB each. A message that gets
    /// none within 30 seconds is deferred (452 4.3.1).
    pub(in crate::config) memory: String,
    /// Recipients of one message. Any more are deferred (452 4.5.3).
    pub(in crate::config) recipients: NonZeroU32,
    /// Received fields of one message. A message with more is journaled, then rejected (554 5.4.6).
    pub(in crate::config) hops: NonZeroU16,
    /// The longest wait for an MTA's first command.
    pub(in crate::config) negotiation_time: String,
    /// The longest wait for an MTA's next command.
    pub(in crate::config) idle: String,
    /// The longest time for one message, from MAIL to its end.
    pub(in crate::config) message_time: String,
    /// The longest life of a connection; it is closed between two messages.
    pub(in crate::config) connection_time: String,
}

/// The spool of queued journal copies.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Spool {
    /// Space that must stay free on the file system of state_dir. With less, mail that must be
    /// journaled is deferred (452 4.3.1).
    pub(in crate::config) min_free: String,
    /// The same for inodes, if the file system counts them.
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
    /// Networks whose machines may connect. Required if the address is not a loopback address.
    #[schemars(example = ["127.0.0.0/8", "192.0.2.0/24"])]
    pub(in crate::config) allow_clients: StringList,
    /// The file that contains only the token that the pages require. Default: no token; then pages
    /// are served only on a loopback address, without subjects and messages.
    #[schemars(example = "/etc/copyist/admin.token")]
    pub(in crate::config) token_file: Option<String>,
}

impl Default for Milter {
    fn default() -> Milter {
        Milter {
            listen: StringList::from(["inet:127.0.0.1:8891"]),
            inbound: StringList::default(),
            outbound: StringList::default(),
            allow_clients: StringList::from(LOOPBACK),
            allow_users: StringList::default(),
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
            // As in libmilter.
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
            allow_clients: StringList::from(LOOPBACK),
            token_file: None,
        }
    }
}
