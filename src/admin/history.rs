//! The last 24 hours, minute by minute, in memory: a restart forgets them, and the page says since
//! when it knows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::reading::{Line, Reading};
use crate::policy::Direction;
use crate::spool::QueueCounts;

/// How often a sample is taken.
pub(super) const EVERY: Duration = Duration::from_secs(60);
/// How many are kept, and one more to compare the oldest with.
const KEPT: usize = 24 * 60 + 1;
/// How far back the page looks.
pub(super) const SPAN: Duration = Duration::from_secs(24 * 3600);

/// What was so at one moment. Counters count from the start of the process.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// When.
    pub(super) at: SystemTime,
    /// Messages of each direction, in the order of [`Direction::ALL`].
    pub(super) mail: [u64; 3],
    /// Those of them that were journaled.
    pub(super) journaled: [u64; 3],
    /// Messages that were deferred, by why.
    pub(super) deferred: BTreeMap<String, u64>,
    /// Deliveries that the relay took.
    pub(super) delivered: u64,
    /// What is owed; `None` where the spool could not be read.
    pub(super) census: Option<QueueCounts>,
}

impl Sample {
    /// What these say.
    pub(super) fn of(reading: &Reading, census: Option<QueueCounts>, at: SystemTime) -> Sample {
        let mut mail = [0; 3];
        let mut journaled = [0; 3];
        for line in reading.all("copyist_messages_total") {
            let place = |direction: &Direction| direction.name() == line.label("direction");
            if let Some(place) = Direction::ALL.iter().position(place) {
                mail[place] += line.count();
                if line.label("journaled") == "yes" {
                    journaled[place] += line.count();
                }
            }
        }
        let deferred = reading.all("copyist_messages_deferred_total");
        let delivered = reading.all("copyist_deliveries_total");
        Sample {
            at,
            mail,
            journaled,
            deferred: deferred
                .map(|line| (line.label("why").to_owned(), line.count()))
                .collect(),
            delivered: delivered
                .filter(|line| line.label("outcome") == "delivered")
                .map(Line::count)
                .sum(),
            census,
        }
    }

    /// How many were deferred, for whatever reason.
    pub(super) fn all_deferred(&self) -> u64 {
        self.deferred.values().sum()
    }

    /// How old the oldest message was whose report is owed; zero where none is.
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
    /// Adds what is so now.
    pub(super) fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back would leave a knot in the line.
        while samples.back().is_some_and(|last| last.at > sample.at) {
            samples.pop_back();
        }
        samples.push_back(sample);
        while samples.len() > KEPT {
            samples.pop_front();
        }
    }

    /// Those that are not older than [`SPAN`] at `now`, and the one before them, which they count
    /// from.
    pub(super) fn last_day(&self, now: SystemTime) -> Vec<Sample> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = now.checked_sub(SPAN).unwrap_or(SystemTime::UNIX_EPOCH);
        let older = samples.iter().filter(|sample| sample.at < begin).count();
        let all = samples.iter().skip(older.saturating_sub(1));
        all.cloned().collect()
    }
}

/// How many parts a plot has: quarters of an hour.
pub(super) const PARTS: usize = 96;

/// In which part of the day before `now` a moment is.
fn part(at: SystemTime, now: SystemTime) -> Option<usize> {
    let ago = now.duration_since(at).unwrap_or_default();
    let from_end = usize::try_from(ago.as_secs() * PARTS as u64 / SPAN.as_secs()).ok()?;
    (PARTS - 1).checked_sub(from_end)
}

/// How much a counter grew in each part; `None` where nothing is known.
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

/// The most of something in each part.
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
    use super::*;

    fn at(minute: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + minute * 60)
    }

    fn sample(minute: u64, inbound: u64) -> Sample {
        let text = format!(
            "copyist_messages_total{{direction=\"inbound\",journaled=\"yes\"}} {inbound}\n\
             copyist_messages_total{{direction=\"inbound\",journaled=\"no\"}} 1\n\
             copyist_messages_deferred_total{{why=\"spool\"}} 2\n"
        );
        Sample::of(
            &Reading::parse(&text),
            Some(QueueCounts::default()),
            at(minute),
        )
    }

    #[test]
    fn a_counter_s_growth_is_told_by_quarters_of_an_hour() {
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
    fn a_clock_that_is_set_back_leaves_no_knot() {
        let history = History::default();
        for minute in [10, 11, 12, 5, 6] {
            history.add(sample(minute, minute));
        }
        let day = history.last_day(at(6));
        assert!(day.is_sorted_by_key(|sample| sample.at));
        assert_eq!(day.len(), 2);
    }

    #[test]
    fn a_sample_says_what_the_metrics_say() {
        let sample = sample(0, 5);
        assert_eq!((sample.mail, sample.journaled), ([6, 0, 0], [5, 0, 0]));
        assert_eq!(sample.all_deferred(), 2);
        assert_eq!(sample.age(), Some(0));
    }
}
