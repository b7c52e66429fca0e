//! Disclaimers: text before and after the body of a message.
//!
//! Promises: pure; every byte outside the edited parts stays unchanged; a message that cannot be
//! edited safely is left unchanged.

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

pub use bodies::{Obstacle, SignedPolicy};
pub use classes::{RecipientClass, TextSelectionError, all_queries, classes};
pub use disclaimer::{Disclaimer, DisclaimerError};
pub use edit::{
    EditMethod, MessageEdit, PartEdit, Splice, Text, Texts, apply, edit, edited_header_size,
};
pub use fingerprint::Fingerprint;
pub use rtf::RtfError;
pub use settings::{DirectionTexts, OnFailure, Settings};
pub use template::TemplateError;
pub use version::{Version, versions};
