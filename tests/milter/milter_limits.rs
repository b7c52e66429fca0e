//! Limits of a milter connection: the message is rejected, the connection stays in order, and a
//! client that does not speak milter is closed. The conversations are files; see `play.rs`.

use crate::play;
use std::time::Duration;

use copyist::mail::{LimitExceeded, Limits};
use copyist::milter::{ConnectionError, Frames, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use play::{
    LIMITS, Mta, Scripted, addresses, packet_bytes, play_within, requirements, sentences, text,
};

/// So small that a conversation reaches them.
const SMALL: Limits = Limits {
    message_size: 100,
    header_size: 60,
    recipients: 3,
    message_time: Duration::from_secs(3600),
    connection_time: Duration::from_secs(7200),
    ..LIMITS
};

const NEGOTIATION: &str = r"O \0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";

#[tokio::test]
async fn a_message_beyond_a_limit_is_refused_and_the_next_one_is_not() {
    for (file, limit, queue_id) in [
        ("message_too_large.txt", LimitExceeded::Message, "BIG"),
        (
            "last_chunk_too_large.txt",
            LimitExceeded::Message,
            "(no queue id)",
        ),
        (
            "header_too_large.txt",
            LimitExceeded::Header,
            "(no queue id)",
        ),
        (
            "too_many_recipients.txt",
            LimitExceeded::Recipients,
            "(no queue id)",
        ),
        (
            "envelope_too_large.txt",
            LimitExceeded::Recipients,
            "(no queue id)",
        ),
    ] {
        let handler = Scripted::default();
        let seen = play_within(SMALL, file, requirements(0, false), &handler).await;
        let [message] = &seen[..] else {
            panic!("{file}: {} messages", seen.len());
        };
        assert_eq!(text(&message.message), r"A: 1\r\n\r\nok\r\n", "{file}");
        assert_eq!(message.queue_id(), "NEXT", "{file}");
        assert_eq!(addresses(&message.recipients), ["<bo@x.example>"], "{file}");
        let refused = handler.refused.lock().expect("no test panicked").clone();
        assert_eq!(refused, [(queue_id.to_owned(), limit)], "{file}");
    }
}

#[tokio::test]
async fn every_step_of_a_skipped_message_is_answered() {
    let handler = Scripted::default();
    let file = "header_too_large_answered.txt";
    let seen = play_within(SMALL, file, requirements(0, false), &handler).await;
    assert!(seen.is_empty());
}

#[tokio::test]
async fn an_excess_recipient_is_rejected_and_the_others_get_the_mail() {
    let handler = Scripted::default();
    let file = "too_many_recipients_answered.txt";
    let seen = play_within(SMALL, file, requirements(0, true), &handler).await;
    let [message, next] = &seen[..] else {
        panic!("{} messages", seen.len());
    };
    let expected = ["<r0@x.example>", "<r1@x.example>", "<r2@x.example>"];
    assert_eq!(addresses(&message.recipients), expected);
    assert_eq!(next.queue_id(), "NEXT");
    let asked = handler.asked.lock().expect("no test panicked");
    assert_eq!(asked.len(), 4, "nobody is asked about one too many");
}

#[tokio::test]
async fn an_abort_ends_a_message_over_a_limit() {
    let handler = Scripted::default();
    let file = "aborted_beyond_a_limit.txt";
    let seen = play_within(SMALL, file, requirements(0, false), &handler).await;
    assert_eq!(seen.len(), 1);
    assert!(handler.refused.lock().expect("no test panicked").is_empty());
}

/// A connection of ours with these limits, and the MTA's end of it.
fn connect(limits: Limits) -> (JoinHandle<Result<(), ConnectionError>>, Mta) {
    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    let handler = Scripted::default();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(
        ours,
        requirements(0, false),
        limits,
        handler,
        shutdown,
    ));
    let mta = Mta {
        stream: theirs,
        frames: Frames::new(),
    };
    (serving, mta)
}

async fn negotiated(limits: Limits) -> (JoinHandle<Result<(), ConnectionError>>, Mta) {
    let (serving, mut mta) = connect(limits);
    mta.say(&packet_bytes(NEGOTIATION)).await;
    assert!(mta.hear().await.is_some());
    (serving, mta)
}

fn end(served: Result<(), ConnectionError>) -> String {
    served.map_or_else(|error| sentences(&error), |()| "ok".into())
}

#[tokio::test(start_paused = true)]
async fn a_message_that_drips_is_cut_off() {
    let (serving, mut mta) = negotiated(SMALL).await;
    mta.say(&packet_bytes(r"M <>\0")).await;
    mta.say(&packet_bytes("N")).await;
    let began = tokio::time::Instant::now();
    while !serving.is_finished() {
        // Never silent for long, and small: only the time tells.
        let _ = mta.stream.write_all(&packet_bytes("B")).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(
            began.elapsed() < 2 * SMALL.message_time,
            "it goes on and on"
        );
    }
    assert_eq!(
        end(serving.await.expect("no panic")),
        "message not finished within 3600 seconds"
    );
}

#[tokio::test(start_paused = true)]
async fn the_connection_time_never_ends_within_a_message() {
    let (serving, mut mta) = negotiated(SMALL).await;
    let began = tokio::time::Instant::now();
    let mut messages = 0;
    while !serving.is_finished() {
        mta.say(&packet_bytes(r"M <>\0")).await;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(200)).await;
            mta.say(&packet_bytes(r"R <a@b>\0")).await;
            mta.say(&packet_bytes("A")).await;
            mta.say(&packet_bytes(r"M <>\0")).await;
        }
        mta.say(&packet_bytes("N")).await;
        mta.say(&packet_bytes("E")).await;
        assert_eq!(
            mta.hear().await.as_deref(),
            Some("a"),
            "never within a message"
        );
        messages += 1;
        assert!(messages < 10, "the connection does not end");
        tokio::task::yield_now().await;
    }
    assert!(began.elapsed() >= SMALL.connection_time);
    assert_eq!(end(serving.await.expect("no panic")), "ok");
    assert_eq!(mta.hear().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_mta_is_left() {
    let (serving, _mta) = negotiated(SMALL).await;
    assert_eq!(
        end(serving.await.expect("no panic")),
        "the MTA did not send anything for 300 seconds"
    );
}

#[tokio::test(start_paused = true)]
async fn a_negotiation_that_drips_is_not_waited_for() {
    let (serving, mut mta) = connect(SMALL);
    let began = tokio::time::Instant::now();
    for byte in packet_bytes(NEGOTIATION) {
        if mta.stream.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(
        end(serving.await.expect("no panic")),
        "no milter negotiation within 30 seconds"
    );
    assert!(began.elapsed() < Duration::from_secs(60));
}

/// Returns the end of a connection that begins with these bytes and then waits for an answer.
async fn begun_with(bytes: &[u8]) -> String {
    let (serving, mut mta) = connect(SMALL);
    mta.say(bytes).await;
    let mut heard = Vec::new();
    let read = mta.stream.read_to_end(&mut heard).await;
    read.expect("a pipe in memory does not break");
    assert_eq!(heard, b"", "nothing is said to strangers");
    end(serving.await.expect("no panic"))
}

#[tokio::test]
async fn a_non_milter_client_is_closed_at_once() {
    for (bytes, looks_like) in [
        (
            &b"GET / HTTP/1.1\r\nHost: mx\r\n\r\n"[..],
            "an HTTP request",
        ),
        (b"POST /x HTTP/1.1\r\n\r\n\0\0\0\x0dO", "an HTTP request"),
        (b"EHLO spammer\r\n", "SMTP"),
        (
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
            "a TLS handshake",
        ),
        (b"SSH-2.0-scan\r\n", "SSH"),
        (b"\r\n\r\n", "not a milter negotiation"),
        (b"\xff\xff\xff\xffO", "not a milter negotiation"),
        // Packets that an MTA sends, but not first, and that are not here yet.
        (b"\0\0\x10\0B", "not a milter negotiation"),
        (b"\0\0\0\x04L", "not a milter negotiation"),
    ] {
        assert_eq!(
            begun_with(bytes).await,
            format!("not a milter client: the first bytes are {looks_like}")
        );
    }
}

#[tokio::test]
async fn memory_is_not_taken_for_a_packet_that_is_only_announced() {
    let mut frames = Frames::new();
    frames.set_limit(usize::MAX);
    frames.space().extend_from_slice(b"\xff\xff\xff\xffB");
    assert!(matches!(frames.next(), Ok(None)));
    assert!(frames.space().capacity() < 256 * 1024);
}
