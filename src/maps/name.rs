//! Names of maps, `type:name` as in main.cf, and the supported types.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The name of a supported address map, such as `hash:/etc/aliases`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapName {
    text: String,
    pub(super) kind: MapKind,
}

/// The kind of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MapKind {
    /// A text file.
    Text(PathBuf),
    /// An indexed file beside a text file.
    Indexed {
        map_type: String,
        /// The text file.
        source: PathBuf,
        /// The indexed file.
        index: PathBuf,
    },
    /// Entries in the name itself.
    Inline(Vec<(String, String)>),
    /// The same value for every key.
    Static(String),
    /// The values of all these maps, joined.
    Union(Vec<MapName>),
    /// The value of each map is the key of the next.
    Pipe(Vec<MapName>),
    /// A file with the parameters of ldap_table(5).
    Ldap(PathBuf),
}

/// Error of parsing the name of a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapNameError {
    /// A type of map that only the MTA can read.
    #[error(
        "{0}: maps of this type are not supported; use a hook behind the rewriting to journal mail that the MTA rewrites by it"
    )]
    NotCovered(String),
    /// No type.
    #[error("no map type in {0:?}; use for example hash:/etc/aliases")]
    NoType(String),
    /// A path that is not absolute.
    #[error("{0}: the path of the file must be absolute")]
    Relative(String),
    /// Braces or entries that cannot be read.
    #[error("{map}: {reason}")]
    Syntax {
        /// The name.
        map: String,
        /// The problem.
        reason: &'static str,
    },
}

impl MapName {
    /// Parses a list as printed by postconf(1): names separated by commas or spaces.
    pub fn parse_list(text: &str) -> Vec<Result<MapName, MapNameError>> {
        match split(text) {
            Some(names) => names.into_iter().map(str::parse).collect(),
            None => vec![Err(unbalanced(text))],
        }
    }

    /// Returns the files of the map, for reports.
    pub fn files(&self) -> Vec<&Path> {
        match &self.kind {
            MapKind::Text(path) | MapKind::Ldap(path) => vec![path],
            MapKind::Indexed { index, .. } => vec![index],
            MapKind::Inline(_) | MapKind::Static(_) => vec![],
            MapKind::Union(all) | MapKind::Pipe(all) => {
                all.iter().flat_map(MapName::files).collect()
            }
        }
    }
}

impl FromStr for MapName {
    type Err = MapNameError;

    fn from_str(text: &str) -> Result<MapName, MapNameError> {
        let text = text.trim();
        let mut inner = text;
        while let Some(proxied) = inner.strip_prefix("proxy:") {
            inner = proxied;
        }
        let Some((map_type, name)) = inner.split_once(':') else {
            return Err(MapNameError::NoType(text.to_owned()));
        };
        let path = || match name.starts_with('/') {
            true => Ok(PathBuf::from(name)),
            false => Err(MapNameError::Relative(text.to_owned())),
        };
        let kind = match map_type {
            "texthash" => MapKind::Text(path()?),
            "hash" | "btree" | "lmdb" | "cdb" | "dbm" | "sdbm" => {
                let suffix = match map_type {
                    "hash" | "btree" => "db",
                    "dbm" | "sdbm" => "pag",
                    other => other,
                };
                let source = path()?;
                MapKind::Indexed {
                    map_type: map_type.to_owned(),
                    index: PathBuf::from(format!("{name}.{suffix}")),
                    source,
                }
            }
            "ldap" => match name.starts_with('/') {
                true => MapKind::Ldap(PathBuf::from(name)),
                // Its parameters stand in main.cf.
                false => return Err(MapNameError::NotCovered(text.to_owned())),
            },
            "inline" => MapKind::Inline(inline_entries(name).map_err(|reason| {
                let map = text.to_owned();
                MapNameError::Syntax { map, reason }
            })?),
            "static" => {
                let braces = name.strip_prefix('{').and_then(|n| n.strip_suffix('}'));
                MapKind::Static(braces.map_or(name, str::trim).to_owned())
            }
            "unionmap" | "pipemap" => {
                let braces = name.strip_prefix('{').and_then(|n| n.strip_suffix('}'));
                let names = braces.and_then(split).filter(|names| !names.is_empty());
                let names = names.ok_or_else(|| unbalanced(text))?;
                let names = names.into_iter().map(str::parse);
                let names: Vec<MapName> = names.collect::<Result<_, _>>()?;
                match map_type {
                    "unionmap" => MapKind::Union(names),
                    _ => MapKind::Pipe(names),
                }
            }
            _ => return Err(MapNameError::NotCovered(text.to_owned())),
        };
        let text = text.to_owned();
        Ok(MapName { text, kind })
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn unbalanced(text: &str) -> MapNameError {
    MapNameError::Syntax {
        map: text.to_owned(),
        reason: "the braces are empty or do not match",
    }
}

/// Splits at commas and spaces outside braces.
fn split(text: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut depth, mut from) = (0_usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            c if depth == 0 && (c == ',' || c.is_ascii_whitespace()) => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts.retain(|part| !part.is_empty());
    (depth == 0).then_some(parts)
}

fn inline_entries(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    const FORM: &str = "write inline:{name=value, {name = value with spaces}}";
    let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
    let parts = inner.and_then(split).ok_or(FORM)?;
    if parts.is_empty() {
        return Err(FORM);
    }
    let entry = |part: &str| {
        let braces = part.strip_prefix('{').and_then(|p| p.strip_suffix('}'));
        let (key, value) = split_entry(braces.unwrap_or(part).trim())?;
        (!key.is_empty() && !value.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    };
    let entries = parts.into_iter().map(|part| entry(part).ok_or(FORM));
    entries.collect()
}

/// Splits `name = value`; the name may be quoted.
fn split_entry(text: &str) -> Option<(&str, &str)> {
    let mut in_quotes = false;
    let at = text.char_indices().find_map(|(at, c)| {
        in_quotes ^= c == '"';
        (c == '=' && !in_quotes).then_some(at)
    })?;
    Some((text[..at].trim(), text[at + 1..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covered_types_are_read() {
        for text in [
            "hash:/etc/aliases",
            "texthash:/etc/postfix/virtual",
            "lmdb:/etc/postfix/virtual",
            "proxy:hash:/etc/aliases",
            "proxy:ldap:/etc/postfix/users.cf",
            "inline:{a=b, {c d=e, f}}",
            "static:everybody",
            "unionmap:{hash:/a, inline:{b=c}}",
            "pipemap:{hash:/a,hash:/b}",
        ] {
            let name: MapName = text.parse().expect(text);
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn other_types_are_named_as_not_covered() {
        for text in [
            "regexp:/etc/postfix/x",
            "pcre:/etc/postfix/x",
            "mysql:/etc/postfix/x.cf",
            "socketmap:unix:/run/x:y",
            "tcp:host:1",
            "ldap:users",
            "unionmap:{hash:/a, pcre:/b}",
            "proxy:pgsql:/x",
        ] {
            let error = text.parse::<MapName>().expect_err(text);
            assert!(matches!(error, MapNameError::NotCovered(_)), "{error}");
            assert!(error.to_string().contains("hook behind the rewriting"));
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for text in [
            "/etc/aliases",
            "hash:aliases",
            "inline:{}",
            "inline:{a}",
            "unionmap:{}",
        ] {
            let error = text.parse::<MapName>().expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn lists_split_outside_braces() {
        let all = MapName::parse_list("hash:/a, inline:{ x=y, z=w } pcre:/b,");
        assert_eq!(all.len(), 3);
        assert!(all[0].is_ok() && all[1].is_ok() && all[2].is_err());
    }
}
