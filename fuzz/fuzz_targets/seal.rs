//! Messages that want to be taken for ours. Where the first byte is even, the rest is the message;
//! where it is odd, the rest are changes to a genuine report: two bytes for the place, one for the
//! byte to put there. Must hold: a seal holds only with the body that it was made for, but for
//! what transfer may change.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use copyist::journal::{Composer, Sealed, State};
use copyist::mail::{Address, Message};
use copyist_fuzz::{address, as_compared, composer, report, whole};
use libfuzzer_sys::fuzz_target;

static COMPOSER: LazyLock<Composer> = LazyLock::new(composer);
static TO: LazyLock<Address> = LazyLock::new(|| address("j@corp.example"));
static GENUINE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let original = Bytes::from_static(b"Subject: x\r\n\r\nHello\r\n\r\n");
    whole(&report(&COMPOSER, &Message::new(original.clone())), &original)
});

/// The lines of the body that are no fields, delimiters or blank: what another reader sees of it,
/// whatever it makes of the rest.
fn seen(bytes: &[u8]) -> Vec<String> {
    let message = Message::new(Bytes::copy_from_slice(bytes));
    let body = String::from_utf8_lossy(&as_compared(&bytes[message.header().len()..])).into_owned();
    let lines = body.split("\r\n").map(str::trim_end);
    let is_text = |line: &&str| !line.is_empty() && !line.contains(':') && !line.starts_with(['-', ' ', '\t']);
    lines.filter(is_text).map(str::to_owned).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    if first & 1 == 0 {
        let message = Message::new(Bytes::copy_from_slice(rest));
        let forged = COMPOSER.judge(&message, [&*TO]);
        let is_none = matches!(forged, Sealed::No | Sealed::Refused(_));
        assert!(is_none, "a seal without the key: {forged:?}");
        return;
    }
    let mut altered = GENUINE.clone();
    for change in rest.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % altered.len().max(1);
        match (first >> 1) % 3 {
            0 => altered[at] = change[2],
            1 => altered.insert(at, change[2]),
            _ if at + 1 < altered.len() => drop(altered.remove(at)),
            _ => {}
        }
    }
    let message = Message::new(Bytes::from(altered.clone()));
    if let Sealed::Ours(seal) = COMPOSER.judge(&message, [&*TO])
        && seal.state != State::Body
    {
        assert_eq!(seen(&altered), seen(&GENUINE), "a body that we did not write");
    }
    let other = address("k@corp.example");
    let for_other = COMPOSER.judge(&message, [&*TO, &other]);
    let is_none = matches!(for_other, Sealed::No | Sealed::Refused(_));
    assert!(is_none, "for somebody else: {for_other:?}");
});
