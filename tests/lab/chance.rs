//! Random numbers that come again: a run is repeated by its seed.

use std::ops::Range;
use std::time::{Duration, SystemTime};

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub struct Chance(u64);

impl Chance {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// The numbers of the seed in the environment (`SEED`), or of the moment; the seed is printed.
    pub fn from_environment() -> Chance {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Chance::from_environment_or(now.map_or(1, |since| since.as_secs()))
    }

    /// The numbers of the seed in the environment, or of this one; the seed is printed.
    pub fn from_environment_or(seed: u64) -> Chance {
        let seed = super::setting("SEED", seed);
        println!("SEED={seed}");
        Chance::new(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the numbers below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    /// A time in this range of milliseconds.
    pub fn millis(&mut self, range: Range<usize>) -> Duration {
        let millis = range.start + self.below(range.len());
        Duration::from_millis(millis as u64)
    }

    /// Puts these into another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for n in (1..all.len()).rev() {
            all.swap(n, self.below(n + 1));
        }
    }
}
