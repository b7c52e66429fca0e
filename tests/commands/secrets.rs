//! Nothing secret and nothing of a message stands in what Copyist tells: not in its log, whatever
//! its level, not in its pages, not in the output of its commands. The one exception is the
//! subject, which `queue` shows to whoever may read the spool, so that an operator knows what
//! waits; logs never have it, and pages only for whoever shows the token (`tests/pages/admin.rs`).

use crate::lab;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lab::{DirectoryServer, OUTSIDE, Site, SiteOptions, Slapd, SmtpSink, set_mode, user, write};

const USER: &str = "c4nary-login";
const RELAY_PASSWORD: &str = "c4nary-relay-password";
const WRONG_PASSWORD: &str = "c4nary-wrong-password";
const SUBJECT: &str = "c4nary-subject";
const CONTENT: [&str; 3] = ["c4nary-header", "c4nary-body", "c4nary-attachment"];

fn mail(id: &str) -> String {
    let [header, body, attachment] = CONTENT;
    let attachment = STANDARD.encode(attachment);
    format!(
        "Message-ID: <{id}@elsewhere.test>\r\nSubject: {SUBJECT}\r\nX-Private: {header}\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n{body}\r\n--b\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{attachment}\r\n--b--\r\n"
    )
}

fn told(output: &Output) -> Vec<u8> {
    [&output.stdout[..], &output.stderr[..]].concat()
}

fn page(port: u16, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let mut text = Vec::new();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .and_then(|()| stream.read_to_end(&mut text).map(|_| ()))
    .expect("it answers");
    text
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Returns the secrets, each in the forms in which they are sent or stored.
fn secrets(site: &Site) -> Vec<Vec<u8>> {
    let key = std::fs::read_to_string(site.copyist.state_dir().join("seal.key")).expect("made");
    let raw = STANDARD.decode(key.trim()).expect("base64");
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let bind = site.directory.access().password;
    let attachment = STANDARD.encode(CONTENT[2]);
    let mut all = vec![raw, hex.into(), key.trim().into(), attachment.into()];
    all.extend(CONTENT.map(Vec::from));
    for password in [RELAY_PASSWORD, WRONG_PASSWORD, &bind] {
        all.push(password.into());
        all.push(STANDARD.encode(password).into());
        all.push(STANDARD.encode(format!("\0{USER}\0{password}")).into());
    }
    all
}

#[test]
fn no_log_page_or_command_shows_a_secret_or_a_message() {
    let kept = tempfile::tempdir().expect("the system has a temporary directory");
    let password_file = kept.path().join("relay.password");
    write(&password_file, RELAY_PASSWORD);
    set_mode(&password_file, 0o600);
    let login = format!("username = \"{USER}\"\npassword_file = {password_file:?}\n");
    let mut site = Site::<Slapd>::start_as(
        Slapd::start(20),
        SiteOptions {
            relay: &login,
            environment: vec![("COPYIST_LOG".to_owned(), "trace".to_owned())],
            ttl: "0s",
            ..SiteOptions::default()
        },
    );
    let journaled = user(3);
    let mut told_by: Vec<(&str, Vec<u8>)> = Vec::new();

    // Delivered, after a login.
    let mut client = site.client(OUTSIDE);
    client.send_message("a@elsewhere.test", &[&journaled], &mail("one"));
    site.wait_for_reports(1);
    // Deferred: the relay is away.
    site.relay.stop();
    let from = site.copyist.log_length();
    client.send_message("a@elsewhere.test", &[&journaled], &mail("two"));
    site.copyist.wait_for_log(from, "items stay queued");
    // Refused, and the NDR about it, too.
    let refusing = SmtpSink::start_with(&["-f", "RCPT"]);
    let relay = site.relay.address().to_string();
    let config = site.config.replace(&relay, &refusing.address().to_string());
    site.copyist.write_config(&config);
    site.copyist.hup();
    site.copyist.wait_for_log(from, "dead letter");

    let journal = "journal-3@archive.test";
    let explain = [
        "explain",
        "--from",
        "a@elsewhere.test",
        "--to",
        &journaled,
        journal,
    ];
    let commands: [&[&str]; 5] = [
        &["check", "--json"],
        &["check", "--online", "--json"],
        &explain,
        &["queue", "list"],
        &["queue", "list", "--json"],
    ];
    let mut queue_shows_the_subject = false;
    for command in commands {
        let output = told(&site.copyist.command(command));
        if command[0] == "queue" {
            queue_shows_the_subject |= has(&output, SUBJECT.as_bytes());
        }
        told_by.push((command[0], output));
    }
    assert!(queue_shows_the_subject, "what is looked for would be found");
    let listed = site.copyist.command(&["queue", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let id = listed["items"][0]["id"]
        .as_str()
        .expect("an item is queued");
    for (method, path) in copyist::admin::paths() {
        if method == "GET" {
            told_by.push((path, page(site.admin, &path.replace("{id}", id))));
        }
    }
    // The directory does not let us in.
    write(&site.directory.password_file(), WRONG_PASSWORD);
    let from = site.copyist.log_length();
    site.copyist.restart();
    client.send_message("a@elsewhere.test", &[&journaled], &mail("three"));
    site.copyist.wait_for_log(from, "rejected the bind");
    told_by.push(("the log", site.copyist.log().into_bytes()));
    // What was to happen did happen. No dependency says anything there: lettre's lines, which would
    // show what is sent, are not built in.
    for event in ["delivered", "dead letter", "rejected the bind"] {
        assert!(has(&told_by.last().expect("pushed").1, event.as_bytes()));
    }

    write(
        &site.directory.password_file(),
        &site.directory.access().password,
    );
    let secrets = secrets(&site);
    for (who, text) in &told_by {
        for secret in &secrets {
            let shown = String::from_utf8_lossy(secret);
            assert!(
                !has(text, secret),
                "{who} tells {shown:?}\n{}",
                String::from_utf8_lossy(text)
            );
        }
        if *who != "queue" {
            assert!(!has(text, SUBJECT.as_bytes()), "{who} tells the subject");
        }
    }
}
