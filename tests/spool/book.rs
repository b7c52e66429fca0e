//! The book of acknowledgements, on a file system that is not cut, and its verification.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use copyist::spool::{ListFilter, Spool, SpoolError};

use super::messages::{Act, act_on, address, id, items};

/// How far a message is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Its commit was acknowledged.
    Committed,
    /// Its delivery result was being recorded: the old or the new state, item by item.
    Acting,
    /// Its delivery result was acknowledged.
    Acted,
}

/// Acknowledgements by message number.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub promised: BTreeMap<usize, Progress>,
    /// The last promise of all: the one that a missing sync loses first.
    pub newest: Option<usize>,
}

impl Book {
    /// Takes a line of the worker. Tells whether it is an acknowledgement.
    pub fn note(&mut self, line: &str) -> bool {
        let mut words = line.split(' ');
        let (Some(word), Some(n)) = (words.next(), words.next()) else {
            return false;
        };
        let (Ok(n), Some(stage)) = (n.parse(), stage(word)) else {
            return false;
        };
        self.promised.insert(n, stage);
        let is_promise = stage != Progress::Acting;
        if is_promise {
            self.newest = Some(n);
        }
        is_promise
    }

    /// Takes a line of a worker whose power was cut at this moment. An acknowledgement that came
    /// later is none: while the file system is shut down, ext4 may call a sync done that was not.
    /// `jbd2_complete_transaction` takes a transaction that is neither running nor being committed
    /// for one that was written, and does not look whether the journal was aborted meanwhile
    /// (`fs/jbd2/journal.c`). No disk without power does that.
    pub fn note_before(&mut self, line: &str, cut: u128) -> bool {
        let said = line.split(' ').nth(2).and_then(|stamp| stamp.parse().ok());
        match said {
            Some(at) if cut <= at => false,
            // What is about to become of a message of which no commit counts.
            None if !self.knows(line) => false,
            _ => self.note(line),
        }
    }

    /// Whether a line is about a message that was promised.
    fn knows(&self, line: &str) -> bool {
        let n = line.split(' ').nth(1).and_then(|n| n.parse().ok());
        n.is_some_and(|n: usize| self.promised.contains_key(&n))
    }

    pub fn write(&self, path: &Path) {
        let lines = self.promised.iter().map(|(n, stage)| {
            let word = match stage {
                Progress::Committed => "committed",
                Progress::Acting => "acting",
                Progress::Acted => "acted",
            };
            format!("{word} {n}\n")
        });
        let newest = self.newest.map(|n| format!("newest {n}\n"));
        let text: String = lines.chain(newest).collect();
        std::fs::write(path, text).expect("the host's file system has room");
    }

    pub fn read(path: &Path) -> Book {
        let mut book = Book::default();
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            match line.strip_prefix("newest ") {
                Some(n) => book.newest = n.parse().ok(),
                None => _ = book.note(line),
            }
        }
        book
    }

    /// Looks for everything in the spool; gives a line for each promise that was broken, beginning
    /// with the message's number.
    pub async fn broken(&self, spool: &Spool) -> Vec<(usize, String)> {
        let mut broken = Vec::new();
        for (n, stage) in &self.promised {
            if let Err(why) = kept(spool, *n, *stage).await {
                broken.push((*n, why));
            }
        }
        broken.extend(self.torn(spool).await);
        broken
    }

    /// A message without an acknowledgement may be present or absent, but not in part.
    async fn torn(&self, spool: &Spool) -> Vec<(usize, String)> {
        let filter = ListFilter {
            dead_only: false,
            limit: 1_000_000,
        };
        let mut there: HashMap<usize, usize> = HashMap::new();
        let mut torn = Vec::new();
        for listed in spool.list(filter).await.expect("the spool can be read") {
            let n: usize = listed.queue_id.parse().expect("a number, as committed");
            if self.promised.contains_key(&n) {
                continue;
            }
            *there.entry(n).or_default() += 1;
            if let Err(error) = spool.load(&listed.id).await {
                torn.push((n, format!("not promised, but damaged: {error}")));
            }
        }
        let halves = there
            .into_iter()
            .filter(|(n, count)| *count != items(*n).len());
        torn.extend(halves.map(|(n, count)| {
            (
                n,
                format!("not promised, but {count} items of it are there"),
            )
        }));
        torn
    }
}

fn stage(word: &str) -> Option<Progress> {
    match word {
        "committed" => Some(Progress::Committed),
        "acting" => Some(Progress::Acting),
        "acted" => Some(Progress::Acted),
        _ => None,
    }
}

/// Whether a message is in the spool as it was promised.
async fn kept(spool: &Spool, n: usize, stage: Progress) -> Result<(), String> {
    for (k, _) in items(n).iter().enumerate() {
        let before = is_as_committed(spool, n, k).await;
        let after = is_as_acted(spool, n, k).await;
        match stage {
            Progress::Committed => before?,
            Progress::Acted => after?,
            Progress::Acting => before.or(after)?,
        }
    }
    Ok(())
}

async fn is_as_committed(spool: &Spool, n: usize, k: usize) -> Result<(), String> {
    let (item, original) = items(n).swap_remove(k);
    let loaded = spool
        .load(&item.id)
        .await
        .map_err(|error| error.to_string())?;
    if loaded.original.read().ok() != Some(original) {
        return Err(format!("item {k} has another original"));
    }
    if format!("{:?}", loaded.item) != format!("{item:?}") {
        return Err(format!("item {k} is another: {:?}", loaded.item));
    }
    if loaded.waiting != item.targets {
        return Err(format!("item {k} waits for {:?}", loaded.waiting));
    }
    Ok(())
}

async fn is_as_acted(spool: &Spool, n: usize, k: usize) -> Result<(), String> {
    let found = spool.load(&id(n, k)).await;
    match act_on(n) {
        Act::Stay => return is_as_committed(spool, n, k).await,
        Act::Deliver | Act::Refuse => match found {
            Err(SpoolError::Unknown(_)) => {}
            other => return Err(format!("item {k} is there still: {:?}", other.err())),
        },
        Act::Halve => match found {
            Ok(loaded) if loaded.waiting == [address("b")] => {}
            other => {
                return Err(format!(
                    "item {k} is not half done: {:?}",
                    other.map(|loaded| loaded.waiting)
                ));
            }
        },
    }
    if act_on(n) == Act::Refuse {
        let ndr = spool.load(&id(n, 4 + k)).await;
        let ndr = ndr.map_err(|error| format!("the NDR about item {k}: {error}"))?;
        if ndr.original.read().ok().as_ref() != Some(&items(n)[k].1) {
            return Err(format!("the NDR about item {k} has another original"));
        }
    }
    Ok(())
}
