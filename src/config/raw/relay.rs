//! The sections `[relay]` and `[delivery]`.

use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::deliver;

/// The relay that accepts journal copies and non-delivery reports.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Relay {
    /// The relay, with an optional port (default 25, or 465 if tls is implicit). Required.
    #[schemars(example = "127.0.0.1:10027")]
    pub(in crate::config) host: Option<String>,
    /// none, opportunistic (STARTTLS if offered; plain text if the handshake fails and neither
    /// username nor ca_file is set), required (STARTTLS), implicit (TLS from the start).
    pub(in crate::config) tls: Tls,
    /// CA certificates (PEM) that verify the relay. Default: the system's.
    #[schemars(example = "/etc/copyist/ca.pem")]
    pub(in crate::config) ca_file: Option<String>,
    /// The account to authenticate with, if the relay requires it.
    #[schemars(example = &"copyist")]
    pub(in crate::config) username: Option<String>,
    /// The file that contains only the account's password.
    #[schemars(example = "/etc/copyist/relay.password")]
    pub(in crate::config) password_file: Option<String>,
    /// The most connections open at once.
    pub(in crate::config) connections: NonZeroU16,
    /// The name sent in EHLO. Default: organization.hostname.
    #[schemars(example = "copyist.example.com")]
    pub(in crate::config) helo_name: Option<String>,
    /// The longest wait for one reply.
    pub(in crate::config) timeout: String,
}

/// How copies and non-delivery reports are sent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Delivery {
    /// When a failed attempt is repeated. Copyist never gives up by itself.
    pub(in crate::config) retry: Retry,
    /// The author of reports. Default: journal at the organization's first domain.
    #[schemars(example = "journal@example.com")]
    pub(in crate::config) report_from: Option<String>,
}

/// When a failed attempt is repeated.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Retry {
    /// The delay after the first failure; it grows from there.
    pub(in crate::config) first: String,
    /// The longest delay.
    pub(in crate::config) max: String,
}

words! {
    /// See [`deliver::Tls`].
    Tls => deliver::Tls, "lowercase" {
        None,
        #[default]
        Opportunistic,
        Required,
        Implicit,
    }
}

impl Default for Relay {
    fn default() -> Relay {
        Relay {
            host: None,
            tls: Tls::default(),
            ca_file: None,
            username: None,
            password_file: None,
            connections: const { NonZeroU16::new(8).expect("not zero") },
            helo_name: None,
            // RFC 5321 section 4.5.3.2 asks for five minutes for most replies.
            timeout: "5m".into(),
        }
    }
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            first: "1m".into(),
            max: "4h".into(),
        }
    }
}
