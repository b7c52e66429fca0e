//! A small SMTP server that stores every message: the relay of `copyist demo` and of tests.

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

/// A running sink. Stops when dropped.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    messages: watch::Receiver<Vec<ReceivedMessage>>,
    rejections: Rejections,
    _stop: DropGuard,
}

/// Rejected addresses in lowercase, and their replies.
type Rejections = Arc<Mutex<HashMap<String, Reply>>>;

impl Sink {
    /// Serves on a bound listener. Must be called in a runtime.
    pub fn start(listener: TcpListener) -> io::Result<Sink> {
        let address = listener.local_addr()?;
        let (keep, messages) = watch::channel(Vec::new());
        let rejections = Rejections::default();
        let stop = CancellationToken::new();
        // Ends with the sink, and ends all its sessions.
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(
            listener,
            keep,
            rejections.clone(),
            stop.clone(),
        )));
        Ok(Sink {
            address,
            messages,
            rejections,
            _stop: stop.drop_guard(),
        })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Rejects RCPT for this address with this reply from now on.
    pub fn reject(&self, address: &str, reply: Reply) {
        let mut rejections = self
            .rejections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rejections.insert(address.to_lowercase(), reply);
    }

    /// Returns the messages received so far.
    pub fn received(&self) -> Vec<ReceivedMessage> {
        self.messages.borrow().clone()
    }

    /// Waits until it has received this many messages.
    pub async fn wait_for(&self, messages: usize) {
        // The sender lives in the accepting task, which lives as long as this.
        let _ = self
            .messages
            .clone()
            .wait_for(|received| received.len() >= messages)
            .await;
    }
}

async fn accept(
    listener: TcpListener,
    keep: watch::Sender<Vec<ReceivedMessage>>,
    rejections: Rejections,
    stop: CancellationToken,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let session = session(stream, keep.clone(), rejections.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(session));
    }
}

/// Serves one client. A client that disconnects loses only its own unfinished message.
async fn session(
    mut stream: TcpStream,
    keep: watch::Sender<Vec<ReceivedMessage>>,
    rejections: Rejections,
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
            replies.push_str(&answer(event, &mut session, &keep, &rejections));
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
    rejections: &Rejections,
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
            let rejection = rejections.lock().unwrap_or_else(PoisonError::into_inner).get(&path.to_lowercase()).cloned();
            match rejection {
                Some(reply) => format!("{reply}\r\n"),
                None => {
                    session.accept_recipient(path, params);
                    "250 2.1.5 ok\r\n".into()
                }
            }
        }
        Event::Data => "354 go on\r\n".into(),
        Event::Message(message) => {
            keep.send_modify(|messages| messages.push(*message));
            "250 2.0.0 kept\r\n".into()
        }
        Event::Reset | Event::Idle => "250 2.0.0 ok\r\n".into(),
        Event::Quit => "221 2.0.0 bye\r\n".into(),
        Event::BadSequence => "503 5.5.1 not now\r\n".into(),
        Event::Syntax => "500 5.5.2 not understood\r\n".into(),
    }
}
