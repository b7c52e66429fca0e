//! Clients that hold connections and do nothing with them.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

use super::lab::{Client, PATIENCE, message, wait};
use super::{ProxySite, to_dan};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// Opens idle connections from here, until no more are let in; gives those that are.
fn crowd(site: &ProxySite, tries: usize) -> Vec<TcpStream> {
    let opened = (0..tries).filter_map(|_| {
        let mut stream = TcpStream::connect(site.agent.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("connected");
        // A greeting, or the end.
        let greeted = stream.read(&mut [0; 512]).is_ok_and(|read| read > 0);
        greeted.then_some(stream)
    });
    opened.collect()
}

#[test]
fn one_client_s_idle_connections_do_not_block_others() {
    let site = ProxySite::start("allow_xclient = []", "[limits]\nconnections = 40");
    let idle = crowd(&site, 60);
    assert_eq!(idle.len(), 10, "a quarter of 40");
    for n in 0..10 {
        let mut client = Client::connect_from(THERE, site.agent.address);
        assert_eq!(to_dan(&mut client, &format!("<{n}@corp.example>")), 250);
    }
    site.agent
        .copyist
        .wait_for_log(0, "client already has a quarter of limits.connections open");
    drop(idle);
    wait("a place is free", PATIENCE, || crowd(&site, 1).len() == 1);
    let mut client = Client::connect_from(HERE, site.agent.address);
    assert_eq!(to_dan(&mut client, "<after@corp.example>"), 250);
}

#[test]
fn clients_behind_a_front_server_are_counted_one_by_one() {
    let site = ProxySite::start("", "[limits]\nconnections = 16");
    // Itself it has no limit but the one for all.
    let mut clients: Vec<Client> = (0..10).map(|_| site.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let said = client.say("XCLIENT ADDR=192.0.2.7").code;
        assert_eq!(said, if n < 4 { 220 } else { 421 }, "{n}");
    }
    let said = site.client().say("XCLIENT ADDR=192.0.2.8").code;
    assert_eq!(said, 220, "another client has room");
}

#[test]
fn a_silent_client_holds_no_next_hop_connection_and_times_out() {
    let site = ProxySite::start("", "[limits]\nnegotiation_time = \"4s\"");
    let mut idle = crowd(&site, 2);
    assert_eq!(site.next.connections(), 2);
    // Longer than a connection to the next server waits for the first word.
    let stream = &mut idle[0];
    let briefly = Some(Duration::from_millis(1500));
    stream.set_read_timeout(briefly).expect("connected");
    assert!(stream.read(&mut [0]).is_err(), "it says nothing more");
    let content = message("<busy@elsewhere.test>", "text");
    for _ in 0..2 {
        let sent = (site.client()).send_message("a@x.test", &["dan@corp.example"], &content);
        assert_eq!(sent.code, 250);
    }
    assert_eq!(site.next.connections(), 2, "those that idled are used");
    stream.set_read_timeout(Some(PATIENCE)).expect("connected");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("text");
    assert!(said.starts_with("421 4.4.2 "), "{said}");
}
