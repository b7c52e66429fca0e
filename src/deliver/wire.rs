//! A message as it goes over the wire.

use bytes::{Bytes, BytesMut};

/// The segments with every bare CR or LF made CRLF, and without the last CRLF, which the end of DATA brings.
///
/// A bare line break passed on is a tool for smuggling: the next server may take it for a line's end where we
/// did not. Segments that have none, nearly all, are not copied.
pub(super) fn canonical(segments: [Bytes; 3]) -> Vec<Bytes> {
    let mut after_cr = false;
    let mut out: Vec<Bytes> = Vec::with_capacity(3);
    for segment in segments {
        let next = fixed(segment, &mut after_cr);
        out.push(next);
    }
    if after_cr {
        out.push(Bytes::from_static(b"\n"));
    }
    strip_last_line_break(&mut out);
    out
}

/// One segment. `after_cr` says that what came before ended in a CR whose LF is still due.
fn fixed(segment: Bytes, after_cr: &mut bool) -> Bytes {
    if segment.is_empty() {
        return segment;
    }
    let bytes = segment.as_ref();
    let owed = std::mem::take(after_cr) && bytes[0] != b'\n';
    let starts_with_due_lf = !owed && bytes[0] == b'\n';
    let mut out: Option<BytesMut> = owed.then(|| BytesMut::from(&b"\n"[..]));
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'\r', b'\n', &bytes[at..]) {
        let here = at + found;
        at = here + 1;
        match (bytes[here], bytes.get(here + 1)) {
            (b'\r', Some(b'\n')) => at = here + 2,
            (b'\r', None) => *after_cr = true,
            (b'\n', _) if here == 0 && starts_with_due_lf && *DUE.get(usize::from(false)).unwrap_or(&false) => {}
            (byte, _) => {
                let out = out.get_or_insert_with(BytesMut::new);
                out.extend_from_slice(&bytes[copied..here]);
                out.extend_from_slice(b"\r\n");
                let _ = byte;
                copied = here + 1;
            }
        }
    }
    match out {
        Some(mut out) => {
            out.extend_from_slice(&bytes[copied..]);
            out.freeze()
        }
        None => segment,
    }
}
