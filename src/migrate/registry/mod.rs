//! The Internet Mail Service Extension of Exchange 5.5 (imsext.dll), from its exported registry
//! key.
//!
//! | file | owns |
//! |---|---|
//! | `encoding` | bytes → text |
//! | `file` | text → keys and values |
//! | `value` | the data of a value |
//! | `property` | MAPI property tags → attributes |
//! | `extension` | the ten values of the key |

mod encoding;
mod extension;
mod file;
mod property;
mod value;

#[cfg(test)]
mod tests;

use std::path::Path;

use super::draft::Draft;
use super::sections::{DirectionDraft, Ndr, Sourced, local_part};
use super::site::is_name;
use super::{Proposal, Site};
use crate::config::{ConfigError, Mistake, Place};
use crate::directory::Target;
use crate::policy::Direction;
use extension::{Extension, Found, Side};
use file::{Fault, Key};

/// How the path of the key ends, in lower case; before it stands
/// HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services.
const KEY: &str = r"\msexchangeimc\parameters\extension";

/// A configuration that does what an exported registry key had the Internet Mail Service Extension
/// do.
///
/// `path` is what the file is called in mistakes, `bytes` is what it holds: "Windows Registry
/// Editor Version 5.00" or "REGEDIT4", in UTF-16, UTF-8 or Windows-1252. Fails with every mistake
/// in the key.
///
/// ```
/// use copyist::config::import::{self, Site};
///
/// let key = br#"REGEDIT4
///
/// [HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\MSExchangeIMC\Parameters\Extension]
/// "InboundRecipJournalProp"=dword:80360000
/// "InboundJournalNDR"="injournalndr@example.com"
/// "#;
/// let proposal = import::registry("imsext.reg".as_ref(), key, &Site::default()).expect("sound");
/// assert!(proposal.config.contains("journal_attribute = [\"extensionAttribute10\"]"));
/// ```
pub fn registry(path: &Path, bytes: &[u8], site: &Site) -> Result<Proposal, ConfigError> {
    let wrong = |faults: Vec<Fault>| ConfigError {
        mistakes: faults
            .into_iter()
            .map(|fault| mistake(path, fault))
            .collect(),
    };
    let text = encoding::text(bytes).map_err(|encoding| {
        wrong(vec![whole(
            format!("is broken off or damaged: it is not all {encoding}"),
            "export the key again".into(),
        )])
    })?;
    let keys = file::keys(&text, is_the_key).map_err(|fault| wrong(vec![fault]))?;
    let key = the_key(&keys).map_err(|fault| wrong(vec![fault]))?;
    let extension = extension::read(&key.values).map_err(wrong)?;
    Ok(draft(path, &key.path, &extension, site))
}

fn is_the_key(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(KEY)
}

/// The one key that counts. A file may hold it once more for each control set of a machine.
fn the_key(keys: &[Key]) -> Result<Key, Fault> {
    const LISTED: usize = 10;
    let mut found: Vec<Key> = Vec::new();
    for key in keys.iter().filter(|key| is_the_key(&key.path)) {
        let known = found
            .iter()
            .position(|known| known.path.eq_ignore_ascii_case(&key.path));
        match (known, key.is_deleted) {
            (Some(at), true) => drop(found.remove(at)),
            (None, true) => {}
            (Some(at), false) => found[at].values.extend(key.values.iter().cloned()),
            (None, false) => found.push(key.clone()),
        }
    }
    let current = |key: &Key| {
        key.path
            .to_ascii_lowercase()
            .contains(r"\currentcontrolset\")
    };
    if found.len() > 1 && found.iter().filter(|key| current(key)).count() == 1 {
        found.retain(current);
    }
    match (found.len(), found.pop()) {
        (1, Some(key)) => Ok(key),
        (_, Some(_)) => Err(whole(
            r"has the key MSExchangeIMC\Parameters\Extension several times, none of them in CurrentControlSet".into(),
            "export the one of the control set that is in use".into(),
        )),
        (_, None) => {
            let mut there: Vec<&str> = keys.iter().map(|key| key.path.as_str()).take(LISTED).collect();
            if keys.len() > LISTED {
                there.push("…");
            }
            let there = match there.is_empty() {
                true => "no key".to_owned(),
                false => there.join(", "),
            };
            Err(whole(
                format!(r"has no key …\MSExchangeIMC\Parameters\Extension; it has {there}"),
                r"export HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\MSExchangeIMC\Parameters\Extension".into(),
            ))
        }
    }
}

fn whole(problem: String, remedy: String) -> Fault {
    Fault {
        line: None,
        name: None,
        seen: None,
        problem: format!("the file {problem}"),
        remedy: Some(remedy),
    }
}

fn mistake(path: &Path, fault: Fault) -> Mistake {
    // A mistake tells what stands there behind the key that it belongs to.
    let (seen, problem) = match (&fault.name, fault.seen) {
        (None, Some(seen)) => (None, format!("{seen} {}", fault.problem)),
        (_, seen) => (seen, fault.problem),
    };
    Mistake {
        place: Place::File {
            path: path.to_owned(),
            line: fault.line.map(|line| (line, None)),
        },
        key: fault.name,
        seen,
        problem,
        remedy: fault.remedy,
    }
}

fn draft(path: &Path, key: &str, extension: &Extension, site: &Site) -> Proposal {
    let known = (!site.domains.is_empty()).then_some("As given with --domain.");
    let site = with_domain(site, extension);
    let mut draft = Draft::default();
    draft.head(&format!(
        "Copyist's settings, made by copyist import-registry of {}: the settings of the Internet Mail Service Extension \
         in {key}.",
        path.display()
    ));
    for (name, line) in &extension.unknown {
        draft.gap();
        draft.no_equivalent(&format!(
            "{name:?} (line {line}) is none of the values that the Extension is known to read."
        ));
    }
    draft.organization(&site, known);
    draft.fill_in(
        "organization.trusted_networks",
        "networks whose clients send as the organization without logging in, such as those of mail servers.",
    );
    draft.suggest("trusted_networks", vec!["127.0.0.0/8", "::1/128"]);
    draft.directory(&site);
    let x500 = |side: &Side| side.journal.iter().any(|found| found.is.smtp().is_none());
    if x500(&extension.inbound) || x500(&extension.outbound) {
        draft.gap();
        draft.comment(
            "The journal names objects by X.500 addresses. They are found by legacyExchangeDN or X500: in \
             proxyAddresses: where mailboxes were moved to another system, give their objects the old address as \
             one of these (copyist resolve TARGET shows where it leads). An Exchange that relays also takes copies \
             for objects without any SMTP address; then set:",
        );
        draft.suggest("imceaex_domain", site.main_domain());
    }
    for (direction, side) in [
        (Direction::Inbound, &extension.inbound),
        (Direction::Outbound, &extension.outbound),
    ] {
        draft.direction(direction, &section(direction, side, &site));
    }
    draft.gap();
    draft.comment(
        "The Extension saw SMTP mail only. Mail inside the organization was not journaled, and is not; a section \
         [internal] with the same keys would have it journaled.",
    );
    draft.hook_and_relay(&site);
    draft.finish()
}

/// The domain of an NDR address is the organization's own: the article wants that mailbox on the
/// same server.
fn with_domain(site: &Site, extension: &Extension) -> Site {
    let mut site = site.clone();
    let ndrs = [&extension.inbound.ndr, &extension.outbound.ndr];
    let addresses = ndrs.into_iter().flatten().filter_map(|ndr| ndr.is.smtp());
    let mut named = addresses.filter(|address| is_name(address.domain()));
    if let (true, Some(address)) = (site.domains.is_empty(), named.next()) {
        site.domains.push(address.domain().to_owned());
    }
    site
}

fn section(direction: Direction, side: &Side, site: &Site) -> DirectionDraft {
    let text = |found: &Found<String>| sourced(found.is.clone(), found);
    let mut section = DirectionDraft {
        journal: side
            .journal
            .iter()
            .map(|found| sourced(plain(&found.is), found))
            .collect(),
        attributes: side
            .attribute
            .iter()
            .map(|found| sourced(found.is.to_owned(), found))
            .collect(),
        prepend: side.prepend.as_ref().map(text),
        append: side.append.as_ref().map(text),
        ..DirectionDraft::default()
    };
    section.ndr = match &side.ndr {
        Some(found) => Some(ndr(found, site)),
        None if section.journals() => {
            let name = match direction {
                Direction::Outbound => "OutboundJournalNDR",
                _ => "InboundJournalNDR",
            };
            let why = format!("{name} is not in the key, and journaling takes it:");
            Some(Ndr::made_up(site, "journal-ndr", &why))
        }
        None => None,
    };
    section
}

/// The address of non-delivery reports is an envelope sender, so it has to be an SMTP address.
fn ndr(found: &Found<Target>, site: &Site) -> Ndr {
    let target = &found.is;
    if let Some(address) = target.smtp() {
        return Ndr {
            address: address.to_string(),
            from: from(found),
            guess: None,
            hints: Vec::new(),
        };
    }
    let named = plain(target);
    let name = named
        .rsplit(['/', ','])
        .next()
        .and_then(|last| last.split_once('='));
    let local = name.and_then(|(_, name)| local_part(name));
    Ndr {
        address: format!(
            "{}@{}",
            local.as_deref().unwrap_or("journal-ndr"),
            site.main_domain()
        ),
        from: from(found),
        guess: Some(format!(
            "the SMTP address of {named}. Copies are sent from it, so it must have one; mail from outside to it is refused."
        )),
        hints: vec![format!(
            "copyist resolve {named:?} says the address that the directory has, if it has one."
        )],
    }
}

/// An X.500 address is written as it was, without the prefix that tells it apart.
fn plain(target: &Target) -> String {
    match target {
        Target::Smtp(address) => address.to_string(),
        Target::Dn(text) | Target::X500(text) => text.clone(),
    }
}

fn sourced<T>(value: String, found: &Found<T>) -> Sourced {
    Sourced {
        value,
        from: from(found),
    }
}

fn from<T>(found: &Found<T>) -> String {
    format!("{} (line {}):", found.name, found.line)
}
