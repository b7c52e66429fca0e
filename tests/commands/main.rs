//! The commands, the configuration and what holds documentation to the source.

#[path = "../lab/mod.rs"]
mod lab;
mod source;

mod commands;
mod config;
mod doctor;
mod import;
mod messages;
mod metrics;
mod modules;
mod schemas;
mod secrets;
