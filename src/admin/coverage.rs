//! The last scan of the whole directory: journal addresses of all people, and unresolved values.
//!
//! Scanning a hundred thousand people takes seconds and loads the servers. So the directory is
//! scanned only on request, once at a time, and the page shows the last result.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::ActiveConfig;
use crate::directory::Outage;
use crate::pipeline::Pipeline;
use crate::survey::{self, Person, Summary};

/// The most people with a problem, and as many others, that are kept; the rest are only counted.
/// `copyist coverage` lists everybody.
pub(super) const KEPT: usize = 5000;

/// A finished scan.
#[derive(Debug)]
pub(super) struct DirectoryScan {
    /// Its start.
    pub(super) at: SystemTime,
    /// The summary, or the outage that ended the scan.
    pub(super) summary: Result<Summary, Outage>,
    /// People with an unresolved value or a shared address.
    pub(super) problems: Vec<Person>,
    /// All other people.
    pub(super) others: Vec<Person>,
}

/// The last scan and the progress of a running one.
#[derive(Debug, Default)]
pub(super) struct Coverage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Objects read by the running scan.
    progress: Option<u64>,
    last: Option<Arc<DirectoryScan>>,
}

impl Coverage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the progress of a running scan, and the last result.
    pub(super) fn status(&self) -> (Option<u64>, Option<Arc<DirectoryScan>>) {
        let state = self.state();
        (state.progress, state.last.clone())
    }

    /// Starts a scan; returns false if one is running.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.state();
        let free = state.progress.is_none();
        if free {
            state.progress = Some(0);
        }
        free
    }

    /// Ends a scan started with [`Coverage::begin`].
    pub(super) fn end(&self, read: Option<DirectoryScan>) {
        let mut state = self.state();
        state.progress = None;
        if let Some(read) = read {
            state.last = Some(Arc::new(read));
        }
    }

    /// Scans the directory.
    pub(super) async fn read(&self, pipeline: &Pipeline, active: &ActiveConfig) -> DirectoryScan {
        let at = SystemTime::now();
        let mut reading = survey::Coverage::begin(
            pipeline.ruleset.identities.directory(),
            &active.address_attributes,
            &pipeline.ruleset.rules,
        );
        let (mut problems, mut others) = (Vec::new(), Vec::new());
        let outage = loop {
            let people = match reading.next().await {
                Ok(people) if people.is_empty() => break None,
                Ok(people) => people,
                Err(outage) => break Some(outage),
            };
            if let Some(seen) = &mut self.state().progress {
                *seen += people.len() as u64;
            }
            for person in people {
                let list = match person.has_problem() {
                    true => &mut problems,
                    false => &mut others,
                };
                if list.len() < KEPT {
                    list.push(person);
                }
            }
        };
        DirectoryScan {
            at,
            summary: match outage {
                None => Ok(reading.end(pipeline.services.guarded.get().as_deref())),
                Some(outage) => Err(outage),
            },
            problems,
            others,
        }
    }
}
