//! Bursts, large messages, many recipients and settings that change under load: nothing is lost,
//! and memory and disk stay within bounds.
//!
//! Figures are printed: `cargo test --test proofs load:: -- --nocapture`. `tests/proof/load` runs
//! the long forms; it sets these: `BURST` (messages), `LARGE_MIB` (size of a large message),
//! `RELOADS`; and `tests/proof/slow-directory` those with a slow directory and with very many
//! unknown recipients.

use crate::lab;
mod slow_directory;
mod unknown_recipients;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::{
    Books, Client, Copyist, DirectoryServer, OUTSIDE, Outcome, Rate, Report, Site, SiteOptions,
    Slapd, Traffic, message, setting, user,
};

/// The most anonymous memory (`RssAnon`) of the agent in a burst, in MiB.
const BURST_MEMORY: u64 = 128;
/// The most anonymous memory of the agent while large messages pass: so much of the messages under
/// way, and this many MiB.
const LARGE_MEMORY: (f64, f64) = (0.0, 64.0);
/// The most that the spool takes on disk: so much of the bodies in it, and this many MiB for the
/// database and its log.
const DISK: (f64, f64) = (1.05, 16.0);

const SESSIONS: usize = 200;
const MIB: usize = 1024 * 1024;

/// Looks at memory and disk all the time while something happens; gives the most that was seen, in
/// MiB.
fn watched<T>(copyist: &Copyist, happens: impl FnOnce() -> T) -> (T, u64, f64) {
    let (memory, disk) = (AtomicU64::new(0), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let happened = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                memory.fetch_max(copyist.status("RssAnon"), Ordering::Relaxed);
                disk.fetch_max(copyist.spool_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let happened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(happens));
        is_over.store(true, Ordering::Relaxed);
        happened
    });
    let happened = happened.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    (
        happened,
        memory.into_inner() / 1024,
        disk.into_inner() as f64 / MIB as f64,
    )
}

#[test]
fn a_burst_during_a_relay_outage_is_queued_and_delivered_later() {
    let _alone = crate::alone();
    let messages: usize = setting("BURST", 2000);
    let mut site = Site::<Slapd>::start_as(
        Slapd::start(1000),
        SiteOptions {
            postfix: vec!["default_process_limit = 250".to_owned()],
            ..SiteOptions::default()
        },
    );
    site.relay.stop();
    let (next, server) = (AtomicUsize::new(0), site.postfix.smtp_addr());
    let begun = Instant::now();
    let ((), memory, disk) = watched(&site.copyist, || {
        std::thread::scope(|scope| {
            for _ in 0..SESSIONS {
                scope.spawn(|| send_until(&next, messages, server));
            }
        });
    });
    let took = begun.elapsed();
    assert_eq!(site.copyist.queued(), messages);
    site.relay.restart();
    let back = Instant::now();
    lab::wait("the first report", Duration::from_secs(90), || {
        site.relay.count() > 0
    });
    let first = back.elapsed();
    let ((), draining, _) = watched(&site.copyist, || {
        lab::wait("the queue is empty", Duration::from_secs(600), || {
            site.copyist.queued() == 0
        });
    });
    let drained = back.elapsed() - first;
    println!(
        "{messages} messages over {SESSIONS} sessions in {took:?} ({:.0}/s) while the relay was away, spool {disk:.1} MiB; \
         first report {first:?} after it was back, then {:.0}/s; anonymous memory {memory} MiB at most, {draining} MiB \
         while draining",
        messages as f64 / took.as_secs_f64(),
        messages as f64 / drained.as_secs_f64(),
    );
    let mut about: Vec<String> = site
        .reports()
        .into_iter()
        .map(|report| report.about)
        .collect();
    about.sort();
    about.dedup();
    assert_eq!(about.len(), messages, "reports are missing");
    assert!(
        memory.max(draining) <= BURST_MEMORY,
        "{memory} and {draining} MiB"
    );
}

fn send_until(next: &AtomicUsize, messages: usize, server: std::net::SocketAddr) {
    let mut client = Client::connect_from(OUTSIDE, server);
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= messages {
            return client.quit();
        }
        let content = message(&format!("<{n}@elsewhere.test>"), &"burst ".repeat(300));
        let reply = client.send_message("a@elsewhere.test", &[&user(n * 3 % 999)], &content);
        assert_eq!(reply.code, 250, "nothing is refused: {reply:?}");
    }
}

/// A message of this size, whose lines are all different.
fn large(id: &str, bytes: usize) -> String {
    let mut text = message(id, "large");
    text.reserve(bytes + 100);
    while text.len() < bytes {
        let _ = writeln!(
            text,
            "{:060} {:08x}\r",
            text.len(),
            text.len() * 2_654_435_761 % 0xffff_ffff
        );
    }
    text
}

/// A site that takes messages of this size.
fn site_for(slapd: Slapd, bytes: usize) -> Site<Slapd> {
    let limit = bytes + bytes / 10 + MIB;
    Site::start_as(
        slapd,
        SiteOptions {
            postfix: vec![
                format!("message_size_limit = {limit}"),
                "mailbox_size_limit = 0".to_owned(),
            ],
            ..SiteOptions::default()
        },
    )
}

/// Has large messages pass at the same time, first to a relay that is away, so that all of them are
/// on disk.
fn pass(site: &mut Site<Slapd>, what: &str, messages: &[(String, Vec<String>)]) {
    site.relay.stop();
    let server = site.postfix.smtp_addr();
    let begun = Instant::now();
    let ((), memory, disk) = watched(&site.copyist, || {
        std::thread::scope(|scope| {
            for (content, to) in messages {
                scope.spawn(move || {
                    let mut client = Client::connect_from(OUTSIDE, server);
                    let to: Vec<&str> = to.iter().map(String::as_str).collect();
                    let reply = client.send_message("a@elsewhere.test", &to, content);
                    assert_eq!(reply.code, 250, "{reply:?}");
                });
            }
        });
    });
    let took = begun.elapsed();
    site.relay.restart();
    let back = Instant::now();
    let ((), delivering, _) = watched(&site.copyist, || {
        lab::wait("the queue is empty", Duration::from_secs(300), || {
            site.copyist.queued() == 0
        });
    });
    let bodies = messages
        .iter()
        .map(|(content, _)| content.len())
        .sum::<usize>() as f64
        / MIB as f64;
    println!(
        "{what}: {bodies:.1} MiB accepted in {took:?} and delivered {:?} after the relay was back; anonymous memory {memory} \
         MiB at most, {delivering} MiB while delivering; spool {disk:.1} MiB, {:.3} of the bodies",
        back.elapsed(),
        disk / bodies
    );
    assert!(
        disk <= bodies * DISK.0 + DISK.1,
        "{what}: {disk} MiB on disk"
    );
    let most = bodies * LARGE_MEMORY.0 + LARGE_MEMORY.1;
    assert!(
        memory.max(delivering) as f64 <= most,
        "{what}: {memory} and {delivering} MiB"
    );
}

#[test]
fn large_messages_cost_their_size_on_disk_and_little_memory() {
    let _alone = crate::alone();
    let bytes = setting("LARGE_MIB", 24) * MIB;
    let mut site = site_for(Slapd::start(10), bytes);
    let to = |n: usize| vec![user(n * 3)];
    let whole = large("<0@elsewhere.test>", bytes);
    pass(&mut site, "one message", &[(whole.clone(), to(0))]);
    check(&site, "<0@elsewhere.test>", &whole);
    let five: Vec<_> = (1..=5)
        .map(|n| (large(&format!("<{n}@elsewhere.test>"), bytes), to(n % 3)))
        .collect();
    pass(&mut site, "five at the same time", &five);
    for (n, (whole, _)) in (1..).zip(&five) {
        check(&site, &format!("<{n}@elsewhere.test>"), whole);
    }
}

/// The report about a message holds all of it.
fn check(site: &Site<Slapd>, id: &str, whole: &str) {
    let mut found = 0;
    site.relay.harvest(
        |text| Report::read(text).about == id,
        |text| {
            let report = Report::read(text);
            assert!(report.is_whole, "{id}");
            // Postfix puts its own fields in front, and smtp-sink makes line ends its own.
            let whole = whole.replace("\r\n", "\n");
            assert!(
                report.original.trim_end().ends_with(whole.trim_end()),
                "another original: {id}"
            );
            found += 1;
        },
    );
    assert_eq!(found, 1, "reports about {id}");
}

#[test]
fn a_thousand_journal_addresses_share_one_stored_body() {
    let _alone = crate::alone();
    let bytes = setting("LARGE_MIB", 24) * MIB / 5;
    let slapd = Slapd::start_with(1000, |n| Some(format!("journal-{n}@archive.test")));
    let mut site = site_for(slapd, bytes);
    let to: Vec<String> = (0..1000).map(user).collect();
    let whole = large("<0@elsewhere.test>", bytes);
    pass(
        &mut site,
        "a thousand recipients, a thousand journal addresses",
        &[(whole, to)],
    );
    let mut reached: Vec<String> = site
        .reports()
        .into_iter()
        .flat_map(|report| report.recipients)
        .collect();
    reached.sort();
    let mut expected: Vec<String> = (0..1000)
        .map(|n| format!("journal-{n}@archive.test"))
        .collect();
    expected.sort();
    assert!(
        reached == expected,
        "{} journal addresses were reached",
        reached.len()
    );
}

/// Ways to spoil a configuration, each found out at another step.
const BAD: [fn(&str) -> String; 4] = [
    |good| good.replace("[relay]", "[relay"),
    |good| format!("{good}\n[no_such_section]\nkey = 1\n"),
    |good| good.replace("timeout = \"", "timeout = \"soon "),
    |good| good.replace("bind_password_file = \"", "bind_password_file = \"/nowhere"),
];

#[test]
fn good_and_bad_settings_in_turn_fail_no_session() {
    let _alone = crate::alone();
    let reloads: usize = setting("RELOADS", 20);
    let mut site = Site::<Slapd>::start("5m");
    let rate = Rate {
        per_second: 50.0,
        clients: 8,
    };
    let traffic = Traffic::start(site.postfix.smtp_addr(), rate);
    let mut books = Books::default();
    for n in 0..reloads {
        // Settings that really change: of the directory, so that it is opened anew, or of what is
        // less dear.
        let good = match n % 2 {
            0 => site.config.replace("timeout = \"3s\"", "timeout = \"4s\""),
            _ => site.config.clone(),
        };
        let spoil = BAD[n % BAD.len()];
        assert_ne!(spoil(&good), good, "it must be spoilt");
        for (config, said) in [
            (
                spoil(&good),
                "reload failed; keeping the previous configuration",
            ),
            (good, "configuration reloaded"),
        ] {
            let accepted = traffic.accepted();
            let log = site.copyist.log_length();
            site.copyist.write_config(&config);
            site.copyist.hup();
            site.copyist.wait_for_log(log, said);
            lab::wait("mail under these settings", lab::PATIENCE, || {
                traffic.accepted() > accepted
            });
        }
        books.enter_reports(&site.relay);
        books.enter_mail(&site.mail);
    }
    let took = traffic.elapsed();
    let tries = traffic.finish();
    lab::wait("the queue is empty", lab::PATIENCE, || {
        site.copyist.queued() == 0
    });
    lab::wait("all mail is delivered", lab::PATIENCE, || {
        site.postfix.flush();
        site.postfix.queue_length() == 0
    });
    books.enter_reports(&site.relay);
    books.enter_mail(&site.mail);
    println!(
        "{reloads} good and {reloads} bad configurations in {took:?}, {} messages meanwhile",
        tries.len()
    );
    let failed: Vec<_> = tries
        .iter()
        .filter(|one| one.outcome != Outcome::Accepted)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let account = books.close(&tries);
    account.print();
    account.assert_complete();
    assert_eq!(account.duplicates, 0);
}
