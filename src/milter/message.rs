//! Puts a message together again from header fields and body chunks.
//!
//! The MTA takes a field apart into name and value and separates the lines of a folded value by a
//! bare LF; the body comes as it is. Promises: byte for byte what the MTA received, as far as the
//! MTA told it (Postfix leaves out spaces before the colon, and no MTA tells its own Received
//! field); one copy from the receive buffer into one growing buffer, nothing allocated per field.
//! What is in a body beyond [`CHUNK_SIZE`] bytes is given away while it arrives. Never fails.

use bytes::{BufMut, Bytes, BytesMut};

/// Room to begin with where the sender did not announce a size.
const ROOM: usize = 16 * 1024;

/// Most room to begin with: the announcement is a stranger's claim.
const MOST_ROOM: usize = 256 * 1024;

/// Bytes that are held before they are given away; the first piece has the whole header, however
/// long.
pub(super) const CHUNK_SIZE: usize = 256 * 1024;

/// A message that is arriving. The default one is empty and holds no memory.
#[derive(Debug, Default)]
pub(super) struct Draft {
    text: BytesMut,
    /// Bytes that were given away.
    handed_over: usize,
    /// Bytes of the header, the empty line included, once it is complete.
    header: usize,
}

impl Draft {
    /// An empty message of about `size` bytes (the SIZE parameter of MAIL, RFC 1870).
    pub(super) fn new(size: Option<usize>) -> Draft {
        // A little more than announced: SIZE does not count what the MTA adds.
        let room = size.map_or(ROOM, |size| size.min(MOST_ROOM) + ROOM / 4);
        Draft {
            text: BytesMut::with_capacity(room),
            handed_over: 0,
            header: 0,
        }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.handed_over + self.text.len()
    }

    /// Bytes that were given away.
    pub(super) fn handed_over(&self) -> usize {
        self.handed_over
    }

    /// What is given away, now that it is enough.
    pub(super) fn next_chunk(&mut self) -> Option<Bytes> {
        (self.text.len() >= CHUNK_SIZE).then(|| {
            let piece = self.text.split().freeze();
            self.handed_over += piece.len();
            piece
        })
    }

    /// Appends a header field. `value_is_whole` says that the MTA left the space after the colon in
    /// the value.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8], value_is_whole: bool) {
        self.text.extend_from_slice(name);
        self.text.put_u8(b':');
        // Without the leading-space step the MTA took away one space, if there was one, and nothing
        // says whether. There nearly always is, except before a tab or a line break.
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

    /// Bytes of the header, the empty line included. The fields end there, whatever their names
    /// and values are.
    pub(super) fn header(&self) -> usize {
        self.header
    }

    /// Appends a piece of the body.
    pub(super) fn body(&mut self, chunk: &[u8]) {
        self.text.extend_from_slice(chunk);
    }

    /// The message as it stands, but for what was given away.
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
    fn a_whole_value_is_not_touched() {
        for value in ["", " x", "x", "\tx", "  x "] {
            assert_eq!(field(value.as_bytes(), true), format!("A:{value}\r\n"));
        }
    }

    #[test]
    fn the_space_that_was_taken_away_is_put_back() {
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
    fn a_false_announcement_does_not_take_memory() {
        assert!(Draft::new(Some(usize::MAX)).text.capacity() < 2 * MOST_ROOM);
    }
}
