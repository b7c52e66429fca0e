//! How entries are read as they come from a server.

use ldap3::SearchEntry;

use super::Connection;
use crate::directory::entry::Entry;
use crate::directory::schema::Naming;
use crate::directory::stamp::{Stamp, unstamped};

/// How the entries of a search are read.
pub(super) struct Reading<'a> {
    naming: Naming<'a>,
    /// What was asked for, where the stamp was asked for as well.
    unstamped: Option<&'a [String]>,
    server: &'a str,
}

impl<'a> Reading<'a> {
    pub(super) fn of(connection: &'a Connection, asked: &'a [String]) -> Reading<'a> {
        let unstamped = unstamped(asked);
        let names = unstamped.unwrap_or(asked).iter().map(String::as_str);
        Reading {
            naming: Naming::of(connection.schema(), names),
            unstamped,
            server: connection.server(),
        }
    }

    /// Attributes get the names that they were asked for by. Values that are no UTF-8 are kept with
    /// replacement characters: a journal attribute with such a value must be seen to be wrong.
    pub(super) fn entry(&self, found: SearchEntry) -> Entry {
        let text = found.attrs.into_iter();
        let binary = found.bin_attrs.into_iter().map(|(name, values)| {
            let values = values.iter();
            let lossy = values.map(|value| String::from_utf8_lossy(value).into_owned());
            (name, lossy.collect())
        });
        let mut attributes: Vec<(String, Vec<String>)> = text.chain(binary).collect();
        let stamp = match self.unstamped {
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
    fn a_value_that_is_no_utf8_stays_visible() {
        let found = SearchEntry {
            dn: "cn=x".into(),
            attrs: [("mail".to_owned(), vec!["a@b.test".to_owned()])].into(),
            bin_attrs: [("journal".to_owned(), vec![b"j\xff@b.test".to_vec()])].into(),
        };
        let schema = Schema::standard();
        let asked = ["mail".to_owned(), "journal".to_owned()];
        let reading = Reading {
            naming: Naming::of(&schema, asked.iter().map(String::as_str)),
            unstamped: None,
            server: "x",
        };
        let entry = reading.entry(found);
        assert_eq!(entry.values("mail").to_vec(), ["a@b.test"]);
        assert_eq!(entry.values("journal").to_vec(), ["j\u{fffd}@b.test"]);
    }
}
