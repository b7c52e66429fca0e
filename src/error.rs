//! Error texts for the log and for standard error.

use std::error::Error;

/// Formats an error and its sources on one line, each once: some texts end with advice and so
/// contain their source.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
