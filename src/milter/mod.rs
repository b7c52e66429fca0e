//! The milter protocol, version 6, spoken from the filter's side.
//!
//! A milter ("mail filter") is a process that an MTA asks about each message. The MTA connects,
//! both sides negotiate which commands are sent ([`Requirements`], [`Agreement`]), and then the MTA
//! forwards the SMTP session as it happens and waits for the filter's verdict at the end of each
//! message:
//!
//! ```text
//!  MTA                                    filter
//!  O version 6, actions, steps  ──────►
//!                               ◄──────  O the part of it that we use
//!  D macros, C client, H HELO   ──────►        (once a connection; D before any command)
//!  D, M sender                  ──────►        (once a message)
//!  D, R recipient …             ──────►   c    (answered only where we asked to decide)
//!  L field …, N end of header   ──────►
//!  B chunk …, D, E end          ──────►
//!                               ◄──────  p …  still working
//!                               ◄──────  edits, then a accept | r | t | d | y reply
//!  M … next message, or Q
//! ```
//!
//! From the outside in: [`serve`] drives one connection over any byte stream and calls a
//! [`Handler`]; [`Session`] is the state machine without I/O; [`Command`] and [`Response`] are the
//! packets, with encoders for both sides so that a test or the demo can play the MTA; [`Frames`]
//! splits the stream into packets.
//!
//! Promises: a message is rebuilt exactly as the MTA sent it; edits are applied all or not at all;
//! the handler of a message is never cancelled halfway; no input makes it panic or accept a packet
//! larger than negotiated. Fails by ending the connection with a [`ConnectionError`]; the MTA then
//! applies its default action for a failed filter. Independent of journaling.
//!
//! The facts come from the public sources of Sendmail 8.18 (`mfdef.h`, `libmilter/engine.c`,
//! `sendmail/milter.c`) and Postfix (`milter8.c`); there is no other specification.

mod clock;
mod command;
mod connection;
mod edit;
mod encode;
mod frame;
mod macros;
mod message;
mod negotiation;
mod response;
mod session;
mod strings;
mod transaction;

pub use command::{ClientAddress, Command, Stage};
pub use connection::{ConnectionError, Handler, Interruption, serve};
pub use edit::{Edit, EditError, MessageAnswer, MessageDecision, RecipientAnswer};
pub use encode::check_edits;
pub use frame::{Frame, FrameError, Frames, PacketError};
pub use macros::Macros;
pub use negotiation::{Actions, Agreement, NegotiationError, Offer, Requirements, Steps, VERSION};
pub use response::Response;
pub use session::{NextAction, PendingRecipient, Session, SessionError};
pub use strings::Strings;
pub use transaction::{PartialTransaction, Path, Peer, Transaction};
