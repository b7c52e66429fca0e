//! Short forms of the long proofs in `tests/proof`: load, kills, hostile clients, endurance.

#[path = "../lab/mod.rs"]
mod lab;

use std::sync::{LockResult, Mutex, MutexGuard};

mod chaos;
mod endurance;
mod hostile;
mod listener_speed;
mod load;
mod soak;
mod speed;

static ALONE: Mutex<()> = Mutex::new(());

/// Waits until no other test of this program runs: they measure, and load the machine.
fn alone() -> LockResult<MutexGuard<'static, ()>> {
    ALONE.lock()
}
