//! Mail that Postfix hands to an SMTP listener of Copyist: whether it tells whose mail it is, and
//! leaves it as it is.

use super::finding::{Finding, Severity};
use super::postfix::{Postfix, Service};
use super::routes::{self, shown};
use crate::config::Settings;
use crate::hook::{Mode, SmtpDoor};
use crate::mail::Side;

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    for listener in postfix.listeners() {
        let ways = routes::by_smtp(postfix, listener, settings);
        if let Some(door) = ways.proxy {
            found.extend(mode(
                postfix,
                listener,
                "smtpd_proxy_filter",
                door,
                Mode::BeforeQueue,
            ));
            found.extend(login(postfix, listener, "smtpd_proxy_filter", door));
        }
        if let Some(door) = ways.filter {
            found.extend(mode(
                postfix,
                listener,
                "content_filter",
                door,
                Mode::AfterQueue,
            ));
            found.extend(login(postfix, listener, "content_filter", door));
            found.extend(transport(postfix, listener, door));
        }
    }
    for source in routes::sources(postfix) {
        if let Some(door) = routes::by_itself(postfix, source, settings).filter {
            found.extend(transport(postfix, source, door));
        }
    }
    found
}

/// A final no behind a queue becomes a bounce to whoever the sender claims to be; a temporary one
/// before the queue is one where the client could be told more.
fn mode(
    postfix: &Postfix,
    listener: &Service,
    parameter: &str,
    door: &SmtpDoor,
    wanted: Mode,
) -> Option<Finding> {
    let (word, why) = match wanted {
        Mode::BeforeQueue => (
            "before-queue",
            "the client is deferred again and again where it should be refused",
        ),
        Mode::AfterQueue => (
            "after-queue",
            "what Copyist refuses becomes a bounce to whoever the sender claims to be",
        ),
    };
    (door.mode != wanted).then(|| Finding {
        name: "filter-mode",
        severity: Severity::Warning,
        place: postfix.place(listener, parameter),
        seen: format!(
            "leads to {}, whose mode is another than {word}",
            door.listen
        ),
        why: why.into(),
        fix: format!(
            "mode = \"{word}\" in the [[hook.smtp]] with listen = \"{}\"",
            door.listen
        ),
    })
}

/// Neither XFORWARD nor a queue tells who has logged in (XFORWARD_README: it has no attribute for
/// that).
fn login(
    postfix: &Postfix,
    listener: &Service,
    parameter: &str,
    door: &SmtpDoor,
) -> Option<Finding> {
    let logs_in = listener.values.is_yes("smtpd_sasl_auth_enable");
    (logs_in && door.side != Some(Side::Internal)).then(|| Finding {
        name: "login-unseen",
        severity: Severity::Error,
        place: postfix.place(listener, parameter),
        seen: format!(
            "takes users who log in ({}) to {}, which hears of no login",
            listener.name, door.listen
        ),
        why: "who has logged in from elsewhere counts as an outsider, and what he sends out has no copy".into(),
        fix: format!(
            "a second [[hook.smtp]] with direction = \"outbound\", and in {} its address as {parameter}",
            postfix.master(listener)
        ),
    })
}

/// The smtp(8) client that carries mail to us behind the queue.
fn transport(postfix: &Postfix, from: &Service, door: &SmtpDoor) -> Vec<Finding> {
    let filter = from.values.get("content_filter");
    let name = filter.split(':').next().unwrap_or_default();
    let Some(transport) = postfix.service(name, "unix") else {
        return vec![Finding {
            name: "filter-transport-missing",
            severity: Severity::Warning,
            place: postfix.place(from, "content_filter"),
            seen: shown(filter),
            why: format!("master.cf has no service {name}: all mail waits in the queue"),
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
            why: "Copyist takes every client for this machine: inbound mail counts as the organization's own".into(),
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
            why: "Postfix may recode a message for the filter, which breaks its signatures".into(),
            fix: postfix.set_service(transport, parameter, "yes"),
        });
    }
    found
}
