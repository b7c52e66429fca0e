//! The proof that a server still shows what is there, so that its "nobody" can be believed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use ldap3::Scope;
use tokio::time::{Instant, timeout_at};

use super::{Connection, Search};
use crate::directory::entry::Entry;
use crate::directory::ldap::fault::Fault;
use crate::directory::presence::{Tracked, has};
use crate::directory::stamp::stamped;

/// Objects read at once to find one with an attribute.
const HOLDERS: usize = 20;
/// How often attributes are looked for that nobody was found to have.
const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);

impl Connection {
    /// Sees that the base can be searched, and that we can still see what is there.
    pub(in crate::directory::ldap) async fn check(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<(), Fault> {
        self.check_base(deadline).await?;
        self.verify(deadline).await?;
        match self.is_look_due() {
            true => self.look_for_others(deadline).await,
            false => Ok(()),
        }
    }

    /// Sees that we can see people, and each attribute that somebody had; gives the connection up
    /// where not. Whoever comes while [`PROOFS`] are under way waits for one that began later,
    /// which is for all of them.
    pub(in crate::directory::ldap) async fn verify(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<(), Fault> {
        self.verify_since(Instant::now(), deadline).await
    }

    /// The same, where a proof that began at this moment or later will do.
    pub(in crate::directory::ldap) async fn verify_since(
        self: &Arc<Self>,
        asked: Instant,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let Ok(Ok(_permit)) = timeout_at(deadline, self.proofs.acquire()).await else {
            return Err(Fault::Slow(format!(
                "{} did not prove in time that it shows what is there",
                self.url
            )));
        };
        let last = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if last().is_some_and(|began| began >= asked) {
            return Ok(());
        }
        let begun = Instant::now();
        // At once: a slow server takes its time for each.
        let (canary, holders) =
            tokio::try_join!(self.find_canary(deadline), self.ask_holders(deadline))?;
        self.check_attributes(canary.iter().chain(&holders), deadline)
            .await?;
        for entry in &canary {
            if let Some(outage) = self.access.presence.people().notice(entry) {
                let why = format!("{}: the canary {}", self.url, outage.reason);
                return Err(self.give_up(why));
            }
        }
        let mut last = last();
        *last = (*last).max(Some(begun));
        Ok(())
    }

    /// Reads the objects that showed an attribute last, one for each attribute that somebody had.
    async fn ask_holders(self: &Arc<Self>, deadline: Instant) -> Result<Vec<Entry>, Fault> {
        let presence = Arc::clone(&self.access.presence);
        let shown: Vec<&Tracked> = (presence.attributes().iter())
            .filter(|attribute| presence.was_shown(attribute))
            .collect();
        let names: Vec<&str> = shown.iter().map(|one| one.name.as_str()).collect();
        let firsts = shown.iter().filter_map(|attribute| {
            let holders = presence.holders(&self.url, attribute);
            holders.into_iter().next()
        });
        let firsts: BTreeSet<String> = firsts.collect();
        let asked = firsts.iter().map(|dn| self.ask_one(dn, &names, deadline));
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    /// The canary's objects; gives the connection up where there are none.
    async fn find_canary(self: &Arc<Self>, deadline: Instant) -> Result<Vec<Entry>, Fault> {
        let Some(canary) = &self.access.canary else {
            return Ok(Vec::new());
        };
        let search = Search {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: canary.filter.clone(),
            attributes: self.tracked(),
            limit: HOLDERS,
            enough_at_limit: true,
            may_be_missing: false,
        };
        let found = self.search(search, deadline).await?;
        if found.is_empty() {
            let why = format!(
                "{} does not find the canary {}: either its entry is gone, or we may no longer read addresses",
                self.url, canary.address
            );
            self.condemn(&why);
            return Err(Fault::Server(why));
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
    ) -> Result<(), Fault> {
        let presence = Arc::clone(&self.access.presence);
        let mut open: Vec<&Tracked> = presence.attributes().iter().collect();
        known.for_each(|entry| self.strike(entry, &mut open));
        open.retain(|attribute| presence.was_shown(attribute));
        let mut missing = Vec::new();
        while let Some(attribute) = open.first().copied() {
            let mut holders = presence.holders(&self.url, attribute).into_iter();
            while open.contains(&attribute)
                && let Some(dn) = holders.next()
            {
                let names: Vec<&str> = open.iter().map(|one| one.name.as_str()).collect();
                if let Some(entry) = self.ask_one(&dn, &names, deadline).await? {
                    self.strike(&entry, &mut open);
                }
            }
            if !open.contains(&attribute) {
                continue;
            }
            let why = match self.find_holder(attribute, deadline).await {
                Ok(Some(entry)) => {
                    self.strike(&entry, &mut open);
                    continue;
                }
                Ok(None) => self.why_missing(attribute).to_owned(),
                Err(fault @ Fault::Question(_)) => format!(" ({fault})"),
                Err(fault) => return Err(fault),
            };
            open.remove(0);
            missing.extend(presence.miss(&self.url, attribute, &why));
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(self.give_up(missing.join("; "))),
        }
    }

    /// Notes what an entry has, and leaves what it has not.
    fn strike(&self, entry: &Entry, open: &mut Vec<&Tracked>) {
        open.retain(|attribute| {
            let is_there = has(entry, &attribute.name);
            if is_there {
                let presence = &self.access.presence;
                presence.show(&self.url, attribute, &entry.dn, true);
            }
            !is_there
        });
    }

    /// Looks for journal attributes of which no server has shown a value so far. It may take long
    /// to find none, and nothing hangs on it.
    pub(in crate::directory::ldap) async fn look_for_others(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let presence = Arc::clone(&self.access.presence);
        self.note_looked();
        for attribute in presence.attributes() {
            if !attribute.is_journal || presence.was_shown(attribute) {
                continue;
            }
            let soon = deadline.min(Instant::now() + self.unhurried());
            match self.find_holder(attribute, soon).await {
                Ok(Some(entry)) => presence.show(&self.url, attribute, &entry.dn, true),
                Ok(None) => {
                    let missing = presence.miss(&self.url, attribute, self.why_missing(attribute));
                    if let Some(why) = missing {
                        return Err(self.give_up(why));
                    }
                }
                Err(fault @ Fault::Lost(_)) => return Err(fault),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// An object with a value of an attribute.
    async fn find_holder(
        self: &Arc<Self>,
        attribute: &Tracked,
        deadline: Instant,
    ) -> Result<Option<Entry>, Fault> {
        let search = Search {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: format!("({}=*)", attribute.name),
            attributes: vec![attribute.name.clone()],
            limit: HOLDERS,
            enough_at_limit: true,
            may_be_missing: false,
        };
        let found = self.search(search, deadline).await?;
        Ok(found.into_iter().find(|entry| has(entry, &attribute.name)))
    }

    fn why_missing(&self, attribute: &Tracked) -> &'static str {
        match self.knows(&attribute.name) {
            Some(false) => " (its schema has no such attribute)",
            _ => "",
        }
    }

    /// The watched attributes and the stamp.
    fn tracked(&self) -> Vec<String> {
        let all = self.access.presence.attributes().iter();
        stamped(all.map(|attribute| attribute.name.clone()).collect())
    }

    /// Whether attributes that nobody was found to have should be looked for.
    pub(in crate::directory::ldap) fn is_look_due(&self) -> bool {
        let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.is_none_or(|when| when.elapsed() >= LOOK_AGAIN)
    }

    fn note_looked(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        *looked = Some(Instant::now());
    }

    /// Gives the connection up because something is missing here.
    fn give_up(&self, why: String) -> Fault {
        self.is_empty.store(true, Ordering::Relaxed);
        self.condemn(&why);
        Fault::Server(why)
    }
}
