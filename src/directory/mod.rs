//! Who an address belongs to, as the organization's directory says.
//!
//! Promises: one answer per question; never mistakes an outage for a missing entry.

mod entry;
mod settings;
mod target;

pub use entry::{Entry, Lookup, Outage};
pub use settings::{Bind, CacheSettings, LdapSettings, Settings, Source};
pub use target::{Target, TargetError};
