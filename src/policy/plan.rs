//! The decision for one message.
//!
//! Two steps, both pure: [`questions`] says which people must be looked up, [`plan`] decides with the
//! answers. Between them stands the directory, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::directory::{Entry, Lookup, Objects, Outage, Target, TargetError};
use crate::mail::{Address, Envelope};

use super::{AttributeOf, Direction, Format, OnFailure, Rules};

/// The answers to [`questions`].
pub type People = HashMap<Address, Lookup<Objects>>;

/// What is to be done about one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether the sender is ours; header recipients of others are not believed.
    pub sender_is_ours: bool,
    /// The direction of the message for each recipient, in the order of the envelope.
    pub directions: Vec<(Address, Direction)>,
    /// The copies to be made: one for each (NDR address, format).
    pub copies: Vec<Copy>,
    /// Attribute values that name nobody, to be reported to the NDR address with the copy attached.
    pub troubles: Vec<Trouble>,
    /// People that were not looked up because the directory was down and the rules say to go on.
    pub overlooked: Vec<Address>,
}

/// One copy, for one or several journal addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The direction that it is accounted to: the first of inbound, outbound, internal.
    pub direction: Direction,
    /// What it looks like.
    pub format: Format,
    /// Its envelope sender, and where its NDR goes.
    pub ndr: Address,
    /// Who gets it, and why; never the same address twice.
    pub targets: Vec<(Address, Vec<Reason>)>,
}

/// An attribute value that is no usable journal target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The direction it would have counted for.
    pub direction: Direction,
    /// Who is told.
    pub ndr: Address,
    /// The object it stands in.
    pub dn: String,
    /// The attribute.
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
    /// It is the fallback journal, and an attribute's value names nobody.
    Malformed {
        /// The direction the attribute would have counted for.
        direction: Direction,
        /// The attribute's name as configured.
        attribute: String,
        /// The object it stands in.
        dn: String,
        /// The value.
        value: String,
    },
    /// It is the fallback journal, and the directory did not answer for this person.
    DirectoryDown {
        /// The direction of the pair.
        direction: Direction,
        /// Who could not be looked up.
        person: Address,
    },
}

/// The message cannot be decided now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{person} cannot be looked up: {outage}")]
pub struct Undecided {
    /// Whose object is needed.
    pub person: Address,
    /// Why it is not to be had.
    pub outage: Outage,
}

/// Whether the sender of this envelope sends as the organization: by authentication or by the network
/// it connects from. MAIL FROM never decides it: a spoofed one would let mail escape journaling.
pub fn sender_is_ours(envelope: &Envelope, rules: &Rules) -> bool {
    envelope.client.user.is_some()
        || envelope
            .client
            .ip
            .is_some_and(|ip| rules.organization.trusts(ip))
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
    for recipient in envelope.recipient_addresses() {
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

/// Decides. `people` holds the answers to [`questions`] about the same envelope and rules.
pub fn plan(envelope: &Envelope, people_found: &People, rules: &Rules) -> Result<Plan, Undecided> {
    let ours = sender_is_ours(envelope, rules);
    let identities = identities(envelope, rules);
    let mut plan = Plan {
        sender_is_ours: ours,
        ..Plan::default()
    };
    let mut wanted = Wanted::default();
    for recipient in envelope.recipient_addresses() {
        let direction = direction(ours, recipient, rules);
        plan.directions.push((recipient.clone(), direction));
        for target in &rules.of(direction).journal {
            wanted.add(target, Reason::Setting(direction));
        }
        for person in people(direction, recipient, &identities, rules) {
            match people_found.get(person) {
                Some(Lookup::Found(objects)) => {
                    for object in objects.iter() {
                        read_attributes(
                            object,
                            person,
                            direction,
                            rules,
                            &mut wanted,
                            &mut plan.troubles,
                        );
                    }
                }
                Some(Lookup::Absent) => {}
                Some(Lookup::Unavailable(outage)) => {
                    unanswered(
                        person,
                        direction,
                        outage,
                        rules,
                        &mut wanted,
                        &mut plan.overlooked,
                    )?;
                }
                // Not asked is not answered.
                None => {
                    let outage = Outage::new("it was not asked");
                    unanswered(
                        person,
                        direction,
                        &outage,
                        rules,
                        &mut wanted,
                        &mut plan.overlooked,
                    )?;
                }
            }
        }
    }
    plan.copies = wanted.into_copies(rules);
    Ok(plan)
}

/// The addresses the sender is known by: the reverse path, and the login where the client authenticated.
/// The login is what cannot be forged; the reverse path is what a shared mailbox is known by.
fn identities(envelope: &Envelope, rules: &Rules) -> Vec<Address> {
    let login = envelope
        .client
        .user
        .as_deref()
        .and_then(|user| Address::parse_in(user, rules.organization.default_domain()?).ok());
    let mut identities: Vec<Address> = envelope.sender.iter().cloned().chain(login).collect();
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
        _ if rules.of(direction).journal_attributes.is_empty() => (false, false),
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

fn read_attributes(
    object: &Entry,
    person: &Address,
    direction: Direction,
    rules: &Rules,
    wanted: &mut Wanted,
    troubles: &mut Vec<Trouble>,
) {
    for attribute in &rules.of(direction).journal_attributes {
        for value in object
            .values(attribute)
            .iter()
            .filter(|value| !value.trim().is_empty())
        {
            let target = Target::parse(value);
            let error = match target.as_ref().map_err(Clone::clone).and_then(Target::smtp) {
                Ok(address) => {
                    let reason = Reason::Attribute {
                        direction,
                        attribute: attribute.clone(),
                        dn: object.dn.clone(),
                        person: person.clone(),
                    };
                    wanted.add(address, reason);
                    continue;
                }
                Err(error) => error,
            };
            // A typing mistake must not switch journaling off, nor bounce a stranger's mail.
            if let Some(fallback) = &rules.fallback_journal {
                let reason = Reason::Malformed {
                    direction,
                    attribute: attribute.clone(),
                    dn: object.dn.clone(),
                    value: value.clone(),
                };
                wanted.add(fallback, reason);
            } else if let Some(ndr) = &rules.of(direction).ndr {
                let trouble = Trouble {
                    direction,
                    ndr: ndr.clone(),
                    dn: object.dn.clone(),
                    attribute: attribute.clone(),
                    value: value.clone(),
                    error,
                };
                // One object found for several recipients is one trouble.
                if !troubles.contains(&trouble) {
                    troubles.push(trouble);
                }
            }
        }
    }
}

fn unanswered(
    person: &Address,
    direction: Direction,
    outage: &Outage,
    rules: &Rules,
    wanted: &mut Wanted,
    overlooked: &mut Vec<Address>,
) -> Result<(), Undecided> {
    match (rules.on_directory_failure, &rules.fallback_journal) {
        (OnFailure::Fallback, Some(fallback)) => {
            wanted.add(
                fallback,
                Reason::DirectoryDown {
                    direction,
                    person: person.clone(),
                },
            );
            Ok(())
        }
        (OnFailure::Accept, _) => {
            if !overlooked.contains(person) {
                overlooked.push(person.clone());
            }
            Ok(())
        }
        (OnFailure::Defer | OnFailure::Fallback, _) => Err(Undecided {
            person: person.clone(),
            outage: outage.clone(),
        }),
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

    /// Groups the targets: one copy for each NDR address and format, since both are the copy's own. An
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
            match copies
                .iter_mut()
                .find(|copy| copy.ndr == ndr && copy.format == of.format)
            {
                Some(copy) => {
                    copy.direction = copy.direction.min(direction);
                    copy.targets.push((address, reasons));
                }
                None => copies.push(Copy {
                    direction,
                    format: of.format,
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
            Reason::Malformed {
                direction,
                attribute,
                dn,
                value,
            } => write!(
                f,
                "directory.fallback_journal: {direction}.journal_attribute {attribute} of {dn} is {value:?}"
            ),
            Reason::DirectoryDown { direction, person } => {
                write!(
                    f,
                    "directory.fallback_journal: {person} ({direction}) could not be looked up"
                )
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} is {:?}: {}",
            self.attribute, self.dn, self.value, self.error
        )
    }
}
