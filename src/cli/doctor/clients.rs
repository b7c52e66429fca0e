//! Whether Copyist trusts the same clients as Postfix, and which of them may relay external mail, which
//! only the administrator knows.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::finding::{Finding, Severity};
use super::line;
use super::milters;
use super::postfix::{Postfix, Service, strip_brackets};
use super::routes::{self, shown};
use crate::config::Settings;
use crate::identity::AddressRules;
use crate::mail::Side;

/// Prefix lengths below which a network is too wide to contain only own clients.
const WIDE: (u8, u8) = (16, 48);

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    for listener in postfix.listeners() {
        found.extend(check_untrusted(postfix, listener, settings));
        found.extend(check_unread_networks(postfix, listener, settings));
        found.extend(check_certificates(postfix, listener, settings));
        found.extend(check_logins(postfix, listener, settings));
        found.extend(check_one_sided(postfix, listener, settings));
    }
    found
}

/// Findings in the settings alone.
pub(super) fn check_of_settings(settings: &Settings) -> Vec<Finding> {
    let mut found = check_trusts_everybody(settings);
    found.extend(check_loopback_gateways(settings));
    found.extend(check_gateways_asked(settings));
    found
}

fn check_trusts_everybody(settings: &Settings) -> Vec<Finding> {
    let all = settings.rules.organization.trusted_networks.iter();
    let everybody = all.filter(|network| network.prefix_len() == 0);
    everybody
        .map(|network| Finding {
            name: "trusts-everybody",
            severity: Severity::Error,
            place: "organization.trusted_networks".into(),
            seen: format!("contains {network}"),
            why: "every client that uses an address of the organization is trusted: its mail is not inbound and passes the journal guard".into(),
            fix: without("organization.trusted_networks", &settings.rules.organization.trusted_networks, network),
        })
        .collect()
}

/// Returns the line with all networks but one.
fn without(key: &str, all: &[IpNet], one: &IpNet) -> String {
    let kept = all.iter().filter(|network| *network != one);
    let kept: Vec<String> = kept.map(ToString::to_string).collect();
    line::list(key, &kept)
}

/// Finds loopback gateways: mail of local programs, and all mail from a local filter.
fn check_loopback_gateways(settings: &Settings) -> Vec<Finding> {
    let organization = &settings.rules.organization;
    let has_loopback = |network: &&IpNet| {
        let v4: IpNet = Ipv4Net::new([127, 0, 0, 0].into(), 8)
            .unwrap_or_default()
            .into();
        let v6 = IpNet::from(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]));
        [v4, v6]
            .iter()
            .any(|loopback| loopback.contains(*network) || network.contains(loopback))
    };
    let all = organization.gateways.iter().filter(has_loopback);
    all.map(|network| Finding {
        name: "gateway-loopback",
        severity: Severity::Error,
        place: "organization.gateways".into(),
        seen: format!("contains {network}, which includes this machine"),
        why: "all mail of local programs counts as external, so no outbound copy is made of it"
            .into(),
        fix: without("organization.gateways", &organization.gateways, network),
    })
    .collect()
}

/// Asks which trusted clients relay external mail, which cannot be detected here.
fn check_gateways_asked(settings: &Settings) -> Option<Finding> {
    let organization = &settings.rules.organization;
    let is_wide = |network: &IpNet| match network {
        IpNet::V4(v4) => v4.prefix_len() < WIDE.0,
        IpNet::V6(v6) => v6.prefix_len() < WIDE.1,
    };
    let has_gateway = |network: &IpNet| {
        let mut all = organization.gateways.iter();
        all.any(|gateway| network.contains(gateway) || gateway.contains(network))
    };
    let asked = organization.trusted_networks.iter().filter(|network| {
        network.prefix_len() > 0
            && !is_own(network, &organization.names)
            && (organization.gateways.is_empty() || is_wide(network))
            && !has_gateway(network)
    });
    let asked: Vec<&IpNet> = asked.collect();
    let wide = asked.iter().any(|network| is_wide(network));
    let names: Vec<String> = asked.iter().map(ToString::to_string).collect();
    let narrower = match wide {
        true => {
            "; and list only machines that send your users' mail without authentication, here and in mynetworks"
        }
        false => "",
    };
    (!names.is_empty()).then(|| Finding {
        name: "gateways-asked",
        severity: Severity::Hint,
        place: "organization.trusted_networks".into(),
        seen: format!("contains {}, of which organization.gateways contains nothing", names.join(", ")),
        why: "does any machine in it relay external mail (gateway, backup MX, list server, content filter)? With a forged sender of the organization such mail is not journaled as inbound and passes the journal guard".into(),
        fix: format!(
            "if so: {}{narrower}",
            line::append(settings, "organization.gateways", &["ADDRESS".into()])
        ),
    })
}

/// Whether a network is this machine: loopback, or the address of an interface.
fn is_own(network: &IpNet, names: &AddressRules) -> bool {
    let is_single = network.prefix_len() == network.max_prefix_len();
    let address = network.addr();
    address.is_loopback() || is_single && names.is_local(&format!("[{address}]"))
}

/// Returns the networks in a list such as mynetworks (postconf(5)), without files and tables; empty if
/// the list contains exclusions, which only Postfix can evaluate.
fn networks<'a>(list: impl Iterator<Item = &'a str>) -> Vec<IpNet> {
    let mut found = Vec::new();
    for item in list {
        if item.starts_with('!') {
            return Vec::new();
        }
        if is_unread(item) {
            continue;
        }
        let (address, bits) = item.split_once('/').unwrap_or((item, ""));
        let address = strip_brackets(address);
        let network = match bits {
            "" => address.parse::<IpAddr>().ok().map(IpNet::from),
            bits => format!("{address}/{bits}").parse().ok(),
        };
        found.extend(network.map(canonical));
    }
    found
}

/// Whether an item is a file or table of networks.
fn is_unread(item: &str) -> bool {
    item.starts_with('/') || item.contains(':') && !item.starts_with('[')
}

/// Converts `::ffff:10.0.0.0/104` to `10.0.0.0/8`.
fn canonical(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(network, IpNet::V4),
            None => network,
        },
        network => network,
    }
}

/// Finds clients that may relay without authentication and that Copyist does not know.
fn check_untrusted(postfix: &Postfix, listener: &Service, settings: &Settings) -> Option<Finding> {
    listener.restriction("permit_mynetworks")?;
    let organization = &settings.rules.organization;
    let known: Vec<IpNet> = organization
        .trusted_networks
        .iter()
        .chain(&organization.gateways)
        .copied()
        .collect();
    let known = IpNet::aggregate(&known);
    let mut listed = networks(listener.values.list("mynetworks"));
    // IPv4 networks are often listed in their IPv6 form, too.
    listed.sort_unstable();
    listed.dedup();
    let missing = listed
        .iter()
        .filter(|network| !known.iter().any(|one| one.contains(*network)));
    let missing: Vec<String> = missing.map(ToString::to_string).collect();
    (!missing.is_empty()).then(|| Finding {
        name: "mynetworks-untrusted",
        severity: Severity::Error,
        place: postfix.place(listener, "mynetworks"),
        seen: format!(
            "contains {}, which is in neither organization.trusted_networks nor organization.gateways",
            missing.join(", ")
        ),
        why: "mail of these clients counts as external, so no outbound copy is made of it. Does any machine in it relay external mail (gateway, backup MX, list server, content filter)?".into(),
        fix: format!(
            "{} for machines that send only the organization's mail; for each that relays external mail, first {} as well",
            line::append(settings, "organization.trusted_networks", &missing),
            line::append(settings, "organization.gateways", &["ADDRESS".into()]),
        ),
    })
}

/// Finds networks in files and tables, and lists with exclusions.
fn check_unread_networks(postfix: &Postfix, listener: &Service, _: &Settings) -> Option<Finding> {
    listener.restriction("permit_mynetworks")?;
    let mut unread = listener.values.list("mynetworks");
    let item = unread.find(|item| item.starts_with('!') || is_unread(item))?;
    Some(Finding {
        name: "mynetworks-unread",
        severity: Severity::Hint,
        place: postfix.place(listener, "mynetworks"),
        seen: format!("contains {item}, which is not read"),
        why: "no outbound copy is made of mail from clients that Postfix trusts and Copyist does not".into(),
        fix: "add every network whose machines send only the organization's mail to organization.trusted_networks, and every machine that relays external mail to organization.gateways".into(),
    })
}

/// Finds TLS client certificates that may relay.
fn check_certificates(
    postfix: &Postfix,
    listener: &Service,
    settings: &Settings,
) -> Option<Finding> {
    const WORDS: [&str; 3] = [
        "permit_tls_clientcerts",
        "permit_tls_all_clientcerts",
        "check_ccert_access",
    ];
    let mut lists = WORDS.into_iter();
    let (word, parameter) = lists.find_map(|word| Some((word, listener.restriction(word)?)))?;
    if !settings.rules.organization.trusted_certificates.is_empty() {
        return check_unverified(postfix, listener, word);
    }
    let table = match word {
        "permit_tls_clientcerts" => shown(listener.values.get("relay_clientcerts")),
        _ => String::new(),
    };
    let table = match table.is_empty() {
        true => String::new(),
        false => format!(" (relay_clientcerts {table})"),
    };
    Some(Finding {
        name: "certificates-untrusted",
        severity: Severity::Warning,
        place: postfix.place(listener, parameter),
        seen: format!("contains {word}{table}, and organization.trusted_certificates is empty"),
        why: "clients with a trusted certificate count as external, so no outbound copy is made of their mail".into(),
        fix: format!(
            "{}, with the common names of each certificate's subject and issuer",
            line::list("organization.trusted_certificates", &["SUBJECT;ISSUER".into()])
        ),
    })
}

/// Finds unverified certificates: Postfix passes on the names in a certificate only if it verified the
/// issuer, although it may admit clients by fingerprint alone.
fn check_unverified(postfix: &Postfix, listener: &Service, word: &str) -> Option<Finding> {
    let parameters = ["smtpd_tls_CAfile", "smtpd_tls_CApath"];
    let are_empty = parameters
        .iter()
        .all(|name| listener.values.get(name).is_empty());
    are_empty.then(|| Finding {
        name: "certificates-unverified",
        severity: Severity::Warning,
        place: postfix.place(listener, parameters[0]),
        seen: format!("is empty, as is {}, and {word} admits clients", parameters[1]),
        why: "Postfix verifies no certificate and passes no names to Copyist: such clients count as external, so no outbound copy is made of their mail".into(),
        fix: "set smtpd_tls_CAfile to the CA certificates (PEM) of your clients' certificates".into(),
    })
}

/// Finds authentication without login attributes: user names that are not addresses.
fn check_logins(postfix: &Postfix, listener: &Service, settings: &Settings) -> Option<Finding> {
    let authenticates = listener.values.is_yes("smtpd_sasl_auth_enable");
    (authenticates && settings.directory.login_attributes.is_empty()).then(|| Finding {
        name: "logins-unknown",
        severity: Severity::Warning,
        place: postfix.place(listener, "smtpd_sasl_auth_enable"),
        seen: "is \"yes\", and directory.login_attributes is empty".into(),
        why: "users who authenticate with a name that is not an address are not found by it, so no copy is made for them if the sender is not their address".into(),
        fix: line::list(
            "directory.login_attributes",
            &["sAMAccountName", "uid", "userPrincipalName"].map(str::to_owned),
        ),
    })
}

/// Finds a one-sided listener of Copyist behind a Postfix listener that accepts mail of the other side.
fn check_one_sided(postfix: &Postfix, listener: &Service, settings: &Settings) -> Option<Finding> {
    let (parameter, side) = side_of(postfix, listener, settings)?;
    let authenticates = listener.values.is_yes("smtpd_sasl_auth_enable");
    let place = postfix.place(listener, parameter);
    match side {
        Side::Internal if !postfix.is_local(listener) && !accepts_only_trusted(listener) => Some(Finding {
            name: "outbound-listener-open",
            severity: Severity::Error,
            place,
            seen: format!("connects {} to a listener of Copyist that treats all mail as the organization's own", listener.name),
            why: "external mail that arrives here counts as the organization's own: it is not journaled as inbound and passes the journal guard".into(),
            fix: postfix.set_service(listener, "smtpd_client_restrictions", "permit_sasl_authenticated,reject"),
        }),
        Side::External if authenticates => Some(Finding {
            name: "inbound-listener-login",
            severity: Severity::Error,
            place,
            seen: format!("connects {}, where users authenticate, to a listener of Copyist that treats all mail as external", listener.name),
            why: "no outbound copy is made of users' mail".into(),
            fix: postfix.set_service(listener, "smtpd_sasl_auth_enable", "no"),
        }),
        _ => None,
    }
}

/// Returns the parameter that connects a listener to Copyist, and the side of Copyist's listener.
fn side_of(
    postfix: &Postfix,
    listener: &Service,
    settings: &Settings,
) -> Option<(&'static str, Side)> {
    let ways = routes::by_smtp(postfix, listener, settings);
    if let Some(door) = ways.proxy {
        return Some(("smtpd_proxy_filter", door.side?));
    }
    if let Some(door) = ways.filter {
        return Some(("content_filter", door.side?));
    }
    let list = milters::parse(listener.values.get("smtpd_milters"));
    let sides = settings.hook.milter_sides.iter();
    let mut asked = sides.filter(|(listen, _)| {
        let listen = std::slice::from_ref(listen);
        list.iter()
            .any(|one| one.is_copyist(postfix, listener, listen))
    });
    Some(("smtpd_milters", asked.next()?.1))
}

/// Whether a list of restrictions rejects all clients that Postfix does not trust.
fn accepts_only_trusted(listener: &Service) -> bool {
    const KNOWN: [&str; 4] = [
        "permit_mynetworks",
        "permit_sasl_authenticated",
        "permit_tls_clientcerts",
        "permit_tls_all_clientcerts",
    ];
    let lists = [
        "smtpd_client_restrictions",
        "smtpd_helo_restrictions",
        "smtpd_sender_restrictions",
        "smtpd_relay_restrictions",
        "smtpd_recipient_restrictions",
    ];
    lists.into_iter().any(|parameter| {
        let words: Vec<&str> = listener.values.list(parameter).collect();
        let end = words.iter().position(|word| *word == "reject");
        end.is_some_and(|end| {
            words[..end]
                .iter()
                .all(|word| KNOWN.contains(word) || word.starts_with("reject"))
        })
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
