//! The settings of imsext or Postfix → a commented configuration of Copyist.
//!
//! Pure: reads no files and asks no servers. `copyist check` accepts the result if the files it names
//! exist. Guesses are marked FILL IN; these and everything without an equivalent are among the
//! [`Remark`]s. No password goes in or out.
//!
//! | file | owns |
//! |---|---|
//! | `registry` | the Internet Mail Service Extension of Exchange 5.5, from an exported registry key |
//! | `postfix` | `always_bcc` and the BCC maps of Postfix |
//! | `site` | the facts that neither of them contains |
//! | `draft` | writing the text |
//! | `sections` | the sections that both share |

mod draft;
pub mod postfix;
mod registry;
mod sections;
mod site;

use std::fmt;

pub use registry::registry;
pub use site::{Site, SiteError};

/// A configuration translated from other settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The text of the file.
    pub config: String,
    /// Remarks for the administrator, in the order of the file.
    pub remarks: Vec<Remark>,
}

/// A remark on a translated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// A guess that must be checked.
    FillIn(String),
    /// A setting without an equivalent in Copyist.
    NoEquivalent(String),
    /// A change in behavior.
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
