//! Room on the disk: new mail stops before it is full, so that what is owed can still be written
//! down.
//!
//! Promises: asked as often as anybody likes, the system is asked about once a second; what is
//! taken in between is counted, so that many messages at a time do not all see the same room. Never
//! says "full" because it could not look.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use tracing::{info, warn};

use super::error::CommitError;
use super::reserve::Reserve;
use super::settings::Settings;

/// How long an answer of the system counts.
const FRESH: Duration = Duration::from_secs(1);

/// What is free on the file system of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes that we may use.
    pub bytes: u64,
    /// Inodes likewise; `None` where the file system makes them as it needs them.
    pub inodes: Option<u64>,
    /// Whether that is less than the settings keep free.
    pub is_low: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Room {
    dir: PathBuf,
    min_free: u64,
    min_free_inodes: u64,
    reserve: Arc<Reserve>,
    seen: Arc<Mutex<Seen>>,
}

/// The last look.
#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    bytes: u64,
    inodes: Option<u64>,
    /// Whether mail was deferred for want of room when last asked.
    is_low: bool,
}

impl Room {
    pub(super) fn new(settings: &Settings, reserve: Arc<Reserve>) -> Room {
        Room {
            reserve,
            dir: settings.state_dir.clone(),
            min_free: settings.min_free,
            min_free_inodes: settings.min_free_inodes,
            seen: Arc::default(),
        }
    }

    /// Makes the reserve, as far as there is room for it. How much room is left is asked when that
    /// is wanted: whoever opens the spool is about to make files beside it.
    pub(super) fn make_reserve(&self) {
        self.reserve.keep();
    }

    /// Whether there is room for so many bytes of a message and so many new files; that much is
    /// then counted as taken.
    pub(super) fn take(&self, bytes: u64, files: u64) -> Result<(), CommitError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.look(&mut seen) {
            return Ok(());
        }
        let few_bytes = self.few_bytes(&seen, bytes);
        let few_inodes = self.few_inodes(&seen, files);
        if few_inodes || few_bytes {
            // A message that is too large for what is left says nothing about smaller ones.
            let is_low = self.few_inodes(&seen, 0) || self.is_low(seen.bytes);
            self.tell(&mut seen, is_low);
            return Err(CommitError::Low {
                free: seen.bytes,
                inodes: seen.inodes.filter(|_| few_inodes),
            });
        }
        self.tell(&mut seen, false);
        seen.bytes = seen.bytes.saturating_sub(bytes);
        seen.inodes = seen.inodes.map(|free| free.saturating_sub(files));
        Ok(())
    }

    /// Takes room for a file, as [`Room::use_up`] does for bytes.
    pub(super) fn use_up_file(&self) -> io::Result<()> {
        if self.min_free_inodes == 0 {
            return Ok(());
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if self.look(&mut seen) {
            if self.few_inodes(&seen, 1) {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "few inodes are free (spool.min_free_inodes)",
                ));
            }
            seen.inodes = seen.inodes.map(|free| free.saturating_sub(1));
        }
        Ok(())
    }

    /// Takes room for bytes that are written before anybody knows what becomes of them. Not
    /// logged: the message that must be journaled will say so.
    pub(super) fn use_up(&self, bytes: u64) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if self.look(&mut seen) {
            if self.few_bytes(&seen, bytes) {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "the disk is nearly full (spool.min_free and the reserve)",
                ));
            }
            seen.bytes = seen.bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    /// What is free; `None` where the system does not say.
    pub(super) fn free(&self) -> Option<FreeSpace> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut seen).then(|| FreeSpace {
            bytes: seen.bytes,
            inodes: seen.inodes,
            is_low: self.is_low(seen.bytes) || self.few_inodes(&seen, 0),
        })
    }

    fn is_low(&self, bytes: u64) -> bool {
        bytes < self.min_free || !self.reserve.is_kept()
    }

    /// Whether there is too little room for so many new bytes.
    fn few_bytes(&self, seen: &Seen, bytes: u64) -> bool {
        let is_short = self.min_free > 0 && seen.bytes < self.min_free.saturating_add(bytes);
        is_short || !self.reserve.is_kept()
    }

    /// Whether there are too few inodes for so many new files.
    fn few_inodes(&self, seen: &Seen, files: u64) -> bool {
        self.min_free_inodes > 0
            && (seen.inodes).is_some_and(|free| free < self.min_free_inodes.saturating_add(files))
    }

    /// Asks the system where its last answer is old; then makes the reserve again, as far as there
    /// is room for it. Tells whether there is an answer.
    fn look(&self, seen: &mut Seen) -> bool {
        if seen.at.is_some_and(|at| at.elapsed() < FRESH) {
            return true;
        }
        let mut is_known = self.ask(seen);
        if is_known && !self.reserve.is_kept() && self.reserve.keep() {
            is_known = self.ask(seen);
        }
        is_known
    }

    fn ask(&self, seen: &mut Seen) -> bool {
        match statvfs(&self.dir) {
            Ok(found) => {
                seen.at = Some(Instant::now());
                seen.bytes = found
                    .blocks_available()
                    .saturating_mul(found.fragment_size());
                seen.inodes = (found.files() > 0).then(|| found.files_available());
                true
            }
            Err(error) => {
                // The write itself will tell what is wrong with the disk.
                warn!(
                    "cannot see how much room there is in {}: {error}",
                    self.dir.display()
                );
                false
            }
        }
    }

    /// Tells once that room is short, and once that it is not any more.
    fn tell(&self, seen: &mut Seen, is_low: bool) {
        if is_low == seen.is_low {
            return;
        }
        seen.is_low = is_low;
        let (dir, mib) = (self.dir.display(), seen.bytes >> 20);
        match is_low {
            true => warn!(
                "only {mib} MiB and {} inodes are free in {dir}, less than spool.min_free, min_free_inodes or the reserve of {} MiB: mail that must be journaled is deferred until there is room",
                seen.inodes
                    .map_or("any number of".into(), |free| free.to_string()),
                Reserve::LENGTH >> 20
            ),
            false => info!("there is room again in {dir}: {mib} MiB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(min_free: u64, min_free_inodes: u64) -> Room {
        Room::new(
            &Settings {
                min_free,
                min_free_inodes,
                ..Settings::new(std::env::temp_dir())
            },
            Arc::new(Reserve::none()),
        )
    }

    #[test]
    fn what_was_taken_is_not_given_twice() {
        let all = room(0, 0).free().expect("a file system").bytes;
        let room = room(1, 0);
        let third = all / 3;
        assert!(room.take(third, 0).is_ok());
        assert!(room.take(third, 0).is_ok());
        assert!(matches!(
            room.take(2 * third, 0),
            Err(CommitError::Low { .. })
        ));
    }

    #[test]
    fn nothing_is_taken_below_the_mark_and_it_says_so() {
        let room = room(u64::MAX / 2, 0);
        assert!(matches!(room.take(0, 0), Err(CommitError::Low { .. })));
        assert!(room.free().expect("a file system").is_low);
    }

    #[test]
    fn what_is_written_while_it_arrives_leaves_room_as_well() {
        assert!(
            room(0, 0).use_up(u64::MAX).is_ok(),
            "nothing is to stay free"
        );
        assert!(room(1, 0).use_up(1).is_ok());
        let error = room(u64::MAX / 2, 0).use_up(1).expect_err("low");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn files_are_not_made_of_inodes_that_are_to_stay_free() {
        let room = room(0, 10);
        *room.seen.lock().expect("not poisoned") = Seen {
            // Fresh for as long as this test takes.
            at: Some(Instant::now() + Duration::from_secs(3600)),
            inodes: Some(13),
            ..Seen::default()
        };
        assert!(room.use_up_file().is_ok() && room.take(0, 1).is_ok());
        assert!(matches!(
            room.take(0, 2),
            Err(CommitError::Low {
                inodes: Some(11),
                ..
            })
        ));
        assert!(!room.free().expect("known").is_low, "one file has room");
        assert!(room.use_up_file().is_ok());
        let error = room.use_up_file().expect_err("those are to stay free");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(room.take(0, 0).is_ok(), "what needs no file needs no inode");
    }

    #[test]
    fn a_place_that_is_not_there_is_not_full() {
        let room = Room::new(
            &Settings {
                min_free: u64::MAX,
                ..Settings::new("/nowhere/at/all")
            },
            Arc::new(Reserve::none()),
        );
        assert!(room.take(1, 0).is_ok() && room.free().is_none());
    }
}
