//! One item: everything about it but its message, and what an operator can do with it.
//!
//! There is no button that gives an item up: that cannot be undone, and `copyist queue drop` asks
//! for it twice.

use std::time::SystemTime;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::stream;
use maud::{Markup, html};
use serde::Deserialize;
use tokio::sync::mpsc;
use tracing::warn;

use super::layout::{Kind, form_field, notice, page, trouble};
use super::queue::state;
use super::words::{Foreign, date, moment};
use crate::admin::Watched;
use crate::admin::guard::Visitor;
use crate::journal::ItemId;
use crate::mail::format_size;
use crate::spool::{Action, BounceRecord, ItemDetails, OperatorRecord, Spool, SpoolError};

/// What was done before this page was asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin) struct Done {
    done: String,
}

pub(in crate::admin) async fn show(
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
    Query(done): Query<Done>,
) -> Response {
    let spool = watched.pipeline.load().spool.clone();
    let found = match ItemId::parse(&id) {
        Some(id) => read(&spool, &id).await,
        None => Ok((None, Past::default())),
    };
    let (shown, past) = match found {
        Ok(found) => found,
        Err(cause) => return trouble(&visitor, "/queue", "Item", &cause.to_string()),
    };
    let Some(shown) = shown else {
        return gone(&visitor, &id, &past);
    };
    let now = SystemTime::now();
    let content = html! {
        p.back { a href="/queue" { "Queue" } }
        h1 { "Item " code { (shown.listed.id.as_str()) } }
        @match done.done.as_str() {
            "retry" => (notice(Kind::Fine, &html! { "It is due now, and is tried as soon as the relay takes it. Load this page again to see what is said." })),
            "hold" => (notice(Kind::Fine, &html! { "It is on hold: nobody tries it until you release it." })),
            "release" => (notice(Kind::Fine, &html! { "It is released." })),
            _ => {}
        }
        (actions(&shown, &visitor))
        (facts(&shown, &visitor, now))
        (targets(&shown))
        section aria-labelledby="because" {
            h2 id="because" { "Because of" }
            ul { @for reason in &shown.reasons { li { (Foreign(reason)) } } }
        }
        (past_events(&past))
    };
    page(&visitor, "/queue", "Item", &content)
}

/// What is known of an item beside the item itself, and after it is gone.
#[derive(Default)]
struct Past {
    bounces: Vec<BounceRecord>,
    records: Vec<OperatorRecord>,
}

async fn read(spool: &Spool, id: &ItemId) -> Result<(Option<ItemDetails>, Past), SpoolError> {
    let shown = spool.show(id).await?;
    let past = Past {
        bounces: spool.bounces(Some(id), usize::MAX).await?,
        records: spool.operator_records(Some(id), usize::MAX).await?,
    };
    Ok((shown, past))
}

fn past_events(past: &Past) -> Markup {
    html! {
        (came_back(&past.bounces))
        @if !past.records.is_empty() {
            section aria-labelledby="operators" {
                h2 id="operators" { "Operators" }
                table {
                    thead { tr { th scope="col" { "When" } th scope="col" { "Action" } th scope="col" { "By" } } }
                    tbody {
                        @for record in &past.records {
                            tr {
                                th scope="row" { (date(record.at)) }
                                td data-label="Action" { (record.action.name()) }
                                td data-label="By" { (Foreign(&record.who())) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn gone(visitor: &Visitor, id: &str, past: &Past) -> Response {
    let content = html! {
        p.back { a href="/queue" { "Queue" } }
        h1 { "No such item" }
        p { "There is no item " code { (Foreign(id)) } ". It may have been delivered meanwhile." }
        (past_events(past))
    };
    (
        StatusCode::NOT_FOUND,
        page(visitor, "/queue", "Item", &content),
    )
        .into_response()
}

fn actions(shown: &ItemDetails, visitor: &Visitor) -> Markup {
    let id = shown.listed.id.as_str();
    let button = |action: &str, name: &str| {
        html! {
            form method="post" action={ "/queue/" (id) "/" (action) } {
                (form_field(visitor))
                button { (name) }
            }
        }
    };
    html! {
        div.actions {
            (button("retry", "Retry now"))
            @if shown.listed.on_hold { (button("release", "Release")) } @else { (button("hold", "Hold")) }
            @if visitor.has_token {
                a.button href={ "/queue/" (id) "/export" } download { "Export as .eml" }
            }
        }
        @if !visitor.has_token {
            p.since { "Subject and export are for those who log in: set " code { "admin.token_file" } ", or use " code { "copyist queue export " (id) } "." }
        }
    }
}

fn facts(shown: &ItemDetails, visitor: &Visitor, now: SystemTime) -> Markup {
    let listed = &shown.listed;
    html! {
        dl {
            dt { "State" } dd { (state(listed, now)) }
            dt { "Kind" } dd { (listed.direction) " " (listed.kind) }
            @if visitor.has_token { dt { "Subject" } dd { (Foreign(&listed.subject)) } }
            dt { "Attempts" } dd { (listed.attempts) }
            @if let Some(at) = listed.next_attempt { dt { "Next attempt" } dd { (date(at)) } }
            dt { "Message came" } dd { (moment(listed.received, now)) ", " (date(listed.received)) }
            dt { "Message's size" } dd { (format_size(listed.size)) }
            @if !listed.queue_id.is_empty() { dt { "MTA's queue id" } dd { (Foreign(&listed.queue_id)) } }
            dt { "Message-ID" } dd { (Foreign(&shown.message_id)) }
            dt { "Envelope sender" }
            dd {
                @match &shown.sender { Some(sender) => (Foreign(&sender.to_string())), None => "<> (null reverse path)" }
            }
            @if let Some(ndr) = &shown.ndr { dt { "NDR goes to" } dd { (Foreign(&ndr.to_string())) } }
        }
    }
}

fn targets(shown: &ItemDetails) -> Markup {
    html! {
        section aria-labelledby="targets" {
            h2 id="targets" { "Targets" }
            table.cards {
                thead { tr { th scope="col" { "Address" } th scope="col" { "State" } th scope="col" { "Last reply" } } }
                tbody {
                    @for target in &shown.listed.targets {
                        tr {
                            th scope="row" { (Foreign(&target.address.to_string())) }
                            td data-label="State" { span class={ "state " (target.state) } { (target.state) } }
                            td data-label="Last reply" {
                                @match &target.last_reply { Some(reply) => (Foreign(reply)), None => "not tried yet" }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn came_back(bounces: &[BounceRecord]) -> Markup {
    if bounces.is_empty() {
        return html! {};
    }
    html! {
        section aria-labelledby="bounces" {
            h2 id="bounces" { "Bounces that came back" }
            table.cards {
                thead { tr { th scope="col" { "When" } th scope="col" { "By" } th scope="col" { "Status" } th scope="col" { "Said" } } }
                tbody {
                    @for BounceRecord { at, bounce, .. } in bounces {
                        tr {
                            th scope="row" { (date(*at)) }
                            td data-label="By" { (Foreign(&bounce.reporter)) }
                            td data-label="Status" { (Foreign(&bounce.action)) " " (Foreign(&bounce.status)) }
                            td data-label="Said" { (Foreign(&bounce.said)) }
                        }
                    }
                }
            }
        }
    }
}

pub(in crate::admin) async fn retry(
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    act(&watched, &visitor, &id, Action::Retry).await
}

pub(in crate::admin) async fn hold(
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    act(&watched, &visitor, &id, Action::Hold).await
}

pub(in crate::admin) async fn release(
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    act(&watched, &visitor, &id, Action::Release).await
}

/// Does something to an item, and goes back to its page: loading that again does nothing twice.
async fn act(watched: &Watched, visitor: &Visitor, id: &str, action: Action) -> Response {
    let Some(id) = ItemId::parse(id) else {
        return gone(visitor, id, &Past::default());
    };
    let spool = watched.pipeline.load().spool.clone();
    let what = action.name();
    let now = SystemTime::now();
    match spool.operate(&visitor.operator(), action, &id, now).await {
        Ok(true) => Redirect::to(&format!("/queue/{id}?done={what}")).into_response(),
        // It is gone, or was not on hold: its page tells.
        Ok(false) => Redirect::to(&format!("/queue/{id}")).into_response(),
        Err(cause) => {
            warn!(item = %id, "cannot {what}: {cause}");
            let page = trouble(visitor, "/queue", "Item", &cause.to_string());
            (StatusCode::SERVICE_UNAVAILABLE, page).into_response()
        }
    }
}

/// The item as the relay would get it.
pub(in crate::admin) async fn export(
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    if !visitor.has_token {
        let text = "Messages are given to those who log in: set admin.token_file, or use copyist queue export.";
        let page = trouble(&visitor, "/queue", "Export", text);
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    let Some(parsed) = ItemId::parse(&id) else {
        return gone(&visitor, &id, &Past::default());
    };
    let spool = watched.pipeline.load().spool.clone();
    let owed = match spool.load(&parsed).await {
        Ok(owed) => owed,
        Err(SpoolError::Unknown(_)) => return gone(&visitor, &id, &Past::default()),
        Err(cause) => return trouble(&visitor, "/queue", "Export", &cause.to_string()),
    };
    let (operator, now) = (visitor.operator(), SystemTime::now());
    if let Err(cause) = spool.operate(&operator, Action::Export, &parsed, now).await {
        // A spool that cannot be written is a reason to export.
        warn!(item = %parsed, "cannot record an export by {}: {cause}", operator.user);
    }
    // Read from the disk as the browser takes it: it may be a gigabyte.
    let (tell, pieces) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let all = std::iter::once(Ok(owed.item.prefix.clone()))
            .chain(owed.original.chunks(0))
            .chain(std::iter::once(Ok(owed.item.suffix.clone())));
        for piece in all {
            let failed = piece.is_err();
            if tell.blocking_send(piece).is_err() || failed {
                break;
            }
        }
    });
    let body = stream::unfold(
        pieces,
        async |mut pieces: mpsc::Receiver<std::io::Result<Bytes>>| {
            Some((pieces.recv().await?, pieces))
        },
    );
    let headers = [
        (CONTENT_TYPE, "message/rfc822".to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{parsed}.eml\""),
        ),
    ];
    (headers, Body::from_stream(body)).into_response()
}
