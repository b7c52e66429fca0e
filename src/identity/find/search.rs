//! Resolution of one address or user name through maps, directory, groups and forwarding.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};

use super::{CONCURRENCY, Identities, IdentityQuery, Owners, Person, TraceStep};
use crate::directory::{AddressRewriter, Entry, Lookup, Objects, Outage, Target};
use crate::identity::address_rules::{ReadingStep, Readings};
use crate::mail::Address;
use crate::maps::{Expansion, NonAddressKind};

/// Maximum number of addresses that one recipient may resolve to by maps, forwarding and alias
/// objects.
const MAX_FURTHER_ADDRESSES: usize = 1000;

/// A resolution in progress.
pub(super) struct IdentitySearch<'a> {
    identities: &'a Identities,
    owners: Owners,
    /// The addresses visited, each with whether it is a result of the MTA's maps.
    seen: HashSet<(Address, bool)>,
    /// Answers for addresses that are still to be resolved.
    prefetched: HashMap<Address, Lookup<(usize, Objects)>>,
    /// Maximum number of addresses.
    limit: usize,
    /// Whether groups and forwarding are followed, as for recipients.
    follows_forwarding: bool,
}

/// An address still to be resolved.
#[derive(Clone)]
struct PendingAddress {
    address: Address,
    /// The group through which it was found.
    group: Option<Address>,
    /// Whether it is a result of the MTA's maps.
    is_mapped: bool,
}

/// The result of the MTA's maps.
struct MappedAddresses {
    /// The position of the reading with an entry.
    at: usize,
    addresses: Vec<Address>,
    /// Whether a command or a file receives the mail. That may be how its own mailbox gets it, as
    /// with a sorting command.
    is_delivered_locally: bool,
}

impl IdentitySearch<'_> {
    /// Resolves a query, with every step in the trace.
    pub(super) async fn owners(
        identities: &Identities,
        question: &IdentityQuery,
    ) -> Result<Owners, Outage> {
        let mut search = IdentitySearch {
            identities,
            owners: Owners::default(),
            seen: HashSet::new(),
            prefetched: HashMap::new(),
            limit: MAX_FURTHER_ADDRESSES,
            follows_forwarding: matches!(question, IdentityQuery::Recipient { .. }),
        };
        match question {
            IdentityQuery::Recipient { address, mta } | IdentityQuery::Sender { address, mta } => {
                search.follow(address, mta.as_ref()).await?;
            }
            IdentityQuery::AuthUser(login) => search.resolve_auth_user(login).await?,
        }
        Ok(search.owners)
    }

    fn note(&mut self, name: impl ToString, outcome: impl Into<String>) {
        self.owners.trace.push(TraceStep {
            name: name.to_string(),
            outcome: outcome.into(),
        });
    }

    /// Resolves an address and all that it leads to.
    async fn follow(&mut self, address: &Address, mta: Option<&Address>) -> Result<(), Outage> {
        let mut waiting = vec![PendingAddress {
            address: address.clone(),
            group: None,
            is_mapped: false,
        }];
        self.seen.insert((address.clone(), false));
        let mut mta = mta;
        let mut is_first = true;
        while let Some(one) = waiting.pop() {
            let next = self.resolve_address(&one, mta.take(), is_first).await?;
            self.prefetch(&next).await;
            for next in next {
                if self.seen.len() >= self.limit {
                    return Err(Outage::new(format!(
                        "one address resolves to more than {} others",
                        self.limit
                    )));
                }
                if self.seen.insert((next.address.clone(), next.is_mapped)) {
                    waiting.push(next);
                }
            }
            is_first = false;
        }
        Ok(())
    }

    /// Looks up several addresses concurrently, before they are resolved one by one.
    async fn prefetch(&mut self, next: &[PendingAddress]) {
        let names = &self.identities.names;
        let new = next
            .iter()
            .filter(|one| !self.seen.contains(&(one.address.clone(), one.is_mapped)));
        let new: HashSet<&Address> = new.map(|one| &one.address).collect();
        if new.len() < 2 {
            return;
        }
        let asked = new.into_iter().map(|address| {
            let readings = names.readings(address, None);
            let candidates = readings.addresses.into_iter();
            let candidates: Vec<Address> = candidates.map(|one| one.address).collect();
            (address.clone(), candidates)
        });
        let asked: Vec<(Address, Vec<Address>)> = asked.take(self.limit).collect();
        let directory = &self.identities.directory;
        let found = stream::iter(asked)
            .map(|(address, candidates)| async move {
                (address, directory.find_first(&candidates).await)
            })
            .buffer_unordered(CONCURRENCY);
        self.prefetched.extend(found.collect::<Vec<_>>().await);
    }

    /// Resolves one address, and returns the addresses that it leads to.
    async fn resolve_address(
        &mut self,
        one: &PendingAddress,
        mta: Option<&Address>,
        is_first: bool,
    ) -> Result<Vec<PendingAddress>, Outage> {
        let names = &self.identities.names;
        let readings = names.readings(&one.address, mta);
        let candidates: Vec<Address> = readings
            .addresses
            .iter()
            .map(|reading| reading.address.clone())
            .collect();
        let mut mapped = match one.is_mapped {
            true => None,
            false => self.apply_maps(&readings).await?,
        };
        let found = match mta {
            None => self.prefetched.remove(&one.address),
            Some(_) => None,
        };
        let found = match found {
            Some(found) => found,
            None => self.find_first(&candidates, &readings.logins).await,
        };
        let found = match found {
            Lookup::Found(found) => Some(found),
            Lookup::Absent => None,
            Lookup::Unavailable(outage) => return Err(outage),
        };
        // The first reading with a result counts, by a map of the MTA or in the directory.
        if let (Some((at, _)), Some(by_map)) = (&found, &mapped)
            && *at < by_map.at
        {
            mapped = None;
        }
        let is_mapped = mapped.is_some();
        let leads_away = self.follows_forwarding
            && mapped
                .as_ref()
                .is_some_and(|by_map| !by_map.is_delivered_locally);
        let mut next: Vec<PendingAddress> = mapped
            .into_iter()
            .flat_map(|by_map| by_map.addresses)
            .map(|address| PendingAddress {
                address,
                group: one.group.clone(),
                is_mapped: true,
            })
            .collect();
        if let Some((at, mut objects)) = found {
            if leads_away {
                // The map determines whether mail arrives there as well; it also has the members of
                // a group.
                let groups = objects.iter().filter(|object| object.is_group());
                objects = groups.cloned().collect();
            }
            if !objects.is_empty() {
                let reading = &readings.addresses[at];
                let dns: Vec<&str> = objects.iter().map(|object| object.dn.as_str()).collect();
                let outcome = format!("{}: {}", reading.step.name(), dns.join("; "));
                self.note(&reading.address, outcome);
                let found = PendingAddress {
                    address: reading.address.clone(),
                    ..one.clone()
                };
                next.extend(self.add_objects(found, objects).await?);
            }
            return Ok(next);
        }
        if is_mapped {
            return Ok(next);
        }
        for reading in &readings.addresses {
            let outcome = format!("{}: no object", reading.step.name());
            self.note(&reading.address, outcome);
        }
        for login in &readings.logins {
            if let Some(next) = self.find_login(login, one).await? {
                return Ok(next);
            }
        }
        if !self.follows_forwarding {
            next.extend(self.resolve_alias(&readings).await?);
            return Ok(next);
        }
        if let Some(external) = readings.external {
            self.note(
                &external,
                "the local part is a route to an external address",
            );
            self.add_further_address(external);
        } else if names.contains(&one.address) {
            // An unknown person of the organization.
            self.owners.has_unlisted_people = true;
        } else if !is_first {
            self.add_further_address(one.address.clone());
        }
        Ok(next)
    }

    /// Returns the owners of the first of these addresses that has any. The login names, which
    /// count if none has, are looked up concurrently, so that a slow directory does not delay
    /// twice.
    async fn find_first(
        &self,
        candidates: &[Address],
        logins: &[String],
    ) -> Lookup<(usize, Objects)> {
        let directory = &self.identities.directory;
        if let (Some(first), false) = (candidates.first(), logins.is_empty())
            && let Some(objects) = directory.find_cached(first).await
        {
            return Lookup::Found((0, objects));
        }
        let logins = async {
            let logins = logins.iter().map(|login| directory.find_login(login));
            // The answers are cached; a later lookup finds them.
            join_all(logins).await;
            std::future::pending::<Lookup<(usize, Objects)>>().await
        };
        tokio::select! {
            found = directory.find_first(candidates) => found,
            never = logins => never,
        }
    }

    /// Returns the first of these readings with an entry in the MTA's maps, and its addresses.
    async fn apply_maps(&mut self, readings: &Readings) -> Result<Option<MappedAddresses>, Outage> {
        let maps = &self.identities.maps;
        if maps.is_empty() {
            return Ok(None);
        }
        let is_local = |address: &Address| self.identities.names.is_local(address.domain());
        let is_written_local =
            (readings.addresses.first()).is_some_and(|one| is_local(&one.address));
        for (at, reading) in readings.addresses.iter().enumerate() {
            // The MTA itself knows its own names.
            if is_written_local && reading.step == ReadingStep::SharedDomain {
                continue;
            }
            let reading = &reading.address;
            let expansion = match self.follows_forwarding {
                true => maps.recipients(reading).await,
                false => maps.senders(reading).await,
            };
            let expansion = expansion.map_err(|error| Outage::new(error.to_string()))?;
            let Expansion::Changed { addresses, others } = expansion else {
                continue;
            };
            for step in addresses.iter().flat_map(|mapped| &mapped.steps) {
                self.note(reading, step.to_string());
            }
            for other in &others {
                self.note(reading, format!("not a mailbox: {}", other.target));
            }
            let is_delivered_locally = others.iter().any(|other| match other.kind {
                NonAddressKind::Command | NonAddressKind::File => true,
                NonAddressKind::Loop | NonAddressKind::BadInclude | NonAddressKind::Invalid => {
                    false
                }
            });
            return Ok(Some(MappedAddresses {
                at,
                addresses: addresses.into_iter().map(|mapped| mapped.address).collect(),
                is_delivered_locally,
            }));
        }
        Ok(None)
    }

    /// Resolves an alias used as a sender: it stands for a mailbox if it leads to that one and
    /// nothing else.
    async fn resolve_alias(
        &mut self,
        readings: &Readings,
    ) -> Result<Option<PendingAddress>, Outage> {
        let maps = &self.identities.maps;
        for reading in &readings.addresses {
            let expansion = maps.recipients(&reading.address).await;
            let expansion = expansion.map_err(|error| Outage::new(error.to_string()))?;
            let Expansion::Changed { addresses, others } = expansion else {
                continue;
            };
            let [only] = addresses.as_slice() else {
                let outcome = format!("alias of {} mailboxes", addresses.len());
                self.note(&reading.address, outcome);
                return Ok(None);
            };
            for step in &only.steps {
                self.note(&reading.address, step.to_string());
            }
            return Ok(others.is_empty().then(|| PendingAddress {
                address: only.address.clone(),
                group: None,
                is_mapped: true,
            }));
        }
        Ok(None)
    }

    fn add_further_address(&mut self, address: Address) {
        if !self.owners.further_addresses.contains(&address) {
            self.owners.further_addresses.push(address);
        }
    }

    async fn resolve_auth_user(&mut self, login: &str) -> Result<(), Outage> {
        let bare = login.trim();
        if let Ok(address) = Address::parse(bare) {
            self.follow(&address, None).await?;
            if !self.owners.people.is_empty() {
                return Ok(());
            }
        }
        // `CORP\imeier`, `imeier@REALM`: the MTA, which authenticated the client, has checked the
        // realm.
        let name = bare.rsplit_once(['\\', '/']).map_or(bare, |(_, name)| name);
        let user = name.split_once('@').map_or(name, |(user, _)| user);
        let default = self
            .identities
            .names
            .default_domain()
            .unwrap_or("localhost");
        let Some(address) = Address::quoted(user, default) else {
            return Ok(());
        };
        let shown = PendingAddress {
            address,
            group: None,
            is_mapped: false,
        };
        let mut asked: Vec<&str> = Vec::new();
        for login in [bare, name, user] {
            if asked.contains(&login) {
                continue;
            }
            asked.push(login);
            if self.find_login(login, &shown).await?.is_some() {
                return Ok(());
            }
        }
        // Last the name at the default domain: `imeier` as `imeier@corp.test`.
        if !self.seen.contains(&(shown.address.clone(), false)) {
            self.follow(&shown.address, None).await?;
        }
        Ok(())
    }

    /// Adds the objects with a login name, and returns the addresses that they lead to; `None` if
    /// there are none.
    async fn find_login(
        &mut self,
        login: &str,
        shown: &PendingAddress,
    ) -> Result<Option<Vec<PendingAddress>>, Outage> {
        if login.is_empty() {
            return Ok(None);
        }
        match self.identities.directory.find_login(login).await {
            Lookup::Found(objects) => {
                let dns: Vec<&str> = objects.iter().map(|object| object.dn.as_str()).collect();
                self.note(login, format!("login name: {}", dns.join("; ")));
                self.add_objects(shown.clone(), objects).await.map(Some)
            }
            Lookup::Absent => {
                self.note(login, "login name: no object");
                Ok(None)
            }
            Lookup::Unavailable(outage) => Err(outage),
        }
    }

    /// Adds an address's objects, and returns the addresses that they lead to.
    async fn add_objects(
        &mut self,
        one: PendingAddress,
        objects: Objects,
    ) -> Result<Vec<PendingAddress>, Outage> {
        let mut next = Vec::new();
        if self.follows_forwarding {
            let own = objects
                .iter()
                .filter(|object| !object.inherited && object.has_further_recipients());
            for object in own.cloned().collect::<Vec<_>>() {
                self.add_further_recipients(&one, &object, &mut next)
                    .await?;
            }
        }
        self.add_person(Person {
            address: one.address,
            objects,
            group: one.group,
        });
        Ok(next)
    }

    fn add_person(&mut self, person: Person) {
        let is_same = |known: &Person| {
            let dns = |person: &Person| {
                person
                    .own()
                    .map(|object| object.dn.clone())
                    .collect::<Vec<_>>()
            };
            known.group.is_some() == person.group.is_some() && dns(known) == dns(&person)
        };
        if !self.owners.people.iter().any(is_same) {
            self.owners.people.push(person);
        }
    }

    async fn add_further_recipients(
        &mut self,
        one: &PendingAddress,
        object: &Arc<Entry>,
        next: &mut Vec<PendingAddress>,
    ) -> Result<(), Outage> {
        if object.is_group() {
            let identities = self.identities;
            let maps: Arc<dyn AddressRewriter> = Arc::new(identities.maps.clone());
            let members = identities.directory.members(object, maps).await?;
            self.note(
                &object.dn,
                format!("group: {} journaled members", members.journaled.len()),
            );
            self.owners.has_unlisted_people |= !members.all_exempt;
            let group = one.group.as_ref().unwrap_or(&one.address);
            for objects in &members.journaled {
                let own = objects.first().and_then(|member| own_address(member));
                self.owners.people.push(Person {
                    address: own.unwrap_or_else(|| one.address.clone()),
                    objects: Arc::clone(objects),
                    group: Some(group.clone()),
                });
            }
            let external = members
                .domains
                .iter()
                .filter(|one| !self.identities.names.contains(one));
            for contact in external.cloned().collect::<Vec<_>>() {
                self.add_further_address(contact);
            }
            // The size of a group must not defer mail.
            self.limit += members.addresses.len();
            next.extend(members.addresses.iter().map(|address| PendingAddress {
                address: address.clone(),
                group: Some(group.clone()),
                is_mapped: false,
            }));
        }
        let to = |address| PendingAddress {
            address,
            group: one.group.clone(),
            is_mapped: false,
        };
        let mut objects = Vec::new();
        for value in object.forwarding() {
            match Target::parse(value) {
                Ok(Target::Smtp(address)) => {
                    self.note(&address, format!("forwarding of {}", object.dn));
                    next.push(to(address));
                }
                Ok(target) => objects.push(target),
                Err(error) => self.note(value, format!("forwarding of {}: {error}", object.dn)),
            }
        }
        for (target, answer) in self.identities.directory.resolve(&objects).await {
            if let Ok(expansion) = answer? {
                self.note(&target, format!("forwarding of {}", object.dn));
                next.extend(
                    expansion
                        .addresses
                        .iter()
                        .map(|one| to(one.address.clone())),
                );
            }
        }
        Ok(())
    }
}

/// Returns the first address of a member, which determines its direction.
fn own_address(object: &Entry) -> Option<Address> {
    let values = ["mail", "proxyAddresses", "targetAddress"].into_iter();
    let mut values = values.flat_map(|name| object.values(name));
    values.find_map(|value| match Target::parse(value) {
        Ok(Target::Smtp(address)) => Some(address),
        _ => None,
    })
}
