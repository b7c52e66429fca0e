//! Parsers of setting values. Pure; each error ends a sentence that begins with the value.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::directory::{Inheritance, Target, TargetError};
use crate::identity;
use crate::mail::{Address, AddressError, Certificate};

/// The longest duration accepted: none makes sense beyond a year, and sums must not overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parses a mail address.
pub(super) fn address(text: &str) -> Result<Address, &'static str> {
    Address::parse_value(text).map_err(|error| address_problem(&error))
}

fn address_problem(error: &AddressError) -> &'static str {
    match error {
        AddressError::Empty => "is empty",
        AddressError::Control(_) => "contains a control character",
        AddressError::Unqualified(_) => "has no domain",
        AddressError::Malformed(_) => "is not a mail address",
        AddressError::TooLong(_) => "is too long for a mail address",
    }
}

/// Parses a journal target: an SMTP address, a DN or an X.500 address.
pub(super) fn target(text: &str) -> Result<Target, &'static str> {
    Target::parse(text).map_err(|error| match error {
        TargetError::Address(error) => address_problem(&error),
        // Only a directory lookup returns these.
        TargetError::NoSuchObject(_)
        | TargetError::NoAddress { .. }
        | TargetError::OutsideJournalDomains(_) => "does not name a mailbox",
    })
}

/// Parses a name of the MTA: a host name, or an address in brackets.
pub(super) fn local_domain(text: &str) -> Result<String, &'static str> {
    identity::local_domain(text).ok_or("is neither a host name nor an address literal")
}

/// Parses a certificate's subject, with an optional issuer after a semicolon.
pub(super) fn certificate(text: &str) -> Result<Certificate, &'static str> {
    let (subject, issuer) = text.split_once(';').unwrap_or((text, ""));
    match subject.trim() {
        "" => Err("lacks the subject's common name"),
        subject => Ok(Certificate {
            subject: subject.to_owned(),
            issuer: issuer.trim().to_owned(),
        }),
    }
}

/// Parses a mail domain.
pub(super) fn domain(text: &str) -> Result<String, &'static str> {
    match Address::parse(&format!("x@{text}")) {
        Ok(address) if !text.contains('@') => Ok(address.domain().to_owned()),
        _ => Err("is not a domain"),
    }
}

/// Parses a journal target that works while the directory is unavailable.
pub(super) fn smtp_target(text: &str) -> Result<Address, &'static str> {
    target(text)?
        .smtp()
        .cloned()
        .ok_or("is a directory object, not an SMTP address")
}

/// Parses `10.0.0.0/8`; a bare address is a network of one.
pub(crate) fn network(text: &str) -> Result<IpNet, &'static str> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.into()),
        Err(_) => text.parse().map_err(|_| "is not a network"),
    }
}

/// Parses `5s`, `1m 30s`; at most a year.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err("is longer than a year"),
        Ok(duration) => Ok(duration),
        Err(_) => Err("is not a duration"),
    }
}

/// As [`duration`], but not zero.
pub(super) fn nonzero_duration(text: &str) -> Result<Duration, &'static str> {
    match duration(text)? {
        Duration::ZERO => Err("must be greater than zero"),
        duration => Ok(duration),
    }
}

/// Parses `100MiB`, `1GiB`, `500kB`, or bytes.
pub(super) fn size(text: &str) -> Result<u64, &'static str> {
    const WRONG: &str = "is not a size";
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(WRONG),
    };
    let number: u64 = number.parse().map_err(|_| WRONG)?;
    // Larger than any disk, and sums do not overflow.
    let size = number.checked_mul(unit).filter(|size| *size < 1 << 60);
    size.ok_or("is larger than any disk")
}

/// As [`size`], but not zero.
pub(super) fn nonzero_size(text: &str) -> Result<u64, &'static str> {
    match size(text)? {
        0 => Err("must be greater than zero"),
        size => Ok(size),
    }
}

/// Parses the mode of a socket, in octal; its owner must have write permission.
pub(super) fn mode(text: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o777 == 0 && mode & 0o200 != 0 => Ok(mode),
        _ => Err("is not a socket mode"),
    }
}

/// Parses a host name that is valid in a Message-ID and in EHLO.
pub(super) fn host_name(text: &str) -> Result<String, &'static str> {
    // One parser decides what a domain is.
    match Address::parse(&format!("x@{text}")) {
        Ok(address) if text.chars().all(|c| c.is_ascii_graphic() && c != '@') => {
            Ok(address.domain().to_owned())
        }
        _ => Err("is not a host name"),
    }
}

/// Parses `host`, `host:port` or `[::1]:port`; returns an IPv6 address without brackets.
pub(crate) fn host_and_port(text: &str) -> Result<(String, Option<u16>), &'static str> {
    const WRONG: &str = "is neither HOST nor HOST:PORT";
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(WRONG)?;
            host.parse::<Ipv6Addr>().map_err(|_| WRONG)?;
            let port = match rest.strip_prefix(':') {
                None if !rest.is_empty() => return Err(WRONG),
                port => port,
            };
            (host, port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            if host.starts_with('[') || host_name(host).is_err() {
                return Err(WRONG);
            }
            (host, port)
        }
    };
    match port.map(str::parse) {
        None => Ok((host.to_owned(), None)),
        Some(Ok(0)) => Err("has the invalid port 0"),
        Some(Ok(port)) => Ok((host.to_owned(), Some(port))),
        Some(Err(_)) => Err(WRONG),
    }
}

/// Parses the URL of an LDAP server and strips a trailing slash.
pub(crate) fn ldap_url(text: &str) -> Result<String, &'static str> {
    if let Some(domain) = text.trim().strip_prefix("srv:") {
        return host_name(domain)
            .map(|domain| format!("srv:{domain}"))
            .map_err(|_| "lacks a DNS domain after srv:");
    }
    let (scheme, rest) = text
        .split_once("://")
        .ok_or("is neither an LDAP URL nor ldif:FILE")?;
    let scheme = scheme.to_ascii_lowercase();
    let server = rest.strip_suffix('/').unwrap_or(rest);
    match scheme.as_str() {
        "ldapi" if server.is_empty() || server.contains(['/', ' ', '?']) => {
            Err("lacks a socket path with each / written as %2F")
        }
        "ldapi" => Ok(format!("{scheme}://{server}")),
        "ldap" | "ldaps" if server.contains(['/', '?']) => {
            Err("contains more than a server; set the base in directory.base")
        }
        "ldap" | "ldaps" => match host_and_port(server) {
            Ok(_) => Ok(format!("{scheme}://{server}")),
            Err(_) => Err("lacks HOST or HOST:PORT after ://"),
        },
        _ => Err("does not begin with ldap://, ldaps://, ldapi://, srv: or ldif:"),
    }
}

/// Parses an attribute name (RFC 4512 section 2.5: a name or an OID, with options).
pub(crate) fn attribute(text: &str) -> Result<String, &'static str> {
    let sound = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.;_".contains(c));
    sound
        .then(|| text.to_owned())
        .ok_or("is not an attribute name")
}

/// Parses a search filter.
pub(super) fn filter(text: &str) -> Result<String, &'static str> {
    ldap3::parse_filter(text)
        .map(|_| text.to_owned())
        .map_err(|_| "is not an LDAP filter (RFC 4515)")
}

/// Parses a source of inherited journal attributes.
pub(super) fn inheritance(text: &str) -> Result<Inheritance, &'static str> {
    let none = Inheritance::default();
    match text {
        "groups" => Ok(Inheritance {
            groups: true,
            ..none
        }),
        "containers" => Ok(Inheritance {
            containers: true,
            ..none
        }),
        _ => Err("is neither \"groups\" nor \"containers\""),
    }
}

/// Parses the characters that start an address extension.
pub(crate) fn delimiters(text: &str) -> Result<String, &'static str> {
    let sound = text
        .chars()
        .all(|c| c.is_ascii_punctuation() && !"@<>\",".contains(c));
    sound
        .then(|| text.to_owned())
        .ok_or("contains a character that cannot start an address extension")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_written_with_and_without_port() {
        for (text, host, port) in [
            ("mx.example.com", "mx.example.com", None),
            ("mx:25", "mx", Some(25)),
            ("192.0.2.1:10027", "192.0.2.1", Some(10027)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:25", "::1", Some(25)),
        ] {
            assert_eq!(host_and_port(text), Ok((host.into(), port)), "{text}");
        }
        for text in [
            "",
            ":25",
            "mx:",
            "mx:0",
            "mx:smtp",
            "mx:99999",
            "a b",
            "[mx]:25",
            "[::1]25",
            "[::1",
            "smtp://mx",
            "a@b",
            "mx:25:25",
        ] {
            assert!(host_and_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ldap_urls_name_a_server_and_nothing_else() {
        for (text, url) in [
            ("ldap://dc1", "ldap://dc1"),
            (
                "LDAPS://dc1.example.com:3269/",
                "ldaps://dc1.example.com:3269",
            ),
            ("ldap://[::1]:389", "ldap://[::1]:389"),
            (
                "ldapi://%2Frun%2Fslapd%2Fldapi",
                "ldapi://%2Frun%2Fslapd%2Fldapi",
            ),
        ] {
            assert_eq!(ldap_url(text), Ok(url.into()), "{text}");
        }
        for text in [
            "dc1",
            "ldap:dc1",
            "ldap://",
            "http://dc1",
            "ldap://dc1/dc=x",
            "ldap://u:p@dc1",
            "ldap://dc1 ",
            "ldapi:///run/ldapi",
            "ldap://dc1:x",
        ] {
            assert!(ldap_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn attribute_names_cannot_smuggle_a_filter() {
        for text in [
            "mail",
            "extensionAttribute10",
            "1.2.840.113556.1.2.210",
            "cn;lang-de",
        ] {
            assert!(attribute(text).is_ok(), "{text}");
        }
        for text in ["", "mail)(cn=*", "a b", "*", "-a", "a,b"] {
            assert!(attribute(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_bounded() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "5", "-1s", "2years", "soon", "99999999999999999999y"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(nonzero_duration("0s").is_err());
    }

    #[test]
    fn sizes_have_units_or_are_bytes() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("5 B", 5),
            ("500kB", 500_000),
            ("3MB", 3_000_000),
            ("100MiB", 104_857_600),
            ("1 GiB", 1_073_741_824),
            ("2TiB", 2_199_023_255_552),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "10M",
            "1 giga",
            "99999999TiB",
            "18446744073709551616",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(nonzero_size("0").is_err() && nonzero_size("1").is_ok());
    }

    #[test]
    fn a_socket_s_mode_is_octal() {
        assert_eq!((mode("0660"), mode("600")), (Ok(0o660), Ok(0o600)));
        for text in ["", "0680", "rw", "7777", "0460", "0o660"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bare_address_is_a_network_of_one() {
        assert_eq!(network("10.0.0.1"), network("10.0.0.1/32"));
        assert!(network("10.0.0.0/33").is_err() && network("localhost").is_err());
    }
}
