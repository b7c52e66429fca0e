//! The content of a message between DATA and its end (RFC 5321 sections 4.1.1.4 and 4.5.2), both
//! ways.
//!
//! Promises: only CRLF.CRLF ends a message, the first CRLF possibly being that of the DATA command;
//! a CR or LF alone is told of and never an end; the same bytes give the same content whatever the
//! pieces they come in; what was stuffed is unstuffed exactly.

use bytes::{Buf, BytesMut};

/// What becomes of a CR or LF that is not part of a CRLF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareLineBreaks {
    /// They stay as they are, and the caller refuses the message ([`DataDecoder::error`]).
    Reject,
    /// Each becomes a CRLF. A "." that then stands alone on a line is content.
    Normalize,
}

/// What a message must not hold (RFC 5321 section 2.3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// An LF without a CR before it.
    #[error("the message has an LF without a CR")]
    BareLineFeed,
    /// A CR without an LF after it.
    #[error("the message has a CR without an LF")]
    BareCarriageReturn,
}

impl DataError {
    /// What this byte, a CR or LF, is where it is bare.
    fn of(byte: u8) -> DataError {
        match byte {
            b'\n' => DataError::BareLineFeed,
            _ => DataError::BareCarriageReturn,
        }
    }
}

/// Decodes the content of one message: takes the dots away that a client puts before lines that
/// begin with one, and finds the end.
#[derive(Debug)]
pub struct DataDecoder {
    bare: BareLineBreaks,
    /// A CRLF, or the DATA command, is just before.
    line_begins: bool,
    error: Option<DataError>,
    has_nul: bool,
    /// Bytes of the line so far.
    line: usize,
    longest_line: usize,
}

impl DataDecoder {
    /// The beginning of a message.
    pub fn new(bare: BareLineBreaks) -> DataDecoder {
        DataDecoder {
            bare,
            line_begins: true,
            error: None,
            has_nul: false,
            line: 0,
            longest_line: 0,
        }
    }

    /// Moves what can be decoded from `input` to the end of `out`. True when the message has ended:
    /// what follows its end stays in `input`. Otherwise at most two bytes stay there, whose
    /// meaning the next ones tell.
    pub fn decode(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> bool {
        let before = out.len();
        let ended = self.decode_lines(input, out);
        self.has_nul |= memchr::memchr(0, &out[before..]).is_some();
        ended
    }

    fn decode_lines(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> bool {
        // What lies between these two is decoded and goes out as it is.
        let (mut from, mut at) = (0, 0);
        loop {
            if self.line_begins {
                match &input[at..] {
                    [b'.', b'\r', b'\n', ..] => {
                        out.extend_from_slice(&input[from..at]);
                        input.advance(at + 3);
                        return true;
                    }
                    [] | [b'.'] | [b'.', b'\r'] => break,
                    [b'.', ..] => {
                        out.extend_from_slice(&input[from..at]);
                        at += 1;
                        from = at;
                    }
                    _ => {}
                }
                self.line_begins = false;
            }
            let rest = &input[at..];
            let found = memchr::memchr2(b'\r', b'\n', rest);
            let plain = found.unwrap_or(rest.len());
            self.line += plain;
            at += plain;
            match &rest[plain..] {
                [] | [b'\r'] => break,
                [b'\r', b'\n', ..] => {
                    at += 2;
                    self.line_begins = true;
                    self.line_ends();
                }
                [byte, ..] => {
                    self.error.get_or_insert(DataError::of(*byte));
                    match self.bare {
                        BareLineBreaks::Reject => self.line += 1,
                        BareLineBreaks::Normalize => {
                            out.extend_from_slice(&input[from..at]);
                            out.extend_from_slice(b"\r\n");
                            from = at + 1;
                            // No line begins here that a dot could end the message on: the client
                            // sent no CRLF.
                            self.line_ends();
                        }
                    }
                    at += 1;
                }
            }
        }
        out.extend_from_slice(&input[from..at]);
        input.advance(at);
        false
    }

    /// The first bare CR or LF that was seen.
    pub fn error(&self) -> Option<DataError> {
        self.error
    }

    /// Whether a NUL was seen. It stays where it is: only BINARYMIME (RFC 3030) allows it, but a
    /// server that drops NULs would find an end in `CRLF NUL . CRLF`.
    pub fn has_nul(&self) -> bool {
        self.has_nul
    }

    /// Bytes of the longest line so far, its CRLF and the dot that was taken away not counted.
    pub fn longest_line(&self) -> usize {
        self.longest_line.max(self.line)
    }

    fn line_ends(&mut self) {
        self.longest_line = self.longest_line();
        self.line = 0;
    }
}

/// Encodes the content of one message: puts a dot before each line that begins with one, and adds
/// the end. Everything else goes out as it is, bare CR and LF, too: give it what [`DataDecoder`] left
/// none in.
#[derive(Debug)]
pub struct DataEncoder {
    before: Before,
}

/// What stands just before the next byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A CRLF, or nothing.
    LineEnd,
    CarriageReturn,
    Other,
}

impl DataEncoder {
    /// The beginning of a message.
    pub fn new() -> DataEncoder {
        DataEncoder {
            before: Before::LineEnd,
        }
    }

    /// Adds a piece of the message to `out`.
    pub fn encode(&mut self, piece: &[u8], out: &mut BytesMut) {
        out.reserve(piece.len());
        let mut from = 0;
        for at in memchr::memchr_iter(b'.', piece) {
            if self.before(&piece[..at]) == Before::LineEnd {
                out.extend_from_slice(&piece[from..at]);
                out.extend_from_slice(b".");
                from = at;
            }
        }
        out.extend_from_slice(&piece[from..]);
        self.before = self.before(piece);
    }

    /// Adds a CRLF where the message does not end in one, and the line that ends it.
    pub fn finish(self, out: &mut BytesMut) {
        if self.before != Before::LineEnd {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }

    /// What stands at the end of these bytes, which follow those that were put.
    fn before(&self, bytes: &[u8]) -> Before {
        match bytes {
            [] => self.before,
            [b'\n'] if self.before == Before::CarriageReturn => Before::LineEnd,
            [.., b'\r', b'\n'] => Before::LineEnd,
            [.., b'\r'] => Before::CarriageReturn,
            _ => Before::Other,
        }
    }
}

impl Default for DataEncoder {
    fn default() -> DataEncoder {
        DataEncoder::new()
    }
}

/// The first CR or LF of a piece that is not part of a CRLF; for chunks (RFC 3030), which need no
/// decoding. `after_cr` is false before the first piece, and is given back for the next: if it is
/// true after the last, that CR is bare.
pub fn find_bare_line_break(piece: &[u8], after_cr: &mut bool) -> Option<DataError> {
    let first = *piece.first()?;
    let half = std::mem::replace(after_cr, piece.ends_with(b"\r"));
    if half && first != b'\n' {
        return Some(DataError::BareCarriageReturn);
    }
    let mut at = usize::from(half);
    while let Some(found) = memchr::memchr2(b'\r', b'\n', &piece[at..]) {
        match &piece[at + found..] {
            [b'\r', b'\n', ..] => at += found + 2,
            [b'\r'] => return None,
            [byte, ..] => return Some(DataError::of(*byte)),
            [] => break,
        }
    }
    None
}

#[cfg(test)]
mod tests;
