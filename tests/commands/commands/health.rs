//! A relay that is reachable but accepts no mail is reported everywhere.

use super::lab::{OUTSIDE, Site, Slapd, message, user, write};
use super::{get, json};

/// Returns the names and severities of online findings.
fn found(site: &Site<Slapd>) -> Vec<(String, String)> {
    // Not the machine's own Postfix.
    let postfix = site.copyist.config_file().with_file_name("postfix");
    std::fs::create_dir_all(&postfix).expect("made");
    write(&postfix.join("main.cf"), "compatibility_level = 3.6\n");
    write(&postfix.join("master.cf"), "");
    let postfix = postfix.to_str().expect("UTF-8");
    let doctor = ["doctor", "--online", "--json", "--postfix", postfix];
    let doctor = json(&site.copyist.command(&doctor));
    let findings = doctor["findings"].as_array().expect("a list").iter();
    let text = |of: &serde_json::Value| of.as_str().expect("a text").to_owned();
    findings
        .map(|one| (text(&one["name"]), text(&one["severity"])))
        .collect()
}

#[test]
fn a_relay_that_takes_nothing_is_an_error_everywhere() {
    let mut site = Site::<Slapd>::start("5m");
    // 5xx to every recipient: reports and NDRs are rejected.
    site.relay.restart_with(&["-f", "RCPT"]);
    let mut client = site.client(OUTSIDE);
    for n in 0..6 {
        let content = message(&format!("<n{n}@elsewhere.test>"), "x");
        let sent = client.send_message("a@elsewhere.test", &[&user(3)], &content);
        assert_eq!(sent.code, 250);
    }
    let admin = site.admin;
    let ready = site.wait_until("the notes are there", || {
        let ready = get(admin, "/readyz");
        let has = |part| ready.contains(part);
        (has("note: relay accepts no mail") && has("note: dead letters: 6")).then_some(ready)
    });
    assert!(
        ready.starts_with("HTTP/1.1 200"),
        "no reason to defer mail: {ready}"
    );
    let page = get(admin, "/");
    let at = |part: &str| {
        page.find(part)
            .unwrap_or_else(|| panic!("no {part:?}: {page}"))
    };
    let worst = at("Relay accepts no mail").max(at("6 dead letters"));
    assert!(worst < at("Directory reachable"), "the worst stands first");
    let error = |name: &str| (name.to_owned(), "error".to_owned());
    let names = found(&site);
    assert!(names.contains(&error("dead-letters")), "{names:?}");
    assert!(names.contains(&error("relay-takes-nothing")), "{names:?}");

    site.relay.restart_with(&[]);
    assert!(
        site.copyist
            .command(&["queue", "retry", "--all"])
            .status
            .success()
    );
    site.wait_until("it is ready without a note", || {
        get(admin, "/readyz").ends_with("ready\n").then_some(())
    });
    let names = found(&site);
    assert!(!names.contains(&error("dead-letters")), "{names:?}");
    assert!(!names.contains(&error("relay-takes-nothing")), "{names:?}");
}
