//! `prepend` and `append` of each direction, and the section `[text]`.

use super::{Build, non_empty};
use crate::config::files;
use crate::config::keys::join;
use crate::config::problem::{ErrorReported, quote};
use crate::config::{parse, raw};
use crate::policy::Direction;
use crate::text::{DirectionTexts, Disclaimer, DisclaimerError, Settings};

/// A text from a setting, with its key.
struct TextSource<T> {
    key: String,
    seen: String,
    content: T,
}

impl Build<'_> {
    pub(super) fn texts(&mut self) -> Result<Settings, ErrorReported> {
        let raw = self.raw;
        let outbound = raw.outbound.common();
        let [inbound, outbound, internal] = [
            self.direction_texts(Direction::Inbound, &raw.inbound),
            self.direction_texts(Direction::Outbound, &outbound),
            self.direction_texts(Direction::Internal, &raw.internal),
        ];
        let exempt_attribute = self.optional(
            "text.exempt_attribute",
            &raw.text.exempt_attribute,
            parse::attribute,
        );
        Ok(Settings {
            inbound: inbound?,
            outbound: outbound?,
            internal: internal?,
            signed: raw.text.signed.into(),
            on_failure: raw.text.on_failure.into(),
            split_mixed: raw.text.split_mixed,
            exempt_attribute: exempt_attribute?,
        })
    }

    fn direction_texts(
        &mut self,
        direction: Direction,
        raw: &raw::Direction,
    ) -> Result<DirectionTexts, ErrorReported> {
        let prepend = self.wording(&join(direction.name(), "prepend"), &raw.prepend);
        let append = self.wording(&join(direction.name(), "append"), &raw.append);
        Ok(DirectionTexts {
            prepend: prepend?,
            append: append?,
        })
    }

    fn wording(
        &mut self,
        key: &str,
        raw: &raw::Wording,
    ) -> Result<Option<Disclaimer>, ErrorReported> {
        let plain = self.text_setting(
            key,
            "text",
            (&raw.text, &raw.text_file),
            files::text,
            str::to_owned,
        );
        let html = self.text_setting(
            key,
            "html",
            (&raw.html, &raw.html_file),
            files::text,
            str::to_owned,
        );
        let bytes = |text: &str| text.as_bytes().to_vec();
        let rtf = self.text_setting(key, "rtf", (&raw.rtf, &raw.rtf_file), files::content, bytes);
        let (plain, html, rtf) = (plain?, html?, rtf?);
        if let (Some(rtf), Some(other)) = (&rtf, plain.as_ref().or(html.as_ref())) {
            let problem = format!(
                "already provides both versions, but {} is set as well",
                other.key
            );
            return Err(self.both(&rtf.key, &rtf.seen, problem));
        }
        let content =
            |given: &Option<TextSource<String>>| given.as_ref().map(|given| given.content.clone());
        let (made, at) = match (&rtf, plain.as_ref().or(html.as_ref())) {
            (Some(rtf), _) => (
                Disclaimer::from_rtf(&rtf.content, raw.once),
                (&rtf.key, &rtf.seen),
            ),
            (None, Some(first)) => {
                let (text, html) = (content(&plain), content(&html));
                (
                    Disclaimer::new(text.as_deref(), html.as_deref(), raw.once),
                    (&first.key, &first.seen),
                )
            }
            (None, None) if raw.once => {
                return Err(self.report_missing(
                    &join(key, "text"),
                    &join(key, "once"),
                    "no text is set",
                ));
            }
            (None, None) => return Ok(None),
        };
        let (key, seen) = at;
        made.map(Some).map_err(|error| match error {
            DisclaimerError::Empty => self.problems.report_invalid(key, seen, error),
            error => self
                .problems
                .report_invalid_with(key, Some(&quote(seen)), error, None),
        })
    }

    /// Reads a text from one of two settings: inline or a file.
    fn text_setting<T>(
        &mut self,
        table: &str,
        name: &str,
        (here, file): (&Option<String>, &Option<String>),
        read: impl Fn(&std::path::Path) -> Result<T, files::FileError>,
        take: impl Fn(&str) -> T,
    ) -> Result<Option<TextSource<T>>, ErrorReported> {
        let (key, file_key) = (join(table, name), join(table, &format!("{name}_file")));
        match (
            here.as_deref().filter(|text| !text.is_empty()),
            non_empty(file),
        ) {
            (None, None) => Ok(None),
            (Some(text), None) => Ok(Some(TextSource {
                key,
                seen: excerpt(text),
                content: take(text),
            })),
            (None, Some(file)) => {
                let path = self.path(file);
                let content =
                    read(&path).map_err(|error| self.bad_file(&file_key, file, &path, &error))?;
                Ok(Some(TextSource {
                    key: file_key,
                    seen: file.to_owned(),
                    content,
                }))
            }
            (Some(_), Some(file)) => {
                let problem = format!("is set although {key} is");
                Err(self.both(&file_key, file, problem))
            }
        }
    }

    fn both(&mut self, key: &str, seen: &str, problem: String) -> ErrorReported {
        self.problems.report_invalid_with(
            key,
            Some(&quote(seen)),
            problem,
            Some("remove one of the two".into()),
        )
    }
}

/// Returns the start of a text, enough to recognize it.
fn excerpt(text: &str) -> String {
    const MOST: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    let mut begin: String = line.chars().take(MOST).collect();
    if begin.len() < text.trim_end().len() {
        begin.push('…');
    }
    begin
}
