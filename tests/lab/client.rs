//! A plain SMTP client that says what it is told to, from the address it is told to.
//!
//! It shares no code with the library: a fault in ours must not hide behind the same fault here.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

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

impl Client {
    /// Connects from a local address and reads the greeting and the answer to EHLO.
    ///
    /// In the tests 127.0.0.1 is the outside and 127.0.0.2 the inside.
    pub fn connect_from(local: IpAddr, server: SocketAddr) -> Client {
        let mut client = Client {
            reader: BufReader::new(connect(local, server)),
        };
        let greeting = client.reply();
        assert_eq!(greeting.code, 220, "{greeting:?}");
        let hello = client.say("EHLO client.test");
        assert_eq!(hello.code, 250, "{hello:?}");
        client
    }

    /// Sends one line and reads the reply to it.
    pub fn say(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Sends one message; gives the reply that decided its fate.
    ///
    /// `content` is given as lines that end in CRLF; dots are stuffed here.
    pub fn send_message(&mut self, from: &str, to: &[&str], content: &str) -> Reply {
        let commands = [format!("MAIL FROM:<{from}>")]
            .into_iter()
            .chain(to.iter().map(|to| format!("RCPT TO:<{to}>")))
            .chain(["DATA".to_owned()]);
        for command in commands {
            let reply = self.say(&command);
            if reply.code >= 400 {
                // After 421 nobody listens any more.
                if reply.code != 421 {
                    self.say("RSET");
                }
                return reply;
            }
        }
        self.content(content)
    }

    /// Sends a message's content after a 354, and reads the reply to its end.
    pub fn content(&mut self, content: &str) -> Reply {
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
        self.send(wire.as_bytes());
        self.reply()
    }

    /// Says goodbye.
    pub fn quit(mut self) {
        self.say("QUIT");
    }

    fn send(&mut self, bytes: &[u8]) {
        (self.reader.get_mut().write_all(bytes)).expect("the server takes what we send");
    }

    fn reply(&mut self) -> Reply {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            (self.reader.read_line(&mut line)).expect("the server replies in time, in UTF-8");
            let code = line.get(..3).and_then(|digits| digits.parse().ok());
            let code = code.unwrap_or_else(|| panic!("not an SMTP reply: {line:?}"));
            lines.push(line.get(4..).unwrap_or_default().trim_end().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                let text = lines.join("\n");
                return Reply { code, text };
            }
        }
    }
}

/// Connects from a given local address, which std cannot and tokio can.
fn connect(local: IpAddr, server: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime of one thread needs little");
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(local, 0))?;
        socket.connect(server).await?.into_std()
    });
    let stream =
        stream.unwrap_or_else(|error| panic!("cannot connect to {server} from {local}: {error}"));
    (stream.set_nonblocking(false))
        .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
        // A message is several small writes; none shall wait for the receipt of the one before.
        .and_then(|()| stream.set_nodelay(true))
        .expect("the stream is connected");
    stream
}
