//! Copies that Postfix makes itself, sizes of messages on the way in and of reports on the way out,
//! and what else concerns the copies.

use super::finding::{Finding, Severity};
use super::postfix::{Postfix, Service};
use super::routes::{self, shown};
use crate::config::Settings;
use crate::mail::{Address, format_size};
use crate::policy::Direction;

/// What a report is larger than its original by, beside the original's own bytes: header, and a
/// line for each of some hundred recipients.
const REPORT: u64 = 64 * 1024;

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(always_bcc(postfix, settings));
    found.extend(bcc_maps(postfix));
    found.extend(message_size(postfix, settings));
    found.extend(report_size(postfix, settings));
    found.extend(mailbox_size(postfix, configured(settings)));
    found.extend(connections(postfix, settings));
    found.extend(internal_mail(postfix, settings));
    found.extend(soft_bounce(postfix, settings));
    found.extend(unused(postfix));
    found
}

/// That no mail at all is journaled.
pub(super) fn journals_nothing(settings: &Settings) -> Option<Finding> {
    let severity = match settings.text.has_texts() {
        true => Severity::Warning,
        false => Severity::Error,
    };
    settings.rules.journal_nothing().then(|| Finding {
        name: "nothing-journaled",
        severity,
        place: "[inbound], [outbound], [internal]".into(),
        seen: "have neither journal_attribute nor journal".into(),
        why: "nothing is journaled in any direction".into(),
        fix: "set journal_attribute or journal in the table of a direction".into(),
    })
}

/// The addresses that the settings themselves journal to.
pub(super) fn configured(settings: &Settings) -> impl Iterator<Item = &Address> {
    let directions = Direction::ALL.into_iter();
    directions.flat_map(|direction| {
        let targets = settings.rules.of(direction).journal.iter();
        targets.filter_map(|target| target.smtp())
    })
}

fn always_bcc(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let main = postfix.values.get("always_bcc");
    let mut places = Vec::new();
    if !main.is_empty() {
        places.push((
            postfix.main("always_bcc"),
            main,
            postfix.set_main("always_bcc", ""),
        ));
    }
    for service in &postfix.services {
        let own = service.values.get("always_bcc");
        if !own.is_empty() && own != main {
            let place = postfix.place(service, "always_bcc");
            places.push((place, own, postfix.set(service, "always_bcc", "")));
        }
    }
    let why = |value: &str| {
        let same = configured(settings).any(|known| known.to_string().eq_ignore_ascii_case(value));
        match same {
            true => "Copyist journals to this address as well: each message comes twice",
            false => {
                "a copy that Postfix adds has no envelope, is not kept while it cannot be delivered, and its bounce goes to the outside sender"
            }
        }
    };
    let finding = |(place, value, fix): (String, &str, String)| Finding {
        name: "always-bcc",
        severity: Severity::Warning,
        place,
        seen: shown(value),
        why: why(value).into(),
        fix,
    };
    places.into_iter().map(finding).collect()
}

fn bcc_maps(postfix: &Postfix) -> Vec<Finding> {
    let parameters = ["sender_bcc_maps", "recipient_bcc_maps"].into_iter();
    let set = parameters.filter(|parameter| !postfix.values.get(parameter).is_empty());
    set.map(|parameter| Finding {
        name: "bcc-maps",
        severity: Severity::Hint,
        place: postfix.main(parameter),
        seen: shown(postfix.values.get(parameter)),
        why: "who is journaled by Copyist and stands in this table is copied twice".into(),
        fix: postfix.set_main(parameter, ""),
    })
    .collect()
}

fn message_size(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
    let ours = settings.hook.limits.connection.message_size as u64;
    let limit = postfix.values.limit("message_size_limit");
    (limit.is_none_or(|limit| limit > ours)).then(|| Finding {
        name: "message-size-limit",
        severity: Severity::Warning,
        place: postfix.main("message_size_limit"),
        seen: format!(
            "{}, and limits.message_size is {ours}",
            shown(postfix.values.get("message_size_limit"))
        ),
        why: "a message between the two is taken in whole and then refused by Copyist (552)".into(),
        fix: postfix.set_main("message_size_limit", &ours.to_string()),
    })
}

/// How much a listener takes: no more than the cleanup(8) behind it, which has the limit as well.
/// `None`: anything.
fn taken_by(postfix: &Postfix, listener: &Service) -> Option<u64> {
    let own = listener.values.limit("message_size_limit");
    let cleanup = postfix.cleanup_of(listener);
    let behind = cleanup.and_then(|cleanup| cleanup.values.limit("message_size_limit"));
    match (own, behind) {
        (Some(own), Some(behind)) => Some(own.min(behind)),
        (own, behind) => own.or(behind),
    }
}

/// The largest message that comes in for Copyist; `None`: any.
pub(super) fn largest(postfix: &Postfix, settings: &Settings) -> Option<u64> {
    let hooked = |listener: &&Service| {
        let ways = routes::by_smtp(postfix, listener, settings);
        (ways.milter || ways.proxy.is_some() || ways.filter.is_some())
            && !(is_relay(postfix, listener, settings) && postfix.is_local(listener))
    };
    let mut taken = postfix
        .listeners()
        .filter(hooked)
        .map(|one| taken_by(postfix, one));
    taken.try_fold(0, |most, one| Some(most.max(one?)))
}

fn is_relay(postfix: &Postfix, listener: &Service, settings: &Settings) -> bool {
    let relay = &settings.deliver.relay;
    postfix.is_at(listener, &relay.host, relay.port)
}

/// Whether a relay with this limit refuses the report of the largest message.
pub(super) fn is_too_small(limit: u64, largest: Option<u64>) -> bool {
    largest.is_none_or(|largest| limit < largest + REPORT)
}

/// A relay that is this Postfix itself.
fn report_size(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
    let relay = postfix
        .listeners()
        .find(|one| is_relay(postfix, one, settings))?;
    let limit = taken_by(postfix, relay)?;
    let largest = largest(postfix, settings);
    let mut fix = Vec::new();
    let port = "127.0.0.1:10027";
    let is_replaced = |one: &Service| one.key() == "10027/inet";
    if !postfix.is_local(relay) {
        if is_replaced(relay) {
            fix.push(postfix.remove_service(relay));
        }
        fix.push(postfix.add_service(&format!("{port}/inet={port} inet n - n - - smtpd")));
    }
    // What comes in gets a limit below the one that holds for all.
    fix.push(postfix.set_main("message_size_limit", &(limit + REPORT).to_string()));
    let entrances = postfix
        .listeners()
        .filter(|one| !(is_relay(postfix, one, settings) && postfix.is_local(one)))
        .filter(|one| !is_replaced(one));
    fix.extend(
        entrances.map(|one| postfix.set_service(one, "message_size_limit", &limit.to_string())),
    );
    let fix = match postfix.is_local(relay) {
        true => fix.join(" && "),
        false => format!(
            "host = \"127.0.0.1:10027\" in [relay], and: {}",
            fix.join(" && ")
        ),
    };
    is_too_small(limit, largest).then(|| Finding {
        name: "report-size-limit",
        severity: Severity::Warning,
        place: format!("{} message_size_limit", postfix.master(relay)),
        seen: format!("takes {}, no more than what comes in", format_size(limit)),
        why: "the report of a message near the limit is larger than that: refused, and kept as a dead letter".into(),
        fix,
    })
}

/// A journal mailbox that local(8) keeps as one file (postconf(5), mailbox_size_limit).
pub(super) fn mailbox_size<'a>(
    postfix: &Postfix,
    mut journal: impl Iterator<Item = &'a Address>,
) -> Option<Finding> {
    let values = &postfix.values;
    let limit = values.limit("mailbox_size_limit")?;
    let elsewhere = [
        "mailbox_command",
        "mailbox_transport",
        "mailbox_command_maps",
        "mailbox_transport_maps",
    ];
    let is_file = elsewhere
        .iter()
        .all(|parameter| values.get(parameter).is_empty())
        && !values.get("home_mailbox").ends_with('/')
        && !values.get("mail_spool_directory").ends_with('/');
    let local = journal.find(|address| values.lists("mydestination", address.domain()))?;
    is_file.then(|| Finding {
        name: "journal-mailbox-limit",
        severity: Severity::Warning,
        place: postfix.main("mailbox_size_limit"),
        seen: shown(&limit.to_string()),
        why: format!(
            "the mailbox of {local} is one file that may not grow beyond it: reports bounce then"
        ),
        fix: postfix.set_main("mailbox_size_limit", "0"),
    })
}

/// Each process of smtpd(8) holds a connection to the milter.
fn connections(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
    let ours = settings.hook.limits.connections as u64;
    let asking = postfix
        .listeners()
        .filter(|one| routes::by_smtp(postfix, one, settings).milter);
    let mut names = Vec::new();
    let mut all = Some(0_u64);
    for listener in asking {
        names.push(listener.key());
        all = all.and_then(|sum| sum.checked_add(listener.processes?));
    }
    let number = all.map_or("any number of".to_owned(), |all| all.to_string());
    (all.is_none_or(|all| all > ours)).then(|| Finding {
        name: "milter-connections",
        severity: Severity::Warning,
        place: format!(
            "{} {}",
            postfix.dir.join("master.cf").display(),
            names.join(", ")
        ),
        seen: format!("{number} processes, and limits.connections is {ours}"),
        why: "connections beyond the limit are closed, and their mail is deferred".into(),
        fix: match all {
            Some(all) => format!("connections = {all} in [limits]"),
            None => postfix.set_processes(&names, 100),
        },
    })
}

/// Mail that Postfix itself writes comes by no hook, but by `internal_mail_filter_classes`
/// (postconf(5)).
fn internal_mail(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
    let parameter = "internal_mail_filter_classes";
    let values = &postfix.values;
    if values.lists(parameter, "notify") {
        return Some(Finding {
            name: "notices-hooked",
            severity: Severity::Hint,
            place: postfix.main(parameter),
            seen: shown(values.get(parameter)),
            why:
                "Postfix's notices to its postmaster that Copyist does not answer wait for Copyist"
                    .into(),
            fix: postfix.set_main(parameter, "bounce"),
        });
    }
    let everything = !settings.rules.of(Direction::Outbound).journal.is_empty();
    let by_milter =
        routes::sources(postfix).any(|one| routes::by_itself(postfix, one, settings).milter);
    (everything && by_milter && !values.lists(parameter, "bounce")).then(|| Finding {
        name: "bounces-unhooked",
        severity: Severity::Hint,
        place: postfix.main(parameter),
        seen: shown(values.get(parameter)),
        why: "all outbound mail is journaled, but for the bounces that Postfix itself sends".into(),
        fix: postfix.set_main(parameter, "bounce"),
    })
}

/// postconf(5): soft_bounce turns 5xx into 4xx, of smtpd(8) as well.
fn soft_bounce(postfix: &Postfix, _: &Settings) -> Option<Finding> {
    postfix.values.is_yes("soft_bounce").then(|| Finding {
        name: "soft-bounce",
        severity: Severity::Hint,
        place: postfix.main("soft_bounce"),
        seen: shown("yes"),
        why: "what the journal guard refuses, and what Postfix as a relay refuses, is tried again and again, and nobody gets an NDR".into(),
        fix: postfix.set_main("soft_bounce", "no"),
    })
}

/// Parameters that are written otherwise than they are called do nothing.
fn unused(postfix: &Postfix) -> Vec<Finding> {
    let concerns = |warning: &&String| {
        let parameter = warning
            .rsplit_once("unused parameter: ")
            .map_or("", |(_, parameter)| parameter);
        let name = parameter.split('=').next().unwrap_or_default();
        ["milter", "filter", "bcc"]
            .iter()
            .any(|word| name.contains(word))
    };
    let all = postfix.unused.iter().filter(concerns);
    all.map(|warning| {
        let (file, parameter) = warning
            .split_once(": unused parameter: ")
            .unwrap_or_default();
        Finding {
            name: "unused-parameter",
            severity: Severity::Warning,
            place: file.to_owned(),
            seen: format!("has {parameter}"),
            why: "Postfix knows no parameter of this name, and nothing uses it".into(),
            fix: "write it as postconf(5) does, or take it out".into(),
        }
    })
    .collect()
}
