//! SMTP replies: a code, an enhanced status, a text (RFC 5321 section 4.2, RFC 3463).

use std::fmt;

/// An enhanced status code, `class.subject.detail` (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl Enhanced {
    /// Parses the status at the start of a reply's text: `5.1.1 User unknown`.
    pub fn from_text(text: &str) -> Option<Enhanced> {
        let word = text.split_ascii_whitespace().next()?;
        let mut parts = word.split('.');
        let class = parts
            .next()?
            .parse()
            .ok()
            .filter(|c| matches!(c, 2 | 4 | 5))?;
        let subject = parts.next()?.parse().ok().filter(|s| *s < 1000)?;
        let detail = parts.next()?.parse().ok().filter(|d| *d < 1000)?;
        parts
            .next()
            .is_none()
            .then_some(Enhanced(class, subject, detail))
    }
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A reply to an SMTP client. The text has no line break and no other control character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits: 2yz completed, 4yz transient failure, 5yz permanent failure.
    pub code: u16,
    /// The enhanced status.
    pub enhanced: Enhanced,
    /// The text for people, without the codes.
    pub text: String,
}

impl Reply {
    /// Creates a reply; control characters in `text` become spaces, so that no address or text from
    /// outside can add a line to the session.
    pub fn new(code: u16, enhanced: Enhanced, text: impl AsRef<str>) -> Reply {
        let text = text
            .as_ref()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Reply {
            code,
            enhanced,
            text,
        }
    }

    /// Whether the client should try again later.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// Whether the failure is permanent.
    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.code, self.enhanced, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enhanced_codes_are_parsed_at_the_start_of_a_text() {
        assert_eq!(
            Enhanced::from_text("5.1.1 No such user"),
            Some(Enhanced(5, 1, 1))
        );
        for not in [
            "",
            "User unknown",
            "5.1 x",
            "5.1.1.1 x",
            "9.1.1 x",
            "5.1.1x",
        ] {
            assert_eq!(Enhanced::from_text(not), None, "{not:?}");
        }
    }

    #[test]
    fn a_reply_is_always_one_line() {
        let reply = Reply::new(550, Enhanced(5, 1, 1), "no\r\n250 ok");
        assert_eq!(reply.to_string(), "550 5.1.1 no  250 ok");
    }
}
