//! The dialogue: what the client says, what the next server answers, and what we have to say
//! ourselves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use metrics::counter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Terms;
use super::arriving::Incoming;
use super::client::{ClientSide, Ended};
use super::identity::Identity;
use super::next_hop::{Hop, HopError};
use super::offers::{self, Offers, offers};
use crate::hook::Mode;
use crate::hook::gate::Place;
use crate::hook::listener::Stream;
use crate::identity::parse_path;
use crate::mail::{
    Address, AddressError, Enhanced, Envelope, Recipient, Reply, original_recipient,
};
use crate::mail::{LimitExceeded, Limits};
use crate::pipeline::{Admitted, Pipeline};
use crate::policy::Admission;
use crate::smtp::{Command, ServerReply, add_brackets};

/// Longest silence of a client (RFC 5321 section 4.5.3.2.7).
pub(super) const SILENCE: Duration = Duration::from_secs(300);
/// How long a connection to the next server waits for a client that has not said anything yet.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// Commands that are none, until the connection is closed.
const NONSENSE: usize = 20;

/// One connection of a client.
pub(super) struct Session {
    pub(super) terms: Arc<Terms>,
    pub(super) pipelines: Arc<ArcSwap<Pipeline>>,
    pub(super) place: Arc<Place>,
    pub(super) limits: Limits,
    pub(super) shutdown: CancellationToken,
    pub(super) peer: IpAddr,
    pub(super) began: Instant,
    pub(super) identity: Identity,
    pub(super) offers: Offers,
    pub(super) transaction: Option<Transaction>,
    pub(super) nonsense: usize,
    /// Whether the client has logged in.
    pub(super) is_known: bool,
    /// Since when the client is to say who it is.
    pub(super) greeting_from: Instant,
    /// Whether the client has said who it is.
    pub(super) has_greeted: bool,
}

/// A mail transaction, as far as the next server has agreed to it.
pub(super) struct Transaction {
    /// The settings that it is judged by, to its end.
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) began: Instant,
    /// MAIL and RCPT as the client wrote them.
    pub(super) mail: Bytes,
    pub(super) rcpts: Vec<Bytes>,
    pub(super) sender: Option<Address>,
    pub(super) sender_params: Vec<String>,
    pub(super) recipients: Vec<Recipient>,
    /// Guarded recipients, which the message itself decides about.
    pub(super) admitted: Admitted,
    /// What has come of the message by BDAT.
    pub(super) chunks: Option<Chunks>,
}

/// A message in chunks.
#[derive(Default)]
pub(super) struct Chunks {
    pub(super) incoming: Incoming,
    pub(super) after_cr: bool,
}

/// Both sides while they are connected.
pub(super) struct Between {
    pub(super) client: ClientSide,
    pub(super) hop: Hop,
    /// Whether the next server has heard nothing of this client yet, on a connection that was used
    /// before.
    pub(super) is_stale: bool,
}

impl Session {
    pub(super) fn new(
        terms: Arc<Terms>,
        pipelines: Arc<ArcSwap<Pipeline>>,
        place: Arc<Place>,
        limits: Limits,
        shutdown: CancellationToken,
        peer: IpAddr,
    ) -> Session {
        let identity = Identity::new(peer, terms.door.side);
        Session {
            terms,
            pipelines,
            place,
            limits,
            shutdown,
            peer,
            began: Instant::now(),
            identity,
            offers: Offers::default(),
            transaction: None,
            nonsense: 0,
            is_known: false,
            greeting_from: Instant::now(),
            has_greeted: false,
        }
    }

    /// Serves the client to the end of the connection.
    pub(super) async fn serve(mut self, stream: Stream) -> Result<(), Ended> {
        let terms = self.terms.clone();
        let mut stream = stream;
        if terms.door.proxy_protocol {
            let source = super::proxied::source(&mut stream, self.peer, self.may_speak_for());
            self.identity.set_ip(source.await?);
            self.count_client()?;
        }
        let mut client = ClientSide::new(Box::new(stream));
        if let Some(tls) = terms.server_tls.as_ref().filter(|tls| tls.implicit) {
            client.encrypt(tls).await?;
        }
        let (hop, used) = match terms.pool.get(&terms.door.next_hop, &terms.hop_tls).await {
            Ok(got) => got,
            Err(error) => {
                self.unreachable(&error);
                client.say(&Reply::new(
                    421,
                    Enhanced(4, 4, 1),
                    "The next server is not available, try again",
                ));
                client.close().await;
                return Err(Ended::NextHop(error));
            }
        };
        client.put(&hop.greeting);
        let (ended, hop) = match self.first_word(&mut client, (hop, used)).await {
            Ok((hop, is_stale)) => {
                let mut between = Between {
                    client,
                    hop,
                    is_stale,
                };
                let ended = self.converse(&mut between).await;
                client = between.client;
                (ended, Some(between.hop))
            }
            Err(ended) => (Err(ended), None),
        };
        match &ended {
            Ok(()) => {}
            Err(Ended::Stopping) => {
                client.say(&Reply::new(
                    421,
                    Enhanced(4, 3, 2),
                    "The service stops, try again",
                ));
            }
            Err(Ended::Silent | Ended::Late) => {
                client.say(&Reply::new(421, Enhanced(4, 4, 2), "Timeout exceeded"));
            }
            Err(Ended::Crowded) => {
                client.say(&Reply::new(421, Enhanced(4, 7, 0), "Too many connections"));
            }
            Err(Ended::Nonsense) => {
                client.say(&Reply::new(421, Enhanced(4, 7, 0), "Too many errors"));
            }
            Err(Ended::NextHop(error)) => {
                self.unreachable(error);
                client.say(&Reply::new(
                    421,
                    Enhanced(4, 4, 2),
                    "The next server is gone, try again",
                ));
            }
            Err(_) => {}
        }
        let is_idle = self.transaction.is_none();
        let hop = match &ended {
            // In the middle of a message it is just closed, so that nothing of it is taken for all
            // of it.
            Err(Ended::NextHop(_) | Ended::Dismissed) => None,
            _ => hop.filter(|_| is_idle),
        };
        // Before the client hears the last word, so that the next client finds it.
        let other = match hop {
            Some(hop) if hop.is_plain() => {
                terms.pool.put(hop);
                None
            }
            other => other,
        };
        client.close().await;
        if let Some(hop) = other {
            hop.quit().await;
        }
        ended
    }

    /// Waits until the client says something. The next server has connections for those who do: one
    /// that nobody has spoken on goes back meanwhile.
    async fn first_word(
        &self,
        client: &mut ClientSide,
        got: (Hop, bool),
    ) -> Result<(Hop, bool), Ended> {
        let (pool, stop) = (&self.terms.pool, Some(&self.shutdown));
        let soon = client.read(Instant::now() + FIRST_WORD, stop).await;
        match soon {
            Ok(()) => return Ok(got),
            Err(ended) => {
                pool.put(got.0);
                let Ended::Silent = ended else {
                    return Err(ended);
                };
            }
        }
        client.read(self.deadline(), stop).await?;
        let again = pool.get(&self.terms.door.next_hop, &self.terms.hop_tls);
        again.await.map_err(Ended::NextHop)
    }

    /// Counts this connection for the client that it was opened for.
    pub(super) fn count_client(&mut self) -> Result<(), Ended> {
        match self.identity.ip() {
            Some(ip) => self.place.count_for(ip).map_err(|_| Ended::Crowded),
            None => Ok(()),
        }
    }

    fn unreachable(&self, error: &HopError) {
        counter!("copyist_next_hop_failures_total").increment(1);
        let to = &self.terms.door.next_hop;
        warn!(
            listener = %self.terms.door.listen,
            "the next server {}:{} {error}", to.host, to.port
        );
    }

    pub(super) fn may_speak_for(&self) -> bool {
        self.terms.door.speakers.include(self.peer)
    }

    /// Until when the client may be silent.
    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        let most = match &self.transaction {
            Some(transaction) => transaction.began + self.limits.message_time,
            None if !self.has_greeted => self.greeting_from + self.limits.greeting,
            None => self.began + self.limits.connection_time,
        };
        most.min(now + SILENCE.min(self.limits.idle))
    }

    async fn converse(&mut self, between: &mut Between) -> Result<(), Ended> {
        loop {
            // A transaction under way is finished first.
            let stop = self.transaction.is_none().then(|| self.shutdown.clone());
            if self.transaction.is_none() && self.began.elapsed() > self.limits.connection_time {
                return Err(Ended::Late);
            }
            let line = between.client.line(self.deadline(), stop.as_ref()).await?;
            let Ok(line) = line else {
                self.nonsense(between, "Line too long, or with a bare line break")?;
                continue;
            };
            if self.command(between, line).await? {
                return Ok(());
            }
        }
    }

    /// Does what a line says. Whether the connection ends with it.
    async fn command(&mut self, between: &mut Between, line: Bytes) -> Result<bool, Ended> {
        match Command::parse(&line) {
            Command::Ehlo(name) => self.hello(between, &line, &name, true).await?,
            Command::Helo(name) => self.hello(between, &line, &name, false).await?,
            Command::Mail { path, params } => {
                self.mail(between, add_brackets(&line), &path, params)
                    .await?;
            }
            Command::Rcpt { path, params } => {
                self.rcpt(between, add_brackets(&line), &path, params)
                    .await?;
            }
            Command::Data => self.data(between).await?,
            Command::Bdat { bytes, last } => self.chunk(between, bytes, last).await?,
            Command::Rset => {
                self.end_transaction();
                self.forward(between, &line).await?;
            }
            Command::Noop | Command::Vrfy | Command::Expn | Command::Help => {
                self.forward(between, &line).await?;
            }
            Command::Quit => {
                self.quit(between, &line).await?;
                return Ok(true);
            }
            Command::StartTls => self.start_tls(between).await?,
            Command::Auth { mechanism, initial } => {
                self.auth(between, &line, &mechanism, initial).await?;
            }
            Command::Xclient(attributes) => self.xclient(between, &line, &attributes).await?,
            Command::Xforward(attributes) => self.xforward(between, &line, &attributes).await?,
            Command::Unknown => self.nonsense(between, "Command not recognized")?,
            Command::Malformed => self.nonsense(between, "Syntax error")?,
        }
        Ok(false)
    }

    pub(super) fn nonsense(&mut self, between: &mut Between, what: &str) -> Result<(), Ended> {
        self.nonsense += 1;
        if self.nonsense > NONSENSE {
            return Err(Ended::Nonsense);
        }
        between
            .client
            .say(&Reply::new(500, Enhanced(5, 5, 2), what));
        Ok(())
    }

    /// Asks the next server. A connection that it had closed while nobody used it is replaced,
    /// once.
    pub(super) async fn ask(
        &mut self,
        between: &mut Between,
        line: &[u8],
    ) -> Result<ServerReply, Ended> {
        let asked = between.hop.ask(line).await;
        let is_stale = std::mem::take(&mut between.is_stale);
        let answer = match asked {
            Err(_) if is_stale => self.ask_another(between, line).await?,
            Ok(answer) if is_stale && answer.code == 421 => self.ask_another(between, line).await?,
            asked => asked.map_err(Ended::NextHop)?,
        };
        if answer.code == 421 {
            // It closes now. Its own word goes to the client.
            between.client.pass(&answer);
            return Err(Ended::Dismissed);
        }
        Ok(answer)
    }

    async fn ask_another(&self, between: &mut Between, line: &[u8]) -> Result<ServerReply, Ended> {
        let (to, tls) = (&self.terms.door.next_hop, &self.terms.hop_tls);
        between.hop = Hop::open(to, tls).await.map_err(Ended::NextHop)?;
        between.hop.ask(line).await.map_err(Ended::NextHop)
    }

    /// Passes a command on, and its answer back.
    pub(super) async fn forward(
        &mut self,
        between: &mut Between,
        line: &[u8],
    ) -> Result<ServerReply, Ended> {
        let answer = self.ask(between, line).await?;
        between.client.pass(&answer);
        Ok(answer)
    }

    async fn hello(
        &mut self,
        between: &mut Between,
        line: &[u8],
        name: &str,
        extended: bool,
    ) -> Result<(), Ended> {
        self.end_transaction();
        let answer = self.ask(between, line).await?;
        if !answer.is_positive() {
            between.client.pass(&answer);
            return Ok(());
        }
        self.has_greeted = true;
        self.place.begin();
        self.identity.set_helo(name);
        if !extended {
            self.offers = Offers::default();
            between.client.pass(&answer);
            return Ok(());
        }
        let is_tls = between.client.is_tls();
        let terms = offers::Terms {
            most: self.limits.message_size,
            may_encrypt: self.terms.server_tls.is_some() && !is_tls && !self.is_known,
            may_log_in: !self.is_known
                && (is_tls || !between.hop.is_tls() || self.peer.to_canonical().is_loopback()),
            may_speak_for: self.may_speak_for(),
        };
        let (offers, wire) = offers(&answer, terms);
        self.offers = offers;
        between.client.put(&wire);
        Ok(())
    }

    /// A refusal of our own. Behind a queue it is never a final one: the queue would send a bounce
    /// to whoever the sender claims to be.
    fn own(&self, reply: Reply) -> Reply {
        let reply = match self.terms.door.mode {
            Mode::AfterQueue if reply.is_permanent() => {
                let Enhanced(_, subject, detail) = reply.enhanced;
                Reply::new(reply.code - 100, Enhanced(4, subject, detail), reply.text)
            }
            _ => reply,
        };
        counter!("copyist_smtp_refusals_total", "code" => reply.code.to_string()).increment(1);
        reply
    }

    pub(super) fn refuse(&self, between: &mut Between, reply: Reply) {
        between.client.say(&self.own(reply));
    }

    pub(super) fn bad_sequence(&self, between: &mut Between, what: &str) {
        between
            .client
            .say(&Reply::new(503, Enhanced(5, 5, 1), what));
    }

    async fn mail(
        &mut self,
        between: &mut Between,
        line: Bytes,
        path: &str,
        params: Vec<String>,
    ) -> Result<(), Ended> {
        if self.transaction.is_some() {
            self.bad_sequence(between, "Nested MAIL command");
            return Ok(());
        }
        if !self.has_greeted {
            // The next server may still know the last client of this connection by its name.
            self.bad_sequence(between, "Say EHLO first");
            return Ok(());
        }
        let pipeline = self.pipelines.load_full();
        let sender = match read(&pipeline, path) {
            Ok(address) => Some(address),
            Err(AddressError::Empty) => None,
            Err(error) => {
                let reply = Reply::new(553, Enhanced(5, 1, 7), format!("Sender: {error}"));
                self.refuse(between, reply);
                return Ok(());
            }
        };
        if size(&params).is_some_and(|size| size > self.limits.message_size as u64) {
            self.exceeded(LimitExceeded::Message);
            self.refuse(between, LimitExceeded::Message.reply());
            return Ok(());
        }
        if params
            .iter()
            .any(|param| param.eq_ignore_ascii_case("BODY=BINARYMIME"))
        {
            // It was not offered. RFC 5321 section 4.1.1.11: parameter not implemented.
            let reply = Reply::new(555, Enhanced(5, 5, 4), "BODY=BINARYMIME is not offered");
            between.client.say(&reply);
            return Ok(());
        }
        if self.forward(between, &line).await?.is_positive() {
            self.told_once();
            let admitted = pipeline.begin();
            self.transaction = Some(Transaction {
                pipeline,
                began: Instant::now(),
                mail: line,
                rcpts: Vec::new(),
                sender,
                sender_params: params,
                recipients: Vec::new(),
                admitted,
                chunks: None,
            });
        }
        Ok(())
    }

    /// Behind a queue of this machine everybody looks like this machine, unless the queue says
    /// more.
    fn told_once(&self) {
        static TOLD: std::sync::Once = std::sync::Once::new();
        let door = &self.terms.door;
        let unknown =
            door.mode == Mode::AfterQueue && door.side.is_none() && !self.identity.is_told();
        if unknown && self.peer.to_canonical().is_loopback() {
            TOLD.call_once(|| {
                warn!(
                    listener = %door.listen,
                    "the MTA does not say who its clients are (XFORWARD), so that all mail looks like the organization's own; \
                     let it (Postfix: smtp_send_xforward_command = yes), or set direction in [[hook.smtp]]"
                );
            });
        }
    }

    async fn rcpt(
        &mut self,
        between: &mut Between,
        line: Bytes,
        path: &str,
        params: Vec<String>,
    ) -> Result<(), Ended> {
        let Some(transaction) = &self.transaction else {
            self.bad_sequence(between, "Need MAIL command");
            return Ok(());
        };
        if transaction.chunks.is_some() {
            self.bad_sequence(between, "The message has begun");
            return Ok(());
        }
        if transaction.recipients.len() >= self.limits.recipients {
            self.exceeded(LimitExceeded::Recipients);
            self.refuse(between, LimitExceeded::Recipients.reply());
            return Ok(());
        }
        let pipeline = transaction.pipeline.clone();
        let address = match read(&pipeline, path) {
            Ok(address) => address,
            Err(error) => {
                let reply = Reply::new(553, Enhanced(5, 1, 3), format!("Recipient: {error}"));
                self.refuse(between, reply);
                return Ok(());
            }
        };
        // Without those before it: nothing depends on them, and to copy them for each would take
        // the square of their number.
        let envelope = self.envelope_to(transaction, Vec::new());
        let Some(transaction) = &mut self.transaction else {
            return Ok(());
        };
        let admitted = &mut transaction.admitted;
        let admission = match pipeline.admit(&envelope, &address, None, admitted).await {
            Ok(admission) => admission,
            Err(reply) => {
                self.refuse(between, reply);
                return Ok(());
            }
        };
        // A queue that expanded the recipient says what of (RFC 3461 section 4.2); any client
        // could.
        let is_behind = self.terms.door.mode == Mode::AfterQueue && self.may_speak_for();
        let original = is_behind.then(|| original_recipient(&params)).flatten();
        let answer = self.forward(between, &line).await?;
        if let Some(transaction) = self.transaction.as_mut().filter(|_| answer.is_positive()) {
            if admission == Admission::Provisional {
                transaction.admitted.provisional.push(address.clone());
            }
            transaction.rcpts.push(line);
            transaction.recipients.push(Recipient {
                original,
                params,
                ..Recipient::new(address)
            });
        }
        Ok(())
    }

    pub(super) fn envelope(&self, transaction: &Transaction) -> Envelope {
        self.envelope_to(transaction, transaction.recipients.clone())
    }

    fn envelope_to(&self, transaction: &Transaction, recipients: Vec<Recipient>) -> Envelope {
        Envelope {
            sender: transaction.sender.clone(),
            sender_params: transaction.sender_params.clone(),
            recipients,
            resolved_sender: None,
            header_authors: Vec::new(),
            client: self.identity.client().clone(),
            queue_id: self.identity.queue_id().to_owned(),
        }
    }

    /// The transaction, where a message may come now.
    pub(super) fn ready(&mut self, between: &mut Between) -> Option<Transaction> {
        let what = match &self.transaction {
            None => "Need MAIL command",
            Some(transaction) if transaction.recipients.is_empty() => {
                // RFC 5321 section 3.3.
                let reply = Reply::new(554, Enhanced(5, 5, 1), "No valid recipients");
                between.client.say(&reply);
                return None;
            }
            Some(_) => return self.transaction.take(),
        };
        self.bad_sequence(between, what);
        None
    }

    pub(super) fn exceeded(&self, excess: LimitExceeded) {
        counter!("copyist_limit_refusals_total", "limit" => excess.name()).increment(1);
        warn!(
            queue_id = self.identity.queue_id(),
            "refused: beyond limits.{}",
            excess.name()
        );
    }

    pub(super) fn end_transaction(&mut self) {
        self.transaction = None;
        self.identity.end_transaction();
    }

    async fn quit(&mut self, between: &mut Between, line: &[u8]) -> Result<(), Ended> {
        let has_transaction = self.transaction.is_some();
        self.end_transaction();
        if between.hop.is_plain() && !has_transaction {
            // The next client goes on with this connection.
            between
                .client
                .say(&Reply::new(221, Enhanced(2, 0, 0), "Bye"));
            return Ok(());
        }
        between.hop.set_marked();
        self.forward(between, line).await.map(|_| ())
    }
}

fn read(pipeline: &Pipeline, path: &str) -> Result<Address, AddressError> {
    let default = pipeline.rules.organization.names.default_domain();
    parse_path(path, default.unwrap_or("localhost"))
}

/// What the client says of the size (RFC 1870 section 6).
fn size(params: &[String]) -> Option<u64> {
    params.iter().find_map(|param| {
        let (name, value) = param.split_once('=')?;
        name.eq_ignore_ascii_case("SIZE")
            .then(|| value.parse().ok())?
    })
}
