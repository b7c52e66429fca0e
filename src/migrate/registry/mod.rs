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
use crate::config::{ConfigError, Location, Problem};
use crate::directory::Target;
use crate::policy::Direction;
use extension::{Extension, Parsed, Side};
use file::{Key, RegistryProblem};

/// The end of the key's path, in lower case, after
/// HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services.
const KEY: &str = r"\msexchangeimc\parameters\extension";

/// Translates an exported registry key of the Internet Mail Service Extension to a configuration.
///
/// `path` names the file in errors. `bytes` is its content, "Windows Registry Editor Version 5.00" or
/// "REGEDIT4", in UTF-16, UTF-8 or Windows-1252. Fails with every problem in the key.
///
/// ```
/// use copyist::migrate::{self, Site};
///
/// let key = br#"REGEDIT4
///
/// [HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\MSExchangeIMC\Parameters\Extension]
/// "InboundRecipJournalProp"=dword:80360000
/// "InboundJournalNDR"="injournalndr@example.com"
/// "#;
/// let proposal = migrate::registry("imsext.reg".as_ref(), key, &Site::default()).expect("sound");
/// assert!(proposal.config.contains("journal_attribute = [\"extensionAttribute10\"]"));
/// ```
pub fn registry(path: &Path, bytes: &[u8], site: &Site) -> Result<Proposal, ConfigError> {
    let invalid = |problems: Vec<RegistryProblem>| ConfigError {
        problems: problems
            .into_iter()
            .map(|problem| config_problem(path, problem))
            .collect(),
    };
    let text = encoding::text(bytes).map_err(|encoding| {
        invalid(vec![file_problem(
            format!("is truncated or corrupt: not valid {encoding}"),
            "export the key again".into(),
        )])
    })?;
    let keys = file::keys(&text, is_the_key).map_err(|problem| invalid(vec![problem]))?;
    let key = the_key(&keys).map_err(|problem| invalid(vec![problem]))?;
    let extension = extension::read(&key.values).map_err(invalid)?;
    Ok(draft(path, &key.path, &extension, site))
}

fn is_the_key(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(KEY)
}

/// Returns the key to use. A file may contain one for each control set of a machine.
fn the_key(keys: &[Key]) -> Result<Key, RegistryProblem> {
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
        (_, Some(_)) => Err(file_problem(
            r"contains the key MSExchangeIMC\Parameters\Extension several times, but not in CurrentControlSet".into(),
            "export the key of the control set in use".into(),
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
            Err(file_problem(
                format!(r"lacks the key …\MSExchangeIMC\Parameters\Extension; it contains {there}"),
                r"export HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\MSExchangeIMC\Parameters\Extension".into(),
            ))
        }
    }
}

fn file_problem(text: String, remedy: String) -> RegistryProblem {
    RegistryProblem {
        line: None,
        name: None,
        value: None,
        text: format!("the file {text}"),
        remedy: Some(remedy),
    }
}

fn config_problem(path: &Path, problem: RegistryProblem) -> Problem {
    // The value is printed after its key, or as part of the text.
    let (value, text) = match (&problem.name, problem.value) {
        (None, Some(value)) => (None, format!("{value} {}", problem.text)),
        (_, value) => (value, problem.text),
    };
    Problem {
        location: Location::File {
            path: path.to_owned(),
            line: problem.line.map(|line| (line, None)),
        },
        key: problem.name,
        value,
        text,
        remedy: problem.remedy,
    }
}

fn draft(path: &Path, key: &str, extension: &Extension, site: &Site) -> Proposal {
    let known = (!site.domains.is_empty()).then_some("As given with --domain.");
    let site = with_domain(site, extension);
    let mut draft = Draft::default();
    draft.head(&format!(
        "Copyist's settings, generated by copyist import-registry from {}: the Internet Mail Service Extension in \
         {key}.",
        path.display()
    ));
    for (name, line) in &extension.unknown {
        draft.gap();
        draft.no_equivalent(&format!(
            "{name:?} (line {line}) is not a known value of the Extension."
        ));
    }
    draft.organization(&site, known);
    draft.fill_in(
        "organization.trusted_networks",
        "networks whose clients send as the organization without authenticating, such as mail servers.",
    );
    draft.suggest("trusted_networks", vec!["127.0.0.0/8", "::1/128"]);
    draft.directory(&site);
    let x500 = |side: &Side| {
        side.journal
            .iter()
            .any(|found| found.value.smtp().is_none())
    };
    if x500(&extension.inbound) || x500(&extension.outbound) {
        draft.gap();
        draft.comment(
            "The journal names objects by X.500 addresses. Copyist finds them by legacyExchangeDN or by X500: in \
             proxyAddresses. If mailboxes were moved to another system, add the old address to their objects as one \
             of these (copyist resolve TARGET shows the result). An Exchange relay also accepts copies for objects \
             without an SMTP address; for that, set:",
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
        "The Extension saw only SMTP mail, so internal mail was not journaled, and still is not. To journal it, add a \
         section [internal] with the same keys.",
    );
    draft.hook_and_relay(&site);
    draft.finish()
}

/// Adds the domain of an NDR address if none is set: it is the organization's own, for the article
/// requires that mailbox on the same server.
fn with_domain(site: &Site, extension: &Extension) -> Site {
    let mut site = site.clone();
    let ndrs = [&extension.inbound.ndr, &extension.outbound.ndr];
    let addresses = ndrs
        .into_iter()
        .flatten()
        .filter_map(|ndr| ndr.value.smtp());
    let mut named = addresses.filter(|address| is_name(address.domain()));
    if let (true, Some(address)) = (site.domains.is_empty(), named.next()) {
        site.domains.push(address.domain().to_owned());
    }
    site
}

fn section(direction: Direction, side: &Side, site: &Site) -> DirectionDraft {
    let text = |found: &Parsed<String>| with_source(found.value.clone(), found);
    let mut section = DirectionDraft {
        journal: side
            .journal
            .iter()
            .map(|found| with_source(plain(&found.value), found))
            .collect(),
        attributes: side
            .attribute
            .iter()
            .map(|found| with_source(found.value.to_owned(), found))
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
            let why = format!("{name} is not in the key, but journaling requires it:");
            Some(Ndr::made_up(site, "journal-ndr", &why))
        }
        None => None,
    };
    section
}

/// Builds the NDR address. As an envelope sender it must be an SMTP address.
fn ndr(found: &Parsed<Target>, site: &Site) -> Ndr {
    let target = &found.value;
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
            "the SMTP address of {named}. It is the envelope sender of the copies; external mail to it is rejected."
        )),
        hints: vec![format!(
            "copyist resolve {named:?} shows its address in the directory, if any."
        )],
    }
}

/// Formats a target; an X.500 address without its prefix.
fn plain(target: &Target) -> String {
    match target {
        Target::Smtp(address) => address.to_string(),
        Target::Dn(text) | Target::X500(text) => text.clone(),
    }
}

fn with_source<T>(value: String, found: &Parsed<T>) -> Sourced {
    Sourced {
        value,
        from: from(found),
    }
}

fn from<T>(found: &Parsed<T>) -> String {
    format!("{} (line {}):", found.name, found.line)
}
