//! The MTA's part of the milter conversation, as Postfix plays it.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::scenes::Scene;
use crate::milter::{
    Actions, ClientAddress, Command, Frames, Offer, Response, Stage, Steps, Strings, VERSION,
};

/// What an MTA offers: all actions, and every step may be silent.
const ACTIONS: Actions = Actions::from_bits(0x1ff);
const STEPS: Steps = Steps::from_bits(0x1f_ffff);

/// What the filter said to a message.
pub(super) struct Heard {
    /// For each recipient that was refused, the reply.
    pub(super) refused: Vec<(String, String)>,
    /// The final answer; `None` where no recipient was left.
    pub(super) answer: Option<Verdict>,
}

/// A final answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The message goes on.
    Accepted,
    /// It does not; what was said.
    Refused(String),
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
        mta.say(&Command::Negotiate(offer)).await?;
        mta.silent = mta
            .hear(|response| match response {
                Response::Negotiate(chosen, _) => Ok(chosen.steps),
                other => Err(io::Error::other(format!(
                    "the negotiation was answered with {other:?}"
                ))),
            })
            .await??;
        Ok(mta)
    }

    /// Hands over one message.
    pub(super) async fn hand_over(&mut self, scene: &Scene) -> io::Result<Heard> {
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
        let mut refused = Vec::new();
        for recipient in scene.recipients {
            let rcpt = path(recipient);
            let said = self
                .step(&Command::Rcpt(strings(&rcpt)), Steps::SILENT_RCPT)
                .await?;
            if let Some(Verdict::Refused(reply)) = said {
                refused.push(((*recipient).to_owned(), reply));
            }
        }
        if refused.len() == scene.recipients.len() {
            self.say(&Command::Abort).await?;
            self.say(&Command::Quit).await?;
            return Ok(Heard {
                refused,
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
        self.say(&Command::Quit).await?;
        Ok(Heard { refused, answer })
    }

    async fn macros(&mut self, stage: Stage, name: &str, value: &str) -> io::Result<()> {
        let pair = Strings::pack([name, value]);
        self.say(&Command::Macros {
            stage,
            pairs: strings(&pair),
        })
        .await
    }

    /// Says something, and hears the answer unless it was agreed that there is none.
    async fn step(&mut self, command: &Command<'_>, silent: Steps) -> io::Result<Option<Verdict>> {
        self.say(command).await?;
        if silent != Steps::NONE && self.silent.contains(silent) {
            return Ok(None);
        }
        loop {
            let verdict = self
                .hear(|response| match response {
                    Response::Progress => None,
                    Response::Continue | Response::Accept => Some(Verdict::Accepted),
                    Response::Reply(text) => Some(Verdict::Refused(
                        String::from_utf8_lossy(text).replace("%%", "%"),
                    )),
                    other => Some(Verdict::Refused(format!("{other:?}"))),
                })
                .await?;
            if verdict.is_some() {
                return Ok(verdict);
            }
        }
    }

    async fn say(&mut self, command: &Command<'_>) -> io::Result<()> {
        let mut packet = BytesMut::new();
        command.encode(&mut packet);
        self.stream.write_all(&packet).await
    }

    /// Hears one response; what is wanted of it must be taken at once, for it borrows the buffer.
    async fn hear<T>(&mut self, take: impl Fn(Response<'_>) -> T) -> io::Result<T> {
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

/// The argument of MAIL or RCPT.
fn path(address: &str) -> BytesMut {
    Strings::pack([format!("<{address}>")])
}

fn strings(packed: &BytesMut) -> Strings<'_> {
    Strings::new(packed).expect("packed strings end in a NUL")
}
