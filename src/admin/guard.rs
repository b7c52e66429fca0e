//! Who may see a page and who may press a button; and what every answer says to the browser.
//!
//! Promises: whatever is not in [`OPEN`] is refused without the token where one is set, and
//! altogether where the address is not of this machine alone and none is set; nothing is changed
//! for a form that this process did not give out, or that another site sent. A browser of an
//! operator is the way in for strangers, so:
//!
//! - *another site's form* fails on `Sec-Fetch-Site`, `Origin`, the cookie's `SameSite`, and the
//!   token in each form;
//! - *a name that suddenly means 127.0.0.1* (DNS rebinding) fails on `Host` where no token is asked
//!   for. Where one is, the browser has no cookie for such a name, and a proxy in front may be
//!   called what it likes;
//! - *a frame, an injected script* fail on the content security policy: nothing inline, nothing
//!   from elsewhere.

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

use super::Watched;
use super::pages::login;
use crate::secret::Secret;
use crate::spool::Operator;

/// Paths that ask for nothing: those for machines, which `admin.allow_clients` is for, and what the
/// login itself needs.
const OPEN: [&str; 6] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/login",
    "/style.css",
    "/script.js",
];

/// Of these, those that a machine asks for by whatever name it has for this one.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// The cookie of those who gave the token.
const COOKIE: &str = "copyist";

/// The field of every form that says it is ours.
pub(super) const FORM_FIELD: &str = "form";

/// The longest form.
const LONGEST_FORM: usize = 16 * 1024;
/// How long it may take to come.
const SLOWEST_FORM: Duration = Duration::from_secs(10);
/// How long a wrong token waits for its answer.
const WRONG_WAITS: Duration = Duration::from_secs(1);

const HEADERS: [(HeaderName, &str); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // With "no-referrer" browsers send "Origin: null" with our own forms.
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

/// Judges by a secret that lives as long as the process, so that forms and logins end with it.
pub(super) struct Guard {
    key: hmac::Key,
    listen: SocketAddr,
    /// Held by the wrong token that waits for its answer.
    wrong: tokio::sync::Mutex<()>,
}

/// Who asks, as far as a page must know.
#[derive(Clone)]
pub(super) struct Visitor {
    /// What each form must send back.
    pub(super) form: String,
    /// Whether the token was given: only then subjects and messages are.
    pub(super) has_token: bool,
    /// Whether it came by cookie, so that it can be taken back.
    pub(super) has_cookie: bool,
    /// Where the visitor comes from.
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

/// The other end of a connection, as a request carries it.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

impl Guard {
    /// For what listens here; `None` where the system has no random numbers.
    pub(super) fn new(listen: SocketAddr) -> Option<Guard> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        Some(Guard {
            key,
            listen,
            wrong: tokio::sync::Mutex::default(),
        })
    }

    /// Has whoever gave a wrong token wait, one after the other: many connections guess no faster
    /// than one.
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

    /// Takes the same time wherever they differ.
    fn is_signed(&self, purpose: &str, text: &str, signature: &str) -> bool {
        let Ok(tag) = URL_SAFE_NO_PAD.decode(signature) else {
            return false;
        };
        let data = format!("{purpose}\0{text}");
        hmac::verify(&self.key, data.as_bytes(), &tag).is_ok()
    }

    /// Whether somebody gave the token.
    pub(super) fn is_token(&self, token: &Secret, given: &str) -> bool {
        let expected = hmac::sign(&self.key, token.reveal().as_bytes());
        hmac::verify(&self.key, given.as_bytes(), expected.as_ref()).is_ok()
    }

    /// The cookie of somebody who gave the token. The token cannot be told from it, and another
    /// token ends it.
    pub(super) fn cookie(&self, token: &Secret) -> String {
        let value = self.sign("session", token.reveal());
        format!("{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/")
    }

    /// Takes the cookie back.
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

/// Stands in front of every path.
pub(super) async fn guard(
    State(watched): State<Watched>,
    request: Request,
    next: Next,
) -> Response {
    match admit(&watched, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal,
    }
}

async fn admit(watched: &Watched, mut request: Request) -> Result<Request, Response> {
    let guard = &watched.guard;
    let in_force = watched.in_force.load_full();
    let token = in_force.token.as_ref();
    let path = request.uri().path().to_owned();
    let is_open = OPEN.contains(&path.as_str());
    if token.is_none() && guard.is_local() && !PROBES.contains(&path.as_str()) {
        // Every browser says a host; who says none is a script.
        let host = host(request.headers());
        if !host.is_none_or(|host| guard.is_this_machine(host)) {
            let text = "The name that this page was asked for by is not this machine's own: use localhost or 127.0.0.1.\n";
            return Err(refused("host", StatusCode::MISDIRECTED_REQUEST, text));
        }
    }
    let visitor = guard.visitor(token, &request);
    if !is_open && token.is_none() && !guard.is_local() {
        let text = "There are no pages here: others can reach this address, and admin.token_file is not set.\n";
        return Err(refused("no token", StatusCode::FORBIDDEN, text));
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

/// Lets through what a form of ours sent.
async fn own_form(guard: &Guard, visitor: &Visitor, request: Request) -> Result<Request, Response> {
    if !is_same_origin(request.headers()) {
        let text = "This form was sent by another site.\n";
        return Err(refused("origin", StatusCode::FORBIDDEN, text));
    }
    let (parts, body) = request.into_parts();
    let body = timeout(SLOWEST_FORM, to_bytes(body, LONGEST_FORM)).await;
    let body: Bytes = body.ok().and_then(Result::ok).ok_or_else(|| {
        let text = "The form is too long, or came too slowly.\n";
        refused("form", StatusCode::PAYLOAD_TOO_LARGE, text)
    })?;
    let sent = form_urlencoded::parse(&body).find(|(name, _)| name == FORM_FIELD);
    let session = match visitor.has_cookie {
        true => cookie(&parts.headers).unwrap_or_default(),
        false => "",
    };
    if !sent.is_some_and(|(_, value)| guard.is_signed("form", session, &value)) {
        let text = "This form is not from a page that this service gave out since it started. Go back, load the page again, and try once more.\n";
        return Err(refused("form", StatusCode::FORBIDDEN, text));
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}

fn refused(why: &'static str, status: StatusCode, text: &'static str) -> Response {
    counter!("copyist_admin_requests_refused_total", "why" => why).increment(1);
    warn!(
        "a request to the admin side is refused: {}",
        text.trim_end()
    );
    (status, text).into_response()
}

/// Whether the browser, where it says anything, says that a page of ours sent this.
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

/// What the client calls this machine; what is no text names nobody.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(header::HOST)?;
    Some(host.to_str().unwrap_or_default())
}

impl Guard {
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

/// Says to the browser what it may do with an answer.
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

    fn guard() -> Guard {
        Guard::new(([127, 0, 0, 1], 8025).into()).expect("random numbers")
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
    fn a_browser_that_says_where_a_form_comes_from_is_believed() {
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
    fn a_session_and_a_form_are_of_one_token_one_process_and_one_purpose() {
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
