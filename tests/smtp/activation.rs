//! Sockets that are open before the service runs: whoever connects meanwhile waits, and is served.

use crate::lab;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use lab::{Copyist, PATIENCE, free_port};

/// Settings with these listeners, and a directory of one person in a file of this temporary
/// directory.
fn config(files: &Path, milter: &str, admin: u16) -> String {
    let people = files.join("people.ldif");
    lab::write(
        &people,
        "dn: cn=dan,dc=corp\ncn: dan\nmail: dan@corp.example\n",
    );
    let people = people.display();
    format!(
        r#"
[organization]
domains = ["corp.example"]
[directory]
urls = ["ldif:{people}"]
[inbound]
journal = "archive@corp.example"
journal_ndr = "ndr@corp.example"
[hook.milter]
listen = ["{milter}"]
[relay]
host = "127.0.0.1:1"
[admin]
listen = "127.0.0.1:{admin}"
"#
    )
}

/// Begins as an MTA does (SMFIC_OPTNEG, version 6), and gives the kind of the answer.
fn negotiate(mut stream: impl Read + Write) -> char {
    let offer = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
    stream.write_all(offer).expect("it is written");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("it is answered");
    char::from(answer[4])
}

#[test]
fn clients_that_connect_before_the_start_are_served() {
    let files = lab::open_directory();
    let (milter, admin) = (free_port(), free_port());
    let listen = [milter, admin].map(|port| format!("127.0.0.1:{port}"));
    let config = config(files.path(), &format!("inet:{}", listen[0]), admin);
    let mut copyist = Copyist::start_on_demand(&listen, &config);
    // Nothing but systemd's tool runs yet.
    let early = TcpStream::connect(&listen[0]).expect("somebody listens");
    early.set_read_timeout(Some(PATIENCE)).expect("it is set");
    assert_eq!(negotiate(early), 'O');
    copyist.wait_for_log(0, &format!("listening on inet:{}", listen[0]));
    let mut health = TcpStream::connect(&listen[1]).expect("somebody listens");
    health.set_read_timeout(Some(PATIENCE)).expect("it is set");
    let ask = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    health.write_all(ask.as_bytes()).expect("it is written");
    let mut answer = String::new();
    health.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(copyist.term_and_wait().success());
}

#[test]
fn an_inherited_unix_socket_outlives_the_service() {
    let files = lab::open_directory();
    let path = files.path().join("milter.sock");
    let listen = [path.display().to_string()];
    let config = config(
        files.path(),
        &format!("unix:{}", path.display()),
        free_port(),
    );
    let mut copyist = Copyist::start_on_demand(&listen, &config);
    let stream = UnixStream::connect(&path).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is set");
    assert_eq!(negotiate(stream), 'O');
    copyist.wait_for_log(0, &format!("listening on unix:{}", path.display()));
    assert!(copyist.term_and_wait().success());
    let is_socket = |path: &Path| {
        path.metadata()
            .is_ok_and(|file| file.file_type().is_socket())
    };
    assert!(is_socket(&path), "systemd listens on it still");
}

#[test]
fn an_inherited_socket_without_a_setting_prevents_the_start() {
    let files = lab::open_directory();
    let (named, unnamed) = (free_port(), format!("127.0.0.1:{}", free_port()));
    let config = config(
        files.path(),
        &format!("inet:127.0.0.1:{named}"),
        free_port(),
    );
    let copyist = Copyist::start_on_demand(std::slice::from_ref(&unnamed), &config);
    let _caller = TcpStream::connect(&unnamed).expect("somebody listens");
    let said = copyist.wait_for_log(0, "which is in no listen setting");
    assert!(
        said.contains(&unnamed) && said.contains("hook.milter.listen"),
        "{said}"
    );
}

#[test]
fn the_supervisor_hears_when_mail_is_taken_and_when_no_more() {
    let files = lab::open_directory();
    let path = files.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).expect("bound");
    supervisor
        .set_read_timeout(Some(PATIENCE))
        .expect("it is set");
    let hear = || {
        let mut words = [0; 64];
        let length = supervisor.recv(&mut words).expect("something is told");
        String::from_utf8_lossy(&words[..length]).into_owned()
    };
    let environment = vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())];
    let milter = free_port();
    let config = config(
        files.path(),
        &format!("inet:127.0.0.1:{milter}"),
        free_port(),
    );
    let mut copyist = Copyist::start_in(environment, &config);
    assert_eq!(hear(), "READY=1");
    TcpStream::connect(("127.0.0.1", milter)).expect("somebody listens");
    assert!(copyist.term_and_wait().success());
    assert_eq!(hear(), "STOPPING=1");
}
