//! `copyist check`: is the configuration right, and, with `--online`, does what it names answer?

use std::path::Path;

use serde::Serialize;

use super::{Failure, load, print_json, print_line};
use crate::config::Settings;
use crate::deliver;
use crate::directory::Directory;

/// One thing that was tried.
#[derive(Serialize)]
struct Finding {
    /// "configuration", "directory" or "relay".
    what: &'static str,
    /// Which one: a file, a URL, a host.
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
    if online {
        findings.extend(try_directory(&settings).await);
        findings.push(try_relay(&settings).await);
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
