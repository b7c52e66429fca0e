//! What is said about one mistake.

use serde::Serialize;

/// How bad it is; the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Could be better; the exit status does not tell of it.
    Hint,
    /// Mail is deferred, refused, copied twice or altered where it need not be.
    Warning,
    /// Mail can pass without its copy, or the promise cannot be kept.
    Error,
}

/// One mistake, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Its name, which scripts rely on: `non-smtpd-milters-missing`.
    pub(super) name: &'static str,
    pub(super) severity: Severity,
    /// A parameter of main.cf, a service of master.cf, a key of our own file, a file or a server.
    #[serde(rename = "where")]
    pub(super) place: String,
    /// What stands there.
    pub(super) seen: String,
    /// Why that matters: what happens to mail.
    pub(super) why: String,
    /// A command, or what to write where.
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
    /// The finding's line, and below it that of the fix.
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
