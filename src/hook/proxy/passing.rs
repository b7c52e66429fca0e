//! A message is handed on, and what the next server says decides about what is owed for it.

use bytes::Bytes;
use metrics::counter;
use tracing::{info, warn};

use super::client::Ended;
use super::next_hop::{HopError, said};
use super::session::{Between, Transaction};
use super::transmit::{Failure, Outgoing, Sent, answered, transmit};
use crate::journal::ItemId;
use crate::mail::{Enhanced, Envelope, Message, Reply};
use crate::pipeline::{Other, Passage};
use crate::spool::{CommitError, Reservation};

/// A message on its way to the next server.
pub(super) struct Passing<'a> {
    pub(super) between: &'a mut Between,
    pub(super) transaction: &'a Transaction,
    pub(super) envelope: &'a Envelope,
    pub(super) as_chunk: bool,
}

impl Passing<'_> {
    /// Hands it on; the next server's answer is the client's, and decides about what is owed.
    pub(super) async fn pass(&mut self, message: &Message, passage: Passage) -> Result<(), Ended> {
        let Passage {
            changes,
            others,
            held,
        } = passage;
        let outgoing = match &changes.edited {
            Some(edited) => Outgoing::new(edited, false),
            None => Outgoing::new(message, changes.strips),
        };
        let sent = match changes.moved.is_empty() {
            true => transmit(&mut self.between.hop, &outgoing, self.as_chunk).await,
            false => {
                let places = 0..self.transaction.rcpts.len();
                let staying: Vec<usize> = places
                    .filter(|place| !changes.moved.contains(place))
                    .collect();
                self.anew(&staying, &outgoing).await
            }
        };
        match sent {
            Sent::Answered(answer) if answer.is_positive() => {
                self.count("delivered");
                info!(
                    queue_id = self.envelope.queue_id,
                    reply = said(&answer),
                    "the next server has it"
                );
                let (done, lost) = self.others(&others).await;
                self.settled(released(held, done).await);
                self.between.client.pass(&answer);
                lost.map_or(Ok(()), |error| Err(Ended::NextHop(error)))
            }
            Sent::Answered(answer) => {
                self.count(if answer.is_transient() {
                    "deferred"
                } else {
                    "refused"
                });
                info!(
                    queue_id = self.envelope.queue_id,
                    reply = said(&answer),
                    "the next server does not take it"
                );
                self.settled(withdrawn(held).await);
                self.between.client.pass(&answer);
                match answer.code {
                    421 => Err(Ended::Dismissed),
                    _ => Ok(()),
                }
            }
            Sent::Withheld(failure) => {
                self.count("failed");
                warn!(queue_id = self.envelope.queue_id, "deferred: {failure}");
                self.settled(withdrawn(held).await);
                self.between.client.say(&lost_on_the_way());
                Err(Ended::NextHop(HopError::Closed))
            }
            Sent::Unknown(error) => {
                self.count("unknown");
                warn!(
                    queue_id = self.envelope.queue_id,
                    "deferred, and what is owed is delivered: whether the next server has it is not known, it {error}"
                );
                self.settled(kept(held).await);
                self.between.client.say(&lost_on_the_way());
                Err(Ended::NextHop(error))
            }
        }
    }

    fn count(&self, result: &'static str) {
        counter!("copyist_smtp_messages_total", "result" => result).increment(1);
    }

    /// What is held stays so where this fails; the spool has failed then, and the next start
    /// releases it.
    fn settled(&self, settled: Result<(), CommitError>) {
        if let Err(cause) = settled {
            warn!(
                queue_id = self.envelope.queue_id,
                "what is held for it stays so until the next start: {cause}"
            );
        }
    }

    /// The versions that others get, each in a transaction of its own. Gives the items that are
    /// done with, and why the next server cannot be asked any more. What it does not take at once,
    /// for all of them, is delivered by the relay.
    async fn others(&mut self, others: &[Other]) -> (Vec<ItemId>, Option<HopError>) {
        let mut done = Vec::new();
        for other in others {
            let outgoing = Outgoing::new(&other.message, false);
            match self.anew(&other.recipients, &outgoing).await {
                Sent::Answered(answer) if answer.is_positive() => {
                    self.count("version_delivered");
                    done.extend(other.items.iter().cloned());
                }
                Sent::Answered(answer) => {
                    self.count("version_owed");
                    warn!(
                        queue_id = self.envelope.queue_id,
                        reply = said(&answer),
                        "the relay gets a version that the next server does not take"
                    );
                }
                Sent::Withheld(failure) => {
                    self.count("version_owed");
                    warn!(
                        queue_id = self.envelope.queue_id,
                        "the relay gets what is left: {failure}"
                    );
                    return (done, Some(HopError::Closed));
                }
                Sent::Unknown(error) => {
                    self.count("version_owed");
                    warn!(
                        queue_id = self.envelope.queue_id,
                        "the relay gets what is left: the next server {error}"
                    );
                    return (done, Some(error));
                }
            }
        }
        (done, None)
    }

    /// A transaction of its own for some of the recipients. Where the next server does not take
    /// each of them again, nothing is sent.
    async fn anew(&mut self, places: &[usize], outgoing: &Outgoing) -> Sent {
        let transaction = self.transaction;
        let rcpts = places
            .iter()
            .filter_map(|&place| transaction.rcpts.get(place));
        let commands = [&Bytes::from_static(b"RSET"), &transaction.mail];
        for line in commands.into_iter().chain(rcpts) {
            match self.between.hop.ask(line).await {
                Ok(answer) if answer.is_positive() => {}
                Ok(answer) if answer.is_intermediate() => {
                    return Sent::Withheld(Failure::Nonsense(answer.code));
                }
                Ok(answer) => return answered(&mut self.between.hop, answer).await,
                Err(error) => return Sent::Withheld(error.into()),
            }
        }
        transmit(&mut self.between.hop, outgoing, self.as_chunk).await
    }
}

async fn released(held: Option<Reservation>, done: Vec<ItemId>) -> Result<(), CommitError> {
    match held {
        Some(held) => held.confirm(done).await,
        None => Ok(()),
    }
}

async fn withdrawn(held: Option<Reservation>) -> Result<(), CommitError> {
    match held {
        Some(held) => held.cancel().await,
        None => Ok(()),
    }
}

async fn kept(held: Option<Reservation>) -> Result<(), CommitError> {
    match held {
        Some(held) => held.keep_unknown().await,
        None => Ok(()),
    }
}

fn lost_on_the_way() -> Reply {
    // X.4.2: bad connection (RFC 3463 section 3.5).
    Reply::new(
        451,
        Enhanced(4, 4, 2),
        "The next server was lost, try again",
    )
}
