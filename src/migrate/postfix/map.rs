//! The names of Postfix's lookup tables, and the content of text tables (DATABASE_README, postmap(1),
//! postconf(5)).

use std::fmt;

/// A lookup table as named in `main.cf`: `hash:/etc/postfix/bcc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The table type: `hash`, `ldap`.
    pub kind: String,
    /// The name after the first colon: usually the path of a file.
    pub name: String,
}

/// The source of a table's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin<'a> {
    /// A text file, which `postmap` may index.
    File(&'a str),
    /// The output of `postmap -s`.
    Postmap,
    /// The same answer for every key.
    Always(&'a str),
    /// The file that defines an LDAP table.
    Ldap(&'a str),
    /// The prefix of the parameters in `main.cf` that define an LDAP table.
    LdapInMain(&'a str),
    /// The entries cannot be listed (patterns), or are elsewhere (a database, a server).
    Unlisted,
}

/// Returns the tables that a parameter lists.
///
/// ```
/// use copyist::migrate::postfix::maps;
///
/// let listed = maps("proxy:ldap:/etc/postfix/bcc.cf, hash:/etc/postfix/bcc");
/// assert_eq!(listed[0].to_string(), "ldap:/etc/postfix/bcc.cf");
/// assert_eq!(listed[1].kind, "hash");
/// ```
pub fn maps(value: &str) -> Vec<Map> {
    words(value).into_iter().map(Map::parse).collect()
}

impl Map {
    fn parse(written: &str) -> Map {
        let direct = ["proxy:", "proxywrite:"]
            .iter()
            .find_map(|proxy| written.strip_prefix(proxy))
            .unwrap_or(written);
        let (kind, name) = direct.split_once(':').unwrap_or((direct, ""));
        Map {
            kind: kind.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Returns the source of its content.
    pub fn origin(&self) -> Origin<'_> {
        match (self.kind.as_str(), self.name.as_str()) {
            ("hash" | "btree" | "lmdb" | "cdb" | "dbm" | "sdbm" | "texthash", name) => {
                Origin::File(name)
            }
            ("inline", _) => Origin::Postmap,
            ("static", name) => {
                let inside = name
                    .strip_prefix('{')
                    .and_then(|name| name.strip_suffix('}'));
                Origin::Always(inside.unwrap_or(name).trim())
            }
            ("ldap", name) if name.starts_with(['/', '.']) => Origin::Ldap(name),
            ("ldap", name) => Origin::LdapInMain(name),
            _ => Origin::Unlisted,
        }
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.name)
    }
}

/// Returns the words of a list: separated by commas or white space, except inside braces.
pub fn words(value: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (at, c) in value.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            c if depth == 0 && (c == ',' || c.is_whitespace()) => {
                words.push(&value[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    words.push(&value[start..]);
    words.retain(|word| !word.is_empty());
    words
}

/// Returns logical lines as Postfix does: a line that begins with white space continues the one
/// before; empty lines and those that begin with `#` are ignored.
pub(super) fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some(last) if line.starts_with(char::is_whitespace) => {
                last.push(' ');
                last.push_str(content);
            }
            _ => lines.push(content.to_owned()),
        }
    }
    lines
}

/// Returns the entries of a text table or of `postmap -s` output: key, white space, value.
///
/// ```
/// use copyist::migrate::postfix::entries;
///
/// let table = "# who     copy to\nana@example.com\n   archive@example.com\n";
/// assert_eq!(entries(table), [("ana@example.com".to_owned(), "archive@example.com".to_owned())]);
/// ```
pub fn entries(text: &str) -> Vec<(String, String)> {
    let lines = logical_lines(text);
    let entry = |line: &String| {
        let (key, value) = line.split_once(char::is_whitespace)?;
        Some((key.to_owned(), value.trim().to_owned()))
    };
    lines.iter().filter_map(entry).collect()
}

/// Returns the parameters of a file such as `main.cf`, or of `postconf` output: `name = value`.
pub fn parameters(text: &str) -> impl Iterator<Item = (String, String)> {
    logical_lines(text).into_iter().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_split_at_commas_and_white_space() {
        let listed =
            maps("hash:/a,btree:/b\n\tproxy:ldap:/c.cf, inline:{ {a@b=c@d}, {e=f} } static:{x@y}");
        let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
        let wanted = [
            "hash:/a",
            "btree:/b",
            "ldap:/c.cf",
            "inline:{ {a@b=c@d}, {e=f} }",
            "static:{x@y}",
        ];
        assert_eq!(listed, wanted);
        assert!(maps(" , ").is_empty());
    }

    #[test]
    fn every_table_type_has_a_source() {
        for (written, origin) in [
            ("lmdb:/a", Origin::File("/a")),
            ("texthash:/a", Origin::File("/a")),
            ("inline:{a=b}", Origin::Postmap),
            ("static:x@y", Origin::Always("x@y")),
            ("static:{ x@y }", Origin::Always("x@y")),
            ("ldap:/a.cf", Origin::Ldap("/a.cf")),
            ("ldap:source", Origin::LdapInMain("source")),
            ("pcre:/a", Origin::Unlisted),
            ("mysql:/a", Origin::Unlisted),
            ("nonsense", Origin::Unlisted),
        ] {
            assert_eq!(maps(written)[0].origin(), origin, "{written}");
        }
    }

    #[test]
    fn parameters_continue_over_indented_lines() {
        let text = "# x = y\nquery_filter = (|(mail=%s)\n    # (uid=%s)\n  (proxyAddresses=smtp:%s))\nbind=no\n";
        let read: Vec<_> = parameters(text).collect();
        let wanted = [
            ("query_filter", "(|(mail=%s) (proxyAddresses=smtp:%s))"),
            ("bind", "no"),
        ];
        assert_eq!(
            read,
            wanted.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
