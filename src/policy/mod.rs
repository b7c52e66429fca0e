//! Rules and the plan: who must get a copy of a message, and why. Pure: no clock, socket or disk.

mod guard;
mod plan;
mod rules;
#[cfg(test)]
mod tests;

pub use guard::{
    Admission, admission, configured_targets, guarded, is_ndr, waits_for_the_directory,
};
pub use plan::{
    Copy, MOST_TARGETS, People, Plan, Reason, Resolved, Trouble, Undecided, direction, exempting,
    identities, is_exempt, plan, questions, sender_is_ours, targets,
};
pub use rules::{
    AttributeOf, Direction, DirectionRules, DomainPattern, Format, FoundDomains, Guard,
    JournalWhat, OnFailure, Organization, Rules,
};
