//! Claims about what is written, checked with a parser that nobody here wrote.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mail_parser::{MessageParser, MimeHeaders};

use super::*;
use crate::directory::Target;
use crate::mail::{Address, BodyKind, Client, Enhanced, Envelope, Message, Recipient, Reply};
use crate::policy::{Direction, Format, InvalidTarget, JournalCopy, Plan, Reason};

mod notices;

fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

fn composer() -> Composer {
    let settings = Settings {
        report_from: address("journal@corp.example"),
        hostname: "mx.corp.example".into(),
    };
    Composer::new(settings, Key::ephemeral().expect("a key"))
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_491_141)
}

fn envelope(sender: Option<&str>, recipients: &[&str]) -> Envelope {
    Envelope {
        sender: sender.map(address),
        recipients: recipients
            .iter()
            .map(|text| Recipient::new(address(text)))
            .collect(),
        client: Client::default(),
        ..Envelope::default()
    }
}

fn message(text: &str) -> Message {
    Message::new(Bytes::copy_from_slice(text.as_bytes()))
}

const OFFER: &str = "From: Sales <sales@corp.example>\r\nTo: buyer@customer.test, team@corp.example\r\n\
    Cc: bo@corp.example\r\nSubject: Offer 4711\r\nMessage-ID: <abc@pc7.corp.example>\r\n\r\nDear buyer,\r\n..\r\n";

fn plan(ours: bool, format: Format, targets: &[&str]) -> Plan {
    let copy = JournalCopy {
        what: Default::default(),
        direction: Direction::Inbound,
        format,
        ndr: address("ndr@corp.example"),
        targets: targets
            .iter()
            .map(|text| (address(text), vec![Reason::Setting(Direction::Inbound)]))
            .collect(),
    };
    Plan {
        from_us: ours,
        copies: vec![copy],
        ..Plan::default()
    }
}

/// What the seal of a report for these recipients says, if it is one.
fn state(
    composer: &Composer,
    message: &Message,
    to: &[&Address],
) -> Result<(ItemId, State), Sealed> {
    match composer.judge(message, to.iter().copied()) {
        Sealed::Ours(seal) => Ok((seal.id, seal.state)),
        other => Err(other),
    }
}

fn whole(item: &Item, original: &Message) -> Vec<u8> {
    [&item.prefix, original.content().beginning(), &item.suffix]
        .map(AsRef::as_ref)
        .concat()
}

fn only(items: Result<Vec<Item>, ComposeError>) -> Item {
    let mut items = items.expect("composed");
    assert_eq!(items.len(), 1);
    items.remove(0)
}

/// The content of the n-th part (from 1) of a multipart, cut at the boundary as RFC 2046 section
/// 5.1.1 says.
fn part(whole: &[u8], n: usize) -> &[u8] {
    let parsed = MessageParser::default().parse(whole).expect("parsed");
    let kind = parsed.content_type().expect("a type");
    let delimiter = format!("\r\n--{}", kind.attribute("boundary").expect("a boundary"));
    let ends: Vec<usize> = memchr::memmem::find_iter(whole, &delimiter).collect();
    let part = &whole[ends[n - 1] + delimiter.len() + 2..ends[n]];
    &part[memchr::memmem::find(part, b"\r\n\r\n").expect("a header") + 4..]
}

/// Composes a report and gives (item, whole, envelope part).
fn report(
    composer: &Composer,
    envelope: &Envelope,
    original: &Message,
    ours: bool,
) -> (Item, Vec<u8>, String) {
    let plan = plan(ours, Format::Report, &["j@corp.example", "k@archive.test"]);
    let item = only(composer.compose(envelope, original, &plan, now()));
    let whole = whole(&item, original);
    let parsed = MessageParser::default().parse(&whole).expect("parsed");
    let text = parsed.parts[1]
        .text_contents()
        .expect("a text part")
        .to_owned();
    let children = parsed.parts[0].sub_parts().expect("a multipart").len();
    assert_eq!(children, 2, "envelope part and original");
    (item, whole, text)
}

#[test]
fn the_envelope_part_of_internal_mail_lists_to_cc_and_bcc() {
    let envelope = envelope(
        Some("ana@corp.example"),
        &[
            "buyer@customer.test",
            "bo@corp.example",
            "boss@corp.example",
            "team@corp.example",
        ],
    );
    let (_, _, text) = report(&composer(), &envelope, &message(OFFER), true);
    assert_eq!(
        text.trim_end(),
        "Sender: ana@corp.example\r\nOn-Behalf-Of: sales@corp.example\r\nSubject: Offer 4711\r\n\
         Message-Id: <abc@pc7.corp.example>\r\nTo: buyer@customer.test\r\nTo: team@corp.example\r\n\
         Cc: bo@corp.example\r\nBcc: boss@corp.example"
    );
}

#[test]
fn an_outsider_s_header_proves_nothing() {
    let envelope = envelope(
        Some("ana@else.test"),
        &["bo@corp.example", "boss@corp.example"],
    );
    let (_, _, text) = report(&composer(), &envelope, &message(OFFER), false);
    assert_eq!(
        text.trim_end(),
        "Sender: ana@else.test\r\nSubject: Offer 4711\r\nMessage-Id: <abc@pc7.corp.example>\r\n\
         Recipient: bo@corp.example\r\nRecipient: boss@corp.example"
    );
}

#[test]
fn a_null_sender_shows_the_author_and_the_truth_outside() {
    let original = message("From: mailer-daemon@else.test\r\n\r\nbounce");
    let (item, _, text) = report(
        &composer(),
        &envelope(None, &["dan@corp.example"]),
        &original,
        false,
    );
    assert!(
        text.starts_with("Sender: mailer-daemon@else.test\r\nSubject: \r\nMessage-Id: \r\n"),
        "{text}"
    );
    assert!(String::from_utf8_lossy(&item.prefix).contains("\r\nX-Copyist-Sender: <>\r\n"));
}

#[test]
fn the_original_is_attached_byte_for_byte() {
    let originals = [
        OFFER,
        "no header",
        "",
        "\r\n",
        "A: b\r\n\r\nno newline at the end",
        "A: b\n\nbare\nlines\r\n",
        "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\ncut off",
    ];
    for original in originals {
        let original = message(original);
        let envelope = envelope(Some("a@b.test"), &["dan@corp.example"]);
        let plan = plan(false, Format::Report, &["j@corp.example"]);
        let item = only(composer().compose(&envelope, &original, &plan, now()));
        let whole = whole(&item, &original);
        assert_eq!(
            part(&whole, 2),
            original.content().beginning(),
            "{original:?}"
        );
    }
}

#[test]
fn the_outer_header_has_the_fields_archives_expect() {
    let envelope = envelope(Some("ana@corp.example"), &["buyer@customer.test"]);
    let (item, _, _) = report(&composer(), &envelope, &message(OFFER), true);
    let header = String::from_utf8_lossy(&item.prefix);
    let at = |text: &str| {
        header
            .find(text)
            .unwrap_or_else(|| panic!("{text:?} is missing in {header}"))
    };
    assert!(at("To: j@corp.example,\r\n k@archive.test\r\n") < at("\r\nX-MS-Journal-Report:\r\n"));
    at("From: journal@corp.example\r\n");
    at("Subject: Offer 4711\r\n");
    at("Date: Tue, 24 Nov 2026 03:32:21 +0000\r\n");
    at("Auto-Submitted: auto-generated\r\n");
    at("X-Copyist-Reason: j@corp.example: inbound.journal\r\n");
    at(&format!("Message-ID: {}\r\n", item.message_id));
    at(&format!("X-Copyist-Item: {}\r\n", item.id));
    assert_eq!(item.sender, Some(address("ndr@corp.example")));
}

#[test]
fn a_subject_cannot_forge_a_line() {
    let original = message("Subject: =?utf-8?Q?x=0D=0ABcc:_forged@else.test?=\r\n\r\n");
    let envelope = envelope(Some("ana@corp.example"), &["buyer@customer.test"]);
    let (item, _, text) = report(&composer(), &envelope, &original, true);
    assert!(text.contains("Subject: xBcc: forged@else.test\r\n"));
    assert!(!String::from_utf8_lossy(&item.prefix).contains("\r\nBcc: forged"));
}

#[test]
fn the_transfer_encoding_fits_the_bytes() {
    let envelope = envelope(Some("ana@corp.example"), &["buyer@customer.test"]);
    let long = format!("A: b\r\n\r\n{}", "x".repeat(2000));
    let cases = [
        (OFFER, BodyKind::SevenBit, "7bit"),
        (
            "Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n\r\n",
            BodyKind::EightBit,
            "7bit",
        ),
        ("A: b\r\n\r\ngrün", BodyKind::EightBit, "8bit"),
        (&long, BodyKind::Binary, "binary"),
    ];
    for (original, whole, attached) in cases {
        let (item, _, _) = report(&composer(), &envelope, &message(original), false);
        assert_eq!(item.body, whole, "{original:?}");
        let end = format!("message/rfc822\r\nContent-Transfer-Encoding: {attached}\r\n\r\n");
        assert!(item.prefix.ends_with(end.as_bytes()), "{original:?}");
    }
}

#[test]
fn a_copy_is_the_original_with_our_fields_in_front() {
    let composer = composer();
    let original = message(OFFER);
    let envelope = envelope(Some("ana@corp.example"), &["buyer@customer.test"]);
    let plan = plan(true, Format::Copy, &["j@corp.example"]);
    let item = only(composer.compose(&envelope, &original, &plan, now()));
    assert!(item.suffix.is_empty());
    assert_eq!(item.message_id, "<abc@pc7.corp.example>");
    let whole = Message::new(whole(&item, &original));
    let names: Vec<_> = whole
        .fields()
        .map(|field| field.name.to_owned())
        .take(5)
        .collect();
    assert_eq!(
        names,
        [
            "Auto-Submitted",
            "X-Copyist-Reason",
            "X-Copyist-Seal",
            "X-Copyist-Item",
            "From"
        ]
    );
    assert_eq!(
        state(&composer, &whole, &[&address("j@corp.example")]),
        Ok((item.id, State::Whole))
    );
}

#[test]
fn a_first_line_that_is_folded_leaves_the_seal_alone() {
    let composer = composer();
    let original = message(" folded\r\nFrom: a@b.test\r\nSubject: x\r\n\r\nbody\r\n");
    let envelope = envelope(Some("ana@corp.example"), &["buyer@customer.test"]);
    let plan = plan(true, Format::Copy, &["j@corp.example"]);
    let copy = only(composer.compose(&envelope, &original, &plan, now()));
    let to = &envelope.recipients;
    let version = only(composer.version(&envelope, &original, to, Direction::Inbound, now()));
    for (item, to) in [(copy, "j@corp.example"), (version, "buyer@customer.test")] {
        let sent = Message::new(whole(&item, &original));
        let found = state(&composer, &sent, &[&address(to)]);
        assert_eq!(found, Ok((item.id, State::Whole)));
    }
}

#[test]
fn a_report_reads_the_header_to_its_end() {
    let before = "X: y\r\n".repeat(100_000);
    let original = message(&format!(
        "{before}To: bo@corp.example\r\nCc: dan@corp.example\r\nSubject: s\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n"
    ));
    let to = ["bo@corp.example", "dan@corp.example", "eve@corp.example"];
    let envelope = envelope(Some("ana@corp.example"), &to);
    let (_, _, text) = report(&composer(), &envelope, &original, true);
    assert_eq!(
        text.trim_end(),
        "Sender: ana@corp.example\r\nSubject: s\r\nMessage-Id: <1@x>\r\nTo: bo@corp.example\r\n\
         Cc: dan@corp.example\r\nBcc: eve@corp.example"
    );
}

#[test]
fn a_seal_holds_for_its_recipients_and_its_body_only() {
    let composer = composer();
    let original = message(OFFER);
    let envelope = envelope(Some("ana@corp.example"), &["buyer@customer.test"]);
    let (item, whole, _) = report(&composer, &envelope, &original, true);
    let sent = Message::new(whole.clone());
    let (j, k) = (address("J@corp.example"), address("k@archive.test"));
    let is = |state| Ok((item.id.clone(), state));
    assert_eq!(state(&composer, &sent, &[&j]), is(State::Whole));
    assert_eq!(state(&composer, &sent, &[&j, &k]), is(State::Whole));
    let Sealed::Ours(seal) = composer.judge(&sent, [&j]) else {
        panic!("it is ours");
    };
    assert_eq!((seal.sort, seal.at), (Sort::Report, Some(now())));
    assert_eq!(
        composer.judge(&sent, [&j, &address("x@corp.example")]),
        Sealed::Refused(Flaw::Recipients)
    );
    assert_eq!(composer.judge(&sent, []), Sealed::Refused(Flaw::Recipients));
    assert_eq!(
        self::composer().judge(&sent, [&j]),
        Sealed::Refused(Flaw::Forged),
        "another key"
    );

    // What a transfer does: fields in front, line breaks at the end.
    let text = String::from_utf8(whole).expect("ASCII");
    let travelled = message(&format!("Received: from x\r\n{text}\r\n\r\n"));
    assert_eq!(state(&composer, &travelled, &[&j]), is(State::Whole));
    let renamed = message(&text.replacen("Subject: Offer", "Subject: [x] Offer", 1));
    assert_eq!(state(&composer, &renamed, &[&j]), is(State::Fields));
    let altered = message(&text.replace("Dear buyer", "Dear Buyer"));
    assert_eq!(state(&composer, &altered, &[&j]), is(State::Body));
    let later = message(&text.replacen("; t=1", "; t=2", 1));
    assert_eq!(composer.judge(&later, [&j]), Sealed::Refused(Flaw::Forged));
    assert_eq!(
        composer.judge(&altered, [&address("x@corp.example")]),
        Sealed::Refused(Flaw::Recipients)
    );
    let cut = text.find(";\r\n b=").expect("the seal's end");
    let end = cut + text[cut..].find("\r\n\r\n").expect("the header's end");
    let cut_off = message(&format!("{}{}", &text[..cut], &text[end..]));
    assert_eq!(
        composer.judge(&cut_off, [&j]),
        Sealed::Refused(Flaw::Malformed)
    );
    // Some other seals in front of it, as many as are looked at and one more.
    let with = |n: usize| message(&format!("{}{text}", "X-Copyist-Seal: v=2\r\n".repeat(n)));
    assert_eq!(state(&composer, &with(7), &[&j]), is(State::Whole));
    assert_eq!(
        composer.judge(&with(8), [&j]),
        Sealed::Refused(Flaw::Malformed)
    );
}

#[test]
fn forged_seals_are_anybodys_mail() {
    let malformed = Sealed::Refused(Flaw::Malformed);
    for (forged, verdict) in [
        ("X-Copyist-Seal: v=1\r\n\r\n", malformed.clone()),
        (
            "X-Copyist-Seal: v=1; id=aaaaaaaaaaaaaaaa; to=j@corp.example; h=; b=\r\n\r\n",
            malformed.clone(),
        ),
        ("X-Copyist-Seal: \u{0}\r\n\r\n", malformed),
        (
            "X-Copyist-Seal: v=2; k=r; id=aaaaaaaaaaaaaaaa; to=; h=; b=\r\n\r\n",
            Sealed::Refused(Flaw::Forged),
        ),
        (
            "X-MS-Journal-Report:\r\nX-Copyist-Item: aaaaaaaaaaaaaaaa\r\n\r\n",
            Sealed::No,
        ),
    ] {
        assert_eq!(
            composer().judge(&message(forged), [&address("j@corp.example")]),
            verdict,
            "{forged:?}"
        );
    }
}

#[test]
fn an_ndr_names_the_failure_and_holds_the_whole_report() {
    let composer = composer();
    let original = message(OFFER);
    let envelope = envelope(Some("ana@corp.example"), &["buyer@customer.test"]);
    let (failed, failed_whole, _) = report(&composer, &envelope, &original, true);
    let refusal = Refusal {
        address: address("j@corp.example"),
        reply: Reply::new(550, Enhanced(5, 1, 1), "No such user"),
        relay: "127.0.0.1:10027".into(),
    };
    let ndr = composer
        .ndr(
            &failed,
            &address("ndr@corp.example"),
            original.content(),
            &[refusal],
            now(),
        )
        .expect("composed");
    assert_eq!((ndr.kind, &ndr.sender, &ndr.ndr), (Kind::Ndr, &None, &None));
    let sent = whole(&ndr, &original);
    let parsed = MessageParser::default().parse(&sent).expect("parsed");
    let kind = parsed.content_type().expect("a type");
    assert_eq!(
        (kind.ctype(), kind.subtype()),
        ("multipart", Some("report"))
    );
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    let status = String::from_utf8_lossy(parsed.parts[2].contents()).into_owned();
    let expected = format!(
        "Reporting-MTA: dns; mx.corp.example\r\nOriginal-Envelope-Id: {}\r\n\r\nFinal-Recipient: rfc822; \
         j@corp.example\r\nAction: failed\r\nStatus: 5.1.1\r\nRemote-MTA: dns; [127.0.0.1]\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n",
        failed.envelope_id
    );
    assert_eq!(status, expected);
    assert_eq!(part(&sent, 3), failed_whole);
    let sent = Message::new(sent);
    assert_eq!(
        state(&composer, &sent, &[&address("ndr@corp.example")]),
        Ok((ndr.id, State::Whole))
    );
}

#[test]
fn additions_to_7_bit_mail_can_be_7_bit() {
    let long = "=?utf-8?Q?=C3=BC?=\r\n ".repeat(400) + "x";
    for subject in [
        "=?utf-8?Q?Gr=C3=BC=C3=9Fe?= =x=",
        "=?utf-8?Q?=C3=BC=20=20?=",
        "--=?utf-8?Q?=C3=BC=3D?=",
        &long,
    ] {
        can_be_7_bits(subject);
    }
}

fn can_be_7_bits(subject: &str) {
    let composer = composer();
    let original = message(&format!("Subject: {subject}\r\n\r\nbody\r\n"));
    let envelope = envelope(Some("ana@corp.example"), &["a=b@corp.example"]);
    let (written, _, text) = report(&composer, &envelope, &original, true);
    let refusal = Refusal {
        address: address("j@corp.example"),
        reply: Reply::new(550, Enhanced(5, 1, 1), "No such user \u{fc}"),
        relay: "127.0.0.1:10027".into(),
    };
    let ndr_to = address("ndr@corp.example");
    let ndr = composer.ndr(&written, &ndr_to, original.content(), &[refusal], now());
    for (item, to) in [
        (written, "j@corp.example"),
        (ndr.expect("composed"), "ndr@corp.example"),
    ] {
        assert_eq!(item.body, BodyKind::EightBit);
        let found = seven_bit(&item, original.content()).expect("in memory");
        let found = found.expect("it can be");
        let sent = whole(&found, &original);
        assert_eq!(
            (BodyKind::of(&sent), found.body),
            (BodyKind::SevenBit, BodyKind::SevenBit)
        );
        // The seal covers the other parts, decoded.
        let first = |bytes: &[u8]| {
            let parsed = MessageParser::default().parse(bytes).expect("parsed");
            parsed.parts[1].text_contents().map(str::to_owned)
        };
        assert_eq!(first(&sent), first(&whole(&item, &original)));
        if found.kind == Kind::Report {
            assert_eq!(first(&sent).as_ref(), Some(&text));
        }
        let found = state(&composer, &Message::new(sent), &[&address(to)]);
        assert_eq!(found, Ok((item.id, State::Whole)));
    }
    let eight_bit = message("Subject: =?utf-8?Q?=C3=BC?=\r\n\r\n\u{fc}\r\n");
    let (item, ..) = report(&composer, &envelope, &eight_bit, true);
    let found = seven_bit(&item, eight_bit.content()).expect("in memory");
    assert!(found.is_none());
}

#[test]
fn an_attached_report_whose_header_is_not_ascii_is_global() {
    let composer = composer();
    let original = message(OFFER);
    let plan = Plan {
        invalid_targets: vec![InvalidTarget {
            direction: Direction::Inbound,
            ndr: address("j\u{fc}rg@corp.example"),
            dn: None,
            attribute: "inbound.always".into(),
            value: "nobody at all".into(),
            error: Target::parse("nobody at all").expect_err("no address"),
        }],
        ..Plan::default()
    };
    let envelope = envelope(Some("a@else.test"), &["dan@corp.example"]);
    let item = only(composer.compose(&envelope, &original, &plan, now()));
    let sent = String::from_utf8_lossy(&whole(&item, &original)).into_owned();
    for needle in [
        "Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n\r\nFrom: ",
        "\r\nFinal-Recipient: x-unknown; nobody at all\r\n",
    ] {
        assert!(sent.contains(needle), "{needle} is missing in {sent}");
    }
    assert_eq!(item.body, BodyKind::EightBit);
}

#[test]
fn a_malformed_attribute_is_reported_with_the_copy_attached() {
    let composer = composer();
    let original = message(OFFER);
    let invalid = InvalidTarget {
        direction: Direction::Inbound,
        ndr: address("ndr@corp.example"),
        dn: Some("uid=dan,dc=corp".into()),
        attribute: "extensionAttribute10".into(),
        value: "nobody\r\nX: y".into(),
        error: Target::parse("nobody").expect_err("no address"),
    };
    let plan = Plan {
        invalid_targets: vec![invalid],
        ..Plan::default()
    };
    let envelope = envelope(Some("a@else.test"), &["dan@corp.example"]);
    let item = only(composer.compose(&envelope, &original, &plan, now()));
    assert_eq!((item.kind, &item.sender), (Kind::Ndr, &None));
    let sent = whole(&item, &original);
    let text = String::from_utf8_lossy(&sent).into_owned();
    for needle in [
        "uid=dan,dc=corp",
        "extensionAttribute10",
        "\"nobody\\r\\nX: y\"",
        "Recipient: dan@corp.example",
    ] {
        assert!(text.contains(needle), "{needle} is missing in {text}");
    }
    assert!(memchr::memmem::find(&sent, original.content().beginning()).is_some());
    assert!(!text.contains("\r\nX: y"));
}

#[test]
fn long_replies_and_values_make_no_line_that_has_to_be_folded() {
    let composer = composer();
    let original = message(OFFER);
    let envelope = envelope(Some("ana@corp.example"), &["buyer@customer.test"]);
    let (failed, _, _) = report(&composer, &envelope, &original, true);
    let refusal = Refusal {
        address: address("j@corp.example"),
        reply: Reply::new(550, Enhanced(5, 7, 1), "no ".repeat(2000)),
        relay: "127.0.0.1:10027".into(),
    };
    let ndr = composer
        .ndr(
            &failed,
            &address("ndr@corp.example"),
            original.content(),
            &[refusal],
            now(),
        )
        .expect("composed");
    assert_eq!(ndr.body, BodyKind::SevenBit);
    let lines = String::from_utf8_lossy(&whole(&ndr, &original)).into_owned();
    assert!(lines.split("\r\n").all(|line| line.len() <= 998));
}

#[test]
fn long_reasons_leave_a_header_that_every_mta_takes() {
    let composer = composer();
    let original = message(OFFER);
    let targets: Vec<String> = (0..100).map(|n| format!("u{n}@corp.example")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let mut plan = plan(false, Format::Report, &targets);
    for (_, reasons) in &mut plan.copies[0].targets {
        *reasons = vec![Reason::Through {
            of: Box::new(Reason::Setting(Direction::Inbound)),
            target: "cn=all".into(),
            objects: vec!["ou=somewhere,".repeat(80)],
        }];
    }
    let envelope = envelope(Some("a@else.test"), &["dan@corp.example"]);
    let item = only(composer.compose(&envelope, &original, &plan, now()));
    assert_eq!((item.targets.len(), item.reasons.len()), (100, 100));
    let whole = String::from_utf8_lossy(&whole(&item, &original)).into_owned();
    let (header, _) = whole.split_once("\r\n\r\n").expect("a header");
    assert!(header.len() < 32 * 1024, "{} bytes", header.len());
    assert!(header.contains(" more\r\n") && header.contains("\r\nX-Copyist-Seal:"));
}
