//! Listeners for MTAs, milter and SMTP proxy: each translates its protocol into an envelope and a
//! message, and the pipeline's answer back.

mod access_control;
mod body_buffer;
mod client_networks;
mod connection_counter;
mod edits;
mod listen_address;
mod listener;
mod milter;
mod proxy;
mod settings;

pub use access_control::AccessControl;
pub use client_networks::ClientNetworks;
pub use connection_counter::{ConnectionCounter, CountedConnection};
pub use listen_address::{ListenAddress, ListenAddressError};
pub use listener::{BindError, Listener, UnixSocketSettings, bind_remedy};
pub use milter::serve as serve_milter;
pub use proxy::{SmtpListenerState, TlsError as SmtpTlsError, serve as serve_smtp};
pub use settings::{AccessList, Limits, ListenerTls, Mode, NextHop, Settings, SmtpListener};
