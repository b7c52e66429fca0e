//! HTTP: health and metrics.

mod settings;

pub use settings::Settings;
