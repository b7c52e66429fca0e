//! Whose journal attributes had values when they were read last.
//!
//! Promises: a value that is gone though its object did not change is an outage for that person,
//! and goes on being one after a restart; one that was removed is said once, by name. What is kept
//! of a person are hashes: who is journaled cannot be read from the file.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use metrics::counter;
use tokio::sync::Notify;

use super::entry::{Entry, Outage};
use super::stamp::{Moved, Stamp, fingerprint};

/// People remembered.
const MOST: usize = 1_000_000;
/// Removed values, and hidden ones, that are remembered by name.
const MOST_NAMED: usize = 1000;
/// Lines in the file for each person, beside so many others, before it is written anew.
const LINES: usize = 4;
const LINES_BESIDE: usize = 10_000;
/// The first line of the file, before the attributes' names.
const HEAD: &str = "copyist people 1";

/// Somebody whose journal attribute lost its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoLongerJournaled {
    /// The distinguished name.
    pub dn: String,
    /// The attributes, by a comma.
    pub attribute: String,
    /// When that was noticed.
    pub when: SystemTime,
}

/// What is known of everybody.
#[derive(Debug)]
pub(super) struct People {
    /// The journal attributes; a record names them by their numbers.
    attributes: Vec<String>,
    known: Mutex<Known>,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Known {
    records: HashMap<u64, Record>,
    removed: VecDeque<NoLongerJournaled>,
    /// Whose values are hidden now, by the hashes of their names.
    hidden: HashMap<u64, String>,
    file: Option<PathBuf>,
    /// Lines that the file lacks.
    unwritten: String,
    /// Lines that the file has.
    lines: usize,
    /// Whether what the file has is of no use.
    is_void: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    /// One bit for each attribute that had a value.
    had: u64,
    stamp: Stamp,
}

impl People {
    /// Nobody is known so far. `news` hears of what is to be written.
    pub(super) fn new(attributes: &[String], news: Arc<Notify>) -> People {
        People {
            attributes: attributes.to_vec(),
            known: Mutex::default(),
            news,
        }
    }

    /// Takes over what a file has, and keeps what is learned from now on in it. Blocks.
    pub(super) fn keep_in(&self, file: &Path) -> io::Result<()> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut known = self.known();
        known.records = self.parse(&text);
        known.file = Some(file.to_owned());
        self.rewrite(&mut known)
    }

    /// Keeps what is learned from now on in a file, in the place of what it has.
    pub(super) fn begin_in(&self, file: &Path) {
        let mut known = self.known();
        known.file = Some(file.to_owned());
        known.is_void = true;
    }

    /// Forgets everybody: what is missing from now on is meant to be.
    pub(super) fn forget(&self) -> io::Result<()> {
        let mut known = self.known();
        known.records.clear();
        known.hidden.clear();
        self.rewrite(&mut known)
    }

    /// Writes what the file lacks. Blocks.
    pub(super) fn write(&self) -> io::Result<()> {
        let mut known = self.known();
        if known.unwritten.is_empty() {
            return Ok(());
        }
        known.lines += known.unwritten.lines().count();
        if known.is_void || known.lines > LINES * known.records.len() + LINES_BESIDE {
            return self.rewrite(&mut known);
        }
        let lines = std::mem::take(&mut known.unwritten);
        let Some(path) = &known.file else {
            return Ok(());
        };
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)?;
        file.write_all(lines.as_bytes())
    }

    /// Those whose values were removed lately, the last one first.
    pub(super) fn no_longer_journaled(&self) -> Vec<NoLongerJournaled> {
        self.known().removed.iter().rev().cloned().collect()
    }

    /// Whose values are hidden now.
    pub(super) fn hidden(&self) -> Vec<String> {
        let mut hidden: Vec<String> = self.known().hidden.values().cloned().collect();
        hidden.sort();
        hidden
    }

    /// Compares an object, read with all journal attributes and its stamp, with what it was; an
    /// outage where a value is hidden.
    pub(super) fn notice(&self, entry: &Entry) -> Option<Outage> {
        if self.attributes.is_empty() {
            return None;
        }
        let now = Record {
            had: self.bits(entry),
            stamp: entry.stamp,
        };
        let key = fingerprint(&entry.dn.to_lowercase());
        let mut known = self.known();
        let Some(before) = known.records.get(&key).copied() else {
            if now.had != 0 {
                self.learn(&mut known, key, now);
            }
            return None;
        };
        let lost = before.had & !now.had;
        if lost == 0 {
            known.hidden.remove(&key);
            if before != now {
                self.learn(&mut known, key, now);
            }
            return None;
        }
        let lost = self.names(lost);
        if now.stamp.moved_since(before.stamp) == Moved::No {
            self.news.notify_one();
            return Some(known.note_hidden(key, &entry.dn, &lost));
        }
        known.hidden.remove(&key);
        self.learn(&mut known, key, now);
        known.note_removed(&entry.dn, lost);
        None
    }

    fn learn(&self, known: &mut Known, key: u64, record: Record) {
        known.learn(key, record);
        self.news.notify_one();
    }

    fn bits(&self, entry: &Entry) -> u64 {
        let has = |name: &String| entry.values(name).any(|value| !value.trim().is_empty());
        let numbered = self.attributes.iter().take(64).enumerate();
        numbered
            .filter(|(_, name)| has(name))
            .fold(0, |bits, (number, _)| bits | 1 << number)
    }

    fn names(&self, bits: u64) -> String {
        let numbered = self.attributes.iter().take(64).enumerate();
        let named = numbered.filter(|(number, _)| bits & 1 << number != 0);
        named
            .map(|(_, name)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Records of attributes that are journal attributes no more are left out, as is a line that
    /// was not written to its end.
    fn parse(&self, text: &str) -> HashMap<u64, Record> {
        let mut records = HashMap::new();
        let mut lines = text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'));
        let mut head = lines.next().unwrap_or_default().split('\t');
        if head.next() != Some(HEAD) {
            return records;
        }
        let places: Vec<Option<usize>> = head
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
            let Some([key, had, origin, exact, time]) = numbers.as_deref() else {
                continue;
            };
            let had = places
                .iter()
                .enumerate()
                .fold(0, |bits, (old, new)| match new {
                    Some(new) if had & 1 << old != 0 => bits | 1 << new,
                    _ => bits,
                });
            let stamp = Stamp {
                origin: *origin,
                exact: *exact,
                time: *time,
            };
            match had {
                0 => records.remove(key),
                had => records.insert(*key, Record { had, stamp }),
            };
        }
        records
    }

    fn rewrite(&self, known: &mut Known) -> io::Result<()> {
        known.unwritten.clear();
        known.is_void = false;
        known.lines = known.records.len();
        let Some(path) = &known.file else {
            return Ok(());
        };
        let mut text = HEAD.to_owned();
        for name in &self.attributes {
            let _ = write!(text, "\t{name}");
        }
        text.push('\n');
        for (key, record) in &known.records {
            push_line(&mut text, *key, *record);
        }
        replace(path, &text)
    }

    // A panic while the lock is held leaves records that are still right.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn learn(&mut self, key: u64, record: Record) {
        if record.had == 0 {
            self.records.remove(&key);
        } else {
            if self.records.len() >= MOST
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

    fn note_hidden(&mut self, key: u64, dn: &str, attribute: &str) -> Outage {
        let outage = Outage::new(format!(
            "{dn} shows no {attribute} any more though the object did not change: grant the account read access to it (if it is meant: copyist directory accept-empty)"
        ));
        if self.hidden.len() < MOST_NAMED && self.hidden.insert(key, dn.to_owned()).is_none() {
            tracing::error!(
                dn,
                "the value of {attribute} vanished although the object did not change (an ACL?): mail of this person is deferred until the account may read it again, or somebody runs \"copyist directory accept-empty\""
            );
        }
        outage
    }

    fn note_removed(&mut self, dn: &str, attribute: String) {
        counter!("copyist_directory_no_longer_journaled_total").increment(1);
        tracing::warn!("no longer journaled: {dn} ({attribute})");
        if self.removed.len() >= MOST_NAMED {
            self.removed.pop_front();
        }
        self.removed.push_back(NoLongerJournaled {
            dn: dn.to_owned(),
            attribute,
            when: SystemTime::now(),
        });
    }
}

fn push_line(text: &mut String, key: u64, record: Record) {
    let Record { had, stamp } = record;
    let Stamp {
        origin,
        exact,
        time,
    } = stamp;
    let _ = writeln!(text, "{key:x} {had:x} {origin:x} {exact:x} {time:x}");
}

/// Puts a file in the place of another at one stroke.
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

    fn people() -> People {
        People::new(&["other".into(), "Journal".into()], Arc::default())
    }

    #[test]
    fn a_value_that_vanishes_from_an_unchanged_object_is_an_outage() {
        let people = people();
        assert_eq!(people.notice(&entry("cn=dan", "j@b", "1")), None);
        let outage = people.notice(&entry("CN=Dan", "", "1")).expect("an outage");
        assert!(outage.reason.contains("CN=Dan"), "{outage}");
        assert_eq!(people.hidden(), ["CN=Dan"]);
        assert_eq!(people.notice(&entry("cn=dan", "j@b", "1")), None);
        assert!(people.hidden().is_empty() && people.no_longer_journaled().is_empty());
    }

    #[test]
    fn a_value_that_was_removed_is_said_once() {
        let people = people();
        people.notice(&entry("cn=dan", "j@b", "1"));
        for csn in ["2", "2", "3"] {
            assert_eq!(people.notice(&entry("cn=dan", "", csn)), None);
        }
        let removed = people.no_longer_journaled();
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
        people.keep_in(&file).expect("it is ours");
        for round in 0..2 * LINES_BESIDE {
            people.notice(&entry("cn=dan", "j@b", &round.to_string()));
            if round % 1000 == 0 {
                people.write().expect("it is ours");
            }
        }
        people.write().expect("it is ours");
        let text = std::fs::read_to_string(&file).expect("written");
        assert!(text.lines().count() < LINES_BESIDE + 2000);
    }

    #[test]
    fn what_is_known_survives_a_restart_and_other_settings() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("people");
        let first = people();
        first.keep_in(&file).expect("it is ours");
        for dn in ["cn=dan", "cn=eve", "cn=bob"] {
            first.notice(&entry(dn, "j@b", "1"));
        }
        first.notice(&entry("cn=eve", "", "2"));
        first.write().expect("it is ours");
        let mut text = std::fs::read_to_string(&file).expect("written");
        text.push_str("ffff 1 0");
        std::fs::write(&file, text).expect("it is ours");
        let second = People::new(&["journal".into()], Arc::default());
        second.keep_in(&file).expect("it is ours");
        assert!(second.notice(&entry("cn=dan", "", "1")).is_some());
        assert_eq!(second.notice(&entry("cn=eve", "", "2")), None);
        second.forget().expect("it is ours");
        assert_eq!(second.notice(&entry("cn=bob", "", "1")), None);
        let third = People::new(&["journal".into()], Arc::default());
        third.keep_in(&file).expect("it is ours");
        assert_eq!(third.notice(&entry("cn=dan", "", "1")), None);
        assert!(third.no_longer_journaled().is_empty());
    }
}
