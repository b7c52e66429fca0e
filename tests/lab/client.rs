//! A plain SMTP client that says what it is told to, from the address it is told to.
//!
//! It shares no code with the library: a fault in ours must not hide behind the same fault here.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// One SMTP connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// Its lines without them, joined by newlines.
    pub text: String,
}

/// The outcome of a message sent to a server that may be killed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// The server answered.
    Answered(Reply),
    /// The connection was lost before the end of the message: nobody can have it.
    Lost,
    /// The connection was lost after it: nobody knows.
    Unknown,
}

impl Client {
    /// Connects from a local address and reads the greeting and the answer to EHLO.
    ///
    /// In the tests 127.0.0.1 is the outside and 127.0.0.2 the inside.
    pub fn connect_from(local: IpAddr, server: SocketAddr) -> Client {
        Client::try_connect_from(local, server)
            .unwrap_or_else(|error| panic!("cannot connect to {server} from {local}: {error}"))
    }

    /// The same with a server that may be away.
    pub fn try_connect_from(local: IpAddr, server: SocketAddr) -> io::Result<Client> {
        let mut client = Client {
            reader: BufReader::new(connect(local, server)?),
        };
        let greeting = client.try_reply()?;
        let hello = client.try_say("EHLO client.test")?;
        match (greeting.code, hello.code) {
            (220, 250) => Ok(client),
            _ => Err(io::Error::other(format!("{greeting:?} {hello:?}"))),
        }
    }

    /// Waits so long for each reply from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        let stream = self.reader.get_mut();
        let set = stream.set_read_timeout(Some(patience));
        set.expect("a duration of more than nothing");
    }

    /// Sends one line and reads the reply to it.
    pub fn say(&mut self, line: &str) -> Reply {
        self.try_say(line).expect("the server answers in time")
    }

    fn try_say(&mut self, line: &str) -> io::Result<Reply> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.try_reply()
    }

    /// Sends one message; gives the reply that decided its fate.
    ///
    /// `content` is given as lines that end in CRLF; dots are stuffed here.
    pub fn send_message(&mut self, from: &str, to: &[&str], content: &str) -> Reply {
        match self.try_message(from, to, content) {
            SendOutcome::Answered(reply) => reply,
            lost => panic!("{lost:?}"),
        }
    }

    /// The same with a server that may die over it.
    pub fn try_message(&mut self, from: &str, to: &[&str], content: &str) -> SendOutcome {
        let commands = [format!("MAIL FROM:<{from}>")]
            .into_iter()
            .chain(to.iter().map(|to| format!("RCPT TO:<{to}>")))
            .chain(["DATA".to_owned()]);
        for command in commands {
            let Ok(reply) = self.try_say(&command) else {
                return SendOutcome::Lost;
            };
            if reply.code >= 400 {
                // After 421 nobody listens any more.
                if reply.code != 421 {
                    let _ = self.try_say("RSET");
                }
                return SendOutcome::Answered(reply);
            }
        }
        self.try_content(content)
            .map_or(SendOutcome::Unknown, SendOutcome::Answered)
    }

    /// Sends a message's content after a 354, and reads the reply to its end.
    pub fn content(&mut self, content: &str) -> Reply {
        self.try_content(content)
            .expect("the server answers in time")
    }

    /// The same with a server that may die over it.
    pub fn try_content(&mut self, content: &str) -> io::Result<Reply> {
        let mut wire = String::with_capacity(content.len() + 8);
        for line in content.split_inclusive("\r\n") {
            if line.starts_with('.') {
                wire.push('.');
            }
            wire.push_str(line);
        }
        if !wire.is_empty() && !wire.ends_with("\r\n") {
            wire.push_str("\r\n");
        }
        wire.push_str(".\r\n");
        self.send(wire.as_bytes())?;
        self.try_reply()
    }

    /// Says goodbye.
    pub fn quit(mut self) {
        self.say("QUIT");
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    fn try_reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 || !line.ends_with('\n') {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let code = line.get(..3).and_then(|digits| digits.parse().ok());
            let code = code.unwrap_or_else(|| panic!("not an SMTP reply: {line:?}"));
            lines.push(line.get(4..).unwrap_or_default().trim_end().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                let text = lines.join("\n");
                return Ok(Reply { code, text });
            }
        }
    }
}

/// Connects from a given local address, which std cannot.
pub fn connect(local: IpAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(local, 0).into())?;
    socket.connect(&server.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A message is several small writes; none shall wait for the receipt of the one before.
    stream.set_nodelay(true)?;
    Ok(stream)
}
