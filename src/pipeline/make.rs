//! Everything that is written for one message: its versions, reports and copies. Pure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use super::Changes;
use crate::journal::{ComposeError, Composer, Item, ItemId, inert, is_ours};
use crate::mail::{Content, Envelope, Message};
use crate::policy::{Format, JournalWhat, Plan};
use crate::spool::Submission;
use crate::text::{self, RecipientClass, SignedPolicy, Version};

/// What is to be made.
#[derive(Clone)]
pub(super) struct Make {
    /// Writes reports.
    pub composer: Composer,
    /// Who the message is from and for.
    pub envelope: Envelope,
    /// The message as it was received.
    pub message: Message,
    /// Who gets copies.
    pub plan: Plan,
    /// Who is owed which texts; empty where nobody is owed any.
    pub classes: Vec<RecipientClass>,
    /// Whether what goes on loses the fields that only we may write.
    pub strips: bool,
    /// What becomes of signed messages.
    pub signed: SignedPolicy,
    /// The time of the reports.
    pub now: SystemTime,
}

/// What was made.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// What is owed, to be committed before anything goes on.
    pub submissions: Vec<Submission>,
    /// What changes about the message that goes on.
    pub changes: Changes,
    /// The versions of the message; the first is the one that stays. Empty where no texts are owed.
    pub versions: Vec<Version>,
    /// Those that others get.
    pub others: Vec<Other>,
}

/// A version that some recipients get, and not the message as it stays.
#[derive(Debug, Clone)]
pub struct Other {
    /// They, by their place in the envelope.
    pub recipients: Vec<usize>,
    /// What they get.
    pub message: Message,
    /// The items that owe it to them.
    pub items: Vec<ItemId>,
}

/// Why nothing was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MakeError {
    /// A report cannot be written.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// The message was stored, and cannot be read again to put a text in.
    #[error("the message cannot be read again: {0}")]
    Unreadable(String),
    /// Putting a text in panicked: a fault of ours, told by the panic's own message.
    #[error("putting the text in failed")]
    Edit,
    /// The thread that made it ended early: the process is shutting down, or it panicked.
    #[error("writing the report was interrupted")]
    Interrupted,
}

impl Make {
    /// Makes it.
    pub(super) fn run(&self) -> Result<Made, MakeError> {
        let classes = self.classes.clone();
        if classes.iter().all(|class| class.texts.is_empty()) {
            let mut made = Made {
                submissions: self.received(&[])?,
                ..Made::default()
            };
            made.changes.strips = self.strips;
            return Ok(made);
        }
        // To put a text in takes all of the message at once.
        let whole = self.message.content().read();
        let whole = whole.map_err(|cause| MakeError::Unreadable(cause.to_string()))?;
        let whole = match self.strips {
            true => stripped(&self.message, &whole),
            false => whole,
        };
        let header = self.message.known_header();
        let header = header.map(|header| header + whole.len() - self.message.len());
        let versions = self.versions(&whole, header, classes)?;
        let mut made = Made {
            submissions: self.received(&versions)?,
            ..Made::default()
        };
        for (number, version) in versions.iter().enumerate() {
            let own = self.delivered(number, &versions);
            if version.splices.is_empty() && number == 0 && own.copies.is_empty() {
                continue;
            }
            let message = self.edited(&whole, header, version);
            for Submission { original, items } in self.compose(&message, &own)? {
                made.owe(&original, items);
            }
            if number > 0 {
                let recipients = version.recipients.iter();
                let recipients: Vec<_> = recipients
                    .filter_map(|&place| self.envelope.recipients.get(place).cloned())
                    .collect();
                let direction = version.direction;
                let owed = self.composer.version(
                    &self.envelope,
                    &message,
                    &recipients,
                    direction,
                    self.now,
                )?;
                made.changes.moved.extend(&version.recipients);
                made.others.push(Other {
                    recipients: version.recipients.clone(),
                    message: message.clone(),
                    items: owed.iter().map(|item| item.id.clone()).collect(),
                });
                made.owe(message.content(), owed);
            }
            if number == 0 && !version.splices.is_empty() {
                made.changes.edited = Some(message);
            }
        }
        made.versions = versions;
        made.changes.strips = self.strips;
        Ok(made)
    }

    /// A message that makes the edit stumble must not make its journal copy stumble, nor stop the
    /// mail.
    fn versions(
        &self,
        whole: &[u8],
        header: Option<usize>,
        classes: Vec<RecipientClass>,
    ) -> Result<Vec<Version>, MakeError> {
        let edit = || text::versions(whole, header, classes, self.signed);
        catch_unwind(AssertUnwindSafe(edit)).map_err(|_| MakeError::Edit)
    }

    /// What holds the message as it was received: everything, where nobody gets anything else.
    fn received(&self, versions: &[Version]) -> Result<Vec<Submission>, MakeError> {
        let mut plan = self.plan.clone();
        if !versions.is_empty() {
            plan.copies
                .retain(|copy| copy.what == JournalWhat::Received);
        }
        self.compose(&self.message, &plan)
    }

    /// What a plan owes with this message. Plain copies carry it without orders to the relay.
    fn compose(&self, message: &Message, plan: &Plan) -> Result<Vec<Submission>, MakeError> {
        let (copies, others): (Vec<_>, Vec<_>) =
            (plan.copies.iter().cloned()).partition(|copy| copy.format == Format::Copy);
        let for_copies = match copies.is_empty() {
            true => None,
            false => inert(message),
        };
        let mut submissions = Vec::new();
        let mut add = |message: &Message, plan: &Plan| -> Result<(), MakeError> {
            let items = (self.composer).compose(&self.envelope, message, plan, self.now)?;
            if !items.is_empty() {
                let original = message.content().clone();
                submissions.push(Submission { original, items });
            }
            Ok(())
        };
        let Some(for_copies) = for_copies else {
            add(message, plan)?;
            return Ok(submissions);
        };
        let mut part = plan.clone();
        part.copies = others;
        add(message, &part)?;
        part.copies = copies;
        part.troubles.clear();
        add(&for_copies, &part)?;
        Ok(submissions)
    }

    /// The part of the plan whose copies hold this version: those of what is delivered, each in the
    /// version that the first recipient of its direction gets, and in one only.
    fn delivered(&self, number: usize, versions: &[Version]) -> Plan {
        let mut plan = self.plan.clone();
        plan.troubles.clear();
        plan.copies.retain(|copy| {
            let directions = self.plan.directions.iter();
            let place = directions
                .clone()
                .position(|(_, direction)| *direction == copy.direction);
            let of = versions
                .iter()
                .position(|version| place.is_some_and(|place| version.recipients.contains(&place)));
            copy.what == JournalWhat::Delivered && of.unwrap_or(0) == number
        });
        plan
    }

    fn edited(&self, whole: &[u8], header: Option<usize>, version: &Version) -> Message {
        if version.splices.is_empty() {
            return self.message.clone();
        }
        let edited = Bytes::from(text::apply(whole, &version.splices));
        match header {
            Some(header) => {
                Message::with_header(edited, text::edited_header_size(header, &version.splices))
            }
            None => Message::new(edited),
        }
    }
}

impl Made {
    /// Adds what is owed with this message; the same message is kept once.
    fn owe(&mut self, original: &Content, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let mut known = self.submissions.iter_mut();
        match known.find(|submission| submission.original.is_same(original)) {
            Some(submission) => submission.items.extend(items),
            None => self.submissions.push(Submission {
                original: original.clone(),
                items,
            }),
        }
    }
}

/// A message without the fields that only we may write.
fn stripped(message: &Message, whole: &Bytes) -> Bytes {
    let mut kept = BytesMut::with_capacity(whole.len());
    let mut from = 0;
    for field in message.fields().filter(|field| is_ours(field.name)) {
        kept.extend_from_slice(&whole[from..field.range.start]);
        from = field.range.end;
    }
    kept.extend_from_slice(&whole[from..]);
    kept.freeze()
}
