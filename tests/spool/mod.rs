//! What the crash proofs of the spool share: messages that can be told by their number, a process
//! that commits them and says what it was promised, file systems that are cut off, and a book of
//! what was promised.
//!
//! Everything goes through the public [`Spool`](copyist::spool::Spool): what is proven is what the
//! hook relies on.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test program compiles all of this and uses a part of it"
)]

mod book;
mod disk;
mod messages;
mod power;
mod process;
mod steps;
mod worker;

pub use book::{Book, Reached};
pub use disk::{Disk, FileSystem, Image};
pub use messages::{Act, Shape, act, act_on, commit, id, items, settings, shape};
pub use power::{Dice, Figures, Pace, Proof};
pub use process::{Started, Strace, start};
pub use steps::{Calls, Run, Seen, Stage, count};
pub use worker::{Orders, child};
