//! Drives one connection: reads commands, asks the handler, writes responses.
//!
//! Promises: commands that arrive together are answered with one write; while a message is being
//! decided, a progress response is sent every [`Limits::progress_every`], which resets the MTA's
//! timer; a handler that has started is never cancelled, even if the MTA disconnects, because its
//! work may already be durable. At shutdown a message under way is finished first; shortly after,
//! the connection closes.
//!
//! Progress is sent only at the end of a message: Postfix would accept it anywhere, Sendmail treats
//! it as a broken filter anywhere else (`milter_send_command`). A message stays in memory until it
//! is decided; only of a large one does the handler get chunks while it arrives. The size limit is
//! the smaller of the MTA's (`message_size_limit`, `MaxMessageSize`) and [`Limits::message_size`].
//!
//! Clients that are not MTAs are disconnected early: if their first bytes cannot begin a
//! negotiation, or if none arrives in time.
//!
//! Fails with a [`ConnectionError`], which the caller logs; the connection cannot be used after
//! that. Dropping the future of [`serve`] cancels the handler: use its shutdown token instead.

use std::future::{Future, ready};
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::command::Command;
use super::edit::{EditError, MessageDecision, RecipientAnswer};
use super::frame::{FrameError, Frames, PacketError};
use super::message::CHUNK_SIZE;
use super::negotiation::{Agreement, Requirements};
use super::response::Response;
use super::session::{NextAction, PendingRecipient, Session, SessionError};
use super::transaction::{PartialTransaction, Path, Transaction};
use crate::mail::{LimitExceeded, Limits};

/// Grace period at shutdown in which an idle connection may still begin a message: an MTA that has
/// just connected is about to, and would have to defer it.
const PARTING: Duration = Duration::from_millis(200);

/// Packet overhead on top of the largest header: the field name, and bytes that the limit does not
/// count.
const PACKET_OVERHEAD: usize = 64 * 1024;

/// Bytes of a message that every connection may buffer without a reservation.
const FREE_BUFFER: usize = 32 * 1024;

/// Bytes reserved beyond that: one chunk for the handler, and one packet more. Only a longer header
/// needs further reservations.
const RESERVATION: usize = CHUNK_SIZE + 128 * 1024;

/// The decisions about recipients and messages of one connection.
pub trait Handler: Send {
    /// Takes the negotiated agreement, before any other command.
    fn set_agreement(&mut self, agreement: &Agreement) {
        let _ = agreement;
    }

    /// Begins a message: MAIL arrived.
    fn begin_message(&mut self) {}

    /// Decides about a recipient; called only if [`Requirements::answer_recipients`] is set. The
    /// SMTP client waits, and no progress can be sent.
    fn check_recipient(
        &mut self,
        partial: PartialTransaction<'_>,
        recipient: &Path,
    ) -> impl Future<Output = RecipientAnswer> + Send {
        let _ = (partial, recipient);
        ready(RecipientAnswer::Accept)
    }

    /// Reports a recipient or message that was rejected because it exceeded a limit.
    fn limit_exceeded(&mut self, queue_id: &str, limit: LimitExceeded) {
        let _ = (queue_id, limit);
    }

    /// Reserves memory for this many more bytes of a message that is not small. Returns `false` if
    /// there is none; the message is rejected then.
    fn reserve_memory(&mut self, bytes: usize) -> impl Future<Output = bool> + Send {
        let _ = bytes;
        ready(true)
    }

    /// Takes a chunk of a large message, the first one with the whole header; the bytes after the
    /// last chunk are in the [`Transaction`]. Nothing is read from the MTA meanwhile.
    fn take_chunk(&mut self, piece: Bytes) -> impl Future<Output = ()> + Send;

    /// Drops the chunks and the reservation of a message that ended without a decision.
    fn discard_chunks(&mut self);

    /// Decides about a message. Runs to completion whatever the MTA does.
    fn end_of_message(
        &mut self,
        transaction: Transaction,
    ) -> impl Future<Output = MessageDecision> + Send;
}

/// The reason why a connection ended unexpectedly.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The bytes are not milter packets.
    #[error("invalid packet framing")]
    Frame(#[from] FrameError),
    /// A packet is malformed.
    #[error("invalid milter packet")]
    Packet(#[from] PacketError),
    /// The packets are out of order, or of an unsupported version.
    #[error("milter protocol violation")]
    Session(#[from] SessionError),
    /// The connection broke.
    #[error("cannot {doing} the MTA")]
    Io {
        /// The operation that failed.
        doing: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The MTA closed the connection in the middle of something.
    #[error("the MTA closed the connection {state}")]
    EarlyClose {
        /// The state of the session, to end a sentence with.
        state: &'static str,
    },
    /// The MTA did not wait for the verdict on a message; the handler ran to completion.
    #[error("{queue_id}: the MTA did not wait for the verdict")]
    Interrupted {
        /// The MTA's queue ID of the message.
        queue_id: String,
        /// The MTA's action.
        #[source]
        interruption: Interruption,
    },
    /// The client is not an MTA.
    #[error("not a milter client: the first bytes are {looks_like}")]
    NotMilter {
        /// The protocol that the first bytes belong to.
        looks_like: &'static str,
    },
    /// The client did not negotiate in time.
    #[error("no milter negotiation within {} seconds", within.as_secs())]
    NoNegotiation {
        /// The time limit.
        within: Duration,
    },
    /// A message was not finished in time.
    #[error("message not finished within {} seconds", within.as_secs())]
    TooSlow {
        /// The time limit.
        within: Duration,
    },
    /// The MTA sent or read nothing for too long.
    #[error("the MTA did not {doing} for {} seconds", after.as_secs())]
    Idle {
        /// The action that was waited for.
        doing: &'static str,
        /// The idle timeout.
        after: Duration,
    },
}

impl ConnectionError {
    /// Whether the client never spoke the milter protocol.
    pub fn is_not_milter(&self) -> bool {
        matches!(
            self,
            ConnectionError::NotMilter { .. } | ConnectionError::NoNegotiation { .. }
        )
    }
}

/// An MTA's action while it should have waited for the verdict.
#[derive(Debug, thiserror::Error)]
pub enum Interruption {
    /// The MTA closed the connection.
    #[error("it closed the connection")]
    Closed,
    /// The MTA aborted the message or sent another command.
    #[error("it sent another command")]
    SentData,
    /// The connection broke.
    #[error("the connection broke")]
    Failed(#[source] io::Error),
}

/// Serves one connection until the MTA quits, something fails, or `shutdown` is cancelled and no
/// message is under way. `stream` must not hold written bytes back: progress is not flushed.
pub async fn serve<S, H>(
    stream: S,
    requirements: Requirements,
    limits: Limits,
    handler: H,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: Handler,
{
    let connection = Connection {
        stream,
        limits,
        handler,
        output: BytesMut::new(),
        allowance: FREE_BUFFER,
    };
    connection
        .run(Session::with_limits(requirements, limits), shutdown)
        .await
}

struct Connection<S, H> {
    stream: S,
    limits: Limits,
    handler: H,
    /// Responses not yet written.
    output: BytesMut,
    /// Bytes of the message under way that may be buffered.
    allowance: usize,
}

/// Whether to read on or to close the connection.
enum Next {
    Read,
    Close,
}

impl<S, H> Connection<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: Handler,
{
    async fn run(
        mut self,
        mut session: Session,
        shutdown: CancellationToken,
    ) -> Result<(), ConnectionError> {
        let mut frames = Frames::new();
        // One future for the whole connection: a new one for each read would register with the
        // token, and so meet all other connections, each time.
        let mut shutdown = pin!(shutdown.cancelled());
        let mut clock = Clock::start(self.limits);
        let mut parting: Option<Instant> = None;
        loop {
            let next = self.handle_commands(&mut session, &mut frames).await?;
            self.write().await?;
            if let Next::Close = next {
                return Ok(());
            }
            let idle = session.is_between_messages();
            let (end, ending) = clock.end_of_wait(&session);
            if end <= Instant::now() {
                return ending.outcome(self.limits);
            }
            if idle && parting.is_some_and(|end| end <= Instant::now()) {
                return Ok(());
            }
            let end = match parting {
                Some(parting) if idle => end.min(parting),
                _ => end,
            };
            let read = tokio::select! {
                biased;
                () = &mut shutdown, if idle && parting.is_none() => {
                    parting = Some(Instant::now() + PARTING);
                    continue;
                }
                read = timeout_at(end, self.stream.read_buf(frames.space())) => read,
            };
            match read {
                Ok(Ok(0)) if idle && !frames.has_more() => return Ok(()),
                Ok(Ok(0)) => {
                    let state = if frames.has_more() {
                        "in the middle of a packet"
                    } else {
                        session.state()
                    };
                    return Err(ConnectionError::EarlyClose { state });
                }
                Ok(Ok(_)) => {}
                Ok(Err(cause)) => {
                    let doing = "read from";
                    return Err(ConnectionError::Io { doing, cause });
                }
                Err(_) if idle && parting.is_some() => return Ok(()),
                Err(_) => return ending.outcome(self.limits),
            }
        }
    }

    /// Handles all commands that have arrived.
    async fn handle_commands(
        &mut self,
        session: &mut Session,
        frames: &mut Frames,
    ) -> Result<Next, ConnectionError> {
        if session.is_greeting()
            && let Some(looks_like) = frames.foreign_protocol()
        {
            return Err(ConnectionError::NotMilter { looks_like });
        }
        while let Some(frame) = frames.next()? {
            let command = Command::decode(frame)?;
            let is_beginning = matches!(command, Command::Mail(_));
            let turn = session.handle(command)?;
            if is_beginning {
                self.handler.begin_message();
            }
            match turn {
                NextAction::Silent => {}
                NextAction::Continue => Response::Continue.encode(&mut self.output),
                NextAction::Negotiated(agreement) => {
                    // A field that is too long should be answered, if at all possible.
                    let field = self.limits.header_size.saturating_add(PACKET_OVERHEAD);
                    frames.set_limit(agreement.packet_limit().max(field));
                    self.handler.set_agreement(&agreement);
                    Response::Negotiate(agreement.chosen(), &[]).encode(&mut self.output);
                }
                NextAction::Recipient(pending) => self.recipient(pending).await,
                NextAction::RejectRecipient(limit, queue_id)
                | NextAction::RejectMessage(limit, queue_id) => {
                    self.reject(&queue_id, limit);
                }
                NextAction::EndOfMessage(transaction, agreement) => {
                    let sent_early = frames.has_more();
                    self.end_of_message(*transaction, agreement, sent_early)
                        .await?;
                }
                NextAction::Quit => return Ok(Next::Close),
            }
            self.hand_over(session).await;
        }
        Ok(Next::Read)
    }

    /// Reserves memory for messages that are not small, hands chunks of large ones to the handler,
    /// and tells it when such a message is over.
    async fn hand_over(&mut self, session: &mut Session) {
        let (buffered, handed_over) = session.sizes();
        if self.allowance > FREE_BUFFER && buffered + handed_over == 0 {
            self.allowance = FREE_BUFFER;
            self.handler.discard_chunks();
        }
        while buffered > self.allowance {
            if !self.handler.reserve_memory(RESERVATION).await {
                return session.mark_exceeded(LimitExceeded::Memory);
            }
            self.allowance += RESERVATION;
        }
        if let Some(piece) = session.next_chunk() {
            self.handler.take_chunk(piece).await;
        }
    }

    async fn recipient(&mut self, pending: PendingRecipient<'_>) {
        let answer = self
            .handler
            .check_recipient(pending.partial(), pending.recipient())
            .await;
        if let Err(error) = answer.encode(&mut self.output) {
            let queue_id =
                queue_id_or_placeholder(pending.partial().macros.get("i").unwrap_or_default());
            log_unsent(queue_id, &error, &pending.recipient().address);
        }
        if answer == RecipientAnswer::Accept {
            pending.accept();
        }
    }

    /// Rejects a recipient or a message that exceeded a limit.
    fn reject(&mut self, queue_id: &str, limit: LimitExceeded) {
        let queue_id = queue_id_or_placeholder(queue_id);
        self.handler.limit_exceeded(queue_id, limit);
        if let Err(error) = RecipientAnswer::Reply(limit.reply()).encode(&mut self.output) {
            log_unsent(queue_id, &error, "message");
        }
    }

    /// Has the handler decide about a message. `sent_early` means that the MTA has already sent
    /// more, which it must not.
    async fn end_of_message(
        &mut self,
        transaction: Transaction,
        agreement: Agreement,
        sent_early: bool,
    ) -> Result<(), ConnectionError> {
        let queue_id = queue_id_or_placeholder(transaction.queue_id()).to_owned();
        let (outcome, interruption) = self.decide(transaction, sent_early).await;
        if let Some(interruption) = interruption {
            return Err(ConnectionError::Interrupted {
                queue_id,
                interruption,
            });
        }
        if let Err(error) = outcome.encode(&agreement, &mut self.output) {
            log_unsent(&queue_id, &error, "message");
        }
        Ok(())
    }

    /// Runs the handler to completion, sends progress meanwhile, and watches whether the MTA waits.
    async fn decide(
        &mut self,
        transaction: Transaction,
        sent_early: bool,
    ) -> (MessageDecision, Option<Interruption>) {
        let every = self.limits.progress_every;
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let output = &mut self.output;
        let mut interruption = sent_early.then_some(Interruption::SentData);
        let mut byte = [0];
        let mut work = pin!(self.handler.end_of_message(transaction));
        let mut progress = pin!(sleep(every));
        loop {
            // Every branch is polled along with the work, so that an MTA that does not read cannot
            // block it.
            tokio::select! {
                biased;
                outcome = &mut work => return (outcome, interruption),
                read = reader.read(&mut byte), if interruption.is_none() => {
                    interruption = Some(match read {
                        Ok(0) => Interruption::Closed,
                        Ok(_) => Interruption::SentData,
                        Err(cause) => Interruption::Failed(cause),
                    });
                }
                written = writer.write_buf(output), if interruption.is_none() && !output.is_empty() => {
                    interruption = match written {
                        Ok(0) => Some(Interruption::Closed),
                        Ok(_) => None,
                        Err(cause) => Some(Interruption::Failed(cause)),
                    };
                }
                () = &mut progress, if interruption.is_none() && output.is_empty() => {
                    Response::Progress.encode(output);
                    progress.as_mut().reset(Instant::now() + every);
                }
            }
        }
    }

    /// Writes the buffered responses.
    async fn write(&mut self) -> Result<(), ConnectionError> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = timeout(self.limits.idle, async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        });
        match written.await {
            Ok(Ok(())) => {
                self.output.clear();
                Ok(())
            }
            Ok(Err(cause)) => Err(ConnectionError::Io {
                doing: "write to",
                cause,
            }),
            Err(_) => Err(ConnectionError::Idle {
                doing: "read the response",
                after: self.limits.idle,
            }),
        }
    }
}

/// Returns the queue ID, or a placeholder, to begin a log line with.
fn queue_id_or_placeholder(queue_id: &str) -> &str {
    if queue_id.is_empty() {
        "(no queue id)"
    } else {
        queue_id
    }
}

/// Logs a decision that could not be sent: the MTA tries the message or recipient again, and it
/// fails again until an administrator acts.
fn log_unsent(queue_id: &str, error: &EditError, subject: &str) {
    tracing::error!("{queue_id}: {subject} deferred: cannot send the response to the MTA: {error}");
}
