//! The journal guard: nobody outside writes to journal and NDR mailboxes.

use crate::directory::Target;
use crate::identity::GuardSettings;
use crate::mail::Address;

use super::{ClientTrust, Direction, Guard, OnFailure, Rules};

/// What the guard says about one recipient, before the message is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The guard does not object.
    Allowed,
    /// Guarded: refused like an unknown user.
    Rejected,
    /// Guarded, but what the sender gives looks like our own report or a bounce: the message
    /// decides.
    Provisional,
}

/// Whether the guard looks at the recipients of this client at all. `sender` is the reverse path,
/// `None` the null one. A null reverse path says nothing of where a message comes from: a relay
/// that is trusted passes bounces from outside on.
pub fn is_guarding(client: ClientTrust, sender: Option<&Address>, rules: &Rules) -> bool {
    match rules.journal_guard {
        Guard::Off => false,
        Guard::Outside => {
            let may_be_outside = sender.is_none() && !client.is_authenticated;
            !client.from_us || may_be_outside
        }
        Guard::Everyone => true,
    }
}

/// Judges a recipient that is a guarded mailbox.
pub fn admission(
    client: ClientTrust,
    sender: Option<&Address>,
    recipient: &Address,
    rules: &Rules,
) -> Admission {
    let is_from_relay = client.from_us && rules.journal_guard != Guard::Everyone;
    match sender {
        // Our reports have an NDR address as their reverse path, and a seal that the end of the
        // message shows.
        Some(sender) if is_ndr(sender, rules) => Admission::Provisional,
        // Our own relay's bounces must arrive.
        None if is_ndr(recipient, rules) && is_from_relay => Admission::Allowed,
        // A bounce of one of our reports, or an NDR of ours.
        None if is_ndr(recipient, rules) => Admission::Provisional,
        _ => Admission::Rejected,
    }
}

/// What the settings name as journal and NDR addresses: guarded under all their names.
pub fn configured_targets(rules: &Rules) -> Vec<Target> {
    let directions = Direction::ALL.iter().map(|direction| rules.of(*direction));
    let fallback = rules.fallback_journal.iter().cloned();
    let mut all: Vec<Target> = fallback.map(Target::Smtp).collect();
    for of in directions {
        all.extend(of.journal.iter().cloned());
        all.extend(of.ndr.iter().cloned().map(Target::Smtp));
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// What the guarded mailboxes are built from, beside the values of journal attributes.
pub fn guard_settings(rules: &Rules) -> GuardSettings {
    GuardSettings {
        configured: configured_targets(rules),
        journal_domains: rules.journal_domains.clone(),
        mailboxes: rules.organization.journal_mailboxes.clone(),
        guards_persons: rules.organization.guards_persons,
        exempt_attribute: rules.exempt_attribute.clone(),
    }
}

/// Whether a recipient waits while the guarded mailboxes are not known. Not where mail shall go on
/// without a directory, nor where the settings name all that is guarded by address, and the
/// directory only knows further names of it.
pub fn guard_waits(rules: &Rules) -> bool {
    let by_name = |target: &Target| target.smtp().is_none();
    rules.on_directory_failure == OnFailure::Defer
        && (guards_attributes(rules) || configured_targets(rules).iter().any(by_name))
}

/// Whether values of attributes name guarded mailboxes.
pub fn guards_attributes(rules: &Rules) -> bool {
    let mut all = Direction::ALL.iter();
    all.any(|direction| !rules.of(*direction).journal_attributes.is_empty())
}

/// Whether a setting names this address as one that hears of failures.
pub fn is_ndr(address: &Address, rules: &Rules) -> bool {
    Direction::ALL
        .iter()
        .any(|direction| rules.of(*direction).ndr.as_ref() == Some(address))
}
