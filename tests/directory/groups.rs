//! Mail to a group of the directory is mail to its members, on OpenLDAP and on Active Directory.

use crate::lab;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use copyist::directory::{Directory, Inheritance, Lookup, Settings, TargetSettings};
use copyist::identity::{AddressRules, Identities, IdentityQuery, Owners};
use copyist::mail::Address;
use lab::{
    DOMAIN, DirectoryServer, Fault, FaultProxy, INSIDE, OUTSIDE, Report, Samba, Site, Slapd,
    message, user,
};

const EXEMPT: &str = "extensionAttribute11";

mod in_the_library {
    on_both_directories! {
        async
        members_count_at_any_depth_and_size,
        a_group_is_exempt_only_with_all_its_members,
        what_covers_members_counts_at_any_size,
    }

    use super::{
        a_group_is_exempt_only_with_all_its_members, lab, members_count_at_any_depth_and_size,
        what_covers_members_counts_at_any_size,
    };
}

on_both_directories! {
    a_report_names_the_group_and_the_members_that_cause_it,
}

/// The question about a recipient, by this directory and group limit.
struct RecipientLookup {
    identities: Identities,
}

impl RecipientLookup {
    fn open(
        server: &impl DirectoryServer,
        group_limit: usize,
        inheritance: Inheritance,
    ) -> RecipientLookup {
        let access = server.access();
        RecipientLookup::with(Settings {
            targets: TargetSettings {
                group_limit,
                ..TargetSettings::default()
            },
            exempt_attribute: Some(EXEMPT.to_owned()),
            further_attributes: vec![EXEMPT.to_owned()],
            inheritance,
            ..access.directory()
        })
    }

    fn with(settings: Settings) -> RecipientLookup {
        let names = AddressRules {
            domains: vec![DOMAIN.parse().expect("a domain")],
            recipient_delimiter: "+".to_owned(),
            ..AddressRules::default()
        };
        let directory = Directory::open(settings).expect("settings that can be used");
        RecipientLookup {
            identities: Identities::new(directory, Arc::new(names)),
        }
    }

    async fn owners(&self, address: &str) -> Result<Arc<Owners>, String> {
        let question = question(address);
        let soon = tokio::time::Instant::now() + self.identities.directory().max_wait();
        let people = self.identities.find(std::slice::from_ref(&question), soon);
        let people = people.await;
        match people.get(&question) {
            Lookup::Found(owners) => Ok(Arc::clone(owners)),
            Lookup::Absent => Ok(Arc::default()),
            Lookup::Unavailable(outage) => Err(outage.to_string()),
        }
    }

    /// The journaled members of a group, and the outside addresses that it reaches.
    async fn members(&self, address: &str) -> BTreeSet<String> {
        let owners = self.owners(address).await.expect("an answer");
        let journaled = owners.people.iter().filter(|person| {
            let mut objects = person.objects.iter();
            objects.any(|object| !object.values("extensionAttribute10").is_empty())
        });
        let reached = owners.further_addresses.iter().map(ToString::to_string);
        let all = journaled.map(|person| person.address.to_string());
        all.chain(reached).collect()
    }

    async fn is_exempt(&self, address: &str) -> bool {
        let owners = self.owners(address).await.expect("an answer");
        owners.exempting_object(Some(EXEMPT)).is_some()
    }
}

fn question(address: &str) -> IdentityQuery {
    IdentityQuery::Recipient {
        address: Address::parse(address).expect("an address"),
        mta: None,
    }
}

fn group(name: &str) -> String {
    format!("{name}@{DOMAIN}")
}

/// A group with an address.
fn add(
    server: &impl DirectoryServer,
    name: &str,
    members: &[String],
    more: &[(&str, &str)],
) -> String {
    let mail = group(name);
    let mut attributes = vec![("mail", mail.as_str())];
    attributes.extend(more);
    server.add_group(name, members, &attributes)
}

fn users(numbers: &[usize]) -> BTreeSet<String> {
    numbers.iter().copied().map(user).collect()
}

/// Every third user is journaled.
async fn members_count_at_any_depth_and_size<D: DirectoryServer>() {
    let server = D::start(40);
    let dn = |n: usize| server.user_dn(n);
    let contact = server.add_contact("contact", &[("mail", "buyer@customer.test")]);
    let inner = add(&server, "inner", &[dn(3), dn(4)], &[]);
    let without_address = server.add_group("quiet", &[dn(6), inner.clone()], &[]);
    let outer = add(
        &server,
        "outer",
        &[without_address.clone(), dn(7), contact.clone()],
        &[],
    );
    server.add_member(&inner, &outer);
    let many: Vec<String> = (0..40).map(dn).collect();
    add(&server, "many", &many, &[]);
    add(&server, "nobody", &[dn(1), dn(2)], &[]);
    let journaled: Vec<usize> = (0..40).filter(|n| n % 3 == 0).collect();
    let outside = BTreeSet::from(["buyer@customer.test".to_owned()]);
    for limit in [10_000, 2] {
        let asked = RecipientLookup::open(&server, limit, Inheritance::default());
        let nested: BTreeSet<String> = users(&[3, 6]).union(&outside).cloned().collect();
        for (name, wanted) in [
            ("inner", nested.clone()),
            ("outer", nested.clone()),
            ("outer+list", nested),
            ("many", users(&journaled)),
            ("nobody", BTreeSet::new()),
        ] {
            assert_eq!(asked.members(&group(name)).await, wanted, "{name} {limit}");
        }
    }
}

async fn a_group_is_exempt_only_with_all_its_members<D: DirectoryServer>() {
    let server = D::start(10);
    let dn = |n: usize| server.user_dn(n);
    for n in 0..5 {
        server.set_attribute(&dn(n), EXEMPT, "TRUE");
    }
    let contact = server.add_contact("contact", &[("mail", "buyer@customer.test")]);
    let exempt = [(EXEMPT, "TRUE")];
    let three = [dn(1), dn(2), dn(3)];
    let own = add(&server, "own", &three, &exempt);
    add(&server, "members", &three, &[]);
    add(&server, "mixed", &[dn(1), dn(2), dn(5)], &exempt);
    add(&server, "leaving", &[dn(1), dn(2), contact], &exempt);
    add(&server, "nested", &[own, dn(4)], &exempt);
    let plain = server.add_group("plain", &three, &[]);
    add(&server, "deeper", &[plain, dn(4)], &exempt);
    for limit in [10_000, 2] {
        let asked = RecipientLookup::open(&server, limit, Inheritance::default());
        for (name, wanted) in [
            ("own", true),
            ("members", false),
            ("mixed", false),
            ("leaving", false),
            ("nested", true),
            ("deeper", false),
        ] {
            assert_eq!(
                asked.is_exempt(&group(name)).await,
                wanted,
                "{name} {limit}"
            );
        }
    }
}

async fn what_covers_members_counts_at_any_size<D: DirectoryServer>() {
    let server = D::start_with(10, |_| None);
    let dn = |n: usize| server.user_dn(n);
    let covering = [("extensionAttribute10", "team@archive.test")];
    server.add_group("covering", &[dn(1), dn(2)], &covering);
    add(&server, "all", &[dn(1), dn(2), dn(3), dn(4)], &[]);
    let groups = Inheritance {
        groups: true,
        ..Inheritance::default()
    };
    let containers = Inheritance {
        containers: true,
        ..Inheritance::default()
    };
    for limit in [10_000, 2] {
        let asked = RecipientLookup::open(&server, limit, groups);
        assert_eq!(
            asked.members(&group("all")).await,
            users(&[1, 2]),
            "{limit}"
        );
    }
    server.set_attribute(
        &server.people_dn(),
        "extensionAttribute10",
        "people@archive.test",
    );
    for limit in [10_000, 2] {
        let asked = RecipientLookup::open(&server, limit, containers);
        assert_eq!(
            asked.members(&group("all")).await,
            users(&[1, 2, 3, 4]),
            "{limit}"
        );
    }
}

#[tokio::test]
async fn the_kinds_of_group_of_active_directory_have_members() {
    let server = Samba::start(3000);
    let dn = |n: usize| server.user_dn(n);
    let all: Vec<String> = (0..3000).map(dn).collect();
    // Security groups, global and universal, and distribution groups.
    for (name, kind) in [
        ("security", "-2147483646"),
        ("universal", "-2147483640"),
        ("distribution", "8"),
    ] {
        add(&server, name, &[dn(3), dn(4)], &[("groupType", kind)]);
    }
    // The server gives the first 1,500 and then asks to be asked.
    add(&server, "ranges", &all, &[]);
    let base = "DC=example,DC=test";
    server.set_attribute(
        &format!("CN=Domain Users,CN=Users,{base}"),
        "mail",
        &group("everybody"),
    );
    let journaled: Vec<usize> = (0..3000).filter(|n| n % 3 == 0).collect();
    for limit in [10_000, 1000] {
        let asked = RecipientLookup::open(&server, limit, Inheritance::default());
        for name in ["security", "universal", "distribution"] {
            assert_eq!(asked.members(&group(name)).await, users(&[3]), "{name}");
        }
        // Named by no value of the group: the primary group of each.
        for name in ["ranges", "everybody"] {
            let begun = Instant::now();
            assert_eq!(
                asked.members(&group(name)).await,
                users(&journaled),
                "{name}"
            );
            println!(
                "{name}, 3,000 members, limit {limit}: {:?}",
                begun.elapsed()
            );
        }
    }
}

#[tokio::test]
async fn the_kinds_of_group_of_openldap_have_members() {
    let server = Slapd::start(20);
    let base = server.base();
    server.modify(&format!(
        "dn: cn=posix,{base}\nchangetype: add\nobjectClass: posixGroup\nobjectClass: exchangeRecipient\ngidNumber: 5\n\
         mail: posix@{DOMAIN}\nmemberUid: u00003\nmemberUid: U00006\nmemberUid: u00007\n\n\
         dn: cn=dynamic,{base}\nchangetype: add\nobjectClass: groupOfURLs\nobjectClass: exchangeRecipient\n\
         mail: dynamic@{DOMAIN}\nmemberURL: ldap:///ou=people,{base}??sub?(|(uid=u00003)(uid=u00009)(uid=u00010))\n\n\
         dn: cn=unique,{base}\nchangetype: add\nobjectClass: groupOfUniqueNames\nobjectClass: exchangeRecipient\n\
         mail: unique@{DOMAIN}\nuniqueMember: cn=posix, {base}\nuniqueMember: cn=dynamic,{base}\nuniqueMember: cn=gone,{base}\n"
    ));
    for limit in [10_000, 2] {
        let asked = RecipientLookup::open(&server, limit, Inheritance::default());
        for (name, wanted) in [
            ("posix", &[3, 6][..]),
            ("dynamic", &[3, 9]),
            ("unique", &[3, 6, 9]),
        ] {
            assert_eq!(
                asked.members(&group(name)).await,
                users(wanted),
                "{name} {limit}"
            );
        }
    }
}

/// Passes on what comes in, and counts the searches that name something.
struct Counter {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl Counter {
    fn start(server: SocketAddr, text: &'static str) -> Counter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let counter = Counter {
            address: listener.local_addr().expect("bound"),
            count: Arc::default(),
        };
        let count = Arc::clone(&counter.count);
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let server = TcpStream::connect(server).expect("the server");
                let (mut from, mut to) = (
                    client.try_clone().expect("a socket"),
                    server.try_clone().expect("a socket"),
                );
                let count = Arc::clone(&count);
                std::thread::spawn(move || {
                    let mut buffer = [0; 64 * 1024];
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        let words = buffer[..read].windows(text.len());
                        let found = words.filter(|word| *word == text.as_bytes()).count();
                        count.fetch_add(found, Ordering::SeqCst);
                        if to.write_all(&buffer[..read]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || std::io::copy(&mut &server, &mut &client));
            }
        });
        counter
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

fn server_of(slapd: &Slapd) -> SocketAddr {
    let url = slapd.url();
    let (_, server) = url.split_once("://").expect("a URL");
    server.parse().expect("an address")
}

/// By way of this address.
fn settings_by(slapd: &Slapd, address: SocketAddr) -> Settings {
    let mut access = slapd.access();
    access.url = format!("ldap://{address}");
    access.directory()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_read_once_however_many_ask() {
    let server = Slapd::start(10);
    let inner = server.add_group("inner", &[server.user_dn(3)], &[]);
    add(&server, "team", &[inner, server.user_dn(6)], &[]);
    let counter = Counter::start(server_of(&server), "cn=team,");
    let asked = Arc::new(RecipientLookup::with(settings_by(&server, counter.address)));
    // The reading of all values at the start asks about objects, too.
    let mut read = asked.identities.directory().journal_values();
    let read = tokio::time::timeout(lab::PATIENCE, read.wait_for(Option::is_some));
    read.await.expect("in time").expect("it is read");
    let before = counter.count();
    let all = (0..50).map(|_| {
        let asked = Arc::clone(&asked);
        tokio::spawn(async move { asked.members(&group("team")).await })
    });
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.expect("an answer"), users(&[3, 6]));
    }
    assert_eq!(counter.count() - before, 1);
    assert_eq!(asked.members(&group("team")).await, users(&[3, 6]));
    assert_eq!(counter.count() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_takes_long_is_there_for_the_next_attempt() {
    let server = Slapd::start(10);
    // One level after the other.
    let mut inner = server.user_dn(3);
    for level in 0..14 {
        inner = server.add_group(&format!("level{level}"), &[inner], &[]);
    }
    add(&server, "team", &[inner], &[]);
    let slow = tokio::task::block_in_place(|| FaultProxy::start(server_of(&server)));
    let asked = RecipientLookup::with(settings_by(&server, slow.address()));
    // Connected, and everything read that is read at the start.
    assert_eq!(asked.members(&user(1)).await, BTreeSet::new());
    slow.set(Fault::Delay(Duration::from_millis(400)));
    let begun = Instant::now();
    let said = asked
        .owners(&group("team"))
        .await
        .expect_err("it is still being read");
    let took = begun.elapsed();
    assert!(said.contains("still being read"), "{said}");
    // An MTA waits thirty seconds for its milter.
    assert!(took < Duration::from_secs(15), "{took:?}");
    let begun = Instant::now();
    assert_eq!(asked.members(&group("team")).await, users(&[3]));
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "the reading went on: {:?}",
        begun.elapsed()
    );
    slow.set(Fault::Pass);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_group_is_read_again_for_its_own_changes_only() {
    let server = Slapd::start(20);
    let members: Vec<String> = (0..10).map(|n| server.user_dn(n)).collect();
    let team = add(&server, "team", &members, &[]);
    let counter = Counter::start(server_of(&server), "cn=team,");
    let asked = RecipientLookup::with(Settings {
        targets: TargetSettings {
            group_limit: 2,
            ..TargetSettings::default()
        },
        ..settings_by(&server, counter.address)
    });
    let state = tempfile::tempdir().expect("a directory");
    asked
        .identities
        .directory()
        .follow_changes(&state.path().join("place"));
    let changed = |number: usize| {
        let asked = &asked;
        let server = &server;
        async move {
            let changed = asked.identities.directory().wait_for_change();
            server.set_journal(number, Some("new@archive.test"));
            let waited = tokio::time::timeout(lab::PATIENCE, changed).await;
            waited.expect("the change is told");
        }
    };
    assert_eq!(asked.members(&group("team")).await, users(&[0, 3, 6, 9]));
    // The feed is up when it tells of something.
    changed(15).await;
    asked.members(&group("team")).await;
    let before = counter.count();
    changed(16).await;
    assert_eq!(asked.members(&group("team")).await, users(&[0, 3, 6, 9]));
    assert_eq!(counter.count(), before, "somebody else is not in it");
    let counts = async |wanted: BTreeSet<String>, what: &str| {
        let begun = Instant::now();
        while asked.members(&group("team")).await != wanted {
            assert!(begun.elapsed() < lab::PATIENCE, "{what} never counts");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    server.set_journal(4, Some("new@archive.test"));
    counts(users(&[0, 3, 4, 6, 9]), "what a member got").await;
    server.add_member(&team, &server.user_dn(16));
    counts(users(&[0, 3, 4, 6, 9, 16]), "a new member").await;
}

/// KiB of this process in memory.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn large_groups_are_not_deferred() {
    let members = lab::setting("COPYIST_PROOF_GROUP", 5000);
    let server = Slapd::start(members);
    let all: Vec<String> = (0..members).map(|n| server.user_dn(n)).collect();
    let contact = server.add_contact("contact", &[("mail", "buyer@customer.test")]);
    add(&server, "all", &[all, vec![contact]].concat(), &[]);
    let asked = RecipientLookup::open(&server, 1000, Inheritance::default());
    assert_eq!(asked.members(&user(1)).await, BTreeSet::new());
    let before = memory();
    let begun = Instant::now();
    let mut attempts = 1;
    while let Err(outage) = asked.owners(&group("all")).await {
        assert!(outage.contains("still being read"), "{outage}");
        attempts += 1;
    }
    let first = begun.elapsed();
    let grown = memory().saturating_sub(before);
    let begun = Instant::now();
    let found = asked.members(&group("all")).await;
    let second = begun.elapsed();
    println!(
        "a group of {members} members: the first question {first:?} in {attempts} attempts, the next {second:?}; \
         {grown} KiB more in memory"
    );
    let journaled: Vec<usize> = (0..members).filter(|n| n % 3 == 0).collect();
    let outside = BTreeSet::from(["buyer@customer.test".to_owned()]);
    assert!(found == users(&journaled).union(&outside).cloned().collect());
    // As for a person: nothing is asked, nothing is read.
    assert!(second < first);
}

fn a_report_names_the_group_and_the_members_that_cause_it<D: DirectoryServer>() {
    let directory = D::start(10);
    let contact = directory.add_contact("contact", &[("mail", "buyer@customer.test")]);
    let members = [
        directory.user_dn(3),
        directory.user_dn(4),
        directory.user_dn(5),
        contact,
    ];
    add(&directory, "sales", &members, &[]);
    let mut site = Site::start_with(directory, "5m");
    let config = std::fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    let config = config
        .replace(
            "[outbound]",
            "[outbound]\njournal = \"leaving@archive.test\"",
        )
        .replace("[directory]", "[directory]\nrecipient_delimiter = \"+\"");
    site.copyist.write_config(&config);
    site.copyist.restart();
    let lines = |report: &Report| -> BTreeSet<String> {
        let all = ["To", "Cc", "Bcc", "Recipient"].into_iter();
        let all = all.flat_map(|name| report.field(name).into_iter().map(str::to_owned));
        all.collect()
    };
    let sales = group("sales");
    let expanded = format!("{}, Expanded: {sales}", user(3));
    for (from, sender, to, id, wanted) in [
        (
            OUTSIDE,
            "a@customer.test",
            sales.clone(),
            "<outside@elsewhere.test>",
            &["journal-3@archive.test"][..],
        ),
        (
            INSIDE,
            user(1).as_str(),
            sales.clone(),
            "<inside@elsewhere.test>",
            // A contact takes the mail out of the organization.
            &["journal-3@archive.test", "leaving@archive.test"],
        ),
        (
            INSIDE,
            user(1).as_str(),
            format!("sales+x@{DOMAIN}"),
            "<extension@elsewhere.test>",
            &["journal-3@archive.test", "leaving@archive.test"],
        ),
    ] {
        let reply = site
            .client(from)
            .send_message(sender, &[&to], &message(id, "x"));
        assert_eq!(reply.code, 250, "{reply:?}\n{}", site.copyist.log());
        lab::wait("all reports", lab::PATIENCE, || site.copyist.queued() == 0);
        let reports: Vec<Report> = site
            .reports()
            .into_iter()
            .filter(|one| one.about == id)
            .collect();
        let journals: BTreeSet<&str> = reports
            .iter()
            .flat_map(|report| report.recipients.iter().map(String::as_str))
            .collect();
        assert_eq!(journals, wanted.iter().copied().collect(), "{id}");
        for report in &reports {
            let mut named = BTreeSet::from([to.clone()]);
            // Memberships may be hidden: nobody else is named, and nobody to others.
            if report.recipients.contains(&wanted[0].to_owned()) {
                named.insert(expanded.clone());
            }
            assert_eq!(lines(report), named, "{}", report.text);
        }
    }
}
