//! A server's replies (RFC 5321 section 4.2), byte for byte.
//!
//! Promises: strict. Any violation of the grammar is an error, and an error is final: a client that
//! reads one reply as two, or two as one, trusts a server that never accepted. The same bytes give
//! the same replies in chunks of any size; the buffer never exceeds the largest reply allowed.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

use crate::mail::{Enhanced, Reply};

/// Longest line in bytes, with CRLF; RFC 5321 section 4.5.3.1.5 requires 512.
const LONGEST_LINE: usize = 2048;

/// Most lines of one reply.
const MOST_LINES: usize = 256;

/// A server's reply to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReply {
    /// Three digits, 200 to 599.
    pub code: u16,
    /// All its lines with their CRLF, exactly as received.
    pub wire: Bytes,
}

impl ServerReply {
    /// Iterates over the text of each line, without code, separator and CRLF. Invalid UTF-8 is
    /// replaced.
    pub fn text_lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let lines = self.wire.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| {
            let text = line.strip_suffix(b"\r\n").unwrap_or(line);
            String::from_utf8_lossy(text.get(4..).unwrap_or_default())
        })
    }

    /// Whether it is 2yz: completed.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Whether it is 3yz: intermediate.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// Whether it is 4yz: transient failure.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// Whether it is 5yz: permanent failure.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// Converts it to a reply of one line; an enhanced status that each line repeats (RFC 2034)
    /// appears once.
    pub fn to_reply(&self) -> Reply {
        let class = u8::try_from(self.code / 100).unwrap_or(4);
        let status = self.enhanced();
        let known = status.map(|status| status.to_string()).unwrap_or_default();
        let lines = self.text_lines().map(|line| {
            let rest = line.strip_prefix(known.as_str());
            let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with(' '));
            rest.unwrap_or(&line).trim().to_owned()
        });
        let text: Vec<String> = lines.collect();
        Reply::new(
            self.code,
            status.unwrap_or(Enhanced(class, 0, 0)),
            text.join(" "),
        )
    }

    /// Returns the enhanced status at the start of the text (RFC 2034), if it has the code's class.
    pub fn enhanced(&self) -> Option<Enhanced> {
        let status = Enhanced::from_text(&self.text_lines().next()?)?;
        (u16::from(status.0) == self.code / 100).then_some(status)
    }
}

/// The reason why a server's bytes are not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line does not begin with a code from 200 to 599 and a hyphen, a space or nothing.
    #[error("a line of the reply does not begin with a code")]
    NoCode,
    /// The code differs from that of the lines before.
    #[error("the lines of the reply have different codes")]
    DifferentCodes,
    /// A CR or LF that is not part of a CRLF, or a NUL.
    #[error("the reply contains a bare CR, a bare LF or a NUL")]
    BareLineBreak,
    /// A line of more than 2048 bytes.
    #[error("a line of the reply is longer than {LONGEST_LINE} bytes")]
    LongLine,
    /// More than 256 lines.
    #[error("the reply has more than {MOST_LINES} lines")]
    ManyLines,
}

/// A buffer that splits a server's bytes into replies.
#[derive(Debug, Default)]
pub struct ReplyReader {
    input: BytesMut,
    /// Bytes of the next reply's lines that are parsed.
    read: usize,
    /// The number of those lines.
    lines: usize,
    /// Their code.
    code: u16,
    /// The offset up to which the next line was searched for its end.
    searched: usize,
    error: Option<ReplyError>,
}

impl ReplyReader {
    /// Creates an empty reader.
    pub fn new() -> ReplyReader {
        ReplyReader::default()
    }

    /// Adds received bytes. Take all replies before adding more.
    pub fn feed(&mut self, piece: &[u8]) {
        if self.error.is_none() {
            self.input.extend_from_slice(piece);
        }
    }

    /// Returns the next reply; `None` until its end has arrived. After an error, always that error.
    pub fn next_reply(&mut self) -> Option<Result<ServerReply, ReplyError>> {
        if let Some(error) = self.error {
            return Some(Err(error));
        }
        loop {
            match self.line() {
                Ok(None) => return None,
                Ok(Some(Line::Continued)) => {}
                Ok(Some(Line::Last)) => {
                    let reply = ServerReply {
                        code: self.code,
                        wire: Bytes::copy_from_slice(&self.input[..self.read]),
                    };
                    self.input.advance(self.read);
                    (self.read, self.lines) = (0, 0);
                    return Some(Ok(reply));
                }
                Err(error) => {
                    self.error = Some(error);
                    self.input.clear();
                    return Some(Err(error));
                }
            }
        }
    }

    /// Whether there are bytes that belong to no reply returned so far.
    pub fn has_more(&self) -> bool {
        !self.input.is_empty() || self.error.is_some()
    }

    /// Discards buffered bytes and returns their number: bytes after the reply to STARTTLS were
    /// sent before the encryption (RFC 3207 section 4.2). An error stays.
    pub fn clear(&mut self) -> usize {
        let bytes = self.input.len();
        let error = self.error;
        *self = ReplyReader {
            error,
            ..ReplyReader::default()
        };
        bytes
    }

    /// Parses one line. The order of the checks does not depend on how much of the line has
    /// arrived.
    fn line(&mut self) -> Result<Option<Line>, ReplyError> {
        let rest = &self.input[self.read..];
        let found = memchr::memchr(b'\n', &rest[self.searched..]);
        let Some(end) = found.map(|found| self.searched + found) else {
            self.searched = rest.len();
            return match rest.len() {
                ..LONGEST_LINE => Ok(None),
                _ => Err(ReplyError::LongLine),
            };
        };
        if end >= LONGEST_LINE {
            return Err(ReplyError::LongLine);
        }
        let line = rest[..end].strip_suffix(b"\r");
        let line = line.ok_or(ReplyError::BareLineBreak)?;
        if memchr::memchr2(b'\r', 0, line).is_some() {
            return Err(ReplyError::BareLineBreak);
        }
        let (code, kind) = code(line).ok_or(ReplyError::NoCode)?;
        if self.lines > 0 && code != self.code {
            return Err(ReplyError::DifferentCodes);
        }
        if self.lines == MOST_LINES {
            return Err(ReplyError::ManyLines);
        }
        self.code = code;
        self.lines += 1;
        self.read += end + 1;
        self.searched = 0;
        Ok(Some(kind))
    }
}

/// The position of a line in its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Continued,
    Last,
}

fn code(line: &[u8]) -> Option<(u16, Line)> {
    let (code, rest) = line.split_at_checked(3)?;
    let kind = match rest {
        [b'-', ..] => Line::Continued,
        [] | [b' ', ..] => Line::Last,
        _ => return None,
    };
    if !matches!(code[0], b'2'..=b'5') || !code.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = code
        .iter()
        .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    Some((number, kind))
}

#[cfg(test)]
mod tests;
