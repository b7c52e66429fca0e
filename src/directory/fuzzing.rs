//! Entry points of the fuzz targets; built only with `--cfg fuzzing`, see `fuzz/run`.

use std::sync::Arc;

use super::attributes::{self, AttributeError};
use super::entry::Entry;
use super::ldif::{self, LdifError};
use super::resolve;
use super::settings::TargetSettings;
use crate::mail::Address;

/// The filters for a set of attributes.
pub struct Questions(attributes::Attributes);

impl Questions {
    /// Creates the filters for these address and journal attributes.
    pub fn new(addresses: &[String], journal: &[String]) -> Result<Questions, AttributeError> {
        attributes::Attributes::new(addresses, journal).map(Questions)
    }

    /// Returns the filter that finds the owners of these addresses.
    pub fn lookup_filter(&self, asked: &[Address]) -> String {
        self.0.lookup_filter(asked, &[])
    }

    /// Returns the filter that finds the objects journaled to this address, or to one of these
    /// objects.
    pub fn journal_filter(&self, address: &Address, owners: &[Arc<Entry>]) -> Option<String> {
        self.0.journal_filter(address, owners, &[])
    }

    /// Returns the addresses that an object is found by.
    pub fn keys_of(&self, entry: &Entry) -> Vec<String> {
        self.0.keys_of(entry)
    }
}

/// Parses LDIF with all attributes.
pub fn ldif(text: &[u8]) -> Result<Vec<Entry>, LdifError> {
    ldif::parse(text, |_| true)
}

/// Returns the address that copies for an object go to.
pub fn own_address(entry: &Entry, imceaex_domain: Option<&str>) -> Option<Address> {
    let settings = TargetSettings {
        imceaex_domain: imceaex_domain.map(str::to_owned),
        ..TargetSettings::default()
    };
    resolve::primary_address(entry, &settings)
}
