//! Rules and the plan: who must get a copy of a message, and why. Pure: no clock, socket or disk.

mod guard;
mod plan;
mod rules;
#[cfg(test)]
mod tests;

pub use guard::{
    Admission, admission, configured_targets, guard_settings, guard_waits, guards_attributes,
    is_guarding, is_ndr,
};
pub use plan::{
    Copy, MOST_TARGETS, Pairs, Plan, Reason, Resolved, Standing, Trouble, Undecided,
    asks_for_authors, direction, identities, pairs, questions, recipient_question, sender_is_ours,
    standing,
};
pub use rules::{
    AttributeOf, Direction, DirectionRules, Format, Guard, JournalWhat, MapNames, OnFailure,
    Organization, Rules,
};
