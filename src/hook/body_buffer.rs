//! Buffer for a message that is being received: a large one is written to the spool's disk.

use std::io;

use bytes::{Bytes, BytesMut};
use tracing::warn;

use crate::mail::{Content, LimitExceeded, Reply};
use crate::pipeline::{MemoryBudget, MemoryReservation};
use crate::spool::{IncomingBody, Spool};

/// The part of a message received so far.
#[derive(Debug, Default)]
pub(super) struct BodyBuffer {
    storage: BodyStorage,
    /// Reservation for its bytes in memory.
    room: Option<MemoryReservation>,
}

#[derive(Debug, Default)]
enum BodyStorage {
    /// Nothing received yet.
    #[default]
    Empty,
    /// Written to a file.
    File {
        incoming: IncomingBody,
        beginning: Bytes,
    },
    /// Kept in memory, because the disk does not take it. The message may not need journaling, so
    /// it is not deferred yet.
    Memory(BytesMut),
    /// Lost: neither disk nor memory has room for it.
    Failed,
}

impl BodyBuffer {
    /// Waits for memory to be reserved; returns `false` if none became free in time.
    pub(super) async fn reserve(&mut self, memory: &MemoryBudget, bytes: usize) -> bool {
        match memory.reserve(bytes).await {
            Some(more) => {
                self.room = Some(match self.room.take() {
                    Some(room) => room.merge(more),
                    None => more,
                });
                true
            }
            None => false,
        }
    }

    /// Appends one chunk.
    pub(super) async fn append(&mut self, piece: Bytes, spool: &Spool, memory: &MemoryBudget) {
        self.storage = match std::mem::take(&mut self.storage) {
            BodyStorage::Empty => match spool.new_body().await {
                Ok(incoming) => {
                    self.append_to_file(incoming, piece.clone(), piece, memory)
                        .await
                }
                Err(cause) => {
                    warn!("cannot write a large message to disk, keeping it in memory: {cause}");
                    self.append_to_memory(BytesMut::new(), &piece, memory).await
                }
            },
            BodyStorage::File {
                incoming,
                beginning,
            } => {
                self.append_to_file(incoming, beginning, piece, memory)
                    .await
            }
            BodyStorage::Memory(kept) => self.append_to_memory(kept, &piece, memory).await,
            BodyStorage::Failed => BodyStorage::Failed,
        };
    }

    /// Appends the last chunk and returns the message with the reservation for its bytes in memory.
    pub(super) async fn finish(
        mut self,
        last: Bytes,
        spool: &Spool,
        memory: &MemoryBudget,
    ) -> Result<(Content, Option<MemoryReservation>), Reply> {
        if let BodyStorage::Empty = self.storage {
            return Ok((Content::Memory(last), self.room));
        }
        self.append(last, spool, memory).await;
        let content = match self.storage {
            BodyStorage::File {
                incoming,
                beginning,
            } => Content::Stored {
                beginning,
                all: incoming.finish(),
            },
            BodyStorage::Memory(kept) => Content::Memory(kept.freeze()),
            BodyStorage::Empty | BodyStorage::Failed => {
                return Err(LimitExceeded::Memory.reply());
            }
        };
        Ok((content, self.room))
    }

    /// Writes a chunk to the file; if the disk does not take it, moves the whole message into
    /// memory.
    async fn append_to_file(
        &mut self,
        mut incoming: IncomingBody,
        beginning: Bytes,
        piece: Bytes,
        memory: &MemoryBudget,
    ) -> BodyStorage {
        let writing = tokio::task::spawn_blocking(move || {
            let written = incoming.append(&piece);
            (incoming, piece, written)
        });
        let (incoming, piece, cause) = match writing.await {
            Ok((incoming, _, Ok(()))) => {
                return BodyStorage::File {
                    incoming,
                    beginning,
                };
            }
            Ok((incoming, piece, Err(cause))) => (incoming, piece, cause),
            Err(cause) => {
                warn!("a large message is deferred: {cause}");
                return BodyStorage::Failed;
            }
        };
        warn!("cannot write a large message to disk, keeping it in memory: {cause}");
        let written = incoming.finish();
        let length = usize::try_from(written.len()).unwrap_or(usize::MAX);
        if !self.reserve(memory, length).await {
            return BodyStorage::Failed;
        }
        let reading = tokio::task::spawn_blocking(move || Content::stored(written)?.read());
        match reading.await.map_err(io::Error::other).flatten() {
            Ok(kept) => self.append_to_memory(kept.into(), &piece, memory).await,
            Err(cause) => {
                warn!("a large message is deferred: {cause}");
                BodyStorage::Failed
            }
        }
    }

    async fn append_to_memory(
        &mut self,
        mut kept: BytesMut,
        piece: &[u8],
        memory: &MemoryBudget,
    ) -> BodyStorage {
        if !self.reserve(memory, piece.len()).await {
            return BodyStorage::Failed;
        }
        kept.extend_from_slice(piece);
        BodyStorage::Memory(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Settings;

    const PIECE: usize = 300_000;

    fn pieces() -> [Bytes; 3] {
        [b'a', b'b', b'c'].map(|letter| vec![letter; PIECE].into())
    }

    fn spool() -> (tempfile::TempDir, Spool) {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(&Settings::new(dir.path())).expect("opened");
        (dir, spool)
    }

    async fn arrive(
        spool: &Spool,
        memory: &MemoryBudget,
    ) -> Result<(Content, Option<MemoryReservation>), Reply> {
        let [first, second, last] = pieces();
        let mut buffer = BodyBuffer::default();
        buffer.append(first, spool, memory).await;
        buffer.append(second, spool, memory).await;
        buffer.finish(last, spool, memory).await
    }

    #[tokio::test]
    async fn a_large_message_is_on_disk_and_takes_no_memory() {
        let (_dir, spool) = spool();
        let memory = MemoryBudget::new(PIECE);
        let (content, _room) = arrive(&spool, &memory).await.expect("arrived");
        assert!(matches!(content, Content::Stored { .. }), "{content:?}");
        assert_eq!(content.beginning(), &pieces()[0]);
        assert_eq!(content.read().expect("readable"), pieces().concat());
        assert_eq!(memory.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_body_the_disk_cannot_take_stays_in_memory() {
        let (dir, spool) = spool();
        std::fs::remove_dir(dir.path().join("spool/bodies")).expect("empty");
        let memory = MemoryBudget::new(4 * PIECE);
        let (content, room) = arrive(&spool, &memory).await.expect("arrived");
        assert!(matches!(content, Content::Memory(_)), "{content:?}");
        assert_eq!(content.read().expect("readable"), pieces().concat());
        assert!(memory.in_flight() > 2 * PIECE, "it is accounted for");
        drop(room);
        assert_eq!(memory.in_flight(), 0, "and given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_fits_nowhere_is_deferred() {
        let (dir, spool) = spool();
        std::fs::remove_dir(dir.path().join("spool/bodies")).expect("empty");
        let memory = MemoryBudget::new(2 * PIECE);
        let refused = arrive(&spool, &memory).await.expect_err("refused");
        assert_eq!(refused.code, 452);
        assert_eq!(memory.in_flight(), 0, "nothing stays accounted for");
    }
}
