//! Whether every message has the reports that it must have, and no others.

use std::collections::{HashMap, HashSet};

use super::traffic::{Attempt, Outcome};
use super::{Report, SmtpSink};

/// The arrived reports and messages, by the Message-ID of the message.
#[derive(Default)]
pub struct Books {
    /// How often each report of it arrived, by the report's own Message-ID.
    reports: HashMap<String, HashMap<String, usize>>,
    /// The messages that reached their recipients.
    mail: HashSet<String>,
    /// Reports that are about no message.
    strange: Vec<String>,
}

/// The balance of all attempts.
#[derive(Debug, Default)]
pub struct Account {
    /// Tries that were accepted.
    pub accepted: usize,
    /// Those of them that must have a report.
    pub expected: usize,
    /// Accepted, must have a report, without any: the loss that must not be.
    pub lost: Vec<String>,
    /// Accepted, with more than one report after duplicates were taken out.
    pub doubled: Vec<String>,
    /// With a report although its recipient is not journaled.
    pub unasked: Vec<String>,
    /// Delivered to a journaled recipient without a report.
    pub unjournaled: Vec<String>,
    /// Accepted, and never delivered.
    pub undelivered: Vec<String>,
    /// Reports that are about no try, or about none that can be read.
    pub strange: Vec<String>,
    /// Reports that arrived once more, with the same Message-ID.
    pub duplicates: usize,
    /// Tries with a report that were not accepted, as far as the client knows: answered with 4xx,
    /// or not at all.
    pub phantoms: (usize, usize),
}

impl Books {
    /// Enters the reports that a relay has got; they are removed from it.
    pub fn enter_reports(&mut self, relay: &SmtpSink) -> usize {
        relay.harvest(
            |text| Report::read(text).is_whole,
            |text| {
                let report = Report::read(text);
                if report.about.is_empty() || report.message_id.is_empty() {
                    self.strange.push(report.text.chars().take(2000).collect());
                }
                *(self.reports.entry(report.about).or_default())
                    .entry(report.message_id)
                    .or_default() += 1;
            },
        )
    }

    /// Enters the mail that was delivered; it is removed from the sink.
    pub fn enter_mail(&mut self, sink: &SmtpSink) -> usize {
        let id = |text: &str| {
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("Message-ID: "));
            id.map(str::to_owned)
        };
        // The last line of every message of the traffic; smtp-sink may still be writing it.
        let is_whole = |text: &str| text.ends_with("xx\n\n") || text.ends_with("xx\n");
        sink.harvest(is_whole, |text| self.mail.extend(id(text)))
    }

    /// How many different messages have reached their recipients.
    pub fn delivered(&self) -> usize {
        self.mail.len()
    }

    /// How many messages have a report.
    pub fn reported(&self) -> usize {
        self.reports.len()
    }

    /// Compares them with what was tried.
    pub fn close(mut self, tries: &[Attempt]) -> Account {
        let mut account = Account {
            strange: std::mem::take(&mut self.strange),
            ..Account::default()
        };
        let (reports, mail) = (&mut self.reports, &self.mail);
        for one in tries {
            let copies = reports.remove(&one.id).unwrap_or_default();
            account.duplicates += copies.values().map(|count| count - 1).sum::<usize>();
            let note = |list: &mut Vec<String>, is_so: bool| {
                list.extend(is_so.then(|| one.id.clone()));
            };
            let is_accepted = one.outcome == Outcome::Accepted;
            let is_expected = is_accepted && one.is_journaled;
            account.accepted += usize::from(is_accepted);
            account.expected += usize::from(is_expected);
            note(&mut account.lost, is_expected && copies.is_empty());
            note(&mut account.doubled, copies.len() > 1);
            note(
                &mut account.unasked,
                !one.is_journaled && !copies.is_empty(),
            );
            let arrived = mail.contains(&one.id);
            note(
                &mut account.unjournaled,
                arrived && one.is_journaled && copies.is_empty(),
            );
            note(&mut account.undelivered, is_accepted && !arrived);
            let is_phantom = !is_accepted && !copies.is_empty();
            let (deferred, unknown) = &mut account.phantoms;
            *deferred += usize::from(is_phantom && one.outcome == Outcome::Deferred);
            *unknown += usize::from(is_phantom && one.outcome == Outcome::Unknown);
        }
        account.strange.extend(self.reports.into_keys());
        account
    }
}

impl Account {
    /// Prints the figures.
    pub fn print(&self) {
        println!(
            "accepted {}, expected reports {}; lost {}, with two reports {}, unasked {}, delivered without a report {}, \
             accepted and not delivered {}, strange {}",
            self.accepted,
            self.expected,
            self.lost.len(),
            self.doubled.len(),
            self.unasked.len(),
            self.unjournaled.len(),
            self.undelivered.len(),
            self.strange.len(),
        );
        println!(
            "duplicates with the same Message-ID {} ({:.2} % of the reports expected); phantoms: {} of tries that were \
             answered with 4xx or cut off, {} of tries whose answer was lost",
            self.duplicates,
            100.0 * self.duplicates as f64 / self.expected.max(1) as f64,
            self.phantoms.0,
            self.phantoms.1,
        );
    }

    /// Panics where anything is lost or there that must not be.
    pub fn assert_complete(&self) {
        for (what, list) in [
            ("lost", &self.lost),
            ("with more than one report", &self.doubled),
            ("with a report that nobody asked for", &self.unasked),
            ("delivered without a report", &self.unjournaled),
            ("accepted and not delivered", &self.undelivered),
            ("strange reports", &self.strange),
        ] {
            assert!(list.is_empty(), "{what}: {list:?}");
        }
    }
}
