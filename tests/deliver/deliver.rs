//! Delivery to relays in order: what arrives, for whom, and what becomes of what does not.

use crate::{bench, lab};
use std::time::{Duration, Instant, SystemTime};

use copyist::deliver::{RelaySettings, Tls};
use copyist::journal::{Item, Kind};
use copyist::mail::{BodyKind, Enhanced, Reply};
use copyist::smtp::Sink;
use copyist::spool::{Action, DeliveryOutcome, DeliveryResult, NdrStatus, QueueEntry};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::net::TcpListener;

use bench::{
    AT_ONCE, Bench, ONCE, PATIENCE, address, composer, enqueue_in, fresh, id, item, patiently,
    prefix, relay,
};
use lab::{SmtpSink, postmaster};

async fn sink() -> Sink {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    Sink::start(listener).expect("started")
}

fn no(code: u16) -> Reply {
    Reply::new(code, Enhanced((code / 100) as u8, 7, 1), "says the sink")
}

/// Returns the expected message: every line break a CRLF, and one at the end. Deliberately simple,
/// as a reference.
fn expected(sent: &[u8]) -> Vec<u8> {
    let text: String = sent.iter().copied().map(char::from).collect();
    let mut lines = text.replace("\r\n", "\n").replace('\r', "\n");
    if !lines.ends_with('\n') {
        lines.push('\n');
    }
    lines
        .replace('\n', "\r\n")
        .chars()
        .map(|c| c as u8)
        .collect()
}

/// Sends them all; compares what came.
async fn arrives(originals: Vec<Vec<u8>>) {
    let sink = sink().await;
    let settings = RelaySettings {
        connections: 5,
        ..relay(sink.address())
    };
    let bench = Bench::start(settings, ONCE);
    for (n, original) in originals.iter().enumerate() {
        let eight_bit = Item {
            body: BodyKind::EightBit,
            ..item(n, &["a@c.test"])
        };
        bench.enqueue(eight_bit, original.clone()).await;
    }
    bench.until_queue_is_empty().await;
    let received = sink.received();
    assert_eq!(received.len(), originals.len());
    for (n, original) in originals.iter().enumerate() {
        let prefix = prefix(n);
        let found: Vec<_> = received
            .iter()
            .filter(|message| message.data.starts_with(prefix.as_bytes()))
            .collect();
        assert_eq!(found.len(), 1, "message {n}");
        let whole = [prefix.as_bytes(), original].concat();
        assert!(
            found[0].data[..] == expected(&whole)[..],
            "message {n} of {} bytes that ends with {:?}",
            original.len(),
            String::from_utf8_lossy(&original[original.len().saturating_sub(60)..]),
        );
    }
}

#[tokio::test]
async fn bytes_arrive_exactly() {
    let originals = [
        "Subject: x\r\n\r\nbody\r\n",
        "without a line's end",
        ".\r\n..\r\n...\r\n.x\r\n",
        ".",
        "\r\n.\r\n",
        "two at the end\r\n\r\n",
        "",
        "\r\n",
        "bare\nline\n.\nfeeds\n",
        "bare\rreturns\r.\r",
        "x\n.\r\nMAIL FROM:<evil@c.test>\r\n",
        "x\r.\r\nMAIL FROM:<evil@c.test>\r\n",
    ];
    let mut originals: Vec<Vec<u8>> = originals
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
    originals.push(b"8-bit \xe4\xff and \0\r\n".to_vec());
    arrives(originals).await;
}

#[tokio::test]
async fn bytes_arrive_exactly_at_the_border_of_pieces() {
    let ends = proptest::collection::vec(prop::sample::select(b"..\r\n\r\nx\xe4".to_vec()), 0..12);
    let lines = proptest::collection::vec(
        prop::sample::select(vec![".", "\r\n", "\r\n.", "..", "x"]),
        0..12,
    );
    // Filler up to shortly before one of the first two borders, then what could go wrong there.
    let original =
        (0..3usize, 0..12usize, ends, lines).prop_map(|(pieces, before, wild, sound)| {
            let mut original = vec![b'x'; (pieces * 64 * 1024).saturating_sub(before)];
            original.extend(sound.concat().bytes());
            if before % 2 == 0 {
                original.extend(wild);
            }
            original
        });
    let mut runner = TestRunner::deterministic();
    let originals = (0..400).map(|_| {
        let tree = original.new_tree(&mut runner).expect("a value");
        tree.current()
    });
    arrives(originals.collect()).await;
}

#[tokio::test]
async fn each_recipient_has_its_own_outcome() {
    let sink = sink().await;
    sink.reject("b@c.test", no(550));
    sink.reject("c@c.test", no(451));
    let bench = Bench::start(relay(sink.address()), ONCE);
    bench
        .enqueue(item(1, &["a@c.test", "b@c.test", "c@c.test"]), "x\r\n")
        .await;
    patiently("report and NDR", sink.wait_for(2)).await;
    let listed = bench
        .until("the NDR is delivered", |listed| listed.len() == 1)
        .await;
    let states: Vec<_> = listed[0]
        .targets
        .iter()
        .map(|target| target.state.name())
        .collect();
    assert_eq!(states, ["delivered", "refused", "waiting"]);
    let said = listed[0].targets[2].last_reply.as_deref();
    assert_eq!(said, Some("451 4.7.1 says the sink"));
    let received = sink.received();
    assert_eq!(received[0].recipients.len(), 1);
    assert_eq!(
        (
            received[1].sender.as_str(),
            received[1].recipients[0].0.as_str()
        ),
        ("", "ndr@c.test")
    );
    let ndr = String::from_utf8_lossy(&received[1].data).into_owned();
    assert!(
        ndr.contains("b@c.test") && ndr.contains("550 5.7.1 says the sink"),
        "{ndr}"
    );
    assert!(!ndr.contains("rfc822; c@c.test"), "{ndr}");
}

#[tokio::test]
async fn items_queued_ten_years_ahead_are_delivered_now() {
    let sink = sink().await;
    let bench = Bench::start(relay(sink.address()), ONCE);
    let ahead = SystemTime::now() + Duration::from_secs(10 * 365 * 86400);
    bench
        .enqueue_since(ahead, item(1, &["a@c.test"]), "x\r\n")
        .await;
    bench.until_queue_is_empty().await;
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn a_version_bounces_after_days_and_a_report_never_does() {
    let sink = sink().await;
    sink.reject("b@c.test", no(451));
    let bench = Bench::start(relay(sink.address()), AT_ONCE);
    let long_ago = SystemTime::now() - Duration::from_secs(6 * 24 * 3600);
    let version = Item {
        kind: Kind::Version,
        ..item(1, &["b@c.test"])
    };
    bench
        .enqueue_since(long_ago, version.clone(), "x\r\n")
        .await;
    patiently("the NDR", sink.wait_for(1)).await;
    let ndr = String::from_utf8_lossy(&sink.received()[0].data).into_owned();
    assert!(
        ndr.contains("Status: 4.4.7") && ndr.contains("Undeliverable: x"),
        "{ndr}"
    );
    bench.until_queue_is_empty().await;
    // A younger one waits, and so does a report of any age.
    let younger = Item {
        id: id(2),
        ..version
    };
    bench.enqueue(younger, "x\r\n").await;
    bench
        .enqueue_since(long_ago, item(3, &["b@c.test"]), "x\r\n")
        .await;
    let is_waiting =
        |listed: &QueueEntry| listed.attempts > 0 && listed.targets[0].state.name() == "waiting";
    bench
        .until("both wait", |listed| {
            listed.len() == 2 && listed.iter().all(is_waiting)
        })
        .await;
}

#[tokio::test]
async fn envelopes_say_where_bounces_go() {
    let sink = sink().await;
    let bench = Bench::start(relay(sink.address()), ONCE);
    let report = Item {
        envelope_id: "a+b=c".into(),
        body: BodyKind::EightBit,
        ..item(1, &["a@c.test"])
    };
    let ndr = Item {
        kind: Kind::Ndr,
        sender: None,
        ndr: None,
        ..item(2, &["n@c.test"])
    };
    bench.enqueue(report, "x\r\n").await;
    bench.until_queue_is_empty().await;
    bench.enqueue(ndr, "x\r\n").await;
    bench.until_queue_is_empty().await;
    let received = sink.received();
    assert_eq!(received[0].sender, "bounces@c.test");
    let params = &received[0].sender_params;
    for param in ["BODY=8BITMIME", "RET=HDRS", "ENVID=a+2Bb+3Dc"] {
        assert!(params.iter().any(|known| known == param), "{params:?}");
    }
    assert_eq!(received[0].recipients[0].1, ["NOTIFY=FAILURE"]);
    assert_eq!(received[1].sender, "");
    assert_eq!(
        received[1].recipients,
        [("n@c.test".to_owned(), vec!["NOTIFY=NEVER".to_owned()])]
    );
}

#[tokio::test]
async fn encryption_that_is_required_and_not_offered_delivers_nothing() {
    let sink = sink().await;
    let settings = RelaySettings {
        tls: Tls::Required,
        ..relay(sink.address())
    };
    let bench = Bench::start(settings, ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    bench
        .until("it waits for STARTTLS", |listed| {
            let said = listed[0].targets[0]
                .last_reply
                .as_deref()
                .unwrap_or_default();
            said.contains("does not offer STARTTLS")
        })
        .await;
    assert!(sink.received().is_empty());
}

/// A relay that is away, and so many queued items, of which one at least was tried.
async fn found_away(items: usize) -> (SmtpSink, Bench, Vec<QueueEntry>) {
    let mut real = SmtpSink::start_keeping();
    let settings = RelaySettings {
        connections: 4,
        ..relay(real.address())
    };
    real.stop();
    let bench = Bench::start(settings, AT_ONCE);
    for n in 0..items {
        bench.enqueue(item(n, &["a@c.test"]), "x\r\n").await;
    }
    let listed = bench
        .until("the relay was found away", |listed| {
            listed
                .iter()
                .any(|item| item.targets[0].last_reply.is_some())
        })
        .await;
    (real, bench, listed)
}

#[tokio::test]
async fn an_item_dropped_during_an_outage_is_not_sent_afterwards() {
    const ITEMS: usize = 200;
    let (mut real, bench, _) = found_away(ITEMS).await;
    let operator = bench.operator();
    for n in (0..ITEMS).step_by(2) {
        let (item, now) = (id(n), SystemTime::now());
        let dropped = operator
            .operate(&postmaster(), Action::Drop, &item, now)
            .await;
        assert!(dropped.expect("dropped"), "{n}");
    }
    real.restart();
    bench.until_queue_is_empty().await;
    let messages = real.messages();
    assert_eq!(messages.len(), ITEMS / 2);
    for n in (1..ITEMS).step_by(2) {
        let line = format!("Message-ID: <{n}@c.test>");
        assert!(
            messages.iter().any(|text| text.contains(&line)),
            "message {n}"
        );
    }
}

#[tokio::test]
async fn another_relay_takes_over_without_a_restart() {
    let (old, new) = (sink().await, sink().await);
    let bench = Bench::start(relay(old.address()), ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    bench.until_queue_is_empty().await;
    bench.reload(relay(new.address()));
    // The old one may have been asked for a slot already when the settings change.
    for n in 2.. {
        bench.enqueue(item(n, &["a@c.test"]), "x\r\n").await;
        bench.until_queue_is_empty().await;
        if !new.received().is_empty() {
            break;
        }
        assert!(n < 4, "the new relay gets nothing");
    }
}

#[tokio::test]
async fn a_rejected_ndr_is_a_dead_letter_until_it_is_retried() {
    let (refusing, taking) = (sink().await, sink().await);
    refusing.reject("a@c.test", no(550));
    refusing.reject("ndr@c.test", no(550));
    let bench = Bench::start(relay(refusing.address()), ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    let listed = bench
        .until("a dead letter", |listed| {
            listed[0].targets[0].state.name() == "dead"
        })
        .await;
    assert_eq!((listed.len(), listed[0].next_attempt), (1, None));
    bench.reload(relay(taking.address()));
    // The first retry may still meet the relay that was in the settings before.
    let retried = async {
        let second = Duration::from_secs(1);
        loop {
            let retried = bench
                .spool
                .operate(
                    &postmaster(),
                    Action::Retry,
                    &listed[0].id,
                    SystemTime::now(),
                )
                .await;
            retried.expect("written");
            if tokio::time::timeout(second, taking.wait_for(1))
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    patiently("the NDR", retried).await;
    bench.until_queue_is_empty().await;
    assert_eq!(taking.received()[0].recipients[0].0, "ndr@c.test");
}

#[tokio::test]
async fn a_rejecting_mailbox_causes_ten_ndrs_an_hour_and_one_digest() {
    let refused: usize = lab::setting("COPYIST_PROOF_REFUSALS", 300);
    let sink = sink().await;
    sink.reject("a@c.test", no(550));
    let settings = RelaySettings {
        connections: 5,
        ..relay(sink.address())
    };
    // These two were refused two hours ago, when there had been enough NDRs already.
    let (dir, spool) = fresh();
    let ago = SystemTime::now() - Duration::from_secs(7200);
    for n in [5_000_001, 5_000_002] {
        enqueue_in(&spool, ago, item(n, &["b@c.test"]), "x\r\n").await;
        let result = DeliveryResult {
            outcomes: vec![(
                address("b@c.test"),
                DeliveryOutcome::Refused("552 full".into()),
            )],
            next_attempt: ago,
            ndr: Some(item(n + 1000, &["ndr@c.test"])),
            ndr_limit: Some(0),
            relay_reached: true,
        };
        let recorded = spool.record(&id(n), result, ago).await;
        assert!(recorded.expect("written") == NdrStatus::Pending);
    }
    let bench = Bench::start_on(dir, spool, settings, ONCE);
    let begun = Instant::now();
    for n in 0..refused {
        bench.enqueue(item(n, &["a@c.test"]), "x\r\n").await;
    }
    let dead = refused - 10 + 2;
    let is_over = async || {
        let depth = bench.spool.depth().await.expect("read");
        depth.items == dead as u64 && depth.dead == dead as u64 && sink.received().len() == 11
    };
    let deadline = begun + PATIENCE.max(Duration::from_millis(20) * refused as u32);
    while !is_over().await {
        assert!(Instant::now() < deadline, "{:?}", bench.spool.depth().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begun.elapsed();
    for one in bench.listed().await {
        let reply = one.targets[0].last_reply.as_deref().unwrap_or_default();
        assert_eq!(one.targets[0].state.name(), "dead");
        assert!(reply.contains("a digest reports it"), "{reply}");
    }
    let received = sink.received();
    let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
    let all: Vec<String> = received.iter().map(|one| text(&one.data)).collect();
    let digests: Vec<&String> = all.iter().filter(|one| one.contains("collected")).collect();
    let [digest] = digests[..] else {
        panic!("{} digests", digests.len());
    };
    for n in [5_000_001, 5_000_002] {
        assert!(digest.contains(&format!("{} b@c.test", id(n))), "{digest}");
    }
    assert!(digest.contains("552 full") && digest.contains("Action: failed"));
    for one in &received {
        assert_eq!(one.recipients[0].0, "ndr@c.test");
        assert_eq!(one.sender, "", "a null reverse path");
    }
    // An hour later one digest tells of the others.
    let (spool, _dir) = bench.stopped().await;
    let later = SystemTime::now() + Duration::from_secs(3601);
    let begun = Instant::now();
    let [digest] = &spool.digests(later).await.expect("read")[..] else {
        panic!("one digest for one address");
    };
    assert_eq!(digest.count, refused as u64 - 10);
    let digest_item = composer()
        .digest(
            &digest.ndr,
            digest.kind,
            &digest.listed,
            digest.count,
            later,
        )
        .expect("composed");
    spool
        .enqueue_digest(digest, digest_item.clone(), later)
        .await
        .expect("told");
    let told = begun.elapsed();
    assert!(spool.digests(later).await.expect("read").is_empty());
    println!(
        "{refused} refusals in {took:.1?} ({:.0} a second): 10 NDRs, the rest dead letters; one digest of {} kB, \
         made and kept in {told:.1?}",
        refused as f64 / took.as_secs_f64(),
        (digest_item.prefix.len() + digest_item.suffix.len()) / 1000,
    );
}

#[tokio::test]
async fn smtp_sink_accepts_all_queued_items() {
    for options in [&[] as &[&str], &["-p"], &["-E"], &["-8"]] {
        let real = SmtpSink::start_with(options);
        let bench = Bench::start(relay(real.address()), ONCE);
        for n in 0..5 {
            bench
                .enqueue(item(n, &["a@c.test", "b@c.test"]), "x\r\n.\r\n")
                .await;
        }
        bench.until_queue_is_empty().await;
        real.wait_for(5, Duration::from_secs(10));
        assert_eq!(real.count(), 5, "{options:?}");
    }
}

#[tokio::test]
async fn eight_bit_mail_waits_for_a_relay_that_takes_it() {
    let real = SmtpSink::start_with(&["-8"]);
    let bench = Bench::start(relay(real.address()), ONCE);
    let eight_bit = Item {
        body: BodyKind::EightBit,
        ..item(1, &["a@c.test"])
    };
    bench.enqueue(eight_bit, b"\xe4\r\n".to_vec()).await;
    let (_, said) = bench.until_tried(1).await;
    assert!(said.contains("8BITMIME"), "{said}");
    assert_eq!(real.count(), 0);
}

#[tokio::test]
async fn smtp_sink_s_refusals_are_understood() {
    for (options, state, said) in [
        (["-r", "mail"], "waiting", "450 4.3.0"),
        (["-r", "rcpt"], "waiting", "450 4.3.0"),
        (["-r", "data"], "waiting", "450 4.3.0"),
        (["-r", "."], "waiting", "450 4.3.0"),
        (["-f", "mail"], "dead", "500 5.3.0"),
        (["-f", "rcpt"], "dead", "500 5.3.0"),
        (["-f", "data"], "dead", "500 5.3.0"),
        (["-f", "."], "dead", "500 5.3.0"),
        (["-q", "rcpt"], "waiting", ""),
        (["-q", "data"], "waiting", ""),
    ] {
        let real = SmtpSink::start_with(&options);
        let bench = Bench::start(relay(real.address()), ONCE);
        bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
        let listed = bench
            .until("it was tried", |listed| {
                listed.len() == 1
                    && listed[0].targets[0].state.name() == state
                    && listed[0].attempts > 0
            })
            .await;
        let reply = listed[0].targets[0].last_reply.clone().unwrap_or_default();
        assert!(reply.starts_with(said), "{options:?}: {reply}");
        assert_eq!(
            listed[0].kind.name() == "ndr",
            state == "dead",
            "{options:?}"
        );
        // It counts a message whose end it refuses.
        assert_eq!(real.count() > 0, options[1] == ".", "{options:?}");
    }
}

#[tokio::test]
async fn after_an_outage_everything_is_sent_and_no_item_lost_attempts() {
    const ITEMS: usize = 50;
    let (mut real, bench, listed) = found_away(ITEMS).await;
    let attempts: u32 = listed.iter().map(|item| item.attempts).sum();
    assert_eq!(attempts, 0, "an attempt that reached no relay is no item's");
    real.restart();
    bench.until_queue_is_empty().await;
    let messages = real.messages();
    assert_eq!(messages.len(), ITEMS);
    for n in 0..ITEMS {
        let line = format!("Message-ID: <{n}@c.test>");
        let copies = messages.iter().filter(|text| text.contains(&line)).count();
        assert_eq!(copies, 1, "message {n}");
    }
    assert!(bench.spool.show(&id(0)).await.expect("read").is_none());
}
