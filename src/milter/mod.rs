//! The milter protocol, version 6, as Sendmail and Postfix speak it. Knows nothing of journaling.
//!
//! There is no RFC. The protocol is what Sendmail's libmilter does (`include/libmilter/mfdef.h` names its numbers), and
//! what Postfix's `milter8` client does with it.
//!
//! # The conversation
//!
//! Packets both ways are a length (4 octets, big-endian, not counting itself), one letter, and data. The MTA
//! begins with what it offers (`O`), the filter answers with what it wants of that. Then, for each SMTP session: macros
//! (`D`) and a packet for each step: connect (`C`), HELO (`H`), and per message MAIL (`M`), RCPT (`R`), DATA (`T`), header fields (`L`), end
//! of header (`N`), body chunks (`B`), end of message (`E`). Each is answered, except those that the negotiation declared to
//! need no answer: that saves a round trip for each header field. Only at the end of the message may the
//! filter ask for changes, in front of its final answer.
//!
//! | file | owns |
//! |---|---|
//! | `codec` | packets ↔ bytes |
//! | `session` | which packet may come when, and what a message looks like at its end |
//! | `connection` | the socket: reading, answering, progress, shutdown |

mod codec;
mod connection;
mod session;

pub use codec::{Actions, CodecError, Command, Decoder, Response, Steps};
pub use connection::{Answer, ConnectionError, Edit, Handler, Limits, Outcome, serve};
pub use session::{Macros, Path, Peer, ProtocolError, Session, Step, Transaction, Wants};
