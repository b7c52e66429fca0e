//! Combines concurrent lookups into one search.
//!
//! Promises: a single lookup is sent at once; each has its answer or its outage by its deadline.
//! The number of concurrent searches is limited; behind them at most [`QUEUE_SIZE`] lookups are
//! queued, and later ones wait within their own deadline.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::entry::Outage;
use crate::directory::source::Objects;
use crate::mail::Address;

/// Maximum number of keys in one search.
const MAX_KEYS: usize = 100;
/// Maximum bytes of keys in one search: OpenLDAP rejects anonymous requests over 256 kB, and the
/// filter contains each key once per attribute.
const MAX_BYTES: usize = 8 * 1024;
/// Maximum number of queued lookups.
const QUEUE_SIZE: usize = 1024;

/// The result of one lookup.
pub(super) type LookupResult = Result<Option<Objects>, Outage>;

/// A key of lookups.
pub(super) trait LookupKey: fmt::Debug + Clone + Eq + Hash + Send + Sync + 'static {
    /// Returns its size in a filter, in bytes.
    fn bytes(&self) -> usize;
}

impl LookupKey for Address {
    fn bytes(&self) -> usize {
        self.key().len()
    }
}

/// A login name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LoginName(pub(super) String);

impl LookupKey for LoginName {
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// A lookup of several keys by one search.
pub(super) trait BatchLookup<K>: Send + Sync + 'static {
    /// Returns an answer for each key, by the deadline.
    fn look_up(
        &self,
        asked: Vec<K>,
        deadline: Instant,
    ) -> impl Future<Output = HashMap<K, LookupResult>> + Send;
}

/// A handle to the queue of lookups.
#[derive(Debug, Clone)]
pub(super) struct Batcher<K> {
    queue: mpsc::Sender<Request<K>>,
}

#[derive(Debug)]
struct Request<K> {
    key: K,
    deadline: Instant,
    answer: oneshot::Sender<LookupResult>,
}

impl<K: LookupKey> Batcher<K> {
    /// Starts the task that combines lookups into at most `in_flight` concurrent searches. It ends
    /// when `stop` is cancelled.
    pub(super) fn start<L: BatchLookup<K>>(
        look_up: Arc<L>,
        in_flight: usize,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Batcher<K> {
        let (queue, waiting) = mpsc::channel(QUEUE_SIZE);
        let searches = tasks.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(run_batches(look_up, in_flight, waiting, searches))
                .await;
        });
        Batcher { queue }
    }

    /// Returns the objects with this address or name.
    pub(super) async fn find(&self, key: K, max_wait: Duration) -> LookupResult {
        let deadline = Instant::now() + max_wait;
        let (answer, receiver) = oneshot::channel();
        let question = Request {
            key,
            deadline,
            answer,
        };
        let exchange = async {
            self.queue.send(question).await.ok()?;
            receiver.await.ok()
        };
        match timeout_at(deadline + SLACK, exchange).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Outage::new("directory closed")),
            Err(_) => Err(Outage::new(format!(
                "no search was possible within {max_wait:?}"
            ))),
        }
    }
}

/// Grace period for a search, whose own timeout message is the better one.
const SLACK: Duration = Duration::from_millis(100);

async fn run_batches<K: LookupKey, L: BatchLookup<K>>(
    look_up: Arc<L>,
    in_flight: usize,
    mut waiting: mpsc::Receiver<Request<K>>,
    searches: TaskTracker,
) {
    let in_flight = Arc::new(Semaphore::new(in_flight));
    loop {
        // First the permit, then the lookups: while all searches are in flight, the next one grows.
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else {
            return;
        };
        let Some(first) = waiting.recv().await else {
            return;
        };
        // The other recipients of the same message are about to be looked up.
        tokio::task::yield_now().await;
        let batch = Batch::new(first, &mut waiting);
        let look_up = Arc::clone(&look_up);
        // Ends by its deadline.
        searches.spawn(async move {
            let _permit = permit;
            batch.search(&*look_up).await;
        });
    }
}

/// The lookups combined in one search.
struct Batch<K> {
    waiters: HashMap<K, Vec<oneshot::Sender<LookupResult>>>,
    deadline: Instant,
}

impl<K: LookupKey> Batch<K> {
    fn new(first: Request<K>, waiting: &mut mpsc::Receiver<Request<K>>) -> Batch<K> {
        let mut batch = Batch {
            waiters: HashMap::new(),
            deadline: first.deadline,
        };
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(question) = next {
            bytes += question.key.bytes();
            batch.deadline = batch.deadline.max(question.deadline);
            batch
                .waiters
                .entry(question.key)
                .or_default()
                .push(question.answer);
            let full = batch.waiters.len() >= MAX_KEYS || bytes >= MAX_BYTES;
            next = if full { None } else { waiting.try_recv().ok() };
        }
        batch
    }

    async fn search<L: BatchLookup<K>>(mut self, look_up: &L) {
        // Callers may have given up in the meantime.
        self.waiters
            .retain(|_, waiters| waiters.iter().any(|waiter| !waiter.is_closed()));
        if self.waiters.is_empty() {
            return;
        }
        let asked = self.waiters.keys().cloned().collect();
        let mut answers = look_up.look_up(asked, self.deadline).await;
        for (key, waiters) in self.waiters {
            let answer = answers.remove(&key).unwrap_or_else(|| {
                Err(Outage::new("the search returned no result for this lookup"))
            });
            for waiter in waiters {
                // A caller that is gone needs no answer.
                let _ = waiter.send(answer.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers "absent" with a permit; records the sizes of the searches.
    struct SlowServer {
        sizes: Mutex<Vec<usize>>,
        permits: Semaphore,
    }

    impl BatchLookup<Address> for SlowServer {
        async fn look_up(&self, asked: Vec<Address>, _: Instant) -> HashMap<Address, LookupResult> {
            self.sizes.lock().expect("not poisoned").push(asked.len());
            let _permit = self.permits.acquire().await.expect("open");
            asked
                .into_iter()
                .map(|address| (address, Ok(None)))
                .collect()
        }
    }

    struct Fixture {
        slow: Arc<SlowServer>,
        batcher: Batcher<Address>,
        stop: CancellationToken,
    }

    impl Fixture {
        fn new(permits: usize) -> Fixture {
            let slow = Arc::new(SlowServer {
                sizes: Mutex::default(),
                permits: Semaphore::new(permits),
            });
            let stop = CancellationToken::new();
            let batcher = Batcher::start(Arc::clone(&slow), 64, &TaskTracker::new(), stop.clone());
            Fixture {
                slow,
                batcher,
                stop,
            }
        }

        async fn ask(&self, count: usize) -> Vec<LookupResult> {
            let ask = |n| {
                let address = Address::parse(&format!("u{n}@b.test")).expect("an address");
                self.batcher.find(address, Duration::from_secs(5))
            };
            futures_util::future::join_all((0..count).map(ask)).await
        }

        fn sizes(&self) -> Vec<usize> {
            self.slow.sizes.lock().expect("not poisoned").clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_goes_out_at_once() {
        let fixture = Fixture::new(1);
        let begun = Instant::now();
        assert_eq!(fixture.ask(1).await, [Ok(None)]);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(fixture.sizes(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_wait_together_share_a_search_of_bounded_size() {
        let fixture = Fixture::new(64);
        let answers = fixture.ask(250).await;
        assert!(answers.iter().all(|answer| *answer == Ok(None)));
        assert_eq!(fixture.sizes(), [100, 100, 50]);
    }

    #[tokio::test(start_paused = true)]
    async fn long_addresses_make_small_searches() {
        let fixture = Fixture::new(64);
        let ask = |n| {
            let text = format!("{}{n}@b.test", "a".repeat(900));
            let address = Address::parse(&text).expect("an address");
            fixture.batcher.find(address, Duration::from_secs(5))
        };
        futures_util::future::join_all((0..20).map(ask)).await;
        assert_eq!(fixture.sizes(), [10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_search_is_an_outage_and_not_a_hanging_caller() {
        let fixture = Fixture::new(0);
        let begun = Instant::now();
        let answers = fixture.ask(QUEUE_SIZE + 10_000).await;
        assert!(answers.iter().all(Result::is_err));
        assert!(begun.elapsed() < Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_end_there_is_an_outage_at_once() {
        let fixture = Fixture::new(1);
        fixture.stop.cancel();
        let begun = Instant::now();
        assert!(fixture.ask(1).await[0].is_err());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
