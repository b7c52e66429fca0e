//! `copyist coverage`: journal addresses of all people, and values that do not resolve.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::CoverageFormat;
use super::{Failure, load, plain_json};
use crate::daemon;
use crate::mail::{Address, escape_for_display};
use crate::survey::{Coverage, Person, Summary};

pub(super) async fn coverage(
    config: &Path,
    format: CoverageFormat,
    problems: bool,
) -> Result<(), Failure> {
    let settings = load(config)?;
    let rules = &settings.rules;
    let addresses = &settings.directory.address_attributes;
    let identities = daemon::open_identities(&settings).map_err(Failure::failed)?;
    let directory = identities.directory();
    let known = daemon::read_domains(directory, &rules.organization).await;
    known.map_err(Failure::failed)?;
    let style = ProgressStyle::with_template("{spinner} {pos} objects read ({per_sec}, {elapsed})");
    let bar = ProgressBar::new_spinner().with_style(style.map_err(Failure::failed)?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut out = Output {
        out: BufWriter::new(std::io::stdout().lock()),
        format,
        problems,
    };
    let mut reading = Coverage::begin(directory, addresses, rules);
    out.begin()?;
    loop {
        let people = reading.next().await.map_err(Failure::failed)?;
        if people.is_empty() {
            break;
        }
        for person in &people {
            out.person(person)?;
        }
        bar.inc(people.len() as u64);
    }
    bar.finish_and_clear();
    // A directory outage would have ended the scan already.
    let guarded = daemon::guarded_mailboxes(&identities, rules).await.ok();
    let summary = reading.end(guarded.as_ref());
    out.end(&summary)?;
    directory.close().await;
    match summary.values_without_target {
        0 if summary.addresses_not_found > 0 => Err(Failure::failed(format!(
            "{} addresses of journaled people are not found by mail lookups; see \"copyist coverage --problems\"",
            summary.addresses_not_found
        ))),
        0 if !summary.nobody_has.is_empty() => Err(Failure::failed(format!(
            "no object has {}: check its name and the account's rights with \"copyist check --online\"",
            summary.nobody_has.join(", ")
        ))),
        0 => Ok(()),
        n => Err(Failure::failed(format!(
            "{n} values of journal attributes do not resolve; see \"copyist coverage --problems\""
        ))),
    }
}

/// The most unguarded mailboxes listed one by one.
const MOST_NAMED: usize = 20;

/// The output stream.
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
        if self.problems && !person.has_problem() {
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
            let without = value.unreached.as_deref();
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
                value.problem.as_deref().or(without).unwrap_or_default(),
            ];
            self.line(&csv_row(&row))?;
        }
        for one in &person.address_problems {
            let address = one.address.to_string();
            let nothing = [""; 6];
            let row = [person.dn.as_str(), &address, &exempt];
            self.line(&csv_row(&[&row[..], &nothing, &[&one.problem]].concat()))?;
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
            let resolved = match &value.problem {
                Some(problem) => format!("UNRESOLVED: {problem}"),
                None => join(&value.targets),
            };
            let (directions, attribute) = (value.directions.join(", "), &value.attribute);
            let of = match value.object == person.dn {
                true => String::new(),
                false => format!(" of {}", value.object),
            };
            let without = value.unreached.iter();
            let without: String = without.map(|members| format!(", but {members}")).collect();
            let line =
                format!("{address}{exempt}: {directions} to {resolved}{without} ({attribute}{of})");
            self.line(&line)?;
        }
        for one in &person.address_problems {
            self.line(&format!("{}: {} ({})", one.address, one.problem, person.dn))?;
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
                    values_leading_not_to_all,
                    values_leading_outside,
                    journal_addresses,
                    addresses_not_found,
                    addresses_shared,
                    persons_not_guarded,
                    ..
                } = summary;
                for one in persons_not_guarded.iter().take(MOST_NAMED) {
                    self.line(&format!("{}: {}", one.address, one.remark()))?;
                }
                if let Some(why) = &summary.guard_incomplete {
                    self.line(&format!("journal guard incomplete: {why}"))?;
                }
                for (direction, all) in &summary.all_mail {
                    self.line(&format!("all {direction} mail: to {}", all.join(", ")))?;
                }
                self.line(&format!(
                    "{objects} objects with addresses in {:.1} s: {journaled} journaled by attribute, {not_journaled} not, {exempt} exempt; \
                     {values} values resolve to {journal_addresses} addresses, {values_leading_outside} outside journal_domains, {values_leading_not_to_all} with group members without an address, {values_without_target} unresolved; \
                     {addresses_not_found} addresses of journaled people not found by mail lookups, {addresses_shared} shared by several objects; \
                     {} unguarded personal mailboxes",
                    summary.seconds,
                    persons_not_guarded.len()
                ))?;
            }
        }
        ignore_broken_pipe(self.out.flush())
    }

    fn line(&mut self, text: &str) -> Result<(), Failure> {
        let text = match self.format {
            CoverageFormat::Json => plain_json(text).into(),
            CoverageFormat::Text | CoverageFormat::Csv => escape_for_display(text),
        };
        ignore_broken_pipe(writeln!(self.out, "{text}"))
    }
}

/// Exits quietly if the reader closed the pipe (`| head`).
fn ignore_broken_pipe(written: std::io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Failure::failed),
    }
}

fn join(addresses: &[Address]) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    all.join(" ")
}

/// Formats a CSV row (RFC 4180 section 2). A field that spreadsheets would evaluate as a formula gets
/// a leading apostrophe.
fn csv_row(fields: &[&str]) -> String {
    let fields = fields.iter().map(|field| {
        let is_formula = field.trim_start().starts_with(FORMULA);
        let mark = if is_formula { "'" } else { "" };
        match field.contains([',', '"', '\n', '\r']) {
            true => format!("\"{mark}{}\"", field.replace('"', "\"\"")),
            false => format!("{mark}{field}"),
        }
    });
    fields.collect::<Vec<_>>().join(",")
}

/// First characters of formulas, including their full-width forms.
const FORMULA: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_a_formula() {
        let fields = ["=1+1", " @x", "+49,1", "－1", "a=b", "'x"];
        assert_eq!(csv_row(&fields), "'=1+1,' @x,\"'+49,1\",'－1,a=b,'x");
    }

    #[test]
    fn a_field_with_a_comma_or_quotes_is_quoted() {
        assert_eq!(
            csv_row(&["CN=a,DC=b", "say \"hi\"", "x"]),
            "\"CN=a,DC=b\",\"say \"\"hi\"\"\",x"
        );
    }
}
