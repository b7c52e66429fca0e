//! The layout of all pages: head, navigation, notices, and static files.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::admin::access::{FORM_FIELD, Visitor};

const STYLE: &str = include_str!("../style.css");
const SCRIPT: &str = include_str!("../script.js");

/// The pages, in the order of the navigation.
const PAGES: [(&str, &str); 5] = [
    ("/", "Overview"),
    ("/queue", "Queue"),
    ("/explain", "Explain"),
    ("/coverage", "Coverage"),
    ("/settings", "Settings"),
];

/// Renders a page under one of the paths of the navigation.
pub(super) fn page(visitor: &Visitor, path: &str, title: &str, content: &Markup) -> Response {
    let navigation = html! {
        nav aria-label="Pages" {
            ul {
                @for (to, name) in PAGES {
                    li { a href=(to) aria-current=[(to == path).then_some("page")] { (name) } }
                }
            }
        }
        @if visitor.has_cookie {
            form.leave method="post" action="/logout" {
                (form_field(visitor))
                button.quiet { "Log out" }
            }
        }
    };
    Html(document(title, Some(&navigation), content).into_string()).into_response()
}

/// Renders a page without navigation.
pub(super) fn lone_page(status: StatusCode, title: &str, content: &Markup) -> Response {
    (status, Html(document(title, None, content).into_string())).into_response()
}

fn document(title: &str, navigation: Option<&Markup>, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " – Copyist" }
                link rel="stylesheet" href="/style.css";
                link rel="icon" href="data:,";
                script src="/script.js" defer {}
            }
            body {
                a.skip href="#content" { "Skip to content" }
                header {
                    div.bar {
                        a.name href="/" { "Copyist" }
                        @if let Some(navigation) = navigation { (navigation) }
                    }
                }
                main id="content" tabindex="-1" { (content) }
            }
        }
    }
}

/// Renders the hidden field that authenticates a form.
pub(super) fn form_field(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name=(FORM_FIELD) value=(visitor.form); }
}

/// Renders a notice, its level both as a word and as a color.
pub(super) fn notice(level: Level, text: &Markup) -> Markup {
    html! {
        p class={ "notice " (level.class()) } role=[(level != Level::Ok).then_some("status")] {
            strong { (level.word()) } " " (text)
        }
    }
}

/// The level of a notice, the most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Error,
    Warning,
    Ok,
}

impl Level {
    pub(super) fn class(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "Warning",
            Level::Error => "Error",
        }
    }
}

/// Renders an error instead of the requested content.
pub(super) fn error_page(visitor: &Visitor, path: &str, title: &str, text: &str) -> Response {
    let content = html! { h1 { (title) } (notice(Level::Error, &html! { (text) })) };
    page(visitor, path, title, &content)
}

pub(in crate::admin) async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

pub(in crate::admin) async fn script() -> Response {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT).into_response()
}

pub(in crate::admin) async fn not_found_page() -> Response {
    let content = html! { h1 { "Not found" } p { a href="/" { "Overview" } } };
    lone_page(StatusCode::NOT_FOUND, "Not found", &content)
}
