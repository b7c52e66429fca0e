//! HTTP for those who watch: `/healthz`, `/readyz`, `/metrics`. Shows no message content.

mod settings;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::directory::Health;
use crate::hook::Clients;
use crate::pipeline::Pipeline;

pub use settings::Settings;

#[derive(Clone)]
struct Watched {
    pipeline: Arc<ArcSwap<Pipeline>>,
    metrics: PrometheusHandle,
}

/// The process's one collector of metrics, installed at the first call.
///
/// `None` where somebody else's is installed: a library user keeps theirs.
pub fn metrics() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| PrometheusBuilder::new().install_recorder().ok())
        .clone()
}

/// How often what was measured is put into its place.
const UPKEEP: Duration = Duration::from_secs(5);

/// Puts what was measured into its place from time to time, until `shutdown`. The collector keeps each single value of a
/// histogram until somebody asks for the metrics; where nobody ever does, they would fill the memory.
pub async fn upkeep(metrics: PrometheusHandle, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        metrics.run_upkeep();
    }
}

/// Accepts those who may connect.
struct Door {
    listener: TcpListener,
    clients: Clients,
}

impl axum::serve::Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
            if self.clients.include(from.ip()) {
                return (stream, from);
            }
            counter!("copyist_admin_connections_refused_total").increment(1);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Serves those who may connect until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    clients: Clients,
    metrics: PrometheusHandle,
    pipeline: Arc<ArcSwap<Pipeline>>,
    shutdown: CancellationToken,
) {
    let routes = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Watched { pipeline, metrics });
    let served = axum::serve(Door { listener, clients }, routes)
        .with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = served.await {
        error!("the admin listener ended: {error}");
    }
}

/// Whether the promise can be kept now. A directory that is down is told, but is no reason to take mail away
/// from us: people in the cache are journaled, the others' mail is deferred.
async fn ready(State(watched): State<Watched>) -> (StatusCode, String) {
    let pipeline = watched.pipeline.load_full();
    if pipeline.spool.is_failed() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the spool has failed: everything is deferred\n".into(),
        );
    }
    if let Some(free) = pipeline.spool.free()
        && free.is_low
    {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the disk is nearly full: mail that must be journaled is deferred\n".into(),
        );
    }
    match pipeline.directory.health() {
        Health::Ok => (StatusCode::OK, "ready\n".into()),
        Health::Unavailable(outage) => (StatusCode::OK, format!("degraded: {outage}\n")),
    }
}

async fn scrape(State(watched): State<Watched>) -> (StatusCode, String) {
    let pipeline = watched.pipeline.load_full();
    match pipeline.spool.depth().await {
        Ok(depth) => {
            gauge!("copyist_spool_items").set(depth.items as f64);
            gauge!("copyist_spool_dead_letters").set(depth.dead as f64);
            gauge!("copyist_spool_on_hold").set(depth.paused as f64);
        }
        Err(error) => error!("the spool cannot be counted: {error}"),
    }
    gauge!("copyist_memory_in_flight_bytes").set(pipeline.memory.in_flight() as f64);
    if let Some(free) = pipeline.spool.free() {
        gauge!("copyist_spool_free_bytes").set(free.octets as f64);
        if let Some(inodes) = free.inodes {
            gauge!("copyist_spool_free_inodes").set(inodes as f64);
        }
        gauge!("copyist_spool_low").set(f64::from(u8::from(free.is_low)));
    }
    (StatusCode::OK, watched.metrics.render())
}
