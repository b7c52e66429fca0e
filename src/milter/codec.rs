//! Packets ↔ bytes, both directions: a filter needs one, whoever plays an MTA the other.
//!
//! Promises: no input makes it panic or keep more than one packet's length; body chunks and header values
//! are slices of what was read, not copies. Fails by [`CodecError`], after which the stream has no meaning any more.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a filter may ask for at the end of a message (`SMFIF_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actions(pub u32);

impl Actions {
    /// Add header fields.
    pub const ADD_HEADERS: Actions = Actions(0x01);
    /// Replace the body.
    pub const CHANGE_BODY: Actions = Actions(0x02);
    /// Add recipients.
    pub const ADD_RECIPIENTS: Actions = Actions(0x04);
    /// Delete recipients.
    pub const DELETE_RECIPIENTS: Actions = Actions(0x08);
    /// Change or delete header fields.
    pub const CHANGE_HEADERS: Actions = Actions(0x10);
    /// Put the message into quarantine.
    pub const QUARANTINE: Actions = Actions(0x20);
    /// Change the reverse path.
    pub const CHANGE_SENDER: Actions = Actions(0x40);
    /// Add recipients with ESMTP parameters.
    pub const ADD_RECIPIENTS_WITH: Actions = Actions(0x80);

    /// Both.
    pub const fn and(self, other: Actions) -> Actions {
        Actions(self.0 | other.0)
    }

    /// Whether everything in `other` is in this.
    pub const fn has(self, other: Actions) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How the conversation goes (`SMFIP_*`): which steps the MTA leaves out, and which it wants no answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steps(pub u32);

impl Steps {
    /// Header fields need no answer.
    pub const SILENT_HEADER: Steps = Steps(0x80);
    /// Unknown SMTP commands are not sent.
    pub const NO_UNKNOWN: Steps = Steps(0x100);
    /// DATA is not sent.
    pub const NO_DATA: Steps = Steps(0x200);
    /// Recipients that the MTA itself refused are sent as well.
    pub const REJECTED_RECIPIENTS: Steps = Steps(0x800);
    /// The connection needs no answer.
    pub const SILENT_CONNECT: Steps = Steps(0x1000);
    /// HELO needs no answer.
    pub const SILENT_HELO: Steps = Steps(0x2000);
    /// MAIL needs no answer.
    pub const SILENT_MAIL: Steps = Steps(0x4000);
    /// RCPT needs no answer.
    pub const SILENT_RCPT: Steps = Steps(0x8000);
    /// DATA needs no answer.
    pub const SILENT_DATA: Steps = Steps(0x1_0000);
    /// Unknown SMTP commands need no answer.
    pub const SILENT_UNKNOWN: Steps = Steps(0x2_0000);
    /// The end of the header needs no answer.
    pub const SILENT_END_OF_HEADER: Steps = Steps(0x4_0000);
    /// Body chunks need no answer.
    pub const SILENT_BODY: Steps = Steps(0x8_0000);
    /// Header values come with the white space after the colon.
    pub const LEADING_SPACE: Steps = Steps(0x10_0000);
    /// Packets of up to 256 KiB.
    pub const LARGE: Steps = Steps(0x1000_0000);
    /// Packets of up to 1 MiB.
    pub const HUGE: Steps = Steps(0x2000_0000);

    /// Both.
    pub const fn and(self, other: Steps) -> Steps {
        Steps(self.0 | other.0)
    }

    /// What both have.
    pub const fn common(self, other: Steps) -> Steps {
        Steps(self.0 & other.0)
    }

    /// Whether everything in `other` is in this.
    pub const fn has(self, other: Steps) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What the MTA says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `O`: version, actions and steps on offer.
    Negotiate {
        /// The protocol's version.
        version: u32,
        /// What the filter may ask for.
        actions: Actions,
        /// How the conversation may go.
        steps: Steps,
    },
    /// `D`: macros for the step with this letter.
    Macros {
        /// The letter of the step they come in front of.
        step: u8,
        /// Names, with braces where they have them, and values.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// `C`: an SMTP client has connected.
    Connect {
        /// Its name as the MTA resolved it.
        hostname: Bytes,
        /// `4`, `6`, `L` (Unix socket) or `U` (unknown).
        family: u8,
        /// Its port; 0 for `L` and `U`.
        port: u16,
        /// Its address in text; empty for `U`.
        address: Bytes,
    },
    /// `H`: HELO or EHLO with this name.
    Helo(Bytes),
    /// `M`: MAIL with this path and these parameters.
    Mail(Vec<Bytes>),
    /// `R`: RCPT with this path and these parameters.
    Rcpt(Vec<Bytes>),
    /// `T`: DATA.
    Data,
    /// `U`: an SMTP command that the MTA does not know.
    Unknown(Bytes),
    /// `L`: a header field; line breaks in the value are LF.
    Header {
        /// Its name.
        name: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// `N`: the end of the header.
    EndOfHeader,
    /// `B`: a piece of the body.
    Body(Bytes),
    /// `E`: the end of the message, with the last piece of the body, which may be empty.
    EndOfMessage(Bytes),
    /// `A`: this message is given up; the connection goes on.
    Abort,
    /// `Q`: the end.
    Quit,
    /// `K`: the end of this SMTP session; another follows on the same socket.
    QuitNewConnection,
}

/// What the filter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// `O`: what the filter wants of the offer.
    Negotiate {
        /// The protocol's version.
        version: u32,
        /// What it will ask for.
        actions: Actions,
        /// How the conversation goes.
        steps: Steps,
    },
    /// `c`: go on.
    Continue,
    /// `a`: accept, and show nothing more of it.
    Accept,
    /// `r`: refuse with the MTA's own 5xx.
    Reject,
    /// `t`: refuse with the MTA's own 4xx.
    Tempfail,
    /// `d`: accept and throw away.
    Discard,
    /// `p`: still working.
    Progress,
    /// `y`: refuse with this line, `550 5.1.1 text`.
    Reply(Bytes),
    /// `+`: add a recipient.
    AddRecipient(Bytes),
    /// `2`: add a recipient with these ESMTP parameters.
    AddRecipientWith(Bytes, Bytes),
    /// `-`: delete a recipient.
    DeleteRecipient(Bytes),
    /// `e`: change the reverse path, with these ESMTP parameters.
    ChangeSender(Bytes, Bytes),
    /// `h`: add a header field at the end.
    AddHeader(Bytes, Bytes),
    /// `i`: insert a header field at this index.
    InsertHeader(u32, Bytes, Bytes),
    /// `m`: change the n-th field (from 1) of this name; an empty value deletes it.
    ChangeHeader(u32, Bytes, Bytes),
    /// `b`: a piece of the new body.
    ReplaceBody(Bytes),
    /// `q`: put the message into quarantine for this reason.
    Quarantine(Bytes),
}

/// Bytes that are no packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than agreed, or without even a letter.
    #[error("a packet of {length} octets came, where 1 to {limit} are allowed")]
    Length {
        /// The length it claims.
        length: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// A letter without a meaning.
    #[error("a packet with the unknown letter {0:?} came")]
    Letter(char),
    /// The data does not have the letter's form.
    #[error("a packet {letter:?} came without {missing}")]
    Malformed {
        /// Its letter.
        letter: char,
        /// What it lacks.
        missing: &'static str,
    },
}

/// Takes packets off a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    limit: usize,
}

impl Decoder {
    /// A decoder that refuses packets above this length.
    pub const fn new(limit: usize) -> Decoder {
        Decoder { limit }
    }

    /// The letter and data of the next packet; `None` while it is not whole.
    fn frame(self, buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>, CodecError> {
        let Some(length) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > self.limit {
            return Err(CodecError::Length {
                length,
                limit: self.limit,
            });
        }
        if buffer.len() < 4 + length {
            buffer.reserve(4 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(4);
        let mut data = buffer.split_to(length).freeze();
        let letter = data.get_u8();
        Ok(Some((letter, data)))
    }

    /// The next command.
    pub fn command(self, buffer: &mut BytesMut) -> Result<Option<Command>, CodecError> {
        match self.frame(buffer)? {
            Some((letter, data)) => Command::parse(letter, data).map(Some),
            None => Ok(None),
        }
    }

    /// The next response.
    pub fn response(self, buffer: &mut BytesMut) -> Result<Option<Response>, CodecError> {
        match self.frame(buffer)? {
            Some((letter, data)) => Response::parse(letter, data).map(Some),
            None => Ok(None),
        }
    }
}

/// Reads the data of one packet.
struct Fields {
    letter: u8,
    data: Bytes,
}

impl Fields {
    fn malformed(&self, missing: &'static str) -> CodecError {
        CodecError::Malformed {
            letter: char::from(self.letter),
            missing,
        }
    }

    /// A string up to its NUL, which is taken as well.
    fn string(&mut self) -> Result<Bytes, CodecError> {
        let end = memchr::memchr(0, &self.data)
            .ok_or_else(|| self.malformed("the NUL that ends a string"))?;
        let string = self.data.split_to(end);
        self.data.advance(1);
        Ok(string)
    }

    /// All strings there are; at least one.
    fn strings(&mut self) -> Result<Vec<Bytes>, CodecError> {
        let mut strings = vec![self.string()?];
        while !self.data.is_empty() {
            strings.push(self.string()?);
        }
        Ok(strings)
    }

    fn number(&mut self) -> Result<u32, CodecError> {
        self.data
            .try_get_u32()
            .map_err(|_| self.malformed("a number of 32 bits"))
    }

    fn letter(&mut self) -> Result<u8, CodecError> {
        self.data
            .try_get_u8()
            .map_err(|_| self.malformed("a letter"))
    }
}

impl Command {
    fn parse(letter: u8, data: Bytes) -> Result<Command, CodecError> {
        let mut fields = Fields { letter, data };
        Ok(match letter {
            b'O' => Command::Negotiate {
                version: fields.number()?,
                actions: Actions(fields.number()?),
                steps: Steps(fields.number()?),
            },
            b'D' => Command::Macros {
                step: fields.letter()?,
                pairs: macros(fields)?,
            },
            b'C' => connect(fields)?,
            b'H' => Command::Helo(fields.string()?),
            b'M' => Command::Mail(fields.strings()?),
            b'R' => Command::Rcpt(fields.strings()?),
            b'T' => Command::Data,
            b'U' => Command::Unknown(fields.string()?),
            b'L' => Command::Header {
                name: fields.string()?,
                value: fields.string()?,
            },
            b'N' => Command::EndOfHeader,
            b'B' => Command::Body(fields.data),
            b'E' => Command::EndOfMessage(fields.data),
            b'A' => Command::Abort,
            b'Q' => Command::Quit,
            b'K' => Command::QuitNewConnection,
            other => return Err(CodecError::Letter(char::from(other))),
        })
    }

    /// Adds the packet to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let strings = |strings: &[Bytes]| -> Vec<u8> {
            strings
                .iter()
                .flat_map(|string| string.iter().copied().chain([0]))
                .collect()
        };
        match self {
            Command::Negotiate {
                version,
                actions,
                steps,
            } => negotiation(out, *version, *actions, *steps),
            Command::Macros { step, pairs } => {
                let mut data = vec![*step];
                for (name, value) in pairs {
                    data.extend(strings(&[name.clone(), value.clone()]));
                }
                packet(out, b'D', &[&data]);
            }
            Command::Connect {
                hostname,
                family,
                port,
                address,
            } => {
                let mut data = strings(std::slice::from_ref(hostname));
                data.push(*family);
                if *family != b'U' {
                    data.extend(port.to_be_bytes());
                    data.extend(strings(std::slice::from_ref(address)));
                }
                packet(out, b'C', &[&data]);
            }
            Command::Helo(name) => packet(out, b'H', &[name, b"\0"]),
            Command::Mail(words) => packet(out, b'M', &[&strings(words)]),
            Command::Rcpt(words) => packet(out, b'R', &[&strings(words)]),
            Command::Data => packet(out, b'T', &[]),
            Command::Unknown(line) => packet(out, b'U', &[line, b"\0"]),
            Command::Header { name, value } => packet(out, b'L', &[name, b"\0", value, b"\0"]),
            Command::EndOfHeader => packet(out, b'N', &[]),
            Command::Body(chunk) => packet(out, b'B', &[chunk]),
            Command::EndOfMessage(chunk) => packet(out, b'E', &[chunk]),
            Command::Abort => packet(out, b'A', &[]),
            Command::Quit => packet(out, b'Q', &[]),
            Command::QuitNewConnection => packet(out, b'K', &[]),
        }
    }
}

fn macros(mut fields: Fields) -> Result<Vec<(Bytes, Bytes)>, CodecError> {
    let mut pairs = Vec::new();
    while !fields.data.is_empty() {
        pairs.push((fields.string()?, fields.string()?));
    }
    Ok(pairs)
}

fn connect(mut fields: Fields) -> Result<Command, CodecError> {
    let hostname = fields.string()?;
    let family = fields.letter()?;
    if fields.data.is_empty() {
        return Ok(Command::Connect {
            hostname,
            family,
            port: 0,
            address: Bytes::new(),
        });
    }
    let port = fields
        .data
        .try_get_u16()
        .map_err(|_| fields.malformed("a port"))?;
    Ok(Command::Connect {
        hostname,
        family,
        port,
        address: fields.string()?,
    })
}

impl Response {
    fn parse(letter: u8, data: Bytes) -> Result<Response, CodecError> {
        let mut fields = Fields { letter, data };
        Ok(match letter {
            b'O' => Response::Negotiate {
                version: fields.number()?,
                actions: Actions(fields.number()?),
                steps: Steps(fields.number()?),
            },
            b'c' => Response::Continue,
            b'a' => Response::Accept,
            b'r' => Response::Reject,
            b't' => Response::Tempfail,
            b'd' => Response::Discard,
            b'p' => Response::Progress,
            b'y' => Response::Reply(fields.string()?),
            b'+' => Response::AddRecipient(fields.string()?),
            b'2' => Response::AddRecipientWith(fields.string()?, fields.string()?),
            b'-' => Response::DeleteRecipient(fields.string()?),
            b'e' => {
                let path = fields.string()?;
                let params = if fields.data.is_empty() {
                    Bytes::new()
                } else {
                    fields.string()?
                };
                Response::ChangeSender(path, params)
            }
            b'h' => Response::AddHeader(fields.string()?, fields.string()?),
            b'i' => Response::InsertHeader(fields.number()?, fields.string()?, fields.string()?),
            b'm' => Response::ChangeHeader(fields.number()?, fields.string()?, fields.string()?),
            b'b' => Response::ReplaceBody(fields.data),
            b'q' => Response::Quarantine(fields.string()?),
            other => return Err(CodecError::Letter(char::from(other))),
        })
    }

    /// Adds the packet to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Response::Negotiate {
                version,
                actions,
                steps,
            } => negotiation(out, *version, *actions, *steps),
            Response::Continue => packet(out, b'c', &[]),
            Response::Accept => packet(out, b'a', &[]),
            Response::Reject => packet(out, b'r', &[]),
            Response::Tempfail => packet(out, b't', &[]),
            Response::Discard => packet(out, b'd', &[]),
            Response::Progress => packet(out, b'p', &[]),
            Response::Reply(line) => packet(out, b'y', &[line, b"\0"]),
            Response::AddRecipient(path) => packet(out, b'+', &[path, b"\0"]),
            Response::AddRecipientWith(path, params) => {
                packet(out, b'2', &[path, b"\0", params, b"\0"]);
            }
            Response::DeleteRecipient(path) => packet(out, b'-', &[path, b"\0"]),
            Response::ChangeSender(path, params) if params.is_empty() => {
                packet(out, b'e', &[path, b"\0"]);
            }
            Response::ChangeSender(path, params) => {
                packet(out, b'e', &[path, b"\0", params, b"\0"]);
            }
            Response::AddHeader(name, value) => packet(out, b'h', &[name, b"\0", value, b"\0"]),
            Response::InsertHeader(index, name, value) => {
                packet(
                    out,
                    b'i',
                    &[&index.to_be_bytes(), name, b"\0", value, b"\0"],
                );
            }
            Response::ChangeHeader(index, name, value) => {
                packet(
                    out,
                    b'm',
                    &[&index.to_be_bytes(), name, b"\0", value, b"\0"],
                );
            }
            Response::ReplaceBody(chunk) => packet(out, b'b', &[chunk]),
            Response::Quarantine(reason) => packet(out, b'q', &[reason, b"\0"]),
        }
    }
}

fn negotiation(out: &mut BytesMut, version: u32, actions: Actions, steps: Steps) {
    packet(
        out,
        b'O',
        &[
            &version.to_be_bytes(),
            &actions.0.to_be_bytes(),
            &steps.0.to_be_bytes(),
        ],
    );
}

fn packet(out: &mut BytesMut, letter: u8, parts: &[&[u8]]) {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    out.reserve(4 + length);
    out.put_u32(u32::try_from(length).expect("nothing that is sent has 4 GiB"));
    out.put_u8(letter);
    parts.iter().for_each(|part| out.put_slice(part));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Bytes> {
        "[^\0]{0,20}".prop_map(Bytes::from)
    }

    fn command() -> impl Strategy<Value = Command> {
        let words = || prop::collection::vec(text(), 1..4);
        let bytes = || prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        prop_oneof![
            any::<(u32, u32, u32)>().prop_map(|(version, actions, steps)| Command::Negotiate {
                version,
                actions: Actions(actions),
                steps: Steps(steps)
            }),
            (any::<u8>(), prop::collection::vec((text(), text()), 0..4))
                .prop_map(|(step, pairs)| Command::Macros { step, pairs }),
            (text(), any::<u16>(), text()).prop_map(|(hostname, port, address)| Command::Connect {
                hostname,
                family: b'4',
                port,
                address
            }),
            words().prop_map(Command::Mail),
            words().prop_map(Command::Rcpt),
            (text(), text()).prop_map(|(name, value)| Command::Header { name, value }),
            bytes().prop_map(Command::Body),
            bytes().prop_map(Command::EndOfMessage),
            text().prop_map(Command::Unknown),
            Just(Command::Quit),
        ]
    }

    proptest! {
        #[test]
        fn packets_survive_any_split(commands in prop::collection::vec(command(), 0..8), step in 1usize..50) {
            let mut wire = BytesMut::new();
            commands.iter().for_each(|command| command.encode(&mut wire));
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(command) = Decoder::new(1000).command(&mut buffer).expect("our own packets") {
                    read.push(command);
                }
            }
            prop_assert_eq!(read, commands);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = Decoder::new(100).command(&mut buffer) {}
            for letter in 0..=255u8 {
                let _ = Command::parse(letter, Bytes::from(bytes.clone()));
                let _ = Response::parse(letter, Bytes::from(bytes.clone()));
            }
        }
    }

    #[test]
    fn responses_come_back_as_they_were() {
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        let all = [
            Response::Continue,
            Response::Reply(text("550 5.1.1 no")),
            Response::AddRecipientWith(text("<a@b>"), text("NOTIFY=NEVER")),
            Response::ChangeSender(text("<a@b>"), Bytes::new()),
            Response::ChangeSender(text("<a@b>"), text("RET=HDRS")),
            Response::InsertHeader(1, text("X-A"), text("b")),
            Response::ChangeHeader(2, text("X-A"), text("")),
            Response::ReplaceBody(text("x\0y")),
        ];
        let mut wire = BytesMut::new();
        all.iter().for_each(|response| response.encode(&mut wire));
        for response in all {
            assert_eq!(Decoder::new(100).response(&mut wire), Ok(Some(response)));
        }
    }

    #[test]
    fn a_packet_above_the_limit_is_refused_before_it_is_read() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 101, b'B'][..]);
        assert_eq!(
            Decoder::new(100).command(&mut buffer),
            Err(CodecError::Length {
                length: 101,
                limit: 100
            })
        );
        let mut empty = BytesMut::from(&[0, 0, 0, 0][..]);
        assert!(Decoder::new(100).command(&mut empty).is_err());
    }
}
