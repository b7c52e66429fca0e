//! What the admin side needs to know; built by `config`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::hook::Clients;
use crate::secret::Secret;

/// Settings of the admin side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where health, metrics and pages are served; nowhere where `None`.
    pub listen: Option<SocketAddr>,
    /// Who may connect.
    pub clients: Clients,
    /// What the pages ask for.
    pub token: Option<Secret>,
}

/// What the pages show of the settings, and what they ask for: that of the moment.
#[derive(Debug, Clone)]
pub struct InForce {
    /// What the pages ask for.
    pub token: Option<Secret>,
    /// Attributes that hold a person's own addresses.
    pub address_attributes: Vec<String>,
    /// Every key.
    pub effective: Arc<Effective>,
    /// Since when.
    pub since: SystemTime,
    /// Why the configuration that was read last is not in force.
    pub refused: Option<Refused>,
}

/// A configuration that was read while the service ran, and that could not be taken over.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Its mistakes, or what it names that cannot be used.
    pub why: String,
    /// When it was read.
    pub at: SystemTime,
}

/// Every key as it is in force, for people to read. Holds no secret.
#[derive(Clone, Default)]
pub struct Effective {
    /// The configuration file.
    pub file: PathBuf,
    /// By table.
    pub settings: Vec<Setting>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `table.key`.
    pub key: String,
    /// As the file would hold it; `None` where there is none.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
    /// What it is for.
    pub about: String,
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// This line of the configuration file.
    Line(usize),
    /// The environment variable of this name.
    Variable(String),
}

impl fmt::Debug for Effective {
    /// The settings themselves are printed where they stand.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Effective({} keys)", self.settings.len())
    }
}
