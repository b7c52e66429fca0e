//! Delivery to relays: replies, TLS, bounces, loops.

#[path = "bench.rs"]
mod bench;
#[path = "faulty.rs"]
mod faulty;
#[path = "../lab/mod.rs"]
mod lab;

mod deliver;
mod deliver_faults;
mod loops;
mod relays;
mod tls;
