//! Endpoints for monitoring: liveness, readiness and metrics.

use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use metrics::gauge;
use tokio::time::timeout;
use tracing::error;

use super::AppState;
use crate::directory::Health;
use crate::spool::{BrowseRequest, QueuePage};

/// The longest time to collect the notes.
const NOTES: Duration = Duration::from_secs(2);

/// Reports readiness: 503 only if mail cannot be made durable, because a load balancer then sends
/// mail elsewhere. Every other problem is a note. While the directory is unavailable, cached people
/// are journaled and other mail is deferred.
pub(super) async fn ready(State(app): State<AppState>) -> (StatusCode, String) {
    let pipeline = app.pipeline.load_full();
    if pipeline.services.spool.is_failed() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "spool failed: mail is deferred\n".into(),
        );
    }
    if let Some(free) = pipeline.services.spool.free_space()
        && free.is_low
    {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "disk nearly full: mail that must be journaled is deferred\n".into(),
        );
    }
    let mut report = match pipeline.ruleset.identities.directory().health() {
        Health::Ok => "ready\n".to_owned(),
        Health::Unavailable(outage) => format!("degraded: {outage}\n"),
    };
    if let Some(rejected) = &app.active.load().rejected {
        let why = rejected.reason.lines().collect::<Vec<_>>().join("; ");
        let _ = writeln!(
            report,
            "note: reload failed, the previous configuration is active: {why}"
        );
    }
    // A hanging disk must not block this.
    let Ok(sample) = timeout(NOTES, app.current_sample()).await else {
        return (StatusCode::OK, report);
    };
    let is = |name: &str, value: f64| app.metrics.gauge(name) == Some(value);
    if is("copyist_relay_up", 0.0) {
        report += "note: relay unreachable: reports are queued\n";
    } else if is("copyist_relay_takes_nothing", 1.0) {
        report += "note: relay accepts no mail: it rejected or deferred all recent reports\n";
    }
    if let Some(census) = sample.census.filter(|census| census.dead > 0) {
        let _ = writeln!(report, "note: dead letters: {}", census.dead);
    }
    (StatusCode::OK, report)
}

pub(super) async fn scrape(State(app): State<AppState>) -> (StatusCode, String) {
    let pipeline = app.pipeline.load_full();
    // Counted from indexes on a separate connection: no delivery waits for it.
    match pipeline
        .services
        .spool
        .browse(BrowseRequest::default())
        .await
    {
        Ok(QueuePage { counts, .. }) => {
            gauge!("copyist_spool_items").set(counts.items as f64);
            gauge!("copyist_spool_dead_letters").set(counts.dead as f64);
            gauge!("copyist_spool_on_hold").set(counts.on_hold as f64);
            let oldest = counts.oldest.and_then(|at| at.elapsed().ok());
            gauge!("copyist_spool_oldest_seconds").set(oldest.unwrap_or_default().as_secs_f64());
        }
        Err(error) => error!("cannot count the queue: {error}"),
    }
    let is_rejected = app.active.load().rejected.is_some();
    gauge!("copyist_configuration_refused").set(f64::from(u8::from(is_rejected)));
    gauge!("copyist_memory_in_flight_bytes").set(pipeline.services.memory.in_flight() as f64);
    if let Some(free) = pipeline.services.spool.free_space() {
        gauge!("copyist_spool_free_bytes").set(free.bytes as f64);
        if let Some(inodes) = free.inodes {
            gauge!("copyist_spool_free_inodes").set(inodes as f64);
        }
        gauge!("copyist_spool_low").set(f64::from(u8::from(free.is_low)));
    }
    (StatusCode::OK, app.metrics.render())
}
