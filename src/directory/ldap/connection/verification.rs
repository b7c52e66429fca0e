//! The proof that a server still shows what is there, so that its "nobody" can be believed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use ldap3::Scope;
use tokio::time::{Instant, timeout_at};

use super::{Connection, SearchRequest};
use crate::directory::entry::Entry;
use crate::directory::ldap::error::SearchError;
use crate::directory::presence::{TrackedAttribute, has_value};
use crate::directory::stamp::with_stamp_attributes;

/// Objects read at once to find one with an attribute.
const MAX_HOLDERS: usize = 20;
/// How often attributes are looked for that nobody was found to have.
const UNSEEN_CHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);

impl Connection {
    /// Sees that the base can be searched, and that we can still see what is there.
    pub(in crate::directory::ldap) async fn check(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<(), SearchError> {
        self.check_base(deadline).await?;
        self.verify(deadline).await?;
        match self.is_unseen_check_due() {
            true => self.look_for_unseen_attributes(deadline).await,
            false => Ok(()),
        }
    }

    /// Sees that we can see people, and each attribute that somebody had; gives the connection up
    /// where not. Whoever comes while [`MAX_VERIFICATIONS`] are under way waits for one that began later,
    /// which is for all of them.
    pub(in crate::directory::ldap) async fn verify(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<(), SearchError> {
        self.verify_since(Instant::now(), deadline).await
    }

    /// The same, where a proof that began at this moment or later will do.
    pub(in crate::directory::ldap) async fn verify_since(
        self: &Arc<Self>,
        asked: Instant,
        deadline: Instant,
    ) -> Result<(), SearchError> {
        let Ok(Ok(_permit)) = timeout_at(deadline, self.verification_slots.acquire()).await else {
            return Err(SearchError::TimedOut(format!(
                "{} did not prove in time that it shows what is there",
                self.url
            )));
        };
        let last = || {
            self.verified_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if last().is_some_and(|began| began >= asked) {
            return Ok(());
        }
        let begun = Instant::now();
        // At once: a slow server takes its time for each.
        let (canary, holders) =
            tokio::try_join!(self.find_canary(deadline), self.read_holders(deadline))?;
        self.check_attributes(canary.iter().chain(&holders), deadline)
            .await?;
        for entry in &canary {
            if let Some(outage) = self.access.presence.journal_history().check(entry) {
                let reason = format!("{}: the canary {}", self.url, outage.reason);
                return Err(self.give_up(reason));
            }
        }
        let mut last = last();
        *last = (*last).max(Some(begun));
        Ok(())
    }

    /// Reads the objects that showed an attribute last, one for each attribute that somebody had.
    async fn read_holders(self: &Arc<Self>, deadline: Instant) -> Result<Vec<Entry>, SearchError> {
        let presence = Arc::clone(&self.access.presence);
        let shown: Vec<&TrackedAttribute> = (presence.attributes().iter())
            .filter(|attribute| presence.was_shown(attribute))
            .collect();
        let names: Vec<&str> = shown.iter().map(|one| one.name.as_str()).collect();
        let firsts = shown.iter().filter_map(|attribute| {
            let holders = presence.holders(&self.url, attribute);
            holders.into_iter().next()
        });
        let firsts: BTreeSet<String> = firsts.collect();
        let asked = firsts
            .iter()
            .map(|dn| self.read_entry(dn, &names, deadline));
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    /// The canary's objects; gives the connection up where there are none.
    async fn find_canary(self: &Arc<Self>, deadline: Instant) -> Result<Vec<Entry>, SearchError> {
        let Some(canary) = &self.access.canary else {
            return Ok(Vec::new());
        };
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: canary.filter.clone(),
            attributes: self.tracked(),
            limit: MAX_HOLDERS,
            allows_truncation: true,
            allows_missing_base: false,
        };
        let found = self.search(search, deadline).await?;
        if found.is_empty() {
            let reason = format!(
                "{} does not find the canary {}: either its entry is gone, or we may no longer read addresses",
                self.url, canary.address
            );
            self.fail(&reason);
            return Err(SearchError::ServerFailed(reason));
        }
        Ok(found)
    }

    /// Sees that each attribute that somebody had can be seen; gives the connection up where not.
    /// `known` are objects that were read just now. An answer that does not come in time says
    /// nothing about the attribute.
    async fn check_attributes<'e>(
        self: &Arc<Self>,
        known: impl Iterator<Item = &'e Entry>,
        deadline: Instant,
    ) -> Result<(), SearchError> {
        let presence = Arc::clone(&self.access.presence);
        let mut open: Vec<&TrackedAttribute> = presence.attributes().iter().collect();
        known.for_each(|entry| self.note_shown(entry, &mut open));
        open.retain(|attribute| presence.was_shown(attribute));
        let mut missing = Vec::new();
        while let Some(attribute) = open.first().copied() {
            let mut holders = presence.holders(&self.url, attribute).into_iter();
            while open.contains(&attribute)
                && let Some(dn) = holders.next()
            {
                let names: Vec<&str> = open.iter().map(|one| one.name.as_str()).collect();
                if let Some(entry) = self.read_entry(&dn, &names, deadline).await? {
                    self.note_shown(&entry, &mut open);
                }
            }
            if !open.contains(&attribute) {
                continue;
            }
            let reason = match self.find_holder(attribute, deadline).await {
                Ok(Some(entry)) => {
                    self.note_shown(&entry, &mut open);
                    continue;
                }
                Ok(None) => self.missing_hint(attribute).to_owned(),
                Err(error @ SearchError::QueryFailed(_)) => format!(" ({error})"),
                Err(error) => return Err(error),
            };
            open.remove(0);
            missing.extend(presence.record_missing(&self.url, attribute, &reason));
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(self.give_up(missing.join("; "))),
        }
    }

    /// Notes what an entry has, and leaves what it has not.
    fn note_shown(&self, entry: &Entry, open: &mut Vec<&TrackedAttribute>) {
        open.retain(|attribute| {
            let is_there = has_value(entry, &attribute.name);
            if is_there {
                let presence = &self.access.presence;
                presence.record_holder(&self.url, attribute, &entry.dn, true);
            }
            !is_there
        });
    }

    /// Looks for journal attributes of which no server has shown a value so far. It may take long
    /// to find none, and nothing hangs on it.
    pub(in crate::directory::ldap) async fn look_for_unseen_attributes(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<(), SearchError> {
        let presence = Arc::clone(&self.access.presence);
        self.note_unseen_check();
        for attribute in presence.attributes() {
            if !attribute.is_journal || presence.was_shown(attribute) {
                continue;
            }
            let soon = deadline.min(Instant::now() + self.long_answer_timeout());
            match self.find_holder(attribute, soon).await {
                Ok(Some(entry)) => presence.record_holder(&self.url, attribute, &entry.dn, true),
                Ok(None) => {
                    let missing =
                        presence.record_missing(&self.url, attribute, self.missing_hint(attribute));
                    if let Some(reason) = missing {
                        return Err(self.give_up(reason));
                    }
                }
                Err(error @ SearchError::ConnectionLost(_)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// An object with a value of an attribute.
    async fn find_holder(
        self: &Arc<Self>,
        attribute: &TrackedAttribute,
        deadline: Instant,
    ) -> Result<Option<Entry>, SearchError> {
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: format!("({}=*)", attribute.name),
            attributes: vec![attribute.name.clone()],
            limit: MAX_HOLDERS,
            allows_truncation: true,
            allows_missing_base: false,
        };
        let found = self.search(search, deadline).await?;
        Ok(found
            .into_iter()
            .find(|entry| has_value(entry, &attribute.name)))
    }

    fn missing_hint(&self, attribute: &TrackedAttribute) -> &'static str {
        match self.has_attribute_type(&attribute.name) {
            Some(false) => " (its schema has no such attribute)",
            _ => "",
        }
    }

    /// The watched attributes and the stamp.
    fn tracked(&self) -> Vec<String> {
        let all = self.access.presence.attributes().iter();
        with_stamp_attributes(all.map(|attribute| attribute.name.clone()).collect())
    }

    /// Whether attributes that nobody was found to have should be looked for.
    pub(in crate::directory::ldap) fn is_unseen_check_due(&self) -> bool {
        let checked = self
            .unseen_checked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        checked.is_none_or(|when| when.elapsed() >= UNSEEN_CHECK_INTERVAL)
    }

    fn note_unseen_check(&self) {
        let mut checked = self
            .unseen_checked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *checked = Some(Instant::now());
    }

    /// Gives the connection up because something is missing here.
    fn give_up(&self, reason: String) -> SearchError {
        self.is_attribute_missing.store(true, Ordering::Relaxed);
        self.fail(&reason);
        SearchError::ServerFailed(reason)
    }
}
