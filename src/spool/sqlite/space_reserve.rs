//! Disk space set apart for the time when the disk is full.
//!
//! Opening the database takes blocks and inodes, and so does recording a delivery. On a full disk
//! the service could not start, and the queue that would free space could not move. So some files
//! hold space. They are released when the spool is opened and when the disk is full, and created
//! again as soon as there is space for them. Until then no new mail is accepted.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, posix_fallocate};
use ring::rand::{SecureRandom, SystemRandom};
use tracing::warn;

/// Number of files. Each also returns an inode: SQLite's WAL and its index need two, and files of
/// other modules one at a time.
const FILES: usize = 4;
/// Bytes in each file. Together they make room for a WAL as long as it becomes, and for its copy in
/// the database.
const FILE_LENGTH: usize = 2 << 20;

/// The files that hold the space.
#[derive(Debug)]
pub(super) struct SpaceReserve {
    files: Vec<PathBuf>,
    /// Number of existing files.
    present: Mutex<usize>,
}

impl SpaceReserve {
    /// Size of the whole reserve in bytes.
    pub(super) const LENGTH: u64 = (FILES * FILE_LENGTH) as u64;

    /// Returns the reserve of this directory, released.
    pub(super) fn released(dir: &Path) -> io::Result<SpaceReserve> {
        let files = (0..FILES).map(|n| dir.join(format!("reserve.{n}")));
        let reserve = SpaceReserve {
            files: files.collect(),
            present: Mutex::new(0),
        };
        reserve.remove()?;
        Ok(reserve)
    }

    /// Returns an empty reserve, for processes that accept no mail.
    pub(super) fn none() -> SpaceReserve {
        SpaceReserve {
            files: Vec::new(),
            present: Mutex::new(0),
        }
    }

    /// Whether all of its files exist.
    pub(super) fn is_full(&self) -> bool {
        *self.present() == self.files.len()
    }

    /// Releases the space. Returns whether there was any.
    pub(super) fn release(&self) -> bool {
        let mut present = self.present();
        if let Err(cause) = self.remove() {
            warn!("cannot release the reserve of the spool: {cause}");
        }
        std::mem::take(&mut *present) > 0
    }

    /// Creates as many of the files as there is space for. Returns whether any was created.
    pub(super) fn fill(&self) -> bool {
        let mut present = self.present();
        let before = *present;
        for file in &self.files[before..] {
            if create(file).is_err() {
                // A part of a file is of no use here, but elsewhere.
                let _ = fs::remove_file(file);
                break;
            }
            *present += 1;
        }
        *present > before
    }

    fn present(&self) -> MutexGuard<'_, usize> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self) -> io::Result<()> {
        for file in &self.files {
            match fs::remove_file(file) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Creates a file. It is not synced: after a power cut the reserve may be shorter. A file system
/// without `fallocate` gets random bytes, which take as much space if it compresses.
fn create(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    match posix_fallocate(&file, 0, FILE_LENGTH as i64) {
        Err(Errno::EOPNOTSUPP) => {}
        allocated => return Ok(allocated?),
    }
    let mut content = vec![0; FILE_LENGTH];
    let filled = SystemRandom::new().fill(&mut content);
    filled.map_err(|_| io::Error::other("the system's random number generator failed"))?;
    file.write_all(&content)
}
