//! The doors: each turns its protocol into an envelope and a message, and a verdict back into
//! protocol.

mod arriving;
mod clients;
mod crowd;
mod edits;
mod gate;
mod listen;
mod listener;
mod milter;
mod proxy;
mod settings;

pub use clients::Clients;
pub use crowd::{Crowd, Seat};
pub use gate::Gate;
pub use listen::{Listen, ListenError};
pub use listener::{BindError, Listener, Socket, bind_remedy};
pub use milter::serve as serve_milter;
pub use proxy::{Terms as SmtpTerms, TlsError as SmtpTlsError, serve as serve_smtp};
pub use settings::{Access, DoorTls, Limits, Mode, NextHop, Settings, SmtpDoor};
