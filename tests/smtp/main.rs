//! The SMTP listeners between clients, MTAs and next hops.

#[path = "../lab/mod.rs"]
mod lab;

mod activation;
mod listeners;
mod proxy;
mod proxy_mtas;
