//! Transfers a message to the next hop and settles the reservation of its items by the next hop's
//! reply.

use bytes::Bytes;
use metrics::counter;
use tracing::{info, warn};

use super::client::SessionEnd;
use super::next_hop::{NextHopError, reply_line};
use super::session::{Link, Transaction};
use super::transmit::{Outgoing, TransmitError, TransmitOutcome, reset_after_rejection, transmit};
use crate::error::chain;
use crate::journal::ItemId;
use crate::mail::{Enhanced, Envelope, Message, Reply};
use crate::pipeline::{Handover, SeparateVersion};
use crate::spool::{CommitError, Reservation};

/// The transfer of one message.
pub(super) struct Transfer<'a> {
    pub(super) link: &'a mut Link,
    pub(super) transaction: &'a Transaction,
    pub(super) envelope: &'a Envelope,
    pub(super) as_chunk: bool,
}

impl Transfer<'_> {
    /// Transfers the message. The next hop's reply goes to the client and settles the reservation.
    pub(super) async fn run(
        &mut self,
        message: &Message,
        handover: Handover,
    ) -> Result<(), SessionEnd> {
        let Handover {
            changes,
            versions,
            reservation,
        } = handover;
        let outgoing = match &changes.edited {
            Some(edited) => Outgoing::new(edited, false),
            None => Outgoing::new(message, changes.strips),
        };
        let sent = match changes.moved.is_empty() {
            true => transmit(&mut self.link.hop, &outgoing, self.as_chunk).await,
            false => {
                let places = 0..self.transaction.rcpts.len();
                let staying: Vec<usize> = places
                    .filter(|place| !changes.moved.contains(place))
                    .collect();
                self.send_in_new_transaction(&staying, &outgoing).await
            }
        };
        match sent {
            TransmitOutcome::Replied(answer) if answer.is_positive() => {
                self.count("delivered");
                info!(
                    queue_id = self.envelope.queue_id,
                    reply = reply_line(&answer),
                    "delivered to the next hop"
                );
                let (done, lost) = self.transfer_versions(&versions).await;
                self.log_settlement(confirm(reservation, done).await);
                self.link.client.forward(&answer);
                lost.map_or(Ok(()), |error| Err(SessionEnd::NextHop(error)))
            }
            TransmitOutcome::Replied(answer) => {
                self.count(if answer.is_transient() {
                    "deferred"
                } else {
                    "refused"
                });
                info!(
                    queue_id = self.envelope.queue_id,
                    reply = reply_line(&answer),
                    "rejected by the next hop"
                );
                self.log_settlement(cancel(reservation).await);
                self.link.client.forward(&answer);
                match answer.code {
                    421 => Err(SessionEnd::NextHopClosed),
                    _ => Ok(()),
                }
            }
            TransmitOutcome::NotSent(failure) => {
                self.count("failed");
                warn!(
                    queue_id = self.envelope.queue_id,
                    "deferred: {}",
                    chain(&failure)
                );
                self.log_settlement(cancel(reservation).await);
                self.link.client.reply(&next_hop_lost());
                Err(SessionEnd::NextHop(NextHopError::Closed))
            }
            TransmitOutcome::Unknown(error) => {
                self.count("unknown");
                warn!(
                    queue_id = self.envelope.queue_id,
                    "deferred; the reports are delivered, since it is unknown whether the next hop has the message: it {}",
                    chain(&error)
                );
                self.log_settlement(keep_unknown(reservation).await);
                self.link.client.reply(&next_hop_lost());
                Err(SessionEnd::NextHop(error))
            }
        }
    }

    fn count(&self, result: &'static str) {
        counter!("copyist_smtp_messages_total", "result" => result).increment(1);
    }

    /// Logs a failure to settle the reservation. The spool has failed then; the items stay reserved
    /// until the next start.
    fn log_settlement(&self, settled: Result<(), CommitError>) {
        if let Err(cause) = settled {
            warn!(
                queue_id = self.envelope.queue_id,
                "its items stay reserved until the next start: {}",
                chain(&cause)
            );
        }
    }

    /// Transfers the separate versions, each in its own transaction. Returns the items that are
    /// done, and the error if the connection was lost. Versions that the next hop does not accept
    /// for all their recipients are delivered by the relay.
    async fn transfer_versions(
        &mut self,
        versions: &[SeparateVersion],
    ) -> (Vec<ItemId>, Option<NextHopError>) {
        let mut done = Vec::new();
        for version in versions {
            let outgoing = Outgoing::new(&version.message, false);
            match self
                .send_in_new_transaction(&version.recipients, &outgoing)
                .await
            {
                TransmitOutcome::Replied(answer) if answer.is_positive() => {
                    self.count("version_delivered");
                    done.extend(version.items.iter().cloned());
                }
                TransmitOutcome::Replied(answer) => {
                    self.count("version_owed");
                    warn!(
                        queue_id = self.envelope.queue_id,
                        reply = reply_line(&answer),
                        "version rejected by the next hop, queued for the relay"
                    );
                }
                TransmitOutcome::NotSent(failure) => {
                    self.count("version_owed");
                    warn!(
                        queue_id = self.envelope.queue_id,
                        "remaining versions queued for the relay: {}",
                        chain(&failure)
                    );
                    return (done, Some(NextHopError::Closed));
                }
                TransmitOutcome::Unknown(error) => {
                    self.count("version_owed");
                    warn!(
                        queue_id = self.envelope.queue_id,
                        "remaining versions queued for the relay: the next hop {}",
                        chain(&error)
                    );
                    return (done, Some(error));
                }
            }
        }
        (done, None)
    }

    /// Sends a message to some of the recipients in a new transaction. If the next hop does not
    /// accept each of them again, nothing is sent.
    async fn send_in_new_transaction(
        &mut self,
        places: &[usize],
        outgoing: &Outgoing,
    ) -> TransmitOutcome {
        let transaction = self.transaction;
        let rcpts = places
            .iter()
            .filter_map(|&place| transaction.rcpts.get(place));
        let commands = [&Bytes::from_static(b"RSET"), &transaction.mail];
        for line in commands.into_iter().chain(rcpts) {
            match self.link.hop.command(line).await {
                Ok(answer) if answer.is_positive() => {}
                Ok(answer) if answer.is_intermediate() => {
                    return TransmitOutcome::NotSent(TransmitError::UnexpectedReply(answer.code));
                }
                Ok(answer) => return reset_after_rejection(&mut self.link.hop, answer).await,
                Err(error) => return TransmitOutcome::NotSent(error.into()),
            }
        }
        transmit(&mut self.link.hop, outgoing, self.as_chunk).await
    }
}

async fn confirm(reservation: Option<Reservation>, done: Vec<ItemId>) -> Result<(), CommitError> {
    match reservation {
        Some(reservation) => reservation.confirm(done).await,
        None => Ok(()),
    }
}

async fn cancel(reservation: Option<Reservation>) -> Result<(), CommitError> {
    match reservation {
        Some(reservation) => reservation.cancel().await,
        None => Ok(()),
    }
}

async fn keep_unknown(reservation: Option<Reservation>) -> Result<(), CommitError> {
    match reservation {
        Some(reservation) => reservation.keep_unknown().await,
        None => Ok(()),
    }
}

fn next_hop_lost() -> Reply {
    // X.4.2: bad connection (RFC 3463 section 3.5).
    Reply::new(
        451,
        Enhanced(4, 4, 2),
        "Connection to the next hop lost, try again",
    )
}
