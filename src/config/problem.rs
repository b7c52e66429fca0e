//! Problems in the settings: all of them, each with its location and a value that would work.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::PathBuf;

use serde_json::Value;

use super::keys::{KEYS, header_of, table_of, without_index};

/// Prefix of the environment variables that set keys.
pub(super) const PREFIX: &str = "COPYIST__";

/// Every problem found in the settings, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One problem in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its location.
    pub location: Location,
    /// The key, `table.key` or `tables[0].key`; `None` if the problem concerns the whole file.
    pub key: Option<String>,
    /// The value as it was written; `None` if there is none or if it may be secret.
    pub value: Option<String>,
    /// The problem, continuing a sentence that begins with the value, or else the key.
    pub text: String,
    /// The fix, often a value that would work.
    pub remedy: Option<String>,
}

/// The location of a setting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// The configuration file.
    File {
        /// Its path, as it was given.
        path: PathBuf,
        /// The line and, where it matters, the column, both counted from 1.
        line: Option<(usize, Option<usize>)>,
    },
    /// The environment variable of this name.
    Variable(String),
}

impl std::error::Error for ConfigError {}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.location)?;
        match (&self.key, &self.value) {
            (Some(key), Some(value)) => write!(f, "{key}: {value} ")?,
            (Some(key), None) => write!(f, "{key} ")?,
            (None, _) => {}
        }
        f.write_str(&self.text)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File { path, line } => {
                path.display().fmt(f)?;
                match line {
                    Some((line, Some(column))) => write!(f, ":{line}:{column}"),
                    Some((line, None)) => write!(f, ":{line}"),
                    None => Ok(()),
                }
            }
            Location::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Returns the environment variable that sets a key.
pub(super) fn variable_of(key: &str) -> String {
    format!("{}{}", PREFIX, key.replace('.', "__").to_uppercase())
}

/// The location of each setting.
#[derive(Debug)]
pub(super) struct Origins {
    /// The configuration file.
    pub(super) file: PathBuf,
    /// The line of each key in it, also of each item of a list.
    pub(super) lines: BTreeMap<String, usize>,
    /// The environment variable of each key that is set by one.
    pub(super) variables: BTreeMap<String, String>,
    /// The directory of the service's credentials (systemd.exec(5)).
    pub(super) credentials: Option<PathBuf>,
}

/// Proof that a problem has been reported; its holder need not report another.
#[derive(Debug, Clone, Copy)]
pub(super) struct ErrorReported(());

/// The problems found so far.
#[derive(Debug)]
pub(super) struct Problems {
    /// The location of each setting.
    pub(super) origins: Origins,
    problems: Vec<Problem>,
}

impl Origins {
    fn of_file(&self, line: Option<usize>) -> Location {
        Location::File {
            path: self.file.clone(),
            line: line.map(|line| (line, None)),
        }
    }

    /// Returns the location where a key is set, or else the start of its innermost table.
    fn location(&self, key: &str) -> Location {
        if let Some(name) = self.variables.get(without_index(key)) {
            return Location::Variable(name.clone());
        }
        let mut candidates = [Some(key), Some(without_index(key))]
            .into_iter()
            .chain(std::iter::successors(table_of(key), |key| table_of(key)).map(Some))
            .flatten();
        self.of_file(candidates.find_map(|key| self.lines.get(key).copied()))
    }
}

impl Problems {
    /// Creates an empty collection.
    pub(super) fn new(origins: Origins) -> Problems {
        Problems {
            origins,
            problems: Vec::new(),
        }
    }

    /// Returns the outcome if nothing was reported, else all problems: those of the file in its order,
    /// those of the environment last.
    pub(super) fn finish<T>(mut self, outcome: Result<T, ErrorReported>) -> Result<T, ConfigError> {
        match outcome {
            Ok(outcome) if self.problems.is_empty() => Ok(outcome),
            _ => {
                self.problems.sort_by(|a, b| a.location.cmp(&b.location));
                Err(ConfigError {
                    problems: self.problems,
                })
            }
        }
    }

    /// Reports a problem.
    pub(super) fn report(&mut self, problem: Problem) -> ErrorReported {
        self.problems.push(problem);
        ErrorReported(())
    }

    /// Reports an invalid value of a key and suggests the key's example.
    pub(super) fn report_invalid(
        &mut self,
        key: &str,
        value: &str,
        text: impl Display,
    ) -> ErrorReported {
        let remedy = self
            .example(key)
            .map(|example| format!("for example: {example}"));
        self.report_invalid_with(key, Some(&quote(value)), text, remedy)
    }

    /// As [`Problems::report_invalid`], with another remedy. `value` is shown as it is.
    pub(super) fn report_invalid_with(
        &mut self,
        key: &str,
        value: Option<&str>,
        text: impl Display,
        remedy: Option<String>,
    ) -> ErrorReported {
        let location = self.origins.location(key);
        self.report(Problem {
            location,
            key: Some(without_index(key).to_owned()),
            value: value.map(str::to_owned),
            text: text.to_string(),
            remedy,
        })
    }

    /// Reports a missing key that `near` makes necessary, unless the key is set and already reported.
    pub(super) fn report_missing(
        &mut self,
        key: &str,
        near: &str,
        why: impl Display,
    ) -> ErrorReported {
        if self.has_problem_at(key) {
            return ErrorReported(());
        }
        let location = self.origins.location(near);
        let example = KEYS.get(key).and_then(|key| key.example.as_ref());
        let remedy = example.map(|example| match &location {
            Location::Variable(_) => {
                format!("set, for example, {}={}", variable_of(key), plain(example))
            }
            Location::File { .. } => {
                let name = key.rsplit('.').next().unwrap_or(key);
                let setting = format!("add, for example: {name} = {}", in_toml(example));
                match (&location, table_of(key)) {
                    // Nothing near it is in the file: name the table it belongs to.
                    (Location::File { line: None, .. }, Some(table)) => {
                        format!("{setting} in {}", header_of(table))
                    }
                    _ => setting,
                }
            }
        });
        self.report(Problem {
            location,
            key: Some(key.to_owned()),
            value: None,
            text: format!("is missing: {why}"),
            remedy,
        })
    }

    /// Whether a problem with a key or a table around it has been reported.
    pub(super) fn has_problem_at(&self, key: &str) -> bool {
        self.problems
            .iter()
            .filter_map(|problem| problem.key.as_deref())
            .any(|reported| {
                key.strip_prefix(reported)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    }

    /// Returns a value that would work for a key (for a list's item, one item), written as at the
    /// key's location.
    pub(super) fn example(&self, key: &str) -> Option<String> {
        let example = KEYS.get(key)?.example.as_ref()?;
        let item = match example {
            Value::Array(items) if key.ends_with(']') => items.first()?,
            other => other,
        };
        Some(match self.origins.location(key) {
            Location::Variable(_) => plain(item),
            Location::File { .. } => in_toml(item),
        })
    }
}

/// Formats a value for the file: as JSON, but for the spaces.
pub(super) fn in_toml(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(in_toml).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// Formats a value for an environment variable.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Quotes a string and truncates it if it is long.
pub(crate) fn quote(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
