//! Journal targets that name objects of the directory, against a real OpenLDAP server and a real
//! Active Directory domain controller.

use crate::{lab, scripted};
use copyist::directory::{Directory, ExpandGroups, Health, Settings, Target, TargetSettings};
use copyist::mail::Address;
use lab::{Access, DirectoryServer, Samba, Slapd};
use scripted::Scripted;

const BASE: &str = "dc=example,dc=test";

on_both_directories! {
    async
    every_form_of_target_leads_where_it_should,
    groups_are_expanded_and_encapsulated_as_configured,
    mailboxes_named_in_settings_and_their_members_are_guarded,
}

/// One of each: a group with an address and one without, three levels with a cycle, a contact, an
/// object without an address, and a group whose only member has none.
fn objects(server: &impl DirectoryServer) {
    let user = |n: usize| server.user_dn(n);
    server.add_group(
        "listed",
        &[user(0), user(1)],
        &[("mail", "listed@example.test")],
    );
    server.add_group(
        "hidden",
        &[user(0), user(1)],
        &[(
            "legacyExchangeDN",
            "/O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=globalarchdl",
        )],
    );
    let inner = server.add_group("inner", &[user(2)], &[]);
    let middle = server.add_group("middle", &[inner.clone(), user(1), user(2)], &[]);
    let outer = server.add_group("outer", &[middle], &[]);
    server.add_member(&inner, &outer);
    server.add_contact(
        "contact",
        &[
            ("targetAddress", "SMTP:partner@partner.test"),
            ("proxyAddresses", "X500:/O=ACME/CN=partner"),
        ],
    );
    let silent = server.add_contact(
        "silent",
        &[("legacyExchangeDN", "/o=ACME/cn=Recipients/cn=silent one")],
    );
    server.add_group("empty", &[silent], &[]);
}

fn open(server: &impl DirectoryServer, targets: TargetSettings) -> Directory {
    open_at(server.access(), targets)
}

fn open_at(access: Access, targets: TargetSettings) -> Directory {
    let settings = Settings {
        targets,
        ..access.directory()
    };
    Directory::open(settings).expect("settings that can be used")
}

/// The addresses that a target leads to, or what is wrong with it.
async fn resolve(directory: &Directory, text: &str) -> Result<Vec<String>, String> {
    let target = Target::parse(text).expect("a target");
    let answer = directory.resolve(std::slice::from_ref(&target)).await;
    let resolution = answer[&target]
        .as_ref()
        .map_err(|o| format!("OUTAGE {o}"))?;
    let reached = resolution.as_ref().map_err(ToString::to_string)?;
    Ok(reached
        .addresses
        .iter()
        .map(|one| one.address.to_string())
        .collect())
}

/// Each target of a table, and where it leads or what is wrong with it.
async fn check(directory: &Directory, table: &[(String, Result<Vec<String>, &str>)]) {
    for (target, wanted) in table {
        match (resolve(directory, target).await, wanted) {
            (found, Ok(wanted)) => assert_eq!(found.as_ref(), Ok(wanted), "{target}"),
            (Ok(found), Err(_)) => panic!("{target} leads to {found:?}"),
            (Err(said), Err(wrong)) => {
                assert!(said.contains(wrong), "{target}: {said}");
                assert!(!said.contains("OUTAGE"), "{target}: {said}");
            }
        }
    }
    assert_eq!(
        directory.health(),
        Health::Ok,
        "no value harmed the connection"
    );
}

fn mail(user: usize) -> String {
    format!("u{user:05}@example.test")
}

fn at_base(name: &str) -> String {
    format!("cn={name},{BASE}")
}

async fn every_form_of_target_leads_where_it_should<D: DirectoryServer>() {
    let server = D::start(10);
    objects(&server);
    let directory = open(&server, TargetSettings::default());
    let group = Ok(vec![mail(0), mail(1)]);
    let partner = Ok(vec!["partner@partner.test".to_owned()]);
    let odd = server.user_dn(3).to_uppercase().replace(',', ", ");
    let nowhere = Err("has no object");
    let table = [
        (
            "journal@archive.test".into(),
            Ok(vec!["journal@archive.test".into()]),
        ),
        (
            "smtp:journal@archive.test".into(),
            Ok(vec!["journal@archive.test".into()]),
        ),
        (
            "mailto:journal@archive.test".into(),
            Ok(vec!["journal@archive.test".into()]),
        ),
        (server.user_dn(3), Ok(vec![mail(3)])),
        (odd, Ok(vec![mail(3)])),
        (at_base("listed"), Ok(vec!["listed@example.test".into()])),
        (at_base("hidden"), group.clone()),
        (
            "/O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=globalarchdl".into(),
            group.clone(),
        ),
        (
            "x500:/o=acme/ou=EastCoast/cn=recipients/cn=GlobalArchDL".into(),
            group,
        ),
        (at_base("outer"), Ok(vec![mail(1), mail(2)])),
        (at_base("contact"), partner.clone()),
        ("/o=ACME/cn=PARTNER".into(), partner),
        (at_base("gone"), nowhere.clone()),
        ("cn=x,dc=elsewhere,dc=test".into(), nowhere.clone()),
        ("cn=a=b,,dc=broken".into(), nowhere.clone()),
        ("/O=ACME/CN=nobody".into(), nowhere.clone()),
        ("cn=config".into(), nowhere.clone()),
        ("/O=*)(cn=*".into(), nowhere),
        (at_base("empty"), Err("no SMTP address")),
        (at_base("silent"), Err("no SMTP address")),
    ];
    check(&directory, &table).await;
    for malformed in ["", "nobody at all", "a@b@c d", "/", "x500:"] {
        assert!(Target::parse(malformed).is_err(), "{malformed:?}");
    }
}

/// The kinds of group that only OpenLDAP has.
#[tokio::test]
async fn unix_and_dynamic_groups_lead_to_their_members() {
    let server = Slapd::start(10);
    server.modify(&format!(
        "dn: cn=posix,{BASE}
changetype: add
objectClass: posixGroup
gidNumber: 5
memberUid: u00001
memberUid: u00002

dn: cn=dynamic,{BASE}
changetype: add
objectClass: groupOfURLs
memberURL: ldap:///ou=people,{BASE}??sub?(|(uid=u00003)(uid=u00004))

dn: cn=unique,{BASE}
changetype: add
objectClass: groupOfUniqueNames
uniqueMember: cn=posix,{BASE}
uniqueMember: cn=gone,{BASE}

dn: cn=left,{BASE}
changetype: add
objectClass: groupOfNames
member: cn=gone,{BASE}
"
    ));
    let directory = open(&server, TargetSettings::default());
    let table = [
        (at_base("posix"), Ok(vec![mail(1), mail(2)])),
        (at_base("dynamic"), Ok(vec![mail(3), mail(4)])),
        (at_base("unique"), Ok(vec![mail(1), mail(2)])),
        (at_base("left"), Err("no SMTP address")),
    ];
    check(&directory, &table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_group_of_active_directory_is_read_part_by_part() {
    let server = Samba::start(5000);
    let members: Vec<String> = (0..5000).map(|n| server.user_dn(n)).collect();
    server.add_group("all", &members, &[]);
    let directory = open(&server, TargetSettings::default());
    let begun = std::time::Instant::now();
    let found = resolve(&directory, &at_base("all")).await;
    println!("5,000 members on Samba: {:?}", begun.elapsed());
    let wanted: Vec<String> = (0..5000).map(mail).collect();
    assert!(
        found.as_ref() == Ok(&wanted),
        "{:?}",
        found.map(|f| f.len())
    );
}

async fn groups_are_expanded_and_encapsulated_as_configured<D: DirectoryServer>() {
    let server = D::start(10);
    objects(&server);
    let settings = TargetSettings {
        expand_groups: ExpandGroups::Always,
        group_limit: 3,
        imceaex_domain: Some("acme.test".into()),
    };
    let directory = open(&server, settings);
    let encapsulated = "IMCEAEX-_o=ACME_cn=Recipients_cn=silent+20one@acme.test";
    let table = [
        (at_base("listed"), Ok(vec![mail(0), mail(1)])),
        (at_base("silent"), Ok(vec![encapsulated.to_owned()])),
    ];
    check(&directory, &table).await;
    let large = resolve(&directory, &at_base("outer")).await;
    let said = large.expect_err("five objects are more than three");
    assert!(
        said.contains("OUTAGE") && said.contains("group_limit"),
        "{said}"
    );
}

async fn mailboxes_named_in_settings_and_their_members_are_guarded<D: DirectoryServer>() {
    let server = D::start(10);
    objects(&server);
    server.set_journal(5, Some(&server.user_dn(7)));
    let directory = open(&server, TargetSettings::default());
    let configured = [
        Target::parse("/O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=globalarchdl").expect("a target"),
        Target::parse(&at_base("listed")).expect("a target"),
        Target::parse(&server.user_dn(8)).expect("a target"),
    ];
    for (text, guarded) in [
        ("listed@example.test", true),
        ("u00007@example.test", true),
        ("user.7@example.test", true),
        ("user.8@example.test", true),
        ("u00000@example.test", true),
        ("user.1@example.test", true),
        ("u00005@example.test", false),
        ("u00002@example.test", false),
    ] {
        let address = Address::parse(text).expect("an address");
        let answer = lab::is_guarded(&directory, &configured, &address).await;
        assert_eq!(answer, guarded, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_comes_in_ranges_is_read_to_its_end() {
    let server = Scripted::with_group(5000, None);
    let directory = open_at(Access::anonymous(server.url()), TargetSettings::default());
    let mut all = resolve(&directory, "cn=all,dc=example,dc=test")
        .await
        .expect("a group");
    all.sort();
    let mut wanted: Vec<String> = (0..5000).map(|n| format!("{n}@example.test")).collect();
    wanted.sort();
    assert_eq!(all, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_missing_ranges_is_an_outage_not_a_shorter_list() {
    let server = Scripted::with_group(5000, Some(3000));
    let directory = open_at(Access::anonymous(server.url()), TargetSettings::default());
    let said = resolve(&directory, "cn=all,dc=example,dc=test")
        .await
        .expect_err("half a group");
    assert!(
        said.contains("OUTAGE") && said.contains("up to number 2999"),
        "{said}"
    );
}
