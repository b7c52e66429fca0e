//! The decision for one message.
//!
//! Steps that are pure: [`questions`] says which people must be looked up, [`pairs`] which of them
//! count for whom, [`Pairs::targets`] which of their journal targets must be resolved, and
//! [`Pairs::plan`] decides. Between them stands the directory, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::directory::{Entry, Lookup, Outage, Resolution, Target, TargetError};
use crate::identity::{IdentityAnswers, IdentityQuery, Owners, Person};
use crate::mail::{Address, Envelope, Recipient, Side};

use super::{AttributeOf, Direction, Format, JournalWhat, OnFailure, Rules};

/// The most targets of one copy: what every relay takes in one transaction (RFC 5321 section
/// 4.5.3.1.8), and what fits into a header that no MTA cuts off.
pub const MOST_TARGETS: usize = 100;

/// The answers to [`Pairs::targets`].
pub type Resolved = HashMap<Target, Result<Resolution, Outage>>;

/// What is to be done about one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether the sender is ours; header recipients of others are not believed.
    pub sender_is_ours: bool,
    /// The direction of the message for each recipient, in the order of the envelope.
    pub directions: Vec<(Address, Direction)>,
    /// The copies to be made: one for each (NDR address, format, content), with at most
    /// [`MOST_TARGETS`] each.
    pub copies: Vec<Copy>,
    /// Whether the sender could not be told, although an attribute of his could have mattered.
    pub is_unidentified: bool,
    /// Attribute values that name nobody, to be reported to the NDR address with the copy attached.
    pub troubles: Vec<Trouble>,
    /// People whose objects exempt them, and those objects: what would have been copied because of
    /// them was not.
    pub exempt: Vec<(Address, String)>,
    /// People and targets that were not looked up because the directory was down and the rules say
    /// to go on.
    pub overlooked: Vec<String>,
    /// Targets that no copy goes to, since they are in none of [`Rules::journal_domains`]: who
    /// names them, and the address.
    pub elsewhere: Vec<String>,
}

/// One copy, for one or several journal addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The direction that it is accounted to: the first of inbound, outbound, internal.
    pub direction: Direction,
    /// What it looks like.
    pub format: Format,
    /// What is in it: for a copy of what is delivered, the version that recipients of its direction
    /// get.
    pub what: JournalWhat,
    /// Its envelope sender, and where its NDR goes.
    pub ndr: Address,
    /// Who gets it, and why; never the same address twice.
    pub targets: Vec<(Address, Vec<Reason>)>,
}

impl Copy {
    /// Members of groups because of whom it is made, each with the group that was the recipient.
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

/// A value, of an attribute or a setting, that is no usable journal target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The direction it would have counted for.
    pub direction: Direction,
    /// Who is told.
    pub ndr: Address,
    /// The object it stands in; `None` for the configuration.
    pub dn: Option<String>,
    /// The attribute, or the setting.
    pub attribute: String,
    /// The value as it stands there.
    pub value: String,
    /// What is wrong with it.
    pub error: TargetError,
}

/// Why an address gets a copy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// All mail of the direction does.
    Setting(Direction),
    /// The attribute of an object says so.
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
    /// As in `of`, whose target names an object that leads to the address.
    Through {
        /// Why the target counts.
        of: Box<Reason>,
        /// The target as the administrator wrote it.
        target: String,
        /// The objects from the one named to the one that has the address.
        objects: Vec<String>,
    },
    /// It is the fallback journal, and the value of an attribute or a setting names nobody.
    Malformed {
        /// The direction it would have counted for.
        direction: Direction,
        /// The attribute's name as configured, or the setting's.
        attribute: String,
        /// The object it stands in; `None` for the configuration.
        dn: Option<String>,
        /// The value.
        value: String,
    },
    /// It is the fallback journal, and nobody knows whose the login is.
    Unidentified {
        /// The direction of the pair.
        direction: Direction,
        /// The name that the client authenticated with.
        login: String,
    },
    /// It is the fallback journal, and the directory did not answer for this person or target.
    DirectoryDown {
        /// The direction of the pair.
        direction: Direction,
        /// Who or what could not be looked up.
        subject: String,
    },
}

/// The message cannot be decided now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} cannot be looked up: {outage}")]
pub struct Undecided {
    /// The person or target that is needed.
    pub subject: String,
    /// Why it is not to be had.
    pub outage: Outage,
}

/// What is known of the client that a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether it sends as the organization. MAIL FROM alone never decides that: a forged one would
    /// let mail escape journaling.
    pub from_us: bool,
    /// Whether mail to outside addresses counts as outbound: "may relay" is more than "is us".
    pub may_relay: bool,
    /// Whether its word about authors may add copies: it is trusted by its network or listener.
    pub is_trusted: bool,
    /// Whether it authenticated, by login or certificate.
    pub is_authenticated: bool,
}

/// Tells by login, certificate, listener and network, in this order, where a message comes from. A
/// gateway brings mail from outside. So does a trusted client without a login that sends for a
/// foreign address: a re-injecting filter, a list server or a backup MX does, and what it brings to
/// our people is inbound.
pub fn standing(envelope: &Envelope, rules: &Rules) -> Standing {
    let (client, organization) = (&envelope.client, &rules.organization);
    let outside = Standing {
        from_us: false,
        may_relay: false,
        is_trusted: false,
        is_authenticated: false,
    };
    let is_gateway = client.ip.is_some_and(|ip| organization.is_gateway(ip));
    let is_trusted = client.side == Some(Side::Internal)
        || client.side.is_none() && client.ip.is_some_and(|ip| organization.trusts(ip));
    let certified = client.certificate.as_ref();
    let is_authenticated =
        client.user.is_some() || certified.is_some_and(|one| organization.accepts(one));
    match client.side {
        Some(Side::External) => outside,
        _ if is_gateway => outside,
        Some(Side::Internal) => Standing {
            from_us: true,
            may_relay: true,
            is_trusted,
            is_authenticated,
        },
        None if is_authenticated => Standing {
            from_us: true,
            may_relay: true,
            is_trusted,
            is_authenticated,
        },
        None if is_trusted => Standing {
            from_us: !has_foreign_sender(envelope, rules),
            may_relay: true,
            is_trusted,
            is_authenticated,
        },
        None => outside,
    }
}

fn has_foreign_sender(envelope: &Envelope, rules: &Rules) -> bool {
    let mut readings = envelope
        .sender
        .iter()
        .chain(&envelope.resolved_sender)
        .peekable();
    readings.peek().is_some() && !readings.any(|sender| rules.organization.has(sender))
}

/// Whether the sender of this envelope sends as the organization, see [`standing`].
pub fn sender_is_ours(envelope: &Envelope, rules: &Rules) -> bool {
    standing(envelope, rules).from_us
}

/// The direction of the message for one recipient.
pub fn direction(standing: Standing, recipient: &Address, rules: &Rules) -> Direction {
    match (standing, rules.organization.has(recipient)) {
        (Standing { from_us: true, .. }, true) => Direction::Internal,
        (
            Standing {
                may_relay: true, ..
            },
            false,
        ) => Direction::Outbound,
        // Outside to outside is mail that the MTA relays for somebody. In doubt it is journaled.
        _ => Direction::Inbound,
    }
}

/// The question about a recipient.
pub fn recipient_question(recipient: &Recipient) -> IdentityQuery {
    IdentityQuery::Recipient {
        address: recipient.address.clone(),
        mta: recipient.resolved.clone(),
    }
}

/// Everything that is asked about a recipient: himself, and whom the message was for before it was
/// expanded.
fn recipient_questions(recipient: &Recipient) -> impl Iterator<Item = IdentityQuery> {
    let original = recipient
        .original
        .iter()
        .filter(|original| **original != recipient.address);
    let original = original.map(|original| IdentityQuery::Recipient {
        address: original.clone(),
        mta: None,
    });
    std::iter::once(recipient_question(recipient)).chain(original)
}

/// Who has to be looked up to decide about this envelope, each once. Empty where the settings alone
/// decide.
pub fn questions(envelope: &Envelope, rules: &Rules) -> Vec<IdentityQuery> {
    let standing = standing(envelope, rules);
    let mut asks_senders = standing.is_trusted && !standing.from_us && authors_matter(rules);
    let mut asked = Vec::new();
    for recipient in &envelope.recipients {
        let direction = direction(standing, &recipient.address, rules);
        if asks_recipient(direction, rules) {
            asked.extend(recipient_questions(recipient));
        }
        asks_senders |= counts_sender(direction, standing, rules);
    }
    if asks_senders {
        asked.extend(identities(envelope, rules));
    }
    asked.sort_unstable();
    asked.dedup();
    asked
}

/// Whether objects of people count in a direction. Where anybody may be exempt, everybody is asked
/// for.
fn counts_people(direction: Direction, rules: &Rules) -> bool {
    !rules.of(direction).journal_attributes.is_empty() || rules.exempt_attribute.is_some()
}

/// Whether the people behind a recipient count.
fn counts_recipient(direction: Direction, rules: &Rules) -> bool {
    counts_people(direction, rules)
        && match direction {
            Direction::Inbound | Direction::Internal => true,
            Direction::Outbound => rules.outbound_attribute_of != AttributeOf::Sender,
        }
}

/// Whether a recipient has to be looked up: also where a group with contacts in it would make
/// internal mail outbound.
fn asks_recipient(direction: Direction, rules: &Rules) -> bool {
    let internal = &rules.internal.journal;
    let leaves = || {
        counts_people(Direction::Outbound, rules)
            || rules
                .outbound
                .journal
                .iter()
                .any(|target| !internal.contains(target))
    };
    counts_recipient(direction, rules) || direction == Direction::Internal && leaves()
}

/// Whether the people behind a sender count.
fn counts_sender(direction: Direction, standing: Standing, rules: &Rules) -> bool {
    counts_people(direction, rules)
        && match direction {
            Direction::Inbound => false,
            Direction::Internal => standing.from_us,
            Direction::Outbound => rules.outbound_attribute_of != AttributeOf::Recipient,
        }
}

/// Whether the author of a message could matter, if a trusted client sends it by a foreign reverse
/// path.
fn authors_matter(rules: &Rules) -> bool {
    let mut ours = [Direction::Internal, Direction::Outbound].into_iter();
    ours.any(|direction| !rules.of(direction).journal_attributes.is_empty())
}

/// What a message is for each of its recipients, and whom it concerns: the first half of the
/// decision.
pub struct Pairs<'a> {
    envelope: &'a Envelope,
    found: &'a IdentityAnswers,
    rules: &'a Rules,
    standing: Standing,
    identities: Vec<IdentityQuery>,
    pairs: Vec<Pair<'a>>,
}

/// One direction that the message takes for one recipient.
struct Pair<'a> {
    direction: Direction,
    recipient: &'a Recipient,
    /// Those whose attributes count in it.
    people: Vec<&'a Person>,
    /// Those who could not be looked up.
    unanswered: Vec<(IdentityQuery, &'a Outage)>,
    /// Whether it counts because of an author who is no sender.
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

    fn take(
        &mut self,
        question: &IdentityQuery,
        answer: &'a Lookup<Arc<Owners>>,
        counts: impl Fn(&Person) -> bool,
    ) {
        match answer {
            Lookup::Found(owners) => {
                let people = owners.people.iter();
                self.people.extend(people.filter(|person| counts(person)));
            }
            Lookup::Absent => {}
            Lookup::Unavailable(outage) => self.unanswered.push((question.clone(), outage)),
        }
    }
}

/// The pairs of an envelope. `found` holds the answers to [`questions`]. Beside the direction of
/// the address as it was written, a recipient that is read otherwise, a group, a map or a
/// forwarding may make the message take others.
pub fn pairs<'a>(
    envelope: &'a Envelope,
    found: &'a IdentityAnswers,
    rules: &'a Rules,
) -> Pairs<'a> {
    let mut all = Pairs {
        envelope,
        found,
        rules,
        standing: standing(envelope, rules),
        identities: identities(envelope, rules),
        pairs: Vec::with_capacity(envelope.recipients.len()),
    };
    for recipient in &envelope.recipients {
        all.add(recipient);
    }
    all.add_authored();
    all
}

impl<'a> Pairs<'a> {
    fn add(&mut self, recipient: &'a Recipient) {
        let (standing, rules) = (self.standing, self.rules);
        let written = direction(standing, &recipient.address, rules);
        let of = |address: &Address| match *address == recipient.address {
            true => written,
            false => direction(standing, address, rules),
        };
        let mut answers: Vec<(IdentityQuery, &'a Lookup<Arc<Owners>>)> = Vec::new();
        if asks_recipient(written, rules) {
            let found = self.found;
            answers.extend(recipient_questions(recipient).map(|one| {
                let answer = found.get(&one);
                (one, answer)
            }));
        }
        let takes = |wanted: Direction| {
            wanted == written
                || answers.iter().any(|(_, answer)| match answer {
                    Lookup::Found(owners) => {
                        let people = owners.people.iter().map(|person| &person.address);
                        people
                            .chain(&owners.further_addresses)
                            .any(|one| of(one) == wanted)
                    }
                    Lookup::Absent => false,
                    // It may be a group with contacts in it.
                    Lookup::Unavailable(_) => standing.from_us && wanted == Direction::Outbound,
                })
        };
        for direction in Direction::ALL.into_iter().filter(|one| takes(*one)) {
            let mut pair = Pair::new(direction, recipient);
            if counts_sender(direction, standing, rules) {
                for one in &self.identities {
                    pair.take(one, self.found.get(one), |_| true);
                }
            }
            if counts_recipient(direction, rules) {
                for (question, answer) in &answers {
                    pair.take(question, answer, |person| of(&person.address) == direction);
                }
            }
            self.pairs.push(pair);
        }
    }

    /// Adds what somebody of ours wrote, as far as a trusted client says, but sent by a foreign
    /// reverse path: it counts as inbound, and as what it would be from the author as well.
    fn add_authored(&mut self) {
        let (standing, rules) = (self.standing, self.rules);
        if standing.from_us || !standing.is_trusted || self.authors().next().is_none() {
            return;
        }
        let as_ours = Standing {
            from_us: true,
            ..standing
        };
        for recipient in &self.envelope.recipients {
            let direction = direction(as_ours, &recipient.address, rules);
            if !counts_sender(direction, as_ours, rules) {
                continue;
            }
            let mut pair = Pair::new(direction, recipient);
            pair.is_authored = true;
            for author in self.authors() {
                pair.take(author, self.found.get(author), |_| true);
            }
            self.pairs.push(pair);
        }
    }

    /// Those of whom the sender may be one and who are people of ours.
    fn authors(&self) -> impl Iterator<Item = &IdentityQuery> {
        let all = self.identities.iter();
        all.filter(|one| is_person(self.found, one))
    }

    /// Whether everybody on the organization's side of a pair is exempt, so that `journal` does not
    /// count.
    fn is_exempt(&self, pair: &Pair) -> bool {
        let Some(attribute) = &self.rules.exempt_attribute else {
            return false;
        };
        let exempts = |one: &IdentityQuery| match self.found.get(one) {
            Lookup::Found(owners) => owners.exempting_object(Some(attribute)).is_some(),
            Lookup::Absent | Lookup::Unavailable(_) => false,
        };
        let sender = || match pair.is_authored {
            true => self.authors().all(exempts),
            false => self.identities.iter().all(exempts),
        };
        let recipient = || exempts(&recipient_question(pair.recipient));
        match pair.direction {
            Direction::Inbound => recipient(),
            Direction::Internal => recipient() && sender(),
            Direction::Outbound => !self.identities.is_empty() && sender(),
        }
    }

    /// Which targets have to be resolved in the directory to decide about this envelope, each once.
    pub fn targets(&self) -> Vec<Target> {
        let mut named = Vec::new();
        for pair in &self.pairs {
            let of = self.rules.of(pair.direction);
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

    /// Decides. `resolved` holds the answers to [`Pairs::targets`].
    pub fn plan(&self, resolved: &Resolved) -> Result<Plan, Undecided> {
        let (standing, rules) = (self.standing, self.rules);
        let mut gathered = Gathered {
            rules,
            resolved,
            wanted: Wanted::default(),
            troubles: Vec::new(),
            exempt: Vec::new(),
            overlooked: Vec::new(),
            elsewhere: Vec::new(),
        };
        let unidentified = self.unidentified();
        for pair in &self.pairs {
            let direction = pair.direction;
            let journal = rules.of(direction).journal.as_slice();
            if !journal.is_empty() && !self.is_exempt(pair) {
                gathered.add_configured(journal, direction)?;
            }
            for (question, outage) in &pair.unanswered {
                gathered.unanswered(question, direction, outage)?;
            }
            for person in &pair.people {
                gathered.add_of(person, direction)?;
            }
            if unidentified.contains(&direction)
                && standing.is_authenticated
                && let Some(fallback) = &rules.fallback_journal
            {
                let login = self.envelope.client.user.clone().unwrap_or_default();
                gathered
                    .wanted
                    .add(fallback, Reason::Unidentified { direction, login });
            }
        }
        let directions = self.envelope.recipients.iter().map(|recipient| {
            let direction = direction(standing, &recipient.address, rules);
            (recipient.address.clone(), direction)
        });
        Ok(Plan {
            sender_is_ours: standing.from_us,
            directions: directions.collect(),
            copies: gathered.wanted.into_copies(rules),
            is_unidentified: !unidentified.is_empty(),
            troubles: gathered.troubles,
            exempt: gathered.exempt,
            overlooked: gathered.overlooked,
            elsewhere: gathered.elsewhere,
        })
    }

    /// The directions in which an attribute of the sender could have mattered, if nobody knows who
    /// the sender is: the client may send as the organization, and neither reverse path nor login
    /// nor author is a person of ours.
    fn unidentified(&self) -> Vec<Direction> {
        let (standing, rules) = (self.standing, self.rules);
        let is_ndr = |sender: &Address| super::is_ndr(sender, rules);
        if !standing.may_relay || self.envelope.sender.as_ref().is_some_and(is_ndr) {
            return Vec::new();
        }
        let mut senders = self.identities.iter();
        if !senders.all(|one| *self.found.get(one) == Lookup::Absent) {
            return Vec::new();
        }
        let recipients = self.envelope.recipient_addresses();
        let mut all: Vec<Direction> = recipients
            .map(|recipient| direction(standing, recipient, rules))
            .filter(|direction| {
                counts_sender(*direction, standing, rules)
                    && !rules.of(*direction).journal_attributes.is_empty()
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn is_person(found: &IdentityAnswers, question: &IdentityQuery) -> bool {
    matches!(found.get(question), Lookup::Found(owners) if !owners.people.is_empty())
}

/// Whether the authors in the header of this message have to be looked up as well: a trusted client
/// without a login sends it, and the reverse path names nobody of ours.
pub fn asks_for_authors(envelope: &Envelope, found: &IdentityAnswers, rules: &Rules) -> bool {
    let standing = standing(envelope, rules);
    standing.is_trusted
        && !standing.is_authenticated
        && authors_matter(rules)
        && !identities(envelope, rules)
            .iter()
            .any(|one| is_person(found, one))
}

/// Everybody that the sender may be: the reverse path, the login, the holder of a certificate, and
/// the authors that a trusted client's message names. The login is what cannot be forged; the
/// reverse path is what a shared mailbox is known by.
pub fn identities(envelope: &Envelope, rules: &Rules) -> Vec<IdentityQuery> {
    let client = &envelope.client;
    let sender = envelope.sender.iter().map(|address| IdentityQuery::Sender {
        address: address.clone(),
        mta: envelope.resolved_sender.clone(),
    });
    let login = client
        .user
        .iter()
        .map(|user| IdentityQuery::AuthUser(user.clone()));
    let certificate = client.certificate.iter();
    let certificate = certificate
        .filter(|one| rules.organization.accepts(one))
        .map(|one| IdentityQuery::AuthUser(one.subject.clone()));
    let claimed = envelope
        .header_authors
        .iter()
        .map(|address| IdentityQuery::Sender {
            address: address.clone(),
            mta: None,
        });
    let mut all: Vec<IdentityQuery> = sender
        .chain(login)
        .chain(certificate)
        .chain(claimed)
        .collect();
    all.dedup();
    all
}

/// Not asked is not answered.
fn not_asked() -> Outage {
    Outage::new("it was not asked")
}

/// What the pairs of one message asked for so far.
struct Gathered<'a> {
    rules: &'a Rules,
    resolved: &'a Resolved,
    wanted: Wanted,
    troubles: Vec<Trouble>,
    exempt: Vec<(Address, String)>,
    overlooked: Vec<String>,
    elsewhere: Vec<String>,
}

/// Where a target is written.
struct Place<'a> {
    direction: Direction,
    attribute: &'a str,
    dn: Option<&'a str>,
}

impl Gathered<'_> {
    fn add_configured(
        &mut self,
        journal: &[Target],
        direction: Direction,
    ) -> Result<(), Undecided> {
        let attribute = format!("{direction}.journal");
        let place = Place {
            direction,
            attribute: &attribute,
            dn: None,
        };
        for target in journal {
            self.add(target, Reason::Setting(direction), &place)?;
        }
        Ok(())
    }

    /// Takes what the attributes of a person say.
    fn add_of(&mut self, person: &Person, direction: Direction) -> Result<(), Undecided> {
        let attribute = self.rules.exempt_attribute.as_deref();
        if let Some(object) = attribute.and_then(|name| person.exempting_object(name)) {
            self.exempt(&person.address, object);
            return Ok(());
        }
        for object in person.objects.iter() {
            self.read_attributes(object, person, direction)?;
        }
        Ok(())
    }

    fn exempt(&mut self, person: &Address, object: &Entry) {
        if !self.exempt.iter().any(|(known, _)| known == person) {
            self.exempt.push((person.clone(), object.dn.clone()));
        }
    }

    fn read_attributes(
        &mut self,
        object: &Entry,
        person: &Person,
        direction: Direction,
    ) -> Result<(), Undecided> {
        let rules = self.rules;
        for attribute in &rules.of(direction).journal_attributes {
            let place = Place {
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
                        self.add(&target, reason, &place)?;
                    }
                    Err(error) => self.unusable(value, error, &place),
                }
            }
        }
        Ok(())
    }

    /// Notes everybody that a target leads to.
    fn add(&mut self, target: &Target, reason: Reason, place: &Place) -> Result<(), Undecided> {
        if let Some(address) = target.smtp() {
            self.want(address, reason, place);
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
                    self.want(&one.address, through, place);
                }
                Ok(())
            }
            Some(Ok(Err(error))) => {
                self.unusable(&target.to_string(), error.clone(), place);
                Ok(())
            }
            Some(Err(outage)) => self.unanswered(target, place.direction, outage),
            None => self.unanswered(target, place.direction, &not_asked()),
        }
    }

    /// Whoever may write to his own object must not send everybody's mail where he likes.
    fn want(&mut self, address: &Address, reason: Reason, place: &Place) {
        if self.rules.may_journal_to(address) {
            return self.wanted.add(address, reason);
        }
        let elsewhere = TargetError::OutsideJournalDomains(address.clone());
        let told = format!("{reason}: {elsewhere}");
        if !self.elsewhere.contains(&told) {
            self.elsewhere.push(told);
        }
        self.unusable(&address.to_string(), elsewhere, place);
    }

    /// A typing mistake must not switch journaling off, nor bounce a stranger's mail.
    fn unusable(&mut self, value: &str, error: TargetError, place: &Place) {
        let direction = place.direction;
        let (attribute, dn) = (place.attribute.to_owned(), place.dn.map(str::to_owned));
        if let Some(fallback) = &self.rules.fallback_journal {
            let reason = Reason::Malformed {
                direction,
                attribute,
                dn,
                value: value.to_owned(),
            };
            self.wanted.add(fallback, reason);
        } else if let Some(ndr) = &self.rules.of(direction).ndr {
            let trouble = Trouble {
                direction,
                ndr: ndr.clone(),
                dn,
                attribute,
                value: value.to_owned(),
                error,
            };
            // One object found for several recipients is one trouble.
            if !self.troubles.contains(&trouble) {
                self.troubles.push(trouble);
            }
        }
    }

    fn unanswered(
        &mut self,
        subject: &dyn fmt::Display,
        direction: Direction,
        outage: &Outage,
    ) -> Result<(), Undecided> {
        let subject = subject.to_string();
        match (
            self.rules.on_directory_failure,
            &self.rules.fallback_journal,
        ) {
            (OnFailure::Fallback, Some(fallback)) => {
                self.wanted
                    .add(fallback, Reason::DirectoryDown { direction, subject });
                Ok(())
            }
            (OnFailure::Accept, _) => {
                if !self.overlooked.contains(&subject) {
                    self.overlooked.push(subject);
                }
                Ok(())
            }
            (OnFailure::Defer | OnFailure::Fallback, _) => Err(Undecided {
                subject,
                outage: outage.clone(),
            }),
        }
    }
}

/// Targets gathered so far, each address once with every reason.
#[derive(Default)]
struct Wanted(BTreeMap<Address, Vec<Reason>>);

impl Wanted {
    fn add(&mut self, target: &Address, reason: Reason) {
        match self.0.get_mut(target) {
            Some(reasons) if reasons.contains(&reason) => {}
            Some(reasons) => reasons.push(reason),
            None => {
                self.0.insert(target.clone(), vec![reason]);
            }
        }
    }

    /// Groups the targets: one copy for each NDR address, format and content, since all are the
    /// copy's own. An address wanted in several directions counts for the first, so that it gets
    /// one copy.
    fn into_copies(self, rules: &Rules) -> Vec<Copy> {
        let mut copies: Vec<Copy> = Vec::new();
        for (address, mut reasons) in self.0 {
            reasons.sort_unstable();
            let direction = reasons
                .iter()
                .map(Reason::direction)
                .min()
                .unwrap_or(Direction::Inbound);
            let of = rules.of(direction);
            // Configuration without an NDR address is refused where anything is journaled. Were it
            // missing all the same, the copy's own address is better than no copy.
            let ndr = of.ndr.clone().unwrap_or_else(|| address.clone());
            let room = |copy: &&mut Copy| {
                copy.ndr == ndr
                    && copy.format == of.format
                    && copy.what == of.journal_what
                    && copy.targets.len() < MOST_TARGETS
            };
            match copies.iter_mut().find(room) {
                Some(copy) => {
                    copy.direction = copy.direction.min(direction);
                    copy.targets.push((address, reasons));
                }
                None => copies.push(Copy {
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
    /// Whether nothing has to be written for this message.
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty() && self.troubles.is_empty()
    }

    /// The directions the message has, each once.
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
    /// The direction it counts for.
    pub fn direction(&self) -> Direction {
        match self {
            Reason::Setting(direction)
            | Reason::Attribute { direction, .. }
            | Reason::Malformed { direction, .. }
            | Reason::Unidentified { direction, .. }
            | Reason::DirectoryDown { direction, .. } => *direction,
            Reason::Through { of, .. } => of.direction(),
        }
    }

    /// The member of a group who is why, and the group.
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
            Reason::Malformed {
                attribute,
                dn: None,
                value,
                ..
            } => write!(f, "directory.fallback_journal: {attribute} is {value:?}"),
            Reason::Malformed {
                direction,
                attribute,
                dn: Some(dn),
                value,
            } => write!(
                f,
                "directory.fallback_journal: {direction}.journal_attribute {attribute} of {dn} is {value:?}"
            ),
            Reason::Unidentified { direction, login } => write!(
                f,
                "directory.fallback_journal: sender not found in the directory ({direction}, login {login})"
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

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.attribute)?;
        if let Some(dn) = &self.dn {
            write!(f, " of {dn}")?;
        }
        write!(f, " is {:?}: {}", self.value, self.error)
    }
}
