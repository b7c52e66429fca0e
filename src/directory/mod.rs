//! Who an address belongs to, as the organization's directory says.
//!
//! Promises: one answer per question, in time; never mistakes an outage for a missing entry. Fails
//! only by [`Lookup::Unavailable`], and at the start by [`OpenError`].
//!
//! ```text
//! Directory ─► cache ─┬─► ldap: batch ─► servers ─► connection
//!     │          │    └─► file ─► ldif
//!     │       changes ◄─┐
//!     └───────────────► watch ◄─ ldap: feed
//! ```

mod cache;
mod changes;
pub mod dn;
mod entry;
mod file;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod ldap;
mod ldif;
mod members;
mod memory;
mod people;
mod places;
mod presence;
mod question;
mod resolve;
mod scan;
mod schema;
mod settings;
mod source;
mod stamp;
mod target;
mod watch;

pub use dn::{is_within, key as dn_key};
pub use entry::{Entry, Lookup, Outage};
pub use file::LdifFileError;
pub use handle::{Directory, Health, OpenError};
pub use ldap::{LdapError, UrlError};
pub use ldif::{LdifError, LdifFault};
pub use members::{Members, Rewriting};
pub use people::NoLongerJournaled;
pub use presence::{Accepted, accept_empty};
pub use question::AttributeError;
pub use resolve::{Expansion, Reached, Resolution};
pub use scan::{JournalValue, JournalValues};
pub use settings::{
    Bind, CacheSettings, ExpandGroups, LdapSettings, Places, Settings, Source, TargetSettings,
    ValuesOf, Watch,
};
pub use source::{Objects, Probe};
pub use target::{Target, TargetError, encapsulated_key};
