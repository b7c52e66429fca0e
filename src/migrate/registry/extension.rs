//! The values of the key `MSExchangeIMC\Parameters\Extension`.
//!
//! The ten values are those of KB Q258206 (also Q262122 and Q262097).

use super::file::{Entry, RegistryProblem};
use super::property;
use super::value::Data;
use crate::config::problem::quote;
use crate::directory::Target;
use crate::text::Disclaimer;

/// The content of the key.
#[derive(Debug, Default)]
pub(super) struct Extension {
    pub(super) inbound: Side,
    pub(super) outbound: Side,
    /// Unknown values: name and line.
    pub(super) unknown: Vec<(String, usize)>,
}

/// The values for one direction.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) journal: Vec<Parsed<Target>>,
    pub(super) ndr: Option<Parsed<Target>>,
    pub(super) attribute: Option<Parsed<&'static str>>,
    pub(super) prepend: Option<Parsed<String>>,
    pub(super) append: Option<Parsed<String>>,
}

/// A parsed value, with its name as in the article, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parsed<T> {
    pub(super) value: T,
    pub(super) name: &'static str,
    pub(super) line: usize,
}

/// The kind of a value.
#[derive(Clone, Copy)]
enum ValueKind {
    Journal,
    Ndr,
    Property,
    Prepend,
    Append,
}

/// The values in the article, those for inbound mail first.
const VALUES: [(&str, ValueKind); 10] = [
    ("InboundJournal", ValueKind::Journal),
    ("InboundJournalNDR", ValueKind::Ndr),
    ("InboundRecipJournalProp", ValueKind::Property),
    ("InboundPrepend", ValueKind::Prepend),
    ("InboundAppend", ValueKind::Append),
    ("OutboundJournal", ValueKind::Journal),
    ("OutboundJournalNDR", ValueKind::Ndr),
    ("OutboundRecipJournalProp", ValueKind::Property),
    ("OutboundPrepend", ValueKind::Prepend),
    ("OutboundAppend", ValueKind::Append),
];

/// Parses the values; fails with all problems. The last of several values with one name applies, as
/// in the registry.
pub(super) fn read(values: &[Entry]) -> Result<Extension, Vec<RegistryProblem>> {
    let mut extension = Extension::default();
    let mut problems = Vec::new();
    for (at, entry) in values.iter().enumerate() {
        let same = |other: &Entry| other.name.eq_ignore_ascii_case(&entry.name);
        let is_last = !values[at + 1..].iter().any(same);
        let Some(data) = entry.data.as_ref().filter(|_| is_last) else {
            continue;
        };
        let known = VALUES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&entry.name));
        let Some((name, kind)) = known else {
            extension.unknown.push((entry.name.clone(), entry.line));
            continue;
        };
        let side = match name.starts_with("Inbound") {
            true => &mut extension.inbound,
            false => &mut extension.outbound,
        };
        let value = Value {
            name,
            line: entry.line,
            data,
        };
        if let Err(problem) = value.apply(*kind, side) {
            problems.push(problem);
        }
    }
    match problems.is_empty() {
        true => Ok(extension),
        false => Err(problems),
    }
}

struct Value<'a> {
    name: &'static str,
    line: usize,
    data: &'a Data,
}

impl Value<'_> {
    fn apply(&self, kind: ValueKind, side: &mut Side) -> Result<(), RegistryProblem> {
        match kind {
            ValueKind::Journal => side.journal = self.targets()?,
            ValueKind::Ndr => side.ndr = self.targets()?.into_iter().next(),
            ValueKind::Property => side.attribute = self.attribute()?,
            ValueKind::Prepend => side.prepend = self.rtf()?,
            ValueKind::Append => side.append = self.rtf()?,
        }
        Ok(())
    }

    fn parsed<T>(&self, value: T) -> Parsed<T> {
        Parsed {
            value,
            name: self.name,
            line: self.line,
        }
    }

    fn invalid(&self, value: &str, text: String, remedy: &str) -> RegistryProblem {
        RegistryProblem {
            line: Some(self.line),
            name: Some(self.name.to_owned()),
            value: Some(value.to_owned()),
            text,
            remedy: Some(remedy.to_owned()),
        }
    }

    /// Returns the strings of the value, without empty ones.
    fn texts(&self, example: &str) -> Result<Vec<&str>, RegistryProblem> {
        let texts: Vec<&str> = match self.data {
            Data::Text(text) => vec![text],
            Data::Texts(texts) => texts.iter().map(String::as_str).collect(),
            data => {
                let problem = "where a string (REG_SZ) is expected".into();
                return Err(self.invalid(data.kind(), problem, example));
            }
        };
        Ok(texts
            .into_iter()
            .filter(|text| !text.trim().is_empty())
            .collect())
    }

    fn targets(&self) -> Result<Vec<Parsed<Target>>, RegistryProblem> {
        const EXAMPLE: &str = "for example: \"/O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=globalarchdl\" or \"archive@example.com\"";
        let texts = self.texts(EXAMPLE)?;
        let target = |text: &str| {
            // Exchange's own name for the addresses of its directory.
            let plain = match text.trim().split_at_checked(3) {
                Some((kind, rest)) if kind.eq_ignore_ascii_case("ex:") => rest,
                _ => text,
            };
            match Target::parse(plain) {
                Ok(target) if !is_x400(&target) => Ok(self.parsed(target)),
                _ => {
                    let problem = "is neither an SMTP address nor the X.500 address of an object";
                    Err(self.invalid(&quote(text), problem.into(), EXAMPLE))
                }
            }
        };
        texts.into_iter().map(target).collect()
    }

    fn attribute(&self) -> Result<Option<Parsed<&'static str>>, RegistryProblem> {
        match self.data {
            // The value after somebody cleared it instead of deleting it.
            Data::Number(0) => Ok(None),
            Data::Number(tag) => property::attribute(*tag)
                .map(|attribute| Some(self.parsed(attribute)))
                .map_err(|(problem, remedy)| {
                    self.invalid(&format!("{tag:#010x}"), problem, &remedy)
                }),
            Data::Text(text) => Err(self.invalid(
                &quote(text),
                "is a string where a number (REG_DWORD) is expected".into(),
                "for example: dword:80360000",
            )),
            data => Err(self.invalid(
                data.kind(),
                "where a number (REG_DWORD) is expected".into(),
                "for example: dword:80360000",
            )),
        }
    }

    fn rtf(&self) -> Result<Option<Parsed<String>>, RegistryProblem> {
        const EXAMPLE: &str = "for example: \"First line.\\\\par Second line.\"";
        let text = self.texts(EXAMPLE)?.join("\n");
        if text.is_empty() {
            return Ok(None);
        }
        match Disclaimer::from_rtf(text.as_bytes(), false) {
            Ok(_) => Ok(Some(self.parsed(text))),
            Err(error) => Err(self.invalid(&quote(&text), error.to_string(), EXAMPLE)),
        }
    }
}

/// Whether a target is an X.400 address, which looks like the name of an object:
/// `c=US;a= ;p=ACME;s=archive`, or the same with slashes. The X.500 names of Exchange 5.5 begin with
/// the organization.
fn is_x400(target: &Target) -> bool {
    match target {
        Target::Smtp(_) => false,
        Target::Dn(name) => name.contains(';'),
        Target::X500(name) => !name
            .get(..3)
            .is_some_and(|begin| begin.eq_ignore_ascii_case("/o=")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, data: Option<Data>) -> Entry {
        Entry {
            name: name.into(),
            line: 4,
            data,
        }
    }

    fn text(name: &str, text: &str) -> Entry {
        entry(name, Some(Data::Text(text.into())))
    }

    fn invalid(entry: Entry) -> RegistryProblem {
        read(&[entry]).expect_err("it is wrong").remove(0)
    }

    #[test]
    fn names_are_known_in_any_case_and_the_last_value_counts() {
        let values = [
            text("INBOUNDJOURNAL", "old@example.com"),
            text("inboundjournal", "EX:/O=ACME/CN=archive"),
            text("OutboundJournal", "gone@example.com"),
            entry("outboundJournal", None),
            text("InboundAppend", "  "),
        ];
        let extension = read(&values).expect("sound");
        let journal = &extension.inbound.journal[0];
        assert_eq!(journal.name, "InboundJournal");
        assert_eq!(journal.value, Target::X500("/O=ACME/CN=archive".into()));
        assert!(extension.outbound.journal.is_empty());
        assert_eq!(extension.inbound.append, None);
    }

    #[test]
    fn a_list_of_texts_is_a_list_of_journal_targets() {
        let both = Data::Texts(vec!["a@b.test".into(), "c@d.test".into()]);
        let extension = read(&[entry("InboundJournal", Some(both))]).expect("sound");
        assert_eq!(extension.inbound.journal.len(), 2);
    }

    #[test]
    fn a_wrong_type_is_reported_with_the_right_one() {
        let wrong = invalid(text("InboundRecipJournalProp", "0x80360000"));
        assert_eq!(wrong.value.as_deref(), Some("\"0x80360000\""));
        assert_eq!(wrong.remedy.as_deref(), Some("for example: dword:80360000"));
        let wrong = invalid(entry("InboundJournal", Some(Data::Number(1))));
        assert_eq!(wrong.value.as_deref(), Some("a number"));
        let wrong = invalid(entry(
            "InboundRecipJournalProp",
            Some(Data::Number(0x8037_0000)),
        ));
        assert_eq!(wrong.value.as_deref(), Some("0x80370000"));
        assert!(
            wrong
                .remedy
                .expect("one")
                .contains("80360000 (extensionAttribute10)")
        );
    }

    #[test]
    fn invalid_addresses_and_rtf_are_reported() {
        for address in [
            "c=us;a= ;p=acme;s=archive",
            "/c=us/a= /p=acme/s=archive",
            "X400:c=us;a= ;p=acme",
            "archive",
        ] {
            let wrong = invalid(text("OutboundJournalNDR", address));
            assert!(wrong.text.contains("neither an SMTP address"), "{address}");
        }
        let wrong = invalid(text("OutboundAppend", r"{\b bold"));
        assert!(wrong.text.contains("has no }"), "{}", wrong.text);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let values = [
            text("InboundJournal", "nobody"),
            text("OutboundJournal", "nobody"),
        ];
        assert_eq!(read(&values).expect_err("two").len(), 2);
    }

    #[test]
    fn unknown_values_are_reported() {
        let extension = read(&[text("LogLevel", "5")]).expect("sound");
        assert_eq!(extension.unknown, [("LogLevel".to_owned(), 4)]);
    }
}
