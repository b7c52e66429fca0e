//! The processing of one message: directory, plan, texts, items, spool, reply.
//!
//! Promises: [`Pipeline::process`] accepts a message only when every item for it is durable, or
//! when it needs none. A message that cannot be decided or made durable is deferred with 4xx, so
//! that the MTA keeps it (RFC 5321 section 4.2.1). Only mail to guarded mailboxes and mail loops are
//! rejected for good (5xx). [`Pipeline::offer`] is the same for a hook that transfers the message
//! itself, and so learns the next hop's reply.

mod memory_budget;
mod own_mail;
mod prepare;
mod recipient_checks;
mod unidentified_clients;

use std::sync::{Arc, Once};
use std::time::{Duration, Instant, SystemTime};

use metrics::counter;
use tokio::time::Instant as Deadline;
use tracing::{info, warn};

use crate::directory::Outage;
use crate::error::chain;
use crate::identity::{GuardStatus, GuardedMailboxes, Identities, IdentityAnswers, SharedGuard};
use crate::journal::{Composer, is_ours};
use crate::mail::{Address, Content, Enhanced, Envelope, Message, Reply};
use crate::policy::{self, Admission, ClientTrust, Context, Plan, PlanBuilder, Rules};
use crate::spool::{CommitError, Reservation, Spool, Submission};
use crate::text::{self, OnFailure, RecipientClass, TextSelectionError};

pub use memory_budget::{MemoryBudget, MemoryReservation};
use own_mail::Notice;
pub use prepare::SeparateVersion;
use prepare::{Draft, PrepareError, Prepared};
pub use recipient_checks::{RECIPIENT_WAIT, RecipientChecks};
pub use unidentified_clients::UnidentifiedClients;

/// Messages above this size, in bytes, are prepared on a blocking thread: passes over the bytes
/// (structure, transfer encoding, digest) take about a millisecond per megabyte.
const LARGE: usize = 1024 * 1024;

/// As [`LARGE`], for messages that get texts: parsing HTML may take fifty times as long.
const LARGE_WITH_TEXT: usize = 64 * 1024;

/// Longest wait of a recipient for the first set of guarded mailboxes, after a start without the
/// set of the last run.
const GUARD_WAIT: Duration = Duration::from_secs(10);

/// Memory that adding a text takes at worst, as a multiple of the message
/// (`benches/text_hostile.rs`).
const EDIT_FACTOR: usize = 5;

/// Everything that processing needs, with one generation of settings. A session keeps the pipeline
/// that a message began with.
pub struct Pipeline {
    /// The parts that outlive a reload.
    pub services: Services,
    /// The parts that a reload replaces.
    pub ruleset: Ruleset,
}

/// The parts of a pipeline that live as long as the process. Clones share them.
#[derive(Clone)]
pub struct Services {
    /// The spool.
    pub spool: Spool,
    /// Memory for all messages in progress.
    pub memory: MemoryBudget,
    /// Journal and NDR mailboxes that external clients may not write to.
    pub guarded: SharedGuard,
    /// Clients whose senders are not in the directory.
    pub unidentified: UnidentifiedClients,
}

/// The parts of a pipeline that a reload replaces.
pub struct Ruleset {
    /// Address and identity lookups, in the configured directory.
    pub identities: Identities,
    /// The journaling rules.
    pub rules: Arc<Rules>,
    /// The disclaimer texts.
    pub text: Arc<text::Settings>,
    /// Composes reports, copies and NDRs.
    pub composer: Composer,
}

/// The changes to a message that is delivered. A hook makes all of them or none: items for the
/// moved recipients are in the spool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The message with its texts; `None` if it stays as received.
    pub edited: Option<Message>,
    /// Indices of the recipients that get a separate version from the spool, and so must not get
    /// this one.
    pub moved: Vec<usize>,
    /// Whether all of Copyist's own header fields are removed.
    pub strips: bool,
}

/// A message for the next hop, and the reservation of its items.
#[must_use = "a reservation must be confirmed or cancelled"]
pub struct Handover {
    /// The changes to the message; moved recipients get a separate version.
    pub changes: Changes,
    /// The separate versions.
    pub versions: Vec<SeparateVersion>,
    /// The items, reserved until the next hop has replied; `None` if there are none.
    pub reservation: Option<Reservation>,
}

/// The changes to a message that a hook supports.
pub trait ChangeSupport: Send + Sync {
    /// Checks whether the hook can make these changes; `Err` names the obstacle.
    fn check(&self, message: &Message, changes: &Changes) -> Result<(), String>;
}

/// Support for all changes, for a hook that sends the message itself.
struct AllChanges;

impl ChangeSupport for AllChanges {
    fn check(&self, _: &Message, _: &Changes) -> Result<(), String> {
        Ok(())
    }
}

/// One message as a hook hands it over.
struct Job<'a> {
    envelope: &'a Envelope,
    message: &'a Message,
    checks: &'a RecipientChecks,
    support: &'a dyn ChangeSupport,
    /// The time of its reports.
    now: SystemTime,
    started: Instant,
}

impl Pipeline {
    /// Returns the recipient checks of a new message.
    pub fn begin(&self) -> RecipientChecks {
        RecipientChecks::new(self.ruleset.identities.directory())
    }

    /// Applies the journal guard to one RCPT TO. `envelope` needs no recipients; `resolved` is the
    /// address as the MTA resolves it, if that differs.
    pub async fn check_recipient(
        &self,
        envelope: &Envelope,
        recipient: &Address,
        resolved: Option<&Address>,
        checks: &mut RecipientChecks,
    ) -> Result<Admission, Reply> {
        let Ruleset {
            identities, rules, ..
        } = &self.ruleset;
        let (client, sender) = (ClientTrust::of(envelope, rules), envelope.sender.as_ref());
        if !policy::is_guarding(client, sender, rules) {
            return Ok(Admission::Allowed);
        }
        let guarded = &self.services.guarded;
        let status = guard_status(identities, guarded, rules, recipient, resolved);
        let status = checks.wait(status).await;
        let late = || GuardStatus::Unknown(identities.directory().deadline_outage());
        let mailbox = match status.unwrap_or_else(late) {
            GuardStatus::NotGuarded => return Ok(Admission::Allowed),
            GuardStatus::Guarded(mailbox) => mailbox,
            GuardStatus::Unknown(outage) => {
                warn!(queue_id = envelope.queue_id, %recipient, %outage, "recipient deferred");
                return Err(defer_for_directory());
            }
        };
        let admission = policy::admission(client, sender, recipient, rules);
        if admission == Admission::Rejected {
            counter!("copyist_guard_refusals_total").increment(1);
            info!(queue_id = envelope.queue_id, %recipient, mailbox, client = %envelope.client, "rejected: guarded mailbox");
            return Err(unknown_user(recipient));
        }
        Ok(admission)
    }

    /// Processes a message that the MTA delivers: returns its changes once all items are durable,
    /// or the reply that rejects or defers it.
    pub async fn process(
        &self,
        envelope: &Envelope,
        message: &Message,
        checks: &RecipientChecks,
        support: &dyn ChangeSupport,
        now: SystemTime,
    ) -> Result<Changes, Reply> {
        let job = Job::new(envelope, message, checks, support, now);
        let prepared = self.prepare(&job).await?;
        self.commit(&job, prepared.submissions).await?;
        match prepared.rejection {
            None => Ok(prepared.changes),
            Some(rejection) => Err(rejection),
        }
    }

    /// Processes a message that the hook transfers itself: its items are durable when this returns,
    /// and reserved until the hook reports the next hop's reply.
    pub async fn offer(
        &self,
        envelope: &Envelope,
        message: &Message,
        checks: &RecipientChecks,
        now: SystemTime,
    ) -> Result<Handover, Reply> {
        let job = Job::new(envelope, message, checks, &AllChanges, now);
        let prepared = self.prepare(&job).await?;
        if let Some(rejection) = prepared.rejection {
            self.commit(&job, prepared.submissions).await?;
            return Err(rejection);
        }
        Ok(Handover {
            reservation: self.reserve(&job, prepared.submissions).await?,
            changes: prepared.changes,
            versions: prepared.separate_versions,
        })
    }

    /// Does everything short of making the items durable.
    async fn prepare(&self, job: &Job<'_>) -> Result<Prepared, Reply> {
        let excess_hops = self.excess_hops(job);
        let context = Context::new(job.envelope, &self.ruleset.rules);
        if self.is_own_mail(job, &context).await? {
            // A report: its message is journaled already, so a looping one is not journaled again.
            return match excess_hops {
                Some(hops) => Err(reject_loop(job, hops)),
                None => Ok(Prepared::default()),
            };
        }
        let notice = self.record_notice(job).await?;
        self.check_provisional(job, notice)?;
        if notice == Notice::GuardedOnly {
            return Ok(Prepared::without_items(self.strips(job, &context)));
        }
        let deadline = job.checks.deadline();
        let (context, answers) = self.look_up_people(job, context, deadline).await;
        let plan = self.plan(&context, &answers, deadline).await?;
        let classes = match excess_hops {
            None => self.select_texts(&context, &answers)?,
            Some(_) => Vec::new(),
        };
        let _memory = self.reserve_edit_memory(job, &classes).await?;
        let strips = self.strips(job, &context);
        let prepared = self.compose(job, &context, plan, classes, strips).await?;
        // A looping message is journaled once, then rejected: its client does not send it again.
        Ok(Prepared {
            rejection: excess_hops.map(|hops| reject_loop(job, hops)),
            ..prepared
        })
    }

    /// Returns the number of Received fields, if it exceeds the limit.
    fn excess_hops(&self, job: &Job<'_>) -> Option<usize> {
        // A plain copy keeps the older ones under another name (journal::inert).
        let names = ["Received", "X-Copyist-Original-Received"];
        let fields = names.iter().map(|name| job.message.fields_named(name));
        let hops: usize = fields.map(Iterator::count).sum();
        let limit = self.ruleset.rules.hop_limit?;
        (hops > limit).then_some(hops)
    }

    /// Rejects a message to a guarded mailbox that only a report or a bounce may be sent to.
    fn check_provisional(&self, job: &Job<'_>, notice: Notice) -> Result<(), Reply> {
        let is_bounce = notice != Notice::None && job.envelope.sender.is_none();
        match job.checks.provisional.first() {
            Some(recipient) if !is_bounce => {
                counter!("copyist_guard_refusals_total").increment(1);
                info!(queue_id = job.envelope.queue_id, %recipient, "rejected: guarded mailbox, and not a report of Copyist");
                Err(unknown_user(recipient))
            }
            _ => Ok(()),
        }
    }

    /// Whether Copyist's own fields are removed from an external message, where they prove nothing.
    /// Internal senders may have them: a forwarded report keeps its fields.
    fn strips(&self, job: &Job<'_>, context: &Context<'_>) -> bool {
        let has_foreign_fields =
            !context.client.from_us && job.message.fields().any(|field| is_ours(field.name));
        if !has_foreign_fields {
            return false;
        }
        let stripped = Changes {
            strips: true,
            ..Changes::default()
        };
        match job.support.check(job.message, &stripped) {
            Ok(()) => {
                counter!("copyist_messages_stripped_total").increment(1);
                let queue_id = &job.envelope.queue_id;
                info!(queue_id, "external X-Copyist fields removed");
                true
            }
            Err(obstacle) => {
                static WARNED: Once = Once::new();
                WARNED.call_once(|| warn!("cannot remove external X-Copyist fields: {obstacle}"));
                false
            }
        }
    }

    /// Looks up all people that plan and texts need, in one batch; and the authors in the message
    /// header, if a trusted client sends with a reverse path that is no person of the organization.
    async fn look_up_people<'e>(
        &self,
        job: &Job<'_>,
        context: Context<'e>,
        deadline: Deadline,
    ) -> (Context<'e>, IdentityAnswers) {
        let Ruleset {
            identities, text, ..
        } = &self.ruleset;
        let queries = text::all_queries(&context, text);
        let answers = identities.find(&queries, deadline).await;
        if !context.needs_authors(&answers) {
            return (context, answers);
        }
        let context = context.with_authors(job.message.authors());
        let queries = text::all_queries(&context, text);
        let answers = identities.find(&queries, deadline).await;
        (context, answers)
    }

    async fn plan(
        &self,
        context: &Context<'_>,
        answers: &IdentityAnswers,
        deadline: Deadline,
    ) -> Result<Plan, Reply> {
        let builder = PlanBuilder::new(context, answers);
        let directory = self.ruleset.identities.directory();
        let resolved = directory.resolve_before(&builder.targets(), deadline).await;
        let envelope = context.envelope();
        let queue_id = &envelope.queue_id;
        let plan = builder.build(&resolved).map_err(|plan_error| {
            counter!("copyist_messages_deferred_total", "why" => "directory").increment(1);
            warn!(queue_id, "deferred: {plan_error}");
            defer_for_directory()
        })?;
        for subject in &plan.skipped_lookups {
            counter!("copyist_messages_overlooked_total").increment(1);
            warn!(
                queue_id, %subject,
                "not looked up: the directory is down and directory.on_failure is \"accept\""
            );
        }
        for target in &plan.outside_targets {
            counter!("copyist_journal_targets_elsewhere_total").increment(1);
            warn!(
                queue_id,
                "no copy sent outside directory.journal_domains: {target}"
            );
        }
        if plan.is_unidentified {
            counter!("copyist_messages_unidentified_total").increment(1);
            let unidentified = &self.services.unidentified;
            unidentified.warn_once(&envelope.client, || {
                warn!(
                    queue_id, sender = envelope.sender.as_ref().map(tracing::field::display),
                    client = %envelope.client,
                    "sender not found in the directory by reverse path, user name or author; no copy is made for the sender"
                );
            });
        }
        for (person, object) in &plan.exempt {
            counter!("copyist_messages_exempt_total").increment(1);
            info!(queue_id, %person, dn = object, "exempt from journaling");
        }
        Ok(plan)
    }

    /// Selects the texts of each class of recipients; none if they cannot be selected and the
    /// message may pass without.
    fn select_texts(
        &self,
        context: &Context<'_>,
        answers: &IdentityAnswers,
    ) -> Result<Vec<RecipientClass>, Reply> {
        let settings = &self.ruleset.text;
        if settings.is_empty() {
            return Ok(Vec::new());
        }
        text::classes(context, answers, settings).or_else(|error| {
            let why = match error {
                TextSelectionError::Person { .. } => "directory",
                TextSelectionError::Template { .. } => "template",
            };
            self.skip_texts(context.envelope(), why, &error.to_string())?;
            Ok(Vec::new())
        })
    }

    /// Reserves memory for adding a text to a message that is stored on disk: for the whole
    /// message, the result and what is needed in between.
    async fn reserve_edit_memory(
        &self,
        job: &Job<'_>,
        classes: &[RecipientClass],
    ) -> Result<Option<MemoryReservation>, Reply> {
        let is_stored = matches!(job.message.content(), Content::Stored { .. });
        if !is_stored || classes.iter().all(|class| class.texts.is_empty()) {
            return Ok(None);
        }
        let bytes = job.message.len().saturating_mul(EDIT_FACTOR);
        match self.services.memory.reserve(bytes).await {
            Some(reservation) => Ok(Some(reservation)),
            None => {
                counter!("copyist_messages_deferred_total", "why" => "memory").increment(1);
                Err(defer("Insufficient memory for the text, try again"))
            }
        }
    }

    /// Edits the message and composes its items; without texts if they cannot be added and the
    /// message may pass without.
    async fn compose(
        &self,
        job: &Job<'_>,
        context: &Context<'_>,
        plan: Plan,
        classes: Vec<RecipientClass>,
        strips: bool,
    ) -> Result<Prepared, Reply> {
        let envelope = context.envelope();
        let mut draft = Arc::new(Draft {
            composer: self.ruleset.composer.clone(),
            envelope: envelope.clone(),
            message: job.message.clone(),
            plan,
            classes,
            strips,
            signed: self.ruleset.text.signed,
            now: job.now,
        });
        loop {
            let (why, obstacle) = match prepare::run(&draft).await {
                // Checked before anything is durable: otherwise items for some recipients would be
                // sent again and again because the changes for the others are impossible.
                Ok(prepared) => match job.support.check(job.message, &prepared.changes) {
                    Ok(()) => {
                        record_result(&draft, &prepared);
                        return Ok(prepared);
                    }
                    Err(obstacle) => ("mta", obstacle),
                },
                Err(error @ PrepareError::Edit) => ("edit", error.to_string()),
                Err(error) => {
                    counter!("copyist_messages_deferred_total", "why" => "compose").increment(1);
                    let error = chain(&error);
                    warn!(queue_id = envelope.queue_id, "deferred: {error}");
                    return Err(defer("Journal report cannot be composed, try again"));
                }
            };
            self.skip_texts(envelope, why, &obstacle)?;
            draft = Arc::new(Draft {
                classes: Vec::new(),
                ..Arc::unwrap_or_clone(draft)
            });
        }
    }

    /// Applies `text.on_failure` to a message whose text cannot be added: `Ok` if it passes
    /// without.
    fn skip_texts(&self, envelope: &Envelope, why: &'static str, what: &str) -> Result<(), Reply> {
        counter!("copyist_text_failures_total", "why" => why).increment(1);
        let queue_id = &envelope.queue_id;
        match self.ruleset.text.on_failure {
            OnFailure::Pass => {
                warn!(queue_id, "delivered without its text: {what}");
                Ok(())
            }
            OnFailure::Defer => {
                counter!("copyist_messages_deferred_total", "why" => "text").increment(1);
                warn!(queue_id, "deferred: {what}");
                Err(defer("Text cannot be added, try again"))
            }
        }
    }

    /// Commits the items of a message: the one place where a message that must be journaled is
    /// accepted, after the commit and never before.
    async fn commit(&self, job: &Job<'_>, submissions: Vec<Submission>) -> Result<(), Reply> {
        if submissions.is_empty() {
            return Ok(());
        }
        let (queue_id, items) = (&job.envelope.queue_id, ItemSummary::of(&submissions));
        let spool = self.spool_for(job.envelope, job.message).await;
        let committed = spool.commit(queue_id, job.now, submissions).await;
        items.log(job, committed, "journaled")
    }

    /// Reserves the items of a message: the one place where a message that must be journaled is
    /// released to the next hop, after its items are durable.
    async fn reserve(
        &self,
        job: &Job<'_>,
        submissions: Vec<Submission>,
    ) -> Result<Option<Reservation>, Reply> {
        if submissions.is_empty() {
            return Ok(None);
        }
        let (queue_id, items) = (&job.envelope.queue_id, ItemSummary::of(&submissions));
        let spool = self.spool_for(job.envelope, job.message).await;
        let reserved = spool.reserve(queue_id, job.now, submissions).await;
        let reserved = items.log(job, reserved, "journaled, reserved until delivery");
        reserved.map(Some)
    }
}

impl<'a> Job<'a> {
    fn new(
        envelope: &'a Envelope,
        message: &'a Message,
        checks: &'a RecipientChecks,
        support: &'a dyn ChangeSupport,
        now: SystemTime,
    ) -> Job<'a> {
        Job {
            envelope,
            message,
            checks,
            support,
            now,
            started: Instant::now(),
        }
    }
}

/// Counts and logs a mail loop; returns its rejection.
fn reject_loop(job: &Job<'_>, hops: usize) -> Reply {
    counter!("copyist_hop_limit_refusals_total").increment(1);
    let queue_id = &job.envelope.queue_id;
    warn!(
        queue_id,
        hops, "rejected: mail loop, too many Received fields (limits.hops)"
    );
    // 5.4.6: routing loop detected (RFC 3463 section 3.5).
    let text = format!("Too many hops: {hops} Received fields");
    Reply::new(554, Enhanced(5, 4, 6), text)
}

/// Counts and logs the directions, texts and versions of a message.
fn record_result(draft: &Draft, prepared: &Prepared) {
    let queue_id = &draft.envelope.queue_id;
    let journaled = if draft.plan.is_empty() { "no" } else { "yes" };
    let is_idle = draft.plan.is_empty() && prepared.submissions.is_empty();
    for direction in draft.plan.distinct_directions() {
        if is_idle {
            info!(queue_id, %direction, size = draft.message.len(), "passes: no sender or recipient is journaled");
        }
        counter!("copyist_messages_total", "direction" => direction.name(), "journaled" => journaled).increment(1);
    }
    for version in &prepared.versions {
        let result = match version.obstacle {
            Some(obstacle) => obstacle.name(),
            None if version.splices.is_empty() => continue,
            None => "edited",
        };
        counter!("copyist_texts_total", "direction" => version.direction.name(), "result" => result).increment(1);
        if let Some(obstacle) = version.obstacle {
            info!(queue_id, direction = %version.direction, "delivered without its text: {obstacle}");
        }
    }
    let (versions, moved) = (prepared.versions.len(), prepared.changes.moved.len());
    if moved > 0 {
        counter!("copyist_messages_split_total").increment(1);
        info!(queue_id, versions, recipients = moved, "split");
    }
}

/// Returns what the journal guard knows of a recipient. Before the first set of guarded mailboxes
/// is known, the addresses in the settings are guarded, and the status of others is unknown if
/// journal attributes may name them.
pub async fn guard_status(
    identities: &Identities,
    guarded: &SharedGuard,
    rules: &Rules,
    recipient: &Address,
    resolved: Option<&Address>,
) -> GuardStatus {
    let known = match guarded.get() {
        None if policy::guard_waits(rules) => guarded.wait(GUARD_WAIT).await,
        known => known,
    };
    if let Some(guarded) = known {
        return identities.guard_status(recipient, resolved, &guarded).await;
    }
    let named = GuardedMailboxes::of_settings(&policy::guard_settings(rules));
    match identities.guard_status(recipient, resolved, &named).await {
        GuardStatus::NotGuarded if policy::guard_waits(rules) => {
            GuardStatus::Unknown(Outage::new("the guarded mailboxes are not known yet"))
        }
        status => status,
    }
}

/// Log fields about the items of a message.
struct ItemSummary {
    items: String,
    to: String,
    directions: String,
    because: String,
}

impl ItemSummary {
    fn of(submissions: &[Submission]) -> ItemSummary {
        let items = || submissions.iter().flat_map(|submission| &submission.items);
        let ids: Vec<String> = items().map(|item| item.id.to_string()).collect();
        let targets = items().flat_map(|item| item.targets.iter().map(ToString::to_string));
        let targets: Vec<String> = targets.collect();
        let mut directions: Vec<&str> = items().map(|item| item.direction.name()).collect();
        directions.dedup();
        let mut reasons = items().flat_map(|item| &item.reasons);
        let first = reasons.next().cloned().unwrap_or_default();
        ItemSummary {
            items: ids.join(","),
            to: targets.join(","),
            directions: directions.join(","),
            because: match reasons.count() {
                0 => first,
                more => format!("{first} (and {more} more)"),
            },
        }
    }

    /// Logs whether the items are durable; turns a failure into the reply.
    fn log<T>(
        self,
        job: &Job<'_>,
        committed: Result<T, CommitError>,
        what: &'static str,
    ) -> Result<T, Reply> {
        let ItemSummary {
            items,
            to,
            directions,
            because,
        } = self;
        let queue_id = &job.envelope.queue_id;
        match committed {
            Ok(committed) => {
                let ms = job.started.elapsed().as_millis() as u64;
                let size = job.message.len();
                info!(queue_id, items, to, directions, because, size, ms, "{what}");
                Ok(committed)
            }
            Err(error) => {
                counter!("copyist_messages_deferred_total", "why" => "spool").increment(1);
                warn!(queue_id, "deferred: {error}");
                Err(error.reply())
            }
        }
    }
}

/// Looks like an unknown user on purpose: external clients must not learn which mailboxes are
/// guarded.
fn unknown_user(recipient: &Address) -> Reply {
    let text = format!("<{recipient}>: Recipient address rejected: User unknown");
    Reply::new(550, Enhanced(5, 1, 1), text)
}

/// X.3.0 is "other or undefined mail system status" (RFC 3463 section 3.4).
fn defer(text: &'static str) -> Reply {
    Reply::new(451, Enhanced(4, 3, 0), text)
}

/// X.4.3 is "directory server failure" (RFC 3463 section 3.5).
fn defer_for_directory() -> Reply {
    Reply::new(451, Enhanced(4, 4, 3), "Directory unavailable, try again")
}
