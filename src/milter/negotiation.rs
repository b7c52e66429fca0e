//! What MTA and filter agree on before anything else is said.
//!
//! The MTA offers a version, the *actions* it would let the filter take on a message, and the
//! *steps* it could leave out or do differently. The filter answers with the part it uses; from
//! then on both keep to that. A bit that was not offered must not be answered, or the MTA drops the
//! filter.
//!
//! We ask for as little talk as possible: no answer to any command whose answer could only be
//! "continue". Where an MTA does not offer such a no-reply step, "continue" is said each time.
//! Pure; fails only by [`NegotiationError`].

use std::fmt;
use std::ops::{BitAnd, BitOr};

/// The protocol version spoken here; an older MTA gets its own.
pub const VERSION: u32 = 6;

/// The oldest version understood; libmilter draws the line at the same place.
const OLDEST: u32 = 2;

/// What an MTA that sends no action bits at all allows (`SMFI_V1_ACTS`).
const ACTIONS_OF_OLD: Actions = Actions(0x0f);

/// Room for a header field beyond the size agreed for body chunks. Postfix sends each field as one
/// packet however long it is (`header_size_limit`, 100 KiB unless raised), and a field that we
/// refused would keep its message in the queue until it bounces.
const ROOM: usize = 1024 * 1024;

macro_rules! bits {
    ($(#[$doc:meta])* $name:ident { $($(#[$bit_doc:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(u32);

        impl $name {
            /// None of them.
            pub const NONE: $name = $name(0);
            $($(#[$bit_doc])* pub const $bit: $name = $name($value);)*

            /// From the number on the wire; bits without a name are kept.
            pub const fn from_bits(bits: u32) -> $name {
                $name(bits)
            }

            /// The number on the wire.
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// Whether all of `other` are among these.
            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }
        }

        impl BitOr for $name {
            type Output = $name;

            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }

        impl BitAnd for $name {
            type Output = $name;

            fn bitand(self, other: $name) -> $name {
                $name(self.0 & other.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:#x})", stringify!($name), self.0)
            }
        }
    };
}

bits! {
    /// What a filter may do to a message at its end (`SMFIF_*`).
    Actions {
        /// Add and insert header fields.
        ADD_HEADERS = 0x01;
        /// Replace the body.
        CHANGE_BODY = 0x02;
        /// Add recipients.
        ADD_RECIPIENTS = 0x04;
        /// Delete recipients.
        DELETE_RECIPIENTS = 0x08;
        /// Change and delete header fields.
        CHANGE_HEADERS = 0x10;
        /// Have the MTA hold the message.
        QUARANTINE = 0x20;
        /// Change the reverse path.
        CHANGE_SENDER = 0x40;
        /// Add recipients with ESMTP parameters.
        ADD_RECIPIENTS_WITH_PARAMS = 0x80;
    }
}

bits! {
    /// Which commands an MTA leaves out, which it sends without waiting for an answer, and what
    /// else it can do differently (`SMFIP_*`).
    Steps {
        /// Leave out unknown SMTP commands.
        NO_UNKNOWN = 0x100;
        /// Leave out DATA.
        NO_DATA = 0x200;
        /// The MTA understands "skip the rest of the body".
        SKIP = 0x400;
        /// Tell recipients that the MTA itself refused as well, marked by the macro `{rcpt_mailer}`
        /// = `error`.
        REFUSED_RECIPIENTS = 0x800;
        /// No answer to a header field.
        SILENT_HEADER = 0x80;
        /// No answer to the connection.
        SILENT_CONNECT = 0x1000;
        /// No answer to HELO.
        SILENT_HELO = 0x2000;
        /// No answer to MAIL.
        SILENT_MAIL = 0x4000;
        /// No answer to RCPT.
        SILENT_RCPT = 0x8000;
        /// No answer to DATA.
        SILENT_DATA = 0x1_0000;
        /// No answer to an unknown SMTP command.
        SILENT_UNKNOWN = 0x2_0000;
        /// No answer to the end of the header.
        SILENT_END_OF_HEADER = 0x4_0000;
        /// No answer to a body chunk.
        SILENT_BODY = 0x8_0000;
        /// Header values keep the space after the colon.
        LEADING_SPACE = 0x10_0000;
        /// Packets of up to 256 KiB.
        DATA_256K = 0x1000_0000;
        /// Packets of up to 1 MiB.
        DATA_1M = 0x2000_0000;
    }
}

/// What is asked for whenever it is offered.
const ALWAYS: Steps = Steps(
    Steps::NO_UNKNOWN.0
        | Steps::NO_DATA.0
        | Steps::SILENT_HEADER.0
        | Steps::SILENT_CONNECT.0
        | Steps::SILENT_HELO.0
        | Steps::SILENT_MAIL.0
        | Steps::SILENT_DATA.0
        | Steps::SILENT_UNKNOWN.0
        | Steps::SILENT_END_OF_HEADER.0
        | Steps::SILENT_BODY.0
        | Steps::LEADING_SPACE.0,
);

/// The payload of `O`, from either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The protocol version.
    pub version: u32,
    /// The actions allowed, or wanted.
    pub actions: Actions,
    /// The steps offered, or chosen.
    pub steps: Steps,
}

/// What our side needs of an MTA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requirements {
    /// What we may do to a message; ask for no more than needed.
    pub actions: Actions,
    /// Whether each recipient is asked about while the SMTP client waits.
    pub answer_recipients: bool,
}

/// The two sides cannot talk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// The MTA speaks a version that nobody has used since 2003.
    #[error("the MTA speaks milter version {version}, older than {OLDEST}")]
    TooOld {
        /// What the MTA said.
        version: u32,
    },
}

/// What was agreed; holds for the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    chosen: Offer,
    answers_recipients: bool,
}

impl Requirements {
    /// Chooses from an MTA's offer.
    ///
    /// Actions that are wanted and not offered are simply missing from the agreement: an outcome
    /// that needs one fails then, and only then (see [`EditError`](super::EditError)).
    pub fn negotiate(self, offer: Offer) -> Result<Agreement, NegotiationError> {
        if offer.version < OLDEST {
            return Err(NegotiationError::TooOld {
                version: offer.version,
            });
        }
        let offered = if offer.actions == Actions::NONE {
            ACTIONS_OF_OLD
        } else {
            offer.actions
        };
        let mut steps = ALWAYS;
        if !self.answer_recipients {
            steps = steps | Steps::SILENT_RCPT;
        }
        // REFUSED_RECIPIENTS is never asked for: without it a recipient that the MTA refused does
        // not reach us (Postfix smtpd.c, Sendmail milter_envrcpt), and all who do must be counted.
        // The macro {rcpt_mailer} is not looked at either: with Postfix it is also "error" for an
        // accepted recipient whose domain is routed to the error(8) transport.
        let mut steps = steps & offer.steps;
        // One of the two, as libmilter answers: the largest that was offered.
        if offer.steps.contains(Steps::DATA_1M) {
            steps = steps | Steps::DATA_1M;
        } else if offer.steps.contains(Steps::DATA_256K) {
            steps = steps | Steps::DATA_256K;
        }
        Ok(Agreement {
            chosen: Offer {
                version: offer.version.min(VERSION),
                actions: self.actions & offered,
                steps,
            },
            answers_recipients: self.answer_recipients,
        })
    }
}

impl Agreement {
    /// What the MTA is told.
    pub fn chosen(&self) -> Offer {
        self.chosen
    }

    /// Whether we may do this to a message.
    pub fn allows(&self, actions: Actions) -> bool {
        self.chosen.actions.contains(actions)
    }

    /// Whether this is among the steps agreed on.
    pub fn has(&self, step: Steps) -> bool {
        self.chosen.steps.contains(step)
    }

    /// Whether somebody decides about each recipient.
    pub fn answers_recipients(&self) -> bool {
        self.answers_recipients
    }

    /// The longest packet to accept, in bytes without the length field.
    pub fn packet_limit(&self) -> usize {
        let data = if self.has(Steps::DATA_1M) {
            1024 * 1024
        } else if self.has(Steps::DATA_256K) {
            256 * 1024
        } else {
            64 * 1024
        };
        data + ROOM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Offer = Offer {
        version: 6,
        actions: Actions(0x1ff),
        steps: Steps(0x1f_ffff),
    };

    fn requirements(actions: Actions, answer_recipients: bool) -> Requirements {
        Requirements {
            actions,
            answer_recipients,
        }
    }

    #[test]
    fn no_more_is_chosen_than_is_needed() {
        let agreed = requirements(Actions::ADD_HEADERS, false).negotiate(EVERYTHING);
        let chosen = agreed.expect("version 6").chosen();
        assert_eq!(chosen.version, 6);
        assert_eq!(chosen.actions, Actions::ADD_HEADERS);
        assert_eq!(chosen.steps, ALWAYS | Steps::SILENT_RCPT);
        assert!(!chosen.steps.contains(Steps::SKIP));
        assert!(!chosen.steps.contains(Steps::REFUSED_RECIPIENTS));
    }

    #[test]
    fn recipients_are_answered_only_where_somebody_decides() {
        let agreed = requirements(Actions::NONE, true)
            .negotiate(EVERYTHING)
            .expect("version 6");
        assert!(!agreed.has(Steps::SILENT_RCPT));
        assert!(agreed.has(Steps::SILENT_MAIL));
    }

    #[test]
    fn nothing_is_chosen_that_was_not_offered() {
        let offer = Offer {
            version: 2,
            actions: Actions(0x3f),
            steps: Steps(0x7f),
        };
        let agreed =
            requirements(Actions::ADD_HEADERS | Actions::CHANGE_SENDER, false).negotiate(offer);
        let chosen = agreed.expect("version 2").chosen();
        assert_eq!(
            (chosen.version, chosen.actions, chosen.steps),
            (2, Actions::ADD_HEADERS, Steps::NONE)
        );
    }

    #[test]
    fn no_action_bits_mean_the_four_of_version_one() {
        let offer = Offer {
            actions: Actions::NONE,
            ..EVERYTHING
        };
        let agreed =
            requirements(Actions::CHANGE_BODY | Actions::CHANGE_HEADERS, false).negotiate(offer);
        assert_eq!(
            agreed.expect("version 6").chosen().actions,
            Actions::CHANGE_BODY
        );
    }

    #[test]
    fn versions_that_nobody_speaks_are_refused_and_newer_ones_lowered() {
        let of = |version| {
            Requirements::default().negotiate(Offer {
                version,
                ..EVERYTHING
            })
        };
        for version in [0, 1] {
            assert_eq!(of(version), Err(NegotiationError::TooOld { version }));
        }
        assert_eq!(of(7).expect("newer").chosen().version, 6);
    }

    #[test]
    fn the_largest_size_offered_is_taken() {
        let of = |steps| {
            let agreed = Requirements::default().negotiate(Offer {
                steps,
                ..EVERYTHING
            });
            let agreed = agreed.expect("version 6");
            (agreed.chosen().steps, agreed.packet_limit() - ROOM)
        };
        assert_eq!(of(Steps::NONE), (Steps::NONE, 65_536));
        assert_eq!(of(Steps::DATA_256K), (Steps::DATA_256K, 262_144));
        assert_eq!(
            of(Steps::DATA_256K | Steps::DATA_1M),
            (Steps::DATA_1M, 1_048_576)
        );
    }
}
