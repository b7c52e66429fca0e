//! Changes in the directory, to find out whether a cached answer is outdated. Pure but for the
//! clock.
//!
//! Cached answers are not removed; each is compared with this log when it is next used. So an
//! answer that was in flight while its object changed is outdated, too, and a change costs the same
//! for many answers as for one. Names are kept as hashes; a collision only causes one more query.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Maximum number of changed names; beyond it, all cached answers are outdated.
const MAX_NAMES: usize = 200_000;

/// Times of changes by name. A name is anything that an answer may depend on: a DN, an address, an
/// X.500 address or a login name, each in lower case.
#[derive(Debug)]
pub(super) struct ChangeLog {
    start: Instant,
    /// Time of the last change, in microseconds since `start`; 0: none.
    latest: AtomicU64,
    times: RwLock<ChangeTimes>,
    /// Wakes callers of `wait_for_change`.
    notify: Notify,
    /// The longest time that an answer is cached.
    retention: Duration,
}

#[derive(Debug, Default)]
struct ChangeTimes {
    /// Answers to queries before this time are outdated.
    everything: Option<Instant>,
    names: HashMap<u64, Instant>,
}

/// The names that an answer depends on, if these are more than its key and its objects.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    names: Box<[u64]>,
    /// Whether any change affects the answer.
    on_everything: bool,
    /// The value of [`ChangeLog::latest`] up to which none of the names had changed.
    checked_at: AtomicU64,
}

impl Dependencies {
    /// Creates dependencies on these names.
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Dependencies {
        let names = names.into_iter().map(|name| hash_name(&to_lower(name)));
        let mut names: Vec<u64> = names.collect();
        names.sort_unstable();
        names.dedup();
        Dependencies {
            names: names.into(),
            ..Dependencies::default()
        }
    }

    /// Creates a dependency on every change.
    pub(super) fn on_everything() -> Dependencies {
        Dependencies {
            on_everything: true,
            ..Dependencies::default()
        }
    }
}

impl ChangeLog {
    /// Creates an empty log. Changes older than `retention` may be dropped.
    pub(super) fn new(retention: Duration) -> ChangeLog {
        ChangeLog {
            start: Instant::now(),
            latest: AtomicU64::new(0),
            times: RwLock::default(),
            notify: Notify::new(),
            retention,
        }
    }

    /// Records a change of everything with one of these names.
    pub(super) fn record(&self, names: impl IntoIterator<Item = String>) {
        let mut names = names
            .into_iter()
            .map(|name| hash_name(&to_lower(name)))
            .peekable();
        if names.peek().is_none() {
            return;
        }
        let now = Instant::now();
        let mut times = self.write();
        times.names.extend(names.map(|name| (name, now)));
        if times.names.len() > MAX_NAMES {
            times
                .names
                .retain(|_, when| when.elapsed() <= self.retention);
            if times.names.len() > MAX_NAMES / 2 {
                times.names.clear();
                times.everything = Some(now);
            }
        }
        self.publish(now);
    }

    /// Records that anything may have changed.
    pub(super) fn record_all(&self) {
        let now = Instant::now();
        let mut times = self.write();
        times.names.clear();
        times.everything = Some(now);
        self.publish(now);
    }

    /// Whether one of these names changed after `since`; they are given as [`hash_name`].
    pub(super) fn has_changed(&self, since: Instant, names: impl IntoIterator<Item = u64>) -> bool {
        if self.is_unchanged_since(since) {
            return false;
        }
        let times = self.read();
        is_after(times.everything, since)
            || names
                .into_iter()
                .any(|name| is_after(times.names.get(&name).copied(), since))
    }

    /// Whether one of these dependencies changed after `since`.
    pub(super) fn affects(&self, since: Instant, dependencies: &Dependencies) -> bool {
        if self.is_unchanged_since(since) {
            return false;
        }
        let latest = self.latest.load(Ordering::Acquire);
        if dependencies.on_everything {
            return true;
        }
        if dependencies.checked_at.load(Ordering::Relaxed) == latest {
            return false;
        }
        let times = self.read();
        let has_fewer_changes = times.names.len() < dependencies.names.len();
        let has_changed = is_after(times.everything, since)
            || match has_fewer_changes {
                true => {
                    let mut all = times.names.iter();
                    all.any(|(name, when)| {
                        *when >= since && dependencies.names.binary_search(name).is_ok()
                    })
                }
                false => {
                    let mut all = dependencies.names.iter();
                    all.any(|name| is_after(times.names.get(name).copied(), since))
                }
            };
        if !has_changed {
            dependencies.checked_at.store(latest, Ordering::Relaxed);
        }
        has_changed
    }

    /// Publishes a change. Called while the write lock is held, so that a reader who sees the time
    /// finds the names.
    fn publish(&self, now: Instant) {
        self.latest
            .store(self.micros_since_start(now), Ordering::Release);
        self.notify.notify_waiters();
        // A caller that begins to wait between two changes must not miss one.
        self.notify.notify_one();
    }

    /// Waits for the next change.
    pub(super) async fn wait_for_change(&self) {
        self.notify.notified().await;
    }

    /// Whether nothing changed after `since`.
    pub(super) fn is_unchanged_since(&self, since: Instant) -> bool {
        self.latest.load(Ordering::Acquire) < self.micros_since_start(since)
    }

    fn micros_since_start(&self, when: Instant) -> u64 {
        let micros = when.saturating_duration_since(self.start).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX).saturating_add(1)
    }

    // A panic while the lock is held leaves a consistent map.
    fn read(&self) -> RwLockReadGuard<'_, ChangeTimes> {
        self.times
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ChangeTimes> {
        self.times
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The same moment counts as after, since the order is unknown.
fn is_after(when: Option<Instant>, since: Instant) -> bool {
    when.is_some_and(|when| when >= since)
}

/// Returns the hash of a name in lower case.
pub(super) fn hash_name(name: &str) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(name)
}

/// Converts a name to lower case, as names are compared.
pub(super) fn to_lower(name: String) -> String {
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
    async fn a_change_affects_only_queries_from_before_it() {
        let changes = ChangeLog::new(Duration::from_secs(3600));
        let before = tick().await;
        assert!(!changes.has_changed(before, ["cn=a"].map(hash_name)));
        tick().await;
        changes.record(["CN=A".to_owned()]);
        assert!(changes.has_changed(before, ["x", "cn=a"].map(hash_name)));
        assert!(!changes.has_changed(before, ["cn=b"].map(hash_name)));
        assert!(changes.affects(before, &Dependencies::new(["Cn=a".to_owned()])));
        assert!(changes.affects(before, &Dependencies::on_everything()));
        let other = Dependencies::new(["cn=b".to_owned()]);
        assert!(!changes.affects(before, &other));
        let after = tick().await;
        assert!(!changes.has_changed(after, ["cn=a"].map(hash_name)));
        assert!(!changes.affects(after, &Dependencies::on_everything()));
        tick().await;
        changes.record(["cn=b".to_owned()]);
        assert!(
            changes.affects(before, &other),
            "checked once, then changed"
        );
        changes.record_all();
        assert!(changes.has_changed(after, ["cn=z"].map(hash_name)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_overflowing_change_log_affects_every_query() {
        let changes = ChangeLog::new(Duration::from_secs(3600));
        let before = tick().await;
        changes.record((0..=MAX_NAMES).map(|n| format!("cn={n}")));
        assert!(changes.has_changed(before, ["cn=another"].map(hash_name)));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_older_than_any_answer_are_forgotten() {
        let changes = ChangeLog::new(Duration::from_secs(60));
        changes.record((0..MAX_NAMES).map(|n| format!("cn={n}")));
        tokio::time::advance(Duration::from_secs(61)).await;
        let before = tick().await;
        changes.record(["cn=x".to_owned()]);
        assert!(!changes.has_changed(before, ["cn=another"].map(hash_name)));
        assert!(changes.has_changed(before, ["cn=x"].map(hash_name)));
    }
}
