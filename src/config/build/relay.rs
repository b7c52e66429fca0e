//! The sections `[relay]` and `[delivery]`, and this machine's name.

use super::Build;
use crate::config::problem::ErrorReported;
use crate::config::{parse, raw};
use crate::identity::local_domain;
use crate::policy::Organization;
use crate::{deliver, journal};

/// Files that contain the system's host name.
const HOST_NAME_FILES: [&str; 2] = ["/proc/sys/kernel/hostname", "/etc/hostname"];

impl Build<'_> {
    pub(super) fn journal(
        &mut self,
        organization: &Result<Organization, ErrorReported>,
    ) -> Result<journal::Settings, ErrorReported> {
        let raw = self.raw;
        let hostname = self.optional(
            "organization.hostname",
            &raw.organization.hostname,
            parse::host_name,
        );
        let report_from = self.optional(
            "delivery.report_from",
            &raw.delivery.report_from,
            parse::address,
        );
        let organization = organization.as_ref().map_err(|reported| *reported)?;
        let domain = organization.names.default_domain().unwrap_or("localhost");
        let report_from = match report_from? {
            Some(address) => address,
            None => self.parsed(
                "organization.domains",
                &format!("journal@{domain}"),
                parse::address,
            )?,
        };
        Ok(journal::Settings {
            report_from,
            hostname: hostname?.unwrap_or_else(|| system_host_name(domain)),
        })
    }

    pub(super) fn deliver(
        &mut self,
        journal: &Result<journal::Settings, ErrorReported>,
    ) -> Result<deliver::Settings, ErrorReported> {
        let retry = self.retry();
        let relay = self.relay(journal);
        Ok(deliver::Settings {
            relay: relay?,
            retry: retry?,
        })
    }

    fn relay(
        &mut self,
        journal: &Result<journal::Settings, ErrorReported>,
    ) -> Result<deliver::RelaySettings, ErrorReported> {
        let raw = &self.raw.relay;
        let host = match self.optional("relay.host", &raw.host, parse::host_and_port) {
            Ok(None) => {
                let why = "journal copies need a relay";
                Err(self.report_missing("relay.host", "relay", why))
            }
            Ok(Some(host)) => Ok(host),
            Err(reported) => Err(reported),
        };
        let ca_file = self.ca_file("relay.ca_file", &raw.ca_file);
        let login = self.account(
            ("relay.username", &raw.username),
            ("relay.password_file", &raw.password_file),
        );
        let helo_name = self.optional("relay.helo_name", &raw.helo_name, parse::host_name);
        let timeout = self.parsed("relay.timeout", &raw.timeout, parse::nonzero_duration);
        let (host, port) = host?;
        let login = login?.map(|(username, password)| deliver::Login { username, password });
        let journal = journal.as_ref().map_err(|reported| *reported)?;
        Ok(deliver::RelaySettings {
            host,
            port: port.unwrap_or(match raw.tls {
                raw::Tls::Implicit => 465,
                _ => 25,
            }),
            tls: raw.tls.into(),
            ca_file: ca_file?,
            login,
            connections: raw.connections.get().into(),
            helo_name: helo_name?.unwrap_or_else(|| journal.hostname.clone()),
            timeout: timeout?,
        })
    }

    fn retry(&mut self) -> Result<deliver::Retry, ErrorReported> {
        const FIRST: &str = "delivery.retry.first";
        let raw = &self.raw.delivery.retry;
        let first = self.parsed(FIRST, &raw.first, parse::nonzero_duration);
        let max = self.parsed("delivery.retry.max", &raw.max, parse::nonzero_duration);
        let (first, max) = (first?, max?);
        if first > max {
            let problem = format!("is longer than delivery.retry.max ({:?})", raw.max);
            return Err(self.problems.report_invalid(FIRST, &raw.first, problem));
        }
        Ok(deliver::Retry { first, max })
    }
}

/// Returns the names that an MTA on this machine always accepts as its own: the host name, localhost,
/// and address literals of the interfaces.
pub(super) fn own_names(hostname: Option<&str>) -> Vec<String> {
    let system = HOST_NAME_FILES
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok());
    let names = system
        .chain(hostname.map(str::to_owned))
        .chain(["localhost".to_owned()]);
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().to_string());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().to_string()))
    });
    let all = names
        .chain(addresses)
        .filter_map(|name| local_domain(name.trim()));
    all.collect()
}

/// Returns this machine's name with a domain.
fn system_host_name(domain: &str) -> String {
    let name = HOST_NAME_FILES
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .find_map(|text| parse::host_name(text.trim()).ok())
        .unwrap_or_else(|| "localhost".into());
    if name.contains('.') {
        return name;
    }
    format!("{name}.{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_name_has_a_domain() {
        assert!(system_host_name("corp.example").contains('.'));
    }
}
