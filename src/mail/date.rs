//! Dates in the formats of mail and logs, always in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use mail_parser::DateTime;

fn utc(at: SystemTime) -> DateTime {
    let seconds = match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    };
    DateTime::from_timestamp(seconds)
}

/// Formats a date as `Tue, 24 Nov 2026 03:32:21 +0000` (RFC 5322 section 3.3).
pub fn rfc5322(at: SystemTime) -> String {
    utc(at).to_rfc822()
}

/// Formats a date as `2026-11-24T03:32:21Z` (RFC 3339).
pub fn rfc3339(at: SystemTime) -> String {
    utc(at).to_rfc3339()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_have_the_formats_of_the_rfcs() {
        let at = UNIX_EPOCH + Duration::from_secs(1_795_491_141);
        assert_eq!(rfc5322(at), "Tue, 24 Nov 2026 03:32:21 +0000");
        assert_eq!(rfc3339(at), "2026-11-24T03:32:21Z");
    }
}
