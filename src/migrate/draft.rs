//! A configuration while it is being written.
//!
//! Always valid TOML: values are quoted as needed, and no comment text can become a setting.

use std::fmt::Write;

use toml::Value;

use super::{Proposal, Remark};

/// Comments are wrapped to lines of this many characters, as those of `config/copyist.toml` are.
const WIDTH: usize = 118;

/// The text and the remarks.
#[derive(Debug, Default)]
pub(super) struct Draft {
    text: String,
    remarks: Vec<Remark>,
}

impl Draft {
    /// Returns the finished configuration.
    pub(super) fn finish(self) -> Proposal {
        Proposal {
            config: self.text,
            remarks: self.remarks,
        }
    }

    /// Writes an empty line.
    pub(super) fn gap(&mut self) {
        self.text.push('\n');
    }

    /// Starts a section.
    pub(super) fn section(&mut self, name: &str) {
        self.text.push_str("\n\n");
        let _ = writeln!(self.text, "[{name}]");
    }

    /// Writes a comment, one for each line of the text.
    pub(super) fn comment(&mut self, text: &str) {
        for line in text.split('\n') {
            self.write_wrapped(line);
        }
    }

    /// Writes a comment without wrapping, such as a command.
    pub(super) fn example(&mut self, line: &str) {
        let _ = writeln!(self.text, "#   {}", without_controls(line));
    }

    /// Writes a setting.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        let _ = writeln!(self.text, "{key} = {}", value.into());
    }

    /// Writes a setting that is commented out.
    pub(super) fn suggest(&mut self, key: &str, value: impl Into<Value>) {
        // Otherwise only the first line of a long value would be a comment.
        for line in format!("{key} = {}", value.into()).split('\n') {
            let _ = writeln!(self.text, "# {line}");
        }
    }

    /// Marks the next setting as a guess, in a comment and, with the key, in the remarks.
    pub(super) fn fill_in(&mut self, key: &str, text: &str) {
        self.comment(&format!("FILL IN: {text}"));
        self.remarks.push(Remark::FillIn(format!("{key}: {text}")));
    }

    /// Reports a setting without an equivalent.
    pub(super) fn no_equivalent(&mut self, text: &str) {
        self.comment(&format!("NO EQUIVALENT: {text}"));
        self.remarks.push(Remark::NoEquivalent(text.to_owned()));
    }

    /// Reports a change in behavior.
    pub(super) fn note(&mut self, text: &str) {
        self.comment(&format!("NOTE: {text}"));
        self.remarks.push(Remark::Note(text.to_owned()));
    }

    fn write_wrapped(&mut self, line: &str) {
        let mut length = 0;
        for word in without_controls(line).split(' ') {
            let characters = word.chars().count();
            let fits = length + 1 + characters <= WIDTH;
            match length {
                0 => self.text.push_str("# "),
                _ if fits => self.text.push(' '),
                _ => {
                    self.text.push_str("\n# ");
                    length = 0;
                }
            }
            // The first word of a line follows "# ".
            length += characters + if length == 0 { 2 } else { 1 };
            self.text.push_str(word);
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }
}

/// Escapes control characters, which TOML forbids in comments.
fn without_controls(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    for c in line.chars() {
        match c.is_control() {
            true => clean.extend(c.escape_default()),
            false => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_comment_is_wrapped_between_words() {
        let mut draft = Draft::default();
        draft.comment(&"word ".repeat(50));
        let text = draft.finish().config;
        assert!(text.lines().count() == 3, "{text}");
        assert!(
            text.lines()
                .all(|line| line.starts_with("# word") && line.len() <= WIDTH),
            "{text}"
        );
    }

    #[test]
    fn a_guess_is_marked_and_remarked() {
        let mut draft = Draft::default();
        draft.fill_in("relay.host", "the MTA");
        let proposal = draft.finish();
        assert_eq!(proposal.config, "# FILL IN: the MTA\n");
        assert_eq!(
            proposal.remarks[0].to_string(),
            "fill in: relay.host: the MTA"
        );
    }

    proptest! {
        #[test]
        fn no_text_escapes_its_comment_or_value(text in any::<String>()) {
            let mut draft = Draft::default();
            draft.comment(&text);
            draft.example(&text);
            draft.suggest("unused", text.as_str());
            draft.note(&text);
            draft.set("key", text.as_str());
            let config = draft.finish().config;
            let table: toml::Table = config.parse().expect("TOML");
            prop_assert_eq!(table.len(), 1);
            prop_assert_eq!(table["key"].as_str(), Some(text.as_str()));
        }
    }
}
