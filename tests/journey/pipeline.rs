//! The journey without an MTA: input that no MTA would send, given to the pipeline and to the
//! milter listener.

mod own_reports;

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use copyist::directory::{CacheSettings, Directory, Inheritance, Settings, Source, TargetSettings};
use copyist::hook::{
    self, AccessControl, ListenAddress, Listener, UnixSocketSettings, serve_milter,
};
use copyist::identity::{AddressRules, GuardedMailboxes, Identities, SharedGuard};
use copyist::journal::{Composer, ItemId, Key, Settings as JournalSettings};
use copyist::mail::{Address, Client, Enhanced, Envelope, Message, Recipient, Reply};
use copyist::milter::{Actions, Command, Frames, Offer, Response, Steps, Strings, VERSION};
use copyist::pipeline::{
    ChangeSupport, Changes, MemoryBudget, Pipeline, Ruleset, Services, UnidentifiedClients,
};
use copyist::policy::{self, Admission, DirectionRules, Format, OnFailure, Organization, Rules};
use copyist::spool::{ListFilter, Settings as SpoolSettings, Spool};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PEOPLE: &str = "version: 1\n\ndn: uid=dan\nmail: dan@corp.example\nextensionAttribute10: boss@corp.example\n\n\
                      dn: uid=bob\nmail: bob@corp.example\n";

fn names() -> Arc<AddressRules> {
    Arc::new(AddressRules {
        domains: vec!["corp.example".parse().expect("a domain")],
        ..AddressRules::default()
    })
}

fn identities(settings: Settings) -> Identities {
    let directory = Directory::open(settings).expect("the file is fine");
    Identities::new(directory, names())
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

fn pipeline(directory: &TempDir) -> Pipeline {
    let people = directory.path().join("people.ldif");
    std::fs::write(&people, PEOPLE).expect("written");
    let attribute = || vec!["extensionAttribute10".to_owned()];
    let inbound = DirectionRules {
        journal_attributes: attribute(),
        ndr: Some(address("ndr@corp.example")),
        format: Format::Report,
        ..DirectionRules::default()
    };
    Pipeline {
        services: Services {
            spool: Spool::open(&SpoolSettings::new(directory.path())).expect("opened"),
            memory: MemoryBudget::default(),
            guarded: SharedGuard::default(),
            unidentified: UnidentifiedClients::default(),
        },
        ruleset: Ruleset {
            identities: identities(Settings {
                source: Source::Ldif(people),
                address_attributes: vec!["mail".into()],
                journal_attributes: attribute(),
                login_attributes: Vec::new(),
                further_attributes: Vec::new(),
                exempt_attribute: None,
                inheritance: Inheritance::default(),
                targets: TargetSettings::default(),
                cache: CacheSettings::default(),
            }),
            rules: Arc::new(Rules {
                organization: Organization {
                    names: names(),
                    ..Organization::default()
                },
                inbound,
                on_directory_failure: OnFailure::Defer,
                ..Rules::default()
            }),
            text: Arc::default(),
            composer: Composer::new(
                JournalSettings {
                    report_from: address("journal@corp.example"),
                    hostname: "mx.corp.example".into(),
                },
                Key::ephemeral().expect("a key"),
            ),
        },
    }
}

/// A hook that can do everything.
struct FullSupport;

impl ChangeSupport for FullSupport {
    fn check(&self, _: &Message, _: &Changes) -> Result<(), String> {
        Ok(())
    }
}

fn envelope(to: &[&str]) -> Envelope {
    Envelope {
        sender: Some(address("a@elsewhere.test")),
        recipients: to
            .iter()
            .map(|text| Recipient::new(address(text)))
            .collect(),
        client: Client {
            ip: "192.0.2.1".parse().ok(),
            ..Client::default()
        },
        ..Envelope::default()
    }
}

async fn process(
    pipeline: &Pipeline,
    to: &[&str],
    content: &'static [u8],
) -> Result<Changes, Reply> {
    let message = Message::new(Bytes::from_static(content));
    pipeline
        .process(
            &envelope(to),
            &message,
            &pipeline.begin(),
            &FullSupport,
            SystemTime::now(),
        )
        .await
}

async fn queued(pipeline: &Pipeline) -> usize {
    pipeline
        .services
        .spool
        .list(ListFilter {
            dead_only: false,
            limit: 100,
        })
        .await
        .expect("read")
        .len()
}

#[tokio::test]
async fn accept_means_durable() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipeline = pipeline(&directory);
    assert_eq!(
        process(&pipeline, &["bob@corp.example"], b"A: b\r\n\r\nx").await,
        Ok(Changes::default())
    );
    assert_eq!(queued(&pipeline).await, 0);
    assert_eq!(
        process(&pipeline, &["dan@corp.example"], b"A: b\r\n\r\nx").await,
        Ok(Changes::default())
    );
    assert_eq!(queued(&pipeline).await, 1);
}

#[tokio::test]
async fn unparsable_messages_are_journaled_like_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipeline = pipeline(&directory);
    let contents: [&[u8]; 5] = [
        b"",
        b"\0\xff\xfe",
        b"no header",
        b"\n\n\n",
        b"Content-Type: multipart/mixed\r\n\r\n--",
    ];
    for (n, content) in contents.into_iter().enumerate() {
        assert_eq!(
            process(&pipeline, &["dan@corp.example"], content).await,
            Ok(Changes::default()),
            "{content:?}"
        );
        assert_eq!(queued(&pipeline).await, n + 1, "{content:?}");
    }
}

#[tokio::test]
async fn an_unreadable_directory_defers() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipeline = pipeline(&directory);
    std::fs::remove_file(directory.path().join("people.ldif")).expect("removed");
    // The file is looked at a few times a second; until it is missed, its content counts.
    for _ in 0..200 {
        if let Err(reply) = process(&pipeline, &["x@corp.example"], b"A: b\r\n\r\nx").await {
            assert_eq!(
                (reply.code, reply.enhanced.to_string().as_str()),
                (451, "4.4.3")
            );
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the missing file is not missed");
}

/// Returns the milter listener's reply to RCPT with these bytes; `None`: accepted.
async fn rcpt(pipeline: Pipeline, path: &[u8]) -> Option<String> {
    let listen: ListenAddress = "inet:127.0.0.1:0".parse().expect("an address");
    let listener = Listener::bind(&listen, UnixSocketSettings::default())
        .await
        .expect("bound");
    let address = listener.local_addr().expect("TCP");
    let (stop, sessions) = (CancellationToken::new(), TaskTracker::new());
    let pipeline = Arc::new(ArcSwap::from_pointee(pipeline));
    let serving = tokio::spawn(serve_milter(
        listener,
        None,
        Arc::new(AccessControl::new(&hook::Settings::default())),
        pipeline,
        sessions.clone(),
        stop.clone(),
    ));
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let mut say = BytesMut::new();
    let offer = Offer {
        version: VERSION,
        actions: Actions::NONE,
        steps: Steps::from_bits(0x1f_ffff),
    };
    Command::Negotiate(offer).encode(&mut say);
    let sender = Strings::pack(["<a@elsewhere.test>"]);
    Command::Mail(Strings::new(&sender).expect("packed")).encode(&mut say);
    let path = Strings::pack([path]);
    Command::Rcpt(Strings::new(&path).expect("packed")).encode(&mut say);
    stream.write_all(&say).await.expect("written");
    let mut frames = Frames::new();
    let mut answers = Vec::new();
    while answers.len() < 2 {
        while let Some(frame) = frames.next().expect("frames") {
            answers.push(match Response::decode(frame).expect("a response") {
                Response::Reply(text) => Some(String::from_utf8_lossy(text).into_owned()),
                _ => None,
            });
        }
        if answers.len() < 2 {
            assert_ne!(
                stream.read_buf(frames.space()).await.expect("read"),
                0,
                "the listener closed"
            );
        }
    }
    drop(stream);
    stop.cancel();
    serving.await.expect("it ends");
    sessions.close();
    sessions.wait().await;
    answers.remove(1)
}

#[tokio::test]
async fn an_address_with_a_control_character_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let said = rcpt(pipeline(&directory), b"<dan\r\nX@corp.example>")
        .await
        .expect("a reply");
    assert!(
        said.starts_with("553 5.1.3 ") && !said.contains(['\r', '\n']),
        "{said:?}"
    );
}

/// A pipeline that knows the guarded mailboxes.
async fn guarding(directory: &TempDir) -> Pipeline {
    let pipeline = pipeline(directory);
    let identities = &pipeline.ruleset.identities;
    let values = identities.directory().journal_values().borrow().clone();
    let settings = policy::guard_settings(&pipeline.ruleset.rules);
    let guarded = identities.guarded_mailboxes(&settings, values.as_deref());
    pipeline
        .services
        .guarded
        .set(guarded.await.expect("a file answers"));
    pipeline
}

#[tokio::test]
async fn a_guarded_mailbox_looks_like_an_unknown_user() {
    let directory = tempfile::tempdir().expect("a directory");
    let said = rcpt(guarding(&directory).await, b"<Boss@Corp.Example>")
        .await
        .expect("a reply");
    assert!(said.starts_with("550 5.1.1 "), "{said:?}");
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(
        rcpt(guarding(&directory).await, b"<dan@corp.example>").await,
        None
    );
}

/// A message that says it came through this many servers, with these further fields.
fn travelled(hops: usize, further: &str) -> Message {
    let received = "Received: from a by b; Tue, 24 Nov 2026 03:32:21 +0000\r\n".repeat(hops);
    Message::new(Bytes::from(format!(
        "{received}{further}Subject: x\r\n\r\nx\r\n"
    )))
}

#[tokio::test]
async fn a_message_beyond_the_hop_limit_is_journaled_once_and_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut pipeline = pipeline(&directory);
    let rules = Rules {
        hop_limit: Some(50),
        ..(*pipeline.ruleset.rules).clone()
    };
    pipeline.ruleset.rules = Arc::new(rules);
    let to = envelope(&["dan@corp.example"]);
    let now = SystemTime::now();
    for (hops, code, kept) in [(50, None, 1), (51, Some(554), 2)] {
        let message = travelled(hops, "");
        let verdict = pipeline
            .process(&to, &message, &pipeline.begin(), &FullSupport, now)
            .await;
        match (verdict, code) {
            (Ok(_), None) => {}
            (Err(reply), Some(code)) => {
                assert_eq!((reply.code, reply.enhanced), (code, Enhanced(5, 4, 6)));
            }
            (verdict, _) => panic!("{hops} hops: {verdict:?}"),
        }
        assert_eq!(queued(&pipeline).await, kept, "{hops} hops");
    }
    // Nobody journaled: nothing is kept, and it is refused all the same.
    let to = envelope(&["bob@corp.example"]);
    let message = travelled(51, "");
    let verdict = pipeline
        .process(&to, &message, &pipeline.begin(), &FullSupport, now)
        .await;
    assert!(verdict.is_err());
    assert_eq!(queued(&pipeline).await, 2);
}

/// A hook of an MTA that lets nothing be changed.
struct NoSupport;

impl ChangeSupport for NoSupport {
    fn check(&self, _: &Message, changes: &Changes) -> Result<(), String> {
        match changes == &Changes::default() {
            true => Ok(()),
            false => Err("it does not let us".into()),
        }
    }
}

#[tokio::test]
async fn reserved_fields_of_outside_mail_are_removed_but_journaled() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipeline = pipeline(&directory);
    let now = SystemTime::now();
    let forged = travelled(
        1,
        "x-copyist-item: aaaaaaaaaaaaaaaa\r\nX-Copyist-Seal: v=9\r\n",
    );
    let to = envelope(&["dan@corp.example"]);
    let strips = |verdict: Result<Changes, Reply>| match verdict {
        Ok(changes) => changes.strips,
        Err(reply) => panic!("{reply:?}"),
    };
    assert!(strips(
        pipeline
            .process(&to, &forged, &pipeline.begin(), &FullSupport, now)
            .await
    ));
    // An MTA that does not let us is no reason to keep the mail.
    assert!(!strips(
        pipeline
            .process(&to, &forged, &pipeline.begin(), &NoSupport, now)
            .await
    ));
    let inside = Envelope {
        client: Client {
            user: Some("dan".into()),
            ..Client::default()
        },
        ..to.clone()
    };
    assert!(!strips(
        pipeline
            .process(&inside, &forged, &pipeline.begin(), &FullSupport, now)
            .await
    ));
    let clean = travelled(1, "X-MS-Journal-Report:\r\n");
    assert!(!strips(
        pipeline
            .process(&to, &clean, &pipeline.begin(), &FullSupport, now)
            .await
    ));
    let listed = pipeline.services.spool.list(ListFilter {
        dead_only: false,
        limit: 1,
    });
    let first = &listed.await.expect("read")[0];
    let kept = pipeline
        .services
        .spool
        .load(&first.id)
        .await
        .expect("read")
        .original;
    assert_eq!(
        kept.read().expect("in memory"),
        forged.content().read().expect("in memory")
    );
}
