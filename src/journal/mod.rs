//! What is written: journal report, plain copy, NDR, and the seal that tells our own from
//! forgeries.
//!
//! Promises: the original stands in each of them byte for byte, but for the names of some fields of
//! a plain copy ([`inert()`]); nothing that a stranger wrote can add a line to the envelope part or
//! a header to a report. No I/O but the key file and the system's random numbers.

mod composer;
mod digest;
mod fields;
mod inert;
mod item;
mod key;
mod ndr;
mod notice;
mod parts;
mod report;
mod seal;
mod settings;
mod seven_bit;
#[cfg(test)]
mod tests;
mod token;

pub use composer::{ComposeError, Composer, ComposerHandle};
pub use fields::is_ours;
pub use inert::inert;
pub use item::{Collected, Dsn, Item, ItemId, Kind, Refusal, Undelivered};
pub use key::{Key, KeyError};
pub use notice::Bounce;
pub use seal::{Flaw, Seal, Sealed, Sort, State};
pub use settings::Settings;
pub use seven_bit::seven_bit;
