//! Nobody outside injects, evades or bombs: said to a real Postfix, with Copyist as its milter.

use crate::lab;
use lab::{
    DOMAIN, DirectoryServer, INSIDE, OUTSIDE, Postfix, PostfixOptions, Site, SiteOptions, Slapd,
    message, user,
};

/// Journaled to `journal-3@archive.test`, see `lab::every_third`.
const JOURNALED: usize = 3;
/// Nobody's journal; in the tests the mailbox that journal copies go to.
const MAILBOX: usize = 4;

/// A report about a message of this id, and the fields that Copyist wrote at its top, as SMTP sends
/// them.
fn genuine(site: &Site<Slapd>, id: &str) -> (lab::Report, String) {
    let to = user(JOURNALED);
    let mut client = site.client(OUTSIDE);
    let reply = client.send_message("a@elsewhere.test", &[&to], &message(id, "x"));
    assert_eq!(reply.code, 250, "{reply:?}");
    let report = site.wait_for_report(id);
    // The sink and the relay wrote something in front of it.
    let (_, sent) = report.text.split_once("\nFrom: ").expect("a header");
    let sent = format!("From: {sent}").replace('\n', "\r\n");
    (report, sent)
}

#[test]
fn an_invalid_seal_is_counted_and_the_message_journaled() {
    let site = Site::<Slapd>::start_with(Slapd::start(10), "5m");
    let (_, sent) = genuine(&site, "<genuine@elsewhere.test>");
    let start = sent.find("X-Copyist-Seal: ").expect("a seal");
    let end = start + sent[start..].find("\r\n\r\n").expect("an end");
    let seal = &sent[start..end + 2];
    let cut_off = &seal[..seal
        .find(";\r\n b=")
        .or(seal.find("; b="))
        .expect("its end")];
    let forged =
        "X-Copyist-Seal: v=2; k=r; id=aaaaaaaaaaaaaaaa; to=AAAAAAAAAAAAAAAA; h=AA; b=AA\r\n";
    let to = user(JOURNALED);
    let cases = [
        ("forged", forged.to_owned(), "forged"),
        ("of-another", seal.to_owned(), "recipients"),
        ("cut-off", format!("{cut_off}\r\n"), "malformed"),
        (
            "old",
            "X-Copyist-Seal: v=1; id=aaaaaaaaaaaaaaaa\r\n".to_owned(),
            "malformed",
        ),
        ("several", format!("{forged}{seal}{seal}"), "forged"),
        ("nine", format!("{}{seal}", forged.repeat(8)), "forged"),
    ];
    let mut counted: Vec<(&str, f64)> = Vec::new();
    for (name, seals, why) in cases {
        let id = format!("<{name}@elsewhere.test>");
        let content = format!(
            "{seals}X-Copyist-Item: aaaaaaaaaaaaaaaa\r\n{}",
            message(&id, name)
        );
        // From an address that our own reports come from, too.
        let ndr = format!("in-ndr@{DOMAIN}");
        let reply = site.client(OUTSIDE).send_message(&ndr, &[&to], &content);
        assert_eq!(reply.code, 250, "{name}: {reply:?}");
        let report = site.wait_for_report(&id);
        assert_eq!(report.original, content.replace("\r\n", "\n"), "{name}");
        match counted.iter_mut().find(|(known, _)| *known == why) {
            Some((_, count)) => *count += 1.0,
            None => counted.push((why, 1.0)),
        }
    }
    for (why, count) in counted {
        let name = format!("copyist_seals_refused_total{{why=\"{why}\"}}");
        assert_eq!(site.metric(&name), count, "{why}");
    }
    // What reached the recipients has none of the fields; the copies above had them all.
    site.mail.wait_for(7, lab::PATIENCE);
    for mail in site.mail.messages() {
        assert!(!mail.contains("X-Copyist-"), "{mail}");
    }
}

/// A site in which this user's mailbox is a journal mailbox, with more lines of the table
/// `[directory]`.
fn with_journal_mailbox(slapd: Slapd, mailbox: &str, directory: &str) -> Site<Slapd> {
    let mut site = Site::<Slapd>::start_with(slapd, "5m");
    let config = std::fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    let organization = format!(
        "domains = [\"example.test\", \"m\u{fc}ller.test\"]\njournal_mailboxes = [\"{mailbox}\"]"
    );
    site.copyist.write_config(
        &config
            .replace("domains = [\"example.test\"]", &organization)
            .replace("[directory]", &format!("[directory]\n{directory}")),
    );
    site.copyist.restart();
    site
}

#[test]
fn a_replayed_report_passes_only_with_its_body_and_recipient() {
    let slapd = Slapd::start(10);
    // The journal mailbox is journaled itself: what passes unjournaled passes as our own.
    slapd.set_journal(JOURNALED, Some(&user(6)));
    let site = with_journal_mailbox(slapd, &user(6), "");
    let (report, sent) = genuine(&site, "<first@elsewhere.test>");
    let (journal, other) = (user(6), user(9));
    // The relay has it, and the spool knows: what comes now is a replay.
    site.wait_until("empty spool", || {
        (site.metric("copyist_spool_items") == 0.0).then_some(())
    });
    let send = |from, to: &str, content: &str| {
        site.client(from)
            .send_message(&report.sender, &[to], content)
    };
    // Once more, byte for byte: those who have it learn nothing, and it is counted.
    for from in [OUTSIDE, INSIDE] {
        assert_eq!(send(from, &journal, &sent).code, 250);
    }
    assert_eq!(site.metric("copyist_reports_again_total"), 2.0);
    assert_eq!(site.reports().len(), 1, "none of them was journaled");
    // With another body: from outside the guard refuses it.
    let altered = format!("{sent}and more\r\n");
    assert_eq!(send(OUTSIDE, &journal, &altered).code, 550);
    // To somebody else who is journaled, from outside and from inside: ordinary mail.
    assert_eq!(send(OUTSIDE, &other, &sent).code, 250);
    assert_eq!(send(INSIDE, &other, &sent).code, 250);
    site.wait_for_reports(3);
    assert_eq!(
        site.metric("copyist_seals_refused_total{why=\"recipients\"}"),
        2.0
    );
    assert_eq!(
        site.metric("copyist_seals_refused_total{why=\"body\"}"),
        1.0
    );
}

#[test]
fn no_claim_by_an_outsider_keeps_mail_out_of_the_journal() {
    let site = Site::<Slapd>::start_with(Slapd::start(10), "5m");
    let to = user(JOURNALED);
    let ours = format!("boss@{DOMAIN}");
    let ndr = format!("in-ndr@{DOMAIN}");
    let cases = [
        ("null", "", ""),
        (
            "auto",
            "a@elsewhere.test",
            "Auto-Submitted: auto-replied\r\n",
        ),
        ("generated", "", "Auto-Submitted: auto-generated\r\n"),
        ("bulk", "a@elsewhere.test", "Precedence: bulk\r\n"),
        (
            "junk",
            "a@elsewhere.test",
            "Precedence: junk\r\nX-Loop: copyist\r\n",
        ),
        (
            "list",
            "a@elsewhere.test",
            "List-Id: <l.elsewhere.test>\r\nPrecedence: list\r\n",
        ),
        (
            "resent",
            "a@elsewhere.test",
            "Resent-From: boss@example.test\r\nResent-To: nobody@elsewhere.test\r\nResent-Date: Tue, 24 Nov 2026 03:32:21 +0000\r\nResent-Message-ID: <r@elsewhere.test>\r\n",
        ),
        ("from", "a@elsewhere.test", "Sender: boss@example.test\r\n"),
        ("sender", &ours, ""),
        ("self", &to, ""),
        ("ndr", &ndr, ""),
        (
            "report",
            "",
            "X-MS-Journal-Report:\r\nX-MS-Exchange-Organization-SCL: -1\r\n",
        ),
        (
            "fake",
            "a@elsewhere.test",
            "Received: from localhost (127.0.0.2) by mx.example.test; x\r\n",
        ),
    ];
    for (name, sender, fields) in cases {
        let id = format!("<{name}@elsewhere.test>");
        let content = format!("{fields}{}", message(&id, name));
        let reply = site.client(OUTSIDE).send_message(sender, &[&to], &content);
        assert_eq!(reply.code, 250, "{name}: {reply:?}");
        let report = site.wait_for_report(&id);
        assert_eq!(report.sender, ndr, "{name} is inbound");
        assert_eq!(report.recipients, ["journal-3@archive.test"], "{name}");
        assert_eq!(report.original, content.replace("\r\n", "\n"), "{name}");
    }
}

#[test]
fn a_message_that_goes_round_is_journaled_once_and_refused() {
    let options = SiteOptions {
        lines: "[limits]\nhops = 20\n",
        postfix: vec!["hopcount_limit = 200".to_owned()],
        ..SiteOptions::default()
    };
    let site = Site::<Slapd>::start_as(Slapd::start(10), options);
    let received = "Received: from a by b; Tue, 24 Nov 2026 03:32:21 +0000\r\n".repeat(21);
    let id = "<round@elsewhere.test>";
    let content = format!("{received}{}", message(id, "x"));
    let reply =
        site.client(OUTSIDE)
            .send_message("a@elsewhere.test", &[&user(JOURNALED)], &content);
    assert_eq!(
        (reply.code, reply.text.starts_with("5.4.6")),
        (554, true),
        "{reply:?}"
    );
    let report = site.wait_for_report(id);
    assert_eq!(report.original, content.replace("\r\n", "\n"));
    // A report of ours that goes round is refused, and not journaled again.
    let (report, sent) = genuine(&site, "<fine@elsewhere.test>");
    let reply = site.client(INSIDE).send_message(
        &report.sender,
        &["journal-3@archive.test"],
        &format!("{received}{sent}"),
    );
    assert_eq!(reply.code, 554, "{reply:?}");
    assert_eq!(site.metric("copyist_hop_limit_refusals_total"), 2.0);
    site.mail.wait_for(1, lab::PATIENCE);
    assert_eq!(site.mail.count(), 1, "neither of the two went on");
    assert_eq!(site.reports().len(), 2);
}

/// Ways to write the journal mailbox `u00004@example.test` and its aliases.
fn spellings() -> Vec<String> {
    let d = DOMAIN;
    let mut all: Vec<String> = Vec::new();
    for local in ["u00004", "U00004", "user.4", "USER.4", "secret", "SeCrEt"] {
        for domain in [d, "EXAMPLE.TEST", "example.test."] {
            all.push(format!("{local}@{domain}"));
        }
        all.push(format!("\"{local}\"@{d}"));
        all.push(format!("{local}+x@{d}"));
        all.push(format!("{local}+x+y@{d}"));
        all.push(format!("@relay.test:{local}@{d}"));
        all.push(format!("@a.test,@b.test:{local}@{d}"));
        all.push(format!("{local}%{d}@{d}"));
        all.push(format!("{d}!{local}"));
        all.push(format!("{local}@{d}@{d}"));
        all.push(local.to_owned());
    }
    for text in [
        "\"u0000\\4\"@example.test",
        "u0000\\4@example.test",
        "(journal)u00004@example.test",
        "u00004(journal)@example.test",
        "u00004@(at)example.test",
        "u00004@example.test(journal)",
        "<u00004@example.test>",
        "u00004 @example.test",
        "ana@m\u{fc}ller.test",
        "ANA@M\u{dc}LLER.TEST",
        "ana@xn--mller-kva.test",
        "ana+x@xn--mller-kva.test",
        "IMCEAEX-_o=ACME_ou=East+20Side_cn=journal@example.test",
        "imceaex-_O=acme_OU=east+20side_CN=JOURNAL@example.test",
    ] {
        all.push(text.to_owned());
    }
    all
}

#[test]
fn however_a_journal_mailbox_is_written_an_outsider_is_refused() {
    let slapd = Slapd::start(10);
    slapd.modify(&format!(
        "dn: {}\nchangetype: modify\nadd: proxyAddresses\nproxyAddresses: smtp:secret@example.test\n\
         proxyAddresses: smtp:ana@m\u{fc}ller.test\n-\nreplace: legacyExchangeDN\nlegacyExchangeDN: /o=ACME/ou=East Side/cn=journal\n",
        slapd.user_dn(MAILBOX)
    ));
    slapd.set_journal(JOURNALED, Some(&user(MAILBOX)));
    let site = with_journal_mailbox(slapd, &user(MAILBOX), "recipient_delimiter = \"+\"");
    let config = std::fs::read_to_string(site.copyist.config_file()).expect("written");
    let sink = site.mail.address();
    let listen = config
        .split_once("[hook.milter]\nlisten = [\"")
        .expect("a listener")
        .1;
    let milter = listen.split('"').next().expect("its address").to_owned();
    // As liberal as Postfix can be, see `spellings.rs`.
    let liberal = Postfix::start(&PostfixOptions {
        milter: Some(milter),
        deliver_to: sink,
        extra: vec![
            "mydestination = example.test, xn--mller-kva.test, m\u{fc}ller.test".to_owned(),
            format!("local_transport = smtp:[{}]:{}", sink.ip(), sink.port()),
            "local_recipient_maps =".to_owned(),
            "recipient_delimiter = +".to_owned(),
            "strict_rfc821_envelopes = no".to_owned(),
            "smtputf8_enable = yes".to_owned(),
        ],
    });
    let (mut guarded, mut postfix) = (0, Vec::new());
    for spelling in spellings() {
        let mut client = lab::Client::connect_from(OUTSIDE, liberal.smtp_addr());
        client.say("EHLO client.test");
        let utf8 = if spelling.is_ascii() { "" } else { " SMTPUTF8" };
        client.say(&format!("MAIL FROM:<a@elsewhere.test>{utf8}"));
        let reply = client.say(&format!("RCPT TO:<{spelling}>"));
        assert!(reply.code >= 500, "{spelling}: {reply:?}");
        match reply.text.contains("User unknown") {
            true => guarded += 1,
            false => postfix.push(format!("{spelling} ({} {})", reply.code, reply.text)),
        }
    }
    println!(
        "{guarded} spellings refused by the guard; otherwise {}",
        postfix.join("; ")
    );
    assert!(guarded >= 50, "only {guarded}: {}", postfix.join("; "));
    // Somebody else in the same words is welcome.
    let mut client = lab::Client::connect_from(OUTSIDE, liberal.smtp_addr());
    let reply = client.send_message(
        "a@elsewhere.test",
        &["USER.5+x@example.test."],
        "A: b\r\n\r\n",
    );
    assert_eq!(reply.code, 250, "{reply:?}");
}

/// A real Postfix that puts all mail into one mailbox of its own, as it calls a delivery agent like
/// Dovecot's, and takes what has 30 hops, as Exim does.
fn mailbox_server() -> (Postfix, tempfile::TempDir) {
    let directory = lab::open_directory();
    lab::set_mode(directory.path(), 0o777);
    let options = PostfixOptions {
        milter: None,
        deliver_to: lab::NextHop::nowhere().address(),
        extra: vec![
            "transport_maps = static:mailbox:".into(),
            "hopcount_limit = 30".into(),
        ],
    };
    let agent = format!(
        "mailbox unix - n n - - pipe flags=D user=nobody directory={} argv=/usr/bin/tee -a mbox",
        directory.path().display()
    );
    (Postfix::start_with(&options, &agent), directory)
}

#[test]
fn no_header_keeps_a_plain_copy_out_of_its_mailbox() {
    let mut site = Site::<Slapd>::start_with(Slapd::start(10), "5m");
    let (mailbox, directory) = mailbox_server();
    let config = std::fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    let relay = site.relay.address().to_string();
    let config = config
        .replace("[inbound]", "[inbound]\nformat = \"copy\"")
        .replace(&relay, &mailbox.smtp_addr().to_string());
    let at = site.copyist.log_length();
    site.copyist.write_config(&config);
    site.copyist.hup();
    (site.copyist).wait_for_log(at, "configuration reloaded");
    let journal = "journal-3@archive.test";
    let orders = format!(
        "Delivered-To: {journal}\r\nTLS-Required: no\r\nX-MS-Journal-Report:\r\n{}",
        "Received: from a by b; Tue, 24 Nov 2026 03:32:21 +0000\r\n".repeat(40)
    );
    // The mailbox takes none of it as it is.
    let mut client = lab::Client::connect_from(OUTSIDE, mailbox.smtp_addr());
    for (orders, why) in [
        (&orders[..], "hopcount exceeded"),
        (
            &format!("Delivered-To: {journal}\r\n"),
            "mail forwarding loop",
        ),
    ] {
        let content = format!("{orders}{}", message("<raw@elsewhere.test>", "x"));
        client.send_message("a@elsewhere.test", &[journal], &content);
        mailbox.wait_for_log(why);
    }
    let content = format!("{orders}{}", message("<orders@elsewhere.test>", "x"));
    let to = user(JOURNALED);
    let reply = (site.client(OUTSIDE)).send_message("a@elsewhere.test", &[&to], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
    let copy = site.wait_until("copy", || {
        let text = std::fs::read_to_string(directory.path().join("mbox")).ok()?;
        (text.contains("<orders@elsewhere.test>") && text.contains(".dots")).then_some(text)
    });
    for kept in [
        "X-Copyist-Original-Delivered-To: journal-3@archive.test\n",
        "X-Copyist-Original-TLS-Required: no\n",
        "X-Copyist-Original-X-MS-Journal-Report:",
        "X-Copyist-Original-Received: from a by b; Tue, 24 Nov 2026 03:32:21 +0000\n",
    ] {
        assert!(copy.contains(kept), "no {kept} in {copy}");
    }
}
