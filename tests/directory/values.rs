//! However an address, a journal address or a journal target is written in a directory, OpenLDAP,
//! Active Directory and an LDIF file with the same content give the same answer.

use crate::lab;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use copyist::directory::{CacheSettings, Directory, Lookup, Settings, Source, Target};
use copyist::mail::Address;
use lab::{DirectoryServer, PATIENCE, Samba, Slapd};

const BASE: &str = "dc=example,dc=test";

on_both_directories! {
    async
    every_form_of_an_address_is_found_as_in_a_file,
    every_form_of_a_journal_value_counts_as_in_a_file,
    a_changed_value_in_an_unusual_form_counts_at_once,
}

/// Forms of an address that mean it. `{l}` is the local part, `{L}` in capitals.
const FORMS: [&str; 62] = [
    "{l}@corp.test",
    "{L}@Corp.Test",
    "smtp:{l}@corp.test",
    "SMTP:{l}@corp.test",
    "smtp: {l}@corp.test",
    "Smtp :{L}@CORP.test",
    "mailto:{l}@corp.test",
    "MAILTO: {l}@corp.test",
    "mailto:{l}%40corp.test",
    "mailto:{l}@corp.test?subject=Hi%20there",
    "smtp:mailto:{l}@corp.test",
    "<{l}@corp.test>",
    "< {l}@corp.test >",
    "smtp:<{l}@corp.test>",
    "<smtp:{l}@corp.test>",
    "Dan <{l}@corp.test>",
    "Dan<{L}@corp.test>",
    "\"Dan\" <{l}@corp.test>",
    "\"Doe, Dan\" <{l}@corp.test>",
    "Doe, Dan <{l}@corp.test>",
    "{l}@corp.test <{l}@corp.test>",
    "Dan <mailto:{l}@corp.test>",
    "{l}@corp.test (Dan)",
    " {l}@corp.test",
    "{l}@corp.test ",
    "  {l}@corp.test  ",
    "{l} @corp.test",
    "{l}@ corp.test",
    "{l} @ corp.test",
    "\t{l}@corp.test",
    "@relay.test:{l}@corp.test",
    "<@a.test,@b.test:{l}@corp.test>",
    "\"{l}\"@corp.test",
    "\"{L}\"@corp.test",
    "\"{l}@corp.test\"",
    "'{l}@corp.test'",
    "[{l}@corp.test]",
    "{l}@corp.test.",
    "smtp:{l}@corp.test.",
    "{l}@corp.test;",
    "{l}\u{200b}@corp.test",
    "\u{feff}{l}@corp.test",
    "{l}@corp\u{ad}.test",
    "\u{202a}{l}@corp.test\u{202c}",
    "{l}@corp.test\u{200e}",
    "{l}\u{2060}@corp.test",
    "{l}@corp.test\u{a0}",
    "\u{a0}{l}@corp.test",
    "{l}@corp.test\u{3000}",
    "{l}\u{ff20}corp.test",
    "{l}@corp\u{3002}test",
    "{l}@corp\u{ff0e}test\u{ff0e}",
    "\u{ff44}{l}@corp.test",
    "\u{201c}{l}@corp.test\u{201d}",
    "{l}@m\u{fc}ller.test",
    "{l}@M\u{dc}LLER.test",
    "{l}@mu\u{308}ller.test",
    "{l}@xn--mller-kva.test",
    "{l}@XN--MLLER-KVA.test.",
    "{l}jos\u{e9}@corp.test",
    "{l}jose\u{301}@corp.test",
    "{L}JOS\u{c9}@corp.test",
];

/// Values that are not the address of `{l}`.
const OTHERS: [&str; 6] = [
    "{l}@corp.test, ann@corp.test",
    "ann@corp.test, Dan <{l}@corp.test>",
    "SIP:{l}@corp.test",
    "{l}",
    "{l}@corp.test ann@corp.test",
    "x{l}@corp.test",
];

fn written(form: &str, local: &str) -> String {
    form.replace("{l}", local)
        .replace("{L}", &local.to_uppercase())
}

/// The address that a form means, as an MTA knows it.
fn meant(form: &str, local: &str) -> Address {
    let folded = form.to_lowercase();
    let domain = match folded.contains("ller") {
        true => "xn--mller-kva.test",
        false => "corp.test",
    };
    let local = match (folded.contains("jos"), folded.contains('\u{ff44}')) {
        (true, _) => format!("{local}jos\u{e9}"),
        (_, true) => format!("d{local}"),
        _ => local.to_owned(),
    };
    address(&format!("{local}@{domain}"))
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

/// The differences between the servers.
trait Values: DirectoryServer {
    /// Attributes that hold addresses.
    const ATTRIBUTES: [&'static str; 4];

    /// An object's DN, and its attributes beside the value.
    fn object(name: &str) -> (String, String);
}

impl Values for Slapd {
    const ATTRIBUTES: [&'static str; 4] = [
        "mail",
        "proxyAddresses",
        "mailLocalAddress",
        "userPrincipalName",
    ];

    fn object(name: &str) -> (String, String) {
        let classes = "objectClass: device\nobjectClass: exchangeRecipient\n";
        (format!("cn={name},{BASE}"), classes.to_owned())
    }
}

impl Values for Samba {
    const ATTRIBUTES: [&'static str; 4] = [
        "mail",
        "proxyAddresses",
        "targetAddress",
        "userPrincipalName",
    ];

    fn object(name: &str) -> (String, String) {
        let class = format!("objectClass: user\nsAMAccountName: {name}\n");
        (format!("CN={name},{BASE}"), class)
    }
}

/// A server and what its LDIF would be.
struct ServerAndLdif<D> {
    server: D,
    ldif: String,
    refused: Vec<String>,
}

impl<D: Values> ServerAndLdif<D> {
    fn start() -> ServerAndLdif<D> {
        ServerAndLdif {
            server: D::start_with(2, |_| None),
            ldif: String::new(),
            refused: Vec::new(),
        }
    }

    /// Adds an object with one value, if the server takes it.
    fn add(&mut self, name: &str, attribute: &str, value: &str) -> bool {
        let (dn, rest) = D::object(name);
        let value = format!("{attribute}:: {}\n", STANDARD.encode(value));
        let taken = (self.server).try_modify(&format!("dn: {dn}\nchangetype: add\n{rest}{value}"));
        match taken {
            true => writeln!(self.ldif, "dn: {dn}\n{rest}{value}").expect("memory"),
            false => self.refused.push(name.to_owned()),
        }
        taken
    }

    fn settings(&self) -> Settings {
        Settings {
            address_attributes: D::ATTRIBUTES.map(str::to_owned).into(),
            cache: CacheSettings {
                ttl: Duration::ZERO,
                negative_ttl: Duration::ZERO,
                ..CacheSettings::default()
            },
            ..self.server.access().directory()
        }
    }

    /// The server and the file.
    fn open(&self) -> ((Directory, Directory), tempfile::TempDir) {
        let place = tempfile::tempdir().expect("the system has a temporary directory");
        let file = place.path().join("people.ldif");
        std::fs::write(&file, &self.ldif).expect("written");
        let settings = self.settings();
        let from_file = Settings {
            source: Source::Ldif(file),
            ..settings.clone()
        };
        let open = |settings| Directory::open(settings).expect("settings that can be used");
        ((open(settings), open(from_file)), place)
    }
}

/// The names of the objects found, in lower case.
async fn owners(directory: &Directory, address: &Address) -> Vec<String> {
    let mut found = directory.find(std::slice::from_ref(address)).await;
    match found.remove(address) {
        Some(Lookup::Found(objects)) => {
            let mut names: Vec<String> = objects.iter().map(|one| one.dn.to_lowercase()).collect();
            names.sort();
            names
        }
        Some(Lookup::Absent) => Vec::new(),
        other => panic!("{address}: {other:?}"),
    }
}

async fn every_form_of_an_address_is_found_as_in_a_file<D: Values>() {
    let mut both: ServerAndLdif<D> = ServerAndLdif::start();
    let mut cases = Vec::new();
    for (a, attribute) in D::ATTRIBUTES.into_iter().enumerate() {
        for (n, form) in FORMS.into_iter().chain(OTHERS).enumerate() {
            let name = format!("v{a}n{n}");
            if both.add(&name, attribute, &written(form, &name)) {
                cases.push((name, attribute, form, n < FORMS.len()));
            }
        }
    }
    println!("{} values taken, refused: {:?}", cases.len(), both.refused);
    let ((server, file), _place) = both.open();
    let mut wrong = Vec::new();
    for (name, attribute, form, is_meant) in &cases {
        let asked = meant(form, name);
        let (dn, _) = D::object(name);
        let wanted: Vec<String> = is_meant.then(|| dn.to_lowercase()).into_iter().collect();
        let found = [owners(&server, &asked).await, owners(&file, &asked).await];
        if found != [wanted.clone(), wanted] {
            wrong.push(format!("{attribute}: {form:?}: {found:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    for attribute in D::ATTRIBUTES {
        let taken = cases
            .iter()
            .filter(|case| case.1 == attribute && case.3)
            .count();
        println!("{attribute}: {taken} forms");
        assert!(taken >= 30, "{attribute} took {taken} forms only");
    }
    // Many at once, with neighbours of every form among them.
    let all: Vec<Address> = cases
        .iter()
        .map(|(name, _, form, _)| meant(form, name))
        .collect();
    let (from_server, from_file) = (server.find(&all).await, file.find(&all).await);
    for address in &all {
        let is_found = |answer: &Lookup<_>| matches!(answer, Lookup::Found(_));
        assert_eq!(
            is_found(&from_server[address]),
            is_found(&from_file[address]),
            "{address}"
        );
    }
}

async fn every_form_of_a_journal_value_counts_as_in_a_file<D: Values>() {
    let mut both: ServerAndLdif<D> = ServerAndLdif::start();
    let mut asked = Vec::new();
    for (n, form) in FORMS.into_iter().chain(OTHERS).enumerate() {
        let name = format!("j{n}");
        let value = written(form, &name);
        if both.add(&name, "extensionAttribute10", &value) {
            asked.push((meant(form, &name), n < FORMS.len(), form.to_owned()));
        }
    }
    // Journal mailboxes named by DN and X.500 address.
    let object = |name: &str| D::object(name).0;
    let dn = |name: &str| {
        let dn = object(name);
        let upper = dn.to_uppercase();
        let (first, rest) = dn.split_once(',').expect("a container");
        let (_, value) = first.split_once('=').expect("a name");
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        [
            dn.clone(),
            upper,
            dn.replace(',', " , ").replace('=', " = "),
            dn.replace(',', ";"),
            format!("2.5.4.3={value},{rest}"),
            format!(
                "OID.2.5.4.3={value}, {}",
                rest.replace("dc=", "0.9.2342.19200300.100.1.25=")
            ),
            format!("cn=#0c{:02x}{hex},{rest}", value.len()),
            format!("cn=\\{:02x}{},{rest}", value.as_bytes()[0], &value[1..]),
            format!("cn=\"{value}\",{rest}"),
        ]
    };
    for n in 0..9 {
        let name = format!("dn{n}");
        both.add(&name, "mail", &format!("{name}@corp.test"));
        let form = &dn(&name)[n];
        assert!(
            both.add(&format!("h{n}"), "extensionAttribute10", form),
            "{form}"
        );
        asked.push((address(&format!("{name}@corp.test")), true, form.clone()));
    }
    let x500 = [
        "X500:{x}",
        "x500: {x}",
        "EX:{x}",
        "{x}",
        "{X}",
        "/o = corp/cn=Recipients/cn= {n} ",
        "IMCEAEX-_o=corp_cn=recipients_cn={n}@corp.test",
    ];
    for (n, form) in x500.into_iter().enumerate() {
        let name = format!("x{n}");
        let own = format!("/o=Corp/cn=Recipients/cn={name}");
        both.add(&name, "legacyExchangeDN", &own);
        let (dn, _) = D::object(&name);
        let change = format!("dn: {dn}\nchangetype: modify\nadd: mail\nmail: {name}@corp.test\n");
        both.server.modify(&change);
        both.ldif = both.ldif.replace(
            &format!("dn: {dn}\n"),
            &format!("dn: {dn}\nmail: {name}@corp.test\n"),
        );
        let value = form
            .replace("{x}", &own)
            .replace("{X}", &own.to_uppercase())
            .replace("{n}", &name);
        assert!(
            both.add(&format!("y{n}"), "extensionAttribute10", &value),
            "{value}"
        );
        asked.push((address(&format!("{name}@corp.test")), true, value));
    }
    let ((server, file), _place) = both.open();
    let mut wrong = Vec::new();
    for (address, is_meant, form) in &asked {
        for (which, directory) in [("server", &server), ("file", &file)] {
            let answer = lab::is_guarded(directory, &[], address).await;
            if answer != *is_meant {
                wrong.push(format!("{form:?} on the {which}: {answer:?}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // The set of all values, and where each leads.
    let mut sets = Vec::new();
    for directory in [&server, &file] {
        let mut values = directory.journal_values();
        let read = tokio::time::timeout(PATIENCE, values.wait_for(Option::is_some));
        let read = read
            .await
            .expect("in time")
            .expect("open")
            .clone()
            .expect("some");
        assert_eq!(read.incomplete(), None);
        let mut set = BTreeSet::new();
        for one in read.iter() {
            assert_eq!(one.holders, 1, "{one:?}");
            let leads = match Target::parse(&one.value) {
                Ok(target) => {
                    let answer = directory.resolve(std::slice::from_ref(&target)).await;
                    let reached = answer[&target].clone().expect("no outage");
                    reached
                        .map(|all| {
                            all.addresses
                                .iter()
                                .map(|one| one.address.key().to_owned())
                                .collect()
                        })
                        .map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            let leads: Result<Vec<String>, String> = leads;
            set.insert((one.value.clone(), one.holder.to_lowercase(), leads));
        }
        sets.push(set);
    }
    for (one, other) in sets[0].iter().zip(&sets[1]) {
        assert_eq!(one, other);
    }
    assert_eq!(sets[0].len(), sets[1].len());
    // Mail to an encapsulated address is Exchange's to deliver.
    let asked = asked
        .iter()
        .filter(|(_, _, form)| !form.starts_with("IMCEAEX"));
    for (address, is_meant, form) in asked {
        let leads = |(_, _, leads): &(String, String, Result<Vec<String>, String>)| {
            leads
                .as_ref()
                .is_ok_and(|all| all.iter().any(|one| one == address.key()))
        };
        assert_eq!(
            sets[0].iter().any(leads),
            *is_meant,
            "{form:?} leads to {address}"
        );
    }
}

async fn a_changed_value_in_an_unusual_form_counts_at_once<D: Values>() {
    let mut both: ServerAndLdif<D> = ServerAndLdif::start();
    assert!(both.add("one", "mail", "one@corp.test"));
    let mut settings = both.settings();
    settings.cache.ttl = Duration::from_secs(3600);
    settings.cache.negative_ttl = Duration::from_secs(3600);
    let directory = Directory::open(settings).expect("settings that can be used");
    let state = tempfile::tempdir().expect("the system has a temporary directory");
    directory.follow_changes(&state.path().join("place"));
    let mut journal = directory.journal_values();
    let read = tokio::time::timeout(PATIENCE, journal.wait_for(Option::is_some));
    assert_eq!(
        read.await
            .expect("in time")
            .expect("open")
            .iter()
            .flat_map(|all| all.iter())
            .count(),
        0
    );
    let (new, old) = (address("new@corp.test"), address("one@corp.test"));
    // Until the feed is up a change counts late; it is tried until it does.
    let begun = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let (dn, _) = D::object("one");
        both.server.modify(&format!(
            "dn: {dn}\nchangetype: modify\nreplace: mail\nmail: Dan <new@corp.test>\n-\n\
             replace: extensionAttribute10\nextensionAttribute10: Journal{tries} <j@corp.test>\n"
        ));
        let changed = Instant::now();
        while owners(&directory, &new).await.is_empty()
            && changed.elapsed() < Duration::from_secs(5)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if !owners(&directory, &new).await.is_empty() {
            println!("after {tries} tries, {:?}", changed.elapsed());
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "never seen");
    }
    assert_eq!(owners(&directory, &old).await, Vec::<String>::new());
    let wanted = format!("Journal{tries} <j@corp.test>");
    let has_it = |all: &Option<_>| {
        let all: &std::sync::Arc<copyist::directory::JournalValues> = match all {
            Some(all) => all,
            None => return false,
        };
        all.iter().any(|one| one.value == wanted)
    };
    let named = tokio::time::timeout(PATIENCE, journal.wait_for(has_it));
    named.await.expect("in time").expect("open");
    assert!(lab::is_guarded(&directory, &[], &address("j@corp.test")).await);
}

/// OpenLDAP lets nobody read more than 500 entries by default.
#[tokio::test]
async fn the_most_used_forms_are_found_where_reading_is_limited() {
    let mut both: ServerAndLdif<Slapd> = ServerAndLdif::start();
    let mut cases = Vec::new();
    for (n, form) in FORMS.into_iter().enumerate() {
        let name = format!("v{n}");
        if both.add(&name, "mail", &written(form, &name)) {
            cases.push((form, meant(form, &name)));
        }
    }
    assert!(both.add("j", "extensionAttribute10", "<j@corp.test>"));
    both.server.limit_long_answers(60);
    for n in 0..60 {
        assert!(both.add(&format!("p{n}"), "mail", &format!("p{n}@corp.test")));
    }
    let ((server, _), _place) = both.open();
    let remarks = remarks(&server).await;
    let warning = remarks
        .iter()
        .find_map(|one| one.as_ref().err())
        .expect("a warning");
    assert!(warning.contains("size.prtotal"), "{warning}");
    let values = server.journal_values();
    assert_eq!(values.borrow().as_ref().expect("read").incomplete(), None);
}

#[tokio::test]
async fn an_attribute_that_is_compared_with_case_is_found_in_any_case() {
    let mut both: ServerAndLdif<Slapd> = ServerAndLdif::start();
    for (n, value) in [
        "dan0@corp.test",
        "Dan1@corp.test",
        "DAN2@Corp.Test",
        "Dan <DAN3@corp.test>",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(both.add(&format!("v{n}"), "exactAddress", value));
    }
    let mut settings = both.settings();
    settings.address_attributes = vec!["mail".into(), "exactAddress".into()];
    let directory = Directory::open(settings).expect("settings that can be used");
    for n in 0..4 {
        let found = owners(&directory, &address(&format!("dan{n}@corp.test"))).await;
        assert_eq!(found, [format!("cn=v{n},{BASE}")]);
    }
    let remarks = remarks(&directory).await;
    let mut wrong = remarks.iter().filter_map(|remark| remark.as_ref().err());
    // Nobody is journaled here.
    assert!(
        wrong.all(|why| why.contains("no object has extensionAttribute10")),
        "{remarks:?}"
    );
}

#[tokio::test]
async fn an_attribute_that_cannot_be_searched_is_named() {
    let mut both: ServerAndLdif<Slapd> = ServerAndLdif::start();
    assert!(both.add("v", "closedAddress", "dan@corp.test"));
    let mut settings = both.settings();
    settings.address_attributes = vec!["mail".into(), "closedAddress".into()];
    let directory = Directory::open(settings).expect("settings that can be used");
    let remarks = remarks(&directory).await;
    let named = |one: &Result<String, String>| {
        one.as_ref()
            .is_err_and(|why| why.contains("finds nobody by closedAddress"))
    };
    assert!(remarks.iter().any(named), "{remarks:?}");
}

async fn remarks(directory: &Directory) -> Vec<Result<String, String>> {
    let probes = directory.probe().await.into_iter();
    probes.flat_map(|one| one.remarks).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn coverage_and_the_reading_do_not_disturb_each_other() {
    let server = Slapd::start(5000);
    let directory = Directory::open(server.access().directory()).expect("valid settings");
    let mut values = directory.journal_values();
    let counts = [directory.list_all(), directory.list_all()].map(|mut everybody| {
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(one) = everybody.recv().await {
                one.expect("no outage");
                count += 1;
            }
            count
        })
    });
    for count in counts {
        assert_eq!(count.await.expect("no panic"), 5000);
    }
    let read = tokio::time::timeout(PATIENCE, values.wait_for(Option::is_some));
    let read = read.await.expect("in time").expect("open").clone();
    assert_eq!(
        read.expect("read")
            .iter()
            .map(|one| one.holders)
            .sum::<u64>(),
        1667
    );
    assert!(remarks(&directory).await.iter().all(Result::is_ok));
}
