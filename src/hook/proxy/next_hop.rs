//! A connection to the next server: one command, one answer.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::ByteStream;
use super::tls::{HANDSHAKE, HopTls};
use crate::deliver::Tls;
use crate::hook::NextHop;
use crate::net::{ConnectError, PromptTcp};
use crate::smtp::{ReplyError, ReplyReader, ServerReply};
use crate::tls::{explain_certificate_error, is_tls_error};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// Bytes asked of the system at once. Answers are short.
const READ: usize = 4096;

/// An open connection. Once anything went otherwise than in order it is never used again: its next
/// answer may belong to the last command.
pub(super) struct Hop {
    stream: Box<dyn ByteStream>,
    answers: ReplyReader,
    /// What it greeted with, as it came.
    pub(super) greeting: Bytes,
    patience: Duration,
    data_done_patience: Duration,
    is_tls: bool,
    /// Whether it may not be asked anything more.
    is_over: bool,
    /// Whether it holds nothing against whoever comes next: nobody logged in or spoke for others,
    /// and it never said no.
    is_plain: bool,
}

/// Why the next server cannot be talked to any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum HopError {
    #[error("cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("did not answer in time")]
    Silent,
    #[error("closed the connection")]
    Closed,
    #[error("{0}")]
    Io(io::Error),
    #[error("answered what is no SMTP: {0}")]
    Garbage(ReplyError),
    #[error("said something that nobody asked for, so that its answers cannot be told apart")]
    Unasked,
    #[error("refused the connection: {0}")]
    Refused(String),
    #[error("no TLS: {0}")]
    Tls(String),
    #[error("no TLS: {0}")]
    Handshake(String),
}

impl Hop {
    /// Connects, at any of its addresses, and encrypts as the settings say.
    pub(super) async fn open(to: &NextHop, tls: &HopTls) -> Result<Hop, HopError> {
        let patience = CONNECT.min(to.timeout);
        let may_go_unencrypted = to.tls == Tls::Opportunistic && to.ca_file.is_none();
        let begin = |tcp| async move {
            match may_go_unencrypted {
                true => Hop::begin_anyhow(tcp, to, tls).await,
                false => Hop::begin(tcp, to, tls, to.tls).await,
            }
        };
        let opened = tls.server.open_session(patience, |_| false, begin).await;
        opened.map_err(|error| match error {
            ConnectError::Connect(cause) => HopError::Unreachable(cause),
            ConnectError::Session(error) => error,
        })
    }

    /// The session, encrypted where that can be: a disagreement about encryption, and nothing else,
    /// is a reason to do without.
    async fn begin_anyhow(tcp: TcpStream, to: &NextHop, tls: &HopTls) -> Result<Hop, HopError> {
        let address = tcp.peer_addr().map_err(HopError::Unreachable)?;
        match Hop::begin(tcp, to, tls, to.tls).await {
            Err(HopError::Handshake(why)) => {
                let patience = CONNECT.min(to.timeout);
                let tcp = timeout(patience, TcpStream::connect(address)).await;
                let tcp = tcp.map_err(|_| HopError::Silent)?;
                let tcp = tcp.map_err(HopError::Unreachable)?;
                let hop = Hop::begin(tcp, to, tls, Tls::None).await?;
                tls.unencrypted
                    .record(&format!("{}:{}", to.host, to.port), &why);
                Ok(hop)
            }
            begun => begun,
        }
    }

    async fn begin(tcp: TcpStream, to: &NextHop, tls: &HopTls, how: Tls) -> Result<Hop, HopError> {
        // Commands are small and their answers waited for.
        tcp.set_nodelay(true).map_err(HopError::Io)?;
        let us = tcp.local_addr().map_err(HopError::Io)?.ip();
        let mut stream: Box<dyn ByteStream> = Box::new(PromptTcp::new(tcp));
        if how == Tls::Implicit {
            stream = encrypted(stream, tls).await?;
        }
        let mut hop = Hop {
            stream,
            answers: ReplyReader::new(),
            greeting: Bytes::new(),
            patience: to.timeout,
            data_done_patience: to.data_done_timeout,
            is_tls: how == Tls::Implicit,
            is_over: false,
            is_plain: true,
        };
        let greeting = hop.answer(to.timeout).await?;
        if !greeting.is_positive() {
            return Err(HopError::Refused(said(&greeting)));
        }
        hop.greeting = greeting.wire;
        match how {
            Tls::None | Tls::Implicit => Ok(hop),
            Tls::Opportunistic | Tls::Required => {
                let hello = match us {
                    std::net::IpAddr::V4(ip) => format!("EHLO [{ip}]"),
                    std::net::IpAddr::V6(ip) => format!("EHLO [IPv6:{ip}]"),
                };
                let offers = hop.ask(hello.as_bytes()).await?;
                let offered = offers
                    .text_lines()
                    .any(|line| line.trim().eq_ignore_ascii_case("STARTTLS"));
                match (offered, how) {
                    (true, _) => hop.start_tls(tls).await,
                    (false, Tls::Required) => {
                        Err(HopError::Tls("it does not offer STARTTLS".into()))
                    }
                    (false, _) => Ok(hop),
                }
            }
        }
    }

    async fn start_tls(mut self, tls: &HopTls) -> Result<Hop, HopError> {
        let answer = self.ask(b"STARTTLS").await?;
        if answer.code != 220 {
            return Err(HopError::Handshake(said(&answer)));
        }
        // Whatever came behind that answer came in the clear.
        if self.answers.clear() > 0 {
            return Err(HopError::Tls("it said more before the handshake".into()));
        }
        Ok(Hop {
            stream: encrypted(self.stream, tls).await?,
            is_tls: true,
            ..self
        })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether somebody else may go on with it.
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// From now on it knows something of this client.
    pub(super) fn set_marked(&mut self) {
        self.is_plain = false;
    }

    /// Fails where the server has closed, or has said something that nobody asked for: an answer
    /// too many would be taken for that to the next command, and so on to the next client's
    /// message. Sees what has arrived, and waits for nothing.
    pub(super) async fn check_silence(&mut self) -> Result<(), HopError> {
        if self.is_over {
            return Err(HopError::Closed);
        }
        if self.answers.has_more() {
            return Err(HopError::Unasked);
        }
        let mut byte = [0];
        match poll_immediate(self.stream.read(&mut byte)).await {
            None => Ok(()),
            Some(Ok(0)) => Err(HopError::Closed),
            Some(Ok(read)) => {
                // It stays out of step whatever comes.
                self.answers.feed(&byte[..read]);
                Err(HopError::Unasked)
            }
            Some(Err(cause)) => Err(HopError::Io(cause)),
        }
    }

    /// Sends a command, which has no line break of its own, and gives the answer. A 421 may come
    /// unasked (RFC 5321 section 3.8), and is that answer then.
    pub(super) async fn ask(&mut self, line: &[u8]) -> Result<ServerReply, HopError> {
        if let Err(error) = self.check_silence().await {
            let farewell = self.last_words().await;
            return farewell.filter(|answer| answer.code == 421).ok_or(error);
        }
        let mut command = BytesMut::with_capacity(line.len() + 2);
        command.extend_from_slice(line);
        command.extend_from_slice(b"\r\n");
        self.write(&command).await?;
        self.answer(self.patience).await
    }

    /// Sends bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), HopError> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(self.patience, writing).await {
            Ok(written) => written.map_err(HopError::Io),
            Err(_) => Err(HopError::Silent),
        }
    }

    /// The answer after the message.
    pub(super) async fn final_answer(&mut self) -> Result<ServerReply, HopError> {
        self.answer(self.data_done_patience).await
    }

    /// What it says by itself, where it has said anything already. Nothing more is asked of it.
    pub(super) async fn last_words(&mut self) -> Option<ServerReply> {
        self.is_over = true;
        self.answer(Duration::from_secs(1)).await.ok()
    }

    async fn answer(&mut self, patience: Duration) -> Result<ServerReply, HopError> {
        let reading = async {
            let mut bytes = [0; READ];
            loop {
                if let Some(answer) = self.answers.next_reply() {
                    return answer.map_err(HopError::Garbage);
                }
                match self.stream.read(&mut bytes).await {
                    Ok(0) => return Err(HopError::Closed),
                    Ok(read) => self.answers.feed(&bytes[..read]),
                    Err(cause) => return Err(HopError::Io(cause)),
                }
            }
        };
        let answer = timeout(patience, reading)
            .await
            .unwrap_or(Err(HopError::Silent))?;
        self.is_plain &= answer.is_positive() || answer.is_intermediate();
        Ok(answer)
    }

    /// Says goodbye, without waiting for an answer that nobody needs.
    pub(super) async fn quit(mut self) {
        let _ = timeout(Duration::from_secs(1), self.stream.write_all(b"QUIT\r\n")).await;
        let _ = timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }
}

async fn encrypted(
    stream: Box<dyn ByteStream>,
    tls: &HopTls,
) -> Result<Box<dyn ByteStream>, HopError> {
    match timeout(HANDSHAKE, tls.connect(stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(cause)) => {
            let why = explain_certificate_error(&cause.to_string());
            Err(match is_tls_error(&cause) {
                true => HopError::Handshake(why),
                false => HopError::Tls(why),
            })
        }
        Err(_) => Err(HopError::Silent),
    }
}

/// An answer as one line for the log.
pub(super) fn said(answer: &ServerReply) -> String {
    let text: Vec<_> = answer.text_lines().collect();
    format!("{} {}", answer.code, text.join(" "))
}
