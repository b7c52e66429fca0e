//! A disclaimer as the administrator wrote it, and its text for one sender.

use std::sync::Arc;

use super::edit::Text;
use super::fingerprint::{Fingerprint, SHORTEST};
use super::html;
use super::rtf::{self, RtfError};
use super::template::{Template, TemplateError, is_template};
use crate::directory::Entry;

/// A configured text: plain text, HTML, or both; each may be a template.
#[derive(Debug, Clone)]
pub struct Disclaimer {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// The same text for every sender.
    Fixed(Arc<Text>),
    /// Filled in for each sender.
    Template {
        plain: Option<Template>,
        html: Option<Template>,
        /// If it should appear once: its fingerprint, if that is the same for every sender.
        once: Option<Option<Fingerprint>>,
    },
}

/// The reason why a text is invalid; continues a sentence that begins with its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisclaimerError {
    /// There is no text.
    #[error("is empty")]
    Empty,
    /// A control character that mail cannot carry.
    #[error("contains the control character U+{0:04X}")]
    Control(u32),
    /// The template is invalid.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The RTF is invalid.
    #[error(transparent)]
    Rtf(#[from] RtfError),
    /// Too short to be recognized.
    #[error(
        "has fewer than {SHORTEST} letters or digits, too few to be recognized with once = true"
    )]
    TooShort,
}

impl Disclaimer {
    /// Creates a text from plain text, HTML (a document or the content of its body), or both. A
    /// missing form is derived from the other. With `once` it is omitted if the conversation
    /// already has it.
    pub fn new(
        plain: Option<&str>,
        html: Option<&str>,
        once: bool,
    ) -> Result<Disclaimer, DisclaimerError> {
        let plain = plain.map(normalized).transpose()?;
        let html = html.map(|html| normalized(html::inner(html))).transpose()?;
        let given = || [&plain, &html].into_iter().flatten();
        if given().all(|text| text.trim().is_empty()) {
            return Err(DisclaimerError::Empty);
        }
        let kind = if given().any(|text| is_template(text)) {
            let fingerprint = common_fingerprint(plain.as_deref(), html.as_deref());
            Kind::Template {
                plain: plain.map(Template::plain).transpose()?,
                html: html.map(Template::html).transpose()?,
                once: once.then_some(fingerprint),
            }
        } else {
            let mut text = both(plain, html);
            if once {
                let fingerprint = Fingerprint::of(&text.plain).ok_or(DisclaimerError::TooShort)?;
                text.once = Some(fingerprint);
            }
            Kind::Fixed(Arc::new(text))
        };
        Ok(Disclaimer { kind })
    }

    /// Creates a text from RTF in the form of the Internet Mail Service Extension of Exchange 5.5,
    /// with or without its `{\rtf1` header.
    pub fn from_rtf(rtf: &[u8], once: bool) -> Result<Disclaimer, DisclaimerError> {
        let read = rtf::read(rtf)?;
        Disclaimer::new(Some(&read.plain), Some(&read.html), once)
    }

    /// Returns the attributes of the sender's object that it uses.
    pub fn attributes(&self) -> Vec<String> {
        let Kind::Template { plain, html, .. } = &self.kind else {
            return Vec::new();
        };
        let both = [plain, html].into_iter().flatten();
        let mut names: Vec<String> = both.flat_map(Template::attributes).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns the text for a sender; `None` if all its lines were dropped. A sender without an
    /// object has no attributes.
    pub fn for_sender(&self, sender: &[Arc<Entry>]) -> Result<Option<Arc<Text>>, TemplateError> {
        let (plain, html, once) = match &self.kind {
            Kind::Fixed(text) => return Ok(Some(text.clone())),
            Kind::Template { plain, html, once } => (plain, html, once),
        };
        let filled = |template: &Option<Template>| {
            let template = template.as_ref();
            template.map(|t| t.fill(sender)).transpose()
        };
        let mut text = both(filled(plain)?, filled(html)?);
        if text.plain.trim().is_empty() {
            return Ok(None);
        }
        if let Some(fingerprint) = once {
            text.once = fingerprint.clone().or_else(|| Fingerprint::of(&text.plain));
        }
        Ok(Some(Arc::new(text)))
    }
}

/// Returns both forms of a text; a missing one is derived from the other.
fn both(plain: Option<String>, html: Option<String>) -> Text {
    let (plain, html) = match (plain, html) {
        (Some(plain), Some(html)) => (plain, html),
        (Some(plain), None) => {
            let html = html::from_plain(&plain);
            (plain, html)
        }
        (None, html) => {
            let html = html.unwrap_or_default();
            (html::to_plain(&html), html)
        }
    };
    Text::new(plain, html, None)
}

/// Normalizes line breaks to LF; fails if there are characters that mail cannot carry.
fn normalized(text: &str) -> Result<String, DisclaimerError> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    match text
        .chars()
        .find(|&c| c.is_control() && c != '\n' && c != '\t')
    {
        Some(c) => Err(DisclaimerError::Control(c.into())),
        None => Ok(text),
    }
}

/// Returns the fingerprint of the longest run of lines without template syntax.
fn common_fingerprint(plain: Option<&str>, html: Option<&str>) -> Option<Fingerprint> {
    let source = plain.or(html)?;
    let mut runs = vec![String::new()];
    for line in source.lines() {
        match (is_template(line), runs.last_mut()) {
            (false, Some(run)) => run.push_str(&format!("{line}\n")),
            _ => runs.push(String::new()),
        }
    }
    let words = runs.into_iter().map(|run| match plain {
        Some(_) => run,
        None => html::to_plain(&run),
    });
    Fingerprint::of(&words.max_by_key(String::len)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(attributes: &[(&str, &str)]) -> Vec<Arc<Entry>> {
        let attributes = attributes.iter().map(|(name, value)| {
            let values = if value.is_empty() {
                vec![]
            } else {
                vec![(*value).to_owned()]
            };
            ((*name).to_owned(), values)
        });
        vec![Arc::new(Entry::new("cn=a", attributes))]
    }

    #[test]
    fn a_missing_form_is_derived_from_the_other() {
        let plain = Disclaimer::new(Some("a < b\nc"), None, false).expect("sound");
        let text = plain.for_sender(&[]).expect("fixed").expect("words");
        assert_eq!(
            (&*text.plain, &*text.html),
            ("a < b\nc", "<div dir=\"auto\">a &lt; b<br>\nc</div>")
        );
        let html = Disclaimer::new(
            None,
            Some("<html><body><p>a &lt; b</p></body></html>"),
            false,
        );
        let text = html
            .expect("sound")
            .for_sender(&[])
            .expect("fixed")
            .expect("words");
        assert_eq!((&*text.plain, &*text.html), ("a < b", "<p>a &lt; b</p>"));
    }

    #[test]
    fn a_line_whose_field_is_empty_is_dropped_and_html_is_escaped() {
        let words = "-- \n{{ sender.displayName }}\nTel. {{ sender.telephoneNumber }}\n{% if sender.mobile %}Mob. {{ sender.mobile }}\n{% endif %}Corp AG";
        let html =
            "<p>{{ sender.displayname }}<br>\nTel. {{ sender.telephoneNumber }}<br>\nCorp</p>";
        let disclaimer = Disclaimer::new(Some(words), Some(html), false).expect("sound");
        assert_eq!(
            disclaimer.attributes(),
            ["displayName", "displayname", "mobile", "telephoneNumber"]
        );
        let ana = sender(&[
            ("displayName", "Ana <A&B>"),
            ("telephoneNumber", ""),
            ("MOBILE", "0791"),
        ]);
        let text = disclaimer.for_sender(&ana).expect("filled").expect("words");
        assert_eq!(text.plain, "-- \nAna <A&B>\nMob. 0791\nCorp AG");
        assert_eq!(text.html, "<p>Ana &lt;A&amp;B&gt;<br>\nCorp</p>");
        let nobody = disclaimer.for_sender(&[]).expect("filled").expect("words");
        assert_eq!(nobody.plain, "-- \nCorp AG");
        let only = Disclaimer::new(Some("{{ sender.displayName }}"), None, false).expect("sound");
        assert_eq!(only.for_sender(&[]), Ok(None));
    }

    #[test]
    fn errors_name_the_cause() {
        let error = |plain: &str| {
            Disclaimer::new(Some(plain), None, true)
                .expect_err(plain)
                .to_string()
        };
        assert_eq!(error(" \n"), "is empty");
        assert_eq!(error("a\u{7}"), "contains the control character U+0007");
        assert!(
            error("a\n{{ sender.name").contains("line 2"),
            "{}",
            error("a\n{{ sender.name")
        );
        assert!(error("{{ recipient.mail }}").contains("recipient"));
        assert!(error("{{ sender.mail | nosuch }}").contains("nosuch"));
        assert!(error("short").contains("fewer than 12 letters"));
    }

    #[test]
    fn templates_end() {
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}x{% endfor %}{% endfor %}{% endfor %}";
        let disclaimer = Disclaimer::new(Some(endless), None, false).expect("syntax is sound");
        assert!(disclaimer.for_sender(&[]).is_err());
    }

    #[test]
    fn a_template_is_recognized_by_its_fixed_lines() {
        let words = "{{ sender.displayName }}\nThis mail is confidential.\n{{ sender.mail }}";
        let disclaimer = Disclaimer::new(Some(words), None, true).expect("sound");
        let of = |name: &str| {
            let text = disclaimer
                .for_sender(&sender(&[("displayName", name)]))
                .expect("filled");
            text.expect("words").once.clone()
        };
        assert_eq!(of("Ana"), of("Bo"));
        assert!(
            of("Ana")
                .expect("a mark")
                .is_in("> this mail\n> is confidential")
        );
    }

    #[test]
    fn rtf_has_both_forms_and_may_be_a_template() {
        let rtf = br"{\rtf1\ansi{\b \{\{ sender.displayName \}\}}\par Corp}";
        let disclaimer = Disclaimer::from_rtf(rtf, false).expect("sound");
        let text = disclaimer
            .for_sender(&sender(&[("displayName", "Ana")]))
            .expect("filled")
            .expect("words");
        assert_eq!(text.plain, "Ana\nCorp");
        assert!(text.html.contains("<b>Ana</b>"), "{}", text.html);
    }
}
