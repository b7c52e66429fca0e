//! The directory against a real OpenLDAP server, and against servers that are none.

use crate::lab;
mod relay;
mod slapd;
mod slow;

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use copyist::directory::{
    Bind, CacheSettings, Directory, Health, Inheritance, LdapSettings, Lookup, Objects, Outage,
    Settings, Source, TargetSettings, WatchMode,
};
use copyist::mail::Address;
use copyist::secret::Secret;

use relay::Relay;
use slapd::{Slapd, free_port};

/// Settings without any time to live, so that each question reaches the server.
fn settings(urls: &[String]) -> Settings {
    let ldap = LdapSettings {
        urls: urls.to_vec(),
        starttls: false,
        ca_file: None,
        bind: Some(Bind {
            dn: "cn=agent,dc=example,dc=test".into(),
            password: Secret::new("agentpw"),
        }),
        gssapi: false,
        base: "dc=example,dc=test".into(),
        timeout: Duration::from_secs(5),
        watch: WatchMode::Off,
        canary: None,
    };
    Settings {
        source: Source::Ldap(ldap),
        address_attributes: vec!["mail".into(), "proxyAddresses".into()],
        journal_attributes: vec!["extensionAttribute10".into()],
        login_attributes: vec!["uid".into()],
        further_attributes: Vec::new(),
        exempt_attribute: None,
        inheritance: Inheritance::default(),
        targets: TargetSettings::default(),
        cache: CacheSettings {
            ttl: Duration::ZERO,
            negative_ttl: Duration::ZERO,
            ..CacheSettings::default()
        },
    }
}

/// The same, with something changed about the servers.
fn with(urls: &[String], change: impl FnOnce(&mut LdapSettings)) -> Settings {
    let mut settings = settings(urls);
    if let Source::Ldap(ldap) = &mut settings.source {
        change(ldap);
    }
    settings
}

fn open(settings: Settings) -> Directory {
    Directory::open(settings).expect("settings that can be used")
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

async fn find(directory: &Directory, text: &str) -> Lookup<Objects> {
    let address = address(text);
    let mut answers = directory.find(std::slice::from_ref(&address)).await;
    answers
        .remove(&address)
        .expect("an answer to each question")
}

/// The common names found, sorted; none where absent.
fn names(answer: Lookup<Objects>) -> Vec<String> {
    let name = |dn: &str| dn.split([',', '=']).nth(1).map(str::to_owned);
    match answer {
        Lookup::Found(objects) => {
            let mut names: Vec<String> = objects.iter().filter_map(|o| name(&o.dn)).collect();
            names.sort();
            names
        }
        Lookup::Absent => Vec::new(),
        Lookup::Unavailable(outage) => panic!("{outage}"),
    }
}

fn outage(answer: Lookup<Objects>) -> Outage {
    match answer {
        Lookup::Unavailable(outage) => outage,
        other => panic!("no outage: {other:?}"),
    }
}

/// Waits until the directory says that it is usable.
async fn recovered(directory: &Directory) -> Duration {
    let begun = Instant::now();
    while directory.health() != Health::Ok {
        assert!(begun.elapsed() < Duration::from_secs(20), "still down");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn people_are_found_by_every_address_whatever_its_case() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    for text in ["ana@example.test", "ANA@Example.Test", "Ann@example.test"] {
        assert_eq!(names(find(&directory, text).await), ["Ana"], "{text}");
    }
    assert_eq!(
        find(&directory, "nobody@example.test").await,
        Lookup::Absent
    );
    assert_eq!(
        names(
            match directory.find_first(&[address("ann@example.test")]).await {
                Lookup::Found((_, objects)) => Lookup::Found(objects),
                other => panic!("{other:?}"),
            }
        ),
        ["Ana"]
    );
}

#[tokio::test]
async fn the_object_brings_its_journal_addresses() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    let Lookup::Found(objects) = find(&directory, "ana@example.test").await else {
        panic!("Ana is not found");
    };
    let journal = objects[0].values("EXTENSIONATTRIBUTE10");
    assert_eq!(journal.to_vec(), ["smtp:Ana-Journal@archive.test"]);
}

#[tokio::test]
async fn all_objects_with_one_address_are_found() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    assert_eq!(
        names(find(&directory, "team@example.test").await),
        ["Eve", "Team"]
    );
}

#[tokio::test]
async fn several_addresses_share_a_search_and_each_has_its_answer() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    let asked: Vec<Address> = (0..200)
        .map(|n| address(&format!("u{n}@example.test")))
        .collect();
    let answers = directory.find(&asked).await;
    for (n, asked) in asked.iter().enumerate() {
        assert_eq!(names(answers[asked].clone()), [format!("u{n}")]);
    }
    directory.close().await;
    let searches = slapd.logged("scope=2");
    assert!(searches < 50, "{searches} searches");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_messages_at_once_all_get_their_answers() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    let asking = (0..200).map(|n| {
        let directory = directory.clone();
        tokio::spawn(async move { find(&directory, &format!("u{n}@example.test")).await })
    });
    for (n, answer) in asking.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(names(answer.await.expect("an answer")), [format!("u{n}")]);
    }
}

#[tokio::test]
async fn cached_answers_are_not_queried_again() {
    let slapd = Slapd::start();
    let mut settings = settings(&[slapd.url()]);
    settings.cache = CacheSettings::default();
    let directory = open(settings);
    for _ in 0..10 {
        assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
    }
    directory.close().await;
    // Beside the reading of the whole directory.
    assert!(slapd.logged("(mail=eve@example.test)") <= 1);
}

#[tokio::test]
async fn an_address_cannot_inject_a_filter() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    for local in [
        "*",
        "x)(cn=*",
        "*)(cn=*",
        "*)(|(cn=*",
        ")(cn=*)(mail=",
        "x)(!(cn=nobody",
        "(cn=*)",
        "\\2a",
        "\\2a)(cn=\\2a",
        "\\00",
        "\\",
        "\\5c2a",
        "a&b|c!d=e~f<g>h",
        "cn:dn:=*",
        "\u{2217}",
        "x\u{ff09}(cn=*",
    ] {
        let quoted = local.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!("\"{quoted}\"@example.test");
        assert_eq!(find(&directory, &text).await, Lookup::Absent, "{text}");
        // A login name is asked for in other attributes.
        assert_eq!(directory.find_login(local).await, Lookup::Absent, "{text}");
    }
    assert_eq!(find(&directory, "*@example.test").await, Lookup::Absent);
    assert_eq!(directory.health(), Health::Ok);
}

/// OpenLDAP compares as Unicode's NFKC does: a wide letter is the usual one.
#[tokio::test]
async fn logins_that_only_the_server_takes_for_one_are_all_found() {
    let slapd = Slapd::start();
    let directory = open(Settings {
        login_attributes: vec!["cn".into()],
        ..settings(&[slapd.url()])
    });
    for _ in 0..5 {
        let [plain, wide, large, spaced] = ["u5", "\u{ff55}5", "U5", " u5 "].map(|login| {
            let directory = &directory;
            async move { directory.find_login(login).await }
        });
        let found = tokio::join!(plain, wide, large, spaced);
        for found in [found.0, found.1, found.2, found.3] {
            assert!(matches!(found, Lookup::Found(_)), "{found:?}");
        }
    }
}

#[tokio::test]
async fn letters_beyond_ascii_neither_match_nor_disturb() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    let odd = address("\u{e1}na@example.test");
    let eve = address("eve@example.test");
    let answers = directory.find(&[odd.clone(), eve.clone()]).await;
    assert_eq!(answers[&odd], Lookup::Absent);
    assert_eq!(names(answers[&eve].clone()), ["Eve"]);
}

#[tokio::test]
async fn addresses_the_server_considers_equal_are_found() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    // A full-width letter, which only the server's rules (RFC 4518) take for an "a".
    let wide = address("\u{ff41}nn@example.test");
    let ann = address("ann@example.test");
    let answers = directory.find(&[wide.clone(), ann.clone()]).await;
    assert_eq!(names(answers[&ann].clone()), ["Ana"]);
    assert_eq!(names(answers[&wide].clone()), ["Ana"]);
}

#[tokio::test]
async fn half_an_answer_is_an_outage_for_its_address_only() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    let all = address("all@example.test");
    let eve = address("eve@example.test");
    let answers = directory.find(&[all.clone(), eve.clone()]).await;
    assert_eq!(names(answers[&eve].clone()), ["Eve"]);
    let reason = outage(answers[&all].clone()).reason;
    assert!(reason.contains("sizeLimitExceeded"), "{reason}");
    assert_eq!(directory.health(), Health::Ok);
}

#[tokio::test]
async fn journal_addresses_are_known_in_every_spelling() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    for (text, known) in [
        ("ana-journal@archive.test", true),
        ("Journal@archive.test", true),
        ("ana@example.test", false),
    ] {
        let guarded = lab::is_guarded(&directory, &[], &address(text)).await;
        assert_eq!(guarded, known, "{text}");
    }
}

#[tokio::test]
async fn a_refused_bind_is_an_outage_that_says_so_and_is_not_repeated() {
    let slapd = Slapd::start();
    let directory = open(with(&[slapd.url()], |ldap| {
        ldap.bind = Some(Bind {
            dn: "cn=agent,dc=example,dc=test".into(),
            password: Secret::new("not-the-secret"),
        });
    }));
    for _ in 0..20 {
        let reason = outage(find(&directory, "eve@example.test").await).reason;
        assert!(
            reason.contains("invalidCredentials") && reason.contains("cn=agent"),
            "{reason}"
        );
        assert!(!reason.contains("not-the-secret"), "{reason}");
    }
    assert!(slapd.logged("BIND dn=") <= 1);
}

#[tokio::test]
async fn a_missing_base_is_an_outage_and_not_an_empty_directory() {
    let slapd = Slapd::start();
    for (base, fault) in [
        ("ou=missing,dc=example,dc=test", "noSuchObject"),
        ("dc=elsewhere", "referral"),
    ] {
        let directory = open(with(&[slapd.url()], |ldap| ldap.base = base.into()));
        let reason = outage(find(&directory, "eve@example.test").await).reason;
        assert!(reason.contains(base) && reason.contains(fault), "{reason}");
    }
}

#[tokio::test]
async fn rights_that_were_taken_away_are_an_outage() {
    let slapd = Slapd::start();
    let directory = open(with(&[slapd.url()], |ldap| ldap.bind = None));
    let reason = outage(find(&directory, "eve@example.test").await).reason;
    assert!(reason.contains("dc=example,dc=test"), "{reason}");
}

#[tokio::test]
async fn a_killed_server_is_bridged_and_a_restarted_one_is_used_again() {
    let mut slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
    assert_eq!(
        find(&directory, "nobody@example.test").await,
        Lookup::Absent
    );

    slapd.kill();
    let begun = Instant::now();
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
    outage(find(&directory, "nobody@example.test").await);
    let reason = outage(find(&directory, "ana@example.test").await).reason;
    assert!(reason.contains(&slapd.url()), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(1), "fast while down");
    assert!(matches!(directory.health(), Health::Unavailable(_)));

    slapd.start_again();
    let took = recovered(&directory).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(names(find(&directory, "ana@example.test").await), ["Ana"]);
}

#[tokio::test]
async fn a_question_whose_connection_breaks_is_put_again() {
    let slapd = Slapd::start();
    let relay = Relay::start(slapd.address());
    let directory = open(settings(&[relay.url()]));
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
    assert_eq!(relay.lookups(), 2, "the same question twice");
}

#[tokio::test]
async fn a_server_that_was_restarted_in_between_is_not_even_noticed() {
    let mut slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
    slapd.kill();
    slapd.start_again();
    recovered(&directory).await;
    assert_eq!(names(find(&directory, "ana@example.test").await), ["Ana"]);
}

#[tokio::test]
async fn a_server_that_hangs_is_an_outage_in_time_and_then_at_once() {
    let slapd = Slapd::start();
    let directory = open(with(&[slapd.url()], |ldap| {
        ldap.timeout = Duration::from_secs(1);
    }));
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);

    slapd.signal("STOP");
    let begun = Instant::now();
    outage(find(&directory, "ana@example.test").await);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    // Whoever asks while a new connection is tried waits for it, but that ends.
    let begun = Instant::now();
    while directory.health() == Health::Ok {
        assert!(begun.elapsed() < Duration::from_secs(5), "not noticed");
        outage(find(&directory, "ana@example.test").await);
    }
    let begun = Instant::now();
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
    outage(find(&directory, "ana@example.test").await);
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );

    slapd.signal("CONT");
    recovered(&directory).await;
    assert_eq!(names(find(&directory, "ana@example.test").await), ["Ana"]);
}

#[tokio::test]
async fn a_hanging_server_is_noticed_without_mail() {
    let slapd = Slapd::start();
    let directory = open(with(&[slapd.url()], |ldap| {
        ldap.timeout = Duration::from_secs(1);
    }));
    recovered(&directory).await;
    slapd.signal("STOP");
    let begun = Instant::now();
    while directory.health() == Health::Ok {
        assert!(begun.elapsed() < Duration::from_secs(20), "not noticed");
        // What was said a moment before the stop is answered, and the next look is half a minute
        // later.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(31)).await;
        tokio::time::resume();
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
}

#[tokio::test]
async fn a_second_server_is_used_where_the_first_refuses() {
    let slapd = Slapd::start();
    let first = format!("ldap://127.0.0.1:{}", free_port());
    let directory = open(settings(&[first, slapd.url()]));
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
}

#[tokio::test]
async fn a_second_server_is_used_where_the_first_swallows_everything() {
    let slapd = Slapd::start();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let first = format!("ldap://{}", silent.local_addr().expect("bound"));
    let directory = open(with(&[first, slapd.url()], |ldap| {
        ldap.timeout = Duration::from_secs(2);
    }));
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
}

#[tokio::test]
async fn an_invalid_ldap_answer_is_an_outage_not_a_crash() {
    // The second is well-formed BER that the LDAP library panics on.
    for junk in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0x30, 0]] {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("ldap://{}", server.local_addr().expect("bound"));
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = server.accept() {
                // Whether it still listens does not matter here.
                let _ = stream.write_all(junk);
            }
        });
        let directory = open(with(std::slice::from_ref(&url), |ldap| {
            ldap.timeout = Duration::from_secs(2);
        }));
        let reason = outage(find(&directory, "eve@example.test").await).reason;
        assert!(reason.contains(&url), "{reason}");
    }
}

#[tokio::test]
async fn tls_both_ways_is_believed_by_our_own_ca_only() {
    let slapd = Slapd::start_with_tls();
    let other = slapd.ca_file().with_file_name("other.pem");
    for (url, starttls) in [(slapd.tls_url(), false), (slapd.url(), true)] {
        let trusting = |ca: PathBuf| {
            open(with(std::slice::from_ref(&url), |ldap| {
                ldap.starttls = starttls;
                ldap.ca_file = Some(ca);
            }))
        };
        let directory = trusting(slapd.ca_file());
        assert_eq!(
            names(find(&directory, "eve@example.test").await),
            ["Eve"],
            "{url}"
        );
        let reason = outage(find(&trusting(other.clone()), "eve@example.test").await).reason;
        assert!(reason.contains("certificate"), "{reason}");
    }
}

#[tokio::test]
async fn missing_starttls_is_an_outage_and_never_plain_text() {
    let plain = Slapd::start();
    let ca = Slapd::start_with_tls();
    let directory = open(with(&[plain.url()], |ldap| {
        ldap.starttls = true;
        ldap.ca_file = Some(ca.ca_file());
    }));
    outage(find(&directory, "eve@example.test").await);
    assert_eq!(plain.logged("BIND dn="), 0);
}

#[tokio::test]
async fn a_socket_is_a_way_in() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.socket_url()]));
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
}

#[tokio::test]
async fn a_probe_reports_every_server() {
    let slapd = Slapd::start();
    let dead = format!("ldap://127.0.0.1:{}", free_port());
    let directory = open(settings(&[dead.clone(), slapd.url()]));
    let probes = directory.probe().await;
    let refused = probes[0].outcome.as_ref().expect_err("nobody listens");
    assert!(refused.contains(&dead), "{refused}");
    let fine = probes[1].outcome.as_ref().expect("slapd answers");
    assert!(
        fine.contains("cn=agent") && fine.contains("dc=example"),
        "{fine}"
    );
    let remarks: Vec<&String> = probes[1].remarks.iter().flatten().collect();
    for wanted in [
        "mail: readable",
        "extensionAttribute10: readable",
        "a lookup takes",
        "changes",
    ] {
        assert!(
            remarks.iter().any(|remark| remark.contains(wanted)),
            "{wanted}: {remarks:?}"
        );
    }
}

#[tokio::test]
async fn a_closed_directory_says_so_at_once() {
    let slapd = Slapd::start();
    let directory = open(settings(&[slapd.url()]));
    assert_eq!(names(find(&directory, "eve@example.test").await), ["Eve"]);
    directory.close().await;
    let begun = Instant::now();
    outage(find(&directory, "ana@example.test").await);
    assert!(begun.elapsed() < Duration::from_millis(500));
}
