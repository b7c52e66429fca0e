//! The journey of one message: directory, plan, report, spool, verdict.
//!
//! Promises: [`Pipeline::process`] says "accept" only when everything owed for the message is durable, or
//! when nothing is owed. Everything it cannot decide or keep is answered 4xx, so that the MTA keeps the
//! message (RFC 5321 section 4.2.1). Refuses for good (5xx) only what is addressed to a guarded mailbox.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use metrics::counter;
use tracing::{info, warn};

use crate::directory::{Directory, Lookup};
use crate::journal::{ComposeError, Composer, Item, Sealed};
use crate::mail::{Address, Enhanced, Envelope, Message, Reply};
use crate::policy::{self, Admission, Plan, Rules};
use crate::spool::Spool;

/// Messages above this are composed off the threads that serve other sessions: two passes over the bytes
/// (transfer encoding, digest) take about a millisecond for each megabyte.
const COMPOSED_APART: usize = 1024 * 1024;

/// Everything one message needs, of one generation of settings. A session keeps the one it started with.
pub struct Pipeline {
    /// Who people are.
    pub directory: Directory,
    /// What the administrator decided.
    pub rules: Arc<Rules>,
    /// Writes reports.
    pub composer: Composer,
    /// Keeps them.
    pub spool: Spool,
}

/// What the MTA is told about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It is refused or deferred with this reply.
    Refuse(Reply),
}

impl Pipeline {
    /// Whether a recipient is welcome, before the message is there: the journal guard.
    pub async fn admit(&self, so_far: &Envelope, recipient: &Address) -> Result<Admission, Reply> {
        let ours = policy::sender_is_ours(so_far, &self.rules);
        let sender = so_far.sender.as_ref();
        let mut admission = policy::admission(ours, sender, recipient, &self.rules);
        if admission == Admission::AskDirectory {
            let configured = policy::configured_objects(&self.rules);
            let answer = self.directory.is_journal_address(recipient, &configured);
            admission = match answer.await {
                Lookup::Found(()) => policy::guarded(sender, recipient, &self.rules),
                Lookup::Absent => Admission::Free,
                Lookup::Unavailable(outage) => {
                    warn!(queue_id = so_far.queue_id, %recipient, %outage, "recipient deferred");
                    return Err(defer_for_directory());
                }
            };
        }
        if admission == Admission::Refused {
            counter!("copyist_guard_refusals_total").increment(1);
            info!(queue_id = so_far.queue_id, %recipient, client = ?so_far.client.ip, "refused: a guarded mailbox");
            return Err(unknown_user(recipient));
        }
        Ok(admission)
    }

    /// Carries one message through. `provisional` are those recipients that [`Pipeline::admit`] left to be
    /// decided by the message.
    pub async fn process(
        &self,
        envelope: &Envelope,
        message: &Message,
        provisional: &[Address],
        now: SystemTime,
    ) -> Verdict {
        let started = Instant::now();
        if self.is_own(envelope, message) {
            return Verdict::Accept;
        }
        if let Some(guarded) = provisional.first()
            && !self.is_bounce_of_ours(envelope, message)
        {
            counter!("copyist_guard_refusals_total").increment(1);
            info!(queue_id = envelope.queue_id, recipient = %guarded, "refused: a guarded mailbox, and no report of ours");
            return Verdict::Refuse(unknown_user(guarded));
        }
        let people = self
            .directory
            .find(&policy::questions(envelope, &self.rules))
            .await;
        let targets = policy::targets(envelope, &people, &self.rules);
        let resolved = self.directory.resolve(&targets).await;
        let plan = match policy::plan(envelope, &people, &resolved, &self.rules) {
            Ok(plan) => plan,
            Err(undecided) => {
                counter!("copyist_messages_deferred_total", "why" => "directory").increment(1);
                warn!(queue_id = envelope.queue_id, "deferred: {undecided}");
                return Verdict::Refuse(defer_for_directory());
            }
        };
        for subject in &plan.overlooked {
            counter!("copyist_messages_overlooked_total").increment(1);
            warn!(
                queue_id = envelope.queue_id, %subject,
                "not looked up: the directory is down and directory.on_directory_failure is \"accept\""
            );
        }
        for (person, object) in &plan.exempt {
            counter!("copyist_messages_exempt_total").increment(1);
            info!(queue_id = envelope.queue_id, %person, dn = object, "exempt from journaling");
        }
        let items = match self.compose(envelope, message, plan, now).await {
            Ok((items, plan)) => {
                count(&plan, !items.is_empty());
                items
            }
            Err(error) => {
                counter!("copyist_messages_deferred_total", "why" => "compose").increment(1);
                warn!(queue_id = envelope.queue_id, "deferred: {error}");
                return Verdict::Refuse(Reply::new(
                    451,
                    Enhanced(4, 3, 0),
                    "Journal report cannot be made, try again",
                ));
            }
        };
        if items.is_empty() {
            return Verdict::Accept;
        }
        let ids: Vec<String> = items.iter().map(|item| item.id.to_string()).collect();
        let targets: Vec<String> = items
            .iter()
            .flat_map(|item| item.targets.iter().map(ToString::to_string))
            .collect();
        // The one place where a message that must be journaled is let go: after the commit, never before.
        match self
            .spool
            .commit(message.bytes().clone(), &envelope.queue_id, now, items)
            .await
        {
            Ok(()) => {
                info!(
                    queue_id = envelope.queue_id,
                    items = ids.join(","),
                    to = targets.join(","),
                    size = message.bytes().len(),
                    ms = started.elapsed().as_millis() as u64,
                    "journaled"
                );
                Verdict::Accept
            }
            Err(error) => {
                counter!("copyist_messages_deferred_total", "why" => "spool").increment(1);
                warn!(queue_id = envelope.queue_id, "deferred: {error}");
                Verdict::Refuse(error.reply())
            }
        }
    }

    /// Whether the message is a report of ours on its way to the journal mailbox. Journaling it again would
    /// never end.
    fn is_own(&self, envelope: &Envelope, message: &Message) -> bool {
        match self.composer.judge(message, envelope.recipient_addresses()) {
            Sealed::Whole(item) => {
                info!(queue_id = envelope.queue_id, %item, "our own report passes");
                true
            }
            Sealed::Altered(item) if policy::sender_is_ours(envelope, &self.rules) => {
                counter!("copyist_reports_altered_total").increment(1);
                warn!(queue_id = envelope.queue_id, %item, "our own report passes, but an MTA changed its body");
                true
            }
            Sealed::Altered(_) | Sealed::No => false,
        }
    }

    fn is_bounce_of_ours(&self, envelope: &Envelope, message: &Message) -> bool {
        let bounced = envelope
            .sender
            .is_none()
            .then(|| self.composer.bounced_item(message))
            .flatten();
        if let Some(item) = &bounced {
            counter!("copyist_bounces_total").increment(1);
            warn!(queue_id = envelope.queue_id, %item, "a report of ours came back");
        }
        bounced.is_some()
    }

    async fn compose(
        &self,
        envelope: &Envelope,
        message: &Message,
        plan: Plan,
        now: SystemTime,
    ) -> Result<(Vec<Item>, Plan), ComposeError> {
        if message.bytes().len() <= COMPOSED_APART || plan.is_empty() {
            return Ok((self.composer.compose(envelope, message, &plan, now)?, plan));
        }
        let (composer, envelope, message) =
            (self.composer.clone(), envelope.clone(), message.clone());
        let apart = tokio::task::spawn_blocking(move || {
            composer
                .compose(&envelope, &message, &plan, now)
                .map(|items| (items, plan))
        });
        apart.await.unwrap_or(Err(ComposeError::Interrupted))
    }
}

fn count(plan: &Plan, journaled: bool) {
    for direction in plan.distinct_directions() {
        let journaled = if journaled { "yes" } else { "no" };
        counter!("copyist_messages_total", "direction" => direction.name(), "journaled" => journaled).increment(1);
    }
}

/// Looks like an unknown user on purpose: nobody outside learns which mailboxes are guarded.
fn unknown_user(recipient: &Address) -> Reply {
    Reply::new(
        550,
        Enhanced(5, 1, 1),
        format!("<{recipient}>: Recipient address rejected: User unknown"),
    )
}

/// X.4.3 is "directory server failure" (RFC 3463 section 3.5).
fn defer_for_directory() -> Reply {
    Reply::new(451, Enhanced(4, 4, 3), "Directory unavailable, try again")
}
