//! For machines: whether the process lives, whether it can keep its promise, and the metrics.

use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use metrics::gauge;
use tokio::time::timeout;
use tracing::error;

use super::Watched;
use crate::directory::Health;
use crate::spool::{BrowseRequest, QueuePage};

/// How long the notes may take.
const NOTES: Duration = Duration::from_secs(2);

/// Whether the promise can be kept now; 503 only if mail cannot be made durable, since a load
/// balancer would take mail away for it. Everything else that is wrong is a note. A directory that
/// is down is shown, but does not take mail away from us: people in the cache are journaled, the
/// others' mail is deferred.
pub(super) async fn ready(State(watched): State<Watched>) -> (StatusCode, String) {
    let pipeline = watched.pipeline.load_full();
    if pipeline.spool.is_failed() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the spool has failed: everything is deferred\n".into(),
        );
    }
    if let Some(free) = pipeline.spool.free_space()
        && free.is_low
    {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the disk is nearly full: mail that must be journaled is deferred\n".into(),
        );
    }
    let mut told = match pipeline.identities.directory().health() {
        Health::Ok => "ready\n".to_owned(),
        Health::Unavailable(outage) => format!("degraded: {outage}\n"),
    };
    if let Some(refused) = &watched.in_force.load().refused {
        let why = refused.why.lines().collect::<Vec<_>>().join("; ");
        let _ = writeln!(
            told,
            "note: the configuration that was read last is not in force: {why}"
        );
    }
    // A disk that hangs must not make this hang.
    let Ok((reading, sample)) = timeout(NOTES, watched.now()).await else {
        return (StatusCode::OK, told);
    };
    let is = |name: &str, value: f64| reading.one(name) == Some(value);
    if is("copyist_relay_up", 0.0) {
        told += "note: the relay cannot be reached: reports wait\n";
    } else if is("copyist_relay_takes_nothing", 1.0) {
        told += "note: the relay takes nothing: it has refused or deferred every report sent to it last\n";
    }
    if let Some(census) = sample.census.filter(|census| census.dead > 0) {
        let _ = writeln!(told, "note: dead letters: {}", census.dead);
    }
    (StatusCode::OK, told)
}

pub(super) async fn scrape(State(watched): State<Watched>) -> (StatusCode, String) {
    let pipeline = watched.pipeline.load_full();
    // Told from indexes, by a connection of its own: no delivery waits for whoever counts a long
    // queue.
    match pipeline.spool.browse(BrowseRequest::default()).await {
        Ok(QueuePage { census, .. }) => {
            gauge!("copyist_spool_items").set(census.items as f64);
            gauge!("copyist_spool_dead_letters").set(census.dead as f64);
            gauge!("copyist_spool_on_hold").set(census.on_hold as f64);
            let oldest = census.oldest.and_then(|at| at.elapsed().ok());
            gauge!("copyist_spool_oldest_seconds").set(oldest.unwrap_or_default().as_secs_f64());
        }
        Err(error) => error!("the spool cannot be counted: {error}"),
    }
    let is_refused = watched.in_force.load().refused.is_some();
    gauge!("copyist_configuration_refused").set(f64::from(u8::from(is_refused)));
    gauge!("copyist_memory_in_flight_bytes").set(pipeline.memory.in_flight() as f64);
    if let Some(free) = pipeline.spool.free_space() {
        gauge!("copyist_spool_free_bytes").set(free.bytes as f64);
        if let Some(inodes) = free.inodes {
            gauge!("copyist_spool_free_inodes").set(inodes as f64);
        }
        gauge!("copyist_spool_low").set(f64::from(u8::from(free.is_low)));
    }
    (StatusCode::OK, watched.metrics.render())
}
