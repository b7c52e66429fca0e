//! Operators, their actions, and the audit record of each action.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::journal::ItemId;

/// A person who acts on the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The name of the user who ran a command, or how a visitor of the admin pages was admitted.
    pub user: String,
    /// The user's number; `None` for a visitor.
    pub uid: Option<u32>,
    /// The visitor's IP address; `None` for a command.
    pub address: Option<IpAddr>,
}

/// An action on an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Schedules the item for now, even if it is a dead letter, set aside, on hold or reserved.
    Retry,
    /// Puts the item on hold until it is released or retried. A delivery that has begun may still
    /// succeed.
    Hold,
    /// Releases the item from hold and schedules it for now.
    Release,
    /// Removes the item, undelivered, for ever.
    Drop,
    /// Copies the item out of the spool, with its message.
    Export,
}

/// The audit record of one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRecord {
    /// Time of the action.
    pub at: SystemTime,
    /// The operator.
    pub operator: Operator,
    /// The action.
    pub action: Action,
    /// The item; `None` if there were several.
    pub item: Option<ItemId>,
    /// The number of items.
    pub items: u32,
    /// The MTA's queue ID of the item's message; empty if it is not known.
    pub queue_id: String,
}

/// Position in a retry of the whole queue. Begin with the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryCursor(pub(super) i64);

impl Action {
    const ALL: [Action; 5] = [
        Action::Retry,
        Action::Hold,
        Action::Release,
        Action::Drop,
        Action::Export,
    ];

    pub(super) fn parse(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.name() == name)
    }

    /// The name of the command.
    pub fn name(self) -> &'static str {
        match self {
            Action::Retry => "retry",
            Action::Hold => "hold",
            Action::Release => "release",
            Action::Drop => "drop",
            Action::Export => "export",
        }
    }
}

impl OperatorRecord {
    /// Describes the operator: `anna (uid 1000)`, `admin page with token, from 192.0.2.1`.
    pub fn describe_operator(&self) -> String {
        let Operator { user, uid, address } = &self.operator;
        match (uid, address) {
            (Some(uid), _) => format!("{user} (uid {uid})"),
            (None, Some(address)) => format!("{user}, from {address}"),
            (None, None) => user.clone(),
        }
    }

    /// Describes the action: `drop abcdefghijklmnop (message 4Zk1Qw2Xz7)`, `retry 500 items`.
    pub fn describe_action(&self) -> String {
        let action = self.action.name();
        match (&self.item, self.queue_id.as_str()) {
            (Some(item), "") => format!("{action} {item}"),
            (Some(item), queue_id) => format!("{action} {item} (message {queue_id})"),
            (None, _) => format!("{action} {} items", self.items),
        }
    }
}
