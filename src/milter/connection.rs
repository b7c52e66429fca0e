//! One connection of an MTA: reads commands, asks the handler, writes answers.
//!
//! Promises: changes are written all together with the final answer behind them, or not at all; a handler that
//! was asked about a whole message is never stopped halfway; an MTA that waits for it hears that work goes
//! on. Whatever is wrong with the conversation ends this connection with a reason and nothing else.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::codec::{Actions, CodecError, Decoder, Response};
use super::session::{Path, ProtocolError, Session, Step, Transaction, Wants};
use crate::mail::Reply;

/// The longest packet before the negotiation.
const FIRST_PACKET: usize = 64 * 1024;
/// The longest one after it: what the largest negotiable size allows. Postfix sends header fields of up to
/// its `header_size_limit` (100 kB) in one packet, whatever was negotiated.
const PACKET: usize = 1024 * 1024 + 1024;
/// How much is read at once.
const READ: usize = 64 * 1024;
/// Octets of new body in one packet (`MILTER_CHUNK_SIZE`).
const BODY_CHUNK: usize = 65_535;

/// Judges recipients and messages.
pub trait Handler: Send {
    /// Whether this recipient is welcome. Asked only where [`Wants::answer_recipients`] says so. `so_far` holds the
    /// recipients that were welcome before it.
    fn recipient(
        &mut self,
        so_far: &Transaction,
        recipient: &Path,
    ) -> impl Future<Output = Answer> + Send;

    /// What becomes of a whole message.
    fn end_of_message(&mut self, transaction: Transaction) -> impl Future<Output = Outcome> + Send;
}

/// An answer to the MTA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Continue,
    /// Go on, and no more questions about this message.
    Accept,
    /// The MTA's own 5xx.
    Reject,
    /// The MTA's own 4xx.
    Tempfail,
    /// Take it and throw it away.
    Discard,
    /// A 4xx or 5xx of ours.
    Reply(Reply),
}

/// A change of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A header field at the end.
    AddHeader(String, String),
    /// A header field at this index.
    InsertHeader(u32, String, String),
    /// Another value for the n-th field (from 1) of this name; empty deletes it.
    ChangeHeader(u32, String, String),
    /// Another body.
    ReplaceBody(Bytes),
    /// One more recipient, with ESMTP parameters.
    AddRecipient(String, Vec<String>),
    /// One recipient less.
    DeleteRecipient(String),
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Changes; they count only where the answer lets the message go on.
    pub edits: Vec<Edit>,
    /// The final answer.
    pub answer: Answer,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Between two packets of the MTA.
    pub idle: Duration,
    /// Between two signs of life while a message is worked on.
    pub progress_every: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // Longer than any SMTP timeout (RFC 5321 section 4.5.3.2), which the MTA minds.
            idle: Duration::from_secs(2 * 3600),
            // Postfix waits 30 s for an answer to a command, 300 s at the end of the message.
            progress_every: Duration::from_secs(10),
        }
    }
}

/// Why a connection ended otherwise than by a goodbye.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The bytes are no packets.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The packets are no conversation.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The socket.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// Closed in the middle of a packet or a message.
    #[error("the MTA closed the connection within a message")]
    EarlyClose,
    /// Silence.
    #[error("the MTA said nothing for {} s", .0.as_secs())]
    Idle(Duration),
}

/// Serves one connection to its end. On `shutdown` it is closed when no message is under way.
pub async fn serve<S, H>(
    mut stream: S,
    wants: Wants,
    limits: Limits,
    mut handler: H,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: Handler,
{
    let mut session = Session::new(wants);
    let mut decoder = Decoder::new(FIRST_PACKET);
    let (mut input, mut output) = (BytesMut::with_capacity(READ), BytesMut::new());
    loop {
        while let Some(command) = decoder.command(&mut input)? {
            match session.receive(command)? {
                Step::Quiet => {}
                Step::Answer(response) => {
                    if let Response::Negotiate { .. } = response {
                        decoder = Decoder::new(PACKET);
                    }
                    response.encode(&mut output);
                }
                Step::Recipient => {
                    let answer = ask_recipient(&mut session, &mut handler).await;
                    response(&answer).encode(&mut output);
                }
                Step::EndOfMessage(transaction) => {
                    let work = handler.end_of_message(*transaction);
                    let outcome = with_progress(work, &mut stream, limits.progress_every).await;
                    write_outcome(&outcome, session.actions(), &mut output);
                }
                Step::Close => return flush(&mut stream, &mut output).await,
            }
        }
        flush(&mut stream, &mut output).await?;
        input.reserve(READ);
        let read = tokio::select! {
            biased;
            () = shutdown.cancelled(), if session.is_idle() => return Ok(()),
            read = timeout(limits.idle, stream.read_buf(&mut input)) => read,
        };
        match read.map_err(|_| ConnectionError::Idle(limits.idle))?? {
            // A TCP check by a load balancer or a monitor looks like this too, and so does Postfix's end of a session.
            0 if session.is_idle() && input.is_empty() => return Ok(()),
            0 => return Err(ConnectionError::EarlyClose),
            _ => {}
        }
    }
}

async fn flush<S: AsyncWrite + Unpin>(
    stream: &mut S,
    output: &mut BytesMut,
) -> Result<(), ConnectionError> {
    if !output.is_empty() {
        stream.write_all(output).await?;
        output.clear();
    }
    Ok(())
}

async fn ask_recipient<H: Handler>(session: &mut Session, handler: &mut H) -> Answer {
    let mut so_far = session.transaction().clone();
    let Some(recipient) = so_far.recipients.pop() else {
        return Answer::Tempfail;
    };
    let answer = handler.recipient(&so_far, &recipient).await;
    if !matches!(answer, Answer::Continue | Answer::Accept) {
        session.refuse_recipient();
    }
    match answer {
        // Accepting at RCPT would mean the whole message.
        Answer::Accept => Answer::Continue,
        other => other,
    }
}

/// Waits for the work to its end, whatever becomes of the MTA meanwhile: a commit that has begun may be durable, and
/// must not be left half done. The MTA hears `progress`, at which it starts waiting anew.
async fn with_progress<S: AsyncWrite + Unpin>(
    work: impl Future<Output = Outcome>,
    stream: &mut S,
    every: Duration,
) -> Outcome {
    tokio::pin!(work);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    ticks.tick().await;
    let mut packet = BytesMut::new();
    Response::Progress.encode(&mut packet);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            _ = ticks.tick() => {
                // If the MTA is gone, writing the answer says so.
                let _ = stream.write_all(&packet).await;
            }
        }
    }
}

fn write_outcome(outcome: &Outcome, agreed: Actions, output: &mut BytesMut) {
    if !matches!(outcome.answer, Answer::Continue | Answer::Accept) {
        return response(&outcome.answer).encode(output);
    }
    if let Some(edit) = outcome.edits.iter().find(|edit| !agreed.has(edit.needs())) {
        // A part of the changes would be another message than anybody decided on.
        error!("deferred: the MTA did not agree to {edit:?}");
        return Response::Tempfail.encode(output);
    }
    outcome.edits.iter().for_each(|edit| edit.encode(output));
    response(&outcome.answer).encode(output);
}

fn response(answer: &Answer) -> Response {
    match answer {
        Answer::Continue => Response::Continue,
        Answer::Accept => Response::Accept,
        Answer::Reject => Response::Reject,
        Answer::Tempfail => Response::Tempfail,
        Answer::Discard => Response::Discard,
        Answer::Reply(reply) => reply_packet(reply),
    }
}

/// Sendmail and Postfix drop a code whose classes do not agree; then the MTA's own reply is better.
fn reply_packet(reply: &Reply) -> Response {
    if reply.code / 100 != u16::from(reply.enhanced.0) {
        return if reply.is_permanent() {
            Response::Reject
        } else {
            Response::Tempfail
        };
    }
    // Both MTAs treat the text as a format in which %% stands for %.
    Response::Reply(reply.to_string().replace('%', "%%").into())
}

impl Edit {
    fn needs(&self) -> Actions {
        match self {
            Edit::AddHeader(..) | Edit::InsertHeader(..) => Actions::ADD_HEADERS,
            Edit::ChangeHeader(..) => Actions::CHANGE_HEADERS,
            Edit::ReplaceBody(_) => Actions::CHANGE_BODY,
            Edit::AddRecipient(_, params) if params.is_empty() => Actions::ADD_RECIPIENTS,
            Edit::AddRecipient(..) => Actions::ADD_RECIPIENTS_WITH,
            Edit::DeleteRecipient(_) => Actions::DELETE_RECIPIENTS,
        }
    }

    fn encode(&self, output: &mut BytesMut) {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        match self {
            Edit::AddHeader(name, value) => {
                Response::AddHeader(bytes(name), bytes(value)).encode(output);
            }
            Edit::InsertHeader(index, name, value) => {
                Response::InsertHeader(*index, bytes(name), bytes(value)).encode(output);
            }
            Edit::ChangeHeader(index, name, value) => {
                Response::ChangeHeader(*index, bytes(name), bytes(value)).encode(output);
            }
            Edit::ReplaceBody(body) if body.is_empty() => {
                Response::ReplaceBody(Bytes::new()).encode(output);
            }
            Edit::ReplaceBody(body) => {
                let mut rest = body.clone();
                while !rest.is_empty() {
                    let chunk = rest.split_to(rest.len().min(BODY_CHUNK));
                    Response::ReplaceBody(chunk).encode(output);
                }
            }
            Edit::AddRecipient(path, params) if params.is_empty() => {
                Response::AddRecipient(bytes(path)).encode(output);
            }
            Edit::AddRecipient(path, params) => {
                Response::AddRecipientWith(bytes(path), bytes(&params.join(" "))).encode(output);
            }
            Edit::DeleteRecipient(path) => Response::DeleteRecipient(bytes(path)).encode(output),
        }
    }
}
