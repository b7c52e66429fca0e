//! `copyist schema`: what the binary carries for others to read.

use super::args::Schema;
use super::{Failure, print_line};
use crate::config;

pub(super) fn schema(which: Schema) -> Result<(), Failure> {
    match which {
        Schema::Openldap => {
            print_line(include_str!("../../schemas/openldap/copyist.ldif").trim_end())
        }
        Schema::Ad => print_line(include_str!("../../schemas/ad/copyist.ldf").trim_end()),
        Schema::Settings => print_line(config::settings_page().trim_end()),
        Schema::Config => print_line(config::json_schema().trim_end()),
    }
}
