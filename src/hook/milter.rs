//! The milter hook, for Postfix and Sendmail.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::error::chain;
use crate::identity::parse_path;
use crate::mail::{
    Address, AddressError, Certificate, Client, Enhanced, Envelope, LimitExceeded, Message,
    Recipient, Reply, Side,
};
use crate::milter::{
    self, Actions, Agreement, ConnectionError, Edit, Handler, Macros, MessageAnswer,
    MessageDecision, PartialTransaction, Path, Peer, RecipientAnswer, Requirements, Transaction,
};
use crate::pipeline::{ChangeSupport, Changes, Pipeline, RecipientChecks};
use crate::policy::{Admission, Guard};

use super::Listener;
use super::access_control::{AccessControl, ConnectionRejection, ConnectionSlot};
use super::body_buffer::BodyBuffer;
use super::client_networks::ConnectedPeer;
use super::edits::edits;

/// Pause after accept(2) failed for lack of file descriptors or memory: trying again at once would
/// only burn CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Milter actions needed to add disclaimer texts to a message.
const EDIT_ACTIONS: Actions = Actions::from_bits(
    Actions::CHANGE_BODY.bits() | Actions::CHANGE_HEADERS.bits() | Actions::ADD_HEADERS.bits(),
);

/// Accepts connections until `shutdown`. `side` fixes the senders' side, if set. Each recipient_checks
/// connection is served by a task of `sessions`, which the caller waits for.
pub async fn serve(
    listener: Listener,
    side: Option<Side>,
    access_control: Arc<AccessControl>,
    pipelines: Arc<ArcSwap<Pipeline>>,
    sessions: TaskTracker,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match access_control.admit(peer) {
                Ok((slot, limits)) => {
                    let slot = Arc::new(slot);
                    let close = slot.close();
                    let session = MilterSession::new(pipelines.clone(), side, slot.clone());
                    let requirements = session.requirements();
                    let served =
                        milter::serve(stream, requirements, limits, session, shutdown.clone());
                    let access_control = access_control.clone();
                    sessions.spawn(async move {
                        gauge!("copyist_milter_connections").increment(1);
                        match close.run_until_cancelled(served).await {
                            Some(Ok(())) => {}
                            Some(Err(reason)) => record_end(&access_control, peer, &reason),
                            None => slot.record_idle_close(peer),
                        }
                        gauge!("copyist_milter_connections").decrement(1);
                        drop(slot);
                    });
                }
                Err(why) => access_control.record_rejection(peer, why),
            },
            Err(cause) => {
                error!("cannot accept a milter connection: {cause}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts and logs a connection that did not end in order.
fn record_end(access_control: &AccessControl, peer: ConnectedPeer, reason: &ConnectionError) {
    if reason.is_not_milter() {
        access_control.log_rejection(peer, ConnectionRejection::NotMilter, reason);
        return;
    }
    counter!("copyist_milter_connections_broken_total").increment(1);
    warn!("milter connection failed: {}", chain(reason));
}

/// One milter connection.
struct MilterSession {
    pipelines: Arc<ArcSwap<Pipeline>>,
    /// The pipeline of the current message, with the settings in force when it began.
    pipeline: Arc<Pipeline>,
    /// The senders' side, if the listener fixes it.
    side: Option<Side>,
    /// Whether the MTA asks about recipients, as negotiated when the connection began.
    answers_recipients: bool,
    /// The negotiated protocol and actions.
    agreement: Option<Agreement>,
    /// The recipient checks of the current message.
    recipient_checks: RecipientChecks,
    /// The part of the current message received so far.
    body_buffer: BodyBuffer,
    /// Its slot among the open connections.
    slot: Arc<ConnectionSlot>,
}

impl MilterSession {
    fn new(
        pipelines: Arc<ArcSwap<Pipeline>>,
        side: Option<Side>,
        slot: Arc<ConnectionSlot>,
    ) -> MilterSession {
        let pipeline = pipelines.load_full();
        let answers_recipients = pipeline.ruleset.rules.journal_guard != Guard::Off;
        let recipient_checks = pipeline.begin();
        MilterSession {
            pipelines,
            pipeline,
            side,
            answers_recipients,
            agreement: None,
            recipient_checks,
            body_buffer: BodyBuffer::default(),
            slot,
        }
    }

    /// Returns what to negotiate with the MTA: no more than the settings need.
    fn requirements(&self) -> Requirements {
        let text = &self.pipeline.ruleset.text;
        let actions = match (text.is_empty(), text.split_mixed) {
            // To remove Copyist's own header fields from external mail.
            (true, _) => Actions::CHANGE_HEADERS,
            (false, false) => EDIT_ACTIONS,
            (false, true) => EDIT_ACTIONS | Actions::DELETE_RECIPIENTS,
        };
        Requirements {
            actions,
            answer_recipients: self.answers_recipients,
        }
    }

    /// Parses an address as written, and as the MTA resolves it if that differs. An address without
    /// a domain gets the MTA's own, which only the MTA knows for sure.
    fn parse_address(&self, path: &Path) -> Result<(Address, Option<Address>), AddressError> {
        let mta = Address::parse(&path.resolved).ok();
        let written = match (Address::parse(&path.address), &mta) {
            (Err(AddressError::Unqualified(_)), Some(mta)) => Ok(mta.clone()),
            (Err(AddressError::Unqualified(_) | AddressError::Malformed(_)), _) => {
                let default = self
                    .pipeline
                    .ruleset
                    .rules
                    .organization
                    .names
                    .default_domain();
                let read = parse_path(&path.address, default.unwrap_or("localhost"));
                read.or_else(|error| mta.clone().ok_or(error))
            }
            (read, _) => read,
        }?;
        let mta = mta.filter(|mta| *mta != written);
        Ok((written, mta))
    }

    /// Returns the envelope as far as it is known.
    fn envelope(&self, partial: PartialTransaction<'_>) -> Result<Envelope, Reply> {
        let (sender, resolved_sender) = match self.parse_address(partial.sender) {
            Ok((address, reading)) => (Some(address), reading),
            Err(AddressError::Empty) => (None, None),
            // 5.1.7: bad sender's mailbox address syntax.
            Err(error) => {
                return Err(Reply::new(
                    553,
                    Enhanced(5, 1, 7),
                    format!("Sender: {error}"),
                ));
            }
        };
        let recipients = partial.recipients.iter().map(|path| {
            let (address, resolved) = self
                .parse_address(path)
                .map_err(|error| bad_recipient(&error))?;
            Ok(Recipient {
                resolved,
                params: path.params.clone(),
                ..Recipient::new(address)
            })
        });
        Ok(Envelope {
            recipients: recipients.collect::<Result<_, Reply>>()?,
            sender,
            resolved_sender,
            header_authors: Vec::new(),
            sender_params: partial.sender.params.clone(),
            client: Client {
                side: self.side,
                ..client(partial.connection, partial.helo, partial.macros)
            },
            // Postfix names it after the first recipient, Sendmail before.
            queue_id: partial.macros.get("i").unwrap_or_default().to_owned(),
        })
    }

    async fn check_guard(
        &mut self,
        partial: PartialTransaction<'_>,
        recipient: &Path,
    ) -> Result<(), Reply> {
        // Without the recipients before it: nothing depends on them, and parsing them again for
        // each recipient would be quadratic.
        let envelope = self.envelope(PartialTransaction {
            recipients: &[],
            ..partial
        })?;
        let (written, mta) = self
            .parse_address(recipient)
            .map_err(|error| bad_recipient(&error))?;
        let admission = self
            .pipeline
            .check_recipient(
                &envelope,
                &written,
                mta.as_ref(),
                &mut self.recipient_checks,
            )
            .await?;
        if admission == Admission::Provisional {
            self.recipient_checks.provisional.push(written);
        }
        Ok(())
    }

    async fn process(&mut self, transaction: Transaction) -> Result<Vec<Edit>, Reply> {
        let envelope = self.envelope(PartialTransaction {
            connection: &transaction.connection,
            helo: &transaction.helo,
            sender: &transaction.sender,
            recipients: &transaction.recipients,
            macros: &transaction.macros,
        })?;
        let (spool, memory) = (
            &self.pipeline.services.spool,
            &self.pipeline.services.memory,
        );
        let arrived = std::mem::take(&mut self.body_buffer);
        // The reservation is held until the message is decided.
        let (content, _room) = arrived.finish(transaction.message, spool, memory).await?;
        let message = Message::with_header(content, transaction.header);
        // An abort may have left recipients of another message here.
        self.recipient_checks
            .provisional
            .retain(|address| envelope.recipient_addresses().any(|known| known == address));
        let now = SystemTime::now();
        let support = MilterSupport {
            agreement: self.agreement,
            recipients: &transaction.recipients,
        };
        let changes = self
            .pipeline
            .process(&envelope, &message, &self.recipient_checks, &support, now)
            .await?;
        Ok(edits(&message, &changes, &transaction.recipients))
    }
}

/// The changes that the negotiated milter actions allow.
struct MilterSupport<'a> {
    agreement: Option<Agreement>,
    recipients: &'a [Path],
}

impl ChangeSupport for MilterSupport<'_> {
    fn check(&self, message: &Message, changes: &Changes) -> Result<(), String> {
        let edits = edits(message, changes, self.recipients);
        match &self.agreement {
            _ if edits.is_empty() => Ok(()),
            Some(agreement) => milter::check_edits(&edits, agreement).map_err(|e| e.to_string()),
            None => Err("no actions were negotiated with the MTA".into()),
        }
    }
}

impl Handler for MilterSession {
    fn set_agreement(&mut self, agreement: &Agreement) {
        self.agreement = Some(*agreement);
        self.slot.begin();
    }

    /// Loads the current pipeline, which serves this message to its end.
    fn begin_message(&mut self) {
        self.pipeline = self.pipelines.load_full();
        self.recipient_checks = self.pipeline.begin();
    }

    async fn check_recipient(
        &mut self,
        partial: PartialTransaction<'_>,
        recipient: &Path,
    ) -> RecipientAnswer {
        match self.check_guard(partial, recipient).await {
            Ok(()) => RecipientAnswer::Accept,
            Err(reply) => RecipientAnswer::Reply(reply),
        }
    }

    fn limit_exceeded(&mut self, queue_id: &str, limit: LimitExceeded) {
        counter!("copyist_limit_refusals_total", "limit" => limit.name()).increment(1);
        // The limit on recipients can be exceeded thousands of times in one message; the SMTP
        // client gets a reply each time.
        if limit != LimitExceeded::Recipients
            || self.agreement.is_none_or(|it| !it.answers_recipients())
        {
            warn!(queue_id, "rejected: limits.{} exceeded", limit.name());
        }
    }

    async fn reserve_memory(&mut self, bytes: usize) -> bool {
        self.body_buffer
            .reserve(&self.pipeline.services.memory, bytes)
            .await
    }

    async fn take_chunk(&mut self, piece: Bytes) {
        let pipeline = &self.pipeline;
        self.body_buffer
            .append(piece, &pipeline.services.spool, &pipeline.services.memory)
            .await;
    }

    fn discard_chunks(&mut self) {
        self.body_buffer = BodyBuffer::default();
    }

    async fn end_of_message(&mut self, transaction: Transaction) -> MessageDecision {
        match self.process(transaction).await {
            Ok(edits) => MessageDecision {
                edits,
                answer: MessageAnswer::Accept,
            },
            Err(reply) => MessageAnswer::Reply(reply).into(),
        }
    }
}

fn client(peer: &Peer, helo: &str, macros: &Macros) -> Client {
    // Mail submitted without SMTP is local, and Sendmail gives no address for it. The host name is
    // then the MTA's own; a client cannot choose it.
    let local = || (peer.hostname == "localhost").then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Client {
        ip: peer.ip.or_else(local),
        name: peer.hostname.clone(),
        helo: helo.to_owned(),
        user: macros
            .get("auth_authen")
            .filter(|user| !user.is_empty())
            .map(str::to_owned),
        // Postfix passes the names of verified certificates only.
        certificate: macros
            .get("cert_subject")
            .filter(|subject| !subject.is_empty())
            .map(|subject| Certificate {
                subject: subject.to_owned(),
                issuer: macros.get("cert_issuer").unwrap_or_default().to_owned(),
            }),
        daemon: macros.get("daemon_name").unwrap_or_default().to_owned(),
        side: None,
    }
}

fn bad_recipient(error: &AddressError) -> Reply {
    // 5.1.3: bad destination mailbox address syntax.
    Reply::new(553, Enhanced(5, 1, 3), format!("Recipient: {error}"))
}
