//! HTTP for those who watch and for the operator: `/healthz`, `/readyz`, `/metrics`, and pages.
//!
//! Promises: no page shows what a message says. What a message is about (its subject) and the
//! message itself (`/queue/{id}/export`) are given only to whoever shows the token of
//! `admin.token_file`: every user of this machine can connect to a loopback address, and not each
//! of them may read the spool. What `guard` refuses never reaches a page.
//!
//! | file | owns |
//! |---|---|
//! | `guard` | who may see and do what; what browsers are told |
//! | `listener` | who is served, how many at a time, and for how long |
//! | `health` | `/healthz`, `/readyz`, `/metrics` |
//! | `history`, `reading` | the last 24 hours of the metrics |
//! | `coverage` | the last reading of the whole directory |
//! | `pages` | the pages |

mod coverage;
mod guard;
mod health;
mod history;
mod listener;
mod pages;
mod reading;
mod settings;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::Router;
use axum::middleware;
use axum::routing::{MethodRouter, get, post};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing::error;

use self::coverage::Coverage;
use self::guard::Guard;
use self::history::{History, Sample};
use self::reading::Reading;
use crate::pipeline::Pipeline;
use crate::spool::{BrowseRequest, QueueCounts};

pub use listener::Door;
pub use settings::{Effective, InForce, Origin, Refused, Setting, Settings};

/// What every answer is made from.
#[derive(Clone)]
struct Watched {
    pipeline: Arc<ArcSwap<Pipeline>>,
    metrics: PrometheusHandle,
    in_force: Arc<ArcSwap<InForce>>,
    guard: Arc<Guard>,
    history: Arc<History>,
    coverage: Arc<Coverage>,
    started: SystemTime,
    shutdown: CancellationToken,
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

/// Puts what was measured into its place from time to time, until `shutdown`. The collector keeps
/// each single value of a histogram until somebody asks for the metrics; where nobody ever does,
/// they would fill the memory.
pub async fn upkeep(metrics: PrometheusHandle, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        metrics.run_upkeep();
    }
}

/// Every path there is, by its method, and what answers. Whatever is not named in `guard` as open
/// asks for the token.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Watched>)> {
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

/// The method and path of everything that is served; a part in braces stands for any text.
pub fn paths() -> Vec<(&'static str, &'static str)> {
    let routes = routes().into_iter();
    routes.map(|(method, path, _)| (method, path)).collect()
}

/// Serves those who may connect until `shutdown`.
pub async fn serve(
    door: Door,
    metrics: PrometheusHandle,
    pipeline: Arc<ArcSwap<Pipeline>>,
    in_force: Arc<ArcSwap<InForce>>,
    shutdown: CancellationToken,
) {
    let guard = door.local_addr().ok().and_then(Guard::new);
    let Some(guard) = guard else {
        error!(
            "the admin listener has no address, or the system no random numbers: it is not served"
        );
        return;
    };
    let watched = Watched {
        pipeline,
        metrics,
        in_force,
        guard: Arc::new(guard),
        history: Arc::default(),
        coverage: Arc::default(),
        started: SystemTime::now(),
        shutdown: shutdown.clone(),
    };
    // The counters begin with the process: mail that comes before the first sample is mail of the
    // day.
    let nothing = Sample::of(&Reading::default(), None, watched.started);
    watched.history.add(nothing);
    let router = routes()
        .into_iter()
        .fold(Router::new(), |router, (_, path, answer)| {
            router.route(path, answer)
        });
    let router = router
        .fallback(pages::layout::nothing_here)
        .layer(middleware::from_fn_with_state(
            watched.clone(),
            guard::guard,
        ))
        .layer(middleware::map_response(guard::headers))
        .with_state(watched.clone());
    let sampled = shutdown.run_until_cancelled(watched.sample());
    tokio::join!(door.serve(router, &shutdown), sampled);
}

impl Watched {
    /// Takes a sample a minute, for ever.
    async fn sample(&self) {
        let mut tick = tokio::time::interval(history::EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let (_, sample) = self.now().await;
            self.history.add(sample);
        }
    }

    /// What is so now.
    async fn now(&self) -> (Reading, Sample) {
        let census = self.census().await;
        let reading = Reading::parse(&self.metrics.render());
        let sample = Sample::of(&reading, census, SystemTime::now());
        (reading, sample)
    }

    async fn census(&self) -> Option<QueueCounts> {
        let spool = self.pipeline.load().spool.clone();
        match spool.browse(BrowseRequest::default()).await {
            Ok(browsed) => Some(browsed.census),
            Err(cause) => {
                error!("the spool cannot be counted: {cause}");
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
        let _: Router<Watched> = routes()
            .into_iter()
            .fold(Router::new(), |router, (_, path, answer)| {
                router.route(path, answer)
            });
        assert_eq!(paths().len(), routes().len());
    }
}
