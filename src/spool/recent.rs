//! Recently committed items and items read ahead, so that a delivery need not read them one by one.
//!
//! Nothing depends on this cache: an item that is not in it is read from the engine. A delivery
//! takes an item out, so that what it records is never forgotten for the older copy here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::types::{QueuedItem, Submission};
use crate::journal::ItemId;
use crate::mail::Content;

/// Maximum size of the cached items; the oldest are dropped first.
const MAX_BYTES: usize = 8 << 20;

/// Number of IDs of taken items that may remain in the order before it is cleaned up.
const SPARE: usize = 1000;

/// Items by ID, within [`MAX_BYTES`].
#[derive(Debug)]
pub(super) struct RecentItems {
    inline_limit: usize,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    items: HashMap<ItemId, QueuedItem>,
    /// IDs, oldest first, including those of items that were taken.
    order: VecDeque<ItemId>,
    bytes: usize,
}

impl RecentItems {
    /// An empty cache that leaves out items with originals over `inline_limit` bytes.
    pub(super) fn new(inline_limit: usize) -> RecentItems {
        RecentItems {
            inline_limit,
            cache: Mutex::default(),
        }
    }

    /// Adds items that are about to be committed. Once they are committed their delivery may begin,
    /// and a copy added after that would be older than what the delivery recorded.
    pub(super) fn add_submissions(&self, received: SystemTime, submissions: &[Submission]) {
        let mut cache = self.lock();
        for Submission { original, items } in submissions {
            if !self.admits(original) {
                continue;
            }
            for item in items {
                cache.add(QueuedItem {
                    item: item.clone(),
                    original: original.clone(),
                    waiting: item.targets.clone(),
                    attempts: 0,
                    received,
                });
            }
        }
    }

    /// Adds a loaded item that nobody else may deliver meanwhile.
    pub(super) fn add(&self, item: QueuedItem) {
        if self.admits(&item.original) {
            self.lock().add(item);
        }
    }

    pub(super) fn contains(&self, id: &ItemId) -> bool {
        self.lock().items.contains_key(id)
    }

    /// Takes an item out.
    pub(super) fn take(&self, id: &ItemId) -> Option<QueuedItem> {
        self.lock().take(id)
    }

    fn admits(&self, original: &Content) -> bool {
        matches!(original, Content::Memory(bytes) if bytes.len() <= self.inline_limit)
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn add(&mut self, item: QueuedItem) {
        self.bytes += item.size();
        self.order.push_back(item.id().clone());
        if let Some(before) = self.items.insert(item.id().clone(), item) {
            self.bytes -= before.size();
        }
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.take(&oldest);
        }
        // Otherwise the IDs of taken items would accumulate.
        if self.order.len() > 2 * self.items.len() + SPARE {
            let Cache { items, order, .. } = self;
            order.retain(|id| items.contains_key(id));
        }
    }

    fn take(&mut self, id: &ItemId) -> Option<QueuedItem> {
        let item = self.items.remove(id)?;
        self.bytes -= item.size();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::conformance::item;

    fn add(recent: &RecentItems, n: usize, size: usize) -> ItemId {
        let submission = Submission {
            original: Content::Memory(vec![b'x'; size].into()),
            items: vec![item(n, &["a@c.test"])],
        };
        recent.add_submissions(SystemTime::now(), std::slice::from_ref(&submission));
        submission.items[0].id.clone()
    }

    #[test]
    fn an_item_is_taken_once_and_the_oldest_make_room() {
        let recent = RecentItems::new(MAX_BYTES);
        let ids: Vec<ItemId> = (0..4).map(|n| add(&recent, n, MAX_BYTES / 3)).collect();
        assert!(recent.take(&ids[0]).is_none(), "it made room");
        let item = recent.take(&ids[3]).expect("the newest item");
        assert_eq!(item.waiting, item.item.targets);
        assert!(recent.take(&ids[3]).is_none(), "it was taken");
        let cache = recent.lock();
        let sizes: usize = cache.items.values().map(QueuedItem::size).sum();
        assert_eq!(cache.bytes, sizes);
    }

    #[test]
    fn ids_of_taken_items_do_not_accumulate() {
        let recent = RecentItems::new(MAX_BYTES);
        add(&recent, 0, 1);
        for n in 1..10 * SPARE {
            let id = add(&recent, n, 1);
            assert!(recent.take(&id).is_some());
        }
        let cache = recent.lock();
        assert!(cache.order.len() <= SPARE + 2, "{}", cache.order.len());
        assert_eq!(cache.items.len(), 1);
    }
}
