//! Chaos: agent, Postfix, directory and relay are killed at random under load and torn apart from
//! each other, and every message that Postfix accepted has its report.
//!
//! `cargo test --test proofs chaos:: -- --nocapture` is the short form. `tests/proof/chaos` runs
//! the long one; it sets these: `KILLS` of the agent (and in proportion of the others), `RATE` in
//! messages a second, `SEED` to see a run again (the same blows in the same order; what they hit is
//! up to the machine).

use crate::lab;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use lab::{
    Books, Chance, Client, DirectoryServer, Fault, FaultProxy, OUTSIDE, Rate, SendOutcome, Site,
    SiteOptions, Slapd, Traffic, message, setting, user,
};

/// In the long form: the duplicates that are allowed, as a fraction of the expected reports.
const DUPLICATES: f64 = 0.01;
/// Of the agent to the relay (`relay.connections`), each with one report on its way at most.
const CONNECTIONS: usize = 8;
/// From so many kills on a run is a long one, with time between the blows for what they held up.
const LONG: usize = 200;
/// The longest time until mail is accepted again after the directory is back. A connection that was
/// begun in a black hole is given up only after `directory.timeout` (3 s in the lab).
const ACCEPTED_AGAIN: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest time until reports are delivered again after the relay is back: its timeout (twice
/// that for the data), and the pause before it is tried again.
const DELIVERED_AGAIN: Duration = Duration::from_secs(10);
/// The longest time until the queue is empty after everything is back and nothing more comes.
const DRAINED: Duration = Duration::from_secs(30);

/// A fault of the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disruption {
    /// `kill -9`, and a start a moment later.
    Agent,
    /// Postfix's master and everything it has started.
    Postfix,
    /// One process of Postfix.
    PostfixProcess(&'static str),
    Directory,
    Relay,
    /// Between the agent and the directory.
    DirectoryAway(Fault),
    /// Between the agent and the relay.
    RelayAway(Fault),
}

const FAULTS: [Fault; 7] = [
    Fault::Blackhole,
    Fault::Reset,
    Fault::Refuse,
    Fault::HalfClose,
    Fault::Garbage,
    Fault::Drip(Duration::from_millis(30)),
    Fault::Delay(Duration::from_millis(400)),
];

/// All blows of a run, in random order.
fn blows(chance: &mut Chance, kills: usize) -> Vec<Disruption> {
    let tenth = (kills / 10).max(5);
    let mut blows = vec![Disruption::Agent; kills];
    blows.extend([Disruption::Directory].repeat(tenth));
    blows.extend([Disruption::Relay].repeat(tenth));
    let of_postfix = ["", "smtpd", "cleanup", "", "qmgr"];
    blows.extend((0..tenth).map(|n| match of_postfix[n % of_postfix.len()] {
        "" => Disruption::Postfix,
        name => Disruption::PostfixProcess(name),
    }));
    for n in 0..tenth.max(FAULTS.len()) {
        let fault = FAULTS[n % FAULTS.len()];
        blows.extend([
            Disruption::DirectoryAway(fault),
            Disruption::RelayAway(fault),
        ]);
    }
    chance.shuffle(&mut blows);
    blows
}

/// The longest waits after something was back, by what it had been.
#[derive(Default)]
struct RecoveryTimes {
    accepted_again: HashMap<String, Duration>,
    delivered_again: HashMap<String, Duration>,
}

impl RecoveryTimes {
    fn note(of: &mut HashMap<String, Duration>, fault: Fault, waited: Duration) {
        let longest = of.entry(format!("{fault:?}")).or_default();
        *longest = (*longest).max(waited);
    }

    fn assert_short(&self) {
        for (fault, waited) in &self.accepted_again {
            let hangs = fault == "Blackhole";
            let limit = ACCEPTED_AGAIN + if hangs { TIMEOUT } else { Duration::ZERO };
            assert!(*waited < limit, "{waited:?} after {fault}");
        }
        for (fault, waited) in &self.delivered_again {
            assert!(*waited < DELIVERED_AGAIN, "{waited:?} after {fault}");
        }
    }
}

#[test]
fn every_accepted_message_has_its_report_despite_kills_and_cuts() {
    let _alone = crate::alone();
    let mut chance = Chance::from_environment();
    let kills = setting("KILLS", 50);
    let blows = blows(&mut chance, kills);
    let pause = if kills < LONG { 50..400 } else { 400..1200 };
    let mut site = Site::<Slapd>::start_as(
        Slapd::start(1000),
        SiteOptions {
            // Short, so that the directory is asked all the time.
            ttl: "1s",
            relay: "timeout = \"2s\"",
            // A process of Postfix that is killed over its first client is not started anew for a
            // minute otherwise.
            postfix: vec!["service_throttle_time = 1s".to_owned()],
            is_breakable: true,
            ..SiteOptions::default()
        },
    );
    let rate = Rate {
        per_second: setting("RATE", 50.0),
        clients: 16,
    };
    let traffic = Traffic::start(site.postfix.smtp_addr(), rate);
    let (mut books, mut waits) = (Books::default(), RecoveryTimes::default());
    let mut reported = Instant::now();
    for (n, blow) in blows.iter().enumerate() {
        std::thread::sleep(chance.millis(pause.clone()));
        strike(&mut site, *blow, &mut chance, &mut waits);
        if reported.elapsed() > Duration::from_secs(10) {
            reported = Instant::now();
            books.enter_reports(&site.relay);
            books.enter_mail(&site.mail);
            println!(
                "{:?}: {n} of {} blows, {} messages accepted, {} with a report",
                traffic.elapsed(),
                blows.len(),
                traffic.accepted(),
                books.reported(),
            );
        }
    }
    let took = traffic.elapsed();
    let accepted = traffic.accepted();
    let tries = traffic.finish();
    let over = Instant::now();
    lab::wait("the queue is empty", DRAINED, || site.copyist.queued() == 0);
    let drained = over.elapsed();
    lab::wait("all mail is delivered", lab::PATIENCE, || {
        site.postfix.flush();
        site.postfix.queue_length() == 0
    });
    books.enter_reports(&site.relay);
    books.enter_mail(&site.mail);
    println!(
        "{kills} kills of the agent among {} blows in {took:?}, {:.0} messages/s",
        blows.len(),
        accepted as f64 / took.as_secs_f64(),
    );
    println!(
        "longest waits for an acceptance after the directory was back: {:?}; for a report after the relay was back: {:?}; \
         queue empty {drained:?} after the last message",
        waits.accepted_again, waits.delivered_again
    );
    let account = books.close(&tries);
    account.print();
    account.assert_complete();
    // A machine that does many things at once makes anybody wait, so times are judged in long runs
    // only.
    if kills >= LONG {
        waits.assert_short();
    }
    // Whatever was on its way on one of the connections when something was killed or cut off.
    let times = |is_it: fn(&Disruption) -> bool| blows.iter().filter(|blow| is_it(blow)).count();
    let hits = times(|blow| {
        matches!(
            blow,
            Disruption::Agent | Disruption::Relay | Disruption::DirectoryAway(_)
        )
    }) + 2 * times(|blow| matches!(blow, Disruption::RelayAway(_)));
    assert!(
        account.duplicates <= hits * CONNECTIONS,
        "more duplicates than deliveries under way"
    );
    let allowed = account.expected as f64 * DUPLICATES;
    assert!(
        kills < LONG || account.duplicates as f64 <= allowed,
        "more than {DUPLICATES} of the reports came twice"
    );
}

/// Does one thing to the site, and mends it.
fn strike(
    site: &mut Site<Slapd>,
    blow: Disruption,
    chance: &mut Chance,
    waits: &mut RecoveryTimes,
) {
    let down = chance.millis(0..150);
    match blow {
        Disruption::Agent => {
            site.copyist.kill9();
            std::thread::sleep(down);
            site.copyist.restart();
        }
        Disruption::Postfix => {
            site.postfix.kill9();
            std::thread::sleep(down);
            site.postfix.restart();
        }
        Disruption::PostfixProcess(name) => {
            site.postfix.kill_one(name, |of| chance.below(of));
        }
        Disruption::Directory => {
            site.directory.kill9();
            std::thread::sleep(down * 5);
            site.directory.restart();
        }
        Disruption::Relay => {
            site.relay.stop();
            std::thread::sleep(down * 5);
            site.relay.restart();
        }
        Disruption::DirectoryAway(fault) => {
            part(site, |site| &between(site).directory, fault, chance);
            let waited = until_accepted(site, chance);
            RecoveryTimes::note(&mut waits.accepted_again, fault, waited);
        }
        Disruption::RelayAway(fault) => {
            part(site, |site| &between(site).relay, fault, chance);
            let (back, before) = (Instant::now(), site.relay.count());
            lab::wait("a report", lab::PATIENCE, || site.relay.count() > before);
            RecoveryTimes::note(&mut waits.delivered_again, fault, back.elapsed());
        }
    }
}

fn between(site: &Site<Slapd>) -> &lab::FaultProxies {
    site.between.as_ref().expect("it was asked for")
}

/// Breaks a connection for a while, and sometimes kills the agent meanwhile.
fn part(
    site: &mut Site<Slapd>,
    place: impl Fn(&Site<Slapd>) -> &FaultProxy,
    fault: Fault,
    chance: &mut Chance,
) {
    place(site).set(fault);
    std::thread::sleep(chance.millis(200..1500));
    if chance.below(3) == 0 {
        site.copyist.restart();
        std::thread::sleep(chance.millis(0..300));
    }
    place(site).set(Fault::Pass);
}

/// The end of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// How long it takes until mail is accepted for somebody whom no cache knows; tells what was said
/// where it takes long.
fn until_accepted(site: &Site<Slapd>, chance: &mut Chance) -> Duration {
    let (back, log) = (Instant::now(), site.copyist.log_length());
    // The traffic leaves a third of the users alone.
    let to = user(chance.below(333) * 3 + 2);
    let mut said = Vec::new();
    // A Postfix of which processes were killed sometimes leaves a connection without a greeting for
    // seconds. That is not the directory's matter: only what was answered counts.
    let mut unanswered = Duration::ZERO;
    loop {
        let asked = back.elapsed();
        let client = Client::try_connect_from(OUTSIDE, site.postfix.smtp_addr());
        let sent = client.map(|mut client| {
            let content = message("<probe@elsewhere.test>", "probe");
            client.try_message("a@elsewhere.test", &[&to], &content)
        });
        if matches!(&sent, Ok(SendOutcome::Answered(reply)) if reply.code == 250) {
            break;
        }
        assert!(
            back.elapsed() < lab::PATIENCE,
            "nothing is accepted again: {sent:?}; {said:#?}\n{}\n{}",
            tail(&site.copyist.log()),
            tail(&site.postfix.log()),
        );
        said.push(format!("{asked:?} to {:?}: {sent:?}", back.elapsed()));
        if !matches!(sent, Ok(SendOutcome::Answered(_))) {
            unanswered += back.elapsed() - asked;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let waited = back.elapsed().saturating_sub(unanswered);
    if waited > ACCEPTED_AGAIN / 2 {
        said.dedup_by_key(|line| line.split_once(": ").map(|(_, what)| what.to_owned()));
        println!("{waited:?} for {to}: {said:#?}");
        let lines = site.copyist.log();
        for line in lines.lines().skip(log) {
            if line.contains("directory") && !line.contains("deferred") {
                println!("  {line}");
            }
        }
    }
    waited
}
