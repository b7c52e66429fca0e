//! Where answers come from: one question at a time, yes, no or no answer.

use std::future::Future;
use std::sync::Arc;

use super::entry::{Entry, Outage};
use crate::mail::Address;

/// The objects that own an address. Several where the directory has several: a copy is owed for each.
pub type Objects = Arc<[Arc<Entry>]>;

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
}
