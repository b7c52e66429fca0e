//! Charsets: whether one can hold a text, and what bytes in it say, without loss or not at all.
//!
//! Labels are taken for what they name and nothing wider: readers that know ISO-8859-1 as windows-1252 read the
//! same from what is written here as readers that do not.

use std::borrow::Cow;

use encoding_rs::{Encoding, ISO_2022_JP, REPLACEMENT, UTF_8, X_USER_DEFINED};
use mail_parser::decoders::charsets::map::charset_decoder;

/// A charset as a part's header names it.
#[derive(Clone, Copy)]
pub(super) enum Charset {
    Utf8,
    /// US-ASCII, or none was named.
    Ascii,
    /// One that can be written.
    Known(&'static Encoding, Limits),
    /// One that can only be read.
    ReadOnly(fn(&[u8]) -> String, bool),
    Unknown,
}

/// Which bytes of an encoding belong to the label that was used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Limits {
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
            let limits = match label.as_str() {
                l if l.starts_with("iso-8859")
                    || l.starts_with("latin")
                    || l.starts_with("iso8859") =>
                {
                    Limits::NoC1
                }
                "gb2312" | "euc-kr" | "euc-jp" => Limits::Rows94,
                l if l.starts_with("ks_c") => Limits::Rows94,
                "shift_jis" | "shift-jis" | "sjis" | "big5" => Limits::Leads,
                _ => Limits::None,
            };
            return Charset::Known(encoding, limits);
        }
        match charset_decoder(label.as_bytes()) {
            Some(decoder) => {
                let wide =
                    label.starts_with("utf") || label.contains("utf-7") || label.contains("utf-16");
                Charset::ReadOnly(decoder, !wide)
            }
            None => Charset::Unknown,
        }
    }

    /// The bytes with an `x` for each that is no ASCII character though it looks like one, so that tags and lines can
    /// be found and ASCII put in; `None` where that cannot be told, or where the end is not in ASCII.
    pub(super) fn in_ascii(self, bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self {
            Charset::Utf8 | Charset::Ascii | Charset::Unknown | Charset::ReadOnly(_, true) => {
                Some(bytes.into())
            }
            Charset::Known(encoding, _) if encoding.is_ascii_compatible() => Some(bytes.into()),
            Charset::Known(encoding, _) if encoding == ISO_2022_JP => {
                without_shifted(bytes).map(Cow::from)
            }
            Charset::Known(..) | Charset::ReadOnly(..) => None,
        }
    }

    /// The text in this charset, from and to its initial state; `None` where it cannot hold it.
    pub(super) fn encode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Charset::Utf8 => Some(text.as_bytes().to_vec()),
            // ISO-2022-JP begins and ends each line in ASCII.
            Charset::Known(..) | Charset::Ascii | Charset::Unknown if text.is_ascii() => {
                (!text.contains(['\u{1b}', '\u{e}', '\u{f}'])).then(|| text.as_bytes().to_vec())
            }
            Charset::ReadOnly(_, true) if text.is_ascii() => Some(text.as_bytes().to_vec()),
            Charset::Known(encoding, limits) => {
                let (bytes, _, unmappable) = encoding.encode(text);
                (!unmappable && limits.allow(&bytes)).then(|| bytes.into_owned())
            }
            Charset::Ascii | Charset::Unknown | Charset::ReadOnly(..) => None,
        }
    }

    /// What the bytes say; `None` where that is not certain.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<String> {
        match self {
            // Octets above 127 under no label are anybody's guess; those that happen to be UTF-8 are that.
            Charset::Utf8 | Charset::Ascii | Charset::Unknown => {
                let sure = bytes.is_ascii() || !matches!(self, Charset::Unknown);
                String::from_utf8(bytes.to_vec()).ok().filter(|_| sure)
            }
            Charset::Known(encoding, limits) => {
                let undefined = encoding == encoding_rs::WINDOWS_1252
                    && bytes
                        .iter()
                        .any(|b| matches!(b, 0x81 | 0x8d | 0x8f | 0x90 | 0x9d));
                // No text has C1 controls. What has octets there under the label ISO-8859-1 is windows-1252, and every
                // reader takes it for that (WHATWG Encoding, section 4.2).
                let c1 = limits == Limits::NoC1
                    && encoding != encoding_rs::WINDOWS_1252
                    && bytes.iter().any(|b| (0x80..0xa0).contains(b));
                if undefined || c1 {
                    return None;
                }
                encoding
                    .decode_without_bom_handling_and_without_replacement(bytes)
                    .map(Cow::into_owned)
            }
            Charset::ReadOnly(decode, _) => {
                Some(decode(bytes)).filter(|text| !text.contains('\u{fffd}'))
            }
        }
    }

    /// What the bytes say, as well as it can be told; for looking, not for writing.
    pub(super) fn decode_lossy(self, bytes: &[u8]) -> String {
        match self {
            Charset::Known(encoding, _) => {
                encoding.decode_without_bom_handling(bytes).0.into_owned()
            }
            Charset::ReadOnly(decode, _) => decode(bytes),
            _ => UTF_8.decode_without_bom_handling(bytes).0.into_owned(),
        }
    }
}

/// ISO-2022-JP (RFC 1468): `ESC ( B` and `ESC ( J` lead back to ASCII, all other sequences away from it.
fn without_shifted(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut plain = bytes.to_vec();
    let mut shifted = false;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == 0x1b {
            let sequence = bytes.get(at + 1..at + 3)?;
            shifted = !matches!(sequence, b"(B" | b"(J");
            at += 3;
        } else {
            if shifted {
                plain[at] = b'x';
            }
            at += 1;
        }
    }
    (!shifted).then_some(plain)
}

impl Limits {
    fn allow(self, bytes: &[u8]) -> bool {
        match self {
            Limits::NoC1 => !bytes.iter().any(|b| (0x80..0xa0).contains(b)),
            Limits::Rows94 => {
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
            Limits::Leads => !bytes.iter().any(|b| matches!(b, 0x87 | 0xed..=0xff)),
            Limits::None => true,
        }
    }
}

/// The text with everything but ASCII as HTML character references, which every charset can hold.
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
    fn a_charset_holds_what_its_label_names_and_no_more() {
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
    fn what_is_not_certain_is_not_decoded() {
        let decode = |label: &str, bytes: &[u8]| Charset::of(Some(label)).decode(bytes);
        assert_eq!(decode("iso-8859-1", b"caf\xe9").as_deref(), Some("café"));
        assert_eq!(decode("iso-8859-1", b"\x93q\x94").as_deref(), Some("“q”"));
        assert_eq!(decode("iso-8859-1", b"\x81"), None);
        assert_eq!(decode("iso-8859-2", b"\x93quoted\x94"), None);
        assert_eq!(decode("cp932", b"\x93\xfa").as_deref(), Some("日"));
        assert_eq!(decode("windows-1252", b"\x93q").as_deref(), Some("“q"));
        assert_eq!(decode("us-ascii", b"caf\xe9"), None);
        assert_eq!(decode("shift_jis", b"\x93\xfa").as_deref(), Some("日"));
        assert_eq!(decode("utf-7", b"+AOk-").as_deref(), Some("é"));
        assert_eq!(decode("utf-16be", b"\0a").as_deref(), Some("a"));
        assert_eq!(decode("x-unknown", b"\xe9"), None);
    }
}
