//! Unstructured header values: unfolding and encoded words (RFC 2047).
//!
//! Decodes more than RFC 2047 allows, as real mail requires: encoded words next to other text,
//! blanks in them, long ones, and characters or shift states split over several words of one
//! charset. Undecodable words stay unchanged.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use encoding_rs::{Encoding, ISO_2022_JP, REPLACEMENT};
use mail_parser::decoders::charsets::map::charset_decoder;

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// One encoded word.
struct Word<'a> {
    charset: &'a str,
    content: Vec<u8>,
    /// The source text in the field.
    source: &'a [u8],
}

/// Adjacent words of one charset: characters may be split between them.
struct Run<'a> {
    charset: &'a str,
    content: Vec<u8>,
    source: Vec<u8>,
}

/// Returns the text of an unstructured field's value. Bytes above 127 are UTF-8, or U+FFFD.
pub fn unstructured(value: &[u8]) -> String {
    let value = unfolded(value);
    let mut text = String::with_capacity(value.len());
    let mut run: Option<Run<'_>> = None;
    let mut rest = &value[..];
    loop {
        let word =
            memchr::memmem::find_iter(rest, b"=?").find_map(|at| Some((at, word(&rest[at..])?)));
        let Some((at, word)) = word else {
            break;
        };
        let between = &rest[..at];
        // White space between two encoded words is not shown (RFC 2047 section 6.2).
        let is_adjacent = run.is_some() && between.trim_ascii().is_empty();
        if !is_adjacent {
            end(&mut run, &mut text);
            text.push_str(&String::from_utf8_lossy(between));
        }
        match &mut run {
            Some(run) if run.charset.eq_ignore_ascii_case(word.charset) => {
                run.content.extend_from_slice(&word.content);
                run.source.extend_from_slice(between);
                run.source.extend_from_slice(word.source);
            }
            _ => {
                end(&mut run, &mut text);
                run = Some(Run {
                    charset: word.charset,
                    content: word.content,
                    source: word.source.to_vec(),
                });
            }
        }
        rest = &rest[at + word.source.len()..];
    }
    end(&mut run, &mut text);
    text.push_str(&String::from_utf8_lossy(rest));
    text
}

fn end(run: &mut Option<Run<'_>>, text: &mut String) {
    if let Some(run) = run.take() {
        match decode(run.charset, &run.content) {
            Some(words) => text.push_str(&words),
            None => text.push_str(&String::from_utf8_lossy(&run.source)),
        }
    }
}

/// Returns the value without the line breaks of its folding (RFC 5322 section 2.2.3).
fn unfolded(value: &[u8]) -> Cow<'_, [u8]> {
    match memchr::memchr2(b'\r', b'\n', value) {
        None => value.into(),
        Some(_) => value
            .iter()
            .copied()
            .filter(|b| !matches!(b, b'\r' | b'\n'))
            .collect(),
    }
}

/// Parses the encoded word at the start of the text.
fn word(text: &[u8]) -> Option<Word<'_>> {
    let rest = text.strip_prefix(b"=?")?;
    let mark = memchr::memchr(b'?', rest)?;
    let (charset, rest) = (&rest[..mark], &rest[mark + 1..]);
    // A language tag may follow (RFC 2231 section 5).
    let charset = charset.split(|&b| b == b'*').next()?;
    let is_name = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'=' | b'"' | b'<' | b'>');
    if charset.is_empty() || !charset.iter().all(is_name) {
        return None;
    }
    let charset = std::str::from_utf8(charset).ok()?;
    let [encoding, b'?', rest @ ..] = rest else {
        return None;
    };
    let end = memchr::memmem::find(rest, b"?=")?;
    let encoded = match encoding.to_ascii_lowercase() {
        b'q' => quoted(&rest[..end]),
        b'b' => base64(&rest[..end])?,
        _ => return None,
    };
    let length = text.len() - rest.len() + end + 2;
    Some(Word {
        charset,
        content: encoded,
        source: &text[..length],
    })
}

fn quoted(text: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'=', Some(high), Some(low)) => {
                content.push((high << 4 | low) as u8);
                at += 3;
                continue;
            }
            (b'_', ..) => content.push(b' '),
            _ => content.push(byte),
        }
        at += 1;
    }
    content
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::with_capacity(text.len() / 4 * 3);
    // Some programs join encoded texts with their padding.
    for piece in text.split(|&b| b == b'=') {
        let mut letters: Vec<u8> = piece
            .iter()
            .copied()
            .filter(|b| !b.is_ascii_whitespace())
            .collect();
        // One letter alone holds no byte.
        if letters.len() % 4 == 1 {
            letters.pop();
        }
        content.extend(LENIENT.decode(&letters).ok()?);
    }
    Some(content)
}

/// Decodes bytes of a charset; `None` if the charset is unknown.
fn decode(charset: &str, content: &[u8]) -> Option<String> {
    let label = charset.trim().to_ascii_lowercase();
    let label = match label.as_str() {
        // Microsoft's numbers for code pages.
        "cp932" => "windows-31j",
        "cp936" => "gbk",
        "cp949" => "ks_c_5601-1987",
        "cp950" => "big5",
        other => other,
    };
    match Encoding::for_label(label.as_bytes()) {
        Some(encoding) if encoding == ISO_2022_JP => {
            let content = without_idle_shifts(content);
            Some(
                encoding
                    .decode_without_bom_handling(&content)
                    .0
                    .into_owned(),
            )
        }
        Some(encoding) if encoding != REPLACEMENT => {
            Some(encoding.decode_without_bom_handling(content).0.into_owned())
        }
        _ => match charset_decoder(label.as_bytes()) {
            Some(decode) => Some(decode(content)),
            None if content.is_ascii() => Some(String::from_utf8_lossy(content).into_owned()),
            None => None,
        },
    }
}

/// Removes escape sequences of ISO-2022-JP that are directly followed by another one, as when two
/// words are joined: the decoder treats them as an attack.
fn without_idle_shifts(content: &[u8]) -> Vec<u8> {
    let mut kept: Vec<u8> = Vec::with_capacity(content.len());
    for &byte in content {
        if byte == 0x1b
            && matches!(
                kept[..],
                [.., 0x1b, b'(', b'B' | b'J'] | [.., 0x1b, b'$', b'@' | b'B']
            )
        {
            kept.truncate(kept.len() - 3);
        }
        kept.push(byte);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_decoded_as_they_occur() {
        for (value, expected) in [
            ("plain  text", "plain  text"),
            ("a =?utf-8?Q?b?= c", "a b c"),
            ("a=?utf-8?Q?b?=c", "abc"),
            ("=?utf-8?Q?a?= =?utf-8?Q?b?=", "ab"),
            ("=?utf-8?Q?a?=\r\n =?iso-8859-1?q?=FC?=", "aü"),
            ("=?utf-8?Q?a_?= b", "a  b"),
            (
                "x =?utf-8?B?w7w=?= =?utf-8?q?=C3?= =?UTF-8?B?vA==?= y",
                "x üü y",
            ),
            (
                "=?iso-2022-jp?B?GyRCRnw=?= =?iso-2022-jp?B?S1wbKEI=?=",
                "日本",
            ),
            (
                "=?iso-2022-jp?B?GyRCRnwbKEI=?= =?iso-2022-jp?B?GyRCS1wbKEI=?=",
                "日本",
            ),
            ("=?utf-8*de?Q?gr=C3=BCn?=", "grün"),
            ("=?utf-8?Q?two words?= here", "two words here"),
            ("=?utf-8?B?R3LD\r\n vMOfZQ==?=", "Grüße"),
            ("=?utf-8?B?R3LDvMOfZQ?=", "Grüße"),
            ("=?utf-8?Q??= x", " x"),
            ("=?x-nobody?Q?abc?=", "abc"),
            ("=?x-nobody?Q?=FC?= x", "=?x-nobody?Q?=FC?= x"),
            ("=?utf-8?X?a?= =?utf-8", "=?utf-8?X?a?= =?utf-8"),
            ("=?utf-7?Q?a+AOk-?=", "aé"),
            ("Grüße =?utf-8?Q?=C3=BC?=", "Grüße ü"),
            ("=? =?utf-8?Q?a?=", "=? a"),
        ] {
            assert_eq!(unstructured(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(unstructured(b"a\xfcb\r\n\tc"), "a\u{fffd}b\tc");
    }
}
