//! Command lines out of what a client sends.
//!
//! Promises: a line ends at CRLF and at nothing else; what has another line break or a NUL inside
//! is no line but a flaw, since another server could read two commands in it. No more of a line is
//! kept than the longest one allowed, and the same bytes give the same lines whatever the pieces
//! they come in.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// Why what ended at a CRLF is no command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Longer than allowed (RFC 5321 section 4.5.3.1.4).
    #[error("the line is too long")]
    TooLong,
    /// A CR or LF that is not part of a CRLF (RFC 5321 section 2.3.8), or a NUL.
    #[error("the line has a bare CR, a bare LF or a NUL in it")]
    BareLineBreak,
}

/// What was fed and not yet taken, as lines.
pub struct Lines {
    input: BytesMut,
    /// Longest line in bytes, CRLF included.
    longest: usize,
    /// No CRLF begins in the input before this.
    searched: usize,
    /// The rest of a line that was too long goes by.
    skipping: bool,
}

impl Lines {
    /// Nothing yet; a line may have `longest` bytes, its CRLF included.
    pub fn new(longest: usize) -> Lines {
        Lines {
            input: BytesMut::new(),
            longest,
            searched: 0,
            skipping: false,
        }
    }

    /// Takes what came in. Ask for lines until there is none before feeding more: then no more than
    /// the longest line and one piece is ever kept.
    pub fn feed(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
    }

    /// The next line, without its CRLF; `None` while its end has not come. A line that is too long
    /// is told of once, as soon as it is, and skipped to its CRLF.
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

    /// What was fed and not yet taken: what follows DATA or BDAT is read from here.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        self.searched = 0;
        &mut self.input
    }

    /// Throws away what was fed and not yet taken, and says how many bytes that was: what stood
    /// behind STARTTLS came before the encryption (RFC 3207 section 4.2).
    pub fn clear(&mut self) -> usize {
        let bytes = self.input.len();
        self.input.clear();
        self.searched = 0;
        self.skipping = false;
        bytes
    }

    /// Whether everything that was fed is taken.
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

    /// No CRLF is in the input.
    fn unfinished(&mut self) -> Option<LineError> {
        // A CR at the end may be half of the line's end.
        let half = usize::from(self.input.ends_with(b"\r"));
        // Whatever follows, the line will have more bytes than these.
        let too_long = !self.skipping && self.input.len() >= self.longest;
        self.skipping |= too_long;
        if self.skipping {
            self.input.advance(self.input.len() - half);
        }
        self.searched = self.input.len() - half;
        too_long.then_some(LineError::TooLong)
    }
}

/// Lines hold passwords; only how much there is, is shown.
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
            assert!(lines.input.len() < LONGEST, "more than a line is kept");
        }
        found
    }

    fn ok(line: &'static str) -> Result<Bytes, LineError> {
        Ok(Bytes::from_static(line.as_bytes()))
    }

    #[test]
    fn only_crlf_ends_a_line_and_flawed_ones_are_consumed_whole() {
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
    fn an_endless_line_is_told_of_once_and_not_kept() {
        let mut lines = Lines::new(4096);
        let mut flaws = 0;
        for _ in 0..1000 {
            lines.feed(&[b'x'; 1000]);
            while let Some(line) = lines.next_line() {
                assert_eq!(line, Err(LineError::TooLong));
                flaws += 1;
            }
            assert!(lines.input.len() < 4096);
        }
        lines.feed(b"\r\nNOOP\r\n");
        assert_eq!(lines.next_line(), Some(ok("NOOP")));
        assert_eq!((flaws, lines.is_empty()), (1, true));
    }

    #[test]
    fn what_follows_a_line_can_be_read_otherwise() {
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
    fn what_came_before_the_encryption_is_thrown_away() {
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
    fn what_is_buffered_is_not_shown() {
        let mut lines = Lines::new(100);
        lines.feed(b"AUTH PLAIN AGFuYQBzZWNyZXQ=");
        assert!(!format!("{lines:?}").contains("AUTH"), "{lines:?}");
    }
}
