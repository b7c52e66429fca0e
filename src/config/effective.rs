//! The effective value of every key, and its origin, for display.
//!
//! Contains no secret: passwords, tokens and private keys are in files, and only the file names are
//! settings (a test checks this).

use serde_json::Value;

use super::Settings;
use super::keys::{KEYS, Kind, join};
use super::problem::{Origins, in_toml};
use super::raw::Raw;
use crate::admin::{EffectiveConfig, Origin, Setting};

/// Returns the effective settings.
pub(super) fn read(raw: &Raw, origins: &Origins, settings: &Settings) -> EffectiveConfig {
    let mut found = Vec::new();
    // Strings, numbers, flags and lists of strings: JSON can represent all of them.
    let values = serde_json::to_value(raw).unwrap_or_default();
    walk("", &values, &mut |key, value| {
        let own = match value {
            Value::Null => None,
            value => Some(in_toml(value)),
        };
        found.push(Setting {
            value: own.or_else(|| derive_value(key, settings)),
            origin: origin(key, origins),
            about: KEYS.get(key).map_or("", |known| &known.about).to_owned(),
            key: key.to_owned(),
        });
    });
    EffectiveConfig {
        file: origins.file.clone(),
        settings: found,
    }
}

fn walk(path: &str, value: &Value, each: &mut impl FnMut(&str, &Value)) {
    let kind = KEYS.get(path).map(|key| &key.kind);
    match (value, kind) {
        (Value::Object(table), _) => {
            for (name, value) in table {
                walk(&join(path, name), value, each);
            }
        }
        (Value::Array(tables), Some(Kind::Tables)) if !tables.is_empty() => {
            for (at, table) in tables.iter().enumerate() {
                walk(&format!("{path}[{at}]"), table, each);
            }
        }
        (value, _) => each(path, value),
    }
}

fn origin(key: &str, origins: &Origins) -> Origin {
    match (origins.variables.get(key), origins.lines.get(key)) {
        (Some(name), _) => Origin::Variable(name.clone()),
        (None, Some(line)) => Origin::Line(*line),
        (None, None) => Origin::Default,
    }
}

/// Returns the value of a key that is not set and is derived from another.
fn derive_value(key: &str, settings: &Settings) -> Option<String> {
    let text = match key {
        "organization.hostname" => settings.journal.hostname.clone(),
        "delivery.report_from" => settings.journal.report_from.to_string(),
        "relay.helo_name" => settings.deliver.relay.helo_name.clone(),
        _ => return None,
    };
    Some(in_toml(&Value::String(text)))
}
