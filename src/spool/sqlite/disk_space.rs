//! Free space on the disk of the spool. New mail is deferred before the disk is full, so that
//! deliveries can still be recorded.
//!
//! The system is asked about once a second, however often this module is; space used in between is
//! subtracted, so that concurrent messages do not all count on the same space. If the system cannot
//! be asked, the disk does not count as full.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use tracing::{info, warn};

use super::space_reserve::SpaceReserve;
use crate::spool::error::CommitError;
use crate::spool::settings::Settings;
use crate::spool::types::FreeSpace;

/// Period for which an answer of the system is used.
const TTL: Duration = Duration::from_secs(1);

/// The free space of one file system. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct DiskSpace {
    dir: PathBuf,
    min_free: u64,
    min_free_inodes: u64,
    reserve: Arc<SpaceReserve>,
    estimate: Arc<Mutex<Estimate>>,
}

/// The system's last answer, less what was used since.
#[derive(Debug, Default)]
struct Estimate {
    at: Option<Instant>,
    bytes: u64,
    inodes: Option<u64>,
    /// Whether the lack of space was logged.
    is_low: bool,
}

impl DiskSpace {
    pub(super) fn new(settings: &Settings, reserve: Arc<SpaceReserve>) -> DiskSpace {
        DiskSpace {
            reserve,
            dir: settings.state_dir.clone(),
            min_free: settings.min_free,
            min_free_inodes: settings.min_free_inodes,
            estimate: Arc::default(),
        }
    }

    /// Fills the reserve as far as there is space. Does not ask for the free space: the service is
    /// about to create more files.
    pub(super) fn fill_reserve(&self) {
        self.reserve.fill();
    }

    /// Takes space for a message of so many bytes and so many new files.
    pub(super) fn reserve_message(&self, bytes: u64, files: u64) -> Result<(), CommitError> {
        let mut estimate = self.estimate();
        if !self.refresh(&mut estimate) {
            return Ok(());
        }
        let lacks_bytes = self.lacks_bytes(&estimate, bytes);
        let lacks_inodes = self.lacks_inodes(&estimate, files);
        if lacks_inodes || lacks_bytes {
            // A message that is too large for the free space does not mean that space is low.
            let is_low = self.is_low(&estimate);
            self.log_change(&mut estimate, is_low);
            return Err(CommitError::Low {
                free: estimate.bytes,
                inodes: estimate.inodes.filter(|_| lacks_inodes),
            });
        }
        self.log_change(&mut estimate, false);
        estimate.subtract(bytes, files);
        Ok(())
    }

    /// Takes space for a file, as [`DiskSpace::use_bytes`] does for bytes.
    pub(super) fn use_file(&self) -> io::Result<()> {
        if self.min_free_inodes == 0 {
            return Ok(());
        }
        let mut estimate = self.estimate();
        if self.refresh(&mut estimate) {
            if self.lacks_inodes(&estimate, 1) {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "few inodes are free (spool.min_free_inodes)",
                ));
            }
            estimate.subtract(0, 1);
        }
        Ok(())
    }

    /// Takes space for bytes that are written before it is known whether the message is journaled.
    /// A lack of space is not logged: a message that must be journaled will log it.
    pub(super) fn use_bytes(&self, bytes: u64) -> io::Result<()> {
        let mut estimate = self.estimate();
        if self.refresh(&mut estimate) {
            if self.lacks_bytes(&estimate, bytes) {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "the disk is nearly full (spool.min_free and the reserve)",
                ));
            }
            estimate.subtract(bytes, 0);
        }
        Ok(())
    }

    /// Returns the free space; `None` if the system cannot be asked.
    pub(super) fn free(&self) -> Option<FreeSpace> {
        let mut estimate = self.estimate();
        self.refresh(&mut estimate).then(|| FreeSpace {
            bytes: estimate.bytes,
            inodes: estimate.inodes,
            is_low: self.is_low(&estimate),
        })
    }

    fn estimate(&self) -> MutexGuard<'_, Estimate> {
        self.estimate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_low(&self, estimate: &Estimate) -> bool {
        estimate.bytes < self.min_free || !self.reserve.is_full() || self.lacks_inodes(estimate, 0)
    }

    fn lacks_bytes(&self, estimate: &Estimate, bytes: u64) -> bool {
        let is_short = self.min_free > 0 && estimate.bytes < self.min_free.saturating_add(bytes);
        is_short || !self.reserve.is_full()
    }

    fn lacks_inodes(&self, estimate: &Estimate, files: u64) -> bool {
        let needed = self.min_free_inodes.saturating_add(files);
        self.min_free_inodes > 0 && estimate.inodes.is_some_and(|free| free < needed)
    }

    /// Asks the system if its last answer is too old; then fills the reserve again as far as there
    /// is space. Returns whether there is an answer.
    fn refresh(&self, estimate: &mut Estimate) -> bool {
        if estimate.at.is_some_and(|at| at.elapsed() < TTL) {
            return true;
        }
        let mut is_known = self.ask_system(estimate);
        if is_known && !self.reserve.is_full() && self.reserve.fill() {
            is_known = self.ask_system(estimate);
        }
        is_known
    }

    fn ask_system(&self, estimate: &mut Estimate) -> bool {
        match statvfs(&self.dir) {
            Ok(found) => {
                estimate.at = Some(Instant::now());
                estimate.bytes = found
                    .blocks_available()
                    .saturating_mul(found.fragment_size());
                estimate.inodes = (found.files() > 0).then(|| found.files_available());
                true
            }
            Err(error) => {
                // If the disk has a problem, the write itself will report it.
                warn!(
                    "cannot determine the free space of {}: {error}",
                    self.dir.display()
                );
                false
            }
        }
    }

    /// Logs once that space is low, and once that it is no longer.
    fn log_change(&self, estimate: &mut Estimate, is_low: bool) {
        if is_low == estimate.is_low {
            return;
        }
        estimate.is_low = is_low;
        let (dir, mib) = (self.dir.display(), estimate.bytes >> 20);
        match is_low {
            true => warn!(
                "only {mib} MiB and {} inodes are free in {dir}, less than spool.min_free, min_free_inodes or the reserve of {} MiB: mail that must be journaled is deferred until there is space",
                estimate
                    .inodes
                    .map_or("any number of".into(), |free| free.to_string()),
                SpaceReserve::LENGTH >> 20
            ),
            false => info!("enough space in {dir} again: {mib} MiB are free"),
        }
    }
}

impl Estimate {
    fn subtract(&mut self, bytes: u64, files: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.inodes = self.inodes.map(|free| free.saturating_sub(files));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_space(min_free: u64, min_free_inodes: u64) -> DiskSpace {
        DiskSpace::new(
            &Settings {
                min_free,
                min_free_inodes,
                ..Settings::new(std::env::temp_dir())
            },
            Arc::new(SpaceReserve::none()),
        )
    }

    #[test]
    fn used_space_is_not_used_twice() {
        let all = disk_space(0, 0).free().expect("a file system").bytes;
        let space = disk_space(1, 0);
        let third = all / 3;
        assert!(space.reserve_message(third, 0).is_ok());
        assert!(space.reserve_message(third, 0).is_ok());
        assert!(matches!(
            space.reserve_message(2 * third, 0),
            Err(CommitError::Low { .. })
        ));
    }

    #[test]
    fn messages_are_deferred_when_space_is_low() {
        let space = disk_space(u64::MAX / 2, 0);
        assert!(matches!(
            space.reserve_message(0, 0),
            Err(CommitError::Low { .. })
        ));
        assert!(space.free().expect("a file system").is_low);
    }

    #[test]
    fn incoming_bodies_leave_the_space_free_as_well() {
        assert!(
            disk_space(0, 0).use_bytes(u64::MAX).is_ok(),
            "no space is kept free"
        );
        assert!(disk_space(1, 0).use_bytes(1).is_ok());
        let error = disk_space(u64::MAX / 2, 0).use_bytes(1).expect_err("low");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn new_files_leave_the_inodes_free() {
        let space = disk_space(0, 10);
        *space.estimate.lock().expect("not poisoned") = Estimate {
            // Current for as long as this test takes.
            at: Some(Instant::now() + Duration::from_secs(3600)),
            inodes: Some(13),
            ..Estimate::default()
        };
        assert!(space.use_file().is_ok() && space.reserve_message(0, 1).is_ok());
        assert!(matches!(
            space.reserve_message(0, 2),
            Err(CommitError::Low {
                inodes: Some(11),
                ..
            })
        ));
        assert!(!space.free().expect("known").is_low, "one file has room");
        assert!(space.use_file().is_ok());
        let error = space.use_file().expect_err("the others stay free");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(
            space.reserve_message(0, 0).is_ok(),
            "what needs no file needs no inode"
        );
    }

    #[test]
    fn an_absent_directory_does_not_count_as_full() {
        let space = DiskSpace::new(
            &Settings {
                min_free: u64::MAX,
                ..Settings::new("/nowhere/at/all")
            },
            Arc::new(SpaceReserve::none()),
        );
        assert!(space.reserve_message(1, 0).is_ok() && space.free().is_none());
    }
}
