//! The section `[directory]`.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StringList;
use crate::{directory, policy};

/// The directory: where people and their journal addresses are looked up.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Directory {
    /// The LDAP servers (ldap://, ldaps://, ldapi://, or srv:DOMAIN for DNS SRV records), tried in
    /// this order; or one ldif:FILE. Required.
    #[schemars(example = ["ldaps://dc1.example.com"])]
    pub(in crate::config) urls: StringList,
    /// Whether ldap:// connections must start TLS first.
    pub(in crate::config) starttls: bool,
    /// CA certificates (PEM) that verify the servers. Default: the system's.
    #[schemars(example = "/etc/copyist/ca.pem")]
    pub(in crate::config) ca_file: Option<String>,
    /// The account to bind with. Default: anonymous.
    #[schemars(example = "CN=copyist,OU=Services,DC=example,DC=com")]
    pub(in crate::config) bind_dn: Option<String>,
    /// The file that contains only the account's password.
    #[schemars(example = "/etc/copyist/ldap.password")]
    pub(in crate::config) bind_password_file: Option<String>,
    /// Bind by Kerberos instead, with the ticket cache or client keytab in the environment
    /// (KRB5CCNAME, KRB5_CLIENT_KTNAME). Needs a build with the feature gssapi.
    pub(in crate::config) gssapi: bool,
    /// The base of all searches. Required with LDAP servers; may be empty.
    #[schemars(example = "DC=example,DC=com")]
    pub(in crate::config) base: Option<String>,
    /// Attributes that contain a person's own addresses.
    pub(in crate::config) address_attributes: StringList,
    /// Attributes that contain user names: of authenticated clients, and of mailboxes at the MTA's
    /// own names.
    pub(in crate::config) login_attributes: StringList,
    /// Characters that start an address extension (user+list@example.com). Default: none.
    #[schemars(example = "+")]
    pub(in crate::config) recipient_delimiter: String,
    /// The longest wait for one answer of a server. All lookups for one message together may take
    /// four times as long, and at least ten seconds.
    pub(in crate::config) timeout: String,
    /// Action if a lookup for a message fails: defer it (451), send its copy to fallback_journal, or
    /// accept it without that copy.
    pub(in crate::config) on_failure: OnFailure,
    /// The address for copies without a usable journal address.
    #[schemars(example = "journal-fallback@example.com")]
    pub(in crate::config) fallback_journal: Option<String>,
    /// The domains that journal addresses may be in; *.example.com matches every subdomain of
    /// example.com. A copy for any other address goes to fallback_journal. Default: any.
    #[schemars(example = ["example.com"])]
    pub(in crate::config) journal_domains: StringList,
    /// Where people inherit journal attributes from: the "groups" they are members of, the
    /// "containers" above their objects. Default: nowhere.
    #[schemars(example = ["groups", "containers"])]
    pub(in crate::config) inherit_from: StringList,
    /// The attribute that exempts a person from journaling if its value is TRUE. Default: nobody is
    /// exempt.
    #[schemars(example = &"extensionAttribute11")]
    pub(in crate::config) journal_exempt_attribute: Option<String>,
    /// When a group that is a journal target is expanded to its members: if it has no address of its
    /// own (without_address), or always.
    pub(in crate::config) expand_groups: ExpandGroups,
    /// The most objects that one journal target may expand to. Mail for a larger group is deferred.
    pub(in crate::config) group_limit: NonZeroU64,
    /// The domain of IMCEAEX addresses, for journal targets without an SMTP address on an Exchange
    /// relay. Default: no such addresses.
    #[schemars(example = "example.com")]
    pub(in crate::config) imceaex_domain: Option<String>,
    /// An address that the directory always contains. While it is not found, every negative answer
    /// counts as an outage: an account that lost its rights finds nobody. Default: negative answers
    /// are trusted.
    #[schemars(example = "postmaster@example.com")]
    pub(in crate::config) canary: Option<String>,
    /// How changes are followed, so that they take effect at once: as the servers offer it (auto),
    /// by syncrepl (OpenLDAP), by notify or usn (Active Directory), or not (off).
    pub(in crate::config) watch: Watch,
    /// How long answers are cached.
    pub(in crate::config) cache: Cache,
}

/// How long answers are cached.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Cache {
    /// How long an answer is used without asking again.
    pub(in crate::config) ttl: String,
    /// The same for negative answers.
    pub(in crate::config) negative_ttl: String,
    /// The maximum age of a cached answer while no server is available.
    pub(in crate::config) max_stale: String,
    /// The most addresses cached.
    pub(in crate::config) capacity: NonZeroU64,
}

words! {
    /// See [`policy::OnFailure`].
    OnFailure => policy::OnFailure, "lowercase" {
        #[default]
        Defer,
        Fallback,
        Accept,
    }
}

words! {
    /// See [`directory::ExpandGroups`].
    ExpandGroups => directory::ExpandGroups, "snake_case" {
        #[default]
        WithoutAddress,
        Always,
    }
}

words! {
    /// See [`directory::WatchMode`].
    Watch => directory::WatchMode, "lowercase" {
        #[default]
        Auto,
        Syncrepl,
        Notify,
        Usn,
        Off,
    }
}

impl Default for Directory {
    fn default() -> Directory {
        Directory {
            urls: StringList::default(),
            starttls: false,
            ca_file: None,
            bind_dn: None,
            bind_password_file: None,
            gssapi: false,
            base: None,
            address_attributes: StringList::from([
                "mail",
                "proxyAddresses",
                "mailLocalAddress",
                "userPrincipalName",
            ]),
            login_attributes: StringList::from(["sAMAccountName", "uid", "userPrincipalName"]),
            recipient_delimiter: String::new(),
            timeout: "5s".into(),
            on_failure: OnFailure::default(),
            fallback_journal: None,
            journal_domains: StringList::default(),
            inherit_from: StringList::default(),
            journal_exempt_attribute: None,
            expand_groups: ExpandGroups::default(),
            group_limit: const { NonZeroU64::new(10_000).unwrap() },
            imceaex_domain: None,
            canary: None,
            watch: Watch::default(),
            cache: Cache::default(),
        }
    }
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            ttl: "5m".into(),
            negative_ttl: "1m".into(),
            max_stale: "24h".into(),
            capacity: const { NonZeroU64::new(100_000).expect("not zero") },
        }
    }
}
