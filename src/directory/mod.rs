//! Who an address belongs to, as the organization's directory says.
//!
//! Promises: one answer per question; never mistakes an outage for a missing entry.

mod cache;
mod entry;
mod file;
mod handle;
mod ldap;
mod ldif;
mod question;
mod settings;
mod source;
mod target;

pub use entry::{Entry, Lookup, Outage};
pub use file::LdifFileError;
pub use handle::{Directory, Health, OpenError, Probe};
pub use ldap::{LdapError, TlsError, UrlError};
pub use ldif::{LdifError, LdifFault};
pub use question::AttributeError;
pub use settings::{Bind, CacheSettings, LdapSettings, Settings, Source};
pub use source::Objects;
pub use target::{Target, TargetError};
