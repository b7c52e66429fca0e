//! Recognition of a text in a conversation.
//!
//! A reply quotes the words of the message it answers, but little else: lines are rewrapped, HTML
//! becomes plain text or the reverse, comments, classes and invisible characters are lost. So the
//! fingerprint of a text is its letters and digits in order.

/// Shorter fingerprints would match unrelated text.
pub(super) const SHORTEST: usize = 12;

/// The letters and digits of a text, lowercased.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Creates the fingerprint of a text; `None` if it is too short to be recognized.
    pub fn of(words: &str) -> Option<Fingerprint> {
        let letters = letters(words);
        (letters.chars().count() >= SHORTEST).then_some(Fingerprint(letters))
    }

    /// Whether the text occurs in these words.
    pub fn is_in(&self, words: &str) -> bool {
        memchr::memmem::find(letters(words).as_bytes(), self.0.as_bytes()).is_some()
    }
}

fn letters(words: &str) -> String {
    let letters = words.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_recognized_in_a_reply() {
        let mark = Fingerprint::of("This mail is confidential. Tell nobody!\nCorp AG, Bern")
            .expect("enough");
        assert!(mark.is_in("Yes.\r\n> > This mail is\r\n> > confidential. *Tell\r\n> > nobody*!\r\n> > Corp AG, Bern\r\n"));
        assert!(!mark.is_in("This mail is confidential."));
        assert_eq!(Fingerprint::of("Corp AG"), None);
    }
}
