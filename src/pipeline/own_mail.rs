//! What of ours comes back: reports and versions on their way through the MTA, and notices about
//! them.

use metrics::counter;
use tracing::{info, warn};

use super::{Job, LARGE, Pipeline, defer, unknown_user};
use crate::identity::GuardStatus;
use crate::journal::{Bounce, Flaw, ItemId, Seal, Sealed, Sort, State};
use crate::mail::{Address, Envelope, Message, Recipient, Reply};
use crate::policy::{self, Context};
use crate::spool::{BounceRecord, Spool};

/// Limit per hour on reports from one NDR address to one journal address about messages that may
/// result from a report: enough for mail that people write to these mailboxes, few enough to end a
/// mail loop. Further reports wait for an operator.
const LOOP_LIMIT: u32 = 20;

impl Pipeline {
    /// Whether the message is Copyist's own mail in transit, which is not journaled again: that
    /// would never end. `Err` is the reply to a replayed report.
    pub(super) async fn is_own_mail(
        &self,
        job: &Job<'_>,
        context: &Context<'_>,
    ) -> Result<bool, Reply> {
        let (envelope, now) = (job.envelope, job.now);
        let seal = match self.verify_seal(envelope, job.message).await {
            Sealed::Ours(seal) => seal,
            Sealed::Refused(flaw) => {
                reject_seal(envelope, flaw);
                return Ok(false);
            }
            Sealed::No => return Ok(false),
        };
        if seal.sort == Sort::Version {
            return Ok(self.is_queued_version(envelope, &seal).await);
        }
        let is_from_us = context.client.from_us;
        if seal.state == State::Body && !is_from_us {
            return self.check_altered(envelope, context).await;
        }
        // An internal relay may bring a report at any time; with a seal of an older format, which
        // covers less, only for a limited time.
        if !is_from_us || seal.at.is_none() {
            match self
                .services
                .spool
                .is_in_transit(&seal.id, seal.at, now)
                .await
            {
                Ok(true) => {}
                Ok(false) => return reject_expired(envelope, is_from_us),
                Err(error) => {
                    counter!("copyist_messages_deferred_total", "why" => "spool").increment(1);
                    warn!(queue_id = envelope.queue_id, "deferred: {error}");
                    return Err(defer("Spool unavailable, try again"));
                }
            }
        }
        self.record_pass(envelope, &seal).await;
        Ok(true)
    }

    /// Counts and logs a report in transit.
    async fn record_pass(&self, envelope: &Envelope, seal: &Seal) {
        let (queue_id, item) = (&envelope.queue_id, &seal.id);
        match seal.state {
            State::Whole => {}
            State::Fields => {
                counter!("copyist_reports_altered_total", "what" => "header").increment(1);
                info!(queue_id, %item, "report in transit; an MTA changed its header");
            }
            State::Body => {
                counter!("copyist_reports_altered_total", "what" => "body").increment(1);
                return warn!(queue_id, %item, "report in transit; an MTA changed its body");
            }
        }
        let recipients: Vec<Address> = envelope.recipient_addresses().cloned().collect();
        // The relay may pass it to another MTA with this filter long after delivery, or a recipient
        // sends it again. Its recipients have it already.
        match self.services.spool.is_queued_for(item, &recipients).await {
            Ok(false) => {
                counter!("copyist_reports_again_total").increment(1);
                info!(queue_id, %item, "report in transit again, after the relay accepted it");
            }
            _ => info!(queue_id, %item, "report in transit"),
        }
    }

    /// Whether a separate version is still queued for its recipients. If not, a recipient has it
    /// already and sends it again: then it is ordinary mail.
    async fn is_queued_version(&self, envelope: &Envelope, seal: &Seal) -> bool {
        let (queue_id, item) = (&envelope.queue_id, &seal.id);
        let recipients: Vec<Address> = envelope.recipient_addresses().cloned().collect();
        if !matches!(
            self.services.spool.is_queued_for(item, &recipients).await,
            Ok(true)
        ) {
            reject_seal(envelope, Flaw::Spent);
            return false;
        }
        if seal.state == State::Fields {
            counter!("copyist_reports_altered_total", "what" => "header").increment(1);
        }
        info!(queue_id, %item, "version in transit");
        true
    }

    /// Checks an external report with a changed body, which is ordinary mail. If all its recipients
    /// are guarded mailboxes, the guard decides and it is not journaled: otherwise anyone with a
    /// report could fill the journal with it.
    async fn check_altered(
        &self,
        envelope: &Envelope,
        context: &Context<'_>,
    ) -> Result<bool, Reply> {
        reject_seal(envelope, Flaw::Body);
        for recipient in &envelope.recipients {
            if !self.is_guarded(recipient).await {
                return Ok(false);
            }
        }
        let (client, rules) = (context.client, &self.ruleset.rules);
        match policy::is_guarding(client, envelope.sender.as_ref(), rules) {
            true => reject_guarded(envelope),
            false => Ok(true),
        }
    }

    /// Verifies the seal of a message; on a blocking thread if the message is large.
    async fn verify_seal(&self, envelope: &Envelope, message: &Message) -> Sealed {
        if message.len() <= LARGE {
            return self
                .ruleset
                .composer
                .judge(message, envelope.recipient_addresses());
        }
        let (composer, message) = (self.ruleset.composer.clone(), message.clone());
        let recipients: Vec<Address> = envelope.recipient_addresses().cloned().collect();
        let judging = tokio::task::spawn_blocking(move || composer.judge(&message, &recipients));
        judging.await.unwrap_or(Sealed::No)
    }

    /// Recognizes a notice about a report (a bounce, a delay, a receipt, a vacation message) to a
    /// guarded mailbox, and records it before it is delivered: often it is the only trace of a
    /// failure.
    pub(super) async fn record_notice(&self, job: &Job<'_>) -> Result<Notice, Reply> {
        let (envelope, message, now) = (job.envelope, job.message, job.now);
        let has_no_sender = envelope.sender.is_none();
        let Some((item, mut bounce)) = self.ruleset.composer.notice(message, has_no_sender) else {
            return Ok(Notice::None);
        };
        let (mut to_guarded, mut to_others) = (false, false);
        for recipient in &envelope.recipients {
            match self.is_guarded(recipient).await {
                true => to_guarded = true,
                false => to_others = true,
            }
        }
        if !to_guarded {
            return Ok(Notice::None);
        }
        if bounce.reporter.is_empty() {
            bounce.reporter = envelope
                .client
                .ip
                .map_or_else(String::new, |ip| ip.to_string());
        }
        log_notice(envelope, &item, &bounce);
        let (item, at) = (item, now);
        match self
            .services
            .spool
            .record_bounce(BounceRecord { item, at, bounce })
            .await
        {
            Ok(_) if to_others => Ok(Notice::Mixed),
            Ok(_) => Ok(Notice::GuardedOnly),
            Err(error) => {
                counter!("copyist_messages_deferred_total", "why" => "spool").increment(1);
                warn!(queue_id = envelope.queue_id, "deferred: {error}");
                Err(error.reply())
            }
        }
    }

    /// Returns the spool for the items of a message; with a limit on reports if the message may
    /// result from a report: it contains one, or is for a mailbox that reports and notices go to.
    /// The limit ends mail loops.
    pub(super) async fn spool_for(&self, envelope: &Envelope, message: &Message) -> Spool {
        let (composer, recipients) = (&self.ruleset.composer, envelope.recipient_addresses());
        let mut may_loop = composer.may_come_from_ours(message, recipients);
        for recipient in &envelope.recipients {
            may_loop = may_loop || self.is_guarded(recipient).await;
        }
        match may_loop {
            true => self.services.spool.with_report_limit(LOOP_LIMIT),
            false => self.services.spool.clone(),
        }
    }

    /// Whether a recipient is an NDR address or a guarded mailbox. In doubt it is not, and its mail
    /// is journaled.
    async fn is_guarded(&self, recipient: &Recipient) -> bool {
        if policy::is_ndr(&recipient.address, &self.ruleset.rules) {
            return true;
        }
        let Some(guarded) = self.services.guarded.get() else {
            return false;
        };
        let (address, mta) = (&recipient.address, recipient.resolved.as_ref());
        let status = self
            .ruleset
            .identities
            .guard_status(address, mta, &guarded)
            .await;
        matches!(status, GuardStatus::Guarded(_))
    }
}

/// Rejects a report as expired: it was delivered more than five days ago, so this is a replay. An
/// internal one, with a seal of an older format, is ordinary mail.
fn reject_expired(envelope: &Envelope, is_from_us: bool) -> Result<bool, Reply> {
    reject_seal(envelope, Flaw::Expired);
    match is_from_us {
        true => Ok(false),
        false => reject_guarded(envelope),
    }
}

/// Rejects a message as the journal guard does.
fn reject_guarded(envelope: &Envelope) -> Result<bool, Reply> {
    match envelope.recipient_addresses().next() {
        Some(first) => {
            counter!("copyist_guard_refusals_total").increment(1);
            info!(queue_id = envelope.queue_id, recipient = %first, "rejected: guarded mailbox, and not a report in transit");
            Err(unknown_user(first))
        }
        None => Ok(false),
    }
}

/// Recipients of a message that is a notice about a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// Not a notice, or not to any guarded mailbox.
    None,
    /// NDR addresses and guarded mailboxes only: a report about it could bounce again, without end,
    /// so it is not journaled.
    GuardedOnly,
    /// Others as well, whose mail is journaled.
    Mixed,
}

/// Counts and logs a notice. A delay, a receipt or a vacation message is not a failure.
fn log_notice(envelope: &Envelope, item: &ItemId, bounce: &Bounce) {
    let queue_id = &envelope.queue_id;
    let (status, by) = (&bounce.status, &bounce.reporter);
    if bounce.is_failure() {
        counter!("copyist_bounces_total").increment(1);
        warn!(queue_id, %item, status, by, "report bounced");
    } else {
        counter!("copyist_notices_total", "kind" => bounce.action.clone()).increment(1);
        info!(queue_id, %item, status, by, kind = bounce.action, "notice about a report");
    }
}

/// Counts and logs an invalid seal; the message is ordinary mail.
fn reject_seal(envelope: &Envelope, flaw: Flaw) {
    counter!("copyist_seals_refused_total", "why" => flaw.name()).increment(1);
    info!(
        queue_id = envelope.queue_id,
        why = flaw.name(),
        "seal not accepted"
    );
}
