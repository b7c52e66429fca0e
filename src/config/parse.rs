//! Texts of the settings → types. Pure; each fails with the end of a sentence that begins with the
//! text.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::directory::{Places, Target, TargetError};
use crate::identity;
use crate::mail::{Address, AddressError, Certificate};

/// No duration that is set here makes sense beyond a year; and sums with it must not overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A mail address.
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

/// A journal target: an SMTP address, a DN or an X.500 address.
pub(super) fn target(text: &str) -> Result<Target, &'static str> {
    Target::parse(text).map_err(|error| match error {
        TargetError::Address(error) => address_problem(&error),
        // Only looking in the directory tells these.
        TargetError::Nowhere(_) | TargetError::NoAddress { .. } | TargetError::Elsewhere(_) => {
            "names no mailbox"
        }
    })
}

/// A name of the MTA: a host name, or an address in brackets.
pub(super) fn local_domain(text: &str) -> Result<String, &'static str> {
    identity::local_domain(text).ok_or("is neither a host name nor an address literal")
}

/// The subject of a certificate, and its issuer behind a semicolon.
pub(super) fn certificate(text: &str) -> Result<Certificate, &'static str> {
    let (subject, issuer) = text.split_once(';').unwrap_or((text, ""));
    match subject.trim() {
        "" => Err("has no common name of a subject"),
        subject => Ok(Certificate {
            subject: subject.to_owned(),
            issuer: issuer.trim().to_owned(),
        }),
    }
}

/// The domain of mail addresses.
pub(super) fn domain(text: &str) -> Result<String, &'static str> {
    match Address::parse(&format!("x@{text}")) {
        Ok(address) if !text.contains('@') => Ok(address.domain().to_owned()),
        _ => Err("is no domain"),
    }
}

/// A journal target that must be of use while the directory is down.
pub(super) fn smtp_target(text: &str) -> Result<Address, &'static str> {
    target(text)?
        .smtp()
        .cloned()
        .ok_or("names a directory object, and has to be an SMTP address")
}

/// `10.0.0.0/8`; a bare address is a network of one.
pub(crate) fn network(text: &str) -> Result<IpNet, &'static str> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.into()),
        Err(_) => text.parse().map_err(|_| "is not a network"),
    }
}

/// `5s`, `1m 30s`; at most a year.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err("is longer than a year"),
        Ok(duration) => Ok(duration),
        Err(_) => Err("is not a duration"),
    }
}

/// As [`duration`], but not zero.
pub(super) fn some_time(text: &str) -> Result<Duration, &'static str> {
    match duration(text)? {
        Duration::ZERO => Err("is no time at all"),
        duration => Ok(duration),
    }
}

/// `100MiB`, `1GiB`, `500kB`, or bytes.
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
    // As far as any disk goes, and sums with it do not overflow.
    let size = number.checked_mul(unit).filter(|size| *size < 1 << 60);
    size.ok_or("is larger than any disk")
}

/// As [`size`], but not zero.
pub(super) fn some_size(text: &str) -> Result<u64, &'static str> {
    match size(text)? {
        0 => Err("is nothing at all"),
        size => Ok(size),
    }
}

/// The permissions of a socket, in octal digits; its owner must be able to use it.
pub(super) fn mode(text: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o777 == 0 && mode & 0o200 != 0 => Ok(mode),
        _ => Err("is no mode of a socket"),
    }
}

/// The name of a machine, as it can stand in a Message-ID and in EHLO.
pub(super) fn host_name(text: &str) -> Result<String, &'static str> {
    // The domain of an address is a domain: one parser decides what that is.
    match Address::parse(&format!("x@{text}")) {
        Ok(address) if text.chars().all(|c| c.is_ascii_graphic() && c != '@') => {
            Ok(address.domain().to_owned())
        }
        _ => Err("is not a host name"),
    }
}

/// `host`, `host:port`, `[::1]:port`; an IPv6 address comes back without brackets.
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
        Some(Ok(0)) => Err("has the port 0, which nobody listens on"),
        Some(Ok(port)) => Ok((host.to_owned(), Some(port))),
        Some(Err(_)) => Err(WRONG),
    }
}

/// The URL of an LDAP server, without a slash at its end.
pub(crate) fn ldap_url(text: &str) -> Result<String, &'static str> {
    if let Some(domain) = text.trim().strip_prefix("srv:") {
        return host_name(domain)
            .map(|domain| format!("srv:{domain}"))
            .map_err(|_| "has no DNS domain after srv:");
    }
    let (scheme, rest) = text
        .split_once("://")
        .ok_or("is neither an LDAP URL nor ldif:FILE")?;
    let scheme = scheme.to_ascii_lowercase();
    let server = rest.strip_suffix('/').unwrap_or(rest);
    match scheme.as_str() {
        "ldapi" if server.is_empty() || server.contains(['/', ' ', '?']) => {
            Err("has no socket path in which each / is written %2F")
        }
        "ldapi" => Ok(format!("{scheme}://{server}")),
        "ldap" | "ldaps" if server.contains(['/', '?']) => {
            Err("has more than a server in it; the base stands in directory.base")
        }
        "ldap" | "ldaps" => match host_and_port(server) {
            Ok(_) => Ok(format!("{scheme}://{server}")),
            Err(_) => Err("has no server HOST or HOST:PORT after ://"),
        },
        _ => Err("begins with none of ldap://, ldaps://, ldapi://, srv: and ldif:"),
    }
}

/// The name of an attribute (RFC 4512 section 2.5: a name or an OID, with options).
pub(crate) fn attribute(text: &str) -> Result<String, &'static str> {
    let sound = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.;_".contains(c));
    sound
        .then(|| text.to_owned())
        .ok_or("is not the name of an attribute")
}

/// A search filter.
pub(super) fn filter(text: &str) -> Result<String, &'static str> {
    ldap3::parse_filter(text)
        .map(|_| text.to_owned())
        .map_err(|_| "is no LDAP filter (RFC 4515)")
}

/// A place where journal attributes may stand.
pub(super) fn place(text: &str) -> Result<Places, &'static str> {
    let none = Places::default();
    match text {
        "groups" => Ok(Places {
            groups: true,
            ..none
        }),
        "containers" => Ok(Places {
            containers: true,
            ..none
        }),
        _ => Err("is no place where journal attributes are looked for"),
    }
}

/// Characters that start an address extension.
pub(crate) fn delimiters(text: &str) -> Result<String, &'static str> {
    let sound = text
        .chars()
        .all(|c| c.is_ascii_punctuation() && !"@<>\",".contains(c));
    sound
        .then(|| text.to_owned())
        .ok_or("holds a character that cannot start an address extension")
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
        assert!(some_time("0s").is_err());
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
        assert!(some_size("0").is_err() && some_size("1").is_ok());
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
