//! [`Raw`] → the settings of every module: what the texts mean, and what must fit together.
//!
//! Every part is built even where another one failed, so that all mistakes are told at once.

mod directory;
mod sending;
mod texts;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Settings;
use super::files::{self, FileError};
use super::keys::join;
use super::mistake::{Findings, Noted, quoted};
use super::parse;
use super::raw::{self, Raw, Words};
use crate::directory::ValuesOf;
use crate::hook::Listen;
use crate::mail::Address;
use crate::policy::{Direction, DirectionRules, FoundDomains, Organization, Rules};
use crate::secret::Secret;
use crate::{admin, hook, spool};

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
    let listeners = build.listeners();

    let state_dir = state_dir?;
    let (hook, admin) = listeners?;
    Ok(Settings {
        spool: spool::Settings::new(&state_dir),
        state_dir,
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
        let domains_from = self.domains_from();
        Ok(Organization {
            domains: domains?,
            trusted_networks: networks?,
            domains_from: domains_from?,
            found: FoundDomains::default(),
        })
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
        let exempt = self.optional(
            "directory.journal_exempt_attribute",
            &raw.directory.journal_exempt_attribute,
            parse::attribute,
        );
        let [inbound, outbound, internal] = directions;
        Ok(Rules {
            organization: Organization::default(),
            inbound: inbound?,
            outbound: outbound?,
            internal: internal?,
            outbound_attribute_of: raw.outbound.journal_attribute_of.into(),
            on_directory_failure: raw.directory.on_failure.into(),
            fallback_journal: fallback?,
            journal_guard: raw.organization.journal_guard.into(),
            exempt_attribute: exempt?,
        })
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

    fn listeners(&mut self) -> Result<(hook::Settings, admin::Settings), Noted> {
        const MILTER: &str = "hook.milter.listen";
        const ADMIN: &str = "admin.listen";
        let raw = self.raw;
        let milter = if raw.hook.milter.listen.0.is_empty() {
            Err(self.missing(MILTER, MILTER, "no MTA could hand mail over"))
        } else {
            self.each(MILTER, &raw.hook.milter.listen, str::parse::<Listen>)
        };
        let admin = match raw.admin.listen.trim() {
            "" | "off" => Ok(None),
            text => self
                .parsed(ADMIN, text, |text| {
                    text.parse::<SocketAddr>()
                        .map_err(|_| "is neither ADDRESS:PORT with an IP address nor \"off\"")
                })
                .map(Some),
        };
        let (milter, admin) = (milter?, admin?);
        let mut taken: Vec<(String, Listen)> = Vec::new();
        let milters = milter.iter().enumerate();
        let all = milters
            .map(|(at, listen)| (format!("{MILTER}[{at}]"), listen.clone()))
            .chain(admin.map(|address| (ADMIN.to_owned(), Listen::Inet(address))));
        for (key, listen) in all {
            if let Some((_, other)) = taken.iter().find(|(_, other)| collide(other, &listen)) {
                let seen = match &listen {
                    Listen::Inet(address) if key == ADMIN => address.to_string(),
                    listen => listen.to_string(),
                };
                return Err(self.findings.wrong_but(
                    &key,
                    Some(&quoted(&seen)),
                    format!("is already taken by \"{other}\" in {MILTER}"),
                    Some("choose another port or path".into()),
                ));
            }
            taken.push((key, listen));
        }
        Ok((hook::Settings { milter }, admin::Settings { listen: admin }))
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

    fn ca_file(&mut self, key: &str, text: &Option<String>) -> Result<Option<PathBuf>, Noted> {
        let Some(text) = given(text) else {
            return Ok(None);
        };
        let path = self.path(text);
        files::check_certificates(&path)
            .map_err(|error| self.bad_file(key, text, &path, &error))?;
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
                let path = self.path(file);
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

/// Whether two listeners cannot both have their address.
fn collide(a: &Listen, b: &Listen) -> bool {
    match (a, b) {
        (Listen::Unix(a), Listen::Unix(b)) => a == b,
        (Listen::Inet(a), Listen::Inet(b)) => {
            // Port 0 is a free port, another one each time. [::] takes IPv4 as well, 0.0.0.0 only that.
            let takes = |a: &SocketAddr, b: &SocketAddr| {
                a.ip() == b.ip() || a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4())
            };
            a.port() == b.port() && a.port() != 0 && (takes(a, b) || takes(b, a))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_collide_where_one_covers_the_other() {
        let listen = |text: &str| text.parse::<Listen>().expect(text);
        for (a, b, expected) in [
            ("inet:127.0.0.1:25", "inet:127.0.0.1:25", true),
            ("inet:127.0.0.1:25", "inet:127.0.0.2:25", false),
            ("inet:127.0.0.1:25", "inet:127.0.0.1:26", false),
            ("inet:0.0.0.0:25", "inet:127.0.0.1:25", true),
            ("inet:0.0.0.0:25", "inet6:[::1]:25", false),
            ("inet6:[::]:25", "inet:127.0.0.1:25", true),
            ("inet6:[::]:25", "inet:0.0.0.0:25", true),
            ("inet:127.0.0.1:0", "inet:127.0.0.1:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "inet:127.0.0.1:25", false),
        ] {
            let (a, b) = (listen(a), listen(b));
            assert_eq!(collide(&a, &b), expected, "{a} {b}");
            assert_eq!(collide(&b, &a), expected, "{b} {a}");
        }
    }
}
