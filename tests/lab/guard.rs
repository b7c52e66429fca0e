//! What the journal guard knows of an address, asked of the library.

use std::sync::Arc;

use copyist::directory::{Directory, Target};
use copyist::identity::{GuardSettings, GuardStatus, Identities, Names};
use copyist::mail::Address;

/// Whether the guard refuses outsiders at this address, by what attributes and these targets of the settings name.
pub async fn is_guarded(directory: &Directory, configured: &[Target], address: &Address) -> bool {
    let settings = GuardSettings {
        configured: configured.to_vec(),
        // The users of the lab are people, and stand for journal mailboxes here.
        guards_persons: true,
        ..GuardSettings::default()
    };
    let identities = Identities::new(directory.clone(), Arc::new(Names::default()));
    let mut values = directory.journal_values();
    let values = values
        .wait_for(Option::is_some)
        .await
        .expect("an answer")
        .clone();
    let guarded = identities
        .guarded_mailboxes(&settings, values.as_deref())
        .await;
    let guarded = guarded.expect("an answer");
    match identities.guard_status(address, None, &guarded).await {
        GuardStatus::Guarded(_) => true,
        GuardStatus::Free => false,
        GuardStatus::Unknown(outage) => panic!("{outage}"),
    }
}
