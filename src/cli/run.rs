//! `copyist run`: the service, its signals and its log.

use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::Uid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Failure, load, log};
use crate::config;
use crate::daemon::{Daemon, Listeners, Reread};
use crate::error::chain;

pub(super) async fn run(config: &Path) -> Result<(), Failure> {
    // New files are private; the milter's socket gets its mode once it exists.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let settings = load(config)?;
    log::start(settings.log);
    if Uid::effective().is_root() {
        warn!(
            "running as root without need: give the service its own user (packaging/copyist.sysusers)"
        );
    }
    if let Some(listen) = settings.milter_by_default() {
        warn!(
            "hook.milter.listen is not set: the default {listen} is also OpenDKIM's port and will change in a later version; add listen = [\"{listen}\"] to [hook.milter]"
        );
    }
    let shutdown = CancellationToken::new();
    let reloads = watch_signals(config.to_owned(), shutdown.clone()).map_err(Failure::failed)?;
    // The spool first, so that a second instance fails on its lock, not on a port.
    let daemon = Daemon::open(settings.clone()).map_err(|error| Failure::failed(chain(&error)))?;
    let listeners = Listeners::bind(&settings).await.map_err(Failure::failed)?;
    daemon
        .run(listeners, reloads, shutdown)
        .await
        .map_err(Failure::failed)
}

/// Watches signals: SIGTERM and SIGINT stop, SIGHUP reloads the configuration. The task ends with the
/// process.
fn watch_signals(
    config: PathBuf,
    shutdown: CancellationToken,
) -> std::io::Result<mpsc::Receiver<Reread>> {
    let (sender, receiver) = mpsc::channel(1);
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {}
            }
            info!("reloading {}", config.display());
            let reread = config::load(&config).map_err(|error| {
                let problems = error.problems.iter();
                problems.for_each(|problem| error!("{problem}"));
                error!("reload failed; keeping the previous configuration");
                error.to_string()
            });
            if sender.send(reread).await.is_err() {
                break;
            }
        }
        shutdown.cancel();
    });
    Ok(receiver)
}
