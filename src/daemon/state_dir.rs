//! Checks of the state directory: a user who can write to it can send mail through Copyist, and one
//! who can read it can read journaled mail. Promises: a missing directory is created with mode
//! 0700; one that other users can access, that another user owns, or that is not a directory, is
//! rejected with the command that fixes it. An existing directory is never changed: its owner must
//! know that it was open.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statfs::{FsType, statfs};
use nix::unistd::{Uid, User};

/// Error in the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It cannot be created or read.
    #[error(
        "cannot create or read the state directory {dir}: {cause}; {}",
        unreadable(dir, cause)
    )]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It, or a file in it, is a symbolic link: another user may control its target.
    #[error("{path} is a symbolic link{}; {remedy}", target.as_ref().map(|to| format!(" to {}", to.display())).unwrap_or_default())]
    Symlink {
        /// Where it stands.
        path: PathBuf,
        /// Where it leads.
        target: Option<PathBuf>,
        /// What to do.
        remedy: &'static str,
    },
    /// A file of the wrong type.
    #[error("{path} is not a {what}; set state_dir to a directory for Copyist alone")]
    NotA {
        /// Where it stands.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// Another user owns it.
    #[error(
        "{path} belongs to user {owner}, but the service runs as {us}; run: chown -R {us} {path}"
    )]
    Owner {
        /// Where it stands.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who we are.
        us: String,
    },
    /// Other users can access it.
    #[error("{path} is accessible to other users (mode {mode:04o}); run: chmod 700 {path}")]
    Open {
        /// Where it stands.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Other users could replace it.
    #[error("other users can write to {parent} and so replace {dir}; run: chmod o-w {parent}")]
    Parent {
        /// The state directory.
        dir: PathBuf,
        /// The directory above it.
        parent: PathBuf,
    },
    /// It is, or may be, on another host.
    #[error(
        "{dir} is on a network or FUSE file system ({kind}), where locks and syncs are not reliable; move it to a local disk, or set spool.allow_remote_fs = true"
    )]
    Remote {
        /// The state directory.
        dir: PathBuf,
        /// The kind of file system.
        kind: String,
    },
}

/// Returns advice on a system error.
fn unreadable(dir: &Path, cause: &io::Error) -> String {
    let (us, dir) = (name_of(Uid::effective()), dir.display());
    match cause.kind() {
        io::ErrorKind::ReadOnlyFilesystem => format!(
            "set ReadWritePaths={dir} in the unit (systemctl edit copyist), after: install -d -o {us} -m 700 {dir}"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "run: install -d -o {us} -m 700 {dir}; if the unit has ProtectHome=yes, it cannot be in a home directory"
        ),
        _ => "set state_dir, or create it with the right owner".to_owned(),
    }
}

/// Directories in it that the service makes.
const DIRECTORIES: [&str; 2] = ["spool", "spool/bodies"];

/// Files in it that the service makes.
const FILES: [&str; 11] = [
    "lock",
    "seal.key",
    "domains",
    "directory.place",
    "directory.seen",
    "directory.people",
    "directory.accepted",
    "spool/spool.db",
    "spool/spool.db-wal",
    "spool/spool.db-shm",
    "spool/spool.db-journal",
];

/// Creates the directory if it is missing, and checks that only the service can access it.
pub(super) fn prepare(dir: &Path, allow_remote_fs: bool) -> Result<(), StateDirError> {
    let us = Uid::effective();
    let io = |cause| StateDirError::Io {
        dir: dir.to_owned(),
        cause,
    };
    if look(dir).map_err(io)?.is_none() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(io)?;
    }
    look_through(dir, us, allow_remote_fs)
}

/// Checks whether a service running as `user`, or else as the directory's owner, could use it.
/// Changes nothing; missing files are fine.
pub(crate) fn examine(
    dir: &Path,
    allow_remote_fs: bool,
    user: Option<u32>,
) -> Result<(), StateDirError> {
    let found = look(dir).map_err(|cause| StateDirError::Io {
        dir: dir.to_owned(),
        cause,
    })?;
    match found {
        Some(found) => {
            let user = user.unwrap_or(found.uid());
            look_through(dir, Uid::from_raw(user), allow_remote_fs)
        }
        None => Ok(()),
    }
}

/// Checks that existing files belong to the user alone.
fn look_through(dir: &Path, us: Uid, allow_remote_fs: bool) -> Result<(), StateDirError> {
    let io = |cause| StateDirError::Io {
        dir: dir.to_owned(),
        cause,
    };
    let remedy = "set state_dir to the place itself";
    closed_directory(dir, us, remedy).map_err(|error| error.or(io))?;
    for name in DIRECTORIES {
        let remedy = "move what it leads to into its place";
        closed_directory(&dir.join(name), us, remedy).map_err(|error| error.or(io))?;
    }
    for name in FILES {
        own_file(&dir.join(name), us).map_err(|error| error.or(io))?;
    }
    safe_parents(dir).map_err(|error| error.or(io))?;
    if !allow_remote_fs && let Some(kind) = remote_kind(dir).map_err(io)? {
        let dir = dir.to_owned();
        return Err(StateDirError::Remote { dir, kind });
    }
    Ok(())
}

/// A problem, or the error that prevented the check.
enum CheckError {
    Problem(StateDirError),
    Io(io::Error),
}

impl CheckError {
    fn or(self, io: impl FnOnce(io::Error) -> StateDirError) -> StateDirError {
        match self {
            CheckError::Problem(error) => error,
            CheckError::Io(cause) => io(cause),
        }
    }
}

impl From<io::Error> for CheckError {
    fn from(cause: io::Error) -> CheckError {
        CheckError::Io(cause)
    }
}

/// Returns the metadata of a path itself, without following links.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn closed_directory(path: &Path, us: Uid, remedy: &'static str) -> Result<(), CheckError> {
    let Some(found) = look(path)? else {
        return Ok(());
    };
    ours(path, &found, us, remedy)?;
    if !found.is_dir() {
        return Err(not_a(path, "directory"));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(CheckError::Problem(StateDirError::Open { path, mode }));
    }
    Ok(())
}

fn own_file(path: &Path, us: Uid) -> Result<(), CheckError> {
    let Some(found) = look(path)? else {
        return Ok(());
    };
    ours(path, &found, us, "move what it leads to into its place")?;
    if !found.is_file() {
        return Err(not_a(path, "file"));
    }
    Ok(())
}

fn not_a(path: &Path, what: &'static str) -> CheckError {
    let path = path.to_owned();
    CheckError::Problem(StateDirError::NotA { path, what })
}

/// Checks that a path is not a link, and belongs to the user.
fn ours(path: &Path, found: &Metadata, us: Uid, remedy: &'static str) -> Result<(), CheckError> {
    let path = path.to_owned();
    if found.is_symlink() {
        let target = fs::read_link(&path).ok();
        return Err(CheckError::Problem(StateDirError::Symlink {
            path,
            target,
            remedy,
        }));
    }
    if found.uid() != us.as_raw() {
        return Err(CheckError::Problem(StateDirError::Owner {
            path,
            owner: name_of(Uid::from_raw(found.uid())),
            us: name_of(us),
        }));
    }
    Ok(())
}

/// Checks that other users cannot rename the directory. In a parent with the sticky bit, like /tmp,
/// they cannot.
fn safe_parents(dir: &Path) -> Result<(), CheckError> {
    const STICKY: u32 = 0o1000;
    let whole = fs::canonicalize(dir)?;
    for parent in whole.ancestors().skip(1) {
        let mode = fs::metadata(parent)?.mode();
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            return Err(CheckError::Problem(StateDirError::Parent {
                dir: dir.to_owned(),
                parent: parent.to_owned(),
            }));
        }
    }
    Ok(())
}

fn name_of(id: Uid) -> String {
    match User::from_uid(id) {
        Ok(Some(user)) => user.name,
        _ => id.to_string(),
    }
}

/// Returns the type of the file system, unless it is certainly a local disk.
fn remote_kind(dir: &Path) -> io::Result<Option<String>> {
    let FsType(magic) = statfs(dir)?.filesystem_type();
    // The type of the number is not the same on all machines; the magic numbers have 32 bits on
    // all.
    match magic as u32 {
        FUSE => {
            let device = fs::metadata(dir)?.dev();
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            Ok(fuse_kind(&mounts, device))
        }
        magic => Ok(remote_name(magic).map(str::to_owned)),
    }
}

/// `FUSE_SUPER_MAGIC`: the file system is a program, or a hypervisor.
const FUSE: u32 = 0x6573_5546;

/// Returns the type of a FUSE file system, such as `fuse.sshfs`, from the mount table
/// (proc_pid_mountinfo(5)), unless it is on a local disk. Whether its program honors a sync cannot
/// be checked.
fn fuse_kind(mounts: &str, device: u64) -> Option<String> {
    let device = format!("{}:{}", major(device), minor(device));
    let kind = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_it = before.split(' ').nth(2) == Some(&device);
        is_it.then(|| after.split(' ').next().unwrap_or_default())
    });
    match kind {
        // Of a block device: NTFS and the like.
        Some("fuseblk") => None,
        kind => Some(kind.unwrap_or("fuse").to_owned()),
    }
}

/// See statfs(2) and the kernel's `magic.h`.
fn remote_name(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x0102_1997 => "9P",
        0x7375_7245 => "Coda",
        0x564c => "NCP",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x786f_4256 => "vboxsf",
        0xbacb_acbc => "vmhgfs",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }

    fn refusal(dir: &Path) -> String {
        let error = prepare(dir, false).expect_err("it is of no use");
        let above = dir.parent().expect("a temporary directory");
        error.to_string().replace(&above.display().to_string(), "…")
    }

    #[test]
    fn a_missing_directory_is_created_private_and_reused() {
        let above = tempfile::tempdir().expect("a directory");
        let dir = above.path().join("a/b");
        prepare(&dir, false).expect("made");
        assert_eq!(fs::metadata(&dir).expect("there").mode() & 0o7777, 0o700);
        fs::create_dir(dir.join("spool")).expect("made");
        mode(&dir.join("spool"), 0o700);
        fs::write(dir.join("spool/spool.db"), "").expect("written");
        prepare(&dir, false).expect("as it was left");
    }

    #[test]
    fn a_directory_open_to_others_is_rejected_with_the_fix() {
        let above = tempfile::tempdir().expect("a directory");
        let dir = above.path().join("s");
        fs::create_dir(&dir).expect("made");
        for open in [0o755, 0o770, 0o701] {
            mode(&dir, open);
            assert_eq!(
                refusal(&dir),
                format!("…/s is accessible to other users (mode {open:04o}); run: chmod 700 …/s")
            );
        }
        mode(&dir, 0o700);
        fs::create_dir_all(dir.join("spool/bodies")).expect("made");
        mode(&dir.join("spool"), 0o700);
        mode(&dir.join("spool/bodies"), 0o755);
        assert!(refusal(&dir).ends_with("run: chmod 700 …/s/spool/bodies"));
    }

    #[test]
    fn links_and_other_file_types_are_rejected() {
        let above = tempfile::tempdir().expect("a directory");
        let (dir, real) = (above.path().join("s"), above.path().join("real"));
        prepare(&real, false).expect("made");
        symlink(&real, &dir).expect("linked");
        assert_eq!(
            refusal(&dir),
            "…/s is a symbolic link to …/real; set state_dir to the place itself"
        );
        symlink("/etc/passwd", real.join("seal.key")).expect("linked");
        assert!(refusal(&real).starts_with("…/real/seal.key is a symbolic link to /etc/passwd;"));
        fs::remove_file(real.join("seal.key")).expect("removed");
        fs::write(real.join("spool"), "").expect("written");
        assert!(refusal(&real).starts_with("…/real/spool is not a directory;"));
        fs::remove_file(real.join("spool")).expect("removed");
        fs::create_dir(real.join("lock")).expect("made");
        assert!(refusal(&real).starts_with("…/real/lock is not a file;"));
    }

    #[test]
    fn a_place_that_others_can_change_is_refused() {
        let above = tempfile::tempdir().expect("a directory");
        let dir = above.path().join("s");
        prepare(&dir, false).expect("made");
        mode(above.path(), 0o777);
        assert!(refusal(&dir).contains("other users can write to … and so replace"));
        mode(above.path(), 0o1777);
        prepare(&dir, false).expect("sticky");
    }

    #[test]
    fn file_systems_of_other_machines_are_known() {
        assert_eq!(remote_name(0x6969), Some("NFS"));
        assert_eq!(remote_name(0xff53_4d42), Some("CIFS"));
        // ext4, XFS, btrfs, tmpfs, overlayfs, ZFS
        for local in [
            0xef53,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x794c_7630,
            0x2fc1_2fc1,
        ] {
            assert_eq!(remote_name(local), None, "{local:x}");
        }
    }

    #[test]
    fn fuse_file_systems_are_found_in_the_mount_table() {
        let mounts = "\
            22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            41 22 0:39 / /mnt/a rw,nosuid shared:2 master:1 - fuse.sshfs h:/x rw,user_id=0\n\
            42 22 8:17 / /mnt/b rw - fuseblk /dev/sdb1 rw\n\
            43 22 0:40 / /mnt/c rw - virtiofs host rw\n";
        let kind = |major, minor| fuse_kind(mounts, nix::sys::stat::makedev(major, minor));
        assert_eq!(kind(0, 39).as_deref(), Some("fuse.sshfs"));
        assert_eq!(kind(8, 17), None, "a disk of this machine");
        assert_eq!(kind(0, 40).as_deref(), Some("virtiofs"));
        assert_eq!(
            kind(0, 41).as_deref(),
            Some("fuse"),
            "what is not listed is refused as well"
        );
    }
}
