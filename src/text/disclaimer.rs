//! A text as the administrator wrote it, and what it says for one sender.

use std::sync::Arc;

use super::edit::Text;
use super::fingerprint::{Fingerprint, SHORTEST};
use super::html;
use super::rtf::{self, RtfError};
use super::template::{Template, TemplateError, is_template};
use crate::directory::Entry;

/// A text as written: plain text, HTML, or both of them; each may be a template.
#[derive(Debug, Clone)]
pub struct Disclaimer {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// It says the same for everybody.
    Fixed(Arc<Text>),
    /// It is filled in for each sender.
    Template {
        plain: Option<Template>,
        html: Option<Template>,
        /// Where it is to stand once: what it is known by, if that is the same for everybody.
        once: Option<Option<Fingerprint>>,
    },
}

/// Why a text is of no use; continues a sentence that begins with its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisclaimerError {
    /// Nothing would be put in.
    #[error("says nothing")]
    Empty,
    /// It would not come through.
    #[error("holds the control character U+{0:04X}")]
    Control(u32),
    /// The template's own mistake.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The RTF's own mistake.
    #[error(transparent)]
    Rtf(#[from] RtfError),
    /// There is nothing to know it by.
    #[error("is to stand once and has fewer than {SHORTEST} letters to be known by")]
    TooShortToKnow,
}

impl Disclaimer {
    /// A text given as plain text, as HTML (a document, or what stands in its body), or as both.
    /// What is not given is made of the other. With `once` it is left out where a conversation has
    /// it already.
    pub fn new(
        plain: Option<&str>,
        html: Option<&str>,
        once: bool,
    ) -> Result<Disclaimer, DisclaimerError> {
        let plain = plain.map(sound).transpose()?;
        let html = html.map(|html| sound(html::inner(html))).transpose()?;
        let given = || [&plain, &html].into_iter().flatten();
        if given().all(|text| text.trim().is_empty()) {
            return Err(DisclaimerError::Empty);
        }
        let kind = if given().any(|text| is_template(text)) {
            let mark = known_by(plain.as_deref(), html.as_deref());
            Kind::Template {
                plain: plain.map(Template::plain).transpose()?,
                html: html.map(Template::html).transpose()?,
                once: once.then_some(mark),
            }
        } else {
            let mut text = both(plain, html);
            if once {
                let mark = Fingerprint::of(&text.plain).ok_or(DisclaimerError::TooShortToKnow)?;
                text.once = Some(mark);
            }
            Kind::Fixed(Arc::new(text))
        };
        Ok(Disclaimer { kind })
    }

    /// A text given as RTF, as the Internet Mail Service Extension of Exchange 5.5 took it, with or
    /// without its `{\rtf1` header.
    pub fn from_rtf(rtf: &[u8], once: bool) -> Result<Disclaimer, DisclaimerError> {
        let read = rtf::read(rtf)?;
        Disclaimer::new(Some(&read.plain), Some(&read.html), once)
    }

    /// The attributes of the sender's object that it names.
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

    /// What it says for a sender; `None` where all its lines were dropped. A sender without an
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
        if let Some(mark) = once {
            text.once = mark.clone().or_else(|| Fingerprint::of(&text.plain));
        }
        Ok(Some(Arc::new(text)))
    }
}

/// Both kinds of a text, the one made of the other where it is not given.
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

/// With LF at the ends of lines, and nothing in it that mail cannot carry.
fn sound(text: &str) -> Result<String, DisclaimerError> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    match text
        .chars()
        .find(|&c| c.is_control() && c != '\n' && c != '\t')
    {
        Some(c) => Err(DisclaimerError::Control(c.into())),
        None => Ok(text),
    }
}

/// The longest run of lines that is the same for everybody.
fn known_by(plain: Option<&str>, html: Option<&str>) -> Option<Fingerprint> {
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
    fn what_is_not_given_is_made_of_the_other() {
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
        let wording = Disclaimer::new(Some(words), Some(html), false).expect("sound");
        assert_eq!(
            wording.attributes(),
            ["displayName", "displayname", "mobile", "telephoneNumber"]
        );
        let ana = sender(&[
            ("displayName", "Ana <A&B>"),
            ("telephoneNumber", ""),
            ("MOBILE", "0791"),
        ]);
        let text = wording.for_sender(&ana).expect("filled").expect("words");
        assert_eq!(text.plain, "-- \nAna <A&B>\nMob. 0791\nCorp AG");
        assert_eq!(text.html, "<p>Ana &lt;A&amp;B&gt;<br>\nCorp</p>");
        let nobody = wording.for_sender(&[]).expect("filled").expect("words");
        assert_eq!(nobody.plain, "-- \nCorp AG");
        let only = Disclaimer::new(Some("{{ sender.displayName }}"), None, false).expect("sound");
        assert_eq!(only.for_sender(&[]), Ok(None));
    }

    #[test]
    fn mistakes_are_told() {
        let error = |plain: &str| {
            Disclaimer::new(Some(plain), None, true)
                .expect_err(plain)
                .to_string()
        };
        assert_eq!(error(" \n"), "says nothing");
        assert_eq!(error("a\u{7}"), "holds the control character U+0007");
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
        let wording = Disclaimer::new(Some(endless), None, false).expect("syntax is sound");
        assert!(wording.for_sender(&[]).is_err());
    }

    #[test]
    fn a_template_that_is_to_stand_once_is_known_by_what_is_the_same_for_everybody() {
        let words = "{{ sender.displayName }}\nThis mail is confidential.\n{{ sender.mail }}";
        let wording = Disclaimer::new(Some(words), None, true).expect("sound");
        let of = |name: &str| {
            let text = wording
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
    fn rtf_is_both_kinds_and_may_be_a_template() {
        let rtf = br"{\rtf1\ansi{\b \{\{ sender.displayName \}\}}\par Corp}";
        let wording = Disclaimer::from_rtf(rtf, false).expect("sound");
        let text = wording
            .for_sender(&sender(&[("displayName", "Ana")]))
            .expect("filled")
            .expect("words");
        assert_eq!(text.plain, "Ana\nCorp");
        assert!(text.html.contains("<b>Ana</b>"), "{}", text.html);
    }
}
