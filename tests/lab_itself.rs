//! The lab's own tests: what the other tests stand on.

mod lab;

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

use lab::{
    Client, DirectoryServer, PATIENCE, Postfix, PostfixOptions, Slapd, SmtpSink, smtp_source,
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
fn postfix_delivers_to_the_sink_what_it_accepted() {
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
