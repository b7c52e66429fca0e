//! Reports, copies and NDRs for arbitrary messages. The first byte selects the kind; then come,
//! ended by 0xff each, sender, journal address, and the text of a reason; the rest is the message.
//! Must hold: the seal is whole; the outer header has our fields and no others, each line of sound
//! length; a report has exactly two parts, of which the second is the original.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use copyist::directory::Target;
use copyist::journal::{Composer, Item, Kind, Refusal, Sealed, Sort, State};
use copyist::mail::{Address, Enhanced, Message, Reply};
use copyist::policy::{Direction, Format, Reason, InvalidTarget};
use copyist_fuzz::{address, composer, envelope, has_only_crlf, now, plan, whole};
use libfuzzer_sys::fuzz_target;
use mail_parser::{MessageParser, MimeHeaders};

static COMPOSER: LazyLock<Composer> = LazyLock::new(composer);

const OURS: [&str; 14] = [
    "From", "To", "X-MS-Journal-Report", "Subject", "Date", "Message-ID", "MIME-Version",
    "Auto-Submitted", "X-Copyist-Sender", "X-Copyist-Note", "X-Copyist-Item",
    "X-Copyist-Reason", "X-Copyist-Seal", "Content-Type",
];

/// Checks that hold for every item.
fn check(item: &Item, original: &Bytes) {
    let whole = whole(item, original);
    let message = Message::new(Bytes::from(whole.clone()));
    let sort = match item.kind {
        Kind::Version => Sort::Version,
        _ => Sort::Report,
    };
    match COMPOSER.judge(&message, &item.targets) {
        Sealed::Ours(seal) => assert_eq!((seal.id, seal.sort, seal.state), (item.id.clone(), sort, State::Whole)),
        other => panic!("its own seal: {other:?}"),
    }
    assert!(has_only_crlf(&item.prefix));
    assert!(item.prefix.split(|byte| *byte == b'\n').all(|line| line.len() <= 999), "a long line");
    // These keep the Message-ID of the original.
    if matches!(item.kind, Kind::Copy | Kind::Version) {
        return;
    }
    let answer = Message::new(Bytes::from(format!("In-Reply-To: {}\r\n\r\n", item.message_id)));
    let bounced = COMPOSER.notice(&answer, true).map(|(item, _)| item);
    assert_eq!(bounced.as_ref(), Some(&item.id));
    let parsed = MessageParser::default().parse(&whole).expect("a message");
    for header in parsed.headers() {
        let known = OURS.iter().any(|ours| ours.eq_ignore_ascii_case(header.name()))
            || header.name() == "Content-Transfer-Encoding";
        assert!(known, "{} is no field of ours", header.name());
    }
    for name in ["From", "To", "Subject", "Message-ID", "X-Copyist-Seal", "Content-Type"] {
        let times = parsed.headers().iter().filter(|h| h.name().eq_ignore_ascii_case(name)).count();
        assert_eq!(times, 1, "{name}");
    }
    if item.kind == Kind::Report {
        let parts = parts(&whole, parsed.content_type().and_then(|t| t.attribute("boundary")).expect("one"));
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1], original.as_ref());
    }
}

/// The contents of the parts of a multipart (RFC 2046 section 5.1.1).
fn parts<'a>(whole: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let delimiter = format!("\r\n--{boundary}");
    let ends: Vec<usize> = memchr::memmem::find_iter(whole, &delimiter).collect();
    let cut = |pair: &[usize]| {
        let part = &whole[pair[0] + delimiter.len() + 2..pair[1]];
        let header = memchr::memmem::find(part, b"\r\n\r\n").expect("a header");
        &part[header + 4..]
    };
    ends.windows(2).map(cut).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let mut fields = bytes.splitn(4, |byte| *byte == 0xff);
    let mut text = || String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    let (sender, journal, reason) = (text(), text(), text());
    let original = Bytes::copy_from_slice(fields.next().unwrap_or_default());
    let message = Message::new(original.clone());
    let read = |text: &str| Address::parse(text).unwrap_or_else(|_| address("ana@corp.example"));
    let (sender, journal) = ((first & 1 == 0).then(|| read(&sender)), read(&journal));
    let recipients = vec![journal.clone(), address("bo@x.test")];
    let envelope = envelope(sender, recipients);
    let because = Reason::Attribute {
        group: None,
        direction: Direction::Inbound,
        attribute: "journal".into(),
        dn: reason.clone(),
        person: journal.clone(),
    };
    let format = if first & 2 == 0 { Format::Report } else { Format::Copy };
    let mut plan = plan(format, vec![(journal.clone(), vec![because; usize::from(first >> 6) + 1])]);
    plan.from_us = first & 4 == 0;
    if let (true, Err(error)) = (first & 8 == 0, Target::parse(&reason)) {
        plan.invalid_targets.push(InvalidTarget {
            direction: Direction::Inbound,
            ndr: address("ndr@corp.example"),
            dn: (first & 16 == 0).then(|| reason.clone()),
            attribute: "journal".into(),
            value: reason.clone(),
            error,
        });
    }
    let mut items = COMPOSER.compose(&envelope, &message, &plan, now()).expect("composed");
    if first & 32 != 0 {
        let refusals = [Refusal {
            address: journal,
            reply: Reply::new(550, Enhanced(5, 1, 1), &reason),
            relay: "relay.example:25".into(),
        }];
        let to = address("ndr@corp.example");
        let ndr = COMPOSER.ndr(&items[0], &to, message.content(), &refusals, now());
        items.push(ndr.expect("composed"));
        let recipients = &envelope.recipients;
        let versions = COMPOSER.version(&envelope, &message, recipients, Direction::Inbound, now());
        items.extend(versions.expect("composed"));
    }
    // A copy or a version begins with our fields, which a first line of blanks would continue. What
    // an MTA hands over begins with a field or the empty line, so there is none such.
    if original.starts_with(b" ") || original.starts_with(b"\t") {
        items.retain(|item| !matches!(item.kind, Kind::Copy | Kind::Version));
    }
    for item in &items {
        check(item, &original);
    }
});
