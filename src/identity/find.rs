//! Resolution of addresses to people, by maps and directory.

mod search;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::search::IdentitySearch;
use super::address_rules::AddressRules;
use crate::directory::{AddressRewriter, Directory, Entry, Lookup, Objects, Outage};
use crate::mail::Address;
use crate::maps::{self, AddressMaps};

/// Maximum number of concurrent queries of one message.
const CONCURRENCY: usize = 512;

/// Queries of one message that do not wait for those of other messages.
const UNLIMITED_QUERIES: usize = 32;

/// A party named in an envelope.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdentityQuery {
    /// A recipient: mail to a group concerns its members.
    Recipient {
        /// The address as written.
        address: Address,
        /// The address as the MTA reported it, if that differs.
        mta: Option<Address>,
    },
    /// A sender.
    Sender {
        /// The address as written.
        address: Address,
        /// The address as the MTA reported it, if that differs.
        mta: Option<Address>,
    },
    /// The user name of an authenticated client.
    AuthUser(String),
}

/// The people concerned by mail to or from one address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// People, groups and contacts of the directory.
    pub people: Vec<Person>,
    /// Further addresses that the mail goes to: contacts in groups, forwarding, routes. They
    /// determine directions.
    pub further_addresses: Vec<Address>,
    /// Whether there are further people not listed in `people`, since nothing is journaled because
    /// of them.
    pub has_unlisted_people: bool,
    /// The steps of the resolution.
    pub trace: Vec<TraceStep>,
}

/// An owner of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The address that was looked up; it determines the direction.
    pub address: Address,
    /// The objects that own the address, followed by those that they inherit from.
    pub objects: Objects,
    /// The group through which the person was found.
    pub group: Option<Address>,
}

/// A step of the resolution, for explanations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// An address, a login name, or a group's DN.
    pub name: String,
    /// The reason and the result.
    pub outcome: String,
}

/// The answers to all queries of one message.
#[derive(Debug, Clone, Default)]
pub struct IdentityAnswers(HashMap<IdentityQuery, Lookup<Arc<Owners>>>);

/// Resolves addresses and user names to people.
#[derive(Debug, Clone)]
pub struct Identities {
    directory: Directory,
    names: Arc<AddressRules>,
    maps: AddressMaps,
    /// Stops following the maps when the last handle is dropped.
    _maps_stop: Option<Arc<DropGuard>>,
}

impl IdentityQuery {
    /// Returns the address of the query; `None` for a user name.
    pub fn address(&self) -> Option<&Address> {
        match self {
            IdentityQuery::Recipient { address, .. } | IdentityQuery::Sender { address, .. } => {
                Some(address)
            }
            IdentityQuery::AuthUser(_) => None,
        }
    }
}

impl Hash for IdentityQuery {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The rest rarely distinguishes two queries of one message.
        match self {
            IdentityQuery::Recipient { address, .. } | IdentityQuery::Sender { address, .. } => {
                address.hash(state);
            }
            IdentityQuery::AuthUser(login) => login.hash(state),
        }
    }
}

impl std::fmt::Display for IdentityQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IdentityQuery::Recipient { address, .. } | IdentityQuery::Sender { address, .. } => {
                address.fmt(f)
            }
            IdentityQuery::AuthUser(login) => write!(f, "login {login}"),
        }
    }
}

impl IdentityAnswers {
    /// Returns the answer to a query; an outage if it was not part of the message's queries.
    pub fn get(&self, question: &IdentityQuery) -> &Lookup<Arc<Owners>> {
        static NOT_ASKED: LazyLock<Lookup<Arc<Owners>>> =
            LazyLock::new(|| Lookup::Unavailable(Outage::new("not queried")));
        self.0.get(question).unwrap_or(&NOT_ASKED)
    }

    /// Returns all answers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&IdentityQuery, &Lookup<Arc<Owners>>)> {
        self.0.iter()
    }
}

impl FromIterator<(IdentityQuery, Lookup<Arc<Owners>>)> for IdentityAnswers {
    fn from_iter<I: IntoIterator<Item = (IdentityQuery, Lookup<Arc<Owners>>)>>(
        answers: I,
    ) -> IdentityAnswers {
        IdentityAnswers(answers.into_iter().collect())
    }
}

impl Person {
    /// Returns the objects that own the address, without inherited ones.
    pub fn own(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.objects.iter().filter(|object| !object.inherited)
    }

    /// Returns the object that exempts the person, see [`exempting_object`].
    pub fn exempting_object(&self, attribute: &str) -> Option<&Entry> {
        exempting_object(&self.objects, attribute)
    }
}

/// Returns the object that exempts a person by the value TRUE of this attribute. If several objects
/// own an address, all of them must have it: in doubt, mail is journaled.
pub fn exempting_object<'a>(objects: &'a Objects, attribute: &str) -> Option<&'a Entry> {
    let own = || objects.iter().filter(|object| !object.inherited);
    let exempts = |object: &Entry| {
        let mut values = object.values(attribute);
        values.any(|value| value.trim().eq_ignore_ascii_case("TRUE"))
    };
    let all = own().all(|object| exempts(object));
    own().next().filter(|_| all).map(AsRef::as_ref)
}

impl Owners {
    /// Returns the first person's exempting object, if all people are exempt.
    pub fn exempting_object(&self, attribute: Option<&str>) -> Option<&Entry> {
        let attribute = attribute?;
        let all = self
            .people
            .iter()
            .all(|person| person.exempting_object(attribute).is_some());
        if self.has_unlisted_people || !all {
            return None;
        }
        self.people.first()?.exempting_object(attribute)
    }
}

impl Identities {
    /// Creates a resolver for this directory with these rules.
    pub fn new(directory: Directory, names: Arc<AddressRules>) -> Identities {
        Identities {
            directory,
            names,
            maps: AddressMaps::none(),
            _maps_stop: None,
        }
    }

    /// Adds the MTA's address maps, and reads them. Blocks. Must be called within a runtime.
    pub fn with_maps(self, settings: maps::Settings) -> Result<Identities, maps::OpenError> {
        let stop = CancellationToken::new();
        let maps = AddressMaps::open(settings, &TaskTracker::new(), &stop)?;
        Ok(Identities {
            maps,
            _maps_stop: Some(Arc::new(stop.drop_guard())),
            ..self
        })
    }

    /// Returns the MTA's address maps.
    pub fn maps(&self) -> &AddressMaps {
        &self.maps
    }

    /// Returns the directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Returns the rules for reading addresses.
    pub fn names(&self) -> &AddressRules {
        &self.names
    }

    /// Answers all queries concurrently. A missing answer at the deadline is an outage; the query
    /// goes on for the next caller.
    pub async fn find(&self, questions: &[IdentityQuery], deadline: Instant) -> IdentityAnswers {
        let mut answers = HashMap::with_capacity(questions.len());
        let mut unknown = Vec::new();
        for question in questions {
            match self.find_cached(question).await {
                Some(answer) => {
                    answers.insert(question.clone(), answer);
                }
                None => unknown.push(question),
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        let mut waiting = unknown.into_iter().enumerate();
        let mut asked = FuturesUnordered::new();
        loop {
            // A query in flight takes far more memory than an answer, so their number is limited.
            while asked.len() < CONCURRENCY
                && let Some((at, question)) = waiting.next()
            {
                // Once polled, a query goes on by itself.
                if Instant::now() >= deadline {
                    let late = Lookup::Unavailable(self.directory.deadline_outage());
                    answers.insert(question.clone(), late);
                    continue;
                }
                asked.push(async move {
                    let answer = timeout_at(deadline, self.resolve_in_turn(at, question)).await;
                    let late = |_| Lookup::Unavailable(self.directory.deadline_outage());
                    (question.clone(), answer.unwrap_or_else(late))
                });
            }
            match asked.next().await {
                Some((question, answer)) => answers.insert(question, answer),
                None => return IdentityAnswers(answers),
            };
        }
    }

    /// Runs one query of a message. The first ones run at once: only messages with very many
    /// unknown addresses wait for each other.
    async fn resolve_in_turn(&self, at: usize, question: &IdentityQuery) -> Lookup<Arc<Owners>> {
        let _turn = match at < UNLIMITED_QUERIES {
            true => None,
            false => Some(self.directory.acquire_query_slot().await),
        };
        self.resolve(question).await
    }

    /// Returns the cached answer for an exact address without further recipients.
    async fn find_cached(&self, question: &IdentityQuery) -> Option<Lookup<Arc<Owners>>> {
        let address = question.address().filter(|_| self.maps.is_empty())?;
        let objects = self.directory.find_cached(address).await?;
        let is_recipient = matches!(question, IdentityQuery::Recipient { .. });
        if is_recipient && objects.iter().any(|object| object.has_further_recipients()) {
            return None;
        }
        let person = Person {
            address: address.clone(),
            objects,
            group: None,
        };
        Some(Lookup::Found(Arc::new(Owners {
            people: vec![person],
            ..Owners::default()
        })))
    }

    async fn resolve(&self, question: &IdentityQuery) -> Lookup<Arc<Owners>> {
        match self.owners(question).await {
            Ok(owners) if owners.people.is_empty() && owners.further_addresses.is_empty() => {
                Lookup::Absent
            }
            Ok(owners) => Lookup::Found(Arc::new(owners)),
            Err(outage) => Lookup::Unavailable(outage),
        }
    }

    /// Resolves a query, with every step in the trace. The result is empty if nobody is found.
    pub async fn owners(&self, question: &IdentityQuery) -> Result<Owners, Outage> {
        IdentitySearch::owners(self, question).await
    }
}

impl AddressRewriter for AddressMaps {
    fn version(&self) -> u64 {
        AddressMaps::version(self)
    }

    fn rewrites<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<bool, Outage>> {
        Box::pin(async move {
            let answer = AddressMaps::rewrites(self, address).await;
            answer.map_err(|error| Outage::new(error.to_string()))
        })
    }
}
