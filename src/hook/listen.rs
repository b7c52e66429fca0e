//! Where a hook listens, as the administrator wrote it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// An address that an MTA connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Inet(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is no address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// It does not begin with a known scheme.
    #[error("does not begin with inet:, inet6: or unix:")]
    Scheme,
    /// Neither `address:port` nor `port@address`, or a host name, which could mean several
    /// addresses.
    #[error("has no IP address and port after its scheme")]
    Inet,
    /// `inet:` with an IPv6 address, or `inet6:` with an IPv4 address.
    #[error("has an IP address of the other version than its scheme says")]
    Family,
    /// A socket's path that depends on where the program was started.
    #[error("has no absolute path after its scheme")]
    Path,
}

/// Reads `inet:127.0.0.1:8891`, `inet6:[::1]:8891`, `unix:/path`, and the spellings of Sendmail and
/// Postfix: `inet:8891@127.0.0.1`, `inet6:8891@::1`, `local:/path`. `localhost` is the loopback
/// address of the scheme's IP version.
impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Listen, ListenError> {
        let (scheme, rest) = text.trim().split_once(':').ok_or(ListenError::Scheme)?;
        match scheme {
            "inet" => inet(rest, Ipv4Addr::LOCALHOST.into()).map(Listen::Inet),
            "inet6" => inet(rest, Ipv6Addr::LOCALHOST.into()).map(Listen::Inet),
            "unix" | "local" if rest.starts_with('/') => Ok(Listen::Unix(rest.into())),
            "unix" | "local" => Err(ListenError::Path),
            _ => Err(ListenError::Scheme),
        }
    }
}

fn inet(text: &str, loopback: IpAddr) -> Result<SocketAddr, ListenError> {
    let (host, port) = match text.split_once('@') {
        Some((port, host)) => (host, port),
        None => text.rsplit_once(':').ok_or(ListenError::Inet)?,
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let ip = match host {
        "localhost" => loopback,
        host => host.parse().map_err(|_| ListenError::Inet)?,
    };
    if ip.is_ipv4() != loopback.is_ipv4() {
        return Err(ListenError::Family);
    }
    let port = port.parse().map_err(|_| ListenError::Inet)?;
    Ok(SocketAddr::new(ip, port))
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Inet(address) if address.is_ipv4() => write!(f, "inet:{address}"),
            Listen::Inet(address) => write!(f, "inet6:{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
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
            let listen: Listen = text.parse().expect(text);
            assert_eq!(listen.to_string(), plain, "{text}");
            assert_eq!(plain.parse(), Ok(listen), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, why) in [
            ("", ListenError::Scheme),
            ("127.0.0.1:8891", ListenError::Scheme),
            ("/run/c/m.sock", ListenError::Scheme),
            ("inet:8891", ListenError::Inet),
            ("inet:mx.example.com:8891", ListenError::Inet),
            ("inet:127.0.0.1:99999", ListenError::Inet),
            ("inet:[::1]:8891", ListenError::Family),
            ("inet6:127.0.0.1:8891", ListenError::Family),
            ("unix:run/m.sock", ListenError::Path),
            ("local:", ListenError::Path),
        ] {
            assert_eq!(text.parse::<Listen>(), Err(why), "{text}");
        }
    }
}
