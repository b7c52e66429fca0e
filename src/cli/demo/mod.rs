//! `copyist demo`: the whole journey on this machine.
//!
//! Nothing in it is a pretence: the service is the one that `copyist run` runs, on an LDIF file,
//! and the messages go through its milter port. Only the MTA and the relay are played.

mod mta;
mod scenes;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Failure, load, print_text};
use crate::daemon::{Daemon, Listeners};
use crate::mail::{Enhanced, Message, Reply};
use crate::smtp::{ReceivedMessage, Sink};
use crate::spool::Spool;

use mta::{Heard, Mta, Verdict};
use scenes::{FULL, SCENES, Scene};

/// How long the relay may take to get what it must get.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn demo(dir: Option<PathBuf>, quiet: bool) -> Result<(), Failure> {
    let dir = make_dir(dir)?;
    let log = fs::File::create(dir.join("copyist.log")).map_err(Failure::failed)?;
    // A second demo in one process keeps the first one's log.
    let _ = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_target(false)
        .with_writer(Mutex::new(log))
        .try_init();
    let tell = |text: &str| if quiet { Ok(()) } else { print_text(text) };

    let relay = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(Failure::failed)?;
    let relay = Sink::start(relay).map_err(Failure::failed)?;
    relay.reject(FULL, Reply::new(552, Enhanced(5, 2, 2), "Mailbox full"));
    let config = dir.join("copyist.toml");
    let text = include_str!("copyist.toml").replace("{relay}", &relay.address().to_string());
    fs::write(&config, text).map_err(Failure::failed)?;
    fs::write(dir.join("directory.ldif"), include_str!("directory.ldif"))
        .map_err(Failure::failed)?;

    let settings = load(&config)?;
    let daemon = Daemon::open(settings.clone()).map_err(Failure::failed)?;
    let listeners = Listeners::bind(&settings).await.map_err(Failure::failed)?;
    let filter = listeners.milter_addresses().first().copied();
    let filter =
        filter.ok_or_else(|| Failure::failed("the demo's configuration has no milter listener"))?;
    // Nothing is reloaded; the sender only has to live.
    let (_reload, reloads) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    let service = tokio::spawn(daemon.run(listeners, reloads, shutdown.clone()));

    tell(&format!(
        "Copyist runs on this machine, in {}:\n  directory  {}\n  milter     inet:{filter}\n  relay      {} (a sink that \
         refuses {FULL})\n",
        dir.display(),
        dir.join("directory.ldif").display(),
        relay.address(),
    ))?;
    let mut wrong = Vec::new();
    let mut shown = Vec::new();
    for (n, scene) in SCENES.iter().enumerate() {
        tell(&format!("{}. {}", n + 1, scene.title))?;
        let before = relay.received().len();
        let heard = Mta::connect(filter)
            .await
            .map_err(Failure::failed)?
            .hand_over(scene)
            .await;
        let heard = heard
            .map_err(|error| Failure::failed(format!("the milter conversation broke: {error}")))?;
        // What is not owed cannot be waited for; the last look at the relay finds it.
        let _ = tokio::time::timeout(PATIENCE, relay.wait_for(before + scene.owed.len())).await;
        let got = relay.received().split_off(before);
        tell(&narrate(scene, &heard, &got))?;
        wrong.extend(
            judge(scene, &heard, &got)
                .into_iter()
                .map(|what| format!("{}. {what}", n + 1)),
        );
        keep(&dir, n + 1, &got)?;
        shown.extend(got);
    }
    shutdown.cancel();
    service
        .await
        .map_err(Failure::failed)?
        .map_err(Failure::failed)?;
    let owed = Spool::inspect(&settings.spool)
        .map_err(Failure::failed)?
        .depth()
        .await
        .map_err(Failure::failed)?;
    if owed.items > 0 {
        wrong.push(format!("{} items are still in the spool", owed.items));
    }
    let expected: usize = SCENES.iter().map(|scene| scene.owed.len()).sum();
    if shown.len() != expected {
        wrong.push(format!(
            "the relay got {} messages, not {expected}",
            shown.len()
        ));
    }
    show_examples(&shown, tell)?;
    if !wrong.is_empty() {
        return Err(Failure::failed(format!(
            "the demo went wrong; see {}\n{}",
            dir.display(),
            wrong.join("\n")
        )));
    }
    print_text(&format!(
        "All {expected} reports that were owed arrived, and nothing else; the spool is empty. To look at: {}\n  \
         copyist.toml and directory.ldif   what the service ran with\n  reports/*.eml                     what the relay \
         got\n  copyist.log                       what the service logged\n  state/spool/spool.db              the spool, an \
         SQLite database",
        dir.display()
    ))
}

/// A directory that only the user can look into.
fn make_dir(wanted: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let make = |dir: &Path| DirBuilder::new().mode(0o700).create(dir);
    let dir = match wanted {
        Some(dir) => {
            make(&dir).map_err(|error| {
                Failure::failed(format!(
                    "{}: {error}; --dir names a new directory",
                    dir.display()
                ))
            })?;
            dir
        }
        None => {
            let pid = std::process::id();
            let candidates =
                (0..1000).map(|n| std::env::temp_dir().join(format!("copyist-demo-{pid}-{n}")));
            let made = candidates.into_iter().find(|dir| make(dir).is_ok());
            made.ok_or_else(|| {
                Failure::failed(format!(
                    "cannot make a directory in {}",
                    std::env::temp_dir().display()
                ))
            })?
        }
    };
    make(&dir.join("reports")).map_err(Failure::failed)?;
    dir.canonicalize().map_err(Failure::failed)
}

fn narrate(scene: &Scene, heard: &Heard, got: &[ReceivedMessage]) -> String {
    let who = match scene.login {
        Some(login) => format!("{}, logged in as {login}", scene.client_ip),
        None => scene.client_ip.to_owned(),
    };
    let mut lines = vec![format!(
        "   MTA      has mail from <{}> ({who}) to {}",
        scene.sender,
        scene.recipients.join(", ")
    )];
    for (recipient, reply) in &heard.refused {
        lines.push(format!("   Copyist  refuses {recipient}: {reply}"));
    }
    match &heard.answer {
        Some(Verdict::Accepted) if scene.owed.is_empty() => {
            lines.push("   Copyist  lets it go; nothing is owed".into());
        }
        Some(Verdict::Accepted) => {
            lines.push("   Copyist  made the report durable, then lets the message go".into());
        }
        Some(Verdict::Refused(reply)) => {
            lines.push(format!("   Copyist  refuses the message: {reply}"));
        }
        None => {}
    }
    for message in got {
        let to: Vec<&str> = message
            .recipients
            .iter()
            .map(|(path, _)| path.as_str())
            .collect();
        let kind = if message.sender.is_empty() {
            "an NDR"
        } else {
            "a report"
        };
        lines.push(format!(
            "   relay    gets {kind} from <{}> to {}",
            message.sender,
            to.join(", ")
        ));
        let header = Message::new(message.data.clone());
        for reason in header.fields_named("X-Copyist-Reason") {
            lines.push(format!(
                "            {}",
                String::from_utf8_lossy(reason.value.trim_ascii())
            ));
        }
    }
    lines.push(format!("   Why      {}\n", scene.because));
    lines.join("\n")
}

/// What is not as it must be.
fn judge(scene: &Scene, heard: &Heard, got: &[ReceivedMessage]) -> Vec<String> {
    let mut wrong = Vec::new();
    let refused: Vec<&str> = heard
        .refused
        .iter()
        .map(|(recipient, _)| recipient.as_str())
        .collect();
    if refused != scene.refused {
        wrong.push(format!("refused were {refused:?}, not {:?}", scene.refused));
    }
    if !matches!(heard.answer, None | Some(Verdict::Accepted)) {
        wrong.push(format!("the message was not let go: {:?}", heard.answer));
    }
    let original = scene.content();
    for (sender, recipients) in scene.owed {
        let sorted = |mut list: Vec<&str>| {
            list.sort_unstable();
            list.join(", ")
        };
        let owed = sorted(recipients.to_vec());
        let found = got.iter().find(|message| {
            message.sender == *sender
                && sorted(
                    message
                        .recipients
                        .iter()
                        .map(|(path, _)| path.as_str())
                        .collect(),
                ) == owed
        });
        match found {
            None => wrong.push(format!("no report from <{sender}> to {owed} came")),
            Some(message) if memchr::memmem::find(&message.data, original.as_bytes()).is_none() => {
                wrong.push(format!(
                    "the report to {owed} does not hold the original byte for byte"
                ));
            }
            Some(_) => {}
        }
    }
    wrong
}

fn keep(dir: &Path, scene: usize, got: &[ReceivedMessage]) -> Result<(), Failure> {
    for (n, message) in got.iter().enumerate() {
        let kind = if message.sender.is_empty() {
            "ndr"
        } else {
            "report"
        };
        let path = dir
            .join("reports")
            .join(format!("{scene}-{kind}-{}.eml", n + 1));
        fs::write(path, &message.data).map_err(Failure::failed)?;
    }
    Ok(())
}

/// One report and one NDR, as far as a reader wants to see them.
fn show_examples(
    got: &[ReceivedMessage],
    tell: impl Fn(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let shown = |message: &ReceivedMessage| {
        let text = String::from_utf8_lossy(&message.data).replace("\r\n", "\n");
        text.lines()
            .map(|line| format!("  | {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    if let Some(report) = got.iter().find(|message| !message.sender.is_empty()) {
        tell(&format!(
            "The first report, as the archive gets it:\n\n{}\n",
            shown(report)
        ))?;
    }
    if let Some(ndr) = got.iter().find(|message| message.sender.is_empty()) {
        tell(&format!(
            "The NDR about Eve's journal mailbox:\n\n{}\n",
            shown(ndr)
        ))?;
    }
    Ok(())
}
