//! Rules and the plan: who must get a copy of a message, and why. Pure: no clock, socket or disk.

mod rules;

pub use rules::{
    AttributeOf, Direction, DirectionRules, DomainPattern, Format, Guard, OnFailure, Organization,
    Rules,
};
