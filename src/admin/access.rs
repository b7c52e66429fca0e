//! Authentication, form validation, and the security headers of every response.
//!
//! A path that is not in [`OPEN`] requires the token if one is set, and is disabled if none is set
//! and the address is reachable from other machines. Nothing is changed for a form that another
//! process or site created. Attackers go through the operator's browser, so:
//!
//! - *another site's form* fails on `Sec-Fetch-Site`, `Origin`, the cookie's `SameSite`, and the
//!   token in each form;
//! - *DNS rebinding* (a name that suddenly resolves to 127.0.0.1) fails on `Host` if no token is set.
//!   With a token, the browser has no cookie for such a name, and a proxy in front may use any name;
//! - *frames and injected scripts* fail on the content security policy: nothing inline, nothing
//!   from other origins.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use metrics::counter;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::time::timeout;
use tracing::warn;
use url::form_urlencoded;

use super::AppState;
use super::pages::login;
use crate::secret::Secret;
use crate::spool::Operator;

/// Paths without authentication: those for monitoring, which `admin.allow_clients` protects, and
/// those that the login page needs.
const OPEN: [&str; 6] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/login",
    "/style.css",
    "/script.js",
];

/// Paths that accept any `Host`, because load balancers use their own names.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// The session cookie.
const COOKIE: &str = "copyist";

/// The field that authenticates every form.
pub(super) const FORM_FIELD: &str = "form";

/// The largest form.
const LONGEST_FORM: usize = 16 * 1024;
/// The timeout for a form's body.
const SLOWEST_FORM: Duration = Duration::from_secs(10);
/// The delay after a wrong token.
const WRONG_WAITS: Duration = Duration::from_secs(1);

const HEADERS: [(HeaderName, &str); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // With "no-referrer" browsers would send "Origin: null" with our forms.
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=()",
    ),
];

/// Signs forms and sessions with a key of this process, so that they expire with it.
pub(super) struct RequestGuard {
    key: hmac::Key,
    listen: SocketAddr,
    /// Locked during the delay after a wrong token.
    wrong: tokio::sync::Mutex<()>,
}

/// The visitor of a page.
#[derive(Clone)]
pub(super) struct Visitor {
    /// The signature that each form must return.
    pub(super) form: String,
    /// Whether the visitor is authenticated, which subjects and messages require.
    pub(super) has_token: bool,
    /// Whether the visitor has a session cookie and can log out.
    pub(super) has_cookie: bool,
    /// The visitor's address.
    address: Option<IpAddr>,
}

impl Visitor {
    /// Returns the visitor as the record of an action names it.
    pub(super) fn operator(&self) -> Operator {
        let user = match self.has_token {
            true => "admin page with token",
            false => "admin page without token",
        };
        Operator {
            user: user.to_owned(),
            uid: None,
            address: self.address,
        }
    }
}

/// The client address of a request.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

impl RequestGuard {
    /// Creates a guard for a listener; `None` if the system has no random numbers.
    pub(super) fn new(listen: SocketAddr) -> Option<RequestGuard> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        Some(RequestGuard {
            key,
            listen,
            wrong: tokio::sync::Mutex::default(),
        })
    }

    /// Delays the response to a wrong token, one at a time: many connections guess no faster than
    /// one.
    pub(super) async fn slow_down(&self) {
        let _turn = self.wrong.lock().await;
        tokio::time::sleep(WRONG_WAITS).await;
    }

    fn is_local(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    fn sign(&self, purpose: &str, text: &str) -> String {
        let tag = hmac::sign(&self.key, format!("{purpose}\0{text}").as_bytes());
        URL_SAFE_NO_PAD.encode(tag)
    }

    /// Checks a signature in constant time.
    fn is_signed(&self, purpose: &str, text: &str, signature: &str) -> bool {
        let Ok(tag) = URL_SAFE_NO_PAD.decode(signature) else {
            return false;
        };
        let data = format!("{purpose}\0{text}");
        hmac::verify(&self.key, data.as_bytes(), &tag).is_ok()
    }

    /// Whether a value is the token, in constant time.
    pub(super) fn is_token(&self, token: &Secret, given: &str) -> bool {
        let expected = hmac::sign(&self.key, token.reveal().as_bytes());
        hmac::verify(&self.key, given.as_bytes(), expected.as_ref()).is_ok()
    }

    /// Returns the session cookie. It does not reveal the token, and a new token invalidates it.
    pub(super) fn cookie(&self, token: &Secret) -> String {
        let value = self.sign("session", token.reveal());
        format!("{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/")
    }

    /// Returns a cookie that ends the session.
    pub(super) fn no_cookie() -> String {
        format!("{COOKIE}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0")
    }

    fn visitor(&self, token: Option<&Secret>, request: &Request) -> Visitor {
        let headers = request.headers();
        let by_cookie = cookie(headers).filter(|value| {
            token.is_some_and(|token| self.is_signed("session", token.reveal(), value))
        });
        let by_header = bearer(headers)
            .is_some_and(|given| token.is_some_and(|token| self.is_token(token, given)));
        Visitor {
            form: self.sign("form", by_cookie.unwrap_or_default()),
            has_token: by_cookie.is_some() || by_header,
            has_cookie: by_cookie.is_some(),
            address: request.extensions().get().map(|Peer(address)| *address),
        }
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter();
    let mut pairs = all
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Middleware for all paths.
pub(super) async fn guard(State(app): State<AppState>, request: Request, next: Next) -> Response {
    match admit(&app, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal,
    }
}

async fn admit(app: &AppState, mut request: Request) -> Result<Request, Response> {
    let guard = &app.guard;
    let active = app.active.load_full();
    let token = active.token.as_ref();
    let path = request.uri().path().to_owned();
    let is_open = OPEN.contains(&path.as_str());
    if token.is_none() && guard.is_local() && !PROBES.contains(&path.as_str()) {
        // Every browser sends Host; a client without it is a script.
        let host = host(request.headers());
        if !host.is_none_or(|host| guard.is_this_machine(host)) {
            let text = "The Host header does not name this machine: use localhost or 127.0.0.1.\n";
            return Err(reject("host", StatusCode::MISDIRECTED_REQUEST, text));
        }
    }
    let visitor = guard.visitor(token, &request);
    if !is_open && token.is_none() && !guard.is_local() {
        let text = "Pages are disabled: other machines can reach this address, and admin.token_file is not set.\n";
        return Err(reject("no token", StatusCode::FORBIDDEN, text));
    }
    if !is_open && token.is_some() && !visitor.has_token {
        if bearer(request.headers()).is_some() {
            guard.slow_down().await;
        }
        counter!("copyist_admin_requests_refused_total", "why" => "token").increment(1);
        let wanted = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        return Err(login::ask(&visitor, wanted, false));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        request = own_form(guard, &visitor, request).await?;
    }
    request.extensions_mut().insert(visitor);
    Ok(request)
}

/// Accepts only requests from our own forms.
async fn own_form(
    guard: &RequestGuard,
    visitor: &Visitor,
    request: Request,
) -> Result<Request, Response> {
    if !is_same_origin(request.headers()) {
        let text = "This form was sent by another site.\n";
        return Err(reject("origin", StatusCode::FORBIDDEN, text));
    }
    let (parts, body) = request.into_parts();
    let body = timeout(SLOWEST_FORM, to_bytes(body, LONGEST_FORM)).await;
    let body: Bytes = body.ok().and_then(Result::ok).ok_or_else(|| {
        let text = "The form is too large or was sent too slowly.\n";
        reject("form", StatusCode::PAYLOAD_TOO_LARGE, text)
    })?;
    let sent = form_urlencoded::parse(&body).find(|(name, _)| name == FORM_FIELD);
    let session = match visitor.has_cookie {
        true => cookie(&parts.headers).unwrap_or_default(),
        false => "",
    };
    if !sent.is_some_and(|(_, value)| guard.is_signed("form", session, &value)) {
        let text = "This form is not from this service, or the service was restarted since. Go back, reload the page and try again.\n";
        return Err(reject("form", StatusCode::FORBIDDEN, text));
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}

fn reject(reason: &'static str, status: StatusCode, text: &'static str) -> Response {
    counter!("copyist_admin_requests_refused_total", "why" => reason).increment(1);
    warn!("admin request rejected: {}", text.trim_end());
    (status, text).into_response()
}

/// Whether the browser reports that one of our pages sent the request, or reports nothing.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if text("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return false;
    }
    let Some(origin) = text("origin") else {
        return true;
    };
    // The scheme may differ: TLS may end at a proxy.
    let of_origin = origin.split_once("://").map(|(_, host)| host);
    of_origin.is_some()
        && of_origin
            == headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
}

/// Returns the `Host` header; empty if it is not text.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(header::HOST)?;
    Some(host.to_str().unwrap_or_default())
}

impl RequestGuard {
    /// Whether a host, with or without a port, can only be this machine.
    fn is_this_machine(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let ip: Option<IpAddr> = name.parse().ok();
        ip.is_some_and(|ip| ip.to_canonical().is_loopback() || ip == self.listen.ip())
    }
}

/// Adds the security headers to a response.
pub(super) async fn headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> RequestGuard {
        RequestGuard::new(([127, 0, 0, 1], 8025).into()).expect("random numbers")
    }

    fn headers_of(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn only_names_of_this_machine_are_this_machine() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:8025", true),
            ("127.0.0.1:8025", true),
            ("127.8.0.1", true),
            ("[::1]:8025", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example:8025", false),
            ("localhost.evil.example", false),
            ("192.0.2.1:8025", false),
            ("", false),
        ] {
            assert_eq!(guard().is_this_machine(host), expected, "{host}");
        }
    }

    #[test]
    fn the_origin_of_a_form_is_checked() {
        for (pairs, expected) in [
            (&[("host", "localhost:8025")][..], true),
            (
                &[
                    ("host", "localhost:8025"),
                    ("origin", "http://localhost:8025"),
                ],
                true,
            ),
            (
                &[
                    ("host", "copyist.example"),
                    ("origin", "https://copyist.example"),
                ],
                true,
            ),
            (
                &[
                    ("host", "localhost:8025"),
                    ("origin", "http://localhost:8026"),
                ],
                false,
            ),
            (
                &[
                    ("host", "localhost:8025"),
                    ("origin", "http://evil.example"),
                ],
                false,
            ),
            (&[("host", "localhost:8025"), ("origin", "null")], false),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
        ] {
            assert_eq!(is_same_origin(&headers_of(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_signature_is_bound_to_token_process_and_purpose() {
        let (guard, other) = (guard(), guard());
        let (token, another) = (
            Secret::new("a token of some length"),
            Secret::new("another one"),
        );
        let session = guard.sign("session", token.reveal());
        assert!(guard.is_signed("session", token.reveal(), &session));
        assert!(!guard.is_signed("session", another.reveal(), &session));
        assert!(!guard.is_signed("form", token.reveal(), &session));
        assert!(!other.is_signed("session", token.reveal(), &session));
        assert!(guard.is_token(&token, token.reveal()));
        assert!(!guard.is_token(&token, "a token of some lengt"));
        assert!(!guard.is_token(&token, ""));
    }
}
