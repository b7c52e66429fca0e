//! Plays recorded conversations against the filter's side of the milter protocol.
//!
//! A file under `tests/milter_conversations/` has one packet a line, `C:` from the MTA and `S:`
//! from us, its letter and its payload with the escapes `\0 \r \n \\ \xHH`; the length is left out.
//! `raw:` is bytes as they are, `close` ends the MTA's side, `end:` says how we end. Packets of
//! the MTA that stand together are sent together; ours must come in exactly this order, and nothing
//! else may come.

use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use copyist::mail::{Enhanced, LimitExceeded, Limits, Reply};
use copyist::milter::{
    Actions, Edit, Frames, Handler, MessageAnswer, MessageDecision, PartialTransaction, Path,
    RecipientAnswer, Requirements, Transaction, serve,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) const LIMITS: Limits = Limits {
    idle: Duration::from_secs(300),
    ..Limits::DEFAULT
};

/// A recipient asked about, and those accepted before it.
pub(crate) type RecipientCheck = (String, Vec<String>);

/// Decides as the test says and remembers what it saw.
#[derive(Clone, Default)]
pub(crate) struct Scripted {
    pub(crate) edits: Vec<Edit>,
    pub(crate) takes: Duration,
    pub(crate) asked: Arc<Mutex<Vec<RecipientCheck>>>,
    pub(crate) seen: Arc<Mutex<Vec<Transaction>>>,
    pub(crate) refused: Arc<Mutex<Vec<(String, LimitExceeded)>>>,
    /// Pieces of the message under way.
    pub(crate) pieces: Arc<Mutex<Vec<Bytes>>>,
    /// Bytes that room was asked for, by messages that are not over.
    pub(crate) room: Arc<AtomicUsize>,
    /// Bytes that there is room for; `None`: any.
    pub(crate) room_there_is: Option<usize>,
}

impl Handler for Scripted {
    async fn check_recipient(
        &mut self,
        partial: PartialTransaction<'_>,
        recipient: &Path,
    ) -> RecipientAnswer {
        let before = addresses(partial.recipients);
        let asked = (recipient.address.clone(), before);
        self.asked.lock().expect("no test panicked").push(asked);
        let reply = |code, enhanced, text| RecipientAnswer::Reply(Reply::new(code, enhanced, text));
        match recipient.address.split('@').next() {
            Some("<nobody") if recipient.address.contains("corp") => {
                reply(550, Enhanced(5, 1, 1), "No such user")
            }
            Some("<nobody") => reply(550, Enhanced(5, 1, 1), "100% nobody"),
            Some("<odd") => reply(250, Enhanced(2, 1, 1), "no refusal at all"),
            Some("<later") => RecipientAnswer::Tempfail,
            Some("<never") => RecipientAnswer::Reject,
            _ => RecipientAnswer::Accept,
        }
    }

    fn limit_exceeded(&mut self, queue_id: &str, excess: LimitExceeded) {
        let refused = (queue_id.to_owned(), excess);
        self.refused.lock().expect("no test panicked").push(refused);
    }

    async fn reserve_memory(&mut self, bytes: usize) -> bool {
        let taken = self.room.load(Ordering::SeqCst) + bytes;
        let is_there = self.room_there_is.is_none_or(|room| taken <= room);
        if is_there {
            self.room.store(taken, Ordering::SeqCst);
        }
        is_there
    }

    async fn take_chunk(&mut self, piece: Bytes) {
        self.pieces.lock().expect("no test panicked").push(piece);
    }

    fn discard_chunks(&mut self) {
        self.pieces.lock().expect("no test panicked").clear();
        self.room.store(0, Ordering::SeqCst);
    }

    async fn end_of_message(&mut self, mut transaction: Transaction) -> MessageDecision {
        let mut pieces = std::mem::take(&mut *self.pieces.lock().expect("no test panicked"));
        let handed_over: usize = pieces.iter().map(Bytes::len).sum();
        assert_eq!(handed_over, transaction.handed_over);
        pieces.push(transaction.message);
        transaction.message = pieces.concat().into();
        if !self.takes.is_zero() {
            sleep(self.takes).await;
        }
        self.seen
            .lock()
            .expect("no test panicked")
            .push(transaction);
        MessageDecision {
            edits: self.edits.clone(),
            answer: MessageAnswer::Accept,
        }
    }
}

pub(crate) fn addresses(paths: &[Path]) -> Vec<String> {
    paths.iter().map(|path| path.address.clone()).collect()
}

/// One line of a conversation.
enum Line {
    Mta(Vec<u8>),
    Filter(String),
    Close,
    End(String),
}

fn conversation(file: &str) -> Vec<Line> {
    let path = format!(
        "{}/tests/milter_conversations/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).expect("the conversation is in the repository");
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| match line.split_once(": ") {
            Some(("C", packet)) => Line::Mta(packet_bytes(packet)),
            Some(("S", packet)) => {
                // Read and written again, so that a file may use any escape it likes.
                let bytes = packet_bytes(packet);
                Line::Filter(notation(bytes[4], &bytes[5..]))
            }
            Some(("raw", bytes)) => Line::Mta(bytes_of(bytes)),
            Some(("end", how)) => Line::End(how.to_owned()),
            _ if line == "close" => Line::Close,
            _ => panic!("{path}: cannot read {line:?}"),
        })
        .collect()
}

pub(crate) fn packet_bytes(packet: &str) -> Vec<u8> {
    let (letter, payload) = packet.split_at(1);
    let payload = bytes_of(payload.strip_prefix(' ').unwrap_or(payload));
    let mut bytes = Vec::new();
    bytes.put_u32(u32::try_from(payload.len() + 1).expect("a short payload"));
    bytes.extend_from_slice(letter.as_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, byte == b'\\') {
            (_, true) => match rest.next().expect("an escape") {
                b'0' => 0,
                b'r' => b'\r',
                b'n' => b'\n',
                b'\\' => b'\\',
                b'x' => {
                    let digits = [rest.next(), rest.next()].map(|digit| {
                        let digit = char::from(digit.expect("two digits")).to_digit(16);
                        u8::try_from(digit.expect("a hexadecimal digit")).expect("below 16")
                    });
                    digits[0] << 4 | digits[1]
                }
                other => panic!("unknown escape {:?}", char::from(other)),
            },
            (byte, false) => byte,
        });
    }
    bytes
}

/// A packet in the notation of the files.
pub(crate) fn notation(kind: u8, payload: &[u8]) -> String {
    let mut text = String::from(char::from(kind));
    if !payload.is_empty() {
        text.push(' ');
    }
    for byte in payload {
        match byte {
            0 => text.push_str("\\0"),
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            32..127 => text.push(char::from(*byte)),
            other => write!(text, "\\x{other:02x}").expect("a String takes everything"),
        }
    }
    text
}

/// The MTA's end of a connection.
pub(crate) struct Mta {
    pub(crate) stream: DuplexStream,
    pub(crate) frames: Frames,
}

impl Mta {
    /// Returns our next packet; `None` once we closed.
    pub(crate) async fn hear(&mut self) -> Option<String> {
        loop {
            if let Some(frame) = self.frames.next().expect("we send packets") {
                return Some(notation(frame.kind, frame.payload));
            }
            let read = self.stream.read_buf(self.frames.space()).await;
            if read.expect("a pipe in memory does not break") == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        let written = self.stream.write_all(bytes).await;
        written.expect("we read what the MTA says");
    }
}

pub(crate) fn requirements(bits: u32, answer_recipients: bool) -> Requirements {
    Requirements {
        actions: Actions::from_bits(bits),
        answer_recipients,
    }
}

/// Plays a conversation to its end; what the handler saw is returned.
pub(crate) async fn play(
    file: &str,
    requirements: Requirements,
    handler: &Scripted,
) -> Vec<Transaction> {
    play_within(LIMITS, file, requirements, handler).await
}

/// As [`play`], with these limits.
pub(crate) async fn play_within(
    limits: Limits,
    file: &str,
    requirements: Requirements,
    handler: &Scripted,
) -> Vec<Transaction> {
    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(ours, requirements, limits, handler.clone(), shutdown));
    let mut mta = Mta {
        stream: theirs,
        frames: Frames::new(),
    };
    let mut together = Vec::new();
    let mut expected_end = None;
    for line in conversation(file) {
        if let Line::Mta(bytes) = line {
            together.extend_from_slice(&bytes);
            continue;
        }
        if !together.is_empty() {
            mta.say(&std::mem::take(&mut together)).await;
        }
        match line {
            Line::Mta(_) => {}
            Line::Filter(expected) => {
                assert_eq!(mta.hear().await.as_ref(), Some(&expected), "{file}");
            }
            Line::Close => mta.stream.shutdown().await.expect("closes"),
            Line::End(how) => expected_end = Some(how),
        }
    }
    let end = match serving.await.expect("the connection does not panic") {
        Ok(()) => "ok".to_owned(),
        Err(error) => sentences(&error),
    };
    assert_eq!(Some(end), expected_end, "{file}");
    assert_eq!(mta.hear().await, None, "{file}: more was said");
    handler.seen.lock().expect("no test panicked").clone()
}

pub(crate) fn sentences(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("a String takes everything");
        cause = error.source();
    }
    text
}

pub(crate) fn text(message: &Bytes) -> String {
    notation(b'=', message).split_off(2)
}

/// Counts the writes to a stream.
pub(crate) struct WriteCounter(pub(crate) DuplexStream, pub(crate) Arc<AtomicUsize>);

impl AsyncRead for WriteCounter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for WriteCounter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
