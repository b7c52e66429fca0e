//! Relays as they are: each is handed a message by Copyist and, beside it, by Postfix's own smtp(8).

#[path = "deliver/bench.rs"]
mod bench;
#[path = "deliver/faulty.rs"]
mod faulty;
mod lab;

use bench::{Bench, ONCE, id, item, relay};
use copyist::deliver::{Login, RelaySettings};
use copyist::journal::Item;
use copyist::mail::BodyKind;
use copyist::secret::Secret;
use faulty::{Act, Faulty};
use lab::{Client, NextHop, OUTSIDE, Postfix, PostfixOptions};

const USUAL: &[&str] = &["PIPELINING", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES"];

/// A relay, and what becomes of a message for it.
struct Case {
    name: &'static str,
    offers: &'static [&'static str],
    script: fn(usize, &str) -> Option<Act>,
    outcome: &'static str,
    /// What Postfix does, where it does otherwise.
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

/// What is said at the steps that begin so.
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

/// What Copyist does with a message for this relay.
async fn by_copyist(settings: RelaySettings) -> (String, String) {
    let bench = Bench::start(settings, ONCE);
    // Without an address for NDRs a refusal stays to be seen.
    let item = Item {
        ndr: None,
        ..item(1, &["a@c.test"])
    };
    bench.owe(item, "x\r\n").await;
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
    let outcome = match target.state.as_str() {
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
    let mut lines = vec![
        format!("transport_maps = inline:{{{}}}", routes.join(", ")),
        "minimal_backoff_time = 1h".to_owned(),
    ];
    lines.extend(extra.iter().map(|&line| line.to_owned()));
    Postfix::start(&PostfixOptions {
        milter: None,
        deliver_to: NextHop::nowhere().address(),
        extra: lines,
    })
}

/// What Postfix did with its message for relay `n`, as its log has it.
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
            Faulty::start(case.offers, case.script).await,
            Faulty::start(case.offers, case.script).await,
        );
        relays.push(pair);
    }
    let ports: Vec<u16> = relays
        .iter()
        .map(|(_, for_postfix)| for_postfix.address().port())
        .collect();
    let postfix = postfix(&ports, &[]);
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
    let faulty = Faulty::start(offers, |_, said| at("AUTH", said, "235 2.7.0 welcome\r\n")).await;
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
    bench.owe(eight_bit, "\u{e4}\r\n").await;
    bench.until_nothing_is_owed().await;
    let steps = faulty.seen().of(0).join("\n");
    for said in ["AUTH PLAIN AHUAcA==", "SIZE=", "BODY=8BITMIME", "RET=HDRS"] {
        assert!(steps.contains(said), "no {said}: {steps}");
    }
}
