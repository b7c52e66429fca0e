//! The decision for one message. Pure steps: [`Context::queries`] returns the people to look up,
//! [`PlanBuilder::new`] pairs them with directions, [`PlanBuilder::targets`] returns the journal
//! targets to resolve, and [`PlanBuilder::build`] decides. Only directory lookups happen in
//! between.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::directory::{Entry, Lookup, Outage, Resolution, Target, TargetError};
use crate::identity::{IdentityAnswers, IdentityQuery, Owners, Person};
use crate::mail::{Address, Recipient};

use super::context::{
    Context, counts_recipient, counts_sender, is_person, needs_recipient, recipient_queries,
    recipient_query,
};
use super::{ClientTrust, Direction, Format, JournalWhat, OnFailure, Rules};

/// Largest number of targets of one copy: as many as every relay accepts in one transaction (RFC
/// 5321 section 4.5.3.1.8), and few enough for a header that no MTA truncates.
pub const MAX_TARGETS: usize = 100;

/// The answers to [`PlanBuilder::targets`].
pub type ResolvedTargets = HashMap<Target, Result<Resolution, Outage>>;

/// The journaling plan for one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether the client sends as the organization; header recipients of external mail are not
    /// trusted.
    pub from_us: bool,
    /// The direction of the message for each recipient, in the order of the envelope.
    pub directions: Vec<(Address, Direction)>,
    /// The copies to be made: one for each (NDR address, format, content), with at most
    /// [`MAX_TARGETS`] each.
    pub copies: Vec<JournalCopy>,
    /// Whether the sender is not in the directory, although the sender's attribute could have
    /// mattered.
    pub is_unidentified: bool,
    /// Attribute values without a usable target, reported to the NDR address with the copy
    /// attached.
    pub invalid_targets: Vec<InvalidTarget>,
    /// Exempt people, for whom no copies are made, with the objects that exempt them.
    pub exempt: Vec<(Address, String)>,
    /// People and targets that could not be looked up, with `on_failure = "accept"`.
    pub skipped_lookups: Vec<String>,
    /// Targets outside [`Rules::journal_domains`], which get no copy: the reason and the address.
    pub outside_targets: Vec<String>,
}

/// One copy, for one or several journal addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalCopy {
    /// The direction it counts for: the first of inbound, outbound, internal.
    pub direction: Direction,
    /// Its format.
    pub format: Format,
    /// Its content; a copy of delivered mail has the version that recipients of its direction get.
    pub what: JournalWhat,
    /// Its envelope sender, which also gets NDRs about it.
    pub ndr: Address,
    /// Its targets with the reasons; each address once.
    pub targets: Vec<(Address, Vec<Reason>)>,
}

impl JournalCopy {
    /// Returns the group members that caused it, each with the group that was the recipient.
    pub fn expanded(&self) -> Vec<(&Address, &Address)> {
        let mut all: Vec<(&Address, &Address)> = Vec::new();
        for reason in self.targets.iter().flat_map(|(_, reasons)| reasons) {
            if let Some(member) = reason.member()
                && !all.contains(&member)
            {
                all.push(member);
            }
        }
        all
    }
}

/// A value of an attribute or a setting that is not a usable journal target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTarget {
    /// The direction it would count for.
    pub direction: Direction,
    /// The NDR address to report to.
    pub ndr: Address,
    /// The object that has it; `None` for the configuration.
    pub dn: Option<String>,
    /// The attribute, or the setting.
    pub attribute: String,
    /// The value as written.
    pub value: String,
    /// The error.
    pub error: TargetError,
}

/// The reason an address gets a copy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// All mail of the direction is journaled to it.
    Setting(Direction),
    /// A journal attribute of an object names it.
    Attribute {
        /// The direction the attribute counted for.
        direction: Direction,
        /// The attribute's name as configured.
        attribute: String,
        /// The object it stands in.
        dn: String,
        /// The address that the object was found by.
        person: Address,
        /// The group that was the recipient, if the object is of a member.
        group: Option<Address>,
    },
    /// The target of reason `of` names an object that leads to it.
    Through {
        /// Why the target counts.
        of: Box<Reason>,
        /// The target as the administrator wrote it.
        target: String,
        /// The objects from the one named to the one that has the address.
        objects: Vec<String>,
    },
    /// The fallback journal, for a value that is not a usable target.
    InvalidTarget {
        /// The direction it would have counted for.
        direction: Direction,
        /// The attribute's name as configured, or the setting's.
        attribute: String,
        /// The object it stands in; `None` for the configuration.
        dn: Option<String>,
        /// The value.
        value: String,
    },
    /// The fallback journal, for an authenticated user who is not in the directory.
    Unidentified {
        /// The direction of the pair.
        direction: Direction,
        /// The name that the client authenticated with.
        user: String,
    },
    /// The fallback journal, for a person or target that could not be looked up.
    DirectoryDown {
        /// The direction of the pair.
        direction: Direction,
        /// The person or target.
        subject: String,
    },
}

/// The message cannot be decided now, because a lookup failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} cannot be looked up: {outage}")]
pub struct PlanError {
    /// The person or target that is needed.
    pub subject: String,
    /// The outage.
    pub outage: Outage,
}

/// The first half of the decision: for each recipient, the directions of the message and the people
/// whose attributes count.
pub struct PlanBuilder<'a> {
    context: &'a Context<'a>,
    answers: &'a IdentityAnswers,
    pairs: Vec<Pair<'a>>,
}

/// One direction of the message for one recipient.
struct Pair<'a> {
    direction: Direction,
    recipient: &'a Recipient,
    /// The people whose attributes count.
    people: Vec<&'a Person>,
    /// The lookups that failed.
    unanswered: Vec<(IdentityQuery, &'a Outage)>,
    /// Whether it counts because of an author who is not the sender.
    is_authored: bool,
}

impl<'a> Pair<'a> {
    fn new(direction: Direction, recipient: &'a Recipient) -> Pair<'a> {
        Pair {
            direction,
            recipient,
            people: Vec::new(),
            unanswered: Vec::new(),
            is_authored: false,
        }
    }

    fn add_answer(
        &mut self,
        query: &IdentityQuery,
        answer: &'a Lookup<Arc<Owners>>,
        counts: impl Fn(&Person) -> bool,
    ) {
        match answer {
            Lookup::Found(owners) => {
                let people = owners.people.iter();
                self.people.extend(people.filter(|person| counts(person)));
            }
            Lookup::Absent => {}
            Lookup::Unavailable(outage) => self.unanswered.push((query.clone(), outage)),
        }
    }
}

impl<'a> PlanBuilder<'a> {
    /// PlanBuilder each recipient with the directions of the message. Besides the direction of the
    /// address as written, a different reading of the address, a group, a map or a forwarding may
    /// add others. `answers` holds the answers to [`Context::queries`].
    pub fn new(context: &'a Context<'a>, answers: &'a IdentityAnswers) -> PlanBuilder<'a> {
        let mut builder = PlanBuilder {
            context,
            answers,
            pairs: Vec::with_capacity(context.directions.len()),
        };
        for (recipient, direction) in context.recipients() {
            builder.add(recipient, direction);
        }
        builder.add_authored();
        builder
    }

    fn add(&mut self, recipient: &'a Recipient, written: Direction) {
        let (client, rules) = (self.context.client, self.context.rules);
        let direction_of = |address: &Address| match *address == recipient.address {
            true => written,
            false => client.direction(address, rules),
        };
        let mut answers: Vec<(IdentityQuery, &'a Lookup<Arc<Owners>>)> = Vec::new();
        if needs_recipient(written, rules) {
            let all = self.answers;
            answers.extend(recipient_queries(recipient).map(|query| {
                let answer = all.get(&query);
                (query, answer)
            }));
        }
        let takes = |wanted: Direction| {
            wanted == written
                || answers.iter().any(|(_, answer)| match answer {
                    Lookup::Found(owners) => {
                        let people = owners.people.iter().map(|person| &person.address);
                        people
                            .chain(&owners.further_addresses)
                            .any(|address| direction_of(address) == wanted)
                    }
                    Lookup::Absent => false,
                    // It may be a group with external contacts.
                    Lookup::Unavailable(_) => client.from_us && wanted == Direction::Outbound,
                })
        };
        for direction in Direction::ALL.into_iter().filter(|one| takes(*one)) {
            let mut pair = Pair::new(direction, recipient);
            if counts_sender(direction, client, rules) {
                for query in &self.context.senders {
                    pair.add_answer(query, self.answers.get(query), |_| true);
                }
            }
            if counts_recipient(direction, rules) {
                for (query, answer) in &answers {
                    let counts = |person: &Person| direction_of(&person.address) == direction;
                    pair.add_answer(query, answer, counts);
                }
            }
            self.pairs.push(pair);
        }
    }

    /// Adds the directions that a message would have from its author, if a trusted client sends the
    /// author's mail with a foreign reverse path; it also counts as inbound.
    fn add_authored(&mut self) {
        let (client, rules) = (self.context.client, self.context.rules);
        if client.from_us || !client.is_trusted || self.authors().next().is_none() {
            return;
        }
        let as_ours = ClientTrust {
            from_us: true,
            ..client
        };
        for (recipient, _) in self.context.recipients() {
            let direction = as_ours.direction(&recipient.address, rules);
            if !counts_sender(direction, as_ours, rules) {
                continue;
            }
            let mut pair = Pair::new(direction, recipient);
            pair.is_authored = true;
            for author in self.authors() {
                pair.add_answer(author, self.answers.get(author), |_| true);
            }
            self.pairs.push(pair);
        }
    }

    /// Returns the possible senders that are people of the organization.
    fn authors(&self) -> impl Iterator<Item = &IdentityQuery> {
        let all = self.context.senders.iter();
        all.filter(|one| is_person(self.answers, one))
    }

    /// Whether all people on the organization's side of a pair are exempt, so that `journal` does
    /// not apply.
    fn is_exempt(&self, pair: &Pair) -> bool {
        let Some(attribute) = &self.context.rules.exempt_attribute else {
            return false;
        };
        let exempts = |one: &IdentityQuery| match self.answers.get(one) {
            Lookup::Found(owners) => owners.exempting_object(Some(attribute)).is_some(),
            Lookup::Absent | Lookup::Unavailable(_) => false,
        };
        let sender = || match pair.is_authored {
            true => self.authors().all(exempts),
            false => self.context.senders.iter().all(exempts),
        };
        let recipient = || exempts(&recipient_query(pair.recipient));
        match pair.direction {
            Direction::Inbound => recipient(),
            Direction::Internal => recipient() && sender(),
            Direction::Outbound => !self.context.senders.is_empty() && sender(),
        }
    }

    /// Returns the targets to resolve in the directory, each once.
    pub fn targets(&self) -> Vec<Target> {
        let mut named = Vec::new();
        for pair in &self.pairs {
            let of = self.context.rules.of(pair.direction);
            let configured = of.journal.iter().filter(|target| target.smtp().is_none());
            named.extend(configured.cloned());
            for object in pair.people.iter().flat_map(|person| person.objects.iter()) {
                let values = of.journal_attributes.iter().flat_map(|a| object.values(a));
                named.extend(values.filter_map(Target::of_object));
            }
        }
        named.sort_unstable();
        named.dedup();
        named
    }

    /// Decides about the message. `resolved` has the answers to [`PlanBuilder::targets`].
    pub fn build(&self, resolved: &ResolvedTargets) -> Result<Plan, PlanError> {
        let (client, rules) = (self.context.client, self.context.rules);
        let mut draft = PlanDraft {
            rules,
            resolved,
            targets: TargetReasons::default(),
            invalid_targets: Vec::new(),
            exempt: Vec::new(),
            skipped_lookups: Vec::new(),
            outside_targets: Vec::new(),
        };
        let unidentified = self.unidentified();
        for pair in &self.pairs {
            let direction = pair.direction;
            let journal = rules.of(direction).journal.as_slice();
            if !journal.is_empty() && !self.is_exempt(pair) {
                draft.add_configured(journal, direction)?;
            }
            for (question, outage) in &pair.unanswered {
                draft.add_unanswered(question, direction, outage)?;
            }
            for person in &pair.people {
                draft.add_person(person, direction)?;
            }
            if unidentified.contains(&direction)
                && client.is_authenticated
                && let Some(fallback) = &rules.fallback_journal
            {
                let user = self.context.envelope.client.user.clone();
                let user = user.unwrap_or_default();
                draft
                    .targets
                    .add(fallback, Reason::Unidentified { direction, user });
            }
        }
        let directions = self.context.recipients();
        let directions =
            directions.map(|(recipient, direction)| (recipient.address.clone(), direction));
        Ok(Plan {
            from_us: client.from_us,
            directions: directions.collect(),
            copies: draft.targets.into_copies(rules),
            is_unidentified: !unidentified.is_empty(),
            invalid_targets: draft.invalid_targets,
            exempt: draft.exempt,
            skipped_lookups: draft.skipped_lookups,
            outside_targets: draft.outside_targets,
        })
    }

    /// Returns the directions in which the sender's attribute could have mattered, if the sender is
    /// unidentified: the client may relay, and neither reverse path nor user name nor author is in
    /// the directory.
    fn unidentified(&self) -> Vec<Direction> {
        let (client, rules) = (self.context.client, self.context.rules);
        let is_ndr = |sender: &Address| super::is_ndr(sender, rules);
        if !client.may_relay || self.context.envelope.sender.as_ref().is_some_and(is_ndr) {
            return Vec::new();
        }
        let mut senders = self.context.senders.iter();
        if !senders.all(|one| *self.answers.get(one) == Lookup::Absent) {
            return Vec::new();
        }
        let directions = self.context.directions.iter().copied();
        let mut all: Vec<Direction> = directions
            .filter(|direction| {
                counts_sender(*direction, client, rules)
                    && !rules.of(*direction).journal_attributes.is_empty()
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// A missing answer counts as an outage.
fn not_queried() -> Outage {
    Outage::new("not queried")
}

/// The plan while it is being built.
struct PlanDraft<'a> {
    rules: &'a Rules,
    resolved: &'a ResolvedTargets,
    targets: TargetReasons,
    invalid_targets: Vec<InvalidTarget>,
    exempt: Vec<(Address, String)>,
    skipped_lookups: Vec<String>,
    outside_targets: Vec<String>,
}

/// The setting or attribute that names a target.
struct TargetSource<'a> {
    direction: Direction,
    attribute: &'a str,
    dn: Option<&'a str>,
}

impl PlanDraft<'_> {
    fn add_configured(
        &mut self,
        journal: &[Target],
        direction: Direction,
    ) -> Result<(), PlanError> {
        let attribute = format!("{direction}.journal");
        let source = TargetSource {
            direction,
            attribute: &attribute,
            dn: None,
        };
        for target in journal {
            self.add(target, Reason::Setting(direction), &source)?;
        }
        Ok(())
    }

    /// Adds the targets in a person's attributes.
    fn add_person(&mut self, person: &Person, direction: Direction) -> Result<(), PlanError> {
        let attribute = self.rules.exempt_attribute.as_deref();
        if let Some(object) = attribute.and_then(|name| person.exempting_object(name)) {
            self.add_exempt(&person.address, object);
            return Ok(());
        }
        for object in person.objects.iter() {
            self.read_attributes(object, person, direction)?;
        }
        Ok(())
    }

    fn add_exempt(&mut self, person: &Address, object: &Entry) {
        if !self.exempt.iter().any(|(known, _)| known == person) {
            self.exempt.push((person.clone(), object.dn.clone()));
        }
    }

    fn read_attributes(
        &mut self,
        object: &Entry,
        person: &Person,
        direction: Direction,
    ) -> Result<(), PlanError> {
        let rules = self.rules;
        for attribute in &rules.of(direction).journal_attributes {
            let source = TargetSource {
                direction,
                attribute,
                dn: Some(&object.dn),
            };
            let values = object.values(attribute);
            for value in values.filter(|value| !value.trim().is_empty()) {
                match Target::parse(value) {
                    Ok(target) => {
                        let reason = Reason::Attribute {
                            direction,
                            attribute: attribute.clone(),
                            dn: object.dn.clone(),
                            person: person.address.clone(),
                            group: person.group.clone(),
                        };
                        self.add(&target, reason, &source)?;
                    }
                    Err(error) => self.add_invalid(value, error, &source),
                }
            }
        }
        Ok(())
    }

    /// Adds the addresses that a target leads to.
    fn add(
        &mut self,
        target: &Target,
        reason: Reason,
        source: &TargetSource,
    ) -> Result<(), PlanError> {
        if let Some(address) = target.smtp() {
            self.add_address(address, reason, source);
            return Ok(());
        }
        match self.resolved.get(target) {
            Some(Ok(Ok(expansion))) => {
                for one in &expansion.addresses {
                    let through = Reason::Through {
                        of: Box::new(reason.clone()),
                        target: target.to_string(),
                        objects: one.path.to_vec(),
                    };
                    self.add_address(&one.address, through, source);
                }
                Ok(())
            }
            Some(Ok(Err(error))) => {
                self.add_invalid(&target.to_string(), error.clone(), source);
                Ok(())
            }
            Some(Err(outage)) => self.add_unanswered(target, source.direction, outage),
            None => self.add_unanswered(target, source.direction, &not_queried()),
        }
    }

    /// Adds one address, if it is in the journal domains: a person who may edit a directory object
    /// must not divert mail to arbitrary addresses.
    fn add_address(&mut self, address: &Address, reason: Reason, source: &TargetSource) {
        if self.rules.may_journal_to(address) {
            return self.targets.add(address, reason);
        }
        let outside_targets = TargetError::OutsideJournalDomains(address.clone());
        let entry = format!("{reason}: {outside_targets}");
        if !self.outside_targets.contains(&entry) {
            self.outside_targets.push(entry);
        }
        self.add_invalid(&address.to_string(), outside_targets, source);
    }

    /// Reports an invalid value: a typing mistake must neither disable journaling nor bounce
    /// external mail.
    fn add_invalid(&mut self, value: &str, error: TargetError, source: &TargetSource) {
        let direction = source.direction;
        let (attribute, dn) = (source.attribute.to_owned(), source.dn.map(str::to_owned));
        if let Some(fallback) = &self.rules.fallback_journal {
            let reason = Reason::InvalidTarget {
                direction,
                attribute,
                dn,
                value: value.to_owned(),
            };
            self.targets.add(fallback, reason);
        } else if let Some(ndr) = &self.rules.of(direction).ndr {
            let invalid = InvalidTarget {
                direction,
                ndr: ndr.clone(),
                dn,
                attribute,
                value: value.to_owned(),
                error,
            };
            // One object found for several recipients is reported once.
            if !self.invalid_targets.contains(&invalid) {
                self.invalid_targets.push(invalid);
            }
        }
    }

    fn add_unanswered(
        &mut self,
        subject: &dyn fmt::Display,
        direction: Direction,
        outage: &Outage,
    ) -> Result<(), PlanError> {
        let subject = subject.to_string();
        match (
            self.rules.on_directory_failure,
            &self.rules.fallback_journal,
        ) {
            (OnFailure::Fallback, Some(fallback)) => {
                self.targets
                    .add(fallback, Reason::DirectoryDown { direction, subject });
                Ok(())
            }
            (OnFailure::Accept, _) => {
                if !self.skipped_lookups.contains(&subject) {
                    self.skipped_lookups.push(subject);
                }
                Ok(())
            }
            (OnFailure::Defer | OnFailure::Fallback, _) => Err(PlanError {
                subject,
                outage: outage.clone(),
            }),
        }
    }
}

/// Targets so far, each address once with all its reasons.
#[derive(Default)]
struct TargetReasons(BTreeMap<Address, Vec<Reason>>);

impl TargetReasons {
    fn add(&mut self, target: &Address, reason: Reason) {
        match self.0.get_mut(target) {
            Some(reasons) if reasons.contains(&reason) => {}
            Some(reasons) => reasons.push(reason),
            None => {
                self.0.insert(target.clone(), vec![reason]);
            }
        }
    }

    /// Groups the targets into one copy for each NDR address, format and content. An address with
    /// several directions counts for the first, so that it gets one copy.
    fn into_copies(self, rules: &Rules) -> Vec<JournalCopy> {
        let mut copies: Vec<JournalCopy> = Vec::new();
        for (address, mut reasons) in self.0 {
            reasons.sort_unstable();
            let direction = reasons
                .iter()
                .map(Reason::direction)
                .min()
                .unwrap_or(Direction::Inbound);
            let of = rules.of(direction);
            // The configuration requires an NDR address for each journaled direction. If it were
            // missing all the same, the copy's own address is better than no copy.
            let ndr = of.ndr.clone().unwrap_or_else(|| address.clone());
            let room = |copy: &&mut JournalCopy| {
                copy.ndr == ndr
                    && copy.format == of.format
                    && copy.what == of.journal_what
                    && copy.targets.len() < MAX_TARGETS
            };
            match copies.iter_mut().find(room) {
                Some(copy) => {
                    copy.direction = copy.direction.min(direction);
                    copy.targets.push((address, reasons));
                }
                None => copies.push(JournalCopy {
                    direction,
                    format: of.format,
                    what: of.journal_what,
                    ndr,
                    targets: vec![(address, reasons)],
                }),
            }
        }
        copies
    }
}

impl Plan {
    /// Whether the message needs no items.
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty() && self.invalid_targets.is_empty()
    }

    /// Returns the directions of the message, each once.
    pub fn distinct_directions(&self) -> Vec<Direction> {
        let mut all: Vec<Direction> = self
            .directions
            .iter()
            .map(|(_, direction)| *direction)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Reason {
    /// Returns the direction it counts for.
    pub fn direction(&self) -> Direction {
        match self {
            Reason::Setting(direction)
            | Reason::Attribute { direction, .. }
            | Reason::InvalidTarget { direction, .. }
            | Reason::Unidentified { direction, .. }
            | Reason::DirectoryDown { direction, .. } => *direction,
            Reason::Through { of, .. } => of.direction(),
        }
    }

    /// Returns the group member that is the reason, and the group.
    fn member(&self) -> Option<(&Address, &Address)> {
        match self {
            Reason::Attribute {
                person,
                group: Some(group),
                ..
            } => Some((person, group)),
            Reason::Through { of, .. } => of.member(),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Setting(direction) => write!(f, "{direction}.journal"),
            Reason::Attribute {
                direction,
                attribute,
                dn,
                person,
                group,
            } => {
                let of_group = group.iter().map(|group| format!(", member of {group}"));
                let of_group: String = of_group.collect();
                write!(
                    f,
                    "{direction}.journal_attribute {attribute} of {dn} ({person}{of_group})"
                )
            }
            Reason::Through {
                of,
                target,
                objects,
            } => write!(f, "{of}: {target} through {}", objects.join(" > ")),
            Reason::InvalidTarget {
                attribute,
                dn: None,
                value,
                ..
            } => write!(f, "directory.fallback_journal: {attribute} is {value:?}"),
            Reason::InvalidTarget {
                direction,
                attribute,
                dn: Some(dn),
                value,
            } => write!(
                f,
                "directory.fallback_journal: {direction}.journal_attribute {attribute} of {dn} is {value:?}"
            ),
            Reason::Unidentified { direction, user } => write!(
                f,
                "directory.fallback_journal: sender not found in the directory ({direction}, login {user})"
            ),
            Reason::DirectoryDown { direction, subject } => {
                write!(
                    f,
                    "directory.fallback_journal: {subject} ({direction}) could not be looked up"
                )
            }
        }
    }
}

impl fmt::Display for InvalidTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.attribute)?;
        if let Some(dn) = &self.dn {
            write!(f, " of {dn}")?;
        }
        write!(f, " is {:?}: {}", self.value, self.error)
    }
}
