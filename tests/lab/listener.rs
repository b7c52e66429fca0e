//! The service with an SMTP listener in front of a server.

use std::net::SocketAddr;

use super::{Copyist, PATIENCE, Report, SmtpSink, free_port, wait, write};

/// The next hop, directory and settings of a ListenerSite.
pub struct ListenerOptions<'a> {
    /// Where it listens; a free port without it.
    pub listen: Option<SocketAddr>,
    /// The server behind it.
    pub next_hop: SocketAddr,
    /// The attributes of journal addresses: inbound, outbound, internal.
    pub attributes: [&'a str; 3],
    /// The directory, as LDIF. The domain is `corp.example`.
    pub people: &'a str,
    /// More lines of `[[hook.smtp]]`.
    pub listener: &'a str,
    /// More sections.
    pub lines: &'a str,
}

/// The service, and the relay of its reports.
pub struct ListenerSite {
    pub copyist: Copyist,
    pub address: SocketAddr,
    pub relay: SmtpSink,
}

impl ListenerSite {
    /// Starts it; whoever comes from [`INSIDE`](super::INSIDE) is one of ours.
    pub fn start(relay: SmtpSink, options: &ListenerOptions<'_>) -> ListenerSite {
        let address =
            (options.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let sides = ["inbound", "outbound", "internal"].into_iter();
        let sides: String = sides
            .zip(options.attributes)
            .map(|(side, attribute)| {
                format!(
                    "[{side}]\njournal_attribute = \"{attribute}\"\njournal_ndr = \"ndr@corp.example\"\n"
                )
            })
            .collect();
        let config = format!(
            r#"
[organization]
domains = ["corp.example"]
trusted_networks = ["127.0.0.2/32"]
[directory]
urls = ["ldif:people.ldif"]
{sides}
[relay]
host = "{}"
tls = "none"
[admin]
listen = "off"
[hook.milter]
listen = []
[[hook.smtp]]
listen = "{address}"
next_hop = "{}"
{}
{}
"#,
            relay.address(),
            options.next_hop,
            options.listener,
            options.lines,
        );
        let mut copyist = Copyist::install(&config);
        let directory = copyist.config_file().with_file_name("people.ldif");
        write(&directory, options.people);
        copyist.restart();
        ListenerSite {
            copyist,
            address,
            relay,
        }
    }

    /// The reports that have come since this was asked last, once the queue is empty.
    pub fn reports(&self) -> Vec<Report> {
        wait("the queue is empty", PATIENCE, || {
            self.copyist.queued() == 0
        });
        let mut reports = Vec::new();
        self.relay.harvest(
            |text| Report::read(text).is_whole,
            |text| reports.push(Report::read(text)),
        );
        reports
    }
}
