//! Directory values, on their way to the wire. The first byte says which attribute it is;
//! values are separated by 0xff. Must hold: a value that is a target becomes one RCPT command with
//! one address, and nothing of it a line of its own.

#![no_main]

use copyist::directory::fuzzing::own_address;
use copyist::directory::{Entry, Target, dn};
use copyist::mail::Address;
use copyist::smtp::{ServerSession, Event};
use copyist_fuzz::is_one_mailbox;
use libfuzzer_sys::fuzz_target;

const ATTRIBUTES: [&str; 6] = [
    "mail",
    "proxyAddresses",
    "targetAddress",
    "legacyExchangeDN",
    "member",
    "objectClass",
];

fn check(address: &Address) {
    let written = address.to_string();
    assert!(is_one_mailbox(&written), "{written:?} is not one mailbox");
    let mut session = ServerSession::new();
    session.feed(format!("MAIL FROM:<{written}>\r\n").as_bytes());
    let Some(Event::Mail(path, params)) = session.next_event() else {
        panic!("no MAIL command");
    };
    assert_eq!((path.as_str(), params.len()), (written.as_str(), 0));
    session.accept_sender(path, params);
    session.feed(format!("RCPT TO:<{written}>\r\n").as_bytes());
    assert_eq!(
        session.next_event(),
        Some(Event::Rcpt(written, Vec::new()))
    );
    assert_eq!(session.next_event(), None);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let values: Vec<String> = bytes
        .split(|byte| *byte == 0xff)
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect();
    for value in &values {
        if let Ok(target) = Target::parse(value) {
            if let Some(address) = target.smtp() {
                check(address);
            }
            let again = Target::parse(&target.to_string());
            let again = again.expect("what was written can be read again");
            assert_eq!(again.key(), target.key(), "{target}");
        }
        let key = dn::key(value);
        assert_eq!(dn::key(&key), key, "the key of {value:?} is its own");
    }
    let at = |n: usize| ATTRIBUTES[(usize::from(*first) + n) % ATTRIBUTES.len()].to_owned();
    let attributes = values.into_iter().enumerate();
    let entry = Entry::new("cn=x", attributes.map(|(n, value)| (at(n), vec![value])));
    let domain = (first & 128 != 0).then_some("corp.example");
    if let Some(address) = own_address(&entry, domain) {
        check(&address);
    }
});
