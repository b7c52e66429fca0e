//! How Postfix behaves towards the milter: what it does when Copyist does not answer, how long it
//! waits, what it tells, and in which order it asks.

use std::path::Path;
use std::time::Duration;

use super::finding::{Finding, Severity};
use super::milters::{self, Endpoint, Milter};
use super::postfix::{Postfix, Service, Values, duration, plain};
use super::routes::{copyists, shown};
use crate::config::Settings;
use crate::directory::Source;
use crate::hook::Listen;
use crate::pipeline::RECIPIENT_WAIT;

/// The protocol that Copyist speaks; before it, fields come without the space behind their colon.
const PROTOCOL: u64 = crate::milter::VERSION as u64;

/// What a machine that is busy for a moment takes to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a message may wait for room in memory, which is the longest that Copyist says nothing
/// (docs/operation.md, `limits.memory`).
const ROOM: Duration = Duration::from_secs(30);

/// How many seconds more than Copyist needs Postfix should have.
const MARGIN: Duration = Duration::from_secs(1);

/// A service that asks Copyist, and the list that it stands in.
struct Asking<'a> {
    postfix: &'a Postfix,
    service: &'a Service,
    parameter: &'static str,
    list: Vec<Milter>,
}

pub(super) fn findings(postfix: &Postfix, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    let smtp = postfix.listeners().map(|one| (one, "smtpd_milters"));
    let others = postfix
        .services
        .iter()
        .filter(|one| one.program == "cleanup");
    for (service, parameter) in smtp.chain(others.map(|one| (one, "non_smtpd_milters"))) {
        let list = milters::parse(service.values.get(parameter));
        let asking = Asking {
            postfix,
            service,
            parameter,
            list,
        };
        found.extend(asking.findings(settings));
    }
    found
}

impl Asking<'_> {
    fn findings(&self, settings: &Settings) -> Vec<Finding> {
        let Some((at, copyist)) = copyists(self.postfix, self.service, &self.list, settings) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        found.extend(self.chroot(copyist, settings));
        found.extend(self.default_action(copyist));
        found.extend(self.protocol(copyist));
        found.extend(self.timeouts(copyist, settings));
        found.extend(self.macros(settings));
        if !settings.text.is_empty() {
            found.extend(self.order(at));
        }
        found
    }

    /// A socket that the service's processes look for in the queue directory, and that stands
    /// elsewhere.
    fn chroot(&self, copyist: &Milter, settings: &Settings) -> Option<Finding> {
        let Some(Endpoint::Unix(path)) = milters::endpoint(&copyist.text) else {
            return None;
        };
        let looked_for = milters::seen_by(self.postfix, self.service, &path);
        let mut hooks = settings.hook.milter.iter();
        let found = hooks.any(|hook| match hook {
            Listen::Unix(listen) => plain(listen) == plain(&looked_for),
            Listen::Inet(_) => false,
        });
        let place = format!("{} {}", self.postfix.master(self.service), self.parameter);
        (!found).then(|| Finding {
            name: "socket-outside-chroot",
            severity: Severity::Warning,
            place,
            seen: match self.service.chroot {
                true => format!(
                    "the service is chrooted, and looks for {} as {}",
                    path.display(),
                    looked_for.display()
                ),
                false => format!("the service looks for {}", looked_for.display()),
            },
            why: "Postfix cannot ask Copyist, and defers all mail".into(),
            fix: self.move_into_queue(copyist, settings),
        })
    }

    /// The line and the command that move the socket to where every service finds it, chrooted or
    /// not: into the queue directory, by a relative path. A directory with the setgid bit gives the
    /// socket Postfix's group.
    fn move_into_queue(&self, copyist: &Milter, settings: &Settings) -> String {
        let postfix = self.postfix;
        let queue = Path::new(postfix.values.get("queue_directory"));
        let (dir, user) = (queue.join("copyist"), postfix.values.get("mail_owner"));
        let (dir, state) = (dir.display(), settings.state_dir.display());
        let list = self.service.values.get(self.parameter);
        let list = list.replace(&copyist.text, "unix:copyist/milter.sock");
        let make = format!(
            "install -d -o \"$(stat -c %U {state})\" -g \"$(id -gn {user})\" -m 2750 {dir}"
        );
        format!(
            "listen = [\"unix:{dir}/milter.sock\"] in [hook.milter], and: {make} && {} && systemctl restart copyist",
            postfix.set(self.service, self.parameter, &list)
        )
    }

    /// postconf(5), milter_default_action: "accept" and "quarantine" let mail go on.
    fn default_action(&self, copyist: &Milter) -> Option<Finding> {
        let action = copyist.setting("default_action", &self.service.values);
        let (name, severity, why) = match action {
            "accept" => (
                "milter-default-action",
                Severity::Error,
                "while Copyist does not answer, mail passes without its copy",
            ),
            "quarantine" => (
                "milter-default-action",
                Severity::Error,
                "while Copyist does not answer, mail is put on hold, and passes without its copy when it is released",
            ),
            "reject" => (
                "milter-reject",
                Severity::Warning,
                "while Copyist does not answer, mail is refused for good instead of deferred",
            ),
            _ => return None,
        };
        Some(self.setting(
            copyist,
            "default_action",
            name,
            severity,
            why.into(),
            "tempfail",
        ))
    }

    fn protocol(&self, copyist: &Milter) -> Option<Finding> {
        let version: u64 = copyist
            .setting("protocol", &self.service.values)
            .parse()
            .ok()?;
        let why = "older versions hide the space behind the colon of a field: a copy is not byte for byte what came in";
        (version < PROTOCOL).then(|| {
            let value = PROTOCOL.to_string();
            self.setting(
                copyist,
                "protocol",
                "milter-protocol",
                Severity::Warning,
                why.into(),
                &value,
            )
        })
    }

    /// Postfix must wait for longer than Copyist takes to say that it does not know.
    fn timeouts(&self, copyist: &Milter, settings: &Settings) -> Vec<Finding> {
        let question = match &settings.directory.source {
            Source::Ldap(ldap) => ldap.max_wait(),
            Source::Ldif(_) => Duration::ZERO,
        };
        let needed = [
            (
                "connect_timeout",
                CONNECT,
                "a machine that is busy for a moment",
            ),
            (
                "command_timeout",
                question.min(RECIPIENT_WAIT) + MARGIN,
                "a question to the directory (directory.timeout)",
            ),
            (
                "content_timeout",
                (question + MARGIN).max(ROOM + MARGIN),
                "Copyist's wait for memory or for the directory",
            ),
        ];
        let mut found = Vec::new();
        for (name, least, what) in needed {
            let given = duration(copyist.setting(name, &self.service.values));
            if given.is_some_and(|given| given < least) {
                let why = format!("{what} may take longer, and mail is deferred without need");
                let value = format!("{}s", least.as_secs().max(30));
                found.push(self.setting(
                    copyist,
                    name,
                    "milter-timeout",
                    Severity::Warning,
                    why,
                    &value,
                ));
            }
        }
        found
    }

    /// The macros that Copyist looks at: see docs/hooks.md.
    fn macros(&self, settings: &Settings) -> Vec<Finding> {
        let values = &self.service.values;
        let needed = [
            (
                "milter_mail_macros",
                "{auth_authen}",
                Severity::Error,
                "who has logged in from elsewhere counts as an outsider, and what he sends out has no copy",
            ),
            (
                "milter_mail_macros",
                "{mail_addr}",
                Severity::Error,
                "a sender that only Postfix can read (dan, dan%example.com@example.com) is not found in the directory",
            ),
            (
                "milter_rcpt_macros",
                "{rcpt_addr}",
                Severity::Error,
                "a recipient that only Postfix can read (dan, dan%example.com@example.com) is not found in the directory",
            ),
        ];
        let mut found = Vec::new();
        for (parameter, name, severity, why) in needed {
            if !lists_macro(values, parameter, name) {
                found.push(self.lacking(parameter, name, severity, why));
            }
        }
        let early = [
            "milter_connect_macros",
            "milter_helo_macros",
            "milter_mail_macros",
        ];
        let are_told = |name| early.iter().any(|bundle| lists_macro(values, bundle, name));
        let is_smtp = self.parameter == "smtpd_milters";
        let trusts = !settings.rules.organization.trusted_certificates.is_empty();
        if trusts && is_smtp && !(are_told("cert_subject") && are_told("cert_issuer")) {
            let why = "who is let in by a certificate counts as an outsider, and what he sends out has no copy";
            let names = "{cert_subject} {cert_issuer}";
            found.push(self.lacking("milter_helo_macros", names, Severity::Error, why));
        }
        let bundles = [
            "milter_rcpt_macros",
            "milter_data_macros",
            "milter_end_of_header_macros",
            "milter_end_of_data_macros",
        ];
        if !bundles
            .iter()
            .any(|bundle| lists_macro(values, bundle, "i"))
        {
            let why = "neither log nor reports can name Postfix's queue id";
            found.push(self.lacking("milter_end_of_data_macros", "i", Severity::Hint, why));
        }
        found
    }

    fn lacking(&self, parameter: &str, name: &str, severity: Severity, why: &str) -> Finding {
        let value = self.service.values.get(parameter);
        Finding {
            name: "milter-macros",
            severity,
            place: self.postfix.place(self.service, parameter),
            seen: format!("lacks {name}"),
            why: why.into(),
            fix: self
                .postfix
                .set(self.service, parameter, format!("{value} {name}").trim()),
        }
    }

    /// A text that is put in after a signature was made breaks it.
    fn order(&self, copyist: usize) -> Option<Finding> {
        let signer = self.list[..copyist].iter().find(|one| one.signs())?;
        let value = self.service.values.get(self.parameter);
        let ours = &self.list[copyist].written;
        let others: Vec<&str> = (self.list.iter().map(|one| one.written.as_str()))
            .filter(|entry| entry != ours)
            .collect();
        Some(Finding {
            name: "milter-after-signer",
            severity: Severity::Warning,
            place: self.postfix.place(self.service, self.parameter),
            seen: shown(value),
            why: format!(
                "{} signs before Copyist puts its text in, which breaks the signature",
                signer.text
            ),
            fix: self.postfix.set(
                self.service,
                self.parameter,
                &format!("{ours}, {}", others.join(", ")),
            ),
        })
    }

    /// A setting of the milter, its own or the parameter for all of them.
    fn setting(
        &self,
        copyist: &Milter,
        setting: &str,
        name: &'static str,
        severity: Severity,
        why: String,
        value: &str,
    ) -> Finding {
        let parameter = format!("milter_{setting}");
        let (place, fix) = match copyist.own(setting) {
            Some(old) => {
                let list = self.service.values.get(self.parameter);
                let entry = copyist.written.replacen(old, value, 1);
                let mended = list.replacen(&copyist.written, &entry, 1);
                (
                    format!(
                        "{} {setting}",
                        self.postfix.place(self.service, self.parameter)
                    ),
                    self.postfix.set(self.service, self.parameter, &mended),
                )
            }
            None => (
                self.postfix.place(self.service, &parameter),
                self.postfix.set(self.service, &parameter, value),
            ),
        };
        Finding {
            name,
            severity,
            place,
            seen: shown(copyist.setting(setting, &self.service.values)),
            why,
            fix,
        }
    }
}

/// Braces around a name of one letter, or none around a longer one, make no difference.
fn lists_macro(values: &Values, parameter: &str, name: &str) -> bool {
    let bare = |name: &str| name.trim_matches(['{', '}']).to_owned();
    values.list(parameter).any(|one| bare(one) == bare(name))
}
