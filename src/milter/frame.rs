//! Splits the byte stream into packets, in both directions.
//!
//! A packet is the length of the rest (four bytes, big-endian), one byte for its kind, and a
//! payload:
//!
//! ```text
//!  00 00 00 0c │ H │ pc.example\0          HELO pc.example
//! ```
//!
//! Promises: bytes may arrive in pieces of any size; a packet is borrowed from the receive buffer
//! and not copied; the buffer never grows for a packet longer than the limit. Fails with a
//! [`FrameError`], after which the stream cannot be parsed any further.

use bytes::{Buf, BufMut, BytesMut};

/// Largest packet before a size is negotiated: the negotiation itself is 13 bytes.
const INITIAL_LIMIT: usize = 64 * 1024;

/// Bytes read at once.
const READ_SIZE: usize = 64 * 1024;

/// Size of the length field in bytes.
const LENGTH: usize = 4;

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The byte that identifies the packet.
    pub kind: u8,
    /// The bytes after it.
    pub payload: &'a [u8],
}

/// The reason why the stream is not a sequence of packets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length exceeds the negotiated limit.
    #[error("packet of {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// The announced length, without the length field.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The length is zero, but at least the kind must follow.
    #[error("empty packet")]
    Empty,
}

/// The reason why a packet cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The kind is not a letter of the protocol.
    #[error("unknown packet type '{}'", kind.escape_ascii())]
    Unknown {
        /// The byte.
        kind: u8,
    },
    /// The payload does not match its kind.
    #[error("malformed packet of type '{}': {reason}", kind.escape_ascii())]
    Malformed {
        /// The byte that identifies the packet.
        kind: u8,
        /// The missing or invalid part.
        reason: &'static str,
    },
}

/// A receive buffer that hands out packets.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    /// Bytes at the start of the buffer that belong to the packet returned last.
    used: usize,
    limit: usize,
}

impl Default for Frames {
    fn default() -> Frames {
        Frames::new()
    }
}

impl Frames {
    /// Creates an empty buffer with the limit before negotiation.
    pub fn new() -> Frames {
        Frames {
            buffer: BytesMut::new(),
            used: 0,
            limit: INITIAL_LIMIT,
        }
    }

    /// Sets the largest packet accepted from now on, in bytes without the length field.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Returns the buffer to append received bytes to, with capacity for a large read.
    pub fn space(&mut self) -> &mut BytesMut {
        self.release();
        self.buffer.reserve(READ_SIZE);
        &mut self.buffer
    }

    /// Returns the next complete packet; `None` if more bytes are needed.
    #[expect(
        clippy::should_implement_trait,
        reason = "the packet borrows the buffer, which an Iterator cannot say"
    )]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        self.release();
        let Some((length, rest)) = self.buffer.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > self.limit {
            let limit = self.limit;
            return Err(FrameError::TooLong { length, limit });
        }
        let Some((kind, payload)) = rest.get(..length).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        self.used = LENGTH + length;
        Ok(Some(Frame {
            kind: *kind,
            payload,
        }))
    }

    /// Whether there are bytes after the packet returned last.
    pub fn has_more(&self) -> bool {
        self.buffer.len() > self.used
    }

    /// Names the protocol of the first bytes if they cannot begin a negotiation, the only packet
    /// that an MTA begins with. Must be called before the first packet is returned.
    pub(super) fn foreign_protocol(&self) -> Option<&'static str> {
        let (length, rest) = self.buffer.split_first_chunk::<LENGTH>()?;
        let too_long = u32::from_be_bytes(*length) as usize > INITIAL_LIMIT;
        // Complete packets are checked by the session.
        let is_whole = || rest.len() >= u32::from_be_bytes(*length) as usize;
        let is_foreign = |kind: &u8| !matches!(kind, b'O' | b'Q') && !is_whole();
        (too_long || rest.first().is_some_and(is_foreign)).then(|| protocol_of(*length))
    }

    /// Drops the packet returned last.
    fn release(&mut self) {
        self.buffer.advance(self.used);
        self.used = 0;
    }
}

/// Names the protocol of other clients: browsers and scanners.
fn protocol_of(first: [u8; LENGTH]) -> &'static str {
    match &first {
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"OPTI" | b"DELE" | b"PATC" | b"CONN" | b"TRAC"
        | b"PRI " => "an HTTP request",
        [0x16, 3, ..] => "a TLS handshake",
        b"EHLO" | b"HELO" | b"LHLO" | b"MAIL" | b"ehlo" | b"helo" | b"lhlo" | b"mail" | b"QUIT"
        | b"quit" | b"220 " => "SMTP",
        b"SSH-" => "SSH",
        _ => "not a milter negotiation",
    }
}

/// Appends one packet; `write` appends its payload.
///
/// A payload of more than 4 GiB cannot be encoded, and never occurs: edits are checked against a
/// far lower limit first.
pub(super) fn put(out: &mut BytesMut, kind: u8, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(kind);
    write(out);
    let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX);
    out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
}

/// Appends a string and its terminating NUL. A NUL inside cannot be encoded and is dropped, so that
/// one value cannot pose as two.
pub(super) fn put_string(out: &mut BytesMut, string: &[u8]) {
    if memchr::memchr(0, string).is_none() {
        out.extend_from_slice(string);
    } else {
        out.extend(string.iter().copied().filter(|byte| *byte != 0));
    }
    out.put_u8(0);
}

/// A reader of the parts of one payload; every error names the packet.
pub(super) struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(frame: Frame<'a>) -> Reader<'a> {
        Reader {
            kind: frame.kind,
            rest: frame.payload,
        }
    }

    pub(super) fn malformed(&self, reason: &'static str) -> PacketError {
        PacketError::Malformed {
            kind: self.kind,
            reason,
        }
    }

    pub(super) fn u8(&mut self, reason: &'static str) -> Result<u8, PacketError> {
        let (byte, rest) = self
            .rest
            .split_first()
            .ok_or_else(|| self.malformed(reason))?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(super) fn u16(&mut self, reason: &'static str) -> Result<u16, PacketError> {
        let (bytes, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.malformed(reason))?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(super) fn u32(&mut self, reason: &'static str) -> Result<u32, PacketError> {
        let (bytes, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.malformed(reason))?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// Reads the bytes up to the next NUL, and skips the NUL.
    pub(super) fn string(&mut self, reason: &'static str) -> Result<&'a [u8], PacketError> {
        let nul = memchr::memchr(0, self.rest).ok_or_else(|| self.malformed(reason))?;
        let (string, rest) = self.rest.split_at(nul);
        self.rest = &rest[1..];
        Ok(string)
    }

    /// Reads the rest, which must end in a NUL, without that NUL.
    pub(super) fn last_string(&mut self, reason: &'static str) -> Result<&'a [u8], PacketError> {
        let (nul, string) = self
            .rest
            .split_last()
            .ok_or_else(|| self.malformed(reason))?;
        if *nul != 0 {
            return Err(self.malformed(reason));
        }
        self.rest = &[];
        Ok(string)
    }

    /// Reads the rest.
    pub(super) fn remainder(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Returns the value if the payload has been read to its end.
    pub(super) fn finish<T>(self, value: T) -> Result<T, PacketError> {
        if self.rest.is_empty() {
            Ok(value)
        } else {
            Err(self.malformed("trailing bytes"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let mut frames = Frames::new();
        let mut found = Vec::new();
        for piece in pieces {
            frames.space().extend_from_slice(piece);
            while let Some(frame) = frames.next()? {
                found.push((frame.kind, frame.payload.to_vec()));
            }
        }
        Ok(found)
    }

    #[test]
    fn a_packet_is_found_once_it_is_whole() {
        let found = all(&[b"\0\0\0", b"\x03Hx", b"", b"\0\0\0\0\x01Q\0\0"]);
        assert_eq!(found, Ok(vec![(b'H', b"x\0".to_vec()), (b'Q', vec![])]));
    }

    #[test]
    fn a_packet_beyond_the_limit_is_rejected_before_it_arrives() {
        let limit = INITIAL_LIMIT;
        let length = limit + 1;
        assert_eq!(
            all(&[b"\0\x01\0\x01"]),
            Err(FrameError::TooLong { length, limit })
        );
        assert_eq!(all(&[b"\0\x01\0\0"]), Ok(vec![]));
    }

    #[test]
    fn an_empty_packet_is_rejected() {
        assert_eq!(all(&[b"\0\0\0\0"]), Err(FrameError::Empty));
    }

    #[test]
    fn a_string_cannot_pose_as_two() {
        let mut out = BytesMut::new();
        put(&mut out, b'H', |out| put_string(out, b"a\0b"));
        assert_eq!(&out[..], b"\0\0\0\x04Hab\0");
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_packets(
            packets in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut wire = BytesMut::new();
            for (kind, payload) in &packets {
                put(&mut wire, *kind, |out| out.extend_from_slice(payload));
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
            cuts.push(0);
            cuts.push(wire.len());
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
            prop_assert_eq!(all(&pieces), Ok(packets));
        }
    }
}
