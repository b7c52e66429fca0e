//! The files that were opened still are those in their place.
//!
//! A file that is removed or replaced while it is open can be written and synced like any other,
//! and all of that is gone with the process. So before a group of commits begins, and again before
//! anybody hears of it, each name must still lead to what was opened, and nobody else may have
//! written over the database.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::database;

/// What is to be done about a file that is another.
const REMEDY: &str = "what was committed before is in the file that was there; stop the service before files are \
                      restored or moved, and start it when they are in place";

/// How long another process that copies the log into the database may take from its first write to
/// the end.
const COPYING: Duration = Duration::from_secs(5);

/// The names of the opened files, with what they led to.
#[derive(Debug, Default)]
pub(super) struct WatchedFiles(Mutex<Vec<WatchedFile>>);

#[derive(Debug)]
struct WatchedFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Of what nobody writes while the service runs.
    written: Option<Written>,
}

/// The database file as it was when this process last looked: how long, when it was written, and
/// how much of the log it has. Only a copy of the log may write it.
pub(super) struct DatabaseFile {
    path: PathBuf,
    written: Written,
    log_file: File,
    log: Log,
}

/// How much of the log is in the database, and which log: what SQLite puts at its head anew each
/// time it begins again ("The WAL File Format", bytes 12 to 23). A new one has copied as little as
/// one that was never copied.
#[derive(Debug, PartialEq, Eq)]
struct Log {
    copied: i64,
    head: [u8; 12],
}

/// Length and time of the last write.
type Written = (u64, i64, i64);

impl WatchedFiles {
    /// Watches a file or directory from now on, whatever is written to it.
    pub(super) fn add(&self, path: PathBuf) -> io::Result<()> {
        let found = fs::metadata(&path)?;
        self.push(path, &found, None);
        Ok(())
    }

    /// Watches a file that nobody may write either.
    pub(super) fn add_unchanging(&self, path: PathBuf) -> io::Result<()> {
        let found = fs::metadata(&path)?;
        self.push(path, &found, Some(written(&found)));
        Ok(())
    }

    fn push(&self, path: PathBuf, found: &Metadata, written: Option<Written>) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.push(WatchedFile {
            path,
            device: found.dev(),
            inode: found.ino(),
            written,
        });
    }

    /// Says which file is not the one that was opened, and what is in its place.
    pub(super) fn check(&self) -> Result<(), String> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().try_for_each(WatchedFile::check)
    }
}

impl WatchedFile {
    fn check(&self) -> Result<(), String> {
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => {
                match self.written.is_none_or(|time| time == written(&found)) {
                    true => Ok(()),
                    false => Err(overwritten(&self.path)),
                }
            }
            Ok(found) => Err(format!(
                "{path} was replaced while it was in use (inode {} of device {}, opened was inode {} of device {}); {REMEDY}",
                found.ino(),
                found.dev(),
                self.inode,
                self.device
            )),
            Err(cause) => Err(removed(&self.path, &cause)),
        }
    }
}

impl DatabaseFile {
    pub(super) fn new(path: &Path, connection: &Connection) -> Result<DatabaseFile, String> {
        let mut log_path = path.as_os_str().to_owned();
        log_path.push("-wal");
        let log_file = File::open(&log_path);
        let log_file = log_file.map_err(|cause| removed(Path::new(&log_path), &cause))?;
        Ok(DatabaseFile {
            path: path.to_owned(),
            written: written_at(path)?,
            log: Log::of(&log_file, connection)?,
            log_file,
        })
    }

    /// Says that somebody wrote over the database in place. Whoever copies the log into it, as the
    /// queue commands may, tells so in the log's index, a moment after.
    pub(super) fn check(&mut self, connection: &Connection) -> Result<(), String> {
        const STEP: Duration = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        while written_at(&self.path)? != self.written {
            if Log::of(&self.log_file, connection)? != self.log {
                return self.note(connection);
            }
            if waited >= COPYING {
                return Err(overwritten(&self.path));
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
        Ok(())
    }

    /// Takes the file as it is now for what it should be.
    pub(super) fn note(&mut self, connection: &Connection) -> Result<(), String> {
        self.written = written_at(&self.path)?;
        self.log = Log::of(&self.log_file, connection)?;
        Ok(())
    }
}

fn removed(path: &Path, cause: &io::Error) -> String {
    let path = path.display();
    format!("{path} was removed while it was in use ({cause}); {REMEDY}")
}

fn overwritten(path: &Path) -> String {
    let path = path.display();
    format!("{path} was written by another program while it was in use; {REMEDY}")
}

fn written(found: &Metadata) -> Written {
    (found.len(), found.mtime(), found.mtime_nsec())
}

fn written_at(path: &Path) -> Result<Written, String> {
    let found = fs::metadata(path);
    found
        .map(|found| written(&found))
        .map_err(|cause| removed(path, &cause))
}

impl Log {
    /// That in this file; nothing at its head where nothing was written yet.
    fn of(file: &File, connection: &Connection) -> Result<Log, String> {
        let result = database::log_progress(connection).map_err(|cause| cause.to_string())?;
        let mut head = [0; 12];
        let _ = file.read_exact_at(&mut head, 12);
        Ok(Log {
            copied: result.copied,
            head,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::tests::item;
    use super::super::{CommitError, Settings, Spool, Submission};
    use super::*;
    use crate::mail::Content;

    fn open(dir: &Path) -> Spool {
        let spool = Spool::open(&Settings::new(dir)).expect("opened");
        let key = dir.join("seal.key");
        fs::write(&key, "a key").expect("written");
        spool.watch_file(key).expect("it is there");
        spool
    }

    async fn commit(spool: &Spool, n: usize) -> Result<(), CommitError> {
        let original = Content::Memory(vec![b'x'; 1000].into());
        let items = vec![item(n, &["a@journal.test"])];
        spool
            .commit("Q", UNIX_EPOCH, vec![Submission { original, items }])
            .await
    }

    const FILES: [&str; 5] = [
        "spool/spool.db",
        "spool/spool.db-wal",
        "spool/spool.db-shm",
        "spool/bodies",
        "seal.key",
    ];

    #[tokio::test]
    async fn nothing_is_committed_once_a_file_was_removed_or_replaced() {
        for name in FILES {
            for is_replaced in [false, true] {
                let dir = tempfile::tempdir().expect("a directory");
                let spool = open(dir.path());
                commit(&spool, 1).await.expect("durable");
                let (path, away) = (dir.path().join(name), dir.path().join("away"));
                fs::rename(&path, &away).expect("moved");
                if is_replaced && away.is_dir() {
                    fs::create_dir(&path).expect("made");
                } else if is_replaced {
                    fs::copy(&away, &path).expect("copied");
                }
                let error = commit(&spool, 2).await.expect_err(name);
                assert!(matches!(error, CommitError::Failed(_)), "{name}: {error}");
                assert!(spool.is_failed(), "{name}");
                // It is not trusted again though all looks as it was.
                if path.exists() && path.is_dir() {
                    fs::remove_dir(&path).expect("removed");
                }
                fs::rename(&away, &path).expect("moved back");
                let error = commit(&spool, 3).await.expect_err(name);
                assert!(matches!(error, CommitError::Failed(_)), "{name}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn a_replaced_file_is_noticed_without_mail() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = open(dir.path());
        assert!(!spool.is_failed());
        let path = dir.path().join("spool/spool.db");
        fs::remove_file(path).expect("removed");
        assert!(spool.is_failed());
        spool.wait_failed().await;
    }

    #[tokio::test]
    async fn nothing_is_committed_once_a_file_was_written_over_in_its_place() {
        for name in ["spool/spool.db", "seal.key"] {
            let dir = tempfile::tempdir().expect("a directory");
            let (path, backup) = (dir.path().join(name), dir.path().join("backup"));
            let spool = open(dir.path());
            commit(&spool, 1).await.expect("durable");
            fs::copy(&path, &backup).expect("copied");
            commit(&spool, 2).await.expect("durable");
            fs::copy(&backup, &path).expect("copied back");
            let error = commit(&spool, 3).await.expect_err(name);
            assert!(matches!(error, CommitError::Failed(_)), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn a_log_that_another_process_copies_and_begins_anew_is_no_alarm() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = open(dir.path());
        for n in 1..4 {
            commit(&spool, n).await.expect("durable");
            let other = Connection::open(dir.path().join("spool/spool.db")).expect("opened");
            other
                .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
                .expect("copied");
            // As the queue commands do; the first write begins the log anew.
            other
                .execute_batch("CREATE TABLE IF NOT EXISTS x (y); INSERT INTO x VALUES (1);")
                .expect("written");
        }
        commit(&spool, 4).await.expect("durable");
    }

    #[tokio::test]
    async fn a_log_that_another_process_copies_into_the_database_is_no_alarm() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = open(dir.path());
        for n in 1..4 {
            commit(&spool, n).await.expect("durable");
            let other = Connection::open(dir.path().join("spool/spool.db")).expect("opened");
            let copied: i64 = other
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2))
                .expect("copied");
            assert!(copied > 0);
        }
        commit(&spool, 4).await.expect("durable");
        assert!(!spool.is_failed());
    }
}
