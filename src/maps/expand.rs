//! Expansion of an address as by the MTA: canonical(5) and virtual(5) in cleanup(8), aliases(5) in
//! local(8).
//!
//! Promises: the same addresses as Postfix, and the same handling of loops: nesting too deep in
//! virtual(5) is an error, as Postfix does not accept such mail; in local(8) the mail is bounced,
//! and the address is dropped.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use super::include::{Include, Includes, included};
use super::source::Map;
use super::tokens::{self, external, fold, is_dot_string};
use crate::mail::Address;

/// Postfix's nesting limit for canonical maps; the last address found is used.
const CANONICAL_MAX_NESTING: usize = 10;
/// `virtual_alias_recursion_limit`.
const VIRTUAL_MAX_NESTING: usize = 1000;
/// `virtual_alias_expansion_limit`.
const VIRTUAL_MAX_ADDRESSES: usize = 1000;
/// `virtual_alias_address_length_limit`.
const VIRTUAL_MAX_LENGTH: usize = 1000;
/// Maximum depth of aliases and included files in local(8), counted like Postfix: four for an
/// alias.
const LOCAL_MAX_DEPTH: u32 = 100;
/// Maximum number of deliveries of one address. Postfix has no such limit; a site that reaches it
/// has lists that include each other.
const MAX_DELIVERIES: usize = 200_000;

/// Number of deliveries before yielding to other tasks.
const DELIVERIES_PER_TURN: usize = 128;

/// Error of expanding an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A map cannot be read.
    #[error("cannot read {setting} {map}: {reason}")]
    Unreadable {
        /// The setting that names the map.
        setting: &'static str,
        /// The map.
        map: String,
        /// The error of the system or the server.
        reason: String,
    },
    /// An entry has no value, or one without an address; Postfix defers such mail.
    #[error("{setting} {map}: the value of {key} has no address")]
    NoAddress {
        /// The setting that names the map.
        setting: &'static str,
        /// The map.
        map: String,
        /// The entry.
        key: String,
    },
    /// Entries lead to each other without end, or to too many addresses; Postfix defers such mail.
    #[error("{address}: {limit}")]
    Limit {
        /// The address that was looked up.
        address: String,
        /// The limit exceeded.
        limit: &'static str,
    },
}

/// One application of a map.
///
/// Displays as `virtual_alias_maps hash:/etc/postfix/virtual: sales@corp.test → dan@corp.test`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapStep {
    /// The setting that names the map; for a file that an alias includes, `alias_maps`.
    pub setting: &'static str,
    /// The map, or the included file.
    pub map: Arc<str>,
    /// The key.
    pub from: Arc<str>,
    /// One of the results.
    pub to: String,
}

impl fmt::Display for MapStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MapStep {
            setting,
            map,
            from,
            to,
        } = self;
        write!(f, "{setting} {map}: {from} \u{2192} {to}")
    }
}

/// A resulting address, and the steps that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedAddress {
    /// The address.
    pub address: Address,
    /// The steps from the original address; empty if it is unchanged.
    pub steps: Vec<MapStep>,
}

/// A destination other than a mailbox, and the steps that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NonAddress {
    /// A command, a file, or an address whose mail bounces.
    pub target: String,
    /// The handling of the mail.
    pub kind: NonAddressKind,
    /// The steps from the original address.
    pub steps: Vec<MapStep>,
}

/// The handling of mail that does not go to a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonAddressKind {
    /// Piped to a command.
    Command,
    /// Appended to a file.
    File,
    /// Bounced: an alias loop.
    Loop,
    /// Bounced: the MTA rejects the included file.
    BadInclude,
    /// Bounced: not an address.
    Invalid,
}

/// The result of expanding an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expansion {
    /// No map has an entry for the address.
    Unchanged,
    /// Mail goes elsewhere, or elsewhere as well.
    Changed {
        /// The addresses, each once. May be empty, for example if mail goes only to a command.
        addresses: Vec<MappedAddress>,
        /// All other destinations.
        others: Vec<NonAddress>,
    },
}

/// The maps of one setting.
pub(super) struct MapList {
    pub(super) setting: &'static str,
    pub(super) maps: Vec<Map>,
}

/// All maps and the settings of their use.
pub(super) struct MapRules {
    pub(super) sender_canonical: MapList,
    pub(super) recipient_canonical: MapList,
    pub(super) canonical: MapList,
    pub(super) virtual_alias: MapList,
    pub(super) alias: MapList,
    pub(super) includes: Arc<Includes>,
    pub(super) delimiters: String,
    pub(super) origin: String,
    pub(super) is_local: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

/// An entry that was found.
struct MapEntry<'a> {
    value: Arc<str>,
    map: &'a Map,
    /// Whether it was found without the extension.
    is_bare: bool,
}

/// The steps so far, the last first.
#[derive(Clone, Default)]
struct StepChain(Option<Arc<StepNode>>);

struct StepNode {
    step: MapStep,
    before: StepChain,
}

impl StepChain {
    fn with(&self, setting: &'static str, map: &Arc<str>, from: &Arc<str>, to: &str) -> StepChain {
        StepChain(Some(Arc::new(StepNode {
            step: MapStep {
                setting,
                map: Arc::clone(map),
                from: Arc::clone(from),
                to: to.to_owned(),
            },
            before: self.clone(),
        })))
    }

    fn steps(&self) -> Vec<MapStep> {
        let mut steps = Vec::new();
        let mut path = self;
        while let Some(node) = &path.0 {
            steps.push(node.step.clone());
            path = &node.before;
        }
        steps.reverse();
        steps
    }
}

impl Drop for StepChain {
    fn drop(&mut self) {
        // Iteratively: a thousand steps would recurse a thousand calls deep.
        let mut next = self.0.take();
        while let Some(node) = next {
            match Arc::try_unwrap(node) {
                Ok(mut node) => next = node.before.0.take(),
                Err(_) => break,
            }
        }
    }
}

/// An address during expansion.
#[derive(Clone)]
struct MappedName {
    /// In internal form.
    text: String,
    path: StepChain,
}

impl MappedName {
    fn at(&self) -> Option<usize> {
        self.text.rfind('@')
    }

    fn domain(&self) -> &str {
        self.at().map_or("", |at| &self.text[at + 1..])
    }

    fn shown(&self) -> Arc<str> {
        Arc::from(external(&self.text, self.at()))
    }
}

/// The forms of an address for lookups, folded.
struct LookupForms<'a> {
    /// In internal form.
    text: Cow<'a, str>,
    at: usize,
    /// Whether external and internal form are the same.
    is_plain: bool,
    /// Where the extension begins, with its delimiter.
    extension: Option<usize>,
}

impl<'a> LookupForms<'a> {
    fn new(text: Cow<'a, str>, delimiters: &str) -> LookupForms<'a> {
        let at = text.rfind('@').unwrap_or(text.len());
        LookupForms {
            at,
            is_plain: is_dot_string(&text[..at]),
            extension: extension_of(&text[..at], delimiters),
            text,
        }
    }

    fn domain(&self) -> &str {
        self.text.get(self.at + 1..).unwrap_or_default()
    }

    /// `"@domain"`.
    fn at_domain(&self) -> &str {
        &self.text[self.at..]
    }

    fn full(&self) -> Cow<'_, str> {
        match self.is_plain {
            true => Cow::Borrowed(&self.text),
            false => external(&self.text, Some(self.at)),
        }
    }

    fn local(&self) -> Cow<'_, str> {
        external(&self.text[..self.at], None)
    }

    fn bare_local(&self) -> Option<Cow<'_, str>> {
        Some(external(&self.text[..self.extension?], None))
    }

    fn bare(&self) -> Option<String> {
        let text = format!("{}{}", &self.text[..self.extension?], self.at_domain());
        let at = text.rfind('@');
        Some(external(&text, at).into_owned())
    }
}

/// Returns where the extension of a local part begins. Some names are never split.
fn extension_of(local: &str, delimiters: &str) -> Option<usize> {
    if delimiters.is_empty() {
        return None;
    }
    let at = local
        .find(|c| delimiters.contains(c))
        .filter(|at| *at > 0)?;
    let begins = |name: &str| {
        local
            .get(..name.len())
            .is_some_and(|l| l.eq_ignore_ascii_case(name))
    };
    let ends = |name: &str| {
        let from = local.len().checked_sub(name.len()).filter(|from| *from > 0);
        from.and_then(|from| local.get(from..))
            .is_some_and(|l| l.eq_ignore_ascii_case(name))
    };
    let is_whole = ["postmaster", "mailer-daemon", "double-bounce"]
        .iter()
        .any(|name| local.eq_ignore_ascii_case(name));
    let is_list = delimiters.contains('-') && (begins("owner-") || ends("-request"));
    (!is_whole && !is_list).then_some(at)
}

impl MapList {
    fn is_empty(&self) -> bool {
        self.maps.is_empty()
    }

    /// Returns the first entry of a key in these maps.
    async fn get(&self, key: &str) -> Result<Option<(Arc<str>, &Map)>, MapError> {
        if key.is_empty() {
            return Ok(None);
        }
        for map in &self.maps {
            match map.get(key).await {
                Ok(None) => {}
                Ok(Some(value)) if value.trim().is_empty() => {
                    return Err(self.no_address(map, key));
                }
                Ok(Some(value)) => return Ok(Some((value, map))),
                Err(reason) => {
                    return Err(MapError::Unreadable {
                        setting: self.setting,
                        map: map.name.to_string(),
                        reason,
                    });
                }
            }
        }
        Ok(None)
    }

    fn no_address(&self, map: &Map, key: &str) -> MapError {
        MapError::NoAddress {
            setting: self.setting,
            map: map.name.to_string(),
            key: key.to_owned(),
        }
    }

    /// Looks up an address as in canonical(5) and virtual(5): whole, without extension, without
    /// domain if that is ours, and the domain alone.
    async fn find(
        &self,
        query: &LookupForms<'_>,
        rules: &MapRules,
    ) -> Result<Option<MapEntry<'_>>, MapError> {
        if self.is_empty() {
            return Ok(None);
        }
        let hit = |(value, map), is_bare| MapEntry {
            value,
            map,
            is_bare,
        };
        if let Some(found) = self.get(&query.full()).await? {
            return Ok(Some(hit(found, false)));
        }
        if let Some(key) = query.bare()
            && let Some(found) = self.get(&key).await?
        {
            return Ok(Some(hit(found, true)));
        }
        let domain = query.domain();
        if domain.is_empty() {
            return Ok(None);
        }
        if rules.is_own_domain(domain) {
            if let Some(found) = self.get(&query.local()).await? {
                return Ok(Some(hit(found, false)));
            }
            if let Some(key) = query.bare_local()
                && let Some(found) = self.get(&key).await?
            {
                return Ok(Some(hit(found, true)));
            }
        }
        let found = self.get(query.at_domain()).await?;
        Ok(found.map(|found| hit(found, false)))
    }

    /// Applies the maps to an address; `None` without an entry.
    async fn map(
        &self,
        name: &MappedName,
        rules: &MapRules,
    ) -> Result<Option<Vec<MappedName>>, MapError> {
        let query = LookupForms::new(fold(&name.text), &rules.delimiters);
        let Some(found) = self.find(&query, rules).await? else {
            return Ok(None);
        };
        let at = name.at().unwrap_or(name.text.len());
        let local = &name.text[..at];
        let extension = match found.is_bare {
            true => extension_of(local, &rules.delimiters).map_or("", |from| &local[from..]),
            false => "",
        };
        let value = match found.value.strip_prefix('@') {
            // The local part stays.
            Some(_) => {
                let local = &local[..local.len() - extension.len()];
                Cow::Owned(format!("{}{}", external(local, None), found.value))
            }
            None => Cow::Borrowed(&*found.value),
        };
        let shown = name.shown();
        let mut results = Vec::new();
        for address in tokens::addresses(&value) {
            let mut text = tokens::rewrite(address, &rules.origin);
            let at = text.rfind('@').unwrap_or(text.len());
            text.insert_str(at, extension);
            let to = external(&text, text.rfind('@')).into_owned();
            let path = name.path.with(self.setting, &found.map.name, &shown, &to);
            results.push(MappedName { text, path });
        }
        match results.is_empty() {
            true => Err(self.no_address(found.map, &shown)),
            false => Ok(Some(results)),
        }
    }
}

/// A pending delivery of local(8).
struct LocalDelivery {
    name: MappedName,
    level: u32,
    /// The alias that was expanded last.
    expanded_from: Option<Arc<str>>,
    /// The owner of an alias on the way. With one, or after an included file, the address goes
    /// through cleanup(8) again.
    owner: Option<Arc<str>>,
    is_included: bool,
    /// The original recipient at local(8).
    delivered_to: Option<Arc<str>>,
    /// The message; the MTA creates a new one each time it forwards.
    message: usize,
}

enum Work {
    /// Through cleanup(8).
    Submission {
        name: MappedName,
        delivered: DeliveredTo,
    },
    Delivery(LocalDelivery),
}

/// The `DeliveredTo-To` fields of a message.
#[derive(Clone, Default)]
struct DeliveredTo(Arc<[Arc<str>]>);

/// State of local(8) for one message.
struct LocalMessage {
    delivered: DeliveredTo,
    seen: HashSet<(u32, String)>,
    forwarded: HashSet<String>,
    /// The files included so far; each is read once.
    read_files: HashSet<String>,
}

/// An expansion in progress.
#[derive(Default)]
struct ExpansionRun {
    work: Vec<Work>,
    messages: Vec<LocalMessage>,
    deliveries: usize,
    found: Vec<MappedAddress>,
    known: HashSet<Address>,
    others: Vec<NonAddress>,
}

impl ExpansionRun {
    fn add_address(&mut self, name: &MappedName) {
        let written = external(&name.text, name.at());
        match Address::parse(&written) {
            Ok(address) => {
                if self.known.insert(address.clone()) {
                    let steps = name.path.steps();
                    self.found.push(MappedAddress { address, steps });
                }
            }
            Err(_) => self.add_other(written.into_owned(), NonAddressKind::Invalid, &name.path),
        }
    }

    fn add_other(&mut self, target: String, kind: NonAddressKind, path: &StepChain) {
        if !(self.others.iter()).any(|other| other.target == target && other.kind == kind) {
            let steps = path.steps();
            self.others.push(NonAddress {
                target,
                kind,
                steps,
            });
        }
    }
}

impl MapRules {
    fn is_own_domain(&self, domain: &str) -> bool {
        domain.eq_ignore_ascii_case(&self.origin) || self.is_local(domain)
    }

    /// Whether the MTA's local(8) delivers for a domain.
    fn is_delivered_here(&self, domain: &str) -> bool {
        !self.alias.is_empty() && self.is_local(domain)
    }

    /// The domain may be in any case.
    fn is_local(&self, domain: &str) -> bool {
        (self.is_local)(&fold(domain))
    }

    /// Expands a recipient.
    pub(super) async fn recipients(&self, address: &Address) -> Result<Expansion, MapError> {
        if !self.has_remote_map() && !self.has_entry(address).await? {
            return Ok(Expansion::Unchanged);
        }
        let mut run = ExpansionRun::default();
        run.work.push(Work::Submission {
            name: name_of(address),
            delivered: DeliveredTo::default(),
        });
        while let Some(work) = run.work.pop() {
            run.deliveries += 1;
            if run.deliveries > MAX_DELIVERIES {
                return Err(MapError::Limit {
                    address: address.to_string(),
                    limit: "the aliases lead to more than 200000 deliveries",
                });
            }
            // Long lists must not block a thread.
            if run.deliveries.is_multiple_of(DELIVERIES_PER_TURN) {
                tokio::task::yield_now().await;
            }
            match work {
                Work::Submission { name, delivered } => {
                    self.submit(name, delivered, &mut run).await?;
                }
                Work::Delivery(delivery) => self.deliver(delivery, &mut run).await?,
            }
        }
        let is_same = match run.found.as_slice() {
            [only] => only.steps.is_empty(),
            _ => false,
        };
        Ok(match is_same && run.others.is_empty() {
            true => Expansion::Unchanged,
            false => Expansion::Changed {
                addresses: run.found,
                others: run.others,
            },
        })
    }

    /// Expands a sender.
    pub(super) async fn senders(&self, address: &Address) -> Result<Expansion, MapError> {
        if self.sender_canonical.is_empty() && self.canonical.is_empty() {
            return Ok(Expansion::Unchanged);
        }
        let name = self
            .canonicalize(name_of(address), &self.sender_canonical)
            .await?;
        if name.path.0.is_none() {
            return Ok(Expansion::Unchanged);
        }
        let mut run = ExpansionRun::default();
        run.add_address(&name);
        Ok(Expansion::Changed {
            addresses: run.found,
            others: run.others,
        })
    }

    fn has_remote_map(&self) -> bool {
        [
            &self.recipient_canonical,
            &self.canonical,
            &self.virtual_alias,
            &self.alias,
        ]
        .iter()
        .any(|list| list.maps.iter().any(Map::is_remote))
    }

    /// Whether any map has an entry for a recipient. Copies nothing for a plain address.
    pub(super) async fn has_entry(&self, address: &Address) -> Result<bool, MapError> {
        let is_plain = !address.needs_smtputf8() && is_dot_string(address.local());
        let text = match is_plain {
            true => Cow::Borrowed(address.key()),
            false => Cow::Owned(fold(&name_of(address).text).into_owned()),
        };
        let query = LookupForms::new(text, &self.delimiters);
        for list in [
            &self.recipient_canonical,
            &self.canonical,
            &self.virtual_alias,
        ] {
            if list.find(&query, self).await?.is_some() {
                return Ok(true);
            }
        }
        if !self.is_delivered_here(query.domain()) {
            return Ok(false);
        }
        let local = &query.text[..query.at];
        if self.find_alias(local).await?.is_some() {
            return Ok(true);
        }
        match query.extension {
            Some(extension) => Ok(self.find_alias(&local[..extension]).await?.is_some()),
            None => Ok(false),
        }
    }

    /// Applies the canonical maps.
    async fn canonicalize(
        &self,
        name: MappedName,
        first: &MapList,
    ) -> Result<MappedName, MapError> {
        let mut name = name;
        for list in [first, &self.canonical] {
            for _ in 0..CANONICAL_MAX_NESTING {
                let Some(mapped) = list.map(&name, self).await? else {
                    break;
                };
                let Some(next) = mapped.into_iter().next() else {
                    break;
                };
                let is_same = fold(&next.text) == fold(&name.text);
                name = next;
                if is_same {
                    break;
                }
            }
        }
        Ok(name)
    }

    /// Applies the virtual alias maps.
    async fn expand_virtual(&self, name: MappedName) -> Result<Vec<MappedName>, MapError> {
        let list = &self.virtual_alias;
        if list.is_empty() {
            return Ok(vec![name]);
        }
        let exceeded = |limit| MapError::Limit {
            address: name.shown().to_string(),
            limit,
        };
        let mut names = vec![name.clone()];
        let mut itself: HashSet<String> = HashSet::new();
        let mut at = 0;
        while at < names.len() {
            if names.len() > VIRTUAL_MAX_ADDRESSES {
                return Err(exceeded(
                    "virtual_alias_maps lead to more than 1000 addresses",
                ));
            }
            for nesting in 0.. {
                // An address that has itself in its value is not expanded again.
                let folded = fold(&names[at].text).into_owned();
                if itself.contains(&folded) {
                    break;
                }
                if nesting >= VIRTUAL_MAX_NESTING {
                    return Err(exceeded(
                        "virtual_alias_maps are nested deeper than 1000, or loop",
                    ));
                }
                let Some(mapped) = list.map(&names[at], self).await? else {
                    break;
                };
                for (n, next) in mapped.into_iter().enumerate() {
                    if next.text.len() > VIRTUAL_MAX_LENGTH {
                        return Err(exceeded(
                            "virtual_alias_maps lead to an address longer than 1000",
                        ));
                    }
                    if fold(&next.text) == folded {
                        itself.insert(folded.clone());
                    }
                    match n {
                        0 => names[at] = next,
                        _ => names.push(next),
                    }
                }
            }
            at += 1;
        }
        Ok(names)
    }

    /// Does what cleanup(8) does with a recipient.
    async fn submit(
        &self,
        name: MappedName,
        delivered: DeliveredTo,
        run: &mut ExpansionRun,
    ) -> Result<(), MapError> {
        let name = self.canonicalize(name, &self.recipient_canonical).await?;
        let mut deliveries = Vec::new();
        for name in self.expand_virtual(name).await? {
            if !self.is_delivered_here(name.domain()) {
                run.add_address(&name);
                continue;
            }
            run.messages.push(LocalMessage {
                delivered: delivered.clone(),
                seen: HashSet::new(),
                forwarded: HashSet::new(),
                read_files: HashSet::new(),
            });
            deliveries.push(Work::Delivery(LocalDelivery {
                name,
                level: 0,
                expanded_from: None,
                owner: None,
                is_included: false,
                delivered_to: None,
                message: run.messages.len() - 1,
            }));
        }
        // Work is done last in, first out.
        run.work.extend(deliveries.into_iter().rev());
        Ok(())
    }

    /// Does what local(8) does with a recipient.
    async fn deliver(
        &self,
        mut delivery: LocalDelivery,
        run: &mut ExpansionRun,
    ) -> Result<(), MapError> {
        delivery.level += 1;
        let folded = fold(&delivery.name.text).into_owned();
        if delivery.level > LOCAL_MAX_DEPTH {
            run.add_other(
                delivery.name.shown().to_string(),
                NonAddressKind::Loop,
                &delivery.name.path,
            );
            return Ok(());
        }
        let message = &mut run.messages[delivery.message];
        if !message.seen.insert((delivery.level, folded.clone())) {
            return Ok(());
        }
        if message.delivered.0.iter().any(|to| **to == *folded) {
            run.add_other(
                delivery.name.shown().to_string(),
                NonAddressKind::Loop,
                &delivery.name.path,
            );
            return Ok(());
        }
        if delivery.delivered_to.is_none() {
            delivery.delivered_to = Some(Arc::from(folded.as_str()));
        }
        let mut local = &folded[..folded.rfind('@').unwrap_or(folded.len())];
        let mut extension = extension_of(local, &self.delimiters);
        if let Some(from) = extension.filter(|from| local[*from..].contains('/')) {
            (local, extension) = (&local[..from], None);
        }
        delivery.level += 1;
        if local.is_empty() {
            run.add_other(
                delivery.name.shown().to_string(),
                NonAddressKind::Invalid,
                &delivery.name.path,
            );
            return Ok(());
        }
        if self.expand_alias(&delivery, local, run).await? {
            return Ok(());
        }
        let user = extension.map_or(local, |from| &local[..from]);
        if extension.is_some() && self.expand_alias(&delivery, user, run).await? {
            return Ok(());
        }
        let has_owner = delivery
            .owner
            .as_ref()
            .is_some_and(|owner| **owner != *user);
        if has_owner || delivery.is_included {
            self.forward(delivery, run);
        } else {
            run.add_address(&delivery.name);
        }
        Ok(())
    }

    /// Sends a recipient through cleanup(8) again.
    fn forward(&self, delivery: LocalDelivery, run: &mut ExpansionRun) {
        let message = &mut run.messages[delivery.message];
        let folded = fold(&delivery.name.text).into_owned();
        if message.forwarded.insert(folded) {
            let before = message.delivered.0.iter().cloned();
            let delivered = before.chain(delivery.delivered_to).collect();
            run.work.push(Work::Submission {
                name: delivery.name,
                delivered: DeliveredTo(delivered),
            });
        }
    }

    /// Returns the alias of a folded name.
    async fn find_alias(&self, name: &str) -> Result<Option<(Arc<str>, &Map)>, MapError> {
        let quoted = external(name, None);
        for map in &self.alias.maps {
            // Newer versions of Postfix quote special names, older ones do not.
            for key in [Some(&*quoted), Some(name).filter(|name| *name != quoted)] {
                let Some(key) = key.filter(|key| !key.is_empty()) else {
                    continue;
                };
                match map.get(key).await {
                    Ok(None) => {}
                    Ok(Some(value)) => return Ok(Some((value, map))),
                    Err(reason) => {
                        return Err(MapError::Unreadable {
                            setting: self.alias.setting,
                            map: map.name.to_string(),
                            reason,
                        });
                    }
                }
            }
        }
        Ok(None)
    }

    /// Expands an alias; returns whether there is one.
    async fn expand_alias(
        &self,
        delivery: &LocalDelivery,
        name: &str,
        run: &mut ExpansionRun,
    ) -> Result<bool, MapError> {
        let level = delivery.level + 1;
        // An alias with itself in its value is the mailbox.
        if delivery.expanded_from.as_deref() == Some(name) {
            return Ok(false);
        }
        let path = &delivery.name.path;
        if level > LOCAL_MAX_DEPTH {
            run.add_other(
                delivery.name.shown().to_string(),
                NonAddressKind::Loop,
                path,
            );
            return Ok(true);
        }
        let Some((value, map)) = self.find_alias(name).await? else {
            return Ok(false);
        };
        let owner = format!("owner-{name}");
        let owner = match self.find_alias(&owner).await? {
            Some(_) => Some(Arc::from(owner)),
            None => delivery.owner.clone(),
        };
        let from: Arc<str> = Arc::from(external(name, None));
        let state = LocalDelivery {
            name: delivery.name.clone(),
            level,
            expanded_from: Some(Arc::from(name)),
            owner,
            is_included: false,
            delivered_to: delivery.delivered_to.clone(),
            message: delivery.message,
        };
        let mut work = Vec::new();
        let number = self
            .expand_value(&value, &map.name, &from, &state, run, &mut work)
            .await?;
        if number == 0 {
            return Err(self.alias.no_address(map, name));
        }
        run.work.extend(work.into_iter().rev());
        Ok(true)
    }

    /// Expands the value of an alias, with the files that it includes. Returns the number of
    /// addresses.
    async fn expand_value(
        &self,
        value: &str,
        map: &Arc<str>,
        from: &Arc<str>,
        state: &LocalDelivery,
        run: &mut ExpansionRun,
        work: &mut Vec<Work>,
    ) -> Result<usize, MapError> {
        let addresses = tokens::addresses(value);
        let number = addresses.len();
        for address in addresses {
            let text = tokens::internal(&address);
            let setting = self.alias.setting;
            let path = || state.name.path.with(setting, map, from, &text);
            if text.starts_with(['/', '~']) {
                run.add_other(text.clone(), NonAddressKind::File, &path());
            } else if text.starts_with('|') {
                run.add_other(text.clone(), NonAddressKind::Command, &path());
            } else if let Some(file) = included(&text) {
                let message = &mut run.messages[state.message];
                if message.read_files.insert(file.to_owned()) {
                    self.include(file, path(), state, run, work).await?;
                }
            } else {
                let text = tokens::rewrite(address, &self.origin);
                let shown = external(&text, text.rfind('@')).into_owned();
                let path = state.name.path.with(setting, map, from, &shown);
                let delivery = LocalDelivery {
                    name: MappedName { text, path },
                    level: state.level + 1,
                    expanded_from: state.expanded_from.clone(),
                    owner: state.owner.clone(),
                    is_included: state.is_included,
                    delivered_to: state.delivered_to.clone(),
                    message: state.message,
                };
                match self.is_local(delivery.name.domain()) {
                    true => work.push(Work::Delivery(delivery)),
                    false => {
                        // Elsewhere: through cleanup(8) and its maps.
                        let message = &mut run.messages[delivery.message];
                        let folded = fold(&delivery.name.text).into_owned();
                        if message.forwarded.insert(folded) {
                            let before = message.delivered.0.iter().cloned();
                            let delivered = before.chain(delivery.delivered_to).collect();
                            work.push(Work::Submission {
                                name: delivery.name,
                                delivered: DeliveredTo(delivered),
                            });
                        }
                    }
                }
            }
        }
        Ok(number)
    }

    /// Boxes the recursion through included files.
    fn expand_line<'a>(
        &'a self,
        line: &'a str,
        map: &'a Arc<str>,
        from: &'a Arc<str>,
        state: &'a LocalDelivery,
        run: &'a mut ExpansionRun,
        work: &'a mut Vec<Work>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, MapError>> + Send + 'a>> {
        Box::pin(self.expand_value(line, map, from, state, run, work))
    }

    async fn include(
        &self,
        file: &str,
        path: StepChain,
        state: &LocalDelivery,
        run: &mut ExpansionRun,
        work: &mut Vec<Work>,
    ) -> Result<(), MapError> {
        let map: Arc<str> = Arc::from(format!(":include:{file}"));
        let refused = |run: &mut ExpansionRun| {
            run.add_other(map.to_string(), NonAddressKind::BadInclude, &path);
        };
        let level = state.level + 1;
        if level > LOCAL_MAX_DEPTH || !file.starts_with('/') {
            refused(run);
            return Ok(());
        }
        let unreadable = |reason| MapError::Unreadable {
            setting: self.alias.setting,
            map: map.to_string(),
            reason,
        };
        let Some(watched) = self.includes.get(file) else {
            self.includes.read_later(file);
            return Err(unreadable("not read yet".to_owned()));
        };
        let content = watched.content().map_err(unreadable)?;
        let lines = match &content.value {
            Include::Lines(lines) => Arc::clone(lines),
            Include::Refused(_) => {
                refused(run);
                return Ok(());
            }
        };
        let from: Arc<str> = Arc::from(file);
        let state = LocalDelivery {
            name: MappedName {
                text: state.name.text.clone(),
                path: path.clone(),
            },
            level,
            expanded_from: Some(local_of(&state.name.text)),
            owner: Some(
                state
                    .owner
                    .clone()
                    .unwrap_or_else(|| Arc::from(fold(&state.name.text))),
            ),
            is_included: true,
            delivered_to: state.delivered_to.clone(),
            message: state.message,
        };
        for line in lines.iter() {
            self.expand_line(line, &map, &from, &state, run, work)
                .await?;
        }
        Ok(())
    }
}

fn local_of(text: &str) -> Arc<str> {
    let folded = fold(text);
    Arc::from(folded.rsplit_once('@').map_or(&*folded, |(local, _)| local))
}

/// Returns an address as in SMTP.
fn name_of(address: &Address) -> MappedName {
    let written = address.to_string();
    let domain = written.rsplit_once('@').map_or("", |(_, domain)| domain);
    MappedName {
        text: format!("{}@{domain}", address.local()),
        path: StepChain::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_begin_at_the_first_delimiter() {
        for (local, delimiters, expected) in [
            ("dan+a", "+", Some(3)),
            ("dan+a-b", "+-", Some(3)),
            ("+dan", "+", None),
            ("dan+", "+", Some(3)),
            ("dan", "+", None),
            ("dan+a", "", None),
            ("owner-list", "-", None),
            ("owner-list", "+-", None),
            ("list-request", "-", None),
            ("-request", "-", None),
            ("mailer-daemon", "-", None),
            ("dan-a", "-", Some(3)),
        ] {
            assert_eq!(
                extension_of(local, delimiters),
                expected,
                "{local} {delimiters}"
            );
        }
    }

    #[test]
    fn a_plain_address_is_looked_up_without_a_copy() {
        let query = LookupForms::new(Cow::Borrowed("dan@corp.test"), "+");
        assert!(matches!(query.full(), Cow::Borrowed("dan@corp.test")));
        assert!(matches!(query.local(), Cow::Borrowed("dan")));
        assert_eq!(query.at_domain(), "@corp.test");
        assert_eq!(query.bare(), None);
        let query = LookupForms::new(Cow::Borrowed("a b+x@corp.test"), "+");
        assert_eq!(query.full(), "\"a b+x\"@corp.test");
        assert_eq!(query.bare().as_deref(), Some("\"a b\"@corp.test"));
        assert_eq!(query.bare_local().as_deref(), Some("\"a b\""));
    }
}
