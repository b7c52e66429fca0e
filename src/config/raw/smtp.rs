//! The tables `[[hook.smtp]]`: one for each listener that hands messages on by SMTP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::doors::LOOPBACK;
use super::{Tls, Words};
use crate::hook;
use crate::smtp::BareLineBreaks;

/// One SMTP listener, and the server that it hands messages on to.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Smtp {
    /// The IP address and port where it listens. Required.
    #[schemars(example = "127.0.0.1:10025")]
    pub(in crate::config) listen: Option<String>,
    /// The server that messages are handed on to, with or without a port (default 25, or 465 where
    /// next_hop_tls is implicit). Required.
    #[schemars(example = "127.0.0.1:10026")]
    pub(in crate::config) next_hop: Option<String>,
    /// Where it stands: before the MTA's queue, with the sender still connected, or behind it,
    /// where no final no is said because it would become a bounce.
    pub(in crate::config) mode: SmtpMode,
    /// The side that senders are on: told by their address, as for the milter (auto), or outside
    /// (inbound) or of the organization (outbound), all of them.
    pub(in crate::config) direction: SmtpDirection,
    /// Networks whose machines may connect. Needed where the address is not of this machine alone.
    #[schemars(example = ["127.0.0.0/8", "192.0.2.0/24"])]
    pub(in crate::config) allow_clients: Words,
    /// Networks of those among them that may say on whose behalf they connect: by XCLIENT, XFORWARD
    /// or the PROXY protocol.
    #[schemars(example = ["127.0.0.0/8", "192.0.2.1/32"])]
    pub(in crate::config) allow_xclient: Words,
    /// Whether each connection from allow_xclient begins with a header of the PROXY protocol.
    pub(in crate::config) proxy_protocol: bool,
    /// Messages with CR or LF that stand alone: refused, or each becomes CRLF. Default: refused
    /// before the queue, CRLF behind it.
    pub(in crate::config) bare_newline: Option<BareNewline>,
    /// TLS with clients: none, starttls (offered), implicit (TLS from the start).
    pub(in crate::config) tls: SmtpTls,
    /// The certificate that clients see, and those that it was signed by (PEM). Required unless tls
    /// is none.
    #[schemars(example = "/etc/copyist/smtp.pem")]
    pub(in crate::config) cert_file: Option<String>,
    /// The certificate's private key (PEM). Required unless tls is none.
    #[schemars(example = "/etc/copyist/smtp.key")]
    pub(in crate::config) key_file: Option<String>,
    /// TLS with the next server: none, opportunistic (STARTTLS where offered; in the clear where
    /// the handshake fails and next_hop_ca_file is not set), required (STARTTLS), implicit (TLS
    /// from the start).
    pub(in crate::config) next_hop_tls: Tls,
    /// Certificates (PEM) that the next server is checked against. Default: the system's.
    #[schemars(example = "/etc/copyist/ca.pem")]
    pub(in crate::config) next_hop_ca_file: Option<String>,
    /// The longest wait for one reply of the next server.
    pub(in crate::config) next_hop_timeout: String,
    /// The longest wait for its reply after a message, with which it takes the message or does not.
    /// When it does not come, nobody knows: the report is kept, and the client told to try again.
    pub(in crate::config) next_hop_data_done_timeout: String,
}

/// See [`hook::Mode`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum SmtpMode {
    #[default]
    BeforeQueue,
    AfterQueue,
}

/// See [`hook::SmtpDoor::side`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum SmtpDirection {
    #[default]
    Auto,
    Inbound,
    Outbound,
}

/// See [`BareLineBreaks`].
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum BareNewline {
    Reject,
    Normalize,
}

/// See [`hook::DoorTls`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum SmtpTls {
    #[default]
    None,
    Starttls,
    Implicit,
}

impl Default for Smtp {
    fn default() -> Smtp {
        Smtp {
            listen: None,
            next_hop: None,
            mode: SmtpMode::default(),
            direction: SmtpDirection::default(),
            allow_clients: Words::from(LOOPBACK),
            allow_xclient: Words::from(LOOPBACK),
            proxy_protocol: false,
            bare_newline: None,
            tls: SmtpTls::default(),
            cert_file: None,
            key_file: None,
            // The next server is mostly the MTA beside us.
            next_hop_tls: Tls::None,
            next_hop_ca_file: None,
            // RFC 5321 section 4.5.3.2 asks for five minutes for most replies.
            next_hop_timeout: "5m".into(),
            // RFC 5321 section 4.5.3.2.6.
            next_hop_data_done_timeout: "10m".into(),
        }
    }
}

impl From<SmtpMode> for hook::Mode {
    fn from(raw: SmtpMode) -> hook::Mode {
        match raw {
            SmtpMode::BeforeQueue => hook::Mode::BeforeQueue,
            SmtpMode::AfterQueue => hook::Mode::AfterQueue,
        }
    }
}

impl From<BareNewline> for BareLineBreaks {
    fn from(raw: BareNewline) -> BareLineBreaks {
        match raw {
            BareNewline::Reject => BareLineBreaks::Reject,
            BareNewline::Normalize => BareLineBreaks::Normalize,
        }
    }
}
