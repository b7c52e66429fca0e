//! Asks maps and directory which people an address concerns.

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

/// Questions of one message that are under way at once.
const CONCURRENCY: usize = 512;

/// Questions of one message that wait for no other message's.
const UNLIMITED_QUERIES: usize = 32;

/// Whom an envelope names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdentityQuery {
    /// A recipient: mail to a group concerns its members.
    Recipient {
        /// As it was written.
        address: Address,
        /// As the MTA reported it, if that differs.
        mta: Option<Address>,
    },
    /// A sender.
    Sender {
        /// As it was written.
        address: Address,
        /// As the MTA reported it, if that differs.
        mta: Option<Address>,
    },
    /// The name that a client authenticated with.
    AuthUser(String),
}

/// Everybody that mail to or from one address concerns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// People, groups and contacts of the directory.
    pub people: Vec<Person>,
    /// Further addresses that the mail goes to: contacts in groups, forwarding, routes. Directions
    /// follow from them.
    pub further_addresses: Vec<Address>,
    /// Whether some of those concerned are not listed in `people`, since nothing is journaled
    /// because of them.
    pub has_unlisted_people: bool,
    /// How these were found.
    pub trace: Vec<TraceStep>,
}

/// One owner of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The address that was looked up: the direction of the mail follows from it.
    pub address: Address,
    /// The objects that own it, and behind them those whose journal attributes count for them as
    /// well.
    pub objects: Objects,
    /// The group that the person is a member of, if that is why.
    pub group: Option<Address>,
}

/// One step of an identification, for explanations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// What was considered: an address, a login name, a group's DN.
    pub name: String,
    /// Why, and what came of it.
    pub outcome: String,
}

/// The answers to questions about one message.
#[derive(Debug, Clone, Default)]
pub struct IdentityAnswers(HashMap<IdentityQuery, Lookup<Arc<Owners>>>);

/// Knows whose an address is.
#[derive(Debug, Clone)]
pub struct Identities {
    directory: Directory,
    names: Arc<AddressRules>,
    maps: AddressMaps,
    /// Ends what follows the maps, with the last handle.
    _maps_stop: Option<Arc<DropGuard>>,
}

impl IdentityQuery {
    /// The address that is asked about; `None` for a login.
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
        // The rest hardly ever tells two questions of one message apart.
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
    /// The answer to one question; an outage if it was not asked.
    pub fn get(&self, question: &IdentityQuery) -> &Lookup<Arc<Owners>> {
        static NOT_ASKED: LazyLock<Lookup<Arc<Owners>>> =
            LazyLock::new(|| Lookup::Unavailable(Outage::new("it was not asked")));
        self.0.get(question).unwrap_or(&NOT_ASKED)
    }

    /// All answers, in no order.
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
    /// The objects that own the address, without those that they inherit from.
    pub fn own(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.objects.iter().filter(|object| !object.inherited)
    }

    /// The object that exempts the person, see [`exempting_object`].
    pub fn exempting_object(&self, attribute: &str) -> Option<&Entry> {
        exempting_object(&self.objects, attribute)
    }
}

/// The object that exempts a person by the value TRUE in this attribute. If several objects own an
/// address, all of them must: in doubt mail is journaled.
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
    /// The object of the first person that exempts mail from journaling or texts, if all people do.
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
    /// Asks this directory about mailboxes that are named so.
    pub fn new(directory: Directory, names: Arc<AddressRules>) -> Identities {
        Identities {
            directory,
            names,
            maps: AddressMaps::none(),
            _maps_stop: None,
        }
    }

    /// The same with address maps of the MTA, which are read now; blocks meanwhile. Must be called
    /// inside a runtime.
    pub fn with_maps(self, settings: maps::Settings) -> Result<Identities, maps::OpenError> {
        let stop = CancellationToken::new();
        let maps = AddressMaps::open(settings, &TaskTracker::new(), &stop)?;
        Ok(Identities {
            maps,
            _maps_stop: Some(Arc::new(stop.drop_guard())),
            ..self
        })
    }

    /// The address maps of the MTA.
    pub fn maps(&self) -> &AddressMaps {
        &self.maps
    }

    /// The directory that is asked.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// How mailboxes are named.
    pub fn names(&self) -> &AddressRules {
        &self.names
    }

    /// Answers every question. They are asked together; what is not answered by the deadline is an
    /// outage, and its answer is there for whoever asks next.
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
            // Only what is asked takes memory: a question under way takes far more of it than an
            // answer.
            while asked.len() < CONCURRENCY
                && let Some((at, question)) = waiting.next()
            {
                // Once polled, a question goes on by itself.
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

    /// Asks one question of a message, the first of them at once: only messages with very many
    /// unknown addresses wait for each other.
    async fn resolve_in_turn(&self, at: usize, question: &IdentityQuery) -> Lookup<Arc<Owners>> {
        let _turn = match at < UNLIMITED_QUERIES {
            true => None,
            false => Some(self.directory.acquire_query_slot().await),
        };
        self.resolve(question).await
    }

    /// The answer to a plain question from memory: an address that an object holds exactly, and
    /// that leads nowhere else.
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

    /// Identifies, with every step in the trace; nobody where nobody is found.
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
