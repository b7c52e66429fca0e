//! Journal targets.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::{dn, resolve};
use crate::mail::{Address, AddressError, is_invisible, without_scheme};

/// The destination of a copy, from the configuration or a journal attribute. Two targets that name
/// the same mailbox or object are equal, however they are spelled; see [`Target::key`].
#[derive(Debug, Clone)]
pub enum Target {
    /// A mail address, in any form that [`Address::parse_value`] reads.
    Smtp(Address),
    /// A distinguished name.
    Dn(String),
    /// An X.500 address, `/O=ACME/OU=EAST/CN=RECIPIENTS/CN=archive`, with or without `X500:` or
    /// `EX:`.
    X500(String),
}

/// Error of parsing or resolving a journal target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a valid SMTP address.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// The directory has no such object, or hides it from us.
    #[error("the directory has no object {0:?}")]
    NoSuchObject(String),
    /// Outside the domains allowed for journal addresses.
    #[error("{0} is not in directory.journal_domains")]
    OutsideJournalDomains(Address),
    /// The object has no SMTP address.
    #[error("{target:?} has no SMTP address (objects without one: {})", objects.join("; "))]
    NoAddress {
        /// The target.
        target: String,
        /// The first of the objects without one.
        objects: Vec<String>,
    },
}

impl Target {
    /// Parses a target. Text that is neither an X.500 address nor a DN must be an SMTP address.
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        let text = text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
        let x500 = without_scheme(text, "x500").or_else(|| {
            // Exchange's own type for its legacyExchangeDN.
            without_scheme(text, "ex").filter(|rest| rest.starts_with('/'))
        });
        if let Some(rest) = x500.filter(|rest| !rest.is_empty()) {
            return Ok(Target::X500(rest.to_owned()));
        }
        if text.starts_with('/') && text.contains('=') {
            return Ok(Target::X500(text.to_owned()));
        }
        match Address::parse_value(text) {
            Ok(address) => Ok(Target::Smtp(address)),
            Err(_) if looks_like_dn(text) => Ok(Target::Dn(text.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// Parses a target that must be resolved in the directory; `None` if the text is an address or
    /// invalid. Most are addresses; those without `=` and `:` are not parsed at all.
    pub fn of_object(text: &str) -> Option<Target> {
        let may_be = text.contains(['=', ':']);
        let target = may_be.then(|| Target::parse(text).ok()).flatten();
        target.filter(|target| target.smtp().is_none())
    }

    /// Returns the normalized target, equal for all its spellings.
    pub fn key(&self) -> Cow<'_, str> {
        match self {
            Target::Smtp(address) => address.key().into(),
            Target::Dn(text) => dn::key(text).into(),
            Target::X500(text) => x500_key(text).into(),
        }
    }

    /// Returns the X.500 address that a target names, also if it is encapsulated in an SMTP address
    /// (`IMCEAEX-_O=ACME_CN=archive@acme.test`).
    pub fn x500(&self) -> Option<String> {
        match self {
            Target::X500(text) => Some(text.clone()),
            Target::Smtp(address) => resolve::decode_imceaex(address),
            Target::Dn(_) => None,
        }
    }

    /// Returns the address of an SMTP target. Any other target names an object of the directory.
    pub fn smtp(&self) -> Option<&Address> {
        match self {
            Target::Smtp(address) => Some(address),
            Target::Dn(_) | Target::X500(_) => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Smtp(address) => address.fmt(f),
            Target::Dn(dn) => f.write_str(dn),
            Target::X500(text) => write!(f, "X500:{text}"),
        }
    }
}

/// `attribute=value,…` with at least one attribute name (RFC 4514).
fn looks_like_dn(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, value)| {
        !value.is_empty()
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-. ".contains(c))
    })
}

/// Returns the key of the X.500 address encapsulated in an SMTP address, as
/// [`super::Directory::names_of`] returns it.
pub fn encapsulated_x500_key(address: &Address) -> Option<String> {
    resolve::decode_imceaex(address).map(|text| x500_key(&text))
}

/// Normalizes an X.500 address for comparison: like the values of a DN, and without blanks beside
/// slashes and equals signs.
pub(super) fn x500_key(text: &str) -> String {
    let parts = text.split('/').map(|part| match part.split_once('=') {
        Some((name, value)) => format!("{}={}", dn::prepare(name), dn::prepare(value)),
        None => dn::prepare(part),
    });
    let parts: Vec<String> = parts.collect();
    format!("x500:{}", parts.join("/"))
}

impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Target {}

impl PartialOrd for Target {
    fn partial_cmp(&self, other: &Target) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Mail addresses first, then DNs.
impl Ord for Target {
    fn cmp(&self, other: &Target) -> Ordering {
        match (self, other) {
            (Target::Smtp(one), Target::Smtp(other)) => one.cmp(other),
            (Target::Dn(one), Target::Dn(other)) if one == other => Ordering::Equal,
            (Target::Dn(one), Target::Dn(other)) => dn::key(one).cmp(&dn::key(other)),
            (Target::X500(one), Target::X500(other)) => x500_key(one).cmp(&x500_key(other)),
            (one, other) => one.rank().cmp(&other.rank()),
        }
    }
}

impl Hash for Target {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rank().hash(state);
        self.key().hash(state);
    }
}

impl Target {
    fn rank(&self) -> u8 {
        match self {
            Target::Smtp(_) => 0,
            Target::Dn(_) => 1,
            Target::X500(_) => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_target_is_recognized() {
        for text in [
            "j@b.test",
            "SMTP:j@b.test",
            "mailto:j@b.test",
            " <j@b.test> ",
            "Journal <j@b.test>",
            "mailto:j%40b.test?subject=x",
        ] {
            assert_eq!(
                Target::parse(text).expect("a target").to_string(),
                "j@b.test",
                "{text}"
            );
        }
        let x500 = "/O=ACME/OU=EAST/CN=RECIPIENTS/CN=all";
        assert_eq!(Target::parse(x500), Ok(Target::X500(x500.into())));
        assert_eq!(
            Target::parse(&format!("x500:{x500}")),
            Ok(Target::X500(x500.into()))
        );
        assert_eq!(
            Target::parse("CN=all,DC=b,DC=test"),
            Ok(Target::Dn("CN=all,DC=b,DC=test".into()))
        );
        assert_eq!(
            Target::parse("\u{200b}OID.2.5.4.3=all, dc=b,dc=test "),
            Target::parse("CN=all,DC=b,DC=test")
        );
        for same in [
            "EX:/o=acme/ou=east/cn=recipients/cn=all",
            "x500 : /O = ACME /OU=EAST/CN=RECIPIENTS/CN=ALL",
            "/o=acme/ou=East/cn=Recipients/cn=all\u{a0}",
        ] {
            assert_eq!(Target::parse(same), Target::parse(x500), "{same}");
        }
        let encapsulated = Target::parse("IMCEAEX-_O=ACME_CN=all@b.test").expect("a target");
        assert_eq!(encapsulated.x500().as_deref(), Some("/O=ACME/CN=all"));
        for bad in ["", "nobody", "two words", "a@b@c", "=x", "x500: "] {
            assert!(Target::parse(bad).is_err(), "{bad:?}");
        }
    }
}
