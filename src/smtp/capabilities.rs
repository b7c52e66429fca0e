//! The extensions that a server offers in its reply to EHLO (RFC 5321 section 4.1.1.1).

/// The extensions that Copyist uses as a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870: the largest message in bytes; 0 means an unspecified limit.
    pub size: Option<u64>,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 4954: the supported mechanisms.
    pub auth: Mechanisms,
}

/// The SASL mechanisms that a server offers and Copyist supports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mechanisms {
    /// RFC 4616.
    pub plain: bool,
    /// From old Microsoft clients, without an RFC.
    pub login: bool,
}

impl Mechanisms {
    fn add(&mut self, name: &str) {
        self.plain |= name == "PLAIN";
        self.login |= name == "LOGIN";
    }
}

impl Capabilities {
    /// Parses the lines after the first, without their codes. Keywords ignore case. `AUTH=` is the
    /// syntax from before the RFC.
    pub fn from_lines<Line: AsRef<str>>(lines: impl IntoIterator<Item = Line>) -> Capabilities {
        let mut found = Capabilities::default();
        for line in lines {
            let words = line.as_ref().split_ascii_whitespace();
            let mut words = words.map(str::to_ascii_uppercase);
            match words.next().as_deref() {
                Some("PIPELINING") => found.pipelining = true,
                Some("SIZE") => {
                    found.size = Some(words.next().and_then(|size| size.parse().ok()).unwrap_or(0));
                }
                Some("8BITMIME") => found.eight_bit_mime = true,
                Some("SMTPUTF8") => found.smtputf8 = true,
                Some("DSN") => found.dsn = true,
                Some("STARTTLS") => found.starttls = true,
                Some(word) if word == "AUTH" || word.starts_with("AUTH=") => {
                    found.auth.add(word.trim_start_matches("AUTH="));
                    words.for_each(|name| found.auth.add(&name));
                }
                _ => {}
            }
        }
        found
    }

    /// Returns the server's size limit if a message of this many bytes exceeds it.
    pub fn exceeded_size_limit(&self, bytes: usize) -> Option<u64> {
        self.size
            .filter(|limit| *limit > 0 && bytes as u64 > *limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_ignore_case() {
        let lines = [
            "pipelining",
            "Size 1000",
            "AUTH plain",
            "  ",
            "starttls",
            "x",
        ];
        let found = Capabilities::from_lines(lines);
        let expected = Capabilities {
            pipelining: true,
            size: Some(1000),
            starttls: true,
            auth: Mechanisms {
                plain: true,
                login: false,
            },
            ..Capabilities::default()
        };
        assert_eq!(found, expected);
        let old = Capabilities::from_lines(["auth=login PLAIN"]).auth;
        assert!(old.login && old.plain, "{old:?}");
        assert_eq!(found.exceeded_size_limit(1001), Some(1000));
        assert_eq!(
            Capabilities::from_lines(["SIZE 0"]).exceeded_size_limit(1_000_000),
            None
        );
    }
}
