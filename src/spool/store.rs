//! The spool as the rest of Copyist sees it.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use metrics::counter;
use nix::fcntl::OFlag;
use ring::digest::{Context, SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::Connection;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::bodies::{Bodies, IncomingBody, body_file, sync_dir};
use super::browse::{BrowseRequest, Browser, QueuePage};
use super::damage;
use super::database::{self, Loaded, NewMessage, Stored};
use super::error::{CommitError, OpenError, SpoolError};
use super::fresh::Fresh;
use super::held::{self, Reservation};
use super::late;
use super::news::{self, BounceRecord, NdrDigest};
use super::operator::{self, Action, Operator, OperatorRecord};
use super::queue::{self, ItemDetails, ListFilter, QueueDepth, QueueEntry};
use super::refused;
use super::reserve::Reserve;
use super::room::{FreeSpace, Room};
use super::watched::WatchedFiles;
use super::writer::Writer;
use super::{DeliveryResult, QueuedItem, Recorded, Settings, Submission};
use crate::journal::{Item, ItemId, Undelivered};
use crate::mail::{Address, Content, rfc3339};

/// The store of what is owed. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Spool {
    writer: Writer,
    /// Reads do not wait for commits: in WAL mode a second connection sees the last committed
    /// state.
    reader: Arc<Mutex<Connection>>,
    /// The connection of those who look at the queue, opened when the first does.
    browser: Arc<tokio::sync::Mutex<Option<Browser>>>,
    path: PathBuf,
    bodies: Bodies,
    inline_limit: usize,
    room: Room,
    /// What was committed lately, to be delivered without being read again.
    fresh: Arc<Fresh>,
    /// Items that a delivery works on in this process; a crash forgets them, and then they are due
    /// again.
    claimed: Arc<Mutex<HashSet<ItemId>>>,
    changed: Arc<Notify>,
    /// See [`Spool::limited`].
    most: Option<u32>,
    /// Reservation as long as any handle is there; `None` for the queue commands.
    _lock: Option<Arc<File>>,
}

impl Spool {
    /// Opens it for the service: alone, made where there is none, what a crash left over removed.
    pub fn open(settings: &Settings) -> Result<Spool, OpenError> {
        let dir = settings.state_dir.join("spool");
        let failed = |cause| OpenError::Io {
            path: dir.clone(),
            cause,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(failed)?;
        let lock = lock(&settings.state_dir)?;
        let reserve = Reserve::given_up(&dir).map_err(failed)?;
        let path = dir.join("spool.db");
        // SQLite would make it readable for everyone that the directory lets in.
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path);
        made.map_err(|cause| OpenError::Io {
            path: path.clone(),
            cause,
        })?;
        let connection = database::connect(&path, true)?;
        damage::check(&connection, &path)?;
        database::begin_log_anew(&connection, &path)?;
        let nameless = database::set_nameless_aside(&connection);
        match nameless.map_err(|cause| damage::open_error(&path, cause))? {
            0 => {}
            count => error!(
                "{count} items have damaged names and are set aside: {}",
                path.display()
            ),
        }
        let begun = late::begin(&connection, SystemTime::now());
        begun.map_err(|cause| damage::open_error(&path, cause))?;
        let left = held::release_all(&connection);
        match left.map_err(|cause| damage::open_error(&path, cause))? {
            0 => {}
            count => warn!(
                "{count} items were held for messages whose fate is not known; they are released"
            ),
        }
        let spool = Spool::with(settings, connection, &path, reserve, Some(Arc::new(lock)))?;
        // The names of all that was made here, and that of the state directory itself.
        sync_dir(&dir)
            .and_then(|()| sync_dir(&settings.state_dir))
            .and_then(|()| sync_dir(&settings.state_dir.join("..")))
            .map_err(failed)?;
        spool.remove_orphans().map_err(failed)?;
        spool.room.make_reserve();
        Ok(spool)
    }

    /// Opens it for a command, beside a running service or without one.
    pub fn inspect(settings: &Settings) -> Result<Spool, OpenError> {
        let path = settings.state_dir.join("spool").join("spool.db");
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => {
                return Err(OpenError::Absent {
                    state_dir: settings.state_dir.clone(),
                });
            }
            Err(cause) => return Err(OpenError::Io { path, cause }),
        }
        let connection = database::connect(&path, false)?;
        Spool::with(settings, connection, &path, Reserve::none(), None)
    }

    fn with(
        settings: &Settings,
        connection: Connection,
        path: &Path,
        reserve: Reserve,
        lock: Option<Arc<File>>,
    ) -> Result<Spool, OpenError> {
        let reserve = Arc::new(reserve);
        let dir = settings.state_dir.join("spool").join("bodies");
        let failed = |path: PathBuf| move |cause| OpenError::Io { path, cause };
        let bodies = Bodies::open(dir.clone()).map_err(failed(dir.clone()))?;
        let reader = database::connect(path, false)?;
        let files = WatchedFiles::default();
        // SQLite keeps its log and the log's index as long as anybody has the database open.
        let log = ["spool.db-wal", "spool.db-shm"].map(|name| path.with_file_name(name));
        for file in [path.to_owned(), dir].into_iter().chain(log) {
            files.add(file.clone()).map_err(failed(file))?;
        }
        Ok(Spool {
            writer: Writer::start(connection, path, files, reserve.clone())
                .map_err(failed(path.to_owned()))?,
            reader: Arc::new(Mutex::new(reader)),
            browser: Arc::default(),
            path: path.to_owned(),
            bodies,
            inline_limit: settings.inline_limit,
            room: Room::new(settings, reserve),
            fresh: Arc::default(),
            claimed: Arc::default(),
            changed: Arc::default(),
            most: None,
            _lock: lock,
        })
    }

    /// A handle for messages that may come from a report of ours, as in a mail loop: of their
    /// reports, so many go from one NDR address to one target within an hour. The others are
    /// durable as well, as dead letters that a digest tells of.
    pub fn with_report_limit(&self, most: u32) -> Spool {
        Spool {
            most: Some(most),
            ..self.clone()
        }
    }

    /// Makes everything owed for a message durable, all of it or nothing. If the caller goes away
    /// before this returns, it may be done all the same: a report too many, never one too few.
    pub async fn commit(
        &self,
        queue_id: &str,
        received: SystemTime,
        submissions: Vec<Submission>,
    ) -> Result<(), CommitError> {
        let items = submissions.iter().flat_map(|submission| &submission.items);
        let ids: Vec<ItemId> = items.map(|item| item.id.clone()).collect();
        // What may be kept as a dead letter is read before it is delivered.
        if self.most.is_none() {
            self.fresh.put(received, &submissions, self.inline_limit);
        }
        let added = self.add(queue_id, received, submissions, false).await;
        match added {
            Ok(()) => self.changed.notify_one(),
            Err(_) => ids.iter().for_each(|id| drop(self.fresh.take(id))),
        }
        added
    }

    /// The same, and nothing of it is delivered before its message's fate is told to what this
    /// gives.
    pub async fn reserve(
        &self,
        queue_id: &str,
        received: SystemTime,
        submissions: Vec<Submission>,
    ) -> Result<Reservation, CommitError> {
        let items = submissions.iter().flat_map(|submission| &submission.items);
        let items = items.map(|item| item.id.clone()).collect();
        self.add(queue_id, received, submissions, true).await?;
        Ok(Reservation::new(self.clone(), items))
    }

    /// Decides about held items, by what gives the body files that are not needed any more.
    pub(super) async fn settle<F>(&self, decide: F) -> Result<(), CommitError>
    where
        F: FnMut(&Connection) -> rusqlite::Result<Vec<String>> + Send + 'static,
    {
        let files = self.writer.run(decide).await?;
        self.remove_bodies(files).await;
        self.changed.notify_one();
        Ok(())
    }

    async fn add(
        &self,
        queue_id: &str,
        received: SystemTime,
        submissions: Vec<Submission>,
        is_held: bool,
    ) -> Result<(), CommitError> {
        if self.is_failed() {
            return Err(CommitError::Failed("an earlier write failed".into()));
        }
        let bytes = submissions
            .iter()
            .map(|submission| self.to_write(&submission.original));
        let files = submissions
            .iter()
            .filter(|it| self.needs_file(&it.original));
        self.room.take(bytes.sum(), files.count() as u64)?;
        let mut files = Vec::new();
        let mut messages = Vec::with_capacity(submissions.len());
        for Submission { original, items } in submissions {
            let kept = match self.keep(&original).await {
                Ok(kept) => kept,
                Err(error) => {
                    self.remove_bodies(files).await;
                    return Err(error);
                }
            };
            files.extend(kept.file.clone());
            let message = NewMessage {
                queue_id: queue_id.to_owned(),
                received,
                size: original.len(),
                kept,
            };
            messages.push((message, items));
        }
        let most = self.most;
        let committed = self
            .writer
            .run(move |connection| {
                let mut kept = 0;
                for (message, items) in &messages {
                    database::add(connection, message, items)?;
                    for item in items {
                        if let Some(most) = most {
                            kept += news::limit(connection, item, most, received)?;
                        }
                        if is_held {
                            held::hold(connection, &item.id)?;
                        }
                    }
                }
                Ok(kept)
            })
            .await;
        match &committed {
            Ok(0) => {}
            Ok(kept) => {
                counter!("copyist_reports_collected_total").increment(*kept);
                counter!("copyist_dead_letters_total").increment(*kept);
                warn!(
                    queue_id,
                    targets = kept,
                    "kept as dead letters: too many reports within an hour about mail to journal and NDR mailboxes, as in a mail loop; a digest will tell"
                );
            }
            // Only when the answer is known: a commit that failed may be found to stand after a
            // restart, and then the row needs its file. The start removes what no row names.
            Err(CommitError::Refused(_) | CommitError::Full | CommitError::Low { .. }) => {
                self.remove_bodies(files).await;
            }
            Err(_) => {}
        }
        committed.map(|_| ())
    }

    /// Where an original is kept: in its row, or in a file that is durable when this returns.
    async fn keep(&self, original: &Content) -> Result<Stored, CommitError> {
        let unreadable =
            |cause: io::Error| CommitError::Refused(format!("the message: {cause}").into());
        if original.len() <= self.inline_limit {
            let content = original.read().map_err(unreadable)?;
            return Ok(Stored {
                digest: digest(&SHA256, &content).as_ref().to_vec(),
                content: Some(content),
                file: None,
            });
        }
        let name = new_name().map_err(|cause| CommitError::Refused(cause.to_string().into()))?;
        let (bodies, original) = (self.bodies.clone(), original.clone());
        let kept = blocking(move || bodies.keep_content(name, &original));
        match kept.await {
            Ok((file, digest)) => Ok(Stored {
                content: None,
                file: Some(file),
                digest,
            }),
            Err(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                Err(CommitError::Full)
            }
            Err(cause) => {
                self.writer.latch().set(&format!("a body file: {cause}"));
                Err(CommitError::Failed(cause.to_string().into()))
            }
        }
    }

    /// About how many bytes on disk keeping a message takes, beside those that it has there
    /// already.
    fn to_write(&self, original: &Content) -> u64 {
        /// What is in the database stands in its log as well, and the report around it takes room,
        /// too.
        const TIMES: u64 = 3;
        let length = original.len() as u64;
        match body_file(original) {
            Some(_) => 0,
            None if self.needs_file(original) => length,
            None => TIMES * length,
        }
    }

    /// Whether a file is made for it when it is kept.
    fn needs_file(&self, original: &Content) -> bool {
        body_file(original).is_none() && original.len() > self.inline_limit
    }

    /// A file to write a large message into while it arrives. Nothing of it is durable before
    /// [`Spool::commit`].
    pub async fn new_body(&self) -> io::Result<IncomingBody> {
        let (bodies, name) = (self.bodies.clone(), new_name()?);
        let room = self.room.clone();
        blocking(move || {
            room.use_up_file()?;
            Ok(bodies.incoming(name)?.within(room))
        })
        .await
    }

    /// Claims items that are due, oldest first: nobody else gets them until they are recorded or
    /// unclaimed.
    pub async fn claim(&self, now: SystemTime, limit: usize) -> Result<Vec<ItemId>, SpoolError> {
        self.claim_by(limit, move |connection, enough| {
            database::due(connection, now, enough)
        })
        .await
    }

    /// Claims items that are due later than `latest`, which no schedule can have set if `latest` is
    /// far enough: the clock was wrong when they were written, or has been set back since.
    pub async fn claim_misdated(
        &self,
        latest: SystemTime,
        limit: usize,
    ) -> Result<Vec<ItemId>, SpoolError> {
        self.claim_by(limit, move |connection, enough| {
            database::due_after(connection, latest, enough)
        })
        .await
    }

    async fn claim_by(
        &self,
        limit: usize,
        select: impl FnOnce(&Connection, usize) -> rusqlite::Result<Vec<ItemId>> + Send + 'static,
    ) -> Result<Vec<ItemId>, SpoolError> {
        let claimed = self.claimed.clone();
        self.read(move |connection| {
            let mut claimed = claimed.lock().unwrap_or_else(PoisonError::into_inner);
            let mut found = select(connection, limit + claimed.len())?;
            found.retain(|id| !claimed.contains(id));
            found.truncate(limit);
            claimed.extend(found.iter().cloned());
            Ok(found)
        })
        .await
    }

    /// Gives a claimed item back untried. What was read of it is read again: it may change before
    /// somebody claims it.
    pub fn unclaim(&self, id: &ItemId) {
        self.fresh.take(id);
        self.claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    /// An item with everything that is needed to send it. An original that cannot be read, or that
    /// is not what it was, sets the item aside.
    pub async fn load(&self, id: &ItemId) -> Result<QueuedItem, SpoolError> {
        if let Some(owed) = self.fresh.take(id) {
            return Ok(owed);
        }
        let (name, bodies) = (id.clone(), self.bodies.clone());
        let loaded = self.read_apart(move |reader| load(reader, &bodies, &name));
        match loaded.await? {
            Some(Ok(owed)) => Ok(owed),
            Some(Err(why)) => Err(self.set_aside(id, why).await),
            None => Err(SpoolError::Unknown(id.clone())),
        }
    }

    /// Reads claimed items that are about to be loaded, all at once. What cannot be read is told
    /// when it is loaded.
    pub async fn prefetch(&self, ids: &[ItemId]) {
        let ids: Vec<ItemId> = (ids.iter())
            .filter(|id| !self.fresh.has(id))
            .cloned()
            .collect();
        if ids.is_empty() {
            return;
        }
        let (fresh, bodies) = (self.fresh.clone(), self.bodies.clone());
        let inline_limit = self.inline_limit;
        let read = self.read_apart(move |reader| {
            for id in &ids {
                if let Some(Ok(owed)) = load(reader, &bodies, id)? {
                    fresh.put_owed(owed, inline_limit);
                }
            }
            Ok(())
        });
        // Each of them is read by itself then, and that tells.
        let _ = read.await;
    }

    /// Keeps an item that cannot be delivered as it was meant, and has nobody try it.
    async fn set_aside(&self, id: &ItemId, why: String) -> SpoolError {
        error!(item = %id, "set aside: {why}");
        let (name, reason) = (id.clone(), why.clone());
        let done = self
            .writer
            .run(move |connection| database::set_aside(connection, &name, &reason));
        match done.await {
            Ok(()) => SpoolError::SetAside {
                id: id.clone(),
                why: why.into(),
            },
            Err(cause) => cause.into(),
        }
    }

    /// Writes down what an attempt came to, and gives the claim back where that succeeds. The NDR
    /// in it, if any, becomes durable together with the marks that it is about.
    pub async fn record(
        &self,
        id: &ItemId,
        result: DeliveryResult,
        now: SystemTime,
    ) -> Result<Recorded, CommitError> {
        // Older than what is written now, if nobody took it.
        self.fresh.take(id);
        let name = id.clone();
        let recorded = self
            .writer
            .run(move |connection| database::record(connection, &name, &result, now))
            .await;
        let (recorded, files) = recorded?;
        self.unclaim(id);
        self.remove_bodies(files).await;
        if recorded.has_ndr {
            self.changed.notify_one();
        }
        Ok(recorded)
    }

    /// The digests that are due.
    pub async fn digests(&self, now: SystemTime) -> Result<Vec<NdrDigest>, SpoolError> {
        self.read(move |connection| news::digests(connection, now))
            .await
    }

    /// The digests about items that wait with a last reply that begins so. Looks at the whole
    /// queue.
    pub async fn outage_digests(
        &self,
        reply: &'static str,
        now: SystemTime,
    ) -> Result<Vec<NdrDigest>, SpoolError> {
        self.read(move |connection| refused::digests(connection, reply, now))
            .await
    }

    /// Notes that the relay refuses everything.
    pub async fn set_relay_refusing(&self, now: SystemTime) -> Result<(), CommitError> {
        self.writer
            .run(move |connection| refused::begun(connection, now))
            .await
    }

    /// Whether the relay refused everything when that was last noted.
    pub async fn is_relay_refusing(&self) -> Result<bool, SpoolError> {
        self.read(refused::is_refusing).await
    }

    /// Notes that the relay takes items again.
    pub async fn clear_relay_refusing(&self) -> Result<(), CommitError> {
        self.writer.run(refused::over).await
    }

    /// Owes `item`, the NDR that stands for a digest; in the same transaction what it lists is
    /// told.
    pub async fn enqueue_digest(
        &self,
        digest: &NdrDigest,
        item: Item,
        now: SystemTime,
    ) -> Result<(), CommitError> {
        // All that it carries is its own text.
        let message = NewMessage {
            queue_id: String::new(),
            received: now,
            size: 0,
            kept: self.keep(&Content::Memory(Vec::new().into())).await?,
        };
        let told = digest.clone();
        self.writer
            .run(move |connection| {
                match told.what {
                    Undelivered::Dead => news::told(connection, &told)?,
                    Undelivered::Waiting => refused::told(connection, &told.ndr, &item.id, now)?,
                }
                database::add(connection, &message, std::slice::from_ref(&item))
            })
            .await?;
        self.changed.notify_one();
        Ok(())
    }

    /// Remembers that a bounce came back. Whether it is news: of one item not more than twenty are
    /// remembered.
    pub async fn record_bounce(&self, bounced: BounceRecord) -> Result<bool, CommitError> {
        self.writer
            .run(move |connection| news::bounced(connection, &bounced))
            .await
    }

    /// What came back, newest first: about one item, or about all.
    pub async fn bounces(
        &self,
        item: Option<&ItemId>,
        limit: usize,
    ) -> Result<Vec<BounceRecord>, SpoolError> {
        let item = item.cloned();
        self.read(move |connection| news::bounces(connection, item.as_ref(), limit))
            .await
    }

    /// Whether an item still waits to be delivered to all of these.
    pub async fn is_queued_for(
        &self,
        id: &ItemId,
        recipients: &[Address],
    ) -> Result<bool, SpoolError> {
        let (id, recipients) = (id.clone(), recipients.to_vec());
        self.read(move |connection| {
            let waiting = database::waiting(connection, &id)?;
            Ok(!recipients.is_empty() && recipients.iter().all(|to| waiting.contains(to)))
        })
        .await
    }

    /// Whether a report may still be on its way at this time: it is queued, or was delivered within
    /// five days. `made` is when its seal was given; `None` for one of an older version, which does
    /// not say.
    pub async fn is_in_transit(
        &self,
        id: &ItemId,
        made: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<bool, SpoolError> {
        let id = id.clone();
        self.read(move |connection| late::is_under_way(connection, &id, made, now))
            .await
    }

    /// When the next item is due.
    pub async fn next_due(&self) -> Result<Option<SystemTime>, SpoolError> {
        self.read(database::next_due).await
    }

    /// Resolves when something was added since the last call. What another process did is not told;
    /// look again from time to time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether nothing more can be made durable by this process.
    pub fn is_failed(&self) -> bool {
        self.writer.is_failed()
    }

    /// Commits nothing more once this file is another: restored or replaced with the rest of the
    /// state directory.
    pub fn watch_file(&self, path: PathBuf) -> io::Result<()> {
        self.writer.files().add_unchanging(path)
    }

    /// Resolves when the spool fails.
    pub async fn wait_failed(&self) {
        self.writer.latch().wait().await;
    }

    /// How much room there is; `None` where the system does not say.
    pub fn free_space(&self) -> Option<FreeSpace> {
        self.room.free()
    }

    /// How much is owed.
    pub async fn depth(&self) -> Result<QueueDepth, SpoolError> {
        self.read(queue::depth).await
    }

    /// What is owed, oldest first.
    pub async fn list(&self, filter: ListFilter) -> Result<Vec<QueueEntry>, SpoolError> {
        self.read(move |connection| queue::list(connection, &filter))
            .await
    }

    /// A page of what is owed. Nobody who delivers waits for it.
    pub async fn browse(&self, wanted: BrowseRequest) -> Result<QueuePage, SpoolError> {
        // Waited for here: those who wait hold no thread that a delivery would read with.
        let mut browser = self.browser.clone().lock_owned().await;
        let path = self.path.clone();
        let browsed = tokio::task::spawn_blocking(move || {
            let mut opened = match browser.take() {
                Some(opened) => opened,
                None => {
                    let connection = database::connect(&path, false);
                    let connection = connection.map_err(|cause| cause.to_string())?;
                    Browser::new(connection).map_err(|cause| cause.to_string())?
                }
            };
            let browsed = opened.browse(&wanted);
            // One that failed is not used again.
            if browsed.is_ok() {
                *browser = Some(opened);
            }
            browsed.map_err(|cause| cause.to_string())
        });
        let browsed = browsed.await.map_err(|cause| cause.to_string());
        browsed
            .and_then(|browsed| browsed)
            .map_err(|why| SpoolError::Read(why.into()))
    }

    /// Everything about one item.
    pub async fn show(&self, id: &ItemId) -> Result<Option<ItemDetails>, SpoolError> {
        let id = id.clone();
        self.read(move |connection| queue::show(connection, &id))
            .await
    }

    /// Does something to an item for an operator, and records it, in one transaction. Tells whether
    /// the item was there; for [`Action::Release`], whether it was on hold.
    pub async fn operate(
        &self,
        operator: &Operator,
        action: Action,
        id: &ItemId,
        now: SystemTime,
    ) -> Result<bool, CommitError> {
        if action == Action::Drop {
            self.fresh.take(id);
        }
        let (operator, name) = (operator.clone(), id.clone());
        let (is_done, files) = self
            .writer
            .run(move |connection| operator::act(connection, &operator, action, &name, now))
            .await?;
        match action {
            Action::Hold => {
                self.fresh.take(id);
            }
            Action::Release => self.changed.notify_one(),
            Action::Retry | Action::Drop | Action::Export => {}
        }
        self.remove_bodies(files).await;
        Ok(is_done)
    }

    /// Makes up to `limit` items due that come after the one numbered `seq`, and records that;
    /// gives how many, and the last one's number. Begin with 0, end at 0 items.
    pub async fn retry_after(
        &self,
        operator: &Operator,
        seq: i64,
        limit: usize,
        now: SystemTime,
    ) -> Result<(usize, i64), CommitError> {
        let operator = operator.clone();
        self.writer
            .run(move |connection| operator::retry_after(connection, &operator, seq, limit, now))
            .await
    }

    /// Returns what operators did, newest first: to one item, or to all; at most `limit` records.
    pub async fn operator_records(
        &self,
        item: Option<&ItemId>,
        limit: usize,
    ) -> Result<Vec<OperatorRecord>, SpoolError> {
        let item = item.cloned();
        self.read(move |connection| operator::records(connection, item.as_ref(), limit))
            .await
    }

    /// Logs what operators did since the last call, also beside the service and while it was not
    /// running.
    pub async fn log_operator_records(&self) -> Result<(), CommitError> {
        for record in self.take_unlogged().await? {
            let at = rfc3339(record.at);
            info!(%at, "operator: {} by {}", record.what(), record.who());
        }
        Ok(())
    }

    pub(super) async fn take_unlogged(&self) -> Result<Vec<OperatorRecord>, CommitError> {
        match self.read(operator::has_unlogged).await {
            Ok(true) => self.writer.run(operator::take_unlogged).await,
            // If it cannot be read, whatever reads next says so.
            Ok(false) | Err(_) => Ok(Vec::new()),
        }
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
            warn!("a body file that is not needed any more stays: {error}");
        }
    }

    /// Files that a crash left between their making and their row.
    fn remove_orphans(&self) -> io::Result<()> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = self.bodies.names()?;
        // In doubt it stays.
        names.retain(|name| matches!(database::names_file(&reader, name), Ok(false)));
        // No row ever named a file before it had its name. For the others the whole table is looked
        // through, which takes seconds where the queue is long.
        let (unfinished, kept): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| name.ends_with(".new"));
        unfinished.iter().for_each(|name| self.bodies.remove(name));
        if kept.is_empty() {
            return Ok(());
        }
        let Ok(named) = database::files(&reader) else {
            return Ok(());
        };
        for name in kept.iter().filter(|name| !named.contains(*name)) {
            self.bodies.remove(name);
        }
        Ok(())
    }

    async fn read<T, F>(&self, work: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read_apart(move |reader| work(&reader.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
    }

    /// The same for what also does other things, without the connection.
    async fn read_apart<T, F>(&self, work: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: FnOnce(&Mutex<Connection>) -> rusqlite::Result<T> + Send + 'static,
    {
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || work(&reader));
        match read.await {
            Ok(answer) => answer.map_err(|cause| SpoolError::Read(cause.to_string().into())),
            Err(cause) => Err(SpoolError::Read(cause.to_string().into())),
        }
    }
}

/// An item with its original, where it is there; else what is wrong with it.
fn load(
    reader: &Mutex<Connection>,
    bodies: &Bodies,
    id: &ItemId,
) -> rusqlite::Result<Option<Result<QueuedItem, String>>> {
    let loaded = {
        let connection = reader.lock().unwrap_or_else(PoisonError::into_inner);
        database::load(&connection, id)
    };
    let loaded = match loaded {
        Err(cause) if damage::is_damage(&cause) => return Ok(Some(Err(cause.to_string()))),
        other => other?,
    };
    let Some(Loaded {
        item,
        waiting,
        attempts,
        received,
        stored,
    }) = loaded
    else {
        return Ok(None);
    };
    let owed = read_original(stored, bodies).map(|original| QueuedItem {
        item,
        original,
        waiting,
        attempts,
        received,
    });
    Ok(Some(owed))
}

fn read_original(stored: Stored, bodies: &Bodies) -> Result<Content, String> {
    let original = match (stored.content, stored.file) {
        (Some(content), _) => Content::Memory(content),
        (None, Some(file)) => bodies
            .read(&file)
            .and_then(|body| Content::stored(Arc::new(body)))
            .map_err(|cause| format!("its body file {file} cannot be read: {cause}"))?,
        (None, None) => return Err("its row has neither content nor file".into()),
    };
    match sha256(&original) {
        Ok(digest) if digest == stored.digest => Ok(original),
        Ok(_) => Err("its original is not what was stored (SHA-256 differs)".into()),
        Err(cause) => Err(format!("its original cannot be read to its end: {cause}")),
    }
}

fn sha256(content: &Content) -> io::Result<Vec<u8>> {
    let mut digest = Context::new(&SHA256);
    for piece in content.chunks(0) {
        digest.update(&piece?);
    }
    Ok(digest.finish().as_ref().to_vec())
}

/// The name of a new body file: no other has it.
fn new_name() -> io::Result<String> {
    let mut random = [0; 12];
    let named = SystemRandom::new().fill(&mut random);
    named.map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// The file that a service has locked.
const LOCK: &str = "lock";

/// The process of the service that has worked on a state directory last, if it left its number.
pub fn holder(state_dir: &Path) -> Option<u32> {
    let noted = std::fs::read_to_string(state_dir.join(LOCK)).ok()?;
    noted.trim().parse().ok()
}

/// Takes the lock that one service at a time holds on a state directory. The system gives it back
/// whatever way the process ends.
fn lock(state_dir: &Path) -> Result<File, OpenError> {
    let path = state_dir.join(LOCK);
    let failed = |cause| OpenError::Io {
        path: path.clone(),
        cause,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&path)
        .map_err(failed)?;
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
        Err(TryLockError::Error(cause)) => return Err(failed(cause)),
    }
    // For whoever is refused. Nothing depends on it, and a full disk has no room for it.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}
