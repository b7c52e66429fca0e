//! The section `[log]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The log on standard error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Log {
    /// The format of a line: time, level and the MTA's queue ID first (plain), a JSON object (json),
    /// or a level prefix for systemd's journal without a time (journald). auto is journald if
    /// standard error is the journal, else plain.
    pub(in crate::config) format: LogFormat,
    /// The lowest level logged: a line for each message and delivery (info), only warnings (warn),
    /// or only errors (error). The environment variable COPYIST_LOG overrides it, with the filter
    /// syntax of tracing.
    pub(in crate::config) level: Level,
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `Journald` if standard error is the journal, else `Plain`.
    #[default]
    Auto,
    /// For people and `grep`.
    Plain,
    /// For scripts.
    Json,
    /// For systemd's journal.
    Journald,
}

/// The lowest level logged.
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
    /// Returns the level's name in filters.
    pub(in crate::config) fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}
