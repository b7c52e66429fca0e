//! A file whose content is kept in memory and reloaded when it changes.
//!
//! Promises: a change takes effect within a second, and is read only when two checks saw the same
//! version. Content that can no longer be read stays in use for [`GRACE`], since a program that
//! rebuilds a map locks or replaces it for a moment; then the content is an error, never an empty
//! map.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Interval between checks of a file.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Time that content stays in use if it cannot be reloaded.
const GRACE: Duration = Duration::from_secs(2);
/// Interval between attempts to read an unreadable file that does not change.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Time without a check (a hanging network file system) after which content is not trusted.
const MAX_CHECK_AGE: Duration = Duration::from_secs(30);
/// A file written this shortly before the start may be incomplete.
const YOUNG_AGE: Duration = Duration::from_millis(500);
/// Pause between the two checks of a young file at the start.
const SETTLE_TIME: Duration = Duration::from_millis(50);
/// Maximum size of a text file.
const MAX_SIZE: u64 = 512 << 20;

type Loader<T> = Box<dyn Fn() -> Result<T, String> + Send + Sync>;

/// Content loaded from a file.
pub(super) struct WatchedFile<T> {
    /// The name in messages.
    name: String,
    path: PathBuf,
    load: Loader<T>,
    current: ArcSwap<State<T>>,
}

struct State<T> {
    content: Option<Arc<Content<T>>>,
    /// The problem, if the content cannot be used.
    problem: Option<String>,
    checked_at: Instant,
}

/// The loaded content, and the version of the file.
pub(super) struct Content<T> {
    pub(super) value: T,
    pub(super) read: SystemTime,
    version: FileVersion,
}

/// A version of a file. The change time also shows changed permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileVersion {
    /// Reads the version. Opens the file as well, to notice revoked permissions.
    fn of(path: &Path) -> Result<FileVersion, String> {
        let file = File::open(path).and_then(|file| file.metadata());
        let file = file.map_err(|cause| cannot_read(path, &cause))?;
        if !file.is_file() {
            return Err(format!("{} is not a regular file", path.display()));
        }
        Ok(FileVersion {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }

    fn is_young(&self) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        // A time in the future counts as young.
        (SystemTime::now().duration_since(changed))
            .map_or(true, |age| age < YOUNG_AGE + Duration::from_secs(1))
    }
}

/// State kept between checks.
#[derive(Default)]
struct WatchState {
    /// The version that must be seen once more.
    settling: Option<FileVersion>,
    /// The version that could not be read, and when.
    failed: Option<(FileVersion, Instant)>,
    /// Time since when the content in memory is not that of the file.
    stale_since: Option<Instant>,
}

impl<T: Send + Sync + 'static> WatchedFile<T> {
    /// Reads the file for the first time. Blocks. While the file cannot be read, every use is an
    /// error.
    pub(super) fn open(
        name: String,
        path: PathBuf,
        load: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Arc<WatchedFile<T>> {
        let watched = WatchedFile {
            name,
            path,
            load: Box::new(load),
            current: ArcSwap::from_pointee(State {
                content: None,
                problem: Some("not read yet".to_owned()),
                checked_at: Instant::now(),
            }),
        };
        let mut watch = WatchState {
            settling: FileVersion::of(&watched.path).ok(),
            ..WatchState::default()
        };
        if watch.settling.as_ref().is_some_and(FileVersion::is_young) {
            std::thread::sleep(SETTLE_TIME);
        }
        watched.check(&mut watch);
        Arc::new(watched)
    }

    /// Follows the file until `stop`.
    pub(super) async fn follow(self: Arc<WatchedFile<T>>, stop: CancellationToken) {
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = WatchState::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let watched = Arc::clone(&self);
            let check = tokio::task::spawn_blocking(move || {
                watched.check(&mut watch);
                watch
            });
            // A panic during a check leaves the last content in use until it is too old to be
            // trusted.
            watch = check.await.unwrap_or_default();
        }
    }

    fn check(&self, watch: &mut WatchState) {
        let known = self.current.load().content.clone();
        let version = match FileVersion::of(&self.path) {
            Ok(version) => version,
            Err(reason) => {
                watch.settling = None;
                return self.fail(watch, reason);
            }
        };
        if known.as_ref().is_some_and(|known| known.version == version) {
            (watch.stale_since, watch.failed) = (None, None);
            return self.publish(known, None);
        }
        if watch.settling != Some(version) {
            watch.settling = Some(version);
            let reason = format!("{} is being written", self.path.display());
            return self.fail(watch, reason);
        }
        let is_late = watch
            .stale_since
            .is_some_and(|since| since.elapsed() > GRACE);
        if let Some((failed, at)) = watch.failed
            && failed == version
            && is_late
            && at.elapsed() < RETRY_INTERVAL
        {
            let problem = self.current.load().problem.clone();
            return self.publish(known, problem);
        }
        match (self.load)() {
            Err(reason) => {
                watch.failed = Some((version, Instant::now()));
                self.fail(watch, reason);
            }
            Ok(value) if FileVersion::of(&self.path).as_ref() == Ok(&version) => {
                tracing::info!(map = %self.name, "address map read");
                (watch.stale_since, watch.failed) = (None, None);
                let read = SystemTime::now();
                let content = Content {
                    value,
                    read,
                    version,
                };
                self.publish(Some(Arc::new(content)), None);
            }
            Ok(_) => {
                watch.settling = None;
                let reason = format!("{} changed while it was read", self.path.display());
                self.fail(watch, reason);
            }
        }
    }

    /// Records that the content is not that of the file.
    fn fail(&self, watch: &mut WatchState, reason: String) {
        let since = *watch.stale_since.get_or_insert_with(Instant::now);
        let known = self.current.load().content.clone();
        let stays = known.is_some() && since.elapsed() < GRACE;
        self.publish(known, (!stays).then_some(reason));
    }

    fn publish(&self, content: Option<Arc<Content<T>>>, problem: Option<String>) {
        let before = self.current.load();
        if let Some(reason) = problem.as_ref().filter(|_| before.problem != problem) {
            tracing::error!(map = %self.name, "cannot read address map: {reason}");
        }
        if before.problem.is_some() && problem.is_none() && before.content.is_some() {
            tracing::info!(map = %self.name, "address map readable again");
        }
        self.current.store(Arc::new(State {
            content,
            problem,
            checked_at: Instant::now(),
        }));
    }

    /// Returns the content, or why it cannot be used.
    pub(super) fn content(&self) -> Result<Arc<Content<T>>, String> {
        self.with(Arc::clone)
    }

    /// Returns when the content in memory was read; `None` if there is none.
    pub(super) fn read_at(&self) -> Option<SystemTime> {
        let state = self.current.load();
        state.content.as_ref().map(|content| content.read)
    }

    /// Calls a function with the content.
    pub(super) fn with<R>(&self, ask: impl FnOnce(&Arc<Content<T>>) -> R) -> Result<R, String> {
        let state = self.current.load();
        if let Some(reason) = &state.problem {
            return Err(reason.clone());
        }
        if state.checked_at.elapsed() > MAX_CHECK_AGE {
            return Err(format!(
                "{} was not checked for changes for {} s",
                self.path.display(),
                MAX_CHECK_AGE.as_secs()
            ));
        }
        match &state.content {
            Some(content) => Ok(ask(content)),
            None => Err("not read yet".to_owned()),
        }
    }
}

/// Reads a text file that is not too large.
pub(super) fn read_text(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |cause| cannot_read(path, &cause);
    let file = File::open(path).map_err(cannot)?;
    let size = file.metadata().map_err(cannot)?.len();
    if size > MAX_SIZE {
        return Err(format!("{} is larger than 512 MiB", path.display()));
    }
    let mut text = Vec::new();
    (file.take(MAX_SIZE).read_to_end(&mut text)).map_err(cannot)?;
    Ok(text)
}

pub(super) fn cannot_read(path: &Path, cause: &std::io::Error) -> String {
    format!("cannot read {}: {cause}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Followed {
        _directory: tempfile::TempDir,
        path: PathBuf,
        watched: Arc<WatchedFile<String>>,
        stop: CancellationToken,
    }

    impl Followed {
        fn new() -> Followed {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("map");
            std::fs::write(&path, "old").expect("a file");
            let of = path.clone();
            let load = move || {
                let text = read_text(&of)?;
                String::from_utf8(text).map_err(|_| "not text".to_owned())
            };
            let watched = WatchedFile::open("map".into(), path.clone(), load);
            let stop = CancellationToken::new();
            tokio::spawn(Arc::clone(&watched).follow(stop.clone()));
            Followed {
                _directory: directory,
                path,
                watched,
                stop,
            }
        }

        fn content(&self) -> Result<String, String> {
            self.watched.content().map(|content| content.value.clone())
        }
    }

    impl Drop for Followed {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_within_a_second() {
        let map = Followed::new();
        assert_eq!(map.content().as_deref(), Ok("old"));
        std::fs::write(&map.path, "new one").expect("a file");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(map.content().as_deref(), Ok("new one"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_vanished_file_is_an_error_after_a_moment() {
        let map = Followed::new();
        std::fs::remove_file(&map.path).expect("removed");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(map.content().as_deref(), Ok("old"));
        tokio::time::sleep(GRACE).await;
        assert!(
            map.content()
                .is_err_and(|reason| reason.contains("cannot read"))
        );
        std::fs::write(&map.path, "back").expect("a file");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(map.content().as_deref(), Ok("back"));
    }

    #[tokio::test(start_paused = true)]
    async fn content_that_cannot_be_read_is_an_error_until_it_can() {
        let map = Followed::new();
        std::fs::write(&map.path, b"\xff\xff").expect("a file");
        tokio::time::sleep(GRACE + Duration::from_secs(1)).await;
        assert_eq!(map.content().as_deref(), Err(&"not text".to_owned()));
        std::fs::write(&map.path, "good").expect("a file");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(map.content().as_deref(), Ok("good"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_nothing_looks_at_is_not_trusted() {
        let map = Followed::new();
        map.stop.cancel();
        tokio::time::sleep(MAX_CHECK_AGE + Duration::from_secs(1)).await;
        assert!(map.content().is_err());
    }
}
