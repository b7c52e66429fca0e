//! What the hooks need to know; built by `config`.

use super::clients::Clients;
use super::{Listen, Socket};
use crate::milter;
use crate::pipeline::Memory;

/// Settings of the hooks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where the milter listens.
    pub milter: Vec<Listen>,
    /// What its Unix sockets are like.
    pub socket: Socket,
    /// Who may connect to it.
    pub access: Access,
    /// How much is taken in.
    pub limits: Limits,
}

/// Who may connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// By TCP.
    pub clients: Clients,
    /// By Unix sockets: the ids of users; everybody whom the socket's mode lets in where there are none.
    pub users: Vec<u32>,
}

/// How much is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at a time, of all listeners together.
    pub connections: usize,
    /// Octets that the messages under way may hold in memory together ([`crate::pipeline::Memory`]).
    pub memory: usize,
    /// Those of one connection.
    pub connection: milter::Limits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1000,
            memory: Memory::DEFAULT,
            connection: milter::Limits::DEFAULT,
        }
    }
}

impl Access {
    pub(super) fn includes_user(&self, id: u32) -> bool {
        self.users.is_empty() || self.users.contains(&id)
    }
}
