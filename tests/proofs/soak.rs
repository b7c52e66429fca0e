//! Soak: mail at a steady rate for a long time while the relay is away, the directory is started
//! anew and the settings are read again from time to time; one process from the beginning to the
//! end, which must not grow, slow down or lose anything.
//!
//! `cargo test --test proofs soak:: -- --nocapture` is the short form. `tests/proof/soak` runs the
//! long one; it sets these: `SOAK_SECONDS`, `RATE` in messages a second, and `SOAK_OUT`, the
//! directory for what was measured.

use crate::lab;
mod figures;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use figures::{Figures, Sample, percentile, slope};
use lab::{
    Attempt, Books, DirectoryServer, Outcome, Postfix, PostfixOptions, Rate, Site, SiteOptions,
    Slapd, SmtpSink, Traffic, setting,
};

/// From so many seconds on a run is a long one, and judged by its figures.
const LONG: u64 = 1800;
/// Seconds until the caches, SQLite's and the allocator's among them, have filled: what memory does
/// before is not growth. Two runs of the same binary grew by some 3 MiB in their first fifty
/// minutes, and the one that went on for two hours by nothing after.
const WARM: u64 = 3000;
/// The most that anonymous memory may grow after the warm-up, in MiB an hour.
const GROWTH: f64 = 1.0;
/// How well that growth must be known, in MiB an hour: a run whose memory swings more has shown
/// nothing, and must be longer.
const KNOWN: f64 = 2.0;
/// The most open files and sockets that may be there in the last third more than in the first, on
/// average.
const DESCRIPTORS: f64 = 4.0;
/// The most that Copyist may add to the 99th percentile of a transaction's time while nothing is
/// broken.
const ADDED: Duration = Duration::from_millis(50);
/// Beside each such number of messages through Copyist one goes through a Postfix without it.
const BESIDE: f64 = 5.0;

/// The disturbances of the site, in turn.
const DISTURBANCES: [&str; 3] = [
    "relay away",
    "directory started anew",
    "settings read again",
];

#[test]
fn a_long_run_neither_grows_nor_slows_down_nor_loses_anything() {
    let _alone = crate::alone();
    let seconds: u64 = setting("SOAK_SECONDS", 15);
    let kept = tempfile::tempdir().expect("the system has a temporary directory");
    let out = std::env::var_os("SOAK_OUT").map_or(kept.path().to_owned(), PathBuf::from);
    let per_second = setting("RATE", 50.0);
    let site = Site::<Slapd>::start_as(
        Slapd::start(1000),
        SiteOptions {
            ttl: "5s",
            ..SiteOptions::default()
        },
    );
    let plain_sink = SmtpSink::start();
    let plain = Postfix::start(&PostfixOptions {
        milter: None,
        deliver_to: plain_sink.address(),
        extra: Vec::new(),
    });
    let traffic = |postfix: &Postfix, per_second: f64| {
        let clients = 8;
        Traffic::start(
            postfix.smtp_addr(),
            Rate {
                per_second,
                clients,
            },
        )
    };
    let beside = traffic(&plain, per_second / BESIDE);
    let mut soak = Soak {
        traffic: traffic(&site.postfix, per_second),
        length: Duration::from_secs(seconds),
        books: Books::default(),
        figures: Figures::create(&out),
        broken: Vec::new(),
        site,
    };
    soak.go_on_to_the_end();
    let Soak {
        site,
        traffic,
        mut books,
        mut figures,
        broken,
        ..
    } = soak;
    let plain_tries = beside.finish();
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
    let account = books.close(&tries);

    // A try that began before something was broken may end after it.
    let is_calm = |one: &&Attempt| {
        !broken
            .iter()
            .any(|(from, to)| one.at < *to && one.at + one.took >= *from)
    };
    let through = took(tries.iter().filter(is_calm));
    let without = took(plain_tries.iter().filter(is_calm));
    figures.say(&format!(
        "{seconds} s, {per_second} messages a second beside {} without Copyist",
        per_second / BESIDE
    ));
    let all = took(tries.iter());
    figures.say(&format!(
        "transaction with Copyist: {}; while nothing was broken: {}",
        line(&all),
        line(&through)
    ));
    figures.say(&format!("transaction without: {}", line(&without)));
    figures.say(&format!(
        "from the last byte to the verdict, as Copyist logs it: {}",
        line(&verdicts(&site.copyist.log()))
    ));
    let added = percentile(&through, 0.99).saturating_sub(percentile(&without, 0.99));
    figures.say(&format!("added to the 99th percentile: {added:?}"));
    let warm: Vec<&Sample> = figures
        .samples
        .iter()
        .filter(|sample| sample.at.as_secs() >= WARM.min(seconds / 2))
        .collect();
    let growth = |value: fn(&Sample) -> f64| slope(&warm, value);
    let (anonymous, within) = growth(|sample| sample.anonymous);
    let (resident, resident_within) = growth(|sample| sample.resident);
    let third = warm.len() / 3;
    let descriptors = |samples: &[&Sample]| {
        samples.iter().map(|sample| sample.descriptors).sum::<f64>() / samples.len().max(1) as f64
    };
    let more = descriptors(&warm[warm.len() - third..]) - descriptors(&warm[..third]);
    figures.say(&match seconds {
        LONG.. => format!(
            "after {} s: anonymous memory {anonymous:+.2} ± {within:.2} MiB/h, \
             resident {resident:+.2} ± {resident_within:.2} MiB/h, descriptors {more:+.1}",
            WARM.min(seconds / 2)
        ),
        // The caches are still filling.
        _ => format!("below {LONG} s nothing is said of growth"),
    });
    figures.plot(&tries, &plain_tries);
    account.print();
    account.assert_complete();
    // While the directory is away nobody can say whether somebody never seen before is journaled.
    let deferred = tries.iter().filter(is_calm);
    let deferred: Vec<&Attempt> = deferred
        .filter(|one| one.outcome != Outcome::Accepted)
        .collect();
    assert!(
        deferred.is_empty(),
        "deferred while nothing was broken: {deferred:?}"
    );
    if seconds >= 2 * WARM {
        assert!(
            within < KNOWN,
            "growth is known to ± {within} MiB/h only: run for longer"
        );
        // A slope within what the swing of the values makes shows nothing.
        assert!(
            anonymous - within < GROWTH,
            "anonymous memory grows by {anonymous} ± {within} MiB/h"
        );
    }
    if seconds >= LONG {
        assert!(more < DESCRIPTORS, "{more} descriptors more");
        assert!(added < ADDED, "{added:?} were added");
    }
}

/// A run under way.
struct Soak {
    traffic: Traffic,
    length: Duration,
    books: Books,
    figures: Figures,
    /// When something was broken.
    broken: Vec<(Duration, Duration)>,
    site: Site<Slapd>,
}

impl Soak {
    fn go_on_to_the_end(&mut self) {
        let process = self.site.copyist.id();
        let every = (self.length / 12).clamp(Duration::from_secs(4), Duration::from_secs(120));
        let look = (self.length / 60).clamp(Duration::from_millis(500), Duration::from_secs(5));
        let mut disturbed = 0;
        let mut told = Instant::now();
        while self.traffic.elapsed() < self.length {
            std::thread::sleep(look);
            self.sample();
            if self.traffic.elapsed() > every * (disturbed + 1) {
                self.disturb(DISTURBANCES[disturbed as usize % DISTURBANCES.len()]);
                disturbed += 1;
            }
            self.books.enter_reports(&self.site.relay);
            self.books.enter_mail(&self.site.mail);
            if told.elapsed() > Duration::from_secs(30) {
                told = Instant::now();
                let last = self.figures.samples.last().expect("one was just taken");
                println!(
                    "{:?} of {:?}: {} messages accepted, {} with a report; {last}",
                    self.traffic.elapsed(),
                    self.length,
                    self.traffic.accepted(),
                    self.books.reported(),
                );
            }
        }
        assert_eq!(process, self.site.copyist.id(), "it is one process");
    }

    fn sample(&mut self) {
        let copyist = &self.site.copyist;
        let mib = |name| copyist.status(name) as f64 / 1024.0;
        self.figures.add(Sample {
            at: self.traffic.elapsed(),
            anonymous: mib("RssAnon"),
            resident: mib("VmRSS"),
            descriptors: copyist.descriptors() as f64,
            threads: copyist.status("Threads") as f64,
            queued: self.site.metric("copyist_spool_items"),
        });
    }

    fn disturb(&mut self, what: &str) {
        let from = self.traffic.elapsed();
        match what {
            "relay away" => {
                self.site.relay.stop();
                let away = Instant::now();
                while away.elapsed()
                    < (self.length / 60).clamp(Duration::from_secs(2), Duration::from_secs(15))
                {
                    std::thread::sleep(Duration::from_millis(500));
                    self.sample();
                }
                self.site.relay.restart();
            }
            "directory started anew" => self.site.directory.restart(),
            _ => {
                let log = self.site.copyist.log_length();
                self.site.copyist.write_config(&self.site.config);
                self.site.copyist.hup();
                self.site
                    .copyist
                    .wait_for_log(log, "configuration reloaded");
            }
        }
        // What had to wait comes at once afterwards.
        self.broken
            .push((from, self.traffic.elapsed() + Duration::from_secs(2)));
    }
}

/// How long accepted tries took, shortest first.
fn took<'a>(tries: impl Iterator<Item = &'a Attempt>) -> Vec<Duration> {
    let accepted = tries.filter(|one| one.outcome == Outcome::Accepted);
    let mut took: Vec<Duration> = accepted.map(|one| one.took).collect();
    took.sort();
    took
}

/// The times in Copyist's log, shortest first.
fn verdicts(log: &str) -> Vec<Duration> {
    let read = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once(" ms=")?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Duration::from_millis(digits.parse().ok()?))
    });
    let mut all: Vec<Duration> = read.collect();
    all.sort();
    all
}

fn line(took: &[Duration]) -> String {
    let ms = |part| percentile(took, part).as_secs_f64() * 1000.0;
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms of {}",
        ms(0.5),
        ms(0.99),
        ms(1.0),
        took.len()
    )
}
