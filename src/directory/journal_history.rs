//! The history of journal attributes: which objects had values when they were last read.
//!
//! Promises: a value that vanishes although its object did not change is an outage for that person,
//! also after a restart; a removed value is logged once, by name. Only hashes are stored: the file
//! does not show who is journaled.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use metrics::counter;
use tokio::sync::Notify;

use super::entry::{Entry, Outage};
use super::stamp::{Stamp, StampComparison, fingerprint};

/// Maximum number of objects in the history.
const MAX_OBJECTS: usize = 1_000_000;
/// Maximum number of removed and of hidden values listed by name.
const MAX_LISTED: usize = 1000;
/// The file is rewritten when it has more lines than this for each record, plus the spare ones.
const LINES_PER_RECORD: usize = 4;
const SPARE_LINES: usize = 10_000;
/// Start of the file's first line, before the attribute names.
const HEADER: &str = "copyist people 1";

/// A journal attribute removed from an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedJournalAttribute {
    /// The distinguished name.
    pub dn: String,
    /// The attributes, separated by commas.
    pub attribute: String,
    /// Time of the detection.
    pub when: SystemTime,
}

/// The history of all objects.
#[derive(Debug)]
pub(super) struct JournalHistory {
    /// The journal attributes; records refer to them by number.
    attributes: Vec<String>,
    state: Mutex<HistoryState>,
    wake_writer: Arc<Notify>,
}

#[derive(Debug, Default)]
struct HistoryState {
    records: HashMap<u64, HistoryRecord>,
    removed: VecDeque<RemovedJournalAttribute>,
    /// DNs of objects with hidden values, by hash.
    hidden_dns: HashMap<u64, String>,
    file: Option<PathBuf>,
    /// Lines to append to the file.
    unwritten: String,
    /// Number of lines in the file.
    lines: usize,
    /// Whether the file's content is obsolete.
    is_void: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HistoryRecord {
    /// One bit for each attribute with a value.
    present: u64,
    stamp: Stamp,
}

impl JournalHistory {
    /// Creates an empty history. `wake_writer` is notified of unwritten changes.
    pub(super) fn new(attributes: &[String], wake_writer: Arc<Notify>) -> JournalHistory {
        JournalHistory {
            attributes: attributes.to_vec(),
            state: Mutex::default(),
            wake_writer,
        }
    }

    /// Loads a file, and stores later changes in it. Blocks.
    pub(super) fn persist_in(&self, file: &Path) -> io::Result<()> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut state = self.state();
        state.records = self.parse(&text);
        state.file = Some(file.to_owned());
        self.rewrite(&mut state)
    }

    /// Stores later changes in a file, replacing its content.
    pub(super) fn start_file(&self, file: &Path) {
        let mut state = self.state();
        state.file = Some(file.to_owned());
        state.is_void = true;
    }

    /// Clears the history: what is missing from now on is intended.
    pub(super) fn clear(&self) -> io::Result<()> {
        let mut state = self.state();
        state.records.clear();
        state.hidden_dns.clear();
        self.rewrite(&mut state)
    }

    /// Appends unwritten changes to the file. Blocks.
    pub(super) fn save(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.unwritten.is_empty() {
            return Ok(());
        }
        state.lines += state.unwritten.lines().count();
        if state.is_void || state.lines > LINES_PER_RECORD * state.records.len() + SPARE_LINES {
            return self.rewrite(&mut state);
        }
        let lines = std::mem::take(&mut state.unwritten);
        let Some(path) = &state.file else {
            return Ok(());
        };
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)?;
        file.write_all(lines.as_bytes())
    }

    /// Returns recently removed journal attributes, the latest first.
    pub(super) fn removed_journal_attributes(&self) -> Vec<RemovedJournalAttribute> {
        self.state().removed.iter().rev().cloned().collect()
    }

    /// Returns the DNs of objects with hidden values.
    pub(super) fn hidden_dns(&self) -> Vec<String> {
        let mut hidden_dns: Vec<String> = self.state().hidden_dns.values().cloned().collect();
        hidden_dns.sort();
        hidden_dns
    }

    /// Compares an object, read with all journal attributes and its stamp, with its history.
    /// Returns an outage if a value is hidden.
    pub(super) fn check(&self, entry: &Entry) -> Option<Outage> {
        if self.attributes.is_empty() {
            return None;
        }
        let now = HistoryRecord {
            present: self.bits(entry),
            stamp: entry.stamp,
        };
        let key = fingerprint(&entry.dn.to_lowercase());
        let mut state = self.state();
        let Some(before) = state.records.get(&key).copied() else {
            if now.present != 0 {
                self.record(&mut state, key, now);
            }
            return None;
        };
        let lost = before.present & !now.present;
        if lost == 0 {
            state.hidden_dns.remove(&key);
            if before != now {
                self.record(&mut state, key, now);
            }
            return None;
        }
        let lost = self.attribute_names(lost);
        if now.stamp.compare_with(before.stamp) == StampComparison::Unchanged {
            self.wake_writer.notify_one();
            return Some(state.record_hidden(key, &entry.dn, &lost));
        }
        state.hidden_dns.remove(&key);
        self.record(&mut state, key, now);
        state.record_removed(&entry.dn, lost);
        None
    }

    fn record(&self, state: &mut HistoryState, key: u64, record: HistoryRecord) {
        state.record(key, record);
        self.wake_writer.notify_one();
    }

    fn bits(&self, entry: &Entry) -> u64 {
        let has = |name: &String| entry.values(name).any(|value| !value.trim().is_empty());
        let numbered = self.attributes.iter().take(64).enumerate();
        numbered
            .filter(|(_, name)| has(name))
            .fold(0, |bits, (number, _)| bits | 1 << number)
    }

    fn attribute_names(&self, bits: u64) -> String {
        let numbered = self.attributes.iter().take(64).enumerate();
        let named = numbered.filter(|(number, _)| bits & 1 << number != 0);
        named
            .map(|(_, name)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Parses the file. Attributes that are no longer journal attributes, and an incomplete last
    /// line, are left out.
    fn parse(&self, text: &str) -> HashMap<u64, HistoryRecord> {
        let mut records = HashMap::new();
        let mut lines = text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'));
        let mut header = lines.next().unwrap_or_default().split('\t');
        if header.next() != Some(HEADER) {
            return records;
        }
        let positions: Vec<Option<usize>> = header
            .map(|old| {
                self.attributes
                    .iter()
                    .take(64)
                    .position(|name| name.eq_ignore_ascii_case(old))
            })
            .collect();
        for line in lines {
            let numbers: Option<Vec<u64>> = line
                .split(' ')
                .map(|word| u64::from_str_radix(word, 16).ok())
                .collect();
            let Some([key, present, origin, exact, time]) = numbers.as_deref() else {
                continue;
            };
            let present = positions
                .iter()
                .enumerate()
                .fold(0, |bits, (old, new)| match new {
                    Some(new) if present & 1 << old != 0 => bits | 1 << new,
                    _ => bits,
                });
            let stamp = Stamp {
                origin: *origin,
                exact: *exact,
                time: *time,
            };
            match present {
                0 => records.remove(key),
                present => records.insert(*key, HistoryRecord { present, stamp }),
            };
        }
        records
    }

    fn rewrite(&self, state: &mut HistoryState) -> io::Result<()> {
        state.unwritten.clear();
        state.is_void = false;
        state.lines = state.records.len();
        let Some(path) = &state.file else {
            return Ok(());
        };
        let mut text = HEADER.to_owned();
        for name in &self.attributes {
            let _ = write!(text, "\t{name}");
        }
        text.push('\n');
        for (key, record) in &state.records {
            push_line(&mut text, *key, *record);
        }
        replace(path, &text)
    }

    // A panic while the lock is held leaves consistent records.
    fn state(&self) -> MutexGuard<'_, HistoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HistoryState {
    fn record(&mut self, key: u64, record: HistoryRecord) {
        if record.present == 0 {
            self.records.remove(&key);
        } else {
            if self.records.len() >= MAX_OBJECTS
                && !self.records.contains_key(&key)
                && let Some(other) = self.records.keys().next().copied()
            {
                self.records.remove(&other);
            }
            self.records.insert(key, record);
        }
        if self.file.is_some() {
            push_line(&mut self.unwritten, key, record);
        }
    }

    fn record_hidden(&mut self, key: u64, dn: &str, attribute: &str) -> Outage {
        let outage = Outage::new(format!(
            "{dn} no longer shows {attribute} although the object did not change: grant the account read access (if intended, run: copyist directory accept-empty)"
        ));
        if self.hidden_dns.len() < MAX_LISTED
            && self.hidden_dns.insert(key, dn.to_owned()).is_none()
        {
            tracing::error!(
                dn,
                "the value of {attribute} vanished although the object did not change (an ACL?): mail of this person is deferred until the account may read it again, or you run \"copyist directory accept-empty\""
            );
        }
        outage
    }

    fn record_removed(&mut self, dn: &str, attribute: String) {
        counter!("copyist_directory_no_longer_journaled_total").increment(1);
        tracing::warn!("no longer journaled: {dn} ({attribute})");
        if self.removed.len() >= MAX_LISTED {
            self.removed.pop_front();
        }
        self.removed.push_back(RemovedJournalAttribute {
            dn: dn.to_owned(),
            attribute,
            when: SystemTime::now(),
        });
    }
}

fn push_line(text: &mut String, key: u64, record: HistoryRecord) {
    let HistoryRecord { present, stamp } = record;
    let Stamp {
        origin,
        exact,
        time,
    } = stamp;
    let _ = writeln!(text, "{key:x} {present:x} {origin:x} {exact:x} {time:x}");
}

/// Replaces a file atomically.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dn: &str, journal: &str, csn: &str) -> Entry {
        let mut attributes = vec![("entryCSN".to_owned(), vec![csn.to_owned()])];
        let stamp = Stamp::take(&mut attributes, &[], "x");
        let values = [("journal".to_owned(), vec![journal.to_owned()])];
        let values = values.into_iter().filter(|_| !journal.is_empty());
        Entry::new(dn, values).with_stamp(stamp)
    }

    fn people() -> JournalHistory {
        JournalHistory::new(&["other".into(), "Journal".into()], Arc::default())
    }

    #[test]
    fn a_value_that_vanishes_from_an_unchanged_object_is_an_outage() {
        let people = people();
        assert_eq!(people.check(&entry("cn=dan", "j@b", "1")), None);
        let outage = people.check(&entry("CN=Dan", "", "1")).expect("an outage");
        assert!(outage.reason.contains("CN=Dan"), "{outage}");
        assert_eq!(people.hidden_dns(), ["CN=Dan"]);
        assert_eq!(people.check(&entry("cn=dan", "j@b", "1")), None);
        assert!(people.hidden_dns().is_empty() && people.removed_journal_attributes().is_empty());
    }

    #[test]
    fn a_value_that_was_removed_is_said_once() {
        let people = people();
        people.check(&entry("cn=dan", "j@b", "1"));
        for csn in ["2", "2", "3"] {
            assert_eq!(people.check(&entry("cn=dan", "", csn)), None);
        }
        let removed = people.removed_journal_attributes();
        assert_eq!(removed.len(), 1, "{removed:?}");
        assert_eq!(
            (&*removed[0].dn, &*removed[0].attribute),
            ("cn=dan", "Journal")
        );
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("people");
        let people = people();
        people.persist_in(&file).expect("it is ours");
        for round in 0..2 * SPARE_LINES {
            people.check(&entry("cn=dan", "j@b", &round.to_string()));
            if round % 1000 == 0 {
                people.save().expect("it is ours");
            }
        }
        people.save().expect("it is ours");
        let text = std::fs::read_to_string(&file).expect("written");
        assert!(text.lines().count() < SPARE_LINES + 2000);
    }

    #[test]
    fn journal_history_survives_restarts_and_changed_settings() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("people");
        let first = people();
        first.persist_in(&file).expect("it is ours");
        for dn in ["cn=dan", "cn=eve", "cn=bob"] {
            first.check(&entry(dn, "j@b", "1"));
        }
        first.check(&entry("cn=eve", "", "2"));
        first.save().expect("it is ours");
        let mut text = std::fs::read_to_string(&file).expect("written");
        text.push_str("ffff 1 0");
        std::fs::write(&file, text).expect("it is ours");
        let second = JournalHistory::new(&["journal".into()], Arc::default());
        second.persist_in(&file).expect("it is ours");
        assert!(second.check(&entry("cn=dan", "", "1")).is_some());
        assert_eq!(second.check(&entry("cn=eve", "", "2")), None);
        second.clear().expect("it is ours");
        assert_eq!(second.check(&entry("cn=bob", "", "1")), None);
        let third = JournalHistory::new(&["journal".into()], Arc::default());
        third.persist_in(&file).expect("it is ours");
        assert_eq!(third.check(&entry("cn=dan", "", "1")), None);
        assert!(third.removed_journal_attributes().is_empty());
    }
}
