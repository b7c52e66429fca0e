//! The settings as they are written: the one list of keys, defaults, examples and possible words.
//!
//! The JSON schema, the check of every key and type, and the defaults all come from here; editors
//! show the fields' doc comments to the administrator. [`super::build`] interprets the strings
//! (addresses, networks, durations).

/// Defines the words that a key may hold, and their conversion to the enum that a module uses.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident => $target:ty, $case:literal {
        $($(#[$default:meta])? $word:ident,)+
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = $case)]
        pub(in crate::config) enum $name {
            $($(#[$default])? $word,)+
        }

        impl From<$name> for $target {
            fn from(raw: $name) -> $target {
                match raw {
                    $($name::$word => <$target>::$word,)+
                }
            }
        }
    };
}

mod direction;
mod directory;
mod listeners;
mod lists;
mod log;
mod organization;
mod relay;
mod smtp;
mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use direction::{Direction, Outbound};
pub(super) use directory::{Directory, OnFailure};
pub(super) use listeners::{Admin, Hook, Limits, Spool};
pub(super) use lists::{StringGroups, StringList};
pub(super) use log::Log;
pub use log::LogFormat;
pub(super) use organization::{DomainsFrom, Organization};
pub(super) use relay::{Delivery, Relay, Tls};
pub(super) use smtp::{Smtp, SmtpDirection, SmtpTls};
pub(super) use text::{Text, Wording};

/// Settings of Copyist, a directory-driven mail journaling agent.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Copyist")]
pub(super) struct Raw {
    /// The directory of the spool. It must survive restarts: Copyist has accepted responsibility for
    /// every message in it.
    pub(super) state_dir: String,
    /// The organization: its domains, address maps and trusted clients.
    pub(super) organization: Organization,
    /// The directory: where people and their journal addresses are looked up.
    pub(super) directory: Directory,
    /// Mail from external senders to the organization.
    pub(super) inbound: Direction,
    /// Mail from the organization to external recipients.
    pub(super) outbound: Outbound,
    /// Mail within the organization.
    pub(super) internal: Direction,
    /// How disclaimer texts are added to messages.
    pub(super) text: Text,
    /// Listeners for MTAs.
    pub(super) hook: Hook,
    /// The relay that accepts journal copies and non-delivery reports.
    pub(super) relay: Relay,
    /// How copies and non-delivery reports are sent.
    pub(super) delivery: Delivery,
    /// Limits on size, number and time.
    pub(super) limits: Limits,
    /// The spool of queued journal copies.
    pub(super) spool: Spool,
    /// Health, metrics and pages.
    pub(super) admin: Admin,
    /// The log on standard error. Read once, at startup.
    pub(super) log: Log,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw {
            state_dir: "/var/lib/copyist".into(),
            organization: Organization::default(),
            directory: Directory::default(),
            inbound: Direction::default(),
            outbound: Outbound::default(),
            internal: Direction::default(),
            text: Text::default(),
            hook: Hook::default(),
            relay: Relay::default(),
            delivery: Delivery::default(),
            limits: Limits::default(),
            spool: Spool::default(),
            admin: Admin::default(),
            log: Log::default(),
        }
    }
}
