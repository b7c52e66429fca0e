//! What the journal attributes of the whole directory lead to: values without a mailbox, mailboxes
//! that the relay rejects, people without an address.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::copies;
use super::finding::{Finding, Severity};
use super::postfix::Postfix;
use crate::config::Settings;
use crate::deliver;
use crate::directory::Directory;
use crate::mail::Address;
use crate::policy::Direction;
use crate::survey::{Coverage, Summary};

/// Time for reading the whole directory.
const PATIENCE: Duration = Duration::from_secs(60);

/// Journal addresses that the relay is asked about.
const MOST_ASKED: usize = 50;

/// What the directory says of everybody.
struct Everybody {
    summary: Summary,
    /// The first value that leads nowhere.
    lost: Option<String>,
    journal_addresses: BTreeSet<Address>,
}

/// Findings about the journal attributes. An outage of the directory is another finding.
pub(super) async fn findings(
    directory: &Directory,
    postfixes: &[Postfix],
    settings: &Settings,
) -> Vec<Finding> {
    let everybody = match timeout(PATIENCE, read(directory, settings)).await {
        Ok(Some(everybody)) => everybody,
        Ok(None) | Err(_) => return Vec::new(),
    };
    let mut found: Vec<Finding> = people(&everybody.summary, settings).into_iter().collect();
    if let Some(lost) = everybody.lost {
        found.push(Finding {
            name: "journal-value",
            severity: Severity::Error,
            place: format!("directory, {} values", everybody.summary.values_without_target),
            seen: lost,
            why: "no copy can be delivered to it: copies go to the fallback, or as an NDR to the NDR address".into(),
            fix: "correct the value; copyist coverage --problems lists all of them".into(),
        });
    }
    for postfix in postfixes {
        // Without the directory it is found for the addresses of the settings.
        if copies::mailbox_size(postfix, copies::configured(settings)).is_none() {
            found.extend(copies::mailbox_size(
                postfix,
                everybody.journal_addresses.iter(),
            ));
        }
    }
    found.extend(ndr(&everybody.journal_addresses, settings));
    found.extend(rejected(&everybody.journal_addresses, settings).await);
    found
}

async fn read(directory: &Directory, settings: &Settings) -> Option<Everybody> {
    let addresses = &settings.directory.address_attributes;
    let mut reading = Coverage::begin(directory, addresses, &settings.rules);
    let mut lost = None;
    let mut journal_addresses = BTreeSet::new();
    loop {
        let people = reading.next().await.ok()?;
        if people.is_empty() {
            break;
        }
        for value in people.into_iter().flat_map(|person| person.journal) {
            if let (None, Some(problem)) = (&lost, value.problem) {
                lost = Some(format!(
                    "{} of {}: {problem}",
                    value.attribute, value.object
                ));
            }
            journal_addresses.extend(value.targets);
        }
    }
    Some(Everybody {
        summary: reading.end(None),
        lost,
        journal_addresses,
    })
}

/// Without an object with an address nobody is found, and nothing is journaled by attribute.
fn people(summary: &Summary, settings: &Settings) -> Option<Finding> {
    let names = settings.directory.address_attributes.join(", ");
    (summary.objects == 0).then(|| Finding {
        name: "people-missing",
        severity: Severity::Error,
        place: "directory".into(),
        seen: format!("no object below directory.base has {names}"),
        why: "no sender and no recipient is found: their mail passes without a copy".into(),
        fix: "correct directory.base or directory.address_attributes, or let the account read these attributes; copyist check --online tries them".into(),
    })
}

/// NDRs about reports to a mailbox that goes to this mailbox as well.
fn ndr(journal_addresses: &BTreeSet<Address>, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    for direction in Direction::ALL {
        let ndr = settings.rules.of(direction).ndr.as_ref();
        let Some(ndr) = ndr.filter(|ndr| journal_addresses.contains(ndr)) else {
            continue;
        };
        found.push(Finding {
            name: "ndr-to-journal",
            severity: Severity::Warning,
            place: format!("{direction}.journal_ndr"),
            seen: format!("is {ndr}, to which journal attributes send reports, too"),
            why: "when this mailbox takes no reports, it takes no NDRs about them either, and nobody reads them".into(),
            fix: "name a mailbox of its own that somebody reads, such as journal_ndr = \"journal-ndr@example.com\"".into(),
        });
    }
    found
}

/// The journal addresses that the relay rejects.
async fn rejected(journal_addresses: &BTreeSet<Address>, settings: &Settings) -> Vec<Finding> {
    let relay = &settings.deliver.relay;
    let mut ndrs = Direction::ALL.into_iter();
    let Some(ndr) = ndrs.find_map(|direction| settings.rules.of(direction).ndr.as_ref()) else {
        return Vec::new();
    };
    let asked: Vec<Address> = journal_addresses.iter().take(MOST_ASKED).cloned().collect();
    if asked.is_empty() {
        return Vec::new();
    }
    // That the relay could not be asked is another finding.
    let refused = deliver::refusals(relay, ndr, &asked)
        .await
        .unwrap_or_default();
    let refused = refused.into_iter().filter(|(address, _)| address != ndr);
    refused
        .map(|(address, reply)| Finding {
            name: "relay-refuses",
            severity: Severity::Error,
            place: format!("relay {} {address}", relay.name()),
            seen: format!("says {reply}"),
            why: "reports to this address, which journal attributes name, cannot be delivered: they wait, or become NDRs and dead letters".into(),
            fix: "correct the value (copyist coverage names who has it), or have the relay take mail from Copyist to this address".into(),
        })
        .collect()
}
