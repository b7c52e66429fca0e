//! `copyist explain`: the decision about a message that does not exist.

use std::sync::Arc;

use serde::Serialize;

use super::args::Question;
use super::{Failure, load, print_json, print_line};
use crate::daemon;
use crate::directory::{Directory, Lookup};
use crate::mail::{Address, AddressError, Client, Envelope, Recipient};
use crate::policy::{self, Admission, People, Plan, Rules};
use crate::text::{self, Class, Text};

/// The answer, as scripts read it.
#[derive(Serialize)]
struct Explanation {
    /// Whether the sender sends as the organization.
    sender_is_ours: bool,
    recipients: Vec<ForRecipient>,
    /// Objects that were looked up.
    objects: Vec<Object>,
    copies: Vec<Copy>,
    /// Attribute values that name nobody.
    troubles: Vec<String>,
    /// People for whose sake nothing is copied, and the objects that say so.
    exempt: Vec<(Address, String)>,
    /// Why the message would be deferred; nothing is decided then.
    deferred: Option<String>,
    /// Why nobody would get a text although some are owed one.
    text_failure: Option<String>,
}

#[derive(Serialize)]
struct ForRecipient {
    address: Address,
    direction: &'static str,
    /// "free", "guarded" (refused with 550) or "provisional" (the message decides).
    guard: &'static str,
    /// The plain text before and after the body of what this recipient gets; null for none.
    prepend: Option<String>,
    append: Option<String>,
}

#[derive(Serialize)]
struct Object {
    address: Address,
    /// "found", "absent" or "unavailable".
    answer: &'static str,
    dns: Vec<String>,
    outage: Option<String>,
}

#[derive(Serialize)]
struct Copy {
    direction: &'static str,
    format: &'static str,
    /// Envelope sender of the copy, and where an NDR goes.
    ndr: Address,
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Target {
    address: Address,
    reasons: Vec<String>,
}

pub(super) async fn explain(question: Question) -> Result<(), Failure> {
    let settings = load(&question.config.file)?;
    let sender = match Address::parse(&question.from) {
        Ok(address) => Some(address),
        Err(AddressError::Empty) => None,
        Err(error) => return Err(Failure::wrong(format!("--from: {error}"))),
    };
    let envelope = Envelope {
        sender,
        recipients: question
            .to
            .into_iter()
            .map(|address| Recipient {
                address,
                params: Vec::new(),
            })
            .collect(),
        client: Client {
            ip: question.client,
            user: question.auth,
            ..Client::default()
        },
        ..Envelope::default()
    };
    let directory = Directory::open(settings.directory).map_err(Failure::failed)?;
    let known = daemon::read_domains(&directory, &settings.rules.organization).await;
    known.map_err(Failure::failed)?;
    let explanation = decide(&envelope, &directory, &settings.rules, &settings.text).await;
    directory.close().await;
    if question.json {
        print_json(&explanation)
    } else {
        print_line(&explanation.to_text())
    }
}

async fn decide(
    envelope: &Envelope,
    directory: &Directory,
    rules: &Rules,
    text: &text::Settings,
) -> Explanation {
    let ours = policy::sender_is_ours(envelope, rules);
    let mut recipients = Vec::new();
    for address in envelope.recipient_addresses() {
        let guard = guard(ours, envelope.sender.as_ref(), address, directory, rules).await;
        let direction = policy::direction(ours, address, rules).name();
        recipients.push(ForRecipient {
            address: address.clone(),
            direction,
            guard,
            prepend: None,
            append: None,
        });
    }
    let people = directory
        .find(&text::all_questions(envelope, rules, text))
        .await;
    let text_failure = match text::classes(envelope, &people, rules, text) {
        Ok(classes) => {
            tell_texts(&classes, &mut recipients);
            None
        }
        Err(untold) => Some(untold.to_string()),
    };
    let targets = policy::targets(envelope, &people, rules);
    let resolved = directory.resolve(&targets).await;
    let (plan, deferred) = match policy::plan(envelope, &people, &resolved, rules) {
        Ok(plan) => (plan, None),
        Err(undecided) => (Plan::default(), Some(undecided.to_string())),
    };
    Explanation {
        sender_is_ours: ours,
        recipients,
        objects: objects(&people),
        copies: plan.copies.into_iter().map(Copy::from).collect(),
        troubles: plan.troubles.iter().map(ToString::to_string).collect(),
        exempt: plan.exempt,
        deferred,
        text_failure,
    }
}

fn tell_texts(classes: &[Class], recipients: &mut [ForRecipient]) {
    let plain = |text: &Option<Arc<Text>>| text.as_ref().map(|text| text.plain.clone());
    for class in classes {
        for &place in &class.recipients {
            if let Some(recipient) = recipients.get_mut(place) {
                recipient.prepend = plain(&class.texts.prepend);
                recipient.append = plain(&class.texts.append);
            }
        }
    }
}

async fn guard(
    ours: bool,
    sender: Option<&Address>,
    recipient: &Address,
    directory: &Directory,
    rules: &Rules,
) -> &'static str {
    let mut admission = policy::admission(ours, sender, recipient, rules);
    if admission == Admission::AskDirectory {
        let configured = policy::configured_targets(rules);
        admission = match directory.is_journal_address(recipient, &configured).await {
            Lookup::Found(()) => policy::guarded(sender, recipient, rules),
            Lookup::Absent => Admission::Free,
            Lookup::Unavailable(_) => return "unavailable",
        };
    }
    match admission {
        Admission::Refused => "guarded",
        Admission::Provisional => "provisional",
        Admission::Free | Admission::AskDirectory => "free",
    }
}

fn objects(people: &People) -> Vec<Object> {
    let mut objects: Vec<Object> = people
        .iter()
        .map(|(address, answer)| {
            let (word, dns, outage) = match answer {
                Lookup::Found(found) => (
                    "found",
                    found.iter().map(|entry| entry.dn.clone()).collect(),
                    None,
                ),
                Lookup::Absent => ("absent", Vec::new(), None),
                Lookup::Unavailable(outage) => {
                    ("unavailable", Vec::new(), Some(outage.reason.to_string()))
                }
            };
            Object {
                address: address.clone(),
                answer: word,
                dns,
                outage,
            }
        })
        .collect();
    objects.sort_by(|a, b| a.address.cmp(&b.address));
    objects
}

impl From<policy::Copy> for Copy {
    fn from(copy: policy::Copy) -> Copy {
        Copy {
            direction: copy.direction.name(),
            format: copy.format.name(),
            ndr: copy.ndr,
            targets: copy
                .targets
                .into_iter()
                .map(|(address, reasons)| Target {
                    address,
                    reasons: reasons.iter().map(ToString::to_string).collect(),
                })
                .collect(),
        }
    }
}

impl Explanation {
    fn to_text(&self) -> String {
        let mut lines = Vec::new();
        let whose = if self.sender_is_ours {
            "is ours (authenticated, or from a trusted network)"
        } else {
            "is outside"
        };
        lines.push(format!("the sender {whose}"));
        for ForRecipient {
            address,
            direction,
            guard,
            prepend,
            append,
        } in &self.recipients
        {
            let guard = match *guard {
                "guarded" => "; refused with 550: a guarded mailbox",
                "provisional" => "; guarded: passes only as a report of ours or a bounce of one",
                "unavailable" => "; deferred with 451: the guard cannot ask the directory",
                _ => "",
            };
            lines.push(format!("to {address}: {direction}{guard}"));
            for (end, text) in [("before", prepend), ("after", append)] {
                if let Some(text) = text {
                    let text = text.trim().replace('\n', "\n    ");
                    lines.push(format!("  text {end} the body:\n    {text}"));
                }
            }
        }
        for Object {
            address,
            answer,
            dns,
            outage,
        } in &self.objects
        {
            let detail = outage.clone().unwrap_or_else(|| dns.join(" and "));
            let gap = if detail.is_empty() { "" } else { ": " };
            lines.push(format!("directory: {address} {answer}{gap}{detail}"));
        }
        for trouble in &self.troubles {
            lines.push(format!("not usable: {trouble}"));
        }
        for (person, dn) in &self.exempt {
            lines.push(format!("exempt: {person} by {dn}"));
        }
        if let Some(failure) = &self.text_failure {
            lines.push(format!("no text is put in: {failure}"));
        }
        if let Some(deferred) = &self.deferred {
            lines.push(format!(
                "the message would be deferred with 451: {deferred}"
            ));
        } else if self.copies.is_empty() {
            lines.push("nothing is journaled".into());
        }
        for copy in &self.copies {
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
        lines.join("\n")
    }
}
