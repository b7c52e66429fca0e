//! The bytes of an exported key → text.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Decodes the bytes; fails with the name of the encoding that they do not fit.
///
/// Regedit writes UTF-16LE with a byte order mark ("Version 5.00") or the system's ANSI code page
/// ("REGEDIT4"); editors and scripts save the same as UTF-8, or without the mark. ANSI is read as
/// Windows-1252.
pub(super) fn text(bytes: &[u8]) -> Result<String, &'static str> {
    let (encoding, mark) = match Encoding::for_bom(bytes) {
        Some(marked) => marked,
        None => (detect_encoding(bytes), 0),
    };
    let rest = bytes.get(mark..).unwrap_or_default();
    encoding
        .decode_without_bom_handling_and_without_replacement(rest)
        .map(String::from)
        .ok_or(encoding.name())
}

fn detect_encoding(bytes: &[u8]) -> &'static Encoding {
    // The first character of every exported key is ASCII, so in UTF-16 one of its two bytes is
    // zero.
    match bytes {
        [0, second, ..] if *second != 0 => UTF_16BE,
        [first, 0, ..] if *first != 0 => UTF_16LE,
        _ if std::str::from_utf8(bytes).is_ok() => UTF_8,
        _ => WINDOWS_1252,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_encoding_of_a_saved_key_is_detected() {
        let wanted = "REGEDIT4 ü";
        let wide: Vec<u16> = wanted.encode_utf16().collect();
        let little: Vec<u8> = wide.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = wide.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for bytes in [
            [&b"\xff\xfe"[..], &little].concat(),
            little,
            [&b"\xfe\xff"[..], &big].concat(),
            big,
            [b"\xef\xbb\xbf", wanted.as_bytes()].concat(),
            wanted.as_bytes().to_vec(),
            b"REGEDIT4 \xfc".to_vec(),
        ] {
            assert_eq!(text(&bytes).as_deref(), Ok(wanted), "{bytes:?}");
        }
    }

    #[test]
    fn half_a_character_is_an_error() {
        assert_eq!(text(b"\xff\xfeR\0E"), Err("UTF-16LE"));
        assert_eq!(text(b"\xef\xbb\xbfR\xff"), Err("UTF-8"));
    }
}
