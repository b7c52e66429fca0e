//! `copyist doctor`: mistakes around Copyist, each with what mends it. Nothing is changed, nothing
//! is sent.
//!
//! ```text
//! postconf ─► postfix ─┐
//! config ─► settings ──┼─► findings ─► lines or JSON, exit status
//! host ─► system ──────┘   (pure)
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `postconf` | runs Postfix's own tool |
//! | `postfix`, `milters` | what it printed, as services, values and addresses. Pure |
//! | `routes`, `filters`, `behaviour` | whether mail comes by, and how Postfix behaves then. Pure |
//! | `names`, `maps`, `clients` | names of mailboxes, address maps, clients: what identity does not cover. Pure |
//! | `copies` | copies and sizes. Pure |
//! | `line` | lines of our own file that findings propose. Pure |
//! | `host`, `holders`, `unit` | look at this machine |
//! | `system`, `service` | what of that is wrong; for the service's user, in its unit. Pure |
//! | `online`, `journaled` | ask the directory and the relay |

mod behaviour;
mod clients;
mod copies;
mod filters;
mod finding;
mod holders;
mod host;
mod journaled;
mod line;
mod maps;
mod milters;
mod names;
mod online;
mod postconf;
mod postfix;
mod routes;
mod service;
mod system;
mod unit;

use std::path::Path;

use nix::unistd::Uid;
use serde::Serialize;

use super::args::DoctorArgs;
use super::{Failure, load, print_json, print_line, print_lines};
use crate::config::Settings;
use crate::spool::Spool;

use finding::{Finding, Severity};
use postfix::Postfix;
use system::System;

/// What was found, as scripts read it.
#[derive(Serialize)]
struct Report {
    /// The directories of the Postfix instances that were read; empty where there is none.
    postfix: Vec<String>,
    /// The worst first.
    findings: Vec<Finding>,
    errors: usize,
    warnings: usize,
    hints: usize,
}

pub(super) async fn doctor(question: DoctorArgs) -> Result<(), Failure> {
    let settings = load(&question.config.file)?;
    let postfixes = postconf::read(&question.postfix).map_err(Failure::failed)?;
    let postfixes = postfixes.unwrap_or_default();
    let system = host::look(&question.config.file, &settings, &postfixes);
    let mut found = findings(&postfixes, &settings, &system);
    found.extend(dead_letters(&settings).await);
    if question.online {
        let online = online::findings(&postfixes, &settings).await;
        // A map that cannot be read is said once, with its file where that is why.
        let is_said = |one: &Finding| {
            let map = one.place.split(' ').next();
            let mut said = found.iter();
            said.any(|known| known.name == one.name && known.place.split(' ').next() == map)
        };
        let new = |one: &Finding| one.name != maps::UNREADABLE || !is_said(one);
        let online: Vec<Finding> = online.into_iter().filter(new).collect();
        found.extend(online);
    }
    let report = Report::new(&postfixes, found);
    if question.json {
        print_json(&report)?;
    } else {
        report.print()?;
    }
    match (report.errors, report.warnings) {
        (0, 0) => Ok(()),
        _ => Err(Failure::failed(report.sum())),
    }
}

/// What the service cannot reach though the superuser, who asks, can: each what it is, and what is
/// wrong.
pub(super) fn unreachable(config: &Path, settings: &Settings) -> Vec<(String, String)> {
    if !Uid::effective().is_root() {
        return Vec::new();
    }
    let system = host::look(config, settings, &[]);
    let found = service::findings(&system, settings).into_iter();
    found
        .map(|one| (one.place, format!("{}; fix: {}", one.seen, one.fix)))
        .collect()
}

/// Reports that nobody took, if the spool can be read.
async fn dead_letters(settings: &Settings) -> Option<Finding> {
    let spool = Spool::inspect(&settings.spool).ok()?;
    let dead = spool.depth().await.ok()?.dead;
    (dead > 0).then(|| Finding {
        name: "dead-letters",
        severity: Severity::Error,
        place: format!("spool {}", settings.state_dir.join("spool").display()),
        seen: format!("has {dead} dead letters: neither the journal address nor the NDR address took them, or they cannot be read"),
        why: "nobody has these reports but the spool".into(),
        fix: "copyist queue list --dead shows the replies; once their cause is fixed: copyist queue retry ID".into(),
    })
}

/// Everything that can be said without asking anybody.
fn findings(postfixes: &[Postfix], settings: &Settings, system: &System) -> Vec<Finding> {
    let mut found = Vec::new();
    for postfix in postfixes {
        found.extend(routes::findings(postfix, settings));
        found.extend(filters::findings(postfix, settings));
        found.extend(behaviour::findings(postfix, settings));
        found.extend(clients::findings(postfix, settings));
        found.extend(names::findings(postfix, settings));
        found.extend(maps::findings(postfix, settings));
        found.extend(copies::findings(postfix, settings));
    }
    found.extend(clients::of_settings(settings));
    found.extend(routes::port_by_default(settings));
    found.extend(names::open_mailboxes(settings));
    found.extend(maps::unreadable(&system.maps, system.user.as_ref()));
    found.extend(copies::journals_nothing(settings));
    found.extend(system::findings(system, settings));
    found.extend(service::findings(system, settings));
    // What stands in main.cf holds for many services, and is said once.
    let mut told: Vec<Finding> = Vec::new();
    for finding in found {
        if !told.contains(&finding) {
            told.push(finding);
        }
    }
    told
}

impl Report {
    fn new(postfixes: &[Postfix], mut findings: Vec<Finding>) -> Report {
        // Those of one severity stay in the order of the subjects.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let count = |severity| {
            let all = findings.iter();
            all.filter(|finding| finding.severity == severity).count()
        };
        Report {
            postfix: (postfixes.iter().map(|one| one.dir.display().to_string())).collect(),
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            hints: count(Severity::Hint),
            findings,
        }
    }

    fn print(&self) -> Result<(), Failure> {
        for finding in &self.findings {
            print_lines(finding.to_lines())?;
        }
        let looked_at = match self.postfix.as_slice() {
            [] => "Postfix is not installed here: only Copyist's own side was looked at".to_owned(),
            all => format!(
                "looked at Postfix ({}) and Copyist's own side",
                all.join(", ")
            ),
        };
        match self.findings.as_slice() {
            [] => print_line(&format!("nothing is wrong; {looked_at}")),
            _ => print_line(&looked_at),
        }?;
        // Errors and warnings are a failure, which is told as every other one.
        match (self.errors + self.warnings, self.hints) {
            (0, 1..) => print_line(&self.sum()),
            _ => Ok(()),
        }
    }

    fn sum(&self) -> String {
        let number = |count: usize, word: &str| match count {
            1 => format!("1 {word}"),
            count => format!("{count} {word}s"),
        };
        format!(
            "{}, {}, {}",
            number(self.errors, "error"),
            number(self.warnings, "warning"),
            number(self.hints, "hint")
        )
    }
}
