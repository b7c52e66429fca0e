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

use super::changes::{self, Changes, Names};
use super::entry::Outage;
use super::resolve::Resolution;
use super::settings::CacheSettings;
use super::source::Objects;

/// The cache library refuses more than a thousand years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How often a question is put whose answer changes meanwhile.
const TRIES: usize = 4;

/// For how long answers count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    yes: Duration,
    no: Duration,
    /// While the source is down.
    max_stale: Duration,
}

/// What the source says, yes or no.
pub(super) trait Answer: fmt::Debug + Clone + Send + Sync + 'static {
    fn is_yes(&self) -> bool;

    /// Whether an old one may be given while the source is down.
    fn serves_an_outage(&self) -> bool {
        self.is_yes()
    }

    /// The names of the objects that it shows, see [`changes::hash`].
    fn names(&self) -> impl Iterator<Item = u64> {
        std::iter::empty()
    }
}

/// What the source said, when it was asked, and what that depends on beside the key and what the
/// answer shows.
#[derive(Debug, Clone)]
pub(super) struct Known<T> {
    pub(super) what: T,
    pub(super) since: Instant,
    pub(super) names: Option<Arc<Names>>,
}

/// An answer and whether it came from memory alone.
pub(super) struct Got<T> {
    pub(super) answer: Result<Known<T>, Outage>,
    pub(super) remembered: bool,
}

/// The answers to one kind of question.
#[derive(Debug)]
pub(super) struct Memory<T: Answer> {
    life: Life,
    answers: Cache<String, Known<T>>,
    /// Those that serve no outage. Apart, so that addresses which nobody has, however many, push
    /// nobody out who is known.
    passing: Cache<String, Known<T>>,
    /// Whoever comes while a question is under way waits for its answer. Nothing stays here.
    asking: Cache<String, Known<T>>,
    changes: Arc<Changes>,
}

impl Life {
    pub(super) fn of(settings: &CacheSettings) -> Life {
        Life {
            yes: settings.ttl.min(LONGEST / 2),
            no: settings.negative_ttl.min(LONGEST / 2),
            max_stale: settings.max_stale.min(LONGEST),
        }
    }

    /// The longest that any answer counts.
    pub(super) fn longest(self) -> Duration {
        (2 * self.yes).max(self.no).max(self.max_stale)
    }

    /// Whether an answer of that time may be given while the source is down.
    pub(super) fn is_recent(self, since: Instant) -> bool {
        !self.max_stale.is_zero() && since.elapsed() <= self.max_stale
    }

    fn believed<T: Answer>(self, what: &T) -> Duration {
        match what.is_yes() {
            true => self.yes,
            false => self.no,
        }
    }

    fn kept<T: Answer>(self, what: &T) -> Duration {
        let believed = self.believed(what);
        match what.serves_an_outage() {
            true => (2 * believed).max(self.max_stale),
            false => believed,
        }
    }
}

impl<T: Answer> Expiry<String, Known<T>> for Life {
    fn expire_after_create(
        &self,
        _: &String,
        known: &Known<T>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(self.kept(&known.what))
    }

    fn expire_after_update(
        &self,
        _: &String,
        known: &Known<T>,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(self.kept(&known.what))
    }
}

impl<T: Answer> Known<T> {
    /// Whether what an answer says was changed after it was asked for.
    pub(super) fn is_outdated(&self, key: &str, changes: &Changes) -> bool {
        if changes.quiet_since(self.since) {
            return false;
        }
        match &self.names {
            Some(names) => changes.outdated(self.since, names),
            None => {
                let names = self.what.names().chain([changes::hash(key)]);
                changes.touched(self.since, names)
            }
        }
    }
}

impl<T: Answer> Memory<T> {
    /// Room for so many answers.
    pub(super) fn new(capacity: u64, life: Life, changes: &Arc<Changes>) -> Memory<T> {
        Memory {
            life,
            answers: Cache::builder()
                .max_capacity(capacity)
                .expire_after(life)
                .build(),
            passing: Cache::builder()
                .max_capacity(capacity)
                .expire_after(life)
                .build(),
            asking: Cache::builder()
                .max_capacity(capacity)
                .time_to_live(Duration::ZERO)
                .build(),
            changes: Arc::clone(changes),
        }
    }

    /// What is remembered and still believed.
    pub(super) async fn believed(&self, key: &str) -> Option<Known<T>> {
        let known = match self.answers.get(key).await {
            Some(known) => known,
            None => self.passing.get(key).await?,
        };
        let is_believed = known.since.elapsed() < self.life.believed(&known.what);
        (is_believed && !known.is_outdated(key, &self.changes)).then_some(known)
    }

    /// A yes that may be given while the source takes its time over a new one: up to twice the time
    /// that it is believed, and not what has changed since.
    pub(super) async fn overdue(&self, key: &str) -> Option<Known<T>> {
        let known = self.answers.get(key).await?;
        let most = 2 * self.life.believed(&known.what);
        let may_serve = known.what.is_yes() && known.since.elapsed() < most;
        (may_serve && !known.is_outdated(key, &self.changes)).then_some(known)
    }

    /// Whether a yes is so old that the next should be asked for, before it is not believed any
    /// more.
    pub(super) fn is_aging(&self, known: &Known<T>) -> bool {
        known.since.elapsed() >= self.life.believed(&known.what) * 4 / 5
    }

    /// What may be given while the source is down, but for what has changed since.
    pub(super) async fn stale(&self, key: &str) -> Option<Known<T>> {
        let known = self.answers.get(key).await?;
        self.life.is_recent(known.since).then_some(known)
    }

    async fn fresh(&self, key: &str) -> Option<Known<T>> {
        let known = self.believed(key).await?;
        (!self.is_aging(&known)).then_some(known)
    }

    /// What is remembered, or what `ask` gives.
    pub(super) async fn believed_or<F>(
        &self,
        key: &str,
        ask: impl Fn() -> F,
        patience: Duration,
    ) -> Got<T>
    where
        F: Future<Output = Result<(T, Option<Names>), Outage>> + Send,
    {
        if let Some(known) = self.believed(key).await {
            return Got {
                answer: Ok(known),
                remembered: true,
            };
        }
        self.ask(key, ask, patience).await
    }

    /// What is remembered and not aging, or what `ask` gives. Whoever asks for the same meanwhile
    /// waits for the same answer.
    pub(super) async fn ask<F>(&self, key: &str, ask: impl Fn() -> F, patience: Duration) -> Got<T>
    where
        F: Future<Output = Result<(T, Option<Names>), Outage>> + Send,
    {
        for _ in 0..TRIES {
            if let Some(known) = self.fresh(key).await {
                return Got {
                    answer: Ok(known),
                    remembered: true,
                };
            }
            let begun = Instant::now();
            // Boxed, for the cache library keeps several copies of it on the stack: a question
            // within a question once took more than the two megabytes that a thread has.
            let ask = Box::pin(async {
                // Whoever was asking a moment ago may have had the answer since.
                if let Some(known) = self.fresh(key).await {
                    return Ok(known);
                }
                let since = Instant::now();
                // In time in here, too: whoever waits hears of it, and none puts the same slow
                // question again.
                let (what, names) = patiently(patience, ask()).await?;
                let known = Known {
                    what,
                    since,
                    names: names.map(Arc::new),
                };
                self.keep(key, &known).await;
                Ok::<_, Outage>(known)
            });
            let shared = self.asking.try_get_with_by_ref(key, ask);
            let shared = async { shared.await.map_err(|outage| Outage::clone(&outage)) };
            let answer = patiently(patience, shared).await;
            // The question may have been another's, put before we came and before a change.
            let old =
                |known: &Known<T>| known.since < begun && known.is_outdated(key, &self.changes);
            if !answer.as_ref().is_ok_and(old) {
                return Got {
                    answer,
                    remembered: false,
                };
            }
        }
        let why = format!("what {key} stands for changed {TRIES} times while it was asked for");
        Got {
            answer: Err(Outage::new(why)),
            remembered: false,
        }
    }

    /// The last word counts, whatever was known before.
    async fn keep(&self, key: &str, known: &Known<T>) {
        let (mine, other) = match known.what.serves_an_outage() {
            true => (&self.answers, &self.passing),
            false => (&self.passing, &self.answers),
        };
        other.invalidate(key).await;
        match self.life.kept(&known.what).is_zero() {
            true => mine.invalidate(key).await,
            false => mine.insert(key.to_owned(), known.clone()).await,
        }
    }

    /// How many answers there are, after all housekeeping.
    #[cfg(test)]
    pub(super) async fn len(&self) -> u64 {
        self.asking.run_pending_tasks().await;
        assert_eq!(self.asking.entry_count(), 0, "nothing stays there");
        self.answers.run_pending_tasks().await;
        self.passing.run_pending_tasks().await;
        self.answers.entry_count().max(self.passing.entry_count())
    }
}

/// An answer that takes longer is an outage.
pub(super) async fn patiently<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, Outage>>,
) -> Result<T, Outage> {
    timeout(patience, answer).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {patience:?}");
        Err(Outage::new(reason))
    })
}

impl Answer for Objects {
    fn is_yes(&self) -> bool {
        true
    }

    fn names(&self) -> impl Iterator<Item = u64> {
        self.iter().map(|object| object.name)
    }
}

/// That an address belongs to nobody is no answer during an outage: since then the person may have
/// got a journal address, and that mail would go uncopied.
impl Answer for Option<Objects> {
    fn is_yes(&self) -> bool {
        self.is_some()
    }

    fn names(&self) -> impl Iterator<Item = u64> {
        self.iter().flat_map(Answer::names)
    }
}

impl Answer for Resolution {
    fn is_yes(&self) -> bool {
        self.is_ok()
    }
}

/// Whether somebody's journal attribute names an address. Here an old "no" is as good as an old
/// "yes" while the source is down: no copy hangs on it, and without it all mail would wait.
impl Answer for bool {
    fn is_yes(&self) -> bool {
        *self
    }

    fn serves_an_outage(&self) -> bool {
        true
    }
}
