//! Drives one connection: reads what the MTA says, asks the handler, writes what is owed.
//!
//! Promises: what arrived together is answered with one write; while a message is being decided the
//! MTA is told "still working" every [`Limits::progress_every`], which resets its timer; a handler
//! that has begun is never cancelled, even if the MTA goes away meanwhile, because its work may
//! already be durable. At shutdown a message under way is finished first, then, after a moment, the
//! connection closes.
//!
//! Progress is said only at the end of a message: Postfix would take it anywhere, Sendmail takes it
//! for a broken filter anywhere else (`milter_send_command`). A message is held in memory until it
//! is decided, but a large one: of that the handler gets pieces while it arrives. How large it may
//! be is the smaller of the MTA's limit (`message_size_limit`, `MaxMessageSize`) and
//! [`Limits::message_size`].
//!
//! Who is no MTA is not waited for: first bytes that cannot begin a negotiation end the
//! connection, and so does a negotiation that does not come.
//!
//! Fails by [`ConnectionError`], which the caller logs; the connection is then of no more use.
//! Whoever drops the future of [`serve`] cancels the handler: end it by its shutdown token instead.

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

/// How long, at shutdown, a connection on which nothing is under way may still begin a message: the
/// MTA that has just opened it is about to, and would have to defer it.
const PARTING: Duration = Duration::from_millis(200);

/// Room in a packet beside the header that it holds at most: the name, and what the limit does not
/// count.
const ROOM: usize = 64 * 1024;

/// Bytes of a message that every connection may hold without asking for room.
const SMALL: usize = 32 * 1024;

/// Bytes that room is asked for then: what is held before it is handed over, and a packet more.
/// Only a header of more than that takes more.
const HELD: usize = CHUNK_SIZE + 128 * 1024;

/// Decides about recipients and messages of one connection.
pub trait Handler: Send {
    /// What was agreed on, before anything else is said.
    fn set_agreement(&mut self, agreement: &Agreement) {
        let _ = agreement;
    }

    /// A message begins: its sender was told.
    fn begin_message(&mut self) {}

    /// Whether to accept a recipient; asked only where [`Requirements::answer_recipients`] is set. The
    /// SMTP client waits, and no progress can be told.
    fn check_recipient(
        &mut self,
        partial: PartialTransaction<'_>,
        recipient: &Path,
    ) -> impl Future<Output = RecipientAnswer> + Send {
        let _ = (partial, recipient);
        ready(RecipientAnswer::Accept)
    }

    /// A recipient or a message is refused, because it went beyond a limit.
    fn limit_exceeded(&mut self, queue_id: &str, excess: LimitExceeded) {
        let _ = (queue_id, excess);
    }

    /// A message that is not small needs room for so many bytes more. `false`: there is none, and
    /// it is refused.
    fn reserve_memory(&mut self, bytes: usize) -> impl Future<Output = bool> + Send {
        let _ = bytes;
        ready(true)
    }

    /// A piece of a large message, the first with its whole header; what comes after the last one
    /// is in the [`Transaction`]. Nothing more is read from the MTA meanwhile.
    fn take_chunk(&mut self, piece: Bytes) -> impl Future<Output = ()> + Send;

    /// The message that room or pieces were for is over.
    fn discard_chunks(&mut self);

    /// What becomes of a message. Runs to its end whatever the MTA does.
    fn end_of_message(
        &mut self,
        transaction: Transaction,
    ) -> impl Future<Output = MessageDecision> + Send;
}

/// Why a connection ended otherwise than by the MTA's wish or ours.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// What arrived is no milter packet.
    #[error("the MTA sent no milter packets")]
    Frame(#[from] FrameError),
    /// A packet cannot be read.
    #[error("the MTA sent a packet that cannot be read")]
    Packet(#[from] PacketError),
    /// The packets are in no possible order, or of another time.
    #[error("the MTA did not keep to the protocol")]
    Session(#[from] SessionError),
    /// The connection broke.
    #[error("cannot {doing} the MTA")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// The MTA closed the connection in the middle of something.
    #[error("the MTA closed the connection {state}")]
    EarlyClose {
        /// In the middle of what.
        state: &'static str,
    },
    /// The MTA did not wait for the verdict about a message; the handler had run to its end.
    #[error("{queue_id}: the MTA did not wait for the verdict: {interruption}")]
    Interrupted {
        /// The message, as the MTA calls it.
        queue_id: String,
        /// What it did instead.
        interruption: Interruption,
    },
    /// Who connected is no MTA.
    #[error("no MTA connected: the first bytes are {looks_like}")]
    NotMilter {
        /// What they are.
        looks_like: &'static str,
    },
    /// Who connected did not negotiate.
    #[error("no negotiation came within {} seconds", within.as_secs())]
    NoNegotiation {
        /// How long it might take.
        within: Duration,
    },
    /// A message came, but not to its end.
    #[error("a message did not come to its end within {} seconds", within.as_secs())]
    TooSlow {
        /// How long it might take.
        within: Duration,
    },
    /// Nothing happened for too long.
    #[error("the MTA did not {doing} for {} seconds", after.as_secs())]
    Idle {
        /// What was waited for.
        doing: &'static str,
        /// How long.
        after: Duration,
    },
}

impl ConnectionError {
    /// Whether who connected never showed to be an MTA.
    pub fn is_not_milter(&self) -> bool {
        matches!(
            self,
            ConnectionError::NotMilter { .. } | ConnectionError::NoNegotiation { .. }
        )
    }
}

/// What an MTA did while it was to wait.
#[derive(Debug, thiserror::Error)]
pub enum Interruption {
    /// It closed the connection.
    #[error("it closed the connection")]
    Closed,
    /// It aborted the message or said something else.
    #[error("it went on")]
    SentData,
    /// The connection broke.
    #[error("the connection broke ({0})")]
    Failed(io::Error),
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
        room: SMALL,
    };
    connection
        .run(Session::with_limits(requirements, limits), shutdown)
        .await
}

struct Connection<S, H> {
    stream: S,
    limits: Limits,
    handler: H,
    /// Answers that are not written yet.
    output: BytesMut,
    /// Bytes that there is room for of the message under way.
    room: usize,
}

/// Whether the conversation goes on.
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
            let next = self.take_in(&mut session, &mut frames).await?;
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

    /// Takes in all commands that have arrived.
    async fn take_in(
        &mut self,
        session: &mut Session,
        frames: &mut Frames,
    ) -> Result<Next, ConnectionError> {
        if session.is_greeting()
            && let Some(looks_like) = frames.stranger()
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
                    // A field that is too long is to be answered, as far as that goes.
                    let field = self.limits.header_size.saturating_add(ROOM);
                    frames.set_limit(agreement.packet_limit().max(field));
                    self.handler.set_agreement(&agreement);
                    Response::Negotiate(agreement.chosen(), &[]).encode(&mut self.output);
                }
                NextAction::Recipient(pending) => self.recipient(pending).await,
                NextAction::RefuseRecipient(excess, queue_id)
                | NextAction::RefuseMessage(excess, queue_id) => {
                    self.refuse(&queue_id, excess);
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

    /// Asks for room for what is not small, lets the handler have what is large, and know when it
    /// is over.
    async fn hand_over(&mut self, session: &mut Session) {
        let (held, handed_over) = session.sizes();
        if self.room > SMALL && held + handed_over == 0 {
            self.room = SMALL;
            self.handler.discard_chunks();
        }
        while held > self.room {
            if !self.handler.reserve_memory(HELD).await {
                return session.mark_exceeded(LimitExceeded::Memory);
            }
            self.room += HELD;
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
            let queue_id = named(pending.partial().macros.get("i").unwrap_or_default());
            report(queue_id, &error, &pending.recipient().address);
        }
        if answer == RecipientAnswer::Accept {
            pending.accept();
        }
    }

    /// Refuses a recipient or a message for a limit.
    fn refuse(&mut self, queue_id: &str, excess: LimitExceeded) {
        let queue_id = named(queue_id);
        self.handler.limit_exceeded(queue_id, excess);
        if let Err(error) = RecipientAnswer::Reply(excess.reply()).encode(&mut self.output) {
            report(queue_id, &error, "message");
        }
    }

    /// Has a message decided. `sent_early` says that the MTA has already sent more, which it must not.
    async fn end_of_message(
        &mut self,
        transaction: Transaction,
        agreement: Agreement,
        sent_early: bool,
    ) -> Result<(), ConnectionError> {
        let queue_id = named(transaction.queue_id()).to_owned();
        let (outcome, interruption) = self.decide(transaction, sent_early).await;
        if let Some(interruption) = interruption {
            return Err(ConnectionError::Interrupted {
                queue_id,
                interruption,
            });
        }
        if let Err(error) = outcome.encode(&agreement, &mut self.output) {
            report(&queue_id, &error, "message");
        }
        Ok(())
    }

    /// Runs the handler to its end, with progress meanwhile, and watches whether the MTA waits.
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
            // Every branch is polled along with the work, so that an MTA which does not read cannot
            // hold it up.
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

    /// Writes what is owed.
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
                doing: "take an answer",
                after: self.limits.idle,
            }),
        }
    }
}

/// A queue id to begin a line of the log with.
fn named(queue_id: &str) -> &str {
    if queue_id.is_empty() {
        "(no queue id)"
    } else {
        queue_id
    }
}

/// An outcome that could not be said: the message or recipient comes again, and will fail again
/// until somebody acts.
fn report(queue_id: &str, error: &EditError, subject: &str) {
    tracing::error!(
        "{queue_id}: {subject} deferred, the answer cannot be given to the MTA: {error}"
    );
}
