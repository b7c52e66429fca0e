//! Domains of the organization, as settings and directory name them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::mail::Address;

/// Domains that the directory names (`organization.domains_from`), shared by every holder of the
/// same settings.
#[derive(Debug, Clone, Default)]
pub struct DirectoryDomains(Arc<ArcSwap<Vec<DomainPattern>>>);

impl DirectoryDomains {
    /// The domains.
    pub fn get(&self) -> Arc<Vec<DomainPattern>> {
        self.0.load_full()
    }

    /// Replaces them; whether they are others than before.
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
    /// The domain's name, without the star of a pattern.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether every domain below the name is meant, and not the name itself.
    pub fn is_below(&self) -> bool {
        self.below
    }

    /// Whether a lowercased domain is meant.
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
        // The domain of an address is the domain of an address: one parser decides what that is.
        match Address::parse(&format!("x@{name}")) {
            Ok(address) if !name.contains('@') => Ok(DomainPattern {
                name: address.domain().to_owned(),
                below,
            }),
            _ => Err(format!(
                "{text:?} is no domain; write example.com or *.example.com"
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
