//! File systems of their own: small ones, and ones whose power can be cut.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::super::lab::{PATIENCE, need, run};

/// A file system in memory, of a size; gone when dropped.
pub struct Disk(tempfile::TempDir);

impl Disk {
    pub fn new(size: &str) -> Disk {
        Disk::with(&format!("size={size}"))
    }

    /// One with room for so many files and directories.
    pub fn of_inodes(inodes: usize) -> Disk {
        Disk::with(&format!("size=64m,nr_inodes={inodes}"))
    }

    fn with(options: &str) -> Disk {
        let directory = tempfile::tempdir().expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        needs_root(mount.arg(directory.path()));
        Disk(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}

/// A kind of file system that can be shut down under its users' hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    pub fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
        }
    }
}

/// A file system in a file, mounted or not.
///
/// [`Image::cut`] shuts it down without writing anything more (`EXT4_IOC_SHUTDOWN` or
/// `XFS_IOC_GOINGDOWN` with `NOLOGFLUSH`): what is in the page cache and in the journal's memory is
/// lost, as in a power cut. What this does not show: torn sectors, and disks that say "written" too
/// early.
pub struct Image {
    directory: tempfile::TempDir,
    /// The loop device, for as long as this lives: `mount -o loop` would look for a new one each
    /// time, and two tests that do so at the same time can be given each other's.
    device: String,
    mounted: PathBuf,
    cutter: Cutter,
}

impl Image {
    /// Makes one, not mounted yet.
    pub fn new(kind: FileSystem) -> Image {
        let directory = tempfile::tempdir().expect("a directory");
        let mounted = directory.path().join("mnt");
        std::fs::create_dir(&mounted).expect("a directory");
        let file = directory.path().join("image");
        let image = std::fs::File::create(&file).expect("a file");
        // XFS is not made smaller than 300 MB. The file has holes: only what is used takes room.
        image.set_len(400 << 20).expect("a size");
        let mut mkfs = match kind {
            FileSystem::Ext4 => Command::new(need("mkfs.ext4", "e2fsprogs")),
            FileSystem::Xfs => Command::new(need("mkfs.xfs", "xfsprogs")),
        };
        run(mkfs
            .args(["-q"])
            .arg(match kind {
                FileSystem::Ext4 => "-F",
                FileSystem::Xfs => "-f",
            })
            .arg(&file));
        let cutter = Cutter::start();
        Image {
            device: loop_device(&file),
            directory,
            mounted,
            cutter,
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Has it mounted somewhere else.
    pub fn mount_at(&mut self, path: PathBuf) {
        self.mounted = path;
    }

    /// A file beside it, which no cut reaches.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Mounts it, which replays its journal. Gives how long that took.
    pub fn mount(&mut self) -> Duration {
        let started = Instant::now();
        let mut mount = Command::new("mount");
        needs_root(mount.arg(&self.device).arg(self.path()));
        started.elapsed()
    }

    /// Cuts its power: whatever was not synced is gone at the next mount, and until then nothing
    /// can be written. Gives the moment before that, in nanoseconds since 1970. What is
    /// acknowledged later is no promise: in a power cut nobody is there any more to say it, and
    /// here a sync that was under way may succeed although its data are gone.
    pub fn cut(&mut self) -> u128 {
        let before = self.cutter.say(&format!("cut {}", self.mounted.display()));
        before.parse().expect("a number")
    }

    /// Unmounts it. Whoever used it was killed; the system may need a moment to see that.
    pub fn unmount(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let unmounted = Command::new("umount")
                .arg(self.path())
                .output()
                .expect("umount is a program");
            if unmounted.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&unmounted.stderr).into_owned();
            assert!(Instant::now() < deadline, "{said}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .output();
        // Where it is in use still, the system does it later.
        let _ = Command::new("losetup")
            .args(["--detach", &self.device])
            .output();
    }
}

/// A process that shuts the file system down when told to, at once: an interpreter takes longer to
/// start than many commits. `_IOR('X', 125, __u32)` is the same number for both file systems; 2 is
/// NOLOGFLUSH.
struct Cutter {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Cutter {
    fn start() -> Cutter {
        const SCRIPT: &str = "import fcntl, os, struct, sys, time\n\
            for line in sys.stdin:\n    \
                before = time.time_ns()\n    \
                if line.startswith('cut '):\n        \
                    fd = os.open(line[4:-1], os.O_RDONLY)\n        \
                    fcntl.ioctl(fd, 0x8004587D, struct.pack('I', 2))\n        \
                    os.close(fd)\n    \
                print(before, flush=True)\n";
        let mut process = Command::new(need("python3", "python3"))
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        let mut cutter = Cutter { process, answers };
        cutter.say("hello");
        cutter
    }

    fn say(&mut self, word: &str) -> String {
        let sent = self.process.stdin.as_mut().expect("piped");
        let sent = sent.write_all(format!("{word}\n").as_bytes());
        let mut answer = String::new();
        let answered = self.answers.read_line(&mut answer);
        assert!(
            sent.is_ok() && answered.is_ok() && answer.ends_with('\n'),
            "the helper that shuts the file system down does not do it"
        );
        answer.trim().to_owned()
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn loop_device(file: &Path) -> String {
    let mut losetup = Command::new("losetup");
    let output = needs_root(losetup.args(["--find", "--show"]).arg(file));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn needs_root(mount: &mut Command) -> Output {
    let output = mount.output().expect("mount is a program");
    assert!(
        output.status.success(),
        "mounting a file system takes root (tests/run sees to that) and, in a container, the right to mount: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
