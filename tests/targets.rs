//! Journal targets that name objects of the directory, against a real OpenLDAP server.

mod lab;
#[path = "directory/ranges.rs"]
mod ranges;

use copyist::directory::{
    Bind, CacheSettings, Directory, ExpandGroups, Health, LdapSettings, Settings, Source, Target,
    TargetSettings,
};
use copyist::mail::Address;
use copyist::secret::Secret;
use lab::{DirectoryServer, Slapd};
use ranges::Ranges;

const GROUPS: &str = "ou=groups,dc=example,dc=test";

/// One of each: a group with an address and one without, three levels with a cycle, a group by login names,
/// one by search, a contact, an object without an address, and a group whose only member is gone.
fn objects(slapd: &Slapd) {
    let user = |n: usize| format!("uid=u{n:05},ou=people,dc=example,dc=test");
    slapd.modify(&format!(
        "dn: {GROUPS}
changetype: add
objectClass: organizationalUnit
ou: groups

dn: cn=listed,{GROUPS}
changetype: add
objectClass: groupOfNames
objectClass: exchangeRecipient
mail: listed@example.test
member: {0}
member: {1}

dn: cn=hidden,{GROUPS}
changetype: add
objectClass: groupOfNames
objectClass: exchangeRecipient
legacyExchangeDN: /O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=globalarchdl
member: {0}
member: {1}
member: cn=gone,{GROUPS}

dn: cn=inner,{GROUPS}
changetype: add
objectClass: groupOfUniqueNames
uniqueMember: {2}
uniqueMember: cn=outer,{GROUPS}

dn: cn=middle,{GROUPS}
changetype: add
objectClass: groupOfNames
member: cn=inner,{GROUPS}
member: {1}
member: {2}

dn: cn=outer,{GROUPS}
changetype: add
objectClass: groupOfNames
member: cn=middle,{GROUPS}

dn: cn=posix,{GROUPS}
changetype: add
objectClass: posixGroup
gidNumber: 5
memberUid: u00001
memberUid: u00002

dn: cn=dynamic,{GROUPS}
changetype: add
objectClass: groupOfURLs
memberURL: ldap:///ou=people,dc=example,dc=test??sub?(|(uid=u00003)(uid=u00004))

dn: cn=empty,{GROUPS}
changetype: add
objectClass: groupOfNames
member: cn=gone,{GROUPS}

dn: cn=contact,{GROUPS}
changetype: add
objectClass: device
objectClass: exchangeRecipient
targetAddress: SMTP:partner@partner.test
proxyAddresses: X500:/O=ACME/CN=partner

dn: cn=silent,{GROUPS}
changetype: add
objectClass: device
objectClass: exchangeRecipient
legacyExchangeDN: /o=ACME/cn=Recipients/cn=silent one
",
        user(0),
        user(1),
        user(2)
    ));
}

fn open(slapd: &Slapd, targets: TargetSettings) -> Directory {
    let password = std::fs::read_to_string(slapd.password_file()).expect("the lab wrote it");
    let bind = Bind {
        dn: slapd.bind_dn().to_owned(),
        password: Secret::new(password),
    };
    open_at(slapd.url(), Some(bind), targets)
}

fn open_at(url: String, bind: Option<Bind>, targets: TargetSettings) -> Directory {
    let ldap = LdapSettings {
        urls: vec![url],
        starttls: false,
        ca_file: None,
        bind,
        base: "dc=example,dc=test".into(),
        timeout: std::time::Duration::from_secs(5),
    };
    Directory::open(Settings {
        source: Source::Ldap(ldap),
        address_attributes: vec!["mail".into(), "proxyAddresses".into()],
        journal_attributes: vec!["extensionAttribute10".into()],
        recipient_delimiter: String::new(),
        targets,
        cache: CacheSettings::default(),
    })
    .expect("settings that can be used")
}

/// The addresses that a target leads to, or what is wrong with it.
async fn resolve(directory: &Directory, text: &str) -> Result<Vec<String>, String> {
    let target = Target::parse(text).expect("a target");
    let answer = directory.resolve(std::slice::from_ref(&target)).await;
    let resolution = answer[&target]
        .as_ref()
        .map_err(|o| format!("OUTAGE {o}"))?;
    let reached = resolution.as_ref().map_err(ToString::to_string)?;
    Ok(reached.iter().map(|one| one.address.to_string()).collect())
}

#[tokio::test]
async fn every_form_of_target_leads_where_it_should() {
    let slapd = Slapd::start(10);
    objects(&slapd);
    let directory = open(&slapd, TargetSettings::default());
    let u = |n: usize| format!("u{n:05}@example.test");
    let group = |name: &str| format!("cn={name},{GROUPS}");
    let table: Vec<(String, Vec<String>)> = vec![
        (
            "journal@archive.test".into(),
            vec!["journal@archive.test".into()],
        ),
        ("uid=u00003,ou=people,dc=example,dc=test".into(), vec![u(3)]),
        (
            "UID=U00003, ou=People, DC=example,DC=test".into(),
            vec![u(3)],
        ),
        (group("listed"), vec!["listed@example.test".into()]),
        (group("hidden"), vec![u(0), u(1)]),
        (
            "/O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=globalarchdl".into(),
            vec![u(0), u(1)],
        ),
        (
            "x500:/o=acme/ou=EastCoast/cn=recipients/cn=GlobalArchDL".into(),
            vec![u(0), u(1)],
        ),
        (group("outer"), vec![u(1), u(2)]),
        (group("posix"), vec![u(1), u(2)]),
        (group("dynamic"), vec![u(3), u(4)]),
        (group("contact"), vec!["partner@partner.test".into()]),
        (
            "/o=ACME/cn=PARTNER".into(),
            vec!["partner@partner.test".into()],
        ),
    ];
    for (target, wanted) in table {
        assert_eq!(resolve(&directory, &target).await, Ok(wanted), "{target}");
    }
    for (target, wrong) in [
        (group("gone"), "has no object"),
        ("cn=x,dc=elsewhere,dc=test".into(), "has no object"),
        ("cn=a=b,,dc=broken".into(), "has no object"),
        ("/O=ACME/CN=nobody".into(), "has no object"),
        ("cn=config".into(), "has no object"),
        ("/O=*)(cn=*".into(), "has no object"),
        (group("empty"), "no SMTP address"),
        (group("silent"), "no SMTP address"),
    ] {
        let said = resolve(&directory, &target).await.expect_err(&target);
        assert!(said.contains(wrong), "{target}: {said}");
        assert!(!said.contains("OUTAGE"), "{target}: {said}");
    }
    assert_eq!(
        directory.health(),
        Health::Ok,
        "no value harmed the connection"
    );
}

#[tokio::test]
async fn groups_are_expanded_and_encapsulated_as_configured() {
    let slapd = Slapd::start(10);
    objects(&slapd);
    let settings = TargetSettings {
        expand_groups: ExpandGroups::Always,
        group_limit: 3,
        imceaex_domain: Some("acme.test".into()),
    };
    let directory = open(&slapd, settings);
    let listed = resolve(&directory, &format!("cn=listed,{GROUPS}")).await;
    assert_eq!(
        listed,
        Ok(vec![
            "u00000@example.test".into(),
            "u00001@example.test".into()
        ])
    );
    let silent = resolve(&directory, &format!("cn=silent,{GROUPS}")).await;
    assert_eq!(
        silent,
        Ok(vec![
            "IMCEAEX-_o=ACME_cn=Recipients_cn=silent+20one@acme.test".into()
        ])
    );
    let large = resolve(&directory, &format!("cn=outer,{GROUPS}")).await;
    let said = large.expect_err("five objects are more than three");
    assert!(
        said.contains("OUTAGE") && said.contains("group_limit"),
        "{said}"
    );
}

#[tokio::test]
async fn the_mailbox_that_a_target_names_is_guarded_and_a_groups_members_are_not() {
    let slapd = Slapd::start(10);
    objects(&slapd);
    slapd.set_journal(5, Some("uid=u00007,ou=people,dc=example,dc=test"));
    let directory = open(&slapd, TargetSettings::default());
    let configured = [
        Target::parse("/O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=globalarchdl").expect("a target"),
        Target::parse(&format!("cn=listed,{GROUPS}")).expect("a target"),
        Target::parse("uid=u00008,ou=people,dc=example,dc=test").expect("a target"),
    ];
    for (text, guarded) in [
        ("listed@example.test", true),
        ("u00007@example.test", true),
        ("user.7@example.test", true),
        ("user.8@example.test", true),
        ("u00000@example.test", false),
        ("u00005@example.test", false),
    ] {
        let address = Address::parse(text).expect("an address");
        let answer = directory.is_journal_address(&address, &configured).await;
        let wanted = match guarded {
            true => copyist::directory::Lookup::Found(()),
            false => copyist::directory::Lookup::Absent,
        };
        assert_eq!(answer, wanted, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_comes_in_ranges_is_read_to_its_end() {
    let server = Ranges::start(5000, None);
    let directory = open_at(server.url(), None, TargetSettings::default());
    let mut all = resolve(&directory, "cn=all,dc=example,dc=test")
        .await
        .expect("a group");
    all.sort();
    let mut wanted: Vec<String> = (0..5000).map(|n| format!("{n}@example.test")).collect();
    wanted.sort();
    assert_eq!(all, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_ranges_break_off_is_an_outage_and_no_shorter_list() {
    let server = Ranges::start(5000, Some(3000));
    let directory = open_at(server.url(), None, TargetSettings::default());
    let said = resolve(&directory, "cn=all,dc=example,dc=test")
        .await
        .expect_err("half a group");
    assert!(
        said.contains("OUTAGE") && said.contains("up to 2999"),
        "{said}"
    );
}
