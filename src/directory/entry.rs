//! What a lookup gives.

use std::sync::Arc;

/// The answer to a question put to the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is there.
    Found(T),
    /// The directory answered: no.
    Absent,
    /// The directory did not answer; never to be taken for "no".
    Unavailable(Outage),
}

/// Why the directory did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the directory is unavailable: {reason}")]
pub struct Outage {
    /// One sentence naming server and fault.
    pub reason: Arc<str>,
}

impl Outage {
    /// An outage for this reason.
    pub fn new(reason: impl AsRef<str>) -> Outage {
        Outage {
            reason: reason.as_ref().into(),
        }
    }
}

/// An object of the directory: its name and those attributes that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The distinguished name as the server spells it.
    pub dn: String,
    /// Whether it is no person but a group or container whose journal attributes count for one.
    pub inherited: bool,
    attributes: Vec<(String, Vec<String>)>,
}

impl Entry {
    /// An entry with these attributes; values of names that differ only in case are joined.
    pub fn new(
        dn: impl Into<String>,
        attributes: impl IntoIterator<Item = (String, Vec<String>)>,
    ) -> Entry {
        let mut joined: Vec<(String, Vec<String>)> = Vec::new();
        for (name, values) in attributes {
            match joined
                .iter_mut()
                .find(|(known, _)| known.eq_ignore_ascii_case(&name))
            {
                Some((_, known)) => known.extend(values),
                None => joined.push((name, values)),
            }
        }
        Entry {
            dn: dn.into(),
            inherited: false,
            attributes: joined,
        }
    }

    /// The same as a group or container that others inherit from.
    pub fn as_inherited(&self) -> Entry {
        Entry {
            inherited: true,
            ..self.clone()
        }
    }

    /// The values of an attribute, its name compared without case (RFC 4512 section 1.4).
    pub fn values(&self, attribute: &str) -> &[String] {
        self.attributes
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(attribute))
            .map_or(&[], |(_, values)| values)
    }

    /// All attributes that were read, in the order they came.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.attributes
            .iter()
            .map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_names_ignore_case() {
        let entry = Entry::new(
            "cn=a",
            [
                ("Mail".into(), vec!["a@b".into()]),
                ("mail".into(), vec!["c@d".into()]),
            ],
        );
        assert_eq!(entry.values("MAIL"), ["a@b", "c@d"]);
        assert!(entry.values("uid").is_empty());
    }
}
