//! Real peers for the integration tests: OpenLDAP, Active Directory (by Samba), Postfix and its
//! sink, and the `copyist` binary.
//!
//! Promises: everything runs in temporary directories and on ports that were free a moment ago, so
//! that tests run beside each other and beside a machine's own services; a peer is ready when its
//! `start` returns; whatever was started here ends when its value is dropped.
//!
//! Fails by panicking, and loudly: a test whose peers are missing has not passed. `tests/run`
//! installs what is needed.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test program compiles the whole lab and uses a part of it"
)]

/// Makes each claim, a function of the directory server, about OpenLDAP and about Active Directory.
#[allow(unused_macros, reason = "not every test program is about directories")]
macro_rules! on_both_directories {
    (async $($claim:ident,)*) => {
        on_both_directories!(@modules (#[tokio::test] async) (.await) $($claim,)*);
    };
    ($($claim:ident,)*) => {
        on_both_directories!(@modules (#[test]) () $($claim,)*);
    };
    (@modules $head:tt $tail:tt $($claim:ident,)*) => {
        mod on_openldap {
            $(on_both_directories!(@test Slapd $head $tail $claim);)*
        }
        mod on_active_directory {
            $(on_both_directories!(@test Samba $head $tail $claim);)*
        }
    };
    (@test $server:ident ($($head:tt)*) ($($tail:tt)*) $claim:ident) => {
        $($head)* fn $claim() {
            super::$claim::<super::lab::$server>() $($tail)*;
        }
    };
}

mod books;
mod certificates;
mod chance;
mod client;
mod copyist;
mod disk;
mod fault_proxy;
mod guard;
mod listener;
mod next_hop;
mod postfix;
mod process;
mod samba;
mod server;
mod site;
mod slapd;
mod smtp;
mod traffic;
mod unpacked;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub use books::{Account, Books};
pub use certificates::{CertificateProblem, Certificates};
pub use chance::Chance;
pub use client::{Client, Reply, SendOutcome, connect};
pub use copyist::Copyist;
pub use disk::{Disk, Sshfs};
pub use fault_proxy::{Fault, FaultProxy};
pub use guard::{is_guarded, try_is_guarded};
pub use listener::{ListenerOptions, ListenerSite};
pub use next_hop::{AcceptedMessage, NextHop, ServerBehavior};
pub use postfix::{Postfix, PostfixOptions};
pub use process::{Log, Program, WaitError, children, signal_process};
pub use samba::Samba;
pub use server::{Access, DirectoryServer, every_third};
pub use site::{FaultProxies, INSIDE, OUTSIDE, Report, Site, SiteOptions, message, user};
pub use slapd::Slapd;
pub use smtp::{Load, SmtpSink, smtp_source};
pub use traffic::{Attempt, Outcome, Rate, Traffic};
pub use unpacked::{Ports, Unpacked};

/// How long the lab waits for anything before it calls the test failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The domain that is "ours" in the tests.
pub const DOMAIN: &str = "example.test";

/// Below the range from which the system takes ports for clients: a peer that is stopped must find
/// its port free when it starts again, while clients come and go.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port on 127.0.0.1 that nothing listens on, and that this test program was not given before.
///
/// Another program may take it before it is used; whoever starts a peer on it tries again then.
pub fn free_port() -> u16 {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().expect("no test panics while it holds this");
    let mut port = next.unwrap_or_else(|| {
        // Test programs that run beside each other begin at different places.
        let spread = std::process::id() as usize * 613 % PORTS.len();
        PORTS.start + u16::try_from(spread).expect("it is less than the number of ports")
    });
    for _ in PORTS {
        let candidate = port;
        port = if port + 1 < PORTS.end {
            port + 1
        } else {
            PORTS.start
        };
        if TcpListener::bind(("127.0.0.1", candidate)).is_ok() {
            *next = Some(port);
            return candidate;
        }
    }
    panic!("127.0.0.1 has no free port in {PORTS:?}")
}

/// Waits until a connection to this port of 127.0.0.1 succeeds, for peers that do not say when they
/// listen. They see it as a connection that says nothing.
pub fn wait_for_listener(port: u16) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            Instant::now() < deadline,
            "nothing listens on port {port} after {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The path of a program of a Debian package; panics with both names where it is missing.
pub fn need(program: &str, package: &str) -> PathBuf {
    // Debian keeps servers in sbin, which is not on everybody's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!(
                "this test needs `{program}` from the Debian package `{package}`; \
                 `tests/run` installs all that the tests need"
            )
        })
}

/// Runs a command that may fail, and gives whether it did not.
fn succeeds(command: &mut Command) -> bool {
    let output = command.output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs a command that must succeed; panics with all that it said otherwise.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// Waits until something is so, which nobody tells: it is looked at again and again.
pub fn wait(what: &str, patience: Duration, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not after {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A setting of a long proof: what the environment says, or this.
pub fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => (text.parse()).unwrap_or_else(|_| panic!("{name}={text} cannot be read")),
        Err(_) => default,
    }
}

/// Writes a file of a peer.
pub fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// A temporary directory that other users (Postfix's) may enter.
pub fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("the system has a temporary directory");
    set_mode(directory.path(), 0o755);
    directory
}

/// Sets the permissions of a file or directory of a peer.
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("cannot chmod {}: {error}", path.display()));
}

/// Whether the tests run as root: this process's own entry in /proc belongs to its effective user.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Somebody who acts on the queue.
pub fn postmaster() -> ::copyist::spool::Operator {
    ::copyist::spool::Operator {
        user: "postmaster".into(),
        uid: Some(1000),
        address: None,
    }
}
