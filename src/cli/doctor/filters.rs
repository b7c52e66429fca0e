//! Mail that Postfix passes to an SMTP listener of Copyist: whether the client is identified and the
//! message unchanged.

use super::finding::{Finding, Severity};
use super::postfix::{Postfix, Service};
use super::routes::{self, shown};
use crate::config::Settings;
use crate::hook::{Mode, SmtpListener};
use crate::mail::Side;

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    for listener in postfix.listeners() {
        let ways = routes::by_smtp(postfix, listener, settings);
        if let Some(door) = ways.proxy {
            found.extend(check_mode(
                postfix,
                listener,
                "smtpd_proxy_filter",
                door,
                Mode::BeforeQueue,
            ));
            found.extend(check_login(postfix, listener, "smtpd_proxy_filter", door));
        }
        if let Some(door) = ways.filter {
            found.extend(check_mode(
                postfix,
                listener,
                "content_filter",
                door,
                Mode::AfterQueue,
            ));
            found.extend(check_login(postfix, listener, "content_filter", door));
            found.extend(check_transport(postfix, listener, door));
        }
    }
    for source in routes::sources(postfix) {
        if let Some(door) = routes::by_itself(postfix, source, settings).filter {
            found.extend(check_transport(postfix, source, door));
        }
    }
    found
}

/// Finds a wrong mode: a rejection after the queue becomes a bounce to a possibly forged sender, and
/// before the queue the client could be rejected instead of deferred.
fn check_mode(
    postfix: &Postfix,
    listener: &Service,
    parameter: &str,
    door: &SmtpListener,
    wanted: Mode,
) -> Option<Finding> {
    let (word, why) = match wanted {
        Mode::BeforeQueue => (
            "before-queue",
            "clients are deferred again and again instead of rejected",
        ),
        Mode::AfterQueue => (
            "after-queue",
            "mail that Copyist rejects becomes a bounce to a possibly forged sender",
        ),
    };
    (door.mode != wanted).then(|| Finding {
        name: "filter-mode",
        severity: Severity::Warning,
        place: postfix.place(listener, parameter),
        seen: format!("uses {}, whose mode is not {word}", door.listen),
        why: why.into(),
        fix: format!(
            "mode = \"{word}\" in the [[hook.smtp]] with listen = \"{}\"",
            door.listen
        ),
    })
}

/// Finds authenticated users that Copyist cannot see: XFORWARD has no attribute for them
/// (XFORWARD_README).
fn check_login(
    postfix: &Postfix,
    listener: &Service,
    parameter: &str,
    door: &SmtpListener,
) -> Option<Finding> {
    let authenticates = listener.values.is_yes("smtpd_sasl_auth_enable");
    (authenticates && door.side != Some(Side::Internal)).then(|| Finding {
        name: "login-unseen",
        severity: Severity::Error,
        place: postfix.place(listener, parameter),
        seen: format!(
            "passes mail of authenticated users ({}) to {}, which does not see the authentication",
            listener.name, door.listen
        ),
        why: "authenticated remote users count as external, so no outbound copy is made of their mail".into(),
        fix: format!(
            "add a second [[hook.smtp]] with direction = \"outbound\", and set its address as {parameter} in {}",
            postfix.master(listener)
        ),
    })
}

/// Checks the smtp(8) client that passes mail to Copyist after the queue.
fn check_transport(postfix: &Postfix, from: &Service, door: &SmtpListener) -> Vec<Finding> {
    let filter = from.values.get("content_filter");
    let name = filter.split(':').next().unwrap_or_default();
    let Some(transport) = postfix.service(name, "unix") else {
        return vec![Finding {
            name: "filter-transport-missing",
            severity: Severity::Warning,
            place: postfix.place(from, "content_filter"),
            seen: shown(filter),
            why: format!("master.cf has no service {name}: all mail stays in the queue"),
            fix: postfix.add_service(&format!(
                "{name}/unix={name} unix - - n - 20 smtp -o smtp_send_xforward_command=yes -o disable_mime_output_conversion=yes"
            )),
        }];
    };
    let mut found = Vec::new();
    let xforward = match transport.program.as_str() {
        "lmtp" => "lmtp_send_xforward_command",
        _ => "smtp_send_xforward_command",
    };
    if door.side.is_none() && !transport.values.is_yes(xforward) {
        found.push(Finding {
            name: "xforward-missing",
            severity: Severity::Error,
            place: postfix.master(transport),
            seen: format!("{xforward} is no"),
            why: "every client appears to be this machine: inbound mail counts as the organization's own".into(),
            fix: postfix.set_service(transport, xforward, "yes"),
        });
    }
    let parameter = "disable_mime_output_conversion";
    if !transport.values.is_yes(parameter) {
        found.push(Finding {
            name: "mime-conversion",
            severity: Severity::Warning,
            place: postfix.master(transport),
            seen: format!("{parameter} is no"),
            why: "Postfix may convert a message for the filter, which breaks its signatures".into(),
            fix: postfix.set_service(transport, parameter, "yes"),
        });
    }
    found
}
