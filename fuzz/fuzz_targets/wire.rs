//! Arbitrary bytes as a message, cut in three by the first two bytes, delivered to a relay that
//! takes everything. Must hold: what went over the wire has no bare CR or LF, and who takes the
//! dots away again has the bytes that were given, every line break a CRLF.

#![no_main]

use bytes::Bytes;
use copyist::deliver::fuzzing::{deliver, on_the_wire};
use copyist::mail::{BodyKind, Message};
use copyist::smtp::{ServerSession, Event};
use copyist_fuzz::{Peer, address, composer, has_only_crlf, report, run, with_crlf};
use libfuzzer_sys::fuzz_target;

const ANSWERS: &[u8] = b"220 relay\r\n250-relay\r\n250 PIPELINING\r\n250-relay\r\n250-PIPELINING\r\n250 8BITMIME\r\n\
    250 ok\r\n250 ok\r\n354 go on\r\n250 taken\r\n";

fuzz_target!(|bytes: &[u8]| {
    let [one, two, bytes @ ..] = bytes else {
        return;
    };
    let first = bytes.len() * usize::from(*one) / 256;
    let second = first + (bytes.len() - first) * usize::from(*two) / 256;
    let segments = [&bytes[..first], &bytes[first..second], &bytes[second..]];
    let segments = segments.map(Bytes::copy_from_slice);

    let sent = on_the_wire(&segments);
    assert!(has_only_crlf(&sent), "a bare CR or LF goes out");
    let mut meant = with_crlf(bytes);
    if meant.ends_with(b"\r\n") {
        meant.truncate(meant.len() - 2);
    }
    assert_eq!(sent, meant);

    let mut item = report(&composer(), &Message::new(Bytes::new()));
    let [prefix, original, suffix] = segments;
    (item.prefix, item.suffix, item.body) = (prefix, suffix, BodyKind::EightBit);
    let (peer, heard) = Peer::new(ANSWERS.to_vec());
    let to = [address("j@corp.example")];
    let delivered = run(deliver(Box::new(peer), &item, &original, &to));
    assert_eq!(delivered, Ok(vec![true]));
    let heard = heard.lock().expect("alone");
    assert!(has_only_crlf(&heard), "a bare CR or LF went out");
    let mut session = ServerSession::new();
    session.feed(&heard);
    let mut messages = Vec::new();
    while let Some(event) = session.next_event() {
        match event {
            Event::Mail(path, params) => session.accept_sender(path, params),
            Event::Rcpt(path, params) => session.accept_recipient(path, params),
            Event::Message(message) => messages.push(message.data),
            Event::Hello(_) | Event::Data => {}
            other => panic!("{other:?} was no part of the delivery"),
        }
    }
    meant.extend_from_slice(b"\r\n");
    assert_eq!(messages, [meant]);
});
