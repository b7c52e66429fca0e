//! Hands one message to the next server.

use std::io;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::next_hop::{Hop, HopError};
use crate::journal::is_ours;
use crate::mail::{Chunks, Message};
use crate::smtp::{DataEncoder, ServerReply};

/// Bytes of the message in one write.
const PIECE: usize = 64 * 1024;

/// How it ended.
#[derive(Debug)]
pub(super) enum Sent {
    /// The next server's own word: it has the message, or not.
    Answered(ServerReply),
    /// It cannot have it: the end of the message was not sent.
    Withheld(Failure),
    /// The end was sent, and no answer came that can be read.
    Unknown(HopError),
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the next server {0}")]
    Hop(#[from] HopError),
    #[error("the message cannot be read again: {0}")]
    Unreadable(io::Error),
    #[error("the next server answered DATA with {0}")]
    Nonsense(u16),
}

/// What is handed over: a message without the bytes that it loses.
pub(super) struct Outgoing {
    message: Message,
    /// In order, in the header.
    left_out: Vec<Range<usize>>,
}

impl Outgoing {
    /// This message; where it `strips`, without the fields that only we may write.
    pub(super) fn new(message: &Message, strips: bool) -> Outgoing {
        let fields = message
            .fields()
            .filter(|field| strips && is_ours(field.name));
        Outgoing {
            left_out: fields.map(|field| field.range).collect(),
            message: message.clone(),
        }
    }

    fn len(&self) -> usize {
        let left_out: usize = self.left_out.iter().map(Range::len).sum();
        self.message.len() - left_out
    }

    fn pieces(&self) -> Kept {
        Kept {
            pieces: self.message.content().chunks(0),
            left_out: self.left_out.clone(),
            place: 0,
            ready: Vec::new(),
        }
    }
}

/// The pieces of a message without what is left out.
struct Kept {
    pieces: Chunks,
    left_out: Vec<Range<usize>>,
    /// How many bytes of the message were read.
    place: usize,
    /// Parts of the piece that was read last, the next one at the end.
    ready: Vec<Bytes>,
}

impl Iterator for Kept {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(part) = self.ready.pop() {
                return Some(Ok(part));
            }
            let piece = match self.pieces.next()? {
                Ok(piece) => piece,
                Err(cause) => return Some(Err(cause)),
            };
            let from = self.place;
            self.place += piece.len();
            let mut kept = from;
            for range in &self.left_out {
                let start = range.start.clamp(from, self.place);
                self.ready
                    .push(piece.slice(kept.min(start) - from..start - from));
                kept = kept.max(range.end.clamp(from, self.place));
            }
            self.ready.push(piece.slice(kept - from..));
            self.ready.retain(|part| !part.is_empty());
            self.ready.reverse();
        }
    }
}

/// Hands a message over in the transaction that is open. `as_chunk` by BDAT, which changes nothing
/// in it; by DATA a message that does not end in a line break gains one.
pub(super) async fn transmit(hop: &mut Hop, outgoing: &Outgoing, as_chunk: bool) -> Sent {
    match as_chunk {
        true => chunk(hop, outgoing).await,
        false => data(hop, outgoing).await,
    }
}

async fn data(hop: &mut Hop, outgoing: &Outgoing) -> Sent {
    match hop.ask(b"DATA").await {
        Ok(answer) if answer.code == 354 => {}
        Ok(answer) if answer.is_transient() || answer.is_permanent() => {
            return answered(hop, answer).await;
        }
        Ok(answer) => return Sent::Withheld(Failure::Nonsense(answer.code)),
        Err(error) => return Sent::Withheld(error.into()),
    }
    let (mut encoder, mut out) = (DataEncoder::new(), BytesMut::with_capacity(2 * PIECE));
    let mut pieces = Reader::new(outgoing);
    loop {
        match pieces.next().await {
            Ok(Some(piece)) => {
                for part in piece.chunks(PIECE) {
                    encoder.encode(part, &mut out);
                    // What is held back here goes with the end.
                    if out.len() >= PIECE
                        && let Err(error) = hop.write(&out.split()).await
                    {
                        return broken_off(hop, error).await;
                    }
                }
            }
            Ok(None) => break,
            Err(cause) => return Sent::Withheld(Failure::Unreadable(cause)),
        }
    }
    // What it has said by now is not its word on the whole message.
    if let Err(error) = hop.check_silence().await {
        return broken_off(hop, error).await;
    }
    // The one place where the next server gets the end of a message. It may take it from here on,
    // so nothing but its answer tells what became of it.
    encoder.finish(&mut out);
    if let Err(error) = hop.write(&out).await {
        return Sent::Unknown(error);
    }
    decided(hop).await
}

/// All of it as one chunk, the last (RFC 3030 section 2).
async fn chunk(hop: &mut Hop, outgoing: &Outgoing) -> Sent {
    let length = outgoing.len();
    if let Err(error) = hop.check_silence().await {
        return Sent::Withheld(error.into());
    }
    let command = format!("BDAT {length} LAST\r\n");
    // With nothing behind it, the command is the end of the message itself.
    if let Err(error) = hop.write(command.as_bytes()).await {
        return match length {
            0 => Sent::Unknown(error),
            _ => broken_off(hop, error).await,
        };
    }
    let (mut pieces, mut left) = (Reader::new(outgoing), length);
    while left > 0 {
        match pieces.next().await {
            Ok(Some(piece)) => {
                left = left.saturating_sub(piece.len());
                if let Err(error) = hop.write(&piece).await {
                    // The last byte is the end of the message.
                    return match left {
                        0 => Sent::Unknown(error),
                        _ => broken_off(hop, error).await,
                    };
                }
            }
            Ok(None) => {
                let cause = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Sent::Withheld(Failure::Unreadable(cause));
            }
            Err(cause) => return Sent::Withheld(Failure::Unreadable(cause)),
        }
    }
    decided(hop).await
}

/// A refusal before the end of the message leaves the transaction open (RFC 5321 section 3.3), so
/// it is ended.
pub(super) async fn answered(hop: &mut Hop, answer: ServerReply) -> Sent {
    if answer.code == 421 {
        return Sent::Answered(answer);
    }
    match hop.ask(b"RSET").await {
        Ok(_) => Sent::Answered(answer),
        Err(error) => Sent::Withheld(error.into()),
    }
}

async fn decided(hop: &mut Hop) -> Sent {
    match hop.final_answer().await {
        Ok(answer) if answer.is_intermediate() => {
            Sent::Unknown(HopError::Refused(super::next_hop::said(&answer)))
        }
        Ok(answer) => Sent::Answered(answer),
        Err(error) => Sent::Unknown(error),
    }
}

/// A server that closes in the middle of a message may have said why.
async fn broken_off(hop: &mut Hop, error: HopError) -> Sent {
    match hop.last_words().await {
        Some(answer) if answer.is_transient() || answer.is_permanent() => Sent::Answered(answer),
        _ => Sent::Withheld(error.into()),
    }
}

/// Reads the pieces of a message, apart from the threads that serve others where they are on disk.
struct Reader {
    pieces: Option<Kept>,
    is_stored: bool,
}

impl Reader {
    fn new(of: &Outgoing) -> Reader {
        let content = of.message.content();
        Reader {
            pieces: Some(of.pieces()),
            is_stored: content.beginning().len() < content.len(),
        }
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(mut pieces) = self.pieces.take() else {
            return Ok(None);
        };
        let (pieces, piece) = match self.is_stored {
            false => {
                let piece = pieces.next();
                (pieces, piece)
            }
            true => {
                let reading = tokio::task::spawn_blocking(move || {
                    let piece = pieces.next();
                    (pieces, piece)
                });
                reading.await.map_err(io::Error::other)?
            }
        };
        self.pieces = Some(pieces);
        piece.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(message: &'static str, strips: bool) -> String {
        let message = Message::new(Bytes::from_static(message.as_bytes()));
        let outgoing = Outgoing::new(&message, strips);
        let pieces: io::Result<Vec<Bytes>> = outgoing.pieces().collect();
        let all = pieces.expect("in memory").concat();
        assert_eq!(all.len(), outgoing.len());
        String::from_utf8(all).expect("ASCII")
    }

    #[test]
    fn nothing_is_lost_but_what_is_ours() {
        let message = "X-Copyist-Seal: a\r\nFrom: b\r\nX-Copyist-Item: c\r\n d\r\nTo: e\r\nX-Copyist-Reason: f\r\n\r\n\
                       X-Copyist-Item: g\r\n";
        assert_eq!(kept(message, false), message);
        assert_eq!(
            kept(message, true),
            "From: b\r\nTo: e\r\n\r\nX-Copyist-Item: g\r\n"
        );
        assert_eq!(kept("", true), "");
        assert_eq!(kept("X-Copyist-Item: a\r\n", true), "");
    }
}
