//! The SMTP door: Copyist stands between a client and the next server, for MTAs without a milter.
//!
//! Promises: what the client says reaches the next server as it was said, byte for byte, and the
//! client gets that server's own answers; Copyist never takes responsibility for a message itself
//! (RFC 5321 section 4.2.5). What must be journaled is durable before the message goes on, is
//! delivered once the next server has taken it, and withdrawn where it has not. Only what this door
//! understands is passed on: an unknown command is nobody's.

mod arriving;
mod body;
mod client;
mod identity;
mod next_hop;
mod offers;
mod passing;
mod pool;
mod proxied;
mod session;
mod standing;
mod tls;
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

use super::clients::Caller;
use super::gate::Gate;
use super::listener::Stream;
use super::settings::{Access, Limits, SmtpDoor};
use crate::pipeline::Pipeline;
use pool::Pool;
use session::Session;
use tls::{HopTls, ServerTls};

pub use tls::TlsError;

/// How long nothing is accepted after the system refused a connection.
const BREATH: Duration = Duration::from_millis(100);
/// How often idle connections to the next server are looked after.
const SWEEP: Duration = Duration::from_secs(5);

/// What an SMTP listener works by, of one generation of settings. A connection keeps the one it
/// began with.
pub struct Terms {
    door: SmtpDoor,
    server_tls: Option<ServerTls>,
    hop_tls: HopTls,
    gate: Arc<Gate>,
    pool: Arc<Pool>,
}

impl Terms {
    /// Reads the certificates that the settings name. Blocks.
    pub fn load(door: &SmtpDoor, limits: Limits) -> Result<Terms, TlsError> {
        Ok(Terms {
            server_tls: door.tls.as_ref().map(ServerTls::load).transpose()?,
            hop_tls: HopTls::load(&door.next_hop)?,
            gate: Arc::new(Gate::of_smtp(access(door), limits)),
            pool: Arc::default(),
            door: door.clone(),
        })
    }

    /// The same by new settings. Who is connected stays so and is counted; idle connections to the
    /// same next server are used on. Blocks.
    pub fn reload(&self, door: &SmtpDoor, limits: Limits) -> Result<Terms, TlsError> {
        let new = Terms::load(door, limits)?;
        self.gate.set(access(door), limits);
        let same = new.door.next_hop == self.door.next_hop;
        Ok(Terms {
            gate: self.gate.clone(),
            pool: if same { self.pool.clone() } else { new.pool },
            ..new
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.door.listen
    }
}

fn access(door: &SmtpDoor) -> Access {
    Access {
        clients: door.clients.clone(),
        speakers: door.speakers.clone(),
        ..Access::default()
    }
}

/// Accepts connections until `shutdown`; each is served by a task of `sessions`.
pub async fn serve(
    listener: TcpListener,
    terms: Arc<ArcSwap<Terms>>,
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
                // Replies are small and waited for; a connection that cannot be set up so is served
                // all the same.
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
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

fn admit(
    stream: Stream,
    from: IpAddr,
    terms: Arc<Terms>,
    pipelines: &Arc<ArcSwap<Pipeline>>,
    sessions: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let who = Caller::Machine(from);
    let (place, limits) = match terms.gate.enter(who) {
        Ok(entered) => entered,
        Err(why) => {
            terms.gate.refused(who, why);
            return;
        }
    };
    let place = Arc::new(place);
    let close = place.close();
    let session = Session::new(
        terms,
        pipelines.clone(),
        place.clone(),
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
                debug!(client = %from, "an SMTP connection ended: {ended}");
            }
            None => place.closed(who),
        }
        gauge!("copyist_smtp_connections").decrement(1);
    });
}
