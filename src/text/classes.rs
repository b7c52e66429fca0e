//! Which recipients of a message are owed which texts. Pure.

use std::sync::Arc;

use super::edit::{Text, Texts};
use super::settings::{DirectionTexts, Settings};
use super::template::TemplateError;
use crate::directory::{Entry, Lookup, Outage};
use crate::identity::{IdentityAnswers, IdentityQuery};
use crate::mail::Envelope;
use crate::policy::{self, Direction, Rules};

/// Recipients who are owed the same texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientClass {
    /// The texts; the default for none.
    pub texts: Texts,
    /// The recipients, by their place in the envelope.
    pub recipients: Vec<usize>,
    /// The direction of the first of them.
    pub direction: Direction,
}

/// Which texts are owed cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextSelectionError {
    /// A person whose object is needed was not looked up.
    #[error("{person} cannot be looked up: {outage}")]
    Person {
        /// Who.
        person: IdentityQuery,
        /// Why.
        outage: Outage,
    },
    /// A text cannot be filled in.
    #[error("the {end} text of {direction} mail {error}")]
    Template {
        /// `prepend` or `append`.
        end: &'static str,
        /// Whose text it is.
        direction: Direction,
        /// Why.
        error: TemplateError,
    },
}

/// The order in which classes are told: what goes outside first, since that is what stays with the
/// MTA where a message is split, and other filters (a DKIM signer) see it.
const ORDER: [Direction; 3] = [Direction::Outbound, Direction::Inbound, Direction::Internal];

/// Who has to be looked up to tell which texts are owed.
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

/// Everybody who has to be looked up to decide about copies and texts, each once.
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

/// The classes of recipients, at least one where there is a recipient. `people` holds the answers
/// to [`all_questions`].
pub fn classes(
    envelope: &Envelope,
    people: &IdentityAnswers,
    rules: &Rules,
    settings: &Settings,
) -> Result<Vec<RecipientClass>, TextSelectionError> {
    let standing = policy::standing(envelope, rules);
    let senders = senders(standing, envelope, rules);
    let sender = Asked { people, settings };
    let mut classes: Vec<RecipientClass> = Vec::new();
    for (place, recipient) in envelope.recipients.iter().enumerate() {
        let direction = policy::direction(standing, &recipient.address, rules);
        let recipient = policy::recipient_question(recipient);
        let texts = settings.of(direction);
        let texts =
            match texts.is_set() && !sender.any_exempt(senders.iter().chain([&recipient]))? {
                true => filled(texts, direction, &sender, &senders)?,
                false => Texts::default(),
            };
        match classes.iter_mut().find(|class| class.texts == texts) {
            Some(class) => {
                class.recipients.push(place);
                class.direction = earlier(class.direction, direction);
            }
            None => classes.push(RecipientClass {
                texts,
                recipients: vec![place],
                direction,
            }),
        }
    }
    classes.sort_by_key(|class| ORDER.iter().position(|d| *d == class.direction));
    if !settings.split_mixed && classes.len() > 1 {
        // Somebody who is exempt keeps nobody else from getting a text.
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

/// Who the sender is. A stranger's reverse path says nothing: a forged one would bring somebody's
/// attributes into a text, or keep the text out.
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

fn filled(
    texts: &DirectionTexts,
    direction: Direction,
    asked: &Asked<'_>,
    senders: &[IdentityQuery],
) -> Result<Texts, TextSelectionError> {
    let sender = match texts.needs_sender() {
        true => asked.first_object_of(senders)?,
        false => Vec::new(),
    };
    let fill = |end: &'static str, wording: &Option<super::Disclaimer>| {
        let filled = wording.as_ref().map(|wording| wording.for_sender(&sender));
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

/// The answers of the directory.
struct Asked<'a> {
    people: &'a IdentityAnswers,
    settings: &'a Settings,
}

impl Asked<'_> {
    fn untold(person: &IdentityQuery, outage: &Outage) -> TextSelectionError {
        TextSelectionError::Person {
            person: person.clone(),
            outage: outage.clone(),
        }
    }

    /// Whether those whom one of these concerns exempt this mail from texts.
    fn any_exempt<'p>(
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
                Lookup::Unavailable(outage) => return Err(Asked::untold(person, outage)),
            }
        }
        Ok(false)
    }

    /// The objects of the first identity of the sender that has some.
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
                Lookup::Unavailable(outage) => return Err(Asked::untold(sender, outage)),
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
