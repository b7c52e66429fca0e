//! `copyist resolve`: what the directory says about an address or a target.

use serde::Serialize;

use super::{Failure, load, print_json, print_lines};
use crate::daemon;
use crate::directory::{Directory, Entry, Outage, Target};
use crate::identity::{GuardStatus, IdentityQuery};
use crate::mail::Address;

#[derive(Serialize)]
struct Resolution {
    /// The target as it was understood.
    target: String,
    /// "smtp", "dn" or "x500".
    kind: &'static str,
    /// Whether anybody's journal attribute, or nobody's, names this address; `null` where it cannot
    /// be known.
    is_journal_address: Option<bool>,
    /// "found", "absent" or "unavailable".
    answer: &'static str,
    outage: Option<String>,
    /// Each name that was considered, and what came of it.
    steps: Vec<String>,
    objects: Vec<Object>,
    /// Where copies for a DN or X.500 target go; `null` for an address.
    leads_to: Option<LeadsTo>,
}

#[derive(Serialize)]
struct LeadsTo {
    addresses: Vec<Reached>,
    /// Members of a group that get no copy: they have no address, or the directory does not have
    /// them.
    without_address: Vec<String>,
    /// Why there is no address at all.
    problem: Option<String>,
}

#[derive(Serialize)]
struct Reached {
    address: Address,
    /// The objects from the one that the target names to the one that has the address.
    through: Vec<String>,
}

#[derive(Serialize)]
struct Object {
    dn: String,
    attributes: Vec<(String, Vec<String>)>,
    /// What the journal attributes name: the address, or what is wrong with the value.
    journal: Vec<Journal>,
}

/// A value of a journal attribute.
#[derive(Serialize)]
struct Journal {
    value: String,
    #[serde(flatten)]
    leads_to: LeadsTo,
}

pub(super) async fn resolve(
    config: &std::path::Path,
    text: &str,
    json: bool,
) -> Result<(), Failure> {
    let settings = load(config)?;
    let target = Target::parse(text).map_err(Failure::wrong)?;
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
                .unwrap_or_else(|outage| LeadsTo::nowhere(&outage)),
            Err(error) => LeadsTo::nowhere(&error),
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

async fn leads_to(target: &Target, directory: &Directory) -> Result<LeadsTo, Outage> {
    let answer = directory.resolve(std::slice::from_ref(target)).await;
    let not_asked = || Err(Outage::new("it was not asked"));
    let resolution = answer.into_values().next().unwrap_or_else(not_asked)?;
    Ok(match resolution {
        Ok(expansion) => LeadsTo {
            addresses: expansion
                .addresses
                .iter()
                .map(|one| Reached {
                    address: one.address.clone(),
                    through: one.path.to_vec(),
                })
                .collect(),
            without_address: expansion.members_without_address.clone(),
            problem: None,
        },
        Err(error) => LeadsTo::nowhere(&error),
    })
}

impl LeadsTo {
    fn nowhere(why: &dyn std::fmt::Display) -> LeadsTo {
        LeadsTo {
            addresses: Vec::new(),
            without_address: Vec::new(),
            problem: Some(why.to_string()),
        }
    }

    /// A line for each address and each member without one, or one for the problem. Each begins
    /// with what it is: `address` for an address.
    fn lines<'a>(
        &'a self,
        address: &'a str,
        unusable: &'a str,
    ) -> impl Iterator<Item = String> + 'a {
        let reached = self.addresses.iter();
        let reached = reached.map(move |one| format!("{address}{}", one.to_text()));
        let without = self.without_address.iter();
        let without = without.map(|dn| format!("no address, gets no copy: {dn}"));
        let problem = self.problem.iter();
        reached
            .chain(without)
            .chain(problem.map(move |problem| format!("{unusable}: {problem}")))
    }
}

impl Reached {
    fn to_text(&self) -> String {
        match self.through.as_slice() {
            [] => self.address.to_string(),
            way => format!("{} (through {})", self.address, way.join(" > ")),
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
                let unusable = "has an unusable journal target";
                let leads_to = journal.leads_to.lines("is journaled to ", unusable);
                lines.extend(leads_to.map(|line| format!("    {line}")));
            }
        }
        if let Some(leads_to) = &self.leads_to {
            let leads_to = leads_to.lines("", "unusable");
            lines.extend(leads_to.map(|line| format!("  {line}")));
        }
        if self.is_journal_address == Some(true) {
            lines.push("  is itself the journal address of somebody: guarded".into());
        }
        lines
    }
}
