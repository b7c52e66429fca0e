//! Explanations without a message: what would be journaled, and where each person is journaled.
//! Reads the directory; sends and stores nothing.

mod coverage;
mod explain;

pub use coverage::{AddressProblem, Coverage, Person, Summary, Value};
pub use explain::{Copy, Explanation, ForRecipient, Object, Step, Target, envelope, explain};
