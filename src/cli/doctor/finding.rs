//! A finding and its severity.

use serde::Serialize;

/// The severity of a finding, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// A possible improvement; does not affect the exit status.
    Hint,
    /// Mail is unnecessarily deferred, rejected, copied twice or changed.
    Warning,
    /// Mail can pass without a copy, or copies can be lost.
    Error,
}

/// A problem and its fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The name, which scripts rely on: `non-smtpd-milters-missing`.
    pub(super) name: &'static str,
    pub(super) severity: Severity,
    /// A parameter of main.cf, a service of master.cf, a key of the configuration, a file or a server.
    #[serde(rename = "where")]
    pub(super) place: String,
    /// The value or state found.
    pub(super) seen: String,
    /// The consequence for mail.
    pub(super) why: String,
    /// A command, or a line for the configuration.
    pub(super) fix: String,
}

impl Severity {
    pub(super) fn word(self) -> &'static str {
        match self {
            Severity::Hint => "hint",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

impl Finding {
    /// Returns the finding and its fix as lines.
    pub(super) fn to_lines(&self) -> [String; 2] {
        let Finding {
            name,
            severity,
            place,
            seen,
            why,
            fix,
        } = self;
        let word = severity.word();
        [
            format!("{word:<7} {name}: {place}: {seen}: {why}"),
            format!("        fix: {fix}"),
        ]
    }
}
