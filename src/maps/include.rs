//! The files that aliases name as `:include:/file`.
//!
//! Promises: a file named in the entries of a map is read before the map is used, and followed from
//! then on.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tokens;
use super::watched::{WatchedFile, cannot_read, read_text};

const PREFIX: &str = ":include:";

/// All included files, by path.
pub(super) struct Includes {
    files: ArcSwap<HashMap<String, Arc<WatchedFile<Include>>>>,
    known: Mutex<HashSet<String>>,
    runtime: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The content of an included file.
#[derive(Debug)]
pub(super) enum Include {
    /// Its lines, comments left out.
    Lines(Arc<[String]>),
    /// The MTA rejects the file for this reason, and bounces the mail.
    Refused(&'static str),
}

/// Returns the path that an address names, if it names a file to include.
pub(super) fn included(address: &str) -> Option<&str> {
    let (prefix, path) = address.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(path)
}

/// Returns the paths that a value names.
fn paths_in(value: &str) -> Vec<String> {
    if !value.contains(':') {
        return Vec::new();
    }
    let addresses = tokens::addresses(value).into_iter();
    addresses
        .filter_map(|address| included(&tokens::internal(&address)).map(str::to_owned))
        .filter(|path| path.starts_with('/'))
        .collect()
}

impl Includes {
    /// Creates an empty set. Must be called within a runtime.
    pub(super) fn new(tasks: &TaskTracker, stop: &CancellationToken) -> Arc<Includes> {
        Arc::new(Includes {
            files: ArcSwap::default(),
            known: Mutex::default(),
            runtime: Handle::current(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        })
    }

    /// Returns the file, if it is one that was read.
    pub(super) fn get(&self, path: &str) -> Option<Arc<WatchedFile<Include>>> {
        self.files.load().get(path).cloned()
    }

    /// Returns all files.
    pub(super) fn all(&self) -> Vec<(String, Arc<WatchedFile<Include>>)> {
        let files = self.files.load();
        let mut all: Vec<_> = (files.iter())
            .map(|(path, file)| (path.clone(), Arc::clone(file)))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Reads the files named in these values, and recursively in their lines. Blocks.
    pub(super) fn read_all<'a>(self: &Arc<Includes>, values: impl Iterator<Item = &'a str>) {
        for path in values.flat_map(paths_in) {
            self.read_new(path);
        }
    }

    fn read_new(self: &Arc<Includes>, path: String) {
        let is_new = (self.known.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.clone());
        if is_new {
            self.read(path);
        }
    }

    /// Reads a new file in the background.
    pub(super) fn read_later(self: &Arc<Includes>, path: &str) {
        let includes = Arc::clone(self);
        let path = path.to_owned();
        self.tasks
            .spawn_blocking_on(move || includes.read_new(path), &self.runtime);
    }

    fn read(self: &Arc<Includes>, path: String) {
        let (file, includes) = (PathBuf::from(&path), Arc::clone(self));
        let load = {
            let file = file.clone();
            move || includes.load(&file)
        };
        let watched = WatchedFile::open(format!("{PREFIX}{path}"), file, load);
        let follow = Arc::clone(&watched).follow(self.stop.clone());
        self.tasks.spawn_on(follow, &self.runtime);
        self.files.rcu(|files| {
            let mut files = HashMap::clone(files);
            files.insert(path.clone(), Arc::clone(&watched));
            files
        });
    }

    fn load(self: &Arc<Includes>, path: &Path) -> Result<Include, String> {
        let metadata = std::fs::metadata(path).map_err(|cause| cannot_read(path, &cause))?;
        if metadata.mode() & 0o002 != 0 {
            return Ok(Include::Refused("everybody may write to the file"));
        }
        let text = read_text(path)?;
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines: Arc<[String]> = lines.map(str::to_owned).collect();
        self.read_all(lines.iter().map(String::as_str));
        Ok(Include::Lines(lines))
    }
}
