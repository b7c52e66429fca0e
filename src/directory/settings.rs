//! Settings of the directory; built by `config`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::mail::Address;
use crate::secret::Secret;

/// Settings of the directory side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The source of entries.
    pub source: Source,
    /// Attributes that hold an object's own addresses (`mail`, `proxyAddresses`, …).
    pub address_attributes: Vec<String>,
    /// Attributes that hold journal addresses, of all directions.
    pub journal_attributes: Vec<String>,
    /// Attributes that hold login names (`sAMAccountName`, `uid`, …).
    pub login_attributes: Vec<String>,
    /// Further attributes to read of a person's object.
    pub further_attributes: Vec<String>,
    /// The attribute that exempts a person from journaling, with the value TRUE; one of
    /// `further_attributes`.
    pub exempt_attribute: Option<String>,
    /// Where people inherit journal attributes from.
    pub inheritance: Inheritance,
    /// The resolution of journal targets that name objects.
    pub targets: TargetSettings,
    /// The cache in front of the source.
    pub cache: CacheSettings,
}

impl Settings {
    /// Returns the time limit for one answer; a file answers from memory.
    pub fn timeout(&self) -> Duration {
        match &self.source {
            Source::Ldap(ldap) => ldap.timeout,
            Source::Ldif(_) => Duration::from_secs(5),
        }
    }
}

/// Where people inherit journal attributes from. Inherited values count in addition to a person's
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inheritance {
    /// From groups that the person is a direct or indirect member of.
    pub groups: bool,
    /// From the containers above the object, up to the base.
    pub containers: bool,
}

/// The resolution of journal targets that name objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSettings {
    /// When a group is replaced by its members.
    pub expand_groups: ExpandGroups,
    /// Maximum number of objects that one target may expand to; a larger group defers mail. As a
    /// recipient, a larger group is compared with the journaled objects instead of being read
    /// member by member.
    pub group_limit: usize,
    /// The domain of IMCEAEX addresses for objects without an SMTP address; `None`: no such
    /// addresses.
    pub imceaex_domain: Option<String>,
}

/// When a group is replaced by its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpandGroups {
    /// If the group has no address of its own.
    #[default]
    WithoutAddress,
    /// Always.
    Always,
}

impl Default for TargetSettings {
    fn default() -> TargetSettings {
        TargetSettings {
            expand_groups: ExpandGroups::default(),
            group_limit: 10_000,
            imceaex_domain: None,
        }
    }
}

/// The source of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// LDAP servers.
    Ldap(LdapSettings),
    /// A file in LDIF (RFC 2849), read again when it changes.
    Ldif(PathBuf),
}

/// Number of answers that one lookup may wait for: its own and one to verify it, each possibly from
/// two servers.
pub(super) const ANSWERS_PER_LOOKUP: u32 = 4;

/// Settings of the LDAP servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapSettings {
    /// `ldap://`, `ldaps://` or `ldapi://` URLs, tried in this order.
    pub urls: Vec<String>,
    /// Whether `ldap://` connections must switch to TLS before the bind.
    pub starttls: bool,
    /// Certificates (PEM) that servers are checked against; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// The account to bind with; `None`: anonymous.
    pub bind: Option<Bind>,
    /// Whether to bind by Kerberos (SASL GSSAPI, RFC 4752), with the credentials of the process.
    pub gssapi: bool,
    /// The base of all searches.
    pub base: String,
    /// Time limit for one answer of a server.
    pub timeout: Duration,
    /// How changes are followed.
    pub watch: WatchMode,
    /// The address of an object that always exists: while it is not found, no negative answer is
    /// believed.
    pub canary: Option<Address>,
}

impl LdapSettings {
    /// Returns the time limit for a lookup that needs several answers in sequence.
    pub fn max_wait(&self) -> Duration {
        self.timeout * ANSWERS_PER_LOOKUP
    }
}

/// How changes in the directory are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchMode {
    /// Whatever the server offers: content synchronization, or else notification and polling.
    #[default]
    Auto,
    /// Content synchronization, refresh and persist (RFC 4533), as OpenLDAP's overlay syncprov
    /// offers it.
    Syncrepl,
    /// Active Directory's change notification.
    Notify,
    /// Active Directory's update sequence numbers, polled once a second.
    Usn,
    /// Not at all.
    Off,
}

impl fmt::Display for WatchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WatchMode::Auto => "auto",
            WatchMode::Syncrepl => "syncrepl",
            WatchMode::Notify => "notify",
            WatchMode::Usn => "usn",
            WatchMode::Off => "off",
        })
    }
}

/// A simple bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The DN (or, for Active Directory, the user principal name).
    pub dn: String,
    /// Its password.
    pub password: Secret,
}

/// Settings of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// TTL of positive answers.
    pub ttl: Duration,
    /// TTL of negative answers.
    pub negative_ttl: Duration,
    /// Maximum age of a positive answer served while the directory is unavailable.
    pub max_stale: Duration,
    /// Maximum number of cached addresses.
    pub capacity: u64,
}

impl Default for CacheSettings {
    fn default() -> CacheSettings {
        CacheSettings {
            ttl: Duration::from_secs(5 * 60),
            negative_ttl: Duration::from_secs(60),
            max_stale: Duration::from_secs(24 * 3600),
            capacity: 100_000,
        }
    }
}

/// A query for the values of an attribute of some objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeQuery {
    /// The base of the search.
    pub base: String,
    /// The filter (RFC 4515) that finds the objects.
    pub filter: String,
    /// The attribute.
    pub attribute: String,
}

impl fmt::Display for AttributeQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttributeQuery {
            base,
            filter,
            attribute,
        } = self;
        write!(f, "{attribute} of {filter} below {base:?}")
    }
}
