//! The settings as they are written: the one list of keys, defaults, examples and possible words.
//!
//! The JSON schema, the check of every key and type, and the defaults all come from here; the texts
//! of the fields are what an administrator's editor shows. What a text means (an address, a
//! network, a duration) is not decided here; see [`super::build`].

mod doors;
mod log;
mod smtp;

use std::borrow::Cow;
use std::fmt;
use std::num::{NonZeroU16, NonZeroU64};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{deliver, directory, policy, text};

pub(super) use doors::{Admin, Hook, Limits, Spool};
pub(super) use log::Log;
pub use log::LogFormat;
pub(super) use smtp::{Smtp, SmtpDirection, SmtpTls};

/// Settings of Copyist, a directory-driven mail journaling agent.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Copyist")]
pub(super) struct Raw {
    /// The directory of the spool. It must outlive restarts: what is in it has been promised to
    /// somebody.
    pub(super) state_dir: String,
    /// Who is inside.
    pub(super) organization: Organization,
    /// Who the people of the organization are.
    pub(super) directory: Directory,
    /// Mail from outside to the organization.
    pub(super) inbound: Direction,
    /// Mail from the organization to outside.
    pub(super) outbound: Outbound,
    /// Mail inside the organization.
    pub(super) internal: Direction,
    /// How texts are put into messages.
    pub(super) text: Text,
    /// How MTAs hand mail over.
    pub(super) hook: Hook,
    /// Who takes journal copies and non-delivery reports.
    pub(super) relay: Relay,
    /// How they are sent.
    pub(super) delivery: Delivery,
    /// How much is taken in, and how long it may take.
    pub(super) limits: Limits,
    /// Where journal copies wait.
    pub(super) spool: Spool,
    /// Health, metrics and pages.
    pub(super) admin: Admin,
    /// What the service says of its work, on standard error. Read once, at its start.
    pub(super) log: Log,
}

/// Who is inside.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Organization {
    /// The organization's mail domains; *.example.com means every domain below example.com.
    /// Required.
    #[schemars(example = ["example.com", "*.example.com"])]
    pub(super) domains: Words,
    /// Where the directory names further domains. Default: nowhere.
    pub(super) domains_from: DomainsFrom,
    /// Names of the MTA itself, whose local parts are mailboxes of the organization: host names,
    /// address literals, what Postfix has in mydestination. In addition to this machine's own names
    /// and addresses.
    #[schemars(example = ["mx1.example.com", "[192.0.2.1]"])]
    pub(super) local_domains: Words,
    /// Groups of domains that share their local parts: dan@ one of them is dan@ all others of its
    /// group. Default: none.
    #[schemars(example = [["example.com", "example.net"]])]
    pub(super) same_domains: Groups,
    /// The domain of addresses without one: the MTA's myorigin. Default: the first of domains.
    #[schemars(example = "example.com")]
    pub(super) default_domain: Option<String>,
    /// The MTA's address maps, as postconf prints them. Mail to an alias is journaled for its
    /// targets.
    pub(super) address_maps: AddressMaps,
    /// Networks whose clients send as the organization even without logging in, if they send for
    /// one of its addresses.
    #[schemars(example = ["192.0.2.0/24"])]
    pub(super) trusted_networks: Words,
    /// Networks, or single addresses, whose clients bring mail from outside: gateways, backup MXs,
    /// list servers. What they bring is inbound, and the journal guard holds. Default: none.
    #[schemars(example = ["192.0.2.25"])]
    pub(super) gateways: Words,
    /// TLS client certificates whose holders send as the organization, by the common name of the
    /// subject, with ;ISSUER behind it where the issuer's must be right as well. Default: none.
    #[schemars(example = ["notebook.example.com"])]
    pub(super) trusted_certificates: Words,
    /// This machine's name in Message-IDs and non-delivery reports. Default: the system's host
    /// name.
    #[schemars(example = "copyist.example.com")]
    pub(super) hostname: Option<String>,
    /// Who may not write to journal and NDR addresses: senders outside, everyone but Copyist, or
    /// off.
    pub(super) journal_guard: JournalGuard,
    /// Journal mailboxes that are named by attributes only, and look like a person's: addresses,
    /// domains, or DNs for everything at or below them. Default: none.
    #[schemars(example = ["journal@example.com", "OU=Journals,DC=example,DC=com"])]
    pub(super) journal_mailboxes: Words,
    /// Whether the mailbox of a person that somebody's journal attribute names is guarded, too.
    pub(super) journal_guard_persons: bool,
}

/// The MTA's address maps, as postconf prints them. Mail to an alias is journaled for its targets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AddressMaps {
    /// Aliases of local(8). Default: none.
    #[schemars(example = ["hash:/etc/aliases"])]
    pub(super) alias_maps: Words,
    /// Aliases of whole addresses and domains. Default: none.
    #[schemars(example = ["hash:/etc/postfix/virtual"])]
    pub(super) virtual_alias_maps: Words,
    /// Other spellings of senders and recipients. Default: none.
    #[schemars(example = ["hash:/etc/postfix/canonical"])]
    pub(super) canonical_maps: Words,
    /// Other spellings of senders. Default: none.
    #[schemars(example = ["hash:/etc/postfix/sender_canonical"])]
    pub(super) sender_canonical_maps: Words,
    /// Other spellings of recipients. Default: none.
    #[schemars(example = ["hash:/etc/postfix/recipient_canonical"])]
    pub(super) recipient_canonical_maps: Words,
}

/// Objects of the directory that name domains.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DomainsFrom {
    /// The base of the search.
    #[schemars(example = "CN=Configuration,DC=example,DC=com")]
    pub(super) base: Option<String>,
    /// The filter that finds the objects.
    #[schemars(example = "(objectClass=msExchAcceptedDomain)")]
    pub(super) filter: Option<String>,
    /// The attribute that holds the domain.
    #[schemars(example = &"msExchAcceptedDomainName")]
    pub(super) attribute: Option<String>,
}

/// Who the people of the organization are.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Directory {
    /// The LDAP servers (ldap://, ldaps://, ldapi://, or srv:DOMAIN for those that the DNS names),
    /// tried in this order; or one ldif:FILE. Required.
    #[schemars(example = ["ldaps://dc1.example.com"])]
    pub(super) urls: Words,
    /// Whether ldap:// connections must switch to TLS before anything else is said.
    pub(super) starttls: bool,
    /// Certificates (PEM) that the servers are checked against. Default: the system's.
    #[schemars(example = "/etc/copyist/ca.pem")]
    pub(super) ca_file: Option<String>,
    /// The account to bind with. Default: anonymous.
    #[schemars(example = "CN=copyist,OU=Services,DC=example,DC=com")]
    pub(super) bind_dn: Option<String>,
    /// The file that holds the account's password and nothing else.
    #[schemars(example = "/etc/copyist/ldap.password")]
    pub(super) bind_password_file: Option<String>,
    /// Bind by Kerberos instead, with the ticket cache or client keytab that the environment names
    /// (KRB5CCNAME, KRB5_CLIENT_KTNAME). Takes a build with the feature gssapi.
    pub(super) gssapi: bool,
    /// The base of all searches. Required with LDAP servers; may be empty.
    #[schemars(example = "DC=example,DC=com")]
    pub(super) base: Option<String>,
    /// Attributes that hold a person's own addresses.
    pub(super) address_attributes: Words,
    /// Attributes that hold login names: of authenticated clients, and of mailboxes at the MTA's
    /// own names.
    pub(super) login_attributes: Words,
    /// Characters that start an address extension (user+list@example.com). Default: none.
    #[schemars(example = "+")]
    pub(super) recipient_delimiter: String,
    /// The longest wait for one answer of a server. A message waits four times that for all its
    /// questions together, and at least ten seconds.
    pub(super) timeout: String,
    /// What happens to a message whose people cannot be looked up: defer it (451), send its copy to
    /// fallback_journal, or accept it without that copy.
    pub(super) on_failure: OnFailure,
    /// Where copies go that no usable journal address can be found for.
    #[schemars(example = "journal-fallback@example.com")]
    pub(super) fallback_journal: Option<String>,
    /// The domains that journal addresses must be of, whoever names them; *.example.com means every
    /// domain below example.com. A copy for any other address goes to fallback_journal. Default:
    /// any.
    #[schemars(example = ["example.com"])]
    pub(super) journal_domains: Words,
    /// Where else than in people's own objects their journal attributes may stand: in the "groups"
    /// that they are members of, in the "containers" above their objects. Default: nowhere.
    #[schemars(example = ["groups", "containers"])]
    pub(super) inherit_from: Words,
    /// The attribute that exempts a person from journaling, with the value TRUE. Default: nobody is
    /// exempt.
    #[schemars(example = &"extensionAttribute11")]
    pub(super) journal_exempt_attribute: Option<String>,
    /// When a group that is a journal target stands for its members: where it has no address of its
    /// own (without_address), or always.
    pub(super) expand_groups: ExpandGroups,
    /// The most objects that one journal target may lead to. Mail for a larger group is deferred.
    pub(super) group_limit: NonZeroU64,
    /// The domain of IMCEAEX addresses, for journal targets without an SMTP address on an Exchange
    /// relay. Default: none are made.
    #[schemars(example = "example.com")]
    pub(super) imceaex_domain: Option<String>,
    /// The address of somebody whom the directory always has. While he is not found, everybody
    /// else's absence counts as an outage: an account that lost its rights finds nobody. Default:
    /// absences are believed.
    #[schemars(example = "postmaster@example.com")]
    pub(super) canary: Option<String>,
    /// How changes are followed, so that they count at once: as the servers offer it (auto), by
    /// syncrepl (OpenLDAP), by notify or usn (Active Directory), or not (off).
    pub(super) watch: Watch,
    /// How long answers are kept.
    pub(super) cache: Cache,
}

/// How long answers are kept.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cache {
    /// How long a found person is used without asking again.
    pub(super) ttl: String,
    /// How long an absence is.
    pub(super) negative_ttl: String,
    /// How old a found person may be while no server answers.
    pub(super) max_stale: String,
    /// How many addresses are kept at most.
    pub(super) capacity: NonZeroU64,
}

/// What the mail of one direction is journaled to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Direction {
    /// Where a copy of every message of this direction goes.
    #[schemars(example = ["globalarchive@example.com"])]
    pub(super) journal: Words,
    /// Attributes of the people concerned that hold further journal addresses.
    #[schemars(example = ["extensionAttribute10"])]
    pub(super) journal_attribute: Words,
    /// Envelope sender of the copies: who gets their non-delivery reports. Required where mail is
    /// journaled.
    #[schemars(example = "journalndr@example.com")]
    pub(super) journal_ndr: Option<String>,
    /// A Microsoft journal report with the message attached, or the message itself.
    pub(super) format: Format,
    /// A journal report or copy holds the message as it was received, or as it is delivered, with
    /// the texts below.
    pub(super) journal_what: JournalWhat,
    /// Text before the body. Default: none.
    pub(super) prepend: Wording,
    /// Text after the body. Default: none.
    pub(super) append: Wording,
}

/// As [`Direction`], with what only outbound mail has.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(description = "What the mail of one direction is journaled to.")]
#[serde(default, deny_unknown_fields)]
pub(super) struct Outbound {
    /// Where a copy of every message of this direction goes.
    #[schemars(example = ["globalarchive@example.com"])]
    pub(super) journal: Words,
    /// Attributes of the people concerned that hold further journal addresses.
    #[schemars(example = ["extensionAttribute10"])]
    pub(super) journal_attribute: Words,
    /// Whose journal_attribute counts: the sender's, the external recipient's (where the directory
    /// has a contact for it), or both.
    pub(super) journal_attribute_of: AttributeOf,
    /// Envelope sender of the copies: who gets their non-delivery reports. Required where mail is
    /// journaled.
    #[schemars(example = "journalndr@example.com")]
    pub(super) journal_ndr: Option<String>,
    /// A Microsoft journal report with the message attached, or the message itself.
    pub(super) format: Format,
    /// A journal report or copy holds the message as it was received, or as it is delivered, with
    /// the texts below.
    pub(super) journal_what: JournalWhat,
    /// Text before the body. Default: none.
    pub(super) prepend: Wording,
    /// Text after the body. Default: none.
    pub(super) append: Wording,
}

/// A text: plain, HTML, or both, or RTF; each written here or in a file of its own.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wording {
    /// Plain text. Where html is not given, HTML is made of it.
    #[schemars(example = &"Example Ltd, 1 Main Street, Exampleton")]
    pub(super) text: Option<String>,
    /// HTML: a document, or what stands in its body. Where text is not given, plain text is made of
    /// it.
    #[schemars(example = &"<p>Example Ltd</p>")]
    pub(super) html: Option<String>,
    /// RTF, with or without its header, instead of the two above.
    #[schemars(example = &"Example Ltd\\par 1 Main Street")]
    pub(super) rtf: Option<String>,
    /// A file that holds plain text.
    #[schemars(example = &"/etc/copyist/disclaimer.txt")]
    pub(super) text_file: Option<String>,
    /// A file that holds HTML.
    #[schemars(example = &"/etc/copyist/disclaimer.html")]
    pub(super) html_file: Option<String>,
    /// A file that holds RTF.
    #[schemars(example = &"/etc/copyist/disclaimer.rtf")]
    pub(super) rtf_file: Option<String>,
    /// Whether it is left out where the conversation has it already.
    pub(super) once: bool,
}

/// How texts are put into messages.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Text {
    /// Signed and encrypted messages are left as they are, or become a part of a message with the
    /// text beside it.
    pub(super) signed: Signed,
    /// A message that should get a text and cannot: it goes on without it, or is deferred (451).
    pub(super) on_failure: TextFailure,
    /// Whether recipients of one message who are owed different texts get versions of their own.
    pub(super) split_mixed: bool,
    /// The attribute that exempts a person's mail from texts, with the value TRUE. Default: nobody
    /// is exempt.
    #[schemars(example = &"extensionAttribute13")]
    pub(super) exempt_attribute: Option<String>,
}

/// Who takes journal copies and non-delivery reports.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Relay {
    /// The relay, with or without a port (default 25, or 465 where tls is implicit). Required.
    #[schemars(example = "127.0.0.1:10027")]
    pub(super) host: Option<String>,
    /// none, opportunistic (STARTTLS where offered; in the clear where the handshake fails and
    /// neither username nor ca_file is set), required (STARTTLS), implicit (TLS from the start).
    pub(super) tls: Tls,
    /// Certificates (PEM) that the relay is checked against. Default: the system's.
    #[schemars(example = "/etc/copyist/ca.pem")]
    pub(super) ca_file: Option<String>,
    /// The account to log in with, where the relay wants one.
    #[schemars(example = &"copyist")]
    pub(super) username: Option<String>,
    /// The file that holds the account's password and nothing else.
    #[schemars(example = "/etc/copyist/relay.password")]
    pub(super) password_file: Option<String>,
    /// How many connections are open at most.
    pub(super) connections: NonZeroU16,
    /// The name said in EHLO. Default: organization.hostname.
    #[schemars(example = "copyist.example.com")]
    pub(super) helo_name: Option<String>,
    /// The longest wait for one reply.
    pub(super) timeout: String,
}

/// How copies and non-delivery reports are sent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Delivery {
    /// When a failed attempt is repeated. Copyist never gives up by itself.
    pub(super) retry: Retry,
    /// The author of reports. Default: journal at the organization's first domain.
    #[schemars(example = "journal@example.com")]
    pub(super) report_from: Option<String>,
}

/// When a failed attempt is repeated.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retry {
    /// The wait after the first failure; it grows from there.
    pub(super) first: String,
    /// The longest wait.
    pub(super) max: String,
}

/// A list of texts, or one text alone. One empty text is the empty list, so that an environment
/// variable can empty a list, too.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Words(pub(super) Vec<String>);

/// Lists of texts. A list of single texts is one group; a text may hold several words.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Groups(Words);

impl Groups {
    /// The groups, each as a list.
    pub(super) fn lists(&self) -> Vec<Vec<&str>> {
        let words = |text: &'_ String| -> bool { text.split_whitespace().nth(1).is_some() };
        let Words(texts) = &self.0;
        match texts.iter().any(words) {
            true => texts
                .iter()
                .map(|text| text.split_whitespace().collect())
                .collect(),
            false if texts.is_empty() => Vec::new(),
            false => vec![texts.iter().map(String::as_str).collect()],
        }
    }
}

impl JsonSchema for Groups {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Groups".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["array", "string"],
            "items": { "type": ["array", "string"], "items": { "type": "string" } },
        })
    }
}

/// See [`policy::Guard`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum JournalGuard {
    #[default]
    Outside,
    Everyone,
    Off,
}

/// See [`policy::OnFailure`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnFailure {
    #[default]
    Defer,
    Fallback,
    Accept,
}

/// See [`directory::ExpandGroups`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ExpandGroups {
    #[default]
    WithoutAddress,
    Always,
}

/// See [`directory::Watch`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Watch {
    #[default]
    Auto,
    Syncrepl,
    Notify,
    Usn,
    Off,
}

/// See [`policy::Format`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    #[default]
    Report,
    Copy,
}

/// See [`policy::JournalWhat`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum JournalWhat {
    #[default]
    Received,
    Delivered,
}

/// See [`text::SignedPolicy`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Signed {
    #[default]
    Skip,
    Wrap,
}

/// See [`text::OnFailure`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TextFailure {
    #[default]
    Pass,
    Defer,
}

/// See [`policy::AttributeOf`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum AttributeOf {
    #[default]
    Both,
    Sender,
    Recipient,
}

/// See [`deliver::Tls`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tls {
    None,
    #[default]
    Opportunistic,
    Required,
    Implicit,
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

impl Default for Organization {
    fn default() -> Organization {
        Organization {
            domains: Words::default(),
            domains_from: DomainsFrom::default(),
            local_domains: Words::default(),
            same_domains: Groups::default(),
            default_domain: None,
            address_maps: AddressMaps::default(),
            trusted_networks: Words::from(["127.0.0.0/8", "::1/128"]),
            gateways: Words::default(),
            trusted_certificates: Words::default(),
            hostname: None,
            journal_guard: JournalGuard::default(),
            journal_mailboxes: Words::default(),
            journal_guard_persons: false,
        }
    }
}

impl Default for Directory {
    fn default() -> Directory {
        Directory {
            urls: Words::default(),
            starttls: false,
            ca_file: None,
            bind_dn: None,
            bind_password_file: None,
            gssapi: false,
            base: None,
            address_attributes: Words::from([
                "mail",
                "proxyAddresses",
                "mailLocalAddress",
                "userPrincipalName",
            ]),
            login_attributes: Words::from(["sAMAccountName", "uid", "userPrincipalName"]),
            recipient_delimiter: String::new(),
            timeout: "5s".into(),
            on_failure: OnFailure::default(),
            fallback_journal: None,
            journal_domains: Words::default(),
            inherit_from: Words::default(),
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

impl Default for Text {
    fn default() -> Text {
        Text {
            signed: Signed::default(),
            on_failure: TextFailure::default(),
            split_mixed: true,
            exempt_attribute: None,
        }
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

impl Outbound {
    /// What it has in common with the other directions.
    pub(super) fn common(&self) -> Direction {
        Direction {
            journal: self.journal.clone(),
            journal_attribute: self.journal_attribute.clone(),
            journal_ndr: self.journal_ndr.clone(),
            format: self.format,
            journal_what: self.journal_what,
            prepend: self.prepend.clone(),
            append: self.append.clone(),
        }
    }
}

impl<const N: usize> From<[&str; N]> for Words {
    fn from(texts: [&str; N]) -> Words {
        Words(texts.map(str::to_owned).into())
    }
}

impl JsonSchema for Words {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Words".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["array", "string"],
            "items": { "type": "string" },
        })
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Words, D::Error> {
        deserializer.deserialize_any(WordsVisitor)
    }
}

struct WordsVisitor;

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Words, E> {
        Ok(match text.trim() {
            "" => Words::default(),
            text => Words(vec![text.to_owned()]),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Words, A::Error> {
        let mut texts = Vec::<String>::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        match texts.as_slice() {
            [text] => self.visit_str(text),
            _ => Ok(Words(texts)),
        }
    }
}

impl From<JournalGuard> for policy::Guard {
    fn from(raw: JournalGuard) -> policy::Guard {
        match raw {
            JournalGuard::Outside => policy::Guard::Outside,
            JournalGuard::Everyone => policy::Guard::Everyone,
            JournalGuard::Off => policy::Guard::Off,
        }
    }
}

impl From<ExpandGroups> for directory::ExpandGroups {
    fn from(raw: ExpandGroups) -> directory::ExpandGroups {
        match raw {
            ExpandGroups::WithoutAddress => directory::ExpandGroups::WithoutAddress,
            ExpandGroups::Always => directory::ExpandGroups::Always,
        }
    }
}

impl From<Watch> for directory::Watch {
    fn from(raw: Watch) -> directory::Watch {
        match raw {
            Watch::Auto => directory::Watch::Auto,
            Watch::Syncrepl => directory::Watch::Syncrepl,
            Watch::Notify => directory::Watch::Notify,
            Watch::Usn => directory::Watch::Usn,
            Watch::Off => directory::Watch::Off,
        }
    }
}

impl From<OnFailure> for policy::OnFailure {
    fn from(raw: OnFailure) -> policy::OnFailure {
        match raw {
            OnFailure::Defer => policy::OnFailure::Defer,
            OnFailure::Fallback => policy::OnFailure::Fallback,
            OnFailure::Accept => policy::OnFailure::Accept,
        }
    }
}

impl From<Format> for policy::Format {
    fn from(raw: Format) -> policy::Format {
        match raw {
            Format::Report => policy::Format::Report,
            Format::Copy => policy::Format::Copy,
        }
    }
}

impl From<JournalWhat> for policy::JournalWhat {
    fn from(raw: JournalWhat) -> policy::JournalWhat {
        match raw {
            JournalWhat::Received => policy::JournalWhat::Received,
            JournalWhat::Delivered => policy::JournalWhat::Delivered,
        }
    }
}

impl From<Signed> for text::SignedPolicy {
    fn from(raw: Signed) -> text::SignedPolicy {
        match raw {
            Signed::Skip => text::SignedPolicy::Skip,
            Signed::Wrap => text::SignedPolicy::Wrap,
        }
    }
}

impl From<TextFailure> for text::OnFailure {
    fn from(raw: TextFailure) -> text::OnFailure {
        match raw {
            TextFailure::Pass => text::OnFailure::Pass,
            TextFailure::Defer => text::OnFailure::Defer,
        }
    }
}

impl From<AttributeOf> for policy::AttributeOf {
    fn from(raw: AttributeOf) -> policy::AttributeOf {
        match raw {
            AttributeOf::Both => policy::AttributeOf::Both,
            AttributeOf::Sender => policy::AttributeOf::Sender,
            AttributeOf::Recipient => policy::AttributeOf::Recipient,
        }
    }
}

impl From<Tls> for deliver::Tls {
    fn from(raw: Tls) -> deliver::Tls {
        match raw {
            Tls::None => deliver::Tls::None,
            Tls::Opportunistic => deliver::Tls::Opportunistic,
            Tls::Required => deliver::Tls::Required,
            Tls::Implicit => deliver::Tls::Implicit,
        }
    }
}
