//! The service's systemd unit: its user and its sandbox.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The unit of the package.
const NAME: &str = "copyist.service";

const PROPERTIES: &str = "LoadState,ActiveState,SubState,Result,NRestarts,User,Group,SupplementaryGroups,ExecStart,\
                          ProtectHome,ProtectSystem,PrivateTmp,InaccessiblePaths,ReadWritePaths,ReadOnlyPaths,\
                          StateDirectory,RuntimeDirectory,CacheDirectory,LogsDirectory";

/// An installed unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// `User=`; `None` for root.
    pub(super) user: Option<String>,
    /// `Group=` and `SupplementaryGroups=`.
    pub(super) groups: Vec<String>,
    /// Its configuration file.
    pub(super) config: Option<PathBuf>,
    /// The failure state, as in systemd: `failed (exit-code)`.
    pub(super) failure: Option<String>,
    /// The last error in the journal, if it failed.
    pub(super) last_error: Option<String>,
    home: String,
    system: String,
    has_private_tmp: bool,
    hidden: Vec<PathBuf>,
    writable: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
}

/// Returns the unit if it is installed.
pub(super) fn read() -> Option<Unit> {
    let said = output("systemctl", &["show", NAME, "--property", PROPERTIES])?;
    let mut unit = Unit::parse(&said)?;
    if unit.failure.is_some() {
        // Prefer the service's own error to systemd's report of the failure.
        let own = format!("_SYSTEMD_UNIT={NAME}");
        let unit_of = format!("--unit={NAME}");
        unit.last_error = last_error(&own).or_else(|| last_error(&unit_of));
    }
    Some(unit)
}

fn last_error(of: &str) -> Option<String> {
    let asked = [of, "-p", "err", "-n", "1", "-o", "cat", "--no-pager", "-q"];
    let said = output("journalctl", &asked)?.trim().to_owned();
    (!said.is_empty()).then_some(said)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output = command
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

impl Unit {
    /// Parses the output of `systemctl show`; `None` if there is no such unit.
    fn parse(said: &str) -> Option<Unit> {
        let value = |name: &str| {
            let mut lines = said.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim()
        };
        if value("LoadState") != "loaded" {
            return None;
        }
        let paths = |name: &str, below: &str| -> Vec<PathBuf> {
            let all = value(name).split_ascii_whitespace();
            // "-" and "+" are flags (systemd.exec(5)).
            all.map(|path| Path::new(below).join(path.trim_start_matches(['-', '+'])))
                .collect()
        };
        let mut writable = paths("ReadWritePaths", "/");
        writable.extend(paths("StateDirectory", "/var/lib"));
        writable.extend(paths("RuntimeDirectory", "/run"));
        writable.extend(paths("CacheDirectory", "/var/cache"));
        writable.extend(paths("LogsDirectory", "/var/log"));
        let groups = ["Group", "SupplementaryGroups"].into_iter();
        let groups = groups.flat_map(|name| value(name).split_ascii_whitespace());
        let arguments = value("ExecStart").split_ascii_whitespace();
        let config = arguments.skip_while(|word| *word != "--config").nth(1);
        let state = value("ActiveState");
        let failure = match (state, value("SubState"), value("NRestarts")) {
            ("failed", _, _) | (_, "auto-restart", _) => {
                Some(format!("{state} ({})", value("Result")))
            }
            // Being restarted.
            ("activating", _, again) if !matches!(again, "" | "0") => {
                Some(format!("{state} (restarted {again} times)"))
            }
            _ => None,
        };
        let user = value("User");
        Some(Unit {
            user: (!user.is_empty() && user != "root").then(|| user.to_owned()),
            groups: groups.map(str::to_owned).collect(),
            config: config.map(PathBuf::from),
            failure,
            last_error: None,
            home: value("ProtectHome").to_owned(),
            system: value("ProtectSystem").to_owned(),
            has_private_tmp: value("PrivateTmp") == "yes",
            hidden: paths("InaccessiblePaths", "/"),
            writable,
            read_only: paths("ReadOnlyPaths", "/"),
        })
    }

    /// Returns the setting that hides a file from the service.
    pub(super) fn hides(&self, path: &Path) -> Option<String> {
        const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
        let is_below = |all: &[&str]| all.iter().any(|above| path.starts_with(above));
        if matches!(self.home.as_str(), "yes" | "tmpfs") && is_below(&HOMES) {
            return Some(format!("ProtectHome={}", self.home));
        }
        if self.has_private_tmp && is_below(&["/tmp", "/var/tmp"]) {
            return Some("PrivateTmp=yes".into());
        }
        let mut hidden = self.hidden.iter();
        let hidden = hidden.find(|above| path.starts_with(above))?;
        Some(format!("InaccessiblePaths={}", hidden.display()))
    }

    /// Returns the setting that makes a directory read-only for the service.
    pub(super) fn keeps_from_writing(&self, path: &Path) -> Option<String> {
        // The most specific path applies.
        let depth = |all: &[PathBuf]| {
            let above = all.iter().filter(|above| path.starts_with(above));
            above.map(|above| above.components().count()).max()
        };
        let (writable, read_only) = (depth(&self.writable), depth(&self.read_only));
        if read_only > writable {
            return Some("ReadOnlyPaths=".into());
        }
        if writable.is_some() {
            return None;
        }
        let (protected, open): (&[&str], &[&str]) = match self.system.as_str() {
            "strict" => (&["/"], &["/dev", "/proc", "/sys"]),
            "full" => (&["/usr", "/boot", "/efi", "/etc"], &[]),
            "yes" => (&["/usr", "/boot", "/efi"], &[]),
            _ => (&[], &[]),
        };
        let is_below = |all: &[&str]| all.iter().any(|above| path.starts_with(above));
        if is_below(protected) && !is_below(open) {
            return Some(format!("ProtectSystem={}", self.system));
        }
        (self.home == "read-only" && is_below(&["/home", "/root", "/run/user"]))
            .then(|| "ProtectHome=read-only".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\n\
        User=copyist\nGroup=copyist\nSupplementaryGroups=ssl-cert mail\n\
        ExecStart={ path=/usr/bin/copyist ; argv[]=/usr/bin/copyist run --config /etc/copyist/copyist.toml ; ignore_errors=no ; start_time=[n/a] }\n\
        ProtectHome=yes\nProtectSystem=strict\nPrivateTmp=yes\nInaccessiblePaths=-/srv/private\nReadWritePaths=-/srv/spool\n\
        ReadOnlyPaths=/srv/spool/old\nStateDirectory=copyist\nRuntimeDirectory=copyist\n";

    #[test]
    fn a_unit_hides_files_and_restricts_writing() {
        let unit = Unit::parse(SHOWN).expect("it is loaded");
        assert_eq!(unit.user.as_deref(), Some("copyist"));
        assert_eq!(unit.groups, ["copyist", "ssl-cert", "mail"]);
        assert_eq!(unit.config, Some("/etc/copyist/copyist.toml".into()));
        assert_eq!(unit.failure.as_deref(), Some("activating (exit-code)"));
        for (path, hidden_by) in [
            ("/root/x", Some("ProtectHome=yes")),
            ("/home/a/x", Some("ProtectHome=yes")),
            ("/tmp/x", Some("PrivateTmp=yes")),
            ("/srv/private/x", Some("InaccessiblePaths=/srv/private")),
            ("/etc/copyist/x", None),
            ("/homes/x", None),
        ] {
            assert_eq!(unit.hides(Path::new(path)).as_deref(), hidden_by, "{path}");
        }
        for (path, kept_by) in [
            ("/var/lib/copyist", None),
            ("/run/copyist", None),
            ("/srv/spool/a", None),
            ("/srv/spool/old/a", Some("ReadOnlyPaths=")),
            ("/srv/other", Some("ProtectSystem=strict")),
            ("/var/lib/copyist2", Some("ProtectSystem=strict")),
        ] {
            let said = unit.keeps_from_writing(Path::new(path));
            assert_eq!(said.as_deref(), kept_by, "{path}");
        }
        let again = SHOWN.replace("auto-restart", "start\nNRestarts=3");
        let again = Unit::parse(&again).expect("it is loaded");
        let failure = again.failure.as_deref();
        assert_eq!(failure, Some("activating (restarted 3 times)"));
        assert_eq!(Unit::parse("LoadState=not-found\n"), None);
    }
}
