//! What the hooks need to know; built by `config`.

use super::Listen;

/// Settings of the hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the milter listens.
    pub milter: Vec<Listen>,
}
