//! The filter's side of the milter protocol in recorded conversations; see
//! `milter_conversations/play.rs`.

use crate::play;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use copyist::milter::{ConnectionError, Edit, Frames, Transaction, serve};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use play::{
    LIMITS, Mta, Scripted, WriteCounter, addresses, packet_bytes, play, requirements, sentences,
    text,
};

#[tokio::test]
async fn a_message_of_postfix_is_parsed_exactly() {
    let handler = Scripted::default();
    let seen = play(
        "postfix_one_message.txt",
        requirements(0x11, true),
        &handler,
    )
    .await;
    let [message] = &seen[..] else {
        panic!("{} messages", seen.len());
    };
    assert_eq!(
        text(&message.message),
        "Received: from pc by x\\r\\n\\x09by y; Tue\\r\\nFrom: Ana <ana@corp.example>\\r\\n\
         To: bo@x.example\\r\\nSubject:  two spaces,\\r\\n folded\\r\\nX-Tab:\\x09value\\r\\nX-None:value\\r\\n\
         X-Empty:\\r\\nX-8bit: gr\\xfc\\xdf\\r\\nMessage-Id: <20261124045637.71A9498E042@mx.corp.example>\\r\\n\
         Date: Tue, 24 Nov 2026 04:56:37 +0000 (UTC)\\r\\n\\r\\nHello,\\r\\n.dot\\r\\n\\r\\nlast \\xff line\\r\\n"
    );
    assert_eq!(message.connection.hostname, "[127.0.0.1]");
    assert_eq!(message.connection.ip, Some([127, 0, 0, 1].into()));
    assert_eq!(message.connection.port, 0xac08);
    assert_eq!(message.helo, "pc.corp.example");
    assert_eq!(message.sender.address, "<ana@corp.example>");
    assert_eq!(message.sender.params, ["SIZE=300", "BODY=8BITMIME"]);
    assert_eq!(
        addresses(&message.recipients),
        ["<bo@x.example>", "<cy@y.example>"]
    );
    assert_eq!(message.recipients[0].params, ["NOTIFY=FAILURE"]);
}

#[tokio::test]
async fn a_late_queue_id_of_postfix_is_found() {
    let handler = Scripted::default();
    let seen = play(
        "postfix_one_message.txt",
        requirements(0x11, true),
        &handler,
    )
    .await;
    assert_eq!(seen[0].queue_id(), "71A9498E042");
    assert_eq!(seen[0].macros.get("{daemon_name}"), Some("mx.corp.example"));
}

#[tokio::test]
async fn messages_of_one_postfix_session_do_not_mix() {
    let handler = Scripted::default();
    let seen = play(
        "postfix_several_messages.txt",
        requirements(0x11, true),
        &handler,
    )
    .await;
    let told: Vec<_> = seen
        .iter()
        .map(|seen| {
            (
                seen.queue_id(),
                seen.helo.as_str(),
                addresses(&seen.recipients),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                "BA35A98E045",
                "pc.corp.example",
                vec!["<bo@x.example>".to_owned()]
            ),
            (
                "C588898E045",
                "again.corp.example",
                vec!["<cy@y.example>".to_owned()]
            ),
        ]
    );
}

#[tokio::test]
async fn local_submission_is_parsed_like_any_other() {
    let handler = Scripted::default();
    let seen = play(
        "postfix_local_submission.txt",
        requirements(0x11, false),
        &handler,
    )
    .await;
    assert_eq!(seen[0].sender.address, "root@mx.corp.example");
    assert_eq!(
        addresses(&seen[0].recipients),
        ["bo@x.example", "cy@y.example"]
    );
    assert_eq!(seen[0].queue_id(), "860E098E04C");
}

#[tokio::test]
async fn an_mta_that_waits_at_each_step_is_answered_at_each_step() {
    let handler = Scripted::default();
    let seen = play(
        "every_step_answered.txt",
        requirements(0x11, true),
        &handler,
    )
    .await;
    assert_eq!(
        addresses(&seen[0].recipients),
        ["<bo@x.example>", "<cy@y.example>"]
    );
}

#[tokio::test]
async fn a_message_of_sendmail_is_parsed_exactly() {
    let handler = Scripted::default();
    let seen = play(
        "sendmail_one_message.txt",
        requirements(0x11, false),
        &handler,
    )
    .await;
    let [message] = &seen[..] else {
        panic!("{} messages", seen.len());
    };
    assert_eq!(
        text(&message.message),
        "From: Ana <ana@corp.example>\\r\\nSubject: folded\\r\\n\\x09here\\r\\n\\r\\none\\r\\ntwo\\r\\n"
    );
    let ip = "2001:db8::7".parse().expect("an address");
    assert_eq!(message.connection.ip, Some(ip));
    assert_eq!(message.queue_id(), "6AO4uXyz012345");
    assert_eq!(message.macros.get("auth_authen"), Some("ana"));
    assert_eq!(message.macros.get("{tls_version}"), Some("TLSv1.3"));
}

#[tokio::test]
async fn mail_restarts_when_sendmail_sends_no_abort() {
    let handler = Scripted::default();
    let seen = play(
        "sendmail_without_abort.txt",
        requirements(0, false),
        &handler,
    )
    .await;
    let [message] = &seen[..] else {
        panic!("{} messages", seen.len());
    };
    assert_eq!(text(&message.message), "Subject: finished\\r\\n\\r\\n");
    assert_eq!(addresses(&message.recipients), ["<cy@y.example>"]);
    assert_eq!(message.queue_id(), "6AO2");
    assert_eq!(message.macros.get("auth_authen"), None);
}

#[tokio::test]
async fn the_helo_after_starttls_counts() {
    let handler = Scripted::default();
    let seen = play("starttls.txt", requirements(0, false), &handler).await;
    assert_eq!((seen[0].helo.as_str(), seen[0].connection.ip), ("", None));
    assert_eq!(seen[1].helo, "secure.example");
    assert_eq!(seen[1].macros.get("tls_version"), Some("TLSv1.3"));
}

#[tokio::test]
async fn an_aborted_message_leaves_nothing_behind() {
    let handler = Scripted::default();
    let seen = play("abort_in_the_body.txt", requirements(0, false), &handler).await;
    let [message] = &seen[..] else {
        panic!("{} messages", seen.len());
    };
    assert_eq!(text(&message.message), "Subject: whole\\r\\n\\r\\nok\\r\\n");
    assert_eq!(message.sender.address, "<>");
    assert_eq!(message.queue_id(), "");
    assert_eq!(message.macros.get("_"), Some("pc.corp.example [192.0.2.7]"));
}

#[tokio::test]
async fn a_reused_connection_forgets_the_client() {
    let handler = Scripted::default();
    let seen = play("quit_nc.txt", requirements(0, false), &handler).await;
    assert_eq!(seen[0].connection.hostname, "pc.corp.example");
    assert_eq!(seen[1].connection.hostname, "localhost");
    assert_eq!((seen[1].connection.ip, seen[1].helo.as_str()), (None, ""));
    assert_eq!(seen[1].macros.get("daemon_name"), None);
}

#[tokio::test]
async fn unknown_commands_are_answered_where_the_mta_waits() {
    play(
        "unknown_command.txt",
        requirements(0, false),
        &Scripted::default(),
    )
    .await;
    play(
        "unknown_command_unanswered.txt",
        requirements(0, false),
        &Scripted::default(),
    )
    .await;
}

#[tokio::test]
async fn version_two_is_spoken() {
    let handler = Scripted::default();
    let seen = play("version_two.txt", requirements(0x51, false), &handler).await;
    assert_eq!(
        text(&seen[0].message),
        "Subject: hello\\r\\n there\\r\\nX-Tab:\\x09value\\r\\n\\r\\nbody\\r\\n"
    );
}

#[tokio::test]
async fn the_end_may_carry_the_last_chunk() {
    let handler = Scripted::default();
    let seen = play(
        "last_chunk_with_the_end.txt",
        requirements(0, false),
        &handler,
    )
    .await;
    assert_eq!(
        text(&seen[0].message),
        "A: 1\\r\\n\\r\\none \\r\\ntwo\\r\\n"
    );
    assert_eq!(text(&seen[1].message), "\\r\\nonly this");
    assert_eq!(seen[1].recipients, []);
}

#[tokio::test]
async fn refused_recipients_do_not_count() {
    let handler = Scripted::default();
    let seen = play("recipients_refused.txt", requirements(0, true), &handler).await;
    assert_eq!(
        addresses(&seen[0].recipients),
        ["<bo@x.example>", "<cy@y.example>"]
    );
    assert_eq!(seen[0].recipients[1].params, ["NOTIFY=NEVER"]);
    let asked = handler.asked.lock().expect("no test panicked");
    assert_eq!(asked.len(), 6);
    assert_eq!(
        asked[5],
        (
            "<cy@y.example>".to_owned(),
            vec!["<bo@x.example>".to_owned()]
        )
    );
}

#[tokio::test]
async fn packets_that_arrive_together_are_answered_together() {
    play(
        "answers_together.txt",
        requirements(0, false),
        &Scripted::default(),
    )
    .await;
}

/// How often we write while the MTA sends these packets in one piece and closes.
async fn writes(commands: &[&str]) -> usize {
    let (ours, mut theirs) = tokio::io::duplex(4096);
    let mut bytes = BytesMut::new();
    for command in commands {
        bytes.extend_from_slice(&packet_bytes(command));
    }
    theirs.write_all(&bytes).await.expect("fits the pipe");
    theirs.shutdown().await.expect("closes");
    let count = Arc::new(AtomicUsize::new(0));
    let stream = WriteCounter(ours, Arc::clone(&count));
    let shutdown = CancellationToken::new();
    let handler = Scripted::default();
    let served = serve(stream, requirements(0, false), LIMITS, handler, shutdown).await;
    served.expect("the conversation is in order");
    count.load(Ordering::SeqCst)
}

const MESSAGE: [&str; 6] = [r"H a\0", r"M <>\0", r"R <a@b>\0", r"L A\0 1\0", "N", "B x"];

#[tokio::test]
async fn one_write_answers_all_that_arrived() {
    let answered = r"O \0\0\0\x06\0\0\x01\xff\0\x10\0\0";
    let commands = [&[answered], &MESSAGE[..], &["A"]].concat();
    assert_eq!(writes(&commands).await, 1);
}

#[tokio::test]
async fn steps_without_an_answer_cost_no_write() {
    let silent = r"O \0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
    // The one write answers the negotiation.
    let commands = [&[silent], &MESSAGE[..], &["A"]].concat();
    assert_eq!(writes(&commands).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_decision_is_announced_every_ten_seconds() {
    let handler = Scripted {
        takes: Duration::from_secs(25),
        ..Scripted::default()
    };
    play("progress.txt", requirements(0, false), &handler).await;
}

fn every_edit() -> Vec<Edit> {
    let own = str::to_owned;
    vec![
        Edit::AddHeader {
            name: own("X-Added"),
            value: own("1"),
        },
        Edit::InsertHeader {
            index: 0,
            name: own("X-Top"),
            value: own("2\r\n 3"),
        },
        Edit::ChangeHeader {
            index: 1,
            name: own("Subject"),
            value: own("new"),
        },
        Edit::ReplaceBody(Bytes::from_static(b"new\r\n")),
        Edit::AddRecipient {
            address: own("<c@d.example>"),
            params: vec![],
        },
        Edit::AddRecipient {
            address: own("<e@f.example>"),
            params: vec![own("NOTIFY=NEVER")],
        },
        Edit::DeleteRecipient(own("<a@b.example>")),
        Edit::ChangeSender {
            address: own("<x@y.example>"),
            params: vec![],
        },
        Edit::Quarantine(own("look")),
    ]
}

#[tokio::test]
async fn edits_are_made_all_or_not_at_all() {
    let handler = Scripted {
        edits: every_edit(),
        ..Scripted::default()
    };
    play("edits.txt", requirements(0xff, false), &handler).await;
    play("edits_not_agreed.txt", requirements(0xff, false), &handler).await;
}

#[tokio::test]
async fn non_milter_clients_are_closed_with_a_reason() {
    for file in [
        "oversized_packet.txt",
        "oversized_first_packet.txt",
        "empty_packet.txt",
        "malformed_packet.txt",
        "unknown_packet.txt",
        "version_one.txt",
    ] {
        let seen = play(file, requirements(0, false), &Scripted::default()).await;
        assert!(seen.is_empty(), "{file}");
    }
}

#[tokio::test]
async fn an_early_close_is_an_error_only_if_something_was_under_way() {
    for file in [
        "early_close.txt",
        "close_in_a_packet.txt",
        "close_between_messages.txt",
    ] {
        let seen = play(file, requirements(0, false), &Scripted::default()).await;
        assert!(seen.is_empty(), "{file}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_finished_after_the_client_left() {
    for file in ["impatient.txt", "closed_while_deciding.txt"] {
        let handler = Scripted {
            takes: Duration::from_secs(15),
            ..Scripted::default()
        };
        let seen = play(file, requirements(0, false), &handler).await;
        assert_eq!(seen.len(), 1, "{file}");
    }
}

/// Commands that cannot follow each other, each after negotiation.
#[tokio::test]
async fn out_of_order_packets_end_the_connection() {
    let negotiation = r"O \0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
    for (commands, end) in [
        (&[r"H a\0"][..], "HELO came before negotiation"),
        (&["A"], "abort came before negotiation"),
        (
            &[negotiation, negotiation],
            "negotiation came after negotiation",
        ),
        (&[negotiation, r"R <a@b>\0"], "RCPT came after negotiation"),
        (
            &[negotiation, r"H a\0", r"C a\0U"],
            "connect came between messages",
        ),
        (&[negotiation, r"H a\0", "T"], "DATA came between messages"),
        (
            &[negotiation, r"H a\0", r"L A\0 1\0"],
            "header field came between messages",
        ),
        (
            &[negotiation, r"H a\0", "N"],
            "end of header came between messages",
        ),
        (
            &[negotiation, r"H a\0", "B x"],
            "body came between messages",
        ),
        (
            &[negotiation, r"H a\0", "E"],
            "end of message came between messages",
        ),
        (
            &[negotiation, r"M <>\0", r"C a\0U"],
            "connect came in the envelope",
        ),
        (
            &[negotiation, r"M <>\0", "T", "T"],
            "DATA came in the header",
        ),
        (
            &[negotiation, r"M <>\0", r"L A\0 1\0", r"R <a@b>\0"],
            "RCPT came in the header",
        ),
        (
            &[negotiation, r"M <>\0", "N", r"L A\0 1\0"],
            "header field came in the body",
        ),
        (
            &[negotiation, r"M <>\0", "N", "N"],
            "end of header came in the body",
        ),
        (
            &[negotiation, r"M <>\0", "N", r"R <a@b>\0"],
            "RCPT came in the body",
        ),
    ] {
        let mut bytes = BytesMut::new();
        for command in commands {
            bytes.extend_from_slice(&packet_bytes(command));
        }
        let (ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(&bytes).await.expect("fits the pipe");
        let shutdown = CancellationToken::new();
        let served = serve(
            ours,
            requirements(0, false),
            LIMITS,
            Scripted::default(),
            shutdown,
        )
        .await;
        let error = served.expect_err("this cannot be said");
        assert_eq!(
            sentences(&error),
            format!("milter protocol violation: {end}")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_mta_is_left() {
    let (ours, _theirs) = tokio::io::duplex(4096);
    let shutdown = CancellationToken::new();
    let served = serve(
        ours,
        requirements(0, false),
        LIMITS,
        Scripted::default(),
        shutdown,
    )
    .await;
    let error = served.expect_err("nobody spoke");
    assert_eq!(sentences(&error), "no milter negotiation within 30 seconds");
}

/// A connection that is served, after the negotiation.
struct ServedConnection {
    mta: Mta,
    shutdown: CancellationToken,
    seen: Arc<Mutex<Vec<Transaction>>>,
    serving: tokio::task::JoinHandle<Result<(), ConnectionError>>,
}

impl ServedConnection {
    async fn greeted(answer_recipients: bool) -> ServedConnection {
        let (ours, theirs) = tokio::io::duplex(4096);
        let shutdown = CancellationToken::new();
        let handler = Scripted::default();
        let seen = Arc::clone(&handler.seen);
        let requirements = requirements(0, answer_recipients);
        let serving = tokio::spawn(serve(ours, requirements, LIMITS, handler, shutdown.clone()));
        let mut mta = Mta {
            stream: theirs,
            frames: Frames::new(),
        };
        mta.say(&packet_bytes(r"O \0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"))
            .await;
        assert!(mta.hear().await.is_some());
        ServedConnection {
            mta,
            shutdown,
            seen,
            serving,
        }
    }

    /// Asserts an orderly end after so many messages.
    async fn ended_after(self, messages: usize) {
        assert!(self.serving.await.expect("no panic").is_ok());
        assert_eq!(self.seen.lock().expect("no test panicked").len(), messages);
    }
}

#[tokio::test]
async fn shutdown_closes_between_messages() {
    let mut served = ServedConnection::greeted(false).await;
    served.shutdown.cancel();
    assert_eq!(served.mta.hear().await, None);
    served.ended_after(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_begins_as_the_shutdown_does_is_accepted() {
    let mut served = ServedConnection::greeted(false).await;
    let begun = tokio::time::Instant::now();
    served.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for packet in [r"M <>\0", r"R <a@b.example>\0", "N", "E"] {
        served.mta.say(&packet_bytes(packet)).await;
    }
    assert_eq!(served.mta.hear().await.as_deref(), Some("a"));
    assert_eq!(served.mta.hear().await, None, "and no other message");
    assert!(begun.elapsed() < Duration::from_secs(1));
    served.ended_after(1).await;
}

#[tokio::test]
async fn shutdown_lets_a_message_under_way_finish() {
    let mut served = ServedConnection::greeted(true).await;
    served.mta.say(&packet_bytes(r"M <>\0")).await;
    served.mta.say(&packet_bytes(r"R <a@b.example>\0")).await;
    assert_eq!(served.mta.hear().await.as_deref(), Some("c"));
    served.shutdown.cancel();
    served.mta.say(&packet_bytes("N")).await;
    served.mta.say(&packet_bytes("E")).await;
    assert_eq!(served.mta.hear().await.as_deref(), Some("a"));
    assert_eq!(served.mta.hear().await, None);
    served.ended_after(1).await;
}
