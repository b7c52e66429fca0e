//! Text before and after the body of a message.
//!
//! Promises: pure; every octet outside the edited part stays as it was; a message that cannot be edited with
//! certainty is left as it is.

mod beside;
mod body;
mod charset;
mod content_type;
mod edit;
mod html;
mod mark;
mod place;
mod structure;
mod transfer;

pub use edit::{Edited, How, Note, Splice, Text, Texts, apply, edit};
pub use mark::Mark;
pub use place::{Obstacle, Signed};
