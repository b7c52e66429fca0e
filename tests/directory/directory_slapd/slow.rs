//! A directory that answers slowly.

use std::time::{Duration, Instant};

use copyist::directory::{CacheSettings, Directory, Health, Lookup};

use super::lab::{Fault, FaultProxy, PATIENCE};
use super::slapd::Slapd;
use super::{find, names, open, recovered, settings, with};

/// Something in front of a server that can hold its answers up.
fn proxy_of(slapd: &Slapd) -> FaultProxy {
    let server = slapd.address();
    // It has a runtime of its own.
    let started = std::thread::spawn(move || FaultProxy::start(server));
    started.join().expect("started")
}

/// A directory behind such a thing; its answers are believed for so many seconds.
fn behind(slapd: &Slapd, ttl: u64) -> (FaultProxy, Directory) {
    let proxy = proxy_of(slapd);
    let mut settings = settings(&[format!("ldap://{}", proxy.address())]);
    settings.cache = CacheSettings {
        ttl: Duration::from_secs(ttl),
        ..CacheSettings::default()
    };
    (proxy, open(settings))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_directory_does_not_delay_mail_of_known_people() {
    let slapd = Slapd::start();
    let (proxy, directory) = behind(&slapd, 2);
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
    proxy.set(Fault::Delay(Duration::from_millis(200)));
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    // 0.4 s for an answer, over several of its lives.
    while begun.elapsed() < Duration::from_secs(8) {
        let asked = Instant::now();
        assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(longest < Duration::from_millis(350), "{longest:?}");
}

/// Behind two thirds of the time for an answer: a question that needs several of them has time for
/// each.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_waited_for_and_hides_nothing() {
    let slapd = Slapd::start();
    let proxy = proxy_of(&slapd);
    let directory = open(with(&[format!("ldap://{}", proxy.address())], |ldap| {
        ldap.timeout = Duration::from_secs(3);
    }));
    // Somebody with the journal attribute was seen, so that each absence needs a proof.
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
    assert_eq!(names(find(&directory, "ana@example.test").await), ["Ana"]);
    proxy.set(Fault::Latency(Duration::from_secs(2)));
    for _ in 0..2 {
        let (found, absent) = tokio::join!(
            find(&directory, "eve@example.test"),
            find(&directory, "nobody@example.test")
        );
        assert_eq!(names(found), ["Eve"]);
        assert_eq!(absent, Lookup::Absent);
    }
    assert_eq!(directory.health(), Health::Ok);
    // Nor is it when it is entered: each step has a time of its own.
    proxy.set(Fault::Reset);
    proxy.set(Fault::Latency(Duration::from_secs(2)));
    let begun = Instant::now();
    while find(&directory, "nobody@example.test").await != Lookup::Absent {
        assert!(begun.elapsed() < PATIENCE, "{:?}", directory.health());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_left_for_a_faster_one() {
    let (first, second) = (Slapd::start(), Slapd::start());
    let proxy = proxy_of(&first);
    let directory = open(settings(&[
        format!("ldap://{}", proxy.address()),
        second.url(),
    ]));
    recovered(&directory).await;
    let asked = |slapd: &Slapd| slapd.logged("ana@example.test");
    let find_ana = async || {
        assert_eq!(names(find(&directory, "ana@example.test").await), ["Ana"]);
        assert_eq!(directory.health(), Health::Ok);
    };
    find_ana().await;
    assert_eq!(asked(&second), 0);
    proxy.set(Fault::Latency(Duration::from_millis(1500)));
    let begun = Instant::now();
    while asked(&second) == 0 {
        assert!(begun.elapsed() < PATIENCE, "it is not left");
        find_ana().await;
    }
    println!("left after {:?}", begun.elapsed());
    proxy.set(Fault::Pass);
    let before = asked(&first);
    let begun = Instant::now();
    while asked(&first) == before {
        assert!(begun.elapsed() < 2 * PATIENCE, "it is not used again");
        find_ana().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("used again after {:?}", begun.elapsed());
}
