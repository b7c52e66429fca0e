//! What all pages have: head, navigation, the form's hidden field; and the files that a page needs.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::admin::guard::{FORM_FIELD, Visitor};

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

/// A page below one of the paths of the navigation.
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

/// A page with nowhere to go.
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
                a.skip href="#content" { "To the content" }
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

/// What says that a form is ours.
pub(super) fn form_field(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name=(FORM_FIELD) value=(visitor.form); }
}

/// A line that says how something is, in a word as well as in a colour.
pub(super) fn notice(kind: Kind, text: &Markup) -> Markup {
    html! {
        p class={ "notice " (kind.class()) } role=[(kind != Kind::Fine).then_some("status")] {
            strong { (kind.word()) } " " (text)
        }
    }
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Fault,
    Look,
    Fine,
}

impl Kind {
    pub(super) fn class(self) -> &'static str {
        match self {
            Kind::Fine => "fine",
            Kind::Look => "look",
            Kind::Fault => "fault",
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Fine => "OK",
            Kind::Look => "Warning",
            Kind::Fault => "Error",
        }
    }
}

/// What was asked for cannot be shown.
pub(super) fn trouble(visitor: &Visitor, path: &str, title: &str, text: &str) -> Response {
    let content = html! { h1 { (title) } (notice(Kind::Fault, &html! { (text) })) };
    page(visitor, path, title, &content)
}

pub(in crate::admin) async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

pub(in crate::admin) async fn script() -> Response {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT).into_response()
}

pub(in crate::admin) async fn nothing_here() -> Response {
    let content = html! { h1 { "Nothing here" } p { a href="/" { "To the overview" } } };
    lone_page(StatusCode::NOT_FOUND, "Nothing here", &content)
}
