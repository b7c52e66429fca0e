//! `copyist coverage`: who is journaled where, and whose values lead nowhere.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::CoverageFormat;
use super::{Failure, load};
use crate::daemon;
use crate::directory::{Directory, Entry, Objects, Resolution, Target};
use crate::mail::Address;
use crate::policy::{self, Direction, Rules};

/// People whose targets are resolved at once.
const AT_ONCE: usize = 256;

/// One object with an address.
#[derive(Debug, Serialize)]
struct Person {
    dn: String,
    /// Its own addresses, as they stand in the directory.
    addresses: Vec<String>,
    /// Whether nothing is copied because of it.
    exempt: bool,
    journal: Vec<Value>,
}

/// One value of a journal attribute that counts for a person.
#[derive(Debug, Serialize)]
struct Value {
    directions: Vec<&'static str>,
    attribute: String,
    /// The object it stands in: the person's, or a group's or container's.
    object: String,
    value: String,
    /// Where it leads.
    targets: Vec<Address>,
    /// Those of them outside `organization.domains`.
    outside: Vec<Address>,
    /// Why it leads nowhere.
    problem: Option<String>,
}

/// What was seen in all.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Objects with an address.
    objects: u64,
    journaled: u64,
    not_journaled: u64,
    exempt: u64,
    values: u64,
    values_without_target: u64,
    values_leading_outside: u64,
    journal_addresses: usize,
    /// What all mail of a direction is journaled to, whoever is concerned.
    all_mail: HashMap<&'static str, Vec<String>>,
    seconds: f64,
}

pub(super) async fn coverage(
    config: &Path,
    format: CoverageFormat,
    problems: bool,
) -> Result<(), Failure> {
    let settings = load(config)?;
    let rules = settings.rules;
    let addresses = settings.directory.address_attributes.clone();
    let directory = Directory::open(settings.directory).map_err(Failure::failed)?;
    let known = daemon::read_domains(&directory, &rules.organization).await;
    known.map_err(Failure::failed)?;
    let begun = std::time::Instant::now();
    let style = ProgressStyle::with_template("{spinner} {pos} objects read ({per_sec}, {elapsed})");
    let bar = ProgressBar::new_spinner().with_style(style.map_err(Failure::failed)?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut out = Output {
        out: BufWriter::new(std::io::stdout().lock()),
        format,
        problems,
    };
    let mut summary = Summary::default();
    for direction in Direction::ALL {
        let all = rules.of(direction).journal.iter();
        let all: Vec<String> = all.map(ToString::to_string).collect();
        if !all.is_empty() {
            summary.all_mail.insert(direction.name(), all);
        }
    }
    let mut targets = HashMap::new();
    let mut everybody = directory.everybody();
    let mut some = Vec::new();
    out.begin()?;
    loop {
        let count = everybody.recv_many(&mut some, AT_ONCE).await;
        if count == 0 {
            break;
        }
        let entries: Result<Vec<_>, _> = some.drain(..).collect();
        let entries = entries.map_err(Failure::failed)?;
        let found = directory.with_inherited(entries).await;
        let found = found.map_err(Failure::failed)?;
        learn(&directory, &found, &rules, &mut targets).await?;
        for objects in &found {
            let person = describe(objects, &addresses, &rules, &targets);
            summary.count(&person);
            out.person(&person)?;
        }
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    let mut all: Vec<&Address> = targets.values().flatten().flat_map(reached).collect();
    all.sort_unstable();
    all.dedup();
    summary.journal_addresses = all.len();
    summary.seconds = begun.elapsed().as_secs_f64();
    out.end(&summary)?;
    directory.close().await;
    match summary.values_without_target {
        0 => Ok(()),
        n => Err(Failure::failed(format!(
            "{n} values of journal attributes lead nowhere; \"copyist coverage --problems\" lists them"
        ))),
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
) -> Result<(), Failure> {
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
        let resolution = answer.clone().map_err(Failure::failed)?;
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
                let pair = (attribute.as_str(), value.as_str());
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
            .cloned()
            .collect(),
        exempt: policy::is_exempt(objects, rules),
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
            self.values += 1;
            self.values_without_target += u64::from(value.problem.is_some());
            self.values_leading_outside += u64::from(!value.outside.is_empty());
        }
    }
}

/// Where the list goes.
struct Output<W: Write> {
    out: W,
    format: CoverageFormat,
    problems: bool,
}

impl<W: Write> Output<W> {
    fn begin(&mut self) -> Result<(), Failure> {
        match self.format {
            CoverageFormat::Csv => self.line(
                "dn,address,exempt,directions,attribute,object,value,targets,outside,problem",
            ),
            CoverageFormat::Text | CoverageFormat::Json => Ok(()),
        }
    }

    fn person(&mut self, person: &Person) -> Result<(), Failure> {
        if self.problems && person.journal.iter().all(|value| value.problem.is_none()) {
            return Ok(());
        }
        match self.format {
            CoverageFormat::Json => {
                let text = serde_json::to_string(person).map_err(Failure::failed)?;
                self.line(&text)
            }
            CoverageFormat::Csv => self.csv(person),
            CoverageFormat::Text => self.text(person),
        }
    }

    fn csv(&mut self, person: &Person) -> Result<(), Failure> {
        let address = person.addresses.first().map_or("", String::as_str);
        let exempt = person.exempt.to_string();
        let nothing = [""; 7];
        if person.journal.is_empty() {
            let row = [[&person.dn, address, &exempt].as_slice(), &nothing].concat();
            return self.line(&csv_row(&row));
        }
        for value in &person.journal {
            let row = [
                &person.dn,
                address,
                &exempt,
                &value.directions.join(" "),
                &value.attribute,
                &value.object,
                &value.value,
                &join(&value.targets),
                &join(&value.outside),
                value.problem.as_deref().unwrap_or_default(),
            ];
            self.line(&csv_row(&row))?;
        }
        Ok(())
    }

    fn text(&mut self, person: &Person) -> Result<(), Failure> {
        let address = person.addresses.first().map_or("", String::as_str);
        let exempt = if person.exempt { " (exempt)" } else { "" };
        if person.journal.is_empty() {
            return self.line(&format!("{address}{exempt}: not journaled"));
        }
        for value in &person.journal {
            let leads = match &value.problem {
                Some(problem) => format!("NOWHERE, {problem}"),
                None => join(&value.targets),
            };
            let (directions, attribute) = (value.directions.join(", "), &value.attribute);
            let of = match value.object == person.dn {
                true => String::new(),
                false => format!(" of {}", value.object),
            };
            let line = format!("{address}{exempt}: {directions} to {leads} ({attribute}{of})");
            self.line(&line)?;
        }
        Ok(())
    }

    fn end(&mut self, summary: &Summary) -> Result<(), Failure> {
        match self.format {
            CoverageFormat::Csv => {}
            CoverageFormat::Json => {
                let last = serde_json::json!({ "summary": summary });
                self.line(&last.to_string())?;
            }
            CoverageFormat::Text => {
                let Summary {
                    objects,
                    journaled,
                    not_journaled,
                    exempt,
                    values,
                    values_without_target,
                    values_leading_outside,
                    journal_addresses,
                    ..
                } = summary;
                for (direction, all) in &summary.all_mail {
                    self.line(&format!("all {direction} mail: to {}", all.join(", ")))?;
                }
                self.line(&format!(
                    "{objects} objects with addresses in {:.1} s: {journaled} journaled by attribute, {not_journaled} not, {exempt} exempt; \
                     {values} values lead to {journal_addresses} addresses, {values_leading_outside} of them outside, {values_without_target} nowhere",
                    summary.seconds
                ))?;
            }
        }
        gone_is_fine(self.out.flush())
    }

    fn line(&mut self, text: &str) -> Result<(), Failure> {
        gone_is_fine(writeln!(self.out, "{text}"))
    }
}

/// A reader that has gone away (`| head`) has read what it wanted.
fn gone_is_fine(written: std::io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Failure::failed),
    }
}

fn join(addresses: &[Address]) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    all.join(" ")
}

/// A row as RFC 4180 section 2 has it.
fn csv_row(fields: &[&str]) -> String {
    let fields = fields
        .iter()
        .map(|field| match field.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", field.replace('"', "\"\"")),
            false => (*field).to_owned(),
        });
    fields.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_with_a_comma_or_quotes_is_quoted() {
        assert_eq!(
            csv_row(&["CN=a,DC=b", "say \"hi\"", "x"]),
            "\"CN=a,DC=b\",\"say \"\"hi\"\"\",x"
        );
    }
}
