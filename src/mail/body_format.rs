//! What bytes ask of those who carry them.

use std::io;

use super::Content;

/// What the transfer of some bytes asks of a relay (RFC 1652, RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BodyKind {
    /// ASCII, lines of at most 998 bytes.
    SevenBit,
    /// Bytes above 127; needs 8BITMIME.
    EightBit,
    /// A NUL, or a line longer than 998 bytes.
    Binary,
}

/// What a look at all bytes of something tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyFormat {
    /// What their transfer asks of a relay.
    pub kind: BodyKind,
    /// Whether there is a CR or LF that is not part of a CRLF.
    pub bare_line_breaks: bool,
}

impl BodyFormat {
    /// Of these bytes.
    pub fn of(content: &Content) -> io::Result<BodyFormat> {
        let mut look = Look::default();
        for piece in content.pieces(0) {
            look.at(&piece?);
        }
        Ok(look.nature())
    }
}

/// A look at bytes, piece by piece.
#[derive(Debug, Default)]
struct Look {
    /// Bytes seen.
    seen: usize,
    /// Where the line that is being looked at begins.
    line: usize,
    /// Where a CR stands that no LF has followed yet.
    cr_at: Option<usize>,
    above_ascii: bool,
    nul_or_long_line: bool,
    bare_line_breaks: bool,
}

impl Look {
    fn at(&mut self, piece: &[u8]) {
        self.above_ascii |= !piece.is_ascii();
        self.nul_or_long_line |= memchr::memchr(0, piece).is_some();
        for at in memchr::memchr2_iter(b'\r', b'\n', piece) {
            let here = self.seen + at;
            let ends_cr = self.cr_at.is_some_and(|cr| cr + 1 == here) && piece[at] == b'\n';
            self.bare_line_breaks |= match piece[at] {
                b'\n' => !ends_cr,
                _ => self.cr_at.is_some(),
            };
            if piece[at] == b'\n' {
                // 998 bytes and the CR.
                self.nul_or_long_line |= here - self.line > 999;
                self.line = here + 1;
                self.cr_at = None;
            } else {
                self.cr_at = Some(here);
            }
        }
        self.seen += piece.len();
    }

    fn nature(&self) -> BodyFormat {
        let kind = match self.above_ascii {
            _ if self.nul_or_long_line || self.seen - self.line > 998 => BodyKind::Binary,
            true => BodyKind::EightBit,
            false => BodyKind::SevenBit,
        };
        BodyFormat {
            kind,
            bare_line_breaks: self.bare_line_breaks || self.cr_at.is_some(),
        }
    }
}

impl BodyKind {
    /// What `bytes` need, by looking at all of them.
    pub fn of(bytes: &[u8]) -> BodyKind {
        let mut look = Look::default();
        look.at(bytes);
        look.nature().kind
    }

    /// The Content-Transfer-Encoding value that declares it (RFC 2045 section 6.2).
    pub fn encoding(self) -> &'static str {
        match self {
            BodyKind::SevenBit => "7bit",
            BodyKind::EightBit => "8bit",
            BodyKind::Binary => "binary",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_body_is_what_the_bytes_need() {
        assert_eq!(BodyKind::of(b"plain\r\n"), BodyKind::SevenBit);
        assert_eq!(BodyKind::of("grün\r\n".as_bytes()), BodyKind::EightBit);
        assert_eq!(BodyKind::of(b"a\0b"), BodyKind::Binary);
        let line = |n: usize| format!("{}\r\n", "x".repeat(n));
        assert_eq!(BodyKind::of(line(998).as_bytes()), BodyKind::SevenBit);
        assert_eq!(BodyKind::of(line(999).as_bytes()), BodyKind::Binary);
        assert_eq!(BodyKind::of("x".repeat(999).as_bytes()), BodyKind::Binary);
    }

    /// Told in pieces of every size as if it were told at once.
    fn bare(bytes: &[u8]) -> bool {
        let told: Vec<bool> = (1..=bytes.len().max(1))
            .map(|size| {
                let mut look = Look::default();
                bytes.chunks(size).for_each(|piece| look.at(piece));
                look.nature().bare_line_breaks
            })
            .collect();
        assert!(told.iter().all(|one| *one == told[0]), "{bytes:?}");
        told[0]
    }

    #[test]
    fn a_line_break_that_is_no_crlf_is_seen_wherever_pieces_end() {
        for sound in ["", "a", "\r\n", "a\r\n\r\nb\r\n"] {
            assert!(!bare(sound.as_bytes()), "{sound:?}");
        }
        for unsound in [
            "\r", "\n", "a\r\r\nb", "a\n\r\n", "a\r\n\n", "\rb\n", "\r\n\r",
        ] {
            assert!(bare(unsound.as_bytes()), "{unsound:?}");
        }
    }
}
