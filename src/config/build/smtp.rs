//! The tables `[[hook.smtp]]`: SMTP listeners and their next hops.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::{Build, non_empty};
use crate::config::keys::join;
use crate::config::problem::{ErrorReported, quote};
use crate::config::raw::{self, SmtpDirection, SmtpTls};
use crate::config::{files, parse};
use crate::hook::{ClientNetworks, ListenerTls, Mode, NextHop, SmtpListener};
use crate::mail::Side;
use crate::smtp::BareLineBreaks;

/// The list of tables.
pub(super) const SMTP: &str = "hook.smtp";

/// Returns the path of a table: `hook.smtp[1]`.
pub(super) fn table(at: usize) -> String {
    format!("{SMTP}[{at}]")
}

impl Build<'_> {
    /// Parses the address of each listener.
    pub(super) fn smtp_addresses(&mut self) -> Result<Vec<SocketAddr>, ErrorReported> {
        let tables = self.raw.hook.smtp.iter().enumerate();
        let addresses: Vec<_> = tables
            .map(|(at, raw)| {
                let (table, key) = (table(at), join(&table(at), "listen"));
                let parse = |text: &str| {
                    text.parse::<SocketAddr>()
                        .map_err(|_| "is not ADDRESS:PORT with an IP address")
                };
                let address = self.optional(&key, &raw.listen, parse)?;
                address.ok_or_else(|| {
                    self.report_missing(&key, &table, "the listener needs an address")
                })
            })
            .collect();
        addresses.into_iter().collect()
    }

    /// Builds all listeners with these addresses.
    pub(super) fn smtp_listeners(
        &mut self,
        addresses: Result<&[SocketAddr], ErrorReported>,
    ) -> Result<Vec<SmtpListener>, ErrorReported> {
        let tables = self.raw.hook.smtp.iter().enumerate();
        let listeners: Vec<_> = tables
            .map(|(at, raw)| self.smtp_listener(at, raw, addresses))
            .collect();
        listeners.into_iter().collect()
    }

    fn smtp_listener(
        &mut self,
        at: usize,
        raw: &raw::Smtp,
        addresses: Result<&[SocketAddr], ErrorReported>,
    ) -> Result<SmtpListener, ErrorReported> {
        let table = table(at);
        let next_hop = self.next_hop(&table, raw, addresses);
        let mut networks =
            |name: &str, words| self.each(&join(&table, name), words, parse::network);
        let clients = networks("allow_clients", &raw.allow_clients).map(ClientNetworks::new);
        let identity_forwarders =
            networks("allow_xclient", &raw.allow_xclient).map(ClientNetworks::new);
        let tls = self.listener_tls(&table, raw);
        let (clients, listen) = (clients?, addresses?[at]);
        let key = join(&table, "listen");
        self.check_access_list(&key, listen, listen, &clients)?;
        if raw.proxy_protocol && raw.allow_xclient.0.is_empty() {
            return Err(self.problems.report_invalid_with(
                &join(&table, "proxy_protocol"),
                Some("true"),
                "needs a proxy: allow_xclient is empty",
                Some("add the proxy's network to allow_xclient".into()),
            ));
        }
        let mode = raw.mode.into();
        Ok(SmtpListener {
            listen,
            next_hop: next_hop?,
            mode,
            side: match raw.direction {
                SmtpDirection::Auto => None,
                SmtpDirection::Inbound => Some(Side::External),
                SmtpDirection::Outbound => Some(Side::Internal),
            },
            clients,
            identity_forwarders: identity_forwarders?,
            proxy_protocol: raw.proxy_protocol,
            bare_line_breaks: match (raw.bare_newline, mode) {
                (Some(raw), _) => raw.into(),
                (None, Mode::BeforeQueue) => BareLineBreaks::Reject,
                // Too late to reject: the sender is no longer connected.
                (None, Mode::AfterQueue) => BareLineBreaks::Normalize,
            },
            tls: tls?,
        })
    }

    fn next_hop(
        &mut self,
        table: &str,
        raw: &raw::Smtp,
        addresses: Result<&[SocketAddr], ErrorReported>,
    ) -> Result<NextHop, ErrorReported> {
        let key = join(table, "next_hop");
        let server = match self.optional(&key, &raw.next_hop, parse::host_and_port) {
            Ok(None) => {
                let why = "messages need a next hop";
                Err(self.report_missing(&key, table, why))
            }
            Ok(Some(server)) => Ok(server),
            Err(reported) => Err(reported),
        };
        let ca_file = self.ca_file(&join(table, "next_hop_ca_file"), &raw.next_hop_ca_file);
        let timeout = self.parsed(
            &join(table, "next_hop_timeout"),
            &raw.next_hop_timeout,
            parse::nonzero_duration,
        );
        let done = self.parsed(
            &join(table, "next_hop_data_done_timeout"),
            &raw.next_hop_data_done_timeout,
            parse::nonzero_duration,
        );
        let (host, port) = server?;
        let port = port.unwrap_or(match raw.next_hop_tls {
            raw::Tls::Implicit => 465,
            _ => 25,
        });
        let own = addresses?
            .iter()
            .position(|address| leads_to(&host, port, *address));
        if let Some(own) = own {
            return Err(self.problems.report_invalid_with(
                &key,
                non_empty(&raw.next_hop).map(quote).as_deref(),
                format!(
                    "is the listener {} itself: messages would loop",
                    self::table(own)
                ),
                Some("set the server that receives the messages".into()),
            ));
        }
        Ok(NextHop {
            host,
            port,
            tls: raw.next_hop_tls.into(),
            ca_file: ca_file?,
            timeout: timeout?,
            data_done_timeout: done?,
        })
    }

    fn listener_tls(
        &mut self,
        table: &str,
        raw: &raw::Smtp,
    ) -> Result<Option<ListenerTls>, ErrorReported> {
        let cert = (join(table, "cert_file"), non_empty(&raw.cert_file));
        let key = (join(table, "key_file"), non_empty(&raw.key_file));
        if raw.tls == SmtpTls::None {
            return match [cert, key]
                .into_iter()
                .find_map(|(key, file)| Some((key, file?)))
            {
                // The administrator expects encryption here.
                Some((key, file)) => Err(self.problems.report_invalid_with(
                    &key,
                    Some(&quote(file)),
                    "is not used: tls is \"none\"",
                    Some("set tls = \"starttls\", or remove it".into()),
                )),
                None => Ok(None),
            };
        }
        let near = join(table, "tls");
        let mut needed = |(key, file): &(String, Option<&_>), why: &str| match file {
            Some(file) => Ok(str::to_owned(file)),
            None => Err(self.report_missing(key, &near, why)),
        };
        let cert_file = needed(&cert, "TLS needs a certificate");
        let key_file = needed(&key, "a certificate needs its key");
        let (cert_file, key_file) = self.pair((&cert.0, cert_file?), (&key.0, key_file?))?;
        Ok(Some(ListenerTls {
            implicit: raw.tls == SmtpTls::Implicit,
            cert_file,
            key_file,
        }))
    }

    /// Returns the paths of a certificate and its key after checking both.
    fn pair(
        &mut self,
        (cert_key, cert_file): (&str, String),
        (key_key, key_file): (&str, String),
    ) -> Result<(PathBuf, PathBuf), ErrorReported> {
        let cert_path = self.path(&cert_file);
        let certificates = files::certificates(&cert_path)
            .map_err(|error| self.bad_file(cert_key, &cert_file, &cert_path, &error));
        let key_path = self.secret_path(key_key, &key_file)?;
        let key = files::key(&key_path)
            .map_err(|error| self.bad_file(key_key, &key_file, &key_path, &error));
        match files::check_pair(certificates?, key?, &cert_file) {
            Ok(()) => Ok((cert_path, key_path)),
            Err(error @ files::FileError::UnusableCertificate(_)) => {
                Err(self.bad_file(cert_key, &cert_file, &cert_path, &error))
            }
            Err(error) => Err(self.bad_file(key_key, &key_file, &key_path, &error)),
        }
    }
}

/// Whether a connection to `host` and `port` certainly reaches a listener with this address. Other
/// names and addresses of this machine are unknown here.
fn leads_to(host: &str, port: u16, listen: SocketAddr) -> bool {
    let own = listen.ip().to_canonical();
    let is_here = match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        // A connection to 0.0.0.0 or [::] reaches this machine.
        Ok(ip) => {
            let local = ip.is_loopback() || ip.is_unspecified();
            let heard = own.is_ipv6() || ip.is_ipv4();
            ip == own
                || local && own.is_unspecified() && heard
                || ip.is_unspecified() && own.is_loopback() && ip.is_ipv4() == own.is_ipv4()
        }
        Err(_) => {
            host.eq_ignore_ascii_case("localhost") && (own.is_loopback() || own.is_unspecified())
        }
    };
    is_here && port == listen.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_hop_that_is_a_listener_is_recognized() {
        for (host, port, listen, expected) in [
            ("127.0.0.1", 25, "127.0.0.1:25", true),
            ("127.0.0.1", 26, "127.0.0.1:25", false),
            ("127.0.0.2", 25, "127.0.0.1:25", false),
            ("::ffff:127.0.0.1", 25, "127.0.0.1:25", true),
            ("LocalHost", 25, "127.0.0.1:25", true),
            ("localhost", 25, "[::1]:25", true),
            ("localhost", 25, "0.0.0.0:25", true),
            ("localhost", 25, "192.0.2.1:25", false),
            ("127.0.0.1", 25, "0.0.0.0:25", true),
            ("127.0.0.1", 25, "[::]:25", true),
            ("::1", 25, "[::]:25", true),
            ("::1", 25, "0.0.0.0:25", false),
            ("0.0.0.0", 25, "127.0.0.1:25", true),
            ("::", 25, "127.0.0.1:25", false),
            // Another machine, whichever addresses we listen on.
            ("192.0.2.1", 25, "0.0.0.0:25", false),
            ("mx.example.com", 25, "0.0.0.0:25", false),
        ] {
            let listen = listen.parse().expect(listen);
            assert_eq!(
                leads_to(host, port, listen),
                expected,
                "{host}:{port} {listen}"
            );
        }
    }
}
