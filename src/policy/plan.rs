//! The decision for one message.
//!
//! Two steps, both pure: [`questions`] says which people must be looked up, [`plan`] decides with the
//! answers. Between them stands the directory, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::directory::{Entry, Lookup, Objects, Outage, Resolution, Target, TargetError};
use crate::mail::{Address, Envelope, Side};

use super::{AttributeOf, Direction, Format, JournalWhat, OnFailure, Rules};

/// The most targets of one copy: what every relay takes in one transaction (RFC 5321 section 4.5.3.1.8), and
/// what fits into a header that no MTA cuts off.
pub const MOST_TARGETS: usize = 100;

/// The answers to [`questions`].
pub type People = HashMap<Address, Lookup<Objects>>;

/// The answers to [`targets`].
pub type Resolved = HashMap<Target, Result<Resolution, Outage>>;

/// What is to be done about one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether the sender is ours; header recipients of others are not believed.
    pub sender_is_ours: bool,
    /// The direction of the message for each recipient, in the order of the envelope.
    pub directions: Vec<(Address, Direction)>,
    /// The copies to be made: one for each (NDR address, format, content), with at most [`MOST_TARGETS`] each.
    pub copies: Vec<Copy>,
    /// Attribute values that name nobody, to be reported to the NDR address with the copy attached.
    pub troubles: Vec<Trouble>,
    /// People whose objects exempt them, and those objects: what would have been copied because of them was not.
    pub exempt: Vec<(Address, String)>,
    /// People and targets that were not looked up because the directory was down and the rules say to go on.
    pub overlooked: Vec<String>,
    /// Targets that no copy goes to, since they are in none of [`Rules::journal_domains`]: who names them, and the address.
    pub elsewhere: Vec<String>,
}

/// One copy, for one or several journal addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The direction that it is accounted to: the first of inbound, outbound, internal.
    pub direction: Direction,
    /// What it looks like.
    pub format: Format,
    /// What is in it: for a copy of what is delivered, the version that recipients of its direction get.
    pub what: JournalWhat,
    /// Its envelope sender, and where its NDR goes.
    pub ndr: Address,
    /// Who gets it, and why; never the same address twice.
    pub targets: Vec<(Address, Vec<Reason>)>,
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

/// Whether the sender of this envelope sends as the organization: by authentication or by the network
/// it connects from. MAIL FROM never decides it: a spoofed one would let mail escape journaling.
pub fn sender_is_ours(envelope: &Envelope, rules: &Rules) -> bool {
    let client = &envelope.client;
    match client.side {
        Some(side) => side == Side::Ours,
        None => client.user.is_some() || client.ip.is_some_and(|ip| rules.organization.trusts(ip)),
    }
}

/// The direction of the message for one recipient.
pub fn direction(sender_is_ours: bool, recipient: &Address, rules: &Rules) -> Direction {
    match (sender_is_ours, rules.organization.has(recipient)) {
        (true, true) => Direction::Internal,
        (true, false) => Direction::Outbound,
        // Outside to outside is mail that the MTA relays for somebody. In doubt it is journaled.
        (false, _) => Direction::Inbound,
    }
}

/// Who has to be looked up to decide about this envelope, each address once. Empty where the settings
/// alone decide.
pub fn questions(envelope: &Envelope, rules: &Rules) -> Vec<Address> {
    let ours = sender_is_ours(envelope, rules);
    let identities = identities(envelope, rules);
    let mut asked = Vec::new();
    for recipient in envelope.recipients_in_all_readings() {
        asked.extend(
            people(
                direction(ours, recipient, rules),
                recipient,
                &identities,
                rules,
            )
            .cloned(),
        );
    }
    asked.sort_unstable();
    asked.dedup();
    asked
}

/// Which targets have to be resolved in the directory to decide about this envelope, each once. `found`
/// holds the answers to [`questions`].
pub fn targets(envelope: &Envelope, found: &People, rules: &Rules) -> Vec<Target> {
    let ours = sender_is_ours(envelope, rules);
    let identities = identities(envelope, rules);
    let mut named = Vec::new();
    for recipient in envelope.recipients_in_all_readings() {
        let direction = direction(ours, recipient, rules);
        let of = rules.of(direction);
        named.extend(of.journal.iter().cloned());
        for person in people(direction, recipient, &identities, rules) {
            let Some(Lookup::Found(objects)) = found.get(person) else {
                continue;
            };
            for object in objects.iter() {
                let values = of.journal_attributes.iter().flat_map(|a| object.values(a));
                named.extend(values.filter_map(|value| Target::parse(value).ok()));
            }
        }
    }
    named.retain(|target| target.smtp().is_none());
    named.sort_unstable();
    named.dedup();
    named
}

/// Decides. `people_found` and `resolved` hold the answers to [`questions`] and [`targets`] about the same
/// envelope and rules.
pub fn plan(
    envelope: &Envelope,
    people_found: &People,
    resolved: &Resolved,
    rules: &Rules,
) -> Result<Plan, Undecided> {
    let ours = sender_is_ours(envelope, rules);
    let identities = identities(envelope, rules);
    let mut gathered = Gathered {
        rules,
        resolved,
        wanted: Wanted::default(),
        troubles: Vec::new(),
        exempt: Vec::new(),
        overlooked: Vec::new(),
        elsewhere: Vec::new(),
    };
    let mut directions = Vec::new();
    for recipient in envelope.recipients_in_all_readings() {
        let direction = direction(ours, recipient, rules);
        directions.push((recipient.clone(), direction));
        let concerned = concerned(direction, recipient, &identities);
        let mut concerned = concerned.peekable();
        let all_exempt = concerned.peek().is_some()
            && concerned.all(|person| exemption(people_found.get(person), rules).is_some());
        let journal = match all_exempt {
            true => &[][..],
            false => &rules.of(direction).journal,
        };
        for target in journal {
            let place = Place {
                direction,
                attribute: &format!("{direction}.journal"),
                dn: None,
            };
            gathered.add(target, Reason::Setting(direction), &place)?;
        }
        for person in people(direction, recipient, &identities, rules) {
            match people_found.get(person) {
                found @ Some(Lookup::Found(objects)) => {
                    if let Some(object) = exemption(found, rules) {
                        gathered.exempt(person, object);
                        continue;
                    }
                    for object in objects.iter() {
                        gathered.read_attributes(object, person, direction)?;
                    }
                }
                Some(Lookup::Absent) => {}
                Some(Lookup::Unavailable(outage)) => {
                    gathered.unanswered(person, direction, outage)?;
                }
                None => gathered.unanswered(person, direction, &not_asked())?,
            }
        }
    }
    Ok(Plan {
        sender_is_ours: ours,
        directions,
        copies: gathered.wanted.into_copies(rules),
        troubles: gathered.troubles,
        exempt: gathered.exempt,
        overlooked: gathered.overlooked,
        elsewhere: gathered.elsewhere,
    })
}

/// Not asked is not answered.
fn not_asked() -> Outage {
    Outage::new("it was not asked")
}

/// The addresses the sender is known by: the reverse path, and the login where the client authenticated.
/// The login is what cannot be forged; the reverse path is what a shared mailbox is known by.
pub fn identities(envelope: &Envelope, rules: &Rules) -> Vec<Address> {
    let login = envelope
        .client
        .user
        .as_deref()
        .and_then(|user| Address::parse_in(user, rules.organization.default_domain()?).ok());
    let sender = envelope.sender.iter().chain(&envelope.rewritten.sender);
    let mut identities: Vec<Address> = sender.cloned().chain(login).collect();
    identities.dedup();
    identities
}

/// Whose attributes count for one pair.
fn people<'a>(
    direction: Direction,
    recipient: &'a Address,
    identities: &'a [Address],
    rules: &Rules,
) -> impl Iterator<Item = &'a Address> {
    let (sender, of_recipient) = match direction {
        // Where anybody may be exempt, everybody is asked for.
        _ if rules.of(direction).journal_attributes.is_empty()
            && rules.exempt_attribute.is_none() =>
        {
            (false, false)
        }
        Direction::Inbound => (false, true),
        Direction::Internal => (true, true),
        Direction::Outbound => match rules.outbound_attribute_of {
            AttributeOf::Both => (true, true),
            AttributeOf::Sender => (true, false),
            AttributeOf::Recipient => (false, true),
        },
    };
    let sender = if sender { identities } else { &[] };
    sender.iter().chain(of_recipient.then_some(recipient))
}

/// The organization's people in one pair. Who is told by a forged reverse path is not alone: the login is another.
fn concerned<'a>(
    direction: Direction,
    recipient: &'a Address,
    identities: &'a [Address],
) -> impl Iterator<Item = &'a Address> {
    let (sender, of_recipient) = match direction {
        Direction::Inbound => (false, true),
        Direction::Internal => (true, true),
        Direction::Outbound => (true, false),
    };
    let sender = if sender { identities } else { &[] };
    sender.iter().chain(of_recipient.then_some(recipient))
}

/// Whether nothing is copied because of the person that these objects are of.
pub fn is_exempt(objects: &Objects, rules: &Rules) -> bool {
    exempting(objects, rules.exempt_attribute.as_deref()).is_some()
}

/// The object that exempts a person. Where several objects own the address, all of them must: in doubt mail is
/// journaled.
fn exemption<'a>(found: Option<&'a Lookup<Objects>>, rules: &Rules) -> Option<&'a Entry> {
    let Some(Lookup::Found(objects)) = found else {
        return None;
    };
    exempting(objects, rules.exempt_attribute.as_deref())
}

/// The object that says TRUE in this attribute, where all of a person's own do.
pub fn exempting<'a>(objects: &'a Objects, attribute: Option<&str>) -> Option<&'a Entry> {
    let attribute = attribute?;
    let own = || objects.iter().filter(|object| !object.inherited);
    let exempts = |object: &Entry| {
        let mut values = object.values(attribute);
        values.any(|value| value.trim().eq_ignore_ascii_case("TRUE"))
    };
    own()
        .all(|object| exempts(object))
        .then(|| own().next())?
        .map(AsRef::as_ref)
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
    fn exempt(&mut self, person: &Address, object: &Entry) {
        if !self.exempt.iter().any(|(known, _)| known == person) {
            self.exempt.push((person.clone(), object.dn.clone()));
        }
    }

    fn read_attributes(
        &mut self,
        object: &Entry,
        person: &Address,
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
                            person: person.clone(),
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
            Some(Ok(Ok(reached))) => {
                for one in reached.iter() {
                    let through = Reason::Through {
                        of: Box::new(reason.clone()),
                        target: target.to_string(),
                        objects: one.through.to_vec(),
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
        let elsewhere = TargetError::Elsewhere(address.clone());
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

    /// Groups the targets: one copy for each NDR address, format and content, since all are the copy's own. An
    /// address wanted in several directions counts for the first, so that it gets one copy.
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
            // Configuration without an NDR address is refused where anything is journaled. Were it missing
            // all the same, the copy's own address is better than no copy.
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
            | Reason::DirectoryDown { direction, .. } => *direction,
            Reason::Through { of, .. } => of.direction(),
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
            } => {
                write!(
                    f,
                    "{direction}.journal_attribute {attribute} of {dn} ({person})"
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
