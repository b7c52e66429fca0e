//! Follows the changes of the directory, so that answers need not grow old to be forgotten.
//!
//! Promises: while it is watching, what changed is asked for anew from the moment on that the
//! server told of it. After every interruption what changed meanwhile is caught up on, or
//! everything is asked for anew; until then the times in `CacheSettings` govern.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::attributes::Attributes;
use super::change_log::ChangeLog;
use super::dn;
use super::presence::Presence;
use super::source::{Change, FeedCursor};

/// Changes told but not noted yet.
const CHANGE_BUFFER: usize = 256;
/// The pause before watching again: after a loss, and where the server offers nothing to watch.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_UNSUPPORTED: Duration = Duration::from_secs(5 * 60);
/// How often the place to go on from is written at most. An old one only means to be told some
/// things twice.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// How a feed of changes ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FeedEnd {
    /// Why, a sentence.
    pub(super) reason: String,
    /// Whether it is of no use to try again soon.
    pub(super) unsupported: bool,
    /// Whether the place to go on from is of no use.
    pub(super) cursor_expired: bool,
}

/// Something that tells of changes.
pub(super) trait ChangeFeed: Send + Sync {
    /// Tells changes until it ends, beginning where `from` says, or now.
    fn run(
        &self,
        from: Option<FeedCursor>,
        to: mpsc::Sender<Change>,
    ) -> impl Future<Output = FeedEnd> + Send;
}

/// Notes what a feed tells until `stop`. The place to go on from is kept in `file`.
pub(super) async fn follow_feed(
    feed: impl ChangeFeed,
    attributes: Attributes,
    changes: Arc<ChangeLog>,
    presence: Arc<Presence>,
    file: PathBuf,
    stop: CancellationToken,
) {
    let mut watcher = Watcher {
        attributes,
        changes,
        presence,
        cursor: read(&file).await,
        written: None,
        file,
    };
    let mut logged = None;
    set_watch_gauge(false);
    loop {
        let (tell, mut changes_rx) = mpsc::channel(CHANGE_BUFFER);
        let running = feed.run(watcher.cursor.clone(), tell);
        let applying = async {
            while let Some(change) = changes_rx.recv().await {
                if matches!(change, Change::UpToDate) {
                    logged = None;
                }
                watcher.apply(change).await;
            }
        };
        let both = async { tokio::join!(running, applying).0 };
        let end = stop.run_until_cancelled(both).await;
        set_watch_gauge(false);
        watcher.write().await;
        let Some(end) = end else { return };
        if end.cursor_expired {
            watcher.cursor = None;
        }
        if logged.as_ref() != Some(&end) {
            match end.unsupported {
                true => tracing::info!(
                    "changes in the directory count after directory.cache.ttl: {}",
                    end.reason
                ),
                false => tracing::warn!("lost sight of changes in the directory: {}", end.reason),
            }
            logged = Some(end.clone());
        }
        let pause = sleep(match end.unsupported {
            true => PAUSE_UNSUPPORTED,
            false => PAUSE,
        });
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

struct Watcher {
    attributes: Attributes,
    changes: Arc<ChangeLog>,
    presence: Arc<Presence>,
    cursor: Option<FeedCursor>,
    file: PathBuf,
    written: Option<(FeedCursor, Instant)>,
}

impl Watcher {
    async fn apply(&mut self, change: Change) {
        match change {
            Change::Object(entry) => {
                counter!("copyist_directory_changes_total").increment(1);
                tracing::debug!(dn = entry.dn, "changed in the directory");
                self.changes.record(self.attributes.names_of(&entry));
                // Where a value is hidden, whoever asks for the person hears of it.
                self.presence.journal_history().check(&entry);
            }
            Change::Removed(dn) => {
                counter!("copyist_directory_changes_total").increment(1);
                tracing::debug!(dn, "gone from the directory");
                self.changes.record([dn::key(&dn)]);
            }
            Change::Everything => {
                counter!("copyist_directory_watch_resets_total").increment(1);
                self.changes.record_all();
            }
            Change::UpToDate => {
                tracing::info!("changes in the directory count at once");
                set_watch_gauge(true);
            }
            Change::FeedCursor(cursor) => {
                self.cursor = Some(cursor);
                let due = |(_, when): &(FeedCursor, Instant)| when.elapsed() >= WRITE_INTERVAL;
                if self.written.as_ref().is_none_or(due) {
                    self.write().await;
                }
            }
        }
    }

    /// Keeps the place for the next start. Without it that start would only ask more.
    async fn write(&mut self) {
        let Some(cursor) = self.cursor.clone() else {
            return;
        };
        if (self.written.as_ref()).is_some_and(|(written, _)| *written == cursor) {
            return;
        }
        if let Err(error) = replace(&self.file, cursor.to_string()).await {
            tracing::warn!("cannot write {}: {error}", self.file.display());
        }
        self.written = Some((cursor, Instant::now()));
    }
}

fn set_watch_gauge(yes: bool) {
    gauge!("copyist_directory_watch_up").set(if yes { 1.0 } else { 0.0 });
}

async fn read(file: &Path) -> Option<FeedCursor> {
    tokio::fs::read_to_string(file).await.ok()?.parse().ok()
}

async fn replace(file: &Path, text: String) -> std::io::Result<()> {
    let new = file.with_extension("new");
    tokio::fs::write(&new, text).await?;
    tokio::fs::rename(&new, file).await
}
