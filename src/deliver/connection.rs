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
    /// Whether a fresh connection may do better than one that was used before: it was lost before
    /// the relay had answered anything, as when the relay had closed it while it was idle, or the
    /// relay had enough of it and took no MAIL.
    pub(super) is_worth_another: bool,
}

/// What the relay said to MAIL and RCPT.
struct Envelope {
    /// `Delivered` stands for an accepted recipient until the data is through.
    fates: Vec<Fate>,
    /// The answer to DATA, where it was said with them.
    go_on: Option<Result<(), Trouble>>,
    /// Whether MAIL was answered with "not now".
    is_deferred: bool,
}

/// A step that did not go well.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The relay said no; the connection is in order.
    #[error("{0}")]
    Reply(Reply),
    /// The connection is of no use any more.
    #[error("{0}")]
    Lost(String),
    /// A reply answers another question: so may all replies before it, and none of them is
    /// believed.
    #[error("the relay's replies are out of step: {0}")]
    OutOfStep(String),
}

impl Connection {
    /// What the relay offers.
    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// When the relay's certificate expires, where it showed one.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        not_after(self.certificate.as_ref()?)
    }

    /// Whom of these it refuses mail from this sender to, and in which words; nothing is sent.
    /// `Err` says why it could not be asked.
    pub(super) async fn refusals(
        &mut self,
        sender: &Address,
        recipients: &[Address],
    ) -> Result<Vec<(Address, Reply)>, String> {
        match self.step(&format!("MAIL FROM:<{sender}>\r\n")).await {
            Ok(()) => {}
            Err(Trouble::Reply(reply)) => return Ok(vec![(sender.clone(), reply)]),
            Err(trouble) => return Err(trouble.to_string()),
        }
        let mut refused = Vec::new();
        for recipient in recipients {
            match self.step(&format!("RCPT TO:<{recipient}>\r\n")).await {
                Ok(()) => {}
                Err(Trouble::Reply(reply)) => refused.push((recipient.clone(), reply)),
                Err(trouble) => return Err(trouble.to_string()),
            }
        }
        let reset = self.reset().await;
        reset
            .map(|()| refused)
            .map_err(|trouble| trouble.to_string())
    }

    /// Whether the relay has said nothing since its last reply, and is still there.
    pub(super) fn is_quiet(&self) -> bool {
        self.channel.is_quiet()
    }

    /// Whether it has served its time: relays limit what comes in one session, and a relay of
    /// several machines is used evenly only by those who come again
    /// (smtp_connection_reuse_time_limit of Postfix).
    pub(super) fn is_spent(&self) -> bool {
        self.is_deferred || self.messages >= MOST_MESSAGES || self.opened.elapsed() >= LONGEST_LIFE
    }

    /// Says goodbye.
    pub(super) async fn quit(mut self) {
        self.channel.set_patience(Duration::from_secs(5));
        let _ = self.smtp.quit().await;
    }

    /// Hands one item to the relay for these recipients.
    pub(super) async fn send(
        mut self,
        item: &Item,
        original: &Content,
        recipients: &[Address],
    ) -> Sent {
        let seven_bit = match item.body {
            BodyKind::SevenBit => None,
            _ if self.capabilities.eight_bit_mime => None,
            _ => in_seven_bit(item, original).await,
        };
        let item = seven_bit.as_ref().unwrap_or(item);
        // A bare line break more or less does not matter: SIZE is an estimate (RFC 1870 section 5).
        let size = item.prefix.len() + original.len() + item.suffix.len();
        if let Some(fate) = self.unsendable(item, size) {
            return Sent {
                fates: vec![fate; recipients.len()],
                connection: Some(self),
                is_worth_another: false,
            };
        }
        self.messages += 1;
        let envelope = match self.envelope(item, size, recipients).await {
            Ok(said) => said,
            Err((why, is_worth_another)) => {
                return Sent {
                    fates: vec![Fate::Later(why); recipients.len()],
                    connection: None,
                    is_worth_another,
                };
            }
        };
        let Envelope {
            mut fates,
            go_on,
            is_deferred,
        } = envelope;
        let accepted = fates.contains(&Fate::Delivered);
        let (said, mut connection) = match go_on {
            _ if accepted => self.data(item, original, go_on).await,
            // It waits for a message to nobody, and would get an empty one.
            Some(Ok(())) => {
                let why = "the relay took DATA without a recipient";
                (Err(Trouble::Lost(why.into())), None)
            }
            Some(Err(Trouble::Reply(_))) | None => (Ok(()), Some(self)),
            Some(Err(trouble)) => (Err(trouble), None),
        };
        let is_refused = !accepted || matches!(said, Err(Trouble::Reply(_)));
        if let Err(Trouble::Reply(reply)) = &said {
            settle(&mut fates, &fate_of(reply));
        }
        if let Some(kept) = &mut connection {
            let is_later = |fate: &Fate| matches!(fate, Fate::Later(_));
            kept.is_deferred = is_refused && fates.iter().any(is_later);
        }
        let ended = match (said, &mut connection) {
            // A refusal leaves the transaction open (RFC 5321 section 4.1.1.4).
            (Ok(()) | Err(Trouble::Reply(_)), Some(kept)) if is_refused => kept.reset().await,
            (said, _) => said,
        };
        match &ended {
            Ok(()) | Err(Trouble::Reply(_)) => {}
            Err(trouble @ Trouble::OutOfStep(_)) => fates.fill(Fate::Later(trouble.to_string())),
            Err(Trouble::Lost(why)) => {
                // It may have the message all the same. Sent again it has the same Message-ID.
                settle(&mut fates, &Fate::Later(why.clone()));
            }
        }
        Sent {
            fates,
            connection: connection.filter(|_| ended.is_ok()),
            is_worth_another: is_deferred,
        }
    }

    /// What the relay has said it cannot take. The original is never re-encoded to suit it.
    fn unsendable(&self, item: &Item, size: usize) -> Option<Fate> {
        if let Some(limit) = self.capabilities.exceeded_size_limit(size) {
            let (size, limit) = (mail::format_size(size as u64), mail::format_size(limit));
            let text = format!("Message of {size} is larger than the relay's limit of {limit}");
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

    /// MAIL and RCPT. Where the relay takes several commands at once, DATA goes with them (RFC 2920
    /// section 3.1). `Err`: the connection is lost, why, and whether that was before the relay had
    /// answered anything.
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
                Err(Trouble::Reply(reply)) => {
                    return Ok(Envelope {
                        fates: vec![fate_of(&reply); recipients.len()],
                        go_on: None,
                        is_deferred: reply.is_transient(),
                    });
                }
                Err(trouble) => return Err((trouble.to_string(), true)),
            }
            let mut fates = Vec::new();
            for rcpt in &rcpts {
                let said = self.step(rcpt).await;
                fates.push(recipient_fate(said).map_err(|why| (why, false))?);
            }
            return Ok(Envelope {
                fates,
                go_on: None,
                is_deferred: false,
            });
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
                    Err(trouble) => return Err((trouble.to_string(), true)),
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
            true => Some(go_on(self.read().await)),
            false => None,
        };
        // What was said about recipients of a refused sender is about the missing sender.
        if let Some(reply) = &refused_sender {
            fates.fill(fate_of(reply));
        }
        Ok(Envelope {
            fates,
            go_on,
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
                // What the sender asked for, as he wrote it.
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

    /// DATA, unless it was said and answered, and the message. Gives the connection back where that
    /// is still there.
    async fn data(
        mut self,
        item: &Item,
        original: &Content,
        said: Option<Result<(), Trouble>>,
    ) -> (Result<(), Trouble>, Option<Connection>) {
        let said = match said {
            Some(said) => said,
            None => go_on(self.ask("DATA\r\n").await),
        };
        if let Err(trouble) = said {
            return (Err(trouble), Some(self));
        }
        let pieces = std::iter::once(Ok(item.prefix.clone()))
            .chain(original.chunks(0))
            .chain(std::iter::once(Ok(item.suffix.clone())));
        let sending = self.content(canonical(pieces));
        if let Content::Memory(_) = original {
            return sending.await;
        }
        // Reading a file may hold a thread up, and lettre reads while it writes; so that is not one
        // of the threads that serve everybody.
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
            // Whatever ends this iterator in order has lettre say the final dot, after half a
            // message. So it ends out of order, and the connection with it.
            Err(cause) => {
                error!("a message cannot be read while it is sent: {cause}");
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
            let outcome = match self.told() {
                // The one place where something counts as delivered. Any other positive answer
                // belongs to another question.
                Ok(answer) if answer.code == 250 => Ok(()),
                Ok(answer) if answer.is_transient() || answer.is_permanent() => completed(&answer),
                Ok(answer) => Err(Trouble::OutOfStep(format!(
                    "the data was answered with {}, not 250",
                    answer.code
                ))),
                Err(trouble) => Err(trouble),
            };
            return (outcome, Some(self));
        };
        let refused = self.channel.reply().map(|answer| completed(&answer));
        let lost = || Err(Trouble::Lost(self.channel.failure()));
        (refused.unwrap_or_else(lost), None)
    }

    /// Sends a command and gives the answer.
    pub(super) async fn ask(&mut self, command: &str) -> Result<ServerReply, Trouble> {
        // lettre's own errors are the channel's: all else that it reads is "250 ok".
        let _ = self.smtp.command(command).await;
        self.told()
    }

    /// The answer to a command that was said together with others.
    async fn read(&mut self) -> Result<ServerReply, Trouble> {
        let _ = self.smtp.read_response().await;
        self.told()
    }

    fn told(&self) -> Result<ServerReply, Trouble> {
        let lost = || Trouble::Lost(self.channel.failure());
        self.channel.reply().ok_or_else(lost)
    }

    /// Says something that is answered with 2yz where it is accepted.
    async fn step(&mut self, command: &str) -> Result<(), Trouble> {
        completed(&self.ask(command).await?)
    }

    /// Ends the transaction. RSET cannot be refused: another answer than yes belongs to another
    /// command, and so may all that were taken for answers to the commands before it.
    async fn reset(&mut self) -> Result<(), Trouble> {
        match self.step("RSET\r\n").await {
            Err(Trouble::Reply(reply)) => Err(Trouble::OutOfStep(format!(
                "RSET was answered with {reply}"
            ))),
            ended => ended,
        }
    }

    /// The answer to a command that was said together with others.
    async fn next_reply(&mut self) -> Result<(), Trouble> {
        completed(&self.read().await?)
    }
}

/// The item as 7 bits, if that can be. Reads all of the original, which may be a file.
async fn in_seven_bit(item: &Item, original: &Content) -> Option<Item> {
    let (item, original) = (item.clone(), original.clone());
    let encoding = tokio::task::spawn_blocking(move || seven_bit(&item, &original));
    // What cannot be read is set aside when it is loaded again.
    encoding.await.ok()?.ok().flatten()
}

/// DATA is answered with 354.
fn go_on(answer: Result<ServerReply, Trouble>) -> Result<(), Trouble> {
    let answer = answer?;
    match answer.code {
        354 => Ok(()),
        400.. => completed(&answer),
        code => Err(Trouble::OutOfStep(format!(
            "DATA was answered with {code}, not 354"
        ))),
    }
}

/// A 3yz is positive too, but it answers another question: the connection is out of step.
pub(super) fn completed(answer: &ServerReply) -> Result<(), Trouble> {
    match answer.code {
        200..300 => Ok(()),
        // The relay closes the connection (RFC 5321 section 3.8).
        421 => Err(Trouble::Lost(answer.to_reply().to_string())),
        400.. => Err(Trouble::Reply(answer.to_reply())),
        code => Err(Trouble::OutOfStep(format!(
            "a command was answered with {code}, not 2yz"
        ))),
    }
}

/// What a reply means for the item or the recipient it is about. Codes that say something about us
/// are no refusal: log in first (530), with another account (535), by another mechanism (534, 538;
/// RFC 4954 section 6).
fn fate_of(reply: &Reply) -> Fate {
    let is_about_us = matches!(reply.code, 530 | 534 | 535 | 538);
    if reply.is_permanent() && !is_about_us {
        Fate::Refused(reply.clone())
    } else {
        Fate::Later(reply.to_string())
    }
}

fn recipient_fate(said: Result<(), Trouble>) -> Result<Fate, String> {
    match said {
        Ok(()) => Ok(Fate::Delivered),
        Err(Trouble::Reply(reply)) => Ok(fate_of(&reply)),
        Err(trouble) => Err(trouble.to_string()),
    }
}

/// What became of the data is what became of the accepted recipients.
fn settle(fates: &mut [Fate], outcome: &Fate) {
    for fate in fates.iter_mut().filter(|fate| **fate == Fate::Delivered) {
        *fate = outcome.clone();
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
    fn xtext_hides_what_has_a_meaning() {
        assert_eq!(xtext("copyist.a.b"), "copyist.a.b");
        assert_eq!(xtext("a+b=c d"), "a+2Bb+3Dc+20d");
    }

    #[test]
    fn a_refusal_is_final_unless_it_is_about_us() {
        let reply = |code| Reply::new(code, Enhanced((code / 100) as u8, 7, 0), "x");
        for code in [550, 552, 554, 571] {
            assert!(matches!(fate_of(&reply(code)), Fate::Refused(_)), "{code}");
        }
        for code in [530, 534, 535, 538, 450, 451, 454] {
            assert!(matches!(fate_of(&reply(code)), Fate::Later(_)), "{code}");
        }
    }
}
