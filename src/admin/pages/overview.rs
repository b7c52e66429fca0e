//! The overview: health, the queue, and the mail of the last 24 hours.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::format::{count, date, moment, number, span};
use super::layout::{Level, notice, page};
use super::plot::plot;
use crate::admin::access::Visitor;
use crate::admin::history::{Sample, growth, peaks};
use crate::admin::metrics::Metrics;
use crate::admin::{ActiveConfig, AppState};
use crate::directory::Health;
use crate::mail::{escape_for_display, format_size};
use crate::pipeline::Pipeline;
use crate::policy::Direction;

/// The age of an item that causes a warning.
const OLD: Duration = Duration::from_secs(3600);
/// The remaining validity of a certificate, in seconds, that causes a warning.
const SOON: f64 = 21.0 * 24.0 * 3600.0;

pub(in crate::admin) async fn show(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
) -> Response {
    let sample = app.current_sample().await;
    let now = sample.at;
    let mut day = app.history.last_day(now);
    day.push(sample.clone());
    let pipeline = app.pipeline.load_full();
    let mut health = health(&pipeline, &app.metrics, &sample);
    health.extend(rejected_config(&app.active.load()));
    // The most severe first.
    health.sort_by_key(|(level, _)| *level);
    let content = html! {
        h1 { "Overview" }
        div id="live" {
            section aria-labelledby="health" {
                h2 id="health" { "Health" }
                @for (level, text) in &health { (notice(*level, text)) }
            }
            (queue(&sample, now))
            (mail(&sample, &day))
            (deferred(&sample, &day))
            (plots(&day, now))
            p.since {
                "Counted since the service started " (moment(app.started, now)) " (" (date(app.started)) "). "
                "The plots start then, too."
            }
        }
    };
    page(&visitor, "/", "Overview", &content)
}

/// Returns the health notices, each with the problem and its fix.
fn health(pipeline: &Pipeline, metrics: &Metrics, sample: &Sample) -> Vec<(Level, Markup)> {
    let mut lines = Vec::new();
    lines.push(spool(pipeline, sample));
    lines.push(directory(pipeline));
    if metrics.gauge("copyist_directory_watch_up") == Some(0.0) {
        lines.push((
            Level::Warning,
            html! { "Directory change feed down: changes take effect after " code { "directory.cache.ttl" } ". See the log." },
        ));
    }
    lines.push(relay(metrics));
    if let Some(census) = sample.census.filter(|census| census.dead > 0) {
        lines.push((
            Level::Error,
            html! {
                (count(census.dead, "dead letter")) ": rejected by both the journal address and the NDR address, or unreadable. "
                "They are kept until you decide: " a href="/queue?state=dead" { "show them" } "."
            },
        ));
    }
    if let Some(age) = sample
        .age()
        .map(Duration::from_secs)
        .filter(|age| *age > OLD)
    {
        lines.push((
            Level::Warning,
            html! { "The oldest item has been queued for " (span(age)) ". " a href="/queue?order=oldest" { "See its last reply" } "." },
        ));
    }
    for certificate in metrics.gauges("copyist_certificate_expires_seconds") {
        let now = sample
            .at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let left = certificate.value - now.as_secs_f64();
        if left < SOON {
            let (peer, server) = (
                certificate.label("peer"),
                escape_for_display(certificate.label("server")),
            );
            let level = if left < 0.0 {
                Level::Error
            } else {
                Level::Warning
            };
            lines.push((level, html! {
                "Certificate of " (server) " (" (peer) ") "
                @if left < 0.0 { "has expired" } @else { "expires in " (span(Duration::from_secs_f64(left))) }
                ": renew it, or connections to this server fail."
            }));
        }
    }
    lines
}

fn rejected_config(active: &ActiveConfig) -> Option<(Level, Markup)> {
    let rejected = active.rejected.as_ref()?;
    Some((
        Level::Error,
        html! {
            "Reload failed at " (date(rejected.at)) "; the previous configuration is active: " (escape_for_display(&rejected.reason))
            " Fix it, test it with " code { "copyist check" } ", and reload."
        },
    ))
}

fn spool(pipeline: &Pipeline, sample: &Sample) -> (Level, Markup) {
    if pipeline.services.spool.is_failed() {
        return (
            Level::Error,
            html! {
                "Spool failed: mail that must be journaled is deferred. Check the disk; the service restarts by itself."
            },
        );
    }
    if sample.census.is_none() {
        return (
            Level::Error,
            html! { "Cannot read the spool. See the log." },
        );
    }
    match pipeline.services.spool.free_space() {
        Some(free) if free.is_low => (
            Level::Error,
            html! {
                "Disk nearly full (" (format_size(free.bytes)) " free): mail that must be journaled is deferred. Free some space; no restart is needed."
            },
        ),
        Some(free) => (
            Level::Ok,
            html! { "Spool writable, " (format_size(free.bytes)) " free." },
        ),
        None => (Level::Ok, html! { "Spool writable." }),
    }
}

fn directory(pipeline: &Pipeline) -> (Level, Markup) {
    match pipeline.ruleset.identities.directory().health() {
        Health::Ok => (Level::Ok, html! { "Directory reachable." }),
        Health::Unavailable(outage) => (
            Level::Error,
            html! {
                "Directory unavailable: " (escape_for_display(&outage.reason)) ". Cached people are still journaled; other mail is deferred (451). "
                "Test the servers with " code { "copyist check --online" } "."
            },
        ),
    }
}

fn relay(metrics: &Metrics) -> (Level, Markup) {
    let takes_nothing = metrics.gauge("copyist_relay_takes_nothing");
    match metrics.gauge("copyist_relay_up") {
        Some(up) if up > 0.0 && takes_nothing == Some(1.0) => (
            Level::Error,
            html! {
                "Relay accepts no mail: it rejected or deferred all recent reports. See its replies in the "
                a href="/queue" { "queue" } "."
            },
        ),
        Some(up) if up > 0.0 => (Level::Ok, html! { "Relay accepts mail." }),
        Some(_) => (
            Level::Error,
            html! {
                "Relay unreachable. Reports stay queued and are retried automatically. See the last errors in the "
                a href="/queue" { "queue" } "."
            },
        ),
        None => (Level::Ok, html! { "Relay not used yet." }),
    }
}

fn queue(sample: &Sample, now: SystemTime) -> Markup {
    let Some(census) = sample.census else {
        return html! {};
    };
    let cards = [
        ("/queue", "Queued items", number(census.items)),
        ("/queue?state=dead", "Dead letters", number(census.dead)),
        ("/queue?state=held", "Reserved", number(census.blocked)),
    ];
    html! {
        section aria-labelledby="queue" {
            h2 id="queue" { "Queue" }
            ul.cards {
                @for (to, name, value) in cards {
                    li { a href=(to) { span.value { (value) } span { (name) } } }
                }
                li {
                    a href="/queue?order=oldest" {
                        span.value {
                            @match census.oldest {
                                Some(oldest) => (span(now.duration_since(oldest).unwrap_or_default())),
                                None => "–",
                            }
                        }
                        span { "Age of the oldest" }
                    }
                }
            }
        }
    }
}

/// Returns the growth of a counter since the first sample.
fn grown(day: &[Sample], of: impl Fn(&Sample) -> u64) -> u64 {
    match (day.first(), day.last()) {
        (Some(first), Some(last)) => of(last).saturating_sub(of(first)),
        _ => 0,
    }
}

fn mail(sample: &Sample, day: &[Sample]) -> Markup {
    html! {
        section aria-labelledby="mail" {
            h2 id="mail" { "Mail" }
            table {
                thead {
                    tr {
                        th scope="col" { "Direction" }
                        th scope="col" { "Last 24 h" } th scope="col" { "Journaled" }
                        th scope="col" { "Since start" } th scope="col" { "Journaled" }
                    }
                }
                tbody {
                    @for (at, direction) in Direction::ALL.into_iter().enumerate() {
                        tr {
                            th scope="row" { (direction.name()) }
                            td.number data-label="Last 24 h" { (number(grown(day, |sample| sample.mail[at]))) }
                            td.number data-label="Last 24 h, journaled" { (number(grown(day, |sample| sample.journaled[at]))) }
                            td.number data-label="Since start" { (number(sample.mail[at])) }
                            td.number data-label="Since start, journaled" { (number(sample.journaled[at])) }
                        }
                    }
                    tr {
                        th scope="row" { "reports and NDRs delivered" }
                        td.number data-label="Last 24 h" { (number(grown(day, |sample| sample.delivered))) }
                        td.none {}
                        td.number data-label="Since start" { (number(sample.delivered)) }
                        td.none {}
                    }
                }
            }
        }
    }
}

/// Returns the meaning of a deferral reason, and the fix.
fn why(word: &str) -> &'static str {
    match word {
        "directory" => "directory lookup failed: see Health",
        "spool" => "the report could not be stored: see Health",
        "memory" => "limits.memory exhausted: raise it, or lower limits.connections",
        "text" => "the text could not be added, and text.on_failure is \"defer\"",
        "compose" => "the report could not be composed: see the log",
        _ => "see the log",
    }
}

fn deferred(sample: &Sample, day: &[Sample]) -> Markup {
    let empty = BTreeMap::new();
    let before = day.first().map_or(&empty, |first| &first.deferred);
    html! {
        section aria-labelledby="deferred" {
            h2 id="deferred" { "Deferred" }
            @if sample.all_deferred() == 0 {
                p { "No messages deferred since the service started." }
            } @else {
                table {
                    thead {
                        tr { th scope="col" { "Reason" } th scope="col" { "Last 24 h" } th scope="col" { "Since start" } }
                    }
                    tbody {
                        @for (word, all) in &sample.deferred {
                            tr {
                                th scope="row" { (word) ": " span.about { (why(word)) } }
                                td.number data-label="Last 24 h" { (number(all - before.get(word).unwrap_or(&0).min(all))) }
                                td.number data-label="Since start" { (number(*all)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn plots(day: &[Sample], now: SystemTime) -> Markup {
    let messages = |n: u64| count(n, "message");
    html! {
        section aria-labelledby="day" {
            h2 id="day" { "The last 24 hours" }
            div.plots {
                @for (at, direction) in Direction::ALL.into_iter().enumerate() {
                    (plot(&format!("plot-{}", direction.name()), &format!("{} mail", direction.name()),
                        &growth(day, now, |sample| sample.mail[at]), now, messages))
                }
                (plot("plot-deferred", "deferred mail", &growth(day, now, Sample::all_deferred), now, messages))
                (plot("plot-items", "queued items", &peaks(day, now, |sample| Some(sample.census?.items)), now, |n| count(n, "item")))
                (plot("plot-age", "age of the oldest item", &peaks(day, now, Sample::age), now, |n| span(Duration::from_secs(n))))
            }
        }
    }
}
