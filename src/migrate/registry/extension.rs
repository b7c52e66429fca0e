//! The values of the key `MSExchangeIMC\Parameters\Extension` → what they ask for.
//!
//! The ten values are those of KB Q258206 (also Q262122 and Q262097).

use super::file::{Entry, Fault};
use super::property;
use super::value::Data;
use crate::config::mistake::quoted;
use crate::directory::Target;
use crate::text::Disclaimer;

/// What stands in the key.
#[derive(Debug, Default)]
pub(super) struct Extension {
    pub(super) inbound: Side,
    pub(super) outbound: Side,
    /// Values that none of the ten is: name and line.
    pub(super) unknown: Vec<(String, usize)>,
}

/// What stands in the key about one direction.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) journal: Vec<Found<Target>>,
    pub(super) ndr: Option<Found<Target>>,
    pub(super) attribute: Option<Found<&'static str>>,
    pub(super) prepend: Option<Found<String>>,
    pub(super) append: Option<Found<String>>,
}

/// What a value means, with its name as it stands in the article, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found<T> {
    pub(super) is: T,
    pub(super) name: &'static str,
    pub(super) line: usize,
}

/// What a value is about.
#[derive(Clone, Copy)]
enum About {
    Journal,
    Ndr,
    Property,
    Prepend,
    Append,
}

/// The values that the article describes, those of inbound mail first.
const VALUES: [(&str, About); 10] = [
    ("InboundJournal", About::Journal),
    ("InboundJournalNDR", About::Ndr),
    ("InboundRecipJournalProp", About::Property),
    ("InboundPrepend", About::Prepend),
    ("InboundAppend", About::Append),
    ("OutboundJournal", About::Journal),
    ("OutboundJournalNDR", About::Ndr),
    ("OutboundRecipJournalProp", About::Property),
    ("OutboundPrepend", About::Prepend),
    ("OutboundAppend", About::Append),
];

/// What the values ask for, or all that is wrong with them. Where a name comes again the last
/// counts, as it would in the registry.
pub(super) fn read(values: &[Entry]) -> Result<Extension, Vec<Fault>> {
    let mut extension = Extension::default();
    let mut faults = Vec::new();
    for (at, entry) in values.iter().enumerate() {
        let same = |other: &Entry| other.name.eq_ignore_ascii_case(&entry.name);
        let is_last = !values[at + 1..].iter().any(same);
        let Some(data) = entry.data.as_ref().filter(|_| is_last) else {
            continue;
        };
        let known = VALUES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&entry.name));
        let Some((name, about)) = known else {
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
        if let Err(fault) = value.put(*about, side) {
            faults.push(fault);
        }
    }
    match faults.is_empty() {
        true => Ok(extension),
        false => Err(faults),
    }
}

struct Value<'a> {
    name: &'static str,
    line: usize,
    data: &'a Data,
}

impl Value<'_> {
    fn put(&self, about: About, side: &mut Side) -> Result<(), Fault> {
        match about {
            About::Journal => side.journal = self.targets()?,
            About::Ndr => side.ndr = self.targets()?.into_iter().next(),
            About::Property => side.attribute = self.attribute()?,
            About::Prepend => side.prepend = self.rtf()?,
            About::Append => side.append = self.rtf()?,
        }
        Ok(())
    }

    fn found<T>(&self, is: T) -> Found<T> {
        Found {
            is,
            name: self.name,
            line: self.line,
        }
    }

    fn fault(&self, seen: &str, problem: String, remedy: &str) -> Fault {
        Fault {
            line: Some(self.line),
            name: Some(self.name.to_owned()),
            seen: Some(seen.to_owned()),
            problem,
            remedy: Some(remedy.to_owned()),
        }
    }

    /// The texts of the value; an empty one is none.
    fn texts(&self, example: &str) -> Result<Vec<&str>, Fault> {
        let texts: Vec<&str> = match self.data {
            Data::Text(text) => vec![text],
            Data::Texts(texts) => texts.iter().map(String::as_str).collect(),
            data => {
                let problem = "is what it holds, and it must be a text (REG_SZ)".into();
                return Err(self.fault(data.kind(), problem, example));
            }
        };
        Ok(texts
            .into_iter()
            .filter(|text| !text.trim().is_empty())
            .collect())
    }

    fn targets(&self) -> Result<Vec<Found<Target>>, Fault> {
        const EXAMPLE: &str = "write for example \"/O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=globalarchdl\" or \"archive@example.com\"";
        let texts = self.texts(EXAMPLE)?;
        let target = |text: &str| {
            // Exchange's own name for the addresses of its directory.
            let plain = match text.trim().split_at_checked(3) {
                Some((kind, rest)) if kind.eq_ignore_ascii_case("ex:") => rest,
                _ => text,
            };
            match Target::parse(plain) {
                Ok(target) if !is_x400(&target) => Ok(self.found(target)),
                _ => {
                    let problem = "is neither an SMTP address nor an X.500 address of a directory";
                    Err(self.fault(&quoted(text), problem.into(), EXAMPLE))
                }
            }
        };
        texts.into_iter().map(target).collect()
    }

    fn attribute(&self) -> Result<Option<Found<&'static str>>, Fault> {
        match self.data {
            // What the registry holds where somebody emptied the value instead of deleting it.
            Data::Number(0) => Ok(None),
            Data::Number(tag) => property::attribute(*tag)
                .map(|attribute| Some(self.found(attribute)))
                .map_err(|(problem, remedy)| self.fault(&format!("{tag:#010x}"), problem, &remedy)),
            Data::Text(text) => Err(self.fault(
                &quoted(text),
                "is a text, and must be a number (REG_DWORD)".into(),
                "write for example dword:80360000",
            )),
            data => Err(self.fault(
                data.kind(),
                "is what it holds, and it must be a number (REG_DWORD)".into(),
                "write for example dword:80360000",
            )),
        }
    }

    fn rtf(&self) -> Result<Option<Found<String>>, Fault> {
        const EXAMPLE: &str = "write for example \"First line.\\\\par Second line.\"";
        let text = self.texts(EXAMPLE)?.join("\n");
        if text.is_empty() {
            return Ok(None);
        }
        match Disclaimer::from_rtf(text.as_bytes(), false) {
            Ok(_) => Ok(Some(self.found(text))),
            Err(error) => Err(self.fault(&quoted(&text), error.to_string(), EXAMPLE)),
        }
    }
}

/// X.400 addresses look like names of objects, and name none: `c=US;a= ;p=ACME;s=archive`, or the
/// same with slashes. The X.500 names of Exchange 5.5 begin with the organization.
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

    fn fault(entry: Entry) -> Fault {
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
        assert_eq!(journal.is, Target::X500("/O=ACME/CN=archive".into()));
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
    fn values_of_the_wrong_type_say_which_would_be_right() {
        let wrong = fault(text("InboundRecipJournalProp", "0x80360000"));
        assert_eq!(wrong.seen.as_deref(), Some("\"0x80360000\""));
        assert_eq!(
            wrong.remedy.as_deref(),
            Some("write for example dword:80360000")
        );
        let wrong = fault(entry("InboundJournal", Some(Data::Number(1))));
        assert_eq!(wrong.seen.as_deref(), Some("a number"));
        let wrong = fault(entry(
            "InboundRecipJournalProp",
            Some(Data::Number(0x8037_0000)),
        ));
        assert_eq!(wrong.seen.as_deref(), Some("0x80370000"));
        assert!(
            wrong
                .remedy
                .expect("one")
                .contains("80360000 (extensionAttribute10)")
        );
    }

    #[test]
    fn what_names_no_mailbox_and_what_is_no_rtf_are_mistakes() {
        for address in [
            "c=us;a= ;p=acme;s=archive",
            "/c=us/a= /p=acme/s=archive",
            "X400:c=us;a= ;p=acme",
            "archive",
        ] {
            let wrong = fault(text("OutboundJournalNDR", address));
            assert!(
                wrong.problem.contains("neither an SMTP address"),
                "{address}"
            );
        }
        let wrong = fault(text("OutboundAppend", r"{\b bold"));
        assert!(wrong.problem.contains("has no }"), "{}", wrong.problem);
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let values = [
            text("InboundJournal", "nobody"),
            text("OutboundJournal", "nobody"),
        ];
        assert_eq!(read(&values).expect_err("two").len(), 2);
    }

    #[test]
    fn values_beside_the_ten_are_told() {
        let extension = read(&[text("LogLevel", "5")]).expect("sound");
        assert_eq!(extension.unknown, [("LogLevel".to_owned(), 4)]);
    }
}
