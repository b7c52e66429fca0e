//! HTTP for monitoring and for the operator: `/healthz`, `/readyz`, `/metrics`, and the pages.
//!
//! No page shows the content of a message. Subjects and the message itself (`/queue/{id}/export`)
//! require the token of `admin.token_file`: every local user can connect to a loopback address, but
//! not all of them may read the spool. Requests that `access` rejects never reach a page.
//!
//! | file | owns |
//! |---|---|
//! | `access` | authentication, forms, response headers |
//! | `listener` | the HTTP listener: access list and limits |
//! | `health` | `/healthz`, `/readyz`, `/metrics` |
//! | `metrics` | the metrics recorder |
//! | `history` | the last 24 hours of the metrics |
//! | `coverage` | the last scan of the whole directory |
//! | `pages` | the pages |

mod access;
mod coverage;
mod health;
mod history;
mod listener;
mod metrics;
mod pages;
mod settings;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::Router;
use axum::middleware;
use axum::routing::{MethodRouter, get, post};
use tokio_util::sync::CancellationToken;
use tracing::error;

use self::access::RequestGuard;
use self::coverage::Coverage;
use self::history::{History, Sample};
use crate::pipeline::Pipeline;
use crate::spool::{BrowseRequest, QueueCounts};

pub use listener::Listener;
pub use metrics::{Metrics, metrics};
pub use settings::{ActiveConfig, EffectiveConfig, Origin, RejectedConfig, Setting, Settings};

/// The state shared by all request handlers.
#[derive(Clone)]
struct AppState {
    pipeline: Arc<ArcSwap<Pipeline>>,
    metrics: Metrics,
    active: Arc<ArcSwap<ActiveConfig>>,
    guard: Arc<RequestGuard>,
    history: Arc<History>,
    coverage: Arc<Coverage>,
    started: SystemTime,
    shutdown: CancellationToken,
}

/// The interval of metrics upkeep.
const UPKEEP: Duration = Duration::from_secs(5);

/// Maintains the metrics until `shutdown`. The recorder keeps every value of a histogram until the
/// next scrape; without scrapes they would fill the memory.
pub async fn upkeep(metrics: Metrics, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        metrics.run_upkeep();
    }
}

/// Returns all routes: method, path and handler. Paths that `access` does not list as open require
/// the token.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<AppState>)> {
    vec![
        ("GET", "/healthz", get(async || "alive\n")),
        ("GET", "/readyz", get(health::ready)),
        ("GET", "/metrics", get(health::scrape)),
        ("GET", "/", get(pages::overview::show)),
        ("GET", "/queue", get(pages::queue::show)),
        ("GET", "/queue/{id}", get(pages::item::show)),
        ("GET", "/queue/{id}/export", get(pages::item::export)),
        ("POST", "/queue/{id}/retry", post(pages::item::retry)),
        ("POST", "/queue/{id}/hold", post(pages::item::hold)),
        ("POST", "/queue/{id}/release", post(pages::item::release)),
        ("GET", "/explain", get(pages::explain::show)),
        ("GET", "/coverage", get(pages::coverage::show)),
        ("POST", "/coverage", post(pages::coverage::read)),
        ("GET", "/settings", get(pages::settings::show)),
        ("GET", "/login", get(pages::login::show)),
        ("POST", "/login", post(pages::login::enter)),
        ("POST", "/logout", post(pages::login::leave)),
        ("GET", "/style.css", get(pages::layout::style)),
        ("GET", "/script.js", get(pages::layout::script)),
    ]
}

/// Returns the method and path of all routes; a segment in braces matches any text.
pub fn paths() -> Vec<(&'static str, &'static str)> {
    let routes = routes().into_iter();
    routes.map(|(method, path, _)| (method, path)).collect()
}

/// Serves the listener until `shutdown`.
pub async fn serve(
    listener: Listener,
    metrics: Metrics,
    pipeline: Arc<ArcSwap<Pipeline>>,
    active: Arc<ArcSwap<ActiveConfig>>,
    shutdown: CancellationToken,
) {
    let guard = listener.local_addr().ok().and_then(RequestGuard::new);
    let Some(guard) = guard else {
        error!(
            "admin listener not started: it has no address, or the system has no random numbers"
        );
        return;
    };
    let app = AppState {
        pipeline,
        metrics,
        active,
        guard: Arc::new(guard),
        history: Arc::default(),
        coverage: Arc::default(),
        started: SystemTime::now(),
        shutdown: shutdown.clone(),
    };
    // Counters start with the process: mail before the first sample belongs to the day.
    app.history.add(Sample::empty(app.started));
    let router = routes()
        .into_iter()
        .fold(Router::new(), |router, (_, path, answer)| {
            router.route(path, answer)
        });
    let router = router
        .fallback(pages::layout::not_found_page)
        .layer(middleware::from_fn_with_state(app.clone(), access::guard))
        .layer(middleware::map_response(access::headers))
        .with_state(app.clone());
    let sampled = shutdown.run_until_cancelled(app.sample());
    tokio::join!(listener.serve(router, &shutdown), sampled);
}

impl AppState {
    /// Takes a sample every minute, forever.
    async fn sample(&self) {
        let mut tick = tokio::time::interval(history::EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.history.add(self.current_sample().await);
        }
    }

    /// Returns the current values.
    async fn current_sample(&self) -> Sample {
        let census = self.census().await;
        Sample::read(&self.metrics, census, SystemTime::now())
    }

    async fn census(&self) -> Option<QueueCounts> {
        let spool = self.pipeline.load().services.spool.clone();
        match spool.browse(BrowseRequest::default()).await {
            Ok(page) => Some(page.counts),
            Err(cause) => {
                error!("cannot count the queue: {cause}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_can_be_routed() {
        let _: Router<AppState> = routes()
            .into_iter()
            .fold(Router::new(), |router, (_, path, answer)| {
                router.route(path, answer)
            });
        assert_eq!(paths().len(), routes().len());
    }
}
