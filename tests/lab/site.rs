//! A whole site: a directory, Postfix with Copyist as its milter, a sink for the mail itself and a
//! relay for the reports.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{
    Client, Copyist, DOMAIN, DirectoryServer, FaultProxy, PATIENCE, Postfix, PostfixOptions, Slapd,
    SmtpSink, free_port,
};

/// Clients from here are outside.
pub const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
/// Clients from here are in `trusted_networks`.
pub const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Everything a site has. Fields end in this order when it is dropped: who asks before who answers.
pub struct Site<D: DirectoryServer = Slapd> {
    /// The MTA.
    pub postfix: Postfix,
    /// The agent.
    pub copyist: Copyist,
    /// Where the mail itself goes.
    pub mail: SmtpSink,
    /// Where the reports go.
    pub relay: SmtpSink,
    /// The directory.
    pub directory: D,
    /// Where the agent tells about itself.
    pub admin: u16,
    /// The configuration that the agent was started with.
    pub config: String,
    /// The fault proxies between the agent and its peers, if requested.
    pub between: Option<FaultProxies>,
}

/// The fault proxies of a site.
pub struct FaultProxies {
    /// Agent and directory.
    pub directory: FaultProxy,
    /// Agent and relay.
    pub relay: FaultProxy,
}

/// How a site is to be.
pub struct SiteOptions<'a> {
    /// Where MTA and agent meet: `inet:…` or `unix:…`; on a free TCP port by default.
    pub milter: Option<String>,
    /// That of the directory cache.
    pub ttl: &'a str,
    /// Lines of the table `[relay]`.
    pub relay: &'a str,
    /// Lines at the end of the agent's configuration: `[outbound.append]` and what else there is.
    pub lines: &'a str,
    /// Lines of Postfix's `main.cf`.
    pub postfix: Vec<String>,
    /// Environment variables of the agent.
    pub environment: Vec<(String, String)>,
    /// Whether there are fault proxies between the agent and its peers.
    pub is_breakable: bool,
}

impl Default for SiteOptions<'_> {
    fn default() -> Self {
        SiteOptions {
            milter: None,
            ttl: "5m",
            relay: "",
            lines: "",
            postfix: Vec::new(),
            environment: Vec::new(),
            is_breakable: false,
        }
    }
}

impl<D: DirectoryServer> Site<D> {
    /// A site with 1,000 users, every third of them journaled in `extensionAttribute10`. `ttl` is
    /// that of the directory cache.
    pub fn start(ttl: &str) -> Site<D> {
        Site::start_with(D::start(1000), ttl)
    }

    /// A site with this directory.
    pub fn start_with(directory: D, ttl: &str) -> Site<D> {
        Site::start_as(
            directory,
            SiteOptions {
                ttl,
                ..SiteOptions::default()
            },
        )
    }

    /// A site whose MTA and agent meet here: `inet:…` or `unix:…`.
    pub fn start_on(milter: &str, directory: D, ttl: &str) -> Site<D> {
        Site::start_as(
            directory,
            SiteOptions {
                milter: Some(milter.to_owned()),
                ttl,
                ..SiteOptions::default()
            },
        )
    }

    /// A site with these lines at the end of the agent's configuration: `[outbound.append]` and
    /// what else there is.
    pub fn start_with_lines(directory: D, lines: &str) -> Site<D> {
        Site::start_as(
            directory,
            SiteOptions {
                lines,
                ..SiteOptions::default()
            },
        )
    }

    /// A site with all of these.
    pub fn start_as(directory: D, options: SiteOptions<'_>) -> Site<D> {
        let milter =
            (options.milter.clone()).unwrap_or_else(|| format!("inet:127.0.0.1:{}", free_port()));
        let (mail, relay) = (SmtpSink::start_keeping(), SmtpSink::start_keeping());
        let between = options.is_breakable.then(|| FaultProxies {
            directory: FaultProxy::start(server_of(&directory.access().url)),
            relay: FaultProxy::start(relay.address()),
        });
        let mut settings = directory.settings();
        let mut relay_address = relay.address();
        if let Some(between) = &between {
            let real = server_of(&directory.access().url).to_string();
            settings = settings.replace(&real, &between.directory.address().to_string());
            relay_address = between.relay.address();
        }
        let admin = free_port();
        let config = config(&settings, relay_address, &milter, admin, &options) + options.lines;
        let copyist = Copyist::start_in(options.environment, &config);
        if let Some(socket) = milter.strip_prefix("unix:") {
            // An administrator would put the MTA into the agent's group instead.
            super::set_mode(socket.as_ref(), 0o666);
        }
        let postfix = Postfix::start(&PostfixOptions {
            milter: Some(milter),
            deliver_to: mail.address(),
            extra: options.postfix,
        });
        Site {
            postfix,
            copyist,
            mail,
            relay,
            directory,
            admin,
            config,
            between,
        }
    }

    /// A number among the agent's metrics.
    pub fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).expect("it listens");
        let mut text = String::new();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .and_then(|()| stream.read_to_string(&mut text))
            .expect("it answers");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// A client of the MTA.
    pub fn client(&self, from: IpAddr) -> Client {
        Client::connect_from(from, self.postfix.smtp_addr())
    }

    /// The whole reports that the relay has.
    pub fn reports(&self) -> Vec<Report> {
        let messages = self.relay.messages();
        messages
            .iter()
            .map(|text| Report::read(text))
            .filter(|report| report.is_whole)
            .collect()
    }

    /// Waits until the relay has this many reports, and gives them.
    pub fn wait_for_reports(&self, count: usize) -> Vec<Report> {
        self.wait_until(&format!("{count} reports"), || {
            let reports = self.reports();
            (reports.len() >= count).then_some(reports)
        })
    }

    /// The first report about an original with this Message-ID, waited for.
    pub fn wait_for_report(&self, message_id: &str) -> Report {
        self.wait_until(message_id, || {
            self.reports()
                .into_iter()
                .find(|report| report.about == message_id)
        })
    }

    /// smtp-sink writes files and does not say when one is whole, so they are looked at again and
    /// again.
    pub fn wait_until<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "no {what}\n{}",
                self.copyist.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The user of this number, and whether its mail is journaled.
pub fn user(number: usize) -> String {
    format!("u{number:05}@{DOMAIN}")
}

/// The server in a directory's URL.
fn server_of(url: &str) -> SocketAddr {
    let server = url.split_once("://").map_or(url, |(_, server)| server);
    let known = server.replace("localhost", "127.0.0.1");
    known.parse().expect("an address and a port")
}

fn config(
    directory: &str,
    relay: SocketAddr,
    milter: &str,
    admin: u16,
    options: &SiteOptions<'_>,
) -> String {
    let (ttl, more) = (options.ttl, options.relay);
    format!(
        r#"
[organization]
domains = ["{DOMAIN}"]
trusted_networks = ["127.0.0.2/32"]
[directory]
{directory}timeout = "3s"
[directory.cache]
ttl = "{ttl}"
negative_ttl = "{ttl}"
[inbound]
journal_attribute = "extensionAttribute10"
journal_ndr = "in-ndr@{DOMAIN}"
[outbound]
journal_attribute = "extensionAttribute10"
journal_ndr = "out-ndr@{DOMAIN}"
[internal]
journal_attribute = "extensionAttribute10"
journal_ndr = "internal-ndr@{DOMAIN}"
[hook.milter]
listen = ["{milter}"]
[relay]
host = "{relay}"
tls = "none"
{more}
[delivery]
retry = {{ first = "1s", max = "2s" }}
[admin]
listen = "127.0.0.1:{admin}"
"#
    )
}

/// A journal report as smtp-sink kept it (line ends are LF there).
#[derive(Debug, Clone)]
pub struct Report {
    /// `X-Mail-Args` of the sink: the envelope sender.
    pub sender: String,
    /// `X-Rcpt-Args` of the sink: the envelope recipients.
    pub recipients: Vec<String>,
    /// Its own Message-ID.
    pub message_id: String,
    /// The Message-ID of the original, from the envelope part.
    pub about: String,
    /// The lines of the envelope part, by name.
    pub envelope: HashMap<String, Vec<String>>,
    /// The original.
    pub original: String,
    /// Whether its end is there; smtp-sink may still be writing it.
    pub is_whole: bool,
    /// All of it.
    pub text: String,
}

impl Report {
    /// Reads a report by its boundary, with nothing of ours.
    pub fn read(text: &str) -> Report {
        let (header, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let values = |name: &str| -> Vec<String> {
            let prefix = format!("{name}: ");
            header
                .lines()
                .filter_map(|line| Some(line.strip_prefix(&prefix)?.to_owned()))
                .collect()
        };
        let first = |name: &str| values(name).into_iter().next().unwrap_or_default();
        let path = |args: String| {
            let inside = args
                .split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'));
            inside.map_or(String::new(), |(path, _)| path.to_owned())
        };
        let boundary = header
            .split_once("boundary=\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map_or("no boundary".to_owned(), |(boundary, _)| {
                format!("--{boundary}")
            });
        let parts: Vec<&str> = body.split(boundary.as_str()).collect();
        let content = |n: usize| {
            let part = parts.get(n).and_then(|part| part.split_once("\n\n"));
            part.map_or("", |(_, content)| {
                content.strip_suffix('\n').unwrap_or(content)
            })
        };
        let mut envelope: HashMap<String, Vec<String>> = HashMap::new();
        for (name, value) in content(1).lines().filter_map(|line| line.split_once(": ")) {
            envelope
                .entry(name.to_owned())
                .or_default()
                .push(value.to_owned());
        }
        Report {
            sender: path(first("X-Mail-Args")),
            recipients: values("X-Rcpt-Args").into_iter().map(path).collect(),
            message_id: first("Message-ID"),
            about: envelope
                .get("Message-Id")
                .and_then(|ids| ids.first())
                .cloned()
                .unwrap_or_default(),
            original: content(2).to_owned(),
            envelope,
            is_whole: text.trim_end().ends_with(&format!("{boundary}--")),
            text: text.to_owned(),
        }
    }

    /// The values of a field of the envelope part.
    pub fn field(&self, name: &str) -> Vec<&str> {
        self.envelope
            .get(name)
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect()
    }
}

/// A message with this Message-ID, as [`Client::send_message`] wants it.
pub fn message(message_id: &str, text: &str) -> String {
    format!(
        "From: Somebody <somebody@elsewhere.test>\r\nTo: someone@{DOMAIN}\r\nSubject: {text}\r\nDate: Tue, 24 Nov 2026 03:32:21 +0000\r\n\
         Date: Tue, 24 Nov 2026 03:32:21 +0000\r\nMessage-ID: {message_id}\r\n\r\n{text}\r\n.dots\r\n"
    )
}
