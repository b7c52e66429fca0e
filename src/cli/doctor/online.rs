//! Findings from the directory, the service and the relay, with `--online`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::copies;
use super::finding::{Finding, Severity};
use super::line;
use super::maps;
use super::postfix::Postfix;
use super::system;
use super::targets;
use crate::config::Settings;
use crate::daemon;
use crate::deliver::{self, ProbeReport};
use crate::directory::{Directory, ServerProbe, Source, Target};
use crate::identity::{Identities, UnguardedMailbox};
use crate::mail::{Address, format_size};
use crate::policy::{Direction, Guard};

/// The most unguarded mailboxes listed one by one.
const MOST_NAMED: usize = 20;

/// The timeout for the service's metrics, and their largest size.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_METRICS: u64 = 4 * 1024 * 1024;

pub(super) async fn findings(postfixes: &[Postfix], settings: &Settings) -> Vec<Finding> {
    let mut found = check_directory(postfixes, settings).await;
    found.extend(check_service(settings).await);
    found.extend(check_relay(postfixes, settings).await);
    found
}

async fn check_directory(postfixes: &[Postfix], settings: &Settings) -> Vec<Finding> {
    let identities = match daemon::open_identities(settings) {
        Ok(identities) => identities,
        Err(error) => return vec![unreachable("directory", error.to_string())],
    };
    let directory = identities.directory();
    let mut found = check_unreadable_maps(&identities);
    let probes = directory.probe().await;
    for probe in &probes {
        found.extend(check_of_server(probe, settings));
    }
    if probes.iter().any(|probe| probe.outcome.is_ok()) {
        found.extend(check_guard(&identities, settings).await);
        found.extend(targets::findings(directory, postfixes, settings).await);
    }
    found.extend(check_targets(directory, settings).await);
    directory.close().await;
    found
}

/// Finds address maps that are unreadable for other reasons than permissions.
fn check_unreadable_maps(identities: &Identities) -> Vec<Finding> {
    let all = identities.maps().status().into_iter();
    all.filter_map(|map| {
        Some(Finding {
            name: maps::UNREADABLE,
            severity: Severity::Error,
            place: format!("{} {}", map.map, map.setting),
            seen: map.problem?,
            why: "Copyist cannot read this address map: mail that it may apply to is deferred"
                .into(),
            fix: format!("postmap -s {}, once the map is fixed", map.map),
        })
    })
    .collect()
}

/// Finds journal mailboxes that the guard does not know or takes for personal ones.
async fn check_guard(identities: &Identities, settings: &Settings) -> Vec<Finding> {
    let rules = &settings.rules;
    if rules.journal_guard == Guard::Off {
        return Vec::new();
    }
    // An unreachable directory is another finding.
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
            seen: format!("contains none of {} further mailboxes that journal attributes name", many - MOST_NAMED),
            why: "they look like personal mailboxes, which must accept external mail".into(),
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
        seen: format!("names the mailbox of {dn}, which looks like a personal mailbox ({mark})"),
        why: "is it a journal mailbox? It is not guarded: external senders can write to it, including forged reports".into(),
        fix: format!(
            "if so: {}",
            line::append(settings, "organization.journal_mailboxes", &[address.to_string()])
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

/// Returns the finding about an incomplete guard: a paged search of the whole directory may need a
/// higher limit (slapd.conf(5), limits).
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
        why: "not all journal mailboxes are known in advance: each recipient of external mail is looked up, which fails while the directory is unavailable".into(),
        fix: format!("on OpenLDAP, for the database: olcLimits: {who} size.prtotal=unlimited"),
    }
}

/// Finds problems in the metrics of the running service.
async fn check_service(settings: &Settings) -> Vec<Finding> {
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
    let unidentified = unknown.and_then(|count| check_unidentified(listen, count));
    let takes_nothing = value("copyist_relay_takes_nothing") == Some(1.0);
    let fails = takes_nothing.then(|| takes_nothing_from(listen, settings));
    unidentified.into_iter().chain(fails).collect()
}

fn takes_nothing_from(listen: SocketAddr, settings: &Settings) -> Finding {
    Finding {
        name: "relay-takes-nothing",
        severity: Severity::Error,
        place: format!("relay {}", settings.deliver.relay.name()),
        seen: format!("accepted none of the last reports of the service ({listen})"),
        why: "no copy reaches its journal mailbox".into(),
        fix: "copyist queue list shows the relay's replies; when the cause is fixed: copyist queue retry --all".into(),
    }
}

/// Finds messages with unidentified senders since the start of the service.
fn check_unidentified(listen: SocketAddr, count: f64) -> Option<Finding> {
    (count > 0.0).then(|| Finding {
        name: "senders-unidentified",
        severity: Severity::Warning,
        place: format!("service {listen}"),
        seen: format!("accepted {count} messages from the organization's clients with unidentified senders"),
        why: "no copy is made for these senders: a user name or address is not in the directory".into(),
        fix: "journalctl -u copyist -g 'sender not found in the directory' names each client; add its address or user name to its object, or the client to organization.gateways if it relays external mail".into(),
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

fn check_of_server(probe: &ServerProbe, settings: &Settings) -> Vec<Finding> {
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
        found.extend(system::check_certificate(&place, until, SystemTime::now()));
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
        why: "mail of the people who should have this attribute passes without a copy".into(),
        fix: "fix the name (journal_attribute), or allow the account to read the attribute; test with copyist check --online".into(),
    }));
    let remarks = remarks.into_iter();
    found.extend(remarks.map(|why| Finding {
        name: "directory-question",
        severity: Severity::Warning,
        place: place.clone(),
        seen: why.clone(),
        why: "people may be found late, or not by this attribute".into(),
        fix: "see docs/directory.md: rights, indexes, attribute names".into(),
    }));
    found
}

/// Whether a remark names an attribute.
fn is_about(remark: &str, attribute: &str) -> bool {
    let mut words = remark.split([' ', ':']);
    words.any(|word| word == attribute)
}

/// Returns the finding about a missing index (slapd-config(5), olcDbIndex; Active Directory: bit 0 of
/// searchFlags in the schema).
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
        why: "each lookup reads the whole directory and slows down as it grows".into(),
        fix: format!(
            "on OpenLDAP: printf 'dn: olcDatabase={{1}}mdb,cn=config\\nchangetype: modify\\nadd: olcDbIndex\\n{}' | ldapmodify -Y EXTERNAL -H ldapi:/// (the database of {base}); on Active Directory: set bit 0 of searchFlags of the attribute in the schema",
            attributes
                .iter()
                .map(|name| format!("olcDbIndex: {name} eq\\n"))
                .collect::<String>()
        ),
    }
}

fn unreachable(place: &str, seen: String) -> Finding {
    Finding {
        name: "directory-unreachable",
        severity: Severity::Warning,
        place: place.to_owned(),
        seen,
        why: "mail for people who are not cached is deferred".into(),
        fix: "copyist check --online, once it is fixed".into(),
    }
}

/// Finds unresolved journal targets in the settings.
async fn check_targets(directory: &Directory, settings: &Settings) -> Vec<Finding> {
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
                    why: "every copy for it goes to the fallback address, or as an NDR to the NDR address"
                        .into(),
                    fix: format!(
                        "copyist resolve '{target}', once the object or the setting is fixed"
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
                    why: "they get no copy; the other members do".into(),
                    fix: format!("copyist resolve '{target}' lists them; add an address to each, or remove them from the group"),
                }),
                // An outage is already reported.
                _ => {}
            }
        }
    }
    found
}

async fn check_relay(postfixes: &[Postfix], settings: &Settings) -> Vec<Finding> {
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
            let why = "reports stay queued";
            let fix = "copyist check --online, once it is fixed";
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
        found.extend(system::check_certificate(&place, until, SystemTime::now()));
    }
    if let Some(why) = tls_fault {
        found.push(finding(
            "relay-not-encrypted",
            Severity::Warning,
            format!("offers STARTTLS, but TLS fails: {why}"),
            "reports are sent unencrypted",
            "enable TLS 1.2 or later and a valid certificate on the relay, then set relay.tls = \"required\"",
        ));
    }
    if !capabilities.eight_bit_mime {
        found.push(finding(
            "relay-lacks-8bitmime",
            Severity::Warning,
            "does not offer 8BITMIME (RFC 6152)".into(),
            "reports of 8-bit mail stay queued: originals are never converted",
            "enable 8BITMIME on the relay, or use another relay",
        ));
    }
    if !capabilities.dsn {
        found.push(finding(
            "relay-lacks-dsn",
            Severity::Hint,
            "does not offer DSN (RFC 3461)".into(),
            "a bounce of a report can be recognized only by its Message-ID, if the bounce contains it",
            "enable DSN on the relay",
        ));
    }
    found.extend(check_mailboxes(settings).await);
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
            "reports of messages near the limit exceed it: they are rejected and kept as dead letters",
            &format!("raise the relay's limit, or {}", postfix.set_main("message_size_limit", &(limit / 10 * 9).to_string())),
        ));
    }
    found
}

/// Finds journal and NDR addresses in the settings that the relay rejects.
async fn check_mailboxes(settings: &Settings) -> Vec<Finding> {
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
        // An unreachable relay is already reported.
        let refused = deliver::refusals(relay, ndr, &recipients)
            .await
            .unwrap_or_default();
        found.extend(refused.into_iter().map(|(address, reply)| Finding {
            name: "relay-refuses",
            severity: Severity::Warning,
            place: format!("relay {} {address}", relay.name()),
            seen: format!("replies {reply}"),
            why: format!("reports of {direction} mail cannot be delivered: they stay queued, or become NDRs and dead letters"),
            fix: "allow mail from Copyist to this address on the relay, or set another address".into(),
        }));
    }
    found
}
