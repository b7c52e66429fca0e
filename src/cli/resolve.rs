//! `copyist resolve`: what the directory says about an address or a target.

use serde::Serialize;

use super::{Failure, load, print_json, print_line};
use crate::directory::{Directory, Lookup, Target};
use crate::mail::Address;

#[derive(Serialize)]
struct Resolution {
    /// The target as it was understood.
    target: String,
    /// "smtp", "dn" or "x500".
    kind: &'static str,
    /// Whether anybody's journal attribute, or nobody's, names this address; `null` where it cannot be known.
    is_journal_address: Option<bool>,
    /// "found", "absent" or "unavailable".
    answer: &'static str,
    outage: Option<String>,
    objects: Vec<Object>,
}

#[derive(Serialize)]
struct Object {
    dn: String,
    attributes: Vec<(String, Vec<String>)>,
    /// What the journal attributes name: the address, or what is wrong with the value.
    journal: Vec<Result<Address, String>>,
}

pub(super) async fn resolve(
    config: &std::path::Path,
    text: &str,
    json: bool,
) -> Result<(), Failure> {
    let settings = load(config)?;
    let target = Target::parse(text).map_err(Failure::wrong)?;
    let address = target.smtp().map_err(Failure::wrong)?.clone();
    let attributes = settings.directory.journal_attributes.clone();
    let directory = Directory::open(settings.directory).map_err(Failure::failed)?;
    let found = directory.find_fresh(&address).await;
    let guarded = match directory.is_journal_address(&address).await {
        Lookup::Found(()) => Some(true),
        Lookup::Absent => Some(false),
        Lookup::Unavailable(_) => None,
    };
    directory.close().await;
    let mut resolution = Resolution {
        target: target.to_string(),
        kind: match target {
            Target::Smtp(_) => "smtp",
            Target::Dn(_) => "dn",
            Target::X500(_) => "x500",
        },
        is_journal_address: guarded,
        answer: "absent",
        outage: None,
        objects: Vec::new(),
    };
    match found {
        Lookup::Found(entries) => {
            resolution.answer = "found";
            resolution.objects = entries
                .iter()
                .map(|entry| Object {
                    dn: entry.dn.clone(),
                    attributes: entry
                        .attributes()
                        .map(|(name, values)| (name.to_owned(), values.to_vec()))
                        .collect(),
                    journal: attributes
                        .iter()
                        .flat_map(|attribute| entry.values(attribute))
                        .map(|value| {
                            let target = Target::parse(value).map_err(|error| error.to_string())?;
                            target.smtp().cloned().map_err(|error| error.to_string())
                        })
                        .collect(),
                })
                .collect();
        }
        Lookup::Unavailable(outage) => {
            resolution.answer = "unavailable";
            resolution.outage = Some(outage.reason.to_string());
        }
        Lookup::Absent => {}
    }
    if json {
        print_json(&resolution)?;
    } else {
        print_line(&resolution.to_text())?;
    }
    match resolution.outage {
        Some(outage) => Err(Failure::failed(outage)),
        None => Ok(()),
    }
}

impl Resolution {
    fn to_text(&self) -> String {
        let mut lines = vec![format!("{}: {}", self.target, self.answer)];
        for object in &self.objects {
            lines.push(format!("  {}", object.dn));
            for (name, values) in &object.attributes {
                lines.push(format!("    {name}: {}", values.join(", ")));
            }
            for journal in &object.journal {
                lines.push(match journal {
                    Ok(address) => format!("    is journaled to {address}"),
                    Err(error) => format!("    has an unusable journal address: {error}"),
                });
            }
        }
        if self.is_journal_address == Some(true) {
            lines.push("  is itself the journal address of somebody: guarded".into());
        }
        lines.join("\n")
    }
}
