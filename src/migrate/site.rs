//! What the settings of other programs do not know, and Copyist must.

use crate::config::parse;
use crate::identity::DomainPattern;

/// What the person who imports may say about the site; what is not said is guessed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// `organization.domains`, the main one first.
    pub domains: Vec<String>,
    /// `directory.urls`.
    pub directory_urls: Vec<String>,
    /// `directory.base`.
    pub base: Option<String>,
    /// `relay.host`.
    pub relay: Option<String>,
}

/// A word about the site that cannot stand in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {seen:?} {problem}; give for example {example}")]
pub struct SiteError {
    /// The option of the command line.
    pub option: &'static str,
    /// What it holds.
    pub seen: String,
    /// What is wrong with that.
    pub problem: &'static str,
    /// What would work.
    pub example: &'static str,
}

impl Site {
    /// Makes sure that all that was said can stand in a configuration.
    pub fn check(&self) -> Result<(), SiteError> {
        let wrong = |option, seen: &str, problem, example| SiteError {
            option,
            seen: seen.to_owned(),
            problem,
            example,
        };
        for domain in &self.domains {
            domain.parse::<DomainPattern>().map_err(|_| {
                wrong(
                    "--domain",
                    domain,
                    "is not a mail domain",
                    "--domain example.com",
                )
            })?;
        }
        for url in &self.directory_urls {
            const EXAMPLE: &str = "--directory-url ldaps://dc1.example.com";
            match is_file(url) {
                true if self.directory_urls.len() > 1 => {
                    let problem = "must stand alone: a file is not combined with anything else";
                    return Err(wrong("--directory-url", url, problem, EXAMPLE));
                }
                true => {}
                false => {
                    parse::ldap_url(url)
                        .map_err(|problem| wrong("--directory-url", url, problem, EXAMPLE))?;
                }
            }
        }
        if let Some(relay) = &self.relay {
            parse::host_and_port(relay)
                .map_err(|problem| wrong("--relay", relay, problem, "--relay 127.0.0.1:25"))?;
        }
        Ok(())
    }

    /// The domain that addresses and names of servers are made up in: a domain by name, never
    /// `[192.0.2.1]`.
    pub(super) fn main_domain(&self) -> &str {
        let mut named = self.domains.iter().filter(|domain| is_name(domain));
        let domain = named.next().map_or("example.com", String::as_str);
        domain.strip_prefix("*.").unwrap_or(domain)
    }

    /// Whether the directory is a file in LDIF.
    pub(super) fn has_file(&self) -> bool {
        self.directory_urls.iter().any(|url| is_file(url))
    }
}

/// Whether a mail domain is a name, not the address of a machine.
pub(super) fn is_name(domain: &str) -> bool {
    !domain.starts_with('[')
}

/// `ldif:FILE`.
fn is_file(url: &str) -> bool {
    url.strip_prefix("ldif:")
        .is_some_and(|file| !file.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(site: &Site) -> String {
        site.check().expect_err("it is wrong").to_string()
    }

    #[test]
    fn what_cannot_stand_in_a_configuration_is_refused_with_an_example() {
        let wrong = Site {
            domains: vec!["a b".into()],
            ..Site::default()
        };
        assert_eq!(
            said(&wrong),
            "--domain: \"a b\" is not a mail domain; give for example --domain example.com"
        );
        let wrong = Site {
            directory_urls: vec!["dc1".into()],
            ..Site::default()
        };
        assert!(said(&wrong).contains("is neither an LDAP URL nor ldif:FILE"));
        let wrong = Site {
            directory_urls: vec!["ldif:people.ldif".into(), "ldaps://dc1".into()],
            ..Site::default()
        };
        assert!(said(&wrong).contains("must stand alone"));
        let wrong = Site {
            relay: Some("mx:x".into()),
            ..Site::default()
        };
        assert!(said(&wrong).contains("--relay 127.0.0.1:25"));
        assert_eq!(Site::default().check(), Ok(()));
    }
}
