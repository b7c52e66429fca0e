//! Settings of the admin listener, built by `config`, and the configuration that pages show.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::hook::ClientNetworks;
use crate::secret::Secret;

/// Settings of the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The listen address; `None` disables the listener.
    pub listen: Option<SocketAddr>,
    /// The access list.
    pub clients: ClientNetworks,
    /// The token that the pages require.
    pub token: Option<Secret>,
}

/// The active configuration as far as pages need it.
#[derive(Debug, Clone)]
pub struct ActiveConfig {
    /// The token that the pages require.
    pub token: Option<Secret>,
    /// Attributes that contain a person's own addresses.
    pub address_attributes: Vec<String>,
    /// The effective value of every key.
    pub effective: Arc<EffectiveConfig>,
    /// The time when it became active.
    pub since: SystemTime,
    /// The last reload, if it failed.
    pub rejected: Option<RejectedConfig>,
}

/// A configuration that a reload could not activate.
#[derive(Debug, Clone)]
pub struct RejectedConfig {
    /// The problems.
    pub reason: String,
    /// The time of the reload.
    pub at: SystemTime,
}

/// The effective value of every key, for display. Contains no secrets.
#[derive(Clone, Default)]
pub struct EffectiveConfig {
    /// The configuration file.
    pub file: PathBuf,
    /// All settings, by table.
    pub settings: Vec<Setting>,
}

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `table.key`.
    pub key: String,
    /// The value as in the file; `None` if there is none.
    pub value: Option<String>,
    /// Its origin.
    pub origin: Origin,
    /// Its description.
    pub about: String,
}

/// The origin of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The default.
    Default,
    /// This line of the configuration file.
    Line(usize),
    /// The environment variable of this name.
    Variable(String),
}

impl fmt::Debug for EffectiveConfig {
    /// Prints only the number of keys: the settings have their own Debug output.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EffectiveConfig({} keys)", self.settings.len())
    }
}
