//! What the writing side needs to know; built by `config`.

use crate::mail::Address;

/// Settings of journal reports and NDRs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The author of reports and NDRs.
    pub report_from: Address,
    /// This machine's name, in Message-IDs and NDRs.
    pub hostname: String,
}
