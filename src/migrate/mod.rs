//! The settings of what did this work before → Copyist's, as the text of a commented configuration.
//!
//! Promises: pure, nothing is read or asked here; the text is a configuration that `copyist check`
//! accepts (files that it names must be there); what was guessed stands in it behind the words FILL
//! IN, and that and whatever could not be translated is among the [`Remark`]s. No password comes in
//! or goes out.
//!
//! | file | owns |
//! |---|---|
//! | `registry` | the Internet Mail Service Extension of Exchange 5.5, from an exported registry key |
//! | `postfix` | `always_bcc` and the BCC maps of Postfix |
//! | `site` | what neither of them knows |
//! | `draft` | how the text is written |
//! | `sections` | the sections that both write alike |

mod draft;
pub mod postfix;
mod registry;
mod sections;
mod site;

use std::fmt;

pub use registry::registry;
pub use site::{Site, SiteError};

/// A configuration that was made of other settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The text of the file.
    pub config: String,
    /// What a person must know of it, in the order of the file.
    pub remarks: Vec<Remark>,
}

/// What a person must know of a configuration that was made of other settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// Something was guessed, and has to be looked at.
    FillIn(String),
    /// Something of the other settings is not in the configuration, for nothing of Copyist's is
    /// like it.
    NoEquivalent(String),
    /// Something will be other than it was.
    Note(String),
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, text) = match self {
            Remark::FillIn(text) => ("fill in", text),
            Remark::NoEquivalent(text) => ("no equivalent", text),
            Remark::Note(text) => ("note", text),
        };
        write!(f, "{kind}: {text}")
    }
}
