//! Composition of the service: opens, listens, reloads, drains, stops.
//!
//! Promises: mail is accepted only after the spool is open and recovered; a reload swaps settings
//! between messages, never within one; on shutdown messages under way are finished and the rest is
//! on disk.

mod domains;
mod guard;
mod notify;
mod state_dir;
mod systemd_sockets;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

pub(crate) use domains::read as read_domains;
pub(crate) use guard::build as guarded_mailboxes;
pub use state_dir::StateDirError;
pub(crate) use state_dir::examine as examine_state_dir;
pub use systemd_sockets::SystemdSocketError;

use crate::admin;
use crate::config::Settings;
use crate::deliver;
use crate::directory::{self, Directory};
use crate::error::chain;
use crate::hook::{
    self, AccessControl, BindError, Listener, SmtpListenerState, SmtpTlsError, bind_remedy,
};
use crate::identity::{Identities, SharedGuard};
use crate::journal::{Composer, ComposerHandle, Key, KeyError};
use crate::maps;
use crate::pipeline::{MemoryBudget, Pipeline, Ruleset, Services, UnidentifiedClients};
use crate::spool::{self, Spool};
use systemd_sockets::SystemdSockets;

/// A configuration that was loaded for a reload, or its errors.
pub type Reread = Result<Settings, String>;

/// Time for sessions and deliveries to finish at a shutdown.
const DRAIN: Duration = Duration::from_secs(30);

/// Timeout for the probe of new directory servers.
const PROBE: Duration = Duration::from_secs(15);
/// Interval at which operator actions are logged.
const LOG_OPERATORS: Duration = Duration::from_secs(2);

/// Reason the service cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state directory is not ours alone.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The seal key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The directory side cannot be built.
    #[error(transparent)]
    Directory(#[from] directory::OpenError),
    /// The address maps of the MTA.
    #[error("organization.address_maps: {0}")]
    Maps(#[from] maps::OpenError),
    /// The organization's domains are not known.
    #[error("organization.domains_from: {0}")]
    Domains(#[from] directory::Outage),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] spool::OpenError),
    /// A socket that systemd hands over.
    #[error(transparent)]
    SystemdSocket(#[from] SystemdSocketError),
    /// A listener of a hook.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// An SMTP listener.
    #[error("cannot listen on {address} (hook.smtp): {cause}{}", bind_remedy(&.address.to_string(), cause))]
    BindSmtp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// TLS of an SMTP listener.
    #[error(transparent)]
    SmtpTls(#[from] SmtpTlsError),
    /// The admin listener.
    #[error("cannot listen on {address} (admin.listen): {cause}{}", bind_remedy(&.address.to_string(), cause))]
    Admin {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The disk failed: this process can make nothing more durable.
    #[error(
        "the spool has failed; mail is deferred until the disk is checked and the service restarted"
    )]
    SpoolFailed,
    /// A bug: nothing is delivered any more.
    #[error("the delivery task ended unexpectedly; queued items are on disk, restart the service")]
    DeliveriesEnded,
}

/// Bound sockets.
pub struct Listeners {
    milter: Vec<Listener>,
    smtp: Vec<TcpListener>,
    admin: Option<TcpListener>,
}

impl Listeners {
    /// Binds all configured listeners, except sockets that systemd passed.
    pub async fn bind(settings: &Settings) -> Result<Listeners, DaemonError> {
        let mut handed = SystemdSockets::take()?;
        let mut milter = Vec::new();
        for listen in &settings.hook.milter {
            let given = handed.milter(listen).map_err(|cause| BindError {
                listen: listen.clone(),
                cause,
            })?;
            milter.push(match given {
                Some(open) => open,
                None => Listener::bind(listen, settings.hook.socket).await?,
            });
        }
        let mut smtp = Vec::new();
        for listener in &settings.hook.smtp {
            let address = listener.listen;
            let bound = open(handed.tcp(address), address).await;
            smtp.push(bound.map_err(|cause| DaemonError::BindSmtp { address, cause })?);
        }
        let admin = match settings.admin.listen {
            Some(address) => {
                let bound = open(handed.tcp(address), address).await;
                Some(bound.map_err(|cause| DaemonError::Admin { address, cause })?)
            }
            None => None,
        };
        handed.finish()?;
        Ok(Listeners {
            milter,
            smtp,
            admin,
        })
    }

    /// The TCP addresses of the milter listeners.
    pub fn milter_addresses(&self) -> Vec<SocketAddr> {
        self.milter
            .iter()
            .filter_map(Listener::local_addr)
            .collect()
    }
}

/// Returns the socket from systemd, or binds one.
async fn open(
    handed: Option<std::net::TcpListener>,
    address: SocketAddr,
) -> io::Result<TcpListener> {
    match handed {
        Some(open) => {
            open.set_nonblocking(true)?;
            TcpListener::from_std(open)
        }
        None => TcpListener::bind(address).await,
    }
}

/// The opened service, before it listens.
pub struct Daemon {
    settings: Settings,
    key: Key,
    pipeline: Arc<ArcSwap<Pipeline>>,
    deliver: Arc<ArcSwap<deliver::Settings>>,
    /// The composer of NDRs, replaced by a reload.
    composer: ComposerHandle,
    access_control: Arc<AccessControl>,
    in_force: Arc<ArcSwap<admin::ActiveConfig>>,
    /// The state of each SMTP listener, in order.
    smtp: Vec<Arc<ArcSwap<SmtpListenerState>>>,
    /// Notifies the guard of a reload.
    reloaded: Arc<Notify>,
}

impl Daemon {
    /// Opens the spool, which recovers from a crash, and builds the rest. Must be called within a
    /// runtime.
    pub fn open(settings: Settings) -> Result<Daemon, DaemonError> {
        // Before anything counts.
        admin::metrics();
        state_dir::prepare(&settings.state_dir, settings.allow_remote_fs)?;
        let hook = &settings.hook;
        let smtp = hook
            .smtp
            .iter()
            .map(|listener| SmtpListenerState::load(listener, hook.limits));
        let smtp: Vec<SmtpListenerState> = smtp.collect::<Result<_, _>>()?;
        let spool = Spool::open(&settings.spool)?;
        let key = Key::load_or_create(&settings.state_dir)?;
        let path = Key::path(&settings.state_dir);
        let watched = spool.watch_file(path.clone());
        watched.map_err(|cause| KeyError::Io { path, cause })?;
        let directory = open_directory(&settings)?;
        let services = Services {
            spool,
            memory: MemoryBudget::new(settings.hook.limits.memory),
            guarded: SharedGuard::default(),
            unidentified: UnidentifiedClients::default(),
        };
        let identities = identities_of(&settings, directory)?;
        let pipeline = Pipeline {
            services,
            ruleset: ruleset(&settings, &key, identities),
        };
        let composer = ComposerHandle::new(pipeline.ruleset.composer.clone());
        Ok(Daemon {
            key,
            composer,
            pipeline: Arc::new(ArcSwap::from_pointee(pipeline)),
            deliver: Arc::new(ArcSwap::from_pointee(settings.deliver.clone())),
            access_control: Arc::new(AccessControl::new(&settings.hook)),
            in_force: Arc::new(ArcSwap::from_pointee(in_force(&settings))),
            smtp: smtp
                .into_iter()
                .map(|terms| Arc::new(ArcSwap::from_pointee(terms)))
                .collect(),
            reloaded: Arc::default(),
            settings,
        })
    }

    /// Serves until `shutdown`; takes new settings from `reloads`.
    pub async fn run(
        mut self,
        listeners: Listeners,
        mut reloads: mpsc::Receiver<Reread>,
        shutdown: CancellationToken,
    ) -> Result<(), DaemonError> {
        let spool = self.pipeline.load().services.spool.clone();
        let domains = self.settings.state_dir.join("domains");
        let first = self.pipeline.load_full();
        domains::begin(
            first.ruleset.identities.directory(),
            &first.ruleset.rules.organization,
            &domains,
        )
        .await?;
        let guarded = self.settings.state_dir.join("guarded-mailboxes.json");
        guard::restore(&first.services.guarded, &first.ruleset.rules, &guarded);
        drop(first);
        // Sessions stop before deliveries, so that the reports of the last messages are still sent.
        let (sessions, others) = (TaskTracker::new(), TaskTracker::new());
        let stop_deliveries = CancellationToken::new();
        let stop_admin = CancellationToken::new();
        for (listener, listen) in listeners.milter.into_iter().zip(&self.settings.hook.milter) {
            info!("listening on {listener}");
            sessions.spawn(hook::serve_milter(
                listener,
                self.settings.hook.side_of(listen),
                self.access_control.clone(),
                self.pipeline.clone(),
                sessions.clone(),
                shutdown.clone(),
            ));
        }
        for (listener, terms) in listeners.smtp.into_iter().zip(&self.smtp) {
            info!("listening on smtp:{}", terms.load().address());
            sessions.spawn(hook::serve_smtp(
                listener,
                terms.clone(),
                self.pipeline.clone(),
                sessions.clone(),
                shutdown.clone(),
            ));
        }
        let mut delivering = tokio::spawn(deliver::run(
            spool.clone(),
            self.deliver.clone(),
            self.composer.clone(),
            stop_deliveries.clone(),
        ));
        others.spawn(log_operators(spool.clone(), stop_admin.clone()));
        if let Some(metrics) = admin::metrics() {
            others.spawn(admin::upkeep(metrics, stop_admin.clone()));
        }
        if let (Some(listener), Some(metrics)) = (listeners.admin, admin::metrics()) {
            let listener = admin::Listener::new(listener, self.settings.admin.clients.clone());
            others.spawn(admin::serve(
                listener,
                metrics,
                self.pipeline.clone(),
                self.in_force.clone(),
                stop_admin.clone(),
            ));
        }
        let following = domains::follow(self.pipeline.clone(), domains.clone());
        let following = AbortOnDropHandle::new(tokio::spawn(following));
        let guarding = guard::follow(self.pipeline.clone(), self.reloaded.clone(), guarded);
        let guarding = AbortOnDropHandle::new(tokio::spawn(guarding));
        info!("copyist is ready");
        notify::notify(notify::State::Ready);
        let outcome = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                () = spool.wait_failed() => {
                    // Messages in progress already get 4xx. The supervisor starts a new process,
                    // which reopens the files: after a failed sync this one cannot trust them.
                    shutdown.cancel();
                    break Err(DaemonError::SpoolFailed);
                }
                _ = &mut delivering => {
                    shutdown.cancel();
                    break Err(DaemonError::DeliveriesEnded);
                }
                Some(reread) = reloads.recv() => self.take_over(reread, &domains).await,
            }
        };
        drop(following);
        drop(guarding);
        info!("stopping: finishing sessions and deliveries");
        notify::notify(notify::State::Stopping);
        sessions.close();
        others.close();
        if timeout(DRAIN, sessions.wait()).await.is_err() {
            let left = sessions.len();
            warn!("{left} sessions closed at shutdown after 30 s; the MTA keeps their messages");
        }
        stop_deliveries.cancel();
        stop_admin.cancel();
        if !delivering.is_finished() && timeout(DRAIN, delivering).await.is_err() {
            warn!(
                "deliveries stopped at shutdown after 30 s; they are tried again after the next start"
            );
        }
        // The admin server has nothing to finish.
        let _ = timeout(DRAIN, others.wait()).await;
        self.pipeline
            .load()
            .ruleset
            .identities
            .directory()
            .close()
            .await;
        info!("stopped");
        outcome
    }

    /// Applies a reloaded configuration, or records why it was rejected.
    async fn take_over(&mut self, reread: Reread, domains: &Path) {
        let taken = match reread {
            Ok(settings) => self.reload(settings, domains).await.inspect_err(|why| {
                error!("reload failed, keeping the previous configuration: {why}");
            }),
            Err(mistakes) => Err(mistakes),
        };
        if let Err(why) = taken {
            let mut active = admin::ActiveConfig::clone(&self.in_force.load());
            active.rejected = Some(admin::RejectedConfig {
                reason: why,
                at: SystemTime::now(),
            });
            self.in_force.store(Arc::new(active));
        }
    }

    /// Applies the settings that can change at run time.
    async fn reload(&mut self, settings: Settings, domains: &Path) -> Result<(), String> {
        let old = self.pipeline.load_full();
        // An unchanged directory keeps its cache, which an outage would need.
        let is_same = settings.directory == self.settings.directory;
        let directory = match is_same {
            true => old.ruleset.identities.directory().clone(),
            false => open_directory(&settings).map_err(|error| error.to_string())?,
        };
        if !is_same {
            let usable = worth_changing_to(&directory, old.ruleset.identities.directory()).await;
            usable.map_err(|outage| outage.to_string())?;
        }
        let organization = &settings.rules.organization;
        let begun = domains::begin(&directory, organization, domains).await;
        begun.map_err(|outage| outage.to_string())?;
        // Indexed maps are dumped, which takes a moment.
        let identities = tokio::task::block_in_place(|| identities_of(&settings, directory));
        let identities = identities.map_err(|error| error.to_string())?;
        let (hook, old_hook) = (&settings.hook, &self.settings.hook);
        let smtp = self.smtp_terms(hook).map_err(|error| chain(&error))?;
        let addresses = |hook: &hook::Settings| -> Vec<SocketAddr> {
            hook.smtp.iter().map(|listener| listener.listen).collect()
        };
        for (key, changed) in [
            ("state_dir", settings.state_dir != self.settings.state_dir),
            ("hook.milter.listen", hook.milter != old_hook.milter),
            ("the milter's socket", hook.socket != old_hook.socket),
            (
                "listen of [[hook.smtp]]",
                addresses(hook) != addresses(old_hook),
            ),
            ("spool", settings.spool != self.settings.spool),
            ("[log]", settings.log != self.settings.log),
            (
                "limits.memory",
                hook.limits.memory != old_hook.limits.memory,
            ),
            (
                "admin.listen",
                settings.admin.listen != self.settings.admin.listen,
            ),
            (
                "admin.allow_clients",
                settings.admin.clients != self.settings.admin.clients,
            ),
        ] {
            if changed {
                warn!("{key} has changed, which takes effect after a restart");
            }
        }
        self.access_control.update(&settings.hook);
        for (terms, new) in self.smtp.iter().zip(smtp) {
            if let Some(new) = new {
                terms.store(Arc::new(new));
            }
        }
        self.in_force.store(Arc::new(in_force(&settings)));
        self.deliver.store(Arc::new(settings.deliver.clone()));
        let ruleset = ruleset(&settings, &self.key, identities);
        self.composer.store(ruleset.composer.clone());
        let services = old.services.clone();
        self.pipeline
            .store(Arc::new(Pipeline { services, ruleset }));
        self.reloaded.notify_one();
        self.settings = settings;
        info!("configuration reloaded");
        Ok(())
    }

    /// Returns the new state of each SMTP listener; `None` for listeners that are no longer
    /// configured.
    fn smtp_terms(
        &self,
        hook: &hook::Settings,
    ) -> Result<Vec<Option<SmtpListenerState>>, SmtpTlsError> {
        let renewed = self.smtp.iter().map(|terms| {
            let old = terms.load();
            let mut listeners = hook.smtp.iter();
            listeners
                .find(|listener| listener.listen == old.address())
                .map(|listener| old.reload(listener, hook.limits))
                .transpose()
        });
        renewed.collect()
    }
}

/// Checks that a new directory is usable. A working directory with its cache is not replaced by one
/// that does not answer: all mail would be deferred. If the old one is down as well, the new one is
/// accepted.
async fn worth_changing_to(new: &Directory, old: &Directory) -> Result<(), directory::Outage> {
    if old.health() != directory::Health::Ok {
        return Ok(());
    }
    // Nothing else is looked after meanwhile.
    let probes = timeout(PROBE, new.probe()).await.map_err(|_| {
        directory::Outage::new(format!(
            "the new servers did not answer within {} s",
            PROBE.as_secs()
        ))
    })?;
    let faults: Vec<String> = probes
        .iter()
        .filter_map(|probe| Some(format!("{}: {}", probe.url, probe.outcome.as_ref().err()?)))
        .collect();
    match faults.len() < probes.len() {
        true => Ok(()),
        false => Err(directory::Outage::new(faults.join("; "))),
    }
}

fn ruleset(settings: &Settings, key: &Key, identities: Identities) -> Ruleset {
    Ruleset {
        identities,
        rules: Arc::new(settings.rules.clone()),
        text: Arc::new(settings.text.clone()),
        composer: Composer::new(settings.journal.clone(), key.clone()),
    }
}

/// Builds the identity lookups with this directory and the configured address maps.
fn identities_of(settings: &Settings, directory: Directory) -> Result<Identities, maps::OpenError> {
    let organization = &settings.rules.organization;
    let maps = organization.map_settings(settings.directory.timeout());
    Identities::new(directory, organization.names.clone()).with_maps(maps)
}

/// Builds the identity lookups for commands.
pub(crate) fn open_identities(settings: &Settings) -> Result<Identities, DaemonError> {
    let directory = Directory::open(settings.directory.clone())?;
    Ok(identities_of(settings, directory)?)
}

fn in_force(settings: &Settings) -> admin::ActiveConfig {
    admin::ActiveConfig {
        token: settings.admin.token.clone(),
        address_attributes: settings.directory.address_attributes.clone(),
        effective: settings.effective.clone(),
        since: SystemTime::now(),
        rejected: None,
    }
}

fn open_directory(settings: &Settings) -> Result<Directory, directory::OpenError> {
    let directory = Directory::open_with_state(settings.directory.clone(), &settings.state_dir)?;
    directory.follow_changes(&settings.state_dir.join("directory.place"));
    Ok(directory)
}

/// Logs operator actions on the queue until `shutdown`.
async fn log_operators(spool: Spool, shutdown: CancellationToken) {
    loop {
        if let Err(cause) = spool.log_operator_records().await {
            warn!("cannot log operator actions, trying again: {cause}");
        }
        let pause = tokio::time::sleep(LOG_OPERATORS);
        if shutdown.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}
