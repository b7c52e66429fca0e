//! Whether Copyist reads the address maps with which Postfix rewrites addresses.

use std::path::PathBuf;

use super::finding::{Finding, Severity};
use super::line;
use super::postfix::{Postfix, Service};
use super::routes;
use super::service::barred;
use super::system::{Account, Step};
use crate::config::Settings;
use crate::maps::{MapName, MapNameError};
use crate::policy::MapNames;

/// A default map of Postfix that modern systems do not have.
const NIS: &str = "nis:mail.aliases";

/// The name of the finding about an unreadable map.
pub(super) const UNREADABLE: &str = "address-map-unreadable";

/// The parameters, each with the program that uses it.
const PARAMETERS: [(&str, &str); 5] = [
    ("alias_maps", "local"),
    ("virtual_alias_maps", "cleanup"),
    ("canonical_maps", "cleanup"),
    ("sender_canonical_maps", "cleanup"),
    ("recipient_canonical_maps", "cleanup"),
];

/// A file of a map, from the view of the service's user.
#[derive(Debug)]
pub(super) struct MapFile {
    /// The map.
    pub(super) map: String,
    pub(super) path: PathBuf,
    /// The path from the root; empty if the file does not exist.
    pub(super) way: Vec<Step>,
    /// Whether the service's user can read it; `None` if not tested.
    pub(super) is_readable: Option<bool>,
}

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let ours = &settings.rules.organization.address_maps;
    let is_behind = is_behind_rewriting(postfix, settings);
    let mut found = Vec::new();
    for (parameter, program) in PARAMETERS {
        // After the queue Copyist sees the addresses already rewritten by cleanup(8).
        if is_behind && program == "cleanup" {
            continue;
        }
        if parameter == "alias_maps" && postfix.domains("mydestination").is_empty() {
            continue;
        }
        found.extend(check_of_parameter(
            postfix,
            settings,
            parameter,
            program,
            maps_of(ours, parameter),
        ));
    }
    if !is_behind {
        found.extend(check_masquerading(postfix));
    }
    found
}

fn maps_of<'a>(maps: &'a MapNames, parameter: &str) -> &'a [MapName] {
    match parameter {
        "alias_maps" => &maps.alias_maps,
        "virtual_alias_maps" => &maps.virtual_alias_maps,
        "canonical_maps" => &maps.canonical_maps,
        "sender_canonical_maps" => &maps.sender_canonical_maps,
        _ => &maps.recipient_canonical_maps,
    }
}

/// Whether all mail reaches Copyist after cleanup(8) has rewritten its addresses.
fn is_behind_rewriting(postfix: &Postfix, settings: &Settings) -> bool {
    let rewrites = |service: &Service| {
        let options = "receive_override_options";
        !service.values.lists(options, "no_address_mappings")
    };
    let smtp = postfix
        .listeners()
        .map(|one| (one, routes::by_smtp(postfix, one, settings)));
    let others =
        routes::sources(postfix).map(|one| (one, routes::by_itself(postfix, one, settings)));
    let mut ways = smtp
        .chain(others)
        .filter(|(_, ways)| ways.reach_copyist())
        .peekable();
    ways.peek().is_some()
        && ways.all(|(one, ways)| ways.filter.is_some() && !ways.milter && rewrites(one))
}

/// Returns the name of a map without proxymap(8).
fn plain(name: &str) -> String {
    name.replace("proxy:", "")
}

fn check_of_parameter(
    postfix: &Postfix,
    settings: &Settings,
    parameter: &'static str,
    program: &str,
    ours: &[MapName],
) -> Vec<Finding> {
    let users = postfix.services.iter().filter(|one| one.program == program);
    let mut places: Vec<(String, &str)> = users
        .map(|one| (postfix.place(one, parameter), one.values.get(parameter)))
        .collect();
    if places.is_empty() {
        places.push((postfix.main(parameter), postfix.values.get(parameter)));
    }
    let key = format!("organization.address_maps.{parameter}");
    let has = |name: &MapName| {
        let text = plain(&name.to_string());
        ours.iter().any(|one| plain(&one.to_string()) == text)
    };
    let (mut found, mut theirs) = (Vec::new(), Vec::new());
    for (place, list) in places {
        let mut missing: Vec<String> = Vec::new();
        for name in MapName::parse_list(list) {
            match name {
                Ok(name) => {
                    let text = plain(&name.to_string());
                    if !has(&name) && !missing.contains(&text) {
                        missing.push(text.clone());
                    }
                    theirs.push(text);
                }
                Err(MapNameError::NotCovered(map)) if map == NIS => {}
                Err(error) => found.push(not_covered(place.clone(), &error)),
            }
        }
        if !missing.is_empty() {
            found.push(Finding {
                name: "address-maps",
                severity: Severity::Error,
                place,
                seen: format!("contains {}, which is missing from {key}", missing.join(", ")),
                why: "people are not found by their aliases: no copy is made of such mail, and an alias of a journal mailbox passes the journal guard".into(),
                fix: line::append(settings, &key, &missing),
            });
        }
    }
    let unused = ours.iter().map(|name| plain(&name.to_string()));
    let unused: Vec<String> = unused.filter(|name| !theirs.contains(name)).collect();
    if !unused.is_empty() {
        let kept = ours.iter().map(ToString::to_string);
        let kept: Vec<String> = kept.filter(|name| !unused.contains(&plain(name))).collect();
        found.push(Finding {
            name: "address-maps-unused",
            severity: Severity::Hint,
            place: key.clone(),
            seen: format!(
                "contains {}, which is not in Postfix's {parameter}",
                unused.join(", ")
            ),
            why: "mail is journaled for people who do not receive it".into(),
            fix: line::list(&key, &kept),
        });
    }
    found
}

/// Returns a finding about a map that Copyist cannot read.
fn not_covered(place: String, error: &MapNameError) -> Finding {
    let seen = match error {
        MapNameError::NotCovered(map) => {
            format!("contains {map}, which only Postfix can read")
        }
        other => format!("contains {other}"),
    };
    Finding {
        name: "address-maps-not-covered",
        severity: Severity::Error,
        place,
        seen,
        why:
            "recipients that Postfix rewrites with it are not found: no copy is made of their mail"
                .into(),
        fix: BEHIND.into(),
    }
}

const BEHIND: &str = "use a hook after the rewriting: a [[hook.smtp]] with mode = \"after-queue\" as content_filter (docs/hooks.md)";

/// Finds masquerading, which strips host names from addresses, by default of senders (postconf(5)).
fn check_masquerading(postfix: &Postfix) -> Option<Finding> {
    let parameter = "masquerade_domains";
    let value = postfix.values.get(parameter);
    (!value.is_empty()).then(|| Finding {
        name: "address-maps-not-covered",
        severity: Severity::Error,
        place: postfix.main(parameter),
        seen: routes::shown(value),
        why: "Copyist sees addresses before Postfix strips host names: such senders are not found, so no outbound copy is made of their mail".into(),
        fix: BEHIND.into(),
    })
}

/// Finds maps that the service cannot read, so that mail is deferred.
pub(super) fn check_unreadable(files: &[MapFile], user: Option<&Account>) -> Vec<Finding> {
    let all = files.iter();
    all.filter_map(|file| {
        if file.way.is_empty() {
            return Some(unreadable_file(
                file,
                "does not exist".into(),
                make(&file.map, &file.path),
            ));
        }
        // Root can read everything.
        let user = user.filter(|user| user.uid != 0)?;
        let barred = barred(&file.way, user, file.is_readable)?;
        let barred_path = barred.path.display();
        let name = &user.name;
        let seen = format!(
            "{barred_path} is closed to the user {name} (mode {:04o})",
            barred.mode
        );
        let fix = match barred.path == file.path {
            true => format!("setfacl -m u:{name}:r {barred_path}"),
            false => format!("setfacl -m u:{name}:x {barred_path}"),
        };
        Some(unreadable_file(file, seen, fix))
    })
    .collect()
}

/// Returns the command that creates an indexed file.
fn make(map: &str, path: &std::path::Path) -> String {
    let text = plain(map);
    match text.split_once(':') {
        Some(("hash" | "btree" | "lmdb" | "cdb" | "dbm" | "sdbm", source)) => {
            match source.ends_with("aliases") {
                true => format!("postalias {text}"),
                false => format!("postmap {text}"),
            }
        }
        _ => format!(
            "create {}, or remove the map from Postfix and Copyist",
            path.display()
        ),
    }
}

fn unreadable_file(file: &MapFile, seen: String, fix: String) -> Finding {
    Finding {
        name: UNREADABLE,
        severity: Severity::Error,
        place: format!("{} {}", file.map, file.path.display()),
        seen,
        why: "Copyist cannot read this address map: mail that it may apply to is deferred".into(),
        fix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_by_the_service_s_own_user() {
        let step = |path: &str, mode| Step {
            path: path.into(),
            mode,
            uid: 0,
            gid: 60,
            group: String::new(),
        };
        let found = |dir, mode, uid, groups: &[u32]| {
            let file = MapFile {
                map: "hash:/m/virtual".into(),
                path: "/m/virtual.db".into(),
                way: vec![
                    step("/", 0o755),
                    step("/m", dir),
                    step("/m/virtual.db", mode),
                ],
                is_readable: None,
            };
            let user = Account {
                name: "copyist".into(),
                uid,
                group: "copyist".into(),
                groups: groups.to_vec(),
            };
            let found = check_unreadable(&[file], Some(&user));
            found.into_iter().map(|one| one.fix).next()
        };
        assert_eq!(found(0o755, 0o644, 70, &[]), None);
        assert_eq!(found(0o750, 0o640, 70, &[60]), None);
        assert_eq!(found(0o700, 0o600, 0, &[]), None, "the superuser");
        let fix = found(0o755, 0o640, 70, &[]);
        assert_eq!(fix.as_deref(), Some("setfacl -m u:copyist:r /m/virtual.db"));
        let fix = found(0o750, 0o644, 70, &[]);
        assert_eq!(fix.as_deref(), Some("setfacl -m u:copyist:x /m"));
    }
}
