//! Reads the whole directory from time to time, for [`Scan`].

use std::sync::Arc;
use std::time::Duration;

use ldap3::Scope;
use tokio::time::{Instant, sleep, timeout};

use super::Client;
use super::connection::{Connection, Search};
use super::fault::Fault;
use crate::directory::changes::Changes;
use crate::directory::question::range;

/// Pauses after a scan, in multiples of its own time: at most 2 % of the time is spent on scans by the clock, and 10 %
/// where the server changed or a change feed began anew.
const PAUSE: u32 = 49;
const PAUSE_IF_ASKED: u32 = 9;
/// The shortest pauses.
const SHORTEST: Duration = Duration::from_secs(1);
const SHORTEST_AFTER_A_FAILURE: Duration = Duration::from_secs(10);
/// Scans in a row that end with their connection before lookups no longer wait for one.
const TRIES: u32 = 3;

impl Client {
    /// Scans for ever, every `ttl` at most; who runs it must stop it.
    pub(super) async fn scan(self: Arc<Self>, changes: Arc<Changes>, ttl: Duration) {
        let mut failures = 0;
        let mut warned = None;
        loop {
            let deadline = Instant::now() + self.access.timeout;
            let Ok(connection) = self.servers.connection(deadline).await else {
                sleep(SHORTEST).await;
                continue;
            };
            let begun = Instant::now();
            let outcome = self.scan_once(&connection).await;
            let took = begun.elapsed();
            let mut pause = ttl.max(took.saturating_mul(PAUSE)).max(SHORTEST);
            let limited = match outcome {
                Ok((limited, new)) => {
                    failures = 0;
                    tracing::debug!(
                        ?took,
                        unusual = self.scan.count(),
                        "read the whole directory for values in unusual forms"
                    );
                    changes.changed(new);
                    limited
                }
                Err(fault) => {
                    failures += 1;
                    pause = took.saturating_mul(PAUSE).max(SHORTEST_AFTER_A_FAILURE);
                    let is_final = failures >= TRIES || !matches!(fault, Fault::Lost(_));
                    let why = is_final.then(|| fault.to_string());
                    self.scan.give_up(why.clone());
                    why
                }
            };
            if limited.is_some() && limited != warned {
                let why = limited.as_deref().unwrap_or_default();
                tracing::warn!("cannot read the whole directory: {}", explained(why));
            }
            warned = limited;
            let asked = async {
                tokio::select! {
                    () = self.scan.asked_again() => {}
                    _ = connection.end() => {}
                }
                sleep(took.saturating_mul(PAUSE_IF_ASKED).max(SHORTEST)).await;
            };
            // Either is a reason to go on.
            let _ = timeout(pause, asked).await;
        }
    }

    /// Reads everything, or if that is refused what can be asked for. Returns why not everything was read, and the keys
    /// of values not known before.
    async fn scan_once(
        &self,
        connection: &Arc<Connection>,
    ) -> Result<(Option<String>, Vec<String>), Fault> {
        let scan = &self.scan;
        scan.begin();
        let refused = match self.read(connection, self.attributes.scan_filter()).await {
            Ok(()) => return Ok((None, scan.finish(None, None))),
            Err(fault @ Fault::Lost(_)) => return Err(fault),
            Err(fault) => fault.to_string(),
        };
        scan.begin();
        self.read(connection, self.attributes.unusual_filter())
            .await?;
        let journal = match self.attributes.journaled_filter() {
            Some(filter) => self.read(connection, filter).await.err(),
            None => None,
        };
        let new = scan.finish(
            Some(refused.clone()),
            journal.map(|fault| fault.to_string()),
        );
        Ok((Some(refused), new))
    }

    async fn read(&self, connection: &Arc<Connection>, filter: String) -> Result<(), Fault> {
        let search = Search {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter,
            attributes: self.attributes.scanned(),
            limit: usize::MAX,
            enough_at_limit: false,
            may_be_missing: false,
        };
        let mut listed = connection.list(search);
        while let Some(entry) = listed.recv().await {
            let mut entry = entry?;
            if entry.attributes().any(|(name, _)| range(name).is_some()) {
                entry = self.completed(entry).await?;
            }
            self.scan.take(&entry);
        }
        Ok(())
    }
}

/// What it means that not everything could be read, and what to do.
pub(super) fn explained(why: &str) -> String {
    format!(
        "{why}; addresses in rare forms (a blank beside the @, fullwidth letters, proxyAddresses without smtp:) are not found (OpenLDAP: the \
         account needs olcLimits with size.prtotal=unlimited)"
    )
}
