//! Migration from an exported registry key of imsext.dll, and from Postfix's BCC parameters.

use crate::lab;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lab::{
    Copyist, DOMAIN, DirectoryServer, INSIDE, OUTSIDE, Postfix, PostfixOptions, Report, Site,
    Slapd, SmtpSink, free_port, message, need, user, write,
};
use serde_json::Value;
use tempfile::TempDir;

/// The user whose Custom Attribute 10 names the branch's list.
const JOURNALED: usize = 3;
const OTHER: usize = 4;

fn copyist(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_copyist"))
        .args(arguments)
        .output()
        .expect("the binary was built for this test")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("the system has a temporary directory")
}

fn fixture(name: &str) -> String {
    format!("{}/tests/registry/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Asserts that `copyist check` accepts a configuration.
fn check(config: &Path) {
    let checked = copyist(&["check", "--config", path(config)]);
    assert!(checked.status.success(), "{}", stderr(&checked));
}

fn settings(config: &str) -> toml::Table {
    config.parse().expect("TOML")
}

#[test]
fn the_article_s_key_becomes_an_equivalent_configuration() {
    const LIST: &str = "/O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=globalarchdl";
    const BRANCH: &str = "/O=ACME/OU=EASTCOAST/CN=RECIPIENTS/CN=branch1archdl";
    let slapd = Slapd::start(10);
    let members = [slapd.user_dn(0), slapd.user_dn(1)];
    slapd.add_group("globalarchdl", &members, &[("legacyExchangeDN", LIST)]);
    slapd.add_group(
        "branch1archdl",
        &[slapd.user_dn(2)],
        &[("legacyExchangeDN", BRANCH)],
    );
    slapd.set_journal(JOURNALED, Some(BRANCH));
    slapd.set_journal(OTHER, None);
    let (mail, relay) = (SmtpSink::start_keeping(), SmtpSink::start_keeping());
    let access = slapd.access();
    let relay_address = relay.address().to_string();
    let file = directory();
    let output = file.path().join("copyist.toml");
    let imported = copyist(&[
        "import-registry",
        &fixture("article.reg"),
        "--domain",
        DOMAIN,
        "--directory-url",
        &access.url,
        "--base",
        slapd.base(),
        "--relay",
        &relay_address,
        "--output",
        path(&output),
    ]);
    assert!(imported.status.success(), "{}", stderr(&imported));
    check(&output);
    let config = std::fs::read_to_string(&output).expect("it was written");
    let said = stderr(&imported);
    for key in [
        "organization.trusted_networks",
        "directory.bind_dn",
        "inbound.journal_ndr",
        "outbound.journal_ndr",
    ] {
        assert!(
            said.contains(&format!("copyist: fill in: {key}: ")),
            "{said}"
        );
    }
    assert_eq!(said.lines().count(), 4, "nothing else was guessed: {said}");

    // What this machine needs is set beside the file, which stays as it was made.
    let (milter, admin) = (format!("inet:127.0.0.1:{}", free_port()), free_port());
    let mut environment = vec![
        ("COPYIST__HOOK__MILTER__LISTEN", milter.clone()),
        ("COPYIST__ADMIN__LISTEN", format!("127.0.0.1:{admin}")),
        (
            "COPYIST__ORGANIZATION__TRUSTED_NETWORKS",
            "127.0.0.2/32".into(),
        ),
        (
            "COPYIST__DIRECTORY__BIND_PASSWORD_FILE",
            path(&slapd.password_file()).into(),
        ),
    ];
    environment.extend(access.bind_dn.map(|dn| ("COPYIST__DIRECTORY__BIND_DN", dn)));
    let environment = environment
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    let site = Site {
        copyist: Copyist::start_in(environment.collect(), &config),
        postfix: Postfix::start(&PostfixOptions {
            milter: Some(milter),
            deliver_to: mail.address(),
            extra: Vec::new(),
        }),
        mail,
        relay,
        directory: slapd,
        admin,
        config,
        between: None,
    };

    // Inbound: the list of all mail and the one in the recipient's attribute; the texts of inbound
    // mail.
    let content = message("<in@elsewhere.test>", "hello");
    let reply =
        site.client(OUTSIDE)
            .send_message("a@elsewhere.test", &[&user(JOURNALED)], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    assert_eq!(
        recipients(&site, "<in@elsewhere.test>", "injournalndr"),
        [user(0), user(1), user(2)]
    );
    let delivered = delivered(&site, "<in@elsewhere.test>");
    assert!(
        delivered.contains(
            "\n\nThis is the inbound prepended disclaimer. This is the second line.\nhello\n"
        ),
        "{delivered}"
    );
    assert!(
        delivered
            .contains("\nThis is the inbound appended disclaimer.\nThis is the second line.\n"),
        "{delivered}"
    );

    // Outbound by somebody without the attribute: the list of all mail alone, the texts of outbound
    // mail.
    let content = message("<out@elsewhere.test>", "offer");
    let reply = site
        .client(INSIDE)
        .send_message(&user(OTHER), &["buyer@customer.test"], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    assert_eq!(
        recipients(&site, "<out@elsewhere.test>", "outjournalndr"),
        [user(0), user(1)]
    );
    let delivered = self::delivered(&site, "<out@elsewhere.test>");
    for text in [
        "\n\nThis is the first line of the prepended disclaimer.\nThis is the second line of the prepended disclaimer.\noffer\n",
        "\nThis is the first line of the outbound appended disclaimer.\nThis is the second line of the outbound appended disclaimer.\n",
    ] {
        assert!(
            delivered.contains(text),
            "{text:?} is missing in\n{delivered}"
        );
    }

    // And nobody outside can write to who gets the non-delivery reports.
    let reply = site.client(OUTSIDE).send_message(
        "a@elsewhere.test",
        &[&format!("injournalndr@{DOMAIN}")],
        &content,
    );
    assert_eq!(reply.code, 550, "{reply:?}");
}

/// Returns the recipients of the reports about a message, all of which come from this NDR address.
fn recipients(site: &Site, message_id: &str, ndr: &str) -> Vec<String> {
    let report: Report = site.wait_for_report(message_id);
    assert_eq!(report.sender, format!("{ndr}@{DOMAIN}"));
    let mut recipients = report.recipients;
    recipients.sort();
    recipients
}

/// The message that goes on, as the sink has it.
fn delivered(site: &Site, message_id: &str) -> String {
    site.wait_until(message_id, || {
        let is_it = |text: &String| {
            text.contains(&format!("Message-ID: {message_id}")) && text.ends_with("\n\n")
        };
        site.mail.messages().into_iter().find(is_it)
    })
}

#[test]
fn a_key_in_ansi_with_every_type_of_value_is_read() {
    let file = directory();
    let output = file.path().join("copyist.toml");
    let imported = copyist(&[
        "import-registry",
        &fixture("every-type-ansi.reg"),
        "-o",
        path(&output),
    ]);
    assert!(imported.status.success(), "{}", stderr(&imported));
    check(&output);
    let config = std::fs::read_to_string(&output).expect("it was written");
    let settings = settings(&config);
    let inbound = &settings["inbound"];
    assert_eq!(
        inbound["journal"][0].as_str(),
        Some("archiv@xn--mller-kva.test")
    );
    assert_eq!(
        inbound["journal_attribute"][0].as_str(),
        Some("extensionAttribute13")
    );
    assert_eq!(
        inbound["journal_ndr"].as_str(),
        Some("ndr@xn--mller-kva.test")
    );
    assert_eq!(
        inbound["append"]["rtf"].as_str(),
        Some("{\\rtf1\\ansi Müller \\b \"GmbH\"\\b0\\par}")
    );
    let outbound = &settings["outbound"];
    assert_eq!(outbound["journal"].as_array().map(Vec::len), Some(2));
    assert!(
        outbound.get("journal_attribute").is_none(),
        "0 is not a known property"
    );
    let said = stderr(&imported);
    for part in [
        "fill in: organization.domains",
        "fill in: outbound.journal_ndr",
        "no equivalent: \"Level\"",
    ] {
        assert!(said.contains(part), "{part:?} is missing in\n{said}");
    }
}

#[test]
fn every_error_in_a_key_is_reported_with_line_and_fix() {
    let imported = copyist(&["import-registry", &fixture("two-mistakes.reg")]);
    assert_eq!(imported.status.code(), Some(2));
    assert_eq!(stdout(&imported), "");
    let said = stderr(&imported);
    for part in [
        "two-mistakes.reg:4: InboundRecipJournalProp: 0x80370000 is not a known property",
        "802d0000 (extensionAttribute1)",
        "two-mistakes.reg:5: InboundJournal: \"nobody\" is neither an SMTP address",
    ] {
        assert!(said.contains(part), "{part:?} is missing in\n{said}");
    }
    let other = copyist(&[
        "import-registry",
        &format!("{}/Cargo.toml", env!("CARGO_MANIFEST_DIR")),
    ]);
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("reg export"), "{}", stderr(&other));
}

#[test]
fn a_file_that_is_there_is_not_overwritten() {
    let file = directory();
    let output = file.path().join("copyist.toml");
    write(&output, "# somebody's work\n");
    let imported = copyist(&[
        "import-registry",
        &fixture("article.reg"),
        "-o",
        path(&output),
    ]);
    assert_eq!(imported.status.code(), Some(2));
    assert!(
        stderr(&imported).contains("is not overwritten"),
        "{}",
        stderr(&imported)
    );
    let kept = std::fs::read_to_string(&output).expect("it is there");
    assert_eq!(kept, "# somebody's work\n");
}

/// A directory with this `main.cf` and an empty `master.cf`.
fn postfix(main: &str) -> TempDir {
    need("postconf", "postfix");
    let directory = directory();
    write(
        &directory.path().join("main.cf"),
        format!("compatibility_level = 3.6\n{main}"),
    );
    write(&directory.path().join("master.cf"), "");
    directory
}

fn import_postfix(etc: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["import-postfix", "--config-directory", path(etc)];
    arguments.extend(more);
    let imported = copyist(&arguments);
    assert!(imported.status.success(), "{}", stderr(&imported));
    imported
}

#[test]
fn ldap_bcc_maps_are_migrated_without_printing_a_password() {
    let etc = postfix("");
    let table = etc.path().join("bcc.cf");
    write(
        &table,
        "server_host = ldaps://dc1.acme.test\nsearch_base = dc=acme,dc=test\n\
         query_filter = (|(mail=%s)\n    (proxyAddresses=smtp:%s))\nresult_attribute = journalTo\n\
         bind_dn = cn=postfix,dc=acme,dc=test\nbind_pw = s3cret\n",
    );
    let main = format!(
        "compatibility_level = 3.6\nmydomain = acme.test\nmyhostname = mx.acme.test\nmydestination = $mydomain, localhost\n\
         mynetworks = 127.0.0.0/8\nalways_bcc = archive@$mydomain\n\
         recipient_bcc_maps = proxy:ldap:{}, pcre:/etc/postfix/x\nsender_bcc_maps = ldap:old\n\
         old_server_host = dc2.acme.test\nold_result_attribute = journalFrom\nold_bind_pw = s3cret\n",
        table.display()
    );
    write(&etc.path().join("main.cf"), main);
    let output = etc.path().join("copyist.toml");
    let imported = import_postfix(etc.path(), &["--output", path(&output)]);
    check(&output);
    let config = std::fs::read_to_string(&output).expect("it was written");
    let said = stderr(&imported);
    assert!(
        !config.contains("s3cret") && !said.contains("s3cret"),
        "{config}{said}"
    );
    let settings = settings(&config);
    let strings = |value: &toml::Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    assert_eq!(strings(&settings["organization"]["domains"]), ["acme.test"]);
    assert_eq!(
        strings(&settings["directory"]["urls"]),
        ["ldaps://dc1.acme.test"]
    );
    assert_eq!(
        strings(&settings["directory"]["address_attributes"]),
        ["mail", "proxyAddresses"]
    );
    assert_eq!(
        strings(&settings["inbound"]["journal"]),
        ["archive@acme.test"]
    );
    assert_eq!(
        strings(&settings["inbound"]["journal_attribute"]),
        ["journalTo"]
    );
    assert_eq!(
        strings(&settings["outbound"]["journal_attribute"]),
        ["journalFrom"]
    );
    for part in [
        "no equivalent: pcre:/etc/postfix/x in recipient_bcc_maps",
        "no equivalent: ldap:old searches another directory",
        "fill in: directory.bind_password_file",
    ] {
        assert!(said.contains(part), "{part:?} is missing in\n{said}");
    }
    assert!(
        config.contains("#   postconf -X always_bcc sender_bcc_maps recipient_bcc_maps\n"),
        "{config}"
    );
}

#[test]
fn text_tables_become_a_directory_journaling_the_same_people() {
    let etc = postfix("");
    let (hash, texthash): (PathBuf, PathBuf) = (etc.path().join("bcc"), etc.path().join("sent"));
    write(
        &hash,
        "# to\nana@acme.test\n  ana-archive@acme.test\n@acme.test all@acme.test\n",
    );
    write(&texthash, "dan@acme.test  dan-archive@acme.test\n");
    let main = format!(
        "compatibility_level = 3.6\nmydestination = acme.test\nmynetworks = 127.0.0.0/8\n\
         recipient_bcc_maps = hash:{}, inline:{{ {{eve@acme.test=eve-archive@acme.test}} }}\n\
         sender_bcc_maps = texthash:{}\n",
        hash.display(),
        texthash.display()
    );
    write(&etc.path().join("main.cf"), main);
    let (output, ldif) = (
        etc.path().join("copyist.toml"),
        etc.path().join("people.ldif"),
    );
    import_postfix(etc.path(), &["-o", path(&output), "--ldif", path(&ldif)]);
    check(&output);
    let told = |from: &str, to: &str, more: &[&str]| -> Vec<String> {
        let mut arguments = vec![
            "explain",
            "--json",
            "--config",
            path(&output),
            "--from",
            from,
            "--to",
            to,
        ];
        arguments.extend(more);
        let said = copyist(&arguments);
        let said: Value = serde_json::from_slice(&said.stdout)
            .unwrap_or_else(|error| panic!("{error}: {said:?}"));
        let copies = said["copies"].as_array().expect("a list").iter();
        let targets = copies.flat_map(|copy| copy["targets"].as_array().expect("a list"));
        let mut targets: Vec<String> = targets
            .map(|target| target["address"].as_str().expect("a text").to_owned())
            .collect();
        targets.sort();
        targets
    };
    let outside = ["--client", "192.0.2.1"];
    assert_eq!(
        told("x@elsewhere.test", "ana@acme.test", &outside),
        ["all@acme.test", "ana-archive@acme.test"]
    );
    assert_eq!(
        told("x@elsewhere.test", "eve@acme.test", &outside),
        ["all@acme.test", "eve-archive@acme.test"]
    );
    assert_eq!(
        told("x@elsewhere.test", "dan@acme.test", &outside),
        ["all@acme.test"]
    );
    let inside = ["--client", "127.0.0.1"];
    assert_eq!(
        told("dan@acme.test", "x@elsewhere.test", &inside),
        ["dan-archive@acme.test"]
    );
    assert!(told("ana@acme.test", "x@elsewhere.test", &inside).is_empty());
}

#[test]
fn a_directory_without_main_cf_shows_postfix_s_own_error() {
    need("postconf", "postfix");
    let imported = copyist(&["import-postfix", "--config-directory", "/nonexistent"]);
    assert_eq!(imported.status.code(), Some(1));
    assert!(
        stderr(&imported).contains("/nonexistent/main.cf"),
        "{}",
        stderr(&imported)
    );
}
