//! A simulated MTA: the client side of the milter protocol, as in Postfix.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::scenes::Scene;
use crate::milter::{
    Actions, ClientAddress, Command, Frames, Offer, Response, Stage, Steps, Strings, VERSION,
};

/// The MTA's offer: all actions, and replies are optional at every step.
const ACTIONS: Actions = Actions::from_bits(0x1ff);
const STEPS: Steps = Steps::from_bits(0x1f_ffff);

/// The milter's replies to a message.
pub(super) struct MtaResult {
    /// Rejected recipients with their replies.
    pub(super) rejected: Vec<(String, String)>,
    /// The final reply; `None` if no recipient was left.
    pub(super) answer: Option<Verdict>,
}

/// A final reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The message is accepted.
    Accepted,
    /// The message is rejected with this reply.
    Rejected(String),
}

/// One SMTP session's connection to the filter.
pub(super) struct Mta {
    stream: TcpStream,
    frames: Frames,
    silent: Steps,
}

impl Mta {
    /// Connects and negotiates.
    pub(super) async fn connect(filter: SocketAddr) -> io::Result<Mta> {
        let stream = TcpStream::connect(filter).await?;
        let mut mta = Mta {
            stream,
            frames: Frames::new(),
            silent: Steps::NONE,
        };
        let offer = Offer {
            version: VERSION,
            actions: ACTIONS,
            steps: STEPS,
        };
        mta.write(&Command::Negotiate(offer)).await?;
        mta.silent = mta
            .read(|response| match response {
                Response::Negotiate(chosen, _) => Ok(chosen.steps),
                other => Err(io::Error::other(format!(
                    "unexpected reply to the negotiation: {other:?}"
                ))),
            })
            .await??;
        Ok(mta)
    }

    /// Sends one message.
    pub(super) async fn send(&mut self, scene: &Scene) -> io::Result<MtaResult> {
        let ip = scene.client_ip.parse().map_err(io::Error::other)?;
        let connect = Command::Connect {
            hostname: scene.client_name.as_bytes(),
            client: ClientAddress::Inet(ip, 40_000),
        };
        self.step(&connect, Steps::SILENT_CONNECT).await?;
        self.step(
            &Command::Helo(scene.client_name.as_bytes()),
            Steps::SILENT_HELO,
        )
        .await?;
        if let Some(user) = scene.login {
            self.macros(Stage::Mail, "{auth_authen}", user).await?;
        }
        self.step(
            &Command::Mail(strings(&path(scene.sender))),
            Steps::SILENT_MAIL,
        )
        .await?;
        let mut rejected = Vec::new();
        for recipient in scene.recipients {
            let rcpt = path(recipient);
            let reply = self
                .step(&Command::Rcpt(strings(&rcpt)), Steps::SILENT_RCPT)
                .await?;
            if let Some(Verdict::Rejected(text)) = reply {
                rejected.push(((*recipient).to_owned(), text));
            }
        }
        if rejected.len() == scene.recipients.len() {
            self.write(&Command::Abort).await?;
            self.write(&Command::Quit).await?;
            return Ok(MtaResult {
                rejected,
                answer: None,
            });
        }
        let content = scene.content();
        let (header, body) = content.split_once("\r\n\r\n").unwrap_or((&content, ""));
        for field in header.split("\r\n") {
            let (name, value) = field.split_once(':').unwrap_or((field, ""));
            let field = Command::Header {
                name: name.as_bytes(),
                value: value.as_bytes(),
            };
            self.step(&field, Steps::SILENT_HEADER).await?;
        }
        self.step(&Command::EndOfHeader, Steps::SILENT_END_OF_HEADER)
            .await?;
        self.step(&Command::Body(body.as_bytes()), Steps::SILENT_BODY)
            .await?;
        self.macros(Stage::EndOfMessage, "i", scene.queue_id)
            .await?;
        let answer = self.step(&Command::EndOfMessage(b""), Steps::NONE).await?;
        self.write(&Command::Quit).await?;
        Ok(MtaResult { rejected, answer })
    }

    async fn macros(&mut self, stage: Stage, name: &str, value: &str) -> io::Result<()> {
        let pair = Strings::pack([name, value]);
        self.write(&Command::Macros {
            stage,
            pairs: strings(&pair),
        })
        .await
    }

    /// Sends a command and reads the reply unless none was negotiated.
    async fn step(&mut self, command: &Command<'_>, silent: Steps) -> io::Result<Option<Verdict>> {
        self.write(command).await?;
        if silent != Steps::NONE && self.silent.contains(silent) {
            return Ok(None);
        }
        loop {
            let verdict = self
                .read(|response| match response {
                    Response::Progress => None,
                    Response::Continue | Response::Accept => Some(Verdict::Accepted),
                    Response::Reply(text) => Some(Verdict::Rejected(
                        String::from_utf8_lossy(text).replace("%%", "%"),
                    )),
                    other => Some(Verdict::Rejected(format!("{other:?}"))),
                })
                .await?;
            if verdict.is_some() {
                return Ok(verdict);
            }
        }
    }

    async fn write(&mut self, command: &Command<'_>) -> io::Result<()> {
        let mut packet = BytesMut::new();
        command.encode(&mut packet);
        self.stream.write_all(&packet).await
    }

    /// Reads one response and extracts a value from it, because it borrows the buffer.
    async fn read<T>(&mut self, take: impl Fn(Response<'_>) -> T) -> io::Result<T> {
        loop {
            if let Some(frame) = self.frames.next().map_err(io::Error::other)? {
                return Response::decode(frame).map(take).map_err(io::Error::other);
            }
            if self.stream.read_buf(self.frames.space()).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Returns the argument of MAIL or RCPT.
fn path(address: &str) -> BytesMut {
    Strings::pack([format!("<{address}>")])
}

fn strings(packed: &BytesMut) -> Strings<'_> {
    Strings::new(packed).expect("packed strings end in a NUL")
}
