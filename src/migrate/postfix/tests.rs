use super::*;

fn read(main: &[(&str, &str)]) -> Postfix {
    Postfix {
        parameters: main
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Postfix::default()
    }
}

fn table(name: &str, content: Content) -> Table {
    Table {
        map: maps(name).remove(0),
        content,
    }
}

fn text_table(text: &str) -> Table {
    table("hash:/etc/postfix/bcc", Content::Entries(entries(text)))
}

fn ldap_table(attribute: &str) -> Table {
    let text = format!(
        "server_host = ldaps://dc1\nsearch_base = dc=a,dc=test\nresult_attribute = {attribute}\ntls_require_cert = yes\n"
    );
    table(
        "ldap:/etc/postfix/bcc.cf",
        Content::Ldap(LdapTable::read("/etc/postfix/bcc.cf", &text)),
    )
}

/// The settings of a proposal, as TOML reads them, and its remarks.
fn proposed(postfix: &Postfix, site: &Site) -> (toml::Table, String) {
    let proposal = propose(postfix, site).proposal;
    let remarks: Vec<String> = proposal.remarks.iter().map(ToString::to_string).collect();
    (proposal.config.parse().expect("TOML"), remarks.join("\n"))
}

fn set(table: &toml::Table, section: &str, key: &str) -> String {
    let found = table.get(section).and_then(|section| section.get(key));
    found.map_or(String::new(), ToString::to_string)
}

const MAIN: [(&str, &str); 3] = [
    (
        "mydestination",
        "$myhostname, [192.0.2.1], a.test, localhost.a.test, localhost, hash:/etc/postfix/domains",
    ),
    ("mynetworks", "127.0.0.0/8 [::1]/128 !10.0.0.1"),
    ("recipient_delimiter", "+"),
];

#[test]
fn always_bcc_is_a_journal_of_all_directions() {
    let mut main = MAIN.to_vec();
    main.push(("always_bcc", "archive@a.test"));
    let (config, remarks) = proposed(&read(&main), &Site::default());
    for section in ["inbound", "outbound", "internal"] {
        assert_eq!(set(&config, section, "journal"), "[\"archive@a.test\"]");
        assert_eq!(
            set(&config, section, "journal_ndr"),
            "\"journal-ndr@a.test\""
        );
        assert_eq!(set(&config, section, "format"), "\"copy\"");
        assert!(
            remarks.contains(&format!("fill in: {section}.journal_ndr")),
            "{remarks}"
        );
    }
    assert_eq!(set(&config, "organization", "domains"), "[\"a.test\"]");
    assert_eq!(
        set(&config, "organization", "trusted_networks"),
        "[\"127.0.0.0/8\", \"::1/128\"]"
    );
    assert_eq!(set(&config, "directory", "recipient_delimiter"), "\"+\"");
    assert!(
        remarks.contains("no equivalent: !10.0.0.1 in mynetworks"),
        "{remarks}"
    );
}

#[test]
fn an_ldap_table_becomes_attribute_and_directory() {
    let postfix = Postfix {
        recipient_bcc: vec![ldap_table("journalTo")],
        ..read(&MAIN)
    };
    let (config, remarks) = proposed(&postfix, &Site::default());
    assert_eq!(set(&config, "directory", "urls"), "[\"ldaps://dc1\"]");
    assert_eq!(set(&config, "directory", "base"), "\"dc=a,dc=test\"");
    for section in ["inbound", "outbound", "internal"] {
        assert_eq!(
            set(&config, section, "journal_attribute"),
            "[\"journalTo\"]"
        );
    }
    assert_eq!(
        set(&config, "outbound", "journal_attribute_of"),
        "\"recipient\""
    );
    assert!(remarks.contains("journal_guard"), "{remarks}");
}

#[test]
fn an_ldap_table_for_senders_applies_to_their_mail() {
    let postfix = Postfix {
        sender_bcc: vec![ldap_table("journalTo")],
        ..read(&MAIN)
    };
    let (config, _) = proposed(&postfix, &Site::default());
    assert!(config.get("inbound").is_none(), "{config}");
    assert_eq!(
        set(&config, "outbound", "journal_attribute"),
        "[\"journalTo\"]"
    );
    assert_eq!(
        set(&config, "outbound", "journal_attribute_of"),
        "\"sender\""
    );
    assert_eq!(
        set(&config, "internal", "journal_attribute"),
        "[\"journalTo\"]"
    );
}

#[test]
fn text_tables_become_people_and_journals() {
    let postfix = Postfix {
        recipient_bcc: vec![text_table(
            "ana@a.test a@archive.test\n@a.test all@archive.test\n",
        )],
        sender_bcc: vec![text_table("dan d@archive.test\n@b.test b@archive.test\n")],
        ..read(&MAIN)
    };
    let (config, remarks) = proposed(&postfix, &Site::default());
    assert_eq!(set(&config, "inbound", "journal"), "[\"all@archive.test\"]");
    assert_eq!(
        set(&config, "internal", "journal"),
        "[\"all@archive.test\"]"
    );
    assert_eq!(set(&config, "outbound", "journal"), "");
    assert_eq!(
        set(&config, "inbound", "journal_attribute"),
        "[\"copyistInboundJournal\"]"
    );
    assert_eq!(
        set(&config, "outbound", "journal_attribute"),
        "[\"copyistOutboundJournal\"]"
    );
    for part in [
        "name 2 addresses",
        "no equivalent: @b.test b@archive.test (for senders)",
        "both sender and recipients",
    ] {
        assert!(remarks.contains(part), "{part:?} is missing in\n{remarks}");
    }
    let ldif = propose(&postfix, &Site::default()).ldif;
    assert!(
        ldif.contains("\nmail: dan@a.test\ncopyistOutboundJournal: d@archive.test\n"),
        "{ldif}"
    );
}

#[test]
fn untranslatable_settings_are_remarked() {
    let postfix = Postfix {
        recipient_bcc: vec![
            table(
                "pcre:/etc/postfix/bcc.pcre",
                Content::Unknown("is of a type that cannot be translated.".into()),
            ),
            ldap_table("a"),
            table(
                "ldap:/x.cf",
                Content::Ldap(LdapTable::read("/x.cf", "server_host = other")),
            ),
        ],
        overrides: vec!["submission/inet/always_bcc = x@a.test".into()],
        ..read(&[("always_bcc", "archive")])
    };
    let (_, remarks) = proposed(&postfix, &Site::default());
    for part in [
        "pcre:/etc/postfix/bcc.pcre in recipient_bcc_maps is of a type",
        "ldap:/x.cf searches another directory",
        "submission/inet/always_bcc = x@a.test in master.cf",
        "always_bcc = archive",
        "fill in: organization.domains",
    ] {
        assert!(remarks.contains(part), "{part:?} is missing in\n{remarks}");
    }
}

#[test]
fn a_static_table_is_a_journal_of_all_directions() {
    let postfix = Postfix {
        recipient_bcc: vec![table("static:x@a.test", Content::Always("x@a.test".into()))],
        ..read(&MAIN)
    };
    let (config, _) = proposed(&postfix, &Site::default());
    assert_eq!(set(&config, "internal", "journal"), "[\"x@a.test\"]");
}

#[test]
fn nothing_to_translate_is_noted() {
    let (config, remarks) = proposed(&read(&MAIN), &Site::default());
    assert!(
        remarks.contains("there is nothing to translate"),
        "{remarks}"
    );
    assert!(config.get("inbound").is_none());
}
