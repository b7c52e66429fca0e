//! What is wrong with the settings: all of it, each with its place and a value that would work.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::PathBuf;

use serde_json::Value;

use super::keys::{KEYS, header_of, table_of, without_index};

/// What the names of our environment variables begin with.
pub(super) const PREFIX: &str = "COPYIST__";

/// Why settings could not be loaded: every mistake found, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub mistakes: Vec<Mistake>,
}

/// One mistake in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where it is.
    pub place: Place,
    /// The key, `table.key` or `tables[0].key`; `None` where the file as a whole is meant.
    pub key: Option<String>,
    /// The value seen, as it was written; `None` where there is none or its content may be secret.
    pub seen: Option<String>,
    /// What is wrong, continuing a sentence that begins with the value, or else the key.
    pub problem: String,
    /// What to do instead.
    pub remedy: Option<String>,
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
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
        for (at, mistake) in self.mistakes.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match (&self.key, &self.seen) {
            (Some(key), Some(seen)) => write!(f, "{key}: {seen} ")?,
            (Some(key), None) => write!(f, "{key} ")?,
            (None, _) => {}
        }
        f.write_str(&self.problem)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line } => {
                path.display().fmt(f)?;
                match line {
                    Some((line, Some(column))) => write!(f, ":{line}:{column}"),
                    Some((line, None)) => write!(f, ":{line}"),
                    None => Ok(()),
                }
            }
            Place::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// The environment variable that sets a key.
pub(super) fn variable_of(key: &str) -> String {
    format!("{}{}", PREFIX, key.replace('.', "__").to_uppercase())
}

/// Where each setting stands.
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

/// A mistake has been noted. Whoever holds one need not say anything more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted(());

/// The mistakes found so far.
#[derive(Debug)]
pub(super) struct Findings {
    /// Where each setting stands.
    pub(super) origins: Origins,
    mistakes: Vec<Mistake>,
}

impl Origins {
    fn of_file(&self, line: Option<usize>) -> Place {
        Place::File {
            path: self.file.clone(),
            line: line.map(|line| (line, None)),
        }
    }

    /// Where a key is set; where it is not, where the innermost table around it begins.
    fn place(&self, key: &str) -> Place {
        if let Some(name) = self.variables.get(without_index(key)) {
            return Place::Variable(name.clone());
        }
        let mut candidates = [Some(key), Some(without_index(key))]
            .into_iter()
            .chain(std::iter::successors(table_of(key), |key| table_of(key)).map(Some))
            .flatten();
        self.of_file(candidates.find_map(|key| self.lines.get(key).copied()))
    }
}

impl Findings {
    /// None yet.
    pub(super) fn new(origins: Origins) -> Findings {
        Findings {
            origins,
            mistakes: Vec::new(),
        }
    }

    /// What came out, if nothing was noted on the way; all mistakes in the order of the file, those
    /// of the environment last, if something was.
    pub(super) fn finish<T>(mut self, outcome: Result<T, Noted>) -> Result<T, ConfigError> {
        match outcome {
            Ok(outcome) if self.mistakes.is_empty() => Ok(outcome),
            _ => {
                self.mistakes.sort_by(|a, b| a.place.cmp(&b.place));
                Err(ConfigError {
                    mistakes: self.mistakes,
                })
            }
        }
    }

    /// Notes any mistake.
    pub(super) fn note(&mut self, mistake: Mistake) -> Noted {
        self.mistakes.push(mistake);
        Noted(())
    }

    /// The value of a key, as it was written, is unusable; suggests the key's example.
    pub(super) fn wrong(&mut self, key: &str, seen: &str, problem: impl Display) -> Noted {
        let remedy = self
            .example(key)
            .map(|example| format!("write for example {example}"));
        self.wrong_but(key, Some(&quoted(seen)), problem, remedy)
    }

    /// As [`Findings::wrong`], with a remedy of its own. `seen` is shown as it is.
    pub(super) fn wrong_but(
        &mut self,
        key: &str,
        seen: Option<&str>,
        problem: impl Display,
        remedy: Option<String>,
    ) -> Noted {
        let place = self.origins.place(key);
        self.note(Mistake {
            place,
            key: Some(without_index(key).to_owned()),
            seen: seen.map(str::to_owned),
            problem: problem.to_string(),
            remedy,
        })
    }

    /// A key is missing that `near` makes necessary. Says nothing where the key is there and wrong.
    pub(super) fn missing(&mut self, key: &str, near: &str, why: impl Display) -> Noted {
        if self.is_noted(key) {
            return Noted(());
        }
        let place = self.origins.place(near);
        let example = KEYS.get(key).and_then(|key| key.example.as_ref());
        let remedy = example.map(|example| match &place {
            Place::Variable(_) => {
                format!("set for example {}={}", variable_of(key), plain(example))
            }
            Place::File { .. } => {
                let name = key.rsplit('.').next().unwrap_or(key);
                let setting = format!("write for example {name} = {}", in_toml(example));
                match (&place, table_of(key)) {
                    // Nothing near it stands in the file: say where it belongs.
                    (Place::File { line: None, .. }, Some(table)) => {
                        format!("{setting} in {}", header_of(table))
                    }
                    _ => setting,
                }
            }
        });
        self.note(Mistake {
            place,
            key: Some(key.to_owned()),
            seen: None,
            problem: format!("is missing: {why}"),
            remedy,
        })
    }

    /// Whether something has been said about a key or a table around it.
    pub(super) fn is_noted(&self, key: &str) -> bool {
        self.mistakes
            .iter()
            .filter_map(|mistake| mistake.key.as_deref())
            .any(|noted| {
                key.strip_prefix(noted)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    }

    /// A value that would work for a key (for an item, where the key is a list's), as one writes it
    /// at the place where the key stands.
    pub(super) fn example(&self, key: &str) -> Option<String> {
        let example = KEYS.get(key)?.example.as_ref()?;
        let item = match example {
            Value::Array(items) if key.ends_with(']') => items.first()?,
            other => other,
        };
        Some(match self.origins.place(key) {
            Place::Variable(_) => plain(item),
            Place::File { .. } => in_toml(item),
        })
    }
}

/// A value as the file holds it: as in JSON, but for the spaces.
pub(super) fn in_toml(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(in_toml).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// A value as an environment variable holds it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A text in quotes, cut where it is long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
