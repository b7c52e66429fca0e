//! Header fields as we write them: one line each or folded, ASCII, never more than asked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::mail::Address;

/// Longest line of a header we write: well under the 998 of RFC 5322 section 2.1.1.
const LONG_LINE: usize = 900;

/// What the names of our own fields begin with.
const OURS: &str = "X-Copyist-";

/// Whether a field of this name says something about Copyist, so that strangers may not write it.
pub fn is_ours(name: &str) -> bool {
    name.get(..OURS.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(OURS))
}

/// Adds `name: value`. The value must be ASCII without control characters, except folding of our
/// own.
pub(super) fn field(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str(": ");
    out.push_str(value);
    out.push_str("\r\n");
}

/// Adds a field with free text: as it is where it can stand so, else in encoded words (RFC 2047).
pub(super) fn unstructured(out: &mut String, name: &str, text: &str) {
    let plain = text.len() <= LONG_LINE
        && text
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic())
        && !text.contains("=?");
    if plain {
        return field(out, name, text);
    }
    // An encoded word has 75 characters at most: 45 bytes in base64 and the 12 around them.
    // Characters are not split between words (RFC 2047 section 5).
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if word.len() + c.len_utf8() > 45 {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let words: Vec<String> = words
        .iter()
        .map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word)))
        .collect();
    field(out, name, &words.join("\r\n "));
}

/// Adds a field with a list of addresses, one on each line.
pub(super) fn addresses(out: &mut String, name: &str, list: &[Address]) {
    let list: Vec<String> = list.iter().map(ToString::to_string).collect();
    field(out, name, &list.join(",\r\n "));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = String::new();
        unstructured(&mut out, "Subject", text);
        out
    }

    #[test]
    fn plain_text_stands_as_it_is() {
        assert_eq!(written("Offer 4711"), "Subject: Offer 4711\r\n");
    }

    #[test]
    fn other_text_is_encoded_in_words_of_whole_characters() {
        assert_eq!(written("Grüße"), "Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n");
        assert_eq!(
            written("=?utf-8?Q?x?="),
            "Subject: =?utf-8?B?PT91dGYtOD9RP3g/PQ==?=\r\n"
        );
        let long = written(&"ü".repeat(100));
        assert!(long.lines().all(|line| line.len() <= 84), "{long}");
        let message = mail_parser::MessageParser::default()
            .parse_headers(long.as_bytes())
            .expect("parsed");
        assert_eq!(message.subject(), Some("ü".repeat(100).as_str()));
    }
}
