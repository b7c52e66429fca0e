//! Milter lists and filter addresses as in postconf(5) and MILTER_README.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::postfix::{Postfix, Service, Values, is_loopback, plain, port_number, strip_brackets};
use crate::hook::{ListenAddress, SmtpListener};

/// One entry of `smtpd_milters` or `non_smtpd_milters`: an address, or `{ address, name = value, …
/// }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Milter {
    /// Its address.
    pub(super) text: String,
    /// The whole entry.
    pub(super) written: String,
    settings: Vec<(String, String)>,
}

/// The address of a milter or filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Inet { host: String, port: u16 },
    Unix(PathBuf),
}

/// Parses a list of milters.
pub(super) fn parse(list: &str) -> Vec<Milter> {
    let mut found = Vec::new();
    let mut rest = list.trim_start_matches(is_separator);
    while !rest.is_empty() {
        let end = match rest.strip_prefix('{').and_then(|inner| inner.find('}')) {
            Some(end) => end + 2,
            None => rest.find(is_separator).unwrap_or(rest.len()),
        };
        let (entry, after) = rest.split_at(end);
        found.push(milter(entry));
        rest = after.trim_start_matches(is_separator);
    }
    found
}

fn is_separator(c: char) -> bool {
    c.is_ascii_whitespace() || c == ','
}

fn milter(entry: &str) -> Milter {
    let inner = entry.trim_start_matches('{').trim_end_matches('}');
    let mut parts = inner.split(',').map(str::trim);
    let text = parts.next().unwrap_or_default().to_owned();
    let settings = parts.filter_map(|part| {
        let (name, value) = part.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    });
    Milter {
        text,
        written: entry.to_owned(),
        settings: settings.collect(),
    }
}

impl Milter {
    /// Returns its own setting (`default_action`), or else the parameter with the prefix `milter_`.
    pub(super) fn setting<'a>(&'a self, name: &str, values: &'a Values) -> &'a str {
        match self.own(name) {
            Some(own) => own,
            None => values.get(&format!("milter_{name}")),
        }
    }

    /// Returns its own setting.
    pub(super) fn own(&self, name: &str) -> Option<&str> {
        let mut own = self.settings.iter().filter(|(known, _)| known == name);
        own.next().map(|(_, value)| value.as_str())
    }

    /// Whether it is Copyist, as seen by a process of this service.
    pub(super) fn is_copyist(
        &self,
        postfix: &Postfix,
        by: &Service,
        hooks: &[ListenAddress],
    ) -> bool {
        let Some(endpoint) = endpoint(&self.text) else {
            return false;
        };
        hooks.iter().any(|hook| match (&endpoint, hook) {
            (Endpoint::Inet { host, port }, ListenAddress::Inet(address)) => {
                *port == address.port() && may_be(host, address.ip())
            }
            (Endpoint::Unix(path), ListenAddress::Unix(listen)) => {
                let listen = plain(listen);
                // A socket outside the chroot is another finding.
                plain(&seen_by(postfix, by, path)) == listen || plain(path) == listen
            }
            _ => false,
        })
    }

    /// Whether it adds signatures, which later texts would break, judging by its name or usual port.
    pub(super) fn signs(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        let customary = match endpoint(&self.text) {
            Some(Endpoint::Inet { port, .. }) => matches!(port, 8891 | 12301 | 11332),
            _ => false,
        };
        customary || text.contains("dkim") || text.contains("rspamd")
    }

    /// Whether it adds signatures and rejects nothing.
    pub(super) fn only_signs(&self) -> bool {
        let is_rspamd = self.text.contains("rspamd") || self.text.ends_with(":11332");
        self.signs() && !is_rspamd
    }

    /// Whether it is a well-known other filter, judging by its name or usual port.
    pub(super) fn is_known_other(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        const NAMES: [&str; 9] = [
            "dkim", "dmarc", "rspamd", "spamass", "clamav", "clmilter", "spf", "greylist", "amavis",
        ];
        let customary = match endpoint(&self.text) {
            Some(Endpoint::Inet { port, .. }) => matches!(port, 8893 | 11332 | 12301 | 7357 | 783),
            _ => false,
        };
        customary || NAMES.iter().any(|name| text.contains(name))
    }
}

/// Returns the path where a process of a service looks for a socket.
pub(super) fn seen_by(postfix: &Postfix, by: &Service, path: &Path) -> PathBuf {
    let queue = Path::new(postfix.values.get("queue_directory"));
    match path.strip_prefix("/") {
        // Daemons run in the queue directory; chrooted ones see nothing else.
        Ok(below) if by.chroot => queue.join(below),
        Ok(_) => path.to_owned(),
        Err(_) => queue.join(path),
    }
}

/// Parses `inet:host:port`, `unix:path`, `local:path`, and `host:port` and `port` as in
/// smtpd_proxy_filter.
pub(super) fn endpoint(text: &str) -> Option<Endpoint> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:").or(text.strip_prefix("local:")) {
        return Some(Endpoint::Unix(path.into()));
    }
    let address = ["inet:", "inet6:"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let address = address.unwrap_or(text);
    let (host, port) = match address.split_once('@') {
        Some((port, host)) => (host, port),
        None => address.rsplit_once(':').unwrap_or(("localhost", address)),
    };
    Some(Endpoint::Inet {
        host: strip_brackets(host).to_owned(),
        port: port_number(port)?,
    })
}

/// Whether a host may be a listen address, without DNS lookups.
fn may_be(host: &str, listen: IpAddr) -> bool {
    let listen = listen.to_canonical();
    match host.parse::<IpAddr>() {
        Ok(ip) => listen.is_unspecified() || ip.to_canonical() == listen,
        Err(_) if is_loopback(host) => listen.is_loopback() || listen.is_unspecified(),
        Err(_) => !listen.is_loopback(),
    }
}

/// Returns Copyist's SMTP listener at a filter's address.
pub(super) fn smtp_listener<'a>(
    address: &str,
    doors: &'a [SmtpListener],
) -> Option<&'a SmtpListener> {
    let Some(Endpoint::Inet { host, port }) = endpoint(address) else {
        return None;
    };
    let ours = |door: &&SmtpListener| door.listen.port() == port && may_be(&host, door.listen.ip());
    doors.iter().find(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_copyist(text: &str, chroot: bool, hook: &str) -> bool {
        let postfix = Postfix {
            values: Values::from_lines("queue_directory = /var/spool/postfix"),
            ..Postfix::default()
        };
        let by = Service {
            chroot,
            ..Service::default()
        };
        let hook: ListenAddress = hook.parse().expect(hook);
        parse(text)[0].is_copyist(&postfix, &by, &[hook])
    }

    #[test]
    fn signers_differ_from_rejecting_filters() {
        let list = "inet:127.0.0.1:11332, unix:spamass/spamass.sock unix:/run/opendkim/opendkim.sock, inet:localhost:12301";
        let all = parse(list);
        let signing: Vec<bool> = all.iter().map(Milter::only_signs).collect();
        assert_eq!(signing, [false, false, true, true]);
    }

    #[test]
    fn lists_hold_plain_entries_and_entries_with_settings() {
        let list = "inet:127.0.0.1:8891, { unix:run/x.sock, default_action = accept,command_timeout=3s } inet:[::1]:1";
        let found = parse(list);
        let texts: Vec<&str> = found.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(
            texts,
            ["inet:127.0.0.1:8891", "unix:run/x.sock", "inet:[::1]:1"]
        );
        let values = Values::from_lines("milter_default_action = tempfail");
        assert_eq!(found[0].setting("default_action", &values), "tempfail");
        assert_eq!(found[1].setting("default_action", &values), "accept");
        assert_eq!(found[1].setting("command_timeout", &values), "3s");
        assert!(parse(" ").is_empty());
    }

    #[test]
    fn copyist_is_recognized_at_any_form_of_its_address() {
        for (text, hook, expected) in [
            ("inet:127.0.0.1:8891", "inet:127.0.0.1:8891", true),
            ("inet:localhost:8891", "inet:127.0.0.1:8891", true),
            ("inet:[::1]:8891", "inet6:[::1]:8891", true),
            ("inet:127.0.0.1:8892", "inet:127.0.0.1:8891", false),
            ("inet:127.0.0.2:8891", "inet:127.0.0.1:8891", false),
            ("inet:192.0.2.7:8891", "inet:0.0.0.0:8891", true),
            ("inet:hub.example.com:8891", "inet:192.0.2.1:8891", true),
            ("inet:hub.example.com:8891", "inet:127.0.0.1:8891", false),
            ("unix:/run/c/m.sock", "unix:/run/c/m.sock", true),
            ("unix:/var/run/c/m.sock", "unix:/run/c/m.sock", true),
            ("unix:/run/other.sock", "unix:/run/c/m.sock", false),
        ] {
            assert_eq!(is_copyist(text, false, hook), expected, "{text} {hook}");
        }
    }

    #[test]
    fn a_socket_is_looked_for_in_the_chroot() {
        let inside = "unix:/var/spool/postfix/c/m.sock";
        assert!(is_copyist("unix:/c/m.sock", true, inside));
        assert!(is_copyist("unix:c/m.sock", false, inside));
        assert!(!is_copyist("unix:/c/m.sock", false, inside));
    }
}
