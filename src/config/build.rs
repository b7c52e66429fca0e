//! [`Raw`] → the settings of every module: what the texts mean, and what must fit together.
//!
//! Every part is built even where another one failed, so that all mistakes are told at once.

mod directory;
mod doors;
mod sending;
mod smtp;
mod texts;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, FileError};
use super::keys::join;
use super::mistake::{Findings, Noted, quoted};
use super::parse;
use super::raw::{self, Raw, Words};
use super::{LogSettings, Settings};
use crate::directory::ValuesOf;
use crate::identity::{FoundDomains, Membership, Names};
use crate::mail::Address;
use crate::maps::MapName;
use crate::policy::{Direction, DirectionRules, MapNames, Organization, Rules};
use crate::secret::Secret;

/// Builds everything; `Err` where anything that is needed for it is wrong.
pub(super) fn settings(raw: &Raw, findings: &mut Findings) -> Result<Settings, Noted> {
    let mut build = Build { raw, findings };
    let state_dir = build.state_dir();
    let organization = build.organization();
    let rules = build.rules();
    let text = build.texts();
    let directory = build.directory(&rules, &text);
    let journal = build.journal(&organization);
    let deliver = build.deliver(&journal);
    let doors = build.doors();

    let spool = state_dir.and_then(|dir| Ok((build.spool(&dir)?, dir)));

    let (spool, state_dir) = spool?;
    let (hook, admin) = doors?;
    Ok(Settings {
        spool,
        state_dir,
        allow_remote_fs: raw.spool.allow_remote_fs,
        directory: directory?,
        rules: Rules {
            organization: organization?,
            ..rules?
        },
        text: text?,
        journal: journal?,
        deliver: deliver?,
        hook,
        admin,
        effective: Arc::default(),
        log: LogSettings {
            format: raw.log.format,
            level: raw.log.level.name(),
        },
    })
}

/// How a text becomes a text that can be used.
type Parse = fn(&str) -> Result<String, &'static str>;

struct Build<'a> {
    raw: &'a Raw,
    findings: &'a mut Findings,
}

impl Build<'_> {
    fn state_dir(&mut self) -> Result<PathBuf, Noted> {
        match self.raw.state_dir.trim() {
            "" => Err(self.missing("state_dir", "state_dir", "the spool must be somewhere")),
            path => Ok(self.path(path)),
        }
    }

    fn organization(&mut self) -> Result<Organization, Noted> {
        let raw = &self.raw.organization;
        let domains = if raw.domains.0.is_empty() {
            let why = "Copyist has to know which addresses are inside";
            Err(self.missing("organization.domains", "organization", why))
        } else {
            self.each("organization.domains", &raw.domains, |text| {
                text.parse().map_err(|_: String| "is not a mail domain")
            })
        };
        let networks = self.each(
            "organization.trusted_networks",
            &raw.trusted_networks,
            parse::network,
        );
        let gateways = self.each("organization.gateways", &raw.gateways, parse::network);
        let certificates = self.each(
            "organization.trusted_certificates",
            &raw.trusted_certificates,
            parse::certificate,
        );
        let mailboxes = self.each(
            "organization.journal_mailboxes",
            &raw.journal_mailboxes,
            Membership::parse,
        );
        let local = self.each(
            "organization.local_domains",
            &raw.local_domains,
            parse::local_domain,
        );
        let default_domain = self.optional(
            "organization.default_domain",
            &raw.default_domain,
            parse::domain,
        );
        let delimiter = self.parsed(
            "directory.recipient_delimiter",
            &self.raw.directory.recipient_delimiter,
            parse::delimiters,
        );
        let same_domains = self.same_domains();
        let address_maps = self.address_maps();
        let domains_from = self.domains_from();
        let mut names = Names {
            domains: domains?,
            found: FoundDomains::default(),
            local_domains: local?,
            same_domains: same_domains?,
            default_domain: default_domain?,
            recipient_delimiter: delimiter?,
        };
        let own = sending::own_names(given(&raw.hostname));
        names.local_domains.extend(own);
        names.local_domains.sort_unstable();
        names.local_domains.dedup();
        Ok(Organization {
            names: Arc::new(names),
            trusted_networks: networks?,
            gateways: gateways?,
            trusted_certificates: certificates?,
            address_maps: address_maps?,
            journal_mailboxes: mailboxes?,
            guards_persons: raw.journal_guard_persons,
            domains_from: domains_from?,
        })
    }

    fn address_maps(&mut self) -> Result<MapNames, Noted> {
        let raw = &self.raw.organization.address_maps;
        let mut maps = |name: &str, words| {
            let key = join("organization.address_maps", name);
            self.each(&key, words, str::parse::<MapName>)
        };
        let alias = maps("alias_maps", &raw.alias_maps);
        let virtual_alias = maps("virtual_alias_maps", &raw.virtual_alias_maps);
        let canonical = maps("canonical_maps", &raw.canonical_maps);
        let senders = maps("sender_canonical_maps", &raw.sender_canonical_maps);
        let recipients = maps("recipient_canonical_maps", &raw.recipient_canonical_maps);
        Ok(MapNames {
            alias_maps: alias?,
            virtual_alias_maps: virtual_alias?,
            canonical_maps: canonical?,
            sender_canonical_maps: senders?,
            recipient_canonical_maps: recipients?,
        })
    }

    fn same_domains(&mut self) -> Result<Vec<Vec<String>>, Noted> {
        const KEY: &str = "organization.same_domains";
        let groups = self.raw.organization.same_domains.lists();
        let mut all = Vec::new();
        for (at, group) in groups.into_iter().enumerate() {
            let key = format!("{KEY}[{at}]");
            let domains = group
                .iter()
                .map(|text| self.parsed(&key, text, parse::domain));
            let domains: Vec<_> = domains.collect();
            all.push(domains.into_iter().collect::<Result<Vec<_>, _>>()?);
        }
        Ok(all)
    }

    fn domains_from(&mut self) -> Result<Option<ValuesOf>, Noted> {
        const KEY: &str = "organization.domains_from";
        let raw = &self.raw.organization.domains_from;
        if raw == &raw::DomainsFrom::default() {
            return Ok(None);
        }
        let why = || "the domains stand in an attribute of the objects that a filter finds";
        let mut needed = |name: &str, value: &Option<String>, parse| {
            let key = join(KEY, name);
            let found = self.optional(&key, value, parse)?;
            found.ok_or_else(|| self.missing(&key, KEY, why()))
        };
        let attribute = needed("attribute", &raw.attribute, parse::attribute as Parse);
        let filter = needed("filter", &raw.filter, parse::filter as Parse);
        Ok(Some(ValuesOf {
            base: raw.base.clone().unwrap_or_default().trim().to_owned(),
            filter: filter?,
            attribute: attribute?,
        }))
    }

    /// All rules but the organization.
    fn rules(&mut self) -> Result<Rules, Noted> {
        let raw = self.raw;
        let directions = [
            self.direction(Direction::Inbound, &raw.inbound),
            self.direction(Direction::Outbound, &raw.outbound.common()),
            self.direction(Direction::Internal, &raw.internal),
        ];
        let fallback = self.fallback();
        let journal_domains = self.each(
            "directory.journal_domains",
            &raw.directory.journal_domains,
            |text| text.parse().map_err(|_: String| "is not a mail domain"),
        );
        let exempt = self.optional(
            "directory.journal_exempt_attribute",
            &raw.directory.journal_exempt_attribute,
            parse::attribute,
        );
        let [inbound, outbound, internal] = directions;
        let rules = Rules {
            organization: Organization::default(),
            inbound: inbound?,
            outbound: outbound?,
            internal: internal?,
            outbound_attribute_of: raw.outbound.journal_attribute_of.into(),
            on_directory_failure: raw.directory.on_failure.into(),
            fallback_journal: fallback?,
            journal_guard: raw.organization.journal_guard.into(),
            journal_domains: journal_domains?,
            hop_limit: Some(usize::from(raw.limits.hops.get())),
            exempt_attribute: exempt?,
        };
        self.check_journal_domains(&rules)?;
        Ok(rules)
    }

    /// What the settings themselves name must be inside; the addresses of NDRs are the
    /// administrator's own word.
    fn check_journal_domains(&mut self, rules: &Rules) -> Result<(), Noted> {
        let journals = Direction::ALL.iter().flat_map(|direction| {
            let targets = rules.of(*direction).journal.iter().enumerate();
            let named = targets.filter_map(|(at, target)| Some((at, target.smtp()?)));
            named.map(|(at, address)| (join(direction.name(), &format!("journal[{at}]")), address))
        });
        let fallback = rules.fallback_journal.iter();
        let fallback = fallback.map(|address| ("directory.fallback_journal".to_owned(), address));
        let mut outside = journals
            .chain(fallback)
            .filter(|(_, address)| !rules.may_journal_to(address));
        let Some((key, address)) = outside.next() else {
            return Ok(());
        };
        Err(self.findings.wrong_but(
            &key,
            Some(&quoted(&address.to_string())),
            "is in none of directory.journal_domains",
            Some(format!(
                "add \"{}\" to directory.journal_domains",
                address.domain()
            )),
        ))
    }

    fn direction(
        &mut self,
        direction: Direction,
        raw: &raw::Direction,
    ) -> Result<DirectionRules, Noted> {
        let key = |name| join(direction.name(), name);
        let journal = self.each(&key("journal"), &raw.journal, parse::target);
        let attributes = self.each(
            &key("journal_attribute"),
            &raw.journal_attribute,
            parse::attribute,
        );
        let ndr = self.optional(&key("journal_ndr"), &raw.journal_ndr, parse::address);
        let cause = ["journal", "journal_attribute"]
            .into_iter()
            .zip([&raw.journal, &raw.journal_attribute])
            .find(|(_, words)| !words.0.is_empty());
        let ndr = match (ndr?, cause) {
            (None, Some((cause, _))) => {
                let why = format!(
                    "{direction} mail is journaled, and somebody must get its non-delivery reports"
                );
                return Err(self.missing(&key("journal_ndr"), &key(cause), why));
            }
            (ndr, _) => ndr,
        };
        Ok(DirectionRules {
            journal: journal?,
            journal_attributes: attributes?,
            ndr,
            format: raw.format.into(),
            journal_what: raw.journal_what.into(),
        })
    }

    fn fallback(&mut self) -> Result<Option<Address>, Noted> {
        const KEY: &str = "directory.fallback_journal";
        let raw = &self.raw.directory;
        let fallback = self.optional(KEY, &raw.fallback_journal, parse::smtp_target)?;
        if fallback.is_none() && raw.on_failure == raw::OnFailure::Fallback {
            let why = "on_failure = \"fallback\" sends copies there";
            return Err(self.missing(KEY, "directory.on_failure", why));
        }
        Ok(fallback)
    }
}

/// What several sections need.
impl Build<'_> {
    fn missing(&mut self, key: &str, near: &str, why: impl Display) -> Noted {
        self.findings.missing(key, near, why)
    }

    fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, Noted> {
        parse(text.trim()).map_err(|problem| self.findings.wrong(key, text, problem))
    }

    /// A setting that may be left out; an empty text is the same as none.
    fn optional<T, E: Display>(
        &mut self,
        key: &str,
        text: &Option<String>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Noted> {
        given(text)
            .map(|text| self.parsed(key, text, parse))
            .transpose()
    }

    fn each<T, E: Display>(
        &mut self,
        key: &str,
        words: &Words,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, Noted> {
        let items: Vec<_> = words
            .0
            .iter()
            .enumerate()
            .map(|(at, text)| self.parsed(&format!("{key}[{at}]"), text, &parse))
            .collect();
        items.into_iter().collect()
    }

    /// Relative paths are taken from the directory of the file, not from where we were started.
    fn path(&self, text: &str) -> PathBuf {
        match self.findings.origins.file.parent() {
            Some(parent) => parent.join(text),
            None => text.into(),
        }
    }

    /// As [`Build::path`]; `credential:NAME` is a credential of the service, which systemd makes a
    /// file of.
    fn secret_path(&mut self, key: &str, text: &str) -> Result<PathBuf, Noted> {
        let Some(name) = text.strip_prefix("credential:") else {
            return Ok(self.path(text));
        };
        let (problem, remedy) = match &self.findings.origins.credentials {
            _ if name.is_empty() || name.starts_with('.') || name.contains('/') => (
                "has no name of a credential after credential:",
                "write for example \"credential:ldap.password\"".to_owned(),
            ),
            None => (
                "is a credential, and there are none: CREDENTIALS_DIRECTORY is not set",
                format!(
                    "write LoadCredential={name}:/etc/copyist/{name} in the unit, and try it with: systemd-run --pty --property=LoadCredential={name}:/etc/copyist/{name} copyist check"
                ),
            ),
            Some(directory) => return Ok(directory.join(name)),
        };
        Err(self
            .findings
            .wrong_but(key, Some(&quoted(text)), problem, Some(remedy)))
    }

    fn ca_file(&mut self, key: &str, text: &Option<String>) -> Result<Option<PathBuf>, Noted> {
        let Some(text) = given(text) else {
            return Ok(None);
        };
        let path = self.path(text);
        files::certificates(&path).map_err(|error| self.bad_file(key, text, &path, &error))?;
        Ok(Some(path))
    }

    /// An account and its password: both or neither.
    fn account(
        &mut self,
        (name_key, name): (&str, &Option<String>),
        (file_key, file): (&str, &Option<String>),
    ) -> Result<Option<(String, Secret)>, Noted> {
        match (given(name), given(file)) {
            (None, None) => Ok(None),
            (Some(name), Some(file)) => {
                let path = self.secret_path(file_key, file)?;
                match files::password(&path) {
                    Ok(password) => Ok(Some((name.to_owned(), password))),
                    Err(error) => Err(self.bad_file(file_key, file, &path, &error)),
                }
            }
            (Some(_), None) => {
                let why = format!("{name_key} needs a password");
                Err(self.missing(file_key, name_key, why))
            }
            (None, Some(_)) => {
                let why = format!("the password in {file_key} belongs to some account");
                Err(self.missing(name_key, file_key, why))
            }
        }
    }

    fn bad_file(&mut self, key: &str, seen: &str, path: &Path, error: &FileError) -> Noted {
        let remedy = match error {
            FileError::TooOpen { .. } => Some(format!("run chmod 640 {}", path.display())),
            FileError::NoToken => Some(format!(
                "write one with: openssl rand -hex 32 > {}",
                path.display()
            )),
            FileError::NoKey => Some("write one with: openssl pkey -in KEY -out FILE".into()),
            _ => None,
        };
        self.findings
            .wrong_but(key, Some(&quoted(seen)), error, remedy)
    }
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}
