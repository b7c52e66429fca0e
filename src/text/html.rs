//! Where a text goes in an HTML body, and HTML from and to plain text.
//!
//! lol_html is used to find places, never to write: every octet of the document stays as it is. Documents as
//! they come are broken in every way, so whatever place was found is tried: a text that would stand inside an
//! unfinished comment, script or tag gets the end of that in front.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use lol_html::{HtmlRewriter, Settings, doc_comments, element, end_tag};

/// Put before every document that is read, so that end tags without a beginning are seen.
const OPENING: &[u8] = b"<html><body>";

/// An element that no document has.
const PROBE: &[u8] = b"<copyist-probe>";

/// What may be unfinished at the end of a document, and what ends it.
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

/// Ends up to this length are tried with two endings, too: each try is a pass over all of it.
const TRIED_TWICE: usize = 4 * 1024;

/// Where a text goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// The offset at which a text before the body is put in.
    pub(super) prepend: usize,
    /// The offset at which a text after it is put in.
    pub(super) append: usize,
    /// What has to stand before the text after it.
    pub(super) ending: String,
}

/// How many start tags and comments are remembered.
const BEGUN: usize = 1024;

#[derive(Debug, Default)]
struct Seen {
    /// After the start tags.
    html: Option<usize>,
    body: Option<usize>,
    /// After the first end tag of the head.
    head: Option<usize>,
    /// Before the last end tags.
    body_end: Option<usize>,
    html_end: Option<usize>,
    /// Where the last start tags and comments begin; enough of them to find one before any end tag.
    begun: VecDeque<usize>,
}

/// Finds them; `None` for what cannot be read as HTML.
pub(super) fn places(document: &[u8]) -> Option<Places> {
    let document = &*without_noscript(document);
    let seen = read(document)?;
    let start = after_doctype(document);
    let prepend = seen
        .body
        .or(seen.head)
        .or(seen.html)
        .unwrap_or(start)
        .max(start);
    // After the last end of a body: several documents in one part are shown one after the other.
    let append = seen
        .body_end
        .or(seen.html_end)
        .unwrap_or(document.len())
        .max(prepend);
    let ending = ending(&document[..append], seen.last_before(append))?;
    Some(Places {
        prepend,
        append,
        ending,
    })
}

/// No reader of mail runs scripts, so what stands in a noscript is part of the document, and no text as it is to a
/// browser and to lol_html. The same octets under a name that is nothing to either.
fn without_noscript(document: &[u8]) -> Cow<'_, [u8]> {
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

/// What has to stand behind these octets so that what follows is shown. What is open at their end began with the last
/// start tag or comment, so nothing before that is read again.
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
        .find(|ending| is_shown(tail, ending.as_bytes()))
}

impl Seen {
    /// A start tag ends at this offset behind [`OPENING`]; those of the opening itself do not count.
    fn start(&mut self, tag: &str, end: usize) {
        let Some(at) = end.checked_sub(OPENING.len()).filter(|&at| at > 0) else {
            return;
        };
        match tag {
            "html" => self.html.get_or_insert(at),
            "body" => self.body.get_or_insert(at),
            _ => return,
        };
    }

    /// A start tag or a comment begins at this offset behind [`OPENING`].
    fn begin(&mut self, start: usize) {
        if let Some(at) = start.checked_sub(OPENING.len()) {
            if self.begun.len() == BEGUN {
                self.begun.pop_front();
            }
            self.begun.push_back(at);
        }
    }

    /// Where the last start tag or comment before this offset begins; the very start where that is not known any more.
    fn last_before(&self, offset: usize) -> usize {
        let mut last = self.begun.iter().rev();
        last.find(|&&at| at < offset).copied().unwrap_or(0)
    }

    /// An end tag stands there.
    fn end(&mut self, tag: &str, place: Range<usize>) {
        let at = |offset: usize| offset.checked_sub(OPENING.len());
        match tag {
            "html" => self.html_end = self.html_end.max(at(place.start)),
            "body" => self.body_end = self.body_end.max(at(place.start)),
            _ => self.head = self.head.or(at(place.end)),
        }
    }
}

fn read(document: &[u8]) -> Option<Seen> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let noted = seen.clone();
    let (tags, comments) = (seen.clone(), seen.clone());
    let settings = Settings::new()
        .append_element_content_handler(element!("*", move |el| {
            tags.borrow_mut().begin(el.source_location().bytes().start);
            Ok(())
        }))
        .append_document_content_handler(doc_comments!(move |comment| {
            let start = comment.source_location().bytes().start;
            comments.borrow_mut().begin(start);
            Ok(())
        }))
        .append_element_content_handler(element!("html, head, body", move |el| {
            let tag = el.tag_name();
            let noted = noted.clone();
            noted
                .borrow_mut()
                .start(&tag, el.source_location().bytes().end);
            el.on_end_tag(end_tag!(move |end| {
                // An element that another one's end tag closes has none.
                if end.name() == tag {
                    noted.borrow_mut().end(&tag, end.source_location().bytes());
                }
                Ok(())
            }))?;
            Ok(())
        }))
        .with_strict(false);
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    rewriter.write(OPENING).ok()?;
    rewriter.write(document).ok()?;
    rewriter.end().ok()?;
    Some(seen.take())
}

/// Whether an element that stands behind these would be one.
fn is_shown(before: &[u8], ending: &[u8]) -> bool {
    let shown = Rc::new(Cell::new(false));
    let found = shown.clone();
    let settings = Settings::new()
        .append_element_content_handler(element!("copyist-probe", move |_| {
            found.set(true);
            Ok(())
        }))
        .with_strict(false);
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    let written = [before, ending, PROBE]
        .into_iter()
        .try_for_each(|piece| rewriter.write(piece));
    written.is_ok() && shown.get()
}

fn after_doctype(document: &[u8]) -> usize {
    let start = if document.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    let rest = document[start..].trim_ascii_start();
    let skipped = document.len() - rest.len();
    match rest.get(..9) {
        Some(word) if word.eq_ignore_ascii_case(b"<!doctype") => {
            memchr::memchr(b'>', rest).map_or(start, |end| skipped + end + 1)
        }
        _ => start,
    }
}

/// What stands between the body's tags; the whole where there are none.
pub(super) fn inner(html: &str) -> &str {
    let Some(seen) = read(html.as_bytes()) else {
        return html.trim();
    };
    let start = seen
        .body
        .or(seen.head)
        .or(seen.html)
        .unwrap_or(after_doctype(html.as_bytes()));
    let end = seen.body_end.or(seen.html_end).unwrap_or(html.len());
    html.get(start..end).unwrap_or(html).trim()
}

/// Plain text as HTML: the same lines.
pub(super) fn from_plain(plain: &str) -> String {
    let lines: Vec<String> = plain.lines().map(escape).collect();
    format!("<div>{}</div>", lines.join("<br>\n"))
}

/// Text as it stands in HTML.
pub(super) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '&' => html.push_str("&amp;"),
            '"' => html.push_str("&quot;"),
            c => html.push(c),
        }
    }
    html
}

/// HTML as plain text, as well as it can be told.
pub(super) fn to_plain(html: &str) -> String {
    let text = mail_parser::decoders::html::html_to_text(html);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document with a text put in at both places.
    fn with_text(document: &str) -> String {
        let at = places(document.as_bytes()).expect("HTML");
        format!(
            "{}[P]{}{}[A]{}",
            &document[..at.prepend],
            &document[at.prepend..at.append],
            at.ending,
            &document[at.append..]
        )
    }

    #[test]
    fn text_goes_inside_the_body_whatever_the_tags_are_like() {
        for (document, expected) in [
            (
                "<html><body>x</body></html>",
                "<html><body>[P]x[A]</body></html>",
            ),
            (
                "<HTML><BODY BGCOLOR=red >x</BODY ></HTML>\r\n",
                "<HTML><BODY BGCOLOR=red >[P]x[A]</BODY ></HTML>\r\n",
            ),
            ("x", "[P]x[A]"),
            ("", "[P][A]"),
            ("<!DOCTYPE html>\r\n<p>x", "<!DOCTYPE html>[P]\r\n<p>x[A]"),
            ("<html>x</html>", "<html>[P]x[A]</html>"),
            (
                "<html><head><title>t</title></head>x</html>",
                "<html><head><title>t</title></head>[P]x[A]</html>",
            ),
            ("x</body></html>", "[P]x[A]</body></html>"),
            ("x</html>\r\nfooter", "[P]x[A]</html>\r\nfooter"),
            (
                "<body>x<!-- </body> --></body>",
                "<body>[P]x<!-- </body> -->[A]</body>",
            ),
            (
                "<body>x<script>'</body>'</script></body>",
                "<body>[P]x<script>'</body>'</script>[A]</body>",
            ),
            (
                "<body>a</body><body>b</body>",
                "<body>[P]a</body><body>b[A]</body>",
            ),
            (
                "<body><svg><circle/></svg></body>",
                "<body>[P]<svg><circle/></svg>[A]</body>",
            ),
            ("<body>x", "<body>[P]x[A]"),
            ("\u{feff}x", "\u{feff}[P]x[A]"),
        ] {
            assert_eq!(with_text(document), expected);
        }
    }

    #[test]
    fn text_is_not_swallowed_by_what_is_unfinished() {
        for (document, expected) in [
            (
                "<body>x<!-- y</body></html>",
                "<body>[P]x<!-- y</body></html>-->[A]",
            ),
            (
                "<body>x<a href=\"y</body>",
                "<body>[P]x<a href=\"y</body>\">[A]",
            ),
            ("<body>x<a href='y", "<body>[P]x<a href='y'>[A]"),
            ("<body>x<b", "<body>[P]x<b>[A]"),
            (
                "<body>x<textarea>y</body>",
                "<body>[P]x<textarea>y</body></textarea>[A]",
            ),
            ("<body>x<script>y", "<body>[P]x<script>y</script>[A]"),
            ("<style>y", "[P]<style>y</style>[A]"),
            ("<title>y", "[P]<title>y</title>[A]"),
            (
                "<noscript>x<style>y</noscript>",
                "[P]<noscript>x<style>y</noscript></style>[A]",
            ),
            ("<a title='\"><style>", "[P]<a title='\"><style>'>[A]"),
            ("<noframes>x<!--y", "[P]<noframes>x<!--y</noframes>[A]"),
        ] {
            assert_eq!(with_text(document), expected);
        }
    }

    #[test]
    fn plain_and_html_are_made_of_each_other() {
        assert_eq!(from_plain("a < b\n\nc"), "<div>a &lt; b<br>\n<br>\nc</div>");
        assert_eq!(to_plain("<p>a &lt; b</p><p>c<br>d</p>"), "a < b\nc\nd");
        assert_eq!(
            inner("<html><head><title>t</title></head><body class=x><p>a</p></body></html>"),
            "<p>a</p>"
        );
        assert_eq!(inner("<p>a</p>"), "<p>a</p>");
    }
}
