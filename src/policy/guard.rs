//! The journal guard: nobody outside writes to journal and NDR mailboxes.

use crate::directory::Target;
use crate::mail::Address;

use super::{Direction, Guard, OnFailure, Rules};

/// What the guard says about one recipient, before the message is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// None of the guard's business.
    Free,
    /// No setting names it; it is guarded if the directory names it as anybody's journal address.
    AskDirectory,
    /// Guarded: refused like an unknown user.
    Refused,
    /// Guarded, but what the sender gives looks like our own report or a bounce: the message decides.
    Provisional,
}

/// Judges a recipient. `sender` is the reverse path, `None` the null one.
pub fn admission(
    sender_is_ours: bool,
    sender: Option<&Address>,
    recipient: &Address,
    rules: &Rules,
) -> Admission {
    let guarding = match rules.journal_guard {
        Guard::Off => false,
        Guard::Outside => !sender_is_ours,
        Guard::Everyone => true,
    };
    if !guarding {
        return Admission::Free;
    }
    if is_named(recipient, rules) {
        return guarded(sender, recipient, rules);
    }
    if names_attributes(rules) || !configured_targets(rules).is_empty() {
        Admission::AskDirectory
    } else {
        Admission::Free
    }
}

/// What the settings name as journal and NDR addresses: the objects that have these addresses, or that are named
/// themselves, are guarded under all their addresses. The members of a group are not, since these are people.
pub fn configured_targets(rules: &Rules) -> Vec<Target> {
    let directions = Direction::ALL.iter().map(|direction| rules.of(*direction));
    let mut all: Vec<Target> = rules
        .fallback_journal
        .iter()
        .cloned()
        .map(Target::Smtp)
        .collect();
    for of in directions {
        all.extend(of.journal.iter().cloned());
        all.extend(of.ndr.iter().cloned().map(Target::Smtp));
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether a recipient waits for a directory that is down. Not where mail shall go on meanwhile: the guard then knows what the
/// settings name by an SMTP address, and lets the rest pass. Nor where the settings name all that is guarded, and the directory only knows of
/// further addresses of theirs.
pub fn waits_for_the_directory(rules: &Rules) -> bool {
    if rules.on_directory_failure != OnFailure::Defer {
        return false;
    }
    let objects = configured_targets(rules);
    names_attributes(rules) || objects.iter().any(|target| target.smtp().is_none())
}

fn names_attributes(rules: &Rules) -> bool {
    let mut all = Direction::ALL.iter();
    all.any(|direction| !rules.of(*direction).journal_attributes.is_empty())
}

/// What becomes of a recipient that is guarded.
pub fn guarded(sender: Option<&Address>, recipient: &Address, rules: &Rules) -> Admission {
    let provisional = match sender {
        // Our reports have an NDR address as their reverse path, and a seal that the end of the message shows.
        Some(sender) => is_ndr(sender, rules),
        // A bounce of one of our reports, or an NDR of ours.
        None => is_ndr(recipient, rules),
    };
    if provisional {
        Admission::Provisional
    } else {
        Admission::Refused
    }
}

/// Whether a setting names this address as one that hears of failures.
pub fn is_ndr(address: &Address, rules: &Rules) -> bool {
    Direction::ALL
        .iter()
        .any(|direction| rules.of(*direction).ndr.as_ref() == Some(address))
}

/// Whether a setting names this address as a journal or NDR address.
fn is_named(address: &Address, rules: &Rules) -> bool {
    rules.fallback_journal.as_ref() == Some(address)
        || Direction::ALL.iter().any(|direction| {
            let of = rules.of(*direction);
            of.ndr.as_ref() == Some(address)
                || of
                    .journal
                    .iter()
                    .any(|target| target.smtp() == Some(address))
        })
}
