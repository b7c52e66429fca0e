//! Who is served over HTTP, how many at a time, and how long each may take.
//!
//! The admin port must not take what mail needs: descriptors, above all. So there are few
//! connections, one client leaves room for others, and a request that does not come ends its
//! connection.

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

use super::guard::Peer;
use crate::hook::{Clients, Crowd, Seat};

/// Connections at a time.
const MOST: usize = 64;
/// Those of one client.
const SHARE: usize = 32;
/// How long a request's head may take, and the silence before it.
const HEAD: Duration = Duration::from_secs(10);
/// How long a request's body may take, and the answer to it.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a connection may live.
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// How long nothing is accepted after the system refused a connection.
const BREATH: Duration = Duration::from_millis(100);

/// Accepts those who may connect.
pub struct Door {
    listener: TcpListener,
    clients: Clients,
    open: Arc<Crowd>,
}

impl Door {
    /// A bound listener, and whom it lets in.
    pub fn new(listener: TcpListener, clients: Clients) -> Door {
        let open = Arc::default();
        Door {
            listener,
            clients,
            open,
        }
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, and then what is under way.
    pub(super) async fn serve(self, router: Router, shutdown: &CancellationToken) {
        let connections = TaskTracker::new();
        while let Some((stream, peer, seat)) = shutdown.run_until_cancelled(self.accept()).await {
            let close = seat.close();
            let router = router.clone().layer(Extension(peer));
            let served = serve(stream, seat, router, shutdown.clone());
            connections.spawn(async move {
                // Whoever is cut off asks again.
                let _ = close.run_until_cancelled(timeout(LONGEST, served)).await;
            });
        }
        connections.close();
        connections.wait().await;
    }

    async fn accept(&self) -> (TcpStream, Peer, Seat) {
        let mut is_told = false;
        loop {
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(cause) => {
                    error!("cannot accept a connection to the admin side: {cause}");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let is_allowed = self.clients.include(from.ip());
            match self.open.enter(Some(from.ip()), MOST, SHARE) {
                Ok(seat) if is_allowed => return (stream, Peer(from.ip()), seat),
                Err(_) if is_allowed && !is_told => {
                    is_told = true;
                    warn!(client = %from.ip(), "a connection to the admin side was closed: {SHARE} of one client, or {MOST} in all, are open");
                }
                _ => {}
            }
            counter!("copyist_admin_connections_refused_total").increment(1);
        }
    }
}

async fn serve(stream: TcpStream, seat: Seat, router: Router, shutdown: CancellationToken) {
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
    // How it ended is the client's affair.
    if shutdown
        .run_until_cancelled(connection.as_mut())
        .await
        .is_none()
    {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}
