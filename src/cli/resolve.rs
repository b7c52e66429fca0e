//! `copyist resolve`: looks up an address or a journal target in the directory.

use serde::Serialize;

use super::{Failure, load, print_json, print_lines};
use crate::daemon;
use crate::directory::{Directory, Entry, Outage, Target};
use crate::identity::{GuardStatus, IdentityQuery};
use crate::mail::Address;

#[derive(Serialize)]
struct Resolution {
    /// The parsed target.
    target: String,
    /// "smtp", "dn" or "x500".
    kind: &'static str,
    /// Whether a journal attribute names this address; `null` if unknown.
    is_journal_address: Option<bool>,
    /// "found", "absent" or "unavailable".
    answer: &'static str,
    outage: Option<String>,
    /// Each name that was looked up, and the result.
    steps: Vec<String>,
    objects: Vec<Object>,
    /// The resolution of a DN or X.500 target; `null` for an address.
    leads_to: Option<JournalTarget>,
}

#[derive(Serialize)]
struct JournalTarget {
    addresses: Vec<TargetAddress>,
    /// Members of a group that get no copy: they have no address or are not in the directory.
    without_address: Vec<String>,
    /// The reason for no address at all.
    problem: Option<String>,
}

#[derive(Serialize)]
struct TargetAddress {
    address: Address,
    /// The objects from the target to the one with the address.
    through: Vec<String>,
}

#[derive(Serialize)]
struct Object {
    dn: String,
    attributes: Vec<(String, Vec<String>)>,
    /// The values of the journal attributes.
    journal: Vec<Journal>,
}

/// A value of a journal attribute.
#[derive(Serialize)]
struct Journal {
    value: String,
    #[serde(flatten)]
    leads_to: JournalTarget,
}

pub(super) async fn resolve(
    config: &std::path::Path,
    text: &str,
    json: bool,
) -> Result<(), Failure> {
    let settings = load(config)?;
    let target = Target::parse(text).map_err(Failure::invalid)?;
    let attributes = settings.directory.journal_attributes.clone();
    let identities = daemon::open_identities(&settings).map_err(Failure::failed)?;
    let directory = identities.directory();
    let mut resolution = Resolution {
        target: target.to_string(),
        kind: match target {
            Target::Smtp(_) => "smtp",
            Target::Dn(_) => "dn",
            Target::X500(_) => "x500",
        },
        is_journal_address: None,
        answer: "absent",
        outage: None,
        steps: Vec::new(),
        objects: Vec::new(),
        leads_to: None,
    };
    match target.smtp() {
        Some(address) => {
            resolution.is_journal_address =
                match daemon::guarded_mailboxes(&identities, &settings.rules).await {
                    Ok(guarded) => match identities.guard_status(address, None, &guarded).await {
                        GuardStatus::Guarded(_) => Some(true),
                        GuardStatus::NotGuarded => Some(false),
                        GuardStatus::Unknown(_) => None,
                    },
                    Err(_) => None,
                };
            let question = IdentityQuery::Recipient {
                address: address.clone(),
                mta: None,
            };
            match identities.owners(&question).await {
                Ok(owners) => {
                    let objects = owners
                        .people
                        .iter()
                        .flat_map(|person| person.objects.iter());
                    for entry in objects {
                        let object = describe(entry, &attributes, directory).await;
                        resolution.objects.push(object);
                    }
                    if !resolution.objects.is_empty() {
                        resolution.answer = "found";
                    }
                    resolution.steps = (owners.trace.into_iter())
                        .map(|step| format!("{}: {}", step.name, step.outcome))
                        .collect();
                }
                Err(outage) => {
                    resolution.answer = "unavailable";
                    resolution.outage = Some(outage.reason.to_string());
                }
            }
        }
        None => match leads_to(&target, directory).await {
            Ok(reached) => {
                resolution.answer = match reached.problem {
                    None => "found",
                    Some(_) => "absent",
                };
                resolution.leads_to = Some(reached);
            }
            Err(outage) => {
                resolution.answer = "unavailable";
                resolution.outage = Some(outage.reason.to_string());
            }
        },
    }
    directory.close().await;
    if json {
        print_json(&resolution)?;
    } else {
        print_lines(resolution.to_lines())?;
    }
    match resolution.outage {
        Some(outage) => Err(Failure::failed(outage)),
        None => Ok(()),
    }
}

async fn describe(entry: &Entry, journal: &[String], directory: &Directory) -> Object {
    let mut values = Vec::new();
    for value in journal.iter().flat_map(|attribute| entry.values(attribute)) {
        let leads_to = match Target::parse(value) {
            Ok(target) => leads_to(&target, directory)
                .await
                .unwrap_or_else(|outage| JournalTarget::unresolved(&outage)),
            Err(error) => JournalTarget::unresolved(&error),
        };
        values.push(Journal {
            value: value.to_owned(),
            leads_to,
        });
    }
    Object {
        dn: entry.dn.clone(),
        attributes: entry
            .attributes()
            .map(|(name, values)| (name.to_owned(), values.to_vec()))
            .collect(),
        journal: values,
    }
}

async fn leads_to(target: &Target, directory: &Directory) -> Result<JournalTarget, Outage> {
    let answer = directory.resolve(std::slice::from_ref(target)).await;
    let not_asked = || Err(Outage::new("no answer"));
    let resolution = answer.into_values().next().unwrap_or_else(not_asked)?;
    Ok(match resolution {
        Ok(expansion) => JournalTarget {
            addresses: expansion
                .addresses
                .iter()
                .map(|one| TargetAddress {
                    address: one.address.clone(),
                    through: one.path.to_vec(),
                })
                .collect(),
            without_address: expansion.members_without_address.clone(),
            problem: None,
        },
        Err(error) => JournalTarget::unresolved(&error),
    })
}

impl JournalTarget {
    fn unresolved(why: &dyn std::fmt::Display) -> JournalTarget {
        JournalTarget {
            addresses: Vec::new(),
            without_address: Vec::new(),
            problem: Some(why.to_string()),
        }
    }

    /// Returns a line for each address and each member without one, or one for the problem. `address`
    /// and `unusable` are the prefixes.
    fn lines<'a>(
        &'a self,
        address: &'a str,
        unusable: &'a str,
    ) -> impl Iterator<Item = String> + 'a {
        let reached = self.addresses.iter();
        let reached = reached.map(move |one| format!("{address}{}", one.to_text()));
        let without = self.without_address.iter();
        let without = without.map(|dn| format!("no address, no copy: {dn}"));
        let problem = self.problem.iter();
        reached
            .chain(without)
            .chain(problem.map(move |problem| format!("{unusable}: {problem}")))
    }
}

impl TargetAddress {
    fn to_text(&self) -> String {
        match self.through.as_slice() {
            [] => self.address.to_string(),
            path => format!("{} (via {})", self.address, path.join(" > ")),
        }
    }
}

impl Resolution {
    fn to_lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{}: {}", self.target, self.answer)];
        lines.extend(self.steps.iter().map(|step| format!("  {step}")));
        for object in &self.objects {
            lines.push(format!("  {}", object.dn));
            for (name, values) in &object.attributes {
                lines.push(format!("    {name}: {}", values.join(", ")));
            }
            for journal in &object.journal {
                let unusable = "unusable journal target";
                let leads_to = journal.leads_to.lines("is journaled to ", unusable);
                lines.extend(leads_to.map(|line| format!("    {line}")));
            }
        }
        if let Some(leads_to) = &self.leads_to {
            let leads_to = leads_to.lines("", "unusable");
            lines.extend(leads_to.map(|line| format!("  {line}")));
        }
        if self.is_journal_address == Some(true) {
            lines.push("  is a journal address: guarded".into());
        }
        lines
    }
}
