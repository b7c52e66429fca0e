//! Conversion of RTF to plain text and HTML, for texts written for the Internet Mail Service
//! Extension of Exchange 5.5, or with WordPad or Word.
//!
//! Promises: pure; time and space linear in the input; all visible text is in the result, or there
//! is an error with its cause and position. Formatting without use in mail is dropped, as are
//! pictures, headers, footers, footnotes and hidden text. Fails with an [`RtfError`].
//!
//! RTF may come without the surrounding `{\rtf1 ...}`, as the Extension accepted it. A person wrote
//! such bare text, so the end of a line is a line break (`\line`), unless there is a `\par` or
//! `\line` at its end or before the next text, or the line has only control words. An unknown
//! control word is an error there, while documents of a word processor may have any.

mod code_page;
mod control_words;
mod document;
mod field;
mod reader;
mod tokens;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use encoding_rs::{Encoding, UTF_8};

/// Largest input in bytes; with pictures, RTF is larger than any text for mail.
const INPUT: usize = 1024 * 1024;

/// Largest plain text and HTML in bytes.
const OUTPUT: usize = 1024 * 1024;

/// Most nested groups. Word uses fewer than 30.
const DEPTH: usize = 100;

/// The converted text. Lines end in LF, except for the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rtf {
    /// For text/plain.
    pub(super) plain: String,
    /// For text/html: the content of a body element.
    pub(super) html: String,
}

/// The reason why RTF is invalid; continues a sentence that begins with its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RtfError {
    /// The input is too long.
    #[error("has {0} bytes, more than the {INPUT} allowed for RTF; does it contain pictures?")]
    TooLong(usize),
    /// The result is too long.
    #[error("expands to more than {OUTPUT} bytes")]
    Grows,
    /// There is no text.
    #[error("is RTF without text")]
    NoText,
    /// Too many nested groups.
    #[error("has more than {DEPTH} nested groups at {0}")]
    TooDeep(Position),
    /// An unmatched brace.
    #[error("has no }} for the {{ at {0}")]
    NotClosed(Position),
    /// An unmatched brace.
    #[error("has no {{ for the }} at {0}; a literal brace is written \\}}")]
    NotOpened(Position),
    /// Text after the end, which word processors do not show.
    #[error("continues at {0}, after its closing }}")]
    AfterEnd(Position),
    /// A character code without its digits.
    #[error("has \\' without two hexadecimal digits at {0}")]
    NoHex(Position),
    /// A backslash that was not meant as RTF.
    #[error("has a stray backslash at {0}; a literal backslash is written \\\\")]
    Backslash(Position),
    /// A control word that was not meant as RTF, or lacks its space.
    #[error(
        "has the unknown control word \\{word} at {at}; a space ends a control word, and a literal backslash is written \\\\"
    )]
    Word {
        /// The control word.
        word: String,
        /// The position of its backslash.
        at: Position,
    },
    /// A number that was meant as text.
    #[error(
        "has a number directly after \\{word} at {at}, where it is not text; a space ends a control word"
    )]
    Number {
        /// The control word before the number.
        word: String,
        /// The position of its backslash.
        at: Position,
    },
    /// A control word that would hide text.
    #[error("has \\{word} at {at} in the middle of text, where it hides the rest of its group")]
    Hides {
        /// The control word.
        word: String,
        /// The position of its backslash.
        at: Position,
    },
    /// Fewer bytes than announced.
    #[error("has \\bin at {0} with more bytes than follow")]
    Binary(Position),
    /// An unsupported code page.
    #[error("has a character at {at} in the unknown code page {page}")]
    CodePage {
        /// The number of the code page.
        page: u32,
        /// The position of its first character.
        at: Position,
    },
    /// A byte that is undefined in the code page of the font or document.
    #[error("has a character at {0} that its code page does not define")]
    NoCharacter(Position),
    /// A symbol of a font such as Wingdings.
    #[error("has a symbol at {0} of a symbol font, without a known Unicode character")]
    NoSymbol(Position),
}

/// A position in the source; both numbers count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Converts RTF to plain text and to the content of an HTML body element.
pub(super) fn read(rtf: &[u8]) -> Result<Rtf, RtfError> {
    if rtf.len() > INPUT {
        return Err(RtfError::TooLong(rtf.len()));
    }
    let rtf = without_mark(rtf);
    let story = reader::read(&rtf)?;
    let plain = story.plain()?;
    if plain.is_empty() {
        return Err(RtfError::NoText);
    }
    let html = story.html()?;
    Ok(Rtf { plain, html })
}

/// Removes a byte order mark, and decodes UTF-16, as editors save text.
fn without_mark(rtf: &[u8]) -> Cow<'_, [u8]> {
    let Some((encoding, length)) = Encoding::for_bom(rtf) else {
        return Cow::Borrowed(rtf);
    };
    let rest = rtf.get(length..).unwrap_or_default();
    if encoding == UTF_8 {
        return Cow::Borrowed(rest);
    }
    let (text, _) = encoding.decode_without_bom_handling(rest);
    Cow::Owned(text.into_owned().into_bytes())
}
