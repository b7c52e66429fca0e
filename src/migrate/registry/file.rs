//! The text of an exported registry key, as Regedit and `reg export` write it → keys and their
//! values.
//!
//! Reads both formats, "Windows Registry Editor Version 5.00" and "REGEDIT4", whole exports as well
//! as single keys. Invalid lines in a key that is `wanted` are a [`RegistryProblem`] with the line
//! number; those in other keys are skipped.
//!
//! Strings may contain line breaks, which Regedit writes as they are; `hex` data continues over lines
//! that end in a backslash. Microsoft's article 310516 describes the format ("How to add, modify, or
//! delete registry subkeys and values by using a .reg file").

use super::value::{self, Data, Form};
use crate::config::problem::quote;

/// A key of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    /// `HKEY_LOCAL_MACHINE\…`
    pub(super) path: String,
    /// Whether the file deletes it: `[-HKEY_…]`.
    pub(super) is_deleted: bool,
    /// The values in the order of the file; a name may be repeated.
    pub(super) values: Vec<Entry>,
}

/// A value of a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Empty for the key's default value, `@`.
    pub(super) name: String,
    /// The line, counted from 1.
    pub(super) line: usize,
    /// `None` if the file deletes it: `"name"=-`.
    pub(super) data: Option<Data>,
}

/// A problem in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegistryProblem {
    /// The line, counted from 1; `None` if the problem concerns the whole file.
    pub(super) line: Option<usize>,
    /// The value's name, if known.
    pub(super) name: Option<String>,
    /// The invalid value.
    pub(super) value: Option<String>,
    /// The problem; continues a sentence that begins with the value.
    pub(super) text: String,
    /// The fix.
    pub(super) remedy: Option<String>,
}

/// Returns the keys of a file in its order; only those that are `wanted` have values.
pub(super) fn keys(text: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Key>, RegistryProblem> {
    let lines: Vec<&str> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let mut lines = Lines { lines, next: 0 };
    let form = form(&mut lines)?;
    let mut keys: Vec<Key> = Vec::new();
    let mut is_wanted = false;
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        if let Some(key) = key(line) {
            is_wanted = wanted(&key.path);
            keys.push(key);
            continue;
        }
        let Some(key) = keys.last_mut() else {
            return Err(invalid(
                number,
                line,
                "is before any key",
                "a key is a line such as [HKEY_LOCAL_MACHINE\\SOFTWARE]",
            ));
        };
        if is_wanted {
            key.values.push(entry(number, &mut lines, form)?);
        }
    }
    Ok(keys)
}

fn form(lines: &mut Lines<'_>) -> Result<Form, RegistryProblem> {
    const REMEDY: &str = "export the key with Regedit, or with reg export \
        \"HKLM\\SYSTEM\\CurrentControlSet\\Services\\MSExchangeIMC\\Parameters\\Extension\" FILE.reg";
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        return match line {
            "Windows Registry Editor Version 5.00" => Ok(Form::Version5),
            "REGEDIT4" => Ok(Form::Regedit4),
            _ => Err(invalid(
                number,
                line,
                "is not the first line of an exported key: \"Windows Registry Editor Version 5.00\" or \"REGEDIT4\"",
                REMEDY,
            )),
        };
    }
    Err(RegistryProblem {
        line: None,
        name: None,
        value: None,
        text: "the file is empty".into(),
        remedy: Some(REMEDY.into()),
    })
}

fn key(line: &str) -> Option<Key> {
    let inside = line.strip_prefix('[')?;
    // A comment may follow; a name may contain brackets.
    let (path, _) = inside.rsplit_once(']')?;
    let (is_deleted, path) = match path.strip_prefix('-') {
        Some(path) => (true, path),
        None => (false, path),
    };
    Some(Key {
        path: path.to_owned(),
        is_deleted,
        values: Vec::new(),
    })
}

/// Reads the value that begins in the current line.
fn entry(number: usize, lines: &mut Lines<'_>, form: Form) -> Result<Entry, RegistryProblem> {
    let line = lines.current().trim_start();
    let no_value = || {
        invalid(
            number,
            line,
            "is neither a key, nor a value, nor a comment",
            "a value is a line such as \"InboundJournal\"=\"archive@example.com\"",
        )
    };
    let (name, rest) = match line.strip_prefix('@') {
        Some(rest) => (String::new(), rest),
        None => {
            let inside = line.strip_prefix('"').ok_or_else(no_value)?;
            match text(inside).map_err(|c| escape(number, None, c))? {
                (name, Some(rest)) => (name, rest),
                (_, None) => return Err(no_value()),
            }
        }
    };
    let data = rest
        .trim_start()
        .strip_prefix('=')
        .ok_or_else(no_value)?
        .trim_start();
    let named = |problem: RegistryProblem| RegistryProblem {
        name: Some(name.clone()),
        ..problem
    };
    let data = match data.strip_prefix('"') {
        Some(inside) => {
            let (text, rest) = lines.text(number, &name, inside)?;
            let rest = rest.trim();
            if !rest.is_empty() && !rest.starts_with(';') {
                return Err(named(invalid(
                    number,
                    rest,
                    "follows the closing quote of a string",
                    "write a quote in a string as \\\"",
                )));
            }
            Some(Data::Text(text))
        }
        None => {
            let data = lines.read_continued(data);
            let data = data.split(';').next().unwrap_or_default().trim();
            match data {
                "-" => None,
                data => Some(value::data(data, form).map_err(|problem| {
                    named(invalid(
                        number,
                        data,
                        problem,
                        "for example: dword:80360000, or \"archive@example.com\"",
                    ))
                })?),
            }
        }
    };
    Ok(Entry {
        name,
        line: number,
        data,
    })
}

/// Returns the string up to its closing quote or the end of the line, and the rest after the quote.
/// Fails with the character of an unknown escape.
fn text(inside: &str) -> Result<(String, Option<&str>), char> {
    let mut read = String::new();
    let mut characters = inside.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Ok((read, Some(&inside[at + 1..]))),
            '\\' => match characters.next() {
                Some((_, escaped @ ('\\' | '"'))) => read.push(escaped),
                Some((_, other)) => return Err(other),
                None => return Err('\n'),
            },
            c => read.push(c),
        }
    }
    Ok((read, None))
}

fn escape(number: usize, name: Option<&str>, c: char) -> RegistryProblem {
    RegistryProblem {
        name: name.map(str::to_owned),
        ..invalid(
            number,
            &format!("\\{c}"),
            "is an unknown escape in an exported key",
            "write a backslash as \\\\ and a quote as \\\"",
        )
    }
}

fn invalid(line: usize, value: &str, text: impl Into<String>, remedy: &str) -> RegistryProblem {
    RegistryProblem {
        line: Some(line),
        name: None,
        value: Some(quote(value)),
        text: text.into(),
        remedy: Some(remedy.to_owned()),
    }
}

struct Lines<'a> {
    lines: Vec<&'a str>,
    next: usize,
}

impl<'a> Lines<'a> {
    /// Returns the next line and its number.
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let line = self.lines.get(self.next)?;
        self.next += 1;
        Some((self.next, line))
    }

    /// Returns the current line.
    fn current(&self) -> &'a str {
        let last = self.next.checked_sub(1);
        last.and_then(|at| self.lines.get(at))
            .copied()
            .unwrap_or_default()
    }

    /// Reads a string that begins in the current line; also returns the rest after its closing quote.
    fn text(
        &mut self,
        number: usize,
        name: &str,
        inside: &'a str,
    ) -> Result<(String, &'a str), RegistryProblem> {
        let mut whole = String::new();
        let mut line = inside;
        loop {
            let (read, rest) = text(line).map_err(|c| escape(self.next, Some(name), c))?;
            whole.push_str(&read);
            if let Some(rest) = rest {
                return Ok((whole, rest));
            }
            whole.push('\n');
            let Some((_, following)) = self.next() else {
                return Err(RegistryProblem {
                    name: Some(name.to_owned()),
                    ..invalid(
                        number,
                        inside,
                        "is a string without a closing quote",
                        "end it with \"; write a quote in it as \\\"",
                    )
                });
            };
            line = following;
        }
    }

    /// Reads data that begins in the current line, with its continuation lines.
    fn read_continued(&mut self, begin: &str) -> String {
        let mut whole = String::new();
        let mut line = begin.trim_end();
        while let Some(part) = line.strip_suffix('\\') {
            whole.push_str(part);
            line = self.next().map_or("", |(_, line)| line.trim());
        }
        whole.push_str(line);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "HKLM\\Ours";

    fn read(body: &str) -> Result<Vec<Key>, RegistryProblem> {
        let text = format!("REGEDIT4\r\n\r\n{}", body.replace('\n', "\r\n"));
        keys(&text, |path| path == OURS)
    }

    /// The values of the one key that matters, from a body of such values.
    fn values(body: &str) -> Vec<(String, Option<Data>)> {
        let mut keys = read(&format!("[{OURS}]\n{body}")).expect("a key");
        let values = keys.remove(0).values.into_iter();
        values.map(|entry| (entry.name, entry.data)).collect()
    }

    fn invalid(body: &str) -> RegistryProblem {
        read(&format!("[{OURS}]\n{body}")).expect_err(body)
    }

    fn text(text: &str) -> Option<Data> {
        Some(Data::Text(text.into()))
    }

    #[test]
    fn strings_numbers_comments_and_deletions_are_read() {
        let body =
            "; a comment\n@=\"default\"\n\"a\"=\"b\" ; why\n  \"n\" = dword:0000000a\n\"gone\"=-\n";
        let wanted = [
            (String::new(), text("default")),
            ("a".into(), text("b")),
            ("n".into(), Some(Data::Number(10))),
            ("gone".into(), None),
        ];
        assert_eq!(values(body), wanted);
    }

    #[test]
    fn backslashes_and_quotes_in_texts_are_escaped() {
        let body = r#""a\\b"="{\\rtf1 \"x\"\\par}""#;
        assert_eq!(values(body), [(r"a\b".into(), text(r#"{\rtf1 "x"\par}"#))]);
        let problem = invalid(r#""a"="first\par second""#);
        assert_eq!(problem.value.as_deref(), Some(r#""\\p""#));
        assert!(problem.remedy.expect("one").contains(r"\\"));
    }

    #[test]
    fn a_string_continues_until_its_closing_quote() {
        let body = "\"a\"=\"one\n[two]\n\\\"three\\\"\"\n\"b\"=\"x\"\n";
        let wanted = [
            ("a".into(), text("one\n[two]\n\"three\"")),
            ("b".into(), text("x")),
        ];
        assert_eq!(values(body), wanted);
    }

    #[test]
    fn data_continues_after_a_backslash() {
        let body = "\"a\"=hex(4):00,\\\n  00,36,\\\n  80\n\"b\"=\"x\"\n";
        let wanted = [
            ("a".into(), Some(Data::Number(0x8036_0000))),
            ("b".into(), text("x")),
        ];
        assert_eq!(values(body), wanted);
    }

    #[test]
    fn a_problem_names_line_value_and_fix() {
        for (body, line, value, text) in [
            ("x=1", 4, "\"x=1\"", "neither a key"),
            ("\"a\"", 4, "\"\\\"a\\\"\"", "neither a key"),
            ("\n\"a\"=dword:z", 5, "\"dword:z\"", "not a dword"),
            ("\"a\"=\"b\nc\n", 4, "\"b\"", "closing quote"),
            (
                "\"a\"=\"b\"c\"",
                4,
                "\"c\\\"\"",
                "follows the closing quote",
            ),
            ("\"a\"=", 4, "\"\"", "not the data"),
        ] {
            let problem = invalid(body);
            assert_eq!(problem.line, Some(line), "{body}");
            assert_eq!(problem.value.as_deref(), Some(value), "{body}");
            assert!(problem.text.contains(text), "{body}: {}", problem.text);
            assert!(problem.remedy.is_some(), "{body}");
        }
    }

    #[test]
    fn other_files_are_rejected_by_their_first_line() {
        for text in ["", "\n\n", "[HKLM]\n", "regf", "Key Name: SYSTEM\n"] {
            let problem = keys(text, |_| true).expect_err(text);
            assert!(
                problem.remedy.expect("one").contains("reg export"),
                "{text}"
            );
        }
        let problem = read("\"a\"=\"b\"").expect_err("a value without a key");
        assert!(problem.text.contains("before any key"));
    }

    #[test]
    fn other_keys_are_skipped() {
        let keys = read(
            "[HKLM\\Other]\nnonsense\n\"a\"=dword:z\n[-HKLM\\Gone]\n[HKLM\\Ours]\n\"a\"=\"b\"",
        )
        .expect("sound");
        let found: Vec<_> = keys
            .iter()
            .map(|key| (key.path.as_str(), key.is_deleted, key.values.len()))
            .collect();
        let wanted = [
            ("HKLM\\Other", false, 0),
            ("HKLM\\Gone", true, 0),
            ("HKLM\\Ours", false, 1),
        ];
        assert_eq!(found, wanted);
    }
}
