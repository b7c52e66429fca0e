//! Error texts for the log and for standard error.

use std::error::Error;

/// Formats an error and its sources on one line. The texts themselves never repeat their source.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
