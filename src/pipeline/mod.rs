//! The journey of one message: directory, plan, texts, report, spool, verdict.
//!
//! Promises: [`Pipeline::process`] says "accept" only when everything owed for the message is
//! durable, or when nothing is owed. Everything it cannot decide or keep is answered 4xx, so that
//! the MTA keeps the message (RFC 5321 section 4.2.1). Refuses for good (5xx) only what is
//! addressed to a guarded mailbox. [`Pipeline::offer`] is the same for a hook that hands the
//! message on by itself, and so learns what becomes of it.

mod make;
mod memory;
mod own;
mod patience;
mod unidentified;

use std::borrow::Cow;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant, SystemTime};

use metrics::counter;
use tokio::time::Instant as Deadline;
use tracing::{info, warn};

use crate::directory::Outage;
use crate::identity::{
    GuardStatus, GuardedMailboxes, Identities, IdentityAnswers, IdentityQuery, SharedGuard,
};
use crate::journal::{Composer, is_ours};
use crate::mail::{Address, Content, Enhanced, Envelope, Message, Reply};
use crate::policy::{self, Admission, Plan, Rules};
use crate::spool::{CommitError, Reservation, Spool, Submission};
use crate::text::{self, OnFailure, RecipientClass};

pub use make::Other;
use make::{Made, Make, MakeError};
pub use memory::{Memory, Room};
use own::{Notice, Own};
pub use patience::{Admitted, RECIPIENT_WAIT};
pub use unidentified::Unidentified;

/// As [`MADE_APART`] where there are texts: reading HTML may take fifty times as long.
const EDITED_APART: usize = 64 * 1024;

/// How long a recipient waits for the first set of guarded mailboxes after a start without the one
/// of the last run.
const GUARD_WAIT: Duration = Duration::from_secs(10);

/// How many times the bytes of a message are in memory, at worst, while a text is put into it
/// (`benches/text_hostile.rs`).
const EDIT_TAKES: usize = 5;

/// Messages above this are edited and composed off the threads that serve other sessions: passes
/// over the bytes (structure, transfer encoding, digest) take about a millisecond for each
/// megabyte.
const MADE_APART: usize = 1024 * 1024;

/// Everything one message needs, of one generation of settings. A session keeps the one it started
/// with.
pub struct Pipeline {
    /// Whose mailboxes addresses are.
    pub identities: Identities,
    /// The mailboxes that nobody outside may write to.
    pub guarded: SharedGuard,
    /// What the administrator decided.
    pub rules: Arc<Rules>,
    /// What is put into bodies.
    pub text: Arc<text::Settings>,
    /// Writes reports.
    pub composer: Composer,
    /// Keeps them.
    pub spool: Spool,
    /// What the messages under way may hold in memory together.
    pub memory: Memory,
    /// Clients whose senders nobody knows.
    pub unidentified: Unidentified,
}

/// What the MTA is told about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, with these changes.
    Accept(Changes),
    /// It is refused or deferred with this reply.
    Refuse(Reply),
}

/// What changes about a message that goes on. All of it or nothing: the rest is owed to the
/// recipients that move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The message with its texts; `None` where it goes as it came.
    pub edited: Option<Message>,
    /// The recipients, by their place in the envelope, who get versions of their own from the
    /// spool, and must not get this one.
    pub moved: Vec<usize>,
    /// Whether it loses all fields that only we may write.
    pub strips: bool,
}

/// What is to be handed to the next server.
#[must_use = "what is held is owed"]
pub struct Passage {
    /// What changes about the message; those that move get one of the other versions.
    pub changes: Changes,
    /// The other versions.
    pub others: Vec<Other>,
    /// What is owed, until the next server has answered; `None` where nothing is.
    pub held: Option<Reservation>,
}

/// What becomes of a message that is offered to the next server.
pub enum Offer {
    /// It is handed on.
    Pass(Box<Passage>),
    /// It is refused or deferred with this reply.
    Refuse(Reply),
}

/// What is made of a message before anything is durable.
enum Decision {
    /// It goes on, with what was made.
    Go(Box<Made>),
    /// It goes round in circles: what is owed is committed, then it is refused.
    Loops(Box<Made>, Reply),
    /// It is refused or deferred.
    Refuse(Reply),
}

/// What carries a message between the MTA and us.
pub trait Hook: Send + Sync {
    /// Whether these changes can be told to the MTA; else what cannot. Asked once more without any
    /// where not.
    fn can_make(&self, message: &Message, changes: &Changes) -> Result<(), String>;
}

impl Pipeline {
    /// Returns what is known of a message whose recipients are still to come.
    pub fn begin(&self) -> Admitted {
        Admitted::none(self.identities.directory())
    }

    /// Applies the journal guard to one recipient, before the message is there. `mta` is how the
    /// MTA reads it, where that differs.
    pub async fn admit(
        &self,
        so_far: &Envelope,
        recipient: &Address,
        mta: Option<&Address>,
        admitted: &mut Admitted,
    ) -> Result<Admission, Reply> {
        let standing = policy::standing(so_far, &self.rules);
        let sender = so_far.sender.as_ref();
        if !policy::is_guarding(standing, sender, &self.rules) {
            return Ok(Admission::Free);
        }
        let status = guard_status(&self.identities, &self.guarded, &self.rules, recipient, mta);
        let status = admitted.wait(status).await;
        let late = || GuardStatus::Unknown(self.identities.directory().deadline_outage());
        let name = match status.unwrap_or_else(late) {
            GuardStatus::NotGuarded => return Ok(Admission::Free),
            GuardStatus::Guarded(name) => name,
            GuardStatus::Unknown(outage) => {
                warn!(queue_id = so_far.queue_id, %recipient, %outage, "recipient deferred");
                return Err(defer_for_directory());
            }
        };
        let admission = policy::admission(standing, sender, recipient, &self.rules);
        if admission == Admission::Refused {
            counter!("copyist_guard_refusals_total").increment(1);
            info!(queue_id = so_far.queue_id, %recipient, mailbox = name, client = %so_far.client, "rejected: guarded mailbox");
            return Err(unknown_user(recipient));
        }
        Ok(admission)
    }

    /// Carries one message through. `admitted` is what [`Pipeline::admit`] left to be decided by
    /// the message; `hook` says what it can do to it.
    pub async fn process(
        &self,
        envelope: &Envelope,
        message: &Message,
        admitted: &Admitted,
        hook: &dyn Hook,
        now: SystemTime,
    ) -> Verdict {
        let started = Instant::now();
        let decided = self.decide(envelope, message, admitted, hook, now);
        let (made, refusal) = match decided.await {
            Decision::Go(made) => (made, None),
            Decision::Loops(made, reply) => (made, Some(reply)),
            Decision::Refuse(reply) => return Verdict::Refuse(reply),
        };
        let Made {
            submissions,
            changes,
            ..
        } = *made;
        let committed = self.commit(envelope, message, submissions, now, started);
        match (committed.await, refusal) {
            (Ok(()), None) => Verdict::Accept(changes),
            // Journaled once, then refused: who sends it does not send it again.
            (Ok(()), Some(reply)) | (Err(reply), _) => Verdict::Refuse(reply),
        }
    }

    /// The same for a hook that hands the message on by itself: what is owed is durable when this
    /// returns, and held until the hook tells what the next server said. Such a hook can make every
    /// change.
    pub async fn offer(
        &self,
        envelope: &Envelope,
        message: &Message,
        admitted: &Admitted,
        now: SystemTime,
    ) -> Offer {
        let started = Instant::now();
        let decided = self.decide(envelope, message, admitted, &Anything, now);
        let made = match decided.await {
            Decision::Go(made) => made,
            Decision::Loops(made, refusal) => {
                let committed = self.commit(envelope, message, made.submissions, now, started);
                return Offer::Refuse(committed.await.err().unwrap_or(refusal));
            }
            Decision::Refuse(reply) => return Offer::Refuse(reply),
        };
        let Made {
            submissions,
            changes,
            others,
            ..
        } = *made;
        match self
            .hold(envelope, message, submissions, now, started)
            .await
        {
            Ok(held) => Offer::Pass(Box::new(Passage {
                changes,
                others,
                held,
            })),
            Err(reply) => Offer::Refuse(reply),
        }
    }

    /// Everything but to make it durable.
    async fn decide(
        &self,
        envelope: &Envelope,
        message: &Message,
        admitted: &Admitted,
        hook: &dyn Hook,
        now: SystemTime,
    ) -> Decision {
        // A copy keeps the older ones under another name (journal::inert).
        let hops = ["Received", "X-Copyist-Original-Received"];
        let hops: usize = hops
            .iter()
            .map(|name| message.fields_named(name).count())
            .sum();
        let looping = self.rules.hop_limit.is_some_and(|most| hops > most);
        match self.own(envelope, message, now).await {
            // A report about what is journaled already: it is not journaled again for going round.
            Own::Passes if looping => {
                return Decision::Refuse(self.too_many_hops(envelope, hops));
            }
            Own::Passes => return Decision::Go(Box::default()),
            Own::Refused(reply) => return Decision::Refuse(reply),
            Own::No => {}
        }
        match self
            .made(envelope, message, admitted, looping, hook, now)
            .await
        {
            Ok(made) if looping => {
                Decision::Loops(Box::new(made), self.too_many_hops(envelope, hops))
            }
            Ok(made) => Decision::Go(Box::new(made)),
            Err(reply) => Decision::Refuse(reply),
        }
    }

    /// What is owed for a message, and what becomes of it.
    async fn made(
        &self,
        envelope: &Envelope,
        message: &Message,
        admitted: &Admitted,
        looping: bool,
        hook: &dyn Hook,
        now: SystemTime,
    ) -> Result<Made, Reply> {
        let notice = self.notice(envelope, message, now).await?;
        let is_bounce = notice != Notice::None && envelope.sender.is_none();
        if let Some(guarded) = admitted.provisional.first()
            && !is_bounce
        {
            counter!("copyist_guard_refusals_total").increment(1);
            info!(queue_id = envelope.queue_id, recipient = %guarded, "refused: a guarded mailbox, and no report of ours");
            return Err(unknown_user(guarded));
        }
        if notice == Notice::ToUs {
            let strips = self.strips(envelope, message, hook);
            let changes = Changes {
                strips,
                ..Changes::default()
            };
            return Ok(Made {
                changes,
                ..Made::default()
            });
        }
        let deadline = admitted.deadline();
        let (envelope, people) = self.people(envelope, message, deadline).await;
        let envelope = &*envelope;
        let plan = self.plan(envelope, &people, deadline).await?;
        // What is refused in the end gets no text, and nobody a version of it.
        let classes = match looping {
            true => Vec::new(),
            false => self.classes(envelope, &people)?,
        };
        let _room = self.room_for_texts(message, &classes).await?;
        self.make(envelope, message, plan, classes, hook, now).await
    }

    fn too_many_hops(&self, envelope: &Envelope, hops: usize) -> Reply {
        counter!("copyist_hop_limit_refusals_total").increment(1);
        warn!(
            queue_id = envelope.queue_id,
            hops, "refused: it goes round in circles"
        );
        // 5.4.6: routing loop detected (RFC 3463 section 3.5).
        Reply::new(
            554,
            Enhanced(5, 4, 6),
            format!("Too many hops: {hops} Received fields"),
        )
    }

    /// Whether the message loses the fields that look like ours: from outside they say nothing that
    /// is true. Our own people may have them: a report that is passed on keeps its own.
    fn strips(&self, envelope: &Envelope, message: &Message, hook: &dyn Hook) -> bool {
        let foreign = !policy::sender_is_ours(envelope, &self.rules)
            && message.fields().any(|field| is_ours(field.name));
        if !foreign {
            return false;
        }
        let stripped = Changes {
            strips: true,
            ..Changes::default()
        };
        match hook.can_make(message, &stripped) {
            Ok(()) => {
                counter!("copyist_messages_stripped_total").increment(1);
                info!(
                    queue_id = envelope.queue_id,
                    "loses X-Copyist fields that came from outside"
                );
                true
            }
            Err(what) => {
                static TOLD: Once = Once::new();
                TOLD.call_once(|| warn!("X-Copyist fields from outside stay in messages: {what}"));
                false
            }
        }
    }

    /// Looks up everybody whom the plan or the texts ask for, together; and the authors that the
    /// header names, if a trusted client sends by a reverse path that is nobody's of ours.
    async fn people<'e>(
        &self,
        envelope: &'e Envelope,
        message: &Message,
        deadline: Deadline,
    ) -> (Cow<'e, Envelope>, IdentityAnswers) {
        let asked = text::all_questions(envelope, &self.rules, &self.text);
        let people = self.identities.find(&asked, deadline).await;
        if !policy::asks_for_authors(envelope, &people, &self.rules) {
            return (Cow::Borrowed(envelope), people);
        }
        let mut envelope = envelope.clone();
        envelope.header_authors = message.authors();
        let asked: Vec<IdentityQuery> = text::all_questions(&envelope, &self.rules, &self.text);
        let people = self.identities.find(&asked, deadline).await;
        (Cow::Owned(envelope), people)
    }

    async fn plan(
        &self,
        envelope: &Envelope,
        people: &IdentityAnswers,
        deadline: Deadline,
    ) -> Result<Plan, Reply> {
        let pairs = policy::pairs(envelope, people, &self.rules);
        let targets = pairs.targets();
        let directory = self.identities.directory();
        let resolved = directory.resolve_before(&targets, deadline).await;
        let plan = pairs.plan(&resolved).map_err(|undecided| {
            counter!("copyist_messages_deferred_total", "why" => "directory").increment(1);
            warn!(queue_id = envelope.queue_id, "deferred: {undecided}");
            defer_for_directory()
        })?;
        for subject in &plan.overlooked {
            counter!("copyist_messages_overlooked_total").increment(1);
            warn!(
                queue_id = envelope.queue_id, %subject,
                "not looked up: the directory is down and directory.on_failure is \"accept\""
            );
        }
        for target in &plan.elsewhere {
            counter!("copyist_journal_targets_elsewhere_total").increment(1);
            warn!(queue_id = envelope.queue_id, "no copy goes there: {target}");
        }
        if plan.is_unidentified {
            counter!("copyist_messages_unidentified_total").increment(1);
            self.unidentified.warn_once(&envelope.client, || {
                warn!(
                    queue_id = envelope.queue_id, sender = envelope.sender.as_ref().map(tracing::field::display),
                    client = %envelope.client,
                    "sender not found in the directory by reverse path, login or author; no copy is made for the sender"
                );
            });
        }
        for (person, object) in &plan.exempt {
            counter!("copyist_messages_exempt_total").increment(1);
            info!(queue_id = envelope.queue_id, %person, dn = object, "exempt from journaling");
        }
        Ok(plan)
    }

    /// Who is owed which texts; nobody any, where that cannot be told and mail goes on all the
    /// same.
    fn classes(
        &self,
        envelope: &Envelope,
        people: &IdentityAnswers,
    ) -> Result<Vec<RecipientClass>, Reply> {
        if self.text.is_empty() {
            return Ok(Vec::new());
        }
        match text::classes(envelope, people, &self.rules, &self.text) {
            Ok(classes) => Ok(classes),
            Err(untold) => {
                let why = match untold {
                    text::TextSelectionError::Person { .. } => "directory",
                    text::TextSelectionError::Template { .. } => "template",
                };
                self.text_failed(envelope, why, &untold.to_string())
                    .map(|()| Vec::new())
            }
        }
    }

    /// Room in memory where a text is put into a large message: for all of it, for what it becomes,
    /// and for what is on the way from one to the other.
    async fn room_for_texts(
        &self,
        message: &Message,
        classes: &[RecipientClass],
    ) -> Result<Option<Room>, Reply> {
        let is_large = matches!(message.content(), Content::Stored { .. });
        if !is_large || classes.iter().all(|class| class.texts.is_empty()) {
            return Ok(None);
        }
        match self
            .memory
            .room(message.len().saturating_mul(EDIT_TAKES))
            .await
        {
            Some(room) => Ok(Some(room)),
            None => {
                counter!("copyist_messages_deferred_total", "why" => "memory").increment(1);
                Err(defer("Insufficient memory for the text, try again"))
            }
        }
    }

    /// Edits and writes everything; apart from the threads that serve other sessions where that
    /// takes long.
    async fn make(
        &self,
        envelope: &Envelope,
        message: &Message,
        plan: Plan,
        classes: Vec<RecipientClass>,
        hook: &dyn Hook,
        now: SystemTime,
    ) -> Result<Made, Reply> {
        let mut make = Arc::new(Make {
            composer: self.composer.clone(),
            envelope: envelope.clone(),
            message: message.clone(),
            plan,
            classes,
            strips: self.strips(envelope, message, hook),
            signed: self.text.signed,
            now,
        });
        loop {
            let (why, what) = match run(&make).await {
                // Asked before anything is durable: what is owed to some must not go out again and
                // again because the rest cannot be said.
                Ok(made) => match hook.can_make(message, &made.changes) {
                    Ok(()) => {
                        self.count(&make, &made);
                        return Ok(made);
                    }
                    Err(what) => ("mta", what),
                },
                Err(error @ MakeError::Edit) => ("edit", error.to_string()),
                Err(error) => {
                    counter!("copyist_messages_deferred_total", "why" => "compose").increment(1);
                    warn!(queue_id = envelope.queue_id, "deferred: {error}");
                    return Err(defer("Journal report cannot be made, try again"));
                }
            };
            self.text_failed(envelope, why, &what)?;
            let without = Make {
                classes: Vec::new(),
                ..Arc::unwrap_or_clone(make)
            };
            make = Arc::new(without);
        }
    }

    /// A message should get a text and cannot. `Ok` where it goes on without.
    fn text_failed(&self, envelope: &Envelope, why: &'static str, what: &str) -> Result<(), Reply> {
        counter!("copyist_text_failures_total", "why" => why).increment(1);
        match self.text.on_failure {
            OnFailure::Pass => {
                warn!(
                    queue_id = envelope.queue_id,
                    "goes on without its text: {what}"
                );
                Ok(())
            }
            OnFailure::Defer => {
                counter!("copyist_messages_deferred_total", "why" => "text").increment(1);
                warn!(queue_id = envelope.queue_id, "deferred: {what}");
                Err(defer("Text cannot be added, try again"))
            }
        }
    }

    /// The one place where a message that must be journaled is let go: after the commit, never
    /// before.
    async fn commit(
        &self,
        envelope: &Envelope,
        message: &Message,
        submissions: Vec<Submission>,
        now: SystemTime,
        started: Instant,
    ) -> Result<(), Reply> {
        if submissions.is_empty() {
            return Ok(());
        }
        let owed = Owed::of(&submissions);
        let spool = self.spool_for(envelope, message).await;
        let committed = spool.commit(&envelope.queue_id, now, submissions).await;
        owed.tell(envelope, message, started, committed, "journaled")
    }

    /// The one place where a message that must be journaled is handed on by ourselves: after what
    /// it is owed is durable.
    async fn hold(
        &self,
        envelope: &Envelope,
        message: &Message,
        submissions: Vec<Submission>,
        now: SystemTime,
        started: Instant,
    ) -> Result<Option<Reservation>, Reply> {
        if submissions.is_empty() {
            return Ok(None);
        }
        let owed = Owed::of(&submissions);
        let spool = self.spool_for(envelope, message).await;
        let held = spool.reserve(&envelope.queue_id, now, submissions).await;
        owed.tell(
            envelope,
            message,
            started,
            held,
            "held until it is delivered",
        )
        .map(Some)
    }

    fn count(&self, make: &Make, made: &Made) {
        let queue_id = &make.envelope.queue_id;
        let journaled = if make.plan.is_empty() { "no" } else { "yes" };
        let is_idle = make.plan.is_empty() && made.submissions.is_empty();
        for direction in make.plan.distinct_directions() {
            if is_idle {
                info!(queue_id, %direction, size = make.message.len(), "passes: nobody concerned is journaled");
            }
            counter!("copyist_messages_total", "direction" => direction.name(), "journaled" => journaled).increment(1);
        }
        for version in &made.versions {
            let result = match version.obstacle {
                Some(obstacle) => obstacle.name(),
                None if version.splices.is_empty() => continue,
                None => "edited",
            };
            counter!("copyist_texts_total", "direction" => version.direction.name(), "result" => result).increment(1);
            if let Some(obstacle) = version.obstacle {
                info!(queue_id, direction = %version.direction, "goes without its text: {obstacle}");
            }
        }
        if !made.changes.moved.is_empty() {
            counter!("copyist_messages_split_total").increment(1);
            info!(
                queue_id,
                versions = made.versions.len(),
                recipients = made.changes.moved.len(),
                "split"
            );
        }
    }
}

/// What the guard knows of a recipient. Before the first set of guarded mailboxes is known, what
/// the settings name by address is guarded, and of others nobody can tell if attributes may name
/// them.
pub async fn guard_status(
    identities: &Identities,
    guarded: &SharedGuard,
    rules: &Rules,
    recipient: &Address,
    mta: Option<&Address>,
) -> GuardStatus {
    let known = match guarded.get() {
        None if policy::guard_waits(rules) => guarded.wait(GUARD_WAIT).await,
        known => known,
    };
    if let Some(guarded) = known {
        return identities.guard_status(recipient, mta, &guarded).await;
    }
    let named = GuardedMailboxes::of_settings(&policy::guard_settings(rules));
    match identities.guard_status(recipient, mta, &named).await {
        GuardStatus::NotGuarded if policy::guard_waits(rules) => {
            GuardStatus::Unknown(Outage::new("the guarded mailboxes are not known yet"))
        }
        status => status,
    }
}

/// A hook that is asked nothing, since it writes the message itself.
struct Anything;

impl Hook for Anything {
    fn can_make(&self, _: &Message, _: &Changes) -> Result<(), String> {
        Ok(())
    }
}

/// What the log says of what is owed.
struct Owed {
    items: String,
    to: String,
    directions: String,
    because: String,
}

impl Owed {
    fn of(submissions: &[Submission]) -> Owed {
        let items = || submissions.iter().flat_map(|submission| &submission.items);
        let ids: Vec<String> = items().map(|item| item.id.to_string()).collect();
        let targets = items().flat_map(|item| item.targets.iter().map(ToString::to_string));
        let targets: Vec<String> = targets.collect();
        let mut directions: Vec<&str> = items().map(|item| item.direction.name()).collect();
        directions.dedup();
        let mut reasons = items().flat_map(|item| &item.reasons);
        let first = reasons.next().cloned().unwrap_or_default();
        Owed {
            items: ids.join(","),
            to: targets.join(","),
            directions: directions.join(","),
            because: match reasons.count() {
                0 => first,
                more => format!("{first} (and {more} more)"),
            },
        }
    }

    /// Tells the log whether it is durable, and else what the sending side is told.
    fn tell<T>(
        self,
        envelope: &Envelope,
        message: &Message,
        started: Instant,
        committed: Result<T, CommitError>,
        what: &'static str,
    ) -> Result<T, Reply> {
        let Owed {
            items,
            to,
            directions,
            because,
        } = self;
        let queue_id = &envelope.queue_id;
        match committed {
            Ok(committed) => {
                let ms = started.elapsed().as_millis() as u64;
                info!(
                    queue_id,
                    items,
                    to,
                    directions,
                    because,
                    size = message.len(),
                    ms,
                    "{what}"
                );
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

async fn run(make: &Arc<Make>) -> Result<Made, MakeError> {
    let most = match make.classes.is_empty() {
        true => MADE_APART,
        false => EDITED_APART,
    };
    let nothing_to_do = make.plan.is_empty() && make.classes.is_empty();
    if make.message.len() <= most || nothing_to_do {
        return make.run();
    }
    let make = make.clone();
    let apart = tokio::task::spawn_blocking(move || make.run());
    apart.await.unwrap_or(Err(MakeError::Interrupted))
}

/// Looks like an unknown user on purpose: nobody outside learns which mailboxes are guarded.
fn unknown_user(recipient: &Address) -> Reply {
    Reply::new(
        550,
        Enhanced(5, 1, 1),
        format!("<{recipient}>: Recipient address rejected: User unknown"),
    )
}

/// X.3.0 is "other or undefined mail system status" (RFC 3463 section 3.4).
fn defer(text: &'static str) -> Reply {
    Reply::new(451, Enhanced(4, 3, 0), text)
}

/// X.4.3 is "directory server failure" (RFC 3463 section 3.5).
fn defer_for_directory() -> Reply {
    Reply::new(451, Enhanced(4, 4, 3), "Directory unavailable, try again")
}
