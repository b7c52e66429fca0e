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

use super::changes::Changes;
use super::dn;
use super::presence::Presence;
use super::question::Attributes;
use super::source::{Change, Place};

/// Changes told but not noted yet.
const WAITING: usize = 256;
/// The pause before watching again: after a loss, and where the server offers nothing to watch.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_UNSUPPORTED: Duration = Duration::from_secs(5 * 60);
/// How often the place to go on from is written at most. An old one only means to be told some
/// things twice.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// How a feed of changes ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Why, a sentence.
    pub(super) why: String,
    /// Whether it is of no use to try again soon.
    pub(super) unsupported: bool,
    /// Whether the place to go on from is of no use.
    pub(super) forgotten: bool,
}

/// Something that tells of changes.
pub(super) trait Feed: Send + Sync {
    /// Tells changes until it ends, beginning where `from` says, or now.
    fn tell(
        &self,
        from: Option<Place>,
        to: mpsc::Sender<Change>,
    ) -> impl Future<Output = Ended> + Send;
}

/// Notes what a feed tells until `stop`. The place to go on from is kept in `file`.
pub(super) async fn watch(
    feed: impl Feed,
    attributes: Attributes,
    changes: Arc<Changes>,
    presence: Arc<Presence>,
    file: PathBuf,
    stop: CancellationToken,
) {
    let mut watcher = Watcher {
        attributes,
        changes,
        presence,
        place: read(&file).await,
        written: None,
        file,
    };
    let mut logged = None;
    watching(false);
    loop {
        let (tell, mut told) = mpsc::channel(WAITING);
        let telling = feed.tell(watcher.place.clone(), tell);
        let noting = async {
            while let Some(change) = told.recv().await {
                if matches!(change, Change::UpToDate) {
                    logged = None;
                }
                watcher.note(change).await;
            }
        };
        let both = async { tokio::join!(telling, noting).0 };
        let ended = stop.run_until_cancelled(both).await;
        watching(false);
        watcher.write().await;
        let Some(ended) = ended else { return };
        if ended.forgotten {
            watcher.place = None;
        }
        if logged.as_ref() != Some(&ended) {
            match ended.unsupported {
                true => tracing::info!(
                    "changes in the directory count after directory.cache.ttl: {}",
                    ended.why
                ),
                false => tracing::warn!("lost sight of changes in the directory: {}", ended.why),
            }
            logged = Some(ended.clone());
        }
        let pause = sleep(match ended.unsupported {
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
    changes: Arc<Changes>,
    presence: Arc<Presence>,
    place: Option<Place>,
    file: PathBuf,
    written: Option<(Place, Instant)>,
}

impl Watcher {
    async fn note(&mut self, change: Change) {
        match change {
            Change::Object(entry) => {
                counter!("copyist_directory_changes_total").increment(1);
                tracing::debug!(dn = entry.dn, "changed in the directory");
                self.changes.changed(self.attributes.names_of(&entry));
                // Where a value is hidden, whoever asks for the person hears of it.
                self.presence.people().notice(&entry);
            }
            Change::Gone(dn) => {
                counter!("copyist_directory_changes_total").increment(1);
                tracing::debug!(dn, "gone from the directory");
                self.changes.changed([dn::key(&dn)]);
            }
            Change::Everything => {
                counter!("copyist_directory_watch_resets_total").increment(1);
                self.changes.everything();
            }
            Change::UpToDate => {
                tracing::info!("changes in the directory count at once");
                watching(true);
            }
            Change::Place(place) => {
                self.place = Some(place);
                let due = |(_, when): &(Place, Instant)| when.elapsed() >= WRITE_EVERY;
                if self.written.as_ref().is_none_or(due) {
                    self.write().await;
                }
            }
        }
    }

    /// Keeps the place for the next start. Without it that start would only ask more.
    async fn write(&mut self) {
        let Some(place) = self.place.clone() else {
            return;
        };
        if (self.written.as_ref()).is_some_and(|(written, _)| *written == place) {
            return;
        }
        if let Err(error) = replace(&self.file, place.to_string()).await {
            tracing::warn!("cannot write {}: {error}", self.file.display());
        }
        self.written = Some((place, Instant::now()));
    }
}

fn watching(yes: bool) {
    gauge!("copyist_directory_watch_up").set(if yes { 1.0 } else { 0.0 });
}

async fn read(file: &Path) -> Option<Place> {
    tokio::fs::read_to_string(file).await.ok()?.parse().ok()
}

async fn replace(file: &Path, text: String) -> std::io::Result<()> {
    let new = file.with_extension("new");
    tokio::fs::write(&new, text).await?;
    tokio::fs::rename(&new, file).await
}
