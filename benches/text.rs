//! A text after the body, for every message of `tests/mails`, beside alterMIME, which is a process
//! for each message.
//!
//! ```text
//! cargo bench --bench text              needs altermime
//! cargo bench --bench text -- --json    a line for scripts
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use copyist::text::{Disclaimer, SignedPolicy, Texts, apply, edit};

const WORDS: &str = "This message is kept by Example Ltd. for ten years.";
/// All messages in one round: ours are done so often, alterMIME's once.
const TIMES: usize = 100;
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test` builds and runs every bench.
    if !words.iter().any(|word| word == "--bench") {
        println!("cargo bench --bench text, see benches/text.rs");
        return ExitCode::SUCCESS;
    }
    match compare(words.iter().any(|word| word == "--json")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("text: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn compare(json: bool) -> io::Result<()> {
    let mut files = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mails"),
        &mut files,
    )?;
    let messages: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<io::Result<_>>()?;
    let wording = Disclaimer::new(Some(WORDS), None, false).expect("sound");
    let texts = Texts {
        prepend: None,
        append: wording.for_sender(&[]).expect("no template"),
    };
    let place = tempfile::tempdir()?;
    let words = place.path().join("words");
    std::fs::write(&words, WORDS)?;
    let (mut ours, mut theirs, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    let mut edited = 0;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..TIMES {
            edited = 0;
            for message in &messages {
                if let Ok(done) = edit(message, &texts, SignedPolicy::Skip) {
                    std::hint::black_box(apply(message, &done.splices));
                    edited += 1;
                }
            }
        }
        ours.push((TIMES * messages.len()) as f64 / begun.elapsed().as_secs_f64());

        let copies: Vec<PathBuf> = (0..messages.len())
            .map(|number| place.path().join(number.to_string()))
            .collect();
        for (message, copy) in messages.iter().zip(&copies) {
            std::fs::write(copy, message)?;
        }
        let begun = Instant::now();
        for copy in &copies {
            // What it makes of a message that it cannot edit is its own matter.
            run(altermime()
                .arg(format!("--input={}", copy.display()))
                .arg(format!("--disclaimer={}", words.display())))?;
        }
        theirs.push(messages.len() as f64 / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        for _ in &copies {
            run(altermime().arg("--version"))?;
        }
        starts.push(begun.elapsed().as_secs_f64() / messages.len() as f64);
    }
    let (ours, theirs, start) = (median(ours), median(theirs), median(starts));
    let without = 1.0 / (1.0 / theirs - start).max(f64::MIN_POSITIVE);
    if json {
        println!(
            r#"{{"messages":{},"ours":{ours},"altermime":{theirs},"altermime_without_start":{without}}}"#,
            messages.len()
        );
    } else {
        println!(
            "{} messages, {edited} of them editable: {ours:.0} a second; alterMIME {theirs:.0} ({:.0} times), \
             without the start of its process {without:.0} ({:.0} times)",
            messages.len(),
            ours / theirs,
            ours / without
        );
    }
    Ok(())
}

fn collect(place: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(place)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|it| it == "eml") {
            into.push(path);
        }
    }
    Ok(())
}

fn altermime() -> Command {
    Command::new("altermime")
}

fn run(command: &mut Command) -> io::Result<()> {
    let ran = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ran.map(|_| ()).map_err(|cause| {
        io::Error::other(format!("altermime ({cause}): apt-get install altermime"))
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
