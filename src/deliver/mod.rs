//! Item → relay → outcome per recipient.

mod settings;

pub use settings::{Login, RelaySettings, Retry, Settings, Tls};
