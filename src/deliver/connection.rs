//! One connection to the relay, on lettre's `AsyncSmtpConnection`.
//!
//! Promises: every step ends within its deadline; only a 250 after the data counts as delivered; a connection on
//! which anything went otherwise than in order is never used again, because its next reply may belong to the
//! last command. Does not use lettre's transport or pool: these lose track of replies when a send is
//! cancelled, and stop at the first refused recipient.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tracing::error;

use super::line_wise::LineWise;
use super::wire::canonical;
use super::{RelaySettings, Tls};
use crate::journal::{Item, Kind};
use crate::mail::{Address, BodyKind, Content, Enhanced, Reply};
use crate::net::{certificate_fault, not_after};
use crate::smtp::Capabilities;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// RCPT commands in one batch, so that neither side's buffers fill while both write.
const BATCH: usize = 50;

/// An open connection, ready for MAIL.
pub(super) struct Connection {
    smtp: AsyncSmtpConnection,
    capabilities: Capabilities,
    timeout: Duration,
}

/// Why the relay was not reached. Nothing about an item.
#[derive(Debug, Clone, thiserror::Error)]
#[error("relay {relay}: {what}")]
pub struct RelayError {
    /// `host:port`.
    pub relay: String,
    /// One sentence.
    pub what: String,
}

/// What the relay said about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is the relay's now.
    Delivered,
    /// Not now.
    Later(String),
    /// Never.
    Refused(Reply),
}

/// How an attempt ended.
pub(super) struct Sent {
    /// For each recipient, in order.
    pub(super) fates: Vec<Fate>,
    /// The connection, where it can be used again.
    pub(super) connection: Option<Connection>,
    /// Whether the connection was lost before the relay had answered anything: the mark of a connection that the
    /// relay had closed while it was idle.
    pub(super) nothing_said: bool,
}

/// A step that did not go well.
enum Trouble {
    /// The relay said no; the connection is in order.
    Reply(Reply),
    /// The connection is of no use any more.
    Lost(String),
}

impl Connection {
    /// Connects, greets, encrypts and logs in, as the settings say.
    pub(super) async fn open(settings: &RelaySettings) -> Result<Connection, RelayError> {
        let fail = |what: String| RelayError {
            relay: settings.name(),
            what,
        };
        let connecting = no_panic(Connection::connect(settings));
        match tokio::time::timeout(CONNECT.min(settings.timeout), connecting).await {
            Ok(opened) => opened.map_err(fail),
            Err(_) => Err(fail("did not answer in time".into())),
        }
    }

    async fn connect(settings: &RelaySettings) -> Result<Connection, String> {
        let hello = ClientId::Domain(settings.helo_name.clone());
        let tls = match settings.tls {
            Tls::None => None,
            // Encryption against listeners only: whoever offers no certificate that can be checked is not
            // refused, or mail would go in the clear instead (RFC 7435).
            Tls::Opportunistic => Some(tls(settings, false)?),
            Tls::Required | Tls::Implicit => Some(tls(settings, true)?),
        };
        let at_once = tls.clone().filter(|_| settings.tls == Tls::Implicit);
        let server = (settings.host.as_str(), settings.port);
        let connected = match at_once {
            Some(tls) => {
                AsyncSmtpConnection::connect_tokio1(server, None, &hello, Some(tls), None).await
            }
            None => {
                let tcp = TcpStream::connect(server).await;
                let tcp = tcp.map_err(|error| format!("cannot connect: {error}"))?;
                // Or the end of the data waits until the relay's system has acknowledged what came before it, which
                // takes tens of milliseconds in which a crash makes a duplicate.
                tcp.set_nodelay(true)
                    .map_err(|error| format!("cannot connect: {error}"))?;
                let stream = Box::new(LineWise::new(tcp));
                AsyncSmtpConnection::connect_with_transport(stream, &hello).await
            }
        };
        let mut smtp = connected.map_err(|error| sentence(&error))?;
        if let Some(tls) = tls.filter(|_| settings.tls != Tls::Implicit) {
            if smtp.can_starttls() {
                smtp.starttls(tls, &hello)
                    .await
                    .map_err(|error| format!("STARTTLS: {}", sentence(&error)))?;
            } else if settings.tls == Tls::Required {
                return Err("does not offer STARTTLS, and TLS is \"required\"".into());
            }
        }
        // Asked again because lettre keeps only the capabilities that it uses itself.
        let hello = smtp
            .command(format!("EHLO {}\r\n", settings.helo_name))
            .await;
        let hello = hello.map_err(|error| format!("EHLO: {}", sentence(&error)))?;
        let capabilities = Capabilities::from_lines(hello.message().skip(1));
        if let Some(login) = &settings.login {
            if !smtp.is_encrypted() && !is_loopback(&settings.host) {
                return Err("is not encrypted, so the password is not sent; set relay.tls".into());
            }
            let credentials =
                Credentials::new(login.username.clone(), login.password.reveal().to_owned());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            let logged_in = smtp.auth(&mechanisms, &credentials).await;
            logged_in
                .map_err(|error| format!("login as {}: {}", login.username, sentence(&error)))?;
        }
        Ok(Connection {
            smtp,
            capabilities,
            timeout: settings.timeout,
        })
    }

    /// What the relay offers.
    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.smtp.is_encrypted()
    }

    /// When the relay's certificate expires, where it showed one.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        not_after(&self.smtp.peer_certificate().ok()?)
    }

    /// Whom of these it refuses mail from this sender to, and in which words; nothing is sent. `Err` says why it could
    /// not be asked.
    pub(super) async fn refusals(
        &mut self,
        sender: &Address,
        recipients: &[Address],
    ) -> Result<Vec<(Address, Reply)>, String> {
        match self.step(&format!("MAIL FROM:<{sender}>\r\n")).await {
            Ok(()) => {}
            Err(Trouble::Reply(reply)) => return Ok(vec![(sender.clone(), reply)]),
            Err(Trouble::Lost(why)) => return Err(why),
        }
        let mut refused = Vec::new();
        for recipient in recipients {
            match self.step(&format!("RCPT TO:<{recipient}>\r\n")).await {
                Ok(()) => {}
                Err(Trouble::Reply(reply)) => refused.push((recipient.clone(), reply)),
                Err(Trouble::Lost(why)) => return Err(why),
            }
        }
        match self.step("RSET\r\n").await {
            Ok(()) | Err(Trouble::Reply(_)) => Ok(refused),
            Err(Trouble::Lost(why)) => Err(why),
        }
    }

    /// Says goodbye.
    pub(super) async fn quit(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(5), self.smtp.quit()).await;
    }

    /// Hands one item to the relay for these recipients.
    pub(super) async fn send(
        mut self,
        item: &Item,
        original: &Content,
        recipients: &[Address],
    ) -> Sent {
        // A bare line break more or less does not matter: SIZE is an estimate (RFC 1870 section 5).
        let size = item.prefix.len() + original.len() + item.suffix.len();
        if let Some(fate) = self.unsendable(item, size) {
            return Sent {
                fates: vec![fate; recipients.len()],
                connection: Some(self),
                nothing_said: false,
            };
        }
        let (mut fates, go_on) = match self.envelope(item, size, recipients).await {
            Ok(said) => said,
            Err((why, nothing_said)) => {
                return Sent {
                    fates: vec![Fate::Later(why); recipients.len()],
                    connection: None,
                    nothing_said,
                };
            }
        };
        let accepted = fates.contains(&Fate::Delivered);
        let (ended, connection) = match go_on {
            _ if accepted => self.data(item, original, go_on).await,
            // It waits for a message to nobody, and would get an empty one.
            Some(Ok(())) => {
                let why = "the relay took DATA without a recipient";
                (Err(Trouble::Lost(why.into())), None)
            }
            Some(Err(Trouble::Lost(why))) => (Err(Trouble::Lost(why)), None),
            Some(Err(Trouble::Reply(_))) | None => (self.step("RSET\r\n").await, Some(self)),
        };
        let connection = match ended {
            Ok(()) => connection,
            Err(Trouble::Reply(reply)) => {
                settle(&mut fates, &fate_of(&reply));
                // After a refused DATA the transaction still stands (RFC 5321 section 4.1.1.4 leaves it open).
                match connection {
                    Some(mut kept) => kept.step("RSET\r\n").await.is_ok().then_some(kept),
                    None => None,
                }
            }
            Err(Trouble::Lost(why)) => {
                // It may have the message all the same. Sent again it has the same Message-ID.
                settle(&mut fates, &Fate::Later(why));
                None
            }
        };
        Sent {
            fates,
            connection,
            nothing_said: false,
        }
    }

    /// What the relay has said it cannot take. The original is never re-encoded to suit it.
    fn unsendable(&self, item: &Item, size: usize) -> Option<Fate> {
        if let Some(limit) = self.capabilities.refuses_size(size) {
            let text =
                format!("Message of {size} octets is larger than the relay's limit of {limit}");
            return Some(Fate::Refused(Reply::new(552, Enhanced(5, 3, 4), text)));
        }
        if item.smtputf8 && !self.capabilities.smtputf8 {
            return Some(Fate::Later(
                "the relay does not offer SMTPUTF8, which an address of this item needs".into(),
            ));
        }
        if item.body != BodyKind::SevenBit && !self.capabilities.eight_bit_mime {
            return Some(Fate::Later(
                "the relay does not offer 8BITMIME, which the original needs".into(),
            ));
        }
        None
    }

    /// MAIL and RCPT. `Delivered` stands for an accepted recipient until the data is through. Where the relay takes
    /// several commands at once, DATA goes with them (RFC 2920 section 3.1), and the answer to that comes, too.
    async fn envelope(
        &mut self,
        item: &Item,
        size: usize,
        recipients: &[Address],
    ) -> Result<(Vec<Fate>, Option<Result<(), Trouble>>), (String, bool)> {
        let mail = self.mail_command(item, size);
        let rcpts: Vec<String> = recipients
            .iter()
            .map(|address| self.rcpt_command(item, address))
            .collect();
        if !self.capabilities.pipelining {
            match self.step(&mail).await {
                Ok(()) => {}
                Err(Trouble::Reply(reply)) => {
                    return Ok((vec![fate_of_sender(&reply); recipients.len()], None));
                }
                Err(Trouble::Lost(why)) => return Err((why, true)),
            }
            let mut fates = Vec::new();
            for rcpt in &rcpts {
                let said = self.step(rcpt).await;
                fates.push(recipient_fate(said).map_err(|why| (why, false))?);
            }
            return Ok((fates, None));
        }
        let mut fates: Vec<Fate> = Vec::new();
        let mut refused_sender = None;
        let with_data = (1..=BATCH).contains(&rcpts.len());
        for (n, batch) in rcpts.chunks(BATCH).enumerate() {
            let mut commands = batch.concat();
            if n == 0 {
                commands.insert_str(0, &mail);
            }
            if with_data {
                commands.push_str("DATA\r\n");
            }
            let mut said = self.step(&commands).await;
            if n == 0 {
                match said {
                    Ok(()) => {}
                    Err(Trouble::Reply(reply)) => refused_sender = Some(reply),
                    Err(Trouble::Lost(why)) => return Err((why, true)),
                }
                said = self.next_reply().await;
            }
            for last in 1..=batch.len() {
                fates.push(recipient_fate(said).map_err(|why| (why, false))?);
                if last == batch.len() {
                    break;
                }
                said = self.next_reply().await;
            }
        }
        let go_on = match with_data {
            true => Some(go_on(
                in_time(self.timeout, self.smtp.read_response()).await,
            )),
            false => None,
        };
        // What was said about recipients of a refused sender is about the missing sender.
        if let Some(reply) = refused_sender {
            fates.fill(fate_of_sender(&reply));
        }
        Ok((fates, go_on))
    }

    fn mail_command(&self, item: &Item, size: usize) -> String {
        let sender = item
            .sender
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let mut command = format!("MAIL FROM:<{sender}>");
        let offered = &self.capabilities;
        if offered.size.is_some() {
            command.push_str(&format!(" SIZE={size}"));
        }
        if item.body != BodyKind::SevenBit {
            command.push_str(" BODY=8BITMIME");
        }
        if item.smtputf8 {
            command.push_str(" SMTPUTF8");
        }
        if offered.dsn {
            match item.kind {
                // What the sender asked for, as he wrote it.
                Kind::Version => command.extend(item.dsn.sender.iter().map(|p| format!(" {p}"))),
                _ => command.push_str(&format!(" RET=HDRS ENVID={}", xtext(&item.envelope_id))),
            }
        }
        command + "\r\n"
    }

    fn rcpt_command(&self, item: &Item, address: &Address) -> String {
        // A bounce of a report must come back; one of an NDR has nowhere to go (RFC 3461 section 4.1).
        let params = match item.kind {
            Kind::Report | Kind::Copy => " NOTIFY=FAILURE".into(),
            Kind::Ndr => " NOTIFY=NEVER".into(),
            Kind::Version => item
                .dsn
                .of(address)
                .iter()
                .map(|p| format!(" {p}"))
                .collect(),
        };
        let params = if self.capabilities.dsn {
            params
        } else {
            String::new()
        };
        format!("RCPT TO:<{address}>{params}\r\n")
    }

    /// DATA, unless it was said and answered, and the message. Gives the connection back where that is still there.
    async fn data(
        mut self,
        item: &Item,
        original: &Content,
        said: Option<Result<(), Trouble>>,
    ) -> (Result<(), Trouble>, Option<Connection>) {
        let said = match said {
            Some(said) => said,
            None => go_on(in_time(self.timeout, self.smtp.command("DATA\r\n")).await),
        };
        if let Err(trouble) = said {
            return (Err(trouble), Some(self));
        }
        let pieces = std::iter::once(Ok(item.prefix.clone()))
            .chain(original.pieces(0))
            .chain(std::iter::once(Ok(item.suffix.clone())));
        let sending = self.content(canonical(pieces));
        if let Content::Memory(_) = original {
            return sending.await;
        }
        // Reading a file may hold a thread up, and lettre reads while it writes; so that is not one of the threads that
        // serve everybody.
        let handle = Handle::current();
        let apart = tokio::task::spawn_blocking(move || handle.block_on(sending));
        apart.await.unwrap_or_else(|_| {
            let why = "the message could not be read to its end";
            (Err(Trouble::Lost(why.into())), None)
        })
    }

    async fn content(
        mut self,
        pieces: impl Iterator<Item = io::Result<Bytes>>,
    ) -> (Result<(), Trouble>, Option<Connection>) {
        let pieces = pieces.map(|piece| match piece {
            Ok(piece) => piece,
            // Whatever ends this iterator in order has lettre say the final dot, after half a message. So it ends
            // out of order, and the connection with it.
            Err(cause) => {
                error!("a message cannot be read while it is sent: {cause}");
                std::panic::resume_unwind(Box::new(cause))
            }
        });
        // The relay may store the message before it answers (RFC 5321 section 4.5.3.2.6 allows twice a command's time).
        let answer = in_time(self.timeout * 2, self.smtp.message_iter(pieces)).await;
        let outcome = match answer {
            // The one place where something counts as delivered. Any other positive answer belongs to another question.
            Ok(answer) if answer.has_code(250) => Ok(()),
            Ok(answer) => Err(Trouble::Lost(format!(
                "the data was answered with {}, not 250",
                answer.code()
            ))),
            Err(trouble) => Err(trouble),
        };
        (outcome, Some(self))
    }

    /// Says something that is answered with 2yz where it is accepted.
    async fn step(&mut self, command: &str) -> Result<(), Trouble> {
        in_time(self.timeout, self.smtp.command(command))
            .await
            .and_then(completed)
    }

    /// The answer to a command that was said together with others.
    async fn next_reply(&mut self) -> Result<(), Trouble> {
        in_time(self.timeout, self.smtp.read_response())
            .await
            .and_then(completed)
    }
}

/// DATA is answered with 354.
fn go_on(answer: Result<Response, Trouble>) -> Result<(), Trouble> {
    match answer {
        Ok(answer) if answer.has_code(354) => Ok(()),
        Ok(_) => {
            let why = "DATA was answered with something else than 354";
            Err(Trouble::Lost(why.into()))
        }
        Err(trouble) => Err(trouble),
    }
}

/// A 3yz is positive too, but it answers another question: the connection is out of step.
fn completed(answer: Response) -> Result<(), Trouble> {
    match u16::from(answer.code()) {
        200..300 => Ok(()),
        code => Err(Trouble::Lost(format!(
            "a command was answered with {code}, not 2yz"
        ))),
    }
}

async fn in_time(
    limit: Duration,
    step: impl Future<Output = Result<Response, SmtpError>>,
) -> Result<Response, Trouble> {
    match tokio::time::timeout(limit, step).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(trouble(&error)),
        Err(_) => Err(Trouble::Lost(format!(
            "the relay did not answer within {} s",
            limit.as_secs_f32()
        ))),
    }
}

fn trouble(error: &SmtpError) -> Trouble {
    match reply(error) {
        // 421: the relay closes the connection (RFC 5321 section 3.8).
        Some(reply) if reply.code == 421 => Trouble::Lost(reply.to_string()),
        Some(reply) => Trouble::Reply(reply),
        None => Trouble::Lost(sentence(error)),
    }
}

/// The reply that lettre made an error of.
fn reply(error: &SmtpError) -> Option<Reply> {
    let code = error.status()?;
    let code = u16::from(code);
    let text = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    let class = u8::try_from(code / 100).unwrap_or(4);
    Some(match Enhanced::from_text(&text) {
        Some(enhanced) if enhanced.0 == class => {
            let rest = text
                .trim_start()
                .split_once(' ')
                .map_or("", |(_, rest)| rest);
            Reply::new(code, enhanced, rest)
        }
        _ => Reply::new(code, Enhanced(class, 0, 0), text),
    })
}

fn fate_of(reply: &Reply) -> Fate {
    if reply.is_permanent() {
        Fate::Refused(reply.clone())
    } else {
        Fate::Later(reply.to_string())
    }
}

/// A no to MAIL is final for the item, but for those codes that say something about us: log in first (530), with
/// another account (535), by another mechanism (538).
fn fate_of_sender(reply: &Reply) -> Fate {
    match reply.code {
        530 | 535 | 538 => Fate::Later(reply.to_string()),
        _ => fate_of(reply),
    }
}

fn recipient_fate(said: Result<(), Trouble>) -> Result<Fate, String> {
    match said {
        Ok(()) => Ok(Fate::Delivered),
        Err(Trouble::Reply(reply)) => Ok(fate_of(&reply)),
        Err(Trouble::Lost(why)) => Err(why),
    }
}

/// What became of the data is what became of the accepted recipients.
fn settle(fates: &mut [Fate], outcome: &Fate) {
    for fate in fates.iter_mut().filter(|fate| **fate == Fate::Delivered) {
        *fate = outcome.clone();
    }
}

fn tls(settings: &RelaySettings, verified: bool) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(settings.host.clone())
        .dangerous_accept_invalid_certs(!verified)
        .dangerous_accept_invalid_hostnames(!verified);
    if let Some(path) = &settings.ca_file {
        let failed =
            |error: &dyn std::fmt::Display| format!("relay.ca_file {}: {error}", path.display());
        let pem = std::fs::read(path).map_err(|error| failed(&error))?;
        let certificates = Certificate::from_pem(&pem).map_err(|error| failed(&error))?;
        builder = builder
            .certificate_store(CertificateStore::None)
            .add_root_certificate(certificates);
    }
    builder.build().map_err(|error| sentence(&error))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// What was connecting, with a panic of lettre's as an answer that cannot be read: it panics on a line of white space in
/// the answer to EHLO (0.11.23), which is the relay's fault and not ours.
async fn no_panic<T>(connecting: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    AssertUnwindSafe(connecting)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err("gave an answer to EHLO that cannot be read".into()))
}

/// An error with its cause, on one line.
fn sentence(error: &SmtpError) -> String {
    let said = match std::error::Error::source(error) {
        Some(cause) if !error.to_string().contains(&cause.to_string()) => {
            format!("{error}: {cause}")
        }
        _ => error.to_string(),
    };
    certificate_fault(&said)
}

/// RFC 3461 section 4: everything but printable ASCII, and `+` and `=`, as `+XX`.
fn xtext(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_graphic() && byte != b'+' && byte != b'=' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("+{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_hides_what_has_a_meaning() {
        assert_eq!(xtext("copyist.a.b"), "copyist.a.b");
        assert_eq!(xtext("a+b=c d"), "a+2Bb+3Dc+20d");
    }

    #[test]
    fn a_refused_sender_is_final_unless_it_is_about_us() {
        let reply = |code| Reply::new(code, Enhanced(5, 7, 0), "x");
        assert!(matches!(fate_of_sender(&reply(550)), Fate::Refused(_)));
        assert!(matches!(fate_of_sender(&reply(530)), Fate::Later(_)));
        assert!(matches!(
            fate_of(&Reply::new(451, Enhanced(4, 7, 0), "x")),
            Fate::Later(_)
        ));
    }
}
