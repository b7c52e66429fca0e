//! `copyist import-postfix`: what Postfix's BCC parameters do, as a configuration.
//!
//! Asks Postfix's own tools, `postconf` and `postmap`, so that what is read is what Postfix reads;
//! tables of text are read from the files that `postmap` makes its indexed files of, where these
//! are there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::Failure;
use super::args::ImportPostfix;
use super::import::{create, give, site};
use crate::migrate::postfix::{
    Content, LDAP_PARAMETERS, LdapTable, Map, Origin, PARAMETERS, Postfix, Table, entries, maps,
    parameters, propose,
};

pub(super) fn import_postfix(what: &ImportPostfix) -> Result<(), Failure> {
    let mut site = site(&what.import)?;
    let tools = Tools {
        config: what.config_directory.as_deref(),
    };
    let postfix = tools.read()?;
    let is_directory_known = postfix.ldap().is_some() || !site.directory_urls.is_empty();
    if let Some(path) = what.ldif.as_deref().filter(|_| !is_directory_known) {
        // A relative path would be taken from the directory of the configuration.
        let path = std::path::absolute(path).map_err(Failure::failed)?;
        site.directory_urls = vec![format!("ldif:{}", path.display())];
    }
    let proposed = propose(&postfix, &site);
    if let Some(path) = &what.ldif {
        create(path, &proposed.ldif)?;
    }
    give(&proposed.proposal, what.import.output.as_deref())
}

/// Postfix's own programs.
struct Tools<'a> {
    config: Option<&'a Path>,
}

impl Tools<'_> {
    fn read(&self) -> Result<Postfix, Failure> {
        let mut asked = vec!["-x"];
        asked.extend(PARAMETERS);
        let mut parameters: BTreeMap<String, String> =
            parameters(&self.run("postconf", &asked)?).collect();
        // Debian's default: the name stands in a file.
        if let Some(origin) = parameters.get_mut("myorigin")
            && origin.starts_with('/')
        {
            let text = fs::read_to_string(&*origin).unwrap_or_default();
            *origin = text.trim().to_owned();
        }
        let tables = |name: &str| -> Vec<Table> {
            let listed = maps(parameters.get(name).map_or("", String::as_str));
            listed.into_iter().map(|map| self.table(map)).collect()
        };
        // Without a master.cf there are no services to be set otherwise.
        let services = self.run("postconf", &["-P"]).unwrap_or_default();
        let overrides = services.lines().filter(|line| line.contains("_bcc"));
        Ok(Postfix {
            sender_bcc: tables("sender_bcc_maps"),
            recipient_bcc: tables("recipient_bcc_maps"),
            overrides: overrides.map(str::to_owned).collect(),
            parameters,
        })
    }

    fn table(&self, map: Map) -> Table {
        let content = match map.origin() {
            Origin::File(path) => fs::read_to_string(path)
                .map(|text| Content::Entries(entries(&text)))
                .unwrap_or_else(|error| self.postmap(&map, &format!("cannot be read: {error}"))),
            Origin::Postmap => self.postmap(&map, "cannot be listed"),
            Origin::Always(value) => Content::Always(value.to_owned()),
            Origin::Ldap(path) => match fs::read_to_string(path) {
                Ok(text) => Content::Ldap(with_ca(LdapTable::read(path, &text))),
                Err(error) => Content::Unknown(format!("cannot be read: {error}")),
            },
            Origin::LdapInMain(prefix) => self.ldap_in_main(prefix),
            Origin::Unlisted => Content::Unknown(
                "is of a kind that cannot be translated. Set the attribute on the people, or in an OU or a group of them."
                    .into(),
            ),
        };
        Table { map, content }
    }

    fn postmap(&self, map: &Map, why: &str) -> Content {
        match self.run("postmap", &["-s", &map.to_string()]) {
            Ok(text) => Content::Entries(entries(&text)),
            Err(failure) => Content::Unknown(format!("{why} ({failure})")),
        }
    }

    fn ldap_in_main(&self, prefix: &str) -> Content {
        let names: Vec<String> = LDAP_PARAMETERS
            .iter()
            .map(|name| format!("{prefix}_{name}"))
            .collect();
        let asked: Vec<&str> = std::iter::once("-x")
            .chain(names.iter().map(String::as_str))
            .collect();
        match self.run("postconf", &asked) {
            Ok(text) => {
                let start = format!("{prefix}_");
                let found = parameters(&text).filter_map(|(name, value)| {
                    Some((name.strip_prefix(&start)?.to_owned(), value))
                });
                Content::Ldap(with_ca(LdapTable::of("main.cf", found)))
            }
            Err(failure) => Content::Unknown(format!("cannot be read ({failure})")),
        }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(program);
        if let Some(directory) = self.config {
            command.arg("-c").arg(directory);
        }
        let output = command.args(arguments).output().map_err(|error| {
            Failure::failed(format!(
                "{program} cannot be run: {error}; it comes with Postfix, and must be on the PATH"
            ))
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::failed(format!("{program}: {}", said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Whether the certificates that it names can be read is only known here.
fn with_ca(table: LdapTable) -> LdapTable {
    let can_read_ca = table
        .ca_file()
        .is_some_and(|file| fs::File::open(file).is_ok());
    table.with_readable_ca(can_read_ca)
}
