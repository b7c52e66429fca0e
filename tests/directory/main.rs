//! OpenLDAP, Active Directory and directories with faults.

#[macro_use]
#[path = "../lab/mod.rs"]
mod lab;
#[path = "scripted.rs"]
mod scripted;

mod directory_faults;
mod directory_slapd;
mod groups;
mod hidden_attributes;
mod inheritance;
mod scale;
mod spellings;
mod targets;
mod values;
mod watch;
