//! Probes of the servers, for `check` and `doctor`.

use std::sync::Arc;
use std::time::Duration;

use ldap3::Scope;
use tokio::time::Instant;

use super::connection::{Connection, SearchRequest};
use super::error::SearchError;
use super::url::ServerUrl;
use super::{Client, indexes};
use crate::directory::entry::Entry;
use crate::directory::presence::has_value;
use crate::directory::scan::ScanStage;
use crate::directory::settings::WatchMode;
use crate::directory::source::ServerProbe;
use crate::directory::stamp::with_stamp_attributes;

/// Objects read to check that an attribute is readable.
const PROBE_SIZE: usize = 20;

/// A lookup that takes longer probably has no index.
const SLOW_LOOKUP: Duration = Duration::from_millis(100);

impl Client {
    /// Reports the result of the scan for values in unusual forms.
    pub(super) async fn probe_scan(&self) -> Result<String, String> {
        match self
            .scan
            .wait_for_first(Instant::now() + self.access.timeout)
            .await
        {
            ScanStage::Done(None) => Ok(match self.scan.unusual_count() {
                0 => "all addresses are in usual forms".to_owned(),
                count => format!("{count} addresses and journal values are in unusual forms"),
            }),
            ScanStage::Done(Some(why)) | ScanStage::Failed(why) => Err(why),
            ScanStage::Pending => Ok(
                "the scan for addresses in unusual forms takes longer than directory.timeout"
                    .to_owned(),
            ),
        }
    }

    pub(super) async fn probe(&self, url: &ServerUrl) -> ServerProbe {
        let access = &self.access;
        let begun = Instant::now();
        let connection = match Connection::connect(url, access, access.timeout).await {
            Ok(connection) => connection,
            Err(error) => {
                return ServerProbe {
                    url: url.to_string(),
                    outcome: Err(match access.bind.is_none() && !access.gssapi {
                        true => format!(
                            "{error}; directory.bind_dn is not set, so Copyist is anonymous here"
                        ),
                        false => error.to_string(),
                    }),
                    remarks: Vec::new(),
                    empty_journal_attributes: Vec::new(),
                    expires: None,
                    unindexed: Vec::new(),
                };
            }
        };
        let who = match &access.bind {
            Some(bind) => format!("bound as {:?}", bind.dn),
            None if access.gssapi => "bound by Kerberos".to_owned(),
            None => "bound anonymously".to_owned(),
        };
        let took = begun.elapsed().as_millis();
        let mut remarks = Vec::new();
        let mut used = Vec::new();
        let mut empty_journal_attributes = Vec::new();
        let mut stamped_object: Option<Entry> = None;
        for attribute in self.attributes.configured() {
            let holder = self.probe_attribute(&connection, &attribute).await;
            let is_journal = (self.attributes.journal().iter())
                .any(|name| name.eq_ignore_ascii_case(&attribute));
            remarks.push(match &holder {
                Ok(Some(_)) => Ok(format!("{attribute}: readable")),
                Ok(None) => {
                    let why = absence_hint(&connection, &attribute);
                    match is_journal {
                        true => Err(format!("no object has {attribute}: {why}")),
                        false => Ok(format!("{attribute}: no object has it; {why}")),
                    }
                }
                Err(error) => Err(format!("{attribute}: {error}")),
            });
            match holder {
                Ok(Some(entry)) => {
                    stamped_object = stamped_object.or(Some(entry));
                    if self.attributes.is_searched(&attribute) {
                        used.push(attribute);
                    }
                }
                Ok(None) if is_journal => empty_journal_attributes.push(attribute),
                Ok(None) | Err(_) => {}
            }
        }
        if let Some(entry) = stamped_object {
            remarks.push(Ok(match entry.stamp.is_known() {
                true => "change stamps: readable".to_owned(),
                false => "change stamps: not readable, so that a hidden value looks like a removed one (OpenLDAP: let the account read entryCSN and modifyTimestamp)".to_owned(),
            }));
        }
        let deadline = Instant::now() + access.timeout;
        let unindexed =
            indexes::unindexed_attributes(&connection, &access.base, &used, deadline).await;
        let expires = connection.certificate_expiry();
        remarks.push(self.probe_index(&connection).await);
        remarks.push(Ok(match (self.watch, connection.features()) {
            (WatchMode::Off, _) => "changes: not followed (directory.watch is off)".to_owned(),
            (_, features) if features.sync => "changes: content synchronization".to_owned(),
            (_, features) if features.notification => {
                "changes: notification and update sequence numbers".to_owned()
            }
            (_, features) if features.ranges => "changes: update sequence numbers".to_owned(),
            _ => {
                "changes: no feed available, they take effect after directory.cache.ttl".to_owned()
            }
        }));
        connection.close().await;
        ServerProbe {
            url: url.to_string(),
            outcome: Ok(format!("{who}, base {:?} readable, {took} ms", access.base)),
            remarks,
            empty_journal_attributes,
            expires,
            unindexed,
        }
    }

    /// Finds an object with this attribute that the account may read.
    async fn probe_attribute(
        &self,
        connection: &Arc<Connection>,
        attribute: &str,
    ) -> Result<Option<Entry>, SearchError> {
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter: format!("({attribute}=*)"),
            attributes: with_stamp_attributes(vec![attribute.to_owned()]),
            limit: PROBE_SIZE,
            allows_truncation: true,
            allows_missing_base: false,
        };
        let deadline = self.access.deadline();
        let found = connection.search(search, deadline).await?;
        Ok(found.into_iter().find(|entry| has_value(entry, attribute)))
    }

    /// Measures a lookup without a result, which is quick with an index.
    async fn probe_index(&self, connection: &Arc<Connection>) -> Result<String, String> {
        match connection.measure_lookup().await {
            Ok(took) if took < SLOW_LOOKUP => Ok(format!("a lookup takes {} ms", took.as_millis())),
            Ok(took) => Err(format!(
                "a lookup takes {} ms: index the address attributes for equality",
                took.as_millis()
            )),
            Err(error) => Err(format!("a lookup fails: {error}")),
        }
    }
}

/// Returns a hint why no object has an attribute.
fn absence_hint(connection: &Connection, attribute: &str) -> &'static str {
    match connection.has_attribute_type(attribute) {
        Some(false) => "the server's schema has no such attribute; check its name",
        _ => "check its name and the rights of the account",
    }
}
