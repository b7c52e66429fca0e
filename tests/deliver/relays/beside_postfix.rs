//! Relays that make a client wait, send it away or understand less than it: Copyist's way with
//! them, and that of Postfix's smtp(8) beside it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use copyist::deliver::RelaySettings;
use copyist::mail::BodyKind;
use futures_util::future::join_all;

use super::bench::{Bench, ONCE, item, relay};
use super::faulty::{Act, FaultyRelay};
use super::lab::{Client, OUTSIDE, Postfix, PostfixOptions, SmtpSink, wait};
use super::{PATIENTLY, by_copyist, by_postfix, postfix, until_all_is_delivered};

/// Returns Postfix's smtp(8) settings for the timeouts of all steps.
fn patience(seconds: u32) -> Vec<String> {
    [
        "connect",
        "helo",
        "mail",
        "rcpt",
        "data_init",
        "data_done",
        "rset",
    ]
    .map(|step| format!("smtp_{step}_timeout = {seconds}s"))
    .to_vec()
}

/// Deferred mail is retried every second, without back-off.
const AGAIN_SOON: &str = "maximal_backoff_time = 1s";

/// Hands Postfix a message for each of its relays.
fn hand_over(postfix: &Postfix, relays: usize) {
    let mut client = Client::connect_from(OUTSIDE, postfix.smtp_addr());
    for n in 0..relays {
        let to = format!("a@c{n}.test");
        assert_eq!(client.send_message("", &[&to], "x\r\n").code, 250);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_is_waited_for_as_postfix_waits() {
    // All steps take two seconds, and the whole longer than any step may; or one step never ends.
    let steps = ["", "CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."];
    let start = async |step: &'static str| {
        let script = move |_, said: &str| match step {
            "" => Some(Act::Slow(Duration::from_secs(2))),
            step => said.starts_with(step).then_some(Act::Hang),
        };
        FaultyRelay::start(&["8BITMIME", "DSN", "ENHANCEDSTATUSCODES"], script).await
    };
    let (ours, theirs) = tokio::join!(
        join_all(steps.iter().map(|&step| start(step))),
        join_all(steps.iter().map(|&step| start(step)))
    );
    let ports: Vec<u16> = theirs
        .iter()
        .map(|faulty| faulty.address().port())
        .collect();
    let lines = patience(10);
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.push("minimal_backoff_time = 1h");
    let postfix = postfix(&ports, &lines);
    hand_over(&postfix, steps.len());
    let tried = ours.iter().zip(steps).map(|(faulty, step)| {
        by_copyist(RelaySettings {
            timeout: Duration::from_secs(if step.is_empty() { 10 } else { 2 }),
            ..relay(faulty.address())
        })
    });
    let tried = join_all(tried).await;
    for (n, (step, (ours, reply))) in steps.iter().zip(tried).enumerate() {
        let theirs = by_postfix(&postfix, n);
        println!("{step:?}: Copyist {ours} ({reply}), Postfix {theirs}");
        let outcome = if step.is_empty() { "sent" } else { "deferred" };
        assert_eq!((&*ours, &*theirs), (outcome, outcome), "{step:?}");
    }
}

/// A Postfix that takes few connections of a client, and what the test calls it.
fn limited(sink: &SmtpSink, limit: &str) -> Postfix {
    Postfix::start(&PostfixOptions {
        milter: None,
        deliver_to: sink.address(),
        extra: vec![
            limit.to_owned(),
            "smtpd_client_event_limit_exceptions =".into(),
            "anvil_rate_time_unit = 5s".into(),
        ],
    })
}

/// How many connections a relay took, and how many it refused.
fn connections(relay: &Postfix) -> (usize, usize) {
    let log = relay.log();
    let refused = [
        "Connection concurrency limit exceeded",
        "Connection rate limit exceeded",
    ];
    let refused = refused.iter().map(|why| log.matches(why).count());
    (log.matches(": connect from").count(), refused.sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_of_few_connections_is_not_hammered() {
    const ITEMS: usize = 200;
    for limit in [
        "smtpd_client_connection_count_limit = 2",
        "smtpd_client_connection_rate_limit = 3",
    ] {
        let sinks = [SmtpSink::start(), SmtpSink::start()];
        let [for_us, for_postfix] = [&sinks[0], &sinks[1]].map(|sink| limited(sink, limit));
        let settings = RelaySettings {
            connections: 20,
            ..relay(for_us.smtp_addr())
        };
        let begun = Instant::now();
        let bench = Bench::start(settings, PATIENTLY);
        for n in 0..ITEMS {
            bench.enqueue(item(n, &["a@c.test"]), "x\r\n").await;
        }
        until_all_is_delivered(&bench).await;
        let took = begun.elapsed();
        let begun = Instant::now();
        let postfix = postfix(&[for_postfix.smtp_addr().port()], &[AGAIN_SOON]);
        let mut client = Client::connect_from(OUTSIDE, postfix.smtp_addr());
        for _ in 0..ITEMS {
            assert_eq!(client.send_message("", &["a@c0.test"], "x\r\n").code, 250);
        }
        // Under a limit of the rate it needs many minutes for all of them.
        let is_far = || sinks[1].count() >= ITEMS / 10;
        wait("Postfix sends", Duration::from_secs(240), is_far);
        let beside = (sinks[1].count(), begun.elapsed());
        let ours = connections(&for_us);
        println!(
            "{limit}: {ITEMS} reports in {took:?}, connections and refused {ours:?}; Postfix {beside:?}, {:?}",
            connections(&for_postfix)
        );
        assert!(ours.1 < 6 && ours.0 < 20, "{limit}: {ours:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_8bitmime_gets_what_postfix_would_send_it() {
    let offers: &[&str] = &["PIPELINING", "DSN", "ENHANCEDSTATUSCODES"];
    let text = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                Content-Transfer-Encoding: 8bit\r\n\r\ngr\u{fc}n\r\n";
    let (ours, theirs) = tokio::join!(
        FaultyRelay::start(offers, |_, _| None),
        FaultyRelay::start(offers, |_, _| None)
    );
    let postfix = postfix(&[theirs.address().port()], &[]);
    let mut client = Client::connect_from(OUTSIDE, postfix.smtp_addr());
    assert_eq!(client.send_message("", &["a@c0.test"], text).code, 250);
    assert_eq!(by_postfix(&postfix, 0), "sent");
    let sent = theirs.seen().messages.concat();
    assert!(String::from_utf8_lossy(&sent).contains("gr=C3=BCn"));
    let eight_bit = |n, prefix: &'static str| copyist::journal::Item {
        body: BodyKind::EightBit,
        prefix: prefix.into(),
        ..item(n, &["a@c.test"])
    };
    let bench = Bench::start(relay(ours.address()), ONCE);
    // What we wrote around 7-bit mail is encoded as Postfix does it.
    bench.enqueue(eight_bit(1, text), "x\r\n").await;
    bench.until_queue_is_empty().await;
    let sent = ours.seen().messages.concat();
    assert!(String::from_utf8_lossy(&sent).contains("gr=C3=BCn"));
    // An original is never encoded anew.
    bench
        .enqueue(eight_bit(2, "Message-ID: <2@c.test>\r\n"), text)
        .await;
    let (_, said) = bench.until_tried(2).await;
    assert!(said.contains("8BITMIME"), "{said}");
    assert_eq!(ours.seen().messages.len(), 1);
}

/// Starts a Postfix whose smtp(8) gets names of two addresses, the first of them each of these.
pub(super) fn beside_at_two_addresses(ports: &[u16]) -> Postfix {
    let routes = ports.iter().enumerate();
    let routes: Vec<String> = routes
        .map(|(n, port)| format!("{{c{n}.test = smtp:[two.test]:{port}}}"))
        .collect();
    let mut lines = patience(5);
    lines.extend([
        format!("transport_maps = inline:{{{}}}", routes.join(", ")),
        "smtp_host_lookup = native".into(),
        "smtp_randomize_addresses = no".into(),
    ]);
    let postfix = Postfix::start(&PostfixOptions {
        milter: None,
        deliver_to: SocketAddr::from(([127, 0, 0, 1], 9)),
        extra: lines,
    });
    hand_over(&postfix, ports.len());
    postfix
}
