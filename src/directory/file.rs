//! An LDIF file as the directory's source.
//!
//! Promises: answers come from memory; a change of the file takes effect within a second. A file
//! with invalid LDIF is logged, and the previous content stays in use; a file that is missing or
//! cannot be checked is an outage, never an empty directory.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::attributes::Attributes;
use super::dn;
use super::entry::{Entry, Outage};
use super::inheritance;
use super::ldif::{self, LdifError};
use super::presence::{Presence, has_value};
use super::resolve;
use super::scan::{JournalValues, ScanResult};
use super::schema::{RequestedNames, Schema};
use super::source::{ObjectName, Objects, Source};
use crate::mail::{Address, format_size};

/// Interval between checks of the file. A change must look the same twice before it is read: a
/// program that writes in place shows half a file first, and that would drop half of the people.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Time without a completed check (a hanging network file system) after which the content is not
/// trusted.
const MAX_CHECK_AGE: Duration = Duration::from_secs(30);
/// Maximum size of the file.
const MAX_SIZE: u64 = 512 << 20;

/// Error of reading an LDIF file.
#[derive(Debug, thiserror::Error)]
pub enum LdifFileError {
    /// The file cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// The content is not valid LDIF.
    #[error("{path}, {cause}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The line and the problem.
        #[source]
        cause: LdifError,
    },
    /// The file contains no entries: an empty directory is a mistake, not an answer.
    #[error("{path} contains no entries")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than 512 MiB.
    #[error("{path} has {}, more than 512 MiB; use an LDAP server", format_size(*size))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The size in bytes.
        size: u64,
    },
}

/// An LDIF file and its content as of the last check.
#[derive(Debug)]
pub(super) struct LdifFile {
    path: PathBuf,
    attributes: Attributes,
    presence: Arc<Presence>,
    current: ArcSwap<Snapshot>,
    journal: watch::Sender<Option<Arc<JournalValues>>>,
}

#[derive(Debug, Clone)]
struct Snapshot {
    index: Arc<FileIndex>,
    checked_at: Instant,
    file_outage: Option<Outage>,
    /// For each tracked attribute, an object that has it.
    holders: Arc<[Option<String>]>,
    /// Set if journal attributes have lost all their values.
    empty_outage: Option<Outage>,
}

/// Metadata that identifies one version of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

#[derive(Debug)]
struct FileIndex {
    version: FileVersion,
    all: Vec<Arc<Entry>>,
    owners: HashMap<String, Objects>,
    /// Objects by login name.
    logins: HashMap<String, Objects>,
    /// Objects by DN, X.500 address, `uid` and primary group.
    names: HashMap<String, Vec<Arc<Entry>>>,
    /// Groups by the DN or `uid` of a member.
    groups: HashMap<String, Vec<Arc<Entry>>>,
    journal: HashSet<String>,
    journal_values: Arc<JournalValues>,
}

impl LdifFile {
    /// Reads the file. Blocks.
    #[cfg(test)]
    fn open(path: &Path, attributes: Attributes) -> Result<LdifFile, LdifFileError> {
        let presence = Arc::new(Presence::new(&attributes, "", None));
        LdifFile::open_with_presence(path, attributes, presence)
    }

    /// Reads the file and compares it with what was seen before. Blocks.
    pub(super) fn open_with_presence(
        path: &Path,
        attributes: Attributes,
        presence: Arc<Presence>,
    ) -> Result<LdifFile, LdifFileError> {
        let index = Arc::new(FileIndex::read(path, &attributes)?);
        let snapshot = Snapshot {
            holders: index.holders(&presence),
            index: Arc::clone(&index),
            checked_at: Instant::now(),
            file_outage: None,
            empty_outage: None,
        };
        let file = LdifFile {
            path: path.to_owned(),
            attributes,
            presence,
            journal: watch::Sender::new(Some(Arc::clone(&index.journal_values))),
            current: ArcSwap::from_pointee(snapshot),
        };
        file.publish(Arc::clone(&index), None);
        file.check_people(&index);
        Ok(file)
    }

    /// Compares every object with its journal history.
    fn check_people(&self, index: &FileIndex) {
        if self.current.load().empty_outage.is_none() {
            for entry in &index.all {
                // A lookup of a person with a hidden value returns the outage.
                self.presence.journal_history().check(entry);
            }
        }
    }

    /// Follows the file until the task is stopped.
    pub(super) async fn follow(self: Arc<LdifFile>) {
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settling = None;
        let mut rejected = None;
        loop {
            ticks.tick().await;
            let file = Arc::clone(&self);
            // A panic during a check leaves the last content in use until it is too old to be
            // trusted.
            let snapshot =
                tokio::task::spawn_blocking(move || file.check_for_changes(settling, rejected));
            if let Ok((seen, bad)) = snapshot.await {
                settling = seen;
                rejected = bad;
            }
        }
    }

    /// Checks the file once. Takes and returns the version seen last, and the version with invalid
    /// content, which is logged once.
    fn check_for_changes(
        &self,
        settling: Option<FileVersion>,
        rejected: Option<FileVersion>,
    ) -> (Option<FileVersion>, Option<FileVersion>) {
        let known = Arc::clone(&self.current.load().index);
        let version = match std::fs::metadata(&self.path) {
            Ok(metadata) => FileVersion::of(&metadata),
            Err(cause) => {
                let path = self.path.display();
                self.publish(
                    known,
                    Some(Outage::new(format!("cannot read {path}: {cause}"))),
                );
                return (None, None);
            }
        };
        if version == known.version || Some(version) != settling || Some(version) == rejected {
            self.publish(known, None);
            return (Some(version), rejected);
        }
        match FileIndex::read(&self.path, &self.attributes) {
            Ok(index) => {
                tracing::info!(path = %self.path.display(), entries = index.all.len(), "directory file reloaded");
                let index = Arc::new(index);
                self.publish(Arc::clone(&index), None);
                self.check_people(&index);
                (Some(version), None)
            }
            Err(error) => {
                tracing::error!(
                    "cannot load the directory file, keeping the previous content: {error}"
                );
                self.publish(known, None);
                (Some(version), Some(version))
            }
        }
    }

    fn publish(&self, index: Arc<FileIndex>, file_outage: Option<Outage>) {
        if let Some(outage) = file_outage
            .as_ref()
            .filter(|_| self.current.load().file_outage.is_none())
        {
            tracing::error!("{outage}");
        }
        let new = Arc::clone(&index.journal_values);
        let before = self.current.load();
        let holders = match Arc::ptr_eq(&index, &before.index) {
            true => Arc::clone(&before.holders),
            false => index.holders(&self.presence),
        };
        let file = format!("ldif:{}", self.path.display());
        let empty = self.presence.check_file(&file, &holders);
        if let Some(outage) = empty.as_ref().filter(|_| before.empty_outage.is_none()) {
            tracing::error!("{outage}");
        }
        self.current.store(Arc::new(Snapshot {
            index,
            checked_at: Instant::now(),
            file_outage,
            holders,
            empty_outage: empty,
        }));
        self.journal.send_if_modified(|known| {
            let is_new = !known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &new));
            if is_new {
                *known = Some(new);
            }
            is_new
        });
    }

    /// Returns the content, if it can be trusted.
    fn index(&self) -> Result<Arc<FileIndex>, Outage> {
        let snapshot = self.current.load();
        if let Some(outage) = snapshot
            .file_outage
            .as_ref()
            .or(snapshot.empty_outage.as_ref())
        {
            return Err(outage.clone());
        }
        if snapshot.checked_at.elapsed() > MAX_CHECK_AGE {
            let path = self.path.display();
            let reason = format!("{path} was not checked for changes for {MAX_CHECK_AGE:?}");
            return Err(Outage::new(reason));
        }
        Ok(Arc::clone(&snapshot.index))
    }

    /// Subscribes to the journal values.
    pub(super) fn journal_values(&self) -> watch::Receiver<Option<Arc<JournalValues>>> {
        self.journal.subscribe()
    }

    /// Sends every object with an address.
    pub(super) async fn send_all(
        &self,
        to: &mpsc::Sender<Result<Arc<Entry>, Outage>>,
    ) -> Result<(), Outage> {
        let index = self.index()?;
        for entry in &index.all {
            if self.attributes.has_addresses(entry) && to.send(Ok(Arc::clone(entry))).await.is_err()
            {
                break;
            }
        }
        Ok(())
    }

    /// Returns the journal attributes without any value.
    pub(super) fn empty_journal_attributes(&self) -> Vec<String> {
        let snapshot = self.current.load();
        let attributes = self.presence.attributes().iter().zip(&*snapshot.holders);
        let empty =
            attributes.filter(|(attribute, holder)| attribute.is_journal && holder.is_none());
        empty.map(|(attribute, _)| attribute.name.clone()).collect()
    }

    /// Describes the content for the operator.
    pub(super) fn describe(&self) -> Result<String, Outage> {
        let index = self.index()?;
        Ok(format!(
            "{} entries with {} addresses",
            index.all.len(),
            index.owners.len()
        ))
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Source for LdifFile {
    async fn find(&self, address: &Address) -> Result<Option<Objects>, Outage> {
        let found = self.index()?.owners.get(address.key()).cloned();
        let mut objects = found.iter().flat_map(|objects| objects.iter());
        match objects.find_map(|object| self.presence.journal_history().check(object)) {
            Some(outage) => Err(outage),
            None => Ok(found),
        }
    }

    async fn is_named_in_journal(
        &self,
        address: &Address,
        owners: &[Arc<Entry>],
    ) -> Result<bool, Outage> {
        let index = self.index()?;
        let names = self.attributes.journal_keys(address, owners);
        Ok(names.iter().any(|name| index.journal.contains(name)))
    }

    async fn find_login(&self, login: &str) -> Result<Option<Objects>, Outage> {
        Ok(self.index()?.logins.get(&login.to_lowercase()).cloned())
    }

    async fn list_groups(&self) -> Result<Vec<String>, Outage> {
        let index = self.index()?;
        let groups = index.all.iter().filter(|entry| resolve::is_group(entry));
        Ok(groups.map(|entry| entry.dn.clone()).collect())
    }

    async fn list_journaled(&self) -> Result<Vec<Arc<Entry>>, Outage> {
        let index = self.index()?;
        let all = index.all.iter();
        let all = all.filter(|entry| self.attributes.is_journaled(entry));
        Ok(all.cloned().collect())
    }

    async fn list_mail_relevant(
        &self,
        to: &mpsc::Sender<Result<Arc<Entry>, Outage>>,
    ) -> Result<(), Outage> {
        let index = self.index()?;
        for entry in &index.all {
            if to.send(Ok(Arc::clone(entry))).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn find_named(&self, name: &ObjectName) -> Result<Vec<Arc<Entry>>, Outage> {
        let index = self.index()?;
        if let ObjectName::Url(url) = name {
            let path = self.path.display();
            return Err(Outage::new(format!(
                "the dynamic group {url:?} needs an LDAP server; {path} cannot be searched by URL"
            )));
        }
        Ok(index.names.get(&name.key()).cloned().unwrap_or_default())
    }

    async fn groups_of(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        let index = self.index()?;
        let mut names: Vec<String> = vec![dn::key(&object.dn)];
        names.extend(uid_keys(object));
        let mut groups: Vec<Arc<Entry>> = Vec::new();
        while let Some(name) = names.pop() {
            for group in index.groups.get(&name).into_iter().flatten() {
                if !groups.iter().any(|known| known.dn == group.dn) {
                    names.push(dn::key(&group.dn));
                    groups.push(Arc::clone(group));
                }
            }
        }
        groups.retain(|group| self.attributes.is_journaled(group));
        Ok(groups)
    }

    async fn containers_of(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, Outage> {
        let index = self.index()?;
        let above = inheritance::containers_above(&object.dn, "");
        let found = above.iter().filter_map(|dn| index.names.get(&dn::key(dn)));
        let mut found: Vec<Arc<Entry>> = found.flatten().cloned().collect();
        found.retain(|container| self.attributes.is_journaled(container));
        Ok(found)
    }
}

impl FileVersion {
    fn of(metadata: &Metadata) -> FileVersion {
        FileVersion {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl FileIndex {
    fn read(path: &Path, attributes: &Attributes) -> Result<FileIndex, LdifFileError> {
        let path = || path.to_owned();
        let read = |cause| LdifFileError::Read {
            path: path(),
            cause,
        };
        let mut file = std::fs::File::open(path()).map_err(read)?;
        let version = FileVersion::of(&file.metadata().map_err(read)?);
        if version.size > MAX_SIZE {
            return Err(LdifFileError::TooLarge {
                path: path(),
                size: version.size,
            });
        }
        let mut text = Vec::new();
        Read::by_ref(&mut file)
            .take(MAX_SIZE)
            .read_to_end(&mut text)
            .map_err(read)?;
        let schema = Schema::standard();
        let asked = attributes.file_attributes();
        let naming = RequestedNames::of(&schema, asked.iter().map(String::as_str));
        let entries = ldif::parse(&text, |name| naming.is_requested(name)).map_err(|cause| {
            LdifFileError::Content {
                path: path(),
                cause,
            }
        })?;
        let entries: Vec<Entry> = (entries.into_iter())
            .map(|entry| naming.renamed(entry, &asked))
            .collect();
        if entries.is_empty() {
            return Err(LdifFileError::Empty { path: path() });
        }
        Ok(FileIndex::new(version, entries, attributes))
    }

    /// Returns an object with each of the tracked attributes, in their order.
    fn holders(&self, presence: &Presence) -> Arc<[Option<String>]> {
        let holders = presence.attributes().iter().map(|attribute| {
            let mut all = self.all.iter();
            let holder = all.find(|entry| has_value(entry, &attribute.name));
            holder.map(|entry| entry.dn.clone())
        });
        holders.collect()
    }

    fn new(version: FileVersion, all: Vec<Entry>, attributes: &Attributes) -> FileIndex {
        let all: Vec<Arc<Entry>> = all.into_iter().map(Arc::new).collect();
        let mut owners: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
        let mut names: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
        let mut groups: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
        let mut logins: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
        let mut journal = HashSet::new();
        let mut scan = ScanResult::default();
        for entry in &all {
            scan.add_entry(entry, attributes, &[], &[]);
            journal.extend(attributes.journal_keys_of(entry));
            for login in attributes.login_keys_of(entry) {
                let known = logins.entry(login).or_default();
                if !known.iter().any(|other| Arc::ptr_eq(other, entry)) {
                    known.push(Arc::clone(entry));
                }
            }
            for key in attributes.keys_of(entry) {
                owners.entry(key).or_default().push(Arc::clone(entry));
            }
            for member in members_of(entry) {
                groups.entry(member).or_default().push(Arc::clone(entry));
            }
            let primary = entry.values("primaryGroupID");
            let primary = primary.map(|token| ObjectName::PrimaryGroup(token.to_owned()).key());
            let uids = uid_keys(entry).into_iter().chain(primary);
            for key in resolve::object_keys(entry).into_iter().chain(uids) {
                names.entry(key).or_default().push(Arc::clone(entry));
            }
        }
        let owners = owners.into_iter().map(|(key, all)| (key, all.into()));
        FileIndex {
            version,
            all,
            owners: owners.collect(),
            names,
            groups,
            journal,
            journal_values: Arc::new(scan.journal_values(None)),
            logins: logins
                .into_iter()
                .map(|(key, all)| (key, all.into()))
                .collect(),
        }
    }
}

fn uid_keys(entry: &Entry) -> Vec<String> {
    let uids = entry.values("uid");
    uids.map(|uid| ObjectName::Uid(uid.to_owned()).key())
        .collect()
}

/// Returns the keys of a group's members.
fn members_of(entry: &Entry) -> impl Iterator<Item = String> {
    let named = ["member", "uniqueMember"].into_iter();
    let named = named.flat_map(|name| entry.values(name)).map(dn::key);
    let uids = entry.values("memberUid");
    named.chain(uids.map(|uid| ObjectName::Uid(uid.to_owned()).key()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEOPLE: &str = "dn: cn=ana\nmail: Ana@b.test\nproxyAddresses: smtp:ann@b.test\n\
                          extensionAttribute10: SMTP:J@b.test\n\ndn: cn=eve\nmail: eve@b.test\nmail: ana@B.test\n";

    const NEW: &str = "dn: cn=new\nmail: new@b.test\nextensionAttribute10: j@b.test\n";

    fn attributes() -> Attributes {
        Attributes::new(
            &["mail".into(), "proxyAddresses".into()],
            &["extensionAttribute10".into()],
        )
        .expect("valid names")
    }

    fn address(text: &str) -> Address {
        Address::parse(text).expect("a valid address")
    }

    struct Followed {
        directory: tempfile::TempDir,
        file: Arc<LdifFile>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Followed {
        fn new(text: &str) -> Followed {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("people.ldif");
            std::fs::write(&path, text).expect("a file");
            let file = Arc::new(LdifFile::open(&path, attributes()).expect("LDIF"));
            let task = tokio::spawn(Arc::clone(&file).follow());
            Followed {
                directory,
                file,
                task,
            }
        }

        /// Replaces the file as a careful writer does, and lets a second of the paused clock pass.
        async fn write(&self, text: &str) {
            let new = self.directory.path().join("new");
            std::fs::write(&new, text).expect("a file");
            std::fs::rename(&new, &self.file.path).expect("replaced");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }

        async fn count(&self, text: &str) -> Result<usize, Outage> {
            let found = self.file.find(&address(text)).await?;
            Ok(found.map_or(0, |objects| objects.len()))
        }
    }

    impl Drop for Followed {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn people_are_found_by_every_address_whatever_its_case() {
        let people = Followed::new(PEOPLE);
        assert_eq!(people.count("ANN@b.test").await, Ok(1));
        assert_eq!(people.count("ana@b.test").await, Ok(2));
        assert_eq!(people.count("no@b.test").await, Ok(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_within_a_second() {
        let people = Followed::new(PEOPLE);
        people.write(NEW).await;
        assert_eq!(people.count("new@b.test").await, Ok(1));
        assert_eq!(people.count("ana@b.test").await, Ok(0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalid_or_empty_file_keeps_the_previous_content() {
        let people = Followed::new(PEOPLE);
        for bad in ["nonsense", "", "# nobody\n"] {
            people.write(bad).await;
            assert_eq!(people.count("eve@b.test").await, Ok(1), "{bad:?}");
        }
        people.write(NEW).await;
        assert_eq!(people.count("eve@b.test").await, Ok(0), "good again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_vanished_file_is_an_outage_until_it_is_back() {
        let people = Followed::new(PEOPLE);
        std::fs::remove_file(&people.file.path).expect("removed");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let outage = people.count("eve@b.test").await.expect_err("an outage");
        assert!(outage.reason.contains("people.ldif"), "{outage}");
        assert!(people.file.describe().is_err());
        people.write(PEOPLE).await;
        assert_eq!(people.count("eve@b.test").await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_lost_all_journal_addresses_is_an_outage() {
        let people = Followed::new(PEOPLE);
        people.write("dn: cn=eve\nmail: eve@b.test\n").await;
        let outage = people.count("eve@b.test").await.expect_err("an outage");
        assert!(outage.reason.contains("extensionAttribute10"), "{outage}");
        people.write(NEW).await;
        assert_eq!(people.count("new@b.test").await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn options_and_aliases_of_attributes_are_read() {
        let people = Followed::new(
            "dn: cn=ana\nrfc822Mailbox: ana@b.test\nextensionAttribute10;lang-en: j@b.test\n",
        );
        assert_eq!(people.count("ana@b.test").await, Ok(1));
        let journal = address("j@b.test");
        let guarded = people.file.is_named_in_journal(&journal, &[]).await;
        assert_eq!(guarded, Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_no_longer_checked_is_not_trusted() {
        let people = Followed::new(PEOPLE);
        people.task.abort();
        tokio::time::sleep(MAX_CHECK_AGE + Duration::from_secs(1)).await;
        assert!(people.count("eve@b.test").await.is_err());
    }

    #[test]
    fn an_error_in_a_file_names_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("people.ldif");
        let missing = LdifFile::open(&path, attributes()).expect_err("no file");
        assert!(missing.to_string().contains("people.ldif"), "{missing}");
        std::fs::write(&path, "dn: x\nnonsense\n").expect("a file");
        let bad = LdifFile::open(&path, attributes()).expect_err("no LDIF");
        assert!(bad.to_string().contains("people.ldif, line 2: "), "{bad}");
    }
}
