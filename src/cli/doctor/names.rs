//! Whether Copyist knows the domains and names for which this Postfix accepts mail.

use std::net::IpAddr;

use super::finding::{Finding, Severity};
use super::line;
use super::postfix::{DOMAINS, Postfix, strip_brackets};
use super::routes::shown;
use crate::config::Settings;
use crate::identity::{AddressRules, local_domain};
use crate::mail::Address;
use crate::policy::Direction;

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let names = &settings.rules.organization.names;
    let mut found = Vec::new();
    found.extend(check_own_names(postfix, settings));
    found.extend(check_origin(postfix, names));
    found.extend(check_domains(postfix, settings));
    found.extend(check_unlisted(postfix));
    found.extend(check_delimiter(postfix, &names.recipient_delimiter));
    found
}

/// Returns the local destinations of Postfix, each with its parameter: `mydestination`, the host name,
/// and the address literals of `inet_interfaces` and `proxy_interfaces`.
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
        let literals = postfix.values.list(parameter).map(strip_brackets);
        for literal in literals.filter(|text| text.parse::<IpAddr>().is_ok()) {
            add(parameter, literal);
        }
    }
    found
}

/// Finds local destinations that Copyist does not know: user names and aliases are mailboxes there.
fn check_own_names(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
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
            "contains {}, which is missing from organization.local_domains",
            line::quote(&missing)
        ),
        why: "people are not found by their user names and aliases in these domains: no copy is made of such mail, and it passes the journal guard".into(),
        fix: line::append(settings, "organization.local_domains", &missing),
    })
}

/// Finds a different domain for addresses without one (`myorigin`).
fn check_origin(postfix: &Postfix, names: &AddressRules) -> Option<Finding> {
    let origin = local_domain(postfix.values.get("myorigin"))?;
    (names.default_domain() != Some(&origin)).then(|| Finding {
        name: "default-domain",
        severity: Severity::Error,
        place: postfix.main("myorigin"),
        seen: format!(
            "is \"{origin}\", and organization.default_domain is \"{}\"",
            names.default_domain().unwrap_or_default()
        ),
        why: "Postfix and Copyist resolve an address without a domain to different people".into(),
        fix: line::line("organization.default_domain", &format!("\"{origin}\"")),
    })
}

/// Finds domains that Postfix accepts mail for, or appends, and Copyist does not know. `mydestination`
/// is checked separately. Returns nothing if the directory lists further domains.
fn check_domains(postfix: &Postfix, settings: &Settings) -> Option<Finding> {
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
            "contains {}, which is missing from organization.domains",
            line::quote(&missing)
        ),
        why: "mail to these domains counts as outbound, so no inbound copy is made of it".into(),
        fix: line::append(settings, "organization.domains", &missing),
    })
}

/// Finds domains in databases and patterns.
fn check_unlisted(postfix: &Postfix) -> Vec<Finding> {
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
            seen: format!("contains {table}, which cannot be listed"),
            why: format!(
                "which domains does it contain? Mail to a domain that is missing from {key} counts as outbound"
            ),
            fix: format!("add every domain in it to {key} (test with postmap -q DOMAIN {table})"),
        }
    })
    .collect()
}

fn check_delimiter(postfix: &Postfix, known: &str) -> Option<Finding> {
    let own = postfix.values.get("recipient_delimiter");
    let missing: String = own.chars().filter(|c| !known.contains(*c)).collect();
    (!missing.is_empty()).then(|| Finding {
        name: "recipient-delimiter",
        severity: Severity::Error,
        place: postfix.main("recipient_delimiter"),
        seen: format!("is \"{own}\", and directory.recipient_delimiter is \"{known}\""),
        why:
            "people are not found by addresses with an extension, so no copy is made of their mail"
                .into(),
        fix: line::line(
            "directory.recipient_delimiter",
            &format!("\"{known}{missing}\""),
        ),
    })
}

/// Finds journal and NDR addresses that must accept mail from everybody (RFC 5321 section 4.5.1).
pub(super) fn check_open_mailboxes(settings: &Settings) -> Vec<Finding> {
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
            why: "this mailbox must accept mail from everybody (RFC 5321), so the journal guard cannot reject forged reports and NDRs: use a separate mailbox".into(),
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
