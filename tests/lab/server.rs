//! The interface of the directory servers, OpenLDAP and Active Directory, for the tests.

use std::path::PathBuf;
use std::time::Duration;

use copyist::directory::{
    Bind, CacheSettings, Inheritance, LdapSettings, Settings, Source, TargetSettings, WatchMode,
};
use copyist::secret::Secret;

/// A real directory server with made-up users.
///
/// User `n` is `u0000n`, with `mail: u0000n@example.test` and, among the `proxyAddresses`,
/// `user.n@example.test`.
pub trait DirectoryServer: Sized {
    /// Whether an ordinary account hears that an object was deleted.
    const TELLS_OF_DELETIONS: bool;

    /// A server whose users' `extensionAttribute10` is what `journal` gives for their number.
    fn start_with(users: usize, journal: impl Fn(usize) -> Option<String>) -> Self;

    /// A server with this many users, journaled as [`every_third`] says.
    fn start(users: usize) -> Self {
        Self::start_with(users, every_third)
    }

    /// How it is entered.
    fn access(&self) -> Access;

    /// A file that holds the agent's password and nothing else.
    fn password_file(&self) -> PathBuf;

    /// The lines of the table `[directory]` that lead to it, without those about time.
    fn settings(&self) -> String {
        let access = self.access();
        let mut settings = format!(
            "urls = [{:?}]\nbase = {:?}\nbind_password_file = {:?}\n",
            access.url,
            self.base(),
            self.password_file()
        );
        for (name, value) in [
            ("bind_dn", access.bind_dn),
            (
                "ca_file",
                access.ca_file.map(|path| path.display().to_string()),
            ),
        ] {
            settings += &value.map_or_else(String::new, |value| format!("{name} = {value:?}\n"));
        }
        settings
    }

    /// The base of all entries.
    fn base(&self) -> &'static str {
        "dc=example,dc=test"
    }

    /// The container of all users.
    fn people_dn(&self) -> String {
        let user = self.user_dn(0);
        let (_, container) = user.split_once(',').expect("a user is in it");
        container.to_owned()
    }

    /// A user's entry.
    fn user_dn(&self, user: usize) -> String;

    /// Changes the directory as an administrator does, by `ldapmodify`.
    fn modify(&self, ldif: &str);

    /// The same where the server may refuse; gives whether it did not.
    fn try_modify(&self, ldif: &str) -> bool;

    /// Adds a group below the base, with these members and these other attributes, and gives its
    /// DN.
    fn add_group(&self, name: &str, members: &[String], attributes: &[(&str, &str)]) -> String;

    /// Adds an object that is neither user nor group below the base, and gives its DN.
    fn add_contact(&self, name: &str, attributes: &[(&str, &str)]) -> String;

    /// Stops the server; its port refuses connections from then on.
    fn stop(&mut self);

    /// Starts it again on the same ports, with the same data.
    fn restart(&mut self);

    /// Gives a user this `extensionAttribute10`, or takes it away.
    fn set_journal(&self, user: usize, journal: Option<&str>) {
        let value = journal.map_or_else(String::new, |address| {
            format!("extensionAttribute10: {address}\n")
        });
        self.modify(&format!(
            "dn: {}\nchangetype: modify\nreplace: extensionAttribute10\n{value}",
            self.user_dn(user)
        ));
    }

    /// Lets a user log in.
    fn enable(&self, _user: usize) {}

    /// Gives an object this one value of an attribute.
    fn set_attribute(&self, dn: &str, attribute: &str, value: &str) {
        self.modify(&format!(
            "dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n"
        ));
    }

    /// Adds a member to a group.
    fn add_member(&self, group: &str, member: &str) {
        self.modify(&format!(
            "dn: {group}\nchangetype: modify\nadd: member\nmember: {member}\n"
        ));
    }
}

/// How a directory server is entered.
pub struct Access {
    /// Its URL.
    pub url: String,
    /// The authority that signed its certificate, where it has one.
    pub ca_file: Option<PathBuf>,
    /// The agent's account, which can only read.
    pub bind_dn: Option<String>,
    /// Its password.
    pub password: String,
}

impl Access {
    /// As nobody.
    pub fn anonymous(url: String) -> Access {
        Access {
            url,
            ca_file: None,
            bind_dn: None,
            password: String::new(),
        }
    }

    /// Settings with which the library enters it, everything else as it is by default.
    pub fn directory(self) -> Settings {
        let bind = self.bind_dn.map(|dn| Bind {
            dn,
            password: Secret::new(self.password),
        });
        Settings {
            source: Source::Ldap(LdapSettings {
                urls: vec![self.url],
                starttls: false,
                ca_file: self.ca_file,
                bind,
                gssapi: false,
                base: "dc=example,dc=test".into(),
                timeout: Duration::from_secs(5),
                watch: WatchMode::Auto,
                canary: None,
            }),
            address_attributes: vec!["mail".into(), "proxyAddresses".into()],
            journal_attributes: vec!["extensionAttribute10".into()],
            login_attributes: vec!["sAMAccountName".into(), "uid".into()],
            further_attributes: Vec::new(),
            exempt_attribute: None,
            inheritance: Inheritance::default(),
            targets: TargetSettings::default(),
            cache: CacheSettings::default(),
        }
    }
}

/// Every third user is journaled to `journal-0@archive.test` … `journal-9@archive.test`.
pub fn every_third(user: usize) -> Option<String> {
    user.is_multiple_of(3)
        .then(|| format!("journal-{}@archive.test", user % 10))
}

/// Attributes as lines of LDIF.
pub(super) fn lines(attributes: &[(&str, &str)]) -> String {
    let lines = attributes.iter();
    lines
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect()
}
