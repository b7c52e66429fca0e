//! One message from client to journal mailbox.

#[macro_use]
#[path = "../lab/mod.rs"]
mod lab;

mod clock;
mod journey;
mod lab_checks;
mod pipeline;
