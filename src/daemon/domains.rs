//! The organization's domains from the directory (`organization.domains_from`). Promises: no
//! message is decided before they are known; while the directory is unavailable, the last known
//! domains apply.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::directory::{Directory, Outage};
use crate::identity::DomainPattern;
use crate::pipeline::Pipeline;
use crate::policy::Organization;

/// Refresh interval.
const AGAIN: Duration = Duration::from_secs(60);

/// Reads the domains from the directory, if configured.
pub(crate) async fn read(directory: &Directory, of: &Organization) -> Result<(), Outage> {
    let Some(query) = &of.domains_from else {
        return Ok(());
    };
    let found = directory.fetch_values(query).await?;
    let mut domains: Vec<DomainPattern> = Vec::new();
    for text in found {
        match text.trim().parse() {
            Ok(domain) if !domains.contains(&domain) => domains.push(domain),
            Ok(_) => {}
            Err(error) => warn!("invalid domain from {query}: {error}"),
        }
    }
    if domains.is_empty() {
        // No domains at all means that the account has lost its rights to read them.
        return Err(Outage::new(format!("no domains found by {query}")));
    }
    if of.names.directory_domains.set(domains.clone()) {
        let names: Vec<String> = domains.iter().map(ToString::to_string).collect();
        info!("domains from the directory: {}", names.join(", "));
    }
    Ok(())
}

/// Reads the domains, or takes the last known from `file`.
pub(super) async fn begin(
    directory: &Directory,
    of: &Organization,
    file: &Path,
) -> Result<(), Outage> {
    if of.domains_from.is_none() {
        return Ok(());
    }
    let outage = match read(directory, of).await {
        Ok(()) => {
            keep(of, file).await;
            return Ok(());
        }
        Err(outage) => outage,
    };
    let known = tokio::fs::read_to_string(file).await.unwrap_or_default();
    let known: Vec<DomainPattern> = known
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    if known.is_empty() {
        return Err(outage);
    }
    warn!("using the domains of the last run until the directory answers: {outage}");
    of.names.directory_domains.set(known);
    Ok(())
}

/// Keeps refreshing the domains, with the current settings.
pub(super) async fn follow(pipeline: Arc<ArcSwap<Pipeline>>, file: PathBuf) {
    loop {
        sleep(AGAIN).await;
        let now = pipeline.load_full();
        let of = &now.ruleset.rules.organization;
        if of.domains_from.is_none() {
            continue;
        }
        match read(now.ruleset.identities.directory(), of).await {
            Ok(()) => keep(of, &file).await,
            Err(outage) => warn!("cannot refresh the domains, keeping the known ones: {outage}"),
        }
    }
}

/// Saves the domains for a start without the directory.
async fn keep(of: &Organization, file: &Path) {
    let text: String = (of.names.directory_domains.get().iter())
        .map(|domain| format!("{domain}\n"))
        .collect();
    if tokio::fs::read_to_string(file)
        .await
        .is_ok_and(|old| old == text)
    {
        return;
    }
    let new = file.with_extension("new");
    let written = async {
        tokio::fs::write(&new, text).await?;
        tokio::fs::rename(&new, file).await
    };
    if let Err(error) = written.await {
        warn!("cannot write {}: {error}", file.display());
    }
}
