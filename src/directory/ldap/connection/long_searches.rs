//! Searches without a time limit: paged and persistent ones.

use std::sync::Arc;

use ldap3::adapters::PagedResults;
use ldap3::controls::{Control, ControlType, RawControl, SyncInfo, SyncState, parse_syncinfo};
use ldap3::{Ldap, SearchEntry};
use tokio::sync::mpsc;

use super::entry_reader::EntryReader;
use super::{Connection, SearchRequest};
use crate::directory::entry::Entry;
use crate::directory::ldap::error::{SearchError, check_search_result};

/// Entries in one page, the maximum of Active Directory.
const PAGE_SIZE: i32 = 1000;
/// Items read ahead of the receiver.
const ITEM_BUFFER: usize = 256;

/// An item from a persistent search.
#[derive(Debug)]
pub(in crate::directory::ldap) enum FeedItem {
    /// An object, and with content synchronization its state.
    Entry(Entry, Option<SyncState>),
    /// Progress of content synchronization.
    SyncInfo(SyncInfo),
    /// The end of the search, and the reason.
    ConnectionEnd(SearchError),
}

impl Connection {
    /// Runs a search in pages (RFC 2696) for any number of entries. The last item is an error if
    /// the result is incomplete.
    pub(in crate::directory::ldap) fn list_paged(
        self: &Arc<Self>,
        search: SearchRequest,
    ) -> mpsc::Receiver<Result<Entry, SearchError>> {
        let (sender, listed) = mpsc::channel(ITEM_BUFFER);
        let connection = Arc::clone(self);
        // A task of its own, since the library panics on invalid entries.
        let reading = tokio::spawn({
            let sender = sender.clone();
            async move { connection.read_pages(search, &sender).await }
        });
        let url = self.url.clone();
        tokio::spawn(async move {
            let error = match reading.await {
                Ok(None) => return,
                Ok(Some(error)) => error,
                Err(_) => SearchError::ConnectionLost(format!("{url} sent an invalid answer")),
            };
            let _ = sender.send(Err(error)).await;
        });
        listed
    }

    async fn read_pages(
        &self,
        search: SearchRequest,
        sender: &mpsc::Sender<Result<Entry, SearchError>>,
    ) -> Option<SearchError> {
        let _alone = self.list_lock.lock().await;
        let mut ldap = self.ldap.clone();
        // The timeout applies to each entry.
        ldap.with_timeout(self.access.timeout);
        let asked = search.attributes.clone();
        let reading = EntryReader::of(self, &asked);
        let filter = self.with_server_names(&search.filter);
        let starting = ldap.streaming_search_with(
            PagedResults::new(PAGE_SIZE),
            &search.base,
            search.scope,
            &filter,
            search.attributes,
        );
        let mut stream = match starting.await {
            Ok(stream) => stream,
            Err(error) => return Some(self.search_failed(&error)),
        };
        loop {
            match stream.next().await {
                Ok(Some(item)) if item.is_ref() || item.is_intermediate() => {}
                Ok(Some(item)) => {
                    self.note_activity();
                    if sender
                        .send(Ok(reading.entry(SearchEntry::construct(item))))
                        .await
                        .is_err()
                    {
                        return None;
                    }
                }
                Ok(None) => break,
                Err(error) => return Some(self.search_failed(&error)),
            }
        }
        let result = stream.finish().await;
        check_search_result(&self.url, &search.base, &result)
    }

    /// Runs a persistent search: forwards items until the server, the connection or the receiver
    /// ends it. The last item is [`FeedItem::ConnectionEnd`], unless the receiver ended it.
    pub(in crate::directory::ldap) fn search_persistent(
        self: &Arc<Self>,
        search: SearchRequest,
        control: RawControl,
    ) -> mpsc::Receiver<FeedItem> {
        let (sender, items) = mpsc::channel(ITEM_BUFFER);
        let connection = Arc::clone(self);
        let reading = tokio::spawn(async move {
            let mut ldap = connection.ldap.clone();
            let end = connection
                .forward_items(&mut ldap, search, control, &sender)
                .await;
            if sender.is_closed() && !connection.is_closed() {
                connection.abandon(ldap.last_id()).await;
            }
            (sender, end)
        });
        // A task of its own, since the library panics on invalid answers.
        tokio::spawn(async move {
            if let Ok((sender, end)) = reading.await {
                let _ = sender.send(FeedItem::ConnectionEnd(end)).await;
            }
        });
        items
    }

    async fn forward_items(
        &self,
        ldap: &mut Ldap,
        search: SearchRequest,
        control: RawControl,
        sender: &mpsc::Sender<FeedItem>,
    ) -> SearchError {
        ldap.with_controls(control);
        let asked = search.attributes.clone();
        let reading = EntryReader::of(self, &asked);
        let starting = ldap.streaming_search(
            &search.base,
            search.scope,
            &search.filter,
            search.attributes,
        );
        let mut stream = match starting.await {
            Ok(stream) => stream,
            Err(error) => return self.search_failed(&error),
        };
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = sender.closed() => return SearchError::QueryFailed("receiver closed".into()),
            };
            let item = match next {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(error) => return self.search_failed(&error),
            };
            self.note_activity();
            let items = if item.is_ref() {
                continue;
            } else if item.is_intermediate() {
                FeedItem::SyncInfo(parse_syncinfo(item))
            } else {
                let state = item.1.iter().find_map(|Control(kind, raw)| {
                    matches!(kind, Some(ControlType::SyncState)).then(|| raw.parse::<SyncState>())
                });
                FeedItem::Entry(reading.entry(SearchEntry::construct(item)), state)
            };
            if sender.send(items).await.is_err() {
                return SearchError::QueryFailed("receiver closed".into());
            }
        }
        let result = stream.finish().await;
        check_search_result(&self.url, &search.base, &result).unwrap_or_else(|| {
            SearchError::ConnectionLost(format!("{} ended the change feed", self.url))
        })
    }
}
