//! Proposed lines of the configuration file: `key = value in [table]`.

use crate::config::Settings;

/// Returns a line in a table.
pub(super) fn line(key: &str, value: &str) -> String {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    format!("{name} = {value} in [{table}]")
}

/// Returns a line with a list of strings.
pub(super) fn list(key: &str, items: &[String]) -> String {
    line(key, &format!("[{}]", quote(items)))
}

/// Returns the line that appends items to a list.
pub(super) fn append(settings: &Settings, key: &str, items: &[String]) -> String {
    let mut known = settings.effective.settings.iter();
    let known = known.find(|setting| setting.key == key);
    let known = known.and_then(|setting| setting.value.as_deref());
    let inner = known.and_then(|text| text.strip_prefix('[')?.strip_suffix(']'));
    match inner.map(str::trim) {
        None | Some("") => list(key, items),
        Some(inner) => line(key, &format!("[{inner}, {}]", quote(items))),
    }
}

/// Returns quoted strings separated by commas.
pub(super) fn quote(items: &[String]) -> String {
    let all: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    all.join(", ")
}
