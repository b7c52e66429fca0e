//! Reads the file and the environment, which overrides it, checks every key and type, and returns
//! one [`Raw`].
//!
//! The `config` package merges the layers, but knows no line numbers and stops at the first problem.
//! So each layer is first checked by itself against the keys of [`Raw`], and only valid values are
//! passed on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use config::{Config, ConfigError as LayerError, Environment, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::permission_remedy;
use super::keys::{KEYS, Kind, header_of, join, table_of};
use super::problem::{
    ErrorReported, Location, Origins, PREFIX, Problem, Problems, quote, variable_of,
};
use super::raw::Raw;

/// Separates the tables in the names of environment variables.
const SEPARATOR: &str = "__";

/// The directory of the credentials that systemd loads (LoadCredential=, SetCredential=).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Reads both layers. Invalid values are reported and left out; a file that cannot be read at all
/// yields no [`Raw`].
pub(super) fn read(
    path: &Path,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> (Result<Raw, ErrorReported>, Problems) {
    let variables: Vec<(OsString, OsString)> = variables.into_iter().collect();
    let credentials = variables.iter().find(|(name, _)| name == CREDENTIALS);
    let mut problems = Problems::new(Origins {
        file: path.to_owned(),
        credentials: credentials.map(|(_, directory)| directory.into()),
        lines: BTreeMap::new(),
        variables: BTreeMap::new(),
    });
    let file = read_text(path, &mut problems).and_then(|text| file_layer(&text, &mut problems));
    let raw = file.and_then(|file| {
        let environment = environment_layer(variables, &mut problems);
        merge(file, environment)
            .map_err(|error| report_file(&mut problems, None, error.to_string(), None))
    });
    (raw, problems)
}

fn report_file(
    problems: &mut Problems,
    line: Option<(usize, Option<usize>)>,
    text: String,
    remedy: Option<String>,
) -> ErrorReported {
    let path = problems.origins.file.clone();
    problems.report(Problem {
        location: Location::File { path, line },
        key: None,
        value: None,
        text,
        remedy,
    })
}

fn read_text(path: &Path, problems: &mut Problems) -> Result<String, ErrorReported> {
    let bytes = std::fs::read(path).map_err(|cause| {
        report_file(
            problems,
            None,
            format!("cannot read the configuration file: {cause}"),
            Some(match cause.kind() {
                ErrorKind::PermissionDenied => permission_remedy(path),
                _ => "give another file with --config FILE".into(),
            }),
        )
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let line = 1 + count_lines(&error.as_bytes()[..sound]);
        report_file(
            problems,
            Some((line, None)),
            "line is not UTF-8".into(),
            Some("save the file as UTF-8, as TOML requires".into()),
        )
    })
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Returns the valid settings of the file.
fn file_layer(text: &str, problems: &mut Problems) -> Result<Map<String, Value>, ErrorReported> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let column = before[line_start..].chars().count() + 1;
            (1 + count_lines(before.as_bytes()), Some(column))
        });
        // The line itself is not shown: it may contain a password.
        match error.span().and_then(|span| first_of(text, span)) {
            Some((name, line)) if error.message() == DUPLICATE => {
                let problem = format!("duplicate key {name}, first set in line {line}");
                let remedy = "remove one of the two".to_owned();
                report_file(problems, at, problem, Some(remedy))
            }
            _ => {
                let problem = format!("invalid TOML: {}", error.message());
                report_file(problems, at, problem, None)
            }
        }
    })?;
    let mut reader = FileReader { text, problems };
    Ok(reader.table("", table.get_ref()))
}

/// The parser's message for a duplicate key.
const DUPLICATE: &str = "duplicate key";

/// Returns the name of a duplicate key and the line of its first occurrence: the last of that name
/// before the second. No other table begins between two keys of one table.
fn first_of(text: &str, second: Range<usize>) -> Option<(String, usize)> {
    let name = text.get(second.clone())?.trim_matches(['"', '\'']);
    let (table, _) = DeTable::parse_recoverable(text);
    let mut first = None;
    let mut tables = vec![table.get_ref()];
    while let Some(table) = tables.pop() {
        for (key, value) in table {
            let start = key.span().start;
            if key.get_ref() == name && start < second.start {
                first = first.max(Some(start));
            }
            tables.extend(tables_in(value.get_ref()));
        }
    }
    let line = match first {
        Some(first) => 1 + count_lines(text.as_bytes().get(..first)?),
        // The parser keeps the second of two tables with the same header.
        None => {
            let header = |line: &str| line.split('#').next().unwrap_or(line).trim().to_owned();
            let at = count_lines(text.as_bytes().get(..second.start)?);
            let own = header(text.lines().nth(at)?);
            1 + text.lines().take(at).position(|line| header(line) == own)?
        }
    };
    Some((name.to_owned(), line))
}

fn tables_in<'a, 'i>(value: &'a DeValue<'i>) -> Vec<&'a DeTable<'i>> {
    match value {
        DeValue::Table(table) => vec![table],
        DeValue::Array(items) => {
            let items = items.iter();
            items.flat_map(|item| tables_in(item.get_ref())).collect()
        }
        _ => Vec::new(),
    }
}

struct FileReader<'a> {
    text: &'a str,
    problems: &'a mut Problems,
}

impl FileReader<'_> {
    fn table(&mut self, path: &str, table: &DeTable<'_>) -> Map<String, Value> {
        let mut sound = Map::new();
        for (name, value) in table {
            let line = self.line(name.span().start);
            let name = name.get_ref().as_ref();
            // A dot in a quoted name is no separator; no known key has such a name.
            let bare = !name.is_empty() && !name.contains(['.', '[']);
            let path = join(
                path,
                &if bare {
                    name.into()
                } else {
                    format!("{name:?}")
                },
            );
            self.problems.origins.lines.insert(path.clone(), line);
            match KEYS.get(&path) {
                Some(key) => {
                    if let Ok(value) = self.value(&path, value, &key.kind) {
                        sound.insert(name.to_owned(), Value::new(None, value));
                    }
                }
                None => {
                    report_unknown(self.problems, &path);
                }
            }
        }
        sound
    }

    fn value(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        kind: &Kind,
    ) -> Result<ValueKind, ErrorReported> {
        match (value.get_ref(), kind) {
            (DeValue::Table(table), Kind::Table) => Ok(self.table(path, table).into()),
            (DeValue::Array(items), Kind::Groups) if items.iter().any(is_list) => {
                let items = items.iter().enumerate();
                let items: Vec<_> = items
                    .map(|(at, item)| self.group(&format!("{path}[{at}]"), item))
                    .collect();
                Ok(items.into_iter().collect::<Result<Vec<_>, _>>()?.into())
            }
            (DeValue::Array(items), Kind::List | Kind::Groups | Kind::Tables) => {
                let kind = match kind {
                    Kind::Tables => Kind::Table,
                    _ => Kind::Text,
                };
                let items = items.iter().enumerate().map(|(at, item)| {
                    let path = format!("{path}[{at}]");
                    let line = self.line(item.span().start);
                    self.problems.origins.lines.insert(path.clone(), line);
                    self.value(&path, item, &kind)
                });
                // Collected first, so that every invalid item is reported.
                let items: Vec<_> = items.collect();
                Ok(items.into_iter().collect::<Result<Vec<_>, _>>()?.into())
            }
            (DeValue::String(text), Kind::Text | Kind::List | Kind::Groups) => {
                Ok(text.as_ref().into())
            }
            (DeValue::Boolean(flag), Kind::Flag) => Ok((*flag).into()),
            (DeValue::String(text), Kind::OneOf(words))
                if words.iter().any(|word| word == text) =>
            {
                Ok(text.as_ref().into())
            }
            (DeValue::Integer(number), Kind::Number { least, most }) => {
                match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) if (*least..=*most).contains(&number) => Ok(ValueKind::I128(number)),
                    _ => Err(self.wrong_type(path, value, kind)),
                }
            }
            _ => Err(self.wrong_type(path, value, kind)),
        }
    }

    /// Returns a list in a list as one string of several words.
    fn group(
        &mut self,
        path: &str,
        item: &Spanned<DeValue<'_>>,
    ) -> Result<ValueKind, ErrorReported> {
        let line = self.line(item.span().start);
        self.problems.origins.lines.insert(path.to_owned(), line);
        let words: Option<Vec<&str>> = match item.get_ref() {
            DeValue::String(text) => return Ok(text.as_ref().into()),
            DeValue::Array(words) => words.iter().map(|word| word.get_ref().as_str()).collect(),
            _ => None,
        };
        match words {
            Some(words) => Ok(words.join(" ").into()),
            None => Err(self.wrong_type(path, item, &Kind::Groups)),
        }
    }

    fn wrong_type(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        kind: &Kind,
    ) -> ErrorReported {
        let shown = match value.get_ref() {
            DeValue::Table(_) => "a table".into(),
            DeValue::Array(_) => "a list".into(),
            DeValue::String(text) => quote(text),
            _ => self.text.get(value.span()).unwrap_or("this").to_owned(),
        };
        report_type(self.problems, path, &shown, kind)
    }

    fn line(&self, at: usize) -> usize {
        1 + count_lines(&self.text.as_bytes()[..at.min(self.text.len())])
    }
}

fn is_list(item: &Spanned<DeValue<'_>>) -> bool {
    matches!(item.get_ref(), DeValue::Array(_))
}

fn report_type(problems: &mut Problems, path: &str, value: &str, kind: &Kind) -> ErrorReported {
    let text = match kind {
        Kind::Table => "where a table is expected".into(),
        Kind::Tables => "where a list of tables is expected".into(),
        Kind::Text => "is not a quoted string".into(),
        Kind::List => "is neither a string nor a list of strings".into(),
        Kind::Groups => "is not a list of lists of strings".into(),
        Kind::Flag => "is neither true nor false".into(),
        Kind::Number { least, most } if *most == i64::MAX.into() => {
            format!("is not a whole number of at least {least}")
        }
        Kind::Number { least, most } => format!("is not a whole number from {least} to {most}"),
        Kind::OneOf(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
            format!("is not one of {}", words.join(", "))
        }
    };
    let remedy = match kind {
        Kind::Tables => Some(format!("begin each table with {}", header_of(path))),
        _ => problems
            .example(path)
            .map(|example| format!("for example: {example}")),
    };
    problems.report_invalid_with(path, Some(value), text, remedy)
}

fn report_unknown(problems: &mut Problems, path: &str) -> ErrorReported {
    let remedy = match KEYS.nearest(path) {
        Some(meant) => format!("did you mean {}?", display_key(meant)),
        None => format!(
            "valid keys: {}",
            KEYS.names_in(table_of(path).unwrap_or_default()).join(", ")
        ),
    };
    problems.report_invalid_with(path, None, "is not a known setting", Some(remedy))
}

/// Returns a key without the index of a table.
fn display_key(key: &str) -> String {
    match (KEYS.list_of_tables(key), key.rsplit_once('.')) {
        (Some(list), Some((table, name))) if list != key => {
            format!("{name} in {}", header_of(table))
        }
        (Some(list), _) => header_of(list),
        (None, _) => key.to_owned(),
    }
}

/// Returns the valid settings of the environment.
fn environment_layer(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Problems,
) -> [Environment; 2] {
    let (mut lists, mut others) = (Map::new(), Map::new());
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        let Some(key) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if key != key.to_uppercase() || key.contains(['.', '[']) {
            report_unknown_variable(problems, &name);
            continue;
        }
        let key = key.to_lowercase().replace(SEPARATOR, ".");
        if let Some(list) = KEYS.list_of_tables(&key) {
            report_ambiguous_variable(problems, &name, list);
            continue;
        }
        let Some(kind) = KEYS.get(&key).map(|known| &known.kind) else {
            report_unknown_variable(problems, &name);
            continue;
        };
        problems.origins.variables.insert(key.clone(), name.clone());
        match value.to_str() {
            Some(value) if fits(value, kind) => {
                let layer = if matches!(kind, Kind::List | Kind::Groups) {
                    &mut lists
                } else {
                    &mut others
                };
                layer.insert(name, value.to_owned());
            }
            Some(value) => {
                report_type(problems, &key, &quote(value), kind);
            }
            None => {
                problems.report_invalid_with(&key, None, "is not UTF-8", None);
            }
        }
    }
    let environment =
        Environment::with_prefix(PREFIX.trim_end_matches(SEPARATOR)).separator(SEPARATOR);
    // Only lists need try_parsing; it would turn the string "007" into 7.
    let of_lists = environment
        .clone()
        .try_parsing(true)
        .list_separator(",")
        .source(Some(lists));
    [of_lists, environment.source(Some(others))]
}

fn report_ambiguous_variable(problems: &mut Problems, name: &str, list: &str) -> ErrorReported {
    let header = header_of(list);
    problems.report(Problem {
        location: Location::Variable(name.to_owned()),
        key: None,
        value: None,
        text: format!("ambiguous: a variable cannot select one of the {header} tables"),
        remedy: Some(format!("set the key in the file, under its {header}")),
    })
}

fn report_unknown_variable(problems: &mut Problems, name: &str) -> ErrorReported {
    let key = name
        .strip_prefix(PREFIX)
        .unwrap_or(name)
        .to_lowercase()
        .replace(SEPARATOR, ".");
    let meant = KEYS
        .get(&key)
        .map(|_| key.as_str())
        .or_else(|| KEYS.nearest(&key))
        .filter(|key| KEYS.list_of_tables(key).is_none());
    problems.report(Problem {
        location: Location::Variable(name.to_owned()),
        key: None,
        value: None,
        text: "unknown setting".into(),
        remedy: meant.map(|meant| format!("did you mean {}?", variable_of(meant))),
    })
}

/// Whether the value of a variable fits the type of its key.
fn fits(text: &str, kind: &Kind) -> bool {
    match kind {
        Kind::Table | Kind::Tables => false,
        Kind::Text => true,
        // A number or a flag would not be split into items.
        Kind::List | Kind::Groups => {
            text.parse::<f64>().is_err() && text.to_lowercase().parse::<bool>().is_err()
        }
        Kind::Flag => matches!(text, "true" | "false"),
        Kind::Number { least, most } => text
            .parse()
            .is_ok_and(|number: i128| (*least..=*most).contains(&number)),
        Kind::OneOf(words) => words.iter().any(|word| word == text),
    }
}

fn merge(file: Map<String, Value>, environment: [Environment; 2]) -> Result<Raw, LayerError> {
    let [lists, others] = environment;
    Config::builder()
        .add_source(FileLayer(file))
        .add_source(lists)
        .add_source(others)
        .build()?
        .try_deserialize()
}

/// The checked settings of the file.
#[derive(Debug, Clone)]
struct FileLayer(Map<String, Value>);

impl Source for FileLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, LayerError> {
        Ok(self.0.clone())
    }
}
