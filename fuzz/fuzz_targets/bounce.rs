//! Notices about reports. Where the first byte is odd, a genuine token stands in the message: at
//! the place that the second says, or, where that is 0, in In-Reply-To. Must hold: there it is
//! found, and without a genuine token nothing is; the summary of any message can be made.

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

fuzz_target!(|bytes: &[u8]| {
    let [first, second, rest @ ..] = bytes else {
        return;
    };
    let mut bytes = rest.to_vec();
    let genuine = first & 1 == 1;
    if genuine {
        let answers = format!("In-Reply-To: {}\r\n", ITEM.message_id);
        let (at, token) = match second {
            0 => (0, &answers),
            second => (bytes.len() * usize::from(*second) / 256, &ITEM.envelope_id),
        };
        bytes.splice(at..at, token.bytes());
    }
    let message = Message::new(Bytes::from(bytes));
    let found = COMPOSER.notice(&message, true);
    let is_found = found.as_ref().is_some_and(|(item, _)| *item == ITEM.id);
    assert!(is_found || found.is_none(), "an item that is none");
    assert!(!is_found || genuine, "a token that is none");
    assert!(is_found || !genuine || *second != 0, "a token that is not found");
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
