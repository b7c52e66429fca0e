//! The engine of one service: an SQLite database, and files for large originals.
//!
//! `state_dir/spool/spool.db` is in WAL mode with `synchronous=FULL`: a commit is one write to the
//! WAL and one sync. One thread writes, and commits all waiting jobs as one group, so that many
//! sessions share a sync. Originals over [`Settings::inline_limit`] are files in
//! `state_dir/spool/bodies`, durable before the row that names them; a large message is written to
//! its file while it is received.

mod bodies;
mod browse;
mod damage;
mod disk_space;
mod ndr;
mod open_files;
mod operator;
mod outage;
mod queue;
mod read;
mod rows;
mod schema;
mod space_reserve;
#[cfg(test)]
mod tests;
mod transit;
mod wal;
mod write;
mod writer;

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use nix::fcntl::OFlag;
use ring::digest::{Context, SHA256, digest};
use rusqlite::Connection;
use tracing::{error, warn};

use bodies::{Bodies, is_draft, sync_dir};
use browse::Browser;
use disk_space::DiskSpace;
use open_files::OpenFiles;
use read::{BodyLocation, StoredBody, StoredItem};
use space_reserve::SpaceReserve;
use writer::Writer;

use super::engine::{Due, Engine, Loaded};
use super::error::{CommitError, OpenError, SpoolError};
use super::job::{Enqueue, Job, JobResult};
use super::operator::OperatorRecord;
use super::settings::Settings;
use super::types::{BounceRecord, FreeSpace, NdrDigest, QueuedItem};
use super::view::{BrowseRequest, ItemDetails, ListFilter, QueueDepth, QueueEntry, QueuePage};
use crate::journal::ItemId;
use crate::mail::{Address, Content};

pub use bodies::IncomingBody;

/// File in the state directory that the service locks.
const LOCK: &str = "lock";

/// The engine. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct SqliteEngine {
    writer: Writer,
    /// Reads do not wait for commits: in WAL mode a second connection sees the last commit.
    reader: Arc<Mutex<Connection>>,
    /// The connection of those who browse the queue, opened at the first request.
    browser: Arc<tokio::sync::Mutex<Option<Browser>>>,
    path: PathBuf,
    bodies: Bodies,
    inline_limit: usize,
    disk_space: DiskSpace,
    /// Items that a delivery of this process works on. After a crash they are due again.
    claimed: Arc<Mutex<HashSet<ItemId>>>,
    /// Locked as long as there is a handle; `None` for the queue commands.
    _lock: Option<Arc<File>>,
}

impl SqliteEngine {
    /// See [`Spool::open`](super::Spool::open).
    pub(super) fn open(settings: &Settings) -> Result<SqliteEngine, OpenError> {
        let dir = settings.state_dir.join("spool");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(io_error(&dir))?;
        let lock = lock(&settings.state_dir)?;
        let reserve = SpaceReserve::released(&dir).map_err(io_error(&dir))?;
        let path = dir.join("spool.db");
        // SQLite would make it readable for everyone who can enter the directory.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(io_error(&path))?;
        let connection = schema::connect(&path, true)?;
        damage::check(&connection, &path)?;
        wal::restart(&connection, &path)?;
        recover(&connection).map_err(|cause| damage::open_error(&path, &cause))?;
        let lock = Some(Arc::new(lock));
        let engine = SqliteEngine::new(settings, connection, path, reserve, lock)?;
        // The names of everything created here, and that of the state directory itself.
        sync_dir(&dir)
            .and_then(|()| sync_dir(&settings.state_dir))
            .and_then(|()| sync_dir(&settings.state_dir.join("..")))
            .and_then(|()| engine.remove_orphans())
            .map_err(io_error(&dir))?;
        engine.disk_space.fill_reserve();
        Ok(engine)
    }

    /// See [`Spool::inspect`](super::Spool::inspect).
    pub(super) fn inspect(settings: &Settings) -> Result<SqliteEngine, OpenError> {
        let path = settings.state_dir.join("spool").join("spool.db");
        if !path.try_exists().map_err(io_error(&path))? {
            return Err(OpenError::Absent {
                state_dir: settings.state_dir.clone(),
            });
        }
        let connection = schema::connect(&path, false)?;
        SqliteEngine::new(settings, connection, path, SpaceReserve::none(), None)
    }

    fn new(
        settings: &Settings,
        connection: Connection,
        path: PathBuf,
        reserve: SpaceReserve,
        lock: Option<Arc<File>>,
    ) -> Result<SqliteEngine, OpenError> {
        let reserve = Arc::new(reserve);
        let dir = path.with_file_name("bodies");
        let bodies = Bodies::open(&dir).map_err(io_error(&dir))?;
        let reader = schema::connect(&path, false)?;
        let files = OpenFiles::default();
        // SQLite keeps the WAL and its index as long as anybody has the database open.
        let wal = ["spool.db-wal", "spool.db-shm"].map(|name| path.with_file_name(name));
        for file in [path.clone(), dir].into_iter().chain(wal) {
            files.watch(file.clone()).map_err(io_error(&file))?;
        }
        let writer = Writer::start(connection, &path, files, reserve.clone());
        Ok(SqliteEngine {
            writer: writer.map_err(io_error(&path))?,
            reader: Arc::new(Mutex::new(reader)),
            browser: Arc::default(),
            path,
            bodies,
            inline_limit: settings.inline_limit,
            disk_space: DiskSpace::new(settings, reserve),
            claimed: Arc::default(),
            _lock: lock,
        })
    }

    /// See [`Spool::new_body`](super::Spool::new_body).
    pub(super) async fn new_body(&self) -> io::Result<IncomingBody> {
        let (bodies, space) = (self.bodies.clone(), self.disk_space.clone());
        blocking(move || {
            space.use_file()?;
            bodies.create(Some(space))
        })
        .await
    }

    /// See [`Spool::is_failed`](super::Spool::is_failed).
    pub(super) fn is_failed(&self) -> bool {
        self.writer.is_failed()
    }

    /// See [`Spool::wait_failed`](super::Spool::wait_failed).
    pub(super) async fn wait_failed(&self) {
        self.writer.failure().wait().await;
    }

    /// See [`Spool::watch_file`](super::Spool::watch_file).
    pub(super) fn watch_file(&self, path: PathBuf) -> io::Result<()> {
        self.writer.files().watch_unchanging(path)
    }

    /// See [`Spool::free_space`](super::Spool::free_space).
    pub(super) fn free_space(&self) -> Option<FreeSpace> {
        self.disk_space.free()
    }

    /// Stores the originals of a message, or none of them.
    async fn store_originals(&self, job: &Enqueue) -> Result<Vec<StoredBody>, CommitError> {
        if self.is_failed() {
            return Err(CommitError::Failed("an earlier write failed".into()));
        }
        let originals = || {
            job.submissions
                .iter()
                .map(|submission| &submission.original)
        };
        let bytes = originals().map(|original| self.bytes_to_write(original));
        let files = originals().filter(|original| self.needs_new_file(original));
        (self.disk_space).reserve_message(bytes.sum(), files.count() as u64)?;
        let mut stored = Vec::with_capacity(job.submissions.len());
        for original in originals() {
            match self.store_original(original).await {
                Ok(body) => stored.push(body),
                Err(error) => {
                    self.remove_bodies(file_names(&stored)).await;
                    return Err(error);
                }
            }
        }
        Ok(stored)
    }

    /// Stores an original: in its row if it is short, else in a file that is durable when this
    /// returns.
    async fn store_original(&self, original: &Content) -> Result<StoredBody, CommitError> {
        let refused = |cause: io::Error| {
            CommitError::Refused(format!("cannot read the message: {cause}").into())
        };
        if original.len() <= self.inline_limit {
            let content = original.read().map_err(refused)?;
            return Ok(StoredBody {
                size: content.len() as u64,
                sha256: digest(&SHA256, &content).as_ref().to_vec(),
                location: BodyLocation::Inline(content),
            });
        }
        let size = original.len() as u64;
        let (bodies, original) = (self.bodies.clone(), original.clone());
        match blocking(move || bodies.store(&original)).await {
            Ok((file, sha256)) => Ok(StoredBody {
                location: BodyLocation::File(file),
                size,
                sha256,
            }),
            Err(cause) => match cause.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Err(CommitError::Full),
                _ => {
                    let reason = format!("cannot write a body file: {cause}");
                    self.writer.failure().set(&reason);
                    Err(CommitError::Failed(reason.into()))
                }
            },
        }
    }

    /// Estimates the bytes on disk that storing an original takes, without those that are there
    /// already.
    fn bytes_to_write(&self, original: &Content) -> u64 {
        /// An original in the database is in the WAL, too, and the report around it takes space.
        const INLINE_FACTOR: u64 = 3;
        let length = original.len() as u64;
        match original.body_file() {
            Some(_) => 0,
            None if self.needs_new_file(original) => length,
            None => INLINE_FACTOR * length,
        }
    }

    /// Whether storing an original creates a file.
    fn needs_new_file(&self, original: &Content) -> bool {
        original.body_file().is_none() && original.len() > self.inline_limit
    }

    async fn remove_bodies(&self, files: Vec<String>) {
        if files.is_empty() {
            return;
        }
        let bodies = self.bodies.clone();
        let removed = blocking(move || {
            files.iter().for_each(|file| bodies.remove(file));
            Ok(())
        });
        if let Err(error) = removed.await {
            warn!("cannot remove body files that are no longer needed: {error}");
        }
    }

    /// Removes the files that a crash left between their creation and their row.
    fn remove_orphans(&self) -> io::Result<()> {
        let reader = locked(&self.reader);
        let mut names = self.bodies.names()?;
        // If in doubt, a file stays.
        names.retain(|name| matches!(read::is_body_file(&reader, name), Ok(false)));
        // No row ever named a draft. For the other files the whole table is read, which takes
        // seconds for a long queue.
        let (drafts, files): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| is_draft(name));
        drafts.iter().for_each(|name| self.bodies.remove(name));
        if files.is_empty() {
            return Ok(());
        }
        if let Ok(named) = read::body_files(&reader) {
            let orphans = files.iter().filter(|name| !named.contains(*name));
            orphans.for_each(|name| self.bodies.remove(name));
        }
        Ok(())
    }

    async fn read<T, F>(&self, work: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read_with(move |reader| work(&locked(reader))).await
    }

    /// Reads with a closure that locks the connection only while it needs it.
    async fn read_with<T, F>(&self, work: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: FnOnce(&Mutex<Connection>) -> rusqlite::Result<T> + Send + 'static,
    {
        let reader = self.reader.clone();
        match tokio::task::spawn_blocking(move || work(&reader)).await {
            Ok(answer) => answer.map_err(read_error),
            Err(cause) => Err(read_error(cause)),
        }
    }
}

impl Engine for SqliteEngine {
    async fn apply(&self, mut job: Job) -> Result<JobResult, CommitError> {
        let bodies = match &mut job {
            Job::Enqueue(job) => {
                let bodies = self.store_originals(job).await?;
                // Removes incoming bodies that were stored inline; the writing thread must not.
                for submission in &mut job.submissions {
                    submission.original = Content::Memory(Bytes::new());
                }
                bodies
            }
            _ => Vec::new(),
        };
        let new_files = file_names(&bodies);
        match self.writer.apply(job, bodies).await {
            Ok(applied) => {
                self.remove_bodies(applied.files).await;
                Ok(applied.result)
            }
            Err(error) => {
                // If the commit may be found to stand after a restart, its rows need their files.
                // The start removes those that no row names.
                if error.is_definite() {
                    self.remove_bodies(new_files).await;
                }
                Err(error)
            }
        }
    }

    async fn claim(&self, due: Due, limit: usize) -> Result<Vec<ItemId>, SpoolError> {
        let claimed = self.claimed.clone();
        self.read(move |connection| {
            let mut claimed = locked(&claimed);
            let mut found = read::due(connection, due, limit + claimed.len())?;
            found.retain(|id| !claimed.contains(id));
            found.truncate(limit);
            claimed.extend(found.iter().cloned());
            Ok(found)
        })
        .await
    }

    fn unclaim(&self, id: &ItemId) {
        locked(&self.claimed).remove(id);
    }

    async fn load(&self, ids: Vec<ItemId>) -> Result<Vec<Loaded>, SpoolError> {
        let bodies = self.bodies.clone();
        self.read_with(move |reader| ids.iter().map(|id| load(reader, &bodies, id)).collect())
            .await
    }

    async fn next_due(&self) -> Result<Option<SystemTime>, SpoolError> {
        self.read(read::next_due).await
    }

    async fn waiting(&self, id: &ItemId) -> Result<Vec<Address>, SpoolError> {
        let id = id.clone();
        self.read(move |connection| read::waiting(connection, &id))
            .await
    }

    async fn is_in_transit(
        &self,
        id: &ItemId,
        sealed: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<bool, SpoolError> {
        let id = id.clone();
        self.read(move |connection| transit::is_in_transit(connection, &id, sealed, now))
            .await
    }

    async fn digests(&self, now: SystemTime) -> Result<Vec<NdrDigest>, SpoolError> {
        self.read(move |connection| ndr::digests(connection, now))
            .await
    }

    async fn outage_digests(
        &self,
        reply: &'static str,
        now: SystemTime,
    ) -> Result<Vec<NdrDigest>, SpoolError> {
        self.read(move |connection| outage::digests(connection, reply, now))
            .await
    }

    async fn is_relay_refusing(&self) -> Result<bool, SpoolError> {
        self.read(outage::is_relay_refusing).await
    }

    async fn bounces(
        &self,
        item: Option<&ItemId>,
        limit: usize,
    ) -> Result<Vec<BounceRecord>, SpoolError> {
        let item = item.cloned();
        self.read(move |connection| ndr::bounces(connection, item.as_ref(), limit))
            .await
    }

    async fn operator_records(
        &self,
        item: Option<&ItemId>,
        limit: usize,
    ) -> Result<Vec<OperatorRecord>, SpoolError> {
        let item = item.cloned();
        self.read(move |connection| operator::records(connection, item.as_ref(), limit))
            .await
    }

    async fn has_unlogged(&self) -> Result<bool, SpoolError> {
        self.read(operator::has_unlogged).await
    }

    async fn depth(&self) -> Result<QueueDepth, SpoolError> {
        self.read(queue::depth).await
    }

    async fn list(&self, filter: ListFilter) -> Result<Vec<QueueEntry>, SpoolError> {
        self.read(move |connection| queue::list(connection, &filter))
            .await
    }

    async fn browse(&self, request: BrowseRequest) -> Result<QueuePage, SpoolError> {
        // Awaited here: requests that wait must not occupy threads that deliveries read with.
        let mut browser = self.browser.clone().lock_owned().await;
        let path = self.path.clone();
        let page = tokio::task::spawn_blocking(move || {
            let mut opened = match browser.take() {
                Some(opened) => opened,
                None => {
                    let connection = schema::connect(&path, false).map_err(read_error)?;
                    Browser::new(connection).map_err(read_error)?
                }
            };
            let page = opened.browse(&request);
            // After an error it is not used again.
            if page.is_ok() {
                *browser = Some(opened);
            }
            page.map_err(read_error)
        });
        page.await.map_err(read_error)?
    }

    async fn show(&self, id: &ItemId) -> Result<Option<ItemDetails>, SpoolError> {
        let id = id.clone();
        self.read(move |connection| queue::show(connection, &id))
            .await
    }
}

/// Prepares the tables for a new process.
fn recover(connection: &Connection) -> rusqlite::Result<()> {
    match write::set_invalid_ids_aside(connection)? {
        0 => {}
        count => error!("set {count} items aside: invalid item ID"),
    }
    transit::begin(connection, SystemTime::now())?;
    match write::keep_all_reserved(connection)? {
        0 => {}
        count => warn!(
            "released {count} reserved items: the previous process ended before the next hop answered"
        ),
    }
    Ok(())
}

/// Loads an item with its original, or the reason why it is damaged.
fn load(reader: &Mutex<Connection>, bodies: &Bodies, id: &ItemId) -> rusqlite::Result<Loaded> {
    let stored = read::load(&locked(reader), id);
    let StoredItem {
        item,
        waiting,
        attempts,
        received,
        body,
        ..
    } = match stored {
        Ok(Some(stored)) => stored,
        Ok(None) => return Ok(None),
        Err(cause) if damage::is_damaged_row(&cause) => return Ok(Some(Err(cause.to_string()))),
        Err(cause) => return Err(cause),
    };
    Ok(Some(read_original(body, bodies).map(|original| {
        QueuedItem {
            item,
            original,
            waiting,
            attempts,
            received,
        }
    })))
}

fn read_original(stored: StoredBody, bodies: &Bodies) -> Result<Content, String> {
    let original = match stored.location {
        BodyLocation::Inline(content) => Content::Memory(content),
        BodyLocation::File(file) => bodies
            .read(&file)
            .map_err(|cause| format!("cannot read body file {file}: {cause}"))?,
    };
    match sha256(&original) {
        Ok(sha256) if sha256 == stored.sha256 => Ok(original),
        Ok(_) => Err("the original differs from what was written (SHA-256)".into()),
        Err(cause) => Err(format!("cannot read the original to its end: {cause}")),
    }
}

fn sha256(content: &Content) -> io::Result<Vec<u8>> {
    let mut digest = Context::new(&SHA256);
    for chunk in content.chunks(0) {
        digest.update(&chunk?);
    }
    Ok(digest.finish().as_ref().to_vec())
}

fn file_names(bodies: &[StoredBody]) -> Vec<String> {
    let names = bodies.iter().filter_map(|body| match &body.location {
        BodyLocation::File(file) => Some(file.clone()),
        BodyLocation::Inline(_) => None,
    });
    names.collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_error(cause: impl ToString) -> SpoolError {
    SpoolError::Read(cause.to_string().into())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    |cause| OpenError::Io { path, cause }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// Returns the process ID of the service that last used a state directory, if it is known.
pub fn lock_holder(state_dir: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(state_dir.join(LOCK)).ok()?;
    text.trim().parse().ok()
}

/// Takes the lock that one service at a time has on a state directory. The system releases it
/// however the process ends.
fn lock(state_dir: &Path) -> Result<File, OpenError> {
    let path = state_dir.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&path)
        .map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(OpenError::Locked {
                state_dir: state_dir.to_owned(),
                holder: holder.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(cause)) => return Err(io_error(&path)(cause)),
    }
    // For the error of the next process. Nothing depends on it, and a full disk has no space for
    // it.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}
