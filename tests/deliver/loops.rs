//! Reports that come back: an archive that bounces everything, and what else could go round in
//! circles, with two real Postfix instances, the site's and the archive's. The site's is also the
//! relay, so each report passes Copyist again.
//!
//! `tests/proof/loops` runs the long form: `LOOPS_SECONDS` of traffic, `RATE` messages a second.

use crate::lab;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lab::{
    Copyist, DOMAIN, INSIDE, OUTSIDE, PATIENCE, Postfix, PostfixOptions, Rate, SmtpSink, Traffic,
    free_port, message, setting, wait, write,
};
use tempfile::TempDir;

/// Dan is journaled to the archive, and so is everything else; Eve writes by no rules.
const PEOPLE: &str = "dn: cn=dan,dc=example\ncn: dan\nmail: dan@example.test\n";

/// A site whose archive takes every report and sends it back.
struct LoopingSite {
    archive: Postfix,
    site: Postfix,
    copyist: Copyist,
    mail: SmtpSink,
    admin: u16,
    _mailboxes: SmtpSink,
    _routes: TempDir,
}

impl LoopingSite {
    /// `archive` are lines of the archive's `main.cf`.
    fn start(archive: &[&str]) -> LoopingSite {
        let mail = SmtpSink::start();
        // Behind the archive's MTA, which has taken the report by then.
        let mailboxes = SmtpSink::start_with(&["-f", "RCPT"]);
        let routes = lab::open_directory();
        let route = routes.path().join("transport");
        write(&route, "");
        let milter = format!("inet:127.0.0.1:{}", free_port());
        let site = Postfix::start(&PostfixOptions {
            milter: Some(milter.clone()),
            deliver_to: mail.address(),
            extra: vec![format!("transport_maps = texthash:{}", route.display())],
        });
        let mut lines = vec![
            "myhostname = mx.archive.test".to_owned(),
            format!(
                "transport_maps = inline:{{ {{archive.test = smtp:[127.0.0.1]:{}}} }}",
                mailboxes.address().port()
            ),
        ];
        lines.extend(archive.iter().map(|line| (*line).to_owned()));
        let archive = Postfix::start(&PostfixOptions {
            milter: None,
            deliver_to: site.smtp_addr(),
            extra: lines,
        });
        // Read when the first message comes.
        let SocketAddr::V4(address) = archive.smtp_addr() else {
            panic!("the lab speaks IPv4");
        };
        let line = format!("archive.test smtp:[{}]:{}\n", address.ip(), address.port());
        write(&route, line);
        let admin = free_port();
        let mut copyist = Copyist::install(&config(&milter, site.smtp_addr(), admin));
        write(&copyist.config_file().with_file_name("people.ldif"), PEOPLE);
        copyist.restart();
        LoopingSite {
            archive,
            site,
            copyist,
            mail,
            admin,
            _mailboxes: mailboxes,
            _routes: routes,
        }
    }

    fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).expect("it listens");
        let mut text = String::new();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .and_then(|()| stream.read_to_string(&mut text))
            .expect("it answers");
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    /// How many reports the archive has sent back.
    fn sent_back(&self) -> usize {
        let log = self.archive.log();
        log.lines()
            .filter(|line| {
                line.contains("to=<archive@archive.test>") && line.contains("status=bounced")
            })
            .count()
    }

    /// Waits until nothing is on its way anywhere.
    fn settle(&self) {
        let quiet = || {
            self.copyist.queued() as f64 == self.metric("copyist_spool_dead_letters")
                && self.archive.queue_length() == 0
                && self.site.queue_length() == 0
        };
        wait("all is delivered", PATIENCE, || quiet() && quiet());
    }
}

fn config(milter: &str, relay: SocketAddr, admin: u16) -> String {
    let sides = ["inbound", "outbound", "internal"].map(|side| {
        format!("[{side}]\njournal = [\"archive@archive.test\"]\njournal_ndr = \"ndr@{DOMAIN}\"\n")
    });
    format!(
        r#"
[organization]
domains = ["{DOMAIN}"]
trusted_networks = ["127.0.0.2/32"]
[directory]
urls = ["ldif:people.ldif"]
{}
[hook.milter]
listen = ["{milter}"]
[relay]
host = "{relay}"
tls = "none"
[delivery]
retry = {{ first = "1s", max = "2s" }}
[admin]
listen = "127.0.0.1:{admin}"
"#,
        sides.concat()
    )
}

#[test]
fn an_archive_that_bounces_everything_makes_no_loop() {
    let seconds: u64 = setting("LOOPS_SECONDS", 5);
    let per_second: f64 = setting("RATE", 4.0);
    let circle = LoopingSite::start(&[]);
    let started = Instant::now();
    let rate = Rate {
        per_second,
        clients: 4,
    };
    let traffic = Traffic::start(circle.site.smtp_addr(), rate);
    for sample in 1..=10 {
        let until = started + Duration::from_millis(seconds * 100 * sample);
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        println!(
            "{:6.1} s: {} reports sent back, {} items in the spool, {} MiB of memory",
            started.elapsed().as_secs_f64(),
            circle.sent_back(),
            circle.metric("copyist_spool_items"),
            circle.copyist.status("RssAnon") / 1024
        );
    }
    let tries = traffic.finish();
    circle.settle();
    let (back, messages) = (circle.sent_back(), tries.len());
    println!("{messages} messages in {seconds} s, {back} reports sent back");
    assert_eq!(
        back, messages,
        "a report for each message, and none for a bounce"
    );
    assert_eq!(circle.metric("copyist_bounces_total"), messages as f64);
    assert_eq!(
        circle.mail.count(),
        2 * messages,
        "each message and each bounce reached its mailbox"
    );
}

#[test]
fn bounces_are_recognized_by_header_or_from_trusted_archives() {
    let circle = LoopingSite::start(&["smtp_bind_address = 127.0.0.2", "bounce_size_limit = 1"]);
    let mut client = lab::Client::connect_from(OUTSIDE, circle.site.smtp_addr());
    let content = message("<one@elsewhere.test>", "x");
    assert_eq!(
        client
            .send_message("a@elsewhere.test", &[&format!("dan@{DOMAIN}")], &content)
            .code,
        250
    );
    circle.mail.wait_for(2, PATIENCE);
    circle.settle();
    assert_eq!(circle.sent_back(), 1);
    assert_eq!(circle.metric("copyist_bounces_total"), 1.0);
    let told = circle.copyist.command(&["queue", "bounces"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains(" failed 5.3.0 ") && told.contains("mx.archive.test"),
        "{told}"
    );
}

#[test]
fn a_loop_without_tokens_ends_at_a_limit_and_loses_nothing() {
    let rules = lab::open_directory();
    let ignored = rules.path().join("ignored");
    // What returns says nothing of what it is about.
    write(&ignored, "/copyist\\./ IGNORE\n/X-Copyist-/ IGNORE\n");
    let ignored = format!("regexp:{}", ignored.display());
    let circle = LoopingSite::start(&[
        "smtp_bind_address = 127.0.0.2",
        "internal_mail_filter_classes = bounce",
        &format!("nested_header_checks = {ignored}"),
        &format!("body_checks = {ignored}"),
    ]);
    let mut client = lab::Client::connect_from(OUTSIDE, circle.site.smtp_addr());
    let dan = format!("dan@{DOMAIN}");
    for messages in 1..=3 {
        let content = message(&format!("<{messages}@elsewhere.test>"), "x");
        let reply = client.send_message("a@elsewhere.test", &[&dan], &content);
        assert_eq!(reply.code, 250);
        let expected = LIMIT + messages;
        wait("the loop ends", PATIENCE, || circle.sent_back() >= expected);
        circle.settle();
        let dead = circle.metric("copyist_spool_dead_letters");
        println!(
            "{messages} messages: {} reports sent back, {dead} kept",
            circle.sent_back()
        );
        assert_eq!((circle.sent_back(), dead), (expected, messages as f64));
        assert_eq!(circle.mail.count(), messages + expected, "all mail passes");
    }
    assert_eq!(circle.metric("copyist_reports_collected_total"), 3.0);
    assert_eq!(circle.metric("copyist_bounces_total"), 0.0);
    assert!(
        circle
            .copyist
            .log()
            .contains("report limit exceeded: kept as dead letters, a digest will report them")
    );
}

/// Reports within an hour about mail to journal and NDR mailboxes.
const LIMIT: usize = 20;

/// The archive sends each report on to somebody who is journaled: not to whom its seal is for, so
/// it is mail.
#[test]
fn forwarding_a_journal_mailbox_to_a_person_does_not_loop() {
    let circle = LoopingSite::start(&[&format!(
        "virtual_alias_maps = inline:{{ {{archive@archive.test = dan@{DOMAIN}}} }}"
    )]);
    let mut client = lab::Client::connect_from(OUTSIDE, circle.site.smtp_addr());
    let content = message("<one@elsewhere.test>", "x");
    let reply = client.send_message("a@elsewhere.test", &[&format!("dan@{DOMAIN}")], &content);
    assert_eq!(reply.code, 250);
    // The message, and each report as it is forwarded; that of the last is kept.
    circle.mail.wait_for(1 + 1 + LIMIT, PATIENCE);
    circle.settle();
    assert_eq!(circle.mail.count(), 1 + 1 + LIMIT);
    assert_eq!(circle.metric("copyist_spool_dead_letters"), 1.0);
    assert_eq!(circle.metric("copyist_reports_collected_total"), 1.0);
    // Mail that has nothing to do with it is journaled as ever.
    let other = format!("bob@{DOMAIN}");
    let reply = client.send_message(
        "a@elsewhere.test",
        &[&other],
        &message("<two@elsewhere.test>", "y"),
    );
    assert_eq!(reply.code, 250);
    circle.mail.wait_for(1 + 1 + LIMIT + 2, PATIENCE);
}

/// Returns the report about a message that passes Copyist again behind a relay with these lines,
/// and Copyist's log.
fn passed_again(relay: &[&str], content: &str) -> (String, String) {
    let mail = SmtpSink::start_keeping();
    let milter = format!("inet:127.0.0.1:{}", free_port());
    let site = Postfix::start(&PostfixOptions {
        milter: Some(milter.clone()),
        deliver_to: mail.address(),
        extra: Vec::new(),
    });
    let relay = Postfix::start(&PostfixOptions {
        milter: None,
        deliver_to: site.smtp_addr(),
        extra: relay.iter().map(|&line| line.to_owned()).collect(),
    });
    let mut copyist = Copyist::install(&config(&milter, relay.smtp_addr(), free_port()));
    write(&copyist.config_file().with_file_name("people.ldif"), PEOPLE);
    copyist.restart();
    let mut client = lab::Client::connect_from(OUTSIDE, site.smtp_addr());
    let reply = client.send_message("a@elsewhere.test", &[&format!("dan@{DOMAIN}")], content);
    assert_eq!(reply.code, 250, "{reply:?}");
    mail.wait_for(2, PATIENCE);
    // smtp-sink does not say when a file is whole.
    let is_report =
        |text: &String| text.contains("X-MS-Journal-Report:") && text.trim_end().ends_with("--");
    wait("the report is whole", PATIENCE, || {
        mail.messages().iter().any(is_report)
    });
    let report = mail.messages().into_iter().find(is_report);
    (report.expect("it is there"), copyist.log())
}

fn passed_as_it_was(log: &str) {
    assert_eq!(log.matches("report in transit").count(), 1, "{log}");
    assert!(
        !log.contains("changed") && !log.contains("seal not accepted"),
        "{log}"
    );
}

#[test]
fn a_report_that_an_mta_encodes_anew_is_known_as_it_was() {
    // A relay that hears of no 8BITMIME, and so makes 7 bits of 8.
    let relay = [
        "smtp_never_send_ehlo = yes",
        "always_add_missing_headers = yes",
    ];
    let content = message("<eight@elsewhere.test>", "gr\u{fc}n und blau = bunt");
    let (report, log) = passed_again(&relay, &content);
    assert!(report.contains("gr=C3=BCn und blau =3D bunt"), "{report}");
    passed_as_it_was(&log);
}

#[test]
fn a_relay_without_8bitmime_gets_reports_about_7_bit_mail() {
    let relay = ["smtpd_discard_ehlo_keywords = 8bitmime"];
    let content = message("<seven@elsewhere.test>", "=?utf-8?Q?gr=C3=BCn?=");
    let (report, log) = passed_again(&relay, &content);
    assert!(report.is_ascii(), "{report}");
    assert!(report.contains("\nSubject: gr=C3=BCn\n"), "{report}");
    assert!(
        report.contains("\nRecipient: dan@example.test\n"),
        "{report}"
    );
    passed_as_it_was(&log);
}

/// A vacation message about what has this Message-ID.
fn vacation(id: &str, about: &str) -> String {
    format!(
        "Auto-Submitted: auto-replied\r\nIn-Reply-To: {about}\r\n{}",
        message(id, "away")
    )
}

#[test]
fn only_genuine_notices_to_the_right_mailboxes_are_exempt() {
    let circle = LoopingSite::start(&[]);
    let mut inside = lab::Client::connect_from(INSIDE, circle.site.smtp_addr());
    let (dan, ndr) = (format!("dan@{DOMAIN}"), format!("ndr@{DOMAIN}"));
    let (to_dan, to_ndr, to_both) = ([dan.as_str()], [ndr.as_str()], [ndr.as_str(), dan.as_str()]);
    let forged = "<copyist.aaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaa@mx.example.test>".to_owned();
    assert_eq!(
        inside
            .send_message("", &to_dan, &vacation("<0@x.test>", &forged))
            .code,
        250
    );
    circle.settle();
    let log = circle.site.log();
    let genuine = log
        .split("message-id=")
        .find(|text| text.starts_with("<copyist."));
    let genuine = genuine
        .and_then(|text| text.lines().next())
        .expect("a report")
        .to_owned();
    let mut journaled = 1;
    for (n, (about, sender, to, is_journaled)) in [
        (&forged, "", &to_ndr[..], true),
        (&forged, "", &to_both, true),
        (&genuine, "", &to_dan, true),
        (&genuine, "", &to_both, true),
        (&genuine, "", &to_ndr, false),
        (&genuine, "robot@example.test", &to_ndr, false),
        (
            &genuine,
            "robot@example.test",
            &["archive@archive.test"],
            // Not itself: it comes back as well, to the robot, and that is mail.
            true,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let content = vacation(&format!("<{n}@elsewhere.test>"), about);
        let reply = inside.send_message(sender, to, &content);
        assert_eq!(reply.code, 250, "{n}: {reply:?}");
        circle.settle();
        journaled += usize::from(is_journaled);
        let of_reports = circle.site.log().matches("message-id=<copyist.").count();
        assert_eq!(of_reports, journaled, "{n}: {about} to {to:?}");
    }
    let name = "copyist_notices_total{kind=\"auto-reply\"}";
    assert_eq!(circle.metric(name), 4.0, "{}", circle.copyist.log());
    // What a person answers is journaled like other mail.
    let answer = vacation("<answer@elsewhere.test>", &genuine).replace("auto-replied", "no");
    assert_eq!(inside.send_message(&dan, &to_ndr, &answer).code, 250);
    circle.settle();
    let of_reports = circle.site.log().matches("message-id=<copyist.").count();
    assert_eq!(of_reports, journaled + 1);
    // From outside a forged one is refused by the guard.
    let mut outside = lab::Client::connect_from(OUTSIDE, circle.site.smtp_addr());
    for (about, code) in [(&forged, 550), (&genuine, 250)] {
        let reply = outside.send_message("", &to_ndr, &vacation("<outside@x.test>", about));
        assert_eq!(reply.code, code, "{about}");
    }
}
