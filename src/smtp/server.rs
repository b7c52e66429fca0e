//! The server side of an SMTP session: bytes in, events out. The caller sends the replies.

use bytes::{Bytes, BytesMut};

use super::command::Command;
use super::data::{BareLineBreaks, DataDecoder};
use super::lines::Lines;

/// Longest command line, with CRLF. RFC 5321 section 4.5.3.1.4 requires 512, extensions more.
const LONGEST_LINE: usize = 4096;

/// A message as received from a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The name of EHLO or HELO.
    pub helo: String,
    /// The reverse path without brackets; empty for the null one.
    pub sender: String,
    /// ESMTP parameters of MAIL.
    pub sender_params: Vec<String>,
    /// Forward paths without brackets, and their parameters.
    pub recipients: Vec<(String, Vec<String>)>,
    /// Header and body, decoded, every line with its CRLF.
    pub data: Bytes,
}

/// An event of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// EHLO (true) or HELO.
    Hello(bool),
    /// MAIL with this path; accept it with [`ServerSession::accept_sender`].
    Mail(String, Vec<String>),
    /// RCPT with this path; accept it with [`ServerSession::accept_recipient`].
    Rcpt(String, Vec<String>),
    /// DATA after at least one recipient; the reply is 354.
    Data,
    /// A whole message.
    Message(Box<ReceivedMessage>),
    /// RSET.
    Reset,
    /// NOOP, VRFY or HELP; the reply is 250 or 252.
    Idle,
    /// QUIT.
    Quit,
    /// A command out of sequence.
    BadSequence,
    /// An unknown command, or one with an invalid argument.
    Syntax,
}

/// The state of one SMTP session.
#[derive(Debug)]
pub struct ServerSession {
    lines: Lines,
    /// The message that is being received.
    data: Option<(DataDecoder, BytesMut)>,
    has_sender: bool,
    transaction: ReceivedMessage,
}

impl Default for ServerSession {
    fn default() -> ServerSession {
        ServerSession::new()
    }
}

impl ServerSession {
    /// Creates a session before the first command.
    pub fn new() -> ServerSession {
        ServerSession {
            lines: Lines::new(LONGEST_LINE),
            data: None,
            has_sender: false,
            transaction: ReceivedMessage::default(),
        }
    }

    /// Adds bytes from the client.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.lines.feed(bytes);
    }

    /// Returns the next event; `None` if more input is needed. Reply to each before taking the
    /// next.
    pub fn next_event(&mut self) -> Option<Event> {
        if self.data.is_some() {
            return self.message();
        }
        let line = self.lines.next_line()?;
        Some(line.map_or(Event::Syntax, |line| self.command(&line)))
    }

    /// Accepts the sender.
    pub fn accept_sender(&mut self, path: String, params: Vec<String>) {
        self.has_sender = true;
        self.transaction.sender = path;
        self.transaction.sender_params = params;
    }

    /// Accepts a recipient.
    pub fn accept_recipient(&mut self, path: String, params: Vec<String>) {
        self.transaction.recipients.push((path, params));
    }

    fn command(&mut self, line: &[u8]) -> Event {
        match Command::parse(line) {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::Mail { .. } if self.has_sender => Event::BadSequence,
            Command::Mail { path, params } => Event::Mail(path, params),
            Command::Rcpt { .. } if !self.has_sender => Event::BadSequence,
            Command::Rcpt { path, params } => Event::Rcpt(path, params),
            Command::Data if self.transaction.recipients.is_empty() => Event::BadSequence,
            Command::Data => {
                // The content is stored unchanged.
                self.data = Some((DataDecoder::new(BareLineBreaks::Reject), BytesMut::new()));
                Event::Data
            }
            Command::Rset => {
                self.reset();
                Event::Reset
            }
            Command::Noop | Command::Vrfy | Command::Help => Event::Idle,
            Command::Quit => Event::Quit,
            _ => Event::Syntax,
        }
    }

    fn hello(&mut self, name: String, extended: bool) -> Event {
        self.reset();
        self.transaction.helo = name;
        Event::Hello(extended)
    }

    fn message(&mut self) -> Option<Event> {
        let (decoder, data) = self.data.as_mut()?;
        if !decoder.decode(self.lines.buffer_mut(), data) {
            return None;
        }
        let (_, data) = self.data.take()?;
        let message = ReceivedMessage {
            data: data.freeze(),
            ..self.transaction.clone()
        };
        self.reset();
        Some(Event::Message(Box::new(message)))
    }

    fn reset(&mut self) {
        self.has_sender = false;
        let helo = std::mem::take(&mut self.transaction.helo);
        self.transaction = ReceivedMessage {
            helo,
            ..ReceivedMessage::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a server that accepts everything, and returns the messages.
    fn messages(wire: &[u8], step: usize) -> Vec<ReceivedMessage> {
        let (mut session, mut messages) = (ServerSession::new(), Vec::new());
        for piece in wire.chunks(step) {
            session.feed(piece);
            while let Some(event) = session.next_event() {
                match event {
                    Event::Mail(path, params) => session.accept_sender(path, params),
                    Event::Rcpt(path, params) => session.accept_recipient(path, params),
                    Event::Message(message) => messages.push(*message),
                    _ => {}
                }
            }
        }
        messages
    }

    #[test]
    fn messages_are_exact_in_chunks_of_any_size() {
        let wire = b"EHLO c\r\nMAIL FROM:<a@b> SIZE=3\r\nRCPT TO:<\"x>y\"@d> NOTIFY=NEVER\r\nDATA\r\n\
            ..one\r\n.\n.\r.\r\n..\r\nend\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<e@f>\r\nDATA\r\n.\r\nQUIT\r\n";
        for step in 1..wire.len() {
            let found = messages(wire, step);
            assert_eq!(found.len(), 2, "in pieces of {step}");
            assert_eq!(found[0].data, &b".one\r\n\n.\r.\r\n.\r\nend\r\n"[..]);
            assert_eq!(found[0].sender_params, ["SIZE=3"]);
            assert_eq!(
                found[0].recipients,
                [("\"x>y\"@d".to_owned(), vec!["NOTIFY=NEVER".to_owned()])]
            );
            assert_eq!((found[1].sender.as_str(), found[1].data.len()), ("", 0));
        }
    }

    #[test]
    fn a_bare_line_feed_ends_nothing() {
        let wire = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\n.\nMAIL FROM:<evil@b>\r\n\r.\r\n.\r\n";
        let found = messages(wire, 7);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].sender, "a@b");
    }

    #[test]
    fn commands_out_of_sequence_are_rejected() {
        let mut session = ServerSession::new();
        session.feed(
            b"RCPT TO:<a@b>\r\nDATA\r\nMAIL TO:<a@b>\r\nMAIL FROM:<a@b\r\nNONSENSE\r\nQUIT\r\n",
        );
        let events: Vec<Event> = std::iter::from_fn(|| session.next_event()).collect();
        let (bad, syntax) = (Event::BadSequence, Event::Syntax);
        assert_eq!(
            events,
            [
                bad.clone(),
                bad,
                syntax.clone(),
                syntax.clone(),
                syntax,
                Event::Quit
            ]
        );
    }

    #[test]
    fn an_endless_line_is_not_buffered() {
        let mut session = ServerSession::new();
        for _ in 0..100 {
            session.feed(&[b'x'; 1000]);
            while session.next_event().is_some() {}
            assert!(session.lines.buffer_mut().len() <= LONGEST_LINE + 1000);
        }
    }
}
