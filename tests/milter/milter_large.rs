//! Large messages on a milter connection: they are handed over in chunks while they arrive, and
//! memory is reserved for them. See `play.rs`.

use crate::play;
use std::sync::atomic::Ordering;

use copyist::mail::LimitExceeded;
use copyist::milter::{Frames, serve};
use tokio_util::sync::CancellationToken;

use play::{LIMITS, Mta, Scripted, packet_bytes, requirements};

const KIB: usize = 1024;

/// A connection that says nothing but the ends of messages, and what its handler saw.
async fn connected(handler: &Scripted) -> Mta {
    let (ours, theirs) = tokio::io::duplex(64 * KIB);
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(
        ours,
        requirements(0, false),
        LIMITS,
        handler.clone(),
        shutdown,
    ));
    let mut mta = Mta {
        stream: theirs,
        frames: Frames::new(),
    };
    mta.say(&packet_bytes(r"O \0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"))
        .await;
    mta.hear().await.expect("negotiated");
    mta
}

/// The envelope, the header, and so many KiB of a body; no end.
async fn say_message(mta: &mut Mta, kib: usize) {
    for packet in [
        "M <ana@corp.example>\\0",
        "R <bo@x.example>\\0",
        "L A\\0 1\\0",
        "N",
    ] {
        mta.say(&packet_bytes(packet)).await;
    }
    for n in 0..kib / 16 {
        let letter = char::from(b'a' + u8::try_from(n % 26).expect("below 26"));
        mta.say(&packet_bytes(&format!(
            "B {}",
            letter.to_string().repeat(16 * KIB)
        )))
        .await;
    }
}

fn message(kib: usize) -> String {
    let letters = (0..kib / 16).map(|n| char::from(b'a' + (n % 26) as u8));
    letters.fold("A: 1\r\n\r\n".to_owned(), |whole, letter| {
        whole + &letter.to_string().repeat(16 * KIB)
    })
}

#[tokio::test]
async fn a_large_message_is_handed_over_in_pieces_and_whole() {
    for kib in [16, 48, 256, 512, 1024] {
        let handler = Scripted::default();
        let mut mta = connected(&handler).await;
        say_message(&mut mta, kib).await;
        mta.say(&packet_bytes("E")).await;
        assert_eq!(mta.hear().await.as_deref(), Some("a"), "{kib}");
        let seen = handler.seen.lock().expect("no test panicked").clone();
        assert_eq!(seen.len(), 1);
        assert!(seen[0].message == message(kib), "{kib}");
        let held = kib * KIB - seen[0].handed_over.min(kib * KIB);
        assert!(held <= 256 * KIB, "{held} bytes were held to the end");
        assert_eq!(seen[0].handed_over > 0, kib >= 256, "{kib}");
    }
}

#[tokio::test]
async fn an_aborted_message_is_forgotten_and_the_next_begins_anew() {
    let handler = Scripted::default();
    let mut mta = connected(&handler).await;
    say_message(&mut mta, 512).await;
    mta.say(&packet_bytes("A")).await;
    say_message(&mut mta, 320).await;
    mta.say(&packet_bytes("E")).await;
    assert_eq!(mta.hear().await.as_deref(), Some("a"));
    let seen = handler.seen.lock().expect("no test panicked").clone();
    assert!(seen.len() == 1 && seen[0].message == message(320));
    // Sendmail begins anew without an abort.
    say_message(&mut mta, 512).await;
    say_message(&mut mta, 16).await;
    mta.say(&packet_bytes("E")).await;
    assert_eq!(mta.hear().await.as_deref(), Some("a"));
    let seen = handler.seen.lock().expect("no test panicked").clone();
    assert!(seen.len() == 2 && seen[1].message == message(16));
    assert_eq!(handler.room.load(Ordering::SeqCst), 0, "room is given back");
}

#[tokio::test]
async fn insufficient_memory_defers_one_message_not_the_session() {
    let handler = Scripted {
        room_there_is: Some(0),
        ..Scripted::default()
    };
    let mut mta = connected(&handler).await;
    say_message(&mut mta, 1024).await;
    mta.say(&packet_bytes("E")).await;
    let said = mta.hear().await.expect("an answer");
    assert_eq!(said, r"y 452 4.3.1 Insufficient memory, try again\0");
    let refused = handler.refused.lock().expect("no test panicked").clone();
    assert_eq!(
        refused,
        [("(no queue id)".to_owned(), LimitExceeded::Memory)]
    );
    // A small one needs none.
    say_message(&mut mta, 16).await;
    mta.say(&packet_bytes("E")).await;
    assert_eq!(mta.hear().await.as_deref(), Some("a"));
}
