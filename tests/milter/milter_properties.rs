//! Properties of the milter protocol for any input of an MTA, in chunks of any size.

use bytes::BytesMut;
use copyist::milter::{
    Actions, ClientAddress, Command, Frames, NextAction, Offer, Requirements, Session, Stage,
    Steps, Strings,
};
use proptest::prelude::*;

fn offer(steps: u32) -> Command<'static> {
    Command::Negotiate(Offer {
        version: 6,
        actions: Actions::NONE,
        steps: Steps::from_bits(steps),
    })
}

/// Returns the actions of a connection, packet by packet, up to the first error.
fn run(pieces: &[&[u8]]) -> Vec<String> {
    let mut frames = Frames::new();
    let mut session = Session::new(Requirements::default());
    let mut turns = Vec::new();
    for piece in pieces {
        frames.space().extend_from_slice(piece);
        loop {
            let turn = match frames.next() {
                Ok(None) => break,
                Ok(Some(frame)) => match Command::decode(frame) {
                    Ok(command) => session.handle(command).map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                },
                Err(error) => Err(error.to_string()),
            };
            turns.push(format!("{turn:?}"));
            if turn.is_err() {
                return turns;
            }
        }
    }
    turns
}

fn wire(commands: &[Command<'_>]) -> BytesMut {
    let mut wire = BytesMut::new();
    commands
        .iter()
        .for_each(|command| command.encode(&mut wire));
    wire
}

/// A body cut into pieces at these places.
fn pieces<'a>(whole: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
    cuts.extend([0, whole.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &whole[pair[0]..pair[1]])
        .collect()
}

fn any_command() -> impl Strategy<Value = Command<'static>> {
    let path = Strings::new(b"<a@b>\0SIZE=9\0").expect("ends in NUL");
    let pairs = Strings::new(b"i\x004X\0").expect("ends in NUL");
    prop::sample::select(vec![
        offer(0x1f_ffff),
        Command::Macros {
            stage: Stage::Mail,
            pairs,
        },
        Command::Connect {
            hostname: b"h",
            client: ClientAddress::Unknown,
        },
        Command::Helo(b"h"),
        Command::Mail(path),
        Command::Rcpt(path),
        Command::Data,
        Command::Header {
            name: b"A",
            value: b" 1\n 2",
        },
        Command::EndOfHeader,
        Command::Body(b"x"),
        Command::EndOfMessage(b""),
        Command::Abort,
        Command::QuitNewConnection,
        Command::Unknown(b"X"),
    ])
}

proptest! {
    #[test]
    fn a_message_is_rebuilt_exactly(
        fields in prop::collection::vec(("[!-9;-~]{1,12}", "[ -~]{0,20}(\r\n[ \t][ -~]{0,20}){0,3}"), 0..6),
        body in prop::collection::vec(prop::sample::select(b"\r\n.\0x\xff ".to_vec()), 0..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        last_with_the_end: bool,
    ) {
        let mut whole = Vec::new();
        for (name, value) in &fields {
            whole.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
        }
        whole.extend_from_slice(b"\r\n");
        whole.extend_from_slice(&body);

        let told: Vec<_> = fields.iter().map(|(name, value)| (name, value.replace("\r\n", "\n"))).collect();
        let path = Strings::new(b"<a@b>\0").expect("ends in NUL");
        let mut commands = vec![offer(0x10_0000), Command::Mail(path), Command::Rcpt(path)];
        for (name, value) in &told {
            commands.push(Command::Header { name: name.as_bytes(), value: value.as_bytes() });
        }
        commands.push(Command::EndOfHeader);
        let mut chunks = pieces(&body, &cuts);
        let last = if last_with_the_end { chunks.pop().unwrap_or_default() } else { &[] };
        commands.extend(chunks.into_iter().map(Command::Body));
        commands.push(Command::EndOfMessage(last));

        let mut session = Session::new(Requirements::default());
        let mut rebuilt = None;
        for command in commands {
            if let NextAction::EndOfMessage(transaction, _) = session.handle(command).expect("in order") {
                rebuilt = Some(transaction.message);
            }
        }
        prop_assert_eq!(rebuilt.expect("the message ended"), whole);
    }

    #[test]
    fn any_split_gives_the_same_turns(
        commands in prop::collection::vec(any_command(), 0..12),
        noise in prop::collection::vec(any::<u8>(), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut bytes = wire(&[offer(0x1f_ffff)]);
        bytes.extend_from_slice(&wire(&commands));
        bytes.extend_from_slice(&noise);
        prop_assert_eq!(run(&pieces(&bytes, &cuts)), run(&[&bytes]));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        run(&[&bytes]);
    }

    #[test]
    fn messages_of_a_connection_do_not_affect_each_other(commands in prop::collection::vec(any_command(), 0..12)) {
        let path = Strings::new(b"<last@b>\0").expect("ends in NUL");
        let mut session = Session::new(Requirements::default());
        let before = [&[offer(0x1f_ffff)], &commands[..]].concat();
        for command in before {
            if session.handle(command).is_err() {
                return Ok(());
            }
        }
        // Whatever the MTA began, MAIL begins anew.
        let end = [Command::Abort, Command::Mail(path), Command::EndOfMessage(b"z")];
        let mut seen = None;
        for command in end {
            if let NextAction::EndOfMessage(transaction, _) = session.handle(command).expect("in order") {
                seen = Some(transaction);
            }
        }
        let seen = seen.expect("the message ended");
        prop_assert_eq!(&seen.message[..], b"\r\nz");
        prop_assert_eq!(seen.queue_id(), "");
        prop_assert_eq!(seen.sender.address, "<last@b>");
        prop_assert!(seen.recipients.is_empty());
    }
}
