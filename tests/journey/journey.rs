//! The journey of a message through real peers: Postfix, Copyist, a relay, and as the directory
//! OpenLDAP or Active Directory.

use crate::lab;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{
    DOMAIN, DirectoryServer, INSIDE, OUTSIDE, Postfix, PostfixOptions, Site, Slapd, message, user,
};

/// A journaled user, and another; see `lab::every_third`.
const JOURNALED: usize = 3;
const OTHER: usize = 4;

on_both_directories! {
    a_report_reaches_the_address_in_the_attribute,
    a_group_in_the_attribute_gets_the_report_member_by_member,
    each_direction_reads_the_objects_it_concerns,
    a_changed_attribute_counts_within_the_ttl,
    a_directory_outage_defers_only_mail_of_unknown_people,
    without_the_directory_mail_goes_on_where_that_is_wished,
    forged_headers_do_not_keep_a_message_out_of_the_journal,
    outsiders_cannot_write_to_journal_and_ndr_mailboxes,
    a_bounce_of_a_report_reaches_the_ndr_address,
    a_report_that_passes_the_same_mta_is_not_journaled_again,
    mail_that_a_local_program_submits_is_journaled_too,
    a_copy_is_the_message_with_our_fields_in_front,
    a_large_message_is_journaled_byte_for_byte_and_leaves_nothing_behind,
}

fn a_report_reaches_the_address_in_the_attribute<D: DirectoryServer>() {
    let site = Site::<D>::start("5m");
    let content = message("<one@elsewhere.test>", "hello");
    let to = user(JOURNALED);
    let reply = site
        .client(OUTSIDE)
        .send_message("a@elsewhere.test", &[&to], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    let report = site.wait_for_report("<one@elsewhere.test>");
    assert_eq!(report.sender, format!("in-ndr@{DOMAIN}"));
    assert_eq!(report.recipients, ["journal-3@archive.test"]);
    assert_eq!(report.field("Sender"), ["a@elsewhere.test"]);
    assert_eq!(report.field("Recipient"), [to.as_str()]);
    assert_eq!(report.original, content.replace("\r\n", "\n"));
    assert!(report.text.contains("\nX-MS-Journal-Report:\n"));
    site.mail.wait_for(1, lab::PATIENCE);
}

fn a_group_in_the_attribute_gets_the_report_member_by_member<D: DirectoryServer>() {
    let directory = D::start(10);
    let inner = directory.add_group("inner", &[directory.user_dn(7)], &[]);
    let members = [directory.user_dn(6), inner.clone()];
    let name = "/O=ACME/OU=EAST/CN=RECIPIENTS/CN=managers";
    let managers = directory.add_group("managers", &members, &[("legacyExchangeDN", name)]);
    directory.add_member(&inner, &managers);
    directory.set_journal(JOURNALED, Some("/o=acme/ou=east/cn=recipients/cn=managers"));
    directory.set_journal(OTHER, Some("cn=nobody,dc=example,dc=test"));
    let site = Site::start_with(directory, "5m");
    let mut client = site.client(OUTSIDE);
    let content = message("<group@elsewhere.test>", "hello");
    let reply = client.send_message("a@elsewhere.test", &[&user(JOURNALED)], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    let report = site.wait_for_report("<group@elsewhere.test>");
    assert_eq!(report.recipients, [user(6), user(7)]);
    assert!(
        report.text.contains(&format!("{managers} > {inner}")),
        "{}",
        report.text
    );
    // A value that names nobody: the mail goes on, and the NDR address hears of it with the report
    // attached.
    let content = message("<nobody@elsewhere.test>", "hello");
    let reply = client.send_message("a@elsewhere.test", &[&user(OTHER)], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    site.mail.wait_for(2, lab::PATIENCE);
    site.relay.wait_for(2, lab::PATIENCE);
}

fn each_direction_reads_the_objects_it_concerns<D: DirectoryServer>() {
    let site = Site::<D>::start("5m");
    // A journaled user writes out: the sender's object counts, and the header's recipients are
    // believed.
    let content = message("<out@elsewhere.test>", "offer");
    let (journaled, other) = (user(JOURNALED), user(OTHER));
    let mut inside = site.client(INSIDE);
    let reply = inside.send_message(&journaled, &["buyer@customer.test"], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    let report = site.wait_for_report("<out@elsewhere.test>");
    assert_eq!(report.sender, format!("out-ndr@{DOMAIN}"));
    assert_eq!(report.field("Bcc"), ["buyer@customer.test"]);
    // Two colleagues: internal.
    let content = message("<internal@elsewhere.test>", "lunch");
    inside.send_message(&other, &[&journaled], &content);
    assert_eq!(
        site.wait_for_report("<internal@elsewhere.test>").sender,
        format!("internal-ndr@{DOMAIN}")
    );
    // Nobody journaled: mail goes on and no report is made.
    let content = message("<none@elsewhere.test>", "nothing");
    assert_eq!(
        inside
            .send_message(&other, &["buyer@customer.test"], &content)
            .code,
        250
    );
    site.mail.wait_for(3, lab::PATIENCE);
    assert_eq!(site.wait_for_reports(2).len(), 2);
}

fn a_changed_attribute_counts_within_the_ttl<D: DirectoryServer>() {
    let site = Site::<D>::start("2s");
    let to = user(OTHER);
    let mut client = site.client(OUTSIDE);
    let mut send = |n: usize| {
        let id = format!("<change-{n}@elsewhere.test>");
        assert_eq!(
            client
                .send_message("a@elsewhere.test", &[&to], &message(&id, "x"))
                .code,
            250
        );
    };
    send(0);
    site.directory.set_journal(OTHER, Some("new@archive.test"));
    let changed = Instant::now();
    let mut sent = 1;
    while site.relay.count() == 0 {
        assert!(
            changed.elapsed() < Duration::from_secs(30),
            "the change is not seen\n{}",
            site.copyist.log()
        );
        send(sent);
        sent += 1;
    }
    let took = changed.elapsed();
    println!("a changed attribute counted after {took:?} with a ttl of 2 s");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(site.wait_for_reports(1)[0].recipients, ["new@archive.test"]);
}

fn a_directory_outage_defers_only_mail_of_unknown_people<D: DirectoryServer>() {
    let mut site = Site::<D>::start("1s");
    let (known, unknown) = (user(JOURNALED), user(JOURNALED + 3));
    let mut client = site.client(OUTSIDE);
    let mut send =
        |to: &str, id: &str| client.send_message("a@elsewhere.test", &[to], &message(id, "x"));
    assert_eq!(send(&known, "<before@elsewhere.test>").code, 250);
    site.directory.stop();
    // The ttl is long over when the last of these is sent; an outage must not end what is known.
    let down = Instant::now();
    let mut n = 0;
    while down.elapsed() < Duration::from_secs(2) {
        let reply = send(&known, &format!("<down-{n}@elsewhere.test>"));
        assert_eq!(reply.code, 250, "{reply:?}\n{}", site.copyist.log());
        n += 1;
    }
    let reply = send(&unknown, "<unknown@elsewhere.test>");
    assert_eq!(
        (reply.code, reply.text.starts_with("4.4.3")),
        (451, true),
        "{reply:?}"
    );
    site.relay.wait_for(n + 1, lab::PATIENCE);
    site.directory.restart();
    let back = Instant::now();
    while send(&unknown, "<back@elsewhere.test>").code != 250 {
        assert!(
            back.elapsed() < Duration::from_secs(30),
            "{}",
            site.copyist.log()
        );
    }
    println!(
        "unknown people were looked up again {:?} after slapd came back",
        back.elapsed()
    );
    site.wait_for_report("<back@elsewhere.test>");
    assert!(
        site.reports()
            .iter()
            .all(|report| report.about != "<unknown@elsewhere.test>")
    );
}

fn without_the_directory_mail_goes_on_where_that_is_wished<D: DirectoryServer>() {
    let mut site = Site::<D>::start("1s");
    let mut client = site.client(OUTSIDE);
    let config = fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    site.directory.stop();
    for (number, what) in ["accept", "fallback"].into_iter().enumerate() {
        let wish = format!(
            "[directory]\non_failure = \"{what}\"\nfallback_journal = \"fallback@archive.test\"\n"
        );
        let at = site.copyist.log_length();
        site.copyist
            .write_config(&config.replace("[directory]\n", &wish));
        site.copyist.hup();
        site.copyist.wait_for_log(at, "configuration reloaded");
        // Nobody has asked for this one, and the journal guard cannot either.
        let content = message(&format!("<{what}@elsewhere.test>"), "x");
        let to = user(JOURNALED + 3 * number);
        let reply = client.send_message("a@elsewhere.test", &[&to], &content);
        assert_eq!(reply.code, 250, "{what}: {reply:?}\n{}", site.copyist.log());
        // What the settings name stays guarded.
        let ndr = format!("in-ndr@{DOMAIN}");
        let reply = client.send_message("a@elsewhere.test", &[&ndr], &content);
        assert_eq!(reply.code, 550, "{what}: {reply:?}");
    }
    let report = site.wait_for_report("<fallback@elsewhere.test>");
    assert_eq!(report.recipients, ["fallback@archive.test"]);
    assert_eq!(site.reports().len(), 1);
}

fn forged_headers_do_not_keep_a_message_out_of_the_journal<D: DirectoryServer>() {
    let site = Site::<D>::start("5m");
    let to = user(JOURNALED);
    let first = message("<genuine@elsewhere.test>", "x");
    assert_eq!(
        site.client(OUTSIDE)
            .send_message("a@elsewhere.test", &[&to], &first)
            .code,
        250
    );
    let genuine = site.wait_for_report("<genuine@elsewhere.test>");
    let seal = genuine
        .text
        .split_once("X-Copyist-Seal: ")
        .expect("a seal")
        .1;
    let seal = seal
        .split("\n\n")
        .next()
        .unwrap_or_default()
        .replace('\n', "\r\n");
    let forged = format!(
        "X-MS-Journal-Report:\r\nX-Copyist-Item: aaaaaaaaaaaaaaaa\r\nAuto-Submitted: auto-generated\r\n\
         X-Copyist-Seal: {seal}\r\n{}",
        message("<forged@elsewhere.test>", "keep me out")
    );
    // Even with a genuine seal of another message, and from our own NDR address.
    let ndr = format!("in-ndr@{DOMAIN}");
    assert_eq!(
        site.client(OUTSIDE)
            .send_message(&ndr, &[&to], &forged)
            .code,
        250
    );
    let report = site.wait_for_report("<forged@elsewhere.test>");
    assert_eq!(report.original, forged.replace("\r\n", "\n"));
}

fn outsiders_cannot_write_to_journal_and_ndr_mailboxes<D: DirectoryServer>() {
    let site = Site::<D>::start("5m");
    let ndr = format!("in-ndr@{DOMAIN}");
    let journal = "journal-3@archive.test";
    let content = message("<attack@elsewhere.test>", "x");
    let mut outside = site.client(OUTSIDE);
    for to in [journal, "JOURNAL-3@Archive.Test", &ndr] {
        let reply = outside.send_message("a@elsewhere.test", &[to], &content);
        assert_eq!(
            (reply.code, reply.text.starts_with("5.1.1")),
            (550, true),
            "{to}: {reply:?}"
        );
        // The reverse path of our own reports opens nothing either.
        let reply = outside.send_message(&ndr, &[to], &content);
        assert_eq!(
            (reply.code, reply.text.starts_with("5.1.1")),
            (550, true),
            "{to}: {reply:?}"
        );
    }
    let reply = outside.send_message("", &[&ndr], &content);
    assert_eq!(
        reply.code, 550,
        "a bounce that is not about a report of ours: {reply:?}"
    );
    // Our own people may.
    assert_eq!(
        site.client(INSIDE)
            .send_message(&user(OTHER), &[&ndr], &content)
            .code,
        250
    );
}

fn a_bounce_of_a_report_reaches_the_ndr_address<D: DirectoryServer>() {
    let site = Site::<D>::start("5m");
    let content = message("<bounced@elsewhere.test>", "x");
    site.client(OUTSIDE)
        .send_message("a@elsewhere.test", &[&user(JOURNALED)], &content);
    let report = site.wait_for_report("<bounced@elsewhere.test>");
    let ndr = format!("in-ndr@{DOMAIN}");
    let bounce = format!(
        "From: mailer-daemon@archive.test\r\n\r\nReturned:\r\nMessage-ID: {}\r\n",
        report.message_id
    );
    let reply = site.client(OUTSIDE).send_message("", &[&ndr], &bounce);
    assert_eq!(reply.code, 250, "{reply:?}");
    // The item is long gone from the spool; what came back for it is remembered.
    let item = report.message_id.split('.').nth(1).expect("its item");
    for command in [&["queue", "bounces"][..], &["queue", "show", item]] {
        let told = site.copyist.command(command);
        assert!(told.status.success(), "{told:?}");
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains(item) && told.contains("127.0.0.1"), "{told}");
    }
}

fn a_report_that_passes_the_same_mta_is_not_journaled_again<D: DirectoryServer>() {
    let site = Site::<D>::start("5m");
    let to = user(JOURNALED);
    // The journal mailbox belongs to somebody who is journaled as well.
    let boss = user(JOURNALED + 3);
    site.directory.set_journal(JOURNALED, Some(&boss));
    let content = message("<loop@elsewhere.test>", "x");
    assert_eq!(
        site.client(OUTSIDE)
            .send_message("a@elsewhere.test", &[&to], &content)
            .code,
        250
    );
    let report = site.wait_for_report("<loop@elsewhere.test>");
    let (_, sent) = report.text.split_once("\nFrom: ").expect("a header");
    let sent = format!("From: {sent}").replace('\n', "\r\n");
    for from in [INSIDE, OUTSIDE] {
        let reply = site
            .client(from)
            .send_message(&report.sender, &[&boss], &sent);
        assert_eq!(reply.code, 250, "from {from}: {reply:?}");
    }
    site.mail.wait_for(3, lab::PATIENCE);
    assert_eq!(site.reports().len(), 1, "{}", site.copyist.log());
    // One byte more, and it is anybody's mail to a person who is journaled.
    let reply = site
        .client(OUTSIDE)
        .send_message(&report.sender, &[&boss], &format!("{sent}x"));
    assert_eq!(reply.code, 250, "{reply:?}");
    site.wait_for_reports(2);
}

#[test]
fn the_mta_and_copyist_can_meet_on_a_unix_socket() {
    let directory = tempfile::tempdir().expect("the system has a temporary directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("it is ours");
    let socket = directory.path().join("milter.sock");
    let mut site = Site::start_on(
        &format!("unix:{}", socket.display()),
        Slapd::start(10),
        "5m",
    );
    let send = |site: &Site, id: &str| {
        let content = message(id, "x");
        assert_eq!(
            site.client(OUTSIDE)
                .send_message("a@elsewhere.test", &[&user(3)], &content)
                .code,
            250
        );
        site.wait_for_report(id);
    };
    send(&site, "<socket@elsewhere.test>");
    // A socket file that a kill left over is no obstacle, and an orderly stop leaves none.
    site.copyist.restart();
    let world = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&socket, world).expect("it is there again");
    send(&site, "<again@elsewhere.test>");
    assert!(site.copyist.term_and_wait().success());
    assert!(!socket.exists());
}

fn mail_that_a_local_program_submits_is_journaled_too<D: DirectoryServer>() {
    let site = Site::<D>::start("5m");
    let content = message("<local@elsewhere.test>", "x");
    site.postfix
        .submit("a@elsewhere.test", &user(3), &content.replace("\r\n", "\n"));
    site.wait_for_report("<local@elsewhere.test>");
}

fn a_copy_is_the_message_with_our_fields_in_front<D: DirectoryServer>() {
    let mut site = Site::<D>::start("5m");
    let config = fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    let at = site.copyist.log_length();
    site.copyist
        .write_config(&config.replace("[inbound]", "[inbound]\nformat = \"copy\""));
    site.copyist.hup();
    site.copyist.wait_for_log(at, "configuration reloaded");
    let content = message("<copy@elsewhere.test>", "x");
    assert_eq!(
        site.client(OUTSIDE)
            .send_message("a@elsewhere.test", &[&user(3)], &content)
            .code,
        250
    );
    site.relay.wait_for(1, lab::PATIENCE);
    site.mail.wait_for(1, lab::PATIENCE);
    let deadline = Instant::now() + lab::PATIENCE;
    let wanted = content.replace("\r\n", "\n");
    let copy = loop {
        // smtp-sink does not say when a file is whole.
        match site.relay.messages().pop() {
            Some(copy) if copy.trim_end().ends_with(wanted.trim_end()) => break copy,
            copy => assert!(Instant::now() < deadline, "{copy:?}"),
        }
    };
    assert!(
        copy.contains("X-Copyist-Item: ") && copy.contains("X-Copyist-Seal: "),
        "{copy}"
    );
    assert!(!copy.contains("X-MS-Journal-Report"), "{copy}");
}

fn a_large_message_is_journaled_byte_for_byte_and_leaves_nothing_behind<D: DirectoryServer>() {
    let site = Site::<D>::start("5m");
    let line = format!("{}\r\n", "0123456789".repeat(7));
    let content =
        message("<large@elsewhere.test>", "x") + &line.repeat(8 * 1024 * 1024 / line.len());
    assert_eq!(
        site.client(OUTSIDE)
            .send_message("a@elsewhere.test", &[&user(3)], &content)
            .code,
        250
    );
    let report = site.wait_for_report("<large@elsewhere.test>");
    assert!(
        report.original == content.replace("\r\n", "\n"),
        "{} bytes",
        report.original.len()
    );
    let bodies = site.copyist.state_dir().join("spool/bodies");
    let deadline = Instant::now() + lab::PATIENCE;
    while fs::read_dir(&bodies).expect("it is there").next().is_some() {
        assert!(Instant::now() < deadline, "the body file stays");
    }
}

/// Returns an NDR as Python's email package parses it.
fn read_ndr(ndr: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ndr/read.py");
    let mut reader = Command::new(lab::need("python3", "python3"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut stdin = reader.stdin.take().expect("it is a pipe");
    stdin.write_all(ndr.as_bytes()).expect("it reads");
    drop(stdin);
    let output = reader.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{ndr}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// A Postfix refuses the reports; their NDRs are read by a parser that nobody here wrote.
#[test]
fn ndrs_are_machine_readable_by_rfc_3464_and_rfc_6533() {
    let mut site = Site::<Slapd>::start_with(Slapd::start(10), "1s");
    let relay = Postfix::start(&PostfixOptions {
        milter: None,
        deliver_to: site.relay.address(),
        extra: vec![
            "smtpd_recipient_restrictions = check_recipient_access inline:{ {archive.test = REJECT mailbox full} }, permit".to_owned(),
        ],
    });
    let old = fs::read_to_string(site.copyist.config_file()).expect("it is there");
    let sink = site.relay.address().to_string();
    let new = old.replace(&sink, &relay.smtp_addr().to_string());
    fs::write(site.copyist.config_file(), &new).expect("written");
    site.copyist.hup();
    site.copyist.wait_for_log(0, "configuration reloaded");
    let refused = "Remote-MTA: dns; [127.0.0.1]\nDiagnostic-Code: smtp; 554 5.7.1 ";
    for (number, journal, subject, recipient, attached) in [
        (
            1,
            "full@archive.test",
            "offer",
            "rfc822; full@archive.test",
            "message/rfc822 7bit ASCII",
        ),
        (
            2,
            "j\u{fc}rg+x@archive.test",
            "offer",
            "utf-8; j\\x{FC}rg\\x{2B}x@archive.test",
            "message/global 8bit 8 bits",
        ),
        (
            4,
            "full@archive.test",
            "Gr\u{fc}\u{df}e",
            "rfc822; full@archive.test",
            "message/rfc822 8bit 8 bits",
        ),
        (
            5,
            "no address, gr\u{fc}n",
            "offer",
            "x-unknown; no address, gr?n",
            "message/rfc822 7bit ASCII",
        ),
    ] {
        site.directory.set_journal(number, Some(journal));
        let id = format!("<ndr-{number}@elsewhere.test>");
        let content = message(&id, "hello").replace("Subject: ", &format!("Subject: {subject} "));
        let reply =
            site.client(OUTSIDE)
                .send_message("a@elsewhere.test", &[&user(number)], &content);
        assert_eq!(reply.code, 250, "{reply:?}");
        let ndr = site.wait_until("the NDR", || {
            let is_it = |text: &String| {
                text.contains("multipart/report")
                    && text.contains(&id)
                    && text.trim_end().ends_with("--")
            };
            site.relay.messages().into_iter().find(is_it)
        });
        let read = read_ndr(&ndr);
        let line = |line: &str| read.contains(&format!("{line}\n"));
        assert!(line(&format!("Final-Recipient: {recipient}")), "{read}");
        assert!(line(&format!("attached: {attached}")), "{read}");
        assert!(
            read.contains(&format!("about: {subject} ")) && line("Action: failed"),
            "{read}"
        );
        assert_eq!(read.contains(refused), number != 5, "{read}");
    }
}
