//! Text before and after the body of a message.
//!
//! Promises: pure; every byte outside the edited part stays as it was; a message that cannot be
//! edited with certainty is left as it is.

mod bodies;
mod body;
mod charset;
mod classes;
mod content_type;
mod disclaimer;
mod edit;
mod fingerprint;
mod html;
mod rtf;
mod separate_part;
mod settings;
mod structure;
mod template;
mod transfer;
mod version;

pub use bodies::{Obstacle, Signed};
pub use classes::{Class, Untold, all_questions, classes};
pub use disclaimer::{Wording, WordingError};
pub use edit::{Edited, How, Note, Splice, Text, Texts, apply, edit, header_after};
pub use fingerprint::Mark;
pub use rtf::RtfError;
pub use settings::{DirectionTexts, OnFailure, Settings};
pub use template::TemplateError;
pub use version::{Version, versions};
