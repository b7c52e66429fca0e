//! The interface of sources: LDAP servers or a file.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::dn;
use super::entry::{Entry, Outage};
use super::target::x500_key;
use crate::mail::Address;

/// The objects that own an address. If there are several, each is journaled.
pub type Objects = Arc<[Arc<Entry>]>;

/// The result of probing one server, or the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerProbe {
    /// The server's URL, or `ldif:` and the file's path.
    pub url: String,
    /// A sentence about the server, or about the error.
    pub outcome: Result<String, String>,
    /// Further findings after a successful bind, each a sentence or a problem.
    pub remarks: Vec<Result<String, String>>,
    /// Journal attributes without any visible value; each is among the remarks, too.
    pub empty_journal_attributes: Vec<String>,
    /// Expiry of the server's certificate.
    pub expires: Option<SystemTime>,
    /// Address attributes in use without an equality index, if the server's configuration is
    /// readable.
    pub unindexed: Vec<String>,
}

/// A name by which a target or a group refers to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ObjectName {
    /// A distinguished name.
    Dn(String),
    /// An X.500 address without `X500:`.
    X500(String),
    /// A login name, as `memberUid` holds it (RFC 2307).
    Uid(String),
    /// A search, `ldap:///BASE?ATTRIBUTES?SCOPE?FILTER`, as `memberURL` holds it (RFC 4516).
    Url(String),
    /// All objects with this primary group ([MS-ADA3] sections 2.120 and 2.122).
    PrimaryGroup(String),
}

impl ObjectName {
    /// Returns the normalized name, equal for all its spellings, as used in
    /// [`super::change_log::ChangeLog`].
    pub(super) fn key(&self) -> String {
        match self {
            ObjectName::Dn(text) => dn::key(text),
            ObjectName::X500(text) => x500_key(text),
            ObjectName::Uid(text) => format!("uid:{}", dn::prepare(text)),
            ObjectName::Url(text) => text.clone(),
            ObjectName::PrimaryGroup(token) => format!("primary:{token}"),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectName::Dn(text) | ObjectName::Url(text) => f.write_str(text),
            ObjectName::X500(text) => write!(f, "X500:{text}"),
            ObjectName::Uid(text) => write!(f, "uid={text}"),
            ObjectName::PrimaryGroup(token) => write!(f, "primaryGroupID={token}"),
        }
    }
}

/// An event of a change feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// An object was added or modified; its new content.
    Object(Entry),
    /// The object with this DN was removed.
    Removed(String),
    /// More changed than is reported one by one.
    Everything,
    /// All earlier changes were reported; all later ones will be.
    UpToDate,
    /// The position to resume from after an interruption.
    FeedCursor(FeedCursor),
}

/// A position in a server's changes. Displays as a line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FeedCursor {
    /// Content synchronization: the cookie, and the base that it applies to.
    Sync {
        /// The base.
        base: String,
        /// The cookie, opaque to us.
        cookie: String,
    },
    /// Active Directory: the highest update sequence number seen, and the server it belongs to.
    Usn {
        /// The server's `dsServiceName`.
        server: String,
        /// The number.
        number: u64,
    },
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FeedCursor::Sync { base, cookie } => writeln!(f, "sync\t{cookie}\t{base}"),
            FeedCursor::Usn { server, number } => writeln!(f, "usn\t{number}\t{server}"),
        }
    }
}

impl FromStr for FeedCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<FeedCursor, ()> {
        let mut words = text.strip_suffix('\n').ok_or(())?.splitn(3, '\t');
        let (kind, cursor, whose) = (words.next(), words.next(), words.next());
        let cursor = cursor.ok_or(())?.to_owned();
        let whose = whose.ok_or(())?.to_owned();
        match kind {
            Some("sync") => Ok(FeedCursor::Sync {
                base: whose,
                cookie: cursor,
            }),
            Some("usn") => Ok(FeedCursor::Usn {
                server: whose,
                number: cursor.parse().map_err(|_| ())?,
            }),
            _ => Err(()),
        }
    }
}

/// A source of directory entries.
pub(super) trait Source: Send + Sync + 'static {
    /// Returns the owners of this exact address; `None` if there are none.
    fn find(
        &self,
        address: &Address,
    ) -> impl Future<Output = Result<Option<Objects>, Outage>> + Send;

    /// Whether any journal attribute names this address, or one of its owners by DN or X.500
    /// address.
    fn is_named_in_journal(
        &self,
        address: &Address,
        owners: &[Arc<Entry>],
    ) -> impl Future<Output = Result<bool, Outage>> + Send;

    /// Returns the objects with this login name; `None` if there are none.
    fn find_login(
        &self,
        login: &str,
    ) -> impl Future<Output = Result<Option<Objects>, Outage>> + Send;

    /// Returns the objects with this name, with all values of the attributes that targets need.
    fn find_named(
        &self,
        name: &ObjectName,
    ) -> impl Future<Output = Result<Vec<Arc<Entry>>, Outage>> + Send;

    /// Returns the groups with a journal attribute that an object is a direct or indirect member
    /// of.
    fn groups_of(
        &self,
        object: &Entry,
    ) -> impl Future<Output = Result<Vec<Arc<Entry>>, Outage>> + Send;

    /// Returns the DNs of all groups.
    fn list_groups(&self) -> impl Future<Output = Result<Vec<String>, Outage>> + Send;

    /// Returns all objects with a journal attribute.
    fn list_journaled(&self) -> impl Future<Output = Result<Vec<Arc<Entry>>, Outage>> + Send;

    /// Sends every object that matters for mail: with an address, forwarding or a journal
    /// attribute. An outage if the list is incomplete.
    fn list_mail_relevant(
        &self,
        to: &mpsc::Sender<Result<Arc<Entry>, Outage>>,
    ) -> impl Future<Output = Result<(), Outage>> + Send;

    /// Returns the containers above an object that have a journal attribute.
    fn containers_of(
        &self,
        object: &Entry,
    ) -> impl Future<Output = Result<Vec<Arc<Entry>>, Outage>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_being_written() {
        for cursor in [
            FeedCursor::Sync {
                base: "dc=b, dc=test".into(),
                cookie: "rid=000,csn=1#0;2#1".into(),
            },
            FeedCursor::Usn {
                server: "CN=NTDS Settings,CN=DC1".into(),
                number: 4711,
            },
        ] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for bad in ["", "usn\tx\ty\n", "sync\tx\n", "usn\t1\tcut off"] {
            assert_eq!(bad.parse::<FeedCursor>(), Err(()), "{bad:?}");
        }
    }
}
