//! The organization's directory: the owners of addresses, groups, and journal targets.
//!
//! Promises: one answer per lookup, in time; an outage is never mistaken for a missing entry.
//! Errors are [`Lookup::Unavailable`] and, at the start, [`OpenError`].
//!
//! ```text
//! Directory ─► cache ─┬─► ldap: batch ─► servers ─► connection
//!     │          │    └─► file ─► ldif
//!     │      change_log ◄─┐
//!     └─────────────► change_feed ◄─ ldap: feed
//! ```

mod answer_cache;
mod attributes;
mod cache;
mod change_feed;
mod change_log;
pub mod dn;
mod entry;
mod file;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod inheritance;
mod journal_history;
mod ldap;
mod ldif;
mod members;
mod presence;
mod resolve;
mod scan;
mod schema;
mod settings;
mod source;
mod stamp;
mod target;

pub use attributes::AttributeError;
pub use dn::{is_within, key as dn_key};
pub use entry::{Entry, Lookup, Outage};
pub use file::LdifFileError;
pub use handle::{Directory, Health, OpenError};
pub use journal_history::RemovedJournalAttribute;
pub use ldap::{LdapError, UrlError};
pub use ldif::{LdifError, LdifProblem};
pub use members::{AddressRewriter, Members};
pub use presence::{Acceptance, accept_empty};
pub use resolve::{Resolution, ResolvedAddress, ResolvedTarget};
pub use scan::{JournalValue, JournalValues};
pub use settings::{
    AttributeQuery, Bind, CacheSettings, ExpandGroups, Inheritance, LdapSettings, Settings, Source,
    TargetSettings, WatchMode,
};
pub use source::{Objects, ServerProbe};
pub use target::{Target, TargetError, encapsulated_x500_key};
