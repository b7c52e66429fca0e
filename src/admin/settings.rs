//! What the admin side needs to know; built by `config`.

use std::net::SocketAddr;

/// Settings of the admin side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where health and metrics are served; nowhere where `None`.
    pub listen: Option<SocketAddr>,
}
