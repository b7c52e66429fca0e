//! Negotiation: the first exchange on a connection.
//!
//! The MTA offers a version, the *actions* that the filter may take on a message, and the protocol
//! *steps* that it can skip or change. The filter answers with the subset that it uses; both sides
//! keep to that from then on. The answer must not have bits that were not offered, or the MTA drops
//! the filter.
//!
//! Copyist asks for as few responses as possible: none to a command whose response could only be
//! "continue". If the MTA does not offer such a no-reply step, "continue" is sent each time. Pure;
//! fails only with a [`NegotiationError`].

use std::fmt;
use std::ops::{BitAnd, BitOr};

/// The protocol version implemented here; an older MTA gets its own version.
pub const VERSION: u32 = 6;

/// The oldest supported version, the same as libmilter's.
const OLDEST: u32 = 2;

/// The actions that an MTA allows if it sends no action bits at all (`SMFI_V1_ACTS`).
const VERSION_1_ACTIONS: Actions = Actions(0x0f);

/// Packet size allowed for a header field beyond the size negotiated for body chunks. Postfix sends
/// each field as one packet of any length (`header_size_limit`, 100 KiB unless raised), and
/// rejecting a field would keep its message in the queue until it bounces.
const FIELD_ALLOWANCE: usize = 1024 * 1024;

macro_rules! bits {
    ($(#[$doc:meta])* $name:ident { $($(#[$bit_doc:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(u32);

        impl $name {
            /// No bits.
            pub const NONE: $name = $name(0);
            $($(#[$bit_doc])* pub const $bit: $name = $name($value);)*

            /// Creates it from the number on the wire; unknown bits are kept.
            pub const fn from_bits(bits: u32) -> $name {
                $name(bits)
            }

            /// Returns the number on the wire.
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// Whether all bits of `other` are set.
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
    /// The actions that a filter may take at the end of a message (`SMFIF_*`).
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
        /// Quarantine the message: the MTA holds it.
        QUARANTINE = 0x20;
        /// Change the reverse path.
        CHANGE_SENDER = 0x40;
        /// Add recipients with ESMTP parameters.
        ADD_RECIPIENTS_WITH_PARAMS = 0x80;
    }
}

bits! {
    /// The commands that an MTA skips or sends without waiting for a response, and other protocol
    /// options (`SMFIP_*`).
    Steps {
        /// Skip unknown SMTP commands.
        NO_UNKNOWN = 0x100;
        /// Skip DATA.
        NO_DATA = 0x200;
        /// The MTA understands "skip the rest of the body".
        SKIP = 0x400;
        /// Also send recipients that the MTA itself rejected, marked by the macro `{rcpt_mailer}` =
        /// `error`.
        REJECTED_RECIPIENTS = 0x800;
        /// No response to a header field.
        SILENT_HEADER = 0x80;
        /// No response to the connection.
        SILENT_CONNECT = 0x1000;
        /// No response to HELO.
        SILENT_HELO = 0x2000;
        /// No response to MAIL.
        SILENT_MAIL = 0x4000;
        /// No response to RCPT.
        SILENT_RCPT = 0x8000;
        /// No response to DATA.
        SILENT_DATA = 0x1_0000;
        /// No response to an unknown SMTP command.
        SILENT_UNKNOWN = 0x2_0000;
        /// No response to the end of the header.
        SILENT_END_OF_HEADER = 0x4_0000;
        /// No response to a body chunk.
        SILENT_BODY = 0x8_0000;
        /// Header values keep the space after the colon.
        LEADING_SPACE = 0x10_0000;
        /// Packets of up to 256 KiB.
        DATA_256K = 0x1000_0000;
        /// Packets of up to 1 MiB.
        DATA_1M = 0x2000_0000;
    }
}

/// The steps requested whenever they are offered.
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
    /// The actions offered, or requested.
    pub actions: Actions,
    /// The steps offered, or requested.
    pub steps: Steps,
}

/// The features that the filter needs from an MTA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requirements {
    /// The actions to request; no more than needed.
    pub actions: Actions,
    /// Whether the filter decides about each recipient while the SMTP client waits.
    pub answer_recipients: bool,
}

/// The reason why the two sides have no common version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// The MTA speaks a version last used in 2003.
    #[error("the MTA speaks milter version {version}; the oldest supported is {OLDEST}")]
    TooOld {
        /// The version that the MTA offered.
        version: u32,
    },
}

/// The result of the negotiation, valid for the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    chosen: Offer,
    answers_recipients: bool,
}

impl Requirements {
    /// Negotiates an agreement from an MTA's offer.
    ///
    /// Required actions that are not offered are missing from the agreement: a decision that needs
    /// one fails when it is encoded (see [`EditError`](super::EditError)).
    pub fn negotiate(self, offer: Offer) -> Result<Agreement, NegotiationError> {
        if offer.version < OLDEST {
            return Err(NegotiationError::TooOld {
                version: offer.version,
            });
        }
        let offered = if offer.actions == Actions::NONE {
            VERSION_1_ACTIONS
        } else {
            offer.actions
        };
        let mut steps = ALWAYS;
        if !self.answer_recipients {
            steps = steps | Steps::SILENT_RCPT;
        }
        // REJECTED_RECIPIENTS is never requested: without it the MTA does not send recipients that
        // it rejected (Postfix smtpd.c, Sendmail milter_envrcpt), so every recipient received here
        // counts. The macro {rcpt_mailer} is ignored as well: in Postfix it is also "error" for an
        // accepted recipient whose domain is routed to the error(8) transport.
        let mut steps = steps & offer.steps;
        // Only the largest size offered, as libmilter does.
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
    /// Returns the answer to the MTA.
    pub fn chosen(&self) -> Offer {
        self.chosen
    }

    /// Whether these actions are allowed.
    pub fn allows(&self, actions: Actions) -> bool {
        self.chosen.actions.contains(actions)
    }

    /// Whether this step was negotiated.
    pub fn has(&self, step: Steps) -> bool {
        self.chosen.steps.contains(step)
    }

    /// Whether the filter decides about each recipient.
    pub fn answers_recipients(&self) -> bool {
        self.answers_recipients
    }

    /// Returns the largest packet to accept, in bytes without the length field.
    pub fn packet_limit(&self) -> usize {
        let data = if self.has(Steps::DATA_1M) {
            1024 * 1024
        } else if self.has(Steps::DATA_256K) {
            256 * 1024
        } else {
            64 * 1024
        };
        data + FIELD_ALLOWANCE
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
    fn only_needed_steps_and_actions_are_chosen() {
        let agreed = requirements(Actions::ADD_HEADERS, false).negotiate(EVERYTHING);
        let chosen = agreed.expect("version 6").chosen();
        assert_eq!(chosen.version, 6);
        assert_eq!(chosen.actions, Actions::ADD_HEADERS);
        assert_eq!(chosen.steps, ALWAYS | Steps::SILENT_RCPT);
        assert!(!chosen.steps.contains(Steps::SKIP));
        assert!(!chosen.steps.contains(Steps::REJECTED_RECIPIENTS));
    }

    #[test]
    fn recipients_get_responses_only_if_the_filter_decides() {
        let agreed = requirements(Actions::NONE, true)
            .negotiate(EVERYTHING)
            .expect("version 6");
        assert!(!agreed.has(Steps::SILENT_RCPT));
        assert!(agreed.has(Steps::SILENT_MAIL));
    }

    #[test]
    fn only_offered_bits_are_chosen() {
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
    fn old_versions_are_rejected_and_newer_ones_lowered() {
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
    fn the_largest_offered_size_is_chosen() {
        let of = |steps| {
            let agreed = Requirements::default().negotiate(Offer {
                steps,
                ..EVERYTHING
            });
            let agreed = agreed.expect("version 6");
            (
                agreed.chosen().steps,
                agreed.packet_limit() - FIELD_ALLOWANCE,
            )
        };
        assert_eq!(of(Steps::NONE), (Steps::NONE, 65_536));
        assert_eq!(of(Steps::DATA_256K), (Steps::DATA_256K, 262_144));
        assert_eq!(
            of(Steps::DATA_256K | Steps::DATA_1M),
            (Steps::DATA_1M, 1_048_576)
        );
    }
}
