//! Absence is believed only where presence could be seen: rights that were taken away are an outage
//! and never silence, and attributes are found by every name they have.

use crate::lab;
use std::path::Path;
use std::time::{Duration, Instant};

use copyist::directory::{
    Directory, Health, Inheritance, Lookup, Settings, Source, WatchMode, accept_empty,
};
use copyist::mail::Address;
use lab::{DirectoryServer, OUTSIDE, Samba, Site, Slapd, message, user};
use tempfile::TempDir;

const JOURNAL: &str = "extensionAttribute10";

mod in_the_library {
    on_both_directories! {
        async
        a_value_that_is_removed_is_a_change_and_said_once,
        a_last_value_removed_on_purpose_is_accepted_by_a_command,
        an_attribute_is_found_by_its_identifier,
    }

    use super::{
        a_last_value_removed_on_purpose_is_accepted_by_a_command,
        a_value_that_is_removed_is_a_change_and_said_once, an_attribute_is_found_by_its_identifier,
        lab,
    };
}

fn state() -> TempDir {
    tempfile::tempdir().expect("the system has a temporary directory")
}

/// Settings without any time to live, so that each question reaches the server.
fn fresh(server: &impl DirectoryServer) -> Settings {
    let mut settings = server.access().directory();
    settings.cache.ttl = Duration::ZERO;
    settings.cache.negative_ttl = Duration::ZERO;
    settings
}

fn watched(mut settings: Settings, how: WatchMode) -> Settings {
    if let Source::Ldap(ldap) = &mut settings.source {
        ldap.watch = how;
    }
    settings
}

fn open(settings: Settings, state: &Path) -> Directory {
    let directory = Directory::open_with_state(settings, state).expect("usable settings");
    directory.follow_changes(&state.join("place"));
    directory
}

/// The journal addresses of a user, or the reason of the outage.
async fn journal(directory: &Directory, number: usize) -> Result<Vec<String>, String> {
    let asked = Address::parse(&user(number)).expect("an address");
    let mut answers = directory.find(std::slice::from_ref(&asked)).await;
    match answers.remove(&asked) {
        Some(Lookup::Found(objects)) => {
            let values = objects.iter().flat_map(|one| one.values(JOURNAL));
            Ok(values.map(str::to_owned).collect())
        }
        Some(Lookup::Unavailable(outage)) => Err(outage.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

/// The reason of the outage that the answer must be.
async fn outage(directory: &Directory, number: usize) -> String {
    journal(directory, number).await.expect_err("an outage")
}

/// Asks until the answer is the wanted one.
async fn until<T: PartialEq + std::fmt::Debug, F: Future<Output = T>>(
    wanted: T,
    ask: impl Fn() -> F,
) {
    let begun = Instant::now();
    loop {
        let got = ask().await;
        if got == wanted {
            return;
        }
        assert!(begun.elapsed() < lab::PATIENCE, "{got:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn value(number: usize) -> Result<Vec<String>, String> {
    Ok(lab::every_third(number).into_iter().collect())
}

#[tokio::test]
async fn an_attribute_hidden_from_all_is_an_outage_over_a_restart() {
    for how in [WatchMode::Auto, WatchMode::Off] {
        let (slapd, state) = (Slapd::start(10), state());
        let settings = || watched(fresh(&slapd), how);
        let directory = open(settings(), state.path());
        assert_eq!(journal(&directory, 3).await, value(3));
        slapd.hide_attribute(JOURNAL);
        if how == WatchMode::Off {
            // Who was asked for lately goes on to be journaled.
            assert_eq!(journal(&directory, 3).await, value(3));
        }
        for number in [6, 4] {
            let why = outage(&directory, number).await;
            for part in [&slapd.url(), JOURNAL, "accept-empty"] {
                assert!(why.contains(part), "{why}");
            }
        }
        assert_ne!(directory.health(), Health::Ok);
        directory.close().await;

        let directory = open(settings(), state.path());
        assert!(outage(&directory, 6).await.contains(JOURNAL));
        slapd.show_everything();
        until(value(6), || journal(&directory, 6)).await;
        assert_eq!(directory.health(), Health::Ok);
        directory.close().await;
    }
}

#[tokio::test]
async fn a_hidden_attribute_is_noticed_without_mail() {
    let (slapd, state) = (Slapd::start(10), state());
    let directory = open(fresh(&slapd), state.path());
    assert_eq!(journal(&directory, 3).await, value(3));
    slapd.hide_attribute(JOURNAL);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    until(false, async || directory.health() == Health::Ok).await;
}

#[tokio::test]
async fn a_server_hiding_an_attribute_is_avoided_if_another_shows_it() {
    for hidden_from_the_start in [true, false] {
        let (first, second, state) = (Slapd::start(10), Slapd::start(10), state());
        let mut settings = fresh(&first);
        if let Source::Ldap(ldap) = &mut settings.source {
            ldap.urls = vec![first.url(), second.url()];
        }
        if hidden_from_the_start {
            first.hide_attribute(JOURNAL);
        }
        let directory = open(settings.clone(), state.path());
        assert_eq!(journal(&directory, 3).await, value(3));
        first.hide_attribute(JOURNAL);
        for number in [6, 9, 4] {
            assert_eq!(journal(&directory, number).await, value(number));
        }
        // The last one that shows it is gone: now nobody's absence is believed.
        drop(second);
        let why = outage(&directory, 0).await;
        assert!(why.contains(&first.url()) && why.contains(JOURNAL), "{why}");
        directory.close().await;
        let directory = open(settings, state.path());
        assert!(outage(&directory, 0).await.contains(JOURNAL));
    }
}

#[tokio::test]
async fn one_attribute_of_several_that_is_hidden_is_an_outage() {
    let (slapd, state) = (Slapd::start(10), state());
    slapd.set_attribute(&slapd.user_dn(1), "extensionAttribute11", "j@archive.test");
    let mut settings = fresh(&slapd);
    settings
        .journal_attributes
        .push("extensionAttribute11".into());
    let directory = open(settings, state.path());
    assert_eq!(journal(&directory, 3).await, value(3));
    assert_eq!(journal(&directory, 1).await, value(1));
    slapd.hide_attribute("extensionAttribute11");
    let why = outage(&directory, 4).await;
    assert!(why.contains("extensionAttribute11"), "{why}");
}

#[tokio::test]
async fn one_person_s_hidden_value_is_an_outage_for_that_person_only() {
    for how in [WatchMode::Auto, WatchMode::Off] {
        let (slapd, state) = (Slapd::start(10), state());
        let mut settings = watched(fresh(&slapd), how);
        // Nothing serves an outage.
        settings.cache.max_stale = Duration::ZERO;
        let directory = open(settings.clone(), state.path());
        for number in [3, 6] {
            assert_eq!(journal(&directory, number).await, value(number));
        }
        slapd.hide_attribute_of(&slapd.user_dn(3), JOURNAL);
        let why = outage(&directory, 3).await;
        assert!(why.contains(&slapd.user_dn(3)), "{why}");
        assert_eq!(journal(&directory, 6).await, value(6));
        assert_eq!(journal(&directory, 9).await, value(9));
        assert_eq!(directory.health(), Health::Ok);
        assert!(directory.removed_journal_attributes().is_empty());
        directory.close().await;

        let directory = open(settings, state.path());
        assert!(outage(&directory, 3).await.contains(&slapd.user_dn(3)));
        slapd.show_everything();
        assert_eq!(journal(&directory, 3).await, value(3));
        directory.close().await;
    }
}

#[tokio::test]
async fn settings_that_find_nothing_keep_the_history() {
    let (slapd, state) = (Slapd::start(10), state());
    let settings = fresh(&slapd);
    let directory = open(settings.clone(), state.path());
    assert_eq!(journal(&directory, 3).await, value(3));
    directory.close().await;
    let mut others = settings.clone();
    if let Source::Ldap(ldap) = &mut others.source {
        ldap.canary = Some(Address::parse("nobody@example.test").expect("an address"));
    }
    let directory = open(others, state.path());
    assert!(outage(&directory, 3).await.contains("canary"));
    directory.close().await;
    slapd.hide_attribute(JOURNAL);
    let directory = open(settings, state.path());
    assert!(outage(&directory, 6).await.contains("accept-empty"));
}

#[tokio::test]
async fn a_value_hidden_of_a_group_is_an_outage_for_its_members() {
    let (slapd, state) = (Slapd::start(10), state());
    let members = [slapd.user_dn(1)];
    let group = slapd.add_group("all", &members, &[(JOURNAL, "group@archive.test")]);
    slapd.set_attribute(&slapd.people_dn(), JOURNAL, "people@archive.test");
    let mut settings = fresh(&slapd);
    settings.cache.max_stale = Duration::ZERO;
    settings.inheritance = Inheritance {
        groups: true,
        containers: true,
    };
    let directory = open(settings, state.path());
    let both = ["group@archive.test", "people@archive.test"].map(str::to_owned);
    assert_eq!(journal(&directory, 1).await, Ok(both.to_vec()));
    for hidden in [&group, &slapd.people_dn()] {
        slapd.hide_attribute_of(hidden, JOURNAL);
        let why = outage(&directory, 1).await;
        assert!(why.contains(hidden.as_str()), "{why}");
    }
    slapd.show_everything();
    assert_eq!(journal(&directory, 1).await, Ok(both.to_vec()));
}

#[tokio::test]
async fn the_journal_guard_believes_no_absence_that_was_made() {
    let (slapd, state) = (Slapd::start(10), state());
    let directory = open(watched(fresh(&slapd), WatchMode::Off), state.path());
    assert_eq!(journal(&directory, 3).await, value(3));
    let asked = Address::parse("journal-6@archive.test").expect("an address");
    assert!(lab::is_guarded(&directory, &[], &asked).await);
    slapd.hide_attribute(JOURNAL);
    // No set without it is built: the service goes on with the last one.
    let answer = lab::try_is_guarded(&directory, &[], &asked).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn rights_denied_in_active_directory_are_an_outage() {
    let (samba, state) = (Samba::start(10), state());
    let mut settings = fresh(&samba);
    settings.cache.max_stale = Duration::ZERO;
    let directory = open(settings.clone(), state.path());
    for number in [3, 6] {
        assert_eq!(journal(&directory, number).await, value(number));
    }
    // Somebody else goes on to be seen.
    samba.add_contact(
        "seen",
        &[(JOURNAL, "j@archive.test"), ("mail", "seen@example.test")],
    );
    let seen = Address::parse("seen@example.test").expect("an address");
    let answer = directory.find_first(std::slice::from_ref(&seen)).await;
    assert!(matches!(answer, Lookup::Found(_)), "{answer:?}");
    samba.hide_attribute(&samba.people_dn(), JOURNAL, true);
    for number in [3, 6] {
        let why = outage(&directory, number).await;
        assert!(
            why.to_lowercase()
                .contains(&samba.user_dn(number).to_lowercase()),
            "{why}"
        );
    }
    assert_eq!(directory.health(), Health::Ok);
    samba.hide_attribute("CN=seen,DC=example,DC=test", JOURNAL, false);
    let why = outage(&directory, 9).await;
    assert!(why.contains("accept-empty"), "{why}");
    directory.close().await;
    let directory = open(settings, state.path());
    assert!(outage(&directory, 3).await.contains("accept-empty"));
}

#[tokio::test]
async fn a_cached_person_is_served_while_one_value_is_hidden() {
    let (slapd, state) = (Slapd::start(10), state());
    let directory = open(watched(fresh(&slapd), WatchMode::Off), state.path());
    assert_eq!(journal(&directory, 3).await, value(3));
    slapd.hide_attribute_of(&slapd.user_dn(3), JOURNAL);
    assert_eq!(journal(&directory, 3).await, value(3));
}

#[tokio::test]
async fn a_value_hidden_of_the_canary_is_an_outage_for_all() {
    let (slapd, state) = (Slapd::start(10), state());
    let mut settings = fresh(&slapd);
    let canary = |settings: &mut Settings, number| {
        if let Source::Ldap(ldap) = &mut settings.source {
            ldap.canary = Some(Address::parse(&user(number)).expect("an address"));
        }
    };
    canary(&mut settings, 0);
    let directory = open(settings.clone(), state.path());
    assert_eq!(journal(&directory, 3).await, value(3));
    slapd.hide_attribute_of(&slapd.user_dn(0), JOURNAL);
    let why = outage(&directory, 4).await;
    assert!(
        why.contains("canary") && why.contains(&slapd.user_dn(0)),
        "{why}"
    );
    directory.close().await;
    let directory = open(settings.clone(), state.path());
    assert!(outage(&directory, 4).await.contains("canary"));
    directory.close().await;
    // Another canary says that it is meant.
    canary(&mut settings, 6);
    let directory = open(settings, state.path());
    assert_eq!(journal(&directory, 4).await, value(4));
}

async fn a_value_that_is_removed_is_a_change_and_said_once<D: DirectoryServer>() {
    for how in [WatchMode::Auto, WatchMode::Off] {
        let (server, state) = (D::start(10), state());
        let directory = open(watched(fresh(&server), how), state.path());
        assert_eq!(journal(&directory, 3).await, value(3));
        server.set_journal(3, None);
        for _ in 0..2 {
            assert_eq!(journal(&directory, 3).await, Ok(vec![]));
        }
        let removed = directory.removed_journal_attributes();
        assert_eq!(removed.len(), 1, "{removed:?}");
        assert_eq!(
            removed[0].dn.to_lowercase(),
            server.user_dn(3).to_lowercase()
        );
        assert_eq!(removed[0].attribute, JOURNAL);
        directory.close().await;
    }
}

async fn a_last_value_removed_on_purpose_is_accepted_by_a_command<D: DirectoryServer>() {
    for is_noticed_first in [true, false] {
        let (server, state) = (D::start(2), state());
        let mut settings = fresh(&server);
        settings.cache.max_stale = Duration::ZERO;
        let directory = open(settings.clone(), state.path());
        assert_eq!(journal(&directory, 0).await, value(0));
        server.set_journal(0, None);
        if is_noticed_first {
            assert!(outage(&directory, 0).await.contains("accept-empty"));
            directory.close().await;
        }
        let directory = match is_noticed_first {
            true => open(settings, state.path()),
            false => directory,
        };
        if is_noticed_first {
            assert!(outage(&directory, 1).await.contains("accept-empty"));
        }
        let begun = Instant::now();
        let accepted = accept_empty(state.path(), "an operator").expect("it is ours");
        assert_eq!(
            accepted.missing.len(),
            usize::from(is_noticed_first),
            "{accepted:?}"
        );
        until(Ok(vec![]), || journal(&directory, 0)).await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(directory.health(), Health::Ok);
        let record = std::fs::read_to_string(state.path().join("directory.accepted"));
        assert!(record.expect("it was written").contains("an operator"));
        // From now on it is missed again.
        server.set_journal(1, Some("j@archive.test"));
        until(Ok(vec!["j@archive.test".to_owned()]), || {
            journal(&directory, 1)
        })
        .await;
        server.set_journal(1, None);
        assert!(outage(&directory, 0).await.contains("accept-empty"));
    }
}

async fn an_attribute_is_found_by_its_identifier<D: DirectoryServer>() {
    let server = D::start(10);
    let mut settings = fresh(&server);
    let oid = "1.2.840.113556.1.2.432";
    settings.journal_attributes = vec![oid.into()];
    let directory = Directory::open(settings).expect("usable settings");
    let asked = Address::parse(&user(3)).expect("an address");
    match directory.find_first(&[asked]).await {
        Lookup::Found((_, objects)) => {
            assert_eq!(
                objects[0].values(oid).first(),
                lab::every_third(3).as_deref()
            );
        }
        other => panic!("{other:?}"),
    }
    let guarded = Address::parse("journal-3@archive.test").expect("an address");
    assert!(lab::is_guarded(&directory, &[], &guarded).await);
}

#[tokio::test]
async fn attributes_are_found_by_every_name_they_have() {
    let slapd = Slapd::start(10);
    slapd.show_everything();
    slapd.modify(&format!(
        "dn: {}\nchangetype: modify\nadd: objectClass\nobjectClass: extensibleObject\n",
        slapd.user_dn(1)
    ));
    for (set, asked) in [
        ("drink", "favouriteDrink"),
        ("givenName", "gn"),
        ("extensionAttribute11;lang-en", "extensionAttribute11"),
        ("description;lang-en", "description;lang-en"),
        ("description;lang-de", "2.5.4.13"),
    ] {
        slapd.set_attribute(&slapd.user_dn(1), set, "j@archive.test");
        let mut settings = fresh(&slapd);
        settings.journal_attributes = vec![asked.into()];
        settings.address_attributes = vec!["rfc822Mailbox".into()];
        let directory = Directory::open(settings).expect("usable settings");
        let person = Address::parse(&user(1)).expect("an address");
        match directory.find_first(&[person]).await {
            Lookup::Found((_, objects)) => {
                assert_eq!(
                    objects[0].values(asked).first(),
                    Some("j@archive.test"),
                    "{asked}"
                );
            }
            other => panic!("{asked}: {other:?}"),
        }
        let probes = directory.probe().await;
        assert!(probes[0].remarks.iter().all(Result::is_ok), "{probes:?}");
        directory.close().await;
    }
}

#[tokio::test]
async fn an_attribute_without_values_fails_the_probe() {
    let slapd = Slapd::start(10);
    for (attribute, why) in [
        ("extensionAttribute11", "rights"),
        ("extensionAtribute10", "schema"),
    ] {
        let mut settings = fresh(&slapd);
        settings.journal_attributes = vec![attribute.into()];
        let state = state();
        let directory = open(settings, state.path());
        let probes = directory.probe().await;
        let error = probes[0].remarks.iter().find_map(|one| one.as_ref().err());
        let error = error.expect("an error");
        assert!(error.contains(attribute) && error.contains(why), "{error}");
        // It stops nothing.
        assert_eq!(journal(&directory, 3).await, Ok(vec![]));
        directory.close().await;
    }
}

#[tokio::test]
async fn a_file_that_loses_an_attribute_is_an_outage_until_accepted() {
    let state = state();
    let file = state.path().join("people.ldif");
    let write = |journal: &str| {
        let text = format!(
            "dn: cn=a\nmail: {}\n{journal}\ndn: cn=b\nmail: {}\n",
            user(0),
            user(1)
        );
        let new = state.path().join("new");
        std::fs::write(&new, text).expect("it is ours");
        std::fs::rename(&new, &file).expect("it is ours");
    };
    write("extensionAttribute10;lang-en: j@archive.test\n");
    let mut settings = lab::Access::anonymous(String::new()).directory();
    settings.source = Source::Ldif(file.clone());
    settings.cache.max_stale = Duration::ZERO;
    let directory = open(settings.clone(), state.path());
    assert_eq!(
        journal(&directory, 0).await,
        Ok(vec!["j@archive.test".to_owned()])
    );
    let other = "dn: cn=c\nmail: c@example.test\nextensionAttribute10: j@archive.test\n";
    write(&format!("\n{other}"));
    until(Ok(vec![]), || journal(&directory, 0)).await;
    assert_eq!(directory.removed_journal_attributes()[0].dn, "cn=a");
    write("");
    until(true, async || journal(&directory, 1).await.is_err()).await;
    directory.close().await;
    let directory = open(settings, state.path());
    assert!(outage(&directory, 1).await.contains(JOURNAL));
    accept_empty(state.path(), "an operator").expect("it is ours");
    until(Ok(vec![]), || journal(&directory, 0)).await;
}

/// Returns the MTA's reply to a message for a user.
fn sent<D: DirectoryServer>(site: &Site<D>, number: usize) -> u16 {
    let content = message(&format!("<absence-{number}@elsewhere.test>"), "x");
    let mut client = site.client(OUTSIDE);
    client
        .send_message("a@elsewhere.test", &[&user(number)], &content)
        .code
}

#[test]
fn mail_is_deferred_while_an_attribute_is_hidden_until_accepted() {
    let mut site = Site::start_with(Slapd::start(10), "0s");
    assert_eq!(sent(&site, 3), 250);
    site.wait_for_report("<absence-3@elsewhere.test>");
    site.directory.hide_attribute(JOURNAL);
    for number in [6, 4] {
        assert_eq!(sent(&site, number), 451);
    }
    site.copyist
        .wait_for_log(0, "shows no value of extensionAttribute10");
    site.copyist.restart();
    for number in [6, 4] {
        assert_eq!(sent(&site, number), 451);
    }
    let seen = site.copyist.state_dir().join("directory.seen");
    site.wait_until("note of what is missing", || {
        let text = std::fs::read_to_string(&seen).expect("it was written");
        text.contains("missing").then_some(())
    });
    let accepted = site.copyist.command(&["directory", "accept-empty"]);
    let said = String::from_utf8_lossy(&accepted.stdout).into_owned();
    assert!(
        accepted.status.success() && said.contains("no object has extensionAttribute10"),
        "{said}"
    );
    site.wait_until("mail", || (sent(&site, 4) == 250).then_some(()));
    let at = site.copyist.log_length();
    site.copyist.restart();
    site.copyist
        .wait_for_log(at, "no object has extensionAttribute10");
    assert_eq!(sent(&site, 4), 250);
    site.directory.show_everything();
    site.wait_until("a value", || {
        assert_eq!(sent(&site, 6), 250);
        let reports = site.reports();
        reports
            .iter()
            .any(|report| report.about == "<absence-6@elsewhere.test>")
            .then_some(())
    });
}

#[test]
fn another_canary_says_that_it_is_meant() {
    let mut site = Site::start_with(Slapd::start(10), "0s");
    assert_eq!(sent(&site, 3), 250);
    for user in [0, 3, 6, 9] {
        site.directory.set_journal(user, None);
    }
    assert_eq!(sent(&site, 4), 451);
    site.copyist.hup();
    site.copyist.wait_for_log(0, "configuration reloaded");
    assert_eq!(sent(&site, 4), 451);
    let canary = format!("[directory]\ncanary = \"{}\"\n", user(1));
    let config = site.config.replace("[directory]\n", &canary);
    site.copyist.write_config(&config);
    let at = site.copyist.log_length();
    site.copyist.hup();
    site.copyist.wait_for_log(at, "configuration reloaded");
    assert_eq!(sent(&site, 4), 250);
    site.copyist.restart();
    assert_eq!(sent(&site, 4), 250);
}

#[test]
fn a_hidden_value_defers_mail_and_a_removed_one_is_reported() {
    // Nothing serves an outage.
    let mut site = Site::start_with(Slapd::start(10), "0s");
    let config = site.config.replace(
        "negative_ttl = \"0s\"",
        "negative_ttl = \"0s\"\nmax_stale = \"0s\"",
    );
    site.copyist.write_config(&config);
    site.copyist.restart();
    for number in [3, 6] {
        assert_eq!(sent(&site, number), 250);
    }
    site.directory
        .hide_attribute_of(&site.directory.user_dn(3), JOURNAL);
    assert_eq!(sent(&site, 3), 451);
    assert_eq!(sent(&site, 6), 250);
    site.copyist
        .wait_for_log(0, "vanished although the object did not change");
    site.copyist.restart();
    assert_eq!(sent(&site, 3), 451);
    site.directory.show_everything();
    assert_eq!(sent(&site, 3), 250);
    let at = site.copyist.log_length();
    site.directory.set_journal(3, None);
    assert_eq!(sent(&site, 3), 250);
    let line = site.copyist.wait_for_log(at, "no longer journaled");
    assert!(line.contains(&site.directory.user_dn(3)), "{line}");
    assert!((site.metric("copyist_directory_no_longer_journaled_total") - 1.0).abs() < 0.1);
}

/// The directory of a Postfix that doctor may look at.
fn postfix<D: DirectoryServer>(site: &Site<D>) -> String {
    let file = site.copyist.config_file();
    lab::write(
        &file.with_file_name("main.cf"),
        "compatibility_level = 3.6\n",
    );
    lab::write(
        &file.with_file_name("master.cf"),
        "smtp inet n - n - - smtpd\n",
    );
    file.parent().expect("it is in one").display().to_string()
}

/// Runs a command of the binary; returns whether it succeeded, and its output and errors.
fn said<D: DirectoryServer>(site: &Site<D>, arguments: &[&str]) -> (bool, String) {
    let output = site.copyist.command(arguments);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn an_attribute_without_values_is_an_error_of_every_command() {
    let site = Site::start_with(Slapd::start_with(3, |_| None), "0s");
    assert_eq!(sent(&site, 1), 250);
    let postfix = postfix(&site);
    for (command, wanted) in [
        (
            &["check", "--online"][..],
            "no object has extensionAttribute10",
        ),
        (
            &["doctor", "--online", "--postfix", &postfix][..],
            "journal-attribute-empty",
        ),
        (&["coverage"][..], "no object has extensionAttribute10"),
    ] {
        let (succeeded, text) = said(&site, command);
        assert!(!succeeded && text.contains(wanted), "{command:?}: {text}");
    }
    site.copyist
        .wait_for_log(0, "no object has extensionAttribute10");
}

#[test]
fn settings_that_journal_nothing_are_an_error_without_texts() {
    let site = Site::start_with(Slapd::start(3), "0s");
    let lines = site.config.lines();
    let lines = lines.filter(|line| !line.starts_with("journal_attribute"));
    let nothing = lines.collect::<Vec<_>>().join("\n");
    let wanted = "nothing is journaled in any direction";
    site.copyist.write_config(&nothing);
    let postfix = postfix(&site);
    for command in [&["check"][..], &["doctor", "--postfix", &postfix]] {
        let (succeeded, text) = said(&site, command);
        assert!(!succeeded && text.contains(wanted), "{command:?}: {text}");
    }
    site.copyist.write_config(&format!(
        "{nothing}\n[outbound.append]\ntext = \"Our office is closed.\"\n"
    ));
    let (succeeded, text) = said(&site, &["check"]);
    assert!(
        succeeded && text.contains(wanted) && text.contains("warning"),
        "{text}"
    );
}
