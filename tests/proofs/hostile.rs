//! Honest mail while thousands of connections hold what they can: silent ones, half requests, heads
//! and bodies that come byte by byte; at the SMTP listener, the milter and the admin port, and at
//! Postfix alone.
//!
//! No honest message may be deferred or lost. How long each took is printed and not judged: `cargo
//! test --test proofs hostile:: -- --nocapture`. `tests/proof/hostile` runs the long form; it sets
//! these: `HOSTILE_CONNECTIONS`, and `HOSTILE_SECONDS` for each port.

use crate::lab;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lab::{
    Client, Copyist, OUTSIDE, PATIENCE, Postfix, PostfixOptions, SendOutcome, SmtpSink, free_port,
    message, setting, smtp_source, wait, write,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream as Stream};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

const DAN: &str = "dan@corp.example";
const PEOPLE: &str =
    "dn: cn=dan,dc=corp\ncn: dan\nmail: dan@corp.example\njournal: journal@archive.test\n";
/// Where hostile connections come from: the first of as many addresses as an attack has.
const HOSTILE: u8 = 9;
/// Clients that send honest mail, each at most four messages a second.
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(250);
/// How long a hostile connection that was closed is away.
const AWAY: Duration = Duration::from_secs(5);

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Port {
    Smtp,
    Milter,
    Http,
}

impl Port {
    /// Returns, for each kind of connection, the bytes sent at once and those sent one by one.
    fn kinds(self) -> [(&'static [u8], &'static [u8]); 4] {
        match self {
            Port::Smtp => [
                (b"", b""),
                (b"", b"EHLO slow.head.test\r\n"),
                (
                    b"EHLO a.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<dan@corp.example>\r\nDATA\r\nSubject: x\r\n\r\n",
                    b"a body that comes byte by byte",
                ),
                (b"EHLO a.test\r\nMAIL FROM:<a@b", b""),
            ],
            // Version 6 with all actions and no steps left out; connect, HELO and MAIL, and pieces
            // of a body.
            Port::Milter => [
                (b"", b""),
                (b"", b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0"),
                (
                    b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0\0\0\0\x16Cx.test\x004\0\x19192.0.2.1\0\0\0\0\x0bM<a@b.test>",
                    b"\0\0\0\x09Lh\0aaaaaa",
                ),
                (b"\0\0\0\x0dO\0\0\0\x06", b""),
            ],
            Port::Http => [
                (b"", b""),
                (b"", b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n"),
                (
                    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
                    b"token=that comes byte by byte",
                ),
                (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b""),
            ],
        }
    }
}

/// Hostile connections to one port, each opened again whenever it is closed.
struct Attack {
    runtime: Option<Runtime>,
    open: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Attack {
    /// Returns once every connection was tried.
    fn start(port: Port, at: SocketAddr, count: usize, addresses: u8) -> Attack {
        let runtime = Runtime::new().expect("threads");
        let (open, closed) = (Arc::default(), Arc::<AtomicUsize>::default());
        let tried = Arc::new(AtomicUsize::new(0));
        for number in 0..count {
            let (open, closed, tried) = (Arc::clone(&open), closed.clone(), tried.clone());
            runtime.spawn(async move {
                let (at_once, slowly) = port.kinds()[number % 4];
                let offset = number / 4 % usize::from(addresses);
                let offset = u8::try_from(offset).expect("it is less than a byte");
                let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, HOSTILE + offset));
                // Not all in one instant: a listener's backlog is not what is tried here.
                sleep(Duration::from_millis(number as u64)).await;
                let mut is_first = true;
                loop {
                    let held = hold(from, at, at_once, slowly, &open, || {
                        if std::mem::take(&mut is_first) {
                            tried.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    held.await;
                    closed.fetch_add(1, Ordering::Relaxed);
                    sleep(AWAY).await;
                }
            });
        }
        wait("all were tried", 3 * PATIENCE, || {
            tried.load(Ordering::Relaxed) == count
        });
        Attack {
            runtime: Some(runtime),
            open,
            closed,
        }
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let runtime = self.runtime.take();
        runtime.expect("it is ended once").shutdown_background();
    }
}

/// Holds one connection until the other side closes it.
async fn hold(
    from: IpAddr,
    at: SocketAddr,
    at_once: &[u8],
    slowly: &[u8],
    open: &AtomicUsize,
    tried: impl FnOnce(),
) {
    let connected = async {
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind(SocketAddr::new(from, 0)).ok()?;
        let connecting = timeout(Duration::from_secs(10), socket.connect(at));
        connecting.await.ok()?.ok()
    };
    let connected = connected.await;
    tried();
    let Some(mut stream) = connected else {
        return;
    };
    open.fetch_add(1, Ordering::Relaxed);
    occupy(&mut stream, at_once, slowly).await;
    open.fetch_sub(1, Ordering::Relaxed);
}

async fn occupy(stream: &mut Stream, at_once: &[u8], slowly: &[u8]) {
    let _ = stream.write_all(at_once).await;
    let mut bytes = slowly.iter().cycle();
    let mut heard = [0; 1024];
    loop {
        let read = timeout(Duration::from_secs(1), stream.read(&mut heard));
        match read.await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => {}
            Err(_) => {
                if let Some(&byte) = bytes.next()
                    && stream.write_all(&[byte]).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

/// The outcome of honest mail.
struct Mail {
    /// How long each message took that was accepted, from the connection to the answer; the fastest
    /// first.
    took: Vec<Duration>,
    deferred: Vec<String>,
}

impl Mail {
    /// Sends for so long, each message on a connection of its own.
    fn send(server: SocketAddr, seconds: u64) -> Mail {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mail = Mutex::new((Vec::new(), Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while Instant::now() < end {
                        let id = NUMBER.fetch_add(1, Ordering::Relaxed);
                        let begun = Instant::now();
                        let sent = send(server, id);
                        let took = begun.elapsed();
                        let mut mail = mail.lock().expect("nobody panicked");
                        match sent {
                            Ok(()) => mail.0.push(took),
                            Err(why) => mail.1.push(why),
                        }
                        drop(mail);
                        std::thread::sleep(PAUSE.saturating_sub(took));
                    }
                });
            }
        });
        let (mut took, deferred) = mail.into_inner().expect("nobody panicked");
        took.sort();
        Mail { took, deferred }
    }

    fn print(&self, what: &str) {
        let at = |part: usize| self.took.get(self.took.len() * part / 100);
        let at = |part| at(part).map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0);
        println!(
            "{what:<44} {:5} accepted, {:3} not; p50 {:7.1} ms, p99 {:7.1} ms",
            self.took.len(),
            self.deferred.len(),
            at(50),
            at(99)
        );
    }
}

fn send(server: SocketAddr, id: usize) -> Result<(), String> {
    let mut client = Client::try_connect_from(OUTSIDE, server).map_err(|why| why.to_string())?;
    let content = message(&format!("<h{id}@elsewhere.test>"), "honest");
    match client.try_message("a@elsewhere.test", &[DAN], &content) {
        SendOutcome::Answered(reply) if reply.code == 250 => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Copyist with all its ports, Postfix with it as a milter, and Postfix alone.
struct Site {
    copyist: Copyist,
    milter: SocketAddr,
    smtp: SocketAddr,
    admin: SocketAddr,
    relay: SmtpSink,
    filtered: Postfix,
    alone: Postfix,
    /// Where all mail goes that is not a report.
    mailboxes: SmtpSink,
}

impl Site {
    /// `descriptors` is how many the service may have, if less than the system gives.
    fn start(descriptors: Option<u64>, lines: &str) -> Site {
        let here = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (milter, smtp, admin) = (here(), here(), here());
        let (relay, mailboxes) = (SmtpSink::start(), SmtpSink::start());
        let config = format!(
            r#"
[organization]
domains = ["corp.example"]
[directory]
urls = ["ldif:people.ldif"]
[inbound]
journal_attribute = "journal"
journal_ndr = "ndr@corp.example"
[relay]
host = "{}"
tls = "none"
[admin]
listen = "{admin}"
[hook.milter]
listen = ["inet:{milter}"]
[[hook.smtp]]
listen = "{smtp}"
next_hop = "{}"
allow_xclient = []
{lines}
"#,
            relay.address(),
            mailboxes.address(),
        );
        let mut copyist = Copyist::install(&config);
        copyist.limit_descriptors(descriptors);
        write(&copyist.config_file().with_file_name("people.ldif"), PEOPLE);
        copyist.restart();
        let postfix = |milter: Option<String>| {
            Postfix::start(&PostfixOptions {
                milter,
                deliver_to: mailboxes.address(),
                // As it is out of the box, for everybody: here all clients are in mynetworks.
                extra: vec![
                    "smtpd_client_connection_count_limit = 50".into(),
                    "smtpd_client_event_limit_exceptions =".into(),
                ],
            })
        };
        Site {
            milter,
            smtp,
            admin,
            filtered: postfix(Some(format!("inet:{}:{}", milter.ip(), milter.port()))),
            alone: postfix(None),
            copyist,
            relay,
            mailboxes,
        }
    }

    /// A Postfix that sends all mail through the listener, from so many clients at a time.
    fn proxy_filter(&self, processes: usize) -> Postfix {
        Postfix::start(&PostfixOptions {
            milter: None,
            deliver_to: self.mailboxes.address(),
            extra: vec![
                format!("default_process_limit = {}", processes + 50),
                format!("smtpd_proxy_filter = {}", self.smtp),
                // Many processes begin at once on a small machine.
                "smtpd_proxy_timeout = 300s".into(),
            ],
        })
    }

    /// Whether the admin port says so to another client than the hostile ones.
    fn is_ready(&self) -> bool {
        let mut stream = TcpStream::connect(self.admin).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("connected");
        let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        let asked = stream.write_all(request);
        let read = asked.and_then(|()| stream.read_to_string(&mut answer));
        read.is_ok() && answer.starts_with("HTTP/1.1 200")
    }
}

/// Room for all hostile connections in this process.
fn raise_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("Linux");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("as many as there may be");
}

/// Sends honest mail before and during an attack on each port; gives how many of Copyist's were
/// accepted.
fn attack_each_port(site: &Site) -> usize {
    let count = setting("HOSTILE_CONNECTIONS", 1200);
    let seconds = setting("HOSTILE_SECONDS", 2);
    raise_descriptors();
    let (listener, filtered) = (site.smtp, site.filtered.smtp_addr());
    let alone = site.alone.smtp_addr();
    let mut accepted = 0;
    let mut look = |what: &str, server: SocketAddr, is_ours: bool| {
        let mail = Mail::send(server, seconds);
        mail.print(what);
        if is_ours {
            assert!(mail.deferred.is_empty(), "{what}: {:?}", mail.deferred);
            accepted += mail.took.len();
        }
    };
    look("Postfix alone, nobody hostile", alone, false);
    look("the listener, nobody hostile", listener, true);
    look("Postfix with the milter, nobody hostile", filtered, true);
    let smtp = (Port::Smtp, site.smtp);
    let (milter, admin) = ((Port::Milter, site.milter), (Port::Http, site.admin));
    let alone_smtp = (Port::Smtp, alone);
    let mut attacks = vec![
        ("Postfix alone, attacked", alone_smtp, 1, alone, false),
        ("the listener, attacked", smtp, 1, listener, true),
        ("the milter, attacked", milter, 1, filtered, true),
        ("the listener, milter attacked", milter, 1, listener, true),
        ("the milter, admin port attacked", admin, 1, filtered, true),
    ];
    if seconds >= 10 {
        // Whom nothing tells from honest clients: how much gets through is only printed, and takes
        // time.
        attacks.push(("Postfix alone, by 40 clients", alone_smtp, 40, alone, false));
        attacks.push(("the listener, by 40 clients", smtp, 40, listener, false));
    }
    for (name, (port, at), addresses, server, is_ours) in attacks {
        let attack = Attack::start(port, at, count, addresses);
        let open = attack.open();
        look(&format!("{name} ({open} held)"), server, is_ours);
        println!(
            "{:44} {} descriptors; {} closed",
            "",
            site.copyist.descriptors(),
            attack.closed.load(Ordering::Relaxed)
        );
        assert!(site.is_ready(), "{name}");
    }
    accepted
}

/// Every accepted message has its report.
fn all_are_reported(site: &Site, accepted: usize) {
    wait("every message has its report", PATIENCE, || {
        site.relay.count() >= accepted
    });
}

#[test]
fn hostile_connections_defer_no_honest_mail() {
    let _alone = crate::alone();
    let site = Site::start(None, "");
    let accepted = attack_each_port(&site);
    all_are_reported(&site, accepted);
}

#[test]
fn hostile_connections_leave_the_mail_path_descriptors() {
    let _alone = crate::alone();
    let site = Site::start(Some(1024), "");
    let accepted = attack_each_port(&site);
    all_are_reported(&site, accepted);
    let log = site.copyist.log();
    assert!(!log.contains("Too many open files"), "{log}");
}

#[test]
fn the_limits_defer_none_of_500_mails_at_once() {
    let _alone = crate::alone();
    const MAILS: usize = 500;
    raise_descriptors();
    let site = Site::start(None, "");
    let filter = site.proxy_filter(MAILS);
    let count = MAILS.to_string();
    let arguments = [
        "-s",
        &count,
        "-m",
        &count,
        "-f",
        "a@elsewhere.test",
        "-t",
        DAN,
    ];
    let load = smtp_source(filter.smtp_addr(), &arguments);
    assert!(load.output.status.success(), "{:?}", load.output);
    all_are_reported(&site, MAILS);
    let log = filter.log();
    assert!(!log.contains("reject: "), "{log}");
    assert!(!site.copyist.log().contains("connection rejected"));
}
