//! Answers to questions about no message: what would be journaled to whom, and who is. Asks the
//! directory, and nothing is sent or kept.

mod coverage;
mod explain;

pub use coverage::{AddressProblem, Coverage, Person, Summary, Value};
pub use explain::{Copy, Explanation, ForRecipient, Object, Step, Target, envelope, explain};
