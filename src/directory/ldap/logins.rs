//! Looks up several login names by one search.

use std::collections::HashMap;
use std::sync::Arc;

use ldap3::Scope;
use tokio::time::Instant;

use super::batch::{Answer, Login, LookUp};
use super::connection::Search;
use super::fault::Fault;
use super::{Client, MOST_ENTRIES};
use crate::directory::entry::{Entry, Outage};
use crate::directory::question::Attributes;
use crate::directory::stamp::stamped;

impl LookUp<Login> for Client {
    async fn look_up(&self, asked: Vec<Login>, deadline: Instant) -> HashMap<Login, Answer> {
        let mut answers = HashMap::new();
        let (together, alone): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .partition(|login| Attributes::can_share_login(&login.0));
        let mut pending: Vec<Vec<Login>> = alone.into_iter().map(|login| vec![login]).collect();
        if !together.is_empty() {
            pending.push(together);
        }
        while let Some(mut some) = pending.pop() {
            match self.with_logins(&some, deadline).await {
                Ok(Some(mut owners)) => answers.extend(some.into_iter().map(|login| {
                    let found = owners.remove(&login);
                    let found = found.map(|objects| self.believed(objects.into()));
                    (login, found.transpose())
                })),
                // Some name among them is the trouble: the others must not suffer from it.
                Ok(None) | Err(Fault::Question(_))
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
                Err(fault) => {
                    let outage = Outage::new(fault.to_string());
                    answers.extend(some.into_iter().map(|login| (login, Err(outage.clone()))));
                }
            }
        }
        answers
    }
}

impl Client {
    /// The objects with each of these names; `None` where that can only be told one by one. That
    /// nobody has a name is believed only while what is there is seen.
    async fn with_logins(
        &self,
        asked: &[Login],
        deadline: Instant,
    ) -> Result<Option<HashMap<Login, Vec<Arc<Entry>>>>, Fault> {
        let names = asked.iter().map(|login| login.0.as_str());
        let Some(filter) = self.attributes.login_filter(names) else {
            return Ok(Some(HashMap::new()));
        };
        let search = Search {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter,
            attributes: stamped(self.attributes.wanted()),
            limit: MOST_ENTRIES,
            enough_at_limit: false,
            may_be_missing: false,
        };
        let (found, connection) = self.search(search, deadline).await?;
        let mut owners: HashMap<Login, Vec<Arc<Entry>>> = HashMap::new();
        for entry in found.into_iter().map(Arc::new) {
            let keys = self.attributes.login_keys_of(&entry);
            // Of one name all that was found is meant: the server compares otherwise than we do.
            let has =
                |login: &&Login| asked.len() == 1 || keys.contains(&login.0.trim().to_lowercase());
            // The server may have found it by a name that it compares otherwise than we do.
            let is_sure =
                asked.len() == 1 || keys.iter().all(|key| Attributes::can_share_login(key));
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
