//! What is in force, and where each value comes from. Passwords, tokens and keys stand in files;
//! their names are shown.

use std::time::SystemTime;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::layout::page;
use super::words::{Foreign, date, moment};
use crate::admin::guard::Visitor;
use crate::admin::{Effective, Origin, Setting, Watched};

pub(in crate::admin) async fn show(
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
) -> Response {
    let in_force = watched.in_force.load_full();
    let Effective { file, settings } = &*in_force.effective;
    let now = SystemTime::now();
    let content = html! {
        h1 { "Settings" }
        p {
            "In force since " (date(in_force.since)) ", " (moment(in_force.since, now)) "; read from "
            code { (Foreign(&file.display().to_string())) } " and the environment. Secrets stand in files of their own and are not shown. "
            "What the service logged as taking effect after a restart is shown as it will be."
        }
        @for (table, of_table) in tables(settings) {
            section aria-label=(table) {
                h2 { @if table.is_empty() { "At the top" } @else { code { "[" (table) "]" } } }
                table.cards.settings {
                    thead { tr { th scope="col" { "Key" } th scope="col" { "Value" } th scope="col" { "From" } } }
                    tbody { @for setting in of_table { (row(table, setting)) } }
                }
            }
        }
    };
    page(&visitor, "/settings", "Settings", &content)
}

/// The settings by their table, in the order that they come in.
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
                @match &setting.value { Some(value) => code { (Foreign(value)) }, None => span.about { "not set" } }
            }
            td data-label="From" {
                @match &setting.origin {
                    Origin::Default => span.about { "default" },
                    Origin::Line(line) => { "line " (line) },
                    Origin::Variable(name) => { "environment: " code { (Foreign(name)) } },
                }
            }
        }
    }
}
