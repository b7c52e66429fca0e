//! The readings of an address, and the order in which they are tried. Pure.
//!
//! An exact address of an object belongs to that object alone. Only without one are other readings
//! tried, see [`AddressRules::readings`].

use std::net::IpAddr;

use super::domains::{DirectoryDomains, DomainPattern};
use crate::mail::Address;

/// Maximum number of readings of one address; an address with more is not a real mailbox.
const MAX_READINGS: usize = 24;

/// Maximum number of nested routes (`a%b%c@d`).
const MAX_ROUTES: usize = 4;

/// Rules for reading the organization's addresses.
#[derive(Debug, Clone, Default)]
pub struct AddressRules {
    /// The organization's domains.
    pub domains: Vec<DomainPattern>,
    /// Further domains from the directory.
    pub directory_domains: DirectoryDomains,
    /// The MTA's own names: host names and address literals, canonical (see [`local_domain`]).
    pub local_domains: Vec<String>,
    /// Groups of domains that share their local parts, canonical.
    pub same_domains: Vec<Vec<String>>,
    /// The domain of an address without one (the MTA's `myorigin`).
    pub default_domain: Option<String>,
    /// Characters that start an address extension (`user+list@example.com`); empty: none.
    pub recipient_delimiter: String,
}

/// A reading of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The address.
    pub address: Address,
    /// The last step that led to it.
    pub step: ReadingStep,
}

/// The step from an address to another reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadingStep {
    /// As written.
    Written,
    /// Without the tag of a bounce address scheme (BATV, VERP, SRS).
    Tag,
    /// Without its extension.
    Extension,
    /// At a domain that shares its local parts.
    SharedDomain,
    /// As the next hop reads `%`, `!` or a quoted `@` in a local part.
    Route,
    /// As the MTA reported it.
    Mta,
}

impl ReadingStep {
    /// Returns the wording in explanations.
    pub fn name(self) -> &'static str {
        match self {
            ReadingStep::Written => "as written",
            ReadingStep::Tag => "tag removed",
            ReadingStep::Extension => "extension removed",
            ReadingStep::SharedDomain => "shared domain",
            ReadingStep::Route => "local part read as a route",
            ReadingStep::Mta => "as the MTA reads it",
        }
    }
}

/// All readings of one address, in order of precedence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readings {
    /// Addresses; the first is the address as written.
    pub addresses: Vec<Reading>,
    /// Login names that the local part may be, tried last.
    pub logins: Vec<String>,
    /// The external address that the local part routes to, if no object has any of the above.
    pub external: Option<Address>,
}

/// Returns the canonical form of a name of the MTA: a lowercased host name, or an address in
/// brackets. `None` if it is neither.
pub fn local_domain(text: &str) -> Option<String> {
    let text = text.trim();
    if let Some(ip) = literal(text).or_else(|| text.parse().ok()) {
        return Some(format!("[{}]", ip.to_canonical()));
    }
    let address = Address::parse(&format!("x@{text}")).ok()?;
    (!text.contains('@')).then(|| address.domain().to_owned())
}

/// Parses an address literal (RFC 5321 section 4.1.3).
fn literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    let tagged = inner.get(..5);
    let bare = match tagged.is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:")) {
        true => &inner[5..],
        false => inner,
    };
    bare.parse().ok()
}

impl AddressRules {
    /// Whether an address belongs to the organization.
    pub fn contains(&self, address: &Address) -> bool {
        self.is_organization_domain(address.domain()) || self.is_local(address.domain())
    }

    fn is_organization_domain(&self, domain: &str) -> bool {
        let found = self.directory_domains.get();
        let mut all = self.domains.iter().chain(found.iter());
        all.any(|pattern| pattern.matches(domain))
    }

    /// Whether a domain is one of the MTA's own names.
    pub fn is_local(&self, domain: &str) -> bool {
        match literal(domain) {
            Some(ip) => {
                let ip = format!("[{}]", ip.to_canonical());
                self.local_domains.contains(&ip)
            }
            None => self.local_domains.iter().any(|local| local == domain),
        }
    }

    /// Returns the domain of addresses without one.
    pub fn default_domain(&self) -> Option<&str> {
        let first = || {
            let plain = self.domains.iter().find(|pattern| !pattern.is_below());
            plain.or(self.domains.first()).map(DomainPattern::name)
        };
        self.default_domain.as_deref().or_else(first)
    }

    /// Returns all readings of an address, in order of precedence: as written, tag removed,
    /// extension removed, shared domain, routes, the MTA's reading, login name. `mta` is the
    /// address as the MTA reported it.
    pub fn readings(&self, address: &Address, mta: Option<&Address>) -> Readings {
        let mut list = ReadingList::default();
        list.add(address.clone(), ReadingStep::Written);
        if let Some(wrapped) = srs(address.local()).filter(|_| self.contains(address)) {
            match self.contains(&wrapped) {
                true => list.add(wrapped, ReadingStep::Tag),
                // Forwarded mail of an external sender.
                false => {
                    list.external = Some(wrapped);
                    return list.finish();
                }
            }
        }
        self.add_variants(&mut list, 0);
        if self.contains(address) {
            self.follow_routes(&mut list);
        }
        if let Some(mta) = mta {
            let from = list.found.len();
            list.add(mta.clone(), ReadingStep::Mta);
            self.add_variants(&mut list, from);
        }
        let local = |reading: &&Reading| self.is_local(reading.address.domain());
        for reading in list.found.iter().filter(local) {
            let login = reading.address.local().to_lowercase();
            if !login.is_empty() && !list.logins.contains(&login) {
                list.logins.push(login);
            }
        }
        list.finish()
    }

    /// Adds the readings without tag, without extension and at shared domains, of all readings from
    /// this position on.
    fn add_variants(&self, list: &mut ReadingList, from: usize) {
        for at in from..list.found.len() {
            let address = list.found[at].address.clone();
            if self.contains(&address) {
                for local in without_tags(address.local()) {
                    list.add_local(&address, &local, ReadingStep::Tag);
                }
            }
        }
        for at in from..list.found.len() {
            let address = list.found[at].address.clone();
            if let Some(base) = address.without_extension(&self.recipient_delimiter) {
                list.add(base, ReadingStep::Extension);
            }
        }
        for at in from..list.found.len() {
            let address = list.found[at].address.clone();
            for domain in self.equivalent_domains(address.domain()) {
                if let Some(same) = address.at_domain(&domain) {
                    list.add(same, ReadingStep::SharedDomain);
                }
            }
        }
    }

    /// Returns the other domains in which a local part is the same mailbox.
    fn equivalent_domains(&self, domain: &str) -> Vec<String> {
        let mut domains = vec![domain.to_owned()];
        if self.is_local(domain) {
            // The domain that the MTA appends to bare names, and its other names.
            let named = self
                .local_domains
                .iter()
                .filter(|name| !name.starts_with('['));
            domains.extend(self.default_domain().map(str::to_owned));
            domains.extend(named.cloned());
        }
        let mut at = 0;
        while let Some(of) = domains.get(at).cloned() {
            let groups = self.same_domains.iter().filter(|group| group.contains(&of));
            for other in groups.flatten() {
                if !domains.contains(other) {
                    domains.push(other.clone());
                }
            }
            at += 1;
        }
        domains.retain(|other| other != domain);
        domains
    }

    /// Adds the routes by `%`, `!` and `@` in local parts at our domains, which the next hop may
    /// follow.
    fn follow_routes(&self, list: &mut ReadingList) {
        let mut from = 0;
        for _ in 0..MAX_ROUTES {
            let until = list.found.len();
            let mut external = None;
            for at in from..until {
                let address = list.found[at].address.clone();
                if !self.contains(&address) {
                    continue;
                }
                for routed in routes(address.local()) {
                    match self.contains(&routed) {
                        true => list.add(routed, ReadingStep::Route),
                        false => external = external.or(Some(routed)),
                    }
                }
            }
            list.external = list.external.take().or(external);
            if list.found.len() == until {
                return;
            }
            from = until;
            self.add_variants(list, from);
        }
    }
}

/// Readings collected so far, each address once.
#[derive(Default)]
struct ReadingList {
    found: Vec<Reading>,
    logins: Vec<String>,
    external: Option<Address>,
}

impl ReadingList {
    fn add(&mut self, address: Address, step: ReadingStep) {
        let is_known = self.found.iter().any(|known| known.address == address);
        if !is_known && self.found.len() < MAX_READINGS {
            self.found.push(Reading { address, step });
        }
    }

    fn add_local(&mut self, of: &Address, local: &str, step: ReadingStep) {
        if let Some(address) = of.with_local(local) {
            self.add(address, step);
        }
    }

    fn finish(self) -> Readings {
        Readings {
            addresses: self.found,
            logins: self.logins,
            external: self.external,
        }
    }
}

/// Returns the local parts without the tags of bounce address schemes.
///
/// BATV is `prvs=TAG=user` (draft-levine-smtp-batv section 3), in its first draft `prvs=user/TAG`;
/// Barracuda writes `btv1==TAG==user`, SparkPost `msprvs1=TAG=user`. VERP is
/// `user-friend=external.test` or `user+friend=external.test`.
fn without_tags(local: &str) -> Vec<String> {
    const SCHEMES: [&str; 3] = ["prvs=", "btv1==", "msprvs1="];
    for scheme in SCHEMES {
        let head = local.get(..scheme.len());
        if !head.is_some_and(|head| head.eq_ignore_ascii_case(scheme)) {
            continue;
        }
        let rest = &local[scheme.len()..];
        let separator = if scheme == "btv1==" { "==" } else { "=" };
        let user = match (rest.split_once(separator), rest.rsplit_once('/')) {
            (Some((_, user)), _) | (None, Some((user, _))) => user,
            (None, None) => rest,
        };
        return match user.is_empty() {
            true => Vec::new(),
            false => vec![user.to_owned()],
        };
    }
    let Some(equals) = local.rfind('=').filter(|at| *at + 1 < local.len()) else {
        return Vec::new();
    };
    let starts = local[..equals].char_indices().skip(1);
    let starts = starts.filter(|(_, c)| matches!(c, '+' | '-'));
    let mut all: Vec<String> = starts.map(|(at, _)| local[..at].to_owned()).collect();
    // The friend's name may contain dashes, too: ours ends at the first, or at any later one.
    all.truncate(MAX_ROUTES);
    all
}

/// Returns the original address of one rewritten by the Sender Rewriting Scheme:
/// `SRS0=HASH=TT=domain=user`, `SRS1=HASH=forwarder==HASH=TT=domain=user`.
fn srs(local: &str) -> Option<Address> {
    let head = local.get(..4)?;
    let rest = &local[4..];
    let first = head.eq_ignore_ascii_case("SRS0");
    if !rest.starts_with(['=', '+', '-']) || !(first || head.eq_ignore_ascii_case("SRS1")) {
        return None;
    }
    let rest = &rest[1..];
    let inner = match first {
        true => rest,
        // After the forwarder follows its SRS0 without the name and first separator.
        false => rest
            .split_once('=')?
            .1
            .split_once('=')?
            .1
            .strip_prefix(['=', '+', '-'])?,
    };
    let mut parts = inner.splitn(4, '=');
    let (_hash, _time, domain, user) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Address::quoted(user, domain)
}

/// Returns the routes that a server may find in a local part: `user%domain`, `domain!user`,
/// `user@domain`.
fn routes(local: &str) -> Vec<Address> {
    let mut all = Vec::new();
    let at_sign = local.rsplit_once('@');
    all.extend(at_sign.and_then(|(user, domain)| Address::quoted(user, domain)));
    let bang = local.split_once('!');
    all.extend(bang.and_then(|(domain, user)| Address::quoted(user, domain)));
    let percent = local.rsplit_once('%');
    all.extend(percent.and_then(|(user, domain)| Address::quoted(user, domain)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> AddressRules {
        let local = ["mx1.corp.test", "localhost", "192.0.2.1", "[::1]"];
        AddressRules {
            domains: ["corp.test", "old.test"]
                .map(|d| d.parse().expect("a domain"))
                .into(),
            local_domains: local
                .iter()
                .map(|l| local_domain(l).expect("a name"))
                .collect(),
            same_domains: vec![vec!["corp.test".into(), "old.test".into()]],
            recipient_delimiter: "+".into(),
            ..AddressRules::default()
        }
    }

    fn read(text: &str) -> Vec<String> {
        let address = Address::parse(text).expect("an address");
        let readings = names().readings(&address, None);
        let logins = readings.logins.iter().map(|login| format!("login {login}"));
        let external = readings.external.iter().map(|to| format!("outside {to}"));
        (readings.addresses.iter().map(|one| one.address.to_string()))
            .chain(logins)
            .chain(external)
            .collect()
    }

    #[test]
    fn readings_come_in_the_order_in_which_they_count() {
        for (written, wanted) in [
            ("dan@corp.test", "dan@corp.test dan@old.test"),
            (
                "dan+x@corp.test",
                "dan+x@corp.test dan@corp.test dan+x@old.test dan@old.test",
            ),
            ("dan@else.test", "dan@else.test"),
            (
                "prvs=0123456789=dan@old.test",
                "prvs=0123456789=dan@old.test dan@old.test prvs=0123456789=dan@corp.test dan@corp.test",
            ),
            (
                "btv1==0a1b==dan@old.test",
                "btv1==0a1b==dan@old.test dan@old.test btv1==0a1b==dan@corp.test dan@corp.test",
            ),
        ] {
            assert_eq!(read(written).join(" "), wanted, "{written}");
        }
    }

    #[test]
    fn local_names_and_routes_lead_to_the_person() {
        for written in [
            "dan@localhost",
            "dan@mx1.corp.test",
            "dan@[192.0.2.1]",
            "dan@[IPv6:0:0:0:0:0:0:0:1]",
            "dan%corp.test@corp.test",
            "corp.test!dan@old.test",
            "\"dan@corp.test\"@corp.test",
            "\"dan%corp.test\"@localhost",
            "dan%old.test%corp.test@localhost",
            "dan-friend=else.test@corp.test",
            "SRS0=HHHH=TT=corp.test=dan@corp.test",
        ] {
            let all = read(written);
            assert!(
                all.contains(&"dan@corp.test".to_owned()),
                "{written}: {all:?}"
            );
        }
        assert!(read("dan@localhost").contains(&"login dan".to_owned()));
        assert!(!read("dan@corp.test").contains(&"login dan".to_owned()));
    }

    #[test]
    fn an_address_that_unwraps_to_an_outsider_is_external() {
        let all = read("SRS0=HHHH=TT=else.test=dan@corp.test");
        assert_eq!(
            all,
            [
                "SRS0=HHHH=TT=else.test=dan@corp.test",
                "outside dan@else.test"
            ]
        );
        let all = read("dan%else.test@corp.test");
        assert_eq!(
            all.last().map(String::as_str),
            Some("outside dan@else.test")
        );
        let all = read("SRS1=GGGG=fwd.test==HHHH=TT=else.test=dan@corp.test");
        assert_eq!(
            all.last().map(String::as_str),
            Some("outside dan@else.test")
        );
    }
}
