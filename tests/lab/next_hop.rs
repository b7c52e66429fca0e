//! An SMTP server that records every byte it receives and misbehaves on request. No real server can
//! be made to do most of this.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// A deviation from the behavior of a correct SMTP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerBehavior {
    /// Accepts everything.
    Good,
    /// Refuses recipients whose address begins with "no".
    RefusesSome,
    /// Answers the message with 550.
    RefusesMessage,
    /// Answers the message with 451.
    DefersMessage,
    /// Answers DATA with 451.
    DefersData,
    /// Closes after the first line of the message.
    ClosesInData,
    /// Answers the message with an invalid reply.
    Garbage,
    /// Does not answer the message.
    Hangs,
    /// Does not answer DATA.
    HangsAtData,
    /// Accepts the message, and closes without a reply.
    TakesSilently,
    /// Accepts the first message of a connection, and defers all others.
    TakesOne,
    /// Rejects the message, but sends a 250 before it has arrived.
    SaysYesEarly,
    /// Accepts everything, and sends each reply to it twice.
    SaysYesTwice,
}

/// One accepted message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcceptedMessage {
    /// MAIL and RCPT as they were sent, of those that it accepted.
    pub envelope: Vec<String>,
    /// The data as it was sent, stuffed, with the dot at its end; of BDAT the bytes.
    pub data: Vec<u8>,
}

/// The server.
pub struct NextHop {
    address: SocketAddr,
    kept: Arc<Mutex<NextHopState>>,
}

#[derive(Default)]
struct NextHopState {
    mood: Option<ServerBehavior>,
    taken: Vec<AcceptedMessage>,
    /// Every command line of every connection.
    commands: Vec<String>,
    /// Every connection there was.
    connections: Vec<TcpStream>,
}

impl NextHop {
    /// Starts it without deviations.
    pub fn start() -> NextHop {
        NextHop::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The same at this address.
    pub fn start_at(at: SocketAddr) -> NextHop {
        let listener = TcpListener::bind(at).expect("a port");
        let address = listener.local_addr().expect("bound");
        let kept = Arc::new(Mutex::new(NextHopState::default()));
        let keep = kept.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let keep = keep.clone();
                std::thread::spawn(move || {
                    // The clone in the state would keep it open.
                    let closing = stream.try_clone();
                    drop(serve(stream, &keep));
                    let _ = closing.and_then(|stream| stream.shutdown(Shutdown::Both));
                });
            }
        });
        NextHop { address, kept }
    }

    /// Returns one that does not listen.
    pub fn nowhere() -> NextHop {
        NextHop {
            address: SocketAddr::from(([127, 0, 0, 1], super::free_port())),
            kept: Arc::default(),
        }
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        lock(&self.kept).connections.len()
    }

    /// Closes all connections, as a server does that has waited for long.
    pub fn hang_up(&self) {
        for stream in &lock(&self.kept).connections {
            // One that is closed already is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends an unsolicited line on every connection.
    pub fn say(&self, text: &str) {
        for stream in &lock(&self.kept).connections {
            // A closed one receives nothing.
            let _ = (&*stream).write_all(text.as_bytes());
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes its behavior, for commands from now on.
    pub fn be(&self, mood: ServerBehavior) {
        lock(&self.kept).mood = Some(mood);
    }

    /// The messages that it has accepted.
    pub fn taken(&self) -> Vec<AcceptedMessage> {
        lock(&self.kept).taken.clone()
    }

    /// Every command line.
    pub fn commands(&self) -> Vec<String> {
        lock(&self.kept).commands.clone()
    }

    /// Clears its records.
    pub fn forget(&self) {
        let mut kept = lock(&self.kept);
        kept.taken.clear();
        kept.commands.clear();
    }
}

fn lock(kept: &Mutex<NextHopState>) -> std::sync::MutexGuard<'_, NextHopState> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, keep: &Mutex<NextHopState>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    lock(keep).connections.push(stream.try_clone()?);
    stream.write_all(b"220 next.test ESMTP as written down\r\n")?;
    let mut one = AcceptedMessage::default();
    let mut messages = 0;
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line)
            .trim_end_matches("\r\n")
            .to_owned();
        lock(keep).commands.push(text.clone());
        let mood = lock(keep).mood.unwrap_or(ServerBehavior::Good);
        let verb = text
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" => {
                "250-next.test\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n\
                       250-CHUNKING\r\n250-XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT\r\n250 AUTH PLAIN LOGIN\r\n"
            }
            "MAIL" => {
                one = AcceptedMessage::default();
                one.envelope.push(text);
                "250 2.1.0 sender fine\r\n"
            }
            "RCPT" if mood == ServerBehavior::RefusesSome && text.contains("<no") => {
                "550 5.1.1 not here\r\n"
            }
            "RCPT" => {
                one.envelope.push(text);
                "250 2.1.5 recipient fine\r\n"
            }
            "AUTH" => match text.strip_prefix("AUTH LOGIN") {
                None => "235 2.7.0 welcome\r\n",
                Some(_) => {
                    for prompt in ["334 VXNlcm5hbWU6\r\n", "334 UGFzc3dvcmQ6\r\n"] {
                        stream.write_all(prompt.as_bytes())?;
                        reader.read_until(b'\n', &mut line)?;
                    }
                    "235 2.7.0 welcome\r\n"
                }
            },
            "DATA" if mood == ServerBehavior::HangsAtData => {
                // Until the other side has had enough.
                reader.read_until(b'\n', &mut line)?;
                return Ok(());
            }
            "DATA" if mood == ServerBehavior::DefersData => "451 4.3.0 no data now\r\n",
            "DATA" | "BDAT" => {
                if verb == "DATA" {
                    stream.write_all(match mood {
                        ServerBehavior::SaysYesEarly => {
                            b"354 go on\r\n250 2.0.0 queued before it came\r\n"
                        }
                        _ => b"354 go on\r\n",
                    })?;
                    if mood == ServerBehavior::ClosesInData {
                        reader.read_until(b'\n', &mut one.data)?;
                        return Ok(());
                    }
                    while one.data != b".\r\n" && !one.data.ends_with(b"\r\n.\r\n") {
                        if reader.read_until(b'\n', &mut one.data)? == 0 {
                            return Ok(());
                        }
                    }
                } else {
                    let bytes: u64 = text
                        .split(' ')
                        .nth(1)
                        .and_then(|n| n.parse().ok())
                        .unwrap_or(0);
                    reader.by_ref().take(bytes).read_to_end(&mut one.data)?;
                }
                messages += 1;
                let refuses = [
                    ServerBehavior::RefusesMessage,
                    ServerBehavior::DefersMessage,
                    ServerBehavior::SaysYesEarly,
                ];
                let takes =
                    !refuses.contains(&mood) && (mood != ServerBehavior::TakesOne || messages == 1);
                if takes && !matches!(mood, ServerBehavior::Garbage | ServerBehavior::Hangs) {
                    lock(keep).taken.push(std::mem::take(&mut one));
                }
                match mood {
                    ServerBehavior::SaysYesTwice => {
                        "250 2.0.0 queued as it came\r\n250 2.0.0 queued as it came\r\n"
                    }
                    ServerBehavior::RefusesMessage | ServerBehavior::SaysYesEarly => {
                        "550 5.7.1 refused at the end\r\n"
                    }
                    ServerBehavior::DefersMessage => "451 4.3.0 deferred at the end\r\n",
                    ServerBehavior::TakesOne if messages > 1 => "451 4.3.0 one is enough\r\n",
                    ServerBehavior::Garbage => "well done\r\n",
                    ServerBehavior::Hangs => {
                        // Until the other side has had enough.
                        reader.read_until(b'\n', &mut line)?;
                        return Ok(());
                    }
                    ServerBehavior::TakesSilently => return Ok(()),
                    _ => "250 2.0.0 queued as it came\r\n",
                }
            }
            "QUIT" => {
                stream.write_all(b"221 2.0.0 bye\r\n")?;
                return Ok(());
            }
            "RSET" | "NOOP" | "HELO" | "XFORWARD" => "250 2.0.0 fine\r\n",
            _ => "500 5.5.2 what\r\n",
        };
        stream.write_all(answer.as_bytes())?;
    }
}
