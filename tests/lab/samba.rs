//! A real Samba Active Directory domain controller with made-up users.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use tempfile::TempDir;

use super::process::{Log, Program};
use super::server::{Access, lines};
use super::{
    Certificates, DOMAIN, DirectoryServer, PATIENCE, need, run, set_mode, succeeds, write,
};

const BASE: &str = "DC=example,DC=test";
const AGENT: &str = "copyist@example.test";
const ADMINISTRATOR: &str = "Administrator@EXAMPLE.TEST";
/// Both accounts have it: nothing here is worth two. The domain refuses simpler ones.
const PASSWORD: &str = "Lab-Passw0rd.1";
/// Samba can listen on no other ports than Active Directory's own, so each server has an address of
/// its own.
const PORTS: [u16; 4] = [389, 636, 3268, 3269];

/// A domain controller of its own, with Exchange's extension attributes in its schema.
///
/// Users are `CN=u00000,OU=people,…`. The agent is an ordinary account that binds by its
/// `userPrincipalName`, over TLS only, as Active Directory insists.
pub struct Samba {
    directory: TempDir,
    certificates: Certificates,
    address: Ipv4Addr,
    log: Log,
    running: Option<Program>,
    /// The provisioned domain that all servers of this program are copies of.
    _template: Arc<TempDir>,
}

impl Samba {
    /// `ldaps://127.77.…`, to be trusted with [`Samba::ca_file`].
    pub fn ldaps_url(&self) -> String {
        format!("ldaps://{}", self.address)
    }

    /// `ldap://127.77.…`, where only StartTLS makes a bind possible.
    pub fn url(&self) -> String {
        format!("ldap://{}", self.address)
    }

    /// `ldaps://127.77.…:3269`, the Global Catalog.
    pub fn catalog_url(&self) -> String {
        format!("ldaps://{}:3269", self.address)
    }

    /// The authority that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.certificates.ca()
    }

    /// Adds an account with this password, and gives its `userPrincipalName`.
    pub fn add_account(&self, name: &str, password: &str, attributes: &[(&str, &str)]) -> String {
        self.modify(&format!(
            "dn: CN={name},{BASE}\nchangetype: add\nobjectClass: user\nsAMAccountName: {name}\n\
             userPrincipalName: {name}@{DOMAIN}\nunicodePwd:: {}\n{}",
            quoted_utf16(password),
            lines(attributes)
        ));
        format!("{name}@{DOMAIN}")
    }

    /// Hides an attribute from everybody: of this object, or of all objects below it.
    pub fn hide_attribute(&self, dn: &str, attribute: &str, is_inherited: bool) {
        let flags = if is_inherited { "CIIO" } else { "" };
        let rule = format!("(OD;{flags};RP;{};;AU)", self.identifier(attribute));
        let database = self.directory.path().join("private/sam.ldb");
        run(Command::new(need("samba-tool", "samba"))
            .args(["dsacl", "set", "--action=deny"])
            .arg(format!("--configfile={}", self.config().display()))
            .arg(format!("--URL={}", database.display()))
            .arg(format!("--objectdn={dn}"))
            .arg(format!("--sddl={rule}")));
    }

    /// The identifier by which rights name an attribute.
    fn identifier(&self, attribute: &str) -> String {
        use base64::Engine as _;
        let output = run(self
            .client("ldapsearch", ADMINISTRATOR)
            .args(["-LLL", "-o", "ldif-wrap=no", "-b"])
            .arg(format!("CN=Schema,CN=Configuration,{BASE}"))
            .args([&format!("(lDAPDisplayName={attribute})"), "schemaIDGUID"]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("schemaIDGUID:: "));
        let bytes = base64::engine::general_purpose::STANDARD.decode(value.expect("it has one"));
        let bytes: [u8; 16] = bytes
            .ok()
            .and_then(|all| all.try_into().ok())
            .expect("16 bytes");
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
        let (fourth, last) = rest.split_at(4);
        let first = u32::from_le_bytes([a, b, c, d]);
        let (second, third) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
        format!("{first:08x}-{second:04x}-{third:04x}-{fourth}-{last}")
    }

    fn try_start(&mut self) -> bool {
        let run = self.directory.path().join("run");
        let program = Program::start(
            "samba",
            Command::new(need("samba", "samba"))
                .args(["--interactive", "--no-process-group", "--model=single"])
                .arg(format!("--configfile={}", self.config().display()))
                .arg(format!("--option=pid directory={}", run.display()))
                .arg(format!("--option=ncalrpc dir={}/ncalrpc", run.display())),
            &self.log,
        );
        let mut program = program;
        let deadline = Instant::now() + PATIENCE;
        // It says nothing when it is ready.
        while !self.answers() {
            let ended = program.wait(std::time::Duration::from_millis(20)).is_some();
            if ended || Instant::now() > deadline {
                return false;
            }
        }
        self.running = Some(program);
        true
    }

    fn answers(&self) -> bool {
        let search = self
            .client("ldapsearch", ADMINISTRATOR)
            .args(["-s", "base", "-b", BASE, "1.1"])
            .output();
        search.is_ok_and(|output| output.status.success())
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("etc/smb.conf")
    }

    fn client(&self, program: &str, who: &str) -> Command {
        let mut command = Command::new(need(program, "ldap-utils"));
        command
            .args(["-x", "-H", &self.ldaps_url(), "-D", who, "-y"])
            .arg(self.password_file())
            .env("LDAPCONF", self.directory.path().join("ldap.conf"));
        command
    }

    fn add(&self, dn: &str, class: &str, attributes: &str) {
        self.modify(&format!(
            "dn: {dn}\nchangetype: add\nobjectClass: {class}\n{attributes}"
        ));
    }
}

impl DirectoryServer for Samba {
    const TELLS_OF_DELETIONS: bool = false;

    fn start_with(users: usize, journal: impl Fn(usize) -> Option<String>) -> Samba {
        let template = template();
        let directory = tempfile::tempdir().expect("the system has a temporary directory");
        let path = directory.path().to_owned();
        let address = free_address();
        let names = format!("DNS:dc1.{DOMAIN},IP:{address}");
        let certificates = Certificates::make_for(&path, &names);
        run(Command::new("cp")
            .args(["-a", "--sparse=always"])
            .args([&template.path().join("."), &path]));
        for part in ["run", "run/ncalrpc", "log"] {
            std::fs::create_dir(path.join(part)).expect("the directory is new");
        }
        set_mode(&certificates.key(), 0o600);
        let samba = Samba {
            certificates,
            address,
            log: Log::default(),
            running: None,
            _template: template,
            directory,
        };
        write(&samba.config(), smb_conf(&samba));
        write(&samba.password_file(), PASSWORD);
        set_mode(&samba.password_file(), 0o600);
        let trust = format!("TLS_CACERT {}\n", samba.ca_file().display());
        write(&path.join("ldap.conf"), trust);
        ldb("ldbadd", &path, "people", &people(users, journal));
        let mut samba = samba;
        assert!(
            samba.try_start(),
            "samba does not start\n{}",
            samba.log.text()
        );
        samba
    }

    fn access(&self) -> Access {
        Access {
            url: self.ldaps_url(),
            ca_file: Some(self.ca_file()),
            bind_dn: Some(AGENT.to_owned()),
            password: PASSWORD.to_owned(),
        }
    }

    fn password_file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    fn user_dn(&self, user: usize) -> String {
        format!("CN=u{user:05},OU=people,{BASE}")
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

    fn enable(&self, user: usize) {
        // NORMAL_ACCOUNT and PASSWD_NOTREQD.
        self.set_attribute(&self.user_dn(user), "userAccountControl", "544");
    }

    fn add_group(&self, name: &str, members: &[String], attributes: &[(&str, &str)]) -> String {
        let dn = format!("CN={name},{BASE}");
        let members: Vec<(&str, &str)> = members.iter().map(|m| ("member", m.as_str())).collect();
        self.add(&dn, "group", &(lines(attributes) + &lines(&members)));
        dn
    }

    fn add_contact(&self, name: &str, attributes: &[(&str, &str)]) -> String {
        let dn = format!("CN={name},{BASE}");
        self.add(&dn, "contact", &lines(attributes));
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
            "samba does not start again\n{}",
            self.log.text()
        );
    }
}

/// An address of the loopback network on which nobody has Active Directory's ports.
fn free_address() -> Ipv4Addr {
    static LAST: Mutex<u32> = Mutex::new(0);
    let mut last = LAST.lock().expect("no test panics while it holds this");
    loop {
        *last += 1;
        // Test programs that run beside each other begin at different places.
        let spread = std::process::id().wrapping_mul(613).wrapping_add(*last);
        // No two of 254 * 256 in a row are the same: the first is given away before anybody listens
        // on it.
        let [high, low] = [spread / 254, spread % 254 + 1].map(|byte| byte.to_be_bytes()[3]);
        let address = Ipv4Addr::new(127, 77, high, low);
        let free = |port| TcpListener::bind((address, port)).is_ok();
        if PORTS.into_iter().all(free) {
            return address;
        }
    }
}

/// A provisioned domain with the schema that Exchange brings; made once while any server lives.
fn template() -> Arc<TempDir> {
    static TEMPLATE: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut known = (TEMPLATE.lock()).expect("no test panics while it holds this");
    if let Some(template) = known.upgrade() {
        return template;
    }
    let made = tempfile::tempdir().expect("the system has a temporary directory");
    let path = made.path();
    run(
        Command::new(need("samba-tool", "samba-ad-dc, samba-ad-provision"))
            .args(["domain", "provision", "--server-role=dc"])
            .args(["--realm=EXAMPLE.TEST", "--domain=EXAMPLE"])
            .args([
                "--host-name=dc1",
                "--host-ip=127.0.0.1",
                "--dns-backend=NONE",
            ])
            .arg(format!("--adminpass={PASSWORD}"))
            .arg(format!("--targetdir={}", path.display()))
            .arg(format!("--option=posix:eadb={}/eadb.tdb", path.display()))
            .args(["--option=panic action=", "--option=server services=ldap"]),
    );
    ldb("ldbadd", path, "attributes", &attributes());
    ldb("ldbmodify", path, "classes", &classes());
    let made = Arc::new(made);
    *known = Arc::downgrade(&made);
    made
}

/// Changes a domain whose server does not run.
fn ldb(program: &str, directory: &Path, name: &str, ldif: &str) {
    let file = directory.join(format!("{name}.ldif"));
    write(&file, ldif);
    run(Command::new(need(program, "ldb-tools"))
        .arg("-H")
        .arg(directory.join("private/sam.ldb"))
        .arg(format!(
            "--configfile={}",
            directory.join("etc/smb.conf").display()
        ))
        .arg("--option=dsdb:schema update allowed=true")
        .arg(file));
}

fn smb_conf(samba: &Samba) -> String {
    let path = samba.directory.path().display();
    format!(
        "[global]
netbios name = DC1
realm = EXAMPLE.TEST
workgroup = EXAMPLE
server role = active directory domain controller
server services = ldap
interfaces = {address}/8
bind interfaces only = yes
private dir = {path}/private
state directory = {path}/state
cache directory = {path}/cache
lock directory = {path}
binddns dir = {path}/bind-dns
posix:eadb = {path}/eadb.tdb
log file = {path}/log/samba
panic action =
tls enabled = yes
tls keyfile = {key}
tls certfile = {certificate}
tls cafile = {ca}
",
        address = samba.address,
        key = samba.certificates.key().display(),
        certificate = samba.certificates.certificate().display(),
        ca = samba.certificates.ca().display(),
    )
}

/// The attributes that Exchange adds and Copyist reads, under their own names and identifiers.
fn attributes() -> String {
    let mut ldif = String::new();
    let mut attribute = |cn: &str, name: &str, oid: &str| {
        let _ = write!(
            ldif,
            "dn: CN={cn},CN=Schema,CN=Configuration,{BASE}\nobjectClass: attributeSchema\n\
             attributeID: 1.2.840.113556.1.2.{oid}\nlDAPDisplayName: {name}\n\
             attributeSyntax: 2.5.5.12\noMSyntax: 64\nisSingleValued: TRUE\n\
             rangeLower: 1\nrangeUpper: 1024\nsearchFlags: 1\nisMemberOfPartialAttributeSet: TRUE\n\n"
        );
    };
    for n in 1..=15 {
        let oid = if n <= 10 { 422 + n } else { 588 + n };
        attribute(
            &format!("ms-Exch-Extension-Attribute-{n}"),
            &format!("extensionAttribute{n}"),
            &oid.to_string(),
        );
    }
    attribute("ms-Exch-Target-Address", "targetAddress", "352");
    ldif
}

fn classes() -> String {
    let names = (1..=15).map(|n| format!("mayContain: extensionAttribute{n}\n"));
    let names: String = names
        .chain(["mayContain: targetAddress\n".to_owned()])
        .collect();
    let classes = ["User", "Group", "Contact", "Organizational-Unit"];
    classes
        .map(|class| {
            format!(
                "dn: CN={class},CN=Schema,CN=Configuration,{BASE}\nchangetype: modify\nadd: mayContain\n{names}\n"
            )
        })
        .concat()
}

fn people(users: usize, journal: impl Fn(usize) -> Option<String>) -> String {
    let mut ldif = format!(
        "dn: OU=people,{BASE}\nobjectClass: organizationalUnit\n\n\
         dn: CN=Copyist,{BASE}\nobjectClass: user\nsAMAccountName: copyist\n\
         userPrincipalName: {AGENT}\nuserAccountControl: 512\nunicodePwd:: {}\n\n",
        quoted_utf16(PASSWORD)
    );
    for user in 0..users {
        let _ = write!(
            ldif,
            "dn: CN=u{user:05},OU=people,{BASE}\n\
             objectClass: user\n\
             sAMAccountName: u{user:05}\n\
             userAccountControl: 514\n\
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

/// A password as `unicodePwd` takes it ([MS-ADTS] section 3.1.1.3.1.5), in base64.
fn quoted_utf16(password: &str) -> String {
    use base64::Engine as _;
    let quoted = format!("\"{password}\"");
    let bytes: Vec<u8> = quoted.encode_utf16().flat_map(u16::to_le_bytes).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
