//! The receiving side of SMTP, fed with arbitrary bytes. The first says how long the pieces are.
//! Must hold: the pieces make no difference; a message has only lines that end in CRLF where the
//! client sent such.

#![no_main]

use copyist::smtp::{ServerSession, Event};
use libfuzzer_sys::fuzz_target;

fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Event> {
    let (mut session, mut events) = (ServerSession::new(), Vec::new());
    for piece in pieces {
        session.feed(piece);
        while let Some(event) = session.next_event() {
            match event.clone() {
                Event::Mail(path, params) => session.accept_sender(path, params),
                Event::Rcpt(path, params) => session.accept_recipient(path, params),
                _ => {}
            }
            events.push(event);
        }
    }
    events
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let at_once = events(std::iter::once(bytes));
    assert_eq!(events(bytes.chunks(usize::from(*first) + 1)), at_once);
    for event in at_once {
        if let Event::Message(message) = event {
            assert!(message.data.is_empty() || message.data.ends_with(b"\r\n"));
        }
    }
});
