//! One connection to the relay, on lettre's `AsyncSmtpConnection`.
//!
//! Promises: every step ends within its deadline; only a 250 after the data counts as delivered; a
//! connection on which anything went otherwise than in order is never used again, because its next
//! reply may belong to the last command. lettre sends; what the relay replies is read by
//! [`Channel`]. Does not use lettre's transport or pool: these lose track of replies when a send is
//! cancelled, and stop at the first refused recipient.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use tokio::runtime::Handle;
use tracing::error;

use super::channel::Channel;
use super::wire::canonical;
use crate::journal::{Item, Kind, seven_bit};
use crate::mail::{self, Address, BodyKind, Content, Enhanced, Reply};
use crate::smtp::{Capabilities, ServerReply};
use crate::tls::not_after;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

/// RCPT commands in one batch, so that neither side's buffers fill while both write.
const BATCH: usize = 50;

/// Messages on one connection at most: fewer than relays commonly allow.
const MOST_MESSAGES: u32 = 100;
/// How long a connection is used at most.
const LONGEST_LIFE: Duration = Duration::from_secs(300);

/// An open connection, ready for MAIL.
pub(super) struct Connection {
    pub(super) smtp: AsyncSmtpConnection,
    pub(super) channel: Channel,
    pub(super) capabilities: Capabilities,
    pub(super) timeout: Duration,
    /// The relay's certificate, in DER, where the connection is encrypted.
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) is_encrypted: bool,
    /// When it was opened.
    pub(super) opened: Instant,
    /// Messages that were begun on it.
    pub(super) messages: u32,
    /// Whether the relay said "not now" to something that the next item would meet as well.
    pub(super) is_deferred: bool,
    /// Why the connection is not encrypted though the relay offered that.
    pub(super) tls_fault: Option<String>,
    /// One of as many as there are connections.
    pub(super) counted: Option<Arc<()>>,
}

/// The relay's decision about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecipientOutcome {
    /// Accepted.
    Delivered,
    /// Deferred, with the reason.
    Deferred(String),
    /// Rejected for good.
    Rejected(Reply),
}

/// Result of sending an item.
pub(super) struct SendResult {
    /// The outcome for each recipient, in order.
    pub(super) outcomes: Vec<RecipientOutcome>,
    /// The connection, if it can be reused.
    pub(super) connection: Option<Connection>,
    /// Whether to retry on a new connection: this one was lost before any reply, for example
    /// because the relay closed it while idle, or the relay deferred MAIL on it.
    pub(super) should_retry: bool,
}

/// The relay's replies to MAIL and RCPT.
struct Envelope {
    /// `Delivered` stands for an accepted recipient until the data is through.
    outcomes: Vec<RecipientOutcome>,
    /// The answer to DATA, where it was said with them.
    data_reply: Option<Result<(), CommandError>>,
    /// Whether MAIL was answered with "not now".
    is_deferred: bool,
}

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// A negative reply; the connection stays usable.
    #[error("{0}")]
    Reply(Reply),
    /// The connection is unusable.
    #[error("{0}")]
    Lost(String),
    /// A reply belongs to another command; so may all replies before it, and none counts.
    #[error("the relay's replies are out of sync: {0}")]
    OutOfSync(String),
}

impl Connection {
    /// Returns the relay's EHLO capabilities.
    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Returns when the relay's certificate expires, if it sent one.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        not_after(self.certificate.as_ref()?)
    }

    /// Returns the recipients that the relay rejects for this sender, with its replies; sends no
    /// message. `Err` is the reason the relay could not be asked.
    pub(super) async fn refusals(
        &mut self,
        sender: &Address,
        recipients: &[Address],
    ) -> Result<Vec<(Address, Reply)>, String> {
        match self.step(&format!("MAIL FROM:<{sender}>\r\n")).await {
            Ok(()) => {}
            Err(CommandError::Reply(reply)) => return Ok(vec![(sender.clone(), reply)]),
            Err(error) => return Err(error.to_string()),
        }
        let mut refused = Vec::new();
        for recipient in recipients {
            match self.step(&format!("RCPT TO:<{recipient}>\r\n")).await {
                Ok(()) => {}
                Err(CommandError::Reply(reply)) => refused.push((recipient.clone(), reply)),
                Err(error) => return Err(error.to_string()),
            }
        }
        let reset = self.reset().await;
        reset.map(|()| refused).map_err(|error| error.to_string())
    }

    /// Whether the connection is open and without an unsolicited reply.
    pub(super) fn is_quiet(&self) -> bool {
        self.channel.is_quiet()
    }

    /// Whether the connection should not be reused: relays limit messages per session, and new
    /// connections balance load over the hosts of a relay (smtp_connection_reuse_time_limit of
    /// Postfix).
    pub(super) fn is_spent(&self) -> bool {
        self.is_deferred || self.messages >= MOST_MESSAGES || self.opened.elapsed() >= LONGEST_LIFE
    }

    /// Sends QUIT and closes.
    pub(super) async fn quit(mut self) {
        self.channel.set_patience(Duration::from_secs(5));
        let _ = self.smtp.quit().await;
    }

    /// Sends one item to these recipients.
    pub(super) async fn send(
        mut self,
        item: &Item,
        original: &Content,
        recipients: &[Address],
    ) -> SendResult {
        let seven_bit = match item.body {
            BodyKind::SevenBit => None,
            _ if self.capabilities.eight_bit_mime => None,
            _ => in_seven_bit(item, original).await,
        };
        let item = seven_bit.as_ref().unwrap_or(item);
        // A bare line break more or less does not matter: SIZE is an estimate (RFC 1870 section 5).
        let size = item.prefix.len() + original.len() + item.suffix.len();
        if let Some(outcome) = self.unsendable(item, size) {
            return SendResult {
                outcomes: vec![outcome; recipients.len()],
                connection: Some(self),
                should_retry: false,
            };
        }
        self.messages += 1;
        let envelope = match self.envelope(item, size, recipients).await {
            Ok(said) => said,
            Err((why, should_retry)) => {
                return SendResult {
                    outcomes: vec![RecipientOutcome::Deferred(why); recipients.len()],
                    connection: None,
                    should_retry,
                };
            }
        };
        let Envelope {
            mut outcomes,
            data_reply,
            is_deferred,
        } = envelope;
        let accepted = outcomes.contains(&RecipientOutcome::Delivered);
        let (said, mut connection) = match data_reply {
            _ if accepted => self.data(item, original, data_reply).await,
            // It waits for a message to nobody, and would get an empty one.
            Some(Ok(())) => {
                let why = "the relay took DATA without a recipient";
                (Err(CommandError::Lost(why.into())), None)
            }
            Some(Err(CommandError::Reply(_))) | None => (Ok(()), Some(self)),
            Some(Err(error)) => (Err(error), None),
        };
        let is_refused = !accepted || matches!(said, Err(CommandError::Reply(_)));
        if let Err(CommandError::Reply(reply)) = &said {
            replace_accepted(&mut outcomes, &outcome_of(reply));
        }
        if let Some(kept) = &mut connection {
            let is_later =
                |outcome: &RecipientOutcome| matches!(outcome, RecipientOutcome::Deferred(_));
            kept.is_deferred = is_refused && outcomes.iter().any(is_later);
        }
        let ended = match (said, &mut connection) {
            // A refusal leaves the transaction open (RFC 5321 section 4.1.1.4).
            (Ok(()) | Err(CommandError::Reply(_)), Some(kept)) if is_refused => kept.reset().await,
            (said, _) => said,
        };
        match &ended {
            Ok(()) | Err(CommandError::Reply(_)) => {}
            Err(error @ CommandError::OutOfSync(_)) => {
                outcomes.fill(RecipientOutcome::Deferred(error.to_string()));
            }
            Err(CommandError::Lost(why)) => {
                // It may have the message all the same. SendResult again it has the same Message-ID.
                replace_accepted(&mut outcomes, &RecipientOutcome::Deferred(why.clone()));
            }
        }
        SendResult {
            outcomes,
            connection: connection.filter(|_| ended.is_ok()),
            should_retry: is_deferred,
        }
    }

    /// Returns the outcome of an item that the relay cannot accept by its capabilities. The
    /// original is never re-encoded.
    fn unsendable(&self, item: &Item, size: usize) -> Option<RecipientOutcome> {
        if let Some(limit) = self.capabilities.exceeded_size_limit(size) {
            let (size, limit) = (mail::format_size(size as u64), mail::format_size(limit));
            let text = format!("Message of {size} is larger than the relay's limit of {limit}");
            return Some(RecipientOutcome::Rejected(Reply::new(
                552,
                Enhanced(5, 3, 4),
                text,
            )));
        }
        if item.smtputf8 && !self.capabilities.smtputf8 {
            return Some(RecipientOutcome::Deferred(
                "the relay does not offer SMTPUTF8, which an address of this item needs".into(),
            ));
        }
        if item.body != BodyKind::SevenBit && !self.capabilities.eight_bit_mime {
            return Some(RecipientOutcome::Deferred(
                "the relay does not offer 8BITMIME, which the original needs".into(),
            ));
        }
        None
    }

    /// Sends MAIL and RCPT, with PIPELINING also DATA (RFC 2920 section 3.1). `Err`: why the
    /// connection was lost, and whether that was before any reply.
    async fn envelope(
        &mut self,
        item: &Item,
        size: usize,
        recipients: &[Address],
    ) -> Result<Envelope, (String, bool)> {
        let mail = self.mail_command(item, size);
        let rcpts: Vec<String> = recipients
            .iter()
            .map(|address| self.rcpt_command(item, address))
            .collect();
        if !self.capabilities.pipelining {
            match self.step(&mail).await {
                Ok(()) => {}
                Err(CommandError::Reply(reply)) => {
                    return Ok(Envelope {
                        outcomes: vec![outcome_of(&reply); recipients.len()],
                        data_reply: None,
                        is_deferred: reply.is_transient(),
                    });
                }
                Err(error) => return Err((error.to_string(), true)),
            }
            let mut outcomes = Vec::new();
            for rcpt in &rcpts {
                let said = self.step(rcpt).await;
                outcomes.push(recipient_outcome(said).map_err(|why| (why, false))?);
            }
            return Ok(Envelope {
                outcomes,
                data_reply: None,
                is_deferred: false,
            });
        }
        let mut outcomes: Vec<RecipientOutcome> = Vec::new();
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
                    Err(CommandError::Reply(reply)) => refused_sender = Some(reply),
                    Err(error) => return Err((error.to_string(), true)),
                }
                said = self.next_reply().await;
            }
            for last in 1..=batch.len() {
                outcomes.push(recipient_outcome(said).map_err(|why| (why, false))?);
                if last == batch.len() {
                    break;
                }
                said = self.next_reply().await;
            }
        }
        let data_reply = match with_data {
            true => Some(data_reply(self.read().await)),
            false => None,
        };
        // What was said about recipients of a refused sender is about the missing sender.
        if let Some(reply) = &refused_sender {
            outcomes.fill(outcome_of(reply));
        }
        Ok(Envelope {
            outcomes,
            data_reply,
            is_deferred: refused_sender.is_some_and(|reply| reply.is_transient()),
        })
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
                // The sender's own parameters, verbatim.
                Kind::Version => command.extend(item.dsn.sender.iter().map(|p| format!(" {p}"))),
                _ => command.push_str(&format!(" RET=HDRS ENVID={}", xtext(&item.envelope_id))),
            }
        }
        command + "\r\n"
    }

    fn rcpt_command(&self, item: &Item, address: &Address) -> String {
        // A bounce of a report must come back; one of an NDR has nowhere to go (RFC 3461 section
        // 4.1).
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

    /// Sends DATA, unless it was pipelined, and the message. Returns the connection if it is still
    /// usable.
    async fn data(
        mut self,
        item: &Item,
        original: &Content,
        said: Option<Result<(), CommandError>>,
    ) -> (Result<(), CommandError>, Option<Connection>) {
        let said = match said {
            Some(said) => said,
            None => data_reply(self.ask("DATA\r\n").await),
        };
        if let Err(error) = said {
            return (Err(error), Some(self));
        }
        let pieces = std::iter::once(Ok(item.prefix.clone()))
            .chain(original.chunks(0))
            .chain(std::iter::once(Ok(item.suffix.clone())));
        let sending = self.content(canonical(pieces));
        if let Content::Memory(_) = original {
            return sending.await;
        }
        // lettre reads the file while it writes, which blocks; so this runs on a blocking thread.
        let handle = Handle::current();
        let apart = tokio::task::spawn_blocking(move || handle.block_on(sending));
        apart.await.unwrap_or_else(|_| {
            let why = "the message could not be read to its end";
            (Err(CommandError::Lost(why.into())), None)
        })
    }

    async fn content(
        mut self,
        pieces: impl Iterator<Item = io::Result<Bytes>>,
    ) -> (Result<(), CommandError>, Option<Connection>) {
        let pieces = pieces.map(|piece| match piece {
            Ok(piece) => piece,
            // If the iterator ended normally, lettre would send the final dot after half a message.
            // So it panics, which also ends the connection.
            Err(cause) => {
                error!("cannot read a message while sending it: {cause}");
                std::panic::resume_unwind(Box::new(cause))
            }
        });
        // The relay may store the message before it answers (RFC 5321 section 4.5.3.2.6 allows
        // twice a command's time).
        self.channel.set_patience(self.timeout * 2);
        self.channel.begin_message();
        let sent = self.smtp.message_iter(pieces).await;
        self.channel.set_patience(self.timeout);
        let Err(_) = sent else {
            let outcome = match self.take_reply() {
                // The one place where a message counts as delivered. Any other positive reply
                // belongs to another command.
                Ok(answer) if answer.code == 250 => Ok(()),
                Ok(answer) if answer.is_transient() || answer.is_permanent() => completed(&answer),
                Ok(answer) => Err(CommandError::OutOfSync(format!(
                    "the data was answered with {}, not 250",
                    answer.code
                ))),
                Err(error) => Err(error),
            };
            return (outcome, Some(self));
        };
        let refused = self.channel.reply().map(|answer| completed(&answer));
        let lost = || Err(CommandError::Lost(self.channel.failure()));
        (refused.unwrap_or_else(lost), None)
    }

    /// Sends a command and returns the reply.
    pub(super) async fn ask(&mut self, command: &str) -> Result<ServerReply, CommandError> {
        // lettre's own errors are the channel's: all else that it reads is "250 ok".
        let _ = self.smtp.command(command).await;
        self.take_reply()
    }

    /// The answer to a command that was said together with others.
    async fn read(&mut self) -> Result<ServerReply, CommandError> {
        let _ = self.smtp.read_response().await;
        self.take_reply()
    }

    fn take_reply(&self) -> Result<ServerReply, CommandError> {
        let lost = || CommandError::Lost(self.channel.failure());
        self.channel.reply().ok_or_else(lost)
    }

    /// Sends a command that succeeds with 2yz.
    async fn step(&mut self, command: &str) -> Result<(), CommandError> {
        completed(&self.ask(command).await?)
    }

    /// Ends the transaction. RSET cannot be rejected: a negative reply belongs to another command,
    /// and so may the replies before it.
    async fn reset(&mut self) -> Result<(), CommandError> {
        match self.step("RSET\r\n").await {
            Err(CommandError::Reply(reply)) => Err(CommandError::OutOfSync(format!(
                "RSET was answered with {reply}"
            ))),
            ended => ended,
        }
    }

    /// The answer to a command that was said together with others.
    async fn next_reply(&mut self) -> Result<(), CommandError> {
        completed(&self.read().await?)
    }
}

/// Encodes the item as 7 bits, if possible. Reads the whole original, which may be a file.
async fn in_seven_bit(item: &Item, original: &Content) -> Option<Item> {
    let (item, original) = (item.clone(), original.clone());
    let encoding = tokio::task::spawn_blocking(move || seven_bit(&item, &original));
    // What cannot be read is set aside when it is loaded again.
    encoding.await.ok()?.ok().flatten()
}

/// DATA is answered with 354.
fn data_reply(answer: Result<ServerReply, CommandError>) -> Result<(), CommandError> {
    let answer = answer?;
    match answer.code {
        354 => Ok(()),
        400.. => completed(&answer),
        code => Err(CommandError::OutOfSync(format!(
            "DATA was answered with {code}, not 354"
        ))),
    }
}

/// Checks for a 2yz reply. A 3yz reply is positive, too, but belongs to another command: the
/// connection is out of sync.
pub(super) fn completed(answer: &ServerReply) -> Result<(), CommandError> {
    match answer.code {
        200..300 => Ok(()),
        // The relay closes the connection (RFC 5321 section 3.8).
        421 => Err(CommandError::Lost(answer.to_reply().to_string())),
        400.. => Err(CommandError::Reply(answer.to_reply())),
        code => Err(CommandError::OutOfSync(format!(
            "a command was answered with {code}, not 2yz"
        ))),
    }
}

/// Returns the outcome a reply means. Codes about authentication are not rejections of the item:
/// authentication required (530), invalid credentials (535), other mechanism needed (534, 538; RFC
/// 4954 section 6).
fn outcome_of(reply: &Reply) -> RecipientOutcome {
    let is_about_us = matches!(reply.code, 530 | 534 | 535 | 538);
    if reply.is_permanent() && !is_about_us {
        RecipientOutcome::Rejected(reply.clone())
    } else {
        RecipientOutcome::Deferred(reply.to_string())
    }
}

fn recipient_outcome(said: Result<(), CommandError>) -> Result<RecipientOutcome, String> {
    match said {
        Ok(()) => Ok(RecipientOutcome::Delivered),
        Err(CommandError::Reply(reply)) => Ok(outcome_of(&reply)),
        Err(error) => Err(error.to_string()),
    }
}

/// Applies the outcome of the data to the accepted recipients.
fn replace_accepted(outcomes: &mut [RecipientOutcome], replacement: &RecipientOutcome) {
    for outcome in outcomes
        .iter_mut()
        .filter(|outcome| **outcome == RecipientOutcome::Delivered)
    {
        *outcome = replacement.clone();
    }
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
    fn xtext_encodes_special_characters() {
        assert_eq!(xtext("copyist.a.b"), "copyist.a.b");
        assert_eq!(xtext("a+b=c d"), "a+2Bb+3Dc+20d");
    }

    #[test]
    fn a_refusal_is_final_unless_it_is_about_us() {
        let reply = |code| Reply::new(code, Enhanced((code / 100) as u8, 7, 0), "x");
        for code in [550, 552, 554, 571] {
            assert!(
                matches!(outcome_of(&reply(code)), RecipientOutcome::Rejected(_)),
                "{code}"
            );
        }
        for code in [530, 534, 535, 538, 450, 451, 454] {
            assert!(
                matches!(outcome_of(&reply(code)), RecipientOutcome::Deferred(_)),
                "{code}"
            );
        }
    }
}
