//! Copyist: a directory-driven mail journaling agent. It works beside an MTA and a directory. A
//! hook receives each message; Copyist decides which journal addresses get a copy, makes the copies
//! durable, and only then accepts the message.
//!
//! ```text
//!    MTA ──milter──► hook ─► envelope + message ─► directory ─► policy ─► text ─► journal ─► spool ─► verdict
//! client ──smtp────┘            (mail)              resolve      plan     edit    compose    commit      │
//!                                                                                      │         ▼
//!                                journal mailbox ◄─ relay ◄─ deliver ◄─────────────────┘   message goes on
//!                                NDR mailbox     ◄─ ndr  ◄──┘
//! ```
//! With the milter, the MTA delivers the message. With an SMTP listener, the hook sends it to the
//! next hop, and its items stay reserved until the next hop has replied.
//!
//! # The modules
//!
//! A module uses only modules above it in this table; `tests/commands/modules.rs` holds that.
//!
//! | module | owns |
//! |---|---|
//! | [`error`] | one line for an error and its sources |
//! | [`secret`] | values that must not be shown: passwords and keys |
//! | [`mail`] | the vocabulary: addresses, envelope, message bytes (in memory, or read in chunks from storage), replies. No clock |
//! | [`smtp`] | RFC 5321 as state machines over bytes: lines, commands, data, replies, AUTH; and a small sink built on them |
//! | [`milter`] | the milter protocol, version 6. Knows nothing of journaling |
//! | [`net`] | connecting to a server: its addresses, TCP |
//! | [`tls`] | TLS to servers: client configuration, certificate errors and expiry |
//! | [`directory`] | entries, lookups, LDAP connections and failover, LDIF file, cache, change watching, journal-target resolution |
//! | [`maps`] | the address maps of the MTA: the addresses it rewrites a recipient or a sender to |
//! | [`identity`] | the people behind an address: its readings, groups, and the set of guarded mailboxes |
//! | [`policy`] | rules, the context of a message and the plan. Pure (domains from the directory are put into the rules by `daemon`) |
//! | [`text`] | disclaimer texts: their selection per recipient, and the edit of MIME messages. Pure |
//! | [`journal`] | items: journal report, plain copy, NDR and their seal; and notices that come back about them |
//! | [`spool`] | the durable queue: commit, reservations, due items, delivery results, recovery |
//! | [`deliver`] | item → relay → outcome per recipient → recorded result, NDR or dead letter |
//! | [`pipeline`] | the processing of one message, as one linear function |
//! | [`survey`] | explanations and coverage: what would be journaled for a message, and for each person |
//! | [`hook`] | listeners, milter and SMTP proxy: translate the MTA's protocol and nothing else |
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
