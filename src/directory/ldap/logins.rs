//! Lookups of several login names by one search.

use std::collections::HashMap;
use std::sync::Arc;

use ldap3::Scope;
use tokio::time::Instant;

use super::batch::{BatchLookup, LoginName, LookupResult};
use super::connection::SearchRequest;
use super::error::SearchError;
use super::{Client, MAX_ENTRIES};
use crate::directory::attributes::Attributes;
use crate::directory::entry::{Entry, Outage};
use crate::directory::stamp::with_stamp_attributes;

impl BatchLookup<LoginName> for Client {
    async fn look_up(
        &self,
        asked: Vec<LoginName>,
        deadline: Instant,
    ) -> HashMap<LoginName, LookupResult> {
        let mut answers = HashMap::new();
        let (together, alone): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .partition(|login| Attributes::can_share_login_search(&login.0));
        let mut pending: Vec<Vec<LoginName>> = alone.into_iter().map(|login| vec![login]).collect();
        if !together.is_empty() {
            pending.push(together);
        }
        while let Some(mut some) = pending.pop() {
            match self.with_logins(&some, deadline).await {
                Ok(Some(mut owners)) => answers.extend(some.into_iter().map(|login| {
                    let found = owners.remove(&login);
                    let found = found.map(|objects| self.check_all_not_hidden(objects.into()));
                    (login, found.transpose())
                })),
                // One of the names causes the error: the others must not be affected.
                Ok(None) | Err(SearchError::QueryFailed(_))
                    if some.len() > 1 && Instant::now() < deadline =>
                {
                    pending.push(some.split_off(some.len() / 2));
                    pending.push(some);
                }
                Ok(None) => {
                    let why =
                        "the answer for several names at once could not be told apart in time";
                    answers.extend(some.into_iter().map(|login| (login, Err(Outage::new(why)))));
                }
                Err(error) => {
                    let outage = Outage::new(error.to_string());
                    answers.extend(some.into_iter().map(|login| (login, Err(outage.clone()))));
                }
            }
        }
        answers
    }
}

impl Client {
    /// Returns the objects with each of these names; `None` if they must be looked up one by one. A
    /// negative answer is believed only while all attributes are visible.
    async fn with_logins(
        &self,
        asked: &[LoginName],
        deadline: Instant,
    ) -> Result<Option<HashMap<LoginName, Vec<Arc<Entry>>>>, SearchError> {
        let names = asked.iter().map(|login| login.0.as_str());
        let Some(filter) = self.attributes.login_filter(names) else {
            return Ok(Some(HashMap::new()));
        };
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter,
            attributes: with_stamp_attributes(self.attributes.lookup_attributes()),
            limit: MAX_ENTRIES,
            allows_truncation: false,
            allows_missing_base: false,
        };
        let (found, connection) = self.search(search, deadline).await?;
        let mut owners: HashMap<LoginName, Vec<Arc<Entry>>> = HashMap::new();
        for entry in found.into_iter().map(Arc::new) {
            let keys = self.attributes.login_keys_of(&entry);
            // For a single name all results count: the server may compare differently than we do.
            let has = |login: &&LoginName| {
                asked.len() == 1 || keys.contains(&login.0.trim().to_lowercase())
            };
            // The server may have matched a name that it compares differently than we do.
            let is_sure = asked.len() == 1
                || keys
                    .iter()
                    .all(|key| Attributes::can_share_login_search(key));
            let mut is_told = false;
            for login in asked.iter().filter(has) {
                is_told = true;
                owners
                    .entry(login.clone())
                    .or_default()
                    .push(Arc::clone(&entry));
            }
            if !is_told || !is_sure {
                return Ok(None);
            }
        }
        if asked.iter().any(|login| !owners.contains_key(login)) {
            connection.verify(deadline).await?;
        }
        Ok(Some(owners))
    }
}
