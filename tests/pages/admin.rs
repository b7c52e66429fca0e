//! The pages of the admin side: who sees what, what strangers can make a browser do, and what the
//! buttons do.

use crate::{lab, office};
use std::collections::BTreeSet;
use std::time::SystemTime;

use copyist::admin;

use office::{HOSTILE, Office, OfficeOptions, PASSWORD, TOKEN, direction, id, is_dead};

/// Paths that nobody has to log in for: those of machines, and what the login itself needs.
const OPEN: [&str; 6] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/login",
    "/style.css",
    "/script.js",
];

/// Everything that is served, with an item's id where one belongs.
fn paths() -> Vec<(&'static str, String)> {
    let paths = admin::paths().into_iter();
    paths
        .map(|(method, path)| (method, path.replace("{id}", id(3).as_str())))
        .collect()
}

/// An item's page, read as the service has it now.
async fn shown(office: &Office, n: usize) -> copyist::spool::QueueEntry {
    let shown = office.spool().show(&id(n)).await.expect("read");
    shown.expect("it is there").listed
}

#[tokio::test]
async fn every_page_asks_for_the_token() {
    let office = Office::open(OfficeOptions::default()).await;
    let mut asked = 0;
    for (method, path) in paths() {
        let is_open = OPEN.contains(&path.as_str()) && method == "GET";
        let bare = office.ask(method, &path, &[], "");
        if is_open {
            assert_eq!(bare.status, 200, "{method} {path}");
            continue;
        }
        asked += 1;
        // A login is refused for its form, the rest for the token.
        let refused = if path == "/login" { 403 } else { 401 };
        assert_eq!(bare.status, refused, "{method} {path}: {}", bare.text());
        for wrong in [
            "Bearer wrong",
            &format!("Basic {TOKEN}"),
            &format!("Bearer {TOKEN}x"),
        ] {
            let answer = office.ask(method, &path, &[("Authorization", wrong)], "");
            assert_eq!(answer.status, refused, "{method} {path} with {wrong}");
        }
        for cookie in ["copyist=", &format!("copyist={TOKEN}"), "copyist=AAAA"] {
            let answer = office.ask(method, &path, &[("Cookie", cookie)], "");
            assert_eq!(answer.status, refused, "{method} {path} with {cookie}");
        }
        assert!(!bare.text().contains("archive.example"), "{method} {path}");
        if method == "GET" {
            assert_eq!(office.page(&path).status, 200, "{path}");
        }
    }
    assert!(asked > 10, "{asked}");
    assert_eq!(office.get("/no/such/page", &[]).status, 401);
    assert!(
        shown(&office, 3).await.next_attempt.is_none(),
        "nothing was done"
    );
}

#[tokio::test]
async fn without_a_token_others_get_no_page() {
    let wanted = OfficeOptions {
        listen: "0.0.0.0",
        token: false,
        ..OfficeOptions::default()
    };
    let office = Office::open(wanted).await;
    for (method, path) in paths() {
        let answer = office.ask(method, &path, &[("Host", "copyist.example.com")], "");
        match (method, path.as_str()) {
            ("GET", "/healthz" | "/readyz" | "/metrics" | "/style.css" | "/script.js") => {
                assert_eq!(answer.status, 200, "{path}");
            }
            ("GET", "/login") => assert_eq!(answer.status, 303, "{path}"),
            _ => {
                assert_eq!(answer.status, 403, "{method} {path}");
                assert!(
                    answer.text().contains("admin.token_file") || path == "/login",
                    "{path}"
                );
            }
        }
    }
}

#[tokio::test]
async fn with_a_token_others_log_in_wherever_they_are() {
    let wanted = OfficeOptions {
        listen: "0.0.0.0",
        ..OfficeOptions::default()
    };
    let office = Office::open(wanted).await;
    for (method, path) in paths() {
        if OPEN.contains(&path.as_str()) {
            continue;
        }
        let host = [("Host", "copyist.example.com")];
        assert_eq!(
            office.ask(method, &path, &host, "").status,
            401,
            "{method} {path}"
        );
    }
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("Host", "copyist.example.com"), ("Authorization", &bearer)];
    assert_eq!(office.get("/queue", &headers).status, 200);
}

#[tokio::test]
async fn a_login_lasts_in_the_browser_and_can_be_left() {
    let office = Office::open(OfficeOptions::default()).await;
    let asked = office.get("/queue?state=dead", &[]);
    assert!(
        asked.text().contains("value=\"/queue?state=dead\""),
        "{}",
        asked.text()
    );
    let form = asked.form();
    let wrong = office.post("/login", &[], &[("form", &form), ("token", "wrong")]);
    assert_eq!(wrong.status, 401);
    assert_eq!(wrong.header("set-cookie"), "");
    let fields = [
        ("form", form.as_str()),
        ("token", TOKEN),
        ("next", "/queue?state=dead"),
    ];
    let entered = office.post("/login", &[], &fields);
    assert_eq!(
        (entered.status, entered.header("location")),
        (303, "/queue?state=dead")
    );
    let cookie = entered.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(TOKEN), "{cookie}");
    let cookie = cookie.split(';').next().expect("a pair");
    let page = office.get("/queue", &[("Cookie", cookie)]);
    assert_eq!(page.status, 200);
    // What another visitor's page held is no form of this one.
    let (path, session) = (format!("/queue/{}/retry", id(3)), [("Cookie", cookie)]);
    assert_eq!(office.post(&path, &session, &[("form", &form)]).status, 403);
    assert_eq!(
        office
            .post(&path, &session, &[("form", &page.form())])
            .status,
        303
    );
    let left = office.post("/logout", &session, &[("form", &page.form())]);
    assert!(left.header("set-cookie").contains("Max-Age=0"), "{left:?}");
    let elsewhere = [
        ("form", form.as_str()),
        ("token", TOKEN),
        ("next", "//evil.example"),
    ];
    assert_eq!(
        office.post("/login", &[], &elsewhere).header("location"),
        "/"
    );
}

#[tokio::test]
async fn another_token_ends_every_login() {
    let mut office = Office::open(OfficeOptions::default()).await;
    let form = office.get("/", &[]).form();
    let entered = office.post("/login", &[], &[("form", &form), ("token", TOKEN)]);
    let cookie = entered
        .header("set-cookie")
        .split(';')
        .next()
        .expect("a pair")
        .to_owned();
    assert_eq!(office.get("/", &[("Cookie", &cookie)]).status, 200);
    let file = office.copyist.config_file().with_file_name("token");
    std::fs::write(&file, "an0ther-token-than-that").expect("written");
    let from = office.copyist.log_length();
    office.copyist.hup();
    office.copyist.wait_for_log(from, "configuration reloaded");
    assert_eq!(office.get("/", &[("Cookie", &cookie)]).status, 401);
    assert_eq!(office.page("/").status, 401);
    let bearer = [("Authorization", "Bearer an0ther-token-than-that")];
    assert_eq!(office.get("/", &bearer).status, 200);
}

#[tokio::test]
async fn forms_of_other_sites_are_refused() {
    let office = Office::open(OfficeOptions::default()).await;
    let bearer = format!("Bearer {TOKEN}");
    let form = office.page("/coverage").form();
    let own = format!("http://127.0.0.1:{}", office.port);
    let posts: Vec<String> = paths()
        .into_iter()
        .filter(|(method, _)| *method == "POST")
        .map(|(_, path)| path)
        .collect();
    assert!(posts.len() >= 5, "{posts:?}");
    for path in &posts {
        for (name, value) in [
            ("Origin", "http://evil.example"),
            ("Origin", "null"),
            ("Origin", "http://127.0.0.1:1"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
        ] {
            let headers = [("Authorization", bearer.as_str()), (name, value)];
            let answer = office.post(path, &headers, &[("form", &form)]);
            assert_eq!(answer.status, 403, "{path} with {name}: {value}");
        }
        let headers = [("Authorization", bearer.as_str()), ("Origin", &own)];
        for fields in [
            &[][..],
            &[("form", "")],
            &[("form", "AAAA")],
            &[("other", &form)],
        ] {
            let answer = office.post(path, &headers, fields);
            assert_eq!(answer.status, 403, "{path} with {fields:?}");
        }
        let long = "x".repeat(20_000);
        let answer = office.post(path, &headers, &[("form", &form), ("long", &long)]);
        assert_eq!(answer.status, 413, "{path}");
    }
    assert!(
        shown(&office, 3).await.next_attempt.is_none(),
        "nothing was done"
    );
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Origin", &own),
        ("Sec-Fetch-Site", "same-origin"),
    ];
    let path = format!("/queue/{}/retry", id(3));
    assert_eq!(office.post(&path, &headers, &[("form", &form)]).status, 303);
    // A link does nothing.
    assert_eq!(office.page(&path).status, 405);
}

#[tokio::test]
async fn a_strange_name_for_this_machine_is_refused() {
    let office = Office::open(OfficeOptions {
        token: false,
        ..OfficeOptions::default()
    })
    .await;
    let port = office.port;
    for (method, path) in paths() {
        if path == "/healthz" || path == "/readyz" {
            continue;
        }
        let host = format!("evil.example:{port}");
        let answer = office.ask(method, &path, &[("Host", &host)], "");
        assert_eq!(answer.status, 421, "{method} {path}");
    }
    for host in [
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ] {
        assert_eq!(office.get("/", &[("Host", &host)]).status, 200, "{host}");
    }
}

#[tokio::test]
async fn every_response_has_its_security_headers() {
    let office = Office::open(OfficeOptions::default()).await;
    let answers = paths().into_iter().flat_map(|(method, path)| {
        let bearer = format!("Bearer {TOKEN}");
        let with = office.ask(method, &path, &[("Authorization", &bearer)], "");
        [office.ask(method, &path, &[], ""), with]
    });
    for answer in answers.chain([office.page("/no/such/page")]) {
        let policy = answer.header("content-security-policy");
        for part in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "form-action 'self'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{answer:?}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{name} of {}", answer.text());
        }
        let text = answer.text();
        if answer.header("content-type").starts_with("text/html") {
            assert!(
                !text.contains("<script>") && !text.contains("style=\""),
                "{text}"
            );
            assert!(
                !text.contains(" onclick") && !text.contains("javascript:"),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn outsiders_text_is_escaped_and_visible() {
    let office = Office::open(OfficeOptions::default()).await;
    for path in ["/queue".to_owned(), format!("/queue/{}", id(0))] {
        let page = office.page(&path).text();
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
            "{page}"
        );
        assert!(
            page.contains("⟨U+202E⟩gpj.exe ⟨U+001B⟩[31m ⟨U+200B⟩end"),
            "{page}"
        );
        for raw in ["<script>", "\u{202e}", "\u{1b}", "\u{200b}"] {
            assert!(!page.contains(raw), "{raw:?} in {page}");
        }
    }
    let reply = office.page(&format!("/queue/{}", id(3))).text();
    assert!(
        reply.contains("&lt;script&gt;no such user&lt;/script&gt;"),
        "{reply}"
    );
    let evil = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E";
    for path in [
        format!("/queue?text={evil}&state={evil}&in={evil}&order={evil}&after={evil}"),
        format!("/queue/{evil}"),
        format!("/explain?from={evil}&to={evil}&client={evil}&user={evil}"),
        format!("/coverage?text={evil}"),
        format!("/login?next={evil}"),
    ] {
        let page = office.page(&path).text();
        assert!(!page.contains("<script>"), "{path}: {page}");
    }
}

#[tokio::test]
async fn subjects_and_messages_need_authentication() {
    let open = Office::open(OfficeOptions {
        token: false,
        ..OfficeOptions::default()
    })
    .await;
    for (method, path) in paths() {
        if method == "GET" {
            let text = open.get(&path, &[]).text();
            assert!(
                !text.contains("Quarterly") && !text.contains("alert(1)"),
                "{path}: {text}"
            );
        }
    }
    let export = format!("/queue/{}/export", id(3));
    assert_eq!(open.get(&export, &[]).status, 403);
    // Whoever may not see subjects may not ask for them.
    let found = open.get("/queue?in=subject&text=Quarterly", &[]).text();
    assert!(found.contains("No matching items"), "{found}");

    let office = Office::open(OfficeOptions::default()).await;
    let given = office.page(&export);
    assert_eq!(given.status, 200);
    assert_eq!(given.header("content-type"), "message/rfc822");
    let name = format!("attachment; filename=\"{}.eml\"", id(3));
    assert_eq!(given.header("content-disposition"), name);
    let exported = office.copyist.command(&["queue", "export", id(3).as_str()]);
    assert!(exported.status.success(), "{exported:?}");
    assert!(given.body == exported.stdout, "{}", given.text());
    assert!(given.text().ends_with("--b--\r\n"));
    let listed = office
        .page("/queue?in=subject&text=FIGURES,%20part%203")
        .text();
    assert!(
        listed.contains(id(3).as_str()) && !listed.contains(id(4).as_str()),
        "{listed}"
    );
    // Not even then does a page show what a message says.
    for (method, path) in paths() {
        if method == "GET" && path != export {
            assert!(
                !office.page(&path).text().contains("of the usual length"),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn a_dead_letter_that_is_retried_is_due() {
    let office = Office::open(OfficeOptions::default()).await;
    assert_eq!(shown(&office, 3).await.targets[0].state.name(), "dead");
    let path = format!("/queue/{}", id(3));
    let pressed = office.press(&format!("{path}/retry"));
    assert_eq!(pressed.header("location"), format!("{path}?done=retry"));
    let item = shown(&office, 3).await;
    assert_eq!(item.targets[0].state.name(), "waiting");
    assert!(item.next_attempt.expect("a time") <= SystemTime::now());
    let page = office.page(pressed.header("location")).text();
    assert!(page.contains("Retry scheduled"), "{page}");
    let record = format!("operator: retry {} (message ", id(3));
    let log = office.copyist.wait_for_log(0, &record);
    assert!(
        log.contains(" by admin page with token, from 127.0.0.1"),
        "{log}"
    );
    let page = office.page(&path).text();
    assert!(
        page.contains("admin page with token, from 127.0.0.1"),
        "{page}"
    );
}

#[tokio::test]
async fn an_item_is_held_and_released() {
    let office = Office::open(OfficeOptions::default()).await;
    let path = format!("/queue/{}", id(4));
    assert!(office.page(&path).text().contains("Hold</button>"));
    assert_eq!(office.press(&format!("{path}/hold")).status, 303);
    let item = shown(&office, 4).await;
    assert!(item.on_hold && item.next_attempt.is_none());
    assert!(office.page(&path).text().contains("Release</button>"));
    let held = office.page("/queue?state=held").text();
    assert!(
        held.contains(id(4).as_str()) && !held.contains(id(5).as_str()),
        "{held}"
    );
    assert_eq!(office.press(&format!("{path}/release")).status, 303);
    let item = shown(&office, 4).await;
    assert!(!item.on_hold && item.next_attempt.is_some());
    let gone = format!("/queue/{}/hold", id(999));
    assert_eq!(
        office.press(&gone).header("location"),
        format!("/queue/{}", id(999))
    );
    assert_eq!(office.page(&format!("/queue/{}", id(999))).status, 404);
    assert_eq!(office.page("/queue/nothing").status, 404);
}

/// The items on a page, in their order, and the address of the next.
fn listed(page: &str) -> (Vec<String>, Option<String>) {
    let ids = page.split("<a href=\"/queue/").skip(1);
    let ids = ids.map(|rest| rest[..16].to_owned()).collect();
    let next = page.split_once("rel=\"next\" href=\"");
    let next = next.and_then(|(_, rest)| rest.split('"').next());
    (ids, next.map(|next| next.replace("&amp;", "&")))
}

/// The items of a whole list, page by page.
fn walk(office: &Office, query: &str) -> Vec<String> {
    let (mut all, mut next) = (Vec::new(), Some(format!("/queue{query}")));
    while let Some(path) = next {
        let (ids, after) = listed(&office.page(&path).text());
        assert!(ids.len() <= 50 && !ids.is_empty(), "{path}");
        all.extend(ids);
        next = after;
    }
    all
}

#[tokio::test]
async fn every_order_and_filter_shows_each_item_once() {
    const ITEMS: usize = 330;
    let office = Office::open(OfficeOptions {
        items: ITEMS,
        ..OfficeOptions::default()
    })
    .await;
    let names = |which: &dyn Fn(usize) -> bool| -> Vec<String> {
        (0..ITEMS)
            .filter(|n| which(*n))
            .map(|n| id(n).to_string())
            .collect()
    };
    let every = names(&|_| true);
    let dead = names(&is_dead);
    let alive = names(&|n| !is_dead(n));
    assert_eq!(walk(&office, "?order=oldest"), every);
    let newest: Vec<String> = every.iter().rev().cloned().collect();
    assert_eq!(walk(&office, "?order=newest"), newest);
    assert_eq!(walk(&office, ""), [dead.clone(), alive.clone()].concat());
    for order in ["next", "attempts"] {
        let found = walk(&office, &format!("?order={order}"));
        assert_eq!(found.len(), ITEMS, "{order}");
        assert_eq!(
            found.into_iter().collect::<BTreeSet<_>>().len(),
            ITEMS,
            "{order}"
        );
    }
    let attempts = walk(&office, "?order=attempts");
    let tries = |name: &String| {
        let n = every.iter().position(|known| known == name).expect("known");
        n % 7 + usize::from(is_dead(n))
    };
    assert!(attempts.is_sorted_by_key(|name| std::cmp::Reverse(tries(name))));
    let next = walk(&office, "?order=next");
    assert_eq!(next[alive.len()..], dead, "what nobody tries comes last");
    assert_eq!(walk(&office, "?state=dead"), dead);
    assert_eq!(walk(&office, "?state=waiting"), alive);
    let of = |word: &str| names(&|n| direction(n).name() == word && is_dead(n));
    for word in ["inbound", "outbound", "internal"] {
        let query = format!("?state=dead&direction={word}&order=oldest");
        assert_eq!(walk(&office, &query), of(word));
    }
    let found = walk(&office, "?text=JOURNAL-32&order=oldest");
    assert_eq!(found, names(&|n| n % 500 == 32 || n % 500 / 10 == 32));
    let whole = walk(&office, &format!("?text={}", id(77)));
    assert_eq!(whole, [id(77).to_string()]);
    let of_message = walk(&office, "?in=message&text=4qx0000007&order=oldest");
    assert_eq!(of_message, names(&|n| n / 10 == 7));
    for nothing in ["%25", "_", "%5C"] {
        let page = office.page(&format!("/queue?text={nothing}")).text();
        assert!(page.contains("No matching items"), "{nothing}: {page}");
    }
}

#[tokio::test]
async fn explain_and_coverage_pages_match_the_commands() {
    let office = Office::open(OfficeOptions::default()).await;
    let page = office.page("/explain?from=x@elsewhere.example&to=dan@example.com%20pat@example.com&client=192.0.2.1").text();
    for part in [
        "is external",
        "dan-journal@archive.example",
        "archive@archive.example",
        "inbound.journal_attribute",
        "uid=dan,ou=people",
        "in-ndr@example.com",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    let wrong = office
        .page("/explain?from=a@b,c@d&to=dan@example.com")
        .text();
    assert!(wrong.contains("a@b,c@d: "), "{wrong}");
    let named = office.page("/explain?from=&to=dan%20%22a%20b%22@x.example&client=192.0.2.1");
    let named = named.text();
    assert!(named.contains("dan-journal@archive.example"), "{named}");
    assert!(named.contains("a b&quot;@x.example"), "{named}");
    assert!(!office.page("/coverage").text().contains("dan-journal"));
    assert_eq!(office.press("/coverage").status, 303);
    lab::wait("the directory is read", lab::PATIENCE, || {
        office.page("/coverage").text().contains("problems first")
    });
    let page = office.page("/coverage").text();
    for part in [
        "dan-journal@archive.example",
        "&lt;b&gt;nobody&lt;/b&gt;",
        "not by attribute",
        "All inbound mail is journaled to",
        "unguarded personal mailboxes",
        "addresses that mail lookups do not find",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    let (eve, dan) = (page.find("eve@example.com"), page.find("dan@example.com"));
    assert!(eve < dan, "problems come first: {page}");
    let one = office.page("/coverage?text=UID=PAT").text();
    assert!(
        one.contains("pat@example.com") && !one.contains("eve@example.com"),
        "{one}"
    );
}

#[tokio::test]
async fn settings_say_where_each_comes_from_and_no_secret() {
    let mut office = Office::open(OfficeOptions::default()).await;
    let row = |key: &str| {
        let page = office.page("/settings").text();
        let (_, rest) = page
            .split_once(&format!("<code>{key}</code>"))
            .unwrap_or_else(|| panic!("no {key} in {page}"));
        rest.split("</tr>").next().expect("a row").to_owned()
    };
    assert!(
        row("password_file").contains("&quot;password&quot;"),
        "{}",
        row("password_file")
    );
    assert!(row("state_dir").contains("line 1"), "{}", row("state_dir"));
    assert!(
        row("negative_ttl").contains("default"),
        "{}",
        row("negative_ttl")
    );
    assert!(
        row("helo_name").contains("copyist.example.com"),
        "what follows from others"
    );
    for (method, path) in paths() {
        if method == "GET" {
            let text = office.page(&path).text();
            assert!(!text.contains(PASSWORD) && !text.contains(TOKEN), "{path}");
        }
    }
    // What a reload brings counts here, too.
    let text = std::fs::read_to_string(office.copyist.config_file()).expect("read");
    let (_, text) = text.split_once('\n').expect("lines");
    office
        .copyist
        .write_config(&text.replace("[relay]", "[relay]\nconnections = 3"));
    let from = office.copyist.log_length();
    office.copyist.hup();
    office.copyist.wait_for_log(from, "configuration reloaded");
    let page = office.page("/settings").text();
    let (_, row) = page.split_once("<code>connections</code>").expect("there");
    let (_, row) = row
        .split_once("<code>connections</code>")
        .expect("of the relay, behind that of the limits");
    assert!(
        row.split("</tr>")
            .next()
            .expect("a row")
            .contains("<bdi>3</bdi>"),
        "{row}"
    );
}

#[tokio::test]
async fn the_overview_lists_problems_and_fixes() {
    let office = Office::open(OfficeOptions {
        items: 14,
        ..OfficeOptions::default()
    })
    .await;
    lab::wait("the relay was tried", lab::PATIENCE, || {
        office.page("/").text().contains("Relay unreachable")
    });
    let page = office.page("/").text();
    for part in [
        "2 dead letters",
        "Directory reachable.",
        "Spool writable",
        "inbound mail",
        "<svg role=\"img\"",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    let (_, queued) = page.split_once("Queued items").expect("there");
    assert!(
        page[..page.len() - queued.len()].contains("<span class=\"value\">14</span>"),
        "{page}"
    );
    assert!(!page.contains(HOSTILE));
}
