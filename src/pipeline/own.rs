//! What of ours comes back: reports and versions on their way through the MTA, and notices about
//! them.

use std::time::SystemTime;

use metrics::counter;
use tracing::{info, warn};

use super::{MADE_APART, Pipeline, defer, unknown_user};
use crate::identity::GuardStatus;
use crate::journal::{Bounce, Flaw, ItemId, Seal, Sealed, Sort, State};
use crate::mail::{Address, Envelope, Message, Recipient, Reply};
use crate::policy;
use crate::spool::{BounceRecord, Spool};

/// Reports from one NDR address to one journal address within an hour about messages that may come
/// from a report of ours: enough for what people write to these mailboxes, few enough to end a mail
/// loop. The others wait for an operator.
const LOOPING_REPORTS: u32 = 20;

impl Pipeline {
    /// Whether the message is one of ours on its way. Journaling it again would never end.
    pub(super) async fn own(&self, envelope: &Envelope, message: &Message, now: SystemTime) -> Own {
        let seal = match self.judge(envelope, message).await {
            Sealed::Ours(seal) => seal,
            Sealed::Refused(flaw) => {
                refuse_seal(envelope, flaw);
                return Own::No;
            }
            Sealed::No => return Own::No,
        };
        if seal.sort == Sort::Version {
            return self.version(envelope, &seal).await;
        }
        let is_from_us = policy::sender_is_ours(envelope, &self.rules);
        if seal.state == State::Body && !is_from_us {
            return self.altered_outside(envelope).await;
        }
        // Our own relay may bring a report at any time; a seal of an older version, which covers
        // less, only for a while.
        if !is_from_us || seal.at.is_none() {
            match self.spool.is_in_transit(&seal.id, seal.at, now).await {
                Ok(true) => {}
                Ok(false) => return self.expired(envelope, is_from_us),
                Err(error) => {
                    counter!("copyist_messages_deferred_total", "why" => "spool").increment(1);
                    warn!(queue_id = envelope.queue_id, "deferred: {error}");
                    return Own::Refused(defer("Spool unavailable, try again"));
                }
            }
        }
        self.passes(envelope, &seal).await;
        Own::Passes
    }

    /// Counts and tells a report of ours that passes.
    async fn passes(&self, envelope: &Envelope, seal: &Seal) {
        let (queue_id, item) = (&envelope.queue_id, &seal.id);
        match seal.state {
            State::Whole => {}
            State::Fields => {
                counter!("copyist_reports_altered_total", "what" => "header").increment(1);
                info!(queue_id, %item, "our own report passes, but its header was changed on the way");
            }
            State::Body => {
                counter!("copyist_reports_altered_total", "what" => "body").increment(1);
                return warn!(queue_id, %item, "our own report passes, but an MTA changed its body");
            }
        }
        let recipients: Vec<Address> = envelope.recipient_addresses().cloned().collect();
        // The relay may hand it to another MTA that asks us, long after it took it; or somebody who
        // has it sends it once more. That tells those who have it already what they know.
        match self.spool.is_queued_for(item, &recipients).await {
            Ok(false) => {
                counter!("copyist_reports_again_total").increment(1);
                info!(queue_id, %item, "our own report passes, after the relay took it");
            }
            _ => info!(queue_id, %item, "our own report passes"),
        }
    }

    /// A version passes while its recipients wait for it; else somebody has it already, and sends
    /// it again: then it is mail like any other.
    async fn version(&self, envelope: &Envelope, seal: &Seal) -> Own {
        let (queue_id, item) = (&envelope.queue_id, &seal.id);
        let recipients: Vec<Address> = envelope.recipient_addresses().cloned().collect();
        if !matches!(self.spool.is_queued_for(item, &recipients).await, Ok(true)) {
            refuse_seal(envelope, Flaw::Spent);
            return Own::No;
        }
        if seal.state == State::Fields {
            counter!("copyist_reports_altered_total", "what" => "header").increment(1);
        }
        info!(queue_id, %item, "our own version passes");
        Own::Passes
    }

    /// A report with another body, from outside: nobody's of ours. Where only guarded mailboxes get
    /// it, the guard answers, and it is not journaled: whoever has a report could fill the journal
    /// with it otherwise.
    async fn altered_outside(&self, envelope: &Envelope) -> Own {
        refuse_seal(envelope, Flaw::Body);
        for recipient in &envelope.recipients {
            if !self.is_guarded(recipient).await {
                return Own::No;
            }
        }
        let standing = policy::standing(envelope, &self.rules);
        match policy::is_guarding(standing, envelope.sender.as_ref(), &self.rules) {
            true => rejected(envelope),
            false => Own::Passes,
        }
    }

    /// A report that was delivered more than five days ago is a replay. A seal of an older version
    /// that comes from our own side then is none.
    fn expired(&self, envelope: &Envelope, is_from_us: bool) -> Own {
        refuse_seal(envelope, Flaw::Expired);
        match is_from_us {
            true => Own::No,
            false => rejected(envelope),
        }
    }

    /// Whose the message is; apart from the threads that serve other sessions where a look at all
    /// of it takes long.
    async fn judge(&self, envelope: &Envelope, message: &Message) -> Sealed {
        if message.len() <= MADE_APART {
            return self.composer.judge(message, envelope.recipient_addresses());
        }
        let (composer, message) = (self.composer.clone(), message.clone());
        let recipients: Vec<Address> = envelope.recipient_addresses().cloned().collect();
        let judging = tokio::task::spawn_blocking(move || composer.judge(&message, &recipients));
        judging.await.unwrap_or(Sealed::No)
    }

    /// Whether the message is a notice about something of ours (a bounce, a delay, a receipt, a
    /// vacation message) for a mailbox that notices are for. It is recorded before it goes on:
    /// often it is all that is ever heard.
    pub(super) async fn notice(
        &self,
        envelope: &Envelope,
        message: &Message,
        now: SystemTime,
    ) -> Result<Notice, Reply> {
        let has_no_sender = envelope.sender.is_none();
        let Some((item, mut bounce)) = self.composer.notice(message, has_no_sender) else {
            return Ok(Notice::None);
        };
        let (mut to_us, mut to_others) = (false, false);
        for recipient in &envelope.recipients {
            match self.is_guarded(recipient).await {
                true => to_us = true,
                false => to_others = true,
            }
        }
        if !to_us {
            return Ok(Notice::None);
        }
        if bounce.reporter.is_empty() {
            bounce.reporter = envelope
                .client
                .ip
                .map_or_else(String::new, |ip| ip.to_string());
        }
        tell(envelope, &item, &bounce);
        let (item, at) = (item, now);
        match self
            .spool
            .record_bounce(BounceRecord { item, at, bounce })
            .await
        {
            Ok(_) if to_others => Ok(Notice::AlsoToOthers),
            Ok(_) => Ok(Notice::ToUs),
            Err(error) => {
                counter!("copyist_messages_deferred_total", "why" => "spool").increment(1);
                warn!(queue_id = envelope.queue_id, "deferred: {error}");
                Err(error.reply())
            }
        }
    }

    /// The spool for what is owed for this message; within a limit where the message may come from
    /// a report of ours: it has one in it, or is for a mailbox that reports and notices about them
    /// go to. A mail loop ends there.
    pub(super) async fn spool_for(&self, envelope: &Envelope, message: &Message) -> Spool {
        let (composer, recipients) = (&self.composer, envelope.recipient_addresses());
        let mut may_loop = composer.may_come_from_ours(message, recipients);
        for recipient in &envelope.recipients {
            may_loop = may_loop || self.is_guarded(recipient).await;
        }
        match may_loop {
            true => self.spool.with_report_limit(LOOPING_REPORTS),
            false => self.spool.clone(),
        }
    }

    /// Whether a recipient is an NDR address or a guarded journal mailbox. In doubt it is somebody
    /// else, whose mail is journaled.
    async fn is_guarded(&self, recipient: &Recipient) -> bool {
        if policy::is_ndr(&recipient.address, &self.rules) {
            return true;
        }
        let Some(guarded) = self.guarded.get() else {
            return false;
        };
        let (address, mta) = (&recipient.address, recipient.resolved.as_ref());
        let status = self.identities.guard_status(address, mta, &guarded).await;
        matches!(status, GuardStatus::Guarded(_))
    }
}

/// What becomes of a message that says it is one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Own {
    /// It is, and passes as it is.
    Passes,
    /// It is refused or deferred with this reply.
    Refused(Reply),
    /// It is anybody's.
    No,
}

/// As the guard answers.
fn rejected(envelope: &Envelope) -> Own {
    match envelope.recipient_addresses().next() {
        Some(first) => {
            counter!("copyist_guard_refusals_total").increment(1);
            info!(queue_id = envelope.queue_id, recipient = %first, "rejected: guarded mailbox, and no report of ours that is on its way");
            Own::Refused(unknown_user(first))
        }
        None => Own::No,
    }
}

/// Whether a message is a notice about something of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// It is not, or for nobody whom notices are for.
    None,
    /// It is, and for NDR addresses and guarded mailboxes alone: to journal it would make a report
    /// that may come back again, without end.
    ToUs,
    /// It is, and for others as well, whose mail is journaled.
    AlsoToOthers,
}

/// Tells the log of a notice. A delay, a receipt and a vacation message are no failure.
fn tell(envelope: &Envelope, item: &ItemId, bounce: &Bounce) {
    let queue_id = &envelope.queue_id;
    let (status, by) = (&bounce.status, &bounce.reporter);
    if bounce.is_failure() {
        counter!("copyist_bounces_total").increment(1);
        warn!(queue_id, %item, status, by, "a report of ours came back");
    } else {
        counter!("copyist_notices_total", "kind" => bounce.action.clone()).increment(1);
        info!(queue_id, %item, status, by, kind = bounce.action, "a notice about a report of ours");
    }
}

/// The message is anybody's, whatever it says.
fn refuse_seal(envelope: &Envelope, flaw: Flaw) {
    counter!("copyist_seals_refused_total", "why" => flaw.name()).increment(1);
    info!(
        queue_id = envelope.queue_id,
        why = flaw.name(),
        "its seal counts for nothing"
    );
}
