//! The lab's own tests: what the other tests stand on.

use crate::lab;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lab::{
    Client, DirectoryServer, Fault, FaultProxy, PATIENCE, Postfix, PostfixOptions, SendOutcome,
    Slapd, SmtpSink, smtp_source,
};

const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

const MESSAGE: &str = "Subject: lab\r\n\r\nHello.\r\n.hidden dot\r\n";

fn postfix_to(sink: &SmtpSink, milter: Option<String>) -> Postfix {
    Postfix::start(&PostfixOptions {
        milter,
        deliver_to: sink.address(),
        extra: Vec::new(),
    })
}

#[test]
fn slapd_answers_the_agent() {
    let slapd = Slapd::start(4);
    let found = slapd.search(
        "(proxyAddresses=smtp:USER.3@example.test)",
        &["mail", "extensionAttribute10", "userPassword"],
    );
    assert_eq!(
        found,
        "dn: uid=u00003,ou=people,dc=example,dc=test\n\
         mail: u00003@example.test\n\
         extensionAttribute10: journal-3@archive.test\n\n"
    );
    assert_eq!(slapd.search("(mail=u00004@example.test)", &["mail"]), "");
}

#[test]
fn a_change_is_seen_and_outlives_a_restart() {
    let mut slapd = Slapd::start_with(2, |_| None);
    let filter = "(extensionAttribute10=new@archive.test)";
    assert_eq!(slapd.search(filter, &["mail"]), "");
    slapd.set_journal(1, Some("new@archive.test"));
    let found = slapd.search(filter, &["mail"]);
    assert!(found.contains("mail: u00001@example.test"), "{found}");

    slapd.restart();
    assert_eq!(slapd.search(filter, &["mail"]), found);
}

#[test]
fn a_stopped_slapd_refuses_connections() {
    let mut slapd = Slapd::start(1);
    let address = slapd.url().replace("ldap://", "");
    assert!(TcpStream::connect(&address).is_ok());
    slapd.stop();
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn postfix_delivers_accepted_mail_to_the_sink() {
    let sink = SmtpSink::start_keeping();
    let postfix = postfix_to(&sink, None);
    for client in [OUTSIDE, INSIDE] {
        let mut client = Client::connect_from(client, postfix.smtp_addr());
        let to = ["u00000@example.test", "b@elsewhere.test"];
        let reply = client.send_message("a@elsewhere.test", &to, MESSAGE);
        assert_eq!(reply.code, 250, "{reply:?}");
        client.quit();
    }
    postfix.submit(
        "c@example.test",
        "d@elsewhere.test",
        "Subject: local\n\nHi.\n",
    );
    sink.wait_for(3, PATIENCE);
    let messages = sink.messages();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(
        messages
            .iter()
            .any(|message| message.contains("[127.0.0.2]")
                && message.contains("u00000@example.test")
                && message.contains("\n.hidden dot")),
        "{messages:?}"
    );
}

#[test]
fn a_message_is_deferred_while_the_milter_is_away() {
    let sink = SmtpSink::start();
    let nobody = format!("inet:127.0.0.1:{}", lab::free_port());
    let postfix = postfix_to(&sink, Some(nobody));
    let mut client = Client::connect_from(OUTSIDE, postfix.smtp_addr());
    let reply = client.send_message("a@elsewhere.test", &["u00000@example.test"], MESSAGE);
    assert_eq!(reply.code, 451, "{reply:?}");
    assert_eq!(sink.count(), 0);
}

#[test]
fn a_stopped_postfix_leaves_its_port() {
    let sink = SmtpSink::start();
    let mut postfix = postfix_to(&sink, None);
    postfix.stop();
    assert!(TcpStream::connect(postfix.smtp_addr()).is_err());
}

#[test]
fn load_is_counted_to_the_last_message() {
    let sink = SmtpSink::start();
    let postfix = postfix_to(&sink, None);
    let load = smtp_source(
        postfix.smtp_addr(),
        &[
            "-s",
            "10",
            "-m",
            "200",
            "-f",
            "a@elsewhere.test",
            "-t",
            "u00000@example.test",
        ],
    );
    assert!(load.output.status.success(), "{:?}", load.output);
    sink.wait_for(200, PATIENCE);
    assert_eq!(sink.count(), 200);
    assert!(load.took > Duration::ZERO);
}

/// A server that gives back each line; what comes to it is counted by the caller's reading of it.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut from = stream.try_clone().expect("a socket");
                let _ = std::io::copy(&mut from, &mut &stream);
            });
        }
    });
    address
}

/// Says something over a connection and gives what comes back within the time.
fn say(stream: &mut TcpStream, within: Duration) -> Result<Vec<u8>, ErrorKind> {
    (stream.set_read_timeout(Some(within))).expect("not zero");
    (stream.write_all(b"hello")).map_err(|error| error.kind())?;
    let mut back = vec![0; 64];
    let count = stream.read(&mut back).map_err(|error| error.kind())?;
    back.truncate(count);
    Ok(back)
}

#[test]
fn the_fault_proxy_injects_the_requested_faults() {
    const SHORT: Duration = Duration::from_millis(100);
    let proxy = FaultProxy::start(echo());
    let connect = || TcpStream::connect(proxy.address()).expect("the proxy listens");
    let mut open = connect();
    assert_eq!(say(&mut open, PATIENCE), Ok(b"hello".to_vec()));

    // What waits passes when the fault is over.
    proxy.set(Fault::Delay(PATIENCE));
    assert_eq!(say(&mut open, SHORT), Err(ErrorKind::WouldBlock));
    proxy.set(Fault::Pass);
    let mut back = [0; 5];
    open.read_exact(&mut back).expect("it comes now");

    proxy.set(Fault::Garbage);
    let garbage = say(&mut connect(), PATIENCE).expect("something comes back");
    assert!(
        garbage.len() > 5 && !garbage.is_ascii(),
        "garbage: {garbage:?}"
    );

    // A byte of it at a time.
    proxy.set(Fault::Drip(SHORT));
    assert_eq!(say(&mut connect(), PATIENCE), Ok(b"h".to_vec()));

    // No answer, but an end.
    proxy.set(Fault::HalfClose);
    assert_eq!(say(&mut open, PATIENCE), Ok(Vec::new()));

    // What was lost does not come back, and what comes after it is lost as well.
    let mut swallowed = connect();
    proxy.set(Fault::Blackhole);
    let mut swallowed_too = connect();
    for stream in [&mut swallowed, &mut swallowed_too] {
        assert!(say(stream, SHORT).is_err());
    }
    proxy.set(Fault::Pass);
    assert!(say(&mut swallowed_too, SHORT).is_err());
    assert_eq!(say(&mut connect(), PATIENCE), Ok(b"hello".to_vec()));

    let mut cut = connect();
    assert_eq!(say(&mut cut, PATIENCE), Ok(b"hello".to_vec()));
    proxy.set(Fault::Reset);
    assert_eq!(
        cut.read(&mut back).map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionReset)
    );

    proxy.set(Fault::Refuse);
    let refused = TcpStream::connect(proxy.address()).expect_err("nothing listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.set(Fault::Pass);
    assert_eq!(say(&mut connect(), PATIENCE), Ok(b"hello".to_vec()));
    assert_eq!(proxy.accepted(), 8);
}

#[test]
fn a_postfix_that_is_killed_keeps_its_queue() {
    let mut sink = SmtpSink::start();
    let mut postfix = postfix_to(&sink, None);
    sink.stop();
    let mut client = Client::connect_from(OUTSIDE, postfix.smtp_addr());
    let reply = client.send_message("a@elsewhere.test", &["u00000@example.test"], MESSAGE);
    assert_eq!(reply.code, 250, "{reply:?}");
    assert!(postfix.kill_one("smtpd", |_| 0));
    let sent = client.try_message("a@elsewhere.test", &["u00000@example.test"], MESSAGE);
    assert_eq!(sent, SendOutcome::Lost);
    postfix.restart();
    sink.restart();
    postfix.flush();
    sink.wait_for(1, PATIENCE);
}
