//! Verification that a server still shows all attributes, so that its negative answers can be
//! believed.

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

/// Objects read to find one with an attribute.
const MAX_HOLDERS: usize = 20;
/// Interval between searches for attributes without values.
const UNSEEN_CHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);

impl Connection {
    /// Checks that the base can be searched and that all attributes are still visible.
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

    /// Verifies that the canary and each attribute with known values are visible, or else closes
    /// the connection. Callers that come while [`MAX_VERIFICATIONS`] are in flight share one that
    /// began later.
    pub(in crate::directory::ldap) async fn verify(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<(), SearchError> {
        self.verify_since(Instant::now(), deadline).await
    }

    /// Like [`Connection::verify`], but accepts a verification that began at this time or later.
    pub(in crate::directory::ldap) async fn verify_since(
        self: &Arc<Self>,
        asked: Instant,
        deadline: Instant,
    ) -> Result<(), SearchError> {
        let Ok(Ok(_permit)) = timeout_at(deadline, self.verification_slots.acquire()).await else {
            return Err(SearchError::TimedOut(format!(
                "{} could not be verified in time",
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
        // Concurrently, since a slow server takes its time for each.
        let (canary, holders) =
            tokio::try_join!(self.find_canary(deadline), self.read_holders(deadline))?;
        self.check_attributes(canary.iter().chain(&holders), deadline)
            .await?;
        for entry in &canary {
            if let Some(outage) = self.access.presence.journal_history().check(entry) {
                let reason = format!("{}: canary {}", self.url, outage.reason);
                return Err(self.give_up(reason));
            }
        }
        let mut last = last();
        *last = (*last).max(Some(begun));
        Ok(())
    }

    /// Reads one object for each attribute with known values.
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

    /// Returns the canary's objects; closes the connection if there are none.
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
                "{} does not find the canary {}: its entry is missing, or the account may no longer read addresses",
                self.url, canary.address
            );
            self.fail(&reason);
            return Err(SearchError::ServerFailed(reason));
        }
        Ok(found)
    }

    /// Verifies that each attribute with known values is visible, or else closes the connection.
    /// `known` are objects that were just read. A timeout says nothing about the attribute.
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

    /// Records the attributes that an entry has, and leaves the others in `open`.
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

    /// Searches for journal attributes of which no server has shown a value yet. Finding none may
    /// take long; nothing depends on it.
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

    /// Finds an object with a value of an attribute.
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
            Some(false) => " (the server's schema has no such attribute)",
            _ => "",
        }
    }

    /// Returns the tracked attributes and those of the stamp.
    fn tracked(&self) -> Vec<String> {
        let all = self.access.presence.attributes().iter();
        with_stamp_attributes(all.map(|attribute| attribute.name.clone()).collect())
    }

    /// Whether a search for attributes without values is due.
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

    /// Closes the connection because an attribute is missing.
    fn give_up(&self, reason: String) -> SearchError {
        self.is_attribute_missing.store(true, Ordering::Relaxed);
        self.fail(&reason);
        SearchError::ServerFailed(reason)
    }
}
