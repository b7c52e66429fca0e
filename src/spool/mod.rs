//! What is owed.

mod settings;

pub use settings::Settings;
