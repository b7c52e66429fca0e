use proptest::prelude::*;

use super::*;
use crate::migrate::Remark;

const HEAD: &str = r"REGEDIT4
[HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\MSExchangeIMC\Parameters\Extension]
";

fn import(bytes: &[u8]) -> Result<Proposal, ConfigError> {
    registry(Path::new("imsext.reg"), bytes, &Site::default())
}

/// The configuration and the remarks that come of these values.
fn sound(values: &str) -> (String, String) {
    let proposal = import(format!("{HEAD}{values}").as_bytes()).expect(values);
    let remarks: Vec<String> = proposal.remarks.iter().map(ToString::to_string).collect();
    (proposal.config, remarks.join("\n"))
}

fn said(bytes: &[u8]) -> String {
    import(bytes).expect_err("it is wrong").to_string()
}

#[test]
fn an_unknown_tag_is_reported_with_the_known_ones() {
    let said = said(format!("{HEAD}\"InboundRecipJournalProp\"=dword:80370000\n").as_bytes());
    assert!(
        said.starts_with(
            "imsext.reg:3: InboundRecipJournalProp: 0x80370000 is not a known property"
        ),
        "{said}"
    );
    assert!(said.contains("80360000 (extensionAttribute10)"), "{said}");
}

#[test]
fn a_file_without_the_key_lists_its_keys() {
    let text = "REGEDIT4\n[HKLM\\One]\n[HKLM\\Two]\n\"a\"=\"b\"\n";
    let said = said(text.as_bytes());
    assert!(said.contains("it contains HKLM\\One, HKLM\\Two"), "{said}");
    let said = self::said(b"REGEDIT4\n");
    assert!(said.contains("it contains no key"), "{said}");
}

#[test]
fn of_several_control_sets_the_current_one_counts() {
    let section = |set: &str, address: &str| {
        format!(
            "[HKEY_LOCAL_MACHINE\\SYSTEM\\{set}\\Services\\MSExchangeIMC\\Parameters\\Extension]\n\"InboundJournal\"=\"{address}\"\n"
        )
    };
    let (one, current) = (
        section("ControlSet001", "one@a.test"),
        section("CurrentControlSet", "current@a.test"),
    );
    let proposal = import(format!("REGEDIT4\n{one}{current}").as_bytes()).expect("one counts");
    assert!(proposal.config.contains("current@a.test") && !proposal.config.contains("one@a.test"));
    let two = section("ControlSet002", "two@a.test");
    let said = said(format!("REGEDIT4\n{one}{two}").as_bytes());
    assert!(said.contains("several times"), "{said}");
}

#[test]
fn a_deleted_key_holds_nothing() {
    let key = HEAD.lines().nth(1).expect("it has two lines");
    let gone = key.replace('[', "[-");
    let text = format!(
        "{HEAD}\"InboundJournal\"=\"old@a.test\"\n{gone}\n{key}\n\"OutboundJournal\"=\"new@a.test\"\n"
    );
    let config = import(text.as_bytes()).expect("sound").config;
    assert!(
        config.contains("new@a.test") && !config.contains("old@a.test"),
        "{config}"
    );
}

#[test]
fn the_ndr_address_is_kept_and_its_domain_is_the_guess() {
    let (config, remarks) = sound(
        "\"InboundJournal\"=\"archive@else.test\"\n\"InboundJournalNDR\"=\"ndr@acme.test\"\n",
    );
    assert!(
        config.contains("journal_ndr = \"ndr@acme.test\"\n"),
        "{config}"
    );
    assert!(config.contains("domains = [\"acme.test\"]\n"), "{config}");
    assert!(config.contains("base = \"DC=acme,DC=test\"\n"), "{config}");
    assert!(
        remarks.contains("fill in: organization.domains"),
        "{remarks}"
    );
    assert!(!remarks.contains("journal_ndr"), "{remarks}");
}

#[test]
fn an_address_literal_is_not_a_domain() {
    let (config, _) = sound("\"InboundJournalNDR\"=\"ndr@[192.0.2.1]\"\n");
    assert!(
        config.contains("journal_ndr = \"ndr@[192.0.2.1]\"\n"),
        "{config}"
    );
    assert!(config.contains("domains = [\"example.com\"]\n"), "{config}");
    assert!(
        config.contains("urls = [\"ldaps://dc1.example.com\"]\n"),
        "{config}"
    );
}

#[test]
fn an_ndr_address_without_smtp_is_guessed_and_marked() {
    let (config, remarks) = sound(
        "\"OutboundRecipJournalProp\"=dword:8c610000\n\"OutboundJournalNDR\"=\"/O=ACME/CN=RECIPIENTS/CN=out journal ndr\"\n",
    );
    assert!(
        config.contains("journal_ndr = \"outjournalndr@example.com\"\n"),
        "{config}"
    );
    assert!(
        remarks.contains(
            "outbound.journal_ndr: the SMTP address of /O=ACME/CN=RECIPIENTS/CN=out journal ndr"
        ),
        "{remarks}"
    );
    let (config, remarks) = sound("\"InboundJournal\"=\"a@b.test\"\n");
    assert!(
        config.contains("journal_ndr = \"journal-ndr@example.com\"\n"),
        "{config}"
    );
    assert!(
        config.contains("InboundJournalNDR is not in the key"),
        "{config}"
    );
    assert!(remarks.contains("inbound.journal_ndr"), "{remarks}");
}

#[test]
fn options_are_not_guessed() {
    let site = Site {
        domains: vec!["acme.test".into(), "*.acme.test".into()],
        directory_urls: vec!["ldif:people.ldif".into()],
        relay: Some("mx:25".into()),
        ..Site::default()
    };
    let key = format!("{HEAD}\"InboundAppend\"=\"bye\"\n");
    let proposal = registry(Path::new("x"), key.as_bytes(), &site).expect("sound");
    let [Remark::FillIn(only)] = &proposal.remarks[..] else {
        panic!("{:?}", proposal.remarks);
    };
    assert!(
        only.starts_with("organization.trusted_networks: "),
        "{only}"
    );
    assert!(
        proposal.config.contains("append = { rtf = \"bye\" }\n"),
        "{}",
        proposal.config
    );
}

#[test]
fn unknown_values_are_remarked() {
    let (config, remarks) = sound("\"Level\"=dword:5\n");
    assert!(
        remarks.contains("no equivalent: \"Level\" (line 3)"),
        "{remarks}"
    );
    assert!(config.contains("# NO EQUIVALENT: \"Level\""), "{config}");
}

/// Lines that meet many paths of the parser, and such as have something odd in them.
fn line() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("InboundJournal".to_owned()),
        Just("OutboundJournalNDR".to_owned()),
        Just("InboundRecipJournalProp".to_owned()),
        Just("OutboundAppend".to_owned()),
        any::<String>(),
    ];
    let data = prop_oneof![
        any::<u32>().prop_map(|number| format!("dword:{number:08x}")),
        "hex(\\([0-9a-f]\\))?:([0-9a-f]{1,2},?){0,9}\\\\?",
        any::<String>().prop_map(|text| format!("{text:?}")),
        any::<String>(),
        Just("\"/O=ACME/CN=x\"".to_owned()),
        Just("\"open".to_owned()),
    ];
    prop_oneof![
        6 => (name, data).prop_map(|(name, data)| format!("\"{name}\"={data}")),
        1 => any::<String>(),
        1 => Just(HEAD.lines().nth(1).unwrap_or_default().to_owned()),
        1 => Just("  00,36,\\".to_owned()),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = import(&bytes);
        let _ = import(&[HEAD.as_bytes(), &bytes].concat());
    }

    #[test]
    fn any_lines_become_toml_or_a_printable_error(lines in proptest::collection::vec(line(), 0..12), wide: bool) {
        let text = format!("{HEAD}{}", lines.join("\r\n"));
        let bytes = match wide {
            true => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            false => text.into_bytes(),
        };
        match import(&bytes) {
            Ok(proposal) => {
                let table: Result<toml::Table, _> = proposal.config.parse();
                prop_assert!(table.is_ok(), "{}", proposal.config);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
