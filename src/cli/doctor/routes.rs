//! Ways that mail takes through Postfix, and whether each leads by Copyist.
//!
//! Mail comes in by smtpd(8), asked about by `smtpd_milters`, handed on by `smtpd_proxy_filter` or
//! sent round by `content_filter`; and by pickup(8) and qmqpd(8), asked about in cleanup(8) by
//! `non_smtpd_milters`, or sent round.

use std::path::Path;

use super::finding::{Finding, Severity};
use super::line;
use super::milters::{self, Milter};
use super::postfix::{Postfix, Service, is_loopback, plain};
use crate::config::Settings;
use crate::hook::{Listen, Mode, SmtpDoor};

/// How mail of one service comes to Copyist.
pub(super) struct Ways<'a> {
    /// Copyist is among the milters.
    pub(super) listed: bool,
    /// … and is asked for whole messages.
    pub(super) milter: bool,
    /// The SMTP listener of ours that it is handed on to, before the queue.
    pub(super) proxy: Option<&'a SmtpDoor>,
    /// … or sent round by, behind it.
    pub(super) filter: Option<&'a SmtpDoor>,
    /// What stands there instead of one of ours, a parameter and its value.
    pub(super) other: Option<(&'static str, String)>,
}

impl Ways<'_> {
    pub(super) fn lead_here(&self) -> bool {
        self.milter || self.proxy.is_some() || self.filter.is_some()
    }
}

/// The ways from a service that takes SMTP.
pub(super) fn by_smtp<'a>(
    postfix: &Postfix,
    listener: &Service,
    settings: &'a Settings,
) -> Ways<'a> {
    let listed = lists_copyist(postfix, listener, "smtpd_milters", settings);
    let milter = listed
        && !listener
            .values
            .lists("receive_override_options", "no_milters");
    let proxy = listener.values.get("smtpd_proxy_filter");
    if proxy.is_empty() {
        return sent_round(listener, listed, milter, settings);
    }
    let door = milters::door(proxy, &settings.hook.smtp);
    Ways {
        listed,
        // Milters hear the commands only (MILTER_README, "Limitations"), and nothing is queued
        // here.
        milter: false,
        proxy: door,
        filter: None,
        other: door
            .is_none()
            .then(|| ("smtpd_proxy_filter", proxy.to_owned())),
    }
}

/// The ways from a service that takes mail otherwise.
pub(super) fn by_itself<'a>(
    postfix: &Postfix,
    source: &Service,
    settings: &'a Settings,
) -> Ways<'a> {
    let cleanup = postfix.cleanup_of(source);
    let listed = cleanup
        .is_some_and(|cleanup| lists_copyist(postfix, cleanup, "non_smtpd_milters", settings));
    let milter = listed
        && !source
            .values
            .lists("receive_override_options", "no_milters");
    sent_round(source, listed, milter, settings)
}

fn sent_round<'a>(
    service: &Service,
    listed: bool,
    milter: bool,
    settings: &'a Settings,
) -> Ways<'a> {
    let filter = service.values.get("content_filter");
    let next_hop = filter.split_once(':').map_or("", |(_, next_hop)| next_hop);
    let door = milters::door(next_hop, &settings.hook.smtp);
    Ways {
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

/// Services that take mail otherwise than by SMTP. pickup(8) has nobody who could hand it any where
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

/// The milter listens where it does only because nothing else is set.
pub(super) fn port_by_default(settings: &Settings) -> Option<Finding> {
    let listen = settings.milter_by_default()?.to_string();
    Some(Finding {
        name: "milter-port-default",
        severity: Severity::Warning,
        place: "hook.milter.listen".into(),
        seen: format!("it is not set, so the milter listens on {listen}"),
        why: "OpenDKIM listens there as well by default, and a later version of Copyist will listen elsewhere".into(),
        fix: line::list("hook.milter.listen", &[listen]),
    })
}

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let house = House { postfix, settings };
    let mut found = Vec::new();
    for listener in postfix.listeners() {
        let ways = by_smtp(postfix, listener, settings);
        found.extend(match house.role(listener) {
            Role::Entrance => house.entrance(listener, &ways),
            Role::Return => house.back(listener, &ways),
            Role::OfReports => None,
        });
        if ways.milter && !listener.values.get("smtpd_milter_maps").is_empty() {
            found.push(house.milter_maps(listener));
        }
    }
    found.extend(sources(postfix).filter_map(|source| house.source(source)));
    found
}

/// What a listener is for.
enum Role {
    /// Mail comes in that Copyist has not seen.
    Entrance,
    /// Only what a filter, or Copyist itself, hands back.
    Return,
    /// Only what Copyist delivers: its reports may be asked about, and need not.
    OfReports,
}

struct House<'a> {
    postfix: &'a Postfix,
    settings: &'a Settings,
}

impl House<'_> {
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
        // Which port another filter comes back to only that filter knows.
        let sends_round = |one: &Service| {
            let ways = by_smtp(self.postfix, one, self.settings);
            one.key() != listener.key() && matches!(ways.other, Some(("content_filter", _)))
        };
        match self.postfix.listeners().any(sends_round) {
            true => Role::Return,
            false => Role::Entrance,
        }
    }

    /// Mail that comes in must come by, once.
    fn entrance(&self, listener: &Service, ways: &Ways) -> Option<Finding> {
        let place = self.postfix.master(listener);
        if ways.milter && ways.filter.is_some() {
            return Some(self.twice(place, self.by_filter_only(listener, "smtpd_milters")));
        }
        if ways.lead_here() {
            return None;
        }
        let why = "mail that comes in here passes without its copy";
        if let Some((parameter, filter)) = &ways.other
            && (ways.listed || !self.settings.hook.smtp.is_empty())
        {
            return Some(self.other_filter(listener, ways, parameter, filter));
        }
        if ways.listed {
            return Some(self.no_milters(listener));
        }
        let own = self.postfix.is_own(listener, "smtpd_milters");
        if let Some(door) = self.door_in_use() {
            return Some(Finding {
                name: "listener-unhooked",
                severity: Severity::Error,
                place,
                seen: "leads to no SMTP listener of Copyist".into(),
                why: why.into(),
                fix: self.use_door(listener, door),
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

    /// What comes back must not come by once more.
    fn back(&self, listener: &Service, ways: &Ways) -> Option<Finding> {
        let place = self.postfix.master(listener);
        if let Some(parameter) = [
            ("smtpd_proxy_filter", ways.proxy),
            ("content_filter", ways.filter),
        ]
        .into_iter()
        .find_map(|(parameter, door)| door.map(|_| parameter))
        {
            return Some(Finding {
                name: "filter-loop",
                severity: Severity::Warning,
                place: format!("{place} {parameter}"),
                seen: shown(listener.values.get(parameter)),
                why: "what Copyist hands back here is sent to Copyist again, round and round"
                    .into(),
                fix: self.postfix.set_service(listener, parameter, ""),
            });
        }
        ways.milter.then(|| {
            let fix = self.postfix.set_service(listener, "smtpd_milters", "");
            self.twice(place, fix)
        })
    }

    /// Mail of this machine's own programs must come by, too.
    fn source(&self, source: &Service) -> Option<Finding> {
        let ways = by_itself(self.postfix, source, self.settings);
        let cleanup = self.postfix.cleanup_of(source);
        if ways.milter && ways.filter.is_some() {
            let of = cleanup.unwrap_or(source);
            let fix = self.by_filter_only(of, "non_smtpd_milters");
            return Some(self.twice(self.postfix.master(source), fix));
        }
        if ways.lead_here() {
            return None;
        }
        if ways.listed {
            return Some(self.no_milters(source));
        }
        let why = match source.program.as_str() {
            "pickup" => {
                "mail that programs of this machine send by sendmail(1) passes without its copy"
            }
            _ => "mail that comes in here passes without its copy",
        };
        let Some(cleanup) = cleanup else {
            // Postfix itself cannot go on without it.
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

    /// main.cf lacks Copyist, or has it under an address where it is not.
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
                true => "have Copyist listen as a milter as well (hook.milter.listen), and name it there".into(),
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
            why: "mail that comes in here is shown to no milter, and passes without its copy"
                .into(),
            fix: self.postfix.set(service, parameter, &others.join(",")),
        }
    }

    fn other_filter(
        &self,
        listener: &Service,
        ways: &Ways,
        parameter: &str,
        filter: &str,
    ) -> Finding {
        let (name, why) = match parameter == "smtpd_proxy_filter" && ways.listed {
            true => (
                "proxy-hides-message",
                "behind a before-queue filter milters hear the SMTP commands only: Copyist sees no message, and no copy is made",
            ),
            false => (
                "filter-elsewhere",
                "mail goes to another filter than Copyist, and passes without its copy",
            ),
        };
        let fix = match self.settings.hook.smtp.as_slice() {
            [] => format!(
                "put a [[hook.smtp]] behind that filter, or {}",
                self.postfix.set(listener, parameter, "")
            ),
            [door, ..] => self.use_door(listener, door),
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
            why: "mail of the clients in this table goes by the milters it names, or by none"
                .into(),
            fix: self.postfix.set(listener, parameter, ""),
        }
    }

    fn twice(&self, place: String, fix: String) -> Finding {
        Finding {
            name: "hooked-twice",
            severity: Severity::Warning,
            place,
            seen: "mail comes to Copyist by its milter and by a filter".into(),
            why: "each message is journaled twice, the second time as if this machine had sent it"
                .into(),
            fix,
        }
    }

    /// The milter goes where a filter does its work.
    fn by_filter_only(&self, service: &Service, parameter: &str) -> String {
        self.postfix.set(service, parameter, "")
    }

    /// A listener of ours that some listener of this Postfix hands mail to, or that hands it back
    /// to one.
    fn door_in_use(&self) -> Option<&SmtpDoor> {
        let used = |one: &Service| {
            let ways = by_smtp(self.postfix, one, self.settings);
            let mut doors = self.settings.hook.smtp.iter();
            let back = |door: &&SmtpDoor| {
                let next_hop = &door.next_hop;
                self.postfix.is_at(one, &next_hop.host, next_hop.port)
            };
            ways.proxy.or(ways.filter).or_else(|| doors.find(back))
        };
        self.postfix.listeners().find_map(used)
    }

    fn use_door(&self, listener: &Service, door: &SmtpDoor) -> String {
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

    /// The list with Copyist in it: behind filters that refuse, and before those that only sign
    /// what is sent at last.
    fn with_copyist(&self, of: &Service, parameter: &str) -> String {
        let others = milters::parse(of.values.get(parameter));
        let at = others.iter().position(Milter::only_signs);
        let mut all: Vec<String> = others.iter().map(|one| one.written.clone()).collect();
        all.insert(at.unwrap_or(all.len()), self.hook());
        all.join(", ")
    }

    /// Copyist's milter as Postfix writes it.
    fn hook(&self) -> String {
        let queue = plain(Path::new(self.postfix.values.get("queue_directory")));
        let below = |listen: &Listen| match listen {
            Listen::Unix(path) => plain(path).strip_prefix(&queue).ok().map(Path::to_owned),
            Listen::Inet(_) => None,
        };
        let first = self.settings.hook.milter.first();
        // So every service finds it, chrooted or not: they work in the queue directory.
        if let Some(path) = first.and_then(below) {
            return format!("unix:{}", path.display());
        }
        match first {
            // Postfix knows no inet6.
            Some(listen) => listen.to_string().replace("inet6:", "inet:"),
            None => "(none)".into(),
        }
    }
}

/// Whether a listener that other machines reach lets in only this one: the restrictions that every
/// after-filter listener has.
fn is_closed(listener: &Service) -> bool {
    let only_networks = |parameter: &str| {
        let all: Vec<&str> = listener.values.list(parameter).collect();
        all == ["permit_mynetworks", "reject"]
    };
    let address = |network: &str| network.split('/').next().unwrap_or_default().to_owned();
    let here = |network: &str| {
        let address = address(network);
        is_loopback(super::postfix::unbracketed(&address)) || address == "127.0.0.0"
    };
    only_networks("smtpd_client_restrictions") && listener.values.list("mynetworks").all(here)
}

/// A value, as findings show it.
pub(super) fn shown(value: &str) -> String {
    match value {
        "" => "is empty".into(),
        value => format!("is \"{value}\""),
    }
}

/// The milters of a service that are Copyist.
pub(super) fn copyists<'a>(
    postfix: &Postfix,
    by: &Service,
    list: &'a [Milter],
    settings: &Settings,
) -> Option<(usize, &'a Milter)> {
    let ours = |(_, one): &(usize, &Milter)| one.is_copyist(postfix, by, &settings.hook.milter);
    list.iter().enumerate().find(ours)
}
