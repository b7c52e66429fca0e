//! The commands and the service's signals, as an operator uses them.

use crate::lab;
mod escaping;
mod health;
mod remedies;

use std::process::Output;

use lab::{DOMAIN, DirectoryServer, INSIDE, OUTSIDE, Site, Slapd, SmtpSink, message, user};
use serde_json::Value;

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no JSON ({error}): {output:?}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Returns the response of the admin listener, including its head.
fn get(admin: u16, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", admin)).expect("it listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}

#[test]
fn check_online_tries_directory_and_relay() {
    let mut site = Site::<Slapd>::start("5m");
    let fine = site.copyist.command(&["check", "--online"]);
    assert!(fine.status.success(), "{}", text(&fine));
    for what in ["configuration", "milter inet:", "directory", "relay"] {
        assert!(
            text(&fine).contains(&format!("ok     {what}")),
            "{}",
            text(&fine)
        );
    }
    site.directory.stop();
    site.relay.stop();
    let failed = site.copyist.command(&["check", "--online", "--json"]);
    assert_eq!(failed.status.code(), Some(1));
    let findings = json(&failed);
    let fine: Vec<bool> = findings
        .as_array()
        .expect("a list")
        .iter()
        .map(|finding| finding["fine"] == true)
        .collect();
    assert_eq!(fine, [true, true, false, false], "{findings}");
}

#[test]
fn check_lists_smtp_listeners_and_tests_their_next_hops() {
    let site = Site::<Slapd>::start("5m");
    let mut behind = SmtpSink::start();
    let next_hop = behind.address();
    let listener = |listen: &str, more: &str| {
        format!("[[hook.smtp]]\nlisten = \"{listen}\"\nnext_hop = \"{next_hop}\"\n{more}\n")
    };
    let inbound = listener("127.0.0.1:25", "direction = \"inbound\"");
    let strict = listener(
        "[::1]:26",
        "mode = \"after-queue\"\nproxy_protocol = true\nnext_hop_tls = \"required\"",
    );
    let config = &site.config;
    site.copyist
        .write_config(&format!("{config}\n{inbound}{strict}"));
    let said = text(&site.copyist.command(&["check"]));
    for line in [
        format!(
            "ok     smtp 127.0.0.1:25: configured: before the queue, to {next_hop}, inbound; bare CR and LF are rejected\n"
        ),
        format!(
            "ok     smtp [::1]:26: configured: after the queue, to {next_hop}, PROXY protocol; bare CR and LF are converted to CRLF\n"
        ),
    ] {
        assert!(said.contains(&line), "{line:?} is missing in\n{said}");
    }
    assert!(!said.contains("next hop"), "nothing is tried:\n{said}");
    let tried = site.copyist.command(&["check", "--online"]);
    assert_eq!(tried.status.code(), Some(1), "{}", text(&tried));
    let said = text(&tried);
    for line in [
        format!("ok     next hop {next_hop}: reachable, not encrypted\n"),
        format!("FAILED next hop {next_hop}: does not offer STARTTLS, and TLS is \"required\"\n"),
    ] {
        assert!(said.contains(&line), "{line:?} is missing in\n{said}");
    }
    site.copyist.write_config(&format!("{config}\n{inbound}"));
    behind.stop();
    let tried = site.copyist.command(&["check", "--online"]);
    assert_eq!(tried.status.code(), Some(1));
    let line = format!("FAILED next hop {next_hop}: cannot connect: ");
    assert!(text(&tried).contains(&line), "{}", text(&tried));
}

#[test]
fn explain_shows_copies_and_reasons_and_sends_nothing() {
    let site = Site::<Slapd>::start("5m");
    let (journaled, journal) = (user(3), "journal-3@archive.test");
    let asked = [
        "explain",
        "--from",
        "a@elsewhere.test",
        "--to",
        &journaled,
        journal,
        "--client",
        "192.0.2.1",
    ];
    let said = text(&site.copyist.command(&asked));
    for part in [
        "the sender is external",
        &format!("to {journaled}: inbound\n"),
        &format!("to {journal}: inbound; rejected with 550"),
        &format!(
            "one report from in-ndr@{DOMAIN} (inbound)\n  to {journal}\n     because of inbound.journal_attribute"
        ),
        "extensionAttribute10 of uid=u00003,",
    ] {
        assert!(said.contains(part), "{part:?} is missing in\n{said}");
    }
    let asked = [
        "explain", "--from", "<>", "--to", &journaled, "--auth", "u00004", "--json",
    ];
    let said = json(&site.copyist.command(&asked));
    assert_eq!(said["sender_is_ours"], true);
    assert_eq!(said["recipients"][0]["direction"], "internal");
    assert_eq!(said["copies"][0]["targets"][0]["address"], journal);
    assert_eq!(site.relay.count(), 0);
    let wrong = site.copyist.command(&[
        "explain",
        "--from",
        "a@b.test, c@d.test",
        "--to",
        &journaled,
    ]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    let wrong = site
        .copyist
        .command(&["explain", "--from", "<>", "--to", &journaled, "\"a"]);
    assert!(text(&wrong).contains("--to: "), "{}", text(&wrong));
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
}

#[test]
fn explain_accepts_smtp_paths_and_shows_each_step() {
    let site = Site::<Slapd>::start("5m");
    let journaled = user(3);
    let (local, domain) = journaled.split_once('@').expect("an address");
    let route = format!("{local}%{domain}@{domain}");
    let quoted = format!("\"{journaled}\"@{domain}");
    for (to, step) in [
        (local, "as written"),
        (&*route, "local part read as a route"),
        (&*quoted, "local part read as a route"),
    ] {
        let asked = [
            "explain",
            "--from",
            "a@elsewhere.test",
            "--to",
            to,
            "--client",
            "192.0.2.1",
        ];
        let said = text(&site.copyist.command(&asked));
        for part in [
            step,
            "to journal-3@archive.test",
            "neither authenticated nor",
        ] {
            assert!(said.contains(part), "{to}: {part:?} is missing in\n{said}");
        }
    }
    let asked = [
        "explain",
        "--from",
        "<>",
        "--to",
        "\"a b\"@x.test",
        "--json",
    ];
    let said = json(&site.copyist.command(&asked));
    assert_eq!(said["recipients"][0]["address"], "\"a b\"@x.test");
}

#[test]
fn an_alias_to_a_command_keeps_its_mailbox_journaled() {
    let site = Site::<Slapd>::start("5m");
    let directory = tempfile::tempdir().expect("a directory");
    let map = directory.path().join("aliases");
    lab::write(
        &map,
        "u00003 \"|/usr/bin/procmail -a u00003\"\nu00006 u00009\n",
    );
    let config = site.config.replace(
        "[organization]\n",
        &format!("[organization]\nlocal_domains = [\"{DOMAIN}\"]\n"),
    );
    let maps = format!(
        "[organization.address_maps]\nalias_maps = [\"texthash:{}\"]\n",
        map.display()
    );
    site.copyist.write_config(&format!("{config}\n{maps}"));
    for (to, journals) in [
        (user(3), ["journal-3@archive.test"]),
        (user(6), ["journal-9@archive.test"]),
    ] {
        let asked = ["explain", "--from", "a@elsewhere.test", "--to", &to];
        let asked = [&asked[..], &["--client", "192.0.2.1", "--json"]].concat();
        let said = json(&site.copyist.command(&asked));
        let targets = said["copies"].as_array().into_iter().flatten();
        let targets = targets.flat_map(|copy| copy["targets"].as_array().expect("a list"));
        let addresses: Vec<_> = targets.map(|target| &target["address"]).collect();
        assert_eq!(addresses, journals, "{to}: {said}");
    }
}

#[test]
fn resolve_shows_the_object_and_where_it_is_journaled() {
    let site = Site::<Slapd>::start("5m");
    let said = json(
        &site
            .copyist
            .command(&["resolve", "USER.3@Example.Test", "--json"]),
    );
    assert_eq!(said["answer"], "found");
    assert_eq!(
        said["objects"][0]["journal"][0]["addresses"][0]["address"],
        "journal-3@archive.test"
    );
    let dn = "uid=u00003,ou=people,dc=example,dc=test";
    let said = json(&site.copyist.command(&["resolve", dn, "--json"]));
    assert_eq!(said["leads_to"]["addresses"][0]["address"], user(3));
    let said = text(&site.copyist.command(&["resolve", "/O=ACME/CN=nobody"]));
    assert!(
        said.contains("unusable: the directory has no object"),
        "{said}"
    );
    let said = json(
        &site
            .copyist
            .command(&["resolve", "journal-3@archive.test", "--json"]),
    );
    assert_eq!(
        (&said["answer"], &said["is_journal_address"]),
        (&Value::from("absent"), &Value::from(true))
    );
}

#[test]
fn the_queue_can_be_listed_shown_exported_retried_and_dropped() {
    let mut site = Site::<Slapd>::start("5m");
    site.relay.stop();
    let mut client = site.client(OUTSIDE);
    for n in 0..3 {
        let content = message(&format!("<q{n}@elsewhere.test>"), &format!("number {n}"));
        assert_eq!(
            client
                .send_message("a@elsewhere.test", &[&user(3)], &content)
                .code,
            250
        );
    }
    let listed = json(&site.copyist.command(&["queue", "list", "--json"]));
    let items = listed["items"].as_array().expect("a list");
    assert_eq!((items.len(), &listed["total"]), (3, &Value::from(3)));
    assert_eq!(items[0]["subject"], "number 0");
    let id = |n: usize| items[n]["id"].as_str().expect("a text").to_owned();
    let shown = text(&site.copyist.command(&["queue", "show", &id(0)]));
    assert!(shown.contains("waiting journal-3@archive.test"), "{shown}");
    assert!(
        shown.contains("inbound.journal_attribute extensionAttribute10 of uid=u00003"),
        "{shown}"
    );

    let file = site.copyist.state_dir().join("exported.eml");
    let exported = site.copyist.command(&[
        "queue",
        "export",
        &id(1),
        "--output",
        file.to_str().expect("UTF-8"),
    ]);
    assert!(exported.status.success(), "{}", text(&exported));
    let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().expect("written"));
    assert_eq!(mode & 0o777, 0o600, "it holds a whole message");
    let exported = std::fs::read_to_string(file).expect("written");
    assert!(
        exported.contains("X-MS-Journal-Report:\r\n") && exported.contains("Subject: number 1\r\n")
    );

    let refused = site.copyist.command(&["queue", "drop", &id(2)]);
    assert_eq!(
        refused.status.code(),
        Some(2),
        "without --yes nothing is dropped"
    );
    assert!(
        site.copyist
            .command(&["queue", "drop", &id(2), "--yes"])
            .status
            .success()
    );
    let dropped = site.copyist.command(&["queue", "show", &id(2)]);
    let record = format!("drop {} ", id(2));
    assert!(
        text(&dropped).contains("was dropped by an operator") && text(&dropped).contains(&record),
        "{}",
        text(&dropped)
    );
    let unknown = site.copyist.command(&["queue", "show", "aaaaaaaaaaaaaaaa"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", text(&unknown));
    assert_eq!(
        site.copyist
            .command(&["queue", "show", "nonsense"])
            .status
            .code(),
        Some(2)
    );

    let held = site.copyist.command(&["queue", "hold", &id(1)]);
    assert!(held.status.success(), "{}", text(&held));
    let shown = site.copyist.command(&["queue", "show", &id(1)]);
    assert!(text(&shown).contains("on hold"));
    site.relay.restart();
    let retried = site.copyist.command(&["queue", "retry", "--all"]);
    assert!(
        text(&retried).contains("1 items are due now"),
        "{}",
        text(&retried)
    );
    site.wait_for_reports(1);
    let listed = site.copyist.command(&["queue", "list"]);
    assert!(
        text(&listed).contains("1 items queued; 0 dead letters, 1 on hold"),
        "{}",
        text(&listed)
    );
    let released = site.copyist.command(&["queue", "release", &id(1)]);
    assert!(released.status.success(), "{}", text(&released));
    let again = site.copyist.command(&["queue", "release", &id(1)]);
    assert_eq!(again.status.code(), Some(1), "it was not on hold any more");
    let about: Vec<String> = site
        .wait_for_reports(2)
        .into_iter()
        .map(|report| report.about)
        .collect();
    assert!(
        !about.contains(&"<q2@elsewhere.test>".to_owned()),
        "{about:?}"
    );

    let audit = json(&site.copyist.command(&["queue", "audit", "--json"]));
    let records = audit["records"].as_array().expect("a list");
    let done: Vec<(&str, &str)> = records
        .iter()
        .map(|record| {
            let item = record["item"].as_str().unwrap_or("several");
            (record["action"].as_str().expect("a text"), item)
        })
        .collect();
    assert_eq!(
        done,
        [
            ("release", id(1).as_str()),
            ("retry", "several"),
            ("hold", &id(1)),
            ("drop", &id(2)),
            ("export", &id(1)),
        ],
        "newest first, and nothing that was refused"
    );
    let uid = nix::unistd::Uid::current().as_raw();
    assert!(records.iter().all(|record| record["uid"] == uid), "{audit}");
    site.copyist
        .wait_for_log(0, &format!("operator: release {} (message ", id(1)));
    let log = site.copyist.log();
    for action in ["export", "drop", "hold", "retry 1 items"] {
        let line = log
            .lines()
            .find(|line| line.contains(&format!("operator: {action} ")));
        let line = line.unwrap_or_else(|| panic!("no {action} in {log}"));
        assert!(line.contains(&format!(" (uid {uid})")), "{line}");
    }
}

#[test]
fn an_action_without_the_service_is_logged_at_its_start() {
    let mut site = Site::<Slapd>::start("5m");
    site.relay.stop();
    let content = message("<q0@elsewhere.test>", "number 0");
    let mut client = site.client(OUTSIDE);
    let accepted = client.send_message("a@elsewhere.test", &[&user(3)], &content);
    assert_eq!(accepted.code, 250);
    drop(client);
    assert!(site.copyist.term_and_wait().success());
    let listed = json(&site.copyist.command(&["queue", "list", "--json"]));
    let id = listed["items"][0]["id"]
        .as_str()
        .expect("a text")
        .to_owned();
    let held = site.copyist.command(&["queue", "hold", &id]);
    assert!(held.status.success(), "{}", text(&held));
    let before = site.copyist.log_length();
    site.copyist.restart();
    site.copyist
        .wait_for_log(before, &format!("operator: hold {id} "));
}

#[test]
fn a_malformed_journal_address_is_reported_with_the_copy() {
    let site = Site::<Slapd>::start("5m");
    site.directory.set_journal(4, Some("nobody at all"));
    let content = message("<typo@elsewhere.test>", "x");
    assert_eq!(
        site.client(OUTSIDE)
            .send_message("a@elsewhere.test", &[&user(4)], &content)
            .code,
        250
    );
    site.relay.wait_for(1, lab::PATIENCE);
    site.mail.wait_for(1, lab::PATIENCE);
    let ndr = site.wait_for_reports(1).remove(0);
    assert_eq!(
        (ndr.sender.as_str(), ndr.recipients.as_slice()),
        ("", &[format!("in-ndr@{DOMAIN}")][..])
    );
    for part in [
        "uid=u00004,",
        "extensionAttribute10",
        "\"nobody at all\"",
        "Message-ID: <typo@elsewhere.test>",
    ] {
        assert!(
            ndr.text.contains(part),
            "{part:?} is missing in\n{}",
            ndr.text
        );
    }
}

#[test]
fn coverage_lists_people_their_targets_and_invalid_targets() {
    let slapd = Slapd::start(10);
    slapd.set_journal(1, Some("nobody at all"));
    slapd.set_journal(2, Some("cn=gone,dc=example,dc=test"));
    slapd.set_journal(4, Some(&slapd.user_dn(5)));
    let site = Site::start_with(slapd, "5m");
    let json = site.copyist.command(&["coverage", "--json"]);
    assert_eq!(json.status.code(), Some(1), "{}", text(&json));
    let lines = String::from_utf8_lossy(&json.stdout).into_owned();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 11);
    let of = |number: usize| {
        let found = lines
            .iter()
            .find(|line| line["addresses"][0] == user(number).as_str());
        found.unwrap_or_else(|| panic!("user {number} is not listed"))
    };
    assert_eq!(of(3)["journal"][0]["targets"][0], "journal-3@archive.test");
    assert_eq!(of(3)["journal"][0]["outside"][0], "journal-3@archive.test");
    assert_eq!(of(3)["journal"][0]["directions"][2], "internal");
    assert_eq!(of(4)["journal"][0]["targets"][0], user(5).as_str());
    assert_eq!(of(4)["journal"][0]["outside"][0], Value::Null);
    assert!(of(7)["journal"].as_array().is_some_and(Vec::is_empty));
    let summary = &lines[10]["summary"];
    for (name, wanted) in [
        ("objects", 10),
        ("journaled", 5),
        ("not_journaled", 5),
        ("values_without_target", 2),
    ] {
        assert_eq!(summary[name], wanted, "{name}: {summary}");
    }
    let csv = site.copyist.command(&["coverage", "--csv", "--problems"]);
    let csv = String::from_utf8_lossy(&csv.stdout).into_owned();
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert!(
        csv.contains("nobody at all") && csv.contains("cn=gone"),
        "{csv}"
    );
    let shown = site.copyist.command(&["coverage"]);
    let shown = text(&shown);
    for part in [
        "u00007@example.test: not journaled",
        "2 unresolved",
        "to journal-3@archive.test",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in\n{shown}");
    }
}

#[test]
fn check_and_coverage_name_journal_mailboxes_that_are_people() {
    let slapd = Slapd::start_with(8, |number| (number == 4).then(|| user(5)));
    let dn = slapd.user_dn(5);
    let site = Site::start_with(slapd, "5m");
    let check = site.copyist.command(&["check", "--online"]);
    assert!(check.status.success(), "{}", text(&check));
    let address = user(5);
    let line = format!(
        "{address}: warning: not guarded, since {dn} looks like a person's (a login name, u00005)"
    );
    assert!(text(&check).contains(&line), "{}", text(&check));
    let coverage = site.copyist.command(&["coverage"]);
    assert!(coverage.status.success(), "{}", text(&coverage));
    let shown = text(&coverage);
    for part in [
        &*format!("{address}: not guarded, since"),
        &*format!("add \"{address}\" to organization.journal_mailboxes"),
        "1 unguarded personal mailboxes",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in\n{shown}");
    }
    let last = site.copyist.command(&["coverage", "--json"]);
    let last = String::from_utf8_lossy(&last.stdout).into_owned();
    let last: Value = serde_json::from_str(last.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        last["summary"]["persons_not_guarded"][0]["address"],
        address.as_str()
    );
    let guard = format!("[organization]\njournal_mailboxes = [{address:?}]");
    site.copyist
        .write_config(&site.config.replace("[organization]", &guard));
    let check = text(&site.copyist.command(&["check", "--online"]));
    assert!(!check.contains("not guarded"), "{check}");
}

#[test]
fn coverage_looks_addresses_up_as_mail_does() {
    let slapd = Slapd::start(6);
    slapd.set_attribute(&slapd.user_dn(1), "mail", "user.3@example.test");
    let site = Site::start_with(slapd, "5m");
    let problems = |json: &Output| -> Vec<Value> {
        let lines = String::from_utf8_lossy(&json.stdout).into_owned();
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        lines.collect()
    };
    let shared = site.copyist.command(&["coverage", "--json", "--problems"]);
    assert!(shared.status.success(), "{}", text(&shared));
    let lines = problems(&shared);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let found = &lines[0]["address_problems"][0];
    assert_eq!(found["address"], "user.3@example.test");
    let problem = found["problem"].as_str().expect("a text");
    assert!(problem.contains(&site.directory.user_dn(1)), "{problem}");
    assert_eq!(lines[1]["summary"]["addresses_shared"], 1);

    site.directory.let_read_and_not_search("proxyAddresses");
    let lost = site.copyist.command(&["coverage", "--json", "--problems"]);
    assert_eq!(lost.status.code(), Some(1), "{}", text(&lost));
    let lines = problems(&lost);
    let summary = &lines.last().expect("the summary")["summary"];
    assert_eq!(summary["addresses_not_found"], 2, "{summary}");
    let shown = text(&site.copyist.command(&["coverage"]));
    for part in [
        &*format!(
            "user.0@example.test: mail finds nobody by it ({})",
            site.directory.user_dn(0)
        ),
        &*format!(
            "user.3@example.test: mail finds only {} by it",
            site.directory.user_dn(1)
        ),
        "2 addresses of journaled people are not found by mail lookups",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in\n{shown}");
    }
    let csv = site.copyist.command(&["coverage", "--csv", "--problems"]);
    let csv = String::from_utf8_lossy(&csv.stdout).into_owned();
    assert!(
        csv.contains(",user.0@example.test,false,,,,,,,mail finds nobody by it"),
        "{csv}"
    );
}

#[test]
fn a_directory_that_rejects_us_does_not_replace_a_working_one() {
    let mut site = Site::<Slapd>::start("5m");
    let config = std::fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    let wrong = site.copyist.state_dir().with_file_name("wrong.password");
    lab::write(&wrong, "another\n");
    lab::set_mode(&wrong, 0o600);
    let lines = config
        .lines()
        .map(|line| match line.starts_with("bind_password_file") {
            true => format!("bind_password_file = \"{}\"\n", wrong.display()),
            false => format!("{line}\n"),
        });
    let changed: String = lines.collect();
    assert!(changed.contains("wrong.password"), "{changed}");
    let at = site.copyist.log_length();
    site.copyist.write_config(&changed);
    site.copyist.hup();
    let said = site
        .copyist
        .wait_for_log(at, "keeping the previous configuration");
    assert!(
        said.contains("invalidCredentials") || said.contains("49"),
        "{said}"
    );
    let content = message("<still@elsewhere.test>", "x");
    let mut client = site.client(OUTSIDE);
    // A person who is not cached yet.
    let sent = client.send_message("a@elsewhere.test", &[&user(6)], &content);
    assert_eq!(sent.code, 250);
    site.wait_for_report("<still@elsewhere.test>");
}

#[test]
fn reload_keeps_the_old_settings_on_errors_and_applies_new_ones() {
    let mut site = Site::<Slapd>::start("5m");
    let config = std::fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    let at = site.copyist.log_length();
    site.copyist
        .write_config(&config.replace("journal_ndr", "journal_ndrr"));
    site.copyist.hup();
    let said = site.copyist.wait_for_log(at, "journal_ndrr");
    assert!(said.contains("copyist.toml:"), "file and line: {said}");
    site.copyist
        .wait_for_log(at, "reload failed; keeping the previous configuration");
    let admin = site.admin;
    let ready = site.wait_until("the note of the refused file", || {
        let ready = get(admin, "/readyz");
        ready.contains("note: ").then_some(ready)
    });
    assert!(
        ready.starts_with("HTTP/1.1 200") && ready.contains("journal_ndrr"),
        "{ready}"
    );
    assert!(get(admin, "/metrics").contains("copyist_configuration_refused 1"));
    assert!(get(admin, "/").contains("journal_ndrr"));
    let content = message("<old@elsewhere.test>", "x");
    let mut client = site.client(OUTSIDE);
    assert_eq!(
        client
            .send_message("a@elsewhere.test", &[&user(3)], &content)
            .code,
        250
    );
    assert_eq!(
        site.wait_for_report("<old@elsewhere.test>").sender,
        format!("in-ndr@{DOMAIN}")
    );

    site.copyist
        .write_config(&config.replace("in-ndr@", "other-ndr@"));
    let at = site.copyist.log_length();
    site.copyist.hup();
    site.copyist.wait_for_log(at, "configuration reloaded");
    assert!(!get(admin, "/readyz").contains("note: "));
    assert!(get(admin, "/metrics").contains("copyist_configuration_refused 0"));
    let content = message("<new@elsewhere.test>", "x");
    assert_eq!(
        client
            .send_message("a@elsewhere.test", &[&user(3)], &content)
            .code,
        250
    );
    assert_eq!(
        site.wait_for_report("<new@elsewhere.test>").sender,
        format!("other-ndr@{DOMAIN}")
    );
}

#[test]
fn a_second_instance_is_refused_and_a_stop_is_orderly() {
    let mut site = Site::<Slapd>::start("5m");
    let second = site.copyist.command(&["run"]);
    assert_eq!(second.status.code(), Some(1));
    let expected = format!("(process {})", site.copyist.id());
    assert!(text(&second).contains(&expected), "{}", text(&second));
    // An SMTP session is open, and with it the MTA's connection to the milter.
    let mut client = site.client(INSIDE);
    assert_eq!(client.say(&format!("MAIL FROM:<{}>", user(3))).code, 250);
    let status = site.copyist.term_and_wait();
    assert!(status.success(), "{status:?}\n{}", site.copyist.log());
}

#[test]
fn health_and_metrics_are_served() {
    let mut site = Site::<Slapd>::start("5m");
    let admin = site.admin;
    let get = |path: &str| get(admin, path);
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    // The directory's servers are being tried.
    site.wait_until("it is ready", || {
        get("/readyz").ends_with("ready\n").then_some(())
    });
    let content = message("<m@elsewhere.test>", "x");
    assert_eq!(
        site.client(OUTSIDE)
            .send_message("a@elsewhere.test", &[&user(3)], &content)
            .code,
        250
    );
    site.wait_for_report("<m@elsewhere.test>");
    let metrics = get("/metrics");
    assert!(
        metrics.contains("copyist_messages_total{direction=\"inbound\",journaled=\"yes\"} 1"),
        "{metrics}"
    );
    site.directory.stop();
    let mut client = site.client(OUTSIDE);
    assert_eq!(
        client
            .send_message("a@elsewhere.test", &[&user(7)], &content)
            .code,
        451
    );
    let ready = get("/readyz");
    assert!(
        ready.starts_with("HTTP/1.1 200") && ready.contains("degraded: "),
        "{ready}"
    );
}

#[test]
fn a_bad_configuration_stops_the_start_with_status_2() {
    let bad = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/bad-configs/ndr-missing/copyist.toml");
    assert!(bad.is_file(), "{} is gone", bad.display());
    for command in ["run", "check"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_copyist"))
            .args([command, "--config"])
            .arg(&bad)
            .output()
            .expect("the binary was built for this test");
        assert_eq!(
            output.status.code(),
            Some(2),
            "{command}: {}",
            text(&output)
        );
        assert!(
            text(&output).contains("inbound.journal_ndr is missing"),
            "{}",
            text(&output)
        );
    }
}

#[test]
fn schemas_are_printed_as_they_are_kept() {
    for (name, path) in [
        ("openldap", "schemas/openldap/copyist.ldif"),
        ("ad", "schemas/ad/copyist.ldf"),
        ("config", "schemas/copyist.schema.json"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_copyist"))
            .args(["schema", name])
            .output();
        let printed = String::from_utf8(output.expect("the binary was built for this test").stdout)
            .expect("UTF-8");
        let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let kept = std::fs::read_to_string(kept).expect("it is kept");
        assert_eq!(printed.trim_end(), kept.trim_end(), "{name}");
    }
}

#[test]
fn the_demo_ends_well() {
    let parent = tempfile::tempdir().expect("the system has a temporary directory");
    let directory = parent.path().join("demo");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_copyist"))
        .args(["demo", "--dir"])
        .arg(&directory)
        .output()
        .expect("the binary was built for this test");
    assert!(output.status.success(), "{}", text(&output));
    for part in [
        "X-MS-Journal-Report:",
        "Final-Recipient: rfc822; full@archive.example",
        "All 4 expected messages arrived",
    ] {
        assert!(
            text(&output).contains(part),
            "{part:?} is missing in\n{}",
            text(&output)
        );
    }
    let kept = std::fs::read_dir(directory.join("reports"))
        .expect("it is left to look at")
        .count();
    assert_eq!(kept, 4);
}

#[test]
fn text_shows_messages_as_they_would_leave() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let people = "version: 1\n\ndn: uid=ana\nmail: ana@corp.example\ndisplayName: Ana Müller\n";
    std::fs::write(at("people.ldif"), people).expect("written");
    let config = "[organization]\ndomains = [\"corp.example\"]\n[directory]\nurls = [\"ldif:people.ldif\"]\n[relay]\n\
                  host = \"127.0.0.1:9\"\n[outbound]\nappend = { text = \"{{ sender.displayName }}\\n{{ sender.title }}\" }\n";
    std::fs::write(at("copyist.toml"), config).expect("written");
    let mail = "From: Ana <ana@corp.example>\r\n\r\nhello\r\n";
    let signed = "From: ana@corp.example\r\nContent-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nx\r\n--s\r\nContent-Type: application/pgp-signature\r\n\r\ny\r\n--s--\r\n";
    std::fs::write(at("a.eml"), mail).expect("written");
    std::fs::write(at("b.eml"), signed).expect("written");
    let run = |arguments: &[&str]| {
        let mut copyist = std::process::Command::new(env!("CARGO_BIN_EXE_copyist"));
        copyist
            .current_dir(directory.path())
            .args(["text", "--config", "copyist.toml"]);
        copyist.args(arguments).output().expect("copyist runs")
    };
    // The author's attributes fill the template; the line of an empty one is removed.
    let edited = "From: Ana <ana@corp.example>\r\nContent-Type: text/plain; charset=utf-8\r\n\
                  Content-Transfer-Encoding: quoted-printable\r\nMIME-Version: 1.0\r\n\r\nhello\r\nAna M=C3=BCller\r\n";
    let said = run(&["--direction", "outbound", "a.eml"]);
    assert_eq!(text(&said), edited);
    let said = run(&["--direction", "outbound", "--diff", "a.eml"]);
    assert!(
        text(&said).ends_with("@@ line 3 @@\n-hello\n+hello\n+Ana M=C3=BCller\n"),
        "{}",
        text(&said)
    );
    let said = run(&[
        "--direction",
        "outbound",
        "--out",
        "out",
        "--json",
        "a.eml",
        "b.eml",
    ]);
    let told = json(&said);
    assert_eq!(told[0]["parts"][0]["how"], "as UTF-8");
    assert_eq!(
        (&told[1]["left"], &told[1]["unchanged"]),
        (&"it is signed".into(), &true.into())
    );
    let read = |name: &str| std::fs::read_to_string(at(name)).expect("written");
    assert_eq!(
        (read("out/a.eml"), read("out/b.eml")),
        (edited.to_owned(), signed.to_owned())
    );
    // The input is never overwritten.
    let said = run(&["--direction", "outbound", "--out", ".", "a.eml"]);
    assert_eq!(said.status.code(), Some(2), "{}", text(&said));
    assert_eq!(read("a.eml"), mail);
    let said = run(&["--direction", "sideways", "a.eml"]);
    assert_eq!(said.status.code(), Some(2));
    assert!(
        text(&said).contains("inbound, outbound, internal"),
        "{}",
        text(&said)
    );
    let said = run(&["--direction", "inbound", "a.eml"]);
    assert!(said.stdout == mail.as_bytes() && text(&said).contains("no text for this direction"));
}
