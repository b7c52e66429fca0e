//! `copyist doctor`: problems of the installation, each with its fix. Changes and sends nothing.
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
//! | `postfix`, `milters` | its output as services, values and addresses. Pure |
//! | `routes`, `filters`, `behaviour` | whether mail passes Copyist, and how Postfix uses it. Pure |
//! | `names`, `maps`, `clients` | mailbox names, address maps and clients that identity misses. Pure |
//! | `copies` | copies and sizes. Pure |
//! | `line` | proposed lines of the configuration. Pure |
//! | `host`, `holders`, `unit` | facts about this machine |
//! | `system`, `service` | problems of the machine, for the service's user and unit. Pure |
//! | `online` | queries the directory, the service and the relay |
//! | `targets` | resolves all journal attributes and checks them with the relay |

mod behaviour;
mod clients;
mod copies;
mod filters;
mod finding;
mod holders;
mod host;
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
mod targets;
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

/// The result, for scripts.
#[derive(Serialize)]
struct Report {
    /// The configuration directories of the Postfix instances; empty if there are none.
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
    let system = host::inspect(&question.config.file, &settings, &postfixes);
    let mut found = findings(&postfixes, &settings, &system);
    found.extend(check_dead_letters(&settings).await);
    if question.online {
        let online = online::findings(&postfixes, &settings).await;
        // An unreadable map is reported once, with its file if that is the cause.
        let is_known = |one: &Finding| {
            let map = one.place.split(' ').next();
            let mut all = found.iter();
            all.any(|known| known.name == one.name && known.place.split(' ').next() == map)
        };
        let new = |one: &Finding| one.name != maps::UNREADABLE || !is_known(one);
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
        _ => Err(Failure::failed(report.totals())),
    }
}

/// Returns what the service cannot access although root, who runs the command, can: each with its
/// problem.
pub(super) fn unreachable(config: &Path, settings: &Settings) -> Vec<(String, String)> {
    if !Uid::effective().is_root() {
        return Vec::new();
    }
    let system = host::inspect(config, settings, &[]);
    let found = service::findings(&system, settings).into_iter();
    found
        .map(|one| (one.place, format!("{}; fix: {}", one.seen, one.fix)))
        .collect()
}

/// Finds dead letters, if the spool is readable.
async fn check_dead_letters(settings: &Settings) -> Option<Finding> {
    let spool = Spool::inspect(&settings.spool).ok()?;
    let dead = spool.depth().await.ok()?.dead;
    (dead > 0).then(|| Finding {
        name: "dead-letters",
        severity: Severity::Error,
        place: format!("spool {}", settings.state_dir.join("spool").display()),
        seen: format!("contains {dead} dead letters: rejected by both the journal address and the NDR address, or unreadable"),
        why: "these reports exist only in the spool".into(),
        fix: "copyist queue list --dead shows the replies; when the cause is fixed: copyist queue retry ID".into(),
    })
}

/// Returns all findings that need no queries.
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
    found.extend(clients::check_of_settings(settings));
    found.extend(routes::check_port_by_default(settings));
    found.extend(names::check_open_mailboxes(settings));
    found.extend(maps::check_unreadable(&system.maps, system.user.as_ref()));
    found.extend(copies::check_journals_nothing(settings));
    found.extend(system::findings(system, settings));
    found.extend(service::findings(system, settings));
    // A value in main.cf applies to many services, but is reported once.
    let mut unique: Vec<Finding> = Vec::new();
    for finding in found {
        if !unique.contains(&finding) {
            unique.push(finding);
        }
    }
    unique
}

impl Report {
    fn new(postfixes: &[Postfix], mut findings: Vec<Finding>) -> Report {
        // A stable sort: findings of one severity keep their order.
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
        let scope = match self.postfix.as_slice() {
            [] => "Postfix is not installed: checked only Copyist's own settings and this machine"
                .to_owned(),
            all => format!(
                "checked Postfix ({}), Copyist's settings and this machine",
                all.join(", ")
            ),
        };
        match self.findings.as_slice() {
            [] => print_line(&format!("no problems found; {scope}")),
            _ => print_line(&scope),
        }?;
        // The sum of errors and warnings is printed as the failure.
        match (self.errors + self.warnings, self.hints) {
            (0, 1..) => print_line(&self.totals()),
            _ => Ok(()),
        }
    }

    fn totals(&self) -> String {
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
