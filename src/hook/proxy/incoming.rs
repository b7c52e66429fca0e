//! A message that a client is sending.

use bytes::BytesMut;

use crate::hook::body_buffer::BodyBuffer;
use crate::mail::{Content, Reply};
use crate::mail::{LimitExceeded, Limits};
use crate::pipeline::{MemoryReservation, Pipeline};
use crate::smtp::DataError;

/// Bytes of a message that need no reservation.
const UNRESERVED: usize = 32 * 1024;
/// Bytes held before they are written to disk; the first chunk has the whole header.
const PIECE: usize = 256 * 1024;

/// The part of a message received so far.
#[derive(Debug, Default)]
pub(super) struct IncomingMessage {
    /// Bytes held in memory; the reader appends to them and then calls [`IncomingMessage::check`].
    pub(super) text: BytesMut,
    buffered: usize,
    buffer: BodyBuffer,
    is_reserved: bool,
    /// Bytes of the header already searched for its end.
    searched: usize,
    has_whole_header: bool,
    limit_exceeded: Option<LimitExceeded>,
    /// The first bare line break, if messages with one are rejected.
    pub(super) line_break_error: Option<DataError>,
}

impl IncomingMessage {
    /// Checks the limits and writes enough bytes to disk. Once a limit is exceeded, the message is
    /// discarded as it arrives.
    pub(super) async fn check(&mut self, pipeline: &Pipeline, limits: &Limits) {
        if self.limit_exceeded.is_none() {
            self.limit_exceeded = self.check_limits(limits);
        }
        if self.limit_exceeded.is_none() && self.text.len() > UNRESERVED && !self.is_reserved {
            self.is_reserved = self.buffer.reserve(&pipeline.services.memory, PIECE).await;
            self.limit_exceeded = (!self.is_reserved).then_some(LimitExceeded::Memory);
        }
        if self.limit_exceeded.is_some() {
            self.text = BytesMut::new();
            self.buffer = BodyBuffer::default();
        } else if self.text.len() >= PIECE && self.has_whole_header {
            let piece = self.text.split().freeze();
            self.buffered += piece.len();
            self.buffer
                .append(piece, &pipeline.services.spool, &pipeline.services.memory)
                .await;
        }
    }

    fn check_limits(&mut self, limits: &Limits) -> Option<LimitExceeded> {
        if self.buffered + self.text.len() > limits.message_size {
            return Some(LimitExceeded::Message);
        }
        if !self.has_whole_header {
            let from = self.searched.saturating_sub(3);
            self.has_whole_header = self.text.starts_with(b"\r\n")
                || memchr::memmem::find(&self.text[from..], b"\r\n\r\n").is_some();
            self.searched = self.text.len();
        }
        (!self.has_whole_header && self.text.len() > limits.header_size)
            .then_some(LimitExceeded::Header)
    }

    /// Returns the limit that was exceeded.
    pub(super) fn limit_exceeded(&self) -> Option<LimitExceeded> {
        self.limit_exceeded
    }

    /// Returns the message and the reservation for its bytes in memory.
    pub(super) async fn finish(
        self,
        pipeline: &Pipeline,
    ) -> Result<(Content, Option<MemoryReservation>), Reply> {
        let last = self.text.freeze();
        self.buffer
            .finish(last, &pipeline.services.spool, &pipeline.services.memory)
            .await
    }
}
