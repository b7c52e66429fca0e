//! Texts put into arbitrary bytes.
//!
//! The first byte says which texts and what becomes of signed messages; the rest is the message.
//! Must hold: no panic; the splices are in order and inside the message; no text means no change;
//! what was written can be read and edited again; lines end as they did, and no longer ones are
//! made.

#![no_main]

use std::sync::{Arc, LazyLock};

use copyist::text::{SignedPolicy, Text, Texts, Disclaimer, apply, edit};
use libfuzzer_sys::fuzz_target;

static WORDS: LazyLock<[Arc<Text>; 4]> = LazyLock::new(|| {
    let words = [
        ("This mail is confidential.", false),
        ("Grüße — конфиденциально 😀\n\n-- \nFrom here", false),
        ("日本語 and more of it, to be known by", true),
        ("This mail is confidential and known by its words.", true),
    ];
    words.map(|(plain, once)| {
        let wording = Disclaimer::new(Some(plain), None, once).expect("sound");
        wording.for_sender(&[]).expect("fixed").expect("words")
    })
});

fn longest_line(bytes: &[u8]) -> usize {
    let lines = bytes.split_inclusive(|&b| b == b'\n');
    // A CR that no LF follows is a byte of its line.
    let lengths = lines.map(|line| match line {
        [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] | line => line.len(),
    });
    lengths.max().unwrap_or(0)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, message)) = bytes.split_first() else {
        return;
    };
    let words = |at: u8| Some(WORDS[usize::from(at & 3)].clone());
    let texts = Texts {
        prepend: words(first >> 2).filter(|_| first & 16 == 0),
        append: words(*first).filter(|_| first & 32 == 0),
    };
    let signed = if first & 64 == 0 { SignedPolicy::Skip } else { SignedPolicy::Wrap };
    let Ok(edited) = edit(message, &texts, signed) else {
        return;
    };
    assert_eq!(edited.splices.is_empty(), texts == Texts::default());
    let mut at = 0;
    for splice in &edited.splices {
        assert!(at <= splice.range.start && splice.range.start <= splice.range.end);
        at = splice.range.end;
    }
    assert!(at <= message.len());
    let written = apply(message, &edited.splices);
    let longest = longest_line(message);
    assert!(longest_line(&written) <= longest.max(998), "a long line was made");
    let bare = |bytes: &[u8]| bytes.windows(2).filter(|w| w[1] == b'\n' && w[0] != b'\r').count();
    if message.contains(&b'\n') && !message.starts_with(b"\n") && bare(message) == 0 {
        assert_eq!(bare(&written), 0, "a bare LF was made");
    }
    if !edited.splices.is_empty() && texts.append.as_ref().is_none_or(|text| text.once.is_none()) {
        let _ = edit(&written, &texts, signed);
    }
});
