//! What the directory and the relay say, with `--online`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::copies;
use super::finding::{Finding, Severity};
use super::journaled;
use super::line;
use super::maps;
use super::postfix::Postfix;
use super::system;
use crate::config::Settings;
use crate::daemon;
use crate::deliver::{self, ProbeReport};
use crate::directory::{Directory, ServerProbe, Source, Target};
use crate::identity::{Identities, UnguardedMailbox};
use crate::mail::{Address, format_size};
use crate::policy::{Direction, Guard};

/// Mailboxes that are not guarded that are named one by one.
const MOST_NAMED: usize = 20;

/// How long the service may take to give its metrics, and the most that is read of them.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_METRICS: u64 = 4 * 1024 * 1024;

pub(super) async fn findings(postfixes: &[Postfix], settings: &Settings) -> Vec<Finding> {
    let mut found = directory(postfixes, settings).await;
    found.extend(service(settings).await);
    found.extend(relay(postfixes, settings).await);
    found
}

async fn directory(postfixes: &[Postfix], settings: &Settings) -> Vec<Finding> {
    let identities = match daemon::open_identities(settings) {
        Ok(identities) => identities,
        Err(error) => return vec![unreachable("directory", error.to_string())],
    };
    let directory = identities.directory();
    let mut found = unreadable_maps(&identities);
    let probes = directory.probe().await;
    for probe in &probes {
        found.extend(of_server(probe, settings));
    }
    if probes.iter().any(|probe| probe.outcome.is_ok()) {
        found.extend(guard(&identities, settings).await);
        found.extend(journaled::findings(directory, postfixes, settings).await);
    }
    found.extend(targets(directory, settings).await);
    directory.close().await;
    found
}

/// Address maps that cannot be read, for another reason than their permissions.
fn unreadable_maps(identities: &Identities) -> Vec<Finding> {
    let all = identities.maps().status().into_iter();
    all.filter_map(|map| {
        Some(Finding {
            name: maps::UNREADABLE,
            severity: Severity::Error,
            place: format!("{} {}", map.map, map.setting),
            seen: map.problem?,
            why: "Copyist cannot read this address map: all mail that it could concern is deferred"
                .into(),
            fix: format!("postmap -s {}, once the map is right", map.map),
        })
    })
    .collect()
}

/// Journal mailboxes that the guard does not know, and those that it takes for people's.
async fn guard(identities: &Identities, settings: &Settings) -> Vec<Finding> {
    let rules = &settings.rules;
    if rules.journal_guard == Guard::Off {
        return Vec::new();
    }
    // That the directory is unreachable is another finding.
    let Ok(guarded) = daemon::guarded_mailboxes(identities, rules).await else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if let Some(why) = &guarded.incomplete {
        found.push(incomplete(why, settings));
    }
    let many = guarded.persons.len();
    let some = guarded.persons.iter().take(MOST_NAMED);
    found.extend(some.map(|one| person(one, settings)));
    found.extend(guarded.closed_persons.iter().map(closed));
    if many > MOST_NAMED {
        found.push(Finding {
            name: "journal-mailbox-unguarded",
            severity: Severity::Hint,
            place: "organization.journal_mailboxes".into(),
            seen: format!("has none of {} further mailboxes that journal attributes name", many - MOST_NAMED),
            why: "they look like people's: mail from outside must reach them".into(),
            fix: "copyist coverage --json lists them (persons_not_guarded); a DN or a domain in organization.journal_mailboxes covers many".into(),
        });
    }
    found
}

fn person(one: &UnguardedMailbox, settings: &Settings) -> Finding {
    let UnguardedMailbox {
        address,
        dn,
        named_by,
        mark,
    } = one;
    Finding {
        name: "journal-mailbox-unguarded",
        severity: Severity::Hint,
        place: format!("{named_by} {address}"),
        seen: format!("names the mailbox of {dn}, which looks like a person's ({mark})"),
        why: "is it a journal mailbox? It is not guarded: people outside can write to it, forged reports as well".into(),
        fix: format!(
            "if so: {}",
            line::added(settings, "organization.journal_mailboxes", &[address.to_string()])
        ),
    }
}

fn closed(one: &UnguardedMailbox) -> Finding {
    let UnguardedMailbox {
        address, dn, mark, ..
    } = one;
    Finding {
        name: "person-closed",
        severity: Severity::Warning,
        place: format!("configuration {address}"),
        seen: format!("is the mailbox of {dn}, which looks like a person's ({mark})"),
        why: "the journal guard rejects mail from outside to the addresses that the settings name: this person gets none".into(),
        fix: format!(
            "name a mailbox of its own as journal_ndr or journal; if it is a journal mailbox: organization.journal_mailboxes = [\"{address}\"]"
        ),
    }
}

/// slapd.conf(5), limits: a search of the whole directory in pages needs leave of its own.
fn incomplete(why: &str, settings: &Settings) -> Finding {
    let account = match &settings.directory.source {
        Source::Ldap(ldap) => ldap.bind.as_ref().map(|bind| bind.dn.as_str()),
        Source::Ldif(_) => None,
    };
    let who = account.map_or("users".to_owned(), |dn| format!("dn.exact=\"{dn}\""));
    Finding {
        name: "guard-incomplete",
        severity: Severity::Warning,
        place: "directory".into(),
        seen: why.to_owned(),
        why: "not all journal mailboxes are known in advance: the directory is asked about each recipient from outside, and none is known while it is away".into(),
        fix: format!("on OpenLDAP, for the database: olcLimits: {who} size.prtotal=unlimited"),
    }
}

/// What the service says of itself, if it runs.
async fn service(settings: &Settings) -> Vec<Finding> {
    let Some(listen) = settings.admin.listen else {
        return Vec::new();
    };
    let Ok(Ok(metrics)) = timeout(PATIENCE, metrics(listen)).await else {
        return Vec::new();
    };
    let value = |name: &str| -> Option<f64> {
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value?.trim().parse().ok()
    };
    let unknown = value("copyist_messages_unidentified_total");
    let unidentified = unknown.and_then(|count| unidentified(listen, count));
    let takes_nothing = value("copyist_relay_takes_nothing") == Some(1.0);
    let fails = takes_nothing.then(|| takes_nothing_from(listen, settings));
    unidentified.into_iter().chain(fails).collect()
}

fn takes_nothing_from(listen: SocketAddr, settings: &Settings) -> Finding {
    Finding {
        name: "relay-takes-nothing",
        severity: Severity::Error,
        place: format!("relay {}", settings.deliver.relay.name()),
        seen: format!("has taken none of the reports that the service ({listen}) sent to it last"),
        why: "no copy reaches its journal mailbox".into(),
        fix: "copyist queue list shows the relay's replies; once their cause is fixed: copyist queue retry --all".into(),
    }
}

/// Messages since the start of the service whose sender it does not know.
fn unidentified(listen: SocketAddr, count: f64) -> Option<Finding> {
    (count > 0.0).then(|| Finding {
        name: "senders-unidentified",
        severity: Severity::Warning,
        place: format!("service {listen}"),
        seen: format!("has taken {count} messages from clients of the organization whose sender it does not know"),
        why: "what they send has no copy because of its sender: a login or an address of theirs is not in the directory".into(),
        fix: "journalctl -u copyist -g 'sender not found in the directory' names each client; add its address or login to its object, or the client to organization.gateways if it brings mail from outside".into(),
    })
}

async fn metrics(listen: SocketAddr) -> std::io::Result<String> {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        let loopback: IpAddr = match listen.is_ipv4() {
            true => Ipv4Addr::LOCALHOST.into(),
            false => Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream
        .take(MOST_METRICS)
        .read_to_string(&mut answer)
        .await?;
    Ok(answer)
}

fn of_server(probe: &ServerProbe, settings: &Settings) -> Vec<Finding> {
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
    let (empty, remarks): (Vec<_>, Vec<_>) = remarks.partition(|why| {
        probe
            .empty_journal_attributes
            .iter()
            .any(|name| is_about(why, name))
    });
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
            let place = format!("{direction}.journal");
            match answer {
                Ok(Err(problem)) => found.push(Finding {
                    name: "journal-target",
                    severity: Severity::Error,
                    place,
                    seen: format!("{target}: {problem}"),
                    why: "every copy for it goes to the fallback, or as an NDR to the NDR address"
                        .into(),
                    fix: format!(
                        "copyist resolve '{target}', once the object or the setting is mended"
                    ),
                }),
                Ok(Ok(expansion)) if !expansion.members_without_address.is_empty() => found.push(Finding {
                    name: "journal-target-members",
                    severity: Severity::Warning,
                    place,
                    seen: format!(
                        "{target}: {} of its members have no address, or are not in the directory",
                        expansion.members_without_address.len()
                    ),
                    why: "they get no copy, the others do".into(),
                    fix: format!("copyist resolve '{target}' names them; give each an address, or take them out of the group"),
                }),
                // An outage is told of already.
                _ => {}
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
        tls_fault,
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
    if let Some(why) = tls_fault {
        found.push(finding(
            "relay-not-encrypted",
            Severity::Warning,
            format!("offers STARTTLS, and there is no TLS with it: {why}"),
            "reports go to it in the clear",
            "give it a certificate of this century, with TLS 1.2 or later, then set relay.tls = \"required\"",
        ));
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
        let taken = largest.map_or("any size".to_owned(), format_size);
        found.push(finding(
            "relay-size-limit",
            Severity::Warning,
            format!("takes {}, and {} takes {taken}", format_size(limit), postfix.dir.display()),
            "the report of a message near the limit is larger than that: refused, and kept as a dead letter",
            &format!("raise the relay's limit, or {}", postfix.set_main("message_size_limit", &(limit / 10 * 9).to_string())),
        ));
    }
    found
}

/// Whether the relay takes reports to the mailboxes that the settings name, and to the NDR
/// addresses.
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
