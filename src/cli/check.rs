//! `copyist check`: validates the configuration and, with `--online`, the servers it names.

use std::path::Path;

use serde::Serialize;

use super::{Failure, doctor, load, print_json, print_line};
use crate::config::Settings;
use crate::daemon;
use crate::deliver::{self, ProbeReport, RelayError, RelaySettings};
use crate::hook::{Mode, NextHop, SmtpListener};
use crate::identity::Identities;
use crate::mail::Side;
use crate::policy::Guard;
use crate::smtp::BareLineBreaks;

/// The most unguarded mailboxes listed one by one.
const MOST_NAMED: usize = 20;

/// The result of one check.
#[derive(Serialize)]
struct CheckResult {
    /// "configuration", "journaling", "milter", "smtp", "service", "address map", "guard",
    /// "directory", "relay" or "next hop".
    what: &'static str,
    /// The file, address, URL or host.
    which: String,
    #[serde(rename = "fine")]
    is_ok: bool,
    /// The result or the problem.
    #[serde(rename = "said")]
    text: String,
}

pub(super) async fn check(config: &Path, online: bool, json: bool) -> Result<(), Failure> {
    let settings = match load(config) {
        Ok(settings) => settings,
        Err(failure) => {
            if json {
                print_json(&[CheckResult {
                    what: "configuration",
                    which: config.display().to_string(),
                    is_ok: false,
                    text: failure.to_string(),
                }])?;
            }
            return Err(failure);
        }
    };
    let mut results = vec![CheckResult {
        what: "configuration",
        which: config.display().to_string(),
        is_ok: true,
        text: "valid".into(),
    }];
    results.extend(nothing_journaled(&settings));
    results.extend(listeners(&settings));
    let unreachable = doctor::unreachable(config, &settings).into_iter();
    results.extend(unreachable.map(|(which, text)| CheckResult {
        what: "service",
        which,
        is_ok: false,
        text,
    }));
    if online {
        results.extend(try_directory(&settings).await);
        results.push(try_relay(&settings).await);
        for door in &settings.hook.smtp {
            results.push(try_next_hop(&settings, &door.next_hop).await);
        }
    }
    if json {
        print_json(&results)?;
    } else {
        for CheckResult {
            what,
            which,
            is_ok,
            text,
        } in &results
        {
            print_line(&format!(
                "{} {what} {which}: {text}",
                if *is_ok { "ok    " } else { "FAILED" }
            ))?;
        }
    }
    match results.iter().filter(|result| !result.is_ok).count() {
        0 => Ok(()),
        failed => Err(Failure::failed(format!(
            "{failed} of {} checks failed",
            results.len()
        ))),
    }
}

/// Fails if no mail at all is journaled, unless the service is used only for texts.
fn nothing_journaled(settings: &Settings) -> Option<CheckResult> {
    let is_ok = settings.text.has_texts();
    let word = if is_ok { "warning: " } else { "" };
    settings.rules.journal_nothing().then(|| CheckResult {
        what: "journaling",
        which: "inbound, outbound, internal".into(),
        is_ok,
        text: format!(
            "{word}nothing is journaled in any direction: set journal_attribute or journal in [inbound], [outbound] or [internal]"
        ),
    })
}

/// Lists the listeners, without binding: the service may be running.
fn listeners(settings: &Settings) -> Vec<CheckResult> {
    let listener = |what, which, text| CheckResult {
        what,
        which,
        is_ok: true,
        text,
    };
    let milter = settings.hook.milter.iter();
    let milter = milter.map(|listen| {
        let text = match settings.milter_by_default() {
            Some(default) if default == listen => {
                format!("warning: hook.milter.listen is not set: add listen = [\"{listen}\"] to [hook.milter]")
            }
            _ => "configured".into(),
        };
        listener("milter", listen.to_string(), text)
    });
    let smtp = settings.hook.smtp.iter();
    let smtp = smtp.map(|door| listener("smtp", door.listen.to_string(), describe(door)));
    milter.chain(smtp).collect()
}

/// Describes an SMTP listener in one line.
fn describe(door: &SmtpListener) -> String {
    let mode = match door.mode {
        Mode::BeforeQueue => "before the queue",
        Mode::AfterQueue => "after the queue",
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
        BareLineBreaks::Reject => "rejected",
        BareLineBreaks::Normalize => "converted to CRLF",
    };
    let next_hop = name(&door.next_hop.host, door.next_hop.port);
    format!("configured: {mode}, to {next_hop}{side}{tls}{proxy}; bare CR and LF are {bare}")
}

/// Returns `host:port`, with brackets around an IPv6 address.
fn name(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

async fn try_directory(settings: &Settings) -> Vec<CheckResult> {
    let identities = match daemon::open_identities(settings) {
        Ok(identities) => identities,
        Err(error) => {
            return vec![CheckResult {
                what: "directory",
                which: "settings".into(),
                is_ok: false,
                text: error.to_string(),
            }];
        }
    };
    let directory = identities.directory();
    let probes = directory.probe().await;
    let mut results = maps(&identities);
    if probes.iter().any(|probe| probe.outcome.is_ok()) {
        results.extend(try_guard(settings, &identities).await);
    }
    directory.close().await;
    for probe in probes {
        for outcome in [probe.outcome].into_iter().chain(probe.remarks) {
            results.push(CheckResult {
                what: "directory",
                which: probe.url.clone(),
                is_ok: outcome.is_ok(),
                text: outcome.unwrap_or_else(|error| error),
            });
        }
    }
    results
}

/// Checks the address maps of the MTA.
fn maps(identities: &Identities) -> Vec<CheckResult> {
    let all = identities.maps().status().into_iter();
    all.map(|map| CheckResult {
        what: "address map",
        which: format!("{} {}", map.setting, map.map),
        is_ok: map.problem.is_none(),
        text: match (map.problem, map.entries) {
            (Some(problem), _) => problem,
            (None, Some(entries)) => format!("{entries} entries"),
            (None, None) => "queried for each address".into(),
        },
    })
    .collect()
}

/// Checks the journal guard: the guarded addresses and the unguarded personal mailboxes.
async fn try_guard(settings: &Settings, identities: &Identities) -> Vec<CheckResult> {
    let rules = &settings.rules;
    if rules.journal_guard == Guard::Off {
        return Vec::new();
    }
    let result = |which: String, is_ok, text| CheckResult {
        what: "guard",
        which,
        is_ok,
        text,
    };
    let all = || "journal mailboxes".to_owned();
    let guarded = match daemon::guarded_mailboxes(identities, rules).await {
        Ok(guarded) => guarded,
        Err(outage) => return vec![result(all(), false, outage.to_string())],
    };
    let names = format!("{} addresses guarded", guarded.len());
    let mut results = vec![result(all(), true, names)];
    if let Some(why) = guarded.incomplete {
        let text =
            format!("warning: incomplete, so each recipient is looked up in the directory: {why}");
        results.push(result(all(), true, text));
    }
    let many = guarded.persons.len();
    let some = guarded.persons.into_iter().take(MOST_NAMED);
    results.extend(some.map(|one| {
        result(
            one.address.to_string(),
            true,
            format!("warning: {}", one.remark()),
        )
    }));
    if many > MOST_NAMED {
        let text = format!(
            "warning: {} more personal mailboxes are not guarded; see \"copyist coverage --json\"",
            many - MOST_NAMED
        );
        results.push(result(all(), true, text));
    }
    results
}

async fn try_relay(settings: &Settings) -> CheckResult {
    let relay = &settings.deliver.relay;
    let which = format!("{}:{}", relay.host, relay.port);
    match deliver::probe(relay).await {
        Ok(report) => CheckResult {
            what: "relay",
            which,
            is_ok: true,
            text: report.to_string(),
        },
        Err(error) => CheckResult {
            what: "relay",
            which,
            is_ok: false,
            text: error.to_string(),
        },
    }
}

async fn try_next_hop(settings: &Settings, to: &NextHop) -> CheckResult {
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
    CheckResult {
        what: "next hop",
        which: name(&to.host, to.port),
        is_ok: outcome.is_ok(),
        text: match outcome {
            Ok(ProbeReport {
                encrypted: true, ..
            }) => "reachable, encrypted".into(),
            Ok(_) => "reachable, not encrypted".into(),
            Err(RelayError { what, .. }) => what,
        },
    }
}
