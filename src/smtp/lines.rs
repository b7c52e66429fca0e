//! Splitting a client's bytes into command lines.
//!
//! Promises: a line ends only at CRLF; a line with another line break or a NUL is an error, since
//! another server could read two commands in it. The buffer never exceeds the longest line allowed,
//! and the same bytes give the same lines in chunks of any size.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// The reason why a line that ended at a CRLF is not a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Longer than allowed (RFC 5321 section 4.5.3.1.4).
    #[error("the line is too long")]
    TooLong,
    /// A CR or LF that is not part of a CRLF (RFC 5321 section 2.3.8), or a NUL.
    #[error("the line contains a bare CR, a bare LF or a NUL")]
    BareLineBreak,
}

/// A buffer that splits bytes into lines.
pub struct Lines {
    input: BytesMut,
    /// Longest line in bytes, with CRLF.
    longest: usize,
    /// The offset before which no CRLF begins.
    searched: usize,
    /// The rest of a line that was too long is being skipped.
    skipping: bool,
}

impl Lines {
    /// Creates an empty buffer for lines of at most `longest` bytes, with CRLF.
    pub fn new(longest: usize) -> Lines {
        Lines {
            input: BytesMut::new(),
            longest,
            searched: 0,
            skipping: false,
        }
    }

    /// Adds received bytes. Take all lines before adding more: then the buffer never exceeds the
    /// longest line and one read.
    pub fn feed(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
    }

    /// Returns the next line without its CRLF; `None` until its end has arrived. A line that is too
    /// long is reported once, as soon as possible, and skipped to its CRLF.
    pub fn next_line(&mut self) -> Option<Result<Bytes, LineError>> {
        loop {
            let end = memchr::memmem::find(&self.input[self.searched..], b"\r\n");
            let Some(end) = end.map(|end| self.searched + end) else {
                return self.unfinished().map(Err);
            };
            let line = (!self.skipping).then(|| self.line(end));
            self.input.advance(end + 2);
            self.searched = 0;
            self.skipping = false;
            if line.is_some() {
                return line;
            }
        }
    }

    /// Returns the buffered bytes: the content after DATA or BDAT is read from here.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        self.searched = 0;
        &mut self.input
    }

    /// Discards buffered bytes and returns their number: bytes after STARTTLS were sent before the
    /// encryption (RFC 3207 section 4.2).
    pub fn clear(&mut self) -> usize {
        let bytes = self.input.len();
        self.input.clear();
        self.searched = 0;
        self.skipping = false;
        bytes
    }

    /// Whether no bytes are buffered.
    pub fn is_empty(&self) -> bool {
        self.input.is_empty()
    }

    fn line(&self, end: usize) -> Result<Bytes, LineError> {
        let line = &self.input[..end];
        if end + 2 > self.longest {
            Err(LineError::TooLong)
        } else if memchr::memchr3(b'\r', b'\n', 0, line).is_some() {
            Err(LineError::BareLineBreak)
        } else {
            Ok(Bytes::copy_from_slice(line))
        }
    }

    /// Handles input without a CRLF.
    fn unfinished(&mut self) -> Option<LineError> {
        // A CR at the end may be the first half of a CRLF.
        let half = usize::from(self.input.ends_with(b"\r"));
        // Whatever follows, the line is longer than allowed.
        let too_long = !self.skipping && self.input.len() >= self.longest;
        self.skipping |= too_long;
        if self.skipping {
            self.input.advance(self.input.len() - half);
        }
        self.searched = self.input.len() - half;
        too_long.then_some(LineError::TooLong)
    }
}

/// Shows only the number of bytes: lines contain passwords.
impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("bytes", &self.input.len())
            .field("skipping", &self.skipping)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 12;

    fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Result<Bytes, LineError>> {
        let mut lines = Lines::new(LONGEST);
        let mut found = Vec::new();
        for piece in pieces {
            lines.feed(piece);
            found.extend(std::iter::from_fn(|| lines.next_line()));
            assert!(lines.input.len() < LONGEST, "more than a line is buffered");
        }
        found
    }

    fn ok(line: &'static str) -> Result<Bytes, LineError> {
        Ok(Bytes::from_static(line.as_bytes()))
    }

    #[test]
    fn only_crlf_ends_a_line_and_bad_lines_are_skipped_whole() {
        use LineError::{BareLineBreak as Bare, TooLong};
        type Case = (&'static [u8], Vec<Result<Bytes, LineError>>);
        let cases: Vec<Case> = vec![
            (b"NOOP\r\nQUIT\r\n", vec![ok("NOOP"), ok("QUIT")]),
            (b"\r\n\r\n", vec![ok(""), ok("")]),
            (b"NOOP\nQUIT\r\nx\r\n", vec![Err(Bare), ok("x")]),
            (b"NOOP\rQUIT\r\nx\r\n", vec![Err(Bare), ok("x")]),
            (b"NOOP\r\r\nx\r\n", vec![Err(Bare), ok("x")]),
            (b"NOOP\n\r\nx\r\n", vec![Err(Bare), ok("x")]),
            (b"\n\r\r\n", vec![Err(Bare)]),
            (b"NO\0OP\r\nx\r\n", vec![Err(Bare), ok("x")]),
            (b"NOOP\n\rx", vec![]),
            (b"0123456789\r\n", vec![ok("0123456789")]),
            (b"0123456789x\r\nx\r\n", vec![Err(TooLong), ok("x")]),
            (b"0123456789\r\r\nx\r\n", vec![Err(TooLong), ok("x")]),
            (b"0123456789xx", vec![Err(TooLong)]),
            (
                b"0123456789xxxxxxxxxxxxxxxxx\rxxxxxxxxx\nxxxxxxxxxx\r\r\nx\r\n",
                vec![Err(TooLong), ok("x")],
            ),
            (b"\xff\xc3\r\n", vec![Ok(Bytes::from_static(b"\xff\xc3"))]),
            (b"x\r", vec![]),
        ];
        for (wire, expected) in cases {
            let shown = wire.escape_ascii();
            assert_eq!(lines([wire]), expected, "{shown}");
            for first in 0..wire.len() {
                for second in first..wire.len() {
                    let pieces = [&wire[..first], &wire[first..second], &wire[second..]];
                    assert_eq!(lines(pieces), expected, "{shown} cut at {first}, {second}");
                }
            }
            assert_eq!(lines(wire.chunks(1)), expected, "{shown} byte by byte");
        }
    }

    #[test]
    fn an_endless_line_is_reported_once_and_not_buffered() {
        let mut lines = Lines::new(4096);
        let mut errors = 0;
        for _ in 0..1000 {
            lines.feed(&[b'x'; 1000]);
            while let Some(line) = lines.next_line() {
                assert_eq!(line, Err(LineError::TooLong));
                errors += 1;
            }
            assert!(lines.input.len() < 4096);
        }
        lines.feed(b"\r\nNOOP\r\n");
        assert_eq!(lines.next_line(), Some(ok("NOOP")));
        assert_eq!((errors, lines.is_empty()), (1, true));
    }

    #[test]
    fn bytes_after_a_line_can_be_read_as_data() {
        let mut lines = Lines::new(LONGEST);
        lines.feed(b"DATA\r\nno line, and longer\n.\r\nQUIT\r");
        assert_eq!(lines.next_line(), Some(ok("DATA")));
        let data = lines.buffer_mut().split_to(23);
        assert_eq!(data, &b"no line, and longer\n.\r\n"[..]);
        assert_eq!(lines.next_line(), None);
        lines.feed(b"\n");
        assert_eq!(lines.next_line(), Some(ok("QUIT")));
    }

    #[test]
    fn bytes_sent_before_the_encryption_are_discarded() {
        let mut lines = Lines::new(LONGEST);
        lines.feed(b"STARTTLS\r\nNOOP\r\nQU\r");
        assert_eq!(lines.next_line(), Some(ok("STARTTLS")));
        assert!(!lines.is_empty());
        assert_eq!(lines.clear(), 9);
        assert!(lines.is_empty());
        lines.feed(b"\nEHLO x\r\n");
        assert_eq!(lines.next_line(), Some(Err(LineError::BareLineBreak)));
        lines.feed(b"012345678901234");
        assert_eq!(lines.next_line(), Some(Err(LineError::TooLong)));
        assert_eq!(lines.clear(), 0);
        lines.feed(b"EHLO x\r\n");
        assert_eq!(lines.next_line(), Some(ok("EHLO x")));
    }

    #[test]
    fn buffered_bytes_are_not_shown() {
        let mut lines = Lines::new(100);
        lines.feed(b"AUTH PLAIN AGFuYQBzZWNyZXQ=");
        assert!(!format!("{lines:?}").contains("AUTH"), "{lines:?}");
    }
}
