//! The message itself: DATA and BDAT, to its end, and what becomes of it then.

use std::time::SystemTime;

use metrics::counter;
use tokio::time::Instant;
use tracing::info;

use super::arriving::Incoming;
use super::client::Ended;
use super::passing::Passing;
use super::session::{Between, SILENCE, Session, Transaction};
use crate::mail::{Enhanced, Message, Reply};
use crate::pipeline::{Offer, Passage, Room};
use crate::smtp::{BareLineBreaks, DataDecoder, DataError, find_bare_line_break};

impl Session {
    pub(super) async fn data(&mut self, between: &mut Between) -> Result<(), Ended> {
        let Some(transaction) = self.ready(between) else {
            return Ok(());
        };
        if transaction.chunks.is_some() {
            self.transaction = Some(transaction);
            self.bad_sequence(between, "The message comes in chunks");
            return Ok(());
        }
        // Not to be given back, and not to be finished before the service stops, as long as this
        // stands.
        let (pipeline, until) = (
            transaction.pipeline.clone(),
            transaction.began + self.limits.message_time,
        );
        self.transaction = Some(transaction);
        between
            .client
            .put(b"354 End data with <CR><LF>.<CR><LF>\r\n");
        between.client.flush().await?;
        let mut incoming = Incoming::default();
        let mut decoder = DataDecoder::new(self.terms.door.bare_line_breaks);
        loop {
            let ended = decoder.decode(between.client.input(), &mut incoming.text);
            incoming.grown(&pipeline, &self.limits).await;
            if ended {
                break;
            }
            let until = until.min(Instant::now() + SILENCE.min(self.limits.idle));
            between.client.read(until, None).await?;
        }
        incoming.flaw = decoder.error();
        self.complete(between, incoming, false).await
    }

    pub(super) async fn chunk(
        &mut self,
        between: &mut Between,
        bytes: u64,
        last: bool,
    ) -> Result<(), Ended> {
        let offered = self.offers.chunking;
        let transaction = match offered {
            true => self.ready(between),
            false => {
                self.bad_sequence(between, "CHUNKING is not offered");
                None
            }
        };
        let Some(mut transaction) = transaction else {
            // The bytes come whatever is answered (RFC 3030 section 4.1).
            return self.skip(between, bytes).await;
        };
        let mut chunks = transaction.chunks.take().unwrap_or_default();
        let (pipeline, until) = (
            transaction.pipeline.clone(),
            transaction.began + self.limits.message_time,
        );
        self.transaction = Some(transaction);
        let mut left = bytes;
        while left > 0 {
            let input = between.client.input();
            if input.is_empty() {
                let until = until.min(Instant::now() + SILENCE.min(self.limits.idle));
                between.client.read(until, None).await?;
                continue;
            }
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            let piece = input.split_to(some);
            left -= some as u64;
            let flaw = find_bare_line_break(&piece, &mut chunks.after_cr);
            chunks.incoming.flaw = chunks.incoming.flaw.take().or(flaw);
            chunks.incoming.text.extend_from_slice(&piece);
            chunks.incoming.grown(&pipeline, &self.limits).await;
        }
        if last && chunks.after_cr {
            // Nothing follows that could make a line break of it.
            let flaw = chunks.incoming.flaw.take();
            chunks.incoming.flaw = flaw.or(Some(DataError::BareCarriageReturn));
        }
        if last {
            return self.complete(between, chunks.incoming, true).await;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks = Some(chunks);
        }
        between.client.say(&Reply::new(
            250,
            Enhanced(2, 0, 0),
            format!("{bytes} bytes"),
        ));
        Ok(())
    }

    async fn skip(&mut self, between: &mut Between, bytes: u64) -> Result<(), Ended> {
        let mut left = bytes;
        let until = Instant::now() + self.limits.message_time;
        while left > 0 {
            let input = between.client.input();
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            let _ = input.split_to(some);
            left -= some as u64;
            if left > 0 {
                let until = until.min(Instant::now() + SILENCE.min(self.limits.idle));
                between.client.read(until, None).await?;
            }
        }
        Ok(())
    }

    /// The whole message is there.
    async fn complete(
        &mut self,
        between: &mut Between,
        incoming: Incoming,
        as_chunk: bool,
    ) -> Result<(), Ended> {
        let Some(transaction) = self.transaction.take() else {
            return Ok(());
        };
        let decided = self.decide(&transaction, incoming, as_chunk).await;
        let envelope = self.envelope(&transaction);
        self.end_transaction();
        match decided {
            Ok((message, passage, _room)) => {
                let mut passing = Passing {
                    between,
                    transaction: &transaction,
                    envelope: &envelope,
                    as_chunk,
                };
                passing.pass(&message, passage).await
            }
            Err(reply) => {
                self.refuse(between, reply);
                // The next server has an open transaction, which came to nothing.
                self.ask(between, b"RSET").await.map(|_| ())
            }
        }
    }

    /// What becomes of it.
    async fn decide(
        &self,
        transaction: &Transaction,
        incoming: Incoming,
        as_chunk: bool,
    ) -> Result<(Message, Passage, Option<Room>), Reply> {
        if let Some(excess) = incoming.excess() {
            self.exceeded(excess);
            return Err(excess.reply());
        }
        if let Some(flaw) = incoming.flaw {
            counter!("copyist_bare_line_breaks_total").increment(1);
            let normalizes = self.terms.door.bare_line_breaks == BareLineBreaks::Normalize;
            info!(queue_id = self.identity.queue_id(), client = %self.identity.client(), "{flaw}");
            // In a chunk it would have to be copied; nobody who speaks BDAT sends it.
            if !normalizes || as_chunk {
                return Err(bare(flaw));
            }
        }
        let pipeline = &transaction.pipeline;
        let (content, room) = incoming.finish(pipeline).await?;
        let message = Message::new(content);
        let envelope = self.envelope(transaction);
        let offered = pipeline.offer(
            &envelope,
            &message,
            &transaction.admitted,
            SystemTime::now(),
        );
        match offered.await {
            Offer::Pass(passage) => Ok((message, *passage, room)),
            Offer::Refuse(reply) => Err(reply),
        }
    }
}

/// X.6.0: other or undefined media error (RFC 3463 section 3.7).
fn bare(flaw: DataError) -> Reply {
    Reply::new(550, Enhanced(5, 6, 0), format!("Message refused: {flaw}"))
}
