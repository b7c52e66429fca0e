//! URLs of LDAP servers (RFC 4516).

use std::fmt;

use ldap3::Scope;

/// A valid `ldap://`, `ldaps://` or `ldapi://` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerUrl {
    text: String,
    scheme: Scheme,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Plain,
    Tls,
    Socket,
}

/// Error of parsing the URL of an LDAP server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error(
        "invalid LDAP URL {0:?}; use ldap://host, ldaps://host or ldapi://%2Fpath%2Fto%2Fsocket"
    )]
    Scheme(String),
    /// No host.
    #[error("no host in {0:?}; use for example ldaps://dc1.example.com")]
    NoHost(String),
    /// The path of a socket that is not percent-encoded.
    #[error(
        "no socket in {0:?}; write the path with %2F for each slash, as in ldapi://%2Frun%2Fslapd%2Fldapi"
    )]
    NoSocket(String),
    /// Not a port number.
    #[error("invalid port in {0:?}; use for example ldap://dc1.example.com:389")]
    Port(String),
    /// A base, attributes or filter.
    #[error("unexpected text after the host in {0:?}; the search base is a setting of its own")]
    TrailingParts(String),
    /// Certificates are checked against names and IPv4 addresses.
    #[error("IPv6 address in {0:?}; certificates cannot be checked against it, use the name")]
    Ipv6(String),
}

impl ServerUrl {
    /// Parses a URL; `starttls` is whether `ldap://` uses TLS, too.
    pub(super) fn parse(text: &str, starttls: bool) -> Result<ServerUrl, UrlError> {
        let text = text.trim().to_owned();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(UrlError::Scheme(text));
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "ldap" => Scheme::Plain,
            "ldaps" => Scheme::Tls,
            "ldapi" => Scheme::Socket,
            _ => return Err(UrlError::Scheme(text)),
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.is_empty() || (scheme == Scheme::Socket && host.starts_with('/')) {
            return Err(match scheme {
                Scheme::Socket => UrlError::NoSocket(text),
                Scheme::Plain | Scheme::Tls => UrlError::NoHost(text),
            });
        }
        if host.contains(['/', '?', '#', '@', ' ']) {
            return Err(UrlError::TrailingParts(text));
        }
        if scheme == Scheme::Socket {
            return match host.to_ascii_lowercase().starts_with("%2f") && !host.contains(':') {
                true => Ok(ServerUrl { text, scheme }),
                false => Err(UrlError::NoSocket(text)),
            };
        }
        if host.starts_with('[') && (scheme == Scheme::Tls || starttls) {
            return Err(UrlError::Ipv6(text));
        }
        let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
        match after.split_once(':') {
            Some(("", _)) if !host.starts_with('[') => Err(UrlError::NoHost(text)),
            Some((_, port)) if port.parse::<u16>().is_err() => Err(UrlError::Port(text)),
            _ => Ok(ServerUrl { text, scheme }),
        }
    }

    /// Returns the URL.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the server's name.
    #[cfg(feature = "gssapi")]
    pub(super) fn host(&self) -> &str {
        let host = self.text.split_once("://").map_or("", |(_, host)| host);
        let host = host.strip_suffix('/').unwrap_or(host);
        host.rsplit_once(':').map_or(host, |(host, _)| host)
    }

    /// Whether connections use TLS.
    pub(super) fn uses_tls(&self, starttls: bool) -> bool {
        match self.scheme {
            Scheme::Tls => true,
            Scheme::Plain => starttls,
            Scheme::Socket => false,
        }
    }
}

/// Parses a search URL without a host (RFC 4516 section 2) into base, scope and filter.
pub(super) fn parse_search_url(text: &str) -> Option<(String, Scope, String)> {
    let url = url::Url::parse(text.trim()).ok()?;
    if url.scheme() != "ldap" || url.has_host() && url.host_str() != Some("") {
        return None;
    }
    let params = ldap3::get_url_params(&url).ok()?;
    // The library takes a missing scope for "sub"; the RFC for "base".
    let given = url.query().and_then(|query| query.split('?').nth(1));
    let scope = match given {
        None | Some("") => Scope::Base,
        Some(_) => params.scope,
    };
    Some((params.base.into_owned(), scope, params.filter.into_owned()))
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_read_from_a_url() {
        let text = "ldap:///ou=my%20people,dc=b??sub?(&(title=boss)(mail=*))";
        assert_eq!(
            parse_search_url(text),
            Some((
                "ou=my people,dc=b".into(),
                Scope::Subtree,
                "(&(title=boss)(mail=*))".into()
            ))
        );
        let alone = parse_search_url("ldap:///cn=x,dc=b").expect("a search");
        assert_eq!(alone.1, Scope::Base);
        for bad in ["", "http:///dc=b", "ldap://elsewhere/dc=b??sub?(a=b)"] {
            assert_eq!(parse_search_url(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_usual_urls_are_taken() {
        for (text, tls) in [
            ("ldap://dc1.example.com", false),
            ("LDAPS://dc1.example.com:3269/", true),
            ("ldaps://10.0.0.1", true),
            ("ldap://[::1]:389", false),
            ("ldapi://%2Frun%2Fslapd%2Fldapi", false),
            ("ldapi://%2frun%2fslapd%2fldapi/", false),
        ] {
            let url = ServerUrl::parse(text, false).expect(text);
            assert_eq!(url.uses_tls(false), tls, "{text}");
        }
        let plain = ServerUrl::parse("ldap://dc1", true).expect("a URL");
        assert!(plain.uses_tls(true));
    }

    #[test]
    fn unusable_urls_are_rejected_with_a_hint() {
        type Refused = (&'static str, fn(String) -> UrlError);
        let tests: [Refused; 11] = [
            ("dc1.example.com", UrlError::Scheme),
            ("http://dc1", UrlError::Scheme),
            ("ldap://", UrlError::NoHost),
            ("ldap://:389", UrlError::NoHost),
            ("ldapi:///run/slapd/ldapi", UrlError::NoSocket),
            ("ldapi://run", UrlError::NoSocket),
            ("ldap://dc1:ldap", UrlError::Port),
            ("ldap://[::1]:x", UrlError::Port),
            ("ldap://dc1/dc=example,dc=com", UrlError::TrailingParts),
            ("ldap://user@dc1", UrlError::TrailingParts),
            ("ldaps://[::1]", UrlError::Ipv6),
        ];
        for (text, error) in tests {
            assert_eq!(ServerUrl::parse(text, false), Err(error(text.into())));
        }
    }
}
