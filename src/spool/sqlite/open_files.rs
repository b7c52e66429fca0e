//! Checks that the opened files are still the ones at their paths.
//!
//! A file that is removed or replaced while it is open can be written and synced like any other, and
//! all of that is lost with the process. So before a group of jobs begins, and again before its
//! callers get an answer, each path must still lead to the file that was opened, and no other
//! program may have written to the database.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::wal;

/// Advice about a replaced file.
const REMEDY: &str = "earlier commits are in the previous file; stop the service before you restore or move files, \
                      and start it when they are in place";

/// Time that another process may take to copy the WAL into the database.
const COPY_TIME: Duration = Duration::from_secs(5);

/// Paths of the opened files, with the files that were opened.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(Mutex<Vec<OpenFile>>);

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Last write of a file that nobody writes while the service runs.
    last_write: Option<LastWrite>,
}

/// The database file at the last check: its last write, and the part of the WAL that it contains.
/// Only a copy of the WAL may write it.
pub(super) struct DatabaseFile {
    path: PathBuf,
    last_write: LastWrite,
    wal_file: File,
    wal: WalState,
}

/// The part of the WAL that is in the database, and the header by which SQLite tells one WAL from
/// the next ("The WAL File Format", bytes 12 to 23): of a new WAL as little is copied as of one that
/// was never copied.
#[derive(Debug, PartialEq, Eq)]
struct WalState {
    copied: i64,
    header: [u8; 12],
}

/// Length of a file, and time of the last write in seconds and nanoseconds.
type LastWrite = (u64, i64, i64);

impl OpenFiles {
    /// Watches a file or directory, which may be written.
    pub(super) fn watch(&self, path: PathBuf) -> io::Result<()> {
        let found = fs::metadata(&path)?;
        self.push(path, &found, None);
        Ok(())
    }

    /// Watches a file that nobody may write.
    pub(super) fn watch_unchanging(&self, path: PathBuf) -> io::Result<()> {
        let found = fs::metadata(&path)?;
        self.push(path, &found, Some(last_write(&found)));
        Ok(())
    }

    fn push(&self, path: PathBuf, found: &Metadata, last_write: Option<LastWrite>) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.push(OpenFile {
            path,
            device: found.dev(),
            inode: found.ino(),
            last_write,
        });
    }

    /// Checks that each path still leads to the file that was opened. The error names the file that
    /// was replaced.
    pub(super) fn check(&self) -> Result<(), String> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().try_for_each(OpenFile::check)
    }
}

impl OpenFile {
    fn check(&self) -> Result<(), String> {
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => {
                match self
                    .last_write
                    .is_none_or(|write| write == last_write(&found))
                {
                    true => Ok(()),
                    false => Err(overwritten(&self.path)),
                }
            }
            Ok(found) => Err(format!(
                "{path} was replaced while it was in use (inode {} of device {} instead of inode {} of device {}); {REMEDY}",
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
        let wal_path = path.with_file_name("spool.db-wal");
        let wal_file = File::open(&wal_path).map_err(|cause| removed(&wal_path, &cause))?;
        Ok(DatabaseFile {
            path: path.to_owned(),
            last_write: last_write_of(path)?,
            wal: WalState::read(&wal_file, connection)?,
            wal_file,
        })
    }

    /// Checks that no other program wrote to the database. A process that copies the WAL into it, as
    /// the queue commands may, records that in the index of the WAL, a moment later.
    pub(super) fn check(&mut self, connection: &Connection) -> Result<(), String> {
        const STEP: Duration = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        while last_write_of(&self.path)? != self.last_write {
            if WalState::read(&self.wal_file, connection)? != self.wal {
                return self.update(connection);
            }
            if waited >= COPY_TIME {
                return Err(overwritten(&self.path));
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
        Ok(())
    }

    /// Takes the present state of the file as the expected one.
    pub(super) fn update(&mut self, connection: &Connection) -> Result<(), String> {
        self.last_write = last_write_of(&self.path)?;
        self.wal = WalState::read(&self.wal_file, connection)?;
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

fn last_write(found: &Metadata) -> LastWrite {
    (found.len(), found.mtime(), found.mtime_nsec())
}

fn last_write_of(path: &Path) -> Result<LastWrite, String> {
    fs::metadata(path)
        .map(|found| last_write(&found))
        .map_err(|cause| removed(path, &cause))
}

impl WalState {
    /// Reads the state of the WAL; its header is empty until something is written.
    fn read(file: &File, connection: &Connection) -> Result<WalState, String> {
        let progress = wal::progress(connection).map_err(|cause| cause.to_string())?;
        let mut header = [0; 12];
        let _ = file.read_exact_at(&mut header, 12);
        Ok(WalState {
            copied: progress.copied,
            header,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::mail::Content;
    use crate::spool::conformance::item;
    use crate::spool::{CommitError, Settings, Spool, Submission};

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
    async fn a_removed_or_replaced_file_ends_all_commits() {
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
                // It stays failed though the files are back.
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
    async fn a_removed_file_is_noticed_without_mail() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = open(dir.path());
        assert!(!spool.is_failed());
        let path = dir.path().join("spool/spool.db");
        fs::remove_file(path).expect("removed");
        assert!(spool.is_failed());
        spool.wait_failed().await;
    }

    #[tokio::test]
    async fn an_overwritten_file_ends_all_commits() {
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
    async fn another_process_may_restart_the_wal() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = open(dir.path());
        for n in 1..4 {
            commit(&spool, n).await.expect("durable");
            let other = Connection::open(dir.path().join("spool/spool.db")).expect("opened");
            other
                .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
                .expect("copied");
            // As the queue commands do; the first write restarts the WAL.
            other
                .execute_batch("CREATE TABLE IF NOT EXISTS x (y); INSERT INTO x VALUES (1);")
                .expect("written");
        }
        commit(&spool, 4).await.expect("durable");
    }

    #[tokio::test]
    async fn another_process_may_copy_the_wal() {
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
