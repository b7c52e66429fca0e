//! Encoding and decoding of a message's content after DATA (RFC 5321 sections 4.1.1.4 and 4.5.2).
//!
//! Promises: only CRLF.CRLF ends a message, where the first CRLF may be that of the DATA command; a
//! bare CR or LF is reported and never an end; the same bytes give the same content in chunks of
//! any size; decoding undoes dot-stuffing exactly.

use bytes::{Buf, BytesMut};

/// The treatment of a CR or LF that is not part of a CRLF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareLineBreaks {
    /// They stay as they are, and the caller rejects the message ([`DataDecoder::error`]).
    Reject,
    /// Each becomes a CRLF. A "." that is alone on a line after that is content.
    Normalize,
}

/// Content that a message must not have (RFC 5321 section 2.3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// An LF without a CR before it.
    #[error("the message contains an LF without a CR")]
    BareLineFeed,
    /// A CR without an LF after it.
    #[error("the message contains a CR without an LF")]
    BareCarriageReturn,
}

impl DataError {
    /// Returns the error for this byte, a bare CR or LF.
    fn of(byte: u8) -> DataError {
        match byte {
            b'\n' => DataError::BareLineFeed,
            _ => DataError::BareCarriageReturn,
        }
    }
}

/// A decoder for the content of one message: removes the dots that a client adds to lines that
/// begin with one, and finds the end.
#[derive(Debug)]
pub struct DataDecoder {
    bare: BareLineBreaks,
    /// The last bytes were a CRLF or the DATA command.
    line_begins: bool,
    error: Option<DataError>,
    has_nul: bool,
    /// Bytes of the current line.
    line: usize,
    longest_line: usize,
}

impl DataDecoder {
    /// Starts a message.
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

    /// Moves the decodable part of `input` to the end of `out`. Returns true at the end of the
    /// message: the bytes after it stay in `input`. Otherwise at most two bytes stay there, whose
    /// meaning depends on the next ones.
    pub fn decode(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> bool {
        let before = out.len();
        let ended = self.decode_lines(input, out);
        self.has_nul |= memchr::memchr(0, &out[before..]).is_some();
        ended
    }

    fn decode_lines(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> bool {
        // The bytes between these two are decoded and copied unchanged.
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
                            // A dot here does not end the message: the client sent no CRLF.
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

    /// Returns the first bare CR or LF.
    pub fn error(&self) -> Option<DataError> {
        self.error
    }

    /// Whether there was a NUL. It stays in the content: only BINARYMIME (RFC 3030) allows it, but
    /// a server that drops NULs would find an end in `CRLF NUL . CRLF`.
    pub fn has_nul(&self) -> bool {
        self.has_nul
    }

    /// Returns the length of the longest line so far in bytes, without its CRLF and a removed dot.
    pub fn longest_line(&self) -> usize {
        self.longest_line.max(self.line)
    }

    fn line_ends(&mut self) {
        self.longest_line = self.longest_line();
        self.line = 0;
    }
}

/// An encoder for the content of one message: adds a dot to each line that begins with one, and the
/// end. Everything else is unchanged, also a bare CR or LF: give it content without any.
#[derive(Debug)]
pub struct DataEncoder {
    before: Before,
}

/// The bytes just before the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A CRLF, or the start of the message.
    LineEnd,
    CarriageReturn,
    Other,
}

impl DataEncoder {
    /// Starts a message.
    pub fn new() -> DataEncoder {
        DataEncoder {
            before: Before::LineEnd,
        }
    }

    /// Appends an encoded chunk of the message to `out`.
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

    /// Appends a CRLF if the message does not end in one, and the line that ends it.
    pub fn finish(self, out: &mut BytesMut) {
        if self.before != Before::LineEnd {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }

    /// Returns the end of these bytes, which follow those already encoded.
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

/// Returns the first CR or LF of a buffer that is not part of a CRLF; for chunks (RFC 3030), which
/// need no decoding. `after_cr` is false before the first buffer and carried over to the next: if
/// it is true after the last, that CR is bare.
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
