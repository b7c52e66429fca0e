//! Directory entries and the results of lookups.

use std::sync::Arc;

use super::attributes::FORWARDING_ATTRIBUTES;
use super::change_log;
use super::dn;
use super::resolve::GROUP_CLASSES;
use super::stamp::Stamp;

const OBJECT_CLASS: &str = "objectClass";

/// The result of a directory lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// Found.
    Found(T),
    /// The directory answered that there is none.
    Absent,
    /// The directory did not answer; never to be taken for "absent".
    Unavailable(Outage),
}

/// An unavailable directory, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("directory unavailable: {reason}")]
pub struct Outage {
    /// One sentence with the server and the error.
    pub reason: Arc<str>,
}

impl Outage {
    /// Creates an outage with this reason.
    pub fn new(reason: impl AsRef<str>) -> Outage {
        Outage {
            reason: reason.as_ref().into(),
        }
    }
}

/// An object of the directory: its DN and the requested attributes.
///
/// There may be a million of them in memory, so all attributes share one string without spare
/// capacity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The distinguished name as the server spells it.
    pub dn: String,
    /// Whether this is a group or container whose journal attributes count for a person.
    pub inherited: bool,
    /// Whether mail to it goes to others: it is a group, or forwards. Computed once, since every
    /// message asks.
    has_further_recipients: bool,
    /// The hash of its normalized DN, by which changes are recorded, see [`change_log::hash_name`].
    pub(super) dn_hash: u64,
    /// Stamp of its last change, if it was read.
    pub(super) stamp: Stamp,
    /// Each attribute's name, followed by its values.
    text: Box<str>,
    parts: Box<[Segment]>,
}

/// A segment of an entry's text: its end in bytes, and whether it is an attribute name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment(usize);

impl Segment {
    fn new(end: usize, is_name: bool) -> Segment {
        Segment(end << 1 | usize::from(is_name))
    }

    fn end(self) -> usize {
        self.0 >> 1
    }

    fn is_name(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Entry {
    /// Creates an entry. Values of attributes whose names differ only in case are joined.
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
        let (mut text, mut parts) = (String::new(), Vec::new());
        for (name, values) in joined {
            text.push_str(&name);
            parts.push(Segment::new(text.len(), true));
            for value in values {
                text.push_str(&value);
                parts.push(Segment::new(text.len(), false));
            }
        }
        let mut dn = dn.into();
        dn.shrink_to_fit();
        let mut entry = Entry {
            dn_hash: change_log::hash_name(&dn::key(&dn)),
            dn,
            inherited: false,
            has_further_recipients: false,
            stamp: Stamp::default(),
            text: text.into(),
            parts: parts.into(),
        };
        entry.has_further_recipients = entry.is_group() || entry.forwarding().next().is_some();
        entry
    }

    /// Whether mail to it goes to others as well: to its members or its forwarding address.
    pub fn has_further_recipients(&self) -> bool {
        self.has_further_recipients
    }

    /// Whether its object class is that of a group.
    pub fn is_group(&self) -> bool {
        let mut classes = self.values(OBJECT_CLASS);
        classes.any(|class| {
            GROUP_CLASSES
                .iter()
                .any(|group| class.eq_ignore_ascii_case(group))
        })
    }

    /// Returns evidence that somebody can log in with this object, if there is any: an enabled
    /// account of Active Directory (`userAccountControl`, [MS-ADTS] section 2.2.16), a Unix account
    /// with a shell (RFC 2307), or a person with a login name.
    pub fn account_evidence(&self) -> Option<String> {
        const ACCOUNT_DISABLED: i64 = 2;
        if let Some(control) = self.values("userAccountControl").first() {
            let bits: i64 = control.trim().parse().unwrap_or(0);
            return (bits & ACCOUNT_DISABLED == 0).then(|| "an enabled account".to_owned());
        }
        let has = |class: &str| {
            self.values(OBJECT_CLASS)
                .any(|one| one.eq_ignore_ascii_case(class))
        };
        let is_closed = |shell: &str| shell.ends_with("/nologin") || shell.ends_with("/false");
        if self.values("loginShell").any(is_closed)
            || !self.values("pwdAccountLockedTime").is_empty()
        {
            return None;
        }
        let classes = [
            "posixAccount",
            "shadowAccount",
            "account",
            "person",
            "organizationalPerson",
            "inetOrgPerson",
        ];
        let login = self.values("uid").first();
        login
            .filter(|_| classes.into_iter().any(has))
            .map(|login| format!("a login name, {login}"))
    }

    /// Returns where its mail is forwarded to: addresses or names of objects.
    pub fn forwarding(&self) -> impl Iterator<Item = &str> {
        FORWARDING_ATTRIBUTES
            .into_iter()
            .flat_map(|name| self.values(name))
    }

    /// Drops the object classes unless they matter: mail to the object goes to nobody else.
    pub(super) fn compact(self: Arc<Entry>) -> Arc<Entry> {
        if self.has_further_recipients || self.values(OBJECT_CLASS).is_empty() {
            return self;
        }
        let others = self.attributes();
        let others = others.filter(|(name, _)| !name.eq_ignore_ascii_case(OBJECT_CLASS));
        let others = others.map(|(name, values)| (name.to_owned(), values.to_vec()));
        Arc::new(Entry {
            inherited: self.inherited,
            ..Entry::new(&*self.dn, others).with_stamp(self.stamp)
        })
    }

    /// Sets the stamp.
    pub(super) fn with_stamp(self, stamp: Stamp) -> Entry {
        Entry { stamp, ..self }
    }

    /// Returns a copy marked as a group or container that others inherit from.
    pub fn as_inherited(&self) -> Entry {
        Entry {
            inherited: true,
            ..self.clone()
        }
    }

    /// Returns the values of an attribute. Names are compared without case (RFC 4512 section 1.4).
    pub fn values(&self, attribute: &str) -> Values<'_> {
        self.attributes()
            .find(|(name, _)| name.eq_ignore_ascii_case(attribute))
            .map(|(_, values)| values)
            .unwrap_or_default()
    }

    /// Returns all attributes in the order of the answer.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, Values<'_>)> {
        let (mut rest, mut from) = (&*self.parts, 0);
        std::iter::from_fn(move || {
            let (name, behind) = rest.split_first()?;
            let count = behind.iter().position(|part| part.is_name());
            let (values, others) = behind.split_at(count.unwrap_or(behind.len()));
            let found = Values {
                text: &self.text,
                from: name.end(),
                parts: values,
            };
            let name = &self.text[from..name.end()];
            from = values.last().map_or(found.from, |last| last.end());
            rest = others;
            Some((name, found))
        })
    }
}

/// The values of an attribute, in the order of the answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    text: &'a str,
    /// Start of the next value.
    from: usize,
    parts: &'a [Segment],
}

impl<'a> Values<'a> {
    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Returns the first value.
    pub fn first(mut self) -> Option<&'a str> {
        self.next()
    }

    /// Returns the values as owned strings.
    pub fn to_vec(self) -> Vec<String> {
        self.map(str::to_owned).collect()
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (part, others) = self.parts.split_first()?;
        let value = &self.text[self.from..part.end()];
        (self.from, self.parts) = (part.end(), others);
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.parts.len(), Some(self.parts.len()))
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
        assert_eq!(entry.values("MAIL").to_vec(), ["a@b", "c@d"]);
        assert!(entry.values("uid").is_empty());
    }

    #[test]
    fn an_entry_is_read_back_unchanged() {
        let attributes = [
            ("none".to_owned(), vec![]),
            (
                "mail".into(),
                vec!["a@b".into(), String::new(), "\u{e9}@b".into()],
            ),
            ("x;range=0-1".into(), vec!["\0mail".into()]),
            ("last".into(), vec![]),
        ];
        let entry = Entry::new("cn=a", attributes.clone());
        let seen: Vec<(String, Vec<String>)> = entry
            .attributes()
            .map(|(name, values)| (name.to_owned(), values.to_vec()))
            .collect();
        assert_eq!(seen, attributes);
        assert!(entry.values("none").is_empty() && entry.values("last").is_empty());
        assert_eq!(entry.values("mail").first(), Some("a@b"));
        assert_eq!(entry.values("x;range=0-1").to_vec(), ["\0mail"]);
        assert_eq!(Entry::new("cn=b", []).attributes().count(), 0);
    }
}
