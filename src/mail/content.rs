//! The bytes of a message, in memory or elsewhere: a large one is never in memory as a whole.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Bytes read from storage at once.
const CHUNK_SIZE: usize = 256 * 1024;

/// Size in bytes of the part of a stored message that is kept in memory.
pub const BEGINNING: usize = 256 * 1024;

/// Immutable bytes in some storage, read in chunks.
pub trait Stored: Send + Sync + fmt::Debug {
    /// Returns the number of bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `into` with the bytes from this offset on. Blocks for as long as the disk takes.
    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;

    /// Returns the spool's file that holds exactly these bytes, if they were written to one while the
    /// message was received.
    fn body_file(&self) -> Option<&dyn BodyFile> {
        None
    }
}

/// A file of the spool with a received message, which is not durable yet.
pub trait BodyFile {
    /// The name that the file has once it is durable.
    fn name(&self) -> &str;

    /// SHA-256 of the content.
    fn sha256(&self) -> &[u8];

    /// Makes content and name durable. Blocks for as long as the disk takes.
    fn make_durable(&self) -> io::Result<()>;
}

/// The bytes of a message. Cloning shares them.
#[derive(Clone)]
pub enum Content {
    /// In memory.
    Memory(Bytes),
    /// Elsewhere, with the beginning in memory.
    Stored {
        /// At least [`BEGINNING`] bytes; while the message arrives, also the whole header.
        beginning: Bytes,
        /// All bytes.
        all: Arc<dyn Stored>,
    },
}

impl Content {
    /// Creates content that is stored elsewhere, and reads the beginning.
    pub fn stored(all: Arc<dyn Stored>) -> io::Result<Content> {
        let length = usize::try_from(all.len()).unwrap_or(usize::MAX);
        let beginning = read(&*all, 0, length.min(BEGINNING))?;
        Ok(Content::Stored { beginning, all })
    }

    /// Returns the content with other bytes in place of the first `length`, which must belong to
    /// the header.
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

    /// Returns the spool's file that holds exactly this content, if there is one.
    pub fn body_file(&self) -> Option<&dyn BodyFile> {
        match self {
            Content::Memory(_) => None,
            Content::Stored { all, .. } => all.body_file(),
        }
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Content::Memory(bytes) => bytes.len(),
            // No message exceeds the address space, even if a file system could hold it.
            Content::Stored { all, .. } => usize::try_from(all.len()).unwrap_or(usize::MAX),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the part in memory: everything, or the beginning.
    pub fn beginning(&self) -> &Bytes {
        match self {
            Content::Memory(bytes) => bytes,
            Content::Stored { beginning, .. } => beginning,
        }
    }

    /// Iterates over the chunks from this offset on. Ends after an error.
    pub fn chunks(&self, from: usize) -> Chunks {
        Chunks {
            content: self.clone(),
            offset: from,
        }
    }

    /// Reads everything into memory.
    pub fn read(&self) -> io::Result<Bytes> {
        match self {
            Content::Memory(bytes) => Ok(bytes.clone()),
            Content::Stored { all, .. } => read(&**all, 0, self.len()),
        }
    }

    /// Whether both are the same bytes in the same place; compares no bytes.
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

/// Stored bytes with a replaced beginning.
#[derive(Debug)]
struct Spliced {
    first: Bytes,
    rest: Arc<dyn Stored>,
    /// The offset at which the rest begins.
    from: u64,
}

impl Stored for Spliced {
    fn len(&self) -> u64 {
        self.first.len() as u64 + self.rest.len().saturating_sub(self.from)
    }

    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let first = self.first.get(start..).unwrap_or_default();
        let (of_first, of_rest) = into.split_at_mut(first.len().min(into.len()));
        of_first.copy_from_slice(&first[..of_first.len()]);
        if of_rest.is_empty() {
            return Ok(());
        }
        let read = offset + of_first.len() as u64;
        let offset = self.from + (read - self.first.len() as u64);
        self.rest.read_exact_at(of_rest, offset)
    }
}

fn read(stored: &dyn Stored, from: usize, length: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(length);
    stored.read_exact_at(&mut bytes, from as u64)?;
    Ok(bytes.freeze())
}

/// The iterator of [`Content::chunks`].
#[derive(Debug)]
pub struct Chunks {
    content: Content,
    offset: usize,
}

impl Iterator for Chunks {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        let length = self.content.len();
        let from = self.offset;
        if from >= length {
            return None;
        }
        let (chunk, end) = match &self.content {
            Content::Memory(bytes) => (Ok(bytes.slice(from..)), length),
            Content::Stored { all, .. } => {
                let end = length.min(from + CHUNK_SIZE);
                (read(&**all, from, end - from), end)
            }
        };
        self.offset = if chunk.is_ok() { end } else { length };
        Some(chunk)
    }
}

/// Compares without reading stored bytes: stored content is equal only to itself.
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

/// Shows location and size only: the text of a message does not belong in a log.
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

    /// Stored bytes, readable up to an offset.
    #[derive(Debug)]
    pub(crate) struct MemoryStore {
        pub(crate) bytes: Vec<u8>,
        /// Reading at or beyond this offset fails.
        pub(crate) broken_at: u64,
    }

    impl Stored for MemoryStore {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
            if offset + into.len() as u64 > self.broken_at {
                return Err(io::Error::other("broken"));
            }
            let offset = usize::try_from(offset).expect("small");
            into.copy_from_slice(&self.bytes[offset..offset + into.len()]);
            Ok(())
        }
    }

    /// Returns these bytes as stored content.
    pub(crate) fn stored(bytes: &[u8]) -> Content {
        let store = MemoryStore {
            bytes: bytes.to_vec(),
            broken_at: u64::MAX,
        };
        Content::stored(Arc::new(store)).expect("readable")
    }

    #[test]
    fn stored_bytes_are_read_in_chunks_and_whole() {
        for length in [
            0,
            1,
            CHUNK_SIZE - 1,
            CHUNK_SIZE,
            CHUNK_SIZE + 1,
            3 * CHUNK_SIZE + 7,
        ] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let content = stored(&bytes);
            assert_eq!(content.len(), length);
            assert_eq!(content.read().expect("readable"), bytes);
            assert_eq!(content.beginning()[..], bytes[..length.min(BEGINNING)]);
            for from in [0, 1, length / 2, length] {
                let chunks: Vec<Bytes> = content
                    .chunks(from)
                    .collect::<Result<_, _>>()
                    .expect("readable");
                assert_eq!(chunks.concat(), bytes[from.min(length)..]);
            }
        }
    }

    #[test]
    fn a_replaced_beginning_is_read_like_the_original() {
        let bytes: Vec<u8> = (0..2 * CHUNK_SIZE).map(|n| (n % 251) as u8).collect();
        for (other, length) in [("", 0), ("", 7), ("abc", 0), ("abc", 100)] {
            let expected = [other.as_bytes(), &bytes[length..]].concat();
            for content in [stored(&bytes), Content::Memory(bytes.clone().into())] {
                let found = content.with_beginning(Bytes::from(other), length);
                assert_eq!(found.len(), expected.len());
                assert_eq!(found.read().expect("readable"), expected);
                assert!(expected.starts_with(found.beginning()));
                let chunks: Result<Vec<Bytes>, _> = found.chunks(1).collect();
                assert_eq!(chunks.expect("readable").concat(), expected[1..]);
            }
        }
    }

    #[test]
    fn iteration_ends_after_an_error() {
        let store = MemoryStore {
            bytes: vec![0; 3 * CHUNK_SIZE],
            broken_at: 2 * CHUNK_SIZE as u64,
        };
        let content = Content::stored(Arc::new(store)).expect("its beginning is readable");
        let read: Vec<bool> = content.chunks(0).map(|chunk| chunk.is_ok()).collect();
        assert_eq!(read, [true, true, false]);
        assert!(content.read().is_err());
    }
}
