//! The settings reference in Markdown, from the same descriptions as the JSON schema.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::keys::json_schema;

const HEAD: &str = "# Settings

Look up every key of the configuration file (TOML) here. `copyist schema settings` prints this page;
`config/copyist.toml` lists the same keys with comments.
An environment variable `COPYIST__SECTION__KEY` overrides the file: `COPYIST__RELAY__HOST=127.0.0.1:25`.
Write durations as `30s`, `5m`, `4h`, and sizes as `256KiB`, `1GiB`.
";

/// Returns all settings in Markdown: a heading for each table, a row for each key.
pub fn settings_page() -> String {
    let mut page = HEAD.to_owned();
    let schema: Value = serde_json::from_str(&json_schema()).unwrap_or_default();
    if let Some(keys) = schema.get("properties").and_then(Value::as_object) {
        table(&mut page, "", keys);
    }
    page
}

/// Writes the keys with values, then each table.
fn table(page: &mut String, path: &str, keys: &Map<String, Value>) {
    let (tables, values): (Vec<_>, Vec<_>) = keys.iter().partition(|(_, key)| inner(key).is_some());
    if !values.is_empty() {
        page.push_str("\n| Key | Default | Description |\n|---|---|---|\n");
    }
    for (name, key) in values {
        let (default, described) = (default(key), text(key, "description"));
        // Writing to a String cannot fail.
        let _ = write!(page, "| `{name}` | {default} | {described}");
        for (word, list) in [("One of", "enum"), ("For example", "examples")] {
            let list = key.get(list).and_then(Value::as_array);
            let list: Vec<String> = list.into_iter().flatten().map(quote).collect();
            if !list.is_empty() {
                let _ = write!(page, " {word} {}.", list.join(", "));
            }
        }
        page.push_str(" |\n");
    }
    for (name, key) in tables {
        let path = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        let heading = match key.get("items") {
            Some(_) => format!("[[{path}]]"),
            None => format!("[{path}]"),
        };
        let described = text(key, "description");
        let _ = write!(page, "\n## `{heading}`\n\n{described}\n");
        if let Some(keys) = inner(key) {
            table(page, &path, keys);
        }
    }
}

/// Returns the keys of a table, or of each table in a list.
fn inner(key: &Value) -> Option<&Map<String, Value>> {
    let keys = key
        .get("properties")
        .or_else(|| key.pointer("/items/properties"));
    keys.and_then(Value::as_object)
}

fn default(key: &Value) -> String {
    match key.get("default") {
        None | Some(Value::Null) => String::new(),
        Some(Value::Array(none)) if none.is_empty() => String::new(),
        Some(value) => quote(value),
    }
}

/// Formats a value as in TOML, whose strings, numbers and lists look like JSON's.
fn quote(value: &Value) -> String {
    let text = match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    };
    format!("`{}`", text.replace('|', "\\|"))
}

fn text(key: &Value, of: &str) -> String {
    let text = key.get(of).and_then(Value::as_str).unwrap_or_default();
    text.replace('\n', " ")
        .replace('|', "\\|")
        .replace('<', "&lt;")
}
