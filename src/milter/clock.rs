//! Timeouts of one connection. Pure apart from reading the clock.

use tokio::time::Instant;

use super::connection::ConnectionError;
use super::session::Session;
use crate::mail::Limits;

/// The start times from which the timeouts of one connection count.
#[derive(Debug)]
pub(super) struct Clock {
    limits: Limits,
    connected: Instant,
    /// The number of the message under way, and when it was first seen.
    message: Option<(u64, Instant)>,
}

/// The limit that ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    Greeting,
    Silence,
    Message,
    Connection,
}

impl Clock {
    /// Starts the clock of a new connection.
    pub(super) fn start(limits: Limits) -> Clock {
        Clock {
            limits,
            connected: Instant::now(),
            message: None,
        }
    }

    /// Returns the deadline for the next bytes from the MTA and the limit behind it: the idle
    /// timeout or, where occasional bytes must not extend the wait, the time limit of the
    /// negotiation, message or connection.
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
    /// Returns the result of a connection that reached this limit.
    pub(super) fn outcome(self, limits: Limits) -> Result<(), ConnectionError> {
        match self {
            // No message is under way and nothing is wrong: the MTA opens a new connection.
            Timeout::Connection => Ok(()),
            Timeout::Silence => Err(ConnectionError::Idle {
                doing: "send anything",
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
