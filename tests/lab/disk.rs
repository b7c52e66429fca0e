//! File systems that are no plain large disk: small ones, and one that a program provides.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{PATIENCE, need, run, wait};

/// A file system in memory that is mounted at a directory; gone when dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of this size (`24m`) at this directory, which is made, for nobody but its owner.
    pub fn mount(at: &Path, size: &str) -> Disk {
        Disk::mount_with(at, &format!("size={size}"))
    }

    /// The same with room for so many files and directories.
    pub fn mount_of_inodes(at: &Path, inodes: usize) -> Disk {
        Disk::mount_with(at, &format!("size=64m,nr_inodes={inodes}"))
    }

    fn mount_with(at: &Path, options: &str) -> Disk {
        std::fs::create_dir_all(at).expect("its place can be made");
        // Mounting takes root; tests/run sees to that.
        let options = format!("{options},mode=0700");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at));
        Disk(at.to_owned())
    }

    /// Takes inodes away: so many empty files in a directory of this name.
    pub fn crowd(&self, name: &str, files: usize) {
        let crowd = self.0.join(name);
        std::fs::create_dir(&crowd).expect("there is an inode for it");
        for n in 0..files {
            std::fs::write(crowd.join(n.to_string()), "").expect("there is an inode for it");
        }
    }

    /// Gives them back.
    pub fn disperse(&self, name: &str) {
        std::fs::remove_dir_all(self.0.join(name)).expect("it was crowded");
    }

    /// How many inodes are free.
    pub fn free_inodes(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(&self.0);
        found.expect("it is mounted").files_available()
    }

    /// Takes room away: a file of so many MiB.
    pub fn fill(&self, name: &str, mib: usize) {
        let block = vec![1; mib * 1024 * 1024];
        std::fs::write(self.0.join(name), block).expect("there is room for it");
    }

    /// Takes all the room that is left: a file that grows until there is none.
    pub fn fill_up(&self, name: &str) {
        let mut file = std::fs::File::create(self.0.join(name)).expect("there is an inode for it");
        while std::io::Write::write(&mut file, &[1; 4096]).is_ok_and(|written| written > 0) {}
    }

    /// Gives it back.
    pub fn free(&self, name: &str) {
        std::fs::remove_file(self.0.join(name)).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A directory of this machine, mounted over SFTP as that of another one would be: `sshfs` and the
/// server speak through a socket, with no network between them. Gone when dropped.
pub struct Sshfs {
    at: PathBuf,
    programs: [Child; 2],
}

impl Sshfs {
    /// Mounts `real` at this directory; both are made, for nobody but their owner.
    pub fn mount(real: &Path, at: &Path) -> Sshfs {
        for directory in [real, at] {
            std::fs::create_dir_all(directory).expect("its place can be made");
            super::set_mode(directory, 0o700);
        }
        // Its server lies on nobody's path.
        let server = Path::new("/usr/lib/openssh/sftp-server");
        assert!(
            server.exists(),
            "this test needs {} from the Debian package `openssh-sftp-server`; `tests/run` installs it",
            server.display()
        );
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let start = |command: &mut Command, end: UnixStream| {
            let end = OwnedFd::from(end);
            let also = end.try_clone().expect("another handle");
            let started = command.stdin(Stdio::from(end)).stdout(also).spawn();
            started.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
        };
        let server = start(&mut Command::new(server), theirs);
        let mut sshfs = Command::new(need("sshfs", "sshfs"));
        // In the foreground, and speaking to its own input and output instead of a host that it
        // connects to.
        sshfs.args(["-f", "-o", "passive"]);
        sshfs.arg(format!(":{}", real.display())).arg(at);
        let programs = [start(&mut sshfs, ours), server];
        let mounted = Sshfs {
            at: at.to_owned(),
            programs,
        };
        let line = format!(" {} ", at.display());
        wait("sshfs mounts (it needs /dev/fuse)", PATIENCE, || {
            let mounts = std::fs::read_to_string("/proc/self/mounts").expect("readable");
            mounts.contains(&line)
        });
        mounted
    }
}

impl Drop for Sshfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}
