//! Searches that take as long as they take: long lists, and questions that stay.

use std::sync::Arc;

use ldap3::adapters::PagedResults;
use ldap3::controls::{Control, ControlType, RawControl, SyncInfo, SyncState, parse_syncinfo};
use ldap3::{Ldap, SearchEntry};
use tokio::sync::mpsc;

use super::reading::Reading;
use super::{Connection, Search};
use crate::directory::entry::Entry;
use crate::directory::ldap::fault::{Fault, search_fault};

/// Entries in one page of a long list; Active Directory gives no more.
const PAGE: i32 = 1000;
/// Changes and entries that are read before they are dealt with.
const TOLD: usize = 256;

/// What comes of a question that stays.
#[derive(Debug)]
pub(in crate::directory::ldap) enum Told {
    /// An object, and with content synchronization what became of it.
    Entry(Entry, Option<SyncState>),
    /// Where content synchronization stands.
    Info(SyncInfo),
    /// No more will come, and why.
    End(Fault),
}

impl Connection {
    /// The entries found, read in pages (RFC 2696), however many they are. The last item is a fault
    /// where they are not all.
    pub(in crate::directory::ldap) fn list(
        self: &Arc<Self>,
        search: Search,
    ) -> mpsc::Receiver<Result<Entry, Fault>> {
        let (tell, listed) = mpsc::channel(TOLD);
        let connection = Arc::clone(self);
        // A task of its own, since unreadable entries make the library panic.
        let reading = tokio::spawn({
            let tell = tell.clone();
            async move { connection.read_pages(search, &tell).await }
        });
        let url = self.url.clone();
        tokio::spawn(async move {
            let fault = match reading.await {
                Ok(None) => return,
                Ok(Some(fault)) => fault,
                Err(_) => Fault::Lost(format!("{url} sent an answer that cannot be read")),
            };
            let _ = tell.send(Err(fault)).await;
        });
        listed
    }

    async fn read_pages(
        &self,
        search: Search,
        tell: &mpsc::Sender<Result<Entry, Fault>>,
    ) -> Option<Fault> {
        let _alone = self.listing.lock().await;
        let mut ldap = self.ldap.clone();
        // For each entry, not for all of them.
        ldap.with_timeout(self.access.timeout);
        let asked = search.attributes.clone();
        let reading = Reading::of(self, &asked);
        let filter = self.in_names(&search.filter);
        let starting = ldap.streaming_search_with(
            PagedResults::new(PAGE),
            &search.base,
            search.scope,
            &filter,
            search.attributes,
        );
        let mut stream = match starting.await {
            Ok(stream) => stream,
            Err(error) => return Some(self.broken(&error)),
        };
        loop {
            match stream.next().await {
                Ok(Some(item)) if item.is_ref() || item.is_intermediate() => {}
                Ok(Some(item)) => {
                    self.hear();
                    if tell
                        .send(Ok(reading.entry(SearchEntry::construct(item))))
                        .await
                        .is_err()
                    {
                        return None;
                    }
                }
                Ok(None) => break,
                Err(error) => return Some(self.broken(&error)),
            }
        }
        let result = stream.finish().await;
        search_fault(&self.url, &search.base, &result)
    }

    /// Asks a question that stays: what comes is handed on until the server, the connection or the
    /// receiver ends it. The last item is [`Told::End`], unless the receiver ended it.
    pub(in crate::directory::ldap) fn follow(
        self: &Arc<Self>,
        search: Search,
        control: RawControl,
    ) -> mpsc::Receiver<Told> {
        let (tell, told) = mpsc::channel(TOLD);
        let connection = Arc::clone(self);
        let reading = tokio::spawn(async move {
            let mut ldap = connection.ldap.clone();
            let end = connection.read_on(&mut ldap, search, control, &tell).await;
            if tell.is_closed() && !connection.is_lost() {
                connection.abandon(ldap.last_id()).await;
            }
            (tell, end)
        });
        // A task of its own, since the library panics on answers that it cannot make sense of.
        tokio::spawn(async move {
            if let Ok((tell, end)) = reading.await {
                let _ = tell.send(Told::End(end)).await;
            }
        });
        told
    }

    async fn read_on(
        &self,
        ldap: &mut Ldap,
        search: Search,
        control: RawControl,
        tell: &mpsc::Sender<Told>,
    ) -> Fault {
        ldap.with_controls(control);
        let asked = search.attributes.clone();
        let reading = Reading::of(self, &asked);
        let starting = ldap.streaming_search(
            &search.base,
            search.scope,
            &search.filter,
            search.attributes,
        );
        let mut stream = match starting.await {
            Ok(stream) => stream,
            Err(error) => return self.broken(&error),
        };
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = tell.closed() => return Fault::Question("nobody listens any more".into()),
            };
            let item = match next {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(error) => return self.broken(&error),
            };
            self.hear();
            let told = if item.is_ref() {
                continue;
            } else if item.is_intermediate() {
                Told::Info(parse_syncinfo(item))
            } else {
                let state = item.1.iter().find_map(|Control(kind, raw)| {
                    matches!(kind, Some(ControlType::SyncState)).then(|| raw.parse::<SyncState>())
                });
                Told::Entry(reading.entry(SearchEntry::construct(item)), state)
            };
            if tell.send(told).await.is_err() {
                return Fault::Question("nobody listens any more".into());
            }
        }
        let result = stream.finish().await;
        search_fault(&self.url, &search.base, &result)
            .unwrap_or_else(|| Fault::Lost(format!("{} ended the feed of changes", self.url)))
    }
}
