//! Item → relay → outcome per recipient → progress, NDR or dead letter.
//!
//! Promises: every item is tried until each of its recipients has it, or an NDR about it is
//! durable, or it is a dead letter; never given up by itself. What a relay took twice after a crash
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
pub use worker::{DigestComposer, NdrComposer, run};
