//! The elements open at the end of a document that would enclose a text after it.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

use lol_html::html_content::Element;
use lol_html::{HtmlRewriter, Settings, element, end_tag};

use super::positions::{BODY_OPENING, NOSCRIPT};

/// Limit of open elements; no real document has more.
const MOST_OPEN: usize = 256;

/// The elements that are open.
#[derive(Default)]
struct OpenElements {
    /// Their names, the outermost first, and whether a text must not be inside.
    elements: Vec<(String, bool)>,
    /// Whether the limit was exceeded.
    is_too_deep: bool,
}

impl OpenElements {
    fn start(&mut self, name: String, holds: bool) {
        // Optional end tags.
        let ends =
            |(open, _): &(String, bool)| is_piece(open) && (*open == name || !is_holding(open));
        while is_piece(&name) && self.elements.last().is_some_and(ends) {
            self.elements.pop();
        }
        // A link ends where the next one begins, except in a table cell.
        let is_border = |(open, _): &(String, bool)| open == "a" || is_piece(open);
        if name == "a"
            && let Some(last) = self.elements.iter().rposition(is_border)
            && self.elements[last].0 == name
        {
            self.elements.remove(last);
        }
        self.is_too_deep |= self.elements.len() == MOST_OPEN;
        if !self.is_too_deep {
            self.elements.push((name, holds));
        }
    }

    fn end(&mut self, name: &str, end: &str) {
        if is_closed(name, end)
            && let Some(last) = self.elements.iter().rposition(|(open, _)| open == name)
        {
            self.elements.remove(last);
        }
    }
}

/// Returns the end tags of the outermost element that a text must not be inside, and of all
/// elements open in it: browsers ignore an end tag while another element is open.
pub(super) fn end_tags(document: &[u8]) -> Option<String> {
    let open = Rc::new(RefCell::new(OpenElements::default()));
    let tags = open.clone();
    let handler = element!("*", move |el| {
        let name = el.tag_name();
        let holds = is_holding(&name) || is_hidden(el);
        if matches!(name.as_str(), "html" | "body") || !el.can_have_content() {
            return Ok(());
        }
        tags.borrow_mut().start(name.clone(), holds);
        let tags = tags.clone();
        el.on_end_tag(end_tag!(move |end| {
            tags.borrow_mut().end(&name, &end.name());
            Ok(())
        }))?;
        Ok(())
    });
    let settings = Settings::new()
        .append_element_content_handler(handler)
        .with_strict(false);
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    rewriter.write(BODY_OPENING).ok()?;
    rewriter.write(document).ok()?;
    let OpenElements {
        elements,
        is_too_deep,
    } = open.take();
    if is_too_deep {
        return None;
    }
    let outermost = elements.iter().position(|(_, holds)| *holds);
    let mut tags = String::new();
    for (name, _) in elements[outermost.unwrap_or(elements.len())..].iter().rev() {
        let name = if name == NOSCRIPT { "noscript" } else { name };
        let _ = write!(tags, "</{name}>");
    }
    Some(tags)
}

/// Whether an element encloses a text until its own end tag, whatever comes before: the text would
/// be part of a link, move above a table, or be invisible.
pub(super) fn is_holding(name: &str) -> bool {
    matches!(
        name,
        "a" | "audio"
            | "button"
            | "canvas"
            | "datalist"
            | "details"
            | "dialog"
            | "marquee"
            | "math"
            | "meter"
            | "object"
            | "optgroup"
            | "option"
            | "progress"
            | "rp"
            | "select"
            | "svg"
            | "table"
            | "template"
            | "video"
            | NOSCRIPT
    )
}

/// Whether an element is hidden by its own attributes.
pub(super) fn is_hidden(element: &Element<'_, '_>) -> bool {
    let style = element.get_attribute("style").unwrap_or_default();
    let style: String = style
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    element.has_attribute("hidden")
        || style.contains("display:none")
        || style.contains("visibility:hidden")
}

/// Whether an end tag closes an element without an end tag of its own.
pub(super) fn is_closed(name: &str, end: &str) -> bool {
    name == end || !is_holding(name) && !matches!(end, "body" | "html")
}

/// Whether an element ends where the next of its kind begins.
fn is_piece(name: &str) -> bool {
    matches!(
        name,
        "dd" | "dt"
            | "li"
            | "optgroup"
            | "option"
            | "p"
            | "tbody"
            | "td"
            | "tfoot"
            | "th"
            | "thead"
            | "tr"
    )
}
