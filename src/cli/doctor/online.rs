//! What the directory and the relay say, with `--online`.

use std::time::SystemTime;

use super::copies;
use super::finding::{Finding, Severity};
use super::postfix::Postfix;
use super::system;
use crate::config::Settings;
use crate::deliver::{self, ProbeReport};
use crate::directory::{Directory, Probe, Source, Target};
use crate::mail::Address;
use crate::policy::Direction;

pub(super) async fn findings(postfixes: &[Postfix], settings: &Settings) -> Vec<Finding> {
    let mut found = directory(settings).await;
    found.extend(relay(postfixes, settings).await);
    found
}

async fn directory(settings: &Settings) -> Vec<Finding> {
    let directory = match Directory::open(settings.directory.clone()) {
        Ok(directory) => directory,
        Err(error) => return vec![unreachable("directory", error.to_string())],
    };
    let mut found = Vec::new();
    for probe in directory.probe().await {
        found.extend(of_server(&probe, settings));
    }
    found.extend(targets(&directory, settings).await);
    directory.close().await;
    found
}

fn of_server(probe: &Probe, settings: &Settings) -> Vec<Finding> {
    let place = format!("directory {}", probe.url);
    let seen = match &probe.outcome {
        Ok(_) => None,
        Err(why) => Some(why.clone()),
    };
    let mut found: Vec<Finding> = seen
        .map(|seen| unreachable(&place, seen))
        .into_iter()
        .collect();
    if let Some(until) = probe.expires {
        found.extend(system::certificate(&place, until, SystemTime::now()));
    }
    if !probe.unindexed.is_empty() {
        found.push(index(&place, &probe.unindexed, settings));
    }
    let remarks = (probe.remarks.iter()).filter_map(|remark| remark.as_ref().err());
    let (empty, remarks): (Vec<_>, Vec<_>) =
        remarks.partition(|why| probe.nobody_has.iter().any(|name| is_about(why, name)));
    found.extend(empty.into_iter().map(|why| Finding {
        name: "journal-attribute-empty",
        severity: Severity::Error,
        place: place.clone(),
        seen: why.clone(),
        why: "mail of the people who should have it passes without a copy".into(),
        fix: "mend the name (journal_attribute), or let the account read the attribute; copyist check --online tries it".into(),
    }));
    let remarks = remarks.into_iter();
    found.extend(remarks.map(|why| Finding {
        name: "directory-question",
        severity: Severity::Warning,
        place: place.clone(),
        seen: why.clone(),
        why: "people may be found too late, or not by this attribute".into(),
        fix: "see docs/directory.md: rights, indexes, names of attributes".into(),
    }));
    found
}

/// Whether a remark says that nobody has this attribute.
fn is_about(remark: &str, attribute: &str) -> bool {
    let about = remark.strip_prefix("nobody has ");
    let rest = about.and_then(|rest| rest.strip_prefix(attribute));
    rest.is_some_and(|rest| rest.starts_with([':', ' ']))
}

/// slapd-config(5): olcDbIndex; Active Directory: bit 0 of searchFlags, in the schema.
fn index(place: &str, attributes: &[String], settings: &Settings) -> Finding {
    let base = match &settings.directory.source {
        Source::Ldap(ldap) => ldap.base.as_str(),
        Source::Ldif(_) => "",
    };
    Finding {
        name: "directory-index",
        severity: Severity::Hint,
        place: place.to_owned(),
        seen: format!("has no equality index of {}", attributes.join(", ")),
        why: "each question reads the whole directory, and takes the longer the more people there are".into(),
        fix: format!(
            "on OpenLDAP: printf 'dn: olcDatabase={{1}}mdb,cn=config\\nchangetype: modify\\nadd: olcDbIndex\\n{}' | ldapmodify -Y EXTERNAL -H ldapi:/// (the database of {base}); on Active Directory: set bit 0 of searchFlags of the attribute in the schema",
            attributes.iter().map(|name| format!("olcDbIndex: {name} eq\\n")).collect::<String>()
        ),
    }
}

fn unreachable(place: &str, seen: String) -> Finding {
    Finding {
        name: "directory-unreachable",
        severity: Severity::Warning,
        place: place.to_owned(),
        seen,
        why: "mail for people who are not remembered is deferred".into(),
        fix: "copyist check --online, once it is mended".into(),
    }
}

/// Objects that the settings name as journal targets.
async fn targets(directory: &Directory, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    for direction in Direction::ALL {
        let all = settings.rules.of(direction).journal.iter();
        let named: Vec<Target> = all
            .filter(|target| target.smtp().is_none())
            .cloned()
            .collect();
        for (target, answer) in directory.resolve(&named).await {
            // An outage is told of already.
            if let Ok(Err(problem)) = answer {
                found.push(Finding {
                    name: "journal-target",
                    severity: Severity::Error,
                    place: format!("{direction}.journal"),
                    seen: format!("{target}: {problem}"),
                    why: "every copy for it goes to the fallback, or as an NDR to the NDR address"
                        .into(),
                    fix: format!(
                        "copyist resolve '{target}', once the object or the setting is mended"
                    ),
                });
            }
        }
    }
    found
}

async fn relay(postfixes: &[Postfix], settings: &Settings) -> Vec<Finding> {
    let relay = &settings.deliver.relay;
    let place = format!("relay {}", relay.name());
    let finding = |name, severity, seen: String, why: &str, fix: &str| Finding {
        name,
        severity,
        place: place.clone(),
        seen,
        why: why.into(),
        fix: fix.into(),
    };
    let ProbeReport {
        capabilities,
        expires,
        ..
    } = match deliver::probe(relay).await {
        Ok(report) => report,
        Err(error) => {
            let why = "reports wait in the spool";
            let fix = "copyist check --online, once it is mended";
            return vec![finding(
                "relay-unreachable",
                Severity::Warning,
                error.what,
                why,
                fix,
            )];
        }
    };
    let mut found = Vec::new();
    if let Some(until) = expires {
        found.extend(system::certificate(&place, until, SystemTime::now()));
    }
    if !capabilities.eight_bit_mime {
        found.push(finding(
            "relay-lacks-8bitmime",
            Severity::Warning,
            "does not offer 8BITMIME (RFC 6152)".into(),
            "reports of 8-bit mail wait in the spool: an original is never recoded",
            "have the relay offer 8BITMIME, or set [relay] to one that does",
        ));
    }
    if !capabilities.dsn {
        found.push(finding(
            "relay-lacks-dsn",
            Severity::Hint,
            "does not offer DSN (RFC 3461)".into(),
            "a bounce of a report is known by its Message-ID only, where the bounce has it",
            "have the relay offer DSN",
        ));
    }
    found.extend(mailboxes(settings).await);
    let limit = capabilities.size.filter(|limit| *limit > 0);
    for postfix in postfixes {
        let largest = copies::largest(postfix, settings);
        let Some(limit) = limit.filter(|limit| copies::is_too_small(*limit, largest)) else {
            continue;
        };
        let taken = largest.map_or("any size".to_owned(), |largest| format!("{largest} octets"));
        found.push(finding(
            "relay-size-limit",
            Severity::Warning,
            format!("takes {limit} octets, and {} takes {taken}", postfix.dir.display()),
            "the report of a message near the limit is larger than that: refused, and kept as a dead letter",
            &format!("raise the relay's limit, or {}", postfix.set_main("message_size_limit", &(limit / 10 * 9).to_string())),
        ));
    }
    found
}

/// Whether the relay takes reports to the mailboxes that the settings name, and to the NDR addresses.
async fn mailboxes(settings: &Settings) -> Vec<Finding> {
    let relay = &settings.deliver.relay;
    let mut found = Vec::new();
    for direction in Direction::ALL {
        let rules = settings.rules.of(direction);
        let Some(ndr) = &rules.ndr else {
            continue;
        };
        let named = rules.journal.iter().filter_map(|target| target.smtp());
        let mut recipients: Vec<Address> = named
            .chain(&settings.rules.fallback_journal)
            .cloned()
            .collect();
        recipients.push(ndr.clone());
        // That it could not be asked is told where it was tried first.
        let refused = deliver::refusals(relay, ndr, &recipients)
            .await
            .unwrap_or_default();
        found.extend(refused.into_iter().map(|(address, reply)| Finding {
            name: "relay-refuses",
            severity: Severity::Warning,
            place: format!("relay {} {address}", relay.name()),
            seen: format!("says {reply}"),
            why: format!("reports of {direction} mail cannot be delivered: they wait, or become NDRs and dead letters"),
            fix: "have the relay take mail from Copyist to this address, or name another".into(),
        }));
    }
    found
}
