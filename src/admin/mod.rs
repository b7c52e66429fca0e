//! HTTP for those who watch: `/healthz`, `/readyz`, `/metrics`. Shows no message content.

mod settings;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics::gauge;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::directory::Health;
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

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    metrics: PrometheusHandle,
    pipeline: Arc<ArcSwap<Pipeline>>,
    shutdown: CancellationToken,
) {
    let routes = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Watched { pipeline, metrics });
    let served = axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned());
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
        }
        Err(error) => error!("the spool cannot be counted: {error}"),
    }
    (StatusCode::OK, watched.metrics.render())
}
