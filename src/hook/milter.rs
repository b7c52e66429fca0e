//! The milter door: Postfix and Sendmail.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::identity::parse_path;
use crate::mail::{
    Address, AddressError, Certificate, Client, Enhanced, Envelope, LimitExceeded, Message,
    Recipient, Reply, Side,
};
use crate::milter::{
    self, Actions, Agreement, ConnectionError, Edit, Handler, Macros, MessageAnswer,
    MessageDecision, PartialTransaction, Path, Peer, RecipientAnswer, Requirements, Transaction,
};
use crate::pipeline::{Admitted, Changes, Hook, Pipeline, Verdict};
use crate::policy::{Admission, Guard};

use super::Listener;
use super::arriving::Arriving;
use super::clients::Caller;
use super::edits::edits;
use super::gate::{Gate, Place, Refusal};

/// How long nothing is accepted after the system refused a connection for want of something (file
/// descriptors, memory): trying again at once would only burn time.
const BREATH: Duration = Duration::from_millis(100);

/// What putting texts into a message takes.
const EDIT: Actions = Actions::from_bits(
    Actions::CHANGE_BODY.bits() | Actions::CHANGE_HEADERS.bits() | Actions::ADD_HEADERS.bits(),
);

/// Accepts connections until `shutdown`, those that the gate lets in, from senders on this side if
/// all are on one; each is served by a task of `sessions`, which whoever shuts down waits for.
pub async fn serve(
    listener: Listener,
    side: Option<Side>,
    gate: Arc<Gate>,
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
            Ok((stream, who)) => match gate.enter(who) {
                Ok((place, limits)) => {
                    let place = Arc::new(place);
                    let close = place.close();
                    let session = Door::new(pipelines.clone(), side, place.clone());
                    let requirements = session.requirements();
                    let served =
                        milter::serve(stream, requirements, limits, session, shutdown.clone());
                    let gate = gate.clone();
                    sessions.spawn(async move {
                        gauge!("copyist_milter_connections").increment(1);
                        match close.run_until_cancelled(served).await {
                            Some(Ok(())) => {}
                            Some(Err(reason)) => ended(&gate, who, &reason),
                            None => place.closed(who),
                        }
                        gauge!("copyist_milter_connections").decrement(1);
                        drop(place);
                    });
                }
                Err(why) => gate.refused(who, why),
            },
            Err(cause) => {
                error!("cannot accept a milter connection: {cause}");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Tells why a connection ended otherwise than by the MTA's wish or ours.
fn ended(gate: &Gate, who: Caller, reason: &ConnectionError) {
    if reason.is_not_milter() {
        gate.turned_away(who, Refusal::Stranger, reason);
        return;
    }
    counter!("copyist_milter_connections_broken_total").increment(1);
    warn!("a milter connection ended: {}", chain(reason));
}

/// One connection of an MTA.
struct Door {
    pipelines: Arc<ArcSwap<Pipeline>>,
    /// The settings that the message under way is judged by.
    pipeline: Arc<Pipeline>,
    /// The side that senders are on, where the listener is for one alone.
    side: Option<Side>,
    /// Whether the MTA asks about recipients: agreed on when the connection began.
    asked: bool,
    /// What the MTA lets us do to messages: agreed on likewise.
    agreement: Option<Agreement>,
    /// What is known of the recipients of the message under way.
    admitted: Admitted,
    /// What was handed over of the message under way.
    arriving: Arriving,
    /// Its place among the connections.
    place: Arc<Place>,
}

impl Door {
    fn new(pipelines: Arc<ArcSwap<Pipeline>>, side: Option<Side>, place: Arc<Place>) -> Door {
        let pipeline = pipelines.load_full();
        let asked = pipeline.rules.journal_guard != Guard::Off;
        let admitted = pipeline.begin();
        Door {
            pipelines,
            pipeline,
            side,
            asked,
            agreement: None,
            admitted,
            arriving: Arriving::default(),
            place,
        }
    }

    /// What is asked of the MTA: no more than the settings need.
    fn requirements(&self) -> Requirements {
        let text = &self.pipeline.text;
        let actions = match (text.is_empty(), text.split_mixed) {
            // Fields that only we may write are taken out of what comes from outside.
            (true, _) => Actions::CHANGE_HEADERS,
            (false, false) => EDIT,
            (false, true) => EDIT | Actions::DELETE_RECIPIENTS,
        };
        Requirements {
            actions,
            answer_recipients: self.asked,
        }
    }

    /// Reads an address as it was written, and as the MTA reads it where that differs. An address
    /// without a domain is at the MTA's own, which only it can name for sure.
    fn read(&self, path: &Path) -> Result<(Address, Option<Address>), AddressError> {
        let mta = Address::parse(&path.resolved).ok();
        let written = match (Address::parse(&path.address), &mta) {
            (Err(AddressError::Unqualified(_)), Some(mta)) => Ok(mta.clone()),
            (Err(AddressError::Unqualified(_) | AddressError::Malformed(_)), _) => {
                let default = self.pipeline.rules.organization.names.default_domain();
                let read = parse_path(&path.address, default.unwrap_or("localhost"));
                read.or_else(|error| mta.clone().ok_or(error))
            }
            (read, _) => read,
        }?;
        let mta = mta.filter(|mta| *mta != written);
        Ok((written, mta))
    }

    /// The envelope as far as it is known.
    fn envelope(&self, partial: PartialTransaction<'_>) -> Result<Envelope, Reply> {
        let (sender, resolved_sender) = match self.read(partial.sender) {
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
            let (address, resolved) = self.read(path).map_err(|error| bad_recipient(&error))?;
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

    async fn judge_recipient(
        &mut self,
        partial: PartialTransaction<'_>,
        recipient: &Path,
    ) -> Result<(), Reply> {
        // Without those before it: nothing depends on them, and to read them for each would take
        // the square of their number.
        let envelope = self.envelope(PartialTransaction {
            recipients: &[],
            ..partial
        })?;
        let (written, mta) = self
            .read(recipient)
            .map_err(|error| bad_recipient(&error))?;
        let admission = self
            .pipeline
            .admit(&envelope, &written, mta.as_ref(), &mut self.admitted)
            .await?;
        if admission == Admission::Provisional {
            self.admitted.provisional.push(written);
        }
        Ok(())
    }

    async fn judge(&mut self, transaction: Transaction) -> Result<Vec<Edit>, Reply> {
        let envelope = self.envelope(PartialTransaction {
            connection: &transaction.connection,
            helo: &transaction.helo,
            sender: &transaction.sender,
            recipients: &transaction.recipients,
            macros: &transaction.macros,
        })?;
        let (spool, memory) = (&self.pipeline.spool, &self.pipeline.memory);
        let arrived = std::mem::take(&mut self.arriving);
        // Held until the message is decided.
        let (content, _room) = arrived.finish(transaction.message, spool, memory).await?;
        let message = Message::with_header(content, transaction.header);
        // An abort may have left recipients of another message here.
        self.admitted
            .provisional
            .retain(|address| envelope.recipient_addresses().any(|known| known == address));
        let now = SystemTime::now();
        let said = Said {
            agreement: self.agreement,
            recipients: &transaction.recipients,
        };
        let verdict = self
            .pipeline
            .process(&envelope, &message, &self.admitted, &said, now);
        match verdict.await {
            Verdict::Accept(changes) => Ok(edits(&message, &changes, &transaction.recipients)),
            Verdict::Refuse(reply) => Err(reply),
        }
    }
}

/// What can be said about one message.
struct Said<'a> {
    agreement: Option<Agreement>,
    recipients: &'a [Path],
}

impl Hook for Said<'_> {
    fn can_make(&self, message: &Message, changes: &Changes) -> Result<(), String> {
        let edits = edits(message, changes, self.recipients);
        match &self.agreement {
            _ if edits.is_empty() => Ok(()),
            Some(agreement) => milter::check_edits(&edits, agreement).map_err(|e| e.to_string()),
            None => Err("nothing was agreed on with the MTA".into()),
        }
    }
}

impl Handler for Door {
    fn set_agreement(&mut self, agreement: &Agreement) {
        self.agreement = Some(*agreement);
        self.place.begin();
    }

    /// It is judged by the settings of now, to its end.
    fn begin_message(&mut self) {
        self.pipeline = self.pipelines.load_full();
        self.admitted = self.pipeline.begin();
    }

    async fn check_recipient(
        &mut self,
        partial: PartialTransaction<'_>,
        recipient: &Path,
    ) -> RecipientAnswer {
        match self.judge_recipient(partial, recipient).await {
            Ok(()) => RecipientAnswer::Accept,
            Err(reply) => RecipientAnswer::Reply(reply),
        }
    }

    fn limit_exceeded(&mut self, queue_id: &str, excess: LimitExceeded) {
        counter!("copyist_limit_refusals_total", "limit" => excess.name()).increment(1);
        // A recipient can be one too many ten thousand times over; the SMTP client is told each
        // time.
        if excess != LimitExceeded::Recipients
            || self.agreement.is_none_or(|it| !it.answers_recipients())
        {
            warn!(queue_id, "refused: beyond limits.{}", excess.name());
        }
    }

    async fn reserve_memory(&mut self, bytes: usize) -> bool {
        self.arriving.reserve(&self.pipeline.memory, bytes).await
    }

    async fn take_chunk(&mut self, piece: Bytes) {
        let pipeline = &self.pipeline;
        self.arriving
            .piece(piece, &pipeline.spool, &pipeline.memory)
            .await;
    }

    fn discard_chunks(&mut self) {
        self.arriving = Arriving::default();
    }

    async fn end_of_message(&mut self, transaction: Transaction) -> MessageDecision {
        match self.judge(transaction).await {
            Ok(edits) => MessageDecision {
                edits,
                answer: MessageAnswer::Accept,
            },
            Err(reply) => MessageAnswer::Reply(reply).into(),
        }
    }
}

fn client(peer: &Peer, helo: &str, macros: &Macros) -> Client {
    // Mail that was submitted without SMTP comes from the machine itself: Sendmail gives no address
    // for it. The name is the MTA's own word then, a client cannot choose it.
    let local = || (peer.hostname == "localhost").then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Client {
        ip: peer.ip.or_else(local),
        name: peer.hostname.clone(),
        helo: helo.to_owned(),
        user: macros
            .get("auth_authen")
            .filter(|user| !user.is_empty())
            .map(str::to_owned),
        // Postfix tells the names of certificates that it verified, and of no others.
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

/// An error and what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

fn bad_recipient(error: &AddressError) -> Reply {
    // 5.1.3: bad destination mailbox address syntax.
    Reply::new(553, Enhanced(5, 1, 3), format!("Recipient: {error}"))
}
