//! Domains of the organization, from settings and directory.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::mail::Address;

/// Domains from the directory (`organization.domains_from`), shared by all clones.
#[derive(Debug, Clone, Default)]
pub struct DirectoryDomains(Arc<ArcSwap<Vec<DomainPattern>>>);

impl DirectoryDomains {
    /// Returns the domains.
    pub fn get(&self) -> Arc<Vec<DomainPattern>> {
        self.0.load_full()
    }

    /// Replaces the domains; returns whether they changed.
    pub fn set(&self, domains: Vec<DomainPattern>) -> bool {
        *self.0.swap(Arc::new(domains.clone())) != domains
    }
}

/// `example.com`, or `*.example.com` for every domain below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainPattern {
    name: String,
    below: bool,
}

impl DomainPattern {
    /// Returns the domain, without the star of a pattern.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the pattern covers all domains below the name, and not the name itself.
    pub fn is_below(&self) -> bool {
        self.below
    }

    /// Whether the pattern covers a domain in lower case.
    pub fn matches(&self, domain: &str) -> bool {
        if self.below {
            domain
                .strip_suffix(&self.name)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        } else {
            domain == self.name
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.below { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

impl FromStr for DomainPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<DomainPattern, String> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        // The parser of addresses decides what a valid domain is.
        match Address::parse(&format!("x@{name}")) {
            Ok(address) if !name.contains('@') => Ok(DomainPattern {
                name: address.domain().to_owned(),
                below,
            }),
            _ => Err(format!(
                "invalid domain {text:?}; use example.com or *.example.com"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_everything_below_and_not_the_domain_itself() {
        let star: DomainPattern = "*.Example.com".parse().expect("a pattern");
        assert!(star.matches("a.example.com") && star.matches("a.b.example.com"));
        assert!(
            !star.matches("example.com")
                && !star.matches("badexample.com")
                && !star.matches(".example.com")
        );
        let plain: DomainPattern = "example.com".parse().expect("a pattern");
        assert!(plain.matches("example.com") && !plain.matches("a.example.com"));
        assert!("a b".parse::<DomainPattern>().is_err() && "a@b".parse::<DomainPattern>().is_err());
    }
}
