//! The entries of a map that is a file: read from text, or dumped from the indexed file by
//! postmap(1).

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::tokens::fold;

/// Time limit for postmap(1).
const DUMP_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between checks for the end of postmap(1).
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Directories searched for postmap(1) in addition to the search path, which rarely has `sbin` for
/// a service's account.
const PROGRAM_DIRECTORIES: [&str; 4] =
    ["/usr/sbin", "/usr/local/sbin", "/sbin", "/opt/postfix/sbin"];

/// The entries of one map.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Box<str>, Arc<str>>,
}

impl Table {
    pub(super) fn new(entries: impl IntoIterator<Item = (String, String)>) -> Table {
        let entries = entries.into_iter();
        // Entries that postalias adds for other programs.
        let entries = entries.filter(|(key, _)| {
            !matches!(key.as_str(), "@" | "YP_LAST_MODIFIED" | "YP_MASTER_NAME")
        });
        let entries = entries.map(|(key, value)| {
            let key = fold(&key).into_owned();
            (key.into_boxed_str(), Arc::from(value))
        });
        Table {
            entries: entries.collect(),
        }
    }

    /// Returns the value of a key, which must be folded.
    pub(super) fn get(&self, key: &str) -> Option<Arc<str>> {
        self.entries.get(key).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.entries.values().map(|value| &**value)
    }
}

/// Finds a program's file.
pub(super) fn find_program(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PROGRAM_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// Dumps an indexed map with postmap(1). Blocks.
pub(super) fn dump(
    postmap: &Path,
    config_directory: Option<&Path>,
    map_type: &str,
    source: &Path,
) -> Result<Table, String> {
    let mut command = Command::new(postmap);
    if let Some(directory) = config_directory {
        command.arg("-c").arg(directory);
    }
    command
        .arg("-s")
        .arg(format!("{map_type}:{}", source.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let cannot = |what: String| {
        format!(
            "{} -s {map_type}:{}: {what}",
            postmap.display(),
            source.display()
        )
    };
    let mut child = command.spawn().map_err(|cause| cannot(cause.to_string()))?;
    let output = read_to_end(child.stdout.take());
    let errors = read_to_end(child.stderr.take());
    let status = wait(&mut child).map_err(cannot)?;
    let output = output.join().unwrap_or_default();
    let errors = errors.join().unwrap_or_default();
    if !status {
        let errors = String::from_utf8_lossy(&errors);
        let last = errors.lines().rfind(|line| !line.trim().is_empty());
        return Err(cannot(
            last.unwrap_or("failed without a message").to_owned(),
        ));
    }
    let lines = output.split(|byte| *byte == b'\n');
    // SMTP cannot carry addresses that are not UTF-8.
    let lines = lines.filter_map(|line| std::str::from_utf8(line).ok());
    let entries = lines.filter_map(|line| line.split_once('\t'));
    Ok(Table::new(
        entries.map(|(key, value)| (key.to_owned(), value.to_owned())),
    ))
}

fn read_to_end(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut output = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut output);
        }
        output
    })
}

/// Waits for the end of a process, and returns whether it succeeded.
fn wait(child: &mut Child) -> Result<bool, String> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) if begun.elapsed() < DUMP_TIMEOUT => std::thread::sleep(POLL_INTERVAL),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("not finished after {} s", DUMP_TIMEOUT.as_secs()));
            }
            Err(cause) => return Err(cause.to_string()),
        }
    }
}
