//! Reaching a server: its addresses, TCP, TLS, and what its certificates are worth.

mod addresses;
mod expiry;
mod prompt;
mod tls;
mod unencrypted;

pub use addresses::{ReachError, Server};
pub use expiry::{Expiry, not_after};
pub use prompt::PromptTcp;
pub use tls::{
    TlsError, certificate_fault, is_tls_fault, tls_client_config, unchecked_tls_client_config,
};
pub use unencrypted::Unencrypted;
