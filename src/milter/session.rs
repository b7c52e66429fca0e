//! The state machine of one connection.
//!
//! ```text
//!            O             C, H              M                R, T, L          N, B
//!  Greeting ───► Fresh ─────────► Idle ───────────► Envelope ──────► Header ────────► Body
//!                  ▲                ▲                  │                │              │
//!                  └───── K ────────┴──── E, A, H ─────┴────────────────┴──────────────┘
//! ```
//!
//! Unexpected sequences that real MTAs send, according to their sources:
//! - MAIL and HELO may come at any point and start over. Sendmail sends no abort to a filter that
//!   does not answer MAIL, and Postfix sends an EHLO inside a transaction before the abort that
//!   belongs to it.
//! - The client and HELO may be missing: `M` may follow `O`.
//! - Abort may come without a message, even twice.
//! - The header may have no field, its end may not be sent, the body may be empty, and a message
//!   may have no recipient (Postfix adds `always_bcc` recipients without informing filters).
//!
//! A message that exceeds one of the [`Limits`] is read to its end like any other, but not stored.
//!
//! Any other command out of order is a [`SessionError`]. Promises: no I/O and no clock; no data of
//! one message is visible in the next.

use bytes::Bytes;

use super::command::Command;
use super::macros::Macros;
use super::message::Draft;
use super::negotiation::{Agreement, NegotiationError, Requirements, Steps};
use super::strings::Strings;
use super::transaction::{PartialTransaction, Path, Peer, Transaction};
use crate::mail::{LimitExceeded, Limits};

/// The action that a command requires from the connection.
#[derive(Debug)]
pub enum NextAction<'a> {
    /// No response is expected.
    Silent,
    /// Respond with "continue".
    Continue,
    /// Respond with the agreement, and accept larger packets from now on.
    Negotiated(Agreement),
    /// Decide about a recipient, then respond.
    Recipient(PendingRecipient<'a>),
    /// Reject a recipient of the message with this queue ID (may be empty): there are too many.
    RejectRecipient(LimitExceeded, String),
    /// Decide about the message, then respond.
    EndOfMessage(Box<Transaction>, Agreement),
    /// Reject the message with this queue ID.
    RejectMessage(LimitExceeded, String),
    /// Close the connection.
    Quit,
}

/// A recipient to decide about; it is added to the message once it is accepted.
#[derive(Debug)]
pub struct PendingRecipient<'a> {
    connection: &'a Peer,
    helo: &'a str,
    macros: &'a Macros,
    envelope: &'a mut Envelope,
    recipient: Path,
}

impl PendingRecipient<'_> {
    /// Returns the transaction before this recipient.
    pub fn partial(&self) -> PartialTransaction<'_> {
        PartialTransaction {
            connection: self.connection,
            helo: self.helo,
            sender: &self.envelope.sender,
            recipients: &self.envelope.recipients,
            macros: self.macros,
        }
    }

    /// Returns the recipient.
    pub fn recipient(&self) -> &Path {
        &self.recipient
    }

    /// Adds the recipient to the message.
    pub fn accept(self) {
        self.envelope.add(self.recipient);
    }
}

/// The reason why a command cannot be handled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A command out of order.
    #[error("{command} came {state}")]
    OutOfOrder {
        /// The command.
        command: &'static str,
        /// The state of the session, to end a sentence with.
        state: &'static str,
    },
    /// MTA and filter have no common version.
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
}

const BEFORE_NEGOTIATION: &str = "before negotiation";

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    requirements: Requirements,
    limits: Limits,
    state: State,
    /// The number of messages begun.
    message_count: u64,
}

#[derive(Debug)]
enum State {
    /// No command yet.
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
    /// The client may be announced, and has not been.
    Fresh,
    /// Between messages.
    Idle,
    /// After MAIL.
    Envelope(Envelope),
    /// After DATA or a header field.
    Header(Envelope, Draft),
    /// The header is complete.
    Body(Envelope, Draft),
}

#[derive(Debug)]
struct Envelope {
    sender: Path,
    recipients: Vec<Path>,
    /// Memory taken by the recipients, in bytes.
    bytes: usize,
    /// The limit that this message exceeded: nothing more of it is stored.
    exceeded: Option<LimitExceeded>,
}

impl Session {
    /// Creates a session with the default limits.
    pub fn new(requirements: Requirements) -> Session {
        Session::with_limits(requirements, Limits::DEFAULT)
    }

    /// Creates a session with these limits.
    pub fn with_limits(requirements: Requirements, limits: Limits) -> Session {
        Session {
            requirements,
            limits,
            state: State::Greeting,
            message_count: 0,
        }
    }

    /// Whether the negotiation is still to come.
    pub fn is_greeting(&self) -> bool {
        matches!(self.state, State::Greeting)
    }

    /// Returns the number of the message under way.
    pub fn message_under_way(&self) -> Option<u64> {
        (!self.is_between_messages()).then_some(self.message_count)
    }

    /// Returns the next chunk of a large message; called after each command.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        match self.under_way() {
            // The first chunk begins with the whole header.
            Some(Phase::Body(_, draft)) => draft.next_chunk(),
            _ => None,
        }
    }

    /// Returns how many bytes of the message under way are buffered here, and how many were handed
    /// over.
    pub fn sizes(&mut self) -> (usize, usize) {
        match self.under_way() {
            Some(Phase::Header(_, draft) | Phase::Body(_, draft)) => {
                (draft.len() - draft.handed_over(), draft.handed_over())
            }
            _ => (0, 0),
        }
    }

    /// Drops the message under way; it is rejected for this limit once its end arrives.
    pub fn mark_exceeded(&mut self, limit: LimitExceeded) {
        if let Some(Phase::Header(envelope, draft) | Phase::Body(envelope, draft)) =
            self.under_way()
        {
            envelope.mark_exceeded(limit);
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

    /// Returns the state of the session, to end a sentence with.
    pub fn state(&self) -> &'static str {
        match &self.state {
            State::Greeting => BEFORE_NEGOTIATION,
            State::Open(open) => open.phase.name(),
        }
    }

    /// Handles a command. After an error the session cannot be used.
    pub fn handle(&mut self, command: Command<'_>) -> Result<NextAction<'_>, SessionError> {
        if let Command::Mail(_) = command {
            self.message_count += 1;
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
                envelope.write_field(draft, &limits, |draft| draft.field(name, value, whole));
                return Ok(self.response(Steps::SILENT_HEADER));
            }
            Command::Body(chunk) => {
                self.chunk(&command, chunk)?;
                return Ok(self.response(Steps::SILENT_BODY));
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
                    exceeded: None,
                });
                return Ok(self.response(Steps::SILENT_MAIL));
            }
            Command::Data => {
                let Phase::Envelope(_) = &self.phase else {
                    return Err(self.out_of_order(&command));
                };
                self.header(&command)?;
                return Ok(self.response(Steps::SILENT_DATA));
            }
            Command::EndOfHeader => {
                if let Phase::Body(..) = &self.phase {
                    return Err(self.out_of_order(&command));
                }
                self.body(&command)?;
                return Ok(self.response(Steps::SILENT_END_OF_HEADER));
            }
            Command::EndOfMessage(chunk) => return self.end_of_message(&command, chunk),
            Command::Abort => self.drop_message(),
            Command::Connect { hostname, client } => {
                let Phase::Fresh = &self.phase else {
                    return Err(self.out_of_order(&command));
                };
                self.phase = Phase::Idle;
                self.connection = Peer::new(hostname, client);
                return Ok(self.response(Steps::SILENT_CONNECT));
            }
            Command::Helo(name) => {
                self.drop_message();
                self.phase = Phase::Idle;
                self.helo = String::from_utf8_lossy(name).into_owned();
                return Ok(self.response(Steps::SILENT_HELO));
            }
            Command::Unknown(_) => return Ok(self.response(Steps::SILENT_UNKNOWN)),
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
        let silent = self.response(Steps::SILENT_RCPT);
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
                return Ok(NextAction::RejectRecipient(
                    LimitExceeded::Recipients,
                    queue_id,
                ));
            }
            // The MTA expects no response here; the end of the message gets it.
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
        if envelope.exceeded.is_none() {
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
                    exceeded: Some(limit),
                    ..
                },
                _,
            ) => {
                let queue_id = self.macros.get("i").unwrap_or_default().to_owned();
                self.macros.end_message();
                Ok(NextAction::RejectMessage(limit, queue_id))
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

    /// Returns the message, now in its header.
    fn header(
        &mut self,
        command: &Command<'_>,
    ) -> Result<(&mut Envelope, &mut Draft), SessionError> {
        if let Phase::Envelope(_) = &self.phase
            && let Phase::Envelope(envelope) = std::mem::replace(&mut self.phase, Phase::Idle)
        {
            let draft = match envelope.exceeded {
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

    /// Returns the message, now in its body.
    fn body(&mut self, command: &Command<'_>) -> Result<(&mut Envelope, &mut Draft), SessionError> {
        if !matches!(self.phase, Phase::Body(..)) {
            let (envelope, draft) = self.header(command)?;
            if envelope.exceeded.is_none() {
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

    /// Handles a body chunk.
    fn chunk(&mut self, command: &Command<'_>, chunk: &[u8]) -> Result<(), SessionError> {
        let limit = self.limits.message_size;
        let (envelope, draft) = self.body(command)?;
        if envelope.exceeded.is_none() && draft.len() + chunk.len() > limit {
            envelope.mark_exceeded(LimitExceeded::Message);
            *draft = Draft::default();
        }
        if envelope.exceeded.is_none() {
            draft.body(chunk);
        }
        Ok(())
    }

    fn drop_message(&mut self) {
        self.macros.end_message();
        if !matches!(self.phase, Phase::Fresh) {
            self.phase = Phase::Idle;
        }
    }

    /// Returns "continue", unless the negotiation says that this command has no response.
    fn response(&self, silent: Steps) -> NextAction<'static> {
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

    /// Records the limit that the message exceeded, and drops the recipients. The sender is small
    /// and stays.
    fn mark_exceeded(&mut self, limit: LimitExceeded) {
        self.exceeded.get_or_insert(limit);
        self.recipients = Vec::new();
    }

    /// Writes a header field, unless the message exceeded a limit, and checks the limits
    /// afterwards: no field is longer than a packet.
    fn write_field(&mut self, draft: &mut Draft, limits: &Limits, write: impl FnOnce(&mut Draft)) {
        if self.exceeded.is_some() {
            return;
        }
        write(draft);
        let limit = match draft.len() {
            length if length > limits.header_size => LimitExceeded::Header,
            length if length > limits.message_size => LimitExceeded::Message,
            _ => return,
        };
        self.mark_exceeded(limit);
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
