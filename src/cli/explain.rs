//! `copyist explain`: the decision about a message that does not exist.

use super::args::ExplainArgs;
use super::{Failure, load, print_json, print_lines};
use crate::daemon;
use crate::identity::{SharedGuard, parse_path};
use crate::mail::AddressError;
use crate::survey::{self, Explanation, ForRecipient, Object, Step, Target};

pub(super) async fn explain(args: ExplainArgs) -> Result<(), Failure> {
    let settings = load(&args.config.file)?;
    let names = &settings.rules.organization.names;
    let path = |text: &str| parse_path(text, names.default_domain().unwrap_or("localhost"));
    let sender = match path(&args.from) {
        Ok(address) => Some(address),
        Err(AddressError::Empty) => None,
        Err(error) => return Err(Failure::invalid(format!("--from: {error}"))),
    };
    let to = args.to.iter().map(|text| path(text));
    let to = to.collect::<Result<Vec<_>, _>>();
    let to = to.map_err(|error| Failure::invalid(format!("--to: {error}")))?;
    let envelope = survey::envelope(sender, to, args.client, args.auth);
    let identities = daemon::open_identities(&settings).map_err(Failure::failed)?;
    let known = daemon::read_domains(identities.directory(), &settings.rules.organization).await;
    known.map_err(Failure::failed)?;
    let guarded = SharedGuard::default();
    // Without it, the service's guard would not know them either.
    if let Ok(mailboxes) = daemon::guarded_mailboxes(&identities, &settings.rules).await {
        guarded.set(mailboxes);
    }
    let (rules, text) = (&settings.rules, &settings.text);
    let explanation = survey::explain(&envelope, &identities, &guarded, rules, text).await;
    identities.directory().close().await;
    if args.json {
        print_json(&explanation)?;
    } else {
        print_lines(to_lines(&explanation))?;
    }
    match status(&explanation) {
        0 => Ok(()),
        status => Err(Failure::Answer(status)),
    }
}

/// Returns the exit status, as documented in the command's help.
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
    let side = match explanation.from_us {
        true => "belongs to the organization",
        false => "is external",
    };
    lines.push(format!("the sender {side}: {}", explanation.because));
    if explanation.is_unidentified {
        lines.push(
            "sender not identified: no directory object matches the reverse path or user name; no copy is made for the sender".into(),
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
            "guarded" => "; rejected with 550: guarded address",
            "provisional" => "; guarded: accepts only own reports and their bounces",
            "unavailable" => "; deferred with 451: guarded addresses unknown",
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
            lines.push(format!("  expands to {further}"));
        }
    }
    for problem in &explanation.troubles {
        lines.push(format!("unusable: {problem}"));
    }
    for (person, dn) in &explanation.exempt {
        lines.push(format!("exempt: {person} by {dn}"));
    }
    if let Some(failure) = &explanation.text_failure {
        lines.push(format!("no text is added: {failure}"));
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
