//! A directory that answers slowly.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use copyist::directory::{CacheSettings, Directory};

use super::lab::{Fault, FaultProxy};
use super::slapd::Slapd;
use super::{find, names, open, settings};

/// A directory behind something that can hold its answers up; they are believed for so many seconds.
fn behind(slapd: &Slapd, ttl: u64) -> (FaultProxy, Directory) {
    let url = slapd.url();
    let server: SocketAddr = url
        .trim_start_matches("ldap://")
        .parse()
        .expect("an address");
    // It has a runtime of its own.
    let started = std::thread::spawn(move || FaultProxy::start(server));
    let proxy = started.join().expect("started");
    let mut settings = settings(&[format!("ldap://{}", proxy.address())]);
    settings.cache = CacheSettings {
        ttl: Duration::from_secs(ttl),
        ..CacheSettings::default()
    };
    (proxy, open(settings))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_directory_holds_up_nobody_who_is_known() {
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
