//! When a connection has taken too long, and what becomes of it then. Pure, but for the time that
//! it is told.

use tokio::time::Instant;

use super::connection::ConnectionError;
use super::session::Session;
use crate::mail::Limits;

/// The times of one connection.
#[derive(Debug)]
pub(super) struct Clock {
    limits: Limits,
    connected: Instant,
    /// The message under way, and when it was first seen.
    message: Option<(u64, Instant)>,
}

/// What is over when a wait ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    Greeting,
    Silence,
    Message,
    Connection,
}

impl Clock {
    /// A connection begins now.
    pub(super) fn start(limits: Limits) -> Clock {
        Clock {
            limits,
            connected: Instant::now(),
            message: None,
        }
    }

    /// How long to wait for the MTA, which has said what the session knows, and what is over then.
    /// Both the silence and what may not be dragged out by a word now and then are in it.
    pub(super) fn end_of_wait(&mut self, session: &Session) -> (Instant, Timeout) {
        let now = Instant::now();
        self.message = session
            .message_under_way()
            .map(|number| match self.message {
                Some((known, since)) if known == number => (number, since),
                _ => (number, now),
            });
        let limits = self.limits;
        let other = match self.message {
            _ if session.is_greeting() => (self.connected + limits.greeting, Timeout::Greeting),
            Some((_, since)) => (since + limits.message_time, Timeout::Message),
            None => (self.connected + limits.connection_time, Timeout::Connection),
        };
        let silence = (now + limits.idle, Timeout::Silence);
        if silence.0 < other.0 { silence } else { other }
    }
}

impl Timeout {
    /// How a connection ends when this is over.
    pub(super) fn outcome(self, limits: Limits) -> Result<(), ConnectionError> {
        match self {
            // Nothing is under way, and nothing is wrong: the MTA connects anew.
            Timeout::Connection => Ok(()),
            Timeout::Silence => Err(ConnectionError::Idle {
                doing: "say anything",
                after: limits.idle,
            }),
            Timeout::Greeting => Err(ConnectionError::NoNegotiation {
                within: limits.greeting,
            }),
            Timeout::Message => Err(ConnectionError::TooSlow {
                within: limits.message_time,
            }),
        }
    }
}
