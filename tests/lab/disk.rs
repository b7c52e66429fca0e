//! A small file system, for what happens when a disk is full.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

/// A file system in memory that is mounted at a directory; gone when dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of this size (`24m`) at this directory, which is made, for nobody but its owner.
    pub fn mount(at: &Path, size: &str) -> Disk {
        std::fs::create_dir_all(at).expect("its place can be made");
        // Mounting takes root; tests/run sees to that.
        run(Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=0700"),
                "tmpfs",
            ])
            .arg(at));
        Disk(at.to_owned())
    }

    /// Takes room away: a file of so many MiB.
    pub fn fill(&self, name: &str, mib: usize) {
        let block = vec![1; mib * 1024 * 1024];
        std::fs::write(self.0.join(name), block).expect("there is room for it");
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
