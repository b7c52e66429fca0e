//! Protection of a text from the styles of the document around it.
//!
//! Declarations of a style attribute that are `!important` win over every rule of a style sheet
//! (CSS Cascade, section 6.1), so a sender's rules cannot hide an element that carries such
//! declarations of its own. Mail clients skip declarations that they do not know.

use std::cell::RefCell;
use std::rc::Rc;

use lol_html::html_content::ContentType;
use lol_html::{RewriteStrSettings, element, end_tag, rewrite_str};

/// The style of the box around a text, in short lines for mail. `all` comes first: later
/// declarations set values again.
const BOX: &str = "all:initial!important;display:block!important;visibility:visible!important;opacity:1!important;\n\
position:relative!important;z-index:2147483647!important;float:none!important;clear:both!important;\n\
width:auto!important;height:auto!important;min-width:0!important;min-height:0!important;\n\
max-width:none!important;max-height:none!important;margin:0 0 8px!important;padding:4px!important;\n\
overflow:visible!important;clip:auto!important;clip-path:none!important;transform:none!important;\n\
filter:none!important;animation:none!important;transition:none!important;\n\
background:#fff!important;";

/// The style of the letters, which a rule for the first line of the box would change.
const LETTERS: &str = "color:#000!important;font:normal 14px/1.4 sans-serif!important;text-align:start!important;\n\
text-indent:0!important;letter-spacing:normal!important;word-spacing:normal!important;white-space:normal!important";

/// Presentational attributes, whose effect a style of the same element overrides, and their CSS
/// properties.
const ATTRIBUTES: [(&str, &str); 6] = [
    ("align", "text-align"),
    ("bgcolor", "background-color"),
    ("color", "color"),
    ("height", "height"),
    ("valign", "vertical-align"),
    ("width", "width"),
];

/// Elements without content that a style could hide.
const WITHOUT_STYLE: [&str; 6] = ["br", "link", "meta", "script", "style", "template"];

/// Returns the HTML of a text in a box that a document's styles cannot hide.
pub(in crate::text) fn shielded(html: &str) -> String {
    let inner = match plain_lines(html) {
        Some(lines) => format!("<span style=\"all:unset!important;{LETTERS}\">{lines}</span>"),
        None => elements(html),
    };
    format!("<div dir=\"auto\" style=\"{BOX}{LETTERS}\">{inner}</div>")
}

/// Returns the lines of a text made from plain text: it has no elements except line breaks.
fn plain_lines(html: &str) -> Option<&str> {
    let lines = html
        .strip_prefix("<div dir=\"auto\">")?
        .strip_suffix("</div>")?;
    let is_break = |tag: &str| tag.starts_with("br>");
    lines.split('<').skip(1).all(is_break).then_some(lines)
}

/// Makes each element keep its own style and ignore the document's.
fn elements(html: &str) -> String {
    // For each open table, whether its rows are in a group. Browsers add one, which would have no
    // style of its own.
    let grouped: Rc<RefCell<Vec<bool>>> = Rc::default();
    let handler = element!("*", |el| {
        let name = el.tag_name();
        match name.as_str() {
            "table" => {
                grouped.borrow_mut().push(false);
                let grouped = grouped.clone();
                el.on_end_tag(end_tag!(move |_| {
                    grouped.borrow_mut().pop();
                    Ok(())
                }))?;
            }
            "tbody" | "thead" | "tfoot" | "tr" => {
                if let Some(grouped) = grouped.borrow_mut().last_mut()
                    && !std::mem::replace(grouped, true)
                    && name == "tr"
                {
                    let group = "<tbody style=\"all:revert!important\">";
                    el.before(group, ContentType::Html);
                }
            }
            _ => {}
        }
        if WITHOUT_STYLE.contains(&name.as_str()) {
            return Ok(());
        }
        let mut style = String::from("all:revert!important");
        for (attribute, property) in ATTRIBUTES {
            if let Some(value) = el.get_attribute(attribute) {
                let is_number = value.bytes().all(|b| b.is_ascii_digit());
                let is_length = matches!(property, "width" | "height");
                let unit = if is_number && is_length { "px" } else { "" };
                style.push_str(&format!(";{property}:{value}{unit}!important"));
            }
        }
        for declaration in declarations(&el.get_attribute("style").unwrap_or_default()) {
            // Outlook ignores important declarations.
            style.push_str(&format!(";{declaration};{declaration}!important"));
        }
        el.set_attribute("style", &style)?;
        Ok(())
    });
    let settings = RewriteStrSettings::new()
        .append_element_content_handler(handler)
        .with_strict(false);
    rewrite_str(html, settings).unwrap_or_else(|_| html.to_owned())
}

/// Iterates over the declarations of a style attribute, without `!important`.
fn declarations(style: &str) -> impl Iterator<Item = String> {
    let mut found = vec![String::new()];
    let (mut quote, mut depth) = (None, 0usize);
    for c in style.chars() {
        match (c, quote) {
            (';', None) if depth == 0 => {
                found.push(String::new());
                continue;
            }
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('(', None) => depth += 1,
            (')', None) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if let Some(last) = found.last_mut() {
            last.push(c);
        }
    }
    found.into_iter().filter_map(|declaration| {
        let declaration = declaration.trim();
        let lower = declaration.to_ascii_lowercase();
        let kept = match lower.strip_suffix("important").map(str::trim_end) {
            Some(rest) if rest.ends_with('!') => &declaration[..rest.len() - 1],
            _ => declaration,
        };
        (!kept.is_empty()).then(|| kept.trim_end().to_owned())
    })
}
