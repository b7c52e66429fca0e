//! A message as it goes over the wire.

use std::io;

use bytes::{Bytes, BytesMut};

/// Bytes of the message in one write; lettre copies each piece to stuff dots.
const PIECE: usize = 64 * 1024;

/// The pieces with every bare CR or LF made CRLF, and without the last CRLF, which the end of DATA
/// brings.
///
/// A bare line break passed on is a tool for smuggling: the next server may take it for a line's
/// end where we did not. A piece without one, nearly any, is not copied.
pub(super) struct Canonical<I> {
    pieces: I,
    /// What is left of the piece that was taken last.
    rest: Bytes,
    /// Whether what went before ends in a CR, which counts as a line break already.
    after_cr: bool,
    /// A line break that is not written before something follows it: lettre ends a message with
    /// CRLF.CRLF whatever it ends with, and without this each one would gain a line.
    held_break: bool,
}

/// What goes over the wire of these pieces.
pub(super) fn canonical<I>(pieces: I) -> Canonical<I>
where
    I: Iterator<Item = io::Result<Bytes>>,
{
    Canonical {
        pieces,
        rest: Bytes::new(),
        after_cr: false,
        held_break: false,
    }
}

impl<I: Iterator<Item = io::Result<Bytes>>> Iterator for Canonical<I> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            while self.rest.is_empty() {
                match self.pieces.next()? {
                    Ok(piece) => self.rest = piece,
                    Err(cause) => return Some(Err(cause)),
                }
            }
            let piece = self.rest.split_to(self.rest.len().min(PIECE));
            let written = self.write(piece);
            if !written.is_empty() {
                return Some(Ok(written));
            }
        }
    }
}

impl<I> Canonical<I> {
    /// What is written for a piece: all of it but a line break at its end.
    fn write(&mut self, piece: Bytes) -> Bytes {
        let before = self.held_break || self.after_cr;
        if !before && !has_bare_line_breaks(&piece) {
            self.held_break = piece.ends_with(b"\r\n");
            return match self.held_break {
                true => piece.slice(..piece.len() - 2),
                false => piece,
            };
        }
        let mut out = BytesMut::with_capacity(piece.len() + 1024);
        let mut piece = &piece[..];
        if std::mem::take(&mut self.after_cr)
            && let Some(rest) = piece.strip_prefix(b"\n")
        {
            piece = rest;
        }
        while let Some(first) = piece.first() {
            if std::mem::take(&mut self.held_break) {
                out.extend_from_slice(b"\r\n");
            }
            let end = memchr::memchr2(b'\r', b'\n', piece).unwrap_or(piece.len());
            if end > 0 {
                out.extend_from_slice(&piece[..end]);
                piece = &piece[end..];
                continue;
            }
            self.held_break = true;
            piece = match piece {
                [b'\r', b'\n', rest @ ..] => rest,
                [_, rest @ ..] => {
                    self.after_cr = *first == b'\r' && rest.is_empty();
                    rest
                }
                [] => break,
            };
        }
        out.freeze()
    }
}

/// Whether there is a CR or LF that is not part of a CRLF, or may not be: the other half would be
/// in the next piece.
fn has_bare_line_breaks(piece: &[u8]) -> bool {
    let mut cr_at = None;
    for at in memchr::memchr2_iter(b'\r', b'\n', piece) {
        match (piece[at], cr_at) {
            (b'\r', None) => cr_at = Some(at),
            (b'\n', Some(cr)) if cr + 1 == at => cr_at = None,
            _ => return true,
        }
    }
    cr_at.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent of these segments, and that it does not depend on where they are cut.
    fn sent(segments: [&'static str; 3]) -> String {
        let whole = segments.concat();
        let mut sent = pieces(&segments.map(str::as_bytes));
        for size in 1..=whole.len() {
            let cut: Vec<&[u8]> = whole.as_bytes().chunks(size).collect();
            assert_eq!(pieces(&cut), sent, "in pieces of {size}");
            sent = pieces(&cut);
        }
        String::from_utf8(sent).expect("ASCII")
    }

    fn pieces(of: &[&[u8]]) -> Vec<u8> {
        let of = of.iter().map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let sent: io::Result<Vec<Bytes>> = canonical(of).collect();
        sent.expect("no piece fails").concat()
    }

    #[test]
    fn sound_messages_lose_their_last_line_break_and_nothing_else() {
        assert_eq!(sent(["a\r\n", "b\r\n\r\n", ""]), "a\r\nb\r\n");
        assert_eq!(sent(["a\r", "\nb\r", "\n"]), "a\r\nb");
        assert_eq!(sent(["a", "", "b"]), "ab");
        assert_eq!(sent(["", "", ""]), "");
    }

    #[test]
    fn every_line_break_becomes_one_crlf() {
        assert_eq!(sent(["a\n", "\nb\r", "c\r\n"]), "a\r\n\r\nb\r\nc");
        assert_eq!(sent(["a\r\r", "\n.", "\r"]), "a\r\n\r\n.");
        assert_eq!(sent(["x\n.\n", "y", ""]), "x\r\n.\r\ny");
    }

    #[test]
    fn an_unreadable_chunk_is_an_error() {
        let of = [
            Ok(Bytes::from_static(b"a\r\n")),
            Err(io::Error::other("gone")),
        ];
        let sent: Vec<_> = canonical(of.into_iter()).collect();
        assert!(matches!(&sent[..], [Ok(a), Err(_)] if a == "a"), "{sent:?}");
    }
}
