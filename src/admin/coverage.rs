//! The last reading of the whole directory: who is journaled where, and what does not resolve.
//!
//! A directory of a hundred thousand people takes seconds to read, and its servers work for it. So
//! it is read when somebody asks for it, one reading at a time, and the page shows the last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::InForce;
use crate::directory::Outage;
use crate::pipeline::Pipeline;
use crate::survey::{self, Person, Summary};

/// People with a problem that are kept, and as many others; the rest is only counted. `copyist
/// coverage` lists everybody.
pub(super) const KEPT: usize = 5000;

/// A reading that has come to its end.
#[derive(Debug)]
pub(super) struct Read {
    /// When it began.
    pub(super) at: SystemTime,
    /// What was seen in all; or why it broke off.
    pub(super) summary: Result<Summary, Outage>,
    /// People with a value that leads nowhere, or an address that is not theirs alone.
    pub(super) problems: Vec<Person>,
    /// The others.
    pub(super) others: Vec<Person>,
}

/// Readings: the last, and that under way.
#[derive(Debug, Default)]
pub(super) struct Coverage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many objects the one under way has seen.
    under_way: Option<u64>,
    last: Option<Arc<Read>>,
}

impl Coverage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the one under way is, and the last.
    pub(super) fn look(&self) -> (Option<u64>, Option<Arc<Read>>) {
        let state = self.state();
        (state.under_way, state.last.clone())
    }

    /// Whether the caller is to read: nobody else does.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.state();
        let free = state.under_way.is_none();
        if free {
            state.under_way = Some(0);
        }
        free
    }

    /// Ends what [`Coverage::begin`] began, however it went.
    pub(super) fn end(&self, read: Option<Read>) {
        let mut state = self.state();
        state.under_way = None;
        if let Some(read) = read {
            state.last = Some(Arc::new(read));
        }
    }

    /// Reads everybody.
    pub(super) async fn read(&self, pipeline: &Pipeline, in_force: &InForce) -> Read {
        let at = SystemTime::now();
        let mut reading = survey::Coverage::begin(
            pipeline.identities.directory(),
            &in_force.address_attributes,
            &pipeline.rules,
        );
        let (mut problems, mut others) = (Vec::new(), Vec::new());
        let outage = loop {
            let people = match reading.next().await {
                Ok(people) if people.is_empty() => break None,
                Ok(people) => people,
                Err(outage) => break Some(outage),
            };
            if let Some(seen) = &mut self.state().under_way {
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
        Read {
            at,
            summary: match outage {
                None => Ok(reading.end(pipeline.guarded.get().as_deref())),
                Some(outage) => Err(outage),
            },
            problems,
            others,
        }
    }
}
