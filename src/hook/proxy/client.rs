//! The connection to the client: lines in, replies out.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::next_hop::NextHopError;
use super::tls::{HANDSHAKE, ServerTls};
use crate::error::chain;
use crate::mail::Reply;
use crate::smtp::{LineError, Lines, ServerReply};

/// Longest command line, in bytes: that of AUTH (RFC 4954 section 4).
const LONGEST_LINE: usize = 12_288;
/// Bytes per read.
const READ: usize = 64 * 1024;
/// Timeout for a client to accept a reply.
const WRITE: Duration = Duration::from_secs(300);

/// A byte stream in both directions: TCP, or TLS over it.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> ByteStream for T {}

/// The connection to one client.
pub(super) struct ClientSide {
    stream: Box<dyn ByteStream>,
    lines: Lines,
    /// Replies that are sent before the next wait (RFC 2920 section 3.2).
    out: BytesMut,
    is_tls: bool,
}

/// Reason a session ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionEnd {
    #[error("the client closed the connection")]
    ClientClosed,
    #[error("the client timed out")]
    ClientTimeout,
    #[error("cannot read from or write to the client")]
    Io(#[from] io::Error),
    #[error("shutting down")]
    Stopping,
    #[error("limits.connection_time or limits.message_time exceeded")]
    TimeLimit,
    #[error("the next hop {}", chain(.0))]
    NextHop(NextHopError),
    #[error("the next hop closed the session with 421")]
    NextHopClosed,
    #[error("invalid PROXY header: {0}")]
    ProxyHeader(String),
    #[error("too many invalid commands")]
    TooManyErrors,
    #[error("the client has too many connections")]
    TooManyConnections,
}

impl SessionEnd {
    /// Returns its label in metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            SessionEnd::ClientClosed => "client",
            SessionEnd::ClientTimeout => "silent",
            SessionEnd::Io(_) => "io",
            SessionEnd::Stopping => "stopping",
            SessionEnd::TimeLimit => "late",
            SessionEnd::NextHop(_) => "next_hop",
            SessionEnd::NextHopClosed => "dismissed",
            SessionEnd::ProxyHeader(_) => "proxy",
            SessionEnd::TooManyErrors => "invalid_command",
            SessionEnd::TooManyConnections => "crowded",
        }
    }
}

impl ClientSide {
    pub(super) fn new(stream: Box<dyn ByteStream>) -> ClientSide {
        ClientSide {
            stream,
            lines: Lines::new(LONGEST_LINE),
            out: BytesMut::new(),
            is_tls: false,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Returns the input that was read and not consumed yet.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        self.lines.buffer_mut()
    }

    /// Reads the next command line. Sends pending replies before it waits.
    pub(super) async fn line(
        &mut self,
        until: Instant,
        stop: Option<&CancellationToken>,
    ) -> Result<Result<Bytes, LineError>, SessionEnd> {
        loop {
            if let Some(line) = self.lines.next_line() {
                return Ok(line);
            }
            self.read(until, stop).await?;
        }
    }

    /// Reads more input, after sending pending replies.
    pub(super) async fn read(
        &mut self,
        until: Instant,
        stop: Option<&CancellationToken>,
    ) -> Result<(), SessionEnd> {
        self.flush().await?;
        let buffer = self.lines.buffer_mut();
        buffer.reserve(READ);
        let reading = timeout_at(until, self.stream.read_buf(buffer));
        let read = match stop {
            Some(stop) => tokio::select! {
                biased;
                read = reading => read,
                () = stop.cancelled() => return Err(SessionEnd::Stopping),
            },
            None => reading.await,
        };
        match read {
            Err(_) => Err(SessionEnd::ClientTimeout),
            Ok(Ok(0)) => Err(SessionEnd::ClientClosed),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(cause)) => Err(cause.into()),
        }
    }

    /// Adds a reply of Copyist's own.
    pub(super) fn reply(&mut self, reply: &Reply) {
        self.out.extend_from_slice(reply.to_string().as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// Adds a reply of the next hop, unchanged.
    pub(super) fn forward(&mut self, answer: &ServerReply) {
        self.out.extend_from_slice(&answer.wire);
    }

    /// Adds raw bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(super) async fn flush(&mut self) -> Result<(), SessionEnd> {
        if self.out.is_empty() {
            return Ok(());
        }
        let out = self.out.split();
        let writing = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(WRITE, writing).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(SessionEnd::ClientTimeout),
        }
    }

    /// Sends pending replies and closes the connection. Errors do not matter any more.
    pub(super) async fn close(&mut self) {
        if self.flush().await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.shutdown()).await;
        }
    }

    /// Starts TLS. Discards input from before the handshake, which an attacker may have injected
    /// (RFC 3207 section 6).
    pub(super) async fn encrypt(&mut self, tls: &ServerTls) -> Result<(), SessionEnd> {
        self.lines.clear();
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let accepted = tokio::time::timeout(HANDSHAKE, tls.accept(plain)).await;
        self.stream = accepted.map_err(|_| SessionEnd::ClientTimeout)??;
        self.is_tls = true;
        Ok(())
    }
}
