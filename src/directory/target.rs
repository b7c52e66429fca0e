//! A journal target as the administrator wrote it.

use std::fmt;

use crate::mail::{Address, AddressError};

/// Where a copy must go: in the configuration or as the value of a journal attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `a@b`, `smtp:a@b` or `mailto:a@b`.
    Smtp(Address),
    /// A distinguished name.
    Dn(String),
    /// An X.500 address, `/O=ACME/OU=EAST/CN=RECIPIENTS/CN=archive`, with or without `X500:`.
    X500(String),
}

/// Why a text is no journal target that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is no SMTP address.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// It names an object that the directory does not have, or hides from us.
    #[error("the directory has no object {0:?}")]
    Nowhere(String),
    /// It leads out of the domains that journal addresses must be of.
    #[error("{0} is in none of directory.journal_domains")]
    Elsewhere(Address),
    /// It names an object that no mail can be sent to.
    #[error("no SMTP address is to be found for {target:?} (without one: {})", objects.join("; "))]
    NoAddress {
        /// The target.
        target: String,
        /// The first of the objects that were looked at.
        objects: Vec<String>,
    },
}

impl Target {
    /// Reads a target; what is neither X.500 address nor DN must be an SMTP address.
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        let text = text.trim();
        let x500 = strip_prefix_ignore_case(text, "x500:").map(str::trim);
        if let Some(rest) = x500.filter(|rest| !rest.is_empty()) {
            return Ok(Target::X500(rest.to_owned()));
        }
        for prefix in ["smtp:", "mailto:"] {
            if let Some(rest) = strip_prefix_ignore_case(text, prefix) {
                return Ok(Target::Smtp(Address::parse(rest)?));
            }
        }
        if text.starts_with('/') && text.contains('=') {
            return Ok(Target::X500(text.to_owned()));
        }
        match Address::parse(text) {
            Ok(address) => Ok(Target::Smtp(address)),
            Err(_) if looks_like_dn(text) => Ok(Target::Dn(text.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// The SMTP address of a target that is one; any other names an object of the directory.
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

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix)
        .then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_target_is_told_apart() {
        for text in [
            "j@b.test",
            "SMTP:j@b.test",
            "mailto:j@b.test",
            " <j@b.test> ",
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
        for bad in ["", "nobody", "two words", "a@b@c", "=x", "x500: "] {
            assert!(Target::parse(bad).is_err(), "{bad:?}");
        }
    }
}
