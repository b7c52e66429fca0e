//! The one thread that writes, and the group commit.
//!
//! Jobs arrive over a bounded channel. The thread takes one, then whatever else waits, and commits
//! them together: one sync for all. A single job waits for nobody. If a job fails, the group is run
//! again with a savepoint for each, so that the others are committed. Savepoints for all of them
//! from the start would cost a tenth of the throughput, for a case that hardly ever happens.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{counter, histogram};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{error, warn};

use super::open_files::{DatabaseFile, OpenFiles};
use super::read::StoredBody;
use super::space_reserve::SpaceReserve;
use super::write::{self, Applied};
use super::{damage, wal};
use crate::spool::error::CommitError;
use crate::spool::job::Job;

/// Maximum number of jobs in a group: bounds how long the first of them waits for the others.
const MAX_GROUP: usize = 256;
/// Maximum number of waiting jobs; beyond it, callers wait before they submit one.
const MAX_WAITING: usize = 1024;

/// Handle of the writing thread. The thread ends with its last handle.
#[derive(Clone)]
pub(super) struct Writer {
    tasks: mpsc::Sender<Task>,
    failure: Arc<Failure>,
    files: Arc<OpenFiles>,
}

/// A job, and the caller that waits for it.
struct Task {
    job: Job,
    bodies: Vec<StoredBody>,
    applied: Option<Applied>,
    caller: oneshot::Sender<Result<Applied, CommitError>>,
}

/// State of the writing thread.
struct WriterThread {
    connection: Connection,
    failure: Arc<Failure>,
    files: Arc<OpenFiles>,
    database: DatabaseFile,
    reserve: Arc<SpaceReserve>,
}

/// Whether this process's files can no longer be trusted. Set once, never reset.
#[derive(Default)]
pub(super) struct Failure {
    is_set: AtomicBool,
    changed: Notify,
}

impl Task {
    /// Applies the job; again from the start if the transaction was rolled back.
    fn apply(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.applied = None;
        self.applied = Some(write::apply(connection, &self.job, &self.bodies)?);
        Ok(())
    }

    /// Gives the caller its answer.
    fn finish(self, outcome: Result<(), CommitError>) {
        let answer = outcome.and_then(|()| {
            (self.applied).ok_or_else(|| CommitError::Refused("the job was not run".into()))
        });
        // If the caller has gone away (a session cut off), the commit stands all the same.
        let _ = self.caller.send(answer);
    }
}

impl Writer {
    /// Starts the thread with a connection that nobody else writes with. Nothing is committed once
    /// the database at `path`, or one of the `files`, is replaced. The reserve is released if the
    /// disk is full.
    pub(super) fn start(
        connection: Connection,
        path: &Path,
        files: OpenFiles,
        reserve: Arc<SpaceReserve>,
    ) -> std::io::Result<Writer> {
        let (tasks, waiting) = mpsc::channel(MAX_WAITING);
        let (failure, files) = (Arc::new(Failure::default()), Arc::new(files));
        let thread = WriterThread {
            database: DatabaseFile::new(path, &connection).map_err(std::io::Error::other)?,
            connection,
            failure: failure.clone(),
            files: files.clone(),
            reserve,
        };
        std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || thread.run(waiting))?;
        Ok(Writer {
            tasks,
            failure,
            files,
        })
    }

    /// Applies a job in a transaction; returns when that is durable. If the caller goes away
    /// earlier, it may be applied all the same.
    pub(super) async fn apply(
        &self,
        job: Job,
        bodies: Vec<StoredBody>,
    ) -> Result<Applied, CommitError> {
        let (caller, answer) = oneshot::channel();
        let task = Task {
            job,
            bodies,
            applied: None,
            caller,
        };
        let ended = || {
            let reason = "the writing thread has ended";
            self.failure.set(reason);
            CommitError::Failed(reason.into())
        };
        self.tasks.send(task).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    pub(super) fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Whether nothing more can be made durable: an operation failed, or a file was replaced.
    pub(super) fn is_failed(&self) -> bool {
        if !self.failure.is_set()
            && let Err(reason) = self.files.check()
        {
            self.failure.set(&reason);
        }
        self.failure.is_set()
    }

    pub(super) fn files(&self) -> &OpenFiles {
        &self.files
    }
}

impl Failure {
    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Resolves when it is set.
    pub(super) async fn wait(&self) {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !self.is_set() {
            changed.await;
        }
    }

    pub(super) fn set(&self, reason: &str) {
        if !self.is_set.swap(true, Ordering::AcqRel) {
            error!("the spool has failed and accepts nothing more until a restart: {reason}");
        }
        self.changed.notify_waiters();
    }
}

impl WriterThread {
    fn run(mut self, mut waiting: mpsc::Receiver<Task>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < MAX_GROUP
                && let Ok(task) = waiting.try_recv()
            {
                group.push(task);
            }
            histogram!("copyist_spool_group_size").record(group.len() as f64);
            self.commit_group(group);
            if !self.failure.is_set() {
                self.shorten_wal();
            }
        }
    }

    /// Whether the files are the ones that were opened. If not, nothing more is trusted.
    fn check_files(&mut self) -> bool {
        let checked = (self.files.check()).and_then(|()| self.database.check(&self.connection));
        if let Err(reason) = &checked {
            self.failure.set(reason);
        }
        checked.is_ok()
    }

    fn shorten_wal(&mut self) {
        if let Err(cause) = wal::shorten(&self.connection) {
            // The WAL itself is durable, so no commit is in doubt. But a sync has failed.
            match classify(&cause) {
                CommitError::Failed(_) => self.failure.set(&describe(&cause)),
                _ => warn!("cannot shorten the WAL of the spool: {cause}"),
            }
        }
        if let Err(reason) = self.database.update(&self.connection) {
            self.failure.set(&reason);
        }
    }

    fn commit_group(&mut self, mut group: Vec<Task>) {
        if self.failure.is_set() || !self.check_files() {
            return fail(
                group,
                &CommitError::Failed("an earlier write failed".into()),
            );
        }
        match self.try_commit(&mut group) {
            // It is durable, but perhaps in files that nobody will find.
            Ok(_) if !self.check_files() => {
                let reason = "files of the spool were removed or replaced";
                fail(group, &CommitError::Failed(reason.into()));
            }
            Ok(outcomes) => {
                counter!("copyist_spool_commits_total").increment(1);
                for (task, outcome) in group.into_iter().zip(outcomes) {
                    task.finish(outcome);
                }
            }
            Err(error) => fail(group, &error),
        }
    }

    /// Commits a group. On a full disk it releases the reserve: deliveries must be recorded, which
    /// frees space.
    fn try_commit(&self, group: &mut [Task]) -> Result<Vec<Result<(), CommitError>>, CommitError> {
        let mut attempt =
            || commit(&self.connection, group).map_err(|cause| self.roll_back(&cause));
        match attempt() {
            Err(CommitError::Full) if self.reserve.release() => {
                warn!("the disk is full; released the reserve of the spool");
                attempt()
            }
            other => other,
        }
    }

    /// Rolls back what is left of a transaction. Returns the error for its group.
    fn roll_back(&self, cause: &rusqlite::Error) -> CommitError {
        // SQLite rolls back by itself after some errors. Nothing of the transaction may be left
        // when the next group begins.
        let connection = &self.connection;
        let is_clean = connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        let error = classify(cause);
        if is_clean && error.is_definite() {
            return error;
        }
        self.failure.set(&describe(cause));
        CommitError::Failed(cause.to_string().into())
    }
}

fn fail(group: Vec<Task>, error: &CommitError) {
    group
        .into_iter()
        .for_each(|task| task.finish(Err(error.clone())));
}

/// Applies every job and commits them together. `Err` means that none is committed.
fn commit(
    connection: &Connection,
    group: &mut [Task],
) -> rusqlite::Result<Vec<Result<(), CommitError>>> {
    let begin = || connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]);
    begin()?;
    let mut outcomes = Vec::new();
    if let Err(cause) = group.iter_mut().try_for_each(|task| task.apply(connection)) {
        if ends_group(connection, &cause) {
            return Err(cause);
        }
        connection.prepare_cached("ROLLBACK")?.execute([])?;
        begin()?;
        outcomes = apply_one_by_one(connection, group)?;
    }
    outcomes.resize(group.len(), Ok(()));
    // The one place where a job becomes durable: in WAL mode with synchronous=FULL this returns
    // after the sync of the WAL. If it fails, no caller gets an `Ok`.
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(outcomes)
}

/// Applies every job in a savepoint of its own.
fn apply_one_by_one(
    connection: &Connection,
    group: &mut [Task],
) -> rusqlite::Result<Vec<Result<(), CommitError>>> {
    let mut outcomes = Vec::with_capacity(group.len());
    for task in group.iter_mut() {
        connection.prepare_cached("SAVEPOINT job")?.execute([])?;
        let outcome = match task.apply(connection) {
            Ok(()) => Ok(()),
            Err(cause) if ends_group(connection, &cause) => return Err(cause),
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

/// Whether an error ends the whole group: the transaction is gone, or the disk or database is, and
/// then no other job has a chance either.
fn ends_group(connection: &Connection, cause: &rusqlite::Error) -> bool {
    connection.is_autocommit() || !matches!(classify(cause), CommitError::Refused(_))
}

fn describe(cause: &rusqlite::Error) -> String {
    if damage::is_corrupt(cause) {
        format!(
            "{cause}; a restart does not repair that, see \"A damaged database\" in docs/operation.md"
        )
    } else {
        cause.to_string()
    }
}

/// Converts an SQLite error.
fn classify(cause: &rusqlite::Error) -> CommitError {
    let text = || cause.to_string().into();
    match cause.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => CommitError::Full,
        Some(ErrorCode::DatabaseBusy) => CommitError::Unavailable(text()),
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::InternalMalfunction,
        ) => CommitError::Failed(text()),
        _ => CommitError::Refused(text()),
    }
}
