//! Listener addresses as the administrator writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// An address that an MTA connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP.
    Inet(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Error in a listener address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// Unknown scheme.
    #[error("must begin with inet:, inet6: or unix:")]
    Scheme,
    /// Neither `address:port` nor `port@address`; a host name could mean several addresses.
    #[error("must have an IP address and a port after the scheme")]
    Inet,
    /// `inet:` with an IPv6 address, or `inet6:` with an IPv4 address.
    #[error("has an IP address of the wrong version for its scheme")]
    Family,
    /// Relative path, which would depend on the working directory.
    #[error("must have an absolute path after the scheme")]
    Path,
}

/// Parses `inet:127.0.0.1:8891`, `inet6:[::1]:8891`, `unix:/path`, and the spellings of Sendmail
/// and Postfix: `inet:8891@127.0.0.1`, `inet6:8891@::1`, `local:/path`. `localhost` is the loopback
/// address of the scheme's IP version.
impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<ListenAddress, ListenAddressError> {
        let (scheme, rest) = text
            .trim()
            .split_once(':')
            .ok_or(ListenAddressError::Scheme)?;
        match scheme {
            "inet" => inet(rest, Ipv4Addr::LOCALHOST.into()).map(ListenAddress::Inet),
            "inet6" => inet(rest, Ipv6Addr::LOCALHOST.into()).map(ListenAddress::Inet),
            "unix" | "local" if rest.starts_with('/') => Ok(ListenAddress::Unix(rest.into())),
            "unix" | "local" => Err(ListenAddressError::Path),
            _ => Err(ListenAddressError::Scheme),
        }
    }
}

fn inet(text: &str, loopback: IpAddr) -> Result<SocketAddr, ListenAddressError> {
    let (host, port) = match text.split_once('@') {
        Some((port, host)) => (host, port),
        None => text.rsplit_once(':').ok_or(ListenAddressError::Inet)?,
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let ip = match host {
        "localhost" => loopback,
        host => host.parse().map_err(|_| ListenAddressError::Inet)?,
    };
    if ip.is_ipv4() != loopback.is_ipv4() {
        return Err(ListenAddressError::Family);
    }
    let port = port.parse().map_err(|_| ListenAddressError::Inet)?;
    Ok(SocketAddr::new(ip, port))
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Inet(address) if address.is_ipv4() => write!(f, "inet:{address}"),
            ListenAddress::Inet(address) => write!(f, "inet6:{address}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_one_address() {
        for (text, plain) in [
            ("inet:127.0.0.1:8891", "inet:127.0.0.1:8891"),
            ("inet:8891@127.0.0.1", "inet:127.0.0.1:8891"),
            ("inet:localhost:8891", "inet:127.0.0.1:8891"),
            ("inet6:[::1]:8891", "inet6:[::1]:8891"),
            ("inet6:8891@::1", "inet6:[::1]:8891"),
            ("inet6:8891@[::1]", "inet6:[::1]:8891"),
            ("inet6:8891@localhost", "inet6:[::1]:8891"),
            ("local:/run/c/m.sock", "unix:/run/c/m.sock"),
            (" unix:/run/c/m.sock ", "unix:/run/c/m.sock"),
        ] {
            let listen: ListenAddress = text.parse().expect(text);
            assert_eq!(listen.to_string(), plain, "{text}");
            assert_eq!(plain.parse(), Ok(listen), "{text}");
        }
    }

    #[test]
    fn an_invalid_address_says_why() {
        for (text, why) in [
            ("", ListenAddressError::Scheme),
            ("127.0.0.1:8891", ListenAddressError::Scheme),
            ("/run/c/m.sock", ListenAddressError::Scheme),
            ("inet:8891", ListenAddressError::Inet),
            ("inet:mx.example.com:8891", ListenAddressError::Inet),
            ("inet:127.0.0.1:99999", ListenAddressError::Inet),
            ("inet:[::1]:8891", ListenAddressError::Family),
            ("inet6:127.0.0.1:8891", ListenAddressError::Family),
            ("unix:run/m.sock", ListenAddressError::Path),
            ("local:", ListenAddressError::Path),
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(why), "{text}");
        }
    }
}
