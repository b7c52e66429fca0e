//! What of ours comes back: reports and versions on their way through the MTA, and bounces of them.

use std::time::SystemTime;

use metrics::counter;
use tracing::{info, warn};

use super::{MADE_APART, Pipeline};
use crate::journal::{Flaw, Sealed};
use crate::mail::{Address, Envelope, Message, Reply};
use crate::policy;
use crate::spool::Bounced;

impl Pipeline {
    /// Whether the message is a report of ours on its way to the journal mailbox. Journaling it again would
    /// never end.
    pub(super) async fn is_own(&self, envelope: &Envelope, message: &Message) -> bool {
        match self.judge(envelope, message).await {
            Sealed::Whole(item) => {
                let recipients: Vec<Address> = envelope.recipient_addresses().cloned().collect();
                // The relay may hand it to another MTA that asks us, long after it took it; or somebody who has it
                // sends it once more. That tells those who have it already what they know.
                match self.spool.awaits(&item, &recipients).await {
                    Ok(false) => {
                        counter!("copyist_reports_again_total").increment(1);
                        info!(queue_id = envelope.queue_id, %item, "our own report passes, after the relay took it");
                    }
                    _ => info!(queue_id = envelope.queue_id, %item, "our own report passes"),
                }
                true
            }
            Sealed::Altered(item) if policy::sender_is_ours(envelope, &self.rules) => {
                counter!("copyist_reports_altered_total").increment(1);
                warn!(queue_id = envelope.queue_id, %item, "our own report passes, but an MTA changed its body");
                true
            }
            Sealed::Version(item) => {
                let recipients: Vec<Address> = envelope.recipient_addresses().cloned().collect();
                // Else somebody has it already, and sends it again: then it is mail like any other.
                let passes = matches!(self.spool.awaits(&item, &recipients).await, Ok(true));
                if passes {
                    info!(queue_id = envelope.queue_id, %item, "our own version passes");
                } else {
                    refuse_seal(envelope, Flaw::Spent);
                }
                passes
            }
            Sealed::Altered(_) => {
                refuse_seal(envelope, Flaw::Body);
                false
            }
            Sealed::Refused(flaw) => {
                refuse_seal(envelope, flaw);
                false
            }
            Sealed::No => false,
        }
    }

    /// Whose the message is; apart from the threads that serve other sessions where a look at all of it takes long.
    async fn judge(&self, envelope: &Envelope, message: &Message) -> Sealed {
        if message.len() <= MADE_APART {
            return self.composer.judge(message, envelope.recipient_addresses());
        }
        let (composer, message) = (self.composer.clone(), message.clone());
        let recipients: Vec<Address> = envelope.recipient_addresses().cloned().collect();
        let judging = tokio::task::spawn_blocking(move || composer.judge(&message, &recipients));
        judging.await.unwrap_or(Sealed::No)
    }

    /// Whether the message is a bounce of something of ours, to the address that hears of failures. It is
    /// remembered before it goes on: often it is all that is ever heard.
    pub(super) async fn bounced(
        &self,
        envelope: &Envelope,
        message: &Message,
        now: SystemTime,
    ) -> Result<bool, Reply> {
        let to_us = || {
            envelope
                .recipient_addresses()
                .any(|to| policy::is_ndr(to, &self.rules))
        };
        if envelope.sender.is_some() || !to_us() {
            return Ok(false);
        }
        let Some((item, mut bounce)) = self.composer.bounce(message) else {
            return Ok(false);
        };
        if bounce.reporter.is_empty() {
            bounce.reporter = envelope
                .client
                .ip
                .map_or_else(String::new, |ip| ip.to_string());
        }
        counter!("copyist_bounces_total").increment(1);
        warn!(
            queue_id = envelope.queue_id, %item, status = bounce.status, by = bounce.reporter,
            "a report of ours came back"
        );
        let (item, at) = (item, now);
        match self.spool.bounced(Bounced { item, at, bounce }).await {
            Ok(_) => Ok(true),
            Err(error) => {
                counter!("copyist_messages_deferred_total", "why" => "spool").increment(1);
                warn!(queue_id = envelope.queue_id, "deferred: {error}");
                Err(error.reply())
            }
        }
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
