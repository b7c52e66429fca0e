//! A real Postfix with its own queue, beside whatever mail system the machine has.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::process::{Log, Program, children, signal_process};
use super::{DOMAIN, PATIENCE, free_port, need, open_directory, set_mode, write};

/// Where Debian keeps Postfix's daemons.
const DAEMONS: &str = "/usr/lib/postfix/sbin";

/// How a Postfix is to be.
pub struct PostfixOptions {
    /// The milter of both doors, SMTP and `sendmail`, in Postfix's words: `inet:127.0.0.1:8891`.
    pub milter: Option<String>,
    /// Where all mail goes that it accepted.
    pub deliver_to: SocketAddr,
    /// More lines for `main.cf`.
    pub extra: Vec<String>,
}

/// A Postfix instance: it accepts mail for anybody from any loopback address, asks the milter, and
/// hands it on to one SMTP server.
pub struct Postfix {
    directory: TempDir,
    address: SocketAddr,
    services: String,
    log: Log,
    running: Option<Program>,
}

impl Postfix {
    /// Starts an instance; panics when not root, for Postfix cannot run otherwise.
    pub fn start(options: &PostfixOptions) -> Postfix {
        Postfix::start_with(options, "")
    }

    /// The same with more services, lines of `master.cf`.
    pub fn start_with(options: &PostfixOptions, services: &str) -> Postfix {
        need("postfix", "postfix");
        let directory = open_directory();
        Account::of_postfix().make_queue(directory.path());
        let main = directory.path().join("etc/main.cf");
        write(&main, main_cf(directory.path(), options));
        // Each Postfix program reads a main.cf that is younger than two seconds again and again,
        // lest somebody is still writing it.
        age(&main);
        let mut postfix = Postfix {
            directory,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            services: services.to_owned(),
            log: Log::default(),
            running: None,
        };
        // A port that was free may be taken by now.
        let started = (0..10).any(|_| {
            postfix.address.set_port(free_port());
            postfix.try_start()
        });
        assert!(started, "Postfix does not start\n{}", postfix.log.text());
        postfix
    }

    /// Where it takes mail by SMTP.
    pub fn smtp_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits for a log line that holds this text, and gives it.
    pub fn wait_for_log(&self, text: &str) -> String {
        let line = self.log.wait_for(0, PATIENCE, |line| {
            line.contains(text).then(|| line.to_owned())
        });
        line.unwrap_or_else(|why| panic!("no {text:?} in Postfix's log ({why:?})\n{}", self.log()))
    }

    /// Hands it a message as a local program does, by `sendmail`: past SMTP, not past the milter.
    pub fn submit(&self, from: &str, to: &str, message: &str) {
        let mut child = self
            .tool("sendmail")
            .args(["-f", from, to])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sendmail is a program of Postfix");
        let mut input = child.stdin.take().expect("it was piped");
        std::io::Write::write_all(&mut input, message.as_bytes()).expect("sendmail reads it all");
        drop(input);
        let status = child.wait().expect("it is our child");
        assert!(status.success(), "sendmail: {status}");
    }

    /// How many messages are in its queue.
    pub fn queue_length(&self) -> usize {
        self.queue(|_| true)
    }

    /// How many messages wait there for another attempt.
    pub fn deferred(&self) -> usize {
        self.queue(|line| line.contains(r#""queue_name": "deferred""#))
    }

    fn queue(&self, counts: impl Fn(&str) -> bool) -> usize {
        let list = super::run(self.tool("postqueue").arg("-j"));
        let list = String::from_utf8_lossy(&list.stdout);
        list.lines().filter(|line| counts(line)).count()
    }

    /// Has it try all waiting messages at once.
    pub fn flush(&self) {
        super::run(self.tool("postqueue").arg("-f"));
    }

    /// Stops it; its port refuses connections from then on.
    pub fn stop(&mut self) {
        if let Some(mut master) = self.running.take() {
            master.terminate();
        }
    }

    /// Ends it, all its processes, as a power cut would end it.
    pub fn kill9(&mut self) {
        if let Some(mut master) = self.running.take() {
            // Those who are left would hold the port for as long as they have a client.
            master.kill_group();
        }
    }

    /// Ends one of its processes by its name (`smtpd`, `cleanup`, `qmgr`), the one that `choose`
    /// picks of so many, and tells whether there was one. The master starts another when it is
    /// needed.
    pub fn kill_one(&self, name: &str, choose: impl FnOnce(usize) -> usize) -> bool {
        let master = self.running.as_ref().expect("Postfix runs").id();
        let mut processes = children(master);
        processes.retain(|(_, of)| of == name);
        if processes.is_empty() {
            return false;
        }
        let (process, _) = processes[choose(processes.len())];
        signal_process(process, "KILL");
        true
    }

    /// Starts it again where it was, on the same queue.
    pub fn restart(&mut self) {
        self.kill9();
        let started = (0..20).any(|_| self.try_start());
        assert!(started, "Postfix does not start again\n{}", self.log.text());
    }

    /// One of Postfix's commands, for this instance.
    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(need(program, "postfix"));
        command.env("MAIL_CONFIG", self.directory.path().join("etc"));
        command
    }

    fn try_start(&mut self) -> bool {
        let etc = self.directory.path().join("etc");
        write(
            &etc.join("master.cf"),
            master_cf(self.address, &self.services),
        );
        let from = self.log.length();
        // `postfix start` is a chain of scripts that check, sleep and detach; its one lasting act
        // is to start this master.
        let master = Program::start(
            "Postfix's master",
            Command::new(format!("{DAEMONS}/master"))
                .args(["-d", "-c"])
                .arg(&etc),
            &self.log,
        );
        let up = self.log.wait_for(from, PATIENCE, |line| {
            let up = line.contains("daemon started");
            // Written through the log service, which lives until the pipe is read to its end.
            let down = line.contains("fatal:");
            (up || down).then_some(up)
        });
        let up = up == Ok(true);
        self.running = up.then_some(master);
        up
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The numbers of Postfix's user and groups on this machine.
struct Account {
    user: u32,
    group: u32,
    submission_group: u32,
}

impl Account {
    fn of_postfix() -> Account {
        Account {
            user: number("/etc/passwd", "postfix"),
            group: number("/etc/group", "postfix"),
            submission_group: number("/etc/group", "postdrop"),
        }
    }

    /// Makes the directories that `postfix check` would make, with the owners it would give them.
    fn make_queue(&self, root: &Path) {
        for directory in ["etc", "spool", "spool/pid"] {
            make(&root.join(directory), 0o755, None);
        }
        make(&root.join("data"), 0o700, Some((self.user, self.group)));
        for queue in [
            "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming",
            "private", "saved", "trace",
        ] {
            let directory = root.join("spool").join(queue);
            make(&directory, 0o700, Some((self.user, 0)));
        }
        let shared = Some((self.user, self.submission_group));
        make(&root.join("spool/maildrop"), 0o730, shared);
        make(&root.join("spool/public"), 0o710, shared);
    }
}

/// Makes a directory with these permissions and, where given, this user and group.
fn make(directory: &Path, mode: u32, owner: Option<(u32, u32)>) {
    let made = std::fs::create_dir(directory).and_then(|()| match owner {
        Some((user, group)) => std::os::unix::fs::chown(directory, Some(user), Some(group)),
        None => Ok(()),
    });
    made.unwrap_or_else(|error| {
        panic!(
            "cannot make {} as Postfix wants it: {error}; Postfix runs only for root, \
             and so do the tests that use it: `tests/run` takes care of that",
            directory.display()
        )
    });
    set_mode(directory, mode);
}

/// Makes a file look as if it had been written a minute ago.
fn age(file: &Path) {
    (File::options().write(true).open(file))
        .and_then(|file| file.set_modified(SystemTime::now() - Duration::from_secs(60)))
        .expect("the file was just written");
}

/// The number of a user or group, from the third field of its line in this file.
fn number(file: &str, name: &str) -> u32 {
    let table = std::fs::read_to_string(file).expect("every Debian machine has it");
    table
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .and_then(|fields| fields.get(2)?.parse().ok())
        .unwrap_or_else(|| panic!("{file} has no {name}; the Debian package `postfix` makes it"))
}

fn main_cf(root: &Path, options: &PostfixOptions) -> String {
    let root = root.display();
    let sink = options.deliver_to;
    let mut lines = vec![
        "compatibility_level = 3.6".to_owned(),
        format!("queue_directory = {root}/spool"),
        format!("data_directory = {root}/data"),
        "command_directory = /usr/sbin".to_owned(),
        format!("daemon_directory = {DAEMONS}"),
        "shlib_directory = /usr/lib/postfix".to_owned(),
        "meta_directory = /etc/postfix".to_owned(),
        "maillog_file = /dev/stdout".to_owned(),
        format!("myhostname = mx.{DOMAIN}"),
        format!("myorigin = {DOMAIN}"),
        "mydestination =".to_owned(),
        "alias_maps =".to_owned(),
        "alias_database =".to_owned(),
        // Listeners stand in master.cf: here another loopback address than 127.0.0.1 is fatal.
        "inet_interfaces = 127.0.0.1".to_owned(),
        "inet_protocols = ipv4".to_owned(),
        "mynetworks = 127.0.0.0/8".to_owned(),
        "smtpd_relay_restrictions = permit_mynetworks, reject".to_owned(),
        format!("relayhost = [{}]:{}", sink.ip(), sink.port()),
        // No name is ever looked up: the machine may have no DNS.
        "smtp_dns_support_level = disabled".to_owned(),
        "smtpd_peername_lookup = no".to_owned(),
        "message_size_limit = 52428800".to_owned(),
        "smtpd_client_connection_count_limit = 0".to_owned(),
        "smtpd_client_connection_rate_limit = 0".to_owned(),
        // A deferred message is tried again while the test still looks.
        "minimal_backoff_time = 1s".to_owned(),
        "queue_run_delay = 1s".to_owned(),
    ];
    if let Some(milter) = &options.milter {
        lines.extend([
            format!("smtpd_milters = {milter}"),
            // Without it sendmail(1) would go past the hook.
            format!("non_smtpd_milters = {milter}"),
            "milter_default_action = tempfail".to_owned(),
            "milter_connect_macros = \
             j {daemon_name} {daemon_addr} v _ {client_addr} {client_name} {client_port}"
                .to_owned(),
        ]);
    }
    // A setting that stands there twice is a warning of every program, and more than a few at once
    // are lost, and with them the line that says that all is up.
    let name = |line: &str| line.split('=').next().unwrap_or(line).trim().to_owned();
    let extra: Vec<String> = options.extra.iter().map(|line| name(line)).collect();
    lines.retain(|line| !extra.contains(&name(line)));
    lines.extend(options.extra.iter().cloned());
    lines.join("\n") + "\n"
}

fn master_cf(address: SocketAddr, services: &str) -> String {
    format!(
        "{address} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
{services}
"
    )
}
