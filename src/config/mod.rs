//! File and environment → complete settings of every module.
//!
//! [`load`] returns complete and valid settings that no module has to check again, or a
//! [`ConfigError`] with every problem, not only the first.
//!
//! | file | owns |
//! |---|---|
//! | `raw` | the keys, their defaults and examples: the one list, by section |
//! | `keys` | that list as the JSON schema, and as a table to check against |
//! | `reference` | that list as the settings reference in Markdown |
//! | `layers` | the file, overridden by the environment |
//! | `build` | parses the values and checks that they fit together |
//! | `effective` | the effective value of every key, for display |
//! | `parse`, `files`, `accounts` | one value, one file, one user or group |
//! | `problem` | collecting and printing problems |
//!
//! `config/copyist.toml` explains each key to the administrator; a test compares it with `raw`.

mod accounts;
mod build;
mod effective;
mod files;
mod keys;
mod layers;
pub(crate) mod parse;
pub(crate) mod problem;
mod raw;
mod reference;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::admin::Origin;
use crate::hook::ListenAddress;
use crate::{admin, deliver, directory, hook, journal, policy, spool, text};

pub use keys::json_schema;
pub use problem::{ConfigError, Location, Problem};
pub use raw::LogFormat;
pub use reference::settings_page;

/// The settings of every module.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory that must survive restarts.
    pub state_dir: PathBuf,
    /// Whether `state_dir` may be on a network file system.
    pub allow_remote_fs: bool,
    /// The directory.
    pub directory: directory::Settings,
    /// The journal rules.
    pub rules: policy::Rules,
    /// Disclaimer texts.
    pub text: text::Settings,
    /// Journal reports.
    pub journal: journal::Settings,
    /// The spool.
    pub spool: spool::Settings,
    /// Delivery to the relay.
    pub deliver: deliver::Settings,
    /// Listeners for MTAs.
    pub hook: hook::Settings,
    /// Health, metrics and pages.
    pub admin: admin::Settings,
    /// The effective value of every key, for display.
    pub effective: Arc<admin::EffectiveConfig>,
    /// The log.
    pub log: LogSettings,
}

impl Settings {
    /// Returns the milter's default listener, `None` if `hook.milter.listen` is set. A later version
    /// changes the default: today's is also OpenDKIM's port.
    pub fn milter_by_default(&self) -> Option<&ListenAddress> {
        let mut all = self.effective.settings.iter();
        let is_default =
            all.any(|one| one.key == "hook.milter.listen" && matches!(one.origin, Origin::Default));
        self.hook.milter.first().filter(|_| is_default)
    }
}

/// Settings of the log; read once, at startup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// The format of a line.
    pub format: LogFormat,
    /// The lowest level logged: a level name of tracing.
    pub level: &'static str,
}

/// Loads the settings from a file and from this process's environment variables, which override it.
///
/// Relative paths in either are relative to the directory of the file.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    load_with(path, std::env::vars_os())
}

/// As [`load`], with these environment variables. Variables without the prefix `COPYIST__` are
/// ignored.
pub fn load_with(
    path: &Path,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings, ConfigError> {
    let (raw, mut problems) = layers::read(path, variables);
    let settings = raw.and_then(|raw| {
        let mut settings = build::settings(&raw, &mut problems)?;
        let effective = effective::read(&raw, &problems.origins, &settings);
        settings.effective = Arc::new(effective);
        Ok(settings)
    });
    problems.finish(settings)
}
