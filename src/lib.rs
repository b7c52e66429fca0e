//! Copyist: a directory-driven mail journaling agent.
//!
//! It stands beside an MTA and a directory. An SMTP hook hands it each message; it decides who must
//! get a copy, makes that copy durable, and only then lets the message go.
//!
//! ```text
//!    MTA ──milter──► hook ─► envelope + message ─► directory ─► policy ─► text ─► journal ─► spool ─► verdict
//! client ──smtp────┘            (mail)              resolve      plan     edit    compose    commit      │
//!                                                                                      │         ▼
//!                                journal mailbox ◄─ relay ◄─ deliver ◄─────────────────┘   message goes on
//!                                NDR mailbox     ◄─ ndr  ◄──┘
//! ```
//!
//! Behind the milter the message goes on with the MTA. Behind the SMTP listener the hook hands it
//! to the next server, and what is committed is held until that has answered.
//!
//! # The modules
//!
//! A module uses only modules above it in this table; `tests/commands/modules.rs` holds that.
//!
//! | module | owns |
//! |---|---|
//! | [`error`] | one line for an error and its sources |
//! | [`secret`] | values that must not be shown: passwords and keys |
//! | [`mail`] | the vocabulary: addresses, envelope, message bytes (in memory, or read piece by piece from where others stored them), replies. No clock |
//! | [`smtp`] | RFC 5321 as state machines over bytes: lines, commands, data, answers, logins; and a small sink built on them |
//! | [`milter`] | the milter protocol, version 6. Knows nothing of journaling |
//! | [`net`] | connecting to a server: its addresses, TCP |
//! | [`tls`] | TLS to servers: client configuration, certificate errors and expiry |
//! | [`directory`] | entries, lookups, LDAP connections and failover, LDIF file, cache, change watching, journal-target resolution |
//! | [`maps`] | the address maps of the MTA: which addresses it makes of a recipient or a sender |
//! | [`identity`] | whose mailbox an address is: readings of it, people and groups behind it, the set of guarded mailboxes |
//! | [`policy`] | rules and the plan; pure (the domains that the directory names are put into the rules from outside) |
//! | [`text`] | text before and after bodies: which text for whom, and the edit of MIME messages. Pure |
//! | [`journal`] | what is written: journal report, plain copy, NDR, the seal; and the notices that come back about it |
//! | [`spool`] | the durable queue: commit, reservations, due items, delivery results, recovery |
//! | [`deliver`] | item → relay → outcome per recipient → progress, NDR or dead letter |
//! | [`pipeline`] | the journey of one message, as one short function, and what is made on it |
//! | [`survey`] | answers about no message: what would be journaled to whom, and who is journaled where |
//! | [`hook`] | the doors, milter and SMTP proxy: translate the MTA's protocol and nothing else |
//! | [`admin`] | HTTP: health, metrics, and the pages for the operator |
//! | [`config`] | file and environment → complete settings of every module |
//! | [`migrate`] | the settings of imsext and Postfix → a commented configuration. Pure |
//! | [`daemon`] | composition: build, listen, reload, drain, stop |
//! | [`cli`] | the commands |

pub mod admin;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod deliver;
pub mod directory;
pub mod error;
pub mod hook;
pub mod identity;
pub mod journal;
pub mod mail;
pub mod maps;
pub mod migrate;
pub mod milter;
pub mod net;
pub mod pipeline;
pub mod policy;
pub mod secret;
pub mod smtp;
pub mod spool;
pub mod survey;
pub mod text;
pub mod tls;
