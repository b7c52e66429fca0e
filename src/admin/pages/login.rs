//! The login page: asks each browser for the token once.

use axum::Extension;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::http::header::{SET_COOKIE, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;
use metrics::counter;
use serde::Deserialize;
use tracing::warn;

use super::layout::{Level, form_field, lone_page, notice};
use crate::admin::AppState;
use crate::admin::access::{RequestGuard, Visitor};

/// The login form.
#[derive(Debug, Deserialize)]
pub(in crate::admin) struct Login {
    #[serde(default)]
    token: String,
    #[serde(default)]
    next: String,
}

/// Asks for the token and continues to a path.
pub(in crate::admin) fn ask(visitor: &Visitor, next: &str, was_wrong: bool) -> Response {
    let content = html! {
        h1 { "Log in" }
        @if was_wrong { (notice(Level::Error, &html! { "Wrong token." })) }
        form.narrow method="post" action="/login" {
            (form_field(visitor))
            input type="hidden" name="next" value=(next);
            label for="token" { "Token" }
            input id="token" name="token" type="password" autocomplete="current-password" required autofocus
                aria-describedby="where";
            p id="where" { "Stored in the file named by " code { "admin.token_file" } "." }
            button { "Log in" }
        }
    };
    let page = lone_page(StatusCode::UNAUTHORIZED, "Log in", &content);
    ([(WWW_AUTHENTICATE, "Bearer realm=\"copyist\"")], page).into_response()
}

pub(in crate::admin) async fn show(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Query(login): Query<Login>,
) -> Response {
    if visitor.has_token || app.active.load().token.is_none() {
        return Redirect::to("/").into_response();
    }
    let page = ask(&visitor, &login.next, false);
    (StatusCode::OK, page).into_response()
}

pub(in crate::admin) async fn enter(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Form(login): Form<Login>,
) -> Response {
    let active = app.active.load_full();
    let Some(token) = &active.token else {
        return Redirect::to("/").into_response();
    };
    if !app.guard.is_token(token, login.token.trim()) {
        counter!("copyist_admin_requests_refused_total", "why" => "token").increment(1);
        warn!("admin login rejected: wrong token");
        app.guard.slow_down().await;
        return ask(&visitor, &login.next, true);
    }
    let cookie = [(SET_COOKIE, app.guard.cookie(token))];
    (cookie, Redirect::to(own_path(&login.next))).into_response()
}

pub(in crate::admin) async fn leave() -> Response {
    let cookie = [(SET_COOKIE, RequestGuard::no_cookie())];
    (cookie, Redirect::to("/login")).into_response()
}

/// Returns a path of this site: `//elsewhere` and `/\elsewhere` are other sites to a browser.
fn own_path(next: &str) -> &str {
    let is_own = next.starts_with('/')
        && !next[1..].starts_with(['/', '\\'])
        && next.bytes().all(|byte| byte.is_ascii_graphic());
    if is_own { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_nowhere_else() {
        for (next, path) in [
            ("/queue?state=dead", "/queue?state=dead"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/\t/evil.example", "/"),
            ("", "/"),
        ] {
            assert_eq!(own_path(next), path, "{next}");
        }
    }
}
