//! Who is journaled where by attribute, and whose values lead nowhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::directory::{Directory, Entry, Objects, Outage, Resolution, Target};
use crate::identity::{GuardedMailboxes, UnguardedMailbox, exempting_object};
use crate::mail::Address;
use crate::policy::{Direction, Rules};

/// People whose targets are resolved at once.
const AT_ONCE: usize = 256;

/// Members of a group without an address that are named one by one.
const MOST_NAMED: usize = 5;

/// How long the first reading of the whole directory may take that tells "nobody" from "not known
/// yet".
const FIRST_READING: Duration = Duration::from_secs(60);

/// One object with an address.
#[derive(Debug, Clone, Serialize)]
pub struct Person {
    /// Its name.
    pub dn: String,
    /// Its own addresses, as they stand in the directory.
    pub addresses: Vec<String>,
    /// Whether nothing is copied because of it.
    pub exempt: bool,
    /// What its journal attributes hold.
    pub journal: Vec<Value>,
    /// Those of its addresses by which mail finds somebody else, or nobody; looked up if it is
    /// journaled.
    pub address_problems: Vec<AddressProblem>,
}

/// An address of a journaled object by which mail does not find this object alone.
#[derive(Debug, Clone, Serialize)]
pub struct AddressProblem {
    /// The address.
    pub address: Address,
    /// Whether mail does not find the object by it.
    pub is_lost: bool,
    /// What mail finds by it.
    pub problem: String,
}

impl Person {
    /// Whether a value leads nowhere or not to all members of a group, or an address is not this
    /// object's alone.
    pub fn has_problem(&self) -> bool {
        let is_partial = |value: &Value| value.problem.is_some() || value.unreached.is_some();
        !self.address_problems.is_empty() || self.journal.iter().any(is_partial)
    }

    fn is_journaled(&self) -> bool {
        self.journal.iter().any(|value| !value.targets.is_empty())
    }
}

/// One value of a journal attribute that counts for a person.
#[derive(Debug, Clone, Serialize)]
pub struct Value {
    /// The directions whose settings name the attribute.
    pub directions: Vec<&'static str>,
    /// The attribute.
    pub attribute: String,
    /// The object it stands in: the person's, or a group's or container's.
    pub object: String,
    /// As it stands there.
    pub value: String,
    /// Where it leads.
    pub targets: Vec<Address>,
    /// Those of them outside `organization.domains`.
    pub outside: Vec<Address>,
    /// Why it leads nowhere.
    pub problem: Option<String>,
    /// Which members of the group that it names get no copy: the first of them, and how many there
    /// are.
    pub unreached: Option<String>,
}

/// What was seen in all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Objects with an address.
    pub objects: u64,
    /// Those of them with a value that leads somewhere.
    pub journaled: u64,
    /// Those without.
    pub not_journaled: u64,
    /// Those for whose sake nothing is copied.
    pub exempt: u64,
    /// Values of journal attributes.
    pub values: u64,
    /// Those of them that lead nowhere.
    pub values_without_target: u64,
    /// Those that name a group with members without an address, who get no copy.
    pub values_leading_not_to_all: u64,
    /// Those that lead out of `organization.domains`.
    pub values_leading_outside: u64,
    /// Different addresses that they lead to.
    pub journal_addresses: usize,
    /// Addresses of journaled objects by which mail does not find them.
    pub addresses_not_found: u64,
    /// Addresses of journaled objects that other objects have as well.
    pub addresses_shared: u64,
    /// Mailboxes that journal attributes name and that are not guarded, since they look like a
    /// person's.
    pub persons_not_guarded: Vec<UnguardedMailbox>,
    /// Why not all values of journal attributes are known to the journal guard.
    pub guard_incomplete: Option<String>,
    /// Journal attributes that nobody has, as far as can be seen.
    pub nobody_has: Vec<String>,
    /// What all mail of a direction is journaled to, whoever is concerned.
    pub all_mail: HashMap<&'static str, Vec<String>>,
    /// How long it took.
    pub seconds: f64,
}

/// A reading of the whole directory, some people at a time.
pub struct Coverage<'a> {
    directory: &'a Directory,
    /// Attributes that hold a person's own addresses.
    addresses: &'a [String],
    rules: &'a Rules,
    everybody: mpsc::Receiver<Result<Arc<Entry>, Outage>>,
    targets: Known,
    summary: Summary,
    begun: Instant,
}

impl<'a> Coverage<'a> {
    /// Begins to read.
    pub fn begin(
        directory: &'a Directory,
        addresses: &'a [String],
        rules: &'a Rules,
    ) -> Coverage<'a> {
        let mut summary = Summary::default();
        for direction in Direction::ALL {
            for name in &rules.of(direction).journal_attributes {
                if !summary.nobody_has.contains(name) {
                    summary.nobody_has.push(name.clone());
                }
            }
            let all = rules.of(direction).journal.iter();
            let all: Vec<String> = all.map(ToString::to_string).collect();
            if !all.is_empty() {
                summary.all_mail.insert(direction.name(), all);
            }
        }
        Coverage {
            directory,
            addresses,
            rules,
            everybody: directory.list_all(),
            targets: HashMap::new(),
            summary,
            begun: Instant::now(),
        }
    }

    /// The next people; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Person>, Outage> {
        let mut some = Vec::new();
        self.everybody.recv_many(&mut some, AT_ONCE).await;
        let entries: Vec<_> = some.into_iter().collect::<Result<_, _>>()?;
        let found = self.directory.with_inherited(entries).await?;
        learn(self.directory, &found, self.rules, &mut self.targets).await?;
        let people = found
            .iter()
            .map(|objects| describe(objects, self.addresses, self.rules, &self.targets));
        let mut people: Vec<Person> = people.collect();
        look_up(self.directory, &found, &mut people).await?;
        for person in &people {
            self.summary.count(person);
        }
        Ok(people)
    }

    /// What was seen in all. `guarded` is what the journal guard knows, if it knows anything.
    pub fn end(mut self, guarded: Option<&GuardedMailboxes>) -> Summary {
        if let Some(guarded) = guarded {
            self.summary
                .persons_not_guarded
                .clone_from(&guarded.persons);
            self.summary
                .guard_incomplete
                .clone_from(&guarded.incomplete);
        }
        let mut all: Vec<&Address> = self.targets.values().flatten().flat_map(reached).collect();
        all.sort_unstable();
        all.dedup();
        self.summary.journal_addresses = all.len();
        self.summary.seconds = self.begun.elapsed().as_secs_f64();
        self.summary
    }
}

/// The objects that own each of these addresses. Until the directory was read once, that nobody
/// does is an outage.
async fn owners_of(
    directory: &Directory,
    addresses: &[Address],
) -> Result<HashMap<Address, Objects>, Outage> {
    if let Ok(owners) = directory.fetch_owners(addresses).await {
        return Ok(owners);
    }
    let mut values = directory.journal_values();
    // Whether it was read in time tells the next question.
    let _ = timeout(FIRST_READING, values.wait_for(Option::is_some)).await;
    directory.fetch_owners(addresses).await
}

/// Looks the addresses of journaled people up as mail does.
async fn look_up(
    directory: &Directory,
    found: &[Objects],
    people: &mut [Person],
) -> Result<(), Outage> {
    let own = |objects: &Objects| objects.iter().find(|object| !object.inherited).cloned();
    let each = found.iter().zip(people.iter_mut());
    let journaled = each.filter(|(_, person)| person.is_journaled() && !person.exempt);
    let mut asked: Vec<(&mut Person, Vec<Address>)> = Vec::new();
    for (objects, person) in journaled {
        let addresses = own(objects).map(|object| directory.addresses_of(&object));
        asked.push((person, addresses.unwrap_or_default()));
    }
    let mut owners = HashMap::new();
    let most = asked.iter().map(|(_, all)| all.len()).max().unwrap_or(0);
    for at in 0..most {
        // One of each person's at a time: questions that go out together are answered together, and
        // a person who is found by one of them would be by all.
        let some = asked.iter().filter_map(|(_, all)| all.get(at));
        let some: Vec<Address> = some.cloned().collect();
        owners.extend(owners_of(directory, &some).await?);
    }
    for (person, addresses) in asked {
        for address in addresses {
            let found = owners.get(&address).map_or(&[][..], |all| all);
            let is_own = |object: &&Arc<Entry>| object.dn.eq_ignore_ascii_case(&person.dn);
            let is_found = found.iter().any(|object| is_own(&object));
            let others = found.iter().filter(|object| !is_own(object));
            let others: Vec<&str> = others.map(|object| object.dn.as_str()).collect();
            let problem = match (is_found, others.as_slice()) {
                (true, []) => continue,
                (true, others) => format!("mail finds {} by it as well", others.join(" and ")),
                (false, []) => "mail finds nobody by it".to_owned(),
                (false, others) => format!("mail finds only {} by it", others.join(" and ")),
            };
            person.address_problems.push(AddressProblem {
                address,
                is_lost: !is_found,
                problem,
            });
        }
    }
    Ok(())
}

/// What a text comes to; `None` where it is no target.
type Known = HashMap<String, Result<Resolution, String>>;

fn reached(resolution: &Resolution) -> impl Iterator<Item = &Address> {
    let reached = resolution.as_ref().map_or(&[][..], |all| &all.addresses);
    reached.iter().map(|one| &one.address)
}

/// Resolves all values that these people have and that are not known yet.
async fn learn(
    directory: &Directory,
    people: &[Objects],
    rules: &Rules,
    known: &mut Known,
) -> Result<(), Outage> {
    let mut asked: Vec<(String, Target)> = Vec::new();
    for object in people.iter().flat_map(|objects| objects.iter()) {
        for (_, value) in values(object, rules) {
            if known.contains_key(value) {
                continue;
            }
            match Target::parse(value) {
                Ok(target) => asked.push((value.to_owned(), target)),
                Err(error) => {
                    known.insert(value.to_owned(), Err(error.to_string()));
                }
            }
        }
    }
    let targets: Vec<Target> = asked.iter().map(|(_, target)| target.clone()).collect();
    let answers = directory.resolve(&targets).await;
    for (value, target) in asked {
        let Some(answer) = answers.get(&target) else {
            continue;
        };
        let resolution = answer.clone()?;
        known.insert(value, Ok(resolution));
    }
    Ok(())
}

/// The journal attributes of an object and their values, each pair once.
fn values<'a>(object: &'a Entry, rules: &'a Rules) -> Vec<(&'a str, &'a str)> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    for direction in Direction::ALL {
        for attribute in &rules.of(direction).journal_attributes {
            for value in object.values(attribute) {
                let pair = (attribute.as_str(), value);
                if !value.trim().is_empty() && !all.contains(&pair) {
                    all.push(pair);
                }
            }
        }
    }
    all
}

fn describe(objects: &Objects, addresses: &[String], rules: &Rules, known: &Known) -> Person {
    let own = objects.iter().find(|object| !object.inherited);
    let mut person = Person {
        dn: own.map(|object| object.dn.clone()).unwrap_or_default(),
        addresses: own
            .iter()
            .flat_map(|object| addresses.iter().flat_map(|name| object.values(name)))
            .map(str::to_owned)
            .collect(),
        exempt: (rules.exempt_attribute.as_deref())
            .is_some_and(|attribute| exempting_object(objects, attribute).is_some()),
        journal: Vec::new(),
        address_problems: Vec::new(),
    };
    for object in objects.iter() {
        for (attribute, value) in values(object, rules) {
            let counts = |direction: &Direction| {
                let of = &rules.of(*direction).journal_attributes;
                of.iter().any(|name| name == attribute)
            };
            let directions = Direction::ALL.into_iter().filter(counts);
            let (mut targets, mut not_reached) = (Vec::new(), None);
            let problem = match known.get(value) {
                Some(Ok(Ok(expansion))) => {
                    let reached = expansion.addresses.iter();
                    targets = reached.map(|one| one.address.clone()).collect();
                    not_reached = unreached(&expansion.members_without_address);
                    None
                }
                Some(Ok(Err(error))) => Some(error.to_string()),
                Some(Err(problem)) => Some(problem.clone()),
                None => Some("it was not looked up".to_owned()),
            };
            let outside = targets.iter();
            let outside = outside.filter(|address| !rules.organization.has(address));
            person.journal.push(Value {
                directions: directions.map(Direction::name).collect(),
                attribute: attribute.to_owned(),
                object: object.dn.clone(),
                value: value.to_owned(),
                outside: outside.cloned().collect(),
                targets,
                problem,
                unreached: not_reached,
            });
        }
    }
    person
}

/// Names the members of a group that get no copy; `None` if there are none.
fn unreached(members: &[String]) -> Option<String> {
    let first = members.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>();
    let further = match members.len() - first.len() {
        0 => String::new(),
        further => format!(" and {further} more"),
    };
    let count = members.len();
    (count > 0).then(|| format!("{count} without an address: {}{further}", first.join("; ")))
}

impl Summary {
    fn count(&mut self, person: &Person) {
        self.objects += 1;
        match (person.exempt, person.is_journaled()) {
            (true, _) => self.exempt += 1,
            (false, true) => self.journaled += 1,
            (false, false) => self.not_journaled += 1,
        }
        let lost = person.address_problems.iter().filter(|one| one.is_lost);
        let lost = lost.count() as u64;
        self.addresses_not_found += lost;
        self.addresses_shared += person.address_problems.len() as u64 - lost;
        for value in &person.journal {
            self.nobody_has.retain(|name| *name != value.attribute);
            self.values += 1;
            self.values_without_target += u64::from(value.problem.is_some());
            self.values_leading_not_to_all += u64::from(value.unreached.is_some());
            self.values_leading_outside += u64::from(!value.outside.is_empty());
        }
    }
}
