//! TLS to servers: trust, certificate errors in words, and expiry warnings. Used for the directory,
//! the relay and the next hop.

mod client;
mod error;
mod expiry;
mod unencrypted;

pub use client::{TlsError, client_config, provider, unverified_client_config};
pub use error::{explain_certificate_error, is_tls_error};
pub use expiry::{ExpiryMonitor, not_after};
pub use unencrypted::UnencryptedMonitor;
