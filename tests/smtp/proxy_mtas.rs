//! The SMTP listener between real mail servers, on both sides of a queue, and behind a client that
//! logs in.

use crate::lab;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;

use lab::{
    Certificates, Client, INSIDE, ListenerOptions, ListenerSite, NextHop, OUTSIDE, PATIENCE, Ports,
    Postfix, PostfixOptions, Report, SmtpSink, Unpacked, free_port, message, need,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Each direction has an archive of its own, so that a report tells its direction by where it goes.
const PEOPLE: &str = "dn: cn=dan,dc=corp\ncn: dan\nmail: dan@corp.example\nin: in@archive.test\n\
                      out: out@archive.test\nintern: intern@archive.test\n\n\
                      dn: cn=eve,dc=corp\ncn: eve\nmail: eve@corp.example\n";

const TEXTS: &str =
    "[outbound.append]\ntext = \"for outside\"\n[internal.append]\ntext = \"for inside\"\n";

/// The service, with a report's direction told by its archive.
struct Agent(ListenerSite);

impl Agent {
    /// `listener` are lines of `[[hook.smtp]]`, `lines` of the rest.
    fn start(listen: SocketAddr, next_hop: SocketAddr, listener: &str, lines: &str) -> Agent {
        let options = ListenerOptions {
            listen: Some(listen),
            next_hop,
            attributes: ["in", "out", "intern"],
            people: PEOPLE,
            listener,
            lines,
        };
        Agent(ListenerSite::start(SmtpSink::start_keeping(), &options))
    }

    /// The reports that have come once the queue is empty, by the archive they went to.
    fn reports(&self) -> Vec<(String, Report)> {
        let reports = self.0.reports().into_iter();
        let mut reports: Vec<_> = reports
            .map(|report| (report.recipients.join(" "), report))
            .collect();
        reports.sort_by(|one, other| one.0.cmp(&other.0));
        reports
    }

    /// Where the reports went that are about this message.
    fn archives_of(&self, id: &str) -> Vec<String> {
        let reports = self.reports();
        for (_, report) in &reports {
            assert_eq!(report.about, id);
            assert!(
                !report.text.contains("\nX-Copyist-Fate:"),
                "{}",
                report.text
            );
        }
        reports.into_iter().map(|(to, _)| to).collect()
    }
}

/// Postfix on both sides of the service, and a sink for what leaves it. Dropped from the top: who
/// asks before who answers.
struct Postfixes {
    postfix: Postfix,
    agent: Agent,
    sink: SmtpSink,
}

impl Postfixes {
    /// The way in is set in main.cf by `way`, which is given the service's port; the way back is an
    /// smtpd of its own with these options.
    fn start(
        mode: &str,
        way: impl Fn(u16) -> Vec<String>,
        more: &str,
        back: &[&str],
        lines: &str,
    ) -> Postfixes {
        let sink = SmtpSink::start_keeping();
        let (ours, again) = (free_port(), free_port());
        let mut services = format!("{more}\n127.0.0.1:{again} inet n - n - - smtpd");
        for option in back {
            services += &format!("\n  -o {option}");
        }
        let options = PostfixOptions {
            milter: None,
            deliver_to: sink.address(),
            extra: way(ours),
        };
        let postfix = Postfix::start_with(&options, &services);
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let agent = Agent::start(
            local(ours),
            local(again),
            &format!("mode = \"{mode}\""),
            lines,
        );
        Postfixes {
            postfix,
            agent,
            sink,
        }
    }

    fn client(&self, from: IpAddr) -> Client {
        Client::connect_from(from, self.postfix.smtp_addr())
    }

    /// Returns the messages that left Postfix since the last call, once `count` have left it since
    /// the start.
    fn delivered(&self, count: usize) -> Vec<String> {
        self.sink.wait_for(count, PATIENCE);
        lab::wait("its queue is empty", PATIENCE, || {
            self.postfix.queue_length() == 0
        });
        assert_eq!(self.sink.count(), count, "{}", self.postfix.log());
        let mut messages = Vec::new();
        self.sink
            .harvest(|_| true, |text| messages.push(text.to_owned()));
        messages
    }
}

fn before_the_queue() -> Postfixes {
    let way = |port| {
        vec![
            format!("smtpd_proxy_filter = 127.0.0.1:{port}"),
            "relay_domains = corp.example".to_owned(),
            // It tells its postmaster of a filter that is away: mail that nobody here waits for.
            "notify_classes =".to_owned(),
        ]
    };
    let back = [
        "smtpd_proxy_filter=",
        "content_filter=",
        "smtpd_authorized_xforward_hosts=127.0.0.0/8",
        "relay_recipient_maps=inline:{dan@corp.example=x,eve@corp.example=x}",
    ];
    Postfixes::start("before-queue", way, "", &back, "")
}

fn behind_the_queue(lines: &str) -> Postfixes {
    let way = |port| {
        vec![
            format!("content_filter = copyist:[127.0.0.1]:{port}"),
            // Sites let Postfix complete the headers of all their own clients. XFORWARD calls these
            // local then.
            "local_header_rewrite_clients = permit_mynetworks".to_owned(),
        ]
    };
    let transport = "copyist unix - - n - - smtp\n  -o smtp_send_xforward_command=yes\n  \
                     -o disable_mime_output_conversion=yes";
    let back = [
        "content_filter=",
        "receive_override_options=no_unknown_recipient_checks,no_header_body_checks",
        "smtpd_authorized_xforward_hosts=127.0.0.0/8",
    ];
    Postfixes::start("after-queue", way, transport, &back, lines)
}

#[test]
fn before_the_queue_the_client_decides_the_direction() {
    let site = before_the_queue();
    for (number, (from, id, archive, to)) in [
        (
            OUTSIDE,
            "<in@elsewhere.test>",
            "in@archive.test",
            "dan@corp.example",
        ),
        (
            INSIDE,
            "<out@corp.example>",
            "out@archive.test",
            "x@elsewhere.test",
        ),
        (
            INSIDE,
            "<intern@corp.example>",
            "intern@archive.test",
            "eve@corp.example",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let sender = match from {
            OUTSIDE => "a@elsewhere.test",
            _ => "dan@corp.example",
        };
        let answer = site
            .client(from)
            .send_message(sender, &[to], &message(id, "text"));
        assert_eq!(answer.code, 250, "{answer:?}\n{}", site.postfix.log());
        let delivered = site.delivered(number + 1);
        assert!(
            delivered[0].contains(&format!("X-Rcpt-Args: <{to}>")),
            "{delivered:?}"
        );
        assert!(delivered[0].contains(id), "{delivered:?}");
        assert_eq!(site.agent.archives_of(id), [archive], "{id}");
    }
    // Both sides wrote down whose mail it is, and not that it came from here.
    site.postfix.wait_for_log("client=unknown[127.0.0.2]");
}

#[test]
fn before_the_queue_the_client_sees_the_next_hop_s_rejection() {
    let site = before_the_queue();
    let mut client = site.client(OUTSIDE);
    client.say("MAIL FROM:<a@elsewhere.test>");
    let answer = client.say("RCPT TO:<nobody@corp.example>");
    assert_eq!(answer.code, 550, "{answer:?}");
    assert!(answer.text.contains("5.1.1"), "{answer:?}");
    assert!(
        answer
            .text
            .contains("User unknown in relay recipient table"),
        "{answer:?}"
    );
    // The one beside it is not concerned.
    assert_eq!(client.say("RCPT TO:<dan@corp.example>").code, 250);
    assert_eq!(client.say("DATA").code, 354);
    let answer = client.content(&message("<beside@elsewhere.test>", "x"));
    assert_eq!(answer.code, 250, "{answer:?}");
    let delivered = site.delivered(1);
    assert!(!delivered[0].contains("nobody@"), "{delivered:?}");
    let reports = site.agent.reports();
    assert_eq!(reports.len(), 1);
    assert!(!reports[0].1.text.contains("nobody@"), "{reports:?}");
}

#[test]
fn after_the_queue_xforward_gives_the_direction() {
    let site = behind_the_queue("");
    for (number, (from, sender, id, archive, to)) in BOTH_WAYS.into_iter().enumerate() {
        let answer = site
            .client(from)
            .send_message(sender, &[to], &message(id, "text"));
        assert_eq!(answer.code, 250, "{answer:?}");
        site.sink.wait_for(number + 1, PATIENCE);
        assert_eq!(site.agent.archives_of(id), [archive], "{id}");
    }
}

/// Client, sender, Message-ID, archive, recipient.
const BOTH_WAYS: [(IpAddr, &str, &str, &str, &str); 2] = [
    (
        OUTSIDE,
        "a@elsewhere.test",
        "<in@elsewhere.test>",
        "in@archive.test",
        "dan@corp.example",
    ),
    (
        INSIDE,
        "dan@corp.example",
        "<out@corp.example>",
        "out@archive.test",
        "x@elsewhere.test",
    ),
];

#[test]
fn after_the_queue_each_recipient_gets_one_text_of_its_class() {
    let site = behind_the_queue(TEXTS);
    let to = ["dan@corp.example", "x@elsewhere.test", "eve@corp.example"];
    let id = "<split@corp.example>";
    let answer =
        site.client(INSIDE)
            .send_message("dan@corp.example", &to, &message(id, "something"));
    assert_eq!(answer.code, 250, "{answer:?}");
    each_got_its_own(&site.delivered(2), &to);
    for (_, report) in site.agent.reports() {
        assert_eq!(report.about, id);
    }
}

/// Each of these recipients got one message, and with it the text of its class.
fn each_got_its_own(delivered: &[String], to: &[&str]) {
    let mut reached = Vec::new();
    for one in delivered {
        let inside = one.contains("for inside");
        assert_ne!(inside, one.contains("for outside"), "{one}");
        assert!(!one.contains("X-Copyist-"), "{one}");
        for line in one.lines().filter(|line| line.starts_with("X-Rcpt-Args:")) {
            assert_eq!(inside, line.contains("corp.example"), "{line}");
            // What a queue adds (ORCPT) comes behind it.
            let path = line.split(' ').nth(1).unwrap_or_default();
            reached.push(path.to_owned());
        }
    }
    reached.sort();
    let mut expected: Vec<String> = to.iter().map(|to| format!("<{to}>")).collect();
    expected.sort();
    assert_eq!(reached, expected);
}

/// A server that says nothing of its clients, with a listener of the service for each way behind
/// its queue. It takes the mail back as well.
fn a_queue_that_does_not_say_whose_mail_it_is(start: fn(Ports) -> Unpacked) {
    let sink = SmtpSink::start_keeping();
    let ports = Ports {
        front: free_port(),
        inbound: free_port(),
        outbound: free_port(),
        back: free_port(),
        out: sink.address().port(),
    };
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let listener = format!(
        "mode = \"after-queue\"\ndirection = \"inbound\"\n[[hook.smtp]]\nlisten = \"127.0.0.1:{}\"\n\
         next_hop = \"127.0.0.1:{}\"\nmode = \"after-queue\"\ndirection = \"outbound\"",
        ports.outbound, ports.back
    );
    let agent = Agent::start(local(ports.inbound), local(ports.back), &listener, TEXTS);
    let server = start(ports);
    let send = |from, sender, to: &[&str], id| {
        let mut client = Client::connect_from(from, server.smtp_addr());
        let answer = client.send_message(sender, to, &message(id, "something"));
        assert_eq!(answer.code, 250, "{answer:?}\n{}", server.log());
    };
    for (number, (from, sender, id, archive, to)) in BOTH_WAYS.into_iter().enumerate() {
        send(from, sender, &[to], id);
        sink.wait_for(number + 1, PATIENCE);
        assert_eq!(agent.archives_of(id), [archive], "{id}\n{}", server.log());
    }
    sink.harvest(|_| true, |text| assert!(!text.contains("for inside")));
    let to = ["dan@corp.example", "x@elsewhere.test", "eve@corp.example"];
    send(INSIDE, "dan@corp.example", &to, "<split@corp.example>");
    // A queue may send them on in as many messages as it likes.
    let delivered = std::cell::RefCell::new(Vec::new());
    lab::wait("all have it", PATIENCE, || {
        sink.harvest(
            |text| text.contains("\nfor inside") || text.contains("\nfor outside"),
            |text| delivered.borrow_mut().push(text.to_owned()),
        );
        let delivered = delivered.borrow();
        let lines = delivered.iter().flat_map(|text: &String| text.lines());
        let count = lines
            .filter(|line| line.starts_with("X-Rcpt-Args:"))
            .count();
        count >= to.len()
    });
    let delivered = delivered.into_inner();
    each_got_its_own(&delivered, &to);
    agent.archives_of("<split@corp.example>");
}

#[test]
fn exim_has_the_service_behind_its_queue() {
    a_queue_that_does_not_say_whose_mail_it_is(Unpacked::exim);
}

#[test]
fn opensmtpd_has_the_service_behind_its_queue() {
    a_queue_that_does_not_say_whose_mail_it_is(Unpacked::opensmtpd);
}

#[test]
fn while_the_service_is_down_postfix_lets_nothing_pass() {
    for (mut site, class) in [(before_the_queue(), 4), (behind_the_queue(""), 2)] {
        site.agent.0.copyist.kill9();
        let id = "<down@elsewhere.test>";
        let send = |site: &Postfixes| {
            let mut client = site.client(OUTSIDE);
            client.say("MAIL FROM:<a@elsewhere.test>");
            let answer = client.say("RCPT TO:<dan@corp.example>");
            if answer.code != 250 {
                return answer;
            }
            let answer = client.say("DATA");
            match answer.code {
                354 => client.content(&message(id, "x")),
                _ => answer,
            }
        };
        let answer = send(&site);
        assert_eq!(answer.code / 100, class, "{answer:?}");
        if class == 2 {
            site.postfix.wait_for_log("status=deferred");
            assert_eq!(site.postfix.queue_length(), 1);
        }
        assert_eq!(site.sink.count(), 0);
        site.agent.0.copyist.restart();
        match class {
            2 => site.postfix.flush(),
            _ => assert_eq!(send(&site).code, 250),
        }
        site.delivered(1);
        assert_eq!(site.agent.archives_of(id), ["in@archive.test"]);
    }
}

/// swaks, which says what it is told to and logs in as it is told to.
fn swaks(server: SocketAddr, id: &str, arguments: &[&str]) -> Output {
    Command::new(need("swaks", "swaks"))
        .args(["--server", "127.0.0.1", "--port"])
        .arg(server.port().to_string())
        .args(["--from", "dan@corp.example", "--to", "x@elsewhere.test"])
        .args(["--header", &format!("Message-Id: {id}")])
        .args(arguments)
        .output()
        .expect("swaks is a program")
}

/// A service that offers STARTTLS in front of this server.
fn with_starttls(certificates: &Certificates, address: SocketAddr, next: &NextHop) -> Agent {
    let listener = format!(
        "tls = \"starttls\"\ncert_file = \"{}\"\nkey_file = \"{}\"",
        certificates.certificate().display(),
        certificates.key().display()
    );
    lab::set_mode(&certificates.key(), 0o600);
    Agent::start(address, next.address(), &listener, "")
}

#[test]
fn cleartext_commands_after_starttls_are_ignored() {
    let directory = tempfile::tempdir().expect("the system has a temporary directory");
    let certificates = Certificates::make(directory.path());
    let next = NextHop::start();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _agent = with_starttls(&certificates, address, &next);
    let mut tcp = TcpStream::connect(address).expect("it listens");
    tcp.set_read_timeout(Some(PATIENCE)).expect("set");
    for (said, last) in [
        ("", "220 "),
        ("EHLO c\r\n", "250 "),
        ("STARTTLS\r\nMAIL FROM:<injected@x.test>\r\n", "220 "),
    ] {
        tcp.write_all(said.as_bytes()).expect("taken");
        // Byte by byte: what comes behind the last line is the handshake's.
        let mut line = Vec::new();
        while !(line.starts_with(last.as_bytes()) && line.ends_with(b"\n")) {
            if line.ends_with(b"\n") {
                line.clear();
            }
            let mut byte = [0];
            tcp.read_exact(&mut byte).expect("an answer");
            line.push(byte[0]);
        }
    }
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_file_iter(certificates.ca()).expect("a file") {
        roots.add(ca.expect("a certificate")).expect("of a CA");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut tls = rustls::StreamOwned::new(connection, tcp);
    tls.write_all(b"EHLO c\r\nNOOP\r\nQUIT\r\n").expect("taken");
    let mut said = String::new();
    // Whether it ends in TLS or without: all answers have come by then.
    let _ = tls.read_to_string(&mut said);
    let ends: Vec<&str> = said
        .lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' '))
        .map(|line| &line[..3])
        .collect();
    assert_eq!(ends, ["250", "250", "221"], "{said}");
    assert!(!said.contains("STARTTLS"), "once is enough: {said}");
    let commands = next.commands().join("\n");
    assert!(!commands.contains("injected"), "{commands}");
}

#[test]
fn proxied_auth_makes_a_client_internal_and_logs_no_password() {
    let directory = tempfile::tempdir().expect("the system has a temporary directory");
    let certificates = Certificates::make(directory.path());
    let next = NextHop::start();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let agent = with_starttls(&certificates, address, &next);
    let login = [
        "--auth-user",
        "dan@corp.example",
        "--auth-password",
        "pass-w0rd",
    ];
    for (id, extra, archives) in [
        ("<nobody@corp.example>", &[][..], &[][..]),
        ("<tls@corp.example>", &["--tls"][..], &[][..]),
        (
            "<plain@corp.example>",
            &["--tls", "--auth", "PLAIN"][..],
            &["out@archive.test"][..],
        ),
        (
            "<login@corp.example>",
            &["--tls", "--auth", "LOGIN"][..],
            &["out@archive.test"][..],
        ),
        (
            "<clear@corp.example>",
            &["--auth", "PLAIN"][..],
            &["out@archive.test"][..],
        ),
    ] {
        next.forget();
        let mut arguments = extra.to_vec();
        if extra.contains(&"--auth") {
            arguments.extend(login);
        }
        let said = swaks(address, id, &arguments);
        let talk = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success(), "{id}: {said:?}");
        assert_eq!(
            extra.contains(&"--tls"),
            talk.contains("TLS started"),
            "{talk}"
        );
        assert!(talk.contains("queued as it came"), "{talk}");
        assert_eq!(next.taken().len(), 1, "{id}");
        let commands = next.commands().join("\n");
        assert!(
            !commands.contains("STARTTLS"),
            "that was for us: {commands}"
        );
        assert_eq!(
            extra.contains(&"--auth"),
            commands.contains("AUTH"),
            "{commands}"
        );
        assert_eq!(agent.archives_of(id), archives, "{id}\n{talk}");
    }
    for secret in ["pass-w0rd", "cGFzcy13MHJk"] {
        assert!(!agent.0.copyist.log().contains(secret));
    }
}
