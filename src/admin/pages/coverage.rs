//! Who is journaled where, and what does not resolve: the last reading of the directory.

use std::time::SystemTime;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::layout::{Kind, form_field, notice, page};
use super::words::{Foreign, count, date, moment, number};
use crate::admin::Watched;
use crate::admin::coverage::{KEPT, Read};
use crate::admin::guard::Visitor;
use crate::directory::RemovedJournalAttribute;
use crate::mail::Address;
use crate::survey::{Person, Summary, Value};

/// People on a page.
const ON_A_PAGE: usize = 50;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin) struct Asked {
    text: String,
    from: usize,
}

/// Reads the directory, unless somebody does.
pub(in crate::admin) async fn read(State(watched): State<Watched>) -> Response {
    if watched.coverage.begin() {
        // Nobody waits for it: the page shows how far it is, and a stop of the service ends it.
        tokio::spawn(async move {
            let (pipeline, in_force) = (watched.pipeline.load_full(), watched.in_force.load_full());
            let reading = watched.coverage.read(&pipeline, &in_force);
            let read = watched.shutdown.run_until_cancelled(reading).await;
            watched.coverage.end(read);
        });
    }
    Redirect::to("/coverage").into_response()
}

pub(in crate::admin) async fn show(
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
    Query(asked): Query<Asked>,
) -> Response {
    let (under_way, last) = watched.coverage.look();
    let content = html! {
        h1 { "Coverage" }
        p { "Who is journaled where by attribute, and whose values lead nowhere. The whole directory is read for it, so that happens when you ask for it." }
        div.actions {
            form method="post" action="/coverage" {
                (form_field(&visitor))
                button disabled[under_way.is_some()] { @if last.is_some() { "Read the directory again" } @else { "Read the directory" } }
            }
        }
        @if let Some(seen) = under_way {
            div id="under-way" {
                (notice(Kind::Look, &html! { "The directory is being read: " (count(seen, "object")) " so far. " a href="/coverage" { "Look again" } "." }))
            }
        }
        (removed(&watched.pipeline.load().identities.directory().removed_journal_attributes()))
        @if let Some(read) = &last { (result(read, &asked)) }
    };
    page(&visitor, "/coverage", "Coverage", &content)
}

/// Those whose journal attributes lost their values since the start.
fn removed(all: &[RemovedJournalAttribute]) -> Markup {
    let now = SystemTime::now();
    html! {
        @if !all.is_empty() {
            details id="no-longer-journaled" {
                summary { "No longer journaled: " (count(all.len() as u64, "object")) " since the start" }
                ul {
                    @for one in all {
                        li { (Foreign(&one.dn)) " (" (Foreign(&one.attribute)) "), noticed " (moment(one.when, now)) }
                    }
                }
            }
        }
    }
}

fn result(read: &Read, asked: &Asked) -> Markup {
    let now = SystemTime::now();
    html! {
        @match &read.summary {
            Ok(seen) => (summary(seen)),
            Err(outage) => (notice(Kind::Fault, &html! { (Foreign(&outage.to_string())) ". What follows was read before that." })),
        }
        p.since { "Read " (moment(read.at, now)) ", " (date(read.at)) "." }
        (people(read, asked))
    }
}

fn summary(seen: &Summary) -> Markup {
    let cards = [
        (seen.objects, "objects with an address"),
        (seen.journaled, "journaled by attribute"),
        (seen.not_journaled, "not journaled by attribute"),
        (seen.exempt, "exempt"),
        (seen.journal_addresses as u64, "journal addresses"),
        (seen.values_leading_outside, "values that lead outside"),
        (seen.values_without_target, "values that lead nowhere"),
        (
            seen.values_leading_not_to_all,
            "values that lead to groups with members without an address",
        ),
        (
            seen.addresses_not_found,
            "addresses that mail does not find",
        ),
        (seen.addresses_shared, "addresses of several objects"),
        (
            seen.persons_not_guarded.len() as u64,
            "persons' mailboxes, not guarded",
        ),
    ];
    let mut all_mail: Vec<_> = seen.all_mail.iter().collect();
    all_mail.sort();
    html! {
        ul.cards {
            @for (many, name) in cards { li { span.value { (number(many)) } span { (name) } } }
        }
        @if !seen.nobody_has.is_empty() {
            (notice(Kind::Fault, &html! { "Nobody has " (Foreign(&seen.nobody_has.join(", "))) ": a mistake in its name, or missing rights? " code { "copyist check --online" } " says more." }))
        }
        @if let Some(why) = &seen.guard_incomplete {
            (notice(Kind::Look, &html! { "The journal guard does not know all journal mailboxes: " (Foreign(why)) }))
        }
        @if !seen.persons_not_guarded.is_empty() {
            details id="not-guarded" {
                summary { "Journal copies go to " (count(seen.persons_not_guarded.len() as u64, "person's mailbox")) " that anybody may write to" }
                ul {
                    @for one in seen.persons_not_guarded.iter().take(ON_A_PAGE) {
                        li { (Foreign(&one.address.to_string())) ": " (Foreign(&one.remark())) }
                    }
                }
            }
        }
        @for (direction, targets) in all_mail {
            p { "All " (direction) " mail is journaled to " (Foreign(&targets.join(", "))) ", whoever is concerned." }
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

fn people(read: &Read, asked: &Asked) -> Markup {
    let text = asked.text.trim().to_lowercase();
    let all = read.problems.iter().chain(&read.others);
    let found: Vec<&Person> = all.filter(|person| matches(person, &text)).collect();
    let shown: Vec<&&Person> = found.iter().skip(asked.from).take(ON_A_PAGE).collect();
    let link = |from: usize| {
        let mut query = Serializer::new(String::new());
        query.append_pair("text", &asked.text);
        query.append_pair("from", &from.to_string());
        format!("/coverage?{}", query.finish())
    };
    let is_cut = read.problems.len() == KEPT || read.others.len() == KEPT;
    let end = asked.from + shown.len();
    html! {
        form.filters method="get" action="/coverage" role="search" {
            div {
                label for="text" { "Name, address or value" }
                input id="text" name="text" type="search" value=(asked.text) maxlength="500" autocomplete="off" spellcheck="false";
            }
            button { "Show" }
        }
        @if is_cut {
            p.since { "Of those with and without a problem, the first " (number(KEPT as u64)) " each are listed here; " code { "copyist coverage" } " lists everybody." }
        }
        @if shown.is_empty() {
            p { "Nobody is like that." }
        } @else {
            table.cards {
                caption { (number(asked.from as u64 + 1)) " to " (number(end as u64)) " of " (number(found.len() as u64)) ", those with a problem first" }
                thead { tr { th scope="col" { "Person" } th scope="col" { "Journaled to" } } }
                tbody { @for person in shown { (row(person)) } }
            }
        }
        nav.pager aria-label="Parts of the list" {
            @if asked.from > 0 { a href=(link(asked.from.saturating_sub(ON_A_PAGE))) { "Back" } }
            @if end < found.len() { a rel="next" href=(link(end)) { "Next " (ON_A_PAGE) } }
        }
    }
}

fn row(person: &Person) -> Markup {
    let name = person.addresses.first().unwrap_or(&person.dn);
    html! {
        tr {
            th scope="row" {
                (Foreign(name))
                @if person.exempt { " " span.state.held { "exempt" } }
                div.about { (Foreign(&person.dn)) }
            }
            td data-label="Journaled to" {
                div {
                    @if person.journal.is_empty() { "not by attribute" }
                    @for value in &person.journal { (leads(person, value)) }
                    @for one in &person.address_problems {
                        div.target { span.state.dead { (if one.is_lost { "not found" } else { "shared" }) } " " (Foreign(&one.address.to_string())) ": " (Foreign(&one.problem)) }
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
                Some(problem) => { span.state.dead { "nowhere" } " " (Foreign(&value.value)) ": " (Foreign(problem)) }
                None => { (Foreign(&all.join(" "))) }
            }
            @if let Some(members) = &value.unreached { " " span.state.held { "not all" } " " (Foreign(members)) }
            @if !value.outside.is_empty() { " " span.state.held { "outside" } }
            div.about {
                (value.directions.join(", ")) " by " (value.attribute)
                @if value.object != person.dn { " of " (Foreign(&value.object)) }
            }
        }
    }
}
