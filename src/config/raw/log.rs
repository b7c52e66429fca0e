//! The section `[log]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the service says of its work, on standard error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Log {
    /// The form of a line: with a time and its level, the MTA's queue id first (plain), an object
    /// for scripts (json), or with a level that systemd's journal reads, and no time (journald).
    /// Where standard error is the journal, auto is journald, else plain.
    pub(in crate::config) format: LogFormat,
    /// The least of what is told: a line for each message and delivery (info), or only what
    /// somebody should look at (warn), or what is wrong (error). The environment variable
    /// COPYIST_LOG goes before it, with filters as tracing has them.
    pub(in crate::config) level: Level,
}

/// The form of a line of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// As the place asks for.
    #[default]
    Auto,
    /// For people and `grep`.
    Plain,
    /// For scripts.
    Json,
    /// For systemd's journal.
    Journald,
}

/// What is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

impl Level {
    /// Its name in filters.
    pub(in crate::config) fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}
