//! A change in the directory counts at once, on OpenLDAP and on Active Directory, with a ttl of an
//! hour.

use crate::lab;
use std::time::{Duration, Instant};

use copyist::directory::{Directory, Lookup, Target};
use copyist::mail::Address;
use lab::{DirectoryServer, OUTSIDE, Site, Slapd, message, user};

/// Nobody's attribute is set at the start.
const USER: usize = 4;

/// How often the change is timed.
const CHANGES: usize = 50;

/// How long an answer may be the old one before the test has failed; the ttl is five minutes.
const PATIENCE: Duration = lab::PATIENCE;

mod in_the_library {
    on_both_directories! {
        async
        every_answer_that_a_change_touches_is_asked_for_anew,
    }

    use super::{every_answer_that_a_change_touches_is_asked_for_anew, lab};
}

on_both_directories! {
    a_change_counts_for_the_next_message,
    changes_during_a_feed_outage_count_once_it_is_back,
}

fn start<D: DirectoryServer>(directory: D) -> Site<D> {
    let site = Site::start_with(directory, "1h");
    site.copyist.wait_for_log(0, "directory change feed up");
    site
}

/// Sends one message after the other until one is journaled as it should be, and gives the time
/// from the call to the moment when that one began.
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

fn changes_during_a_feed_outage_count_once_it_is_back<D: DirectoryServer>() {
    let mut site = start(D::start_with(10, |_| None));
    until_journaled(&site, "");
    let at = site.copyist.log_length();
    site.directory.stop();
    site.copyist
        .wait_for_log(at, "directory change feed interrupted");
    let at = site.copyist.log_length();
    site.directory.restart();
    site.directory
        .set_journal(USER, Some("meanwhile@archive.test"));
    site.copyist.wait_for_log(at, "directory change feed up");
    until_journaled(&site, "meanwhile@archive.test");
}

/// Asks until the answer is the wanted one.
async fn until<T: PartialEq + std::fmt::Debug, F: Future<Output = T>>(
    what: &str,
    wanted: T,
    ask: impl Fn() -> F,
) {
    let begun = Instant::now();
    loop {
        let got = ask().await;
        if got == wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {got:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn every_answer_that_a_change_touches_is_asked_for_anew<D: DirectoryServer>() {
    let server = D::start_with(10, |_| None);
    let group = server.add_group("group", &[server.user_dn(1)], &[]);
    let directory = Directory::open(server.access().directory()).expect("usable settings");
    let state = tempfile::tempdir().expect("the system has a temporary directory");
    directory.follow_changes(&state.path().join("place"));
    let address = |text: &str| Address::parse(text).expect("an address");
    let journal_of = async |text: &str| {
        let asked = address(text);
        match directory
            .find(std::slice::from_ref(&asked))
            .await
            .remove(&asked)
        {
            Some(Lookup::Found(objects)) => {
                let values = objects
                    .iter()
                    .flat_map(|o| o.values("extensionAttribute10"));
                Some(values.map(str::to_owned).collect::<Vec<_>>())
            }
            Some(Lookup::Absent) => None,
            other => panic!("{text}: {other:?}"),
        }
    };
    let target = Target::parse(&group).expect("a target");
    let members = async || {
        let answer = directory.resolve(std::slice::from_ref(&target)).await;
        let reached = answer[&target]
            .clone()
            .expect("an answer")
            .expect("members");
        reached
            .addresses
            .iter()
            .map(|one| one.address.to_string())
            .collect::<Vec<_>>()
    };
    let guarded = async || {
        let asked = address("u00006@example.test");
        lab::is_guarded(&directory, &[], &asked).await
    };
    // All of it is known, and would stay so for minutes.
    assert_eq!(journal_of("u00002@example.test").await, Some(vec![]));
    assert_eq!(journal_of("alias@example.test").await, None);
    assert_eq!(members().await, [user(1)]);
    assert!(!guarded().await);

    server.set_journal(2, Some("j@archive.test"));
    let journal = Some(vec!["j@archive.test".to_owned()]);
    until("a value", journal.clone(), || {
        journal_of("u00002@example.test")
    })
    .await;
    // An address that nobody had.
    server.modify(&format!(
        "dn: {}\nchangetype: modify\nadd: proxyAddresses\nproxyAddresses: smtp:alias@example.test\n",
        server.user_dn(2)
    ));
    until("an alias", journal, || journal_of("alias@example.test")).await;
    server.add_member(&group, &server.user_dn(3));
    until("a member", vec![user(1), user(3)], members).await;
    server.set_journal(5, Some(&server.user_dn(6)));
    until("a guarded mailbox", true, guarded).await;
    server.modify(&format!("dn: {}\nchangetype: delete\n", server.user_dn(2)));
    if D::TELLS_OF_DELETIONS {
        until("a person who left", None, || {
            journal_of("alias@example.test")
        })
        .await;
    }
    directory.close().await;
    let place = std::fs::read_to_string(state.path().join("place")).expect("it was written");
    assert!(
        place.starts_with("sync\t") || place.starts_with("usn\t"),
        "{place}"
    );
}

#[tokio::test]
async fn without_a_first_cursor_the_whole_content_is_sent_first() {
    let slapd = Slapd::start_with(400, |_| None);
    slapd.hide_change_numbers();
    let state = tempfile::tempdir().expect("the system has a temporary directory");
    let directory = Directory::open(slapd.access().directory()).expect("usable settings");
    directory.follow_changes(&state.path().join("place"));
    let asked = Address::parse(&user(2)).expect("an address");
    let value = async || match directory
        .find(std::slice::from_ref(&asked))
        .await
        .remove(&asked)
    {
        Some(Lookup::Found(objects)) => objects[0].values("extensionAttribute10").to_vec(),
        other => panic!("{other:?}"),
    };
    for round in 0..3 {
        let journal = format!("{round}@archive.test");
        slapd.set_journal(2, Some(&journal));
        until("a value", vec![journal], value).await;
    }
}

#[tokio::test]
async fn a_cursor_unknown_to_the_server_is_dropped() {
    let slapd = Slapd::start_with(10, |_| None);
    let state = tempfile::tempdir().expect("the system has a temporary directory");
    let file = state.path().join("place");
    // Of another server, which was ahead of this one.
    let ahead = "rid=000,csn=20990101000000.000000Z#000000#000#000000";
    std::fs::write(&file, format!("sync\t{ahead}\tdc=example,dc=test\n")).expect("it is ours");
    let directory = Directory::open(slapd.access().directory()).expect("usable settings");
    directory.follow_changes(&file);
    let asked = Address::parse(&user(2)).expect("an address");
    let journaled = async || {
        let answers = directory.find(std::slice::from_ref(&asked)).await;
        matches!(&answers[&asked], Lookup::Found(objects) if !objects[0].values("extensionAttribute10").is_empty())
    };
    assert!(!journaled().await);
    slapd.set_journal(2, Some("j@archive.test"));
    until("a value", true, journaled).await;
    directory.close().await;
    let place = std::fs::read_to_string(&file).expect("it was written");
    assert!(!place.contains(ahead), "{place}");
}
