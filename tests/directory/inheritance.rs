//! Journal attributes that stand in groups and containers, people who are exempt, and domains that
//! the directory names, on OpenLDAP and on Active Directory.

use crate::lab;
use copyist::directory::{Directory, Inheritance, Lookup};
use copyist::mail::Address;
use lab::{DirectoryServer, OUTSIDE, Site, message, user};

mod in_the_library {
    on_both_directories! {
        async
        groups_and_containers_count_where_they_are_asked_for,
    }

    use super::{groups_and_containers_count_where_they_are_asked_for, lab};
}

on_both_directories! {
    one_attribute_covers_a_department_but_for_the_exempt,
    domains_that_the_directory_names_are_ours,
}

fn open(server: &impl DirectoryServer, groups: bool, containers: bool) -> Directory {
    let mut settings = server.access().directory();
    settings.inheritance = Inheritance { groups, containers };
    Directory::open(settings).expect("settings that can be used")
}

/// The journal addresses that count for a user, sorted.
async fn journal(directory: &Directory, number: usize) -> Vec<String> {
    let asked = Address::parse(&user(number)).expect("an address");
    let mut answers = directory.find(std::slice::from_ref(&asked)).await;
    match answers.remove(&asked) {
        Some(Lookup::Found(objects)) => {
            let values = objects
                .iter()
                .flat_map(|one| one.values("extensionAttribute10"));
            let mut values: Vec<String> = values.map(str::to_owned).collect();
            values.sort();
            values
        }
        other => panic!("{other:?}"),
    }
}

async fn groups_and_containers_count_where_they_are_asked_for<D: DirectoryServer>() {
    let server = D::start_with(5, |n| (n == 1).then(|| "own@archive.test".to_owned()));
    let inner = server.add_group(
        "inner",
        &[server.user_dn(1)],
        &[("extensionAttribute10", "inner@archive.test")],
    );
    let middle = server.add_group("middle", &[inner.clone(), server.user_dn(2)], &[]);
    let outer = server.add_group(
        "outer",
        &[middle],
        &[("extensionAttribute10", "outer@archive.test")],
    );
    // A circle: who is a member of one is a member of all three.
    server.add_member(&inner, &outer);
    server.set_attribute(
        &server.people_dn(),
        "extensionAttribute10",
        "people@archive.test",
    );
    for (groups, containers, first, second, third) in [
        (false, false, "own", "", ""),
        (true, false, "inner outer own", "inner outer", ""),
        (false, true, "own people", "people", "people"),
        (
            true,
            true,
            "inner outer own people",
            "inner outer people",
            "people",
        ),
    ] {
        let directory = open(&server, groups, containers);
        for (number, wanted) in [(1, first), (2, second), (3, third)] {
            let wanted: Vec<String> = wanted
                .split_whitespace()
                .map(|name| format!("{name}@archive.test"))
                .collect();
            // Asked and remembered.
            assert_eq!(
                journal(&directory, number).await,
                wanted,
                "{number} {groups} {containers}"
            );
            assert_eq!(
                journal(&directory, number).await,
                wanted,
                "{number} {groups} {containers}"
            );
        }
    }
    // A change of a group or container counts for those that it covers.
    let directory = open(&server, true, true);
    let state = tempfile::tempdir().expect("the system has a temporary directory");
    directory.follow_changes(&state.path().join("place"));
    assert_eq!(journal(&directory, 3).await, ["people@archive.test"]);
    server.add_member(&outer, &server.user_dn(3));
    server.set_attribute(
        &server.people_dn(),
        "extensionAttribute10",
        "all@archive.test",
    );
    let begun = std::time::Instant::now();
    let all = ["all", "inner", "outer"].map(|name| format!("{name}@archive.test"));
    while journal(&directory, 3).await != all {
        assert!(
            begun.elapsed() < lab::PATIENCE,
            "{:?}",
            journal(&directory, 3).await
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn one_attribute_covers_a_department_but_for_the_exempt<D: DirectoryServer>() {
    let directory = D::start_with(5, |_| None);
    directory.set_attribute(
        &directory.people_dn(),
        "extensionAttribute10",
        "people@archive.test",
    );
    directory.set_attribute(&directory.user_dn(2), "extensionAttribute11", "TRUE");
    let site = Site::start_with(directory, "5m");
    let config = std::fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    site.copyist.write_config(&config.replace(
        "[directory]",
        "[directory]\ninherit_from = \"containers\"\njournal_exempt_attribute = \"extensionAttribute11\"",
    ).replace("[inbound]", "[inbound]\njournal = \"everything@archive.test\""));
    let mut site = site;
    site.copyist.restart();
    let mut client = site.client(OUTSIDE);
    for (number, id) in [
        (2, "<exempt@elsewhere.test>"),
        (1, "<covered@elsewhere.test>"),
    ] {
        let reply = client.send_message("a@elsewhere.test", &[&user(number)], &message(id, "x"));
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    let report = site.wait_for_report("<covered@elsewhere.test>");
    assert_eq!(
        report.recipients,
        ["everything@archive.test", "people@archive.test"]
    );
    assert_eq!(site.reports().len(), 1);
    let log = site.copyist.wait_for_log(0, "exempt from journaling");
    assert!(log.contains(&user(2)), "{log}");
    let explained = site.copyist.command(&[
        "explain",
        "--from",
        "a@elsewhere.test",
        "--to",
        &user(1),
        &user(2),
    ]);
    let text = String::from_utf8_lossy(&explained.stdout).to_lowercase();
    let people = site.directory.people_dn().to_lowercase();
    assert!(text.contains(&format!("of {people}")), "{text}");
    assert!(text.contains(&format!("exempt: {} by", user(2))), "{text}");
}

fn domains_that_the_directory_names_are_ours<D: DirectoryServer>() {
    let directory = D::start_with(5, |n| (n == 3).then(|| "j@archive.test".to_owned()));
    directory.modify(&format!(
        "dn: {}\nchangetype: modify\nadd: proxyAddresses\nproxyAddresses: smtp:three@second.test\n",
        directory.user_dn(3)
    ));
    directory.add_contact("domain", &[("extensionAttribute11", "second.test")]);
    let mut site = Site::start_with(directory, "5m");
    let config = std::fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    let from = "domains_from = { base = \"dc=example,dc=test\", filter = \"(extensionAttribute11=*)\", attribute = \"extensionAttribute11\" }";
    site.copyist
        .write_config(&config.replace("[organization]", &format!("[organization]\n{from}")));
    site.copyist.restart();
    site.copyist
        .wait_for_log(0, "domains from the directory: second.test");
    let direction = |site: &Site<D>| {
        let explained = site.copyist.command(&[
            "explain",
            "--from",
            &user(1),
            "--to",
            "three@second.test",
            "--client",
            "127.0.0.2",
        ]);
        String::from_utf8_lossy(&explained.stdout).into_owned()
    };
    let said = direction(&site);
    assert!(said.contains("to three@second.test: internal"), "{said}");
    // Without the directory the domains of the last run count.
    site.directory.stop();
    let at = site.copyist.log_length();
    site.copyist.restart();
    site.copyist
        .wait_for_log(at, "using the domains of the last run");
}
