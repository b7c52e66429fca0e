//! Charsets: lossless encoding and decoding, or none at all.
//!
//! Labels mean exactly the charset that they name: text encoded as ISO-8859-1 is the same for
//! clients that treat it as windows-1252 and for those that do not.

use std::borrow::Cow;

use encoding_rs::{
    EUC_KR, Encoding, GBK, ISO_2022_JP, REPLACEMENT, UTF_8, UTF_16BE, X_USER_DEFINED,
};
use mail_parser::decoders::charsets::map::charset_decoder;

use super::transfer::decode_base64;

/// A charset as a part's header names it.
#[derive(Clone, Copy)]
pub(super) enum Charset {
    Utf8,
    /// US-ASCII, or none was named.
    Ascii,
    /// A charset that can be encoded.
    Known(&'static Encoding, ByteSubset),
    /// A charset that can only be decoded, and is not a superset of ASCII.
    ReadOnly(fn(&[u8]) -> String),
    /// A charset with two bytes for each code unit, which can only be decoded.
    Utf16(fn(&[u8]) -> String),
    /// A charset that can only be decoded, and is a superset of ASCII.
    ReadOnlyAscii(fn(&[u8]) -> String),
    /// A charset that leaves ASCII with the first of these and returns with the second; in between
    /// are bytes of the encoding without their high bits: HZ (RFC 1843), ISO-2022-KR (RFC 1557).
    /// Only ASCII is inserted.
    Shifted(&'static [u8], &'static [u8], &'static Encoding),
    /// An unknown charset; assumed to be a superset of ASCII, as nearly all are.
    Unknown,
    /// An unsupported charset that is not a superset of ASCII.
    Opaque,
}

/// Label prefixes of charsets that are not supersets of ASCII or have unsupported shifts.
const OPAQUE: [&str; 12] = [
    "utf-",
    "utf1",
    "utf3",
    "ucs",
    "iso-10646",
    "iso-2022-",
    "hz-gb",
    "ebcdic",
    "ibm037",
    "cp037",
    "ibm1047",
    "ibm500",
];

/// The bytes of an encoding that belong to the label that was used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteSubset {
    /// ISO-8859-*: nothing between 0x80 and 0x9F, where windows-125x has letters.
    NoC1,
    /// GB 2312, KS C 5601, EUC-JP: both bytes above 0xA0, and none of the rows that vendors added.
    Rows94,
    /// Shift_JIS, Big5: no vendor's rows.
    Leads,
    None,
}

impl Charset {
    pub(super) fn of(label: Option<&str>) -> Charset {
        let Some(label) = label.map(str::trim).filter(|label| !label.is_empty()) else {
            return Charset::Ascii;
        };
        let label = label.to_ascii_lowercase();
        let label = match label.as_str() {
            // Microsoft's numbers for code pages.
            "cp932" => "windows-31j",
            "cp936" => "gbk",
            "cp949" => "ks_c_5601-1987",
            "cp950" => "big5-hkscs",
            other => other,
        }
        .to_owned();
        match label.as_str() {
            "us-ascii" | "ascii" | "us" | "iso646-us" | "ansi_x3.4-1968" => return Charset::Ascii,
            "utf-8" | "utf8" => return Charset::Utf8,
            _ => {}
        }
        if !label.starts_with("utf")
            && let Some(encoding) = Encoding::for_label(label.as_bytes())
            && encoding != REPLACEMENT
            && encoding != X_USER_DEFINED
            && encoding.output_encoding() == encoding
        {
            let subset = match label.as_str() {
                l if l.starts_with("iso-8859")
                    || l.starts_with("latin")
                    || l.starts_with("iso8859") =>
                {
                    ByteSubset::NoC1
                }
                "gb2312" | "euc-kr" | "euc-jp" => ByteSubset::Rows94,
                l if l.starts_with("ks_c") => ByteSubset::Rows94,
                "shift_jis" | "shift-jis" | "sjis" | "big5" => ByteSubset::Leads,
                _ => ByteSubset::None,
            };
            return Charset::Known(encoding, subset);
        }
        match label.as_str() {
            "utf-7" | "utf7" | "unicode-1-1-utf-7" => Charset::ReadOnly(utf7),
            "utf-16" | "utf16" | "utf-16le" | "utf-16be" | "unicode" | "ucs-2" => {
                charset_decoder(label.as_bytes()).map_or(Charset::Opaque, Charset::Utf16)
            }
            "hz-gb-2312" | "hz" => Charset::Shifted(b"~{", b"~}", GBK),
            "iso-2022-kr" | "csiso2022kr" => Charset::Shifted(b"\x0e", b"\x0f", EUC_KR),
            label if OPAQUE.iter().any(|start| label.starts_with(start)) => Charset::Opaque,
            label => {
                charset_decoder(label.as_bytes()).map_or(Charset::Unknown, Charset::ReadOnlyAscii)
            }
        }
    }

    /// Returns the bytes with an `x` for each that looks like ASCII but is not, so that tags and
    /// lines can be found and ASCII inserted; and the sequence that returns to ASCII at the end.
    /// `None` if that is unknown.
    pub(super) fn in_ascii(self, bytes: &[u8]) -> Option<(Cow<'_, [u8]>, &'static [u8])> {
        match self {
            // Without a label, mail clients treat escape sequences as ISO-2022-JP.
            Charset::Ascii if has_shifts(bytes) => {
                let (plain, shifted) = without_shifted(bytes)?;
                (!shifted).then_some((plain.into(), b""))
            }
            Charset::Utf8 | Charset::Ascii | Charset::Unknown | Charset::ReadOnlyAscii(_) => {
                Some((bytes.into(), b""))
            }
            Charset::Known(encoding, _) if encoding.is_ascii_compatible() => {
                Some((bytes.into(), b""))
            }
            Charset::Known(encoding, _) if encoding == ISO_2022_JP => {
                let (plain, shifted) = without_shifted(bytes)?;
                Some((plain.into(), if shifted { b"\x1b(B" } else { b"" }))
            }
            Charset::Shifted(out, back, _) => {
                let (plain, shifted) = between(bytes, out, back);
                Some((plain.into(), if shifted { back } else { b"" }))
            }
            Charset::Known(..) | Charset::ReadOnly(_) | Charset::Utf16(_) | Charset::Opaque => None,
        }
    }

    /// Encodes text, from and to the initial state; `None` if the charset does not have a
    /// character.
    pub(super) fn encode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Charset::Utf8 => Some(text.as_bytes().to_vec()),
            // ISO-2022-JP begins and ends each line in ASCII.
            Charset::Known(..) | Charset::Ascii | Charset::Unknown | Charset::ReadOnlyAscii(_)
                if text.is_ascii() =>
            {
                (!text.contains(['\u{1b}', '\u{e}', '\u{f}'])).then(|| text.as_bytes().to_vec())
            }
            Charset::Shifted(out, ..) if text.is_ascii() => {
                let shift = [out[0], 0x1b];
                (!text.bytes().any(|b| shift.contains(&b))).then(|| text.as_bytes().to_vec())
            }
            Charset::Known(encoding, subset) => {
                let (bytes, _, unmappable) = encoding.encode(text);
                (!unmappable && subset.allow(&bytes)).then(|| bytes.into_owned())
            }
            Charset::Ascii
            | Charset::Unknown
            | Charset::ReadOnly(_)
            | Charset::Utf16(_)
            | Charset::ReadOnlyAscii(_)
            | Charset::Opaque
            | Charset::Shifted(..) => None,
        }
    }

    /// Decodes bytes; `None` if the result is not certain.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<String> {
        match self {
            // Bytes above 127 without a label are ambiguous, unless they are valid UTF-8.
            Charset::Utf8 | Charset::Ascii | Charset::Unknown => {
                let sure = match self {
                    Charset::Utf8 => true,
                    Charset::Ascii => !has_shifts(bytes),
                    _ => bytes.is_ascii() && !has_shifts(bytes),
                };
                String::from_utf8(bytes.to_vec()).ok().filter(|_| sure)
            }
            // Each line begins and ends in ASCII, even without a sequence back to it.
            Charset::Known(encoding, _) if encoding == ISO_2022_JP => {
                let mut text = String::with_capacity(bytes.len());
                for line in bytes.split_inclusive(|&b| b == b'\n') {
                    let words = line.strip_suffix(b"\n").unwrap_or(line);
                    let words = words.strip_suffix(b"\r").unwrap_or(words);
                    text.push_str(
                        &encoding.decode_without_bom_handling_and_without_replacement(words)?,
                    );
                    text.extend(line[words.len()..].iter().map(|&b| char::from(b)));
                }
                Some(text)
            }
            Charset::Known(encoding, subset) => {
                // No text has C1 controls. Text with such bytes under the label ISO-8859-1 is
                // windows-1252, and every mail client treats it so (WHATWG Encoding, section 4.2).
                let c1 = subset == ByteSubset::NoC1
                    && encoding != encoding_rs::WINDOWS_1252
                    && bytes.iter().any(|b| (0x80..0xa0).contains(b));
                if c1 {
                    return None;
                }
                encoding
                    .decode_without_bom_handling_and_without_replacement(bytes)
                    .map(Cow::into_owned)
            }
            Charset::ReadOnly(decode) | Charset::ReadOnlyAscii(decode) => {
                Some(decode(bytes)).filter(|text| !text.contains('\u{fffd}'))
            }
            // Half a code unit at the end would be lost.
            Charset::Utf16(_) if bytes.len() % 2 == 1 => None,
            Charset::Utf16(decode) => Some(decode(bytes)).filter(|text| !text.contains('\u{fffd}')),
            Charset::Shifted(out, back, encoding) => unshifted(bytes, out, back, encoding),
            Charset::Opaque => None,
        }
    }

    /// Decodes bytes as well as possible; for searching, not for writing.
    pub(super) fn decode_lossy(self, bytes: &[u8]) -> String {
        match self {
            Charset::Known(encoding, _) => {
                encoding.decode_without_bom_handling(bytes).0.into_owned()
            }
            Charset::ReadOnly(decode) | Charset::Utf16(decode) | Charset::ReadOnlyAscii(decode) => {
                decode(bytes)
            }
            Charset::Shifted(out, back, encoding) => {
                unshifted(bytes, out, back, encoding).unwrap_or_default()
            }
            Charset::Ascii if has_shifts(bytes) => {
                let found = ISO_2022_JP.decode_without_bom_handling(bytes);
                found.0.into_owned()
            }
            _ => UTF_8.decode_without_bom_handling(bytes).0.into_owned(),
        }
    }
}

/// Whether there are control characters that leave ASCII (ECMA-35): SO, SI, and ESC with the
/// designation of another set. Terminal colours do not.
fn has_shifts(bytes: &[u8]) -> bool {
    memchr::memchr3_iter(0x1b, 0x0e, 0x0f, bytes).any(|at| {
        bytes[at] != 0x1b
            || match &bytes[at + 1..] {
                [b'(', b'B' | b'J', ..] => false,
                [first, ..] => DESIGNATES.contains(first),
                [] => false,
            }
    })
}

/// The bytes after ESC that designate a character set.
const DESIGNATES: &[u8] = b"$()*+-./&";

/// Decodes UTF-7 (RFC 2152); U+FFFD for invalid bytes.
fn utf7(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte != b'+' {
            text.push(if byte.is_ascii() {
                char::from(byte)
            } else {
                '\u{fffd}'
            });
            continue;
        }
        let rest = &bytes[at..];
        let is_letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
        let length = rest.iter().take_while(|b| is_letter(b)).count();
        let ended = rest.get(length) == Some(&b'-');
        at += length + usize::from(ended);
        match (length, ended) {
            (0, true) => text.push('+'),
            (0, false) => text.push('\u{fffd}'),
            _ => {
                let decoded = decode_base64(&rest[..length]);
                text.push_str(&UTF_16BE.decode_without_bom_handling(&decoded).0);
            }
        }
    }
    text
}

/// Masks ISO-2022-JP (RFC 1468): `ESC ( B` and `ESC ( J` return to ASCII, all other sequences leave
/// it.
fn without_shifted(bytes: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut plain = bytes.to_vec();
    let mut shifted = false;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == 0x1b {
            let sequence = bytes.get(at + 1..at + 3)?;
            shifted = match sequence {
                b"(B" | b"(J" => false,
                _ => shifted || DESIGNATES.contains(&sequence[0]),
            };
            at += 3;
        } else {
            if shifted {
                plain[at] = b'x';
            }
            at += 1;
        }
    }
    Some((plain, shifted))
}

/// Decodes the bytes between the shifts and outside them; `None` if the result is not certain.
fn unshifted(bytes: &[u8], out: &[u8], back: &[u8], encoding: &'static Encoding) -> Option<String> {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(found) = memchr::memmem::find(rest, out) {
        text.push_str(
            std::str::from_utf8(&rest[..found])
                .ok()
                .filter(|t| t.is_ascii())?,
        );
        let shifted = &rest[found + out.len()..];
        let end = memchr::memmem::find(shifted, back)?;
        let high: Vec<u8> = shifted[..end].iter().map(|b| b | 0x80).collect();
        text.push_str(&encoding.decode_without_bom_handling_and_without_replacement(&high)?);
        rest = &shifted[end + back.len()..];
    }
    text.push_str(std::str::from_utf8(rest).ok().filter(|t| t.is_ascii())?);
    Some(match out {
        b"~{" => text
            .replace("~~", "~")
            .replace("~\r\n", "")
            .replace("~\n", ""),
        _ => text.replace("\u{1b}$)C", ""),
    })
}

/// Masks the bytes between these with `x`, and returns whether the end is between them.
fn between(bytes: &[u8], out: &[u8], back: &[u8]) -> (Vec<u8>, bool) {
    let mut plain = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&bytes[at..], out) {
        let start = at + found + out.len();
        let end = memchr::memmem::find(&bytes[start..], back).map(|found| start + found);
        plain[start..end.unwrap_or(bytes.len())].fill(b'x');
        match end {
            Some(end) => at = end + back.len(),
            None => return (plain, true),
        }
    }
    (plain, false)
}

impl ByteSubset {
    fn allow(self, bytes: &[u8]) -> bool {
        match self {
            ByteSubset::NoC1 => !bytes.iter().any(|b| (0x80..0xa0).contains(b)),
            ByteSubset::Rows94 => {
                let mut rest = bytes.iter();
                while let Some(&lead) = rest.next() {
                    let pair = lead < 0x80
                        || (matches!(lead, 0xa1..=0xa8 | 0xb0..=0xf8)
                            && rest.next().is_some_and(|&trail| trail > 0xa0));
                    if !pair {
                        return false;
                    }
                }
                true
            }
            ByteSubset::Leads => !bytes.iter().any(|b| matches!(b, 0x87 | 0xed..=0xff)),
            ByteSubset::None => true,
        }
    }
}

/// Encodes all but ASCII as HTML character references, which every charset has.
pub(super) fn with_references(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    for c in html.chars() {
        match c {
            c if c.is_ascii() => text.push(c),
            c => text.push_str(&format!("&#{};", u32::from(c))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(label: &str, text: &str) -> Option<Vec<u8>> {
        Charset::of(Some(label)).encode(text)
    }

    #[test]
    fn a_charset_has_what_its_label_names_and_no_more() {
        assert_eq!(encode("iso-8859-1", "é"), Some(vec![0xe9]));
        assert_eq!(encode("iso-8859-1", "€"), None);
        assert_eq!(encode("ISO-8859-15", "€"), Some(vec![0xa4]));
        assert_eq!(encode("windows-1252", "€"), Some(vec![0x80]));
        assert_eq!(encode("us-ascii", "é"), None);
        assert_eq!(encode("koi8-r", "ж"), Some(vec![0xd6]));
        assert_eq!(encode("gb2312", "中"), Some(vec![0xd6, 0xd0]));
        assert_eq!(encode("gb2312", "镕"), None);
        assert_eq!(encode("utf-16", "a"), None);
        assert_eq!(encode("utf-7", "a"), None);
        assert_eq!(encode("x-never-heard-of", "a"), Some(vec![b'a']));
        assert_eq!(
            encode("iso-2022-jp", "日"),
            Some(b"\x1b$BF|\x1b(B".to_vec())
        );
        assert_eq!(encode("iso-2022-jp", "é"), None);
    }

    #[test]
    fn ambiguous_bytes_are_not_decoded() {
        let decode = |label: &str, bytes: &[u8]| Charset::of(Some(label)).decode(bytes);
        assert_eq!(decode("iso-8859-1", b"caf\xe9").as_deref(), Some("café"));
        assert_eq!(decode("iso-8859-1", b"\x93q\x94").as_deref(), Some("“q”"));
        // Mail clients treat undefined bytes of windows-1252 as C1 controls (WHATWG Encoding,
        // section 4.2).
        assert_eq!(decode("iso-8859-1", b"\x81").as_deref(), Some("\u{81}"));
        let undefined = b"\x81\x8d\x8f\x90\x9d";
        assert_eq!(
            decode("windows-1252", undefined).as_deref(),
            Some("\u{81}\u{8d}\u{8f}\u{90}\u{9d}")
        );
        assert_eq!(decode("utf-16", b"\xff\xfeH\0i\0\n"), None);
        assert_eq!(decode("utf-16be", b"\0a\0"), None);
        for label in ["", "us-ascii", "x-unknown"] {
            assert_eq!(decode(label, b"\x1b$B$3$l\x1b(B test"), None, "{label}");
            assert_eq!(decode(label, b"\x0e0!\x0f"), None, "{label}");
        }
        let colours = "\u{1b}[31mred\u{1b}(B\u{1b}[m";
        assert_eq!(decode("", colours.as_bytes()).as_deref(), Some(colours));
        assert_eq!(decode("iso-8859-2", b"\x93quoted\x94"), None);
        assert_eq!(decode("cp932", b"\x93\xfa").as_deref(), Some("日"));
        assert_eq!(decode("windows-1252", b"\x93q").as_deref(), Some("“q"));
        assert_eq!(decode("us-ascii", b"caf\xe9"), None);
        assert_eq!(decode("shift_jis", b"\x93\xfa").as_deref(), Some("日"));
        assert_eq!(
            decode("utf-7", b"+AOk- 1 +- 1 +2D3eAA.").as_deref(),
            Some("é 1 + 1 😀.")
        );
        assert_eq!(decode("utf-7", b"+ "), None);
        assert_eq!(
            decode("hz-gb-2312", b"a ~{VPND~} ~~").as_deref(),
            Some("a 中文 ~")
        );
        assert_eq!(
            decode("iso-2022-kr", b"\x1b$)C\x0e0!\x0f").as_deref(),
            Some("가")
        );
        assert_eq!(
            decode("iso-2022-jp", b"\x1b$BF|\r\na").as_deref(),
            Some("日\r\na")
        );
        assert_eq!(decode("cp850", b"\x81").as_deref(), Some("ü"));
        assert!(Charset::of(Some("utf-32")).in_ascii(b"a").is_none());
        assert_eq!(decode("utf-16be", b"\0a").as_deref(), Some("a"));
        assert_eq!(decode("x-unknown", b"\xe9"), None);
    }
}
