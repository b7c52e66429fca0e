//! Conversion of entries from a server.

use ldap3::SearchEntry;

use super::Connection;
use crate::directory::entry::Entry;
use crate::directory::schema::RequestedNames;
use crate::directory::stamp::{Stamp, without_stamp_attributes};

/// A converter for the entries of one search.
pub(super) struct EntryReader<'a> {
    naming: RequestedNames<'a>,
    /// The requested attributes without those of the stamp, if it was requested.
    without_stamp_attributes: Option<&'a [String]>,
    server: &'a str,
}

impl<'a> EntryReader<'a> {
    pub(super) fn of(connection: &'a Connection, asked: &'a [String]) -> EntryReader<'a> {
        let without_stamp_attributes = without_stamp_attributes(asked);
        let names = without_stamp_attributes
            .unwrap_or(asked)
            .iter()
            .map(String::as_str);
        EntryReader {
            naming: RequestedNames::of(connection.schema(), names),
            without_stamp_attributes,
            server: connection.server_name(),
        }
    }

    /// Converts an entry. Attributes get their requested names. Values that are not UTF-8 are kept
    /// with replacement characters, so that a wrong journal value is noticed.
    pub(super) fn entry(&self, found: SearchEntry) -> Entry {
        let text = found.attrs.into_iter();
        let binary = found.bin_attrs.into_iter().map(|(name, values)| {
            let values = values.iter();
            let lossy = values.map(|value| String::from_utf8_lossy(value).into_owned());
            (name, lossy.collect())
        });
        let mut attributes: Vec<(String, Vec<String>)> = text.chain(binary).collect();
        let stamp = match self.without_stamp_attributes {
            Some(asked) => Stamp::take(&mut attributes, asked, self.server),
            None => Stamp::default(),
        };
        self.naming.rename(&mut attributes);
        Entry::new(found.dn, attributes).with_stamp(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::schema::Schema;

    #[test]
    fn a_value_of_invalid_utf8_stays_visible() {
        let found = SearchEntry {
            dn: "cn=x".into(),
            attrs: [("mail".to_owned(), vec!["a@b.test".to_owned()])].into(),
            bin_attrs: [("journal".to_owned(), vec![b"j\xff@b.test".to_vec()])].into(),
        };
        let schema = Schema::standard();
        let asked = ["mail".to_owned(), "journal".to_owned()];
        let reading = EntryReader {
            naming: RequestedNames::of(&schema, asked.iter().map(String::as_str)),
            without_stamp_attributes: None,
            server: "x",
        };
        let entry = reading.entry(found);
        assert_eq!(entry.values("mail").to_vec(), ["a@b.test"]);
        assert_eq!(entry.values("journal").to_vec(), ["j\u{fffd}@b.test"]);
    }
}
