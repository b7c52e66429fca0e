//! Journal attributes of the whole directory: unresolved values, addresses that the relay rejects, and
//! people without an address.

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

/// The timeout for scanning the whole directory.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most journal addresses tested with the relay.
const MOST_ASKED: usize = 50;

/// The result of scanning the directory.
struct DirectoryScan {
    summary: Summary,
    /// The first value that does not resolve.
    unresolved: Option<String>,
    journal_addresses: BTreeSet<Address>,
}

/// Findings about the journal attributes. An outage of the directory is another finding.
pub(super) async fn findings(
    directory: &Directory,
    postfixes: &[Postfix],
    settings: &Settings,
) -> Vec<Finding> {
    let Ok(Some(scan)) = timeout(PATIENCE, read(directory, settings)).await else {
        return Vec::new();
    };
    let mut found: Vec<Finding> = check_people(&scan.summary, settings).into_iter().collect();
    if let Some(unresolved) = scan.unresolved {
        found.push(Finding {
            name: "journal-value",
            severity: Severity::Error,
            place: format!("directory, {} values", scan.summary.values_without_target),
            seen: unresolved,
            why: "no copy can be delivered to it: copies go to the fallback address, or as NDRs to the NDR address".into(),
            fix: "correct the value; copyist coverage --problems lists all such values".into(),
        });
    }
    for postfix in postfixes {
        // Without the directory it is found for the addresses of the settings.
        if copies::check_mailbox_size(postfix, copies::configured_journals(settings)).is_none() {
            found.extend(copies::check_mailbox_size(
                postfix,
                scan.journal_addresses.iter(),
            ));
        }
    }
    found.extend(check_ndr(&scan.journal_addresses, settings));
    found.extend(check_rejected(&scan.journal_addresses, settings).await);
    found
}

async fn read(directory: &Directory, settings: &Settings) -> Option<DirectoryScan> {
    let addresses = &settings.directory.address_attributes;
    let mut reading = Coverage::begin(directory, addresses, &settings.rules);
    let mut unresolved = None;
    let mut journal_addresses = BTreeSet::new();
    loop {
        let people = reading.next().await.ok()?;
        if people.is_empty() {
            break;
        }
        for value in people.into_iter().flat_map(|person| person.journal) {
            if let (None, Some(problem)) = (&unresolved, value.problem) {
                unresolved = Some(format!(
                    "{} of {}: {problem}",
                    value.attribute, value.object
                ));
            }
            journal_addresses.extend(value.targets);
        }
    }
    Some(DirectoryScan {
        summary: reading.end(None),
        unresolved,
        journal_addresses,
    })
}

/// Finds a directory without addresses, in which nobody is found and nothing journaled by attribute.
fn check_people(summary: &Summary, settings: &Settings) -> Option<Finding> {
    let names = settings.directory.address_attributes.join(", ");
    (summary.objects == 0).then(|| Finding {
        name: "people-missing",
        severity: Severity::Error,
        place: "directory".into(),
        seen: format!("no object below directory.base has {names}"),
        why: "no sender or recipient is found: their mail passes without a copy".into(),
        fix: "correct directory.base or directory.address_attributes, or allow the account to read these attributes; test with copyist check --online".into(),
    })
}

/// Finds NDR addresses that are also journal addresses.
fn check_ndr(journal_addresses: &BTreeSet<Address>, settings: &Settings) -> Vec<Finding> {
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
            seen: format!("is {ndr}, which is also a journal address"),
            why: "if this mailbox rejects reports, it also rejects the NDRs about them".into(),
            fix: "set a separate mailbox that is read, such as journal_ndr = \"journal-ndr@example.com\"".into(),
        });
    }
    found
}

/// Finds journal addresses that the relay rejects.
async fn check_rejected(
    journal_addresses: &BTreeSet<Address>,
    settings: &Settings,
) -> Vec<Finding> {
    let relay = &settings.deliver.relay;
    let mut ndrs = Direction::ALL.into_iter();
    let Some(ndr) = ndrs.find_map(|direction| settings.rules.of(direction).ndr.as_ref()) else {
        return Vec::new();
    };
    let asked: Vec<Address> = journal_addresses.iter().take(MOST_ASKED).cloned().collect();
    if asked.is_empty() {
        return Vec::new();
    }
    // An unreachable relay is another finding.
    let refused = deliver::refusals(relay, ndr, &asked)
        .await
        .unwrap_or_default();
    let refused = refused.into_iter().filter(|(address, _)| address != ndr);
    refused
        .map(|(address, reply)| Finding {
            name: "relay-refuses",
            severity: Severity::Error,
            place: format!("relay {} {address}", relay.name()),
            seen: format!("replies {reply}"),
            why: "reports to this address, set in journal attributes, cannot be delivered: they stay queued, or become NDRs and dead letters".into(),
            fix: "correct the value (copyist coverage lists its objects), or allow mail from Copyist to this address on the relay".into(),
        })
        .collect()
}
