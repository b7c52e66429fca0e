//! Sends one message to the next hop by DATA or BDAT.

use std::io;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::next_hop::{NextHopConnection, NextHopError};
use crate::error::chain;
use crate::journal::is_ours;
use crate::mail::{Chunks, Message};
use crate::smtp::{DataEncoder, ServerReply};

/// Bytes per write.
const PIECE: usize = 64 * 1024;

/// Outcome of sending a message.
#[derive(Debug)]
pub(super) enum TransmitOutcome {
    /// The next hop replied: it has accepted or rejected the message.
    Replied(ServerReply),
    /// The next hop does not have the message: its end was not sent.
    NotSent(TransmitError),
    /// The end was sent, and no valid reply came.
    Unknown(NextHopError),
}

/// Reason a message was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransmitError {
    #[error("the next hop {}", chain(.0))]
    NextHop(NextHopError),
    #[error("cannot read the stored message")]
    Unreadable(#[source] io::Error),
    #[error("the next hop replied {0} to DATA")]
    UnexpectedReply(u16),
}

impl From<NextHopError> for TransmitError {
    fn from(error: NextHopError) -> TransmitError {
        TransmitError::NextHop(error)
    }
}

/// A message to send, without the header fields that are removed.
pub(super) struct Outgoing {
    message: Message,
    /// Ranges of the header that are removed, in order.
    removed: Vec<Range<usize>>,
}

impl Outgoing {
    /// Creates it from a message; with `strips`, without Copyist's own fields.
    pub(super) fn new(message: &Message, strips: bool) -> Outgoing {
        let fields = message
            .fields()
            .filter(|field| strips && is_ours(field.name));
        Outgoing {
            removed: fields.map(|field| field.range).collect(),
            message: message.clone(),
        }
    }

    fn len(&self) -> usize {
        let removed: usize = self.removed.iter().map(Range::len).sum();
        self.message.len() - removed
    }

    fn pieces(&self) -> RemainingPieces {
        RemainingPieces {
            pieces: self.message.content().chunks(0),
            removed: self.removed.clone(),
            position: 0,
            ready: Vec::new(),
        }
    }
}

/// Iterator over the bytes of a message without the removed ranges.
struct RemainingPieces {
    pieces: Chunks,
    removed: Vec<Range<usize>>,
    /// Bytes of the message read so far.
    position: usize,
    /// Remaining parts of the last piece, in reverse order.
    ready: Vec<Bytes>,
}

impl Iterator for RemainingPieces {
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
            let from = self.position;
            self.position += piece.len();
            let mut kept = from;
            for range in &self.removed {
                let start = range.start.clamp(from, self.position);
                self.ready
                    .push(piece.slice(kept.min(start) - from..start - from));
                kept = kept.max(range.end.clamp(from, self.position));
            }
            self.ready.push(piece.slice(kept - from..));
            self.ready.retain(|part| !part.is_empty());
            self.ready.reverse();
        }
    }
}

/// Sends a message in the open transaction: `as_chunk` by BDAT, which preserves it exactly; by
/// DATA, a message that does not end in a line break gains one.
pub(super) async fn transmit(
    hop: &mut NextHopConnection,
    outgoing: &Outgoing,
    as_chunk: bool,
) -> TransmitOutcome {
    match as_chunk {
        true => chunk(hop, outgoing).await,
        false => data(hop, outgoing).await,
    }
}

async fn data(hop: &mut NextHopConnection, outgoing: &Outgoing) -> TransmitOutcome {
    match hop.command(b"DATA").await {
        Ok(answer) if answer.code == 354 => {}
        Ok(answer) if answer.is_transient() || answer.is_permanent() => {
            return reset_after_rejection(hop, answer).await;
        }
        Ok(answer) => return TransmitOutcome::NotSent(TransmitError::UnexpectedReply(answer.code)),
        Err(error) => return TransmitOutcome::NotSent(error.into()),
    }
    let (mut encoder, mut out) = (DataEncoder::new(), BytesMut::with_capacity(2 * PIECE));
    let mut pieces = PieceReader::new(outgoing);
    loop {
        match pieces.next().await {
            Ok(Some(piece)) => {
                for part in piece.chunks(PIECE) {
                    encoder.encode(part, &mut out);
                    // The rest is sent with the end.
                    if out.len() >= PIECE
                        && let Err(error) = hop.write(&out.split()).await
                    {
                        return aborted(hop, error).await;
                    }
                }
            }
            Ok(None) => break,
            Err(cause) => return TransmitOutcome::NotSent(TransmitError::Unreadable(cause)),
        }
    }
    // A reply sent before the end is not the reply to the whole message.
    if let Err(error) = hop.check_in_sync().await {
        return aborted(hop, error).await;
    }
    // The one place where the end of a message is sent. From here on the next hop may have accepted
    // it, so only its reply decides.
    encoder.finish(&mut out);
    if let Err(error) = hop.write(&out).await {
        return TransmitOutcome::Unknown(error);
    }
    read_final_reply(hop).await
}

/// Sends the message as one last chunk (RFC 3030 section 2).
async fn chunk(hop: &mut NextHopConnection, outgoing: &Outgoing) -> TransmitOutcome {
    let length = outgoing.len();
    if let Err(error) = hop.check_in_sync().await {
        return TransmitOutcome::NotSent(error.into());
    }
    let command = format!("BDAT {length} LAST\r\n");
    // For an empty message, the command itself is the end.
    if let Err(error) = hop.write(command.as_bytes()).await {
        return match length {
            0 => TransmitOutcome::Unknown(error),
            _ => aborted(hop, error).await,
        };
    }
    let (mut pieces, mut left) = (PieceReader::new(outgoing), length);
    while left > 0 {
        match pieces.next().await {
            Ok(Some(piece)) => {
                left = left.saturating_sub(piece.len());
                if let Err(error) = hop.write(&piece).await {
                    // The last byte ends the message.
                    return match left {
                        0 => TransmitOutcome::Unknown(error),
                        _ => aborted(hop, error).await,
                    };
                }
            }
            Ok(None) => {
                let cause = io::Error::from(io::ErrorKind::UnexpectedEof);
                return TransmitOutcome::NotSent(TransmitError::Unreadable(cause));
            }
            Err(cause) => return TransmitOutcome::NotSent(TransmitError::Unreadable(cause)),
        }
    }
    read_final_reply(hop).await
}

/// Resets the transaction, which a rejection before the end of the message leaves open (RFC 5321
/// section 3.3).
pub(super) async fn reset_after_rejection(
    hop: &mut NextHopConnection,
    answer: ServerReply,
) -> TransmitOutcome {
    if answer.code == 421 {
        return TransmitOutcome::Replied(answer);
    }
    match hop.command(b"RSET").await {
        Ok(_) => TransmitOutcome::Replied(answer),
        Err(error) => TransmitOutcome::NotSent(error.into()),
    }
}

async fn read_final_reply(hop: &mut NextHopConnection) -> TransmitOutcome {
    match hop.final_reply().await {
        Ok(answer) if answer.is_intermediate() => {
            TransmitOutcome::Unknown(NextHopError::Rejected(super::next_hop::reply_line(&answer)))
        }
        Ok(answer) => TransmitOutcome::Replied(answer),
        Err(error) => TransmitOutcome::Unknown(error),
    }
}

/// Returns the reply of a server that closed in the middle of a message, if it sent one.
async fn aborted(hop: &mut NextHopConnection, error: NextHopError) -> TransmitOutcome {
    match hop.closing_reply().await {
        Some(answer) if answer.is_transient() || answer.is_permanent() => {
            TransmitOutcome::Replied(answer)
        }
        _ => TransmitOutcome::NotSent(error.into()),
    }
}

/// Reads the pieces of a message; on a blocking thread if they are on disk.
struct PieceReader {
    pieces: Option<RemainingPieces>,
    is_stored: bool,
}

impl PieceReader {
    fn new(of: &Outgoing) -> PieceReader {
        let content = of.message.content();
        PieceReader {
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
    fn only_our_own_fields_are_removed() {
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
