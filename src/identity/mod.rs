//! Identity: the mailboxes that an address means, and the people behind them.
//!
//! One model for all listeners, the plan, the guard, `explain`, `coverage` and `doctor`. An exact
//! address of a directory object belongs to that object alone. Only without one are other readings
//! tried, in this order: tag removed, extension removed, shared domain, the MTA's reading, login
//! name ([`AddressRules::readings`]). Address maps of the MTA, groups and forwarding lead to
//! further mailboxes.
//!
//! ```text
//! address ─► readings ─► maps ─► directory ─► object ─┬─► a person
//!                 ▲                                   ├─► group ─► members
//!                 └───────────────────────────────────┴─► forwarding
//! ```
//!
//! Promises: an outage of the directory or an unreadable map is never mistaken for "nobody".

mod address_rules;
mod domains;
mod find;
mod guard;
mod path;

pub use address_rules::{AddressRules, Reading, ReadingStep, Readings, local_domain};
pub use domains::{DirectoryDomains, DomainPattern};
pub use find::{
    Identities, IdentityAnswers, IdentityQuery, Owners, Person, TraceStep, exempting_object,
};
pub use guard::{
    GuardSettings, GuardStatus, GuardedMailboxes, JournalMailboxRule, SharedGuard, UnguardedMailbox,
};
pub use path::parse_path;
