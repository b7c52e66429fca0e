//! When the certificates of servers expire, told before they do.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::gauge;
use tokio::time::Instant;
use tracing::warn;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long before its end a certificate is warned of: authorities whose certificates last for 90
/// days replace them after 60, so that one with three weeks left was forgotten.
const WARNED_BEFORE: Duration = Duration::from_secs(21 * 24 * 3600);

/// What is known of the certificates of one kind of server.
#[derive(Debug)]
pub struct Expiry {
    peer: &'static str,
    /// When each server's was warned of last.
    warned: Mutex<HashMap<String, Instant>>,
}

impl Expiry {
    /// Of these servers: "directory" or "relay".
    pub fn of(peer: &'static str) -> Expiry {
        Expiry {
            peer,
            warned: Mutex::default(),
        }
    }

    /// A server's certificate, in DER, is valid until then: the gauge
    /// `copyist_certificate_expires_seconds` says when (in seconds since 1970), and the log says so
    /// once a day where that is soon. Tells whether it did now.
    pub fn tell(&self, server: &str, until: SystemTime) -> bool {
        let seconds = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!("copyist_certificate_expires_seconds", "peer" => self.peer, "server" => server.to_owned())
            .set(seconds.as_secs_f64());
        // One that is over already is no connection's any more, or nobody wants it checked.
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        if left >= WARNED_BEFORE {
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
            server, "the server's certificate expires in {days} days: have it renewed"
        );
        true
    }
}

/// When the validity of a certificate in DER ends (RFC 5280 section 4.1.2.5); `None` where it
/// cannot be read.
pub fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_expires_soon_is_warned_of_once_a_day_and_for_each_server() {
        let expiry = Expiry::of("relay");
        let now = SystemTime::now();
        assert!(!expiry.tell("a:25", now + 22 * DAY));
        assert!(expiry.tell("a:25", now + 20 * DAY));
        assert!(!expiry.tell("a:25", now + 20 * DAY), "it was told");
        assert!(expiry.tell("b:25", now + DAY));
        tokio::time::advance(DAY).await;
        assert!(expiry.tell("a:25", now + 20 * DAY), "a day is over");
        assert!(expiry.tell("b:25", now - DAY), "expired, and not checked");
        assert!(!expiry.tell("a:25", now + 90 * DAY), "it was renewed");
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        for bytes in [&b""[..], b"\x30\x03\x02\x01", &[0x30; 5000]] {
            assert_eq!(not_after(bytes), None);
        }
    }
}
