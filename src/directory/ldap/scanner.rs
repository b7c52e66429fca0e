//! Periodic scans of the whole directory, for [`Scan`].

use std::sync::Arc;
use std::time::Duration;

use ldap3::{Scope, ldap_escape};
use tokio::time::{Instant, sleep, timeout};

use super::Client;
use super::connection::{Connection, SearchRequest};
use super::error::SearchError;
use crate::directory::Entry;
use crate::directory::attributes::parse_range;
use crate::directory::change_log::ChangeLog;
use crate::directory::scan::SampleValue;

/// Pauses after a scan, in multiples of its duration: regular scans take at most 2 % of the time,
/// and those requested after a change of server or a new change feed 10 %.
const PAUSE_FACTOR: u32 = 49;
const REQUESTED_PAUSE_FACTOR: u32 = 9;
/// Minimum pauses.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MIN_FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// Consecutive failed scans after which lookups no longer wait for one.
const MAX_FAILURES: u32 = 3;
/// Time limit for a scan.
const SCAN_TIMEOUT: Duration = Duration::from_secs(30 * 60);

impl Client {
    /// Scans every `ttl` at most, until the task is stopped.
    pub(super) async fn scan(self: Arc<Self>, changes: Arc<ChangeLog>, ttl: Duration) {
        let mut failures = 0;
        let mut warned = None;
        loop {
            let deadline = Instant::now() + self.access.timeout;
            let Ok(connection) = self.servers.connection(deadline).await else {
                sleep(MIN_PAUSE).await;
                continue;
            };
            let begun = Instant::now();
            let outcome = timeout(SCAN_TIMEOUT, self.scan_once(&connection)).await;
            let outcome = outcome.unwrap_or_else(|_| {
                let reason = format!(
                    "the scan of {} did not finish within {} min",
                    connection.url(),
                    SCAN_TIMEOUT.as_secs() / 60
                );
                Err(SearchError::QueryFailed(reason))
            });
            let took = begun.elapsed();
            let mut pause = ttl.max(took.saturating_mul(PAUSE_FACTOR)).max(MIN_PAUSE);
            let limited = match outcome {
                Ok((limited, new)) => {
                    failures = 0;
                    tracing::debug!(
                        ?took,
                        unusual = self.scan.unusual_count(),
                        "directory scanned for values in unusual forms"
                    );
                    changes.record(new);
                    limited
                }
                Err(error) => {
                    failures += 1;
                    pause = took.saturating_mul(PAUSE_FACTOR).max(MIN_FAILURE_PAUSE);
                    let is_final = failures >= MAX_FAILURES
                        || !matches!(
                            error,
                            SearchError::ConnectionLost(_) | SearchError::TimedOut(_)
                        );
                    let reason = is_final.then(|| describe_limit(&error));
                    self.scan.abort(reason.clone());
                    reason
                }
            };
            if let Some(reason) = limited
                .as_ref()
                .filter(|reason| warned.as_ref() != Some(*reason))
            {
                tracing::warn!("some addresses cannot be found: {reason}");
            }
            warned = limited;
            let asked = async {
                tokio::select! {
                    () = self.scan.wait_for_rescan_request() => {}
                    _ = connection.wait_for_end() => {}
                }
                sleep(took.saturating_mul(REQUESTED_PAUSE_FACTOR).max(MIN_PAUSE)).await;
            };
            // Either ends the pause.
            let _ = timeout(pause, asked).await;
        }
    }

    /// Reads everything or, if that is rejected, what filters can find. Returns the reason if the
    /// result is incomplete, and the keys of new values.
    async fn scan_once(
        &self,
        connection: &Arc<Connection>,
    ) -> Result<(Option<String>, Vec<String>), SearchError> {
        let scan = &self.scan;
        scan.begin();
        let refused = match self
            .read_matching(connection, self.attributes.scan_filter())
            .await
        {
            Ok(()) => {
                let (is_news, problem) = match self.check_matching_rules(connection).await {
                    Err(error @ SearchError::ConnectionLost(_)) => return Err(error),
                    // The values read are used all the same.
                    Err(_) => (false, None),
                    Ok(examined) => examined,
                };
                if is_news {
                    scan.begin();
                    self.read_matching(connection, self.attributes.scan_filter())
                        .await?;
                }
                self.verify_visibility(connection).await?;
                return Ok((problem.clone(), scan.finish(problem, None)));
            }
            Err(error @ SearchError::ConnectionLost(_)) => return Err(error),
            Err(error) => error,
        };
        scan.begin();
        self.read_matching(connection, self.attributes.unusual_filter())
            .await?;
        let journal = match self.attributes.journaled_filter() {
            Some(filter) => self.read_matching(connection, filter).await.err(),
            None => None,
        };
        self.verify_visibility(connection).await?;
        let limited = Some(describe_limit(&refused));
        let new = scan.finish(limited.clone(), journal.map(|error| error.to_string()));
        Ok((limited, new))
    }

    async fn read_matching(
        &self,
        connection: &Arc<Connection>,
        filter: String,
    ) -> Result<(), SearchError> {
        let search = SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter,
            attributes: self.attributes.scan_attributes(),
            limit: usize::MAX,
            allows_truncation: false,
            allows_missing_base: false,
        };
        let mut listed = connection.list_paged(search);
        while let Some(entry) = listed.recv().await {
            let mut entry = entry?;
            if entry
                .attributes()
                .any(|(name, _)| parse_range(name).is_some())
            {
                entry = self.complete_ranges(entry).await?;
            }
            self.scan.add_entry(&entry);
        }
        Ok(())
    }

    /// Verifies the connection: an account whose rights were revoked gets no error, it reads
    /// nothing.
    async fn verify_visibility(&self, connection: &Arc<Connection>) -> Result<(), SearchError> {
        connection.verify(self.access.deadline()).await
    }

    /// Finds out with sample values how the server compares each address attribute. Returns whether
    /// that is new, and a problem with attributes that cannot be searched at all.
    async fn check_matching_rules(
        &self,
        connection: &Arc<Connection>,
    ) -> Result<(bool, Option<String>), SearchError> {
        let mut is_news = false;
        let mut closed: Vec<Arc<str>> = Vec::new();
        for sample in self.scan.samples() {
            let SampleValue {
                attribute,
                value,
                dn,
            } = &sample;
            let asked = value.to_ascii_lowercase();
            let is_found = self.finds_value(connection, attribute, &asked).await?;
            let is_exact = !is_found && asked != *value && {
                self.finds_value(connection, attribute, value).await?
            };
            if is_found || is_exact {
                if asked != *value {
                    is_news |= self.scan.set_exact(attribute, is_exact);
                }
            } else if self.has_value(connection, dn, attribute, value).await?
                && !closed.contains(attribute)
            {
                closed.push(Arc::clone(attribute));
            }
        }
        let problem = (!closed.is_empty()).then(|| {
            format!(
                "{} finds nobody by {}, though people have it: the attribute needs an equality rule (and an index) there, \
                 or must not stand in directory.address_attributes",
                connection.url(),
                closed.join(", ")
            )
        });
        Ok((is_news, problem))
    }

    /// Whether a search for this value finds anything.
    async fn finds_value(
        &self,
        connection: &Arc<Connection>,
        attribute: &str,
        value: &str,
    ) -> Result<bool, SearchError> {
        let subtree = (self.access.base.as_str(), Scope::Subtree);
        let filter = format!("({attribute}={})", ldap_escape(value));
        let found = self.search_one(connection, subtree, filter, "1.1").await?;
        Ok(found.is_some())
    }

    /// Whether an object has this value now.
    async fn has_value(
        &self,
        connection: &Arc<Connection>,
        dn: &str,
        attribute: &str,
        value: &str,
    ) -> Result<bool, SearchError> {
        let filter = "(objectClass=*)".to_owned();
        let object = (dn, Scope::Base);
        let found = self
            .search_one(connection, object, filter, attribute)
            .await?;
        Ok(found.is_some_and(|entry| entry.values(attribute).any(|one| one == value)))
    }

    /// Returns one of the matching entries, with one attribute.
    async fn search_one(
        &self,
        connection: &Arc<Connection>,
        (base, scope): (&str, Scope),
        filter: String,
        attribute: &str,
    ) -> Result<Option<Entry>, SearchError> {
        let search = SearchRequest {
            base: base.to_owned(),
            scope,
            filter,
            attributes: vec![attribute.to_owned()],
            limit: 1,
            allows_truncation: true,
            allows_missing_base: true,
        };
        let deadline = Instant::now() + self.access.timeout;
        let found = connection.search(search, deadline).await?;
        Ok(found.into_iter().next())
    }
}

/// Describes the consequence of an incomplete scan, and the remedy.
fn describe_limit(error: &SearchError) -> String {
    format!(
        "cannot read the whole directory: {error}; addresses in rare forms (a blank beside the @, fullwidth letters, \
         proxyAddresses without smtp:) are not found (OpenLDAP: the account needs olcLimits with size.prtotal=unlimited)"
    )
}
