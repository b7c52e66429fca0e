//! Runs postconf(1), Postfix 3.0 or later.
//!
//! main.cf and master.cf are never parsed here: defaults and `$name` expansion are left to Postfix.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::postfix::{DOMAINS, Postfix, Service, Values, is_table, services};
use crate::migrate::postfix::{Origin, entries, maps, words};

/// Directories to search in addition to PATH.
const PLACES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Programs whose settings affect journaling; others are not queried.
const PROGRAMS: [&str; 8] = [
    "smtpd",
    "postscreen",
    "cleanup",
    "pickup",
    "qmqpd",
    "smtp",
    "lmtp",
    "local",
];

/// Reads the instances in these directories; by default the default instance and the enabled ones it
/// lists (`multi_instance_directories`, postmulti(1)). `None` if Postfix is not installed.
pub(super) fn read(dirs: &[PathBuf]) -> Result<Option<Vec<Postfix>>, String> {
    let Some(program) = program() else {
        return match dirs {
            [] => Ok(None),
            _ => Err("postconf(1) not found: it is needed to read Postfix's configuration".into()),
        };
    };
    let default = run(&program, &["-d", "-h", "config_directory"], None)?;
    let default = Path::new(default.printed.trim());
    let read_one = |dir: &Path| instance(&program, dir, dir == default);
    if !dirs.is_empty() {
        return dirs
            .iter()
            .map(|dir| read_one(dir))
            .collect::<Result<_, _>>()
            .map(Some);
    }
    let first = read_one(default)?;
    let others: Vec<PathBuf> = (first.values.list("multi_instance_directories"))
        .map(PathBuf::from)
        .collect();
    let mut all = vec![first];
    for dir in others {
        let other = read_one(&dir)?;
        if other.values.is_yes("multi_instance_enable") {
            all.push(other);
        }
    }
    Ok(Some(all))
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(PLACES.map(PathBuf::from));
    let mut programs = places.map(|place| place.join("postconf"));
    programs.find(|program| program.is_file())
}

fn instance(program: &Path, dir: &Path, is_default: bool) -> Result<Postfix, String> {
    let ask = |arguments: &[&str]| run(program, arguments, Some(dir));
    let main = ask(&["-x"])?;
    let mut values = Values::from_lines(&main.printed);
    // Debian's default: a file that contains the name.
    let origin = values.get("myorigin");
    if origin.starts_with('/') {
        let text = fs::read_to_string(origin).unwrap_or_default();
        values.replace("myorigin", text.trim().to_owned());
    }
    let mut services = services(&ask(&["-F"])?.printed, &ask(&["-P"])?.printed, &values);
    services.retain(|service| !is_disabled(service, &values));
    for service in &mut services {
        if !PROGRAMS.contains(&service.program.as_str()) {
            continue;
        }
        service.values = match service.overrides.is_empty() {
            true => values.clone(),
            false => {
                // Overrides change the expansion of $names in main.cf.
                let mut arguments = vec!["-x".to_owned()];
                for (name, value) in service.overrides.iter() {
                    arguments.extend(["-o".to_owned(), format!("{name}={value}")]);
                }
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                values
                    .clone()
                    .with(Values::from_lines(&ask(&arguments)?.printed))
            }
        };
    }
    let mut postfix = Postfix {
        dir: dir.to_owned(),
        is_default,
        values,
        services,
        unused: main.unused,
        ..Postfix::default()
    };
    list_domains(program, &mut postfix);
    Ok(postfix)
}

/// Reads the tables and files in lists of domains.
fn list_domains(postconf: &Path, postfix: &mut Postfix) {
    for parameter in DOMAINS {
        let all = words(postfix.values.get(parameter)).into_iter();
        for word in all
            .filter(|word| is_table(word))
            .map(str::to_owned)
            .collect::<Vec<_>>()
        {
            match domains_in(postconf, &postfix.dir, &word) {
                Some(domains) => postfix.listed.entry(parameter).or_default().extend(domains),
                None => postfix.unlisted.push((parameter, word)),
            }
        }
    }
}

/// Returns the entries of `inline:{key=value, {key = value}}`, one per line.
fn inline(name: &str) -> Option<String> {
    let inner = name.strip_prefix('{')?.strip_suffix('}')?;
    let entries = words(inner).into_iter().filter_map(|entry| {
        let entry = entry.trim_start_matches('{').trim_end_matches('}');
        let (key, value) = entry.split_once('=')?;
        Some(format!("{} {}\n", key.trim(), value.trim()))
    });
    Some(entries.collect())
}

/// Returns the domains in a table or file; `None` if it cannot be listed.
fn domains_in(postconf: &Path, dir: &Path, word: &str) -> Option<Vec<String>> {
    if word.starts_with('/') {
        let text = fs::read_to_string(word).ok()?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let names = lines.flat_map(|line| line.split([' ', '\t', ',']));
        let names = names.filter(|name| !name.is_empty() && !is_table(name));
        return Some(names.map(str::to_owned).collect());
    }
    let map = maps(word).into_iter().next()?;
    let text = match map.origin() {
        _ if map.kind == "inline" => inline(&map.name)?,
        Origin::File(path) if map.kind == "texthash" => fs::read_to_string(path).ok()?,
        Origin::File(_) | Origin::Postmap => {
            let postmap = postconf.with_file_name("postmap");
            run(&postmap, &["-s", &map.to_string()], Some(dir))
                .ok()?
                .printed
        }
        _ => return None,
    };
    let keys: Vec<String> = entries(&text).into_iter().map(|(key, _)| key).collect();
    // In an alias table the domains are the keys that occur in its addresses; other keys are local
    // parts.
    let in_addresses: BTreeSet<&str> = keys
        .iter()
        .filter_map(|key| Some(key.rsplit_once('@')?.1))
        .collect();
    let is_domain = |key: &&String| {
        !key.contains('@') && (in_addresses.is_empty() || in_addresses.contains(key.as_str()))
    };
    Some(keys.iter().filter(is_domain).cloned().collect())
}

/// Whether `master_service_disable` lists the service: `inet`, or `name/type` (a dot in old files).
fn is_disabled(service: &Service, main: &Values) -> bool {
    let Service { name, kind, .. } = service;
    let mut all = main.list("master_service_disable");
    all.any(|one| one == kind || one == format!("{name}/{kind}") || one == format!("{name}.{kind}"))
}

/// The output of postconf.
struct Output {
    printed: String,
    unused: Vec<String>,
}

fn run(program: &Path, arguments: &[&str], dir: Option<&Path>) -> Result<Output, String> {
    let mut command = Command::new(program);
    if let Some(dir) = dir {
        command.args([OsString::from("-c"), dir.into()]);
    }
    // MAIL_CONFIG would select another instance.
    command.args(arguments).env_remove("MAIL_CONFIG");
    let output = command
        .output()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(complaints.trim().to_owned());
    }
    let unused = complaints.lines().filter_map(|line| {
        let warning = line.split_once("warning: ")?.1;
        warning
            .contains(": unused parameter: ")
            .then(|| warning.to_owned())
    });
    Ok(Output {
        printed: String::from_utf8_lossy(&output.stdout).into_owned(),
        unused: unused.collect(),
    })
}
