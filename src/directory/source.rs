//! Where answers come from: one question at a time, yes, no or no answer.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::entry::{Entry, Outage};
use crate::mail::Address;

/// The objects that own an address. Several where the directory has several: a copy is owed for each.
pub type Objects = Arc<[Arc<Entry>]>;

/// What an object is called by where a target or a group names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// A distinguished name.
    Dn(String),
    /// An X.500 address without `X500:`.
    X500(String),
    /// A login name, as `memberUid` holds it (RFC 2307).
    Uid(String),
    /// A search, `ldap:///BASE?ATTRIBUTES?SCOPE?FILTER`, as `memberURL` holds it (RFC 4516).
    Url(String),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Dn(text) | Name::Url(text) => f.write_str(text),
            Name::X500(text) => write!(f, "X500:{text}"),
            Name::Uid(text) => write!(f, "uid={text}"),
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

    /// Whether any object names this address in a journal attribute.
    fn names_in_journal(
        &self,
        address: &Address,
    ) -> impl Future<Output = Result<bool, Outage>> + Send;

    /// The objects that a name stands for, with all values of what targets need; none where it names nobody.
    fn named(&self, name: &Name) -> impl Future<Output = Result<Vec<Arc<Entry>>, Outage>> + Send;

    /// Whether any journal attribute names this object, by its DN or an X.500 address.
    fn object_in_journal(
        &self,
        object: &Entry,
    ) -> impl Future<Output = Result<bool, Outage>> + Send;
}
