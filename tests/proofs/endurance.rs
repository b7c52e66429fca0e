//! The promise under load: throughput beside a run without us, a relay that is away, twenty kills.
//!
//! Figures are printed, not judged: `cargo test --test proofs endurance:: -- --nocapture` shows
//! them.

use crate::lab;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::{
    Client, OUTSIDE, Postfix, PostfixOptions, Report, Site, Slapd, SmtpSink, every_third, message,
    smtp_source, user,
};

const MESSAGES: usize = 2000;
const SESSIONS: usize = 20;
/// Messages of one run of smtp-source, all to one user.
const EACH: usize = 10;

/// The user that run `n` writes to: 200 of the 1,000, a third of them journaled.
fn addressee(n: usize) -> usize {
    n * 37 % 1000
}

/// 2,000 messages of 10 kB over 20 sessions at a time; gives how long they took.
fn load(server: SocketAddr) -> Duration {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..SESSIONS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= MESSAGES / EACH {
                        return;
                    }
                    let (from, to) = (format!("s{n}@elsewhere.test"), user(addressee(n)));
                    let each = EACH.to_string();
                    let arguments = [
                        "-s", "1", "-m", &each, "-l", "10240", "-f", &from, "-t", &to,
                    ];
                    let output = smtp_source(server, &arguments).output;
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(
                        output.status.success() && said.is_empty(),
                        "smtp-source: {said}"
                    );
                }
            });
        }
    });
    started.elapsed()
}

/// The messages that reached their recipients, by Message-ID, as far as they are as old as the
/// report: without the fields that the sink and Postfix put in front.
fn delivered(sink: &SmtpSink) -> HashMap<String, String> {
    let messages = sink.messages();
    let read = messages.into_iter().map(|text| {
        let id = text.lines().find_map(|line| {
            line.strip_prefix("Message-Id: ")
                .or(line.strip_prefix("Message-ID: "))
        });
        (id.expect("every message has one").to_owned(), text)
    });
    read.collect()
}

#[test]
fn two_thousand_messages_have_exactly_the_reports_they_owe() {
    let _alone = crate::alone();
    let without = {
        let sink = SmtpSink::start_keeping();
        let options = PostfixOptions {
            milter: None,
            deliver_to: sink.address(),
            extra: Vec::new(),
        };
        let postfix = Postfix::start(&options);
        let took = load(postfix.smtp_addr());
        sink.wait_for(MESSAGES, lab::PATIENCE);
        took
    };
    let site = Site::<Slapd>::start("5m");
    let took = load(site.postfix.smtp_addr());
    let accepted = Instant::now();
    site.mail.wait_for(MESSAGES, lab::PATIENCE);
    let journaled: Vec<usize> = (0..MESSAGES / EACH)
        .filter(|n| every_third(addressee(*n)).is_some())
        .collect();
    site.relay.wait_for(journaled.len() * EACH, lab::PATIENCE);
    let rate = |took: Duration| MESSAGES as f64 / took.as_secs_f64();
    println!(
        "{MESSAGES} messages of 10 kB over {SESSIONS} sessions, {} of them journaled: {:.0} messages/s with Copyist, \
         {:.0} without ({:.2} of it); last report {:?} after the last message was accepted",
        journaled.len() * EACH,
        rate(took),
        rate(without),
        rate(took) / rate(without),
        accepted.elapsed(),
    );
    let delivered = delivered(&site.mail);
    assert_eq!(delivered.len(), MESSAGES);
    let reports = site.wait_for_reports(journaled.len() * EACH);
    assert_eq!(reports.len(), journaled.len() * EACH);
    let mut about = HashMap::new();
    for report in &reports {
        *about.entry(report.about.clone()).or_insert(0) += 1;
        check(report, &delivered);
    }
    assert!(
        about.values().all(|count| *count == 1),
        "a message has more than one report"
    );
}

/// A report of the load: envelope, recipients and bytes are those of the message it is about.
fn check(report: &Report, delivered: &HashMap<String, String>) {
    let sender = report.field("Sender")[0];
    let n: usize = sender
        .trim_start_matches('s')
        .split('@')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("s<n>@");
    let number = addressee(n);
    assert_eq!(
        report.recipients,
        [every_third(number).expect("a journaled user")]
    );
    assert_eq!(report.sender, "in-ndr@example.test");
    assert_eq!(report.field("Recipient"), [user(number).as_str()]);
    let whole = delivered
        .get(&report.about)
        .expect("the message was delivered");
    assert!(
        whole.trim_end().ends_with(report.original.trim_end()),
        "another original: {}",
        report.about
    );
    assert!(report.original.len() > 10_000);
}

/// Sends messages to journaled users until told to stop, trying again what is deferred; gives the
/// Message-IDs of those that were accepted.
fn insist(server: SocketAddr, name: usize, messages: usize, accepted: &AtomicUsize) -> Vec<String> {
    let mut client = Client::connect_from(OUTSIDE, server);
    let mut ids = Vec::new();
    for n in 0..messages {
        let id = format!("<{name}.{n}@elsewhere.test>");
        let content = message(&id, &"x".repeat(70));
        let to = user((name * 30 + n * 3) % 999 / 3 * 3);
        loop {
            let reply = client.send_message("a@elsewhere.test", &[&to], &content);
            match reply.code {
                250 => break,
                // Postfix does not ask a milter that it lost again within one session.
                400..500 => {
                    // As a client waits; without it, ports would run out before Copyist is back.
                    std::thread::sleep(Duration::from_millis(10));
                    client = Client::connect_from(OUTSIDE, server);
                }
                _ => panic!("refused for good: {reply:?}"),
            }
        }
        ids.push(id);
        accepted.fetch_add(1, Ordering::Relaxed);
    }
    ids
}

#[test]
fn a_relay_that_is_away_costs_nothing_but_time() {
    let _alone = crate::alone();
    let mut site = Site::<Slapd>::start("5m");
    site.relay.stop();
    let accepted = AtomicUsize::new(0);
    let server = site.postfix.smtp_addr();
    std::thread::scope(|scope| {
        for name in 0..8 {
            scope.spawn({
                let accepted = &accepted;
                move || {
                    let mut client = Client::connect_from(OUTSIDE, server);
                    for n in 0..50 {
                        let content = message(&format!("<{name}.{n}@elsewhere.test>"), "away");
                        let reply =
                            client.send_message("a@elsewhere.test", &[&user(n * 3)], &content);
                        assert_eq!(reply.code, 250, "nothing is refused: {reply:?}");
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let queued = accepted.into_inner();
    let listed = site.copyist.command(&["queue", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed["items"].as_array().expect("a list").len(), queued);
    site.relay.restart();
    let back = Instant::now();
    site.relay.wait_for(queued, lab::PATIENCE);
    println!(
        "{queued} reports waited for the relay and were delivered {:?} after it came back",
        back.elapsed()
    );
    let about: HashSet<String> = site
        .reports()
        .into_iter()
        .map(|report| report.about)
        .collect();
    assert_eq!(about.len(), queued);
}

#[test]
fn twenty_kills_under_load_lose_nothing() {
    let _alone = crate::alone();
    const KILLS: usize = 20;
    const CLIENTS: usize = 8;
    let mut site = Site::<Slapd>::start("5m");
    let server = site.postfix.smtp_addr();
    let accepted = AtomicUsize::new(0);
    let per_client = 150;
    let all = CLIENTS * per_client;
    let ids: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|name| {
                let accepted = &accepted;
                scope.spawn(move || insist(server, name, per_client, accepted))
            })
            .collect();
        for kill in 1..=KILLS {
            // At a place in the load, not at a time: whatever the machine's speed, all kills fall
            // into it.
            let goal = all * kill / (KILLS + 1);
            while accepted.load(Ordering::Relaxed) < goal {
                std::thread::yield_now();
                assert!(
                    !clients
                        .iter()
                        .all(std::thread::ScopedJoinHandle::is_finished),
                    "the load ended before the kills"
                );
            }
            site.copyist.restart();
        }
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client"))
            .collect()
    });
    assert_eq!(ids.len(), all);
    // Everything accepted is durable now; wait until the queue is empty.
    let deadline = Instant::now() + lab::PATIENCE;
    loop {
        let listed = site.copyist.command(&["queue", "list", "--json"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        if listed["items"].as_array().expect("a list").is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still queued: {listed}");
    }
    let reports = site.reports();
    let mut by_original: HashMap<&str, HashMap<&str, usize>> = HashMap::new();
    for report in &reports {
        *by_original
            .entry(&report.about)
            .or_default()
            .entry(&report.message_id)
            .or_default() += 1;
    }
    let lost: Vec<&String> = ids
        .iter()
        .filter(|id| !by_original.contains_key(id.as_str()))
        .collect();
    let resent: usize = by_original
        .values()
        .flat_map(HashMap::values)
        .map(|count| count - 1)
        .sum();
    let retried: usize = by_original.values().map(|reports| reports.len() - 1).sum();
    println!(
        "{all} messages accepted under {KILLS} kills: {} lost; {resent} reports were sent twice with the same \
         Message-ID; {retried} messages were tried twice by the client and have a report for each try",
        lost.len()
    );
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_blocked_log_does_not_stop_or_duplicate_reports() {
    let _alone = crate::alone();
    let mut site = Site::<Slapd>::start("5m");
    site.copyist.restart_unheard(site.admin);
    let content = message("<unheard@elsewhere.test>", "unheard");
    let mut client = site.client(OUTSIDE);
    let reply = client.send_message("a@elsewhere.test", &[&user(0)], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    lab::wait("the queue is empty", lab::PATIENCE, || {
        site.copyist.queued() == 0
    });
    assert_eq!(site.relay.count(), 1);
}
