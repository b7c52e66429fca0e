//! Reads the whole directory from time to time, for [`Scan`].

use std::sync::Arc;
use std::time::Duration;

use ldap3::{Scope, ldap_escape};
use tokio::time::{Instant, sleep, timeout};

use super::Client;
use super::connection::{Connection, Search};
use super::fault::Fault;
use crate::directory::Entry;
use crate::directory::changes::Changes;
use crate::directory::question::range;
use crate::directory::scan::Sample;

/// Pauses after a scan, in multiples of its own time: at most 2 % of the time is spent on scans by
/// the clock, and 10 % where the server changed or a change feed began anew.
const PAUSE: u32 = 49;
const PAUSE_IF_ASKED: u32 = 9;
/// The shortest pauses.
const SHORTEST: Duration = Duration::from_secs(1);
const SHORTEST_AFTER_A_FAILURE: Duration = Duration::from_secs(10);
/// Scans in a row that end with their connection before lookups no longer wait for one.
const TRIES: u32 = 3;
/// The longest that a scan may take.
const LONGEST: Duration = Duration::from_secs(30 * 60);

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
            let outcome = timeout(LONGEST, self.scan_once(&connection)).await;
            let outcome = outcome.unwrap_or_else(|_| {
                let why = format!("{} was not read within {LONGEST:?}", connection.url());
                Err(Fault::Question(why))
            });
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
                    let is_final =
                        failures >= TRIES || !matches!(fault, Fault::Lost(_) | Fault::Slow(_));
                    let why = is_final.then(|| cannot_read(&fault));
                    self.scan.give_up(why.clone());
                    why
                }
            };
            if let Some(why) = limited.as_ref().filter(|why| warned.as_ref() != Some(*why)) {
                tracing::warn!("not every address can be found: {why}");
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

    /// Reads everything, or if that is refused what can be asked for. Returns why not everything
    /// was read or can be found, and the keys of values not known before.
    async fn scan_once(
        &self,
        connection: &Arc<Connection>,
    ) -> Result<(Option<String>, Vec<String>), Fault> {
        let scan = &self.scan;
        scan.begin();
        let refused = match self.read(connection, self.attributes.scan_filter()).await {
            Ok(()) => {
                let (is_news, problem) = match self.examine(connection).await {
                    Err(fault @ Fault::Lost(_)) => return Err(fault),
                    // What was read counts all the same.
                    Err(_) => (false, None),
                    Ok(examined) => examined,
                };
                if is_news {
                    scan.begin();
                    self.read(connection, self.attributes.scan_filter()).await?;
                }
                self.see_canary(connection).await?;
                return Ok((problem.clone(), scan.finish(problem, None)));
            }
            Err(fault @ Fault::Lost(_)) => return Err(fault),
            Err(fault) => fault,
        };
        scan.begin();
        self.read(connection, self.attributes.unusual_filter())
            .await?;
        let journal = match self.attributes.journaled_filter() {
            Some(filter) => self.read(connection, filter).await.err(),
            None => None,
        };
        self.see_canary(connection).await?;
        let limited = Some(cannot_read(&refused));
        let new = scan.finish(limited.clone(), journal.map(|fault| fault.to_string()));
        Ok((limited, new))
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

    /// An account whose rights were taken away is not refused, it reads nothing.
    async fn see_canary(&self, connection: &Arc<Connection>) -> Result<(), Fault> {
        connection.verify(self.access.deadline()).await
    }

    /// Sees by values that were read how the server compares each address attribute. Returns
    /// whether that is other than was known, and which attributes cannot be searched at all.
    async fn examine(&self, connection: &Arc<Connection>) -> Result<(bool, Option<String>), Fault> {
        let mut is_news = false;
        let mut closed: Vec<Arc<str>> = Vec::new();
        for sample in self.scan.samples() {
            let Sample {
                attribute,
                value,
                dn,
            } = &sample;
            let asked = value.to_ascii_lowercase();
            let is_found = self.has(connection, attribute, &asked).await?;
            let is_exact =
                !is_found && asked != *value && { self.has(connection, attribute, value).await? };
            if is_found || is_exact {
                if asked != *value {
                    is_news |= self.scan.set_exact(attribute, is_exact);
                }
            } else if self.still_has(connection, dn, attribute, value).await?
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

    /// Returns whether anything is found by this value.
    async fn has(
        &self,
        connection: &Arc<Connection>,
        attribute: &str,
        value: &str,
    ) -> Result<bool, Fault> {
        let subtree = (self.access.base.as_str(), Scope::Subtree);
        let filter = format!("({attribute}={})", ldap_escape(value));
        let found = self.first(connection, subtree, filter, "1.1").await?;
        Ok(found.is_some())
    }

    /// Returns whether an object has this value now.
    async fn still_has(
        &self,
        connection: &Arc<Connection>,
        dn: &str,
        attribute: &str,
        value: &str,
    ) -> Result<bool, Fault> {
        let filter = "(objectClass=*)".to_owned();
        let object = (dn, Scope::Base);
        let found = self.first(connection, object, filter, attribute).await?;
        Ok(found.is_some_and(|entry| entry.values(attribute).any(|one| one == value)))
    }

    /// Returns one of the entries that match, with one attribute.
    async fn first(
        &self,
        connection: &Arc<Connection>,
        (base, scope): (&str, Scope),
        filter: String,
        attribute: &str,
    ) -> Result<Option<Entry>, Fault> {
        let search = Search {
            base: base.to_owned(),
            scope,
            filter,
            attributes: vec![attribute.to_owned()],
            limit: 1,
            enough_at_limit: true,
            may_be_missing: true,
        };
        let deadline = Instant::now() + self.access.timeout;
        let found = connection.search(search, deadline).await?;
        Ok(found.into_iter().next())
    }
}

/// What it means that not everything could be read, and what to do.
fn cannot_read(fault: &Fault) -> String {
    format!(
        "cannot read the whole directory: {fault}; addresses in rare forms (a blank beside the @, fullwidth letters, \
         proxyAddresses without smtp:) are not found (OpenLDAP: the account needs olcLimits with size.prtotal=unlimited)"
    )
}
