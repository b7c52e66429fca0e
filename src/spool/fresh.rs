//! What was committed a moment ago, as it was given, and what was read ahead: a delivery need not
//! read it one by one.
//!
//! Nothing is owed because of this, and nothing is lost with it: what is not here is read. An item
//! is taken out by its first delivery, so that what came of that is never forgotten for what stood
//! here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{QueuedItem, Submission};
use crate::journal::ItemId;
use crate::mail::Content;

/// Bytes that are remembered at most; the oldest go first.
const BYTES: usize = 8 << 20;

/// Names of taken items that are left among the others.
const SPARE: usize = 1000;

/// Items by their names, within [`BYTES`].
#[derive(Debug, Default)]
pub(super) struct Fresh {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    items: HashMap<ItemId, QueuedItem>,
    /// Names in the order they came; those that were taken are still among them.
    order: VecDeque<ItemId>,
    bytes: usize,
}

impl Fresh {
    /// Remembers what is about to be committed, but for large messages, which are files and stay
    /// there. Before it is committed: once it can be seen there, its first delivery may begin, and
    /// what is put here after that would be older than what the delivery wrote.
    pub(super) fn put(
        &self,
        received: SystemTime,
        submissions: &[Submission],
        inline_limit: usize,
    ) {
        let mut known = self.lock();
        for Submission { original, items } in submissions {
            for item in items {
                known.put(
                    QueuedItem {
                        item: item.clone(),
                        original: original.clone(),
                        waiting: item.targets.clone(),
                        attempts: 0,
                        received,
                    },
                    inline_limit,
                );
            }
        }
    }

    /// Remembers what was read of an item that nobody else may deliver meanwhile.
    pub(super) fn put_owed(&self, owed: QueuedItem, inline_limit: usize) {
        self.lock().put(owed, inline_limit);
    }

    pub(super) fn has(&self, id: &ItemId) -> bool {
        self.lock().items.contains_key(id)
    }

    /// Takes an item out.
    pub(super) fn take(&self, id: &ItemId) -> Option<QueuedItem> {
        self.lock().take(id)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn put(&mut self, owed: QueuedItem, inline_limit: usize) {
        match &owed.original {
            Content::Memory(bytes) if bytes.len() <= inline_limit => {}
            _ => return,
        }
        self.bytes += owed.size();
        self.order.push_back(owed.id().clone());
        if let Some(before) = self.items.insert(owed.id().clone(), owed) {
            self.bytes -= before.size();
        }
        while self.bytes > BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.take(&oldest);
        }
        // The names of those that were taken would add up.
        if self.order.len() > 2 * self.items.len() + SPARE {
            let Known { items, order, .. } = self;
            order.retain(|id| items.contains_key(id));
        }
    }

    fn take(&mut self, id: &ItemId) -> Option<QueuedItem> {
        let owed = self.items.remove(id)?;
        self.bytes -= owed.size();
        Some(owed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::item;

    fn submission(n: usize, size: usize) -> Submission {
        Submission {
            original: Content::Memory(vec![b'x'; size].into()),
            items: vec![item(n, &["a@c.test"])],
        }
    }

    #[test]
    fn an_item_is_taken_once_and_the_oldest_make_room() {
        let fresh = Fresh::default();
        let submissions: Vec<Submission> = (0..4).map(|n| submission(n, BYTES / 3)).collect();
        for submission in &submissions {
            fresh.put(SystemTime::now(), std::slice::from_ref(submission), BYTES);
        }
        let take = |n: usize| fresh.take(&submissions[n].items[0].id);
        assert!(take(0).is_none(), "it made room");
        let owed = take(3).expect("it is the newest");
        assert_eq!(owed.waiting, owed.item.targets);
        assert!(take(3).is_none(), "it was taken");
        let known = fresh.known.lock().expect("nobody panicked");
        let sizes: usize = known.items.values().map(QueuedItem::size).sum();
        assert_eq!(known.bytes, sizes);
    }

    #[test]
    fn names_of_what_was_taken_do_not_add_up() {
        let fresh = Fresh::default();
        fresh.put(SystemTime::now(), &[submission(0, 1)], BYTES);
        for n in 1..10 * SPARE {
            fresh.put(SystemTime::now(), &[submission(n, 1)], BYTES);
            assert!(fresh.take(&item(n, &[]).id).is_some());
        }
        let known = fresh.known.lock().expect("nobody panicked");
        assert!(known.order.len() <= SPARE + 2, "{}", known.order.len());
        assert_eq!(known.items.len(), 1);
    }
}
