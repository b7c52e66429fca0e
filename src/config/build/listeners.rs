//! The sections `[hook]`, `[limits]`, `[spool]` and `[admin]`: listeners, access lists and limits.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::smtp::{self, SMTP};
use super::{Build, join, non_empty};
use crate::config::keys::{header_of, without_index};
use crate::config::problem::{ErrorReported, quote};
use crate::config::raw::StringList;
use crate::config::{accounts, files, parse};
use crate::hook::{AccessList, ClientNetworks, Limits, ListenAddress, UnixSocketSettings};
use crate::mail::Side;
use crate::secret::Secret;
use crate::{admin, hook, mail, spool};

const MILTER: &str = "hook.milter.listen";
const ADMIN: &str = "admin.listen";

/// The addresses of all listeners.
struct Addresses {
    milter: Vec<ListenAddress>,
    /// Those whose mail is always from one side.
    sides: Vec<(ListenAddress, Side)>,
    smtp: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Build<'_> {
    pub(super) fn listeners(&mut self) -> Result<(hook::Settings, admin::Settings), ErrorReported> {
        let addresses = self.addresses();
        let raw = &self.raw.hook.milter;
        let milter_clients = self.each(
            "hook.milter.allow_clients",
            &raw.allow_clients,
            parse::network,
        );
        let admin_clients = &self.raw.admin.allow_clients;
        let admin_clients = self.each("admin.allow_clients", admin_clients, parse::network);
        let token = self.token();
        let users = self.each("hook.milter.allow_users", &raw.allow_users, accounts::user);
        let socket = self.socket(&raw.allow_users);
        let limits = self.limits();
        let smtp = match &addresses {
            Ok(addresses) => Ok(addresses.smtp.as_slice()),
            Err(reported) => Err(*reported),
        };
        let smtp = self.smtp_listeners(smtp);
        let Addresses {
            milter,
            sides,
            admin: listen,
            ..
        } = addresses?;
        let (clients, admin_clients) = (
            ClientNetworks::new(milter_clients?),
            ClientNetworks::new(admin_clients?),
        );
        for (at, listen) in milter.iter().enumerate() {
            if let ListenAddress::Inet(address) = listen {
                let key = format!("{MILTER}[{at}]");
                self.check_access_list(&key, listen, *address, &clients)?;
            }
        }
        if let Some(address) = listen {
            self.check_access_list(ADMIN, address, address, &admin_clients)?;
        }
        let access = AccessList {
            identity_forwarders: ClientNetworks::new([]),
            clients,
            users: users?,
        };
        let hook = hook::Settings {
            milter,
            milter_sides: sides,
            socket: socket?,
            access,
            limits: limits?,
            smtp: smtp?,
        };
        let admin = admin::Settings {
            listen,
            clients: admin_clients,
            token: token?,
        };
        Ok((hook, admin))
    }

    /// Builds the milter listeners whose mail is always from one side.
    fn milter_sides(&mut self) -> Result<Vec<(ListenAddress, Side)>, ErrorReported> {
        let raw = &self.raw.hook.milter;
        let inbound = self.each(
            "hook.milter.inbound",
            &raw.inbound,
            str::parse::<ListenAddress>,
        );
        let outbound = self.each(
            "hook.milter.outbound",
            &raw.outbound,
            str::parse::<ListenAddress>,
        );
        let inbound = inbound?.into_iter().map(|listen| (listen, Side::External));
        let outbound = outbound?.into_iter().map(|listen| (listen, Side::Internal));
        Ok(inbound.chain(outbound).collect())
    }

    /// Reads the token that the admin pages require.
    fn token(&mut self) -> Result<Option<Secret>, ErrorReported> {
        const KEY: &str = "admin.token_file";
        let Some(text) = non_empty(&self.raw.admin.token_file) else {
            return Ok(None);
        };
        let path = self.secret_path(KEY, text)?;
        files::token(&path)
            .map(Some)
            .map_err(|error| self.bad_file(KEY, text, &path, &error))
    }

    fn addresses(&mut self) -> Result<Addresses, ErrorReported> {
        let raw = self.raw;
        let smtp = self.smtp_addresses();
        let no_smtp = raw.hook.smtp.is_empty() && !self.problems.has_problem_at(SMTP);
        let sides = self.milter_sides();
        let one_sided = raw.hook.milter.inbound.0.len() + raw.hook.milter.outbound.0.len();
        let milter = if raw.hook.milter.listen.0.is_empty() && one_sided == 0 && no_smtp {
            Err(self.report_missing(MILTER, MILTER, "no MTA can connect"))
        } else {
            self.each(MILTER, &raw.hook.milter.listen, str::parse::<ListenAddress>)
        };
        let admin = match raw.admin.listen.trim() {
            "" | "off" => Ok(None),
            text => self
                .parsed(ADMIN, text, |text| {
                    text.parse::<SocketAddr>()
                        .map_err(|_| "is neither ADDRESS:PORT with an IP address nor \"off\"")
                })
                .map(Some),
        };
        let (mut milter, sides) = (milter?, sides?);
        milter.extend(sides.iter().map(|(listen, _)| listen.clone()));
        let addresses = Addresses {
            milter,
            sides,
            smtp: smtp?,
            admin: admin?,
        };
        self.check_collisions(&addresses)?;
        Ok(addresses)
    }

    fn check_collisions(&mut self, addresses: &Addresses) -> Result<(), ErrorReported> {
        let milters = addresses.milter.iter().enumerate();
        let milters = milters.map(|(at, listen)| {
            let written = listen.to_string();
            (format!("{MILTER}[{at}]"), listen.clone(), written)
        });
        let smtp = addresses.smtp.iter().enumerate();
        let others = smtp
            .map(|(at, address)| (join(&smtp::table(at), "listen"), address))
            .chain(
                addresses
                    .admin
                    .iter()
                    .map(|address| (ADMIN.into(), address)),
            )
            .map(|(key, address)| (key, ListenAddress::Inet(*address), address.to_string()));
        let mut taken: Vec<(String, ListenAddress, String)> = Vec::new();
        for (key, listen, written) in milters.chain(others) {
            if let Some((by, _, other)) = taken.iter().find(|(_, by, _)| collide(by, &listen)) {
                return Err(self.problems.report_invalid_with(
                    &key,
                    Some(&quote(&written)),
                    format!("is already used by \"{other}\" in {}", without_index(by)),
                    Some("choose another port or path".into()),
                ));
            }
            taken.push((key, listen, written));
        }
        Ok(())
    }

    /// Checks that a listener that other machines can reach has an access list: none of the protocols
    /// authenticates MTAs.
    pub(super) fn check_access_list(
        &mut self,
        key: &str,
        seen: impl std::fmt::Display,
        address: SocketAddr,
        clients: &ClientNetworks,
    ) -> Result<(), ErrorReported> {
        if address.ip().to_canonical().is_loopback() || !clients.is_local_only() {
            return Ok(());
        }
        let table = key.rsplit_once('.').map_or(key, |(table, _)| table);
        let network = match address.ip() {
            IpAddr::V4(_) => "192.0.2.0/24",
            IpAddr::V6(_) => "2001:db8::/32",
        };
        Err(self.problems.report_invalid_with(
            key,
            Some(&quote(&seen.to_string())),
            format!("is reachable from other machines, but {table}.allow_clients lists none"),
            Some(format!(
                "set, for example, allow_clients = [\"127.0.0.0/8\", \"{network}\"] in {}, or listen on a loopback address",
                header_of(table)
            )),
        ))
    }

    fn socket(&mut self, users: &StringList) -> Result<UnixSocketSettings, ErrorReported> {
        const MODE: &str = "hook.milter.socket_mode";
        let raw = &self.raw.hook.milter;
        let group = self.optional(
            "hook.milter.socket_group",
            &raw.socket_group,
            accounts::group,
        );
        let mode = self.parsed(MODE, &raw.socket_mode, parse::mode)?;
        if mode & 0o002 != 0 && users.0.is_empty() {
            let problem = "lets every local user submit mail, and allow_users is empty";
            return Err(self
                .problems
                .report_invalid(MODE, &raw.socket_mode, problem));
        }
        Ok(UnixSocketSettings {
            mode,
            group: group?,
        })
    }

    fn limits(&mut self) -> Result<Limits, ErrorReported> {
        let raw = self.raw;
        let raw = &raw.limits;
        let mut time = |name: &str, text: &str| {
            self.parsed(&format!("limits.{name}"), text, parse::nonzero_duration)
        };
        let times = [
            time("negotiation_time", &raw.negotiation_time),
            time("idle", &raw.idle),
            time("message_time", &raw.message_time),
            time("connection_time", &raw.connection_time),
        ];
        let mut size = |name: &str, text: &str| {
            self.parsed(&format!("limits.{name}"), text, parse::nonzero_size)
        };
        let message_size = size("message_size", &raw.message_size);
        let header_size = size("header_size", &raw.header_size);
        let memory = size("memory", &raw.memory);
        let [greeting, idle, message_time, connection_time] = times;
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Limits {
            connections: number(raw.connections.get()),
            memory: usize::try_from(memory?).unwrap_or(usize::MAX),
            connection: mail::Limits {
                greeting: greeting?,
                idle: idle?,
                message_time: message_time?,
                connection_time: connection_time?,
                message_size: usize::try_from(message_size?).unwrap_or(usize::MAX),
                header_size: usize::try_from(header_size?).unwrap_or(usize::MAX),
                recipients: number(raw.recipients.get()),
                ..mail::Limits::DEFAULT
            },
        })
    }

    pub(super) fn spool(&mut self, state_dir: &Path) -> Result<spool::Settings, ErrorReported> {
        let raw = &self.raw.spool;
        let min_free = self.parsed("spool.min_free", &raw.min_free, parse::size)?;
        Ok(spool::Settings {
            min_free,
            min_free_inodes: raw.min_free_inodes,
            ..spool::Settings::new(state_dir)
        })
    }
}

/// Whether two listeners need the same address.
fn collide(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Unix(a), ListenAddress::Unix(b)) => a == b,
        (ListenAddress::Inet(a), ListenAddress::Inet(b)) => {
            // Port 0 is any free port. [::] includes IPv4; 0.0.0.0 is only IPv4.
            let takes = |a: &SocketAddr, b: &SocketAddr| {
                a.ip() == b.ip() || a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4())
            };
            a.port() == b.port() && a.port() != 0 && (takes(a, b) || takes(b, a))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_collide_if_one_covers_the_other() {
        let listen = |text: &str| text.parse::<ListenAddress>().expect(text);
        for (a, b, expected) in [
            ("inet:127.0.0.1:25", "inet:127.0.0.1:25", true),
            ("inet:127.0.0.1:25", "inet:127.0.0.2:25", false),
            ("inet:127.0.0.1:25", "inet:127.0.0.1:26", false),
            ("inet:0.0.0.0:25", "inet:127.0.0.1:25", true),
            ("inet:0.0.0.0:25", "inet6:[::1]:25", false),
            ("inet6:[::]:25", "inet:127.0.0.1:25", true),
            ("inet6:[::]:25", "inet:0.0.0.0:25", true),
            ("inet:127.0.0.1:0", "inet:127.0.0.1:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "inet:127.0.0.1:25", false),
        ] {
            let (a, b) = (listen(a), listen(b));
            assert_eq!(collide(&a, &b), expected, "{a} {b}");
            assert_eq!(collide(&b, &a), expected, "{b} {a}");
        }
    }
}
