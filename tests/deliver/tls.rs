//! Encryption that is asked for: whoever cannot show that it is the server that we mean gets
//! nothing, neither relay nor directory, and the reason names the server and what is wrong.

use crate::{bench, lab};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench::{AT_ONCE, Bench, ONCE, item, relay};
use copyist::deliver::{Login, RelaySettings, Tls};
use copyist::directory::{Directory, Lookup, Source};
use copyist::mail::Address;
use copyist::secret::Secret;
use lab::{
    Access, CertificateProblem, Certificates, Client, DirectoryServer, ListenerOptions,
    ListenerSite, OUTSIDE, Postfix, PostfixOptions, Slapd, SmtpSink, need, run,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A Postfix that speaks TLS with a certificate of its own, and where it hands mail on to.
struct Relay {
    postfix: Postfix,
    sink: SmtpSink,
    certificates: Certificates,
    _directory: TempDir,
}

impl Relay {
    fn start(tls: Tls, flaw: Option<CertificateProblem>) -> Relay {
        Relay::start_with(tls, |certificates| {
            flaw.into_iter().for_each(|flaw| certificates.spoil(flaw));
        })
    }

    /// One whose certificate is changed before it starts.
    fn start_with(tls: Tls, change: impl FnOnce(&Certificates)) -> Relay {
        Relay::start_as(tls, change, &[])
    }

    /// The same with more lines for `main.cf`.
    fn start_as(tls: Tls, change: impl FnOnce(&Certificates), lines: &[&str]) -> Relay {
        let directory = tempfile::tempdir().expect("the system has a temporary directory");
        let certificates = Certificates::make(directory.path());
        change(&certificates);
        let sink = SmtpSink::start_keeping();
        let file = |name: &str, path: &Path| format!("{name} = {}", path.display());
        let postfix = Postfix::start(&PostfixOptions {
            milter: None,
            deliver_to: sink.address(),
            extra: (lines.iter().map(|&line| line.to_owned()))
                .chain([
                    file("smtpd_tls_cert_file", &certificates.certificate()),
                    file("smtpd_tls_key_file", &certificates.key()),
                    "smtpd_tls_security_level = may".to_owned(),
                    format!(
                        "smtpd_tls_wrappermode = {}",
                        if tls == Tls::Implicit { "yes" } else { "no" }
                    ),
                ])
                .collect(),
        });
        Relay {
            postfix,
            sink,
            certificates,
            _directory: directory,
        }
    }

    /// Settings that lead to this address and believe this relay's authority.
    fn settings(&self, tls: Tls, address: SocketAddr) -> RelaySettings {
        RelaySettings {
            tls,
            ca_file: Some(self.certificates.ca()),
            ..relay(address)
        }
    }

    /// Whether a client got as far as naming a sender.
    fn was_used(&self) -> bool {
        self.postfix.log().contains("client=")
    }
}

/// An interceptor before a server that may change the bytes of each side.
struct Interceptor {
    address: SocketAddr,
    /// The bytes of clients.
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Interceptor {
    /// `change` is given what the server says, as it comes.
    async fn start(server: SocketAddr, change: fn(Vec<u8>) -> Vec<u8>) -> Interceptor {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.expect("it listens");
                let hears = hears.clone();
                tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let hear = move |bytes: Vec<u8>| {
                        let mut heard = hears.lock().expect("nobody panics with it");
                        heard.extend_from_slice(&bytes);
                        bytes
                    };
                    tokio::join!(
                        pass(from_client, to_server, hear),
                        pass(from_server, to_client, change)
                    );
                });
            }
        });
        Interceptor { address, heard }
    }

    fn heard(&self) -> String {
        let heard = self.heard.lock().expect("nobody panics with it");
        String::from_utf8_lossy(&heard).into_owned()
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(read) if read > 0 => {
                let changed = change(buffer[..read].to_vec());
                if to.write_all(&changed).await.is_err() {
                    return;
                }
            }
            _ => {
                let _ = to.shutdown().await;
                return;
            }
        }
    }
}

/// Returns the error of an item that cannot be delivered to this relay.
async fn said(settings: RelaySettings) -> String {
    let bench = Bench::start(settings, ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    let listed = bench
        .until("it was tried", |listed| {
            listed[0].targets[0].last_reply.is_some()
        })
        .await;
    assert_eq!(listed[0].attempts, 0, "no attempt of the item's");
    listed[0].targets[0].last_reply.clone().unwrap_or_default()
}

#[tokio::test]
async fn an_invalid_relay_certificate_is_rejected_naming_both_names() {
    for tls in [Tls::Required, Tls::Implicit] {
        for flaw in CertificateProblem::ALL {
            let relay = Relay::start(tls, Some(flaw));
            let address = relay.postfix.smtp_addr();
            let said = said(relay.settings(tls, address)).await;
            println!("{tls:?} {flaw:?}: {said}");
            assert!(said.contains(&address.to_string()), "{flaw:?}: {said}");
            assert!(said.contains("certificate"), "{flaw:?}: {said}");
            assert!(said.contains(flaw.words()), "{flaw:?}: {said}");
            assert!(!relay.was_used(), "{flaw:?}: {}", relay.postfix.log());
        }
    }
}

#[tokio::test]
async fn a_relay_with_a_sound_certificate_gets_everything() {
    for tls in [Tls::Required, Tls::Implicit, Tls::Opportunistic] {
        let relay = Relay::start(tls, None);
        let settings = relay.settings(tls, relay.postfix.smtp_addr());
        let bench = Bench::start(settings, AT_ONCE);
        bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
        bench.until_queue_is_empty().await;
        relay.sink.wait_for(1, Duration::from_secs(30));
        assert!(relay.postfix.log().contains("client="));
    }
}

/// Puts a certificate in place that a server of another time might have.
fn make_old(certificates: &Certificates, key: &str, is_version_1: bool) {
    let mut request = Command::new(need("openssl", "openssl"));
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
    request.args(["req", "-nodes", "-newkey", key, "-subj", "/CN=localhost"]);
    request.arg("-keyout").arg(certificates.key());
    let file = certificates.certificate().with_extension("request");
    match is_version_1 {
        false => request.args(["-x509", "-days", "2", "-addext", names, "-out"]),
        true => request.args(["-out"]),
    };
    match is_version_1 {
        false => request.arg(certificates.certificate()),
        true => request.arg(&file),
    };
    run(&mut request);
    if is_version_1 {
        let mut sign = Command::new(need("openssl", "openssl"));
        sign.args(["x509", "-req", "-days", "2", "-in"]).arg(&file);
        sign.arg("-signkey").arg(certificates.key());
        sign.arg("-out").arg(certificates.certificate());
        run(&mut sign);
    }
}

#[tokio::test]
async fn a_relay_with_outdated_tls_gets_mail_in_the_clear_or_none() {
    const ALL: &[&str] = &[
        "tls_high_cipherlist = ALL:@SECLEVEL=0",
        "tls_medium_cipherlist = ALL:@SECLEVEL=0",
    ];
    const TLS_11: &[&str] = &["smtpd_tls_protocols = TLSv1.1", ALL[0], ALL[1]];
    const RSA_KEYS: &[&str] = &[
        "smtpd_tls_protocols = TLSv1.2",
        "tls_high_cipherlist = kRSA:@SECLEVEL=0",
        "tls_medium_cipherlist = kRSA:@SECLEVEL=0",
    ];
    for (name, key, is_version_1, lines) in [
        ("a certificate of version 1", "rsa:2048", true, ALL),
        ("RSA of 1024 bits", "rsa:1024", false, ALL),
        ("TLS 1.1", "rsa:2048", false, TLS_11),
        ("no forward secrecy", "rsa:2048", false, RSA_KEYS),
    ] {
        let change = |certificates: &Certificates| make_old(certificates, key, is_version_1);
        let relay = Relay::start_as(Tls::Opportunistic, change, lines);
        let address = relay.postfix.smtp_addr();
        // Whoever wants certificates checked, or has a password, gets no mail there in the clear.
        let checked = relay.settings(Tls::Opportunistic, address);
        let with_password = RelaySettings {
            ca_file: None,
            login: Some(Login {
                username: "u".into(),
                password: Secret::new("canary-password"),
            }),
            ..checked.clone()
        };
        let anyhow = RelaySettings {
            ca_file: None,
            ..checked.clone()
        };
        for settings in [checked, with_password] {
            let said = said(settings).await;
            println!("{name}: {said}");
            assert!(said.contains("TLS handshake failed"), "{name}: {said}");
        }
        assert!(!relay.was_used());
        let report = copyist::deliver::probe(&anyhow).await.expect("reached");
        assert!(report.tls_fault.is_some(), "{name}: {report}");
        let bench = Bench::start(anyhow, ONCE);
        bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
        bench.until_queue_is_empty().await;
        let log = relay.postfix.log();
        assert!(log.contains("SSL_accept error"), "{name}: {log}");
        // Postfix's "may" delivers as well, over whatever its OpenSSL still speaks.
        let postfix = Postfix::start(&PostfixOptions {
            milter: None,
            deliver_to: address,
            extra: vec!["smtp_tls_security_level = may".into()],
        });
        let mut client = Client::connect_from(OUTSIDE, postfix.smtp_addr());
        assert_eq!(client.send_message("", &["b@c.test"], "x\r\n").code, 250);
        let line = postfix.wait_for_log("to=<b@c.test>");
        assert!(line.contains("status=sent"), "{name}: {line}");
        // The same in front of a server, which is asked in the same way.
        let agent = ListenerSite::start(
            SmtpSink::start_keeping(),
            &ListenerOptions {
                listen: None,
                next_hop: address,
                attributes: ["journal"; 3],
                people: "dn: cn=eve,dc=corp\ncn: eve\nmail: eve@corp.example\n",
                listener: "next_hop_tls = \"opportunistic\"",
                lines: "",
            },
        );
        let mut client = Client::connect_from(OUTSIDE, agent.address);
        let sent = client.send_message("a@elsewhere.test", &["eve@corp.example"], "x\r\n");
        assert_eq!(sent.code, 250, "{name}: {sent:?}");
    }
}

#[tokio::test]
async fn stripped_starttls_does_not_cause_cleartext_delivery() {
    let relay = Relay::start(Tls::Required, None);
    let between = Interceptor::start(relay.postfix.smtp_addr(), |bytes| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.replace("250-STARTTLS\r\n", "250-AUTH PLAIN LOGIN\r\n")
            .into()
    })
    .await;
    let settings = RelaySettings {
        login: Some(Login {
            username: "u".into(),
            password: Secret::new("canary-password"),
        }),
        ..relay.settings(Tls::Required, between.address)
    };
    let said = said(settings).await;
    assert!(said.contains("does not offer STARTTLS"), "{said}");
    assert!(said.contains(&between.address.to_string()), "{said}");
    let heard = between.heard();
    for line in heard.lines() {
        assert!(line.starts_with("EHLO ") || line == "QUIT", "{heard}");
    }
    assert!(!relay.was_used());
}

/// As many yeses as a delivery asks for.
const YES: &str = "250-relay\r\n250 8BITMIME\r\n250-relay\r\n250 8BITMIME\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n\
                   354 go on\r\n250 2.0.0 kept\r\n";

#[tokio::test]
async fn answers_put_around_the_one_to_starttls_are_not_believed() {
    const READY: &str = "220 2.0.0 Ready to start TLS\r\n";
    for change in [
        // Behind it: what a client that reads ahead takes for answers over TLS.
        (|bytes: Vec<u8>| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            match text == READY {
                true => [&bytes, YES.as_bytes()].concat(),
                false => bytes,
            }
        }) as fn(Vec<u8>) -> Vec<u8>,
        // In front of it: what makes each answer one to another question.
        |bytes| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            match text == READY {
                true => [b"250 2.0.0 ok\r\n", &bytes[..]].concat(),
                false => bytes,
            }
        },
    ] {
        let relay = Relay::start(Tls::Required, None);
        let between = Interceptor::start(relay.postfix.smtp_addr(), change).await;
        let said = said(relay.settings(Tls::Required, between.address)).await;
        assert!(said.contains(&between.address.to_string()), "{said}");
        assert!(said.contains("STARTTLS"), "{said}");
        assert!(between.heard().contains("STARTTLS"), "it was got so far");
        assert_eq!(relay.sink.count(), 0);
    }
}

fn access(slapd: &Slapd, url: String) -> Access {
    Access {
        url,
        ca_file: Some(slapd.ca_file()),
        ..slapd.access()
    }
}

async fn find(access: Access, starttls: bool) -> Lookup<()> {
    let mut settings = access.directory();
    if let Source::Ldap(ldap) = &mut settings.source {
        ldap.starttls = starttls;
    }
    let directory = Directory::open(settings).expect("settings that can be used");
    let asked = Address::parse("u00003@example.test").expect("an address");
    let mut answers = directory.find(std::slice::from_ref(&asked)).await;
    match answers.remove(&asked).expect("an answer") {
        Lookup::Found(_) => Lookup::Found(()),
        Lookup::Absent => Lookup::Absent,
        Lookup::Unavailable(outage) => Lookup::Unavailable(outage),
    }
}

#[tokio::test]
async fn an_invalid_directory_certificate_is_an_outage_naming_both() {
    for flaw in CertificateProblem::ALL {
        let mut slapd = Slapd::start(5);
        let ca = slapd.ca_file();
        slapd.certificates().spoil(flaw);
        slapd.restart();
        assert_eq!(slapd.ca_file(), ca);
        for (url, starttls) in [(slapd.ldaps_url(), false), (slapd.url(), true)] {
            let Lookup::Unavailable(outage) = find(access(&slapd, url.clone()), starttls).await
            else {
                panic!("{flaw:?}: an answer from {url}");
            };
            println!("{flaw:?}: {outage}");
            assert!(outage.reason.contains(&url), "{flaw:?}: {outage}");
            assert!(outage.reason.contains("certificate"), "{flaw:?}: {outage}");
            assert!(outage.reason.contains(flaw.words()), "{flaw:?}: {outage}");
        }
    }
}

/// Hands everything that is logged from now on to whoever holds this.
#[derive(Clone, Default)]
struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    fn start() -> CapturedLog {
        let logged = CapturedLog::default();
        let writer = logged.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        logged
    }

    /// How often a server was warned of.
    fn warnings(&self, server: &str) -> usize {
        let logged = self.0.lock().expect("nobody panics with it");
        let lines = String::from_utf8_lossy(&logged).into_owned();
        let of = |line: &&str| line.contains("certificate expires in") && line.contains(server);
        lines.lines().filter(of).count()
    }
}

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut logged = self.0.lock().expect("nobody panics with it");
        logged.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The gauge of a server's certificate, in seconds since 1970.
fn expires(metrics: &str, peer: &str, server: &str) -> f64 {
    let line =
        format!("copyist_certificate_expires_seconds{{peer=\"{peer}\",server=\"{server}\"}} ");
    let value = metrics.lines().find_map(|it| it.strip_prefix(&line));
    let value = value.unwrap_or_else(|| panic!("no {line} in {metrics}"));
    value.parse().expect("a number")
}

#[tokio::test]
async fn an_expiring_certificate_is_warned_of_once_and_measured() {
    /// The beginning of 2090.
    const LATE: f64 = 3_786_912_000.0;
    let (logged, metrics) = (
        CapturedLog::start(),
        copyist::admin::metrics().expect("ours"),
    );
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let now = now.expect("it is later than 1970").as_secs_f64();
    for soon in [true, false] {
        let prolong = |certificates: &Certificates| {
            if !soon {
                certificates.prolong();
            }
        };
        let mut slapd = Slapd::start(5);
        prolong(slapd.certificates());
        slapd.restart();
        for (url, starttls) in [(slapd.ldaps_url(), false), (slapd.url(), true)] {
            for _ in 0..2 {
                let found = find(access(&slapd, url.clone()), starttls).await;
                assert_eq!(found, Lookup::Found(()));
            }
            let at = expires(&metrics.render(), "directory", &url);
            assert_eq!(at == LATE, !soon, "{at}");
            assert!(!soon || (at - now - 2.0 * 86_400.0).abs() < 3600.0, "{at}");
            // Each time it was a directory of its own.
            assert_eq!(logged.warnings(&url), if soon { 2 } else { 0 }, "{url}");
        }
        for tls in [Tls::Required, Tls::Implicit, Tls::Opportunistic] {
            let relay = Relay::start_with(tls, prolong);
            let address = relay.postfix.smtp_addr();
            let settings = RelaySettings {
                connections: 3,
                ..relay.settings(tls, address)
            };
            let bench = Bench::start(settings, AT_ONCE);
            for n in 0..20 {
                bench.enqueue(item(n, &["a@c.test"]), "x\r\n").await;
            }
            bench.until_queue_is_empty().await;
            let server = address.to_string();
            let at = expires(&metrics.render(), "relay", &server);
            assert_eq!(at == LATE, !soon, "{tls:?}: {at}");
            assert_eq!(logged.warnings(&server), usize::from(soon), "{tls:?}");
        }
    }
}

#[tokio::test]
async fn cleartext_after_the_directory_s_starttls_reply_is_ignored() {
    let slapd = Slapd::start(5);
    let server = slapd.url().replace("ldap://", "");
    // A successful bind, and a search that is done and found nobody, for the numbers that come
    // next.
    let between = Interceptor::start(server.parse().expect("an address"), |bytes| {
        // Without TLS messages of LDAP begin with a SEQUENCE, records of TLS never do.
        let mut bytes = bytes;
        if bytes.first() == Some(&0x30) {
            for id in 1..20 {
                for operation in [0x61, 0x65] {
                    bytes.extend([0x30, 12, 2, 1, id, operation, 7, 10, 1, 0, 4, 0, 4, 0]);
                }
            }
        }
        bytes
    })
    .await;
    let url = format!("ldap://{}", between.address);
    match find(access(&slapd, url.clone()), true).await {
        Lookup::Absent => panic!("a stranger's answer was believed"),
        Lookup::Found(()) => {}
        Lookup::Unavailable(outage) => assert!(outage.reason.contains(&url), "{outage}"),
    }
    assert!(!between.heard().contains("cn="), "nothing in the clear");
}
