//! `copyist import-postfix`: translates Postfix's BCC parameters to a configuration.
//!
//! Uses Postfix's own tools, `postconf` and `postmap`, to read exactly what Postfix reads. Text tables
//! are read from the source files of `postmap` if these exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::Failure;
use super::args::ImportPostfixArgs;
use super::migrate::{create, site, write};
use crate::migrate::postfix::{
    Content, LDAP_PARAMETERS, LdapTable, Map, Origin, PARAMETERS, Postfix, Table, entries, maps,
    parameters, propose,
};

pub(super) fn import_postfix(args: &ImportPostfixArgs) -> Result<(), Failure> {
    let mut site = site(&args.site)?;
    let tools = Tools {
        config: args.config_directory.as_deref(),
    };
    let postfix = tools.read()?;
    let is_directory_known = postfix.ldap().is_some() || !site.directory_urls.is_empty();
    if let Some(path) = args.ldif.as_deref().filter(|_| !is_directory_known) {
        // A relative path would be relative to the configuration.
        let path = std::path::absolute(path).map_err(Failure::failed)?;
        site.directory_urls = vec![format!("ldif:{}", path.display())];
    }
    let proposed = propose(&postfix, &site);
    if let Some(path) = &args.ldif {
        create(path, &proposed.ldif)?;
    }
    write(&proposed.proposal, args.site.output.as_deref())
}

/// Postfix's own tools.
struct Tools<'a> {
    config: Option<&'a Path>,
}

impl Tools<'_> {
    fn read(&self) -> Result<Postfix, Failure> {
        let mut asked = vec!["-x"];
        asked.extend(PARAMETERS);
        let mut parameters: BTreeMap<String, String> =
            parameters(&self.run("postconf", &asked)?).collect();
        // Debian's default: a file that contains the name.
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
        // Without master.cf there are no overrides.
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
                "is of a type that cannot be translated. Set the attribute on the people, or on an OU or a group of them."
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
                Content::Ldap(with_ca(LdapTable::new("main.cf", found)))
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
                "cannot run {program}: {error}; it is part of Postfix and must be in PATH"
            ))
        })?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::failed(format!("{program}: {}", error.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Sets whether the table's CA file is readable.
fn with_ca(table: LdapTable) -> LdapTable {
    let can_read_ca = table
        .ca_file()
        .is_some_and(|file| fs::File::open(file).is_ok());
    table.with_readable_ca(can_read_ca)
}
