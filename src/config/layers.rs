//! File, then environment over it: reads both, checks every key and type, and gives one [`Raw`].
//!
//! The `config` package lays the layers over each other, but knows no lines and stops at the first
//! mistake. So each layer is checked by itself first, against the keys of [`Raw`], and only what is
//! sound is handed to it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use config::{Config, ConfigError as LayerError, Environment, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::leave_to_read;
use super::keys::{KEYS, Kind, header_of, join, table_of};
use super::mistake::{Findings, Mistake, Noted, Origins, PREFIX, Place, quoted, variable_of};
use super::raw::Raw;

/// Separates the tables in the names of environment variables.
const SEPARATOR: &str = "__";

/// Where systemd puts what LoadCredential= and SetCredential= name.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Reads both layers. What is wrong in them is noted and left out; no [`Raw`] comes of a file that
/// could not be read at all.
pub(super) fn read(
    path: &Path,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> (Result<Raw, Noted>, Findings) {
    let variables: Vec<(OsString, OsString)> = variables.into_iter().collect();
    let credentials = variables.iter().find(|(name, _)| name == CREDENTIALS);
    let mut findings = Findings::new(Origins {
        file: path.to_owned(),
        credentials: credentials.map(|(_, directory)| directory.into()),
        lines: BTreeMap::new(),
        variables: BTreeMap::new(),
    });
    let file = text_of(path, &mut findings).and_then(|text| file_layer(&text, &mut findings));
    let raw = file.and_then(|file| {
        let environment = environment_layer(variables, &mut findings);
        lay(file, environment)
            .map_err(|error| note_file(&mut findings, None, error.to_string(), None))
    });
    (raw, findings)
}

fn note_file(
    findings: &mut Findings,
    line: Option<(usize, Option<usize>)>,
    problem: String,
    remedy: Option<String>,
) -> Noted {
    let path = findings.origins.file.clone();
    findings.note(Mistake {
        place: Place::File { path, line },
        key: None,
        seen: None,
        problem,
        remedy,
    })
}

fn text_of(path: &Path, findings: &mut Findings) -> Result<String, Noted> {
    let bytes = std::fs::read(path).map_err(|cause| {
        note_file(
            findings,
            None,
            format!("the configuration file cannot be read: {cause}"),
            Some(match cause.kind() {
                ErrorKind::PermissionDenied => leave_to_read(path),
                _ => "name another one with --config FILE".into(),
            }),
        )
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let line = 1 + count_lines(&error.as_bytes()[..sound]);
        note_file(
            findings,
            Some((line, None)),
            "the line is not UTF-8".into(),
            Some("save the file as UTF-8, which TOML asks for".into()),
        )
    })
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// The settings of the file that are sound.
fn file_layer(text: &str, findings: &mut Findings) -> Result<Map<String, Value>, Noted> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let column = before[line_start..].chars().count() + 1;
            (1 + count_lines(before.as_bytes()), Some(column))
        });
        // The line itself is not shown: a password may stand in it.
        match error.span().and_then(|span| first_of(text, span)) {
            Some((name, line)) if error.message() == DUPLICATE => {
                let problem = format!("the key {name} is set a second time, first in line {line}");
                let remedy = "keep one of the two".to_owned();
                note_file(findings, at, problem, Some(remedy))
            }
            _ => {
                let problem = format!("the file is not TOML: {}", error.message());
                note_file(findings, at, problem, None)
            }
        }
    })?;
    let mut reader = FileReader { text, findings };
    Ok(reader.table("", table.get_ref()))
}

/// What the parser says of a key that stands twice.
const DUPLICATE: &str = "duplicate key";

/// The name of a key that stands twice, and the line of the first: the last of that name before the
/// second. Between two of one table no other table begins.
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
        // The parser keeps the second of two tables: that of the same header.
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
    findings: &'a mut Findings,
}

impl FileReader<'_> {
    fn table(&mut self, path: &str, table: &DeTable<'_>) -> Map<String, Value> {
        let mut sound = Map::new();
        for (name, value) in table {
            let line = self.line(name.span().start);
            let name = name.get_ref().as_ref();
            // A dot in a quoted name separates nothing; such names are never ours.
            let bare = !name.is_empty() && !name.contains(['.', '[']);
            let path = join(
                path,
                &if bare {
                    name.into()
                } else {
                    format!("{name:?}")
                },
            );
            self.findings.origins.lines.insert(path.clone(), line);
            match KEYS.get(&path) {
                Some(key) => {
                    if let Ok(value) = self.value(&path, value, &key.kind) {
                        sound.insert(name.to_owned(), Value::new(None, value));
                    }
                }
                None => {
                    note_unknown(self.findings, &path);
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
    ) -> Result<ValueKind, Noted> {
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
                    self.findings.origins.lines.insert(path.clone(), line);
                    self.value(&path, item, &kind)
                });
                // All of them first: each that is wrong must be noted.
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

    /// A list in a list, as one text of several words.
    fn group(&mut self, path: &str, item: &Spanned<DeValue<'_>>) -> Result<ValueKind, Noted> {
        let line = self.line(item.span().start);
        self.findings.origins.lines.insert(path.to_owned(), line);
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

    fn wrong_type(&mut self, path: &str, value: &Spanned<DeValue<'_>>, kind: &Kind) -> Noted {
        let seen = match value.get_ref() {
            DeValue::Table(_) => "a table".into(),
            DeValue::Array(_) => "a list".into(),
            DeValue::String(text) => quoted(text),
            _ => self.text.get(value.span()).unwrap_or("this").to_owned(),
        };
        note_type(self.findings, path, &seen, kind)
    }

    fn line(&self, at: usize) -> usize {
        1 + count_lines(&self.text.as_bytes()[..at.min(self.text.len())])
    }
}

fn is_list(item: &Spanned<DeValue<'_>>) -> bool {
    matches!(item.get_ref(), DeValue::Array(_))
}

fn note_type(findings: &mut Findings, path: &str, seen: &str, kind: &Kind) -> Noted {
    let problem = match kind {
        Kind::Table => "stands where a table of further keys must be".into(),
        Kind::Tables => "stands where a list of tables must be".into(),
        Kind::Text => "is not a text in quotes".into(),
        Kind::List => "is neither a text nor a list of texts".into(),
        Kind::Groups => "is not a list of lists of texts".into(),
        Kind::Flag => "is neither true nor false".into(),
        Kind::Number { least, most } if *most == i64::MAX.into() => {
            format!("is not a whole number of at least {least}")
        }
        Kind::Number { least, most } => format!("is not a whole number from {least} to {most}"),
        Kind::OneOf(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
            format!("is none of {}", words.join(", "))
        }
    };
    let remedy = match kind {
        Kind::Tables => Some(format!("begin each of them with {}", header_of(path))),
        _ => findings
            .example(path)
            .map(|example| format!("write for example {example}")),
    };
    findings.wrong_but(path, Some(seen), problem, remedy)
}

fn note_unknown(findings: &mut Findings, path: &str) -> Noted {
    let remedy = match KEYS.nearest(path) {
        Some(meant) => format!("did you mean {}?", told(meant)),
        None => format!(
            "possible here: {}",
            KEYS.names_in(table_of(path).unwrap_or_default()).join(", ")
        ),
    };
    findings.wrong_but(path, None, "is no setting of Copyist", Some(remedy))
}

/// A key as it is called where no one of several tables is meant.
fn told(key: &str) -> String {
    match (KEYS.list_of_tables(key), key.rsplit_once('.')) {
        (Some(list), Some((table, name))) if list != key => {
            format!("{name} in {}", header_of(table))
        }
        (Some(list), _) => header_of(list),
        (None, _) => key.to_owned(),
    }
}

/// The settings of the environment that are sound.
fn environment_layer(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    findings: &mut Findings,
) -> [Environment; 2] {
    let (mut lists, mut others) = (Map::new(), Map::new());
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        let Some(key) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if key != key.to_uppercase() || key.contains(['.', '[']) {
            note_unknown_variable(findings, &name);
            continue;
        }
        let key = key.to_lowercase().replace(SEPARATOR, ".");
        if let Some(list) = KEYS.list_of_tables(&key) {
            note_one_of_several(findings, &name, list);
            continue;
        }
        let Some(kind) = KEYS.get(&key).map(|known| &known.kind) else {
            note_unknown_variable(findings, &name);
            continue;
        };
        findings.origins.variables.insert(key.clone(), name.clone());
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
                note_type(findings, &key, &quoted(value), kind);
            }
            None => {
                findings.wrong_but(&key, None, "is not UTF-8", None);
            }
        }
    }
    let environment =
        Environment::with_prefix(PREFIX.trim_end_matches(SEPARATOR)).separator(SEPARATOR);
    // Only lists need try_parsing; on texts it would turn "007" into 7.
    let of_lists = environment
        .clone()
        .try_parsing(true)
        .list_separator(",")
        .source(Some(lists));
    [of_lists, environment.source(Some(others))]
}

fn note_one_of_several(findings: &mut Findings, name: &str, list: &str) -> Noted {
    let header = header_of(list);
    findings.note(Mistake {
        place: Place::Variable(name.to_owned()),
        key: None,
        seen: None,
        problem: format!(
            "sets nothing: a variable cannot say which of the {header} tables it means"
        ),
        remedy: Some(format!("write it in the file, below its {header}")),
    })
}

fn note_unknown_variable(findings: &mut Findings, name: &str) -> Noted {
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
    findings.note(Mistake {
        place: Place::Variable(name.to_owned()),
        key: None,
        seen: None,
        problem: "names no setting of Copyist".into(),
        remedy: meant.map(|meant| format!("did you mean {}?", variable_of(meant))),
    })
}

/// Whether the text of a variable can be read as what its key holds.
fn fits(text: &str, kind: &Kind) -> bool {
    match kind {
        Kind::Table | Kind::Tables => false,
        Kind::Text => true,
        // What looks like a number or a flag would not be split into items.
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

fn lay(file: Map<String, Value>, environment: [Environment; 2]) -> Result<Raw, LayerError> {
    let [lists, others] = environment;
    Config::builder()
        .add_source(FileLayer(file))
        .add_source(lists)
        .add_source(others)
        .build()?
        .try_deserialize()
}

/// The checked content of the file.
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
