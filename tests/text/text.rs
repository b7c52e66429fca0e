//! Texts in mail that passes a real Postfix.

use crate::lab;
use std::fs;
use std::path::Path;
use std::process::Command;

use lab::{DOMAIN, DirectoryServer, INSIDE, OUTSIDE, Site, SiteOptions, Slapd, user};

const JOURNALED: usize = 3;
const OTHER: usize = 4;

const TEXTS: &str = r#"
[inbound.prepend]
text = "From outside: be careful."
[outbound.append]
text = """
-- 
{{ sender.mail }}
Tel. {{ sender.extensionAttribute9 }}
Grüße aus Zürich"""
"#;

fn mail(headers: &str, body: &str) -> String {
    format!(
        "From: somebody@elsewhere.test\r\nTo: someone@{DOMAIN}\r\nSubject: s\r\nDate: Tue, 24 Nov 2026 03:32:21 +0000\r\n\
         {headers}\r\n{body}"
    )
}

/// The message that a sink has with this Message-ID and this recipient, from its first header field
/// on.
fn kept<D: DirectoryServer>(site: &Site<D>, relay: bool, id: &str, to: &str) -> String {
    site.wait_until(&format!("{id} for {to}"), || {
        let sink = if relay { &site.relay } else { &site.mail };
        let is_it = |text: &String| {
            text.contains(&format!("Message-ID: {id}"))
                && text.contains(&format!("X-Rcpt-Args: <{to}>"))
                && !text.contains("X-MS-Journal-Report")
                && text.ends_with("\n\n")
        };
        // The sink ends each file with an empty line.
        let found = sink.messages().into_iter().find(is_it)?;
        Some(found.strip_suffix('\n').unwrap_or(&found).to_owned())
    })
}

fn is_for(text: &str, recipient: &str) -> bool {
    text.contains(&format!("X-Rcpt-Args: <{recipient}>"))
}

#[test]
fn each_direction_gets_its_text_and_reports_the_original() {
    let site = Site::start_with_lines(Slapd::start(10), TEXTS);
    let journaled = user(JOURNALED);
    let content = mail("Message-ID: <in@elsewhere.test>\r\n", "hello\r\n.dots\r\n");
    let reply = site
        .client(OUTSIDE)
        .send_message("a@elsewhere.test", &[&journaled], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    let found = kept(&site, false, "<in@elsewhere.test>", &journaled);
    assert!(
        found.ends_with("\n\nFrom outside: be careful.\nhello\n.dots\n"),
        "{found}"
    );
    let report = site.wait_for_report("<in@elsewhere.test>");
    assert_eq!(report.original, content.replace("\r\n", "\n"));

    // The text cannot be said in the charset, so the body becomes UTF-8; who has no such attribute
    // loses that line.
    let headers = "Message-ID: <out@elsewhere.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-2022-jp\r\n";
    let content = mail(headers, "\u{1b}$BF|K\\8l\u{1b}(B\r\n");
    let reply = site
        .client(INSIDE)
        .send_message(&journaled, &["buyer@customer.test"], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    let found = kept(&site, false, "<out@elsewhere.test>", "buyer@customer.test");
    assert!(
        found.contains("Content-Type: text/plain; charset=utf-8\n"),
        "{found}"
    );
    assert_eq!(
        found
            .matches("Content-Transfer-Encoding: quoted-printable\n")
            .count(),
        1,
        "{found}"
    );
    let expected = format!(
        "\n\n=E6=97=A5=E6=9C=AC=E8=AA=9E\n--=20\n{journaled}\nGr=C3=BC=C3=9Fe aus Z=C3=BCrich\n"
    );
    assert!(found.ends_with(&expected), "{found}");
    assert_eq!(
        site.wait_for_report("<out@elsewhere.test>").original,
        content.replace("\r\n", "\n")
    );
}

#[test]
fn recipients_of_two_directions_get_a_version_each() {
    let site = Site::start_with_lines(Slapd::start(10), TEXTS);
    let (sender, colleague) = (user(OTHER), user(OTHER + 1));
    let content = mail("Message-ID: <both@elsewhere.test>\r\n", "hello\r\n");
    let to = [colleague.as_str(), "buyer@customer.test"];
    let reply = site.client(INSIDE).send_message(&sender, &to, &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    let outbound = kept(&site, false, "<both@elsewhere.test>", "buyer@customer.test");
    assert!(
        outbound.contains("Gr=C3=BC=C3=9Fe") && !is_for(&outbound, &colleague),
        "{outbound}"
    );
    let internal = kept(&site, true, "<both@elsewhere.test>", &colleague);
    assert!(
        internal.ends_with("\n\nhello\n") && !is_for(&internal, "buyer@customer.test"),
        "{internal}"
    );
    assert!(
        internal.contains(&format!("X-Mail-Args: <{sender}>")),
        "{internal}"
    );
    // Nobody learns of anybody from what we add.
    assert!(
        !internal.contains("X-Copyist-Reason") && !internal.contains("customer.test"),
        "{internal}"
    );
}

/// Returns the queued version as the relay will get it.
fn queued_version<D: DirectoryServer>(site: &Site<D>) -> String {
    let list = site.copyist.command(&["queue", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let items = list["items"].as_array().expect("a list").iter();
    let mut versions = items.filter(|item| item["kind"] == "version");
    let id = versions.next().expect("a version")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let exported = site.copyist.command(&["queue", "export", &id]);
    String::from_utf8(exported.stdout).expect("UTF-8")
}

#[test]
fn a_version_in_transit_passes_the_same_mta_exactly_once() {
    let mut site = Site::start_with_lines(Slapd::start(10), TEXTS);
    let (sender, colleague) = (user(OTHER), user(JOURNALED));
    site.relay.stop();
    let content = mail("Message-ID: <way@elsewhere.test>\r\n", "hello\r\n");
    let to = [colleague.as_str(), "buyer@customer.test"];
    let reply = site.client(INSIDE).send_message(&sender, &to, &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    let version = queued_version(&site);
    assert!(
        version.starts_with("X-Copyist-Seal: ") && version.ends_with("\r\n\r\nhello\r\n"),
        "{version}"
    );
    // On its way by the MTA that asks us: it passes, is not edited and not journaled again.
    let reply = site
        .client(INSIDE)
        .send_message(&sender, &[&colleague], &version);
    assert_eq!(reply.code, 250, "{reply:?}");
    site.copyist.wait_for_log(0, "version in transit");
    // Under its seal nothing goes to anybody else, nor any other body.
    for (to, body) in [
        ("other@customer.test", version.clone()),
        (&colleague, version.replace("hello", "secret")),
    ] {
        let reply = site.client(INSIDE).send_message(&sender, &[to], &body);
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    site.relay.restart();
    // The first message, and the other body.
    assert_eq!(site.wait_for_reports(2).len(), 2);
    kept(&site, true, "<way@elsewhere.test>", &colleague);
    site.wait_until("the version delivered", || {
        let list = site.copyist.command(&["queue", "list", "--json"]);
        String::from_utf8_lossy(&list.stdout)
            .contains("\"items\": []")
            .then_some(())
    });
    // Whoever has it now and sends it again sends mail like any other.
    let reply = site
        .client(OUTSIDE)
        .send_message("a@elsewhere.test", &[&colleague], &version);
    assert_eq!(reply.code, 250, "{reply:?}");
    assert_eq!(site.wait_for_reports(3).len(), 3);
    let found = site.wait_until("it came", || {
        let mut all = site.mail.messages().into_iter();
        all.find(|text| text.contains("From outside: be careful.") && text.contains("hello"))
    });
    assert!(is_for(&found, &colleague));
}

#[test]
fn a_rejected_version_bounces_to_its_sender() {
    let lines = "[outbound.append]\ntext = \"Out.\"\n";
    let mut site = Site::start_with_lines(Slapd::start(10), lines);
    let (sender, colleague) = (user(OTHER), user(OTHER + 1));
    // The relay is another now, which refuses the recipients of the version and takes the NDR.
    let refusing = lab::SmtpSink::start_with(&["-f", "rcpt"]);
    let old = fs::read_to_string(site.copyist.config_file()).expect("it is there");
    let new = old.replace(
        &site.relay.address().to_string(),
        &refusing.address().to_string(),
    );
    fs::write(site.copyist.config_file(), &new).expect("written");
    site.copyist.hup();
    site.copyist.wait_for_log(0, "configuration reloaded");
    let content = mail("Message-ID: <refused@elsewhere.test>\r\n", "hello\r\n");
    let reply =
        site.client(INSIDE)
            .send_message(&sender, &[&colleague, "b@customer.test"], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    // So the NDR is a dead letter at first, until an operator sees to it.
    site.copyist.wait_for_log(0, "dead letter");
    let from = site.copyist.log_length();
    fs::write(site.copyist.config_file(), old).expect("written");
    site.copyist.hup();
    site.copyist.wait_for_log(from, "configuration reloaded");
    assert!(
        site.copyist
            .command(&["queue", "retry", "--all"])
            .status
            .success()
    );
    let ndr = site.wait_until("the NDR", || {
        let all = site.relay.messages().into_iter();
        all.into_iter()
            .find(|text| text.contains("multipart/report") && text.trim_end().ends_with("--"))
    });
    assert!(
        is_for(&ndr, &sender) && ndr.contains("X-Mail-Args: <>"),
        "{ndr}"
    );
    assert!(ndr.contains("\nSubject: Undeliverable: s\n"), "{ndr}");
    assert!(
        ndr.contains(&format!("Final-Recipient: rfc822; {colleague}")) && ndr.contains("\nhello\n"),
        "{ndr}"
    );
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> String {
    let mut command = Command::new(lab::need(program, program));
    let output = command
        .args(arguments)
        .current_dir(dir)
        .env("GNUPGHOME", dir)
        .output();
    let output = output.expect("it is a program");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// A message signed by S/MIME, without its transport header.
fn signed_by_smime(dir: &Path) -> String {
    let subject = ["-subj", "/CN=Ana", "-keyout", "key.pem", "-out", "cert.pem"];
    run(
        "openssl",
        &[
            &[
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ],
            &subject[..],
        ]
        .concat(),
        dir,
    );
    fs::write(
        dir.join("body"),
        "Content-Type: text/plain\r\n\r\nsigned\r\n",
    )
    .expect("written");
    let sign = [
        "smime", "-sign", "-in", "body", "-signer", "cert.pem", "-inkey", "key.pem", "-out",
        "signed",
    ];
    run("openssl", &sign, dir);
    fs::read_to_string(dir.join("signed"))
        .expect("it was written")
        .replace("\r\n", "\n")
        .replace('\n', "\r\n")
}

#[test]
fn smime_signatures_still_verify() {
    let dir = tempfile::tempdir().expect("a directory");
    let signed = signed_by_smime(dir.path());
    let (header, body) = signed.split_once("\r\n\r\n").expect("a header");
    for (lines, id) in [
        ("", "<skip@elsewhere.test>"),
        ("[text]\nsigned = \"wrap\"\n", "<wrap@elsewhere.test>"),
    ] {
        let site = Site::start_with_lines(Slapd::start(10), &format!("{TEXTS}{lines}"));
        let content = mail(&format!("Message-ID: {id}\r\n{header}\r\n"), body);
        let reply = site
            .client(INSIDE)
            .send_message(&user(OTHER), &["b@customer.test"], &content);
        assert_eq!(reply.code, 250, "{reply:?}");
        let found = kept(&site, false, id, "b@customer.test");
        let inner = match lines {
            "" => found.clone(),
            _ => {
                let boundary = "--=_copyist_text_00000000";
                let parts: Vec<&str> = found.split(boundary).collect();
                assert!(
                    parts[2].contains("Gr=C3=BC") && parts[3].starts_with("--"),
                    "{found}"
                );
                parts[1].trim_start().to_owned()
            }
        };
        assert!(!inner.contains("Gr=C3=BC"), "{inner}");
        fs::write(dir.path().join("came"), inner.replace('\n', "\r\n")).expect("written");
        let said = run(
            "openssl",
            &["smime", "-verify", "-noverify", "-in", "came"],
            dir.path(),
        );
        assert!(
            said.to_lowercase().contains("verification successful"),
            "{said}"
        );
    }
}

#[test]
fn pgp_signatures_still_verify() {
    let dir = tempfile::tempdir().expect("a directory");
    lab::set_mode(dir.path(), 0o700);
    let key = [
        "--batch",
        "--passphrase",
        "",
        "--quick-gen-key",
        "ana@example.test",
        "ed25519",
        "sign",
        "never",
    ];
    run("gpg", &key, dir.path());
    let part = "Content-Type: text/plain\r\n\r\nsigned  by ana\r\n";
    fs::write(dir.path().join("part"), part).expect("written");
    run(
        "gpg",
        &[
            "--batch",
            "--armor",
            "--detach-sign",
            "--output",
            "part.asc",
            "part",
        ],
        dir.path(),
    );
    let signature = fs::read_to_string(dir.path().join("part.asc"))
        .expect("written")
        .replace('\n', "\r\n");
    let headers = "Message-ID: <pgp@elsewhere.test>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; micalg=pgp-sha512;\r\n \
                   protocol=\"application/pgp-signature\"; boundary=\"s\"\r\n";
    let body = format!(
        "--s\r\n{part}\r\n--s\r\nContent-Type: application/pgp-signature\r\n\r\n{signature}\r\n--s--\r\n"
    );
    let site = Site::start_with_lines(Slapd::start(10), TEXTS);
    let reply = site.client(OUTSIDE).send_message(
        "a@elsewhere.test",
        &[&user(OTHER)],
        &mail(headers, &body),
    );
    assert_eq!(reply.code, 250, "{reply:?}");
    let found = kept(&site, false, "<pgp@elsewhere.test>", &user(OTHER)).replace('\n', "\r\n");
    let parts: Vec<&str> = found.split("--s\r\n").collect();
    fs::write(
        dir.path().join("came"),
        parts[1].strip_suffix("\r\n").expect("the delimiter's"),
    )
    .expect("written");
    run(
        "gpg",
        &["--batch", "--verify", "part.asc", "came"],
        dir.path(),
    );
}

/// Postfix passes no such fields, so miltertest plays the MTA.
#[test]
fn no_header_field_is_repeated_in_a_body() {
    let port = lab::free_port();
    let site = Site::start_as(
        Slapd::start(10),
        SiteOptions {
            milter: Some(format!("inet:127.0.0.1:{port}")),
            lines: "[inbound.append]\ntext = \"Out.\"\n",
            ..SiteOptions::default()
        },
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/miltertest");
    let mut mta = Command::new(lab::need("miltertest", "miltertest"));
    for (name, value) in [
        ("port", port.to_string()),
        ("recipient", user(JOURNALED)),
        ("expected", "aGVsbG8NCk91dC4=".to_owned()),
        (
            "script",
            folder.join("odd_fields.lua").display().to_string(),
        ),
    ] {
        mta.arg("-D").arg(format!("{name}={value}"));
    }
    lab::run(mta.arg("-s").arg(folder.join("run.lua")));
    // What is delivered of it has the field once, and it begins the report's original.
    let report = site.wait_until("the report", || {
        site.relay
            .messages()
            .into_iter()
            .find(|text| text.contains("X-MS-Journal-Report") && text.trim_end().ends_with("--"))
    });
    assert_eq!(report.matches("Bad Name: x").count(), 1, "{report}");
}
