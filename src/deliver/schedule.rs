//! When a failed attempt is repeated. Pure.
//!
//! What must outlive the process (when an item is due) is told in the system's time, which may
//! jump; what need not (when the relay is tried again) in that of [`Instant`], which does not.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Retry;

/// When to try again after `attempts` (at least one) attempts: `first`, then twice as long each
/// time up to `max`, for ever. `jitter` from 0 to 1 spreads it by a fifth either way, so that what
/// failed together does not come back together.
pub(super) fn next_attempt(
    retry: Retry,
    attempts: u32,
    now: SystemTime,
    jitter: f64,
) -> SystemTime {
    let doublings = attempts.saturating_sub(1).min(30);
    let wait = retry.first.saturating_mul(1 << doublings).min(retry.max);
    now + wait.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
}

/// The latest time that [`next_attempt`] gives now, and a minute. Whatever is due later was written
/// by another clock, or under another schedule, and is due now: an item must not wait for ten years
/// because the clock was ahead by so many.
pub(super) fn latest(retry: Retry, now: SystemTime) -> SystemTime {
    now + retry.max.mul_f64(1.2) + Duration::from_secs(60)
}

/// What is known of the relay as a whole. While it cannot be reached, items do not burn their
/// attempts on it one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Reach {
    /// It answered last time, or was not tried yet.
    #[default]
    Up,
    /// It did not, this many times in a row; one item may try it at `again`.
    Down {
        /// Failures in a row.
        failures: u32,
        /// When it is tried again.
        again: Instant,
    },
}

impl Reach {
    /// After a failure to reach it.
    pub(super) fn failed(self, now: Instant) -> Reach {
        const FIRST: Duration = Duration::from_secs(1);
        const MAX: Duration = Duration::from_secs(60);
        let failures = match self {
            Reach::Up => 1,
            // Attempts that were under way together count once.
            Reach::Down { again, .. } if again > now => return self,
            Reach::Down { failures, .. } => failures.saturating_add(1),
        };
        let wait = FIRST.saturating_mul(1 << (failures - 1).min(10)).min(MAX);
        Reach::Down {
            failures,
            again: now + wait,
        }
    }
}

/// How long nothing is added to the connections that a relay takes, after it refused one more.
const CONTENT: Duration = Duration::from_secs(60);

/// How much is sent to the relay at a time. It begins with one connection, and each item that
/// reaches the relay adds one (as does Postfix's positive feedback), until the relay refuses one
/// while it keeps others: that many it takes, and one more is tried a minute later.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) reach: Reach,
    /// Connections at a time, now.
    window: usize,
    /// Connections at a time, ever.
    most: usize,
    /// Until when the window does not grow.
    content: Option<Instant>,
}

impl Pace {
    pub(super) fn new(most: usize) -> Pace {
        Pace {
            reach: Reach::Up,
            window: 1,
            most,
            content: None,
        }
    }

    /// Connections at a time.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// An item reached the relay, and so many connections are open. Gives how often it had not been
    /// reached before, where it had not. Nothing is added before the relay took what was added
    /// last.
    pub(super) fn reached(&mut self, now: Instant, open: usize) -> Option<u32> {
        let may_grow = self.content.is_none_or(|until| until <= now) && open >= self.window;
        if may_grow && self.window < self.most {
            self.window += 1;
            // One more after each pause.
            self.content = self.content.map(|_| now + CONTENT);
        }
        match std::mem::take(&mut self.reach) {
            Reach::Up => None,
            Reach::Down { failures, .. } => Some(failures),
        }
    }

    /// A connection was not made, while so many others are open. Gives whether the relay is away
    /// now and was not before.
    pub(super) fn failed(&mut self, now: Instant, open: usize) -> bool {
        if open > 0 && self.reach == Reach::Up {
            self.window = self.window.min(open);
            self.content = Some(now + CONTENT);
            return false;
        }
        let was_up = self.reach == Reach::Up;
        self.reach = self.reach.failed(now);
        (self.window, self.content) = (1, None);
        was_up
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const RETRY: Retry = Retry {
        first: Duration::from_secs(60),
        max: Duration::from_secs(4 * 3600),
    };

    fn wait(attempts: u32, jitter: f64) -> u64 {
        let next = next_attempt(RETRY, attempts, UNIX_EPOCH, jitter);
        next.duration_since(UNIX_EPOCH).expect("later").as_secs()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_never_end() {
        let waits: Vec<u64> = (1..=10).map(|attempts| wait(attempts, 0.5)).collect();
        assert_eq!(
            waits,
            [60, 120, 240, 480, 960, 1920, 3840, 7680, 14400, 14400]
        );
        assert_eq!(wait(u32::MAX, 0.5), 14400);
    }

    #[test]
    fn jitter_spreads_by_a_fifth() {
        assert_eq!((wait(1, 0.0), wait(1, 1.0), wait(1, 9.0)), (48, 72, 72));
    }

    #[test]
    fn no_schedule_sets_anything_later_than_the_latest() {
        for attempts in [1, 9, u32::MAX] {
            let next = next_attempt(RETRY, attempts, UNIX_EPOCH, 1.0);
            assert!(next < latest(RETRY, UNIX_EPOCH), "{attempts}");
        }
    }

    #[test]
    fn a_relay_with_a_connection_limit_gets_one_more_a_minute() {
        let now = Instant::now();
        let mut pace = Pace::new(20);
        let mut windows = vec![pace.window()];
        for open in [1, 1, 2, 3, 3] {
            assert_eq!(pace.reached(now, open), None);
            windows.push(pace.window());
        }
        assert_eq!(windows, [1, 2, 2, 3, 4, 4]);
        // It keeps two and refuses two, which is no reason to call it away.
        assert!(!pace.failed(now, 2) && !pace.failed(now, 2));
        for second in 0..180 {
            pace.reached(now + Duration::from_secs(second), 4);
        }
        assert_eq!((pace.window(), pace.reach), (4, Reach::Up));
    }

    #[test]
    fn a_relay_that_is_back_gets_more_with_each_item() {
        let now = Instant::now();
        let mut pace = Pace::new(3);
        pace.failed(now, 1);
        assert!(pace.failed(now, 0), "it is away");
        assert!(!pace.failed(now, 0), "that is known");
        assert_eq!(pace.window(), 1);
        assert_eq!(pace.reached(now, 1), Some(1));
        let more: Vec<_> = (2..5)
            .map(|open| {
                pace.reached(now, open);
                pace.window()
            })
            .collect();
        assert_eq!(more, [3, 3, 3]);
    }

    #[test]
    fn a_relay_that_is_away_is_tried_again_and_again() {
        let mut now = Instant::now();
        let mut reach = Reach::Up;
        let mut waits = Vec::new();
        for _ in 0..8 {
            reach = reach.failed(now);
            assert_eq!(
                reach.failed(now),
                reach,
                "attempts under way together count once"
            );
            let Reach::Down { again, .. } = reach else {
                panic!("{reach:?}")
            };
            waits.push(again.duration_since(now).as_secs());
            now = again;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
