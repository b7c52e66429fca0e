//! The text of an exported registry key, as Regedit and `reg export` write it → keys and their
//! values.
//!
//! Promises: reads both forms, "Windows Registry Editor Version 5.00" and "REGEDIT4", whole exports
//! as well as single keys; what it does not understand in a key that is `wanted` is a [`Fault`]
//! that names the line, and what it does not understand in another is passed over.
//!
//! Texts may hold line breaks, which Regedit writes as they are; `hex` data goes on over lines that
//! end in a backslash. The form is described in Microsoft's article 310516 ("How to add, modify, or
//! delete registry subkeys and values by using a .reg file").

use super::value::{self, Data, Form};
use crate::config::mistake::quoted;

/// A key and what the file says of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    /// `HKEY_LOCAL_MACHINE\…`
    pub(super) path: String,
    /// Whether the file deletes it: `[-HKEY_…]`.
    pub(super) is_deleted: bool,
    /// In the order of the file; a name may come again.
    pub(super) values: Vec<Entry>,
}

/// A value of a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Empty for the key's default value, `@`.
    pub(super) name: String,
    /// The line, counted from 1.
    pub(super) line: usize,
    /// `None` where the file deletes it: `"name"=-`.
    pub(super) data: Option<Data>,
}

/// What is wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The line, counted from 1; `None` where the file as a whole is meant.
    pub(super) line: Option<usize>,
    /// The value's name, where it is known.
    pub(super) name: Option<String>,
    /// What stands there.
    pub(super) seen: Option<String>,
    /// What is wrong with it; continues a sentence that begins with what stands there.
    pub(super) problem: String,
    /// What would work.
    pub(super) remedy: Option<String>,
}

/// The keys of a file, in its order; only of those that are `wanted` the values are told.
pub(super) fn keys(text: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Key>, Fault> {
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
            return Err(fault(
                number,
                line,
                "stands before any key",
                "a key is a line such as [HKEY_LOCAL_MACHINE\\SOFTWARE]",
            ));
        };
        if is_wanted {
            key.values.push(entry(number, &mut lines, form)?);
        }
    }
    Ok(keys)
}

fn form(lines: &mut Lines<'_>) -> Result<Form, Fault> {
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
            _ => Err(fault(
                number,
                line,
                "is not how an exported key begins: \"Windows Registry Editor Version 5.00\" or \"REGEDIT4\"",
                REMEDY,
            )),
        };
    }
    Err(Fault {
        line: None,
        name: None,
        seen: None,
        problem: "the file is empty".into(),
        remedy: Some(REMEDY.into()),
    })
}

fn key(line: &str) -> Option<Key> {
    let inside = line.strip_prefix('[')?;
    // A comment may stand behind it; a name may have brackets in it.
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

/// Reads the value that begins in the line that was given last.
fn entry(number: usize, lines: &mut Lines<'_>, form: Form) -> Result<Entry, Fault> {
    let line = lines.current().trim_start();
    let no_value = || {
        fault(
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
    let named = |fault: Fault| Fault {
        name: Some(name.clone()),
        ..fault
    };
    let data = match data.strip_prefix('"') {
        Some(inside) => {
            let (text, rest) = lines.text(number, &name, inside)?;
            let rest = rest.trim();
            if !rest.is_empty() && !rest.starts_with(';') {
                return Err(named(fault(
                    number,
                    rest,
                    "stands behind the text's closing quote",
                    "a quote in a text is written \\\"",
                )));
            }
            Some(Data::Text(text))
        }
        None => {
            let data = lines.continued(data);
            let data = data.split(';').next().unwrap_or_default().trim();
            match data {
                "-" => None,
                data => Some(value::data(data, form).map_err(|problem| {
                    named(fault(
                        number,
                        data,
                        problem,
                        "write for example dword:80360000, or \"archive@example.com\"",
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

/// The text up to its closing quote or the end of the line, and what stands behind the quote where
/// there is one. Fails with the character behind a backslash that means nothing.
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

fn escape(number: usize, name: Option<&str>, c: char) -> Fault {
    Fault {
        name: name.map(str::to_owned),
        ..fault(
            number,
            &format!("\\{c}"),
            "means nothing in an exported key",
            "write a backslash as \\\\ and a quote as \\\"",
        )
    }
}

fn fault(line: usize, seen: &str, problem: impl Into<String>, remedy: &str) -> Fault {
    Fault {
        line: Some(line),
        name: None,
        seen: Some(quoted(seen)),
        problem: problem.into(),
        remedy: Some(remedy.to_owned()),
    }
}

struct Lines<'a> {
    lines: Vec<&'a str>,
    next: usize,
}

impl<'a> Lines<'a> {
    /// The next line and its number.
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let line = self.lines.get(self.next)?;
        self.next += 1;
        Some((self.next, line))
    }

    /// The line that was given last.
    fn current(&self) -> &'a str {
        let last = self.next.checked_sub(1);
        last.and_then(|at| self.lines.get(at))
            .copied()
            .unwrap_or_default()
    }

    /// A text that begins in the current line, and what stands behind its closing quote.
    fn text(
        &mut self,
        number: usize,
        name: &str,
        inside: &'a str,
    ) -> Result<(String, &'a str), Fault> {
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
                return Err(Fault {
                    name: Some(name.to_owned()),
                    ..fault(
                        number,
                        inside,
                        "is a text without a closing quote",
                        "end it with \"; a quote in it is written \\\"",
                    )
                });
            };
            line = following;
        }
    }

    /// Data that begins in the current line, with the lines that it goes on over.
    fn continued(&mut self, begin: &str) -> String {
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

    fn read(body: &str) -> Result<Vec<Key>, Fault> {
        let text = format!("REGEDIT4\r\n\r\n{}", body.replace('\n', "\r\n"));
        keys(&text, |path| path == OURS)
    }

    /// The values of the one key that matters, from a body of such values.
    fn values(body: &str) -> Vec<(String, Option<Data>)> {
        let mut keys = read(&format!("[{OURS}]\n{body}")).expect("a key");
        let values = keys.remove(0).values.into_iter();
        values.map(|entry| (entry.name, entry.data)).collect()
    }

    fn fault(body: &str) -> Fault {
        read(&format!("[{OURS}]\n{body}")).expect_err(body)
    }

    fn text(text: &str) -> Option<Data> {
        Some(Data::Text(text.into()))
    }

    #[test]
    fn texts_numbers_comments_and_deletions_are_told_apart() {
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
        let fault = fault(r#""a"="first\par second""#);
        assert_eq!(fault.seen.as_deref(), Some(r#""\\p""#));
        assert!(fault.remedy.expect("one").contains(r"\\"));
    }

    #[test]
    fn a_text_goes_on_over_lines_until_its_closing_quote() {
        let body = "\"a\"=\"one\n[two]\n\\\"three\\\"\"\n\"b\"=\"x\"\n";
        let wanted = [
            ("a".into(), text("one\n[two]\n\"three\"")),
            ("b".into(), text("x")),
        ];
        assert_eq!(values(body), wanted);
    }

    #[test]
    fn data_goes_on_over_lines_that_end_in_a_backslash() {
        let body = "\"a\"=hex(4):00,\\\n  00,36,\\\n  80\n\"b\"=\"x\"\n";
        let wanted = [
            ("a".into(), Some(Data::Number(0x8036_0000))),
            ("b".into(), text("x")),
        ];
        assert_eq!(values(body), wanted);
    }

    #[test]
    fn a_fault_names_its_line_what_stands_there_and_what_would_work() {
        for (body, line, seen, problem) in [
            ("x=1", 4, "\"x=1\"", "neither a key"),
            ("\"a\"", 4, "\"\\\"a\\\"\"", "neither a key"),
            ("\n\"a\"=dword:z", 5, "\"dword:z\"", "not a dword"),
            ("\"a\"=\"b\nc\n", 4, "\"b\"", "closing quote"),
            (
                "\"a\"=\"b\"c\"",
                4,
                "\"c\\\"\"",
                "behind the text's closing quote",
            ),
            ("\"a\"=", 4, "\"\"", "no data"),
        ] {
            let fault = fault(body);
            assert_eq!(fault.line, Some(line), "{body}");
            assert_eq!(fault.seen.as_deref(), Some(seen), "{body}");
            assert!(fault.problem.contains(problem), "{body}: {}", fault.problem);
            assert!(fault.remedy.is_some(), "{body}");
        }
    }

    #[test]
    fn what_is_no_exported_key_is_refused_by_its_first_line() {
        for text in ["", "\n\n", "[HKLM]\n", "regf", "Key Name: SYSTEM\n"] {
            let fault = keys(text, |_| true).expect_err(text);
            assert!(fault.remedy.expect("one").contains("reg export"), "{text}");
        }
        let fault = read("\"a\"=\"b\"").expect_err("a value without a key");
        assert!(fault.problem.contains("before any key"));
    }

    #[test]
    fn what_other_keys_hold_does_not_matter() {
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
