//! Delivery of queued items: item → relay → outcome per recipient → recorded result, NDR or dead
//! letter. Promises: an item is tried until each recipient has it, an NDR about it is durable, or
//! it is a dead letter; reports and copies never expire. A report that is sent twice after a crash
//! has the same Message-ID.

mod channel;
mod connection;
mod open;
mod pool;
mod probe;
mod refusals;
mod schedule;
mod settings;
mod wire;
mod worker;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use connection::fuzzing;
pub use open::RelayError;
pub use probe::{ProbeReport, probe, refusals};
pub use settings::{Login, RelaySettings, Retry, Settings, Tls};
pub use worker::run;
