//! Facts about the site that other programs' settings do not contain.

use crate::config::parse;
use crate::identity::DomainPattern;

/// Facts from the command line; anything missing is guessed.
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

/// An option with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {value:?} {problem}; for example: {example}")]
pub struct SiteError {
    /// The option of the command line.
    pub option: &'static str,
    /// Its value.
    pub value: String,
    /// The problem, continuing a sentence that begins with the value.
    pub problem: &'static str,
    /// A valid option.
    pub example: &'static str,
}

impl Site {
    /// Checks that all values are valid in a configuration.
    pub fn check(&self) -> Result<(), SiteError> {
        let invalid = |option, value: &str, problem, example| SiteError {
            option,
            value: value.to_owned(),
            problem,
            example,
        };
        for domain in &self.domains {
            domain.parse::<DomainPattern>().map_err(|_| {
                invalid(
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
                    let problem = "must be the only URL: a file cannot be combined with servers";
                    return Err(invalid("--directory-url", url, problem, EXAMPLE));
                }
                true => {}
                false => {
                    parse::ldap_url(url)
                        .map_err(|problem| invalid("--directory-url", url, problem, EXAMPLE))?;
                }
            }
        }
        if let Some(relay) = &self.relay {
            parse::host_and_port(relay)
                .map_err(|problem| invalid("--relay", relay, problem, "--relay 127.0.0.1:25"))?;
        }
        Ok(())
    }

    /// Returns the domain for guessed addresses and server names: a domain name, never
    /// `[192.0.2.1]`.
    pub(super) fn main_domain(&self) -> &str {
        let mut named = self.domains.iter().filter(|domain| is_name(domain));
        let domain = named.next().map_or("example.com", String::as_str);
        domain.strip_prefix("*.").unwrap_or(domain)
    }

    /// Whether the directory is an LDIF file.
    pub(super) fn has_file(&self) -> bool {
        self.directory_urls.iter().any(|url| is_file(url))
    }
}

/// Whether a mail domain is a name, not the address of a machine.
pub(super) fn is_name(domain: &str) -> bool {
    !domain.starts_with('[')
}

/// Whether a URL is `ldif:FILE`.
fn is_file(url: &str) -> bool {
    url.strip_prefix("ldif:")
        .is_some_and(|file| !file.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(site: &Site) -> String {
        site.check().expect_err("it is wrong").to_string()
    }

    #[test]
    fn invalid_options_are_rejected_with_an_example() {
        let wrong = Site {
            domains: vec!["a b".into()],
            ..Site::default()
        };
        assert_eq!(
            error(&wrong),
            "--domain: \"a b\" is not a mail domain; for example: --domain example.com"
        );
        let wrong = Site {
            directory_urls: vec!["dc1".into()],
            ..Site::default()
        };
        assert!(error(&wrong).contains("is neither an LDAP URL nor ldif:FILE"));
        let wrong = Site {
            directory_urls: vec!["ldif:people.ldif".into(), "ldaps://dc1".into()],
            ..Site::default()
        };
        assert!(error(&wrong).contains("must be the only URL"));
        let wrong = Site {
            relay: Some("mx:x".into()),
            ..Site::default()
        };
        assert!(error(&wrong).contains("--relay 127.0.0.1:25"));
        assert_eq!(Site::default().check(), Ok(()));
    }
}
