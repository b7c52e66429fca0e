//! The bytes of a message, wherever they are: a large one is never held in memory whole.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Bytes that are read at once from where they are stored.
const PIECE: usize = 256 * 1024;

/// Bytes of a stored message that [`Content::beginning`] gives at least.
pub const BEGINNING: usize = 256 * 1024;

/// Bytes that are stored somewhere and read piece by piece. They never change.
pub trait Stored: Any + Send + Sync + fmt::Debug {
    /// How many there are.
    fn len(&self) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `into` from this place on. May take as long as a disk takes.
    fn read_exact_at(&self, into: &mut [u8], place: u64) -> io::Result<()>;
}

/// The bytes of a message. Cloning shares them.
#[derive(Clone)]
pub enum Content {
    /// In memory.
    Memory(Bytes),
    /// Elsewhere, but for the beginning.
    Stored {
        /// At least [`BEGINNING`] bytes; while the message arrives also the whole header.
        beginning: Bytes,
        /// All of them.
        all: Arc<dyn Stored>,
    },
}

impl Content {
    /// Bytes that are stored elsewhere; reads the beginning.
    pub fn stored(all: Arc<dyn Stored>) -> io::Result<Content> {
        let length = usize::try_from(all.len()).unwrap_or(usize::MAX);
        let beginning = read(&*all, 0, length.min(BEGINNING))?;
        Ok(Content::Stored { beginning, all })
    }

    /// The same with other bytes in place of the first `length`, which must be of the header.
    pub fn with_beginning(&self, other: Bytes, length: usize) -> Content {
        let rest = self.beginning().get(length..).unwrap_or_default();
        let beginning = Bytes::from([&other[..], rest].concat());
        match self {
            Content::Memory(_) => Content::Memory(beginning),
            Content::Stored { all, .. } => Content::Stored {
                beginning,
                all: Arc::new(Spliced {
                    first: other,
                    rest: all.clone(),
                    from: length as u64,
                }),
            },
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Content::Memory(bytes) => bytes.len(),
            // What a file system holds and an address space does not is larger than any message.
            Content::Stored { all, .. } => usize::try_from(all.len()).unwrap_or(usize::MAX),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is in memory: everything, or the beginning.
    pub fn beginning(&self) -> &Bytes {
        match self {
            Content::Memory(bytes) => bytes,
            Content::Stored { beginning, .. } => beginning,
        }
    }

    /// All of it from this place on, in order and in pieces. Where an error is given, nothing
    /// follows.
    pub fn pieces(&self, from: usize) -> Pieces {
        Pieces {
            content: self.clone(),
            place: from,
        }
    }

    /// All of it, in memory.
    pub fn read(&self) -> io::Result<Bytes> {
        match self {
            Content::Memory(bytes) => Ok(bytes.clone()),
            Content::Stored { all, .. } => read(&**all, 0, self.len()),
        }
    }

    /// Whether these are the same bytes at the same place: told without looking at them.
    pub fn is_same(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Memory(one), Content::Memory(other)) => {
                one.as_ptr() == other.as_ptr() && one.len() == other.len()
            }
            (Content::Stored { all: one, .. }, Content::Stored { all: other, .. }) => {
                Arc::ptr_eq(one, other)
            }
            _ => false,
        }
    }
}

/// Stored bytes with another beginning.
#[derive(Debug)]
struct Spliced {
    first: Bytes,
    rest: Arc<dyn Stored>,
    /// Where the rest begins.
    from: u64,
}

impl Stored for Spliced {
    fn len(&self) -> u64 {
        self.first.len() as u64 + self.rest.len().saturating_sub(self.from)
    }

    fn read_exact_at(&self, into: &mut [u8], place: u64) -> io::Result<()> {
        let start = usize::try_from(place).unwrap_or(usize::MAX);
        let first = self.first.get(start..).unwrap_or_default();
        let (of_first, of_rest) = into.split_at_mut(first.len().min(into.len()));
        of_first.copy_from_slice(&first[..of_first.len()]);
        if of_rest.is_empty() {
            return Ok(());
        }
        let read = place + of_first.len() as u64;
        let place = self.from + (read - self.first.len() as u64);
        self.rest.read_exact_at(of_rest, place)
    }
}

fn read(stored: &dyn Stored, from: usize, length: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(length);
    stored.read_exact_at(&mut bytes, from as u64)?;
    Ok(bytes.freeze())
}

/// See [`Content::pieces`].
#[derive(Debug)]
pub struct Pieces {
    content: Content,
    place: usize,
}

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        let length = self.content.len();
        let from = self.place;
        if from >= length {
            return None;
        }
        let (piece, end) = match &self.content {
            Content::Memory(bytes) => (Ok(bytes.slice(from..)), length),
            Content::Stored { all, .. } => {
                let end = length.min(from + PIECE);
                (read(&**all, from, end - from), end)
            }
        };
        self.place = if piece.is_ok() { end } else { length };
        Some(piece)
    }
}

/// Told without reading what is stored: that is equal to itself alone.
impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Memory(one), Content::Memory(other)) => one == other,
            _ => self.is_same(other),
        }
    }
}

impl Eq for Content {}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Content {
        Content::Memory(bytes)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Content {
        Content::Memory(bytes.into())
    }
}

/// Where they are and how many: what a message says is nobody's business in a log.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Memory(bytes) => write!(f, "{} bytes in memory", bytes.len()),
            Content::Stored { all, .. } => write!(f, "{} bytes in {all:?}", all.len()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Stored bytes, as far as they can be read.
    #[derive(Debug)]
    pub(crate) struct Shelf {
        pub(crate) bytes: Vec<u8>,
        /// Reading at or beyond this place fails.
        pub(crate) broken_at: u64,
    }

    impl Stored for Shelf {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_exact_at(&self, into: &mut [u8], place: u64) -> io::Result<()> {
            if place + into.len() as u64 > self.broken_at {
                return Err(io::Error::other("broken"));
            }
            let place = usize::try_from(place).expect("small");
            into.copy_from_slice(&self.bytes[place..place + into.len()]);
            Ok(())
        }
    }

    /// The same bytes as stored ones.
    pub(crate) fn shelved(bytes: &[u8]) -> Content {
        let shelf = Shelf {
            bytes: bytes.to_vec(),
            broken_at: u64::MAX,
        };
        Content::stored(Arc::new(shelf)).expect("readable")
    }

    #[test]
    fn stored_bytes_come_back_in_pieces_and_whole() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let content = shelved(&bytes);
            assert_eq!(content.len(), length);
            assert_eq!(content.read().expect("readable"), bytes);
            assert_eq!(content.beginning()[..], bytes[..length.min(BEGINNING)]);
            for from in [0, 1, length / 2, length] {
                let pieces: Vec<Bytes> = content
                    .pieces(from)
                    .collect::<Result<_, _>>()
                    .expect("readable");
                assert_eq!(pieces.concat(), bytes[from.min(length)..]);
            }
        }
    }

    #[test]
    fn another_beginning_is_read_like_the_first() {
        let bytes: Vec<u8> = (0..2 * PIECE).map(|n| (n % 251) as u8).collect();
        for (other, length) in [("", 0), ("", 7), ("abc", 0), ("abc", 100)] {
            let expected = [other.as_bytes(), &bytes[length..]].concat();
            for content in [shelved(&bytes), Content::Memory(bytes.clone().into())] {
                let found = content.with_beginning(Bytes::from(other), length);
                assert_eq!(found.len(), expected.len());
                assert_eq!(found.read().expect("readable"), expected);
                assert!(expected.starts_with(found.beginning()));
                let pieces: Result<Vec<Bytes>, _> = found.pieces(1).collect();
                assert_eq!(pieces.expect("readable").concat(), expected[1..]);
            }
        }
    }

    #[test]
    fn after_an_error_nothing_follows() {
        let shelf = Shelf {
            bytes: vec![0; 3 * PIECE],
            broken_at: 2 * PIECE as u64,
        };
        let content = Content::stored(Arc::new(shelf)).expect("its beginning is readable");
        let read: Vec<bool> = content.pieces(0).map(|piece| piece.is_ok()).collect();
        assert_eq!(read, [true, true, false]);
        assert!(content.read().is_err());
    }
}
