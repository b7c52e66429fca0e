//! Whether Copyist knows the names by which mail reaches people at this Postfix: its own, and that
//! of addresses without a domain.

use std::net::IpAddr;

use super::finding::{Finding, Severity};
use super::line;
use super::postfix::{DOMAINS, Postfix, unbracketed};
use super::routes::shown;
use crate::config::Settings;
use crate::identity::{AddressRules, local_domain};
use crate::mail::Address;
use crate::policy::Direction;

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let names = &settings.rules.organization.names;
    let mut found = Vec::new();
    found.extend(own_names(postfix, settings));
    found.extend(origin(postfix, names));
    found.extend(domains(postfix, settings));
    found.extend(unlisted(postfix));
    found.extend(delimiter(postfix, &names.recipient_delimiter));
    found
}

/// The names that Postfix delivers for itself: what `mydestination` lists, its host name, and the
/// address literals of `inet_interfaces` and `proxy_interfaces`. Each with its parameter.
fn local_names(postfix: &Postfix) -> Vec<(&'static str, String)> {
    let mut found: Vec<(&'static str, String)> = Vec::new();
    let mut add = |parameter, text: &str| {
        if let Some(name) = local_domain(text)
            && !found.iter().any(|(_, known)| *known == name)
        {
            found.push((parameter, name));
        }
    };
    for name in postfix.domains("mydestination") {
        add("mydestination", name);
    }
    add("myhostname", postfix.values.get("myhostname"));
    for parameter in ["inet_interfaces", "proxy_interfaces"] {
        let literals = postfix.values.list(parameter).map(unbracketed);
        for literal in literals.filter(|text| text.parse::<IpAddr>().is_ok()) {
            add(parameter, literal);
        }
    }
    found
}

/// Login names and local aliases are mailboxes at every name that Postfix delivers for itself.
fn own_names(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
    let names = &settings.rules.organization.names;
    let all = local_names(postfix).into_iter();
    let missing: Vec<_> = all.filter(|(_, name)| !names.is_local(name)).collect();
    let (first, _) = missing.first()?;
    let missing: Vec<String> = missing.iter().map(|(_, name)| name.clone()).collect();
    Some(Finding {
        name: "local-domains",
        severity: Severity::Error,
        place: postfix.main(first),
        seen: format!(
            "has {}, which organization.local_domains has not",
            line::quoted(&missing)
        ),
        why: "Postfix delivers mail for login names and aliases at these names to people who are not found under them: it has no copy, and passes the journal guard".into(),
        fix: line::added(settings, "organization.local_domains", &missing),
    })
}

/// `myorigin` is the domain of an address without one.
fn origin(postfix: &Postfix, names: &AddressRules) -> Option<Finding> {
    let origin = local_domain(postfix.values.get("myorigin"))?;
    (names.default_domain() != Some(&origin)).then(|| Finding {
        name: "default-domain",
        severity: Severity::Error,
        place: postfix.main("myorigin"),
        seen: format!(
            "is \"{origin}\", and organization.default_domain is \"{}\"",
            names.default_domain().unwrap_or_default()
        ),
        why: "Postfix and Copyist read an address without a domain as different people".into(),
        fix: line::line("organization.default_domain", &format!("\"{origin}\"")),
    })
}

/// Domains that Postfix takes mail for, and that which it gives to addresses without one. Those of
/// `mydestination` are names of its own. Nothing can be said where the directory names further
/// domains.
fn domains(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
    let organization = &settings.rules.organization;
    if organization.domains_from.is_some() {
        return None;
    }
    let own = local_names(postfix);
    let mut places: Vec<&str> = Vec::new();
    let mut missing: Vec<String> = Vec::new();
    let origin = [("myorigin", postfix.values.get("myorigin"))];
    let listed = DOMAINS[1..].iter().flat_map(|parameter| {
        let domains = postfix.domains(parameter).into_iter();
        domains.map(|domain| (*parameter, domain))
    });
    for (parameter, domain) in listed.chain(origin) {
        let name = domain.trim_start_matches('.').to_lowercase();
        let is_own = own.iter().any(|(_, known)| *known == name) || name.starts_with("localhost.");
        if is_own || !name.contains('.') {
            continue;
        }
        let Ok(address) = Address::parse(&format!("x@{name}")) else {
            continue;
        };
        if !organization.has(&address) && !missing.contains(&name) {
            missing.push(name);
            places.push(parameter);
        }
    }
    let first = places.first()?;
    Some(Finding {
        name: "domain-unknown",
        severity: Severity::Error,
        place: postfix.main(first),
        seen: format!(
            "has {}, which organization.domains has not",
            line::quoted(&missing)
        ),
        why: "mail to these domains counts as going outside, and has no inbound copy".into(),
        fix: line::added(settings, "organization.domains", &missing),
    })
}

/// Domains in databases and patterns.
fn unlisted(postfix: &Postfix) -> Vec<Finding> {
    let all = postfix.unlisted.iter();
    all.map(|(parameter, table)| {
        let key = match *parameter {
            "mydestination" => "organization.local_domains",
            _ => "organization.domains",
        };
        Finding {
            name: "domains-in-table",
            severity: Severity::Hint,
            place: postfix.main(parameter),
            seen: format!("names {table}, which cannot be listed here"),
            why: format!(
                "which domains does it have? Mail to one that {key} has not counts as going outside"
            ),
            fix: format!("see that {key} has every domain in it (postmap -q DOMAIN {table})"),
        }
    })
    .collect()
}

fn delimiter(postfix: &Postfix, known: &str) -> Option<Finding> {
    let own = postfix.values.get("recipient_delimiter");
    let missing: String = own.chars().filter(|c| !known.contains(*c)).collect();
    (!missing.is_empty()).then(|| Finding {
        name: "recipient-delimiter",
        severity: Severity::Error,
        place: postfix.main("recipient_delimiter"),
        seen: format!("is \"{own}\", and directory.recipient_delimiter is \"{known}\""),
        why: "an address with an extension reaches a person who is not found in the directory under it, and has no copy".into(),
        fix: line::line("directory.recipient_delimiter", &format!("\"{known}{missing}\"")),
    })
}

/// Journal mailboxes and NDR addresses that are never refused to anybody (RFC 5321 section 4.5.1).
pub(super) fn open_mailboxes(settings: &Settings) -> Vec<Finding> {
    let names = &settings.rules.organization.names;
    let is_open = |address: &Address| {
        let mut open = ["postmaster", "abuse"].iter();
        open.any(|name| address.local().eq_ignore_ascii_case(name)) && names.contains(address)
    };
    let finding = |key: String, address: &Address, proposed: &str, is_list: bool| {
        let own = format!("\"{proposed}@{}\"", address.domain());
        let value = if is_list { format!("[{own}]") } else { own };
        Finding {
            name: "mailbox-unguarded",
            severity: Severity::Warning,
            place: key.clone(),
            seen: shown(&address.to_string()),
            why: "mail from everybody must reach this mailbox (RFC 5321), so the journal guard cannot keep forged reports and NDRs from it: give it a mailbox of its own".into(),
            fix: line::line(&key, &value),
        }
    };
    let mut found = Vec::new();
    for direction in Direction::ALL {
        let rules = settings.rules.of(direction);
        let ndr = rules.ndr.iter().filter(|address| is_open(address));
        found.extend(ndr.map(|address| {
            finding(
                format!("{direction}.journal_ndr"),
                address,
                "journal-ndr",
                false,
            )
        }));
        let journal = rules.journal.iter().filter_map(|target| target.smtp());
        found.extend(
            journal
                .filter(|address| is_open(address))
                .map(|address| finding(format!("{direction}.journal"), address, "journal", true)),
        );
    }
    let fallback = settings.rules.fallback_journal.iter();
    found.extend(fallback.filter(|address| is_open(address)).map(|address| {
        finding(
            "directory.fallback_journal".into(),
            address,
            "journal-fallback",
            false,
        )
    }));
    found
}
