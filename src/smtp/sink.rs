//! A small SMTP server that keeps what it gets: the relay of `copyist demo`, and of tests.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::server::{Event, ReceivedMessage, ServerSession};
use crate::mail::Reply;

/// A running sink. It stops when this is dropped.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    kept: watch::Receiver<Vec<ReceivedMessage>>,
    refusals: Refusals,
    _stop: DropGuard,
}

/// Addresses, in lowercase, that are refused, and how.
type Refusals = Arc<Mutex<HashMap<String, Reply>>>;

impl Sink {
    /// Serves on a bound listener. Must be called in a runtime.
    pub fn start(listener: TcpListener) -> io::Result<Sink> {
        let address = listener.local_addr()?;
        let (keep, kept) = watch::channel(Vec::new());
        let refusals = Refusals::default();
        let stop = CancellationToken::new();
        // Ends with the sink, and with it all its sessions.
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(
            listener,
            keep,
            refusals.clone(),
            stop.clone(),
        )));
        Ok(Sink {
            address,
            kept,
            refusals,
            _stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, RCPT for this address is answered so.
    pub fn refuse(&self, address: &str, reply: Reply) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.insert(address.to_lowercase(), reply);
    }

    /// What it has got.
    pub fn received(&self) -> Vec<ReceivedMessage> {
        self.kept.borrow().clone()
    }

    /// Waits until it has got this many messages.
    pub async fn wait_for(&self, messages: usize) {
        // The sender lives in the accepting task, which lives as long as this.
        let _ = self
            .kept
            .clone()
            .wait_for(|kept| kept.len() >= messages)
            .await;
    }
}

async fn accept(
    listener: TcpListener,
    keep: watch::Sender<Vec<ReceivedMessage>>,
    refusals: Refusals,
    stop: CancellationToken,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let session = session(stream, keep.clone(), refusals.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(session));
    }
}

/// One client. A client that breaks off takes only its own unfinished message with it.
async fn session(
    mut stream: TcpStream,
    keep: watch::Sender<Vec<ReceivedMessage>>,
    refusals: Refusals,
) -> io::Result<()> {
    let mut session = ServerSession::new();
    stream
        .write_all(b"220 sink.copyist.invalid ESMTP\r\n")
        .await?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut replies = String::new();
        while let Some(event) = session.next_event() {
            let quit = event == Event::Quit;
            replies.push_str(&answer(event, &mut session, &keep, &refusals));
            if quit {
                return stream.write_all(replies.as_bytes()).await;
            }
        }
        stream.write_all(replies.as_bytes()).await?;
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => session.feed(&buffer[..read]),
        }
    }
}

fn answer(
    event: Event,
    session: &mut ServerSession,
    keep: &watch::Sender<Vec<ReceivedMessage>>,
    refusals: &Refusals,
) -> String {
    match event {
        Event::Hello(true) => {
            "250-sink.copyist.invalid\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n\
             250-ENHANCEDSTATUSCODES\r\n250 SIZE\r\n"
                .into()
        }
        Event::Hello(false) => "250 sink.copyist.invalid\r\n".into(),
        Event::Mail(path, params) => {
            session.accept_sender(path, params);
            "250 2.1.0 ok\r\n".into()
        }
        Event::Rcpt(path, params) => {
            let refused = refusals.lock().unwrap_or_else(PoisonError::into_inner).get(&path.to_lowercase()).cloned();
            match refused {
                Some(reply) => format!("{reply}\r\n"),
                None => {
                    session.accept_recipient(path, params);
                    "250 2.1.5 ok\r\n".into()
                }
            }
        }
        Event::Data => "354 go on\r\n".into(),
        Event::Message(message) => {
            keep.send_modify(|kept| kept.push(*message));
            "250 2.0.0 kept\r\n".into()
        }
        Event::Reset | Event::Idle => "250 2.0.0 ok\r\n".into(),
        Event::Quit => "221 2.0.0 bye\r\n".into(),
        Event::BadSequence => "503 5.5.1 not now\r\n".into(),
        Event::Syntax => "500 5.5.2 not understood\r\n".into(),
    }
}
