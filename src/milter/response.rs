//! Responses: the packets from a filter to an MTA.
//!
//! There are edits, allowed only at the end of a message, and final responses, at most one per
//! command, which end the edits. [`Response::decode`] is the MTA's side, for tests and for the
//! demo. Pure; a payload that does not match its letter is a [`PacketError`].

use bytes::{BufMut, BytesMut};

use super::command::{offer, put_offer};
use super::frame::{Frame, PacketError, Reader, put, put_string};
use super::negotiation::Offer;

/// One packet from a filter; each variant's documentation begins with its letter on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response<'a> {
    /// `O`: the filter's choice, and the macros that it asks for (raw; empty for the MTA's own
    /// lists).
    Negotiate(Offer, &'a [u8]),
    /// `c`: continue.
    Continue,
    /// `a`: accept the message.
    Accept,
    /// `r`: reject with the MTA's own 5yz reply.
    Reject,
    /// `t`: reject for now with the MTA's own 4yz reply.
    Tempfail,
    /// `d`: accept and discard the message.
    Discard,
    /// `y`: reject with this reply, `550 5.1.1 text`. A percent sign is doubled on the wire.
    Reply(&'a [u8]),
    /// `s`: skip further commands of this kind.
    Skip,
    /// `p`: still working, keep waiting.
    Progress,
    /// `f`: the SMTP connection fails.
    ConnectionFail,
    /// `4`: the SMTP connection is closed with 421.
    Shutdown,
    /// `+`: add a recipient.
    AddRecipient(&'a [u8]),
    /// `2`: add a recipient with ESMTP parameters, separated by spaces.
    AddRecipientWith {
        /// The forward path.
        address: &'a [u8],
        /// The parameters; may be empty.
        params: &'a [u8],
    },
    /// `-`: delete a recipient.
    DeleteRecipient(&'a [u8]),
    /// `e`: change the reverse path.
    ChangeSender {
        /// The new reverse path.
        address: &'a [u8],
        /// ESMTP parameters; may be empty.
        params: &'a [u8],
    },
    /// `h`: append a header field.
    AddHeader {
        /// The field name.
        name: &'a [u8],
        /// The field value.
        value: &'a [u8],
    },
    /// `i`: insert a header field.
    InsertHeader {
        /// The number of fields before it.
        index: u32,
        /// The field name.
        name: &'a [u8],
        /// The field value.
        value: &'a [u8],
    },
    /// `m`: change a header field, or delete it by an empty value.
    ChangeHeader {
        /// The index among the fields of this name, counted from 1.
        index: u32,
        /// The field name.
        name: &'a [u8],
        /// The field value.
        value: &'a [u8],
    },
    /// `b`: a chunk of the new body.
    ReplaceBody(&'a [u8]),
    /// `q`: hold the message, for this reason.
    Quarantine(&'a [u8]),
    /// `l`: the macros requested for a stage.
    SetMacros {
        /// The stage, `SMFIM_*`.
        stage: u32,
        /// Names separated by spaces.
        names: &'a [u8],
    },
}

impl<'a> Response<'a> {
    /// Decodes a packet from a filter.
    pub fn decode(frame: Frame<'a>) -> Result<Response<'a>, PacketError> {
        let mut reader = Reader::new(frame);
        let unterminated = "unterminated string";
        let short = "truncated number";
        let response = match frame.kind {
            b'O' => Response::Negotiate(offer(&mut reader)?, reader.remainder()),
            b'c' => Response::Continue,
            b'a' => Response::Accept,
            b'r' => Response::Reject,
            b't' => Response::Tempfail,
            b'd' => Response::Discard,
            b'y' => Response::Reply(reader.last_string(unterminated)?),
            b's' => Response::Skip,
            b'p' => Response::Progress,
            b'f' => Response::ConnectionFail,
            b'4' => Response::Shutdown,
            b'+' => Response::AddRecipient(reader.last_string(unterminated)?),
            b'2' => Response::AddRecipientWith {
                address: reader.string(unterminated)?,
                params: optional_string(&mut reader)?,
            },
            b'-' => Response::DeleteRecipient(reader.last_string(unterminated)?),
            b'e' => Response::ChangeSender {
                address: reader.string(unterminated)?,
                params: optional_string(&mut reader)?,
            },
            b'h' => Response::AddHeader {
                name: reader.string(unterminated)?,
                value: reader.last_string(unterminated)?,
            },
            b'i' => Response::InsertHeader {
                index: reader.u32(short)?,
                name: reader.string(unterminated)?,
                value: reader.last_string(unterminated)?,
            },
            b'm' => Response::ChangeHeader {
                index: reader.u32(short)?,
                name: reader.string(unterminated)?,
                value: reader.last_string(unterminated)?,
            },
            b'b' => Response::ReplaceBody(reader.remainder()),
            b'q' => Response::Quarantine(reader.last_string(unterminated)?),
            b'l' => Response::SetMacros {
                stage: reader.u32(short)?,
                names: reader.last_string(unterminated)?,
            },
            kind => return Err(PacketError::Unknown { kind }),
        };
        reader.finish(response)
    }

    /// Appends the packet. NULs inside strings are dropped.
    pub fn encode(&self, out: &mut BytesMut) {
        match *self {
            Response::Negotiate(offer, macros) => put(out, b'O', |out| {
                put_offer(out, offer);
                out.extend_from_slice(macros);
            }),
            Response::Continue => put(out, b'c', |_| ()),
            Response::Accept => put(out, b'a', |_| ()),
            Response::Reject => put(out, b'r', |_| ()),
            Response::Tempfail => put(out, b't', |_| ()),
            Response::Discard => put(out, b'd', |_| ()),
            Response::Reply(reply) => put(out, b'y', |out| put_string(out, reply)),
            Response::Skip => put(out, b's', |_| ()),
            Response::Progress => put(out, b'p', |_| ()),
            Response::ConnectionFail => put(out, b'f', |_| ()),
            Response::Shutdown => put(out, b'4', |_| ()),
            Response::AddRecipient(address) => put(out, b'+', |out| put_string(out, address)),
            Response::AddRecipientWith { address, params } => {
                put(out, b'2', |out| put_path(out, address, params));
            }
            Response::DeleteRecipient(address) => put(out, b'-', |out| put_string(out, address)),
            Response::ChangeSender { address, params } => {
                put(out, b'e', |out| put_path(out, address, params));
            }
            Response::AddHeader { name, value } => put(out, b'h', |out| {
                put_string(out, name);
                put_string(out, value);
            }),
            Response::InsertHeader { index, name, value } => {
                put(out, b'i', |out| put_field(out, index, name, value));
            }
            Response::ChangeHeader { index, name, value } => {
                put(out, b'm', |out| put_field(out, index, name, value));
            }
            Response::ReplaceBody(chunk) => put(out, b'b', |out| out.extend_from_slice(chunk)),
            Response::Quarantine(reason) => put(out, b'q', |out| put_string(out, reason)),
            Response::SetMacros { stage, names } => put(out, b'l', |out| {
                out.put_u32(stage);
                put_string(out, names);
            }),
        }
    }

    /// Whether the MTA stops waiting once it has read this.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Response::Continue
                | Response::Accept
                | Response::Reject
                | Response::Tempfail
                | Response::Discard
                | Response::Reply(_)
                | Response::Skip
                | Response::ConnectionFail
                | Response::Shutdown
                | Response::Negotiate(..)
        )
    }
}

/// Reads a second string, which filters may omit.
fn optional_string<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], PacketError> {
    match reader.remainder() {
        [] => Ok(&[]),
        [string @ .., 0] => Ok(string),
        _ => Err(reader.malformed("unterminated parameters")),
    }
}

fn put_path(out: &mut BytesMut, address: &[u8], params: &[u8]) {
    put_string(out, address);
    if !params.is_empty() {
        put_string(out, params);
    }
}

fn put_field(out: &mut BytesMut, index: u32, name: &[u8], value: &[u8]) {
    out.put_u32(index);
    put_string(out, name);
    put_string(out, value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::milter::{Actions, Steps};

    fn decode(kind: u8, payload: &[u8]) -> Result<Response<'_>, PacketError> {
        Response::decode(Frame { kind, payload })
    }

    #[test]
    fn every_response_reads_as_it_was_written() {
        let offer = Offer {
            version: 6,
            actions: Actions::ADD_HEADERS,
            steps: Steps::LEADING_SPACE,
        };
        let (name, value) = (&b"X-Seen"[..], &b" yes\n indeed"[..]);
        let (address, params) = (&b"<a@b.example>"[..], &b"NOTIFY=NEVER RET=HDRS"[..]);
        let index = 3;
        for response in [
            Response::Negotiate(offer, b""),
            Response::Negotiate(offer, b"\0\0\0\x02i\0"),
            Response::Continue,
            Response::Accept,
            Response::Reject,
            Response::Tempfail,
            Response::Discard,
            Response::Reply(b"550 5.1.1 no"),
            Response::Skip,
            Response::Progress,
            Response::ConnectionFail,
            Response::Shutdown,
            Response::AddRecipient(address),
            Response::AddRecipientWith { address, params },
            Response::AddRecipientWith {
                address,
                params: b"",
            },
            Response::DeleteRecipient(address),
            Response::ChangeSender { address, params },
            Response::AddHeader { name, value },
            Response::InsertHeader { index, name, value },
            Response::ChangeHeader { index, name, value },
            Response::ReplaceBody(b"\0\r\n"),
            Response::Quarantine(b"look at it"),
            Response::SetMacros {
                stage: 2,
                names: b"i {auth_authen}",
            },
        ] {
            let mut wire = BytesMut::new();
            response.encode(&mut wire);
            assert_eq!(decode(wire[4], &wire[5..]), Ok(response));
        }
    }

    #[test]
    fn payloads_that_do_not_match_are_rejected() {
        for (kind, payload) in [
            (b'c', &b"x"[..]),
            (b'y', b""),
            (b'y', b"550 no"),
            (b'2', b"<a@b>\0NOTIFY=NEVER"),
            (b'h', b"Name\0"),
            (b'm', b"\0\0\0"),
            (b'O', b"\0\0\0\x06"),
        ] {
            let found = decode(kind, payload);
            assert!(
                matches!(found, Err(PacketError::Malformed { .. })),
                "{payload:?}: {found:?}"
            );
        }
        assert_eq!(decode(b'Z', b""), Err(PacketError::Unknown { kind: b'Z' }));
    }

    #[test]
    fn edits_and_progress_leave_the_mta_waiting() {
        assert!(!Response::Progress.is_final());
        assert!(!Response::ReplaceBody(b"x").is_final());
        assert!(Response::Accept.is_final());
        assert!(Response::Reply(b"450 4.0.0 x").is_final());
    }

    proptest! {
        #[test]
        fn no_payload_panics(kind: u8, payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(kind, &payload);
        }
    }
}
