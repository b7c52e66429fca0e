//! Explains the decision about a hypothetical message: the copies and the reasons. Sends and stores
//! nothing.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;

use crate::directory::Lookup;
use crate::identity::{GuardStatus, Identities, IdentityAnswers, SharedGuard};
use crate::mail::{Address, Client, Envelope, Recipient};
use crate::pipeline::guard_status;
use crate::policy::{self, Admission, ClientTrust, Context, Plan, PlanBuilder, Rules};
use crate::text::{self, RecipientClass, Text};

/// The explanation, as serialized for scripts.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Whether the sender sends as the organization.
    #[serde(rename = "sender_is_ours")]
    pub from_us: bool,
    /// The reason.
    pub because: &'static str,
    /// Whether the sender was not found in the directory, although an attribute of the sender could
    /// matter.
    pub is_unidentified: bool,
    /// In the order of the envelope.
    pub recipients: Vec<ForRecipient>,
    /// Objects that were looked up.
    pub objects: Vec<Object>,
    /// The copies that would be made.
    pub copies: Vec<Copy>,
    /// Attribute values without a usable target.
    pub troubles: Vec<String>,
    /// Exempt people, and the objects that exempt them.
    pub exempt: Vec<(Address, String)>,
    /// The reason the message would be deferred; it is not decided then.
    pub deferred: Option<String>,
    /// The reason no texts would be added, although some apply.
    pub text_failure: Option<String>,
}

/// The explanation for one recipient.
#[derive(Debug, Serialize)]
pub struct ForRecipient {
    /// The address.
    pub address: Address,
    /// "inbound", "outbound" or "internal".
    pub direction: &'static str,
    /// "free", "guarded" (rejected with 550), "provisional" (the message decides) or "unavailable"
    /// (deferred: the guarded mailboxes are unknown).
    pub guard: &'static str,
    /// The guarded mailbox that the recipient is, and how it was recognized.
    pub guarded_as: Option<String>,
    /// The reason the guarded mailboxes are unknown.
    pub guard_outage: Option<String>,
    /// The plain text before the body of what this recipient gets; null for none.
    pub prepend: Option<String>,
    /// Likewise after it.
    pub append: Option<String>,
}

/// The directory's answer about one address.
#[derive(Debug, Serialize)]
pub struct Object {
    /// The query: an address, or `login NAME`.
    pub address: String,
    /// "found", "absent" or "unavailable".
    pub answer: &'static str,
    /// The objects that own it, and those that they inherit from.
    pub dns: Vec<String>,
    /// Each name that was considered, and what came of it.
    pub steps: Vec<Step>,
    /// Further addresses that the mail goes to.
    pub reached: Vec<Address>,
    /// The outage, if there was no answer.
    pub outage: Option<String>,
}

/// One step of an identification.
#[derive(Debug, Serialize)]
pub struct Step {
    /// An address, a login name, a group.
    pub name: String,
    /// Why it was considered, and what came of it.
    pub outcome: String,
}

/// One report or copy.
#[derive(Debug, Serialize)]
pub struct Copy {
    /// The direction whose settings apply.
    pub direction: &'static str,
    /// "report" or "copy".
    pub format: &'static str,
    /// Envelope sender of the copy, and NDR address.
    pub ndr: Address,
    /// The journal addresses.
    pub targets: Vec<Target>,
}

/// One journal address.
#[derive(Debug, Serialize)]
pub struct Target {
    /// The address.
    pub address: Address,
    /// The reasons: settings, or attributes of objects.
    pub reasons: Vec<String>,
}

/// Builds the envelope of a hypothetical message.
pub fn envelope(
    sender: Option<Address>,
    recipients: Vec<Address>,
    client: Option<IpAddr>,
    user: Option<String>,
) -> Envelope {
    Envelope {
        sender,
        recipients: recipients.into_iter().map(Recipient::new).collect(),
        client: Client {
            ip: client,
            user,
            ..Client::default()
        },
        ..Envelope::default()
    }
}

/// Decides as the service would, with the current directory.
pub async fn explain(
    envelope: &Envelope,
    identities: &Identities,
    guarded: &SharedGuard,
    rules: &Rules,
    text: &text::Settings,
) -> Explanation {
    let context = Context::new(envelope, rules);
    let client = context.client;
    let mut recipients = Vec::new();
    for (recipient, direction) in context.recipients() {
        let address = &recipient.address;
        let mut recipient = ForRecipient {
            address: address.clone(),
            direction: direction.name(),
            guard: "free",
            guarded_as: None,
            guard_outage: None,
            prepend: None,
            append: None,
        };
        let sender = envelope.sender.as_ref();
        if policy::is_guarding(client, sender, rules) {
            match guard_status(identities, guarded, rules, address, None).await {
                GuardStatus::NotGuarded => {}
                GuardStatus::Unknown(outage) => {
                    recipient.guard = "unavailable";
                    recipient.guard_outage = Some(outage.reason.to_string());
                }
                GuardStatus::Guarded(name) => {
                    recipient.guarded_as = Some(name);
                    recipient.guard = match policy::admission(client, sender, address, rules) {
                        Admission::Rejected => "guarded",
                        Admission::Provisional => "provisional",
                        Admission::Allowed => "free",
                    };
                }
            }
        }
        recipients.push(recipient);
    }
    let asked = text::all_queries(&context, text);
    let deadline = Instant::now() + identities.directory().max_wait();
    let people = identities.find(&asked, deadline).await;
    let text_failure = match text::classes(&context, &people, text) {
        Ok(classes) => {
            tell_texts(&classes, &mut recipients);
            None
        }
        Err(untold) => Some(untold.to_string()),
    };
    let builder = PlanBuilder::new(&context, &people);
    let directory = identities.directory();
    let resolved = directory.resolve_before(&builder.targets(), deadline).await;
    let (plan, deferred) = match builder.build(&resolved) {
        Ok(plan) => (plan, None),
        Err(undecided) => (Plan::default(), Some(undecided.to_string())),
    };
    Explanation {
        from_us: client.from_us,
        because: because(envelope, client, rules),
        is_unidentified: plan.is_unidentified,
        recipients,
        objects: objects(&people, identities).await,
        copies: plan.copies.into_iter().map(Copy::from).collect(),
        troubles: plan
            .invalid_targets
            .iter()
            .map(ToString::to_string)
            .collect(),
        exempt: plan.exempt,
        deferred,
        text_failure,
    }
}

/// Returns the reason a client counts as internal or external.
fn because(envelope: &Envelope, client: ClientTrust, rules: &Rules) -> &'static str {
    let ip = envelope.client.ip;
    let organization = &rules.organization;
    if ip.is_some_and(|ip| organization.is_gateway(ip)) {
        "the client is a gateway (organization.gateways)"
    } else if client.is_authenticated {
        "the client authenticated"
    } else if client.is_trusted && !client.from_us {
        "the client is in organization.trusted_networks, but did not authenticate and sends for a foreign address"
    } else if client.is_trusted {
        "the client is in organization.trusted_networks"
    } else if ip.is_none() {
        "no client address was given"
    } else {
        "the client neither authenticated nor is in organization.trusted_networks"
    }
}

fn tell_texts(classes: &[RecipientClass], recipients: &mut [ForRecipient]) {
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

/// Returns the directory's answers to all queries, with each step.
async fn objects(people: &IdentityAnswers, identities: &Identities) -> Vec<Object> {
    let mut objects = Vec::new();
    for (question, answer) in people.iter() {
        let mut object = Object {
            address: question.to_string(),
            answer: match answer {
                Lookup::Found(_) => "found",
                Lookup::Absent => "absent",
                Lookup::Unavailable(_) => "unavailable",
            },
            dns: Vec::new(),
            steps: Vec::new(),
            reached: Vec::new(),
            outage: None,
        };
        if let Lookup::Unavailable(outage) = answer {
            object.outage = Some(outage.reason.to_string());
        }
        // Looked up again, since cached answers have no steps.
        if let Ok(owners) = identities.owners(question).await {
            let people = owners
                .people
                .iter()
                .flat_map(|person| person.objects.iter());
            object.dns = people.map(|entry| entry.dn.clone()).collect();
            object.reached = owners.further_addresses;
            object.steps = (owners.trace.into_iter())
                .map(|step| Step {
                    name: step.name,
                    outcome: step.outcome,
                })
                .collect();
        }
        objects.push(object);
    }
    objects.sort_by(|a, b| a.address.cmp(&b.address));
    objects
}

impl From<policy::JournalCopy> for Copy {
    fn from(copy: policy::JournalCopy) -> Copy {
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
