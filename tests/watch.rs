//! A change in the directory counts at once, on OpenLDAP and on Active Directory, with a ttl of an hour.

#[macro_use]
mod lab;

use std::time::{Duration, Instant};

use lab::{DirectoryServer, OUTSIDE, Site, message, user};

/// Nobody's attribute is set at the start.
const USER: usize = 4;

/// How often the change is timed.
const CHANGES: usize = 50;

on_both_directories! {
    a_change_counts_for_the_next_message,
    what_changes_while_nobody_can_watch_counts_when_it_is_seen_again,
}

fn start<D: DirectoryServer>(directory: D) -> Site<D> {
    let site = Site::start_with(directory, "1h");
    site.copyist.wait_for_log(0, "count at once");
    site
}

/// Sends one message after the other until one is journaled as it should be, and gives the time from the call
/// to the moment when that one began.
fn until_journaled<D: DirectoryServer>(site: &Site<D>, wanted: &str) -> Duration {
    let changed = Instant::now();
    let mut client = site.client(OUTSIDE);
    loop {
        let sent = changed.elapsed();
        let content = message("<watch@elsewhere.test>", "x");
        let reply = client.send_message("a@elsewhere.test", &[&user(USER)], &content);
        assert_eq!(reply.code, 250, "{reply:?}");
        // The line is written before the message is let go.
        if site.copyist.log().contains(wanted) {
            return sent;
        }
        assert!(
            sent < lab::PATIENCE,
            "{wanted} is not seen\n{}",
            site.copyist.log()
        );
    }
}

fn a_change_counts_for_the_next_message<D: DirectoryServer>() {
    let site = start(D::start_with(10, |_| None));
    // Known from now on as somebody without a journal address.
    until_journaled(&site, "");
    let mut took: Vec<Duration> = (0..CHANGES)
        .map(|round| {
            let journal = format!("round-{round}@archive.test");
            site.directory.set_journal(USER, Some(&journal));
            until_journaled(&site, &journal)
        })
        .collect();
    took.sort();
    println!(
        "a change counted after {:?} in the median of {CHANGES}, {:?} at worst",
        took[CHANGES / 2],
        took[CHANGES - 1]
    );
    assert!(took[CHANGES - 1] < Duration::from_secs(60), "{took:?}");
}

fn what_changes_while_nobody_can_watch_counts_when_it_is_seen_again<D: DirectoryServer>() {
    let mut site = start(D::start_with(10, |_| None));
    until_journaled(&site, "");
    let at = site.copyist.log_length();
    site.directory.stop();
    site.copyist.wait_for_log(at, "lost sight of changes");
    let at = site.copyist.log_length();
    site.directory.restart();
    site.directory
        .set_journal(USER, Some("meanwhile@archive.test"));
    site.copyist.wait_for_log(at, "count at once");
    until_journaled(&site, "meanwhile@archive.test");
}
