//! Text before and after the body of a message.
//!
//! Promises: pure; every byte outside the edited part stays as it was; a message that cannot be
//! edited with certainty is left as it is.

mod beside;
mod body;
mod charset;
mod content_type;
mod edit;
mod html;
mod mark;
mod owed;
mod place;
mod rtf;
mod settings;
mod structure;
mod template;
mod transfer;
mod version;
mod wording;

pub use edit::{Edited, How, Note, Splice, Text, Texts, apply, edit, header_after};
pub use mark::Mark;
pub use owed::{Class, Untold, all_questions, classes};
pub use place::{Obstacle, Signed};
pub use rtf::RtfError;
pub use settings::{DirectionTexts, OnFailure, Settings};
pub use template::TemplateError;
pub use version::{Version, versions};
pub use wording::{Wording, WordingError};
