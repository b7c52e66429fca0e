//! One item: its details except the message, and the operator's actions.
//!
//! There is no button to drop an item: that cannot be undone, and `copyist queue drop` asks twice.

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

use super::format::{Untrusted, date, moment};
use super::layout::{Level, error_page, form_field, notice, page};
use super::queue::state;
use crate::admin::AppState;
use crate::admin::access::Visitor;
use crate::journal::ItemId;
use crate::mail::format_size;
use crate::spool::{Action, BounceRecord, ItemDetails, OperatorRecord, Spool, SpoolError};

/// The action before this page was loaded.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin) struct ActionQuery {
    done: String,
}

pub(in crate::admin) async fn show(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
    Query(done): Query<ActionQuery>,
) -> Response {
    let spool = app.pipeline.load().services.spool.clone();
    let found = match ItemId::parse(&id) {
        Some(id) => read(&spool, &id).await,
        None => Ok((None, ItemHistory::default())),
    };
    let (shown, history) = match found {
        Ok(found) => found,
        Err(cause) => return error_page(&visitor, "/queue", "Item", &cause.to_string()),
    };
    let Some(shown) = shown else {
        return not_found(&visitor, &id, &history);
    };
    let now = SystemTime::now();
    let content = html! {
        p.back { a href="/queue" { "Queue" } }
        h1 { "Item " code { (shown.listed.id.as_str()) } }
        @match done.done.as_str() {
            "retry" => (notice(Level::Ok, &html! { "Retry scheduled. Reload this page to see the reply." })),
            "hold" => (notice(Level::Ok, &html! { "On hold until you release it." })),
            "release" => (notice(Level::Ok, &html! { "Released." })),
            _ => {}
        }
        (actions(&shown, &visitor))
        (facts(&shown, &visitor, now))
        (targets(&shown))
        section aria-labelledby="because" {
            h2 id="because" { "Reasons" }
            ul { @for reason in &shown.reasons { li { (Untrusted(reason)) } } }
        }
        (history_section(&history))
    };
    page(&visitor, "/queue", "Item", &content)
}

/// The history of an item, which outlives it.
#[derive(Default)]
struct ItemHistory {
    bounces: Vec<BounceRecord>,
    records: Vec<OperatorRecord>,
}

async fn read(
    spool: &Spool,
    id: &ItemId,
) -> Result<(Option<ItemDetails>, ItemHistory), SpoolError> {
    let shown = spool.show(id).await?;
    let history = ItemHistory {
        bounces: spool.bounces(Some(id), usize::MAX).await?,
        records: spool.operator_records(Some(id), usize::MAX).await?,
    };
    Ok((shown, history))
}

fn history_section(history: &ItemHistory) -> Markup {
    html! {
        (bounce_section(&history.bounces))
        @if !history.records.is_empty() {
            section aria-labelledby="operators" {
                h2 id="operators" { "Operator actions" }
                table {
                    thead { tr { th scope="col" { "When" } th scope="col" { "Action" } th scope="col" { "By" } } }
                    tbody {
                        @for record in &history.records {
                            tr {
                                th scope="row" { (date(record.at)) }
                                td data-label="Action" { (record.action.name()) }
                                td data-label="By" { (Untrusted(&record.describe_operator())) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn not_found(visitor: &Visitor, id: &str, history: &ItemHistory) -> Response {
    let content = html! {
        p.back { a href="/queue" { "Queue" } }
        h1 { "No such item" }
        p { "No item " code { (Untrusted(id)) } ". It may have been delivered." }
        (history_section(history))
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
            p.since { "Log in to see the subject and to export the message (requires " code { "admin.token_file" } "), or use " code { "copyist queue export " (id) } "." }
        }
    }
}

fn facts(shown: &ItemDetails, visitor: &Visitor, now: SystemTime) -> Markup {
    let listed = &shown.listed;
    html! {
        dl {
            dt { "State" } dd { (state(listed, now)) }
            dt { "Type" } dd { (listed.direction.name()) " " (listed.kind.name()) }
            @if visitor.has_token { dt { "Subject" } dd { (Untrusted(&listed.subject)) } }
            dt { "Attempts" } dd { (listed.attempts) }
            @if let Some(at) = listed.next_attempt { dt { "Next attempt" } dd { (date(at)) } }
            dt { "Received" } dd { (moment(listed.received, now)) ", " (date(listed.received)) }
            dt { "Message size" } dd { (format_size(listed.size)) }
            @if !listed.queue_id.is_empty() { dt { "MTA queue ID" } dd { (Untrusted(&listed.queue_id)) } }
            dt { "Message-ID" } dd { (Untrusted(&shown.message_id)) }
            dt { "Envelope sender" }
            dd {
                @match &shown.sender { Some(sender) => (Untrusted(&sender.to_string())), None => "<> (null reverse path)" }
            }
            @if let Some(ndr) = &shown.ndr { dt { "NDR goes to" } dd { (Untrusted(&ndr.to_string())) } }
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
                            th scope="row" { (Untrusted(&target.address.to_string())) }
                            td data-label="State" { span class={ "state " (target.state) } { (target.state) } }
                            td data-label="Last reply" {
                                @match &target.last_reply { Some(reply) => (Untrusted(reply)), None => "not tried yet" }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn bounce_section(bounces: &[BounceRecord]) -> Markup {
    if bounces.is_empty() {
        return html! {};
    }
    html! {
        section aria-labelledby="bounces" {
            h2 id="bounces" { "Bounces" }
            table.cards {
                thead { tr { th scope="col" { "When" } th scope="col" { "Reporter" } th scope="col" { "Status" } th scope="col" { "Text" } } }
                tbody {
                    @for BounceRecord { at, bounce, .. } in bounces {
                        tr {
                            th scope="row" { (date(*at)) }
                            td data-label="Reporter" { (Untrusted(&bounce.reporter)) }
                            td data-label="Status" { (Untrusted(&bounce.action)) " " (Untrusted(&bounce.status)) }
                            td data-label="Text" { (Untrusted(&bounce.said)) }
                        }
                    }
                }
            }
        }
    }
}

pub(in crate::admin) async fn retry(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    act(&app, &visitor, &id, Action::Retry).await
}

pub(in crate::admin) async fn hold(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    act(&app, &visitor, &id, Action::Hold).await
}

pub(in crate::admin) async fn release(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    act(&app, &visitor, &id, Action::Release).await
}

/// Performs an action and redirects to the item's page, so that a reload does not repeat it.
async fn act(app: &AppState, visitor: &Visitor, id: &str, action: Action) -> Response {
    let Some(id) = ItemId::parse(id) else {
        return not_found(visitor, id, &ItemHistory::default());
    };
    let spool = app.pipeline.load().services.spool.clone();
    let what = action.name();
    let now = SystemTime::now();
    match spool.operate(&visitor.operator(), action, &id, now).await {
        Ok(true) => Redirect::to(&format!("/queue/{id}?done={what}")).into_response(),
        // The item is gone, or was not on hold, as its page shows.
        Ok(false) => Redirect::to(&format!("/queue/{id}")).into_response(),
        Err(cause) => {
            warn!(item = %id, "cannot {what}: {cause}");
            let page = error_page(visitor, "/queue", "Item", &cause.to_string());
            (StatusCode::SERVICE_UNAVAILABLE, page).into_response()
        }
    }
}

/// Exports the item as the relay would receive it.
pub(in crate::admin) async fn export(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    if !visitor.has_token {
        let text =
            "Log in to export messages (requires admin.token_file), or use copyist queue export.";
        let page = error_page(&visitor, "/queue", "Export", text);
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    let Some(parsed) = ItemId::parse(&id) else {
        return not_found(&visitor, &id, &ItemHistory::default());
    };
    let spool = app.pipeline.load().services.spool.clone();
    let item = match spool.load(&parsed).await {
        Ok(item) => item,
        Err(SpoolError::Unknown(_)) => return not_found(&visitor, &id, &ItemHistory::default()),
        Err(cause) => return error_page(&visitor, "/queue", "Export", &cause.to_string()),
    };
    let (operator, now) = (visitor.operator(), SystemTime::now());
    if let Err(cause) = spool.operate(&operator, Action::Export, &parsed, now).await {
        // Not fatal: a read-only spool is a reason to export.
        warn!(item = %parsed, "cannot record an export by {}: {cause}", operator.user);
    }
    // Streamed from the disk: it may be a gigabyte.
    let (sender, pieces) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let all = std::iter::once(Ok(item.item.prefix.clone()))
            .chain(item.original.chunks(0))
            .chain(std::iter::once(Ok(item.item.suffix.clone())));
        for piece in all {
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
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
