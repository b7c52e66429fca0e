//! Answers of one kind that are remembered, and the questions of that kind that are under way.
//!
//! Promises: an outage is never kept as an answer. One question per key is under way at a time,
//! however many ask. An answer is in memory once: for as long as it is believed, and on for as long
//! as it may serve an outage.

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

/// The cache library refuses more than a thousand years.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How often a question is put whose answer changes meanwhile.
const MAX_ATTEMPTS: usize = 4;

/// For how long answers count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    ttl: Duration,
    negative_ttl: Duration,
    /// While the source is down.
    max_stale: Duration,
}

/// What the source says, yes or no.
pub(super) trait CacheableAnswer: fmt::Debug + Clone + Send + Sync + 'static {
    fn is_positive(&self) -> bool;

    /// Whether an old one may be given while the source is down.
    fn can_serve_stale(&self) -> bool {
        self.is_positive()
    }

    /// The names of the objects that it shows, see [`change_log::hash_name`].
    fn object_hashes(&self) -> impl Iterator<Item = u64> {
        std::iter::empty()
    }
}

/// What the source said, when it was asked, and what that depends on beside the key and what the
/// answer shows.
#[derive(Debug, Clone)]
pub(super) struct CachedAnswer<T> {
    pub(super) answer: T,
    pub(super) asked_at: Instant,
    pub(super) dependencies: Option<Arc<Dependencies>>,
}

/// An answer and whether it came from memory alone.
pub(super) struct CacheLookup<T> {
    pub(super) result: Result<CachedAnswer<T>, Outage>,
    pub(super) is_cached: bool,
}

/// The answers to one kind of question.
#[derive(Debug)]
pub(super) struct AnswerCache<T: CacheableAnswer> {
    lifetimes: Lifetimes,
    answers: Cache<String, CachedAnswer<T>>,
    /// Those that serve no outage. Apart, so that addresses which nobody has, however many, push
    /// nobody out who is known.
    negative_answers: Cache<String, CachedAnswer<T>>,
    /// Whoever comes while a question is under way waits for its answer. Nothing stays here.
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

    /// The longest that any answer counts.
    pub(super) fn longest(self) -> Duration {
        (2 * self.ttl).max(self.negative_ttl).max(self.max_stale)
    }

    /// Whether an answer of that time may be given while the source is down.
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
    /// Whether what an answer says was changed after it was asked for.
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
    /// Room for so many answers.
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

    /// What is remembered and still believed.
    pub(super) async fn get_fresh(&self, key: &str) -> Option<CachedAnswer<T>> {
        let cached = match self.answers.get(key).await {
            Some(cached) => cached,
            None => self.negative_answers.get(key).await?,
        };
        let is_fresh = cached.asked_at.elapsed() < self.lifetimes.ttl_of(&cached.answer);
        (is_fresh && !cached.is_outdated(key, &self.changes)).then_some(cached)
    }

    /// A yes that may be given while the source takes its time over a new one: up to twice the time
    /// that it is believed, and not what has changed since.
    pub(super) async fn get_while_revalidating(&self, key: &str) -> Option<CachedAnswer<T>> {
        let cached = self.answers.get(key).await?;
        let most = 2 * self.lifetimes.ttl_of(&cached.answer);
        let may_serve = cached.answer.is_positive() && cached.asked_at.elapsed() < most;
        (may_serve && !cached.is_outdated(key, &self.changes)).then_some(cached)
    }

    /// Whether a yes is so old that the next should be asked for, before it is not believed any
    /// more.
    pub(super) fn needs_refresh(&self, cached: &CachedAnswer<T>) -> bool {
        cached.asked_at.elapsed() >= self.lifetimes.ttl_of(&cached.answer) * 4 / 5
    }

    /// What may be given while the source is down, but for what has changed since.
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

    /// What is remembered, or what `fetch` gives.
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

    /// What is remembered and not aging, or what `fetch` gives. Whoever asks for the same meanwhile
    /// waits for the same answer.
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
            // Boxed, for the cache library keeps several copies of it on the stack: a question
            // within a question once took more than the two megabytes that a thread has.
            let fetching = Box::pin(async {
                // Whoever was asking a moment ago may have had the answer since.
                if let Some(cached) = self.get_undue(key).await {
                    return Ok(cached);
                }
                let asked_at = Instant::now();
                // In time in here, too: whoever waits hears of it, and none puts the same slow
                // question again.
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
            // The question may have been another's, put before we came and before a change.
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
        let why =
            format!("what {key} stands for changed {MAX_ATTEMPTS} times while it was asked for");
        CacheLookup {
            result: Err(Outage::new(why)),
            is_cached: false,
        }
    }

    /// The last word counts, whatever was known before.
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

    /// How many answers there are, after all housekeeping.
    #[cfg(test)]
    pub(super) async fn len(&self) -> u64 {
        self.in_flight.run_pending_tasks().await;
        assert_eq!(self.in_flight.entry_count(), 0, "nothing stays there");
        self.answers.run_pending_tasks().await;
        self.negative_answers.run_pending_tasks().await;
        self.answers
            .entry_count()
            .max(self.negative_answers.entry_count())
    }
}

/// An answer that takes longer is an outage.
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

/// That an address belongs to nobody is no answer during an outage: since then the person may have
/// got a journal address, and that mail would go uncopied.
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

/// Whether somebody's journal attribute names an address. Here an old "no" is as good as an old
/// "yes" while the source is down: no copy hangs on it, and without it all mail would wait.
impl CacheableAnswer for bool {
    fn is_positive(&self) -> bool {
        *self
    }

    fn can_serve_stale(&self) -> bool {
        true
    }
}
