//! Mailbox addresses, parsed once at the edge.
//!
//! Promises: an [`Address`] has no control character, has a domain, and compares without regard to
//! case. Postmasters expect `Ana@Corp.Example` and `ana@corp.example` to be one person, and every
//! directory compares that way.
//!
//! [`Address::parse`] reads envelopes, [`Address::parse_value`] reads addresses written by people.
//! Both give the same [`Address::key`] for the same mailbox.

mod value;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use icu_normalizer::{ComposingNormalizer, ComposingNormalizerBorrowed};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use value::{is_blank, is_invisible, without_scheme};

/// Longest address accepted, in bytes as SMTP writes it: more than the 254 of RFC 5321 section
/// 4.5.3.1, since encapsulated X.500 addresses are longer, and short enough to fit with a field
/// name into a line of 998 (RFC 5322 section 2.1.1).
const LONGEST: usize = 950;

/// A mailbox `local@domain`. The local part keeps its original spelling (RFC 5321 section 2.4), the
/// domain is lowercased and has no trailing dot. Comparison ignores case in both, the encoding of
/// accented or fullwidth letters, and whether an internationalized domain is written in Unicode or
/// as `xn--…` (RFC 5890 section 2.3.2.1).
///
/// Cloning copies no text.
#[derive(Clone)]
pub struct Address(Arc<Parts>);

struct Parts {
    local: String,
    /// As it was written.
    domain: String,
    /// The offset of the domain in `key`, which has it in ASCII if possible.
    at: usize,
    key: String,
}

/// The reason why text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing between the angle brackets, or an empty value.
    #[error("the address is empty")]
    Empty,
    /// A control character, with which an address could forge a line.
    #[error("{0:?} contains a control character")]
    Control(String),
    /// No `@domain`. The value is the local part.
    #[error("{0:?} has no domain; an address looks like user@example.com")]
    Unqualified(String),
    /// Any other violation of RFC 5321.
    #[error("{0:?} is not a mail address; an address looks like user@example.com")]
    Malformed(String),
    /// Longer than 950 bytes.
    #[error("the address is {0} bytes long; the limit is {LONGEST}")]
    TooLong(usize),
}

impl Address {
    /// Parses `local@domain`, with or without angle brackets. A source route (`@a,@b:user@c`, RFC
    /// 5321 appendix C) is removed, a quoted local part unquoted.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        let mut text = text.trim_matches([' ', '\t']);
        if let Some(inner) = text.strip_prefix('<') {
            text = inner.strip_suffix('>').ok_or_else(|| malformed(text))?;
        }
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.len() > LONGEST {
            return Err(AddressError::TooLong(text.len()));
        }
        if text.chars().any(ends_a_line) {
            return Err(AddressError::Control(text.to_owned()));
        }
        if text.starts_with('@') {
            let (_, rest) = text.split_once(':').ok_or_else(|| malformed(text))?;
            text = rest;
        }
        let (local, domain) = split(text)?;
        if local.is_empty() {
            return Err(malformed(text));
        }
        let Some(domain) = domain else {
            return Err(AddressError::Unqualified(local));
        };
        Address::from_parts(local, domain).ok_or_else(|| malformed(text))
    }

    /// Parses like [`Address::parse`], but adds `default_domain` to an address without a domain
    /// (`postmaster`, RFC 5321 section 4.1.1.3).
    pub fn parse_in(text: &str, default_domain: &str) -> Result<Address, AddressError> {
        match Address::parse(text) {
            Err(AddressError::Unqualified(local)) => {
                Address::from_parts(local, default_domain).ok_or_else(|| malformed(text))
            }
            other => other,
        }
    }

    /// Parses an address as people write it into directories and settings: with or without `smtp:`
    /// or `mailto:` (percent-encoded, with `?subject=…`), angle brackets, a display name, comments,
    /// quotes, blanks at the ends and next to the `@`, a source route and a trailing dot. Invisible
    /// characters, such as a zero width space, are ignored.
    ///
    /// The domain becomes ASCII if possible, so that it does not require SMTPUTF8 for a journal
    /// mailbox.
    ///
    /// Not for envelopes: to an MTA, `dan` and `dan` with a zero width space are two mailboxes.
    pub fn parse_value(text: &str) -> Result<Address, AddressError> {
        value::parse(text).map(Address::with_ascii_domain)
    }

    fn with_ascii_domain(self) -> Address {
        match self.0.domain.is_ascii() {
            true => self,
            false => Address::from_parts(self.0.local.clone(), self.domain()).unwrap_or(self),
        }
    }

    fn from_parts(local: String, domain: &str) -> Option<Address> {
        let domain = domain.strip_suffix('.').unwrap_or(domain).to_lowercase();
        let literal = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']'));
        let sound = match literal {
            Some(literal) => is_literal(literal),
            None => are_labels(&domain),
        };
        if !sound {
            return None;
        }
        let ascii = match domain.is_ascii() {
            true => None,
            false => in_ascii(&domain),
        };
        let mut key = fold(&local);
        key.push('@');
        let at = key.len();
        key.push_str(ascii.as_ref().unwrap_or(&domain));
        let address = Address(Arc::new(Parts {
            local,
            domain,
            at,
            key,
        }));
        // Lowercasing and quoting can make an address longer, and the written form must be readable
        // again.
        let most = 2 * address.local().len() + address.0.domain.len() + 3;
        (most <= LONGEST || address.to_string().len() <= LONGEST).then_some(address)
    }

    /// Returns the part before the `@`, unquoted, in its original spelling.
    pub fn local(&self) -> &str {
        &self.0.local
    }

    /// Returns the part after the `@`, lowercased, without a trailing dot, in ASCII if possible.
    pub fn domain(&self) -> &str {
        &self.0.key[self.0.at..]
    }

    /// Returns the part after the `@` in Unicode, if it can also be written as `xn--…`.
    pub fn unicode_domain(&self) -> Option<String> {
        if !self.domain().contains("xn--") {
            return None;
        }
        let (domain, sound) = idna::domain_to_unicode(self.domain());
        // Some decode to text that would be encoded differently: that is another domain.
        let is_same = sound.is_ok() && in_ascii(&domain).as_deref() == Some(self.domain());
        is_same.then_some(domain)
    }

    /// Returns the key for comparison: `local@domain`, case folded and unquoted, with the domain as
    /// in [`Address::domain`].
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// Returns `user@example.com` for `user+list@example.com`, if the local part has one of
    /// `delimiters` after its first character.
    pub fn without_extension(&self, delimiters: &str) -> Option<Address> {
        let at = self
            .local()
            .char_indices()
            .skip(1)
            .find(|(_, c)| delimiters.contains(*c))?
            .0;
        Address::from_parts(self.0.local[..at].to_owned(), &self.0.domain)
    }

    /// Creates the mailbox of this unquoted name at a domain; `None` if it would be invalid.
    pub fn quoted(local: &str, domain: &str) -> Option<Address> {
        let is_sound = !local.is_empty() && !local.chars().any(ends_a_line);
        is_sound.then(|| Address::from_parts(local.to_owned(), domain))?
    }

    /// Returns the mailbox of the same name at another domain.
    pub fn at_domain(&self, domain: &str) -> Option<Address> {
        Address::quoted(self.local(), domain)
    }

    /// Returns the mailbox of another unquoted name at the same domain.
    pub fn with_local(&self, local: &str) -> Option<Address> {
        Address::quoted(local, &self.0.domain)
    }

    /// Whether it can only be sent with SMTPUTF8 (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        !self.0.local.is_ascii() || !self.0.domain.is_ascii()
    }
}

/// Folds case and equivalent Unicode forms as directories do (RFC 4518 section 2.3).
pub(crate) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    // Some letters have a compatible form only in uppercase.
    let once = lower(&compatible(&lower(text)));
    lower(&compatible(&once))
}

/// Lowercases one letter at a time: a final sigma is the same as any other.
fn lower(text: &str) -> String {
    let all = text.chars().flat_map(char::to_lowercase);
    all.map(|c| if c == '\u{3c2}' { '\u{3c3}' } else { c })
        .collect()
}

/// Returns the text in its compatible composed form (NFKC), or in NFC if NFKC would add characters
/// of address syntax.
fn compatible(text: &str) -> Cow<'_, str> {
    const NFC: ComposingNormalizerBorrowed<'static> = ComposingNormalizer::new_nfc();
    const NFKC: ComposingNormalizerBorrowed<'static> = ComposingNormalizer::new_nfkc();
    let marks = |text: &str| {
        text.chars()
            .filter(|c| c.is_ascii() && !c.is_ascii_alphanumeric())
            .count()
    };
    let whole = NFKC.normalize(text);
    match marks(&whole) == marks(text) {
        true => whole,
        false => NFC.normalize(text),
    }
}

fn malformed(text: &str) -> AddressError {
    AddressError::Malformed(text.to_owned())
}

/// Splits at the last `@` outside quotes, and unquotes the local part.
fn split(text: &str) -> Result<(String, Option<&str>), AddressError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (local, domain) = match text.rsplit_once('@') {
            Some((local, domain)) => (local, Some(domain)),
            None => (text, None),
        };
        // An unquoted local part has no spaces, second @ or brackets; misplaced dots occur in the
        // wild and are accepted.
        if local.contains(|c: char| c.is_whitespace() || "<>@\",;:\\()[]".contains(c)) {
            return Err(malformed(text));
        }
        return Ok((local.to_owned(), domain));
    };
    let mut local = String::new();
    let mut rest = quoted.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' => local.push(rest.next().ok_or_else(|| malformed(text))?.1),
            '"' => {
                return match quoted[at + 1..].strip_prefix('@') {
                    Some(domain) => Ok((local, Some(domain))),
                    None if quoted[at + 1..].is_empty() => Ok((local, None)),
                    None => Err(malformed(text)),
                };
            }
            other => local.push(other),
        }
    }
    Err(malformed(text))
}

/// Whether text can stand between the brackets of an address literal (RFC 5321 section 4.1.3). A
/// `>` or a comma would end one address and begin another.
fn is_literal(text: &str) -> bool {
    !text.is_empty() && (text.chars()).all(|c| c.is_ascii_alphanumeric() || ".:-_".contains(c))
}

fn are_labels(domain: &str) -> bool {
    let is_sound = |c: char| match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || c == '-' || c == '_',
        false => !c.is_whitespace(),
    };
    domain
        .split('.')
        .all(|label| !label.is_empty() && label.chars().all(is_sound))
}

/// Encodes a Unicode domain as `xn--…` (RFC 5891); `None` if that is impossible. Some characters
/// are mapped: an ideographic full stop to a dot, possibly a trailing one, and a fullwidth `＠` to
/// an `@`, which is invalid.
fn in_ascii(domain: &str) -> Option<String> {
    let ascii = idna::domain_to_ascii(domain).ok()?;
    let ascii = ascii.strip_suffix('.').unwrap_or(&ascii);
    are_labels(ascii).then(|| ascii.to_owned())
}

/// Whether a program might treat the character as a line break: Unicode has two that are not
/// control characters.
fn ends_a_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Whether the character is allowed outside quotes, as in [`split`].
fn is_atom_char(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c),
        false => !c.is_whitespace(),
    }
}

/// Formats `local@domain` for SMTP, with the local part quoted if necessary.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.local.chars().all(is_atom_char) {
            return write!(f, "{}@{}", self.0.local, self.0.domain);
        }
        f.write_str("\"")?;
        for c in self.0.local.chars() {
            if c == '"' || c == '\\' {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\"@{}", self.0.domain)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{self}>")
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Address) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.key == other.0.key
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Address) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Address {
    fn cmp(&self, other: &Address) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        Address::parse(text)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let text = String::deserialize(deserializer)?;
        Address::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).expect("a valid address")
    }

    #[test]
    fn case_and_trailing_dot_do_not_make_another_mailbox() {
        assert_eq!(address("Ana@Corp.Example."), address("ana@corp.example"));
        assert_eq!(address("Ana@Corp.Example.").to_string(), "Ana@corp.example");
    }

    #[test]
    fn an_internationalized_domain_is_the_same_in_both_forms() {
        let (letters, ascii) = (
            address("ana@M\u{fc}ller.test"),
            address("ana@xn--mller-kva.test"),
        );
        assert_eq!(letters, ascii);
        assert_eq!(letters.to_string(), "ana@m\u{fc}ller.test");
        assert_eq!(ascii.unicode_domain().as_deref(), Some("m\u{fc}ller.test"));
        assert!(letters.needs_smtputf8() && !ascii.needs_smtputf8());
    }

    #[test]
    fn a_letter_is_the_same_however_it_is_encoded() {
        let composed = address("jos\u{e9}@corp.test");
        assert_eq!(address("JOSE\u{301}@corp.test"), composed);
        let spelled = address("jose\u{301}@corp.test");
        assert_eq!(spelled.local(), "jose\u{301}", "sent on as it came");
        // A compatible form never adds address syntax.
        assert_ne!(address("a\u{ff20}b@corp.test").key(), "a@b@corp.test");
        // To an MTA these are two mailboxes.
        assert_ne!(address("da\u{200b}n@corp.test"), address("dan@corp.test"));
    }

    #[test]
    fn brackets_and_source_routes_are_removed() {
        assert_eq!(
            address("<@a.test,@b.test:ana@c.test>").to_string(),
            "ana@c.test"
        );
    }

    #[test]
    fn quoted_local_parts_survive_both_ways() {
        let odd = address("\"ana maria\\\"@home\"@corp.example");
        assert_eq!(odd.local(), "ana maria\"@home");
        assert_eq!(address(&odd.to_string()).local(), odd.local());
        assert_eq!(
            address("\"ana\"@corp.example").to_string(),
            "ana@corp.example"
        );
    }

    #[test]
    fn written_addresses_parse_as_the_same() {
        for odd in [
            "\"a\u{a0}b\"@c.test",
            "\"a\u{3000}\"@c.test",
            "a@[IPv6:2001:db8::1]",
            "a@b\u{3002}test",
        ] {
            let written = address(odd).to_string();
            assert_eq!(address(&written), address(odd), "{written}");
            assert_eq!(address(&written).to_string(), written);
        }
        // A letter whose lowercase form is longer.
        let grows = format!("a@{}.test", "\u{130}".repeat(440));
        assert!(grows.len() <= LONGEST && Address::parse(&grows).is_err());
    }

    #[test]
    fn literals_and_letters_cannot_begin_another_address() {
        for bad in [
            "\"a\"@[x>,<y@b.test]",
            "a@[x,y]",
            "a@[x> SIZE=1]",
            "a@[]",
            "a@[x",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
        let fullwidth = address("a@b\u{ff20}c.test");
        assert!(!fullwidth.domain().contains('@'), "{fullwidth:?}");
    }

    #[test]
    fn a_domain_is_not_decoded_to_another_domain() {
        let odd = address("a@xn--xn--9--9ggggggxn--wgggg");
        assert_eq!(odd.unicode_domain(), None);
    }

    #[test]
    fn any_trailing_dot_is_removed() {
        let dotted = address("ana@corp.test\u{3002}");
        assert_eq!(dotted.domain(), "corp.test");
        assert_eq!(dotted, address("ana@corp.test"));
    }

    #[test]
    fn control_characters_are_rejected() {
        for bad in [
            "a\r\nb@c.test",
            "a@b.test\0",
            "\"a\tb\"@c.test",
            "\"a\u{2028}b\"@c.test",
        ] {
            assert!(
                matches!(Address::parse(bad), Err(AddressError::Control(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn invalid_addresses_have_their_error() {
        assert_eq!(Address::parse("<>"), Err(AddressError::Empty));
        assert_eq!(
            Address::parse("postmaster"),
            Err(AddressError::Unqualified("postmaster".into()))
        );
        for bad in [
            "a b@c.test",
            "@c.test",
            "a@",
            "a@b..c",
            "a@b c",
            "<a@b.test",
            "a<b>@c.test",
            "\"a@b.test",
        ] {
            assert!(
                matches!(Address::parse(bad), Err(AddressError::Malformed(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_unqualified_address_gets_the_default_domain() {
        let found = Address::parse_in("<Postmaster>", "corp.example").expect("qualified");
        assert_eq!(found.to_string(), "Postmaster@corp.example");
    }

    #[test]
    fn extensions_are_cut_at_the_first_delimiter() {
        assert_eq!(
            address("ana+x+y@c.test")
                .without_extension("+")
                .expect("has one")
                .to_string(),
            "ana@c.test"
        );
        assert_eq!(address("+ana@c.test").without_extension("+"), None);
        assert_eq!(address("ana@c.test").without_extension("+-"), None);
    }
}
