//! The filter's side of the milter protocol, fed with arbitrary bytes in arbitrary chunks.
//!
//! The first byte sets the chunk size and the requirements; the rest is the MTA's bytes. Must hold:
//! no panic, and the chunk size makes no difference.

#![no_main]

use copyist::milter::{Actions, Command, Frames, Response, Session, NextAction, Requirements};
use libfuzzer_sys::fuzz_target;

/// All that the connection would do, up to the first error.
fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>, requirements: Requirements) -> Vec<String> {
    let mut frames = Frames::new();
    let mut session = Session::new(requirements);
    let mut turns = Vec::new();
    for piece in pieces {
        frames.space().extend_from_slice(piece);
        loop {
            let frame = match frames.next() {
                Ok(None) => break,
                Ok(Some(frame)) => frame,
                Err(error) => {
                    turns.push(error.to_string());
                    return turns;
                }
            };
            let _ = Response::decode(frame);
            let turn = match Command::decode(frame) {
                Ok(command) => session.handle(command).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            turns.push(format!("{turn:?}"));
            match turn {
                Ok(NextAction::Negotiated(agreement)) => frames.set_limit(agreement.packet_limit()),
                Ok(NextAction::Recipient(question)) => question.accept(),
                Ok(NextAction::Quit) | Err(_) => return turns,
                Ok(_) => {}
            }
        }
    }
    turns
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let requirements = Requirements {
        actions: Actions::from_bits(0xff),
        answer_recipients: first & 1 == 1,
    };
    let piece = usize::from(first >> 1) + 1;
    let in_pieces = run(bytes.chunks(piece), requirements);
    let at_once = run(std::iter::once(bytes), requirements);
    assert_eq!(in_pieces, at_once);
});
