//! The journal guard: external senders may not write to journal and NDR mailboxes.

use crate::directory::Target;
use crate::identity::GuardSettings;
use crate::mail::Address;

use super::{ClientTrust, Direction, Guard, OnFailure, Rules};

/// The guard's decision about one RCPT TO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Not guarded, or allowed.
    Allowed,
    /// Guarded: rejected like an unknown user.
    Rejected,
    /// Guarded, but the sender may be a report of Copyist or a bounce: the message decides.
    Provisional,
}

/// Whether the guard applies to this client. `sender` is the reverse path, `None` the null one,
/// which proves no origin: a trusted relay forwards external bounces.
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

/// Decides about a recipient that is a guarded mailbox.
pub fn admission(
    client: ClientTrust,
    sender: Option<&Address>,
    recipient: &Address,
    rules: &Rules,
) -> Admission {
    let is_from_relay = client.from_us && rules.journal_guard != Guard::Everyone;
    match sender {
        // Reports have an NDR address as their reverse path; their seal is checked at the end of
        // the message.
        Some(sender) if is_ndr(sender, rules) => Admission::Provisional,
        // Bounces from an internal relay must arrive.
        None if is_ndr(recipient, rules) && is_from_relay => Admission::Allowed,
        // A bounce of a report, or an NDR.
        None if is_ndr(recipient, rules) => Admission::Provisional,
        _ => Admission::Rejected,
    }
}

/// Returns the journal and NDR addresses in the settings, which are guarded under all their names.
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

/// Returns the settings of the guard, which it combines with the values of journal attributes.
pub fn guard_settings(rules: &Rules) -> GuardSettings {
    GuardSettings {
        configured: configured_targets(rules),
        journal_domains: rules.journal_domains.clone(),
        mailboxes: rules.organization.journal_mailboxes.clone(),
        guards_persons: rules.organization.guards_persons,
        exempt_attribute: rules.exempt_attribute.clone(),
    }
}

/// Whether recipients wait while the guarded mailboxes are unknown: only if mail is deferred
/// without a directory, and not if the settings name all guarded mailboxes by address.
pub fn guard_waits(rules: &Rules) -> bool {
    let by_name = |target: &Target| target.smtp().is_none();
    rules.on_directory_failure == OnFailure::Defer
        && (guards_attributes(rules) || configured_targets(rules).iter().any(by_name))
}

/// Whether journal attributes name guarded mailboxes.
pub fn guards_attributes(rules: &Rules) -> bool {
    let mut all = Direction::ALL.iter();
    all.any(|direction| !rules.of(*direction).journal_attributes.is_empty())
}

/// Whether this is the NDR address of a direction.
pub fn is_ndr(address: &Address, rules: &Rules) -> bool {
    Direction::ALL
        .iter()
        .any(|direction| rules.of(*direction).ndr.as_ref() == Some(address))
}
