//! A message while it arrives, and where it is meanwhile: a large one is written to the spool's
//! disk.

use std::io;

use bytes::{Bytes, BytesMut};
use tracing::warn;

use crate::mail::{Content, LimitExceeded, Reply};
use crate::pipeline::{Memory, Room};
use crate::spool::{IncomingBody, Spool};

/// What of a message was handed over before its end.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    held: Held,
    /// What its bytes in memory are accounted to.
    room: Option<Room>,
}

#[derive(Debug, Default)]
enum Held {
    /// Nothing was.
    #[default]
    Nothing,
    /// It is written to a file.
    File {
        incoming: IncomingBody,
        beginning: Bytes,
    },
    /// The disk does not take it. It may be nobody's to journal, so it is kept in memory as far as
    /// there is any.
    Memory(BytesMut),
    /// Neither the disk nor the memory has room for it.
    Nowhere,
}

impl Arriving {
    /// Waits for room in memory; `false` where there is none.
    pub(super) async fn reserve(&mut self, memory: &Memory, bytes: usize) -> bool {
        match memory.room(bytes).await {
            Some(more) => {
                self.room = Some(match self.room.take() {
                    Some(room) => room.with(more),
                    None => more,
                });
                true
            }
            None => false,
        }
    }

    /// Takes a piece.
    pub(super) async fn piece(&mut self, piece: Bytes, spool: &Spool, memory: &Memory) {
        self.held = match std::mem::take(&mut self.held) {
            Held::Nothing => match spool.new_body().await {
                Ok(incoming) => self.append(incoming, piece.clone(), piece, memory).await,
                Err(cause) => {
                    warn!("a large message is kept in memory: {cause}");
                    self.grow(BytesMut::new(), &piece, memory).await
                }
            },
            Held::File {
                incoming,
                beginning,
            } => self.append(incoming, beginning, piece, memory).await,
            Held::Memory(kept) => self.grow(kept, &piece, memory).await,
            Held::Nowhere => Held::Nowhere,
        };
    }

    /// The message, now that its last piece is there, and what its bytes in memory are accounted
    /// to.
    pub(super) async fn finish(
        mut self,
        last: Bytes,
        spool: &Spool,
        memory: &Memory,
    ) -> Result<(Content, Option<Room>), Reply> {
        if let Held::Nothing = self.held {
            return Ok((Content::Memory(last), self.room));
        }
        self.piece(last, spool, memory).await;
        let content = match self.held {
            Held::File {
                incoming,
                beginning,
            } => Content::Stored {
                beginning,
                all: incoming.finish(),
            },
            Held::Memory(kept) => Content::Memory(kept.freeze()),
            Held::Nothing | Held::Nowhere => return Err(LimitExceeded::Memory.reply()),
        };
        Ok((content, self.room))
    }

    /// Writes a piece to the file; where the disk does not take it, all of the message goes back
    /// into memory.
    async fn append(
        &mut self,
        mut incoming: IncomingBody,
        beginning: Bytes,
        piece: Bytes,
        memory: &Memory,
    ) -> Held {
        let writing = tokio::task::spawn_blocking(move || {
            let written = incoming.append(&piece);
            (incoming, piece, written)
        });
        let (incoming, piece, cause) = match writing.await {
            Ok((incoming, _, Ok(()))) => {
                return Held::File {
                    incoming,
                    beginning,
                };
            }
            Ok((incoming, piece, Err(cause))) => (incoming, piece, cause),
            Err(cause) => {
                warn!("a large message is deferred: {cause}");
                return Held::Nowhere;
            }
        };
        warn!("a large message is kept in memory: {cause}");
        let written = incoming.finish();
        let length = usize::try_from(written.len()).unwrap_or(usize::MAX);
        if !self.reserve(memory, length).await {
            return Held::Nowhere;
        }
        let reading = tokio::task::spawn_blocking(move || Content::stored(written)?.read());
        match reading.await.map_err(io::Error::other).flatten() {
            Ok(kept) => self.grow(kept.into(), &piece, memory).await,
            Err(cause) => {
                warn!("a large message is deferred: {cause}");
                Held::Nowhere
            }
        }
    }

    async fn grow(&mut self, mut kept: BytesMut, piece: &[u8], memory: &Memory) -> Held {
        if !self.reserve(memory, piece.len()).await {
            return Held::Nowhere;
        }
        kept.extend_from_slice(piece);
        Held::Memory(kept)
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

    async fn arrive(spool: &Spool, memory: &Memory) -> Result<(Content, Option<Room>), Reply> {
        let [first, second, last] = pieces();
        let mut arriving = Arriving::default();
        arriving.piece(first, spool, memory).await;
        arriving.piece(second, spool, memory).await;
        arriving.finish(last, spool, memory).await
    }

    #[tokio::test]
    async fn a_large_message_is_on_disk_and_takes_no_memory() {
        let (_dir, spool) = spool();
        let memory = Memory::new(PIECE);
        let (content, _room) = arrive(&spool, &memory).await.expect("arrived");
        assert!(matches!(content, Content::Stored { .. }), "{content:?}");
        assert_eq!(content.beginning(), &pieces()[0]);
        assert_eq!(content.read().expect("readable"), pieces().concat());
        assert_eq!(memory.in_flight(), 0);
    }

    #[tokio::test]
    async fn what_the_disk_does_not_take_stays_in_memory_as_far_as_there_is_any() {
        let (dir, spool) = spool();
        std::fs::remove_dir(dir.path().join("spool/bodies")).expect("empty");
        let memory = Memory::new(4 * PIECE);
        let (content, room) = arrive(&spool, &memory).await.expect("arrived");
        assert!(matches!(content, Content::Memory(_)), "{content:?}");
        assert_eq!(content.read().expect("readable"), pieces().concat());
        assert!(memory.in_flight() > 2 * PIECE, "it is accounted for");
        drop(room);
        assert_eq!(memory.in_flight(), 0, "and given back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_neither_takes_is_deferred() {
        let (dir, spool) = spool();
        std::fs::remove_dir(dir.path().join("spool/bodies")).expect("empty");
        let memory = Memory::new(2 * PIECE);
        let refused = arrive(&spool, &memory).await.expect_err("refused");
        assert_eq!(refused.code, 452);
        assert_eq!(memory.in_flight(), 0, "nothing stays accounted for");
    }
}
