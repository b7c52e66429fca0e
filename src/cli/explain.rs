//! `copyist explain`: the decision about a message that does not exist.

use super::args::Question;
use super::{Failure, load, print_json, print_lines};
use crate::daemon;
use crate::identity::{SharedGuard, parse_path};
use crate::mail::AddressError;
use crate::survey::{self, Explanation, ForRecipient, Object, Step, Target};

pub(super) async fn explain(question: Question) -> Result<(), Failure> {
    let settings = load(&question.config.file)?;
    let names = &settings.rules.organization.names;
    let path = |text: &str| parse_path(text, names.default_domain().unwrap_or("localhost"));
    let sender = match path(&question.from) {
        Ok(address) => Some(address),
        Err(AddressError::Empty) => None,
        Err(error) => return Err(Failure::wrong(format!("--from: {error}"))),
    };
    let to = question.to.iter().map(|text| path(text));
    let to = to.collect::<Result<Vec<_>, _>>();
    let to = to.map_err(|error| Failure::wrong(format!("--to: {error}")))?;
    let envelope = survey::envelope(sender, to, question.client, question.auth);
    let identities = daemon::open_identities(&settings).map_err(Failure::failed)?;
    let known = daemon::read_domains(identities.directory(), &settings.rules.organization).await;
    known.map_err(Failure::failed)?;
    let guarded = SharedGuard::default();
    // Where that cannot be read the guard of the service would not know either.
    if let Ok(mailboxes) = daemon::guarded_mailboxes(&identities, &settings.rules).await {
        guarded.set(mailboxes);
    }
    let (rules, text) = (&settings.rules, &settings.text);
    let explanation = survey::explain(&envelope, &identities, &guarded, rules, text).await;
    identities.directory().close().await;
    if question.json {
        print_json(&explanation)?;
    } else {
        print_lines(to_lines(&explanation))?;
    }
    match status(&explanation) {
        0 => Ok(()),
        status => Err(Failure::Answer(status)),
    }
}

/// The exit status, which the help of the command tells.
fn status(explanation: &Explanation) -> u8 {
    let mut recipients = explanation.recipients.iter();
    if recipients.all(|recipient| recipient.guard == "guarded") {
        5
    } else if explanation.deferred.is_some() {
        4
    } else if explanation.copies.is_empty() {
        3
    } else {
        0
    }
}

fn to_lines(explanation: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    let side = match explanation.sender_is_ours {
        true => "inside",
        false => "outside",
    };
    lines.push(format!("the sender is {side}: {}", explanation.because));
    if explanation.is_unidentified {
        lines.push(
            "the sender is not identified: no object of the directory is found by reverse path or login; no copy is made because of the sender".into(),
        );
    }
    for ForRecipient {
        address,
        direction,
        guard,
        guarded_as,
        guard_outage,
        prepend,
        append,
    } in &explanation.recipients
    {
        let guard = match *guard {
            "guarded" => "; refused with 550: a guarded mailbox",
            "provisional" => "; guarded: passes only as a report of ours or a bounce of one",
            "unavailable" => "; deferred with 451: the guarded mailboxes are not known",
            _ => "",
        };
        let mailbox = guarded_as.iter().chain(guard_outage);
        let mailbox = mailbox.map(|name| format!(" ({name})"));
        let mailbox: String = mailbox.collect();
        lines.push(format!("to {address}: {direction}{guard}{mailbox}"));
        for (end, text) in [("before", prepend), ("after", append)] {
            if let Some(text) = text {
                lines.push(format!("  text {end} the body:"));
                lines.extend(text.trim().lines().map(|line| format!("    {line}")));
            }
        }
    }
    for Object {
        address,
        answer,
        dns,
        steps,
        reached,
        outage,
    } in &explanation.objects
    {
        let detail = outage.clone().unwrap_or_else(|| dns.join(" and "));
        let gap = if detail.is_empty() { "" } else { ": " };
        lines.push(format!("directory: {address} {answer}{gap}{detail}"));
        for Step { name, outcome } in steps {
            lines.push(format!("  {name}: {outcome}"));
        }
        for further in reached {
            lines.push(format!("  goes on to {further}"));
        }
    }
    for trouble in &explanation.troubles {
        lines.push(format!("not usable: {trouble}"));
    }
    for (person, dn) in &explanation.exempt {
        lines.push(format!("exempt: {person} by {dn}"));
    }
    if let Some(failure) = &explanation.text_failure {
        lines.push(format!("no text is put in: {failure}"));
    }
    if let Some(deferred) = &explanation.deferred {
        lines.push(format!(
            "the message would be deferred with 451: {deferred}"
        ));
    } else if explanation.copies.is_empty() {
        lines.push("nothing is journaled".into());
    }
    for copy in &explanation.copies {
        lines.push(format!(
            "one {} from {} ({})",
            copy.format, copy.ndr, copy.direction
        ));
        for Target { address, reasons } in &copy.targets {
            lines.push(format!("  to {address}"));
            lines.extend(
                reasons
                    .iter()
                    .map(|reason| format!("     because of {reason}")),
            );
        }
    }
    lines
}
