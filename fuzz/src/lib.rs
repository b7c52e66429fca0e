//! Shared parts of the fuzz targets: a scripted relay, strict readers, and values that are built
//! once.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use copyist::journal::{Composer, Item, Key, Settings};
use copyist::mail::{Address, Envelope, Message, Recipient};
use copyist::policy::{JournalCopy, Direction, Format, Plan, Reason};
use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A peer whose replies are written already, and who hears everything. It says one for each command
/// line, and one after a message: what comes unasked ends a connection.
#[derive(Debug)]
pub struct Peer {
    says: Vec<u8>,
    at: usize,
    /// Replies that it was asked for.
    asked: usize,
    in_message: bool,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Peer {
    /// A peer that says this; what is written to it is found in the other.
    pub fn new(says: Vec<u8>) -> (Peer, Arc<Mutex<Vec<u8>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let peer = Peer {
            says,
            at: 0,
            asked: 1,
            in_message: false,
            heard: heard.clone(),
        };
        (peer, heard)
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.says[self.at..];
        if self.asked == 0 && !rest.is_empty() {
            // Nobody waits for it: that is only asked whether there is anything.
            return Poll::Pending;
        }
        let line = rest.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let taken = line.len().min(buffer.remaining());
        buffer.put_slice(&line[..taken]);
        let (is_last, goes_on) = (line.get(3) != Some(&b'-'), line.starts_with(b"354"));
        self.at += taken;
        self.asked -= usize::from(is_last && self.asked > 0);
        self.in_message |= goes_on;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let has_ended = {
            let mut heard = self.heard.lock().expect("alone");
            heard.extend_from_slice(bytes);
            heard.ends_with(b"\r\n.\r\n")
        };
        self.asked += match self.in_message {
            true => usize::from(has_ended),
            false => bytes.iter().filter(|byte| **byte == b'\n').count(),
        };
        self.in_message &= !has_ended;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncTokioStream for Peer {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], 25)))
    }
}

/// Runs a future on this thread.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// An address that is one.
pub fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

/// A composer with a key of this process.
pub fn composer() -> Composer {
    let settings = Settings {
        report_from: address("journal@corp.example"),
        hostname: "mx.corp.example".into(),
    };
    Composer::new(settings, Key::ephemeral().expect("a key"))
}

/// The time at which everything happens.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_491_141)
}

/// An envelope.
pub fn envelope(sender: Option<Address>, recipients: Vec<Address>) -> Envelope {
    let recipients = recipients.into_iter().map(Recipient::new);
    Envelope {
        sender,
        recipients: recipients.collect(),
        ..Envelope::default()
    }
}

/// A plan with one copy.
pub fn plan(format: Format, targets: Vec<(Address, Vec<Reason>)>) -> Plan {
    Plan {
        copies: vec![JournalCopy {
            what: Default::default(),
            direction: Direction::Inbound,
            format,
            ndr: address("ndr@corp.example"),
            targets,
        }],
        ..Plan::default()
    }
}

/// A report about a message, for one journal address.
pub fn report(composer: &Composer, original: &Message) -> Item {
    let reasons = vec![Reason::Setting(Direction::Inbound)];
    let plan = plan(Format::Report, vec![(address("j@corp.example"), reasons)]);
    let envelope = envelope(Some(address("ana@corp.example")), vec![address("bo@x.test")]);
    let mut items = composer
        .compose(&envelope, original, &plan, now())
        .expect("composed");
    items.remove(0)
}

/// Returns the message sent for an item.
pub fn whole(item: &Item, original: &Bytes) -> Vec<u8> {
    [&item.prefix, original, &item.suffix].map(AsRef::as_ref).concat()
}

/// Whether a text is exactly one mailbox as SMTP and message headers write it (RFC 5321 section
/// 4.1.2, RFC 6531), with no character that could end it or begin another. Stricter than we read,
/// written apart from it.
pub fn is_one_mailbox(text: &str) -> bool {
    if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return false;
    }
    let domain = match text.strip_prefix('"') {
        Some(quoted) => {
            let mut chars = quoted.char_indices();
            loop {
                match chars.next() {
                    Some((_, '\\')) => {
                        if chars.next().is_none() {
                            return false;
                        }
                    }
                    Some((at, '"')) => break quoted[at + 1..].strip_prefix('@'),
                    Some(_) => {}
                    None => return false,
                }
            }
        }
        None => text.split_once('@').filter(|(local, _)| is_plain(local)).map(|(_, domain)| domain),
    };
    let Some(domain) = domain else { return false };
    match domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(literal) => literal.chars().all(|c| c.is_ascii_alphanumeric() || ".:-_".contains(c)),
        None => is_plain(domain),
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || "<>()[]@,;:\\\"".contains(c))
}

/// Whether every CR and LF is one of a CRLF.
pub fn has_only_crlf(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'\r' => bytes.get(at + 1) == Some(&b'\n'),
        b'\n' => at > 0 && bytes[at - 1] == b'\r',
        _ => true,
    })
}

/// Bytes in which every line break is CRLF, and none stands at the end: what transfer may change
/// is gone.
pub fn as_compared(bytes: &[u8]) -> Vec<u8> {
    let mut out = with_crlf(bytes);
    while out.ends_with(b"\r\n") {
        out.truncate(out.len() - 2);
    }
    out
}

/// Bytes in which every CR, LF and CRLF is a CRLF.
pub fn with_crlf(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\r' => {
                out.extend_from_slice(b"\r\n");
                at += usize::from(bytes.get(at + 1) == Some(&b'\n'));
            }
            b'\n' => out.extend_from_slice(b"\r\n"),
            other => out.push(other),
        }
        at += 1;
    }
    out
}

/// A new directory in memory, where there is such a place.
pub fn scratch(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let directory = base.join(format!("copyist-fuzz-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("made");
    directory
}
