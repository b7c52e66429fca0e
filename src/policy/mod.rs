//! Rules and the plan: the journal addresses that get a copy of a message, and the reasons. Pure:
//! no clock, socket or disk.

mod context;
mod guard;
mod plan;
mod rules;
#[cfg(test)]
mod tests;

pub use context::{ClientTrust, Context, recipient_query};
pub use guard::{
    Admission, admission, configured_targets, guard_settings, guard_waits, guards_attributes,
    is_guarding, is_ndr,
};
pub use plan::{
    InvalidTarget, JournalCopy, MAX_TARGETS, Plan, PlanBuilder, PlanError, Reason, ResolvedTargets,
};
pub use rules::{
    AttributeOf, Direction, DirectionRules, Format, Guard, JournalWhat, MapNames, OnFailure,
    Organization, Rules,
};
