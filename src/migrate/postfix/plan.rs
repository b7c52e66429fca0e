//! Postfix's BCC parameters as sections of the configuration.

use super::people::{People, RECIPIENT_ATTRIBUTE, Role, SENDER_ATTRIBUTE};
use super::{Content, Postfix, Table, map};
use crate::identity::DomainPattern;
use crate::mail::Address;
use crate::migrate::Site;
use crate::migrate::sections::{DirectionDraft, Ndr, Sourced};
use crate::policy::{Direction, Format};

/// The journal targets and attributes from all parameters.
pub(super) struct Plan<'a> {
    site: &'a Site,
    /// Inbound, outbound, internal.
    journal: [Vec<Sourced>; 3],
    /// Attributes of LDAP tables.
    recipient_attributes: Vec<Sourced>,
    sender_attributes: Vec<Sourced>,
    /// The people in text tables.
    pub(super) people: People,
    /// Settings without an equivalent.
    pub(super) odd: Vec<String>,
}

const INBOUND: usize = 0;
const OUTBOUND: usize = 1;
const INTERNAL: usize = 2;

impl<'a> Plan<'a> {
    /// Builds the plan for this Postfix.
    pub(super) fn new(postfix: &Postfix, site: &'a Site) -> Plan<'a> {
        let mut plan = Plan {
            site,
            journal: Default::default(),
            recipient_attributes: Vec::new(),
            sender_attributes: Vec::new(),
            people: People::default(),
            odd: Vec::new(),
        };
        if let Some(target) = postfix.parameter("always_bcc") {
            plan.always("always_bcc", target);
        }
        let local = postfix.local_domains(site);
        for (who, name, tables) in [
            (
                Role::Recipient,
                "recipient_bcc_maps",
                &postfix.recipient_bcc,
            ),
            (Role::Sender, "sender_bcc_maps", &postfix.sender_bcc),
        ] {
            for table in tables {
                plan.table(who, name, table, &local);
            }
        }
        plan.domains();
        plan.odd.append(&mut plan.people.odd);
        plan.other_directories(postfix);
        for line in &postfix.overrides {
            plan.odd.push(format!(
                "{line} in master.cf: overrides of single services are not translated."
            ));
        }
        plan
    }

    fn other_directories(&mut self, postfix: &Postfix) {
        let Some(first) = postfix.ldap() else {
            return;
        };
        for table in postfix.recipient_bcc.iter().chain(&postfix.sender_bcc) {
            match &table.content {
                Content::Ldap(ldap) if !ldap.is_same_directory(first) => {
                    self.odd.push(format!(
                        "{} searches another directory, or another part of it, than {}: Copyist has one. Choose a base that \
                         contains both.",
                        table.map, first.described_in
                    ));
                }
                _ => {}
            }
        }
    }

    fn always(&mut self, name: &str, target: &str) {
        for written in map::words(target) {
            match Address::parse(written) {
                Ok(address) => {
                    for journal in &mut self.journal {
                        journal.push(with_source(address.to_string(), format!("From {name}.")));
                    }
                }
                Err(error) => self.odd.push(format!(
                    "{name} = {target}: {error}; a journal address needs a domain."
                )),
            }
        }
    }

    fn table(&mut self, who: Role, name: &str, table: &Table, local: &[String]) {
        let from = format!("From {} in {name}.", table.map);
        match &table.content {
            Content::Always(target) => self.always(&format!("{} in {name}", table.map), target),
            Content::Unknown(why) => self.odd.push(format!("{} in {name} {why}", table.map)),
            Content::Ldap(ldap) => {
                let attributes = match who {
                    Role::Recipient => &mut self.recipient_attributes,
                    Role::Sender => &mut self.sender_attributes,
                };
                attributes.extend(
                    ldap.journal_attributes()
                        .into_iter()
                        .map(|name| with_source(name, from.clone())),
                );
            }
            Content::Entries(entries) => {
                let patterns: Vec<DomainPattern> = self
                    .site
                    .domains
                    .iter()
                    .filter_map(|domain| domain.parse().ok())
                    .collect();
                // If no domain is known, each may be the organization's.
                let is_ours = |domain: &str| {
                    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(domain))
                };
                self.people.add(who, entries, local, is_ours);
            }
        }
    }

    fn domains(&mut self) {
        for (who, domains, into) in [
            ("recipients", &self.people.recipient_domains, INBOUND),
            ("senders", &self.people.sender_domains, OUTBOUND),
        ] {
            // If no domain is known, those of the tables are the best guess.
            let of_tables: Vec<String> = domains.keys().cloned().collect();
            let ours = match self.site.domains.is_empty() {
                true => &of_tables,
                false => &self.site.domains,
            };
            let (common, single) = People::of_all(domains, ours);
            for target in common {
                for direction in [into, INTERNAL] {
                    let from = format!("From entries for all {who} of the domains.");
                    self.journal[direction].push(with_source(target.clone(), from));
                }
            }
            for entry in single {
                self.odd.push(format!(
                    "{entry} (for {who}): a journal applies to all domains. Set the attribute on an OU or a group with the \
                     people of that domain (directory.inherit_from)."
                ));
            }
        }
    }

    /// Whether any people are journaled by attribute.
    pub(super) fn reads_attributes(&self) -> bool {
        let ldap = !self.recipient_attributes.is_empty() || !self.sender_attributes.is_empty();
        ldap || !self.people.people.is_empty()
    }

    /// Whether senders and recipients are journaled by different attributes.
    pub(super) fn has_both_roles(&self) -> bool {
        let ldap = !self.recipient_attributes.is_empty() && !self.sender_attributes.is_empty();
        ldap || self.sides_of_people() == (true, true)
    }

    /// Whether the text tables list recipients, and whether senders or contacts.
    fn sides_of_people(&self) -> (bool, bool) {
        let people = self.people.people.values();
        people.fold((false, false), |(received, sent), person| {
            (
                received || !person.inbound.is_empty(),
                sent || !person.outbound.is_empty(),
            )
        })
    }

    /// Returns the sections of the directions.
    pub(super) fn sections(&self) -> [(Direction, DirectionDraft); 3] {
        let named = |attribute| with_source(attribute, "Set on the people in the text tables.");
        let (is_recipient, is_sender) = self.sides_of_people();
        let recipients = is_recipient.then(|| named(RECIPIENT_ATTRIBUTE));
        let senders = is_sender.then(|| named(SENDER_ATTRIBUTE));
        let inbound: Vec<_> = self
            .recipient_attributes
            .iter()
            .cloned()
            .chain(recipients)
            .collect();
        let own: Vec<_> = self
            .sender_attributes
            .iter()
            .cloned()
            .chain(senders)
            .collect();
        let internal = inbound.iter().chain(&own).cloned().collect();
        // recipient_bcc_maps also apply to external recipients: their contacts, if any.
        let (outbound, of) = match (own.is_empty(), self.people.has_contacts) {
            (true, _) => (self.recipient_attributes.clone(), Some("recipient")),
            (false, false) => (own, Some("sender")),
            (false, true) => (own, None),
        };
        let [inbound_journal, outbound_journal, internal_journal] = self.journal.clone();
        let draft = |journal, attributes, attribute_of: Option<&'static str>| {
            let mut section = DirectionDraft {
                journal,
                attributes,
                format: Format::Copy,
                ..DirectionDraft::default()
            };
            if section.journals() {
                let why = "Bounces of BCC copies went to the sender. Copyist's go to:";
                section.ndr = Some(Ndr::made_up(self.site, "journal-ndr", why));
                section.attribute_of = attribute_of.filter(|_| !section.attributes.is_empty());
            }
            section
        };
        [
            (Direction::Inbound, draft(inbound_journal, inbound, None)),
            (Direction::Outbound, draft(outbound_journal, outbound, of)),
            (Direction::Internal, draft(internal_journal, internal, None)),
        ]
    }
}

fn with_source(value: impl Into<String>, from: impl Into<String>) -> Sourced {
    Sourced {
        value: value.into(),
        from: from.into(),
    }
}
