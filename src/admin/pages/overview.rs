//! How things are: health in words, what is owed, and the mail of the last 24 hours.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::layout::{Kind, notice, page};
use super::plot::plot;
use super::words::{count, date, moment, number, span};
use crate::admin::guard::Visitor;
use crate::admin::history::{Sample, growth, peaks};
use crate::admin::reading::Reading;
use crate::admin::{InForce, Watched};
use crate::directory::Health;
use crate::mail::{escape_for_display, format_size};
use crate::pipeline::Pipeline;
use crate::policy::Direction;

/// An item that is older than this is worth a look: the relay may have been away for a while.
const OLD: Duration = Duration::from_secs(3600);
/// A certificate that ends within this is.
const SOON: f64 = 21.0 * 24.0 * 3600.0;

pub(in crate::admin) async fn show(
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
) -> Response {
    let (reading, sample) = watched.now().await;
    let now = sample.at;
    let mut day = watched.history.last_day(now);
    day.push(sample.clone());
    let pipeline = watched.pipeline.load_full();
    let mut health = health(&pipeline, &reading, &sample);
    health.extend(refused(&watched.in_force.load()));
    // The worst stands first.
    health.sort_by_key(|(kind, _)| *kind);
    let content = html! {
        h1 { "Overview" }
        div id="live" {
            section aria-labelledby="health" {
                h2 id="health" { "Health" }
                @for (kind, text) in &health { (notice(*kind, text)) }
            }
            (owed(&sample, now))
            (mail(&sample, &day))
            (deferred(&sample, &day))
            (plots(&day, now))
            p.since {
                "Counted since the service started, " (moment(watched.started, now)) " (" (date(watched.started)) "). "
                "The plots begin there, too: a restart forgets them."
            }
        }
    };
    page(&visitor, "/", "Overview", &content)
}

/// Each line says what is wrong and what to do about it.
fn health(pipeline: &Pipeline, reading: &Reading, sample: &Sample) -> Vec<(Kind, Markup)> {
    let mut lines = Vec::new();
    lines.push(spool(pipeline, sample));
    lines.push(directory(pipeline));
    if reading.one("copyist_directory_watch_up") == Some(0.0) {
        lines.push((
            Kind::Look,
            html! { "The feed of the directory's changes is not up: they count after " code { "directory.cache.ttl" } ". The log says why." },
        ));
    }
    lines.push(relay(reading));
    if let Some(census) = sample.census.filter(|census| census.dead > 0) {
        lines.push((
            Kind::Fault,
            html! {
                (count(census.dead, "dead letter")) ": neither the journal address nor the NDR address took them, or they cannot be read. "
                "They stay until you decide: " a href="/queue?state=dead" { "look at them" } "."
            },
        ));
    }
    if let Some(age) = sample
        .age()
        .map(Duration::from_secs)
        .filter(|age| *age > OLD)
    {
        lines.push((
            Kind::Look,
            html! { "The oldest item is " (span(age)) " old. " a href="/queue?order=oldest" { "What is said to it" } " tells why." },
        ));
    }
    for certificate in reading.all("copyist_certificate_expires_seconds") {
        let now = sample
            .at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let left = certificate.value() - now.as_secs_f64();
        if left < SOON {
            let (peer, server) = (
                certificate.label("peer"),
                escape_for_display(certificate.label("server")),
            );
            let kind = if left < 0.0 { Kind::Fault } else { Kind::Look };
            lines.push((kind, html! {
                "The certificate of " (server) " (" (peer) ") "
                @if left < 0.0 { "has expired" } @else { "expires in " (span(Duration::from_secs_f64(left))) }
                ": renew it, or nothing is said to that server any more."
            }));
        }
    }
    lines
}

fn refused(in_force: &InForce) -> Option<(Kind, Markup)> {
    let refused = in_force.refused.as_ref()?;
    Some((
        Kind::Fault,
        html! {
            "The configuration that was read at " (date(refused.at)) " is not in force, the one before it is: " (escape_for_display(&refused.why))
            " Correct it, check it with " code { "copyist check" } ", and reload."
        },
    ))
}

fn spool(pipeline: &Pipeline, sample: &Sample) -> (Kind, Markup) {
    if pipeline.spool.is_failed() {
        return (
            Kind::Fault,
            html! {
                "The spool has failed: mail that must be journaled is deferred. See to the disk; the service starts anew by itself."
            },
        );
    }
    if sample.census.is_none() {
        return (
            Kind::Fault,
            html! { "The spool cannot be read. The log says why." },
        );
    }
    match pipeline.spool.free_space() {
        Some(free) if free.is_low => (
            Kind::Fault,
            html! {
                "The disk is nearly full (" (format_size(free.bytes)) " free): mail that must be journaled is deferred. Make room; nothing needs a restart."
            },
        ),
        Some(free) => (
            Kind::Fine,
            html! { "The spool takes what is owed; " (format_size(free.bytes)) " of its disk are free." },
        ),
        None => (Kind::Fine, html! { "The spool takes what is owed." }),
    }
}

fn directory(pipeline: &Pipeline) -> (Kind, Markup) {
    match pipeline.identities.directory().health() {
        Health::Ok => (Kind::Fine, html! { "The directory answers." }),
        Health::Unavailable(outage) => (
            Kind::Fault,
            html! {
                "The directory does not answer: " (escape_for_display(&outage.reason)) ". People who are remembered are journaled as they were; mail for "
                "others waits with the senders (451). See to the servers; " code { "copyist check --online" } " tries each."
            },
        ),
    }
}

fn relay(reading: &Reading) -> (Kind, Markup) {
    let takes_nothing = reading.one("copyist_relay_takes_nothing");
    match reading.one("copyist_relay_up") {
        Some(up) if up > 0.0 && takes_nothing == Some(1.0) => (
            Kind::Fault,
            html! {
                "The relay takes nothing: it has refused or deferred every report that was sent to it last. The items of the "
                a href="/queue" { "queue" } " show its replies."
            },
        ),
        Some(up) if up > 0.0 => (Kind::Fine, html! { "The relay takes reports." }),
        Some(_) => (
            Kind::Fault,
            html! {
                "The relay cannot be reached. What is owed waits, nothing is lost, and it is asked again by itself; when it answers, all goes at once. "
                "The items of the " a href="/queue" { "queue" } " say what was heard last."
            },
        ),
        None => (Kind::Fine, html! { "The relay was not needed yet." }),
    }
}

fn owed(sample: &Sample, now: SystemTime) -> Markup {
    let Some(census) = sample.census else {
        return html! {};
    };
    let cards = [
        ("/queue", "Items owed", number(census.items)),
        ("/queue?state=dead", "Dead letters", number(census.dead)),
        ("/queue?state=held", "Held", number(census.blocked)),
    ];
    html! {
        section aria-labelledby="owed" {
            h2 id="owed" { "Owed" }
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

/// How much a counter grew since the first of these.
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
                        th scope="col" { "Last 24 h" } th scope="col" { "journaled" }
                        th scope="col" { "Since the start" } th scope="col" { "journaled" }
                    }
                }
                tbody {
                    @for (at, direction) in Direction::ALL.into_iter().enumerate() {
                        tr {
                            th scope="row" { (direction.name()) }
                            td.number data-label="Last 24 h" { (number(grown(day, |sample| sample.mail[at]))) }
                            td.number data-label="Last 24 h, journaled" { (number(grown(day, |sample| sample.journaled[at]))) }
                            td.number data-label="Since the start" { (number(sample.mail[at])) }
                            td.number data-label="Since the start, journaled" { (number(sample.journaled[at])) }
                        }
                    }
                    tr {
                        th scope="row" { "reports and NDRs delivered" }
                        td.number data-label="Last 24 h" { (number(grown(day, |sample| sample.delivered))) }
                        td.none {}
                        td.number data-label="Since the start" { (number(sample.delivered)) }
                        td.none {}
                    }
                }
            }
        }
    }
}

/// What a reason for deferring means, and what to do.
fn why(word: &str) -> &'static str {
    match word {
        "directory" => "somebody could not be looked up: see the directory's line above",
        "spool" => "its report could not be made durable: see the spool's line above",
        "memory" => {
            "there was no room for it in limits.memory: raise that, or lower limits.connections"
        }
        "text" => "its text could not be put in, and text.on_failure is \"defer\"",
        "compose" => "its report could not be written: the log says why",
        _ => "the log says why",
    }
}

fn deferred(sample: &Sample, day: &[Sample]) -> Markup {
    let empty = BTreeMap::new();
    let before = day.first().map_or(&empty, |first| &first.deferred);
    html! {
        section aria-labelledby="deferred" {
            h2 id="deferred" { "Deferred" }
            @if sample.all_deferred() == 0 {
                p { "No message was deferred since the service started." }
            } @else {
                table {
                    thead {
                        tr { th scope="col" { "Why" } th scope="col" { "Last 24 h" } th scope="col" { "Since the start" } }
                    }
                    tbody {
                        @for (word, all) in &sample.deferred {
                            tr {
                                th scope="row" { (word) ": " span.about { (why(word)) } }
                                td.number data-label="Last 24 h" { (number(all - before.get(word).unwrap_or(&0).min(all))) }
                                td.number data-label="Since the start" { (number(*all)) }
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
                (plot("plot-items", "items owed", &peaks(day, now, |sample| Some(sample.census?.items)), now, |n| count(n, "item")))
                (plot("plot-age", "age of the oldest item", &peaks(day, now, Sample::age), now, |n| span(Duration::from_secs(n))))
            }
        }
    }
}
