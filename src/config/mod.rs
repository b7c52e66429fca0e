//! File and environment → complete settings of every module.
//!
//! Promises: what [`load`] gives is complete and sound, and no module has to check it again. Fails
//! by [`ConfigError`], which holds every mistake, not the first.
//!
//! | file | owns |
//! |---|---|
//! | `raw` | the keys, their defaults and examples: the one list |
//! | `keys` | that list as the JSON schema, and as a table to check against |
//! | `page` | that list for people |
//! | `layers` | the file, the environment over it |
//! | `build` | what the texts mean, and what must fit together |
//! | `effective` | what is in force, for people to read |
//! | `parse`, `files`, `accounts` | one text, one file, one user |
//! | `mistake` | how mistakes are collected and told |
//!
//! `config/copyist.toml` explains each key to the administrator; a test holds it to `raw`.

mod accounts;
mod build;
mod effective;
mod files;
mod keys;
mod layers;
pub(crate) mod mistake;
mod page;
pub(crate) mod parse;
mod raw;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::admin::Origin;
use crate::hook::Listen;
use crate::{admin, deliver, directory, hook, journal, policy, spool, text};

pub use keys::json_schema;
pub use mistake::{ConfigError, Mistake, Place};
pub use page::settings_page;
pub use raw::LogFormat;

/// The settings of every module.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of what must outlive restarts.
    pub state_dir: PathBuf,
    /// Whether that may be on a network file system.
    pub allow_remote_fs: bool,
    /// Who the people of the organization are.
    pub directory: directory::Settings,
    /// What is journaled to whom.
    pub rules: policy::Rules,
    /// What is put into messages.
    pub text: text::Settings,
    /// What is written.
    pub journal: journal::Settings,
    /// What is owed.
    pub spool: spool::Settings,
    /// Where it goes.
    pub deliver: deliver::Settings,
    /// Where mail comes from.
    pub hook: hook::Settings,
    /// Health, metrics and pages.
    pub admin: admin::Settings,
    /// Every key as it is in force, for people to read.
    pub effective: Arc<admin::Effective>,
    /// How the service's log is written.
    pub log: LogSettings,
}

impl Settings {
    /// Returns the listener that the milter has only by default, `None` if `hook.milter.listen` is
    /// set. A later version has another default: the one of today is OpenDKIM's port as well.
    pub fn milter_by_default(&self) -> Option<&Listen> {
        let mut all = self.effective.settings.iter();
        let is_default =
            all.any(|one| one.key == "hook.milter.listen" && matches!(one.origin, Origin::Default));
        self.hook.milter.first().filter(|_| is_default)
    }
}

/// How the service's log is written; read once, at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Its form.
    pub format: LogFormat,
    /// From which level on: a name that tracing knows.
    pub level: &'static str,
}

/// Loads the settings from a file and from the environment variables of this process, which win.
///
/// Relative paths in either are taken from the directory of the file.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    load_with(path, std::env::vars_os())
}

/// As [`load`], with these environment variables. Those that do not begin with `COPYIST__` are
/// ignored.
pub fn load_with(
    path: &Path,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings, ConfigError> {
    let (raw, mut findings) = layers::read(path, variables);
    let settings = raw.and_then(|raw| {
        let mut settings = build::settings(&raw, &mut findings)?;
        let effective = effective::read(&raw, &findings.origins, &settings);
        settings.effective = Arc::new(effective);
        Ok(settings)
    });
    findings.finish(settings)
}
