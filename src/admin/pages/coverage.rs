//! Journal addresses of all people, and unresolved values: the last scan of the directory.

use std::time::SystemTime;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::format::{Untrusted, count, date, moment, number};
use super::layout::{Level, form_field, notice, page};
use crate::admin::AppState;
use crate::admin::access::Visitor;
use crate::admin::coverage::{DirectoryScan, KEPT};
use crate::directory::RemovedJournalAttribute;
use crate::mail::Address;
use crate::survey::{Person, Summary, Value};

/// The number of people on a page.
const ON_A_PAGE: usize = 50;

/// The query.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin) struct CoverageQuery {
    text: String,
    from: usize,
}

/// Starts a scan unless one is running.
pub(in crate::admin) async fn read(State(app): State<AppState>) -> Response {
    if app.coverage.begin() {
        // Runs in the background: the page shows its progress, and a shutdown ends it.
        tokio::spawn(async move {
            let (pipeline, active) = (app.pipeline.load_full(), app.active.load_full());
            let reading = app.coverage.read(&pipeline, &active);
            let read = app.shutdown.run_until_cancelled(reading).await;
            app.coverage.end(read);
        });
    }
    Redirect::to("/coverage").into_response()
}

pub(in crate::admin) async fn show(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Query(query): Query<CoverageQuery>,
) -> Response {
    let (progress, last) = app.coverage.status();
    let content = html! {
        h1 { "Coverage" }
        p { "Everyone journaled by attribute, with journal addresses, and values that do not resolve. This reads the whole directory, so it runs only on request." }
        div.actions {
            form method="post" action="/coverage" {
                (form_field(&visitor))
                button disabled[progress.is_some()] { @if last.is_some() { "Scan the directory again" } @else { "Scan the directory" } }
            }
        }
        @if let Some(seen) = progress {
            div id="under-way" {
                (notice(Level::Warning, &html! { "Reading the directory: " (count(seen, "object")) " so far. " a href="/coverage" { "Refresh" } "." }))
            }
        }
        (removed(&app.pipeline.load().ruleset.identities.directory().removed_journal_attributes()))
        @if let Some(read) = &last { (result(read, &query)) }
    };
    page(&visitor, "/coverage", "Coverage", &content)
}

/// Renders the objects whose journal attributes lost their values since the start.
fn removed(all: &[RemovedJournalAttribute]) -> Markup {
    let now = SystemTime::now();
    html! {
        @if !all.is_empty() {
            details id="no-longer-journaled" {
                summary { "No longer journaled: " (count(all.len() as u64, "object")) " since the start" }
                ul {
                    @for one in all {
                        li { (Untrusted(&one.dn)) " (" (Untrusted(&one.attribute)) "), noticed " (moment(one.when, now)) }
                    }
                }
            }
        }
    }
}

fn result(read: &DirectoryScan, query: &CoverageQuery) -> Markup {
    let now = SystemTime::now();
    html! {
        @match &read.summary {
            Ok(seen) => (summary(seen)),
            Err(outage) => (notice(Level::Error, &html! { (Untrusted(&outage.to_string())) ". The list below was read before that." })),
        }
        p.since { "Scanned " (moment(read.at, now)) ", " (date(read.at)) "." }
        (people(read, query))
    }
}

fn summary(seen: &Summary) -> Markup {
    let cards = [
        (seen.objects, "objects with an address"),
        (seen.journaled, "journaled by attribute"),
        (seen.not_journaled, "not journaled by attribute"),
        (seen.exempt, "exempt"),
        (seen.journal_addresses as u64, "journal addresses"),
        (
            seen.values_leading_outside,
            "values outside journal_domains",
        ),
        (seen.values_without_target, "values that do not resolve"),
        (
            seen.values_leading_not_to_all,
            "values with group members without an address",
        ),
        (
            seen.addresses_not_found,
            "addresses that mail lookups do not find",
        ),
        (seen.addresses_shared, "addresses shared by several objects"),
        (
            seen.persons_not_guarded.len() as u64,
            "unguarded personal mailboxes",
        ),
    ];
    let mut all_mail: Vec<_> = seen.all_mail.iter().collect();
    all_mail.sort();
    html! {
        ul.cards {
            @for (many, name) in cards { li { span.value { (number(many)) } span { (name) } } }
        }
        @if !seen.nobody_has.is_empty() {
            (notice(Level::Error, &html! { "No object has " (Untrusted(&seen.nobody_has.join(", "))) ": check its name and the account's rights with " code { "copyist check --online" } "." }))
        }
        @if let Some(why) = &seen.guard_incomplete {
            (notice(Level::Warning, &html! { "Journal guard incomplete: " (Untrusted(why)) }))
        }
        @if !seen.persons_not_guarded.is_empty() {
            details id="not-guarded" {
                summary { "Journal copies go to " (count(seen.persons_not_guarded.len() as u64, "personal mailbox")) " without guard" }
                ul {
                    @for one in seen.persons_not_guarded.iter().take(ON_A_PAGE) {
                        li { (Untrusted(&one.address.to_string())) ": " (Untrusted(&one.remark())) }
                    }
                }
            }
        }
        @for (direction, targets) in all_mail {
            p { "All " (direction) " mail is journaled to " (Untrusted(&targets.join(", "))) "." }
        }
    }
}

fn matches(person: &Person, text: &str) -> bool {
    let has = |part: &str| part.to_lowercase().contains(text);
    let of_value = |value: &Value| {
        has(&value.value) || value.targets.iter().any(|target| has(&target.to_string()))
    };
    has(&person.dn)
        || person.addresses.iter().any(|address| has(address))
        || person.journal.iter().any(of_value)
}

fn people(read: &DirectoryScan, query: &CoverageQuery) -> Markup {
    let text = query.text.trim().to_lowercase();
    let all = read.problems.iter().chain(&read.others);
    let found: Vec<&Person> = all.filter(|person| matches(person, &text)).collect();
    let shown: Vec<&&Person> = found.iter().skip(query.from).take(ON_A_PAGE).collect();
    let link = |from: usize| {
        let mut link = Serializer::new(String::new());
        link.append_pair("text", &query.text);
        link.append_pair("from", &from.to_string());
        format!("/coverage?{}", link.finish())
    };
    let is_cut = read.problems.len() == KEPT || read.others.len() == KEPT;
    let end = query.from + shown.len();
    html! {
        form.filters method="get" action="/coverage" role="search" {
            div {
                label for="text" { "Name, address or value" }
                input id="text" name="text" type="search" value=(query.text) maxlength="500" autocomplete="off" spellcheck="false";
            }
            button { "Show" }
        }
        @if is_cut {
            p.since { "Only the first " (number(KEPT as u64)) " people with and without a problem are listed; " code { "copyist coverage" } " lists everyone." }
        }
        @if shown.is_empty() {
            p { "No matches." }
        } @else {
            table.cards {
                caption { (number(query.from as u64 + 1)) " to " (number(end as u64)) " of " (number(found.len() as u64)) ", problems first" }
                thead { tr { th scope="col" { "Person" } th scope="col" { "Journaled to" } } }
                tbody { @for person in shown { (row(person)) } }
            }
        }
        nav.pager aria-label="Pages of the list" {
            @if query.from > 0 { a href=(link(query.from.saturating_sub(ON_A_PAGE))) { "Back" } }
            @if end < found.len() { a rel="next" href=(link(end)) { "Next " (ON_A_PAGE) } }
        }
    }
}

fn row(person: &Person) -> Markup {
    let name = person.addresses.first().unwrap_or(&person.dn);
    html! {
        tr {
            th scope="row" {
                (Untrusted(name))
                @if person.exempt { " " span.state.held { "exempt" } }
                div.about { (Untrusted(&person.dn)) }
            }
            td data-label="Journaled to" {
                div {
                    @if person.journal.is_empty() { "not by attribute" }
                    @for value in &person.journal { (leads(person, value)) }
                    @for one in &person.address_problems {
                        div.target { span.state.dead { (if one.is_lost { "not found" } else { "shared" }) } " " (Untrusted(&one.address.to_string())) ": " (Untrusted(&one.problem)) }
                    }
                }
            }
        }
    }
}

fn leads(person: &Person, value: &Value) -> Markup {
    let all: Vec<String> = value.targets.iter().map(Address::to_string).collect();
    html! {
        div.target {
            @match &value.problem {
                Some(problem) => { span.state.dead { "unresolved" } " " (Untrusted(&value.value)) ": " (Untrusted(problem)) }
                None => { (Untrusted(&all.join(" "))) }
            }
            @if let Some(members) = &value.unreached { " " span.state.held { "incomplete" } " " (Untrusted(members)) }
            @if !value.outside.is_empty() { " " span.state.held { "not allowed" } }
            div.about {
                (value.directions.join(", ")) " by " (value.attribute)
                @if value.object != person.dn { " of " (Untrusted(&value.object)) }
            }
        }
    }
}
