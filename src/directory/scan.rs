//! The result of scanning the whole directory: addresses in forms that no usual filter finds, and
//! all journal values.
//!
//! Promises: bounded memory; while a scan runs, the last result stays in use; changes that the feed
//! reports during a scan are in its result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ldap3::ldap_escape;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::attributes::{Attributes, ValueForm};
use super::entry::Entry;

/// Maximum number of values in unusual forms, in total and for one key.
const MAX_UNUSUAL: usize = 100_000;
const MAX_PER_KEY: usize = 50;
/// Maximum number of distinct journal values.
const MAX_JOURNAL: usize = 200_000;
/// Number of values from the change feed that are kept in a list of their own.
const MAX_ADDED: usize = 1000;

/// A value of a journal attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalValue {
    /// The value as in the directory.
    pub value: String,
    /// The DN of one of the objects with this value.
    pub holder: String,
    /// The number of objects with this value at the time of the scan.
    pub holders: u64,
}

/// All distinct values of the journal attributes. A value without objects disappears at the next
/// scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalValues {
    read: Arc<[JournalValue]>,
    /// Values from the change feed since the scan.
    added: Vec<JournalValue>,
    incomplete: Option<String>,
}

impl JournalValues {
    /// Returns the values, each once.
    pub fn iter(&self) -> impl Iterator<Item = &JournalValue> {
        self.read.iter().chain(&self.added)
    }

    /// Returns why values may be missing; `None` if none are.
    pub fn incomplete(&self) -> Option<&str> {
        self.incomplete.as_deref()
    }

    fn with_added(&self, new: Vec<JournalValue>) -> JournalValues {
        let mut all = self.clone();
        all.added.extend(new);
        if all.added.len() > MAX_ADDED {
            all.read = all.iter().cloned().collect();
            all.added.clear();
        }
        all
    }
}

/// A value in an unusual form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnusualValue {
    pub(super) attribute: Arc<str>,
    text: Arc<str>,
}

impl UnusualValue {
    /// Returns the filter that finds the objects with this value.
    pub(super) fn term(&self) -> String {
        format!("({}={})", self.attribute, ldap_escape(&*self.text))
    }
}

/// State of the first scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScanStage {
    /// Not finished: an address may exist in an unusual form.
    Pending,
    /// Finished; the reason if it was incomplete.
    Done(Option<String>),
    /// Failed, and the reason.
    Failed(String),
}

/// The result of the last scan, kept up to date by the change feed.
#[derive(Debug)]
pub(super) struct Scan {
    attributes: Attributes,
    names: Vec<Arc<str>>,
    state: Mutex<ScanState>,
    stage: watch::Sender<ScanStage>,
    journal: watch::Sender<Option<Arc<JournalValues>>>,
    again: Notify,
}

#[derive(Debug, Default)]
struct ScanState {
    current: ScanResult,
    /// The result of the scan in progress.
    next: Option<ScanResult>,
    /// Attributes that the server compares with case.
    exact: Vec<Arc<str>>,
}

/// A value in a usual form, and an object that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SampleValue {
    pub(super) attribute: Arc<str>,
    pub(super) value: String,
    pub(super) dn: String,
}

/// The values found by one scan.
#[derive(Debug, Default)]
pub(super) struct ScanResult {
    unusual: HashMap<Box<str>, Vec<UnusualValue>>,
    count: usize,
    journal: HashMap<Box<str>, HolderCount>,
    overflow: Option<String>,
    /// For each address attribute one value in lower case and one with capitals.
    samples: Vec<SampleValue>,
}

#[derive(Debug)]
struct HolderCount {
    first: Box<str>,
    count: u64,
}

impl ScanResult {
    /// Adds the values of an object, and returns the new journal values.
    pub(super) fn add_entry(
        &mut self,
        entry: &Entry,
        attributes: &Attributes,
        names: &[Arc<str>],
        exact: &[Arc<str>],
    ) -> Vec<JournalValue> {
        let mut new = Vec::new();
        for (name, values) in entry.attributes() {
            let Some(name) = names.iter().find(|known| known.eq_ignore_ascii_case(name)) else {
                continue;
            };
            let is_exact = exact.contains(name);
            for value in values {
                match attributes.classify_value(name, value, is_exact) {
                    ValueForm::Usual if attributes.is_address_attribute(name) => {
                        self.add_sample(name, value, &entry.dn);
                    }
                    ValueForm::Unusual(key) => self.add_unusual(key, name, value),
                    ValueForm::Usual | ValueForm::Invalid => {}
                }
            }
        }
        let mut own: Vec<&str> = Vec::new();
        for name in attributes.journal() {
            for value in entry.values(name) {
                if value.trim().is_empty() || own.contains(&value) {
                    continue;
                }
                own.push(value);
                new.extend(self.add_journal_value(value, &entry.dn));
            }
        }
        new
    }

    fn add_sample(&mut self, name: &Arc<str>, value: &str, dn: &str) {
        let is_lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_like =
            |one: &SampleValue| one.attribute == *name && is_lower(&one.value) == is_lower(value);
        if value.is_ascii() && value.contains('@') && !self.samples.iter().any(is_like) {
            self.samples.push(SampleValue {
                attribute: Arc::clone(name),
                value: value.to_owned(),
                dn: dn.to_owned(),
            });
        }
    }

    fn add_unusual(&mut self, key: String, name: &Arc<str>, value: &str) {
        if self.count >= MAX_UNUSUAL {
            self.overflow.get_or_insert_with(|| {
                format!("more than {MAX_UNUSUAL} addresses in unusual forms")
            });
            return;
        }
        let known = self.unusual.entry(key.into()).or_default();
        let is_known = |one: &UnusualValue| one.attribute == *name && *one.text == *value;
        if known.len() < MAX_PER_KEY && !known.iter().any(is_known) {
            known.push(UnusualValue {
                attribute: Arc::clone(name),
                text: value.into(),
            });
            self.count += 1;
        }
    }

    fn add_journal_value(&mut self, value: &str, dn: &str) -> Option<JournalValue> {
        if let Some(holders) = self.journal.get_mut(value) {
            holders.count += 1;
            return None;
        }
        if self.journal.len() >= MAX_JOURNAL {
            self.overflow
                .get_or_insert_with(|| format!("more than {MAX_JOURNAL} distinct journal values"));
            return None;
        }
        let holders = HolderCount {
            first: dn.into(),
            count: 1,
        };
        self.journal.insert(value.into(), holders);
        Some(JournalValue {
            value: value.to_owned(),
            holder: dn.to_owned(),
            holders: 1,
        })
    }

    /// Returns the journal values, sorted; `incomplete` is the reason if some may be missing.
    pub(super) fn journal_values(&self, incomplete: Option<String>) -> JournalValues {
        let all = self.journal.iter().map(|(value, holders)| JournalValue {
            value: value.to_string(),
            holder: holders.first.to_string(),
            holders: holders.count,
        });
        let mut all: Vec<JournalValue> = all.collect();
        all.sort_unstable_by(|one, other| one.value.cmp(&other.value));
        JournalValues {
            read: all.into(),
            added: Vec::new(),
            incomplete: incomplete.or_else(|| self.overflow.clone()),
        }
    }
}

impl Scan {
    /// Creates a scan without a result.
    pub(super) fn new(attributes: Attributes) -> Scan {
        Scan {
            names: attribute_names(&attributes),
            attributes,
            state: Mutex::default(),
            stage: watch::Sender::new(ScanStage::Pending),
            journal: watch::Sender::new(None),
            again: Notify::new(),
        }
    }

    /// Begins a scan.
    pub(super) fn begin(&self) {
        self.state().next = Some(ScanResult::default());
    }

    /// Adds an object that the scan read.
    pub(super) fn add_entry(&self, entry: &Entry) {
        let ScanState { next, exact, .. } = &mut *self.state();
        if let Some(next) = next {
            next.add_entry(entry, &self.attributes, &self.names, exact);
        }
    }

    /// Returns values in usual forms: for each attribute one in lower case and one with capitals.
    pub(super) fn samples(&self) -> Vec<SampleValue> {
        let state = self.state();
        state
            .next
            .as_ref()
            .map(|next| next.samples.clone())
            .unwrap_or_default()
    }

    /// Records whether the server compares an attribute with case; returns whether that is new.
    pub(super) fn set_exact(&self, attribute: &Arc<str>, is_exact: bool) -> bool {
        let exact = &mut self.state().exact;
        let known = exact.iter().position(|known| known == attribute);
        match (known, is_exact) {
            (None, true) => exact.push(Arc::clone(attribute)),
            (Some(at), false) => drop(exact.remove(at)),
            (Some(_), true) | (None, false) => return false,
        }
        true
    }

    /// Adds an object that the change feed reported.
    pub(super) fn update_entry(&self, entry: &Entry) {
        let ScanState {
            current,
            next,
            exact,
        } = &mut *self.state();
        let new = current.add_entry(entry, &self.attributes, &self.names, exact);
        if let Some(next) = next {
            next.add_entry(entry, &self.attributes, &self.names, exact);
        }
        if !new.is_empty() {
            self.journal.send_if_modified(|known| match known {
                Some(values) => {
                    *values = Arc::new(values.with_added(new));
                    true
                }
                None => false,
            });
        }
    }

    /// Ends a scan, and returns the keys of new values. `limited` is the reason if not everything
    /// was read or can be found; `journal_limited` the same for journal values.
    ///
    /// If no object has a journal value any more, those of the last scan stay, since revoked rights
    /// look the same.
    pub(super) fn finish(
        &self,
        limited: Option<String>,
        journal_limited: Option<String>,
    ) -> Vec<String> {
        let mut state = self.state();
        let Some(next) = state.next.take() else {
            return Vec::new();
        };
        let mut old = std::mem::replace(&mut state.current, next);
        let mut journal_limited = journal_limited;
        if state.current.journal.is_empty() && !old.journal.is_empty() {
            state.current.journal = std::mem::take(&mut old.journal);
            journal_limited = Some(
                "no object has a journal attribute any more that this account may read".to_owned(),
            );
        }
        let current = &state.current;
        let new = current
            .unusual
            .iter()
            .filter(|(key, values)| old.unusual.get(*key) != Some(*values));
        let new: Vec<String> = new.map(|(key, _)| key.to_string()).collect();
        let journal = current.journal_values(journal_limited);
        let limited = limited.or_else(|| current.overflow.clone());
        self.journal.send_replace(Some(Arc::new(journal)));
        self.stage.send_replace(ScanStage::Done(limited));
        new
    }

    /// Aborts a scan. `why` is the reason if no other scan is worth waiting for.
    pub(super) fn abort(&self, why: Option<String>) {
        self.state().next = None;
        if let Some(why) = why {
            self.stage.send_if_modified(|stage| {
                let is_first = !matches!(stage, ScanStage::Done(_));
                if is_first {
                    *stage = ScanStage::Failed(why);
                }
                is_first
            });
        }
    }

    /// Returns the values in unusual forms with one of these keys.
    pub(super) fn unusual_values<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
    ) -> Vec<UnusualValue> {
        let state = self.state();
        let unusual = &state.current.unusual;
        if unusual.is_empty() {
            return Vec::new();
        }
        let all = keys.into_iter().filter_map(|key| unusual.get(key));
        all.flatten().cloned().collect()
    }

    /// Returns the number of values in unusual forms.
    pub(super) fn unusual_count(&self) -> usize {
        self.state().current.count
    }

    /// Whether the first scan is still in progress.
    pub(super) fn is_pending(&self) -> bool {
        *self.stage.borrow() == ScanStage::Pending
    }

    /// Waits for the end of the first scan, and returns its state, at the latest at the deadline.
    pub(super) async fn wait_for_first(&self, deadline: Instant) -> ScanStage {
        let mut stage = self.stage.subscribe();
        let ended = stage.wait_for(|stage| *stage != ScanStage::Pending);
        // The sender lives as long as this value.
        let _ = timeout_at(deadline, ended).await;
        self.stage.borrow().clone()
    }

    /// Requests a scan, since anything may have changed.
    pub(super) fn request_rescan(&self) {
        self.again.notify_one();
    }

    /// Waits until a scan is requested.
    pub(super) async fn wait_for_rescan_request(&self) {
        self.again.notified().await;
    }

    /// Subscribes to the journal values; `None` until the first scan.
    pub(super) fn journal_values(&self) -> watch::Receiver<Option<Arc<JournalValues>>> {
        self.journal.subscribe()
    }

    // A panic while the lock is held leaves a consistent result.
    fn state(&self) -> MutexGuard<'_, ScanState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the names of the scanned attributes.
pub(super) fn attribute_names(attributes: &Attributes) -> Vec<Arc<str>> {
    attributes
        .scan_attributes()
        .into_iter()
        .map(Arc::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan() -> Scan {
        let names = |all: &[&str]| {
            all.iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let attributes = Attributes::new(&names(&["mail", "proxyAddresses"]), &names(&["journal"]));
        Scan::new(attributes.expect("valid names"))
    }

    fn entry(dn: &str, values: &[(&str, &str)]) -> Entry {
        let values = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]));
        Entry::new(dn, values.collect::<Vec<_>>())
    }

    fn terms(scan: &Scan, key: &str) -> Vec<String> {
        scan.unusual_values([key])
            .iter()
            .map(UnusualValue::term)
            .collect()
    }

    #[test]
    fn only_values_that_no_question_finds_are_kept() {
        let scan = scan();
        scan.begin();
        scan.add_entry(&entry(
            "cn=dan",
            &[
                ("mail", "Dan@corp.test"),
                ("mail", "Dan <dan@corp.test>"),
                ("proxyAddresses", "SMTP:dan@corp.test"),
                ("proxyAddresses", "dan@corp.test"),
                ("proxyAddresses", "smtp:dan@corp.test."),
                ("proxyAddresses", "X500:/o=Corp/cn=Dan"),
                ("proxyAddresses", "x500: /o=Corp/cn=Dan"),
                ("proxyAddresses", "SIP:dan@corp.test"),
                ("journal", "mailto:j@corp.test"),
                ("journal", "<j@corp.test>"),
            ],
        ));
        assert!(scan.is_pending() && terms(&scan, "dan@corp.test").is_empty());
        let mut new = scan.finish(None, None);
        new.sort();
        assert_eq!(new, ["dan@corp.test", "j@corp.test", "x500:/o=corp/cn=dan"]);
        assert_eq!(
            terms(&scan, "dan@corp.test"),
            [
                "(mail=Dan <dan@corp.test>)",
                "(proxyAddresses=dan@corp.test)",
                "(proxyAddresses=smtp:dan@corp.test.)",
            ]
        );
        assert_eq!(
            terms(&scan, "x500:/o=corp/cn=dan"),
            ["(proxyAddresses=x500: /o=Corp/cn=Dan)"]
        );
        assert_eq!(terms(&scan, "j@corp.test"), ["(journal=<j@corp.test>)"]);
        assert_eq!(scan.unusual_count(), 5);
    }

    #[test]
    fn the_change_feed_adds_to_a_scan_under_way_and_to_the_last_one() {
        let scan = scan();
        let values = scan.journal_values();
        let all = || {
            let values = values.borrow().clone();
            values.map(|all| {
                all.iter()
                    .map(|one| (one.value.clone(), one.holders))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(all(), None);
        scan.begin();
        scan.add_entry(&entry("cn=a", &[("journal", "j@corp.test")]));
        scan.add_entry(&entry("cn=b", &[("journal", "j@corp.test")]));
        scan.update_entry(&entry(
            "cn=c",
            &[("journal", "k@corp.test"), ("mail", "<c@corp.test>")],
        ));
        assert_eq!(all(), None);
        scan.finish(None, None);
        let both = Some(vec![
            ("j@corp.test".to_owned(), 2),
            ("k@corp.test".to_owned(), 1),
        ]);
        assert_eq!(all(), both);
        assert_eq!(terms(&scan, "c@corp.test").len(), 1);
        scan.update_entry(&entry("cn=d", &[("journal", "l@corp.test")]));
        assert_eq!(all().expect("read").len(), 3);
        scan.begin();
        scan.abort(Some("no".to_owned()));
        assert_eq!(all().expect("read").len(), 3, "what was found stays");
        scan.begin();
        scan.finish(None, None);
        assert_eq!(
            all().expect("read").len(),
            3,
            "rights may have been taken away"
        );
        assert!(
            values
                .borrow()
                .as_ref()
                .expect("read")
                .incomplete()
                .is_some()
        );
        scan.begin();
        scan.add_entry(&entry("cn=a", &[("journal", "k@corp.test")]));
        scan.finish(None, None);
        assert_eq!(all().expect("read").len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_says_so() {
        let scan = scan();
        scan.begin();
        for n in 0..=MAX_JOURNAL {
            scan.add_entry(&entry("cn=a", &[("journal", &format!("j{n}@corp.test"))]));
        }
        for n in 0..=MAX_PER_KEY {
            let blanks = " ".repeat(n + 1);
            scan.add_entry(&entry("cn=a", &[("mail", &format!("a@{blanks}corp.test"))]));
        }
        scan.finish(None, None);
        let values = scan.journal_values();
        let values = values.borrow().clone().expect("read");
        assert_eq!(values.iter().count(), MAX_JOURNAL);
        assert!(values.incomplete().is_some());
        assert_eq!(terms(&scan, "a@corp.test").len(), MAX_PER_KEY);
    }
}
