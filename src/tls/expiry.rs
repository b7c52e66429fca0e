//! Warnings of server certificates that expire soon.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::gauge;
use tokio::time::Instant;
use tracing::warn;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Remaining validity below which a certificate is warned of. Certificates of 90 days are renewed
/// after 60, so that one with three weeks left was forgotten.
const WARN_BEFORE: Duration = Duration::from_secs(21 * 24 * 3600);

/// Expiry of the certificates of one kind of server: sets the gauge, and warns once a day.
#[derive(Debug)]
pub struct ExpiryMonitor {
    peer: &'static str,
    /// Time of the last warning for each server.
    warned: Mutex<HashMap<String, Instant>>,
}

impl ExpiryMonitor {
    /// Creates a monitor for this kind of server: "directory" or "relay".
    pub fn new(peer: &'static str) -> ExpiryMonitor {
        ExpiryMonitor {
            peer,
            warned: Mutex::default(),
        }
    }

    /// Records until when a server's certificate is valid: sets the gauge
    /// `copyist_certificate_expires_seconds` (in seconds since 1970), and warns once a day if that
    /// is soon. Returns whether it warned.
    pub fn record(&self, server: &str, until: SystemTime) -> bool {
        let seconds = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!("copyist_certificate_expires_seconds", "peer" => self.peer, "server" => server.to_owned())
            .set(seconds.as_secs_f64());
        // An expired one belongs to no connection any more, or is not checked.
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        if left >= WARN_BEFORE {
            return false;
        }
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.get(server).is_some_and(|at| at.elapsed() < DAY) {
            return false;
        }
        warned.insert(server.to_owned(), Instant::now());
        let days = left.as_secs() / DAY.as_secs();
        warn!(
            peer = self.peer,
            server, "the server's certificate expires in {days} days: renew it"
        );
        true
    }
}

/// Returns the end of the validity of a certificate in DER (RFC 5280 section 4.1.2.5); `None` if
/// the certificate cannot be parsed.
pub fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn expiry_is_warned_of_once_a_day_for_each_server() {
        let expiry = ExpiryMonitor::new("relay");
        let now = SystemTime::now();
        assert!(!expiry.record("a:25", now + 22 * DAY));
        assert!(expiry.record("a:25", now + 20 * DAY));
        assert!(!expiry.record("a:25", now + 20 * DAY), "already warned");
        assert!(expiry.record("b:25", now + DAY));
        tokio::time::advance(DAY).await;
        assert!(expiry.record("a:25", now + 20 * DAY), "a day is over");
        assert!(expiry.record("b:25", now - DAY), "expired, not checked");
        assert!(!expiry.record("a:25", now + 90 * DAY), "renewed");
    }

    #[test]
    fn invalid_certificates_have_no_expiry() {
        for bytes in [&b""[..], b"\x30\x03\x02\x01", &[0x30; 5000]] {
            assert_eq!(not_after(bytes), None);
        }
    }
}
