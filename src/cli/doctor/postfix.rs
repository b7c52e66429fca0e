//! A Postfix as its own postconf(1) tells it: parameters and services, with the values that each
//! service works with.
//!
//! Pure: what is read here was printed by [`super::postconf`].

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
    /// How many processes there may be; `None` for any number.
    pub(super) processes: Option<u64>,
    /// `smtpd`, `cleanup`, `pickup`.
    pub(super) program: String,
    /// What its `-o` options say.
    pub(super) overrides: Values,
    /// What holds in its processes.
    pub(super) values: Values,
}

/// An instance of Postfix.
#[derive(Debug, Clone, Default)]
pub(super) struct Postfix {
    /// Where main.cf and master.cf are.
    pub(super) dir: PathBuf,
    /// Whether its commands find it without being told.
    pub(super) is_default: bool,
    /// What main.cf says, with the defaults.
    pub(super) values: Values,
    pub(super) services: Vec<Service>,
    /// What postconf warned of, each `FILE: unused parameter: NAME=VALUE`.
    pub(super) unused: Vec<String>,
    /// The domains in tables and files that a list of domains names, by its parameter.
    pub(super) listed: BTreeMap<&'static str, Vec<String>>,
    /// Tables in lists of domains that cannot be listed, each with its parameter.
    pub(super) unlisted: Vec<(&'static str, String)>,
}

/// The parameters that list domains.
pub(super) const DOMAINS: [&str; 4] = [
    "mydestination",
    "virtual_alias_domains",
    "virtual_mailbox_domains",
    "relay_domains",
];

/// The parameters that list what a client may do.
const RESTRICTIONS: [&str; 5] = [
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
];

/// Whether a word of a list names a table or a file.
pub(super) fn is_table(word: &str) -> bool {
    !word.starts_with('[') && word.contains([':', '/'])
}

impl Values {
    /// From lines as postconf(1) prints them: `name = value`.
    pub(super) fn from_lines(text: &str) -> Values {
        let pairs = text.lines().filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        });
        Values(pairs.collect())
    }

    /// The value; empty where there is none.
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

    /// A list, whose items stand between spaces and commas.
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

    /// Puts another value in the place of one.
    pub(super) fn replace(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }

    /// A size, where 0 is no limit: `None`.
    pub(super) fn limit(&self, name: &str) -> Option<u64> {
        self.number(name).filter(|limit| *limit > 0)
    }

    /// What was added or put over these.
    pub(super) fn with(mut self, over: Values) -> Values {
        self.0.extend(over.0);
        self
    }
}

/// A time as postconf(5) has it: `30s`, `5m`, `1h`, `1d`, `1w`, or seconds.
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

/// The services in what `postconf -F` and `postconf -P` print; their values are still empty.
pub(super) fn services(fields: &str, overrides: &str, main: &Values) -> Vec<Service> {
    let mut found: Vec<Service> = Vec::new();
    // The fields of one service follow on each other, its name first; names may hold a slash.
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
                    service.take(field, value, main);
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
    fn take(&mut self, field: &str, value: &str, main: &Values) {
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

    /// The first of its lists of restrictions that has a word.
    pub(super) fn restriction(&self, word: &str) -> Option<&'static str> {
        let mut lists = RESTRICTIONS.into_iter();
        lists.find(|parameter| self.values.lists(parameter, word))
    }

    /// Whether it takes SMTP from clients.
    pub(super) fn is_smtp(&self) -> bool {
        self.program == "smtpd"
    }

    /// Its key in `postconf -P`, `submission/inet`.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.name, self.kind)
    }
}

impl Postfix {
    /// Those that take SMTP; one that postscreen(8) hands clients to counts where there is a
    /// postscreen.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Service> {
        let screened = self.services.iter().any(|one| one.program == "postscreen");
        let heard = move |one: &&Service| one.is_smtp() && (one.kind != "pass" || screened);
        self.services.iter().filter(heard)
    }

    /// The domains in a list, those in its tables included.
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

    /// The cleanup(8) that a service hands its mail to.
    pub(super) fn cleanup_of(&self, service: &Service) -> Option<&Service> {
        let name = match service.values.get("cleanup_service_name") {
            "" => "cleanup",
            name => name,
        };
        self.service(name, "unix")
    }

    /// A parameter of main.cf, as findings name it.
    pub(super) fn main(&self, parameter: &str) -> String {
        format!("{} {parameter}", self.dir.join("main.cf").display())
    }

    /// A service of master.cf, as findings name it.
    pub(super) fn master(&self, service: &Service) -> String {
        format!("{} {}", self.dir.join("master.cf").display(), service.key())
    }

    /// Where a parameter of a service got its value: in master.cf if that differs from what holds
    /// elsewhere.
    pub(super) fn place(&self, service: &Service, parameter: &str) -> String {
        match self.is_own(service, parameter) {
            true => format!("{} {parameter}", self.master(service)),
            false => self.main(parameter),
        }
    }

    /// The command that gives it another.
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
        // postconf -P takes no spaces in a value; lists need none, but for what stands between
        // braces.
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

    /// The command that has a service take a parameter from main.cf again, where it has one of its
    /// own.
    pub(super) fn unset(&self, service: &Service, parameter: &str, value: &str) -> String {
        match service.overrides.has(parameter) {
            true => format!("{} -PX '{}/{parameter}'", self.postconf(), service.key()),
            false => self.set_service(service, parameter, value),
        }
    }

    /// The command that adds a service.
    pub(super) fn add_service(&self, entry: &str) -> String {
        format!("{} -M '{entry}'", self.postconf())
    }

    /// The command that removes a service.
    pub(super) fn remove_service(&self, service: &Service) -> String {
        format!("{} -MX '{}'", self.postconf(), service.key())
    }

    /// The command that lets services have so many processes.
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

    /// Where a listener listens: its host, if it has one, and its port.
    pub(super) fn address<'a>(&self, listener: &'a Service) -> Option<(Option<&'a str>, u16)> {
        if listener.kind != "inet" {
            return None;
        }
        let (host, port) = match listener.name.rsplit_once(':') {
            Some((host, port)) => (Some(unbracketed(host)), port),
            None => (None, listener.name.as_str()),
        };
        Some((host.filter(|host| !host.is_empty()), port_number(port)?))
    }

    /// Whether only this machine reaches a listener.
    pub(super) fn is_local(&self, listener: &Service) -> bool {
        match self.address(listener) {
            Some((Some(host), _)) => is_loopback(host),
            // inet_interfaces is the master's, which knows no -o.
            Some((None, _)) => {
                let mut all = self.values.list("inet_interfaces").peekable();
                all.peek().is_some()
                    && all.all(|one| one == "loopback-only" || is_loopback(unbracketed(one)))
            }
            None => false,
        }
    }

    /// Whether a connection to this host and port ends at a listener, as far as can be told without
    /// the DNS.
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
                        .any(|one| here(unbracketed(one)))
            }
        };
        port == own_port && heard
    }
}

/// `[::1]` without its brackets.
pub(super) fn unbracketed(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || (host.parse::<IpAddr>()).is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// A port, by its number or by the names that mail uses (services(5)).
pub(super) fn port_number(port: &str) -> Option<u16> {
    match port {
        "smtp" => Some(25),
        "submission" => Some(587),
        "submissions" | "smtps" => Some(465),
        number => number.parse().ok(),
    }
}

/// A path without doubled slashes, `/var/run` as what it is a link to everywhere.
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
    fn listeners_are_known_by_where_they_listen() {
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
