//! The HTTP listener: its access list, connection limits and timeouts.
//!
//! The admin port must not use up resources that mail needs, above all file descriptors. So there are
//! few connections, each client gets a share of them, and idle connections are closed.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics::counter;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use super::access::Peer;
use crate::hook::{ClientNetworks, ConnectionCounter, CountedConnection};

/// The most connections at a time.
const MOST: usize = 64;
/// The most connections of one client.
const SHARE: usize = 32;
/// The timeout for a request's head, including idle time before it.
const HEAD: Duration = Duration::from_secs(10);
/// The timeout for a request's body and its response.
const ANSWER: Duration = Duration::from_secs(60);
/// The longest life of a connection.
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// The pause after a failed accept.
const BREATH: Duration = Duration::from_millis(100);

/// The admin listener with its access list.
pub struct Listener {
    listener: TcpListener,
    clients: ClientNetworks,
    open: Arc<ConnectionCounter>,
}

impl Listener {
    /// Creates a listener from a bound socket and its access list.
    pub fn new(listener: TcpListener, clients: ClientNetworks) -> Listener {
        let open = Arc::default();
        Listener {
            listener,
            clients,
            open,
        }
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then finishes open requests.
    pub(super) async fn serve(self, router: Router, shutdown: &CancellationToken) {
        let connections = TaskTracker::new();
        while let Some((stream, peer, seat)) = shutdown.run_until_cancelled(self.accept()).await {
            let close = seat.close();
            let router = router.clone().layer(Extension(peer));
            let served = serve(stream, seat, router, shutdown.clone());
            connections.spawn(async move {
                // A client that is cut off retries.
                let _ = close.run_until_cancelled(timeout(LONGEST, served)).await;
            });
        }
        connections.close();
        connections.wait().await;
    }

    async fn accept(&self) -> (TcpStream, Peer, CountedConnection) {
        let mut is_logged = false;
        loop {
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(cause) => {
                    error!("cannot accept a connection on the admin listener: {cause}");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let is_allowed = self.clients.contains(from.ip());
            match self.open.enter(Some(from.ip()), MOST, SHARE) {
                Ok(seat) if is_allowed => return (stream, Peer(from.ip()), seat),
                Err(_) if is_allowed && !is_logged => {
                    is_logged = true;
                    warn!(client = %from.ip(), "admin connection rejected: limit of {SHARE} per client or {MOST} in total reached");
                }
                _ => {}
            }
            counter!("copyist_admin_connections_refused_total").increment(1);
        }
    }
}

async fn serve(
    stream: TcpStream,
    seat: CountedConnection,
    router: Router,
    shutdown: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        seat.begin();
        let answered = timeout(ANSWER, router.call(request));
        async {
            let late = || StatusCode::REQUEST_TIMEOUT.into_response();
            let Ok(answer) = answered.await.unwrap_or_else(|_| Ok(late()));
            Ok::<Response, Infallible>(answer)
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    // How the connection ended does not matter.
    if shutdown
        .run_until_cancelled(connection.as_mut())
        .await
        .is_none()
    {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}
