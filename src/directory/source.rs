//! Where answers come from: one question at a time, yes, no or no answer.

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

/// The objects that own an address. Several where the directory has several: a copy is owed for
/// each.
pub type Objects = Arc<[Arc<Entry>]>;

/// How one server (or the file) fared when it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerProbe {
    /// The server's URL, or `ldif:` and the file's path.
    pub url: String,
    /// What was seen, or what went wrong; a sentence either way.
    pub outcome: Result<String, String>,
    /// What else was seen where it let us in, each as such an outcome.
    pub remarks: Vec<Result<String, String>>,
    /// Journal attributes that nobody has, as far as it shows; each stands among the remarks, too.
    pub empty_journal_attributes: Vec<String>,
    /// When the certificate that it showed ends.
    pub expires: Option<SystemTime>,
    /// Address attributes in use that it has no equality index of, as far as it lets us see its
    /// configuration.
    pub unindexed: Vec<String>,
}

/// What an object is called by where a target or a group names it.
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
    /// Everybody whose primary group has this number ([MS-ADA3] sections 2.120 and 2.122).
    PrimaryGroup(String),
}

impl ObjectName {
    /// The text that all spellings of this name have in common, as [`super::change_log::ChangeLog`]
    /// knows it.
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

/// What a feed of changes tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// An object is new or other than it was; this is how it is now.
    Object(Entry),
    /// The object with this DN is gone.
    Removed(String),
    /// More changed than is told one by one.
    Everything,
    /// All that changed before now was told; what changes from here on will be.
    UpToDate,
    /// Where to go on after an interruption.
    FeedCursor(FeedCursor),
}

/// Where in a server's changes a feed is. Written as a line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FeedCursor {
    /// Content synchronization: the cookie, and the base of the content that it is about.
    Sync {
        /// The base.
        base: String,
        /// The server's own words.
        cookie: String,
    },
    /// Active Directory: the highest update sequence number that was seen, and the server that
    /// counts so.
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

/// Something that knows people.
pub(super) trait Source: Send + Sync + 'static {
    /// The objects that own exactly this address; `None` where there are none.
    fn find(
        &self,
        address: &Address,
    ) -> impl Future<Output = Result<Option<Objects>, Outage>> + Send;

    /// Whether any journal attribute names this address, or one of the objects that own it, by DN
    /// or X.500 address.
    fn is_named_in_journal(
        &self,
        address: &Address,
        owners: &[Arc<Entry>],
    ) -> impl Future<Output = Result<bool, Outage>> + Send;

    /// The objects that have this login name; `None` where there are none.
    fn find_login(
        &self,
        login: &str,
    ) -> impl Future<Output = Result<Option<Objects>, Outage>> + Send;

    /// The objects that a name stands for, with all values of what targets need; none where it
    /// names nobody.
    fn find_named(
        &self,
        name: &ObjectName,
    ) -> impl Future<Output = Result<Vec<Arc<Entry>>, Outage>> + Send;

    /// The groups with a journal attribute that an object is a member of, also by way of other
    /// groups.
    fn groups_of(
        &self,
        object: &Entry,
    ) -> impl Future<Output = Result<Vec<Arc<Entry>>, Outage>> + Send;

    /// The DNs of all groups.
    fn list_groups(&self) -> impl Future<Output = Result<Vec<String>, Outage>> + Send;

    /// All objects with a journal attribute.
    fn list_journaled(&self) -> impl Future<Output = Result<Vec<Arc<Entry>>, Outage>> + Send;

    /// Tells every object that mail may concern: with an address, forwarding or a journal
    /// attribute. An outage if the list is not whole.
    fn list_mail_relevant(
        &self,
        to: &mpsc::Sender<Result<Arc<Entry>, Outage>>,
    ) -> impl Future<Output = Result<(), Outage>> + Send;

    /// Of the objects above this one those with a journal attribute.
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
