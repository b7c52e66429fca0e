//! The queue, a page at a time.

use std::time::SystemTime;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::format::{Untrusted, count, moment, number};
use super::layout::{error_page, page};
use crate::admin::AppState;
use crate::admin::access::Visitor;
use crate::mail::format_size;
use crate::policy::Direction;
use crate::spool::{
    BrowseRequest, PageCursor, QueueCounts, QueueEntry, QueuePage, SearchTerm, SortOrder,
    StateFilter, TargetState,
};

/// The number of items on a page.
const ON_A_PAGE: usize = 50;
/// The most targets shown for an item; its own page shows all.
const TARGETS: usize = 3;

const STATES: [(&str, &str, StateFilter); 4] = [
    ("", "All", StateFilter::Any),
    ("dead", "Dead letters", StateFilter::Dead),
    ("waiting", "Waiting", StateFilter::Waiting),
    ("held", "Reserved", StateFilter::Blocked),
];

const ORDERS: [(&str, &str, SortOrder); 5] = [
    ("", "Dead letters first", SortOrder::DeadFirst),
    ("oldest", "Oldest first", SortOrder::Oldest),
    ("newest", "Newest first", SortOrder::Newest),
    ("next", "Next attempt first", SortOrder::NextAttempt),
    ("attempts", "Most attempts first", SortOrder::MostAttempts),
];

/// The fields to search; subjects only for authenticated visitors.
const PLACES: [(&str, &str); 3] = [
    ("", "item ID or address (prefix)"),
    ("message", "MTA queue ID (prefix)"),
    ("subject", "subject"),
];

/// The query. Invalid values are ignored: a mistyped URL is no reason to fail.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin) struct QueueQuery {
    state: String,
    direction: String,
    order: String,
    #[serde(rename = "in")]
    place: String,
    text: String,
    after: String,
}

impl QueueQuery {
    fn browse(&self, visitor: &Visitor) -> BrowseRequest {
        let text = self.text.trim().to_owned();
        let with = match self.place.as_str() {
            _ if text.is_empty() => None,
            "message" => Some(SearchTerm::QueueId(text)),
            // Searching would reveal subjects, too.
            "subject" if visitor.has_token => Some(SearchTerm::Subject(text)),
            _ => Some(SearchTerm::IdOrAddress(text)),
        };
        let state = STATES.iter().find(|(word, ..)| *word == self.state);
        let order = ORDERS.iter().find(|(word, ..)| *word == self.order);
        BrowseRequest {
            state: state.map_or(StateFilter::Any, |(.., state)| *state),
            direction: self.direction.parse().ok(),
            with,
            order: order.map_or(SortOrder::DeadFirst, |(.., order)| *order),
            after: PageCursor::parse(&self.after),
            limit: ON_A_PAGE,
        }
    }

    /// Returns the URL of the list in another state, or from another cursor.
    fn link(&self, state: &str, after: &str) -> String {
        let mut query = Serializer::new(String::new());
        for (name, value) in [
            ("state", state),
            ("direction", &self.direction),
            ("order", &self.order),
            ("in", &self.place),
            ("text", &self.text),
            ("after", after),
        ] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        match query.finish() {
            query if query.is_empty() => "/queue".to_owned(),
            query => format!("/queue?{query}"),
        }
    }
}

pub(in crate::admin) async fn show(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Query(query): Query<QueueQuery>,
) -> Response {
    let spool = app.pipeline.load().services.spool.clone();
    let browsed = match spool.browse(query.browse(&visitor)).await {
        Ok(browsed) => browsed,
        Err(cause) => return error_page(&visitor, "/queue", "Queue", &cause.to_string()),
    };
    let QueuePage {
        items,
        next,
        counts,
    } = &browsed;
    let now = SystemTime::now();
    let content = html! {
        h1 { "Queue" }
        (states(&query, counts))
        (filters(&query, &visitor))
        @if items.is_empty() {
            p { "No matching items." }
        } @else {
            (table(items, &visitor, now))
        }
        nav.pager aria-label="Pages of the list" {
            @if !query.after.is_empty() { a href=(query.link(&query.state, "")) { "First page" } }
            @if let Some(next) = next { a rel="next" href=(query.link(&query.state, &next.to_string())) { "Next " (ON_A_PAGE) } }
        }
        @if !visitor.has_token {
            p.since { "Log in to see subjects (requires " code { "admin.token_file" } ")." }
        }
    };
    page(&visitor, "/queue", "Queue", &content)
}

fn states(query: &QueueQuery, counts: &QueueCounts) -> Markup {
    let numbers = [counts.items, counts.dead, counts.waiting, counts.blocked];
    html! {
        nav.tabs aria-label="States" {
            ul {
                @for ((word, name, _), many) in STATES.into_iter().zip(numbers) {
                    li {
                        a href=(query.link(word, "")) aria-current=[(query.state == word).then_some("true")] {
                            (name) " " span.many { (number(many)) }
                        }
                    }
                }
            }
        }
    }
}

fn filters(query: &QueueQuery, visitor: &Visitor) -> Markup {
    let places = if visitor.has_token {
        &PLACES[..]
    } else {
        &PLACES[..2]
    };
    html! {
        form.filters method="get" action="/queue" role="search" {
            input type="hidden" name="state" value=(query.state);
            div {
                label for="text" { "Text" }
                input id="text" name="text" type="search" value=(query.text) maxlength="500" autocomplete="off" spellcheck="false";
            }
            div {
                label for="in" { "Search in" }
                select id="in" name="in" {
                    @for (word, name) in places { option value=(word) selected[query.place == *word] { (name) } }
                }
            }
            div {
                label for="direction" { "Direction" }
                select id="direction" name="direction" {
                    option value="" { "all" }
                    @for direction in Direction::ALL.map(Direction::name) {
                        option value=(direction) selected[query.direction == direction] { (direction) }
                    }
                }
            }
            div {
                label for="order" { "Order" }
                select id="order" name="order" {
                    @for (word, name, _) in ORDERS { option value=(word) selected[query.order == word] { (name) } }
                }
            }
            button { "Show" }
        }
    }
}

fn table(items: &[QueueEntry], visitor: &Visitor, now: SystemTime) -> Markup {
    html! {
        table.cards {
            caption { (count(items.len() as u64, "item")) " on this page" }
            thead {
                tr {
                    th scope="col" { "Item" } th scope="col" { "State" } th scope="col" { "Targets and last replies" }
                    th scope="col" { "Attempts" } th scope="col" { "Received" }
                }
            }
            tbody {
                @for item in items {
                    tr {
                        th scope="row" {
                            a href={ "/queue/" (item.id.as_str()) } { code { (item.id.as_str()) } }
                            div.about { (item.direction.name()) " " (item.kind.name()) @if !item.queue_id.is_empty() { " of " (Untrusted(&item.queue_id)) } }
                            @if visitor.has_token { div.subject { (Untrusted(&item.subject)) } }
                        }
                        td data-label="State" { (state(item, now)) }
                        td data-label="Targets" { div { (targets(item)) } }
                        td.number data-label="Attempts" { (item.attempts) }
                        td data-label="Received" { (moment(item.received, now)) div.about { (format_size(item.size)) } }
                    }
                }
            }
        }
    }
}

fn targets(item: &QueueEntry) -> Markup {
    html! {
        @for target in item.targets.iter().take(TARGETS) {
            div.target {
                (Untrusted(&target.address.to_string())) " " span class={ "state " (target.state) } { (target.state) }
                @if let Some(reply) = &target.last_reply { div.about { (Untrusted(reply)) } }
            }
        }
        @if item.targets.len() > TARGETS { div.about { "and " (item.targets.len() - TARGETS) " more" } }
    }
}

/// Renders the state of an item.
pub(super) fn state(item: &QueueEntry, now: SystemTime) -> Markup {
    let is_dead = item
        .targets
        .iter()
        .any(|target| target.state == TargetState::Dead);
    html! {
        @if let Some(why) = &item.set_aside { span.state.dead { "set aside" } " " span.about { (Untrusted(why)) } }
        @else if is_dead { span.state.dead { "dead letter" } }
        @if item.on_hold { " " span.state.held { "on hold" } }
        @if item.is_reserved { " " span.state.held { "reserved until the next hop replies" } }
        @if let Some(at) = item.next_attempt {
            " " span.state.waiting { "waiting" } " "
            @if at <= now { "due now" } @else { "next attempt " (moment(at, now)) }
        }
    }
}
