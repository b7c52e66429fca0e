//! The one thread that writes, and the group commit.
//!
//! Jobs come over a bounded channel. The thread takes one, then whatever else waits, and commits
//! them together: one sync for all. A job alone waits for nobody. Where a job fails, the group is
//! done again with a savepoint for each, so that the others stand; savepoints for all of them from
//! the start would cost a tenth of all the time, for what hardly ever happens.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{counter, histogram};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{error, warn};

use super::error::CommitError;
use super::reserve::Reserve;
use super::watched::{DatabaseFile, WatchedFiles};
use super::{damage, database};

/// Jobs in one group: bounds how long the first of them waits for the others.
const GROUP: usize = 256;
/// Jobs that wait for a group; beyond that, callers wait before they hand in.
const WAITING: usize = 1024;

/// Hands jobs to the writing thread. The thread ends when the last handle is gone.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
    latch: Arc<Latch>,
    files: Arc<WatchedFiles>,
}

/// What the thread works with.
struct Desk {
    connection: Connection,
    latch: Arc<Latch>,
    files: Arc<WatchedFiles>,
    database: DatabaseFile,
    reserve: Arc<Reserve>,
}

/// Set once, never unset: this process's files cannot be trusted any more.
#[derive(Default)]
pub(super) struct Latch {
    set: AtomicBool,
    told: Notify,
}

/// Something to be done in a transaction.
trait Job: Send {
    /// Does it; again from the start where the transaction was rolled back meanwhile.
    fn apply(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Tells the caller how the group ended.
    fn finish(self: Box<Self>, group: Result<(), CommitError>);
}

struct Task<T, F> {
    work: F,
    result: Option<T>,
    caller: oneshot::Sender<Result<T, CommitError>>,
}

impl<T: Send, F: FnMut(&Connection) -> rusqlite::Result<T> + Send> Job for Task<T, F> {
    fn apply(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.result = None;
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn finish(self: Box<Self>, group: Result<(), CommitError>) {
        let Task { result, caller, .. } = *self;
        let answer = group.and_then(|()| {
            result.ok_or_else(|| CommitError::Refused("the job was not run".into()))
        });
        // A caller that has gone away (a session cut off) does not want to know; the commit stands.
        let _ = caller.send(answer);
    }
}

impl Writer {
    /// Starts the thread with a connection that nobody else writes with. Nothing is committed once
    /// the database at `path`, or one of the `files`, is another than was opened. On a full disk
    /// the reserve is given up.
    pub(super) fn start(
        connection: Connection,
        path: &Path,
        files: WatchedFiles,
        reserve: Arc<Reserve>,
    ) -> std::io::Result<Writer> {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let (latch, files) = (Arc::new(Latch::default()), Arc::new(files));
        let desk = Desk {
            database: DatabaseFile::new(path, &connection).map_err(std::io::Error::other)?,
            connection,
            latch: latch.clone(),
            files: files.clone(),
            reserve,
        };
        std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || write_all(desk, waiting))?;
        Ok(Writer { jobs, latch, files })
    }

    /// Runs `work` in a transaction; returns when that is durable. It may be run more than once;
    /// only the last time counts. If the caller goes away earlier, it may happen all the same.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, CommitError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let task = Box::new(Task {
            work,
            result: None,
            caller,
        });
        let gone = || {
            let why = "the writing thread has ended";
            self.latch.set(why);
            CommitError::Failed(why.into())
        };
        self.jobs.send(task).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    pub(super) fn latch(&self) -> &Latch {
        &self.latch
    }

    /// Whether nothing more can be made durable: something failed, or the files are not those that
    /// were opened.
    pub(super) fn is_failed(&self) -> bool {
        if !self.latch.is_set()
            && let Err(why) = self.files.check()
        {
            self.latch.set(&why);
        }
        self.latch.is_set()
    }

    pub(super) fn files(&self) -> &WatchedFiles {
        &self.files
    }
}

impl Latch {
    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Resolves when it is set.
    pub(super) async fn wait(&self) {
        let told = self.told.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if !self.is_set() {
            told.await;
        }
    }

    pub(super) fn set(&self, why: &str) {
        if !self.set.swap(true, Ordering::AcqRel) {
            error!("the spool has failed and takes nothing more until a restart: {why}");
        }
        self.told.notify_waiters();
    }
}

fn write_all(mut desk: Desk, mut waiting: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(job) = waiting.try_recv()
        {
            group.push(job);
        }
        histogram!("copyist_spool_group_size").record(group.len() as f64);
        desk.write_group(group);
        if !desk.latch.is_set() {
            desk.shorten_log();
        }
    }
}

impl Desk {
    /// Whether what is committed is found again at its place; nothing more is trusted where it is
    /// not.
    fn is_in_place(&mut self) -> bool {
        let checked = (self.files.check()).and_then(|()| self.database.check(&self.connection));
        if let Err(why) = &checked {
            self.latch.set(why);
        }
        checked.is_ok()
    }

    fn shorten_log(&mut self) {
        if let Err(cause) = database::shorten_log(&self.connection) {
            // What is in the log is durable there, so nobody's commit is in doubt. But a sync has
            // failed.
            match classify(&cause) {
                CommitError::Failed(_) => self.latch.set(&why(&cause)),
                _ => warn!("the spool's log stays long: {cause}"),
            }
        }
        if let Err(why) = self.database.note(&self.connection) {
            self.latch.set(&why);
        }
    }

    fn write_group(&mut self, mut group: Vec<Box<dyn Job>>) {
        if self.latch.is_set() || !self.is_in_place() {
            return fail(
                group,
                &CommitError::Failed("an earlier write failed".into()),
            );
        }
        match self.in_transaction(&mut group) {
            // It is durable, but perhaps in files that nobody will find.
            Ok(_) if !self.is_in_place() => {
                let why = "the files of the spool were removed or replaced";
                fail(group, &CommitError::Failed(why.into()));
            }
            Ok(outcomes) => {
                counter!("copyist_spool_commits_total").increment(1);
                for (job, outcome) in group.into_iter().zip(outcomes) {
                    job.finish(outcome);
                }
            }
            Err(error) => fail(group, &error),
        }
    }

    /// Commits a group. What was delivered must be written down on a full disk as well: that makes
    /// room.
    fn in_transaction(
        &self,
        group: &mut [Box<dyn Job>],
    ) -> Result<Vec<Result<(), CommitError>>, CommitError> {
        let mut attempt =
            || in_transaction(&self.connection, group).map_err(|cause| self.roll_back(&cause));
        match attempt() {
            Err(CommitError::Full) if self.reserve.give_up() => {
                warn!("the disk is full; the reserve of the spool is given up");
                attempt()
            }
            other => other,
        }
    }

    /// Undoes what is left of a transaction; gives what its group is told.
    fn roll_back(&self, cause: &rusqlite::Error) -> CommitError {
        // SQLite rolls back by itself for some errors. What remains of the transaction must not be
        // there when the next group begins.
        let connection = &self.connection;
        let clean = connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        match classify(cause) {
            error @ (CommitError::Full | CommitError::Refused(_)) if clean => error,
            error => {
                self.latch.set(&why(cause));
                match error {
                    CommitError::Failed(_) => error,
                    _ => CommitError::Failed(cause.to_string().into()),
                }
            }
        }
    }
}

fn fail(group: Vec<Box<dyn Job>>, error: &CommitError) {
    group
        .into_iter()
        .for_each(|job| job.finish(Err(error.clone())));
}

/// Applies every job and commits them together. `Err` means that nothing of the group stands.
fn in_transaction(
    connection: &Connection,
    group: &mut [Box<dyn Job>],
) -> rusqlite::Result<Vec<Result<(), CommitError>>> {
    let begin = || connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]);
    begin()?;
    let mut outcomes = Vec::new();
    if let Err(cause) = group.iter_mut().try_for_each(|job| job.apply(connection)) {
        if ends_the_group(connection, &cause) {
            return Err(cause);
        }
        connection.prepare_cached("ROLLBACK")?.execute([])?;
        begin()?;
        outcomes = one_by_one(connection, group)?;
    }
    outcomes.resize(group.len(), Ok(()));
    // The one place where something becomes durable: in WAL mode with synchronous=FULL this returns
    // after the sync of the log. If it fails, nobody is told "yes".
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(outcomes)
}

/// Applies every job in a savepoint of its own.
fn one_by_one(
    connection: &Connection,
    group: &mut [Box<dyn Job>],
) -> rusqlite::Result<Vec<Result<(), CommitError>>> {
    let mut outcomes = Vec::with_capacity(group.len());
    for job in group.iter_mut() {
        connection.prepare_cached("SAVEPOINT job")?.execute([])?;
        let outcome = match job.apply(connection) {
            Ok(()) => Ok(()),
            Err(cause) if ends_the_group(connection, &cause) => return Err(cause),
            Err(cause) => {
                connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
                Err(classify(&cause))
            }
        };
        connection.prepare_cached("RELEASE job")?.execute([])?;
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Whether the transaction itself is gone, and with it the jobs before this one; or the disk is,
/// and then nothing else in the group has a chance either.
fn ends_the_group(connection: &Connection, cause: &rusqlite::Error) -> bool {
    connection.is_autocommit() || !matches!(classify(cause), CommitError::Refused(_))
}

fn why(cause: &rusqlite::Error) -> String {
    if damage::is_corrupt(cause) {
        format!(
            "{cause}; a restart does not mend that, see \"A damaged database\" in docs/operation.md"
        )
    } else {
        cause.to_string()
    }
}

/// Which fate an SQLite error is.
fn classify(cause: &rusqlite::Error) -> CommitError {
    match cause.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => CommitError::Full,
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::InternalMalfunction,
        ) => CommitError::Failed(cause.to_string().into()),
        _ => CommitError::Refused(cause.to_string().into()),
    }
}
