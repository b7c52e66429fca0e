//! A relay that says anything. The first byte says what is delivered to how many. Must hold: it
//! ends; nothing counts as delivered without 354 and a 250 after it.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use copyist::deliver::fuzzing::deliver;
use copyist::journal::Item;
use copyist::mail::{Address, BodyKind, Enhanced, Message, Reply};
use copyist_fuzz::{Peer, address, composer, has_only_crlf, report, run};
use libfuzzer_sys::fuzz_target;

const ORIGINAL: Bytes = Bytes::from_static(b"Subject: x\r\n\r\n..\r\n");
static ITEM: LazyLock<Item> = LazyLock::new(|| report(&composer(), &Message::new(ORIGINAL)));

fuzz_target!(|bytes: &[u8]| {
    let Some((first, says)) = bytes.split_first() else {
        return;
    };
    let to: Vec<Address> = (0..=first % 4).map(|n| address(&format!("j{n}@corp.example"))).collect();
    let mut item = ITEM.clone();
    if first & 16 != 0 {
        item.body = BodyKind::EightBit;
    }
    item.smtputf8 = first & 32 != 0;
    let (peer, heard) = Peer::new(says.to_vec());
    let fates = run(deliver(Box::new(peer), &item, &ORIGINAL, &to));
    if fates.is_ok_and(|fates| fates.contains(&true)) {
        let lines = || says.split(|byte| *byte == b'\n').enumerate();
        let go_on = lines().find(|(_, line)| line.starts_with(b"354")).expect("no 354");
        let taken = |(at, line): (usize, &[u8])| at > go_on.0 && line.starts_with(b"250");
        assert!(lines().any(taken), "no 250 after 354");
    }
    assert!(has_only_crlf(&heard.lock().expect("alone")));
    let text = String::from_utf8_lossy(says);
    if let Some(status) = Enhanced::from_text(&text) {
        assert_eq!(Enhanced::from_text(&status.to_string()), Some(status));
    }
    let reply = Reply::new(550, Enhanced(5, 0, 0), &text).to_string();
    assert!(!reply.contains(['\r', '\n']));
});
