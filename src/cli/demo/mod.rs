//! `copyist demo`: journaling from end to end on this machine.
//!
//! The service is the same as in `copyist run`, with an LDIF file as directory, and messages go
//! through its milter port. Only the MTA and the relay are simulated.

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

use mta::{Mta, MtaResult, Verdict};
use scenes::{FULL, SCENES, Scene};

/// The longest wait for the expected deliveries.
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
    let print = |text: &str| if quiet { Ok(()) } else { print_text(text) };

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

    print(&format!(
        "Copyist is running in {}:\n  directory  {}\n  milter     inet:{filter}\n  relay      {} (a sink that \
         rejects {FULL})\n",
        dir.display(),
        dir.join("directory.ldif").display(),
        relay.address(),
    ))?;
    let mut problems = Vec::new();
    let mut shown = Vec::new();
    for (n, scene) in SCENES.iter().enumerate() {
        print(&format!("{}. {}", n + 1, scene.title))?;
        let before = relay.received().len();
        let result = Mta::connect(filter)
            .await
            .map_err(Failure::failed)?
            .send(scene)
            .await;
        let result = result
            .map_err(|error| Failure::failed(format!("the milter session failed: {error}")))?;
        // Unexpected deliveries are found at the end.
        let _ =
            tokio::time::timeout(PATIENCE, relay.wait_for(before + scene.deliveries.len())).await;
        let delivered = relay.received().split_off(before);
        print(&narrate(scene, &result, &delivered))?;
        problems.extend(
            verify(scene, &result, &delivered)
                .into_iter()
                .map(|problem| format!("{}. {problem}", n + 1)),
        );
        save(&dir, n + 1, &delivered)?;
        shown.extend(delivered);
    }
    shutdown.cancel();
    service
        .await
        .map_err(Failure::failed)?
        .map_err(Failure::failed)?;
    let depth = Spool::inspect(&settings.spool)
        .map_err(Failure::failed)?
        .depth()
        .await
        .map_err(Failure::failed)?;
    if depth.items > 0 {
        problems.push(format!("{} items are still queued", depth.items));
    }
    let expected: usize = SCENES.iter().map(|scene| scene.deliveries.len()).sum();
    if shown.len() != expected {
        problems.push(format!(
            "the relay received {} messages, not {expected}",
            shown.len()
        ));
    }
    show_examples(&shown, print)?;
    if !problems.is_empty() {
        return Err(Failure::failed(format!(
            "the demo failed; see {}\n{}",
            dir.display(),
            problems.join("\n")
        )));
    }
    print_text(&format!(
        "All {expected} expected messages arrived, and no others; the queue is empty. Files in {}:\n  \
         copyist.toml and directory.ldif   the configuration and the directory\n  reports/*.eml                     the \
         messages that the relay received\n  copyist.log                       the log\n  state/spool/spool.db              \
         the spool, an SQLite database",
        dir.display()
    ))
}

/// Creates a directory that only the user can read.
fn make_dir(wanted: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let make = |dir: &Path| DirBuilder::new().mode(0o700).create(dir);
    let dir = match wanted {
        Some(dir) => {
            make(&dir).map_err(|error| {
                Failure::failed(format!(
                    "{}: {error}; --dir must be a new directory",
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
                    "cannot create a directory in {}",
                    std::env::temp_dir().display()
                ))
            })?
        }
    };
    make(&dir.join("reports")).map_err(Failure::failed)?;
    dir.canonicalize().map_err(Failure::failed)
}

fn narrate(scene: &Scene, result: &MtaResult, delivered: &[ReceivedMessage]) -> String {
    let client = match scene.login {
        Some(login) => format!("{}, authenticated as {login}", scene.client_ip),
        None => scene.client_ip.to_owned(),
    };
    let mut lines = vec![format!(
        "   MTA      sends mail from <{}> ({client}) to {}",
        scene.sender,
        scene.recipients.join(", ")
    )];
    for (recipient, reply) in &result.rejected {
        lines.push(format!("   Copyist  rejects {recipient}: {reply}"));
    }
    match &result.answer {
        Some(Verdict::Accepted) if scene.deliveries.is_empty() => {
            lines.push("   Copyist  accepts the message; no copy is needed".into());
        }
        Some(Verdict::Accepted) => {
            lines.push("   Copyist  stores the report durably, then accepts the message".into());
        }
        Some(Verdict::Rejected(reply)) => {
            lines.push(format!("   Copyist  rejects the message: {reply}"));
        }
        None => {}
    }
    for message in delivered {
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
            "   relay    receives {kind} from <{}> to {}",
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

/// Returns the differences from the expected result.
fn verify(scene: &Scene, result: &MtaResult, delivered: &[ReceivedMessage]) -> Vec<String> {
    let mut problems = Vec::new();
    let rejected: Vec<&str> = result
        .rejected
        .iter()
        .map(|(recipient, _)| recipient.as_str())
        .collect();
    if rejected != scene.rejected {
        problems.push(format!("rejected {rejected:?}, not {:?}", scene.rejected));
    }
    if !matches!(result.answer, None | Some(Verdict::Accepted)) {
        problems.push(format!("the message was not accepted: {:?}", result.answer));
    }
    let original = scene.content();
    for (sender, recipients) in scene.deliveries {
        let sorted = |mut list: Vec<&str>| {
            list.sort_unstable();
            list.join(", ")
        };
        let expected = sorted(recipients.to_vec());
        let found = delivered.iter().find(|message| {
            message.sender == *sender
                && sorted(
                    message
                        .recipients
                        .iter()
                        .map(|(path, _)| path.as_str())
                        .collect(),
                ) == expected
        });
        match found {
            None => problems.push(format!("no report from <{sender}> to {expected} arrived")),
            Some(message) if memchr::memmem::find(&message.data, original.as_bytes()).is_none() => {
                problems.push(format!(
                    "the report to {expected} does not contain the original byte for byte"
                ));
            }
            Some(_) => {}
        }
    }
    problems
}

fn save(dir: &Path, scene: usize, delivered: &[ReceivedMessage]) -> Result<(), Failure> {
    for (n, message) in delivered.iter().enumerate() {
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

/// Prints one report and one NDR.
fn show_examples(
    delivered: &[ReceivedMessage],
    print: impl Fn(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let shown = |message: &ReceivedMessage| {
        let text = String::from_utf8_lossy(&message.data).replace("\r\n", "\n");
        text.lines()
            .map(|line| format!("  | {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    if let Some(report) = delivered.iter().find(|message| !message.sender.is_empty()) {
        print(&format!(
            "The first report, as the archive receives it:\n\n{}\n",
            shown(report)
        ))?;
    }
    if let Some(ndr) = delivered.iter().find(|message| message.sender.is_empty()) {
        print(&format!(
            "The NDR for Eve's journal mailbox:\n\n{}\n",
            shown(ndr)
        ))?;
    }
    Ok(())
}
