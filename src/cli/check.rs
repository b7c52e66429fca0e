//! `copyist check`: is the configuration right, and, with `--online`, does what it names answer?

use std::path::Path;

use serde::Serialize;

use super::{Failure, load, print_json, print_line};
use crate::config::Settings;
use crate::deliver::{self, ProbeReport, RelayError, RelaySettings};
use crate::directory::Directory;
use crate::hook::{Mode, NextHop, SmtpDoor};
use crate::mail::Side;
use crate::smtp::BareLineBreaks;

/// One thing that was tried.
#[derive(Serialize)]
struct Finding {
    /// "configuration", "journaling", "milter", "smtp", "directory", "relay" or "next hop".
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
    let milter = milter.map(|listen| listener("milter", listen.to_string(), "configured".into()));
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
        Some(Side::Outside) => ", inbound",
        Some(Side::Ours) => ", outbound",
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
    let directory = match Directory::open(settings.directory.clone()) {
        Ok(directory) => directory,
        Err(error) => {
            return vec![Finding {
                what: "directory",
                which: "settings".into(),
                fine: false,
                said: error.to_string(),
            }];
        }
    };
    let probes = directory.probe().await;
    directory.close().await;
    let mut findings = Vec::new();
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
