//! RTF as plain text and as HTML, for texts that were written for the Internet Mail Service
//! Extension of Exchange 5.5, or with WordPad or Word.
//!
//! Promises: pure; takes time and space in proportion to its input, whatever it is; what people
//! would see as text is in the result, or there is an error that says what and where. Formatting
//! that mail has no use for is left out, and so are pictures, headers, footers, footnotes and
//! hidden text. Fails by [`RtfError`].
//!
//! RTF may come without the `{\rtf1 ...}` around it, as the Extension took it. A person wrote such
//! bare text, so there a line that ends is a line that ends (`\line`), unless it has a `\par` or
//! `\line` at its end or before its next text, or nothing but control words; and a control word
//! that is not known is a mistake, where a document of a word processor may have any.

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

/// Bytes that RTF may have; with pictures in it, it has more than any text that goes into mail.
const INPUT: usize = 1024 * 1024;

/// Bytes that the plain text and the HTML may have.
const OUTPUT: usize = 1024 * 1024;

/// Groups that may stand in each other. Word does with fewer than 30.
const DEPTH: usize = 100;

/// What RTF says. Lines end in LF, but for the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rtf {
    /// For text/plain.
    pub(super) plain: String,
    /// For text/html: what stands inside a body element.
    pub(super) html: String,
}

/// Why RTF is of no use; continues a sentence that begins with its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RtfError {
    /// There is too much of it.
    #[error(
        "has {0} bytes, which is more than the {INPUT} that RTF may have; are there pictures in it?"
    )]
    TooLong(usize),
    /// It makes much of little.
    #[error("comes to more than {OUTPUT} bytes")]
    Grows,
    /// No text would be put in.
    #[error("is RTF without any text in it")]
    NoText,
    /// Groups in groups.
    #[error("has more than {DEPTH} groups in each other in {0}")]
    TooDeep(Position),
    /// A brace has no counterpart.
    #[error("has no }} for the {{ in {0}")]
    NotClosed(Position),
    /// A brace has no counterpart.
    #[error("has no {{ for the }} in {0}; a brace that is text is written \\}}")]
    NotOpened(Position),
    /// Text that word processors do not show.
    #[error("goes on in {0}, after the }} that ends it")]
    AfterEnd(Position),
    /// A character by its code, without the code.
    #[error("has \\' without two hexadecimal digits in {0}")]
    NoHex(Position),
    /// Something was not meant as RTF.
    #[error("has a backslash in {0} that means nothing; one that is text is written \\\\")]
    Backslash(Position),
    /// Something was not meant as RTF, or no space stands after a word.
    #[error(
        "has \\{word} in {at}, which is not known; a space ends a word, and a backslash that is text is written \\\\"
    )]
    Word {
        /// It.
        word: String,
        /// Its backslash.
        at: Position,
    },
    /// A number that is text.
    #[error(
        "has a number directly after \\{word} in {at}, where it is no text; a space ends a word"
    )]
    Number {
        /// What the number follows.
        word: String,
        /// Its backslash.
        at: Position,
    },
    /// A word would take text away.
    #[error(
        "has \\{word} in {at} in the middle of text, where it hides all that follows in its group"
    )]
    Hides {
        /// It.
        word: String,
        /// Its backslash.
        at: Position,
    },
    /// Bytes that are not there.
    #[error("has \\bin in {0} with more bytes than there are")]
    Binary(Position),
    /// A code page that cannot be read.
    #[error("has a character in {at} in the code page {page}, which is not known")]
    CodePage {
        /// Its number.
        page: u32,
        /// The first character of the text in it.
        at: Position,
    },
    /// A font's or the document's code page is wrong.
    #[error("has a character in {0} that its code page does not have")]
    NoCharacter(Position),
    /// It is a sign of a font such as Wingdings.
    #[error("has a sign in {0} of a font that only has signs, and no character for it is known")]
    NoSign(Position),
}

/// Where something is; both counted from 1.
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

/// RTF as plain text and as what stands inside an HTML body element.
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

/// Editors put a byte order mark before text, and save as UTF-16.
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
