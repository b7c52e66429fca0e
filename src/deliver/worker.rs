//! Takes what is due, hands it to the relay, and writes down what came of it.

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

use super::connection::Fate;
use super::open::RelayError;
use super::pool::Pool;
use super::refusals::{EVERYTHING, Refusals};
use super::schedule::{Pace, Reach, latest, next_attempt};
use super::{Retry, Settings};
use crate::journal::{ComposeError, Item, ItemId, Kind, Refusal};
use crate::mail::{Address, Content, Enhanced, Reply};
use crate::spool::{
    DeliveryOutcome, DeliveryResult, NdrDigest, NdrStatus, QueuedItem, Spool, SpoolError,
};

/// How often it is looked for what another process (`copyist queue retry`) made due.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Items that are claimed before there is a slot for them, so that a long queue is not asked for
/// every item.
const AHEAD: usize = 64;
/// Deliveries at most whose outcome is not durable yet: so many come twice if the process is killed
/// in that moment. More of them share a sync while a long queue drains; else there are hardly ever
/// two.
const UNWRITTEN: usize = 64;
/// How long a slot rests after the spool could not be read or written.
const REST: Duration = Duration::from_secs(1);

/// How often it is looked for digests that are due.
const DIGESTS: Duration = Duration::from_secs(10);

/// How often it is looked for items that wait since the relay refuses everything, while it does.
const LOOK_FOR_REFUSED: Duration = Duration::from_secs(3600);

/// NDRs about journal reports and copies that one address gets within an hour: enough to see what
/// is wrong, few enough to be read. See [`DeliveryResult::ndr_limit`].
const NDRS_WITHIN_AN_HOUR: u32 = 10;

/// How long a version of a message is tried: as long as MTAs try other mail.
const VERSION_WAITS: Duration = Duration::from_secs(5 * 24 * 3600);
/// How often at least: a clock that jumps ahead by years must not send it back after one attempt.
const VERSION_TRIES: u32 = 10;

/// Writes an NDR: about this item, to this address, around this original, for these refusals.
pub type NdrComposer = Arc<
    dyn Fn(&Item, &Address, &Content, &[Refusal], SystemTime) -> Result<Item, ComposeError>
        + Send
        + Sync,
>;

/// Writes the NDR that stands for a digest.
pub type DigestComposer =
    Arc<dyn Fn(&NdrDigest, SystemTime) -> Result<Item, ComposeError> + Send + Sync>;

/// Delivers until `shutdown`; what is under way then is finished.
pub async fn run(
    spool: Spool,
    settings: Arc<ArcSwap<Settings>>,
    compose_ndr: NdrComposer,
    compose_digest: DigestComposer,
    shutdown: CancellationToken,
) {
    let mut worker = Worker::new(spool, compose_ndr, &settings.load());
    worker.recall().await;
    let under_way = TaskTracker::new();
    let mut looked = None;
    while !shutdown.is_cancelled() {
        if looked.is_none_or(|at: Instant| at.elapsed() >= DIGESTS) {
            looked = Some(Instant::now());
            let now = SystemTime::now();
            tell_digests(
                &worker.spool,
                worker.spool.digests(now).await,
                &compose_digest,
            )
            .await;
            worker.tell_of_refusals(&compose_digest).await;
        }
        let now = settings.load();
        if now.relay != worker.pool.settings {
            // Another relay: nothing that is known of the old one counts.
            let new = Worker::new(worker.spool.clone(), worker.compose_ndr.clone(), &now);
            let old = std::mem::replace(&mut worker, new);
            old.ready.iter().for_each(|id| old.spool.unclaim(id));
            old.pool.close().await;
            worker.recall().await;
        }
        let retry = now.retry;
        drop(now);
        let wait = worker.start_due(retry, &under_way).await;
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = worker.spool.changed(), if wait.is_some() => {}
            () = worker.freed.notified() => {}
            () = tokio::time::sleep(wait.unwrap_or(LOOK_AGAIN)) => {}
        }
    }
    under_way.close();
    under_way.wait().await;
    worker.pool.close().await;
}

/// Owes the digests that are due. What cannot be told now is told later.
async fn tell_digests(
    spool: &Spool,
    due: Result<Vec<NdrDigest>, SpoolError>,
    compose: &DigestComposer,
) {
    let now = SystemTime::now();
    let due = match due {
        Ok(due) => due,
        Err(cause) => return error!("what is to be told in a digest cannot be read: {cause}"),
    };
    for digest in due {
        let (to, count) = (&digest.ndr, digest.count);
        let item = match compose(&digest, now) {
            Ok(item) => item,
            Err(cause) => return error!(%to, "a digest cannot be written: {cause}"),
        };
        let id = item.id.clone();
        match spool.enqueue_digest(&digest, item, now).await {
            Ok(()) => {
                counter!("copyist_ndr_digests_total").increment(1);
                warn!(item = %id, %to, refusals = count, "a digest tells of refusals");
            }
            Err(cause) => return error!(%to, "a digest cannot be kept: {cause}"),
        }
    }
}

/// What is known of one relay.
struct Worker {
    spool: Spool,
    compose_ndr: NdrComposer,
    pool: Arc<Pool>,
    slots: Arc<Semaphore>,
    /// See [`UNWRITTEN`].
    unwritten: Arc<Semaphore>,
    /// Told when a slot becomes free or the relay comes back.
    freed: Arc<Notify>,
    pace: Arc<Mutex<Pace>>,
    refusals: Arc<Mutex<Refusals>>,
    /// Claimed items, oldest first.
    ready: VecDeque<ItemId>,
    /// When it was last looked for items that a wrong clock made due too late.
    mended: Option<Instant>,
    /// When it was last looked for items that wait since the relay refuses everything.
    looked_for_refused: Option<Instant>,
    /// Whether the spool knows that the relay refuses everything.
    is_fault_recorded: bool,
}

impl Worker {
    fn new(spool: Spool, compose_ndr: NdrComposer, settings: &Settings) -> Worker {
        gauge!("copyist_relay_up").set(1.0);
        gauge!("copyist_relay_takes_nothing").set(0.0);
        Worker {
            spool,
            compose_ndr,
            slots: Arc::new(Semaphore::new(settings.relay.connections)),
            unwritten: Arc::new(Semaphore::new(UNWRITTEN)),
            pool: Arc::new(Pool::new(settings.relay.clone())),
            freed: Arc::default(),
            pace: Arc::new(Mutex::new(Pace::new(settings.relay.connections))),
            refusals: Arc::default(),
            ready: VecDeque::new(),
            mended: None,
            looked_for_refused: None,
            is_fault_recorded: false,
        }
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the process before this one, or another relay, left behind: that the relay
    /// refuses everything.
    async fn recall(&self) {
        match self.spool.is_relay_refusing().await {
            Ok(true) => *self.refusals() = Refusals::known(),
            Ok(false) => {}
            Err(cause) => error!("cannot read whether the relay refuses everything: {cause}"),
        }
    }

    /// Tells NDR addresses, once a day each, of what waits since the relay refuses everything.
    async fn tell_of_refusals(&mut self, compose: &DigestComposer) {
        let (is_fault, is_over) = {
            let mut refusals = self.refusals();
            (refusals.is_fault(), refusals.take_over())
        };
        if is_over && let Err(cause) = self.spool.clear_relay_refusing().await {
            error!("cannot record that the relay takes items again: {cause}");
        }
        if !is_fault {
            self.looked_for_refused = None;
            self.is_fault_recorded = false;
            return;
        }
        if !self.is_fault_recorded {
            match self.spool.set_relay_refusing(SystemTime::now()).await {
                Ok(()) => self.is_fault_recorded = true,
                Err(cause) => error!("cannot record that the relay refuses everything: {cause}"),
            }
        }
        // All of the queue is looked at.
        let looked = self.looked_for_refused;
        if looked.is_none_or(|at| at.elapsed() >= LOOK_FOR_REFUSED) {
            self.looked_for_refused = Some(Instant::now());
            let due = self.spool.outage_digests(EVERYTHING, SystemTime::now());
            tell_digests(&self.spool, due.await, compose).await;
        }
    }

    /// Starts what is due, as far as there are slots. Gives how long to wait for more; `None`: for
    /// a slot.
    async fn start_due(&mut self, retry: Retry, under_way: &TaskTracker) -> Option<Duration> {
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
                return Some(again.duration_since(now).min(LOOK_AGAIN));
            }
            // One item finds out whether it is back.
            Reach::Down { .. } => (usize::from(busy == 0), false),
        };
        let limit = up_to.min(self.unwritten.available_permits());
        if limit == 0 {
            return None;
        }
        // Nothing is read ahead for a relay that is away: an operator may drop it meanwhile.
        let most = if is_up { limit.max(AHEAD) } else { limit };
        if self.ready.len() < limit
            && let Err(cause) = self.claim(retry, most).await
        {
            error!("what is due cannot be read: {cause}");
            return Some(REST);
        }
        let mut started = 0;
        while started < limit
            && let Ok(slot) = self.slots.clone().try_acquire_owned()
            && let Ok(unwritten) = self.unwritten.clone().try_acquire_owned()
            && let Some(id) = self.ready.pop_front()
        {
            self.start(id, (slot, unwritten), retry, under_way);
            started += 1;
        }
        match started {
            0 => Some(self.until_next_due().await),
            _ if started == limit => None,
            // Each that ends has it looked for more.
            _ => Some(LOOK_AGAIN),
        }
    }

    /// Delivers one item, and says so when its slot is free again, and when it is all done.
    fn start(
        &self,
        id: ItemId,
        (slot, unwritten): (OwnedSemaphorePermit, OwnedSemaphorePermit),
        retry: Retry,
        under_way: &TaskTracker,
    ) {
        let attempt = Attempt {
            spool: self.spool.clone(),
            pool: self.pool.clone(),
            compose_ndr: self.compose_ndr.clone(),
            pace: self.pace.clone(),
            refusals: self.refusals.clone(),
            retry,
        };
        let freed = self.freed.clone();
        under_way.spawn(async move {
            let work = async {
                let came_to = attempt.deliver(&id).await;
                drop(slot);
                freed.notify_one();
                if let Some(result) = came_to {
                    attempt.record(&id, result).await;
                }
            };
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                // A fault of ours, told by the panic's own message. The item must not stay claimed
                // for it.
                tokio::time::sleep(REST).await;
                attempt.spool.unclaim(&id);
            }
            drop(unwritten);
            freed.notify_one();
        });
    }

    /// Claims what is due by the schedule, and now and then what a clock that was wrong would have
    /// wait for ever.
    async fn claim(&mut self, retry: Retry, most: usize) -> Result<(), SpoolError> {
        let now = SystemTime::now();
        let limit = most - self.ready.len();
        let due = self.spool.claim(now, limit).await?;
        let is_all = due.len() < limit;
        self.spool.prefetch(&due).await;
        self.ready.extend(due);
        if is_all && self.mended.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            self.mended = Some(Instant::now());
            let late = self.spool.claim_misdated(latest(retry, now), AHEAD).await?;
            self.ready.extend(late);
        }
        Ok(())
    }

    async fn until_next_due(&self) -> Duration {
        match self.spool.next_due().await {
            Ok(Some(due)) => match due.duration_since(SystemTime::now()) {
                Ok(wait) => wait.min(LOOK_AGAIN),
                // It is being worked on.
                Err(_) => LOOK_AGAIN,
            },
            Ok(None) | Err(_) => LOOK_AGAIN,
        }
    }
}

/// One item's turn.
struct Attempt {
    spool: Spool,
    pool: Arc<Pool>,
    compose_ndr: NdrComposer,
    pace: Arc<Mutex<Pace>>,
    refusals: Arc<Mutex<Refusals>>,
    retry: Retry,
}

impl Attempt {
    /// What there is to be written down of it.
    async fn deliver(&self, id: &ItemId) -> Option<DeliveryResult> {
        let owed = match self.spool.load(id).await {
            Ok(owed) => owed,
            // Set aside by now, or dropped by an operator: it is not due any more.
            Err(SpoolError::SetAside { .. } | SpoolError::Unknown(_)) => {
                self.spool.unclaim(id);
                return None;
            }
            Err(cause) => {
                error!(item = %id, "cannot be read: {cause}");
                tokio::time::sleep(REST).await;
                self.spool.unclaim(id);
                return None;
            }
        };
        let sent = self
            .pool
            .send(&owed.item, &owed.original, &owed.waiting)
            .await;
        Some(match sent {
            Ok(fates) => {
                self.reached();
                self.judge(&owed, fates)
            }
            Err(unreached) => self.put_off(&owed, &unreached),
        })
    }

    /// What the relay said becomes what is written down.
    fn judge(&self, owed: &QueuedItem, fates: Vec<Fate>) -> DeliveryResult {
        let (id, relay) = (owed.id(), self.pool.settings.name());
        let now = SystemTime::now();
        let fates = self.believed(owed, fates);
        let mut refusals = Vec::new();
        let mut outcomes = Vec::new();
        for (address, fate) in owed.waiting.iter().zip(fates) {
            let outcome = match fate {
                Fate::Delivered => {
                    info!(item = %id, to = %address, kind = owed.item.kind.name(), "delivered");
                    DeliveryOutcome::Delivered
                }
                Fate::Later(said) if is_too_late(owed, now) => {
                    // 4.4.7: delivery time expired (RFC 3463 section 3.5).
                    let reply = Reply::new(550, Enhanced(4, 4, 7), said.clone());
                    refusals.push(Refusal {
                        address: address.clone(),
                        reply,
                        relay: relay.clone(),
                    });
                    DeliveryOutcome::Refused(said)
                }
                Fate::Later(said) => {
                    warn!(item = %id, to = %address, attempt = owed.attempts + 1, "not delivered yet: {said}");
                    DeliveryOutcome::Deferred(said)
                }
                Fate::Refused(reply) => {
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
        let ndr = self.tell(owed, &refusals, &mut outcomes, now);
        for (_, outcome) in &outcomes {
            counter!("copyist_deliveries_total", "outcome" => word(outcome)).increment(1);
        }
        DeliveryResult {
            outcomes,
            next_attempt: next_attempt(self.retry, owed.attempts + 1, now, jitter()),
            ndr,
            ndr_limit: ndr_limit(owed.item.kind),
            relay_reached: true,
        }
    }

    /// The NDR about what was refused. What nobody can be told about is dead, and stays.
    fn tell(
        &self,
        owed: &QueuedItem,
        refusals: &[Refusal],
        outcomes: &mut [(Address, DeliveryOutcome)],
        now: SystemTime,
    ) -> Option<Item> {
        if refusals.is_empty() {
            return None;
        }
        let id = owed.id();
        let refused = |outcome: &DeliveryOutcome| matches!(outcome, DeliveryOutcome::Refused(_));
        let Some(ndr_address) = owed
            .item
            .ndr
            .as_ref()
            .filter(|_| owed.item.kind != Kind::Ndr)
        else {
            for (address, outcome) in outcomes.iter_mut().filter(|(_, outcome)| refused(outcome)) {
                if let DeliveryOutcome::Refused(said) = outcome {
                    error!(item = %id, to = %address, "dead letter, kept until somebody decides: {said}");
                    counter!("copyist_dead_letters_total").increment(1);
                    *outcome = DeliveryOutcome::Dead(said.clone());
                }
            }
            return None;
        };
        match (self.compose_ndr)(&owed.item, ndr_address, &owed.original, refusals, now) {
            Ok(ndr) => {
                for Refusal { address, reply, .. } in refusals {
                    warn!(item = %id, to = %address, ndr_to = %ndr_address, "refused for good: {reply}");
                }
                Some(ndr)
            }
            Err(cause) => {
                error!(item = %id, "the NDR cannot be written, so the refusal does not count yet: {cause}");
                for (_, outcome) in outcomes.iter_mut().filter(|(_, outcome)| refused(outcome)) {
                    if let DeliveryOutcome::Refused(said) = outcome {
                        *outcome = DeliveryOutcome::Deferred(said.clone());
                    }
                }
                None
            }
        }
    }

    /// What the relay said, but for refusals that are no word about any recipient: those wait.
    fn believed(&self, owed: &QueuedItem, fates: Vec<Fate>) -> Vec<Fate> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = owed.waiting.iter().zip(&fates);
        let relay = self.pool.settings.name();
        let item = (owed.id(), owed.item.kind);
        if !refusals.note(item, answers, Instant::now(), &relay) {
            return fates;
        }
        let wait = |fate| match fate {
            Fate::Refused(reply) => Fate::Later(format!("{EVERYTHING}{reply}")),
            fate => fate,
        };
        fates.into_iter().map(wait).collect()
    }

    fn reached(&self) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failures) = pace.reached(Instant::now(), self.pool.open_connections()) {
            gauge!("copyist_relay_up").set(1.0);
            info!(
                "relay {} answers again after {failures} failures",
                self.pool.settings.name()
            );
        }
    }

    /// The relay was not reached. That is nobody's fault among the items: this one is due again as
    /// soon as the relay is tried again.
    fn put_off(&self, owed: &QueuedItem, unreached: &RelayError) -> DeliveryResult {
        let now = SystemTime::now();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.failed(Instant::now(), self.pool.open_connections()) {
            gauge!("copyist_relay_up").set(0.0);
            warn!("{unreached}; what is owed waits, and the relay is tried again");
        }
        let outcome = |address: &Address| {
            (
                address.clone(),
                DeliveryOutcome::Deferred(unreached.to_string()),
            )
        };
        DeliveryResult {
            outcomes: owed.waiting.iter().map(outcome).collect(),
            next_attempt: now,
            ndr: None,
            ndr_limit: None,
            relay_reached: false,
        }
    }

    /// Writes it down, again and again if need be: an item whose delivery is not written down would
    /// be sent again and again instead. A spool that has failed ends the process, and with it this.
    async fn record(&self, id: &ItemId, result: DeliveryResult) {
        loop {
            let recorded = self
                .spool
                .record(id, result.clone(), SystemTime::now())
                .await;
            match recorded {
                Ok(recorded) => return told(id, &result, recorded),
                Err(cause) => error!(item = %id, "what came of it cannot be written down: {cause}"),
            }
            if self.spool.is_failed() {
                return;
            }
            tokio::time::sleep(REST).await;
        }
    }
}

/// How many NDRs about items of this kind one address gets within an hour, before the rest is told
/// by a digest. The sender of a message hears of each recipient that it did not reach.
fn ndr_limit(kind: Kind) -> Option<u32> {
    match kind {
        Kind::Report | Kind::Copy => Some(NDRS_WITHIN_AN_HOUR),
        Kind::Version | Kind::Ndr => None,
    }
}

/// Says how a refusal is told.
fn told(id: &ItemId, result: &DeliveryResult, recorded: NdrStatus) {
    let Some(ndr) = &result.ndr else { return };
    let refused = result.outcomes.iter();
    let refused = refused.filter(|(_, outcome)| matches!(outcome, DeliveryOutcome::Refused(_)));
    let refused = refused.count() as u64;
    if recorded == NdrStatus::Pending {
        counter!("copyist_dead_letters_total").increment(refused);
        counter!("copyist_refusals_collected_total").increment(refused);
        error!(
            item = %id, refused,
            "no NDR, there were {NDRS_WITHIN_AN_HOUR} within the hour: kept as a dead letter, and a digest will tell"
        );
    } else if recorded == NdrStatus::Queued {
        counter!("copyist_ndrs_total").increment(1);
        info!(item = %id, ndr = %ndr.id, "the NDR is owed");
    }
}

/// Whether somebody's mail waits for longer than its sender may be left without news (RFC 5321
/// section 4.5.4.1). What is journaled waits for ever.
fn is_too_late(owed: &QueuedItem, now: SystemTime) -> bool {
    let waited = now.duration_since(owed.received).unwrap_or_default();
    owed.item.kind == Kind::Version && waited > VERSION_WAITS && owed.attempts >= VERSION_TRIES
}

fn word(outcome: &DeliveryOutcome) -> &'static str {
    match outcome {
        DeliveryOutcome::Delivered => "delivered",
        DeliveryOutcome::Deferred(_) => "waiting",
        DeliveryOutcome::Refused(_) => "refused",
        DeliveryOutcome::Dead(_) => "dead",
    }
}

/// From 0 to 1; the middle where the system has no random numbers, since this is no secret.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
