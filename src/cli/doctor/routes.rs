//! Routes of mail through Postfix, and whether each passes Copyist.
//!
//! Mail arrives by smtpd(8), which uses `smtpd_milters`, `smtpd_proxy_filter` or `content_filter`; and
//! by pickup(8) and qmqpd(8), which use `non_smtpd_milters` in cleanup(8), or `content_filter`.

use std::path::Path;

use super::finding::{Finding, Severity};
use super::line;
use super::milters::{self, Milter};
use super::postfix::{Postfix, Service, is_loopback, plain};
use crate::config::Settings;
use crate::hook::{ListenAddress, Mode, SmtpListener};

/// The routes from one service to Copyist.
pub(super) struct Routes<'a> {
    /// Whether Copyist is among the milters.
    pub(super) listed: bool,
    /// Whether the milter sees whole messages.
    pub(super) milter: bool,
    /// Copyist's SMTP listener used as proxy before the queue.
    pub(super) proxy: Option<&'a SmtpListener>,
    /// Copyist's SMTP listener used as filter after the queue.
    pub(super) filter: Option<&'a SmtpListener>,
    /// Another proxy or filter: the parameter and its value.
    pub(super) other: Option<(&'static str, String)>,
}

impl Routes<'_> {
    pub(super) fn reach_copyist(&self) -> bool {
        self.milter || self.proxy.is_some() || self.filter.is_some()
    }
}

/// Returns the routes of an SMTP server.
pub(super) fn by_smtp<'a>(
    postfix: &Postfix,
    listener: &Service,
    settings: &'a Settings,
) -> Routes<'a> {
    let listed = lists_copyist(postfix, listener, "smtpd_milters", settings);
    let milter = listed
        && !listener
            .values
            .lists("receive_override_options", "no_milters");
    let proxy = listener.values.get("smtpd_proxy_filter");
    if proxy.is_empty() {
        return by_content_filter(listener, listed, milter, settings);
    }
    let door = milters::smtp_listener(proxy, &settings.hook.smtp);
    Routes {
        listed,
        // Milters see only the commands (MILTER_README, "Limitations"), and nothing is queued
        // here.
        milter: false,
        proxy: door,
        filter: None,
        other: door
            .is_none()
            .then(|| ("smtpd_proxy_filter", proxy.to_owned())),
    }
}

/// Returns the routes of a service that receives mail otherwise.
pub(super) fn by_itself<'a>(
    postfix: &Postfix,
    source: &Service,
    settings: &'a Settings,
) -> Routes<'a> {
    let cleanup = postfix.cleanup_of(source);
    let listed = cleanup
        .is_some_and(|cleanup| lists_copyist(postfix, cleanup, "non_smtpd_milters", settings));
    let milter = listed
        && !source
            .values
            .lists("receive_override_options", "no_milters");
    by_content_filter(source, listed, milter, settings)
}

fn by_content_filter<'a>(
    service: &Service,
    listed: bool,
    milter: bool,
    settings: &'a Settings,
) -> Routes<'a> {
    let filter = service.values.get("content_filter");
    let next_hop = filter.split_once(':').map_or("", |(_, next_hop)| next_hop);
    let door = milters::smtp_listener(next_hop, &settings.hook.smtp);
    Routes {
        listed,
        milter,
        proxy: None,
        filter: door,
        other: (door.is_none() && !filter.is_empty())
            .then(|| ("content_filter", filter.to_owned())),
    }
}

fn lists_copyist(
    postfix: &Postfix,
    service: &Service,
    parameter: &str,
    settings: &Settings,
) -> bool {
    milters::parse(service.values.get(parameter))
        .iter()
        .any(|milter| milter.is_copyist(postfix, service, &settings.hook.milter))
}

/// Returns the services that receive mail otherwise than by SMTP. pickup(8) receives none if
/// `authorized_submit_users` is empty.
pub(super) fn sources(postfix: &Postfix) -> impl Iterator<Item = &Service> {
    let nobody = postfix.values.get("authorized_submit_users").is_empty();
    let takes = move |one: &&Service| match one.program.as_str() {
        "pickup" => !nobody,
        "qmqpd" => true,
        _ => false,
    };
    postfix.services.iter().filter(takes)
}

/// Finds a milter that uses the default port.
pub(super) fn check_port_by_default(settings: &Settings) -> Option<Finding> {
    let listen = settings.milter_by_default()?.to_string();
    Some(Finding {
        name: "milter-port-default",
        severity: Severity::Warning,
        place: "hook.milter.listen".into(),
        seen: format!("is not set, so the milter listens on {listen}"),
        why: "this is also OpenDKIM's default port, and a later version of Copyist will use another one".into(),
        fix: line::list("hook.milter.listen", &[listen]),
    })
}

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let check = RouteCheck { postfix, settings };
    let mut found = Vec::new();
    for listener in postfix.listeners() {
        let routes = by_smtp(postfix, listener, settings);
        found.extend(match check.role(listener) {
            Role::Entrance => check.check_entrance(listener, &routes),
            Role::Return => check.check_return_path(listener, &routes),
            Role::OfReports => None,
        });
        if routes.milter && !listener.values.get("smtpd_milter_maps").is_empty() {
            found.push(check.milter_maps(listener));
        }
    }
    found.extend(sources(postfix).filter_map(|source| check.check_source(source)));
    found
}

/// The role of a listener.
enum Role {
    /// Receives mail that Copyist has not seen.
    Entrance,
    /// Receives only mail from a filter or from Copyist.
    Return,
    /// Receives only Copyist's reports, with or without a hook.
    OfReports,
}

struct RouteCheck<'a> {
    postfix: &'a Postfix,
    settings: &'a Settings,
}

impl RouteCheck<'_> {
    fn role(&self, listener: &Service) -> Role {
        if !self.postfix.is_local(listener) && !is_closed(listener) {
            return Role::Entrance;
        }
        let is_at = |host: &str, port| self.postfix.is_at(listener, host, port);
        let mut doors = self.settings.hook.smtp.iter();
        if doors.any(|door| is_at(&door.next_hop.host, door.next_hop.port)) {
            return Role::Return;
        }
        let relay = &self.settings.deliver.relay;
        if is_at(&relay.host, relay.port) {
            return Role::OfReports;
        }
        // The port to which another filter returns mail is unknown.
        let uses_content_filter = |one: &Service| {
            let routes = by_smtp(self.postfix, one, self.settings);
            one.key() != listener.key() && matches!(routes.other, Some(("content_filter", _)))
        };
        match self.postfix.listeners().any(uses_content_filter) {
            true => Role::Return,
            false => Role::Entrance,
        }
    }

    /// Incoming mail must pass Copyist once.
    fn check_entrance(&self, listener: &Service, routes: &Routes) -> Option<Finding> {
        let place = self.postfix.master(listener);
        if routes.milter && routes.filter.is_some() {
            return Some(self.twice(place, self.by_filter_only(listener, "smtpd_milters")));
        }
        if routes.reach_copyist() {
            return None;
        }
        let why = "mail that arrives here passes without a copy";
        if let Some((parameter, filter)) = &routes.other
            && (routes.listed || !self.settings.hook.smtp.is_empty())
        {
            return Some(self.other_filter(listener, routes, parameter, filter));
        }
        if routes.listed {
            return Some(self.no_milters(listener));
        }
        let own = self.postfix.is_own(listener, "smtpd_milters");
        if let Some(door) = self.listener_in_use() {
            return Some(Finding {
                name: "listener-unhooked",
                severity: Severity::Error,
                place,
                seen: "uses no SMTP listener of Copyist".into(),
                why: why.into(),
                fix: self.use_listener(listener, door),
            });
        }
        Some(match own {
            true => Finding {
                name: "listener-unhooked",
                severity: Severity::Error,
                place: format!("{place} smtpd_milters"),
                seen: shown(listener.values.get("smtpd_milters")),
                why: why.into(),
                fix: self.postfix.unset(
                    listener,
                    "smtpd_milters",
                    &self.with_copyist(listener, "smtpd_milters"),
                ),
            },
            false => self.missing(listener, "smtpd_milters", "smtpd-milters-missing", why),
        })
    }

    /// Returned mail must not pass Copyist again.
    fn check_return_path(&self, listener: &Service, routes: &Routes) -> Option<Finding> {
        let place = self.postfix.master(listener);
        if let Some(parameter) = [
            ("smtpd_proxy_filter", routes.proxy),
            ("content_filter", routes.filter),
        ]
        .into_iter()
        .find_map(|(parameter, door)| door.map(|_| parameter))
        {
            return Some(Finding {
                name: "filter-loop",
                severity: Severity::Warning,
                place: format!("{place} {parameter}"),
                seen: shown(listener.values.get(parameter)),
                why: "mail returned by Copyist is sent to Copyist again: a loop".into(),
                fix: self.postfix.set_service(listener, parameter, ""),
            });
        }
        routes.milter.then(|| {
            let fix = self.postfix.set_service(listener, "smtpd_milters", "");
            self.twice(place, fix)
        })
    }

    /// Mail of local programs must pass Copyist, too.
    fn check_source(&self, source: &Service) -> Option<Finding> {
        let routes = by_itself(self.postfix, source, self.settings);
        let cleanup = self.postfix.cleanup_of(source);
        if routes.milter && routes.filter.is_some() {
            let of = cleanup.unwrap_or(source);
            let fix = self.by_filter_only(of, "non_smtpd_milters");
            return Some(self.twice(self.postfix.master(source), fix));
        }
        if routes.reach_copyist() {
            return None;
        }
        if routes.listed {
            return Some(self.no_milters(source));
        }
        let why = match source.program.as_str() {
            "pickup" => "mail that local programs send by sendmail(1) passes without a copy",
            _ => "mail that arrives here passes without a copy",
        };
        let Some(cleanup) = cleanup else {
            // Postfix does not work without it.
            return None;
        };
        Some(match self.postfix.is_own(cleanup, "non_smtpd_milters") {
            true => Finding {
                name: "cleanup-unhooked",
                severity: Severity::Error,
                place: format!("{} non_smtpd_milters", self.postfix.master(cleanup)),
                seen: shown(cleanup.values.get("non_smtpd_milters")),
                why: why.into(),
                fix: self.postfix.unset(
                    cleanup,
                    "non_smtpd_milters",
                    &self.with_copyist(cleanup, "non_smtpd_milters"),
                ),
            },
            false => self.missing(
                cleanup,
                "non_smtpd_milters",
                "non-smtpd-milters-missing",
                why,
            ),
        })
    }

    /// main.cf lacks Copyist, or contains it with another address.
    fn missing(&self, of: &Service, parameter: &str, name: &'static str, why: &str) -> Finding {
        let listed = milters::parse(of.values.get(parameter));
        let stray = listed.iter().find(|one| !one.is_known_other());
        let hook = self.hook();
        let (name, why) = match stray {
            Some(_) => (
                "milter-elsewhere",
                format!("hook.milter.listen is {hook}: {why}"),
            ),
            None => (name, why.to_owned()),
        };
        let replaced = match stray {
            Some(stray) => of.values.get(parameter).replace(&stray.text, &hook),
            None => self.with_copyist(of, parameter),
        };
        Finding {
            name,
            severity: Severity::Error,
            place: self.postfix.main(parameter),
            seen: shown(of.values.get(parameter)),
            why,
            fix: match self.settings.hook.milter.is_empty() {
                true => {
                    "add a milter listener (hook.milter.listen) and set it in this parameter".into()
                }
                false => self.postfix.set_main(parameter, &replaced),
            },
        }
    }

    fn no_milters(&self, service: &Service) -> Finding {
        let parameter = "receive_override_options";
        let others: Vec<&str> = (service.values.list(parameter))
            .filter(|option| !option.eq_ignore_ascii_case("no_milters"))
            .collect();
        Finding {
            name: "no-milters",
            severity: Severity::Error,
            place: self.postfix.place(service, parameter),
            seen: shown(service.values.get(parameter)),
            why: "mail that arrives here bypasses all milters and passes without a copy".into(),
            fix: self.postfix.set(service, parameter, &others.join(",")),
        }
    }

    fn other_filter(
        &self,
        listener: &Service,
        routes: &Routes,
        parameter: &str,
        filter: &str,
    ) -> Finding {
        let (name, why) = match parameter == "smtpd_proxy_filter" && routes.listed {
            true => (
                "proxy-hides-message",
                "with a before-queue filter milters see only the SMTP commands: Copyist sees no message, and no copy is made",
            ),
            false => (
                "filter-elsewhere",
                "mail goes to another filter than Copyist and passes without a copy",
            ),
        };
        let fix = match self.settings.hook.smtp.as_slice() {
            [] => format!(
                "put a [[hook.smtp]] behind that filter, or {}",
                self.postfix.set(listener, parameter, "")
            ),
            [door, ..] => self.use_listener(listener, door),
        };
        Finding {
            name,
            severity: Severity::Error,
            place: self.postfix.place(listener, parameter),
            seen: shown(filter),
            why: why.into(),
            fix,
        }
    }

    fn milter_maps(&self, listener: &Service) -> Finding {
        let parameter = "smtpd_milter_maps";
        Finding {
            name: "milter-maps",
            severity: Severity::Warning,
            place: self.postfix.place(listener, parameter),
            seen: shown(listener.values.get(parameter)),
            why: "mail of the clients in this table uses other milters, or none".into(),
            fix: self.postfix.set(listener, parameter, ""),
        }
    }

    fn twice(&self, place: String, fix: String) -> Finding {
        Finding {
            name: "hooked-twice",
            severity: Severity::Warning,
            place,
            seen: "mail reaches Copyist by its milter and by a filter".into(),
            why: "each message is journaled twice, the second time as if sent by this machine"
                .into(),
            fix,
        }
    }

    /// Returns the command that removes the milter where a filter is used.
    fn by_filter_only(&self, service: &Service, parameter: &str) -> String {
        self.postfix.set(service, parameter, "")
    }

    /// Returns an SMTP listener of Copyist that this Postfix passes mail to or gets mail from.
    fn listener_in_use(&self) -> Option<&SmtpListener> {
        let used = |one: &Service| {
            let routes = by_smtp(self.postfix, one, self.settings);
            let mut doors = self.settings.hook.smtp.iter();
            let back = |door: &&SmtpListener| {
                let next_hop = &door.next_hop;
                self.postfix.is_at(one, &next_hop.host, next_hop.port)
            };
            routes.proxy.or(routes.filter).or_else(|| doors.find(back))
        };
        self.postfix.listeners().find_map(used)
    }

    fn use_listener(&self, listener: &Service, door: &SmtpListener) -> String {
        match door.mode {
            Mode::BeforeQueue => {
                let address = door.listen.to_string();
                self.postfix
                    .set_service(listener, "smtpd_proxy_filter", &address)
            }
            Mode::AfterQueue => {
                let (ip, port) = (door.listen.ip(), door.listen.port());
                let filter = format!("copyist:[{ip}]:{port}");
                self.postfix
                    .set_service(listener, "content_filter", &filter)
            }
        }
    }

    /// Returns the list with Copyist added: after filters that reject, before those that only sign.
    fn with_copyist(&self, of: &Service, parameter: &str) -> String {
        let others = milters::parse(of.values.get(parameter));
        let at = others.iter().position(Milter::only_signs);
        let mut all: Vec<String> = others.iter().map(|one| one.written.clone()).collect();
        all.insert(at.unwrap_or(all.len()), self.hook());
        all.join(", ")
    }

    /// Returns Copyist's milter in Postfix's notation.
    fn hook(&self) -> String {
        let queue = plain(Path::new(self.postfix.values.get("queue_directory")));
        let below = |listen: &ListenAddress| match listen {
            ListenAddress::Unix(path) => plain(path).strip_prefix(&queue).ok().map(Path::to_owned),
            ListenAddress::Inet(_) => None,
        };
        let first = self.settings.hook.milter.first();
        // A relative path works for every service, chrooted or not.
        if let Some(path) = first.and_then(below) {
            return format!("unix:{}", path.display());
        }
        match first {
            // Postfix has no inet6: scheme.
            Some(listen) => listen.to_string().replace("inet6:", "inet:"),
            None => "(none)".into(),
        }
    }
}

/// Whether a listener reachable from other machines admits only this one, with the usual restrictions
/// of an after-filter listener.
fn is_closed(listener: &Service) -> bool {
    let only_networks = |parameter: &str| {
        let all: Vec<&str> = listener.values.list(parameter).collect();
        all == ["permit_mynetworks", "reject"]
    };
    let address = |network: &str| network.split('/').next().unwrap_or_default().to_owned();
    let here = |network: &str| {
        let address = address(network);
        is_loopback(super::postfix::strip_brackets(&address)) || address == "127.0.0.0"
    };
    only_networks("smtpd_client_restrictions") && listener.values.list("mynetworks").all(here)
}

/// Formats a value for a finding.
pub(super) fn shown(value: &str) -> String {
    match value {
        "" => "is empty".into(),
        value => format!("is \"{value}\""),
    }
}

/// Returns the milter in a list that is Copyist, with its position.
pub(super) fn find_copyist<'a>(
    postfix: &Postfix,
    by: &Service,
    list: &'a [Milter],
    settings: &Settings,
) -> Option<(usize, &'a Milter)> {
    let ours = |(_, one): &(usize, &Milter)| one.is_copyist(postfix, by, &settings.hook.milter);
    list.iter().enumerate().find(ours)
}
