//! `copyist text`: messages as they would leave.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::args::{TextFormat, TextQuestion};
use super::{Failure, load, print_json};
use crate::daemon;
use crate::directory::Entry;
use crate::identity::{Identities, IdentityQuery as Whose};
use crate::mail::{Address, Message, escape_for_display};
use crate::text::{
    self, DirectionTexts, EditMethod, MessageEdit, Obstacle, Settings, Splice, Texts,
};

/// What was done to one message, as scripts read it.
#[derive(Serialize)]
struct Report {
    message: String,
    /// Whether it would leave as it came.
    unchanged: bool,
    /// Why, although there is a text for it.
    left: Option<String>,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    /// As IMAP counts; empty for the message itself.
    part: String,
    kind: String,
    /// "in place", "as character references", "encoded", "as UTF-8" or "beside".
    how: &'static str,
    /// Why it is beside.
    why: Option<String>,
}

pub(super) async fn text(question: TextQuestion) -> Result<(), Failure> {
    let format = question.format();
    let settings = load(&question.config.file)?;
    let texts = settings.text.of(question.direction);
    let people = match texts.needs_sender() {
        true => Some(daemon::open_identities(&settings).map_err(Failure::failed)?),
        false => None,
    };
    if let Some(dir) = &question.out {
        fs::create_dir_all(dir)
            .map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))?;
    }
    let mut reports = Vec::new();
    for path in &question.messages {
        let bytes = read(path)?;
        let sender = match &people {
            Some(identities) => sender(&bytes, question.from.as_ref(), identities).await?,
            None => Vec::new(),
        };
        let edited = edit(&bytes, texts, &sender, &settings.text)?;
        let splices = edited.as_ref().map_or(&[][..], |edited| &edited.splices);
        match (&question.out, format) {
            (Some(dir), _) => write_into(dir, path, &text::apply(&bytes, splices))?,
            (None, TextFormat::Message) => print(&text::apply(&bytes, splices))?,
            (None, TextFormat::Diff) => print(diff(path, &bytes, splices).as_bytes())?,
            (None, TextFormat::Json) => {}
        }
        reports.push(report(path, edited));
    }
    if let Some(identities) = people {
        identities.directory().close().await;
    }
    match format {
        TextFormat::Json => print_json(&reports),
        _ => {
            reports.iter().for_each(tell);
            Ok(())
        }
    }
}

fn edit(
    message: &[u8],
    texts: &DirectionTexts,
    sender: &[Arc<Entry>],
    settings: &Settings,
) -> Result<Result<MessageEdit, Obstacle>, Failure> {
    let filled = |wording: &Option<text::Disclaimer>| {
        let filled = wording.as_ref().map(|wording| wording.for_sender(sender));
        filled
            .transpose()
            .map(Option::flatten)
            .map_err(Failure::failed)
    };
    let texts = Texts {
        prepend: filled(&texts.prepend)?,
        append: filled(&texts.append)?,
    };
    Ok(text::edit(message, &texts, settings.signed))
}

/// The objects of the sender: the one given, or else the author.
async fn sender(
    message: &[u8],
    given: Option<&Address>,
    identities: &Identities,
) -> Result<Vec<Arc<Entry>>, Failure> {
    let author = || {
        let message = Message::new(Bytes::copy_from_slice(message));
        message.summary().from.into_iter().next()
    };
    let Some(sender) = given.cloned().or_else(author) else {
        return Ok(Vec::new());
    };
    let question = Whose::Sender {
        address: sender.clone(),
        mta: None,
    };
    match identities.owners(&question).await {
        Ok(owners) => Ok(owners
            .people
            .first()
            .map(|person| person.own().cloned().collect())
            .unwrap_or_default()),
        Err(outage) => Err(Failure::failed(format!("{sender}: {outage}"))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    read.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

fn write_into(dir: &Path, message: &Path, edited: &[u8]) -> Result<(), Failure> {
    let name = message.file_name().filter(|name| *name != "-");
    let path: PathBuf = dir.join(name.unwrap_or("message.eml".as_ref()));
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same(&path, message) {
        let problem = "is the message itself; choose another --out directory";
        return Err(Failure::Wrong(format!("{} {problem}", path.display())));
    }
    fs::write(&path, edited)
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(()),
    }
}

/// The lines that change, as a patch shows them.
fn diff(path: &Path, message: &[u8], splices: &[Splice]) -> String {
    let path = path.display().to_string();
    let path = escape_for_display(&path);
    let mut shown = format!("--- {path}\n+++ {path} as it would leave\n");
    let mut rest = splices;
    while let Some(first) = rest.first() {
        let start = memchr::memrchr(b'\n', &message[..first.range.start]).map_or(0, |lf| lf + 1);
        // What changes on the same lines, or on those that follow, is shown together.
        let mut end = first.range.end;
        let mut many = 0;
        while let Some(next) = rest.get(many)
            && (many == 0 || next.range.start <= end)
        {
            end = next.range.end;
            // Something put in at the beginning of a line leaves that line alone.
            if end > start && message[end - 1] != b'\n'
                || end == start && !next.with.ends_with(b"\n")
            {
                end +=
                    memchr::memchr(b'\n', &message[end..]).map_or(message.len() - end, |lf| lf + 1);
            }
            many += 1;
        }
        let (these, others) = rest.split_at(many);
        rest = others;
        let local: Vec<Splice> = these
            .iter()
            .map(|splice| Splice {
                range: splice.range.start - start..splice.range.end - start,
                with: splice.with.clone(),
            })
            .collect();
        let old = &message[start..end];
        let number = memchr::memchr_iter(b'\n', &message[..start]).count() + 1;
        shown.push_str(&format!("@@ line {number} @@\n"));
        shown.push_str(&marked('-', old));
        shown.push_str(&marked('+', &text::apply(old, &local)));
    }
    shown
}

fn marked(mark: char, lines: &[u8]) -> String {
    let text = String::from_utf8_lossy(lines);
    let shown = |line: &str| {
        let cells: Vec<_> = line.split('\t').map(escape_for_display).collect();
        format!("{mark}{}\n", cells.join("\t"))
    };
    text.lines().map(shown).collect()
}

fn report(path: &Path, edited: Result<MessageEdit, Obstacle>) -> Report {
    let (left, edited) = match edited {
        Ok(edited) => (None, edited),
        Err(obstacle) => (Some(obstacle.to_string()), MessageEdit::default()),
    };
    Report {
        message: path.display().to_string(),
        unchanged: edited.splices.is_empty(),
        left,
        parts: edited.parts.into_iter().map(Part::from).collect(),
    }
}

/// To people, beside the messages themselves: which were not changed, and why.
fn tell(report: &Report) {
    if let Some(why) = &report.left {
        let line = format!("copyist: {}: goes as it is: {why}", report.message);
        eprintln!("{}", escape_for_display(&line));
    } else if report.unchanged {
        eprintln!(
            "copyist: {}: goes as it is: there is no text for this direction",
            escape_for_display(&report.message)
        );
    }
}

impl From<text::PartEdit> for Part {
    fn from(note: text::PartEdit) -> Part {
        let (how, why) = match note.method {
            EditMethod::InPlace => ("in place", None),
            EditMethod::CharacterReferences => ("as character references", None),
            EditMethod::QuotedPrintable => ("encoded", None),
            EditMethod::Utf8 => ("as UTF-8", None),
            EditMethod::SeparatePart(obstacle) => ("beside", Some(obstacle.to_string())),
        };
        Part {
            part: note.part,
            kind: note.kind,
            how,
            why,
        }
    }
}
