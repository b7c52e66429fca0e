//! Shared by the crash tests of the spool: messages identified by their number, a process that
//! commits them and prints the acknowledgements, file systems that are cut off, and a book of the
//! acknowledgements.
//!
//! Everything goes through the public [`Spool`](copyist::spool::Spool), on which the hook relies.
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

pub use book::{Book, Progress};
pub use disk::{Disk, FileSystem, Image};
pub use messages::{Act, Shape, act, act_on, commit, id, items, settings, shape};
pub use power::{Dice, Figures, Pace, Proof};
pub use process::{Strace, WorkerProcess, start};
pub use steps::{Calls, Run, Stage, SystemCalls, count};
pub use worker::{Orders, child};
