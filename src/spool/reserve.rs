//! Room that is kept for the time when the disk is full.
//!
//! Opening the database takes blocks and inodes, and so does writing down what was delivered: on a
//! full disk neither a start nor the queue that would make room could go on. So some files hold
//! room. They are given up when the spool is opened and when the disk is full, and made again once
//! there is room for them. No new mail is taken before that.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, posix_fallocate};
use ring::rand::{SecureRandom, SystemRandom};
use tracing::warn;

/// Files in the reserve. Each gives an inode back: SQLite's log and its index need two, and files
/// of other modules one at a time.
const FILES: usize = 4;
/// Bytes in each. Together they hold the log up to where it is copied, and its copy in the
/// database.
const FILE_LENGTH: usize = 2 << 20;

/// The files that hold the room.
#[derive(Debug)]
pub(super) struct Reserve {
    files: Vec<PathBuf>,
    /// How many of them there are.
    kept: Mutex<usize>,
}

impl Reserve {
    /// Bytes of the whole reserve.
    pub(super) const LENGTH: u64 = (FILES * FILE_LENGTH) as u64;

    /// The reserve of this directory, given up.
    pub(super) fn given_up(dir: &Path) -> io::Result<Reserve> {
        let files = (0..FILES).map(|n| dir.join(format!("reserve.{n}")));
        let reserve = Reserve {
            files: files.collect(),
            kept: Mutex::new(0),
        };
        reserve.remove()?;
        Ok(reserve)
    }

    /// None: of whoever takes no mail.
    pub(super) fn none() -> Reserve {
        Reserve {
            files: Vec::new(),
            kept: Mutex::new(0),
        }
    }

    /// Whether all of it is there.
    pub(super) fn is_kept(&self) -> bool {
        *self.kept() == self.files.len()
    }

    /// Gives the room up. Tells whether there was any.
    pub(super) fn give_up(&self) -> bool {
        let mut kept = self.kept();
        if let Err(cause) = self.remove() {
            warn!("the reserve of the spool cannot be given up: {cause}");
        }
        std::mem::take(&mut *kept) > 0
    }

    /// Takes as much of the room as there is. Tells whether it took any.
    pub(super) fn keep(&self) -> bool {
        let mut kept = self.kept();
        let before = *kept;
        for file in &self.files[before..] {
            if make(file).is_err() {
                // What there is of it must not be missing elsewhere.
                let _ = fs::remove_file(file);
                break;
            }
            *kept += 1;
        }
        *kept > before
    }

    fn kept(&self) -> MutexGuard<'_, usize> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Not synced: where the power fails before the system has written it, the reserve is shorter at
/// the next start. A file system that cannot set room apart is written to; at random, so that one
/// that compresses takes as much.
fn make(path: &Path) -> io::Result<()> {
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
    filled.map_err(|_| io::Error::other("the system gives no random numbers"))?;
    file.write_all(&content)
}
