//! Whole milter sessions over a stream, with a handler that decides by what the client says: the
//! local part of the sender names verdict and edits. The first byte sets the requirements. Must
//! hold: it terminates; all output consists of valid packets.

#![no_main]

use bytes::Bytes;
use copyist::mail::{Enhanced, Limits, Reply};
use copyist::milter::{
    Actions, MessageAnswer, Command, Edit, Frames, Handler, MessageDecision, Path, RecipientAnswer,
    Response, PartialTransaction, Transaction, Requirements, serve,
};
use copyist_fuzz::{Peer, run};
use libfuzzer_sys::fuzz_target;
use tokio_util::sync::CancellationToken;

struct Decider;

fn reply(text: &str) -> Reply {
    Reply::new(450, Enhanced(4, 7, 1), text)
}

impl Handler for Decider {
    async fn check_recipient(&mut self, partial: PartialTransaction<'_>, recipient: &Path) -> RecipientAnswer {
        match partial.recipients.len() % 4 {
            1 => RecipientAnswer::Tempfail,
            2 => RecipientAnswer::Reject,
            3 => RecipientAnswer::Reply(reply(&recipient.address)),
            _ => RecipientAnswer::Accept,
        }
    }

    async fn take_chunk(&mut self, _: Bytes) {}

    fn discard_chunks(&mut self) {}

    async fn end_of_message(&mut self, transaction: Transaction) -> MessageDecision {
        let text = transaction.sender.address.clone();
        let wish = |letter: char, edit: Edit| text.contains(letter).then_some(edit);
        let (name, value) = (transaction.helo.clone(), transaction.connection.hostname.clone());
        let params = transaction.sender.params.clone();
        let edits = [
            wish('a', Edit::AddHeader { name: name.clone(), value: value.clone() }),
            wish('i', Edit::InsertHeader { index: 0, name: name.clone(), value: value.clone() }),
            wish('c', Edit::ChangeHeader { index: 1, name, value: value.clone() }),
            wish('b', Edit::ReplaceBody(value.clone().into())),
            wish('r', Edit::AddRecipient { address: value.clone(), params: params.clone() }),
            wish('d', Edit::DeleteRecipient(value.clone())),
            wish('s', Edit::ChangeSender { address: value.clone(), params }),
            wish('q', Edit::Quarantine(value)),
        ];
        let answer = match text.len() % 5 {
            0 | 1 => MessageAnswer::Accept,
            2 => MessageAnswer::Tempfail,
            3 => MessageAnswer::Reply(reply(&text)),
            _ => MessageAnswer::Discard,
        };
        MessageDecision { edits: edits.into_iter().flatten().collect(), answer }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, says)) = bytes.split_first() else {
        return;
    };
    let requirements = Requirements {
        actions: Actions::from_bits(u32::from(*first) << 1),
        answer_recipients: first & 1 == 1,
    };
    let (peer, heard) = Peer::new(says.to_vec());
    let _ = run(serve(peer, requirements, Limits::default(), Decider, CancellationToken::new()));
    // What we were told to say may not be longer than this.
    let mut frames = Frames::new();
    frames.set_limit(1 << 20);
    frames.space().extend_from_slice(&heard.lock().expect("alone"));
    while let Some(frame) = frames.next().expect("we say packets") {
        Response::decode(frame).expect("we say answers");
    }
    // The other side reads what we can say.
    let mut frames = Frames::new();
    frames.space().extend_from_slice(says);
    while let Ok(Some(frame)) = frames.next() {
        if let Ok(command) = Command::decode(frame) {
            assert!(!command.name().is_empty());
        }
    }
});
