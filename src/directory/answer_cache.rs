//! A cache of the answers to one kind of question.
//!
//! Promises: an outage is never cached. At most one query per key is in flight, however many
//! callers wait for it. An answer is kept for its TTL, and on for as long as it may be served stale
//! during an outage.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use moka::Expiry;
use moka::future::Cache;
use tokio::time::{Instant, timeout};

use super::change_log::{self, ChangeLog, Dependencies};
use super::entry::Outage;
use super::resolve::Resolution;
use super::settings::CacheSettings;
use super::source::Objects;

/// Upper limit of all lifetimes: the cache library rejects more than a thousand years.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Attempts of a query whose answer changes in the meantime.
const MAX_ATTEMPTS: usize = 4;

/// Lifetimes of cached answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    ttl: Duration,
    negative_ttl: Duration,
    /// Maximum age of an answer served while the source is down.
    max_stale: Duration,
}

/// An answer of the source that can be cached.
pub(super) trait CacheableAnswer: fmt::Debug + Clone + Send + Sync + 'static {
    fn is_positive(&self) -> bool;

    /// Whether the answer may be served stale while the source is down.
    fn can_serve_stale(&self) -> bool {
        self.is_positive()
    }

    /// Returns the DN hashes of the objects in the answer, see [`change_log::hash_name`].
    fn object_hashes(&self) -> impl Iterator<Item = u64> {
        std::iter::empty()
    }
}

/// An answer, the time of its query, and its dependencies. `None`: the key and the objects in the
/// answer.
#[derive(Debug, Clone)]
pub(super) struct CachedAnswer<T> {
    pub(super) answer: T,
    pub(super) asked_at: Instant,
    pub(super) dependencies: Option<Arc<Dependencies>>,
}

/// The result of a lookup, and whether it came from the cache alone.
pub(super) struct CacheLookup<T> {
    pub(super) result: Result<CachedAnswer<T>, Outage>,
    pub(super) is_cached: bool,
}

/// Cached answers to one kind of question.
#[derive(Debug)]
pub(super) struct AnswerCache<T: CacheableAnswer> {
    lifetimes: Lifetimes,
    answers: Cache<String, CachedAnswer<T>>,
    /// Answers that are never served stale. Kept apart, so that a flood of unknown addresses does
    /// not evict known people.
    negative_answers: Cache<String, CachedAnswer<T>>,
    /// Queries in flight, shared by all callers with the same key. Nothing stays here.
    in_flight: Cache<String, CachedAnswer<T>>,
    changes: Arc<ChangeLog>,
}

impl Lifetimes {
    pub(super) fn from_settings(settings: &CacheSettings) -> Lifetimes {
        Lifetimes {
            ttl: settings.ttl.min(MAX_LIFETIME / 2),
            negative_ttl: settings.negative_ttl.min(MAX_LIFETIME / 2),
            max_stale: settings.max_stale.min(MAX_LIFETIME),
        }
    }

    /// Returns the longest time that any answer is kept.
    pub(super) fn longest(self) -> Duration {
        (2 * self.ttl).max(self.negative_ttl).max(self.max_stale)
    }

    /// Whether an answer of this time may be served while the source is down.
    pub(super) fn is_within_max_stale(self, asked_at: Instant) -> bool {
        !self.max_stale.is_zero() && asked_at.elapsed() <= self.max_stale
    }

    fn ttl_of<T: CacheableAnswer>(self, answer: &T) -> Duration {
        match answer.is_positive() {
            true => self.ttl,
            false => self.negative_ttl,
        }
    }

    fn retention_of<T: CacheableAnswer>(self, answer: &T) -> Duration {
        let ttl = self.ttl_of(answer);
        match answer.can_serve_stale() {
            true => (2 * ttl).max(self.max_stale),
            false => ttl,
        }
    }
}

impl<T: CacheableAnswer> Expiry<String, CachedAnswer<T>> for Lifetimes {
    fn expire_after_create(
        &self,
        _: &String,
        cached: &CachedAnswer<T>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(self.retention_of(&cached.answer))
    }

    fn expire_after_update(
        &self,
        _: &String,
        cached: &CachedAnswer<T>,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(self.retention_of(&cached.answer))
    }
}

impl<T: CacheableAnswer> CachedAnswer<T> {
    /// Whether something that the answer depends on changed after the query.
    pub(super) fn is_outdated(&self, key: &str, changes: &ChangeLog) -> bool {
        if changes.is_unchanged_since(self.asked_at) {
            return false;
        }
        match &self.dependencies {
            Some(dependencies) => changes.affects(self.asked_at, dependencies),
            None => {
                let dependencies = self
                    .answer
                    .object_hashes()
                    .chain([change_log::hash_name(key)]);
                changes.has_changed(self.asked_at, dependencies)
            }
        }
    }
}

impl<T: CacheableAnswer> AnswerCache<T> {
    /// Creates a cache for at most `capacity` answers of either kind.
    pub(super) fn new(
        capacity: u64,
        lifetimes: Lifetimes,
        changes: &Arc<ChangeLog>,
    ) -> AnswerCache<T> {
        AnswerCache {
            lifetimes,
            answers: Cache::builder()
                .max_capacity(capacity)
                .expire_after(lifetimes)
                .build(),
            negative_answers: Cache::builder()
                .max_capacity(capacity)
                .expire_after(lifetimes)
                .build(),
            in_flight: Cache::builder()
                .max_capacity(capacity)
                .time_to_live(Duration::ZERO)
                .build(),
            changes: Arc::clone(changes),
        }
    }

    /// Returns an answer within its TTL.
    pub(super) async fn get_fresh(&self, key: &str) -> Option<CachedAnswer<T>> {
        let cached = match self.answers.get(key).await {
            Some(cached) => cached,
            None => self.negative_answers.get(key).await?,
        };
        let is_fresh = cached.asked_at.elapsed() < self.lifetimes.ttl_of(&cached.answer);
        (is_fresh && !cached.is_outdated(key, &self.changes)).then_some(cached)
    }

    /// Returns a positive answer that may be served while a slow source is queried again: one no
    /// older than twice its TTL, and not outdated.
    pub(super) async fn get_while_revalidating(&self, key: &str) -> Option<CachedAnswer<T>> {
        let cached = self.answers.get(key).await?;
        let most = 2 * self.lifetimes.ttl_of(&cached.answer);
        let may_serve = cached.answer.is_positive() && cached.asked_at.elapsed() < most;
        (may_serve && !cached.is_outdated(key, &self.changes)).then_some(cached)
    }

    /// Whether an answer has used four fifths of its TTL, so that it should be refreshed before it
    /// expires.
    pub(super) fn needs_refresh(&self, cached: &CachedAnswer<T>) -> bool {
        cached.asked_at.elapsed() >= self.lifetimes.ttl_of(&cached.answer) * 4 / 5
    }

    /// Returns an answer that may be served while the source is down. The caller checks that it is
    /// not outdated.
    pub(super) async fn get_stale(&self, key: &str) -> Option<CachedAnswer<T>> {
        let cached = self.answers.get(key).await?;
        self.lifetimes
            .is_within_max_stale(cached.asked_at)
            .then_some(cached)
    }

    async fn get_undue(&self, key: &str) -> Option<CachedAnswer<T>> {
        let cached = self.get_fresh(key).await?;
        (!self.needs_refresh(&cached)).then_some(cached)
    }

    /// Returns the cached answer within its TTL, or the result of `fetch`.
    pub(super) async fn get_or_fetch<F>(
        &self,
        key: &str,
        fetch: impl Fn() -> F,
        max_wait: Duration,
    ) -> CacheLookup<T>
    where
        F: Future<Output = Result<(T, Option<Dependencies>), Outage>> + Send,
    {
        if let Some(cached) = self.get_fresh(key).await {
            return CacheLookup {
                result: Ok(cached),
                is_cached: true,
            };
        }
        self.fetch(key, fetch, max_wait).await
    }

    /// Returns the cached answer unless it needs a refresh, or else the result of `fetch`.
    /// Concurrent callers with the same key share one query.
    pub(super) async fn fetch<F>(
        &self,
        key: &str,
        fetch: impl Fn() -> F,
        max_wait: Duration,
    ) -> CacheLookup<T>
    where
        F: Future<Output = Result<(T, Option<Dependencies>), Outage>> + Send,
    {
        for _ in 0..MAX_ATTEMPTS {
            if let Some(cached) = self.get_undue(key).await {
                return CacheLookup {
                    result: Ok(cached),
                    is_cached: true,
                };
            }
            let begun = Instant::now();
            // Boxed, since the cache library keeps several copies of it on the stack: nested
            // queries once took more than the two megabytes of a thread.
            let fetching = Box::pin(async {
                // The previous query may have stored an answer in the meantime.
                if let Some(cached) = self.get_undue(key).await {
                    return Ok(cached);
                }
                let asked_at = Instant::now();
                // The timeout applies in here, too: all waiters get the outage, and none repeats
                // the slow query.
                let (answer, dependencies) = within_timeout(max_wait, fetch()).await?;
                let cached = CachedAnswer {
                    answer,
                    asked_at,
                    dependencies: dependencies.map(Arc::new),
                };
                self.store(key, &cached).await;
                Ok::<_, Outage>(cached)
            });
            let shared = self.in_flight.try_get_with_by_ref(key, fetching);
            let shared = async { shared.await.map_err(|outage| Outage::clone(&outage)) };
            let answer = within_timeout(max_wait, shared).await;
            // The shared query may have begun before this call, and before a change.
            let old = |cached: &CachedAnswer<T>| {
                cached.asked_at < begun && cached.is_outdated(key, &self.changes)
            };
            if !answer.as_ref().is_ok_and(old) {
                return CacheLookup {
                    result: answer,
                    is_cached: false,
                };
            }
        }
        let why = format!("the answer for {key} changed during each of {MAX_ATTEMPTS} queries");
        CacheLookup {
            result: Err(Outage::new(why)),
            is_cached: false,
        }
    }

    /// Stores an answer in place of any earlier one.
    async fn store(&self, key: &str, cached: &CachedAnswer<T>) {
        let (mine, other) = match cached.answer.can_serve_stale() {
            true => (&self.answers, &self.negative_answers),
            false => (&self.negative_answers, &self.answers),
        };
        other.invalidate(key).await;
        match self.lifetimes.retention_of(&cached.answer).is_zero() {
            true => mine.invalidate(key).await,
            false => mine.insert(key.to_owned(), cached.clone()).await,
        }
    }

    /// Returns the number of answers after pending evictions.
    #[cfg(test)]
    pub(super) async fn len(&self) -> u64 {
        self.in_flight.run_pending_tasks().await;
        assert_eq!(self.in_flight.entry_count(), 0, "no query is in flight");
        self.answers.run_pending_tasks().await;
        self.negative_answers.run_pending_tasks().await;
        self.answers
            .entry_count()
            .max(self.negative_answers.entry_count())
    }
}

/// Limits the time of a query; a timeout is an outage.
pub(super) async fn within_timeout<T>(
    max_wait: Duration,
    answer: impl Future<Output = Result<T, Outage>>,
) -> Result<T, Outage> {
    timeout(max_wait, answer).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {max_wait:?}");
        Err(Outage::new(reason))
    })
}

impl CacheableAnswer for Objects {
    fn is_positive(&self) -> bool {
        true
    }

    fn object_hashes(&self) -> impl Iterator<Item = u64> {
        self.iter().map(|object| object.dn_hash)
    }
}

/// A negative answer is never served during an outage: since then the person may have got a journal
/// address, and that mail would not be journaled.
impl CacheableAnswer for Option<Objects> {
    fn is_positive(&self) -> bool {
        self.is_some()
    }

    fn object_hashes(&self) -> impl Iterator<Item = u64> {
        self.iter().flat_map(CacheableAnswer::object_hashes)
    }
}

impl CacheableAnswer for Resolution {
    fn is_positive(&self) -> bool {
        self.is_ok()
    }
}

/// Whether a journal attribute names an address. A stale "no" is served during an outage as well:
/// no copy depends on it, and without it all mail would be deferred.
impl CacheableAnswer for bool {
    fn is_positive(&self) -> bool {
        *self
    }

    fn can_serve_stale(&self) -> bool {
        true
    }
}
