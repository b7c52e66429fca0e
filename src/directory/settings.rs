//! What the directory needs to know; built by `config`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::mail::Address;
use crate::secret::Secret;

/// Settings of the directory side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where entries come from.
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
    /// Where else than in their own objects people's journal attributes may stand.
    pub inheritance: Inheritance,
    /// How journal targets that name objects are resolved.
    pub targets: TargetSettings,
    /// The cache in front of the source.
    pub cache: CacheSettings,
}

impl Settings {
    /// The longest wait for one answer; a file answers from memory.
    pub fn timeout(&self) -> Duration {
        match &self.source {
            Source::Ldap(ldap) => ldap.timeout,
            Source::Ldif(_) => Duration::from_secs(5),
        }
    }
}

/// Where else than in a person's own object journal attributes may stand. What stands there counts
/// as if it stood in the object as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inheritance {
    /// In groups that the person is a member of, also by way of other groups.
    pub groups: bool,
    /// In the containers above the object, up to the base.
    pub containers: bool,
}

/// How journal targets that name objects are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSettings {
    /// When a group stands for its members.
    pub expand_groups: ExpandGroups,
    /// The most objects that one target may lead to; a larger group defers mail. As a recipient, a
    /// larger group is compared with those who are journaled instead of being read member by
    /// member.
    pub group_limit: usize,
    /// The domain of IMCEAEX addresses for objects without an SMTP address; none are made where
    /// `None`.
    pub imceaex_domain: Option<String>,
}

/// When a group stands for its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpandGroups {
    /// Where it has no address of its own.
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

/// Where entries come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// LDAP servers.
    Ldap(LdapSettings),
    /// A file in LDIF (RFC 2849), read again when it changes.
    Ldif(PathBuf),
}

/// Answers that one question may wait for: its own, and one that proves it, of servers that are
/// changed on the way.
pub(super) const ANSWERS_PER_LOOKUP: u32 = 4;

/// How the LDAP servers are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapSettings {
    /// `ldap://`, `ldaps://` or `ldapi://` URLs, tried in this order.
    pub urls: Vec<String>,
    /// Whether `ldap://` connections must switch to TLS before the bind.
    pub starttls: bool,
    /// Certificates (PEM) that servers are checked against; the system's where `None`.
    pub ca_file: Option<PathBuf>,
    /// The account to bind with; anonymous where `None`.
    pub bind: Option<Bind>,
    /// Whether to bind by Kerberos (SASL GSSAPI, RFC 4752), as whoever the process's credentials
    /// say.
    pub gssapi: bool,
    /// The base of all searches.
    pub base: String,
    /// The longest wait for one answer of a server.
    pub timeout: Duration,
    /// How changes are followed.
    pub watch: WatchMode,
    /// The address of somebody who is always there: while he is not found, nobody's absence is
    /// believed.
    pub canary: Option<Address>,
}

impl LdapSettings {
    /// The longest that a question may take which needs several answers, one after the other.
    pub fn max_wait(&self) -> Duration {
        self.timeout * ANSWERS_PER_LOOKUP
    }
}

/// How changes in the directory are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchMode {
    /// As the server offers it: content synchronization, or else notification and polling.
    #[default]
    Auto,
    /// Content synchronization, refresh and persist (RFC 4533), as OpenLDAP's overlay syncprov
    /// offers it.
    Syncrepl,
    /// Active Directory's change notification.
    Notify,
    /// Active Directory's update sequence numbers, looked at once a second.
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

/// How long answers are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// How long a found entry is used without asking again.
    pub ttl: Duration,
    /// How long an absence is.
    pub negative_ttl: Duration,
    /// How old a found entry may be while the directory does not answer.
    pub max_stale: Duration,
    /// How many addresses are kept at most.
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

/// Values of an attribute of some objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeQuery {
    /// The base of the search; the objects are below it.
    pub base: String,
    /// The filter (RFC 4515) that finds them.
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
