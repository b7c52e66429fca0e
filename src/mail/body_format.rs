//! The properties of bytes that matter for their transfer.

use std::io;

use super::Content;

/// The transfer encoding that bytes require from a relay (RFC 1652, RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BodyKind {
    /// ASCII, lines of at most 998 bytes.
    SevenBit,
    /// Bytes above 127; needs 8BITMIME.
    EightBit,
    /// A NUL, or a line longer than 998 bytes.
    Binary,
}

/// The result of scanning all bytes of some content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyFormat {
    /// The transfer encoding that they require.
    pub kind: BodyKind,
    /// Whether there is a CR or LF that is not part of a CRLF.
    pub bare_line_breaks: bool,
}

impl BodyFormat {
    /// Scans content; fails if stored bytes cannot be read.
    pub fn of(content: &Content) -> io::Result<BodyFormat> {
        let mut scanner = Scanner::default();
        for chunk in content.chunks(0) {
            scanner.scan(&chunk?);
        }
        Ok(scanner.format())
    }
}

/// A scanner that takes bytes in chunks.
#[derive(Debug, Default)]
struct Scanner {
    /// Bytes scanned.
    scanned: usize,
    /// The offset of the current line.
    line: usize,
    /// The offset of a CR that no LF has followed yet.
    cr_at: Option<usize>,
    above_ascii: bool,
    nul_or_long_line: bool,
    bare_line_breaks: bool,
}

impl Scanner {
    fn scan(&mut self, chunk: &[u8]) {
        self.above_ascii |= !chunk.is_ascii();
        self.nul_or_long_line |= memchr::memchr(0, chunk).is_some();
        for at in memchr::memchr2_iter(b'\r', b'\n', chunk) {
            let here = self.scanned + at;
            let ends_cr = self.cr_at.is_some_and(|cr| cr + 1 == here) && chunk[at] == b'\n';
            self.bare_line_breaks |= match chunk[at] {
                b'\n' => !ends_cr,
                _ => self.cr_at.is_some(),
            };
            if chunk[at] == b'\n' {
                // 998 bytes and the CR.
                self.nul_or_long_line |= here - self.line > 999;
                self.line = here + 1;
                self.cr_at = None;
            } else {
                self.cr_at = Some(here);
            }
        }
        self.scanned += chunk.len();
    }

    fn format(&self) -> BodyFormat {
        let kind = match self.above_ascii {
            _ if self.nul_or_long_line || self.scanned - self.line > 998 => BodyKind::Binary,
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
    /// Scans bytes for the transfer encoding that they require.
    pub fn of(bytes: &[u8]) -> BodyKind {
        let mut scanner = Scanner::default();
        scanner.scan(bytes);
        scanner.format().kind
    }

    /// Returns the Content-Transfer-Encoding value that declares it (RFC 2045 section 6.2).
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
    fn the_body_kind_follows_from_the_bytes() {
        assert_eq!(BodyKind::of(b"plain\r\n"), BodyKind::SevenBit);
        assert_eq!(BodyKind::of("grün\r\n".as_bytes()), BodyKind::EightBit);
        assert_eq!(BodyKind::of(b"a\0b"), BodyKind::Binary);
        let line = |n: usize| format!("{}\r\n", "x".repeat(n));
        assert_eq!(BodyKind::of(line(998).as_bytes()), BodyKind::SevenBit);
        assert_eq!(BodyKind::of(line(999).as_bytes()), BodyKind::Binary);
        assert_eq!(BodyKind::of("x".repeat(999).as_bytes()), BodyKind::Binary);
    }

    /// Scans in chunks of every size and checks that the result is the same.
    fn bare(bytes: &[u8]) -> bool {
        let found: Vec<bool> = (1..=bytes.len().max(1))
            .map(|size| {
                let mut scanner = Scanner::default();
                bytes.chunks(size).for_each(|chunk| scanner.scan(chunk));
                scanner.format().bare_line_breaks
            })
            .collect();
        assert!(found.iter().all(|one| *one == found[0]), "{bytes:?}");
        found[0]
    }

    #[test]
    fn bare_line_breaks_are_found_across_chunks() {
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
