//! [`Raw`] → the settings of every module: parses the values and checks that they fit together.
//!
//! Every part is built even if another one failed, so that all problems are reported at once.

mod directory;
mod listeners;
mod relay;
mod smtp;
mod texts;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, FileError};
use super::keys::join;
use super::parse;
use super::problem::{ErrorReported, Problems, quote};
use super::raw::{self, Raw, StringList};
use super::{LogSettings, Settings};
use crate::directory::AttributeQuery;
use crate::identity::{AddressRules, DirectoryDomains, JournalMailboxRule};
use crate::mail::Address;
use crate::maps::MapName;
use crate::policy::{Direction, DirectionRules, MapNames, Organization, Rules};
use crate::secret::Secret;

/// Builds all settings; `Err` if any required value is invalid.
pub(super) fn settings(raw: &Raw, problems: &mut Problems) -> Result<Settings, ErrorReported> {
    let mut build = Build { raw, problems };
    let state_dir = build.state_dir();
    let organization = build.organization();
    let rules = build.rules();
    let text = build.texts();
    let directory = build.directory(&rules, &text);
    let journal = build.journal(&organization);
    let deliver = build.deliver(&journal);
    let listeners = build.listeners();

    let spool = state_dir.and_then(|dir| Ok((build.spool(&dir)?, dir)));

    let (spool, state_dir) = spool?;
    let (hook, admin) = listeners?;
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

/// A parser that returns the normalized string.
type Parse = fn(&str) -> Result<String, &'static str>;

struct Build<'a> {
    raw: &'a Raw,
    problems: &'a mut Problems,
}

impl Build<'_> {
    fn state_dir(&mut self) -> Result<PathBuf, ErrorReported> {
        match self.raw.state_dir.trim() {
            "" => Err(self.report_missing("state_dir", "state_dir", "the spool needs a directory")),
            path => Ok(self.path(path)),
        }
    }

    fn organization(&mut self) -> Result<Organization, ErrorReported> {
        let raw = &self.raw.organization;
        let domains = if raw.domains.0.is_empty() {
            let why = "Copyist must know which domains are internal";
            Err(self.report_missing("organization.domains", "organization", why))
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
            JournalMailboxRule::parse,
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
        let mut names = AddressRules {
            domains: domains?,
            directory_domains: DirectoryDomains::default(),
            local_domains: local?,
            same_domains: same_domains?,
            default_domain: default_domain?,
            recipient_delimiter: delimiter?,
        };
        let own = relay::own_names(non_empty(&raw.hostname));
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

    fn address_maps(&mut self) -> Result<MapNames, ErrorReported> {
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

    fn same_domains(&mut self) -> Result<Vec<Vec<String>>, ErrorReported> {
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

    fn domains_from(&mut self) -> Result<Option<AttributeQuery>, ErrorReported> {
        const KEY: &str = "organization.domains_from";
        let raw = &self.raw.organization.domains_from;
        if raw == &raw::DomainsFrom::default() {
            return Ok(None);
        }
        let why = || "domains are read from an attribute of the objects that a filter matches";
        let mut needed = |name: &str, value: &Option<String>, parse| {
            let key = join(KEY, name);
            let found = self.optional(&key, value, parse)?;
            found.ok_or_else(|| self.report_missing(&key, KEY, why()))
        };
        let attribute = needed("attribute", &raw.attribute, parse::attribute as Parse);
        let filter = needed("filter", &raw.filter, parse::filter as Parse);
        Ok(Some(AttributeQuery {
            base: raw.base.clone().unwrap_or_default().trim().to_owned(),
            filter: filter?,
            attribute: attribute?,
        }))
    }

    /// Builds the rules without the organization.
    fn rules(&mut self) -> Result<Rules, ErrorReported> {
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

    /// Checks that journal addresses in the settings are in the allowed domains. NDR addresses may be
    /// anywhere.
    fn check_journal_domains(&mut self, rules: &Rules) -> Result<(), ErrorReported> {
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
        Err(self.problems.report_invalid_with(
            &key,
            Some(&quote(&address.to_string())),
            "is not in directory.journal_domains",
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
    ) -> Result<DirectionRules, ErrorReported> {
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
                    "{direction} mail is journaled, and its non-delivery reports need a recipient"
                );
                return Err(self.report_missing(&key("journal_ndr"), &key(cause), why));
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

    fn fallback(&mut self) -> Result<Option<Address>, ErrorReported> {
        const KEY: &str = "directory.fallback_journal";
        let raw = &self.raw.directory;
        let fallback = self.optional(KEY, &raw.fallback_journal, parse::smtp_target)?;
        if fallback.is_none() && raw.on_failure == raw::OnFailure::Fallback {
            let why = "on_failure = \"fallback\" sends copies there";
            return Err(self.report_missing(KEY, "directory.on_failure", why));
        }
        Ok(fallback)
    }
}

/// Helpers for all sections.
impl Build<'_> {
    fn report_missing(&mut self, key: &str, near: &str, why: impl Display) -> ErrorReported {
        self.problems.report_missing(key, near, why)
    }

    fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, ErrorReported> {
        parse(text.trim()).map_err(|problem| self.problems.report_invalid(key, text, problem))
    }

    /// Parses an optional setting; an empty string counts as unset.
    fn optional<T, E: Display>(
        &mut self,
        key: &str,
        text: &Option<String>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ErrorReported> {
        non_empty(text)
            .map(|text| self.parsed(key, text, parse))
            .transpose()
    }

    fn each<T, E: Display>(
        &mut self,
        key: &str,
        words: &StringList,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, ErrorReported> {
        let items: Vec<_> = words
            .0
            .iter()
            .enumerate()
            .map(|(at, text)| self.parsed(&format!("{key}[{at}]"), text, &parse))
            .collect();
        items.into_iter().collect()
    }

    /// Returns a path, relative to the configuration file's directory, not to the working directory.
    fn path(&self, text: &str) -> PathBuf {
        match self.problems.origins.file.parent() {
            Some(parent) => parent.join(text),
            None => text.into(),
        }
    }

    /// As [`Build::path`]; `credential:NAME` is a credential of the service, which systemd provides as
    /// a file.
    fn secret_path(&mut self, key: &str, text: &str) -> Result<PathBuf, ErrorReported> {
        let Some(name) = text.strip_prefix("credential:") else {
            return Ok(self.path(text));
        };
        let (problem, remedy) = match &self.problems.origins.credentials {
            _ if name.is_empty() || name.starts_with('.') || name.contains('/') => (
                "lacks a credential name after credential:",
                "for example: \"credential:ldap.password\"".to_owned(),
            ),
            None => (
                "is a credential, but CREDENTIALS_DIRECTORY is not set",
                format!(
                    "add LoadCredential={name}:/etc/copyist/{name} to the unit, and test it with: systemd-run --pty --property=LoadCredential={name}:/etc/copyist/{name} copyist check"
                ),
            ),
            Some(directory) => return Ok(directory.join(name)),
        };
        Err(self
            .problems
            .report_invalid_with(key, Some(&quote(text)), problem, Some(remedy)))
    }

    fn ca_file(
        &mut self,
        key: &str,
        text: &Option<String>,
    ) -> Result<Option<PathBuf>, ErrorReported> {
        let Some(text) = non_empty(text) else {
            return Ok(None);
        };
        let path = self.path(text);
        files::certificates(&path).map_err(|error| self.bad_file(key, text, &path, &error))?;
        Ok(Some(path))
    }

    /// Builds an account and its password: both or neither.
    fn account(
        &mut self,
        (name_key, name): (&str, &Option<String>),
        (file_key, file): (&str, &Option<String>),
    ) -> Result<Option<(String, Secret)>, ErrorReported> {
        match (non_empty(name), non_empty(file)) {
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
                Err(self.report_missing(file_key, name_key, why))
            }
            (None, Some(_)) => {
                let why = format!("{file_key} needs an account name");
                Err(self.report_missing(name_key, file_key, why))
            }
        }
    }

    fn bad_file(&mut self, key: &str, seen: &str, path: &Path, error: &FileError) -> ErrorReported {
        let remedy = match error {
            FileError::TooOpen { .. } => Some(format!("run chmod 640 {}", path.display())),
            FileError::NoToken => Some(format!(
                "create one with: openssl rand -hex 32 > {}",
                path.display()
            )),
            FileError::NoKey => Some("create one with: openssl pkey -in KEY -out FILE".into()),
            _ => None,
        };
        self.problems
            .report_invalid_with(key, Some(&quote(seen)), error, remedy)
    }
}

fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}
