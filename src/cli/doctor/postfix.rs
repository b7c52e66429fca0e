//! A Postfix instance: parameters and services, with the effective values of each service.
//!
//! Pure: parses the output collected by [`super::postconf`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::migrate::postfix::words;

/// Parameters and their values, all `$names` expanded.
#[derive(Debug, Clone, Default)]
pub(super) struct Values(BTreeMap<String, String>);

/// A service of master.cf (master(5)).
#[derive(Debug, Clone, Default)]
pub(super) struct Service {
    /// `smtp`, `127.0.0.1:10026`, `cleanup`.
    pub(super) name: String,
    /// `inet`, `unix`, `pass`.
    pub(super) kind: String,
    /// Whether its processes see the queue directory as the root.
    pub(super) chroot: bool,
    /// The process limit; `None` for no limit.
    pub(super) processes: Option<u64>,
    /// `smtpd`, `cleanup`, `pickup`.
    pub(super) program: String,
    /// Its `-o` options.
    pub(super) overrides: Values,
    /// Its effective values.
    pub(super) values: Values,
}

/// An instance of Postfix.
#[derive(Debug, Clone, Default)]
pub(super) struct Postfix {
    /// The configuration directory.
    pub(super) dir: PathBuf,
    /// Whether it is the default instance.
    pub(super) is_default: bool,
    /// The values of main.cf, with defaults.
    pub(super) values: Values,
    pub(super) services: Vec<Service>,
    /// Warnings of postconf: `FILE: unused parameter: NAME=VALUE`.
    pub(super) unused: Vec<String>,
    /// The domains in tables and files of each list of domains, by parameter.
    pub(super) listed: BTreeMap<&'static str, Vec<String>>,
    /// Tables in lists of domains that cannot be listed, with their parameter.
    pub(super) unlisted: Vec<(&'static str, String)>,
}

/// The parameters that list domains.
pub(super) const DOMAINS: [&str; 4] = [
    "mydestination",
    "virtual_alias_domains",
    "virtual_mailbox_domains",
    "relay_domains",
];

/// The parameters with client restrictions.
const RESTRICTIONS: [&str; 5] = [
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
];

/// Whether an item of a list is a table or a file.
pub(super) fn is_table(word: &str) -> bool {
    !word.starts_with('[') && word.contains([':', '/'])
}

impl Values {
    /// Parses the output of postconf(1): `name = value`.
    pub(super) fn from_lines(text: &str) -> Values {
        let pairs = text.lines().filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        });
        Values(pairs.collect())
    }

    /// Returns a value; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the items of a list, separated by spaces and commas.
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name)
            .split([' ', '\t', ','])
            .filter(|item| !item.is_empty())
    }

    pub(super) fn lists(&self, name: &str, item: &str) -> bool {
        self.list(name).any(|one| one.eq_ignore_ascii_case(item))
    }

    pub(super) fn is_yes(&self, name: &str) -> bool {
        self.get(name).eq_ignore_ascii_case("yes")
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok()
    }

    /// Replaces a value.
    pub(super) fn replace(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }

    /// Returns a size limit; `None` for 0, which means no limit.
    pub(super) fn limit(&self, name: &str) -> Option<u64> {
        self.number(name).filter(|limit| *limit > 0)
    }

    /// Returns these values with others that override them.
    pub(super) fn with(mut self, over: Values) -> Values {
        self.0.extend(over.0);
        self
    }
}

/// Parses a time as in postconf(5): `30s`, `5m`, `1h`, `1d`, `1w`, or seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    Some(Duration::from_secs(number.checked_mul(unit)?))
}

/// Parses the services in the output of `postconf -F` and `postconf -P`, without their values.
pub(super) fn services(fields: &str, overrides: &str, main: &Values) -> Vec<Service> {
    let mut found: Vec<Service> = Vec::new();
    // The fields of a service are consecutive, its name first; names may contain a slash.
    for line in fields.lines() {
        let Some((key, value)) = line.split_once(" = ") else {
            continue;
        };
        match key.rsplit_once('/') {
            Some((_, "service")) => found.push(Service {
                name: value.to_owned(),
                ..Service::default()
            }),
            Some((_, field)) => {
                if let Some(service) = found.last_mut() {
                    service.set_field(field, value, main);
                }
            }
            None => {}
        }
    }
    for service in &mut found {
        let prefix = format!("{}/{}/", service.name, service.kind);
        let own: Vec<&str> = overrides
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .collect();
        service.overrides = Values::from_lines(&own.join("\n"));
    }
    found
}

impl Service {
    fn set_field(&mut self, field: &str, value: &str, main: &Values) {
        match field {
            "type" => value.clone_into(&mut self.kind),
            // master(5): the default is yes before compatibility level 1.
            "chroot" => {
                let level = main.get("compatibility_level");
                self.chroot = value == "y" || value == "-" && level == "0";
            }
            "process_limit" => {
                let limit = match value {
                    "-" => main.number("default_process_limit"),
                    number => number.parse().ok(),
                };
                self.processes = limit.filter(|limit| *limit > 0);
            }
            "command" => {
                let program = value.split_ascii_whitespace().next();
                program.unwrap_or_default().clone_into(&mut self.program);
            }
            _ => {}
        }
    }

    /// Returns the first list of restrictions that contains a word.
    pub(super) fn restriction(&self, word: &str) -> Option<&'static str> {
        let mut lists = RESTRICTIONS.into_iter();
        lists.find(|parameter| self.values.lists(parameter, word))
    }

    /// Whether it is an SMTP server.
    pub(super) fn is_smtp(&self) -> bool {
        self.program == "smtpd"
    }

    /// Returns its key in `postconf -P`: `submission/inet`.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.name, self.kind)
    }
}

impl Postfix {
    /// Returns the SMTP servers; the one behind postscreen(8) only if there is a postscreen.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Service> {
        let screened = self.services.iter().any(|one| one.program == "postscreen");
        let heard = move |one: &&Service| one.is_smtp() && (one.kind != "pass" || screened);
        self.services.iter().filter(heard)
    }

    /// Returns the domains in a list, including those in its tables.
    pub(super) fn domains(&self, parameter: &str) -> Vec<&str> {
        let words = words(self.values.get(parameter)).into_iter();
        let plain = words.filter(|word| !is_table(word) && !word.starts_with('!'));
        let listed = self.listed.get(parameter).into_iter().flatten();
        plain.chain(listed.map(String::as_str)).collect()
    }

    pub(super) fn service(&self, name: &str, kind: &str) -> Option<&Service> {
        let mut services = self.services.iter();
        services.find(|one| one.name == name && one.kind == kind)
    }

    /// Returns the cleanup(8) service that a service uses.
    pub(super) fn cleanup_of(&self, service: &Service) -> Option<&Service> {
        let name = match service.values.get("cleanup_service_name") {
            "" => "cleanup",
            name => name,
        };
        self.service(name, "unix")
    }

    /// Returns the location of a parameter in main.cf.
    pub(super) fn main(&self, parameter: &str) -> String {
        format!("{} {parameter}", self.dir.join("main.cf").display())
    }

    /// Returns the location of a service in master.cf.
    pub(super) fn master(&self, service: &Service) -> String {
        format!("{} {}", self.dir.join("master.cf").display(), service.key())
    }

    /// Returns the location of a service's parameter: master.cf if its value differs from main.cf.
    pub(super) fn place(&self, service: &Service, parameter: &str) -> String {
        match self.is_own(service, parameter) {
            true => format!("{} {parameter}", self.master(service)),
            false => self.main(parameter),
        }
    }

    /// Returns the command that sets it.
    pub(super) fn set(&self, service: &Service, parameter: &str, value: &str) -> String {
        match self.is_own(service, parameter) {
            true => self.set_service(service, parameter, value),
            false => self.set_main(parameter, value),
        }
    }

    pub(super) fn is_own(&self, service: &Service, parameter: &str) -> bool {
        service.values.get(parameter) != self.values.get(parameter)
    }

    pub(super) fn set_main(&self, parameter: &str, value: &str) -> String {
        format!("{} -e '{parameter} = {value}'", self.postconf())
    }

    pub(super) fn set_service(&self, service: &Service, parameter: &str, value: &str) -> String {
        let key = service.key();
        // postconf -P accepts no spaces in a value; lists need none except within braces.
        let items: Vec<&str> = value
            .split([' ', ','])
            .filter(|item| !item.is_empty())
            .collect();
        match value.contains("{ ") || value.contains(" = ") {
            true => format!(
                "in {}: -o {{ {parameter} = {value} }}",
                self.master(service)
            ),
            false => format!(
                "{} -P '{key}/{parameter}={}'",
                self.postconf(),
                items.join(",")
            ),
        }
    }

    /// Returns the command that removes a service's own value of a parameter, if it has one.
    pub(super) fn unset(&self, service: &Service, parameter: &str, value: &str) -> String {
        match service.overrides.has(parameter) {
            true => format!("{} -PX '{}/{parameter}'", self.postconf(), service.key()),
            false => self.set_service(service, parameter, value),
        }
    }

    /// Returns the command that adds a service.
    pub(super) fn add_service(&self, entry: &str) -> String {
        format!("{} -M '{entry}'", self.postconf())
    }

    /// Returns the command that removes a service.
    pub(super) fn remove_service(&self, service: &Service) -> String {
        format!("{} -MX '{}'", self.postconf(), service.key())
    }

    /// Returns the command that sets the process limit of services.
    pub(super) fn set_processes(&self, services: &[String], number: u32) -> String {
        let each = services
            .iter()
            .map(|key| format!(" '{key}/process_limit={number}'"));
        format!("{} -F{}", self.postconf(), each.collect::<String>())
    }

    fn postconf(&self) -> String {
        match self.is_default {
            true => "postconf".to_owned(),
            false => format!("postconf -c {}", self.dir.display()),
        }
    }

    /// Returns the address of a listener: its host, if any, and its port.
    pub(super) fn address<'a>(&self, listener: &'a Service) -> Option<(Option<&'a str>, u16)> {
        if listener.kind != "inet" {
            return None;
        }
        let (host, port) = match listener.name.rsplit_once(':') {
            Some((host, port)) => (Some(strip_brackets(host)), port),
            None => (None, listener.name.as_str()),
        };
        Some((host.filter(|host| !host.is_empty()), port_number(port)?))
    }

    /// Whether a listener is reachable only from this machine.
    pub(super) fn is_local(&self, listener: &Service) -> bool {
        match self.address(listener) {
            Some((Some(host), _)) => is_loopback(host),
            // inet_interfaces belongs to master(8), which has no -o options.
            Some((None, _)) => {
                let mut all = self.values.list("inet_interfaces").peekable();
                all.peek().is_some()
                    && all.all(|one| one == "loopback-only" || is_loopback(strip_brackets(one)))
            }
            None => false,
        }
    }

    /// Whether a host and port are those of a listener, without DNS lookups.
    pub(super) fn is_at(&self, listener: &Service, host: &str, port: u16) -> bool {
        let Some((own, own_port)) = self.address(listener) else {
            return false;
        };
        let here =
            |own: &str| own.eq_ignore_ascii_case(host) || is_loopback(own) && is_loopback(host);
        let heard = match own {
            Some(own) => here(own),
            None => {
                is_loopback(host)
                    || host.eq_ignore_ascii_case(self.values.get("myhostname"))
                    || self
                        .values
                        .list("inet_interfaces")
                        .any(|one| here(strip_brackets(one)))
            }
        };
        port == own_port && heard
    }
}

/// Removes the brackets of `[::1]`.
pub(super) fn strip_brackets(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || (host.parse::<IpAddr>()).is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Parses a port number or a mail service name (services(5)).
pub(super) fn port_number(port: &str) -> Option<u16> {
    match port {
        "smtp" => Some(25),
        "submission" => Some(587),
        "submissions" | "smtps" => Some(465),
        number => number.parse().ok(),
    }
}

/// Normalizes a path: no double slashes, `/run` for `/var/run`.
pub(super) fn plain(path: &Path) -> PathBuf {
    let plain: PathBuf = path.components().collect();
    match plain.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &str = "\
        smtp/inet/service = smtp\nsmtp/inet/type = inet\nsmtp/inet/chroot = y\n\
        smtp/inet/process_limit = -\nsmtp/inet/command = smtpd\n\
        127.0.0.1:10026/inet/service = 127.0.0.1:10026\n127.0.0.1:10026/inet/type = inet\n\
        127.0.0.1:10026/inet/chroot = -\n127.0.0.1:10026/inet/process_limit = 0\n\
        127.0.0.1:10026/inet/command = smtpd -o smtpd_milters=\n";

    fn postfix(main: &str) -> Postfix {
        let main = Values::from_lines(main);
        let overrides = "127.0.0.1:10026/inet/smtpd_milters =\n";
        Postfix {
            services: services(FIELDS, overrides, &main),
            values: main,
            ..Postfix::default()
        }
    }

    #[test]
    fn services_have_their_fields_and_their_own_overrides() {
        let found = postfix("default_process_limit = 100\ncompatibility_level = 0").services;
        let [smtp, back] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(
            (smtp.program.as_str(), smtp.kind.as_str()),
            ("smtpd", "inet")
        );
        assert_eq!((smtp.processes, back.processes), (Some(100), None));
        assert!(smtp.chroot && back.chroot, "the default of old");
        assert!(smtp.overrides.is_empty() && back.overrides.has("smtpd_milters"));
        assert!(!postfix("compatibility_level = 3.6").services[1].chroot);
    }

    #[test]
    fn listeners_are_recognized_by_address() {
        let open = postfix("inet_interfaces = all\nmyhostname = mx.example.com");
        let (smtp, back) = (&open.services[0], &open.services[1]);
        assert!(!open.is_local(smtp) && open.is_local(back));
        assert!(open.is_at(smtp, "localhost", 25) && open.is_at(smtp, "mx.example.com", 25));
        assert!(!open.is_at(smtp, "other.example.com", 25) && !open.is_at(smtp, "::1", 26));
        assert!(open.is_at(back, "127.0.0.1", 10026) && !open.is_at(back, "192.0.2.1", 10026));
        let closed = postfix("inet_interfaces = loopback-only");
        assert!(closed.is_local(&closed.services[0]));
    }

    #[test]
    fn times_are_read_as_postfix_does() {
        for (text, seconds) in [
            ("30s", 30),
            ("5m", 300),
            ("2h", 7200),
            ("1d", 86400),
            ("7", 7),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("soon"), None);
    }
}
