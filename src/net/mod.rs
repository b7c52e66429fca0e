//! Reaching a server: TCP, TLS, and what its certificates are worth.

mod expiry;
mod prompt;
mod tls;

pub use expiry::{Expiry, not_after};
pub use prompt::PromptTcp;
pub use tls::{TlsError, certificate_fault, tls_client_config, unchecked_tls_client_config};
