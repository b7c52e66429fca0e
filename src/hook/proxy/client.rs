//! The client's side of the connection: lines in, replies out.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::next_hop::HopError;
use super::tls::{HANDSHAKE, ServerTls};
use crate::mail::Reply;
use crate::smtp::{LineError, Lines, ServerReply};

/// Longest command line: that of AUTH (RFC 4954 section 4).
const LONGEST_LINE: usize = 12_288;
/// Bytes asked of the system at once.
const READ: usize = 64 * 1024;
/// Longest wait for a client to take a reply.
const WRITE: Duration = Duration::from_secs(300);

/// Anything bytes go through in both directions: TCP, or TLS on it.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> ByteStream for T {}

/// One client.
pub(super) struct ClientSide {
    stream: Box<dyn ByteStream>,
    lines: Lines,
    /// Replies that are sent once there is nothing more to do (RFC 2920 section 3.2).
    out: BytesMut,
    is_tls: bool,
}

/// Why a client is served no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client has gone")]
    Gone,
    #[error("the client was silent for too long")]
    Silent,
    #[error("the client: {0}")]
    Io(#[from] io::Error),
    #[error("the service stops")]
    Stopping,
    #[error("it took longer than limits.connection_time or limits.message_time")]
    Late,
    #[error("the next server: {0}")]
    NextHop(HopError),
    #[error("the next server ended it")]
    Dismissed,
    #[error("its PROXY header: {0}")]
    Proxy(String),
    #[error("too many commands that are none")]
    Nonsense,
    #[error("its client has too many connections")]
    Crowded,
}

impl Ended {
    /// Its name in the metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Ended::Gone => "client",
            Ended::Silent => "silent",
            Ended::Io(_) => "io",
            Ended::Stopping => "stopping",
            Ended::Late => "late",
            Ended::NextHop(_) => "next_hop",
            Ended::Dismissed => "dismissed",
            Ended::Proxy(_) => "proxy",
            Ended::Nonsense => "nonsense",
            Ended::Crowded => "crowded",
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

    /// What was read and is not consumed yet.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        self.lines.buffer_mut()
    }

    /// The next command line. Replies that wait are sent before this waits itself.
    pub(super) async fn line(
        &mut self,
        until: Instant,
        stop: Option<&CancellationToken>,
    ) -> Result<Result<Bytes, LineError>, Ended> {
        loop {
            if let Some(line) = self.lines.next_line() {
                return Ok(line);
            }
            self.read(until, stop).await?;
        }
    }

    /// Reads what the client sends, after what it waits for was sent.
    pub(super) async fn read(
        &mut self,
        until: Instant,
        stop: Option<&CancellationToken>,
    ) -> Result<(), Ended> {
        self.flush().await?;
        let buffer = self.lines.buffer_mut();
        buffer.reserve(READ);
        let reading = timeout_at(until, self.stream.read_buf(buffer));
        let read = match stop {
            Some(stop) => tokio::select! {
                biased;
                read = reading => read,
                () = stop.cancelled() => return Err(Ended::Stopping),
            },
            None => reading.await,
        };
        match read {
            Err(_) => Err(Ended::Silent),
            Ok(Ok(0)) => Err(Ended::Gone),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(cause)) => Err(cause.into()),
        }
    }

    /// Says something of our own.
    pub(super) fn say(&mut self, reply: &Reply) {
        self.out.extend_from_slice(reply.to_string().as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// Passes an answer of the next server on.
    pub(super) fn pass(&mut self, answer: &ServerReply) {
        self.out.extend_from_slice(&answer.wire);
    }

    /// Says these bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(super) async fn flush(&mut self) -> Result<(), Ended> {
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
            Err(_) => Err(Ended::Silent),
        }
    }

    /// Says goodbye. Nobody minds if the client does not hear it.
    pub(super) async fn close(&mut self) {
        if self.flush().await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.shutdown()).await;
        }
    }

    /// Changes over to TLS. What the client sent before the handshake is thrown away: somebody in
    /// between may have put it there (RFC 3207 section 6).
    pub(super) async fn encrypt(&mut self, tls: &ServerTls) -> Result<(), Ended> {
        self.lines.clear();
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let accepted = tokio::time::timeout(HANDSHAKE, tls.accept(plain)).await;
        self.stream = accepted.map_err(|_| Ended::Silent)??;
        self.is_tls = true;
        Ok(())
    }
}
