//! The interpreter of RTF tokens.

use std::collections::HashMap;

use super::code_page::{self, Page, SymbolFont};
use super::control_words::{self, Break, CharProperty, Destination, Effect, Script};
use super::document::{CharFormat, Colour, Document, Link, ParagraphFormat};
use super::field;
use super::tokens::{Token, Tokens};
use super::{DEPTH, Position, RtfError};

/// The state of a group.
#[derive(Clone, Copy, Default)]
struct State {
    /// The offset of the group.
    opened: usize,
    to: Destination,
    /// The destination of the preferred alternative in this group.
    instead: Option<Destination>,
    /// Whether the group has had text.
    spoken: bool,
    field: Option<usize>,
    link: Option<Link>,
    /// The number in the font table; `None` for the document's font.
    font: Option<i32>,
    format: CharFormat,
    layout: ParagraphFormat,
    /// Fallback characters after each `\u`.
    fallback: u32,
}

#[derive(Default)]
struct Font {
    charset: Option<i32>,
    page: Option<u32>,
    name: String,
}

/// A field. Its instruction is parsed once, by the first result: there may be many.
#[derive(Default)]
struct Field {
    instruction: String,
    link: Option<Link>,
}

/// The content of the current line of bare text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Nothing,
    /// Control words only: no line break of its own.
    Words,
    Text,
}

struct Reader<'a> {
    rtf: &'a [u8],
    bare: bool,
    state: State,
    outer: Vec<State>,
    /// Whether the document's group was closed.
    ended: bool,
    page: u32,
    default_font: Option<i32>,
    fonts: HashMap<i32, Font>,
    /// The font being defined in the font table.
    listed: i32,
    colours: Vec<Option<Colour>>,
    mixed: Option<Colour>,
    fields: Vec<Field>,
    document: Document,
    /// Bytes not yet decoded, as a character may have several, and their offset.
    bytes: Vec<u8>,
    bytes_at: usize,
    /// The first half of a surrogate pair.
    high: Option<u16>,
    /// Fallback characters of the last `\u` still to skip.
    skip: u32,
    /// The offset of a `\*` that no control word has followed yet.
    star: Option<usize>,
    source: Source,
    /// Line ends of bare text before the next text.
    breaks: usize,
}

/// Reads RTF as a document.
pub(super) fn read(rtf: &[u8]) -> Result<Document, RtfError> {
    let start = rtf.len() - rtf.trim_ascii_start().len();
    let bare = !rtf[start..].starts_with(b"{\\rtf");
    let mut reader = Reader::new(rtf, bare);
    let start = if bare { 0 } else { start };
    for (at, token) in Tokens::from(rtf, start) {
        reader.token(at, token)?;
    }
    reader.finish()
}

impl<'a> Reader<'a> {
    fn new(rtf: &'a [u8], bare: bool) -> Reader<'a> {
        let state = State {
            fallback: 1,
            ..State::default()
        };
        Reader {
            rtf,
            bare,
            state,
            outer: Vec::new(),
            ended: false,
            page: 1252,
            default_font: None,
            fonts: HashMap::new(),
            listed: 0,
            colours: Vec::new(),
            mixed: None,
            fields: Vec::new(),
            document: Document::default(),
            bytes: Vec::new(),
            bytes_at: 0,
            high: None,
            skip: 0,
            star: None,
            source: Source::Nothing,
            breaks: 0,
        }
    }

    fn token(&mut self, at: usize, token: Token<'_>) -> Result<(), RtfError> {
        if self.ended {
            return self.after_end(at, token);
        }
        if self.state.to == Destination::Nowhere {
            return self.pass(at, token);
        }
        if self.skip > 0 && self.is_fallback(token) {
            return Ok(());
        }
        let follows_star = matches!(token, Token::Word(..) | Token::Binary(_) | Token::Break);
        if let Some(star) = self.star.filter(|_| !follows_star) {
            return Err(RtfError::Backslash(self.position(star)));
        }
        match token {
            Token::Byte(byte) => {
                self.byte(at, byte);
                return Ok(());
            }
            Token::Break if !self.bare => return Ok(()),
            _ => self.decode()?,
        }
        match token {
            Token::Open => self.open(at)?,
            Token::Close => self.close(at)?,
            Token::Word(name, number) => self.word(at, name, number)?,
            Token::Symbol(symbol) => self.symbol(at, symbol)?,
            Token::Char(c) => self.character(c),
            Token::NoHex => return Err(RtfError::NoHex(self.position(at))),
            Token::Binary(false) => return Err(RtfError::Binary(self.position(at))),
            Token::Break => self.source_line(),
            Token::Byte(_) | Token::Binary(true) => {}
        }
        Ok(())
    }

    /// Handles a token after the end: white space and NUL are allowed.
    fn after_end(&self, at: usize, token: Token<'_>) -> Result<(), RtfError> {
        match token {
            Token::Break => Ok(()),
            Token::Byte(byte) if byte == 0 || byte.is_ascii_whitespace() => Ok(()),
            Token::Close => Err(RtfError::NotOpened(self.position(at))),
            _ => Err(RtfError::AfterEnd(self.position(at))),
        }
    }

    /// Handles a token in a hidden group.
    fn pass(&mut self, at: usize, token: Token<'_>) -> Result<(), RtfError> {
        match token {
            Token::Open => self.open(at),
            Token::Close => self.close(at),
            Token::Binary(false) => Err(RtfError::Binary(self.position(at))),
            Token::Word(name, _) if control_words::find(name) == Some(Effect::Preferred) => {
                self.state.to = self.state.instead.unwrap_or(self.state.to);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether a token is the fallback of the `\u` before it. A control word that is not a
    /// character never is: people write `\u8364\par` without a fallback.
    fn is_fallback(&mut self, token: Token<'_>) -> bool {
        let is = match token {
            Token::Word(name, _) => {
                matches!(control_words::find(name), Some(Effect::Char(c)) if c != '\t')
            }
            // Line ends of the source are ignored in a document.
            Token::Break if !self.bare => return true,
            Token::Open | Token::Close | Token::Break | Token::NoHex => false,
            _ => true,
        };
        self.skip = if is { self.skip - 1 } else { 0 };
        is
    }

    fn open(&mut self, at: usize) -> Result<(), RtfError> {
        if self.outer.len() == DEPTH {
            return Err(RtfError::TooDeep(self.position(at)));
        }
        self.outer.push(self.state);
        self.state.opened = at;
        self.state.spoken = false;
        self.sees_word();
        Ok(())
    }

    fn close(&mut self, at: usize) -> Result<(), RtfError> {
        let Some(state) = self.outer.pop() else {
            return Err(RtfError::NotOpened(self.position(at)));
        };
        self.state = state;
        self.ended = self.outer.is_empty() && !self.bare;
        self.sees_word();
        Ok(())
    }

    fn word(&mut self, at: usize, name: &str, number: Option<i32>) -> Result<(), RtfError> {
        let star = self.star.take().is_some();
        self.sees_word();
        let text = self.state.to == Destination::Text;
        match control_words::find(name) {
            // After `\*`, readers may skip a group they do not know.
            None | Some(Effect::Nothing) if star => self.hide(at, name, Destination::Nowhere),
            None if text && (self.bare || control_words::has_text_attached(name)) => {
                Err(RtfError::Word {
                    word: name.to_owned(),
                    at: self.position(at),
                })
            }
            None => Ok(()),
            Some(Effect::Char(_) | Effect::Break(_)) if text && number.is_some() => {
                Err(RtfError::Number {
                    word: name.to_owned(),
                    at: self.position(at),
                })
            }
            Some(Effect::Destination(destination)) => self.hide(at, name, destination),
            Some(Effect::Alternative) => {
                let instead = self.state.to;
                self.hide(at, name, Destination::Nowhere)?;
                self.state.instead = Some(instead);
                Ok(())
            }
            Some(Effect::Instruction) => {
                let known = text && self.state.field.is_some();
                let to = if known {
                    Destination::Instruction
                } else {
                    Destination::Nowhere
                };
                self.hide(at, name, to)
            }
            Some(effect) => {
                self.apply(effect, number);
                Ok(())
            }
        }
    }

    /// Hides the rest of the group. Such control words stand at its start; elsewhere, text would be
    /// lost.
    fn hide(&mut self, at: usize, name: &str, to: Destination) -> Result<(), RtfError> {
        let document = if self.bare { 0 } else { 1 };
        if self.state.spoken || self.outer.len() <= document {
            return Err(RtfError::Hides {
                word: name.to_owned(),
                at: self.position(at),
            });
        }
        self.state.to = to;
        self.state.instead = None;
        Ok(())
    }

    fn apply(&mut self, effect: Effect, number: Option<i32>) {
        let n = number.unwrap_or(0);
        let count = u32::try_from(n).unwrap_or(0);
        let on = number != Some(0);
        let colour = self.colour(n);
        let format = &mut self.state.format;
        match effect {
            Effect::Char(c) => self.character(c),
            Effect::Break(kind) => self.add_break(kind),
            Effect::Toggle(property) => format.set(property, on),
            Effect::NoUnderline => format.underline = false,
            Effect::Script(script) => format.script = if on { script } else { Script::Level },
            Effect::PlainText => {
                *format = CharFormat::default();
                self.state.font = None;
            }
            Effect::Size => format.size = u16::try_from(n).ok().filter(|&size| size > 0),
            Effect::Colour => format.colour = colour,
            Effect::Background => format.background = colour,
            Effect::PlainParagraph => self.state.layout = ParagraphFormat::default(),
            Effect::Align(align) => self.state.layout.align = align,
            Effect::RightToLeft(is) => self.state.layout.right_to_left = is,
            Effect::Font if self.state.to == Destination::FontTable => self.listed = n,
            Effect::Font => self.state.font = Some(n),
            Effect::DefaultFont => self.default_font = Some(n),
            Effect::Charset => self.listed_font().charset = Some(n),
            Effect::FontPage => self.listed_font().page = Some(count),
            Effect::Page(page) => self.page = page,
            Effect::PageNumber => self.page = count,
            Effect::Part(part) => self.mix(part, n),
            Effect::Unicode => self.unicode(n),
            Effect::Fallback => self.state.fallback = count,
            Effect::Field => {
                self.fields.push(Field::default());
                self.state.field = Some(self.fields.len() - 1);
            }
            Effect::Result => self.result(),
            Effect::Nothing
            | Effect::Destination(_)
            | Effect::Instruction
            | Effect::Alternative
            | Effect::Preferred
            | Effect::Text => {}
        }
    }

    fn add_break(&mut self, kind: Break) {
        if self.state.to != Destination::Text || self.state.format.hidden {
            return;
        }
        self.lone_surrogate();
        // A line of bare text may begin with the \par of the line before.
        for _ in 1..self.breaks {
            self.document.end_line();
        }
        self.breaks = 0;
        self.source = Source::Words;
        match kind {
            Break::Line => self.document.end_line(),
            Break::Page if self.document.is_at_start() => {}
            Break::Paragraph | Break::Page | Break::Row => {
                self.document.end_paragraph(self.state.layout);
            }
            Break::Cell => self.document.end_cell(),
        }
    }

    fn symbol(&mut self, at: usize, symbol: u8) -> Result<(), RtfError> {
        match symbol {
            b'~' => self.character('\u{a0}'),
            b'_' => self.character('\u{2011}'),
            b'*' => self.star = Some(at),
            // An optional hyphen, a formula, and the parts of an index entry.
            b'-' | b'|' | b':' => {}
            _ => return Err(RtfError::Backslash(self.position(at))),
        }
        Ok(())
    }

    fn byte(&mut self, at: usize, byte: u8) {
        match self.state.to {
            Destination::FontTable if byte != b';' => {
                let name = &mut self.listed_font().name;
                // No known name is longer, and it is compared often.
                if name.len() < 32 {
                    name.push(char::from(byte));
                }
            }
            Destination::ColourTable if byte == b';' => {
                let colour = self.mixed.take();
                self.colours.push(colour);
            }
            Destination::Text if self.state.format.hidden => {}
            Destination::Text | Destination::Instruction => {
                if self.bytes.is_empty() {
                    self.bytes_at = at;
                }
                self.bytes.push(byte);
            }
            _ => {}
        }
    }

    /// Decodes the collected bytes.
    fn decode(&mut self) -> Result<(), RtfError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        let at = self.bytes_at;
        let page = self.page_in_force();
        let text = match page {
            Ok(page) => page.decode(&bytes),
            // Every page includes ASCII.
            Err(page) if !bytes.is_ascii() => {
                let at = self.position(at);
                return Err(RtfError::CodePage { page, at });
            }
            Err(_) => Some(String::from_utf8_lossy(&bytes)),
        };
        let Some(text) = text else {
            return Err(match page {
                Ok(Page::Symbols(_)) => RtfError::NoSymbol(self.position(at)),
                _ => RtfError::NoCharacter(self.position(at)),
            });
        };
        for c in text.chars() {
            self.character(c);
        }
        bytes.clear();
        self.bytes = bytes;
        Ok(())
    }

    /// Returns the current code page, or the number of an unknown one.
    fn page_in_force(&self) -> Result<Page, u32> {
        let number = self.state.font.or(self.default_font);
        let font = number.and_then(|number| self.fonts.get(&number));
        if let Some(font) = font
            && font.charset == Some(2)
            && self.state.to == Destination::Text
        {
            return Ok(Page::Symbols(SymbolFont::of_font(&font.name)));
        }
        let of_font = font.and_then(|font| {
            font.page
                .or_else(|| font.charset.and_then(code_page::of_charset))
        });
        let page = of_font.unwrap_or(self.page);
        Page::numbered(page).ok_or(page)
    }

    fn unicode(&mut self, n: i32) {
        self.skip = self.state.fallback;
        // Written as a signed number of 16 bits; some write more.
        let code = u32::try_from(if n < 0 { n.saturating_add(0x1_0000) } else { n });
        let code = code.unwrap_or(0xfffd);
        let unit = u16::try_from(code).unwrap_or(0);
        match (code, self.high.take()) {
            (0xd800..=0xdbff, high) => {
                self.high = high;
                self.lone_surrogate();
                self.high = Some(unit);
            }
            (0xdc00..=0xdfff, Some(high)) => {
                for c in char::decode_utf16([high, unit]) {
                    self.character(c.unwrap_or(char::REPLACEMENT_CHARACTER));
                }
            }
            (_, high) => {
                self.high = high;
                let symbol = self.symbol_of(code);
                let c = symbol.or_else(|| char::from_u32(code));
                self.character(c.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
    }

    /// Maps private-use characters, with which Word writes symbol fonts.
    fn symbol_of(&self, code: u32) -> Option<char> {
        let byte = u8::try_from(code.checked_sub(0xf000)?).ok()?;
        match self.page_in_force() {
            Ok(Page::Symbols(font)) => font.character(byte),
            _ => None,
        }
    }

    fn lone_surrogate(&mut self) {
        if self.high.take().is_some() {
            self.character(char::REPLACEMENT_CHARACTER);
        }
    }

    fn character(&mut self, c: char) {
        self.lone_surrogate();
        match (self.state.to, c) {
            (Destination::Instruction, c) => {
                let field = self.state.field.and_then(|n| self.fields.get_mut(n));
                if let Some(field) = field {
                    field.instruction.push(c);
                }
            }
            (Destination::Text, '\n' | '\u{b}' | '\u{2028}') => self.add_break(Break::Line),
            (Destination::Text, '\u{2029}') => self.add_break(Break::Paragraph),
            (Destination::Text, c) if !self.state.format.hidden && is_for_mail(c) => self.say(c),
            _ => {}
        }
    }

    fn say(&mut self, c: char) {
        for _ in 0..std::mem::take(&mut self.breaks) {
            self.document.end_line();
        }
        if c != ' ' {
            self.source = Source::Text;
        }
        self.state.spoken = true;
        let State {
            format,
            link,
            layout,
            ..
        } = self.state;
        self.document.push(c, format, link, layout);
    }

    /// Handles the end of a line of bare text.
    fn source_line(&mut self) {
        if self.state.to == Destination::Text && self.source != Source::Words {
            self.breaks += 1;
        }
        self.source = Source::Nothing;
    }

    fn sees_word(&mut self) {
        if self.source == Source::Nothing {
            self.source = Source::Words;
        }
    }

    /// Begins the text of a field.
    fn result(&mut self) {
        let Some(field) = self.state.field.and_then(|n| self.fields.get_mut(n)) else {
            return;
        };
        if !field.instruction.is_empty() {
            let address = field::hyperlink(&std::mem::take(&mut field.instruction));
            field.link = address.map(|address| self.document.link_to(address));
        }
        self.state.link = field.link;
    }

    fn listed_font(&mut self) -> &mut Font {
        self.fonts.entry(self.listed).or_default()
    }

    fn colour(&self, n: i32) -> Option<Colour> {
        let n = usize::try_from(n).ok()?;
        self.colours.get(n).copied().flatten()
    }

    fn mix(&mut self, part: usize, n: i32) {
        let colour = self.mixed.get_or_insert_default();
        if let Some(part) = colour.get_mut(part) {
            *part = u8::try_from(n.clamp(0, 255)).unwrap_or(0);
        }
    }

    fn finish(mut self) -> Result<Document, RtfError> {
        if !self.outer.is_empty() {
            return Err(RtfError::NotClosed(self.position(self.state.opened)));
        }
        if let Some(star) = self.star {
            return Err(RtfError::Backslash(self.position(star)));
        }
        self.decode()?;
        self.lone_surrogate();
        self.document.close();
        Ok(self.document)
    }

    fn position(&self, at: usize) -> Position {
        let before = self.rtf.get(..at).unwrap_or_default();
        let start = before.iter().rposition(|&byte| byte == b'\n');
        let line = &before[start.map_or(0, |start| start + 1)..];
        let lines = before.iter().filter(|&&byte| byte == b'\n').count();
        let characters = std::str::from_utf8(line).map_or(line.len(), |line| line.chars().count());
        Position {
            line: lines + 1,
            column: characters + 1,
        }
    }
}

impl CharFormat {
    fn set(&mut self, property: CharProperty, on: bool) {
        *match property {
            CharProperty::Bold => &mut self.bold,
            CharProperty::Italic => &mut self.italic,
            CharProperty::Underline => &mut self.underline,
            CharProperty::Strike => &mut self.strike,
            CharProperty::Capitals => &mut self.capitals,
            CharProperty::SmallCapitals => &mut self.small_capitals,
            CharProperty::Hidden => &mut self.hidden,
        } = on;
    }
}

/// Whether mail and HTML can carry a character, and it is visible or has an effect.
fn is_for_mail(c: char) -> bool {
    let noncharacter =
        u32::from(c) & 0xfffe == 0xfffe || matches!(c, '\u{fdd0}'..='\u{fdef}' | '\u{feff}');
    c == '\t' || !(c.is_control() || noncharacter)
}
