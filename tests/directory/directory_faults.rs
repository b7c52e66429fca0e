//! Any fault between Copyist and a directory is an outage with a reason, and never a negative
//! answer: the rows of the failure matrix that `directory_slapd.rs` leaves, and the ways into
//! Active Directory.

use crate::{lab, scripted};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use copyist::directory::{Directory, Health, Lookup, Objects, Settings, Source};
use copyist::mail::Address;
use lab::{Access, DirectoryServer, Samba, Slapd};
use scripted::Scripted;

fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

async fn find(directory: &Directory, text: &str) -> Lookup<Objects> {
    let asked = address(text);
    let mut answers = directory.find(std::slice::from_ref(&asked)).await;
    answers
        .remove(&asked)
        .expect("every question has an answer")
}

/// The reason of the outage that the answer must be.
async fn outage(directory: &Directory, text: &str) -> String {
    match find(directory, text).await {
        Lookup::Unavailable(outage) => outage.reason.to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

fn open(access: Access, change: impl FnOnce(&mut Settings)) -> Directory {
    let mut settings = access.directory();
    change(&mut settings);
    Directory::open(settings).expect("settings that can be used")
}

fn urls(settings: &mut Settings, urls: &[String]) {
    if let Source::Ldap(ldap) = &mut settings.source {
        ldap.urls = urls.to_vec();
    }
}

#[tokio::test]
async fn active_directory_is_entered_in_every_usual_way() {
    let samba = Samba::start(5);
    for (url, account, starttls) in [
        (samba.ldaps_url(), "copyist@example.test", false),
        (samba.ldaps_url(), "CN=Copyist,DC=example,DC=test", false),
        (samba.ldaps_url(), "EXAMPLE\\copyist", false),
        (samba.catalog_url(), "copyist@example.test", false),
        (samba.url(), "copyist@example.test", true),
    ] {
        let access = Access {
            url: url.clone(),
            bind_dn: Some(account.to_owned()),
            ..samba.access()
        };
        let directory = open(access, |settings| {
            if let Source::Ldap(ldap) = &mut settings.source {
                ldap.starttls = starttls;
            }
        });
        let found = find(&directory, "USER.3@example.test").await;
        assert!(
            matches!(found, Lookup::Found(_)),
            "{url} {account}: {found:?}"
        );
    }
    // A search from the top of a domain ends with references to other domains; nobody follows them.
    let plain = open(
        Access {
            url: samba.url(),
            ..samba.access()
        },
        |_| {},
    );
    let reason = outage(&plain, "u00003@example.test").await;
    assert!(reason.contains("strongerAuthRequired"), "{reason}");
}

#[tokio::test]
async fn rejected_active_directory_accounts_are_told_by_cause() {
    let samba = Samba::start(1);
    let (password, normal) = ("Other-Passw0rd.2", ("userAccountControl", "512"));
    let accounts = [
        (
            samba.add_account("wrong", "Another-Passw0rd.3", &[normal]),
            "wrong password",
        ),
        (
            samba.add_account("disabled", password, &[("userAccountControl", "514")]),
            "the account is disabled",
        ),
        (
            samba.add_account("expired", password, &[normal, ("accountExpires", "1")]),
            "the account has expired",
        ),
        (
            samba.add_account("change", password, &[normal, ("pwdLastSet", "0")]),
            "the password must be changed first",
        ),
        ("nobody@example.test".to_owned(), "(49)"),
    ];
    for (account, why) in accounts {
        let access = Access {
            bind_dn: Some(account.clone()),
            password: password.to_owned(),
            ..samba.access()
        };
        let directory = open(access, |_| {});
        let reason = outage(&directory, "u00000@example.test").await;
        assert!(
            reason.contains(why) && reason.contains(&account),
            "{account}: {reason}"
        );
        assert!(!reason.contains(password), "{reason}");
    }
}

#[tokio::test]
async fn without_the_canary_no_negative_answer_counts() {
    let slapd = Slapd::start(5);
    let directory = open(slapd.access(), |settings| {
        if let Source::Ldap(ldap) = &mut settings.source {
            ldap.canary = Some(address("u00004@example.test"));
        }
    });
    let (known, nobody) = ("u00003@example.test", "nobody@example.test");
    assert!(matches!(find(&directory, known).await, Lookup::Found(_)));
    assert_eq!(find(&directory, nobody).await, Lookup::Absent);
    slapd.hide_addresses();
    let reason = outage(&directory, "u00002@example.test").await;
    assert!(reason.contains("canary u00004@example.test"), "{reason}");
    assert!(matches!(directory.health(), Health::Unavailable(_)));
    // What was known stays known.
    assert!(matches!(find(&directory, known).await, Lookup::Found(_)));
}

#[tokio::test]
async fn an_expired_or_foreign_certificate_prevents_the_connection() {
    let mut slapd = Slapd::start(5);
    let over_tls = |slapd: &Slapd, url: String| Access {
        url,
        ca_file: Some(slapd.ca_file()),
        ..slapd.access()
    };
    // The certificate names localhost and 127.0.0.1, where 127.0.0.2 leads to the same server.
    let other = TcpListener::bind("127.0.0.2:0").expect("a port");
    let elsewhere = format!("ldaps://{}", other.local_addr().expect("bound"));
    let to = slapd.ldaps_url().replace("ldaps://", "");
    forward(other, to, None);
    let reason = outage(
        &open(over_tls(&slapd, elsewhere), |_| {}),
        "u00003@example.test",
    )
    .await;
    assert!(
        reason.contains("certificate") && reason.contains("127.0.0.2"),
        "{reason}"
    );
    slapd.certificates().expire();
    slapd.restart();
    let url = slapd.ldaps_url();
    let reason = outage(&open(over_tls(&slapd, url), |_| {}), "u00003@example.test").await;
    assert!(
        reason.contains("certificate") && reason.contains("expired"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_reset_in_mid_answer_is_never_half_an_answer() {
    let slapd = Slapd::start(100);
    let to = slapd.url().replace("ldap://", "");
    // Everything that a lookup of fifty people needs, and less and less of it.
    for bytes in (200..6000).step_by(500) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("ldap://{}", listener.local_addr().expect("bound"));
        forward(listener, to.clone(), Some(bytes));
        let directory = open(
            Access {
                url,
                ..slapd.access()
            },
            |_| {},
        );
        let asked: Vec<Address> = (0..50)
            .map(|n| address(&format!("u{n:05}@example.test")))
            .collect();
        for (one, answer) in directory.find(&asked).await {
            assert!(
                matches!(answer, Lookup::Found(_) | Lookup::Unavailable(_)),
                "{one} after {bytes} bytes: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_finish_a_search_is_an_outage() {
    // timeLimitExceeded, adminLimitExceeded, busy, unavailable, unwillingToPerform, other.
    for code in [3, 11, 51, 52, 53, 80] {
        let server = Scripted::refusing(code);
        let directory = open(Access::anonymous(server.url()), |_| {});
        let reason = outage(&directory, "u00003@example.test").await;
        assert!(reason.contains(&format!("({code})")), "{reason}");
    }
}

#[tokio::test(start_paused = false)]
async fn the_preferred_server_is_used_again_when_it_is_back() {
    let mut first = Slapd::start_with(2, |_| Some("first@archive.test".into()));
    let second = Slapd::start_with(2, |_| Some("second@archive.test".into()));
    let both = [first.url(), second.url()];
    let directory = open(first.access(), |settings| {
        urls(settings, &both);
        settings.cache.ttl = Duration::ZERO;
    });
    let journal = async || match find(&directory, "u00001@example.test").await {
        Lookup::Found(objects) => objects[0].values("extensionAttribute10").to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(journal().await, ["first@archive.test"]);
    first.stop();
    assert_eq!(journal().await, ["second@archive.test"]);
    first.restart();
    let begun = std::time::Instant::now();
    while journal().await != ["first@archive.test"] {
        assert!(begun.elapsed() < lab::PATIENCE, "it is not used again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("back at the preferred server after {:?}", begun.elapsed());
}

/// Passes connections on to another address; where `bytes` is set, resets them after so many have
/// come back.
fn forward(listener: TcpListener, to: String, bytes: Option<usize>) {
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&to).expect("the server listens");
            let mut up = (
                client.try_clone().expect("a socket"),
                server.try_clone().expect("a socket"),
            );
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut up.0, &mut up.1);
                let _ = up.1.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || pass_back(server, client, bytes));
        }
    });
}

fn pass_back(mut server: TcpStream, mut client: TcpStream, bytes: Option<usize>) {
    let mut left = bytes.unwrap_or(usize::MAX);
    let mut buffer = [0; 4096];
    while left > 0 {
        let most = buffer.len().min(left);
        match server.read(&mut buffer[..most]) {
            Ok(count @ 1..) if client.write_all(&buffer[..count]).is_ok() => left -= count,
            _ => break,
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
