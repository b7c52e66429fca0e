//! TLS errors in words.

use std::borrow::Cow;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use crate::mail::rfc3339;

/// Whether a handshake failed because of TLS itself, and not because the connection was lost.
pub fn is_tls_error(error: &io::Error) -> bool {
    let cause = error.get_ref();
    cause.is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

/// Returns a TLS library's message with certificate errors explained: three of them have a name
/// only, and times are seconds since 1970.
pub fn explain_certificate_error(message: &str) -> String {
    with_dates(message).replace(
        "Other(OtherError(CaUsedAsEndEntity))",
        "the certificate belongs to an authority or is self-signed, and is not a server certificate (CaUsedAsEndEntity)",
    )
    .replace(
        "certificate: BadSignature",
        "certificate: its issuer has the name of a trusted authority, but a different key (BadSignature)",
    )
    .replace(
        "certificate: UnknownIssuer",
        "certificate: not issued by a trusted authority (UnknownIssuer); set ca_file to the issuing authority",
    )
}

/// Replaces "verification time 1764547200 (UNIX)" and "valid after 1764547200" by dates.
fn with_dates(message: &str) -> String {
    if !message.contains("verification time ") {
        return message.to_owned();
    }
    let words = message
        .split(' ')
        .filter(|word| !word.starts_with("(UNIX)"));
    let mut dated = Vec::new();
    for word in words {
        let is_time = dated
            .last()
            .is_some_and(|before| matches!(before, Cow::Borrowed("time" | "after" | "before")));
        let seconds = word.parse().ok().filter(|_| is_time);
        let at = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        dated.push(match at {
            Some(at) => Cow::Owned(rfc3339(at)),
            None => Cow::Borrowed(word),
        });
    }
    dated
        .join(" ")
        .replace(" but certificate", ", but the certificate")
}
