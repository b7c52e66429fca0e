//! A server's answers (RFC 5321 section 4.2), as they came.
//!
//! Promises: strict. What is no answer by the letter is a flaw, and after a flaw there is nothing
//! but that flaw: who takes one answer for two, or two for one, believes a server that never said
//! yes. The same bytes give the same answers whatever the pieces they come in; no more is kept
//! than the largest answer allowed.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

use crate::mail::{Enhanced, Reply};

/// Longest line in bytes, CRLF included; RFC 5321 section 4.5.3.1.5 asks for 512.
const LONGEST_LINE: usize = 2048;

/// Most lines of one answer.
const MOST_LINES: usize = 256;

/// A server's answer to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReply {
    /// Three digits, 200 to 599.
    pub code: u16,
    /// All its lines with their CRLF, exactly as they came.
    pub wire: Bytes,
}

impl ServerReply {
    /// The text of each line, without code, separator and CRLF. What is no UTF-8 is replaced.
    pub fn text_lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let lines = self.wire.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| {
            let text = line.strip_suffix(b"\r\n").unwrap_or(line);
            String::from_utf8_lossy(text.get(4..).unwrap_or_default())
        })
    }

    /// 2yz: done.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3yz: go on.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4yz: try again later.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5yz: never.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The answer as a reply of one line: an enhanced status that each line repeats (RFC 2034)
    /// stands there once.
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

    /// The enhanced status at the start of the text (RFC 2034), if it is of the code's class.
    pub fn enhanced(&self) -> Option<Enhanced> {
        let status = Enhanced::from_text(&self.text_lines().next()?)?;
        (u16::from(status.0) == self.code / 100).then_some(status)
    }
}

/// Why what a server sent is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No three digits from 200 to 599 with a hyphen, a space or nothing after them.
    #[error("a line of the answer does not begin with a code")]
    NoCode,
    /// Not the code of the lines before.
    #[error("the lines of the answer have different codes")]
    OtherCode,
    /// A CR or LF that is not part of a CRLF, or a NUL.
    #[error("the answer has a bare CR, a bare LF or a NUL in it")]
    BareLineBreak,
    /// More than 2048 bytes.
    #[error("a line of the answer is longer than {LONGEST_LINE} bytes")]
    LongLine,
    /// More than 256 lines.
    #[error("the answer has more than {MOST_LINES} lines")]
    ManyLines,
}

/// What a server sent and was not yet taken, as answers.
#[derive(Debug, Default)]
pub struct ReplyReader {
    input: BytesMut,
    /// Bytes of the lines of the next answer that are looked at.
    read: usize,
    /// How many lines those are.
    lines: usize,
    /// And their code.
    code: u16,
    /// How far the next line was searched for its end.
    searched: usize,
    flaw: Option<ReplyError>,
}

impl ReplyReader {
    /// Nothing yet.
    pub fn new() -> ReplyReader {
        ReplyReader::default()
    }

    /// Takes what came in. Ask for answers until there is none before feeding more.
    pub fn feed(&mut self, piece: &[u8]) {
        if self.flaw.is_none() {
            self.input.extend_from_slice(piece);
        }
    }

    /// The next answer; `None` while its end has not come. After a flaw, the flaw again and again.
    pub fn next_reply(&mut self) -> Option<Result<ServerReply, ReplyError>> {
        if let Some(flaw) = self.flaw {
            return Some(Err(flaw));
        }
        loop {
            match self.line() {
                Ok(None) => return None,
                Ok(Some(Line::Continued)) => {}
                Ok(Some(Line::Last)) => {
                    let answer = ServerReply {
                        code: self.code,
                        wire: Bytes::copy_from_slice(&self.input[..self.read]),
                    };
                    self.input.advance(self.read);
                    (self.read, self.lines) = (0, 0);
                    return Some(Ok(answer));
                }
                Err(flaw) => {
                    self.flaw = Some(flaw);
                    self.input.clear();
                    return Some(Err(flaw));
                }
            }
        }
    }

    /// Whether something was fed that no answer taken so far has in it.
    pub fn has_more(&self) -> bool {
        !self.input.is_empty() || self.flaw.is_some()
    }

    /// Throws away what was fed and not yet taken, and says how many bytes that was: what stood
    /// behind the answer to STARTTLS came before the encryption (RFC 3207 section 4.2). A flaw
    /// stays.
    pub fn clear(&mut self) -> usize {
        let bytes = self.input.len();
        let flaw = self.flaw;
        *self = ReplyReader {
            flaw,
            ..ReplyReader::default()
        };
        bytes
    }

    /// Reads one line. Flaws are found in an order that does not depend on how much of the line is
    /// there.
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
            return Err(ReplyError::OtherCode);
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

/// Whether a line of an answer is its last.
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
