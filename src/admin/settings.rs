//! What the admin side needs to know; built by `config`.

use std::net::SocketAddr;

use crate::hook::Clients;

/// Settings of the admin side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where health and metrics are served; nowhere where `None`.
    pub listen: Option<SocketAddr>,
    /// Who may connect.
    pub clients: Clients,
}
