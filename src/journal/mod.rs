//! What is written: journal report, plain copy, NDR, and the seal that tells our own from forgeries.

mod item;
mod settings;

pub use item::{Item, ItemId, Kind, Refusal};
pub use settings::Settings;
