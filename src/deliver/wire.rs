//! A message as it goes over the wire.

use bytes::{Bytes, BytesMut};

/// The segments with every bare CR or LF made CRLF, and without the last CRLF, which the end of DATA brings.
///
/// A bare line break passed on is a tool for smuggling: the next server may take it for a line's end where we
/// did not. A message without one, nearly any, is not copied.
pub(super) fn canonical(segments: [Bytes; 3]) -> Vec<Bytes> {
    let mut segments = if has_bare_line_breaks(&segments) {
        vec![rewritten(&segments)]
    } else {
        segments.to_vec()
    };
    strip_last_line_break(&mut segments);
    segments
}

fn has_bare_line_breaks(segments: &[Bytes]) -> bool {
    let mut offset = 0;
    let mut cr_at = None;
    for segment in segments {
        for at in memchr::memchr2_iter(b'\r', b'\n', segment) {
            let here = offset + at;
            match (segment[at], cr_at) {
                (b'\r', None) => cr_at = Some(here),
                (b'\n', Some(cr)) if cr + 1 == here => cr_at = None,
                _ => return true,
            }
        }
        offset += segment.len();
    }
    cr_at.is_some()
}

fn rewritten(segments: &[Bytes]) -> Bytes {
    let mut out = BytesMut::with_capacity(segments.iter().map(Bytes::len).sum::<usize>() + 1024);
    let mut after_cr = false;
    for byte in segments.iter().flatten() {
        let was_after_cr = std::mem::replace(&mut after_cr, *byte == b'\r');
        match byte {
            b'\n' if was_after_cr => {}
            b'\r' | b'\n' => out.extend_from_slice(b"\r\n"),
            other => out.extend_from_slice(&[*other]),
        }
    }
    out.freeze()
}

/// lettre ends a message with CRLF.CRLF whatever it ends with; without this each one would gain a line.
fn strip_last_line_break(segments: &mut Vec<Bytes>) {
    for end in [b'\n', b'\r'] {
        while segments.last().is_some_and(Bytes::is_empty) {
            segments.pop();
        }
        match segments.last_mut() {
            Some(last) if last.ends_with(&[end]) => last.truncate(last.len() - 1),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(segments: [&'static str; 3]) -> String {
        let parts = canonical(segments.map(|segment| Bytes::from_static(segment.as_bytes())));
        String::from_utf8(parts.concat()).expect("ASCII")
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
}
