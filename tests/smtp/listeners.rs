//! Access lists and limits of the listeners of the running service, and its demands on its state
//! directory.

use crate::lab;
mod state_directory;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use lab::{
    Copyist, DirectoryServer, OUTSIDE, PATIENCE, Site, SiteOptions, Slapd, free_port, message, user,
};

/// An MTA's first packet, and the letter that ours begins with.
const NEGOTIATION: &[u8] = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";

/// A service with a directory of one person, who is journaled, and nobody to deliver to.
fn config(lines: &str) -> String {
    config_with_relay(free_port(), lines)
}

/// The same with a relay on this port.
fn config_with_relay(relay: u16, lines: &str) -> String {
    format!(
        r#"
[organization]
domains = ["corp.example"]
journal_guard = "off"
[directory]
urls = ["ldif:people.ldif"]
[inbound]
journal_attribute = "journal"
journal_ndr = "ndr@corp.example"
[relay]
host = "127.0.0.1:{relay}"
[delivery]
retry = {{ first = "1s", max = "1s" }}
{lines}
"#
    )
}

const PEOPLE: &str =
    "dn: cn=dan,dc=corp\ncn: dan\nmail: dan@corp.example\njournal: journal@archive.test\n";

fn start(lines: &str) -> Copyist {
    let mut copyist = install(lines);
    copyist.restart();
    copyist
}

fn install(lines: &str) -> Copyist {
    let copyist = Copyist::install(&config(lines));
    let people = copyist.config_file().with_file_name("people.ldif");
    std::fs::write(people, PEOPLE).expect("written");
    copyist
}

/// The lines that put the milter and the admin side on these ports.
fn ports(milter: u16, admin: u16, more: &str) -> String {
    format!(
        "[admin]\nlisten = \"127.0.0.1:{admin}\"\n[hook.milter]\nlisten = [\"inet:127.0.0.1:{milter}\"]\n{more}\n"
    )
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("connected");
    stream
}

/// Sends these bytes and returns the answer, up to the first pause or the end of the connection.
fn answer(stream: &mut (impl Read + Write), bytes: &[u8]) -> Vec<u8> {
    // Whoever is turned away may be gone before it has spoken.
    let _ = stream.write_all(bytes);
    let mut heard = vec![0; 64];
    let read = stream.read(&mut heard).unwrap_or(0);
    heard.truncate(read);
    heard
}

fn is_served(stream: &mut (impl Read + Write)) -> bool {
    answer(stream, NEGOTIATION).get(4) == Some(&b'O')
}

/// A page of the admin side.
fn page(admin: u16, path: &str) -> String {
    let mut stream = connect(admin);
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    let _ = stream.write_all(request.as_bytes());
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

/// Whether mail is taken; notes may follow.
fn is_ready(admin: u16) -> bool {
    page(admin, "/readyz").contains("\r\n\r\nready\n")
}

fn counted(admin: u16, line: &str) -> u64 {
    let metrics = page(admin, "/metrics");
    let found = metrics.lines().find_map(|it| it.strip_prefix(line));
    found.map_or(0, |value| value.trim().parse().expect("a number"))
}

fn refused(admin: u16, why: &str) -> u64 {
    let line = format!("copyist_milter_connections_refused_total{{why=\"{why}\"}}");
    counted(admin, &line)
}

/// A connection is closed a moment before it is counted.
fn wait_for_refused(admin: u16, why: &str, count: u64) {
    lab::wait(why, PATIENCE, || refused(admin, why) == count);
}

/// One packet.
fn packet(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).expect("short");
    [&length.to_be_bytes()[..], &[kind], payload].concat()
}

/// A message to somebody, from its MAIL to its end.
fn mail(to: &str, body: &[u8]) -> Vec<u8> {
    let rcpt = format!("<{to}>\0");
    [
        packet(b'M', b"<x@elsewhere.test>\0"),
        packet(b'R', rcpt.as_bytes()),
        packet(b'L', b"Subject\0 s\0"),
        packet(b'N', b""),
        packet(b'B', body),
        packet(b'E', b""),
    ]
    .concat()
}

/// The verdict about a message to somebody: `a`, or the text of a reply.
fn verdict(stream: &mut (impl Read + Write), to: &str, body: &[u8]) -> String {
    let heard = answer(stream, &mail(to, body));
    String::from_utf8_lossy(&heard[4..])
        .trim_end_matches('\0')
        .to_owned()
}

#[test]
fn only_clients_that_are_allowed_are_served_over_tcp() {
    let (milter, admin) = (free_port(), free_port());
    let lines = ports(milter, admin, "allow_clients = [\"127.0.0.2\"]");
    let copyist = start(&lines);
    let mut stranger = connect(milter);
    assert!(!is_served(&mut stranger));
    let line = copyist.wait_for_log(0, "milter connection rejected");
    assert!(
        line.contains("127.0.0.1") && line.contains("hook.milter.allow_clients"),
        "{line}"
    );
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let mut known =
        lab::connect(from, SocketAddr::from(([127, 0, 0, 1], milter))).expect("connected");
    assert!(is_served(&mut known));
    wait_for_refused(admin, "client", 1);
}

#[test]
fn only_clients_that_are_allowed_see_the_admin_side() {
    let (milter, admin) = (free_port(), free_port());
    let lines = format!(
        "[hook.milter]\nlisten = [\"inet:127.0.0.1:{milter}\"]\n[admin]\nlisten = \"127.0.0.1:{admin}\"\nallow_clients = [\"127.0.0.2\"]\n"
    );
    let _copyist = start(&lines);
    assert_eq!(page(admin, "/healthz"), "");
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let mut known =
        lab::connect(from, SocketAddr::from(([127, 0, 0, 1], admin))).expect("connected");
    known
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .expect("written");
    let mut text = String::new();
    known.read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.0 200"), "{text}");
    assert!(
        text.contains("copyist_admin_connections_refused_total 1"),
        "{text}"
    );
}

/// Returns the answer of a socket to an MTA's first packet, sent by another user.
fn as_user(id: u32, socket: &Path) -> String {
    // Debian's own Perl: it is on every such machine, and every user may run it.
    let script = "use IO::Socket::UNIX; $SIG{PIPE} = 'IGNORE'; $SIG{ALRM} = sub { die 'silence' }; alarm 60;\
        $s = IO::Socket::UNIX->new($ARGV[0]) or do { print 'no permission'; exit };\
        syswrite $s, pack('H*', $ARGV[1]); sysread($s, $d, 64) ? print(substr($d, 4, 1)) : print('closed')";
    let hex: String = NEGOTIATION
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (uid, gid) = (format!("--reuid={id}"), format!("--regid={id}"));
    let mut command = Command::new("setpriv");
    command.args([&uid, &gid, "--clear-groups", "/usr/bin/perl", "-e", script]);
    let output = lab::run(command.arg(socket).arg(hex));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn only_users_that_are_allowed_are_served_on_a_socket() {
    let directory = lab::open_directory();
    let socket = directory.path().join("milter.sock");
    let lines = format!(
        "[admin]\nlisten = \"off\"\n[hook.milter]\nlisten = [\"unix:{}\"]\nsocket_mode = \"0666\"\nallow_users = [\"root\", \"4711\"]\n",
        socket.display()
    );
    let copyist = start(&lines);
    assert_eq!(as_user(4711, &socket), "O");
    assert_eq!(as_user(4712, &socket), "closed");
    let line = copyist.wait_for_log(0, "hook.milter.allow_users");
    assert!(line.contains("user 4712"), "{line}");
    assert!(is_served(
        &mut UnixStream::connect(&socket).expect("root may")
    ));
}

#[test]
fn a_unix_socket_admits_only_its_group() {
    let directory = lab::open_directory();
    let socket = directory.path().join("milter.sock");
    let lines = |more: &str| {
        format!(
            "[admin]\nlisten = \"off\"\n[hook.milter]\nlisten = [\"unix:{}\"]\n{more}\n",
            socket.display()
        )
    };
    let mut copyist = start(&lines("socket_group = \"4711\""));
    let found = std::fs::metadata(&socket).expect("there");
    assert_eq!((found.mode() & 0o7777, found.gid()), (0o660, 4711));
    assert_eq!(as_user(4711, &socket), "O");
    assert_eq!(as_user(4712, &socket), "no permission");
    copyist.write_config(&config(&lines("socket_mode = \"0600\"")));
    copyist.term_and_wait();
    copyist.restart();
    let found = std::fs::metadata(&socket).expect("there");
    assert_eq!(found.mode() & 0o7777, 0o600);
}

#[test]
fn a_non_milter_client_is_closed_while_mtas_are_served() {
    let (milter, admin) = (free_port(), free_port());
    let lines = ports(milter, admin, "[limits]\nnegotiation_time = \"1s\"");
    let copyist = start(&lines);
    let mut mta = connect(milter);
    assert!(is_served(&mut mta));
    let strangers: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: mx\r\n\r\n",
        b"EHLO spam.test\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\xff\xff\xff\xffB",
        b"\0\0\0\x0dX",
    ];
    for bytes in strangers {
        let mut stream = connect(milter);
        let began = Instant::now();
        assert_eq!(answer(&mut stream, bytes), b"", "{bytes:?}");
        assert!(began.elapsed() < PATIENCE, "closed, and not given up");
        // The first of them is told of, and those of the next ten seconds are counted.
        let line = copyist.wait_for_log(0, "not a milter client");
        assert!(line.contains("an HTTP request"), "{line}");
    }
    // One that says nothing, and one that says half.
    for bytes in [&b""[..], &NEGOTIATION[..7]] {
        assert_eq!(answer(&mut connect(milter), bytes), b"");
    }
    wait_for_refused(admin, "stranger", 7);
    assert_eq!(verdict(&mut mta, "nobody@corp.example", b"x"), "a");
}

#[test]
fn a_connection_over_the_limit_is_closed_until_one_ends() {
    let (milter, admin) = (free_port(), free_port());
    let copyist = start(&ports(milter, admin, "[limits]\nconnections = 2"));
    let (mut first, mut second) = (connect(milter), connect(milter));
    assert!(is_served(&mut first) && is_served(&mut second));
    assert!(!is_served(&mut connect(milter)));
    assert!(!is_served(&mut connect(milter)));
    copyist.wait_for_log(0, "limits.connections");
    wait_for_refused(admin, "connections", 2);
    assert_eq!(verdict(&mut second, "nobody@corp.example", b"x"), "a");
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    while !is_served(&mut connect(milter)) {
        assert!(Instant::now() < deadline, "its place stays taken");
    }
    // New limits count for new connections, without a restart.
    let from = copyist.log_length();
    let mut copyist = copyist;
    copyist.write_config(&config(&ports(milter, admin, "[limits]\nconnections = 50")));
    copyist.hup();
    copyist.wait_for_log(from, "configuration reloaded");
    let mut many: Vec<TcpStream> = (0..40).map(|_| connect(milter)).collect();
    assert!(many.iter_mut().all(is_served));
}

#[test]
fn postfix_hears_of_each_limit_and_goes_on() {
    let options = SiteOptions {
        lines: "[limits]\nmessage_size = \"100kB\"\nheader_size = \"10kB\"\nrecipients = 3\n",
        ..SiteOptions::default()
    };
    let site: Site<Slapd> = Site::start_as(Slapd::start(1000), options);
    let mut client = site.client(OUTSIDE);
    let to = user(3);
    let mut send = |id: &str, content: &str| {
        client.send_message("x@elsewhere.test", &[&to], &message(id, content))
    };
    let large = "0123456789\r\n".repeat(20_000);
    let reply = send("<large@x>", &large);
    assert_eq!(reply.code, 552, "{reply:?}");
    assert!(reply.text.starts_with("5.3.4 "), "{reply:?}");
    let reply = send("<next@x>", "small");
    assert_eq!(reply.code, 250, "{reply:?}");
    let fields: String = (0..200)
        .map(|n| format!("X-{n}: {}\r\n", "y".repeat(80)))
        .collect();
    let reply = client.send_message(
        "x@elsewhere.test",
        &[&to],
        &(fields + &message("<head@x>", "x")),
    );
    assert_eq!(
        (reply.code, reply.text.starts_with("5.3.4 ")),
        (552, true),
        "{reply:?}"
    );
    // Recipients are asked about: the journal guard is on.
    assert_eq!(client.say("MAIL FROM:<x@elsewhere.test>").code, 250);
    for n in 1..=3 {
        assert_eq!(client.say(&format!("RCPT TO:<{}>", user(n))).code, 250);
    }
    let reply = client.say(&format!("RCPT TO:<{}>", user(4)));
    assert_eq!(
        (reply.code, reply.text.starts_with("4.5.3 ")),
        (452, true),
        "{reply:?}"
    );
    assert_eq!(client.say("DATA").code, 354);
    assert_eq!(client.content(&message("<three@x>", "x")).code, 250);
    let report = site.wait_for_report("<three@x>");
    assert!(!report.text.contains(&user(4)), "{}", report.text);
    for (limit, count) in [("message_size", 1), ("header_size", 1), ("recipients", 1)] {
        let line = format!("copyist_limit_refusals_total{{limit=\"{limit}\"}}");
        assert_eq!(counted(site.admin, &line), count, "{limit}");
    }
}

#[test]
fn two_hundred_connections_take_little_memory() {
    /// Of a debug build with its libraries; a connection adds its buffers.
    const MOST_KIB: u64 = 128 * 1024;
    let (milter, admin) = (free_port(), free_port());
    let copyist = start(&ports(milter, admin, ""));
    let mut first = connect(milter);
    assert_eq!(
        (
            is_served(&mut first),
            verdict(&mut first, "dan@corp.example", b"x").as_str()
        ),
        (true, "a")
    );
    let alone = copyist.status("VmRSS");
    let mut all: Vec<TcpStream> = (0..200).map(|_| connect(milter)).collect();
    assert!(all.iter_mut().all(is_served));
    let idle = copyist.status("VmRSS");
    let part = [
        packet(b'M', b"<x@elsewhere.test>\0"),
        packet(b'R', b"<dan@corp.example>\0"),
        packet(b'L', b"Subject\0 s\0"),
        packet(b'N', b""),
        packet(b'B', &[b'x'; 50_000]),
    ]
    .concat();
    let in_flight = || counted(admin, "copyist_memory_in_flight_bytes");
    assert_eq!(in_flight(), 0);
    for stream in &mut all {
        stream.write_all(&part).expect("written");
    }
    lab::wait("all is accounted for", PATIENCE, || {
        in_flight() >= 200 * 50_000
    });
    // Each has taken in what was sent when it has answered what follows that.
    let mut within = 0;
    for stream in &mut all {
        let reply = answer(stream, &packet(b'E', b""));
        assert_eq!(reply.get(4), Some(&b'a'));
        within = within.max(copyist.status("VmRSS"));
    }
    assert_eq!(in_flight(), 0, "and given back");
    println!(
        "resident: {alone} KiB with one connection, {idle} KiB with 200 idle, at most {within} KiB with 200 within a message of 50 kB"
    );
    assert!(within < MOST_KIB, "{within} KiB");
}

#[test]
fn incomplete_admin_requests_time_out_and_do_not_slow_mail() {
    let (milter, admin) = (free_port(), free_port());
    let copyist = start(&ports(milter, admin, ""));
    let before = copyist.descriptors();
    let mut half: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect(admin);
            // Closed already, where there are too many.
            let _ = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: local");
            stream
        })
        .collect();
    let mut mta = connect(milter);
    assert!(is_served(&mut mta));
    assert_eq!(verdict(&mut mta, "dan@corp.example", b"meanwhile"), "a");
    assert!(copyist.descriptors() < before + 64 + 20);
    copyist.wait_for_log(0, "admin connection rejected");
    for stream in &mut half {
        // Its end, or a reset where something was not read.
        let _ = std::io::copy(stream, &mut std::io::sink());
    }
    assert!(is_ready(admin));
}

#[test]
fn wrong_tokens_wait_for_each_other_and_the_right_one_does_not() {
    let admin = free_port();
    let mut copyist = install("");
    let token = copyist.config_file().with_file_name("token");
    std::fs::write(&token, "the-right-token-of-this-test\n").expect("written");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("ours");
    copyist.write_config(&config(&format!(
        "[admin]\nlisten = \"127.0.0.1:{admin}\"\ntoken_file = \"{}\"\n[hook.milter]\nlisten = [\"inet:127.0.0.1:{}\"]\n",
        token.display(),
        free_port()
    )));
    copyist.restart();
    let ask = |token: &str| {
        let mut stream = connect(admin);
        let request = format!(
            "GET /settings HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("connected");
        stream
    };
    let status = |mut stream: TcpStream| {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("answered");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let begun = Instant::now();
    let wrong: Vec<TcpStream> = (0..3).map(|n| ask(&format!("wrong-{n}"))).collect();
    assert_eq!(status(ask("the-right-token-of-this-test")), "HTTP/1.1 200");
    for stream in wrong {
        assert_eq!(status(stream), "HTTP/1.1 401");
    }
    assert!(begun.elapsed().as_secs() >= 3, "{:?}", begun.elapsed());
}
