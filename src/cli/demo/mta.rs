//! The MTA's part of the milter conversation, as Postfix plays it.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::scenes::Scene;
use crate::milter::{Actions, Command, Decoder, Response, Steps};

/// What an MTA offers: every step may be silent.
const OFFER: Steps = Steps(0x1f_ffff);
const LONGEST: usize = 1024 * 1024;

/// What the filter said to a message.
pub(super) struct Heard {
    /// For each recipient that was refused, the reply.
    pub(super) refused: Vec<(String, String)>,
    /// The final answer; `None` where no recipient was left.
    pub(super) answer: Option<Response>,
}

/// One SMTP session's connection to the filter.
pub(super) struct Mta {
    stream: TcpStream,
    input: BytesMut,
    silent: Steps,
}

impl Mta {
    /// Connects and negotiates.
    pub(super) async fn connect(filter: SocketAddr) -> io::Result<Mta> {
        let stream = TcpStream::connect(filter).await?;
        let mut mta = Mta {
            stream,
            input: BytesMut::new(),
            silent: Steps::default(),
        };
        mta.say(&Command::Negotiate {
            version: 6,
            actions: Actions(0x1ff),
            steps: OFFER,
        })
        .await?;
        match mta.hear().await? {
            Response::Negotiate { steps, .. } => mta.silent = steps,
            other => return Err(unexpected(&other)),
        }
        Ok(mta)
    }

    /// Hands over one message.
    pub(super) async fn hand_over(&mut self, scene: &Scene) -> io::Result<Heard> {
        let connect = Command::Connect {
            hostname: text(scene.client_name),
            family: b'4',
            port: 40_000,
            address: text(scene.client_ip),
        };
        self.step(&connect, Steps::SILENT_CONNECT).await?;
        self.step(&Command::Helo(text(scene.client_name)), Steps::SILENT_HELO)
            .await?;
        let login = scene.login.map(|user| (text("{auth_authen}"), text(user)));
        self.say(&Command::Macros {
            step: b'M',
            pairs: login.into_iter().collect(),
        })
        .await?;
        let mail = Command::Mail(vec![text(&format!("<{}>", scene.sender))]);
        self.step(&mail, Steps::SILENT_MAIL).await?;
        let mut refused = Vec::new();
        for recipient in scene.recipients {
            let rcpt = Command::Rcpt(vec![text(&format!("<{recipient}>"))]);
            if let Some(Response::Reply(said)) = self.step(&rcpt, Steps::SILENT_RCPT).await? {
                refused.push((
                    (*recipient).to_owned(),
                    String::from_utf8_lossy(&said).replace("%%", "%"),
                ));
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
        self.say(&Command::Macros {
            step: b'E',
            pairs: vec![(text("i"), text(scene.queue_id))],
        })
        .await?;
        let content = scene.content();
        let (header, body) = content.split_once("\r\n\r\n").unwrap_or((&content, ""));
        for field in header.split("\r\n") {
            let (name, value) = field.split_once(':').unwrap_or((field, ""));
            let field = Command::Header {
                name: text(name),
                value: text(value),
            };
            self.step(&field, Steps::SILENT_HEADER).await?;
        }
        self.step(&Command::EndOfHeader, Steps::SILENT_END_OF_HEADER)
            .await?;
        self.step(&Command::Body(text(body)), Steps::SILENT_BODY)
            .await?;
        self.say(&Command::EndOfMessage(Bytes::new())).await?;
        let answer = loop {
            match self.hear().await? {
                Response::Progress => {}
                answer => break answer,
            }
        };
        self.say(&Command::Quit).await?;
        Ok(Heard {
            refused,
            answer: Some(answer),
        })
    }

    /// Says something, and hears the answer unless it was agreed that there is none.
    async fn step(&mut self, command: &Command, silent: Steps) -> io::Result<Option<Response>> {
        self.say(command).await?;
        if self.silent.has(silent) {
            Ok(None)
        } else {
            self.hear().await.map(Some)
        }
    }

    async fn say(&mut self, command: &Command) -> io::Result<()> {
        let mut packet = BytesMut::new();
        command.encode(&mut packet);
        self.stream.write_all(&packet).await
    }

    async fn hear(&mut self) -> io::Result<Response> {
        loop {
            let response = Decoder::new(LONGEST).response(&mut self.input);
            if let Some(response) = response.map_err(io::Error::other)? {
                return Ok(response);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn unexpected(response: &Response) -> io::Error {
    io::Error::other(format!(
        "the filter answered the negotiation with {response:?}"
    ))
}
