//! The stream between lettre and the relay. Replies are read here, once, and by our own rules.
//!
//! lettre writes; what it would make of a reply decides nothing. It compares keywords by case,
//! panics on some answers to EHLO, and takes what it has read ahead for the answer to the next
//! command, also what came before the encryption (CVE-2011-0411 and its kin). So lettre reads "250
//! ok" for every reply, and the reply itself is for [`Channel::reply`].
//!
//! Promises: a reply is the answer to a command that was sent before it came. Anything that comes
//! unasked ends the connection, as do a reply that cannot be read and one that does not come in
//! time.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use lettre::transport::smtp::client::AsyncTokioStream;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_rustls::TlsConnector;

use crate::smtp::{ReplyReader, ServerReply};
use crate::tls::{explain_certificate_error, is_tls_error};

/// Bytes asked of the system at once. Replies are short.
const READ: usize = 4096;

/// TCP, or TLS on it.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Transport for T {}

/// One end of the stream: lettre holds one, the connection another.
#[derive(Clone)]
pub(super) struct Channel(Arc<Mutex<State>>);

struct State {
    stream: Box<dyn Transport>,
    answers: ReplyReader,
    /// The reply that lettre was told of last.
    reply: Option<ServerReply>,
    /// Whether what came last ends in a CR.
    ends_in_cr: bool,
    /// Whether the relay has greeted us.
    is_greeted: bool,
    /// Commands that were sent and not answered yet; the greeting is awaited without one.
    outstanding: usize,
    /// Whether a message is being sent, whose lines are no commands.
    in_message: bool,
    /// The longest wait for one reply, or for the relay to take more.
    patience: Duration,
    /// The end of the wait that is under way.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Why nothing more comes of this connection.
    failure: Option<String>,
}

/// Why a connection is not encrypted.
pub(super) enum EncryptError {
    /// The two sides found no encryption that both believe in.
    Handshake(String),
    /// The connection was lost, or what came was no handshake.
    Lost(String),
}

impl Channel {
    /// Over a stream on which nothing was said.
    pub(super) fn new(stream: Box<dyn Transport>, patience: Duration) -> Channel {
        Channel(Arc::new(Mutex::new(State {
            stream,
            answers: ReplyReader::new(),
            reply: None,
            ends_in_cr: false,
            is_greeted: false,
            outstanding: 1,
            in_message: false,
            patience,
            waiting: None,
            failure: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how long each following reply is waited for.
    pub(super) fn set_patience(&self, patience: Duration) {
        self.state().patience = patience;
    }

    /// What follows is a message, up to the next reply.
    pub(super) fn begin_message(&self) {
        self.state().in_message = true;
    }

    /// Takes the reply that lettre was told of last.
    pub(super) fn reply(&self) -> Option<ServerReply> {
        self.state().reply.take()
    }

    /// Why the connection is of no use any more; a general answer where lettre alone knows.
    pub(super) fn failure(&self) -> String {
        let failure = self.state().failure.clone();
        failure.unwrap_or_else(|| "the connection was lost".into())
    }

    /// Whether the relay has said nothing since its last reply, and is still there.
    pub(super) fn is_quiet(&self) -> bool {
        let mut state = self.state();
        state.failure.is_none() && state.unasked().is_none()
    }

    /// Begins TLS on what was not encrypted. Gives the server's certificate, in DER.
    pub(super) async fn encrypt(
        &self,
        connector: &TlsConnector,
        name: ServerName<'static>,
    ) -> Result<Option<Vec<u8>>, EncryptError> {
        let (stream, patience) = {
            let mut state = self.state();
            // Whatever came behind the answer to STARTTLS came in the clear (RFC 3207 section 4.2).
            if let Some(unasked) = state.unasked() {
                return Err(EncryptError::Lost(unasked));
            }
            let stream = std::mem::replace(&mut state.stream, Box::new(tokio::io::empty()));
            (stream, state.patience)
        };
        let (stream, certificate) = encrypted(stream, connector, name, patience).await?;
        self.state().stream = stream;
        Ok(certificate)
    }
}

/// The handshake. Gives the server's certificate, too, in DER.
pub(super) async fn encrypted(
    stream: Box<dyn Transport>,
    connector: &TlsConnector,
    name: ServerName<'static>,
    patience: Duration,
) -> Result<(Box<dyn Transport>, Option<Vec<u8>>), EncryptError> {
    match tokio::time::timeout(patience, connector.connect(name, stream)).await {
        Ok(Ok(encrypted)) => {
            let (_, session) = encrypted.get_ref();
            let certificate = session.peer_certificates().and_then(<[_]>::first);
            let certificate = certificate.map(|der| der.to_vec());
            Ok((Box::new(encrypted), certificate))
        }
        Ok(Err(error)) if is_tls_error(&error) => Err(EncryptError::Handshake(
            explain_certificate_error(&error.to_string()),
        )),
        Ok(Err(error)) => Err(EncryptError::Lost(error.to_string())),
        Err(_) => Err(EncryptError::Lost(late(patience))),
    }
}

fn late(patience: Duration) -> String {
    format!(
        "the relay did not answer within {} s",
        patience.as_secs_f32()
    )
}

/// An answer on one line.
pub(super) fn words(answer: &ServerReply) -> String {
    let lines: Vec<_> = answer.text_lines().collect();
    let text = format!("{} {}", answer.code, lines.join(" "));
    text.replace(char::is_control, " ")
}

impl State {
    /// Ends the connection: nothing is read or written any more.
    fn fail(&mut self, why: String) -> io::Error {
        self.failure.get_or_insert(why);
        io::Error::other("the connection is over")
    }

    /// Reads what is there.
    fn fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [0; READ];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
        self.feed(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Some relays end lines with LF alone. In a reply that is a line's end to everybody, and hides
    /// nothing.
    fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            let has_cr = line.last().map_or(self.ends_in_cr, |last| *last == b'\r');
            self.answers.feed(line);
            if line.len() < piece.len() {
                self.answers.feed(if has_cr { b"\n" } else { b"\r\n" });
            }
            self.ends_in_cr = has_cr && line.len() == piece.len();
        }
    }

    /// What the relay says though nothing was asked, as a reason to give the connection up. A reply
    /// to a message that is not through is kept where it says no: a relay may have had enough.
    fn unasked(&mut self) -> Option<String> {
        let mut context = Context::from_waker(Waker::noop());
        let read = match self.answers.has_more() {
            false => self.fill(&mut context),
            true => Poll::Ready(Ok(1)),
        };
        match read {
            Poll::Pending => None,
            Poll::Ready(Ok(0)) => Some("the relay closed the connection".into()),
            Poll::Ready(Err(error)) => Some(error.to_string()),
            Poll::Ready(Ok(_)) => Some(match self.answers.next_reply() {
                Some(Ok(answer)) => {
                    let said = words(&answer);
                    let is_no = answer.is_transient() || answer.is_permanent();
                    self.reply = Some(answer).filter(|_| self.in_message && is_no);
                    format!("the relay replied without being asked: {said}")
                }
                Some(Err(flaw)) => flaw.to_string(),
                None => "the relay replied without being asked".into(),
            }),
        }
    }

    fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(why) = self.failure.clone() {
            return Poll::Ready(Err(self.fail(why)));
        }
        loop {
            match self.answers.next_reply() {
                Some(Ok(answer)) => return Poll::Ready(self.take(answer)),
                Some(Err(flaw)) => return Poll::Ready(Err(self.fail(flaw.to_string()))),
                None => {}
            }
            match self.fill(context) {
                Poll::Ready(Ok(0)) => {
                    let why = "the relay closed the connection";
                    return Poll::Ready(Err(self.fail(why.into())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(self.fail(error.to_string())));
                }
                Poll::Pending => return Poll::Ready(Err(ready!(self.poll_late(context)))),
            }
        }
    }

    fn take(&mut self, answer: ServerReply) -> io::Result<()> {
        self.waiting = None;
        self.outstanding = self.outstanding.saturating_sub(1);
        self.in_message = false;
        let refuses_us = !std::mem::replace(&mut self.is_greeted, true) && !answer.is_positive();
        if refuses_us {
            return Err(self.fail(format!("refused the connection: {}", words(&answer))));
        }
        self.reply = Some(answer);
        Ok(())
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(why) = self.failure.clone() {
            return Poll::Ready(Err(self.fail(why)));
        }
        if (self.outstanding == 0 || self.in_message)
            && let Some(why) = self.unasked()
        {
            return Poll::Ready(Err(self.fail(why)));
        }
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(Ok(written)) => {
                self.waiting = None;
                if !self.in_message {
                    // Each line is a command with a reply of its own.
                    self.outstanding += memchr::memchr_iter(b'\n', &bytes[..written]).count();
                }
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) => {
                let why = self.unasked().unwrap_or_else(|| error.to_string());
                Poll::Ready(Err(self.fail(why)))
            }
            Poll::Pending => Poll::Ready(Err(ready!(self.poll_late(context)))),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => Poll::Ready(Err(ready!(self.poll_late(context)))),
            flushed => flushed,
        }
    }

    /// Ready once the relay has had its time.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(self.fail(late(patience)))
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.state().poll_reply(context))?;
        out.put_slice(b"250 ok\r\n");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.state().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.state().stream).poll_shutdown(context)
    }
}

impl AsyncTokioStream for Channel {
    /// lettre itself never asks.
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What was read may hold a password's answer.
impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}
