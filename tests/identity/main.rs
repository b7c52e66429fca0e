//! Whose mail it is, and whose mailbox: real MTAs and directories.

#[macro_use]
#[path = "../lab/mod.rs"]
mod lab;

mod address_maps;
mod company;
mod guard;
mod identity;
mod internal_clients;
mod outsiders;
