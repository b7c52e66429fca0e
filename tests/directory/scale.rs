//! The cost of a large directory, printed: 100,000 users in OpenLDAP, followed by syncrepl.

use crate::lab;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lab::{DirectoryServer, OUTSIDE, Site, Slapd, message, user};

/// Users in the directory.
const USERS: usize = 100_000;
/// Those who get mail, each of them some.
const ADDRESSEES: usize = 1000;

#[test]
fn a_hundred_thousand_users_cause_no_repeated_query() {
    let begun = Instant::now();
    let slapd = Slapd::start(USERS);
    println!(
        "{USERS} users loaded and served after {:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    let site = Site::start_with(slapd, "1h");
    site.copyist.wait_for_log(0, "directory change feed up");
    println!(
        "changes are followed {:?} after the start of everything",
        begun.elapsed()
    );

    let begun = Instant::now();
    let coverage = site.copyist.command(&["coverage", "--csv"]);
    let rows = coverage
        .stdout
        .iter()
        .filter(|byte| **byte == b'\n')
        .count();
    println!("copyist coverage: {rows} rows in {:?}", begun.elapsed());
    assert_eq!(
        rows,
        USERS + 1,
        "{}",
        String::from_utf8_lossy(&coverage.stderr)
    );

    // One message for all of them, whom nobody has asked for so far.
    let everybody: Vec<String> = (0..ADDRESSEES).map(user).collect();
    let everybody: Vec<&str> = everybody.iter().map(String::as_str).collect();
    let mut client = site.client(OUTSIDE);
    for round in ["unknown", "known"] {
        let (before, begun) = (searches(&site), Instant::now());
        let reply = client.send_message(
            "a@elsewhere.test",
            &everybody,
            &message(&format!("<{round}@elsewhere.test>"), "x"),
        );
        assert_eq!(reply.code, 250, "{reply:?}");
        println!(
            "one message to {ADDRESSEES} {round} people: {} searches, {:?}",
            searches(&site) - before,
            begun.elapsed()
        );
    }
    let (before, begun) = (searches(&site), Instant::now());
    for (n, to) in everybody.iter().enumerate() {
        let content = message(&format!("<steady-{n}@elsewhere.test>"), "x");
        let reply = client.send_message("a@elsewhere.test", &[to], &content);
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    let asked = searches(&site) - before;
    println!(
        "then {ADDRESSEES} messages to one of them each, on one connection: {asked} searches, {:?}",
        begun.elapsed()
    );
    assert_eq!(asked, 0, "every answer was known");
    println!("resident memory: {} kB", resident(&site));

    // Many changes at once do not hold up mail, and count.
    let changes: String = (1..=1000)
        .map(|n| {
            let dn = site.directory.user_dn(3 * n + 1);
            format!("dn: {dn}\nchangetype: modify\nreplace: extensionAttribute10\nextensionAttribute10: all@archive.test\n\n")
        })
        .collect();
    let begun = Instant::now();
    site.directory.modify(&changes);
    let modified = begun.elapsed();
    let mut slowest = Duration::ZERO;
    loop {
        let sent = Instant::now();
        let reply = client.send_message(
            "a@elsewhere.test",
            &[&user(4)],
            &message("<after@elsewhere.test>", "x"),
        );
        assert_eq!(reply.code, 250, "{reply:?}");
        slowest = slowest.max(sent.elapsed());
        if site.copyist.log().contains("all@archive.test") {
            break;
        }
        assert!(begun.elapsed() < lab::PATIENCE, "the change is not seen");
    }
    println!(
        "1,000 changes took ldapmodify {modified:?}; they counted {:?} later, and the slowest message meanwhile took {slowest:?}",
        begun.elapsed() - modified
    );
}

/// How many searches the agent has made.
fn searches(site: &Site<Slapd>) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", site.admin)).expect("it listens");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("copyist_directory_search_seconds_count "));
    count.map_or(0, |count| count.trim().parse().expect("a number"))
}

/// The agent's resident memory in kB.
fn resident(site: &Site<Slapd>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.copyist.id()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number of kB")
}
