//! The journal guard's decision about an address, from the library.

use std::sync::Arc;

use copyist::directory::{Directory, Outage, Target};
use copyist::identity::{AddressRules, GuardSettings, GuardStatus, Identities};
use copyist::mail::Address;

/// Whether the guard refuses outsiders at this address, by what attributes and these targets of the
/// settings name.
pub async fn is_guarded(directory: &Directory, configured: &[Target], address: &Address) -> bool {
    let answer = try_is_guarded(directory, configured, address).await;
    answer.unwrap_or_else(|outage| panic!("{outage}"))
}

/// The same with a directory that may be away.
pub async fn try_is_guarded(
    directory: &Directory,
    configured: &[Target],
    address: &Address,
) -> Result<bool, Outage> {
    let settings = GuardSettings {
        configured: configured.to_vec(),
        // The users of the lab are people, and stand for journal mailboxes here.
        guards_persons: true,
        ..GuardSettings::default()
    };
    let identities = Identities::new(directory.clone(), Arc::new(AddressRules::default()));
    let mut values = directory.journal_values();
    let values = values
        .wait_for(Option::is_some)
        .await
        .expect("an answer")
        .clone();
    let guarded = identities
        .guarded_mailboxes(&settings, values.as_deref())
        .await;
    match identities.guard_status(address, None, &guarded?).await {
        GuardStatus::Guarded(_) => Ok(true),
        GuardStatus::NotGuarded => Ok(false),
        GuardStatus::Unknown(outage) => Err(outage),
    }
}
