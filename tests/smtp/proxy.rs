//! The SMTP listener: what passes, replies of the next hop, and what is queued then.

use crate::lab;
mod connection_limits;
mod replies;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use lab::{
    AcceptedMessage, Chance, Client, ListenerOptions, ListenerSite, NextHop, OUTSIDE, PATIENCE,
    Report, ServerBehavior, SmtpSink, message, setting,
};

const PEOPLE: &str = "dn: cn=dan,dc=corp\ncn: dan\nmail: dan@corp.example\njournal: journal@archive.test\n\n\
                      dn: cn=eve,dc=corp\ncn: eve\nmail: eve@corp.example\n";

/// The service in front of a next server.
struct ProxySite {
    agent: ListenerSite,
    next: NextHop,
}

impl ProxySite {
    /// `listener` are lines of `[[hook.smtp]]`, `lines` of the rest.
    fn start(listener: &str, lines: &str) -> ProxySite {
        ProxySite::before(NextHop::start(), listener, lines)
    }

    fn before(next: NextHop, listener: &str, lines: &str) -> ProxySite {
        let options = ListenerOptions {
            listen: None,
            next_hop: next.address(),
            attributes: ["journal"; 3],
            people: PEOPLE,
            listener: &format!("next_hop_timeout = \"2s\"\n{listener}"),
            lines: &format!("[delivery]\nretry = {{ first = \"1s\", max = \"1s\" }}\n{lines}"),
        };
        let agent = ListenerSite::start(SmtpSink::start_keeping(), &options);
        ProxySite { agent, next }
    }

    fn client(&self) -> Client {
        Client::connect_from(OUTSIDE, self.agent.address)
    }

    /// Sends a message to Dan, who is journaled; gives the answer's code.
    fn send(&self, id: &str) -> u16 {
        let content = message(id, "text");
        let sent = self
            .client()
            .send_message("a@elsewhere.test", &["dan@corp.example"], &content);
        sent.code
    }
}

/// A message that begins with no dot as it stands in DATA, with its end (RFC 5321 section 4.5.2).
fn on_the_wire(content: &str) -> String {
    let stuffed = content.replace("\r\n.", "\r\n..");
    let end = if stuffed.ends_with("\r\n") {
        ".\r\n"
    } else {
        "\r\n.\r\n"
    };
    stuffed + end
}

/// Whether a report says that nobody knows what became of its message.
fn is_unsure(report: &Report) -> bool {
    report.text.contains("\nX-Copyist-Fate: unknown")
}

#[test]
fn a_path_without_brackets_is_passed_on_with_them() {
    let site = ProxySite::start("", "");
    let mut client = site.client();
    for line in [
        "MAIL FROM:a@elsewhere.test SIZE=99",
        "rcpt to: eve@corp.example",
        "RCPT TO:dan@corp.example",
    ] {
        assert_eq!(client.say(line).code, 250, "{line}");
    }
    assert_eq!(client.say("RCPT TO:a@b,dan@corp.example").code, 500);
    assert_eq!(client.say("DATA").code, 354);
    assert_eq!(client.say(&(message("<1@x>", "text") + ".")).code, 250);
    assert_eq!(
        site.next.taken()[0].envelope,
        [
            "MAIL FROM:<a@elsewhere.test> SIZE=99",
            "rcpt to:<eve@corp.example>",
            "RCPT TO:<dan@corp.example>"
        ]
    );
    assert_eq!(site.agent.reports().len(), 1);
}

#[test]
fn a_message_passes_as_it_was_said_and_its_report_follows() {
    let site = ProxySite::start("", "");
    let mut client = site.client();
    assert_eq!(
        client
            .say("mail from:<A.b+c@Elsewhere.test>  SIZE=99 BODY=8BITMIME")
            .text,
        "2.1.0 sender fine"
    );
    client.say("RCPT TO:<Dan@corp.example> NOTIFY=NEVER ORCPT=rfc822;Dan@corp.example");
    client.say("Rcpt To:<eve@CORP.example>");
    assert_eq!(client.say("DATA").code, 354);
    let content = message(
        "<verbatim@elsewhere.test>",
        "..dots\r\n.\tand tabs \r\n\u{fc}",
    );
    let answer = client.content(&content);
    assert_eq!(
        (answer.code, answer.text.as_str()),
        (250, "2.0.0 queued as it came")
    );
    client.quit();
    let taken = site.next.taken();
    assert_eq!(
        taken[0].envelope,
        [
            "mail from:<A.b+c@Elsewhere.test>  SIZE=99 BODY=8BITMIME",
            "RCPT TO:<Dan@corp.example> NOTIFY=NEVER ORCPT=rfc822;Dan@corp.example",
            "Rcpt To:<eve@CORP.example>"
        ]
    );
    assert_eq!(
        String::from_utf8_lossy(&taken[0].data),
        on_the_wire(&content)
    );
    let reports = site.agent.reports();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].about, "<verbatim@elsewhere.test>");
    assert!(!is_unsure(&reports[0]));
}

/// Before the queue, and behind it.
const MODES: [&str; 2] = ["mode = \"before-queue\"", "mode = \"after-queue\""];

/// The outcome of a message and its report, for each behavior of the next hop.
#[test]
fn the_next_hop_s_reply_decides_about_the_report() {
    for mode in MODES {
        let site = ProxySite::start(&format!("{mode}\nnext_hop_data_done_timeout = \"2s\""), "");
        // The answer's code, whether the server has it, whether there is a report, and whether that
        // is unsure.
        for (mood, code, is_taken, has_report, unsure) in [
            (ServerBehavior::Good, 250, true, true, false),
            (ServerBehavior::RefusesMessage, 550, false, false, false),
            (ServerBehavior::DefersMessage, 451, false, false, false),
            (ServerBehavior::DefersData, 451, false, false, false),
            (ServerBehavior::HangsAtData, 451, false, false, false),
            // It may have read to the end.
            (ServerBehavior::ClosesInData, 451, false, true, true),
            (ServerBehavior::Garbage, 451, false, true, true),
            (ServerBehavior::Hangs, 451, false, true, true),
            (ServerBehavior::TakesSilently, 451, true, true, true),
            (ServerBehavior::Good, 250, true, true, false),
        ] {
            site.next.forget();
            site.next.be(mood);
            let id = format!("<{mood:?}@elsewhere.test>");
            assert_eq!(site.send(&id), code, "{mode} {mood:?}");
            assert_eq!(
                site.next.taken().len(),
                usize::from(is_taken),
                "{mode} {mood:?}"
            );
            let reports = site.agent.reports();
            let about: Vec<&str> = reports.iter().map(|report| report.about.as_str()).collect();
            assert_eq!(
                about,
                [id.as_str()].repeat(usize::from(has_report)),
                "{mode} {mood:?}"
            );
            for report in &reports {
                assert_eq!(is_unsure(report), unsure, "{mode} {mood:?}");
            }
        }
    }
}

#[test]
fn a_message_whose_end_was_not_sent_has_no_report() {
    // More than fits on the way between two sockets.
    let large = format!(
        "Message-ID: <large@elsewhere.test>\r\n\r\n{}",
        "0123456789\r\n".repeat(2_000_000)
    );
    for mode in MODES {
        let site = ProxySite::start(mode, "");
        site.next.be(ServerBehavior::ClosesInData);
        let answer = site
            .client()
            .send_message("a@elsewhere.test", &["dan@corp.example"], &large);
        assert_eq!(answer.code, 451, "{mode}: {answer:?}");
        assert_eq!(site.agent.copyist.queued(), 0);
        assert_eq!(site.agent.relay.count(), 0);
    }
}

#[test]
fn a_recipient_rejected_by_the_next_hop_is_not_journaled() {
    for mode in MODES {
        let site = ProxySite::start(mode, "");
        site.next.be(ServerBehavior::RefusesSome);
        let mut client = site.client();
        client.say("MAIL FROM:<a@elsewhere.test>");
        assert_eq!(
            client.say("RCPT TO:<nobody@corp.example>").text,
            "5.1.1 not here"
        );
        assert_eq!(client.say("DATA").code, 554, "there is no recipient");
        client.say("RCPT TO:<dan@corp.example>");
        client.say("DATA");
        let content = message("<some@elsewhere.test>", "x");
        assert_eq!(client.content(&content).code, 250);
        let reports = site.agent.reports();
        assert!(!reports[0].text.contains("nobody@"), "{}", reports[0].text);
    }
}

/// The service is killed while the next server has the message and has not answered.
#[test]
fn a_report_reserved_by_a_killed_service_is_sent_with_a_note() {
    let mut site = ProxySite::start("", "");
    site.next.be(ServerBehavior::Hangs);
    let mut client = site.client();
    client.say("MAIL FROM:<a@elsewhere.test>");
    client.say("RCPT TO:<dan@corp.example>");
    client.say("DATA");
    let sending =
        std::thread::spawn(move || client.try_content(&message("<held@elsewhere.test>", "x")));
    lab::wait("it is held", PATIENCE, || site.agent.copyist.queued() == 1);
    assert_eq!(site.agent.relay.count(), 0, "it waits");
    site.agent.copyist.kill9();
    assert!(sending.join().expect("sent").is_err(), "nobody said yes");
    site.agent.copyist.restart();
    let reports = site.agent.reports();
    assert_eq!(reports[0].about, "<held@elsewhere.test>");
    assert!(is_unsure(&reports[0]), "{}", reports[0].text);
}

const TEXTS: &str =
    "[outbound.append]\ntext = \"for outside\"\n[internal.append]\ntext = \"for inside\"\n";

fn send_to_both(site: &ProxySite) -> u16 {
    let mut client = Client::connect_from(lab::INSIDE, site.agent.address);
    let to = ["dan@corp.example", "x@elsewhere.test", "eve@corp.example"];
    client
        .send_message(
            "dan@corp.example",
            &to,
            &message("<split@corp.example>", "text"),
        )
        .code
}

#[test]
fn each_recipient_class_gets_its_text_in_its_own_transaction() {
    let site = ProxySite::start("allow_clients = [\"127.0.0.0/8\"]", TEXTS);
    assert_eq!(send_to_both(&site), 250);
    let taken = site.next.taken();
    assert_eq!(taken.len(), 2, "{taken:?}");
    for one in &taken {
        let text = String::from_utf8_lossy(&one.data).into_owned();
        let inside = text.contains("for inside");
        assert_ne!(inside, text.contains("for outside"), "{text}");
        assert!(!text.contains("X-Copyist-"), "{text}");
        let recipients = one.envelope[1..].join(" ");
        assert_eq!(recipients.contains("elsewhere"), !inside, "{recipients}");
        assert_eq!(one.envelope.len(), if inside { 3 } else { 2 });
    }
    // One for the outbound copy of the sender, one for the internal one; no version is queued.
    let reports = site.agent.reports();
    assert!(
        reports
            .iter()
            .all(|report| report.about == "<split@corp.example>" && !is_unsure(report))
    );
}

#[test]
fn a_version_the_next_hop_defers_is_delivered_by_the_relay() {
    let site = ProxySite::start("allow_clients = [\"127.0.0.0/8\"]", TEXTS);
    site.next.be(ServerBehavior::TakesOne);
    assert_eq!(send_to_both(&site), 250);
    assert_eq!(site.next.taken().len(), 1);
    lab::wait("the queue is empty", PATIENCE, || {
        site.agent.copyist.queued() == 0
    });
    let mut versions = Vec::new();
    let is_report = |text: &str| text.contains("X-MS-Journal-Report");
    site.agent.relay.harvest(
        |_| true,
        |text| versions.extend((!is_report(text)).then(|| text.to_owned())),
    );
    let first = String::from_utf8_lossy(&site.next.taken()[0].data).into_owned();
    let (rest, to) = match first.contains("for inside") {
        true => ("for outside", "<x@elsewhere.test>"),
        false => ("for inside", "<eve@corp.example>"),
    };
    assert_eq!(versions.len(), 1, "{versions:?}");
    assert!(versions[0].contains(rest), "{versions:?}");
    assert!(
        versions[0].contains(&format!("X-Rcpt-Args: {to}")),
        "{versions:?}"
    );
}

#[test]
fn after_a_queue_nothing_is_rejected_permanently() {
    let lines = "[limits]\nmessage_size = \"20KiB\"\n";
    for (mode, class) in [("before-queue", 5), ("after-queue", 4)] {
        let site = ProxySite::start(&format!("mode = \"{mode}\""), lines);
        let mut client = site.client();
        client.say("MAIL FROM:<a@elsewhere.test>");
        assert_eq!(
            client.say("RCPT TO:<ndr@corp.example>").code / 100,
            class,
            "{mode}: a guarded mailbox"
        );
        client.say("RSET");
        let large = message("<large@elsewhere.test>", &"x".repeat(30_000));
        let answer = client.send_message("a@elsewhere.test", &["dan@corp.example"], &large);
        assert_eq!(answer.code / 100, class, "{mode}: {answer:?}");
        assert_eq!(site.send("<after@elsewhere.test>"), 250);
        assert_eq!(site.next.taken().len(), 1);
        assert_eq!(site.agent.reports().len(), 1);
    }
}

/// A report as SMTP sends it: the sink and the relay wrote something in front of it.
fn as_sent(report: &Report) -> String {
    let (_, sent) = report.text.split_once("\nFrom: ").expect("a header");
    format!("From: {sent}").replace('\n', "\r\n")
}

#[test]
fn a_forged_seal_is_removed_and_the_message_journaled() {
    let site = ProxySite::start("", "");
    let forged = "X-Copyist-Seal: v=2; k=r; id=aaaaaaaaaaaaaaaa; to=AAAAAAAAAAAAAAAA; h=AA; b=AA\r\n\
         X-Copyist-Item: aaaaaaaaaaaaaaaa\r\n";
    let content = format!("{forged}{}", message("<forged@elsewhere.test>", "x"));
    // From the address that our own reports come from, too.
    let answer = site
        .client()
        .send_message("ndr@corp.example", &["dan@corp.example"], &content);
    assert_eq!(answer.code, 250, "{answer:?}");
    let reports = site.agent.reports();
    assert_eq!(reports[0].original, content.replace("\r\n", "\n"));
    let taken = site.next.taken();
    let passed = String::from_utf8_lossy(&taken[0].data);
    assert_eq!(
        passed,
        on_the_wire(&message("<forged@elsewhere.test>", "x"))
    );
}

#[test]
fn our_own_report_passes_only_with_its_original_body() {
    let mut site = ProxySite::start("", "");
    // The journal mailbox is journaled itself: what passes unjournaled passes as our own.
    let people = PEOPLE.replace("journal: journal@archive.test", "journal: eve@corp.example");
    let people = format!("{people}journal: journal@archive.test\n");
    let file = site
        .agent
        .copyist
        .config_file()
        .with_file_name("people.ldif");
    lab::write(&file, &people);
    let config = std::fs::read_to_string(site.agent.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    let domains = "domains = [\"corp.example\"]";
    let with_mailbox = format!("{domains}\njournal_mailboxes = [\"eve@corp.example\"]");
    site.agent
        .copyist
        .write_config(&config.replace(domains, &with_mailbox));
    site.agent.copyist.restart();
    assert_eq!(site.send("<first@elsewhere.test>"), 250);
    let reports = site.agent.reports();
    let (sender, sent) = (&reports[0].sender, as_sent(&reports[0]));
    site.next.forget();
    let send = |content: &str| {
        let sender = sender.trim_matches(['<', '>']);
        site.client()
            .send_message(sender, &["eve@corp.example"], content)
    };
    assert_eq!(send(&sent).code, 250);
    assert!(site.agent.reports().is_empty(), "it was journaled");
    let taken = site.next.taken();
    let passed = String::from_utf8_lossy(&taken[0].data);
    assert_eq!(passed, on_the_wire(&sent));
    assert_eq!(send(&format!("{sent}and more\r\n")).code, 550);
    assert_eq!(site.next.taken().len(), 1);
}

#[test]
fn a_message_that_goes_round_is_journaled_and_refused() {
    for (mode, class) in MODES.into_iter().zip([5, 4]) {
        let site = ProxySite::start(mode, "[limits]\nhops = 20\n");
        let received = "Received: from a by b; Tue, 24 Nov 2026 03:32:21 +0000\r\n".repeat(21);
        let content = format!("{received}{}", message("<round@elsewhere.test>", "x"));
        let answer =
            site.client()
                .send_message("a@elsewhere.test", &["dan@corp.example"], &content);
        assert_eq!(answer.code / 100, class, "{mode}: {answer:?}");
        assert!(
            answer.text.starts_with(&format!("{class}.4.6")),
            "{answer:?}"
        );
        let reports = site.agent.reports();
        assert_eq!(reports[0].original, content.replace("\r\n", "\n"));
        assert!(site.next.taken().is_empty(), "{mode}");
    }
}

/// Everything a client says at once, and all that comes back.
fn played(server: SocketAddr, wire: &[u8]) -> String {
    let mut stream = TcpStream::connect(server).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(wire).expect("taken");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("answers");
    said
}

#[test]
fn bare_line_breaks_are_rejected_or_fixed_but_never_end_data() {
    let smuggled = "EHLO c\r\nMAIL FROM:<a@elsewhere.test>\r\nRCPT TO:<dan@corp.example>\r\nDATA\r\nMessage-ID: <bare@e>\r\n\r\n\
                    one\n.\nMAIL FROM:<smuggled@corp.example>\r\n\n.\r\nRCPT TO:<x@y>\r.\r\r\n.\r\nQUIT\r\n";
    for (listener, codes, taken) in [
        ("", "550", 0),
        ("bare_newline = \"normalize\"", "250", 1),
        ("mode = \"after-queue\"", "250", 1),
        (
            "mode = \"after-queue\"\nbare_newline = \"reject\"",
            "450",
            0,
        ),
    ] {
        let site = ProxySite::start(listener, "");
        let said = played(site.agent.address, smuggled.as_bytes());
        let last = said.lines().rev().nth(1).unwrap_or_default();
        assert!(last.starts_with(codes), "{listener}: {said}");
        assert_eq!(site.next.taken().len(), taken, "{listener}");
        let commands = site.next.commands();
        assert!(
            !commands.iter().any(|line| line.contains("smuggled")),
            "{commands:?}"
        );
        for one in site.next.taken() {
            let text = String::from_utf8(one.data).expect("ASCII");
            let lines: Vec<&str> = text.split("\r\n").collect();
            assert!(
                lines.iter().all(|line| !line.contains(['\r', '\n'])),
                "{lines:?}"
            );
            assert_eq!(
                lines.iter().filter(|line| **line == ".").count(),
                1,
                "{lines:?}"
            );
        }
    }
}

#[test]
fn a_bare_line_break_in_a_chunk_is_refused_wherever_it_stands() {
    let site = ProxySite::start("", "");
    for (chunks, code) in [
        (["a\r\nb", "\r\n"], "250"),
        (["a\r", "\nb\r\n"], "250"),
        (["a\nb", "\r\n"], "550"),
        (["a\r", "b\r\n"], "550"),
        (["a\r\n", "b\r"], "550"),
    ] {
        let [first, last] = chunks;
        let wire = format!(
            "EHLO c\r\nMAIL FROM:<a@elsewhere.test>\r\nRCPT TO:<dan@corp.example>\r\nBDAT {}\r\n{first}BDAT {} LAST\r\n{last}QUIT\r\n",
            first.len(),
            last.len()
        );
        let said = played(site.agent.address, wire.as_bytes());
        let answer = said.lines().rev().nth(1).unwrap_or_default();
        assert!(answer.starts_with(code), "{chunks:?}: {said}");
    }
    assert_eq!(site.next.taken().len(), 2);
}

/// A transaction as some client might say it.
fn transaction(chance: &mut Chance, number: usize) -> Vec<u8> {
    let pick = |chance: &mut Chance, of: &[&str]| of[chance.below(of.len())].to_owned();
    let mut wire = Vec::new();
    let verb = pick(chance, &["MAIL FROM:", "mail from:", "MAIL FROM: "]);
    let sender = pick(
        chance,
        &[
            "<>",
            "<a@elsewhere.test>",
            "<\"q. u\"@elsewhere.test>",
            "<A+b=c@sub.elsewhere.test>",
        ],
    );
    let params = pick(
        chance,
        &[
            "",
            " SIZE=100",
            " BODY=8BITMIME",
            " RET=HDRS ENVID=x+2By",
            " SMTPUTF8",
            "  AUTH=<>",
        ],
    );
    wire.extend(format!("{verb}{sender}{params}\r\n").bytes());
    for _ in 0..1 + chance.below(4) {
        let to = pick(
            chance,
            &[
                "dan@corp.example",
                "eve@corp.example",
                "no.such@corp.example",
                "x@elsewhere.test",
                "\"D.a\\\"n\"@corp.example",
            ],
        );
        let params = pick(
            chance,
            &["", " NOTIFY=SUCCESS,FAILURE", " ORCPT=rfc822;a+2Bb@c"],
        );
        wire.extend(format!("RCPT TO:<{to}>{params}\r\n").bytes());
    }
    let mut content =
        format!("Message-ID: <{number}@generated.test>\r\nSubject: {number}\r\n\r\n").into_bytes();
    for _ in 0..chance.below(40) {
        let line = pick(
            chance,
            &[
                "",
                ".",
                "..",
                ". ",
                ".x",
                "text",
                "\u{fc}\u{1f600}",
                "a\tb",
                "\0",
                "From a",
            ],
        );
        content.extend(line.bytes());
        if chance.below(20) == 0 {
            content.extend((0..chance.below(3000)).map(|n| b"abc \xe4.="[n % 7]));
        }
        content.extend(b"\r\n");
    }
    if chance.below(4) == 0 {
        let split = chance.below(content.len());
        wire.extend(format!("BDAT {split}\r\n").bytes());
        wire.extend(&content[..split]);
        wire.extend(format!("BDAT {} LAST\r\n", content.len() - split).bytes());
        wire.extend(&content[split..]);
    } else {
        wire.extend(b"DATA\r\n");
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b".") {
                wire.push(b'.');
            }
            wire.extend(line);
        }
        wire.extend(b".\r\n");
    }
    wire
}

/// A message in chunks is one chunk behind us: what it says is the same.
fn joined(taken: Vec<AcceptedMessage>) -> Vec<AcceptedMessage> {
    let mut joined: Vec<AcceptedMessage> = Vec::new();
    for one in taken {
        match joined.last_mut() {
            Some(last) if one.envelope.is_empty() => last.data.extend(one.data),
            _ => joined.push(one),
        }
    }
    joined
}

/// `TRANSACTIONS=10000` is the long form.
#[test]
fn transactions_reach_the_next_hop_unchanged() {
    let mut chance = Chance::from_environment();
    let count = setting("TRANSACTIONS", 300);
    let wires: Vec<Vec<u8>> = (0..count)
        .map(|number| transaction(&mut chance, number))
        .collect();
    let site = ProxySite::start("", "");
    let direct = NextHop::start();
    // Some at a time on each connection: pipelined, as clients do.
    for some in wires.chunks(10) {
        let wire = [&b"EHLO client.test\r\n"[..], &some.concat(), b"QUIT\r\n"].concat();
        played(direct.address(), &wire);
        played(site.agent.address, &wire);
    }
    let (straight, through) = (joined(direct.taken()), joined(site.next.taken()));
    assert_eq!(straight.len(), count);
    assert_eq!(through.len(), count);
    for (number, (one, other)) in straight.iter().zip(&through).enumerate() {
        assert_eq!(one.envelope, other.envelope, "{number}");
        assert_eq!(
            String::from_utf8_lossy(&one.data),
            String::from_utf8_lossy(&other.data),
            "{number}"
        );
    }
}

/// Returns the directions of journaled messages, from the log.
fn directions(site: &ProxySite) -> Vec<String> {
    let reports = site.agent.reports();
    let reasons = reports.iter().map(|report| {
        let reason = report
            .text
            .lines()
            .find(|line| line.starts_with("X-Copyist-Reason: "));
        let reason = reason
            .unwrap_or_default()
            .split(": ")
            .nth(2)
            .unwrap_or_default();
        reason.split('.').next().unwrap_or_default().to_owned()
    });
    reasons.collect()
}

fn to_dan(client: &mut Client, id: &str) -> u16 {
    client
        .send_message("dan@corp.example", &["dan@corp.example"], &message(id, "x"))
        .code
}

#[test]
fn a_client_authenticated_by_the_next_hop_is_internal() {
    let site = ProxySite::start("", "");
    let mut client = site.client();
    assert_eq!(to_dan(&mut client, "<before@corp.example>"), 250);
    assert_eq!(directions(&site), ["inbound"]);
    assert_eq!(client.say("AUTH LOGIN").text, "VXNlcm5hbWU6");
    client.say("ZGFu");
    assert_eq!(client.say("c2VjcmV0").code, 235);
    assert_eq!(to_dan(&mut client, "<after@corp.example>"), 250);
    assert_eq!(directions(&site), ["internal"]);
    assert_eq!(
        client.say("AUTH PLAIN AGRhbgBzZWNyZXQ=").code,
        503,
        "once is enough"
    );
    assert!(
        !site.agent.copyist.log().contains("c2VjcmV0"),
        "no password is logged"
    );
    client.quit();
    // Nobody else goes on with a connection that somebody has logged in on.
    let mut other = site.client();
    assert_eq!(to_dan(&mut other, "<other@corp.example>"), 250);
    assert_eq!(directions(&site), ["inbound"]);
    let commands = site.next.commands();
    assert_eq!(
        commands.iter().filter(|line| *line == "QUIT").count(),
        1,
        "{commands:?}"
    );
}

#[test]
fn only_trusted_servers_may_forward_client_identity() {
    let site = ProxySite::start("", "");
    let mut client = site.client();
    client.say("XFORWARD NAME=mx.elsewhere.test ADDR=192.0.2.1 SOURCE=REMOTE");
    assert_eq!(client.say("XFORWARD IDENT=4QUEUE").code, 250);
    assert_eq!(to_dan(&mut client, "<forwarded@elsewhere.test>"), 250);
    assert_eq!(directions(&site), ["inbound"]);
    site.agent.copyist.wait_for_log(0, "4QUEUE");
    client.say("XFORWARD ADDR=127.0.0.2");
    assert_eq!(to_dan(&mut client, "<trusted@corp.example>"), 250);
    assert_eq!(directions(&site), ["internal"], "a trusted network");
    assert_eq!(to_dan(&mut client, "<again@corp.example>"), 250);
    assert_eq!(directions(&site), ["inbound"], "it held for one message");

    let site = ProxySite::start("allow_xclient = []", "");
    let mut client = site.client();
    assert_eq!(client.say("XFORWARD ADDR=127.0.0.2").code, 550);
    assert_eq!(client.say("XCLIENT LOGIN=dan").code, 550);
    assert_eq!(to_dan(&mut client, "<liar@corp.example>"), 250);
    assert_eq!(directions(&site), ["inbound"]);
}

#[test]
fn a_listener_for_one_side_knows_no_other() {
    for (direction, expected) in [("inbound", "inbound"), ("outbound", "internal")] {
        let site = ProxySite::start(&format!("direction = \"{direction}\""), "");
        assert_eq!(to_dan(&mut site.client(), "<side@corp.example>"), 250);
        assert_eq!(directions(&site), [expected]);
    }
}

#[test]
fn a_load_balancer_says_whose_connection_it_passes_on() {
    let site = ProxySite::start("proxy_protocol = true", "");
    let wire = "PROXY TCP4 127.0.0.2 192.0.2.1 4711 25\r\nEHLO c\r\nMAIL FROM:<dan@corp.example>\r\nRCPT TO:<dan@corp.example>\r\n\
                DATA\r\nMessage-ID: <proxied@corp.example>\r\n\r\nx\r\n.\r\nQUIT\r\n";
    assert!(played(site.agent.address, wire.as_bytes()).contains("queued as it came"));
    assert_eq!(directions(&site), ["internal"]);
    let mut stream = TcpStream::connect(site.agent.address).expect("it listens");
    stream.write_all(b"EHLO c\r\nQUIT\r\n").expect("taken");
    let mut said = String::new();
    // It is closed with what was sent unread, which TCP tells as an error.
    let _ = stream.read_to_string(&mut said);
    assert_eq!(said, "", "without a word");
}

#[test]
fn next_hop_connections_are_reused_and_replaced_when_closed() {
    let site = ProxySite::start("", "");
    for n in 0..3 {
        let mut client = site.client();
        assert_eq!(to_dan(&mut client, &format!("<{n}@corp.example>")), 250);
        client.quit();
    }
    let commands = site.next.commands();
    assert_eq!(
        commands
            .iter()
            .filter(|line| line.starts_with("EHLO"))
            .count(),
        3
    );
    assert!(!commands.contains(&"QUIT".to_owned()), "{commands:?}");
    assert_eq!(site.next.connections(), 1);
    // Nobody is taken for the client before.
    let said = played(
        site.agent.address,
        b"MAIL FROM:<a@elsewhere.test>\r\nQUIT\r\n",
    );
    assert!(said.contains("503 5.5.1 Send EHLO first"), "{said}");
    site.next.hang_up();
    assert_eq!(to_dan(&mut site.client(), "<new@corp.example>"), 250);
    assert_eq!(site.next.connections(), 2);
}

#[test]
fn nothing_is_taken_while_the_next_server_is_away() {
    let site = ProxySite::before(NextHop::nowhere(), "", "");
    let said = played(site.agent.address, b"");
    assert!(said.starts_with("421 4.4.1 "), "{said}");
    site.agent.copyist.wait_for_log(0, "cannot be reached");
}
