//! Text sources of maps: the formats of postmap(1) and postalias(1), and Postfix's `name = value`
//! files.

use std::collections::HashMap;

use super::tokens::{Token, fold, internal, scan};

/// Joins continuation lines and drops comments and empty lines. Lines that are not UTF-8 are left
/// out, as Postfix leaves them out.
pub(super) fn logical_lines(text: &[u8]) -> Vec<String> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    // A line that begins with a space continues the line before it.
    for line in text.split(|byte| *byte == b'\n') {
        let starts_with_space = line.first().is_some_and(u8::is_ascii_whitespace);
        let content = line.trim_ascii_start();
        if content.is_empty() || content.starts_with(b"#") {
            continue;
        }
        match lines.last_mut() {
            Some(last) if starts_with_space => last.extend_from_slice(line),
            None if starts_with_space => {}
            _ => lines.push(line.to_vec()),
        }
    }
    let lines = lines.into_iter();
    lines
        .filter_map(|line| String::from_utf8(line).ok())
        .collect()
}

/// Parses lines `key value` of postmap(1). The first of two entries for a key counts.
pub(super) fn map_entries(text: &[u8]) -> HashMap<String, String> {
    let mut entries = HashMap::new();
    for line in logical_lines(text) {
        let Some((key, value)) = split_key(&line) else {
            continue;
        };
        let value = value.trim_ascii();
        if !key.is_empty() && !value.is_empty() {
            let key = fold(key).into_owned();
            entries.entry(key).or_insert_with(|| value.to_owned());
        }
    }
    entries
}

/// Splits at the first space outside quotes.
fn split_key(line: &str) -> Option<(&str, &str)> {
    let mut in_quotes = false;
    let mut rest = line.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' => {
                rest.next();
            }
            '"' => in_quotes = !in_quotes,
            c if c.is_ascii_whitespace() && !in_quotes => return Some((&line[..at], &line[at..])),
            _ => {}
        }
    }
    None
}

/// Parses lines `name: value` of aliases(5). The first of two entries for a name counts.
pub(super) fn alias_entries(text: &[u8]) -> HashMap<String, String> {
    let mut entries = HashMap::new();
    for line in logical_lines(text) {
        let Some((name, value)) = split_alias(&line) else {
            continue;
        };
        entries.entry(name).or_insert_with(|| value.to_owned());
    }
    entries
}

fn split_alias(line: &str) -> Option<(String, &str)> {
    // The colon that ends the name is outside quotes, backslashes and comments.
    let (mut in_quotes, mut depth) = (false, 0_u32);
    let mut rest = line.char_indices();
    let colon = loop {
        let (at, c) = rest.next()?;
        match c {
            '\\' => {
                rest.next();
            }
            '"' if depth == 0 => in_quotes = !in_quotes,
            '(' if !in_quotes => depth += 1,
            ')' if !in_quotes => depth = depth.saturating_sub(1),
            ':' if !in_quotes && depth == 0 => break at,
            _ => {}
        }
    };
    let (name, value) = (scan(&line[..colon]), line[colon + 1..].trim_ascii());
    let is_bad = |token: &Token| matches!(token, Token::Operator(',' | '@' | '%'));
    let name_text = fold(&internal(&name)).into_owned();
    let is_alias = !name_text.is_empty() && !value.is_empty() && !name.iter().any(is_bad);
    is_alias.then_some((name_text, value))
}

/// Parses lines `name = value`, as in main.cf and the files of LDAP maps. The last of two counts.
pub(super) fn parameters(text: &[u8]) -> HashMap<String, String> {
    let lines = logical_lines(text).into_iter();
    lines
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.trim_ascii().to_owned(), value.trim_ascii().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuation_lines_and_comments() {
        let text = b"# first\n  stray\na b\n  c,\n# between\n\n  d\n#e\ne f\n";
        assert_eq!(logical_lines(text), ["a b  c,  d", "e f"]);
    }

    #[test]
    fn map_lines_split_at_the_first_space_outside_quotes() {
        let entries = map_entries(
            b"A@X.test  b c \n\"d e\"@x.test f\n@old.test @new.test\nlonely\nA@x.TEST z\n",
        );
        assert_eq!(entries["a@x.test"], "b c");
        assert_eq!(entries["\"d e\"@x.test"], "f");
        assert_eq!(entries["@old.test"], "@new.test");
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn alias_lines_split_at_the_first_colon() {
        let entries = alias_entries(
            b"Dan: \\dan, archive@x.test,\n \"|/bin/x y\", :include:/tmp/list\n\"quoted name\" : a\nx@y: no\nempty:\n",
        );
        assert_eq!(
            entries["dan"],
            "\\dan, archive@x.test, \"|/bin/x y\", :include:/tmp/list"
        );
        assert_eq!(entries["quoted name"], "a");
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn parameters_keep_equal_signs_in_values() {
        let all = parameters(b"query_filter = (mail=%s)\nserver_host = ldap://a\n  ldap://b\n");
        assert_eq!(all["query_filter"], "(mail=%s)");
        assert_eq!(all["server_host"], "ldap://a  ldap://b");
    }
}
