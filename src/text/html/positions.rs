//! The positions of a text in an HTML document.
//!
//! Before the body: where a browser's body begins, according to the insertion modes of the WHATWG
//! tree construction (section 13.2.6.4); a `<body>`, `<head>` or `<html>` tag after visible content
//! begins nothing. After the body: before its last end tag, preceded by the ends of unfinished
//! markup: real documents are broken in every way, and a text inside an unfinished comment, script,
//! link or table would be swallowed, clickable or moved.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::LazyLock;

use lol_html::html_content::{Element, TextType};
use lol_html::{HtmlRewriter, Settings, doc_comments, doc_text, doctype, element, end_tag};
use memchr::memmem::Finder;

use super::open_elements::{end_tags, is_closed, is_hidden, is_holding};

/// Prefix of every document that is parsed for its end, so that end tags without a start tag are
/// reported.
pub(super) const BODY_OPENING: &[u8] = b"<html><body>";

/// Prefix of every document that is parsed for its beginning, for the same reason.
const HEAD_OPENING: &[u8] = b"<html><head>";

/// An element that does not occur in documents.
const PROBE: &[u8] = b"<copyist-probe>";

/// The ends of markup that may be unfinished at the end of a document.
const ENDINGS: [&str; 14] = [
    "",
    ">",
    "-->",
    "]]>",
    "\">",
    "'>",
    "</script>",
    "</style>",
    "</title>",
    "</textarea>",
    "</xmp>",
    "</iframe>",
    "</noembed>",
    "</noframes>",
];

/// Documents whose end is at most this long are also tried with two endings: each try is a pass
/// over it.
const TRIED_TWICE: usize = 4 * 1024;

/// The number of start tags and comments whose offsets are stored.
const TAG_OFFSETS: usize = 1024;

/// Bytes of the beginning parsed at a time: parsing stops where the body begins.
const PIECE: usize = 1024;

/// The name that [`without_noscript`] gives to a noscript element.
pub(super) const NOSCRIPT: &str = "xoscript";

/// The position of a text after the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::text) struct AppendPosition {
    /// Its offset.
    pub(in crate::text) at: usize,
    /// The markup required before the text.
    pub(in crate::text) ending: String,
}

/// Finds the position of a text before the body; `None` if the document is a frameset, or cannot be
/// parsed as HTML.
pub(in crate::text) fn prepend_position(document: &[u8]) -> Option<usize> {
    beginning(&without_noscript(document))
}

/// Finds the position of a text after the body; `None` if nothing would be visible there.
pub(in crate::text) fn append_position(document: &[u8]) -> Option<AppendPosition> {
    append(document, false)
}

/// Finds the position of a text after everything, wherever a body ends; `None` if nothing would be
/// visible there.
pub(in crate::text) fn end_position(document: &[u8]) -> Option<AppendPosition> {
    append(document, true)
}

fn append(document: &[u8], at_the_end: bool) -> Option<AppendPosition> {
    let document = &*without_noscript(document);
    let scanned = scan(document)?;
    if scanned.has_frameset && beginning(document).is_none() {
        return None;
    }
    let first = scanned.first;
    // After the last end of a body: several documents in one part are displayed one after the
    // other. An end tag before all start tags ends nothing.
    let [body, html] = scanned.ends;
    let end = body.or(html);
    let end = end.filter(|end| !at_the_end && first.is_none_or(|first| end.at >= first));
    let EndTag { at, open } = end.unwrap_or(EndTag {
        at: document.len(),
        open: scanned.open,
    });
    let before = &document[..at];
    let mut ending = ending(before, scanned.tag_offsets.last_before(at))?;
    // The ended markup may be a start tag.
    if open > 0 || !ending.is_empty() {
        let end_tags = end_tags(&[before, b"\n", ending.as_bytes()].concat())?;
        ending.push_str(&end_tags);
    }
    Some(AppendPosition { at, ending })
}

/// Parses a document until its body begins. No mail client runs scripts, so a noscript is part of
/// the document, while a browser with scripts treats its content as text: neither begins a body.
fn beginning(document: &[u8]) -> Option<usize> {
    let head = Rc::new(RefCell::new(Head::new(document)));
    let (tags, texts, types) = (head.clone(), head.clone(), head.clone());
    let settings = Settings::new()
        .append_element_content_handler(element!("*", move |el| {
            let name = el.tag_name();
            let place = el.source_location().bytes();
            let mut head = tags.borrow_mut();
            if head.start(&name, place, el) {
                drop(head);
                let head = tags.clone();
                el.on_end_tag(end_tag!(move |end| {
                    if end.name() == name {
                        head.borrow_mut()
                            .end(&name, end.source_location().bytes().end);
                    }
                    Ok(())
                }))?;
            }
            Ok(())
        }))
        .append_document_content_handler(doc_text!(move |text| {
            if text.text_type() == TextType::Data || text.text_type() == TextType::PlainText {
                texts.borrow_mut().text(text.as_str());
            }
            Ok(())
        }))
        .append_document_content_handler(doctype!(move |found| {
            let end = found.source_location().bytes().end;
            types.borrow_mut().pass(end);
            Ok(())
        }))
        .with_strict(false);
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    rewriter.write(HEAD_OPENING).ok()?;
    for piece in document.chunks(PIECE) {
        if head.borrow().is_decided() {
            break;
        }
        rewriter.write(piece).ok()?;
    }
    if !head.borrow().is_decided() {
        rewriter.end().ok()?;
    }
    let head = head.borrow();
    (!head.is_frameset).then_some(head.place)
}

/// The insertion mode of the tree construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// "before html" to "in head".
    Head,
    /// "after head".
    AfterHead,
    /// "in body", and a frameset could still replace it.
    Body,
    /// The result is final.
    Decided,
}

/// The state of the tree construction until the body begins.
struct Head {
    mode: Mode,
    /// The end of the last markup before the body.
    place: usize,
    is_frameset: bool,
    /// The name and depth of the enclosing element: a template, or a noscript of the head.
    inside: Option<(String, usize)>,
}

impl Head {
    fn new(document: &[u8]) -> Head {
        let mark = document.starts_with("\u{feff}".as_bytes());
        Head {
            mode: Mode::Head,
            place: if mark { 3 } else { 0 },
            is_frameset: false,
            inside: None,
        }
    }

    fn is_decided(&self) -> bool {
        self.mode == Mode::Decided
    }

    /// Handles invisible markup that ends at this offset after [`HEAD_OPENING`].
    fn pass(&mut self, end: usize) {
        let is_in_head = matches!(self.mode, Mode::Head | Mode::AfterHead);
        if let Some(end) = end.checked_sub(HEAD_OPENING.len()).filter(|_| is_in_head)
            && self.inside.is_none()
        {
            self.place = self.place.max(end);
        }
    }

    /// Handles characters outside markup.
    fn text(&mut self, text: &str) {
        let is_space =
            |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}' | '\u{feff}' | '\0');
        if !text.chars().all(is_space) {
            self.content("");
        }
    }

    /// Handles visible content, or content that a browser treats as visible. `name` is the
    /// element's, empty for characters.
    fn content(&mut self, name: &str) {
        match &self.inside {
            Some((outer, _)) if outer == "template" => return,
            // The content of the noscript is visible, and the noscript comes after the text.
            _ => self.inside = None,
        }
        self.mode = match self.mode {
            Mode::Decided => Mode::Decided,
            _ if name.is_empty() || ENDS_FRAMESET.contains(&name) => Mode::Decided,
            _ => Mode::Body,
        };
    }

    /// Handles a start tag. Returns whether its end tag matters.
    fn start(&mut self, name: &str, place: Range<usize>, element: &Element<'_, '_>) -> bool {
        if place.start < HEAD_OPENING.len() {
            return name == "head";
        }
        if self.is_decided() {
            return false;
        }
        let in_template = matches!(&self.inside, Some((outer, _)) if outer == "template");
        let in_noscript = self.inside.is_some() && !in_template;
        match (name, self.mode) {
            ("template", _) if self.mode != Mode::Body => {
                match &mut self.inside {
                    Some((outer, depth)) if outer == "template" => *depth += 1,
                    _ if in_noscript => self.content(name),
                    _ => self.inside = Some((name.to_owned(), 1)),
                }
                true
            }
            _ if in_template => false,
            ("frameset", _) => {
                self.is_frameset = true;
                self.mode = Mode::Decided;
                false
            }
            (_, Mode::Body) => {
                let is_hidden = name == "input"
                    && element
                        .get_attribute("type")
                        .is_some_and(|kind| kind.eq_ignore_ascii_case("hidden"));
                if !is_hidden {
                    self.content(name);
                }
                false
            }
            ("html", _) => {
                self.pass(place.end);
                false
            }
            ("head", Mode::Head) if !in_noscript => {
                self.pass(place.end);
                true
            }
            ("head", _) => true,
            ("body", _) => {
                self.inside = None;
                self.pass(place.end);
                self.mode = Mode::Decided;
                false
            }
            ("base" | "basefont" | "bgsound" | "link" | "meta", _) => {
                self.pass(place.end);
                false
            }
            ("noframes" | "style", _) => true,
            ("title" | "script", _) if !in_noscript => true,
            (NOSCRIPT, Mode::Head) if !in_noscript => {
                self.inside = Some((name.to_owned(), 1));
                true
            }
            _ => {
                self.content(name);
                false
            }
        }
    }

    /// Handles an end tag that matters.
    fn end(&mut self, name: &str, end: usize) {
        match &mut self.inside {
            Some((outer, depth)) if outer == name => {
                *depth -= 1;
                if *depth == 0 {
                    self.inside = None;
                }
            }
            Some(_) => return,
            None => {}
        }
        if name == "head" && self.mode == Mode::Head {
            self.mode = Mode::AfterHead;
        }
        self.pass(end);
    }
}

/// The start tags after which a frameset is ignored (the "frameset-ok flag").
const ENDS_FRAMESET: [&str; 26] = [
    "applet",
    "area",
    "body",
    "br",
    "button",
    "dd",
    "dt",
    "embed",
    "hr",
    "iframe",
    "image",
    "img",
    "input",
    "keygen",
    "li",
    "listing",
    "marquee",
    "object",
    "plaintext",
    "pre",
    "select",
    "table",
    "template",
    "textarea",
    "wbr",
    "xmp",
];

/// The last end tag of a body.
#[derive(Debug, Clone, Copy)]
struct EndTag {
    /// Its offset.
    at: usize,
    /// The number of elements that may be open before it and must not enclose a text.
    open: usize,
}

#[derive(Debug, Default)]
struct DocumentScan {
    /// The last end tags of a body, and of html.
    ends: [Option<EndTag>; 2],
    /// The offset of the first start tag.
    first: Option<usize>,
    has_frameset: bool,
    tag_offsets: TagOffsets,
    /// The number of elements that may be open and must not enclose a text.
    open: usize,
}

/// The offsets of the last start tags and comments; enough to find one before any end tag.
#[derive(Debug, Default)]
struct TagOffsets(VecDeque<usize>);

impl TagOffsets {
    /// Adds a start tag or a comment at this offset after [`BODY_OPENING`].
    fn add(&mut self, start: usize) -> Option<usize> {
        let at = start.checked_sub(BODY_OPENING.len())?;
        if self.0.len() == TAG_OFFSETS {
            self.0.pop_front();
        }
        self.0.push_back(at);
        Some(at)
    }

    /// Returns the last of them before this offset; 0 if it is no longer stored.
    fn last_before(&self, offset: usize) -> usize {
        let mut last = self.0.iter().rev();
        last.find(|&&at| at < offset).copied().unwrap_or(0)
    }
}

impl DocumentScan {
    /// Records a start tag.
    fn start(&mut self, start: usize) {
        let at = self.tag_offsets.add(start);
        self.first = self.first.or(at);
    }

    /// Records an end tag of body or html.
    fn end(&mut self, name: &str, start: usize) {
        if let Some(at) = start.checked_sub(BODY_OPENING.len()) {
            let which = usize::from(name == "html");
            let open = self.open;
            self.ends[which] = Some(EndTag { at, open });
        }
    }
}

fn scan(document: &[u8]) -> Option<DocumentScan> {
    let scanned = Rc::new(RefCell::new(DocumentScan::default()));
    let (tags, comments) = (scanned.clone(), scanned.clone());
    let hiding = hiding_words(document);
    // One handler for all: each further selector costs as much as a short document.
    let handler = element!("*", move |el| {
        let mut scanned = tags.borrow_mut();
        let place = el.source_location().bytes();
        scanned.start(place.start);
        // Most elements are not relevant; allocating their names would be wasteful.
        let [start, end] = [place.start, place.end].map(|at| at.checked_sub(BODY_OPENING.len()));
        let source = start.and_then(|at| document.get(at + 1..));
        let word = hiding.get(hiding.partition_point(|&word| Some(word) < start));
        let may_hide = word.is_some_and(|&word| Some(word) < end);
        if !may_hide && source.is_some_and(|source| !may_enclose(source)) {
            return Ok(());
        }
        let name = el.tag_name();
        scanned.has_frameset |= name == "frameset";
        let is_body = matches!(name.as_str(), "html" | "body");
        let holds = is_holding(&name);
        let hides = !holds && !is_body && may_hide && is_hidden(el);
        if !(is_body || holds || hides) || !el.can_have_content() {
            return Ok(());
        }
        scanned.open += usize::from(!is_body);
        drop(scanned);
        let tags = tags.clone();
        el.on_end_tag(end_tag!(move |end| {
            let mut scanned = tags.borrow_mut();
            if !is_body {
                scanned.open -= usize::from(is_closed(&name, &end.name()));
            } else if end.name() == name {
                scanned.end(&name, end.source_location().bytes().start);
            }
            Ok(())
        }))?;
        Ok(())
    });
    let settings = Settings::new()
        .append_element_content_handler(handler)
        .append_document_content_handler(doc_comments!(move |comment| {
            let start = comment.source_location().bytes().start;
            comments.borrow_mut().tag_offsets.add(start);
            Ok(())
        }))
        .with_strict(false);
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    rewriter.write(BODY_OPENING).ok()?;
    rewriter.write(document).ok()?;
    rewriter.end().ok()?;
    Some(scanned.take())
}

/// Whether a start tag, given from its name on, may be relevant to [`scan`].
fn may_enclose(source: &[u8]) -> bool {
    let length = source
        .iter()
        .take_while(|b| b.is_ascii_alphanumeric())
        .count();
    let Some(name) = source.get(..length).filter(|name| name.len() <= 8) else {
        return false;
    };
    let mut lower = [0; 8];
    lower[..length].copy_from_slice(name);
    lower.make_ascii_lowercase();
    let name = std::str::from_utf8(&lower[..length]).unwrap_or_default();
    matches!(name, "html" | "body" | "frameset") || is_holding(name)
}

/// Returns the offsets of words that can hide an element: only such elements' attributes are
/// parsed.
fn hiding_words(document: &[u8]) -> Vec<usize> {
    static WORDS: LazyLock<[Finder<'static>; 6]> =
        LazyLock::new(|| ["none", "hidden", "NONE", "HIDDEN", "None", "Hidden"].map(Finder::new));
    let found = WORDS.iter().flat_map(|word| word.find_iter(document));
    let mut places: Vec<usize> = found.collect();
    places.sort_unstable();
    places
}

/// Returns the markup required after these bytes to make the following text visible. Unfinished
/// markup began with the last start tag or comment, so nothing before that is parsed again.
fn ending(before: &[u8], last: usize) -> Option<String> {
    let tail = &before[last.min(before.len())..];
    let one = ENDINGS.into_iter().map(str::to_owned);
    let most = if tail.len() > TRIED_TWICE {
        0
    } else {
        ENDINGS.len()
    };
    let first = ENDINGS.into_iter().take(most).skip(1);
    let two = first.flat_map(|first| {
        let seconds = ENDINGS.into_iter().skip(1);
        seconds.map(move |second| format!("{first}{second}"))
    });
    one.chain(two)
        .find(|ending| is_visible(tail, ending.as_bytes()))
}

/// Whether an element after these bytes, on the next line, would be parsed as one.
fn is_visible(before: &[u8], ending: &[u8]) -> bool {
    let shown = Rc::new(Cell::new(false));
    let found = shown.clone();
    let settings = Settings::new()
        .append_element_content_handler(element!("copyist-probe", move |_| {
            found.set(true);
            Ok(())
        }))
        .with_strict(false);
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    let written = [before, b"\n", ending, PROBE]
        .into_iter()
        .try_for_each(|piece| rewriter.write(piece));
    written.is_ok() && shown.get()
}

/// Renames noscript elements to a name without meaning. No mail client runs scripts, so a noscript
/// is part of the document, while browsers and lol_html treat its content as text.
pub(super) fn without_noscript(document: &[u8]) -> Cow<'_, [u8]> {
    const NAME: &[u8] = b"noscript";
    let mut found = memchr::memchr2_iter(b'n', b'N', document)
        .filter(|&at| at > 0 && matches!(document[at - 1], b'<' | b'/'))
        .filter(|&at| {
            document[at..]
                .get(..NAME.len())
                .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
        })
        .peekable();
    if found.peek().is_none() {
        return document.into();
    }
    let mut copy = document.to_vec();
    found.for_each(|at| copy[at] = b'x');
    copy.into()
}
