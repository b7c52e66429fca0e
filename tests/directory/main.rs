//! OpenLDAP, Active Directory and directories with faults.

#[macro_use]
#[path = "../lab/mod.rs"]
mod lab;
#[path = "scripted.rs"]
mod scripted;

mod absence;
mod directory_faults;
mod directory_slapd;
mod groups;
mod places;
mod scale;
mod spellings;
mod targets;
mod values;
mod watch;
