//! The steps that every message takes, one by one: milter packets, lookup, plan, report, text.
//!
//! ```text
//! cargo bench --bench hot                 times
//! benches/instructions                    instructions of each, which do not depend on what else the machine does
//! ```

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use copyist::directory::{Entry, Lookup, Objects};
use copyist::identity::{AddressRules, IdentityAnswers, IdentityQuery, Owners, Person};
use copyist::journal::{self, Composer, Key};
use copyist::mail::{Address, Client, Envelope, Message, Recipient};
use copyist::milter::{
    Actions, ClientAddress, Command, Frames, NextAction, Offer, Requirements, Session, Steps,
    Strings, VERSION,
};
use copyist::policy::{Context, DirectionRules, Format, Organization, PlanBuilder, Rules};
use copyist::text::{self, Disclaimer, SignedPolicy, Text, Texts};
use divan::Bencher;
use divan::counter::BytesCount;

fn main() {
    divan::main();
}

/// Bytes of a message of the usual kind.
const SIZE: usize = 10_240;

fn address(text: &str) -> Address {
    Address::parse(text).expect("it is one")
}

fn body(size: usize) -> Vec<u8> {
    let line = b"The quick brown fox jumps over the lazy dog, and once more for a whole line.\r\n";
    line.repeat(size / line.len() + 1)
}

const HEADER: &str = "Received: from client by mx; Tue, 24 Nov 2026 03:32:21 +0000\r\n\
    From: Somebody <a@elsewhere.test>\r\nTo: Somebody else <u@example.test>\r\n\
    Subject: A message of the usual kind\r\nDate: Tue, 24 Nov 2026 03:32:21 +0000\r\n\
    Message-ID: <1@elsewhere.test>\r\nMIME-Version: 1.0\r\n";

fn message(size: usize) -> Bytes {
    let head = format!("{HEADER}Content-Type: text/plain; charset=us-ascii\r\n\r\n");
    [head.into_bytes(), body(size)].concat().into()
}

/// The packets of one message, from MAIL to the end.
fn conversation() -> (BytesMut, BytesMut) {
    let (mut greeting, mut all) = (BytesMut::new(), BytesMut::new());
    Command::Negotiate(Offer {
        version: VERSION,
        actions: Actions::from_bits(0x1ff),
        steps: Steps::from_bits(0x001f_ffff),
    })
    .encode(&mut greeting);
    let (hostname, client) = (
        b"client.test",
        ClientAddress::Inet([192, 0, 2, 1].into(), 40000),
    );
    Command::Connect { hostname, client }.encode(&mut greeting);
    let packed = |words: &[&str]| Strings::pack(words);
    let from = packed(&["<a@elsewhere.test>"]);
    let to = packed(&["<u1@example.test>"]);
    Command::Mail(Strings::new(&from).expect("packed")).encode(&mut all);
    Command::Rcpt(Strings::new(&to).expect("packed")).encode(&mut all);
    for line in HEADER.split_terminator("\r\n") {
        let (name, value) = line.split_once(':').expect("a field");
        let (name, value) = (name.as_bytes(), value.as_bytes());
        Command::Header { name, value }.encode(&mut all);
    }
    Command::EndOfHeader.encode(&mut all);
    Command::Body(&body(SIZE)).encode(&mut all);
    Command::EndOfMessage(b"").encode(&mut all);
    (greeting, all)
}

/// Handles all packets; returns whether a message ended.
fn tell(session: &mut Session, frames: &mut Frames, bytes: &[u8]) -> bool {
    frames.space().extend_from_slice(bytes);
    let mut ended = false;
    while let Some(frame) = frames.next().expect("packets") {
        let command = Command::decode(frame).expect("a command");
        match session.handle(command).expect("in order") {
            NextAction::Negotiated(agreement) => frames.set_limit(agreement.packet_limit()),
            NextAction::EndOfMessage(transaction, _) => {
                black_box(transaction);
                ended = true;
            }
            _ => {}
        }
    }
    ended
}

#[divan::bench]
fn milter_message_of_10_kib(bencher: Bencher) {
    let (greeting, all) = conversation();
    let (mut session, mut frames) = (
        Session::new(Requirements {
            actions: Actions::CHANGE_HEADERS,
            answer_recipients: false,
        }),
        Frames::new(),
    );
    tell(&mut session, &mut frames, &greeting);
    bencher
        .counter(BytesCount::new(SIZE))
        .bench_local(|| assert!(tell(&mut session, &mut frames, black_box(&all))));
}

fn rules() -> Rules {
    Rules {
        organization: Organization {
            names: Arc::new(AddressRules {
                domains: vec!["example.test".parse().expect("a domain")],
                ..AddressRules::default()
            }),
            ..Organization::default()
        },
        inbound: DirectionRules {
            journal_attributes: vec!["journal".into()],
            ndr: Some(address("ndr@example.test")),
            format: Format::Report,
            ..DirectionRules::default()
        },
        ..Rules::default()
    }
}

fn envelope(recipients: usize) -> Envelope {
    let to = (0..recipients).map(|n| Recipient::new(address(&format!("u{n}@example.test"))));
    Envelope {
        sender: Some(address("a@elsewhere.test")),
        recipients: to.collect(),
        client: Client {
            ip: Some([192, 0, 2, 1].into()),
            ..Client::default()
        },
        ..Envelope::default()
    }
}

fn people(recipients: usize, journaled: bool) -> IdentityAnswers {
    let one = |n| {
        let journal = match journaled {
            true => vec![format!("j{n}@archive.test")],
            false => Vec::new(),
        };
        let entry = Entry::new(format!("cn=u{n},dc=t"), [("journal".to_owned(), journal)]);
        let objects: Objects = [Arc::new(entry)].into();
        let address = address(&format!("u{n}@example.test"));
        let person = Person {
            address: address.clone(),
            objects,
            group: None,
        };
        let owners = Owners {
            people: vec![person],
            ..Owners::default()
        };
        let question = IdentityQuery::Recipient { address, mta: None };
        (question, Lookup::Found(Arc::new(owners)))
    };
    (0..recipients).map(one).collect()
}

#[divan::bench(args = [1, 10, 100, 1000])]
fn plan_for_recipients(bencher: Bencher, recipients: usize) {
    let (rules, envelope, people) = (rules(), envelope(recipients), people(recipients, true));
    bencher.bench_local(|| {
        let context = Context::new(&envelope, &rules);
        black_box(context.queries());
        let builder = PlanBuilder::new(&context, &people);
        black_box(builder.targets());
        builder.build(&HashMap::new()).expect("decided")
    });
}

#[divan::bench]
fn plan_that_concerns_nobody(bencher: Bencher) {
    let (rules, envelope, people) = (rules(), envelope(1), people(1, false));
    bencher.bench_local(|| {
        let context = Context::new(&envelope, &rules);
        PlanBuilder::new(&context, &people)
            .build(&HashMap::new())
            .expect("decided")
    });
}

#[divan::bench(args = [1_024, 10_240, 102_400, 1_048_576])]
fn report_about_bytes(bencher: Bencher, size: usize) {
    let settings = journal::Settings {
        report_from: address("journal@example.test"),
        hostname: "mx.example.test".into(),
    };
    let composer = Composer::new(settings, Key::ephemeral().expect("a key"));
    let (rules, envelope) = (rules(), envelope(1));
    let people = people(1, true);
    let context = Context::new(&envelope, &rules);
    let plan = PlanBuilder::new(&context, &people).build(&HashMap::new());
    let plan = plan.expect("decided");
    let bytes = message(size);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let message = Message::new(bytes.clone());
        composer
            .compose(&envelope, &message, &plan, SystemTime::now())
            .expect("composed")
    });
}

/// The folders of `tests/mails`.
const KINDS: [&str; 11] = [
    "alternative",
    "charset",
    "flowed",
    "html",
    "left",
    "mixed",
    "notext",
    "plain",
    "related",
    "structure",
    "transfer",
];

/// The messages of one folder of `tests/mails`.
fn mails(kind: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/mails")
        .join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "eml"))
        .collect();
    files.sort();
    let read = |path: &PathBuf| fs::read(path).expect("a message");
    files.iter().map(read).collect()
}

fn disclaimer() -> Option<Arc<Text>> {
    let words = "This message is kept by Example Ltd. for ten years.";
    let wording = Disclaimer::new(Some(words), None, false).expect("sound");
    wording.for_sender(&[]).expect("no template")
}

fn after() -> Texts {
    Texts {
        append: disclaimer(),
        ..Texts::default()
    }
}

fn before() -> Texts {
    Texts {
        prepend: disclaimer(),
        ..Texts::default()
    }
}

fn edit_all(bencher: Bencher, messages: &[Vec<u8>], texts: &Texts) {
    let bytes: usize = messages.iter().map(Vec::len).sum();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        for message in messages {
            // Some are to be left as they are; that has to be found out, too.
            if let Ok(edited) = text::edit(message, texts, SignedPolicy::Skip) {
                black_box(text::apply(message, &edited.splices));
            }
        }
    });
}

fn edit(bencher: Bencher, message: &[u8]) {
    edit_all(bencher, &[message.to_vec()], &after());
}

#[divan::bench(args = KINDS)]
fn text_after_mails(bencher: Bencher, kind: &str) {
    edit_all(bencher, &mails(kind), &after());
}

#[divan::bench(args = KINDS)]
fn text_before_mails(bencher: Bencher, kind: &str) {
    edit_all(bencher, &mails(kind), &before());
}

#[divan::bench]
fn text_after_plain_10_kib(bencher: Bencher) {
    edit(bencher, &message(SIZE));
}

#[divan::bench]
fn text_after_alternative_10_kib(bencher: Bencher) {
    let half = String::from_utf8(body(SIZE / 2)).expect("ASCII");
    let html = half.replace("\r\n", "<br>\r\n");
    let message = format!(
        "{HEADER}Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n{half}\r\n\
         --b\r\nContent-Type: text/html\r\n\r\n<html><body>{html}</body></html>\r\n--b--\r\n"
    );
    edit(bencher, message.as_bytes());
}

#[divan::bench]
fn text_beside_an_attachment_of_10_mb(bencher: Bencher) {
    let line = "TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcyByZWFzb24sIGJ1dCBieSB0aGlz\r\n";
    let attachment = line.repeat(10_000_000 / line.len());
    let message = format!(
        "{HEADER}Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nHello\r\n\
         --b\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n{attachment}\r\n--b--\r\n"
    );
    edit(bencher, message.as_bytes());
}
