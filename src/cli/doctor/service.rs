//! Files that the service cannot access although root can: closed to its user, or hidden or read-only
//! in its unit.
//!
//! Pure: works on the facts collected by [`super::host`].

use std::path::{Path, PathBuf};

use super::finding::{Finding, Severity};
use super::line;
use super::system::{Account, Step, System};
use super::unit::Unit;
use crate::config::Settings;
use crate::hook::ListenAddress;

/// A file in the settings, from the view of the service's user.
#[derive(Debug)]
pub(super) struct ServiceFile {
    /// The key; empty for the configuration itself.
    pub(super) key: String,
    pub(super) path: PathBuf,
    /// The path from the root; empty if the file does not exist.
    pub(super) way: Vec<Step>,
    /// Whether the user can read it; `None` if not tested.
    pub(super) is_readable: Option<bool>,
}

pub(super) fn findings(system: &System, settings: &Settings) -> Vec<Finding> {
    // Root can read everything.
    let user = system.user.as_ref().filter(|user| user.uid != 0);
    let unit = system.unit.as_ref();
    let files = system.files.iter();
    let mut found: Vec<Finding> = files
        .filter_map(|file| check_hidden(file, unit).or_else(|| check_closed(file, user?)))
        .collect();
    if let Some(unit) = unit {
        found.extend(check_state_dir(unit, user, &settings.state_dir));
        found.extend(check_sockets(unit, settings));
    }
    found
}

/// Returns the first component of a path that is closed to a user.
pub(super) fn barred<'a>(
    way: &'a [Step],
    user: &Account,
    is_readable: Option<bool>,
) -> Option<&'a Step> {
    let last = way.len().checked_sub(1)?;
    let mut steps = way.iter().enumerate();
    let closed = steps.find(|(at, step)| !user.may(step, if *at == last { 4 } else { 1 }));
    match is_readable {
        // An access control list overrides the mode.
        Some(true) => None,
        Some(false) => closed.map(|(_, step)| step).or_else(|| way.last()),
        None => closed.map(|(_, step)| step),
    }
}

fn finding(file: &ServiceFile, seen: String, fix: String) -> Finding {
    let path = file.path.display();
    Finding {
        name: "file-unreadable",
        severity: Severity::Error,
        place: match file.key.as_str() {
            "" => path.to_string(),
            key => format!("{key} {path}"),
        },
        seen,
        why: "the service cannot start or reload: mail is deferred".into(),
        fix,
    }
}

fn check_hidden(file: &ServiceFile, unit: Option<&Unit>) -> Option<Finding> {
    let by = unit?.hides(&file.path)?;
    let name = file.path.file_name()?.to_string_lossy();
    let fix = match file.key.as_str() {
        "" => "move the configuration to /etc/copyist/copyist.toml".to_owned(),
        key => format!("move it to /etc/copyist/{name}, and set {key} to that path"),
    };
    let seen = format!("is hidden from the service by {by} in its unit");
    Some(finding(file, seen, fix))
}

fn check_closed(file: &ServiceFile, user: &Account) -> Option<Finding> {
    let step = barred(&file.way, user, file.is_readable)?;
    let (name, path) = (&user.name, step.path.display());
    let seen = format!(
        "{path} is closed to the user {name} (mode {:04o})",
        step.mode
    );
    let bit = if step.path == file.path { 'r' } else { 'x' };
    let fix = match step.path.starts_with("/root") || step.path.starts_with("/home") {
        true => "move it to /etc/copyist, which the service can access".to_owned(),
        // Its group may be needed by others.
        false if step.gid != 0 => format!("setfacl -m u:{name}:{bit} {path}"),
        false => format!("chgrp {} {path} && chmod g+{bit} {path}", user.group),
    };
    Some(finding(file, seen, fix))
}

/// Returns the command that allows the unit to write to a directory.
fn let_write(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "mkdir -p /etc/systemd/system/copyist.service.d && printf '[Service]\\nReadWritePaths={dir}\\n' \
         >>/etc/systemd/system/copyist.service.d/paths.conf && systemctl daemon-reload && systemctl restart copyist"
    )
}

fn check_state_dir(unit: &Unit, user: Option<&Account>, dir: &Path) -> Option<Finding> {
    let (name, group) = user.map_or(("root", "root"), |user| (&user.name, &user.group));
    let (by, fix) = match unit.hides(dir) {
        Some(by) => (by, "state_dir = \"/var/lib/copyist\"".to_owned()),
        None => {
            let make = format!("install -d -o {name} -g {group} -m 700 {}", dir.display());
            let by = unit.keeps_from_writing(dir)?;
            (by, format!("{make} && {}", let_write(dir)))
        }
    };
    Some(Finding {
        name: "state-dir-read-only",
        severity: Severity::Error,
        place: format!("state_dir {}", dir.display()),
        seen: format!("is not writable for the service: {by} in its unit"),
        why: "the service cannot start: mail is deferred".into(),
        fix,
    })
}

fn check_sockets(unit: &Unit, settings: &Settings) -> Vec<Finding> {
    let dirs = settings.hook.milter.iter().filter_map(|one| match one {
        ListenAddress::Unix(path) => Some((one, path.parent()?)),
        ListenAddress::Inet(_) => None,
    });
    dirs.filter_map(|(listen, dir)| {
        let (by, fix) = match unit.hides(dir) {
            Some(by) => (
                by,
                line::list(
                    "hook.milter.listen",
                    &["unix:/run/copyist/milter.sock".to_owned()],
                ),
            ),
            None => {
                let by = unit.keeps_from_writing(dir)?;
                (
                    by,
                    format!("mkdir -p {} && {}", dir.display(), let_write(dir)),
                )
            }
        };
        Some(Finding {
            name: "socket-read-only",
            severity: Severity::Error,
            place: format!("hook.milter.listen {listen}"),
            seen: format!("the service cannot create the socket: {by} in its unit"),
            why: "the service cannot start: mail is deferred".into(),
            fix,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_by_its_mode_or_as_was_tried() {
        let step = |path: &str, mode| Step {
            path: path.into(),
            mode,
            uid: 0,
            gid: 0,
            group: String::new(),
        };
        let user = Account {
            name: "copyist".into(),
            uid: 70,
            group: "journal".into(),
            groups: vec![70],
        };
        let fix = |dir, mode, is_readable| {
            let file = ServiceFile {
                key: "relay.password_file".into(),
                path: "/e/p".into(),
                way: vec![step("/", 0o755), step("/e", dir), step("/e/p", mode)],
                is_readable,
            };
            check_closed(&file, &user).map(|finding| finding.fix)
        };
        assert_eq!(fix(0o755, 0o644, None), None);
        assert_eq!(fix(0o755, 0o640, Some(true)), None, "by an access list");
        let file = Some("chgrp journal /e/p && chmod g+r /e/p".to_owned());
        assert_eq!(fix(0o755, 0o600, None), file);
        assert_eq!(fix(0o755, 0o644, Some(false)), file);
        let mut of_others = step("/e/p", 0o640);
        of_others.gid = 110;
        let file = ServiceFile {
            key: String::new(),
            path: "/e/p".into(),
            way: vec![step("/", 0o755), of_others],
            is_readable: None,
        };
        let fix_of_others = check_closed(&file, &user).expect("closed").fix;
        assert_eq!(fix_of_others, "setfacl -m u:copyist:r /e/p");
        let dir = Some("chgrp journal /e && chmod g+x /e".to_owned());
        assert_eq!(fix(0o700, 0o644, Some(false)), dir);
    }
}
