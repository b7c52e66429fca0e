//! `copyist text`: messages with disclaimer texts.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::args::{TextArgs, TextFormat};
use super::{Failure, load, print_json};
use crate::daemon;
use crate::directory::Entry;
use crate::identity::{Identities, IdentityQuery as Lookup};
use crate::mail::{Address, Message, escape_for_display};
use crate::text::{
    self, DirectionTexts, EditMethod, MessageEdit, Obstacle, Settings, Splice, Texts,
};

/// The changes to one message, for scripts.
#[derive(Serialize)]
struct Report {
    message: String,
    /// Whether the message is unchanged.
    unchanged: bool,
    /// The reason for no change, although there is a text.
    left: Option<String>,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    /// The IMAP part number; empty for the message itself.
    part: String,
    kind: String,
    /// "in place", "as character references", "encoded", "as UTF-8" or "beside".
    how: &'static str,
    /// The reason for a separate part.
    why: Option<String>,
}

pub(super) async fn text(args: TextArgs) -> Result<(), Failure> {
    let format = args.format();
    let settings = load(&args.config.file)?;
    let texts = settings.text.of(args.direction);
    let people = match texts.needs_sender() {
        true => Some(daemon::open_identities(&settings).map_err(Failure::failed)?),
        false => None,
    };
    if let Some(dir) = &args.out {
        fs::create_dir_all(dir)
            .map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))?;
    }
    let mut reports = Vec::new();
    for path in &args.messages {
        let bytes = read(path)?;
        let sender = match &people {
            Some(identities) => sender(&bytes, args.from.as_ref(), identities).await?,
            None => Vec::new(),
        };
        let edited = edit(&bytes, texts, &sender, &settings.text)?;
        let splices = edited.as_ref().map_or(&[][..], |edited| &edited.splices);
        match (&args.out, format) {
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
            reports.iter().for_each(print_unchanged);
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

/// Returns the objects of the sender, by default the author.
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
    let lookup = Lookup::Sender {
        address: sender.clone(),
        mta: None,
    };
    match identities.owners(&lookup).await {
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
        let problem = "is the input file; choose another --out directory";
        return Err(Failure::Invalid(format!("{} {problem}", path.display())));
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

/// Returns the changed lines as a patch.
fn diff(path: &Path, message: &[u8], splices: &[Splice]) -> String {
    let path = path.display().to_string();
    let path = escape_for_display(&path);
    let mut shown = format!("--- {path}\n+++ {path} with texts\n");
    let mut rest = splices;
    while let Some(first) = rest.first() {
        let start = memchr::memrchr(b'\n', &message[..first.range.start]).map_or(0, |lf| lf + 1);
        // Changes on the same or following lines are shown together.
        let mut end = first.range.end;
        let mut many = 0;
        while let Some(next) = rest.get(many)
            && (many == 0 || next.range.start <= end)
        {
            end = next.range.end;
            // An insertion at the start of a line leaves that line unchanged.
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
        shown.push_str(&prefix_lines('-', old));
        shown.push_str(&prefix_lines('+', &text::apply(old, &local)));
    }
    shown
}

fn prefix_lines(mark: char, lines: &[u8]) -> String {
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

/// Prints the messages that were not changed to standard error, with the reason.
fn print_unchanged(report: &Report) {
    if let Some(why) = &report.left {
        let line = format!("copyist: {}: unchanged: {why}", report.message);
        eprintln!("{}", escape_for_display(&line));
    } else if report.unchanged {
        eprintln!(
            "copyist: {}: unchanged: no text for this direction",
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
