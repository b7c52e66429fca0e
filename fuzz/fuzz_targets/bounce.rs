//! Bounces. Where the first octet is odd, a genuine token stands in the message, at the place that the second says. Must
//! hold: a genuine token is found, and nothing else is taken for one; the summary of any message can be made.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use copyist::journal::{Composer, Item};
use copyist::mail::Message;
use copyist_fuzz::{composer, report};
use libfuzzer_sys::fuzz_target;

static COMPOSER: LazyLock<Composer> = LazyLock::new(composer);
static ITEM: LazyLock<Item> =
    LazyLock::new(|| report(&COMPOSER, &Message::new(Bytes::from_static(b"Subject: x\r\n\r\n"))));

fuzz_target!(|octets: &[u8]| {
    let [first, second, rest @ ..] = octets else {
        return;
    };
    let mut octets = rest.to_vec();
    let genuine = first & 1 == 1;
    if genuine {
        let at = octets.len() * usize::from(*second) / 256;
        octets.splice(at..at, ITEM.envelope_id.bytes());
    }
    let message = Message::new(Bytes::from(octets));
    let found = COMPOSER.bounce(&message);
    assert_eq!(found.as_ref().map(|(item, _)| item), genuine.then_some(&ITEM.id));
    // What it says is shown on terminals.
    if let Some((_, bounce)) = found {
        for text in [bounce.reporter, bounce.action, bounce.status, bounce.said] {
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
    let summary = message.summary();
    assert!(!summary.subject.contains(['\r', '\n']));
    assert!(!summary.message_id.contains(['\r', '\n']));
});
