//! Who is journaled where by attribute, and whose values lead nowhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::directory::{Directory, Entry, Objects, Outage, Resolution, Target};
use crate::identity::exempting;
use crate::mail::Address;
use crate::policy::{Direction, Rules};

/// People whose targets are resolved at once.
const AT_ONCE: usize = 256;

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
    /// Those that lead out of `organization.domains`.
    pub values_leading_outside: u64,
    /// Different addresses that they lead to.
    pub journal_addresses: usize,
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
            everybody: directory.everybody(),
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
        let people = found.iter().map(|objects| {
            let person = describe(objects, self.addresses, self.rules, &self.targets);
            self.summary.count(&person);
            person
        });
        Ok(people.collect())
    }

    /// What was seen in all.
    pub fn end(mut self) -> Summary {
        let mut all: Vec<&Address> = self.targets.values().flatten().flat_map(reached).collect();
        all.sort_unstable();
        all.dedup();
        self.summary.journal_addresses = all.len();
        self.summary.seconds = self.begun.elapsed().as_secs_f64();
        self.summary
    }
}

/// What a text comes to; `None` where it is no target.
type Known = HashMap<String, Result<Resolution, String>>;

fn reached(resolution: &Resolution) -> impl Iterator<Item = &Address> {
    let reached = resolution.as_ref().map_or(&[][..], |all| all);
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
            .is_some_and(|attribute| exempting(objects, attribute).is_some()),
        journal: Vec::new(),
    };
    for object in objects.iter() {
        for (attribute, value) in values(object, rules) {
            let counts = |direction: &Direction| {
                let of = &rules.of(*direction).journal_attributes;
                of.iter().any(|name| name == attribute)
            };
            let directions = Direction::ALL.into_iter().filter(counts);
            let (targets, problem): (Vec<Address>, _) = match known.get(value) {
                Some(Ok(Ok(all))) => (all.iter().map(|one| one.address.clone()).collect(), None),
                Some(Ok(Err(error))) => (Vec::new(), Some(error.to_string())),
                Some(Err(problem)) => (Vec::new(), Some(problem.clone())),
                None => (Vec::new(), Some("it was not looked up".to_owned())),
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
            });
        }
    }
    person
}

impl Summary {
    fn count(&mut self, person: &Person) {
        self.objects += 1;
        let is_journaled = person.journal.iter().any(|value| !value.targets.is_empty());
        match (person.exempt, is_journaled) {
            (true, _) => self.exempt += 1,
            (false, true) => self.journaled += 1,
            (false, false) => self.not_journaled += 1,
        }
        for value in &person.journal {
            self.nobody_has.retain(|name| *name != value.attribute);
            self.values += 1;
            self.values_without_target += u64::from(value.problem.is_some());
            self.values_leading_outside += u64::from(!value.outside.is_empty());
        }
    }
}
