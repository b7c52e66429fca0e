//! A real OpenLDAP server of its own for one test: OpenLDAP's `slapd` and `slapadd` must be
//! installed.
//!
//! Configuration and people stand beside this file. The process ends with its [`Slapd`].

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const CONFIG: &str = include_str!("config.ldif");
const PEOPLE: &str = include_str!("people.ldif");

/// Further people `u0@example.test`, `u1@…`, and more objects with `all@example.test` than the
/// server gives at once.
const USERS: usize = 200;
const OWNERS_OF_ALL: usize = 151;

pub(crate) struct Slapd {
    dir: TempDir,
    port: u16,
    tls_port: u16,
    tls: bool,
    log: Arc<Mutex<Vec<String>>>,
    process: Option<Child>,
}

impl Slapd {
    /// Starts one that speaks plain LDAP and listens on a socket.
    pub(crate) fn start() -> Slapd {
        Slapd::prepare(false)
    }

    /// Starts one that speaks TLS too, with a certificate by the CA in [`Slapd::ca_file`].
    pub(crate) fn start_with_tls() -> Slapd {
        Slapd::prepare(true)
    }

    fn prepare(tls: bool) -> Slapd {
        let mut slapd = Slapd {
            dir: TempDir::new().expect("a directory"),
            port: free_port(),
            tls_port: free_port(),
            tls,
            log: Arc::default(),
            process: None,
        };
        let dir = slapd.dir.path().to_owned();
        for sub in ["config", "db"] {
            fs::create_dir(dir.join(sub)).expect("a directory");
        }
        let mut lines = String::new();
        if tls {
            certificates(&dir);
            for (key, file) in [
                ("CertificateFile", "server.pem"),
                ("CertificateKeyFile", "server.key"),
            ] {
                let path = dir.join(file);
                writeln!(lines, "olcTLS{key}: {}", path.display()).expect("text");
            }
        }
        let config = CONFIG
            .replace("@TLS@\n", &format!("{lines}\n"))
            .replace("@DIR@", &dir.display().to_string());
        slapd.add(0, &config);
        slapd.add(1, &people());
        slapd.start_again();
        slapd
    }

    fn add(&self, database: u8, ldif: &str) {
        let file = self.dir.path().join(format!("{database}.ldif"));
        fs::write(&file, ldif).expect("a file");
        let mut slapadd = Command::new("/usr/sbin/slapadd");
        slapadd.args(["-q", "-n", &database.to_string(), "-F"]);
        slapadd
            .arg(self.dir.path().join("config"))
            .arg("-l")
            .arg(file);
        run(slapadd);
    }

    /// Starts it on the same ports, with the same people.
    pub(crate) fn start_again(&mut self) {
        let mut urls = format!("{} {}", self.url(), self.socket_url());
        if self.tls {
            urls = format!("{urls} {}", self.tls_url());
        }
        let mut process = Command::new("/usr/sbin/slapd")
            .args(["-d", "stats", "-h", &urls, "-F"])
            .arg(self.dir.path().join("config"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("slapd runs (is it installed?)");
        let errors = process.stderr.take().expect("piped");
        self.process = Some(process);
        self.follow(errors);
        until(|| TcpStream::connect(self.address()).is_ok());
        until(|| UnixStream::connect(self.dir.path().join("ldapi")).is_ok());
        until(|| !self.tls || TcpStream::connect(("127.0.0.1", self.tls_port)).is_ok());
    }

    /// Waits for slapd to say that it starts, just before it listens, and goes on reading what it
    /// says.
    fn follow(&self, errors: ChildStderr) {
        let mut lines = BufReader::new(errors).lines();
        let mut said = Vec::new();
        loop {
            let line = lines.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("slapd did not start: {said:#?}"));
            if line.contains("slapd starting") {
                break;
            }
            said.push(line);
        }
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.lock().expect("not poisoned").push(line);
            }
        });
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("ended");
        }
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("running");
        let mut kill = Command::new("kill");
        kill.args([format!("-{name}"), process.id().to_string()]);
        run(kill);
        // The signal is sent; a thread on another processor may still answer one question before it
        // stops.
        let stat = format!("/proc/{}/stat", process.id());
        let stopped = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
        while name == "STOP" && !stopped() {
            std::thread::yield_now();
        }
    }

    /// Where it speaks LDAP.
    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("ldap://{}", self.address())
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.tls_port)
    }

    pub(crate) fn socket_url(&self) -> String {
        let path = self.dir.path().join("ldapi");
        format!("ldapi://{}", path.display().to_string().replace('/', "%2F"))
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// How many lines of its log hold this text.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let log = self.log.lock().expect("not poisoned");
        log.iter().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port nobody listens on, and none that a test before got. It lies below those that systems give
/// to clients: until the server has it, nobody else takes it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Several test processes may run at once.
    let first = u16::try_from(std::process::id() % 200).expect("small") * 100;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000)
        .find(is_free)
        .expect("a free port")
}

/// Waits for what another process does without telling.
fn until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "slapd does not listen"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn people() -> String {
    let mut text = PEOPLE.to_owned();
    let users = (0..USERS).map(|n| (format!("u{n}"), format!("u{n}@example.test")));
    let all = (0..OWNERS_OF_ALL).map(|n| (format!("all{n}"), "all@example.test".to_owned()));
    for (name, mail) in users.chain(all) {
        writeln!(
            text,
            "dn: cn={name},dc=example,dc=test\nobjectClass: inetOrgPerson\ncn: {name}\nsn: {name}\nmail: {mail}\n"
        )
        .expect("text");
    }
    text
}

/// A CA, another one, and a server certificate by the first.
fn certificates(dir: &Path) {
    for name in ["ca", "other"] {
        let mut openssl = openssl(dir);
        openssl.args(["req", "-x509", "-nodes", "-days", "2"]);
        openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args([
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &format!("{name}.key"),
        ]);
        openssl.args(["-out", &format!("{name}.pem")]);
        openssl.args(["-addext", "basicConstraints=critical,CA:TRUE"]);
        run(openssl);
    }
    let mut request = openssl(dir);
    request.args(["req", "-new", "-nodes", "-newkey", "ec"]);
    request.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=server"]);
    request.args(["-keyout", "server.key", "-out", "server.csr"]);
    run(request);
    // Without extensions the certificate would be of version 1, which rustls refuses.
    fs::write(dir.join("server.ext"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
    let mut sign = openssl(dir);
    sign.args([
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
    ]);
    sign.args([
        "-set_serial",
        "1",
        "-days",
        "2",
        "-extfile",
        "server.ext",
        "-out",
        "server.pem",
    ]);
    run(sign);
}

fn openssl(dir: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(dir);
    command
}

fn run(mut command: Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be run (is it installed?): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}
