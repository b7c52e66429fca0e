//! A relay that goes wrong where it is told to: for what no real server can be made to show.
//!
//! It shares no code with the library: a fault in ours must not hide behind the same fault here.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::bench::patiently;

/// An act in place of the correct reply.
#[derive(Clone)]
pub(crate) enum Act {
    /// This is said.
    Say(&'static str),
    /// The connection is closed without a word.
    Close,
    /// This is said, and the connection closed.
    SayAndClose(&'static str),
    /// Nothing is said, ever.
    Hang,
    /// Everything in order, but not before this.
    After(Arc<Notify>),
    /// Everything in order, but no sooner.
    Slow(Duration),
    /// The correct reply, and this text once notified.
    SayMore(&'static str, Arc<Notify>),
}

/// Asked for each step with the connection's number (from 0) and what the client said: a command
/// line, `CONNECT` or `.` for the end of the data. `None`: what is in order.
pub(crate) type Script = Arc<dyn Fn(usize, &str) -> Option<Act> + Send + Sync>;

/// The record of a faulty relay.
#[derive(Clone, Default, Debug)]
pub(crate) struct RelayRecord {
    /// Steps, with the number of their connection.
    pub steps: Vec<(usize, String)>,
    /// The most command lines that came in one read.
    pub longest_batch: usize,
    /// Whole messages as they stood on the wire, stuffed.
    pub messages: Vec<Vec<u8>>,
}

pub(crate) struct FaultyRelay {
    address: SocketAddr,
    seen: watch::Receiver<RelayRecord>,
    serving: JoinHandle<()>,
}

impl FaultyRelay {
    /// Offers these extensions.
    pub(crate) async fn start(
        offers: &'static [&'static str],
        script: impl Fn(usize, &str) -> Option<Act> + Send + Sync + 'static,
    ) -> FaultyRelay {
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        FaultyRelay::start_at(at, offers, script).await
    }

    /// The same at this address.
    pub(crate) async fn start_at(
        at: SocketAddr,
        offers: &'static [&'static str],
        script: impl Fn(usize, &str) -> Option<Act> + Send + Sync + 'static,
    ) -> FaultyRelay {
        let listener = TcpListener::bind(at).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (tell, seen) = watch::channel(RelayRecord::default());
        let script: Script = Arc::new(script);
        let serving = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.expect("accepted");
                let (tell, script) = (tell.clone(), script.clone());
                sessions.spawn(async move {
                    let mut session = Session {
                        stream,
                        number,
                        offers,
                        script,
                        tell,
                        accepted: 0,
                    };
                    // A client that has gone is not this server's trouble.
                    let _ = session.serve().await;
                });
            }
        });
        FaultyRelay {
            address,
            seen,
            serving,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn seen(&self) -> RelayRecord {
        self.seen.borrow().clone()
    }

    /// Waits until it has seen this.
    pub(crate) async fn until(
        &self,
        what: &str,
        is_so: impl FnMut(&RelayRecord) -> bool,
    ) -> RelayRecord {
        let mut seen = self.seen.clone();
        let found = patiently(what, seen.wait_for(is_so)).await;
        found.expect("the relay runs").clone()
    }
}

impl Drop for FaultyRelay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl RelayRecord {
    /// The steps of one connection.
    pub(crate) fn of(&self, number: usize) -> Vec<&str> {
        let of = self.steps.iter().filter(|(n, _)| *n == number);
        of.map(|(_, step)| step.as_str()).collect()
    }
}

struct Session {
    stream: TcpStream,
    number: usize,
    offers: &'static [&'static str],
    script: Script,
    tell: watch::Sender<RelayRecord>,
    /// Recipients of the transaction.
    accepted: usize,
}

/// The connection is over.
struct ConnectionClosed;

impl From<std::io::Error> for ConnectionClosed {
    fn from(_: std::io::Error) -> ConnectionClosed {
        ConnectionClosed
    }
}

impl Session {
    async fn serve(&mut self) -> Result<(), ConnectionClosed> {
        self.answer("CONNECT", "220 faulty.test ESMTP\r\n").await?;
        let (mut input, mut in_data) = (Vec::new(), false);
        loop {
            let end = if in_data { "\r\n.\r\n" } else { "\r\n" };
            while let Some(at) = find(&input, end.as_bytes()) {
                let rest = input.split_off(at + end.len());
                let content = std::mem::replace(&mut input, rest);
                if in_data {
                    in_data = false;
                    self.tell
                        .send_modify(|seen| seen.messages.push(content[..at + 2].to_vec()));
                    self.answer(".", "250 2.0.0 kept\r\n").await?;
                    break;
                }
                let line = String::from_utf8_lossy(&content[..at]).into_owned();
                in_data = self.command(&line).await?;
                if in_data {
                    break;
                }
            }
            let ended = if in_data {
                find(&input, b"\r\n.\r\n")
            } else {
                find(&input, b"\r\n")
            };
            if ended.is_some() {
                continue;
            }
            let mut buffer = vec![0; 64 * 1024];
            let read = self.stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(ConnectionClosed);
            }
            if !in_data {
                let lines = buffer[..read].iter().filter(|byte| **byte == b'\n').count();
                self.tell
                    .send_modify(|seen| seen.longest_batch = seen.longest_batch.max(lines));
            }
            input.extend_from_slice(&buffer[..read]);
        }
    }

    /// Whether data follows.
    async fn command(&mut self, line: &str) -> Result<bool, ConnectionClosed> {
        let verb = line
            .split([' ', ':'])
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let mut hello = "250-faulty.test\r\n".to_owned();
        for offer in self.offers {
            hello.push_str(&format!("250-{offer}\r\n"));
        }
        hello.push_str("250 HELP\r\n");
        let in_order = match verb.as_str() {
            "EHLO" => &hello,
            "DATA" if self.accepted == 0 => "554 5.5.1 no valid recipients\r\n",
            "DATA" => "354 go on\r\n",
            "QUIT" => "221 bye\r\n",
            _ => "250 2.0.0 ok\r\n",
        };
        let said = self.answer(line, in_order).await?;
        match verb.as_str() {
            "RCPT" => self.accepted += usize::from(said.starts_with("250")),
            _ => self.accepted = 0,
        }
        Ok(verb == "DATA" && said.starts_with("354"))
    }

    async fn answer(&mut self, step: &str, in_order: &str) -> Result<String, ConnectionClosed> {
        let act = (self.script)(self.number, step);
        self.tell
            .send_modify(|seen| seen.steps.push((self.number, step.to_owned())));
        let (said, close) = match act {
            None => (in_order, false),
            Some(Act::Say(said)) => (said, false),
            Some(Act::SayAndClose(said)) => (said, true),
            Some(Act::Close) => return Err(ConnectionClosed),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Slow(wait)) => {
                tokio::time::sleep(wait).await;
                (in_order, false)
            }
            Some(Act::After(notify)) => {
                notify.notified().await;
                (in_order, false)
            }
            Some(Act::SayMore(more, notify)) => {
                self.stream.write_all(in_order.as_bytes()).await?;
                notify.notified().await;
                self.stream.write_all(more.as_bytes()).await?;
                return Ok(in_order.to_owned());
            }
        };
        self.stream.write_all(said.as_bytes()).await?;
        if close {
            Err(ConnectionClosed)
        } else {
            Ok(said.to_owned())
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
