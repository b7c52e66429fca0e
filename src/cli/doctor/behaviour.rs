//! How Postfix uses the milter: its default action, timeouts, macros, and the order of milters.

use std::path::Path;
use std::time::Duration;

use super::finding::{Finding, Severity};
use super::milters::{self, Endpoint, Milter};
use super::postfix::{Postfix, Service, Values, duration, plain};
use super::routes::{find_copyist, shown};
use crate::config::Settings;
use crate::directory::Source;
use crate::hook::ListenAddress;
use crate::pipeline::RECIPIENT_WAIT;

/// The milter protocol version of Copyist; older ones hide the space after a field's colon.
const PROTOCOL: u64 = crate::milter::VERSION as u64;

/// The least connect timeout, for a machine under load.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest wait of a message for memory, during which Copyist does not reply
/// (docs/operation.md, `limits.memory`).
const ROOM: Duration = Duration::from_secs(30);

/// The margin of Postfix's timeouts over Copyist's.
const MARGIN: Duration = Duration::from_secs(1);

/// A service of Postfix with its list of milters.
struct MilterClient<'a> {
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
        let client = MilterClient {
            postfix,
            service,
            parameter,
            list,
        };
        found.extend(client.findings(settings));
    }
    found
}

impl MilterClient<'_> {
    fn findings(&self, settings: &Settings) -> Vec<Finding> {
        let Some((at, copyist)) = find_copyist(self.postfix, self.service, &self.list, settings)
        else {
            return Vec::new();
        };
        let mut found = Vec::new();
        found.extend(self.check_chroot(copyist, settings));
        found.extend(self.check_default_action(copyist));
        found.extend(self.check_protocol(copyist));
        found.extend(self.check_timeouts(copyist, settings));
        found.extend(self.check_macros(settings));
        if !settings.text.is_empty() {
            found.extend(self.check_order(at));
        }
        found
    }

    /// Finds a socket outside the directory where the service's processes look for it.
    fn check_chroot(&self, copyist: &Milter, settings: &Settings) -> Option<Finding> {
        let Some(Endpoint::Unix(path)) = milters::endpoint(&copyist.text) else {
            return None;
        };
        let looked_for = milters::seen_by(self.postfix, self.service, &path);
        let mut hooks = settings.hook.milter.iter();
        let found = hooks.any(|hook| match hook {
            ListenAddress::Unix(listen) => plain(listen) == plain(&looked_for),
            ListenAddress::Inet(_) => false,
        });
        let place = format!("{} {}", self.postfix.master(self.service), self.parameter);
        (!found).then(|| Finding {
            name: "socket-outside-chroot",
            severity: Severity::Warning,
            place,
            seen: match self.service.chroot {
                true => format!(
                    "the service is chrooted and looks for {} at {}",
                    path.display(),
                    looked_for.display()
                ),
                false => format!("the service looks for {}", looked_for.display()),
            },
            why: "Postfix cannot connect to Copyist and defers all mail".into(),
            fix: self.move_into_queue(copyist, settings),
        })
    }

    /// Returns the line and the command that move the socket into the queue directory, where every
    /// service finds it by a relative path, chrooted or not. A setgid directory gives the socket
    /// Postfix's group.
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

    /// Finds a default action that lets mail pass without a copy (postconf(5), milter_default_action).
    fn check_default_action(&self, copyist: &Milter) -> Option<Finding> {
        let action = copyist.setting("default_action", &self.service.values);
        let (name, severity, why) = match action {
            "accept" => (
                "milter-default-action",
                Severity::Error,
                "mail passes without a copy while Copyist is unavailable",
            ),
            "quarantine" => (
                "milter-default-action",
                Severity::Error,
                "mail is held while Copyist is unavailable, and passes without a copy when released",
            ),
            "reject" => (
                "milter-reject",
                Severity::Warning,
                "mail is rejected permanently, not deferred, while Copyist is unavailable",
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

    fn check_protocol(&self, copyist: &Milter) -> Option<Finding> {
        let version: u64 = copyist
            .setting("protocol", &self.service.values)
            .parse()
            .ok()?;
        let why = "older versions hide the space after a field's colon, so copies are not byte for byte identical";
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

    /// Finds timeouts shorter than Copyist's own, after which it would defer the message itself.
    fn check_timeouts(&self, copyist: &Milter, settings: &Settings) -> Vec<Finding> {
        let question = match &settings.directory.source {
            Source::Ldap(ldap) => ldap.max_wait(),
            Source::Ldif(_) => Duration::ZERO,
        };
        let needed = [
            ("connect_timeout", CONNECT, "a machine under load"),
            (
                "command_timeout",
                question.min(RECIPIENT_WAIT) + MARGIN,
                "a directory lookup (directory.timeout)",
            ),
            (
                "content_timeout",
                (question + MARGIN).max(ROOM + MARGIN),
                "waiting for memory or for the directory",
            ),
        ];
        let mut found = Vec::new();
        for (name, least, what) in needed {
            let given = duration(copyist.setting(name, &self.service.values));
            if given.is_some_and(|given| given < least) {
                let why = format!("{what} may take longer, so mail is deferred unnecessarily");
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

    /// Finds missing macros that Copyist needs (docs/hooks.md).
    fn check_macros(&self, settings: &Settings) -> Vec<Finding> {
        let values = &self.service.values;
        let needed = [
            (
                "milter_mail_macros",
                "{auth_authen}",
                Severity::Error,
                "authenticated remote users count as external senders, so no outbound copy is made of their mail",
            ),
            (
                "milter_mail_macros",
                "{mail_addr}",
                Severity::Error,
                "a sender that only Postfix can resolve (dan, dan%example.com@example.com) is not found in the directory",
            ),
            (
                "milter_rcpt_macros",
                "{rcpt_addr}",
                Severity::Error,
                "a recipient that only Postfix can resolve (dan, dan%example.com@example.com) is not found in the directory",
            ),
        ];
        let mut found = Vec::new();
        for (parameter, name, severity, why) in needed {
            if !lists_macro(values, parameter, name) {
                found.push(self.missing_macro(parameter, name, severity, why));
            }
        }
        let early = [
            "milter_connect_macros",
            "milter_helo_macros",
            "milter_mail_macros",
        ];
        let has_macro = |name| early.iter().any(|bundle| lists_macro(values, bundle, name));
        let is_smtp = self.parameter == "smtpd_milters";
        let trusts = !settings.rules.organization.trusted_certificates.is_empty();
        if trusts && is_smtp && !(has_macro("cert_subject") && has_macro("cert_issuer")) {
            let why = "clients with a trusted certificate count as external senders, so no outbound copy is made of their mail";
            let names = "{cert_subject} {cert_issuer}";
            found.push(self.missing_macro("milter_helo_macros", names, Severity::Error, why));
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
            let why = "neither the log nor reports can name Postfix's queue ID";
            found.push(self.missing_macro("milter_end_of_data_macros", "i", Severity::Hint, why));
        }
        found
    }

    fn missing_macro(&self, parameter: &str, name: &str, severity: Severity, why: &str) -> Finding {
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

    /// Finds a signing milter before Copyist, whose texts would break the signature.
    fn check_order(&self, copyist: usize) -> Option<Finding> {
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
                "{} signs before Copyist adds its text, which breaks the signature",
                signer.text
            ),
            fix: self.postfix.set(
                self.service,
                self.parameter,
                &format!("{ours}, {}", others.join(", ")),
            ),
        })
    }

    /// Builds a finding about a setting of the milter, its own or the parameter for all milters.
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
                let fixed = list.replacen(&copyist.written, &entry, 1);
                (
                    format!(
                        "{} {setting}",
                        self.postfix.place(self.service, self.parameter)
                    ),
                    self.postfix.set(self.service, self.parameter, &fixed),
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

/// Whether a list contains a macro; braces make no difference.
fn lists_macro(values: &Values, parameter: &str, name: &str) -> bool {
    let bare = |name: &str| name.trim_matches(['{', '}']).to_owned();
    values.list(parameter).any(|one| bare(one) == bare(name))
}
