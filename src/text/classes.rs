//! The texts that each recipient of a message gets. Pure.

use std::sync::Arc;

use super::edit::{Text, Texts};
use super::settings::{DirectionTexts, Settings};
use super::template::TemplateError;
use crate::directory::{Entry, Lookup, Outage};
use crate::identity::{IdentityAnswers, IdentityQuery};
use crate::mail::Envelope;
use crate::policy::{self, Direction, Rules};

/// Recipients who get the same texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientClass {
    /// The texts; empty for none.
    pub texts: Texts,
    /// The indices of the recipients in the envelope.
    pub recipients: Vec<usize>,
    /// The direction of the first recipient.
    pub direction: Direction,
}

/// The reason why the texts cannot be determined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextSelectionError {
    /// A person whose object is needed could not be looked up.
    #[error("{person} cannot be looked up: {outage}")]
    Person {
        /// The person.
        person: IdentityQuery,
        /// The cause.
        outage: Outage,
    },
    /// A template cannot be filled in.
    #[error("the {end} text of {direction} mail {error}")]
    Template {
        /// `prepend` or `append`.
        end: &'static str,
        /// The direction of the text.
        direction: Direction,
        /// The cause.
        error: TemplateError,
    },
}

/// The order of the classes: outbound first, since that version stays with the MTA if a message is
/// split, and other filters (a DKIM signer) see it.
const ORDER: [Direction; 3] = [Direction::Outbound, Direction::Inbound, Direction::Internal];

/// Returns the lookups needed to determine the texts.
fn questions(envelope: &Envelope, rules: &Rules, settings: &Settings) -> Vec<IdentityQuery> {
    if settings.is_empty() {
        return Vec::new();
    }
    let asks_all = settings.exempt_attribute.is_some();
    let standing = policy::standing(envelope, rules);
    let mut asked = Vec::new();
    for recipient in &envelope.recipients {
        let texts = settings.of(policy::direction(standing, &recipient.address, rules));
        if !texts.is_set() {
            continue;
        }
        if asks_all {
            asked.push(policy::recipient_question(recipient));
        }
        if asks_all || texts.needs_sender() {
            asked.extend(senders(standing, envelope, rules));
        }
    }
    asked
}

/// Returns the lookups needed to decide about copies and texts, each once.
pub fn all_questions(
    envelope: &Envelope,
    rules: &Rules,
    settings: &Settings,
) -> Vec<IdentityQuery> {
    let mut asked = policy::questions(envelope, rules);
    asked.extend(questions(envelope, rules, settings));
    asked.sort_unstable();
    asked.dedup();
    asked
}

/// Groups the recipients by texts, into at least one class if there is a recipient. `people` has
/// the answers to [`all_questions`].
pub fn classes(
    envelope: &Envelope,
    people: &IdentityAnswers,
    rules: &Rules,
    settings: &Settings,
) -> Result<Vec<RecipientClass>, TextSelectionError> {
    let standing = policy::standing(envelope, rules);
    let senders = senders(standing, envelope, rules);
    let lookups = Lookups { people, settings };
    let mut classes: Vec<RecipientClass> = Vec::new();
    for (index, recipient) in envelope.recipients.iter().enumerate() {
        let direction = policy::direction(standing, &recipient.address, rules);
        let recipient = policy::recipient_question(recipient);
        let texts = settings.of(direction);
        let texts =
            match texts.is_set() && !lookups.is_any_exempt(senders.iter().chain([&recipient]))? {
                true => fill_texts(texts, direction, &lookups, &senders)?,
                false => Texts::default(),
            };
        match classes.iter_mut().find(|class| class.texts == texts) {
            Some(class) => {
                class.recipients.push(index);
                class.direction = earlier(class.direction, direction);
            }
            None => classes.push(RecipientClass {
                texts,
                recipients: vec![index],
                direction,
            }),
        }
    }
    classes.sort_by_key(|class| ORDER.iter().position(|d| *d == class.direction));
    if !settings.split_mixed && classes.len() > 1 {
        // An exempt recipient does not prevent a text for the others.
        let first = classes.iter().position(|class| !class.texts.is_empty());
        classes.swap(0, first.unwrap_or(0));
        let others: Vec<usize> = classes
            .drain(1..)
            .flat_map(|class| class.recipients)
            .collect();
        classes[0].recipients.extend(others);
        classes[0].recipients.sort_unstable();
    }
    Ok(classes)
}

/// Returns the identities of the sender. An external reverse path is not trusted: a forged one
/// could insert a person's attributes into a text, or suppress the text.
fn senders(standing: policy::Standing, envelope: &Envelope, rules: &Rules) -> Vec<IdentityQuery> {
    match standing.from_us {
        true => policy::identities(envelope, rules),
        false => Vec::new(),
    }
}

fn earlier(one: Direction, other: Direction) -> Direction {
    let both = ORDER.into_iter().find(|d| *d == one || *d == other);
    both.unwrap_or(one)
}

fn fill_texts(
    texts: &DirectionTexts,
    direction: Direction,
    lookups: &Lookups<'_>,
    senders: &[IdentityQuery],
) -> Result<Texts, TextSelectionError> {
    let sender = match texts.needs_sender() {
        true => lookups.first_object_of(senders)?,
        false => Vec::new(),
    };
    let fill = |end: &'static str, disclaimer: &Option<super::Disclaimer>| {
        let filled = disclaimer
            .as_ref()
            .map(|disclaimer| disclaimer.for_sender(&sender));
        let filled = filled
            .transpose()
            .map_err(|error| TextSelectionError::Template {
                end,
                direction,
                error,
            })?;
        Ok(filled.flatten())
    };
    let prepend: Option<Arc<Text>> = fill("prepend", &texts.prepend)?;
    Ok(Texts {
        prepend,
        append: fill("append", &texts.append)?,
    })
}

/// The directory's answers about senders and recipients.
struct Lookups<'a> {
    people: &'a IdentityAnswers,
    settings: &'a Settings,
}

impl Lookups<'_> {
    fn error(person: &IdentityQuery, outage: &Outage) -> TextSelectionError {
        TextSelectionError::Person {
            person: person.clone(),
            outage: outage.clone(),
        }
    }

    /// Whether one of these people is exempt from texts.
    fn is_any_exempt<'p>(
        &self,
        people: impl Iterator<Item = &'p IdentityQuery>,
    ) -> Result<bool, TextSelectionError> {
        let Some(attribute) = &self.settings.exempt_attribute else {
            return Ok(false);
        };
        for person in people {
            match self.people.get(person) {
                Lookup::Found(owners) if owners.exempting_object(Some(attribute)).is_some() => {
                    return Ok(true);
                }
                Lookup::Found(_) | Lookup::Absent => {}
                Lookup::Unavailable(outage) => return Err(Lookups::error(person, outage)),
            }
        }
        Ok(false)
    }

    /// Returns the objects of the sender's first identity that has any.
    fn first_object_of(
        &self,
        senders: &[IdentityQuery],
    ) -> Result<Vec<Arc<Entry>>, TextSelectionError> {
        for sender in senders {
            match self.people.get(sender) {
                Lookup::Found(owners) => {
                    if let Some(person) = owners.people.first() {
                        return Ok(person.own().cloned().collect());
                    }
                }
                Lookup::Absent => {}
                Lookup::Unavailable(outage) => return Err(Lookups::error(sender, outage)),
            }
        }
        Ok(Vec::new())
    }
}

impl DirectionTexts {
    /// Whether there is any text.
    pub fn is_set(&self) -> bool {
        self.prepend.is_some() || self.append.is_some()
    }
}
