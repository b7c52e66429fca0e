//! A peer that nobody here wrote: `miltertest` plays the MTA, from scripts under
//! `tests/miltertest/`.

use std::path::Path as FilePath;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use copyist::mail::Limits;
use copyist::mail::{Enhanced, Reply};
use copyist::milter::{
    Actions, Edit, Handler, MessageAnswer, MessageDecision, PartialTransaction, Path,
    RecipientAnswer, Requirements, Transaction, serve,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The content that the scripts send, as it must arrive.
const CONTENT: &str =
    "From: Ana <ana@corp.example>\r\nSubject: folded\r\n\there\r\n\r\none\r\ntwo\r\n";

const WANTED: [Actions; 5] = [
    Actions::ADD_HEADERS,
    Actions::CHANGE_HEADERS,
    Actions::CHANGE_BODY,
    Actions::ADD_RECIPIENTS,
    Actions::DELETE_RECIPIENTS,
];

/// Decides by the local part of the sender.
#[derive(Clone, Default)]
struct ScriptedHandler(Arc<Mutex<Vec<Transaction>>>);

impl Handler for ScriptedHandler {
    async fn check_recipient(
        &mut self,
        _partial: PartialTransaction<'_>,
        recipient: &Path,
    ) -> RecipientAnswer {
        if recipient.address.starts_with("<nobody@") {
            RecipientAnswer::Reply(Reply::new(550, Enhanced(5, 1, 1), "No such user"))
        } else {
            RecipientAnswer::Accept
        }
    }

    async fn take_chunk(&mut self, _piece: Bytes) {
        panic!("no message here is large");
    }

    fn discard_chunks(&mut self) {}

    async fn end_of_message(&mut self, transaction: Transaction) -> MessageDecision {
        let outcome = match transaction.sender.address.split('@').next() {
            Some("<tempfail") => MessageAnswer::Tempfail.into(),
            Some("<reply") => {
                MessageAnswer::Reply(Reply::new(451, Enhanced(4, 3, 0), "95% full")).into()
            }
            Some("<edit") => edits(),
            _ => MessageAnswer::Accept.into(),
        };
        self.0.lock().expect("no test panicked").push(transaction);
        outcome
    }
}

fn edits() -> MessageDecision {
    let own = str::to_owned;
    let change = |name, value| Edit::ChangeHeader {
        index: 1,
        name: own(name),
        value: own(value),
    };
    MessageDecision {
        edits: vec![
            Edit::AddHeader {
                name: own("X-Added"),
                value: own("1"),
            },
            Edit::InsertHeader {
                index: 0,
                name: own("X-Top"),
                value: own("2"),
            },
            change("Subject", "new"),
            change("X-Gone", ""),
            Edit::ReplaceBody(Bytes::from_static(b"new\r\n")),
            Edit::AddRecipient {
                address: own("<c@d.example>"),
                params: vec![],
            },
            Edit::DeleteRecipient(own("<bo@x.example>")),
        ],
        answer: MessageAnswer::Accept,
    }
}

/// Has miltertest run a script against a listener of our own; what the handler saw is returned.
async fn script(name: &str) -> Vec<Transaction> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let handler = ScriptedHandler::default();
    let serving = tokio::spawn({
        let handler = handler.clone();
        async move {
            let (stream, _) = listener.accept().await.expect("miltertest connects");
            let requirements = Requirements {
                actions: WANTED.into_iter().fold(Actions::NONE, |all, one| all | one),
                answer_recipients: true,
            };
            let shutdown = CancellationToken::new();
            serve(stream, requirements, Limits::default(), handler, shutdown).await
        }
    });

    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/miltertest");
    let script = folder.join(name);
    let ran = tokio::task::spawn_blocking(move || {
        std::process::Command::new("miltertest")
            .arg("-D")
            .arg(format!("port={port}"))
            .arg("-D")
            .arg(format!("script={}", script.display()))
            .arg("-s")
            .arg(folder.join("run.lua"))
            .stdin(Stdio::null())
            .output()
    });
    let output = ran.await.expect("running a program does not panic").expect(
        "cannot run miltertest: it is in the Debian package miltertest (apt-get install miltertest)",
    );
    assert!(
        output.status.success(),
        "{name}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let served = serving.await.expect("the connection does not panic");
    served.expect("the conversation is in order");
    handler.0.lock().expect("no test panicked").clone()
}

fn addresses(transaction: &Transaction) -> Vec<&str> {
    let recipients = transaction.recipients.iter();
    recipients.map(|path| path.address.as_str()).collect()
}

#[tokio::test]
async fn miltertest_has_a_message_accepted() {
    let seen = script("accepted.lua").await;
    assert_eq!(seen[0].message, CONTENT);
    assert_eq!(seen[0].queue_id(), "queue-accept");
    assert_eq!(seen[0].sender.params, ["SIZE=100"]);
    assert_eq!(seen[0].connection.ip, Some([192, 0, 2, 7].into()));
    assert_eq!(seen[0].helo, "pc.corp.example");
}

#[tokio::test]
async fn miltertest_has_a_recipient_refused_and_a_message_put_off() {
    let seen = script("refused.lua").await;
    assert_eq!(addresses(&seen[0]), ["<bo@x.example>"]);
    let ip = "2001:db8::7".parse().expect("an address");
    assert_eq!(seen[0].connection.ip, Some(ip));
}

#[tokio::test]
async fn miltertest_gets_our_reply() {
    script("reply.lua").await;
}

#[tokio::test]
async fn miltertest_receives_every_edit() {
    let seen = script("edits.lua").await;
    assert_eq!(seen[0].connection.ip, None);
}

#[tokio::test]
async fn miltertest_aborts_and_sends_another_message() {
    let seen = script("abort.lua").await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].message, CONTENT);
    assert_eq!(seen[0].queue_id(), "queue-accept");
}

#[tokio::test]
async fn miltertest_is_answered_at_each_step_where_it_waits() {
    let seen = script("old_mta.lua").await;
    assert_eq!(seen[0].message, CONTENT);
}
