//! Texts in mail of every kind: the messages under `tests/mails`, what they become, and what
//! somebody else's MIME parser says of that.
//!
//! Beside each `NAME.eml` stand `NAME.ascii` and `NAME.utf8`, what it becomes with a text in ASCII
//! and with one that is not, or `NAME.left`, why it is left as it is. `WRITE_MAILS=1 cargo test
//! --test text mails::` writes them anew; look at the difference before you commit it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use copyist::text::{Disclaimer, Obstacle, SignedPolicy, Text, Texts, apply, edit};

const KINDS: [(&str, &str, &str); 2] = [
    (
        "ascii",
        "From outside: be careful with links.",
        "This mail is confidential.\nExample Corp, 1 Main Street",
    ),
    (
        "utf8",
        "Von außen: Vorsicht mit Links — осторожно.",
        "Diese Mail ist vertraulich 🔒\nBeispiel AG, Straße 1, Zürich, 5 €",
    ),
];

/// Messages that Python's parser does not read as RFC 2045 and RFC 822 say: quoted pairs in a
/// boundary, comments in a type.
const NOT_JUDGED: [&str; 2] = ["boundary-quoted-pairs.eml", "content-type-odd-spelling.eml"];

fn mails() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mails")
}

/// Every message, by class and name.
fn messages() -> Vec<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).expect("a directory");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    };
    let classes = list(&mails()).into_iter().filter(|path| path.is_dir());
    let files = classes.flat_map(|class| list(&class));
    let mut found: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|end| end == "eml"))
        .collect();
    found.sort();
    found
}

fn text(words: &str) -> Option<Arc<Text>> {
    let wording = Disclaimer::new(Some(words), None, false).expect("sound");
    wording.for_sender(&[]).expect("fixed")
}

fn texts((_, before, after): (&str, &str, &str)) -> Texts {
    Texts {
        prepend: text(before),
        append: text(after),
    }
}

#[test]
fn every_sample_message_is_edited_as_expected() {
    let write = std::env::var_os("WRITE_MAILS").is_some();
    let messages = messages();
    assert!(messages.len() >= 150, "messages are missing");
    let mut wrong = Vec::new();
    for path in &messages {
        let message = fs::read(path).expect("a message");
        for kind in KINDS {
            let (expected, other, found) = match edit(&message, &texts(kind), SignedPolicy::Skip) {
                Ok(edited) => (kind.0, "left", apply(&message, &edited.splices)),
                Err(obstacle) => ("left", kind.0, format!("{obstacle}\n").into_bytes()),
            };
            let (expected, other) = (path.with_extension(expected), path.with_extension(other));
            if write {
                fs::write(&expected, &found).expect("written");
                let _ = fs::remove_file(other);
            } else if other.exists() || fs::read(&expected).ok() != Some(found) {
                wrong.push(expected);
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} are others now, for example {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
}

/// A text that is to stand once, in plain text or as HTML alone, is known again in whatever it was
/// put into.
#[test]
fn no_message_has_a_text_twice_that_is_to_stand_once() {
    let html = "<table><tr><td><b>CONFIDENTIAL</b> Stra&szlig;e&nbsp;1, for the addressee<br>only.</td></tr></table>";
    let once = |plain: Option<&str>, html: Option<&str>| -> Option<Arc<Text>> {
        let wording = Disclaimer::new(plain, html, true).expect("sound");
        wording.for_sender(&[]).expect("fixed")
    };
    let mut doubled = Vec::new();
    let mut edited = 0;
    for path in messages() {
        let message = fs::read(&path).expect("a message");
        for (before, after) in KINDS.map(|(_, before, after)| (before, after)) {
            for texts in [
                Texts {
                    prepend: once(Some(before), None),
                    append: once(Some(after), None),
                },
                Texts {
                    prepend: None,
                    append: once(None, Some(html)),
                },
            ] {
                for signed in [SignedPolicy::Skip, SignedPolicy::Wrap] {
                    let Ok(first) = edit(&message, &texts, signed) else {
                        continue;
                    };
                    edited += 1;
                    let first = apply(&message, &first.splices);
                    if !matches!(edit(&first, &texts, signed), Err(Obstacle::Repeated)) {
                        doubled.push((path.clone(), signed));
                    }
                }
            }
        }
    }
    assert!(
        doubled.is_empty(),
        "{} of {edited} doubled: {doubled:?}",
        doubled.len()
    );
    println!("{edited} edited, none doubled");
}

/// `copyist text` over all messages, judged by Python's email package.
#[test]
fn another_parser_finds_everything_in_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("people.ldif"), "").expect("written");
    fs::create_dir(at("in")).expect("made");
    let mut given = Vec::new();
    let judged = |path: &PathBuf| !NOT_JUDGED.iter().any(|name| path.ends_with(name));
    for path in messages().into_iter().filter(judged) {
        // One directory holds them all: classes become part of the name.
        let class = path.parent().and_then(Path::file_name).expect("a class");
        let name = path.file_name().expect("a name");
        let copy = at("in").join(format!(
            "{}-{}",
            class.to_string_lossy(),
            name.to_string_lossy()
        ));
        fs::copy(&path, &copy).expect("copied");
        given.push(copy);
    }
    for kind in KINDS {
        let texts = texts(kind);
        let json = |text: &Option<Arc<Text>>| {
            let text = text.as_ref().expect("both are set");
            serde_json::json!({ "plain": text.plain, "html": text.html })
        };
        let both = serde_json::json!({ "prepend": json(&texts.prepend), "append": json(&texts.append), "signed": "skip" });
        fs::write(at("texts.json"), both.to_string()).expect("written");
        let quoted = |words: &str| serde_json::to_string(words).expect("a text");
        let config = format!(
            "state_dir = \"state\"\n[organization]\ndomains = [\"corp.example\"]\n[directory]\nurls = [\"ldif:people.ldif\"]\n\
             [relay]\nhost = \"127.0.0.1:9\"\n[outbound]\nprepend = {{ text = {} }}\nappend = {{ text = {} }}\n",
            quoted(kind.1),
            quoted(kind.2)
        );
        fs::write(at("copyist.toml"), config).expect("written");
        let out = at(kind.0);
        let mut copyist = Command::new(env!("CARGO_BIN_EXE_copyist"));
        copyist.args(["text", "--direction", "outbound", "--config"]);
        copyist
            .arg(at("copyist.toml"))
            .arg("--out")
            .arg(&out)
            .args(&given);
        said(&copyist.output().expect("copyist runs"));
        let mut judge = Command::new("python3");
        judge
            .arg(mails().join("check.py"))
            .arg("--texts")
            .arg(at("texts.json"))
            .args([&at("in"), &out]);
        let verdict = said(&judge.output().expect("python3 runs"));
        println!("{}: {}", kind.0, verdict.lines().last().unwrap_or_default());
    }
}

/// Returns the output of a program, which must have succeeded.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The judge itself can tell right from wrong.
#[test]
fn the_judge_is_not_fooled() {
    let tests = Command::new("python3")
        .arg(mails().join("check_test.py"))
        .output();
    said(&tests.expect("python3 runs"));
}
