//! `copyist schema`: prints the schemas built into the binary.

use super::args::Schema;
use super::{Failure, print_text};
use crate::config;

pub(super) fn schema(which: Schema) -> Result<(), Failure> {
    match which {
        Schema::Openldap => {
            print_text(include_str!("../../schemas/openldap/copyist.ldif").trim_end())
        }
        Schema::Ad => print_text(include_str!("../../schemas/ad/copyist.ldf").trim_end()),
        Schema::Settings => print_text(config::settings_page().trim_end()),
        Schema::Config => print_text(config::json_schema().trim_end()),
    }
}
