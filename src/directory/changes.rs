//! What changed in the directory since an answer was asked for. Pure but for the clock.
//!
//! Answers stay where they are; each is compared with this when it is wanted again. So an answer
//! that was under way while its object changed counts as old, too, and a change costs no more for
//! many answers than for one. Names are kept as hashes, for there are a few of them for each
//! answer: should two ever meet, something is asked once too often.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Names remembered; a directory where more changes has everything asked anew.
const MOST: usize = 200_000;

/// When what changed. A name is whatever answers depend on: an object's DN, an address, an X.500
/// address or a login name, each in lower case.
#[derive(Debug)]
pub(super) struct Changes {
    base: Instant,
    /// When anything changed last, in microseconds since `base`; 0: never.
    latest: AtomicU64,
    known: RwLock<Known>,
    /// Who waits for the next change.
    waiting: Notify,
    /// The longest that an answer is kept.
    memory: Duration,
}

#[derive(Debug, Default)]
struct Known {
    /// What was asked for before this moment is void.
    everything: Option<Instant>,
    names: HashMap<u64, Instant>,
}

/// What an answer depends on, where that is more than it shows by itself.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: Box<[u64]>,
    /// Any change at all may matter.
    any: bool,
    /// Up to when the names were compared and none had changed; as [`Changes::latest`].
    checked: AtomicU64,
}

impl Names {
    /// These names.
    pub(super) fn of(names: impl IntoIterator<Item = String>) -> Names {
        let names = names.into_iter().map(|name| hash(&lower(name)));
        let mut names: Vec<u64> = names.collect();
        names.sort_unstable();
        names.dedup();
        Names {
            names: names.into(),
            ..Names::default()
        }
    }

    /// Whatever there is.
    pub(super) fn any() -> Names {
        Names {
            any: true,
            ..Names::default()
        }
    }
}

impl Changes {
    /// Nothing changed so far; answers are kept no longer than `memory`.
    pub(super) fn new(memory: Duration) -> Changes {
        Changes {
            base: Instant::now(),
            latest: AtomicU64::new(0),
            known: RwLock::default(),
            waiting: Notify::new(),
            memory,
        }
    }

    /// Whatever has one of these names is no longer what it was.
    pub(super) fn changed(&self, names: impl IntoIterator<Item = String>) {
        let mut names = names.into_iter().map(|name| hash(&lower(name))).peekable();
        if names.peek().is_none() {
            return;
        }
        let now = Instant::now();
        let mut known = self.write();
        known.names.extend(names.map(|name| (name, now)));
        if known.names.len() > MOST {
            known.names.retain(|_, when| when.elapsed() <= self.memory);
            if known.names.len() > MOST / 2 {
                known.names.clear();
                known.everything = Some(now);
            }
        }
        self.note(now);
    }

    /// Anything may be other than it was.
    pub(super) fn everything(&self) {
        let now = Instant::now();
        let mut known = self.write();
        known.names.clear();
        known.everything = Some(now);
        self.note(now);
    }

    /// Whether one of these names changed after `since`; see [`hash`].
    pub(super) fn touched(&self, since: Instant, names: impl IntoIterator<Item = u64>) -> bool {
        if self.quiet_since(since) {
            return false;
        }
        let known = self.read();
        is_after(known.everything, since)
            || names
                .into_iter()
                .any(|name| is_after(known.names.get(&name).copied(), since))
    }

    /// Whether something that an answer depends on changed after `since`.
    pub(super) fn outdated(&self, since: Instant, depends: &Names) -> bool {
        if self.quiet_since(since) {
            return false;
        }
        let latest = self.latest.load(Ordering::Acquire);
        if depends.any {
            return true;
        }
        if depends.checked.load(Ordering::Relaxed) == latest {
            return false;
        }
        let known = self.read();
        let few = known.names.len() < depends.names.len();
        let touched = is_after(known.everything, since)
            || match few {
                true => {
                    let mut all = known.names.iter();
                    all.any(|(name, when)| {
                        *when >= since && depends.names.binary_search(name).is_ok()
                    })
                }
                false => {
                    let mut all = depends.names.iter();
                    all.any(|name| is_after(known.names.get(name).copied(), since))
                }
            };
        if !touched {
            depends.checked.store(latest, Ordering::Relaxed);
        }
        touched
    }

    /// Called while the write lock is held, so that whoever sees it finds the names.
    fn note(&self, now: Instant) {
        self.latest.store(self.stamp(now), Ordering::Release);
        self.waiting.notify_waiters();
        // Whoever begins to wait between two changes must not miss one.
        self.waiting.notify_one();
    }

    /// Waits for a change that nobody was told of yet.
    pub(super) async fn next(&self) {
        self.waiting.notified().await;
    }

    /// Whether nothing at all changed after `since`.
    pub(super) fn quiet_since(&self, since: Instant) -> bool {
        self.latest.load(Ordering::Acquire) < self.stamp(since)
    }

    fn stamp(&self, when: Instant) -> u64 {
        let micros = when.saturating_duration_since(self.base).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX).saturating_add(1)
    }

    // A panic while the lock is held leaves a map that is still right.
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// At the same moment counts as after: then nobody can tell.
fn is_after(when: Option<Instant>, since: Instant) -> bool {
    when.is_some_and(|when| when >= since)
}

/// What is kept of a name in lower case.
pub(super) fn hash(name: &str) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(name)
}

/// A name as it is compared.
pub(super) fn lower(name: String) -> String {
    match name
        .bytes()
        .any(|b| b.is_ascii_uppercase() || !b.is_ascii())
    {
        true => name.to_lowercase(),
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tick() -> Instant {
        tokio::time::advance(Duration::from_millis(1)).await;
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_asked_for_before_a_change_is_touched_by_it() {
        let changes = Changes::new(Duration::from_secs(3600));
        let before = tick().await;
        assert!(!changes.touched(before, ["cn=a"].map(hash)));
        tick().await;
        changes.changed(["CN=A".to_owned()]);
        assert!(changes.touched(before, ["x", "cn=a"].map(hash)));
        assert!(!changes.touched(before, ["cn=b"].map(hash)));
        assert!(changes.outdated(before, &Names::of(["Cn=a".to_owned()])));
        assert!(changes.outdated(before, &Names::any()));
        let other = Names::of(["cn=b".to_owned()]);
        assert!(!changes.outdated(before, &other));
        let after = tick().await;
        assert!(!changes.touched(after, ["cn=a"].map(hash)));
        assert!(!changes.outdated(after, &Names::any()));
        tick().await;
        changes.changed(["cn=b".to_owned()]);
        assert!(
            changes.outdated(before, &other),
            "checked once, then changed"
        );
        changes.everything();
        assert!(changes.touched(after, ["cn=z"].map(hash)));
    }

    #[tokio::test(start_paused = true)]
    async fn more_changes_than_can_be_remembered_touch_everything() {
        let changes = Changes::new(Duration::from_secs(3600));
        let before = tick().await;
        changes.changed((0..=MOST).map(|n| format!("cn={n}")));
        assert!(changes.touched(before, ["cn=another"].map(hash)));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_older_than_any_answer_are_forgotten() {
        let changes = Changes::new(Duration::from_secs(60));
        changes.changed((0..MOST).map(|n| format!("cn={n}")));
        tokio::time::advance(Duration::from_secs(61)).await;
        let before = tick().await;
        changes.changed(["cn=x".to_owned()]);
        assert!(!changes.touched(before, ["cn=another"].map(hash)));
        assert!(changes.touched(before, ["cn=x"].map(hash)));
    }
}
