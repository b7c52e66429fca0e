//! A load for a milter port: SMTP sessions as an MTA tells of them, any number at a time, over TCP
//! or a Unix socket.
//!
//! Each session sends its next message when the one before is answered (a closed loop), or at a
//! rate. Every answer is read and checked: an answer that does not belong to the command ends the
//! run with status 1. What is printed: messages a second, how they were answered, and how long a
//! message took (MAIL to verdict) and its verdict alone (end of the message to verdict), as
//! percentiles of an HDR histogram.
//!
//! ```text
//! cargo bench --bench milter_load -- --connect 127.0.0.1:8891 --messages 20000
//! cargo bench --bench milter_load -- --help
//! ```

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use copyist::milter::{
    Actions, ClientAddress, Command, Frames, Offer, Response, Stage, Steps, Strings, VERSION,
};
use hdrhistogram::Histogram;

const USAGE: &str = "\
usage: milter_load --connect HOST:PORT|unix:PATH [options]
  --sessions N     SMTP sessions at a time (50)
  --messages N     messages in all (10000)
  --size N         bytes of a body (10240)
  --recipients N   of each message (1)
  --from ADDRESS   sender (a@elsewhere.test)
  --to PATTERN     recipients; # becomes a number (u#@example.test)
  --people N       the numbers begin again after so many (1000)
  --rate N         messages a second, of all sessions together; without it as many as are answered
  --json           one line for scripts";

/// Bytes of a body in one packet, as MTAs send them (`MILTER_CHUNK_SIZE`).
const CHUNK: usize = 65535;
/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The offer of a current MTA: everything that the protocol has.
const STEPS: u32 = 0x001f_ffff;

struct Options {
    connect: String,
    sessions: u64,
    messages: u64,
    size: usize,
    recipients: u64,
    from: String,
    to: String,
    people: u64,
    rate: Option<f64>,
    json: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            connect: String::new(),
            sessions: 50,
            messages: 10_000,
            size: 10_240,
            recipients: 1,
            from: "a@elsewhere.test".into(),
            to: "u#@example.test".into(),
            people: 1000,
            rate: None,
            json: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--connect" => options.connect = value()?,
                "--sessions" => options.sessions = number(&word, &value()?)?,
                "--messages" => options.messages = number(&word, &value()?)?,
                "--size" => options.size = number(&word, &value()?)?,
                "--recipients" => options.recipients = number(&word, &value()?)?,
                "--from" => options.from = value()?,
                "--to" => options.to = value()?,
                "--people" => options.people = number(&word, &value()?)?,
                "--rate" => options.rate = Some(number(&word, &value()?)?),
                "--json" => options.json = true,
                // What `cargo bench` adds.
                "--bench" => {}
                _ => return Err(format!("unknown option: {word}")),
            }
        }
        match options.connect.as_str() {
            "" => Err("--connect says where, for example 127.0.0.1:8891".into()),
            _ => Ok(options),
        }
    }
}

fn number<N: std::str::FromStr>(option: &str, value: &str) -> Result<N, String> {
    let parsed = value.parse();
    parsed.map_err(|_| format!("{option} {value}: not a number, write for example 50"))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    // `cargo test` and `cargo bench` without arguments run every bench: there is nothing to load
    // then.
    if words
        .iter()
        .all(|word| word == "--bench" || word == "--test")
    {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(words.into_iter()) {
        Ok(options) => options,
        Err(flaw) => {
            eprintln!("milter_load: {flaw}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match load(&options) {
        Ok(seen) => {
            seen.print(&options);
            ExitCode::SUCCESS
        }
        Err(flaw) => {
            eprintln!("milter_load: {}: {flaw}", options.connect);
            ExitCode::FAILURE
        }
    }
}

/// The results of the messages.
struct Seen {
    took: Duration,
    accepted: u64,
    deferred: u64,
    refused: u64,
    /// In microseconds.
    whole: Histogram<u64>,
    verdict: Histogram<u64>,
}

impl Seen {
    fn new() -> Seen {
        let histogram = || Histogram::new(3).expect("three digits are possible");
        Seen {
            took: Duration::ZERO,
            accepted: 0,
            deferred: 0,
            refused: 0,
            whole: histogram(),
            verdict: histogram(),
        }
    }

    fn add(&mut self, other: &Seen) {
        self.accepted += other.accepted;
        self.deferred += other.deferred;
        self.refused += other.refused;
        for (all, some) in [
            (&mut self.whole, &other.whole),
            (&mut self.verdict, &other.verdict),
        ] {
            all.add(some).expect("both grow as needed");
        }
    }

    fn print(&self, options: &Options) {
        let messages = self.accepted + self.deferred + self.refused;
        let rate = messages as f64 / self.took.as_secs_f64();
        let at = |of: &Histogram<u64>, part| of.value_at_quantile(part) as f64 / 1000.0;
        if options.json {
            let times = |of| {
                format!(
                    r#"{{"p50":{},"p99":{},"p999":{},"max":{}}}"#,
                    at(of, 0.5),
                    at(of, 0.99),
                    at(of, 0.999),
                    at(of, 1.0)
                )
            };
            println!(
                r#"{{"messages":{messages},"seconds":{},"per_second":{rate},"accepted":{},"deferred":{},"refused":{},"message_ms":{},"verdict_ms":{}}}"#,
                self.took.as_secs_f64(),
                self.accepted,
                self.deferred,
                self.refused,
                times(&self.whole),
                times(&self.verdict)
            );
            return;
        }
        println!(
            "{messages} messages in {:.2?}, {rate:.0} a second: {} accepted, {} deferred, {} refused",
            self.took, self.accepted, self.deferred, self.refused
        );
        for (name, times) in [("message", &self.whole), ("verdict", &self.verdict)] {
            println!(
                "{name}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms",
                at(times, 0.5),
                at(times, 0.99),
                at(times, 0.999),
                at(times, 1.0)
            );
        }
    }
}

fn load(options: &Options) -> io::Result<Seen> {
    let next = AtomicU64::new(0);
    let begun = Instant::now();
    let each: io::Result<Vec<Seen>> = std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..options.sessions)
            .map(|_| scope.spawn(|| session(options, &next, begun)))
            .collect();
        let ended = sessions
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join);
        ended
            .map(|seen| seen.expect("a session does not panic"))
            .collect()
    });
    let mut all = Seen::new();
    all.took = begun.elapsed();
    each?.iter().for_each(|seen| all.add(seen));
    Ok(all)
}

/// One SMTP session: messages until all sessions together have sent enough.
fn session(options: &Options, next: &AtomicU64, begun: Instant) -> io::Result<Seen> {
    let mut mta = Mta::connect(&options.connect)?;
    let (body, mut seen) = (body(options.size), Seen::new());
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= options.messages {
            mta.say(&Command::Quit);
            mta.flush()?;
            return Ok(seen);
        }
        // Counted from when it was its turn: a filter that is slow is not asked less often for it.
        let due = options.rate.map_or_else(Instant::now, |rate| {
            begun + Duration::from_secs_f64(number as f64 / rate)
        });
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (verdict, waited) = mta.message(options, number, &body)?;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        for (times, time) in [
            (&mut seen.whole, due.elapsed()),
            (&mut seen.verdict, waited),
        ] {
            // Not saturating_record, which does not grow the histogram and counts all that is long
            // as short.
            times.record(micros(time)).expect("it grows as needed");
        }
        match verdict {
            Verdict::Accepted => seen.accepted += 1,
            Verdict::Deferred => seen.deferred += 1,
            Verdict::Refused => seen.refused += 1,
        }
    }
}

/// Lines of text of this size together.
fn body(size: usize) -> Vec<u8> {
    let mut body: Vec<u8> =
        b"The quick brown fox jumps over the lazy dog, and once more for a whole line.\r\n"
            .iter()
            .copied()
            .cycle()
            .take(size)
            .collect();
    if size >= 2 {
        body[size - 2..].copy_from_slice(b"\r\n");
    }
    body
}

enum Verdict {
    Accepted,
    Deferred,
    Refused,
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// The MTA's side of one connection.
struct Mta {
    stream: Box<dyn Stream>,
    frames: Frames,
    out: BytesMut,
    steps: Steps,
}

impl Mta {
    fn connect(to: &str) -> io::Result<Mta> {
        let stream: Box<dyn Stream> = match to.strip_prefix("unix:") {
            Some(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            None => {
                let stream = TcpStream::connect(to)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        };
        let mut mta = Mta {
            stream,
            frames: Frames::new(),
            out: BytesMut::new(),
            steps: Steps::from_bits(0),
        };
        mta.say(&Command::Negotiate(Offer {
            version: VERSION,
            actions: Actions::from_bits(0x1ff),
            steps: Steps::from_bits(STEPS),
        }));
        mta.flush()?;
        let mut chosen = None;
        mta.answer("negotiation", |response| {
            if let Response::Negotiate(offer, _) = response {
                chosen = Some(offer.steps);
            }
            Some(())
        })?;
        mta.steps = chosen.ok_or_else(|| io::Error::other("no answer to the negotiation"))?;
        mta.macros(
            Stage::Connect,
            &["j", "mx.example.test", "{daemon_name}", "smtpd"],
        );
        let client = ClientAddress::Inet([192, 0, 2, 1].into(), 40000);
        let hostname = b"client.elsewhere.test";
        mta.step(
            &Command::Connect { hostname, client },
            Steps::SILENT_CONNECT,
        )?;
        mta.step(&Command::Helo(b"client.elsewhere.test"), Steps::SILENT_HELO)?;
        Ok(mta)
    }

    fn say(&mut self, command: &Command<'_>) {
        command.encode(&mut self.out);
    }

    fn macros(&mut self, stage: Stage, pairs: &[&str]) {
        let packed = Strings::pack(pairs);
        let pairs = Strings::new(&packed).expect("they were packed");
        self.say(&Command::Macros { stage, pairs });
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.stream.write_all(&self.out);
        self.out.clear();
        written
    }

    /// Sends a command, and waits for "continue" unless the negotiation says that there is none. A
    /// verdict ends the message.
    fn step(&mut self, command: &Command<'_>, silent: Steps) -> io::Result<Option<Verdict>> {
        self.say(command);
        if self.steps.contains(silent) {
            return Ok(None);
        }
        self.flush()?;
        self.answer(command.name(), |response| match response {
            Response::Continue | Response::Skip => Some(Ok(None)),
            response => verdict_of(response).map(|verdict| Ok(Some(verdict))),
        })?
    }

    /// Reads packets until one is an answer.
    fn answer<T>(
        &mut self,
        to: &str,
        mut read: impl FnMut(Response<'_>) -> Option<T>,
    ) -> io::Result<T> {
        loop {
            let frame = self.frames.next().map_err(io::Error::other)?;
            if let Some(frame) = frame {
                let response = Response::decode(frame).map_err(io::Error::other)?;
                if let Some(answer) = read(response) {
                    return Ok(answer);
                }
                continue;
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes)? {
                0 => {
                    return Err(io::Error::other(format!(
                        "closed instead of an answer to {to}"
                    )));
                }
                read => self.frames.space().extend_from_slice(&bytes[..read]),
            }
        }
    }

    /// Sends one message; returns its verdict, and the time from the end of the message to the
    /// verdict.
    fn message(
        &mut self,
        options: &Options,
        number: u64,
        body: &[u8],
    ) -> io::Result<(Verdict, Duration)> {
        let id = format!("L{number:011X}");
        self.macros(Stage::Mail, &["i", &id]);
        // A verdict before the end is the last that is said of a message.
        macro_rules! step {
            ($command:expr, $silent:expr) => {
                if let Some(verdict) = self.step(&$command, $silent)? {
                    return Ok((verdict, Duration::ZERO));
                }
            };
        }
        let from = Strings::pack([format!("<{}>", options.from)]);
        step!(Command::Mail(path(&from)), Steps::SILENT_MAIL);
        let mut refusals = 0;
        for n in 0..options.recipients {
            let person = (number * options.recipients + n) % options.people.max(1);
            let to = options.to.replace('#', &person.to_string());
            let packed = Strings::pack([format!("<{to}>")]);
            match self.step(&Command::Rcpt(path(&packed)), Steps::SILENT_RCPT)? {
                Some(Verdict::Accepted) => return Ok((Verdict::Accepted, Duration::ZERO)),
                // Of the recipient alone.
                Some(_) => refusals += 1,
                None => {}
            }
        }
        if refusals == options.recipients {
            self.say(&Command::Abort);
            return Ok((Verdict::Refused, Duration::ZERO));
        }
        if !self.steps.contains(Steps::NO_DATA) {
            step!(Command::Data, Steps::SILENT_DATA);
        }
        let message_id = format!(" <{number}@elsewhere.test>");
        let fields: [(&str, &str); 8] = [
            (
                "Received",
                " from client by mx; Tue, 24 Nov 2026 03:32:21 +0000",
            ),
            ("From", " Somebody <a@elsewhere.test>"),
            ("To", " Somebody else <u@example.test>"),
            ("Subject", " A message of the usual kind"),
            ("Date", " Tue, 24 Nov 2026 03:32:21 +0000"),
            ("Message-ID", &message_id),
            ("MIME-Version", " 1.0"),
            ("Content-Type", " text/plain; charset=us-ascii"),
        ];
        for (name, value) in fields {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            step!(Command::Header { name, value }, Steps::SILENT_HEADER);
        }
        step!(Command::EndOfHeader, Steps::SILENT_END_OF_HEADER);
        for chunk in body.chunks(CHUNK) {
            step!(Command::Body(chunk), Steps::SILENT_BODY);
        }
        self.macros(Stage::EndOfMessage, &["i", &id]);
        self.say(&Command::EndOfMessage(b""));
        self.flush()?;
        let ended = Instant::now();
        let verdict = self.answer("the end of the message", verdict_of)?;
        Ok((verdict, ended.elapsed()))
    }
}

fn path(packed: &BytesMut) -> Strings<'_> {
    Strings::new(packed).expect("it was packed")
}

/// Returns the verdict of a response; `None` for edits and progress.
fn verdict_of(response: Response<'_>) -> Option<Verdict> {
    match response {
        Response::Accept | Response::Continue | Response::Discard => Some(Verdict::Accepted),
        Response::Tempfail => Some(Verdict::Deferred),
        Response::Reject => Some(Verdict::Refused),
        Response::Reply(text) if text.starts_with(b"4") => Some(Verdict::Deferred),
        Response::Reply(_) => Some(Verdict::Refused),
        _ => None,
    }
}
