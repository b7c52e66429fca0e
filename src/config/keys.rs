//! All keys, read from the schema of [`Raw`]: the type of each, and an example.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

use super::raw::Raw;

/// Every key, including tables, by its path (`directory.cache.ttl`); keys in a list of tables by the
/// list's path (`hook.smtp.listen`).
pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let mut keys = BTreeMap::new();
    collect("", schema().as_value(), &mut keys);
    Keys(keys)
});

/// See [`KEYS`].
#[derive(Debug)]
pub(super) struct Keys(BTreeMap<String, Key>);

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// The type of its value.
    pub(super) kind: Kind,
    /// A valid value: the first example, or else the default.
    pub(super) example: Option<Value>,
    /// Its description.
    pub(super) about: String,
}

/// The type of a key's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Further keys.
    Table,
    /// Any number of tables of further keys (`[[hook.smtp]]`).
    Tables,
    /// A string.
    Text,
    /// A list of strings.
    List,
    /// Lists of strings; also one list, or strings of several words.
    Groups,
    /// `true` or `false`.
    Flag,
    /// A whole number within these bounds.
    Number { least: i128, most: i128 },
    /// One of these words.
    OneOf(Vec<String>),
}

/// Returns the JSON schema of the settings, as committed in `schemas/copyist.schema.json`.
pub fn json_schema() -> String {
    let mut text =
        serde_json::to_string_pretty(&schema()).expect("a schema has only texts as map keys");
    text.push('\n');
    text
}

fn schema() -> Schema {
    // Editors' TOML plugins understand draft 7. Inlined, so that every key is at its own path.
    SchemaSettings::draft07()
        .with(|settings| settings.inline_subschemas = true)
        .with_transform(WithoutNull)
        .into_generator()
        .into_root_schema_for::<Raw>()
}

/// Removes null, which TOML lacks, and the defaults of whole tables, which repeat those of their
/// keys.
#[derive(Clone)]
struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else {
            return;
        };
        if object
            .get("default")
            .is_some_and(|default| default.is_null() || default.is_object())
        {
            object.remove("default");
        }
        if let Some(Value::Array(words)) = object.get_mut("enum") {
            words.retain(|word| !word.is_null());
        }
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".into(), only);
            }
        }
    }
}

fn collect(path: &str, schema: &Value, keys: &mut BTreeMap<String, Key>) {
    let of_items = || schema.pointer("/items/properties");
    let properties = schema.get("properties").or_else(of_items);
    let Some(properties) = properties.and_then(Value::as_object) else {
        return;
    };
    for (name, schema) in properties {
        let path = join(path, name);
        collect(&path, schema, keys);
        let example = schema
            .pointer("/examples/0")
            .or(schema.get("default").filter(|default| !is_empty(default)));
        let key = Key {
            kind: kind(schema),
            example: example.cloned(),
            about: schema["description"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        };
        keys.insert(path, key);
    }
}

fn kind(schema: &Value) -> Kind {
    let bound = |name| schema.get(name).and_then(Value::as_u64);
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return Kind::OneOf(
            words
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        );
    }
    match &schema["type"] {
        Value::Array(_) if schema.pointer("/items/items").is_some() => Kind::Groups,
        Value::Array(_) => Kind::List,
        Value::String(name) if name == "object" => Kind::Table,
        Value::String(name) if name == "array" => Kind::Tables,
        Value::String(name) if name == "boolean" => Kind::Flag,
        Value::String(name) if name == "integer" => Kind::Number {
            least: bound("minimum").unwrap_or(0).into(),
            // The largest integer of TOML.
            most: bound("maximum").unwrap_or(i64::MAX as u64).into(),
        },
        _ => Kind::Text,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty)
}

/// Returns `table.name`, or `name` at the top level.
pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        return name.to_owned();
    }
    format!("{table}.{name}")
}

/// Returns the list of an item: `tables[1].list` for `tables[1].list[3]`; any other path unchanged.
pub(super) fn without_index(path: &str) -> &str {
    match path
        .strip_suffix(']')
        .and_then(|path| path.rsplit_once('['))
    {
        Some((list, _)) => list,
        None => path,
    }
}

/// Returns a path without the indexes of tables and items: `tables.list` for `tables[1].list[3]`.
fn without_indices(path: &str) -> String {
    let names: Vec<_> = path.split('.').map(without_index).collect();
    names.join(".")
}

/// Returns the table of a key; `None` at the top level.
pub(super) fn table_of(path: &str) -> Option<&str> {
    Some(path.rsplit_once('.')?.0)
}

/// Returns the header of a table: `[relay]`; for `hook.smtp` and `hook.smtp[1]`, `[[hook.smtp]]`.
pub(super) fn header_of(table: &str) -> String {
    let list = without_index(table);
    match KEYS.list_of_tables(list) {
        Some(known) if known == list => format!("[[{list}]]"),
        _ => format!("[{table}]"),
    }
}

impl Keys {
    /// Returns the key at a path; for `list[3]`, the list's.
    pub(super) fn get(&self, path: &str) -> Option<&Key> {
        self.0.get(&without_indices(path))
    }

    /// Returns the list of tables that a path without indexes is in: `hook.smtp` for
    /// `hook.smtp.anything`.
    pub(super) fn list_of_tables(&self, path: &str) -> Option<&str> {
        let lists = self.iter().filter(|(_, key)| key.kind == Kind::Tables);
        lists.map(|(list, _)| list).find(|list| {
            path.strip_prefix(list)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Returns all paths with their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.0.iter().map(|(path, key)| (path.as_str(), key))
    }

    /// Returns the key that was probably meant by `path`: one with a similar name, preferably in the
    /// same table.
    pub(super) fn nearest(&self, path: &str) -> Option<&str> {
        let path = &without_indices(path);
        let name = |path: &'_ str| path.rsplit('.').next().unwrap_or_default().to_lowercase();
        let written = name(path);
        let allowed = (written.chars().count() / 3).clamp(1, 3);
        self.iter()
            .map(|(known, _)| {
                let elsewhere = table_of(known) != table_of(path);
                (distance(&name(known), &written), elsewhere, known)
            })
            .filter(|(distance, ..)| *distance <= allowed)
            .min()
            .map(|(.., known)| known)
    }

    /// Returns the names of the keys in a table (`""`: the top level).
    pub(super) fn names_in(&self, table: &str) -> Vec<&str> {
        let table = without_indices(table);
        self.iter()
            .filter(|(path, _)| table_of(path).unwrap_or_default() == table)
            .map(|(path, _)| path.rsplit('.').next().unwrap_or(path))
            .collect()
    }
}

/// Returns the edit distance of two words: letters changed, added, removed or swapped with the next
/// one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // rows[i][j]: the distance between the first i letters of one and the first j of the other.
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_from_the_schema() {
        let kind = |path| KEYS.get(path).map(|key| key.kind.clone());
        assert_eq!(kind("directory.cache"), Some(Kind::Table));
        assert_eq!(kind("state_dir"), Some(Kind::Text));
        assert_eq!(kind("relay.host"), Some(Kind::Text));
        assert_eq!(kind("organization.domains[1]"), Some(Kind::List));
        assert_eq!(kind("directory.starttls"), Some(Kind::Flag));
        assert_eq!(
            kind("relay.connections"),
            Some(Kind::Number {
                least: 1,
                most: 65535
            })
        );
        assert_eq!(
            kind("inbound.format"),
            Some(Kind::OneOf(vec!["report".into(), "copy".into()]))
        );
        assert_eq!(kind("relay.hots"), None);
        assert_eq!(kind("hook.smtp"), Some(Kind::Tables));
        assert_eq!(kind("hook.smtp[1].listen"), Some(Kind::Text));
        assert_eq!(kind("hook.smtp[1].allow_clients[2]"), Some(Kind::List));
        assert_eq!(
            kind("hook.smtp[0].bare_newline"),
            Some(Kind::OneOf(vec!["reject".into(), "normalize".into()]))
        );
    }

    #[test]
    fn tables_and_items_are_named_by_their_path() {
        for (path, list, key) in [
            ("a.b", "a.b", "a.b"),
            ("a.b[3]", "a.b", "a.b"),
            ("a.b[3].c", "a.b[3].c", "a.b.c"),
            ("a.b[3].c[0]", "a.b[3].c", "a.b.c"),
            ("a.\"b[3\"", "a.\"b[3\"", "a.\"b[3\""),
        ] {
            assert_eq!(without_index(path), list, "{path}");
            assert_eq!(without_indices(path), key, "{path}");
        }
        assert_eq!(header_of("hook.smtp[1]"), "[[hook.smtp]]");
        assert_eq!(header_of("hook.smtp"), "[[hook.smtp]]");
        assert_eq!(header_of("hook.milter"), "[hook.milter]");
        assert_eq!(KEYS.list_of_tables("hook.smtp.0.listen"), Some("hook.smtp"));
        for path in ["hook.smtps", "hook", "hook.milter.listen"] {
            assert_eq!(KEYS.list_of_tables(path), None, "{path}");
        }
    }

    #[test]
    fn a_key_is_nearest_to_its_misspellings() {
        for (written, meant) in [
            ("relay.hots", Some("relay.host")),
            ("inbound.jurnal", Some("inbound.journal")),
            ("trusted_network", Some("organization.trusted_networks")),
            ("Directory", Some("directory")),
            ("relay.retry", Some("delivery.retry")),
            ("hook.smtp[1].lisen", Some("hook.smtp.listen")),
            ("something.else", None),
        ] {
            assert_eq!(KEYS.nearest(written), meant, "{written}");
        }
    }

    #[test]
    fn every_string_list_and_number_has_an_example() {
        for (path, key) in KEYS.iter() {
            if matches!(key.kind, Kind::Text | Kind::List | Kind::Number { .. }) {
                assert!(key.example.is_some(), "{path}");
            }
        }
    }
}
