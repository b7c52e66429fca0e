//! Relays as they are: each is handed a message by Copyist and, beside it, by Postfix's own
//! smtp(8).

use crate::{bench, faulty, lab};
mod beside_postfix;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bench::{AT_ONCE, Bench, ONCE, id, item, relay};
use copyist::deliver::Retry;
use copyist::deliver::{Login, RelaySettings};
use copyist::directory::{Directory, Lookup};
use copyist::journal::Item;
use copyist::mail::{Address, BodyKind};
use copyist::secret::Secret;
use faulty::{Act, FaultyRelay};
use lab::{
    Client, Copyist, DirectoryServer, NextHop, OUTSIDE, Ports, Postfix, PostfixOptions, Slapd,
    SmtpSink, Unpacked, free_port, need,
};

const USUAL: &[&str] = &["PIPELINING", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES"];

/// A relay, and what becomes of a message for it.
struct Case {
    name: &'static str,
    offers: &'static [&'static str],
    script: fn(usize, &str) -> Option<Act>,
    outcome: &'static str,
    /// Postfix's outcome, if it differs.
    postfix: Option<&'static str>,
}

const fn case(
    name: &'static str,
    outcome: &'static str,
    script: fn(usize, &str) -> Option<Act>,
) -> Case {
    Case {
        name,
        offers: USUAL,
        script,
        outcome,
        postfix: None,
    }
}

/// Returns a reply for the steps that begin with `step`.
fn at(step: &str, said: &str, words: &'static str) -> Option<Act> {
    said.starts_with(step).then_some(Act::Say(words))
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    case("in order", "sent", |_, _| None),
    Case { offers: &["pipelining", "8bitmime", "dsn"], ..case("keywords in lower case", "sent", |_, _| None) },
    Case { offers: &["AUTH=LOGIN PLAIN", "SIZE"], ..case("AUTH= and SIZE alone", "sent", |_, _| None) },
    case("a line of white space in EHLO", "sent", |_, said| at("EHLO", said, "250-x\r\n250-  \r\n250 DSN\r\n")),
    case("EHLO answered with nothing but the code", "sent", |_, said| at("EHLO", said, "250\r\n")),
    case("a greeting of many lines", "sent", |_, said| at("CONNECT", said, "220-one\r\n220-two\r\n220 three\r\n")),
    case("lines that end with LF alone", "sent", |_, said| match said {
        "CONNECT" => Some(Act::Say("220 x\n")),
        "." => Some(Act::Say("250-2.0.0 kept\n250 2.0.0 for good\n")),
        _ => None,
    }),
    case("a greeting without words", "sent", |_, said| at("CONNECT", said, "220\r\n")),
    case("only HELO is known", "sent", |_, said| at("EHLO", said, "500 5.5.1 what\r\n")),
    case("EHLO is not implemented", "sent", |_, said| at("EHLO", said, "502 no\r\n")),
    case("EHLO is refused for now", "sent", |_, said| at("EHLO", said, "451 not now\r\n")),
    case("EHLO and HELO are refused", "deferred", |_, said| match said {
        _ if said.starts_with("EHLO") || said.starts_with("HELO") => Some(Act::Say("451 4.0.0 not now\r\n")),
        _ => None,
    }),
    case("421 to EHLO", "deferred", |_, said| at("EHLO", said, "421 4.3.2 closing\r\n")),
    case("a greeting of 421", "deferred", |_, said| at("CONNECT", said, "421 4.3.2 too busy\r\n")),
    case("a greeting of 554", "deferred", |_, said| at("CONNECT", said, "554 5.7.1 no service here\r\n")),
    case("450 to MAIL", "deferred", |_, said| at("MAIL", said, "450 4.7.1 later\r\n")),
    case("550 to MAIL", "bounced", |_, said| at("MAIL", said, "550 5.7.1 never\r\n")),
    Case { postfix: Some("bounced"), ..case("530 to MAIL", "deferred", |_, said| at("MAIL", said, "530 5.7.0 log in\r\n")) },
    case("450 to RCPT", "deferred", |_, said| at("RCPT", said, "450 4.7.1 later\r\n")),
    case("550 to RCPT", "bounced", |_, said| at("RCPT", said, "550 5.1.1 nobody\r\n")),
    Case { postfix: Some("bounced"), ..case("530 to RCPT", "deferred", |_, said| at("RCPT", said, "530 5.7.0 log in\r\n")) },
    Case { postfix: Some("bounced"), ..case("535 to RCPT", "deferred", |_, said| at("RCPT", said, "535 5.7.8 who\r\n")) },
    case("451 to DATA", "deferred", |_, said| at("DATA", said, "451 4.3.0 later\r\n")),
    case("554 to DATA", "bounced", |_, said| at("DATA", said, "554 5.3.0 never\r\n")),
    case("421 to DATA", "deferred", |_, said| at("DATA", said, "421 4.3.0 closing\r\n")),
    case("451 to the message", "deferred", |_, said| at(".", said, "451 4.3.0 later\r\n")),
    case("554 to the message", "bounced", |_, said| at(".", said, "554 5.3.0 spam\r\n")),
    case("554 of many lines to the message", "bounced", |_, said| at(".", said, "554-5.3.0 a\r\n554 5.3.0 b\r\n")),
    case("552 before the end of the message", "bounced", |_, said| at("DATA", said, "354 go\r\n552 5.3.4 big\r\n")),
    Case {
        postfix: Some("sent"),
        ..case("250 before the end of the message", "deferred", |_, said| match said {
            "DATA" => Some(Act::Say("354 go\r\n250 2.0.0 kept\r\n")),
            "." => Some(Act::Say("554 5.3.0 not kept\r\n")),
            _ => None,
        })
    },
    case("hangs up after the message", "deferred", |_, said| (said == ".").then_some(Act::Close)),
];

/// Returns the outcome of a message for this relay in Copyist.
async fn by_copyist(settings: RelaySettings) -> (String, String) {
    let bench = Bench::start(settings, ONCE);
    // Without an address for NDRs a refusal stays to be seen.
    let item = Item {
        ndr: None,
        ..item(1, &["a@c.test"])
    };
    bench.enqueue(item, "x\r\n").await;
    let is_tried = |reply: &Option<String>| reply.is_some();
    let listed = bench
        .until("it was tried", |listed| {
            listed
                .iter()
                .all(|item| is_tried(&item.targets[0].last_reply))
        })
        .await;
    let Some(item) = listed.iter().find(|item| item.id == id(1)) else {
        return ("sent".into(), String::new());
    };
    let target = &item.targets[0];
    let outcome = match target.state.name() {
        "waiting" => "deferred",
        "dead" => "bounced",
        other => other,
    };
    (
        outcome.into(),
        target.last_reply.clone().unwrap_or_default(),
    )
}

/// A Postfix that hands mail for `c0.test`, `c1.test` and so on to these relays.
fn postfix(relays: &[u16], extra: &[&str]) -> Postfix {
    let routes = relays.iter().enumerate();
    let routes: Vec<String> = routes
        .map(|(n, port)| format!("{{c{n}.test = smtp:[127.0.0.1]:{port}}}"))
        .collect();
    let mut lines = vec![format!("transport_maps = inline:{{{}}}", routes.join(", "))];
    lines.extend(extra.iter().map(|&line| line.to_owned()));
    Postfix::start(&PostfixOptions {
        milter: None,
        deliver_to: NextHop::nowhere().address(),
        extra: lines,
    })
}

/// Returns the outcome of Postfix's message for relay `n`, from its log.
fn by_postfix(postfix: &Postfix, n: usize) -> String {
    let line = postfix.wait_for_log(&format!("to=<a@c{n}.test>"));
    let (_, status) = line.split_once("status=").expect("a line of delivery");
    status.split(' ').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_relay_is_understood_as_postfix_understands_it() {
    let mut relays = Vec::new();
    for case in CASES {
        let pair = (
            FaultyRelay::start(case.offers, case.script).await,
            FaultyRelay::start(case.offers, case.script).await,
        );
        relays.push(pair);
    }
    let ports: Vec<u16> = relays
        .iter()
        .map(|(_, for_postfix)| for_postfix.address().port())
        .collect();
    let postfix = postfix(&ports, &["minimal_backoff_time = 1h"]);
    let mut client = Client::connect_from(OUTSIDE, postfix.smtp_addr());
    for n in 0..CASES.len() {
        let to = format!("a@c{n}.test");
        assert_eq!(client.send_message("", &[&to], "x\r\n").code, 250);
    }
    let mut wrong = Vec::new();
    for (n, case) in CASES.iter().enumerate() {
        let (ours, reply) = by_copyist(relay(relays[n].0.address())).await;
        let theirs = by_postfix(&postfix, n);
        println!("{}: Copyist {ours} ({reply}), Postfix {theirs}", case.name);
        if ours != case.outcome || theirs != case.postfix.unwrap_or(case.outcome) {
            wrong.push(case.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}\n{}", postfix.log());
}

#[tokio::test]
async fn offers_count_in_any_case() {
    let offers = &[
        "pipelining",
        "8BitMime",
        "dsn",
        "size 100000",
        "auth=login",
        "Auth plain",
    ];
    let faulty =
        FaultyRelay::start(offers, |_, said| at("AUTH", said, "235 2.7.0 welcome\r\n")).await;
    let settings = RelaySettings {
        login: Some(Login {
            username: "u".into(),
            password: Secret::new("p"),
        }),
        ..relay(faulty.address())
    };
    let bench = Bench::start(settings, ONCE);
    let eight_bit = Item {
        body: BodyKind::EightBit,
        ..item(1, &["a@c.test"])
    };
    bench.enqueue(eight_bit, "\u{e4}\r\n").await;
    bench.until_queue_is_empty().await;
    let steps = faulty.seen().of(0).join("\n");
    for said in ["AUTH PLAIN AHUAcA==", "SIZE=", "BODY=8BITMIME", "RET=HDRS"] {
        assert!(steps.contains(said), "no {said}: {steps}");
    }
}

#[tokio::test]
async fn each_step_has_a_time_of_its_own() {
    const STEP: Duration = Duration::from_secs(1);
    let faulty = FaultyRelay::start(&[], |_, _| Some(Act::Slow(STEP))).await;
    let settings = RelaySettings {
        // Connecting alone takes two steps, and the whole seven.
        timeout: STEP * 3 / 2,
        ..relay(faulty.address())
    };
    let bench = Bench::start(settings, ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    bench.until_queue_is_empty().await;
    assert_eq!(faulty.seen().messages.len(), 1);
}

/// Whether this is the inside of a namespace in which `two.test` has two addresses, 127.0.0.11 and
/// 127.0.0.12, and `dir.test` 127.0.0.11 and 127.0.0.1. Else it runs the test there, which is this
/// one again.
fn in_a_place_with_two_addresses(test: &str) -> bool {
    const INSIDE: &str = "COPYIST_TWO_ADDRESSES";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let hosts = directory.path().join("hosts");
    lab::write(
        &hosts,
        "127.0.0.1 localhost\n127.0.0.11 two.test dir.test\n127.0.0.12 two.test\n127.0.0.1 dir.test\n",
    );
    let itself = std::env::current_exe().expect("this program");
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$1\" --exact \"relays::$2\" --nocapture";
    lab::run(
        Command::new(need("unshare", "util-linux"))
            .args(["--mount", "sh", "-c", script])
            .args([hosts.as_path(), itself.as_path()])
            .arg(test)
            .env(INSIDE, "1"),
    );
    false
}

const FIRST: [u8; 4] = [127, 0, 0, 11];
const SECOND: [u8; 4] = [127, 0, 0, 12];

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_reached_at_any_of_its_addresses() {
    if !in_a_place_with_two_addresses("a_relay_is_reached_at_any_of_its_addresses") {
        return;
    }
    // The first address: refuses connections, sends everybody away, hangs up, says nothing.
    let mut relays = Vec::new();
    for first in [
        None,
        Some(Act::SayAndClose("554 5.3.2 not here\r\n")),
        Some(Act::SayAndClose("421 4.3.2 not now\r\n")),
        Some(Act::Close),
        Some(Act::Hang),
    ] {
        let second = SocketAddr::from((SECOND, free_port()));
        let sound = FaultyRelay::start_at(second, USUAL, |_, _| None).await;
        let first = match first {
            None => None,
            Some(act) => {
                let script = move |_, _: &str| Some(act.clone());
                let at = SocketAddr::from((FIRST, second.port()));
                Some(FaultyRelay::start_at(at, USUAL, script).await)
            }
        };
        relays.push((first, sound));
    }
    for (_first, sound) in &relays {
        let settings = RelaySettings {
            host: "two.test".into(),
            timeout: Duration::from_secs(2),
            ..relay(sound.address())
        };
        let bench = Bench::start(settings, AT_ONCE);
        for n in 1..=3 {
            bench.enqueue(item(n, &["a@c.test"]), "x\r\n").await;
        }
        bench.until_queue_is_empty().await;
        assert_eq!(sound.seen().messages.len(), 3);
    }
    let ports = relays.iter().map(|(_, sound)| sound.address().port());
    let postfix = beside_postfix::beside_at_two_addresses(&ports.collect::<Vec<_>>());
    for n in 0..relays.len() {
        assert_eq!(by_postfix(&postfix, n), "sent");
    }
}

#[tokio::test]
async fn a_directory_is_reached_at_any_of_its_addresses() {
    if !in_a_place_with_two_addresses("a_directory_is_reached_at_any_of_its_addresses") {
        return;
    }
    let slapd = Slapd::start(5);
    let url = slapd.url();
    let (_, port) = url.rsplit_once(':').expect("a port");
    let first = (IpAddr::from(FIRST), port.parse::<u16>().expect("a port"));
    // Nobody is there, or somebody who says nothing.
    for is_silent in [false, true] {
        let _silent = is_silent.then(|| TcpListener::bind(first).expect("bound"));
        let access = lab::Access {
            url: format!("ldap://dir.test:{port}"),
            ..slapd.access()
        };
        let directory = Directory::open(access.directory()).expect("settings that can be used");
        let asked = Address::parse("u00003@example.test").expect("an address");
        let found = async {
            loop {
                let mut answers = directory.find(std::slice::from_ref(&asked)).await;
                if let Some(Lookup::Found(_)) = answers.remove(&asked) {
                    return;
                }
            }
        };
        bench::patiently("somebody is found", found).await;
        directory.close().await;
    }
}

#[test]
fn a_next_hop_is_reached_at_any_of_its_addresses() {
    if !in_a_place_with_two_addresses("a_next_hop_is_reached_at_any_of_its_addresses") {
        return;
    }
    let next = NextHop::start_at(SocketAddr::from((SECOND, 0)));
    let port = next.address().port();
    for is_silent in [false, true] {
        let at = (IpAddr::from(FIRST), port);
        let _silent = is_silent.then(|| TcpListener::bind(at).expect("bound"));
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut copyist = Copyist::install(&format!(
            r#"
[organization]
domains = ["corp.example"]
[directory]
urls = ["ldif:people.ldif"]
[inbound]
journal = ["journal@archive.test"]
journal_ndr = "ndr@corp.example"
[relay]
host = "127.0.0.1:{port}"
tls = "none"
[admin]
listen = "off"
[hook.milter]
listen = []
[[hook.smtp]]
listen = "{listen}"
next_hop = "two.test:{port}"
next_hop_timeout = "1s"
"#
        ));
        let people = copyist.config_file().with_file_name("people.ldif");
        lab::write(
            &people,
            "dn: cn=eve,dc=corp\ncn: eve\nmail: eve@corp.example\n",
        );
        copyist.restart();
        let mut client = Client::connect_from(OUTSIDE, listen);
        let sent = client.send_message("a@elsewhere.test", &["eve@corp.example"], "x\r\n");
        assert_eq!(sent.code, 250, "{sent:?}");
    }
}

/// A relay that has enough of a session after two messages, and says so at this step.
async fn weary(step: &'static str) -> FaultyRelay {
    let taken: Arc<Mutex<HashMap<usize, u32>>> = Arc::default();
    FaultyRelay::start(USUAL, move |session, said| {
        let mut taken = taken.lock().expect("nobody panics with it");
        let taken = taken.entry(session).or_default();
        if *taken >= 2 && said.starts_with(step) {
            return Some(Act::Say("451 4.7.0 enough for now\r\n"));
        }
        *taken += u32::from(said == ".");
        None
    })
    .await
}

#[tokio::test]
async fn a_relay_that_has_enough_of_a_session_gets_the_rest_in_others() {
    // Where nothing was said about the message, another session is tried at once.
    for (step, retry) in [
        ("MAIL", ONCE),
        ("RCPT", AT_ONCE),
        ("DATA", AT_ONCE),
        (".", AT_ONCE),
    ] {
        let faulty = weary(step).await;
        let bench = Bench::start(relay(faulty.address()), retry);
        for n in 0..9 {
            bench.enqueue(item(n, &["a@c.test"]), "x\r\n").await;
        }
        bench.until_queue_is_empty().await;
        let seen = faulty.seen();
        let sessions = seen.steps.iter().map(|(session, _)| session).max();
        for session in 0..=*sessions.expect("some") {
            let steps = seen.of(session);
            let mails = steps.iter().filter(|said| said.starts_with("MAIL"));
            assert!(mails.count() <= 3, "{step}: {steps:?}");
        }
    }
}

#[tokio::test]
async fn a_session_has_an_end() {
    let faulty = FaultyRelay::start(USUAL, |_, _| None).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    for n in 0..201 {
        bench.enqueue(item(n, &["a@c.test"]), "x\r\n").await;
    }
    bench.until_queue_is_empty().await;
    let seen = faulty
        .until("the first two end", |seen| {
            (0..2).all(|session| seen.of(session).contains(&"QUIT"))
        })
        .await;
    for (session, messages) in [(0, 100), (1, 100), (2, 1)] {
        let steps = seen.of(session);
        let ends = steps.iter().filter(|said| **said == ".").count();
        assert_eq!(ends, messages, "session {session}");
    }
}

const PATIENTLY: Retry = Retry {
    first: Duration::from_millis(500),
    max: Duration::from_secs(1),
};

/// Waits until the queue is empty, for as long as real servers under load may take.
async fn until_all_is_delivered(bench: &Bench) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !bench.listed().await.is_empty() {
        assert!(Instant::now() < deadline, "{:#?}", bench.listed().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A Postfix as a relay for us.
fn postfix_relay(sink: &SmtpSink, extra: &[&str], services: &str) -> Postfix {
    let options = PostfixOptions {
        milter: None,
        deliver_to: sink.address(),
        extra: extra.iter().map(|&line| line.to_owned()).collect(),
    };
    Postfix::start_with(&options, services)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_rejects_everything_causes_no_ndrs() {
    let sink = SmtpSink::start();
    let denies = [
        "mynetworks = 127.0.0.9/32",
        "smtpd_error_sleep_time = 0",
        "smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination",
    ];
    let postfix = postfix_relay(&sink, &denies, "");
    let bench = Bench::start(relay(postfix.smtp_addr()), PATIENTLY);
    for n in 0..60 {
        let to = ["a@c.test", "b@c.test"][n % 2];
        bench.enqueue(item(n, &[to]), "x\r\n").await;
    }
    until_refused(&bench, 40).await;
    let refused: Vec<_> = (bench.listed().await.into_iter())
        .filter(|item| item.targets[0].state.name() == "dead")
        .collect();
    assert!(refused.len() <= 20, "{}", refused.len());
    // Once it relays for us, everything goes that waited.
    bench.reload(relay(sink.address()));
    let deadline = Instant::now() + Duration::from_secs(120);
    let is_waiting = |item: &copyist::spool::QueueEntry| item.targets[0].state.name() == "waiting";
    while bench.listed().await.iter().any(is_waiting) {
        assert!(Instant::now() < deadline, "{:#?}", bench.listed().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until so many items wait for a relay that refuses everything.
async fn until_refused(bench: &Bench, count: usize) {
    let waits = |item: &&copyist::spool::QueueEntry| {
        let reply = item.targets[0].last_reply.as_deref().unwrap_or_default();
        reply.contains("rejects everything: 554 5.7.1")
    };
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let listed = bench.listed().await;
        if listed.iter().filter(waits).count() >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{listed:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_rejects_archives_is_reported_once_a_day() {
    let sink = SmtpSink::start_keeping();
    // It takes mail for its own domain, where the NDR address is, from everybody.
    let denies = [
        "mynetworks = 127.0.0.9/32",
        "relay_domains = c.test",
        "smtpd_error_sleep_time = 0",
        "smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination",
    ];
    let postfix = postfix_relay(&sink, &denies, "");
    let mut bench = Bench::start(relay(postfix.smtp_addr()), PATIENTLY);
    let enqueue = async |bench: &Bench, from: usize| {
        for n in from..from + 40 {
            let to = ["a@archive.test", "b@archive.test"][n % 2];
            bench.enqueue(item(n, &[to]), "x\r\n").await;
        }
    };
    enqueue(&bench, 0).await;
    until_refused(&bench, 20).await;
    let count = |what: &str| {
        let messages = sink.messages();
        messages.iter().filter(|text| text.contains(what)).count()
    };
    lab::wait("a digest tells of it", Duration::from_secs(120), || {
        count("Subject: Waiting for the relay: ") == 1
    });
    let ndrs = count("report-type=delivery-status");
    // It is known after a restart: no more NDRs, and no other digest.
    let (spool, dir) = bench.stopped().await;
    bench = Bench::start_on(dir, spool, relay(postfix.smtp_addr()), PATIENTLY);
    enqueue(&bench, 100).await;
    until_refused(&bench, 60).await;
    assert_eq!(count("report-type=delivery-status"), ndrs);
    // Once it relays for us, that is forgotten.
    let open = postfix_relay(&sink, &[], "");
    bench.reload(relay(open.smtp_addr()));
    let deadline = Instant::now() + Duration::from_secs(120);
    while bench.spool.is_relay_refusing().await.expect("readable") {
        assert!(Instant::now() < deadline, "{:#?}", bench.listed().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_relays_get_everything_from_us_and_from_postfix() {
    const EACH: usize = 6;
    let sinks: Vec<SmtpSink> = (0..4).map(|_| SmtpSink::start()).collect();
    let ports = |sink: &SmtpSink| Ports {
        front: free_port(),
        inbound: sink.address().port(),
        outbound: sink.address().port(),
        back: free_port(),
        out: sink.address().port(),
    };
    let exim = Unpacked::exim(ports(&sinks[0]));
    let opensmtpd = Unpacked::opensmtpd(ports(&sinks[1]));
    // Known clients alone may hand it mail, and at first none is known.
    let screen = free_port();
    let screened = postfix_relay(
        &sinks[2],
        &[
            "postscreen_access_list =",
            "postscreen_greet_wait = 2s",
            "postscreen_bare_newline_enable = yes",
        ],
        &format!(
            "127.0.0.1:{screen} inet n - n - 1 postscreen\nsmtpd pass - - n - - smtpd\n\
             dnsblog unix - - n - 0 dnsblog\ntlsproxy unix - - n - 0 tlsproxy\n"
        ),
    );
    let limited = postfix_relay(
        &sinks[3],
        &[
            "smtpd_client_message_rate_limit = 4",
            "smtpd_client_event_limit_exceptions =",
            "anvil_rate_time_unit = 3s",
        ],
        "",
    );
    let relays = [
        exim.smtp_addr(),
        opensmtpd.smtp_addr(),
        SocketAddr::from(([127, 0, 0, 1], screen)),
        limited.smtp_addr(),
    ];
    let ports: Vec<u16> = relays.iter().map(SocketAddr::port).collect();
    let postfix = postfix(&ports, &[]);
    let mut client = Client::connect_from(OUTSIDE, postfix.smtp_addr());
    for n in (0..relays.len()).flat_map(|n| std::iter::repeat_n(n, EACH)) {
        let sent = client.send_message("s@c.test", &[&format!("a@c{n}.test")], "x\r\n");
        assert_eq!(sent.code, 250);
    }
    for (address, sink) in relays.iter().zip(&sinks) {
        let settings = RelaySettings {
            connections: 5,
            ..relay(*address)
        };
        let bench = Bench::start(settings, PATIENTLY);
        for n in 0..EACH {
            bench.enqueue(item(n, &["a@c.test"]), "x\r\n").await;
        }
        until_all_is_delivered(&bench).await;
        sink.wait_for(2 * EACH, Duration::from_secs(240));
    }
    assert!(screened.log().contains("PASS NEW"), "{}", screened.log());
    assert!(
        limited
            .log()
            .contains("Message delivery request rate limit exceeded")
    );
}
