//! A configuration while it is being written.
//!
//! Promises: it is TOML whatever it is given: values are quoted as they need it, and no text of a
//! comment becomes a line of its own.

use std::fmt::Write;

use toml::Value;

use super::{Proposal, Remark};

/// Comments are wrapped to lines of this many characters, as those of `config/copyist.toml` are.
const WIDTH: usize = 118;

/// The text so far, and what was remarked on the way.
#[derive(Debug, Default)]
pub(super) struct Draft {
    text: String,
    remarks: Vec<Remark>,
}

impl Draft {
    /// The whole.
    pub(super) fn finish(self) -> Proposal {
        Proposal {
            config: self.text,
            remarks: self.remarks,
        }
    }

    /// An empty line.
    pub(super) fn gap(&mut self) {
        self.text.push('\n');
    }

    /// Begins a section.
    pub(super) fn section(&mut self, name: &str) {
        self.text.push_str("\n\n");
        let _ = writeln!(self.text, "[{name}]");
    }

    /// A comment; each line of the text begins one of its own.
    pub(super) fn comment(&mut self, text: &str) {
        for line in text.split('\n') {
            self.wrapped(line);
        }
    }

    /// A comment that is to be copied as it is, such as a command.
    pub(super) fn example(&mut self, line: &str) {
        let _ = writeln!(self.text, "#   {}", without_controls(line));
    }

    /// A setting.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        let _ = writeln!(self.text, "{key} = {}", value.into());
    }

    /// A setting that a person may take into use by taking away the `#`.
    pub(super) fn suggest(&mut self, key: &str, value: impl Into<Value>) {
        // A text of several lines would leave the comment.
        for line in format!("{key} = {}", value.into()).split('\n') {
            let _ = writeln!(self.text, "# {line}");
        }
    }

    /// Says above the next setting that it was guessed, and among the remarks as well, with the
    /// key's name.
    pub(super) fn fill_in(&mut self, key: &str, text: &str) {
        self.comment(&format!("FILL IN: {text}"));
        self.remarks.push(Remark::FillIn(format!("{key}: {text}")));
    }

    /// Says that something has no equivalent.
    pub(super) fn no_equivalent(&mut self, text: &str) {
        self.comment(&format!("NO EQUIVALENT: {text}"));
        self.remarks.push(Remark::NoEquivalent(text.to_owned()));
    }

    /// Says that something will be other than it was.
    pub(super) fn note(&mut self, text: &str) {
        self.comment(&format!("NOTE: {text}"));
        self.remarks.push(Remark::Note(text.to_owned()));
    }

    fn wrapped(&mut self, line: &str) {
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
            // The first word of a line stands behind "# ".
            length += characters + if length == 0 { 2 } else { 1 };
            self.text.push_str(word);
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }
}

/// TOML has no control characters in comments.
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
    fn what_was_guessed_is_marked_in_the_text_and_remarked() {
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
        fn no_text_leaves_its_comment_or_its_value(text in any::<String>()) {
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
