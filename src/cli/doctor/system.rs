//! Findings about this machine: files, disk, clock, listeners.
//!
//! Pure: works on the facts collected by [`super::host`].

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::finding::{Finding, Severity};
use super::maps::MapFile;
use super::service::ServiceFile;
use super::unit::Unit;
use crate::config::Settings;
use crate::daemon::StateDirError;
use crate::hook::ListenAddress;
use crate::mail::format_size;

/// The remaining validity that causes a warning, as in the service.
const SOON: Duration = Duration::from_secs(21 * 24 * 3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The facts about this machine.
#[derive(Debug)]
pub(super) struct System {
    pub(super) now: SystemTime,
    /// The problem with the state directory.
    pub(super) state_dir: Option<StateDirError>,
    /// The type of file system, if it is volatile.
    pub(super) volatile: Option<&'static str>,
    /// Free bytes on it.
    pub(super) free: Option<u64>,
    /// Free inodes on it, if their number is fixed.
    pub(super) free_inodes: Option<u64>,
    /// Whether the clock is synchronized; `None` if unknown.
    pub(super) clock_is_right: Option<bool>,
    pub(super) config: PathBuf,
    /// The mode of the configuration file.
    pub(super) config_mode: Option<u32>,
    /// Certificate files with their expiry.
    pub(super) certificates: Vec<(PathBuf, SystemTime)>,
    /// Ports in use by listeners; `None` if unknown.
    pub(super) ports: Option<Vec<u16>>,
    /// Other programs that listen on Copyist's addresses.
    pub(super) other_listeners: Vec<OtherListener>,
    /// The Unix sockets, from the view of Postfix.
    pub(super) sockets: Vec<UnixSocketSettings>,
    /// The files of the address maps.
    pub(super) maps: Vec<MapFile>,
    /// The service's user, if known.
    pub(super) user: Option<Account>,
    /// The unit with this configuration.
    pub(super) unit: Option<Unit>,
    /// The files in the settings.
    pub(super) files: Vec<ServiceFile>,
}

/// Another program that listens on an address of Copyist.
#[derive(Debug)]
pub(super) struct OtherListener {
    /// The address as in the settings.
    pub(super) listen: String,
    /// The program's name.
    pub(super) name: String,
    pub(super) pid: u32,
}

/// A Unix socket of Copyist.
#[derive(Debug)]
pub(super) struct UnixSocketSettings {
    pub(super) path: PathBuf,
    /// The path from the root; empty if the socket does not exist.
    pub(super) way: Vec<Step>,
    /// The user that must connect to it.
    pub(super) user: Account,
}

/// A component of a path.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The name of the group.
    pub(super) group: String,
}

/// A user with all groups.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    /// The name of its primary group.
    pub(super) group: String,
    pub(super) groups: Vec<u32>,
}

impl Account {
    /// Whether the mode permits an access (path_resolution(7)): 1 search, 2 write, 4 read.
    pub(super) fn may(&self, step: &Step, access: u32) -> bool {
        let bits = match step {
            Step { uid, mode, .. } if *uid == self.uid => mode >> 6,
            Step { gid, mode, .. } if self.groups.contains(gid) => mode >> 3,
            step => step.mode,
        };
        bits & access != 0
    }
}

pub(super) fn findings(system: &System, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(
        system
            .state_dir
            .as_ref()
            .map(|error| state_dir(error, settings)),
    );
    found.extend(check_volatile(system, settings));
    found.extend(check_room(system, settings));
    found.extend(check_clock(system));
    found.extend(check_config_mode(system));
    let all = system.certificates.iter();
    found.extend(all.filter_map(|(file, until)| {
        check_certificate(&file.display().to_string(), *until, system.now)
    }));
    found.extend(check_not_running(system, settings));
    found.extend(
        system
            .other_listeners
            .iter()
            .map(|other| taken(other, settings)),
    );
    found.extend(system.sockets.iter().filter_map(check_unreachable_socket));
    found
}

fn state_dir(error: &StateDirError, settings: &Settings) -> Finding {
    let dir = settings.state_dir.display();
    let text = error.to_string();
    // The service's own message contains the command.
    let (seen, fix) = match text.split_once("; run: ") {
        Some((seen, command)) => (seen.to_owned(), command.to_owned()),
        None => match text.split_once("; ") {
            Some((seen, remedy)) => (seen.to_owned(), remedy.to_owned()),
            None => (
                text,
                "set state_dir to a directory used only by Copyist".into(),
            ),
        },
    };
    Finding {
        name: "state-dir",
        severity: Severity::Error,
        place: format!("state_dir {dir}"),
        seen,
        why: "the service cannot start, or other users can read and change the queue".into(),
        fix,
    }
}

fn check_volatile(system: &System, settings: &Settings) -> Option<Finding> {
    let kind = system.volatile?;
    let dir = settings.state_dir.display();
    Some(Finding {
        name: "state-dir-volatile",
        severity: Severity::Error,
        place: format!("state_dir {dir}"),
        seen: format!("is on {kind}"),
        why: "the queue is only in memory and lost at a reboot".into(),
        fix: "state_dir = \"/var/lib/copyist\", or another directory on a disk".into(),
    })
}

fn check_room(system: &System, settings: &Settings) -> Vec<Finding> {
    let spool = &settings.spool;
    let dir = settings.state_dir.display();
    let kinds = [
        (
            "disk-space",
            system.free,
            spool.min_free,
            "",
            "spool.min_free",
        ),
        (
            "disk-inodes",
            system.free_inodes,
            spool.min_free_inodes,
            "inodes",
            "spool.min_free_inodes",
        ),
    ];
    let mut found = Vec::new();
    for (name, free, least, unit, key) in kinds {
        let Some(free) = free.filter(|free| *free < least) else {
            continue;
        };
        let shown = |amount: u64| match unit {
            "" => format_size(amount),
            _ => format!("{amount} "),
        };
        found.push(Finding {
            name,
            severity: Severity::Warning,
            place: format!("state_dir {dir}"),
            seen: format!(
                "{}{unit} free, and {key} is {}",
                shown(free),
                shown(least).trim_end()
            ),
            why: "mail that must be journaled is deferred until more is free".into(),
            fix: format!("free some space on the file system of {dir}: du -xh --max-depth=2 {dir}"),
        });
    }
    found
}

fn check_clock(system: &System) -> Option<Finding> {
    (system.clock_is_right == Some(false)).then(|| Finding {
        name: "clock-unsynchronized",
        severity: Severity::Warning,
        place: "clock of this machine".into(),
        seen: "is not synchronized".into(),
        why: "times in reports, which serve as evidence, may be wrong".into(),
        fix: "timedatectl set-ntp true".into(),
    })
}

fn check_config_mode(system: &System) -> Option<Finding> {
    let mode = system.config_mode?;
    let file = system.config.display();
    (mode & 0o002 != 0).then(|| Finding {
        name: "config-writable",
        severity: Severity::Error,
        place: file.to_string(),
        seen: format!("is writable by every user (mode {mode:04o})"),
        why: "any local user can change what is journaled, and to whom".into(),
        fix: format!("chmod o-w {file}"),
    })
}

/// Finds a certificate that has expired or expires soon.
pub(super) fn check_certificate(
    place: &str,
    until: SystemTime,
    now: SystemTime,
) -> Option<Finding> {
    let left = until.duration_since(now).ok();
    let (name, severity, seen, why) = match left {
        None => (
            "certificate-expired",
            Severity::Warning,
            "the certificate has expired".to_owned(),
            "clients that verify it cannot connect, and mail is deferred",
        ),
        Some(left) if left < SOON => (
            "certificate-expires",
            Severity::Warning,
            format!(
                "the certificate expires in {} days",
                left.as_secs() / DAY.as_secs()
            ),
            "clients that verify it will then fail to connect, and mail will be deferred",
        ),
        Some(_) => return None,
    };
    Some(Finding {
        name,
        severity,
        place: place.to_owned(),
        seen,
        why: why.into(),
        fix: "renew it".into(),
    })
}

/// Finds addresses without a listener; Unix sockets are checked as files.
fn check_not_running(system: &System, settings: &Settings) -> Option<Finding> {
    let ports = system.ports.as_ref()?;
    let milters = settings
        .hook
        .milter
        .iter()
        .filter_map(|listen| match listen {
            ListenAddress::Inet(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        });
    let all = milters.chain(settings.hook.smtp.iter().map(|listener| listener.listen));
    let mut silent: Vec<String> = all
        .filter(|address| !ports.contains(&address.port()))
        .map(|address| address.to_string())
        .collect();
    let gone = system.sockets.iter().filter(|socket| socket.way.is_empty());
    silent.extend(gone.map(|socket| socket.path.display().to_string()));
    if silent.is_empty() {
        return None;
    }
    let unit = system.unit.as_ref();
    let failure = unit.and_then(|unit| unit.failure.as_ref());
    let last_error = unit.and_then(|unit| unit.last_error.as_ref());
    let why_not = match (failure, last_error) {
        (Some(failure), Some(error)) => format!("; the unit is {failure}: {error}"),
        (Some(failure), None) => format!("; the unit is {failure}"),
        (None, _) => String::new(),
    };
    Some(Finding {
        name: "not-running",
        severity: Severity::Warning,
        place: "service".into(),
        seen: format!("not listening on {}{why_not}", silent.join(", ")),
        why: "mail is deferred until Copyist runs".into(),
        fix: match failure {
            Some(_) => "journalctl -u copyist -p err -n 20 shows the whole error; when it is fixed: systemctl restart copyist",
            None => "systemctl restart copyist",
        }
        .into(),
    })
}

/// Returns the finding about another program on an address of Copyist.
fn taken(other: &OtherListener, settings: &Settings) -> Finding {
    let OtherListener { listen, name, pid } = other;
    let is_milter = (settings.hook.milter.iter()).any(|one| one.to_string() == *listen);
    let key = if is_milter {
        "hook.milter.listen"
    } else {
        "listen of [[hook.smtp]]"
    };
    Finding {
        name: "port-taken",
        severity: Severity::Error,
        place: listen.clone(),
        seen: format!("{name} (process {pid}) listens there instead of this Copyist"),
        why: "mail passes without a copy, and the MTA reports no error".into(),
        fix: format!(
            "set another address in {key} and in the MTA's configuration, or stop {name}; then systemctl restart copyist"
        ),
    }
}

fn check_unreachable_socket(socket: &UnixSocketSettings) -> Option<Finding> {
    let UnixSocketSettings { path, way, user } = socket;
    let last = way.len().checked_sub(1)?;
    let mut steps = way.iter().enumerate();
    let (_, barred) = steps.find(|(at, step)| !user.may(step, if *at == last { 2 } else { 1 }))?;
    let name = &user.name;
    let is_socket = barred.path == *path;
    let in_group = Account {
        groups: vec![barred.gid],
        ..user.clone()
    };
    let shown = barred.path.display();
    let is_volatile = barred.path.starts_with("/run") || barred.path.starts_with("/var/run");
    let fix = if in_group.may(barred, if is_socket { 2 } else { 1 }) {
        // A restart recreates it with the same group.
        format!(
            "usermod -aG {} {name} && systemctl restart postfix",
            barred.group
        )
    } else if is_socket {
        "socket_mode = \"0660\" in [hook.milter]".to_owned()
    } else if is_volatile {
        "RuntimeDirectoryMode=0750 in the unit: systemctl edit copyist; then systemctl restart copyist".to_owned()
    } else {
        format!("chmod g+x {shown}")
    };
    Some(Finding {
        name: "socket-unreachable",
        severity: Severity::Warning,
        place: format!("hook.milter.listen unix:{}", path.display()),
        seen: format!(
            "{} is closed to the user {name} (mode {:04o})",
            barred.path.display(),
            barred.mode
        ),
        why: "Postfix cannot connect to Copyist and defers all mail".into(),
        fix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_reported_three_weeks_before_expiry() {
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let name = |until| check_certificate("x", until, now).map(|finding| finding.name);
        assert_eq!(name(now + 22 * DAY), None);
        assert_eq!(name(now + 20 * DAY), Some("certificate-expires"));
        assert_eq!(name(now - DAY), Some("certificate-expired"));
    }

    fn socket(dir: u32, mode: u32, groups: &[u32]) -> Option<String> {
        let step = |path: &str, mode| Step {
            path: path.into(),
            mode,
            uid: 50,
            gid: 60,
            group: "copyist".into(),
        };
        let found = check_unreachable_socket(&UnixSocketSettings {
            path: "/r/m".into(),
            way: vec![step("/", 0o755), step("/r", dir), step("/r/m", mode)],
            user: Account {
                name: "postfix".into(),
                uid: 70,
                group: "postfix".into(),
                groups: groups.to_vec(),
            },
        });
        found.map(|finding| finding.fix)
    }

    #[test]
    fn a_socket_needs_search_and_write_permission() {
        assert_eq!(socket(0o750, 0o660, &[60]), None);
        assert_eq!(socket(0o755, 0o666, &[]), None);
        // Each fix leads to the next state, the last one to none.
        let join = "usermod -aG copyist postfix && systemctl restart postfix";
        for (dir, mode, groups, fix) in [
            (0o700, 0o600, &[70][..], Some("chmod g+x /r")),
            (0o750, 0o600, &[70], Some(join)),
            (
                0o750,
                0o600,
                &[70, 60],
                Some("socket_mode = \"0660\" in [hook.milter]"),
            ),
            (0o750, 0o660, &[70, 60], None),
            (0o755, 0o660, &[70], Some(join)),
        ] {
            assert_eq!(
                socket(dir, mode, groups).as_deref(),
                fix,
                "{dir:o} {mode:o}"
            );
        }
    }
}
