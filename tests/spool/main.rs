//! The spool under kills, power cuts, full disks and damage.

#[path = "../lab/mod.rs"]
mod lab;
#[path = "mod.rs"]
mod spool;

mod power_agent;
mod spool_crash;
mod spool_damage;
mod spool_full;
mod spool_points;
mod spool_power;

/// The process that is killed, stopped or loses its power.
#[test]
#[ignore = "other tests run it as a process of its own"]
fn child() {
    spool::child();
}
