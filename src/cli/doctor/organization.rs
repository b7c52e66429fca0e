//! Whether Postfix and Copyist mean the same when they say "ours": networks, domains, address extensions.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::finding::{Finding, Severity};
use super::postfix::{Postfix, unbracketed};
use crate::config::Settings;
use crate::mail::Address;
use crate::policy::Organization;

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let organization = &settings.rules.organization;
    let mut found = Vec::new();
    found.extend(untrusted(postfix, organization));
    found.extend(unknown_domains(postfix, organization));
    found.extend(delimiter(postfix, &organization.names.recipient_delimiter));
    found
}

/// What needs no Postfix to be wrong.
pub(super) fn trusts_everybody(settings: &Settings) -> Vec<Finding> {
    let all = settings.rules.organization.trusted_networks.iter();
    let everybody = all.filter(|network| network.prefix_len() == 0);
    everybody
        .map(|network| Finding {
            name: "trusts-everybody",
            severity: Severity::Error,
            place: "organization.trusted_networks".into(),
            seen: format!("has {network}"),
            why: "everybody counts as one of the organization: nothing is inbound, and the journal guard lets everybody in".into(),
            fix: format!("take \"{network}\" out of organization.trusted_networks"),
        })
        .collect()
}

/// That no mail at all is journaled.
pub(super) fn journals_nothing(settings: &Settings) -> Option<Finding> {
    let severity = match settings.text.has_texts() {
        true => Severity::Warning,
        false => Severity::Error,
    };
    settings.rules.journal_nothing().then(|| Finding {
        name: "nothing-journaled",
        severity,
        place: "[inbound], [outbound], [internal]".into(),
        seen: "have neither journal_attribute nor journal".into(),
        why: "nothing is journaled in any direction".into(),
        fix: "set journal_attribute or journal in the table of a direction".into(),
    })
}

/// Networks in a list as postconf(5) has it under mynetworks. Files and tables are left out, and so is all of it where
/// something is excluded: what the list means then is for Postfix to say.
fn networks<'a>(list: impl Iterator<Item = &'a str>) -> Vec<IpNet> {
    let mut found = Vec::new();
    for item in list {
        if item.starts_with('!') {
            return Vec::new();
        }
        if item.starts_with('/') || item.split_once(':').is_some_and(|_| !item.starts_with('[')) {
            continue;
        }
        let (address, bits) = item.split_once('/').unwrap_or((item, ""));
        let address = unbracketed(address);
        let network = match bits {
            "" => address.parse::<IpAddr>().ok().map(IpNet::from),
            bits => format!("{address}/{bits}").parse().ok(),
        };
        found.extend(network.map(canonical));
    }
    found
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn canonical(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(network, IpNet::V4),
            None => network,
        },
        network => network,
    }
}

/// Clients that may relay without a login are the organization's.
fn untrusted(postfix: &Postfix, organization: &Organization) -> Option<Finding> {
    let trusted = IpNet::aggregate(&organization.trusted_networks);
    let mut listed = networks(postfix.values.list("mynetworks"));
    // Each once: IPv4 networks are often listed in their IPv6 form, too.
    listed.sort_unstable();
    listed.dedup();
    let missing: Vec<String> = listed
        .iter()
        .filter(|network| !trusted.iter().any(|known| known.contains(*network)))
        .map(|network| format!("\"{network}\""))
        .collect();
    (!missing.is_empty()).then(|| Finding {
        name: "mynetworks-untrusted",
        severity: Severity::Error,
        place: postfix.main("mynetworks"),
        seen: format!(
            "has {}, which organization.trusted_networks has not",
            missing.join(", ")
        ),
        why: "what these clients send out counts as an outsider's, and has no outbound copy".into(),
        fix: format!(
            "add {} to organization.trusted_networks",
            missing.join(", ")
        ),
    })
}

/// Domains that Postfix takes mail for. Tables and files are left out; so are the machine's own names without a
/// domain, and all of it where the directory names further domains.
fn unknown_domains(postfix: &Postfix, organization: &Organization) -> Option<Finding> {
    if organization.domains_from.is_some() {
        return None;
    }
    const PARAMETERS: [&str; 4] = [
        "mydestination",
        "virtual_alias_domains",
        "virtual_mailbox_domains",
        "relay_domains",
    ];
    let own = postfix.values.get("myhostname");
    let mut places: Vec<&str> = Vec::new();
    let mut missing: Vec<String> = Vec::new();
    for parameter in PARAMETERS {
        for domain in postfix.values.list(parameter) {
            let is_table = domain.contains([':', '/', '!', '[', '$']);
            let name = domain.trim_start_matches('.');
            let is_own = name.eq_ignore_ascii_case(own) || name.starts_with("localhost.");
            if is_table || is_own || !name.contains('.') {
                continue;
            }
            let Ok(address) = Address::parse(&format!("x@{name}")) else {
                continue;
            };
            let shown = format!("\"{name}\"");
            if !organization.has(&address) && !missing.contains(&shown) {
                missing.push(shown);
                places.push(parameter);
            }
        }
    }
    let first = places.first()?;
    Some(Finding {
        name: "domain-unknown",
        severity: Severity::Error,
        place: postfix.main(first),
        seen: format!(
            "has {}, which organization.domains has not",
            missing.join(", ")
        ),
        why: "mail to these domains counts as going outside, and has no inbound copy".into(),
        fix: format!("add {} to organization.domains", missing.join(", ")),
    })
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
        fix: format!("recipient_delimiter = \"{known}{missing}\" in [directory]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Vec<String> {
        let found = networks(list.split_ascii_whitespace());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn networks_are_read_as_postfix_writes_them() {
        let list = "127.0.0.0/8 [::1]/128 192.0.2.7 [fd00::2] [::ffff:10.0.0.0]/104 /etc/more hash:/etc/x cidr:/y";
        assert_eq!(
            read(list),
            [
                "127.0.0.0/8",
                "::1/128",
                "192.0.2.7/32",
                "fd00::2/128",
                "10.0.0.0/8"
            ]
        );
        assert!(
            read("10.0.0.0/8 !10.1.0.0/16").is_empty(),
            "not for us to say"
        );
    }
}
