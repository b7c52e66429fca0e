//! An SMTP session between a client and the next hop: commands pass through, and Copyist adds its
//! own rejections.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use metrics::counter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::SmtpListenerState;
use super::client::{ClientSide, SessionEnd};
use super::identity::ClientIdentity;
use super::incoming::IncomingMessage;
use super::next_hop::{NextHopConnection, NextHopError};
use super::offers::{self, OfferedExtensions, offers};
use crate::error::chain;
use crate::hook::Mode;
use crate::hook::access_control::ConnectionSlot;
use crate::hook::listener::Stream;
use crate::identity::parse_path;
use crate::mail::{
    Address, AddressError, Enhanced, Envelope, Recipient, Reply, original_recipient,
};
use crate::mail::{LimitExceeded, Limits};
use crate::pipeline::{Pipeline, RecipientChecks};
use crate::policy::Admission;
use crate::smtp::{Command, ServerReply, add_brackets};

/// Longest idle time of a client (RFC 5321 section 4.5.3.2.7).
pub(super) const CLIENT_TIMEOUT: Duration = Duration::from_secs(300);
/// Time a connection to the next hop is held for a client that has not sent a command yet.
const FIRST_COMMAND: Duration = Duration::from_secs(1);
/// Invalid commands after which the connection is closed.
const MAX_ERRORS: usize = 20;

/// One client session.
pub(super) struct Session {
    pub(super) terms: Arc<SmtpListenerState>,
    pub(super) pipelines: Arc<ArcSwap<Pipeline>>,
    pub(super) slot: Arc<ConnectionSlot>,
    pub(super) limits: Limits,
    pub(super) shutdown: CancellationToken,
    pub(super) peer: IpAddr,
    pub(super) began: Instant,
    pub(super) identity: ClientIdentity,
    pub(super) offers: OfferedExtensions,
    pub(super) transaction: Option<Transaction>,
    pub(super) errors: usize,
    /// Whether the client has authenticated.
    pub(super) is_authenticated: bool,
    /// Start of the time limit for EHLO.
    pub(super) greeting_since: Instant,
    /// Whether the client has sent EHLO or HELO.
    pub(super) has_greeted: bool,
}

/// A mail transaction, as far as the next hop has accepted it.
pub(super) struct Transaction {
    /// The pipeline with the settings in force at MAIL.
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) began: Instant,
    /// MAIL and RCPT commands as the client sent them.
    pub(super) mail: Bytes,
    pub(super) rcpts: Vec<Bytes>,
    pub(super) sender: Option<Address>,
    pub(super) sender_params: Vec<String>,
    pub(super) recipients: Vec<Recipient>,
    /// Recipient checks so far, for the decision about the message.
    pub(super) recipient_checks: RecipientChecks,
    /// The part of the message received by BDAT.
    pub(super) chunks: Option<Chunks>,
}

/// A message received by BDAT.
#[derive(Default)]
pub(super) struct Chunks {
    pub(super) incoming: IncomingMessage,
    pub(super) after_cr: bool,
}

/// The two connections of a session.
pub(super) struct Link {
    pub(super) client: ClientSide,
    pub(super) hop: NextHopConnection,
    /// Whether the connection to the next hop is reused and no command was sent on it yet: it may have been closed meanwhile.
    pub(super) is_stale: bool,
}

impl Session {
    pub(super) fn new(
        terms: Arc<SmtpListenerState>,
        pipelines: Arc<ArcSwap<Pipeline>>,
        slot: Arc<ConnectionSlot>,
        limits: Limits,
        shutdown: CancellationToken,
        peer: IpAddr,
    ) -> Session {
        let identity = ClientIdentity::new(peer, terms.listener.side);
        Session {
            terms,
            pipelines,
            slot,
            limits,
            shutdown,
            peer,
            began: Instant::now(),
            identity,
            offers: OfferedExtensions::default(),
            transaction: None,
            errors: 0,
            is_authenticated: false,
            greeting_since: Instant::now(),
            has_greeted: false,
        }
    }

    /// Serves the client until the connection ends.
    pub(super) async fn serve(mut self, stream: Stream) -> Result<(), SessionEnd> {
        let terms = self.terms.clone();
        let mut stream = stream;
        if terms.listener.proxy_protocol {
            let source = super::proxy_header::read_client_address(
                &mut stream,
                self.peer,
                self.may_forward_identity(),
            );
            self.identity.set_ip(source.await?);
            self.count_client()?;
        }
        let mut client = ClientSide::new(Box::new(stream));
        if let Some(tls) = terms.server_tls.as_ref().filter(|tls| tls.implicit) {
            client.encrypt(tls).await?;
        }
        let (hop, used) = match terms
            .pool
            .get(&terms.listener.next_hop, &terms.next_hop_tls)
            .await
        {
            Ok(got) => got,
            Err(error) => {
                self.record_failure(&error);
                client.reply(&Reply::new(
                    421,
                    Enhanced(4, 4, 1),
                    "Next hop unavailable, try again",
                ));
                client.close().await;
                return Err(SessionEnd::NextHop(error));
            }
        };
        client.write(&hop.greeting);
        let (ended, hop) = match self.await_first_command(&mut client, (hop, used)).await {
            Ok((hop, is_stale)) => {
                let mut link = Link {
                    client,
                    hop,
                    is_stale,
                };
                let ended = self.run_commands(&mut link).await;
                client = link.client;
                (ended, Some(link.hop))
            }
            Err(ended) => (Err(ended), None),
        };
        match &ended {
            Ok(()) => {}
            Err(SessionEnd::Stopping) => {
                client.reply(&Reply::new(
                    421,
                    Enhanced(4, 3, 2),
                    "Service shutting down, try again",
                ));
            }
            Err(SessionEnd::ClientTimeout | SessionEnd::TimeLimit) => {
                client.reply(&Reply::new(421, Enhanced(4, 4, 2), "Timeout exceeded"));
            }
            Err(SessionEnd::TooManyConnections) => {
                client.reply(&Reply::new(421, Enhanced(4, 7, 0), "Too many connections"));
            }
            Err(SessionEnd::TooManyErrors) => {
                client.reply(&Reply::new(421, Enhanced(4, 7, 0), "Too many errors"));
            }
            Err(SessionEnd::NextHop(error)) => {
                self.record_failure(error);
                client.reply(&Reply::new(
                    421,
                    Enhanced(4, 4, 2),
                    "Connection to the next hop lost, try again",
                ));
            }
            Err(_) => {}
        }
        let is_idle = self.transaction.is_none();
        let hop = match &ended {
            // In the middle of a message the connection is just closed, so that the part already
            // sent is not taken for the whole message.
            Err(SessionEnd::NextHop(_) | SessionEnd::NextHopClosed) => None,
            _ => hop.filter(|_| is_idle),
        };
        // Before the client's last reply, so that the next client finds it in the pool.
        let other = match hop {
            Some(hop) if hop.is_reusable() => {
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

    /// Waits for the client's first command. A connection to the next hop that stays unused goes
    /// back to the pool meanwhile.
    async fn await_first_command(
        &self,
        client: &mut ClientSide,
        got: (NextHopConnection, bool),
    ) -> Result<(NextHopConnection, bool), SessionEnd> {
        let (pool, stop) = (&self.terms.pool, Some(&self.shutdown));
        let soon = client.read(Instant::now() + FIRST_COMMAND, stop).await;
        match soon {
            Ok(()) => return Ok(got),
            Err(ended) => {
                pool.put(got.0);
                let SessionEnd::ClientTimeout = ended else {
                    return Err(ended);
                };
            }
        }
        client.read(self.deadline(), stop).await?;
        let again = pool.get(&self.terms.listener.next_hop, &self.terms.next_hop_tls);
        again.await.map_err(SessionEnd::NextHop)
    }

    /// Counts this connection for the client on whose behalf it was opened.
    pub(super) fn count_client(&mut self) -> Result<(), SessionEnd> {
        match self.identity.ip() {
            Some(ip) => self
                .slot
                .count_for(ip)
                .map_err(|_| SessionEnd::TooManyConnections),
            None => Ok(()),
        }
    }

    fn record_failure(&self, error: &NextHopError) {
        counter!("copyist_next_hop_failures_total").increment(1);
        let to = &self.terms.listener.next_hop;
        warn!(
            listener = %self.terms.listener.listen,
            "next hop {}:{} {}", to.host, to.port, chain(error)
        );
    }

    pub(super) fn may_forward_identity(&self) -> bool {
        self.terms.listener.identity_forwarders.contains(self.peer)
    }

    /// Returns the time by which the client must send something.
    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        let most = match &self.transaction {
            Some(transaction) => transaction.began + self.limits.message_time,
            None if !self.has_greeted => self.greeting_since + self.limits.greeting,
            None => self.began + self.limits.connection_time,
        };
        most.min(now + CLIENT_TIMEOUT.min(self.limits.idle))
    }

    async fn run_commands(&mut self, link: &mut Link) -> Result<(), SessionEnd> {
        loop {
            // An open transaction is finished first.
            let stop = self.transaction.is_none().then(|| self.shutdown.clone());
            if self.transaction.is_none() && self.began.elapsed() > self.limits.connection_time {
                return Err(SessionEnd::TimeLimit);
            }
            let line = link.client.line(self.deadline(), stop.as_ref()).await?;
            let Ok(line) = line else {
                self.invalid_command(link, "Line too long, or with a bare line break")?;
                continue;
            };
            if self.execute(link, line).await? {
                return Ok(());
            }
        }
    }

    /// Executes one command; returns whether the session ends with it.
    async fn execute(&mut self, link: &mut Link, line: Bytes) -> Result<bool, SessionEnd> {
        match Command::parse(&line) {
            Command::Ehlo(name) => self.ehlo(link, &line, &name, true).await?,
            Command::Helo(name) => self.ehlo(link, &line, &name, false).await?,
            Command::Mail { path, params } => {
                self.mail(link, add_brackets(&line), &path, params).await?;
            }
            Command::Rcpt { path, params } => {
                self.rcpt(link, add_brackets(&line), &path, params).await?;
            }
            Command::Data => self.data(link).await?,
            Command::Bdat { bytes, last } => self.chunk(link, bytes, last).await?,
            Command::Rset => {
                self.end_transaction();
                self.forward(link, &line).await?;
            }
            Command::Noop | Command::Vrfy | Command::Expn | Command::Help => {
                self.forward(link, &line).await?;
            }
            Command::Quit => {
                self.quit(link, &line).await?;
                return Ok(true);
            }
            Command::StartTls => self.start_tls(link).await?,
            Command::Auth { mechanism, initial } => {
                self.auth(link, &line, &mechanism, initial).await?;
            }
            Command::Xclient(attributes) => self.xclient(link, &line, &attributes).await?,
            Command::Xforward(attributes) => self.xforward(link, &line, &attributes).await?,
            Command::Unknown => self.invalid_command(link, "Command not recognized")?,
            Command::Malformed => self.invalid_command(link, "Syntax error")?,
        }
        Ok(false)
    }

    pub(super) fn invalid_command(
        &mut self,
        link: &mut Link,
        what: &str,
    ) -> Result<(), SessionEnd> {
        self.errors += 1;
        if self.errors > MAX_ERRORS {
            return Err(SessionEnd::TooManyErrors);
        }
        link.client.reply(&Reply::new(500, Enhanced(5, 5, 2), what));
        Ok(())
    }

    /// Sends a command to the next hop. A reused connection that was closed while idle is replaced,
    /// once.
    pub(super) async fn command(
        &mut self,
        link: &mut Link,
        line: &[u8],
    ) -> Result<ServerReply, SessionEnd> {
        let replied = link.hop.command(line).await;
        let is_stale = std::mem::take(&mut link.is_stale);
        let answer = match replied {
            Err(_) if is_stale => self.retry_command(link, line).await?,
            Ok(answer) if is_stale && answer.code == 421 => self.retry_command(link, line).await?,
            replied => replied.map_err(SessionEnd::NextHop)?,
        };
        if answer.code == 421 {
            // The next hop closes now. Its own reply goes to the client.
            link.client.forward(&answer);
            return Err(SessionEnd::NextHopClosed);
        }
        Ok(answer)
    }

    async fn retry_command(&self, link: &mut Link, line: &[u8]) -> Result<ServerReply, SessionEnd> {
        let (to, tls) = (&self.terms.listener.next_hop, &self.terms.next_hop_tls);
        link.hop = NextHopConnection::open(to, tls)
            .await
            .map_err(SessionEnd::NextHop)?;
        link.hop.command(line).await.map_err(SessionEnd::NextHop)
    }

    /// Passes a command to the next hop, and its reply to the client.
    pub(super) async fn forward(
        &mut self,
        link: &mut Link,
        line: &[u8],
    ) -> Result<ServerReply, SessionEnd> {
        let answer = self.command(link, line).await?;
        link.client.forward(&answer);
        Ok(answer)
    }

    async fn ehlo(
        &mut self,
        link: &mut Link,
        line: &[u8],
        name: &str,
        extended: bool,
    ) -> Result<(), SessionEnd> {
        self.end_transaction();
        let answer = self.command(link, line).await?;
        if !answer.is_positive() {
            link.client.forward(&answer);
            return Ok(());
        }
        self.has_greeted = true;
        self.slot.begin();
        self.identity.set_helo(name);
        if !extended {
            self.offers = OfferedExtensions::default();
            link.client.forward(&answer);
            return Ok(());
        }
        let is_tls = link.client.is_tls();
        let terms = offers::OfferConditions {
            max_message_size: self.limits.message_size,
            may_encrypt: self.terms.server_tls.is_some() && !is_tls && !self.is_authenticated,
            may_authenticate: !self.is_authenticated
                && (is_tls || !link.hop.is_tls() || self.peer.to_canonical().is_loopback()),
            may_forward_identity: self.may_forward_identity(),
        };
        let (offers, wire) = offers(&answer, terms);
        self.offers = offers;
        link.client.write(&wire);
        Ok(())
    }

    /// Returns a rejection of Copyist's own as the client gets it. After a queue it is never
    /// permanent: the queue would send a bounce to a possibly forged sender.
    fn own_rejection(&self, reply: Reply) -> Reply {
        let reply = match self.terms.listener.mode {
            Mode::AfterQueue if reply.is_permanent() => {
                let Enhanced(_, subject, detail) = reply.enhanced;
                Reply::new(reply.code - 100, Enhanced(4, subject, detail), reply.text)
            }
            _ => reply,
        };
        counter!("copyist_smtp_refusals_total", "code" => reply.code.to_string()).increment(1);
        reply
    }

    pub(super) fn reject(&self, link: &mut Link, reply: Reply) {
        link.client.reply(&self.own_rejection(reply));
    }

    pub(super) fn bad_sequence(&self, link: &mut Link, what: &str) {
        link.client.reply(&Reply::new(503, Enhanced(5, 5, 1), what));
    }

    async fn mail(
        &mut self,
        link: &mut Link,
        line: Bytes,
        path: &str,
        params: Vec<String>,
    ) -> Result<(), SessionEnd> {
        if self.transaction.is_some() {
            self.bad_sequence(link, "Nested MAIL command");
            return Ok(());
        }
        if !self.has_greeted {
            // The next hop may still have the EHLO name of the connection's previous client.
            self.bad_sequence(link, "Send EHLO first");
            return Ok(());
        }
        let pipeline = self.pipelines.load_full();
        let sender = match parse(&pipeline, path) {
            Ok(address) => Some(address),
            Err(AddressError::Empty) => None,
            Err(error) => {
                let reply = Reply::new(553, Enhanced(5, 1, 7), format!("Sender: {error}"));
                self.reject(link, reply);
                return Ok(());
            }
        };
        if declared_size(&params).is_some_and(|size| size > self.limits.message_size as u64) {
            self.limit_exceeded(LimitExceeded::Message);
            self.reject(link, LimitExceeded::Message.reply());
            return Ok(());
        }
        if params
            .iter()
            .any(|param| param.eq_ignore_ascii_case("BODY=BINARYMIME"))
        {
            // Not offered. RFC 5321 section 4.1.1.11: parameter not implemented.
            let reply = Reply::new(555, Enhanced(5, 5, 4), "BODY=BINARYMIME is not offered");
            link.client.reply(&reply);
            return Ok(());
        }
        if self.forward(link, &line).await?.is_positive() {
            self.warn_unknown_clients();
            let recipient_checks = pipeline.begin();
            self.transaction = Some(Transaction {
                pipeline,
                began: Instant::now(),
                mail: line,
                rcpts: Vec::new(),
                sender,
                sender_params: params,
                recipients: Vec::new(),
                recipient_checks,
                chunks: None,
            });
        }
        Ok(())
    }

    /// Warns once if a queue on this host forwards mail without client addresses: all clients then
    /// look local.
    fn warn_unknown_clients(&self) {
        static WARNED: std::sync::Once = std::sync::Once::new();
        let listener = &self.terms.listener;
        let unknown = listener.mode == Mode::AfterQueue
            && listener.side.is_none()
            && !self.identity.has_forwarded_client();
        if unknown && self.peer.to_canonical().is_loopback() {
            WARNED.call_once(|| {
                warn!(
                    listener = %listener.listen,
                    "the MTA does not forward client addresses (XFORWARD), so all mail looks internal; set smtp_send_xforward_command = yes in Postfix, or direction in [[hook.smtp]]"
                );
            });
        }
    }

    async fn rcpt(
        &mut self,
        link: &mut Link,
        line: Bytes,
        path: &str,
        params: Vec<String>,
    ) -> Result<(), SessionEnd> {
        let Some(transaction) = &self.transaction else {
            self.bad_sequence(link, "Need MAIL command");
            return Ok(());
        };
        if transaction.chunks.is_some() {
            self.bad_sequence(link, "BDAT has begun");
            return Ok(());
        }
        if transaction.recipients.len() >= self.limits.recipients {
            self.limit_exceeded(LimitExceeded::Recipients);
            self.reject(link, LimitExceeded::Recipients.reply());
            return Ok(());
        }
        let pipeline = transaction.pipeline.clone();
        let address = match parse(&pipeline, path) {
            Ok(address) => address,
            Err(error) => {
                let reply = Reply::new(553, Enhanced(5, 1, 3), format!("Recipient: {error}"));
                self.reject(link, reply);
                return Ok(());
            }
        };
        // Without the recipients before it: nothing depends on them, and copying them for each
        // recipient would be quadratic.
        let envelope = self.envelope_to(transaction, Vec::new());
        let Some(transaction) = &mut self.transaction else {
            return Ok(());
        };
        let recipient_checks = &mut transaction.recipient_checks;
        let admission = match pipeline
            .check_recipient(&envelope, &address, None, recipient_checks)
            .await
        {
            Ok(admission) => admission,
            Err(reply) => {
                self.reject(link, reply);
                return Ok(());
            }
        };
        // A trusted queue declares the original recipient it expanded (RFC 3461 section 4.2). Any
        // other client could forge it.
        let is_behind = self.terms.listener.mode == Mode::AfterQueue && self.may_forward_identity();
        let original = is_behind.then(|| original_recipient(&params)).flatten();
        let answer = self.forward(link, &line).await?;
        if let Some(transaction) = self.transaction.as_mut().filter(|_| answer.is_positive()) {
            if admission == Admission::Provisional {
                transaction
                    .recipient_checks
                    .provisional
                    .push(address.clone());
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

    /// Takes the transaction, if a message may follow now; else replies with an error.
    pub(super) fn take_transaction(&mut self, link: &mut Link) -> Option<Transaction> {
        let what = match &self.transaction {
            None => "Need MAIL command",
            Some(transaction) if transaction.recipients.is_empty() => {
                // RFC 5321 section 3.3.
                let reply = Reply::new(554, Enhanced(5, 5, 1), "No valid recipients");
                link.client.reply(&reply);
                return None;
            }
            Some(_) => return self.transaction.take(),
        };
        self.bad_sequence(link, what);
        None
    }

    pub(super) fn limit_exceeded(&self, limit: LimitExceeded) {
        counter!("copyist_limit_refusals_total", "limit" => limit.name()).increment(1);
        warn!(
            queue_id = self.identity.queue_id(),
            "rejected: limits.{} exceeded",
            limit.name()
        );
    }

    pub(super) fn end_transaction(&mut self) {
        self.transaction = None;
        self.identity.end_transaction();
    }

    async fn quit(&mut self, link: &mut Link, line: &[u8]) -> Result<(), SessionEnd> {
        let has_transaction = self.transaction.is_some();
        self.end_transaction();
        if link.hop.is_reusable() && !has_transaction {
            // The connection goes back to the pool for the next client.
            link.client
                .reply(&Reply::new(221, Enhanced(2, 0, 0), "Bye"));
            return Ok(());
        }
        link.hop.set_client_specific();
        self.forward(link, line).await.map(|_| ())
    }
}

fn parse(pipeline: &Pipeline, path: &str) -> Result<Address, AddressError> {
    let default = pipeline.ruleset.rules.organization.names.default_domain();
    parse_path(path, default.unwrap_or("localhost"))
}

/// Returns the declared message size (RFC 1870 section 6).
fn declared_size(params: &[String]) -> Option<u64> {
    params.iter().find_map(|param| {
        let (name, value) = param.split_once('=')?;
        name.eq_ignore_ascii_case("SIZE")
            .then(|| value.parse().ok())?
    })
}
