//! The text of an HTML document: lol_html's text, with character references decoded.

use std::cell::RefCell;
use std::rc::Rc;

use encoding_rs::WINDOWS_1252;
use lol_html::html_content::TextType;
use lol_html::{HtmlRewriter, Settings, doc_text, element, end_tag};
use mail_parser::decoders::html::add_html_token;

use super::positions::without_noscript;

/// Elements that begin and end a line.
const BLOCKS: &str = "address, article, aside, blockquote, center, dd, div, dl, dt, fieldset, footer, form, h1, h2, h3, h4, h5, \
     h6, header, hr, li, main, nav, ol, p, pre, section, table, tr, ul";

/// The longest name of a character reference that browsers read without its semicolon (`&Aacute`).
const LONGEST_BARE_NAME: usize = 6;

/// Converts HTML to plain text: a line for each block, without styles, links or pictures.
pub(in crate::text) fn to_plain(html: &str) -> String {
    let text = words(html);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

/// Returns the visible text of a document, ignoring styles that hide some.
pub(in crate::text) fn words(html: &str) -> String {
    let page = Rc::new(RefCell::new(Page::default()));
    let (texts, blocks, breaks, cells) = (page.clone(), page.clone(), page.clone(), page.clone());
    let (templates, titles) = (page.clone(), page.clone());
    let settings = Settings::new()
        .append_document_content_handler(doc_text!(move |chunk| {
            let is_text = match chunk.text_type() {
                TextType::Data | TextType::PlainText | TextType::CDataSection => true,
                // A title is not part of the body's text, a text field is.
                TextType::RCData => texts.borrow().in_field,
                TextType::RawText | TextType::ScriptData => false,
            };
            if is_text {
                texts
                    .borrow_mut()
                    .add(chunk.as_str(), chunk.last_in_text_node());
            }
            Ok(())
        }))
        .append_element_content_handler(element!(BLOCKS, move |el| {
            blocks.borrow_mut().end_line();
            if el.can_have_content() {
                let blocks = blocks.clone();
                el.on_end_tag(end_tag!(move |_| {
                    blocks.borrow_mut().end_line();
                    Ok(())
                }))?;
            }
            Ok(())
        }))
        .append_element_content_handler(element!("br", move |_| {
            breaks.borrow_mut().break_line();
            Ok(())
        }))
        .append_element_content_handler(element!("td, th", move |_| {
            cells.borrow_mut().space = true;
            Ok(())
        }))
        .append_element_content_handler(element!("textarea, title", move |el| {
            titles.borrow_mut().in_field = el.tag_name() == "textarea";
            Ok(())
        }))
        .append_element_content_handler(element!("template", move |el| {
            templates.borrow_mut().templates += 1;
            let templates = templates.clone();
            el.on_end_tag(end_tag!(move |_| {
                let mut page = templates.borrow_mut();
                page.templates = page.templates.saturating_sub(1);
                Ok(())
            }))?;
            Ok(())
        }))
        .with_strict(false);
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    let document = without_noscript(html.as_bytes());
    if rewriter.write(&document).is_ok() {
        let _ = rewriter.end();
    }
    let mut page = page.take();
    page.flush();
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    /// An incomplete text node: a character reference may span its chunks.
    node: String,
    /// Whether white space comes before the next text.
    space: bool,
    templates: usize,
    /// Whether the last RCDATA element was a text field.
    in_field: bool,
}

impl Page {
    fn add(&mut self, piece: &str, is_last: bool) {
        if self.templates == 0 {
            self.node.push_str(piece);
        }
        if is_last {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let node = std::mem::take(&mut self.node);
        let mut rest = node.as_str();
        while let Some(at) = rest.find('&') {
            self.push(&rest[..at]);
            let (character, length) = reference(&rest[at..]);
            match length {
                0 => self.push("&"),
                _ => self.push_visible(&character),
            }
            rest = &rest[at + length.max(1)..];
        }
        self.push(rest);
    }

    /// Adds text with collapsed white space.
    fn push(&mut self, text: &str) {
        let is_space = |c: char| c.is_ascii_whitespace();
        for (n, word) in text.split(is_space).enumerate() {
            self.space |= n > 0;
            if !word.is_empty() {
                self.push_visible(word);
            }
        }
    }

    fn push_visible(&mut self, text: &str) {
        if std::mem::take(&mut self.space) && !self.is_at_start_of_line() {
            self.text.push(' ');
        }
        self.text.push_str(text);
    }

    fn is_at_start_of_line(&self) -> bool {
        self.text.is_empty() || self.text.ends_with('\n')
    }

    fn end_line(&mut self) {
        self.flush();
        self.space = false;
        if !self.is_at_start_of_line() {
            self.text.push('\n');
        }
    }

    fn break_line(&mut self) {
        self.flush();
        self.space = false;
        self.text.push('\n');
    }
}

/// Decodes the character reference at the start of the text, and returns its length; 0 if there is
/// none.
fn reference(text: &str) -> (String, usize) {
    let name = &text[1..];
    let number = name.strip_prefix('#');
    let is_letter = |c: char| c.is_ascii_alphanumeric();
    let length = match number {
        Some(number) => 1 + number.find(|c| !is_letter(c)).unwrap_or(number.len()),
        None => name.find(|c| !is_letter(c)).unwrap_or(name.len()),
    };
    let is_ended = name[length..].starts_with(';');
    let whole = 1 + length + usize::from(is_ended);
    if let Some(number) = number {
        return match character(&number[..length - 1]) {
            Some(c) => (c.to_string(), whole),
            None => (String::new(), 0),
        };
    }
    if is_ended && let Some(found) = named(&name[..length]) {
        return (found, whole);
    }
    // Without a semicolon the longest valid name counts.
    let bare = (2..=length.min(LONGEST_BARE_NAME)).rev();
    bare.filter_map(|length| Some((named(&name[..length])?, 1 + length)))
        .next()
        .unwrap_or_default()
}

/// Returns the character with a name.
fn named(name: &str) -> Option<String> {
    let token = format!("&{name};");
    let mut found = String::new();
    add_html_token(&mut found, token.as_bytes(), false);
    (found != token).then_some(found)
}

/// Returns the character with a number, as browsers do: the C1 controls are windows-1252.
fn character(number: &str) -> Option<char> {
    let code = match number.strip_prefix(['x', 'X']) {
        Some(number) => u32::from_str_radix(number, 16).ok()?,
        None => number.parse().ok()?,
    };
    match u8::try_from(code) {
        Ok(byte @ 0x80..=0x9f) => {
            let text = WINDOWS_1252
                .decode_without_bom_handling(&[byte])
                .0
                .into_owned();
            text.chars().next()
        }
        _ => char::from_u32(code),
    }
}
