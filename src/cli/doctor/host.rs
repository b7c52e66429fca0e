//! Collects facts about this machine for [`super::system`]. Read-only; unknown facts are left out.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use nix::sys::statfs::{FsType, statfs};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::holders;
use super::maps::MapFile;
use super::postfix::Postfix;
use super::service::ServiceFile;
use super::system::{Account, Step, System, UnixSocketSettings};
use super::unit::{self, Unit};
use crate::config::Settings;
use crate::daemon::{self, StateDirError};
use crate::directory::Source;
use crate::hook::ListenAddress;
use crate::tls;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` (statfs(2)).
const IN_MEMORY: [(u32, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

pub(super) fn inspect(config: &Path, settings: &Settings, postfixes: &[Postfix]) -> System {
    // A unit with another configuration does not count.
    let unit = unit::read().filter(|unit| {
        let of_unit = unit
            .config
            .as_ref()
            .and_then(|file| file.canonicalize().ok());
        of_unit.is_some() && of_unit == config.canonicalize().ok()
    });
    let user = user(settings, unit.as_ref());
    let dir = nearest_existing(&settings.state_dir);
    let room = statvfs(dir).ok();
    System {
        now: SystemTime::now(),
        state_dir: state_dir(settings, user.as_ref().filter(|_| unit.is_some())),
        volatile: volatile(dir),
        free: (room.as_ref())
            .map(|room| room.blocks_available().saturating_mul(room.fragment_size())),
        free_inodes: (room.filter(|room| room.files() > 0)).map(|room| room.files_available()),
        clock_is_right: clock(),
        config: config.to_owned(),
        config_mode: fs::metadata(config).ok().map(|found| found.mode() & 0o7777),
        certificates: certificates(settings),
        ports: holders::ports(),
        other_listeners: holders::other_listeners(settings),
        sockets: sockets(settings, postfixes),
        maps: maps(settings, user.as_ref()),
        files: files(config, settings, user.as_ref()),
        user,
        unit,
    }
}

/// Returns the files of the address maps.
fn maps(settings: &Settings, user: Option<&Account>) -> Vec<MapFile> {
    let maps = &settings.rules.organization.address_maps;
    let all = [
        &maps.alias_maps,
        &maps.virtual_alias_maps,
        &maps.canonical_maps,
        &maps.sender_canonical_maps,
        &maps.recipient_canonical_maps,
    ];
    let each = all.into_iter().flatten().flat_map(|map| {
        let files = map.files().into_iter();
        files.map(move |path| MapFile {
            map: map.to_string(),
            path: path.to_owned(),
            way: way(path).unwrap_or_default(),
            is_readable: user.and_then(|user| can_read(user, path)),
        })
    });
    each.collect()
}

/// Returns the files that the settings name, and the configuration itself, without credentials passed
/// by systemd.
fn files(config: &Path, settings: &Settings, user: Option<&Account>) -> Vec<ServiceFile> {
    let near = config.parent().unwrap_or(Path::new("/"));
    let named = settings.effective.settings.iter().filter_map(|setting| {
        let text = setting
            .value
            .as_deref()?
            .strip_prefix('"')?
            .strip_suffix('"')?;
        let is_file = setting.key.ends_with("_file") && !text.starts_with("credential:");
        is_file.then(|| (setting.key.clone(), near.join(text)))
    });
    let people = match &settings.directory.source {
        Source::Ldif(file) => Some(("directory.urls".to_owned(), file.clone())),
        Source::Ldap(_) => None,
    };
    let own = (String::new(), config.to_owned());
    let all = [own].into_iter().chain(named).chain(people);
    let whole = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    all.map(|(key, path)| (key, whole(path)))
        .map(|(key, path)| ServiceFile {
            key,
            way: way(&path).unwrap_or_default(),
            is_readable: user.and_then(|user| can_read(user, &path)),
            path,
        })
        .collect()
}

/// Whether a user can read a file, including access control lists; only root can test it.
fn can_read(user: &Account, path: &Path) -> Option<bool> {
    if !Uid::effective().is_root() {
        return None;
    }
    let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
    let mut setpriv = Command::new("setpriv");
    setpriv
        .arg(format!("--reuid={}", user.uid))
        .arg(format!("--regid={}", user.groups.first()?))
        .arg(format!("--groups={}", groups.join(",")))
        .args(["test", "-r"])
        .arg(path);
    let tried = setpriv.stderr(Stdio::null()).status().ok()?;
    // Other results are errors of the test itself.
    match tried.code() {
        Some(0) => Some(true),
        Some(1) if path.exists() => Some(false),
        _ => None,
    }
}

/// Returns the user of the service: that of the unit, the owner of the state directory, or `copyist`.
fn user(settings: &Settings, unit: Option<&Unit>) -> Option<Account> {
    if let Some(unit) = unit {
        let mut account = account(unit.user.as_deref()?)?;
        let further = unit
            .groups
            .iter()
            .filter_map(|name| Group::from_name(name).ok()?);
        account
            .groups
            .extend(further.map(|group| group.gid.as_raw()));
        return Some(account);
    }
    let owner = fs::metadata(&settings.state_dir)
        .ok()
        .map(|found| found.uid());
    let by_owner = owner.and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok()?);
    match by_owner {
        Some(user) => account(&user.name),
        None => account("copyist"),
    }
}

/// Returns the directory, or its nearest existing parent.
fn nearest_existing(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir)
}

fn state_dir(settings: &Settings, user: Option<&Account>) -> Option<StateDirError> {
    let user = user.map(|user| user.uid);
    match daemon::examine_state_dir(&settings.state_dir, settings.allow_remote_fs, user) {
        // Inaccessible, as it should be for everybody but the service and root.
        Err(StateDirError::Io { cause, .. })
            if cause.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            None
        }
        // Created at the first start.
        Err(StateDirError::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {
            None
        }
        found => found.err(),
    }
}

fn volatile(dir: &Path) -> Option<&'static str> {
    let FsType(magic) = statfs(dir).ok()?.filesystem_type();
    let mut known = IN_MEMORY
        .iter()
        .filter(|(number, _)| *number == magic as u32);
    known.next().map(|(_, name)| *name)
}

/// Whether the clock is synchronized, according to systemd.
fn clock() -> Option<bool> {
    let output = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Returns when listeners' certificates expire, and when the last CA certificate in each file expires.
fn certificates(settings: &Settings) -> Vec<(PathBuf, SystemTime)> {
    let listeners = settings.hook.smtp.iter();
    let shown = listeners
        .clone()
        .filter_map(|one| one.tls.as_ref())
        .filter_map(|tls| {
            let first = dates(&tls.cert_file).first().copied()?;
            Some((tls.cert_file.clone(), first))
        });
    let of_directory = match &settings.directory.source {
        Source::Ldap(ldap) => ldap.ca_file.as_ref(),
        Source::Ldif(_) => None,
    };
    let checked = [of_directory, settings.deliver.relay.ca_file.as_ref()]
        .into_iter()
        .flatten();
    let checked = checked.chain(
        listeners
            .clone()
            .filter_map(|one| one.next_hop.ca_file.as_ref()),
    );
    let last = checked.filter_map(|file| Some((file.clone(), dates(file).into_iter().max()?)));
    let mut all: Vec<_> = shown.chain(last).collect();
    all.sort();
    all.dedup();
    all
}

fn dates(file: &Path) -> Vec<SystemTime> {
    let text = fs::read(file).unwrap_or_default();
    let all = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    all.filter_map(|der| tls::not_after(&der)).collect()
}

/// Returns the Unix sockets, for each user that Postfix runs as.
fn sockets(settings: &Settings, postfixes: &[Postfix]) -> Vec<UnixSocketSettings> {
    let paths = settings
        .hook
        .milter
        .iter()
        .filter_map(|listen| match listen {
            ListenAddress::Unix(path) => Some(path),
            ListenAddress::Inet(_) => None,
        });
    let mut owners: Vec<&str> = postfixes
        .iter()
        .map(|one| one.values.get("mail_owner"))
        .collect();
    owners.sort_unstable();
    owners.dedup();
    let users: Vec<Account> = owners.into_iter().filter_map(account).collect();
    let each = paths.flat_map(|path| users.iter().map(move |user| (path, user)));
    each.map(|(path, user)| UnixSocketSettings {
        path: path.clone(),
        way: way(path).unwrap_or_default(),
        user: user.clone(),
    })
    .collect()
}

fn way(path: &Path) -> Option<Vec<Step>> {
    let mut all: Vec<&Path> = path.ancestors().collect();
    all.reverse();
    let step = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some(Step {
            path: path.to_owned(),
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            group: group_name(found.gid()),
        })
    };
    all.into_iter().map(step).collect()
}

fn group_name(id: u32) -> String {
    let group = Group::from_gid(Gid::from_raw(id)).ok().flatten();
    group.map_or(id.to_string(), |group| group.name)
}

/// Returns an account with all its groups, as Postfix's daemons have them (initgroups(3)).
fn account(name: &str) -> Option<Account> {
    let user = User::from_name(name).ok()??;
    let groups = getgrouplist(&CString::new(name).ok()?, user.gid).ok()?;
    Some(Account {
        name: name.to_owned(),
        uid: user.uid.as_raw(),
        group: group_name(user.gid.as_raw()),
        groups: groups.iter().map(|group| group.as_raw()).collect(),
    })
}
