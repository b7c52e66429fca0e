//! A message while the client sends it.

use bytes::BytesMut;

use crate::hook::arriving::Arriving;
use crate::mail::{Content, Reply};
use crate::mail::{LimitExceeded, Limits};
use crate::pipeline::{Pipeline, Room};
use crate::smtp::DataError;

/// Bytes that a message may hold without asking for room.
const FREE: usize = 32 * 1024;
/// Bytes that are held before they are given to the disk; the first piece has the whole header.
const PIECE: usize = 256 * 1024;

/// What has come of it.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// What is held here; whoever reads puts more behind it and then calls [`Incoming::grown`].
    pub(super) text: BytesMut,
    given: usize,
    rest: Arriving,
    has_room: bool,
    /// How far the header was searched for its end, and whether that was found.
    searched: usize,
    header_ended: bool,
    excess: Option<LimitExceeded>,
    /// The first bare line break, where messages with one are refused.
    pub(super) flaw: Option<DataError>,
}

impl Incoming {
    /// Looks at what has come, and gives it to the disk once it is enough. Beyond a limit nothing
    /// is kept any more, and the rest is passed over.
    pub(super) async fn grown(&mut self, pipeline: &Pipeline, limits: &Limits) {
        if self.excess.is_none() {
            self.excess = self.exceeded(limits);
        }
        if self.excess.is_none() && self.text.len() > FREE && !self.has_room {
            self.has_room = self.rest.reserve(&pipeline.memory, PIECE).await;
            self.excess = (!self.has_room).then_some(LimitExceeded::Memory);
        }
        if self.excess.is_some() {
            self.text = BytesMut::new();
            self.rest = Arriving::default();
        } else if self.text.len() >= PIECE && self.header_ended {
            let piece = self.text.split().freeze();
            self.given += piece.len();
            self.rest
                .piece(piece, &pipeline.spool, &pipeline.memory)
                .await;
        }
    }

    fn exceeded(&mut self, limits: &Limits) -> Option<LimitExceeded> {
        if self.given + self.text.len() > limits.message_size {
            return Some(LimitExceeded::Message);
        }
        if !self.header_ended {
            let from = self.searched.saturating_sub(3);
            self.header_ended = self.text.starts_with(b"\r\n")
                || memchr::memmem::find(&self.text[from..], b"\r\n\r\n").is_some();
            self.searched = self.text.len();
        }
        (!self.header_ended && self.text.len() > limits.header_size)
            .then_some(LimitExceeded::Header)
    }

    /// The limit that it went beyond.
    pub(super) fn excess(&self) -> Option<LimitExceeded> {
        self.excess
    }

    /// The message, and what its bytes in memory are accounted to.
    pub(super) async fn finish(
        self,
        pipeline: &Pipeline,
    ) -> Result<(Content, Option<Room>), Reply> {
        let last = self.text.freeze();
        self.rest
            .finish(last, &pipeline.spool, &pipeline.memory)
            .await
    }
}
