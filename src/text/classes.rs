//! The texts that each recipient of a message gets. Pure.

use std::sync::Arc;

use super::edit::{Text, Texts};
use super::settings::{DirectionTexts, Settings};
use super::template::TemplateError;
use crate::directory::{Entry, Lookup, Outage};
use crate::identity::{IdentityAnswers, IdentityQuery};
use crate::policy::{self, Context, Direction};

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

/// Returns the identity queries that selecting the texts needs.
fn queries(context: &Context<'_>, settings: &Settings) -> Vec<IdentityQuery> {
    if settings.is_empty() {
        return Vec::new();
    }
    let needs_all = settings.exempt_attribute.is_some();
    let mut queries = Vec::new();
    for (recipient, direction) in context.recipients() {
        let texts = settings.of(direction);
        if !texts.is_set() {
            continue;
        }
        if needs_all {
            queries.push(policy::recipient_query(recipient));
        }
        if needs_all || texts.needs_sender() {
            queries.extend(senders(context).iter().cloned());
        }
    }
    queries
}

/// Returns the identity queries that copies and texts of a message need, each once.
pub fn all_queries(context: &Context<'_>, settings: &Settings) -> Vec<IdentityQuery> {
    let mut all = context.queries();
    all.extend(queries(context, settings));
    all.sort_unstable();
    all.dedup();
    all
}

/// Returns the classes of recipients, at least one if there is a recipient. `people` holds the
/// answers to [`all_queries`].
pub fn classes(
    context: &Context<'_>,
    people: &IdentityAnswers,
    settings: &Settings,
) -> Result<Vec<RecipientClass>, TextSelectionError> {
    let senders = senders(context);
    let lookups = Lookups { people, settings };
    let mut classes: Vec<RecipientClass> = Vec::new();
    for (index, (recipient, direction)) in context.recipients().enumerate() {
        let recipient = policy::recipient_query(recipient);
        let texts = settings.of(direction);
        let texts =
            match texts.is_set() && !lookups.is_any_exempt(senders.iter().chain([&recipient]))? {
                true => fill_texts(texts, direction, &lookups, senders)?,
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

/// Returns the queries for the sender; none for an external sender, whose reverse path may be
/// forged: it must neither bring a person's attributes into a text nor keep the text out.
fn senders<'c>(context: &'c Context<'_>) -> &'c [IdentityQuery] {
    match context.client.from_us {
        true => &context.senders,
        false => &[],
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
