//! Claims items that are due, sends them to the relay, and records the results.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use metrics::{counter, gauge};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::connection::RecipientOutcome;
use super::open::RelayError;
use super::pool::Pool;
use super::refusals::{EVERYTHING, Refusals};
use super::schedule::{Pace, Reach, latest, next_attempt};
use super::{Retry, Settings};
use crate::journal::{ComposerHandle, Item, ItemId, Kind, Refusal};
use crate::mail::{Address, Enhanced, Reply};
use crate::spool::{
    DeliveryOutcome, DeliveryResult, NdrDigest, NdrStatus, QueuedItem, Spool, SpoolError,
};

/// Poll interval for items that another process made due (`copyist queue retry`).
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Items claimed before there is a slot for them, so that a long queue is not queried for every
/// item.
const CLAIM_AHEAD: usize = 64;
/// Largest number of deliveries whose result is not recorded yet; so many are repeated if the
/// process is killed at that moment. While a long queue drains, they share a sync; otherwise there
/// are hardly ever two.
const MAX_UNRECORDED: usize = 64;
/// Pause of a slot after a spool error.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Interval at which due digests are sent.
const DIGEST_INTERVAL: Duration = Duration::from_secs(10);

/// Interval at which items that wait because the relay rejects everything are looked up.
const OUTAGE_INTERVAL: Duration = Duration::from_secs(3600);

/// NDRs about reports and copies per NDR address and hour: enough to see the problem, few enough to
/// be read. See [`DeliveryResult::ndr_limit`].
const NDRS_PER_HOUR: u32 = 10;

/// Lifetime of a version in the queue: as long as MTAs keep other mail.
const VERSION_LIFETIME: Duration = Duration::from_secs(5 * 24 * 3600);
/// Attempts for a version at least: a clock that jumps ahead by years must not expire it after one.
const MIN_VERSION_ATTEMPTS: u32 = 10;

/// Delivers items until `shutdown`, then finishes the attempts in progress.
pub async fn run(
    spool: Spool,
    settings: Arc<ArcSwap<Settings>>,
    composer: ComposerHandle,
    shutdown: CancellationToken,
) {
    let mut worker = Worker::new(spool, composer, &settings.load());
    worker.restore_outage().await;
    let attempts = TaskTracker::new();
    let mut looked = None;
    while !shutdown.is_cancelled() {
        if looked.is_none_or(|at: Instant| at.elapsed() >= DIGEST_INTERVAL) {
            looked = Some(Instant::now());
            let now = SystemTime::now();
            queue_digests(
                &worker.spool,
                worker.spool.digests(now).await,
                &worker.composer,
            )
            .await;
            worker.queue_outage_digests().await;
        }
        let now = settings.load();
        if now.relay != worker.pool.settings {
            // A new relay: the state of the old one no longer applies.
            let new = Worker::new(worker.spool.clone(), worker.composer.clone(), &now);
            let old = std::mem::replace(&mut worker, new);
            old.ready.iter().for_each(|id| old.spool.unclaim(id));
            old.pool.close().await;
            worker.restore_outage().await;
        }
        let retry = now.retry;
        drop(now);
        let wait = worker.start_due(retry, &attempts).await;
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = worker.spool.changed(), if wait.is_some() => {}
            () = worker.freed.notified() => {}
            () = tokio::time::sleep(wait.unwrap_or(POLL_INTERVAL)) => {}
        }
    }
    attempts.close();
    attempts.wait().await;
    worker.pool.close().await;
}

/// Queues the digests that are due. After an error they are tried again later.
async fn queue_digests(
    spool: &Spool,
    due: Result<Vec<NdrDigest>, SpoolError>,
    composer: &ComposerHandle,
) {
    let now = SystemTime::now();
    let due = match due {
        Ok(due) => due,
        Err(cause) => return error!("cannot read the digests that are due: {cause}"),
    };
    for digest in due {
        let (to, count) = (&digest.ndr, digest.count);
        let item = match composer.load().digest(
            &digest.ndr,
            digest.kind,
            &digest.listed,
            digest.count,
            now,
        ) {
            Ok(item) => item,
            Err(cause) => return error!(%to, "cannot compose a digest: {cause}"),
        };
        let id = item.id.clone();
        match spool.enqueue_digest(&digest, item, now).await {
            Ok(()) => {
                counter!("copyist_ndr_digests_total").increment(1);
                warn!(item = %id, %to, refusals = count, "digest of failures queued");
            }
            Err(cause) => return error!(%to, "cannot queue a digest: {cause}"),
        }
    }
}

/// The delivery to one relay.
struct Worker {
    spool: Spool,
    composer: ComposerHandle,
    pool: Arc<Pool>,
    slots: Arc<Semaphore>,
    /// See [`MAX_UNRECORDED`].
    unrecorded: Arc<Semaphore>,
    /// Notified when a slot becomes free or the relay is reachable again.
    freed: Arc<Notify>,
    pace: Arc<Mutex<Pace>>,
    refusals: Arc<Mutex<Refusals>>,
    /// Claimed items, oldest first.
    ready: VecDeque<ItemId>,
    /// Last look for items that a wrong clock dated too far in the future.
    misdated_checked: Option<Instant>,
    /// Last look for items that wait because the relay rejects everything.
    outage_checked: Option<Instant>,
    /// Whether it is recorded in the spool that the relay rejects everything.
    is_outage_recorded: bool,
}

impl Worker {
    fn new(spool: Spool, composer: ComposerHandle, settings: &Settings) -> Worker {
        gauge!("copyist_relay_up").set(1.0);
        gauge!("copyist_relay_takes_nothing").set(0.0);
        Worker {
            spool,
            composer,
            slots: Arc::new(Semaphore::new(settings.relay.connections)),
            unrecorded: Arc::new(Semaphore::new(MAX_UNRECORDED)),
            pool: Arc::new(Pool::new(settings.relay.clone())),
            freed: Arc::default(),
            pace: Arc::new(Mutex::new(Pace::new(settings.relay.connections))),
            refusals: Arc::default(),
            ready: VecDeque::new(),
            misdated_checked: None,
            outage_checked: None,
            is_outage_recorded: false,
        }
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restores, after a start, that the relay rejects everything.
    async fn restore_outage(&self) {
        match self.spool.is_relay_refusing().await {
            Ok(true) => *self.refusals() = Refusals::known(),
            Ok(false) => {}
            Err(cause) => error!("cannot read whether the relay rejects everything: {cause}"),
        }
    }

    /// Queues one digest a day for each NDR address about items that wait because the relay rejects
    /// everything.
    async fn queue_outage_digests(&mut self) {
        let (is_fault, is_over) = {
            let mut refusals = self.refusals();
            (refusals.is_fault(), refusals.take_over())
        };
        if is_over && let Err(cause) = self.spool.clear_relay_refusing().await {
            error!("cannot record that the relay accepts items again: {cause}");
        }
        if !is_fault {
            self.outage_checked = None;
            self.is_outage_recorded = false;
            return;
        }
        if !self.is_outage_recorded {
            match self.spool.set_relay_refusing(SystemTime::now()).await {
                Ok(()) => self.is_outage_recorded = true,
                Err(cause) => error!("cannot record that the relay rejects everything: {cause}"),
            }
        }
        // This reads the whole queue.
        let looked = self.outage_checked;
        if looked.is_none_or(|at| at.elapsed() >= OUTAGE_INTERVAL) {
            self.outage_checked = Some(Instant::now());
            let due = self.spool.outage_digests(EVERYTHING, SystemTime::now());
            queue_digests(&self.spool, due.await, &self.composer).await;
        }
    }

    /// Starts attempts for due items as far as there are slots. Returns the wait until more are
    /// due; `None` to wait for a slot.
    async fn start_due(&mut self, retry: Retry, attempts: &TaskTracker) -> Option<Duration> {
        let now = Instant::now();
        let (reach, window) = {
            let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            (pace.reach, pace.window())
        };
        let busy = self.pool.settings.connections - self.slots.available_permits();
        let (up_to, is_up) = match reach {
            Reach::Up => (window.saturating_sub(busy), true),
            Reach::Down { again, .. } if again > now => {
                self.ready.drain(..).for_each(|id| self.spool.unclaim(&id));
                return Some(again.duration_since(now).min(POLL_INTERVAL));
            }
            // One item probes whether the relay is back.
            Reach::Down { .. } => (usize::from(busy == 0), false),
        };
        let limit = up_to.min(self.unrecorded.available_permits());
        if limit == 0 {
            return None;
        }
        // Nothing is claimed ahead for an unreachable relay: an operator may drop the item
        // meanwhile.
        let most = if is_up { limit.max(CLAIM_AHEAD) } else { limit };
        if self.ready.len() < limit
            && let Err(cause) = self.claim(retry, most).await
        {
            error!("cannot read due items from the spool: {cause}");
            return Some(ERROR_PAUSE);
        }
        let mut started = 0;
        while started < limit
            && let Ok(slot) = self.slots.clone().try_acquire_owned()
            && let Ok(unrecorded) = self.unrecorded.clone().try_acquire_owned()
            && let Some(id) = self.ready.pop_front()
        {
            self.start(id, (slot, unrecorded), retry, attempts);
            started += 1;
        }
        match started {
            0 => Some(self.until_next_due().await),
            _ if started == limit => None,
            // Each attempt that ends triggers another look.
            _ => Some(POLL_INTERVAL),
        }
    }

    /// Starts the attempt for one item; notifies when its slot is free and when its result is
    /// recorded.
    fn start(
        &self,
        id: ItemId,
        (slot, unrecorded): (OwnedSemaphorePermit, OwnedSemaphorePermit),
        retry: Retry,
        attempts: &TaskTracker,
    ) {
        let attempt = Attempt {
            spool: self.spool.clone(),
            pool: self.pool.clone(),
            composer: self.composer.clone(),
            pace: self.pace.clone(),
            refusals: self.refusals.clone(),
            retry,
        };
        let freed = self.freed.clone();
        attempts.spawn(async move {
            let work = async {
                let result = attempt.deliver(&id).await;
                drop(slot);
                freed.notify_one();
                if let Some(result) = result {
                    attempt.record(&id, result).await;
                }
            };
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                // A bug, reported by the panic message. The item must not stay claimed.
                tokio::time::sleep(ERROR_PAUSE).await;
                attempt.spool.unclaim(&id);
            }
            drop(unrecorded);
            freed.notify_one();
        });
    }

    /// Claims items that are due, and from time to time items that a wrong clock dated too far in
    /// the future.
    async fn claim(&mut self, retry: Retry, most: usize) -> Result<(), SpoolError> {
        let now = SystemTime::now();
        let limit = most - self.ready.len();
        let due = self.spool.claim(now, limit).await?;
        let is_all = due.len() < limit;
        self.spool.prefetch(&due).await;
        self.ready.extend(due);
        if is_all
            && self
                .misdated_checked
                .is_none_or(|at| at.elapsed() >= POLL_INTERVAL)
        {
            self.misdated_checked = Some(Instant::now());
            let late = self
                .spool
                .claim_misdated(latest(retry, now), CLAIM_AHEAD)
                .await?;
            self.ready.extend(late);
        }
        Ok(())
    }

    async fn until_next_due(&self) -> Duration {
        match self.spool.next_due().await {
            Ok(Some(due)) => match due.duration_since(SystemTime::now()) {
                Ok(wait) => wait.min(POLL_INTERVAL),
                // An attempt is in progress.
                Err(_) => POLL_INTERVAL,
            },
            Ok(None) | Err(_) => POLL_INTERVAL,
        }
    }
}

/// One delivery attempt.
struct Attempt {
    spool: Spool,
    pool: Arc<Pool>,
    composer: ComposerHandle,
    pace: Arc<Mutex<Pace>>,
    refusals: Arc<Mutex<Refusals>>,
    retry: Retry,
}

impl Attempt {
    /// Sends the item; returns the result to record.
    async fn deliver(&self, id: &ItemId) -> Option<DeliveryResult> {
        let queued = match self.spool.load(id).await {
            Ok(queued) => queued,
            // Set aside or dropped meanwhile: no longer due.
            Err(SpoolError::SetAside { .. } | SpoolError::Unknown(_)) => {
                self.spool.unclaim(id);
                return None;
            }
            Err(cause) => {
                error!(item = %id, "cannot read the item from the spool: {cause}");
                tokio::time::sleep(ERROR_PAUSE).await;
                self.spool.unclaim(id);
                return None;
            }
        };
        let sent = self
            .pool
            .send(&queued.item, &queued.original, &queued.waiting)
            .await;
        Some(match sent {
            Ok(replies) => {
                self.record_reached();
                self.evaluate(&queued, replies)
            }
            Err(error) => self.defer_unreached(&queued, &error),
        })
    }

    /// Turns the relay's replies into the result to record.
    fn evaluate(&self, queued: &QueuedItem, replies: Vec<RecipientOutcome>) -> DeliveryResult {
        let (id, relay) = (queued.id(), self.pool.settings.name());
        let now = SystemTime::now();
        let replies = self.defer_if_outage(queued, replies);
        let mut refusals = Vec::new();
        let mut outcomes = Vec::new();
        for (address, reply_outcome) in queued.waiting.iter().zip(replies) {
            let outcome = match reply_outcome {
                RecipientOutcome::Delivered => {
                    info!(item = %id, to = %address, kind = queued.item.kind.name(), "delivered");
                    DeliveryOutcome::Delivered
                }
                RecipientOutcome::Deferred(said) if is_expired(queued, now) => {
                    // 4.4.7: delivery time expired (RFC 3463 section 3.5).
                    let reply = Reply::new(550, Enhanced(4, 4, 7), said.clone());
                    refusals.push(Refusal {
                        address: address.clone(),
                        reply,
                        relay: relay.clone(),
                    });
                    DeliveryOutcome::Refused(said)
                }
                RecipientOutcome::Deferred(said) => {
                    warn!(item = %id, to = %address, attempt = queued.attempts + 1, "deferred: {said}");
                    DeliveryOutcome::Deferred(said)
                }
                RecipientOutcome::Rejected(reply) => {
                    let said = reply.to_string();
                    refusals.push(Refusal {
                        address: address.clone(),
                        reply,
                        relay: relay.clone(),
                    });
                    DeliveryOutcome::Refused(said)
                }
            };
            outcomes.push((address.clone(), outcome));
        }
        let ndr = self.compose_ndr(queued, &refusals, &mut outcomes, now);
        for (_, outcome) in &outcomes {
            counter!("copyist_deliveries_total", "outcome" => metric_label(outcome)).increment(1);
        }
        DeliveryResult {
            outcomes,
            next_attempt: next_attempt(self.retry, queued.attempts + 1, now, jitter()),
            ndr,
            ndr_limit: ndr_limit(queued.item.kind),
            relay_reached: true,
        }
    }

    /// Composes the NDR about rejected recipients. Without an NDR address they become dead letters,
    /// which are kept.
    fn compose_ndr(
        &self,
        queued: &QueuedItem,
        refusals: &[Refusal],
        outcomes: &mut [(Address, DeliveryOutcome)],
        now: SystemTime,
    ) -> Option<Item> {
        if refusals.is_empty() {
            return None;
        }
        let id = queued.id();
        let refused = |outcome: &DeliveryOutcome| matches!(outcome, DeliveryOutcome::Refused(_));
        let Some(ndr_address) = queued
            .item
            .ndr
            .as_ref()
            .filter(|_| queued.item.kind != Kind::Ndr)
        else {
            for (address, outcome) in outcomes.iter_mut().filter(|(_, outcome)| refused(outcome)) {
                if let DeliveryOutcome::Refused(said) = outcome {
                    error!(item = %id, to = %address, "dead letter, kept for the operator: {said}");
                    counter!("copyist_dead_letters_total").increment(1);
                    *outcome = DeliveryOutcome::Dead(said.clone());
                }
            }
            return None;
        };
        match self
            .composer
            .load()
            .ndr(&queued.item, ndr_address, &queued.original, refusals, now)
        {
            Ok(ndr) => {
                for Refusal { address, reply, .. } in refusals {
                    warn!(item = %id, to = %address, ndr_to = %ndr_address, "rejected by the relay: {reply}");
                }
                Some(ndr)
            }
            Err(cause) => {
                error!(item = %id, "cannot compose the NDR, keeping the item queued: {cause}");
                for (_, outcome) in outcomes.iter_mut().filter(|(_, outcome)| refused(outcome)) {
                    if let DeliveryOutcome::Refused(said) = outcome {
                        *outcome = DeliveryOutcome::Deferred(said.clone());
                    }
                }
                None
            }
        }
    }

    /// Defers rejections that are not about the recipients, because the relay rejects everything.
    fn defer_if_outage(
        &self,
        queued: &QueuedItem,
        replies: Vec<RecipientOutcome>,
    ) -> Vec<RecipientOutcome> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = queued.waiting.iter().zip(&replies);
        let relay = self.pool.settings.name();
        let item = (queued.id(), queued.item.kind);
        if !refusals.note(item, answers, Instant::now(), &relay) {
            return replies;
        }
        let wait = |reply_outcome| match reply_outcome {
            RecipientOutcome::Rejected(reply) => {
                RecipientOutcome::Deferred(format!("{EVERYTHING}{reply}"))
            }
            reply_outcome => reply_outcome,
        };
        replies.into_iter().map(wait).collect()
    }

    fn record_reached(&self) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failures) = pace.reached(Instant::now(), self.pool.open_connections()) {
            gauge!("copyist_relay_up").set(1.0);
            info!(
                "relay {} reachable again after {failures} failures",
                self.pool.settings.name()
            );
        }
    }

    /// Defers an item because the relay was not reached, which says nothing about the item: it is
    /// due as soon as the relay is tried again.
    fn defer_unreached(&self, queued: &QueuedItem, unreached: &RelayError) -> DeliveryResult {
        let now = SystemTime::now();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.failed(Instant::now(), self.pool.open_connections()) {
            gauge!("copyist_relay_up").set(0.0);
            warn!("{unreached}; items stay queued, and the relay is tried again");
        }
        let outcome = |address: &Address| {
            (
                address.clone(),
                DeliveryOutcome::Deferred(unreached.to_string()),
            )
        };
        DeliveryResult {
            outcomes: queued.waiting.iter().map(outcome).collect(),
            next_attempt: now,
            ndr: None,
            ndr_limit: None,
            relay_reached: false,
        }
    }

    /// Records the result, repeatedly if need be: otherwise the item would be sent again and again.
    /// A failed spool ends the process, and with it this loop.
    async fn record(&self, id: &ItemId, result: DeliveryResult) {
        loop {
            let recorded = self
                .spool
                .record(id, result.clone(), SystemTime::now())
                .await;
            match recorded {
                Ok(recorded) => return log_ndr(id, &result, recorded),
                Err(cause) => {
                    error!(item = %id, "cannot record the delivery result: {cause}; the report may be sent twice");
                }
            }
            if self.spool.is_failed() {
                return;
            }
            tokio::time::sleep(ERROR_PAUSE).await;
        }
    }
}

/// Returns the limit of NDRs per hour about items of this kind; further failures go into a digest.
/// The sender of a message gets an NDR about each recipient.
fn ndr_limit(kind: Kind) -> Option<u32> {
    match kind {
        Kind::Report | Kind::Copy => Some(NDRS_PER_HOUR),
        Kind::Version | Kind::Ndr => None,
    }
}

/// Logs how a rejection is reported.
fn log_ndr(id: &ItemId, result: &DeliveryResult, recorded: NdrStatus) {
    let Some(ndr) = &result.ndr else { return };
    let refused = result.outcomes.iter();
    let refused = refused.filter(|(_, outcome)| matches!(outcome, DeliveryOutcome::Refused(_)));
    let refused = refused.count() as u64;
    if recorded == NdrStatus::Pending {
        counter!("copyist_dead_letters_total").increment(refused);
        counter!("copyist_refusals_collected_total").increment(refused);
        error!(
            item = %id, refused,
            "dead letter without an NDR, since {NDRS_PER_HOUR} were sent within the hour; a digest follows"
        );
    } else if recorded == NdrStatus::Queued {
        counter!("copyist_ndrs_total").increment(1);
        info!(item = %id, ndr = %ndr.id, "NDR queued");
    }
}

/// Whether a version of a message is expired (RFC 5321 section 4.5.4.1). Reports and copies never
/// expire.
fn is_expired(queued: &QueuedItem, now: SystemTime) -> bool {
    let waited = now.duration_since(queued.received).unwrap_or_default();
    queued.item.kind == Kind::Version
        && waited > VERSION_LIFETIME
        && queued.attempts >= MIN_VERSION_ATTEMPTS
}

fn metric_label(outcome: &DeliveryOutcome) -> &'static str {
    match outcome {
        DeliveryOutcome::Delivered => "delivered",
        DeliveryOutcome::Deferred(_) => "waiting",
        DeliveryOutcome::Refused(_) => "refused",
        DeliveryOutcome::Dead(_) => "dead",
    }
}

/// Returns a random number from 0 to 1, or 0.5 if the system has none: it need not be secret.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
