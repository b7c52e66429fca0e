//! Addresses as people write them into a directory, a settings file or a journal attribute.
//!
//! Promises: one address or an error. A value with two addresses is an error, never one of the two.

use std::borrow::Cow;

use super::{Address, AddressError, LONGEST, ends_a_line, malformed};

/// Longest value accepted: every byte of the longest address percent-encoded, and a display name.
const LONGEST_VALUE: usize = 4 * LONGEST;

/// Most layers of scheme, brackets and quotes around one address.
const MOST_LAYERS: usize = 8;

/// Pairs of delimiters that people put around an address.
const PAIRS: [(char, char); 8] = [
    ('<', '>'),
    ('\'', '\''),
    ('\u{2018}', '\u{2019}'),
    ('\u{201c}', '\u{201d}'),
    ('\u{201e}', '\u{201c}'),
    ('\u{ab}', '\u{bb}'),
    ('\u{2039}', '\u{203a}'),
    ('[', ']'),
];

/// Parses a value; see [`Address::parse_value`].
pub(super) fn parse(text: &str) -> Result<Address, AddressError> {
    if text.len() > LONGEST_VALUE {
        return Err(AddressError::TooLong(text.len()));
    }
    // Fast path: nearly every value is plain.
    if text.is_ascii() {
        let bare = without_scheme(text, "smtp").unwrap_or(text);
        if let Ok(address) = Address::parse(bare) {
            return Ok(address);
        }
    }
    let mut rest = cleaned(text)?;
    for _ in 0..MOST_LAYERS {
        match without_a_layer(&rest)? {
            Some(inner) => rest = inner,
            None => return addr_spec(&rest, text),
        }
    }
    Err(malformed(text))
}

/// Returns the text with every blank as a space, without invisible characters. Joiners stay: some
/// domains have them (RFC 5892 appendix A).
fn cleaned(text: &str) -> Result<String, AddressError> {
    let text = text.trim_matches(|c: char| c.is_control() || c.is_whitespace() || is_invisible(c));
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{200c}' | '\u{200d}' => clean.push(c),
            _ if is_invisible(c) => {}
            _ if is_blank(c) => clean.push(' '),
            _ if ends_a_line(c) => return Err(AddressError::Control(text.to_owned())),
            // Address syntax as East Asian keyboards write it.
            '\u{ff20}' | '\u{fe6b}' => clean.push('@'),
            '\u{ff1c}' => clean.push('<'),
            '\u{ff1e}' => clean.push('>'),
            '\u{ff1a}' => clean.push(':'),
            '\u{ff02}' => clean.push('"'),
            c => clean.push(c),
        }
    }
    Ok(clean)
}

/// Removes the outermost scheme, brackets, display name, comments or quotes; `None` if there are
/// none.
fn without_a_layer(text: &str) -> Result<Option<String>, AddressError> {
    let bare = text.trim_matches(' ').trim_end_matches([',', ';', ' ']);
    if bare.is_empty() {
        return Err(AddressError::Empty);
    }
    if bare.len() < text.len() {
        return Ok(Some(bare.to_owned()));
    }
    if let Some(rest) = without_scheme(bare, "smtp") {
        return Ok(Some(rest.to_owned()));
    }
    if let Some(rest) = without_scheme(bare, "mailto") {
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let rest = match rest.split_once('?') {
            Some((address, _)) if address.contains('@') || address.contains("%40") => address,
            _ => rest,
        };
        return cleaned(&percent_decoded(rest)).map(Some);
    }
    if let Some(inner) = between_a_pair(bare) {
        return Ok(Some(inner.to_owned()));
    }
    if let Some(inner) = quoted_whole(bare) {
        return Ok(Some(inner));
    }
    if let Some(inner) = behind_a_display_name(bare) {
        return Ok(Some(inner.to_owned()));
    }
    Ok(without_comments(bare))
}

/// Returns the text after `scheme:`, with or without blanks around the colon.
pub(crate) fn without_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let head = text.get(..scheme.len())?;
    if !head.eq_ignore_ascii_case(scheme) {
        return None;
    }
    let rest = text[scheme.len()..].trim_start();
    Some(rest.strip_prefix(':')?.trim_start())
}

/// Percent-decodes text (RFC 3986 section 2.1); unchanged if the result is not UTF-8.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let hex = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = (hex(bytes.get(at + 1)), hex(bytes.get(at + 2)));
        match (byte, pair) {
            (b'%', (Some(high), Some(low))) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).map_or(text.into(), Cow::Owned)
}

fn between_a_pair(text: &str) -> Option<&str> {
    let (open, close) = PAIRS
        .into_iter()
        .find(|(open, _)| text.starts_with(*open))?;
    let inner = text.strip_prefix(open)?.strip_suffix(close)?;
    // An address literal follows an @, so text that begins with a delimiter is not an address.
    inner.contains('@').then_some(inner)
}

/// Unquotes `"dan@corp.test"`, with quotes around the whole address.
fn quoted_whole(text: &str) -> Option<String> {
    let mut inner = String::new();
    let mut rest = text.strip_prefix('"')?.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' => inner.push(rest.next()?.1),
            '"' => return (at + 2 == text.len() && inner.contains('@')).then_some(inner),
            c => inner.push(c),
        }
    }
    None
}

/// Returns `dan@corp.test` of `Dan <dan@corp.test>`. The name may be unquoted and have a comma, as
/// in `Doe, Dan`, but must not be another address before a comma, a scheme or a group of RFC 5322.
fn behind_a_display_name(text: &str) -> Option<&str> {
    let inner = text.strip_suffix('>')?;
    let mut opened = None;
    for (at, c) in unquoted(inner) {
        match c {
            '<' if opened.is_none() => opened = Some(at),
            '<' | '>' => return None,
            _ => {}
        }
    }
    let opened = opened?;
    let name: String = unquoted(&inner[..opened]).map(|(_, c)| c).collect();
    let is_list = name.contains('@') && name.contains([',', ';']);
    let is_name = !is_list && !name.contains(':');
    is_name.then_some(&inner[opened + 1..])
}

/// Iterates over the characters outside quotes, with their offsets.
fn unquoted(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quoted, mut escaped) = (false, false);
    text.char_indices().filter(move |(_, c)| {
        let was_quoted = quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        !was_quoted && *c != '"'
    })
}

/// Removes the comments of RFC 5322 section 3.2.2; `None` if there are none, or one is
/// unterminated.
fn without_comments(text: &str) -> Option<String> {
    let mut kept = String::new();
    let (mut from, mut depth) = (0, 0_usize);
    for (at, c) in unquoted(text) {
        match c {
            '(' => {
                if depth == 0 {
                    kept.push_str(&text[from..at]);
                }
                depth += 1;
            }
            ')' => {
                depth = depth.checked_sub(1)?;
                from = at + 1;
            }
            _ => {}
        }
    }
    if from == 0 || depth > 0 {
        return None;
    }
    kept.push_str(&text[from..]);
    Some(kept)
}

/// Parses `local@domain` with blanks next to the `@`, quotes around any part of the local part, and
/// a source route.
fn addr_spec(text: &str, whole: &str) -> Result<Address, AddressError> {
    let text = match text.starts_with('@') {
        true => text.split_once(':').ok_or_else(|| malformed(whole))?.1,
        false => text,
    };
    let at = unquoted(text).filter(|(_, c)| *c == '@').last();
    let (local, domain) = match at {
        Some((at, _)) => (&text[..at], Some(text[at + 1..].trim_matches(' '))),
        None => (text, None),
    };
    let local = local_part(local.trim_matches(' ')).ok_or_else(|| malformed(whole))?;
    if local.is_empty() {
        return Err(malformed(whole));
    }
    let Some(domain) = domain else {
        return Err(AddressError::Unqualified(local));
    };
    let local = super::compatible(&local).into_owned();
    let joiners = ['\u{200c}', '\u{200d}'];
    let is_joined = domain.contains(joiners);
    if is_joined && super::in_ascii(domain).is_none() {
        let domain = domain.replace(joiners, "");
        return Address::from_parts(local, &domain).ok_or_else(|| malformed(whole));
    }
    Address::from_parts(local, domain).ok_or_else(|| malformed(whole))
}

/// Unquotes a local part: words and quoted strings separated by dots (RFC 5322 section 4.4).
fn local_part(text: &str) -> Option<String> {
    let mut local = String::new();
    let mut rest = text.chars();
    let mut quoted = false;
    while let Some(c) = rest.next() {
        match c {
            '\u{200c}' | '\u{200d}' => {}
            '"' => quoted = !quoted,
            '\\' if quoted => local.push(rest.next()?),
            c if quoted => local.push(c),
            c if c.is_whitespace() || "<>@,;:\\()[]".contains(c) => return None,
            c => local.push(c),
        }
    }
    (!quoted).then_some(local)
}

/// Whether a character is invisible anywhere: soft hyphen, joiners, direction marks, byte order
/// mark, variation selectors, tags and fillers.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a character is displayed as a blank.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{2800}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn key(text: &str) -> String {
        match parse(text) {
            Ok(address) => address.key().to_owned(),
            Err(error) => panic!("{text:?}: {error}"),
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_that_address() {
        for text in [
            "dan@corp.test",
            "DAN@Corp.Test",
            "smtp:dan@corp.test",
            "SMTP: dan@corp.test",
            "smtp :dan@corp.test",
            "smtp:smtp:dan@corp.test",
            "mailto:dan@corp.test",
            "MailTo:  dan@corp.test",
            "mailto://dan@corp.test",
            "mailto:dan%40corp.test",
            "mailto:%64an@corp.test?subject=Hi%20there",
            "mailto:dan@corp.test?cc=ann@corp.test",
            "smtp:mailto:dan@corp.test",
            "<dan@corp.test>",
            "< dan@corp.test >",
            "<<dan@corp.test>>",
            "<smtp:dan@corp.test>",
            "<mailto:dan@corp.test>",
            "smtp:<dan@corp.test>",
            "Dan <dan@corp.test>",
            "Dan<dan@corp.test>",
            "\"Dan\" <dan@corp.test>",
            "\"Doe, Dan <x>\" <dan@corp.test>",
            "Doe, Dan <dan@corp.test>",
            "dan@corp.test <dan@corp.test>",
            "smtp:Dan <dan@corp.test>",
            "Dan <mailto:dan@corp.test>",
            "dan@corp.test (Dan)",
            "(Dan (Doe)) dan@corp.test",
            " dan@corp.test ",
            "\tdan@corp.test\r\n",
            "dan @corp.test",
            "dan@ corp.test",
            "dan @ corp.test",
            "@relay.test:dan@corp.test",
            "<@a.test,@b.test:dan@corp.test>",
            "\"dan\"@corp.test",
            "\"d\\an\"@corp.test",
            "\"dan@corp.test\"",
            "'dan@corp.test'",
            "\u{201c}dan@corp.test\u{201d}",
            "\u{2018}dan@corp.test\u{2019}",
            "[dan@corp.test]",
            "dan@corp.test.",
            "dan@corp.test;",
            "dan@corp.test,",
            "dan\u{200b}@corp.test",
            "\u{feff}dan@corp.test",
            "dan@corp\u{ad}.test",
            "d\u{200d}an@corp.t\u{200c}est",
            "\u{202a}dan@corp.test\u{202c}",
            "\u{200e}dan@corp.test",
            "dan\u{2060}@corp.test",
            "dan@corp.test\u{a0}",
            "dan\u{a0}@corp.test",
            "smtp:\u{3000}dan@corp.test",
            "dan\u{ff20}corp.test",
            "dan@corp\u{3002}test",
            "dan@corp\u{ff0e}test",
            "dan@corp\u{ff61}test\u{ff61}",
            "\u{ff44}\u{ff41}\u{ff4e}@\u{ff43}\u{ff4f}\u{ff52}\u{ff50}.test",
            "\u{ff1c}dan@corp.test\u{ff1e}",
        ] {
            assert_eq!(key(text), "dan@corp.test", "{text:?}");
        }
    }

    #[test]
    fn both_forms_of_a_domain_and_of_a_letter_are_equal() {
        for text in [
            "dan@m\u{fc}ller.test",
            "Dan <DAN@M\u{dc}LLER.test>",
            "dan@mu\u{308}ller.test",
            "smtp:dan@XN--MLLER-KVA.test.",
            "mailto:dan@m%C3%BCller.test",
        ] {
            assert_eq!(key(text), "dan@xn--mller-kva.test", "{text:?}");
            let address = Address::parse_value(text).expect("an address");
            assert!(!address.needs_smtputf8(), "{address}");
        }
        let composed = key("jos\u{e9}@corp.test");
        for text in [
            "jose\u{301}@corp.test",
            "JOS\u{c9}@corp.test",
            "<JOSE\u{301}@corp.test>",
        ] {
            assert_eq!(key(text), composed, "{text:?}");
        }
        let sigma = key("\u{3bd}\u{3b9}\u{3ba}\u{3bf}\u{3c2}@corp.test");
        assert_eq!(key("\u{39d}\u{399}\u{39a}\u{39f}\u{3a3}@corp.test"), sigma);
    }

    #[test]
    fn invisible_characters_do_not_require_smtputf8() {
        // Default_Ignorable_Code_Point of Unicode, and blanks at the ends.
        let ignorable = [
            0xad..=0xad,
            0x34f..=0x34f,
            0x61c..=0x61c,
            0x115f..=0x1160,
            0x17b4..=0x17b5,
            0x180b..=0x180f,
            0x200b..=0x200f,
            0x202a..=0x202e,
            0x2060..=0x206f,
            0x3164..=0x3164,
            0xfe00..=0xfe0f,
            0xfeff..=0xfeff,
            0xffa0..=0xffa0,
            0xfff0..=0xfff8,
            0x1bca0..=0x1bca3,
            0x1d173..=0x1d17a,
            0xe0000..=0xe0fff,
        ];
        for c in ignorable.into_iter().flatten().filter_map(char::from_u32) {
            for text in [
                format!("{c}journal@corp.test"),
                format!("jour{c}nal@corp.test"),
                format!("journal@co{c}rp.test"),
                format!("journal@corp.test{c}\u{a0}"),
            ] {
                let address = Address::parse_value(&text).expect("an address");
                assert_eq!(address.to_string(), "journal@corp.test", "{text:?}");
            }
        }
        // A blank inside is an error that coverage reports.
        for c in ['\u{a0}', '\u{2003}', '\u{2800}', '\u{3000}'] {
            let text = format!("jour{c}nal@corp.test");
            assert!(Address::parse_value(&text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_joiner_that_makes_another_domain_is_kept() {
        // A Persian word that is written with a zero width non-joiner.
        let with = key("a@\u{646}\u{627}\u{645}\u{647}\u{200c}\u{627}\u{6cc}.test");
        let without = key("a@\u{646}\u{627}\u{645}\u{647}\u{627}\u{6cc}.test");
        assert_ne!(with, without);
    }

    #[test]
    fn quoted_local_parts_keep_special_characters() {
        assert_eq!(key("\"ana maria\"@corp.test"), "ana maria@corp.test");
        assert_eq!(key("Ana <\"ana maria\"@corp.test>"), "ana maria@corp.test");
        assert_eq!(key("\"user\".\"3\"@corp.test"), "user.3@corp.test");
        assert_eq!(key("\"dan@home\"@corp.test"), "dan@home@corp.test");
        assert_eq!(key("dan@[192.0.2.1]"), "dan@[192.0.2.1]");
    }

    #[test]
    fn values_that_are_not_one_address_are_errors() {
        for text in [
            "",
            " ",
            "<>",
            "dan",
            "smtp:",
            "Dan Doe",
            "dan doe@corp.test",
            "dan@corp.test, ann@corp.test",
            "dan@corp.test;ann@corp.test",
            "dan@corp.test Ann <ann@corp.test>; x",
            "a@corp.test, Dan <dan@corp.test>",
            "Dan <dan@corp.test> Ann <ann@corp.test>",
            "mailto:dan@corp.test,ann@corp.test",
            "Team: Dan <dan@corp.test>;",
            "SIP:dan@corp.test",
            "SIP:Dan <dan@corp.test>",
            "X500:/o=Corp/cn=dan",
            "dan@corp@corp.test",
            "dan@corp.test (Dan",
            "dan@corp..test",
            "d\0an@corp.test",
            "dan@corp.test\u{2028}x",
        ] {
            assert!(parse(text).is_err(), "{text:?} is {:?}", parse(text));
        }
    }

    #[test]
    fn written_addresses_parse_as_the_same() {
        for text in [
            "Dan <\"a \\\"b\\\\\"@corp.test>",
            "jose\u{301}@mu\u{308}ller.test",
            "\u{a8}@corp.test",
            "\"a\u{ff20}b\"@corp.test",
        ] {
            let address = parse(text).expect("an address");
            let written = address.to_string();
            assert_eq!(Address::parse(&written), Ok(address.clone()), "{text:?}");
            assert_eq!(parse(&written), Ok(address), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_value_is_one_mailbox_that_can_be_written(
            text in "[a-c@.:<>\"'(), %4\u{200b}\u{200d}\u{a0}\u{e9}\u{301}\u{ff20}\u{3002}\u{130}-]{0,24}"
        ) {
            if let Ok(address) = parse(&text) {
                let written = address.to_string();
                proptest::prop_assert_eq!(&Address::parse(&written), &Ok(address.clone()));
                proptest::prop_assert_eq!(parse(&written), Ok(address));
            }
        }
    }
}
