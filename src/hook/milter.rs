//! The milter door: Postfix and Sendmail.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::mail::{Address, AddressError, Client, Enhanced, Envelope, Message, Recipient, Reply};
use crate::milter::{
    self, Actions, Answer, Handler, Limits, Outcome, Path, Peer, Transaction, Wants,
};
use crate::pipeline::{Pipeline, Verdict};
use crate::policy::{Admission, Guard};

use super::Listener;

/// How long nothing is accepted after the system refused a connection for want of something (file
/// descriptors, memory): trying again at once would only burn time.
const BREATH: Duration = Duration::from_millis(100);

/// Accepts connections until `shutdown`; each is served by a task of `sessions`, which whoever shuts down
/// waits for.
pub async fn serve(
    listener: Listener,
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
            Ok(stream) => {
                let session = Door::new(pipelines.clone());
                let wants = Wants {
                    actions: Actions::default(),
                    answer_recipients: session.asked,
                };
                let served =
                    milter::serve(stream, wants, Limits::default(), session, shutdown.clone());
                sessions.spawn(async move {
                    gauge!("copyist_milter_connections").increment(1);
                    if let Err(reason) = served.await {
                        counter!("copyist_milter_connections_broken_total").increment(1);
                        warn!("a milter connection ended: {reason}");
                    }
                    gauge!("copyist_milter_connections").decrement(1);
                });
            }
            Err(cause) => {
                error!("cannot accept a milter connection: {cause}");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// One connection of an MTA.
struct Door {
    pipelines: Arc<ArcSwap<Pipeline>>,
    /// The settings that the message under way is judged by.
    pipeline: Arc<Pipeline>,
    /// Whether the MTA asks about recipients: agreed on when the connection began.
    asked: bool,
    /// Guarded recipients of the message under way, which the message itself decides about.
    provisional: Vec<Address>,
}

impl Door {
    fn new(pipelines: Arc<ArcSwap<Pipeline>>) -> Door {
        let pipeline = pipelines.load_full();
        let asked = pipeline.rules.journal_guard != Guard::Off;
        Door {
            pipelines,
            pipeline,
            asked,
            provisional: Vec::new(),
        }
    }

    /// A message begins: it is judged by the settings of now, to its end.
    fn begin(&mut self) {
        self.pipeline = self.pipelines.load_full();
        self.provisional.clear();
    }

    fn parse(&self, text: &str) -> Result<Address, AddressError> {
        let default = self
            .pipeline
            .rules
            .organization
            .default_domain()
            .unwrap_or("localhost");
        Address::parse_in(text, default)
    }

    fn envelope(&self, transaction: &Transaction) -> Result<Envelope, Reply> {
        let sender = match self.parse(&transaction.sender.address) {
            Ok(address) => Some(address),
            Err(AddressError::Empty) => None,
            // 5.1.7: bad sender's mailbox address syntax.
            Err(error) => {
                return Err(Reply::new(
                    553,
                    Enhanced(5, 1, 7),
                    format!("Sender: {error}"),
                ));
            }
        };
        let recipients = transaction.recipients.iter().map(|path| {
            let address = self
                .parse(&path.address)
                .map_err(|error| bad_recipient(&error))?;
            Ok(Recipient {
                address,
                params: path.params.clone(),
            })
        });
        let macros = &transaction.macros;
        let text = |name| macros.get(name).unwrap_or_default().to_owned();
        Ok(Envelope {
            sender,
            sender_params: transaction.sender.params.clone(),
            recipients: recipients.collect::<Result<_, _>>()?,
            client: Client {
                ip: client_ip(&transaction.peer),
                name: transaction.peer.hostname.clone(),
                helo: transaction.helo.clone(),
                user: macros
                    .get("auth_authen")
                    .filter(|user| !user.is_empty())
                    .map(str::to_owned),
                daemon: text("daemon_name"),
            },
            // Postfix names it after the first recipient, Sendmail before.
            queue_id: text("i"),
        })
    }

    async fn judge_recipient(
        &mut self,
        so_far: &Transaction,
        recipient: &Path,
    ) -> Result<(), Reply> {
        let envelope = self.envelope(so_far)?;
        let recipient = self
            .parse(&recipient.address)
            .map_err(|error| bad_recipient(&error))?;
        if self.pipeline.admit(&envelope, &recipient).await? == Admission::Provisional {
            self.provisional.push(recipient);
        }
        Ok(())
    }

    async fn judge(&mut self, transaction: Transaction) -> Result<(), Reply> {
        let envelope = self.envelope(&transaction)?;
        let message = Message::new(transaction.message);
        // An abort may have left recipients of another message here.
        self.provisional
            .retain(|address| envelope.recipient_addresses().any(|known| known == address));
        let now = SystemTime::now();
        match self
            .pipeline
            .process(&envelope, &message, &self.provisional, now)
            .await
        {
            Verdict::Accept => Ok(()),
            Verdict::Refuse(reply) => Err(reply),
        }
    }
}

impl Handler for Door {
    async fn recipient(&mut self, so_far: &Transaction, recipient: &Path) -> Answer {
        if so_far.recipients.is_empty() {
            self.begin();
        }
        self.judge_recipient(so_far, recipient)
            .await
            .map_or_else(Answer::Reply, |()| Answer::Continue)
    }

    async fn end_of_message(&mut self, transaction: Transaction) -> Outcome {
        if !self.asked {
            // So this is where the message begins for us.
            self.begin();
        }
        let answer = self
            .judge(transaction)
            .await
            .map_or_else(Answer::Reply, |()| Answer::Continue);
        Outcome {
            edits: Vec::new(),
            answer,
        }
    }
}

/// Mail that was submitted without SMTP comes from the machine itself: Sendmail gives no address for it then.
/// The name is the MTA's own word, a client cannot choose it.
fn client_ip(peer: &Peer) -> Option<IpAddr> {
    peer.ip
        .or_else(|| (peer.hostname == "localhost").then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

fn bad_recipient(error: &AddressError) -> Reply {
    // 5.1.3: bad destination mailbox address syntax.
    Reply::new(553, Enhanced(5, 1, 3), format!("Recipient: {error}"))
}
