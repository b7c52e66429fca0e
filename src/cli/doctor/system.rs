//! What the machine says about Copyist's own side: its files, its disk, its clock, its listeners.
//!
//! Pure: [`super::host`] has looked.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::finding::{Finding, Severity};
use super::maps::MapFile;
use super::service::ServiceFile;
use super::unit::Unit;
use crate::config::Settings;
use crate::daemon::StateDirError;
use crate::hook::Listen;
use crate::mail::format_size;

/// How long before its end a certificate is told of, as the service does.
const SOON: Duration = Duration::from_secs(21 * 24 * 3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What was seen.
#[derive(Debug)]
pub(super) struct System {
    pub(super) now: SystemTime,
    /// Why the service would not take its state directory.
    pub(super) state_dir: Option<StateDirError>,
    /// The kind of file system, where it forgets everything at a restart.
    pub(super) volatile: Option<&'static str>,
    /// Bytes free on it.
    pub(super) free: Option<u64>,
    /// Inodes free on it, where their number is fixed.
    pub(super) free_inodes: Option<u64>,
    /// Whether the clock follows others; `None` where nobody says.
    pub(super) clock_is_right: Option<bool>,
    pub(super) config: PathBuf,
    /// The configuration file's permission bits.
    pub(super) config_mode: Option<u32>,
    /// When certificates in files end.
    pub(super) certificates: Vec<(PathBuf, SystemTime)>,
    /// Ports that somebody listens on; `None` where the system does not say.
    pub(super) ports: Option<Vec<u16>>,
    /// Other programs that listen where Copyist should.
    pub(super) strangers: Vec<Stranger>,
    /// What stands on the way to each Unix socket, and what Postfix is let do.
    pub(super) sockets: Vec<Socket>,
    /// The files of the address maps that the settings name.
    pub(super) maps: Vec<MapFile>,
    /// The user that the service runs as, if that can be told.
    pub(super) user: Option<Account>,
    /// The unit that runs it with this configuration.
    pub(super) unit: Option<Unit>,
    /// The files that the settings name.
    pub(super) files: Vec<ServiceFile>,
}

/// Another program in the place of a listener of ours.
#[derive(Debug)]
pub(super) struct Stranger {
    /// The listener, as the settings name it.
    pub(super) listen: String,
    /// The program's name.
    pub(super) name: String,
    pub(super) pid: u32,
}

/// A Unix socket of ours.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) path: PathBuf,
    /// From the root to the socket itself; empty where there is none.
    pub(super) way: Vec<Step>,
    /// Who has to reach it.
    pub(super) user: Account,
}

/// A directory or a socket.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The name of the group.
    pub(super) group: String,
}

/// A user, with all groups.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    /// The name of its own group.
    pub(super) group: String,
    pub(super) groups: Vec<u32>,
}

impl Account {
    /// Whether the permission bits let it do this (path_resolution(7)): 1 enter, 2 write, 4 read.
    pub(super) fn may(&self, step: &Step, what: u32) -> bool {
        let bits = match step {
            Step { uid, mode, .. } if *uid == self.uid => mode >> 6,
            Step { gid, mode, .. } if self.groups.contains(gid) => mode >> 3,
            step => step.mode,
        };
        bits & what != 0
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
    found.extend(volatile(system, settings));
    found.extend(room(system, settings));
    found.extend(clock(system));
    found.extend(config_mode(system));
    let all = system.certificates.iter();
    found.extend(
        all.filter_map(|(file, until)| {
            certificate(&file.display().to_string(), *until, system.now)
        }),
    );
    found.extend(not_running(system, settings));
    found.extend(
        system
            .strangers
            .iter()
            .map(|stranger| taken(stranger, settings)),
    );
    found.extend(system.sockets.iter().filter_map(unreachable_socket));
    found
}

fn state_dir(error: &StateDirError, settings: &Settings) -> Finding {
    let dir = settings.state_dir.display();
    let said = error.to_string();
    // What the service itself says has the command in it.
    let (seen, fix) = match said.split_once("; run: ") {
        Some((seen, command)) => (seen.to_owned(), command.to_owned()),
        None => match said.split_once("; ") {
            Some((seen, remedy)) => (seen.to_owned(), remedy.to_owned()),
            None => (
                said,
                "set state_dir to a directory that Copyist has to itself".into(),
            ),
        },
    };
    Finding {
        name: "state-dir",
        severity: Severity::Error,
        place: format!("state_dir {dir}"),
        seen,
        why: "the service does not start, or others can read and change what it owes".into(),
        fix,
    }
}

fn volatile(system: &System, settings: &Settings) -> Option<Finding> {
    let kind = system.volatile?;
    let dir = settings.state_dir.display();
    Some(Finding {
        name: "state-dir-volatile",
        severity: Severity::Error,
        place: format!("state_dir {dir}"),
        seen: format!("is on {kind}"),
        why: "what is owed is in memory only, and lost at a restart of the machine".into(),
        fix: "state_dir = \"/var/lib/copyist\", or another directory on a disk".into(),
    })
}

fn room(system: &System, settings: &Settings) -> Vec<Finding> {
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
                "{}{unit} are free, and {key} is {}",
                shown(free),
                shown(least).trim_end()
            ),
            why: "mail that must be journaled is deferred until there is more".into(),
            fix: format!("make room on the file system of {dir}: du -xh --max-depth=2 {dir}"),
        });
    }
    found
}

fn clock(system: &System) -> Option<Finding> {
    (system.clock_is_right == Some(false)).then(|| Finding {
        name: "clock-unsynchronized",
        severity: Severity::Warning,
        place: "clock of this machine".into(),
        seen: "is not synchronized".into(),
        why: "the times in reports are evidence, and may be wrong".into(),
        fix: "timedatectl set-ntp true".into(),
    })
}

fn config_mode(system: &System) -> Option<Finding> {
    let mode = system.config_mode?;
    let file = system.config.display();
    (mode & 0o002 != 0).then(|| Finding {
        name: "config-writable",
        severity: Severity::Error,
        place: file.to_string(),
        seen: format!("can be changed by every user (its mode is {mode:04o})"),
        why: "anybody on this machine decides what is journaled to whom".into(),
        fix: format!("chmod o-w {file}"),
    })
}

/// A certificate that is over, or soon will be.
pub(super) fn certificate(place: &str, until: SystemTime, now: SystemTime) -> Option<Finding> {
    let left = until.duration_since(now).ok();
    let (name, severity, seen, why) = match left {
        None => (
            "certificate-expired",
            Severity::Warning,
            "the certificate has expired".to_owned(),
            "whoever checks it does not connect, and mail waits",
        ),
        Some(left) if left < SOON => (
            "certificate-expires",
            Severity::Warning,
            format!(
                "the certificate expires in {} days",
                left.as_secs() / DAY.as_secs()
            ),
            "whoever checks it will not connect then, and mail will wait",
        ),
        Some(_) => return None,
    };
    Some(Finding {
        name,
        severity,
        place: place.to_owned(),
        seen,
        why: why.into(),
        fix: "have it renewed by whoever issued it".into(),
    })
}

/// Listeners where nobody listens. Those of Unix sockets are looked at as files.
fn not_running(system: &System, settings: &Settings) -> Option<Finding> {
    let ports = system.ports.as_ref()?;
    let milters = settings
        .hook
        .milter
        .iter()
        .filter_map(|listen| match listen {
            Listen::Inet(address) => Some(*address),
            Listen::Unix(_) => None,
        });
    let all = milters.chain(settings.hook.smtp.iter().map(|door| door.listen));
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
        seen: format!("nobody listens on {}{why_not}", silent.join(", ")),
        why: "mail is deferred until Copyist runs".into(),
        fix: match failure {
            Some(_) => "journalctl -u copyist -p err -n 20 has the whole error; once that is fixed: systemctl restart copyist",
            None => "systemctl restart copyist",
        }
        .into(),
    })
}

/// Another program answers where the MTA asks for Copyist.
fn taken(stranger: &Stranger, settings: &Settings) -> Finding {
    let Stranger { listen, name, pid } = stranger;
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
        seen: format!("{name} (process {pid}) listens there, and not this Copyist"),
        why: "mail passes without a copy, and the MTA says that all is well".into(),
        fix: format!(
            "give Copyist an address of its own in {key} and in the MTA's configuration, or stop {name}; then systemctl restart copyist"
        ),
    }
}

fn unreachable_socket(socket: &Socket) -> Option<Finding> {
    let Socket { path, way, user } = socket;
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
        // What a restart makes anew has this group again.
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
            "{} is closed to the user {name} (its mode is {:04o})",
            barred.path.display(),
            barred.mode
        ),
        why: "Postfix cannot ask Copyist, and defers all mail".into(),
        fix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_three_weeks_before_its_end_and_after_it() {
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let name = |until| certificate("x", until, now).map(|finding| finding.name);
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
        let found = unreachable_socket(&Socket {
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
    fn a_socket_is_reached_by_entering_every_directory_and_writing_to_it() {
        assert_eq!(socket(0o750, 0o660, &[60]), None);
        assert_eq!(socket(0o755, 0o666, &[]), None);
        // What each says leads to the next, and the last to none.
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
