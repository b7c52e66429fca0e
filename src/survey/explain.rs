//! The decision about a message that does not exist: who would get a copy of it, and why. Nothing is sent, nothing is kept.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::directory::{Directory, Lookup};
use crate::mail::{Address, Client, Envelope, Recipient};
use crate::policy::{self, Admission, People, Plan, Rules};
use crate::text::{self, Class, Text};

/// The answer, as scripts read it.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Whether the sender sends as the organization.
    pub sender_is_ours: bool,
    /// In the order of the envelope.
    pub recipients: Vec<ForRecipient>,
    /// Objects that were looked up.
    pub objects: Vec<Object>,
    /// What would be owed.
    pub copies: Vec<Copy>,
    /// Attribute values that name nobody.
    pub troubles: Vec<String>,
    /// People for whose sake nothing is copied, and the objects that say so.
    pub exempt: Vec<(Address, String)>,
    /// Why the message would be deferred; nothing is decided then.
    pub deferred: Option<String>,
    /// Why nobody would get a text although some are owed one.
    pub text_failure: Option<String>,
}

/// What is said about one recipient.
#[derive(Debug, Serialize)]
pub struct ForRecipient {
    /// Who.
    pub address: Address,
    /// "inbound", "outbound" or "internal".
    pub direction: &'static str,
    /// "free", "guarded" (refused with 550), "provisional" (the message decides) or "unavailable" (deferred: the guard
    /// cannot ask).
    pub guard: &'static str,
    /// The plain text before the body of what this recipient gets; null for none.
    pub prepend: Option<String>,
    /// Likewise after it.
    pub append: Option<String>,
}

/// What the directory says about one address.
#[derive(Debug, Serialize)]
pub struct Object {
    /// Which.
    pub address: Address,
    /// "found", "absent" or "unavailable".
    pub answer: &'static str,
    /// The objects that own it, and those that they inherit from.
    pub dns: Vec<String>,
    /// Why there was no answer.
    pub outage: Option<String>,
}

/// One report or copy.
#[derive(Debug, Serialize)]
pub struct Copy {
    /// Whose settings make it.
    pub direction: &'static str,
    /// "report" or "copy".
    pub format: &'static str,
    /// Envelope sender of the copy, and where an NDR goes.
    pub ndr: Address,
    /// Whom it goes to.
    pub targets: Vec<Target>,
}

/// One journal address.
#[derive(Debug, Serialize)]
pub struct Target {
    /// It.
    pub address: Address,
    /// Why it is there: a setting, or an attribute of an object.
    pub reasons: Vec<String>,
}

/// The envelope of a message that somebody asks about.
pub fn envelope(
    sender: Option<Address>,
    recipients: Vec<Address>,
    client: Option<IpAddr>,
    user: Option<String>,
) -> Envelope {
    let recipients = recipients.into_iter().map(|address| Recipient {
        address,
        params: Vec::new(),
    });
    Envelope {
        sender,
        recipients: recipients.collect(),
        client: Client {
            ip: client,
            user,
            ..Client::default()
        },
        ..Envelope::default()
    }
}

/// Decides as the service would, with what the directory says now.
pub async fn explain(
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
