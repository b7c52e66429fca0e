//! The tokens of RTF: braces, control words and symbols, and characters.

/// One token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Open,
    Close,
    /// A control word and its number.
    Word(&'a str, Option<i32>),
    /// A control symbol: a backslash and a character that is neither a letter nor escaped; 0 at the
    /// end of the input.
    Symbol(u8),
    /// A byte in the current code page, literal or escaped.
    Byte(u8),
    /// A literal character in UTF-8.
    Char(char),
    /// `\'` without two hexadecimal digits.
    NoHex,
    /// The end of a line in the source.
    Break,
    /// `\bin` with its bytes; `false` if there are fewer.
    Binary(bool),
}

/// An iterator over the tokens with their offsets. Each takes at least one byte, so it terminates.
pub(super) struct Tokens<'a> {
    rtf: &'a [u8],
    /// The same text, if bytes above 127 are UTF-8.
    utf8: Option<&'a str>,
    at: usize,
}

impl<'a> Tokens<'a> {
    /// Iterates over the tokens from an offset on.
    pub(super) fn from(rtf: &'a [u8], start: usize) -> Tokens<'a> {
        let utf8 = std::str::from_utf8(rtf).ok().filter(|_| !rtf.is_ascii());
        Tokens {
            rtf,
            utf8,
            at: start,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.rtf.get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn take_if(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rtf.get(self.at..).unwrap_or_default();
        let length = rest.iter().take_while(|&&byte| belongs(byte)).count();
        self.at += length;
        std::str::from_utf8(&rest[..length]).unwrap_or_default()
    }

    fn literal(&mut self, byte: u8) -> Token<'a> {
        let start = self.at - 1;
        let character = self
            .utf8
            .filter(|_| !byte.is_ascii())
            .and_then(|text| text.get(start..)?.chars().next());
        match character {
            Some(c) => {
                self.at = start + c.len_utf8();
                Token::Char(c)
            }
            None => Token::Byte(byte),
        }
    }

    fn after_backslash(&mut self) -> Token<'a> {
        match self.peek() {
            Some(byte) if byte.is_ascii_alphabetic() => return self.word(),
            _ => {}
        }
        match self.take() {
            Some(byte @ (b'\\' | b'{' | b'}')) => Token::Byte(byte),
            Some(b'\'') => self.hex(),
            // TextEdit and old writers use these two forms.
            Some(b'\r') => {
                self.take_if(b'\n');
                Token::Word("par", None)
            }
            Some(b'\n') => Token::Word("par", None),
            Some(b'\t') => Token::Word("tab", None),
            Some(byte) => Token::Symbol(byte),
            None => Token::Symbol(0),
        }
    }

    fn hex(&mut self) -> Token<'a> {
        let digits = self.rtf.get(self.at..self.at + 2);
        let value = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match value {
            Some(byte) => {
                self.at += 2;
                Token::Byte(byte)
            }
            None => Token::NoHex,
        }
    }

    fn word(&mut self) -> Token<'a> {
        let name = self.take_while(|byte| byte.is_ascii_alphabetic());
        let number = self.number();
        // One space ends a control word and is not text.
        self.take_if(b' ');
        if name != "bin" {
            return Token::Word(name, number);
        }
        let length = number.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let there = length <= self.rtf.len() - self.at;
        self.at = self.at.saturating_add(length).min(self.rtf.len());
        Token::Binary(there)
    }

    fn number(&mut self) -> Option<i32> {
        let start = self.at;
        let negative = self.take_if(b'-');
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if digits.is_empty() {
            // A hyphen after a control word is text.
            self.at = start;
            return None;
        }
        let value = digits.parse().unwrap_or(i32::MAX);
        Some(if negative { -value } else { value })
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (usize, Token<'a>);

    fn next(&mut self) -> Option<(usize, Token<'a>)> {
        let at = self.at;
        let token = match self.take()? {
            b'{' => Token::Open,
            b'}' => Token::Close,
            b'\\' => self.after_backslash(),
            b'\r' => {
                self.take_if(b'\n');
                Token::Break
            }
            b'\n' => Token::Break,
            byte => self.literal(byte),
        };
        Some((at, token))
    }
}
