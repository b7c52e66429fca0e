//! Lookups of several addresses or login names by one search.

use std::collections::HashMap;
use std::sync::Arc;

use ldap3::Scope;
use tokio::time::Instant;

use super::batch::{BatchLookup, LoginName, LookupKey, LookupResult};
use super::connection::SearchRequest;
use super::error::SearchError;
use super::{Client, MAX_ENTRIES};
use crate::directory::attributes::Attributes;
use crate::directory::entry::{Entry, Outage};
use crate::directory::source::Objects;
use crate::directory::stamp::with_stamp_attributes;
use crate::mail::Address;

impl BatchLookup<Address> for Client {
    async fn look_up(
        &self,
        asked: Vec<Address>,
        deadline: Instant,
    ) -> HashMap<Address, LookupResult> {
        let (together, alone): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(Attributes::can_share_search);
        let mut pending: Vec<Vec<Address>> = alone.into_iter().map(|one| vec![one]).collect();
        if !together.is_empty() {
            pending.push(together);
        }
        let mut answers = HashMap::new();
        while let Some(mut some) = pending.pop() {
            match self.owners(&some, deadline).await {
                Ok(Some(owners)) if some.iter().any(|one| self.is_uncertain(one, &owners)) => {
                    // The search began before the end of the first scan; unusual forms found by it
                    // are searched now.
                    let (absent, found): (Vec<_>, Vec<_>) =
                        some.into_iter().partition(|one| !owners.contains_key(one));
                    let found = found.into_iter().map(|one| {
                        let objects = owners.get(&one).cloned();
                        (one, Ok(objects))
                    });
                    answers.extend(found);
                    match self.end_of_first_scan(deadline).await {
                        Ok(()) => pending.push(absent),
                        Err(outage) => {
                            answers
                                .extend(absent.into_iter().map(|one| (one, Err(outage.clone()))));
                        }
                    }
                }
                Ok(Some(mut owners)) => {
                    let found = some.into_iter().map(|one| {
                        let objects = owners
                            .remove(&one)
                            .map(|objects| self.check_all_not_hidden(objects));
                        (one, objects.transpose())
                    });
                    answers.extend(found);
                }
                // One of the addresses causes the error: the others must not be affected.
                Ok(None) | Err(SearchError::QueryFailed(_))
                    if some.len() > 1 && Instant::now() < deadline =>
                {
                    pending.push(some.split_off(some.len() / 2));
                    pending.push(some);
                }
                failed => fail_all(some, failed.err(), &mut answers),
            }
        }
        answers
    }
}

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
                failed => fail_all(some, failed.err(), &mut answers),
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

    /// Returns the owners of these addresses; `None` if they must be looked up one by one.
    async fn owners(
        &self,
        asked: &[Address],
        deadline: Instant,
    ) -> Result<Option<HashMap<Address, Objects>>, SearchError> {
        let unusual = self.scan.unusual_values(asked.iter().map(Address::key));
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: self.attributes.lookup_filter(asked, &unusual),
            attributes: with_stamp_attributes(self.attributes.lookup_attributes()),
            limit: MAX_ENTRIES,
            allows_truncation: false,
            allows_missing_base: false,
        };
        let mut is_first = true;
        loop {
            let (entries, connection) = self.search(search.clone(), deadline).await?;
            for entry in &entries {
                if let Some(name) = self.attributes.truncated_attribute(entry) {
                    return Err(SearchError::QueryFailed(format!(
                        "{:?} has more values of {name} than the server returns at once",
                        entry.dn
                    )));
                }
                self.access.presence.record_entry(connection.url(), entry);
            }
            let is_lacking = entries
                .iter()
                .any(|entry| self.access.presence.lacks_journal_attribute(entry));
            let owners = self.attributes.assign(asked, entries);
            let absent = |owners: &HashMap<_, _>| asked.iter().any(|one| !owners.contains_key(one));
            if !is_lacking && !owners.as_ref().is_some_and(absent) {
                return Ok(owners);
            }
            // A negative answer is believed only while all attributes are visible.
            match connection.verify(deadline).await {
                Ok(()) => return Ok(owners),
                Err(SearchError::ConnectionLost(_) | SearchError::ServerFailed(_)) if is_first => {
                    is_first = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the objects, unless a journal attribute of one is hidden.
    fn check_all_not_hidden(&self, objects: Objects) -> Result<Objects, Outage> {
        let history = self.access.presence.journal_history();
        // All of them are compared, also after a first outage.
        let outages: Vec<Outage> = objects
            .iter()
            .filter_map(|one| history.check(one))
            .collect();
        match outages.into_iter().next() {
            Some(outage) => Err(outage),
            None => Ok(objects),
        }
    }

    /// Whether an object may have this address in a form that only a scan finds.
    fn is_uncertain(&self, address: &Address, owners: &HashMap<Address, Objects>) -> bool {
        self.scan.is_pending() && !owners.contains_key(address)
    }
}

/// Adds the same outage for each of these keys: the error of their search or, without one, that the
/// search could not be separated in time.
fn fail_all<K: LookupKey>(
    keys: Vec<K>,
    error: Option<SearchError>,
    answers: &mut HashMap<K, LookupResult>,
) {
    let outage = match error {
        Some(error) => Outage::new(error.to_string()),
        None => Outage::new("a combined lookup could not be separated in time"),
    };
    answers.extend(keys.into_iter().map(|key| (key, Err(outage.clone()))));
}
