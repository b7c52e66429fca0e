//! The tables `[[hook.smtp]]`: one for each SMTP listener.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::listeners::LOOPBACK;
use super::{StringList, Tls};
use crate::hook;
use crate::smtp::BareLineBreaks;

/// An SMTP listener and its next hop.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Smtp {
    /// The IP address and port to listen on. Required.
    #[schemars(example = "127.0.0.1:10025")]
    pub(in crate::config) listen: Option<String>,
    /// The server that messages are passed on to, with an optional port (default 25, or 465 if
    /// next_hop_tls is implicit). Required.
    #[schemars(example = "127.0.0.1:10026")]
    pub(in crate::config) next_hop: Option<String>,
    /// Position: before the MTA's queue, with the sender still connected, or after it, where
    /// messages are never rejected permanently because that would cause a bounce.
    pub(in crate::config) mode: SmtpMode,
    /// Whether senders are external: decided by their address, as for the milter (auto), always
    /// external (inbound), or always the organization's own (outbound).
    pub(in crate::config) direction: SmtpDirection,
    /// Networks whose machines may connect. Required if the address is not a loopback address.
    #[schemars(example = ["127.0.0.0/8", "192.0.2.0/24"])]
    pub(in crate::config) allow_clients: StringList,
    /// Networks among allow_clients whose machines may declare the original client, by XCLIENT,
    /// XFORWARD or the PROXY protocol.
    #[schemars(example = ["127.0.0.0/8", "192.0.2.1/32"])]
    pub(in crate::config) allow_xclient: StringList,
    /// Whether each connection from allow_xclient starts with a PROXY protocol header.
    pub(in crate::config) proxy_protocol: bool,
    /// Messages with a bare CR or LF: rejected, or each becomes CRLF. Default: rejected before the
    /// queue, CRLF after it.
    pub(in crate::config) bare_newline: Option<BareNewline>,
    /// TLS with clients: none, starttls (offered), implicit (TLS from the start).
    pub(in crate::config) tls: SmtpTls,
    /// The server certificate and its intermediates (PEM). Required unless tls is none.
    #[schemars(example = "/etc/copyist/smtp.pem")]
    pub(in crate::config) cert_file: Option<String>,
    /// The certificate's private key (PEM). Required unless tls is none.
    #[schemars(example = "/etc/copyist/smtp.key")]
    pub(in crate::config) key_file: Option<String>,
    /// TLS with the next hop: none, opportunistic (STARTTLS if offered; plain text if the handshake
    /// fails and next_hop_ca_file is not set), required (STARTTLS), implicit (TLS from the start).
    pub(in crate::config) next_hop_tls: Tls,
    /// CA certificates (PEM) that verify the next hop. Default: the system's.
    #[schemars(example = "/etc/copyist/ca.pem")]
    pub(in crate::config) next_hop_ca_file: Option<String>,
    /// The longest wait for one reply of the next hop.
    pub(in crate::config) next_hop_timeout: String,
    /// The longest wait for its reply to a message. Without a reply the outcome is unknown: the
    /// report is kept, and the client is asked to try again.
    pub(in crate::config) next_hop_data_done_timeout: String,
}

words! {
    /// See [`hook::Mode`].
    SmtpMode => hook::Mode, "kebab-case" {
        #[default]
        BeforeQueue,
        AfterQueue,
    }
}

/// See [`hook::SmtpListener::side`].
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

/// See [`hook::ListenerTls`].
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
            allow_clients: StringList::from(LOOPBACK),
            allow_xclient: StringList::from(LOOPBACK),
            proxy_protocol: false,
            bare_newline: None,
            tls: SmtpTls::default(),
            cert_file: None,
            key_file: None,
            // The next hop is usually an MTA on the same machine.
            next_hop_tls: Tls::None,
            next_hop_ca_file: None,
            // RFC 5321 section 4.5.3.2 asks for five minutes for most replies.
            next_hop_timeout: "5m".into(),
            // RFC 5321 section 4.5.3.2.6.
            next_hop_data_done_timeout: "10m".into(),
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
