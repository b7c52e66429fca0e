//! DATA and BDAT: receives a message, has it processed, and transfers it to the next hop.

use std::time::SystemTime;

use metrics::counter;
use tokio::time::Instant;
use tracing::info;

use super::client::SessionEnd;
use super::incoming::IncomingMessage;
use super::session::{CLIENT_TIMEOUT, Link, Session, Transaction};
use super::transfer::Transfer;
use crate::mail::{Enhanced, Message, Reply};
use crate::pipeline::{Handover, MemoryReservation};
use crate::smtp::{BareLineBreaks, DataDecoder, DataError, find_bare_line_break};

impl Session {
    pub(super) async fn data(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        let Some(transaction) = self.take_transaction(link) else {
            return Ok(());
        };
        if transaction.chunks.is_some() {
            self.transaction = Some(transaction);
            self.bad_sequence(link, "The message is being sent by BDAT");
            return Ok(());
        }
        // While the transaction is open, the connection to the next hop is not returned to the
        // pool, and a shutdown waits.
        let (pipeline, until) = (
            transaction.pipeline.clone(),
            transaction.began + self.limits.message_time,
        );
        self.transaction = Some(transaction);
        link.client
            .write(b"354 End data with <CR><LF>.<CR><LF>\r\n");
        link.client.flush().await?;
        let mut incoming = IncomingMessage::default();
        let mut decoder = DataDecoder::new(self.terms.listener.bare_line_breaks);
        loop {
            let ended = decoder.decode(link.client.input(), &mut incoming.text);
            incoming.check(&pipeline, &self.limits).await;
            if ended {
                break;
            }
            let until = until.min(Instant::now() + CLIENT_TIMEOUT.min(self.limits.idle));
            link.client.read(until, None).await?;
        }
        incoming.line_break_error = decoder.error();
        self.complete(link, incoming, false).await
    }

    pub(super) async fn chunk(
        &mut self,
        link: &mut Link,
        bytes: u64,
        last: bool,
    ) -> Result<(), SessionEnd> {
        let offered = self.offers.chunking;
        let transaction = match offered {
            true => self.take_transaction(link),
            false => {
                self.bad_sequence(link, "CHUNKING is not offered");
                None
            }
        };
        let Some(mut transaction) = transaction else {
            // The client sends the bytes whatever the reply is (RFC 3030 section 4.1).
            return self.skip(link, bytes).await;
        };
        let mut chunks = transaction.chunks.take().unwrap_or_default();
        let (pipeline, until) = (
            transaction.pipeline.clone(),
            transaction.began + self.limits.message_time,
        );
        self.transaction = Some(transaction);
        let mut left = bytes;
        while left > 0 {
            let input = link.client.input();
            if input.is_empty() {
                let until = until.min(Instant::now() + CLIENT_TIMEOUT.min(self.limits.idle));
                link.client.read(until, None).await?;
                continue;
            }
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            let piece = input.split_to(some);
            left -= some as u64;
            let line_break_error = find_bare_line_break(&piece, &mut chunks.after_cr);
            chunks.incoming.line_break_error =
                chunks.incoming.line_break_error.take().or(line_break_error);
            chunks.incoming.text.extend_from_slice(&piece);
            chunks.incoming.check(&pipeline, &self.limits).await;
        }
        if last && chunks.after_cr {
            // No LF can follow that would complete the line break.
            let line_break_error = chunks.incoming.line_break_error.take();
            chunks.incoming.line_break_error =
                line_break_error.or(Some(DataError::BareCarriageReturn));
        }
        if last {
            return self.complete(link, chunks.incoming, true).await;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks = Some(chunks);
        }
        link.client.reply(&Reply::new(
            250,
            Enhanced(2, 0, 0),
            format!("{bytes} bytes"),
        ));
        Ok(())
    }

    async fn skip(&mut self, link: &mut Link, bytes: u64) -> Result<(), SessionEnd> {
        let mut left = bytes;
        let until = Instant::now() + self.limits.message_time;
        while left > 0 {
            let input = link.client.input();
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            let _ = input.split_to(some);
            left -= some as u64;
            if left > 0 {
                let until = until.min(Instant::now() + CLIENT_TIMEOUT.min(self.limits.idle));
                link.client.read(until, None).await?;
            }
        }
        Ok(())
    }

    /// Processes a complete message, and transfers or rejects it.
    async fn complete(
        &mut self,
        link: &mut Link,
        incoming: IncomingMessage,
        as_chunk: bool,
    ) -> Result<(), SessionEnd> {
        let Some(transaction) = self.transaction.take() else {
            return Ok(());
        };
        let processed = self.process(&transaction, incoming, as_chunk).await;
        let envelope = self.envelope(&transaction);
        self.end_transaction();
        match processed {
            Ok((message, handover, _room)) => {
                let mut transfer = Transfer {
                    link,
                    transaction: &transaction,
                    envelope: &envelope,
                    as_chunk,
                };
                transfer.run(&message, handover).await
            }
            Err(reply) => {
                self.reject(link, reply);
                // The next hop still has the transaction open.
                self.command(link, b"RSET").await.map(|_| ())
            }
        }
    }

    /// Has the pipeline process the message.
    async fn process(
        &self,
        transaction: &Transaction,
        incoming: IncomingMessage,
        as_chunk: bool,
    ) -> Result<(Message, Handover, Option<MemoryReservation>), Reply> {
        if let Some(limit) = incoming.limit_exceeded() {
            self.limit_exceeded(limit);
            return Err(limit.reply());
        }
        if let Some(line_break_error) = incoming.line_break_error {
            counter!("copyist_bare_line_breaks_total").increment(1);
            let normalizes = self.terms.listener.bare_line_breaks == BareLineBreaks::Normalize;
            info!(queue_id = self.identity.queue_id(), client = %self.identity.client(), "{line_break_error}");
            // A chunk would have to be copied, and clients that use BDAT do not send bare line
            // breaks.
            if !normalizes || as_chunk {
                return Err(bare_line_break_reply(line_break_error));
            }
        }
        let pipeline = &transaction.pipeline;
        let (content, room) = incoming.finish(pipeline).await?;
        let message = Message::new(content);
        let envelope = self.envelope(transaction);
        let handover = pipeline
            .offer(
                &envelope,
                &message,
                &transaction.recipient_checks,
                SystemTime::now(),
            )
            .await?;
        Ok((message, handover, room))
    }
}

/// X.6.0: other or undefined media error (RFC 3463 section 3.7).
fn bare_line_break_reply(line_break_error: DataError) -> Reply {
    Reply::new(
        550,
        Enhanced(5, 6, 0),
        format!("Message rejected: {line_break_error}"),
    )
}
