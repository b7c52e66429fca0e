//! Sections shared by both translations.

use std::borrow::Cow;

use toml::Value;

use super::draft::Draft;
use super::site::Site;
use crate::mail::Address;
use crate::policy::{Direction, Format};

/// A value with a comment that names its source.
#[derive(Debug, Clone)]
pub(super) struct Sourced {
    pub(super) value: String,
    pub(super) from: String,
}

/// The content of a direction's section.
#[derive(Debug, Default)]
pub(super) struct DirectionDraft {
    /// `journal`.
    pub(super) journal: Vec<Sourced>,
    /// `journal_attribute`.
    pub(super) attributes: Vec<Sourced>,
    /// `journal_ndr`.
    pub(super) ndr: Option<Ndr>,
    /// `format`.
    pub(super) format: Format,
    /// `prepend` and `append`, in RTF.
    pub(super) prepend: Option<Sourced>,
    /// See `prepend`.
    pub(super) append: Option<Sourced>,
    /// `journal_attribute_of`, if it is not "both".
    pub(super) attribute_of: Option<&'static str>,
}

/// The recipient of non-delivery reports.
#[derive(Debug)]
pub(super) struct Ndr {
    pub(super) address: String,
    pub(super) from: String,
    /// The FILL IN text if the address is a guess.
    pub(super) guess: Option<String>,
    /// Comments below that.
    pub(super) hints: Vec<String>,
}

impl DirectionDraft {
    /// Whether mail of this direction is journaled.
    pub(super) fn journals(&self) -> bool {
        !self.journal.is_empty() || !self.attributes.is_empty()
    }

    /// Whether there is anything to write.
    pub(super) fn is_empty(&self) -> bool {
        let texts = self.prepend.is_some() || self.append.is_some();
        !self.journals() && !texts && self.ndr.is_none()
    }
}

impl Ndr {
    /// Returns a guessed address for non-delivery reports.
    pub(super) fn made_up(site: &Site, local: &str, why: &str) -> Ndr {
        Ndr {
            address: format!("{local}@{}", site.main_domain()),
            from: why.to_owned(),
            guess: Some(
                "the mailbox for non-delivery reports of journal copies; create a separate one, \
                 because external mail to it is rejected"
                    .into(),
            ),
            hints: Vec::new(),
        }
    }
}

impl Draft {
    /// Writes the introduction.
    pub(super) fn head(&mut self, what: &str) {
        self.comment(what);
        self.comment(
            "Guesses are marked FILL IN: check each of these lines. Every key is explained in \
             config/copyist.toml.",
        );
        self.comment("\nThen test it; nothing is sent:");
        self.example("copyist check --online --config THIS-FILE");
        self.example("copyist explain --config THIS-FILE --from someone@elsewhere.example --to ADDRESS-OF-YOURS --client 192.0.2.1");
    }

    /// Writes `[organization]` without `trusted_networks`. `known` names the source of the domains, if
    /// they are known.
    pub(super) fn organization(&mut self, site: &Site, known: Option<&str>) {
        self.section("organization");
        match known {
            Some(how) => self.comment(how),
            None => self.fill_in(
                "organization.domains",
                "the organization's mail domains; mail from one of these to another is internal.",
            ),
        }
        match site.domains.as_slice() {
            [] => self.set("domains", vec![site.main_domain()]),
            domains => self.set("domains", domains.to_vec()),
        }
    }

    /// Writes `[directory]` from the facts about the site alone.
    pub(super) fn directory(&mut self, site: &Site) {
        self.section("directory");
        self.urls(site);
        if site.has_file() {
            return;
        }
        self.gap();
        self.fill_in(
            "directory.bind_dn",
            "an account that can read people, and a file with only its password (install -m 640 -g copyist). Without \
             both the bind is anonymous, which Active Directory refuses.",
        );
        self.suggest(
            "bind_dn",
            format!("CN=copyist,OU=Services,{}", base(site)).as_str(),
        );
        self.suggest("bind_password_file", "/etc/copyist/ldap.password");
    }

    fn urls(&mut self, site: &Site) {
        if site.directory_urls.is_empty() {
            self.fill_in(
                "directory.urls",
                "the servers of Active Directory or OpenLDAP, or \"ldif:FILE\".",
            );
            self.set("urls", vec![format!("ldaps://dc1.{}", site.main_domain())]);
        } else {
            self.set("urls", site.directory_urls.clone());
        }
        if site.has_file() {
            return;
        }
        if site.base.is_none() {
            self.fill_in(
                "directory.base",
                "the base of all searches, here derived from the mail domain.",
            );
        }
        self.set("base", base(site).as_ref());
    }

    /// Writes a direction's section unless it is empty.
    pub(super) fn direction(&mut self, direction: Direction, draft: &DirectionDraft) {
        if draft.is_empty() {
            return;
        }
        let name = direction.name();
        self.section(name);
        self.write_list("journal", &draft.journal);
        self.write_list("journal_attribute", &draft.attributes);
        if let Some(of) = draft.attribute_of {
            self.comment("Whose attribute applies:");
            self.set("journal_attribute_of", of);
        }
        if let Some(ndr) = &draft.ndr {
            self.comment(&ndr.from);
            if let Some(guess) = &ndr.guess {
                self.fill_in(&format!("{name}.journal_ndr"), guess);
            }
            for hint in &ndr.hints {
                self.comment(hint);
            }
            self.set("journal_ndr", ndr.address.as_str());
        }
        if draft.journals() && draft.format == Format::Copy {
            self.comment(
                "A copy is the message itself, as a BCC recipient got it. \"report\" is a journal report, which also records \
                 the envelope (the actual recipients): choose it if your archive reads it.",
            );
            self.set("format", draft.format.name());
        }
        for (key, text) in [("prepend", &draft.prepend), ("append", &draft.append)] {
            if let Some(Sourced { value: rtf, from }) = text {
                self.comment(from);
                let text = Value::from(rtf.as_str());
                self.set(key, toml::Table::from_iter([("rtf".to_owned(), text)]));
            }
        }
    }

    fn write_list(&mut self, key: &str, values: &[Sourced]) {
        if values.is_empty() {
            return;
        }
        let mut seen: Vec<&str> = Vec::new();
        for Sourced { from, .. } in values {
            if !seen.contains(&from.as_str()) {
                seen.push(from);
                self.comment(from);
            }
        }
        let mut distinct: Vec<&str> = Vec::new();
        for Sourced { value, .. } in values {
            if !distinct
                .iter()
                .any(|known| known.eq_ignore_ascii_case(value))
            {
                distinct.push(value);
            }
        }
        self.set(key, distinct);
    }

    /// Writes `[hook.milter]` and `[relay]`.
    pub(super) fn hook_and_relay(&mut self, site: &Site) {
        self.section("hook.milter");
        self.comment(
            "The milter that the MTA connects to. An MTA without milters (Exchange) uses [[hook.smtp]] instead.",
        );
        self.set("listen", vec!["inet:127.0.0.1:8725"]);
        self.section("relay");
        if site.relay.is_none() {
            self.fill_in(
                "relay.host",
                "the MTA that accepts journal copies and non-delivery reports, HOST or HOST:PORT.",
            );
        }
        self.set("host", site.relay.as_deref().unwrap_or("127.0.0.1:25"));
    }
}

/// Returns the base, by default derived from the mail domain.
pub(super) fn base(site: &Site) -> Cow<'_, str> {
    match &site.base {
        Some(base) => Cow::Borrowed(base),
        None => {
            let labels = site.main_domain().split('.');
            let parts: Vec<String> = labels.map(|label| format!("DC={label}")).collect();
            Cow::Owned(parts.join(","))
        }
    }
}

/// Returns the characters of a text that are valid in a local part; `None` if there are none.
pub(super) fn local_part(text: &str) -> Option<String> {
    let local: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .collect();
    Address::parse(&format!("{local}@example.com"))
        .is_ok()
        .then_some(local)
}
