//! A service with a spool that is filled already, a directory of its own, and its admin side; and a
//! browser without a screen.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program compiles all of it and uses a part"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use copyist::journal::{Item, ItemId, Kind};
use copyist::mail::{Address, BodyKind};
use copyist::policy::Direction;
use copyist::spool::{self, DeliveryOutcome, DeliveryResult, Spool, Submission};

use super::lab::{Copyist, free_port, set_mode, write};

/// The token of those offices that have one.
pub const TOKEN: &str = "t0ken-of-the-0perator";
/// A password that is in a file and must appear nowhere else.
pub const PASSWORD: &str = "c4nary-password";
/// A subject as strangers write them.
pub const HOSTILE: &str =
    "<script>alert(1)</script> \"'&amp; \u{202e}gpj.exe \u{1b}[31m \u{200b}end";

const PEOPLE: &str = "\
dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit

dn: uid=dan,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
mail: dan@example.com
extensionAttribute10: dan-journal@archive.example

dn: uid=eve,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
mail: eve@example.com
extensionAttribute10: <b>nobody</b>

dn: uid=pat,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
mail: pat@example.com
";

/// The settings of an office.
pub struct OfficeOptions {
    /// Where its admin side listens, without the port.
    pub listen: &'static str,
    /// Whether it asks for a token.
    pub token: bool,
    /// Queued items, see [`fill`].
    pub items: usize,
    /// Where messages are handed on to, by an SMTP listener.
    pub next_hop: Option<SocketAddr>,
}

impl Default for OfficeOptions {
    fn default() -> OfficeOptions {
        OfficeOptions {
            listen: "127.0.0.1",
            token: true,
            items: 12,
            next_hop: None,
        }
    }
}

/// A running service.
pub struct Office {
    pub copyist: Copyist,
    pub port: u16,
    /// Where its SMTP listener is, if it has one.
    pub smtp: SocketAddr,
}

impl Office {
    pub async fn open(wanted: OfficeOptions) -> Office {
        // Nobody listens at the relay's.
        let (port, relay) = (free_port(), free_port());
        let smtp = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let copyist = Copyist::install("");
        let config = config(&copyist, &wanted, port, relay, smtp);
        copyist.write_config(&config);
        let mut copyist = copyist;
        let beside = copyist.config_file();
        let beside = |name: &str| beside.with_file_name(name);
        write(&beside("people.ldif"), PEOPLE);
        for (name, secret) in [("token", TOKEN), ("password", PASSWORD)] {
            write(&beside(name), format!("{secret}\n"));
            set_mode(&beside(name), 0o600);
        }
        let state = copyist.state_dir();
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&state)
            .expect("made");
        let spool = Spool::open(&spool::Settings::new(&state)).expect("opened");
        fill(&spool, wanted.items).await;
        drop(spool);
        // The service takes the lock that the writer's thread gives back when it ends.
        super::lab::wait("the spool is let go", Duration::from_secs(20), || {
            Spool::open(&spool::Settings::new(&state)).is_ok()
        });
        copyist.restart();
        Office {
            copyist,
            port,
            smtp,
        }
    }

    /// The queue, as the service's own store has it.
    pub fn spool(&self) -> Spool {
        let settings = spool::Settings::new(self.copyist.state_dir());
        Spool::inspect(&settings).expect("opened")
    }

    /// Asks for a path.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers, "")
    }

    /// Asks with the token.
    pub fn page(&self, path: &str) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        self.get(path, &[("Authorization", &bearer)])
    }

    /// Sends a form.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Answer {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        self.ask("POST", path, headers, &body.finish())
    }

    /// Sends a form with the token, as a page of this service holds it.
    pub fn press(&self, path: &str) -> Answer {
        let page = self.page("/coverage");
        let bearer = format!("Bearer {TOKEN}");
        self.post(
            path,
            &[("Authorization", &bearer)],
            &[("form", &page.form())],
        )
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let mut asked = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            asked += &format!("Host: 127.0.0.1:{}\r\n", self.port);
        }
        for (name, value) in headers {
            asked += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            asked += "Content-Type: application/x-www-form-urlencoded\r\n";
            asked += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut told = Vec::new();
        stream
            .write_all(format!("{asked}\r\n{body}").as_bytes())
            .and_then(|()| stream.read_to_end(&mut told))
            .expect("it answers");
        Answer::read(&told)
    }
}

/// An HTTP response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn read(told: &[u8]) -> Answer {
        let end = told.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {told:?}"));
        let head = String::from_utf8_lossy(&told[..end]);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let chunked = headers.contains(&("transfer-encoding".into(), "chunked".into()));
        let body = &told[end + 4..];
        Answer {
            status: status.and_then(|code| code.parse().ok()).expect("a status"),
            body: if chunked {
                unchunked(body)
            } else {
                body.to_vec()
            },
            headers,
        }
    }

    pub fn header(&self, name: &str) -> &str {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The hidden field of its forms.
    pub fn form(&self) -> String {
        let text = self.text();
        let field = text.split_once("name=\"form\" value=\"");
        let (_, rest) = field.unwrap_or_else(|| panic!("no form in {text}"));
        rest.split('"').next().expect("it ends").to_owned()
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let length = std::str::from_utf8(&body[..end]).expect("a number");
        let length = usize::from_str_radix(length, 16).expect("a number");
        body = &body[end + 2..];
        whole.extend(&body[..length]);
        body = &body[(length + 2).min(body.len())..];
    }
    whole
}

fn config(
    copyist: &Copyist,
    wanted: &OfficeOptions,
    port: u16,
    relay: u16,
    smtp: SocketAddr,
) -> String {
    let listen = wanted.listen;
    let lines = wanted
        .next_hop
        .map(|next_hop| format!("[[hook.smtp]]\nlisten = \"{smtp}\"\nnext_hop = \"{next_hop}\"\n"));
    let lines = lines.unwrap_or_default();
    let clients = if listen.starts_with("127.") {
        ""
    } else {
        "allow_clients = [\"127.0.0.0/8\", \"192.0.2.0/24\"]"
    };
    let token = if wanted.token {
        "token_file = \"token\""
    } else {
        ""
    };
    let people: PathBuf = copyist.config_file().with_file_name("people.ldif");
    format!(
        r#"
[organization]
domains = ["example.com"]
trusted_networks = ["127.0.0.2/32"]
hostname = "copyist.example.com"
[directory]
urls = ["ldif:{people}"]
[inbound]
journal = ["archive@archive.example"]
journal_attribute = "extensionAttribute10"
journal_ndr = "in-ndr@example.com"
[outbound]
journal_attribute = "extensionAttribute10"
journal_ndr = "out-ndr@example.com"
[hook.milter]
listen = ["inet:127.0.0.1:{milter}"]
[relay]
host = "127.0.0.1:{relay}"
tls = "none"
username = "copyist"
password_file = "password"
[admin]
listen = "{listen}:{port}"
{clients}
{token}
{lines}
"#,
        people = people.display(),
        milter = free_port(),
    )
}

pub fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

/// The name of item `n`.
pub fn id(n: usize) -> ItemId {
    let text: String = (0..16)
        .rev()
        .map(|digit| char::from(b'a' + (n >> (digit * 4) & 15) as u8))
        .collect();
    ItemId::parse(&text).expect("an id")
}

/// Its direction.
pub fn direction(n: usize) -> Direction {
    Direction::ALL[n % 3]
}

/// Whether it is a dead letter: every tenth, at least the third.
pub fn is_dead(n: usize) -> bool {
    n % 10 == 3
}

fn item(n: usize) -> Item {
    let target = format!("journal-{}@archive.example", n % 500);
    Item {
        id: id(n),
        kind: Kind::Report,
        direction: direction(n),
        sender: Some(address("in-ndr@example.com")),
        targets: vec![address(&target)],
        ndr: Some(address("in-ndr@example.com")),
        message_id: format!("<{n}@copyist.example.com>"),
        envelope_id: format!("copyist.{n}"),
        subject: if n == 0 {
            HOSTILE.into()
        } else {
            format!("Quarterly figures, part {n}")
        },
        reasons: vec![format!(
            "inbound.journal_attribute: extensionAttribute10 of uid=u{n},ou=people,dc=example,dc=com"
        )],
        // About as long as that of a real report.
        prefix: Bytes::from(format!(
            "Message-ID: <{n}@copyist.example.com>\r\n{}\r\n",
            "X-Filler: this stands for the header and the envelope part of a report\r\n".repeat(20)
        )),
        suffix: Bytes::from_static(b"\r\n--b--\r\n"),
        body: BodyKind::SevenBit,
        smtputf8: false,
        dsn: Default::default(),
    }
}

/// Items of messages that came one after the other, the last a minute ago; each was tried up to six
/// times. Every tenth is a dead letter.
async fn fill(spool: &Spool, items: usize) {
    /// Up to so many, `join_all` begins with the first: the items keep their order.
    const BATCH: usize = 30;
    let now = SystemTime::now();
    let filler = "This stands for a message of the usual length.\r\n".repeat(60);
    for first in (0..items).step_by(BATCH) {
        let batch = first..items.min(first + BATCH);
        let queued = batch.clone().map(|n| {
            let ago = Duration::from_secs(60 + (items - n) as u64);
            let original = Bytes::from(format!("Subject: {n}\r\n\r\n{filler}"));
            async move {
                let submission = Submission {
                    original: original.into(),
                    items: vec![item(n)],
                };
                let queue_id = format!("4Qx{n:08}");
                let committed = spool.commit(&queue_id, now - ago, vec![submission]);
                committed.await.expect("committed");
            }
        });
        futures_util::future::join_all(queued).await;
        let tried = batch.map(|n| async move {
            for attempt in 0..n % 7 {
                let result = outcome(n, attempt, now);
                spool.record(&id(n), result, now).await.expect("recorded");
            }
            if is_dead(n) {
                let result = dead(n);
                spool.record(&id(n), result, now).await.expect("recorded");
            }
        });
        futures_util::future::join_all(tried).await;
    }
}

fn outcome(n: usize, attempt: usize, now: SystemTime) -> DeliveryResult {
    let said = format!("451 4.7.1 try again ({attempt})");
    DeliveryResult {
        outcomes: vec![(target(n), DeliveryOutcome::Deferred(said))],
        next_attempt: now + Duration::from_secs(3600 + (n * 37 % 7200) as u64),
        ndr: None,
        ndr_limit: None,
        relay_reached: true,
    }
}

fn dead(n: usize) -> DeliveryResult {
    let said = "550 5.1.1 <script>no such user</script>".to_owned();
    DeliveryResult {
        outcomes: vec![(target(n), DeliveryOutcome::Dead(said))],
        next_attempt: SystemTime::now(),
        ndr: None,
        ndr_limit: None,
        relay_reached: true,
    }
}

pub fn target(n: usize) -> Address {
    address(&format!("journal-{}@archive.example", n % 500))
}
