//! A real OpenLDAP server with made-up users.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::{Log, Program};
use super::server::{Access, lines};
use super::{
    Certificates, DOMAIN, DirectoryServer, PATIENCE, free_port, need, run, set_mode, succeeds,
    wait_for_listener, write,
};

const BASE: &str = "dc=example,dc=test";
const AGENT: &str = "cn=agent,dc=example,dc=test";
const ADMINISTRATOR: &str = "cn=admin,dc=example,dc=test";
/// Both accounts have it: nothing here is worth two.
const PASSWORD: &str = "lab password";

/// A `slapd` of its own, with Copyist's schema and the Exchange attributes that Copyist reads.
///
/// Users are `uid=u00000,ou=people,…` with `mail: u00000@example.test` and, among their
/// `proxyAddresses`, `user.0@example.test`. The agent's account may read what Copyist needs, and
/// nothing else; nobody else may read anything.
pub struct Slapd {
    directory: TempDir,
    certificates: Certificates,
    ports: Ports,
    log: Log,
    running: Option<Program>,
}

#[derive(Clone, Copy)]
struct Ports {
    ldap: u16,
    ldaps: u16,
}

impl Slapd {
    /// `ldap://127.0.0.1:…`
    pub fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.ports.ldap)
    }

    /// `ldaps://127.0.0.1:…`, to be trusted with [`Slapd::ca_file`].
    pub fn ldaps_url(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.ports.ldaps)
    }

    /// `ldapi://…`, the socket's path percent-encoded.
    pub fn ldapi_url(&self) -> String {
        let socket = self.directory.path().join("ldapi");
        format!(
            "ldapi://{}",
            socket.display().to_string().replace('/', "%2F")
        )
    }

    /// The authority that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.certificates.ca()
    }

    /// Lets the agent see that there are entries, but not their attributes, as an administrator's
    /// mistake might.
    pub fn hide_addresses(&self) {
        self.configure(&format!(
            "dn: olcDatabase={{1}}mdb,cn=config\nchangetype: modify\nreplace: olcAccess\n\
             olcAccess: to attrs=userPassword by anonymous auth by * none\n\
             olcAccess: to attrs=entry,children,objectClass by dn.exact={AGENT} read by * none\n\
             olcAccess: to * by * none\n"
        ));
    }

    /// Lets the agent read everything, but not this attribute.
    pub fn hide_attribute(&self, attribute: &str) {
        self.set_access(&[format!("to attrs={attribute} by * none")]);
    }

    /// Lets the agent read everything, but not this attribute of this object.
    pub fn hide_attribute_of(&self, dn: &str, attribute: &str) {
        self.set_access(&[format!("to dn.exact=\"{dn}\" attrs={attribute} by * none")]);
    }

    /// Lets the agent read everything, but find nothing by this attribute.
    pub fn let_read_and_not_search(&self, attribute: &str) {
        self.set_access(&[format!(
            "to attrs={attribute} by dn.exact={AGENT} =rd by * none"
        )]);
    }

    /// Lets the agent read everything.
    pub fn show_everything(&self) {
        self.set_access(&[]);
    }

    /// Has these rules stand before one that lets the agent read everything.
    fn set_access(&self, rules: &[String]) {
        let rules: String = rules
            .iter()
            .map(|rule| format!("olcAccess: {rule}\n"))
            .collect();
        self.configure(&format!(
            "dn: olcDatabase={{1}}mdb,cn=config\nchangetype: modify\nreplace: olcAccess\n\
             olcAccess: to attrs=userPassword by anonymous auth by * none\n{rules}\
             olcAccess: to * by dn.exact={AGENT} read by * none\n"
        ));
    }

    /// Lets the agent read all entries, but not how far the server's changes are.
    pub fn hide_change_numbers(&self) {
        self.configure(&format!(
            "dn: olcDatabase={{1}}mdb,cn=config\nchangetype: modify\nreplace: olcAccess\n\
             olcAccess: to attrs=userPassword by anonymous auth by * none\n\
             olcAccess: to attrs=contextCSN by * none\n\
             olcAccess: to * by dn.exact={AGENT} read by * none\n"
        ));
    }

    /// Lets the agent read the server's own configuration, and leaves indexes of these attributes
    /// alone.
    pub fn show_that_nothing_is_indexed_but(&self, attributes: &str) {
        self.configure(&format!(
            "dn: olcDatabase={{0}}config,cn=config\nchangetype: modify\nreplace: olcAccess\n\
             olcAccess: to * by dn.exact={AGENT} read by * none\n\n\
             dn: olcDatabase={{1}}mdb,cn=config\nchangetype: modify\nreplace: olcDbIndex\n\
             olcDbIndex: objectClass,{attributes} eq\n"
        ));
    }

    /// The certificate that it shows, for a restart with another one.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Lets the agent read no more than so many entries by one search, pages or not, as OpenLDAP
    /// does by default.
    pub fn limit_long_answers(&self, entries: usize) {
        self.configure(&format!(
            "dn: olcDatabase={{1}}mdb,cn=config\nchangetype: modify\nreplace: olcLimits\n\
             olcLimits: dn.exact={AGENT} size={entries}\n"
        ));
    }

    /// Changes its configuration while it runs.
    fn configure(&self, ldif: &str) {
        let file = self.directory.path().join("configure.ldif");
        write(&file, ldif);
        run(Command::new(need("ldapmodify", "ldap-utils"))
            .args(["-x", "-H", &self.url(), "-D", "cn=config", "-y"])
            .arg(self.password_file())
            .env("LDAPNOINIT", "1")
            .arg("-f")
            .arg(&file));
    }

    /// Returns the agent's view as LDIF, by `ldapsearch`.
    pub fn search(&self, filter: &str, attributes: &[&str]) -> String {
        let output = run(self
            .client("ldapsearch", AGENT)
            .args(["-LLL", "-o", "ldif-wrap=no", "-b", BASE, filter])
            .args(attributes));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Stops the server without letting it finish anything.
    pub fn kill9(&mut self) {
        self.running = None;
    }

    fn try_start(&mut self) -> bool {
        let from = self.log.length();
        let program = Program::start(
            "slapd",
            Command::new(need("slapd", "slapd"))
                // Stay in the foreground and print only what is always printed: "slapd starting",
                // which comes when all addresses are bound, or why it cannot start.
                .args(["-d", "none", "-h"])
                .arg(format!(
                    "{} {} {}",
                    self.url(),
                    self.ldaps_url(),
                    self.ldapi_url()
                ))
                .arg("-F")
                .arg(self.directory.path().join("config")),
            &self.log,
        );
        let up = self.log.wait_for(from, PATIENCE, |line| {
            line.contains("slapd starting").then_some(())
        });
        if up.is_err() {
            return false;
        }
        self.running = Some(program);
        // It listens a moment after it says that it starts.
        wait_for_listener(self.ports.ldap);
        wait_for_listener(self.ports.ldaps);
        true
    }

    fn client(&self, program: &str, who: &str) -> Command {
        let mut command = Command::new(need(program, "ldap-utils"));
        command
            .args(["-x", "-H", &self.url(), "-D", who, "-y"])
            .arg(self.password_file())
            // Nothing of this machine's own ldap.conf.
            .env("LDAPNOINIT", "1");
        command
    }
}

impl DirectoryServer for Slapd {
    const TELLS_OF_DELETIONS: bool = true;

    fn start_with(users: usize, journal: impl Fn(usize) -> Option<String>) -> Slapd {
        need("ldapmodify", "ldap-utils");
        let directory = tempfile::tempdir().expect("the system has a temporary directory");
        let certificates = Certificates::make(directory.path());
        let password_file = directory.path().join("password");
        // Without a newline: ldapmodify -y takes the whole file for the password.
        write(&password_file, PASSWORD);
        set_mode(&password_file, 0o600);
        for part in ["config", "data"] {
            std::fs::create_dir(directory.path().join(part)).expect("the directory is new");
        }
        let load = |database: &str, name: &str, ldif: String| {
            let file = directory.path().join(name);
            write(&file, ldif);
            run(Command::new(need("slapadd", "slapd"))
                .args(["-q", "-n", database, "-F"])
                .arg(directory.path().join("config"))
                .arg("-l")
                .arg(&file));
        };
        load("0", "config.ldif", config(directory.path(), &certificates));
        load("1", "people.ldif", people(users, journal));
        let mut slapd = Slapd {
            directory,
            certificates,
            ports: Ports { ldap: 0, ldaps: 0 },
            log: Log::default(),
            running: None,
        };
        // A port that was free may be taken by now.
        let started = (0..10).any(|_| {
            slapd.ports = Ports {
                ldap: free_port(),
                ldaps: free_port(),
            };
            slapd.try_start()
        });
        assert!(started, "slapd does not start\n{}", slapd.log.text());
        slapd
    }

    fn access(&self) -> Access {
        Access {
            url: self.url(),
            ca_file: None,
            bind_dn: Some(AGENT.to_owned()),
            password: PASSWORD.to_owned(),
        }
    }

    fn password_file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    fn user_dn(&self, user: usize) -> String {
        format!("uid=u{user:05},ou=people,{BASE}")
    }

    fn modify(&self, ldif: &str) {
        let file = self.directory.path().join("change.ldif");
        write(&file, ldif);
        run(self
            .client("ldapmodify", ADMINISTRATOR)
            .arg("-f")
            .arg(&file));
    }

    fn try_modify(&self, ldif: &str) -> bool {
        let file = self.directory.path().join("change.ldif");
        write(&file, ldif);
        let mut modify = self.client("ldapmodify", ADMINISTRATOR);
        succeeds(modify.arg("-f").arg(&file))
    }

    fn add_group(&self, name: &str, members: &[String], attributes: &[(&str, &str)]) -> String {
        let dn = format!("cn={name},{BASE}");
        let members: Vec<(&str, &str)> = members.iter().map(|m| ("member", m.as_str())).collect();
        self.modify(&format!(
            "dn: {dn}\nchangetype: add\nobjectClass: groupOfNames\nobjectClass: exchangeRecipient\n{}{}",
            lines(attributes),
            lines(&members)
        ));
        dn
    }

    fn add_contact(&self, name: &str, attributes: &[(&str, &str)]) -> String {
        let dn = format!("cn={name},{BASE}");
        self.modify(&format!(
            "dn: {dn}\nchangetype: add\nobjectClass: device\nobjectClass: exchangeRecipient\n{}",
            lines(attributes)
        ));
        dn
    }

    fn stop(&mut self) {
        if let Some(mut program) = self.running.take() {
            program.terminate();
        }
    }

    fn restart(&mut self) {
        self.stop();
        assert!(
            self.try_start(),
            "slapd does not start again\n{}",
            self.log.text()
        );
    }
}

/// The server's configuration, as LDIF of `cn=config`.
fn config(directory: &Path, certificates: &Certificates) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let schemas = ["core", "cosine", "inetorgperson", "nis", "dyngroup"]
        .map(|name| PathBuf::from(format!("/etc/ldap/schema/{name}.ldif")))
        .into_iter()
        .chain([
            root.join("schemas/openldap/copyist.ldif"),
            root.join("tests/lab/exchange.ldif"),
        ])
        .fold(String::new(), |mut includes, file| {
            let _ = writeln!(includes, "include: file://{}", file.display());
            includes
        });
    format!(
        "dn: cn=config
objectClass: olcGlobal
cn: config
olcTLSCACertificateFile: {ca}
olcTLSCertificateFile: {certificate}
olcTLSCertificateKeyFile: {key}

dn: cn=module,cn=config
objectClass: olcModuleList
cn: module
olcModulePath: /usr/lib/ldap
olcModuleLoad: back_mdb
olcModuleLoad: syncprov

dn: cn=schema,cn=config
objectClass: olcSchemaConfig
cn: schema

{schemas}
dn: olcDatabase={{0}}config,cn=config
objectClass: olcDatabaseConfig
olcDatabase: {{0}}config
olcRootDN: cn=config
olcRootPW: {PASSWORD}

dn: olcDatabase=mdb,cn=config
objectClass: olcDatabaseConfig
objectClass: olcMdbConfig
olcDatabase: mdb
olcSuffix: {BASE}
olcRootDN: {ADMINISTRATOR}
olcRootPW: {PASSWORD}
olcDbDirectory: {data}
olcDbMaxSize: 17179869184
olcDbNoSync: TRUE
olcLimits: dn.exact={AGENT} size.pr=1000 size.prtotal=unlimited
olcDbIndex: objectClass eq
olcDbIndex: mail,proxyAddresses,userPrincipalName,targetAddress,mailLocalAddress eq
olcDbIndex: extensionAttribute10 eq,pres
olcDbIndex: legacyExchangeDN eq
olcAccess: to attrs=userPassword by anonymous auth by * none
olcAccess: to attrs=entry,children,objectClass,mail,@exchangeRecipient,@copyistJournaledObject,member,uniqueMember,memberUid,memberURL,uid,contextCSN,entryCSN,modifyTimestamp
  by dn.exact={AGENT} read by * none
olcAccess: to * by * none

dn: olcOverlay=syncprov,olcDatabase={{1}}mdb,cn=config
objectClass: olcOverlayConfig
objectClass: olcSyncProvConfig
olcOverlay: syncprov
",
        ca = certificates.ca().display(),
        certificate = certificates.certificate().display(),
        key = certificates.key().display(),
        data = directory.join("data").display(),
    )
}

/// The tree and its users, as LDIF.
fn people(users: usize, journal: impl Fn(usize) -> Option<String>) -> String {
    let mut ldif = format!(
        "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n\
         dn: ou=people,{BASE}\nobjectClass: organizationalUnit\nobjectClass: exchangeRecipient\nou: people\n\n\
         dn: {AGENT}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\n\
         cn: agent\nuserPassword: {PASSWORD}\n\n"
    );
    for user in 0..users {
        let _ = write!(
            ldif,
            "dn: uid=u{user:05},ou=people,{BASE}\n\
             objectClass: inetOrgPerson\n\
             objectClass: exchangeRecipient\n\
             uid: u{user:05}\n\
             cn: User {user}\n\
             sn: User {user}\n\
             mail: u{user:05}@{DOMAIN}\n\
             userPrincipalName: u{user:05}@{DOMAIN}\n\
             proxyAddresses: SMTP:u{user:05}@{DOMAIN}\n\
             proxyAddresses: smtp:user.{user}@{DOMAIN}\n\
             legacyExchangeDN: /o=Example/ou=Exchange/cn=Recipients/cn=u{user:05}\n"
        );
        if let Some(address) = journal(user) {
            let _ = writeln!(ldif, "extensionAttribute10: {address}");
        }
        ldif.push('\n');
    }
    ldif
}
