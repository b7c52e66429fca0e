//! Distinguished names, compared as directories compare them (RFC 4514, RFC 4518). Pure.

use crate::mail::{fold, is_blank, is_invisible};

/// Attribute types: the short name, followed by other names and the OID (RFC 4519 and RFC 2985).
const TYPES: [&[&str]; 23] = [
    &["cn", "commonname", "2.5.4.3"],
    &["ou", "organizationalunitname", "2.5.4.11"],
    &["dc", "domaincomponent", "0.9.2342.19200300.100.1.25"],
    &["o", "organizationname", "2.5.4.10"],
    &["uid", "userid", "0.9.2342.19200300.100.1.1"],
    &["c", "countryname", "2.5.4.6"],
    &["l", "localityname", "2.5.4.7"],
    &["st", "stateorprovincename", "s", "2.5.4.8"],
    &["street", "streetaddress", "2.5.4.9"],
    &["sn", "surname", "2.5.4.4"],
    &["gn", "givenname", "2.5.4.42"],
    &["serialnumber", "2.5.4.5"],
    &["title", "2.5.4.12"],
    &["description", "2.5.4.13"],
    &["postalcode", "2.5.4.17"],
    &["telephonenumber", "2.5.4.20"],
    &["name", "2.5.4.41"],
    &["initials", "2.5.4.43"],
    &["generationqualifier", "2.5.4.44"],
    &["uniqueidentifier", "x500uniqueidentifier", "2.5.4.45"],
    &["dnqualifier", "2.5.4.46"],
    &["mail", "rfc822mailbox", "0.9.2342.19200300.100.1.3"],
    &[
        "email",
        "emailaddress",
        "e",
        "pkcs9email",
        "1.2.840.113549.1.9.1",
    ],
];

/// Returns the normalized form of a DN, equal for all spellings of one object: spaces, escapes,
/// quotes, hexadecimal values, names and OIDs of attribute types, letter case, separators, and the
/// order within a multi-valued RDN do not matter. The result is a DN itself. Text that is not a DN
/// is returned in lower case.
pub fn key(text: &str) -> String {
    normalize(text).unwrap_or_else(|| text.trim().to_lowercase())
}

/// Whether a DN names the object `base` or one below it.
pub fn is_within(dn: &str, base: &str) -> bool {
    let (dn, base) = (key(dn), key(base));
    // A comma within a value has a backslash before it, and so has the equals sign after it.
    base.is_empty()
        || dn == base
        || dn
            .strip_suffix(&base)
            .is_some_and(|rest| rest.ends_with(','))
}

/// Returns the DN in a form that every server parses: without quotes, semicolons, hexadecimal
/// values and OIDs that have a name. Values keep their case. Text that is not a DN is returned
/// unchanged.
pub(super) fn to_portable(text: &str) -> String {
    rewrite(text, &|value| value.trim_matches(' ').to_owned()).unwrap_or_else(|| text.to_owned())
}

fn normalize(text: &str) -> Option<String> {
    rewrite(text, &prepare)
}

fn rewrite(text: &str, form: ValueForm<'_>) -> Option<String> {
    if text.trim().is_empty() {
        return Some(String::new());
    }
    let mut whole = String::with_capacity(text.len());
    for (at, (start, end)) in rdn_ranges(text).into_iter().enumerate() {
        if at > 0 {
            whole.push(',');
        }
        write_rdn(&text[start..end], form, &mut whole)?;
    }
    Some(whole)
}

/// Returns the start and end of each RDN. A comma or semicolon (RFC 2253 section 4) that is escaped
/// or quoted is not a separator.
pub(super) fn rdn_ranges(dn: &str) -> Vec<(usize, usize)> {
    split(dn, |c| matches!(c, b',' | b';'))
}

fn split(text: &str, separates: impl Fn(u8) -> bool) -> Vec<(usize, usize)> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let mut ranges = Vec::new();
    let (mut start, mut escaped, mut quoted) = (0, false, false);
    // Quotes are only syntax where a value begins (RFC 2253 section 4).
    let mut at_value = false;
    for (at, byte) in text.bytes().enumerate() {
        let at_start = std::mem::take(&mut at_value);
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' if quoted => quoted = false,
            b'"' if at_start => quoted = true,
            _ if quoted => {}
            b'=' => at_value = true,
            b' ' => at_value = at_start,
            _ if separates(byte) => {
                ranges.push((start, at));
                start = at + 1;
            }
            _ => {}
        }
    }
    ranges.push((start, text.len()));
    ranges
}

/// The conversion of a value.
type ValueForm<'a> = &'a dyn Fn(&str) -> String;

/// Writes one RDN.
fn write_rdn(text: &str, form: ValueForm<'_>, whole: &mut String) -> Option<()> {
    if !text.contains('+') {
        return write_assertion(text, form, whole);
    }
    let mut all = Vec::new();
    for (start, end) in split(text, |c| c == b'+') {
        let mut one = String::new();
        write_assertion(&text[start..end], form, &mut one)?;
        all.push(one);
    }
    all.sort_unstable();
    whole.push_str(&all.join("+"));
    Some(())
}

/// Writes `type=value`.
fn write_assertion(text: &str, form: ValueForm<'_>, whole: &mut String) -> Option<()> {
    let (name, value) = text.split_once('=')?;
    write_type(name.trim(), whole)?;
    whole.push('=');
    write_value(value, form, whole)
}

fn write_type(name: &str, whole: &mut String) -> Option<()> {
    let name = match name.get(..4) {
        Some(head) if head.eq_ignore_ascii_case("oid.") => &name[4..],
        _ => name,
    };
    let is_sound = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if !is_sound {
        return None;
    }
    let known = TYPES
        .iter()
        .find(|names| names.iter().any(|one| one.eq_ignore_ascii_case(name)));
    match known {
        Some(names) => whole.push_str(names[0]),
        None => whole.extend(name.chars().map(|c| c.to_ascii_lowercase())),
    }
    Some(())
}

fn write_value(text: &str, form: ValueForm<'_>, whole: &mut String) -> Option<()> {
    let text = text.trim_start();
    if let Some(bytes) = text.trim_end().strip_prefix('#').and_then(parse_hex) {
        match decode_ber_string(&bytes) {
            Some(value) => write_escaped(&form(&value), whole),
            None => {
                whole.push('#');
                bytes
                    .iter()
                    .for_each(|byte| whole.push_str(&format!("{byte:02x}")));
            }
        }
        return Some(());
    }
    if !text.contains(['\\', '"']) {
        write_escaped(&form(text), whole);
        return Some(());
    }
    let inner = match text.strip_prefix('"') {
        Some(rest) => rest.trim_end().strip_suffix('"')?,
        None => text,
    };
    write_escaped(&form(&unescape(inner)?), whole);
    Some(())
}

/// Removes the backslashes of a value (RFC 4514 section 3); `None` if an escape is incomplete or
/// the value is not UTF-8.
fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut value = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'\\' {
            value.push(byte);
            at += 1;
            continue;
        }
        let pair = bytes
            .get(at + 1..at + 3)
            .and_then(|pair| parse_hex(std::str::from_utf8(pair).ok()?));
        match pair {
            Some(pair) => {
                value.extend(pair);
                at += 3;
            }
            None => {
                value.push(*bytes.get(at + 1)?);
                at += 2;
            }
        }
    }
    String::from_utf8(value).ok()
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let pairs = text.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

/// Returns the text of a BER-encoded string of any kind (X.690 section 8.23).
fn decode_ber_string(ber: &[u8]) -> Option<String> {
    let (&tag, rest) = ber.split_first()?;
    let (&length, mut content) = rest.split_first()?;
    let mut length = usize::from(length);
    if length >= 0x80 {
        let (long, rest) = content.split_at_checked(length - 0x80)?;
        if long.is_empty() || long.len() > 4 {
            return None;
        }
        length = long
            .iter()
            .fold(0, |all, byte| all << 8 | usize::from(*byte));
        content = rest;
    }
    if content.len() != length {
        return None;
    }
    match tag {
        // OCTET STRING, UTF8String, NumericString, PrintableString, IA5String, VisibleString.
        0x04 | 0x0c | 0x12 | 0x13 | 0x16 | 0x1a => String::from_utf8(content.to_vec()).ok(),
        // TeletexString; in practice it holds Latin-1.
        0x14 => Some(content.iter().map(|byte| char::from(*byte)).collect()),
        // BMPString.
        0x1e if content.len().is_multiple_of(2) => {
            let units = content
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

/// Writes a value with a backslash before each special character.
fn write_escaped(value: &str, whole: &mut String) {
    for c in value.chars() {
        if matches!(c, ',' | '+' | '=' | '"' | '\\' | '<' | '>' | ';' | '#') {
            whole.push('\\');
        }
        whole.push(c);
    }
}

/// Prepares a string for comparison (RFC 4518): case folded, without invisible characters, blanks
/// as single spaces, and trimmed.
pub(super) fn prepare(value: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_graphic();
    if value.bytes().all(is_plain) {
        return value.to_ascii_lowercase();
    }
    let shown = value.chars().filter(|c| !is_invisible(*c));
    let shown: String = shown.map(|c| if is_blank(c) { ' ' } else { c }).collect();
    let folded = fold(&shown);
    let mut prepared = String::with_capacity(folded.len());
    for word in folded.split(' ').filter(|word| !word.is_empty()) {
        if !prepared.is_empty() {
            prepared.push(' ');
        }
        prepared.push_str(word);
    }
    prepared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_dn_has_one_key() {
        for (wanted, spellings) in [
            (
                "cn=dan,ou=people,dc=corp,dc=test",
                &[
                    "cn=dan,ou=people,dc=corp,dc=test",
                    "CN=Dan,OU=People,DC=Corp,DC=Test",
                    " CN = Dan , OU = People , DC = Corp , DC = Test ",
                    "cn=dan;ou=people;dc=corp;dc=test",
                    "2.5.4.3=dan,2.5.4.11=people,0.9.2342.19200300.100.1.25=corp,dc=test",
                    "OID.2.5.4.3=Dan,oid.2.5.4.11=People,DC=corp,domainComponent=test",
                    "commonName=dan,organizationalUnitName=people,dc=corp,dc=test",
                    "cn=\"dan\",ou=\"people\",dc=corp,dc=test",
                    "cn=#040344616e,ou=people,dc=corp,dc=test",
                    "cn=#0C0344616E,ou=#130650656f706c65,dc=corp,dc=test",
                    "cn=#0c810344616e,ou=people,dc=corp,dc=test",
                    "cn=#1e0600440061006e,ou=people,dc=corp,dc=test",
                    "cn=\\44\\61\\6e,ou=people,dc=corp,dc=test",
                    "cn=\u{ff44}an,ou=people,dc=corp,dc=test",
                    "cn=da\u{200b}n,ou=people,dc=corp,dc=test",
                    "cn=dan\\ ,ou=people,dc=corp,dc=test",
                ][..],
            ),
            (
                "cn=doe\\, dan,dc=corp",
                &[
                    "CN=Doe\\, Dan,DC=corp",
                    "cn=doe\\2c dan,dc=corp",
                    "cn=Doe\\2C  Dan , dc=corp",
                    "cn=\"Doe, Dan\",dc=corp",
                    "cn=\"Doe\\, Dan\" , dc=corp",
                    "cn=#0408446f652c2044616e,dc=corp",
                ],
            ),
            (
                "cn=dan+uid=7,dc=corp",
                &[
                    "cn=Dan+uid=7,dc=corp",
                    "UID=7 + CN=dan,DC=corp",
                    "uid=7+2.5.4.3=dan;dc=corp",
                ],
            ),
            (
                "cn=m\u{fc}ller,dc=corp",
                &[
                    "cn=M\u{dc}LLER,dc=corp",
                    "cn=mu\u{308}ller,dc=corp",
                    "cn=m\\C3\\BCller,dc=corp",
                    "cn=#04074dc3bc6c6c6572,dc=corp",
                ],
            ),
            (
                "cn=a\\+b\\=c\\\\d\\\"e\\#f\\;g\\<h\\>,dc=corp",
                &[
                    "cn=a\\+b\\=c\\\\d\\\"e\\#f\\;g\\<h\\>,dc=corp",
                    "cn=a\\2Bb=c\\5cd\\22e#f\\3Bg\\3ch\\3e,dc=corp",
                    "cn=\"a+b=c\\\\d\\\"e#f;g<h>\",dc=corp",
                ],
            ),
            (
                "cn=\\#1 fan,dc=corp",
                &["cn=\\#1 fan,dc=corp", "cn=#1 Fan,dc=corp"],
            ),
            (
                "o=a 5\\\" b,dc=corp",
                &["o=a 5\" b,dc=corp", "o=A 5\\22 B;dc=corp"],
            ),
            ("", &["", " "]),
        ] {
            for spelling in spellings {
                assert_eq!(key(spelling), wanted, "{spelling:?}");
            }
            assert_eq!(key(&key(spellings[0])), key(spellings[0]), "a key is a DN");
        }
    }

    #[test]
    fn different_names_have_different_keys() {
        let all = [
            "cn=a,dc=b",
            "cn=a\\,dc=b",
            "cn=a\\,dc\\=b",
            "ou=a,dc=b",
            "cn=a+cn=b",
            "cn=a\\+cn=b",
            "cn=a b,dc=b",
            "cn=ab,dc=b",
            "mail=x,dc=b",
            "email=x,dc=b",
            "cn=#0500,dc=b",
            "cn=\\#0500,dc=b",
        ];
        for (n, one) in all.iter().enumerate() {
            for other in &all[n + 1..] {
                let is_same_name = ["cn=a\\,dc=b", "cn=a\\,dc\\=b"];
                if is_same_name.contains(one) && is_same_name.contains(other) {
                    continue;
                }
                assert_ne!(key(one), key(other), "{one} and {other}");
            }
        }
    }

    #[test]
    fn an_invalid_dn_is_compared_in_lower_case() {
        for (text, wanted) in [
            (" Nobody ", "nobody"),
            ("cn=a,,dc=B", "cn=a,,dc=b"),
            ("cn=a,", "cn=a,"),
            ("=X", "=x"),
            ("cn=\"a", "cn=\"a"),
            ("cn=a\\", "cn=a\\"),
            ("cn=\\FF", "cn=\\ff"),
        ] {
            assert_eq!(key(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn an_object_is_within_its_containers_and_no_others() {
        assert!(is_within("CN=Dan, OU=A,DC=b", "ou=a, dc=B"));
        assert!(is_within("ou=a,dc=b", "OU=A;DC=B"));
        assert!(is_within("cn=x", ""));
        assert!(!is_within("ou=aa,dc=b", "ou=a,dc=b"));
        assert!(!is_within("cn=x\\,ou\\=a\\,dc\\=b,dc=c", "dc=b"));
        assert!(!is_within("cn=x\\,dc=b", "dc=b"));
    }

    proptest::proptest! {
        #[test]
        fn a_key_is_its_own_key(text in "[a-c=,;+\"\\\\ #0-9\u{e9}\u{df}\u{ff41}\u{a0}]{0,24}") {
            let once = key(&text);
            proptest::prop_assert_eq!(key(&once), once);
        }

        #[test]
        fn a_plain_dn_names_the_same_object(text in "(cn|OU|2\\.5\\.4\\.3)=[a-c,+\"#\u{e9} ]{1,12}") {
            let portable = to_portable(&text);
            if normalize(&text).is_some() {
                proptest::prop_assert_eq!(key(&portable), key(&text));
            }
        }
    }
}
