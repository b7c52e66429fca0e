//! Which packet may come when, and what a message looks like at its end. Pure.
//!
//! Promises: the message is rebuilt as the MTA received it; a recipient that was refused is not in it; an abort
//! leaves nothing behind. Fails by [`ProtocolError`]; the connection is over then.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{Actions, Command, Response, Steps};

/// The version that is spoken; an MTA may be newer.
const VERSION: u32 = 6;
/// The oldest that is understood (Sendmail 8.12).
const OLDEST: u32 = 2;

/// What a filter needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// Changes it may ask for.
    pub actions: Actions,
    /// Whether it judges each recipient, which costs a round trip for each.
    pub answer_recipients: bool,
}

/// The SMTP client, as the MTA sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its host name; `localhost` for mail that was submitted without SMTP.
    pub hostname: String,
    /// Its address; `None` for a Unix socket or an unknown family.
    pub ip: Option<IpAddr>,
    /// Its port; 0 where there is none.
    pub port: u16,
}

/// A path of MAIL or RCPT as the client gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    /// With its angle brackets, if it came with them.
    pub address: String,
    /// ESMTP parameters.
    pub params: Vec<String>,
}

/// One message, or as much of it as is known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The client.
    pub peer: Peer,
    /// Its HELO name.
    pub helo: String,
    /// The reverse path.
    pub sender: Path,
    /// The recipients that nobody refused.
    pub recipients: Vec<Path>,
    /// What the MTA said about all of it.
    pub macros: Macros,
    /// Header, empty line and body; empty until the end of the message.
    pub message: Bytes,
}

/// Macros of the steps so far. Names are kept without braces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Macros(Vec<(u8, Vec<(String, String)>)>);

/// Steps from the last to the first: a macro of a later step hides one of an earlier step.
const STEPS: &[u8] = b"EBNLTRMHC";
/// Steps whose macros live as long as the SMTP session; the others end with the message.
const SESSION_STEPS: &[u8] = b"HC";

impl Macros {
    /// The value of a macro, its name given without braces.
    pub fn get(&self, name: &str) -> Option<&str> {
        STEPS.iter().find_map(|step| {
            let (_, pairs) = self.0.iter().find(|(known, _)| known == step)?;
            pairs
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
        })
    }

    fn set(&mut self, step: u8, pairs: Vec<(Bytes, Bytes)>) {
        let pairs: Vec<(String, String)> = pairs
            .into_iter()
            .map(|(name, value)| {
                (
                    lossy(&name).trim_matches(['{', '}']).to_owned(),
                    lossy(&value),
                )
            })
            .collect();
        self.0.retain(|(known, _)| *known != step);
        self.0.push((step, pairs));
    }

    fn forget_message(&mut self) {
        self.0.retain(|(step, _)| SESSION_STEPS.contains(step));
    }
}

/// What is to be done about a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Quiet,
    /// This is the answer.
    Answer(Response),
    /// The last path of [`Session::transaction`] wants to be a recipient; answer it, and call
    /// [`Session::refuse_recipient`] where the answer is no.
    Recipient,
    /// The message is whole; its final answer ends it.
    EndOfMessage(Box<Transaction>),
    /// The MTA has said goodbye.
    Close,
}

/// What no MTA says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A command at the wrong time.
    #[error("{command} came {when}")]
    Order {
        /// Its name.
        command: &'static str,
        /// Where the conversation stood.
        when: &'static str,
    },
    /// Too old a protocol.
    #[error("the MTA speaks milter version {0}; 2 to 6 are understood")]
    Version(u32),
}

/// Where the conversation stands.
#[derive(Debug)]
enum Phase {
    /// Nothing was said yet.
    New,
    /// Between messages.
    Idle,
    /// MAIL was given, and recipients may follow.
    Envelope,
    /// The header has begun.
    Header(BytesMut),
    /// The body has begun.
    Body(BytesMut),
}

/// The filter's side of one connection.
#[derive(Debug)]
pub struct Session {
    wants: Wants,
    actions: Actions,
    steps: Steps,
    phase: Phase,
    connected: bool,
    transaction: Transaction,
}

impl Session {
    /// A conversation that has not begun.
    pub fn new(wants: Wants) -> Session {
        Session {
            wants,
            actions: Actions::default(),
            steps: Steps::default(),
            phase: Phase::New,
            connected: false,
            transaction: Transaction::default(),
        }
    }

    /// Whether no message is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Idle)
    }

    /// The changes that were agreed on.
    pub fn actions(&self) -> Actions {
        self.actions
    }

    /// What is known of the message under way.
    pub fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// Takes the last recipient away again.
    pub fn refuse_recipient(&mut self) {
        self.transaction.recipients.pop();
    }

    /// Takes the next command.
    pub fn receive(&mut self, command: Command) -> Result<Step, ProtocolError> {
        if let (Phase::New, false) = (
            &self.phase,
            matches!(command, Command::Negotiate { .. } | Command::Quit),
        ) {
            return Err(self.out_of_order(&command));
        }
        match command {
            Command::Negotiate {
                version,
                actions,
                steps,
            } => self.negotiate(version, actions, steps),
            Command::Macros { step, pairs } => {
                self.transaction.macros.set(step, pairs);
                Ok(Step::Quiet)
            }
            Command::Abort => {
                self.end_message();
                Ok(Step::Quiet)
            }
            Command::QuitNewConnection => {
                self.end_message();
                self.connected = false;
                self.transaction = Transaction::default();
                Ok(Step::Quiet)
            }
            Command::Quit => Ok(Step::Close),
            Command::Unknown(_) if !matches!(self.phase, Phase::Header(_) | Phase::Body(_)) => {
                Ok(self.go_on(Steps::SILENT_UNKNOWN))
            }
            Command::Connect { .. } | Command::Helo(_) | Command::Mail(_) if self.is_idle() => {
                self.open(command)
            }
            Command::Rcpt(words) if matches!(self.phase, Phase::Envelope) => {
                self.transaction.recipients.push(path(words));
                if self.steps.has(Steps::SILENT_RCPT) {
                    Ok(Step::Quiet)
                } else if self.wants.answer_recipients {
                    Ok(Step::Recipient)
                } else {
                    Ok(Step::Answer(Response::Continue))
                }
            }
            Command::Data if matches!(self.phase, Phase::Envelope) => {
                self.phase = Phase::Header(BytesMut::new());
                Ok(self.go_on(Steps::SILENT_DATA))
            }
            content => self.content(content),
        }
    }

    fn negotiate(
        &mut self,
        version: u32,
        actions: Actions,
        offered: Steps,
    ) -> Result<Step, ProtocolError> {
        if !self.is_idle() {
            return Err(ProtocolError::Order {
                command: "a negotiation",
                when: "within a message",
            });
        }
        if version < OLDEST {
            return Err(ProtocolError::Version(version));
        }
        let mut steps = Steps::SILENT_CONNECT
            .and(Steps::SILENT_HELO)
            .and(Steps::SILENT_MAIL)
            .and(Steps::SILENT_DATA)
            .and(Steps::SILENT_UNKNOWN)
            .and(Steps::SILENT_HEADER)
            .and(Steps::SILENT_END_OF_HEADER)
            .and(Steps::SILENT_BODY)
            .and(Steps::LEADING_SPACE)
            // Neither tells us anything; DATA comes anyway as the first header field.
            .and(Steps::NO_UNKNOWN)
            .and(Steps::NO_DATA);
        if !self.wants.answer_recipients {
            steps = steps.and(Steps::SILENT_RCPT);
        }
        let size = if offered.has(Steps::HUGE) {
            Steps::HUGE
        } else {
            Steps::LARGE
        };
        self.steps = steps.and(size).common(offered);
        self.actions = Actions(self.wants.actions.0 & actions.0);
        self.phase = Phase::Idle;
        Ok(Step::Answer(Response::Negotiate {
            version: version.min(VERSION),
            actions: self.actions,
            steps: self.steps,
        }))
    }

    /// Connection, HELO and MAIL, each of which may be missing but MAIL.
    fn open(&mut self, command: Command) -> Result<Step, ProtocolError> {
        match command {
            Command::Connect { .. } if self.connected => Err(self.out_of_order(&command)),
            Command::Connect {
                hostname,
                family,
                port,
                address,
            } => {
                self.connected = true;
                self.transaction.peer = peer(&hostname, family, port, &address);
                Ok(self.go_on(Steps::SILENT_CONNECT))
            }
            // A second one follows STARTTLS.
            Command::Helo(name) => {
                self.transaction.helo = lossy(&name);
                Ok(self.go_on(Steps::SILENT_HELO))
            }
            Command::Mail(words) => {
                self.transaction.sender = path(words);
                self.phase = Phase::Envelope;
                Ok(self.go_on(Steps::SILENT_MAIL))
            }
            other => Err(self.out_of_order(&other)),
        }
    }

    /// Header fields, body and end. An MTA leaves out what a message does not have.
    fn content(&mut self, command: Command) -> Result<Step, ProtocolError> {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        let (mut bytes, in_body) = match phase {
            Phase::Envelope => (BytesMut::new(), false),
            Phase::Header(bytes) => (bytes, false),
            Phase::Body(bytes) => (bytes, true),
            other => {
                self.phase = other;
                return Err(self.out_of_order(&command));
            }
        };
        match command {
            Command::Header { name, value } if !in_body => {
                self.add_field(&mut bytes, &name, &value);
                self.phase = Phase::Header(bytes);
                Ok(self.go_on(Steps::SILENT_HEADER))
            }
            Command::EndOfHeader if !in_body => {
                bytes.put_slice(b"\r\n");
                self.phase = Phase::Body(bytes);
                Ok(self.go_on(Steps::SILENT_END_OF_HEADER))
            }
            Command::Body(chunk) => {
                if !in_body {
                    bytes.put_slice(b"\r\n");
                }
                bytes.put_slice(&chunk);
                self.phase = Phase::Body(bytes);
                Ok(self.go_on(Steps::SILENT_BODY))
            }
            Command::EndOfMessage(chunk) => {
                if !in_body && !chunk.is_empty() {
                    bytes.put_slice(b"\r\n");
                }
                bytes.put_slice(&chunk);
                let whole = Transaction {
                    message: bytes.freeze(),
                    ..self.transaction.clone()
                };
                self.end_message();
                Ok(Step::EndOfMessage(Box::new(whole)))
            }
            other => Err(self.out_of_order(&other)),
        }
    }

    /// The field as it came: the protocol sends its line breaks as LF.
    fn add_field(&self, bytes: &mut BytesMut, name: &[u8], value: &[u8]) {
        bytes.reserve(name.len() + value.len() + 4);
        bytes.put_slice(name);
        bytes.put_u8(b':');
        if !self.steps.has(Steps::LEADING_SPACE) && !value.is_empty() {
            // The MTA took one space away.
            bytes.put_u8(b' ');
        }
        let mut start = 0;
        for lf in memchr::memchr_iter(b'\n', value) {
            bytes.put_slice(&value[start..lf]);
            if !value[..lf].ends_with(b"\r") {
                bytes.put_u8(b'\r');
            }
            start = lf;
        }
        bytes.put_slice(&value[start..]);
        bytes.put_slice(b"\r\n");
    }

    fn end_message(&mut self) {
        self.phase = Phase::Idle;
        self.transaction.sender = Path::default();
        self.transaction.recipients.clear();
        self.transaction.macros.forget_message();
    }

    fn go_on(&self, silent: Steps) -> Step {
        if self.steps.has(silent) {
            Step::Quiet
        } else {
            Step::Answer(Response::Continue)
        }
    }

    fn out_of_order(&self, command: &Command) -> ProtocolError {
        ProtocolError::Order {
            command: match command {
                Command::Negotiate { .. } => "a negotiation",
                Command::Macros { .. } => "a macro packet",
                Command::Connect { .. } => "a connection",
                Command::Helo(_) => "HELO",
                Command::Mail(_) => "MAIL",
                Command::Rcpt(_) => "RCPT",
                Command::Data => "DATA",
                Command::Unknown(_) => "an unknown SMTP command",
                Command::Header { .. } => "a header field",
                Command::EndOfHeader => "the end of a header",
                Command::Body(_) => "a piece of a body",
                Command::EndOfMessage(_) => "the end of a message",
                Command::Abort => "an abort",
                Command::Quit | Command::QuitNewConnection => "a quit",
            },
            when: match self.phase {
                Phase::New => "before the negotiation",
                Phase::Idle if self.connected => "between messages",
                Phase::Idle => "before a connection or between messages",
                Phase::Envelope => "within an envelope",
                Phase::Header(_) => "within a header",
                Phase::Body(_) => "within a body",
            },
        }
    }
}

fn peer(hostname: &[u8], family: u8, port: u16, address: &[u8]) -> Peer {
    let text = lossy(address);
    let ip = match family {
        b'4' => text.parse().ok(),
        // Sendmail writes "IPv6:" in front.
        b'6' => text.trim_start_matches("IPv6:").parse().ok(),
        _ => None,
    };
    Peer {
        hostname: lossy(hostname),
        ip,
        port,
    }
}

fn path(words: Vec<Bytes>) -> Path {
    let mut words = words.iter().map(|word| lossy(word));
    Path {
        address: words.next().unwrap_or_default(),
        params: words.filter(|word| !word.is_empty()).collect(),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
