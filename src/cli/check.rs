//! `copyist check`: is the configuration right, and, with `--online`, does what it names answer?

use std::path::Path;

use serde::Serialize;

use super::{Failure, doctor, load, print_json, print_line};
use crate::config::Settings;
use crate::daemon;
use crate::deliver::{self, ProbeReport, RelayError, RelaySettings};
use crate::hook::{Mode, NextHop, SmtpDoor};
use crate::identity::Identities;
use crate::mail::Side;
use crate::policy::Guard;
use crate::smtp::BareLineBreaks;

/// Mailboxes that are not guarded that are named one by one.
const MOST_NAMED: usize = 20;

/// One thing that was tried.
#[derive(Serialize)]
struct Finding {
    /// "configuration", "journaling", "milter", "smtp", "service", "address map", "guard",
    /// "directory", "relay" or "next hop".
    what: &'static str,
    /// Which one: a file, an address, a URL, a host.
    which: String,
    fine: bool,
    /// What was found, or what is wrong.
    said: String,
}

pub(super) async fn check(config: &Path, online: bool, json: bool) -> Result<(), Failure> {
    let settings = match load(config) {
        Ok(settings) => settings,
        Err(failure) => {
            if json {
                print_json(&[Finding {
                    what: "configuration",
                    which: config.display().to_string(),
                    fine: false,
                    said: failure.to_string(),
                }])?;
            }
            return Err(failure);
        }
    };
    let mut findings = vec![Finding {
        what: "configuration",
        which: config.display().to_string(),
        fine: true,
        said: "fine".into(),
    }];
    findings.extend(nothing_journaled(&settings));
    findings.extend(listeners(&settings));
    let unreachable = doctor::unreachable(config, &settings).into_iter();
    findings.extend(unreachable.map(|(which, said)| Finding {
        what: "service",
        which,
        fine: false,
        said,
    }));
    if online {
        findings.extend(try_directory(&settings).await);
        findings.push(try_relay(&settings).await);
        for door in &settings.hook.smtp {
            findings.push(try_next_hop(&settings, &door.next_hop).await);
        }
    }
    if json {
        print_json(&findings)?;
    } else {
        for Finding {
            what,
            which,
            fine,
            said,
        } in &findings
        {
            print_line(&format!(
                "{} {what} {which}: {said}",
                if *fine { "ok    " } else { "FAILED" }
            ))?;
        }
    }
    match findings.iter().filter(|finding| !finding.fine).count() {
        0 => Ok(()),
        failed => Err(Failure::failed(format!(
            "{failed} of {} checks failed",
            findings.len()
        ))),
    }
}

/// That no mail at all is journaled is wrong, unless texts are what the service is there for.
fn nothing_journaled(settings: &Settings) -> Option<Finding> {
    let fine = settings.text.has_texts();
    let word = if fine { "warning: " } else { "" };
    settings.rules.journal_nothing().then(|| Finding {
        what: "journaling",
        which: "inbound, outbound, internal".into(),
        fine,
        said: format!(
            "{word}nothing is journaled in any direction: set journal_attribute or journal in [inbound], [outbound] or [internal]"
        ),
    })
}

/// Where mail will come in. Nothing is bound: the service may be running.
fn listeners(settings: &Settings) -> Vec<Finding> {
    let listener = |what, which, said| Finding {
        what,
        which,
        fine: true,
        said,
    };
    let milter = settings.hook.milter.iter();
    let milter = milter.map(|listen| {
        let said = match settings.milter_by_default() {
            Some(default) if default == listen => {
                format!("warning: hook.milter.listen is not set: write listen = [\"{listen}\"] in [hook.milter]")
            }
            _ => "configured".into(),
        };
        listener("milter", listen.to_string(), said)
    });
    let smtp = settings.hook.smtp.iter();
    let smtp = smtp.map(|door| listener("smtp", door.listen.to_string(), described(door)));
    milter.chain(smtp).collect()
}

/// What an SMTP listener does, in one line.
fn described(door: &SmtpDoor) -> String {
    let mode = match door.mode {
        Mode::BeforeQueue => "before the queue",
        Mode::AfterQueue => "behind the queue",
    };
    let side = match door.side {
        None => "",
        Some(Side::External) => ", inbound",
        Some(Side::Internal) => ", outbound",
    };
    let tls = match &door.tls {
        None => "",
        Some(tls) if tls.implicit => ", TLS from the start",
        Some(_) => ", STARTTLS",
    };
    let proxy = match door.proxy_protocol {
        true => ", PROXY protocol",
        false => "",
    };
    let bare = match door.bare_line_breaks {
        BareLineBreaks::Reject => "refused",
        BareLineBreaks::Normalize => "made CRLF",
    };
    let next_hop = name(&door.next_hop.host, door.next_hop.port);
    format!("configured: {mode}, to {next_hop}{side}{tls}{proxy}; bare CR and LF are {bare}")
}

/// `host:port`, with brackets around an IPv6 address.
fn name(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

async fn try_directory(settings: &Settings) -> Vec<Finding> {
    let identities = match daemon::open_identities(settings) {
        Ok(identities) => identities,
        Err(error) => {
            return vec![Finding {
                what: "directory",
                which: "settings".into(),
                fine: false,
                said: error.to_string(),
            }];
        }
    };
    let directory = identities.directory();
    let probes = directory.probe().await;
    let mut findings = maps(&identities);
    if probes.iter().any(|probe| probe.outcome.is_ok()) {
        findings.extend(try_guard(settings, &identities).await);
    }
    directory.close().await;
    for probe in probes {
        for outcome in [probe.outcome].into_iter().chain(probe.remarks) {
            findings.push(Finding {
                what: "directory",
                which: probe.url.clone(),
                fine: outcome.is_ok(),
                said: outcome.unwrap_or_else(|error| error),
            });
        }
    }
    findings
}

/// The address maps of the MTA, as they were just read.
fn maps(identities: &Identities) -> Vec<Finding> {
    let all = identities.maps().status().into_iter();
    all.map(|map| Finding {
        what: "address map",
        which: format!("{} {}", map.setting, map.map),
        fine: map.problem.is_none(),
        said: match (map.problem, map.entries) {
            (Some(problem), _) => problem,
            (None, Some(entries)) => format!("{entries} entries"),
            (None, None) => "is asked for each address".into(),
        },
    })
    .collect()
}

/// What the journal guard protects, and which mailboxes it leaves to people.
async fn try_guard(settings: &Settings, identities: &Identities) -> Vec<Finding> {
    let rules = &settings.rules;
    if rules.journal_guard == Guard::Off {
        return Vec::new();
    }
    let finding = |which: String, fine, said| Finding {
        what: "guard",
        which,
        fine,
        said,
    };
    let all = || "journal mailboxes".to_owned();
    let guarded = match daemon::guarded_mailboxes(identities, rules).await {
        Ok(guarded) => guarded,
        Err(outage) => return vec![finding(all(), false, outage.to_string())],
    };
    let names = format!("{} names are guarded", guarded.len());
    let mut findings = vec![finding(all(), true, names)];
    if let Some(why) = guarded.incomplete {
        let said = format!(
            "warning: not all are known, the directory is asked about each recipient: {why}"
        );
        findings.push(finding(all(), true, said));
    }
    let many = guarded.persons.len();
    let some = guarded.persons.into_iter().take(MOST_NAMED);
    findings.extend(some.map(|one| {
        finding(
            one.address.to_string(),
            true,
            format!("warning: {}", one.remark()),
        )
    }));
    if many > MOST_NAMED {
        let said = format!(
            "warning: {} more persons' mailboxes are not guarded; \"copyist coverage --json\" lists them",
            many - MOST_NAMED
        );
        findings.push(finding(all(), true, said));
    }
    findings
}

async fn try_relay(settings: &Settings) -> Finding {
    let relay = &settings.deliver.relay;
    let which = format!("{}:{}", relay.host, relay.port);
    match deliver::probe(relay).await {
        Ok(report) => Finding {
            what: "relay",
            which,
            fine: true,
            said: report.to_string(),
        },
        Err(error) => Finding {
            what: "relay",
            which,
            fine: false,
            said: error.to_string(),
        },
    }
}

async fn try_next_hop(settings: &Settings, to: &NextHop) -> Finding {
    let server = RelaySettings {
        host: to.host.clone(),
        port: to.port,
        tls: to.tls,
        ca_file: to.ca_file.clone(),
        login: None,
        connections: 1,
        helo_name: settings.journal.hostname.clone(),
        timeout: to.timeout,
    };
    let outcome = deliver::probe(&server).await;
    Finding {
        what: "next hop",
        which: name(&to.host, to.port),
        fine: outcome.is_ok(),
        said: match outcome {
            Ok(ProbeReport {
                encrypted: true, ..
            }) => "answers, encrypted".into(),
            Ok(_) => "answers, not encrypted".into(),
            Err(RelayError { what, .. }) => what,
        },
    }
}
