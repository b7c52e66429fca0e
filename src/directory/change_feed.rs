//! Follows the changes of the directory, so that cached answers are dropped before their TTL ends.
//!
//! Promises: while the feed is up, cached answers are outdated from the moment the server reports a
//! change. After an interruption, missed changes are caught up on, or all answers are outdated;
//! until then the TTLs of `CacheSettings` apply.

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

/// Changes read ahead of their processing.
const CHANGE_BUFFER: usize = 256;
/// Pause before the next attempt: after an interruption, and if the server offers no feed.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_UNSUPPORTED: Duration = Duration::from_secs(5 * 60);
/// Minimum interval between writes of the cursor. An old cursor only repeats some changes.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// The end of a change feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FeedEnd {
    /// The reason, a sentence.
    pub(super) reason: String,
    /// Whether the server offers no feed, so that an early retry is pointless.
    pub(super) unsupported: bool,
    /// Whether the server rejected the cursor.
    pub(super) cursor_expired: bool,
}

/// A feed of directory changes.
pub(super) trait ChangeFeed: Send + Sync {
    /// Sends changes until the feed ends, starting at the cursor `from`, or now.
    fn run(
        &self,
        from: Option<FeedCursor>,
        to: mpsc::Sender<Change>,
    ) -> impl Future<Output = FeedEnd> + Send;
}

/// Applies the changes of a feed until `stop`. The cursor is stored in `file`.
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
                    "directory changes take effect after directory.cache.ttl: {}",
                    end.reason
                ),
                false => tracing::warn!("directory change feed interrupted: {}", end.reason),
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
                tracing::debug!(dn = entry.dn, "directory object changed");
                self.changes.record(self.attributes.names_of(&entry));
                // If a value is hidden, a lookup of the person returns the outage.
                self.presence.journal_history().check(&entry);
            }
            Change::Removed(dn) => {
                counter!("copyist_directory_changes_total").increment(1);
                tracing::debug!(dn, "directory object removed");
                self.changes.record([dn::key(&dn)]);
            }
            Change::Everything => {
                counter!("copyist_directory_watch_resets_total").increment(1);
                self.changes.record_all();
            }
            Change::UpToDate => {
                tracing::info!("directory change feed up");
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

    /// Stores the cursor for the next start, which would only query more without it.
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
