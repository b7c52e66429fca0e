//! Internal clients: permission to relay does not make a client internal, and mail that it brings
//! from outside is inbound.

use crate::lab;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use std::process::Command;

use lab::{
    Certificates, Client, Copyist, DOMAIN, DirectoryServer, OUTSIDE, PATIENCE, Postfix,
    PostfixOptions, Report, Slapd, SmtpSink, free_port, message, need, user, wait,
};

/// In `trusted_networks`.
const TRUSTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// In `trusted_networks` and `gateways`.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// Journaled to `journal-3@archive.test`.
const DAN: usize = 3;
/// Journaled to nobody.
const EVE: usize = 5;

/// Postfix with Copyist as the milter of its own listener, of a submission service with a milter of
/// its own, and of a listener by which a content filter brings mail back. Dropped from the top.
struct Site {
    postfix: Postfix,
    copyist: Copyist,
    mail: SmtpSink,
    relay: SmtpSink,
    submission: SocketAddr,
    again: SocketAddr,
    _directory: Slapd,
}

impl Site {
    /// `directions` are the tables of the settings that journal.
    fn start(directions: &[&str], more: &str) -> Site {
        let directory = Slapd::start(12);
        let (mail, relay) = (SmtpSink::start_keeping(), SmtpSink::start_keeping());
        let ports = [(); 4].map(|()| free_port());
        let [milter, outbound, submission, again] = ports;
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let postfix = Postfix::start_with(
            &PostfixOptions {
                milter: Some(format!("inet:127.0.0.1:{milter}")),
                deliver_to: mail.address(),
                extra: vec![
                    "smtpd_authorized_xclient_hosts = 127.0.0.0/8".to_owned(),
                    "mynetworks = 127.0.0.0/8 198.51.100.7".to_owned(),
                ],
            },
            &format!(
                "127.0.0.1:{submission} inet n - n - - smtpd\n  -o smtpd_milters=inet:127.0.0.1:{outbound}\n\
                 127.0.0.1:{again} inet n - n - - smtpd\n"
            ),
        );
        let sides = directions.iter().map(|side| {
            format!("[{side}]\njournal_attribute = \"extensionAttribute10\"\njournal_ndr = \"ndr@{DOMAIN}\"\n")
        });
        let copyist = Copyist::start(&format!(
            "[organization]\ndomains = [\"{DOMAIN}\"]\ntrusted_networks = [\"127.0.0.2/31\"]\ngateways = [\"127.0.0.3\"]\n\
             [directory]\n{}timeout = \"10s\"\n{more}\n{}[hook.milter]\nlisten = [\"inet:127.0.0.1:{milter}\"]\n\
             outbound = [\"inet:127.0.0.1:{outbound}\"]\n\
             [relay]\nhost = \"{}\"\ntls = \"none\"\n[admin]\nlisten = \"off\"\n",
            directory.settings(),
            sides.collect::<String>(),
            relay.address(),
        ));
        Site {
            postfix,
            copyist,
            mail,
            relay,
            submission: at(submission),
            again: at(again),
            _directory: directory,
        }
    }

    fn send(&self, by: IpAddr, login: Option<&str>, from: &str, to: &[&str], content: &str) -> u16 {
        self.send_at(self.postfix.smtp_addr(), by, login, from, to, content)
    }

    fn send_at(
        &self,
        server: SocketAddr,
        by: IpAddr,
        login: Option<&str>,
        from: &str,
        to: &[&str],
        content: &str,
    ) -> u16 {
        let mut client = Client::connect_from(by, server);
        if let Some(login) = login {
            let reply = client.say(&format!("XCLIENT ADDR=198.51.100.7 LOGIN={login}"));
            assert!(reply.code < 400, "{reply:?}");
            client.say("EHLO client.test");
        }
        client.send_message(from, to, content).code
    }

    /// The journal addresses of the reports about this message, each report once, and the header To
    /// believed or not.
    fn reports(&self, id: &str) -> Vec<Report> {
        wait("an empty queue", PATIENCE, || self.copyist.queued() == 0);
        let all = self.relay.messages();
        let all = all.iter().map(|text| Report::read(text));
        all.filter(|report| report.about == id).collect()
    }

    fn archives(&self, id: &str) -> Vec<String> {
        let all = self.reports(id).into_iter();
        all.flat_map(|report| report.recipients).collect()
    }
}

/// A message by this author.
fn by(author: &str, id: &str) -> String {
    message(id, "x").replace(
        "From: Somebody <somebody@elsewhere.test>",
        &format!("From: {author}"),
    )
}

#[test]
fn mail_from_a_gateway_is_inbound_and_guarded() {
    for directions in [
        &["inbound"][..],
        &["inbound", "outbound"],
        &["inbound", "outbound", "internal"],
    ] {
        let site = Site::start(directions, "");
        let (dan, boss) = (user(DAN), user(EVE));
        let mut number = 0;
        for client in [OUTSIDE, TRUSTED, GATEWAY] {
            for from in ["a@elsewhere.test", "", &boss] {
                if client == TRUSTED && from != "a@elsewhere.test" {
                    // Without a foreign sender a trusted client is one of us.
                    continue;
                }
                number += 1;
                let id = format!("<gateway-{number}@elsewhere.test>");
                let what = format!("{directions:?}: {from:?} by {client}");
                assert_eq!(
                    site.send(client, None, from, &[&dan], &message(&id, "x")),
                    250,
                    "{what}"
                );
                assert_eq!(site.archives(&id), ["journal-3@archive.test"], "{what}");
                let report = &site.reports(&id)[0];
                assert_eq!(report.field("Recipient"), [dan.as_str()], "{what}");
                for guarded in ["journal-3@archive.test", &format!("ndr@{DOMAIN}")] {
                    let code = site.send(client, None, from, &[guarded], &message(&id, "x"));
                    assert_eq!(code, 550, "{what} to {guarded}");
                }
            }
        }
        // A filter behind the queue brings it back from this machine: at that listener the client
        // is loopback.
        let id = "<again@elsewhere.test>";
        let code = site.send_at(
            site.again,
            TRUSTED,
            None,
            "a@elsewhere.test",
            &[&dan],
            &message(id, "x"),
        );
        assert_eq!(
            (code, site.archives(id)),
            (250, vec!["journal-3@archive.test".to_owned()])
        );
        let count = site.mail.count();
        assert_eq!(count, number + 1, "each was delivered once");
    }
}

#[test]
fn a_login_is_known_whatever_the_reverse_path_says() {
    let site = Site::start(&["inbound", "outbound", "internal"], "");
    let outside = ["buyer@customer.test"];
    let mut number = 0;
    for login in [
        "u00003",
        "U00003",
        "EXAMPLE\\u00003",
        "u00003@EXAMPLE.LOCAL",
        &user(DAN),
        "user.3@example.test",
    ] {
        for from in [
            "dan@private.test",
            "",
            "noreply@example.test",
            "prvs=0123456789=u00003@example.test",
        ] {
            number += 1;
            let id = format!("<login-{number}@elsewhere.test>");
            let code = site.send(OUTSIDE, Some(login), from, &outside, &message(&id, "x"));
            assert_eq!(code, 250, "{login} as {from}");
            assert_eq!(
                site.archives(&id),
                ["journal-3@archive.test"],
                "{login} as {from}"
            );
        }
    }
}

#[test]
fn an_author_named_by_a_trusted_client_has_a_copy() {
    let site = Site::start(&["inbound", "outbound", "internal"], "");
    let outside = ["buyer@customer.test"];
    let dan = user(DAN);
    for (n, (client, from, author, journaled)) in [
        (TRUSTED, "dan@private.test", dan.as_str(), true),
        (TRUSTED, "", dan.as_str(), true),
        (
            TRUSTED,
            "app@example.test",
            "Dan <user.3@example.test>",
            true,
        ),
        (TRUSTED, "app@example.test", "nobody@example.test", false),
        // Whom anybody else names is not asked.
        (OUTSIDE, "dan@private.test", dan.as_str(), false),
        (GATEWAY, "dan@private.test", dan.as_str(), false),
        // The reverse path is a person of ours: the header adds nobody.
        (TRUSTED, "u00006@example.test", dan.as_str(), false),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("<author-{n}@elsewhere.test>");
        let code = site.send(client, None, from, &outside, &by(author, &id));
        let what = format!("{from:?} by {client}, author {author}");
        if client != TRUSTED && code >= 500 {
            // Postfix relays for trusted clients only.
            continue;
        }
        assert_eq!(code, 250, "{what}");
        let archives = site.archives(&id);
        assert_eq!(
            archives.contains(&"journal-3@archive.test".to_owned()),
            journaled,
            "{what}: {archives:?}"
        );
    }
}

#[test]
fn an_unknown_authenticated_user_is_counted_or_falls_back() {
    let fallback = "fallback_journal = \"fallback@archive.test\"";
    for (more, wanted) in [("", &[][..]), (fallback, &["fallback@archive.test"])] {
        let site = Site::start(&["inbound", "outbound", "internal"], more);
        let id = "<printer@elsewhere.test>";
        let outside = ["buyer@customer.test"];
        let code = site.send(
            OUTSIDE,
            Some("printer"),
            "printer@example.test",
            &outside,
            &message(id, "x"),
        );
        assert_eq!(code, 250);
        assert_eq!(site.archives(id), wanted);
        assert!(
            site.copyist
                .log()
                .contains("sender not found in the directory")
        );
        // A trusted client that did not log in has no fallback.
        let id = "<scanner@elsewhere.test>";
        assert_eq!(
            site.send(
                TRUSTED,
                None,
                "scan@example.test",
                &outside,
                &message(id, "x")
            ),
            250
        );
        assert!(site.archives(id).is_empty());
    }
}

#[test]
fn a_listener_for_one_side_alone_needs_no_network() {
    let site = Site::start(&["outbound"], "");
    let id = "<submission@elsewhere.test>";
    let code = site.send_at(
        site.submission,
        OUTSIDE,
        None,
        &user(DAN),
        &["buyer@customer.test"],
        &message(id, "x"),
    );
    assert_eq!(
        (code, site.archives(id)),
        (250, vec!["journal-3@archive.test".to_owned()])
    );
}

#[test]
fn the_holder_of_an_accepted_certificate_is_inside() {
    let directory = lab::open_directory();
    let certificates = Certificates::make(directory.path());
    for file in [
        certificates.key(),
        certificates.certificate(),
        certificates.ca(),
    ] {
        lab::set_mode(&file, 0o644);
    }
    let slapd = Slapd::start(12);
    let (mail, relay) = (SmtpSink::start_keeping(), SmtpSink::start_keeping());
    let milter = free_port();
    let postfix = Postfix::start(&PostfixOptions {
        milter: Some(format!("inet:127.0.0.1:{milter}")),
        deliver_to: mail.address(),
        extra: vec![
            "smtpd_tls_security_level = may".to_owned(),
            "smtpd_tls_ask_ccert = yes".to_owned(),
            format!("smtpd_tls_CAfile = {}", certificates.ca().display()),
            format!(
                "smtpd_tls_cert_file = {}",
                certificates.certificate().display()
            ),
            format!("smtpd_tls_key_file = {}", certificates.key().display()),
        ],
    });
    for (accepted, direction) in [
        ("localhost", "out-ndr"),
        ("localhost;somebody else", ""),
        ("other", ""),
    ] {
        let copyist = Copyist::start(&format!(
            "[organization]\ndomains = [\"{DOMAIN}\"]\ntrusted_networks = []\ntrusted_certificates = [\"{accepted}\"]\n\
             [directory]\n{}[outbound]\njournal_attribute = \"extensionAttribute10\"\njournal_ndr = \"out-ndr@{DOMAIN}\"\n\
             [hook.milter]\nlisten = [\"inet:127.0.0.1:{milter}\"]\n[relay]\nhost = \"{}\"\ntls = \"none\"\n[admin]\nlisten = \"off\"\n",
            slapd.settings(),
            relay.address(),
        ));
        let before = relay.count();
        let sent = Command::new(need("swaks", "swaks"))
            .args(["--server", &postfix.smtp_addr().to_string(), "--tls"])
            .args(["--from", &user(DAN), "--to", "buyer@customer.test"])
            .arg("--tls-cert")
            .arg(certificates.certificate())
            .arg("--tls-key")
            .arg(certificates.key())
            .output()
            .expect("swaks is a program");
        assert!(sent.status.success(), "{sent:?}");
        wait("an empty queue", PATIENCE, || copyist.queued() == 0);
        let reports = relay.count() - before;
        assert_eq!(
            reports,
            usize::from(!direction.is_empty()),
            "{accepted}\n{}",
            copyist.log()
        );
    }
}

#[test]
fn the_guides_trust_only_this_machine() {
    for guide in ["README.md", "docs/install.md", "docs/install-ad.md"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(guide);
        let text = std::fs::read_to_string(path).expect("the guide exists");
        assert!(
            !text.contains("10.0.0.0/8"),
            "{guide} trusts a whole private network"
        );
    }
}
