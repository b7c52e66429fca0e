//! What a text is known by in a conversation.
//!
//! A reply carries the words of what it answers, and hardly anything else of it: quoted, broken
//! anew, turned from HTML to plain text or back, without comments, classes or invisible characters.
//! So the mark of a text is its own words: letters and digits in their order.

/// Marks of fewer letters would be found where the text is not.
pub(super) const SHORTEST: usize = 12;

/// A mark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Of these words; `None` where they are too few to be known by.
    pub fn of(words: &str) -> Option<Fingerprint> {
        let letters = letters(words);
        (letters.chars().count() >= SHORTEST).then_some(Fingerprint(letters))
    }

    /// Whether the text stands in these words.
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
    fn a_text_is_known_again_in_a_reply() {
        let mark = Fingerprint::of("This mail is confidential. Tell nobody!\nCorp AG, Bern")
            .expect("enough");
        assert!(mark.is_in("Yes.\r\n> > This mail is\r\n> > confidential. *Tell\r\n> > nobody*!\r\n> > Corp AG, Bern\r\n"));
        assert!(!mark.is_in("This mail is confidential."));
        assert_eq!(Fingerprint::of("Corp AG"), None);
    }
}
