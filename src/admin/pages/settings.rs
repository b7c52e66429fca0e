//! The active settings and their origins. Passwords, tokens and keys are in files, of which only the
//! names are shown.

use std::time::SystemTime;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::format::{Untrusted, date, moment};
use super::layout::page;
use crate::admin::access::Visitor;
use crate::admin::{AppState, EffectiveConfig, Origin, Setting};

pub(in crate::admin) async fn show(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
) -> Response {
    let active = app.active.load_full();
    let EffectiveConfig { file, settings } = &*active.effective;
    let now = SystemTime::now();
    let content = html! {
        h1 { "Settings" }
        p {
            "Active since " (date(active.since)) ", " (moment(active.since, now)) "; read from "
            code { (Untrusted(&file.display().to_string())) } " and the environment. Secrets are in separate files and are not shown. "
            "Settings that need a restart are shown with their new values."
        }
        @for (table, of_table) in tables(settings) {
            section aria-label=(table) {
                h2 { @if table.is_empty() { "Top level" } @else { code { "[" (table) "]" } } }
                table.cards.settings {
                    thead { tr { th scope="col" { "Key" } th scope="col" { "Value" } th scope="col" { "From" } } }
                    tbody { @for setting in of_table { (row(table, setting)) } }
                }
            }
        }
    };
    page(&visitor, "/settings", "Settings", &content)
}

/// Groups the settings by table, in their order.
fn tables(settings: &[Setting]) -> Vec<(&str, Vec<&Setting>)> {
    let mut tables: Vec<(&str, Vec<&Setting>)> = Vec::new();
    for setting in settings {
        let table = setting.key.rsplit_once('.').map_or("", |(table, _)| table);
        match tables.iter_mut().find(|(known, _)| *known == table) {
            Some((_, of_table)) => of_table.push(setting),
            None => tables.push((table, vec![setting])),
        }
    }
    tables
}

fn row(table: &str, setting: &Setting) -> Markup {
    let name = setting.key[table.len()..].trim_start_matches('.');
    html! {
        tr {
            th scope="row" { code { (name) } div.about { (setting.about) } }
            td data-label="Value" {
                @match &setting.value { Some(value) => code { (Untrusted(value)) }, None => span.about { "not set" } }
            }
            td data-label="From" {
                @match &setting.origin {
                    Origin::Default => span.about { "default" },
                    Origin::Line(line) => { "line " (line) },
                    Origin::Variable(name) => { "environment: " code { (Untrusted(name)) } },
                }
            }
        }
    }
}
