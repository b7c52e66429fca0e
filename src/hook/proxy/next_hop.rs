//! A connection to the next hop: one command, one reply.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::ByteStream;
use super::tls::{HANDSHAKE, NextHopTls};
use crate::deliver::Tls;
use crate::hook::NextHop;
use crate::net::{ConnectError, PromptTcp};
use crate::smtp::{ReplyError, ReplyReader, ServerReply};
use crate::tls::{explain_certificate_error, is_tls_error};

/// Connection timeout.
const CONNECT: Duration = Duration::from_secs(30);
/// Bytes per read. Replies are short.
const READ: usize = 4096;

/// An open connection. After any error it is never used again: its next reply may belong to the
/// previous command.
pub(super) struct NextHopConnection {
    stream: Box<dyn ByteStream>,
    answers: ReplyReader,
    /// The greeting, as received.
    pub(super) greeting: Bytes,
    timeout: Duration,
    data_done_timeout: Duration,
    is_tls: bool,
    /// Whether no further command may be sent.
    is_closing: bool,
    /// Whether another client may reuse it: no client authenticated or forwarded an identity on it,
    /// and it never sent a negative reply.
    is_reusable: bool,
}

/// Failure of the connection to the next hop. The text continues "the next hop …".
#[derive(Debug, thiserror::Error)]
pub(super) enum NextHopError {
    #[error("cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("did not reply in time")]
    Timeout,
    #[error("closed the connection")]
    Closed,
    #[error("lost the connection")]
    Io(#[source] io::Error),
    #[error("sent an invalid SMTP reply")]
    InvalidReply(#[source] ReplyError),
    #[error("sent a reply without a command, so its replies cannot be matched")]
    UnsolicitedReply,
    #[error("rejected the connection: {0}")]
    Rejected(String),
    #[error("offers no usable TLS: {0}")]
    Tls(String),
    #[error("failed the TLS handshake: {0}")]
    Handshake(String),
}

impl NextHopConnection {
    /// Connects to one of its addresses and starts TLS as configured.
    pub(super) async fn open(
        to: &NextHop,
        tls: &NextHopTls,
    ) -> Result<NextHopConnection, NextHopError> {
        let timeout = CONNECT.min(to.timeout);
        let may_go_unencrypted = to.tls == Tls::Opportunistic && to.ca_file.is_none();
        let begin = |tcp| async move {
            match may_go_unencrypted {
                true => NextHopConnection::begin_opportunistic(tcp, to, tls).await,
                false => NextHopConnection::begin(tcp, to, tls, to.tls).await,
            }
        };
        let opened = tls.server.open_session(timeout, |_| false, begin).await;
        opened.map_err(|error| match error {
            ConnectError::Connect(cause) => NextHopError::Unreachable(cause),
            ConnectError::Session(error) => error,
        })
    }

    /// Opens a session with opportunistic TLS: falls back to plain text only if the TLS handshake
    /// fails.
    async fn begin_opportunistic(
        tcp: TcpStream,
        to: &NextHop,
        tls: &NextHopTls,
    ) -> Result<NextHopConnection, NextHopError> {
        let address = tcp.peer_addr().map_err(NextHopError::Unreachable)?;
        match NextHopConnection::begin(tcp, to, tls, to.tls).await {
            Err(NextHopError::Handshake(why)) => {
                let limit = CONNECT.min(to.timeout);
                let tcp = timeout(limit, TcpStream::connect(address)).await;
                let tcp = tcp.map_err(|_| NextHopError::Timeout)?;
                let tcp = tcp.map_err(NextHopError::Unreachable)?;
                let hop = NextHopConnection::begin(tcp, to, tls, Tls::None).await?;
                tls.unencrypted
                    .record(&format!("{}:{}", to.host, to.port), &why);
                Ok(hop)
            }
            begun => begun,
        }
    }

    async fn begin(
        tcp: TcpStream,
        to: &NextHop,
        tls: &NextHopTls,
        how: Tls,
    ) -> Result<NextHopConnection, NextHopError> {
        // Commands are small, and each reply is waited for.
        tcp.set_nodelay(true).map_err(NextHopError::Io)?;
        let us = tcp.local_addr().map_err(NextHopError::Io)?.ip();
        let mut stream: Box<dyn ByteStream> = Box::new(PromptTcp::new(tcp));
        if how == Tls::Implicit {
            stream = encrypted(stream, tls).await?;
        }
        let mut hop = NextHopConnection {
            stream,
            answers: ReplyReader::new(),
            greeting: Bytes::new(),
            timeout: to.timeout,
            data_done_timeout: to.data_done_timeout,
            is_tls: how == Tls::Implicit,
            is_closing: false,
            is_reusable: true,
        };
        let greeting = hop.read_reply(to.timeout).await?;
        if !greeting.is_positive() {
            return Err(NextHopError::Rejected(reply_line(&greeting)));
        }
        hop.greeting = greeting.wire;
        match how {
            Tls::None | Tls::Implicit => Ok(hop),
            Tls::Opportunistic | Tls::Required => {
                let hello = match us {
                    std::net::IpAddr::V4(ip) => format!("EHLO [{ip}]"),
                    std::net::IpAddr::V6(ip) => format!("EHLO [IPv6:{ip}]"),
                };
                let offers = hop.command(hello.as_bytes()).await?;
                let offered = offers
                    .text_lines()
                    .any(|line| line.trim().eq_ignore_ascii_case("STARTTLS"));
                match (offered, how) {
                    (true, _) => hop.start_tls(tls).await,
                    (false, Tls::Required) => Err(NextHopError::Tls("no STARTTLS".into())),
                    (false, _) => Ok(hop),
                }
            }
        }
    }

    async fn start_tls(mut self, tls: &NextHopTls) -> Result<NextHopConnection, NextHopError> {
        let answer = self.command(b"STARTTLS").await?;
        if answer.code != 220 {
            return Err(NextHopError::Handshake(reply_line(&answer)));
        }
        // Data after that reply was sent in plain text.
        if self.answers.clear() > 0 {
            return Err(NextHopError::Tls("data before the handshake".into()));
        }
        Ok(NextHopConnection {
            stream: encrypted(self.stream, tls).await?,
            is_tls: true,
            ..self
        })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether another client may reuse the connection.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_reusable
    }

    /// Marks the connection as specific to its client.
    pub(super) fn set_client_specific(&mut self) {
        self.is_reusable = false;
    }

    /// Fails if the server has closed the connection or sent an unsolicited reply: it would be
    /// taken for the reply to the next command, and in the end for the reply to another client's
    /// message. Does not wait.
    pub(super) async fn check_in_sync(&mut self) -> Result<(), NextHopError> {
        if self.is_closing {
            return Err(NextHopError::Closed);
        }
        if self.answers.has_more() {
            return Err(NextHopError::UnsolicitedReply);
        }
        let mut byte = [0];
        match poll_immediate(self.stream.read(&mut byte)).await {
            None => Ok(()),
            Some(Ok(0)) => Err(NextHopError::Closed),
            Some(Ok(read)) => {
                // The connection stays out of sync.
                self.answers.feed(&byte[..read]);
                Err(NextHopError::UnsolicitedReply)
            }
            Some(Err(cause)) => Err(NextHopError::Io(cause)),
        }
    }

    /// Sends a command, given without its line break, and returns the reply. An unsolicited 421
    /// (RFC 5321 section 3.8) counts as the reply.
    pub(super) async fn command(&mut self, line: &[u8]) -> Result<ServerReply, NextHopError> {
        if let Err(error) = self.check_in_sync().await {
            let closing = self.closing_reply().await;
            return closing.filter(|answer| answer.code == 421).ok_or(error);
        }
        let mut command = BytesMut::with_capacity(line.len() + 2);
        command.extend_from_slice(line);
        command.extend_from_slice(b"\r\n");
        self.write(&command).await?;
        self.read_reply(self.timeout).await
    }

    /// Sends bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), NextHopError> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(self.timeout, writing).await {
            Ok(written) => written.map_err(NextHopError::Io),
            Err(_) => Err(NextHopError::Timeout),
        }
    }

    /// Reads the reply to the message.
    pub(super) async fn final_reply(&mut self) -> Result<ServerReply, NextHopError> {
        self.read_reply(self.data_done_timeout).await
    }

    /// Reads a reply that the server sent before closing, if any. Sends nothing more.
    pub(super) async fn closing_reply(&mut self) -> Option<ServerReply> {
        self.is_closing = true;
        self.read_reply(Duration::from_secs(1)).await.ok()
    }

    async fn read_reply(&mut self, limit: Duration) -> Result<ServerReply, NextHopError> {
        let reading = async {
            let mut bytes = [0; READ];
            loop {
                if let Some(answer) = self.answers.next_reply() {
                    return answer.map_err(NextHopError::InvalidReply);
                }
                match self.stream.read(&mut bytes).await {
                    Ok(0) => return Err(NextHopError::Closed),
                    Ok(read) => self.answers.feed(&bytes[..read]),
                    Err(cause) => return Err(NextHopError::Io(cause)),
                }
            }
        };
        let answer = timeout(limit, reading)
            .await
            .unwrap_or(Err(NextHopError::Timeout))?;
        self.is_reusable &= answer.is_positive() || answer.is_intermediate();
        Ok(answer)
    }

    /// Sends QUIT and closes, without waiting for the reply.
    pub(super) async fn quit(mut self) {
        let _ = timeout(Duration::from_secs(1), self.stream.write_all(b"QUIT\r\n")).await;
        let _ = timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }
}

async fn encrypted(
    stream: Box<dyn ByteStream>,
    tls: &NextHopTls,
) -> Result<Box<dyn ByteStream>, NextHopError> {
    match timeout(HANDSHAKE, tls.connect(stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(cause)) => {
            let why = explain_certificate_error(&cause.to_string());
            Err(match is_tls_error(&cause) {
                true => NextHopError::Handshake(why),
                false => NextHopError::Tls(why),
            })
        }
        Err(_) => Err(NextHopError::Timeout),
    }
}

/// Formats a reply as one line for the log.
pub(super) fn reply_line(answer: &ServerReply) -> String {
    let text: Vec<_> = answer.text_lines().collect();
    format!("{} {}", answer.code, text.join(" "))
}
