//! Reassembles a message from header fields and body chunks.
//!
//! The MTA splits a field into name and value and separates the lines of a folded value by a bare
//! LF; the body comes unchanged. Promises: the message is byte for byte as the MTA received it, as
//! far as the MTA sends it (Postfix drops spaces before the colon, and no MTA sends its own
//! Received field); one copy from the receive buffer into one growing buffer, no allocation per
//! field. Messages larger than [`CHUNK_SIZE`] are handed over in chunks while they arrive. Never
//! fails.

use bytes::{BufMut, Bytes, BytesMut};

/// Initial capacity if the sender did not announce a size.
const CAPACITY: usize = 16 * 1024;

/// Largest initial capacity: the announced size is an unverified claim.
const MAX_CAPACITY: usize = 256 * 1024;

/// Bytes buffered before they are handed over; the first chunk has the whole header, however long.
pub(super) const CHUNK_SIZE: usize = 256 * 1024;

/// A message that is arriving. The default one is empty and holds no memory.
#[derive(Debug, Default)]
pub(super) struct Draft {
    text: BytesMut,
    /// Bytes handed over so far.
    handed_over: usize,
    /// Size of the header in bytes, with the empty line, once it is complete.
    header: usize,
}

impl Draft {
    /// Creates an empty message that will have about `size` bytes (the SIZE parameter of MAIL, RFC
    /// 1870).
    pub(super) fn new(size: Option<usize>) -> Draft {
        // A little more than announced: SIZE does not count fields that the MTA adds.
        let capacity = size.map_or(CAPACITY, |size| size.min(MAX_CAPACITY) + CAPACITY / 4);
        Draft {
            text: BytesMut::with_capacity(capacity),
            handed_over: 0,
            header: 0,
        }
    }

    /// Returns the size of the message so far, in bytes.
    pub(super) fn len(&self) -> usize {
        self.handed_over + self.text.len()
    }

    /// Bytes handed over so far.
    pub(super) fn handed_over(&self) -> usize {
        self.handed_over
    }

    /// Returns the next chunk to hand over, if enough bytes are buffered.
    pub(super) fn next_chunk(&mut self) -> Option<Bytes> {
        (self.text.len() >= CHUNK_SIZE).then(|| {
            let piece = self.text.split().freeze();
            self.handed_over += piece.len();
            piece
        })
    }

    /// Appends a header field. `value_is_whole` means that the MTA left the space after the colon
    /// in the value.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8], value_is_whole: bool) {
        self.text.extend_from_slice(name);
        self.text.put_u8(b':');
        // Without the leading-space step the MTA removed one space, if there was one, without
        // saying so. There nearly always is one, except before a tab or a line break.
        if !value_is_whole && !matches!(value.first(), Some(b'\t' | b'\r' | b'\n')) {
            self.text.put_u8(b' ');
        }
        let mut start = 0;
        for lf in memchr::memchr_iter(b'\n', value) {
            let line = &value[start..lf];
            self.text.extend_from_slice(line);
            self.text.extend_from_slice(if line.ends_with(b"\r") {
                b"\n"
            } else {
                b"\r\n"
            });
            start = lf + 1;
        }
        self.text.extend_from_slice(&value[start..]);
        self.text.extend_from_slice(b"\r\n");
    }

    /// Appends the empty line.
    pub(super) fn end_of_header(&mut self) {
        self.text.extend_from_slice(b"\r\n");
        self.header = self.len();
    }

    /// Returns the size of the header in bytes, with the empty line. The fields end there, whatever
    /// their names and values are.
    pub(super) fn header(&self) -> usize {
        self.header
    }

    /// Appends a body chunk.
    pub(super) fn body(&mut self, chunk: &[u8]) {
        self.text.extend_from_slice(chunk);
    }

    /// Returns the bytes that were not handed over.
    pub(super) fn finish(self) -> Bytes {
        self.text.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(value: &[u8], value_is_whole: bool) -> Bytes {
        let mut draft = Draft::new(None);
        draft.field(b"A", value, value_is_whole);
        draft.finish()
    }

    #[test]
    fn a_whole_value_is_unchanged() {
        for value in ["", " x", "x", "\tx", "  x "] {
            assert_eq!(field(value.as_bytes(), true), format!("A:{value}\r\n"));
        }
    }

    #[test]
    fn the_removed_space_is_restored() {
        assert_eq!(&field(b"x", false)[..], b"A: x\r\n");
        assert_eq!(&field(b"", false)[..], b"A: \r\n");
        assert_eq!(&field(b"\tx", false)[..], b"A:\tx\r\n");
        assert_eq!(&field(b"\n x", false)[..], b"A:\r\n x\r\n");
    }

    #[test]
    fn folded_lines_end_in_crlf_and_no_other() {
        assert_eq!(&field(b" a\n b\n\tc", true)[..], b"A: a\r\n b\r\n\tc\r\n");
        assert_eq!(&field(b" a\r\n b", true)[..], b"A: a\r\n b\r\n");
        assert_eq!(&field(b"\n\n", true)[..], b"A:\r\n\r\n\r\n");
    }

    #[test]
    fn a_false_size_does_not_allocate() {
        assert!(Draft::new(Some(usize::MAX)).text.capacity() < 2 * MAX_CAPACITY);
    }
}
