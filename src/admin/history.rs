//! The last 24 hours, minute by minute, in memory. A restart clears them; the page shows since when
//! there is data.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::metrics::Metrics;
use crate::policy::Direction;
use crate::spool::QueueCounts;

/// The interval of samples.
pub(super) const EVERY: Duration = Duration::from_secs(60);
/// The number of samples kept, plus one to compare the oldest with.
const KEPT: usize = 24 * 60 + 1;
/// The period shown on the page.
pub(super) const SPAN: Duration = Duration::from_secs(24 * 3600);

/// The values at one moment. Counters start with the process.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// The time of the sample.
    pub(super) at: SystemTime,
    /// Messages of each direction, in the order of [`Direction::ALL`].
    pub(super) mail: [u64; 3],
    /// Journaled messages of each direction.
    pub(super) journaled: [u64; 3],
    /// Deferred messages by reason.
    pub(super) deferred: BTreeMap<String, u64>,
    /// Deliveries accepted by the relay.
    pub(super) delivered: u64,
    /// Queue counts; `None` if the spool could not be read.
    pub(super) census: Option<QueueCounts>,
}

impl Sample {
    /// Returns a sample in which nothing is counted yet.
    pub(super) fn empty(at: SystemTime) -> Sample {
        Sample {
            at,
            mail: [0; 3],
            journaled: [0; 3],
            deferred: BTreeMap::new(),
            delivered: 0,
            census: None,
        }
    }

    /// Takes a sample of the metrics.
    pub(super) fn read(metrics: &Metrics, census: Option<QueueCounts>, at: SystemTime) -> Sample {
        let mut sample = Sample::empty(at);
        for series in metrics.counters("copyist_messages_total") {
            let is_named = |direction: &Direction| direction.name() == series.label("direction");
            if let Some(index) = Direction::ALL.iter().position(is_named) {
                sample.mail[index] += series.value;
                if series.label("journaled") == "yes" {
                    sample.journaled[index] += series.value;
                }
            }
        }
        let deferred = metrics.counters("copyist_messages_deferred_total");
        let deferred = deferred.iter();
        sample.deferred = deferred
            .map(|series| (series.label("why").to_owned(), series.value))
            .collect();
        let deliveries = metrics.counters("copyist_deliveries_total");
        let delivered = deliveries.iter();
        let delivered = delivered.filter(|series| series.label("outcome") == "delivered");
        sample.delivered = delivered.map(|series| series.value).sum();
        sample.census = census;
        sample
    }

    /// Returns the number of deferred messages.
    pub(super) fn all_deferred(&self) -> u64 {
        self.deferred.values().sum()
    }

    /// Returns the age of the oldest queued item in seconds; zero if nothing is queued.
    pub(super) fn age(&self) -> Option<u64> {
        let oldest = self.census?.oldest;
        Some(oldest.map_or(0, |oldest| {
            self.at.duration_since(oldest).unwrap_or_default().as_secs()
        }))
    }
}

/// The samples, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Sample>>);

impl History {
    /// Adds a sample.
    pub(super) fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Samples from before the clock was set back are dropped.
        while samples.back().is_some_and(|last| last.at > sample.at) {
            samples.pop_back();
        }
        samples.push_back(sample);
        while samples.len() > KEPT {
            samples.pop_front();
        }
    }

    /// Returns the samples within [`SPAN`] before `now`, and the one before them as the baseline.
    pub(super) fn last_day(&self, now: SystemTime) -> Vec<Sample> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = now.checked_sub(SPAN).unwrap_or(SystemTime::UNIX_EPOCH);
        let older = samples.iter().filter(|sample| sample.at < begin).count();
        let all = samples.iter().skip(older.saturating_sub(1));
        all.cloned().collect()
    }
}

/// The number of parts of a plot: quarters of an hour.
pub(super) const PARTS: usize = 96;

/// Returns the part of the day before `now` that contains a moment.
fn part(at: SystemTime, now: SystemTime) -> Option<usize> {
    let ago = now.duration_since(at).unwrap_or_default();
    let from_end = usize::try_from(ago.as_secs() * PARTS as u64 / SPAN.as_secs()).ok()?;
    (PARTS - 1).checked_sub(from_end)
}

/// Returns the growth of a counter in each part; `None` without data.
pub(super) fn growth(
    samples: &[Sample],
    now: SystemTime,
    of: impl Fn(&Sample) -> u64,
) -> Vec<Option<u64>> {
    let mut parts = vec![None; PARTS];
    for pair in samples.windows(2) {
        let [before, after] = pair else { continue };
        if let Some(place) = part(after.at, now) {
            let grown = of(after).saturating_sub(of(before));
            *parts[place].get_or_insert(0) += grown;
        }
    }
    parts
}

/// Returns the maximum in each part; `None` without data.
pub(super) fn peaks(
    samples: &[Sample],
    now: SystemTime,
    of: impl Fn(&Sample) -> Option<u64>,
) -> Vec<Option<u64>> {
    let mut parts: Vec<Option<u64>> = vec![None; PARTS];
    for sample in samples {
        if let (Some(place), Some(value)) = (part(sample.at, now), of(sample)) {
            parts[place] = Some(parts[place].unwrap_or(0).max(value));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use metrics::{counter, with_local_recorder};

    use super::*;
    use crate::admin::metrics::PageRecorder;

    fn at(minute: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + minute * 60)
    }

    fn sample(minute: u64, inbound: u64) -> Sample {
        let (recorder, metrics) = PageRecorder::new();
        let name = "copyist_messages_total";
        with_local_recorder(&recorder, || {
            counter!(name, "direction" => "inbound", "journaled" => "yes").increment(inbound);
            counter!(name, "direction" => "inbound", "journaled" => "no").increment(1);
            counter!("copyist_messages_deferred_total", "why" => "spool").increment(2);
        });
        Sample::read(&metrics, Some(QueueCounts::default()), at(minute))
    }

    #[test]
    fn growth_is_counted_by_quarters_of_an_hour() {
        let history = History::default();
        for minute in 0..40 {
            history.add(sample(minute, minute * 2));
        }
        let day = history.last_day(at(39));
        let parts = growth(&day, at(39), |sample| sample.journaled[0]);
        assert_eq!(parts.len(), PARTS);
        assert_eq!(parts.iter().flatten().sum::<u64>(), 78, "all of it, once");
        assert_eq!(parts[PARTS - 1], Some(30));
        assert_eq!(parts[PARTS - 4], None, "nothing is known of an hour ago");
    }

    #[test]
    fn a_day_is_kept_and_no_more() {
        let history = History::default();
        for minute in 0..3000 {
            history.add(sample(minute, minute));
        }
        let day = history.last_day(at(2999));
        assert_eq!(day.len(), KEPT);
        let parts = growth(&day, at(2999), |sample| sample.mail[0]);
        assert_eq!(parts.iter().flatten().sum::<u64>(), 24 * 60);
        assert!(parts.iter().all(Option::is_some));
    }

    #[test]
    fn a_clock_set_back_drops_later_samples() {
        let history = History::default();
        for minute in [10, 11, 12, 5, 6] {
            history.add(sample(minute, minute));
        }
        let day = history.last_day(at(6));
        assert!(day.is_sorted_by_key(|sample| sample.at));
        assert_eq!(day.len(), 2);
    }

    #[test]
    fn a_sample_contains_the_metrics() {
        let sample = sample(0, 5);
        assert_eq!((sample.mail, sample.journaled), ([6, 0, 0], [5, 0, 0]));
        assert_eq!(sample.all_deferred(), 2);
        assert_eq!(sample.age(), Some(0));
    }
}
