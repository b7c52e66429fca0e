//! Attributes that the servers have shown, kept across restarts: an attribute that had values and
//! now has none is more likely hidden from us than empty.
//!
//! Promises: once any server has shown a value of an attribute, a server that shows none is not
//! believed until an operator confirms it ([`accept_empty`]) or configures another canary. The
//! record survives a restart.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::attributes::Attributes;
use super::entry::{Entry, Outage};
use super::journal_history::{JournalHistory, RemovedJournalAttribute, replace};

/// File with the attributes that servers have shown.
const SEEN_FILE: &str = "directory.seen";
/// File with the history of journal attributes.
const HISTORY_FILE: &str = "directory.people";
/// File with the operators' acceptances, one per line.
const ACCEPTED_FILE: &str = "directory.accepted";

/// Number of recorded objects with an attribute.
const MAX_HOLDERS: usize = 5;

/// Interval between checks for acceptances.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum pause between two writes.
const WRITE_PAUSE: Duration = Duration::from_millis(20);

/// The attributes seen in the directory.
#[derive(Debug)]
pub(super) struct Presence {
    attributes: Vec<TrackedAttribute>,
    base: String,
    canary: Option<String>,
    journal_history: JournalHistory,
    state: Mutex<State>,
    /// Held during a write.
    writing: Mutex<()>,
    /// Notified of unwritten changes.
    wake_writer: Arc<Notify>,
    /// The number of acceptances.
    accepted: watch::Sender<u64>,
    /// The state directory.
    directory: Option<PathBuf>,
}

/// A tracked attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TrackedAttribute {
    pub(super) name: String,
    /// Whether it holds journal addresses.
    pub(super) is_journal: bool,
}

#[derive(Debug, Default)]
struct State {
    seen: PresenceRecord,
    is_written: bool,
    /// Journal attributes without values that were warned of.
    warned: Vec<String>,
    failed: bool,
}

/// The stored record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PresenceRecord {
    /// The search base.
    base: String,
    /// The canary.
    canary: Option<String>,
    /// The last line of [`ACCEPTED_FILE`] that was applied.
    accepted: Option<String>,
    /// By server, then by attribute in lower case.
    #[serde(default)]
    servers: BTreeMap<String, BTreeMap<String, AttributeRecord>>,
    /// DNs of people with a hidden journal attribute.
    #[serde(default)]
    hidden: Vec<String>,
}

/// The record of one attribute at one server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct AttributeRecord {
    /// The attribute as the settings spell it.
    name: String,
    /// Objects that had a value when they were last read.
    holders: Vec<String>,
    /// Time when a value was first seen (RFC 3339).
    since: String,
    /// Time since when none is seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

impl Presence {
    /// Creates an empty record that is not stored.
    pub(super) fn new(attributes: &Attributes, base: &str, canary: Option<String>) -> Presence {
        let journal = attributes.journal();
        let tracked = |is_journal| {
            move |name: &String| TrackedAttribute {
                name: name.clone(),
                is_journal,
            }
        };
        let known = |name: &&String| journal.iter().any(|one| one.eq_ignore_ascii_case(name));
        let addresses = attributes.addresses().iter().filter(|name| !known(name));
        let addresses: Vec<TrackedAttribute> = addresses.map(tracked(false)).collect();
        let journaled = journal.iter().map(tracked(true));
        let wake_writer: Arc<Notify> = Arc::default();
        let seen = PresenceRecord {
            base: base.to_lowercase(),
            canary: canary.clone(),
            ..PresenceRecord::default()
        };
        Presence {
            attributes: journaled.chain(addresses).collect(),
            base: base.to_lowercase(),
            canary,
            journal_history: JournalHistory::new(journal, Arc::clone(&wake_writer)),
            wake_writer,
            writing: Mutex::default(),
            state: Mutex::new(State {
                seen,
                ..State::default()
            }),
            accepted: watch::Sender::new(0),
            directory: None,
        }
    }

    /// Loads the record from a state directory, and stores it there from now on. Blocks.
    pub(super) fn with_state_dir(mut self, directory: &Path) -> Presence {
        self.directory = Some(directory.to_owned());
        let file = directory.join(SEEN_FILE);
        let seen = match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str::<PresenceRecord>(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.new_record(None)),
            Err(error) => Err(error),
        };
        let seen = seen.unwrap_or_else(|error| {
            tracing::warn!("cannot read {}: {error}", file.display());
            self.new_record(None)
        });
        let is_same = seen.base == self.base && seen.canary == self.canary;
        let accepted = seen.accepted.clone();
        let people = directory.join(HISTORY_FILE);
        if is_same {
            self.state().seen = seen;
            if let Err(error) = self.journal_history.persist_in(&people) {
                tracing::warn!("cannot write {}: {error}", people.display());
            }
        } else {
            tracing::info!(
                "base or canary changed: the record of attributes seen before is dropped"
            );
            let mut state = self.state();
            state.seen = self.new_record(accepted);
            // With settings that no server accepts, the stored record stays.
            state.is_written = true;
            drop(state);
            self.journal_history.start_file(&people);
        }
        self.apply_acceptances();
        self.save();
        self
    }

    /// Applies acceptances and stores changes until the task is stopped.
    pub(super) async fn follow(self: Arc<Presence>) {
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.wake_writer.notified() => {}
            }
            let presence = Arc::clone(&self);
            let look = move || {
                presence.apply_acceptances();
                presence.save();
            };
            // A panic leaves the record as it was.
            let _ = tokio::task::spawn_blocking(look).await;
            sleep(WRITE_PAUSE).await;
        }
    }

    /// Subscribes to acceptances by operators.
    pub(super) fn acceptances(&self) -> watch::Receiver<u64> {
        self.accepted.subscribe()
    }

    /// Returns the tracked attributes, journal attributes first.
    pub(super) fn attributes(&self) -> &[TrackedAttribute] {
        &self.attributes
    }

    /// Returns the history of journal attributes.
    pub(super) fn journal_history(&self) -> &JournalHistory {
        &self.journal_history
    }

    /// Returns recently removed journal attributes, the latest first.
    pub(super) fn removed_journal_attributes(&self) -> Vec<RemovedJournalAttribute> {
        self.journal_history.removed_journal_attributes()
    }

    /// Whether any server has shown a value of this attribute.
    pub(super) fn was_shown(&self, attribute: &TrackedAttribute) -> bool {
        self.state().seen.first_shown(&attribute.key()).is_some()
    }

    /// Whether there are journal attributes of which no server has shown a value.
    pub(super) fn has_unseen_attributes(&self) -> bool {
        let mut journal = self.attributes.iter().filter(|one| one.is_journal);
        journal.any(|one| !self.was_shown(one))
    }

    /// Whether an entry lacks a journal attribute that others have, so that its absence must be
    /// verified.
    pub(super) fn lacks_journal_attribute(&self, entry: &Entry) -> bool {
        let journal = self.attributes.iter().filter(|one| one.is_journal);
        let mut lacking = journal
            .filter(|one| !has_value(entry, &one.name))
            .peekable();
        lacking.peek().is_some() && lacking.any(|one| self.was_shown(one))
    }

    /// Returns objects that had this attribute when they were last read, those at this server
    /// first.
    pub(super) fn holders(&self, server: &str, attribute: &TrackedAttribute) -> Vec<String> {
        let key = attribute.key();
        let state = self.state();
        let own = state.seen.servers.get(server).and_then(|all| all.get(&key));
        let others = state.seen.servers.values().filter_map(|all| all.get(&key));
        let mut holders: Vec<String> = Vec::new();
        for holder in own
            .into_iter()
            .chain(others)
            .flat_map(|shown| &shown.holders)
        {
            if holders.len() < 2 * MAX_HOLDERS && !holders.contains(holder) {
                holders.push(holder.clone());
            }
        }
        holders
    }

    /// Records the attributes that an entry of this server shows. Cheap if nothing is new.
    pub(super) fn record_entry(&self, server: &str, entry: &Entry) {
        for attribute in &self.attributes {
            if has_value(entry, &attribute.name) {
                self.record_holder(server, attribute, &entry.dn, false);
            }
        }
    }

    /// Records that an object of this server has a value of an attribute; `is_first` if it should
    /// be read first next time.
    pub(super) fn record_holder(
        &self,
        server: &str,
        attribute: &TrackedAttribute,
        dn: &str,
        is_first: bool,
    ) {
        let mut state = self.state();
        let state = &mut *state;
        let servers = &mut state.seen.servers;
        let known = servers
            .get(server)
            .and_then(|all| all.get(&attribute.key()));
        let is_news = known.is_none_or(|shown| {
            let is_there = shown.holders.iter().any(|holder| holder == dn);
            let is_room = shown.holders.len() < MAX_HOLDERS;
            shown.missing.is_some()
                || (!is_there && (is_room || is_first))
                || (is_first && shown.holders.first().is_none_or(|first| first != dn))
        });
        if !is_news {
            return;
        }
        let shown = servers.entry(server.to_owned()).or_default();
        let shown = shown
            .entry(attribute.key())
            .or_insert_with(|| AttributeRecord {
                name: attribute.name.clone(),
                since: now(),
                ..AttributeRecord::default()
            });
        shown.missing = None;
        shown.holders.retain(|holder| holder != dn);
        match is_first {
            true => shown.holders.insert(0, dn.to_owned()),
            false => shown.holders.push(dn.to_owned()),
        }
        shown.holders.truncate(MAX_HOLDERS);
        state.warned.retain(|name| *name != attribute.name);
        state.is_written = false;
        self.wake_writer.notify_one();
    }

    /// Records that a server shows no value of an attribute, and returns why it is not believed, if
    /// so. `why` is a further hint.
    pub(super) fn record_missing(
        &self,
        server: &str,
        attribute: &TrackedAttribute,
        why: &str,
    ) -> Option<String> {
        let key = attribute.key();
        let name = &attribute.name;
        let mut state = self.state();
        let state = &mut *state;
        let Some((by, since)) = state.seen.first_shown(&key) else {
            if attribute.is_journal && !state.warned.contains(name) {
                state.warned.push(name.clone());
                tracing::warn!(
                    server,
                    "no object has {name}: check its name and the rights of the account{why}"
                );
            }
            return None;
        };
        let known = state
            .seen
            .servers
            .get_mut(server)
            .and_then(|all| all.get_mut(&key));
        if let Some(shown) = known.filter(|shown| shown.missing.is_none()) {
            shown.missing = Some(now());
            state.is_written = false;
            self.wake_writer.notify_one();
        }
        let before = match by == server {
            true => format!("any more (shown since {since})"),
            false => format!("(shown by {by} since {since})"),
        };
        Some(format!(
            "{server} shows no value of {name} {before}: check the rights of the account and the schema{why}, with \"copyist check --online\"; if {name} is no longer used, run \"copyist directory accept-empty\""
        ))
    }

    /// Records the objects of a file that have the attributes, in their order, and returns an
    /// outage if the file is not believed. Only journal attributes count: a file does not contain
    /// people without an address.
    pub(super) fn check_file(&self, file: &str, holders: &[Option<String>]) -> Option<Outage> {
        let mut missing = Vec::new();
        for (attribute, holder) in self.attributes.iter().zip(holders) {
            match holder {
                _ if !attribute.is_journal => {}
                Some(dn) => self.record_holder(file, attribute, dn, false),
                None => missing.extend(self.record_missing(file, attribute, "")),
            }
        }
        (!missing.is_empty()).then(|| Outage::new(missing.join("; ")))
    }

    /// Applies a new acceptance by an operator. Blocks.
    fn apply_acceptances(&self) {
        let Some(directory) = &self.directory else {
            return;
        };
        let text = std::fs::read_to_string(directory.join(ACCEPTED_FILE)).unwrap_or_default();
        let last = text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .next_back();
        let Some(last) = last.filter(|line| !line.is_empty()) else {
            return;
        };
        let mut state = self.state();
        if state.seen.accepted.as_deref() == Some(last) {
            return;
        }
        state.seen = self.new_record(Some(last.to_owned()));
        state.is_written = false;
        drop(state);
        tracing::warn!(
            "missing attribute values accepted: {}",
            last.replace('\t', " ")
        );
        self.clear_history();
        self.accepted.send_modify(|count| *count += 1);
    }

    fn clear_history(&self) {
        if let (Err(error), Some(directory)) = (self.journal_history.clear(), &self.directory) {
            tracing::warn!(
                "cannot write {}: {error}",
                directory.join(HISTORY_FILE).display()
            );
        }
    }

    /// Stores what is new. Blocks.
    pub(super) fn save(&self) {
        let Some(directory) = &self.directory else {
            return;
        };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = self.journal_history.hidden_dns();
        let mut state = self.state();
        if state.seen.hidden != hidden {
            state.seen.hidden = hidden;
            state.is_written = false;
        }
        let seen = (!state.is_written).then(|| state.seen.clone());
        state.is_written = true;
        let failed = state.failed;
        drop(state);
        let people = self.journal_history.save();
        let written = match seen {
            Some(seen) => serde_json::to_string_pretty(&seen)
                .map_err(io::Error::from)
                .and_then(|text| replace(&directory.join(SEEN_FILE), &(text + "\n"))),
            None => Ok(()),
        };
        match people.and(written) {
            Ok(()) => {}
            Err(error) => {
                if !failed {
                    tracing::warn!(
                        "cannot write {}: {error}",
                        directory.join(SEEN_FILE).display()
                    );
                }
                let mut state = self.state();
                (state.failed, state.is_written) = (true, false);
                return;
            }
        }
        if failed {
            self.state().failed = false;
        }
    }

    fn new_record(&self, accepted: Option<String>) -> PresenceRecord {
        PresenceRecord {
            base: self.base.clone(),
            canary: self.canary.clone(),
            accepted,
            ..PresenceRecord::default()
        }
    }

    // A panic while the lock is held leaves a consistent record.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrackedAttribute {
    fn key(&self) -> String {
        self.name.to_ascii_lowercase()
    }
}

impl PresenceRecord {
    /// Returns the server that first showed an attribute, and since when.
    fn first_shown(&self, key: &str) -> Option<(String, String)> {
        let shown = self.servers.iter();
        let shown = shown.filter_map(|(server, all)| Some((server, all.get(key)?)));
        let first = shown.min_by(|(_, one), (_, other)| one.since.cmp(&other.since))?;
        Some((first.0.clone(), first.1.since.clone()))
    }
}

/// Whether an entry has a value of an attribute.
pub(super) fn has_value(entry: &Entry, attribute: &str) -> bool {
    entry
        .values(attribute)
        .any(|value| !value.trim().is_empty())
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// An operator's acceptance of missing values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    /// Time (RFC 3339).
    pub when: String,
    /// Attributes without a value any more, each with the server and since when.
    pub missing: Vec<String>,
    /// Attributes with values as far as the service knows; if they lose them within the next
    /// seconds, that is accepted, too.
    pub present: Vec<String>,
    /// DNs of people with a hidden journal attribute.
    pub hidden: Vec<String>,
}

/// Tells the service with this state directory that attributes without values are intended. The
/// service notices within seconds, or when it starts. Blocks.
pub fn accept_empty(state_dir: &Path, user: &str) -> io::Result<Acceptance> {
    let seen = match std::fs::read_to_string(state_dir.join(SEEN_FILE)) {
        Ok(text) => serde_json::from_str::<PresenceRecord>(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => PresenceRecord::default(),
        Err(error) => return Err(error),
    };
    let when = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let mut accepted = Acceptance {
        when: when.clone(),
        missing: Vec::new(),
        present: Vec::new(),
        hidden: seen.hidden,
    };
    for (server, attributes) in &seen.servers {
        for shown in attributes.values() {
            let name = &shown.name;
            match &shown.missing {
                Some(since) => accepted
                    .missing
                    .push(format!("{name} at {server}, since {since}")),
                None => accepted.present.push(format!("{name} at {server}")),
            }
        }
    }
    let user: String = user.chars().filter(|c| !c.is_control()).collect();
    let line = format!("{when}\tby {user}\t{}\n", accepted.missing.join(", "));
    let path = state_dir.join(ACCEPTED_FILE);
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    // The service rejects files of another owner, and could not read them.
    let owner = std::fs::metadata(state_dir)?;
    if file.metadata()?.uid() != owner.uid() {
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [&str; 2] = ["ldap://a", "ldap://b"];

    fn presence(canary: &str, directory: &Path) -> Presence {
        let attributes = Attributes::new(&["mail".into()], &["journal".into()]);
        let attributes = attributes.expect("valid names");
        Presence::new(&attributes, "dc=b", Some(canary.into())).with_state_dir(directory)
    }

    fn journal(presence: &Presence) -> TrackedAttribute {
        presence.attributes()[0].clone()
    }

    fn entry(dn: &str) -> Entry {
        Entry::new(dn, [("Journal".to_owned(), vec!["j@b".to_owned()])])
    }

    #[test]
    fn an_attribute_seen_on_one_server_is_required_of_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let presence = presence("c@b", directory.path());
        let journal = journal(&presence);
        assert_eq!(presence.record_missing(SERVERS[0], &journal, ""), None);
        presence.record_entry(SERVERS[0], &entry("cn=dan"));
        for server in SERVERS {
            let why = presence
                .record_missing(server, &journal, "")
                .expect("not believed");
            for part in [server, "journal", "accept-empty"] {
                assert!(why.contains(part), "{why}");
            }
        }
        assert_eq!(presence.holders(SERVERS[1], &journal), ["cn=dan"]);
        presence.save();
        let again = self::presence("c@b", directory.path());
        assert!(again.record_missing(SERVERS[1], &journal, "").is_some());
        let other = self::presence("d@b", directory.path());
        assert_eq!(other.record_missing(SERVERS[0], &journal, ""), None);
    }

    #[test]
    fn an_operator_s_acceptance_counts_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let presence = presence("c@b", directory.path());
        let journal = journal(&presence);
        presence.record_entry(SERVERS[0], &entry("cn=dan"));
        presence.record_missing(SERVERS[0], &journal, "");
        presence.save();
        let accepted = accept_empty(directory.path(), "root").expect("it is ours");
        assert_eq!(accepted.missing.len(), 1, "{accepted:?}");
        presence.apply_acceptances();
        assert_eq!(presence.record_missing(SERVERS[0], &journal, ""), None);
        presence.record_entry(SERVERS[0], &entry("cn=dan"));
        presence.apply_acceptances();
        assert!(presence.record_missing(SERVERS[0], &journal, "").is_some());
        presence.save();
        let again = self::presence("c@b", directory.path());
        assert!(again.record_missing(SERVERS[0], &journal, "").is_some());
    }

    #[test]
    fn a_file_that_lost_every_value_of_an_attribute_is_an_outage() {
        let directory = tempfile::tempdir().expect("a directory");
        let presence = presence("c@b", directory.path());
        let all = [Some("cn=dan".to_owned()), Some("cn=dan".to_owned())];
        assert_eq!(presence.check_file("ldif:/x", &all), None);
        let some = [None, Some("cn=dan".to_owned())];
        let outage = presence.check_file("ldif:/x", &some).expect("an outage");
        assert!(outage.reason.contains("ldif:/x"), "{outage}");
        assert_eq!(presence.check_file("ldif:/x", &all), None);
    }
}
