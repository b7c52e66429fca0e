//! What is owed, a page at a time.

use std::time::SystemTime;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::layout::{page, trouble};
use super::words::{Foreign, count, moment, number};
use crate::admin::Watched;
use crate::admin::guard::Visitor;
use crate::mail::format_size;
use crate::policy::Direction;
use crate::spool::{
    BrowseRequest, PageCursor, QueueCounts, QueueEntry, QueuePage, SearchTerm, SortOrder,
    StateFilter,
};

/// Items on a page.
const ON_A_PAGE: usize = 50;
/// Targets of an item in the list; its own page has all.
const TARGETS: usize = 3;

const STATES: [(&str, &str, StateFilter); 4] = [
    ("", "All", StateFilter::Any),
    ("dead", "Dead letters", StateFilter::Dead),
    ("waiting", "Waiting", StateFilter::Waiting),
    ("held", "Held", StateFilter::Blocked),
];

const ORDERS: [(&str, &str, SortOrder); 5] = [
    ("", "Dead letters first", SortOrder::DeadFirst),
    ("oldest", "Oldest first", SortOrder::Oldest),
    ("newest", "Newest first", SortOrder::Newest),
    ("next", "Next attempt first", SortOrder::NextAttempt),
    ("attempts", "Most attempts first", SortOrder::MostAttempts),
];

/// What to look for a text in; the last only for those who may see subjects.
const PLACES: [(&str, &str); 3] = [
    ("", "start of item id, address"),
    ("message", "start of MTA's queue id"),
    ("subject", "subject"),
];

/// What is asked for. What has no meaning counts as not said: an address that somebody typed is no
/// reason to fail.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin) struct Asked {
    state: String,
    direction: String,
    order: String,
    #[serde(rename = "in")]
    place: String,
    text: String,
    after: String,
}

impl Asked {
    fn browse(&self, visitor: &Visitor) -> BrowseRequest {
        let text = self.text.trim().to_owned();
        let with = match self.place.as_str() {
            _ if text.is_empty() => None,
            "message" => Some(SearchTerm::QueueId(text)),
            // Whoever may not see subjects may not guess them either.
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

    /// The address of this list in another state, or from another place on.
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
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
    Query(asked): Query<Asked>,
) -> Response {
    let spool = watched.pipeline.load().spool.clone();
    let browsed = match spool.browse(asked.browse(&visitor)).await {
        Ok(browsed) => browsed,
        Err(cause) => return trouble(&visitor, "/queue", "Queue", &cause.to_string()),
    };
    let QueuePage {
        items,
        next,
        census,
    } = &browsed;
    let now = SystemTime::now();
    let content = html! {
        h1 { "Queue" }
        (states(&asked, census))
        (filters(&asked, &visitor))
        @if items.is_empty() {
            p { "No item is like that." }
        } @else {
            (table(items, &visitor, now))
        }
        nav.pager aria-label="Parts of the list" {
            @if !asked.after.is_empty() { a href=(asked.link(&asked.state, "")) { "To the beginning" } }
            @if let Some(next) = next { a rel="next" href=(asked.link(&asked.state, &next.to_string())) { "Next " (ON_A_PAGE) } }
        }
        @if !visitor.has_token {
            p.since { "Subjects are shown to those who log in: set " code { "admin.token_file" } "." }
        }
    };
    page(&visitor, "/queue", "Queue", &content)
}

fn states(asked: &Asked, census: &QueueCounts) -> Markup {
    let counts = [census.items, census.dead, census.waiting, census.blocked];
    html! {
        nav.tabs aria-label="States" {
            ul {
                @for ((word, name, _), many) in STATES.into_iter().zip(counts) {
                    li {
                        a href=(asked.link(word, "")) aria-current=[(asked.state == word).then_some("true")] {
                            (name) " " span.many { (number(many)) }
                        }
                    }
                }
            }
        }
    }
}

fn filters(asked: &Asked, visitor: &Visitor) -> Markup {
    let places = if visitor.has_token {
        &PLACES[..]
    } else {
        &PLACES[..2]
    };
    html! {
        form.filters method="get" action="/queue" role="search" {
            input type="hidden" name="state" value=(asked.state);
            div {
                label for="text" { "Text" }
                input id="text" name="text" type="search" value=(asked.text) maxlength="500" autocomplete="off" spellcheck="false";
            }
            div {
                label for="in" { "Look in" }
                select id="in" name="in" {
                    @for (word, name) in places { option value=(word) selected[asked.place == *word] { (name) } }
                }
            }
            div {
                label for="direction" { "Direction" }
                select id="direction" name="direction" {
                    option value="" { "all" }
                    @for direction in Direction::ALL.map(Direction::name) {
                        option value=(direction) selected[asked.direction == direction] { (direction) }
                    }
                }
            }
            div {
                label for="order" { "Order" }
                select id="order" name="order" {
                    @for (word, name, _) in ORDERS { option value=(word) selected[asked.order == word] { (name) } }
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
                    th scope="col" { "Item" } th scope="col" { "State" } th scope="col" { "Targets and what they said last" }
                    th scope="col" { "Attempts" } th scope="col" { "Message came" }
                }
            }
            tbody {
                @for item in items {
                    tr {
                        th scope="row" {
                            a href={ "/queue/" (item.id.as_str()) } { code { (item.id.as_str()) } }
                            div.about { (item.direction) " " (item.kind) @if !item.queue_id.is_empty() { " of " (Foreign(&item.queue_id)) } }
                            @if visitor.has_token { div.subject { (Foreign(&item.subject)) } }
                        }
                        td data-label="State" { (state(item, now)) }
                        td data-label="Targets" { div { (targets(item)) } }
                        td.number data-label="Attempts" { (item.attempts) }
                        td data-label="Message came" { (moment(item.received, now)) div.about { (format_size(item.size)) } }
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
                (Foreign(&target.address.to_string())) " " span class={ "state " (target.state) } { (target.state) }
                @if let Some(reply) = &target.last_reply { div.about { (Foreign(reply)) } }
            }
        }
        @if item.targets.len() > TARGETS { div.about { "and " (item.targets.len() - TARGETS) " more" } }
    }
}

/// What becomes of an item next.
pub(super) fn state(item: &QueueEntry, now: SystemTime) -> Markup {
    let is_dead = item.targets.iter().any(|target| target.state == "dead");
    html! {
        @if let Some(why) = &item.set_aside { span.state.dead { "set aside" } " " span.about { (Foreign(why)) } }
        @else if is_dead { span.state.dead { "dead letter" } }
        @if item.on_hold { " " span.state.held { "on hold" } }
        @if item.is_reserved { " " span.state.held { "held until its message is decided" } }
        @if let Some(at) = item.next_attempt {
            " " span.state.waiting { "waiting" } " "
            @if at <= now { "due now" } @else { "next try " (moment(at, now)) }
        }
    }
}
