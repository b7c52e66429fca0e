//! Attribute names: aliases, identifiers, options and subtypes (RFC 4512 sections 2.5 and 4.1.2).
//! Pure.
//!
//! A server returns values under a name of its own choice, `givenName` if `gn` was requested, or
//! with options, `description;lang-en` for `description`. Promises: each value is returned under
//! every requested name, and under no other.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;

use super::attributes::parse_range;
use super::entry::Entry;
use super::stamp::{self, Stamp};

/// An attribute's name and its values.
type Attribute = (String, Vec<String>);

/// Maximum depth of subtypes; a schema may contain a cycle.
const MAX_DEPTH: usize = 16;

/// Standard attribute types: RFC 4519, RFC 4524 and RFC 2798.
const STANDARD: [&str; 25] = [
    "( 0.9.2342.19200300.100.1.1 NAME ( 'uid' 'userid' ) )",
    "( 0.9.2342.19200300.100.1.3 NAME ( 'mail' 'rfc822Mailbox' ) )",
    "( 0.9.2342.19200300.100.1.5 NAME ( 'drink' 'favouriteDrink' ) )",
    "( 0.9.2342.19200300.100.1.20 NAME ( 'homePhone' 'homeTelephoneNumber' ) )",
    "( 0.9.2342.19200300.100.1.25 NAME ( 'dc' 'domainComponent' ) )",
    "( 0.9.2342.19200300.100.1.41 NAME ( 'mobile' 'mobileTelephoneNumber' ) )",
    "( 0.9.2342.19200300.100.1.42 NAME ( 'pager' 'pagerTelephoneNumber' ) )",
    "( 0.9.2342.19200300.100.1.43 NAME ( 'co' 'friendlyCountryName' ) )",
    "( 2.5.4.3 NAME ( 'cn' 'commonName' ) )",
    "( 2.5.4.4 NAME ( 'sn' 'surname' ) )",
    "( 2.5.4.6 NAME ( 'c' 'countryName' ) )",
    "( 2.5.4.7 NAME ( 'l' 'localityName' ) )",
    "( 2.5.4.8 NAME ( 'st' 'stateOrProvinceName' ) )",
    "( 2.5.4.9 NAME ( 'street' 'streetAddress' ) )",
    "( 2.5.4.10 NAME ( 'o' 'organizationName' ) )",
    "( 2.5.4.11 NAME ( 'ou' 'organizationalUnitName' ) )",
    "( 2.5.4.12 NAME 'title' )",
    "( 2.5.4.13 NAME 'description' )",
    "( 2.5.4.20 NAME 'telephoneNumber' )",
    "( 2.5.4.23 NAME ( 'facsimileTelephoneNumber' 'fax' ) )",
    "( 2.5.4.31 NAME 'member' )",
    "( 2.5.4.42 NAME ( 'givenName' 'gn' ) )",
    "( 2.5.4.50 NAME 'uniqueMember' )",
    "( 2.16.840.1.113730.3.1.3 NAME 'employeeNumber' )",
    "( 2.16.840.1.113730.3.1.4 NAME 'employeeType' )",
];

/// The attribute types of a server.
#[derive(Debug, Default)]
pub(super) struct Schema {
    /// Types by name and OID, in lower case.
    types: HashMap<String, usize>,
    /// The supertype of each type.
    above: Vec<Option<usize>>,
    /// The server's own name of each type.
    names: Vec<String>,
}

impl Schema {
    /// Parses values of `attributeTypes`. Invalid ones are left out.
    pub(super) fn of<'a>(descriptions: impl IntoIterator<Item = &'a str>) -> Schema {
        let mut schema = Schema::default();
        let mut superiors: Vec<Option<String>> = Vec::new();
        for description in descriptions {
            let Some(described) = TypeDescription::parse(description) else {
                continue;
            };
            let number = superiors.len();
            for name in described.names {
                schema.types.entry(name).or_insert(number);
            }
            schema.names.push(described.name);
            superiors.push(described.superior);
        }
        let above = superiors.into_iter();
        schema.above = above
            .map(|name| schema.types.get(&name?).copied())
            .collect();
        schema
    }

    /// Returns the standard types.
    pub(super) fn standard() -> Schema {
        Schema::of(STANDARD)
    }

    /// Whether the schema has no types.
    pub(super) fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Whether the type of an attribute description (a name or OID, perhaps with options) is known.
    pub(super) fn knows(&self, description: &str) -> bool {
        self.type_of(split(description).0).is_some()
    }

    /// Returns the server's own name of the type of an attribute description.
    pub(super) fn name_of(&self, description: &str) -> Option<&str> {
        let kind = self.type_of(split(description).0)?;
        self.names.get(kind).map(String::as_str)
    }

    fn type_of(&self, name: &str) -> Option<usize> {
        self.types.get(&*lower(name)).copied()
    }

    /// Whether a type is the other one, or a subtype of it.
    fn is_below(&self, kind: usize, other: usize) -> bool {
        let mut next = Some(kind);
        for _ in 0..MAX_DEPTH {
            match next {
                Some(kind) if kind == other => return true,
                Some(kind) => next = self.above.get(kind).copied().flatten(),
                None => return false,
            }
        }
        false
    }
}

/// The parts of a value of `attributeTypes` that matter here.
struct TypeDescription {
    /// The first name, or the OID if there is none.
    name: String,
    /// All names and the OID, in lower case.
    names: Vec<String>,
    /// The supertype, in lower case.
    superior: Option<String>,
}

impl TypeDescription {
    fn parse(text: &str) -> Option<TypeDescription> {
        let inside = text.trim().strip_prefix('(')?;
        let spaced = inside.replace('(', " ( ").replace(')', " ) ");
        let mut words = spaced.split_ascii_whitespace();
        let identifier = words.next()?;
        let mut named: Vec<&str> = Vec::new();
        let mut superior = None;
        while let Some(word) = words.next() {
            match word {
                "NAME" => match words.next()? {
                    "(" => named.extend(words.by_ref().take_while(|word| *word != ")")),
                    name => named.push(name),
                },
                "SUP" => superior = Some(unquoted(words.next()?).to_ascii_lowercase()),
                // The text may contain anything, including these keywords.
                "DESC" => {
                    let mut text = words.next()?;
                    let mut is_first = true;
                    while !(text.ends_with('\'') && (text.len() > 1 || !is_first)) {
                        is_first = false;
                        text = words.next()?;
                    }
                }
                _ => {}
            }
        }
        let all = named.iter().copied().chain([identifier]).map(unquoted);
        Some(TypeDescription {
            name: all.clone().next()?.to_owned(),
            names: all.map(str::to_ascii_lowercase).collect(),
            superior,
        })
    }
}

fn unquoted(word: &str) -> &str {
    word.trim_matches('\'')
}

/// Splits a description into the type's name and the options.
fn split(description: &str) -> (&str, impl Iterator<Item = &str>) {
    let mut parts = description.split(';');
    (parts.next().unwrap_or_default(), parts)
}

fn lower(name: &str) -> Cow<'_, str> {
    match name.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

/// The names under which attributes were requested.
#[derive(Debug)]
pub(super) struct RequestedNames<'a> {
    schema: &'a Schema,
    asked: Vec<RequestedAttribute<'a>>,
    /// Whether a value may have to be returned under several of the names.
    overlapping: bool,
}

#[derive(Debug)]
struct RequestedAttribute<'a> {
    description: &'a str,
    name: &'a str,
    kind: Option<usize>,
}

impl<'a> RequestedNames<'a> {
    /// Creates the requested names from attribute descriptions.
    pub(super) fn of(
        schema: &'a Schema,
        asked: impl IntoIterator<Item = &'a str>,
    ) -> RequestedNames<'a> {
        let asked = asked
            .into_iter()
            .filter(|description| parse_range(description).is_none());
        let asked: Vec<RequestedAttribute<'_>> = asked
            .map(|description| {
                let name = split(description).0;
                let kind = schema.type_of(name);
                RequestedAttribute {
                    description,
                    name,
                    kind,
                }
            })
            .collect();
        let overlaps = |(at, one): (usize, &RequestedAttribute<'_>)| {
            let mut others = asked.iter().enumerate().filter(|(other, _)| *other != at);
            others.any(|(_, other)| schema.is_kind_of(one, other.name, other.kind))
        };
        let overlapping = asked.iter().enumerate().any(overlaps);
        RequestedNames {
            schema,
            asked,
            overlapping,
        }
    }

    /// Returns the requested names for values of this description.
    pub(super) fn names<'n>(&'n self, description: &'n str) -> impl Iterator<Item = &'a str> + 'n {
        let (name, _) = split(description);
        let kind = self.schema.type_of(name);
        let matching = self.asked.iter().filter(move |asked| {
            self.schema.is_kind_of(asked, name, kind) && has_options(description, asked.description)
        });
        matching.map(|asked| asked.description)
    }

    /// Whether values of this description keep their name.
    fn is_plain(&self, description: &str) -> bool {
        let same =
            |asked: &RequestedAttribute<'_>| asked.description.eq_ignore_ascii_case(description);
        !self.overlapping && self.asked.iter().any(same)
    }

    /// Whether an attribute of this description is needed, including those of the stamp.
    pub(super) fn is_requested(&self, description: &str) -> bool {
        let is_stamp = |name: &&str| name.eq_ignore_ascii_case(description);
        self.names(description).next().is_some() || stamp::ATTRIBUTES.iter().any(is_stamp)
    }

    /// Returns the entry with its stamp, and its attributes under the names in `asked`.
    pub(super) fn renamed(&self, entry: Entry, asked: &[String]) -> Entry {
        if entry.attributes().all(|(name, _)| self.is_plain(name)) {
            return entry;
        }
        let attributes = entry.attributes();
        let attributes = attributes.map(|(name, values)| (name.to_owned(), values.to_vec()));
        let mut attributes: Vec<Attribute> = attributes.collect();
        let stamp = Stamp::take(&mut attributes, asked, "");
        self.rename(&mut attributes);
        Entry::new(entry.dn, attributes).with_stamp(stamp)
    }

    /// Renames attributes to the requested names. One that was not requested keeps its name, and so
    /// does a range of values.
    pub(super) fn rename(&self, attributes: &mut Vec<Attribute>) {
        let keeps = |name: &str| self.is_plain(name) || parse_range(name).is_some();
        if attributes.iter().all(|(name, _)| keeps(name)) {
            return;
        }
        for (name, values) in mem::take(attributes) {
            if keeps(&name) {
                attributes.push((name, values));
                continue;
            }
            let names: Vec<&str> = self.names(&name).collect();
            match names.split_last() {
                None => attributes.push((name, values)),
                Some((last, others)) => {
                    let others = others
                        .iter()
                        .map(|other| ((*other).to_owned(), values.clone()));
                    attributes.extend(others);
                    attributes.push(((*last).to_owned(), values));
                }
            }
        }
    }
}

impl Schema {
    /// Whether a type is the requested one, or a subtype of it. Unknown types are compared by name.
    fn is_kind_of(&self, asked: &RequestedAttribute<'_>, name: &str, kind: Option<usize>) -> bool {
        match (asked.kind, kind) {
            (Some(asked), Some(kind)) => self.is_below(kind, asked),
            _ => asked.name.eq_ignore_ascii_case(name),
        }
    }
}

/// Whether a description has all options of the requested one (RFC 4512 section 2.5.2).
fn has_options(description: &str, asked: &str) -> bool {
    let mut wanted = split(asked).1;
    wanted.all(|wanted| {
        split(description)
            .1
            .any(|option| option.eq_ignore_ascii_case(wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [&str; 5] = [
        "( 2.5.4.41 NAME 'name' DESC 'RFC 4519: the SUP NAME of names' EQUALITY caseIgnoreMatch )",
        "( 2.5.4.42 NAME ( 'givenName' 'gn' ) DESC 'first name(s)' SUP name )",
        "(2.5.4.13 NAME 'description' SYNTAX 1.3.6.1.4.1.1466.115.121.1.15{1024})",
        "( 1.2.840.113556.1.2.432 NAME 'extensionAttribute10' DESC ' ' SINGLE-VALUE )",
        "( 0.9.2342.19200300.100.1.5 NAME ( 'drink' 'favouriteDrink' ) )",
    ];

    fn renamed(asked: &[&str], returned: &[&str]) -> Vec<String> {
        let schema = Schema::of(TYPES);
        let mut attributes: Vec<Attribute> = returned
            .iter()
            .map(|name| ((*name).to_owned(), vec![(*name).to_owned()]))
            .collect();
        RequestedNames::of(&schema, asked.iter().copied()).rename(&mut attributes);
        attributes.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn values_come_back_under_the_name_they_were_asked_for_by() {
        for (asked, returned) in [
            ("gn", "givenName"),
            ("2.5.4.42", "givenName"),
            ("favouriteDrink", "drink"),
            ("FAVOURITEDRINK", "drink"),
            ("name", "givenName"),
            ("extensionAttribute10", "extensionAttribute10;lang-en"),
            ("1.2.840.113556.1.2.432", "EXTENSIONATTRIBUTE10;x-a;lang-en"),
            ("description;lang-en", "description;x-b;LANG-EN"),
            ("unknown", "Unknown;lang-en"),
        ] {
            assert_eq!(renamed(&[asked], &[returned]), [asked], "{returned}");
        }
    }

    #[test]
    fn other_values_keep_the_name_they_have() {
        for (asked, returned) in [
            ("description;lang-en", "description"),
            ("description;lang-en", "description;lang-de"),
            ("givenName", "name"),
            ("drink", "description"),
            ("extensionAttribute10", "extensionAttribute10;range=0-1499"),
            ("unknown", "unheard"),
        ] {
            assert_eq!(renamed(&[asked], &[returned]), [returned], "{asked}");
        }
    }

    #[test]
    fn a_value_that_was_asked_for_twice_comes_under_both_names() {
        let asked = ["description", "description;lang-en", "gn", "givenName"];
        assert_eq!(
            renamed(&asked, &["description;lang-en", "description", "givenName"]),
            [
                "description",
                "description;lang-en",
                "description",
                "gn",
                "givenName"
            ]
        );
    }

    #[test]
    fn a_type_is_known_by_each_of_its_names() {
        let schema = Schema::of(TYPES);
        for known in [
            "GN",
            "2.5.4.42",
            "givenName;lang-en",
            "extensionAttribute10",
        ] {
            assert!(schema.knows(known), "{known}");
        }
        assert_eq!(schema.name_of("2.5.4.42"), Some("givenName"));
        assert!(!schema.knows("extensionAttribute11"));
        assert!(Schema::standard().knows("rfc822Mailbox"));
        assert!(Schema::of(["", "(", "( 1.2 NAME", "nonsense"]).is_empty());
    }
}
