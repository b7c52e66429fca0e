//! The receiving dialogue: bytes in, events out. Whoever drives it answers each event.

use bytes::{Buf, Bytes, BytesMut};

/// Longest command line, CRLF included. RFC 5321 section 4.5.3.1.4 asks for 512, extensions for more.
const LONGEST_LINE: usize = 4096;

/// A message as a client handed it over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// The name of EHLO or HELO.
    pub helo: String,
    /// The reverse path without brackets; empty for the null one.
    pub sender: String,
    /// ESMTP parameters of MAIL.
    pub sender_params: Vec<String>,
    /// Forward paths without brackets, and their parameters.
    pub recipients: Vec<(String, Vec<String>)>,
    /// Header and body, unstuffed, every line with its CRLF.
    pub data: Bytes,
}

/// What the client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// EHLO (true) or HELO.
    Hello(bool),
    /// MAIL with this path; answer with [`Dialogue::sender`].
    Mail(String, Vec<String>),
    /// RCPT with this path; answer with [`Dialogue::recipient`].
    Rcpt(String, Vec<String>),
    /// DATA after at least one recipient; 354 is the answer.
    Data,
    /// A whole message.
    Message(Box<Received>),
    /// RSET.
    Reset,
    /// NOOP, VRFY or HELP: 250 or 252 does.
    Idle,
    /// QUIT.
    Quit,
    /// A command at the wrong time.
    BadSequence,
    /// No command, or one with a broken argument.
    Syntax,
}

/// One SMTP session, as its server sees it.
#[derive(Debug, Default)]
pub struct Dialogue {
    input: BytesMut,
    /// How far the input was searched for the end of data.
    searched: usize,
    in_data: bool,
    has_sender: bool,
    transaction: Received,
}

impl Dialogue {
    /// A session in which nothing was said.
    pub fn new() -> Dialogue {
        Dialogue::default()
    }

    /// Takes what the client sent.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next thing that happened; `None` while more input is needed. Answer each before asking for the next.
    pub fn next_event(&mut self) -> Option<Event> {
        if self.in_data {
            self.message()
        } else {
            self.line().map(|line| self.command(&line))
        }
    }

    /// The sender was accepted.
    pub fn sender(&mut self, path: String, params: Vec<String>) {
        self.has_sender = true;
        self.transaction.sender = path;
        self.transaction.sender_params = params;
    }

    /// A recipient was accepted.
    pub fn recipient(&mut self, path: String, params: Vec<String>) {
        self.transaction.recipients.push((path, params));
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = memchr::memmem::find(&self.input, b"\r\n");
        match end {
            Some(end) if end + 2 <= LONGEST_LINE => {
                let line = self.input.split_to(end).to_vec();
                self.input.advance(2);
                Some(line)
            }
            // Whatever it was, it is no command; the empty line gets a syntax error.
            Some(end) => {
                self.input.advance(end + 2);
                Some(Vec::new())
            }
            None if self.input.len() > LONGEST_LINE => {
                // A CR at the end may be half of the line's end.
                let keep = usize::from(self.input.ends_with(b"\r"));
                self.input.advance(self.input.len() - keep);
                Some(Vec::new())
            }
            None => None,
        }
    }

    fn command(&mut self, line: &[u8]) -> Event {
        let Ok(line) = std::str::from_utf8(line) else {
            return Event::Syntax;
        };
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            hello @ ("EHLO" | "HELO") if !argument.trim().is_empty() => {
                self.reset();
                self.transaction.helo = argument.trim().to_owned();
                Event::Hello(hello == "EHLO")
            }
            "MAIL" if self.has_sender => Event::BadSequence,
            "MAIL" => path(argument, "FROM:")
                .map_or(Event::Syntax, |(path, params)| Event::Mail(path, params)),
            "RCPT" if !self.has_sender => Event::BadSequence,
            "RCPT" => match path(argument, "TO:") {
                Some((path, params)) if !path.is_empty() => Event::Rcpt(path, params),
                _ => Event::Syntax,
            },
            "DATA" if self.transaction.recipients.is_empty() => Event::BadSequence,
            "DATA" => {
                self.in_data = true;
                self.searched = 0;
                Event::Data
            }
            "RSET" => {
                self.reset();
                Event::Reset
            }
            "NOOP" | "VRFY" | "HELP" => Event::Idle,
            "QUIT" => Event::Quit,
            _ => Event::Syntax,
        }
    }

    /// Only CRLF.CRLF ends the data (RFC 5321 section 4.1.1.4); the CRLF in front of the dot may be that of DATA.
    fn message(&mut self) -> Option<Event> {
        let (content, whole) = if self.input.starts_with(b".\r\n") {
            (0, 3)
        } else {
            let from = self.searched.saturating_sub(4);
            let Some(found) = memchr::memmem::find(&self.input[from..], b"\r\n.\r\n") else {
                self.searched = self.input.len();
                return None;
            };
            (from + found + 2, from + found + 5)
        };
        let stuffed = self.input.split_to(whole).freeze();
        self.in_data = false;
        let data = unstuffed(stuffed.slice(..content));
        let message = Received {
            data,
            ..self.transaction.clone()
        };
        self.reset();
        Some(Event::Message(Box::new(message)))
    }

    fn reset(&mut self) {
        self.has_sender = false;
        let helo = std::mem::take(&mut self.transaction.helo);
        self.transaction = Received {
            helo,
            ..Received::default()
        };
    }
}

/// Takes away the dot that a client puts in front of a line that begins with one (RFC 5321 section 4.5.2).
fn unstuffed(data: Bytes) -> Bytes {
    if !data.starts_with(b".") && memchr::memmem::find(&data, b"\r\n.").is_none() {
        return data;
    }
    let mut out = BytesMut::with_capacity(data.len());
    let mut rest = &data[data.starts_with(b".").into()..];
    while let Some(at) = memchr::memmem::find(rest, b"\r\n.") {
        out.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out.freeze()
}

/// `FROM:<path> PARAM…`
fn path(argument: &str, keyword: &str) -> Option<(String, Vec<String>)> {
    let head = argument.get(..keyword.len())?;
    let rest = argument[keyword.len()..].trim_start();
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.strip_prefix('<')?;
    let mut quoted = false;
    let mut escaped = false;
    let end = rest.char_indices().find(|(_, c)| {
        let ends = *c == '>' && !quoted;
        if *c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = *c == '\\' && !escaped;
        ends
    });
    let (path, params) = rest.split_at(end?.0);
    let params = params[1..]
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect();
    Some((path.to_owned(), params))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a server that accepts everything; gives the messages.
    fn messages(wire: &[u8], step: usize) -> Vec<Received> {
        let (mut dialogue, mut messages) = (Dialogue::new(), Vec::new());
        for piece in wire.chunks(step) {
            dialogue.feed(piece);
            while let Some(event) = dialogue.next_event() {
                match event {
                    Event::Mail(path, params) => dialogue.sender(path, params),
                    Event::Rcpt(path, params) => dialogue.recipient(path, params),
                    Event::Message(message) => messages.push(*message),
                    _ => {}
                }
            }
        }
        messages
    }

    #[test]
    fn messages_are_exact_whatever_the_pieces() {
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
    fn commands_have_their_time() {
        let mut dialogue = Dialogue::new();
        dialogue.feed(
            b"RCPT TO:<a@b>\r\nDATA\r\nMAIL TO:<a@b>\r\nMAIL FROM:<a@b\r\nNONSENSE\r\nQUIT\r\n",
        );
        let events: Vec<Event> = std::iter::from_fn(|| dialogue.next_event()).collect();
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
    fn an_endless_line_is_not_kept() {
        let mut dialogue = Dialogue::new();
        for _ in 0..100 {
            dialogue.feed(&[b'x'; 1000]);
            while dialogue.next_event().is_some() {}
            assert!(dialogue.input.len() <= LONGEST_LINE + 1000);
        }
    }
}
