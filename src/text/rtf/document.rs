//! The text of a document, and its plain text and HTML forms.

use super::control_words::{Align, Script};
use super::{OUTPUT, RtfError, field};
use crate::text::html::escape;
use crate::text::template::is_template;

/// The intensities of red, green and blue.
pub(super) type Colour = [u8; 3];

/// The formatting of characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CharFormat {
    pub(super) bold: bool,
    pub(super) italic: bool,
    pub(super) underline: bool,
    pub(super) strike: bool,
    pub(super) capitals: bool,
    pub(super) small_capitals: bool,
    pub(super) hidden: bool,
    pub(super) script: Script,
    pub(super) colour: Option<Colour>,
    pub(super) background: Option<Colour>,
    /// In half points, if set.
    pub(super) size: Option<u16>,
}

/// The formatting of a paragraph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ParagraphFormat {
    pub(super) align: Align,
    pub(super) right_to_left: bool,
}

/// The index of a text's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(usize);

/// The lines of a document.
#[derive(Debug, Default)]
pub(super) struct Document {
    lines: Vec<Line>,
    open: Line,
    /// Cells that ended before the next text of the line.
    cells: usize,
    links: Vec<String>,
}

#[derive(Debug, Default)]
struct Line {
    runs: Vec<Run>,
    layout: ParagraphFormat,
    ends_paragraph: bool,
}

/// Text with one formatting.
#[derive(Debug)]
struct Run {
    format: CharFormat,
    link: Option<Link>,
    text: String,
}

impl Document {
    pub(super) fn push(
        &mut self,
        c: char,
        format: CharFormat,
        link: Option<Link>,
        layout: ParagraphFormat,
    ) {
        self.open.layout = layout;
        let cells = std::mem::take(&mut self.cells);
        let run = self.run(format, link);
        run.extend(std::iter::repeat_n('\t', cells));
        run.push(c);
    }

    fn run(&mut self, format: CharFormat, link: Option<Link>) -> &mut String {
        let runs = &mut self.open.runs;
        if runs
            .last()
            .is_none_or(|run| (run.format, run.link) != (format, link))
        {
            runs.push(Run {
                format,
                link,
                text: String::new(),
            });
        }
        let last = runs.len() - 1;
        &mut runs[last].text
    }

    pub(super) fn link_to(&mut self, address: String) -> Link {
        self.links.push(address);
        Link(self.links.len() - 1)
    }

    pub(super) fn end_cell(&mut self) {
        self.cells += 1;
    }

    pub(super) fn end_line(&mut self) {
        self.cells = 0;
        self.lines.push(std::mem::take(&mut self.open));
    }

    pub(super) fn end_paragraph(&mut self, layout: ParagraphFormat) {
        self.open.layout = layout;
        self.open.ends_paragraph = true;
        self.end_line();
    }

    /// Whether the current line is empty.
    pub(super) fn is_at_start(&self) -> bool {
        self.open.runs.is_empty()
    }

    /// Ends the document, and removes empty lines at its end: word processors add an empty
    /// paragraph.
    pub(super) fn close(&mut self) {
        self.end_line();
        while self.lines.last().is_some_and(Line::is_blank) {
            self.lines.pop();
        }
    }

    /// Returns the lines as text/plain; empty if there is no text.
    pub(super) fn plain(&self) -> Result<String, RtfError> {
        let mut plain = String::new();
        // The current link, and the offset of its text.
        let mut open: Option<(Link, usize)> = None;
        for (n, line) in self.lines.iter().enumerate() {
            if n > 0 {
                plain.push('\n');
            }
            for run in &line.runs {
                if open.map(|(link, _)| link) != run.link {
                    self.name_address(&mut plain, open);
                    open = run.link.map(|link| (link, plain.len()));
                }
                // Few fonts have the non-breaking hyphen.
                plain.extend(run.text.chars().map(|c| match c {
                    '\u{2011}' => '-',
                    c => c,
                }));
                check_length(&plain)?;
            }
        }
        self.name_address(&mut plain, open);
        check_length(&plain)?;
        Ok(plain)
    }

    /// Inserts the address of a link after its text, before white space.
    fn name_address(&self, plain: &mut String, open: Option<(Link, usize)>) {
        let Some((Link(n), start)) = open else { return };
        let text = plain.get(start..).unwrap_or_default().trim_end();
        let Some(address) = self.links.get(n).filter(|_| !text.is_empty()) else {
            return;
        };
        if !field::shows_address(text, address) {
            plain.insert_str(start + text.len(), &format!(" <{address}>"));
        }
    }

    /// Returns the paragraphs as the content of a body element. Each line is valid HTML by itself,
    /// so that a template may drop lines.
    pub(super) fn html(&self) -> Result<String, RtfError> {
        let mut html = String::from("<div>\n");
        for paragraph in self.lines.split_inclusive(|line| line.ends_paragraph) {
            let layout = paragraph.last().map(|line| line.layout);
            html.push_str(&layout.unwrap_or_default().tag());
            if let [line] = paragraph {
                self.write(line, &mut html)?;
            } else {
                html.push('\n');
                for (n, line) in paragraph.iter().enumerate() {
                    self.write(line, &mut html)?;
                    let last = n + 1 == paragraph.len();
                    let end = if last || line.runs.is_empty() {
                        "\n"
                    } else {
                        "<br>\n"
                    };
                    html.push_str(end);
                }
            }
            html.push_str("</div>\n");
            check_length(&html)?;
        }
        html.push_str("</div>");
        Ok(html)
    }

    fn write(&self, line: &Line, html: &mut String) -> Result<(), RtfError> {
        if line.runs.is_empty() {
            html.push_str("<br>");
        }
        let mut link = None;
        let mut after_space = true;
        for run in &line.runs {
            if run.link != link {
                html.push_str(link.map_or("", |_| "</a>"));
                link = run.link;
                if let Some(address) = link.and_then(|Link(n)| self.links.get(n)) {
                    html.push_str(&format!("<a href=\"{}\">", escape(address)));
                }
            }
            let (open, close) = run.format.tags();
            html.push_str(&open);
            write_text(&run.text, html, &mut after_space);
            html.push_str(&close);
            check_length(html)?;
        }
        html.push_str(link.map_or("", |_| "</a>"));
        Ok(())
    }
}

impl Line {
    fn is_blank(&self) -> bool {
        self.runs
            .iter()
            .all(|run| run.text.chars().all(char::is_whitespace))
    }
}

impl ParagraphFormat {
    fn tag(self) -> String {
        let direction = if self.right_to_left {
            " dir=\"rtl\""
        } else {
            ""
        };
        let align = match self.align {
            Align::Start => return format!("<div{direction}>"),
            // Left is the default, except in right-to-left text.
            Align::Left if !self.right_to_left => return "<div>".to_owned(),
            Align::Left => "left",
            Align::Centre => "center",
            Align::Right => "right",
            Align::Justified => "justify",
        };
        format!("<div{direction} style=\"text-align:{align}\">")
    }
}

impl CharFormat {
    fn tags(&self) -> (String, String) {
        let (mut open, mut close) = (String::new(), String::new());
        let style = self.style();
        if !style.is_empty() {
            open.push_str(&format!("<span style=\"{style}\">"));
            close.push_str("</span>");
        }
        for (is_set, name) in [
            (self.bold, "b"),
            (self.italic, "i"),
            (self.underline, "u"),
            (self.strike, "s"),
            (self.script == Script::Super, "sup"),
            (self.script == Script::Sub, "sub"),
        ] {
            if is_set {
                open.push_str(&format!("<{name}>"));
                close.insert_str(0, &format!("</{name}>"));
            }
        }
        (open, close)
    }

    fn style(&self) -> String {
        let colour = |name: &str, colour: Option<Colour>| {
            colour.map(|[r, g, b]| format!("{name}:#{r:02x}{g:02x}{b:02x}"))
        };
        let size = self.size.map(|half| {
            let rest = if half % 2 == 1 { ".5" } else { "" };
            format!("font-size:{}{rest}pt", half / 2)
        });
        let styles = [
            colour("color", self.colour),
            colour("background-color", self.background),
            size,
            self.capitals.then(|| "text-transform:uppercase".to_owned()),
            self.small_capitals
                .then(|| "font-variant:small-caps".to_owned()),
        ];
        let styles: Vec<String> = styles.into_iter().flatten().collect();
        styles.join(";")
    }
}

/// Writes text as HTML that keeps its spaces.
fn write_text(text: &str, html: &mut String, after_space: &mut bool) {
    if is_template(text) {
        // Quotation marks and spaces of the template syntax must stay unchanged.
        html.push_str(&escape(text).replace("&quot;", "\""));
        *after_space = false;
        return;
    }
    for c in escape(text).chars() {
        match c {
            ' ' if *after_space => html.push_str("&nbsp;"),
            '\u{a0}' => html.push_str("&nbsp;"),
            '\t' => html.push_str("&emsp;"),
            c => html.push(c),
        }
        *after_space = c == ' ';
    }
}

/// Checks the length: formatting and links can expand small input.
fn check_length(text: &str) -> Result<(), RtfError> {
    if text.len() > OUTPUT {
        return Err(RtfError::Grows);
    }
    Ok(())
}
