//! The MTA's address maps: the addresses that a recipient or sender is rewritten to.
//!
//! The terms are those of postconf(5): `virtual_alias_maps`, `canonical_maps`, `alias_maps`. Files
//! are kept in memory and reloaded when they change; indexed files are dumped by postmap(1), since
//! the MTA uses them and not the text files. LDAP maps are queried each time, as by the MTA.
//!
//! Promises: no process is started and no file is read while a message waits. An unreadable map is
//! an error for every address that it could affect, never "no alias". Users' `~/.forward` files,
//! `luser_relay`, `masquerade_domains`, `generic(5)` and `*_bcc_maps` are not read.

mod expand;
mod include;
mod ldap;
mod name;
mod source;
mod table;
mod text;
mod tokens;
mod watched;

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use expand::{Expansion, MapError, MapStep, MappedAddress, NonAddress, NonAddressKind};
pub use name::{MapName, MapNameError};
pub use source::MapStatus;

use crate::mail::Address;
use expand::{MapList, MapRules};
use include::{Include, Includes};
use source::{Map, MapOpener};

/// Whether the MTA's local(8) delivers for a domain in lower case: `mydestination` and
/// `inet_interfaces`.
pub type IsLocal = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The MTA's maps and its settings for reading addresses.
#[derive(Clone)]
pub struct Settings {
    /// Aliases of local(8), for local parts at local domains.
    pub alias_maps: Vec<MapName>,
    /// Aliases for whole addresses, local parts and domains.
    pub virtual_alias_maps: Vec<MapName>,
    /// Other spellings of senders and recipients.
    pub canonical_maps: Vec<MapName>,
    /// Other spellings of senders, used before `canonical_maps`.
    pub sender_canonical_maps: Vec<MapName>,
    /// Other spellings of recipients, used before `canonical_maps`.
    pub recipient_canonical_maps: Vec<MapName>,
    /// The characters between a local part and its extension; may be empty.
    pub recipient_delimiter: String,
    /// The domain of names without one: `myorigin`.
    pub origin: String,
    /// Tells which domains local(8) delivers for.
    pub is_local: IsLocal,
    /// Time limit for an answer of an LDAP map.
    pub timeout: Duration,
    /// The program postmap(1): a path, or a name to be found in the search path and the usual
    /// directories.
    pub postmap: PathBuf,
    /// The directory with main.cf, if it is not Postfix's default.
    pub config_directory: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            alias_maps: Vec::new(),
            virtual_alias_maps: Vec::new(),
            canonical_maps: Vec::new(),
            sender_canonical_maps: Vec::new(),
            recipient_canonical_maps: Vec::new(),
            recipient_delimiter: String::new(),
            origin: String::new(),
            is_local: Arc::new(|_| false),
            timeout: Duration::from_secs(10),
            postmap: PathBuf::from("postmap"),
            config_directory: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("alias_maps", &self.alias_maps)
            .field("virtual_alias_maps", &self.virtual_alias_maps)
            .field("canonical_maps", &self.canonical_maps)
            .field("sender_canonical_maps", &self.sender_canonical_maps)
            .field("recipient_canonical_maps", &self.recipient_canonical_maps)
            .field("recipient_delimiter", &self.recipient_delimiter)
            .field("origin", &self.origin)
            .field("timeout", &self.timeout)
            .field("postmap", &self.postmap)
            .field("config_directory", &self.config_directory)
            .finish_non_exhaustive()
    }
}

/// Error of opening address maps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No domain for names without one.
    #[error("address maps need the MTA's own domain (myorigin), which names without a domain get")]
    NoOrigin,
}

/// The address maps of the MTA. Cloning copies nothing.
#[derive(Clone)]
pub struct AddressMaps(Option<Arc<MapRules>>);

impl AddressMaps {
    /// Opens the maps and follows their files until `stop`. Blocks while they are first read. Must
    /// be called within a runtime. An unreadable map is not an error here: it is logged, and
    /// lookups fail until it can be read.
    pub fn open(
        settings: Settings,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<AddressMaps, OpenError> {
        let all = [
            &settings.alias_maps,
            &settings.virtual_alias_maps,
            &settings.canonical_maps,
            &settings.sender_canonical_maps,
            &settings.recipient_canonical_maps,
        ];
        if all.iter().all(|names| names.is_empty()) {
            return Ok(AddressMaps(None));
        }
        if settings.origin.is_empty() {
            return Err(OpenError::NoOrigin);
        }
        let includes = Includes::new(tasks, stop);
        let list = |setting: &'static str, names: &[MapName], includes: Option<Arc<Includes>>| {
            let opener = MapOpener {
                postmap: &settings.postmap,
                config_directory: settings.config_directory.as_deref(),
                timeout: settings.timeout,
                tasks,
                stop,
                includes,
            };
            let maps = names.iter().map(|name| Map::open(name, &opener)).collect();
            MapList { setting, maps }
        };
        Ok(AddressMaps(Some(Arc::new(MapRules {
            sender_canonical: list(
                "sender_canonical_maps",
                &settings.sender_canonical_maps,
                None,
            ),
            recipient_canonical: list(
                "recipient_canonical_maps",
                &settings.recipient_canonical_maps,
                None,
            ),
            canonical: list("canonical_maps", &settings.canonical_maps, None),
            virtual_alias: list("virtual_alias_maps", &settings.virtual_alias_maps, None),
            alias: list(
                "alias_maps",
                &settings.alias_maps,
                Some(Arc::clone(&includes)),
            ),
            includes,
            delimiters: settings.recipient_delimiter,
            origin: settings.origin,
            is_local: settings.is_local,
        }))))
    }

    /// Returns an empty set of maps.
    pub fn none() -> AddressMaps {
        AddressMaps(None)
    }

    /// Whether there are no maps.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the addresses that mail to `address` goes to, with the steps that led there;
    /// [`Expansion::Unchanged`] without an entry.
    pub async fn recipients(&self, address: &Address) -> Result<Expansion, MapError> {
        match &self.0 {
            Some(rules) => rules.recipients(address).await,
            None => Ok(Expansion::Unchanged),
        }
    }

    /// Returns the sender address after the canonical maps.
    pub async fn senders(&self, address: &Address) -> Result<Expansion, MapError> {
        match &self.0 {
            Some(rules) => rules.senders(address).await,
            None => Ok(Expansion::Unchanged),
        }
    }

    /// Whether any map has an entry for a recipient; otherwise [`AddressMaps::recipients`] returns
    /// [`Expansion::Unchanged`].
    pub async fn rewrites(&self, address: &Address) -> Result<bool, MapError> {
        match &self.0 {
            Some(rules) => rules.has_entry(address).await,
            None => Ok(false),
        }
    }

    /// Returns a number that changes whenever a file of a map is reloaded.
    pub fn version(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for list in self.0.iter().flat_map(|rules| rules.lists()) {
            list.maps
                .iter()
                .for_each(|map| map.add_version(&mut hasher));
        }
        hasher.finish()
    }

    /// Returns the status of each map and of each included file.
    pub fn status(&self) -> Vec<MapStatus> {
        let mut status = Vec::new();
        let Some(rules) = &self.0 else {
            return status;
        };
        for list in rules.lists() {
            for map in &list.maps {
                map.describe(list.setting, &mut status);
            }
        }
        for (path, file) in rules.includes.all() {
            let (entries, read, problem) = match file.content() {
                Ok(content) => match &content.value {
                    Include::Lines(lines) => (Some(lines.len()), Some(content.read), None),
                    Include::Refused(reason) => (
                        None,
                        Some(content.read),
                        Some(format!("rejected by the MTA: {reason}")),
                    ),
                },
                Err(reason) => (None, None, Some(reason)),
            };
            status.push(MapStatus {
                setting: rules.alias.setting,
                map: format!(":include:{path}"),
                entries,
                read,
                problem,
            });
        }
        status
    }
}

impl fmt::Debug for AddressMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.status()).finish()
    }
}

impl MapRules {
    fn lists(&self) -> [&MapList; 5] {
        [
            &self.sender_canonical,
            &self.recipient_canonical,
            &self.canonical,
            &self.virtual_alias,
            &self.alias,
        ]
    }
}
