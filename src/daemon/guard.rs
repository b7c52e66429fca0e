//! The set of guarded mailboxes, rebuilt when settings or directory change. Promises: while the
//! directory is unavailable, the last known set applies, also after a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::directory::{JournalValues, Outage};
use crate::identity::{GuardedMailboxes, Identities, SharedGuard, UnguardedMailbox};
use crate::pipeline::Pipeline;
use crate::policy::{self, Rules};

/// Delay after a directory change, since several changes often come together.
const SETTLE: Duration = Duration::from_millis(100);

/// Longest wait for the first reading of the directory, which continues meanwhile.
const FIRST_READING: Duration = Duration::from_secs(10);

/// Interval of rebuilds without a change, and after a failure.
const AGAIN: Duration = Duration::from_secs(60);
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Builds the set from the current directory.
pub(crate) async fn build(
    identities: &Identities,
    rules: &Rules,
) -> Result<GuardedMailboxes, Outage> {
    let values = match policy::guards_attributes(rules) {
        true => Some(known_values(identities).await?),
        false => None,
    };
    let settings = policy::guard_settings(rules);
    let mailboxes = identities.guarded_mailboxes(&settings, values.as_deref());
    mailboxes.await
}

/// Returns the values of all journal attributes, once they are known.
async fn known_values(identities: &Identities) -> Result<Arc<JournalValues>, Outage> {
    let mut values = identities.directory().journal_values();
    let known = timeout(FIRST_READING, values.wait_for(Option::is_some)).await;
    let known = known.ok().and_then(Result::ok);
    known
        .and_then(|values| values.clone())
        .ok_or_else(|| Outage::new("the values of the journal attributes are not read yet"))
}

/// Restores the set of the last run, unless the settings have changed.
pub(super) fn restore(guarded: &SharedGuard, rules: &Rules, file: &Path) {
    match GuardedMailboxes::read(file) {
        Ok(mailboxes) if mailboxes.is_of(&policy::guard_settings(rules)) => {
            guarded.set(mailboxes);
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => warn!(
            "cannot read {}: {error}; reading the guarded mailboxes from the directory",
            file.display()
        ),
    }
}

/// Keeps rebuilding the set, with the current settings.
pub(super) async fn follow(pipeline: Arc<ArcSwap<Pipeline>>, reloaded: Arc<Notify>, file: PathBuf) {
    let mut known: Vec<UnguardedMailbox> = Vec::new();
    let mut failed: Option<String> = None;
    loop {
        let now = pipeline.load_full();
        let pause = match build(&now.ruleset.identities, &now.ruleset.rules).await {
            Ok(mailboxes) => {
                failed = None;
                report(&mailboxes, &mut known);
                if now.services.guarded.set(mailboxes.clone()) {
                    info!(names = mailboxes.len(), "guarded mailboxes loaded");
                    keep(mailboxes, file.clone()).await;
                }
                AGAIN
            }
            Err(outage) => {
                let outage = outage.to_string();
                if failed.as_ref() != Some(&outage) {
                    warn!("cannot read the guarded mailboxes, keeping the previous set: {outage}");
                    failed = Some(outage);
                }
                AGAIN_AFTER_FAILURE
            }
        };
        let directory = now.ruleset.identities.directory().clone();
        drop(now);
        let mut values = directory.journal_values();
        values.mark_unchanged();
        tokio::select! {
            Ok(()) = values.changed() => {}
            () = sleep(pause) => {}
            () = reloaded.notified() => {}
            () = directory.wait_for_change() => sleep(SETTLE).await,
        }
    }
}

/// Warns once about each person's mailbox that journal attributes name and that is not guarded.
fn report(mailboxes: &GuardedMailboxes, known: &mut Vec<UnguardedMailbox>) {
    for person in mailboxes
        .persons
        .iter()
        .filter(|person| !known.contains(person))
    {
        warn!(
            address = %person.address, dn = person.dn, named_by = person.named_by,
            "journal copies go to a person's mailbox, which is not guarded ({}); if it is a journal mailbox, list it in organization.journal_mailboxes",
            person.mark
        );
    }
    known.clone_from(&mailboxes.persons);
}

async fn keep(mailboxes: GuardedMailboxes, file: PathBuf) {
    let path = file.clone();
    let written = tokio::task::spawn_blocking(move || mailboxes.write(&file)).await;
    if let Ok(Err(error)) = written {
        warn!("cannot write {}: {error}", path.display());
    }
}
