//! The state machine of one connection: what has been said, what may come next, what we owe.
//!
//! ```text
//!            O             C, H              M                R, T, L          N, B
//!  Greeting ───► Fresh ─────────► Idle ───────────► Envelope ──────► Header ────────► Body
//!                  ▲                ▲                  │                │              │
//!                  └───── K ────────┴──── E, A, H ─────┴────────────────┴──────────────┘
//! ```
//!
//! Surprising edges, all of them seen in the sources of real MTAs:
//! - MAIL and HELO may come at any point and begin anew. Sendmail sends no abort to a filter that
//!   does not answer MAIL, and Postfix tells an EHLO inside a transaction before the abort that
//!   belongs to it.
//! - The client and HELO may be missing: `M` may follow `O`.
//! - Abort may come with no message under way, even twice.
//! - The header may have no field, its end may not be told, the body may be empty, and a message
//!   may have no recipient (Postfix adds `always_bcc` recipients without telling filters).
//!
//! A message beyond one of the [`Limits`] is told to its end like any other, but not kept.
//!
//! Everything else out of order is a [`SessionError`]. Promises: no I/O and no clock; nothing said
//! about one message is seen in the next.

use bytes::Bytes;

use super::command::Command;
use super::macros::Macros;
use super::message::Draft;
use super::negotiation::{Agreement, NegotiationError, Requirements, Steps};
use super::strings::Strings;
use super::transaction::{PartialTransaction, Path, Peer, Transaction};
use crate::mail::{LimitExceeded, Limits};

/// What the connection has to do after a command.
#[derive(Debug)]
pub enum NextAction<'a> {
    /// Nothing: no answer is expected.
    Silent,
    /// Say "continue".
    Continue,
    /// Say what was chosen, and accept longer packets from now on.
    Negotiated(Agreement),
    /// Decide about a recipient, then answer.
    Recipient(PendingRecipient<'a>),
    /// Refuse a recipient of the message with this name (it may have none yet): there are too many.
    RefuseRecipient(LimitExceeded, String),
    /// Decide about the message, then answer.
    EndOfMessage(Box<Transaction>, Agreement),
    /// Refuse the message, which the MTA calls by this name.
    RefuseMessage(LimitExceeded, String),
    /// Close.
    Quit,
}

/// A recipient to decide about; it counts only once it is accepted.
#[derive(Debug)]
pub struct PendingRecipient<'a> {
    connection: &'a Peer,
    helo: &'a str,
    macros: &'a Macros,
    envelope: &'a mut Envelope,
    recipient: Path,
}

impl PendingRecipient<'_> {
    /// What was told before.
    pub fn partial(&self) -> PartialTransaction<'_> {
        PartialTransaction {
            connection: self.connection,
            helo: self.helo,
            sender: &self.envelope.sender,
            recipients: &self.envelope.recipients,
            macros: self.macros,
        }
    }

    /// The recipient asked about.
    pub fn recipient(&self) -> &Path {
        &self.recipient
    }

    /// The recipient is one of the message's.
    pub fn accept(self) {
        self.envelope.add(self.recipient);
    }
}

/// The MTA said what cannot be said here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A command out of order.
    #[error("{command} came {state}")]
    OutOfOrder {
        /// What came.
        command: &'static str,
        /// When.
        state: &'static str,
    },
    /// MTA and filter have no version in common.
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
}

const BEFORE_NEGOTIATION: &str = "before negotiation";

/// One connection.
#[derive(Debug)]
pub struct Session {
    requirements: Requirements,
    limits: Limits,
    state: State,
    /// How many messages have begun.
    begun: u64,
}

#[derive(Debug)]
enum State {
    /// Nothing was said yet.
    Greeting,
    /// Negotiated.
    Open(Box<Open>),
}

#[derive(Debug)]
struct Open {
    agreement: Agreement,
    limits: Limits,
    connection: Peer,
    helo: String,
    macros: Macros,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The client may be told, and has not been.
    Fresh,
    /// Between messages.
    Idle,
    /// MAIL came.
    Envelope(Envelope),
    /// DATA or a header field came.
    Header(Envelope, Draft),
    /// The header is complete.
    Body(Envelope, Draft),
}

#[derive(Debug)]
struct Envelope {
    sender: Path,
    recipients: Vec<Path>,
    /// Bytes of the recipients.
    bytes: usize,
    /// The limit that this message went beyond: nothing more of it is kept.
    excess: Option<LimitExceeded>,
}

impl Session {
    /// A connection on which nothing was said yet, with the usual limits.
    pub fn new(requirements: Requirements) -> Session {
        Session::with_limits(requirements, Limits::DEFAULT)
    }

    /// A connection on which nothing was said yet, with these limits.
    pub fn with_limits(requirements: Requirements, limits: Limits) -> Session {
        Session {
            requirements,
            limits,
            state: State::Greeting,
            begun: 0,
        }
    }

    /// Whether nothing was agreed on yet.
    pub fn is_greeting(&self) -> bool {
        matches!(self.state, State::Greeting)
    }

    /// The number of the message under way.
    pub fn message_under_way(&self) -> Option<u64> {
        (!self.is_between_messages()).then_some(self.begun)
    }

    /// The next piece of a large message, to be handed over; to be asked after each command.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        match self.under_way() {
            // A piece begins with the whole header.
            Some(Phase::Body(_, draft)) => draft.next_chunk(),
            _ => None,
        }
    }

    /// Bytes of the message under way that are held here, and that were handed over.
    pub fn sizes(&mut self) -> (usize, usize) {
        match self.under_way() {
            Some(Phase::Header(_, draft) | Phase::Body(_, draft)) => {
                (draft.len() - draft.handed_over(), draft.handed_over())
            }
            _ => (0, 0),
        }
    }

    /// There is no room for the message under way: it is refused when it is told to its end.
    pub fn mark_exceeded(&mut self, excess: LimitExceeded) {
        if let Some(Phase::Header(envelope, draft) | Phase::Body(envelope, draft)) =
            self.under_way()
        {
            envelope.mark_exceeded(excess);
            *draft = Draft::default();
        }
    }

    fn under_way(&mut self) -> Option<&mut Phase> {
        match &mut self.state {
            State::Open(open) => Some(&mut open.phase),
            State::Greeting => None,
        }
    }

    /// Whether no message is under way, so that the connection may be closed without loss.
    pub fn is_between_messages(&self) -> bool {
        match &self.state {
            State::Greeting => true,
            State::Open(open) => matches!(open.phase, Phase::Fresh | Phase::Idle),
        }
    }

    /// Where the conversation stands, to end a sentence with.
    pub fn state(&self) -> &'static str {
        match &self.state {
            State::Greeting => BEFORE_NEGOTIATION,
            State::Open(open) => open.phase.name(),
        }
    }

    /// Takes in a command. After an error the session is of no more use.
    pub fn handle(&mut self, command: Command<'_>) -> Result<NextAction<'_>, SessionError> {
        if let Command::Mail(_) = command {
            self.begun += 1;
        }
        match &mut self.state {
            State::Open(open) => open.handle(command),
            greeting => match command {
                Command::Negotiate(offer) => {
                    let agreement = self.requirements.negotiate(offer)?;
                    *greeting = State::Open(Box::new(Open::new(agreement, self.limits)));
                    Ok(NextAction::Negotiated(agreement))
                }
                Command::Quit => Ok(NextAction::Quit),
                other => Err(SessionError::OutOfOrder {
                    command: other.name(),
                    state: BEFORE_NEGOTIATION,
                }),
            },
        }
    }
}

impl Open {
    fn new(agreement: Agreement, limits: Limits) -> Open {
        Open {
            agreement,
            limits,
            connection: Peer::default(),
            helo: String::new(),
            macros: Macros::default(),
            phase: Phase::Fresh,
        }
    }

    fn handle(&mut self, command: Command<'_>) -> Result<NextAction<'_>, SessionError> {
        match command {
            Command::Macros { stage, pairs } => self.macros.set(stage, pairs),
            Command::Header { name, value } => {
                let (whole, limits) = (self.agreement.has(Steps::LEADING_SPACE), self.limits);
                let (envelope, draft) = self.header(&command)?;
                envelope.keep_field(draft, &limits, |draft| draft.field(name, value, whole));
                return Ok(self.answer(Steps::SILENT_HEADER));
            }
            Command::Body(chunk) => {
                self.chunk(&command, chunk)?;
                return Ok(self.answer(Steps::SILENT_BODY));
            }
            Command::Rcpt(path) => return self.rcpt(&command, path),
            Command::Mail(path) => {
                self.macros.begin_message();
                let sender = Path {
                    resolved: self.macros.get("mail_addr").unwrap_or_default().to_owned(),
                    ..path.into()
                };
                self.phase = Phase::Envelope(Envelope {
                    sender,
                    recipients: Vec::new(),
                    bytes: 0,
                    excess: None,
                });
                return Ok(self.answer(Steps::SILENT_MAIL));
            }
            Command::Data => {
                let Phase::Envelope(_) = &self.phase else {
                    return Err(self.out_of_order(&command));
                };
                self.header(&command)?;
                return Ok(self.answer(Steps::SILENT_DATA));
            }
            Command::EndOfHeader => {
                if let Phase::Body(..) = &self.phase {
                    return Err(self.out_of_order(&command));
                }
                self.body(&command)?;
                return Ok(self.answer(Steps::SILENT_END_OF_HEADER));
            }
            Command::EndOfMessage(chunk) => return self.end_of_message(&command, chunk),
            Command::Abort => self.forget_message(),
            Command::Connect { hostname, client } => {
                let Phase::Fresh = &self.phase else {
                    return Err(self.out_of_order(&command));
                };
                self.phase = Phase::Idle;
                self.connection = Peer::new(hostname, client);
                return Ok(self.answer(Steps::SILENT_CONNECT));
            }
            Command::Helo(name) => {
                self.forget_message();
                self.phase = Phase::Idle;
                self.helo = String::from_utf8_lossy(name).into_owned();
                return Ok(self.answer(Steps::SILENT_HELO));
            }
            Command::Unknown(_) => return Ok(self.answer(Steps::SILENT_UNKNOWN)),
            Command::QuitNewConnection => {
                self.connection = Peer::default();
                self.helo.clear();
                self.macros.end_connection();
                self.phase = Phase::Fresh;
            }
            Command::Quit => return Ok(NextAction::Quit),
            Command::Negotiate(_) => return Err(self.out_of_order(&command)),
        }
        Ok(NextAction::Silent)
    }

    fn rcpt(
        &mut self,
        command: &Command<'_>,
        path: Strings<'_>,
    ) -> Result<NextAction<'_>, SessionError> {
        let silent = self.answer(Steps::SILENT_RCPT);
        let recipient = Path {
            resolved: self.macros.get("rcpt_addr").unwrap_or_default().to_owned(),
            ..path.into()
        };
        let envelope = match &mut self.phase {
            Phase::Envelope(envelope) => envelope,
            phase => return Err(phase.out_of_order(command)),
        };
        let (count, bytes) = (envelope.recipients.len(), envelope.bytes);
        if (self.limits).is_exceeded_by_recipients(count + 1, bytes + recipient.bytes()) {
            if self.agreement.answers_recipients() {
                let queue_id = self.macros.get("i").unwrap_or_default().to_owned();
                return Ok(NextAction::RefuseRecipient(
                    LimitExceeded::Recipients,
                    queue_id,
                ));
            }
            // Nobody waits for an answer here; the end of the message gets it.
            envelope.mark_exceeded(LimitExceeded::Recipients);
            return Ok(silent);
        }
        if self.agreement.answers_recipients() {
            return Ok(NextAction::Recipient(PendingRecipient {
                connection: &self.connection,
                helo: &self.helo,
                macros: &self.macros,
                envelope,
                recipient,
            }));
        }
        if envelope.excess.is_none() {
            envelope.add(recipient);
        }
        Ok(silent)
    }

    fn end_of_message(
        &mut self,
        command: &Command<'_>,
        chunk: &[u8],
    ) -> Result<NextAction<'_>, SessionError> {
        self.chunk(command, chunk)?;
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Body(
                Envelope {
                    excess: Some(excess),
                    ..
                },
                _,
            ) => {
                let queue_id = self.macros.get("i").unwrap_or_default().to_owned();
                self.macros.end_message();
                Ok(NextAction::RefuseMessage(excess, queue_id))
            }
            Phase::Body(envelope, draft) => {
                let transaction = Transaction {
                    connection: self.connection.clone(),
                    helo: self.helo.clone(),
                    sender: envelope.sender,
                    recipients: envelope.recipients,
                    macros: self.macros.take_for_message(),
                    handed_over: draft.handed_over(),
                    header: draft.header(),
                    message: draft.finish(),
                };
                Ok(NextAction::EndOfMessage(
                    Box::new(transaction),
                    self.agreement,
                ))
            }
            _ => Err(self.out_of_order(command)),
        }
    }

    /// The message, which is now in its header.
    fn header(
        &mut self,
        command: &Command<'_>,
    ) -> Result<(&mut Envelope, &mut Draft), SessionError> {
        if let Phase::Envelope(_) = &self.phase
            && let Phase::Envelope(envelope) = std::mem::replace(&mut self.phase, Phase::Idle)
        {
            let draft = match envelope.excess {
                None => Draft::new(envelope.sender.size()),
                Some(_) => Draft::default(),
            };
            self.phase = Phase::Header(envelope, draft);
        }
        match &mut self.phase {
            Phase::Header(envelope, draft) => Ok((envelope, draft)),
            phase => Err(phase.out_of_order(command)),
        }
    }

    /// The message, which is now in its body.
    fn body(&mut self, command: &Command<'_>) -> Result<(&mut Envelope, &mut Draft), SessionError> {
        if !matches!(self.phase, Phase::Body(..)) {
            let (envelope, draft) = self.header(command)?;
            if envelope.excess.is_none() {
                draft.end_of_header();
            }
            if let Phase::Header(envelope, draft) = std::mem::replace(&mut self.phase, Phase::Idle)
            {
                self.phase = Phase::Body(envelope, draft);
            }
        }
        match &mut self.phase {
            Phase::Body(envelope, draft) => Ok((envelope, draft)),
            phase => Err(phase.out_of_order(command)),
        }
    }

    /// Takes in a piece of the body.
    fn chunk(&mut self, command: &Command<'_>, chunk: &[u8]) -> Result<(), SessionError> {
        let most = self.limits.message_size;
        let (envelope, draft) = self.body(command)?;
        if envelope.excess.is_none() && draft.len() + chunk.len() > most {
            envelope.mark_exceeded(LimitExceeded::Message);
            *draft = Draft::default();
        }
        if envelope.excess.is_none() {
            draft.body(chunk);
        }
        Ok(())
    }

    fn forget_message(&mut self) {
        self.macros.end_message();
        if !matches!(self.phase, Phase::Fresh) {
            self.phase = Phase::Idle;
        }
    }

    /// "Continue", unless it was agreed that this command has no answer.
    fn answer(&self, silent: Steps) -> NextAction<'static> {
        if self.agreement.has(silent) {
            NextAction::Silent
        } else {
            NextAction::Continue
        }
    }

    fn out_of_order(&self, command: &Command<'_>) -> SessionError {
        self.phase.out_of_order(command)
    }
}

impl Envelope {
    fn add(&mut self, recipient: Path) {
        self.bytes += recipient.bytes();
        self.recipients.push(recipient);
    }

    /// The message is beyond a limit: what is held of it is of no use any more. Its sender stays,
    /// which is small.
    fn mark_exceeded(&mut self, excess: LimitExceeded) {
        self.excess.get_or_insert(excess);
        self.recipients = Vec::new();
    }

    /// Has a header field written, unless the message is beyond a limit, and sees whether it is
    /// then. No field is longer than a packet, so that looking afterwards is early enough.
    fn keep_field(&mut self, draft: &mut Draft, limits: &Limits, write: impl FnOnce(&mut Draft)) {
        if self.excess.is_some() {
            return;
        }
        write(draft);
        let excess = match draft.len() {
            length if length > limits.header_size => LimitExceeded::Header,
            length if length > limits.message_size => LimitExceeded::Message,
            _ => return,
        };
        self.mark_exceeded(excess);
        *draft = Draft::default();
    }
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Phase::Fresh => "after negotiation",
            Phase::Idle => "between messages",
            Phase::Envelope(_) => "in the envelope",
            Phase::Header(..) => "in the header",
            Phase::Body(..) => "in the body",
        }
    }

    fn out_of_order(&self, command: &Command<'_>) -> SessionError {
        SessionError::OutOfOrder {
            command: command.name(),
            state: self.name(),
        }
    }
}
