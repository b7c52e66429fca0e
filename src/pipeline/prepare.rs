//! Preparation of one message: edits its versions and composes its reports and copies.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use super::{Changes, LARGE, LARGE_WITH_TEXT};
use crate::journal::{ComposeError, Composer, Item, ItemId, inert, is_ours};
use crate::mail::{Content, Envelope, Message, Reply};
use crate::policy::{Format, JournalWhat, Plan};
use crate::spool::Submission;
use crate::text::{self, RecipientClass, SignedPolicy, Version};

/// Input of the preparation.
#[derive(Clone)]
pub(super) struct Draft {
    /// Composes the items.
    pub composer: Composer,
    /// The envelope.
    pub envelope: Envelope,
    /// The message as received.
    pub message: Message,
    /// The journaling plan.
    pub plan: Plan,
    /// The texts of each class of recipients; empty if there are none.
    pub classes: Vec<RecipientClass>,
    /// Whether Copyist's own fields are removed from the delivered message.
    pub strips: bool,
    /// Handling of signed messages.
    pub signed: SignedPolicy,
    /// The time of the reports.
    pub now: SystemTime,
}

/// A prepared message.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// The items, to be committed before the message is delivered.
    pub submissions: Vec<Submission>,
    /// The changes to the message.
    pub changes: Changes,
    /// The versions of the message, the first of which is delivered as the message itself; empty if
    /// there are no texts.
    pub versions: Vec<Version>,
    /// The versions for the moved recipients.
    pub separate_versions: Vec<SeparateVersion>,
    /// The rejection of a looping message, which is journaled all the same.
    pub rejection: Option<Reply>,
}

/// A version that some recipients get instead of the message itself.
#[derive(Debug, Clone)]
pub struct SeparateVersion {
    /// The indices of these recipients.
    pub recipients: Vec<usize>,
    /// Their message.
    pub message: Message,
    /// The items that carry it.
    pub items: Vec<ItemId>,
}

/// Failure of the preparation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PrepareError {
    /// An item cannot be composed.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// The stored message cannot be read for editing.
    #[error("cannot read the stored message: {0}")]
    Unreadable(String),
    /// The edit panicked: a bug, reported by the panic message.
    #[error("adding the text failed")]
    Edit,
    /// The blocking thread ended early: the process is shutting down, or it panicked.
    #[error("composing the report was interrupted")]
    Interrupted,
}

impl Prepared {
    /// Returns a message without items.
    pub(super) fn without_items(strips: bool) -> Prepared {
        let mut prepared = Prepared::default();
        prepared.changes.strips = strips;
        prepared
    }
}

impl Draft {
    /// Prepares the message.
    fn prepare(&self) -> Result<Prepared, PrepareError> {
        let classes = self.classes.clone();
        if classes.iter().all(|class| class.texts.is_empty()) {
            return Ok(Prepared {
                submissions: self.received(&[])?,
                ..Prepared::without_items(self.strips)
            });
        }
        // An edit needs the whole message at once.
        let whole = self.message.content().read();
        let whole = whole.map_err(|cause| PrepareError::Unreadable(cause.to_string()))?;
        let whole = match self.strips {
            true => stripped(&self.message, &whole),
            false => whole,
        };
        let header = self.message.known_header();
        let header = header.map(|header| header + whole.len() - self.message.len());
        let versions = self.versions(&whole, header, classes)?;
        let mut prepared = Prepared {
            submissions: self.received(&versions)?,
            ..Prepared::without_items(self.strips)
        };
        for (number, version) in versions.iter().enumerate() {
            let own = self.delivered(number, &versions);
            if version.splices.is_empty() && number == 0 && own.copies.is_empty() {
                continue;
            }
            let message = self.edited(&whole, header, version);
            for Submission { original, items } in self.compose(&message, &own)? {
                prepared.add_items(&original, items);
            }
            if number > 0 {
                let recipients = version.recipients.iter();
                let recipients: Vec<_> = recipients
                    .filter_map(|&place| self.envelope.recipients.get(place).cloned())
                    .collect();
                let direction = version.direction;
                let items = self.composer.version(
                    &self.envelope,
                    &message,
                    &recipients,
                    direction,
                    self.now,
                )?;
                prepared.changes.moved.extend(&version.recipients);
                prepared.separate_versions.push(SeparateVersion {
                    recipients: version.recipients.clone(),
                    message: message.clone(),
                    items: items.iter().map(|item| item.id.clone()).collect(),
                });
                prepared.add_items(message.content(), items);
            }
            if number == 0 && !version.splices.is_empty() {
                prepared.changes.edited = Some(message);
            }
        }
        prepared.versions = versions;
        Ok(prepared)
    }

    /// Edits all versions. Catches a panic, so that a message that breaks the editor does not break
    /// its journal copy or stop the mail.
    fn versions(
        &self,
        whole: &[u8],
        header: Option<usize>,
        classes: Vec<RecipientClass>,
    ) -> Result<Vec<Version>, PrepareError> {
        let edit = || text::versions(whole, header, classes, self.signed);
        catch_unwind(AssertUnwindSafe(edit)).map_err(|_| PrepareError::Edit)
    }

    /// Composes the items that carry the message as received: all of them, if there are no
    /// versions.
    fn received(&self, versions: &[Version]) -> Result<Vec<Submission>, PrepareError> {
        let mut plan = self.plan.clone();
        if !versions.is_empty() {
            plan.copies
                .retain(|copy| copy.what == JournalWhat::Received);
        }
        self.compose(&self.message, &plan)
    }

    /// Composes the items of a plan. Plain copies carry the message without header fields that MTAs
    /// act on.
    fn compose(&self, message: &Message, plan: &Plan) -> Result<Vec<Submission>, PrepareError> {
        let (copies, others): (Vec<_>, Vec<_>) =
            (plan.copies.iter().cloned()).partition(|copy| copy.format == Format::Copy);
        let for_copies = match copies.is_empty() {
            true => None,
            false => inert(message),
        };
        let mut submissions = Vec::new();
        let mut add = |message: &Message, plan: &Plan| -> Result<(), PrepareError> {
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
        part.invalid_targets.clear();
        add(&for_copies, &part)?;
        Ok(submissions)
    }

    /// Returns the part of the plan whose copies carry this version: copies of delivered mail, each
    /// in exactly one version, that of the first recipient of its direction.
    fn delivered(&self, number: usize, versions: &[Version]) -> Plan {
        let mut plan = self.plan.clone();
        plan.invalid_targets.clear();
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

impl Prepared {
    /// Adds items that carry this message, which is stored once.
    fn add_items(&mut self, original: &Content, items: Vec<Item>) {
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

/// Prepares a message; on a blocking thread if it is large.
pub(super) async fn run(draft: &Arc<Draft>) -> Result<Prepared, PrepareError> {
    let limit = match draft.classes.is_empty() {
        true => LARGE,
        false => LARGE_WITH_TEXT,
    };
    let is_idle = draft.plan.is_empty() && draft.classes.is_empty();
    if draft.message.len() <= limit || is_idle {
        return draft.prepare();
    }
    let draft = draft.clone();
    let preparing = tokio::task::spawn_blocking(move || draft.prepare());
    preparing.await.unwrap_or(Err(PrepareError::Interrupted))
}

/// Removes Copyist's own fields from a message.
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
