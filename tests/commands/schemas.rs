//! The schemas in `schemas/` are taken by the directories they are for, and agree with each other.

use crate::lab;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{DirectoryServer, Slapd};

/// The UUID that both families of OIDs are made of.
const UUID: u128 = 0x1841_3335_e102_4d41_8058_d08d_c907_9f67;

fn schema(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("schemas")
        .join(name)
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The lines of an LDIF file without comments, folded lines joined (RFC 2849 section 2, note 2).
fn lines(file: &Path) -> Vec<String> {
    let unfolded = text(file).replace("\n ", "");
    let lines = unfolded.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// All values of an attribute in an LDIF file, each run of spaces as one: in a schema they mean no
/// more.
fn values(file: &Path, attribute: &str) -> Vec<String> {
    lines(file)
        .iter()
        .filter_map(|line| line.strip_prefix(attribute)?.strip_prefix(": "))
        .map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn slapd_finds_a_user_by_the_new_attributes() {
    let slapd = Slapd::start_with(2, |_| None);
    slapd.modify(
        "dn: uid=u00001,ou=people,dc=example,dc=test\n\
         changetype: modify\n\
         add: objectClass\n\
         objectClass: copyistJournaledObject\n\
         -\n\
         add: copyistJournal\n\
         copyistJournal: all@archive.test\n\
         -\n\
         add: copyistInboundJournal\n\
         copyistInboundJournal: in@archive.test\n\
         copyistInboundJournal: in@elsewhere.test\n\
         -\n\
         add: copyistOutboundJournal\n\
         copyistOutboundJournal: cn=Archive,ou=people,dc=example,dc=test\n\
         -\n\
         add: copyistInternalJournal\n\
         copyistInternalJournal:: am9zw6lAYXJjaGl2ZS50ZXN0\n",
    );
    let found = slapd.search(
        "(&(objectClass=copyistJournaledObject)(copyistInboundJournal=IN@elsewhere.test))",
        &[
            "copyistJournal",
            "copyistOutboundJournal",
            "copyistInternalJournal",
        ],
    );
    assert_eq!(
        found,
        "dn: uid=u00001,ou=people,dc=example,dc=test\n\
         copyistJournal: all@archive.test\n\
         copyistOutboundJournal: cn=Archive,ou=people,dc=example,dc=test\n\
         copyistInternalJournal:: am9zw6lAYXJjaGl2ZS50ZXN0\n\n"
    );
}

/// The file that slapd itself writes for our schema when it takes a configuration.
fn as_slapd_keeps_it(config: &Path) -> PathBuf {
    let schemas = std::fs::read_dir(config.join("cn=config/cn=schema")).expect("slapd wrote it");
    schemas
        .map(|file| file.expect("it can be listed").path())
        .find(|file| file.to_string_lossy().ends_with("}copyist.ldif"))
        .expect("slapd keeps a file for our schema")
}

#[test]
fn both_forms_for_openldap_say_the_same() {
    let directory = tempfile::tempdir().expect("the system has a temporary directory");
    let make = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).expect("the directory is new");
        path
    };
    let (from_ldif, from_conf) = (make("from-ldif"), make("from-conf"));

    let ldif = directory.path().join("config.ldif");
    let include = format!(
        "include: file://{}",
        schema("openldap/copyist.ldif").display()
    );
    lab::write(
        &ldif,
        format!(
            "dn: cn=config\nobjectClass: olcGlobal\ncn: config\n\n\
             dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n\n\
             include: file:///etc/ldap/schema/core.ldif\n{include}\n"
        ),
    );
    lab::run(
        Command::new(lab::need("slapadd", "slapd"))
            .args(["-n", "0", "-F"])
            .args([&from_ldif, Path::new("-l"), &ldif]),
    );

    let conf = directory.path().join("slapd.conf");
    let include = format!("include {}", schema("openldap/copyist.schema").display());
    lab::write(
        &conf,
        format!("include /etc/ldap/schema/core.schema\n{include}\n"),
    );
    lab::run(Command::new(lab::need("slaptest", "slapd")).args([
        Path::new("-f"),
        &conf,
        Path::new("-F"),
        &from_conf,
    ]));

    let [from_ldif, from_conf] = [from_ldif, from_conf].map(|config| as_slapd_keeps_it(&config));
    for (attribute, count) in [
        ("olcObjectIdentifier", 3),
        ("olcAttributeTypes", 4),
        ("olcObjectClasses", 1),
    ] {
        let expected = values(&from_ldif, attribute);
        assert_eq!(expected.len(), count, "{attribute}: {expected:?}");
        assert_eq!(values(&from_conf, attribute), expected);
    }
}

#[test]
fn the_openldap_arc_is_the_uuid() {
    let arcs = values(&schema("openldap/copyist.ldif"), "olcObjectIdentifier");
    assert_eq!(arcs.first(), Some(&format!("copyistArc 2.25.{UUID}")));
}

#[test]
fn the_active_directory_arc_is_the_same_uuid_in_pieces() {
    let digits = format!("{UUID:032x}");
    let mut rest = digits.as_str();
    let mut arc = "1.2.840.113556.1.8000.2554".to_owned();
    for length in [4, 4, 4, 4, 4, 6, 6] {
        let (piece, behind) = rest.split_at(length);
        let number = u32::from_str_radix(piece, 16).expect("the digits are hexadecimal");
        arc.push_str(&format!(".{number}"));
        rest = behind;
    }
    let file = schema("ad/copyist.ldf");
    let expected: Vec<String> = (1..=4).map(|n| format!("{arc}.1.{n}")).collect();
    assert_eq!(values(&file, "attributeID"), expected);
    assert_eq!(values(&file, "governsID"), [format!("{arc}.2.1")]);
}

#[test]
fn active_directory_and_openldap_know_the_same_names() {
    let names: Vec<String> = text(&schema("openldap/copyist.schema"))
        .lines()
        .filter_map(|line| line.split("NAME '").nth(1)?.split('\'').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(values(&schema("ad/copyist.ldf"), "lDAPDisplayName"), names);
    assert_eq!(values(&schema("ad/copyist.ldf"), "mayContain"), names[..4]);
}

/// `schemaUpdateNow` makes a domain controller read its schema again: what names a new attribute or
/// class must come after it.
#[test]
fn active_directory_reads_its_schema_before_new_names_are_used() {
    let mut known: Vec<String> = Vec::new();
    let mut new: Vec<String> = Vec::new();
    for line in lines(&schema("ad/copyist.ldf")) {
        match line.split_once(": ") {
            Some(("lDAPDisplayName", name)) => new.push(name.to_owned()),
            Some(("schemaUpdateNow", "1")) => known.append(&mut new),
            Some(("mayContain" | "auxiliaryClass", name)) => {
                assert!(
                    known.iter().any(|known| known == name),
                    "{name} is too early"
                );
            }
            _ => {}
        }
    }
    assert!(new.is_empty(), "{new:?} are never read");
}
