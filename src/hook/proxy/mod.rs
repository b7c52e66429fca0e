//! The SMTP hook: a proxy between a client and the next hop, for MTAs without milter support.
//! Promises: the client's commands reach the next hop byte for byte, and the client gets the next
//! hop's replies; Copyist never takes responsibility for a message itself (RFC 5321 section 4.2.5).
//! Items of a message that must be journaled are durable before the message goes on; they are
//! confirmed once the next hop has accepted the message and cancelled if it has not. Only commands
//! that this proxy understands are passed on.

mod authentication;
mod body;
mod client;
mod identity;
mod incoming;
mod next_hop;
mod offers;
mod pool;
mod proxy_header;
mod session;
mod tls;
mod transfer;
mod transmit;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{counter, gauge};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use super::access_control::AccessControl;
use super::client_networks::ConnectedPeer;
use super::listener::Stream;
use super::settings::{AccessList, Limits, SmtpListener};
use crate::pipeline::Pipeline;
use pool::Pool;
use session::Session;
use tls::{NextHopTls, ServerTls};

pub use tls::TlsError;

/// Pause after accept(2) failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Interval at which expired idle connections to the next hop are closed.
const SWEEP: Duration = Duration::from_secs(5);

/// Settings of an SMTP listener with its loaded certificates and its connection pool. A connection
/// keeps the state it began with, across reloads.
pub struct SmtpListenerState {
    listener: SmtpListener,
    server_tls: Option<ServerTls>,
    next_hop_tls: NextHopTls,
    access_control: Arc<AccessControl>,
    pool: Arc<Pool>,
}

impl SmtpListenerState {
    /// Loads the certificates that the settings name. Blocks.
    pub fn load(listener: &SmtpListener, limits: Limits) -> Result<SmtpListenerState, TlsError> {
        Ok(SmtpListenerState {
            server_tls: listener.tls.as_ref().map(ServerTls::load).transpose()?,
            next_hop_tls: NextHopTls::load(&listener.next_hop)?,
            access_control: Arc::new(AccessControl::for_smtp(access(listener), limits)),
            pool: Arc::default(),
            listener: listener.clone(),
        })
    }

    /// Loads new settings. Open connections stay and remain counted; idle connections to an
    /// unchanged next hop are kept. Blocks.
    pub fn reload(
        &self,
        listener: &SmtpListener,
        limits: Limits,
    ) -> Result<SmtpListenerState, TlsError> {
        let new = SmtpListenerState::load(listener, limits)?;
        self.access_control.set(access(listener), limits);
        let same = new.listener.next_hop == self.listener.next_hop;
        Ok(SmtpListenerState {
            access_control: self.access_control.clone(),
            pool: if same { self.pool.clone() } else { new.pool },
            ..new
        })
    }

    /// Returns the address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.listener.listen
    }
}

fn access(listener: &SmtpListener) -> AccessList {
    AccessList {
        clients: listener.clients.clone(),
        identity_forwarders: listener.identity_forwarders.clone(),
        ..AccessList::default()
    }
}

/// Accepts connections until `shutdown`; each is served by a task of `sessions`.
pub async fn serve(
    listener: TcpListener,
    terms: Arc<ArcSwap<SmtpListenerState>>,
    pipelines: Arc<ArcSwap<Pipeline>>,
    sessions: TaskTracker,
    shutdown: CancellationToken,
) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
            _ = sweep.tick() => {
                terms.load().pool.sweep();
                continue;
            }
        };
        match accepted {
            Ok((stream, from)) => {
                // Replies are small, and the client waits for each; a failure here only costs time.
                let _ = stream.set_nodelay(true);
                let terms = terms.load_full();
                admit(
                    Stream::Tcp(stream),
                    from.ip(),
                    terms,
                    &pipelines,
                    &sessions,
                    &shutdown,
                );
            }
            Err(cause) => {
                error!("cannot accept an SMTP connection: {cause}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(
    stream: Stream,
    from: IpAddr,
    terms: Arc<SmtpListenerState>,
    pipelines: &Arc<ArcSwap<Pipeline>>,
    sessions: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let peer = ConnectedPeer::Ip(from);
    let (slot, limits) = match terms.access_control.admit(peer) {
        Ok(admitted) => admitted,
        Err(why) => {
            terms.access_control.record_rejection(peer, why);
            return;
        }
    };
    let slot = Arc::new(slot);
    let close = slot.close();
    let session = Session::new(
        terms,
        pipelines.clone(),
        slot.clone(),
        limits,
        shutdown.clone(),
        from,
    );
    sessions.spawn(async move {
        gauge!("copyist_smtp_connections").increment(1);
        match close.run_until_cancelled(session.serve(stream)).await {
            Some(Ok(())) => {}
            Some(Err(ended)) => {
                counter!("copyist_smtp_connections_broken_total", "why" => ended.name())
                    .increment(1);
                debug!(client = %from, "SMTP connection ended: {ended}");
            }
            None => slot.record_idle_close(peer),
        }
        gauge!("copyist_smtp_connections").decrement(1);
    });
}
