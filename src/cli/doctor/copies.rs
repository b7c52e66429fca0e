//! Copies made by Postfix itself, size limits for messages and reports, and other findings about copies.

use super::finding::{Finding, Severity};
use super::postfix::{Postfix, Service};
use super::routes::{self, shown};
use crate::config::Settings;
use crate::mail::{Address, format_size};
use crate::policy::Direction;

/// The overhead of a report over its original: header, and a line for each of some hundred
/// recipients.
const REPORT: u64 = 64 * 1024;

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(check_always_bcc(postfix, settings));
    found.extend(check_bcc_maps(postfix));
    found.extend(check_message_size(postfix, settings));
    found.extend(check_report_size(postfix, settings));
    found.extend(check_mailbox_size(postfix, configured_journals(settings)));
    found.extend(check_connections(postfix, settings));
    found.extend(check_internal_mail(postfix, settings));
    found.extend(check_soft_bounce(postfix, settings));
    found.extend(check_unused(postfix));
    found
}

/// Finds settings that journal no mail at all.
pub(super) fn check_journals_nothing(settings: &Settings) -> Option<Finding> {
    let severity = match settings.text.has_texts() {
        true => Severity::Warning,
        false => Severity::Error,
    };
    settings.rules.journal_nothing().then(|| Finding {
        name: "nothing-journaled",
        severity,
        place: "[inbound], [outbound], [internal]".into(),
        seen: "contain neither journal_attribute nor journal".into(),
        why: "nothing is journaled in any direction".into(),
        fix: "set journal_attribute or journal in the table of a direction".into(),
    })
}

/// Returns the journal addresses in the settings.
pub(super) fn configured_journals(settings: &Settings) -> impl Iterator<Item = &Address> {
    let directions = Direction::ALL.into_iter();
    directions.flat_map(|direction| {
        let targets = settings.rules.of(direction).journal.iter();
        targets.filter_map(|target| target.smtp())
    })
}

fn check_always_bcc(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
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
        let same = configured_journals(settings)
            .any(|known| known.to_string().eq_ignore_ascii_case(value));
        match same {
            true => "Copyist journals to this address, too: each message arrives twice",
            false => {
                "Postfix's copy has no envelope, is lost if it cannot be delivered, and its bounce goes to the external sender"
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

fn check_bcc_maps(postfix: &Postfix) -> Vec<Finding> {
    let parameters = ["sender_bcc_maps", "recipient_bcc_maps"].into_iter();
    let set = parameters.filter(|parameter| !postfix.values.get(parameter).is_empty());
    set.map(|parameter| Finding {
        name: "bcc-maps",
        severity: Severity::Hint,
        place: postfix.main(parameter),
        seen: shown(postfix.values.get(parameter)),
        why: "people in this table whom Copyist journals are copied twice".into(),
        fix: postfix.set_main(parameter, ""),
    })
    .collect()
}

fn check_message_size(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
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
        why: "a message between the two limits is received completely, then rejected by Copyist (552)".into(),
        fix: postfix.set_main("message_size_limit", &ours.to_string()),
    })
}

/// Returns the size limit of a listener and the cleanup(8) behind it; `None` for no limit.
fn size_limit(postfix: &Postfix, listener: &Service) -> Option<u64> {
    let own = listener.values.limit("message_size_limit");
    let cleanup = postfix.cleanup_of(listener);
    let behind = cleanup.and_then(|cleanup| cleanup.values.limit("message_size_limit"));
    match (own, behind) {
        (Some(own), Some(behind)) => Some(own.min(behind)),
        (own, behind) => own.or(behind),
    }
}

/// Returns the largest message that reaches Copyist; `None` for no limit.
pub(super) fn largest(postfix: &Postfix, settings: &Settings) -> Option<u64> {
    let hooked = |listener: &&Service| {
        let ways = routes::by_smtp(postfix, listener, settings);
        (ways.milter || ways.proxy.is_some() || ways.filter.is_some())
            && !(is_relay(postfix, listener, settings) && postfix.is_local(listener))
    };
    let mut taken = postfix
        .listeners()
        .filter(hooked)
        .map(|one| size_limit(postfix, one));
    taken.try_fold(0, |most, one| Some(most.max(one?)))
}

fn is_relay(postfix: &Postfix, listener: &Service, settings: &Settings) -> bool {
    let relay = &settings.deliver.relay;
    postfix.is_at(listener, &relay.host, relay.port)
}

/// Whether a relay with this limit rejects the report of the largest message.
pub(super) fn is_too_small(limit: u64, largest: Option<u64>) -> bool {
    largest.is_none_or(|largest| limit < largest + REPORT)
}

/// Finds a size limit too low for reports if this Postfix is the relay.
fn check_report_size(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
    let relay = postfix
        .listeners()
        .find(|one| is_relay(postfix, one, settings))?;
    let limit = size_limit(postfix, relay)?;
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
    // Incoming mail gets a limit below the general one.
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
        seen: format!("takes {}, the same as for incoming mail", format_size(limit)),
        why: "reports of messages near the limit exceed it: they are rejected and kept as dead letters".into(),
        fix,
    })
}

/// Finds a size limit on a journal mailbox that local(8) keeps in one file (postconf(5),
/// mailbox_size_limit).
pub(super) fn check_mailbox_size<'a>(
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
            "the mailbox of {local} is one file: reports bounce when it reaches the limit"
        ),
        fix: postfix.set_main("mailbox_size_limit", "0"),
    })
}

/// Finds more smtpd(8) processes than milter connections.
fn check_connections(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
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
        why: "connections above the limit are closed, and their mail is deferred".into(),
        fix: match all {
            Some(all) => format!("connections = {all} in [limits]"),
            None => postfix.set_processes(&names, 100),
        },
    })
}

/// Checks Postfix's own mail, which reaches milters only through `internal_mail_filter_classes`
/// (postconf(5)).
fn check_internal_mail(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
    let parameter = "internal_mail_filter_classes";
    let values = &postfix.values;
    if values.lists(parameter, "notify") {
        return Some(Finding {
            name: "notices-hooked",
            severity: Severity::Hint,
            place: postfix.main(parameter),
            seen: shown(values.get(parameter)),
            why:
                "Postfix's notices to the postmaster about an unavailable Copyist wait for Copyist"
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
        why: "all outbound mail is journaled, except Postfix's own bounces".into(),
        fix: postfix.set_main(parameter, "bounce"),
    })
}

/// Finds soft_bounce, which turns 5xx into 4xx, also in smtpd(8) (postconf(5)).
fn check_soft_bounce(postfix: &Postfix, _: &Settings) -> Option<Finding> {
    postfix.values.is_yes("soft_bounce").then(|| Finding {
        name: "soft-bounce",
        severity: Severity::Hint,
        place: postfix.main("soft_bounce"),
        seen: shown("yes"),
        why: "mail that the journal guard or Postfix as the relay rejects is retried again and again, without an NDR".into(),
        fix: postfix.set_main("soft_bounce", "no"),
    })
}

/// Finds misspelled parameters, which Postfix ignores.
fn check_unused(postfix: &Postfix) -> Vec<Finding> {
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
            seen: format!("contains {parameter}"),
            why: "Postfix has no such parameter and ignores it".into(),
            fix: "correct the name (postconf(5)), or remove it".into(),
        }
    })
    .collect()
}
